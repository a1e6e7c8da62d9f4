"""Secured ports behind routers: NAT, floating IPs, pings to the gateway, hidden addresses and DHCP work with port security as without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.lab import Vm
from tests.isolation.test_groups import IN_VAIN, allow, both_ways, connection, opens, secure
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, LAG, NEXT_HOP, Host, gateway_of, outside, route, settle, wait_served
from tests.tenants.test_dhcp import DISCOVER, OFFER, REQUEST, ask

pytestmark = pytest.mark.lab
SNAT, FLOATING = "203.0.113.10", "203.0.113.21"


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud(lag=LAG)


@pytest.fixture(autouse=True)
def outer(cloud: Cloud) -> Host:
    """The next hop of "out". a, b, c have a cable there; vm1 on a and vm2 on b are in blue (with DHCP), vm3 on b in red; r1 is in both. All
    VMs are secured."""
    host = outside(cloud, "a", "b", "c")
    cloud.call(cloud.service.add_network("blue", ["10.1.0.0/24"], dhcp=True))
    cloud.add_network("red", "10.2.0.0/24")
    route(cloud, "r1", "blue", "red", outside="out", addresses=[SNAT])
    for index, (compute, network) in enumerate((("a", "blue"), ("b", "blue"), ("b", "red")), 1):
        cloud.add_vm(f"vm{index}", compute, network, index, gateway=GATEWAY)
    wait_served(cloud, "r1")
    for index in (1, 2, 3):
        secure(cloud, f"vm{index}", *groups(cloud))
    return host


def groups(cloud: Cloud) -> tuple[str, ...]:
    allow(cloud, "out", False)
    allow(cloud, "web", True, protocol="tcp", ports="80")
    return ("out", "web")


def test_to_the_gateway_between_networks_and_outside(cloud: Cloud) -> None:
    vm1, vm2, vm3 = (cloud.lab.vm(f"vm{n}") for n in (1, 2, 3))
    assert vm1.ping(f"10.1.0.{GATEWAY}", count=3).received == 3, "the router turns each request round, in the same zone"
    assert vm1.ping(f"10.2.0.{GATEWAY}", count=3).received == 3
    assert opens(vm1, vm3)
    assert opens(vm3, vm2)
    assert not opens(vm3, vm2, 81)
    assert not vm1.ping(vm3.ip, deadline=IN_VAIN).received
    for vm in (vm1, vm2, vm3):
        assert vm.reaches(NEXT_HOP), "out by the NAT, and back without a rule"


def test_a_floating_ip_is_let_in_by_a_rule_and_by_nothing_else(cloud: Cloud, outer: Host) -> None:
    vm1 = cloud.lab.vm("vm1")
    cloud.call(cloud.service.add_floating("out", FLOATING, "vm1"))
    settle(cloud)
    with vm1.listen(80) as listener, outer.connect(FLOATING, 80) as near:
        listener.settimeout(5)
        far, _ = listener.accept()
        with far:
            assert both_ways(near, far)
    assert not outer.ping(FLOATING, deadline=IN_VAIN).received
    assert vm1.reaches(NEXT_HOP)
    allow(cloud, "web", True, protocol="icmp")
    settle(cloud)
    assert outer.reaches(FLOATING)


def test_connections_outlive_the_scale_in_of_their_gateway(cloud: Cloud, outer: Host) -> None:
    vm1 = cloud.lab.vm("vm1")
    with outer.listen(9000) as listener, vm1.connect(NEXT_HOP, 9000) as near:
        listener.settimeout(5)
        far, _ = listener.accept()
        with far:
            assert both_ways(near, far)
            old = gateway_of(cloud, "r1")
            cloud.call(cloud.service.start([old]))
            cloud.wait(lambda: gateway_of(cloud, "r1") != old, what="moved")
            cloud.wait(lambda: not cloud.controller.app.cluster.state.moves, 60, "the move over")
            assert both_ways(near, far)
    cloud.assert_clean()


def test_a_hidden_address_answers_if_a_pair_covers_it(cloud: Cloud) -> None:
    vm1, vm3 = cloud.lab.vm("vm1"), cloud.lab.vm("vm3")
    allow(cloud, "web", True, protocol="icmp")
    vm3.exec(["ip", "addr", "add", "10.2.0.100/24", "dev", "eth0"])
    settle(cloud)
    assert not vm1.ping("10.2.0.100", count=3, deadline=1.5).received
    assert not cloud.controller.app.cluster.state.learnt_in("red")
    secure(cloud, "vm3", "out", "web", pairs=[("10.2.0.96/28", "")])
    assert vm1.reaches("10.2.0.100", deadline=20)
    with connection_to(vm1, vm3, "10.2.0.100") as (near, far):
        assert both_ways(near, far)
    secure(cloud, "vm3", "out", "web", pairs=[])
    assert not cloud.controller.app.cluster.state.learnt_in("red"), "what it may not speak from is forgotten"
    assert not vm1.ping("10.2.0.100", count=3, deadline=1.5).received


def connection_to(client: Vm, server: Vm, address: str) -> Any:
    """A connection to another of the server's addresses."""
    other = object.__new__(Vm)
    other.__dict__.update(server.__dict__)
    other.ip = address
    return connection(client, other)


def test_a_lease_is_given_to_who_is_secured_and_in_no_group(cloud: Cloud) -> None:
    secure(cloud, "vm2")
    vm2 = cloud.lab.vm("vm2")
    offered = ask(vm2, DISCOVER)
    assert offered is not None
    address, told = offered
    assert (address, told[53]) == ("10.1.0.2", bytes([OFFER]))
    assert ask(vm2, REQUEST, (50, bytes([10, 1, 0, 2])), (54, told[54])) is not None
    assert not vm2.ping(f"10.1.0.{GATEWAY}", deadline=IN_VAIN).received, "and nothing else goes"
