"""What the controller does for each member: it keeps the fragments that it holds, renews those that a change has named, and sends the
difference to a switch in memory. `check` compares all that with a recompute of everything.
"""

from __future__ import annotations

from ebbtide.compile import affected, compiler
from ebbtide.compile.fragment import Fragment, Key
from ebbtide.model.facts import Compute, Edit, Membership
from ebbtide.model.observed import View
from ebbtide.model.state import State
from ebbtide.reconcile.compiled import Compiled
from ebbtide.reconcile.delta import Encoded, diff, encode, resync
from tests.core.compile.fragments import check_fragments
from tests.fakes.model_switch import ModelSwitch


class _Cache(Compiled):
    """The cache, but for one thing: what is not cached, a member's own, is not compiled a second time while it is compared (`own`)."""

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[Key, tuple[State, View, Encoded]] = {}

    def once(self, state: State, key: Key, view: View) -> Encoded | None:
        known = self.own.get(key)
        if known is not None and known[0] is state and known[1] is view:
            return known[2]
        return super().once(state, key, view)


class Follower:
    """One cache, and for each member what it holds and its switch. Those that are `away` are told nothing."""

    def __init__(self) -> None:
        self.compiled = _Cache()
        self.state = State()
        self.views: dict[int, View] = {}
        self.held: dict[int, dict[Key, Encoded]] = {}
        self.switches: dict[int, ModelSwitch] = {}
        self.away: set[int] = set()

    def changed(self, edits: list[Edit], after: State) -> None:
        before, self.state = self.state, after
        named = affected.by_edits(edits, before, after)
        for keys in named.values():
            self.compiled.forget(k for k in keys if not k.compute)
        members = {c.number for c in after.members()} - self.away
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

    def leave(self, number: int, *, empty: bool) -> None:
        """Its session ends. `empty`: its switch has forgotten everything when the next one begins."""
        self.away.add(number)
        self.held.pop(number, None)
        self.views.pop(number, None)
        if empty:
            self.switches.pop(number, None)

    def update(self, number: int, keys: set[Key]) -> None:
        work = diff(self.held[number], self.compiled.wanted(self.state, number, self.views[number], keys))
        self.switches[number].make(work)
        self.switches[number].take_away(work)
        for key, encoded in work.after.items():
            if encoded is None:
                self.held[number].pop(key, None)
            else:
                self.held[number][key] = encoded

    def check(self) -> dict[int, dict[Key, Fragment]]:
        """Compare. Gives what is desired of each that is told."""
        desired: dict[int, dict[Key, Fragment]] = {}
        shared: dict[Key, Fragment | None] = {}
        for number, held in self.held.items():
            made = desired[number] = self._anew(number, shared)
            check_fragments(made)
            anew = {key: encoded(fragment) for key, fragment in made.items()}
            assert {k: v for k, v in held.items() if anew.get(k) != v} == {}, number
            assert anew.keys() == held.keys(), number
            assert self.switches[number].holds(anew.values()), number
            seen = self.state, self.views[number]
            self.compiled.own |= {key: (*seen, found) for key, found in anew.items() if key.compute}
        for number in self.held:
            cached = self.compiled.desired(self.state, number, self.views[number])
            assert cached == self.held[number]
        self.compiled.own = {}
        return desired

    def _anew(self, number: int, shared: dict[Key, Fragment | None]) -> dict[Key, Fragment]:
        """`compiler.desired`, with what is the same for all computed once, without anybody's view: it may not depend on one."""
        found: dict[Key, Fragment] = {}
        for key in compiler.keys(self.state, number, self.views[number]):
            if key.compute:
                made = compiler.fragment(self.state, key, self.views[number])
            elif key in shared:
                made = shared[key]
            else:
                made = shared[key] = compiler.fragment(self.state, key, View())
            if made is not None:
                found[key] = made
        return found


_encoded: dict[Fragment, Encoded] = {}


def encoded(fragment: Fragment) -> Encoded:
    """As bytes; the same fragment is encoded once."""
    if fragment not in _encoded:
        _encoded[fragment] = encode(fragment)
    return _encoded[fragment]
