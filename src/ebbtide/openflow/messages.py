"""OpenFlow messages as values, and the tables that turn them into bytes and back.

What lives here: one frozen value per message, `encode(message, xid, version)` and `decode(frame)`. Flows and groups
have their own, faster way in `flows`; FlowMod here is for all the commands that are not the hot path. A message that
we have no value for decodes to `Other`; bytes that contradict their own lengths raise RemoteProtocolError.
Reply parts of a multipart come as raw bodies and are read by `multipart`, when all of them are there.

Section numbers are of OpenFlow 1.3.5; the layouts that changed in 1.4 are in `versions`. Nicira messages: OVS
include/openflow/nicira-ext.h. The file is long because each message is a value, an encoder and a decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from struct import Struct
from struct import error as StructError
from typing import Any

import msgspec

from ebbtide.compile.flow import ANY, M, Match, Meter
from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow import actions, flows, oxm, versions
from ebbtide.openflow.framing import HEADER_LEN, MAX_MESSAGE_LEN, Frame, message

NICIRA = actions.NICIRA

# Message types (section 7.1.1, enum ofp_type; 30 and above are of 1.4).
HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, EXPERIMENTER, FEATURES_REQUEST, FEATURES_REPLY = range(7)
GET_CONFIG_REQUEST, GET_CONFIG_REPLY, SET_CONFIG, PACKET_IN, FLOW_REMOVED, PORT_STATUS, PACKET_OUT = range(7, 14)
FLOW_MOD, GROUP_MOD, MULTIPART_REQUEST, MULTIPART_REPLY, BARRIER_REQUEST, BARRIER_REPLY = 14, 15, 18, 19, 20, 21
ROLE_REQUEST, ROLE_REPLY, SET_ASYNC, METER_MOD, ROLE_STATUS = 24, 25, 28, 29, 30

# Nicira subtypes (OVS include/openvswitch/ofp-msgs.h).
_SET_PACKET_IN_FORMAT, _CT_FLUSH_ZONE, _PACKET_IN2, _CT_FLUSH = 16, 29, 30, 32


class _Message(msgspec.Struct, frozen=True):
    """What every message value is."""


class Hello(_Message, frozen=True):
    """Section 7.5.1. `versions` are wire versions: of the bitmap if there is one, else up to the header's."""

    versions: tuple[int, ...] = (versions.OF14, versions.OF13)


class EchoRequest(_Message, frozen=True):
    """Section 7.5.2: wants an EchoReply with the same data."""

    data: bytes = b""


class EchoReply(_Message, frozen=True):
    """Section 7.5.3."""

    data: bytes = b""


class Error(_Message, frozen=True):
    """Section 7.5.4: the switch refused a message. `data` is at least 64 bytes of it; `experimenter` is set (and
    `code` is its exp_type) where type is 0xffff."""

    type: int
    code: int
    data: bytes = b""
    experimenter: int = 0


class FeaturesRequest(_Message, frozen=True):
    """Section 7.3.1."""


class FeaturesReply(_Message, frozen=True):
    """Section 7.3.1: who the switch is."""

    datapath_id: int
    n_buffers: int = 0
    n_tables: int = 254
    auxiliary_id: int = 0
    capabilities: int = 0


class GetConfigRequest(_Message, frozen=True):
    """Section 7.3.2."""


class GetConfigReply(_Message, frozen=True):
    """Section 7.3.2. `flags` is fragment handling; `miss_send_len` how many bytes of a missed packet are sent."""

    flags: int = 0
    miss_send_len: int = 0


class SetConfig(_Message, frozen=True):
    """Section 7.3.2. `invalid_ttl_to_controller` became a set-async reason in 1.3."""

    flags: int = 0
    miss_send_len: int = 0xFFFF


class FlowMod(_Message, frozen=True):
    """Section 7.3.4.1. For any command (`flows.ADD` ... `flows.DELETE_STRICT`); `cookie` goes out as it is."""

    command: int
    table: int = flows.ALL_TABLES
    priority: int = 0
    match: Match = ()
    actions: tuple[actions.AnyAction, ...] = ()
    goto: int | None = None
    metadata: tuple[int, int] | None = None
    meter: int | None = None
    cookie: int = 0
    cookie_mask: int = 0
    idle_timeout: int = 0
    hard_timeout: int = 0
    out_port: int = ANY
    out_group: int = ANY
    flags: int = 0
    buffer_id: int = flows.NO_BUFFER


class GroupMod(_Message, frozen=True):
    """Section 7.3.4.2; `command` is of `flows.GROUP_*`."""

    command: int
    group_id: int
    type: int = 0
    buckets: tuple[Any, ...] = ()


class MeterMod(_Message, frozen=True):
    """Section 7.3.4.4: command 0 add, 1 modify, 2 delete (needs `meter.meter_id` only). One drop band."""

    command: int
    meter: Meter


class PacketOut(_Message, frozen=True):
    """Section 7.3.6: send `data` as if it had come from `in_port` (CONTROLLER: from nowhere)."""

    in_port: int
    actions: tuple[actions.AnyAction, ...]
    data: bytes = b""
    buffer_id: int = flows.NO_BUFFER


class PacketIn(_Message, frozen=True):
    """Section 7.4.1, and NXT_PACKET_IN2, which alone fills `userdata` and `continuation`.

    `match` holds the packet's metadata (in_port, registers, tun_*, ct_*) sorted by name. `total_len` is of the whole
    packet, of which `data` may be the beginning.
    """

    reason: int
    table: int
    cookie: int
    match: Match
    data: bytes
    total_len: int
    buffer_id: int = flows.NO_BUFFER
    userdata: bytes = b""
    continuation: bytes = b""


class FlowRemoved(_Message, frozen=True):
    """Section 7.4.2: an entry is gone. Reasons: 0 idle timeout, 1 hard timeout, 2 deleted, 3 its group or meter was
    deleted, 5 evicted. `match` is bytes, so (table, priority, match) is the key as in `flows`."""

    table: int
    priority: int
    match: bytes
    cookie: int
    reason: int
    n_packets: int
    n_bytes: int
    duration: float
    idle_timeout: int
    hard_timeout: int


class PortStatus(_Message, frozen=True):
    """Section 7.4.3. Reasons: 0 added, 1 deleted, 2 modified."""

    reason: int
    port: versions.PortFields


class MultipartRequest(_Message, frozen=True):
    """Section 7.3.5: `kind` and `body` as `multipart` makes them."""

    kind: int
    body: bytes = b""
    flags: int = 0


class MultipartReply(_Message, frozen=True):
    """Section 7.3.5: one part of a reply; flag 1 says that more follow."""

    kind: int
    body: bytes
    flags: int = 0


class BarrierRequest(_Message, frozen=True):
    """Section 7.3.8: answer when all before it is done."""


class BarrierReply(_Message, frozen=True):
    """Section 7.3.8."""


class RoleRequest(_Message, frozen=True):
    """Section 7.3.9: role 0 no change, 1 equal, 2 master, 3 slave."""

    role: int
    generation_id: int = 0


class RoleReply(_Message, frozen=True):
    """Section 7.3.9."""

    role: int
    generation_id: int


class RoleStatus(_Message, frozen=True):
    """1.4.1 section 7.4.4: the switch changed our role. Reasons: 0 another asked to be master, 1 configuration."""

    role: int
    reason: int
    generation_id: int


class SetAsync(_Message, frozen=True):
    """Section 7.3.10: reasons (bit masks) for which the switch reports, while we are master or equal."""

    packet_in: int = 0b111111
    port_status: int = 0b111
    flow_removed: int = 0b1111
    role_status: int = 0b11


class BundleControl(_Message, frozen=True):
    """1.4.1 section 7.3.9 (1.3: EXT-230). `kind` of `BUNDLE_OPEN` ... ; a reply's kind is the request's plus one."""

    bundle_id: int
    kind: int
    flags: int = versions.ORDERED | versions.ATOMIC


BUNDLE_OPEN, BUNDLE_OPENED, BUNDLE_CLOSE, BUNDLE_CLOSED = 0, 1, 2, 3
BUNDLE_COMMIT, BUNDLE_COMMITTED, BUNDLE_DISCARD, BUNDLE_DISCARDED = 4, 5, 6, 7


class BundleAdd(_Message, frozen=True):
    """1.4.1 section 7.3.9: `data` is one whole message, header included, with the outer xid."""

    bundle_id: int
    data: bytes
    flags: int = versions.ORDERED | versions.ATOMIC


class SetPacketInFormat(_Message, frozen=True):
    """NXT_SET_PACKET_IN_FORMAT: 0 as OpenFlow says, 2 NXT_PACKET_IN2."""

    format: int = 2


class CtFlushZone(_Message, frozen=True):
    """NXT_CT_FLUSH_ZONE: forget all connections of a conntrack zone."""

    zone: int


class CtTuple(msgspec.Struct, frozen=True):
    """One direction of a connection; what is None matches anything. Addresses: IPv4 as 32-bit int unless `ipv6`."""

    src: int | None = None
    dst: int | None = None
    src_port: int | None = None
    dst_port: int | None = None
    icmp_id: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    ipv6: bool = False


class CtFlush(_Message, frozen=True):
    """NXT_CT_FLUSH (OVS 3.1): forget the connections that agree with what is given."""

    zone: int | None = None
    protocol: int = 0
    original: CtTuple | None = None
    reply: CtTuple | None = None


class Other(_Message, frozen=True):
    """A message that this package has no value for."""

    type: int
    body: bytes


Message = (
    Hello
    | EchoRequest
    | EchoReply
    | Error
    | FeaturesRequest
    | FeaturesReply
    | GetConfigRequest
    | GetConfigReply
    | SetConfig
    | FlowMod
    | GroupMod
    | MeterMod
    | PacketOut
    | PacketIn
    | FlowRemoved
    | PortStatus
    | MultipartRequest
    | MultipartReply
    | BarrierRequest
    | BarrierReply
    | RoleRequest
    | RoleReply
    | RoleStatus
    | SetAsync
    | BundleControl
    | BundleAdd
    | SetPacketInFormat
    | CtFlushZone
    | CtFlush
    | Other
)

_U16, _U32, _U64 = Struct("!H"), Struct("!I"), Struct("!Q")
_S_ERROR = Struct("!HH")
_S_FEATURES = Struct("!QIBB2xI4x")
_S_CONFIG = Struct("!HH")
_S_FLOW_MOD = Struct("!QQBBHHHIIIHH")
_S_GROUP_MOD = Struct("!HBxI")
_S_METER_MOD = Struct("!HHI")
_S_BAND = Struct("!HHII4x")
_S_PACKET_OUT = Struct("!IIH6x")
_S_PACKET_IN = Struct("!IHBBQ")
_S_FLOW_REMOVED = Struct("!QHBBIIHHQQ")
_S_MULTIPART = Struct("!HH4x")
_S_ROLE = Struct("!I4xQ")
_S_ROLE_STATUS = Struct("!IB3xQ")
_S_BUNDLE = Struct("!IHH")
_S_BUNDLE_ADD = Struct("!I2xH")
_S_EXPERIMENTER = Struct("!II")
_S_PORT_STATUS = Struct("!B7x")
_S_PROPERTY = Struct("!HH")
_NAME = itemgetter(0)
_PAD = tuple(b"\0" * (-n % 8) for n in range(8))

METER_KBPS, METER_PKTPS, METER_BURST, METER_STATS = 1, 2, 4, 8


# ---- encoding ------------------------------------------------------------------------------------------------------

_Encoded = tuple[int, bytes]


def _nicira(subtype: int, body: bytes) -> _Encoded:
    return EXPERIMENTER, _S_EXPERIMENTER.pack(NICIRA, subtype) + body


def _property(kind: int, body: bytes) -> bytes:
    length = 4 + len(body)
    return _S_PROPERTY.pack(kind, length) + body + _PAD[length & 7]


def _hello(m: Hello, _: int) -> _Encoded:
    bitmap = sum(1 << v for v in m.versions)
    return HELLO, _S_PROPERTY.pack(1, 8) + _U32.pack(bitmap)


def _error(m: Error, _: int) -> _Encoded:
    head = _S_ERROR.pack(m.type, m.code)
    return ERROR, head + (_U32.pack(m.experimenter) if m.type == 0xFFFF else b"") + m.data


def _features_reply(m: FeaturesReply, _: int) -> _Encoded:
    return FEATURES_REPLY, _S_FEATURES.pack(m.datapath_id, m.n_buffers, m.n_tables, m.auxiliary_id, m.capabilities)


def _flow_mod(m: FlowMod, _: int) -> _Encoded:
    head = _S_FLOW_MOD.pack(
        *(m.cookie, m.cookie_mask, m.table, m.command, m.idle_timeout, m.hard_timeout, m.priority),
        *(m.buffer_id, m.out_port, m.out_group, m.flags, 0),
    )
    instructions = actions.encode_instructions(m.actions, m.goto, m.metadata, m.meter)
    return FLOW_MOD, head + oxm.encode_match(m.match) + instructions


def _group_mod(m: GroupMod, _: int) -> _Encoded:
    return GROUP_MOD, _S_GROUP_MOD.pack(m.command, m.type, m.group_id) + flows.encode_buckets(m.buckets)


def _meter_mod(m: MeterMod, _: int) -> _Encoded:
    meter = m.meter
    if m.command == 2:
        return METER_MOD, _S_METER_MOD.pack(m.command, 0, meter.meter_id)
    flags = (METER_PKTPS if meter.pktps else METER_KBPS) | METER_STATS | (METER_BURST if meter.burst else 0)
    return (
        METER_MOD,
        _S_METER_MOD.pack(m.command, flags, meter.meter_id) + _S_BAND.pack(1, 16, meter.rate, meter.burst),
    )


def _packet_out(m: PacketOut, _: int) -> _Encoded:
    body = actions.encode_actions(m.actions)
    return PACKET_OUT, _S_PACKET_OUT.pack(m.buffer_id, m.in_port, len(body)) + body + m.data


def _packet_in(m: PacketIn, _: int) -> _Encoded:
    head = _S_PACKET_IN.pack(m.buffer_id, m.total_len, m.reason, m.table, m.cookie)
    return PACKET_IN, head + oxm.encode_match(m.match) + b"\0\0" + m.data


def _flow_removed(m: FlowRemoved, _: int) -> _Encoded:
    sec = int(m.duration)
    head = _S_FLOW_REMOVED.pack(
        *(m.cookie, m.priority, m.reason, m.table, sec, round((m.duration - sec) * 1e9)),
        *(m.idle_timeout, m.hard_timeout, m.n_packets, m.n_bytes),
    )
    return FLOW_REMOVED, head + m.match


def _set_async(m: SetAsync, version: int) -> _Encoded:
    return SET_ASYNC, versions.encode_set_async(version, m.packet_in, m.port_status, m.flow_removed, m.role_status)


def _ct_tuple(t: CtTuple) -> bytes:
    out = []
    for kind, address in ((0, t.src), (1, t.dst)):
        if address is not None:
            # IPv4 travels as an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
            out.append(_property(kind, (address if t.ipv6 else 0xFFFF << 32 | address).to_bytes(16, "big")))
    for kind, port in ((2, t.src_port), (3, t.dst_port), (4, t.icmp_id)):
        if port is not None:
            out.append(_property(kind, _U16.pack(port)))
    for kind, octet in ((5, t.icmp_type), (6, t.icmp_code)):
        if octet is not None:
            out.append(_property(kind, octet.to_bytes(1, "big")))
    return b"".join(out)


def _ct_flush(m: CtFlush, _: int) -> _Encoded:
    body = m.protocol.to_bytes(1, "big") + b"\0" * 7
    for kind, t in ((0, m.original), (1, m.reply)):
        if t is not None:
            body += _property(kind, b"\0" * 4 + _ct_tuple(t))
    if m.zone is not None:
        body += _property(2, _U16.pack(m.zone))
    return _nicira(_CT_FLUSH, body)


_ENCODERS: dict[type, Callable[[Any, int], _Encoded]] = {
    Hello: _hello,
    EchoRequest: lambda m, _: (ECHO_REQUEST, m.data),
    EchoReply: lambda m, _: (ECHO_REPLY, m.data),
    Error: _error,
    FeaturesRequest: lambda _m, _: (FEATURES_REQUEST, b""),
    FeaturesReply: _features_reply,
    GetConfigRequest: lambda _m, _: (GET_CONFIG_REQUEST, b""),
    GetConfigReply: lambda m, _: (GET_CONFIG_REPLY, _S_CONFIG.pack(m.flags, m.miss_send_len)),
    SetConfig: lambda m, _: (SET_CONFIG, _S_CONFIG.pack(m.flags, m.miss_send_len)),
    FlowMod: _flow_mod,
    GroupMod: _group_mod,
    MeterMod: _meter_mod,
    PacketOut: _packet_out,
    PacketIn: _packet_in,
    FlowRemoved: _flow_removed,
    PortStatus: lambda m, v: (PORT_STATUS, _S_PORT_STATUS.pack(m.reason) + versions.encode_port(v, m.port)),
    MultipartRequest: lambda m, _: (MULTIPART_REQUEST, _S_MULTIPART.pack(m.kind, m.flags) + m.body),
    MultipartReply: lambda m, _: (MULTIPART_REPLY, _S_MULTIPART.pack(m.kind, m.flags) + m.body),
    BarrierRequest: lambda _m, _: (BARRIER_REQUEST, b""),
    BarrierReply: lambda _m, _: (BARRIER_REPLY, b""),
    RoleRequest: lambda m, _: (ROLE_REQUEST, _S_ROLE.pack(m.role, m.generation_id)),
    RoleReply: lambda m, _: (ROLE_REPLY, _S_ROLE.pack(m.role, m.generation_id)),
    RoleStatus: lambda m, _: (ROLE_STATUS, _S_ROLE_STATUS.pack(m.role, m.reason, m.generation_id)),
    SetAsync: _set_async,
    SetPacketInFormat: lambda m, _: _nicira(_SET_PACKET_IN_FORMAT, _U32.pack(m.format)),
    CtFlushZone: lambda m, _: _nicira(_CT_FLUSH_ZONE, b"\0" * 6 + _U16.pack(m.zone)),
    CtFlush: _ct_flush,
    Other: lambda m, _: (m.type, m.body),
}


def encode(value: Message, xid: int, version: int = versions.OF14) -> bytes:
    """The whole message. LocalProtocolError if a number does not fit its place or the message is too long."""
    try:
        if isinstance(value, BundleControl):
            return versions.bundle_control_bytes(version, xid, value.bundle_id, value.kind, value.flags)
        if isinstance(value, BundleAdd):
            return versions.bundle_add_bytes(version, value.bundle_id, (value.data,), value.flags)
        kind, body = _ENCODERS[type(value)](value, version)
        if len(body) + HEADER_LEN > MAX_MESSAGE_LEN:
            raise LocalProtocolError(f"{type(value).__name__} takes {len(body)} bytes; a message holds 65,527")
        return message(version, kind, xid, body)
    except (StructError, OverflowError) as error:
        raise LocalProtocolError(f"{type(value).__name__}: a value does not fit: {error}") from None


# ---- decoding ------------------------------------------------------------------------------------------------------


def _d_hello(frame: Frame) -> Message:
    for kind, body in actions.properties(frame.body, 0, len(frame.body)):
        if kind == 1 and len(body) >= 4:
            (bitmap,) = _U32.unpack_from(body)
            return Hello(tuple(v for v in range(31, 0, -1) if bitmap >> v & 1))
    return Hello(tuple(range(frame.version, 0, -1)))


def _d_error(frame: Frame) -> Message:
    kind, code = _S_ERROR.unpack_from(frame.body)
    if kind == 0xFFFF:
        return Error(kind, code, frame.body[8:], _U32.unpack_from(frame.body, 4)[0])
    return Error(kind, code, frame.body[4:])


def _d_features_reply(frame: Frame) -> Message:
    datapath_id, n_buffers, n_tables, auxiliary_id, capabilities = _S_FEATURES.unpack(frame.body)
    return FeaturesReply(datapath_id, n_buffers, n_tables, auxiliary_id, capabilities)


def _d_packet_in(frame: Frame) -> Message:
    body = frame.body
    buffer_id, total_len, reason, table, cookie = _S_PACKET_IN.unpack_from(body)
    _, padded = oxm.match_end(body, _S_PACKET_IN.size)
    if padded + 2 > len(body):
        raise RemoteProtocolError("a packet-in ends before its packet")
    match = oxm.decode_match(body, _S_PACKET_IN.size)
    return PacketIn(reason, table, cookie, match, body[padded + 2 :], total_len, buffer_id)


def _d_flow_removed(frame: Frame) -> Message:
    body = frame.body
    cookie, priority, reason, table, sec, nsec, idle, hard, packets, size = _S_FLOW_REMOVED.unpack_from(body)
    _, padded = oxm.match_end(body, _S_FLOW_REMOVED.size)
    match = body[_S_FLOW_REMOVED.size : padded]
    return FlowRemoved(table, priority, match, cookie, reason, packets, size, sec + nsec / 1e9, idle, hard)


def _d_port_status(frame: Frame) -> Message:
    (reason,) = _S_PORT_STATUS.unpack_from(frame.body)
    port, _ = versions.decode_port(frame.version, frame.body, _S_PORT_STATUS.size)
    return PortStatus(reason, port)


def _d_flow_mod(frame: Frame) -> Message:
    body = frame.body
    (cookie, cookie_mask, table, command, idle, hard, priority, buffer_id, out_port, out_group, flags, _) = (
        _S_FLOW_MOD.unpack_from(body)
    )
    _, padded = oxm.match_end(body, _S_FLOW_MOD.size)
    found = actions.decode_instructions(body[padded:])
    if found.other:
        return Other(frame.type, body)
    return FlowMod(
        *(command, table, priority, oxm.decode_match(body, _S_FLOW_MOD.size), *found[:4], cookie, cookie_mask),
        *(idle, hard, out_port, out_group, flags, buffer_id),
    )


def _d_group_mod(frame: Frame) -> Message:
    command, kind, group_id = _S_GROUP_MOD.unpack_from(frame.body)
    return GroupMod(command, group_id, kind, flows.decode_buckets(frame.body[_S_GROUP_MOD.size :]))


def _d_meter_mod(frame: Frame) -> Message:
    command, flags, meter_id = _S_METER_MOD.unpack_from(frame.body)
    if len(frame.body) == _S_METER_MOD.size:
        return MeterMod(command, Meter(meter_id, 0))
    kind, length, rate, burst = _S_BAND.unpack_from(frame.body, _S_METER_MOD.size)
    if kind != 1 or length != 16 or len(frame.body) != _S_METER_MOD.size + 16:
        return Other(frame.type, frame.body)
    return MeterMod(command, Meter(meter_id, rate, burst, bool(flags & METER_PKTPS)))


def _d_packet_out(frame: Frame) -> Message:
    buffer_id, in_port, length = _S_PACKET_OUT.unpack_from(frame.body)
    end = _S_PACKET_OUT.size + length
    if end > len(frame.body):
        raise RemoteProtocolError(f"a packet-out says that it has {length} bytes of actions; it is shorter")
    found = actions.decode_actions(frame.body[_S_PACKET_OUT.size : end])
    return PacketOut(in_port, found, frame.body[end:], buffer_id)


def _d_multipart(frame: Frame) -> Message:
    kind, flags = _S_MULTIPART.unpack_from(frame.body)
    made = MultipartReply if frame.type == MULTIPART_REPLY else MultipartRequest
    return made(kind, frame.body[_S_MULTIPART.size :], flags)


def _d_role_status(frame: Frame) -> Message:
    role, reason, generation_id = _S_ROLE_STATUS.unpack_from(frame.body)
    return RoleStatus(role, reason, generation_id)


def _d_bundle_control(frame: Frame, pos: int = 0) -> Message:
    return BundleControl(*_S_BUNDLE.unpack_from(frame.body, pos))


def _d_bundle_add(frame: Frame, pos: int = 0) -> Message:
    bundle_id, flags = _S_BUNDLE_ADD.unpack_from(frame.body, pos)
    return BundleAdd(bundle_id, frame.body[pos + _S_BUNDLE_ADD.size :], flags)


def _d_packet_in2(body: bytes, pos: int) -> Message:
    """NXT_PACKET_IN2 is properties only (OVS include/openflow/nicira-ext.h, enum nx_packet_in2_prop_type)."""
    data, total_len, buffer_id, table, cookie, reason = b"", None, flows.NO_BUFFER, 0, 0, 0
    match: list[M] = []
    userdata = continuation = b""
    for kind, value in actions.properties(body, pos, len(body)):
        if kind == 0:
            data = value
        elif kind == 1:
            total_len = _U32.unpack_from(value)[0]
        elif kind == 2:
            buffer_id = _U32.unpack_from(value)[0]
        elif kind == 3:
            table = value[0]
        elif kind == 4:
            cookie = _U64.unpack_from(value, 4)[0]
        elif kind == 5:
            reason = value[0]
        elif kind == 6:
            match = oxm.decode_fields(value, 0, len(value))
        elif kind == 7:
            userdata = value
        elif kind == 8:
            continuation = value
    if total_len is None:
        total_len = len(data)
    sorted_match = tuple(sorted(match, key=_NAME))
    return PacketIn(reason, table, cookie, sorted_match, data, total_len, buffer_id, userdata, continuation)


def _d_experimenter(frame: Frame) -> Message:
    body = frame.body
    vendor, subtype = _S_EXPERIMENTER.unpack_from(body)
    if vendor == versions.ONF and subtype == versions.ONF_BUNDLE_CONTROL:
        return _d_bundle_control(frame, 8)
    if vendor == versions.ONF and subtype == versions.ONF_BUNDLE_ADD:
        return _d_bundle_add(frame, 8)
    if vendor == NICIRA:
        if subtype == _PACKET_IN2:
            return _d_packet_in2(body, 8)
        if subtype == _SET_PACKET_IN_FORMAT:
            return SetPacketInFormat(_U32.unpack_from(body, 8)[0])
        if subtype == _CT_FLUSH_ZONE:
            return CtFlushZone(_U16.unpack_from(body, 14)[0])
    return Other(frame.type, body)


_DECODERS: dict[int, Callable[[Frame], Message]] = {
    HELLO: _d_hello,
    ERROR: _d_error,
    ECHO_REQUEST: lambda frame: EchoRequest(frame.body),
    ECHO_REPLY: lambda frame: EchoReply(frame.body),
    EXPERIMENTER: _d_experimenter,
    FEATURES_REQUEST: lambda _: FeaturesRequest(),
    FEATURES_REPLY: _d_features_reply,
    GET_CONFIG_REQUEST: lambda _: GetConfigRequest(),
    GET_CONFIG_REPLY: lambda frame: GetConfigReply(*_S_CONFIG.unpack(frame.body)),
    SET_CONFIG: lambda frame: SetConfig(*_S_CONFIG.unpack(frame.body)),
    PACKET_IN: _d_packet_in,
    FLOW_REMOVED: _d_flow_removed,
    PORT_STATUS: _d_port_status,
    PACKET_OUT: _d_packet_out,
    FLOW_MOD: _d_flow_mod,
    GROUP_MOD: _d_group_mod,
    METER_MOD: _d_meter_mod,
    MULTIPART_REQUEST: _d_multipart,
    MULTIPART_REPLY: _d_multipart,
    BARRIER_REQUEST: lambda _: BarrierRequest(),
    BARRIER_REPLY: lambda _: BarrierReply(),
    ROLE_REQUEST: lambda frame: RoleRequest(*_S_ROLE.unpack(frame.body)),
    ROLE_REPLY: lambda frame: RoleReply(*_S_ROLE.unpack(frame.body)),
    ROLE_STATUS: _d_role_status,
    versions.BUNDLE_CONTROL: _d_bundle_control,
    versions.BUNDLE_ADD: _d_bundle_add,
}


def decode(frame: Frame) -> Message:
    """The value of one message. RemoteProtocolError if its bytes contradict themselves."""
    decoder = _DECODERS.get(frame.type)
    if decoder is None:
        return Other(frame.type, frame.body)
    try:
        return decoder(frame)
    except (StructError, IndexError) as error:
        raise RemoteProtocolError(
            f"message of type {frame.type} is cut or too long ({len(frame.body)} bytes of body): {error}"
        ) from None
