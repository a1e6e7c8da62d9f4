"""Scale-in on real switches: start, empty, end, recover, quarantine, readmit, debts."""

from __future__ import annotations

from typing import Any

import pytest

from ebbtide.errors import EbbtideError, NotFound, Refused
from ebbtide.lab import Compute, wait_until
from ebbtide.model.observed import Phase
from ebbtide.runtime import endings
from ebbtide.runtime.auditor import Report
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.second_search import left_of

pytestmark = pytest.mark.lab


def test_a_removed_compute_leaves_nothing_anywhere(trio: Cloud) -> None:
    call, service = trio.call, trio.service
    compute = trio.fact("a")
    assert {line.partition(" with ")[0] for line in left_of(compute, trio.lab, "c")} == {
        "c: flow",
        "c: group",
        "c: row",
    }
    call(service.start(["a"]))
    assert snapshots.bridge_ids(trio.lab.compute("a"))["tombstoned"] == "true"
    with pytest.raises(Refused, match="still carries 1 port"):
        call(service.end(["a"]))
    trio.migrate("vm1", "b")
    operation = call(service.end(["a"]))
    assert operation is not None
    assert operation.state == "done"
    assert "residue 0 on 2 computes" in operation.reason
    assert left_of(compute, trio.lab, "b", "c") == []
    assert snapshots.flows(trio.lab.compute("a")) == []
    assert snapshots.groups(trio.lab.compute("a")) == []
    assert snapshots.tunnels(trio.lab.compute("a")) == []
    assert trio.lab.vm("vm1").ping("10.1.0.3", count=3).lost == 0
    assert trio.assert_clean().removed == ("a",)
    assert call(service.end(["a"])) is not None  # again: already so


def test_a_compute_may_be_ended_as_soon_as_its_last_vm_has_left(trio: Cloud) -> None:
    trio.call(trio.service.start(["a"]))
    migration = trio.lab.migration("vm1", "b")
    migration.begin()
    trio.wait_prepared("vm1")
    migration.switch()
    trio.wait(lambda: trio.place("vm1") == "b", what="flipped")
    migration.finish()
    operation = trio.call(trio.service.end(["a"]))  # it still forwards for vm1: that is waited for, not refused
    assert operation is not None
    assert operation.state == "done"
    assert trio.lab.vm("vm1").reaches("10.1.0.3")
    trio.assert_clean()


def test_a_disconnected_compute_is_removed_as_the_spec_has_it(trio: Cloud) -> None:
    gone = trio.fact("a")
    trio.call(trio.service.start(["a"]))
    trio.migrate("vm1", "b")
    trio.lab.compute("a").unregister()
    trio.lab.compute("a").cut_control()
    trio.wait(lambda: not trio.controller.member("a").connected, what="a disconnected")
    operation = trio.call(trio.service.end(["a"]))
    assert operation is not None
    assert operation.state == "done"
    assert "owed by a" in operation.reason
    assert left_of(gone, trio.lab, "b", "c") == []


def test_a_removed_compute_that_comes_back_is_quarantined_until_readmitted(trio: Cloud) -> None:
    gone = trio.fact("a")
    trio.call(trio.service.start(["a"]))
    trio.migrate("vm1", "b")
    trio.lab.compute("a").cut_control()
    trio.wait(lambda: not trio.controller.member("a").connected, what="a disconnected")
    trio.call(trio.service.end(["a"]))
    assert left_of(gone, trio.lab, "b", "c") == []
    held = len(snapshots.flows(trio.lab.compute("a")))
    assert held > 1
    trio.lab.compute("a").heal_control()
    cluster = trio.controller.app.cluster
    number = next(iter(cluster.state.removed))
    trio.wait(
        lambda: cluster.members[number].phase is Phase.QUARANTINED and cluster.members[number].synced, deadline=30
    )
    wait_until(lambda: len(snapshots.flows(trio.lab.compute("a"))) == 1, "the drop-only flow")
    assert "actions=drop" in snapshots.flows(trio.lab.compute("a"))[0]
    assert snapshots.tunnels(trio.lab.compute("a")) == []
    trio.wait(lambda: not cluster.state.debts, what="debts paid")
    trio.call(trio.service.readmit("a"))
    trio.wait_ready("a", deadline=30)
    trio.migrate("vm1", "a")
    assert trio.lab.vm("vm1").ping("10.1.0.3", count=3).lost == 0
    trio.assert_clean()


def test_recover_gives_back_exactly_what_was_there(trio: Cloud) -> None:
    computes = [trio.lab.compute(name) for name in "abc"]
    for compute, vm in zip(computes, ("vm1", "vm2", "vm3"), strict=True):
        keep_port_number(trio, compute, vm)
    trio.wait_clean()
    before = [snapshots.snapshot(c) for c in computes]
    trio.call(trio.service.start(["a", "b"]))
    marked = [snapshots.snapshot(c) for c in computes]
    assert marked != before
    trio.add_network("green", "10.2.0.0/24")
    trio.add_vm("vmx", "c", "green", 9)
    trio.migrate("vm1", "c")
    trio.lab.compute("b").restart_switch()
    trio.wait_ready("a", "b", "c")
    between = [snapshots.snapshot(c) for c in computes]
    for was, now in zip(marked, between, strict=True):
        for part in ("flows", "groups", "rows"):
            assert now[part] != was[part], part
    trio.lab.remove_vm("vmx")
    trio.call(trio.service.delete_port("vmx"))
    trio.call(trio.service.delete_network("green"))
    trio.call(trio.service.recover(["a", "b"]))
    trio.migrate("vm1", "a")
    keep_port_number(trio, computes[0], "vm1")
    trio.assert_clean()
    for was, compute in zip(before, computes, strict=True):
        assert snapshots.snapshot(compute) == was, compute.name


def keep_port_number(cloud: Cloud, compute: Compute, vm: str) -> None:
    """A tap gets the number 100, whenever it is plugged: the number is the switch's choice, and in every flow of the port."""
    view = cloud.controller.member(compute.name).view
    compute.vsctl("set", "interface", view.ports[vm].name, "ofport_request=100")
    number = cloud.controller.app.cluster.state.by_name[compute.name]
    views = cloud.controller.app.cluster.members[number]
    cloud.wait(lambda: views.view.ports[vm].ofport == 100, what="the port number")


def test_every_bad_id_is_named_and_nothing_is_written(trio: Cloud) -> None:
    service, state = trio.service, trio.controller.app.cluster.state
    with pytest.raises(NotFound, match="nobody"):
        trio.call(service.start(["a", "nobody"]))
    with pytest.raises(Refused, match="not tombstoned"):
        trio.call(service.end(["a"]))
    with pytest.raises(EbbtideError, match="no compute ids"):
        trio.call(service.recover([]))
    assert trio.controller.app.cluster.state is state


def test_an_attempt_that_began_in_another_leadership_proves_nothing(
    trio: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions end with a leadership: what was looked at across its end is nobody's absence."""
    trio.add_computes("d")
    cluster, look = trio.controller.app.cluster, endings.audit
    looks: list[int] = []

    async def interrupted(*given: Any) -> Report:
        looks.append(cluster.store.epoch)
        if len(looks) == 1:
            cluster.store.epoch += 1
            cluster.changed.fire()
            assert await cluster.wait_for(lambda: not any(m.connected for m in cluster.members.values()), 5.0)
        return await look(*given)

    monkeypatch.setattr(endings, "audit", interrupted)
    trio.call(trio.service.start(["d"]))
    _, operations = trio.call(trio.service.begin_end(["d"]))
    trio.call(trio.service.wait_end(operations, 30.0))
    assert len(looks) > 1, "it was looked at again"
    state = cluster.state
    assert not state.debts
    assert "residue 0 on 3 computes" in state.operations[operations[0]].reason
    assert state.proofs[operations[0]].owed == ()
