"""Dual stack on real switches: neighbours are found in the sender's own switch, routers are advertised, and what a router routes in IPv4 it
routes in IPv6, out to the world without NAT."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.lab import Vm
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, LAG, Host, outside, route, settle, wait_served

pytestmark = pytest.mark.lab

NEXT_HOP6, ROUTER6 = "2001:db8:ffff::1", "2001:db8:ffff::10"


def blue(index: int | str) -> str:
    return f"2001:db8:1::{index}"


def red(index: int | str) -> str:
    return f"2001:db8:2::{index}"


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud(lag=LAG)


@pytest.fixture
def outer(cloud: Cloud) -> Host:
    """a, b and c have a cable outside, where the next hop sends what is for our networks to r1's IPv6 address there. vm1 on a and vm2 on b
    are in blue, vm3 on b in red; r1 is in both, in both families."""
    host = outside(cloud, "a", "b", "c")
    for name, number in (("blue", 1), ("red", 2)):
        subnets = [f"10.{number}.0.0/24", f"2001:db8:{number}::/64"]
        cloud.call(cloud.service.add_network(name, subnets))
    cloud.call(
        cloud.service.add_external(
            "out", "physnet1", "203.0.113.0/24", "203.0.113.1", 0, 1500, "2001:db8:ffff::/64", NEXT_HOP6
        )
    )
    route(cloud, "r1", "blue", "red", outside="out", addresses=["203.0.113.10", ROUTER6])
    for index, (compute, network) in enumerate((("a", "blue"), ("b", "blue"), ("b", "red")), 1):
        prefix = blue if network == "blue" else red
        cloud.add_vm(f"vm{index}", compute, network, index, gateway=GATEWAY)
        cloud.call(cloud.service.set_port(f"vm{index}", addresses=[cloud.lab.vm(f"vm{index}").ip, prefix(index)]))
    for network, prefix in (("blue", blue), ("red", red)):
        cloud.call(cloud.service.attach("r1", network, prefix(GATEWAY)))
    host.speak_ipv6(f"{NEXT_HOP6}/64", advertised=False)
    host.exec(["ip", "-6", "route", "add", "2001:db8::/32", "via", ROUTER6])
    wait_served(cloud, "r1")
    for index, prefix in ((1, blue), (2, blue), (3, red)):
        cloud.lab.vm(f"vm{index}").speak_ipv6(f"{prefix(index)}/64")
    return host


def has_router(vm: Vm) -> bool:
    return "default" in vm.exec(["ip", "-6", "route", "show", "default"])


def wait_router(cloud: Cloud, *vms: Vm) -> None:
    cloud.wait(lambda: all(has_router(vm) for vm in vms), 10, "a router advertised")


def test_a_guest_finds_its_router_its_neighbours_and_the_world(cloud: Cloud, outer: Host) -> None:
    vm1, vm2, vm3 = (cloud.lab.vm(f"vm{n}") for n in (1, 2, 3))
    wait_router(cloud, vm1, vm2, vm3)
    assert vm1.reaches(blue(2)), "a neighbour"
    assert vm1.reaches(blue(GATEWAY)), "the router's own address, answered in the switch"
    assert vm1.reaches(red(3)), "by way of the router"
    cloud.wait(lambda: ("out", NEXT_HOP6) in cloud.controller.app.cluster.state.neighbours, what="the next hop known")
    settle(cloud)
    assert vm1.reaches(NEXT_HOP6), "the world, untranslated"
    assert outer.reaches(blue(2)), "and from there"
    with vm3.listen(80, "::") as listener, outer.connect(red(3), 80) as near:
        listener.settimeout(5)
        far, peer = listener.accept()
        assert peer[0] == NEXT_HOP6
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        far.close()
