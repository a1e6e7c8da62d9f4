"""The tables of a small world at each step of a move, and what they do with one packet: all that an exploration asks of the compiler.

One router serves VMs on computes C and D (p1, p2) and on the gateways A and B themselves (p3, p4); its NAT moves from A to B. A *step* is a
place in the order of the phases: 0 is before the move, then each phase, then after it. A *version* is what a switch may hold at one
instant: what the compiler makes for a step, with what has gone since the beginning taken away or not, and the rows of imported
connections. A packet that conntrack cuts is looked up anew, so that each of its stages may see another version: that is what caches of
a datapath do when they lag behind its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple
from unittest.mock import patch

import msgspec

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import Translation, imported, replied
from ebbtide.compile.flow import Action, Flow, Load, Resubmit, ToGroup
from ebbtide.compile.ledger import Punt, T
from ebbtide.model import moves
from ebbtide.model.addresses import ipv4
from ebbtide.model.facts import Binding, Designation, Fact, Lease, Move, MovePhase, Neighbour
from ebbtide.model.observed import View
from ebbtide.model.state import NAT, State
from tests.fakes.clouds import ACTIVE, FIRST_TUNNEL, compute, external, leg, network, ofport, port, router, state, view
from tests.fakes.conntrack import EMPTY, Ends, Entries, Packet, without_state
from tests.fakes.flow_table import Table, Walk, arp_request

A, B, C, D = 1, 2, 3, 4
SWITCHES = (A, B, C, D)
NAMES = {A: "A", B: "B", C: "C", D: "D"}
VMS = {"p1": C, "p2": D, "p3": A, "p4": B}
TAG = 1
R, REMOTE, NEXT_HOP = (ipv4(a) or 0 for a in ("203.0.9.10", "198.51.100.7", "203.0.9.1"))
ROUTER = router(TAG, external="x9", addresses=("203.0.9.10",))
NEXT_HOP_MAC, ROUTER_MAC = 0x06_0000_000001, ROUTER.mac
ZONE = ledger.router_zone(TAG)
BLOCKS = {A: (2000, 2009), B: (3000, 3009)}

Frozen = tuple[tuple[str, int], ...]
Mapping = tuple[int, int]
Rows = frozenset[tuple[Ends, Mapping]]
NO_ROWS: Rows = frozenset()


class Version(NamedTuple):
    """What a switch may hold: the number of a table, and rows for connections out and for answers."""

    table: int
    out: Rows = NO_ROWS
    back: Rows = NO_ROWS


class Sent(NamedTuple):
    """Out by the wire. `teaches`: under the router's MAC, so that a switch outside learns it from this."""

    packet: Frozen
    teaches: bool


class Handed(NamedTuple):
    """To a gateway, through a tunnel."""

    gateway: int
    packet: Frozen


class Delivered(NamedTuple):
    """To a VM."""

    port: str


class Known(NamedTuple):
    """The mapping of a connection is in the table of exports, or has been sent to the controller (`recorded`)."""

    original: Ends
    mapping: Mapping
    recorded: bool = False


class _Cut(NamedTuple):
    table: int
    packet: Frozen


Event = Sent | Handed | Delivered | Known
#: For a stage of a packet that has met a newer version: which one.
Seen = frozenset[tuple[tuple[int, Frozen], Version]]


class Switch(NamedTuple):
    """What a switch may hold, the oldest first. What it has once done to a packet by a newer version, it does not do by an older one to its
    like: its cache is corrected flow by flow, and never back."""

    versions: tuple[Version, ...] = ()
    seen: Seen = frozenset()


class Outcome(NamedTuple):
    """What may come of one packet: conntrack's entries afterwards, what happened, and what has been seen by then."""

    entries: Entries
    events: tuple[Event, ...]
    seen: Seen


def freeze(packet: Packet) -> Frozen:
    """A packet as a value."""
    return tuple(sorted((name, value) for name, value in packet.items() if value))


class Site:
    """The world for one order of the phases. `blocks`: ports of each gateway; `record`: whether connections are recorded; `standby`:
    B has stood by for A."""

    def __init__(
        self,
        order: Sequence[MovePhase] = tuple(MovePhase),
        record: bool = True,
        blocks: dict[int, tuple[int, int]] = BLOCKS,
        standby: bool = False,
    ) -> None:
        self.steps = ("before", *(p.value for p in order), "after")
        self.record, self.blocks, self.standby = record, blocks, standby
        self.tables: list[Table] = []
        self._numbers: dict[object, int] = {}
        self._merged: dict[Version, Table] = {}
        self._stages: dict[object, tuple[Entries, tuple[Event | _Cut, ...]]] = {}
        self._passes: dict[object, frozenset[Outcome]] = {}
        self._sends: dict[object, frozenset[tuple[Event, ...]]] = {}
        left_out = [p for p in MovePhase if p not in order]
        with patch.object(moves, "_ORDER", [*order, *left_out]):
            found = [self._state(None), *(self._state(p) for p in order), self._state(None, over=True)]
            made = [{n: Table.of(s, n, view(s, n)) for n in SWITCHES} for s in found]
        self._made = made
        self._flags: dict[tuple[int, int], int] = {}
        lazy = dict(made[0])
        #: By step and switch: the numbers of its tables, before what is gone is taken away, and after.
        self.versions: list[dict[int, tuple[int, ...]]] = []
        for step in made:
            lazy = {n: lazy[n].made(step[n]) for n in SWITCHES}
            self.versions.append({n: self._distinct([lazy[n], step[n]]) for n in SWITCHES})

    def _state(self, phase: MovePhase | None, over: bool = False) -> State:
        wired = {"provider_mappings": (("physnet", "br-ex"),)}
        facts: list[Fact] = [compute(n, **(wired if n in (A, B) else {})) for n in SWITCHES]
        facts += [network(1), external(9), Neighbour("x9", "203.0.9.1", NEXT_HOP_MAC), leg(TAG, 1)]
        facts += [msgspec.structs.replace(ROUTER, record=self.record)]
        facts += [port(n, 1, addresses=(f"10.1.0.{n}",)) for n in range(1, 5)]
        facts += [Binding(name, at, ACTIVE) for name, at in VMS.items()]
        facts += [Designation(NAT, "r1", B) if over else Designation(NAT, "r1", A, standby=B if self.standby else 0)]
        facts += [Lease("r1", *self.blocks[A], B if over else A, opening=not over)]
        if self.standby or phase is not None or over:
            facts += [Lease("r1", *self.blocks[B], B, careful=phase is None and not over)]
        if phase is not None:
            facts += [Move("r1", A, B, phase)]
        return state(*facts)

    def _distinct(self, tables: Iterable[Table]) -> tuple[int, ...]:
        numbers = []
        for table in tables:
            key = table.number, frozenset(table.flows.values()), frozenset(table.groups.values())
            if key not in self._numbers:
                self._numbers[key] = len(self.tables)
                self.tables.append(table)
            numbers.append(self._numbers[key])
        return tuple(dict.fromkeys(numbers))

    # --- packets ---

    def send(self, versions: tuple[Version, ...], vm: str, packet: Packet, dead: int) -> frozenset[tuple[Event, ...]]:
        """What may come of what a VM sends on a compute without a part in the NAT. `dead`: a gateway; the compute may know that or not."""
        key = versions, vm, freeze(packet), dead
        if key not in self._sends:
            found = set()
            for version in versions:
                for shut in {frozenset[int](), frozenset({FIRST_TUNNEL + dead} if dead else ())}:
                    stage = _Stage(self.table(version), EMPTY, shut)
                    stage.enter(VMS[vm], ofport(int(vm[1:])), packet)
                    assert not any(isinstance(e, _Cut) for e in stage.events)
                    found.add(tuple(stage.events))
            self._sends[key] = frozenset(found)  # type: ignore[arg-type]
        return self._sends[key]

    def table(self, version: Version) -> Table:
        """What a version is made of."""
        if version not in self._merged:
            base = self.tables[version.table]
            rows = [imported(ROUTER, _translation(known)) for known in version.out]
            rows += [replied(ROUTER, _translation(known)) for known in version.back]
            self._merged[version] = base.made(Table(base.number, rows, (), View())) if rows else base
        return self._merged[version]

    def arrive(self, at: Switch, entries: Entries, packet: Frozen) -> frozenset[Outcome]:
        """What may come of a packet that comes to a gateway, by the port in `in_port`."""
        return self._pass(at, entries, T.CLASSIFIER, packet)

    def _pass(self, at: Switch, entries: Entries, start: int, packet: Frozen) -> frozenset[Outcome]:
        key = at, entries, start, packet
        if key not in self._passes:
            found: dict[tuple[Entries, tuple[Event, ...]], Outcome] = {}
            look = start, self._examined(at, start, packet)
            met = dict(at.seen).get(look)
            newest = at.versions.index(met) if met in at.versions else 0
            for age in range(newest, len(at.versions)):
                after, events = self._stage(at.versions[age], entries, start, packet)
                ways = {Outcome(after, (), at.seen)}
                for event in events:
                    ways = {w for way in ways for w in self._goes_on(at.versions, way, event)}
                for way in ways:
                    # Of the versions that do the same, the oldest leaves most open.
                    if (way.entries, way.events) not in found:
                        seen = {k: v for k, v in way.seen if k != look} | ({look: at.versions[age]} if age else {})
                        found[way.entries, way.events] = way._replace(seen=frozenset(seen.items()))
            self._passes[key] = frozenset(found.values())
        return self._passes[key]

    def _goes_on(self, versions: tuple[Version, ...], way: Outcome, event: Event | _Cut) -> Iterable[Outcome]:
        if not isinstance(event, _Cut):
            return [way._replace(events=(*way.events, event))]
        further = self._pass(Switch(versions, way.seen), way.entries, event.table, event.packet)
        return [w._replace(events=way.events + w.events) for w in further]

    def _examined(self, at: Switch, start: int, packet: Frozen) -> Frozen:
        """What a datapath's flow for it matches on: two packets that differ in nothing that a table asks have one. A cut ends the flow:
        what later tables ask is asked of another."""
        where = self.tables[at.versions[0].table].number, start
        if where not in self._flags:
            self._flags[where] = reduce(or_, (_flags(step[where[0]], start) for step in self._made))
        return tuple((k, v & self._flags[where] if k == "tcp_flags" else v) for k, v in packet)

    def _stage(
        self, version: Version, entries: Entries, start: int, packet: Frozen
    ) -> tuple[Entries, tuple[Event | _Cut, ...]]:
        key = version, entries, start, packet
        if key not in self._stages:
            stage = _Stage(self.table(version), entries)
            stage.onward(start, dict(packet))
            self._stages[key] = stage.entries(), tuple(stage.events)
        return self._stages[key]

    def teaches(self, version: Version) -> bool:
        """Whether who holds this answers for the router's address under its MAC."""
        request = freeze({**arp_request(NEXT_HOP_MAC, NEXT_HOP, R), "in_port": _wire(self.tables[version.table])})
        _, events = self._stage(version, EMPTY, T.CLASSIFIER, request)
        return any(isinstance(e, Sent) and e.teaches for e in events)

    def door(self, gateway: int, vm: str = "") -> int:
        """The port of a gateway that leads outside, or to a VM."""
        return ofport(int(vm[1:])) if vm else _wire(next(t for t in self.tables if t.number == gateway))


def _flags(table: Table, start: int) -> int:
    """The TCP flags that any flow asks for that a packet may meet from a table on."""
    flows: dict[int, list[Flow]] = {}
    for flow in table.flows.values():
        flows.setdefault(flow.table, []).append(flow)
    met, todo, asked = set[int](), [start], 0
    while todo:
        here = todo.pop()
        if here in met:
            continue
        met.add(here)
        for flow in flows.get(here, ()):
            todo += [a.table for a in _actions(table, flow.actions) if isinstance(a, Resubmit)]
            todo += [] if flow.goto is None else [flow.goto]
            asked = reduce(or_, (-1 if m.mask is None else m.mask for m in flow.match if m.name == "tcp_flags"), asked)
    return asked


def _actions(table: Table, actions: Iterable[Action]) -> Iterator[Action]:
    """These, and those of the groups that they lead to."""
    for action in actions:
        yield action
        if isinstance(action, ToGroup):
            yield from _actions(table, (a for bucket in table.groups[action.group_id].buckets for a in bucket.actions))


def _wire(table: Table) -> int:
    return next(iter(table.wires))


def _translation(known: tuple[Ends, Mapping]) -> Translation:
    original, mapping = known
    return Translation(*original, *mapping)


_PROTO = {6: "tcp", 17: "udp"}
_OPENED = ledger.userdata(Punt.OPENED, TAG)


class _Stage(Walk):
    """A walk in one compute's tables, until it leaves them or is cut."""

    def __init__(self, table: Table, entries: Entries, dead: frozenset[int] = frozenset()) -> None:
        super().__init__({table.number: table})
        self.events: list[Event | _Cut] = []
        self.table = table
        table.zones, table.dead, table.learnt = {ZONE: entries}, set(dead), {}

    def onward(self, start: int, packet: Packet) -> None:
        """On from a table."""
        self._table(self.table, start, packet, 0, 0)
        for flow in self.table.learnt.values():
            self.events.append(_exported(flow))
        for _, data, packet in self.punts:
            if data == _OPENED:
                name = _PROTO[packet["ct_nw_proto"]]
                ct = Ends(*(packet[f"ct_{part}"] for part in ("nw_proto", "nw_src", "tp_src", "nw_dst", "tp_dst")))
                self.events.append(Known(ct, (packet["ipv4_src"], packet[f"{name}_src"]), recorded=True))

    def entries(self) -> Entries:
        """What conntrack holds now."""
        return self.table.zones[ZONE]

    def _recirculate(self, at: Table, table: int, packet: Packet, crossed: int) -> None:
        self.events.append(_Cut(table, freeze(packet)))

    def _output(self, at: Table, out: int, packet: Packet, crossed: int) -> None:
        if out == packet.get("in_port"):
            return
        frame = without_state(packet)
        if out in at.taps:
            self.events.append(Delivered(at.taps[out]))
        elif out in at.wires:
            kept = {name: frame[name] for name in _HEADERS if name in frame}
            self.events.append(Sent(freeze(kept), frame["eth_src"] == ROUTER_MAC))
        elif frame["tun_id"] == network(1).vni:
            # Tables of networks do not change in a move: at the far end it goes to the tap.
            (name,) = (f"p{n}" for n in range(1, 5) if port(n, 1).mac == frame["eth_dst"])
            assert VMS[name] == at.tunnels[out]
            self.events.append(Delivered(name))
        else:
            # Addresses of the link and TTL decide nothing there: without them packets on several ways are one.
            kept = {name: frame[name] for name in (*_HEADERS, "tun_id") if name in frame}
            far = at.tunnels[out]
            self.events.append(Handed(far, freeze({**kept, "nw_ttl": 63, "in_port": FIRST_TUNNEL + at.number})))


_HEADERS = (
    *("eth_type", "ip_proto", "ipv4_src", "ipv4_dst", "tcp_src", "tcp_dst", "tcp_flags", "udp_src", "udp_dst"),
    *("icmpv4_type", "icmp_id", "arp_op"),
)


def _exported(flow: Flow) -> Known:
    """What a row of the table of exports says."""
    fields = {m.name: m.value for m in flow.match}
    name = _PROTO[fields["ip_proto"]]
    original = Ends(
        fields["ip_proto"], fields["ipv4_src"], fields[f"{name}_src"], fields["ipv4_dst"], fields[f"{name}_dst"]
    )
    loads = {a.name: a.value for a in flow.actions if isinstance(a, Load)}
    return Known(original, (loads[ledger.EXPORT_ADDRESS_REG], loads[ledger.EXPORT_PORT_REG]))
