"""Ids: never one that is used, the longest unused one first, and a clear word when there is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.compile import ledger
from ebbtide.decide.ids import Allocator, released, retire
from ebbtide.errors import Refused
from ebbtide.model.facts import Cursor, Edit, Fact, Membership, Network
from tests.fakes.clouds import change, compute, network, port, state

LAST = {"compute": ledger.MAX_COMPUTE, "network": ledger.MAX_TAG, "lport": ledger.MAX_LPORT, "vni": ledger.LAST_VNI}
FIRST = {"compute": 1, "network": 1, "lport": 1, "vni": ledger.FIRST_VNI}


def user_of(kind: str, number: int) -> list[Fact]:
    """A fact that uses the id."""
    match kind:
        case "compute":
            return [compute(number, membership=Membership.REMOVED if number % 2 else Membership.MEMBER)]
        case "network":
            return [Network(f"n{number}", number, ledger.FIRST_VNI + number)]
        case "lport":
            return [port(number, 0)]
        case _:
            return [Network(f"n{number}", number % 60_000, number)]


@given(st.data(), st.sampled_from(sorted(LAST)))
def test_an_id_is_in_range_is_not_used_and_is_not_given_twice(data: st.DataObject, kind: str) -> None:
    around = st.one_of(st.integers(FIRST[kind], FIRST[kind] + 9), st.integers(LAST[kind] - 9, LAST[kind]))
    used = data.draw(st.sets(around, max_size=12))
    facts = [f for n in sorted(used) for f in user_of(kind, n)]
    last = data.draw(st.none() | around)
    found = state(*facts, *([Cursor(kind, last)] if last is not None else []))
    given_out = set()
    for _ in range(4):
        ids = Allocator(found)
        for _ in range(data.draw(st.integers(1, 4))):
            taken = ids.take(kind)
            assert FIRST[kind] <= taken <= LAST[kind]
            assert taken not in used | given_out
            given_out.add(taken)
        found = change(found, *ids.edits())
        assert found.cursors[kind].last == taken


def test_after_the_last_id_comes_the_first_free_one() -> None:
    found = state(network(1), Cursor("network", ledger.MAX_TAG))
    assert Allocator(found).take("network") == 2
    assert Allocator(state(Cursor("network", ledger.MAX_TAG - 1))).take("network") == ledger.MAX_TAG


def test_an_id_that_was_just_freed_is_the_last_to_be_given_again() -> None:
    found = state(network(1), Cursor("network", 1))
    assert Allocator(change(found, Edit(network(1), None))).take("network") == 2


def test_the_number_of_a_removed_compute_is_not_given_to_another() -> None:
    assert Allocator(state(compute(1, membership=Membership.REMOVED))).take("compute") == 2


def test_a_range_that_is_used_up_is_refused_even_within_one_transaction() -> None:
    all_but_two = [Network(f"n{tag}", tag, ledger.FIRST_VNI + tag) for tag in range(3, ledger.MAX_TAG + 1)]
    ids = Allocator(state(*all_but_two))
    assert {ids.take("network"), ids.take("network")} == {1, 2}
    with pytest.raises(Refused, match="no free network id"):
        ids.take("network")


def test_a_deleted_networks_tag_and_vni_are_nobodys_until_every_compute_has_let_go_of_them() -> None:
    blue = network(7)
    before = state(compute(1), blue, Cursor("network", 6), Cursor("vni", blue.vni - 1))
    after = change(before, Edit(blue, None), retire(blue))
    taken = Allocator(after)
    assert (taken.take("network"), taken.take("vni")) == (8, blue.vni + 1)
    since = after.retired[7].since
    assert released(after, since - 1) == []
    free = change(after, *released(after, since))
    assert not free.retired
    assert not free.retired_vnis
    again = Allocator(free)
    assert (again.take("network"), again.take("vni")) == (7, blue.vni)
