"""Frames by hand, and packet sockets to send and see them: ARP, RARP, UDP, TCP and ICMP, nothing more."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Callable

from ..errors import NotReady
from .namespace import inside

BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = "00:00:00:00:00:00"

ETH_IP = 0x0800
ETH_ARP = 0x0806
ETH_RARP = 0x8035

_ETH_P_ALL = 3
_SHORTEST = 60  # an Ethernet frame without its check sequence


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(mac: bytes) -> str:
    return mac.hex(":")


def ip_bytes(address: str) -> bytes:
    return ipaddress.IPv4Address(address).packed


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(destination: str, source: str, kind: int, payload: bytes) -> bytes:
    return (mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", kind) + payload).ljust(_SHORTEST, b"\0")


def _arp_body(operation: int, sender: tuple[str, str], target: tuple[str, str]) -> bytes:
    head = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, operation)
    return head + b"".join(mac_bytes(mac) + ip_bytes(address) for mac, address in (sender, target))


def arp_request(mac: str, address: str, wanted: str, destination: str = BROADCAST) -> bytes:
    return ethernet(destination, mac, ETH_ARP, _arp_body(1, (mac, address), (NOBODY, wanted)))


def arp_reply(mac: str, address: str, to_mac: str, to_address: str) -> bytes:
    return ethernet(to_mac, mac, ETH_ARP, _arp_body(2, (mac, address), (to_mac, to_address)))


def gratuitous_arp(mac: str, address: str) -> bytes:
    return ethernet(BROADCAST, mac, ETH_ARP, _arp_body(1, (mac, address), (NOBODY, address)))


def rarp(mac: str) -> bytes:
    """What QEMU sends for a guest that has just arrived: RFC 903 request reverse, in the guest's name."""
    return ethernet(BROADCAST, mac, ETH_RARP, _arp_body(3, (mac, "0.0.0.0"), (mac, "0.0.0.0")))


def ipv4(source: str, destination: str, protocol: int, payload: bytes, ttl: int = 64) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, ttl, protocol, 0)
    head += ip_bytes(source) + ip_bytes(destination)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def icmp_echo(identifier: int, sequence: int, payload: bytes = b"", reply: bool = False) -> bytes:
    head = struct.pack("!BBHHH", 0 if reply else 8, 0, 0, identifier, sequence)
    return head[:2] + struct.pack("!H", checksum(head + payload)) + head[4:] + payload


def icmpv6_echo(identifier: int, sequence: int, payload: bytes = b"") -> bytes:
    """A request (RFC 4443, 4.1). Its checksum, which covers addresses, is the kernel's to fill in."""
    return struct.pack("!BBHHH", 128, 0, 0, identifier, sequence) + payload


def sctp_init(source: int, destination: int, tag: int = 0x5EED) -> bytes:
    """The INIT that opens an association from one port to another (RFC 9260, section 3.3.2). Its checksum does not cover addresses."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, tag, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source, destination, 0)
    # CRC32c, bit by bit, sent with its low byte first (RFC 9260, appendix A).
    crc = 0xFFFFFFFF
    for byte in head + struct.pack("!I", 0) + chunk:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return head + struct.pack("<I", crc ^ 0xFFFFFFFF) + chunk


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """An IPv4 packet with the datagram in it, checksum and all."""
    size = 8 + len(payload)
    head = struct.pack("!HHHH", source[1], destination[1], size, 0)
    pseudo = ip_bytes(source[0]) + ip_bytes(destination[0]) + struct.pack("!BBH", 0, socket.IPPROTO_UDP, size)
    filled = head[:6] + struct.pack("!H", checksum(pseudo + head + payload) or 0xFFFF)
    return ipv4(source[0], destination[0], socket.IPPROTO_UDP, filled + payload)


def tcp(
    source: tuple[str, int],
    destination: tuple[str, int],
    sequence: int,
    acknowledged: int,
    flags: int,
    payload: bytes = b"",
    window: int = 0xFFFF,
) -> bytes:
    """An IPv4 packet with the segment in it, without options, checksum and all."""
    head = struct.pack("!HHIIBBHHH", source[1], destination[1], sequence, acknowledged, 5 << 4, flags, window, 0, 0)
    size = len(head) + len(payload)
    pseudo = ip_bytes(source[0]) + ip_bytes(destination[0]) + struct.pack("!BBH", 0, socket.IPPROTO_TCP, size)
    filled = head[:16] + struct.pack("!H", checksum(pseudo + head + payload)) + head[18:] + payload
    return ipv4(source[0], destination[0], socket.IPPROTO_TCP, filled)


class PacketSocket:
    """Sends frames out of a device and sees those that come in by it (its own too, with `outgoing`)."""

    def __init__(self, namespace: str, device: str, outgoing: bool = False) -> None:
        self.device = device
        self._outgoing = outgoing
        self._socket = inside(namespace, self._open)

    def _open(self) -> socket.socket:
        # Protocol 0 hears nothing: no frame of another device gets in before bind() names ours.
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            made.bind((self.device, _ETH_P_ALL))
        except OSError:
            made.close()
            raise
        return made

    def __enter__(self) -> PacketSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def receive(self, match: Callable[[bytes], bool] = lambda frame: True, deadline: float = 5.0) -> bytes:
        """The next frame that matches; others are dropped. NotReady when none does in `deadline` seconds."""
        end = time.monotonic() + deadline
        while (left := end - time.monotonic()) > 0:
            frame = self._next(left)
            if frame is not None and match(frame):
                return frame
        raise NotReady(f"no such frame came by {self.device} in {deadline:g} s")

    def waiting(self, match: Callable[[bytes], bool] = lambda frame: True) -> list[bytes]:
        """The matching frames that have come so far."""
        frames = []
        while (frame := self._next(0.0)) is not None:
            if match(frame):
                frames.append(frame)
        return frames

    def _next(self, timeout: float) -> bytes | None:
        end = time.monotonic() + timeout
        while True:
            self._socket.settimeout(max(0.0, end - time.monotonic()))
            try:
                frame, address = self._socket.recvfrom(65535)
            except (TimeoutError, BlockingIOError):
                return None
            if self._outgoing or address[2] != socket.PACKET_OUTGOING:
                return bytes(frame)
