"""`ebbtide operation ...`: long work, looked at, watched, aborted, resumed."""

from __future__ import annotations

import sys
from typing import Any

import click

from ebbtide.cli import render, watching
from ebbtide.cli.client import segment
from ebbtide.cli.durations import Seconds
from ebbtide.cli.mover_options import asked, nova_options
from ebbtide.cli.session import Session, client_verb, known_drains, known_operations
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput

_ID = click.argument("operation_id", metavar="ID", shell_complete=known_operations)
_DRAIN = click.argument("operation_id", metavar="ID", shell_complete=known_drains)


@click.group("operation", cls=NounGroup)
def operation() -> None:
    """Long work: drains, scale-in ends, rebalances; what they wait for, and how they are stopped.

    An id may be shortened to its first letters.

    \b
    Examples:
      ebbtide operations
      ebbtide operation watch 4f3c1a52
      ebbtide operation abort 4f3c1a52
      ebbtide operation set 4f3c1a52 --at-once 8
    """


@operation.command("list")
@click.option("--open", "only_open", is_flag=True, help="Only those that go on.")
@client_verb
def operation_list(session: Session, only_open: bool) -> None:
    """List operations, the newest first.

    \b
    Examples:
      ebbtide operations
      ebbtide operation list --open
      ebbtide operations --json
    """
    found = session.client.get("/operations")
    if only_open:
        found["operations"] = [o for o in found["operations"] if o["state"] in ("running", "aborting")]
    if session.json:
        render.as_json(found)
        return
    columns = ("operation", "verb", "computes", "state", "items", "began", "reason")
    rows = [
        (
            o["id"],
            o["verb"],
            render.some(o["computes"]),
            o["state"],
            f"{o['items-done']}/{o['items-all']}" if o["items-all"] else "",
            render.instant(o["began"]),
            o["reason"],
        )
        for o in found["operations"]
    ]
    render.table(columns, rows, "no operations")


@operation.command("show")
@_ID
@client_verb
def operation_show(session: Session, operation_id: str) -> None:
    """Show an operation, and each of its items.

    \b
    Examples:
      ebbtide operation show 4f3c1a52-0d3b-4c55-9a0e-5d1e4c3f9a2b
    """
    found = session.client.get(f"/operations/{segment(operation_id)}")
    render.as_json(found) if session.json else show(found)


def show(found: dict[str, Any]) -> None:
    """An operation for people."""
    shown = {k: v for k, v in found.items() if k not in ("items", "ends", "items-done", "items-all") and v}
    for name in ("began", "over", "deadline"):
        if name in shown:
            shown[name] = render.instant(shown[name])
    render.facts(shown)
    if found["items"]:
        click.echo()
        columns = ("kind", "object", "compute", "state", "target", "took", "sessions", "reason")
        rows = [
            (
                i["kind"],
                i["object"],
                i["compute"],
                i["state"],
                i["target"],
                f"{i['took'] / 1000:.1f} s" if i["took"] else "",
                i.get("sessions"),
                "; ".join(filter(None, (i.get("phase"), i["reason"]))),
            )
            for i in found["items"]
        ]
        render.table(columns, rows)
    for end in found.get("ends", []):
        render.line(f"end {end['id']} is {end['state']}: {end['reason']}")


@operation.command("watch")
@_ID
@client_verb
def operation_watch(session: Session, operation_id: str) -> None:
    """Follow an operation until it is over. Ctrl-C ends the watching, not the operation.

    With --json one line of JSON a change. Exit code 0: done; 11: in part, some computes were recovered; 12: failed; 13: aborted.

    \b
    Examples:
      ebbtide operation watch 4f3c1a52
      ebbtide operation watch 4f3c1a52 --json
    """
    sys.exit(watching.watch(session, operation_id))


@operation.command("abort")
@_DRAIN
@click.option("--detach", is_flag=True, help="Do not wait until all is taken back.")
@client_verb
def operation_abort(session: Session, operation_id: str, detach: bool) -> None:
    """Take a drain back: marks, moves under way, and services that have moved already.

    What cannot be taken back is named: VMs that have moved stay where they are, and computes that are removed are removed.

    \b
    Examples:
      ebbtide operation abort 4f3c1a52
    """
    found = session.client.call("POST", f"/operations/{segment(operation_id)}/abort", {})
    finish(session, found, detach)


@operation.command("resume")
@_DRAIN
@click.option("--deadline", type=Seconds(), metavar="TIME", help="From now: what is not empty by then is recovered.")
@click.option("--force", metavar="REASON", default="", help="Why it is done though it would be refused.")
@click.option("--allow-outage", multiple=True, metavar="SERVICE", help="A service that may end, like 'nat r1'.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--detach", is_flag=True, help="Only begin it.")
@client_verb
def operation_resume(
    session: Session,
    operation_id: str,
    deadline: float | None,
    force: str,
    allow_outage: tuple[str, ...],
    yes: bool,
    detach: bool,
) -> None:
    """Begin a drain that has ended again, with those of its computes that are still members, and that nobody recovered by hand.

    Its deadline is that of this call, other options are as they were. Of one that goes on, the deadline and what it is allowed are changed.

    \b
    Examples:
      ebbtide operation resume 4f3c1a52 --yes
      ebbtide operation resume 4f3c1a52 --deadline 1h
    """
    known = session.client.get(f"/operations/{segment(operation_id)}")
    if known["state"] not in ("running", "aborting") and not yes:
        left = [i["object"] for i in known["items"] if i["kind"] == "compute" and i["state"] != "done"]
        until = "no deadline" if deadline is None else f"a deadline in {deadline:g} s"
        if not sys.stdin.isatty():
            raise BadInput("nobody is there to be asked: say --yes")
        click.confirm(f"drain {', '.join(left)} again, with {until}?", abort=True)
    body: dict[str, Any] = {"force": force, "allow-outage": list(allow_outage)}
    if deadline is not None:
        body["deadline"] = deadline
    found = session.client.call("POST", f"/operations/{segment(operation_id)}/resume", body)
    finish(session, found, detach)


@operation.command("set")
@_DRAIN
@nova_options
@click.option("--at-once", type=int, metavar="N", help="So many VMs move at the same time.")
@click.option(
    "--max-unavailable", type=int, metavar="N", help="So many computes are emptied at the same time (0: all)."
)
@client_verb
def operation_set(
    session: Session,
    operation_id: str,
    block_migration: str | None,
    cold: bool | None,
    remove_hosts: bool | None,
    at_once: int | None,
    max_unavailable: int | None,
) -> None:
    """Change options of a drain; what is not said stays.

    They hold from now on; what has begun to move comes to its end as it was begun. Of a drain that is over, --remove-hosts and
    --keep-hosts hold for hosts that are not removed yet, and the rest when it is resumed.

    \b
    Examples:
      ebbtide operation set 4f3c1a52 --cold --at-once 8
      ebbtide operation set 4f3c1a52 --keep-hosts
    """
    options = asked(block_migration, cold, remove_hosts) or None
    given = {"mover-options": options, "at-once": at_once, "max-unavailable": max_unavailable}
    body = {name: value for name, value in given.items() if value is not None}
    if not body:
        raise BadInput("nothing is to be set: see --help")
    found = session.client.call("POST", f"/operations/{segment(operation_id)}/options", body)
    if session.json:
        render.as_json(found)
        return
    told = found["operation"]
    render.line(f"operation {told['id']} {'has now' if found['changed'] else 'has already'} {options_of(told)}")


def options_of(found: dict[str, Any]) -> str:
    """The options of a drain, for a sentence."""
    told = [f"--vms {found['vms']}", f"--at-once {found['at-once']}", f"--max-unavailable {found['max-unavailable']}"]
    return ", ".join([*told, *found["mover-options"]])


def finish(session: Session, found: dict[str, Any], detach: bool) -> None:
    """Watch what was begun, or say what to do to watch it."""
    told = found["operation"]
    if not detach:
        sys.exit(watching.watch(session, told["id"]))
    if session.json:
        render.as_json(found)
    else:
        render.line(f"operation {told['id']} is {told['state']}: `ebbtide operation watch {told['id']}`")
    sys.exit(watching.exit_code(told))
