"""What is made, changed and deleted in Neutron arrives at the controller, and leaves it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from deployment import KINDS, Deployment, Refused

from tests.project import extensions

pytestmark = pytest.mark.lab
OUTSIDE = {"router:external": True, "provider:network_type": "flat", "provider:physical_network": "physnet1"}


def test_each_kind_arrives_changes_and_leaves(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    outside = neutron.make_one("networks", **OUTSIDE)["id"]
    neutron.make_one("subnets", network_id=outside, ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False)
    network, subnet = running.network()
    group = neutron.make_one("security-groups", name="web")["id"]
    rule = neutron.make_one(
        "security-group-rules",
        security_group_id=group,
        direction="ingress",
        protocol="tcp",
        port_range_min=80,
        port_range_max=80,
    )["id"]
    port = running.port(network, security_groups=[group])
    router = neutron.make_one("routers", name="r", external_gateway_info={"network_id": outside})["id"]
    neutron.ask("PUT", f"routers/{router}/add_router_interface", {"subnet_id": subnet})
    floating = neutron.make_one("floatingips", floating_network_id=outside, port_id=port["id"])
    assert floating["status"] == "ACTIVE"
    running.wait_told()
    assert all(controller.told(kind) for kind in KINDS)
    assert controller.told("floatingips")[floating["id"]]["port_id"] == port["id"]
    assert controller.told("security-group-rules")[rule]["port_range_min"] == 80

    neutron.change("networks", network, name="other")
    neutron.change("subnets", subnet, dns_nameservers=["9.9.9.9"])
    neutron.change("ports", port["id"], allowed_address_pairs=[{"ip_address": "10.1.0.99"}])
    neutron.change("security-groups", group, name="db")
    way = {"destination": "10.9.0.0/16", "nexthop": "10.1.0.7"}
    neutron.change("routers", router, routes=[way])
    assert neutron.change("floatingips", floating["id"], port_id=None)["status"] == "DOWN"
    assert neutron.one("floatingips", floating["id"])["status"] == "DOWN"
    running.wait_told()
    assert controller.told("networks")[network]["name"] == "other"
    assert controller.told("subnets")[subnet]["dns_nameservers"] == ["9.9.9.9"]
    assert controller.told("ports")[port["id"]]["allowed_address_pairs"][0]["ip_address"] == "10.1.0.99"
    assert controller.told("routers")[router]["routes"] == [way]
    assert not controller.told("floatingips")[floating["id"]]["port_id"]

    assert neutron.change("floatingips", floating["id"], port_id=port["id"])["status"] == "ACTIVE"
    neutron.delete("ports", port["id"])
    assert neutron.one("floatingips", floating["id"])["status"] == "DOWN", "its port is gone"
    running.wait_told()
    assert not controller.told("floatingips")[floating["id"]]["port_id"]
    neutron.delete("floatingips", floating["id"])
    neutron.delete("security-group-rules", rule)
    running.wait_told()
    running.clear()
    running.wait_told()
    assert not any(controller.told(kind) for kind in KINDS)
    assert not controller.ask("GET", "/api/v1/networks")["networks"]


def test_rules_go_with_the_group_that_they_let_in(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    web, db = (neutron.make_one("security-groups", name=name)["id"] for name in ("web", "db"))
    rule = neutron.make_one(
        "security-group-rules", security_group_id=db, direction="ingress", remote_group_id=web, ethertype="IPv4"
    )["id"]
    running.wait_told()
    assert rule in controller.told("security-group-rules")
    neutron.delete("security-groups", web)
    running.wait_told()
    assert rule not in controller.told("security-group-rules")


def test_an_ipv6_subnet_takes_its_addresses_with_it(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, _ = running.network()
    modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    subnet = neutron.make_one("subnets", network_id=network, ip_version=6, cidr="2001:db8:1::/64", **modes)["id"]
    port = running.port(network)["id"]
    running.wait_told()
    assert len(controller.told("ports")[port]["fixed_ips"]) == 2
    neutron.delete("subnets", subnet)
    running.wait_told()
    assert len(controller.told("ports")[port]["fixed_ips"]) == 1


@pytest.mark.parametrize(
    ("kind", "said", "words"),
    [
        ("networks", {"provider:network_type": "vlan", "provider:physical_network": "physnet1"}, "vxlan"),
        ("networks", {"provider:network_type": "flat", "provider:physical_network": "physnet1"}, "vxlan"),
        ("networks", {"router:external": True}, "flat or vlan"),
        ("security-groups", {"stateful": False}, "stateful"),
        ("networks", {"segments": [{"provider:network_type": "vxlan"}]}, "segments"),
    ],
)
def test_what_is_not_served_is_refused(running: Deployment, kind: str, said: dict[str, object], words: str) -> None:
    with pytest.raises(Refused) as refused:
        running.neutron.make_one(kind, **said)
    assert refused.value.status == 400
    assert words in refused.value.words
    assert [each for each in running.neutron.all(kind).values() if each["name"] != "default"] == []


def test_what_does_not_go_with_what_is_there_is_refused(running: Deployment) -> None:
    neutron = running.neutron
    network, _ = running.network()
    four = {"network_id": network, "ip_version": 4, "cidr": "10.2.0.0/24"}
    six = {"network_id": network, "ip_version": 6, "cidr": "fd00:1::/64"}
    slaac = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
    stateful = {"ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"}
    outside = neutron.make_one("networks", **OUTSIDE)["id"]
    neutron.make_one("subnets", network_id=outside, ip_version=4, cidr="203.0.113.0/24")
    neutron.make_one("subnets", **{**six, **slaac})
    router, group = neutron.make_one("routers")["id"], neutron.make_one("security-groups", name="web")["id"]
    rule = {"security_group_id": group, "direction": "ingress", "port_range_min": 5, "port_range_max": 6}
    ways = [{"destination": "fd00:9::/64", "nexthop": "fd00:1::9"}]
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: neutron.make_one("subnets", **{**four, "enable_dhcp": False}), "the same in all IPv4 subnets"),
        (lambda: neutron.make_one("subnets", **{**six, "cidr": "fd00:2::/64", **stateful}), "another IPv6 mode"),
        (
            lambda: neutron.make_one("subnets", **{**six, **slaac, "cidr": "fd00:2::/64", "host_routes": ways}),
            "host routes",
        ),
        (lambda: neutron.make_one("subnets", **{**four, "network_id": outside}), "a second IPv4 subnet"),
        (lambda: neutron.change("networks", network, admin_state_up=False), "admin_state_up false of networks"),
        (lambda: neutron.change("routers", router, admin_state_up=False), "admin_state_up false of routers"),
        (lambda: neutron.make_one("security-group-rules", protocol="dccp", **rule), "ports of dccp"),
    ]
    for asks, words in refused:
        with pytest.raises(Refused, match=words) as caught:
            asks()
        # Of what is refused about rules Neutron makes a conflict.
        assert caught.value.status == (409 if "dccp" in words else 400)
    assert len(neutron.all("subnets")) == 3
    neutron.make_one("subnets", **{**six, "cidr": "fd00:2::/64", **slaac})
    neutron.make_one("security-group-rules", protocol="sctp", **rule)
    running.wait_told()


def test_neutron_allocates_a_topology_by_itself(running: Deployment) -> None:
    neutron = running.neutron
    outside = neutron.make_one("networks", **OUTSIDE, is_default=True)["id"]
    neutron.make_one("subnets", network_id=outside, ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False)
    neutron.make_one(
        "subnetpools", name="pool", prefixes=["10.20.0.0/16"], default_prefixlen=24, is_default=True, shared=True
    )
    made = neutron.ask("GET", "auto-allocated-topology/p1")["auto_allocated_topology"]["id"]
    try:
        running.wait_told()
        assert running.controller.told("networks")[made]["admin_state_up"]
    finally:
        neutron.ask("DELETE", "auto-allocated-topology/p1")
        (pool,) = neutron.all("subnetpools")
        neutron.delete("subnetpools", pool)


def test_what_is_not_served_is_not_announced(running: Deployment) -> None:
    announced = {each["alias"] for each in running.neutron.ask("GET", "extensions")["extensions"]}
    assert announced == extensions.announced(extensions.WITH_THE_DRIVER)


def test_a_rule_with_an_address_group_is_refused(running: Deployment) -> None:
    neutron = running.neutron
    group = neutron.make_one("security-groups", name="web")["id"]
    addresses = neutron.address_group()
    said = {"security_group_id": group, "direction": "ingress", "remote_address_group_id": addresses}
    with pytest.raises(Refused, match="not served by Ebbtide: use prefixes"):
        neutron.make_one("security-group-rules", **said)
