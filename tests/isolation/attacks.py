"""What a malicious VM may try, as frames: each with who sends it and who must not hear it.

`m` is a secured VM of the victims' own tenant, `u` one without port security, which passes no check of its own: what it sends meets the
victims' own security alone. The victims let TCP to port 80 and UDP to port 53 in, and nothing else. Every attack has a control: the same
frames, with nobody secured, or towards somebody who may hear them, do arrive.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ebbtide.lab import Vm, packets

STRANGER = "02:00:00:00:77:01"
SOMEBODY = "10.1.0.99"
TCP_FLAGS = {"FIN": 0x01, "SYN": 0x02, "RST": 0x04, "PSH": 0x08, "ACK": 0x10, "URG": 0x20}


class Ends(NamedTuple):
    """Attacker, victim, and what else an attack refers to: the gateway's MAC, where the far end of a tunnel is, another tenant's VNI."""

    own: Vm
    victim: Vm
    gateway_mac: str
    tep: str
    vni: int


class Attack(NamedTuple):
    """`by`: "m" or "u". `frames`: what is sent, each with the mark that the victim would see."""

    name: str
    by: str
    frames: Callable[[Ends, bytes], list[bytes]]


def _ip(e: Ends, body: bytes, protocol: int, source: str = "", source_mac: str = "", to: str = "") -> bytes:
    packet = packets.ipv4(source or e.own.ip, e.victim.ip, protocol, body)
    return packets.ethernet(to or e.victim.mac, source_mac or e.own.mac, 0x0800, packet)


def _udp(e: Ends, mark: bytes, source: int, target: int, address: str = "", mac: str = "", to: str = "") -> bytes:
    packet = packets.udp((e.own.ip, source), (address or e.victim.ip, target), mark)
    return packets.ethernet(to or e.victim.mac, mac or e.own.mac, 0x0800, packet)


def _tcp(e: Ends, mark: bytes, flags: str, target: int = 22, source: int = 40000) -> bytes:
    value = sum(TCP_FLAGS[flag] for flag in flags.split())
    packet = packets.tcp((e.own.ip, source), (e.victim.ip, target), 1000, 1000, value, mark)
    return packets.ethernet(e.victim.mac, e.own.mac, 0x0800, packet)


def _icmp(e: Ends, mark: bytes, kind: int, code: int = 0, rest: bytes = b"\0\7\0\1") -> bytes:
    head = struct.pack("!BBH", kind, code, 0) + rest + mark
    head = head[:2] + struct.pack("!H", packets.checksum(head)) + head[4:]
    return _ip(e, head, 1)


def _ping(mark: bytes) -> bytes:
    return packets.icmp_echo(7, 1, mark)


def _arp(source: str, sender: tuple[str, str], target: tuple[str, str], operation: int, to: str, mark: bytes) -> bytes:
    """With the mark where a short frame is filled up."""
    macs = [packets.mac_bytes(mac) + packets.ip_bytes(address) for mac, address in (sender, target)]
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + b"".join(macs) + mark
    return packets.ethernet(to, source, 0x0806, body)


def _ipv6(e: Ends, mark: bytes, source: str, target: str, protocol: int, body: bytes, hops: int = 255) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source), socket.inet_pton(socket.AF_INET6, target)
    if protocol == 58:
        pseudo = b"".join(ends) + struct.pack("!IHBB", len(body), 0, 0, protocol)
        body = body[:2] + struct.pack("!H", packets.checksum(pseudo + body[:2] + b"\0\0" + body[4:])) + body[4:]
    head = struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + b"".join(ends)
    return packets.ethernet(e.victim.mac, e.own.mac, 0x86DD, head + body)


def link_local(mac: str) -> str:
    """RFC 4291, appendix A."""
    octets = bytearray(packets.mac_bytes(mac))
    octets[0] ^= 2
    raw = b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def _nd(e: Ends, mark: bytes, kind: int, target: str, option: int, mac: str, source: str = "") -> bytes:
    """Neighbour discovery with one link-layer address and, behind it, the mark as an option that nobody knows."""
    body = struct.pack("!BBHI", kind, 0, 0, 0x6000_0000 if kind == 136 else 0)
    body += socket.inet_pton(socket.AF_INET6, target) + bytes([option, 1]) + packets.mac_bytes(mac)
    body += bytes([253, 2]) + mark.ljust(14, b"\0")
    return _ipv6(e, mark, source or link_local(e.own.mac), link_local(e.victim.mac), 58, body)


def _router(e: Ends, mark: bytes) -> bytes:
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + bytes([253, 2]) + mark.ljust(14, b"\0")
    return _ipv6(e, mark, link_local(e.own.mac), "ff02::1", 58, body)


def _tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    shims = b"".join(struct.pack("!HH", kind, tag) for kind, tag in tags)
    return frame[:12] + shims + frame[12:]


def _fragments(e: Ends, mark: bytes, protocol: int, payload: bytes, cut: int) -> list[bytes]:
    """Two fragments of one packet, the first with `cut` bytes."""
    found = []
    for offset, part, more in ((0, payload[:cut], 1), (cut, payload[cut:], 0)):
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), 0x77, more << 13 | offset >> 3, 64, protocol, 0)
        head += packets.ip_bytes(e.own.ip) + packets.ip_bytes(e.victim.ip)
        head = head[:10] + struct.pack("!H", packets.checksum(head)) + head[12:]
        found.append(packets.ethernet(e.victim.mac, e.own.mac, 0x0800, head + part))
    return found


def _vxlan(e: Ends, mark: bytes) -> bytes:
    """A frame for the victim, as if a compute had sent it under another network's VNI."""
    inner = _udp(e, mark, 1, 80)
    return struct.pack("!II", 0x0800_0000, e.vni << 8) + inner


def attacks() -> Iterator[Attack]:
    """All of them."""
    yield from _spoofing()
    yield from _serving()
    yield from _kinds()
    yield from _uninvited()


def _spoofing() -> Iterator[Attack]:
    gateway, bcast = "10.1.0.254", packets.BROADCAST

    def one(name: str, frame: Callable[[Ends, bytes], bytes]) -> Attack:
        return Attack(name, "m", lambda e, mark: [frame(e, mark)])

    yield one("another's MAC", lambda e, x: _udp(e, x, 1, 80, mac=STRANGER))
    yield one("the gateway's MAC", lambda e, x: _udp(e, x, 1, 80, mac=e.gateway_mac))
    yield one("another's address", lambda e, x: _ip(e, _ping(x), 1, source=SOMEBODY))
    yield one("the gateway's address", lambda e, x: _ip(e, _ping(x), 1, source=gateway))
    yield one("the victim's own address", lambda e, x: _ip(e, _ping(x), 1, source=e.victim.ip))
    yield one("nobody's address", lambda e, x: _ip(e, _ping(x), 1, source="0.0.0.0"))
    victim = lambda e: (e.victim.mac, e.victim.ip)  # noqa: E731
    yield one(
        "ARP: another's address is here",
        lambda e, x: _arp(e.own.mac, (e.own.mac, SOMEBODY), victim(e), 2, e.victim.mac, x),
    )
    yield one(
        "ARP: the gateway is here",
        lambda e, x: _arp(e.own.mac, (e.own.mac, gateway), victim(e), 2, e.victim.mac, x),
    )
    yield one(
        "ARP: the gateway is here, to all",
        lambda e, x: _arp(e.own.mac, (e.own.mac, gateway), (packets.NOBODY, gateway), 1, bcast, x),
    )
    yield one(
        "ARP: its address is at another's MAC",
        lambda e, x: _arp(e.own.mac, (STRANGER, e.own.ip), victim(e), 2, e.victim.mac, x),
    )
    yield one(
        "ARP from another's MAC",
        lambda e, x: _arp(STRANGER, (e.own.mac, e.own.ip), victim(e), 2, e.victim.mac, x),
    )
    yield one("RARP for another", lambda e, x: packets.rarp(STRANGER)[:42] + x.ljust(18, b"\0"))
    yield one(
        "IPv6 from an address that it was not given",
        lambda e, x: _ipv6(e, x, "fd00::bad", link_local(e.victim.mac), 59, x),
    )
    yield one(
        "neighbour advertisement: the victim's router is here",
        lambda e, x: _nd(e, x, 136, "fe80::1", 2, e.own.mac),
    )
    yield one(
        "neighbour advertisement: its address is at another's MAC",
        lambda e, x: _nd(e, x, 136, link_local(e.own.mac), 2, STRANGER),
    )
    yield one(
        "neighbour solicitation with another's MAC",
        lambda e, x: _nd(e, x, 135, link_local(e.victim.mac), 1, STRANGER),
    )
    yield one(
        "neighbour solicitation from another's address",
        lambda e, x: _nd(e, x, 135, link_local(e.victim.mac), 1, e.own.mac, "fe80::1"),
    )


def _serving() -> Iterator[Attack]:
    def one(name: str, frame: Callable[[Ends, bytes], bytes]) -> Attack:
        return Attack(name, "m", lambda e, mark: [frame(e, mark)])

    def redirect(e: Ends, x: bytes) -> bytes:
        body = struct.pack("!BBHI", 137, 0, 0, 0) + bytes(32) + bytes([253, 2]) + x.ljust(14, b"\0")
        return _ipv6(e, x, link_local(e.own.mac), link_local(e.victim.mac), 58, body)

    yield one("a DHCP server in a VM", lambda e, x: _udp(e, x, 67, 68))
    yield one("a DHCP server in a VM, to all", lambda e, x: _udp(e, x, 67, 68, "255.255.255.255", to=packets.BROADCAST))
    yield one(
        "a DHCPv6 server in a VM",
        lambda e, x: _ipv6(
            e,
            x,
            link_local(e.own.mac),
            link_local(e.victim.mac),
            17,
            struct.pack("!HHHH", 547, 546, 8 + len(x), 0) + x,
        ),
    )
    yield one("a router advertisement of a VM", _router)
    yield one("an ICMPv6 redirect of a VM", redirect)


def _kinds() -> Iterator[Attack]:
    def one(name: str, frame: Callable[[Ends, bytes], bytes]) -> Attack:
        return Attack(name, "m", lambda e, mark: [frame(e, mark)])

    def raw(kind: int) -> Callable[[Ends, bytes], bytes]:
        return lambda e, x: packets.ethernet(e.victim.mac, e.own.mac, kind, x)

    yield one("a VLAN tag", lambda e, x: _tagged(_udp(e, x, 1, 80), (0x8100, 7)))
    yield one("two VLAN tags", lambda e, x: _tagged(_udp(e, x, 1, 80), (0x88A8, 7), (0x8100, 8)))
    yield one("LLDP", raw(0x88CC))
    yield one("the controller's own probes", raw(0x88B5))
    yield one("MPLS", raw(0x8847))
    yield one("PPPoE", raw(0x8864))


def _uninvited() -> Iterator[Attack]:
    def one(name: str, frame: Callable[[Ends, bytes], bytes]) -> Attack:
        return Attack(name, "u", lambda e, mark: [frame(e, mark)])

    yield one("TCP to a port without a rule", lambda e, x: _tcp(e, x, "SYN"))
    yield one("TCP in the middle of nothing", lambda e, x: _tcp(e, x, "ACK PSH"))
    yield one("TCP's answer to nothing", lambda e, x: _tcp(e, x, "SYN ACK"))
    yield one("TCP RST out of nowhere", lambda e, x: _tcp(e, x, "RST"))
    yield one("TCP FIN out of nowhere", lambda e, x: _tcp(e, x, "FIN ACK"))
    yield one("TCP with all flags", lambda e, x: _tcp(e, x, "FIN PSH URG"))
    yield one("TCP from port 80", lambda e, x: _tcp(e, x, "SYN ACK", 40000, 80))
    yield one("UDP to a port without a rule", lambda e, x: _udp(e, x, 40000, 69))
    yield one("UDP from port 53", lambda e, x: _udp(e, x, 53, 40000))
    yield one("UDP to all", lambda e, x: _udp(e, x, 40000, 69, "255.255.255.255", to=packets.BROADCAST))
    yield one("UDP to a group", lambda e, x: _udp(e, x, 5353, 5353, "224.0.0.251", to="01:00:5e:00:00:fb"))
    yield one("a ping", lambda e, x: _icmp(e, x, 8))
    yield one("an answer to no ping", lambda e, x: _icmp(e, x, 0))
    yield one("ICMP unreachable about nothing", lambda e, x: _icmp(e, x, 3, 1, bytes(4) + _about(e)))
    yield one("an ICMP redirect", lambda e, x: _icmp(e, x, 5, 1, packets.ip_bytes(e.own.ip) + _about(e)))
    yield one("GRE", lambda e, x: _ip(e, bytes(4) + x, 47))
    yield one("ESP", lambda e, x: _ip(e, bytes(8) + x, 50))
    yield one("SCTP", lambda e, x: _ip(e, packets.sctp_init(5000, 5000) + x, 132))
    yield Attack(
        "UDP in fragments, to a port without a rule",
        "u",
        lambda e, x: _fragments(e, x, 17, packets.udp((e.own.ip, 40000), (e.victim.ip, 69), x * 8)[20:], 32),
    )
    yield Attack(
        "the end of a packet that never began",
        "u",
        lambda e, x: _fragments(e, x, 17, packets.udp((e.own.ip, 40001), (e.victim.ip, 53), x * 8)[20:], 32)[1:],
    )
    yield one("what is for another's MAC", lambda e, x: _udp(e, x, 40000, 53, to=STRANGER))
    yield one(
        "VXLAN of a VM, under another network's VNI",
        lambda e, x: packets.ethernet(
            e.gateway_mac, e.own.mac, 0x0800, packets.udp((e.own.ip, 4789), (e.tep, 4789), _vxlan(e, x))
        ),
    )


def _about(e: Ends) -> bytes:
    """The head of a packet that the victim has never sent."""
    return packets.udp((e.victim.ip, 1), ("192.0.2.1", 2), b"")[:28]
