"""`ebbtide lab ...` and `ebbtide demo`: emulated computes on this machine. Nothing of the machine's own network is touched.

The lab's controller runs inside the lab's control namespace, as the process `controller` of the lab; client verbs reach it with
--lab or EBBTIDE_LAB. How one is brought up is in `lab_up`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebbtide.cli import places, render
from ebbtide.cli.durations import Seconds
from ebbtide.cli.session import Session, connection_options, json_option, pass_session
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput, NotFound

if TYPE_CHECKING:
    from ebbtide.lab import Lab, Vm

CONTROLLER = "ctl"
PING_COUNT = 3


def lab_verb(function: Any) -> Any:
    """The options of a verb on a lab; its first argument is the Session."""
    return json_option(connection_options(hidden=True)(pass_session(function)))


def _lab(session: Session) -> Lab:
    return places.found_lab(session.lab)


@click.group("lab", cls=NounGroup)
def lab() -> None:
    """Emulated computes on this machine: real Open vSwitch, real packets.

    Needs root. Each compute is a network namespace with an ovsdb-server and an ovs-vswitchd of its own; VMs are namespaces too.

    \b
    Examples:
      ebbtide lab up --computes 4 --vms-per-compute 2
      export EBBTIDE_LAB=lab
      ebbtide computes
      ebbtide lab ping vm1 vm8
      ebbtide lab down
    """


@lab.command("up")
@click.option("--computes", type=click.IntRange(1, 200), default=2, metavar="N", help="Computes [2].")
@click.option("--vms-per-compute", type=click.IntRange(0, 100), default=1, metavar="N", help="VMs on each [1].")
@click.option(
    "--networks", type=click.IntRange(1, 200), default=1, metavar="N", help="Networks that VMs take turns on [1]."
)
@click.option("--name", metavar="NAME", help=f"Its name [{places.DEFAULT_NAME}].")
@click.option("--dir", "directory", metavar="DIR", help="Where it keeps its files, if not with the other labs.")
@click.option(
    "--underlay", type=click.Choice(["ipv4", "ipv6"]), default="ipv4", help="Tunnel addresses of its computes [ipv4]."
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of its controller.")
@click.option("--keep", is_flag=True, help="When it fails, leave what there is, to be looked at.")
@lab_verb
def up(
    session: Session,
    computes: int,
    vms_per_compute: int,
    networks: int,
    name: str | None,
    directory: str | None,
    underlay: str,
    settings: tuple[str, ...],
    keep: bool,
) -> None:
    """Make a lab: computes, a controller, networks, and VMs that reach each other.

    \b
    Examples:
      ebbtide lab up --computes 4 --vms-per-compute 2
      ebbtide lab up --computes 3 --networks 2 --vms-per-compute 2 --name other
      ebbtide lab up --computes 5 --set loss_after=5
    """
    from ebbtide.cli.lab_up import Wanted, make

    if directory is None and name is None and "/" in session.lab:
        directory = session.lab
    chosen = name or (places.DEFAULT_NAME if "/" in session.lab else session.lab) or places.DEFAULT_NAME
    where = Path(directory) if directory is not None else places.labs_root() / chosen
    told = tuple((name.strip(), value) for name, mark, value in (text.partition("=") for text in settings) if mark)
    if len(told) != len(settings):
        raise BadInput("--set is NAME=VALUE, like loss_after=5", "set")
    made = make(chosen, where, Wanted(computes, vms_per_compute, networks, told, underlay), keep=keep)
    if session.json:
        render.as_json(made)
        return
    for text in _advice(made, str(where) if directory is not None else chosen):
        click.echo(text)


def _advice(made: dict[str, Any], handle: str) -> list[str]:
    """What there is, and what to try next."""
    vms, computes = made["vms"], made["computes"]
    kinds = ((len(computes), "compute"), (len(vms), "VM"), (len(made["networks"]), "network"))
    parts = ", ".join(render.counted(n, noun) for n, noun in kinds)
    lines = [f"lab {made['lab']} is up: {parts}, in {made['seconds']:.1f} s. Try:", f"  export EBBTIDE_LAB={handle}"]
    lines.append("  ebbtide computes")
    peers = [vm for vm in vms[1:] if vm["network"] == vms[0]["network"]]
    if peers:
        lines.append(f"  ebbtide lab ping {vms[0]['name']} {peers[-1]['name']}")
    if len(computes) > 1:
        last, first = computes[-1], computes[0]
        lines.append(f"  ebbtide scale-in start {last}")
        lines += [f"  ebbtide lab migrate {vm['name']} {first}" for vm in vms if vm["compute"] == last]
        lines.append(f"  ebbtide scale-in end {last}")
    return [*lines, "  ebbtide audit", "  ebbtide lab down"]


@lab.command("add")
@click.argument("name", required=False)
@click.option("--vms", type=click.IntRange(0, 100), default=0, metavar="N", help="VMs on it [0].")
@lab_verb
def add(session: Session, name: str | None, vms: int) -> None:
    """Add a compute, with VMs on it.

    \b
    Examples:
      ebbtide lab add
      ebbtide lab add c9 --vms 2
    """
    from ebbtide.cli.lab_up import add_compute

    made = add_compute(_lab(session), name, vms)
    if session.json:
        render.as_json(made)
    else:
        names = ", ".join(vm["name"] for vm in made["vms"])
        render.line(f"{made['compute']} has joined" + (f", with {names}" if names else ""))


@lab.command("kill")
@click.argument("compute")
@click.option("--switch", "what", flag_value="switch", help="Only its switch: the flows are gone, its database stays.")
@click.option("--all", "what", flag_value="all", default="all", help="Switch and database: it is dead (the default).")
@lab_verb
def kill(session: Session, compute: str, what: str) -> None:
    """Kill a compute's daemons, as a crash does; ctl is the controller.

    \b
    Examples:
      ebbtide lab kill c2 --switch
      ebbtide lab kill ctl
    """
    here = _lab(session)
    if compute == CONTROLLER:
        here.kill_spawned("controller")
    elif what == "switch":
        here.compute(compute).kill_switch()
    else:
        here.compute(compute).kill_all()
    _done(session, {"killed": compute, "what": "controller" if compute == CONTROLLER else what}, f"{compute}: killed")


@lab.command("start")
@click.argument("compute")
@lab_verb
def start(session: Session, compute: str) -> None:
    """Start what was killed; ctl is the controller.

    \b
    Examples:
      ebbtide lab start c2
      ebbtide lab start ctl
    """
    here = _lab(session)
    if compute == CONTROLLER:
        from ebbtide.cli.lab_up import start_controller

        start_controller(here)
    else:
        here.compute(compute).start_all()
    _done(session, {"started": compute}, f"{compute}: up")


def _done(session: Session, found: dict[str, Any], text: str) -> None:
    render.as_json(found) if session.json else render.line(text)


@lab.command("migrate")
@click.argument("vm")
@click.argument("compute")
@click.option("--overlap", type=Seconds(), default="10s", metavar="TIME", help="How long it is plugged on both [10s].")
@click.option("--fail", is_flag=True, help="Give up instead of moving: it stays where it was.")
@lab_verb
def migrate(session: Session, vm: str, compute: str, overlap: float, fail: bool) -> None:
    """Migrate a VM to a compute, live, as libvirt does.

    \b
    Examples:
      ebbtide lab migrate vm7 c1
      ebbtide lab migrate vm7 c1 --overlap 2s --fail
    """
    here = _lab(session)
    with render.working(f"migrating {vm} to {compute}"):
        here.migrate(vm, compute, overlap=overlap, fail=fail)
    place = here.vm(vm).active
    _done(session, {"vm": vm, "compute": place, "moved": place == compute}, f"{vm} runs on {place}")


@lab.command("mover")
@click.option(
    "--at-once", type=click.IntRange(1, 100), default=4, show_default=True, help="So many VMs at the same time."
)
@lab_verb
def lab_mover(session: Session, at_once: int) -> None:
    """Move the VMs that drains have to empty, until Ctrl-C (then it finishes what is under way).

    It is what Nova is in a cloud: `ebbtide drain --vms lab` gives VMs to it. Killed in the middle of a migration, it ends what it had begun
    when it starts again.

    \b
    Examples:
      ebbtide --lab lab lab mover
      ebbtide --lab lab lab mover --at-once 8
    """
    import signal
    import threading

    from ebbtide.lab.mover import Mover
    from ebbtide.lab.rest import Api

    found, over = _lab(session), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    render.line(f"moves VMs of {found.name}, {at_once} at a time")
    Mover(found, Api(found).ask, at_once=at_once).run(over.is_set)


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("where")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@lab_verb
def exec_(session: Session, where: str, command: tuple[str, ...]) -> None:
    """Run a command on a compute, in a VM, or at the controller's place (ctl). Its exit code is ours.

    \b
    Examples:
      ebbtide lab exec c1 -- ovs-vsctl show
      ebbtide lab exec c1 -- ovs-ofctl dump-flows br-int
      ebbtide lab exec vm1 -- ip addr
    """
    import os
    import subprocess

    from ebbtide.lab.namespace import command_in

    here = _lab(session)
    inside = command_in(here.namespace_of(where), list(command[1:] if command[0] == "--" else command))
    environment = dict(os.environ)
    if where in {compute.name for compute in here.computes()}:
        directory = str(here.compute(where).directory)
        environment |= dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), directory)
        environment["OVS_DB"] = f"unix:{directory}/db.sock"
    sys.stdout.flush()
    sys.exit(subprocess.call(inside, env=environment))


@lab.command("ping")
@click.argument("source", metavar="VM")
@click.argument("target", metavar="VM|ADDRESS")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=PING_COUNT, metavar="N", help=f"Packets [{PING_COUNT}]."
)
@lab_verb
def ping(session: Session, source: str, target: str, count: int) -> None:
    """Ping from a VM to another, or to an address. Exit code 1: something was lost.

    \b
    Examples:
      ebbtide lab ping vm1 vm8
      ebbtide lab ping vm1 10.1.0.4 --count 100
    """
    here = _lab(session)
    result = here.vm(source).ping(_address(here, target), count=count)
    times = result.milliseconds
    if session.json:
        sent = {"sent": result.sent, "received": result.received, "lost": result.lost}
        render.as_json({"from": source, "to": target, **sent, "milliseconds": list(times)})
    else:
        took = f", {min(times):.2f} to {max(times):.2f} ms" if times else ""
        render.line(f"{source} to {target}: {result.sent} sent, {result.lost} lost{took}")
    if result.lost:
        sys.exit(1)


def _address(here: Lab, text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return here.vm(text).record.ip_cidr.partition("/")[0]


@lab.command("list")
@lab_verb
def list_(session: Session) -> None:
    """List labs, and what is in them.

    \b
    Examples:
      ebbtide lab list
      ebbtide labs --json
    """
    from ebbtide.lab import Lab

    there = [places.lab_directory(session.lab)] if session.lab else places.labs_there()
    found = [_contents(Lab.found_in(directory)) for directory in there]
    if session.json:
        render.as_json({"labs": found})
        return
    rows = [
        (one["lab"], part["kind"], part["name"], part["state"], part["where"], part["address"])
        for one in found
        for part in one["parts"]
    ]
    render.table(("lab", "kind", "name", "state", "where", "address"), rows, "no lab is up: `ebbtide lab up`")


def _contents(here: Lab) -> dict[str, Any]:
    running = here.spawned("controller") is not None
    parts = [{"kind": "controller", "name": CONTROLLER, "state": _state(running), "where": "", "address": ""}]
    for one in here.computes():
        alive = one.switch_pid is not None and one.database_pid is not None
        parts.append({"kind": "compute", "name": one.name, "state": _state(alive), "where": "", "address": one.tep})
    parts += [_vm(vm) for vm in here.vms()]
    return {"lab": here.name, "dir": str(here.site.directory), "up": here.is_up(), "parts": parts}


def _vm(vm: Vm) -> dict[str, Any]:
    record = vm.record
    state = "unplugged" if not record.taps else "up" if len(record.taps) == 1 else "migrating"
    return {"kind": "vm", "name": vm.name, "state": state, "where": record.active, "address": record.ip_cidr}


def _state(alive: bool) -> str:
    return "up" if alive else "killed"


@lab.command("down")
@click.option("--all", "everyone", is_flag=True, help="Every lab.")
@lab_verb
def down(session: Session, everyone: bool) -> None:
    """Take a lab down, whatever state it is in. Nothing is left of it.

    \b
    Examples:
      ebbtide lab down
      ebbtide lab down --all
    """
    from ebbtide.lab import Lab

    if everyone and session.lab:
        raise BadInput("--all is every lab: leave --lab and EBBTIDE_LAB away")
    try:
        gone = [Lab.found_in(d) for d in places.labs_there()] if everyone else [_lab(session)]
    except NotFound:
        # The record may be gone, and namespaces be left all the same: the name is enough to find them.
        if session.lab and "/" not in session.lab:
            gone = [Lab(session.lab, places.lab_directory(session.lab))]
            if not gone[0].site.namespaces():
                raise
        else:
            raise
    with render.working("taking down"):
        for one in gone:
            one.down()
        places.leave_root()
    names = [one.name for one in gone]
    _done(session, {"down": names}, f"down: {', '.join(names)}" if names else "no lab is up")


@click.command("demo")
@click.option(
    "--sabotage",
    type=click.Choice(["break-before-make", "skip-tunnel", "leave-residue", "cut-connections", "close-nat"]),
    help="Do this wrong on purpose: the demo has to notice, and ends red.",
)
@json_option
@pass_session
def demo(session: Session, sabotage: str | None) -> None:
    """The main job on a lab, with every packet counted.

    Needs root, and takes less than two minutes. Five computes; three are scaled in, one of them is recovered; every pair of VMs sends
    numbered probes all the while, and TCP connections lead outside through the NAT of a compute that leaves. Exit code 0: nothing lost,
    nothing broken, nothing left.

    \b
    Examples:
      ebbtide demo
      ebbtide demo --json
      ebbtide demo --sabotage leave-residue
    """
    from importlib import import_module

    main: Any = import_module("ebbtide.lab.demo").main
    sys.exit(int(main(session.json, sabotage)))
