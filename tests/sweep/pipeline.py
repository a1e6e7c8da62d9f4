"""Packets through the tables of one simulated switch, as far as the controller's own packets and a guest's first words need it.

The rules are those of `tests/fakes/flow_table.py` (resubmits keep changes, a group of type all copies, fast failover takes the first live
bucket, an output to in_port is dropped, a miss drops), here on flows as they stand in the switch and on real frames. Conntrack is
`tests/fakes/conntrack.py`; what `ct(exec())` writes is not kept. An action that is not known is counted in `unhandled`: tests hold it at 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ebbtide.compile.flow import (
    ANY,
    CONTROLLER,
    IN_PORT,
    TABLE,
    Action,
    Bucket,
    CheckLarger,
    Ct,
    CtClear,
    DecTtl,
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
from ebbtide.openflow import actions as codec
from ebbtide.openflow import flows, oxm
from tests.fakes import conntrack
from tests.sweep import frames
from tests.sweep.frames import Packet
from tests.sweep.tables import ALL, FAST_FAILOVER, SELECT, Entry, Group, Tables

MAX_DEPTH, MAX_CUTS = 64, 6  # as Open vSwitch: resubmits within each other, recirculations of one packet
NOWHERE = 0xFFFFFFFD  # the in_port of what the controller sends


class Port(NamedTuple):
    """One OpenFlow port. `kind` is the interface's type ("" a guest's tap); `peer` the far end's address, or the physical network."""

    ofport: int
    name: str
    kind: str = ""
    mac: int = 0
    peer: str = ""
    iface_id: str = ""
    live: bool = True


class Punt(NamedTuple):
    """A packet for the controller: where it was sent up, by which flow, with which fields around it."""

    reason: int
    table: int
    cookie: int
    userdata: bytes
    data: bytes
    total: int
    around: Match


class _Walk(NamedTuple):
    """What goes along with one packet."""

    packet: Packet
    body: bytes
    size: int
    depth: int = 0
    cuts: int = 0
    table: int = 0
    cookie: int = 0xFFFFFFFFFFFFFFFF

    def copied(self) -> _Walk:
        return self._replace(packet=dict(self.packet), depth=self.depth + 1)


_AROUND = ("in_port", "tun_id", "tun_src", "tun_dst", "metadata", "ct_state", "ct_zone", "ct_mark", "ct_nw_proto")
_AROUND_CT = ("ct_nw_src", "ct_nw_dst", "ct_tp_src", "ct_tp_dst")
_REGISTERS = tuple(f"reg{n}" for n in range(16))
_WIDE = {f"xreg{n}": (2 * n, 2) for n in range(8)} | {f"xxreg{n}": (4 * n, 4) for n in range(4)}


class Pipeline:
    """`send(port, frame, tun_id)` carries a frame on from a port, `punt` a packet to the controllers."""

    def __init__(self, tables: Tables, send: Callable[[Port, bytes, int], None], punt: Callable[[Punt], None]) -> None:
        self.tables = tables
        self.ports: dict[int, Port] = {}
        self.zones: dict[int, conntrack.Entries] = {}
        self.unhandled: Counter[str] = Counter()
        self._send, self._punt = send, punt

    def receive(self, in_port: int, frame: bytes, around: Packet | None = None) -> None:
        """A frame comes in by a port; `around`: of the tunnel that it comes out of."""
        packet, body = frames.read(frame)
        self._look_up(0, _Walk({**packet, **(around or {}), "in_port": in_port}, body, len(frame)))

    def send_out(self, in_port: int, actions: Iterable[Action | codec.Unknown], frame: bytes) -> None:
        """A packet-out."""
        packet, body = frames.read(frame)
        self._act(actions, _Walk({**packet, "in_port": in_port}, body, len(frame)))

    # --- tables ---

    def _look_up(self, table: int, walk: _Walk) -> None:
        if walk.depth > MAX_DEPTH:
            self.unhandled["too many resubmits"] += 1
            return
        while True:
            entry = self._hit(table, walk.packet)
            if entry is None:
                return
            entry.hit(walk.size, self.tables.now())
            here = walk._replace(table=table, cookie=entry.cookie)
            self._act(entry.program.actions, here)
            if entry.program.metadata is not None:
                value, mask = entry.program.metadata
                walk.packet["metadata"] = walk.packet.get("metadata", 0) & ~mask | value
            if entry.program.goto is None:
                return
            table = entry.program.goto

    def _hit(self, table: int, packet: Packet) -> Entry | None:
        get = packet.get
        for entry in self.tables.of_table(table):
            for name, value, mask in entry.fields:
                held = get(name, 0)
                if (held if mask is None else held & mask) != value:
                    break
            else:
                return entry
        return None

    # --- actions ---

    def _act(self, actions: Iterable[Action | codec.Unknown], walk: _Walk) -> None:
        packet = walk.packet
        for action in actions:
            match action:
                case SetField():
                    mask = oxm.field(action.name).limit if action.mask is None else action.mask
                    _set(packet, action.name, _get(packet, action.name) & ~mask | action.value & mask)
                case Load():
                    _write(packet, action.name, action.offset, action.nbits, action.value)
                case Move():
                    value = _read(packet, action.src, action.src_offset, action.nbits)
                    _write(packet, action.dst, action.dst_offset, action.nbits, value)
                case CtClear():
                    for name in [name for name in packet if name.startswith("ct_")]:
                        del packet[name]
                case PushVlan():
                    packet |= {"vlan_vid": frames.TAGGED, "vlan_pcp": 0}
                case PopVlan():
                    packet["vlan_vid"] = 0
                case CheckLarger():
                    larger = len(frames.write({**packet, "vlan_vid": 0}, walk.body)) > action.length
                    _write(packet, action.name, action.offset, 1, int(larger))
                case DecTtl():
                    if packet.get("nw_ttl", 0) <= 1:
                        return
                    packet["nw_ttl"] -= 1
                case Resubmit():
                    self._look_up(action.table, walk._replace(depth=walk.depth + 1))
                case Ct():
                    self._track(action, walk)
                case Learn():
                    self._learn(action, packet)
                case ToController():
                    self._up(walk, action.reason, action.userdata, action.max_len)
                case ToGroup():
                    for bucket in self._buckets(self.tables.groups.get(action.group_id)):
                        self._act(bucket.actions, walk.copied())
                case Output():
                    self._output(action.port, walk, action.max_len)
                case OutputReg():
                    self._output(_read(packet, action.name, action.offset, action.nbits), walk, action.max_len)
                case _:
                    self.unhandled[str(action)] += 1

    def _up(self, walk: _Walk, reason: int, userdata: bytes, max_len: int) -> None:
        data, packet = frames.write(walk.packet, walk.body), walk.packet
        names = [n for n in (*_AROUND, *_AROUND_CT, *_REGISTERS) if packet.get(n)]
        around = tuple(M(name, packet[name]) for name in names)
        self._punt(Punt(reason, walk.table, walk.cookie, userdata, data[:max_len], len(data), around))

    def _output(self, number: int, walk: _Walk, max_len: int) -> None:
        if number == CONTROLLER:
            self._up(walk, 1, b"", max_len)
            return
        if number == TABLE:
            self._look_up(0, walk.copied())
            return
        if number == walk.packet["in_port"]:
            return
        port = self.ports.get(walk.packet["in_port"] if number == IN_PORT else number)
        if port is not None:
            self._send(port, frames.write(walk.packet, walk.body), walk.packet.get("tun_id", 0))

    def _buckets(self, group: Group | None) -> Iterable[Bucket]:
        if group is None:
            return ()
        if group.type == ALL:
            return group.buckets
        live = [bucket for bucket in group.buckets if group.type != FAST_FAILOVER or self._is_live(bucket)]
        if group.type == SELECT and len(live) > 1:
            self.unhandled["a choice by hash"] += 1
        return live[:1]

    def _is_live(self, bucket: Bucket) -> bool:
        if bucket.watch_group != ANY:
            watched = self.tables.groups.get(bucket.watch_group)
            return watched is not None and any(b.watch_port == ANY or self._is_up(b) for b in watched.buckets)
        return self._is_up(bucket)

    def _is_up(self, bucket: Bucket) -> bool:
        port = self.ports.get(bucket.watch_port)
        return port is not None and port.live

    def _track(self, action: Ct, walk: _Walk) -> None:
        zone = action.zone if action.zone_field is None else _read(walk.packet, action.zone_field, 0, 16)
        held = self.zones.get(zone, conntrack.EMPTY)
        self.zones[zone], after = conntrack.track(held, walk.packet, action.nat, action.commit)
        if action.table is None:
            return
        if walk.cuts >= MAX_CUTS:
            self.unhandled["too many recirculations"] += 1
            return
        again = walk._replace(packet={**after, "ct_zone": zone}, depth=0, cuts=walk.cuts + 1)
        self._look_up(action.table, again)

    def _learn(self, action: Learn, packet: Packet) -> None:
        matched: dict[str, tuple[int, int]] = {}
        loads: list[Action] = []
        for spec in action.specs:
            if isinstance(spec, LearnOutput):
                loads.append(Output(_read(packet, spec.src, spec.src_offset, spec.nbits)))
                continue
            value = spec.value if spec.src is None else _read(packet, spec.src, spec.src_offset, spec.nbits)
            if isinstance(spec, LearnMatch):
                old, mask = matched.get(spec.dst, (0, 0))
                bits = (1 << spec.nbits) - 1 << spec.dst_offset
                matched[spec.dst] = old | value << spec.dst_offset, mask | bits
            else:
                loads.append(Load(spec.dst, spec.dst_offset, spec.nbits, value))
        data = oxm.encode_match(tuple(M(name, *bits) for name, bits in sorted(matched.items())))
        made = Entry(action.table, action.priority, data, oxm.decode_match(data), action.cookie, self.tables.now())
        made.idle, made.hard = action.idle_timeout, action.hard_timeout
        made.flags = flows.SEND_FLOW_REMOVED if action.send_flow_removed else 0
        made.instructions = codec.encode_instructions(tuple(loads))
        made.program = made.program._replace(actions=tuple(loads))
        there = self.tables.flows.get(made.key)
        if there is not None and (there.instructions, there.cookie) == (made.instructions, made.cookie):
            there.used = there.since = self.tables.now()
            return
        if action.limit and there is None:
            held = sum(e.cookie == action.cookie and e.table == action.table for e in self.tables.flows.values())
            if held >= action.limit:
                return
        self.tables.put(made)


def _get(packet: Packet, name: str) -> int:
    if name in _WIDE:
        first, count = _WIDE[name]
        value = 0
        for n in range(first, first + count):
            value = value << 32 | packet.get(f"reg{n}", 0)
        return value
    return packet.get(name, 0)


def _set(packet: Packet, name: str, value: int) -> None:
    if name in _WIDE:
        first, count = _WIDE[name]
        for n in reversed(range(first, first + count)):
            packet[f"reg{n}"] = value & 0xFFFFFFFF
            value >>= 32
        return
    packet[name] = value


def _read(packet: Packet, name: str, offset: int, nbits: int) -> int:
    return _get(packet, name) >> offset & (1 << nbits) - 1


def _write(packet: Packet, name: str, offset: int, nbits: int, value: int) -> None:
    mask = (1 << nbits) - 1 << offset
    _set(packet, name, _get(packet, name) & ~mask | value << offset)
