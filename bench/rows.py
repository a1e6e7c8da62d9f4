"""What a benchmark gives: rows; how they are printed and written down."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

OUT = Path(__file__).parent / "out" / "results.json"


class Row(msgspec.Struct, frozen=True):
    """One result. `reference` None: nothing to compare with; then `limit` is for `ours` itself, else for the ratio.

    `absolute`: the limit is for `ours` itself all the same. `limit` None: printed for information. `note` says why nothing could be
    measured (`ours` None), or what else is to be known.
    """

    name: str
    ours: float | None
    unit: str
    reference: float | None = None
    limit: float | None = None
    note: str = ""
    absolute: bool = False

    @property
    def ratio(self) -> float | None:
        """Ours over the reference."""
        return self.ours / self.reference if self.ours is not None and self.reference else None

    @property
    def passed(self) -> bool | None:
        """Whether the limit holds; None where there is no limit. What could not be measured has not passed."""
        if self.limit is None:
            return None
        value = self.ours if self.absolute or self.reference is None else self.ratio
        return value is not None and value <= self.limit

    def plain(self) -> dict[str, object]:
        """For results.json."""
        numbers = {"ours": self.ours, "reference": self.reference, "ratio": self.ratio, "limit": self.limit}
        rounded = {key: None if value is None else round(value, 4) for key, value in numbers.items()}
        return {"name": self.name, **rounded, "unit": self.unit, "passed": self.passed, "note": self.note}


class Options(msgspec.Struct, frozen=True):
    """How to run. `quick`: fewer repetitions and smaller sizes."""

    quick: bool = False


Bench = Callable[[Options], Iterable[Row]]


def say(text: str) -> None:
    """Progress, for who waits."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(list(values))


def spread(values: Sequence[float], scale: float = 1.0, unit: str = "") -> str:
    """How far apart the single values were."""
    return f"{len(values)} runs, {min(values) * scale:.3g} to {max(values) * scale:.3g}{unit}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def print_table(rows: Sequence[Row]) -> None:
    """All rows, and below them what is to be known of each."""
    width = max((len(r.name) for r in rows), default=10)
    print(f"{'':<{width}}  {'ours':>9} {'reference':>9} {'unit':<8}{'ratio':>7} {'limit':>7}")
    for row in rows:
        verdict = {True: "ok", False: "FAILED", None: ""}[row.passed]
        cells = f"{_number(row.ours):>9} {_number(row.reference):>9} {row.unit:<8}{_number(row.ratio):>7}"
        print(f"{row.name:<{width}}  {cells} {_number(row.limit):>7} {verdict}")
    notes = [row for row in rows if row.note]
    if notes:
        print("\nNotes")
    for row in notes:
        print(f"  {row.name}: {row.note}")


def write(rows: Sequence[Row]) -> None:
    """bench/out/results.json; rows of an earlier run that were not measured now are not kept."""
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([row.plain() for row in rows], indent=1) + "\n")
