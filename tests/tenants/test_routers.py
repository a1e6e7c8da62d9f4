"""Routers on real switches: the VM's own compute routes, answers for the gateway, and tells who has sent too far."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.errors import Refused
from ebbtide.lab import packets, wait_until
from ebbtide.model.facts import format_mac
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, LAG, Answers, burst, hop, route, seen, settle

pytestmark = pytest.mark.lab


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b; networks blue (vm1 on a, vm2 on b) and red (vm3 on a, vm4 on b); router r1 in both."""
    cloud = make_cloud(lag=LAG)
    cloud.add_computes("a", "b")
    for number, network in enumerate(("blue", "red"), 1):
        cloud.add_network(network, f"10.{number}.0.0/24")
    route(cloud, "r1", "blue", "red")
    for index, (compute, network) in enumerate((("a", "blue"), ("b", "blue"), ("a", "red"), ("b", "red")), 1):
        cloud.add_vm(f"vm{index}", compute, network, index, gateway=GATEWAY)
    cloud.wait_ready()
    cloud.wait_clean()
    return cloud


def test_subnets_meet_on_one_compute_and_on_two(cloud: Cloud) -> None:
    for source in ("vm1", "vm2", "vm3", "vm4"):
        for target in cloud.lab.vms():
            assert cloud.lab.vm(source).reaches(target.ip), (source, target)
    with cloud.lab.vm("vm4").packets() as ear:
        cloud.lab.vm("vm1").ping("10.2.0.4")
        frame = ear.receive(lambda f: f[12:14] == b"\x08\x00")
    assert frame[22] == 63  # one hop, wherever the VMs are
    assert packets.mac_text(frame[6:12]) == cloud.lab.vm("vm4").exec(["ip", "neigh", "show", "10.2.0.254"]).split()[4]
    assert cloud.lab.vm("vm1").ping("10.2.0.4", count=3, size=1450 - 28).lost == 0
    cloud.assert_clean()


def test_the_gateway_is_answered_for_by_the_switch_alone(cloud: Cloud) -> None:
    """ARP and ping, of the own network's address and the other's, with the controller stopped."""
    cloud.controller.stop()
    for name in ("vm1", "vm4"):
        vm = cloud.lab.vm(name)
        vm.exec(["ip", "neigh", "flush", "all"])
        for address in ("10.1.0.254", "10.2.0.254"):
            assert vm.ping(address, count=2).lost == 0, (name, address)
    assert cloud.lab.vm("vm1").ping("10.2.0.4", count=2).lost == 0


def test_traceroute_shows_the_router_and_then_the_end(cloud: Cloud) -> None:
    for source, own, target in (("vm1", "10.1.0.254", "10.2.0.4"), ("vm4", "10.2.0.254", "10.1.0.1")):
        assert [hop(cloud.lab.vm(source), target, ttl) for ttl in (1, 2)] == [own, f"{target}!"]


def test_a_flood_of_packets_that_expire_is_answered_at_a_bounded_rate(cloud: Cloud) -> None:
    answers, took = burst(cloud.lab.vm("vm1"), "10.2.0.4", 3000)
    assert 0 < answers <= 100 * (took + 2)
    assert hop(cloud.lab.vm("vm3"), "10.1.0.1", 2) == "10.1.0.1!"
    wait_until(lambda: hop(cloud.lab.vm("vm1"), "10.2.0.4", 1) == "10.1.0.254", "the meter to let one pass again")


def test_routers_with_the_same_addresses_behind_them_never_meet(cloud: Cloud) -> None:
    for number, network in enumerate(("blue2", "red2"), 1):
        cloud.add_network(network, f"10.{number}.0.0/24")
    route(cloud, "r2", "blue2", "red2")
    twin1 = cloud.add_vm("twin1", "a", "blue2", 1, gateway=GATEWAY)
    twin4 = cloud.add_vm("twin4", "b", "red2", 4, gateway=GATEWAY)
    cloud.wait_clean()
    with Answers() as answers:
        for end in (cloud.lab.vm("vm4"), twin4, cloud.lab.vm("vm3")):
            answers.serve(end)
        assert seen(cloud.lab.vm("vm1"), "10.2.0.4") == ("vm4", "10.1.0.1")
        assert seen(twin1, "10.2.0.4") == ("twin4", "10.1.0.1")
        assert not twin1.ping("10.2.0.3", deadline=0.5).received  # that one is r1's
    cloud.assert_clean()


def test_an_extra_route_leads_through_a_vm(cloud: Cloud) -> None:
    vm = cloud.lab.vm("vm4")
    vm.exec(["ip", "addr", "add", "10.9.0.1/32", "dev", "lo"])
    far = cloud.lab.vm("vm1")
    assert not far.ping("10.9.0.1", deadline=0.3).received
    cloud.call(cloud.service.set_router("r1", routes=["10.9.0.0/16 via 10.2.0.4"]))
    settle(cloud)
    assert far.ping("10.9.0.1", count=3).lost == 0
    cloud.migrate("vm4", "a")
    assert far.reaches("10.9.0.1")
    cloud.call(cloud.service.set_router("r1", routes=[]))
    settle(cloud)
    assert not far.ping("10.9.0.1", deadline=0.3).received
    cloud.assert_clean()


def test_a_network_with_two_subnets_has_a_gateway_in_each(cloud: Cloud) -> None:
    cloud.call(cloud.service.add_network("wide", ["10.5.0.0/24", "10.6.0.0/24"]))
    for base in ("10.5.0", "10.6.0"):
        cloud.call(cloud.service.attach("r1", "wide", f"{base}.254"))
        mac = f"02:00:00:00:05:{base[3]}1"
        cloud.call(cloud.service.add_port(f"in {base}"[3:], "wide", mac, [f"{base}.1"]))
        cloud.lab.add_vm(f"w{base[3]}", "b", mac, f"{base}.1/24", f"in {base}"[3:], gateway=f"{base}.254")
    cloud.wait(lambda: len(cloud.controller.app.cluster.state.bindings) == 6, what="both bound")
    cloud.wait_clean()
    assert cloud.lab.vm("w5").ping("10.6.0.1", count=2).lost == 0
    assert hop(cloud.lab.vm("w5"), "10.1.0.1", 1) == "10.5.0.254"
    assert hop(cloud.lab.vm("w6"), "10.1.0.1", 1) == "10.6.0.254"
    cloud.assert_clean()
    cloud.restart_controller()
    cloud.wait_ready("a", "b")
    assert [cloud.controller.member(n).resync_flow_mods for n in "ab"] == [0, 0]


def test_a_router_that_comes_and_goes_leaves_nothing(cloud: Cloud) -> None:
    computes = [cloud.lab.compute(name) for name in "ab"]
    cloud.assert_clean()
    before = [(snapshots.flows(c), snapshots.groups(c)) for c in computes]
    cloud.add_network("green", "10.3.0.0/24")
    route(cloud, "r2", "green")
    cloud.add_vm("vm5", "a", "green", 5, gateway=GATEWAY)
    cloud.call(cloud.service.attach("r2", "blue", "10.1.0.253"))
    cloud.wait_clean()
    vm = cloud.lab.vm("vm5")
    cloud.lab.vm("vm2").exec(["ip", "route", "add", "10.3.0.0/24", "via", "10.1.0.253"])
    assert vm.reaches("10.1.0.2")
    assert [snapshots.flows(c) for c in computes] != [flows for flows, _ in before]
    cloud.call(cloud.service.detach("r2", "blue"))
    settle(cloud)
    assert not vm.ping("10.1.0.2", deadline=0.3).received
    cloud.lab.remove_vm("vm5")
    cloud.call(cloud.service.delete_port("vm5"))
    cloud.call(cloud.service.detach("r2", "green"))
    cloud.call(cloud.service.delete_network("green"))
    cloud.call(cloud.service.delete_router("r2"))
    cloud.assert_clean()
    assert [(snapshots.flows(c), snapshots.groups(c)) for c in computes] == before


def test_subnets_meet_where_no_network_of_the_two_is_on_both_computes(cloud: Cloud) -> None:
    """A tunnel because of the router alone; it goes with the router."""
    for name in ("vm2", "vm3"):
        cloud.lab.remove_vm(name)
        cloud.call(cloud.service.delete_port(name))
    cloud.wait_clean()
    assert cloud.lab.vm("vm1").reaches("10.2.0.4")
    cloud.assert_clean()
    cloud.call(cloud.service.detach("r1", "red"))
    settle(cloud)
    for name in "ab":
        wait_until(lambda n=name: not snapshots.tunnels(cloud.lab.compute(n)), f"no tunnel at {name}")
    cloud.assert_clean()
    cloud.call(cloud.service.attach("r1", "red", "10.2.0.254"))
    cloud.wait_clean()
    assert cloud.lab.vm("vm4").reaches("10.1.0.1")
    cloud.assert_clean()


def test_a_routed_vm_that_migrates_keeps_all_its_pings(cloud: Cloud) -> None:
    with_two = cloud.lab.vm("vm1")
    assert with_two.reaches("10.2.0.4")
    cloud.migrate("vm4", "a")
    assert with_two.ping("10.2.0.4", count=5).lost == 0
    assert cloud.lab.vm("vm2").ping("10.2.0.4", count=2).lost == 0
    cloud.assert_clean()


def test_a_port_with_the_routers_mac_is_refused(cloud: Cloud) -> None:
    leg = cloud.controller.app.cluster.state.legs["r1"]["blue", "10.1.0.254"]
    with pytest.raises(Refused, match="is that of router r1 in network blue"):
        cloud.call(cloud.service.add_port("thief", "blue", format_mac(leg.mac), ["10.1.0.66"]))


def test_a_router_without_an_able_compute_says_so_and_routes_inside(cloud: Cloud) -> None:
    """No compute here has a cable to the provider network."""
    cloud.call(cloud.service.add_external("out", "physnet1", "203.0.113.0/24", "203.0.113.1"))
    cloud.call(cloud.service.set_router("r1", outside="out", addresses=["203.0.113.10"]))
    settle(cloud)
    told = cloud.call(electable(cloud))
    assert sum("has no provider network physnet1" in line for line in told) >= 1
    assert not cloud.lab.vm("vm1").ping("203.0.113.1", deadline=0.5).received
    assert cloud.lab.vm("vm1").reaches("10.2.0.4")
    cloud.assert_clean()


async def electable(cloud: Cloud) -> list[str]:
    return cloud.service.electable("r1")
