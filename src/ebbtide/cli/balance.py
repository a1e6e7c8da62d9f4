"""`ebbtide rebalance`: even out who serves what, after computes have joined."""

from __future__ import annotations

import sys
from typing import Any

import click

from ebbtide.cli import render
from ebbtide.cli.session import Session, client_verb
from ebbtide.errors import BadInput, StillWorking

_SPARE_SECONDS = 30.0


@click.command("rebalance")
@click.option("--plan", is_flag=True, help="Say what would move and what is gained, and touch nothing.")
@click.option("--stop", is_flag=True, help="Begin no more moves; those under way go on.")
@click.option("--wait", "seconds", type=float, metavar="SECONDS", help="Wait until it is over (else it is only begun).")
@client_verb
def rebalance(session: Session, plan: bool, stop: bool, seconds: float | None) -> None:
    """Move routers' NAT from computes above their bound to those that have room; no connection breaks.

    Scale-out moves nothing by itself. This moves the fewest that bring every compute within its bound, a few at a time, and goes on when
    the controller is restarted. Where all is balanced, it does nothing. `ebbtide operations` shows how far it has come.

    Exit code 6: begun, but not over within --wait.

    \b
    Examples:
      ebbtide rebalance --plan
      ebbtide rebalance
      ebbtide rebalance --wait 120
      ebbtide rebalance --stop
    """
    if plan + stop + (seconds is not None) > 1:
        raise BadInput("--plan, --stop and --wait are three things: say one of them")
    if plan:
        found = session.client.get("/rebalance")
    else:
        body: dict[str, Any] = {"stop": True} if stop else {}
        if seconds is not None:
            body = {"wait": seconds}
        with render.working("rebalance"):
            found = session.client.call("POST", "/rebalance", body, timeout=(seconds or 0.0) + _SPARE_SECONDS)
    if session.json:
        render.as_json(found)
    elif stop:
        _show_stopped(found)
    else:
        _show(found)
    operation = found.get("operation")
    if seconds is not None and operation and operation["state"] == "running":
        sys.exit(StillWorking.exit_code)


def _show_stopped(found: dict[str, Any]) -> None:
    if found["under-way"]:
        rows = [(m["service"], m["object"], m["old"], m["new"], m["phase"]) for m in found["under-way"]]
        render.table(("service", "object", "from", "to", "phase"), rows)
        click.echo()
    operation = found["operation"]
    if operation:
        render.line(f"operation {operation['id']} is {operation['state']}: {operation['reason']}")
    else:
        render.line("no rebalance is under way")


def _show(found: dict[str, Any]) -> None:
    if found["moves"]:
        rows = [(m["service"], m["object"], m["old"], m["new"]) for m in found["moves"]]
        render.table(("service", "object", "from", "to"), rows)
        click.echo()
        loads = [(x["service"], x["compute"], x["before"], x["after"], x["bound"]) for x in found["loads"]]
        render.table(("service", "compute", "before", "after", "bound"), loads)
        click.echo()
    for text in found["gain"] or ["no services: nothing to balance"]:
        render.line(text)
    operation = found.get("operation")
    if operation:
        render.line(f"operation {operation['id']} is {operation['state']}: {operation['reason']}")
    if operation and found["changed"] is False:
        render.line("already so")
