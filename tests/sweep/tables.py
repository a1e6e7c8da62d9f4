"""Flows, groups and meters of one simulated switch, changed by whole messages as Open vSwitch would.

What a message does, and with which error it is refused, is what ovs-vswitchd 3.1 does; `test_tables.py` sends the same messages to both.
A refused message changes nothing, and `Tables.saved` and `restore` make a bundle all or nothing. Bytes are kept as they came (in the
canonical form in which a switch gives them back); they are decoded once, for the packets that are walked through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from ebbtide.compile.flow import ANY, Action, Bucket, Match, Meter, Output, ToGroup
from ebbtide.errors import ProtocolError
from ebbtide.openflow import actions, flows, oxm
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import Frame

_FLOW_MOD = Struct("!QQBBHHHIIIHH")
_GROUP_MOD = Struct("!HBxI")
_STATS = Struct("!HBxIIHHHHHxxQQQHH")
_STATS_REQUEST = Struct("!B3xII4xQQ")
ALL, SELECT, INDIRECT, FAST_FAILOVER = range(4)
MOST_METERS = 200_000


class Refusal(Exception):
    """A message is refused, with this type and code of an OpenFlow error."""

    def __init__(self, kind: int, code: int) -> None:
        super().__init__(f"{kind}/{code}")
        self.kind, self.code = kind, code


BAD_FIELD, BAD_PREREQ = (4, 6), (4, 9)
BAD_OUT_GROUP, BAD_GOTO = (2, 9), (3, 2)
BAD_TABLE, OVERLAP, BAD_COMMAND = (5, 2), (5, 3), (5, 6)
GROUP_EXISTS, INVALID_GROUP, UNKNOWN_GROUP, BAD_GROUP_TYPE, BAD_GROUP_COMMAND = (6, 0), (6, 1), (6, 8), (6, 10), (6, 11)
METER_EXISTS, INVALID_METER, UNKNOWN_METER = (12, 1), (12, 2), (12, 3)


class Program(NamedTuple):
    """A flow's instructions, decoded."""

    actions: tuple[Action, ...]
    goto: int | None
    metadata: tuple[int, int] | None
    meter: int | None
    groups: frozenset[int]
    ports: frozenset[int]


@lru_cache(maxsize=1 << 16)
def _match(data: bytes) -> tuple[bytes, Match]:
    """A match in the form that a switch gives back, and decoded."""
    found = oxm.decode_match(data)
    if any(field.name.startswith("oxm:") for field in found):
        raise Refusal(*BAD_FIELD)
    if oxm.missing_prerequisite(found):
        raise Refusal(*BAD_PREREQ)
    return oxm.encode_match(found), found


@lru_cache(maxsize=1 << 16)
def _program(data: bytes) -> tuple[bytes, Program]:
    """Instructions in the form that a switch gives back, and decoded."""
    found = actions.decode_instructions(data)
    known = tuple(a for a in found.actions if not isinstance(a, actions.Unknown))
    groups = frozenset(a.group_id for a in known if isinstance(a, ToGroup))
    ports = frozenset(a.port for a in known if isinstance(a, Output))
    return flows.canonical_instructions(data), Program(known, *found[1:4], groups, ports)


@lru_cache(maxsize=1 << 14)
def _buckets(data: bytes) -> tuple[Bucket, ...]:
    return flows.decode_buckets(data)


class Entry:
    """One flow, and what it has counted."""

    __slots__ = (
        "cookie",
        "fields",
        "flags",
        "hard",
        "idle",
        "instructions",
        "match",
        "n_bytes",
        "n_packets",
        "priority",
        "program",
        "since",
        "table",
        "used",
    )

    def __init__(self, table: int, priority: int, match: bytes, fields: Match, cookie: int, now: float) -> None:
        self.table, self.priority, self.match, self.fields = table, priority, match, fields
        self.cookie, self.since, self.used = cookie, now, now
        self.idle = self.hard = self.flags = self.n_packets = self.n_bytes = 0
        self.instructions, self.program = _program(b"")

    @property
    def key(self) -> flows.Key:
        """What identifies it."""
        return self.table, self.priority, self.match

    def hit(self, size: int, now: float) -> None:
        """A packet has matched it."""
        self.n_packets += 1
        self.n_bytes += size
        self.used = now

    def lapses(self) -> float:
        """When it goes by itself; infinity: never."""
        return min(
            self.used + self.idle if self.idle else float("inf"), self.since + self.hard if self.hard else float("inf")
        )

    def stats(self, now: float) -> bytes:
        """Its entry in a flow dump."""
        age = max(0.0, now - self.since)
        length = 48 + len(self.match) + len(self.instructions)
        # The match begins with its own type and length, which stand at the end of the layout.
        return (
            _STATS.pack(
                *(length, self.table, int(age), int(age % 1 * 1e9), self.priority, self.idle, self.hard, self.flags),
                *(0, self.cookie, self.n_packets, self.n_bytes, 0, 0),
            )[:-4]
            + self.match
            + self.instructions
        )


class Group(NamedTuple):
    """One group as it was sent."""

    group_id: int
    type: int
    data: bytes

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Its buckets, decoded."""
        return _buckets(self.data)


class Wanted(NamedTuple):
    """What a message that names many flows asks for: these of a table (255: of all) that are covered by match and masked cookie."""

    table: int
    out_port: int
    out_group: int
    cookie: int
    mask: int
    match: bytes
    fields: Match
    priority: int | None = None

    @classmethod
    def of_stats(cls, body: bytes) -> Wanted:
        """Of a request for flow statistics."""
        table, out_port, out_group, cookie, mask = _STATS_REQUEST.unpack_from(body)
        return cls(table, out_port, out_group, cookie, mask, *_match(body[_STATS_REQUEST.size :]))

    def covers(self, entry: Entry) -> bool:
        """Whether an entry is one of them."""
        if (entry.cookie ^ self.cookie) & self.mask or self.table not in (flows.ALL_TABLES, entry.table):
            return False
        if self.out_group != ANY and self.out_group not in entry.program.groups:
            return False
        if self.out_port != ANY and self.out_port not in entry.program.ports:
            return False
        if self.priority is not None:
            return (entry.priority, entry.match) == (self.priority, self.match)
        return not self.fields or _covers(self.fields, entry.fields)


def _covers(wide: Match, narrow: Match) -> bool:
    held = {name: (value, mask) for name, value, mask in narrow}
    for name, value, mask in wide:
        bits = oxm.field(name).limit if mask is None else mask
        own_value, own_mask = held.get(name, (0, 0))
        if own_mask is None:
            own_mask = oxm.field(name).limit
        if bits & ~own_mask or (own_value ^ value) & bits:
            return False
    return True


def _overlap(one: Match, other: Match) -> bool:
    held = {name: (value, mask) for name, value, mask in one}
    for name, value, mask in other:
        if name in held:
            own_value, own_mask = held[name]
            limit = oxm.field(name).limit
            both = (limit if mask is None else mask) & (limit if own_mask is None else own_mask)
            if (value ^ own_value) & both:
                return False
    return True


class Tables:
    """All of one switch. `on_removed(entry, reason)` is called for flows that go and were to be told of."""

    def __init__(self, clock: Callable[[], float], on_removed: Callable[[Entry, int], None] = lambda _e, _r: None):
        self.flows: dict[flows.Key, Entry] = {}
        self.groups: dict[int, Group] = {}
        self.meters: dict[int, Meter] = {}
        self.now = clock
        self._on_removed = on_removed
        self._ordered: dict[int, list[Entry]] | None = None

    # --- all or nothing ---

    def saved(self) -> tuple[dict[flows.Key, Entry], dict[int, Group], dict[int, Meter]]:
        """What it is now, for `restore`."""
        return dict(self.flows), dict(self.groups), dict(self.meters)

    def restore(self, saved: tuple[dict[flows.Key, Entry], dict[int, Group], dict[int, Meter]]) -> None:
        """As if nothing had come since."""
        self.flows, self.groups, self.meters = saved
        self._ordered = None

    def clear(self) -> None:
        """A switch that starts."""
        self.restore(({}, {}, {}))

    # --- messages ---

    def carry_out(self, frame: Frame) -> None:
        """A flow-mod, group-mod or meter-mod.

        Raises:
            Refusal: it is not carried out, and nothing has changed.
        """
        try:
            if frame.type == m.FLOW_MOD:
                self._flow_mod(frame.body)
            elif frame.type == m.GROUP_MOD:
                self._group_mod(frame.body)
            else:
                self._meter_mod(frame)
        except ProtocolError:
            raise Refusal(1, 6) from None

    def _flow_mod(self, body: bytes) -> None:
        (cookie, mask, table, command, idle, hard, priority, _, out_port, out_group, flags, _) = _FLOW_MOD.unpack_from(
            body
        )
        _, padded = oxm.match_end(body, _FLOW_MOD.size)
        match, fields = _match(body[_FLOW_MOD.size : padded])
        if command == flows.ADD:
            entry = Entry(table, priority, match, fields, cookie, self.now())
            entry.idle, entry.hard, entry.flags = idle, hard, flags
            self._add(entry, body[padded:], bool(flags & flows.CHECK_OVERLAP))
            return
        strict = command in (flows.MODIFY_STRICT, flows.DELETE_STRICT)
        wanted = Wanted(table, out_port, out_group, cookie, mask, match, fields, priority if strict else None)
        if command in (flows.DELETE, flows.DELETE_STRICT):
            self._remove([e for e in self.flows.values() if wanted.covers(e)], 2)
        elif command in (flows.MODIFY, flows.MODIFY_STRICT):
            self._modify(wanted._replace(out_port=ANY, out_group=ANY), body[padded:])
        else:
            raise Refusal(*BAD_COMMAND)

    def _check(self, table: int, data: bytes) -> tuple[bytes, Program]:
        instructions, program = _program(data)
        if program.goto is not None and program.goto <= table:
            raise Refusal(*BAD_GOTO)
        if program.meter is not None and program.meter not in self.meters:
            raise Refusal(*INVALID_METER)
        if not program.groups <= self.groups.keys():
            raise Refusal(*BAD_OUT_GROUP)
        return instructions, program

    def _add(self, entry: Entry, data: bytes, check_overlap: bool) -> None:
        if entry.table == flows.ALL_TABLES:
            raise Refusal(*BAD_TABLE)
        entry.instructions, entry.program = self._check(entry.table, data)
        old = self.flows.get(entry.key)
        if check_overlap and any(
            e.table == entry.table and e.priority == entry.priority and _overlap(e.fields, entry.fields)
            for e in self.flows.values()
        ):
            raise Refusal(*OVERLAP)
        if old is not None and not entry.flags & flows.RESET_COUNTS:
            # Open vSwitch lets a flow inherit the counters of the one it replaces, though not its age.
            entry.n_packets, entry.n_bytes = old.n_packets, old.n_bytes
        self.put(entry)

    def put(self, entry: Entry) -> None:
        """Put a flow in, in the place of one with its key: of a message, or one that a flow has learnt."""
        self.flows.pop(entry.key, None)
        self.flows[entry.key] = entry
        self._ordered = None

    def _modify(self, wanted: Wanted, data: bytes) -> None:
        found = [e for e in self.flows.values() if wanted.covers(e)]
        checked = [(e, *self._check(e.table, data)) for e in found]
        for old, instructions, program in checked:
            # A new value, so that what was saved before keeps the old one.
            new = Entry(old.table, old.priority, old.match, old.fields, old.cookie, old.since)
            new.idle, new.hard, new.flags, new.used = old.idle, old.hard, old.flags, old.used
            new.n_packets, new.n_bytes = old.n_packets, old.n_bytes
            new.instructions, new.program = instructions, program
            self.flows[new.key] = new
        self._ordered = None

    def _remove(self, gone: Iterable[Entry], reason: int) -> None:
        for entry in gone:
            del self.flows[entry.key]
            if entry.flags & flows.SEND_FLOW_REMOVED:
                self._on_removed(entry, reason)
        self._ordered = None

    def expire(self) -> float:
        """Take away what has lapsed; when the next does (infinity: none will)."""
        now = self.now()
        gone = [e for e in self.flows.values() if (e.idle or e.hard) and e.lapses() <= now]
        for entry in gone:
            self._remove([entry], 1 if entry.hard and entry.since + entry.hard <= now else 0)
        return min((e.lapses() for e in self.flows.values() if e.idle or e.hard), default=float("inf"))

    def _group_mod(self, body: bytes) -> None:
        command, kind, number = _GROUP_MOD.unpack_from(body)
        data = body[_GROUP_MOD.size :]
        if command == flows.GROUP_DELETE:
            gone = list(self.groups) if number == flows.ALL_GROUPS else [number] if number in self.groups else []
            for one in gone:
                del self.groups[one]
                self._remove([e for e in self.flows.values() if one in e.program.groups], 3)
            return
        if command not in (flows.GROUP_ADD, flows.GROUP_MODIFY, flows.GROUP_ADD_OR_MODIFY):
            raise Refusal(*BAD_GROUP_COMMAND)
        made = Group(number, kind, data)
        if kind > FAST_FAILOVER:
            raise Refusal(*BAD_GROUP_TYPE)
        if number > 0xFFFFFF00 or (kind == INDIRECT and len(made.buckets) != 1):
            raise Refusal(*INVALID_GROUP)
        if kind == FAST_FAILOVER and any(b.watch_port == ANY and b.watch_group == ANY for b in made.buckets):
            raise Refusal(*INVALID_GROUP)
        if command == flows.GROUP_ADD and number in self.groups:
            raise Refusal(*GROUP_EXISTS)
        if command == flows.GROUP_MODIFY and number not in self.groups:
            raise Refusal(*UNKNOWN_GROUP)
        self.groups[number] = made

    def _meter_mod(self, frame: Frame) -> None:
        message = m.decode(frame)
        if not isinstance(message, m.MeterMod):
            raise Refusal(1, 6)
        number, meter = message.meter.meter_id, message.meter
        if message.command == 2:
            for one in list(self.meters) if number == 0xFFFFFFFF else [number] if number in self.meters else []:
                del self.meters[one]
                self._remove([e for e in self.flows.values() if e.program.meter == one], 3)
            return
        if not 0 < number <= MOST_METERS:
            raise Refusal(*INVALID_METER)
        if message.command == 0 and number in self.meters:
            raise Refusal(*METER_EXISTS)
        if message.command == 1 and number not in self.meters:
            raise Refusal(*UNKNOWN_METER)
        self.meters[number] = meter

    # --- packets ---

    def of_table(self, table: int) -> list[Entry]:
        """Its flows, the highest priority first; of one priority the older first."""
        if self._ordered is None:
            self._ordered = {}
            for entry in sorted(self.flows.values(), key=lambda e: -e.priority):
                self._ordered.setdefault(entry.table, []).append(entry)
        return self._ordered.get(table, [])
