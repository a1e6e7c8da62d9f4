"""What waits to be taken away from a switch, without a switch."""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.ledger import Feature, Kind
from ebbtide.openflow.flows import EncodedFlow
from ebbtide.reconcile.delta import Break, Work
from ebbtide.runtime.breaks import Breaks
from ebbtide.runtime.member import RETRY_AT_MOST, retry_after

PORT = ledger.cookie(Kind.PORT, Feature.L2, 7)
PEER = ledger.cookie(Kind.COMPUTE, Feature.TUNNEL, 3)
ONE, TWO = (51, 20, b"one"), (51, 20, b"two")


def everybody(number: int) -> bool:
    return True


def nobody(number: int) -> bool:
    return False


def test_a_break_waits_for_the_lag_and_is_then_due_once() -> None:
    breaks = Breaks()
    breaks.add(Work(break_flows=[Break(ONE, PORT)], break_groups=[9], break_meters=[77]), 5, 100.0, 1.0, everybody)
    assert breaks.due(100.9) == ([], [], [])
    assert breaks.next_due() == 101.0
    due = breaks.due(101.0)
    assert due == ([Break(ONE, PORT)], [9], [77])
    breaks.done(due)
    assert not breaks
    assert breaks.next_due() is None


def test_what_concerns_only_a_compute_that_is_gone_waits_for_nothing() -> None:
    breaks = Breaks()
    breaks.add(Work(break_flows=[Break(ONE, PEER), Break(TWO, PORT)]), 5, 100.0, 1.0, nobody)
    assert breaks.due(100.0) == ([Break(ONE, PEER)], [], [])
    assert list(breaks.peers()) == [3]


def test_what_is_made_again_stays() -> None:
    breaks = Breaks()
    breaks.add(Work(break_flows=[Break(ONE, PORT), Break(TWO, PORT)]), 5, 100.0, 1.0, everybody)
    breaks.spare(Work(flows=[EncodedFlow(ONE, b"", PORT, 0, 0, 0)]))
    assert breaks.due(200.0) == ([Break(TWO, PORT)], [], [])


def test_a_switch_on_which_something_always_leaves_is_rid_of_an_older_revision_all_the_same() -> None:
    breaks = Breaks()
    breaks.add(Work(break_flows=[Break(ONE, PORT)]), 5, 100.0, 1.0, everybody)
    breaks.add(Work(break_flows=[Break(TWO, PORT)], break_groups=[9]), 6, 100.5, 1.0, everybody)
    assert breaks.oldest() == 5
    breaks.done(breaks.due(101.0))
    assert breaks.oldest() == 6
    breaks.done(breaks.due(101.5))
    assert breaks.oldest() is None


def test_a_step_that_fails_for_days_is_tried_again_at_the_longest_interval() -> None:
    waits = [retry_after(failures) for failures in (1, 2, 3, 10, 2_000, 1_000_000)]
    assert waits == sorted(waits)
    assert waits[-3:] == [RETRY_AT_MOST] * 3
