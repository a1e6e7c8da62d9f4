"""The machine of drains, without wires: what each step does, and what it never does."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.decide import dead, designation, drain, foresight, marking, routing, scalein
from ebbtide.decide.dead import Sight
from ebbtide.decide.drain import COMPUTE, SERVICE, VM, Problem, Seen, Vouch, Wish
from ebbtide.errors import BadInput, Refused
from ebbtide.model.facts import BindingPhase, Document, Edit, Item, ItemState, Membership, Operation
from ebbtide.model.state import SUBNET, subnet_name
from tests.fakes.core_cloud import CoreCloud, Host, Life

ID = "op"
AS_IT_IS = Wish()
BLUE = subnet_name("blue", "10.1.0.0/24")
DONE, FAILED, MOVING, PENDING, SKIPPED = (ItemState(x) for x in ("done", "failed", "moving", "pending", "skipped"))


class Drained:
    """A cloud, one drain, and what else a step is told."""

    def __init__(self, names: str = "abcd", vms: str = "aab", share: float = 1.0) -> None:
        self.cloud = CoreCloud()
        for number, name in enumerate(names, 1):
            self.cloud.connect(Host(name, number))
        self.cloud.add_network("blue", "10.1.0.0/24")
        for index, at in enumerate(vms, 1):
            self.add_vm(f"vm{index}", at, index)
        self.share = share
        self.now = 1_000_000
        self.hold = ""
        self.moving: set[str] = set()
        self.filled: dict[int, str] = {}
        self.vouches: dict[int, Vouch] = {}
        self.heard = True
        self.settled = True
        self.led = 3600.0
        self.seen_by: tuple[str, ...] = ()
        self.ends = 0

    def add_vm(self, name: str, at: str, index: int) -> None:
        self.cloud.add_port(name, "blue", 0x02_0000_0000_00 + index, f"10.1.0.{index}")
        self.cloud.run(name, self.cloud.number(at))

    def route(self) -> None:
        """A router in blue: a is designated for its subnet."""
        self.cloud.decide(lambda state: routing.add_router(state, "r1"))
        self.cloud.decide(lambda state: routing.attach(state, "r1", "blue", "10.1.0.254"))
        found = self.cloud.state.designations[SUBNET, BLUE]
        if found.compute != 1:
            self.cloud.commit([Edit(found, msgspec.structs.replace(found, compute=1, standby=found.compute))])

    @property
    def operation(self) -> Operation:
        return self.cloud.state.operations[ID]

    def item(self, kind: str, name: str) -> Item:
        return next(i for i in self.cloud.state.items_of(ID) if (i.kind, i.object) == (kind, name))

    def state_of(self, kind: str, name: str) -> ItemState:
        return self.item(kind, name).state

    def members(self) -> str:
        return "".join(sorted(c.name for c in self.cloud.state.members()))

    def marked(self) -> str:
        return "".join(sorted(c.name for c in self.cloud.state.members() if c.tombstoned))

    def seen(self) -> Seen:
        standings = self.cloud.standings()
        return Seen(
            self.now,
            standings,
            self.hold,
            self.led,
            frozenset(self.cloud.heard()),
            frozenset(self.moving),
            lambda number: Sight("", number in self.cloud.heard(), 99.0, self.seen_by),
            lambda revision: self.settled,
            lambda number: self.filled.get(number, ""),
            lambda item: self.heard,
            lambda kind: self.heard,
            lambda number: designation.holds(self.cloud.state, number, standings),
            self.new_id,
            lambda operation, number: self.vouches.get(number, Vouch()),
        )

    def new_id(self) -> str:
        self.ends += 1
        return f"end{self.ends}"

    def begin(self, names: str, wish: Wish = AS_IT_IS) -> None:
        """As `runtime/drains.py` does it."""
        state, standings = self.cloud.state, self.cloud.standings()
        decision = scalein.start(state, list(names)).checked("drain")
        numbers = frozenset(v.number for v in decision.verdicts)
        begun = marking.mark(state, decision, numbers, standings)
        goals = drain.goals(state, begun.marked, numbers, standings)
        targets = drain.targets(state, numbers, standings)
        then = foresight.after(state, begun.edits, numbers, targets, standings).state
        goals = drain.awaited(goals, then, numbers)
        drain.refuse(drain.problems(state, numbers, goals, targets, standings, wish, self.share))
        own = tuple(v.number for v in decision.verdicts if v.answer is scalein.Answer.ACCEPTED)
        made = Operation(
            ID,
            drain.VERB,
            tuple(sorted(numbers)),
            "running",
            vms=wish.vms,
            mover_options=wish.mover_options,
            at_once=wish.at_once or drain.AT_ONCE,
            wave=wish.wave or 0,
            deadline=wish.deadline,
            forced=wish.forced,
            outages=wish.outages,
            marked=own,
            dead=wish.dead,
        )
        old = state.operations.get(ID)
        items = drain.begin(state, made, sorted(numbers), goals, targets, self.now)
        self.cloud.commit([*begun.edits, *items, Edit(old, made)])

    def step(self) -> list[Edit]:
        """Until it waits; what was stored."""
        made: list[Edit] = []
        for _ in range(50):
            edits = drain.step(self.cloud.state, self.operation, self.seen()) if self.operation.open else []
            if not edits:
                return made
            self.cloud.commit(edits)
            made += edits
        raise AssertionError("it never waits")

    def end_over(self) -> None:
        """Ends that it has begun are proven."""
        state = self.cloud.state
        ends = [o for o in state.operations.values() if o.verb == "end" and o.open]
        self.cloud.commit([Edit(o, msgspec.structs.replace(o, state="done", reason="residue 0")) for o in ends])

    def run(self) -> None:
        self.step()
        self.end_over()
        self.step()

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1000)

    def claim(self, free: int = 10, kind: str = "lab") -> list[str]:
        edits, given = drain.claim(self.cloud.state, kind, "m", free, self.now, self.cloud.standings())
        self.cloud.commit(edits)
        return [x.vm for x in given]

    def fail(self, vm: str) -> None:
        item = self.item(VM, vm)
        held = drain.claimed(self.cloud.state, ID, vm, item.mover, item.since)
        self.cloud.commit([Edit(held, drain.failed(held, "no memory", self.now))])

    def move(self, vm: str, to: str) -> None:
        self.cloud.migrate(vm, self.cloud.number(to))


def test_an_empty_compute_goes_at_once_and_the_drain_is_done_when_its_end_is_proven() -> None:
    told = Drained(vms="b")
    told.begin("a")
    told.step()
    assert (told.members(), told.state_of(COMPUTE, "a")) == ("bcd", MOVING)
    told.end_over()
    told.step()
    assert (told.operation.state, told.item(COMPUTE, "a").reason) == ("done", "residue 0")
    assert told.operation.over


def test_a_compute_goes_only_when_each_of_its_vms_is_served_elsewhere_or_deleted() -> None:
    told = Drained(vms="aaa")
    told.begin("a")
    told.run()
    assert told.members() == "abcd"
    told.move("vm1", "b")
    told.cloud.delete_port("vm2")
    told.cloud.unplug("vm3", 1)
    told.run()
    # One that is plugged nowhere may be one that starts again.
    assert told.members() == "abcd"
    assert [told.state_of(VM, f"vm{n}") for n in (1, 2, 3)] == [DONE, DONE, PENDING]
    assert "plugged nowhere" in told.item(VM, "vm3").reason
    told.cloud.run("vm3", told.cloud.number("c"))
    told.run()
    assert (told.members(), told.operation.state) == ("bcd", "done")


def test_each_compute_goes_as_soon_as_it_is_empty_and_one_that_fails_blocks_nobody() -> None:
    told = Drained(vms="aab")
    told.begin("ab", Wish(vms="lab"))
    told.step()
    assert sorted(told.claim()) == ["vm1", "vm2", "vm3"]
    told.move("vm3", "c")
    told.step()
    assert told.members() == "acd"
    for pause in (0, 5, 30):
        told.later(pause)
        told.claim()
        told.fail("vm1")
    told.run()
    assert told.state_of(VM, "vm1") is FAILED
    # The other VM of a is still on its way: a is not given up before that is over.
    assert told.state_of(COMPUTE, "a") is MOVING
    told.move("vm2", "c")
    told.run()
    assert (told.operation.state, told.marked()) == ("partial", "")
    assert "no memory" in told.item(COMPUTE, "a").reason


def test_what_has_failed_is_tried_again_after_growing_pauses() -> None:
    told = Drained(vms="a")
    told.begin("a", Wish(vms="lab"))
    told.step()
    assert told.claim() == ["vm1"]
    told.fail("vm1")
    assert told.claim() == []
    told.later(5)
    assert told.claim() == ["vm1"]
    told.fail("vm1")
    told.later(5)
    assert told.claim() == []
    told.later(25)
    assert told.claim() == ["vm1"]


def test_movers_get_no_more_than_a_drain_allows_and_only_of_computes_whose_turn_it_is() -> None:
    told = Drained(vms="aaabb")
    told.begin("ab", Wish(vms="lab", at_once=2, wave=1))
    told.step()
    assert told.claim(kind="nova") == []
    assert told.claim(free=1) == ["vm1"]
    assert told.claim() == ["vm2"]
    assert told.claim() == []
    for vm in ("vm1", "vm2"):
        told.move(vm, "c")
    told.step()
    assert told.claim() == ["vm3"]
    assert told.claim() == []
    told.move("vm3", "c")
    told.step()
    assert sorted(told.claim()) == ["vm4", "vm5"]


def test_a_mover_that_falls_silent_loses_its_vms_and_what_it_says_later_counts_for_nothing() -> None:
    told = Drained(vms="a")
    told.begin("a", Wish(vms="lab"))
    told.step()
    told.claim()
    old = told.item(VM, "vm1")
    told.heard = False
    told.step()
    assert told.state_of(VM, "vm1") is PENDING
    told.heard = True
    told.later(1)
    assert told.claim() == ["vm1"]
    with pytest.raises(Refused, match="let go"):
        drain.claimed(told.cloud.state, ID, "vm1", "m", old.since)
    assert told.item(VM, "vm1").tries == 0


def test_nobody_is_removed_or_given_up_while_something_holds_it() -> None:
    told = Drained(vms="")
    told.hold = "waits for d to connect"
    told.begin("a", Wish(deadline=told.now // 1000 + 5))
    told.later(6)
    told.run()
    assert (told.members(), told.marked()) == ("abcd", "a")
    assert "waits for d" in told.operation.reason
    # A clock may be ahead of that of who led before: no deadline is over in the beginning of a leadership.
    told.hold, told.filled, told.led = "", {1: "vm9 is plugged there"}, 1.0
    told.run()
    assert (told.members(), told.marked()) == ("abcd", "a")
    told.filled = {}
    told.run()
    assert told.members() == "bcd"


def test_with_movers_who_know_more_a_compute_goes_only_when_they_call_it_empty() -> None:
    told = Drained(vms="")
    told.vouches = {1: Vouch("2 servers to go")}
    told.begin("a", Wish(vms="nova"))
    told.run()
    assert told.members() == "abcd"
    assert told.item(COMPUTE, "a").reason == "2 servers to go"
    told.vouches = {}
    told.run()
    assert told.members() == "bcd"


def test_a_compute_that_movers_give_up_for_good_is_recovered_in_their_words() -> None:
    told = Drained(vms="")
    told.vouches = {1: Vouch("server s1: No valid host was found", failed=True)}
    told.begin("ab", Wish(vms="nova"))
    told.run()
    assert (told.members(), told.marked()) == ("acd", "")
    assert told.state_of(COMPUTE, "a") is FAILED
    assert "No valid host" in told.item(COMPUTE, "a").reason


def test_a_service_that_nobody_else_can_have_keeps_no_compute_whose_vm_goes_nowhere() -> None:
    told = Drained(vms="a")
    told.route()
    told.begin("a", Wish(vms="lab"))
    for _ in range(3):
        told.run()
        assert told.claim() == ["vm1"]
        told.fail("vm1")
        told.later(60)
    told.run()
    assert told.state_of(COMPUTE, "a") is FAILED
    assert "no memory" in told.item(COMPUTE, "a").reason
    assert (told.members(), told.marked()) == ("abcd", "")
    assert told.cloud.state.designations[SUBNET, BLUE].compute == 1


def test_a_stopped_vm_has_gone_when_neutron_has_it_on_a_host_that_stays() -> None:
    told = Drained(vms="a")
    told.begin("ab", Wish(vms="nova"))
    told.step()
    told.cloud.unplug("vm1", 1)
    for host, state in (("b", PENDING), ("nobody", PENDING), ("c", DONE)):
        body = {"network_id": "blue", "mac_address": "02:00:00:00:00:01", "binding:host_id": host}
        known = told.cloud.state.document("ports", "vm1")
        told.cloud.commit([Edit(known, Document("ports", "vm1", json.dumps(body)))])
        told.step()
        assert told.state_of(VM, "vm1") is state


def test_a_vm_that_has_left_is_not_given_to_its_mover_again() -> None:
    told = Drained(vms="ab")
    told.begin("a", Wish(vms="lab"))
    told.step()
    assert told.claim() == ["vm1"]
    again = drain.claim(told.cloud.state, "lab", "m", 10, told.now, told.cloud.standings(), holding=())[1]
    assert [x.vm for x in again] == ["vm1"], "the answer may have been lost"
    told.cloud.plug("vm1", 3)
    told.cloud.run("vm1", 3)
    assert [b.phase for b in told.cloud.state.bindings["vm1"]] == [BindingPhase.LEAVING, BindingPhase.ACTIVE]
    assert drain.claim(told.cloud.state, "lab", "m", 10, told.now, told.cloud.standings(), holding=())[1] == []


def test_ports_that_neutron_has_there_keep_a_compute_where_nobody_asks_nova() -> None:
    for wish, members in ((Wish(), "abcd"), (Wish(vms="nova"), "bcd"), (Wish(forced="Nova is done with it"), "bcd")):
        told = Drained(vms="")
        body = {
            "network_id": "blue",
            "mac_address": "02:00:00:00:00:09",
            "binding:host_id": "a",
            "device_owner": "compute:nova",
        }
        told.cloud.commit([Edit(None, Document("ports", "stopped", json.dumps(body)))])
        told.begin("a", wish)
        told.run()
        assert told.members() == members
        if members == "abcd":
            assert "servers there, stopped ones perhaps: stopped: move" in told.item(COMPUTE, "a").reason
            known = told.cloud.state.document("ports", "stopped")
            told.cloud.commit([Edit(known, Document("ports", "stopped", json.dumps(body | {"binding:host_id": "b"})))])
            told.run()
            assert told.members() == "bcd"


def test_a_compute_that_is_none_of_novas_is_not_drained_by_nova_for_any_reason() -> None:
    with pytest.raises(Refused) as refused:
        drain.refuse([Problem("host", "a", "a: no nova-compute is called a")])
    assert "--force" not in str(refused.value)


def test_the_deadline_recovers_and_names_and_waits_for_what_is_in_flight() -> None:
    told = Drained(vms="ab")
    told.begin("ab", Wish(vms="lab", deadline=told.now // 1000 + 10))
    told.step()
    assert told.claim(free=1) == ["vm1"]
    told.later(11)
    assert told.claim() == []
    told.run()
    assert (told.state_of(COMPUTE, "a"), told.state_of(COMPUTE, "b")) == (MOVING, FAILED)
    assert told.marked() == "a"
    assert "vm2" in told.item(COMPUTE, "b").reason
    told.later(drain.IN_FLIGHT)
    told.run()
    assert (told.state_of(COMPUTE, "a"), told.operation.state) == (FAILED, "failed")
    assert told.marked() == ""
    with pytest.raises(Refused):
        drain.claimed(told.cloud.state, ID, "vm1", "m", told.item(VM, "vm1").since)


def test_an_abort_takes_away_its_own_marks_and_names_what_has_moved() -> None:
    told = Drained(vms="ab")
    told.cloud.start(["b"])
    told.begin("ab", Wish(vms="lab"))
    told.step()
    told.claim(free=1)
    told.move("vm1", "c")
    told.hold = "not yet"
    told.step()
    told.hold = ""
    told.cloud.commit(drain.abort(told.cloud.state, told.operation, told.now))
    told.run()
    assert (told.operation.state, told.marked()) == ("aborted", "b")
    assert "vm1" in told.item(COMPUTE, "a").reason
    with pytest.raises(Refused, match="nothing to abort"):
        drain.abort(told.cloud.state, told.operation, told.now)


def test_what_is_removed_cannot_be_aborted_and_a_resume_takes_the_rest() -> None:
    told = Drained(vms="b")
    told.begin("ab", Wish(deadline=told.now // 1000 + 5))
    told.step()
    assert told.members() == "bcd"
    told.later(6)
    told.run()
    assert told.operation.state == "partial"
    with pytest.raises(Refused):
        drain.abort(told.cloud.state, told.operation, told.now)
    assert drain.resume(told.cloud.state, told.operation) == {2}
    told.begin("b")
    assert [i.object for i in told.cloud.state.items_of(ID) if i.kind == COMPUTE] == ["b"]
    told.move("vm1", "c")
    told.run()
    assert told.operation.state == "done"
    with pytest.raises(Refused, match="no compute left"):
        drain.resume(told.cloud.state, told.operation)


def test_one_recovered_by_hand_stays_and_one_removed_by_hand_is_done() -> None:
    told = Drained(vms="ab")
    told.begin("ab")
    told.step()
    told.cloud.recover(["a"])
    told.move("vm2", "c")
    told.hold = "so that it is not this that removes it"
    told.step()
    told.cloud.end(["b"])
    told.run()
    assert (told.state_of(COMPUTE, "a"), told.state_of(COMPUTE, "b")) == (SKIPPED, DONE)
    assert told.operation.state == "partial"


def test_a_service_goes_before_its_compute_and_a_homeless_one_is_refused_unless_allowed() -> None:
    told = Drained(names="ab", vms="a")
    told.route()
    assert told.cloud.state.designations[SUBNET, BLUE].compute == 1
    # b is silent: the VM has nowhere to go to, and its subnet with it.
    told.cloud.lose(2, Life.SILENT)
    with pytest.raises(Refused, match="nobody else"):
        told.begin("a")
    assert told.marked() == ""
    told.cloud.connect(Host("b", 2))
    told.begin("a")
    told.step()
    assert told.state_of(SERVICE, f"subnet {BLUE}") is PENDING
    told.settled = False
    told.move("vm1", "b")
    told.run()
    assert told.state_of(SERVICE, f"subnet {BLUE}") is MOVING
    assert told.members() == "ab"
    told.settled = True
    told.run()
    assert (told.operation.state, told.members()) == ("done", "b")


def test_dead_computes_go_without_their_vms_and_one_that_returns_is_recovered() -> None:
    told = Drained(vms="ab")
    told.cloud.lose(1, Life.DEAD)
    told.cloud.lose(2, Life.SILENT)
    told.begin("ab", Wish(dead=True, forced="fire"))
    told.cloud.connect(Host("b", 2))
    told.run()
    assert told.members() == "bcd"
    assert (told.state_of(COMPUTE, "a"), told.state_of(COMPUTE, "b")) == (DONE, FAILED)
    assert told.marked() == ""
    assert not told.cloud.state.bindings.get("vm1")
    assert (1, 1) in told.cloud.state.debts


def test_a_mark_that_is_somebody_elses_too_stays_and_an_abort_says_so_and_ends() -> None:
    told = Drained(names="abc", vms="ab")
    told.route()
    told.begin("a")
    told.hold = "not yet"
    told.step()
    told.cloud.commit(drain.released(told.cloud.state, {1}))
    told.hold = ""
    told.cloud.commit(drain.abort(told.cloud.state, told.operation, told.now))
    told.run()
    assert (told.operation.state, told.marked()) == ("aborted", "a")
    assert "stays tombstoned" in told.item(COMPUTE, "a").reason


def test_one_that_another_drain_has_removed_as_dead_has_failed_here() -> None:
    told = Drained(vms="a")
    told.begin("a")
    told.step()
    other = msgspec.structs.replace(told.operation, id="dead", dead=True, revision=9, marked=(1,))
    item = Item("dead", COMPUTE, "a", 1)
    told.cloud.lose(1, Life.DEAD)
    told.cloud.commit([*drain.released(told.cloud.state, {1}), Edit(None, other), Edit(None, item)])
    told.cloud.commit(drain.step(told.cloud.state, other, told.seen()))
    told.cloud.commit(drain.step(told.cloud.state, told.cloud.state.operations["dead"], told.seen()))
    assert told.members() == "bcd"
    told.run()
    assert (told.operation.state, told.state_of(COMPUTE, "a")) == ("failed", FAILED)
    assert "operation dead" in told.item(COMPUTE, "a").reason


def test_options_of_a_drain_that_goes_on_are_those_that_were_given_last() -> None:
    told = Drained(vms="a")
    told.begin("a")
    known = drain.adopted(told.operation, Wish(vms="lab", at_once=8, deadline=99, outages=("nat r1",)))
    assert (known.vms, known.at_once, known.deadline, known.outages) == ("lab", 8, 99, ("nat r1",))
    again = drain.adopted(known, Wish())
    assert (again.vms, again.at_once, again.deadline, again.outages) == ("lab", 8, 99, ("nat r1",))
    slower = drain.adopted(again, Wish(at_once=1, wave=2))
    assert (slower.at_once, slower.wave) == (1, 2)
    assert drain.adopted(slower, Wish(wave=0)).wave == 0, "all at the same time"


def test_what_is_asked_of_movers_stays_until_that_is_asked_for_otherwise() -> None:
    told = Drained(vms="a")
    told.begin("a", Wish(vms="nova", mover_options=("cold=yes",)))
    assert told.operation.mover_options == ("cold=yes",)
    assert drain.adopted(told.operation, Wish()).mover_options == ("cold=yes",)
    more = drain.changed(told.operation, Wish(mover_options=("remove-hosts=yes",)))
    assert more.mover_options == ("cold=yes", "remove-hosts=yes")
    assert drain.changed(more, Wish(mover_options=("remove-hosts=no",))).mover_options == (
        "cold=yes",
        "remove-hosts=no",
    )
    assert drain.adopted(more, Wish(vms="lab")).mover_options == more.mover_options, "they hold again if Nova's go on"
    again = drain.again(more, Wish(deadline=9, forced="why", outages=("nat r1",)))
    assert (again.mover_options, again.vms, again.deadline, again.forced) == (more.mover_options, "nova", 9, "why")
    many = tuple(f"o{n}" for n in range(drain.MOST_OPTIONS))
    ours = drain.adopted(msgspec.structs.replace(more, vms="ours", mover_options=()), Wish(mover_options=many))
    with pytest.raises(BadInput, match="21 with those that it has"):
        drain.changed(ours, Wish(mover_options=("one-more",)))
    with pytest.raises(BadInput, match="there are block-migration=auto"):
        drain.changed(more, Wish(mover_options=("cold=perhaps",)))


def test_an_abort_keeps_hosts_that_went_unless_their_removal_is_asked_for_again() -> None:
    told = Drained(vms="a")
    told.begin("a", Wish(vms="nova", mover_options=("cold=yes", "remove-hosts=yes")))
    told.cloud.commit(drain.abort(told.cloud.state, told.operation, told.now))
    assert told.operation.mover_options == ("cold=yes", "remove-hosts=no")
    asked = drain.changed(told.operation, Wish(mover_options=("remove-hosts=yes",)))
    assert asked.mover_options == ("cold=yes", "remove-hosts=yes")


def test_options_are_those_of_drains_that_move_somebody() -> None:
    alive, lost = Drained(vms="a"), Drained(vms="a")
    alive.begin("a")
    lost.begin("a", Wish(dead=True, forced="fire"))
    for operation, words in (
        (lost.operation, "dead"),
        (msgspec.structs.replace(alive.operation, verb="end"), "op is end"),
    ):
        with pytest.raises(Refused, match=words):
            drain.changed(operation, Wish(at_once=3))
    assert drain.changed(alive.operation, Wish(at_once=3)).at_once == 3


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("none", ["cold=yes"], "there are none"),
        ("lab", ["cold=yes"], "there are none"),
        ("nova", ["warm=yes"], "there are block-migration=auto"),
        ("nova", ["block-migration=perhaps"], "block-migration=perhaps"),
        ("nova", ["block-migration=yes", "block-migration=no"], "block-migration is there twice"),
        ("ours", [""], "a word"),
        ("ours", ["Disks"], "a word"),
        ("ours", ["two words"], "a word"),
        ("ours", ["line\n"], "a word"),
        ("ours", ["a" * 81], "a word"),
        ("ours", [f"o{n}" for n in range(21)], "20 are the most"),
    ],
)
def test_what_movers_do_not_know_is_refused(kind: str, options: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        drain.check_mover_options(kind, options)


def test_what_is_asked_of_movers_is_kept_in_one_order() -> None:
    asked = ["remove-hosts=yes", "cold=yes", "block-migration=no", "cold=yes"]
    assert drain.check_mover_options("nova", asked) == ("block-migration=no", "cold=yes", "remove-hosts=yes")
    assert drain.check_mover_options("ours", ["disks=copy"]) == ("disks=copy",)
    assert drain.check_mover_options("none", []) == ()


def test_several_that_are_silent_together_may_be_cut_off_and_alive() -> None:
    gone = {n: Sight(f"c{n}", False, 99.0, (), ("c9",)) for n in (1, 2)}
    rest = {9: Sight("c9", True, 0.0)}
    assert dead.doubts({1: gone[1], **rest}, {1}, 60.0, "") == []
    assert "cut off together" in dead.doubts({**gone, **rest}, {1}, 60.0, "")[0]
    assert dead.doubts({**gone, **rest}, {1, 2}, 60.0, "a fire") == []
    assert "lives" in dead.doubts({**gone, **rest}, {9}, 60.0, "a fire")[0]
    early = {1: Sight("c1", False, 9.0, (), ("c9",)), **rest}
    assert "after 60 s" in dead.doubts(early, {1}, 60.0, "a fire")[0]


def test_a_share_of_the_cluster_is_refused_unless_a_reason_is_given() -> None:
    told = Drained(vms="", share=0.5)
    with pytest.raises(Refused, match="3 of 4"):
        told.begin("abc")
    told.begin("abc", Wish(forced="the end of a lease"))
    assert told.marked() == "abc"


def test_what_only_the_switch_shows_keeps_a_compute_until_the_deadline_and_no_longer() -> None:
    told = Drained(vms="")
    told.begin("a", Wish(deadline=told.now // 1000 + 5))
    told.filled = {1: "vm9 is plugged there"}
    told.run()
    assert told.marked() == "a"
    told.later(6)
    told.run()
    assert (told.state_of(COMPUTE, "a"), told.marked()) == (FAILED, "")
    assert "vm9 is plugged there" in told.item(COMPUTE, "a").reason


def test_one_taken_for_dead_that_shows_life_is_not_removed_whoever_sees_it() -> None:
    told = Drained(vms="a")
    told.cloud.lose(1, Life.DEAD)
    told.hold = "waits for d to connect"
    told.begin("a", Wish(dead=True, forced="its rack has no power"))
    told.run()
    told.hold, told.seen_by = "", ("b",)
    told.run()
    assert (told.members(), told.marked(), told.state_of(COMPUTE, "a")) == ("abcd", "", FAILED)
    assert "seen by b" in told.item(COMPUTE, "a").reason


def test_an_aborted_drain_gives_nothing_to_who_may_not_have_it_and_says_so() -> None:
    told = Drained(names="abc", vms="a")
    told.route()
    told.begin("a")
    told.hold = "not yet"
    told.move("vm1", "b")
    told.step()
    assert told.cloud.state.designations[SUBNET, BLUE].compute == 2
    told.hold = ""
    told.cloud.commit(drain.abort(told.cloud.state, told.operation, told.now))
    told.run()
    # The network has left a with its last VM: who answers for it there would ask nobody.
    assert told.operation.state == "aborted"
    assert told.cloud.state.designations[SUBNET, BLUE].compute == 2
    assert told.state_of(SERVICE, f"subnet {BLUE}") is FAILED
    assert "subnet" in told.item(COMPUTE, "a").reason


def test_a_service_that_has_gone_stays_done_when_a_switch_connects_anew() -> None:
    told = Drained(names="abc", vms="ab")
    told.route()
    told.begin("a")
    told.step()
    assert told.state_of(SERVICE, f"subnet {BLUE}") is DONE
    told.settled = False
    assert told.step() == []


def test_who_never_follows_is_waited_for_a_minute() -> None:
    told = Drained(names="abc", vms="ab")
    told.route()
    told.settled = False
    told.begin("a")
    told.step()
    assert told.state_of(SERVICE, f"subnet {BLUE}") is MOVING
    told.later(drain.FOLLOWS + 1)
    told.step()
    assert told.state_of(SERVICE, f"subnet {BLUE}") is DONE


def test_a_target_that_went_is_chosen_anew_and_nothing_is_given_where_nobody_takes_it() -> None:
    told = Drained(names="abc", vms="a")
    told.begin("a", Wish(vms="lab"))
    told.step()
    first = told.item(VM, "vm1").target
    told.cloud.start([told.cloud.state.computes[first].name])
    assert told.claim() == ["vm1"]
    second = told.item(VM, "vm1").target
    assert {first, second} == {2, 3}
    told.fail("vm1")
    told.cloud.start([told.cloud.state.computes[second].name])
    told.later(10)
    assert told.claim() == []


def test_a_vm_that_is_plugged_twice_is_given_to_nobody() -> None:
    told = Drained(vms="a")
    told.begin("a", Wish(vms="lab"))
    told.step()
    told.claim()
    told.cloud.plug("vm1", 2)
    told.heard = False
    told.step()
    assert (told.state_of(VM, "vm1"), told.item(VM, "vm1").mover) == (MOVING, "")
    assert told.claim() == []


def test_a_compute_that_is_called_otherwise_by_now_is_still_the_same() -> None:
    told = Drained(vms="")
    told.hold = "not yet"
    told.begin("a")
    told.step()
    compute = told.cloud.state.computes[1]
    told.cloud.commit([Edit(compute, msgspec.structs.replace(compute, name="z"))])
    told.hold = ""
    told.run()
    assert told.operation.state == "done"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_happens_no_vm_is_cut_off_and_it_comes_to_an_end(data: st.DataObject) -> None:
    told = Drained(names="abcde", vms="aabbc")
    if data.draw(st.booleans()):
        told.route()
    told.begin(
        "abc", Wish(vms="lab", at_once=2, wave=data.draw(st.sampled_from([0, 1])), deadline=told.now // 1000 + 500)
    )
    for _ in range(data.draw(st.integers(3, 30))):
        _act(told, data.draw(st.sampled_from(ACTS)), data)
        _check(told)
    told.heard, told.settled, told.hold, told.led = True, True, "", 3600.0
    for number, name in enumerate("abcde", 1):
        if number in told.cloud.state.computes and told.cloud.life[number] is not Life.READY:
            told.cloud.connect(Host(name, number))
    for _ in range(5):
        told.run()
        told.later(1000)
        _check(told)
    assert not told.operation.open, (told.operation, told.cloud.state.items_of(ID))
    assert told.marked() == ""


ACTS = [
    "claim",
    "migrate",
    "plug",
    "fail",
    "unplug",
    "delete",
    "recover",
    "abort",
    "step",
    "later",
    "prove",
    "know",
    "lose",
    "connect",
]


def _act(told: Drained, act: str, data: st.DataObject) -> None:
    state = told.cloud.state
    runs = sorted(p for p in state.ports if told.cloud.guest.get(p))
    held = [i for i in state.items_of(ID) if i.kind == VM and i.state is MOVING and i.mover]
    away = [n for n in state.computes if told.cloud.life[n] is not Life.READY]
    if act == "claim":
        told.claim(data.draw(st.integers(1, 3)))
    elif act == "migrate" and runs:
        vm, to = data.draw(st.sampled_from(runs)), data.draw(st.sampled_from(["d", "e"]))
        if told.cloud.guest[vm] != told.cloud.number(to) and not away:
            told.move(vm, to)
    elif act == "plug" and runs:
        told.cloud.plug(data.draw(st.sampled_from(runs)), told.cloud.number(data.draw(st.sampled_from(["d", "e"]))))
    elif act == "fail" and held:
        told.fail(data.draw(st.sampled_from(held)).object)
    elif act == "unplug" and runs:
        vm = data.draw(st.sampled_from(runs))
        told.cloud.unplug(vm, told.cloud.guest[vm])
    elif act == "delete" and runs:
        told.cloud.delete_port(data.draw(st.sampled_from(runs)))
    elif act == "recover" and told.marked():
        told.cloud.recover([data.draw(st.sampled_from(told.marked()))])
    elif act == "abort" and told.operation.state == "running":
        try:
            told.cloud.commit(drain.abort(state, told.operation, told.now))
        except Refused:
            pass
    elif act == "later":
        told.later(data.draw(st.sampled_from([1, 31, 200])))
    elif act == "know":
        told.heard, told.settled = data.draw(st.booleans()), data.draw(st.booleans())
        told.hold = data.draw(st.sampled_from(["", "waits for d to connect"]))
        told.led = data.draw(st.sampled_from([1.0, 3600.0]))
    elif act == "lose" and len(away) < 2:
        number = data.draw(st.sampled_from(sorted(state.computes)))
        if number not in away:
            told.cloud.lose(number, Life.SILENT)
    elif act == "connect" and away:
        number = data.draw(st.sampled_from(away))
        told.cloud.connect(Host("abcde"[number - 1], number))
    elif act == "prove":
        told.end_over()
    if act in ("step", "prove"):
        told.step()


def _check(told: Drained) -> None:
    state = told.cloud.state
    for vm, at in told.cloud.guest.items():
        if at:
            assert at in state.computes, f"{vm} runs on a compute that was removed"
            found = state.computes[at]
            assert found.membership is Membership.MEMBER
            assert any(b.compute == at and b.phase is not BindingPhase.LEAVING for b in state.bindings[vm])
    for item in state.items_of(ID):
        if item.kind == COMPUTE and item.state in (DONE,):
            assert item.compute not in state.computes
        if item.kind == COMPUTE and item.state in (FAILED, SKIPPED) and item.compute in state.computes:
            assert not state.computes[item.compute].tombstoned
    assert sum(i.kind == VM and i.state is MOVING and bool(i.mover) for i in state.items_of(ID)) <= 2
