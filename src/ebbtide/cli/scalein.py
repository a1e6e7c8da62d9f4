"""`ebbtide scale-in ...`: take computes out, or back. Every call is all or nothing, and safe to repeat."""

from __future__ import annotations

import sys
from typing import Any

import click

from ebbtide.cli import render, verdicts
from ebbtide.cli.session import Session, client_verb, given, known_computes
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput, StillWorking

_IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=known_computes)
_WAIT = click.option(
    "--wait",
    "seconds",
    type=float,
    metavar="SECONDS",
    help="How long to wait for the proof (as the controller has it; 0: not).",
)
_SPARE_SECONDS = 30.0
_SERVERS_WAIT = 120.0


@click.group("scale-in", cls=NounGroup)
def scale_in() -> None:
    """Take computes out of the cluster, or back, without a packet lost.

    start marks them; then their VMs are moved away; end removes those that are empty, and proves that nothing of them is left;
    recover takes the mark away. All ids of a call are accepted, or none.

    \b
    Examples:
      ebbtide scale-in start c4 c5     mark both
      ebbtide scale-in status          what keeps them from being empty
      ebbtide scale-in end c4          c4 is empty: remove it
      ebbtide scale-in recover c5      keep c5 after all
    """


def _call(session: Session, verb: str, ids: tuple[str, ...], seconds: float | None, **more: float) -> None:
    body: dict[str, Any] = {"computes": list(ids), **more}
    if seconds is not None:
        body["wait"] = seconds
    patience = (_SERVERS_WAIT if seconds is None else seconds) + _SPARE_SECONDS
    with render.working(f"scale-in {verb}"):
        found = session.client.call("POST", f"/scale-in/{verb}", body, timeout=patience)
    answered: list[dict[str, Any]] = found.get("verdicts") or []
    if session.json:
        render.as_json(found)
    else:
        verdicts.show(answered)
        for operation in found.get("operations") or []:
            render.line(f"{operation['state']}: {operation['reason']}")
    code = verdicts.exit_code(answered)
    if code or not found.get("done", True):
        sys.exit(code or StillWorking.exit_code)


@scale_in.command("start")
@_IDS
@click.option("--plan", is_flag=True, help="Say what would become of which router, and touch nothing.")
@click.option(
    "--deadline",
    type=float,
    metavar="SECONDS",
    help="How long moves wait for connections that are in no record, before these are cut (as configured: nat_patience).",
)
@client_verb
def start(session: Session, ids: tuple[str, ...], plan: bool, deadline: float | None) -> None:
    """Mark computes as tombstoned: no new service comes to them, and what they serve moves.

    --deadline counts from now and holds for all moves from these computes, those under way too: the same call with another one changes
    it. For one router: `ebbtide nat deadline`.

    \b
    Examples:
      ebbtide scale-in start --plan c4 c5
      ebbtide scale-in start c4
      ebbtide scale-in start c4 c5 --deadline 600
      ebbtide scale-in start c4 c5 c6 --json
    """
    if plan and deadline is not None:
        raise BadInput("--plan and --deadline are two things: a plan waits for nothing")
    if not plan:
        _call(session, "start", ids, None, **given(deadline=deadline))
        return
    with render.working("scale-in start --plan"):
        found = session.client.call("POST", "/scale-in/plan", {"computes": list(ids)}, timeout=_SERVERS_WAIT)
    render.as_json(found) if session.json else _show_plan(found)


def _show_plan(found: dict[str, Any]) -> None:
    verdicts.show(found["verdicts"])
    click.echo()
    routers = found["routers"]
    heads = ("router", "from", "to", "how", "recorded", "unknown", "remarks")
    rows = [(*(r[k] for k in ("router", "old", "new", "how", "recorded", "unknown")), r["reason"]) for r in routers]
    render.table(heads, rows, "no router's NAT is there")
    for r in routers:
        render.line(f"{r['router']}: {'; '.join(r['why'])}")
    unproven: dict[str, list[str]] = {}
    for r in routers:
        if not r["nat-move-proven"] and r["how"] == "moves":
            unproven.setdefault(r["nat-move"], []).append(r["router"])
    for words, names in unproven.items():
        render.line(f"{render.some(names)}: a move is {words}")
    stays = [r["router"] for r in routers if r["how"] == "stays"]
    if stays:
        render.line(f"{render.some(stays)}: nobody else may have it, so its NAT stays, and goes with scale-in end")
    if found["expected-seconds"]:
        render.line(
            f"expected: about {found['expected-seconds']:g} s and the time for rows of connections; unknown ones are waited for, at most "
            f"{found['patience-seconds']:g} s if no --deadline is given"
        )


@scale_in.command("end")
@_IDS
@_WAIT
@client_verb
def end(session: Session, ids: tuple[str, ...], seconds: float | None) -> None:
    """Remove computes that are tombstoned and empty; done when an audit has found nothing of them.

    Exit code 6: accepted, but not proven yet. The work goes on; the same call again waits for it.

    \b
    Examples:
      ebbtide scale-in end c4
      ebbtide scale-in end c4 c5 --wait 120
    """
    _call(session, "end", ids, seconds)


@scale_in.command("recover")
@_IDS
@client_verb
def recover(session: Session, ids: tuple[str, ...]) -> None:
    """Take the mark away again.

    \b
    Examples:
      ebbtide scale-in recover c5
    """
    _call(session, "recover", ids, None)


@scale_in.command("status")
@client_verb
def status(session: Session) -> None:
    """Which computes are tombstoned, and what keeps each from being removed.

    \b
    Examples:
      ebbtide scale-in status
    """
    found = session.client.get("/scale-in/status")
    if session.json:
        render.as_json(found)
        return
    rows = [(c["name"], "empty" if c["empty"] else "not empty", render.some(c["remains"])) for c in found["computes"]]
    render.table(("compute", "state", "what remains"), rows, "no compute is tombstoned")
    if found.get("moves"):
        click.echo()
        heads = ("router", "from", "to", "phase", "unknown", "deadline")
        moving = [
            (m["router"], m["old"], m["new"], m["phase"], m["unknown"], render.instant(m["deadline"]))
            for m in found["moves"]
        ]
        render.table(heads, moving)
    running = [o for o in found["operations"] if o["state"] == "running"]
    if running:
        cells = [(o["id"], o["computes"], o["reason"]) for o in running]
        render.table(("operation", "computes", "waits for"), cells)
