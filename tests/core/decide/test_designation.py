"""Who serves a router's NAT: made, kept, moved, taken over, ended; and why, in words. Nothing is concluded from silence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.decide import designation, natmove, parts, scalein
from ebbtide.decide.designation import Sighting, Standing
from ebbtide.model.facts import Binding, Compute, Edit, Fact, Membership, Move, MovePhase
from ebbtide.model.moves import reached
from ebbtide.model.state import NAT, State, facts
from tests.fakes.clouds import ACTIVE, change, compute, external, leg, network, port, router, state

WELL = Standing(ready=True, reachable=True, wired=frozenset({"physnet"}))
SILENT = Standing(ready=False, reachable=False, wired=frozenset({"physnet"}))
DEAD, GONE = (msgspec.structs.replace(SILENT, **{how: True}) for how in ("dead", "gone"))


def able(number: int, **more: Any) -> Compute:
    return compute(number, **{"provider_mappings": (("physnet", "br-ex"),), **more})


def cloud(*computes: Compute, routers: int = 1, more: Iterable[Fact] = ()) -> State:
    """Routers with a place in n1, of which each of these computes has a port."""
    found = [able(n) for n in (1, 2, 3)] if not computes else list(computes)
    bound: list[Fact] = []
    for c in found:
        bound += [port(c.number, 1), Binding(f"p{c.number}", c.number, ACTIVE)]
    made: list[Fact] = []
    for n in range(1, routers + 1):
        made += [router(n, external="x9"), leg(n, 1)]
    return state(external(9), network(1), *found, *bound, *made, *more)


def seen(found: State, **others: Standing) -> dict[int, Standing]:
    """All well, but for those named (c1=DEAD)."""
    return {c.number: others.get(c.name, WELL) for c in found.members()}


def judged(found: State, **others: Standing) -> State:
    """Judged until there is nothing more to say."""
    for _ in range(5):
        edits = designation.judge(found, seen(found, **others))
        if not edits:
            return found
        found = change(found, *edits)
    raise AssertionError(f"it never comes to rest: {edits}")


def place(found: State, name: str = "r1") -> tuple[int, int]:
    held = found.designations.get((NAT, name))
    return (held.compute, held.standby) if held is not None else (0, 0)


def served_by(one: int, two: int, *computes: Compute) -> State:
    found = cloud(*computes)
    return change(found, *parts.designate(found, "r1", one, two))


def test_a_router_gets_a_compute_and_one_that_stands_by_and_keeps_them() -> None:
    found = judged(cloud())
    one, two = place(found)
    assert one
    assert two
    assert one != two
    assert {x.compute: x.careful for x in found.leases["r1"].values()} == {one: False, two: True}
    assert designation.judge(found, seen(found)) == []


def test_a_router_that_leads_nowhere_or_is_in_no_network_is_served_by_nobody() -> None:
    found = state(external(9), network(1), able(1), router(1), leg(1, 1), router(2, external="x9"))
    assert designation.judge(found, seen(found)) == []


@pytest.mark.parametrize(
    "how",
    [
        able(1, tombstoned=True),
        able(1, provider_mappings=()),
        able(1, provider_mappings=(("another", "br-ex"),)),
        able(1, teps=()),
        able(1, weight=0),
    ],
)
def test_who_cannot_is_not_chosen(how: Compute) -> None:
    assert place(judged(cloud(how, able(2)))) == (2, 0)
    assert place(judged(cloud(how))) == (0, 0)


@pytest.mark.parametrize(
    "standing",
    [
        SILENT,
        DEAD,
        GONE,
        msgspec.structs.replace(WELL, ready=False, reason="held"),
        msgspec.structs.replace(WELL, wired=frozenset()),
    ],
)
def test_who_is_not_seen_ready_and_wired_is_not_chosen(standing: Standing) -> None:
    found = cloud(able(1), able(2))
    assert place(judged(found, c1=standing)) == (2, 0)


def test_who_waits_for_admission_or_is_unheard_of_is_not_chosen() -> None:
    waiting = able(2, membership=Membership.WAITING)
    found = change(cloud(able(1)), Edit(None, waiting))
    assert place(judged(found)) == (1, 0)
    assert designation.judge(cloud(able(1)), {}) == []


def test_a_gateway_serves_without_a_port_of_the_routers() -> None:
    found = state(external(9), network(1), able(1, gateway=True), able(2), router(1, external="x9"), leg(1, 1))
    assert place(judged(found)) == (1, 0)


def test_who_falls_silent_keeps_what_it_has() -> None:
    found = served_by(1, 2)
    assert place(judged(found, c1=SILENT)) == (1, 2)
    assert len(judged(found, c1=SILENT, c2=SILENT).moves) == 0


@pytest.mark.parametrize("how", [DEAD, GONE])
def test_who_is_lost_is_replaced_by_who_stood_by_and_has_it_no_more(how: Standing) -> None:
    after = judged(served_by(1, 2), c1=how)
    assert place(after) == (2, 3)
    assert len(after.moves) == 0
    assert {x.compute for x in after.leases["r1"].values() if x.opening} == {2, 3}
    assert all(x.compute != 1 for x in after.leases["r1"].values())


def test_who_comes_back_from_the_dead_pre_empts_nothing() -> None:
    found = judged(judged(served_by(1, 2), c1=DEAD))
    assert place(found)[0] == 2


def test_who_is_to_leave_and_is_there_is_moved_from_and_serves_until_then() -> None:
    found = served_by(1, 2, able(1, tombstoned=True), able(2), able(3))
    after = judged(found)
    move = after.moves["r1"]
    assert (move.old, move.phase) == (1, MovePhase.PREPARE)
    assert move.new in (2, 3)
    assert place(after)[0] == 1
    assert after.opening("r1", move.new) is not None
    assert designation.judge(after, seen(after)) == []


@pytest.mark.parametrize("how", [DEAD, GONE])
def test_who_is_to_leave_and_is_lost_is_replaced_at_once(how: Standing) -> None:
    found = served_by(1, 2, able(1, tombstoned=True), able(2), able(3))
    after = judged(found, c1=how)
    assert place(after)[0] == 2
    assert 1 not in place(after)
    assert len(after.moves) == 0


def test_who_is_to_leave_and_is_alone_stays() -> None:
    found = served_by(1, 0, able(1, tombstoned=True))
    assert designation.judge(found, seen(found)) == []


def test_who_stands_by_and_is_to_leave_is_replaced() -> None:
    found = served_by(1, 2, able(1), able(2, tombstoned=True), able(3))
    assert place(judged(found)) == (1, 3)


def test_a_router_made_while_computes_leave_goes_to_none_of_them() -> None:
    leaving = [able(n, tombstoned=True) for n in (1, 2)]
    assert place(judged(cloud(*leaving, able(3)))) == (3, 0)
    nowhere = judged(cloud(*leaving))
    assert place(nowhere) == (0, 0)
    assert designation.electable(nowhere, "r1", seen(nowhere))


@pytest.mark.parametrize("how", [SILENT, DEAD, GONE])
def test_a_vm_that_lands_on_a_compute_that_is_to_leave_does_not_bring_it_the_nat(how: Standing) -> None:
    """Whoever serves is away just then: that is no reason either."""
    found = change(cloud(able(1)), Edit(None, able(2, tombstoned=True)))
    found = change(found, *parts.designate(found, "r1", 1, 0))
    landed = change(found, Edit(None, port(9, 1)), Edit(None, Binding("p9", 2, ACTIVE)))
    assert place(judged(landed, c1=how)) == (1, 0)
    nobody = change(landed, *parts.resign(landed, "r1"))
    assert place(judged(nobody, c1=how)) == (0, 0)


def test_a_move_whose_target_is_gone_ends_and_another_place_is_found() -> None:
    found = served_by(1, 2, able(1, tombstoned=True), able(2))
    moving = change(found, Edit(None, Move("r1", 1, 9)))
    assert designation.judge(moving, seen(moving)) == [Edit(Move("r1", 1, 9), None)]
    assert judged(moving).moves["r1"].new == 2


def test_both_ends_of_a_move_die_and_who_is_left_takes_over_what_is_recorded() -> None:
    found = served_by(1, 2)
    found = change(found, *natmove.begin(found, "r1", 1, 2))
    left = judged(found, c1=DEAD, c2=DEAD)
    assert place(left) == (3, 0)
    assert not left.moves
    held = list(left.leases["r1"].values())
    assert {x.compute for x in held} == {3}
    assert [x.careful for x in held if x.opening] == [True], "what is in the middle of a connection waits for its row"
    assert len(held) == 3, "the ports of the dead are in use still"


def test_the_old_end_of_a_move_dies_and_the_new_one_is_careful_until_it_has_all_rows() -> None:
    found = served_by(1, 2)
    found = change(found, *natmove.begin(found, "r1", 1, 2))
    held = found.opening("r1", 2)
    assert held is not None
    assert not held.careful
    left = judged(found, c1=DEAD)
    assert place(left)[0] == 2
    held = left.opening("r1", 2)
    assert held is not None
    assert held.careful


@pytest.mark.parametrize("record", [True, False])
def test_who_has_no_wire_any_more_is_replaced_at_once_where_its_connections_are_recorded(record: bool) -> None:
    found = served_by(1, 2)
    kept = msgspec.structs.replace(found.routers["r1"], record=record)
    bare = msgspec.structs.replace(found.computes[1], provider_mappings=())
    left = judged(change(found, Edit(found.routers["r1"], kept), Edit(found.computes[1], bare)))
    if record:
        assert place(left) == (2, 3)
        assert not left.moves
    else:
        assert place(left)[0] == 1
        assert (left.moves["r1"].old, left.moves["r1"].new) == (1, 2)


@pytest.mark.parametrize("unheard", [True, False])
def test_who_has_lost_all_it_saw_is_believed_if_nobody_hears_of_them_either(unheard: bool) -> None:
    """Both ends of a move die: every other compute saw these two and no more."""
    both = frozenset({1, 2})
    sightings = [Sighting(n, both, both, unheard) for n in (3, 4)]
    assert designation.is_dead(1, {2}, sightings) is unheard
    assert designation.is_dead(2, set(), sightings) is unheard


def test_a_move_under_way_is_left_alone() -> None:
    found = served_by(1, 2)
    moving = change(found, Edit(None, Move("r1", 1, 3, MovePhase.FLIP)))
    assert designation.judge(moving, seen(moving)) == []


@pytest.mark.parametrize("leaves", [True, False], ids=["its compute is to leave", "it was rebalanced"])
@pytest.mark.parametrize("phase", list(MovePhase))
def test_a_move_whose_goal_is_to_leave_as_well_is_led_elsewhere_as_long_as_that_is_less_than_a_move(
    phase: MovePhase, leaves: bool
) -> None:
    found = served_by(1, 2)
    marked = [found.computes[n] for n in ((1, 2) if leaves else (2,))]
    begun = change(found, *natmove.begin(found, "r1", 1, 2))
    at = msgspec.structs.replace(begun.moves["r1"], phase=phase, deadline=4711)
    moving = change(
        begun, Edit(begun.moves["r1"], at), *(Edit(c, msgspec.structs.replace(c, tombstoned=True)) for c in marked)
    )
    (told,) = designation.departures(moving, seen(moving), {c.number for c in marked})
    left = judged(moving)
    move = left.moves.get("r1")
    if not reached(at, MovePhase.FREEZE):
        if leaves:
            assert move is not None
            assert (move.old, move.new, move.phase, move.deadline) == (1, 3, MovePhase.PREPARE, 4711)
            assert told.new == 3
        else:
            assert (move, place(left)[0], told.new) == (None, 1, 1)
        assert all(x.careful for x in left.leases["r1"].values() if x.compute == 2), "as when it stood by"
    elif not reached(at, MovePhase.FLIP) and not leaves:
        assert move is not None
        assert (move.old, move.new, move.turned) == (2, 1, phase), "it goes back to where it may stay"
        assert told.new == 1
    else:
        assert move == at, "it arrives, and moves on"
        assert told.why[-1] == "it arrives on c2, and moves on from there"


def test_who_dies_before_its_move_has_been_proven_is_followed_by_who_stands_by() -> None:
    found = cloud(*(able(n) for n in (1, 2, 3)))
    found = change(found, *parts.designate(found, "r1", 1, 2))
    moving = change(found, *natmove.begin(found, "r1", 1, 3))
    assert moving.moves["r1"].phase is MovePhase.PREPARE
    left = judged(moving, c1=DEAD)
    assert not left.moves
    assert place(left)[0] == 2
    assert {x.compute for x in left.leases["r1"].values() if x.opening} == {2, place(left)[1]}
    assert {x.compute for x in left.leases["r1"].values() if not x.opening} == {2}
    late = change(moving, Edit(moving.moves["r1"], Move("r1", 1, 3, MovePhase.EXPORT)))
    assert place(judged(late, c1=DEAD))[0] == 3


def test_a_move_of_a_router_that_has_no_network_any_more_is_brought_to_its_end() -> None:
    found = served_by(1, 2)
    moving = change(found, Edit(None, Move("r1", 1, 2, MovePhase.REPLY)))
    bare = change(moving, *(Edit(x, None) for x in moving.legs["r1"].values()))
    assert not judged(bare, c1=DEAD).moves


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Standing(ready=False, reachable=True, reason="braked"), "c2 (braked)"),
        (Standing(ready=True, reachable=True), "c2 (its port to physnet is not there)"),
        (SILENT, ""),
        (DEAD, ""),
    ],
    ids=["braked", "no wire yet", "silent", "dead"],
)
def test_a_compute_is_not_ended_while_somebody_will_be_able_to_have_its_nat(other: Standing, words: str) -> None:
    found = judged(cloud(able(1), able(2, provider_mappings=())))
    assert place(found) == (1, 0)
    mapped = [Edit(found.computes[2], able(2)), Edit(found.computes[1], able(1, tombstoned=True))]
    held = designation.holds(change(found, *mapped), 1, {1: WELL, 2: other})
    assert held == (
        [f"router r1: its NAT is here, and nobody else can have it now, but {words} will be able to"] if words else []
    )


def test_a_nat_does_not_move_to_a_tunnel_address_of_another_ip_version_and_its_compute_is_not_ended_meanwhile() -> None:
    """Old and new end ask each other about connections: between the two there is no tunnel."""
    found = judged(served_by(1, 2, able(1), able(2, teps=("fd00::2",)), able(3)))
    assert place(found) == (1, 3), "nor does it stand by"
    only = judged(served_by(1, 2, able(1, tombstoned=True), able(2, teps=("fd00::2",))))
    assert (place(only), len(only.moves)) == ((1, 0), 0)
    told = "\n".join(designation.electable(only, "r1", seen(only)))
    assert "has a tunnel address of another IP version than c1" in told
    (held,) = designation.holds(only, 1, seen(only))
    assert "but c2 (its tunnel address is of another IP version) will be able to" in held
    cured = judged(change(only, Edit(only.computes[2], able(2))))
    assert cured.moves["r1"].new == 2


@pytest.mark.parametrize("how", [DEAD, GONE])
def test_a_nat_whose_compute_is_lost_goes_to_whoever_is_left_whatever_its_ip_version(how: Standing) -> None:
    found = judged(cloud(able(1), able(2, teps=("fd00::2",))))
    first, other = place(found)[0], 3 - place(found)[0]
    assert place(judged(found, **{f"c{first}": how}))[0] == other


def test_the_nat_of_a_router_that_is_in_no_network_any_more_holds_no_compute_back() -> None:
    found = served_by(1, 0, able(1, tombstoned=True), able(2, gateway=True))
    bare = change(found, *(Edit(x, None) for x in found.legs["r1"].values()))
    assert designation.holds(found, 1, seen(found)) != []
    empty = change(bare, *(Edit(b, None) for b in bare.bindings["p1"]))
    left = scalein.end(empty, ["c1"], {1, 2}, serving=lambda n: designation.holds(empty, n, seen(empty)))
    assert place(change(empty, *left.checked("end").edits)) == (0, 0)


def test_a_move_that_is_called_back_leaves_a_range_that_was_there_before_it_and_takes_its_own() -> None:
    """Of who stood by once: connections that it opened then may live, and nobody else may get their ports."""
    found = served_by(1, 2)
    (old,) = (x for x in found.leases["r1"].values() if x.compute == 2)
    dated = change(found, Edit(old, msgspec.structs.replace(old, since=found.revision)))
    later = change(dated, *parts.designate(dated, "r1", 1, 3))
    for new in (2, 4):
        begun = change(later, *natmove.begin(later, "r1", 1, new))
        move = msgspec.structs.replace(begun.moves["r1"], began=begun.revision)
        made = [x for x in begun.leases["r1"].values() if x.compute == new and not x.since]
        stored = [Edit(x, msgspec.structs.replace(x, since=begun.revision)) for x in made]
        begun = change(begun, Edit(begun.moves["r1"], move), *stored)
        back = change(begun, *natmove.call_back(begun, move))
        held = {x.compute: (x.first, x.careful) for x in back.leases["r1"].values()}
        assert held[2] == (old.first, True)
        assert 4 not in held


def test_many_routers_are_spread_over_all() -> None:
    found = judged(cloud(routers=9))
    held = [place(found, f"r{n}")[0] for n in range(1, 10)]
    assert sorted(held.count(n) for n in (1, 2, 3)) == [3, 3, 3]


@pytest.mark.parametrize("how", [DEAD, GONE])
def test_of_all_routers_of_one_that_dies_none_stays_with_it_and_those_of_others_stay(how: Standing) -> None:
    found = judged(cloud(routers=9))
    routers = [f"r{n}" for n in range(1, 10)]
    assert len([r for r in routers if place(found, r)[0] == 1]) == 3
    after = judged(found, c1=how)
    assert not after.moves
    for r in routers:
        assert 1 not in place(after, r)
        if place(found, r)[0] != 1:
            assert place(after, r)[0] == place(found, r)[0]


def test_a_router_that_nobody_can_serve_holds_up_no_other() -> None:
    """One leads to a physical network that nobody has, one leads nowhere, one is in no network; they come first."""
    odd: list[Fact] = [external(8, physical="elsewhere"), router(11, external="x8"), leg(11, 1), router(12), leg(12, 1)]
    odd.append(router(13, external="x9"))
    found = judged(state(*odd, *facts(cloud(routers=3))))
    for r in ("r11", "r12", "r13"):
        assert place(found, r) == (0, 0)
    leaving = change(found, Edit(found.computes[1], able(1, tombstoned=True)))
    moving = {r for r in ("r1", "r2", "r3") if place(found, r)[0] == 1}
    assert moving
    assert set(judged(leaving).moves) == moving
    assert all(place(judged(found, c1=DEAD), r)[0] in (2, 3) for r in ("r1", "r2", "r3"))


def test_who_is_recovered_serves_what_nobody_could_though_no_vm_behind_it_is_there_any_more() -> None:
    marked = [able(1, gateway=True, tombstoned=True), able(2, tombstoned=True)]
    found = cloud(*marked, routers=3)
    found = judged(change(found, Edit(Binding("p1", 1, ACTIVE), None)))
    assert [place(found, r) for r in ("r1", "r2", "r3")] == [(0, 0)] * 3
    recovered = judged(change(found, *scalein.recover(found, ["c1"]).checked("recover").edits))
    assert [place(recovered, r) for r in ("r1", "r2", "r3")] == [(1, 0)] * 3
    again = judged(change(recovered, *scalein.recover(recovered, ["c2"]).checked("recover").edits))
    assert [place(again, r)[0] for r in ("r1", "r2", "r3")] == [1] * 3, "it takes nothing from who serves"


def test_why_a_router_is_where_it_is_is_told_of_each_compute() -> None:
    found = judged(cloud(able(1), able(2, tombstoned=True), able(3, provider_mappings=())))
    told = "\n".join(designation.electable(found, "r1", seen(found)))
    assert "c1" in told
    assert "tombstoned" in told
    assert "no provider network physnet" in told
    for name in ("none", "r9"):
        assert designation.electable(found, name, {}) == [
            f"router {name} has no external network: nobody serves its NAT"
        ]


@given(
    st.lists(
        st.tuples(st.booleans(), st.booleans(), st.sampled_from([WELL, WELL, SILENT, DEAD, GONE])),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 6),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_it_always_comes_to_rest_and_nobody_is_chosen_who_cannot(
    kinds: list[tuple[bool, bool, Standing]], routers: int, one: int, two: int
) -> None:
    computes = [
        able(n, tombstoned=leaving, **({} if wired else {"provider_mappings": ()}))
        for n, (leaving, wired, _) in enumerate(kinds, 1)
    ]
    found = cloud(*computes, routers=routers)
    if one and two and one != two and max(one, two) <= len(computes):
        found = change(found, *parts.designate(found, "r1", one, two))
    before = {d.object: d for d in found.designations.values()}
    others = {f"c{n}": kind[2] for n, kind in enumerate(kinds, 1)}
    after = judged(found, **others)
    for held in after.designations.values():
        was = before.get(held.object)
        chosen = held.compute if was is None or was.compute != held.compute else 0
        for number in (chosen, held.standby if was is None or was.standby != held.standby else 0):
            if number and not (was is not None and number in (was.compute, was.standby)):
                leaving, wired, standing = kinds[number - 1]
                assert not leaving
                assert wired
                assert standing is WELL
        assert held.compute != held.standby
