from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import told as telling
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


# --- the table at the end ---


@pytest.fixture
def told(request: pytest.FixtureRequest) -> telling.Told:
    """What this test does and sees, for the table at the end of the run."""
    made = telling.Told()
    # By reference: the report takes what is in there when the test is over, however it ends.
    request.node.user_properties += [("done", made.done), ("seen", made.seen)]
    return made


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "line(*lines, of=''): the lines of the specification that this test stands for")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("line")
        if marker is not None:
            item.user_properties += [("lines", list(marker.args)), ("of", marker.kwargs.get("of", ""))]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table, of whatever has run here: also where tests run in processes of their own, whose reports come back."""
    reports = [r for kind in ("passed", "failed", "error") for r in terminalreporter.stats.get(kind, [])]
    failed = {r.nodeid for r in reports if r.failed}
    found = {}
    for report in reports:
        properties = dict(report.user_properties)
        if "lines" in properties and (report.when == "call" or report.failed):
            done, seen = properties.get("done", ()), properties.get("seen", ())
            passed = report.nodeid not in failed
            found[report.nodeid] = telling.Entry(
                tuple(properties["lines"]), properties["of"], tuple(done), tuple(seen), passed
            )
    if found:
        terminalreporter.section("the specification, line by line")
        for text in telling.table(found.values()):
            terminalreporter.write_line(text)
