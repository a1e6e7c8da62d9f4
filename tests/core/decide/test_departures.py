"""The plan of a scale-in says of each router what the election then does, and what it cannot do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ebbtide.decide import designation, parts
from ebbtide.decide.designation import Departure, Going, Standing
from ebbtide.model.facts import Edit, Move, MovePhase
from ebbtide.model.state import NAT, State
from tests.core.decide.test_designation import DEAD, GONE, SILENT, WELL, able, cloud, seen, served_by
from tests.fakes.clouds import change


def planned(found: State, *leaving: int, **others: Standing) -> dict[str, Departure]:
    return {d.router: d for d in designation.departures(found, seen(found, **others), set(leaving))}


def test_a_router_goes_to_its_standby_and_the_plan_says_why() -> None:
    found = served_by(1, 2, able(1, tombstoned=True), able(2), able(3))
    told = planned(found, 1)["r1"]
    assert (told.old, told.new, told.how) == (1, 2, Going.MOVES)
    assert told.why[:2] == ("leaves c1: tombstoned", "goes to c2, its standby")


def test_who_is_alone_stays_and_the_plan_says_why_nobody_else_may() -> None:
    found = served_by(1, 0, able(1, tombstoned=True), able(2, tombstoned=True), able(3, provider_mappings=()))
    told = planned(found, 1, 2)["r1"]
    assert (told.old, told.new, told.how) == (1, 0, Going.STAYS)
    assert "nobody else may serve it" in told.why[0]
    assert "no provider network physnet" in told.why[0]


def test_of_one_that_is_lost_what_it_has_is_taken_over() -> None:
    found = served_by(1, 2, able(1, tombstoned=True), able(2), able(3))
    assert planned(found, 1, c1=DEAD)["r1"].how is Going.TAKEN_OVER


def test_a_move_under_way_is_told_as_it_is() -> None:
    found = served_by(1, 2, able(1, tombstoned=True), able(2), able(3))
    move = Move("r1", 1, 3, MovePhase.FREEZE)
    told = planned(change(found, Edit(None, move)), 1)["r1"]
    assert (told.new, told.how) == (3, Going.UNDER_WAY)
    assert told.why == ("router r1 moves from c1 to c3, freeze",)


def test_routers_of_others_are_left_out() -> None:
    assert planned(served_by(1, 2, able(1), able(2), able(3, tombstoned=True)), 3) == {}
    assert planned(cloud(able(1, tombstoned=True)), 1) == {}


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([WELL, WELL, WELL, SILENT, DEAD, GONE])), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=7),
)
def test_what_is_planned_is_what_is_done(kinds: list[tuple[bool, Standing]], where: list[tuple[int, int]]) -> None:
    found = cloud(*(able(n, tombstoned=leaving) for n, (leaving, _) in enumerate(kinds, 1)), routers=len(where))
    for n, (one, two) in enumerate(where, 1):
        first, second = 1 + one % len(kinds), 1 + two % len(kinds)
        found = change(found, *parts.designate(found, f"r{n}", first, second if second != first else 0))
    others = {f"c{n}": standing for n, (_, standing) in enumerate(kinds, 1)}
    leaving = {n for n, (goes, _) in enumerate(kinds, 1) if goes}
    told = planned(found, *leaving, **others)
    after = change(found, *designation.judge(found, seen(found, **others)))
    for name in found.routers:
        before = found.designations[NAT, name].compute
        assert (name in told) == (before in leaving)
        if name not in told:
            continue
        move, now = after.moves.get(name), after.designations[NAT, name].compute
        if told[name].how is Going.MOVES:
            assert move is not None
            assert (move.old, move.new) == (told[name].old, told[name].new)
        else:
            assert move is None
            assert now == (told[name].new or before)
            assert (told[name].how is Going.STAYS) == (now == before)
