"""Floating IPs on real switches: at the VM's own compute where it has the wire, else at the designated one; they go where the VM goes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ebbtide.lab import Vm, packets, wait_until
from ebbtide.lab.vm import PingResult
from ebbtide.model.facts import format_mac
from tests.support.cloud import Cloud
from tests.support.outside import (
    GATEWAY,
    LAG,
    NEXT_HOP,
    PHYSICAL,
    Answers,
    Host,
    asked,
    assert_well,
    bridge,
    gateway_of,
    outside,
    patches,
    route,
    seen,
    settle,
    speaking,
    wait_served,
)
from tests.support.second_search import left_of

pytestmark = pytest.mark.lab
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
SNAT, ONE, TWO = "203.0.113.10", "203.0.113.21", "203.0.113.22"


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud(lag=LAG)


@pytest.fixture
def host(cloud: Cloud) -> Host:
    """The next hop of "out"; a, b and c have a cable to it, d has none. vm1 on a, vm2 on b, vm3 on c, behind router r1."""
    host = outside(cloud, "a", "b", "c")
    cloud.add_computes("d")
    cloud.add_network("blue", "10.1.0.0/24")
    route(cloud, "r1", "blue", outside="out", addresses=[SNAT])
    for index, compute in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", compute, "blue", index, gateway=GATEWAY)
    wait_served(cloud, "r1")
    return host


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers() as made:
        yield made


def give(cloud: Cloud, address: str, port: str) -> None:
    cloud.call(cloud.service.add_floating("out", address, port))
    settle(cloud)


def mac_of(cloud: Cloud, address: str) -> str:
    return format_mac(cloud.controller.app.cluster.state.floatings["out", address].mac)


def elsewhere(cloud: Cloud) -> tuple[str, Vm]:
    """A compute that does not serve the router's NAT, and the VM on it."""
    gateway = gateway_of(cloud, "r1")
    return next((name, cloud.lab.vm(f"vm{n}")) for n, name in enumerate("abc", 1) if name != gateway)


@contextmanager
def pinged(host: Host, address: str) -> Iterator[list[PingResult]]:
    """A ping from outside all the time, fifty a second."""
    found: list[PingResult] = []
    over = threading.Event()

    def ping() -> None:
        while not over.is_set():
            found.append(host.ping(address, count=10, interval=0.02, deadline=1.0))

    runner = threading.Thread(target=ping)
    runner.start()
    try:
        wait_until(lambda: bool(found), "the first pings")
        yield found
    finally:
        over.set()
        runner.join()


def test_a_floating_ip_is_at_the_vms_own_compute_and_needs_no_tunnel(
    cloud: Cloud, host: Host, answers: Answers
) -> None:
    where, vm = elsewhere(cloud)
    answers.serve(vm)
    answers.serve(host)
    with host.packets() as ear:
        give(cloud, ONE, vm.name)
        told = ear.receive(lambda f: f[12:14] == b"\x08\x06" and f[28:32] == packets.ip_bytes(ONE) == f[38:42])
    assert packets.mac_text(told[22:28]) == packets.mac_text(told[6:12]) == mac_of(cloud, ONE)
    cloud.lab.compute(where).cut_data()
    for kind in KINDS:
        assert seen(host, ONE, kind) == (vm.name, NEXT_HOP)
        assert seen(vm, NEXT_HOP, kind) == ("ext", ONE)
    assert host.knows(ONE) == mac_of(cloud, ONE)
    assert host.ping(ONE, count=3).lost == 0
    cloud.lab.compute(where).heal_data()
    assert_well(cloud)


def test_where_the_vms_compute_has_no_wire_the_designated_one_stands_for_it(
    cloud: Cloud, host: Host, answers: Answers
) -> None:
    vm = cloud.add_vm("vm4", "d", "blue", 4, gateway=GATEWAY)
    answers.serve(vm)
    answers.serve(host)
    wait_served(cloud, "r1")
    with host.packets() as ear:
        give(cloud, ONE, "vm4")
        ear.receive(lambda f: f[12:14] == b"\x08\x06" and f[28:32] == packets.ip_bytes(ONE) == f[38:42])
    for kind in KINDS:
        assert seen(host, ONE, kind) == ("vm4", NEXT_HOP)
        assert seen(vm, NEXT_HOP, kind) == ("ext", ONE)
    assert host.knows(ONE) == mac_of(cloud, ONE)
    assert seen(cloud.lab.vm("vm1"), ONE) == ("vm4", SNAT)
    assert_well(cloud)


def test_vms_reach_each_others_floating_ips_wherever_they_are(cloud: Cloud, host: Host, answers: Answers) -> None:
    """On one compute and on two, with a floating IP of their own and without; and their own."""
    near = cloud.add_vm("vm5", "b", "blue", 5, gateway=GATEWAY)
    give(cloud, ONE, "vm2")
    give(cloud, TWO, "vm3")
    answers.serve(cloud.lab.vm("vm2"))
    answers.serve(cloud.lab.vm("vm3"))
    for kind in KINDS:
        for vm, own in ((near, SNAT), (cloud.lab.vm("vm1"), SNAT), (cloud.lab.vm("vm3"), TWO)):
            assert seen(vm, ONE, kind) == ("vm2", own), (vm, kind)
        assert seen(cloud.lab.vm("vm2"), ONE, kind) == ("vm2", ONE)
        assert seen(cloud.lab.vm("vm2"), TWO, kind) == ("vm3", ONE)
    assert not near.ping(SNAT, deadline=0.3).received
    assert_well(cloud)


def test_a_floating_ip_goes_with_its_vm_and_no_ping_and_no_connection_is_lost(
    cloud: Cloud, host: Host, answers: Answers
) -> None:
    """From a to b, to d, which has no wire, and back to b."""
    vm = cloud.lab.vm("vm1")
    answers.serve(vm)
    answers.serve(host)
    give(cloud, ONE, "vm1")
    with speaking(host, ONE) as inward, speaking(vm, NEXT_HOP) as outward:
        with pinged(host, ONE) as pings:
            for target in ("b", "d", "b"):
                cloud.migrate("vm1", target)
                assert asked(inward)[0] == "vm1"
                assert asked(outward)[1] == ONE
        sent, lost = sum(p.sent for p in pings), sum(p.lost for p in pings)
        assert (lost, sent > 50) == (0, True)
    assert seen(host, ONE) == ("vm1", NEXT_HOP)
    assert_well(cloud)


def test_a_floating_ip_is_led_to_another_port_and_to_none(cloud: Cloud, host: Host, answers: Answers) -> None:
    for name in ("vm1", "vm2"):
        answers.serve(cloud.lab.vm(name))
    answers.serve(host)
    give(cloud, ONE, "vm1")
    assert seen(host, ONE) == ("vm1", NEXT_HOP)
    give(cloud, ONE, "vm2")
    assert seen(host, ONE) == ("vm2", NEXT_HOP)
    assert seen(cloud.lab.vm("vm1"), NEXT_HOP)[1] == SNAT
    assert seen(cloud.lab.vm("vm2"), NEXT_HOP)[1] == ONE
    cloud.lab.remove_vm("vm2")
    cloud.call(cloud.service.delete_port("vm2"))
    settle(cloud)
    host.exec(["ip", "neigh", "flush", "all"])
    assert not host.ping(ONE, deadline=0.3).received
    assert host.knows(ONE) == ""
    assert_well(cloud)
    cloud.call(cloud.service.delete_floating("out", ONE))
    assert_well(cloud)


def test_floating_ips_outlive_the_controller_and_a_restart_sends_nothing(cloud: Cloud, host: Host) -> None:
    give(cloud, ONE, "vm1")
    give(cloud, TWO, "vm3")
    wait_served(cloud, "r1")
    cloud.controller.stop()
    host.exec(["ip", "neigh", "flush", "all"])
    for address in (ONE, TWO):
        assert host.ping(address, count=2).lost == 0
    cloud.controller = type(cloud.controller)(cloud.lab, cloud.directory / "state")
    cloud.wait_ready()
    assert [cloud.controller.member(n).resync_flow_mods for n in "abcd"] == [0, 0, 0, 0]
    assert_well(cloud)


def test_a_compute_that_had_floating_ips_and_a_wire_is_ended_without_residue(cloud: Cloud, host: Host) -> None:
    leaves, vm = elsewhere(cloud)
    stays = [name for name in "abc" if name != leaves]
    compute, gone = cloud.lab.compute(leaves), cloud.fact(leaves)
    give(cloud, ONE, vm.name)
    assert host.ping(ONE, count=2).lost == 0
    assert (patches(compute), bridge(compute)["flood_vlans"]) == ([f"br-ex {PHYSICAL}", f"br-int {PHYSICAL}"], "[0]")
    cloud.call(cloud.service.start([leaves]))
    with pinged(host, ONE) as pings:
        cloud.migrate(vm.name, stays[0])
    assert sum(p.lost for p in pings) == 0
    operation = cloud.call(cloud.service.end([leaves]))
    assert operation is not None
    assert operation.state == "done"
    assert "residue 0" in operation.reason
    assert left_of(gone, cloud.lab, *stays, "d") == []
    assert patches(compute) == []
    assert (bridge(compute)["flood_vlans"], bridge(compute)["external_ids"]) == ("[]", "{}")
    assert host.ping(ONE, count=3).lost == 0
    assert vm.reaches(NEXT_HOP)
    cloud.assert_clean()
    assert all(vm.reaches(NEXT_HOP) for vm in cloud.lab.vms())
