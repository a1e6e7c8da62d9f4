"""Frames by hand are what the RFCs say they are."""

from __future__ import annotations

import struct

from ebbtide.lab import packets

MAC = "02:00:00:00:00:01"
OTHER = "02:00:00:00:00:02"


def test_an_arp_request_byte_for_byte() -> None:
    frame = packets.arp_request(MAC, "10.0.0.1", "10.0.0.2")
    assert frame.hex() == (
        "ffffffffffff" "020000000001" "0806"
        "0001" "0800" "06" "04" "0001"
        "020000000001" "0a000001"
        "000000000000" "0a000002"
    ) + "00" * 18  # fmt: skip


def test_an_arp_reply_goes_to_one() -> None:
    frame = packets.arp_reply(MAC, "10.0.0.1", OTHER, "10.0.0.2")
    assert frame[:6] == packets.mac_bytes(OTHER)
    assert frame[20:22] == b"\0\2"


def test_a_rarp_is_qemus_announcement() -> None:
    frame = packets.rarp(MAC)
    assert frame[:14].hex() == "ffffffffffff0200000000018035"
    assert frame[20:22] == b"\0\3"
    assert frame[22:28] == frame[32:38] == packets.mac_bytes(MAC)
    assert len(frame) == 60


def test_the_example_of_rfc_1071() -> None:
    assert packets.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_headers_sum_to_zero() -> None:
    """A receiver sums the header with its checksum in it, and wants 0."""
    packet = packets.udp(("10.0.0.1", 1000), ("10.0.0.2", 2000), b"odd")
    assert packets.checksum(packet[:20]) == 0
    pseudo = packet[12:20] + b"\0\x11" + packet[24:26]
    assert packets.checksum(pseudo + packet[20:]) == 0
    assert packets.checksum(packets.icmp_echo(7, 1, b"hello")) == 0
    segment = packets.tcp(("10.0.0.1", 1000), ("10.0.0.2", 2000), 7, 8, 0x18, b"odd")
    assert packets.checksum(segment[:20]) == 0
    assert packets.checksum(segment[12:20] + b"\0\x06" + struct.pack("!H", 23) + segment[20:]) == 0


def test_macs_both_ways() -> None:
    assert packets.mac_text(packets.mac_bytes(MAC)) == MAC
