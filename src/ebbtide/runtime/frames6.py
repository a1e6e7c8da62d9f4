"""The IPv6 frames that the controller itself sends and reads: neighbour and router discovery, errors, listener reports.

RFC 4861 for discovery, RFC 4443 for errors, RFC 3810 for reports (a switch outside that snoops sends a solicitation to nobody else),
RFC 8200 for headers. What has extension headers, or is cut, is not read.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from ebbtide.compile.features.nd import (
    ADVERT,
    ALL_NODES,
    BY_ROUTER,
    HOPS,
    OVERRIDE,
    REDIRECT,
    ROUTER_ADVERT,
    ROUTER_SOLICIT,
    SOLICIT,
    SOLICITED,
)
from ebbtide.decide.adverts import LONGEST, Advert
from ebbtide.model.addresses import link_local
from ebbtide.runtime.frames import checksum

_ETHERNET = struct.Struct("!6s6sH")
_IPV6 = struct.Struct("!IHBB16s16s")
ICMP, _ETHERTYPE, _HOP_BY_HOP = 58, 0x86DD, 0
_HEAD = 14 + 40
ALL_ROUTERS, _REPORTS_TO = 0xFF02 << 112 | 2, 0xFF02 << 112 | 0x16
_UNREACHABLE, _TOO_BIG, _TIME_EXCEEDED, _REPORT = 1, 2, 3, 143
_SOURCE, _TARGET, _PREFIX, _MTU, _DNS = 1, 2, 3, 5, 25
_SOLICITED_NODE = 0xFF02_0000_0000_0000_0000_0001_FF00_0000
#: An error quotes as much as keeps it within the least MTU (RFC 4443, 2.4 c); what was sent up is cut before that.
_LEAST = 1280
#: Headers of one form that stand before others (RFC 8200, 4), and that of a fragment.
_EXTENSIONS, _FRAGMENT = (0, 43, 60), 44


class Spoken(msgspec.Struct, frozen=True):
    """What somebody has said of an address by neighbour discovery: that it is at `mac`; `target`: of which address it was about."""

    kind: int
    sender: int
    mac: int
    target: int


def group_mac(address: int) -> int:
    """The MAC of a multicast address (RFC 2464, section 7)."""
    return 0x3333 << 32 | address & 0xFFFF_FFFF


def solicited_node(address: int) -> int:
    """The group in which whoever has an address listens (RFC 4291, 2.7.1)."""
    return _SOLICITED_NODE | address & 0xFF_FFFF


def sealed(
    proto: int, payload: bytes, source: tuple[int, int], target: tuple[int, int], *, hops: int, at: int
) -> bytes:
    """A payload with its checksum (at that place in it, RFC 8200, 8.1) as a frame; both ends are MAC and address."""
    ends = source[1].to_bytes(16, "big") + target[1].to_bytes(16, "big")
    total = checksum(ends + struct.pack("!II", len(payload), proto) + payload)
    body = payload[:at] + struct.pack("!H", total or 0xFFFF) + payload[at + 2 :]
    head = _IPV6.pack(6 << 28, len(body), proto, hops, ends[:16], ends[16:])
    return _ETHERNET.pack(target[0].to_bytes(6, "big"), source[0].to_bytes(6, "big"), _ETHERTYPE) + head + body


def _icmp(body: bytes, source: tuple[int, int], target: tuple[int, int], hops: int = HOPS) -> bytes:
    return sealed(ICMP, body, source, target, hops=hops, at=2)


def _link(kind: int, mac: int) -> bytes:
    return bytes([kind, 1]) + mac.to_bytes(6, "big")


def solicitation(target: int, source: tuple[int, int], mac: int = 0) -> bytes:
    """A question for an address from somebody's MAC and address: to its group, or to a MAC that has had it."""
    group = solicited_node(target)
    to = (mac, target) if mac else (group_mac(group), group)
    return _icmp(
        struct.pack("!BBHI", SOLICIT, 0, 0, 0) + target.to_bytes(16, "big") + _link(_SOURCE, source[0]), source, to
    )


def advertisement(target: int, mac: int, to: tuple[int, int] | None = None) -> bytes:
    """A router says that an address is at a MAC: to all, or in answer to somebody's question."""
    flags = BY_ROUTER | OVERRIDE | (SOLICITED if to is not None else 0)
    body = struct.pack("!BBHI", ADVERT, 0, 0, flags) + target.to_bytes(16, "big") + _link(_TARGET, mac)
    return _icmp(body, (mac, target), to or (group_mac(ALL_NODES), ALL_NODES))


def report(addresses: Sequence[int], mac: int) -> bytes:
    """A listener's report for the groups in which questions for these addresses come (RFC 3810, 5.2; RFC 2711 for the router alert)."""
    groups = sorted({solicited_node(address) for address in addresses})
    records = b"".join(struct.pack("!BBH", 4, 0, 0) + group.to_bytes(16, "big") for group in groups)
    body = struct.pack("!BBHHH", _REPORT, 0, 0, 0, len(groups)) + records
    source, target = link_local(mac).to_bytes(16, "big"), _REPORTS_TO.to_bytes(16, "big")
    total = checksum(source + target + struct.pack("!II", len(body), ICMP) + body)
    body = body[:2] + struct.pack("!H", total) + body[4:]
    alert = bytes([ICMP, 0, 5, 2, 0, 0, 1, 0])
    head = _IPV6.pack(6 << 28, len(alert) + len(body), _HOP_BY_HOP, 1, source, target)
    ether = _ETHERNET.pack(group_mac(_REPORTS_TO).to_bytes(6, "big"), mac.to_bytes(6, "big"), _ETHERTYPE)
    return ether + head + alert + body


def router_advert(told: Advert, to: tuple[int, int] | None = None) -> bytes:
    """A router advertisement (RFC 4861, 4.2; RFC 8106 for name servers), from the router's link-local address: to all, or to who asks."""
    flags = (0x80 if told.managed else 0) | (0x40 if told.other else 0)
    body = struct.pack("!BBHBBHII", ROUTER_ADVERT, 0, 0, 64, flags, told.lifetime, 0, 0) + _link(_SOURCE, told.mac)
    body += struct.pack("!BBHI", _MTU, 1, 0, told.mtu)
    for known in told.prefixes:
        flags = 0x80 | (0x40 if known.autonomous else 0)
        head = struct.pack("!BBBBIII", _PREFIX, 4, known.length, flags, known.valid, known.preferred, 0)
        body += head + known.address.to_bytes(16, "big")
    if told.dns:
        body += struct.pack("!BBHI", _DNS, 1 + 2 * len(told.dns), 0, LONGEST)
        body += b"".join(address.to_bytes(16, "big") for address in told.dns)
    return _icmp(body, (told.mac, link_local(told.mac)), to or (group_mac(ALL_NODES), ALL_NODES))


def source_of(data: bytes) -> tuple[int, int] | None:
    """MAC and address that an untagged IPv6 frame comes from; None: it is none."""
    if len(data) < _HEAD or data[12:14] != b"\x86\xdd" or data[14] >> 4 != 6:
        return None
    return int.from_bytes(data[6:12], "big"), int.from_bytes(data[22:38], "big")


def asks_for_router(data: bytes) -> bool:
    """Whether it is a router solicitation (the rows have looked at the rest)."""
    return source_of(data) is not None and len(data) > _HEAD and data[20] == ICMP and data[_HEAD] == ROUTER_SOLICIT


def read(data: bytes) -> Spoken | None:
    """What an untagged frame says by neighbour discovery of who has an address; None: nothing.

    Duplicate address detection speaks of its target: whoever does it is about to have that.
    """
    source = source_of(data)
    if source is None or data[20] != ICMP or len(data) < _HEAD + 24 or data[_HEAD] not in (SOLICIT, ADVERT):
        return None
    kind, target = data[_HEAD], int.from_bytes(data[_HEAD + 8 : _HEAD + 24], "big")
    wanted = _SOURCE if kind == SOLICIT else _TARGET
    mac = _option(data[_HEAD + 24 :], wanted) or source[0]
    if kind == ADVERT or not source[1]:
        return Spoken(kind, target, mac, target)
    return Spoken(kind, source[1], mac, target)


def _option(data: bytes, wanted: int) -> int:
    """The link-layer address in the options of a message (0: none)."""
    at = 0
    while at + 8 <= len(data) and data[at + 1]:
        if data[at] == wanted and data[at + 1] == 1:
            return int.from_bytes(data[at + 2 : at + 8], "big")
        at += 8 * data[at + 1]
    return 0


def forwarded(data: bytes, source: int, destination: int) -> bytes | None:
    """An untagged IPv6 frame as a router sends it on, its hop limit one less; None: it is none, or that ends."""
    if source_of(data) is None or data[21] < 2:
        return None
    head = _ETHERNET.pack(destination.to_bytes(6, "big"), source.to_bytes(6, "big"), _ETHERTYPE)
    return head + data[14:21] + bytes([data[21] - 1]) + data[22:]


def no_further(data: bytes, address: int) -> bytes | None:
    """What a router with that address answers to an untagged IPv6 frame whose hop limit has ended, or that has no way (RFC 4443, 3.1 and
    3.3); None: nothing may be answered."""
    kind = _TIME_EXCEEDED if len(data) >= _HEAD and data[21] <= 1 else _UNREACHABLE
    return _error(data, address, kind)


def too_big(data: bytes, address: int, mtu: int) -> bytes | None:
    """The same to one that is larger than the network that it goes to, whose MTU that is (RFC 4443, 3.2)."""
    return _error(data, address, _TOO_BIG, mtu)


def _error(data: bytes, address: int, kind: int, more: int = 0) -> bytes | None:
    """An ICMPv6 error of that type about a frame, back to where it came from; `more`: the four bytes behind the checksum.

    Not to an error or a redirect, nor to what may be the rest of one, nor to what came from or went to no single host (RFC 4443, 2.4 e).
    """
    source = source_of(data)
    if source is None:
        return None
    target = int.from_bytes(data[38:54], "big")
    if source[1] < 2 or 0xFF in (source[1] >> 120, target >> 120) or data[0] & 1:
        return None
    packet = data[14:]
    proto, at = _upper_layer(packet)
    if proto == ICMP and (at >= len(packet) or packet[at] < 128 or packet[at] == REDIRECT):
        return None
    head = struct.pack("!BBHI", kind, 0, 0, more)
    return _icmp(head + packet[: _LEAST - 40 - len(head)], (int.from_bytes(data[0:6], "big"), address), source, hops=64)


def _upper_layer(packet: bytes) -> tuple[int, int]:
    """Of an IPv6 packet, the protocol behind its extension headers, and where that begins: behind the end, if it is cut or elsewhere."""
    kind, at = packet[6], 40
    while at + 8 <= len(packet):
        if kind in _EXTENSIONS:
            kind, at = packet[at], at + 8 + 8 * packet[at + 1]
        elif kind == _FRAGMENT:
            later = int.from_bytes(packet[at + 2 : at + 4], "big") >> 3
            kind, at = packet[at], len(packet) if later else at + 8
        else:
            break
    return kind, at
