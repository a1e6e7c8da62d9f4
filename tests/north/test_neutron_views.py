"""What networking-odl reads: hosts are computes that are ready and stay; a port is active when all that need it have confirmed it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ebbtide.errors import NotFound
from ebbtide.model.facts import (
    Binding,
    BindingPhase,
    Document,
    Fact,
    Membership,
    Port,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
)
from ebbtide.model.observed import Datapath, Phase, View
from ebbtide.model.state import State
from ebbtide.north import neutron_views, tree
from ebbtide.north.neutron_views import Host
from tests.fakes.clouds import compute, leg, network, port, router, state

NOVA = compute(1, hostname="host-1", provider_mappings=(("physnet1", "br-ex"),))
NAMED, MARKED, NEW = compute(2, hostname="host-2", nova_host="nova-2"), compute(3, tombstoned=True), compute(4)
KERNEL = View(datapath=Datapath(kind="system"))


def read(known: State, hosts: dict[int, Host], path: str, *, old: bool = True) -> Any:
    trees = neutron_views.trees(known, lambda number: hosts.get(number, Host()))
    return tree.envelope(tree.locate(trees, tree.steps(path), old), old)


def ready(applied: int = 1, *, makes: bool = True) -> Host:
    """`makes`: its switch has made the interfaces that are plugged there, and has their flows."""
    return Host(KERNEL, True, Phase.READY, applied, lambda name: makes)


def test_hosts_are_ready_computes_and_nothing_is_allowed_on_those_that_leave() -> None:
    hosts = {1: ready(), 2: ready(), 4: Host(KERNEL, True, Phase.RECONCILED)}
    known = state(NOVA, NAMED, MARKED, NEW)
    found = read(known, hosts, "neutron:neutron/hostconfigs/")["hostconfigs"]["hostconfig"]
    assert [each["host-id"] for each in found] == ["host-1", "nova-2", "c3"]
    assert {each["host-type"] for each in found} == {"ODL L2"}
    allowed = [json.loads(each["config"])["allowed_network_types"] for each in found]
    assert allowed == [["vxlan"], ["vxlan"], []], "c3 leaves, whether it is seen or not"
    assert list(neutron_views.served(known, lambda number: hosts.get(number, Host()))) == ["host-1", "nova-2"]
    assert json.loads(found[0]["config"]) == {
        "supported_vnic_types": [
            {
                "vnic_type": "normal",
                "vif_type": "ovs",
                "vif_details": {"port_filter": True, "ovs_hybrid_plug": False},
            }
        ],
        "allowed_network_types": ["vxlan"],
        "bridge_mappings": {"physnet1": "br-ex"},
        "datapath_type": "system",
    }
    one = read(known, hosts, "neutron:neutron/neutron:hostconfigs/hostconfig/nova-2/ODL%20L2")
    assert one == {"hostconfig": [found[1]]}
    new = read(known, hosts, "neutron:neutron/hostconfigs/hostconfig=nova-2,ODL%20L2", old=False)
    assert new == {"neutron:hostconfig": [found[1]]}
    for gone in ("hostconfigs/hostconfig/c4/ODL%20L2", "hostconfigs/hostconfig/host-2/ODL%20L2"):
        with pytest.raises(NotFound):
            read(known, hosts, f"neutron:neutron/{gone}")


def test_a_host_leaves_when_all_of_its_computes_do() -> None:
    gone = compute(5, hostname="host-5", membership=Membership.REMOVED)
    again = compute(6, hostname="host-1", membership=Membership.REMOVED)
    assert neutron_views.fleet(state(NOVA, NAMED, MARKED, gone, again)) == ({"host-1", "nova-2"}, {"c3", "host-5"})


def document(name: str, **said: Any) -> Document:
    body = {"id": name, "network_id": "n1", "mac_address": "02:00:00:00:00:01", **said}
    return Document("ports", name, json.dumps(body))


def status(hosts: dict[int, Host], *more: Fact, name: str = "p1") -> str:
    """Of a port of n1 on c1, where c2 has a port too."""
    other = port(2, 1)
    cloud = state(compute(1), compute(2), compute(3), network(1), network(2), document(name), other, *more)
    known = [fact for fact in more if isinstance(fact, Binding) and fact.port == other.id]
    assert not known
    (found,) = read(cloud, hosts, f"neutron:neutron/ports/port/{name}")["port"]
    assert found["uuid"] == name
    return str(found["status"])


P1 = port(1, 1)
AT = Binding(P1.id, 1, BindingPhase.ACTIVE, since=7)
NEAR = port(5, 1)
NEAR_AT = Binding(NEAR.id, 2, BindingPhase.ACTIVE, since=3)


def test_a_port_is_active_once_it_is_plugged_and_all_that_send_to_it_have_confirmed() -> None:
    assert status({1: ready(9)}, P1) == "DOWN", "it is plugged nowhere"
    assert status({1: ready(9)}, P1, Binding(P1.id, 1, BindingPhase.PENDING, since=7)) == "DOWN"
    assert status({1: ready(6)}, P1, AT) == "DOWN"
    assert status({1: ready(7, makes=False)}, P1, AT) == "DOWN", "its tap is not there yet, so it has no flows"
    assert status({1: ready(7)}, P1, AT) == "ACTIVE"
    assert status({1: ready(7), 2: ready(6)}, P1, AT, NEAR, NEAR_AT) == "DOWN"
    assert status({1: ready(7), 2: ready(7)}, P1, AT, NEAR, NEAR_AT) == "ACTIVE"
    away = Host(KERNEL, False, Phase.READY, 6)
    assert status({1: ready(7), 2: away}, P1, AT, NEAR, NEAR_AT) == "ACTIVE", "who cannot be heard is not waited for"
    assert status({1: away, 2: ready(7)}, P1, AT, NEAR, NEAR_AT) == "DOWN", "but for its own compute"
    assert status({1: ready(7), 3: ready(6)}, P1, AT) == "ACTIVE", "c3 has nothing to do with it"


def test_who_reaches_a_port_by_a_router_or_lets_its_group_in_is_waited_for_too() -> None:
    far = port(6, 2)
    far_at = Binding(far.id, 3, BindingPhase.ACTIVE, since=3)
    routed = (router(1), leg(1, 1), leg(1, 2), far, far_at)
    assert status({1: ready(7), 3: ready(6)}, P1, AT, *routed) == "DOWN"
    assert status({1: ready(7), 3: ready(7)}, P1, AT, *routed) == "ACTIVE"
    grouped = port(1, 1, secured=True, groups=("g1",))
    asking = port(6, 2, secured=True, groups=("g2",))
    lets = SecurityRule("x", "g2", True, 4, remote="g1")
    more = (SecurityGroup("g1", 1), SecurityGroup("g2", 2), lets, grouped, AT, asking, far_at)
    assert status({1: ready(7), 3: ready(6)}, *more) == "DOWN"
    assert status({1: ready(7), 3: ready(7)}, *more) == "ACTIVE"


@pytest.mark.parametrize(
    ("bound", "hosts", "told"),
    [
        (None, ["a"], "ACTIVE"),
        ("a", ["a"], "ACTIVE"),
        ("b", ["a", "b"], "ACTIVE"),
        ("b", ["a"], "DOWN"),
        ("", ["a"], "DOWN"),
        ("a", [], "ACTIVE"),
    ],
)
def test_a_port_is_active_where_neutron_has_bound_it(bound: str | None, hosts: list[str], told: str) -> None:
    said = {} if bound is None else {"binding:host_id": bound}
    known = state(network(1), document("p1", **said))
    assert neutron_views.at_its_host(known, "p1", "ACTIVE", hosts) == told
    assert neutron_views.at_its_host(known, "p1", "DOWN", []) == "DOWN"
    assert neutron_views.at_its_host(known, "p1", "BUILD", hosts) == "", "nothing is to be said yet"
    assert neutron_views.at_its_host(known, "p2", "ACTIVE", hosts) == "", "of which Neutron has not spoken"


def test_a_routers_port_is_active_where_the_router_is() -> None:
    def place(**said: Any) -> str:
        places = document("i1", device_id="r1", **said)
        known = state(
            network(1), Router("r1", 1, 2, "ext"), RouterPort("r1", "n1", "10.1.0.1", "10.1.0.0/24", 5), places
        )
        return str(read(known, {}, "neutron:neutron/ports/port/i1")["port"][0]["status"])

    at, elsewhere = ([{"subnet_id": "s", "ip_address": text}] for text in ("10.1.0.1", "10.1.0.2"))
    assert place(device_owner="network:router_interface", fixed_ips=at) == "ACTIVE"
    assert place(device_owner="network:router_interface", fixed_ips=elsewhere) == "DOWN"
    assert place(device_owner="network:router_interface") == "DOWN"
    assert place(device_owner="network:router_gateway", network_id="ext") == "ACTIVE"
    assert place(device_owner="network:router_gateway", network_id="other") == "DOWN"
    assert place(device_owner="network:floatingip") == "DOWN"


def test_a_port_of_which_neutron_has_not_spoken_is_none() -> None:
    known = state(network(1), Port("hand-made", "n1", 1, 1), document("said"))
    assert [each["uuid"] for each in read(known, {}, "neutron:neutron/ports")["ports"]["port"]] == ["said"]
    with pytest.raises(NotFound):
        read(known, {}, "neutron:neutron/ports/port/hand-made")
