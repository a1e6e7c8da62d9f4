"""The few frames that the controller itself sends and reads: ARP towards networks outside, ICMP time exceeded and packet too big.

RFC 826 for ARP, RFC 5227 for probes, RFC 792 and RFC 1812 (4.3.2.3: as much of the packet as fits into 576 bytes) for ICMP, RFC 1191 for
what it says of an MTU. IPv6 is in `frames6.py`.
"""

from __future__ import annotations

import struct

import msgspec

BROADCAST = 0xFFFF_FFFF_FFFF
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6sI6sI")
_IPV4 = struct.Struct("!BBHHHBBHII")
_ICMP_UNREACHABLE, _FRAGMENTATION_NEEDED, _ICMP_TIME_EXCEEDED, _TCP, _UDP = 3, 4, 11, 6, 17
_QUOTED = 128 - 14


class Arp(msgspec.Struct, frozen=True):
    """An ARP packet for Ethernet and IPv4; `operation` 1 asks, 2 answers."""

    operation: int
    sender_mac: int
    sender: int
    target_mac: int
    target: int


def arp(packet: Arp, source: int, destination: int = BROADCAST) -> bytes:
    """As a frame from `source` to `destination`."""
    head = _ETHERNET.pack(destination.to_bytes(6, "big"), source.to_bytes(6, "big"), 0x0806)
    macs = packet.sender_mac.to_bytes(6, "big"), packet.target_mac.to_bytes(6, "big")
    body = _ARP.pack(1, 0x0800, 6, 4, packet.operation, macs[0], packet.sender, macs[1], packet.target)
    return (head + body).ljust(60, b"\0")


def read_arp(data: bytes) -> Arp | None:
    """The ARP packet in an untagged frame, or None."""
    if len(data) < 14 + _ARP.size or data[12:14] != b"\x08\x06":
        return None
    kind, proto, hlen, plen, operation, sha, spa, tha, tpa = _ARP.unpack_from(data, 14)
    if (kind, proto, hlen, plen) != (1, 0x0800, 6, 4):
        return None
    return Arp(operation, int.from_bytes(sha, "big"), spa, int.from_bytes(tha, "big"), tpa)


def transport(data: bytes) -> tuple[int, int] | None:
    """Of an untagged frame with TCP or UDP over IPv4: the protocol, and where the ports begin. None: it is another, or cut before them."""
    if len(data) < 38 or data[12:14] != b"\x08\x00":
        return None
    proto, at = data[23], 14 + (data[14] & 0xF) * 4
    return (proto, at) if proto in (_TCP, _UDP) and len(data) >= at + 4 else None


def announcements(address: int, mac: int) -> tuple[bytes, bytes]:
    """Gratuitous ARP, as a request and as an answer (RFC 5227, section 3: hosts differ in which of the two they heed)."""
    asked = Arp(1, mac, address, 0, address)
    told = Arp(2, mac, address, BROADCAST, address)
    return arp(asked, mac), arp(told, mac)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def forwarded(data: bytes, source: int, destination: int) -> bytes | None:
    """An untagged IPv4 frame as a router sends it on, its TTL one less (RFC 1141 for the checksum); None: it is none, or its TTL ends."""
    if len(data) < 34 or data[12:14] != b"\x08\x00" or data[22] < 2:
        return None
    total = int.from_bytes(data[24:26], "big") + 0x0100
    folded = (total + (total >> 16)) & 0xFFFF
    head = _ETHERNET.pack(destination.to_bytes(6, "big"), source.to_bytes(6, "big"), 0x0800)
    return head + data[14:22] + bytes([data[22] - 1]) + data[23:24] + folded.to_bytes(2, "big") + data[26:]


def udp(body: bytes, source: tuple[int, int, int], target: tuple[int, int, int]) -> bytes:
    """A UDP datagram over IPv4 as a frame; both ends are MAC, address and port. Its checksum is none (RFC 768: zero)."""
    head = _IPV4.pack(0x45, 0, 28 + len(body), 0, 0, 64, _UDP, 0, source[1], target[1])
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    ports = struct.pack("!HHHH", source[2], target[2], 8 + len(body), 0)
    return _ETHERNET.pack(target[0].to_bytes(6, "big"), source[0].to_bytes(6, "big"), 0x0800) + head + ports + body


def time_exceeded(data: bytes, address: int) -> bytes | None:
    """What a router with that address answers to an untagged IPv4 frame whose TTL has ended; None: nothing may be answered."""
    return _icmp_error(data, address, (_ICMP_TIME_EXCEEDED, 0, 0))


def too_big(data: bytes, address: int, mtu: int) -> bytes | None:
    """The same to one that is larger than the network that it goes to, whose MTU that is. It quotes what it is given, up to what such an
    answer may hold."""
    return _icmp_error(data, address, (_ICMP_UNREACHABLE, _FRAGMENTATION_NEEDED, mtu))


def quoting(error: bytes, source: int) -> bytes:
    """One of our ICMP errors over IPv4, whose quoted packet has that source: what its sender knows it by (RFC 5508, REQ-4)."""
    quoted = error[42:]
    length = (quoted[0] & 0xF) * 4
    head = quoted[:10] + b"\0\0" + source.to_bytes(4, "big") + quoted[16:length]
    body = (
        error[34:36]
        + b"\0\0"
        + error[38:42]
        + head[:10]
        + struct.pack("!H", checksum(head))
        + head[12:]
        + quoted[length:]
    )
    return error[:34] + body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def _icmp_error(data: bytes, address: int, says: tuple[int, int, int]) -> bytes | None:
    """`says`: type, code and the four bytes behind the checksum.

    Not to an ICMP error, a later fragment, or what came from or went to no single host (RFC 1812, 4.3.2.7).
    """
    if len(data) < 34 or data[12:14] != b"\x08\x00" or data[0] & 1:
        return None
    packet = data[14:]
    length = (packet[0] & 0xF) * 4
    fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
    source, target = int.from_bytes(packet[12:16], "big"), int.from_bytes(packet[16:20], "big")
    lonely = source in (0, 0xFFFFFFFF) or source >> 28 >= 0xE or target >> 28 >= 0xE
    if length < 20 or fragment or lonely or source >> 24 == 127:
        return None
    if packet[9] == 1 and (len(packet) <= length or packet[length] in (3, 4, 5, 11, 12)):
        return None
    quoted = packet[: min(len(packet), _QUOTED)]
    body = struct.pack("!BBHI", says[0], says[1], 0, says[2]) + quoted
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    head = _IPV4.pack(0x45, 0xC0, 20 + len(body), 0, 0, 64, 1, 0, address, source)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return _ETHERNET.pack(data[6:12], data[0:6], 0x0800) + head + body
