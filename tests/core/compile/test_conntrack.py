"""The conntrack of the packet walker: what it must have in common with Open vSwitch's own, case by case."""

from __future__ import annotations

import pytest

from ebbtide.compile.flow import Nat
from tests.fakes.conntrack import (
    ACK,
    DNAT,
    ECHO_REPLY,
    ECHO_REQUEST,
    EMPTY,
    EST,
    FIN,
    ICMP,
    INV,
    NEW,
    RPL,
    RST,
    SNAT,
    SYN,
    TCP,
    TRK,
    UDP,
    Ends,
    Entries,
    Packet,
    track,
)

VM, OTHER, REMOTE, OUTSIDE = 0x0A010001, 0x0A010002, 0xC6336407, 0xCB00090A
RANGE = Nat(src=True, ip_min=OUTSIDE, port_min=2000, port_max=2001)


def tcp(flags: int, port: int = 4000, src: int = VM, **more: int) -> Packet:
    return ip(src, REMOTE, TCP, tcp_src=port, tcp_dst=80, tcp_flags=flags, **more)


def back(flags: int, port: int = 2000) -> Packet:
    return ip(REMOTE, OUTSIDE, TCP, tcp_src=80, tcp_dst=port, tcp_flags=flags)


def ip(src: int, dst: int, proto: int, **more: int) -> Packet:
    return {"eth_type": 0x0800, "ipv4_src": src, "ipv4_dst": dst, "ip_proto": proto, **more}


def opened(*packets: Packet) -> Entries:
    entries = EMPTY
    for packet in packets:
        entries, _ = track(entries, packet, RANGE, commit=True)
    return entries


def seen(entries: Entries, packet: Packet) -> tuple[Entries, int]:
    entries, after = track(entries, packet, Nat())
    return entries, after["ct_state"] - TRK


def test_a_look_opens_nothing_and_a_commit_does() -> None:
    entries, after = track(EMPTY, tcp(SYN), Nat())
    assert (entries, after["ct_state"], after["tcp_src"]) == (EMPTY, TRK | NEW, 4000)
    assert (after["ct_nw_src"], after["ct_tp_src"], after["ct_nw_proto"]) == (VM, 4000, TCP)
    entries, after = track(EMPTY, tcp(SYN), RANGE, commit=True)
    assert (after["ct_state"], after["ipv4_src"], after["tcp_src"]) == (TRK | NEW | SNAT, OUTSIDE, 2000)
    assert (after["ct_nw_src"], after["ct_tp_src"]) == (VM, 4000)
    (entry,) = entries
    assert (entry.original, entry.mapping, entry.state) == (Ends(TCP, VM, 4000, REMOTE, 80), (OUTSIDE, 2000), "new")
    assert track(entries, tcp(SYN), RANGE, commit=True)[0] == entries


def test_tcp_from_first_to_last() -> None:
    entries = opened(tcp(SYN))
    for packet, expected, state in (
        (tcp(SYN), NEW | SNAT, "new"),
        (back(SYN | ACK), EST | RPL | DNAT, "established"),
        (tcp(SYN), INV | SNAT, "established"),
        (tcp(ACK), EST | SNAT, "established"),
        (tcp(ACK, out_of_window=1), INV | SNAT, "established"),
        (tcp(FIN | ACK), EST | SNAT, "closing"),
        (tcp(FIN | ACK), EST | SNAT, "closing"),
        (back(FIN | ACK), EST | RPL | DNAT, "closed"),
        (tcp(ACK), EST | SNAT, "closed"),
    ):
        entries, found = seen(entries, packet)
        assert (found, [e.state for e in entries]) == (expected, [state])
    assert seen(entries, tcp(SYN)) == (EMPTY, NEW)
    assert track(entries, tcp(SYN), RANGE, commit=True)[1]["ct_state"] == TRK | NEW | SNAT


def test_a_reset_closes_at_once() -> None:
    (entry,) = seen(opened(tcp(SYN)), back(RST | ACK))[0]
    assert entry.state == "closed"


def test_an_answer_is_given_back_its_address() -> None:
    _, after = track(opened(tcp(SYN)), back(SYN | ACK), Nat())
    assert (after["ipv4_src"], after["ipv4_dst"], after["tcp_dst"]) == (REMOTE, VM, 4000)
    assert (after["ct_nw_src"], after["ct_nw_dst"], after["ct_tp_src"]) == (VM, REMOTE, 4000)
    assert track(opened(tcp(SYN)), back(SYN | ACK))[1]["ipv4_dst"] == OUTSIDE  # no nat, no translation


@pytest.mark.parametrize(("flags", "state"), [(SYN, NEW), (ACK, NEW), (ACK | FIN, NEW), (SYN | ACK, INV), (0, INV)])
def test_what_may_open(flags: int, state: int) -> None:
    assert seen(EMPTY, tcp(flags)) == (EMPTY, state)
    assert len(opened(tcp(flags))) == (state == NEW)


def test_a_full_range_opens_nothing_and_one_port_serves_several_remotes() -> None:
    entries = opened(tcp(SYN), tcp(SYN, 4001))
    assert sorted(e.mapping[1] for e in entries) == [2000, 2001]
    same, after = track(entries, tcp(SYN, 4002), RANGE, commit=True)
    assert (same, after["ct_state"], after["ipv4_src"]) == (entries, TRK | NEW, VM)
    _, after = track(entries, {**tcp(SYN, 4002), "ipv4_dst": REMOTE + 1}, RANGE, commit=True)
    assert (after["ct_state"], after["tcp_src"]) == (TRK | NEW | SNAT, 2000)


def test_a_row_gives_its_port_or_none() -> None:
    row = Nat(src=True, ip_min=OUTSIDE, port_min=2001)
    entries, after = track(EMPTY, tcp(ACK), row, commit=True)
    assert (after["ct_state"], after["tcp_src"]) == (TRK | NEW | SNAT, 2001)
    assert track(entries, tcp(ACK, src=OTHER), row, commit=True)[1]["ct_state"] == TRK | NEW
    assert track(entries, tcp(ACK), RANGE, commit=True)[1]["tcp_src"] == 2001


def test_udp_is_new_until_it_is_answered() -> None:
    request = ip(VM, REMOTE, UDP, udp_src=4000, udp_dst=53)
    entries = opened(request)
    entries, found = seen(entries, request)
    assert found == NEW | SNAT
    entries, found = seen(entries, ip(REMOTE, OUTSIDE, UDP, udp_src=53, udp_dst=2000))
    assert found == EST | RPL | DNAT
    assert seen(entries, request)[1] == EST | SNAT


def test_icmp_keeps_its_id_and_two_with_one_do_not_go_together() -> None:
    def echo(src: int, dst: int, kind: int = ECHO_REQUEST) -> Packet:
        return ip(src, dst, ICMP, icmpv4_type=kind, icmp_id=7)

    entries = opened(echo(VM, REMOTE))
    _, after = track(entries, echo(VM, REMOTE), Nat())
    assert (after["ct_state"], after["ipv4_src"], after["icmp_id"]) == (TRK | NEW | SNAT, OUTSIDE, 7)
    assert track(entries, echo(OTHER, REMOTE), RANGE, commit=True)[1]["ct_state"] == TRK | NEW
    _, after = track(entries, echo(REMOTE, OUTSIDE, ECHO_REPLY), Nat())
    assert (after["ct_state"], after["ipv4_dst"]) == (TRK | EST | RPL | DNAT, VM)
    assert seen(entries, echo(REMOTE, OUTSIDE))[1] == NEW  # a ping from there is another conversation
    assert seen(EMPTY, echo(REMOTE, OUTSIDE, ECHO_REPLY))[1] == INV


def test_what_is_not_ipv4_passes() -> None:
    assert track(EMPTY, {"eth_type": 0x0806}, Nat(), commit=True) == (
        EMPTY,
        {"eth_type": 0x0806, "ct_state": TRK | INV},
    )
