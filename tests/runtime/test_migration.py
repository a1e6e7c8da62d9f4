"""Live migration as libvirt does it: plugged at both ends for minutes, with every frame counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ebbtide.lab.probes import Probes, Report, pairs_among
from ebbtide.model.facts import BindingPhase
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; one network; vm1 on a, vm2 on b, vm3 on c, vm4 (the one that moves) on a."""
    cloud = make_cloud()
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, compute in enumerate("abca", 1):
        cloud.add_vm(f"vm{index}", compute, "blue", index)
    cloud.wait_clean()
    return cloud


@contextmanager
def counted(cloud: Cloud) -> Iterator[list[Report]]:
    """Probes between all VMs, also the moving one, from here to there: none is lost."""
    reports: list[Report] = []
    with Probes(cloud.lab) as probes:
        probes.start(pairs_among(cloud.lab.vms()), rate=50)
        probes.wait_flowing()
        probes.mark_phase("counted")
        yield reports
        probes.mark_phase("after")
        reports.append(probes.stop())
    assert not reports[0].failures("counted"), reports[0].table()


def phases(cloud: Cloud, port: str = "vm4") -> dict[str, BindingPhase]:
    state = cloud.controller.app.cluster.state
    return {state.computes[b.compute].name: b.phase for b in state.bindings.get(port, ())}


def begin(cloud: Cloud, target: str = "b"):  # type: ignore[no-untyped-def]
    migration = cloud.lab.migration("vm4", target)
    migration.begin()
    cloud.wait_prepared("vm4")
    assert phases(cloud)[target] is BindingPhase.PENDING
    return migration


def test_a_port_that_is_plugged_twice_stays_until_the_guest_speaks_at_the_other_end(cloud: Cloud) -> None:
    with counted(cloud):
        migration = begin(cloud)
        assert phases(cloud) == {"a": BindingPhase.ACTIVE, "b": BindingPhase.PENDING}
        migration.switch()
        cloud.wait(lambda: cloud.place("vm4") == "b", what="flipped")
        assert phases(cloud)["a"] is BindingPhase.LEAVING
        migration.finish()
        cloud.wait_clean()
        assert phases(cloud) == {"b": BindingPhase.ACTIVE}
    cloud.assert_clean()


def test_a_guest_that_says_nothing_is_found_by_its_interface_that_is_gone_at_the_source(cloud: Cloud) -> None:
    """It only listens, at both ends: no frame of it is ever seen at the destination."""
    heard = [(cloud.lab.vm(name), cloud.lab.vm("vm4")) for name in ("vm1", "vm2", "vm3")]
    with Probes(cloud.lab) as probes:
        probes.start(heard, rate=50)
        probes.wait_flowing()
        probes.mark_phase("counted")
        migration = begin(cloud)
        migration.switch(announce=False)
        assert phases(cloud) == {"a": BindingPhase.ACTIVE, "b": BindingPhase.PENDING}
        migration.finish()
        cloud.wait(lambda: phases(cloud).get("b") is BindingPhase.ACTIVE, what="flipped")
        assert not cloud.controller.app.cluster.places.evidence("vm4")
        cloud.wait_clean()
        probes.mark_phase("after")
        report = probes.stop()
    assert not report.failures("counted"), report.table()
    assert phases(cloud) == {"b": BindingPhase.ACTIVE}
    cloud.assert_clean()


def test_a_migration_that_fails_moves_nothing(cloud: Cloud) -> None:
    with counted(cloud):
        begin(cloud).fail()
        cloud.wait(lambda: phases(cloud) == {"a": BindingPhase.ACTIVE}, what="back to one place")
        cloud.wait_clean()
    cloud.assert_clean()


def test_a_controller_that_restarts_during_the_overlap_goes_on(cloud: Cloud) -> None:
    with counted(cloud):
        migration = begin(cloud)
        cloud.restart_controller()
        cloud.wait_ready("a", "b", "c")
        assert phases(cloud) == {"a": BindingPhase.ACTIVE, "b": BindingPhase.PENDING}
        migration.switch()
        cloud.wait(lambda: cloud.place("vm4") == "b", what="flipped")
        migration.finish()
        cloud.wait_clean()
    cloud.assert_clean()


def test_a_guest_that_wakes_while_the_controller_is_away_is_served_and_found(cloud: Cloud) -> None:
    with counted(cloud):
        migration = begin(cloud)
        cloud.controller.stop()
        migration.switch()
        migration.await_announced()
        cloud.controller = type(cloud.controller)(cloud.lab, cloud.directory / "state")
        cloud.wait(lambda: cloud.place("vm4") == "b", what="flipped by its own frames")
        migration.finish()
        cloud.wait_clean()
    cloud.assert_clean()


def test_there_and_back_again(cloud: Cloud) -> None:
    with counted(cloud):
        for target in ("b", "a", "c", "a"):
            cloud.migrate("vm4", target)
            assert cloud.place("vm4") == target
    cloud.assert_clean()
