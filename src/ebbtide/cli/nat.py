"""`ebbtide nat ...`: the connections that go through a router's NAT."""

from __future__ import annotations

from typing import Any

import click

from ebbtide.cli import render
from ebbtide.cli.client import segment
from ebbtide.cli.session import Session, client_verb, known_moving, known_routers
from ebbtide.cli.tree import NounGroup


@click.group("nat", cls=NounGroup)
def nat() -> None:
    """Connections through a router's NAT, and what a move of it waits for.

    \b
    Examples:
      ebbtide nat sessions r1
      ebbtide nat deadline r1 600
    """


@nat.command("sessions")
@click.argument("name", metavar="ROUTER", shell_complete=known_routers)
@click.option("--limit", type=click.IntRange(1, 1000), metavar="N", help="List so many connections, the oldest first.")
@click.option("--after", metavar="PLACE", help="Go on with the list where a page ended.")
@client_verb
def sessions(session: Session, name: str, limit: int | None, after: str | None) -> None:
    """The connections of a router: how many, of which protocol, opened by whom, and of how many nothing is recorded.

    "opened" is what a compute's switch has counted since its flows are there, "received" what it told of that, "unknown" at most
    so many of which no record has come: some may be over. A move carries what is recorded or speaks; the rest it waits for.
    "other" is ICMP, which is never recorded. SCTP and other protocols are refused, and counted as packets.

    \b
    Examples:
      ebbtide nat sessions r1
      ebbtide nat sessions r1 --limit 100
      ebbtide nat sessions r1 --json
    """
    query = {"limit": str(limit or 100)} if limit or after else {}
    if after:
        query["after"] = after
    found = session.client.get(f"/nat/sessions/{segment(name)}", query)
    if session.json:
        render.as_json(found)
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    kept = "" if found["record"] else ", and no record is kept"
    render.line(f"{found['open']} open, {found['closed']} closed a moment ago, up to {found['unknown']} unknown{kept}")
    click.echo()
    columns = ("compute", "part", "tcp opened", "udp", "other", "received", "unknown", "rows", "remarks")
    render.table(columns, [_part(part) for part in found["computes"]], "nobody serves its NAT")
    refused = found["refused"]
    if refused and any(refused.values()):
        render.line(
            f"refused, and never carried: {refused['sctp']} packets of SCTP, {refused['other']} of other protocols"
        )
    if found["recorded"]:
        click.echo()
        rows = [(r["compute"], r["protocol"], r["open"], r["closed"]) for r in found["recorded"]]
        render.table(("opened by", "protocol", "open", "closed"), rows)
    if "connections" in found:
        click.echo()
        heads = ("", "source", "remote", "outside", "opened by", "age", "end")
        render.table(heads, [_connection(c, found["now"]) for c in found["connections"]], "no connections")
        if found["next"]:
            click.echo()
            render.line(f"more: --after {found['next']}")


def _part(part: dict[str, Any]) -> tuple[object, ...]:
    counts = part["opened"]
    if counts is None:
        return (part["compute"], part["part"], *("",) * 6, part["reason"])
    of_all = (counts["tcp"], counts["udp"], counts["other"])
    return (part["compute"], part["part"], *of_all, part["received"], part["unknown"], part["rows"], "")


def _connection(c: dict[str, Any], now: int) -> tuple[object, ...]:
    ends = (c["protocol"], c["source"], c["remote"], c["external"], c["compute"])
    return (*ends, _age(now - c["opened"]), _age(now - c["closed"]) if c["closed"] else "")


def _age(seconds: int) -> str:
    """The two largest units fit no table: one does."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


@nat.command("deadline")
@click.argument("name", metavar="ROUTER", shell_complete=known_moving)
@click.argument("seconds", type=click.FloatRange(min=0))
@client_verb
def deadline(session: Session, name: str, seconds: float) -> None:
    """How long, from now, a router's move waits for connections that are in no record; then they are cut. 0: now.

    \b
    Examples:
      ebbtide nat deadline r1 600
      ebbtide nat deadline r1 0
    """
    found = session.client.call("POST", f"/nat/deadline/{segment(name)}", {"seconds": seconds})
    if session.json:
        render.as_json(found)
        return
    move = found["move"]
    fields = {"router": found["router"], "moves": f"from {move['old']} to {move['new']}", "phase": move["phase"]}
    render.facts(fields | {"waits for": move["reason"], "deadline": render.instant(move["deadline"])})
