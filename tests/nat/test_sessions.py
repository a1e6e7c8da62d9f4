"""What an operator is told of a router's connections, from real switches, and how long a move waits for those that nobody knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ebbtide.lab import wait_until
from ebbtide.lab.flows import Load, Traffic
from ebbtide.model.facts import MovePhase
from ebbtide.model.state import NAT
from ebbtide.runtime import natmoves
from tests.support.cloud import Cloud
from tests.support.outside import NEXT_HOP
from tests.support.routed import SNAT, Routed

pytestmark = [pytest.mark.lab, pytest.mark.timeout(200), pytest.mark.xdist_group("natmove")]

TALKS, SILENT = 5, 4
#: Connections that stay: those that talk, and those that say nothing.
LOAD = Load(active=TALKS, silent=SILENT, udp=0, udp_slow=0, new=0, half_open=0, bulk=0, ping=0)


@pytest.fixture
def routed(make_cloud: Callable[..., Cloud]) -> Routed:
    return served(make_cloud)


def served(make_cloud: Callable[..., Cloud]) -> Routed:
    """a and b with a wire, a VM on each; a move waits for five minutes, if nobody says how long."""
    made = Routed(make_cloud(web=True, lag=0.6, nat_patience=300.0), "a", "b")
    for index, name in enumerate("ab", 1):
        made.add_vm(f"vm{index}", name, index)
    made.wait_served()
    return made


@contextmanager
def talking(routed: Routed) -> Iterator[Traffic]:
    """Inside, both VMs have their connections."""
    with Traffic(routed.cloud.lab, outside="ext", vms=["vm1", "vm2"], load=LOAD) as made:
        made.wait_flowing(deadline=30)
        yield made


def sessions(routed: Routed, query: str = "") -> dict[str, Any]:
    status, found = routed.cloud.http("GET", f"/api/v1/nat/sessions/r1{query}")
    assert status == 200, found
    return dict(found)


def told(routed: Routed) -> str:
    return "\n".join(routed.cloud.http("GET", "/api/v1/explain/router/r1")[1]["lines"])


def unrecorded(routed: Routed) -> str:
    """No record is kept of what is opened from now on; gives the compute that serves."""
    routed.cloud.call(routed.cloud.service.set_router("r1", record=False))
    routed.cloud.wait_clean()
    return routed.served_by()


def wait_unknown(routed: Routed) -> None:
    """Until the move waits for connections that nobody knows."""

    def waits() -> bool:
        move = routed.move()
        return move is not None and move.phase is MovePhase.REPLY and move.unknown > 0

    routed.cloud.wait(waits, 60.0, "the move to wait")


def test_connections_are_shown_as_the_switch_and_the_record_have_them(routed: Routed) -> None:
    every = 2 * (TALKS + SILENT)
    with talking(routed):
        routed.cloud.wait(lambda: sum(1 for _ in _entries(routed)) >= every, what="all to be recorded")
        for vm in ("vm1", "vm2"):
            assert routed.cloud.lab.vm(vm).reaches(NEXT_HOP)

        def counted() -> bool:
            """A datapath's counters follow within a second: the record is ahead of them."""
            seen = counted_by(routed, routed.served_by())["opened"]
            return bool(seen["other"] == 2 and seen["tcp"] >= every)

        wait_until(counted, "the switch to have counted all")
        found = sessions(routed, "?limit=100")
    serves, stands_by = found["computes"] if found["computes"][0]["part"] == "serves" else found["computes"][::-1]
    assert (serves["compute"], stands_by["compute"]) == (routed.served_by(), routed.stands_by())
    assert serves["opened"]["tcp"] >= every
    assert serves["opened"]["other"] == 2, "two VMs have pinged"
    assert serves["received"] == serves["opened"]["tcp"] + serves["opened"]["udp"]
    assert (serves["unknown"], stands_by["opened"]["tcp"]) == (0, 0)
    assert found["refused"] == {"sctp": 0, "other": 0, "exhausted": 0}
    assert found["open"] + found["closed"] == len(found["connections"])
    assert {c["external"].partition(":")[0] for c in found["connections"]} == {SNAT}
    assert {c["compute"] for c in found["connections"]} == {routed.served_by()}
    assert {c["source"].partition(":")[0] for c in found["connections"]} == {"10.1.0.1", "10.1.0.2"}


def counted_by(routed: Routed, name: str) -> dict[str, Any]:
    """What one compute says of itself."""
    return next(dict(c) for c in sessions(routed)["computes"] if c["compute"] == name)


def _entries(routed: Routed) -> Iterator[object]:
    yield from routed.cloud.controller.app.cluster.connections.of(routed.state.routers["r1"].tag)


def test_what_nobody_knows_is_shown_waited_for_and_cut_when_the_operator_says_so(routed: Routed) -> None:
    old = unrecorded(routed)
    with talking(routed) as traffic:
        status, _ = routed.cloud.http("POST", "/api/v1/scale-in/start", {"computes": [old], "deadline": 600})
        assert status == 200
        wait_unknown(routed)
        move = routed.move()
        assert move is not None
        assert 590 < move.deadline - time.time() <= 600
        assert f"connection(s) of {old} are in no record; waited for until 2" in told(routed)
        parts = {c["part"]: c for c in sessions(routed)["computes"]}
        assert parts["moves from here"]["unknown"] >= 2 * (TALKS + SILENT)
        remains = routed.cloud.http("GET", "/api/v1/scale-in/status")[1]["computes"][0]["remains"]
        assert any("up to" in text and "in no record" in text for text in remains), remains
        assert traffic.speak() == 2 * SILENT, "until then, who says something is heard"
        status, answer = routed.cloud.http("POST", "/api/v1/nat/deadline/r1", {"seconds": 0})
        assert (status, answer["changed"]) == (200, True)
        routed.wait_moved()
        assert routed.served_by() not in ("", old)
        assert sum(vm.active.broken for vm in traffic.report().vms.values()) == 0, (
            "who talks is carried, record or none"
        )
    routed.cloud.assert_clean()


def test_a_deadline_of_a_scale_in_that_is_over_ends_the_wait_by_itself(routed: Routed) -> None:
    old = unrecorded(routed)
    with talking(routed):
        routed.cloud.call(routed.cloud.service.start([old]))
        wait_unknown(routed)
        began = time.time()
        routed.cloud.call(routed.cloud.service.start([old], deadline=2))
        routed.wait_moved(30.0)
        assert time.time() - began >= 1.0
        assert routed.served_by() not in ("", old)


def test_a_move_that_waits_for_unknown_connections_lets_others_have_its_turn(
    make_cloud: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natmoves, "AT_ONCE", 1)
    routed = served(make_cloud)
    cloud = routed.cloud
    for n in (2, 3, 4):
        cloud.call(cloud.service.add_router(f"r{n}", outside="out", addresses=[f"203.0.113.{9 + n}"]))
        cloud.call(cloud.service.attach(f"r{n}", "blue", f"10.1.0.{255 - n}"))
    cloud.wait(lambda: all(routed.served_by(f"r{n}") for n in range(1, 5)), what="all routers to be served")
    old = unrecorded(routed)
    other = next(r for kind, r in routed.state.designations if kind == NAT and r != "r1" and routed.served_by(r) == old)
    with talking(routed):
        cloud.call(cloud.service.start([old], deadline=600))

        def queued() -> bool:
            first, second = routed.move(), routed.move(other)
            return (
                first is not None and not first.reason and second is not None and "waits for its turn" in second.reason
            )

        cloud.wait(queued, what="the second one to wait for its turn")
        wait_unknown(routed)
        cloud.wait(lambda: routed.move(other) is None, 60.0, "the second one to be over")
        assert routed.served_by(other) not in ("", old)
        move = routed.move()
        assert move is not None
        assert move.phase is MovePhase.REPLY
        assert "in no record" in move.reason
        cloud.call(cloud.service.set_deadline("r1", 0))
        routed.wait_moved()
        assert routed.served_by() not in ("", old)
    cloud.assert_clean()


def test_the_plan_of_a_scale_in_says_what_then_happens_and_how_long_it_takes(routed: Routed) -> None:
    old = routed.served_by()
    with talking(routed) as traffic:
        routed.cloud.wait(lambda: sum(1 for _ in _entries(routed)) >= 2 * (TALKS + SILENT), what="all to be recorded")
        revision = routed.state.revision
        status, told = routed.cloud.http("POST", "/api/v1/scale-in/plan", {"computes": [old]})
        assert status == 200
        assert routed.state.revision == revision, "a plan touches nothing"
        (router,) = told["routers"]
        assert (router["old"], router["new"], router["how"]) == (old, routed.stands_by(), "moves")
        assert router["recorded"] >= 2 * (TALKS + SILENT)
        assert (router["unknown"], router["reason"], router["nat-move-proven"]) == (0, "", True)
        began = time.monotonic()
        routed.cloud.call(routed.cloud.service.start([old]))
        routed.cloud.wait(lambda: not routed.state.moves, 60.0, "the move to be over")
        took = time.monotonic() - began
        print(f"expected {told['expected-seconds']} s, took {took:.1f} s")
        assert told["expected-seconds"] * 0.5 < took < told["expected-seconds"] * 2 + 5.0
        assert routed.served_by() == router["new"]
        assert traffic.speak() == 2 * SILENT
        assert not traffic.report().failures()
    status, both = routed.cloud.http("POST", "/api/v1/scale-in/plan", {"computes": ["a", "b"]})
    assert [(r["new"], r["how"]) for r in both["routers"]] == [("", "stays")]
    assert both["expected-seconds"] == 0.0
    assert routed.cloud.http("POST", "/api/v1/scale-in/plan", {"computes": ["nobody"]})[0] == 400
