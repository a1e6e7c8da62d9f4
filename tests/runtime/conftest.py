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


@pytest.fixture
def trio(cloud: Cloud) -> Cloud:
    """a, b, c; one network with a VM on each."""
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud
