"""Which nova-compute a compute is, and when its service is given back or taken away."""

from __future__ import annotations

from typing import Any

import pytest

from ebbtide.openstack.hosts import (
    Compute,
    Ours,
    Service,
    has_gone,
    leftovers,
    match,
    notes,
    ours,
    reason,
    to_enable,
    wants,
)
from ebbtide.openstack.options import Options


def compute(name: str, host: str = "", *, tombstoned: bool = False) -> Compute:
    return Compute(name, host or name, tombstoned)


def service(host: str, why: str | None = None, *, up: bool = True) -> Service:
    """Disabled for a reason; enabled without one."""
    return Service(f"id-{host}", host, why is None, up, why or "")


def by_name(*computes: Compute) -> dict[str, Compute]:
    return {each.name: each for each in computes}


MINE = reason("op1", "a")


def test_each_compute_is_the_nova_compute_of_its_hosts_name() -> None:
    found, wrong = match([compute("a", "nova-a"), compute("b")], [service("b"), service("nova-a"), service("c")])
    assert {name: each.host for name, each in found.items()} == {"a": "nova-a", "b": "b"}
    assert not wrong


def test_a_compute_without_exactly_one_is_nobody_and_it_is_said_why() -> None:
    computes = [compute("a", "x"), compute("b", "x"), compute("c", "c.example"), compute("d")]
    twice = [service("d"), service("d")._replace(id="other")]
    found, wrong = match(computes, [service("x"), service("c"), *twice])
    assert not found
    assert wrong["a"] == wrong["b"] == "a and b all say that they are host x"
    assert "no nova-compute is called c.example; there is c: set external_ids" in wrong["c"]
    assert wrong["d"] == "2 nova-compute services are called d"


def test_a_host_whose_nova_compute_is_down_is_known_and_cannot_be_emptied() -> None:
    found, wrong = match([compute("a")], [service("a", up=False)])
    assert found["a"].host == "a"
    assert "nova-compute of a is down" in wrong["a"]


def test_a_host_of_which_nova_knows_nothing_now_is_left_alone() -> None:
    unknown = Service("", "a", enabled=False, up=False)
    found, wrong = match([compute("a")], [unknown])
    assert not found
    assert "a database of its is down" in wrong["a"]
    assert not to_enable([unknown], by_name(compute("a")))


def test_a_reason_of_ours_names_the_operation_and_the_compute_and_others_are_none() -> None:
    assert ours(service("a", MINE)) == Ours("op1", "a")
    for why in ("", "broken fan", f"{MINE} and a broken fan", "ebbtide drain"):
        assert ours(service("a", why)) is None
    assert ours(service("a", MINE)._replace(enabled=True)) is None


def test_a_service_is_enabled_again_only_if_we_have_disabled_it_and_its_compute_stays() -> None:
    mine = service("a", MINE)
    assert to_enable([mine], by_name(compute("a"))) == [mine]
    assert not to_enable([mine], by_name(compute("a", tombstoned=True))), "the drain goes on"
    assert not to_enable([mine], {}), "it was removed"
    assert not to_enable([mine], by_name(compute("a", "elsewhere"))), "it is another host by now"
    assert not to_enable([service("a", "broken fan")], by_name(compute("a"))), "somebody else's"


def drain(computes: dict[str, str], *options: str, state: str = "done", vms: str = "nova") -> dict[str, Any]:
    items = [{"kind": "compute", "object": name, "state": how} for name, how in computes.items()]
    return {"id": "op1", "state": state, "vms": vms, "mover-options": options, "items": items, "ends": []}


def test_what_is_left_of_a_host_is_a_service_of_ours_that_is_down() -> None:
    down = service("a", MINE, up=False)
    assert leftovers([down], {}) == [down]
    assert not leftovers([service("a", MINE)], {}), "it is up"
    assert not leftovers([service("a", "broken fan", up=False)], {}), "somebody else has disabled it"
    assert not leftovers([service("a", up=False)], {}), "nobody has"
    assert not leftovers([down], by_name(compute("a", tombstoned=True))), "it is a member still"
    assert not leftovers([down], by_name(compute("new", "a"))), "a new machine has its name"


@pytest.mark.parametrize(
    ("operation", "mover", "removes"),
    [
        (drain({}), Options(), False),
        (drain({}, "cold=yes"), Options(), False),
        (drain({}, "remove-hosts=yes"), Options(), True),
        (drain({}, "remove-hosts=yes", state="running"), Options(), True),
        (drain({}, "remove-hosts=yes", vms="ours"), Options(), False),
        (drain({}), Options(remove=True), True),
        (drain({}, "remove-hosts=no"), Options(remove=True), False),
        ({"id": "op1", "state": "done"}, Options(remove=True), False),
    ],
)
def test_hosts_are_removed_where_that_is_asked_for_and_nowhere_else(
    operation: dict[str, Any], mover: Options, removes: bool
) -> None:
    assert wants(operation, "nova", mover) is removes


def test_a_compute_has_gone_when_its_end_is_proven() -> None:
    assert has_gone(drain({"a": "done", "b": "moving"}), "a")
    assert not has_gone(drain({"a": "done", "b": "moving"}), "b")
    assert not has_gone(drain({"a": "failed"}), "a")
    assert not has_gone(drain({"b": "moving"}), "a"), "it was recovered by hand, and the drain resumed without it"
    resumed = drain({"b": "moving"}) | {"ends": [{"state": "done", "computes": ["a"]}]}
    assert has_gone(resumed, "a"), "it went before the drain was resumed"
    assert not has_gone(drain({"a": "moving"}) | {"ends": resumed["ends"]}, "a"), "it is in it again"
    assert not has_gone(drain({"b": "moving"}) | {"ends": [{"state": "failed", "computes": ["a"]}]}, "a")


def test_who_is_disabled_by_somebody_else_is_named() -> None:
    found = notes([service("a", "a broken fan", up=False), service("b"), service("c", MINE), service("d", "")])
    assert found.keys() == {"a", "d"}
    assert "(a broken fan)" in found["a"]
    assert "no reason" in found["d"]
