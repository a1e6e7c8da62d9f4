"""Routers, networks outside, floating IPs: each refusal says which, why and what to do; twice is "already so"; nothing is half done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from typing import Any

import pytest

from ebbtide.compile import ledger
from ebbtide.decide import parts, routing
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.addresses import link_local
from ebbtide.model.facts import Edit, Fact, Floating, Move, Neighbour, Retired, RouterPort, format_mac, parse_mac
from ebbtide.model.state import State
from tests.fakes.clouds import change, compute, external, leg, network, port, router, state

OUT = external(1, id="out", subnet="203.0.113.0/24", gateway="203.0.113.1")
R1 = router(1, external="out", addresses=("203.0.113.10",))
BLUE, RED = (network(tag, subnets=(f"10.{tag}.0.0/24",)) for tag in (1, 2))
IN_BLUE = leg(1, 1, address="10.1.0.254", subnet="10.1.0.0/24")
WEB = port(1, 1, addresses=("10.1.0.1",))


def cloud(*more: Fact) -> State:
    """Router r1 between n1 (port p1) and "out", with floating IP .20; n2 without a router."""
    used = Floating("out", "203.0.113.20", 0x02_0000_0000_20, "r1", "p1", "10.1.0.1")
    return state(OUT, R1, BLUE, RED, IN_BLUE, WEB, used, *more)


def then(before: State, edits: Iterable[Edit]) -> State:
    """What the edits lead to."""
    return change(before, *edits)


def made(answer: tuple[list[Edit], Any]) -> Any:
    return answer[1]


# --- networks outside ---


def outside(found: State, name: str = "second", **wishes: Any) -> Any:
    given = {"physical": "physnet2", "vlan": 0, "subnet": "198.51.100.0/24", "gateway": "198.51.100.1", "mtu": 1500}
    return routing.add_external(found, name, **{**given, **wishes})


@pytest.mark.parametrize(
    ("wishes", "kind", "words"),
    [
        ({"name": ""}, BadInput, "is no external network name: 1 to 255 printable characters"),
        ({"name": "a b"}, BadInput, "without spaces"),
        ({"physical": ""}, BadInput, "is no physical network name"),
        ({"vlan": 4095}, BadInput, "VLAN 4095 is not between 1 and 4094"),
        ({"vlan": -1}, BadInput, "VLAN -1"),
        ({"mtu": 575}, BadInput, "MTU 575 is not between 576 and 9216"),
        ({"mtu": 9217}, BadInput, "MTU 9217"),
        ({"subnet": "198.51.100.1/24"}, BadInput, "is not an IPv4 subnet: 198.51.100.1/24 has host bits set"),
        ({"subnet": "2001:db8::/64"}, BadInput, "is not an IPv4 subnet"),
        ({"gateway": "198.51.100"}, BadInput, "is not an IPv4 address"),
        ({"gateway": "192.0.2.1"}, Refused, "gateway 192.0.2.1 is not in 198.51.100.0/24"),
        ({"gateway": "198.51.100.0"}, Refused, "it is the subnet's own or its broadcast address"),
        ({"gateway": "198.51.100.255"}, Refused, "is no host's in"),
        ({"physical": "physnet"}, Refused, "the untagged part of physnet is external network out: choose another VLAN"),
        ({"name": "out"}, Refused, "exists already with other settings: those of IPv6"),
    ],
)
def test_a_network_outside_that_cannot_be_is_refused(wishes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        outside(cloud(), **wishes)


def test_two_networks_outside_share_a_physical_network_by_their_vlans() -> None:
    edits, first = outside(cloud(), physical="physnet", vlan=100)
    both = then(cloud(), edits)
    with pytest.raises(Refused, match="VLAN 100 of physnet is external network second"):
        outside(both, "third", physical="physnet", vlan=100)
    third = made(outside(both, "third", physical="physnet", vlan=200))
    assert third.tag not in (first.tag, OUT.tag, BLUE.tag, RED.tag)


def test_the_same_network_outside_again_is_already_so() -> None:
    first = outside(cloud())[0]
    assert outside(then(cloud(), first))[0] == []


def test_a_network_outside_without_a_gateway_has_no_next_hop() -> None:
    assert made(outside(cloud(), gateway="")).gateway == ""


def test_a_network_outside_of_two_addresses_has_no_broadcast_address() -> None:
    assert made(outside(cloud(), subnet="198.51.100.0/31", gateway="198.51.100.0")).gateway == "198.51.100.0"


def test_a_network_outside_goes_when_nobody_uses_it_with_its_neighbours_and_its_tag_rests() -> None:
    with pytest.raises(NotFound, match="there is no external network none: `ebbtide external add none` makes one"):
        routing.delete_external(cloud(), "none")
    with pytest.raises(Refused, match=r"is used by floating IP 203.0.113.20, router r1; take it from them first"):
        routing.delete_external(cloud(), "out")
    alone = state(OUT, Neighbour("out", OUT.gateway, 5))
    after = then(alone, routing.delete_external(alone, "out"))
    assert (len(after.externals), len(after.neighbours)) == (0, 0)
    assert list(after.retired) == [OUT.tag]


def test_a_long_list_of_users_is_cut() -> None:
    many = cloud(*(router(n, external="out") for n in range(2, 9)))
    with pytest.raises(Refused, match=r"router r2, router r3, router r4 and 4 more"):
        routing.delete_external(many, "out")


# --- routers ---


@pytest.mark.parametrize(
    ("wishes", "kind", "words"),
    [
        ({"name": "a\tb"}, BadInput, "is no router name"),
        ({"outside": "none"}, NotFound, "there is no external network none"),
        ({"addresses": ["203.0.113.11"]}, BadInput, "has external addresses and no external network: name it too"),
        ({"outside": "out", "addresses": ["203.0.113"]}, BadInput, "is not an IP address"),
        ({"outside": "out", "addresses": ["192.0.2.1"]}, Refused, "192.0.2.1 is not in 203.0.113.0/24"),
        ({"outside": "out", "addresses": ["203.0.113.255"]}, Refused, "its broadcast address"),
        ({"outside": "out", "addresses": ["203.0.113.1"]}, Refused, "is that of the next hop in out"),
        ({"outside": "out", "addresses": ["203.0.113.10"]}, Refused, "is that of router r1 in out: choose another"),
        ({"outside": "out", "addresses": ["203.0.113.20"]}, Refused, "is that of floating IP 203.0.113.20"),
        ({"outside": "out", "addresses": [f"203.0.113.{n}" for n in range(100, 165)]}, BadInput, "may have 64"),
        ({"routes": ["10.9.0.0/16"]}, BadInput, "is not PREFIX via ADDRESS, as in"),
        ({"routes": ["10.9.0.1/16 via 10.1.0.9"]}, BadInput, "host bits set"),
        ({"routes": ["0.0.0.0/0 via 10.1.0.9"]}, BadInput, "the default route is that of the external network"),
        ({"routes": ["10.9.0.0/16 via nobody"]}, BadInput, "next hop 'nobody' is not an IP address"),
        ({"routes": ["10.9.0.0/16 via 10.1.0.9"]}, Refused, "next hop 10.1.0.9 is in no subnet of router r2"),
        ({"routes": [f"10.9.{n}.0/24 via 10.1.0.9" for n in range(201)]}, BadInput, "a router may have 200"),
        ({"name": "r1"}, Refused, "exists already with other settings: change it with `ebbtide router set r1`"),
    ],
)
def test_a_router_that_cannot_be_is_refused(wishes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        routing.add_router(cloud(), **{"name": "r2", **wishes})


def test_the_same_router_again_is_already_so_in_whatever_order_its_addresses_are_said() -> None:
    wishes: dict[str, Any] = {"outside": "out", "addresses": ["203.0.113.12", "203.0.113.11"], "snat": False}
    edits, first = routing.add_router(cloud(), "r2", **wishes)
    assert first.addresses == ("203.0.113.11", "203.0.113.12")
    assert first.mac == ledger.mac("store", ledger.MacOf.ROUTER, first.tag)
    wishes["addresses"].reverse()
    assert routing.add_router(then(cloud(), edits), "r2", **wishes) == ([], first)


def test_a_change_leaves_what_is_not_named_and_the_same_change_again_is_already_so() -> None:
    edits, changed = routing.set_router(cloud(), "r1", snat=False, routes=["10.9.0.0/16 via 10.1.0.9"])
    assert (changed.external, changed.addresses, changed.snat) == ("out", R1.addresses, False)
    assert changed.routes == ("10.9.0.0/16 via 10.1.0.9",)
    assert routing.set_router(then(cloud(), edits), "r1", snat=False)[0] == []
    with pytest.raises(NotFound, match="there is no router none"):
        routing.set_router(cloud(), "none", snat=False)


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (["10.9.0.0/16 via 10.1.0.9", "10.9.0.0/16 via 10.1.0.8"], "has two next hops, 10.1.0.9 and 10.1.0.8"),
        (["10.1.0.0/24 via 10.1.0.9"], "that subnet is connected to router r1 itself"),
        (
            ["10.1.0.1/32 via 10.1.0.9"],
            "route to 10.1.0.1/32: it lies within 10.1.0.0/24, which is connected to router r1",
        ),
        (["10.1.0.128/25 via 10.1.0.9"], "it lies within 10.1.0.0/24, .* choose a prefix outside it"),
        (["10.9.0.0/16 via 10.2.0.9"], "next hop 10.2.0.9 is in no subnet of router r1"),
        (["10.9.0.0/16 via 10.1.0.254"], "next hop 10.1.0.254 is router r1's own address: name the port's behind"),
    ],
)
def test_a_route_that_leads_nowhere_or_two_ways_is_refused(route: list[str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        routing.set_router(cloud(), "r1", routes=route)


def test_a_router_in_no_network_is_to_be_attached_before_it_has_routes() -> None:
    routes = ["10.9.0.0/16 via 10.2.0.9"]
    words = "attach the router to the network of the next hop first"
    with pytest.raises(Refused, match=f"{words} .`ebbtide router attach r1 NETWORK`., then set the route"):
        routing.set_router(cloud(), "r1", routes=routes)
    with pytest.raises(Refused, match=f"make router r2 without routes, {words} .*, then set the route"):
        routing.add_router(cloud(), "r2", routes=routes)


def test_a_route_may_hold_a_subnet_that_is_connected() -> None:
    edits, changed = routing.set_router(cloud(), "r1", routes=["10.1.0.0/16 via 10.1.0.9"])
    assert changed.routes == ("10.1.0.0/16 via 10.1.0.9",)
    assert routing.attach(then(cloud(), edits), "r1", "n2")[0]


def test_a_router_keeps_its_network_outside_while_floating_ips_come_from_there() -> None:
    with pytest.raises(
        Refused, match=r"floating IP 203.0.113.20 leads to ports behind router r1: take them away first"
    ):
        routing.set_router(cloud(), "r1", outside="")
    without_place = change(cloud(), Edit(IN_BLUE, None))
    with pytest.raises(Refused, match=r"floating IP 203.0.113.20"):
        routing.delete_router(without_place, "r1")


def test_a_router_that_leaves_its_network_outside_gives_its_addresses_and_its_place_up() -> None:
    with_place = cloud(compute(1), compute(2))
    with_place = then(with_place, parts.designate(with_place, "r1", 1, 2))
    free = then(with_place, routing.delete_floating(with_place, "out", "203.0.113.20"))
    after = then(free, routing.set_router(free, "r1", outside="")[0])
    assert (after.routers["r1"].external, after.routers["r1"].addresses) == ("", ())
    assert (len(after.designations), len(after.leases), len(after.serves)) == (0, 0, 0)


def test_addresses_without_a_network_outside_are_refused_and_not_forgotten() -> None:
    free = then(cloud(), routing.delete_floating(cloud(), "out", "203.0.113.20"))
    with pytest.raises(BadInput, match="has external addresses and no external network"):
        routing.set_router(free, "r1", outside="", addresses=["203.0.113.11"])


@pytest.mark.parametrize("wish", [{"addresses": ["203.0.113.11"]}, {"snat": False}, {"record": False}])
def test_what_a_move_rests_on_is_not_changed_while_it_is_under_way(wish: dict[str, Any]) -> None:
    moving = cloud(compute(1), compute(2), Move("r1", 1, 2))
    with pytest.raises(Refused, match=r"NAT of router r1 is on its way to another compute \(prepare\): try again"):
        routing.set_router(moving, "r1", **wish)
    assert routing.set_router(moving, "r1", routes=["10.9.0.0/16 via 10.1.0.9"])[0]


def test_a_router_is_deleted_when_it_is_in_no_network_and_its_tag_rests() -> None:
    bare = state(OUT, R1, compute(1), compute(2))
    bare = then(bare, parts.designate(bare, "r1", 1, 2))
    after = then(bare, routing.delete_router(bare, "r1"))
    assert (len(after.routers), len(after.designations), len(after.leases)) == (0, 0, 0)
    assert [type(x) for x in after.retired.values()] == [Retired]
    assert made(routing.add_router(after, "r2")).tag != R1.tag
    with pytest.raises(Refused, match="router r1 is still in network n1: `ebbtide router detach r1 NETWORK` first"):
        routing.delete_router(cloud(), "r1")
    with pytest.raises(NotFound, match="there is no router r1"):
        routing.delete_router(after, "r1")


# --- places in networks ---


@pytest.mark.parametrize(
    ("wishes", "kind", "words"),
    [
        ({"name": "none"}, NotFound, "there is no router and no VPN none"),
        ({"network": "none"}, NotFound, "there is no network none: `ebbtide network add none` makes one"),
        ({"address": "10.2.0"}, BadInput, "is not an IP address"),
        ({"address": "10.3.0.1"}, Refused, "address 10.3.0.1 is in no subnet of network n2, which has 10.2.0.0/24"),
        ({"address": "10.2.0.0"}, Refused, "it is the subnet's own or its broadcast address"),
        ({"address": "10.2.0.7"}, Refused, "address 10.2.0.7 is that of port p7 in network n2"),
        ({"mac": "02:00:00:00:00:07"}, Refused, "MAC 02:00:00:00:00:07 is that of port p7 in network n2"),
        ({"mac": "01:00:00:00:00:01"}, BadInput, "is not the MAC address of one host"),
        ({"mac": "nonsense"}, BadInput, "is not a MAC address"),
        ({"address": "10.2.0.9"}, Refused, r"10.2.0.9 or MAC .* is that of router r9 in network n2"),
        ({"mac": "02:eb:04:00:00:09"}, Refused, "MAC 02:eb:04:00:00:09 is that of router r9 in network n2"),
        ({"network": "n1", "address": "10.1.0.253"}, Refused, "subnet 10.1.0.0/24 meets 10.1.0.0/24, in which router"),
        ({"network": "n4"}, Refused, "subnet 10.1.0.0/16 meets 10.1.0.0/24"),
        ({"network": "n5"}, BadInput, "network n5 has 0 subnets: say which address router r1 has there"),
        ({"network": "n5", "address": "10.5.0.1"}, Refused, "is in no subnet of network n5, which has none"),
        ({"network": "n6"}, BadInput, "network n6 has 2 IPv4 subnets"),
        ({"network": "n7"}, Refused, "router r1 has an extra route to 10.9.0.0/24: take it away first"),
        ({"network": "n8"}, Refused, "has an extra route to 10.8.0.5/32, which lies within 10.8.0.0/24: take it away"),
        ({"network": "n1", "address": "10.1.0.254", "mac": "02:00:00:00:00:99"}, Refused, "with MAC .* already"),
    ],
)
def test_a_place_that_cannot_be_is_refused(wishes: dict[str, Any], kind: type[Exception], words: str) -> None:
    other = leg(9, 2, address="10.2.0.9", subnet="10.2.0.0/24")
    subnets = {4: ("10.1.0.0/16",), 5: (), 6: ("10.6.0.0/24", "10.7.0.0/24"), 7: ("10.9.0.0/24",), 8: ("10.8.0.0/24",)}
    found = cloud(
        *(network(tag, subnets=text) for tag, text in subnets.items()),
        port(7, 2, addresses=("10.2.0.7",)),
        router(9),
        other,
    )
    routes = ["10.9.0.0/24 via 10.1.0.9", "10.8.0.5/32 via 10.1.0.9"]
    found = then(found, routing.set_router(found, "r1", routes=routes)[0])
    with pytest.raises(kind, match=words):
        routing.attach(found, **{"name": "r1", "network": "n2", **wishes})


def test_a_router_takes_the_first_address_of_the_only_subnet_and_twice_is_already_so() -> None:
    edits, place = routing.attach(cloud(), "r1", "n2")
    assert place.address == "10.2.0.1"
    assert place.mac == ledger.mac("store", ledger.MacOf.LEG, R1.tag)
    assert routing.attach(then(cloud(), edits), "r1", "n2") == ([], place)


def test_a_router_has_two_subnets_of_one_network_under_one_mac() -> None:
    both = cloud(network(3, subnets=("10.3.0.0/24", "10.4.0.0/24")))
    edits, one = routing.attach(both, "r1", "n3", "10.3.0.1")
    both = then(both, edits)
    edits, two = routing.attach(both, "r1", "n3", "10.4.0.1")
    assert one.mac == two.mac
    assert len(then(both, edits).legs["r1"]) == 3


def test_a_place_is_taken_away_when_nothing_leads_through_it() -> None:
    with pytest.raises(NotFound, match="router r1 is not in network n2"):
        routing.detach(cloud(), "r1", "n2")
    with pytest.raises(NotFound, match=r"is not in network n1 with address 10.1.0.99"):
        routing.detach(cloud(), "r1", "n1", "10.1.0.99")
    with pytest.raises(Refused, match=r"floating IP 203.0.113.20 leads to ports in 10.1.0.0/24: take them away first"):
        routing.detach(cloud(), "r1", "n1")
    free = then(cloud(), routing.delete_floating(cloud(), "out", "203.0.113.20"))
    routed = then(free, routing.set_router(free, "r1", routes=["10.9.0.0/16 via 10.1.0.9"])[0])
    with pytest.raises(Refused, match=r"extra route 10.9.0.0/16 via 10.1.0.9 leads through 10.1.0.0/24"):
        routing.detach(routed, "r1", "n1")
    assert routing.detach(free, "r1", "n1") == [Edit(IN_BLUE, None)]


# --- floating IPs ---


@pytest.mark.parametrize(
    ("wishes", "kind", "words"),
    [
        ({"outside": "none"}, NotFound, "there is no external network none"),
        ({"address": "203.0.113"}, BadInput, "is not an IPv4 address"),
        ({"address": "192.0.2.1"}, Refused, "floating IP 192.0.2.1 is not in 203.0.113.0/24"),
        ({"address": "203.0.113.255"}, Refused, "its broadcast address"),
        ({"address": "203.0.113.1"}, Refused, "address 203.0.113.1 is that of the next hop in out"),
        ({"address": "203.0.113.10"}, Refused, "address 203.0.113.10 is that of router r1 in out"),
        ({"mac": "03:00:00:00:00:01"}, BadInput, "is not the MAC address of one host"),
        ({"port": "none"}, NotFound, "there is no port none"),
        ({"fixed": "10.1.0.2"}, BadInput, "a fixed address without a port: name the port too"),
        ({"port": "p1"}, Refused, "10.1.0.1 of port p1 has floating IP 203.0.113.20 already"),
        ({"port": "p2", "fixed": "10.1.0.3"}, Refused, "10.1.0.3 is no IPv4 address of port p2, which has 10.1.0.2"),
        ({"port": "p3"}, Refused, "no router leads from out to port p3: attach one to network n2"),
        ({"port": "p4"}, Refused, "no router leads from out to port p4"),
    ],
)
def test_a_floating_ip_that_cannot_be_is_refused(wishes: dict[str, Any], kind: type[Exception], words: str) -> None:
    found = cloud(
        port(2, 1, addresses=("10.1.0.2",)), port(3, 2, addresses=("10.2.0.3",)), port(4, 1, addresses=("2001:db8::4",))
    )
    with pytest.raises(kind, match=words):
        routing.add_floating(found, **{"outside": "out", "address": "203.0.113.30", **wishes})


def test_a_floating_ip_is_made_moved_emptied_and_deleted_with_one_mac_all_the_time() -> None:
    found = cloud(port(2, 1, addresses=("10.1.0.2",)), port(3, 1, addresses=("10.1.0.3",)))
    edits, first = routing.add_floating(found, "out", "203.0.113.30", "p2")
    assert (first.router, first.fixed) == ("r1", "10.1.0.2")
    found = then(found, edits)
    assert routing.add_floating(found, "out", "203.0.113.30", "p2") == ([], first)
    edits, second = routing.add_floating(found, "out", "203.0.113.30", "p3")
    assert (second.port, second.mac) == ("p3", first.mac)
    found = then(found, edits)
    assert "p2" not in found.floatings_of
    edits, third = routing.add_floating(found, "out", "203.0.113.30")
    assert (third.port, third.router, third.fixed, third.mac) == ("", "", "", first.mac)
    found = then(found, edits)
    found = then(found, routing.delete_floating(found, "out", "203.0.113.30"))
    with pytest.raises(NotFound, match=r"there is no floating IP 203.0.113.30 in external network out"):
        routing.delete_floating(found, "out", "203.0.113.30")


def test_a_fixed_address_alone_does_not_unplug_a_floating_ip() -> None:
    with pytest.raises(BadInput, match="name the port too"):
        routing.add_floating(cloud(), "out", "203.0.113.20", fixed="10.1.0.1")


def test_a_port_with_two_addresses_has_a_floating_ip_for_each() -> None:
    found = cloud(port(2, 1, addresses=("10.1.0.2", "10.1.0.3")))
    for n, fixed in ((30, "10.1.0.2"), (31, "10.1.0.3")):
        edits, one = routing.add_floating(found, "out", f"203.0.113.{n}", "p2", fixed)
        assert one.fixed == fixed
        found = then(found, edits)
    assert len(found.floatings_of["p2"]) == 2


@pytest.mark.parametrize(
    ("mac", "whose"),
    [
        (0x02_0000_0000_20, "floating IP 203.0.113.20"),
        (R1.mac, "router r1"),
        (ledger.mac("store", ledger.MacOf.COMPUTE, 1), "compute c1"),
    ],
)
def test_no_two_in_one_network_outside_have_one_mac(mac: int, whose: str) -> None:
    found = cloud(compute(1))
    with pytest.raises(Refused, match=f"is that of {whose} in out"):
        routing.add_floating(found, "out", "203.0.113.30", mac=format_mac(mac))


def test_a_mac_that_is_given_for_a_floating_ip_is_kept() -> None:
    edits, one = routing.add_floating(cloud(), "out", "203.0.113.30", mac="02:12:34:56:78:9a")
    assert one.mac == parse_mac("02:12:34:56:78:9a")
    again = routing.add_floating(then(cloud(), edits), "out", "203.0.113.30", mac="02:12:34:56:78:9a")
    assert again == ([], one)


def test_floating_ips_of_a_port_that_is_deleted_stay_and_lead_nowhere() -> None:
    after = then(cloud(), [*routing.without_port(cloud(), "p1"), Edit(WEB, None)])
    kept = after.floatings["out", "203.0.113.20"]
    assert (kept.port, kept.router, kept.fixed, kept.mac) == ("", "", "", 0x02_0000_0000_20)
    assert len(after.floatings_of) == 0


def test_the_addresses_and_macs_of_routers_in_a_network_are_known_with_their_owners() -> None:
    both = cloud(router(2), leg(2, 1, address="10.1.0.253", subnet="10.1.0.0/24"))
    on_link = {str(IPv6Address(link_local(x.mac))): f"router {x.router}" for x in (IN_BLUE, leg(2, 1))}
    assert routing.own_addresses(both, "n1") == {"10.1.0.254": "router r1", "10.1.0.253": "router r2", **on_link}
    assert routing.own_macs(both, "n1") == {IN_BLUE.mac: "router r1", leg(2, 1).mac: "router r2"}
    assert (routing.own_addresses(both, "n2"), routing.own_macs(both, "n2")) == ({}, {})


# --- every refusal leaves State as it was ---


def test_no_verb_touches_the_state_that_it_was_given() -> None:
    before, again = cloud(), cloud()
    verbs: list[Callable[[], object]] = [
        lambda: routing.add_router(before, "r2"),
        lambda: routing.attach(before, "r1", "n2"),
        lambda: routing.add_floating(before, "out", "203.0.113.30"),
        lambda: routing.delete_floating(before, "out", "203.0.113.20"),
        lambda: outside(before),
    ]
    for verb in verbs:
        verb()
    assert before == again


def test_a_place_knows_its_subnet() -> None:
    assert made(routing.attach(cloud(), "r1", "n2", "10.2.0.77")) == RouterPort(
        "r1", "n2", "10.2.0.77", "10.2.0.0/24", ledger.mac("store", ledger.MacOf.LEG, 1)
    )
