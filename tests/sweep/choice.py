"""Which strikes are worth a run: of points that were passed in each of some runs without any, one a batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.sweep import points
from tests.sweep.wires import AFTER, BEFORE, Strike

#: Lines of a log of the wires, as `Site.passed` gives them.
Passed = Sequence[Mapping[str, Any]]


class Place(NamedTuple):
    """A point on its wire, at one of the times that it was passed."""

    wire: str
    at: str
    name: str
    nth: int


def places(passed: Passed, kinds: Iterable[str] = (points.STATE,)) -> set[Place]:
    """All points of these kinds."""
    wanted = set(kinds)
    return {place for line in passed for kind, place in _places_of(line) if kind in wanted}


def _places_of(line: Mapping[str, Any]) -> Iterator[tuple[str, Place]]:
    for kind, name, count in line.get("points", ()):
        yield kind, Place(line["wire"], line["at"], name, count)


def strikes(runs: Sequence[Passed], begin: int = 0, kinds: Iterable[str] = (points.STATE,)) -> list[Strike]:
    """Two for each batch of the first run from its line `begin` on, before and after it; by a point that all runs have passed.

    Of such points the one that has come least often by then is taken: how often something is done again is what differs between runs. A
    batch of which no point is in all runs is left out.
    """
    wanted = set(kinds)
    common = set.intersection(*(places(run, wanted) for run in runs))
    found: dict[Place, None] = {}
    for line in runs[0][begin:]:
        known = [place for kind, place in _places_of(line) if kind in wanted and place in common]
        if known:
            found[min(known, key=lambda place: place.nth)] = None
    return [Strike(p.wire, p.name, p.at, p.nth, when) for p in found for when in (BEFORE, AFTER)]
