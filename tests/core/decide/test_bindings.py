"""Where a port is: stories of plugs and frames, and a machine that tells them in any order.

The machine keeps what the world is (where the interface is plugged, which computes are heard, which revision each has applied) and
asks `judge` as the controller does. What a compute forwards is what the revision that it has applied says.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ebbtide.decide.bindings import Sight, bound, judge
from ebbtide.model.facts import Binding, Document, Edit, Membership
from ebbtide.model.state import LAST_ZONE, State, apply, home_zone
from tests.fakes.clouds import ACTIVE, LEAVING, PENDING, compute, network, port, state

A, B, C = 1, 2, 3
EMPTY = state(compute(A), compute(B), compute(C), network(1), port(1, 1))


def stored(before: State, edits: list[Edit]) -> State:
    """As the store does it: a new or changed binding carries the revision with which it was written."""
    revision = before.revision + 1
    dated = [
        Edit(o, msgspec.structs.replace(n, since=revision)) if isinstance(n, Binding) else Edit(o, n) for o, n in edits
    ]
    return apply(before, dated, revision)


def follow(found: State, sight: Sight) -> State:
    """Judge until there is nothing more to say."""
    for _ in range(6):
        edits = judge(found, "p1", sight)
        if not edits:
            return found
        found = stored(found, edits)
    raise AssertionError("it never comes to rest")


def once(found: State, sight: Sight) -> State:
    return stored(found, judge(found, "p1", sight))


def where(found: State) -> dict[int, str]:
    return {b.compute: str(b.phase) for b in found.bindings.get("p1", ())}


def with_bindings(**phases: object) -> State:
    numbers = {"a": A, "b": B, "c": C}
    edits = [Edit(None, Binding("p1", numbers[n], phase)) for n, phase in phases.items()]  # type: ignore[arg-type]
    return apply(EMPTY, edits, 2)


# --- zones ---


@given(st.integers(0, 40_000), st.lists(st.integers(1, 40), max_size=8, unique=True), st.booleans())
def test_a_zone_that_another_binding_has_there_is_given_to_nobody(revision: int, taken: list[int], old: bool) -> None:
    """Those that are near the first choice, so that some of them are in its way; `old`: one was stored without a zone."""
    first = (port(1, 1).lport * 7919 + revision) % LAST_ZONE + 1
    ports = [port(n + 2, 1) for n in range(len(taken))]
    bindings = [
        Binding(p.id, A, ACTIVE, zone=(first + n - 21) % LAST_ZONE + 1) for p, n in zip(ports, taken, strict=True)
    ]
    if old:
        ports.append(port(first - 1 + LAST_ZONE, 1, id="p99"))
        bindings.append(Binding("p99", A, ACTIVE))
    cloud = apply(EMPTY, [Edit(None, fact) for fact in (*ports, *bindings)], revision)
    zone = bound(cloud, "p1", A, ACTIVE).zone
    assert 1 <= zone <= LAST_ZONE
    assert zone not in {b.zone for b in bindings}
    assert not old or zone != home_zone(cloud.ports["p99"].lport)


# --- stories ---


def test_a_port_that_is_plugged_is_active_there() -> None:
    assert where(once(EMPTY, Sight({B: True}))) == {B: "active"}


def test_a_migration_that_completes_ends_active_at_the_destination_only() -> None:
    found = once(with_bindings(a=ACTIVE), Sight({A: True, B: True}))
    assert where(found) == {A: "active", B: "pending"}
    waits = Sight({A: True, B: True}, frames={B})
    assert where(once(found, waits)) == {A: "active", B: "pending"}  # B has not applied it: not yet
    found = once(found, Sight({A: True, B: True}, frames={B}, applied={B}))
    assert where(found) == {A: "leaving", B: "active"}
    assert where(follow(found, Sight({A: True, B: True}, flipped=True))) == {A: "leaving", B: "active"}
    assert where(follow(found, Sight({A: False, B: True}))) == {A: "leaving", B: "active"}  # not all have flipped
    assert where(follow(found, Sight({A: False, B: True}, flipped=True))) == {B: "active"}


def test_a_migration_whose_destination_goes_first_has_moved_nothing() -> None:
    found = with_bindings(a=ACTIVE, b=PENDING)
    assert where(follow(found, Sight({A: True, B: False}, frames={B}, applied={A, B}, flipped=True))) == {A: "active"}


def test_an_interface_that_goes_at_the_source_is_evidence_enough() -> None:
    found = with_bindings(a=ACTIVE, b=PENDING)
    assert where(once(found, Sight({A: False, B: True}, applied={B}))) == {A: "leaving", B: "active"}
    assert where(once(found, Sight({A: False, B: True}))) == {A: "active", B: "pending"}


def test_a_migration_that_is_taken_back_after_the_flip_goes_by_pending_again() -> None:
    found = once(with_bindings(a=LEAVING, b=ACTIVE), Sight({A: True, B: False}))
    assert where(found) == {A: "pending", B: "active"}
    assert where(once(found, Sight({A: True, B: False}))) == {A: "pending", B: "active"}
    found = once(found, Sight({A: True, B: False}, applied={A, B}))
    assert where(found) == {A: "active", B: "leaving"}
    assert where(follow(found, Sight({A: True, B: False}, flipped=True))) == {A: "active"}


def test_a_compute_that_is_not_heard_says_nothing_about_its_interface() -> None:
    for phases in ({"a": ACTIVE}, {"a": ACTIVE, "b": PENDING}, {"a": LEAVING, "b": ACTIVE}, {"a": LEAVING}):
        found = with_bindings(**phases)
        assert judge(found, "p1", Sight({}, applied={A, B}, flipped=True)) == []
    assert judge(with_bindings(a=LEAVING, b=ACTIVE), "p1", Sight({B: True}, applied={A, B}, flipped=True)) == []


def test_a_port_whose_interface_is_gone_everywhere_is_nowhere() -> None:
    assert where(follow(with_bindings(a=ACTIVE), Sight({A: False}))) == {}
    assert where(follow(with_bindings(a=LEAVING, b=ACTIVE), Sight({A: False, B: False}))) == {}


def test_only_members_get_ports_and_tombstoned_ones_do_too() -> None:
    for fields, held in (({"membership": Membership.WAITING}, {}), ({"tombstoned": True}, {A: "active"})):
        found = apply(EMPTY, [Edit(compute(A), compute(A, **fields))], 2)
        assert where(once(found, Sight({A: True}))) == held


def test_what_a_port_has_left_is_given_up_though_it_is_about_to_move_on() -> None:
    found = with_bindings(a=LEAVING, b=ACTIVE, c=PENDING)
    assert where(once(found, Sight({A: False, B: True, C: True}))) == {A: "leaving", B: "active", C: "pending"}
    assert where(once(found, Sight({A: False, B: True, C: True}, flipped=True))) == {B: "active", C: "pending"}


def test_an_interface_without_a_port_and_an_unknown_port_are_nothing() -> None:
    assert judge(EMPTY, "p9", Sight({A: True})) == []
    assert judge(EMPTY, "p1", Sight({99: True})) == []


# --- a host dies, and Nova builds its guests elsewhere ---


def neutron_has(found: State, host: str) -> State:
    """Neutron has bound the port there."""
    body = f'{{"id": "p1", "network_id": "n1", "mac_address": "02:00:00:00:00:01", "binding:host_id": "{host}"}}'
    return apply(found, [Edit(found.document("ports", "p1"), Document("ports", "p1", body))], found.revision)


def test_a_guest_that_is_built_anew_is_served_though_its_host_is_silent_and_it_has_said_nothing_yet() -> None:
    found = neutron_has(with_bindings(a=ACTIVE), "c2")
    found = once(found, Sight({B: True}))
    assert where(found) == {A: "active", B: "pending"}
    assert where(once(found, Sight({B: True}))) == {A: "active", B: "pending"}, "B has not applied it"
    assert where(once(found, Sight({B: True}, applied={B}, open=False))) == {A: "active", B: "pending"}
    assert where(once(found, Sight({B: True}, applied={B}))) == {A: "leaving", B: "active"}


def test_a_silent_host_keeps_its_guest_while_neutron_has_it_there_and_one_that_is_heard_keeps_it_too() -> None:
    for host, sight in (("c1", {B: True}), ("c2", {A: True, B: True}), ("", {B: True})):
        found = neutron_has(with_bindings(a=ACTIVE, b=PENDING), host)
        assert judge(found, "p1", Sight(sight, applied={B})) == []


def test_what_a_host_that_was_given_up_for_dead_still_runs_does_not_get_the_port_back() -> None:
    found = neutron_has(with_bindings(a=LEAVING, b=ACTIVE), "c2")
    zombie = Sight({A: True, B: True}, frames={A}, applied={A, B}, flipped=True)
    assert judge(found, "p1", zombie) == []
    assert where(once(neutron_has(found, "c1"), zombie)) == {A: "pending", B: "active"}, "a migration was called off"
    gone = Sight({A: False, B: True}, applied={A, B}, flipped=True)
    assert where(once(found, gone)) == {B: "active"}


# --- the machine ---

numbers = st.sampled_from([A, B, C])


class Migrations(RuleBasedStateMachine):
    """One port, three computes, and everything that may happen in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.state = EMPTY
        self.plugged: set[int] = set()
        self.heard = {A, B, C}
        self.frames: set[int] = set()
        #: The State of the revision that each compute has applied.
        self.holds: dict[int, State] = dict.fromkeys((A, B, C), EMPTY)

    @rule(at=numbers)
    def plug(self, at: int) -> None:
        self.plugged.add(at)

    @rule(at=numbers)
    def unplug(self, at: int) -> None:
        self.plugged.discard(at)

    @rule(at=numbers)
    def speak(self, at: int) -> None:
        """A frame of the port's MAC, where a binding has the classifier punt it."""
        held = self.holds[at].binding("p1", at)
        if at in self.plugged & self.heard and held is not None and held.phase is not ACTIVE:
            self.frames.add(at)

    @rule(at=numbers)
    def fall_silent(self, at: int) -> None:
        self.heard.discard(at)

    @rule(at=numbers)
    def be_heard(self, at: int) -> None:
        self.heard.add(at)

    @rule(at=numbers)
    def apply_all(self, at: int) -> None:
        if at in self.heard:
            self.holds[at] = self.state

    @rule()
    def look(self) -> None:
        """The controller asks, once."""
        before = self.state
        edits = judge(before, "p1", self.sight())
        if not edits:
            return
        self.state = stored(before, edits)
        self.frames = set()
        for old, new in edits:
            assert isinstance(old or new, Binding)
            if new is None and isinstance(old, Binding) and old.phase is not LEAVING:
                assert old.compute in self.heard - self.plugged, "only what is heard to be gone is taken away"
        was = before.active("p1")
        if was is not None and was.compute not in self.heard and self.state.active("p1") != was:
            now = self.state.active("p1")
            assert now is not None, "a silent compute's port has moved, to where there is evidence"

    @rule()
    def look_while_nobody_is_heard(self) -> None:
        assert judge(self.state, "p1", Sight({}, frozenset(), {A, B, C}, True)) == []

    @rule()
    def all_catch_up(self) -> None:
        """Every compute is heard, applies everything, and the controller looks until nothing changes."""
        self.heard = {A, B, C}
        for _ in range(12):
            for at in (A, B, C):
                self.apply_all(at)
            before = self.state
            self.look()
            if self.state is before:
                break
        else:
            raise AssertionError(f"it never comes to rest: {where(self.state)}")
        active = self.state.active("p1")
        if not self.plugged:
            assert where(self.state) == {}
        else:
            assert active is not None
            assert active.compute in self.plugged
        if len(self.plugged) == 1:
            assert where(self.state) == dict.fromkeys(self.plugged, "active")
        assert set(where(self.state)) <= self.plugged

    def sight(self) -> Sight:
        held = self.state.bindings.get("p1", ())
        plugged = dict.fromkeys(self.plugged & self.heard, True)
        plugged |= {b.compute: False for b in held if b.compute in self.heard - self.plugged}
        applied = {b.compute for b in held if self.holds[b.compute].revision >= b.since}
        since = max((b.since for b in held if b.phase is not PENDING), default=0)
        concerned = self.state.footprint("n1")
        return Sight(plugged, frozenset(self.frames), applied, all(self.holds[n].revision >= since for n in concerned))

    @invariant()
    def at_most_one_is_active_and_at_most_one_pending(self) -> None:
        phases = list(where(self.state).values())
        assert phases.count("active") <= 1
        assert phases.count("pending") <= 1

    @invariant()
    def no_two_computes_forward_to_each_other(self) -> None:
        to = forwards(self.holds)
        for start in to:
            seen, at = [start], to.get(start)
            while at is not None:
                assert at not in seen, f"frames go round: {[*seen, at]}"
                seen.append(at)
                at = to.get(at)


def forwards(holds: Mapping[int, State]) -> dict[int, int]:
    """Which compute sends on to which, by what each has applied."""
    found = {}
    for number, held in holds.items():
        own, active = held.binding("p1", number), held.active("p1")
        if own is not None and own.phase is LEAVING and active is not None:
            found[number] = active.compute
    return found


TestMigrations = Migrations.TestCase
TestMigrations.settings = settings(max_examples=300, stateful_step_count=40)
