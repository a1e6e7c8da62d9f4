from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import Cloud

_numbers = itertools.count()


@pytest.fixture
def make_cloud(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    made: list[Cloud] = []

    def make(**settings: Any) -> Cloud:
        number = next(_numbers)
        cloud = Cloud(f"r{os.getpid()}_{number}", tmp_path / f"cloud{number}", **settings)
        made.append(cloud)
        return cloud

    yield make
    for cloud in made:
        cloud.down()


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud()
