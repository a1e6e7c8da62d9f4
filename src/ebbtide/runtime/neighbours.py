"""Who has an address, in either family: what is read of ARP and of neighbour discovery, and what is asked and announced."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import msgspec

from ebbtide.compile.features.nd import ADVERT
from ebbtide.model.addresses import link_local, number
from ebbtide.runtime import frames, frames6


class Said(msgspec.Struct, frozen=True):
    """Somebody says that an address is at `mac`. `answer`: to somebody's question; `announced`: it is of itself that it speaks."""

    address: str
    mac: int
    answer: bool
    announced: bool


def read(data: bytes) -> Said | None:
    """What an untagged frame says; None: it is neither ARP nor neighbour discovery, is cut, or says so under another MAC than its own."""
    source = int.from_bytes(data[6:12], "big")
    arp = frames.read_arp(data)
    if arp is not None:
        said = Said(str(IPv4Address(arp.sender)), arp.sender_mac, arp.operation == 2, arp.sender == arp.target)
        return said if said.mac == source else None
    found = frames6.read(data)
    if found is None or found.mac != source:
        return None
    return Said(str(IPv6Address(found.sender)), found.mac, found.kind == ADVERT, found.sender == found.target)


def question(address: str, source: tuple[int, str], mac: int = 0) -> bytes:
    """A question for an address, from somebody's MAC and address ("": nobody's, RFC 5227; in IPv6 the MAC's own on the link): to all, or to
    a MAC that has had it."""
    if ":" in address:
        own = number(source[1]) if source[1] else link_local(source[0])
        return frames6.solicitation(number(address), (source[0], own), mac)
    own = number(source[1]) if source[1] else 0
    return frames.arp(frames.Arp(1, source[0], own, 0, number(address)), source[0], mac or frames.BROADCAST)


def announcements(address: str, mac: int) -> tuple[bytes, ...]:
    """An address of ours has come to where this is sent: gratuitous ARP, or an advertisement and what makes snooping switches send on
    questions for it."""
    if ":" in address:
        return frames6.report([number(address)], mac), frames6.advertisement(number(address), mac)
    return frames.announcements(number(address), mac)


def forwarded(data: bytes, source: int, destination: int) -> bytes | None:
    """A frame as a router sends it on; None: it is not IP, or its TTL ends."""
    return frames.forwarded(data, source, destination) or frames6.forwarded(data, source, destination)


def no_further(data: bytes, address: str) -> bytes | None:
    """What a router with that address answers to a frame whose TTL has ended, or in IPv6 has no way; None: nothing may be answered, or the
    families differ."""
    if ":" in address:
        return frames6.no_further(data, number(address))
    return frames.time_exceeded(data, number(address))


def too_big(data: bytes, address: str, *, mtu: int) -> bytes | None:
    """What a router with that address answers to a frame that is larger than the network that it goes to, whose MTU that is; None: as
    `no_further`."""
    if ":" in address:
        return frames6.too_big(data, number(address), mtu)
    return frames.too_big(data, number(address), mtu)


def destination(data: bytes) -> str | None:
    """The address that an untagged frame goes to; None: it is not IP."""
    if len(data) >= 34 and data[12:14] == b"\x08\x00":
        return str(IPv4Address(data[30:34]))
    if frames6.source_of(data) is not None:
        return str(IPv6Address(data[38:54]))
    return None


def sender(data: bytes) -> str | None:
    """The address that an untagged frame comes from; None: it is not IP."""
    if len(data) >= 34 and data[12:14] == b"\x08\x00":
        return str(IPv4Address(data[26:30]))
    found = frames6.source_of(data)
    return str(IPv6Address(found[1])) if found is not None else None
