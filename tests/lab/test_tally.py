"""What is lost, what is on its way, and how long the longest silence was."""

from __future__ import annotations

import pytest

from ebbtide.lab.tally import Series, Trials


def test_a_datagram_is_lost_when_its_grace_is_over() -> None:
    series = Series()
    numbers = [series.sent(now) for now in (10.0, 10.1, 10.2)]
    series.arrived(numbers[0], 10.05)
    series.arrived(numbers[2], 10.25)
    series.arrived(numbers[2], 10.26)
    counts = series.counts(10.3)
    assert (counts.sent, counts.received, counts.lost, counts.duplicated) == (3, 2, 0, 1)
    assert counts.longest_gap_ms == 200.0
    assert series.counts(11.15).lost == 1


def test_a_silence_that_goes_on_is_a_gap() -> None:
    series = Series()
    assert series.counts(9.0).longest_gap_ms == 0.0
    series.sent(10.0)
    assert series.counts(12.0).longest_gap_ms == 2000.0


def test_a_series_is_settled_when_all_before_the_mark_have_come_or_are_lost() -> None:
    series = Series()
    first, second = series.sent(10.0), series.sent(10.5)
    assert series.settled(9.0, 10.5)
    assert not series.settled(10.0, 10.5)
    series.arrived(first, 10.6)
    assert series.settled(10.0, 10.6)
    assert not series.settled(10.5, 11.4)
    assert series.settled(10.5, 11.6)
    series.arrived(second, 11.7)  # late, but it has come
    assert series.counts(12.0).lost == 0


def test_counts_begin_anew_with_what_is_on_its_way() -> None:
    series = Series()
    for now in (10.0, 12.0, 12.1):
        series.sent(now)
    series.arrived(1, 12.05)
    series.reset(12.2)
    assert (series.counts(12.2).sent, series.flowing()) == (1, False)
    assert series.counts(14.0).lost == 1


def test_what_was_lost_before_anything_flowed_is_not_lost_after_the_reset() -> None:
    """The first datagrams come before the switches know the way. What is on its way when counting begins is counted."""
    series = Series()
    for now in (10.0, 10.1, 10.2, 10.3):
        series.sent(now)
    series.arrived(2, 10.25)
    series.reset(10.35)
    assert series.counts(10.35).sent == 1
    series.arrived(3, 10.4)
    assert series.counts(14.0).lost == 0


def test_numbers_of_nobody_are_not_counted() -> None:
    series = Series()
    series.arrived(3, 1.0)
    series.sent(1.0)
    series.arrived(1, 1.1)
    assert series.counts(1.2).received == 0


def test_trials() -> None:
    trials = Trials()
    first, second, third = trials.begin(1.0), trials.begin(1.1), trials.begin(1.2)
    trials.done(second, 1.15)
    trials.failed(third)
    counts = trials.counts(1.5)
    assert (counts.opened, counts.done, counts.failed) == (3, 1, 1)
    assert (counts.slowest_ms, counts.longest_gap_ms) == (500.0, 350.0)
    assert not trials.settled(1.0)
    trials.done(first, 1.6)
    assert trials.settled(9.0)
    trials.begin(2.0)
    trials.reset()
    assert (trials.counts(2.1).opened, trials.counts(2.1).slowest_ms, trials.flowing()) == (1, 100.0, False)


@pytest.mark.parametrize("late", [0.5, 5.0])
def test_one_begun_before_the_reset_shows_its_slowness_after_it(late: float) -> None:
    trials = Trials()
    number = trials.begin(1.0)
    trials.reset()
    trials.done(number, 1.0 + late)
    assert trials.counts(1.0 + late).slowest_ms == late * 1000
