"""`ebbtide drain`: empty computes and remove them, as one operation that can be watched, aborted and gone on with."""

from __future__ import annotations

import sys
from typing import Any

import click

from ebbtide.cli import render
from ebbtide.cli.durations import Seconds
from ebbtide.cli.mover_options import asked, nova_options
from ebbtide.cli.operations import finish, options_of
from ebbtide.cli.session import Session, client_verb, known_computes
from ebbtide.errors import BadInput, Refused
from ebbtide.openstack.options import REMOVE

_PATIENCE = 120.0


@click.command("drain")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=known_computes)
@click.option("--plan", is_flag=True, help="Say what would happen, and touch nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--deadline", type=Seconds(), metavar="TIME", help="From now: what is not empty by then is recovered, and named."
)
@click.option(
    "--vms",
    default="none",
    show_default=True,
    metavar="MOVER",
    help="Who moves VMs: none (they are watched), nova, lab.",
)
@nova_options
@click.option("--at-once", type=int, metavar="N", help="So many VMs move at the same time.  [default: 4]")
@click.option(
    "--max-unavailable",
    type=int,
    metavar="N",
    help="So many computes are emptied at the same time.  [default: 0, all]",
)
@click.option(
    "--cut-after", type=Seconds(), metavar="TIME", help="How long moves of NAT wait for connections in no record."
)
@click.option("--force", metavar="REASON", default="", help="Why it is done though it would be refused.")
@click.option(
    "--allow-outage", multiple=True, metavar="SERVICE", help="A service that may end with its compute, like 'nat r1'."
)
@click.option("--dead", is_flag=True, help="They have died: remove them without their help. Their VMs are lost.")
@click.option("--detach", is_flag=True, help="Only begin it.")
@client_verb
def drain(
    session: Session,
    ids: tuple[str, ...],
    plan: bool,
    yes: bool,
    detach: bool,
    block_migration: str | None,
    cold: bool | None,
    remove_hosts: bool | None,
    **wish: Any,
) -> None:
    """Empty computes, remove each as soon as it is empty, and prove that nothing of it is left.

    All are marked first, so nothing moves twice. Services move, and no connection breaks. VMs are moved by others (Nova, the lab's mover)
    or by you. What cannot be emptied by --deadline is recovered and named. `ebbtide operation abort` takes it back at any time.

    Exit code 0: all removed; 11: some were recovered; 12: none was removed; 13: aborted; 6: it goes on (--detach); 4: refused.

    \b
    Examples:
      ebbtide drain --plan c4 c5
      ebbtide drain c4 c5 --deadline 1h
      ebbtide drain c4 --vms nova --deadline 2h
      ebbtide drain c4 --vms nova --cold --remove-hosts
      ebbtide drain c4 --vms lab --yes
      ebbtide drain c4 --dead --yes
    """
    if plan and (yes or detach):
        raise BadInput("--plan begins nothing: leave --yes and --detach away")
    body = {"computes": list(ids), **{name.replace("_", "-"): _given(v) for name, v in wish.items() if v is not None}}
    if options := asked(block_migration, cold, remove_hosts):
        if wish["vms"] == "none":
            raise BadInput(
                "--block-migration, --cold and --remove-hosts are for --vms nova; of a drain that goes on, `ebbtide operation set`"
            )
        body["mover-options"] = options
    if plan or not yes:
        with render.working("planning"):
            found = session.client.call("POST", "/drains", {**body, "plan": True}, timeout=_PATIENCE)
        if plan and session.json:
            render.as_json(found)
        elif plan or sys.stdin.isatty():
            show_plan(found)
        if plan:
            sys.exit(Refused.exit_code if found["problems"] else 0)
        _confirm(found)
    with render.working("drain"):
        begun = session.client.call("POST", "/drains", body, timeout=_PATIENCE)
    if not begun["changed"] and not session.json:
        render.line(f"this drain goes on already, now with {options_of(begun['operation'])}")
    finish(session, begun, detach)


def _given(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _confirm(found: dict[str, Any]) -> None:
    if found["problems"]:
        return  # the controller refuses it, in its own words
    if not sys.stdin.isatty():
        raise BadInput("nobody is there to be asked: say --yes (and look at --plan before)")
    lost = [v["vm"] for v in found["vms"]] if found["dead"] else []
    names = ", ".join(v["name"] for v in found["verdicts"])
    question = "begin?"
    if lost:
        question = f"remove {names}, and lose {render.counted(len(lost), 'VM')}?"
    elif f"{REMOVE}=yes" in found["mover-options"]:
        question = f"remove {names}, and their hosts from Nova, Placement and Neutron once they are down?"
    click.confirm(question, abort=True)


def show_plan(found: dict[str, Any]) -> None:
    """A plan for people: what moves where and why, what is carried over, what changes, what speaks against it."""
    render.line(f"to be removed: {', '.join(v['name'] for v in found['verdicts'])}")
    sessions = {s["router"]: s for s in found["sessions"]}
    _services(found, sessions)
    _vms(found)
    for host in found["hosts"]:
        told = f": {host['words']}" if host["words"] else ""
        render.line(f"{host['compute']} is {found['vms-moved-by']}'s host {host['host'] or '?'}{told}")
    if found["mover-options"]:
        render.line(f"how VMs are moved: {', '.join(found['mover-options'])}")
    click.echo()
    flows, tunnels = found["flows"], found["tunnels"]
    render.line(
        f"flows: {flows['made']} made and {flows['gone']} taken away on {render.counted(flows['computes'], 'compute')} that stay; "
        f"{flows['wiped']} go with those that leave"
    )
    render.line(f"tunnel ports on computes that stay: {tunnels['made']} made, {tunnels['gone']} taken away")
    if found["loads"]:
        click.echo()
        rows = [
            (
                x["compute"],
                f"{x['vms']} -> {x['vms-after']}",
                f"{x['routers']} -> {x['routers-after']}",
                x["bound"],
                "more than its share" if x["over"] else "",
            )
            for x in found["loads"]
        ]
        render.table(("compute", "VMs", "routers", "share", "remarks"), rows)
    for words in sorted({s["nat-move"] for s in found["sessions"] if not s["nat-move-proven"]}):
        render.line(f"a move is {words}")
    moved = (
        ""
        if found["vms-moved-by"] != "none" or not found["vms"] or found["dead"]
        else ", and the time in which you move the VMs"
    )
    render.line(f"expected: about {found['expected-seconds']:.0f} s{moved}")
    for kept in found["waits"]:
        render.line(f"waits: {kept['text']}")
    for problem in found["problems"]:
        allowed = f' (--allow-outage "{problem["about"]}")' if problem["code"] == "no-home" else ""
        render.line(f"refused as it is: {problem['text']}{allowed}")


def _services(found: dict[str, Any], sessions: dict[str, dict[str, Any]]) -> None:
    services = found["services"]
    click.echo()
    rows = []
    for s in services:
        kind, _, name = s["service"].partition(" ")
        known = sessions.get(name) if kind == "nat" else None
        rows.append(
            (
                s["words"],
                s["old"],
                s["new"],
                "ENDS" if s["how"] == "stays" else s["how"],
                known["recorded"] if known else "",
                known["unknown"] if known else "",
                known["reason"] if known else "",
            )
        )
    render.table(("service", "from", "to", "how", "sessions", "unknown", "remarks"), rows, "no services are there")
    for s in services:
        if s["how"] == "stays":
            allowed = ", as is allowed" if s["service"] in found["allow-outage"] else ""
            render.line(f"{s['words']}: nobody else can have it, it ends with {s['old']}{allowed}")
        elif s["why"]:
            render.line(f"{s['words']}: {'; '.join(s['why'])}")
    for x in found["standbys"]:
        render.line(f"{x['words']}: stays on {x['compute']}; {x['old']} stood by, then {x['new'] or 'NOBODY'} does")


def _vms(found: dict[str, Any]) -> None:
    vms = found["vms"]
    if not vms:
        return
    click.echo()
    if found["dead"]:
        render.line(f"LOST with their computes: {', '.join(v['vm'] for v in vms)}")
        return
    counts: dict[tuple[str, str], list[str]] = {}
    for vm in vms:
        counts.setdefault((vm["compute"], vm["target"]), []).append(vm["vm"])
    rows = [(a, b, len(names), render.some(names)) for (a, b), names in sorted(counts.items())]
    render.table(("from", "proposed to", "VMs", "which"), rows)
