"""How long a move waits for connections that nobody knows: set by the operator, for one router or for all that a scale-in moves."""

from __future__ import annotations

import msgspec
import pytest

from ebbtide.decide import designation, natmove, parts
from ebbtide.errors import NotFound, Refused
from ebbtide.model.facts import Edit, Move, MovePhase
from ebbtide.model.moves import reached
from ebbtide.model.state import State
from tests.core.decide.test_designation import able, cloud, seen, served_by
from tests.fakes.clouds import change

MOVING = Move("r1", 1, 2, MovePhase.REPLY, unknown=3, deadline=500)


def moving(move: Move = MOVING) -> State:
    return change(served_by(1, 2), Edit(None, move))


def test_a_deadline_is_set_and_set_again_while_a_move_waits() -> None:
    found = moving()
    after = change(found, *natmove.set_deadline(found, "r1", 900))
    assert after.moves["r1"] == msgspec.structs.replace(MOVING, deadline=900)
    assert natmove.set_deadline(after, "r1", 900) == []


@pytest.mark.parametrize("phase", list(MovePhase))
def test_it_can_be_set_until_the_move_waits_no_more(phase: MovePhase) -> None:
    move = msgspec.structs.replace(MOVING, phase=phase)
    if reached(move, MovePhase.UNCOUPLE_OUT):
        with pytest.raises(Refused, match="waits for no connection any more"):
            natmove.set_deadline(moving(move), "r1", 900)
    else:
        assert natmove.set_deadline(moving(move), "r1", 900) == [
            Edit(move, msgspec.structs.replace(move, deadline=900))
        ]


def test_a_router_that_does_not_move_has_none() -> None:
    with pytest.raises(Refused, match="does not move"):
        natmove.set_deadline(served_by(1, 2), "r1", 900)
    with pytest.raises(NotFound):
        natmove.set_deadline(served_by(1, 2), "r9", 900)


def test_a_phase_later_the_deadline_is_the_same_and_called_back_there_is_none() -> None:
    after = natmove.following(MOVING)
    assert after is not None
    assert after.deadline == 500
    back = change(moving(), *natmove.call_back(moving(), MOVING)).moves["r1"]
    assert (back.old, back.deadline, back.unknown) == (2, 0, 0)


def test_a_scale_in_dates_what_it_moves_and_what_moves_from_there_already() -> None:
    found = cloud(able(1, tombstoned=True), able(2), able(3), routers=4)
    for n, (one, two) in enumerate([(1, 2), (1, 3), (2, 3), (1, 2)], 1):
        found = change(found, *parts.designate(found, f"r{n}", one, two))
    under_way = Move("r2", 1, 3, MovePhase.IMPORT)
    past = Move("r4", 1, 2, MovePhase.QUIET)
    elsewhere = Move("r3", 2, 3, MovePhase.IMPORT)
    found = change(found, Edit(None, under_way), Edit(None, past), Edit(None, elsewhere))
    after = change(found, *natmove.dated(found, designation.judge(found, seen(found)), {1}, 900))
    assert {r: m.deadline for r, m in after.moves.items()} == {"r1": 900, "r2": 900, "r3": 0, "r4": 0}
    assert after.opening("r1", after.moves["r1"].new) is not None, "the edits that are not of a move are as they were"
    assert natmove.dated(after, [], {1}, 900) == []
    later = change(after, *natmove.dated(after, [], {1}, 1200))
    assert {r: m.deadline for r, m in later.moves.items()} == {"r1": 1200, "r2": 1200, "r3": 0, "r4": 0}
    assert natmove.dated(found, [], set(), 0) == []
