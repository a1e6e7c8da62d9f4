"""What is done to a gateway, ours or OVN's, while traffic runs through it: moved as planned, killed, scaled in with others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from ebbtide.lab.commands import wait_until
from ebbtide.lab.flow_report import Counts
from ebbtide.lab.flows import Inbound, Load, Report, Traffic

from .gateways import Gateways, floating_of, vm_name
from .rows import say

#: What each of two VMs does during a planned move: 100 connections that talk, 40 that are silent, and the rest of the table.
PLANNED = Load(active=50, silent=20, udp=500, udp_slow=20, udp_slow_period=20, new=20, half_open=4, bulk=20, ping=0)
#: And while a gateway is killed.
KILLED = Load.only(active=50, udp=500, udp_slow=20, udp_slow_period=20)
#: What a VM does that is one of forty, two behind each router.
MANY = Load.only(active=5, active_period=0.5, silent=2, udp=5, new=0.5)
#: Seconds from the start of slow flows until each has spoken a second time, and been answered.
_SLOW = 22.0
#: Seconds before something is done to the gateway: records are written, rows of a standby are put in (5 s old, and a second's turn).
_CALM = 8.0
#: Seconds after a planned move or a kill in which everything that it breaks has been seen.
_AFTER = 8.0
_MOVE_DEADLINE = 300.0
_MOST_TOLD = 5
#: VMs by turns, and the computes where they are. A pair comes again when conntrack has swept away what it had before: userspace conntrack
#: looks each 20 s, and until then gives the external port of a connection that was reset to nobody, not even to the same end points.
_PAIRS = ((1, 2), (4, 5), (6, 7))
#: Seconds after which BFD of new tunnels is up for certain: until then who stands by may be taken for the only one there.
_STEADY = 5.0


class Planned(msgspec.Struct, frozen=True):
    """A planned move. `seconds`: until the controller says that it is over."""

    seconds: float
    report: Report

    @property
    def counts(self) -> Counts:
        """Of both VMs."""
        return self.report.total()


class Killed(msgspec.Struct, frozen=True):
    """A kill: the longest silences in milliseconds, connections of 100 without an answer 3 s later, slow flows of 40 not `kept`
    (None: not waited for)."""

    outbound: float
    replies: float
    inbound: float
    dead: int
    slow_changed: int | None

    @property
    def worst(self) -> float:
        """The longest of the three."""
        return max(self.outbound, self.replies, self.inbound)


class Spread(msgspec.Struct, frozen=True):
    """Several routers moved at once. `wanted` long-lived connections, of which some `broken`; `failures`: whatever tenants noticed.

    `slowest`: the longest wait for an answer within a connection, in milliseconds. `moves`: how often each router has changed its place;
    `before`, `places`: how many each compute had, and has now.
    """

    seconds: float
    broken: int
    wanted: int
    failures: tuple[str, ...]
    slowest: float
    moves: dict[int, int]
    before: dict[str, int]
    places: dict[str, int]


def two_gateways(system: Gateways) -> None:
    """Pairs of VMs on two computes with no way out of their own, behind a router with two gateways; and a VM with a floating IP."""
    system.join(["w1", "w2"], able=False)
    system.join(["g1", "g2"], able=True)
    system.add_router(1, ["g1", "g2"])
    for first, second in _PAIRS:
        system.add_vm(1, first, "w1")
        system.add_vm(1, second, "w2")
    system.add_vm(1, 3, "w1")
    system.add_floating(1, 3)
    system.settle()
    time.sleep(_STEADY)


def _traffic(system: Gateways, load: Load, turn: int) -> Traffic:
    inbound = [Inbound(floating_of(1), ping=200, tcp=0)]
    return Traffic(system.lab, "out", [vm_name(1, index) for index in _PAIRS[turn % len(_PAIRS)]], load, inbound)


def planned(system: Gateways, turn: int) -> Planned:
    """The router's gateway is moved to the other one, and may come back."""
    old = system.owner(1)
    with _traffic(system, PLANNED, turn) as traffic:
        begun = time.monotonic()
        traffic.wait_flowing(60)
        time.sleep(_CALM)
        traffic.reset()
        at = time.monotonic()
        system.drain([old])
        wait_until(lambda: system.drained([old]), f"{old} to be drained", _MOVE_DEADLINE, every=0.05)
        seconds = time.monotonic() - at
        time.sleep(max(0.0, at + _AFTER - time.monotonic(), begun + _SLOW - time.monotonic()))
        traffic.speak()
        report = traffic.report()
    system.put_back([old])
    system.settle()
    say(f"nat: {system.title}, planned move in {seconds:.2f} s\n{_told(report)}")
    return Planned(seconds, report)


def _told(report: Report) -> str:
    """The table, and the first of what happened."""
    lines = report.table().splitlines()
    told = len(report.told)
    return "\n".join(lines[: len(lines) - max(0, told - _MOST_TOLD)])


def killed(system: Gateways, turn: int, slow: bool) -> Killed:
    """The gateway is killed, and revived afterwards. `slow`: wait until slow flows have spoken again."""
    victim = system.owner(1)
    with _traffic(system, KILLED, turn) as traffic:
        begun = time.monotonic()
        traffic.wait_flowing(60)
        time.sleep(_CALM)
        traffic.reset()
        at = time.monotonic()
        system.kill(victim)
        time.sleep(max(0.0, at + 3.0 - time.monotonic()))
        first = traffic.glance()
        traffic.reset()
        time.sleep(1.0)
        dead = sum(" active " in line for line in traffic.missing())
        time.sleep(max(0.0, (begun + _SLOW if slow else at + _AFTER) - time.monotonic()))
        last = traffic.report()
    system.revive(victim)
    counts = [first.total(), last.total()]
    changed = counts[1].udp_slow.changed + counts[1].udp_slow.lost
    found = Killed(
        outbound=max(c.udp.heard_gap_ms for c in counts),
        replies=max(c.udp.longest_gap_ms for c in counts),
        inbound=max(r.inbound[floating_of(1)].ping.longest_gap_ms for r in (first, last)),
        dead=dead,
        slow_changed=changed if slow else None,
    )
    say(f"nat: {system.title}, {victim} killed: {found}; our own loops late by at most {first.late_ms} ms")
    return found


def many_routers(
    system: Gateways, routers: int, before: Sequence[str], after: Sequence[str], stay: Sequence[str]
) -> None:
    """Routers with two VMs each, made when `before` are there; then `after` join. VMs are on those that `stay`."""
    system.join(before, able=True)
    for number in range(1, routers + 1):
        first = number % len(before)
        system.add_router(number, [*before[first:], *before[:first]])
    if after:
        system.join(after, able=True)
    for number in range(1, routers + 1):
        for index in (1, 2):
            system.add_vm(number, index, stay[(number + index) % len(stay)])
    system.settle()
    time.sleep(_STEADY)


def scale_in(system: Gateways, routers: int, names: Sequence[str]) -> Spread:
    """These computes are scaled in at once."""
    numbers = range(1, routers + 1)
    owners = system.owners()
    before = dict(Counter(owners.values()))
    moves = dict.fromkeys(numbers, 0)
    vms = [vm_name(number, index) for number in numbers for index in (1, 2)]
    with Traffic(system.lab, "out", vms, MANY) as traffic:
        traffic.wait_flowing(120)
        time.sleep(_CALM)
        traffic.reset()
        at = time.monotonic()
        system.drain(names)

        def over() -> bool:
            for number, now in system.owners().items():
                if now and now != owners[number]:
                    owners[number] = now
                    moves[number] += 1
            return system.drained(names)

        wait_until(over, f"{', '.join(names)} to be drained", _MOVE_DEADLINE, every=0.1)
        seconds = time.monotonic() - at
        time.sleep(_AFTER)
        over()
        traffic.speak()
        report = traffic.report()
    counts = report.total()
    dead = counts.silent.asked - counts.silent.alive
    places = dict(Counter(owners.values()))
    say(
        f"nat: {system.title}, {', '.join(names)} scaled in in {seconds:.1f} s: {places}, moves {moves}; {report.failures()[:9]}"
    )
    wanted = counts.active.wanted + counts.silent.wanted
    return Spread(
        seconds,
        counts.active.broken + dead,
        wanted,
        tuple(report.failures()),
        counts.active.slowest_ms,
        moves,
        before,
        places,
    )
