"""`ebbtide compute ...`: who is in the cluster, and who may be."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from ebbtide.cli import render, verdicts
from ebbtide.cli.client import segment
from ebbtide.cli.session import Session, client_verb, known_computes
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput, Refused

_IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=known_computes)
_ID = click.argument("compute_id", metavar="ID", shell_complete=known_computes)


@click.group("compute", cls=NounGroup)
def compute() -> None:
    """Nodes with Open vSwitch: who is in the cluster, and in what state.

    An ID is a name, system-id, DPN id in decimal, openflow:DPN, or OVSDB bridge node id.

    \b
    Examples:
      ebbtide computes
      ebbtide compute approve c7
    """


@compute.command("list")
@click.option("--removed", is_flag=True, help="Those that were scaled in, instead.")
@click.option("--all", "everyone", is_flag=True, help="Members, waiting and removed.")
@client_verb
def list_(session: Session, removed: bool, everyone: bool) -> None:
    """List the computes.

    \b
    Examples:
      ebbtide computes
      ebbtide compute list --removed
      ebbtide computes --json
    """
    found = session.client.get("/computes", {"removed": "1"} if removed or everyone else {})
    rows = [c for c in found["computes"] if everyone or (c["membership"] == "removed") == removed]
    refused = found.get("refused", [])
    if session.json:
        render.as_json({**found, "computes": rows})
        return
    columns = ("name", "phase", "tep", "dpn id", "ports", "peers", "applied", "remarks")
    empty = (
        "no removed computes" if removed else "no computes have registered: `ovs-vsctl set-manager tcp:CONTROLLER:6640`"
    )
    render.table(columns, [_row(c) for c in rows], empty)
    if refused and not removed:
        click.echo()
        render.table(("refused", "reason"), [(r["peer"], r["reason"]) for r in refused])


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    remarks = []
    if found.get("tombstoned"):
        remarks.append("tombstoned")
    if found.get("membership") == "member" and not found.get("connected"):
        remarks.append("unreachable")
    if found.get("debts"):
        remarks.append(f"owes the cleaning of {render.some(found['debts'])}")
    if found.get("rejected"):
        remarks.append(f"{render.counted(len(found['rejected']), 'fragment')} rejected")
    if found.get("reason"):
        remarks.append(str(found["reason"]))
    phase = found.get("phase") if found.get("membership") != "removed" or found.get("connected") else "removed"
    return (
        found.get("name"),
        phase,
        found.get("tep"),
        found.get("dpid"),
        found.get("ports"),
        found.get("peers"),
        found.get("applied"),
        ", ".join(remarks),
    )


@compute.command("show")
@_ID
@client_verb
def show(session: Session, compute_id: str) -> None:
    """Show all that is known of a compute.

    \b
    Examples:
      ebbtide compute show c1
      ebbtide compute show openflow:123456 --json
    """
    found = session.client.get(f"/computes/{segment(compute_id)}", {"removed": "1"})
    render.as_json(found) if session.json else render.facts(found)


def _post(session: Session, compute_id: str, verb: str, said: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return session.client.call("POST", f"/computes/{segment(compute_id)}/{verb}", said or {})


@compute.command("approve")
@_IDS
@client_verb
def approve(session: Session, ids: tuple[str, ...]) -> None:
    """Admit computes that wait for it.

    \b
    Examples:
      ebbtide compute approve c7 c8
    """
    verdicts.each(session, ids, lambda text: _post(session, text, "approve"))


@compute.command("adopt")
@_IDS
@click.option("--force", metavar="REASON", default="", help="Why VMs there that nobody has told of may be cut off.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@client_verb
def adopt(session: Session, ids: tuple[str, ...], force: str, yes: bool) -> None:
    """Take over br-int where another system runs it.

    Says first what it finds there. Its controller, and every flow and tunnel port on br-int that is not ours, go. VMs that are plugged
    there go on if they are ports here; if there are others, nothing is done.

    \b
    Examples:
      ebbtide compute adopt c9
      ebbtide compute adopt c1 c2 c3 --yes
      ebbtide compute adopt c9 --force "its VMs are thrown away"
    """
    for compute_id in ids:
        found = session.client.get(f"/computes/{segment(compute_id)}")
        name = render.clean(found.get("name", compute_id))
        if found.get("membership") == "waiting":
            raise Refused(f"{name} waits for admission: approve it first (`ebbtide compute approve {name}`)")
        if not yes:
            why = render.clean(found.get("reason") or "nothing foreign was seen there")
            click.echo(f"{name} is {render.clean(found.get('phase'))}: {why}", err=True)
            click.echo(
                f"br-int of {name}: its controller, and flows and tunnel ports that are not ours, will go.", err=True
            )
    if not yes:
        if not sys.stdin.isatty():
            raise BadInput("nothing was changed: there is nobody to ask; say --yes")
        click.confirm("Adopt it?" if len(ids) == 1 else f"Adopt these {len(ids)}?", abort=True, err=True)
    verdicts.each(session, ids, lambda text: _post(session, text, "adopt", {"force": force}))


@compute.command("readmit")
@_IDS
@client_verb
def readmit(session: Session, ids: tuple[str, ...]) -> None:
    """Let removed computes join again, as new ones.

    \b
    Examples:
      ebbtide compute list --removed
      ebbtide compute readmit c2
    """
    verdicts.each(session, ids, lambda text: _post(session, text, "readmit"))


@compute.command("forget")
@_IDS
@client_verb
def forget(session: Session, ids: tuple[str, ...]) -> None:
    """Drop computes that wait for admission.

    \b
    Examples:
      ebbtide compute forget c7
    """
    verdicts.each(session, ids, lambda text: _post(session, text, "forget"))
