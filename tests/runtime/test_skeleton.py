"""The walking skeleton: two computes, ping, restart, audit, a gateway relation with warm tunnels, settling, BFD."""

from __future__ import annotations

import pytest

from ebbtide.lab.probes import Probes, pairs_among
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


def two_computes(cloud: Cloud) -> None:
    cloud.add_computes("a", "b")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_vm("vm1", "a", "blue", 1)
    cloud.add_vm("vm2", "b", "blue", 2)
    cloud.add_vm("vm3", "a", "blue", 3)
    cloud.wait_clean()


def test_vms_on_two_computes_reach_each_other(cloud: Cloud) -> None:
    two_computes(cloud)
    for target in ("10.1.0.2", "10.1.0.3"):
        assert cloud.lab.vm("vm1").ping(target, count=3).lost == 0
    cloud.assert_clean()


def test_a_restarted_controller_sends_no_flow_mod_and_loses_no_packet(cloud: Cloud) -> None:
    two_computes(cloud)
    vms = cloud.lab.vms()
    with Probes(cloud.lab) as probes:
        probes.start(pairs_among(vms), rate=50)
        probes.wait_flowing()
        probes.mark_phase("restart")
        cloud.restart_controller()
        cloud.wait_ready("a", "b")
        probes.mark_phase("after")
        report = probes.stop()
    for member in cloud.controller.app.cluster.members.values():
        assert (member.resyncs, member.resync_flow_mods) == (1, 0)
    assert not report.failures("restart"), report.table()
    assert report.lost("restart") == 0, report.table()
    cloud.assert_clean()


def test_a_restarted_switch_is_filled_again(cloud: Cloud) -> None:
    two_computes(cloud)
    cloud.lab.compute("a").restart_switch()
    cloud.wait(lambda: cloud.controller.member("a").resyncs == 2, what="second resync")
    cloud.wait_ready("a", "b")
    assert cloud.lab.vm("vm1").reaches("10.1.0.2")
    cloud.assert_clean()


def test_a_migrating_vm_that_is_probed_throughout_loses_nothing(cloud: Cloud) -> None:
    two_computes(cloud)
    with Probes(cloud.lab) as probes:
        probes.start(pairs_among(cloud.lab.vms()), rate=100)
        probes.wait_flowing()
        probes.mark_phase("move")
        migration = cloud.lab.migration("vm3", "b")
        migration.begin()
        cloud.wait(lambda: len(cloud.controller.app.cluster.state.bindings["vm3"]) == 2, what="pending")
        assert cloud.place("vm3") == "a"
        cloud.wait_prepared("vm3")
        migration.switch()
        cloud.wait(lambda: cloud.place("vm3") == "b", what="flipped")
        migration.finish()
        cloud.wait_clean()
        probes.mark_phase("after")
        report = probes.stop()
    assert not report.failures("move"), report.table()
    assert report.lost("move") == 0, report.table()
    cloud.assert_clean()
    assert cloud.lab.vm("vm1").ping("10.1.0.3", count=3).lost == 0
