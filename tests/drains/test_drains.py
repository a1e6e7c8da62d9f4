"""Drains on real switches: emptied, removed, proven; recovered and named; aborted to what was before; gone on with by the next one."""

from __future__ import annotations

from typing import Any

import pytest

from ebbtide.lab.commands import wait_until
from ebbtide.model.facts import Operation
from ebbtide.runtime.rebalances import drained
from tests.drains.conftest import moving
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


def drain(cloud: Cloud, *names: str, **wish: Any) -> dict[str, Any]:
    """Begin one by REST; its operation."""
    status, told = cloud.http("POST", "/api/v1/drains", {"computes": list(names), **wish})
    assert status == 202, told
    return dict(told["operation"])


def operation(cloud: Cloud, found: dict[str, Any]) -> Operation:
    return cloud.controller.app.cluster.state.operations[found["id"]]


def wait_over(cloud: Cloud, found: dict[str, Any], deadline: float = 60.0) -> dict[str, Any]:
    cloud.wait(lambda: not operation(cloud, found).open, deadline, "the drain to be over")
    return detail(cloud, found)


def detail(cloud: Cloud, found: dict[str, Any]) -> dict[str, Any]:
    status, told = cloud.http("GET", f"/api/v1/operations/{found['id']}")
    assert status == 200, told
    return dict(told)


def states(told: dict[str, Any], kind: str) -> dict[str, str]:
    return {i["object"]: i["state"] for i in told["items"] if i["kind"] == kind}


def test_two_computes_are_emptied_removed_and_proven(four: Cloud) -> None:
    with moving(four):
        begun = drain(four, "a", "b", vms="lab")
        told = wait_over(four, begun)
    assert told["state"] == "done", told
    assert states(told, "compute") == {"a": "done", "b": "done"}
    assert states(told, "vm") == {"vm1": "done", "vm2": "done"}
    assert states(told, "service")["nat r1"] == "done"
    state = four.controller.app.cluster.state
    assert sorted(c.name for c in state.members()) == ["c", "d"]
    assert {p for o in state.proofs.values() for p in o.computes} == {1, 2}
    assert four.lab.vm("vm1").ping("10.1.0.3", count=3).lost == 0
    four.assert_clean()


def marks(cloud: Cloud) -> dict[str, bool]:
    return {c.name: c.tombstoned for c in cloud.controller.app.cluster.state.members()}


def places(cloud: Cloud) -> dict[tuple[str, str], tuple[int, int]]:
    """Who is designated for what, and who stands by."""
    return {key: (d.compute, d.standby) for key, d in cloud.controller.app.cluster.state.designations.items()}


def test_who_cannot_be_emptied_by_the_deadline_is_recovered_and_named(four: Cloud) -> None:
    with moving(four, "vm2"):
        begun = drain(four, "a", "b", "c", vms="lab", deadline=12, force="the worked example of the specification")
        told = wait_over(four, begun)
    assert told["state"] == "partial", told
    assert states(told, "compute") == {"a": "done", "b": "failed", "c": "done"}
    assert marks(four) == {"b": False, "d": False}
    reason = next(i["reason"] for i in told["items"] if i["object"] == "b")
    assert "vm2" in reason
    assert "does not fit" in reason
    assert four.lab.vm("vm1").ping("10.1.0.2", count=3).lost == 0
    four.assert_clean()


def test_an_aborted_drain_leaves_marks_services_and_standbys_as_they_were(four: Cloud) -> None:
    before = places(four)
    begun = drain(four, "a", "b")
    a = four.fact("a").number
    state = four.controller.app.cluster
    four.wait(lambda: state.state.designations[("nat", "r1")].compute != a, 40, "the NAT to have left")
    status, told = four.http("POST", f"/api/v1/operations/{begun['id']}/abort", {})
    assert status == 202, told
    told = wait_over(four, begun)
    assert told["state"] == "aborted", told
    assert "as it was" in told["reason"]
    assert not any(marks(four).values())
    four.wait_clean()
    assert places(four) == before
    four.assert_clean()


def test_the_next_controller_goes_on_with_a_drain(four: Cloud) -> None:
    begun = drain(four, "a", "b", vms="lab")
    four.restart_controller()
    with moving(four):
        told = wait_over(four, begun)
    assert told["state"] == "done", told
    four.assert_clean()


def test_drains_of_the_same_computes_do_not_cross(four: Cloud) -> None:
    begun = drain(four, "a")
    status, told = four.http("POST", "/api/v1/drains", {"computes": ["a", "b"]})
    assert status == 409
    assert begun["id"] in str(told)
    status, told = four.http("POST", "/api/v1/drains", {"computes": ["a"]})
    assert (status, told["changed"], told["operation"]["id"]) == (202, False, begun["id"])
    status, told = four.http("POST", "/api/v1/drains", {"computes": ["b", "c"]})
    assert status == 409
    assert "50%" in str(told)
    assert marks(four) == {"a": True, "b": False, "c": False, "d": False}


def test_a_dead_compute_is_removed_without_its_help_and_pays_at_its_return(cloud_of_dead: Cloud) -> None:
    cloud = cloud_of_dead
    status, told = cloud.http("POST", "/api/v1/drains", {"computes": ["a"], "dead": True})
    assert status == 409
    assert "is connected" in str(told)
    cloud.lab.compute("a").kill_all()
    cloud.wait(lambda: not cloud.controller.member("a").connected, what="a dead")
    status, told = cloud.http("POST", "/api/v1/drains", {"computes": ["a"], "dead": True})
    assert status == 409
    assert "silent" in str(told) or "seen by" in str(told)

    def taken() -> bool:
        return cloud.http("POST", "/api/v1/drains", {"computes": ["a"], "dead": True})[0] == 202

    wait_until(taken, "a to be taken for dead", deadline=20)
    found = next(o for o in cloud.controller.app.cluster.state.operations.values() if o.verb == "drain")
    told = wait_over(cloud, {"id": found.id})
    assert told["state"] == "done", told
    assert states(told, "vm") == {"vm1": "skipped"}
    state = cloud.controller.app.cluster.state
    assert sorted(c.name for c in state.members()) == ["b", "c", "d"]
    assert not state.bindings.get("vm1")
    cloud.assert_clean()


def test_nothing_is_rebalanced_while_a_drain_goes_on(four: Cloud) -> None:
    begun = drain(four, "a")
    assert begun["id"] in drained(four.controller.app.cluster.state)
    four.http("POST", f"/api/v1/operations/{begun['id']}/abort", {})
    wait_over(four, begun)
    assert drained(four.controller.app.cluster.state) == ""
