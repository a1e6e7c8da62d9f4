"""The cache in front of the compiler: what a change touches is enough, at every step of any story.

One machine follows what the controller does for each member: it keeps the fragments that it holds, renews those that a change
has named, and sends the difference to a switch in memory. After each step all three must agree with a recompute of everything.
"""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile import affected, compiler, ledger
from ebbtide.compile.fragment import Fragment, Key
from ebbtide.model.facts import Binding, BindingPhase, Compute, Edit, Fact, Membership
from ebbtide.model.observed import View
from ebbtide.model.state import State, apply
from ebbtide.reconcile.compiled import Compiled
from ebbtide.reconcile.delta import Encoded, diff, encode, resync
from tests.core.compile.fragments import check_fragments
from tests.fakes import clouds
from tests.fakes.clouds import Story, random_view, squash
from tests.fakes.model_switch import ModelSwitch


class Follower:
    """One cache, and for each member what it holds and its switch."""

    def __init__(self) -> None:
        self.compiled = Compiled()
        self.state = State()
        self.views: dict[int, View] = {}
        self.held: dict[int, dict[Key, Encoded]] = {}
        self.switches: dict[int, ModelSwitch] = {}

    def changed(self, edits: list[Edit], after: State) -> None:
        before, self.state = self.state, after
        named = affected.by_edits(edits, before, after)
        for keys in named.values():
            self.compiled.forget(k for k in keys if not k.compute)
        members = {c.number for c in after.members()}
        for old, new in edits:
            fact = new or old
            if isinstance(fact, Compute) and (not isinstance(new, Compute) or new.membership is not Membership.MEMBER):
                self.held.pop(fact.number, None)
                self.switches.pop(fact.number, None)
        for number in members:
            if number not in self.held:
                self.renew(number)
            else:
                self.update(number, named.get(number, set()))

    def shows(self, number: int, view: View) -> None:
        keys = affected.by_view(self.state, number, self.views.get(number, View()), view)
        self.views[number] = view
        self.update(number, keys)

    def renew(self, number: int) -> None:
        """A session begins: what is found is brought to what is desired."""
        switch = self.switches.setdefault(number, ModelSwitch())
        wanted = self.compiled.desired(self.state, number, self.views.setdefault(number, View()))
        work = resync(switch.dump(), wanted)
        switch.make(work)
        switch.take_away(work)
        self.held[number] = {k: e for k, e in work.after.items() if e is not None}

    def update(self, number: int, keys: set[Key]) -> None:
        work = diff(self.held[number], self.compiled.wanted(self.state, number, self.views[number], keys))
        self.switches[number].make(work)
        self.switches[number].take_away(work)
        for key, encoded in work.after.items():
            if encoded is None:
                self.held[number].pop(key, None)
            else:
                self.held[number][key] = encoded

    def check(self) -> None:
        for number, held in self.held.items():
            made = compiler.desired(self.state, number, self.views[number])
            check_fragments(made)
            anew = {key: _encode(fragment) for key, fragment in made.items()}
            assert {k: v for k, v in held.items() if anew.get(k) != v} == {}, number
            assert anew.keys() == held.keys(), number
            assert self.switches[number].holds(anew.values()), number
        for number in self.held:
            cached = self.compiled.desired(self.state, number, self.views[number])
            assert cached == self.held[number]


_encoded: dict[Fragment, Encoded] = {}


def _encode(fragment: Fragment) -> Encoded:
    if fragment not in _encoded:
        _encoded[fragment] = encode(fragment)
    return _encoded[fragment]


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
