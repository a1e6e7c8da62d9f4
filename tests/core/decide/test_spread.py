"""Hash order, bounds and fewest shifts: against floats, against brute force, and against one written-down order."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ebbtide.decide.spread import ONE, Key, Piece, Place, bounds, distance, rank, relieve, spread

GOLDEN = [(4, 1, 2, 3), (2, 1, 4, 3), (1, 2, 3, 4), (4, 1, 2, 3)]

EQUAL = {n: Place(f"c{n}") for n in range(1, 6)}


@st.composite
def choices(draw: st.DrawFn, most: int = 7) -> list[frozenset[int]]:
    """Which of up to four computes may have each of a few services."""
    some = st.frozensets(st.integers(1, draw(st.integers(1, 4))), min_size=1)
    return draw(st.lists(some, min_size=1, max_size=most))


def pieces(able: list[frozenset[int]]) -> list[Piece]:
    return [Piece(("nat", f"r{i}"), a, rank(("nat", f"r{i}"), a, EQUAL)) for i, a in enumerate(able)]


# --- order ---


@given(st.integers(1, ONE))
def test_the_logarithm_is_that_of_the_float_to_six_digits(draw: int) -> None:
    assert math.isclose(distance(draw) / 2**40, -math.log2(draw / ONE), abs_tol=3e-6)


@given(st.integers(1, ONE - 1), st.integers(1, 2**40))
def test_a_greater_draw_is_never_farther(draw: int, more: int) -> None:
    assert distance(min(draw + more, ONE)) <= distance(draw)


def test_the_order_is_the_same_on_every_machine() -> None:
    places = {1: Place("compute-a"), 2: Place("compute-b", 3), 3: Place("compute-c", 2), 4: Place("compute-d")}
    assert [rank(("nat", r), places, places) for r in ("red", "green", "blue", "grün")] == GOLDEN


def test_it_is_the_name_that_is_drawn_and_not_the_number() -> None:
    assert rank(("nat", "red"), [1, 2], {1: Place("x"), 2: Place("y")}) == tuple(
        3 - n for n in rank(("nat", "red"), [1, 2], {1: Place("y"), 2: Place("x")})
    )


@given(st.text(), st.integers(1, 5))
def test_who_vanishes_changes_nothing_in_the_order_of_the_others(name: str, gone: int) -> None:
    whole = rank(("nat", name), EQUAL, EQUAL)
    assert rank(("nat", name), set(EQUAL) - {gone}, EQUAL) == tuple(n for n in whole if n != gone)


def test_weights_are_ratios() -> None:
    places = {1: Place("a", 1), 2: Place("b", 2), 3: Place("c", 5)}
    first = Counter(rank(("nat", f"router-{i}"), places, places)[0] for i in range(8000))
    for number, expected in ((1, 1000), (2, 2000), (3, 5000)):
        assert abs(first[number] - expected) < 4 * math.sqrt(expected)


# --- bounds ---


@given(st.integers(0, 60), st.integers(1, 5))
def test_equal_computes_with_the_same_choice_have_the_quotient_rounded_up(services: int, computes: int) -> None:
    every = frozenset(range(1, computes + 1))
    found = bounds([every] * services, EQUAL)
    assert found == {n: -(-services // computes) if n in every else 0 for n in EQUAL}


def test_slack_is_in_per_cent_of_the_share() -> None:
    assert bounds([frozenset(EQUAL)] * 100, EQUAL, slack=10) == dict.fromkeys(EQUAL, 22)


def test_weights_and_head_starts_together_fill_to_one_level() -> None:
    places = {1: Place("a", 1, 6), 2: Place("b", 2), 3: Place("c", 1, -2)}
    # (12 - 6) / 1 = 12 / 2 = (4 + 2) / 1
    assert bounds([frozenset(places)] * 28, places) == {1: 12, 2: 12, 3: 4}


def test_a_head_start_that_nobody_reaches_takes_all() -> None:
    places = {1: Place("a", 1, 30), 2: Place("b"), 3: Place("c")}
    assert bounds([frozenset(places)] * 20, places) == {1: 20, 2: 0, 3: 0}


@given(choices())
def test_the_bounds_can_be_kept_and_are_the_best_there_are(able: list[frozenset[int]]) -> None:
    caps = bounds(able, EQUAL)
    placed = spread(pieces(able), [], {}, EQUAL)
    assert all(placed[p.key] in p.able for p in pieces(able))
    assert all(count <= caps[n] for n, count in Counter(placed.values()).items())
    best = min(max(Counter(way).values()) for way in itertools.product(*able))
    assert max(caps.values()) == best


def test_who_is_in_every_footprint_does_not_get_the_most_by_that() -> None:
    hub = [frozenset({1, 2 + i % 4}) for i in range(20)]
    assert bounds(hub, EQUAL) == dict.fromkeys(EQUAL, 4)


# --- fewest shifts ---


@given(choices(6), st.data())
def test_no_fewer_shifts_keep_the_caps(able: list[frozenset[int]], data: st.DataObject) -> None:
    caps = {n: data.draw(st.integers(0, 3), f"cap of {n}") for n in EQUAL}
    at: dict[Key, int] = {p.key: data.draw(st.sampled_from(sorted(p.able))) for p in pieces(able)}
    before = dict(at)

    def excess(where: list[int]) -> int:
        return sum(max(0, count - caps[n]) for n, count in Counter(where).items())

    relieve(pieces(able), at, {}, caps)
    best = min(
        (excess(list(way)), sum(w != b for w, b in zip(way, before.values(), strict=True)))
        for way in itertools.product(*able)
    )
    assert (excess(list(at.values())), sum(at[k] != before[k] for k in at)) == best


def test_a_chain_makes_room_where_no_single_shift_does() -> None:
    able = [frozenset({1, 2}), frozenset({1, 2}), frozenset({2, 3})]
    at: dict[Key, int] = {("nat", "r0"): 1, ("nat", "r1"): 1, ("nat", "r2"): 2}
    relieve(pieces(able), at, {}, dict.fromkeys(EQUAL, 1))
    assert sorted(at.values()) == [1, 2, 3]


def test_a_chain_that_sends_one_further_on_is_cheaper_than_one_that_moves_another() -> None:
    able = [frozenset({2, 3}), frozenset({1, 2, 3}), frozenset({1, 2, 3})]
    at: dict[Key, int] = {("nat", "r0"): 3, ("nat", "r1"): 3, ("nat", "r2"): 2}
    relieve(pieces(able), at, {}, {1: 2, 2: 2, 3: 0})
    assert at == {("nat", "r0"): 2, ("nat", "r1"): 1, ("nat", "r2"): 2}


def test_what_is_placed_beside_what_stays_keeps_the_bound_of_everything_too() -> None:
    able = [frozenset({2, 3, 4}), frozenset({1, 4}), frozenset({1, 2, 4})]
    stays, *rest = pieces(able)
    placed = spread(rest, [stays], {stays.key: 4}, EQUAL)
    assert placed == {("nat", "r1"): 1, ("nat", "r2"): 2}
