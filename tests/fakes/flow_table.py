"""Flow tables in memory, of several computes, through which packets are walked.

Only what our pipeline uses is here; anything else is a KeyError. The rules are those of OpenFlow 1.3 (sections 5.3 to 5.10) and
ovs-actions(7): a resubmit's changes stay for the actions after it, a group of type all gives each bucket its own copy, an output
to the port in `in_port` is silently dropped, a tunnel takes `tun_id` along and nothing else, a table miss without a flow drops.

Two flows of one priority that both match must do the same: which of them a switch takes is nobody's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ebbtide.compile import compiler, ledger
from ebbtide.compile.flow import (
    Action,
    Ct,
    Flow,
    Group,
    GroupType,
    Load,
    Match,
    Move,
    Output,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
)
from ebbtide.compile.fragment import Fragment
from ebbtide.model.observed import View
from ebbtide.model.state import State

Packet = dict[str, int]
MAX_DEPTH = 64  # resubmits within each other (Open vSwitch's MAX_RESUBMIT_RECURSION is 64)
MAX_TUNNELS = 8  # a frame that crosses this many is in a loop: no walk of ours needs more than three
BROADCAST = 0xFFFF_FFFF_FFFF


class Loop(AssertionError):
    """A packet goes round."""


class Table:
    """What one compute holds: flows by table, groups, and where each of its OpenFlow ports leads."""

    def __init__(self, number: int, flows: Iterable[Flow], groups: Iterable[Group], shown: View) -> None:
        self.number = number
        self.flows: dict[tuple[int, int, Match], Flow] = {}
        self.groups: dict[int, Group] = {}
        self.by_table: dict[int, list[Flow]] = {}
        self.taps: dict[int, str] = {}
        self.tunnels: dict[int, int] = {}
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
        self.by_table = {}
        for flow in sorted(self.flows.values(), key=lambda f: -f.priority):
            self.by_table.setdefault(flow.table, []).append(flow)

    def made(self, newer: Table) -> Table:
        """A copy to which what `newer` holds has been added, and from which nothing has been taken yet."""
        both = Table(self.number, [*self.flows.values(), *newer.flows.values()], [], View())
        both.groups = {**self.groups, **newer.groups}
        both.taps, both.tunnels = {**self.taps, **newer.taps}, {**self.tunnels, **newer.tunnels}
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
    """One packet's way from a tap: `delivered` are (compute, port, packet), `punted` (compute, userdata); `cut`: by conntrack."""

    def __init__(self, tables: Mapping[int, Table]) -> None:
        self.tables = tables
        self.delivered: list[tuple[int, str, Packet]] = []
        self.punted: list[tuple[int, bytes]] = []
        self.tunnels = 0
        self.cut = False

    @property
    def taps(self) -> list[tuple[int, str]]:
        """Where it came out, one entry a copy."""
        return sorted((number, name) for number, name, _ in self.delivered)

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
                case SetField():
                    mask = -1 if action.mask is None else action.mask
                    packet[action.name] = packet.get(action.name, 0) & ~mask | action.value
                case Load():
                    _write(packet, action.name, action.offset, action.nbits, action.value)
                case Move():
                    value = packet.get(action.src, 0) >> action.src_offset & (1 << action.nbits) - 1
                    _write(packet, action.dst, action.dst_offset, action.nbits, value)
                case Resubmit():
                    self._table(at, action.table, packet, depth + 1, crossed)
                case Ct(table=int() as table, commit=False):
                    # Cut off: it comes back as it is, in a translation of its own.
                    self.cut = True
                    self._table(at, table, dict(packet), depth + 1, crossed)
                case ToController():
                    self.punted.append((at.number, action.userdata))
                case ToGroup():
                    group = at.groups[action.group_id]
                    assert group.type == GroupType.ALL
                    for bucket in group.buckets:
                        self._actions(at, bucket.actions, dict(packet), depth + 1, crossed)
                case Output():
                    self._output(at, action.port, packet, crossed)
                case _:
                    raise KeyError(f"the walker does not know {action}")

    def _output(self, at: Table, out: int, packet: Packet, crossed: int) -> None:
        if out == packet["in_port"]:
            return
        frame = {name: value for name, value in packet.items() if name not in _PIPELINE}
        if out in at.taps:
            self.delivered.append((at.number, at.taps[out], frame))
            return
        peer = self.tables.get(at.tunnels[out])
        back = [p for p, n in peer.tunnels.items() if n == at.number] if peer else []
        self.tunnels += 1
        if peer is not None and back:
            self.enter(peer.number, back[0], {**frame, "tun_id": packet.get("tun_id", 0)}, crossed + 1)


_PIPELINE = {"in_port", "tun_id", "metadata", *ledger.REGISTERS}


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
