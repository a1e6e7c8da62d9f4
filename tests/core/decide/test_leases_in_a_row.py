"""A hundred moves in a row, and connections that say nothing all the while: each keeps its port, and the ranges are given back."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from ebbtide.compile import ledger
from ebbtide.decide import natmove, parts
from ebbtide.model.facts import Edit, Move, MovePhase
from ebbtide.model.state import NAT, State
from tests.core.decide.test_parts import cloud, leases
from tests.fakes.clouds import change

MOVES = 100


def moved(found: State, new: int, used: set[int]) -> State:
    """A whole move of r1 to a compute, as the driver stores it."""
    held = found.designations[NAT, "r1"]
    found = change(found, *natmove.begin(found, "r1", held.compute, new))
    while (then := natmove.following(found.moves["r1"])) is not None:
        found = change(found, Edit(found.moves["r1"], then))
    assert isinstance(found.moves["r1"], Move)
    assert found.moves["r1"].phase is MovePhase.QUIET
    return change(found, *natmove.arrive(found, found.moves["r1"], used))


@pytest.mark.parametrize(
    ("stay", "opens", "kept"),
    [(40, 500, 0), (1, 500, 1), (40, 500, 3), (0, 2000, 0), (1500, 1500, 0)],
    ids=["forty", "one more in each term", "forty, and three more in each term", "none", "more than a few"],
)
def test_a_hundred_moves_in_a_row_lose_no_lease_and_let_none_pile_up(stay: int, opens: int, kept: int) -> None:
    """`stay` silent connections in the first term; in each, of `opens` that are opened, all but `kept` are closed again."""
    random, found = Random(1), cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    silent: set[int] = set()
    narrowest = ledger.LAST_NAT_PORT
    for term in range(MOVES):
        serves = found.designations[NAT, "r1"].compute
        range_ = found.opening("r1", serves)
        assert range_ is not None, f"after {term} moves there is no range to open from"
        width = range_.last - range_.first + 1
        narrowest = min(narrowest, width)
        ports = set(random.sample(range(range_.first, range_.last + 1), min(opens, width)))
        assert not ports & silent, "a port that a silent connection has is opened from"
        silent |= set(random.sample(sorted(ports), stay if not term else kept))
        found = moved(found, 1 + (serves % 3), silent)
        held = leases(found, "r1")
        now = found.designations[NAT, "r1"].compute
        assert all(one.last < other.first for one, other in pairwise(held))
        owners = {port: x.compute for x in held for port in range(x.first, x.last + 1)}  # no two have one, see above
        assert {owners.get(port) for port in silent} <= {now}, "its lease is lost"
        assert len(held) <= len(silent) + 2, "leases pile up"
        if max(stay, kept) <= natmove.FEW_PINNED:
            assert sum(x.last - x.first + 1 for x in held if not x.opening) == len(silent), "more is kept than is used"
    print(f"{MOVES} moves, {len(silent)} silent: {len(leases(found, 'r1'))} leases, narrowest range {narrowest} ports")
    assert narrowest >= parts.FEWEST_PORTS


def test_terms_that_leave_more_than_a_few_connections_each_do_not_use_up_all_ports() -> None:
    """A range in which more are in use than a few was kept whole: ten terms, and nothing was left to open from."""
    random, found, silent = Random(2), change(cloud(), *parts.designate(cloud(), "r1", 1, 2)), set[int]()
    for _ in range(20):
        serves = found.designations[NAT, "r1"].compute
        range_ = found.opening("r1", serves)
        assert range_ is not None, f"with {len(silent)} silent connections there is no range to open from"
        free = range(range_.first, range_.last + 1)
        assert silent.isdisjoint(free)
        silent |= set(random.sample(free, min(len(free), natmove.FEW_PINNED + 2)))
        found = moved(found, 1 + (serves % 3), silent)
        held = leases(found, "r1")
        assert all(one.last < other.first for one, other in pairwise(held))
        assert all(any(x.first <= port <= x.last for x in held) for port in silent)


def test_a_hundred_takeovers_in_a_row_leave_a_range_to_open_from() -> None:
    """Each compute dies in its turn, the next takes over, and once it has all rows it keeps no more than what is in use."""
    random, found = Random(1), cloud()
    found = change(found, *parts.designate(found, "r1", 1, 2))
    silent: set[int] = set()
    for term in range(MOVES):
        held = found.designations[NAT, "r1"]
        range_ = found.opening("r1", held.compute)
        assert range_ is not None, f"after {term} takeovers there is no range to open from"
        assert range_.last - range_.first >= 1000, f"after {term} takeovers the range is {range_}"
        silent = set(random.sample(range(range_.first, range_.last + 1), 20)) | set(
            random.sample(sorted(silent), len(silent) // 2)
        )
        third = ({1, 2, 3} - {held.compute, held.standby}).pop()
        taken = parts.designate(found, "r1", held.standby, third) + parts.inherit(
            found, "r1", {held.compute}, held.standby
        )
        found = change(found, *taken)
        found = change(found, *natmove.shrink(found, "r1", held.standby, silent))
        for port in silent:
            assert [x.compute for x in leases(found, "r1") if x.first <= port <= x.last] == [held.standby], (
                "its lease is lost"
            )
