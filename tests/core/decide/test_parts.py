"""Leases and parts in a router's NAT: no port belongs to two, whatever happens in whatever order, and who is gone has nothing."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.compile import ledger
from ebbtide.decide import parts
from ebbtide.model.facts import Designation, Edit, Lease, Membership, Move
from ebbtide.model.state import NAT, State
from tests.fakes.clouds import change, compute, external, router, state

COMPUTES = range(1, 7)
ROUTERS = ("r1", "r2")
FIRST, LAST = ledger.FIRST_NAT_PORT, ledger.LAST_NAT_PORT

Step = tuple[str, str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["designate", "designate", "designate", "move", "arrive", "stop", "resign", "leave", "reclaim"]
        ),
        st.sampled_from(ROUTERS),
        st.sampled_from(list(COMPUTES)),
        st.sampled_from([0, *COMPUTES]),
    ),
    max_size=40,
)


def cloud() -> State:
    return state(external(9), *(router(n, external="x9") for n in (1, 2)), *(compute(n) for n in COMPUTES))


def leases(found: State, name: str) -> list[Lease]:
    return sorted(found.leases.get(name, {}).values(), key=lambda x: x.first)


def edits_of(found: State, step: Step) -> list[Edit]:
    """What a step of the story stores."""
    verb, name, one, two = step
    if verb == "leave":
        gone = {one, two} & set(found.computes)
        edits = parts.leave(found, gone)
        removed = [found.computes[n] for n in gone]
        return edits + [Edit(c, msgspec.structs.replace(c, membership=Membership.REMOVED)) for c in removed]
    held, moving = found.designations.get((NAT, name)), found.moves.get(name)
    if verb == "resign":
        return parts.resign(found, name)
    if verb == "reclaim":  # the last connection of a term that is over is gone
        return [Edit(x, None) for x in leases(found, name) if not x.opening]
    if verb == "stop":  # a move has frozen its old end
        return [Edit(x, msgspec.structs.replace(x, opening=False)) for x in leases(found, name) if x.compute == one]
    if one not in found.computes or (two and two not in found.computes) or one == two:
        return []
    if verb == "designate" and moving is None:
        return parts.designate(found, name, one, two)
    if verb == "move" and held is not None and moving is None and held.compute != one:
        made = None if found.opening(name, one) else parts.lease(found, name, one)
        return [Edit(None, Move(name, held.compute, one)), *([Edit(None, made)] if made else [])]
    if verb == "arrive" and moving is not None:
        return [Edit(moving, None), *parts.designate(found, name, moving.new, 0)]
    return []


def played(story: list[Step]) -> list[State]:
    found = [cloud()]
    for step in story:
        found.append(change(found[-1], *edits_of(found[-1], step)))
    return found


@given(steps)
def test_no_port_is_leased_twice_and_all_of_them_are_for_connections(story: list[Step]) -> None:
    for found in played(story):
        for name in ROUTERS:
            held = leases(found, name)
            assert all(FIRST <= x.first <= x.last <= LAST for x in held)
            assert all(one.last < other.first for one, other in pairwise(held))


@given(steps)
def test_a_compute_opens_connections_from_one_range(story: list[Step]) -> None:
    for found in played(story):
        for name in ROUTERS:
            opening = [x.compute for x in leases(found, name) if x.opening]
            assert len(opening) == len(set(opening))


@given(steps)
def test_who_is_gone_has_nothing(story: list[Step]) -> None:
    for found in played(story):
        gone = set(COMPUTES) - set(found.computes)
        has = {x.compute for name in ROUTERS for x in leases(found, name)}
        has |= {n for d in found.designations.values() for n in (d.compute, d.standby)}
        has |= {n for m in found.moves.values() for n in (m.old, m.new)}
        assert not gone & (has | set(found.serves))


@given(steps)
def test_what_a_gone_compute_had_leased_is_open_to_nobody_while_its_router_is_served(story: list[Step]) -> None:
    for before, after in pairwise(played(story)):
        gone = set(before.computes) - set(after.computes)
        for name in ROUTERS:
            if (NAT, name) not in after.designations:
                assert not gone or leases(after, name) == [] or (NAT, name) not in before.designations
                continue
            for x in leases(before, name):
                if x.compute in gone:
                    kept = after.leases[name][x.first]
                    assert (kept.last, kept.opening) == (x.last, False)


@given(steps)
def test_who_stands_by_opens_carefully(story: list[Step]) -> None:
    for (before, after), step in zip(pairwise(played(story)), story, strict=True):
        if step[0] != "designate" or not edits_of(before, step):
            continue
        for found in after.designations.values():
            held = after.opening(found.object, found.standby) if found.object == step[1] else None
            assert held is None or held.careful


@given(steps)
def test_designating_the_same_again_is_already_so(story: list[Step]) -> None:
    found = played(story)[-1]
    for held in found.designations.values():
        again = change(found, *parts.designate(found, held.object, held.compute, held.standby))
        short = [n for n in (held.compute, held.standby) if n and again.opening(held.object, n) is None]
        assert short or parts.designate(again, held.object, held.compute, held.standby) == []


@given(st.lists(st.integers(FIRST, LAST), max_size=30), st.lists(st.integers(FIRST, LAST), max_size=8))
def test_gaps_and_what_is_taken_are_all_ports_and_nothing_twice(marks: list[int], pinned: list[int]) -> None:
    bounds = sorted(set(marks))
    taken = [(a, b - 1) for a, b in pairwise(bounds)][::2]
    free = parts.gaps(taken, pinned)
    assert all(a <= b for a, b in free)
    assert all(one[1] < other[0] for one, other in pairwise(free))
    used = {*pinned, *(p for a, b in taken for p in range(a, b + 1))}
    assert sum(b - a + 1 for a, b in free) == LAST - FIRST + 1 - len(used)
    assert all(a not in used and b not in used for a, b in free)


def test_the_first_has_half_of_all_ports_and_who_stands_by_a_quarter() -> None:
    found = cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    one, two = leases(found, "r1")
    every = LAST - FIRST + 1
    assert (one.compute, two.compute) == (1, 2)
    assert (one.last - one.first + 1, two.last - two.first + 1) == (every // 2, every // 4)
    assert (one.careful, two.careful) == (False, True)


def test_a_range_of_too_few_ports_is_not_leased() -> None:
    full = Lease("r1", FIRST, LAST - parts.FEWEST_PORTS + 1, 5, opening=False)
    found = state(external(9), router(1, external="x9"), *(compute(n) for n in COMPUTES), full)
    assert parts.lease(found, "r1", 1) is None
    edits = parts.designate(found, "r1", 1, 2)
    assert [type(e.new) for e in edits] == [Designation]
    assert parts.lease(found, "r1", 1, freed={FIRST}) is not None


def test_who_served_long_ago_and_is_removed_leaves_its_ports_to_who_serves_now() -> None:
    """It stands by no more, and its connections of then still have a range."""
    found = cloud()
    for standby in (2, 3):
        found = change(found, *parts.designate(found, "r1", 1, standby))
    assert [x.compute for x in leases(found, "r1")] == [1, 2, 3]
    after = change(found, *edits_of(found, ("leave", "r1", 2, 0)))
    assert [(x.compute, x.opening) for x in leases(after, "r1")] == [(1, True), (1, False), (3, True)]


def test_a_router_whose_only_compute_is_removed_is_served_by_nobody() -> None:
    found = cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    after = change(found, *edits_of(found, ("leave", "r1", 1, 0)))
    assert (len(after.designations), len(after.leases), len(after.serves)) == (0, 0, 0)


def test_who_stood_by_and_is_removed_is_replaced_by_nobody_yet() -> None:
    found = cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    after = change(found, *edits_of(found, ("leave", "r1", 2, 0)))
    assert after.designations[NAT, "r1"].standby == 0
    assert set(after.serves) == {1}


def test_a_move_to_who_is_removed_ends() -> None:
    found = cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    found = change(found, Edit(None, Move("r1", 1, 3)))
    after = change(found, *edits_of(found, ("leave", "r1", 3, 0)))
    assert (len(after.moves), after.designations[NAT, "r1"].compute) == (0, 1)


def test_a_compute_that_comes_back_as_standby_opens_carefully_from_what_it_has() -> None:
    found = cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    found = change(found, *parts.designate(found, "r1", 2, 1))
    assert [(x.compute, x.careful) for x in leases(found, "r1")] == [(1, True), (2, True)]
    assert set(found.serves) == {1, 2}
