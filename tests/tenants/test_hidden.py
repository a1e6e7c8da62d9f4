"""Addresses that nobody was given, on real switches: found on demand, followed when they move, withdrawn when they answer no more."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from ebbtide.compile import ledger
from ebbtide.compile.flow import match
from ebbtide.compile.ledger import Punt
from ebbtide.lab import packets
from ebbtide.model.facts import Designation, Learnt
from ebbtide.model.state import SUBNET, State, subnet_name
from ebbtide.openflow.messages import PacketIn
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, LAG, route, settle

pytestmark = pytest.mark.lab
HIDDEN, SUBNET_2 = "10.2.0.100", "10.2.0.0/24"


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; network blue (vm1 on a) and red (vm2 on b, vm3 on c), router r1 in both."""
    cloud = make_cloud(lag=LAG)
    cloud.add_computes("a", "b", "c")
    for number, network in enumerate(("blue", "red"), 1):
        cloud.add_network(network, f"10.{number}.0.0/24")
    route(cloud, "r1", "blue", "red")
    for index, (compute, network) in enumerate((("a", "blue"), ("b", "red"), ("c", "red")), 1):
        cloud.add_vm(f"vm{index}", compute, network, index, gateway=GATEWAY)
    cloud.wait_ready()
    wait_served(cloud)
    return cloud


def state_of(cloud: Cloud) -> State:
    return cloud.controller.app.cluster.state


def designation(cloud: Cloud, network: str = "red", subnet: str = SUBNET_2) -> Designation | None:
    return state_of(cloud).designations.get((SUBNET, subnet_name(network, subnet)))


def wait_served(cloud: Cloud) -> None:
    cloud.wait(lambda: designation(cloud) is not None, what="somebody designated for red")
    cloud.wait_clean()


def served_by(cloud: Cloud) -> str:
    found = designation(cloud)
    return state_of(cloud).computes[found.compute].name if found is not None else ""


def learnt(cloud: Cloud, address: str = HIDDEN, network: str = "red") -> Learnt | None:
    return state_of(cloud).learnt_in(network).get(address)


def give(cloud: Cloud, vm: str, address: str = HIDDEN) -> None:
    """A second address in a VM, of which nobody is told."""
    cloud.lab.vm(vm).exec(["ip", "addr", "add", f"{address}/32", "dev", "eth0"])


def take(cloud: Cloud, vm: str, address: str = HIDDEN) -> None:
    cloud.lab.vm(vm).exec(["ip", "addr", "del", f"{address}/32", "dev", "eth0"])


def announce(cloud: Cloud, vm: str, address: str = HIDDEN) -> None:
    """Gratuitous ARP."""
    own = cloud.lab.vm(vm)
    with own.packets() as out:
        out.send(packets.gratuitous_arp(own.mac, address))


@pytest.mark.parametrize("holder", ["vm2", "vm3"])
def test_a_hidden_address_is_found_by_the_first_packet_and_reached_from_everywhere(cloud: Cloud, holder: str) -> None:
    give(cloud, holder)
    for asker in ("vm1", "vm2", "vm3"):
        if asker != holder:
            assert cloud.lab.vm(asker).reaches(HIDDEN), asker
    found = learnt(cloud)
    assert found is not None
    assert found.port == holder
    settle(cloud)
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=5).lost == 0
    cloud.assert_clean()


def test_the_packet_that_asked_first_is_sent_on_when_the_answer_is_there(cloud: Cloud) -> None:
    give(cloud, "vm3")
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=1, deadline=3.0).lost == 0


def test_no_packet_is_lost_once_it_is_learnt_and_a_restart_forgets_nothing(cloud: Cloud) -> None:
    give(cloud, "vm3")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    settle(cloud)
    cloud.controller.stop()
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=3).lost == 0
    cloud.restart_controller()
    cloud.wait_ready("a", "b", "c")
    assert [cloud.controller.member(n).resync_flow_mods for n in "abc"] == [0, 0, 0]
    assert learnt(cloud) is not None
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=3).lost == 0


def test_an_address_that_nobody_has_is_asked_for_once_in_the_hold_off(cloud: Cloud) -> None:
    vm = cloud.lab.vm("vm3")
    with vm.packets() as ear:
        assert not cloud.lab.vm("vm1").ping("10.2.0.77", count=4, interval=0.2, deadline=4.0).received
        asked = [f for f in ear.waiting() if f[12:14] == b"\x08\x06" and f[38:42] == bytes([10, 2, 0, 77])]
    assert 1 <= len(asked) <= 3
    compute = cloud.lab.compute(served_by(cloud))
    rows = [line for line in snapshots.flows(compute) if "table=22" in line and "10.2.0.77" in line]
    assert len(rows) == 1
    assert "actions=drop" in rows[0]
    cloud.assert_clean()


def test_who_comes_up_with_gratuitous_arp_is_learnt_without_anybody_asking(cloud: Cloud) -> None:
    give(cloud, "vm3")
    announce(cloud, "vm3")
    cloud.wait(lambda: (found := learnt(cloud)) is not None and found.port == "vm3", what="learnt")


def test_gratuitous_arp_moves_it_when_its_holder_is_silent(cloud: Cloud) -> None:
    give(cloud, "vm2")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    take(cloud, "vm2")
    give(cloud, "vm3")
    announce(cloud, "vm3")
    cloud.wait(lambda: (found := learnt(cloud)) is not None and found.port == "vm3", what="moved to vm3")
    settle(cloud)
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=3).lost == 0
    cloud.assert_clean()


def test_an_address_whose_holder_answers_is_not_taken_by_who_shouts(cloud: Cloud) -> None:
    give(cloud, "vm2")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    counts = cloud.controller.app.cluster.hidden.counts
    announce(cloud, "vm3")
    cloud.wait(lambda: counts["conflict"] == 1, what="the conflict to be seen")
    found = learnt(cloud)
    assert found is not None
    assert found.port == "vm2"


def test_who_shouts_before_its_compute_knows_that_the_address_is_taken_is_heard_as_well(cloud: Cloud) -> None:
    """What was learnt is not on every compute at once. Until it is, gratuitous ARP comes as one of an unknown address."""
    give(cloud, "vm2")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    take(cloud, "vm2")
    give(cloud, "vm3")
    cluster, shouter = cloud.controller.app.cluster, state_of(cloud).ports["vm3"]
    frame = packets.gratuitous_arp(cloud.lab.vm("vm3").mac, HIDDEN)
    sent_by = match(metadata=shouter.lport << ledger.LPORT_SHIFT)
    early = PacketIn(0, ledger.T.ARP_RESPONDER, 0, sent_by, frame, len(frame))
    tag = state_of(cloud).networks["red"].tag

    async def hear() -> None:
        cluster.hidden.heard(Punt.ANNOUNCED, cloud.controller.member("c"), tag, early)

    cloud.call(hear())
    cloud.wait(lambda: (found := learnt(cloud)) is not None and found.port == "vm3", what="moved to vm3")


def test_nobody_takes_the_gateways_address_or_a_ports(cloud: Cloud) -> None:
    before = state_of(cloud).learnt
    for address in ("10.2.0.254", "10.2.0.2", "10.2.0.255", "10.9.0.1"):
        announce(cloud, "vm3", address)
    give(cloud, "vm3")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    assert set(state_of(cloud).learnt_in("red")) == {HIDDEN}
    assert not before


def test_it_follows_its_port_when_that_migrates(cloud: Cloud) -> None:
    give(cloud, "vm2")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    cloud.migrate("vm2", "c")
    settle(cloud)
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=3).lost == 0
    cloud.assert_clean()


def test_an_address_behind_a_mac_of_its_own_is_reached(cloud: Cloud) -> None:
    """An appliance: what answers has another MAC than the port."""
    vm = cloud.lab.vm("vm3")
    vm.exec(["sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=1"])
    vm.exec(["ip", "link", "add", "inner", "link", "eth0", "type", "macvlan", "mode", "bridge"])
    vm.exec(["ip", "addr", "add", f"{HIDDEN}/24", "dev", "inner"])
    vm.exec(["ip", "link", "set", "inner", "up"])
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    found = learnt(cloud)
    assert found is not None
    assert found.mac != state_of(cloud).ports["vm3"].mac
    settle(cloud)
    assert cloud.lab.vm("vm2").ping(HIDDEN, count=2).lost == 0
    cloud.assert_clean()


def test_what_answers_no_more_is_withdrawn_and_leaves_nothing(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud(lag=LAG)
    cluster = cloud.controller.app.cluster
    cluster.settings = msgspec.structs.replace(cluster.settings, learnt_interval=0.9)
    cloud.add_computes("a", "b")
    cloud.add_network("red", "10.2.0.0/24")
    route(cloud, "r1", "red")
    for index, compute in enumerate("ab", 1):
        cloud.add_vm(f"vm{index}", compute, "red", index, gateway=GATEWAY)
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.call(cloud.service.attach("r1", "blue", "10.1.0.254"))
    cloud.add_vm("vm3", "a", "blue", 3, gateway=GATEWAY)
    cloud.wait_ready()
    cloud.wait(lambda: designation(cloud, "blue", "10.1.0.0/24") is not None, what="somebody designated for blue")
    wait_served(cloud)
    before = {c.name: snapshots.flows(c) for c in cloud.lab.computes()}
    give(cloud, "vm2")
    assert cloud.lab.vm("vm3").reaches(HIDDEN)
    take(cloud, "vm2")
    cloud.wait(lambda: learnt(cloud) is None, what="withdrawn")
    settle(cloud)
    kept = {
        c.name: [line for line in snapshots.flows(c) if not line.startswith("cookie=0xf")] for c in cloud.lab.computes()
    }
    assert {n: (set(kept[n]) - set(before[n]), set(before[n]) - set(kept[n])) for n in kept} == {
        n: (set(), set()) for n in kept
    }
    cloud.assert_clean()


def test_it_goes_with_its_port(cloud: Cloud) -> None:
    give(cloud, "vm2")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    cloud.call(cloud.service.delete_port("vm2"))
    assert learnt(cloud) is None
    cloud.assert_clean()


def test_a_port_that_is_given_the_address_has_it_from_then_on(cloud: Cloud) -> None:
    give(cloud, "vm2")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    take(cloud, "vm2")
    cloud.add_vm("late", "c", "red", 100, gateway=GATEWAY)
    settle(cloud)
    assert cloud.lab.vm("vm1").ping(HIDDEN, count=3).lost == 0
    cloud.assert_clean()


def test_the_designated_compute_is_scaled_in_and_nothing_learnt_is_lost(cloud: Cloud) -> None:
    give(cloud, "vm3")
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    old = served_by(cloud)
    other = "c" if old == "b" else "b"
    settle(cloud)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(cloud.lab.vm("vm1").ping, HIDDEN, 150, 2.0, 0.02)
        cloud.call(cloud.service.start([old]))
        cloud.wait(lambda: served_by(cloud) == other, what="designated elsewhere")
        cloud.wait_clean()
        assert stream.result().lost == 0
    give(cloud, "vm3", "10.2.0.101")
    assert cloud.lab.vm("vm1").reaches("10.2.0.101")
    cloud.call(cloud.service.recover([old]))
    assert served_by(cloud) == other
    cloud.assert_clean()


def test_the_designated_compute_is_killed_and_the_one_that_stands_by_asks(cloud: Cloud) -> None:
    old = served_by(cloud)
    other = "c" if old == "b" else "b"
    holder = "vm3" if other == "c" else "vm2"
    give(cloud, holder)
    cloud.lab.compute(old).kill_switch()
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    assert served_by(cloud) == other
