"""A compute that could not be reached when another was removed: what it still holds is owed, named, and paid before anything else."""

from __future__ import annotations

import pytest

from ebbtide.errors import Refused
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.second_search import left_of

pytestmark = pytest.mark.lab


def test_what_a_survivor_could_not_be_told_is_owed_until_it_is_back(trio: Cloud) -> None:
    call, service, cluster = trio.call, trio.service, trio.controller.app.cluster
    gone, c = trio.fact("a"), trio.lab.compute("c")
    call(service.start(["a"]))
    c.cut_control()
    trio.wait(lambda: not trio.controller.member("c").connected, what="c cut off")
    # a is emptied and removed meanwhile; c knows nothing of it.
    held = snapshots.snapshot(c)
    trio.lab.remove_vm("vm1")
    trio.wait(lambda: "vm1" not in cluster.state.bindings, what="a to be empty")
    operation = call(service.end(["a"]))
    assert operation is not None
    assert (operation.state, "owed by c" in operation.reason) == ("done", True), operation.reason
    assert snapshots.snapshot(c) == held
    assert left_of(gone, trio.lab, "b") == []
    assert {line.partition(" with ")[0] for line in left_of(gone, trio.lab, "c")} == {"c: flow", "c: group", "c: row"}
    # Who asks is told: by the audit, by the state of c, and by a refusal of what would give a's number away.
    report = trio.audit()
    assert (report.computes, report.unreachable, report.removed) == (("b",), ("c",), ("a",))
    assert {(d.compute, d.removed) for d in cluster.state.debts.values()} == {(trio.fact("c").number, gone.number)}
    with pytest.raises(Refused, match=r"\bc\b"):
        call(service.readmit("a"))
    assert gone.number in cluster.state.removed

    c.heal_control()
    trio.wait(lambda: not cluster.state.debts, deadline=40, what="the debt to be paid")
    trio.wait_ready("b", "c", deadline=30)
    assert left_of(gone, trio.lab, "b", "c") == []
    assert trio.lab.vm("vm2").ping("10.1.0.3", count=3).lost == 0
    report = trio.assert_clean()
    assert (report.computes, report.unreachable) == (("b", "c"), ())
    call(service.readmit("a"))
    trio.wait_ready("a", "b", "c", deadline=30)


def test_a_debt_outlives_the_controller(trio: Cloud) -> None:
    gone, c = trio.fact("a"), trio.lab.compute("c")
    trio.call(trio.service.start(["a"]))
    c.cut_control()
    trio.wait(lambda: not trio.controller.member("c").connected, what="c cut off")
    trio.lab.remove_vm("vm1")
    trio.wait(lambda: "vm1" not in trio.controller.app.cluster.state.bindings, what="a to be empty")
    trio.call(trio.service.end(["a"]))
    trio.restart_controller()
    cluster = trio.controller.app.cluster
    assert {d.removed for d in cluster.state.debts.values()} == {gone.number}
    with pytest.raises(Refused, match=r"\bc\b"):
        trio.call(trio.service.readmit("a"))
    c.heal_control()
    trio.wait(lambda: not cluster.state.debts, deadline=40, what="the debt to be paid")
    assert left_of(gone, trio.lab, "b", "c") == []
    trio.wait_ready("b", "c", deadline=30)
    trio.assert_clean()
