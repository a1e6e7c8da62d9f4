"""Who answers for a subnet's unknown addresses: the rules of NAT's election, for services that hold nothing.

Every story is told of each kind that there is; object number n is network n's: the subnet that a router has there.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ebbtide.decide import duties, parts, scalein
from ebbtide.decide.designation import Standing
from ebbtide.decide.duties import SUBNETS, Kind
from ebbtide.model.facts import Binding, Compute, Designation, Edit, Fact
from ebbtide.model.state import State, subnet_name
from tests.fakes.clouds import ACTIVE, change, compute, leg, network, port, router, state

WELL = Standing(ready=True, reachable=True)
#: Its session is lost, and peers see it by BFD all the same; who is absent, by its own fault.
SILENT, ABSENT = Standing(), Standing(absent=True)
DEAD = Standing(dead=True)

each_kind = pytest.mark.parametrize("kind", duties.KINDS, ids=lambda kind: kind.name)


def cloud(kind: Kind, *computes: Compute, networks: int = 1) -> State:
    """These computes, each with a port in each of the networks."""
    facts: list[Fact] = list(computes)
    for n in range(1, networks + 1):
        facts.append(network(n))
        facts += [router(n), leg(n, n)]
        for c in computes:
            facts += [port(100 * n + c.number, n), Binding(f"p{100 * n + c.number}", c.number, ACTIVE)]
    return state(*facts)


def judged(found: State, **others: Standing) -> State:
    """Judged until there is nothing more to say. All are well, but for those named (c1=DEAD)."""
    for _ in range(3):
        edits = duties.judge(found, {c.number: others.get(c.name, WELL) for c in found.members()})
        if not edits:
            return found
        found = change(found, *edits)
    raise AssertionError(f"it never comes to rest: {edits}")


def name(kind: Kind, n: int) -> str:
    assert kind is SUBNETS
    return subnet_name(f"n{n}", "10.1.0.0/16")


def place(found: State, kind: Kind, n: int = 1) -> tuple[int, int]:
    """Who serves and who stands by; 0 is nobody."""
    held = found.designations.get((kind.name, name(kind, n)))
    return (held.compute, held.standby) if held is not None else (0, 0)


def served_by(kind: Kind, one: int, two: int, *computes: Compute) -> State:
    return change(cloud(kind, *computes), Edit(None, Designation(kind.name, name(kind, 1), one, two)))


def three(**first: bool) -> Iterable[Compute]:
    return (compute(1, **first), compute(2), compute(3))


@each_kind
def test_what_needs_a_compute_gets_one_and_another_that_stands_by_and_keeps_them(kind: Kind) -> None:
    found = judged(cloud(kind, *three()))
    one, two = place(found, kind)
    assert one
    assert two
    assert one != two
    assert judged(found) is found


@each_kind
@pytest.mark.parametrize("how", [compute(1, tombstoned=True), compute(1, teps=()), compute(1, weight=0)])
def test_who_is_to_leave_or_cannot_be_reached_by_others_is_not_designated(kind: Kind, how: Compute) -> None:
    assert place(judged(cloud(kind, how, compute(2))), kind) == (2, 0)
    assert place(judged(cloud(kind, how)), kind) == (0, 0)


@each_kind
@pytest.mark.parametrize("standing", [SILENT, ABSENT, DEAD, Standing(reachable=True, reason="braked")])
def test_who_is_not_ready_is_not_designated(kind: Kind, standing: Standing) -> None:
    assert place(judged(cloud(kind, compute(1), compute(2)), c1=standing), kind) == (2, 0)


@each_kind
def test_many_are_spread_over_all(kind: Kind) -> None:
    found = judged(cloud(kind, *three(), networks=9))
    held = [place(found, kind, n)[0] for n in range(1, 10)]
    assert sorted(held.count(n) for n in (1, 2, 3)) == [3, 3, 3]


@each_kind
def test_who_serves_and_is_to_leave_is_followed_by_who_stood_by_though_its_last_port_is_still_there(kind: Kind) -> None:
    after = judged(served_by(kind, 1, 2, *three(tombstoned=True)))
    assert place(after, kind) == (2, 3)


@each_kind
def test_who_stands_by_and_is_to_leave_is_replaced(kind: Kind) -> None:
    assert place(judged(served_by(kind, 2, 1, *three(tombstoned=True))), kind) == (2, 3)


@each_kind
def test_of_all_that_one_served_nothing_stays_with_it_when_it_dies(kind: Kind) -> None:
    found = judged(cloud(kind, *three(), networks=9))
    had = [n for n in range(1, 10) if place(found, kind, n)[0] == 1]
    assert len(had) == 3
    after = judged(found, c1=DEAD)
    assert all(1 not in place(after, kind, n) for n in range(1, 10))
    assert sorted(place(after, kind, n)[0] for n in range(1, 10)).count(2) in (4, 5)
    for n in range(1, 10):
        if n not in had:
            assert place(after, kind, n)[0] == place(found, kind, n)[0], "of others nothing moves"


@each_kind
def test_who_has_lost_its_session_by_its_own_fault_serves_nobody_and_who_has_not_keeps_it(kind: Kind) -> None:
    found = served_by(kind, 1, 2, *three())
    assert place(judged(found, c1=SILENT), kind) == (1, 2)
    assert place(judged(found, c1=ABSENT), kind) == (2, 3)


@each_kind
def test_who_is_alone_stays_until_its_end_and_nothing_of_it_is_left_as_a_stale_next_hop(kind: Kind) -> None:
    found = served_by(kind, 1, 0, compute(1, tombstoned=True))
    assert judged(found) is found
    assert duties.stays(found, {1}, []) == {
        1: f"nobody else has a port yet of {kind.words(name(kind, 1))}: it follows the first that is plugged elsewhere"
    }
    ended = change(found, *parts.leave(found, {1}))
    assert place(ended, kind) == (0, 0)


@each_kind
def test_what_nobody_could_serve_is_served_by_who_is_recovered(kind: Kind) -> None:
    """All are to leave, and what is made meanwhile gets nobody; the first that is to stay after all gets it."""
    leaving = [compute(n, tombstoned=True) for n in (1, 2)]
    found = judged(cloud(kind, *leaving))
    assert place(found, kind) == (0, 0)
    recovered = change(found, *scalein.recover(found, ["c2"]).checked("recover").edits)
    assert place(judged(recovered), kind) == (2, 0)


@each_kind
def test_the_last_port_that_leaves_takes_the_service_with_it_to_who_has_one(kind: Kind) -> None:
    found = served_by(kind, 1, 2, *three())
    bare = change(found, Edit(Binding("p101", 1, ACTIVE), None))
    assert place(judged(bare), kind) == (2, 3)
    empty = change(bare, *(Edit(Binding(f"p{100 + n}", n, ACTIVE), None) for n in (2, 3)))
    assert place(judged(empty), kind) == (0, 0)


def test_why_it_is_where_it_is_is_told_of_each_compute() -> None:
    found = judged(cloud(SUBNETS, *three(tombstoned=True)))
    standings = dict.fromkeys(found.computes, WELL)
    told = "\n".join(duties.electable(found, SUBNETS.name, name(SUBNETS, 1), standings))
    assert "c1" in told
    assert "tombstoned" in told
    assert duties.electable(found, SUBNETS.name, name(SUBNETS, 9), standings) == [
        "subnet 10.1.0.0/16 of network n9 needs no compute, or none has a port of it"
    ]
