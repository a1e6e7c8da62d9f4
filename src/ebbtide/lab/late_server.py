"""A TCP server that answers a SYN only after a while, so that a connection stays half-open for so long.

No listening socket can do that. So it is a machine of its own on the wire, with an address and a MAC that no kernel has:
one packet socket in promiscuous mode, ARP answered by hand, and as much of TCP (RFC 9293) as one exchange needs. It keeps
no timer but the late answer: what is lost comes again because the client repeats itself.

A SYN that comes again has the same sequence number. That is how two external ports of one connection are seen: a gateway
changes ports, but not sequence numbers.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from . import packets
from .flow_report import Endpoint
from .flow_wire import SIZE

_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_ALL = 1 << 32

_ETH_P_ALL = 3
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
_SO_ATTACH_FILTER = 26
_BURST = 256


class _Segment(NamedTuple):
    source: Endpoint
    port: int  # to which it goes
    sequence: int
    acknowledged: int
    flags: int
    payload: bytes


class _Connection:
    """`awaited` is the client's next sequence number, `next` ours; `closing` once both have said FIN."""

    __slots__ = ("answered", "awaited", "buffer", "closing", "first", "next", "said")

    def __init__(self, first: int) -> None:
        self.first = first
        self.awaited = (first + 1) % _ALL
        self.next = first ^ 0x5A5A5A5A  # any number will do
        self.answered = False
        self.closing = False
        self.buffer = b""
        self.said: tuple[int, int, int, bytes] | None = None  # sequence, flags, length: to be repeated


class LateServer:
    """Listens on `delays`' ports of `address`, which answers as `mac` on `device`. Made inside the right namespace."""

    def __init__(
        self, device: str, mac: str, address: str, delays: Mapping[int, float], heard: Callable[[bytes, Endpoint], None]
    ) -> None:
        self.syns: dict[tuple[int, int], set[Endpoint]] = {}  # by the client's first number and our port
        self.repeated = 0
        self._mac = mac
        self._address = address
        self._delays = delays
        self._heard = heard
        self._neighbours: dict[str, str] = {}  # address -> MAC, as announced; else where the frame came from
        self._connections: dict[tuple[Endpoint, int], _Connection] = {}
        self._socket = _packet_socket(device, address)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def two_ports(self) -> int:
        """Connections whose SYN came from more than one endpoint."""
        return sum(len(endpoints) > 1 for endpoints in self.syns.values())

    def _read(self) -> None:
        for _ in range(_BURST):
            try:
                frame, origin = self._socket.recvfrom(2048)
            except OSError:
                return
            if origin[2] == socket.PACKET_OUTGOING:
                continue
            if frame[12:14] == b"\x08\x06":
                self._hear_arp(frame)
            else:
                segment = _segment(frame)
                if segment is not None and segment.port in self._delays:
                    self._neighbours.setdefault(segment.source[0], packets.mac_text(frame[6:12]))
                    self._take(segment)

    def _hear_arp(self, frame: bytes) -> None:
        """Learn from every sender, as a host does from an announcement; answer for our own address."""
        if len(frame) < 42:
            return
        sender_mac, sender = packets.mac_text(frame[22:28]), socket.inet_ntoa(frame[28:32])
        if sender != "0.0.0.0":
            self._neighbours[sender] = sender_mac
        if frame[20:22] == b"\0\1" and socket.inet_ntoa(frame[38:42]) == self._address:
            self._socket.send(packets.arp_reply(self._mac, self._address, sender_mac, sender))

    def _take(self, segment: _Segment) -> None:
        key = segment.source, segment.port
        connection = self._connections.get(key)
        if segment.flags & _RST:
            self._connections.pop(key, None)
        elif segment.flags & _SYN:
            self._take_syn(segment, connection)
        elif connection is None:
            # As a kernel refuses what it does not know: the client learns that its connection is gone.
            self._send(segment.source, segment.port, segment.acknowledged, 0, _RST, b"")
        else:
            self._take_data(segment, connection)
            if connection.closing and segment.acknowledged == connection.next:
                del self._connections[key]

    def _take_syn(self, segment: _Segment, connection: _Connection | None) -> None:
        key = segment.source, segment.port
        endpoints = self.syns.setdefault((segment.sequence, segment.port), set())
        self.repeated += bool(endpoints)
        endpoints.add(segment.source)
        if connection is None or connection.first != segment.sequence:
            made = self._connections[key] = _Connection(segment.sequence)
            self._loop.call_later(self._delays[segment.port], self._accept, key, made)
        elif connection.answered:
            self._repeat(key, connection)

    def _accept(self, key: tuple[Endpoint, int], connection: _Connection) -> None:
        if self._connections.get(key) is connection:
            connection.answered = True
            self._say(key, connection, _SYN | _ACK, b"", 1)

    def _take_data(self, segment: _Segment, connection: _Connection) -> None:
        key = segment.source, segment.port
        length = len(segment.payload) + bool(segment.flags & _FIN)
        if not connection.answered or not length:
            return
        if segment.sequence != connection.awaited:
            self._repeat(key, connection)  # it has not heard us
            return
        connection.awaited = (connection.awaited + length) % _ALL
        connection.buffer += segment.payload
        if segment.flags & _FIN:
            connection.closing = True
            self._say(key, connection, _FIN | _ACK, b"", 1)
        elif len(connection.buffer) >= SIZE:
            message, connection.buffer = connection.buffer[:SIZE], connection.buffer[SIZE:]
            self._heard(message, segment.source)
            self._say(key, connection, _PSH | _ACK, message, len(message))

    def _say(self, key: tuple[Endpoint, int], connection: _Connection, flags: int, payload: bytes, length: int) -> None:
        connection.said = connection.next, flags, length, payload
        connection.next = (connection.next + length) % _ALL
        self._repeat(key, connection)

    def _repeat(self, key: tuple[Endpoint, int], connection: _Connection) -> None:
        if connection.said is not None:
            sequence, flags, _, payload = connection.said
            self._send(*key, sequence, connection.awaited, flags, payload)

    def _send(self, to: Endpoint, port: int, sequence: int, acknowledged: int, flags: int, payload: bytes) -> None:
        packet = packets.tcp((self._address, port), to, sequence, acknowledged, flags, payload)
        try:
            self._socket.send(packets.ethernet(self._neighbours[to[0]], self._mac, packets.ETH_IP, packet))
        except OSError:
            pass  # the cable is out: the client will ask again


def _segment(frame: bytes) -> _Segment | None:
    """The TCP segment in an Ethernet frame, if one is there, whole and untagged."""
    if frame[12:14] != b"\x08\x00" or len(frame) < 54 or frame[23] != socket.IPPROTO_TCP:
        return None
    begin = 14 + (frame[14] & 0xF) * 4
    end = 14 + int.from_bytes(frame[16:18], "big")
    if len(frame) < max(end, begin + 20):
        return None
    source, port, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", frame, begin)
    payload = frame[begin + (offset >> 4) * 4 : end]
    return _Segment((socket.inet_ntoa(frame[26:30]), source), port, sequence, acknowledged, flags, payload)


def _packet_socket(device: str, address: str) -> socket.socket:
    """Hears ARP, and IPv4 to `address`; what else passes by, the kernel sorts out."""
    wanted = int.from_bytes(packets.ip_bytes(address), "big")
    # Classic BPF, (code, jump if true, jump if false, operand): the EtherType; ARP is accepted; of IPv4 the destination.
    program = (
        (0x28, 0, 0, 12),
        (0x15, 3, 0, packets.ETH_ARP),
        (0x15, 0, 3, packets.ETH_IP),
        (0x20, 0, 0, 30),
        (0x15, 0, 1, wanted),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))
    made.bind((device, _ETH_P_ALL))
    # Frames to a MAC that is not the device's: the kernel's own stack drops them, as they are for another machine.
    membership = struct.pack("iHH8s", socket.if_nametoindex(device), _PROMISCUOUS, 0, b"")
    made.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
    return made
