"""Actions and instructions, both ways (OpenFlow 1.3.5 sections 7.2.4 and 7.2.5; OVS lib/ofp-actions.c).

What lives here: one encoder and one decoder per action of `ebbtide.compile.flow`, standard and Nicira, and the
instruction list made of them. Two tables name them all: `_ENCODERS` by value type, `_DECODERS` by wire type; the
Nicira subtypes have a third. OpenFlow 1.3 and 1.4 spell every action here in the same bytes, so no encoder asks for
the version. (1.5 would: it refuses reg_load, reg_load2 and reg_move.)

An action that we do not know decodes to `Unknown`, which carries its bytes and encodes to them again; bytes that
cannot be an action list at all raise RemoteProtocolError.

This file is longer than most because each action is two functions that are only readable side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

import msgspec

from ebbtide.compile import flow as f
from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow import oxm

NICIRA = 0x00002320

# Standard action types (1.3.5 section 7.2.5, enum ofp_action_type).
_OUTPUT, _PUSH_VLAN, _POP_VLAN, _GROUP, _DEC_NW_TTL, _SET_FIELD, _EXPERIMENTER = 0, 17, 18, 22, 24, 25, 0xFFFF
# Nicira subtypes (OVS lib/ofp-actions.c, enum ofp_raw_action_type).
_REG_MOVE, _REG_LOAD, _RESUBMIT_TABLE, _OUTPUT_REG, _LEARN, _CONTROLLER = 6, 7, 14, 15, 16, 20
_STACK_PUSH, _STACK_POP, _OUTPUT_REG2, _REG_LOAD2, _CONJUNCTION, _CT, _NAT = 27, 28, 32, 33, 34, 35, 36
_CONTROLLER2, _OUTPUT_TRUNC, _CT_CLEAR, _RESUBMIT_TABLE_CT, _LEARN2, _CHECK_PKT_LARGER = 37, 39, 43, 44, 45, 49

# Instruction types (1.3.5 section 7.2.4).
_GOTO, _WRITE_METADATA, _APPLY, _METER = 1, 2, 4, 6

_TL = Struct("!HH")
_S_OUTPUT = Struct("!HHIH6x")
_S_ONE_U32 = Struct("!HHI")
_S_ONE_U16 = Struct("!HHH2x")
_S_EMPTY = Struct("!HH4x")
_S_NX = Struct("!HHIH")
_S_NX_EMPTY = Struct("!HHIH6x")
_S_MOVE = Struct("!HHIHHHH4s4s")
_S_LOAD = Struct("!HHIHH4sQ")
_S_RESUBMIT = Struct("!HHIHHB3x")
_S_OUTPUT_REG2 = Struct("!HHIHHH4s6x")
_S_OUTPUT_REG = Struct("!HHIHH4sH6x")
_S_STACK = Struct("!HHIHH4sH6x")
_S_CONJUNCTION = Struct("!HHIHBBI")
_S_TRUNC = Struct("!HHIHHI")
_S_CHECK_LARGER = Struct("!HHIHHH4s6x")
_S_CT = Struct("!HHIHH4sHB3xH")
_S_NAT = Struct("!HHIH2xHH")
_S_LEARN = Struct("!HHIHHHHQHBxHH")
_S_LEARN_LIMIT = Struct("!I4x")
_S_METADATA = Struct("!HH4xQQ")
_U16, _U32 = Struct("!H"), Struct("!I")

_PAD = tuple(b"\0" * (-n % 8) for n in range(8))
# Of a whole field: limit, bytes of the value, what stands before it and after it. in_port is written another way.
_SET_FIELDS = {
    field.name: (
        field.limit,
        field.size,
        _TL.pack(_SET_FIELD, 4 + len(field.oxm) + field.size + 7 & ~7) + field.oxm,
        _PAD[4 + len(field.oxm) + field.size & 7],
    )
    for field in oxm.FIELDS.values()
    if field.name != "in_port"
}
_NO_RECIRC = 0xFF


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """An action that this package has no value for: its bytes, header included."""

    data: bytes


AnyAction = f.Action | Unknown


class Instructions(NamedTuple):
    """A decoded instruction list. `other` holds instructions that no flow of ours has, as bytes."""

    actions: tuple[AnyAction, ...] = ()
    goto: int | None = None
    metadata: tuple[int, int] | None = None
    meter: int | None = None
    other: tuple[bytes, ...] = ()


# ---- encoding ------------------------------------------------------------------------------------------------------


def _subfield(name: str, offset: int, nbits: int) -> tuple[bytes, int]:
    """The 32-bit header of a field and ofs_nbits (OVS include/openflow/nicira-ext.h, "ofs_nbits")."""
    field = oxm.field(name)
    if len(field.nxm) != 4:
        raise LocalProtocolError(f"{name} has no 32-bit header, so no Nicira action can name it")
    if nbits < 1 or offset < 0 or offset + nbits > field.nxm_bits:
        raise LocalProtocolError(f"{name}[{offset}..{offset + nbits - 1}] is outside its {field.nxm_bits} bits")
    return field.nxm, offset << 6 | nbits - 1


def _port16(port: int) -> int:
    """A port in 16 bits, for the actions that carry no more (1.3.5 section 7.2.1: reserved ports lie at the top)."""
    if port >= 0xFFFFFF00:
        return port & 0xFFFF
    if port >= 0xFF00:
        raise LocalProtocolError(f"port {port} does not fit in this action's 16 bits")
    return port


def _port32(port: int) -> int:
    return port | 0xFFFF0000 if port >= 0xFF00 else port


def _output(a: f.Output) -> bytes:
    # Open vSwitch reads max_len for CONTROLLER only and writes 0 for every other port.
    return _S_OUTPUT.pack(_OUTPUT, 16, a.port, a.max_len if a.port == f.CONTROLLER else 0)


def _group(a: f.ToGroup) -> bytes:
    return _S_ONE_U32.pack(_GROUP, 8, a.group_id)


def _set_field(a: f.SetField) -> bytes:
    found = _SET_FIELDS.get(a.name) if a.mask is None else None
    if found is not None and 0 <= a.value <= found[0]:
        return found[2] + a.value.to_bytes(found[1], "big") + found[3]
    if a.mask is None or a.mask == oxm.field(a.name).limit:
        if a.name == "in_port":
            # Only the 16-bit form of in_port can be written (ovs-fields(7), "in_port").
            value = oxm.field("in_port").nxm + _U16.pack(_port16(a.value))
        else:
            value = oxm.encode_field(a.name, a.value)
        length = len(value) + 4
        return _TL.pack(_SET_FIELD, length + 7 & ~7) + value + _PAD[length & 7]
    # The field's older header, where it has one: that is what Open vSwitch writes into a reg_load2.
    value = oxm.encode_field(a.name, a.value, a.mask)
    return _nx(_REG_LOAD2, oxm.field(a.name).nxm_masked + value[-2 * oxm.field(a.name).size :])


def _load(a: f.Load) -> bytes:
    header, ofs_nbits = _subfield(a.name, a.offset, a.nbits)
    if a.nbits > 64 or a.value >> a.nbits:
        raise LocalProtocolError(f"load of {a.value:#x} into {a.nbits} bits of {a.name}: the value does not fit")
    return _S_LOAD.pack(_EXPERIMENTER, 24, NICIRA, _REG_LOAD, ofs_nbits, header, a.value)


@lru_cache(maxsize=1024)
def _move(a: f.Move) -> bytes:
    src, _ = _subfield(a.src, a.src_offset, a.nbits)
    dst, _ = _subfield(a.dst, a.dst_offset, a.nbits)
    return _S_MOVE.pack(_EXPERIMENTER, 24, NICIRA, _REG_MOVE, a.nbits, a.src_offset, a.dst_offset, src, dst)


def _output_reg(a: f.OutputReg) -> bytes:
    header, ofs_nbits = _subfield(a.name, a.offset, a.nbits)
    return _S_OUTPUT_REG.pack(_EXPERIMENTER, 24, NICIRA, _OUTPUT_REG, ofs_nbits, header, a.max_len)


def _resubmit(a: f.Resubmit) -> bytes:
    kind = _RESUBMIT_TABLE_CT if a.ct else _RESUBMIT_TABLE
    return _S_RESUBMIT.pack(_EXPERIMENTER, 16, NICIRA, kind, f.IN_PORT & 0xFFFF, a.table)


def _controller(a: f.ToController) -> bytes:
    # Properties in the order and with the omissions of encode_CONTROLLER() in OVS lib/ofp-actions.c.
    body = [b"\0" * 6]
    if a.max_len != 0xFFFF:
        body.append(_S_ONE_U16.pack(0, 8, a.max_len))
    if a.controller_id:
        body.append(_S_ONE_U16.pack(1, 8, a.controller_id))
    if a.reason != 1:
        body.append(Struct("!HHB3x").pack(2, 5, a.reason))
    if a.userdata:
        length = 4 + len(a.userdata)
        body.append(_TL.pack(3, length) + a.userdata + _PAD[length & 7])
    if a.pause:
        body.append(_S_EMPTY.pack(4, 4))
    if a.meter_id is not None:
        body.append(_S_ONE_U32.pack(5, 8, a.meter_id))
    return _nx(_CONTROLLER2, b"".join(body))


def _dec_ttl(_: f.DecTtl) -> bytes:
    return _S_EMPTY.pack(_DEC_NW_TTL, 8)


def _push_vlan(a: f.PushVlan) -> bytes:
    return _S_ONE_U16.pack(_PUSH_VLAN, 8, a.ethertype)


def _pop_vlan(_: f.PopVlan) -> bytes:
    return _S_EMPTY.pack(_POP_VLAN, 8)


def _stack(kind: int, name: str, offset: int, nbits: int) -> bytes:
    header, _ = _subfield(name, offset, nbits)
    return _S_STACK.pack(_EXPERIMENTER, 24, NICIRA, kind, offset, header, nbits)


def _stack_push(a: f.StackPush) -> bytes:
    return _stack(_STACK_PUSH, a.name, a.offset, a.nbits)


def _stack_pop(a: f.StackPop) -> bytes:
    return _stack(_STACK_POP, a.name, a.offset, a.nbits)


def _ct_clear(_: f.CtClear) -> bytes:
    return _S_NX_EMPTY.pack(_EXPERIMENTER, 16, NICIRA, _CT_CLEAR)


def _conjunction(a: f.Conjunction) -> bytes:
    if not 1 <= a.clause <= a.n_clauses:
        raise LocalProtocolError(f"conjunction {a.id}: clause {a.clause} of {a.n_clauses}; clauses count from 1")
    return _S_CONJUNCTION.pack(_EXPERIMENTER, 16, NICIRA, _CONJUNCTION, a.clause - 1, a.n_clauses, a.id)


def _trunc(a: f.Trunc) -> bytes:
    return _S_TRUNC.pack(_EXPERIMENTER, 16, NICIRA, _OUTPUT_TRUNC, _port16(a.port), a.max_len)


def _check_larger(a: f.CheckLarger) -> bytes:
    header, _ = _subfield(a.name, a.offset, 1)
    return _S_CHECK_LARGER.pack(_EXPERIMENTER, 24, NICIRA, _CHECK_PKT_LARGER, a.length, a.offset, header)


def _nat(a: f.Nat) -> bytes:
    flags = a.src | a.dst << 1 | a.persistent << 2 | a.hash << 3 | a.random << 4
    size = 16 if a.ipv6 else 4
    present, parts = 0, []
    for bit, value, length in (
        (0x04 if a.ipv6 else 0x01, a.ip_min, size),
        (0x08 if a.ipv6 else 0x02, a.ip_max, size),
        (0x10, a.port_min, 2),
        (0x20, a.port_max, 2),
    ):
        if value is not None:
            present |= bit
            parts.append(value.to_bytes(length, "big"))
    ranges = b"".join(parts)
    length = 16 + len(ranges)
    pad = _PAD[length & 7]
    return _S_NAT.pack(_EXPERIMENTER, length + len(pad), NICIRA, _NAT, flags, present) + ranges + pad


def _ct(a: f.Ct) -> bytes:
    nested = b"".join([_ENCODERS[type(e)](e) for e in a.exec])
    if a.nat is not None:
        nested = _nat(a.nat) + nested
    if a.zone_field is None:
        source, zone = b"\0\0\0\0", a.zone
    else:
        source, zone = _subfield(a.zone_field, 0, 16)
    recirc = _NO_RECIRC if a.table is None else a.table
    flags = a.commit | a.force << 1
    return _S_CT.pack(_EXPERIMENTER, 24 + len(nested), NICIRA, _CT, flags, source, zone, recirc, a.alg) + nested


# learn() specs: bit 13 says that the source is a constant, bits 11 and 12 what to do (OVS nicira-ext.h).
_LEARN_CONSTANT, _LEARN_LOAD, _LEARN_OUTPUT = 1 << 13, 1 << 11, 2 << 11


def _learn_spec(spec: f.LearnMatch | f.LearnLoad | f.LearnOutput) -> bytes:
    if isinstance(spec, f.LearnOutput):
        src, _ = _subfield(spec.src, spec.src_offset, spec.nbits)
        return _U16.pack(_LEARN_OUTPUT | spec.nbits) + src + _U16.pack(spec.src_offset)
    kind = _LEARN_LOAD if isinstance(spec, f.LearnLoad) else 0
    dst, _ = _subfield(spec.dst, spec.dst_offset, spec.nbits)
    if spec.src is None:
        if spec.value >> spec.nbits:
            raise LocalProtocolError(f"learn: {spec.value:#x} does not fit in {spec.nbits} bits of {spec.dst}")
        constant = spec.value.to_bytes((spec.nbits + 15) // 16 * 2, "big")
        return _U16.pack(_LEARN_CONSTANT | kind | spec.nbits) + constant + dst + _U16.pack(spec.dst_offset)
    src, _ = _subfield(spec.src, spec.src_offset, spec.nbits)
    return _U16.pack(kind | spec.nbits) + src + _U16.pack(spec.src_offset) + dst + _U16.pack(spec.dst_offset)


def _learn(a: f.Learn) -> bytes:
    specs = b"".join([_learn_spec(spec) for spec in a.specs])
    specs += _PAD[len(specs) & 7]
    kind = _LEARN2 if a.limit else _LEARN
    if a.limit:
        specs = _S_LEARN_LIMIT.pack(a.limit) + specs
    flags = a.send_flow_removed | a.delete_learned << 1
    return (
        _S_LEARN.pack(
            *(_EXPERIMENTER, 32 + len(specs), NICIRA, kind, a.idle_timeout, a.hard_timeout, a.priority),
            *(a.cookie, flags, a.table, a.fin_idle_timeout, a.fin_hard_timeout),
        )
        + specs
    )


def _unknown(a: Unknown) -> bytes:
    return a.data


def _nx(subtype: int, body: bytes) -> bytes:
    """A Nicira action around a body that starts right after the subtype; padded."""
    length = 10 + len(body)
    pad = _PAD[length & 7]
    return _S_NX.pack(_EXPERIMENTER, length + len(pad), NICIRA, subtype) + body + pad


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    f.Output: _output,
    f.ToGroup: _group,
    f.SetField: _set_field,
    f.Load: _load,
    f.Move: _move,
    f.OutputReg: _output_reg,
    f.Resubmit: _resubmit,
    f.ToController: _controller,
    f.DecTtl: _dec_ttl,
    f.PushVlan: _push_vlan,
    f.PopVlan: _pop_vlan,
    f.StackPush: _stack_push,
    f.StackPop: _stack_pop,
    f.Ct: _ct,
    f.CtClear: _ct_clear,
    f.Conjunction: _conjunction,
    f.Trunc: _trunc,
    f.CheckLarger: _check_larger,
    f.Learn: _learn,
    Unknown: _unknown,
}


def encode_action(action: AnyAction) -> bytes:
    """One action, padded. LocalProtocolError if a value does not fit its place."""
    return encode_actions((action,))


def encode_actions(actions: Iterable[AnyAction]) -> bytes:
    """An action list, as in apply-actions, a bucket or a packet-out."""
    encoders = _ENCODERS
    try:
        return b"".join([encoders[a.__class__](a) for a in actions])
    except KeyError as error:
        raise LocalProtocolError(f"not an action: {error.args[0]!r}") from None
    except (StructError, OverflowError) as error:
        raise LocalProtocolError(f"an action's value does not fit: {error}") from None


def encode_instructions(
    actions: tuple[AnyAction, ...],
    goto: int | None = None,
    metadata: tuple[int, int] | None = None,
    meter: int | None = None,
) -> bytes:
    """The instructions in the order in which a switch lists them: meter, apply-actions, write-metadata, goto."""
    try:
        first = b"" if meter is None else _S_ONE_U32.pack(_METER, 8, meter)
        last = b""
        if metadata is not None:
            last = _S_METADATA.pack(_WRITE_METADATA, 24, metadata[0] & metadata[1], metadata[1])
        if goto is not None:
            last += b"\0\1\0\x08" + goto.to_bytes(1, "big") + b"\0\0\0"
    except (StructError, OverflowError) as error:
        raise LocalProtocolError(f"meter {meter}, metadata {metadata}, goto {goto}: {error}") from None
    if actions:
        body = encode_actions(actions)
        if len(body) > 0xFFF0:
            raise LocalProtocolError(f"{len(actions)} actions take {len(body)} bytes; an instruction holds 65,520")
        first += _TL.pack(_APPLY, 8 + len(body)) + b"\0\0\0\0" + body
    return first + last


# ---- decoding ------------------------------------------------------------------------------------------------------


class _NotOurs(Exception):
    """This action has a form that its value cannot hold: hand it out as Unknown."""


def _name_of(header: bytes | int) -> str:
    number = header if isinstance(header, int) else _U32.unpack(header)[0]
    field = oxm.field_of_nxm(number)
    if field is None:
        raise _NotOurs
    return field.name


def _d_output(d: bytes) -> AnyAction:
    _, _, port, max_len = _S_OUTPUT.unpack(d)
    return f.Output(port, max_len) if port == f.CONTROLLER else f.Output(port)


def _d_group(d: bytes) -> AnyAction:
    return f.ToGroup(_S_ONE_U32.unpack(d)[2])


def _d_set_field(d: bytes) -> AnyAction:
    length = 4 + d[7]
    fields = oxm.decode_fields(d, 4, 4 + length)
    if len(fields) != 1 or fields[0].name.startswith("oxm:"):
        raise _NotOurs
    return f.SetField(*fields[0])


def _d_push_vlan(d: bytes) -> AnyAction:
    return f.PushVlan(_S_ONE_U16.unpack(d)[2])


def _d_pop_vlan(_: bytes) -> AnyAction:
    return f.PopVlan()


def _d_dec_ttl(_: bytes) -> AnyAction:
    return f.DecTtl()


def _d_load(d: bytes) -> AnyAction:
    *_, ofs_nbits, header, value = _S_LOAD.unpack(d)
    return f.Load(_name_of(header), ofs_nbits >> 6, (ofs_nbits & 63) + 1, value)


def _d_load2(d: bytes) -> AnyAction:
    fields = oxm.decode_fields(d, 10, 14 + d[13])
    if len(fields) != 1 or fields[0].name.startswith("oxm:"):
        raise _NotOurs
    return f.SetField(*fields[0])


def _d_move(d: bytes) -> AnyAction:
    *_, nbits, src_offset, dst_offset, src, dst = _S_MOVE.unpack(d)
    return f.Move(_name_of(src), _name_of(dst), nbits, src_offset, dst_offset)


def _d_output_reg(d: bytes) -> AnyAction:
    *_, ofs_nbits, header, max_len = _S_OUTPUT_REG.unpack(d)
    return f.OutputReg(_name_of(header), ofs_nbits >> 6, (ofs_nbits & 63) + 1, max_len)


def _d_output_reg2(d: bytes) -> AnyAction:
    *_, ofs_nbits, max_len, header = _S_OUTPUT_REG2.unpack(d)
    return f.OutputReg(_name_of(header), ofs_nbits >> 6, (ofs_nbits & 63) + 1, max_len)


def _d_resubmit(d: bytes) -> AnyAction:
    *_, subtype, port, table = _S_RESUBMIT.unpack(d)
    if port != f.IN_PORT & 0xFFFF:
        raise _NotOurs
    return f.Resubmit(table, subtype == _RESUBMIT_TABLE_CT)


def _d_controller2(d: bytes) -> AnyAction:
    max_len, controller_id, reason, userdata, pause, meter = 0xFFFF, 0, 1, b"", False, None
    for kind, body in properties(d, 16, len(d)):
        if kind == 0:
            max_len = _U16.unpack_from(body)[0]
        elif kind == 1:
            controller_id = _U16.unpack_from(body)[0]
        elif kind == 2:
            reason = body[0]
        elif kind == 3:
            userdata = body
        elif kind == 4:
            pause = True
        elif kind == 5:
            meter = _U32.unpack_from(body)[0]
        else:
            raise _NotOurs
    return f.ToController(max_len, reason, controller_id, userdata, pause, meter)


def _d_stack(d: bytes) -> AnyAction:
    *_, subtype, offset, header, nbits = _S_STACK.unpack(d)
    return (f.StackPush if subtype == _STACK_PUSH else f.StackPop)(_name_of(header), offset, nbits)


def _d_ct_clear(_: bytes) -> AnyAction:
    return f.CtClear()


def _d_conjunction(d: bytes) -> AnyAction:
    *_, clause, n_clauses, number = _S_CONJUNCTION.unpack(d)
    return f.Conjunction(number, clause + 1, n_clauses)


def _d_trunc(d: bytes) -> AnyAction:
    *_, port, max_len = _S_TRUNC.unpack(d)
    return f.Trunc(_port32(port), max_len)


def _d_check_larger(d: bytes) -> AnyAction:
    *_, length, offset, header = _S_CHECK_LARGER.unpack(d)
    return f.CheckLarger(length, _name_of(header), offset)


def _d_nat(d: bytes) -> f.Nat:
    *_, flags, present = _S_NAT.unpack_from(d)
    pos = 16
    values: list[int | None] = []
    for bit, length in ((0x01, 4), (0x02, 4), (0x04, 16), (0x08, 16), (0x10, 2), (0x20, 2)):
        if present & bit:
            if pos + length > len(d):
                raise RemoteProtocolError("a nat action is shorter than the ranges that it announces")
            values.append(int.from_bytes(d[pos : pos + length], "big"))
            pos += length
        else:
            values.append(None)
    v4min, v4max, v6min, v6max, port_min, port_max = values
    ipv6 = bool(present & 0x0C)
    if flags > 0x1F or (ipv6 and present & 0x03):
        raise _NotOurs
    return f.Nat(
        src=bool(flags & 1),
        dst=bool(flags & 2),
        ip_min=v6min if ipv6 else v4min,
        ip_max=v6max if ipv6 else v4max,
        port_min=port_min,
        port_max=port_max,
        ipv6=ipv6,
        persistent=bool(flags & 4),
        hash=bool(flags & 8),
        random=bool(flags & 16),
    )


def _d_ct(d: bytes) -> AnyAction:
    *_, flags, source, zone, recirc, alg = _S_CT.unpack_from(d)
    nat: f.Nat | None = None
    nested: list[f.SetField | f.Load | f.Move] = []
    for raw in _split(d, 24, len(d)):
        if raw[:2] == b"\xff\xff" and len(raw) >= 16 and _S_NX.unpack_from(raw)[2:] == (NICIRA, _NAT):
            # A nat after an exec, or a second one, is a form that Ct cannot say.
            if nat is not None or nested:
                raise _NotOurs
            nat = _d_nat(raw)
            continue
        action = _decode_one(raw)
        if not isinstance(action, f.SetField | f.Load | f.Move):
            raise _NotOurs
        nested.append(action)
    zone_field = None
    if source != b"\0\0\0\0":
        zone_field = _name_of(source)
        if zone != 15:
            raise _NotOurs
        zone = 0
    table = None if recirc == _NO_RECIRC else recirc
    if flags > 3:
        raise _NotOurs
    return f.Ct(zone, zone_field, table, bool(flags & 1), bool(flags & 2), alg, nat, tuple(nested))


def _d_learn(d: bytes) -> AnyAction:
    *_, kind, idle, hard, priority, cookie, flags, table, fin_idle, fin_hard = _S_LEARN.unpack_from(d)
    if flags > 3:
        # Bit 2 is learn's result in a field: its header stands between the limit and the specs.
        raise _NotOurs
    specs: list[f.LearnMatch | f.LearnLoad | f.LearnOutput] = []
    pos, limit = 32, 0
    if kind == _LEARN2:
        (limit,) = _S_LEARN_LIMIT.unpack_from(d, pos)
        pos += _S_LEARN_LIMIT.size
        if not limit:
            raise _NotOurs
    while pos + 2 <= len(d):
        (head,) = _U16.unpack_from(d, pos)
        if not head:
            break
        pos += 2
        nbits, way = head & 0x3FF, head & 0x1800
        src, src_offset, value = None, 0, 0
        if head & _LEARN_CONSTANT:
            size = (nbits + 15) // 16 * 2
            value = int.from_bytes(d[pos : pos + size], "big")
            pos += size
        else:
            number, src_offset = Struct("!IH").unpack_from(d, pos)
            src = _name_of(number)
            pos += 6
        if way == _LEARN_OUTPUT:
            if src is None:
                raise _NotOurs
            specs.append(f.LearnOutput(src, nbits, src_offset))
            continue
        if way == 0x1800:
            raise _NotOurs
        number, dst_offset = Struct("!IH").unpack_from(d, pos)
        pos += 6
        made = f.LearnLoad if way else f.LearnMatch
        specs.append(made(_name_of(number), nbits, dst_offset, src, src_offset, value))
    return f.Learn(
        *(table, priority, cookie, tuple(specs), idle, hard, fin_idle, fin_hard, bool(flags & 1), bool(flags & 2)),
        limit=limit,
    )


_DECODERS: dict[int, Callable[[bytes], AnyAction]] = {
    _OUTPUT: _d_output,
    _GROUP: _d_group,
    _SET_FIELD: _d_set_field,
    _PUSH_VLAN: _d_push_vlan,
    _POP_VLAN: _d_pop_vlan,
    _DEC_NW_TTL: _d_dec_ttl,
}
_NICIRA_DECODERS: dict[int, Callable[[bytes], AnyAction]] = {
    _REG_MOVE: _d_move,
    _REG_LOAD: _d_load,
    _REG_LOAD2: _d_load2,
    _RESUBMIT_TABLE: _d_resubmit,
    _RESUBMIT_TABLE_CT: _d_resubmit,
    _OUTPUT_REG: _d_output_reg,
    _OUTPUT_REG2: _d_output_reg2,
    _LEARN: _d_learn,
    _LEARN2: _d_learn,
    _STACK_PUSH: _d_stack,
    _STACK_POP: _d_stack,
    _CONJUNCTION: _d_conjunction,
    _CT: _d_ct,
    _CONTROLLER2: _d_controller2,
    _OUTPUT_TRUNC: _d_trunc,
    _CHECK_PKT_LARGER: _d_check_larger,
    _CT_CLEAR: _d_ct_clear,
}


def properties(data: bytes, pos: int, end: int) -> list[tuple[int, bytes]]:
    """(type, body) of each property of a list: type and length of 16 bits, padded to 8 (1.4.1 section 7.3.5.1.1)."""
    out = []
    while pos < end:
        if pos + 4 > end:
            raise RemoteProtocolError("a property list ends in the middle of a header")
        kind, length = _TL.unpack_from(data, pos)
        if length < 4 or pos + length > end:
            raise RemoteProtocolError(f"property {kind:#x} says it is {length} bytes long; {end - pos} are left")
        out.append((kind, data[pos + 4 : pos + length]))
        pos += length + 7 & ~7
    return out


def _split(data: bytes, pos: int, end: int) -> list[bytes]:
    """Cut a list of type-length-value items, each a multiple of 8 bytes, into its items."""
    out = []
    while pos < end:
        if pos + 8 > end:
            raise RemoteProtocolError(f"{end - pos} bytes after the last action; an action has at least 8")
        length = data[pos + 2] << 8 | data[pos + 3]
        if length < 8 or length & 7 or pos + length > end:
            raise RemoteProtocolError(f"an action says it is {length} bytes long; {end - pos} are left")
        out.append(data[pos : pos + length])
        pos += length
    return out


def _decode_one(raw: bytes) -> AnyAction:
    kind = raw[0] << 8 | raw[1]
    if kind == _EXPERIMENTER:
        if len(raw) < 16:
            return Unknown(raw)
        _, _, vendor, subtype = _S_NX.unpack_from(raw)
        decoder = _NICIRA_DECODERS.get(subtype) if vendor == NICIRA else None
    else:
        decoder = _DECODERS.get(kind)
    if decoder is None:
        return Unknown(raw)
    try:
        return decoder(raw)
    except _NotOurs:
        return Unknown(raw)
    except (StructError, IndexError) as error:
        raise RemoteProtocolError(f"action of type {kind} has a wrong size ({len(raw)} bytes): {error}") from None


def decode_actions(data: bytes) -> tuple[AnyAction, ...]:
    """An action list back into values. The inverse of `encode_actions`."""
    return tuple([_decode_one(raw) for raw in _split(data, 0, len(data))])


def decode_instructions(data: bytes) -> Instructions:
    """Instruction bytes back into values. The inverse of `encode_instructions`."""
    out = Instructions()
    for raw in _split(data, 0, len(data)):
        kind = raw[0] << 8 | raw[1]
        if kind == _APPLY:
            out = out._replace(actions=decode_actions(raw[8:]))
        elif kind == _GOTO and len(raw) == 8:
            out = out._replace(goto=raw[4])
        elif kind == _METER and len(raw) == 8:
            out = out._replace(meter=_U32.unpack_from(raw, 4)[0])
        elif kind == _WRITE_METADATA and len(raw) == 24:
            _, _, value, mask = _S_METADATA.unpack(raw)
            out = out._replace(metadata=(value, mask))
        else:
            out = out._replace(other=(*out.other, raw))
    return out
