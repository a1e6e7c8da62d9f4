"""Flows, groups and meters as values: what the compiler yields and the OpenFlow encoder consumes.

This file knows names, not numbers: a match field is its Open vSwitch name (``"reg6"``, ``"eth_dst"``), and
`ebbtide.openflow.oxm` knows its wire id, width and prerequisites. Values are hashable, comparable and printable;
nothing in here knows an OpenFlow version, a switch or a clock.

Integers carry every value: a MAC is a 48-bit int, an IPv4 address a 32-bit int, an IPv6 address a 128-bit int.
"""

from __future__ import annotations

from typing import NamedTuple, Union

import msgspec

# Reserved OpenFlow ports (OpenFlow 1.3 section A.2.1).
IN_PORT = 0xFFFFFFF8
TABLE = 0xFFFFFFF9
NORMAL = 0xFFFFFFFA
FLOOD = 0xFFFFFFFB
ALL = 0xFFFFFFFC
CONTROLLER = 0xFFFFFFFD
LOCAL = 0xFFFFFFFE
ANY = 0xFFFFFFFF


class M(NamedTuple):
    """One match field: name, value and mask (None: exact)."""

    name: str
    value: int
    mask: int | None = None


Match = tuple[M, ...]


def match(**fields: int | tuple[int, int]) -> Match:
    """Build a match. An int is exact, a (value, mask) pair is masked. Order of writing does not matter to equality:
    the encoder puts prerequisites first; here fields are kept sorted by name."""
    new = tuple.__new__  # M's own does the same by a call more
    return tuple([new(M, (k, *v)) if type(v) is tuple else new(M, (k, v, None)) for k, v in sorted(fields.items())])


class Output(msgspec.Struct, frozen=True, tag=True):
    """Send to an OpenFlow port; `max_len` counts only for CONTROLLER."""

    port: int
    max_len: int = 0xFFFF


class ToGroup(msgspec.Struct, frozen=True, tag=True):
    """Process the packet by a group."""

    group_id: int


class SetField(msgspec.Struct, frozen=True, tag=True):
    """Write `value` into the whole field, or under `mask` (NX reg_load2 in 1.3 and 1.4)."""

    name: str
    value: int
    mask: int | None = None


class Load(msgspec.Struct, frozen=True, tag=True):
    """NX reg_load: write `value` into `nbits` bits of the field from bit `offset`."""

    name: str
    offset: int
    nbits: int
    value: int


class Move(msgspec.Struct, frozen=True, tag=True):
    """NX reg_move: copy `nbits` bits from one field to another."""

    src: str
    dst: str
    nbits: int
    src_offset: int = 0
    dst_offset: int = 0


class OutputReg(msgspec.Struct, frozen=True, tag=True):
    """NX output_reg: send to the port whose number is in these bits of a field."""

    name: str
    offset: int
    nbits: int
    max_len: int = 0xFFFF


class Resubmit(msgspec.Struct, frozen=True, tag=True):
    """NX resubmit_table: look the packet up in `table` too, then go on with the next action.

    `ct` searches with the conntrack original tuple (resubmit(,table,ct)).
    """

    table: int
    ct: bool = False


class ToController(msgspec.Struct, frozen=True, tag=True):
    """NX controller2: punt, with a reason, controller id, userdata and meter (NXAC_CONTROLLER2)."""

    max_len: int = 0xFFFF
    reason: int = 1
    controller_id: int = 0
    userdata: bytes = b""
    pause: bool = False
    meter_id: int | None = None


class DecTtl(msgspec.Struct, frozen=True, tag=True):
    """Decrement the IP TTL; a packet whose TTL would reach 0 goes to the controller."""


class PushVlan(msgspec.Struct, frozen=True, tag=True):
    """Push an 802.1Q tag."""

    ethertype: int = 0x8100


class PopVlan(msgspec.Struct, frozen=True, tag=True):
    """Pop the outermost VLAN tag."""


class StackPush(msgspec.Struct, frozen=True, tag=True):
    """NX stack_push of a subfield."""

    name: str
    offset: int
    nbits: int


class StackPop(msgspec.Struct, frozen=True, tag=True):
    """NX stack_pop into a subfield."""

    name: str
    offset: int
    nbits: int


class Nat(msgspec.Struct, frozen=True, tag=True):
    """NX nat, inside Ct. `src`/`dst` choose direction; neither means "apply an existing mapping"."""

    src: bool = False
    dst: bool = False
    ip_min: int | None = None
    ip_max: int | None = None
    port_min: int | None = None
    port_max: int | None = None
    ipv6: bool = False
    persistent: bool = False
    hash: bool = False
    random: bool = False


class Ct(msgspec.Struct, frozen=True, tag=True):
    """NX ct. Zone is a constant, or the low 16 bits of the field named `zone_field`. `table` None: no recirculation."""

    zone: int = 0
    zone_field: str | None = None
    table: int | None = None
    commit: bool = False
    force: bool = False
    alg: int = 0
    nat: Nat | None = None
    exec: tuple[SetField | Load | Move, ...] = ()


class CtClear(msgspec.Struct, frozen=True, tag=True):
    """NX ct_clear: forget the packet's conntrack state."""


class Conjunction(msgspec.Struct, frozen=True, tag=True):
    """NX conjunction(id, clause/n_clauses); clause counts from 1."""

    id: int
    clause: int
    n_clauses: int


class Trunc(msgspec.Struct, frozen=True, tag=True):
    """NX output_trunc: output, cut to `max_len` bytes."""

    port: int
    max_len: int


class CheckLarger(msgspec.Struct, frozen=True, tag=True):
    """NX check_pkt_larger: write into this one bit of the field whether the frame, less a VLAN tag, has more than `length` bytes.

    Open vSwitch carries out what comes after it in the same flow in two versions, and forgets what they have changed once that flow is
    done: a resubmit that leads to it has to be the last action.
    """

    length: int
    name: str
    offset: int


class LearnMatch(msgspec.Struct, frozen=True, tag=True):
    """learn(): the new flow matches `dst` on the packet's `src` field, or on the constant `value` if `src` is None."""

    dst: str
    nbits: int
    dst_offset: int = 0
    src: str | None = None
    src_offset: int = 0
    value: int = 0


class LearnLoad(msgspec.Struct, frozen=True, tag=True):
    """learn(): the new flow loads into `dst` the packet's `src` field, or the constant `value`."""

    dst: str
    nbits: int
    dst_offset: int = 0
    src: str | None = None
    src_offset: int = 0
    value: int = 0


class LearnOutput(msgspec.Struct, frozen=True, tag=True):
    """learn(): the new flow outputs to the port in `src`."""

    src: str
    nbits: int
    src_offset: int = 0


class Learn(msgspec.Struct, frozen=True, tag=True):
    """NX learn: this action writes a flow. Its flows carry `cookie`, which must be of kind *volatile*; no more than `limit` of them in one
    table (0: any number)."""

    table: int
    priority: int
    cookie: int
    specs: tuple[LearnMatch | LearnLoad | LearnOutput, ...]
    idle_timeout: int = 0
    hard_timeout: int = 0
    fin_idle_timeout: int = 0
    fin_hard_timeout: int = 0
    send_flow_removed: bool = False
    delete_learned: bool = False
    limit: int = 0


Action = Union[
    Output,
    ToGroup,
    SetField,
    Load,
    Move,
    OutputReg,
    Resubmit,
    ToController,
    DecTtl,
    PushVlan,
    PopVlan,
    StackPush,
    StackPop,
    Ct,
    CtClear,
    Conjunction,
    Trunc,
    CheckLarger,
    Learn,
]


class Flow(msgspec.Struct, frozen=True):
    """One flow entry.

    `cookie` carries kind, feature and owner in its upper 32 bits; the lower 32 are 0 here and are filled in with the
    hash of the encoded content where the flow is encoded (docs/decisions.md, "Cookies").
    `metadata` is the write-metadata instruction as (value, mask).
    """

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...] = ()
    goto: int | None = None
    metadata: tuple[int, int] | None = None
    meter: int | None = None
    cookie: int = 0
    idle_timeout: int = 0
    hard_timeout: int = 0
    send_flow_removed: bool = False
    #: The counters start anew when it replaces another: Open vSwitch lets a flow inherit those of the one it replaces, though not its age.
    reset_counts: bool = False


class Bucket(msgspec.Struct, frozen=True):
    """One group bucket. `watch_port`/`watch_group` count for fast-failover groups."""

    actions: tuple[Action, ...]
    weight: int = 0
    watch_port: int = ANY
    watch_group: int = ANY


class GroupType:
    """OpenFlow group types (1.3 section A.3.4.2)."""

    ALL = 0
    SELECT = 1
    INDIRECT = 2
    FAST_FAILOVER = 3


class Group(msgspec.Struct, frozen=True):
    """One group entry."""

    group_id: int
    type: int
    buckets: tuple[Bucket, ...]


class Meter(msgspec.Struct, frozen=True):
    """One meter with one drop band. `rate` in packets/s if `pktps`, else kbit/s; `burst` in the same unit (0: none)."""

    meter_id: int
    rate: int
    burst: int = 0
    pktps: bool = True
