"""Packets walked through routers, NAT and floating IPs of whole clusters.

The cloud of most stories: networks n1 (10.1.0.0/16) and n2 (10.2.0.0/16), router r1 in both, and outside of it x9 (203.0.9.0/24), by
which G serves its NAT. p1 (n1) and p2 (n2) are on A, p3 (n2) is on B, p4 (n1) on G. B has no wire to x9; A has one where a story says so.
"""

from __future__ import annotations

from itertools import permutations, product
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile import families, ledger
from ebbtide.compile.families import IPV4, IPV6, Family
from ebbtide.compile.features import nat
from ebbtide.compile.flow import Load, Output
from ebbtide.compile.ledger import MacOf, Punt
from ebbtide.decide import parts
from ebbtide.model.addresses import number, prefix
from ebbtide.model.facts import Binding, Designation, Edit, Fact, Floating, Lease, Move, MovePhase, Neighbour, Port
from ebbtide.model.observed import View
from ebbtide.model.state import NAT, State
from tests.core.compile.test_walks import STEPS, STORIES, Moment, moments, must_reach, tables
from tests.fakes import clouds
from tests.fakes.clouds import ACTIVE, PROVIDER, Story, compute, external, leg, network, ofport, port, router, state
from tests.fakes.conntrack import ACK, ECHO_REPLY, ECHO_REQUEST, FIN, ICMP, INV, NEW, SYN, TCP, TRK, UDP
from tests.fakes.flow_table import Packet, Table, Walk, arp_request

A, B, G = 1, 2, 3
WIRED = {"provider_mappings": (("physnet", "br-ex"),)}
GATEWAY = leg(1, 1).mac
ADDRESS, REMOTE, REMOTE6 = "203.0.9.10", "198.51.100.7", "2001:db8:77::7"
NEXT_HOP_MAC, STRANGER_MAC = 0x06_0000_000001, 0x06_0000_000002
ROUTER_MAC = router(1).mac
LEASE = Lease("r1", 2000, 2999, G)
P1, P2 = port(1, 1, addresses=("10.1.0.1",)), port(2, 2, addresses=("10.2.0.2",))
P3, P4 = port(3, 2, addresses=("10.2.0.3",)), port(4, 1, addresses=("10.1.0.4",))
PLACES = {"p1": A, "p2": A, "p3": B, "p4": G}


def cloud(
    *more: Fact, wired: tuple[int, ...] = (G,), vlan: int = 0, routes: tuple[str, ...] = (), lease: Lease = LEASE
) -> State:
    facts: list[Fact] = [compute(n, **(WIRED if n in wired else {})) for n in (A, B, G)]
    facts += [network(1), network(2), external(9, vlan=vlan), Neighbour("x9", "203.0.9.1", NEXT_HOP_MAC)]
    facts += [router(1, external="x9", addresses=(ADDRESS,), routes=routes)]
    facts += [leg(1, 1), leg(1, 2, address="10.2.255.2", subnet="10.2.0.0/16")]
    facts += [P1, P2, P3, P4, *(Binding(name, at, ACTIVE) for name, at in PLACES.items())]
    return state(*facts, Designation(NAT, "r1", G), lease, *more)


def to(sender: Port, address: str, proto: int = UDP, ports: tuple[int, int] = (4000, 53), **more: int) -> Packet:
    """A packet that a VM gives to its router."""
    packet = {"eth_src": sender.mac, "eth_dst": GATEWAY, "eth_type": 0x0800, "nw_ttl": 64, "ip_proto": proto}
    packet |= {"ipv4_src": number(sender.addresses[0]), "ipv4_dst": number(address)}
    if proto == ICMP:
        return packet | {"icmpv4_type": ECHO_REQUEST, "icmp_id": ports[0]} | more
    name = "tcp" if proto == TCP else "udp"
    flags = {"tcp_flags": SYN} if proto == TCP else {}
    return packet | {f"{name}_src": ports[0], f"{name}_dst": ports[1]} | flags | more


def answer(packet: Packet, **more: int) -> Packet:
    """What the next hop sends back."""
    swapped = dict(packet)
    for one, other in (
        ("eth_src", "eth_dst"),
        ("ipv4_src", "ipv4_dst"),
        ("tcp_src", "tcp_dst"),
        ("udp_src", "udp_dst"),
    ):
        if one in packet:
            swapped[one], swapped[other] = packet[other], packet[one]
    if packet["ip_proto"] == ICMP:
        swapped["icmpv4_type"] = ECHO_REPLY
    if packet["ip_proto"] == TCP:
        swapped["tcp_flags"] = SYN | ACK
    return swapped | {"nw_ttl": 60} | more


def from_vm(held: dict[int, Table], sender: Port, packet: Packet, at: int = 0) -> Walk:
    return Walk(held).enter(at or PLACES[sender.id], ofport(sender.lport), packet)


def from_wire(held: dict[int, Table], at: int, packet: Packet) -> Walk:
    return Walk(held).enter(at, PROVIDER, packet)


# --- between subnets ---


def test_a_vm_reaches_another_subnet_on_its_own_compute_without_leaving_it() -> None:
    walk = from_vm(tables(cloud()), P1, to(P1, "10.2.0.2"))
    assert (walk.taps, walk.tunnels) == ([(A, "p2")], 0)
    frame = walk.delivered[0][2]
    assert (frame["eth_src"], frame["eth_dst"], frame["nw_ttl"]) == (GATEWAY, P2.mac, 63)


def test_a_vm_reaches_another_subnet_on_another_compute_under_that_networks_vni() -> None:
    walk = from_vm(tables(cloud()), P1, to(P1, "10.2.0.3"))
    assert (walk.taps, walk.vnis) == ([(B, "p3")], [network(2).vni])
    frame = walk.delivered[0][2]
    assert (frame["eth_src"], frame["eth_dst"], frame["nw_ttl"]) == (GATEWAY, P3.mac, 63)


def test_tenants_with_the_same_addresses_and_macs_never_meet() -> None:
    facts: list[Fact] = [compute(n) for n in (A, B)]
    ports = []
    for tenant, (one, two) in {1: (1, 2), 2: (3, 4)}.items():
        facts += [network(one), network(two), router(tenant)]
        facts += [leg(tenant, one, mac=GATEWAY, address="10.1.255.1")]
        facts += [leg(tenant, two, mac=GATEWAY, address="10.2.255.1", subnet="10.2.0.0/16")]
        for nth, (net, at) in enumerate(((one, A), (one, B), (two, A), (two, B)), 1):
            made = port(tenant * 10 + nth, net, mac=0x02_0000_000000 + nth)
            ports.append((at, msgspec.structs.replace(made, addresses=(f"10.{1 + (net == two)}.0.{nth}",))))
    found = state(*facts, *(p for _, p in ports), *(Binding(p.id, at, ACTIVE) for at, p in ports))
    held = tables(found)
    for (at, sender), (there, receiver) in permutations(ports, 2):
        walk = from_vm(held, sender, to(sender, receiver.addresses[0]), at)
        if sender.network != receiver.network and sender.lport // 10 == receiver.lport // 10:
            assert walk.taps == [(there, receiver.id)]
        else:
            assert {name[:2] for _, name in walk.taps} <= {sender.id[:2]}


@pytest.mark.parametrize("asked", ["10.1.255.2", "10.2.255.2"])
def test_a_ping_of_the_routers_address_is_answered_on_the_spot(asked: str) -> None:
    walk = from_vm(tables(cloud()), P1, to(P1, asked, ICMP, nw_ttl=1))
    assert (walk.taps, walk.tunnels, walk.punts) == ([(A, "p1")], 0, [])
    frame = walk.delivered[0][2]
    assert (frame["ipv4_src"], frame["ipv4_dst"]) == (number(asked), number("10.1.0.1"))
    assert (frame["eth_src"], frame["eth_dst"]) == (GATEWAY, P1.mac)
    assert (frame["icmpv4_type"], frame["icmp_id"], frame["nw_ttl"]) == (ECHO_REPLY, 4000, 64)


def test_nothing_else_is_the_routers_own_address_good_for() -> None:
    walk = from_vm(tables(cloud()), P1, to(P1, "10.2.255.2", TCP))
    assert (walk.taps, walk.wires, walk.vnis) == ([], [], [])


@pytest.mark.parametrize("destination", ["10.2.0.2", "10.2.0.3", "10.1.0.4", REMOTE])
def test_a_ttl_that_ends_here_goes_to_the_controller_and_no_further(destination: str) -> None:
    walk = from_vm(tables(cloud()), P1, to(P1, destination, nw_ttl=1))
    assert [(at, data) for at, data, _ in walk.punts] == [(A, ledger.userdata(Punt.EXPIRED, 1))]
    assert (walk.taps, walk.wires, walk.vnis) == ([], [], [])
    walk = from_vm(tables(cloud()), P1, to(P1, destination, nw_ttl=0))
    assert (walk.taps, walk.wires, walk.vnis, walk.punts) == ([], [], [], [])


def test_an_extra_route_leads_to_what_is_behind_a_vm_and_the_longer_prefix_wins() -> None:
    held = tables(cloud(routes=("10.9.0.0/16 via 10.2.0.3", "10.9.1.0/24 via 10.2.0.2")))
    walk = from_vm(held, P1, to(P1, "10.9.2.1"))
    assert walk.taps == [(B, "p3")]
    frame = walk.delivered[0][2]
    assert (frame["ipv4_dst"], frame["eth_dst"], frame["nw_ttl"]) == (number("10.9.2.1"), P3.mac, 63)
    assert from_vm(held, P1, to(P1, "10.9.1.1")).taps == [(A, "p2")]
    walk = from_vm(held, P1, to(P1, "10.8.0.1"))
    assert (walk.taps, walk.wires) == ([], [(G, "physnet")])


def test_an_address_of_a_subnet_that_nobody_has_does_not_go_outside() -> None:
    walk = from_vm(tables(cloud()), P1, to(P1, "10.2.0.77"))
    assert (walk.taps, walk.wires, walk.vnis) == ([], [], [])


@pytest.mark.parametrize("vlan", [0, 7])
def test_what_a_vm_tags_is_not_routed_so_that_no_vm_chooses_a_vlan_outside(vlan: int) -> None:
    held = tables(cloud(ONE, vlan=vlan, wired=(A, G)))
    for sender, destination in product((P1, P4), (REMOTE, "10.2.0.2", "203.0.9.1")):
        walk = from_vm(held, sender, to(sender, destination, vlan_vid=0x1000 | 42))
        assert walk.wires == []
        assert (A, "p2") not in walk.taps


# --- NAT ---


@pytest.mark.parametrize("vlan", [0, 7])
@pytest.mark.parametrize("proto", [TCP, UDP, ICMP])
@pytest.mark.parametrize(("sender", "vnis"), [(P4, []), (P1, [ledger.gateway_vni(1)])])
def test_what_a_vm_sends_outside_is_translated_and_its_answer_comes_back(
    sender: Port, vnis: list[int], proto: int, vlan: int
) -> None:
    held = tables(cloud(vlan=vlan))
    walk = from_vm(held, sender, to(sender, REMOTE, proto))
    assert (walk.taps, walk.wires, walk.vnis) == ([], [(G, "physnet")], vnis)
    sent = walk.sent[0][2]
    assert (sent["ipv4_src"], sent["ipv4_dst"], sent["nw_ttl"]) == (number(ADDRESS), number(REMOTE), 63)
    assert (sent["eth_src"], sent["eth_dst"]) == (ROUTER_MAC, NEXT_HOP_MAC)
    assert sent.get("vlan_vid", 0) == (0x1000 | vlan if vlan else 0)
    name = {TCP: "tcp_src", UDP: "udp_src"}.get(proto)
    if name is None:
        assert (sent["icmp_id"], walk.punts) == (4000, [])
    else:
        assert LEASE.first <= sent[name] <= LEASE.last
        ((at, data, noted),) = walk.punts
        assert (at, data) == (G, ledger.userdata(Punt.OPENED, 1))
        assert (noted["ct_nw_src"], noted["ct_tp_src"], noted[name]) == (number(sender.addresses[0]), 4000, sent[name])
    back = from_wire(held, G, answer(sent))
    assert (back.taps, back.wires) == ([(PLACES[sender.id], sender.id)], [])
    frame = back.delivered[0][2]
    assert (frame["ipv4_src"], frame["ipv4_dst"]) == (number(REMOTE), number(sender.addresses[0]))
    assert (frame["eth_src"], frame["eth_dst"], frame["nw_ttl"]) == (GATEWAY, sender.mac, 59)
    assert frame.get("udp_dst", frame.get("tcp_dst", 4000)) == 4000


def test_a_connection_keeps_its_port_and_its_end_is_noted() -> None:
    held = tables(cloud())
    first = from_vm(held, P1, to(P1, REMOTE, TCP)).sent[0][2]
    for flags, punts in ((SYN, 0), (ACK, 0), (ACK | FIN, 1)):
        walk = from_vm(held, P1, to(P1, REMOTE, TCP, tcp_flags=flags))
        assert walk.sent[0][2]["tcp_src"] == first["tcp_src"]
        assert [data for _, data, _ in walk.punts] == [ledger.userdata(Punt.CLOSED, 1)] * punts
    walk = from_vm(held, P1, to(P1, REMOTE, TCP, tcp_flags=ACK, out_of_window=1))
    assert walk.sent[0][2]["tcp_src"] == first["tcp_src"]


def test_what_nobody_has_asked_for_is_dropped() -> None:
    held = tables(cloud())
    sent = from_vm(held, P1, to(P1, REMOTE)).sent[0][2]
    for stray in (answer(sent, udp_dst=sent["udp_src"] + 1), answer(sent, ipv4_src=number("198.51.100.8"))):
        walk = from_wire(held, G, stray)
        assert (walk.taps, walk.wires, walk.vnis) == ([], [], [])


def test_a_router_without_snat_translates_nothing_and_sends_nothing() -> None:
    found = cloud()
    made = msgspec.structs.replace(found.routers["r1"], snat=False)
    held = tables(clouds.change(found, Edit(found.routers["r1"], made)))
    assert not from_vm(held, P1, to(P1, REMOTE)).sent


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_a_full_range_of_ports_drops_and_never_leaves_untranslated(proto: int) -> None:
    held = tables(cloud(lease=Lease("r1", 2000, 2001, G)))
    found = {from_vm(held, P1, to(P1, REMOTE, proto, (n, 53))).sent[0][2].get("tcp_src") for n in (4000, 4001)}
    assert len(found) == (2 if proto == TCP else 1)
    for sender, source in ((P1, 4002), (P4, 4000)):
        walk = from_vm(held, sender, to(sender, REMOTE, proto, (source, 53)))
        assert (walk.taps, walk.wires) == ([], [])
        assert [(at, data) for at, data, _ in walk.punts] == [(G, ledger.userdata(Punt.EXHAUSTED, 1))]
    assert from_vm(held, P1, to(P1, "198.51.100.8", proto, (4002, 53))).wires == [(G, "physnet")]
    assert from_vm(held, P1, to(P1, REMOTE, proto, (4001, 53))).wires == [(G, "physnet")]


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_what_conntrack_finds_invalid_is_dropped_and_not_taken_for_a_full_range(proto: int) -> None:
    held = tables(cloud())[G]
    begun = to(P1, REMOTE, proto) | {"metadata": ledger.metadata_vrf(1)[0]}
    found = [held.lookup(ledger.T.NAT_OPENED, begun | {"ct_state": TRK | more}) for more in (NEW, INV)]
    assert [flow is not None and flow.priority == ledger.Priority.EXHAUSTED for flow in found] == [True, False]


def test_one_id_of_two_vms_that_ping_one_place_is_dropped_for_the_second() -> None:
    held = tables(cloud())
    assert from_vm(held, P1, to(P1, REMOTE, ICMP)).wires == [(G, "physnet")]
    assert from_vm(held, P4, to(P4, REMOTE, ICMP)).wires == []


def test_of_several_external_addresses_a_vm_always_has_the_same() -> None:
    found = cloud()
    made = msgspec.structs.replace(found.routers["r1"], addresses=("203.0.9.10", "203.0.9.11", "203.0.9.12"))
    held = tables(clouds.change(found, Edit(found.routers["r1"], made)))
    for sender in (P1, P4, P2, P3):
        sent = [from_vm(held, sender, to(sender, REMOTE, UDP, (n, 53))).sent[0][2] for n in range(4000, 4009)]
        assert len({frame["ipv4_src"] for frame in sent}) == 1
        assert from_wire(held, G, answer(sent[0])).taps == [(PLACES[sender.id], sender.id)]


def test_the_next_compute_of_a_gateway_group_takes_over_when_the_first_is_dead() -> None:
    found = cloud(wired=(A, G))
    old = found.designations[(NAT, "r1")]
    made = [Edit(old, Designation(NAT, "r1", G, standby=A)), Edit(None, Lease("r1", 4000, 4999, A))]
    held = tables(clouds.change(found, *made))
    assert from_vm(held, P3, to(P3, REMOTE)).wires == [(G, "physnet")]
    held[B].dead = {clouds.FIRST_TUNNEL + G}
    walk = from_vm(held, P3, to(P3, REMOTE))
    assert walk.wires == [(A, "physnet")]
    assert 4000 <= walk.sent[0][2]["udp_src"] <= 4999
    # All the same it is sent under the MAC of the compute itself, and the answer comes by the one that owns the address.
    assert walk.sent[0][2]["eth_src"] == ledger.mac("store", MacOf.COMPUTE, A)
    assert from_wire(held, G, answer(walk.sent[0][2], eth_dst=ROUTER_MAC)).taps == [(B, "p3")]
    held[B].dead = {clouds.FIRST_TUNNEL + G, clouds.FIRST_TUNNEL + A}
    assert from_vm(held, P3, to(P3, REMOTE)).vnis == [ledger.gateway_vni(1)]  # silence is no proof of death


@pytest.mark.parametrize(
    ("ways", "by"),
    [
        ([(5, True, True), (6, True, True)], [5, 6, 5]),
        ([(5, False, False), (6, True, True)], [5]),  # the one that stands by has only been quicker
        ([(5, False, True), (6, True, True)], [6, 6]),
        ([(5, False, True), (6, False, True)], [5]),  # silence is no proof of death
        ([(5, True, True), (6, False, False)], [5, 5]),
        ([(5, False, False), (0, True, True)], [5]),
        ([(5, True, True), (0, True, True)], [5, 0]),
        ([(5, False, True), (0, True, True)], [0]),
    ],
)
def test_nobody_stands_in_for_who_has_not_been_seen_yet(ways: list[tuple[int, bool, bool]], by: list[int]) -> None:
    (group,) = nat.exit_by(router(1, external="x9"), [nat.Way(*way) for way in ways]).groups
    ports = [[a.port for a in bucket.actions if isinstance(a, Output)] for bucket in group.buckets]
    assert [(found or [0])[0] for found in ports] == by
    assert group.buckets[-1].watch_group == ledger.ALIVE_GROUP


def test_a_tunnel_to_who_serves_that_comes_late_is_used_as_soon_as_it_is_there() -> None:
    """That it is there is the only event: nothing of the router has changed."""
    found = cloud()
    bare = clouds.view(found, B)
    held = tables(found)
    held[B] = Table.of(found, B, msgspec.structs.replace(bare, tunnels=bare.tunnels.delete(G)))
    assert from_vm(held, P3, to(P3, REMOTE)).wires == []
    held[B] = Table.of(found, B, bare)
    assert from_vm(held, P3, to(P3, REMOTE)).wires == [(G, "physnet")]


def test_a_standby_that_is_careful_opens_tcp_by_a_syn_alone() -> None:
    held = tables(cloud(lease=msgspec.structs.replace(LEASE, careful=True)))
    assert from_vm(held, P1, to(P1, REMOTE, TCP, tcp_flags=ACK)).sent == []
    for packet in (to(P1, REMOTE, TCP), to(P1, REMOTE, UDP), to(P1, REMOTE, ICMP)):
        assert from_vm(held, P1, packet).wires == [(G, "physnet")]


@pytest.mark.parametrize("proto", [TCP, UDP])
def test_while_a_move_exports_each_direction_leaves_the_same_row(proto: int) -> None:
    found = cloud(Lease("r1", 4000, 4999, A), wired=(A, G))
    before = tables(found)
    sent = from_vm(before, P1, to(P1, REMOTE, proto)).sent[0][2]
    name = "tcp" if proto == TCP else "udp"
    rows = []
    for inward in (True, False):
        held = tables(clouds.change(found, Edit(None, Move("r1", G, A, MovePhase.EXPORT))))
        held[G].zones = dict(before[G].zones)
        walk = from_wire(held, G, answer(sent)) if inward else from_vm(held, P1, to(P1, REMOTE, proto))
        assert (walk.taps if inward else walk.wires) == ([(A, "p1")] if inward else [(G, "physnet")])
        (row,) = held[G].learnt.values()
        assert (row.table, held[A].learnt) == (ledger.T.NAT_EXPORT, {})
        matched = {m.name: m.value for m in row.match}
        assert matched["metadata"] == ledger.metadata_vrf(1)[0]
        assert (matched["ipv4_src"], matched[f"{name}_src"]) == (number("10.1.0.1"), 4000)
        assert (matched["ipv4_dst"], matched[f"{name}_dst"]) == (number(REMOTE), 53)
        rows.append(row)
    assert rows[0] == rows[1]
    assert [a.value for a in rows[0].actions if isinstance(a, Load)] == [number(ADDRESS), sent[f"{name}_src"]]


# --- floating IPs ---

FLOATING, OTHER = "203.0.9.100", "203.0.9.101"
ONE, TWO = (
    Floating("x9", FLOATING, 0x02F1, "r1", "p1", "10.1.0.1"),
    Floating("x9", OTHER, 0x02F2, "r1", "p3", "10.2.0.3"),
)


@pytest.mark.parametrize(("wired", "at"), [((A, G), A), ((G,), G)])
def test_a_floating_ip_is_exchanged_where_its_vm_has_a_wire_else_on_the_designated_compute(
    wired: tuple[int, ...], at: int
) -> None:
    held = tables(cloud(ONE, wired=wired))
    walk = from_vm(held, P1, to(P1, REMOTE, TCP))
    assert walk.wires == [(at, "physnet")]
    sent = walk.sent[0][2]
    assert (sent["ipv4_src"], sent["tcp_src"], sent["nw_ttl"]) == (number(FLOATING), 4000, 63)
    assert (sent["eth_src"], sent["eth_dst"]) == (ONE.mac, NEXT_HOP_MAC)
    walk = from_wire(held, at, answer(sent))
    assert walk.taps == [(A, "p1")]
    frame = walk.delivered[0][2]
    assert (frame["ipv4_dst"], frame["eth_dst"], frame["nw_ttl"]) == (number("10.1.0.1"), P1.mac, 59)


@pytest.mark.parametrize(("wired", "at"), [((A, G), A), ((G,), G)])
def test_the_outside_asks_for_an_address_and_one_compute_answers(wired: tuple[int, ...], at: int) -> None:
    held = tables(cloud(ONE, wired=wired))
    for asked, mac, owner in ((FLOATING, ONE.mac, at), (ADDRESS, ROUTER_MAC, G), (REMOTE, 0, 0), ("10.1.0.1", 0, 0)):
        request = arp_request(NEXT_HOP_MAC, number("203.0.9.1"), number(asked))
        told = {n: from_wire(held, n, request) for n in wired}
        assert [n for n, walk in told.items() if walk.sent] == ([owner] if owner else [])
        assert all(not walk.taps and not walk.vnis for walk in told.values())
        assert all([data for _, data, _ in walk.punts] == [ledger.userdata(Punt.NEXT_HOP, 9)] for walk in told.values())
        if owner:
            sent = told[owner].sent[0][2]
            assert (sent["arp_op"], sent["arp_sha"], sent["arp_spa"], sent["eth_src"]) == (2, mac, number(asked), mac)
            assert (sent["arp_tha"], sent["arp_tpa"]) == (NEXT_HOP_MAC, number("203.0.9.1"))


def through_fabric(held: dict[int, Table], walk: Walk) -> Walk:
    """Follow a frame over the wire until it is delivered. What a wired compute does not want, it must drop."""
    for _ in range(3):
        if walk.taps or not walk.sent:
            return walk
        ((at, _, frame),) = walk.sent
        found = [from_wire(held, n, frame) for n in held if n != at and held[n].wires]
        heard = [w for w in found if w.taps or w.sent]
        assert len(heard) <= 1
        walk = heard[0] if heard else Walk(held)
    return walk


@pytest.mark.parametrize("wired", [(G,), (A, G), (A, B, G)])
def test_a_vm_reaches_another_vms_floating_ip_and_is_answered(wired: tuple[int, ...]) -> None:
    """p1 has one too; p4 is translated; p2 is on p1's own compute."""
    for sender in (P1, P2, P4, P3):
        target, there = (ONE, P1) if sender is P3 else (TWO, P3)
        held = tables(cloud(ONE, TWO, wired=wired))
        walk = through_fabric(held, from_vm(held, sender, to(sender, target.address)))
        assert walk.taps == [(PLACES[there.id], there.id)]
        frame = walk.delivered[0][2]
        seen = {P1: number(FLOATING), P3: number(OTHER)}.get(sender, number(ADDRESS))
        assert (frame["ipv4_src"], frame["ipv4_dst"]) == (seen, number(there.addresses[0]))
        back = through_fabric(held, from_vm(held, there, answer(frame, eth_src=there.mac, eth_dst=GATEWAY)))
        assert back.taps == [(PLACES[sender.id], sender.id)]
        assert back.delivered[0][2]["ipv4_src"] == number(target.address)


@pytest.mark.parametrize("wired", [(G,), (A, G)])
@pytest.mark.parametrize("proto", [TCP, UDP, ICMP])
def test_a_vm_that_asks_for_its_own_routers_address_outside_gets_nowhere(proto: int, wired: tuple[int, ...]) -> None:
    held = tables(cloud(ONE, wired=wired))
    for sender in (P1, P4, P3):
        walk = through_fabric(held, from_vm(held, sender, to(sender, ADDRESS, proto)))
        assert (walk.taps, walk.wires) == ([], [])


def test_two_routers_on_one_gateway_reach_each_others_floating_ips_and_not_their_nat() -> None:
    facts: list[Fact] = [network(3), router(2, external="x9", addresses=("203.0.9.20",)), leg(2, 3)]
    facts += [port(5, 3, addresses=("10.1.0.1",)), Binding("p5", B, ACTIVE)]
    facts += [Designation(NAT, "r2", G), Lease("r2", 5000, 5999, G)]
    held = tables(cloud(ONE, *facts))
    other = port(5, 3, addresses=("10.1.0.1",))
    mine = to(other, FLOATING, eth_dst=leg(2, 3).mac)
    walk = from_vm(held, other, mine, B)
    assert walk.taps == [(A, "p1")]
    frame = walk.delivered[0][2]
    assert (frame["ipv4_src"], frame["ipv4_dst"]) == (number("203.0.9.20"), number("10.1.0.1"))
    back = from_vm(held, P1, answer(frame, eth_src=P1.mac, eth_dst=GATEWAY))
    assert back.taps == [(B, "p5")]
    walk = from_vm(held, P1, to(P1, "203.0.9.20"))
    assert (walk.taps, walk.wires) == ([], [])


# --- what holds of any cloud ---


@settings(max_examples=300)
@given(st.integers(0, 1 << 32))
def test_nothing_leaves_by_a_wire_with_a_tenants_address_and_nothing_loops(seed: int) -> None:
    random = Random(seed)
    story = Story(random)
    for _ in range(random.randint(1, 25)):
        story.batch()
    found = furnished(random, story.state)
    held = {
        c.number: Table.of(found, c.number, clouds.random_view(random, found, c.number, View()))
        for c in found.members()
    }
    ours = {number(a) for r in found.routers.values() for a in r.addresses if ":" not in a}
    leaving = [prefix(text) for name in found.routers for text in found.untranslated(name)]
    ours |= {number(address) for _, address in found.floatings}
    for _ in range(40):
        at = random.choice([*held] or [0])
        doors = [*held[at].taps, *held[at].tunnels, *held[at].wires] if at else []
        if not doors:
            continue
        door = random.choice(doors)
        packet = chance_packet(random, found)
        packet |= likely(random, found, held[at], door, IPV6 if packet["eth_type"] == 0x86DD else IPV4)
        if door in held[at].tunnels and packet["tun_id"] >= ledger.RELATION_VNI:
            packet["vlan_vid"] = 0  # a compute sends nothing else under these
        walk = Walk(held).enter(at, door, packet)
        for _, _, frame in walk.sent:
            if frame["eth_type"] == 0x0800:
                assert frame["ipv4_src"] in ours
            if frame["eth_type"] == 0x86DD:
                assert any(frame["ipv6_src"] & mask == value for value, mask, _ in leaving)
        assert len(set(walk.taps)) == len(walk.taps)


def furnished(random: Random, found: State) -> State:
    """The same with next hops, and NAT and routers nearly everywhere: a cloud made by chance has few."""
    members = found.members()
    edits = [
        Edit(found.neighbours.get((x.id, gateway)), Neighbour(x.id, gateway, NEXT_HOP_MAC))
        for x in found.externals.values()
        for gateway in (x.gateway, x.gateway6)
    ]
    for c in members:
        if not c.provider_mappings and random.random() < 0.7:
            edits.append(Edit(c, msgspec.structs.replace(c, **WIRED)))
    routers = [r for r in found.routers.values() if r.external]
    for r in routers:
        if (NAT, r.id) not in found.designations and members:
            edits += parts.designate(found, r.id, random.choice(members).number, 0)
    idle = [r for r in routers if r.id not in found.legs]
    for net, r in zip((n for n in found.networks if n not in found.routers_of), idle, strict=False):
        edits.append(Edit(None, leg(r.tag, 0, router=r.id, network=net)))
    return clouds.change(found, *edits)


def chance_packet(random: Random, found: State) -> Packet:
    """IP with ends and marks that mean something in this cloud, in any combination."""
    legs = [x for inner in found.legs.values() for x in inner.values()]
    known = [a for p in found.ports.values() for a in p.addresses] + [x.address for x in legs]
    known += [a for r in found.routers.values() for a in r.addresses] + [a for _, a in found.floatings]
    known += [REMOTE, REMOTE6, "fd09::9"]
    six = random.random() < 0.3
    addresses = [a for a in known if (":" in a) == six]
    family = IPV6 if six else IPV4
    macs = [x.mac for x in legs] + [r.mac for r in found.routers.values()] + [f.mac for f in found.floatings.values()]
    macs += [p.mac for p in found.ports.values()] + [STRANGER_MAC]
    vnis = [n.vni for n in found.networks.values()] + [ledger.DELIVER_VNI | p.lport for p in found.ports.values()]
    for r in found.routers.values():
        vnis += [ledger.gateway_vni(r.tag), ledger.ask_vni(r.tag), ledger.answer_vni(r.tag)]
    packet = {
        "eth_src": random.choice(macs),
        "eth_dst": random.choice(macs),
        "eth_type": family.ethertype,
        family.src: number(random.choice(addresses)),
        family.dst: number(random.choice(addresses)),
        "nw_ttl": random.choice([0, 1, 2, 64]),
        "tun_id": random.choice(vnis or [0]),
        "vlan_vid": random.choice([0, 0, *(0x1000 | x.vlan for x in found.externals.values())]),
    }
    proto = random.choice([TCP, UDP, ICMP])
    if proto == ICMP:
        kinds = [family.echo_request, family.echo_reply]
        return packet | {
            "ip_proto": family.icmp,
            family.icmp_type: random.choice(kinds),
            "icmp_id": random.randint(1, 3),
        }
    name = "tcp" if proto == TCP else "udp"
    flags = {"tcp_flags": random.choice([SYN, SYN | ACK, ACK, ACK | FIN])} if proto == TCP else {}
    return (
        packet | {"ip_proto": proto, f"{name}_src": random.randint(1, 3), f"{name}_dst": random.randint(1, 3)} | flags
    )


def likely(random: Random, found: State, at: Table, door: int, family: Family) -> Packet:
    """Ends that a packet has which comes in by that door, mostly."""
    if random.random() < 0.2:
        return {}
    pairs = [(r.mac, a) for r in found.routers.values() for a in (*r.addresses, *found.untranslated(r.id))]
    pairs += [(f.mac, f.address) for f in found.floatings.values()]
    ends = [(mac, prefix(a)[0]) for mac, a in pairs if families.of(a) is family]
    sender = found.ports.get(at.taps.get(door, ""))
    if sender is not None:
        legs = [x for r in found.routers_of.get(sender.network, ()) for x in found.legs[r].values()]
        macs = [x.mac for x in legs if x.network == sender.network]
        if macs:
            own = {"eth_src": sender.mac, "eth_dst": random.choice(macs)}
            mine = [a for a in sender.addresses if families.of(a) is family]
            own |= {family.src: number(mine[0])} if mine else {}
            return own | ({family.dst: number(REMOTE6 if family is IPV6 else REMOTE)} if random.random() < 0.5 else {})
    elif door in at.wires and ends:
        mac, address = random.choice(ends)
        return {"eth_dst": mac, family.dst: address}
    return {}


# --- a migration, in every combination ---


def migrating(step: str, wired: tuple[int, ...]) -> State:
    """p1 (n1) migrates, with a floating IP; p3 to p5 (n2) are on C, A and B. C (here: G) serves the NAT."""
    facts: list[Fact] = [compute(n, **(WIRED if n in wired else {})) for n in (A, B, G)]
    facts += [network(1), network(2), external(9), Neighbour("x9", "203.0.9.1", NEXT_HOP_MAC)]
    facts += [router(1, external="x9", addresses=(ADDRESS,)), leg(1, 1), ONE]
    facts += [leg(1, 2, address="10.2.255.2", subnet="10.2.0.0/16"), P1]
    facts += [port(n, 2, addresses=(f"10.2.0.{n}",)) for n in (3, 4, 5)]
    facts += [Binding("p3", G, ACTIVE), Binding("p4", A, ACTIVE), Binding("p5", B, ACTIVE)]
    return state(*facts, *STEPS[step][0], Designation(NAT, "r1", G), LEASE)


@pytest.mark.parametrize("wired", [(G,), (A, B, G)])
@pytest.mark.parametrize("story", STORIES)
def test_a_migration_keeps_every_route_and_the_floating_ip(story: str, wired: tuple[int, ...]) -> None:
    for older, newer, moment in moments(STORIES[story], lambda step: migrating(step, wired)):
        for here, lport in ((G, 3), (A, 4), (B, 5)):
            sender = port(lport, 2, addresses=(f"10.2.0.{lport}",))
            walk = from_vm(moment.held, sender, to(sender, "10.1.0.1"), here)
            check_reached(older, newer, moment, walk)
        for at in {G} if wired == (G,) else {b.compute for b in STEPS[older][0]} & {b.compute for b in STEPS[newer][0]}:
            frame = answer(to(P1, REMOTE), eth_src=NEXT_HOP_MAC, eth_dst=ONE.mac, ipv4_dst=number(FLOATING))
            check_reached(older, newer, moment, from_wire(moment.held, at, frame))
        for at, (lport, there) in product({b.compute for b in STEPS[older][0]}, ((3, G), (4, A), (5, B))):
            if moment.held[at].taps.get(ofport(1)):
                walk = from_vm(moment.held, P1, to(P1, f"10.2.0.{lport}"), at)
                assert walk.taps in ([], [(there, f"p{lport}")])
                if any(b.compute == at for b in STEPS[newer][0]):
                    assert walk.taps, (moment.note, at, there)
                    walk = from_vm(moment.held, P1, to(P1, REMOTE), at)
                    assert [frame["ipv4_src"] for _, _, frame in walk.sent] == [number(FLOATING)], (moment.note, at)


def check_reached(older: str, newer: str, moment: Moment, walk: Walk) -> None:
    assert len(set(walk.taps)) == len(walk.taps), (moment.note, walk.taps)
    assert {name for _, name in walk.taps} == {"p1"}, (moment.note, walk.taps)
    assert must_reach(older, newer, moment, {number for number, _ in walk.taps}), (moment.note, walk.taps)
