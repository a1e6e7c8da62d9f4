"""State: applying edits is the same as starting from the facts; the way there leaves no trace."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.model.facts import Binding, BindingPhase, Compute, Designation, Edit, Floating, Network
from ebbtide.model.state import NAT, State, apply, facts, rebuild
from tests.fakes.clouds import (
    ACTIVE,
    LEAVING,
    PENDING,
    Story,
    compute,
    external,
    key_of,
    leg,
    network,
    port,
    router,
    state,
)

seeds = st.integers(0, 1 << 32)


def same(one: State, two: State) -> None:
    for name in one.__struct_fields__:
        assert getattr(one, name) == getattr(two, name), name


@settings(max_examples=150)
@given(seeds, st.integers(1, 25))
def test_applying_edits_gives_the_state_that_its_facts_make_up(seed: int, length: int) -> None:
    story = Story(Random(seed))
    for _ in range(length):
        story.batch()
        same(story.state, rebuild(facts(story.state), story.state.revision))


@settings(max_examples=100)
@given(seeds, st.integers(1, 20))
def test_a_story_told_in_one_step_or_backwards_ends_in_the_same_state(seed: int, length: int) -> None:
    story = Story(random := Random(seed))
    start = story.state
    for _ in range(random.randint(0, 10)):
        story.batch()
        start = story.state
    first = set(facts(start))
    for _ in range(length):
        story.batch()
    last = set(facts(story.state))
    by_key = {}
    for fact in first - last:
        by_key[key_of(fact)] = Edit(fact, None)
    for fact in last - first:
        by_key[key_of(fact)] = Edit(by_key[key_of(fact)].old if key_of(fact) in by_key else None, fact)
    edits = list(by_key.values())
    same(apply(start, edits, story.state.revision), story.state)
    same(apply(start, edits[::-1], story.state.revision), story.state)
    random.shuffle(edits)
    same(apply(start, edits, story.state.revision), story.state)


def test_two_computes_may_trade_names_and_datapath_ids_in_one_revision() -> None:
    one, two = compute(1), compute(2)
    edits = [Edit(one, compute(1, name="c2", dpid=two.dpid)), Edit(two, compute(2, name="c1", dpid=one.dpid))]
    after = apply(state(one, two), edits, 2)
    assert dict(after.by_name) == {"c2": 1, "c1": 2}
    assert dict(after.by_dpid) == {two.dpid: 1, one.dpid: 2}


def test_a_network_may_take_over_the_tag_and_vni_that_another_gives_up_in_the_same_revision() -> None:
    one, two = network(1), network(2)
    edits = [Edit(one, Network("n1", 2, two.vni)), Edit(two, Network("n2", 3, 9))]
    for order in (edits, edits[::-1]):
        after = apply(state(one, two), order, 2)
        assert dict(after.by_tag) == {2: "n1", 3: "n2"}
        assert dict(after.by_vni) == {two.vni: "n1", 9: "n2"}


def test_an_older_state_stays_what_it_was_while_a_newer_one_is_made() -> None:
    before = state(compute(1))
    after = apply(before, [Edit(compute(1), None)], 2)
    assert 1 in before.computes
    assert 1 not in after.computes


@pytest.mark.parametrize(
    ("at", "hosts"),
    [
        ({3: ACTIVE}, {3: True}),
        ({4: ACTIVE}, {1: False, 2: False}),
        ({1: ACTIVE}, {1: True}),
        ({3: ACTIVE, 1: PENDING}, {3: True, 1: False}),
        ({1: ACTIVE, 3: LEAVING}, {1: True, 3: False}),
        # On the way to a place without a wire, and from one: what a VM sends there is never taken for a connection of the router's.
        ({3: ACTIVE, 4: PENDING}, {3: True, 1: False, 2: False}),
        ({4: ACTIVE, 3: LEAVING}, {3: False, 1: False, 2: False}),
        ({4: ACTIVE, 3: PENDING}, {3: False, 1: False, 2: False}),
        ({3: ACTIVE, 4: LEAVING}, {3: True, 1: False, 2: False}),
        ({1: ACTIVE, 4: PENDING}, {1: True, 2: False}),
        ({4: ACTIVE, 5: LEAVING}, {1: False, 2: False}),
        ({}, {}),
    ],
)
def test_who_exchanges_a_floating_ip_while_its_vm_moves(at: dict[int, BindingPhase], hosts: dict[int, bool]) -> None:
    """c1 serves the router's NAT and c2 stands by; c1, c2 and c3 have the network outside, c4 and c5 have not."""

    def wired(number: int) -> Compute:
        return compute(number, provider_mappings=(("physnet", "br-ex"),))

    found = Floating("x9", "203.0.9.20", 1, "r1", "p1", "10.1.0.1")
    cloud = state(
        *(external(9), router(1, external="x9"), network(1), leg(1, 1), port(1, 1), found),
        *(*(wired(n) for n in (1, 2, 3)), compute(4), compute(5), Designation(NAT, "r1", 1, 2)),
        *(Binding("p1", number, phase) for number, phase in at.items()),
    )
    assert cloud.hosts(found) == hosts
