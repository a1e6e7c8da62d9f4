"""Packets walked to addresses that nobody was given, and DHCP: to whom they go, who asks, and who has what was learnt.

n1 (10.1.0.0/16) on A, n2 (10.2.0.0/16) on B and C, router r1 in both; B is designated for n2 and C stands by. p1 is on A, p2 on B, p3 on C.
"""

from __future__ import annotations

from ipaddress import IPv6Address

import msgspec
import pytest

from ebbtide.compile import ledger
from ebbtide.compile.features import subnet_route
from ebbtide.compile.flow import Learn
from ebbtide.compile.ledger import Punt, T
from ebbtide.model.facts import Binding, Designation, Edit, Learnt
from ebbtide.model.state import SUBNET, State
from tests.core.compile.test_routed_walks import number
from tests.core.compile.test_walks import tables
from tests.fakes.clouds import ACTIVE, change, compute, leg, network, ofport, port, router, state
from tests.fakes.flow_table import Packet, Walk, arp_request

A, B, C = 1, 2, 3
PLACES = {1: A, 2: B, 3: C}
GATEWAY = leg(1, 1).mac
HIDDEN = "10.2.0.100"
P1, P2, P3 = (
    port(1, 1, addresses=("10.1.0.1",)),
    port(2, 2, addresses=("10.2.0.2",)),
    port(3, 2, addresses=("10.2.0.3",)),
)
PORTS = {1: P1, 2: P2, 3: P3}


def cloud(*more: object, compute_for: int = B, standby: int = C, dhcp: bool = False) -> State:
    facts = [compute(A), compute(B), compute(C), network(1), network(2, dhcp=dhcp), router(1), P1, P2, P3]
    facts += [leg(1, 1), leg(1, 2, address="10.2.255.2", subnet="10.2.0.0/16")]
    facts += [Binding(f"p{n}", at, ACTIVE) for n, at in PLACES.items()]
    served = [Designation(SUBNET, "n2 10.2.0.0/16", compute_for, standby)] if compute_for else []
    return state(*facts, *served, *more)  # type: ignore[arg-type]


def sent(found: State, sender: int, address: str) -> Walk:
    own = PORTS[sender]
    packet: Packet = {"eth_src": own.mac, "eth_dst": GATEWAY, "eth_type": 0x0800, "nw_ttl": 64, "ip_proto": 17}
    packet |= {"ipv4_src": number(own.addresses[0]), "ipv4_dst": number(address), "udp_src": 4000, "udp_dst": 53}
    return Walk(tables(found)).enter(PLACES[sender], ofport(sender), packet)


def punts(walk: Walk) -> list[tuple[int, bytes]]:
    return [(at, data) for at, data, _ in walk.punts]


@pytest.mark.parametrize(("sender", "vnis"), [(1, [ledger.subnet_vni(2)]), (2, []), (3, [ledger.subnet_vni(2)])])
def test_an_unknown_address_is_asked_for_at_the_designated_compute_whoever_sends(sender: int, vnis: list[int]) -> None:
    walk = sent(cloud(), sender, HIDDEN)
    assert punts(walk) == [(B, ledger.userdata(Punt.HIDDEN, 2))]
    assert (walk.vnis, walk.taps) == (vnis, [])
    assert walk.punts[0][2]["ipv4_dst"] == number(HIDDEN)
    assert walk.punts[0][2]["nw_ttl"] == 64, "it is sent on by the controller, as by a router"


def test_who_stands_by_asks_for_what_still_comes_to_it() -> None:
    before, after = tables(cloud()), tables(cloud(compute_for=C, standby=B))
    late = {A: after[A], B: before[B], C: before[C]}
    packet = {
        "eth_src": P1.mac,
        "eth_dst": GATEWAY,
        "eth_type": 0x0800,
        "nw_ttl": 64,
        "ip_proto": 17,
        "udp_src": 1,
        "udp_dst": 2,
    }
    walk = Walk(late).enter(A, ofport(1), packet | {"ipv4_src": number("10.1.0.1"), "ipv4_dst": number(HIDDEN)})
    assert punts(walk) == [(C, ledger.userdata(Punt.HIDDEN, 2))]


@pytest.mark.parametrize("address", ["10.2.0.0", "10.2.255.255"])
def test_the_subnets_own_and_its_broadcast_address_are_nobodys(address: str) -> None:
    walk = sent(cloud(), 1, address)
    assert (walk.punts, walk.taps, walk.vnis) == ([], [], [])


def test_without_a_designated_compute_it_is_dropped() -> None:
    walk = sent(cloud(compute_for=0), 1, HIDDEN)
    assert (walk.punts, walk.taps, walk.vnis) == ([], [], [])


def test_what_was_learnt_goes_straight_to_its_port_and_passes_nobody_else() -> None:
    found = cloud(Learnt("n2", HIDDEN, P3.mac, "p3"))
    walk = sent(found, 1, HIDDEN)
    assert (walk.taps, walk.vnis, walk.punts) == ([(C, "p3")], [network(2).vni], [])
    frame = walk.delivered[0][2]
    assert (frame["eth_src"], frame["eth_dst"], frame["nw_ttl"]) == (GATEWAY, P3.mac, 63)


def test_behind_another_mac_it_is_delivered_to_its_port_alone() -> None:
    found = cloud(Learnt("n2", HIDDEN, 0x0A_0000_000001, "p3"))
    for sender in (1, 2):
        walk = sent(found, sender, HIDDEN)
        assert walk.taps == [(C, "p3")], sender
        assert walk.delivered[0][2]["eth_dst"] == 0x0A_0000_000001


def test_a_port_that_was_given_the_address_and_is_there_has_it() -> None:
    given = port(4, 2, addresses=(HIDDEN,))
    found = cloud(Learnt("n2", HIDDEN, P3.mac, "p3"), given)
    assert sent(found, 1, HIDDEN).taps == [(C, "p3")], "given to a port that is plugged nowhere"
    there = change(found, Edit(None, Binding("p4", B, ACTIVE)))
    assert sent(there, 1, HIDDEN).taps == [(B, "p4")]


def test_an_answer_to_the_routers_mac_goes_to_the_controller_and_to_nobody_else() -> None:
    reply = arp_request(P3.mac, number(HIDDEN), number("10.2.255.2")) | {"arp_op": 2, "eth_dst": GATEWAY}
    walk = Walk(tables(cloud())).enter(C, ofport(3), reply)
    assert punts(walk) == [(C, ledger.userdata(Punt.ANSWER, 2))]
    assert walk.taps == []
    assert walk.punts[0][2]["metadata"] >> ledger.LPORT_SHIFT & 0xFFFFF == P3.lport


@pytest.mark.parametrize(("sender", "at", "told"), [(2, B, True), (3, C, False)])
def test_who_speaks_under_a_learnt_address_is_told_of_unless_it_has_it(sender: int, at: int, told: bool) -> None:
    found = cloud(Learnt("n2", HIDDEN, P3.mac, "p3"))
    own = PORTS[sender]
    walk = Walk(tables(found)).enter(at, ofport(sender), arp_request(own.mac, number(HIDDEN), number("10.2.0.77")))
    claims = [x for x in punts(walk) if x[1] == ledger.userdata(Punt.CLAIM, 2)]
    assert claims == ([(at, ledger.userdata(Punt.CLAIM, 2))] if told else [])
    assert {name for _, name in walk.taps} == {"p2", "p3"} - {own.id}, "it floods all the same"


@pytest.mark.parametrize("hold_off", [0, 10])
def test_without_a_hold_off_each_packet_is_a_question(hold_off: int) -> None:
    made = subnet_route.here(network(2), ["10.2.0.0/16"], [], hold_off)
    asks = next(flow for flow in made.flows if flow.table == T.SUBNET_ROUTE)
    learns = [action for action in asks.actions if isinstance(action, Learn)]
    assert [(x.hard_timeout, x.limit) for x in learns] == ([(hold_off, subnet_route.LIMIT)] if hold_off else [])


@pytest.mark.parametrize("sender", [2, 3])
def test_a_dhcp_client_is_heard_on_its_own_compute_and_by_no_other_vm(sender: int) -> None:
    found = cloud(dhcp=True)
    own = PORTS[sender]
    ask = {"eth_src": own.mac, "eth_dst": 0xFFFFFFFFFFFF, "eth_type": 0x0800, "ip_proto": 17, "nw_ttl": 64}
    ask |= {"ipv4_src": 0, "ipv4_dst": 0xFFFFFFFF, "udp_src": 68, "udp_dst": 67}
    walk = Walk(tables(found)).enter(PLACES[sender], ofport(sender), ask)
    assert (punts(walk), walk.taps) == ([(PLACES[sender], ledger.userdata(Punt.DHCP, 2))], [])
    off = change(found, Edit(found.networks["n2"], msgspec.structs.replace(found.networks["n2"], dhcp=False)))
    walk = Walk(tables(off)).enter(PLACES[sender], ofport(sender), ask)
    assert walk.punts == []
    assert len(walk.taps) == 1


@pytest.mark.parametrize(
    ("mode", "target", "heard"),
    [
        ("dhcpv6-stateful", "ff02::1:2", True),
        ("dhcpv6-stateless", "ff02::1:2", True),
        ("dhcpv6-stateful", "fe80::7", False),
        ("dhcpv6-stateful", "ff05::1:3", False),
        ("slaac", "ff02::1:2", False),
        ("", "ff02::1:2", False),
    ],
)
def test_a_client_of_ipv6_is_heard_where_it_is_to_ask_and_asks_all_servers(mode: str, target: str, heard: bool) -> None:
    before = cloud(dhcp=True)
    net = before.networks["n2"]
    found = change(before, Edit(net, msgspec.structs.replace(net, ipv6_mode=mode)))
    ask: Packet = {"eth_src": P2.mac, "eth_dst": 0x3333_0001_0002, "eth_type": 0x86DD, "ip_proto": 17, "nw_ttl": 1}
    ask |= {"ipv6_src": 0xFE80 << 112 | 7, "ipv6_dst": int(IPv6Address(target)), "udp_src": 546, "udp_dst": 547}
    walk = Walk(tables(found)).enter(B, ofport(2), ask)
    assert punts(walk) == ([(B, ledger.userdata(Punt.DHCP, 2))] if heard else [])
    assert [name for _, name in walk.taps] == ([] if heard else ["p3"]), "what is another server's floods"
