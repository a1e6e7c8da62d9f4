"""A rebalance of routers' NAT, over whatever cloud: who is moved where, how many at once, and that it comes to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.compile import ledger
from ebbtide.decide import natmove, parts, rebalancing
from ebbtide.decide.designation import Standing
from ebbtide.decide.rebalancing import AT_ONCE
from ebbtide.model.facts import Compute, Edit, ItemState, Lease, Move, MovePhase, Operation
from ebbtide.model.state import NAT, State, facts, rebuild
from tests.core.decide.test_designation import DEAD, SILENT, WELL, able, cloud, judged, seen
from tests.fakes.clouds import change

UNWIRED = msgspec.structs.replace(WELL, wired=frozenset())
BEGUN = Operation("o1", rebalancing.VERB, (), "running", "begins", revision=1)


def placed(where: Sequence[int], *computes: Compute) -> State:
    """Router rN is on the Nth of these computes; nobody stands by."""
    found = cloud(*computes, routers=len(where))
    for n, number in enumerate(where, 1):
        found = change(found, *parts.designate(found, f"r{n}", number, 0))
    return found


def loads(found: State) -> Counter[int]:
    """How many routers each compute serves, moves counted where they go."""
    return Counter(
        found.moves[router].new if router in found.moves else d.compute for (_, router), d in found.designations.items()
    )


def begun(found: State) -> State:
    return change(found, Edit(None, BEGUN))


def steps(found: State, random: Random, **others: Standing) -> tuple[State, list[Move]]:
    """A rebalance from its beginning to its end, moves arriving in any order; and the moves that it began."""
    found, made = begun(found), []
    while (operation := rebalancing.running(found)) is not None:
        before = dict(found.moves)
        edits = rebalancing.step(found, seen(found, **others), operation)
        found = change(found, *edits)
        assert all(found.moves[router] == move for router, move in before.items()), "what moves is left alone"
        new = [found.moves[r] for r in found.moves if r not in before]
        made += new
        assert not new or len(found.moves) <= AT_ONCE
        if found.moves and (not edits or random.random() < 0.7):
            move = found.moves[random.choice(sorted(found.moves))]
            found = change(found, *natmove.arrive(found, move, set()))
        assert len(made) <= len(found.routers), "it does not come to rest"
    return found, made


def test_a_third_compute_takes_its_share_and_nothing_else_moves() -> None:
    found = placed([1, 1, 1, 2, 2, 2], able(1), able(2), able(3))
    told = rebalancing.plan(found, seen(found))
    assert [(m.new, m.old in (1, 2)) for m in told.moves] == [(3, True)] * 2
    assert "nat: 2 of 6 move, for c1 (3, bound 2), c2 (3, bound 2); c3 takes 2" in told.gain
    assert "nat: the largest load goes from 3 to 2" in told.gain
    after, _ = steps(found, Random(1))
    assert loads(after) == {1: 2, 2: 2, 3: 2}
    assert after.operations["o1"].reason == "nat: balanced, no compute is above its bound"
    assert [(i.kind, i.state, i.target) for i in after.items_of("o1")] == [("service", ItemState.DONE, 3)] * 2


def test_what_is_balanced_is_left_alone_and_said_to_be() -> None:
    found = placed([1, 2], able(1), able(2))
    told = rebalancing.plan(found, seen(found))
    assert (told.moves, told.gain) == ((), ("nat: balanced, no compute is above its bound",))
    assert steps(found, Random(1))[1] == []


def test_asked_twice_nothing_is_moved_twice() -> None:
    found = begun(placed([1] * 4, able(1), able(2)))
    once = change(found, *rebalancing.step(found, seen(found), BEGUN))
    assert len(once.moves) == 2
    assert rebalancing.plan(once, seen(once)).moves == ()
    operation = rebalancing.running(once)
    assert operation is not None
    assert operation.reason == "2 under way, 0 to go"
    assert rebalancing.step(once, seen(once), operation) == [], "whoever leads next finds all of it in the store"
    same = rebuild(facts(once), once.revision)
    assert rebalancing.plan(same, seen(same)) == rebalancing.plan(once, seen(once))


def test_it_begins_few_at_a_time_and_moves_of_others_count() -> None:
    found = placed([1] * 20, able(1), able(2))
    assert len(rebalancing.plan(found, seen(found)).moves) == 10
    first = change(begun(found), *rebalancing.step(begun(found), seen(found), BEGUN))
    assert len(first.moves) == AT_ONCE
    assert first.operations["o1"].reason == f"{AT_ONCE} under way, 6 to go"
    scaled = change(found, *(Edit(None, Move(f"r{n}", 1, 2)) for n in range(1, AT_ONCE + 1)))
    again = change(begun(scaled), *rebalancing.step(begun(scaled), seen(scaled), BEGUN))
    assert len(again.moves) == AT_ONCE


def test_nothing_is_begun_while_the_controller_is_cut_off_and_it_goes_on_later() -> None:
    found = begun(placed([1, 1], able(1), able(2)))
    held = change(found, *rebalancing.step(found, seen(found), BEGUN, "it is this controller"))
    assert len(held.moves) == 0
    assert held.operations["o1"].reason == "0 under way, 1 to go; waits: it is this controller"
    assert len(change(held, *rebalancing.step(held, seen(held), held.operations["o1"])).moves) == 1


@pytest.mark.parametrize("how", [SILENT, DEAD, UNWIRED, msgspec.structs.replace(WELL, ready=False)])
def test_nothing_moves_to_who_is_not_seen_able(how: Standing) -> None:
    found = placed([1] * 4, able(1), able(2))
    assert rebalancing.plan(found, seen(found, c2=how)).moves == ()
    stands_by = change(found, *parts.designate(found, "r1", 1, 2))
    assert rebalancing.plan(stands_by, seen(stands_by, c2=how)).moves == ()


def test_nothing_moves_to_who_is_tombstoned_nor_from_who_is() -> None:
    found = placed([1] * 4 + [3] * 4, able(1), able(2, tombstoned=True), able(3, tombstoned=True))
    assert rebalancing.plan(found, seen(found)).moves == ()


def test_a_router_without_a_free_range_of_ports_stays() -> None:
    found = placed([1, 1], able(1), able(2))
    for name in ("r1", "r2"):
        for lease in found.leases[name].values():
            every = msgspec.structs.replace(lease, last=ledger.LAST_NAT_PORT)
            found = change(found, Edit(lease, every))
    assert rebalancing.plan(found, seen(found)).moves == ()
    lease = next(iter(found.leases["r1"].values()))
    half = msgspec.structs.replace(lease, last=33_279)
    held = Lease("r1", 33_280, ledger.LAST_NAT_PORT, 2, careful=True)
    found = change(found, Edit(lease, half), Edit(None, held))
    assert [m.object for m in rebalancing.plan(found, seen(found)).moves] == ["r1"], "it has a range already"


def test_stopped_it_begins_nothing_more_and_what_moves_goes_on() -> None:
    found = begun(placed([1] * 20, able(1), able(2)))
    assert rebalancing.stop(placed([1], able(1)), {}) is None
    first = change(found, *rebalancing.step(found, seen(found), BEGUN))
    stopped = rebalancing.stop(first, seen(first))
    assert stopped is not None
    assert (stopped.state, stopped.reason) == ("done", f"stopped: 6 not moved, {AT_ONCE} under way go on")
    after = change(first, Edit(first.operations["o1"], stopped))
    assert rebalancing.running(after) is None
    assert len(after.moves) == AT_ONCE


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([WELL, WELL, WELL, UNWIRED, SILENT])), min_size=1, max_size=5),
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_of_any_cloud_it_comes_to_rest_within_the_bounds(
    kinds: list[tuple[bool, Standing]], where: list[int], moving: int, random: Random
) -> None:
    computes = [able(n, tombstoned=leaving) for n, (leaving, _) in enumerate(kinds, 1)]
    found = placed([1 + n % len(kinds) for n in where], *computes)
    # Some move already, as a scale-in, or a rebalance before this one, has it.
    for n in range(1, min(moving, len(where)) + 1):
        old = found.designations[NAT, f"r{n}"].compute
        if len(kinds) > 1:
            found = change(found, *natmove.begin(found, f"r{n}", old, 1 + old % len(kinds)))
    others = {f"c{n}": standing for n, (_, standing) in enumerate(kinds, 1)}
    after, made = steps(found, random, **others)
    assert len({m.router for m in made}) == len(made), "nothing is moved twice"
    for move in made:
        leaving, standing = kinds[move.new - 1]
        assert not leaving
        assert standing is WELL
        assert move.phase is MovePhase.PREPARE
        assert kinds[move.old - 1] != (True, WELL), "who is to leave is the election's"
    told = rebalancing.plan(after, seen(after, **others))
    assert told.moves == (), "a rebalance has nothing to add to a rebalance"
    for load in told.loads:
        if load.before > load.bound:
            assert any(f"still above the bound: {load.name}" in line or load.name in line for line in told.gain)
    for move in made:
        assert after.designations[NAT, move.router].compute == move.new


def test_what_an_election_has_placed_a_rebalance_hardly_moves_and_the_other_way_round() -> None:
    found = judged(cloud(able(1), able(2), able(3), routers=9))
    assert rebalancing.plan(found, seen(found)).moves == ()
    crowded = placed([1] * 6, able(1), able(2), able(3))
    after, _ = steps(crowded, Random(7))
    assert loads(judged(after)) == loads(after), "an election leaves what was moved where it is"
