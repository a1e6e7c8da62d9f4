"""What the acceptance run tells at its end: each line of the specification, what was done for it, what was seen, and whether it passed.

A test is marked with the lines that it stands for, and says in its course what it does and what it has measured:

    @pytest.mark.line("Testing 4", "CSIT 3", of="NAT")
    def test_...(told: Told) -> None:
        told.did("start a, which has the NAT")
        told.saw(f"{report.sent()} probes, {report.lost()} lost")
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple

#: The lines of the specification's two lists, in a few words each, in its order; and its worked example.
LINES = {
    "Testing 1": "scale out: its VMs reach inter and intra compute VMs",
    "Testing 2": "scale in: flows are removed, services continue",
    "Testing 3": "scale in: inventory and topology datastores are clean",
    "Testing 4": "a designated compute is scaled in, its service works on",
    "Testing 5": "what is made during a scale-in chooses none of its computes",
    "Testing 6": "recovery: the compute gets its relevant flows",
    "Testing 7": "designated and nobody else can be, scaled in: all is deleted",
    "Testing 8": "designated and nobody else can be, recovered: all is recovered",
    "CSIT 1": "scale out: its VMs reach inter and intra compute VMs",
    "CSIT 2": "scale in: flows are removed, services continue",
    "CSIT 3": "a designated compute is scaled in, its service works on",
    "CSIT 4": "recovery: the compute gets its relevant flows",
    "Example": "start A, B, C; B cannot be emptied; end A, C; recover B",
}
_HEAD = ("line of the specification", "done", "seen", "")
_WIDTHS, _GAP = (27, 44, 57, 6), "  "


class Told:
    """What a test does and sees, said as it goes: what it has not come to is not said."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.seen: list[str] = []

    def did(self, what: str) -> None:
        """What is done next."""
        self.done.append(what)

    def saw(self, what: str) -> None:
        """What was measured, with its figures; said after it was asserted."""
        self.seen.append(what)


class Entry(NamedTuple):
    """One test's part of the table. `of`: the service that it is about, where a line has several."""

    lines: tuple[str, ...]
    of: str
    done: tuple[str, ...]
    seen: tuple[str, ...]
    passed: bool


def table(entries: Iterable[Entry]) -> list[str]:
    """The table, one text line each, 140 columns at most. A line of the specification that no test stood for has not passed."""
    found = list(entries)
    text = [*_row(_HEAD), *_row(tuple("-" * width for width in _WIDTHS))]
    for line, words in LINES.items():
        own = sorted((entry for entry in found if entry.lines[0] == line), key=lambda entry: (entry.of, entry.done))
        others = [entry for entry in found if line in entry.lines[1:]]
        for entry in own:
            name = f"{line}{' ' * bool(entry.of)}{entry.of}: {words}"
            text += _row((name, _list(entry.done), _list(entry.seen), "pass" if entry.passed else "FAIL"))
        if not own:
            same = ", ".join(dict.fromkeys(entry.lines[0] for entry in others))
            word = ("pass" if all(e.passed for e in others) else "FAIL") if others else "no run"
            text += _row((f"{line}: {words}", f"what {same} did, in the same words" if others else "", "", word))
    return text


def _list(parts: tuple[str, ...]) -> str:
    return "\n".join(parts)


def _row(cells: tuple[str, ...]) -> list[str]:
    columns = [
        [x for part in cell.split("\n") for x in textwrap.wrap(part, width, subsequent_indent=" ")] or [""]
        for cell, width in zip(cells, _WIDTHS, strict=True)
    ]
    height = max(map(len, columns))
    filled = [column + [""] * (height - len(column)) for column in columns]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(each, _WIDTHS, strict=True)).rstrip()
        for each in zip(*filled, strict=True)
    ]
