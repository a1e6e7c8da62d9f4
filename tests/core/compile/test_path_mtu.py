"""Packets of every size walked through routers whose networks differ in MTU: too big ones reach the controller, all others as ever.

The cloud is that of `test_routed_walks.py`: p1 (n1) and p2 (n2) on A, p3 (n2) on B, p4 (n1) on G, which serves the NAT of r1 to x9.
"""

from __future__ import annotations

import msgspec
import pytest

from ebbtide.compile import compiler, ledger
from ebbtide.compile.features import path_mtu
from ebbtide.compile.ledger import Priority, Punt, T
from ebbtide.model.facts import Binding, Edit, External, Fact, Network
from ebbtide.model.state import State
from tests.core.compile import test_vpn_walks as vpns
from tests.core.compile.test_routed_walks import (
    ADDRESS,
    FLOATING,
    ONE,
    OTHER,
    P1,
    P2,
    P3,
    P4,
    PLACES,
    REMOTE,
    ROUTER_MAC,
    TWO,
    A,
    B,
    G,
    answer,
    cloud,
    from_vm,
    from_wire,
    number,
    to,
)
from tests.core.compile.test_walks import tables
from tests.fakes import clouds
from tests.fakes.clouds import ACTIVE, leg, network, port, vpn
from tests.fakes.conntrack import TCP
from tests.fakes.flow_table import Packet, Table, Walk

HEADER = 14
VM_TOLD, OUTSIDE_TOLD = ledger.userdata(Punt.TOO_BIG, 1), ledger.userdata(Punt.TOO_BIG_OUTSIDE, 9)


def with_mtus(found: State, **mtus: int) -> State:
    """The same cloud, networks inside and outside with these MTUs."""
    edits = []
    for name, mtu in mtus.items():
        known: Network | External = found.networks.get(name) or found.externals[name]
        edits.append(Edit(known, msgspec.structs.replace(known, mtu=mtu)))
    return clouds.change(found, *edits)


def sized(packet: Packet, mtu: int) -> Packet:
    """The packet, as large as a network of that MTU takes."""
    return {**packet, "size": HEADER + mtu}


def told(walk: Walk) -> list[bytes]:
    """What the controller gets to see; who is told of it gets nothing else."""
    if walk.punts:
        assert (walk.taps, walk.wires) == ([], [])
    return [data for _, data, _ in walk.punts]


WIDE_TO_NARROW = {"n1": 1500, "n2": 1450, "x9": 1500}


def test_what_is_larger_than_the_network_it_goes_to_is_told_and_a_byte_less_passes() -> None:
    held = tables(with_mtus(cloud(), **WIDE_TO_NARROW))
    for there, at in (("10.2.0.2", (A, "p2")), ("10.2.0.3", (B, "p3"))):
        assert from_vm(held, P1, sized(to(P1, there), 1450)).taps == [at]
        walk = from_vm(held, P1, sized(to(P1, there), 1451))
        assert told(walk) == [VM_TOLD]
        # As it was sent, so that its sender knows it again.
        assert (walk.punts[0][2]["nw_ttl"], walk.punts[0][2]["eth_src"]) == (64, P1.mac)
        assert from_vm(held, P1, sized(to(P1, there), 1500)).tunnels == 0
    # Back, and to its own network, and outside there is room.
    assert from_vm(held, P2, sized(to(P2, "10.1.0.1"), 1450)).taps == [(A, "p1")]
    assert from_vm(held, P1, sized(to(P1, "10.1.0.4"), 1500)).taps == [(G, "p4")]
    assert from_vm(held, P1, sized(to(P1, REMOTE), 1500)).wires == [(G, "physnet")]


def test_a_ttl_that_ends_here_and_the_routers_own_address_come_first() -> None:
    held = tables(with_mtus(cloud(), **WIDE_TO_NARROW))
    walk = from_vm(held, P1, sized(to(P1, "10.2.0.2", nw_ttl=1), 1500))
    assert told(walk) == [ledger.userdata(Punt.EXPIRED, 1)]
    assert told(from_vm(held, P1, sized(to(P1, "10.2.255.2", TCP), 1500))) == []


def test_an_address_that_nobody_has_is_compared_with_its_subnet() -> None:
    held = tables(with_mtus(cloud(), **WIDE_TO_NARROW))
    assert told(from_vm(held, P1, sized(to(P1, "10.2.0.77"), 1451))) == [VM_TOLD]


def test_the_longest_prefix_says_how_large_a_packet_may_be() -> None:
    routes = ("10.9.0.0/16 via 10.2.0.3", "10.9.1.0/24 via 10.1.0.4")
    found = with_mtus(cloud(routes=routes), **WIDE_TO_NARROW)
    held = tables(found)
    assert told(from_vm(held, P1, sized(to(P1, "10.9.2.1"), 1451))) == [VM_TOLD]
    assert from_vm(held, P1, sized(to(P1, "10.9.1.1"), 1500)).taps == [(G, "p4")]
    known = path_mtu.widths(found, "r1")
    ways = {"10.9.2.1": 1450, "10.9.1.1": 1500, "10.2.0.3": 1450, "10.1.0.1": 1500, REMOTE: 1500}
    assert {address: path_mtu.towards(known, address) for address in ways} == ways
    assert path_mtu.towards({"10.0.0.0/8": 1450}, REMOTE) == 0


@pytest.mark.parametrize("wired", [(G,), (A, G)])
def test_what_is_larger_than_the_network_outside_does_not_leave(wired: tuple[int, ...]) -> None:
    for floating in ((), (ONE,)):
        held = tables(with_mtus(cloud(*floating, wired=wired), n1=1450, n2=1450, x9=1300))
        assert told(from_vm(held, P1, sized(to(P1, REMOTE), 1301))) == [VM_TOLD]
        assert len(from_vm(held, P1, sized(to(P1, REMOTE), 1300)).wires) == 1
        assert from_vm(held, P1, sized(to(P1, "10.2.0.3"), 1450)).taps == [(B, "p3")]


@pytest.mark.parametrize("wired", [(G,), (A, G)])
def test_what_comes_from_outside_is_compared_with_what_is_behind_the_address(wired: tuple[int, ...]) -> None:
    """p1's network takes 1450, p3's 1400, so the router's NAT takes 1400 at least; each of the two has a floating IP."""
    held = tables(with_mtus(cloud(ONE, TWO, wired=wired), n1=1450, n2=1400, x9=1500))
    opened = from_vm(held, P4, to(P4, REMOTE, TCP)).sent[0][2]
    back = answer(opened)
    assert from_wire(held, G, sized(back, 1400)).taps == [(G, "p4")]
    assert told(from_wire(held, G, sized(back, 1401))) == [OUTSIDE_TOLD]
    for floating, owner, width in ((ONE, P1, 1450), (TWO, P3, 1400)):
        at = PLACES[owner.id] if PLACES[owner.id] in wired else G
        packet = {**answer(opened), "eth_dst": floating.mac, "ipv4_dst": number(floating.address)}
        assert from_wire(held, at, sized(packet, width)).taps == [(PLACES[owner.id], owner.id)]
        walk = from_wire(held, at, sized(packet, width + 1))
        assert told(walk) == [OUTSIDE_TOLD]
        assert walk.punts[0][2]["ipv4_dst"] == number(floating.address)


def test_what_is_sent_to_a_compute_under_its_own_mac_is_compared_too() -> None:
    found = with_mtus(cloud(), n1=1450, n2=1450, x9=1500)
    held = tables(found)
    back = answer(from_vm(held, P4, to(P4, REMOTE, TCP)).sent[0][2])
    own = {**back, "eth_dst": ledger.mac("store", ledger.MacOf.COMPUTE, G)}
    assert from_wire(held, G, sized(own, 1450)).taps == [(G, "p4")]
    assert told(from_wire(held, G, sized(own, 1451))) == [OUTSIDE_TOLD]


def test_what_never_sees_the_wire_is_compared_before_it_comes_in_again() -> None:
    """p4 is translated on G, where p3's floating IP is exchanged too."""
    held = tables(with_mtus(cloud(TWO), n1=1500, n2=1400, x9=1500))
    assert from_vm(held, P4, sized(to(P4, OTHER), 1400)).taps == [(B, "p3")]
    walk = from_vm(held, P4, sized(to(P4, OTHER), 1500))
    assert told(walk) == [OUTSIDE_TOLD]
    seen = walk.punts[0][2]
    assert (seen["ipv4_src"], seen["eth_src"], seen[ledger.INPUT_REG]) == (number(ADDRESS), ROUTER_MAC, P4.lport)
    # The answer goes the way of what comes from outside, behind the classifier.
    inside: Packet = {"eth_src": seen["eth_dst"], "eth_dst": ROUTER_MAC, "eth_type": 0x0800, "nw_ttl": 64, "in_port": 0}
    inside |= {"ip_proto": 6, "ipv4_src": number(OTHER), "ipv4_dst": number(ADDRESS), "metadata": 9 << 24}
    hit = held[G].lookup(T.GATEWAY_MAC, inside)
    assert hit is not None
    assert hit.goto == T.PRE_DNAT


def large_rows(held: dict[int, Table]) -> list[tuple[int, int]]:
    """Table and priority of whatever compares, or comes after it."""
    found = {(f.table, f.priority) for table in held.values() for f in table.flows.values()}
    compared = {(T.PRE_DNAT, Priority.MEASURE), (T.PATH_MTU, Priority.FITS), (T.PATH_MTU, Priority.TOO_BIG)}
    band = range(Priority.LARGE, Priority.LARGE + 129)
    return sorted(key for key in found if key in compared or (key[0] == T.FIB and key[1] in band))


def test_where_nothing_can_be_too_big_nothing_is_compared() -> None:
    same = with_mtus(cloud(ONE), n1=1450, n2=1450, x9=1450)
    assert large_rows(tables(same)) == []
    # Out of a network as narrow as the narrowest, nothing is too big either.
    wider = with_mtus(cloud(ONE), n1=1450, n2=1450, x9=1500)
    assert large_rows(tables(wider)) == [(T.PRE_DNAT, Priority.MEASURE)]
    alone = clouds.state(*(clouds.compute(n) for n in (A, B)), network(1, mtu=1500), clouds.router(1), leg(1, 1))
    assert large_rows(tables(alone)) == []


def test_a_vpn_is_as_wide_as_what_it_has_routes_to() -> None:
    """v12 imports what v11 exports: p2's network, which takes less than p1's."""
    one, other = vpn(11, imports=("100:9",), exports=()), vpn(12, imports=(), exports=("100:9",))
    found = vpns.cloud(one, other, vpns.place("v11", 11, 1), vpns.place("v12", 12, 2), networks=2)
    held = tables(with_mtus(found, n1=1500, n2=1400))
    frame = {**vpns.packet(1, 2, 11), "size": HEADER + 1400}
    assert Walk(held).enter(A, 1, frame).taps == [(B, "p2")]
    walk = Walk(held).enter(A, 1, {**frame, "size": HEADER + 1401})
    assert told(walk) == [ledger.userdata(Punt.TOO_BIG, 11)]


def test_an_extra_route_of_a_router_counts_for_it_alone() -> None:
    found = with_mtus(cloud(routes=("10.9.0.0/16 via 10.2.0.3",)), **WIDE_TO_NARROW)
    assert path_mtu.widths(found, "r1")["10.9.0.0/16"] == 1450
    assert path_mtu.widths(found, "nobody") == {}
    assert path_mtu.behind(found, "x9", ADDRESS) == 1450
    assert path_mtu.behind(found, "x9", FLOATING) == 0


def test_a_change_of_an_mtu_reaches_who_is_exchanged_and_translated() -> None:
    facts: list[Fact] = [Network("n7", 7, 10_007), port(7, 7), Binding("p7", A, ACTIVE)]
    before = with_mtus(cloud(ONE, *facts, wired=(A, G)), n1=1450, n2=1450, x9=1450)
    after = with_mtus(before, x9=1500)
    for at in (A, G):
        shown = clouds.view(after, at)
        old, new = compiler.desired(before, at, shown), compiler.desired(after, at, shown)
        rooms = {key.room for key in {*old, *new} if old.get(key) != new.get(key)}
        assert rooms == {A: {"floating"}, G: {"gate"}}[at], at
