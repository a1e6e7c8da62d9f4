"""The brake: which store may rule a switch, and how much may go without a reason."""

from __future__ import annotations

import pytest

from ebbtide.decide.brake import FEW, Stamp, is_unexplained, unexplained, widespread, wrong_store

OURS = "11111111-store"


@pytest.mark.parametrize(
    ("stamp", "word"),
    [
        (Stamp(), ""),
        (Stamp(OURS, 0), ""),
        (Stamp(OURS, 7), ""),
        (Stamp(OURS, 8), "the store is older than the switch"),
        (Stamp("22222222-other", 3), "from store 22222222, this is store 11111111"),
        (Stamp("22222222-other", 99), "replaced or restored"),
        (Stamp("", 99), "older than the switch"),
    ],
)
def test_a_switch_is_ruled_by_the_store_that_made_it_and_by_none_older(stamp: Stamp, word: str) -> None:
    reason = wrong_store(stamp, OURS, 7)
    assert word in reason
    assert bool(reason) == bool(word)
    assert not reason or "--approve" in reason


@pytest.mark.parametrize(
    ("stamp", "revision", "installed", "deletes", "stopped"),
    [
        pytest.param(Stamp(OURS, 7), 7, 1000, 201, True, id="more than a fifth, nothing changed since"),
        pytest.param(Stamp(OURS, 7), 7, 1000, 200, False, id="a fifth and no more"),
        pytest.param(Stamp(OURS, 7), 7, 60, FEW, False, id="few, whatever their share"),
        pytest.param(Stamp(OURS, 7), 7, 60, FEW + 1, True, id="one more than few"),
        pytest.param(Stamp(OURS, 7), 8, 1000, 1000, False, id="a change explains it"),
        pytest.param(Stamp(), 7, 1000, 1000, False, id="a switch that was never ours"),
        pytest.param(Stamp(OURS, 7), 7, 0, 0, False, id="an empty switch"),
    ],
)
def test_deleting_a_large_share_needs_a_change_that_explains_it(
    stamp: Stamp, revision: int, installed: int, deletes: int, stopped: bool
) -> None:
    reason = unexplained(stamp, revision, installed, deletes)
    assert bool(reason) is stopped
    assert not stopped or f"{deletes} of {installed} flows" in reason


@pytest.mark.parametrize(
    ("computes", "members", "held"),
    [(0, 5, False), (3, 5, False), (4, 5, True), (4, 100, False), (20, 100, False), (21, 100, True), (201, 1000, True)],
)
def test_few_flows_of_many_computes_are_held_like_many_flows_of_one(computes: int, members: int, held: bool) -> None:
    reason = widespread(computes, members)
    assert bool(reason) is held
    if held:
        assert f"{computes} of {members} computes" in reason
        assert "reconcile --approve" in reason


def test_a_deletion_is_explained_by_a_later_revision_and_on_a_switch_that_was_never_stamped() -> None:
    assert is_unexplained(Stamp("store", 7), 7, 1)
    assert not is_unexplained(Stamp("store", 7), 8, 1)
    assert not is_unexplained(Stamp("store", 7), 7, 0)
    assert not is_unexplained(Stamp(), 7, 1)
