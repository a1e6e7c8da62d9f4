"""A client of DHCPv6: what it asks, byte by byte (RFC 8415), and what it reads of the answer."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address
from typing import NamedTuple

from ebbtide.lab import packets

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = range(1, 10)
INFORMATION, RELAY = 11, 12
CLIENT_ID, SERVER_ID, IA_NA, IA_TA, ADDRESS, STATUS, RAPID, SERVERS, IA_PD = 1, 2, 3, 4, 5, 13, 14, 23, 25
SUCCESS, NO_ADDRESSES, NO_BINDING, NOT_ON_LINK, NO_PREFIXES = 0, 2, 3, 4, 6
ALL_SERVERS = "ff02::1:2"
TRANSACTION = b"\x5e\xed\x06"
OWN_ID = (CLIENT_ID, b"\0\x03\0\1\2\0\0\0\0\1")
Option = tuple[int, bytes]


class Told(NamedTuple):
    """An answer: its kind, its options, of each address its valid lifetime, and who has sent it."""

    kind: int
    options: dict[int, bytes]
    lives: dict[str, int]
    sender: str = ""

    @property
    def server(self) -> Option:
        return SERVER_ID, self.options[SERVER_ID]

    def status(self, number: int = 0) -> int | None:
        """The status code of the message, or of what stands in an IA of that kind; None: it has none."""
        within = dict(inner(number, self.options[number])) if number else self.options
        return int.from_bytes(within[STATUS][:2], "big") if STATUS in within else None


def option(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value


def ia(kind: int, *addresses: str, name: bytes = b"eth0") -> Option:
    """An identity association that names addresses."""
    held = (option(ADDRESS, IPv6Address(address).packed + struct.pack("!II", 7, 8)) for address in addresses)
    return kind, name + (b"" if kind == IA_TA else bytes(8)) + b"".join(held)


def message(kind: int, *more: Option) -> bytes:
    return bytes([kind]) + TRANSACTION + b"".join(option(*one) for one in more)


def link_local(mac: str) -> str:
    """RFC 4291, appendix A."""
    octets = bytearray(packets.mac_bytes(mac))
    octets[0] ^= 2
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])))


def frame(
    mac: str, body: bytes, source: str = "", target: str = ALL_SERVERS, ports: tuple[int, int] = (546, 547)
) -> bytes:
    """A message as a client sends it."""
    udp = struct.pack("!HHHH", *ports, 8 + len(body), 0) + body
    ends = IPv6Address(source or link_local(mac)).packed + IPv6Address(target).packed
    total = packets.checksum(ends + struct.pack("!II", len(udp), 17) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", total) + udp[8:]
    head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 1) + ends
    return packets.ethernet("33:33:00:01:00:02", mac, 0x86DD, head + udp)


def inner(number: int, value: bytes) -> list[Option]:
    """What stands in an option that holds others."""
    return options(value[4:] if number == IA_TA else value[12:])


def options(data: bytes) -> list[Option]:
    found = []
    while data:
        number, size = struct.unpack("!HH", data[:4])
        assert len(data) >= 4 + size, "cut"
        found.append((number, data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def read(body: bytes) -> Told:
    """A message, as it stands behind the head of UDP."""
    assert body[1:4] == TRANSACTION
    found = options(body[4:])
    held = [value for number, data in found if number == IA_NA for n, value in inner(number, data) if n == ADDRESS]
    lives = {str(IPv6Address(value[:16])): int.from_bytes(value[20:24], "big") for value in held}
    return Told(body[0], dict(reversed(found)), lives)


def unwrap(answer: bytes, mac: str) -> Told:
    """A frame that answers what `frame` has asked with: right to the last bit."""
    assert (answer[:6], answer[12:14], answer[14] >> 4) == (packets.mac_bytes(mac), b"\x86\xdd", 6)
    length, following = struct.unpack("!HB", answer[18:21])
    assert (following, length, answer[38:54]) == (17, len(answer) - 54, IPv6Address(link_local(mac)).packed)
    assert answer[22:30] == IPv6Address("fe80::").packed[:8], "from a link-local address"
    assert struct.unpack("!HHH", answer[54:60]) == (547, 546, length)
    assert packets.checksum(answer[22:54] + struct.pack("!II", length, 17) + answer[54:]) == 0
    return read(answer[62:])


def dns(told: Told) -> list[str]:
    """The name servers that were told."""
    data = told.options.get(SERVERS, b"")
    return [socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in range(0, len(data), 16)]
