"""The frames that the controller itself sends: bytes as the standards have them, and silence where these ask for it."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.lab import packets
from ebbtide.runtime import frames, frames6
from ebbtide.runtime.frames import Arp

VM, GATEWAY = "02:00:00:00:01:01", "02:eb:04:00:00:01"
OWN = int(ipaddress.IPv4Address("10.1.0.254"))
macs, addresses = st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 32) - 1)


def number(mac: str) -> int:
    return int(mac.replace(":", ""), 16)


def expired(
    payload: bytes = b"probe", proto: int = socket.IPPROTO_UDP, source: str = "10.1.0.1", target: str = "192.0.2.1"
) -> bytes:
    """A frame of the VM to the gateway, whose TTL is 1."""
    return packets.ethernet(GATEWAY, VM, 0x0800, packets.ipv4(source, target, proto, payload, ttl=1))


@given(st.builds(Arp, st.sampled_from([1, 2]), macs, addresses, macs, addresses), macs, macs)
def test_arp_is_read_as_it_was_written(packet: Arp, source: int, destination: int) -> None:
    frame = frames.arp(packet, source, destination)
    assert len(frame) == 60
    assert (frame[:6], frame[6:12]) == (destination.to_bytes(6, "big"), source.to_bytes(6, "big"))
    assert frames.read_arp(frame) == packet


@given(st.binary(max_size=80))
def test_what_is_no_arp_of_ethernet_and_ipv4_is_none(data: bytes) -> None:
    found = frames.read_arp(data)
    assert found is None or data[12:14] == b"\x08\x06"


def test_arp_is_asked_as_the_kernel_asks() -> None:
    asked = frames.arp(Arp(1, number(VM), OWN - 253, 0, OWN), number(VM))
    assert asked == packets.arp_request(VM, "10.1.0.1", "10.1.0.254")


@pytest.mark.parametrize("cut", [13, 20, 41])
def test_a_frame_that_is_cut_is_none(cut: int) -> None:
    assert frames.read_arp(packets.arp_request(VM, "10.1.0.1", "10.1.0.254")[:cut]) is None


def test_an_address_is_announced_as_a_request_and_as_an_answer() -> None:
    asked, told = frames.announcements(OWN, number(GATEWAY))
    assert asked == packets.gratuitous_arp(GATEWAY, "10.1.0.254")
    found = frames.read_arp(told)
    assert found == Arp(2, number(GATEWAY), OWN, frames.BROADCAST, OWN)
    assert told[:12] == b"\xff" * 6 + packets.mac_bytes(GATEWAY)


def test_the_sender_is_told_by_the_router_with_what_it_had_sent() -> None:
    frame = expired()
    answer = frames.time_exceeded(frame, OWN)
    assert answer is not None
    assert (answer[:6], answer[6:12], answer[12:14]) == (frame[6:12], frame[:6], b"\x08\x00")
    head, icmp = answer[14:34], answer[34:]
    assert struct.unpack("!II", head[12:20]) == (OWN, int(ipaddress.IPv4Address("10.1.0.1")))
    assert (head[8], head[9], icmp[0], icmp[1]) == (64, 1, 11, 0)
    assert struct.unpack("!H", head[2:4])[0] == len(answer) - 14
    assert packets.checksum(head) == 0
    assert packets.checksum(icmp) == 0
    assert icmp[8:28] == frame[14:34]


def test_no_more_is_quoted_than_the_switch_hands_over() -> None:
    answer = frames.time_exceeded(expired(b"x" * 1400)[:128], OWN)
    assert answer is not None
    assert len(answer) == 14 + 20 + 8 + (128 - 14)
    assert packets.checksum(answer[34:]) == 0


def test_an_echo_request_is_answered_and_so_is_a_first_fragment() -> None:
    assert frames.time_exceeded(expired(packets.icmp_echo(1, 1), socket.IPPROTO_ICMP), OWN) is not None
    first = bytearray(expired())
    first[20:22] = b"\x20\x00"  # more fragments, offset 0
    assert frames.time_exceeded(bytes(first), OWN) is not None


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_icmp_error_is_never_answered_by_another(kind: int) -> None:
    assert frames.time_exceeded(expired(bytes([kind, 0]) + b"\0" * 6, socket.IPPROTO_ICMP), OWN) is None


def test_a_later_fragment_is_not_answered() -> None:
    later = bytearray(expired())
    later[20:22] = b"\x00\x10"
    assert frames.time_exceeded(bytes(later), OWN) is None


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("0.0.0.0", "192.0.2.1"),
        ("255.255.255.255", "192.0.2.1"),
        ("224.0.0.1", "192.0.2.1"),
        ("240.0.0.1", "192.0.2.1"),
        ("127.0.0.1", "192.0.2.1"),
        ("10.1.0.1", "224.0.0.5"),
        ("10.1.0.1", "255.255.255.255"),
    ],
)
def test_nobody_but_a_single_host_is_answered_and_only_of_what_was_for_one(source: str, target: str) -> None:
    assert frames.time_exceeded(expired(source=source, target=target), OWN) is None


def test_a_broadcast_frame_is_not_answered() -> None:
    frame = packets.ethernet(packets.BROADCAST, VM, 0x0800, packets.ipv4("10.1.0.1", "192.0.2.1", 17, b"", ttl=1))
    assert frames.time_exceeded(frame, OWN) is None


def test_who_has_sent_too_much_is_told_the_next_networks_mtu() -> None:
    frame = expired(b"x" * 1472)
    answer = frames.too_big(frame[:128], OWN, 1450)
    assert answer is not None
    assert (answer[:6], answer[6:12]) == (frame[6:12], frame[:6])
    head, icmp = answer[14:34], answer[34:]
    assert struct.unpack("!II", head[12:20]) == (OWN, int(ipaddress.IPv4Address("10.1.0.1")))
    assert struct.unpack("!BBHHH", icmp[:8])[:2] == (3, 4)
    assert struct.unpack("!HH", icmp[4:8]) == (0, 1450)
    assert icmp[8:] == frame[14:128]
    assert packets.checksum(head) == packets.checksum(icmp) == 0


def test_a_vm_with_a_floating_ip_is_quoted_what_it_has_sent() -> None:
    sent, seen = expired(b"x" * 1472), expired(b"x" * 1472, source="203.0.113.9")
    answers = [frames.too_big(frame[:128], OWN, 1450) for frame in (sent, seen)]
    assert answers[0] is not None
    assert answers[1] is not None
    quoted = frames.quoting(answers[1], int(ipaddress.IPv4Address("10.1.0.1")))
    assert quoted[34:] == answers[0][34:]
    assert quoted[:34] == answers[1][:34]


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_an_icmp_error_that_is_too_big_is_not_answered(kind: int) -> None:
    assert frames.too_big(expired(bytes([kind, 0]) + b"\0" * 1472, socket.IPPROTO_ICMP), OWN, 1450) is None


def in_ipv6(body: bytes, kind: int = 17, source: str = "fd00::1", target: str = "2001:db8::1") -> bytes:
    """A frame of the VM to the gateway."""
    ends = (ipaddress.IPv6Address(end).packed for end in (source, target))
    return packets.ethernet(
        GATEWAY, VM, 0x86DD, struct.pack("!IHBB", 6 << 28, len(body), kind, 64) + b"".join(ends) + body
    )


OWN6 = int(ipaddress.IPv6Address("fd00::ff"))


@pytest.mark.parametrize("size", [8, 1400, 1401])
def test_over_ipv6_as_much_is_quoted_as_every_path_takes(size: int) -> None:
    frame = in_ipv6(b"y" * size)
    answer = frames6.too_big(frame, OWN6, 1280)
    assert answer is not None
    assert len(answer) == min(14 + 1280, len(frame) + 48)
    assert (answer[:6], answer[6:12], answer[12:14]) == (frame[6:12], frame[:6], b"\x86\xdd")
    head, icmp = answer[14:54], answer[54:]
    assert struct.unpack("!HBB", head[4:8]) == (len(icmp), 58, 64)
    assert head[8:40] == OWN6.to_bytes(16, "big") + frame[22:38]
    assert struct.unpack("!BB", icmp[:2]) + struct.unpack("!I", icmp[4:8]) == (2, 0, 1280)
    assert icmp[8:] == frame[14 : 14 + len(icmp) - 8]
    assert packets.checksum(head[8:40] + struct.pack("!II", len(icmp), 58) + icmp) == 0


PLENTY = b"\0" * 1300


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b"\x80\0" + PLENTY, 58, True),  # an echo request
        (b"\x01\0" + PLENTY, 58, False),  # an error
        (b"\x3a\0" + b"\0" * 6 + b"\x02\0" + PLENTY, 0, False),  # an error behind hop-by-hop options
        (b"\x3a\0\0\x01" + b"\0" * 4 + b"\x80\0" + PLENTY, 44, True),  # the first fragment of an echo request
        (b"\x3a\0\0\x08" + b"\0" * 4 + PLENTY, 44, False),  # the rest of what may be an error
        (b"\x11\0\0\x08" + b"\0" * 4 + PLENTY, 44, True),  # the rest of a datagram
        (b"\x3a\xff" + PLENTY, 0, False),  # options longer than what is there
    ],
)
def test_over_ipv6_no_error_is_answered(body: bytes, kind: int, told: bool) -> None:
    assert (frames6.too_big(in_ipv6(body, kind), OWN6, 1280) is not None) is told


@pytest.mark.parametrize(
    ("source", "target"),
    [("::", "2001:db8::1"), ("::1", "2001:db8::1"), ("ff02::1", "2001:db8::1"), ("fd00::1", "ff02::5")],
)
def test_over_ipv6_nobody_but_a_single_host_is_answered(source: str, target: str) -> None:
    assert frames6.too_big(in_ipv6(PLENTY, source=source, target=target), OWN6, 1280) is None


@given(st.binary(max_size=200))
def test_no_bytes_at_all_are_a_fault(data: bytes) -> None:
    for tail in (data, expired()[:14] + data, expired()[:34] + data):
        for answer in (frames.time_exceeded(tail, OWN), frames.too_big(tail, OWN, 1450)):
            assert answer is None or packets.checksum(answer[34:]) == 0
    for tail in (data, in_ipv6(b"")[:14] + data, in_ipv6(b"")[:54] + data, in_ipv6(data, 58)):
        frames6.read(tail)
        frames6.asks_for_router(tail)
        for told in (frames6.too_big(tail, OWN6, 1280), frames6.no_further(tail, OWN6), frames6.forwarded(tail, 1, 2)):
            assert told is None or len(told) >= 54


@given(st.binary(max_size=200), st.sampled_from([0, 17, 43, 44, 58, 60]))
def test_no_bytes_at_all_are_a_fault_over_ipv6_either(data: bytes, kind: int) -> None:
    for tail in (in_ipv6(b"")[:14] + data, in_ipv6(data, kind)):
        answer = frames.too_big(tail, OWN6, 1280)
        if answer is not None:
            pseudo = answer[22:54] + struct.pack("!II", len(answer) - 54, 58)
            assert packets.checksum(pseudo + answer[54:]) == 0


@given(st.binary(max_size=100))
def test_a_checksum_makes_the_sum_zero(data: bytes) -> None:
    padded = data + b"\0" * (len(data) % 2)
    assert frames.checksum(padded + frames.checksum(data).to_bytes(2, "big")) == 0
