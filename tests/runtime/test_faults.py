"""What must not be noticed: control connections cut, the controller, the store and switches killed, a store that is not the one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ebbtide.errors import StoreUnreachable
from ebbtide.lab.probes import Probes, pairs_among
from ebbtide.model.observed import Phase
from tests.support import snapshots
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


@pytest.fixture
def pair(cloud: Cloud) -> Cloud:
    cloud.add_computes("a", "b")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("ab", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


@contextmanager
def unnoticed(cloud: Cloud) -> Iterator[None]:
    """Whatever happens inside loses no probe of any pair, silences none, and changes no flow, group or row."""
    before = [snapshots.snapshot(c) for c in cloud.lab.computes()]
    with Probes(cloud.lab) as probes:
        probes.start(pairs_among(cloud.lab.vms()), rate=100)
        probes.wait_flowing()
        probes.mark_phase("fault")
        yield
        # However short it was: every pair has been heard in it.
        probes.wait_flowing()
        probes.mark_phase("after")
        report = probes.stop()
    assert not report.failures("fault"), report.table()
    assert [snapshots.snapshot(c) for c in cloud.lab.computes()] == before


@pytest.fixture
def quartet(cloud: Cloud) -> Cloud:
    """a, b, c, d with a VM each; one network."""
    cloud.add_computes(*"abcd")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("abcd", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


@pytest.mark.parametrize("cut", ["a", "ab", "abcd"], ids=["one", "half", "all"])
def test_cutting_control_connections_takes_no_role_and_touches_no_flow(quartet: Cloud, cut: str) -> None:
    cluster = quartet.controller.app.cluster
    bindings = cluster.state.bindings
    flow_mods = {m.name: m.resync_flow_mods for m in cluster.members.values()}
    with unnoticed(quartet):
        for name in cut:
            quartet.lab.compute(name).cut_control()
        lost = [quartet.controller.member(name) for name in cut]
        quartet.wait(
            lambda: all(m.link is None and m.switch is None for m in lost), what="the cut to be seen on both wires"
        )
        assert cluster.state.bindings == bindings
        for name in cut:
            quartet.lab.compute(name).heal_control()
        quartet.wait_ready(*"abcd", deadline=40)
    assert cluster.state.bindings == bindings
    assert {b[0].phase for b in bindings.values()} == {"active"}
    # Who came back was compared, and sent nothing.
    assert [quartet.controller.member(name).resync_flow_mods for name in cut] == [0] * len(cut), flow_mods
    quartet.assert_clean()


def test_a_killed_store_server_is_a_clear_state_and_nothing_is_forgotten(pair: Cloud) -> None:
    private = pair.controller.app.private
    assert private is not None
    with unnoticed(pair):
        state = pair.controller.app.cluster.state
        pair.call(private.stop())
        pair.wait(lambda: not pair.controller.app.cluster.store.reachable, what="the store away")
        with pytest.raises(StoreUnreachable, match="nothing was changed"):
            pair.call(pair.service.add_network("green", ["10.2.0.0/24"]))
        assert pair.controller.app.cluster.state is state
        pair.wait(pair.controller.app.cluster.store.leading.is_set, what="the store started again")
        pair.wait_ready("a", "b", deadline=30)
    pair.assert_clean()


def test_a_killed_switch_loses_only_its_own_and_is_filled_again(pair: Cloud) -> None:
    pair.lab.compute("a").kill_switch()
    pair.wait(lambda: pair.controller.member("a").switch is None, what="the switch gone")
    pair.lab.compute("a").start_switch()
    pair.wait_ready("a", "b", deadline=30)
    assert pair.lab.vm("vm1").reaches("10.1.0.2")
    pair.assert_clean()


def test_a_new_store_stops_at_the_brake_and_nothing_is_touched(pair: Cloud) -> None:
    with unnoticed(pair):
        pair.controller.stop()
        shutil.rmtree(pair.directory / "state")
        pair.controller = type(pair.controller)(pair.lab, pair.directory / "state")
        cluster = pair.controller.app.cluster
        pair.wait(lambda: [m.phase for m in cluster.members.values()] == [Phase.BRAKED] * 2, what="both braked")
        assert all("the store was replaced" in m.reason for m in cluster.members.values())
        # A client that refills it, until the store is ahead of what the switches carry, changes nothing of that.
        refill(pair)
        stamps = [stamp(pair, name) for name in "ab"]
        for number in range(1000):
            if cluster.state.revision > max(stamps):
                break
            pair.call(pair.service.add_network(f"filler{number}"))
        assert cluster.state.revision > max(stamps)
        assert {m.phase for m in cluster.members.values()} == {Phase.BRAKED}
        pair.wait(lambda: len(cluster.state.bindings) == 2, what="the ports to be where their VMs are")
        assert {m.phase for m in cluster.members.values()} == {Phase.BRAKED}
        assert [stamp(pair, name) for name in "ab"] == stamps
    # Not counted: the new store has given its own numbers to computes, ports and networks, so one key may mean another compute before
    # and after, and for a moment a tunnel's row says whose it was. That is what the operator is asked about.
    approve_and_settle(pair)


def refill(cloud: Cloud) -> None:
    """What the cloud had, asked for again by its user: the network, and each VM's port."""
    cloud.add_network("blue", "10.1.0.0/24")
    for vm in cloud.lab.vms():
        cloud.call(cloud.service.add_port(vm.iface_id, "blue", vm.mac, [vm.ip]))


def stamp(cloud: Cloud, name: str) -> int:
    """The revision that this switch carries."""
    return int(snapshots.stamp(cloud.lab.compute(name)))


def approve_and_settle(cloud: Cloud) -> None:
    """Release the brake; the whole of what the store wants is then on the switches, and VMs talk."""
    assert sorted(cloud.call(cloud.service.reconcile([], approve=True))) == ["a", "b"]
    cloud.wait_ready("a", "b", deadline=30)
    for vm, other in (("vm1", "10.1.0.2"), ("vm2", "10.1.0.1")):
        assert cloud.lab.vm(vm).reaches(other)
    cloud.assert_clean()


def test_yesterdays_store_stops_at_the_brake(pair: Cloud) -> None:
    pair.controller.stop()
    shutil.copytree(
        pair.directory / "state", pair.directory / "yesterday", ignore=shutil.ignore_patterns("*.sock", "*.ctl")
    )
    pair.controller = type(pair.controller)(pair.lab, pair.directory / "state")
    pair.add_vm("vm3", "a", "blue", 3)
    pair.wait_clean()
    bridges = [pair.lab.compute(name) for name in "ab"]
    newest = pair.controller.app.cluster.state.revision
    pair.wait(
        lambda: all(
            f'ebbtide-revision="{newest}"' in c.vsctl("get", "bridge", "br-int", "external_ids") for c in bridges
        ),
        what="the stamp on both switches",
    )
    with unnoticed(pair):
        pair.controller.stop()
        shutil.rmtree(pair.directory / "state")
        shutil.copytree(pair.directory / "yesterday", pair.directory / "state")
        pair.controller = type(pair.controller)(pair.lab, pair.directory / "state")
        cluster = pair.controller.app.cluster
        pair.wait(lambda: [m.phase for m in cluster.members.values()] == [Phase.BRAKED] * 2, what="both braked")
        pair.restart_controller()
        cluster = pair.controller.app.cluster
        pair.wait(lambda: [m.phase for m in cluster.members.values()] == [Phase.BRAKED] * 2, what="braked still")
    assert pair.call(pair.service.reconcile([], approve=True)) == ["a", "b"]
    pair.wait_ready("a", "b", deadline=30)
    assert pair.lab.vm("vm1").reaches("10.1.0.2")


def test_a_backup_that_is_restored_changes_nothing_before_it_is_approved(pair: Cloud) -> None:
    backup = pair.service.backup()
    pair.add_vm("vm3", "a", "blue", 3)
    pair.wait_clean()
    with unnoticed(pair):
        assert pair.call(pair.service.restore(backup)) > 4
        cluster = pair.controller.app.cluster
        assert "vm3" not in cluster.state.ports
        pair.wait(lambda: [m.phase for m in cluster.members.values()] == [Phase.BRAKED] * 2, what="both braked")
    pair.call(pair.service.reconcile([], approve=True))
    pair.wait_ready("a", "b", deadline=30)
    pair.assert_clean()
    assert pair.lab.vm("vm1").reaches("10.1.0.2")
    assert not pair.lab.vm("vm3").ping("10.1.0.1", count=2).received


def test_a_restored_store_may_be_approved_for_one_compute_after_the_other(pair: Cloud) -> None:
    call, service = pair.call, pair.service
    assert call(service.restore(service.backup())) > 4
    cluster = pair.controller.app.cluster
    pair.wait(lambda: [m.phase for m in cluster.members.values()] == [Phase.BRAKED] * 2, what="both braked")
    assert call(service.reconcile(["a"], approve=True)) == ["a"]
    pair.wait_ready("a", deadline=30)
    assert cluster.store.hold
    pair.add_network("green", "10.2.0.0/24")  # a revision more, and a step for nobody: a stays let go, b stays held
    call(service.reconcile(["a"], approve=False))
    pair.wait_ready("a", deadline=30)
    assert pair.controller.member("b").phase is Phase.BRAKED
    assert call(service.reconcile(["b"], approve=True)) == ["b"]
    pair.wait_ready("a", "b", deadline=30)
    pair.wait(lambda: not cluster.store.hold, what="the store's mark gone")
    pair.restart_controller()
    pair.wait_ready("a", "b", deadline=30)
    pair.assert_clean()
