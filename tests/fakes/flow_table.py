"""Flow tables in memory, of several computes, through which packets are walked.

Only what our pipeline uses is here; anything else is a KeyError. The rules are those of OpenFlow 1.3 (sections 5.3 to 5.10) and
ovs-actions(7): a resubmit's changes stay for the actions after it, a group of type all gives each bucket its own copy, one of type
fast failover is its first bucket that is alive, an output to the port in `in_port` is silently dropped, a tunnel takes `tun_id` along
and nothing else, a table miss without a flow drops, and `ct` with a table sends a copy through conntrack and on from there. What conntrack
holds stays from walk to walk. A packet's `size` is that of its frame, without a VLAN tag (bytes; 0 where it does not matter).

Two flows of one priority that both match must do the same: which of them a switch takes is nobody's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ebbtide.compile import compiler, ledger
from ebbtide.compile.flow import (
    ANY,
    Action,
    Bucket,
    CheckLarger,
    Ct,
    CtClear,
    DecTtl,
    Flow,
    Group,
    GroupType,
    Learn,
    LearnMatch,
    LearnOutput,
    Load,
    M,
    Match,
    Move,
    Output,
    OutputReg,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
)
from ebbtide.compile.fragment import Fragment
from ebbtide.model.observed import View
from ebbtide.model.state import State
from tests.fakes import conntrack
from tests.fakes.conntrack import Entries, Packet

MAX_DEPTH = 64  # resubmits within each other (Open vSwitch's MAX_RESUBMIT_RECURSION is 64)
MAX_CUTS = 6  # times that one packet is recirculated (Open vSwitch's own datapath drops it after that)
MAX_TUNNELS = 8  # a frame that crosses this many is in a loop: no walk of ours needs more than three
TAGGED = 0x1000  # in vlan_vid: there is a tag
BROADCAST = 0xFFFF_FFFF_FFFF


class Loop(AssertionError):
    """A packet goes round."""


class Table:
    """What one compute holds: flows by table, groups, where each of its OpenFlow ports leads, and what conntrack knows, by zone.

    `dead` are ports that BFD has found dead; `learnt` what learn() has written, which no table of ours ever looks up.
    """

    def __init__(self, number: int, flows: Iterable[Flow], groups: Iterable[Group], shown: View) -> None:
        self.number = number
        self.flows: dict[tuple[int, int, Match], Flow] = {}
        self.groups: dict[int, Group] = {}
        self.by_table: dict[int, list[Flow]] = {}
        self.taps: dict[int, str] = {}
        self.tunnels: dict[int, int] = {}
        self.wires: dict[int, str] = {}
        self.zones: dict[int, Entries] = {}
        self.marks: dict[tuple[int, conntrack.Ends], int] = {}
        self.dead: set[int] = set()
        self.learnt: dict[tuple[int, int, Match], Flow] = {}
        self.add(flows, groups, shown)

    @classmethod
    def of(cls, state: State, number: int, shown: View) -> Table:
        """What the compiler makes for this compute."""
        return cls(number, *contents(compiler.desired(state, number, shown)), shown)

    def add(self, flows: Iterable[Flow], groups: Iterable[Group], shown: View) -> None:
        """Make: what has the same key is replaced, the rest stays."""
        self.flows |= {(f.table, f.priority, f.match): f for f in flows}
        self.groups |= {g.group_id: g for g in groups}
        self.taps |= {i.ofport: name for name, i in shown.ports.items() if i.ofport}
        self.tunnels |= {i.ofport: peer for peer, i in shown.tunnels.items() if i.ofport}
        self.wires |= {i.ofport: physical for physical, i in shown.providers.items() if i.ofport}
        self.by_table = {}
        for flow in sorted(self.flows.values(), key=lambda f: -f.priority):
            self.by_table.setdefault(flow.table, []).append(flow)

    def made(self, newer: Table) -> Table:
        """A copy to which what `newer` holds has been added, and from which nothing has been taken yet."""
        both = Table(self.number, [*self.flows.values(), *newer.flows.values()], [], View())
        both.groups = {**self.groups, **newer.groups}
        both.taps, both.tunnels = {**self.taps, **newer.taps}, {**self.tunnels, **newer.tunnels}
        both.wires, both.zones, both.dead = {**self.wires, **newer.wires}, self.zones, self.dead
        return both

    def lookup(self, table: int, packet: Packet) -> Flow | None:
        """The flow that the packet hits."""
        hit: Flow | None = None
        for flow in self.by_table.get(table, ()):
            if hit is not None and flow.priority < hit.priority:
                break
            if _matches(flow.match, packet):
                if hit is not None:
                    same = (hit.actions, hit.goto, hit.metadata) == (flow.actions, flow.goto, flow.metadata)
                    assert same, f"which of them is hit? {hit} {flow}"
                hit = flow
        return hit


def contents(fragments: Mapping[Any, Fragment]) -> tuple[list[Flow], list[Group]]:
    """All flows and groups of the fragments."""
    made = fragments.values()
    return [f for m in made for f in m.flows], [g for m in made for g in m.groups]


def _matches(match: Match, packet: Packet) -> bool:
    for name, value, mask in match:
        held = packet.get(name, 0)
        if (held if mask is None else held & mask) != value:
            return False
    return True


class Walk:
    """One packet's way: `delivered` to taps and `sent` by wires are (compute, name, packet), `punts` (compute, userdata, packet). `cut`: it
    has been through conntrack. `vnis`: of the tunnels that it has crossed, all copies taken together."""

    def __init__(self, tables: Mapping[int, Table]) -> None:
        self.tables = tables
        self.delivered: list[tuple[int, str, Packet]] = []
        self.sent: list[tuple[int, str, Packet]] = []
        self.punts: list[tuple[int, bytes, Packet]] = []
        self.vnis: list[int] = []
        self.cut = False

    @property
    def taps(self) -> list[tuple[int, str]]:
        """Where it came out, one entry a copy."""
        return sorted((number, name) for number, name, _ in self.delivered)

    @property
    def tunnels(self) -> int:
        """How many tunnels it has crossed."""
        return len(self.vnis)

    @property
    def wires(self) -> list[tuple[int, str]]:
        """Where it went outside, one entry a copy."""
        return sorted((number, name) for number, name, _ in self.sent)

    def enter(self, number: int, in_port: int, packet: Packet, crossed: int = 0) -> Walk:
        """A packet comes in by a port."""
        if crossed > MAX_TUNNELS:
            raise Loop(f"{packet} has crossed {crossed} tunnels")
        self._table(self.tables[number], ledger.T.CLASSIFIER, {**packet, "in_port": in_port}, 0, crossed)
        return self

    def _table(self, at: Table, table: int, packet: Packet, depth: int, crossed: int) -> None:
        while True:
            flow = at.lookup(table, packet)
            if flow is None:
                return
            self._actions(at, flow.actions, packet, depth, crossed)
            if flow.metadata is not None:
                value, mask = flow.metadata
                packet["metadata"] = packet.get("metadata", 0) & ~mask | value
            if flow.goto is None:
                return
            assert flow.goto > table, "OpenFlow goes forward only (1.3, section 5.1)"
            table = flow.goto

    def _actions(self, at: Table, actions: Iterable[Action], packet: Packet, depth: int, crossed: int) -> None:
        if depth > MAX_DEPTH:
            raise Loop(f"{packet} is resubmitted for ever")
        for action in actions:
            match action:
                case SetField() | Load() | Move() | CtClear() | PushVlan() | PopVlan():
                    _change(packet, action)
                case CheckLarger():
                    _write(packet, action.name, action.offset, 1, int(packet.get("size", 0) > action.length))
                case DecTtl():
                    assert packet["nw_ttl"] > 1, "tables stop a TTL that ends here"
                    packet["nw_ttl"] -= 1
                case Resubmit(ct=False):
                    self._table(at, action.table, packet, depth + 1, crossed)
                case Ct(table=int() as table):
                    self.cut = True
                    self._recirculate(at, table, _tracked(at, action, packet), crossed)
                case Ct(commit=True):
                    _tracked(at, action, packet)
                case Learn():
                    made = _learnt(action, packet)
                    at.learnt[(made.table, made.priority, made.match)] = made
                case ToController():
                    self.punts.append((at.number, action.userdata, dict(packet)))
                case ToGroup():
                    for bucket in _buckets(at, at.groups[action.group_id]):
                        self._actions(at, bucket.actions, dict(packet), depth + 1, crossed)
                case Output():
                    self._output(at, action.port, packet, crossed)
                case OutputReg():
                    self._output(at, _read(packet, action.name, action.offset, action.nbits), packet, crossed)
                case _:
                    raise KeyError(f"the walker does not know {action}")

    def _recirculate(self, at: Table, table: int, packet: Packet, crossed: int) -> None:
        packet[_CUTS] = packet.get(_CUTS, 0) + 1
        if packet[_CUTS] > MAX_CUTS:
            raise Loop(f"{packet} is recirculated for ever")
        self._table(at, table, packet, 0, crossed)

    def _output(self, at: Table, out: int, packet: Packet, crossed: int) -> None:
        if out == packet["in_port"]:
            return
        frame = {k: v for k, v in conntrack.without_state(packet).items() if k not in _PIPELINE}
        if out in at.taps:
            self.delivered.append((at.number, at.taps[out], frame))
            return
        if out in at.wires:
            self.sent.append((at.number, at.wires[out], frame))
            return
        peer = self.tables.get(at.tunnels[out])
        back = [p for p, n in peer.tunnels.items() if n == at.number] if peer else []
        self.vnis.append(packet.get("tun_id", 0))
        if peer is not None and back and out not in at.dead:
            self.enter(peer.number, back[0], {**frame, "tun_id": self.vnis[-1]}, crossed + 1)


def _buckets(at: Table, group: Group) -> Iterable[Bucket]:
    if group.type == GroupType.ALL:
        return group.buckets
    assert group.type == GroupType.FAST_FAILOVER
    return [bucket for bucket in group.buckets if _is_alive(at, bucket)][:1]


def _is_alive(at: Table, bucket: Bucket) -> bool:
    """A bucket without a watch is alive in a group of type all, and is refused in one of fast failover (seen on 3.1.0)."""
    if bucket.watch_group != ANY:
        return any(b.watch_port == ANY or b.watch_port not in at.dead for b in at.groups[bucket.watch_group].buckets)
    assert bucket.watch_port != ANY
    return bucket.watch_port not in at.dead


def _learnt(action: Learn, packet: Packet) -> Flow:
    """The flow that learn() writes."""
    matched: dict[str, tuple[int, int]] = {}
    loads = []
    for spec in action.specs:
        assert not isinstance(spec, LearnOutput)
        value = spec.value if spec.src is None else _read(packet, spec.src, spec.src_offset, spec.nbits)
        if isinstance(spec, LearnMatch):
            held, mask = matched.get(spec.dst, (0, 0))
            bits = (1 << spec.nbits) - 1 << spec.dst_offset
            matched[spec.dst] = held | value << spec.dst_offset, mask | bits
        else:
            loads.append(Load(spec.dst, spec.dst_offset, spec.nbits, value))
    fields = tuple(M(name, *bits) for name, bits in sorted(matched.items()))
    return Flow(action.table, action.priority, fields, actions=tuple(loads), cookie=action.cookie)


_CUTS = "cuts"
_PIPELINE = {"in_port", "tun_id", "metadata", _CUTS, *ledger.REGISTERS}


def _change(packet: Packet, action: Action) -> None:
    """Actions that do nothing but write into the packet."""
    match action:
        case SetField():
            mask = -1 if action.mask is None else action.mask
            packet[action.name] = packet.get(action.name, 0) & ~mask | action.value
        case Load():
            _write(packet, action.name, action.offset, action.nbits, action.value)
        case Move():
            _write(
                packet,
                action.dst,
                action.dst_offset,
                action.nbits,
                _read(packet, action.src, action.src_offset, action.nbits),
            )
        case CtClear():
            for name in [name for name in packet if name.startswith("ct_")]:
                del packet[name]
        case PushVlan():
            assert not packet.get("vlan_vid"), "one tag is all that we push"
            packet["vlan_vid"] = TAGGED
        case PopVlan():
            packet["vlan_vid"] = 0


def _tracked(at: Table, action: Ct, packet: Packet) -> Packet:
    """The packet after conntrack, which has noted what it is to note."""
    zone = action.zone if action.zone_field is None else packet[action.zone_field] & 0xFFFF
    held = at.zones.get(zone, frozenset())
    if action.force:
        entry, answer = conntrack.find(held, conntrack.ends(packet))
        held -= {entry} if answer else set()
    at.zones[zone], after = conntrack.track(held, packet, action.nat, action.commit)
    entry, _ = conntrack.find(at.zones[zone], conntrack.ends(packet))
    if entry is not None:
        key = zone, entry.original
        if action.commit and (action.exec or key not in at.marks):
            marked = {**packet, "ct_mark": 0}
            for change in action.exec:
                _change(marked, change)
            at.marks[key] = marked["ct_mark"]
        after["ct_mark"] = at.marks.get(key, 0)
    return after


def _read(packet: Packet, name: str, offset: int, nbits: int) -> int:
    return packet.get(name, 0) >> offset & (1 << nbits) - 1


def _write(packet: Packet, name: str, offset: int, nbits: int, value: int) -> None:
    mask = (1 << nbits) - 1 << offset
    packet[name] = packet.get(name, 0) & ~mask | value << offset


def unicast(source: int, destination: int) -> Packet:
    """A frame of no particular kind, from MAC to MAC."""
    return {"eth_src": source, "eth_dst": destination, "eth_type": 0x0800}


def arp_request(mac: int, address: int, wanted: int) -> Packet:
    """Who has `wanted`? Tell `address`."""
    return {
        "eth_src": mac,
        "eth_dst": BROADCAST,
        "eth_type": 0x0806,
        "arp_op": 1,
        "arp_sha": mac,
        "arp_spa": address,
        "arp_tha": 0,
        "arp_tpa": wanted,
    }
