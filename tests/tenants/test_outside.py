"""Networks outside on real switches: the wire, the next hop, and connections that leave under the router's address."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from ebbtide.compile import ledger
from ebbtide.decide import parts
from ebbtide.errors import Refused
from ebbtide.lab import Vm, packets, wait_until
from ebbtide.model.facts import format_mac
from ebbtide.north import explain
from ebbtide.runtime.outside import FOLLOW
from ebbtide.runtime.untranslated import Exhausted
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.outside import (
    GATEWAY,
    LAG,
    NEXT_HOP,
    PHYSICAL,
    PORT,
    Answers,
    Host,
    asked,
    assert_well,
    bridge,
    gateway_of,
    hop,
    outside,
    patches,
    reason_of,
    route,
    seen,
    settle,
    speaking,
    wait_served,
)

pytestmark = pytest.mark.lab
KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
SNAT = "203.0.113.10"


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud(lag=LAG)


def behind(cloud: Cloud, *computes: str, addresses: tuple[str, ...] = (SNAT,), external: str = "out") -> None:
    """Network blue, a VM on each of these computes (vm1, vm2...), and router r1 that leads outside."""
    cloud.add_network("blue", "10.1.0.0/24")
    route(cloud, "r1", "blue", outside=external, addresses=addresses)
    for index, compute in enumerate(computes, 1):
        cloud.add_vm(f"vm{index}", compute, "blue", index, gateway=GATEWAY)
    wait_served(cloud, "r1")


def flooded(cloud: Cloud, compute: str, name: str = "br-ex") -> str:
    return str(bridge(cloud.lab.compute(compute), name)["flood_vlans"])


# --- connections ---


def test_all_kinds_of_traffic_leave_under_the_routers_address_from_everywhere(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b", "c")
    behind(cloud, "a", "b", "c")
    assert gateway_of(cloud, "r1") in "abc"
    with Answers() as answers:
        answers.serve(host)
        for vm in cloud.lab.vms():
            for kind in KINDS:
                assert seen(vm, NEXT_HOP, kind) == ("ext", SNAT), vm
            with host.packets() as ear:
                assert vm.ping(NEXT_HOP, count=2).lost == 0, vm
                echo = ear.receive(lambda f: f[12:14] == b"\x08\x00" and f[23] == 1)
            assert echo[26:30] == packets.ip_bytes(SNAT)
            assert packets.mac_text(echo[6:12]) == host.knows(SNAT)
            assert (vm.ping(NEXT_HOP, size=1450 - 28).lost, echo[22]) == (0, 63)
    assert_well(cloud)


def test_what_cannot_be_told_apart_behind_one_address_is_refused_and_counted(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    sctp, esp = (132, packets.sctp_init(5000, 7777)), (50, bytes(40))
    vms = list(cloud.lab.vms())

    def send(vm: Vm, proto: int, payload: bytes) -> None:
        assert vm.reaches(NEXT_HOP)
        words = vm.exec(["ip", "neigh", "show", "10.1.0.254"]).split()
        frame = packets.ethernet(
            words[words.index("lladdr") + 1], vm.mac, 0x0800, packets.ipv4(vm.ip, NEXT_HOP, proto, payload)
        )
        with vm.packets() as out:
            out.send(frame)

    def refused() -> tuple[int, int]:
        found = cloud.call(cloud.service.refused("r1"))
        assert found is not None
        assert not found.exhausted
        return found.sctp, found.other

    assert refused() == (0, 0)
    with host.packets() as ear:
        for vm in vms:
            send(vm, *sctp)
            send(vm, *esp)
        # Counters of the datapath follow within half a second.
        wait_until(lambda: refused() == (2, 2), "two packets of each to be counted")
        assert not ear.waiting(lambda f: f[12:14] == b"\x08\x00" and f[23] in (132, 50)), (
            "nothing of it is seen outside"
        )
    lines = cloud.call(explain.story(cloud.service, "router", "r1"))
    assert any(line.startswith("Refused: 2 packet(s) of SCTP and 2 of other protocols") for line in lines), lines
    # With an address of its own a VM may speak whatever it likes.
    cloud.call(cloud.service.add_floating("out", "203.0.113.20", vms[0].name))
    settle(cloud)
    with host.packets() as ear:
        send(vms[0], *sctp)
        frame = ear.receive(lambda f: f[12:14] == b"\x08\x00" and f[23] == 132)
    assert (frame[26:30], frame[34:]) == (packets.ip_bytes("203.0.113.20"), sctp[1])
    assert_well(cloud)


def test_who_finds_no_port_left_is_refused_and_told_of_and_nobody_else_is_disturbed(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ports that there are: half of them for who serves, and the connections to one remote end point use them up."""
    monkeypatch.setattr(ledger, "LAST_NAT_PORT", ledger.FIRST_NAT_PORT + 2 * parts.FEWEST_PORTS - 1)
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    vms = list(cloud.lab.vms())
    with Answers() as answers, ExitStack() as opened:
        answers.serve(host)
        spoken = [
            opened.enter_context(speaking(vm, NEXT_HOP, socket.SOCK_DGRAM))
            for vm in vms
            for _ in range(parts.FEWEST_PORTS)
        ]
        found: dict[socket.socket, tuple[str, str, int]] = {}

        def heard() -> int:
            for each in select.select(spoken, [], [], 0)[0]:
                name, address, port = each.recv(100).decode().split()
                found[each] = name, address, int(port)
            return len(found)

        for each in spoken:
            each.send(b"who am I?")
        wait_until(lambda: exhausted(cloud) is not None, "a port too few to be told of")
        wait_until(lambda: heard() >= parts.FEWEST_PORTS, "answers for as many as there are ports")
        for each in spoken:
            each.send(b"and again, who am I?")
        for vm in vms:
            assert seen(vm, NEXT_HOP, socket.SOCK_STREAM) == ("ext", SNAT), "TCP has ports of its own"
        heard()
        assert len(found) == parts.FEWEST_PORTS, "as many as there are ports"
        assert len({port for _, _, port in found.values()}) == len(found), "no two have one port"
        assert {address for _, address, _ in found.values()} == {SNAT}
        lines = cloud.call(explain.story(cloud.service, "router", "r1"))
        told = [line for line in lines if line.startswith("No port was left for")]
        assert told, lines
        assert f"to {NEXT_HOP}:{PORT} (UDP)" in told[0]
        assert exhausted(cloud).compute == gateway_of(cloud, "r1")  # type: ignore[union-attr]
        # One more address: those that were refused have a port at once, and the others keep theirs.
        cloud.call(cloud.service.set_router("r1", addresses=[SNAT, "203.0.113.11"]))
        settle(cloud)
        assert {each: asked(each) for each in found} == found
    assert_well(cloud)


def exhausted(cloud: Cloud) -> Exhausted | None:
    cluster = cloud.controller.app.cluster
    return cluster.exhaustions.of(cluster.state.routers["r1"].tag)


def test_an_address_that_somebody_has_is_refused_and_who_has_it_is_not_disturbed(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    vm1, service = cloud.lab.vm("vm1"), cloud.service
    cloud.call(service.add_floating("out", "203.0.113.20", "vm2"))
    settle(cloud)
    with Answers() as answers:
        answers.serve(host)
        with speaking(vm1, NEXT_HOP) as open_all_the_time:
            before = asked(open_all_the_time), cloud.controller.app.cluster.state.revision
            for address, whose in ((SNAT, "router r1"), (NEXT_HOP, "next hop"), ("203.0.113.20", "floating IP")):
                with pytest.raises(Refused, match=f"{address} .*{whose}"):
                    cloud.call(service.add_router("r2", outside="out", addresses=[address]))
            for address, whose in ((SNAT, "router r1"), (NEXT_HOP, "next hop")):
                with pytest.raises(Refused, match=f"{address} .*{whose}"):
                    cloud.call(service.add_floating("out", address, "vm1"))
            with pytest.raises(Refused, match=r"203.0.114.9"):
                cloud.call(service.set_router("r1", addresses=[SNAT, "203.0.114.9"]))
            assert (asked(open_all_the_time), cloud.controller.app.cluster.state.revision) == before
    assert_well(cloud)


def test_without_a_next_hop_the_outside_ends_with_its_subnet_and_that_is_said(cloud: Cloud) -> None:
    cloud.lab.add_computes(["a", "b"], register="tcp:10.255.0.1:6640", physical_network=PHYSICAL)
    cloud.wait_ready("a", "b")
    cloud.call(cloud.service.add_external("out", PHYSICAL, "203.0.113.0/24"))
    Host(cloud, "ext")
    cloud.add_network("blue", "10.1.0.0/24")
    route(cloud, "r1", "blue", outside="out", addresses=[SNAT])
    vm1, vm2 = (cloud.add_vm(f"vm{n}", name, "blue", n, gateway=GATEWAY) for n, name in enumerate("ab", 1))
    cloud.wait(lambda: ("nat", "r1") in cloud.controller.app.cluster.state.designations, what="r1 served")
    settle(cloud)
    lines = cloud.call(explain.story(cloud.service, "router", "r1"))
    assert any("has no next hop" in line for line in lines), lines
    assert vm1.reaches(vm2.ip)
    assert vm1.ping("198.51.100.9", count=1).lost == 1
    assert_well(cloud)


def test_what_the_outside_says_of_an_error_reaches_who_has_caused_it(cloud: Cloud) -> None:
    outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    for vm in cloud.lab.vms():
        with pytest.raises(ConnectionRefusedError), speaking(vm, NEXT_HOP, socket.SOCK_DGRAM, port=9) as made:
            asked(made)
        with pytest.raises(ConnectionRefusedError), speaking(vm, NEXT_HOP, port=9):
            pass
        assert [hop(vm, NEXT_HOP, ttl) for ttl in (1, 2)] == ["10.1.0.254", f"{NEXT_HOP}!"]


def test_each_vm_keeps_one_of_several_addresses(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    several = tuple(f"203.0.113.{n}" for n in (10, 11, 12))
    behind(cloud, "a", "b", "a", "b", addresses=several)
    with Answers() as answers:
        answers.serve(host)

        def addresses() -> dict[str, set[str]]:
            return {vm.name: {seen(vm, NEXT_HOP, kind)[1] for kind in KINDS * 3} for vm in cloud.lab.vms()}

        before = addresses()
        assert all(len(found) == 1 for found in before.values()), before
        used = set.union(*before.values())
        assert len(used) > 1
        assert used <= set(several)
        gone = min(used)
        cloud.call(cloud.service.set_router("r1", addresses=sorted(set(several) - {gone})))
        settle(cloud)
        for name, found in addresses().items():
            assert found == before[name] or before[name] == {gone}
            assert gone not in found
    assert_well(cloud)


def test_without_snat_nothing_new_leaves_and_what_is_under_way_goes_on(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    with Answers() as answers:
        answers.serve(host)
        vm = cloud.lab.vm("vm1")
        with speaking(vm, NEXT_HOP) as old:
            assert asked(old)[1] == SNAT
            cloud.call(cloud.service.set_router("r1", snat=False))
            settle(cloud)
            assert asked(old)[1] == SNAT
            with pytest.raises(TimeoutError), speaking(vm, NEXT_HOP, socket.SOCK_DGRAM) as made:
                asked(made, 0.5)
            assert_well(cloud)
            cloud.call(cloud.service.set_router("r1", snat=True))
            settle(cloud)
            assert seen(vm, NEXT_HOP) == ("ext", SNAT)
            assert asked(old)[1] == SNAT


def test_a_vm_finds_nobody_at_its_routers_own_address_and_nothing_of_that_is_seen_outside(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b", "c")
    behind(cloud, "a", "b", "c")
    with host.packets() as ear:
        for vm in cloud.lab.vms():
            assert not vm.ping(SNAT, count=3, deadline=0.3, interval=0.01).received
        host.ping(SNAT, deadline=0.3)  # the outside finds nobody there either
        assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
        sent = ear.waiting(lambda f: f[12:14] == b"\x08\x00" and f[30:34] == packets.ip_bytes(SNAT))
    assert sent == []
    assert_well(cloud)


def test_two_routers_with_the_same_addresses_behind_them_are_told_apart_outside(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    cloud.add_network("twin", "10.1.0.0/24")
    route(cloud, "r2", "twin", outside="out", addresses=["203.0.113.11"])
    for index, compute in enumerate("ab", 1):
        cloud.add_vm(f"twin{index}", compute, "twin", index, gateway=GATEWAY)
    wait_served(cloud, "r1", "r2")
    with Answers() as answers:
        answers.serve(host)
        for kind in KINDS:
            for name, address in (("vm1", SNAT), ("twin1", "203.0.113.11"), ("vm2", SNAT), ("twin2", "203.0.113.11")):
                assert seen(cloud.lab.vm(name), NEXT_HOP, kind)[1] == address
    assert_well(cloud)


def test_a_router_that_leaves_the_outside_has_killed_nobody(cloud: Cloud) -> None:
    """Its computes watch each other no more: that is no death, and when it comes back both may serve."""
    outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    cluster = cloud.controller.app.cluster
    numbers = sorted(cluster.state.computes)

    def watched() -> bool:
        return all(i.up for n in numbers for i in cluster.members[n].view.tunnels.values())

    cloud.wait(watched, what="both seen by BFD")
    cloud.call(cloud.service.set_router("r1", outside=""))
    settle(cloud)
    assert not [s for s in cluster.designations.standings().values() if s.lost]
    cloud.call(cloud.service.set_router("r1", outside="out", addresses=[SNAT]))
    wait_served(cloud, "r1")
    found = cluster.state.designations["nat", "r1"]
    assert sorted((found.compute, found.standby)) == numbers
    assert_well(cloud)


# --- the next hop ---


def next_hop(cloud: Cloud) -> str:
    known = cloud.controller.app.cluster.state.neighbours.get(("out", NEXT_HOP))
    return format_mac(known.mac) if known is not None else ""


def test_the_next_hop_is_found_followed_and_kept_over_a_restart_without_a_flow_mod(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    assert next_hop(cloud) == host.mac
    vm = cloud.lab.vm("vm2")
    assert vm.reaches(NEXT_HOP)
    host.exec(["ip", "link", "set", host.device, "address", "06:eb:04:00:00:99"])
    host.announce()
    cloud.wait(lambda: next_hop(cloud) == "06:eb:04:00:00:99", what="the new MAC")
    settle(cloud)
    assert vm.ping(NEXT_HOP, count=3).lost == 0
    assert_well(cloud)
    cloud.restart_controller()
    cloud.wait_ready("a", "b")
    assert next_hop(cloud) == host.mac
    assert [cloud.controller.member(n).resync_flow_mods for n in "ab"] == [0, 0]
    assert vm.ping(NEXT_HOP, count=3).lost == 0


def test_a_new_mac_of_the_next_hop_that_cannot_be_stored_is_asked_for_again_soon(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    app, new, began = cloud.controller.app, "06:eb:04:00:00:99", cloud.controller.app.cluster.now()
    assert app.private is not None
    cloud.wait(lambda: app.cluster.now() > began + FOLLOW, what="a change to be followed at once")
    host.exec(["ip", "link", "set", host.device, "address", new])
    cloud.call(app.private.stop())
    cloud.wait(lambda: not app.cluster.store.reachable, what="the store away")
    host.announce()
    cloud.wait(app.cluster.store.leading.is_set, what="the store started again")
    cloud.wait(lambda: next_hop(cloud) == new, 8.0, "the new MAC, without another word of it")
    cloud.wait_ready("a", "b")
    settle(cloud)
    assert cloud.lab.vm("vm2").ping(NEXT_HOP, count=3).lost == 0
    assert_well(cloud)


def test_a_next_hop_that_falls_silent_is_kept_and_one_that_is_no_host_is_not_believed(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    behind(cloud, "a", "b")
    mac = next_hop(cloud)
    router = format_mac(cloud.controller.app.cluster.state.routers["r1"].mac)
    with host.packets() as out:
        for lie in ("01:00:5e:00:00:01", "00:00:00:00:00:00", router):
            frame = packets.gratuitous_arp(lie, NEXT_HOP)
            out.send(frame[:6] + packets.mac_bytes(host.mac) + frame[12:])
    host.exec(["ip", "link", "set", "eth0", "down"])
    assert cloud.lab.vm("vm1").ping(NEXT_HOP, deadline=0.3).received == 0
    host.exec(["ip", "link", "set", "eth0", "up"])
    assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    assert next_hop(cloud) == mac
    assert_well(cloud)


def test_an_address_that_comes_is_announced_outside(cloud: Cloud) -> None:
    host = outside(cloud, "a", "b")
    with host.packets() as ear:
        behind(cloud, "a", "b")
        told = ear.receive(lambda f: f[12:14] == b"\x08\x06" and f[28:32] == packets.ip_bytes(SNAT) == f[38:42])
    router = cloud.controller.app.cluster.state.routers["r1"]
    assert packets.mac_text(told[22:28]) == packets.mac_text(told[6:12]) == format_mac(router.mac)


# --- the wire: by a bridge of the host's ---


def test_a_vlan_is_as_good_as_a_flat_network_and_both_share_a_cable(cloud: Cloud) -> None:
    tagged = outside(cloud, "a", "b", vlan=100)
    behind(cloud, "a", "b")
    cloud.call(cloud.service.add_external("flat", PHYSICAL, "198.51.100.0/24", "198.51.100.1"))
    plain = Host(cloud, "plain", "198.51.100.1/24")
    cloud.add_network("red", "10.2.0.0/24")
    route(cloud, "r2", "red", outside="flat", addresses=["198.51.100.10"])
    cloud.add_vm("vm3", "b", "red", 3, gateway=GATEWAY)
    wait_served(cloud, "r1", "r2")
    assert (flooded(cloud, "a"), flooded(cloud, "b")) == ("[0, 100]", "[0, 100]")
    with Answers() as answers:
        answers.serve(tagged)
        answers.serve(plain)
        for kind in KINDS:
            for name in ("vm1", "vm2"):
                assert seen(cloud.lab.vm(name), NEXT_HOP, kind) == ("ext", SNAT)
            assert seen(cloud.lab.vm("vm3"), "198.51.100.1", kind) == ("plain", "198.51.100.10")
    assert_well(cloud)


def test_patch_ports_come_with_use_and_go_with_it_and_nothing_of_the_hosts_is_touched(cloud: Cloud) -> None:
    cloud.lab.add_computes(["a", "b"], register="tcp:10.255.0.1:6640", physical_network=PHYSICAL)
    own = ("flood_vlans=200,300", "external_ids:owner=host", "other_config:mac-table-size=4096")
    for name in "ab":
        cloud.lab.compute(name).vsctl("set", "bridge", "br-ex", *own)
    cloud.wait_ready("a", "b")
    computes = [cloud.lab.compute(name) for name in "ab"]
    before = [bridge(c) for c in computes]
    assert [patches(c) for c in computes] == [[], []]
    for name, vlan in (("one", 100), ("two", 200)):
        cloud.call(cloud.service.add_external(name, PHYSICAL, "203.0.113.0/24", vlan=vlan))
    cloud.wait_clean()
    for compute in computes:
        assert patches(compute) == [f"br-ex {PHYSICAL}", f"br-int {PHYSICAL}"]
        assert bridge(compute)["flood_vlans"] == "[100, 200, 300]"
        assert "owner=host" in str(bridge(compute)["external_ids"])
    cloud.call(cloud.service.delete_external("two"))
    cloud.wait_clean()
    assert [bridge(c)["flood_vlans"] for c in computes] == ["[100, 200, 300]"] * 2  # 200 is the host's own
    cloud.call(cloud.service.delete_external("one"))
    cloud.wait_clean()
    assert [patches(c) for c in computes] == [[], []]
    assert [bridge(c) for c in computes] == before
    assert_well(cloud)


def test_a_mapping_that_names_another_bridge_is_followed(cloud: Cloud) -> None:
    outside(cloud, "a")
    behind(cloud, "a")
    compute = cloud.lab.compute("a")
    assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    compute.vsctl("--", "del-port", "br-ex", "eth-ext", "--", "add-br", "br-new", "--", "set", "bridge", "br-new",
                  "datapath_type=netdev", "--", "add-port", "br-new", "eth-ext")  # fmt: skip
    compute.vsctl("set", "open_vswitch", ".", f"other_config:provider_mappings={PHYSICAL}:br-new")
    wait_until(lambda: patches(compute) == [f"br-int {PHYSICAL}", f"br-new {PHYSICAL}"], "patch ports at br-new")
    cloud.wait_clean()
    assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    assert (flooded(cloud, "a"), flooded(cloud, "a", "br-new")) == ("[]", "[0]")
    assert_well(cloud)


def test_a_mapping_that_is_taken_away_takes_the_wire_with_it(cloud: Cloud) -> None:
    outside(cloud, "a")
    behind(cloud, "a")
    compute = cloud.lab.compute("a")
    compute.vsctl("remove", "open_vswitch", ".", "other_config", "provider_mappings")
    wait_until(lambda: patches(compute) == [], "no patch ports")
    cloud.wait_clean()
    assert flooded(cloud, "a") == "[]"
    cloud.assert_clean()
    compute.vsctl("set", "open_vswitch", ".", f"other_config:provider_mappings={PHYSICAL}:br-ex")
    assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    assert_well(cloud)


def test_a_bridge_that_comes_later_or_goes_and_comes_back_is_joined(cloud: Cloud) -> None:
    outside(cloud, "a")
    behind(cloud, "a")
    compute = cloud.lab.compute("a")
    compute.vsctl("del-br", "br-ex")
    wait_until(lambda: "br-ex is no bridge here" in reason_of(cloud, "a"), "the loss to be said")
    wait_until(lambda: patches(compute) == [], "no patch port that leads nowhere")
    compute.vsctl("--", "add-br", "br-ex", "--", "set", "bridge", "br-ex", "datapath_type=netdev",
                  "--", "add-port", "br-ex", "eth-ext")  # fmt: skip
    wait_until(lambda: patches(compute) == [f"br-ex {PHYSICAL}", f"br-int {PHYSICAL}"], "patch ports again")
    assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    assert_well(cloud)


def test_what_a_hand_takes_away_of_the_wire_is_put_back(cloud: Cloud) -> None:
    outside(cloud, "a")
    behind(cloud, "a")
    compute = cloud.lab.compute("a")
    for spoil in (
        lambda: compute.vsctl("clear", "bridge", "br-ex", "flood_vlans"),
        lambda: [compute.vsctl("del-port", p) for p in compute.ports("br-ex") if p.startswith("ebx")],
        lambda: [compute.vsctl("del-port", p) for p in compute.ports("br-int") if p.startswith("ebi")],
    ):
        spoil()
        wait_until(lambda: patches(compute) == [f"br-ex {PHYSICAL}", f"br-int {PHYSICAL}"], "patch ports again")
        wait_until(lambda: flooded(cloud, "a") == "[0]", "learning off again")
        assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    assert_well(cloud)


def test_a_tunnel_to_who_serves_that_a_hand_takes_away_is_made_again_and_used(cloud: Cloud) -> None:
    """What a compute sends by it is without a way meanwhile; that ends with the tunnel, and needs no other event."""
    outside(cloud, "a")
    cloud.add_computes("b")
    behind(cloud, "a", "b")
    b, vm = cloud.lab.compute("b"), cloud.lab.vm("vm2")
    assert vm.reaches(NEXT_HOP)
    (tunnel,) = cloud.controller.member("b").view.tunnels.values()

    def row() -> str:
        return b.vsctl("--bare", "--columns=_uuid", "find", "interface", "type=vxlan").strip()

    old = row()
    b.vsctl("del-port", tunnel.name)
    wait_until(lambda: row() not in ("", old), "another tunnel")
    settle(cloud)
    assert vm.reaches(NEXT_HOP)
    assert_well(cloud)


def test_two_physical_networks_by_one_bridge_have_the_vlans_of_both(cloud: Cloud) -> None:
    outside(cloud, "a")
    compute = cloud.lab.compute("a")
    compute.vsctl("set", "open_vswitch", ".", f'other_config:provider_mappings="{PHYSICAL}:br-ex,physnet2:br-ex"')
    cloud.call(cloud.service.add_external("second", "physnet2", "198.51.100.0/24", vlan=100))
    wait_until(lambda: len(patches(compute)) == 4, "both pairs")
    wait_until(lambda: flooded(cloud, "a") == "[0, 100]", "the VLANs of both")
    cloud.wait_clean()
    cloud.call(cloud.service.delete_external("second"))
    wait_until(lambda: flooded(cloud, "a") == "[0]", "the VLAN of one")
    assert_well(cloud)


# --- the wire: by an interface ---


def test_an_interface_is_taken_only_when_it_is_said_that_nothing_else_needs_it(cloud: Cloud) -> None:
    outside(cloud, "a")
    behind(cloud, "a")
    compute = cloud.lab.compute("a")
    compute.vsctl("set", "open_vswitch", ".", f"other_config:provider_mappings={PHYSICAL}:eth-ext")
    allow = "ovs-vsctl set Open_vSwitch . other_config:ebbtide-provider-interfaces=eth-ext"
    wait_until(lambda: f"eth-ext is no bridge here; if it is an interface that nothing else needs, say so: {allow}" in reason_of(cloud, "a"), "the refusal")  # fmt: skip # noqa: E501
    assert patches(compute) == []
    compute.vsctl(*allow.split()[1:])
    wait_until(lambda: "eth-ext is a port of bridge br-ex: map the bridge" in reason_of(cloud, "a"), "the next one")
    assert "eth-ext" in compute.ports("br-ex")
    compute.vsctl("del-port", "br-ex", "eth-ext")
    wait_until(lambda: "eth-ext" in compute.ports("br-int"), "the interface in br-int")
    assert cloud.lab.vm("vm1").reaches(NEXT_HOP)
    assert_well(cloud)
    compute.vsctl("remove", "open_vswitch", ".", "other_config", "ebbtide-provider-interfaces")
    wait_until(lambda: "eth-ext" not in compute.ports("br-int"), "the interface to be given back")
    assert "say so" in reason_of(cloud, "a")


def test_a_bridge_that_no_patch_port_can_join_and_an_interface_that_is_not_there_are_said(cloud: Cloud) -> None:
    outside(cloud, "a")
    compute = cloud.lab.compute("a")
    compute.vsctl("set", "bridge", "br-ex", "datapath_type=system", wait=False)
    wait_until(lambda: "bridge br-ex has datapath system, br-int another: no patch port" in reason_of(cloud, "a"), "it")
    settings = (f"other_config:provider_mappings={PHYSICAL}:eth9", "other_config:ebbtide-provider-interfaces=eth9")
    compute.vsctl("set", "open_vswitch", ".", *settings, wait=False)
    wait_until(lambda: "eth9" in reason_of(cloud, "a") and "No such device" in reason_of(cloud, "a"), "the error")


# --- coming and going ---


def test_a_router_outside_deleted_in_whatever_order_leaves_nothing(cloud: Cloud) -> None:
    outside(cloud, "a", "b")
    cloud.call(cloud.service.delete_external("out"))
    cloud.add_network("blue", "10.1.0.0/24")
    vms = [cloud.add_vm(f"vm{n}", name, "blue", n, gateway=GATEWAY) for n, name in enumerate("ab", 1)]
    cloud.assert_clean()
    computes = [cloud.lab.compute(name) for name in "ab"]
    before = [(snapshots.flows(c), snapshots.groups(c), patches(c), bridge(c)) for c in computes]
    service = cloud.service
    verbs: dict[str, Callable[[], object]] = {
        "floating": lambda: service.delete_floating("out", "203.0.113.20"),
        "leave": lambda: service.set_router("r1", outside=""),
        "detach": lambda: service.detach("r1", "blue"),
        "router": lambda: service.delete_router("r1"),
        "external": lambda: service.delete_external("out"),
    }
    for order in (list(verbs), list(reversed(verbs))):
        cloud.call(service.add_external("out", PHYSICAL, "203.0.113.0/24", NEXT_HOP))
        route(cloud, "r1", "blue", outside="out", addresses=[SNAT])
        cloud.call(service.add_floating("out", "203.0.113.20", "vm1"))
        wait_served(cloud, "r1")
        for vm in vms:
            vm.exec(["ip", "neigh", "flush", "all"])  # another router, another MAC
            assert vm.reaches(NEXT_HOP)
        assert_well(cloud)
        left = list(order)
        while left:
            verb = left.pop(0)
            try:
                cloud.call(verbs[verb]())  # type: ignore[arg-type]
            except Refused:
                left.append(verb)
            else:
                if verb == "router" and "leave" in left:
                    left.remove("leave")
        cloud.assert_clean()
        assert vms[0].reaches(vms[1].ip)
        wait_until(
            lambda: [(snapshots.flows(c), snapshots.groups(c), patches(c), bridge(c)) for c in computes] == before,
            "everything to be as it was, what tells of connections in use too",
        )
