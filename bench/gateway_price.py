"""Of our own gateway: how long it takes to empty one that has many connections, and what the standing record of connections costs.

Processor time is that of the gateway's ovs-vswitchd and of the controller's process, from /proc; without the record it is measured before
and after, so that a machine that changes meanwhile is seen. Connections are real TCP sockets; to find the rate at which records get lost
they are datagrams, each with ports of its own, because no pair of processes here opens sockets fast enough.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from ebbtide.compile.ledger import Priority, T
from ebbtide.lab.commands import wait_until
from ebbtide.lab.flows import Load, Traffic
from ebbtide.lab.processes import usage_of
from ebbtide.runtime.connections import Connections

from .crowd import ENDPOINTS, MOST, Crowd
from .gateways import OursGateways, router_name, vm_name
from .rows import median, say

#: What a second VM does while the first one's many connections are moved.
_BESIDE = Load.only(active=50, udp=100, new=5)
_OPENED_A_SECOND = 2000
#: Seconds between two looks at a counter that should be at rest: cached flows report theirs each half second.
_LOOK = 0.7
_DEADLINE = 400.0


class Emptied(msgspec.Struct, frozen=True):
    """A move of many connections. `alive` of `made` answered afterwards; `at_once`: the end points that they were with.

    `seconds`: from the start until the old compute carries nothing. `broken`: what another VM has noticed.
    """

    made: int
    end_points: int
    seconds: float
    alive: int
    broken: tuple[str, ...]


class Price(msgspec.Struct, frozen=True):
    """Percent of a core, with the record and without, a figure a turn; and new connections a second that there really were."""

    gateway_on: tuple[float, ...]
    gateway_off: tuple[float, ...]
    controller_on: tuple[float, ...]
    controller_off: tuple[float, ...]
    rates: tuple[float, ...]

    @property
    def gateway(self) -> float:
        """What it costs there."""
        return median(self.gateway_on) - median(self.gateway_off)

    @property
    def controller(self) -> float:
        """What it costs there."""
        return median(self.controller_on) - median(self.controller_off)


class Lost(msgspec.Struct, frozen=True):
    """New connections a second that the gateway opened, how many those were, and how many of them are in no record."""

    rate: float
    opened: int
    lost: int


def emptied(system: OursGateways, number: int) -> Emptied:
    """A gateway with that many connections is scaled in."""
    members = -(-number // MOST)
    old = system.owner(1)
    with (
        Traffic(system.lab, "out", [vm_name(1, 2)], _BESIDE) as traffic,
        Crowd(system.lab, "out", vm_name(1, 1), members) as crowd,
    ):
        traffic.wait_flowing(60)
        made = crowd.open(number, _OPENED_A_SECOND)
        say(
            f"nat: {made.made} of {made.asked} connections opened in {made.seconds:.0f} s, with {members * ENDPOINTS} end points"
        )
        time.sleep(8.0)
        traffic.reset()
        begun = time.monotonic()
        system.drain([old])
        _until_drained(system, old)
        seconds = _at_rest(system, old) - begun
        alive = crowd.check()
        report = traffic.report()
    system.put_back([old])
    system.settle()
    say(f"nat: {old} with {made.made} connections emptied in {seconds:.1f} s; {alive} alive; {report.failures()}")
    return Emptied(made.made, members * ENDPOINTS, seconds, alive, tuple(report.failures()))


def _until_drained(system: OursGateways, old: str) -> None:
    said = ""

    def drained() -> bool:
        nonlocal said
        move = system.routers()[router_name(1)]["move"] or {}
        now = f"{move.get('phase', '')} {move.get('reason', '')}"
        if now != said:
            said = now
            say(f"nat: {old}: {now}")
        return system.drained([old])

    wait_until(drained, f"{old} to be drained", _DEADLINE, every=0.1)


def _at_rest(system: OursGateways, name: str) -> float:
    """When the compute's flows for IP packets have counted their last one: now, if they count none in two looks."""
    compute = system.lab.compute(name)

    def packets() -> int:
        found = re.search(r"packet_count=(\d+)", compute.ofctl("dump-aggregate", "br-int", "ip"))
        assert found is not None
        return int(found[1])

    last, quiet, count = time.monotonic(), 0, packets()
    while quiet < 2:
        time.sleep(_LOOK)
        now = packets()
        # Flows that are taken away take their counts with them: less is no traffic.
        quiet = quiet + 1 if now <= count else 0
        last = last if quiet else time.monotonic()
        count = now
    return last


def price(system: OursGateways, rate: float, turns: int, seconds: float, fill: float) -> Price:
    """New connections at a rate, each closed as soon as it is made: without the record, with it, and without it again.

    With it, it is filled for `fill` seconds before anything is counted: an ended connection stays in it for some time, and its price must
    not grow with those.
    """
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    rates = []
    with Crowd(system.lab, "out", vm_name(1, 1), 1) as crowd:
        for record, count, before_it in ((False, turns, 2.0), (True, 2 * turns, fill), (False, turns, 2.0)):
            system.ours.ask("PATCH", f"/api/v1/routers/{router_name(1)}", {"record": record})
            system.settle()
            crowd.churn(before_it, rate)
            for _ in range(count):
                before, begun = _spent(system), time.monotonic()
                made = crowd.churn(seconds, rate)
                after, elapsed = _spent(system), time.monotonic() - begun
                gateway, controller = ((now - then) / elapsed * 100 for then, now in zip(before, after, strict=True))
                found[record].append((gateway, controller))
                rates.append(made.made / made.seconds)
                used = f"gateway {gateway:.1f} %, controller {controller:.1f} %"
                say(f"nat: record {record}, {rates[-1]:.0f} new a second: {used}")
    system.ours.ask("PATCH", f"/api/v1/routers/{router_name(1)}", {"record": True})
    system.settle()
    on, off = (tuple(zip(*found[record], strict=True)) for record in (True, False))
    return Price(on[0], off[0], on[1], off[1], tuple(rates))


def _spent(system: OursGateways) -> tuple[float, float]:
    """Seconds of processor time of the gateway's switch and of the controller."""
    switch = system.lab.compute(system.owner(1)).switch_pid
    controller = system.lab.spawned("controller")
    assert switch is not None
    assert controller is not None
    return usage_of(switch).cpu_seconds, usage_of(controller).cpu_seconds


def lost_at(system: OursGateways, rate: float, seconds: float) -> Lost:
    """New connections at a rate: opened by the gateway, and not told."""
    with Crowd(system.lab, "out", vm_name(1, 1), 2) as crowd:
        before = _opened_and_told(system)
        sent = crowd.scatter(seconds, rate)
        after = _opened_and_told(system)
        # What was counted may still be on its way: to the counter a second, to the controller's file as long as it is busy.
        while (now := _later(system)) != after:
            after = now
    opened, told = (now - then for then, now in zip(before, after, strict=True))
    found = Lost(opened / sent.seconds, opened, opened - told)
    say(f"nat: {sent.made} datagrams in {sent.seconds:.1f} s, each of a connection of its own: {found}")
    return found


def _later(system: OursGateways) -> tuple[int, int]:
    time.sleep(1.5)
    return _opened_and_told(system)


def _opened_and_told(system: OursGateways) -> tuple[int, int]:
    """Connections that the gateway has opened and should have told of; and those that the controller's record has got from it."""
    owner, router = system.owner(1), system.routers()[router_name(1)]
    rows = system.lab.compute(owner).ofctl("dump-flows", "br-int", f"table={int(T.NAT_OPENED)}").splitlines()
    opened = sum(
        int(row.partition("n_packets=")[2].partition(",")[0]) for row in rows if f"priority={Priority.RECORD}," in row
    )
    numbers = {c["name"]: c["number"] for c in system.ours.ask("GET", "/api/v1/computes")["computes"]}
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as folder:
        for file in system.ours.state_directory.glob("connections.*"):
            shutil.copy(file, folder)  # whoever reads it cuts off what is not whole
        told = Connections(Path(folder) / "connections.log").received(router["tag"], numbers[owner], 0.0)
    return opened, told
