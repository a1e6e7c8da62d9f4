"""What a plan says is what then happens: services, VMs, tunnels and flows, counted with Open vSwitch's own tools."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.drains.conftest import moving
from tests.drains.test_drains import drain, states, wait_over
from tests.support.cloud import Cloud
from tests.support.outside import settle

pytestmark = pytest.mark.lab
_COUNTERS = re.compile(r"(cookie|duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]+,? ?")


#: By which a router's record takes turns: there for a minute, away for a second.
_TURN = re.compile(r"table=46, priority=33,.*ct_mark=")


def keys(cloud: Cloud, name: str) -> set[str]:
    """A compute's flows by table, priority and match."""
    lines = [x for x in cloud.lab.compute(name).ofctl("dump-flows", "br-int").splitlines() if "cookie=" in x]
    found = {_COUNTERS.sub("", x).split(" actions=")[0].replace("send_flow_rem ", "").strip() for x in lines}
    return {x for x in found if not _TURN.search(x)}


def tunnels(cloud: Cloud, name: str) -> set[str]:
    return set(cloud.lab.compute(name).vsctl("--bare", "--columns=name", "find", "Interface", "type=vxlan").split())


def plan(cloud: Cloud, *names: str, **wish: Any) -> dict[str, Any]:
    status, told = cloud.http("POST", "/api/v1/drains", {"computes": list(names), "plan": True, **wish})
    assert status == 200, told
    return dict(told)


def test_the_numbers_of_a_plan_are_what_then_happens(four: Cloud) -> None:
    settle(four)
    assert tunnels(four, "c")
    before = {name: keys(four, name) for name in "abcd"}
    had = {name: tunnels(four, name) for name in "abcd"}
    revision = four.controller.app.cluster.state.revision
    told = plan(four, "a", "b", vms="lab")
    assert four.controller.app.cluster.state.revision == revision
    with moving(four):
        done = wait_over(four, drain(four, "a", "b", vms="lab"))
    assert done["state"] == "done", done
    settle(four)
    after = {name: keys(four, name) for name in "cd"}
    has = {name: tunnels(four, name) for name in "cd"}
    made = {name: len(after[name] - before[name]) for name in "cd"}
    gone = {name: len(before[name] - after[name]) for name in "cd"}
    flows = told["flows"]
    assert (flows["made"], flows["gone"]) == (sum(made.values()), sum(gone.values())), (flows, made, gone)
    assert flows["wiped"] == len(before["a"]) + len(before["b"])
    assert told["tunnels"] == {
        "made": sum(len(has[n] - had[n]) for n in "cd"),
        "gone": sum(len(had[n] - has[n]) for n in "cd"),
    }
    served = {i["object"]: i["target"] for i in done["items"] if i["kind"] == "service"}
    assert {s["service"]: s["new"] for s in told["services"]} == served
    assert {v["vm"]: v["target"] for v in told["vms"]} == {
        i["object"]: i["target"] for i in done["items"] if i["kind"] == "vm"
    }
    loads = {x["compute"]: x["vms-after"] for x in told["loads"]}
    state = four.controller.app.cluster.state
    assert loads == {n: len(state.ports_on.get(four.fact(n).number, ())) for n in loads}
    assert states(done, "compute") == {"a": "done", "b": "done"}


def test_a_plan_says_what_would_be_refused_and_why(four: Cloud) -> None:
    told = plan(four, "a", "b", "c")
    assert [p["code"] for p in told["problems"]] == ["share"]
    assert [s["how"] for s in told["services"]] == ["later", "later"]
    told = plan(four, "a", "b", "c", "d", force="all of it")
    assert {p["about"] for p in told["problems"]} == {"nat r1", "subnet blue 10.1.0.0/24"}
