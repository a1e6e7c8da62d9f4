"""Tunnels over an IPv6 underlay, on real switches; and what is said where two computes' tunnel addresses are of two IP versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.errors import Refused
from ebbtide.lab import Compute, namespace, wait_until
from ebbtide.lab.commands import CommandFailed
from ebbtide.lab.compute import PHYSICAL_BRIDGE
from ebbtide.lab.flows import Load, Traffic
from ebbtide.lab.second_search import identities_of, second_search
from ebbtide.lab.site import UNDERLAYS
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.routed import SNAT, Routed, nothing_breaks
from tests.support.second_search import left_of

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

HEADERS = 28  # IPv4 and ICMP, which `ping -s` does not count


@pytest.fixture
def trio6(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c with IPv6 tunnel addresses; one network with a VM on each."""
    cloud = make_cloud(underlay="ipv6")
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


def reason(cloud: Cloud, name: str) -> str:
    return str(cloud.service.compute_status(cloud.fact(name))["reason"])


def remote_ends(compute: Compute) -> set[str]:
    words = compute.vsctl("--bare", "--columns=options", "find", "interface", "type=vxlan", wait=False).split()
    return {word.removeprefix("remote_ip=") for word in words if word.startswith("remote_ip=")}


def test_vms_exchange_packets_of_full_size_and_a_removed_compute_leaves_nothing(trio6: Cloud) -> None:
    lab, call, service = trio6.lab, trio6.call, trio6.service
    assert trio6.fact("a").tep == "fd00:eb::101"
    mtu = trio6.controller.app.cluster.state.networks["blue"].mtu
    assert mtu == 1430, "20 bytes less than over IPv4: the header is longer"
    state = trio6.controller.app.cluster.state
    a, b = state.by_name["a"], state.by_name["b"]
    trio6.wait(lambda: trio6.controller.app.cluster.probes.is_open(a, b), what="the tunnel open at full size")
    for target in ("10.1.0.2", "10.1.0.3"):
        assert lab.vm("vm1").ping(target, count=3, size=mtu - HEADERS).lost == 0
    assert [reason(trio6, name) for name in "abc"] == ["", "", ""]
    trio6.assert_clean()
    # A switch that starts anew has forgotten who is where on the underlay.
    lab.compute("c").restart_switch()
    trio6.wait_ready("a", "b", "c", deadline=30)
    assert lab.vm("vm3").reaches("10.1.0.1", deadline=20)
    trio6.assert_clean()

    gone = trio6.fact("a")
    assert identities_of(lab.compute("a"), gone.number, gone.dpid) <= gone.identities()
    assert {line.partition(" with ")[0] for line in left_of(gone, lab, "c")} == {"c: flow", "c: group", "c: row"}
    call(service.start(["a"]))
    with pytest.raises(Refused, match="still carries 1 port"):
        call(service.end(["a"]))
    trio6.migrate("vm1", "b")
    operation = call(service.end(["a"]))
    assert operation is not None
    assert operation.state == "done"
    assert "residue 0 on 2 computes" in operation.reason
    assert left_of(gone, lab, "b", "c") == []
    assert snapshots.tunnels(lab.compute("a")) == []
    assert lab.vm("vm1").ping("10.1.0.3", count=3, size=mtu - HEADERS).lost == 0
    assert trio6.assert_clean().removed == ("a",)


@pytest.mark.parametrize("spelling", ["fd00:eb::101", "FD00:EB:0:0::101", "fd00:eb::0.0.1.1"])
def test_the_address_of_a_removed_compute_is_found_in_any_spelling_by_both_searchers(
    make_cloud: Callable[..., Cloud], spelling: str
) -> None:
    cloud = make_cloud(underlay="ipv6")
    cloud.add_computes("a", "b")
    gone, where = cloud.fact("a"), cloud.lab.compute("b")
    cloud.call(cloud.service.start(["a"]))
    cloud.call(cloud.service.end(["a"]))
    assert left_of(gone, cloud.lab, "b") == []
    assert cloud.audit().clean
    where.vsctl("set", "bridge", "br-int", f'external_ids:planted="{spelling}"', wait=False)

    def heard() -> bool:
        tables = cloud.controller.member("b").tables
        return tables is not None and any("planted" in row["external_ids"] for row in tables.rows("Bridge").values())

    cloud.wait(heard, what="the row to be heard of")
    assert [f.what for f in cloud.audit().findings] == ["row with tep:fd00:eb::101 of a"]
    assert any("tep:fd00:eb::101" in line for line in second_search([where], {"tep:fd00:eb::101"}))
    where.vsctl("remove", "bridge", "br-int", "external_ids", "planted", wait=False)


def test_two_spellings_of_one_address_are_one_tunnel_address(trio6: Cloud) -> None:
    a, before = trio6.lab.compute("a"), snapshots.tunnels(trio6.lab.compute("b"))
    cluster = trio6.controller.app.cluster
    state = cluster.state
    a.vsctl("set", "Open_vSwitch", ".", 'other_config:local_ip="FD00:00EB:0:0::0101"', wait=False)
    d = trio6.lab.add_compute("d")
    d.vsctl("set", "Open_vSwitch", ".", 'other_config:local_ip="fd00:eb:0::0.0.1.1"', wait=False)
    d.register()
    trio6.wait(lambda: any("d claims the tep of a" in why for why in cluster.refused.values()), what="d to be refused")
    assert cluster.state is state, "a has said nothing new, and d is not let in"
    assert snapshots.tunnels(trio6.lab.compute("b")) == before
    assert trio6.lab.vm("vm2").ping("10.1.0.1", count=3).lost == 0


def test_a_tunnel_that_a_hand_has_spelled_otherwise_is_spelled_as_before(trio6: Cloud) -> None:
    b = trio6.lab.compute("b")
    (name,) = (
        n for n in b.ports() if n.startswith("tun") and "fd00:eb::101" in b.vsctl("get", "interface", n, "options")
    )
    b.vsctl("set", "interface", name, 'options:remote_ip="FD00:EB::0101"', wait=False)
    wait_until(lambda: "fd00:eb::101" in remote_ends(b), "the one spelling")
    trio6.wait_ready("a", "b", "c")
    assert trio6.lab.vm("vm2").reaches("10.1.0.1", deadline=20)
    trio6.assert_clean()


def test_computes_of_two_ip_versions_have_no_tunnel_and_say_so_until_they_are_of_one(trio6: Cloud) -> None:
    old = trio6.lab.add_compute("old", register="tcp:10.255.0.1:6640", underlay="ipv4")
    trio6.wait_ready("old")
    assert reason(trio6, "old") == "", "nobody needs a tunnel to it yet"
    trio6.add_vm("vm4", "old", "blue", 4)
    trio6.wait_clean()
    assert remote_ends(old) == set()
    assert "no tunnel to a, b, c: its tunnel address 172.31.1.4 is IPv4 and theirs are not" in reason(trio6, "old")
    assert "no tunnel to old: its tunnel address fd00:eb::101 is IPv6" in reason(trio6, "a")
    assert not trio6.lab.vm("vm4").reaches("10.1.0.1", deadline=1)
    assert trio6.lab.vm("vm1").ping("10.1.0.3", count=3).lost == 0
    trio6.assert_clean()

    announce(old, "fd00:eb::ffff")
    trio6.wait(lambda: trio6.fact("old").tep == "fd00:eb::ffff", what="the new address")
    trio6.wait_clean()
    assert remote_ends(old) == {"fd00:eb::101", "fd00:eb::102", "fd00:eb::103"}
    assert (reason(trio6, "old"), reason(trio6, "a")) == ("", "")
    assert trio6.lab.vm("vm4").reaches("10.1.0.1", deadline=20)
    trio6.assert_clean()


def announce(compute: Compute, tep: str) -> None:
    """The operator gives the host an IPv6 address, and says that it is the tunnel's."""
    namespace.ipv6_on(compute.namespace, PHYSICAL_BRIDGE)
    compute.exec("ip", "addr", "add", f"{tep}/64", "dev", PHYSICAL_BRIDGE)

    def routed() -> bool:
        try:
            compute.appctl("ovs/route/add", str(UNDERLAYS["ipv6"]), PHYSICAL_BRIDGE)
        except CommandFailed:
            return False
        return f"SRC {tep}" in compute.appctl("ovs/route/show")

    wait_until(routed, f"the switch of {compute.name} to see its tunnel address")
    compute.vsctl("set", "Open_vSwitch", ".", f'other_config:local_ip="{tep}"', wait=False)


def test_a_network_made_without_an_mtu_gets_what_fits_into_the_tunnels_there_are(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud()
    cloud.add_computes("a")
    cloud.add_network("early", "10.1.0.0/24")
    cloud.lab.add_compute("b", register="tcp:10.255.0.1:6640", underlay="ipv6")
    cloud.wait_ready("b")
    cloud.add_network("late", "10.2.0.0/24")
    cloud.call(cloud.service.add_network("wide", ["10.3.0.0/24"], mtu=8950))
    cloud.add_network("early", "10.1.0.0/24")  # already so
    found = {n.id: n.mtu for n in cloud.controller.app.cluster.state.networks.values()}
    assert found == {"early": 1450, "late": 1430, "wide": 8950}


def test_what_does_not_fit_into_an_ipv6_tunnel_is_said(trio6: Cloud) -> None:
    trio6.call(trio6.service.add_network("wide", ["10.2.0.0/24"], mtu=1450))
    trio6.add_vm("vm4", "a", "wide", 4)
    assert "network wide has MTU 1450 and needs 1520 on the wire, br-phy carries 1500" in reason(trio6, "a")


def test_bfd_comes_up_between_the_ends_of_a_gateway_relation(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud(underlay="ipv6")
    gateway, peer = cloud.lab.add_compute("gw"), cloud.lab.add_compute("peer")
    gateway.vsctl("set", "Open_vSwitch", ".", "other_config:ebbtide-gateway=true")
    for compute in (gateway, peer):
        compute.register()
    cloud.wait_ready("gw", "peer")
    cloud.call(cloud.service.relate("gw", "peer"))
    cluster = cloud.controller.app.cluster
    numbers = cluster.state.by_name["gw"], cluster.state.by_name["peer"]
    cloud.wait(lambda: cluster.probes.is_open(*numbers), what="the tunnel open both ways at full size")
    for compute in (gateway, peer):
        wait_until(
            lambda c=compute: (
                "remote_state=up" in c.vsctl("--bare", "--columns=bfd_status", "find", "interface", "type=vxlan")
            ),
            f"BFD up at {compute.name}",
        )
    cloud.assert_clean()


def test_a_nat_moves_and_is_taken_over_across_ipv6_tunnels(make_cloud: Callable[..., Cloud]) -> None:
    routed = Routed(make_cloud(underlay="ipv6", lag=0.6, nat_patience=2.0), "a", "b", "c")
    cloud = routed.cloud
    for index, name in enumerate("abc", 1):
        routed.add_vm(f"vm{index}", name, index)
    routed.wait_served()
    old, new = routed.served_by(), routed.stands_by()
    with nothing_breaks(cloud.lab, "vm1", "vm2", "vm3"):
        cloud.call(cloud.service.start([old]))
        routed.wait_moved()
    assert routed.served_by() == new
    cloud.call(cloud.service.recover([old]))
    routed.wait_served()
    cloud.assert_clean()

    heir = routed.stands_by()
    third = next(f"vm{index}" for index, name in enumerate("abc", 1) if name not in (new, heir))
    with Traffic(cloud.lab, "ext", [third], Load.only(active=20, active_period=0.05, silent=4)) as traffic:
        traffic.wait_flowing(deadline=30)
        cloud.lab.compute(new).kill_all()
        cloud.wait(lambda: routed.served_by() == heir, 30, "the standby to serve")
        traffic.reset()
        traffic.speak()
        report = traffic.report()
    assert [line for line in report.failures() if "connections" in line] == [], report.table()
    assert report.addresses("active") == {SNAT}
