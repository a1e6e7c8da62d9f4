"""Flows, groups and meters in the spelling of ovs-ofctl(8), for golden files, the command line and logs.

What lives here: values to text, one way. `format_flow` is what ``ovs-ofctl --no-stats --no-names dump-flows`` prints
for the flow, without the cookie unless asked, and ``ovs-ofctl add-flow`` takes it. Order and names follow
match_format() in OVS lib/match.c and the format_*() functions in OVS lib/ofp-actions.c. Only a masked SetField reads
back as another action: its text becomes reg_load there, where we send reg_load2; both do the same.

The file is long because each field and action has a spelling of its own; there is no logic beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ebbtide.compile import flow as f
from ebbtide.openflow import actions, flows, oxm
from ebbtide.openflow.actions import AnyAction

_PORTS = {
    f.IN_PORT: "IN_PORT",
    f.TABLE: "TABLE",
    f.NORMAL: "NORMAL",
    f.FLOOD: "FLOOD",
    f.ALL: "ALL",
    f.CONTROLLER: "CONTROLLER",
    f.LOCAL: "LOCAL",
    f.ANY: "ANY",
}
_TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]")
_CT_STATE = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
_REASONS = ("no_match", "action", "invalid_ttl", "action_set", "group", "packet_out")
_ALGS = {21: "ftp", 69: "tftp"}
# (value, mask) of ip_frag (ovs-fields(7), "IPv4/IPv6 Fragment Handling").
_FRAGS = {
    (0, 3): "no",
    (0, 1): "no",
    (1, 1): "yes",
    (1, 3): "first",
    (3, 3): "later",
    (0, 2): "not_later",
    (2, 2): "later",
}

# Our names where Open vSwitch's own differ, in actions and in matches.
_OVS_NAMES = {
    "ipv4_src": "ip_src",
    "ipv4_dst": "ip_dst",
    "ip_ecn": "nw_ecn",
    "ip_proto": "nw_proto",
    "icmpv4_type": "icmp_type",
    "icmpv4_code": "icmp_code",
    "ipv6_flabel": "ipv6_label",
}
_MATCH_NAMES = _OVS_NAMES | {
    "eth_src": "dl_src",
    "eth_dst": "dl_dst",
    "eth_type": "dl_type",
    "ipv4_src": "nw_src",
    "ipv4_dst": "nw_dst",
    "ip_dscp": "nw_tos",
    "ip_frag": "nw_frag",
    "icmpv6_type": "icmp_type",
    "icmpv6_code": "icmp_code",
    **{f"{proto}_{end}": f"tp_{end}" for proto in ("tcp", "udp", "sctp") for end in ("src", "dst")},
}
# The order of a match in text. Between the parts stands what `_protocol` says.
_BEFORE = (
    *("pkt_mark", "conj_id", "actset_output", "ct_state", "ct_zone", "ct_mark", "ct_label", "ct_nw_src", "ct_nw_dst"),
    *("ct_ipv6_src", "ct_ipv6_dst", "ct_nw_proto", "ct_tp_src", "ct_tp_dst"),
)
_AFTER = (
    *(f"reg{n}" for n in range(16)),
    *("tun_id", "tun_src", "tun_dst", "tun_ipv6_src", "tun_ipv6_dst", "tun_gbp_id", "tun_gbp_flags", "tun_flags"),
    *("metadata", "in_port", "packet_type", "vlan", "eth_src", "eth_dst", "eth_type"),
    *("ipv6_src", "ipv6_dst", "ipv6_flabel", "ipv4_src", "ipv4_dst", "arp_spa", "arp_tpa", "ip_proto", "arp_op"),
    *("arp_sha", "arp_tha", "ip_dscp", "ip_ecn", "nw_ttl", "mpls_label", "mpls_tc", "mpls_ttl", "mpls_bos", "ip_frag"),
    *("icmpv4_type", "icmpv4_code", "icmpv6_type", "icmpv6_code", "nd_target", "nd_sll", "nd_tll"),
    *("nd_reserved", "nd_options_type"),
    *("tcp_src", "tcp_dst", "udp_src", "udp_dst", "sctp_src", "sctp_dst", "tcp_flags"),
)
_PROTOCOLS = {
    0x0800: ("ip", {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}),
    0x86DD: ("ipv6", {58: "icmp6", 6: "tcp6", 17: "udp6", 132: "sctp6"}),
    0x0806: ("arp", {}),
    0x8035: ("rarp", {}),
    0x8847: ("mpls", {}),
    0x8848: ("mplsm", {}),
}

# Names of 32-bit headers in Nicira actions, where they are not the field's name with a prefix.
_NXM = "NXM_NX_"
_HEADER_NAMES = {
    "in_port": "NXM_OF_IN_PORT",
    "packet_type": "OXM_OF_PACKET_TYPE",
    "eth_src": "NXM_OF_ETH_SRC",
    "eth_dst": "NXM_OF_ETH_DST",
    "eth_type": "NXM_OF_ETH_TYPE",
    "vlan_vid": "OXM_OF_VLAN_VID",
    "vlan_pcp": "OXM_OF_VLAN_PCP",
    "vlan_tci": "NXM_OF_VLAN_TCI",
    "mpls_label": "OXM_OF_MPLS_LABEL",
    "mpls_tc": "OXM_OF_MPLS_TC",
    "mpls_bos": "OXM_OF_MPLS_BOS",
    "ipv4_src": "NXM_OF_IP_SRC",
    "ipv4_dst": "NXM_OF_IP_DST",
    "ipv6_flabel": "NXM_NX_IPV6_LABEL",
    "ip_dscp": "OXM_OF_IP_DSCP",
    "nw_ttl": "NXM_NX_IP_TTL",
    "ip_proto": "NXM_OF_IP_PROTO",
    "icmpv4_type": "NXM_OF_ICMP_TYPE",
    "icmpv4_code": "NXM_OF_ICMP_CODE",
    "sctp_src": "OXM_OF_SCTP_SRC",
    "sctp_dst": "OXM_OF_SCTP_DST",
    "tun_src": "NXM_NX_TUN_IPV4_SRC",
    "tun_dst": "NXM_NX_TUN_IPV4_DST",
    "metadata": "OXM_OF_METADATA",
    **{name: f"NXM_OF_{name.upper()}" for name in ("tcp_src", "tcp_dst", "udp_src", "udp_dst")},
    **{name: f"NXM_OF_{name.upper()}" for name in ("arp_op", "arp_spa", "arp_tpa")},
    **{f"xreg{n}": f"OXM_OF_PKT_REG{n}" for n in range(8)},
    **{name: f"ERICOXM_OF_ICMPV6_{name.upper()}" for name in ("nd_reserved", "nd_options_type")},
}


def format_port(port: int) -> str:
    """A port number, or the name of a reserved one."""
    return _PORTS.get(port, str(port))


def format_mac(value: int) -> str:
    """``02:00:00:00:00:01``."""
    return value.to_bytes(6, "big").hex(":")


# ---- values --------------------------------------------------------------------------------------------------------


def _hex(value: int) -> str:
    # As printf's %#x: zero has no prefix.
    return f"{value:#x}" if value else "0"


def _decimal_value(value: int, mask: int | None, full: int) -> str:
    return str(value) if mask is None else f"{_hex(value)}/{mask:#x}"


def _hex_value(value: int, mask: int | None, full: int) -> str:
    return _hex(value) if mask is None else f"{_hex(value)}/{mask:#x}"


def _mac_value(value: int, mask: int | None, full: int) -> str:
    return format_mac(value) if mask is None else f"{format_mac(value)}/{format_mac(mask)}"


def _ip_value(value: int, mask: int | None, full: int) -> str:
    address = IPv4Address if full >> 32 == 0 else IPv6Address
    text = str(address(value))
    if mask is None:
        return text
    host = full ^ mask
    if host & host + 1 == 0:
        return f"{text}/{full.bit_length() - host.bit_length()}"
    return f"{text}/{address(mask)}"


def _flags(value: int, mask: int, names: tuple[str, ...]) -> str:
    return "".join(f"{'+' if value >> n & 1 else '-'}{name}" for n, name in enumerate(names) if mask >> n & 1)


def _tcp_flags(value: int, mask: int | None, full: int) -> str:
    if mask is not None:
        return _flags(value, mask, _TCP_FLAGS)
    return "|".join(name for n, name in enumerate(_TCP_FLAGS) if value >> n & 1) or "0"


def _ct_state(value: int, mask: int | None, full: int) -> str:
    return _flags(value, full if mask is None else mask, _CT_STATE)


def _tun_flags(value: int, mask: int | None, full: int) -> str:
    return _flags(value, 1, ("oam",))


def _frag(value: int, mask: int | None, full: int) -> str:
    return _FRAGS.get((value, 3 if mask is None else mask), _hex_value(value, mask, full))


def _port_value(value: int, mask: int | None, full: int) -> str:
    return format_port(value)


_Formatter = Callable[[int, int | None, int], str]
_DECIMAL_FIELDS = (
    *("conj_id", "eth_type", "vlan_vid", "vlan_pcp", "mpls_label", "mpls_tc", "mpls_bos", "mpls_ttl", "ip_dscp"),
    *("ip_ecn", "nw_ttl", "ip_proto", "tcp_src", "tcp_dst", "udp_src", "udp_dst", "sctp_src", "sctp_dst"),
    *("icmpv4_type", "icmpv4_code", "icmpv6_type", "icmpv6_code", "arp_op", "tun_gbp_id", "ct_zone", "ct_nw_proto"),
    *("ct_tp_src", "ct_tp_dst", "nd_reserved", "nd_options_type"),
)
_FORMATTERS: Mapping[str, _Formatter] = (
    dict.fromkeys(_DECIMAL_FIELDS, _decimal_value)
    | dict.fromkeys(("eth_src", "eth_dst", "arp_sha", "arp_tha", "nd_sll", "nd_tll"), _mac_value)
    | dict.fromkeys(("ipv4_src", "ipv4_dst", "arp_spa", "arp_tpa", "tun_src", "tun_dst"), _ip_value)
    | dict.fromkeys(("ct_nw_src", "ct_nw_dst", "ct_ipv6_src", "ct_ipv6_dst", "nd_target"), _ip_value)
    | dict.fromkeys(("ipv6_src", "ipv6_dst", "tun_ipv6_src", "tun_ipv6_dst"), _ip_value)
    | {"eth_type": _hex_value, "tcp_flags": _tcp_flags, "ct_state": _ct_state, "tun_flags": _tun_flags}
    | {"ip_frag": _frag, "in_port": _port_value, "actset_output": _port_value}
)


def _value(name: str, value: int, mask: int | None) -> str:
    full = oxm.field(name).limit
    if mask == full:
        mask = None
    if mask is not None:
        value &= mask
    return _FORMATTERS.get(name, _hex_value)(value, mask, full)


# ---- matches -------------------------------------------------------------------------------------------------------


def _in_match(m: f.M) -> str:
    """One field of a match, where it is spelled otherwise than in a set_field."""
    name, value, mask = m
    if name == "ip_dscp":
        return f"nw_tos={value << 2}"
    if name == "ipv6_flabel":
        return f"ipv6_label={value:#07x}" + ("" if mask is None else f"/{mask:#07x}")
    return f"{_MATCH_NAMES.get(name, name)}={_value(name, value, mask)}"


def _vlan(fields: dict[str, f.M]) -> list[str]:
    vid = fields.pop("vlan_vid", None)
    pcp = fields.pop("vlan_pcp", None)
    if vid is None:
        return []
    mask = 0x1FFF if vid.mask is None else vid.mask
    pcp_text = [] if pcp is None else [f"dl_vlan_pcp={pcp.value}"]
    if vid.value & mask & 0x1000:
        if mask == 0x1FFF:
            return [f"dl_vlan={vid.value & 0xFFF}", *pcp_text]
        if mask == 0x1000 and pcp_text:
            return pcp_text
    tci, tci_mask = (vid.value, mask) if pcp is None else (vid.value | pcp.value << 13, mask | 0xE000)
    return [f"vlan_tci={tci:#06x}/{tci_mask:#06x}"]


def _protocol(fields: dict[str, f.M]) -> list[str]:
    """Take eth_type and ip_proto out of the match, if a word says both or one."""
    eth_type, ip_proto = fields.get("eth_type"), fields.get("ip_proto")
    if eth_type is None or eth_type.value not in _PROTOCOLS:
        return []
    word, by_proto = _PROTOCOLS[eth_type.value]
    del fields["eth_type"]
    if ip_proto is not None and ip_proto.value in by_proto:
        del fields["ip_proto"]
        word = by_proto[ip_proto.value]
    return [word]


def format_match(match: f.Match) -> str:
    """The match alone; "" for the match of everything. Fields that `oxm` does not know stand at the end."""
    unknown = [m for m in match if m.name.startswith("oxm:")]
    fields = {m.name: m for m in oxm.canonical_match(tuple(m for m in match if m not in unknown))}
    protocol = _protocol(fields)
    vlan = _vlan(fields)
    out = [_in_match(fields[name]) for name in _BEFORE if name in fields]
    out += protocol
    for name in _AFTER:
        if name == "vlan":
            out += vlan
        elif name in fields:
            out.append(_in_match(fields[name]))
    out += [f"{m.name}={_hex_value(m.value, m.mask, 0)}" for m in unknown]
    return ",".join(out)


# ---- actions -------------------------------------------------------------------------------------------------------


def _header_name(name: str) -> str:
    return _HEADER_NAMES.get(name, _NXM + name.upper())


def _subfield(name: str, offset: int, nbits: int) -> str:
    header = _header_name(name)
    if offset == 0 and nbits == oxm.field(name).nxm_bits:
        return f"{header}[]"
    return f"{header}[{offset}]" if nbits == 1 else f"{header}[{offset}..{offset + nbits - 1}]"


def _output(a: f.Output) -> str:
    if a.port == f.CONTROLLER:
        return f"CONTROLLER:{a.max_len}"
    return _PORTS.get(a.port) or f"output:{a.port}"


def _set_field(a: f.SetField) -> str:
    return f"set_field:{_value(a.name, a.value, a.mask)}->{_OVS_NAMES.get(a.name, a.name)}"


def _load(a: f.Load) -> str:
    return f"load:{_hex(a.value)}->{_subfield(a.name, a.offset, a.nbits)}"


def _move(a: f.Move) -> str:
    return f"move:{_subfield(a.src, a.src_offset, a.nbits)}->{_subfield(a.dst, a.dst_offset, a.nbits)}"


def _controller(a: f.ToController) -> str:
    parts = []
    if a.reason != 1:
        parts.append(f"reason={_REASONS[a.reason] if a.reason < len(_REASONS) else a.reason}")
    if a.max_len != 0xFFFF:
        parts.append(f"max_len={a.max_len}")
    if a.controller_id:
        parts.append(f"id={a.controller_id}")
    if a.userdata:
        parts.append(f"userdata={a.userdata.hex('.')}")
    if a.pause:
        parts.append("pause")
    if a.meter_id is not None:
        parts.append(f"meter_id={a.meter_id}")
    if not parts or (len(parts) == 1 and a.max_len != 0xFFFF):
        return f"CONTROLLER:{a.max_len}"
    return f"controller({','.join(parts)})"


def _nat(a: f.Nat) -> str:
    if not a.src and not a.dst:
        return "nat"
    parts = []
    what = "src" if a.src else "dst"

    def address(value: int) -> str:
        if not a.ipv6:
            return str(IPv4Address(value))
        return f"[{IPv6Address(value)}]" if a.port_min is not None else str(IPv6Address(value))

    if a.ip_min is not None:
        what += "=" + address(a.ip_min)
        if a.ip_max is not None and a.ip_max != a.ip_min:
            what += "-" + address(a.ip_max)
    if a.port_min is not None:
        what += f"{'' if a.ip_min is not None else '='}:{a.port_min}"
        if a.port_max is not None and a.port_max != a.port_min:
            what += f"-{a.port_max}"
    parts.append(what)
    parts += [word for word, on in (("persistent", a.persistent), ("hash", a.hash), ("random", a.random)) if on]
    return f"nat({','.join(parts)})"


def _ct(a: f.Ct) -> str:
    parts = [word for word, on in (("commit", a.commit), ("force", a.force)) if on]
    if a.table is not None:
        parts.append(f"table={a.table}")
    if a.zone_field is not None:
        parts.append(f"zone={_subfield(a.zone_field, 0, 16)}")
    elif a.zone:
        parts.append(f"zone={a.zone}")
    if a.nat is not None:
        parts.append(_nat(a.nat))
    if a.exec:
        parts.append(f"exec({','.join(format_action(e) for e in a.exec)})")
    if a.alg:
        parts.append(f"alg={_ALGS.get(a.alg, a.alg)}")
    return f"ct({','.join(parts)})"


def _learn_spec(spec: f.LearnMatch | f.LearnLoad | f.LearnOutput) -> str:
    if isinstance(spec, f.LearnOutput):
        return f"output:{_subfield(spec.src, spec.src_offset, spec.nbits)}"
    dst = _subfield(spec.dst, spec.dst_offset, spec.nbits)
    src = None if spec.src is None else _subfield(spec.src, spec.src_offset, spec.nbits)
    if isinstance(spec, f.LearnLoad):
        return f"load:{_hex(spec.value) if src is None else src}->{dst}"
    if src is not None:
        return dst if src == dst else f"{dst}={src}"
    if dst.endswith("[]"):
        return f"{_OVS_NAMES.get(spec.dst, spec.dst)}={_value(spec.dst, spec.value, None)}"
    return f"{dst}={spec.value:#x}"


def _learn(a: f.Learn) -> str:
    parts = [f"table={a.table}"]
    for name in ("idle_timeout", "hard_timeout", "fin_idle_timeout", "fin_hard_timeout"):
        if getattr(a, name):
            parts.append(f"{name}={getattr(a, name)}")
    if a.priority != 0x8000:
        parts.append(f"priority={a.priority}")
    parts += [word for word, on in (("send_flow_rem", a.send_flow_removed), ("delete_learned", a.delete_learned)) if on]
    if a.cookie:
        parts.append(f"cookie={a.cookie:#x}")
    if a.limit:
        parts.append(f"limit={a.limit}")
    return f"learn({','.join([*parts, *map(_learn_spec, a.specs)])})"


_ACTIONS: dict[type, Callable[[Any], str]] = {
    f.Output: _output,
    f.ToGroup: lambda a: f"group:{a.group_id}",
    f.SetField: _set_field,
    f.Load: _load,
    f.Move: _move,
    f.OutputReg: lambda a: f"output:{_subfield(a.name, a.offset, a.nbits)}",
    f.Resubmit: lambda a: f"resubmit(,{a.table},ct)" if a.ct else f"resubmit(,{a.table})",
    f.ToController: _controller,
    f.DecTtl: lambda _: "dec_ttl",
    f.PushVlan: lambda a: f"push_vlan:{a.ethertype:#06x}",
    f.PopVlan: lambda _: "pop_vlan",
    f.StackPush: lambda a: f"push:{_subfield(a.name, a.offset, a.nbits)}",
    f.StackPop: lambda a: f"pop:{_subfield(a.name, a.offset, a.nbits)}",
    f.Ct: _ct,
    f.CtClear: lambda _: "ct_clear",
    f.Conjunction: lambda a: f"conjunction({a.id},{a.clause}/{a.n_clauses})",
    f.Trunc: lambda a: f"output(port={format_port(a.port)},max_len={a.max_len})",
    f.CheckLarger: lambda a: f"check_pkt_larger({a.length})->{_subfield(a.name, a.offset, 1)}",
    f.Learn: _learn,
    actions.Unknown: lambda a: f"unknown({a.data.hex()})",
}


def format_action(action: AnyAction) -> str:
    """One action."""
    return _ACTIONS[type(action)](action)


def format_actions(
    found: tuple[AnyAction, ...],
    goto: int | None = None,
    metadata: tuple[int, int] | None = None,
    meter: int | None = None,
) -> str:
    """What follows ``actions=``; "drop" for nothing."""
    parts = [] if meter is None else [f"meter:{meter}"]
    parts += [format_action(action) for action in found]
    if metadata is not None:
        value, mask = metadata
        parts.append(f"write_metadata:{_hex(value & mask)}" + ("" if mask + 1 == 1 << 64 else f"/{mask:#x}"))
    if goto is not None:
        parts.append(f"goto_table:{goto}")
    return ",".join(parts) or "drop"


def _line(flow: f.Flow | flows.InstalledFlow, match: f.Match, what: str) -> str:
    head = ""
    if flow.idle_timeout:
        head += f"idle_timeout={flow.idle_timeout}, "
    if flow.hard_timeout:
        head += f"hard_timeout={flow.hard_timeout}, "
    removed = flow.send_flow_removed if isinstance(flow, f.Flow) else flow.flags & flows.SEND_FLOW_REMOVED
    if removed:
        head += "send_flow_rem "
    if flow.reset_counts if isinstance(flow, f.Flow) else flow.flags & flows.RESET_COUNTS:
        head += "reset_counts "
    text = format_match(match)
    return f"{head}priority={flow.priority}{',' if text else ''}{text} actions={what}"


def format_flow(flow: f.Flow, cookie: bool = False) -> str:
    """One flow on one line, as ``ovs-ofctl --no-stats --no-names dump-flows`` prints it; `cookie` puts that first."""
    head = f"cookie={flow.cookie:#x}, " if cookie else ""
    what = format_actions(flow.actions, flow.goto, flow.metadata, flow.meter)
    return f"{head}table={flow.table}, {_line(flow, flow.match, what)}"


def format_installed(flow: flows.InstalledFlow, stats: bool = True) -> str:
    """One entry of a dump, whoever wrote it; what we have no value for is shown as bytes."""
    found = actions.decode_instructions(flow.instructions)
    what = format_actions(found.actions, found.goto, found.metadata, found.meter)
    if found.other:
        known = [] if what == "drop" else [what]
        what = ",".join([*known, *(f"instruction({raw.hex()})" for raw in found.other)])
    head = f"cookie={flow.cookie:#x}, "
    if stats:
        head += f"duration={flow.duration:.3f}s, "
    head += f"table={flow.table}, "
    if stats:
        head += f"n_packets={flow.n_packets}, n_bytes={flow.n_bytes}, "
    return head + _line(flow, oxm.decode_match(flow.match), what)


# ---- groups and meters ---------------------------------------------------------------------------------------------

_GROUP_TYPES = {0: "all", 1: "select", 2: "indirect", 3: "ff"}


def _bucket(bucket: f.Bucket, kind: int) -> str:
    parts = []
    if kind == f.GroupType.SELECT:
        parts.append(f"weight:{bucket.weight}")
    if bucket.watch_port != f.ANY:
        parts.append(f"watch_port:{format_port(bucket.watch_port)}")
    if bucket.watch_group != f.ANY:
        parts.append(f"watch_group:{bucket.watch_group}")
    parts.append(f"actions={format_actions(bucket.actions)}")
    return "bucket=" + ",".join(parts)


def format_group(group: f.Group) -> str:
    """One group on one line, as ``ovs-ofctl dump-groups`` prints it."""
    head = f"group_id={group.group_id},type={_GROUP_TYPES.get(group.type, group.type)}"
    return ",".join([head, *(_bucket(bucket, group.type) for bucket in group.buckets)])


def format_meter(meter: f.Meter) -> str:
    """One meter on one line, as ``ovs-ofctl add-meter`` takes it."""
    words = ["pktps" if meter.pktps else "kbps", *(["burst"] if meter.burst else []), "stats"]
    burst = f",burst_size={meter.burst}" if meter.burst else ""
    return f"meter={meter.meter_id},{','.join(words)},bands=type=drop,rate={meter.rate}{burst}"
