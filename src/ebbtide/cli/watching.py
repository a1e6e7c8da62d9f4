"""An operation as it goes on: bars and what is waited for on a terminal, a line a change for pipes, JSON lines for scripts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from ebbtide.cli import render
from ebbtide.cli.client import Answered, segment
from ebbtide.cli.session import Session
from ebbtide.errors import NotFound, NotReady, StillWorking

#: Exit codes of what is over.
PARTIAL, FAILED, ABORTED = 11, 12, 13
CODES = {"done": 0, "partial": PARTIAL, "failed": FAILED, "aborted": ABORTED}
#: Seconds between two looks, and for which a controller that does not answer (it restarts) is asked again.
_LOOK, _PATIENCE = 0.5, 60.0
_OPEN = ("running", "aborting")
_LISTED = 12
#: How a part of the reason of a compute ends that counts items which are not over.
_TO_GO = " to go"
_BAR = 24


def exit_code(operation: dict[str, Any]) -> int:
    """What a script is told."""
    return CODES.get(operation["state"], StillWorking.exit_code)


def watch(session: Session, operation_id: str) -> int:
    """Show an operation until it is over; its exit code. Interrupted: the operation goes on."""
    looks = _looks(session, operation_id)
    try:
        return _shown(session, looks, operation_id)
    except KeyboardInterrupt:
        told = f"it goes on: `ebbtide operation watch {operation_id}`, `ebbtide operation abort {operation_id}`"
        click.echo(f"\n{told}", err=True)
        raise


def _shown(session: Session, looks: Iterator[dict[str, Any]], operation_id: str) -> int:
    if session.json:
        return _as_lines(looks, lambda told: click.echo(json.dumps(told, ensure_ascii=False)))
    if sys.stdout.isatty():
        return _live(looks)
    render.line(f"operation {operation_id}")
    return _as_lines(looks, _Changes().show)


def _looks(session: Session, operation_id: str) -> Iterator[dict[str, Any]]:
    silent_since: float | None = None
    seen = False
    while True:
        try:
            told = session.client.get(f"/operations/{segment(operation_id)}")
        except (NotReady, Answered) as error:
            if not _comes_back(error) and not (seen and error.exit_code == NotFound.exit_code):
                raise
            silent_since = silent_since if silent_since is not None else time.monotonic()
            if time.monotonic() - silent_since > _PATIENCE:
                raise NotReady(
                    f"{error}; the operation goes on as soon as a controller does: `ebbtide operation watch {operation_id}`"
                ) from None
        else:
            silent_since, seen = None, True
            yield told
            if told["state"] not in _OPEN:
                return
        time.sleep(_LOOK)


def _comes_back(error: Exception) -> bool:
    """Whether it is a controller that restarts, or waits for its store."""
    return isinstance(error, NotReady) or (isinstance(error, Answered) and error.exit_code == NotReady.exit_code)


def _as_lines(looks: Iterator[dict[str, Any]], show: Callable[[dict[str, Any]], None]) -> int:
    last: dict[str, Any] = {}
    for told in looks:
        if told != last:
            show(told)
            last = told
    return exit_code(last)


class _Changes:
    """What has changed since the last look, a line each."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], tuple[str, str]] = {}
        self._said = ""

    def show(self, told: dict[str, Any]) -> None:
        for item in told["items"]:
            key = item["kind"], item["object"], item["compute"]
            # What is still to go of a compute is told once: the rest is counted by its items. What else keeps it is told.
            counted = item["kind"] == "compute" and item["state"] == "moving"
            parts = [part for part in item["reason"].split("; ") if not (counted and part.endswith(_TO_GO))]
            now = item["state"], "; ".join(parts)
            if self._known.get(key) != now and (parts or not counted or self._known.get(key, ("", ""))[0] != now[0]):
                render.line(item_text(item))
            self._known[key] = now
        said = f"{told['state']}: {told['reason']}"
        if said != self._said and told["state"] not in _OPEN:
            render.line(said)
        self._said = said


def item_text(item: dict[str, Any]) -> str:
    """An item on one line."""
    where = "" if item["kind"] == "compute" else f" ({item['compute']})"
    goes = f" -> {item['target']}" if item["target"] and item["state"] != "skipped" else ""
    took = f" in {item['took'] / 1000:.1f} s" if item["took"] and item["state"] == "done" else ""
    sessions = f", {render.counted(item['sessions'], 'session')}" if item.get("sessions") else ""
    phase = f", {item['phase']}" if item.get("phase") else ""
    reason = f": {item['reason']}" if item["reason"] else ""
    return f"{item['kind']} {item['object']}{where}{goes} {item['state']}{took}{phase}{sessions}{reason}"


def bars(told: dict[str, Any]) -> list[tuple[str, str, int, int, str]]:
    """Of each compute: its name, its state, how many of its items are over, of how many, and what it waits for."""
    found = []
    for item in told["items"]:
        if item["kind"] != "compute":
            continue
        mine = [i for i in told["items"] if i["kind"] != "compute" and i["compute"] == item["object"]]
        over = sum(i["state"] in ("done", "skipped") for i in mine)
        done = item["state"] == "done"
        # Its own end is one more thing to be done.
        found.append((item["object"], item["state"], over + done, len(mine) + 1, item["reason"]))
    return found


def _live(looks: Iterator[dict[str, Any]]) -> int:
    from rich.console import Console
    from rich.live import Live

    told: dict[str, Any] = {}
    console = Console()
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for told in looks:
            live.update(_picture(told), refresh=True)
    return exit_code(told)


def _picture(told: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = Table.grid(padding=(0, 1))
    for name, state, over, every, reason in bars(told):
        filled = _BAR * over // every
        style = {"done": "green", "failed": "red", "skipped": "yellow"}.get(state, "cyan")
        bar = Text("█" * filled, style=style) + Text("░" * (_BAR - filled), style="dim")
        rows.add_row(
            Text(render.clean(name), style="bold"),
            bar,
            f"{over}/{every}",
            Text(state, style=style),
            render.clean(reason),
        )
    going = [i for i in told["items"] if i["kind"] != "compute" and i["state"] in ("moving", "failed", "pending")]
    going.sort(key=lambda i: ("failed", "moving", "pending").index(i["state"]))
    lines = [
        Text("  " + render.clean(item_text(i)), style="red" if i["state"] == "failed" else "") for i in going[:_LISTED]
    ]
    if len(going) > _LISTED:
        lines.append(Text(f"  and {len(going) - _LISTED} more", style="dim"))
    head = Text(f"{told['verb']} {told['id']}: {told['state']}", style="bold")
    return Group(head, rows, *lines, Text(render.clean(told["reason"])))
