"""Match fields: their Open vSwitch names, wire ids, widths, masks and order (ovs-fields(7); OVS lib/meta-flow.h).

What lives here: one table of fields, and a match to bytes and back. The bytes are those that Open vSwitch itself
writes for the same match in a flow dump (the order of nx_put_raw() in OVS lib/nx-match.c; a full mask is dropped,
an empty one drops the field, bits outside the mask are cleared), so that a match can be compared as bytes.

Three kinds of name are rewritten on the way out, because a switch never gives them back: ``xregN`` and ``xxregN``
become their 32-bit registers, and ``vlan_tci`` becomes ``vlan_vid`` and ``vlan_pcp``.

A field has two headers. A match and a set_field use `oxm`; Nicira actions (load, move, learn, output_reg, stack,
ct zones) use `nxm`, the older header where there is one. For ``in_port`` these differ in width as well: 32 bits in
a match, 16 bits (NXM_OF_IN_PORT) in an action. The choice is automatic.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from ebbtide.compile.flow import M, Match
from ebbtide.errors import LocalProtocolError, RemoteProtocolError

_NXM0, _NXM1, _OXM, _PKT_REG, _EXPERIMENTER, _ERICSSON = 0x0000, 0x0001, 0x8000, 0x8001, 0xFFFF, 0x1000
_ONF = 0x4F4E4600

_U32 = Struct("!I")
_MATCH_HEADER = Struct("!HH")
_PADDING = tuple(b"\0" * (-n % 8) for n in range(8))


class Field(NamedTuple):
    """One match field.

    `bits` is what may be set, `size` the bytes of the value on the wire. `oxm` and `oxm_masked` are whole headers
    (8 bytes for an experimenter field), `nxm` the 32-bit header in Nicira actions and `nxm_bits` its width there.
    `order` is the place in a match. An exact match is `exact` + value + `tail`; that is the plain header and
    nothing for every field but tun_flags, for which a switch always writes a mask.
    """

    name: str
    bits: int
    size: int
    limit: int
    maskable: bool
    order: int
    oxm: bytes
    oxm_masked: bytes
    exact: bytes
    tail: bytes
    nxm: bytes
    nxm_masked: bytes
    nxm_bits: int


def _header(oxm_class: int, number: int, size: int, masked: bool) -> bytes:
    length = size * 2 if masked else size
    if oxm_class == _EXPERIMENTER:
        return _U32.pack(oxm_class << 16 | number << 9 | masked << 8 | length + 4) + _U32.pack(_ONF)
    return _U32.pack(oxm_class << 16 | number << 9 | masked << 8 | length)


# Name, bits, bytes, maskable, OXM (class, number), NXM (class, number) or None for "the OXM one".
# The order of the rows is the order on the wire.
_Row = tuple[str, int, int, bool, tuple[int, int], tuple[int, int] | None]
_ROWS: list[_Row] = [
    ("conj_id", 32, 4, False, (_NXM1, 37), None),
    ("in_port", 32, 4, False, (_OXM, 0), (_NXM0, 0)),
    ("actset_output", 32, 4, False, (_EXPERIMENTER, 43), None),
    ("packet_type", 32, 4, False, (_OXM, 44), None),
    ("eth_src", 48, 6, True, (_OXM, 4), (_NXM0, 2)),
    ("eth_dst", 48, 6, True, (_OXM, 3), (_NXM0, 1)),
    ("eth_type", 16, 2, False, (_OXM, 5), (_NXM0, 3)),
    ("vlan_vid", 13, 2, True, (_OXM, 6), None),
    ("vlan_pcp", 3, 1, False, (_OXM, 7), None),
    ("vlan_tci", 16, 2, True, (_NXM0, 4), None),
    ("mpls_tc", 3, 1, False, (_OXM, 35), None),
    ("mpls_bos", 1, 1, False, (_OXM, 36), None),
    ("mpls_ttl", 8, 1, False, (_NXM1, 30), None),
    ("mpls_label", 20, 4, False, (_OXM, 34), None),
    ("ipv4_src", 32, 4, True, (_OXM, 11), (_NXM0, 7)),
    ("ipv4_dst", 32, 4, True, (_OXM, 12), (_NXM0, 8)),
    ("ipv6_src", 128, 16, True, (_OXM, 26), (_NXM1, 19)),
    ("ipv6_dst", 128, 16, True, (_OXM, 27), (_NXM1, 20)),
    ("ip_frag", 2, 1, True, (_NXM1, 26), None),
    ("ip_dscp", 6, 1, False, (_OXM, 8), None),
    ("ip_ecn", 2, 1, False, (_OXM, 9), (_NXM1, 28)),
    ("nw_ttl", 8, 1, False, (_NXM1, 29), None),
    ("ipv6_flabel", 20, 4, True, (_OXM, 28), (_NXM1, 27)),
    ("ip_proto", 8, 1, False, (_OXM, 10), (_NXM0, 6)),
    ("tcp_src", 16, 2, True, (_OXM, 13), (_NXM0, 9)),
    ("tcp_dst", 16, 2, True, (_OXM, 14), (_NXM0, 10)),
    ("tcp_flags", 12, 2, True, (_EXPERIMENTER, 42), (_NXM1, 34)),
    ("udp_src", 16, 2, True, (_OXM, 15), (_NXM0, 11)),
    ("udp_dst", 16, 2, True, (_OXM, 16), (_NXM0, 12)),
    ("sctp_src", 16, 2, True, (_OXM, 17), None),
    ("sctp_dst", 16, 2, True, (_OXM, 18), None),
    ("icmpv4_type", 8, 1, False, (_OXM, 19), (_NXM0, 13)),
    ("icmpv4_code", 8, 1, False, (_OXM, 20), (_NXM0, 14)),
    ("icmpv6_type", 8, 1, False, (_OXM, 29), (_NXM1, 21)),
    ("icmpv6_code", 8, 1, False, (_OXM, 30), (_NXM1, 22)),
    ("nd_target", 128, 16, True, (_OXM, 31), (_NXM1, 23)),
    ("nd_reserved", 32, 4, False, (_ERICSSON, 1), None),
    ("nd_options_type", 8, 1, False, (_ERICSSON, 2), None),
    ("nd_sll", 48, 6, True, (_OXM, 32), (_NXM1, 24)),
    ("nd_tll", 48, 6, True, (_OXM, 33), (_NXM1, 25)),
    ("arp_op", 16, 2, False, (_OXM, 21), (_NXM0, 15)),
    ("arp_spa", 32, 4, True, (_OXM, 22), (_NXM0, 16)),
    ("arp_tpa", 32, 4, True, (_OXM, 23), (_NXM0, 17)),
    ("arp_sha", 48, 6, True, (_OXM, 24), (_NXM1, 17)),
    ("arp_tha", 48, 6, True, (_OXM, 25), (_NXM1, 18)),
    ("tun_id", 64, 8, True, (_OXM, 38), (_NXM1, 16)),
    ("tun_src", 32, 4, True, (_NXM1, 31), None),
    ("tun_dst", 32, 4, True, (_NXM1, 32), None),
    ("tun_ipv6_src", 128, 16, True, (_NXM1, 109), None),
    ("tun_ipv6_dst", 128, 16, True, (_NXM1, 110), None),
    ("tun_gbp_id", 16, 2, True, (_NXM1, 38), None),
    ("tun_gbp_flags", 8, 1, True, (_NXM1, 39), None),
    ("tun_flags", 1, 2, True, (_NXM1, 104), None),
    *[(f"reg{n}", 32, 4, True, (_NXM1, n), None) for n in range(16)],
    *[(f"xreg{n}", 64, 8, True, (_PKT_REG, n), None) for n in range(8)],
    *[(f"xxreg{n}", 128, 16, True, (_NXM1, 111 + n), None) for n in range(4)],
    ("pkt_mark", 32, 4, True, (_NXM1, 33), None),
    ("ct_state", 32, 4, True, (_NXM1, 105), None),
    ("ct_zone", 16, 2, False, (_NXM1, 106), None),
    ("ct_mark", 32, 4, True, (_NXM1, 107), None),
    ("ct_label", 128, 16, True, (_NXM1, 108), None),
    ("ct_nw_src", 32, 4, True, (_NXM1, 120), None),
    ("ct_nw_dst", 32, 4, True, (_NXM1, 121), None),
    ("ct_ipv6_src", 128, 16, True, (_NXM1, 122), None),
    ("ct_ipv6_dst", 128, 16, True, (_NXM1, 123), None),
    ("ct_nw_proto", 8, 1, False, (_NXM1, 119), None),
    ("ct_tp_src", 16, 2, True, (_NXM1, 124), None),
    ("ct_tp_dst", 16, 2, True, (_NXM1, 125), None),
    ("metadata", 64, 8, True, (_OXM, 2), None),
]


def _field(order: int, row: _Row) -> Field:
    name, bits, size, maskable, oxm, nxm = row
    nxm_size = 2 if name == "in_port" else size
    # Only one of its 16 bits exists, and Open vSwitch counts a mask as full when all 16 are set.
    always_masked = name == "tun_flags"
    return Field(
        name=name,
        bits=bits,
        size=size,
        limit=(1 << bits) - 1,
        maskable=maskable,
        order=order,
        oxm=_header(*oxm, size, False),
        oxm_masked=_header(*oxm, size, True),
        exact=_header(*oxm, size, always_masked),
        tail=b"\0\1" if always_masked else b"",
        nxm=_header(*(nxm or oxm), nxm_size, False),
        nxm_masked=_header(*(nxm or oxm), nxm_size, True),
        # An action sees the VLAN id alone; a match and a set_field also see bit 12, "a tag is there".
        nxm_bits=12 if name == "vlan_vid" else min(bits, 8 * nxm_size),
    )


FIELDS: dict[str, Field] = {row[0]: _field(n, row) for n, row in enumerate(_ROWS)}
_BY_NXM: dict[int, Field] = {}
_BY_OXM: dict[int, tuple[Field, bool]] = {}
for _row in _ROWS:
    _f = FIELDS[_row[0]]
    for _id in filter(None, (_row[5], _row[4])):
        # By the header without its length: whichever of the two headers the peer chose, the field is the same.
        _BY_OXM[_id[0] << 16 | _id[1] << 9] = (_f, False)
        _BY_OXM[_id[0] << 16 | _id[1] << 9 | 0x100] = (_f, True)
    _BY_NXM[_U32.unpack_from(_f.nxm)[0]] = _f
    if len(_f.oxm) == 4:
        _BY_NXM[_U32.unpack(_f.oxm)[0]] = _f
#: What nearly every field of a packet-in is: by its whole header, without a mask, as long as it should be.
_USUAL = {header: f for header, f in _BY_NXM.items() if header & 0xFF == f.size}

# Names that become other names: name -> (first register, how many).
_WIDE_REGISTERS = {f"xreg{n}": (2 * n, 2) for n in range(8)} | {f"xxreg{n}": (4 * n, 4) for n in range(4)}
_REWRITTEN = frozenset(_WIDE_REGISTERS) | {"vlan_tci"}


def field(name: str) -> Field:
    """The field of that name, or LocalProtocolError."""
    found = FIELDS.get(name)
    if found is None:
        raise LocalProtocolError(f"no match field is called {name!r}; names are those of ovs-fields(7)")
    return found


def field_of_nxm(header: int) -> Field | None:
    """The field that a 32-bit header in a Nicira action names; None if we do not know it."""
    return _BY_NXM.get(header)


def encode_field(name: str, value: int, mask: int | None = None) -> bytes:
    """Header, value and (unless exact) mask of one field, as in a set_field or a match; nothing is rewritten."""
    f = field(name)
    if value < 0 or value > f.limit:
        raise LocalProtocolError(f"{name}: {value:#x} does not fit in {f.bits} bits")
    if mask is None or mask == f.limit:
        return f.oxm + value.to_bytes(f.size, "big")
    if not f.maskable:
        raise LocalProtocolError(f"{name} cannot be masked (mask {mask:#x})")
    if mask < 0 or mask > f.limit:
        raise LocalProtocolError(f"{name}: the mask {mask:#x} does not fit in {f.bits} bits")
    return f.oxm_masked + (value & mask).to_bytes(f.size, "big") + mask.to_bytes(f.size, "big")


#: The same few networks and ports are matched under a mask by thousands of flows.
_masked_field = lru_cache(maxsize=4096)(encode_field)
_PLAIN = {f.name: (f.order, f.limit, f.size, f.exact, f.tail) for f in FIELDS.values() if f.name not in _REWRITTEN}


def encode_match(match: Match) -> bytes:
    """The whole match (struct ofp_match with OXM, padded to 8 bytes), in the order and form of a flow dump."""
    parts: list[tuple[int, bytes]] = []
    plain = _PLAIN
    try:
        for name, value, mask in match:
            order, limit, size, head, tail = plain[name]
            if value > limit:
                raise LocalProtocolError(f"{name}: {value:#x} does not fit in {FIELDS[name].bits} bits")
            if mask is None or mask == limit:
                parts.append((order, head + value.to_bytes(size, "big") + tail))
            elif mask:
                parts.append((order, _masked_field(name, value, mask)))
    except KeyError:
        if name in _REWRITTEN:
            return encode_match(canonical_match(match))
        raise LocalProtocolError(f"no match field is called {name!r}; names are those of ovs-fields(7)") from None
    except OverflowError:
        raise LocalProtocolError(f"{name}: {value} is negative") from None
    if len(parts) > 1:
        parts.sort()
    body = b"".join([part for _, part in parts])
    length = len(body) + 4
    return _MATCH_HEADER.pack(1, length) + body + _PADDING[length & 7]


def canonical_match(match: Match) -> Match:
    """The same match in the names that a switch gives back, masks reduced, sorted by name.

    Raises LocalProtocolError for a part of vlan_tci that OpenFlow 1.2 and later cannot express, and for a
    register that is matched twice with different bits.
    """
    found: dict[str, tuple[int, int]] = {}

    def add(name: str, value: int, mask: int) -> None:
        if not mask:
            return
        old_value, old_mask = found.get(name, (0, 0))
        both = mask & old_mask
        if (value ^ old_value) & both:
            raise LocalProtocolError(f"{name} is matched twice, with different values")
        found[name] = ((value & mask) | old_value, mask | old_mask)

    for name, value, mask in match:
        f = field(name)
        full = f.limit
        m = full if mask is None else mask
        if value < 0 or value > full or m < 0 or m > full:
            raise LocalProtocolError(f"{name}: {value:#x}/{m:#x} does not fit in {f.bits} bits")
        if name in _WIDE_REGISTERS:
            first, count = _WIDE_REGISTERS[name]
            for n in range(count):
                shift = 32 * (count - 1 - n)
                add(f"reg{first + n}", value >> shift & 0xFFFFFFFF, m >> shift & 0xFFFFFFFF)
        elif name == "vlan_tci":
            if m >> 13 not in (0, 7):
                raise LocalProtocolError(f"vlan_tci mask {m:#06x}: OpenFlow 1.2 and later match all of the PCP or none")
            add("vlan_vid", value & 0x1FFF, m & 0x1FFF)
            if m >> 13 and value & m & 0x1FFF:
                add("vlan_pcp", value >> 13, 7)
        else:
            add(name, value, m)
    return tuple(
        M(name, value, None if mask == FIELDS[name].limit else mask) for name, (value, mask) in sorted(found.items())
    )


def decode_fields(data: bytes, pos: int, end: int) -> list[M]:
    """Fields between two positions, in wire order. A field we do not know comes as ``oxm:<8 hex digits>``."""
    out: list[M] = []
    try:
        while pos < end:
            (header,) = _U32.unpack_from(data, pos)
            start = pos + 4
            usual = _USUAL.get(header)
            if usual is not None and start + usual.size <= end:
                pos = start + usual.size
                value = int.from_bytes(data[start:pos], "big")
                if value <= usual.limit:
                    out.append(tuple.__new__(M, (usual.name, value, None)))
                    continue
            length = header & 0xFF
            pos = start + length
            if pos > end:
                raise RemoteProtocolError(f"match field {header:#010x} runs {pos - end} bytes past the match")
            if header >> 16 == _EXPERIMENTER:
                (experimenter,) = _U32.unpack_from(data, start)
                start += 4
                known = _BY_OXM.get(header & 0xFFFFFF00) if experimenter == _ONF else None
            else:
                known = _BY_OXM.get(header & 0xFFFFFF00)
            size = pos - start
            if size < 0:
                raise RemoteProtocolError(f"match field {header:#010x} is shorter than its experimenter id")
            if header & 0x100:
                if size % 2:
                    raise RemoteProtocolError(f"masked match field {header:#010x} has an odd length")
                half = start + size // 2
                value = int.from_bytes(data[start:half], "big")
                mask: int | None = int.from_bytes(data[half:pos], "big")
            else:
                half, value, mask = pos, int.from_bytes(data[start:pos], "big"), None
            if known is None:
                out.append(M(f"oxm:{header:08x}", value, mask))
                continue
            f = known[0]
            nxm_in_port = f.name == "in_port" and half - start == 2
            if half - start != f.size and not nxm_in_port:
                raise RemoteProtocolError(f"match field {f.name} is {half - start} bytes long, not {f.size}")
            if nxm_in_port and value >= 0xFF00:
                value |= 0xFFFF0000
            if value > f.limit or (mask is not None and mask > f.limit):
                raise RemoteProtocolError(f"match field {f.name}: {value:#x}/{mask} has more than its {f.bits} bits")
            out.append(M(f.name, value, None if mask == f.limit else mask))
    except StructError:
        raise RemoteProtocolError("a match ends in the middle of a field") from None
    return out


def match_end(data: bytes, pos: int) -> tuple[int, int]:
    """Where the fields of the match at `pos` end, and where its padding ends."""
    try:
        kind, length = _MATCH_HEADER.unpack_from(data, pos)
    except StructError:
        raise RemoteProtocolError("a match is cut before its length") from None
    end = pos + length
    padded = pos + (length + 7 & ~7)
    if kind != 1 or length < 4 or padded > len(data):
        raise RemoteProtocolError(f"bad match: type {kind}, length {length}, {len(data) - pos} bytes left")
    return end, padded


def decode_match(data: bytes, pos: int = 0) -> Match:
    """A whole match, sorted by name as `ebbtide.compile.flow.match` sorts."""
    end, _ = match_end(data, pos)
    found = sorted(decode_fields(data, pos + 4, end), key=lambda m: m.name)
    for one, other in pairwise(found):
        if one.name == other.name:
            raise RemoteProtocolError(f"a match names {one.name} twice")
    return tuple(found)


# What must be matched exactly before a field may be matched: name -> alternatives of (field, value).
_IPV4, _IPV6 = ("eth_type", 0x0800), ("eth_type", 0x86DD)
_ARP, _RARP = ("eth_type", 0x0806), ("eth_type", 0x8035)
_MPLS = (("eth_type", 0x8847), ("eth_type", 0x8848))
PREREQUISITES: dict[str, tuple[tuple[str, int], ...]] = (
    dict.fromkeys(("ip_proto", "ip_dscp", "ip_ecn", "nw_ttl", "ip_frag"), (_IPV4, _IPV6))
    | dict.fromkeys(("ipv4_src", "ipv4_dst", "ct_nw_src", "ct_nw_dst"), (_IPV4,))
    | dict.fromkeys(("ipv6_src", "ipv6_dst", "ipv6_flabel", "ct_ipv6_src", "ct_ipv6_dst"), (_IPV6,))
    | dict.fromkeys(("arp_op", "arp_spa", "arp_tpa", "arp_sha", "arp_tha"), (_ARP, _RARP))
    | dict.fromkeys(("mpls_label", "mpls_tc", "mpls_bos", "mpls_ttl"), _MPLS)
    | dict.fromkeys(("tcp_src", "tcp_dst", "tcp_flags"), (("ip_proto", 6),))
    | dict.fromkeys(("udp_src", "udp_dst"), (("ip_proto", 17),))
    | dict.fromkeys(("sctp_src", "sctp_dst"), (("ip_proto", 132),))
    | dict.fromkeys(("icmpv4_type", "icmpv4_code"), (("ip_proto", 1),))
    | dict.fromkeys(("icmpv6_type", "icmpv6_code"), (("ip_proto", 58),))
    | {"nd_target": (("icmpv6_type", 135), ("icmpv6_type", 136))}
    | dict.fromkeys(("nd_reserved", "nd_options_type"), (("icmpv6_type", 135), ("icmpv6_type", 136)))
    | {"nd_sll": (("icmpv6_type", 135),), "nd_tll": (("icmpv6_type", 136),)}
    | dict.fromkeys(("ct_tp_src", "ct_tp_dst"), tuple(("ct_nw_proto", n) for n in (1, 6, 17, 58, 132)))
)


_CT_TUPLE = ("ct_nw_", "ct_ipv6_", "ct_tp_")


def _tracked(match: Match) -> bool:
    for m in match:
        if m.name == "ct_state":
            mask = 0xFFFFFFFF if m.mask is None else m.mask
            valid = m.value & mask & 0xCF
            return bool(valid or (m.value & mask & 0x20 and mask & 0x10 and not m.value & 0x10))
    return False


def missing_prerequisite(match: Match) -> str:
    """Say which field of the match lacks its prerequisite, in words; "" if none does. For tests and checks of tables:
    a switch refuses such a flow with bad_match/bad_prereq (ovs-fields(7), "Prerequisites")."""
    exact = {(m.name, m.value) for m in match if m.mask is None}
    names = {m.name for m in match}
    for m in match:
        wanted = PREREQUISITES.get(m.name, ())
        if wanted and not any(w in exact for w in wanted):
            return f"{m.name} needs " + " or ".join(f"{name}={value:#x}" for name, value in wanted)
        if m.name.startswith(_CT_TUPLE) and not _tracked(match):
            return f"{m.name} needs a ct_state that only a valid connection has (+new, +est, +rel, +rpl, or -inv+trk)"
        if m.name == "vlan_pcp" and not names & {"vlan_vid", "vlan_tci"}:
            return "vlan_pcp needs vlan_vid"
    return ""
