"""A NAT gateway is moved, killed, scaled in with others: what tenants notice, ours and OVN's, and what our record of connections costs.

Both systems run in labs of the same kind, in the same run, one at a time: userspace datapath, VMs on two computes that have no provider
network, two gateways that have, one host outside (`gateways`, `gateway_trials`). OVN's planned move is a change of priorities in the
routers' groups of chassis; ours is scalein-computes-start. A figure of several runs is the worst of them; the limit is for ours.

`python -m bench.nat PART... [--quick]` runs some parts, prints their rows and writes nothing down.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from ebbtide.lab import Lab
from ebbtide.runtime.connections import AFTER_CLOSE

from . import gateway_price, gateway_trials, rows
from .clusters import lab_named, missing_ovn
from .gateway_trials import Killed, Planned, Spread
from .gateways import DarkGateways, Gateways, OursGateways, OvnGateways, floating_of
from .rows import Options, Row, median, say

S = TypeVar("S", bound=Gateways)

#: New connections a second that are tried one after the other until records get lost, and seconds of each: longer than the burst lasts
#: that the record's meter lets through.
_RATES, _RATE_SECONDS = (1000, 4000, 8000, 12_000, 16_000, 20_000, 24_000), 6.0
_NEW_RATE = 1000.0


class Found:
    """Results of ours and of OVN by the same trial, and in words what is missing."""

    def __init__(self, name: str, trial: Callable[[Gateways], list[Any]]) -> None:
        self.ours, reason = _tried(f"nat{name}ours", OursGateways, trial)
        self._reason = f"ours could not be measured: {reason}; " if reason else ""
        missing = missing_ovn()
        self.theirs, reason = ([], missing) if missing else _tried(f"nat{name}ovn", OvnGateways, trial)
        self._reason += f"OVN could not be measured: {reason}" if reason else ""

    def row(self, name: str, unit: str, limit: float | None, of: Callable[[Any], float], note: str = "") -> Row:
        """The worst of ours against the limit, and the worst of OVN's beside it."""
        worst = [max(map(of, results)) if results else None for results in (self.ours, self.theirs)]
        return Row(f"nat: {name}", worst[0], unit, worst[1], limit, "; ".join(filter(None, (note, self._reason))), True)

    def each(self, of: Callable[[Any], object]) -> str:
        """Every single result, for a note."""
        parts = [(title, results) for title, results in (("ours", self.ours), ("OVN", self.theirs)) if results]
        return "; ".join(f"{title} {', '.join(str(of(one)) for one in results)}" for title, results in parts)


def _tried(name: str, make: Callable[[Lab], S], trial: Callable[[S], list[Any]]) -> tuple[list[Any], str]:
    try:
        with lab_named(name) as lab:
            return trial(make(lab)), ""
    except Exception as error:
        traceback.print_exc()
        return [], f"{str(error)[:300] or error!r}"


def _planned(options: Options) -> Iterator[Row]:
    def trial(system: Gateways) -> list[Planned]:
        gateway_trials.two_gateways(system)
        return [gateway_trials.planned(system, turn) for turn in range(1 if options.quick else 3)]

    found = Found("plan", trial)
    what = "planned move"
    yield found.row(
        f"{what}, 100 established connections with colliding source ports: broken",
        "broken",
        0,
        lambda one: one.counts.active.broken,
        f"the move took: {found.each(lambda one: f'{one.seconds:.2f} s')}",
    )
    yield found.row(
        f"{what}, 40 silent connections, which speak afterwards: dead",
        "dead",
        0,
        lambda one: one.counts.silent.asked - one.counts.silent.alive,
    )
    yield found.row(
        f"{what}, half-open connections during it: failed",
        "failed",
        0,
        lambda one: one.counts.half_open.failed + one.report.two_ports,
        f"of {found.each(lambda one: one.counts.half_open.opened)}",
    )
    yield found.row(
        f"{what}, UDP at 500 a second from each of two VMs: lost",
        "lost",
        0,
        lambda one: one.counts.udp.lost,
        f"of {found.each(lambda one: one.counts.udp.sent)}; external ports of a flow: "
        f"{found.each(lambda one: max(c.udp.sources for c in one.report.vms.values()))}",
    )
    yield found.row(
        f"{what}, 40 UDP flows with an exchange every 20 s: changed their external port, or unanswered",
        "changed",
        0,
        lambda one: one.counts.udp_slow.changed + one.counts.udp_slow.lost,
    )
    yield found.row(
        f"{what}, new connections during it: failed",
        "failed",
        0,
        lambda one: one.counts.new.failed,
        f"of {found.each(lambda one: one.counts.new.opened)}",
    )
    yield found.row(
        f"{what}, echo requests from outside to a floating IP: lost",
        "lost",
        0,
        lambda one: one.report.inbound[floating_of(1)].ping.lost,
        f"of {found.each(lambda one: one.report.inbound[floating_of(1)].ping.sent)}",
    )
    yield found.row(
        f"{what}, two TCP streams of 20 Mbit/s through it: longest pause",
        "ms",
        50,
        lambda one: one.counts.bulk.longest_pause_ms,
        f"broken: {found.each(lambda one: one.counts.bulk.broken)}; "
        f"the traffic's own processes late by at most, in ms: {found.each(lambda one: one.report.late_ms)}",
    )


def _killed(options: Options) -> Iterator[Row]:
    times = 2 if options.quick else 10

    def trial(system: Gateways) -> list[Killed]:
        gateway_trials.two_gateways(system)
        return [gateway_trials.killed(system, turn, slow=turn < 2) for turn in range(times)]

    found = Found("kill", trial)
    what = "gateway killed"
    directions: dict[str, Callable[[Killed], float]] = {
        "outbound": lambda one: one.outbound,
        "replies": lambda one: one.replies,
        "inbound to a floating IP": lambda one: one.inbound,
    }
    for name, of in directions.items():
        yield found.row(f"{what}, longest gap {name}, worst of {times}", "ms", 300, of, found.each(_rounded(of)))
    yield found.row(
        f"{what}, 100 established connections with colliding source ports: dead 3 s later, worst of {times}",
        "dead",
        5,
        lambda one: one.dead,
        found.each(lambda one: one.dead),
    )
    yield found.row(
        f"{what}, 40 UDP flows with an exchange every 20 s: changed their external port, or unanswered",
        "changed",
        0,
        lambda one: one.slow_changed or 0,
        "of the first two",
    )
    few = 2 if options.quick else 5

    def sooner(system: OursGateways) -> list[float]:
        gateway_trials.two_gateways(system)
        return [gateway_trials.killed(system, turn, slow=False).worst for turn in range(few)]

    made: dict[str, Callable[[Lab], OursGateways]] = {
        f"{what}, with BFD each 50 ms": lambda lab: OursGateways(lab, "--bfd-interval-ms", "50"),
        "gateway without power (no connection is closed)": DarkGateways,
    }
    for n, (name, make) in enumerate(made.items()):
        results, reason = _tried(f"natkill{n}", make, sooner)
        yield Row(
            f"nat: {name}: longest gap of all three, worst of {few}",
            max(results, default=None),
            "ms",
            None,
            None,
            reason or f"ours {', '.join(f'{one:.0f}' for one in results)}",
        )


def _rounded(of: Callable[[Killed], float]) -> Callable[[Killed], int]:
    return lambda one: round(of(one))


def _many(options: Options) -> Iterator[Row]:
    def twenty(system: Gateways) -> list[Spread]:
        away, stay = ["g1"], ["g2", "g3", "g4"]
        gateway_trials.many_routers(system, 20, away, stay, stay)
        return [gateway_trials.scale_in(system, 20, away)]

    found = Found("twenty", twenty)
    what = "20 routers on one of 4 computes scaled in"
    yield from _spread_rows(found, what)
    yield found.row(
        f"{what}: most on one of the other three",
        "routers",
        7,
        lambda one: max(one.places.values()),
        f"by compute: {found.each(lambda one: dict(sorted(one.places.items())))}",
    )

    def three(system: Gateways) -> list[Spread]:
        names = ["g1", "g2", "g3", "g4", "g5"]
        gateway_trials.many_routers(system, 10, names, [], names[3:])
        return [gateway_trials.scale_in(system, 10, names[:3])]

    yield from _spread_rows(Found("three", three), "3 of 5 computes scaled in at once, 10 routers")


def _spread_rows(found: Found, what: str) -> Iterator[Row]:
    yield found.row(
        f"{what}: connections broken",
        "broken",
        0,
        lambda one: one.broken,
        f"of {found.each(lambda one: one.wanted)}; took {found.each(lambda one: f'{one.seconds:.1f} s')}; "
        f"slowest answer within a connection {found.each(lambda one: f'{one.slowest:.0f} ms')}; "
        f"routers by compute before: {found.each(lambda one: dict(sorted(one.before.items())))}",
    )
    yield found.row(
        f"{what}: what else tenants would have noticed",
        "lines",
        0,
        lambda one: len(one.failures),
        found.each(lambda one: ", ".join(one.failures[:4]) or "nothing"),
    )
    yield found.row(
        f"{what}: most moves of one router",
        "moves",
        1,
        lambda one: max(one.moves.values()),
        f"routers by moves: {found.each(lambda one: dict(sorted(Counter(one.moves.values()).items())))}",
    )


def _emptied(options: Options) -> Iterator[Row]:
    for number, limit in ((1000, 10), (50_000, 20)):
        name = f"nat: from start until the old compute carries nothing, {number:,} connections"
        results, reason = _tried(f"natempty{number}", OursGateways, partial(_with_many, number))
        if not results:
            yield Row(name, None, "s", None, limit, reason)
            continue
        found = results[0]
        yield Row(
            name,
            found.seconds,
            "s",
            None,
            limit,
            f"over {found.end_points} remote end points, real TCP sockets; OVN breaks them, so there is nothing to time",
        )
        yield Row(f"{name}: dead afterwards", found.made - found.alive, "dead", None, 0, f"{found.made} were made")
        beside = f"{name}: what another VM has noticed"
        yield Row(beside, len(found.broken), "lines", None, 0, "; ".join(found.broken))


def _with_many(number: int, system: OursGateways) -> list[gateway_price.Emptied]:
    gateway_trials.two_gateways(system)
    return [gateway_price.emptied(system, number)]


def _price(options: Options) -> Iterator[Row]:
    turns, seconds, fill = (2, 6.0, 20.0) if options.quick else (3, 10.0, AFTER_CLOSE + 10.0)

    def trial(system: OursGateways) -> list[gateway_price.Price]:
        gateway_trials.two_gateways(system)
        return [gateway_price.price(system, _NEW_RATE, turns, seconds, fill)]

    name = f"nat: price of the standing record at {_NEW_RATE:.0f} new connections a second"
    results, reason = _tried("natprice", OursGateways, trial)
    for where, limit in (("gateway", 2), ("controller", 15)):
        if not results:
            yield Row(f"{name}, {where}", None, "% of a core", None, limit, reason)
            continue
        found = results[0]
        on, off = getattr(found, f"{where}_on"), getattr(found, f"{where}_off")
        note = f"{median(on):.1f} with, {median(off):.1f} without, {rows.spread(on)} and {rows.spread(off)}; "
        note += f"really {min(found.rates):.0f} to {max(found.rates):.0f} a second"
        yield Row(f"{name}, {where}", median(on) - median(off), "% of a core", None, limit, note)


def _lost(options: Options) -> Iterator[Row]:
    name = "nat: highest rate tried at which no record of a new connection is lost"

    def trial(system: OursGateways) -> list[gateway_price.Lost]:
        gateway_trials.two_gateways(system)
        found = []
        for rate in _RATES:
            found.append(gateway_price.lost_at(system, rate, _RATE_SECONDS))
            if found[-1].lost:
                break
        return found

    results, reason = _tried("natlost", OursGateways, trial)
    whole = [one.rate for one in results if not one.lost]
    lossy = [f"at {one.rate:.0f} a second {one.lost} of {one.opened}" for one in results if one.lost]
    note = (
        reason
        or f"UDP datagrams, each of a connection of its own; lost {lossy[0] if lossy else 'none: no faster here'}"
    )
    yield Row(name, max(whole) if whole else None, "a second", None, None, note)


PARTS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "planned": _planned,
    "killed": _killed,
    "emptied": _emptied,
    "price": _price,
    "lost": _lost,
    "many": _many,
}


def run(options: Options, parts: Sequence[str] = tuple(PARTS)) -> Iterator[Row]:
    """Rows."""
    for part in parts:
        say(f"nat: {part}")
        yield from PARTS[part](options)


def main() -> int:
    """Some parts only."""
    parser = argparse.ArgumentParser(prog="python -m bench.nat", description="Parts of the benchmark `nat`.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which (default: all): {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # labs are taken down on the way out
    found = list(run(Options(quick=arguments.quick), arguments.parts or tuple(PARTS)))
    rows.print_table(found)
    return 1 if any(row.passed is False for row in found) else 0


if __name__ == "__main__":
    sys.exit(main())
