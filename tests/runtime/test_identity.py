"""The identity table on real wires: clones, re-imaged hosts, addresses and names that change hands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

import pytest

from ebbtide.decide.lifecycle import resolve
from ebbtide.lab import MANAGER_TARGET, Compute, wait_until
from ebbtide.lab.commands import CommandFailed
from ebbtide.lab.compute import PHYSICAL_BRIDGE
from ebbtide.lab.site import TEP_NETWORK
from ebbtide.model import facts
from ebbtide.runtime.vswitch import seen_by_bfd
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.hostile import undisturbed

pytestmark = pytest.mark.lab

SILENCE = 1.5
_MOVED = """["Open_vSwitch", {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [
    ["other_config", "delete", ["set", ["local_ip"]]],
    ["other_config", "insert", ["map", [["local_ip", "TEP"]]]]]}]"""


@pytest.fixture
def trio(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; one network with a VM on each."""
    cloud = make_cloud(silence=SILENCE)
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


def claim(compute: Compute, **ids: str) -> None:
    """What a host says of itself, before it registers."""
    settings = [f"external_ids:{key.replace('_', '-')}={value}" for key, value in ids.items()]
    compute.vsctl("set", "Open_vSwitch", ".", *settings, wait=False)


def move_tep(compute: Compute, tep: str) -> None:
    """The operator gives the host another tunnel address, and says so. The lab's switch knows only the routes that it is told."""
    compute.exec("ip", "addr", "flush", "dev", PHYSICAL_BRIDGE)
    compute.exec("ip", "addr", "add", f"{tep}/{TEP_NETWORK.prefixlen}", "dev", PHYSICAL_BRIDGE)

    def routed() -> bool:
        try:
            compute.appctl("ovs/route/del", str(TEP_NETWORK))
            compute.appctl("ovs/route/add", str(TEP_NETWORK), PHYSICAL_BRIDGE)
        except CommandFailed:
            return False
        return f"SRC {tep}" in compute.appctl("ovs/route/show")

    wait_until(routed, f"the switch of {compute.name} to see its tunnel address")
    compute.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={tep}", wait=False)


def forget_neighbours(cloud: Cloud) -> None:
    """An address has another host's MAC now; the lab's hosts announce nothing, and the switches would remember for 15 minutes.

    They learn from what they translate, not from what a cached flow forwards: so those go too.
    """
    for compute in cloud.lab.computes():
        compute.appctl("tnl/neigh/flush")
        compute.appctl("revalidator/purge")


def refused(cloud: Cloud, what: str, deadline: float = 20.0) -> str:
    """Wait until a session was refused for this; the reason."""
    cluster = cloud.controller.app.cluster
    cloud.wait(lambda: any(what in why for why in cluster.refused.values()), deadline, f"somebody refused: {what}")
    return next(why for why in cluster.refused.values() if what in why)


def fact(cloud: Cloud, name: str) -> facts.Compute:
    state = cloud.controller.app.cluster.state
    return state.computes[state.by_name[name]]


def free_of(compute: Compute, word: str) -> bool:
    return not snapshots.search(compute, word)


# ---- clones ---------------------------------------------------------------------------------------


def test_a_clone_is_refused_while_the_first_is_connected(trio: Cloud) -> None:
    """Same system-id and name, a database of its own: as if the host had been installed twice."""
    a = trio.lab.compute("a")
    before = fact(trio, "a")
    with undisturbed(trio, "a", "b", "c"):
        twin = trio.lab.add_compute("twin", system_id=a.system_id)
        claim(twin, hostname="a")
        twin.register()
        assert "connected already" in refused(trio, "a is connected already by another session")
        assert not twin.has_bridge()
    assert fact(trio, "a") == before
    trio.assert_clean()


def test_a_disk_that_was_copied_is_refused_while_the_first_is_connected(trio: Cloud) -> None:
    """Everything the same, the row of the database too; it has no other way to be told apart than that it came second."""
    a, twin = trio.lab.compute("a"), trio.lab.add_compute("twin")
    before = fact(trio, "a")
    twin.cut_data()
    twin.kill_all()
    shutil.copyfile(a.directory / "conf.db", twin.directory / "conf.db")
    with undisturbed(trio, "a", "b", "c"):
        twin.start_database()
        refused(trio, "a is connected already by another session")
    assert fact(trio, "a") == before
    twin.kill_all()
    trio.assert_clean()


def test_a_copied_disk_with_another_address_is_refused_though_the_first_has_no_session_right_now(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud(silence=60.0)
    a, _ = cloud.add_computes("a", "b")
    before = fact(cloud, "a")
    twin = cloud.lab.add_compute("twin")
    twin.kill_all()
    shutil.copyfile(a.directory / "conf.db", twin.directory / "conf.db")
    a.kill_all()
    cloud.wait(lambda: cloud.controller.member("a").link is None, what="a gone")
    twin.exec(*("ovsdb-tool", "transact", f"{twin.directory}/conf.db", _MOVED.replace("TEP", twin.tep)))
    twin.start_database()
    refused(cloud, "a has the system-id of a but another tunnel address")
    assert cloud.controller.member("a").link is None
    # The first has been restarted, that is all: it is let in at once.
    twin.kill_all()
    a.start_all()
    cloud.wait_ready("a", deadline=30)
    assert fact(cloud, "a") == before


def test_a_host_that_got_another_address_while_it_was_away_is_let_in_after_silence(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud(silence=3.0)
    a, _ = cloud.add_computes("a", "b")
    tep = "172.31.200.1"
    a.unregister()
    cloud.wait(lambda: cloud.controller.member("a").link is None, what="a gone")
    a.kill_switch()
    cloud.wait(lambda: cloud.controller.member("a").switch is None, what="its switch gone")
    a.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={tep}", wait=False)
    a.register()
    refused(cloud, "a has the system-id of a but another tunnel address")
    a.start_switch()
    cloud.wait_ready("a", deadline=30)
    assert fact(cloud, "a").tep == tep


def test_a_host_whose_own_switch_is_still_connected_may_have_another_address_at_once(
    make_cloud: Callable[..., Cloud],
) -> None:
    """Its database was away and came back changed; the switch, connected all the time from the same place, shows that it is the host."""
    cloud = make_cloud(silence=60.0)
    a, _ = cloud.add_computes("a", "b")
    member, tep = cloud.controller.member("a"), "172.31.200.1"
    a.kill_database()
    cloud.wait(lambda: member.link is None, what="a's database gone")
    a.exec(*("ovsdb-tool", "transact", f"{a.directory}/conf.db", _MOVED.replace("TEP", tep)))
    assert member.switch is not None
    a.start_database()
    cloud.wait(lambda: fact(cloud, "a").tep == tep, what="the new address")
    cloud.wait_ready("a", deadline=30)


def test_a_host_of_another_name_with_a_cloned_system_id_is_refused(trio: Cloud) -> None:
    with undisturbed(trio, "a", "b", "c"):
        trio.lab.add_compute("twin", system_id=trio.lab.compute("a").system_id, register=MANAGER_TARGET)
        assert "own external_ids:system-id" in refused(trio, "twin claims the system-id of a")
    assert "twin" not in trio.controller.app.cluster.state.by_name


def test_a_host_of_a_name_that_is_taken_is_refused(trio: Cloud) -> None:
    with undisturbed(trio, "a", "b", "c"):
        other = trio.lab.add_compute("other")
        claim(other, hostname="a")
        other.register()
        refused(trio, "a claims the name of a, which is alive")
        # Told by another name, it is another compute; nobody has to restart anything.
        claim(other, hostname="other")
        trio.wait_ready("other")
    trio.assert_clean()


# ---- a new host under an old name -----------------------------------------------------------------


def test_a_reimaged_host_takes_the_place_of_the_silent_one(trio: Cloud) -> None:
    """With its number, its DPN id, its ports and its mark; the old tunnel address is in nobody's way any more."""
    old = fact(trio, "a")
    trio.lab.remove_vm("vm1")
    trio.wait_clean()
    trio.call(trio.service.start(["a"]))
    with undisturbed(trio, "b", "c", flows=False):
        trio.lab.compute("a").kill_all()
        trio.wait(lambda: trio.controller.member("a").link is None, what="a gone")
        new = trio.lab.add_compute("a2")
        claim(new, hostname="a")
        new.register()
        trio.wait(lambda: fact(trio, "a").system_id == new.system_id, 30, "the new host in a's place")
        trio.wait_ready("a", "b", "c", deadline=30)
    now = fact(trio, "a")
    assert (now.number, now.dpid, now.tombstoned, now.tep) == (old.number, old.dpid, True, new.tep)
    assert {f"system-id:{old.system_id}", f"tep:{old.tep}"} <= set(now.past)
    assert snapshots.bridge_ids(new)["tombstoned"] == "true"
    trio.add_vm("vm4", "a2", "blue", 4)
    assert trio.lab.vm("vm4").reaches("10.1.0.2")
    assert trio.lab.vm("vm4").reaches("10.1.0.3")
    trio.assert_clean()
    for name in ("b", "c"):
        assert [line for line in snapshots.tunnels(trio.lab.compute(name)) if f'"{old.tep}"' in line] == []


def test_a_host_under_the_name_of_one_that_has_just_gone_silent_waits(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud(silence=60.0)
    cloud.add_computes("a")
    before = fact(cloud, "a")
    cloud.lab.compute("a").kill_all()
    cloud.wait(lambda: cloud.controller.member("a").link is None, what="a gone")
    new = cloud.lab.add_compute("a2")
    claim(new, hostname="a")
    new.register()
    refused(cloud, "a claims the name of a, which is alive or was a moment ago")
    assert fact(cloud, "a") == before
    cloud.lab.compute("a").start_all()
    cloud.wait_ready("a", deadline=30)
    assert fact(cloud, "a") == before


def test_one_that_its_peer_sees_by_bfd_is_displaced_by_nobody(make_cloud: Callable[..., Cloud]) -> None:
    """Its control connections are cut for longer than `silence`, and it goes on forwarding. Once it is dead, it can be replaced."""
    cloud = make_cloud(silence=1.0)
    gateway, _ = cloud.add_computes("gw", "peer")
    cloud.call(cloud.service.relate("gw", "peer"))
    cluster, old = cloud.controller.app.cluster, fact(cloud, "gw")
    peer = cloud.controller.member("peer")
    cloud.wait(lambda: peer.tables is not None and old.number in seen_by_bfd(peer.tables), what="BFD up")
    gateway.cut_control()
    member = cloud.controller.member("gw")
    cloud.wait(lambda: member.link is None and member.switch is None, 30, "gw cut off")
    lost = cluster.now()
    new = cloud.lab.add_compute("gw2")
    claim(new, hostname="gw")
    new.register()
    refused(cloud, "gw claims the name of gw, which peers see alive by BFD")
    cloud.wait(lambda: cluster.now() - lost > 1.5, what="silence to be over")
    cluster.refused.clear()
    refused(cloud, "gw claims the name of gw, which peers see alive by BFD")
    assert fact(cloud, "gw") == old
    gateway.kill_all()
    cloud.wait(lambda: fact(cloud, "gw").system_id == new.system_id, 30, "the new host in its place")
    cloud.wait_ready("gw", "peer", deadline=30)
    cloud.assert_clean()


# ---- tunnel addresses -----------------------------------------------------------------------------


def test_the_tunnel_address_of_a_live_compute_is_refused(trio: Cloud) -> None:
    other = trio.lab.add_compute("other")
    other.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={trio.lab.compute('a').tep}", wait=False)
    with undisturbed(trio, "a", "b", "c"):
        other.register()
        refused(trio, "other claims the tep of a, which is alive")
        assert not other.has_bridge()
    other.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={other.tep}", wait=False)
    trio.wait_ready("other")
    trio.assert_clean()


def test_the_tunnel_address_of_a_removed_compute_may_be_used_again(trio: Cloud) -> None:
    tep = trio.lab.compute("a").tep
    trio.call(trio.service.start(["a"]))
    trio.migrate("vm1", "b")
    trio.call(trio.service.end(["a"]))
    trio.lab.remove_compute("a")
    with undisturbed(trio, "b", "c"):
        other = trio.lab.add_compute("other")
        move_tep(other, tep)
        other.register()
        trio.wait_ready("other")
    trio.add_vm("vm4", "other", "blue", 4)
    assert fact(trio, "other").tep == tep
    assert trio.lab.vm("vm4").reaches("10.1.0.2")
    assert trio.lab.vm("vm4").reaches("10.1.0.3")
    assert trio.assert_clean().removed == ("a",)


def test_a_compute_whose_tunnel_address_is_said_no_more_is_reached_as_before(trio: Cloud) -> None:
    """The key is taken away, or the database restarts without it: nobody has asked for the compute to leave."""
    a, old = trio.lab.compute("a"), fact(trio, "a")
    with undisturbed(trio, "a", "b", "c"):
        a.vsctl("remove", "Open_vSwitch", ".", "other_config", "local_ip", wait=False)
        a.vsctl("set", "Open_vSwitch", ".", "external_ids:transport-zone=heard", wait=False)
        trio.wait(lambda: fact(trio, "a").zone == "heard", what="what was said after it")
        trio.wait_clean()
    assert fact(trio, "a").tep == old.tep
    trio.assert_clean()


def test_a_compute_that_changes_its_tunnel_address_keeps_its_tunnels_at_all_peers(trio: Cloud) -> None:
    a, old = trio.lab.compute("a"), fact(trio, "a")
    tep = "172.31.200.1"
    with undisturbed(trio, "b", "c", flows=False):
        move_tep(a, tep)
        trio.wait(lambda: fact(trio, "a").tep == tep, what="the new address")
        for name, ip in (("b", "10.1.0.2"), ("c", "10.1.0.3")):
            peer = trio.lab.compute(name)
            wait_until(partial(free_of, peer, f'"{old.tep}"'), f"the old address to go from {name}")
            assert len([line for line in snapshots.tunnels(peer) if f'"{tep}"' in line]) == 1
            assert trio.lab.vm("vm1").reaches(ip)
    assert f"tep:{old.tep}" in fact(trio, "a").past
    trio.assert_clean()


def test_a_tunnel_address_taken_from_another_is_not_believed(trio: Cloud) -> None:
    """A live compute that announces another's address keeps its own in use: nobody's tunnel is moved."""
    a = trio.lab.compute("a")
    with undisturbed(trio, "a", "b", "c"):
        a.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={trio.lab.compute('b').tep}", wait=False)
        asked = trio.controller.app.cluster.state.revision
        a.vsctl("set", "Open_vSwitch", ".", "external_ids:transport-zone=other", wait=False)
        trio.wait(lambda: fact(trio, "a").zone == "other", what="the claim to be heard")
        assert trio.controller.app.cluster.state.revision > asked
        assert fact(trio, "a").tep == a.tep
    a.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={a.tep}", wait=False)
    trio.assert_clean()


def test_two_computes_exchange_their_tunnel_addresses(trio: Cloud) -> None:
    a, b = trio.lab.compute("a"), trio.lab.compute("b")
    move_tep(a, b.tep)
    status = trio.service.compute_status
    trio.wait(
        lambda: f"its tunnel address {b.tep} is that of b" in status(fact(trio, "a"))["reason"], what="the reason"
    )
    assert (fact(trio, "a").tep, fact(trio, "b").tep) == (a.tep, b.tep)
    move_tep(b, a.tep)
    trio.wait(lambda: (fact(trio, "a").tep, fact(trio, "b").tep) == (b.tep, a.tep), what="the exchange")
    forget_neighbours(trio)
    trio.wait(
        lambda: not status(fact(trio, "a"))["reason"] and not status(fact(trio, "b"))["reason"], what="no reason left"
    )
    for one, other in (("vm1", "10.1.0.2"), ("vm1", "10.1.0.3"), ("vm2", "10.1.0.3")):
        wait_until(partial(trio.lab.vm(one).reaches, other), f"{one} to reach {other}")
    trio.assert_clean()


def test_a_compute_that_takes_anothers_old_address_before_that_has_moved_gets_it_then(trio: Cloud) -> None:
    a, b = trio.lab.compute("a"), trio.lab.compute("b")
    move_tep(a, b.tep)
    trio.wait(lambda: fact(trio, "a").asked == b.tep, what="the claim to be heard")
    move_tep(b, "172.31.200.2")
    trio.wait(lambda: (fact(trio, "a").tep, fact(trio, "b").tep) == (b.tep, "172.31.200.2"), what="both to have moved")
    forget_neighbours(trio)
    for one, other in (("vm1", "10.1.0.2"), ("vm1", "10.1.0.3"), ("vm2", "10.1.0.3")):
        wait_until(partial(trio.lab.vm(one).reaches, other), f"{one} to reach {other}")
    trio.assert_clean()


def test_a_newcomer_with_the_address_of_a_silent_compute_gets_it_when_that_is_ended(trio: Cloud) -> None:
    tep = trio.lab.compute("c").tep
    trio.lab.remove_vm("vm3")
    trio.wait_clean()
    trio.call(trio.service.delete_port("vm3"))
    trio.lab.remove_compute("c")
    new = trio.lab.add_compute("d")
    move_tep(new, tep)
    forget_neighbours(trio)
    new.register()
    trio.wait(lambda: "d" in trio.controller.app.cluster.state.by_name, 30, "the newcomer to wait")
    trio.call(trio.service.approve("d"))
    trio.wait_ready("d")
    assert fact(trio, "d").tep == ""
    assert f"its tunnel address {tep} is that of c" in trio.service.compute_status(fact(trio, "d"))["reason"]
    trio.call(trio.service.start(["c"]))
    trio.call(trio.service.end(["c"]))
    trio.wait(lambda: fact(trio, "d").tep == tep, what="the address that has become free")
    trio.add_vm("vm4", "d", "blue", 4)
    wait_until(partial(trio.lab.vm("vm4").reaches, "10.1.0.1"), "vm4 to reach vm1")
    trio.assert_clean()


# ---- names and DPN ids ----------------------------------------------------------------------------


def test_a_renamed_host_keeps_its_number_and_its_ports(trio: Cloud) -> None:
    a, old = trio.lab.compute("a"), fact(trio, "a")
    member = trio.controller.member("a")
    with undisturbed(trio, "b", "c"):
        a.vsctl("set", "bridge", "br-int", "other_config:dp-desc=rack7", wait=False)
        trio.wait(lambda: "rack7" in trio.controller.app.cluster.state.by_name, what="the new name")
        trio.wait_clean()
    now = fact(trio, "rack7")
    assert (now.number, now.dpid, now.tep) == (old.number, old.dpid, old.tep)
    assert trio.controller.member("rack7") is member
    assert trio.place("vm1") == "rack7"
    assert resolve(trio.controller.app.cluster.state, "a")[0] == now
    assert trio.lab.vm("vm1").ping("10.1.0.2", count=3).lost == 0
    trio.assert_clean()


def test_a_dpn_id_that_is_taken_is_replaced_by_another(trio: Cloud) -> None:
    taken = fact(trio, "a").dpid
    with undisturbed(trio, "a", "b", "c"):
        other = trio.lab.add_compute("other")
        other.vsctl(
            *("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev"),
            f"other_config:datapath-id={taken:016x}",
        )
        other.register()
        trio.wait_ready("other")
        assert fact(trio, "other").dpid != taken
        assert f"{fact(trio, 'other').dpid:016x}" in other.vsctl("get", "bridge", "br-int", "datapath_id")
    trio.assert_clean()


def test_a_dpn_id_that_is_free_is_kept(trio: Cloud) -> None:
    other = trio.lab.add_compute("other")
    other.vsctl(
        *("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev"),
        "other_config:datapath-id=00000000deadbeef",
    )
    other.register()
    trio.wait_ready("other")
    assert fact(trio, "other").dpid == 0xDEADBEEF
    trio.assert_clean()


# ---- the mark -------------------------------------------------------------------------------------


def test_the_mark_is_put_back_by_whatever_hand_or_accident_it_went(trio: Cloud) -> None:
    a = trio.lab.compute("a")
    trio.call(trio.service.start(["a"]))
    trio.wait_clean()
    with undisturbed(trio, "b", "c"):
        a.vsctl("remove", "bridge", "br-int", "external_ids", "tombstoned", wait=False)
        wait_until(lambda: snapshots.bridge_ids(a).get("tombstoned") == "true", "the mark after it was deleted by hand")
        a.vsctl("set", "bridge", "br-int", "external_ids:tombstoned=false", wait=False)
        wait_until(lambda: snapshots.bridge_ids(a).get("tombstoned") == "true", "the mark after it was set by hand")
        trio.call(trio.service.recover(["a"]))
        a.vsctl("set", "bridge", "br-int", "external_ids:tombstoned=true", wait=False)
        wait_until(lambda: "tombstoned" not in snapshots.bridge_ids(a), "a mark that was made by hand to go")
        trio.call(trio.service.start(["a"]))
        a.kill_database()
        trio.wait(lambda: trio.controller.member("a").link is None, what="a's database gone")
        a.start_database()
        trio.wait_ready("a", deadline=30)
        assert snapshots.bridge_ids(a)["tombstoned"] == "true"
    trio.assert_clean()


def test_a_mark_made_while_the_compute_was_away_is_written_at_its_return(trio: Cloud) -> None:
    a = trio.lab.compute("a")
    a.cut_control()
    trio.wait(lambda: not trio.controller.member("a").connected, what="a cut off")
    trio.call(trio.service.start(["a"]))
    assert "tombstoned" not in snapshots.bridge_ids(a)
    a.heal_control()
    trio.wait_ready("a", deadline=30)
    assert snapshots.bridge_ids(a)["tombstoned"] == "true"
    trio.assert_clean()


def test_a_bridge_that_was_deleted_by_hand_is_made_again(trio: Cloud) -> None:
    a = trio.lab.compute("a")
    trio.call(trio.service.start(["a"]))
    trio.wait_clean()
    dpid = fact(trio, "a").dpid
    with undisturbed(trio, "b", "c", flows=False):
        a.vsctl("del-br", "br-int")
        wait_until(lambda: snapshots.bridge_ids(a).get("tombstoned") == "true", "br-int, with the mark", 20)
        trio.wait_ready("a", deadline=30)
    assert f"{dpid:016x}" in a.vsctl("get", "bridge", "br-int", "datapath_id")
    trio.assert_clean()
