"""L3VPNs on real switches: who reaches whom, who never does, and nothing is left when one goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.outside import LAG, settle

pytestmark = pytest.mark.lab


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b; networks one and two of tenant red, and uno and due of tenant blue with the same addresses. vm1 and uno1 are on a, vm2 and
    due2 on b."""
    cloud = make_cloud(lag=LAG)
    cloud.add_computes("a", "b")
    for name, base in (("one", 1), ("two", 2), ("uno", 1), ("due", 2)):
        cloud.add_network(name, f"10.{base}.0.0/24")
    for name, compute, network, index in (
        ("vm1", "a", "one", 11),
        ("vm2", "b", "two", 12),
        ("uno1", "a", "uno", 11),
        ("due2", "b", "due", 12),
    ):
        cloud.add_vm(name, compute, network, index, gateway=1)
    cloud.wait_ready()
    cloud.wait_clean()
    return cloud


def held(cloud: Cloud) -> dict[str, list[str]]:
    return {compute.name: snapshots.flows(compute) for compute in cloud.lab.computes()}


def vpn(cloud: Cloud, name: str, number: int, *networks: str, target: str = "") -> None:
    targets = [target or f"100:{number}"]
    cloud.call(cloud.service.add_vpn(name, f"100:{number}", targets, targets))
    for network in networks:
        cloud.call(cloud.service.associate_network(name, network))
    settle(cloud)


def test_vpns_with_the_same_addresses_each_reach_their_own_and_leave_nothing(cloud: Cloud) -> None:
    before = held(cloud)
    assert not cloud.lab.vm("vm1").ping("10.2.0.12", deadline=0.3).received
    vpn(cloud, "red", 1, "one", "two")
    assert cloud.lab.vm("vm1").ping("10.2.0.12", count=3).lost == 0
    assert not cloud.lab.vm("uno1").ping("10.2.0.12", deadline=0.3).received
    vpn(cloud, "blue", 2, "uno", "due")
    with cloud.lab.vm("due2").packets() as ear:
        assert cloud.lab.vm("uno1").ping("10.2.0.12", count=3).lost == 0
        assert ear.receive(lambda f: f[12:14] == b"\x08\x00")[22] == 63
    assert cloud.lab.vm("vm1").ping("10.2.0.1", count=2).lost == 0  # its VPN's own address, in the other network
    cloud.assert_clean()
    for name, networks in (("red", ("one", "two")), ("blue", ("uno", "due"))):
        for network in networks:
            cloud.call(cloud.service.dissociate_network(name, network))
        cloud.call(cloud.service.delete_vpn(name))
    settle(cloud)
    assert held(cloud) == before
    cloud.assert_clean()


def test_routes_are_leaked_by_targets_and_taken_back(cloud: Cloud) -> None:
    vpn(cloud, "red", 1, "one", target="100:9")
    vpn(cloud, "blue", 2, "due", target="100:8")
    far = cloud.lab.vm("vm1")
    assert not far.ping("10.2.0.12", deadline=0.3).received
    cloud.call(cloud.service.set_vpn("red", imports=["100:9", "100:8"]))
    cloud.call(cloud.service.set_vpn("blue", imports=["100:9"]))
    settle(cloud)
    assert far.ping("10.2.0.12", count=3).lost == 0
    cloud.migrate("due2", "a")
    assert far.ping("10.2.0.12", count=3).lost == 0
    cloud.call(cloud.service.set_vpn("red", imports=["100:9"]))
    settle(cloud)
    assert not far.ping("10.2.0.12", deadline=0.3).received
    cloud.assert_clean()


def test_a_router_of_a_vpn_reaches_its_networks_and_is_reached(cloud: Cloud) -> None:
    cloud.call(cloud.service.add_router("r1"))
    cloud.call(cloud.service.attach("r1", "two", "10.2.0.1"))
    vpn(cloud, "red", 1, "one")
    assert not cloud.lab.vm("vm1").ping("10.2.0.12", deadline=0.3).received
    cloud.call(cloud.service.associate_router("red", "r1"))
    settle(cloud)
    assert cloud.lab.vm("vm1").ping("10.2.0.12", count=3).lost == 0
    assert cloud.lab.vm("vm2").ping("10.1.0.11", count=3).lost == 0
    cloud.restart_controller()
    cloud.wait_ready("a", "b")
    assert [cloud.controller.member(n).resync_flow_mods for n in "ab"] == [0, 0]
    cloud.call(cloud.service.dissociate_router("red", "r1"))
    settle(cloud)
    assert not cloud.lab.vm("vm1").ping("10.2.0.12", deadline=0.3).received
    cloud.assert_clean()


def test_a_vpn_is_on_a_compute_from_the_first_port_to_the_last(cloud: Cloud) -> None:
    vpn(cloud, "red", 1, "one")
    tag = cloud.controller.app.cluster.state.vpns["red"].tag

    def rows(name: str) -> int:
        return sum(f"metadata=0x{tag << 1:x}/0xfffffe" in line for line in snapshots.flows(cloud.lab.compute(name)))

    assert (rows("a") > 0, rows("b")) == (True, 0)
    cloud.add_vm("late", "b", "one", 7)
    settle(cloud)
    assert rows("b") > 0
    cloud.call(cloud.service.delete_port("late"))
    settle(cloud)
    assert rows("b") == 0
    cloud.assert_clean()
