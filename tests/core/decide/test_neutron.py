"""What Neutron says becomes our own facts, in whatever order it comes; what cannot be served says why, and nothing is served by halves."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.decide import documents, ids, neutron
from ebbtide.errors import MissingParent, NotFound, Refused, UserError
from ebbtide.model.facts import (
    Binding,
    BindingPhase,
    Cursor,
    Designation,
    Document,
    Edit,
    External,
    Fact,
    Floating,
    Network,
    Port,
    Retired,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
    Vpn,
    format_mac,
)
from ebbtide.model.state import NAT, State, apply, facts, rebuild
from tests.fakes.clouds import compute, random_view
from tests.fakes.follower import Follower

EMPTY = rebuild([], 1, "00000000-0000-4000-8000-000000000000")


def tell(state: State, edits: Iterable[Edit]) -> State:
    """The State after these, as the store would have it."""
    after = apply(state, list(edits), state.revision + 1)
    assert set(facts(after)) == set(facts(rebuild(facts(after), after.revision)))
    return after


def say(state: State, kind: str, document_id: str, **said: Any) -> State:
    given = {"id": document_id, **{k.replace("__", ":"): v for k, v in said.items()}}
    return tell(state, neutron.change(state, documents.post(state, kind, [given])))


def put(state: State, kind: str, document_id: str, **said: Any) -> State:
    given = {k.replace("__", ":"): v for k, v in said.items()}
    return tell(state, neutron.change(state, documents.put(state, kind, document_id, given)))


def forget(state: State, kind: str, document_id: str) -> State:
    return tell(state, neutron.change(state, documents.delete(state, kind, document_id)))


def why(state: State, kind: str, document_id: str) -> str:
    found = state.document(kind, document_id)
    assert found is not None
    return found.unserved


VXLAN = {"provider__network_type": "vxlan", "provider__segmentation_id": 70001, "mtu": 1450}
FLAT = {"provider__network_type": "flat", "provider__physical_network": "phys", "router__external": True, "mtu": 1500}


def cloud() -> State:
    """A network with a subnet, one outside with one, a group, and a VM's port in it."""
    state = say(EMPTY, "networks", "n1", **VXLAN)
    state = say(state, "subnets", "s1", network_id="n1", cidr="10.1.0.0/24", gateway_ip="10.1.0.1")
    state = say(state, "networks", "ext", **FLAT)
    state = say(state, "subnets", "se", network_id="ext", cidr="198.51.100.0/24", gateway_ip="198.51.100.1")
    state = say(state, "security-groups", "g1")
    return say(
        state, "ports", "p1", **port("10.1.0.5", 5, security_groups=[{"id": "g1"}], device_id="vm", project_id="t")
    )


def port(address: str, number: int, network: str = "n1", subnet: str = "s1", **more: Any) -> dict[str, Any]:
    fixed = [{"subnet_id": subnet, "ip_address": address}]
    return {"network_id": network, "mac_address": format_mac(0x020000000000 + number), "fixed_ips": fixed, **more}


def interface(address: str, number: int, router: str = "r1", **more: Any) -> dict[str, Any]:
    return port(address, number, device_owner="network:router_interface", device_id=router, **more)


def leads(network: str = "ext", address: str = "198.51.100.9", **more: Any) -> dict[str, Any]:
    fixed = [{"subnet_id": "se", "ip_address": address}]
    return {"external_gateway_info": {"network_id": network, "external_fixed_ips": fixed, **more}}


def routed() -> State:
    """That with a router between the two, and a floating IP for the port."""
    state = say(cloud(), "routers", "r1", **leads())
    state = say(state, "ports", "i1", **interface("10.1.0.1", 0x11))
    more = {"floating_network_id": "ext", "floating_ip_address": "198.51.100.20"}
    return say(state, "floatingips", "f1", **more, port_id="p1", fixed_ip_address="10.1.0.5", router_id="r1")


def test_a_network_is_made_of_its_document_and_those_of_its_subnets() -> None:
    state = say(EMPTY, "networks", "n1", **VXLAN)
    assert state.networks["n1"] == Network("n1", 1, 70001, 1450)
    routes = [{"destination": "10.9.0.0/16", "nexthop": "10.1.0.9"}]
    state = say(
        state, "subnets", "s1", network_id="n1", cidr="10.1.0.0/24", dns_nameservers=["192.0.2.53"], host_routes=routes
    )
    state = say(
        state, "subnets", "s6", network_id="n1", cidr="2001:db8::/64", ipv6_ra_mode="slaac", ipv6_address_mode="slaac"
    )
    made = state.networks["n1"]
    assert made.subnets == ("10.1.0.0/24", "2001:db8::/64")
    assert (made.dhcp, made.dns, made.routes) == (True, "192.0.2.53", ("10.9.0.0/16 via 10.1.0.9",))
    assert made.ipv6_mode == "slaac"
    state = put(state, "subnets", "s1", enable_dhcp=False)
    assert not state.networks["n1"].dhcp
    state = forget(forget(state, "subnets", "s6"), "networks", "n1")
    assert not state.networks
    assert state.document("subnets", "s1"), "Neutron has not taken that back"
    with pytest.raises(MissingParent, match="network_id n1 is no network that is known here"):
        say(state, "subnets", "s1", network_id="n1", cidr="10.1.0.0/24")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            {"provider__network_type": "vlan", "provider__segmentation_id": 5},
            "a tenant network of type vlan is not served",
        ),
        (
            {"provider__network_type": "gre", "provider__segmentation_id": 5},
            "a tenant network of type gre is not served",
        ),
        ({"provider__network_type": "vxlan"}, "a tenant network of type vxlan is not served"),
        ({}, "a tenant network of type None is not served"),
        ({**VXLAN, "provider__segmentation_id": 1 << 24}, "segmentation id 16777216 is not between"),
        ({**VXLAN, "mtu": 5}, "MTU 5 is not between"),
        ({**VXLAN, "router__external": True}, "an external network of type vxlan is not served"),
        (FLAT, "served once it has an IPv4 subnet"),
    ],
)
def test_a_network_that_cannot_be_served_is_kept_and_says_why(said: dict[str, Any], reason: str) -> None:
    state = say(EMPTY, "networks", "n1", **said)
    assert not state.networks
    assert not state.externals
    assert reason in why(state, "networks", "n1")
    state = say(state, "ports", "p1", **port("10.1.0.5", 5))
    assert not state.ports
    assert "network n1 is not served to ports" in why(state, "ports", "p1")
    state = put(state, "networks", "n1", **{"router__external": False, **VXLAN})
    assert (why(state, "networks", "n1"), why(state, "ports", "p1"), list(state.ports)) == ("", "", ["p1"])


def test_what_only_some_subnets_say_is_in_sight() -> None:
    state = say(cloud(), "subnets", "t1", network_id="ext", cidr="203.0.113.0/24", gateway_ip="203.0.113.1")
    assert why(state, "networks", "ext") == "of its subnets 198.51.100.0/24 are served, one of each IP version"
    assert state.externals["ext"].subnet == "198.51.100.0/24"
    state = put(state, "subnets", "se", created_at="2026-11-22T17:01:15Z")
    assert state.externals["ext"].subnet == "203.0.113.0/24", "it is of nobody knows when"
    state = put(state, "subnets", "t1", created_at="2026-11-22T17:01:16Z")
    assert state.externals["ext"].subnet == "198.51.100.0/24", "the oldest is served, whatever its id"
    state = say(state, "subnets", "s0", network_id="n1", cidr="10.5.0.0/24", enable_dhcp=False)
    assert "some of them are without" in why(state, "networks", "n1")
    six = {"network_id": "n1", "host_routes": [{"destination": "2001:db8:f::/48", "nexthop": "2001:db8::9"}]}
    state = say(state, "subnets", "s6", cidr="2001:db8::/64", ipv6_ra_mode="slaac", **six)
    assert "host routes of IPv6 are not told" in why(state, "networks", "n1")
    state = say(state, "subnets", "s7", network_id="n1", cidr="2001:db8:7::/64")
    assert "several modes: slaac is served in all" in why(state, "networks", "n1")
    servers = [f"192.0.2.{n}" for n in range(21)]
    ways = [{"destination": f"10.9.{n}.0/24", "nexthop": "10.5.0.9"} for n in range(21)]
    state = put(state, "subnets", "s0", dns_nameservers=servers, host_routes=ways)
    assert "of its name servers 20 are told; of its host routes 20 are told" in why(state, "networks", "n1")
    assert len(state.networks["n1"].routes) == len(state.networks["n1"].dns.split()) == 20


def test_a_vni_that_is_taken_is_waited_for() -> None:
    state = say(say(EMPTY, "networks", "n1", **VXLAN), "networks", "n2", **VXLAN)
    assert why(state, "networks", "n2") == "segmentation id 70001 is the VNI of network n1"
    state = forget(state, "networks", "n1")
    assert "not every compute has let go of it yet" in why(state, "networks", "n2")
    assert neutron.again(state, state.unserved) == [], "it has changed nothing"
    state = tell(state, ids.released(state, state.revision))
    state = tell(state, neutron.again(state, state.unserved))
    assert (list(state.networks), why(state, "networks", "n2")) == (["n2"], "")


def test_a_port_is_its_vms_with_all_that_neutron_says_of_it() -> None:
    state = cloud()
    assert state.ports["p1"] == Port("p1", "n1", 0x020000000005, 1, ("10.1.0.5",), True, ("g1",), (), "vm", "t")
    pairs = [{"ip_address": "10.1.0.77"}, {"ip_address": "10.1.0.0/28", "mac_address": "02:00:00:00:00:99"}]
    state = put(
        state,
        "ports",
        "p1",
        allowed_address_pairs=pairs,
        security_groups=[],
        device_id="",
        mac_address="02:00:00:00:00:06",
    )
    made = state.ports["p1"]
    assert made.pairs == ("10.1.0.0/28 02:00:00:00:00:99", "10.1.0.77/32 02:00:00:00:00:06")
    assert (made.groups, made.secured, made.device, made.mac, made.lport) == ((), True, "", 0x020000000006, 1)
    assert not put(state, "ports", "p1", port_security_enabled=False).ports["p1"].secured
    assert not say(state, "ports", "d1", **port("10.1.0.2", 2, device_owner="network:dhcp")).ports["d1"].secured
    with pytest.raises(Refused, match="network_id is n1, and stays"):
        say(state, "ports", "p1", **port("198.51.100.7", 5, "ext", "se"))
    state = tell(state, [Edit(None, compute(1)), Edit(None, Binding("p1", 1, BindingPhase.ACTIVE))])
    state = forget(state, "ports", "p1")
    assert not state.ports
    assert not state.bindings


def test_what_has_no_effect_says_so_and_a_port_that_is_down_is_none() -> None:
    state = put(cloud(), "ports", "p1", qos_policy_id="q", extra_dhcp_opts=[{"opt_name": "x", "opt_value": "y"}])
    assert why(state, "ports", "p1") == "a QoS policy: given, and not served; extra DHCP options: given, and not served"
    assert "p1" in state.ports
    state = put(state, "networks", "n1", admin_state_up=False)
    assert why(state, "networks", "n1") == "admin_state_up false: given, and not served"
    state = put(state, "security-groups", "g1", stateful=False)
    assert "it is stateful" in why(state, "security-groups", "g1")
    state = put(state, "ports", "p1", admin_state_up=False)
    assert not state.ports
    state = put(routed(), "ports", "i1", admin_state_up=False)
    assert state.places("r1") == ()
    assert put(state, "ports", "i1", admin_state_up=True).places("r1") == routed().places("r1")


def test_an_address_or_mac_that_is_another_ports_is_waited_for() -> None:
    state = say(cloud(), "ports", "p2", **port("10.1.0.5", 6))
    assert why(state, "ports", "p2") == "address 10.1.0.5 is that of port p1 in network n1"
    state = say(state, "ports", "p3", **port("10.1.0.7", 5))
    assert "MAC 02:00:00:00:00:05 is that of port p1" in why(state, "ports", "p3")
    state = forget(state, "ports", "p1")
    assert sorted(state.ports) == ["p2", "p3"]
    assert not state.unserved


def test_a_group_that_comes_later_is_what_a_port_is_in_then() -> None:
    state = put(cloud(), "ports", "p1", security_groups=[{"id": "g1"}, {"id": "g2"}])
    assert (state.ports["p1"].groups, state.ports["p1"].secured) == (("g1",), True)
    assert "security group g2 is not there" in why(state, "ports", "p1")
    state = say(state, "security-groups", "g2")
    assert (state.ports["p1"].groups, why(state, "ports", "p1")) == (("g1", "g2"), "")
    state = forget(state, "security-groups", "g1")
    assert state.ports["p1"].groups == ("g2",)


@pytest.mark.parametrize(
    ("said", "made"),
    [
        ({}, SecurityRule("x", "g1", True, 4)),
        ({"direction": "egress", "ethertype": "IPv6"}, SecurityRule("x", "g1", False, 6)),
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 81}, SecurityRule("x", "g1", True, 4, 6, 80, 81)),
        ({"protocol": "17", "port_range_min": 53, "port_range_max": 53}, SecurityRule("x", "g1", True, 4, 17, 53, 53)),
        ({"protocol": 132}, SecurityRule("x", "g1", True, 4, 132)),
        ({"protocol": "icmp", "port_range_min": 8}, SecurityRule("x", "g1", True, 4, 1, 8)),
        ({"protocol": "icmp", "port_range_min": 3, "port_range_max": 4}, SecurityRule("x", "g1", True, 4, 1, 3, 4)),
        ({"protocol": "ipv6-icmp", "ethertype": "IPv6"}, SecurityRule("x", "g1", True, 6, 58)),
        ({"protocol": "icmp", "ethertype": "IPv6"}, SecurityRule("x", "g1", True, 6, 58)),
        ({"remote_ip_prefix": "10.0.0.0/8"}, SecurityRule("x", "g1", True, 4, prefix="10.0.0.0/8")),
        ({"remote_group_id": "g1"}, SecurityRule("x", "g1", True, 4, remote="g1")),
    ],
)
def test_a_rule_says_the_same_in_our_words(said: dict[str, Any], made: SecurityRule) -> None:
    state = say(cloud(), "security-group-rules", "x", **{"security_group_id": "g1", "direction": "ingress", **said})
    assert state.rules_of("g1") == [made]
    assert why(state, "security-group-rules", "x") == ""
    assert not forget(state, "security-group-rules", "x").rules
    state = forget(state, "security-groups", "g1")
    assert (dict(state.rules), dict(state.security_groups), state.ports["p1"].groups) == ({}, {}, ())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"remote_address_group_id": "a"}, "address group"),
        ({"protocol": "33", "port_range_min": 5, "port_range_max": 5}, "protocol 33 has no ports"),
        ({"protocol": "nonsense"}, "protocol 'nonsense'"),
        ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 5}, "ports 0-5"),
        ({"direction": "sideways"}, "neither ingress nor egress"),
        ({"remote_group_id": "g9"}, "security group g9, the far end, is not there"),
        ({"remote_ip_prefix": "10.0.0.0/33"}, "is no prefix"),
        ({"ethertype": "IPv6", "remote_ip_prefix": "10.0.0.0/8"}, "does not go with"),
    ],
)
def test_a_rule_that_cannot_be_served_lets_nothing_through(said: dict[str, Any], reason: str) -> None:
    rule = {"security_group_id": "g1", "direction": "ingress"}
    state = say(cloud(), "security-group-rules", "x", **{**rule, **said})
    assert not state.rules
    assert reason in why(state, "security-group-rules", "x")
    before = say(cloud(), "security-group-rules", "x", **rule)
    state = put(before, "security-group-rules", "x", **{**rule, **said})
    assert not state.rules, "and not what it said before either"


def test_a_router_its_places_its_way_out_and_a_floating_ip() -> None:
    state = routed()
    router = state.routers["r1"]
    assert (router.external, router.addresses, router.snat) == ("ext", ("198.51.100.9",), True)
    assert state.externals["ext"] == External("ext", 2, "phys", 0, "198.51.100.0/24", "198.51.100.1", 1500)
    assert state.places("r1") == (RouterPort("r1", "n1", "10.1.0.1", "10.1.0.0/24", 0x020000000011),)
    (floating,) = state.floatings.values()
    assert (floating.address, floating.router, floating.port, floating.fixed) == (
        "198.51.100.20",
        "r1",
        "p1",
        "10.1.0.5",
    )
    assert "i1" not in state.ports
    assert not state.unserved
    state = put(
        state,
        "routers",
        "r1",
        **leads(enable_snat=False),
        routes=[{"destination": "10.9.0.0/16", "nexthop": "10.1.0.9"}],
    )
    assert (state.routers["r1"].snat, state.routers["r1"].routes) == (False, ("10.9.0.0/16 via 10.1.0.9",))


def test_a_router_goes_apart_in_any_order() -> None:
    gone = [
        ("ports", "i1"),
        ("routers", "r1"),
        ("floatingips", "f1"),
        ("subnets", "se"),
        ("networks", "ext"),
        ("ports", "p1"),
    ]
    gone += [("networks", "n1"), ("subnets", "s1"), ("security-groups", "g1")]
    for seed in range(40):
        state, order = routed(), Random(seed).sample(gone, len(gone))
        for kind, name in order:
            state = forget(state, kind, name)
        left = [fact for fact in facts(state) if not isinstance(fact, Cursor | Retired)]
        assert left == [], order


def test_a_floating_ip_that_loses_its_port_leads_nowhere() -> None:
    state = put(
        routed(), "floatingips", "f1", floating_network_id="ext", floating_ip_address="198.51.100.20", status="DOWN"
    )
    assert [(f.port, f.router, f.fixed) for f in state.floatings.values()] == [("", "", "")]
    state = forget(routed(), "ports", "p1")
    assert [(f.port, f.router) for f in state.floatings.values()] == [("", "")]
    state = put(routed(), "routers", "r1", external_gateway_info=None)
    assert [(f.port, f.router) for f in state.floatings.values()] == [("", "")]
    assert "no router leads from ext to port p1" in why(state, "floatingips", "f1")
    state = put(state, "routers", "r1", **leads())
    assert [(f.port, f.router) for f in state.floatings.values()] == [("p1", "r1")]
    state = put(state, "floatingips", "f1", floating_ip_address="198.51.100.21", port_id="p1", router_id="r1")
    assert [f.address for f in state.floatings.values()] == ["198.51.100.21"]


def test_what_comes_before_what_it_names_is_served_when_that_comes() -> None:
    state = say(cloud(), "ports", "i1", **interface("10.1.0.1", 0x11))
    route = [{"destination": "10.9.0.0/16", "nexthop": "10.2.0.9"}]
    state = say(state, "routers", "r1", **leads("out"), routes=route)
    assert [leg.address for leg in state.places("r1")] == ["10.1.0.1"]
    assert "external network out is not served" in why(state, "routers", "r1")
    assert "the route to 10.9.0.0/16 waits" in why(state, "routers", "r1")
    state = say(state, "networks", "n2", **{**VXLAN, "provider__segmentation_id": 70002})
    state = say(
        state,
        "ports",
        "i2",
        **interface("10.2.0.1", 0x12)
        | {"network_id": "n2", "fixed_ips": [{"subnet_id": "s2", "ip_address": "10.2.0.1"}]},
    )
    assert len(state.places("r1")) == 1
    state = say(state, "subnets", "s2", network_id="n2", cidr="10.2.0.0/24")
    assert len(state.places("r1")) == 2
    assert state.routers["r1"].routes == ("10.9.0.0/16 via 10.2.0.9",)
    state = say(state, "networks", "out", **{**FLAT, "provider__physical_network": "other"})
    state = say(state, "subnets", "so", network_id="out", cidr="198.51.100.0/24", gateway_ip="198.51.100.1")
    assert state.routers["r1"].addresses == ("198.51.100.9",)
    assert not state.unserved


def test_what_others_have_made_keeps_a_network_from_being_deleted() -> None:
    state = tell(cloud(), [Edit(None, Port("hand-made", "n1", 0x020000000077, 77))])
    with pytest.raises(Refused, match="network n1 still has 1 port"):
        forget(state, "networks", "n1")


def test_a_vpn_has_what_it_says_and_waits_for_a_network_with_a_router() -> None:
    said = {
        "type": "l3",
        "route_targets": ["64512:1"],
        "import_targets": ["64512:2"],
        "route_distinguishers": ["64512:1"],
    }
    state = say(cloud(), "bgpvpns", "v1", **said, networks=["n1"], routers=[])
    assert state.vpns["v1"] == Vpn("v1", 1, "64512:1", ("64512:1", "64512:2"), ("64512:1",))
    assert [(leg.network, leg.address) for leg in state.places("v1")] == [("n1", "10.1.0.1")]
    state = say(say(state, "routers", "r1"), "ports", "i1", **interface("10.1.0.1", 0x11))
    assert state.places("v1") == ()
    assert [leg.address for leg in state.places("r1")] == ["10.1.0.1"]
    assert "network n1 has a router" in why(state, "bgpvpns", "v1")
    state = put(state, "bgpvpns", "v1", networks=[], routers=["r1"])
    assert (state.routers["r1"].vpn, why(state, "bgpvpns", "v1")) == ("v1", "")
    state = say(state, "bgpvpn-network-associations", "a1", bgpvpn_id="v1", network_id="n1")
    state = forget(state, "bgpvpns", "v1")
    assert not state.vpns
    assert state.routers["r1"].vpn == ""
    assert not state.documents.get("bgpvpn-network-associations")
    for wrong, reason in (({"type": "l2"}, "of type l2"), ({"route_distinguishers": []}, "no route distinguisher")):
        assert reason in why(say(cloud(), "bgpvpns", "v1", **{**said, **wrong}), "bgpvpns", "v1")


# --- incremental and whole ---

_SAID: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("networks", "n1"): [VXLAN, {**VXLAN, "mtu": 1400}, {**VXLAN, "provider__network_type": "vlan"}],
    ("networks", "n2"): [{**VXLAN, "provider__segmentation_id": 70002}],
    ("networks", "ext"): [FLAT, {**FLAT, "mtu": 1400}],
    ("subnets", "s1"): [
        {"network_id": "n1", "cidr": "10.1.0.0/24", "gateway_ip": "10.1.0.1"},
        {"network_id": "n1", "cidr": "10.1.0.0/24", "enable_dhcp": False, "dns_nameservers": ["192.0.2.1"]},
    ],
    ("subnets", "s2"): [{"network_id": "n2", "cidr": "10.2.0.0/24", "gateway_ip": "10.2.0.1"}],
    ("subnets", "s6"): [{"network_id": "n1", "cidr": "2001:db8::/64", "ipv6_ra_mode": "slaac"}],
    ("subnets", "se"): [{"network_id": "ext", "cidr": "198.51.100.0/24", "gateway_ip": "198.51.100.1"}],
    ("security-groups", "g1"): [{}],
    ("security-groups", "g2"): [{"name": "two"}],
    ("security-group-rules", "x1"): [
        {"security_group_id": "g1", "direction": "ingress", "remote_group_id": "g2"},
        {"security_group_id": "g1", "direction": "egress"},
    ],
    ("security-group-rules", "x2"): [{"security_group_id": "g2", "direction": "ingress", "protocol": "tcp"}],
    ("ports", "p1"): [
        port("10.1.0.5", 5, security_groups=["g1"]),
        port("10.1.0.6", 6, security_groups=["g1", "g2"]),
        port("10.1.0.5", 5, port_security_enabled=False, device_owner="compute:x"),
    ],
    ("ports", "p2"): [
        port("10.2.0.5", 7, "n2", "s2", admin_state_up=False),
        port("10.2.0.5", 7, "n2", "s2", security_groups=["g2"]),
    ],
    ("ports", "i1"): [
        interface("10.1.0.1", 0x11),
        interface("10.1.0.1", 0x11, "r2"),
        port("10.1.0.1", 0x11),
        interface("10.1.0.1", 0x11, admin_state_up=False),
    ],
    ("ports", "i2"): [port("10.2.0.1", 0x12, "n2", "s2", device_owner="network:router_interface", device_id="r1")],
    ("routers", "r1"): [
        {},
        leads(),
        {**leads(enable_snat=False), "routes": [{"destination": "10.9.0.0/16", "nexthop": "10.2.0.9"}]},
    ],
    ("routers", "r2"): [{}, leads(address="198.51.100.10")],
    ("floatingips", "f1"): [
        {
            "floating_network_id": "ext",
            "floating_ip_address": "198.51.100.20",
            "port_id": "p1",
            "fixed_ip_address": "10.1.0.5",
            "router_id": "r1",
        },
        {"floating_network_id": "ext", "floating_ip_address": "198.51.100.20"},
        {"floating_network_id": "ext", "floating_ip_address": "198.51.100.21", "port_id": "p2", "router_id": "r1"},
    ],
    ("bgpvpns", "v1"): [
        {"route_distinguishers": ["1:1"], "route_targets": ["1:1"], "networks": ["n2"]},
        {"route_distinguishers": ["1:1"], "export_targets": ["1:2"], "routers": ["r1"]},
    ],
}


def plain(state: State) -> set[Any]:
    """The facts without the ids that they were given in passing."""
    found: set[Any] = set()
    for fact in facts(state):
        match fact:
            case Cursor() | Retired():
                continue
            case Document():
                found.add(msgspec.structs.replace(fact, unserved=str(bool(fact.unserved))))
            case Port():
                found.add(msgspec.structs.replace(fact, lport=0))
            case Router():
                found.add(msgspec.structs.replace(fact, tag=0, mac=0))
            case Floating():
                found.add(msgspec.structs.replace(fact, mac=0))
            case RouterPort() if fact.router in state.vpns:
                found.add(msgspec.structs.replace(fact, mac=0))
            case Network() | External() | SecurityGroup() | Vpn():
                found.add(msgspec.structs.replace(fact, tag=0))
            case _:
                found.add(fact)
    return found


def said_at_once(state: State) -> State:
    """What the documents of a State mean, if they are all said at once to a controller that knows nothing."""
    all_of = [d for by_id in state.documents.values() for d in by_id.values()]
    return tell(EMPTY, neutron.change(EMPTY, [Edit(None, msgspec.structs.replace(d, unserved="")) for d in all_of]))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 60))
def test_what_was_said_one_by_one_means_what_it_means_at_once(seed: int, length: int) -> None:
    random, state = Random(seed), EMPTY
    for _ in range(length):
        kind, name = random.choice(list(_SAID))
        try:
            if random.random() < 0.25:
                state = forget(state, kind, name)
            else:
                state = say(state, kind, name, **random.choice(_SAID[kind, name]))
        except (MissingParent, NotFound):
            continue
        state = tell(state, ids.released(state, state.revision))
        state = tell(state, neutron.again(state, state.unserved))
        assert plain(state) == plain(said_at_once(state))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 50))
def test_computes_hold_what_they_should_whatever_neutron_says_in_turn(seed: int, length: int) -> None:
    """Ports are plugged on the way, and a router's NAT is served by whoever has the network outside."""
    random, follower = Random(seed), Follower()
    computes = [compute(n, provider_mappings=(("phys", "br-ex"),) if n < 3 else ()) for n in (1, 2, 3)]
    state = tell(EMPTY, [Edit(None, c) for c in computes])
    follower.changed([Edit(None, c) for c in computes], state)
    for _ in range(length):
        edits = _some_change(state, random)
        after = tell(state, edits)
        follower.changed(edits, after)
        state = after
        for number in sorted(follower.held):
            follower.shows(number, random_view(random, state, number, follower.views[number]))
        follower.check()


def _some_change(state: State, random: Random) -> list[Edit]:
    """Something that Neutron says, or a port that is plugged, or a router that is served, or ids that are free again."""
    unplugged = [name for name in sorted(state.ports) if name not in state.bindings]
    unserved = [r.id for r in state.routers.values() if r.external and (NAT, r.id) not in state.designations]
    match random.randrange(6):
        case 0 if unplugged:
            return [Edit(None, Binding(random.choice(unplugged), random.randint(1, 3), BindingPhase.ACTIVE))]
        case 1 if unserved:
            return [Edit(None, Designation(NAT, random.choice(sorted(unserved)), 1, 2))]
        case 2:
            freed = ids.released(state, state.revision)
            return [*freed, *neutron.again(apply(state, freed, state.revision), state.unserved)]
    kind, name = random.choice(list(_SAID))
    try:
        if random.random() < 0.2:
            return neutron.change(state, documents.delete(state, kind, name))
        given = {"id": name, **{k.replace("__", ":"): v for k, v in random.choice(_SAID[kind, name]).items()}}
        return neutron.change(state, documents.post(state, kind, [given]))
    except (MissingParent, NotFound):
        return []


_TEXTS = [
    *(
        "",
        "n1",
        "s1",
        "p1",
        "r1",
        "g1",
        "ext",
        "v1",
        "10.1.0.5",
        "10.1.0.0/24",
        "fe80::1%a",
        "2001:db8::5",
        "::/0",
        "0.0.0.0/0",
    ),
    *(
        "255.255.255.255",
        "224.0.0.1",
        "02:00:00:00:00:05",
        "01:00:00:00:00:00",
        "vxlan",
        "flat",
        "1:1",
        "é\x00 ",
        "x" * 300,
        "ebbtide:x",
    ),
]
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 4095, 70001, 1 << 31, 1 << 80]),
    st.sampled_from(_TEXTS),
    st.lists(st.sampled_from(_TEXTS), max_size=3),
    st.lists(
        st.fixed_dictionaries({"destination": st.sampled_from(_TEXTS), "nexthop": st.sampled_from(_TEXTS)}), max_size=2
    ),
    st.lists(
        st.fixed_dictionaries({"subnet_id": st.sampled_from(_TEXTS), "ip_address": st.sampled_from(_TEXTS)}), max_size=2
    ),
    st.lists(
        st.fixed_dictionaries({"ip_address": st.sampled_from(_TEXTS), "mac_address": st.sampled_from(_TEXTS)}),
        max_size=2,
    ),
    st.fixed_dictionaries(
        {
            "network_id": st.sampled_from(_TEXTS),
            "external_fixed_ips": st.just([{"subnet_id": "se", "ip_address": "::"}]),
        }
    ),
)


def test_a_pair_that_cannot_be_keeps_no_group_with_its_port() -> None:
    state = routed()
    known = state.document("ports", "p1")
    assert known is not None
    body = {**msgspec.json.decode(known.body), "allowed_address_pairs": [{"ip_address": ""}], "security_groups": []}
    state = tell(state, neutron.change(state, documents.post(state, "ports", [body])))
    assert state.ports["p1"].groups == ()
    assert "g1" not in forget(state, "security-groups", "g1").security_groups


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_said_is_refused_with_a_word_or_kept(data: st.DataObject) -> None:
    state = say(routed(), "bgpvpns", "v1", route_distinguishers=["1:1"], routers=["r1"])
    state = say(state, "security-group-rules", "x1", security_group_id="g1", direction="ingress")
    words = []
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(sorted(documents.KINDS)))
        names = [field.encode_name for field in msgspec.structs.fields(documents.KINDS[kind].body)]
        wrong = {name: data.draw(_VALUES) for name in data.draw(st.lists(st.sampled_from(names), max_size=4))}
        held = sorted(state.documents.get(kind, ())) or ["new"]
        name = data.draw(st.sampled_from([*held, "new"]))
        known = state.document(kind, name)
        body = {**(msgspec.json.decode(known.body) if known is not None else {}), **wrong, "id": name}
        try:
            state = tell(state, neutron.change(state, documents.post(state, kind, [body])))
        except UserError as error:
            words.append(str(error))
    for each in reversed(documents.KINDS):
        for left in sorted(state.documents.get(each, ())):
            if state.document(each, left) is not None:
                state = forget(state, each, left)
    assert not [fact for fact in facts(state) if not isinstance(fact, Cursor | Retired)]
    assert all(words)


def test_edits_of_one_fact_are_one() -> None:
    one, two, three = (Network("n", 1, 1, mtu) for mtu in (1000, 1100, 1200))
    steps: list[tuple[list[tuple[Fact | None, Fact | None]], list[tuple[Fact | None, Fact | None]]]] = [
        ([(one, two), (two, three)], [(one, three)]),
        ([(one, two), (two, one)], []),
        ([(None, one), (one, None)], []),
        ([(one, None), (None, one)], []),
        ([(None, one), (one, two)], [(None, two)]),
    ]
    for given_edits, wanted in steps:
        assert [tuple(edit) for edit in neutron.fused(Edit(*edit) for edit in given_edits)] == wanted
