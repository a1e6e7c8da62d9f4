"""What all tests share: golden files, how long Hypothesis may search, and who runs beside whom.

Tests on switches wait more than they compute, and may not be kept waiting for a processor; the others compute. So of those on switches two
run at a time (`--places`: more, of those that do little but wait), in whichever of the processes, and the others fill what is left, spread
evenly among them. What measures how fast packets or answers come while a whole cloud is busy is marked `alone`, and takes all places.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, settings

from ebbtide.runtime import link

GOLDEN = Path(__file__).parent / "golden"

#: A file for each place on the machine, to be locked by the test that has it: tests on switches that run at a time.
PLACES = sorted((Path(__file__).parent / "support").glob("*.py"))

# Machines differ: an example may take its time, the number of examples is what is bounded.
settings.register_profile("ebbtide", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("ebbtide")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regen-golden", action="store_true", help="write the golden files anew instead of comparing them"
    )
    parser.addoption(
        "--places", type=int, choices=range(1, len(PLACES) + 1), default=2, help="tests on switches that run at a time"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on switches in parts as xdist hands them out, the largest first; the others spread among them."""
    parts: dict[str, list[pytest.Item]] = defaultdict(list)
    others = []
    for item in items:
        group = item.get_closest_marker("xdist_group")
        if _on_switches(item):
            parts[group.args[0] if group is not None else item.nodeid].append(item)
        else:
            others.append(item)
    ordered: list[pytest.Item] = []
    waiting = sorted(parts.values(), key=len, reverse=True)
    for number, part in enumerate(waiting, 1):
        ordered += part
        ordered += others[len(others) * (number - 1) // len(waiting) : len(others) * number // len(waiting)]
    items[:] = ordered or others


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Wait for a place on the machine, before the time of a test begins to count."""
    if "PYTEST_XDIST_WORKER" not in os.environ or not _on_switches(item):
        return (yield)
    with _places(item.config.getoption("--places"), alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _on_switches(item: pytest.Item) -> bool:
    return item.get_closest_marker("lab") is not None


@contextmanager
def _places(count: int, *, alone: bool) -> Iterator[None]:
    """One of so many places, or all of them, given back whatever becomes of this process."""
    files = [path.open() for path in PLACES[:count]]
    try:
        if alone:
            for file in files:  # in this order, whoever asks: two that want all do not wait for each other
                fcntl.flock(file, fcntl.LOCK_EX)
        elif not any(map(_taken, files)):
            fcntl.flock(random.choice(files), fcntl.LOCK_EX)
        yield
    finally:
        for file in files:
            file.close()


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def impatience() -> Iterator[None]:
    """That a session is silent is found out sooner than in earnest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "PROBE", 2.0)
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the golden file of this name, or write the file with `--regen-golden`."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regen-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.read_text() == text, f"{name} differs; `pytest --regen-golden` writes it anew if that is meant"

    return check
