"""How answers look: JSON, a table on a terminal (rich, imported then), or aligned plain text for pipes.

Text that comes from the cluster is cleaned of control characters: a compute's name must not move anybody's cursor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

_STYLES = {
    "ready": "green",
    "accepted": "green",
    "done": "green",
    "up": "green",
    "already so": "cyan",
    "refused": "bold red",
    "failed": "bold red",
    "residue": "bold red",
    "killed": "bold red",
    "missing": "red",
    "unexpected": "red",
    "unreachable": "red",
    "braked": "yellow",
    "foreign": "yellow",
    "waiting": "yellow",
    "quarantined": "yellow",
    "running": "yellow",
    "aborting": "yellow",
    "aborted": "yellow",
    "partial": "yellow",
    "tombstoned": "yellow",
}
_MOST = 3


def clean(value: object) -> str:
    """A value as text of one line, without control characters."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(clean(part) for part in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{clean(k)}={clean(v)}" for k, v in value.items())
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def some(values: Sequence[object], most: int = _MOST) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(clean(v) for v in values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def counted(number: int, noun: str) -> str:
    """`1 compute`, `2 computes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def instant(seconds: int) -> str:
    """A time in seconds since the epoch, for people; "" for 0."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if seconds else ""


def as_json(value: object) -> None:
    """JSON for scripts, and for people who look at it."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def line(text: str) -> None:
    """A line for people."""
    click.echo(clean(text))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str = "none") -> None:
    """Rows under column names; `empty` is said where there are none."""
    if not rows:
        click.echo(empty)
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    kept = [i for i in range(len(columns)) if any(row[i] for row in cells)]
    columns, cells = [columns[i] for i in kept], [[row[i] for i in kept] for row in cells]
    if sys.stdout.isatty():
        _rich(columns, cells)
    else:
        click.echo(plain(columns, cells), nl=False)


def plain(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Aligned text: nothing cut off, no colours."""
    lines = [[c.upper() for c in columns], *cells]
    widths = [max(len(row[i]) for row in lines) for i in range(len(columns))]
    return "".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in lines)


def _rich(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in cells:
        made.add_row(*(Text(cell, style=_STYLES.get(cell.split(",")[0], "")) for cell in row))
    Console().print(made)


def facts(found: Mapping[str, Any]) -> None:
    """Names and values, one a line; what is empty is left out, and what is in a group stands on its own."""
    flat: dict[str, Any] = {}
    for name, value in found.items():
        flat.update(value if isinstance(value, Mapping) else {name: value})
    shown = {k: v for k, v in flat.items() if v not in (None, "", [], {})}
    width = max((len(k) for k in shown), default=0)
    for name, value in shown.items():
        click.echo(f"{clean(name):<{width}}  {clean(value)}")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Something that takes a while: shown on a terminal's standard error, and gone after."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
