"""Ethernet frames as fields under Open vSwitch's names, and back into bytes: what flows match, and what actions have written.

ARP and RARP, IPv4 with TCP, UDP and ICMP, and of IPv6 the addresses and ports. Of checksums the IPv4 header's is made anew; nobody here
looks at those of the payload.
"""

from __future__ import annotations

import struct

Packet = dict[str, int]
ARP, RARP, IPV4, IPV6, VLAN = 0x0806, 0x8035, 0x0800, 0x86DD, 0x8100
ICMP, TCP, UDP, SCTP, ICMP6 = 1, 6, 17, 132, 58
TAGGED = 0x1000  # in vlan_vid: there is a tag
_PORTS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
#: name, where it stands in an ARP packet, bytes
_ARP_FIELDS = (("arp_op", 6, 2), ("arp_sha", 8, 6), ("arp_spa", 14, 4), ("arp_tha", 18, 6), ("arp_tpa", 24, 4))


def read(data: bytes) -> tuple[Packet, bytes]:
    """The fields of a frame, and what follows its Ethernet header and tag."""
    packet = {"eth_dst": int.from_bytes(data[0:6], "big"), "eth_src": int.from_bytes(data[6:12], "big"), "vlan_vid": 0}
    kind, at = int.from_bytes(data[12:14], "big"), 14
    if kind == VLAN and len(data) >= 18:
        tag = int.from_bytes(data[14:16], "big")
        packet |= {"vlan_vid": TAGGED | tag & 0xFFF, "vlan_pcp": tag >> 13}
        kind, at = int.from_bytes(data[16:18], "big"), 18
    packet["eth_type"] = kind
    body = data[at:]
    if kind in (ARP, RARP) and len(body) >= 28:
        packet |= {name: int.from_bytes(body[start : start + size], "big") for name, start, size in _ARP_FIELDS}
    elif kind == IPV4 and len(body) >= 20:
        packet |= {
            "ip_proto": body[9],
            "nw_ttl": body[8],
            "ip_dscp": body[1] >> 2,
            "ip_ecn": body[1] & 3,
            "ip_frag": _fragment(int.from_bytes(body[6:8], "big")),
            "ipv4_src": int.from_bytes(body[12:16], "big"),
            "ipv4_dst": int.from_bytes(body[16:20], "big"),
        }
        packet |= _transport(body[9], body[(body[0] & 0xF) * 4 :])
    elif kind == IPV6 and len(body) >= 40:
        packet |= {
            "ip_proto": body[6],
            "nw_ttl": body[7],
            "ipv6_src": int.from_bytes(body[8:24], "big"),
            "ipv6_dst": int.from_bytes(body[24:40], "big"),
        }
        packet |= _transport(body[6], body[40:])
    return packet, body


def _fragment(word: int) -> int:
    return (1 if word & 0x3FFF else 0) | (2 if word & 0x1FFF else 0)


def _transport(proto: int, data: bytes) -> Packet:
    if proto in _PORTS and len(data) >= 4:
        name = _PORTS[proto]
        found = {f"{name}_src": int.from_bytes(data[0:2], "big"), f"{name}_dst": int.from_bytes(data[2:4], "big")}
        if proto == TCP and len(data) >= 14:
            found["tcp_flags"] = int.from_bytes(data[12:14], "big") & 0xFFF
        return found
    if proto in (ICMP, ICMP6) and len(data) >= 2:
        name = "icmpv4" if proto == ICMP else "icmpv6"
        found = {f"{name}_type": data[0], f"{name}_code": data[1]}
        if len(data) >= 6:
            found["icmp_id"] = int.from_bytes(data[4:6], "big")
        return found
    return {}


def write(packet: Packet, body: bytes) -> bytes:
    """The frame whose fields these are now."""
    out, kind = bytearray(body), packet["eth_type"]
    if "arp_op" in packet:
        for name, start, size in _ARP_FIELDS:
            out[start : start + size] = packet[name].to_bytes(size, "big")
    elif "ipv4_src" in packet:
        out[1] = packet["ip_dscp"] << 2 | packet["ip_ecn"]
        out[8] = packet["nw_ttl"]
        out[12:20] = packet["ipv4_src"].to_bytes(4, "big") + packet["ipv4_dst"].to_bytes(4, "big")
        size = (out[0] & 0xF) * 4
        out[10:12] = b"\0\0"
        out[10:12] = _checksum(bytes(out[:size])).to_bytes(2, "big")
        _write_ports(packet, out, size)
    elif "ipv6_src" in packet:
        out[7] = packet["nw_ttl"]
        out[8:40] = packet["ipv6_src"].to_bytes(16, "big") + packet["ipv6_dst"].to_bytes(16, "big")
        _write_ports(packet, out, 40)
    head = packet["eth_dst"].to_bytes(6, "big") + packet["eth_src"].to_bytes(6, "big")
    if packet["vlan_vid"] & TAGGED:
        tag = packet.get("vlan_pcp", 0) << 13 | packet["vlan_vid"] & 0xFFF
        head += struct.pack("!HH", VLAN, tag)
    return head + kind.to_bytes(2, "big") + bytes(out)


def _write_ports(packet: Packet, out: bytearray, at: int) -> None:
    name = _PORTS.get(packet["ip_proto"])
    if name is not None and f"{name}_src" in packet:
        out[at : at + 4] = packet[f"{name}_src"].to_bytes(2, "big") + packet[f"{name}_dst"].to_bytes(2, "big")


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def rarp(mac: int) -> bytes:
    """What QEMU announces a guest by, where it wakes after a migration (RFC 903, request reverse)."""
    own = mac.to_bytes(6, "big")
    body = struct.pack("!HHBBH6sI6sI", 1, 0x0800, 6, 4, 3, own, 0, own, 0)
    return (b"\xff" * 6 + own + RARP.to_bytes(2, "big") + body).ljust(60, b"\0")


def garp(mac: int, address: int) -> bytes:
    """A guest's gratuitous ARP, as a request (RFC 5227, section 3)."""
    own = mac.to_bytes(6, "big")
    body = struct.pack("!HHBBH6sI6sI", 1, 0x0800, 6, 4, 1, own, address, b"\0" * 6, address)
    return (b"\xff" * 6 + own + ARP.to_bytes(2, "big") + body).ljust(60, b"\0")


def arp_reply(mac: int, address: int, to_mac: int, to_address: int, vlan: int = 0) -> bytes:
    """An answer to whoever has asked for an address (RFC 826)."""
    own, to = mac.to_bytes(6, "big"), to_mac.to_bytes(6, "big")
    tag = struct.pack("!HH", VLAN, vlan & 0xFFF) if vlan & TAGGED else b""
    body = struct.pack("!HHBBH6sI6sI", 1, 0x0800, 6, 4, 2, own, address, to, to_address)
    return (to + own + tag + ARP.to_bytes(2, "big") + body).ljust(60, b"\0")
