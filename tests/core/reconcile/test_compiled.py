"""The cache in front of the compiler: what a change touches is enough, at every step of any story.

A `Follower` does what the controller does for each member. After each step all that it holds must agree with a recompute of everything.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile import affected, compiler, ledger
from ebbtide.compile.fragment import Key
from ebbtide.model.facts import Binding, BindingPhase, Edit, Fact
from ebbtide.model.state import State, apply
from tests.fakes import clouds
from tests.fakes.clouds import Story, random_view, squash
from tests.fakes.follower import Follower


@settings(max_examples=120)
@given(st.integers(0, 1 << 32), st.integers(1, 40))
def test_renewing_what_a_change_touches_equals_computing_everything_anew(seed: int, length: int) -> None:
    random = Random(seed)
    story, follower = Story(random), Follower()
    for _ in range(length):
        edits = story.batch()
        follower.changed(edits, story.state)
        follower.check()
        for number in sorted(follower.held):
            if random.random() < 0.6:
                follower.shows(number, random_view(random, story.state, number, follower.views[number]))
        follower.check()


@settings(max_examples=40)
@given(st.integers(0, 1 << 32), st.integers(3, 40))
def test_the_way_to_a_state_leaves_no_trace_in_what_is_desired(seed: int, length: int) -> None:
    """Told step by step, squashed into one transaction, or backwards: each compute ends with the same bytes."""
    story, one_by_one = Story(Random(seed)), Follower()
    told: list[Edit] = []
    for _ in range(length):
        edits = story.batch()
        told += edits
        one_by_one.changed(edits, story.state)
    for edits in (squash(told), squash(told)[::-1]):
        at_once = Follower()
        at_once.changed(edits, apply(State(), edits, story.state.revision))
        at_once.check()
        assert at_once.held == one_by_one.held


def test_a_network_that_grows_beyond_one_bucket_list_changes_how_each_of_its_computes_floods() -> None:
    count = ledger.MAX_BUCKETS + 1
    facts: list[Fact] = [clouds.network(1), *(clouds.compute(n) for n in range(1, count + 1))]
    facts += [clouds.port(n, 1) for n in range(1, count + 1)]
    before = clouds.state(*facts, *(Binding(f"p{n}", n, BindingPhase.ACTIVE) for n in range(1, count)))
    edits = [Edit(None, Binding(f"p{count}", count, BindingPhase.ACTIVE))]
    after = clouds.change(before, *edits)
    named = affected.by_edits(edits, before, after)
    for number in (1, 2, count):
        shown = [clouds.view(s, number) for s in (before, after)]
        old, new = compiler.desired(before, number, shown[0]), compiler.desired(after, number, shown[1])
        differing = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        # Keys of what the compute shows (tunnels) are named by its view.
        assert {key for key in differing if key.room != "tunnel"} <= named[number]
        assert Key("local", "n1", number) in differing
