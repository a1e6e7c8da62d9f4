"""start, end, recover, readmit: one verdict per id, all or nothing, and twice is "already so"."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile import compiler
from ebbtide.decide import scalein
from ebbtide.decide.scalein import Answer, Decision
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.facts import Binding, Compute, Debt, Edit, Fact, Membership, Relation
from ebbtide.model.state import State, facts
from ebbtide.openflow.flows import encode_flow, encode_group
from tests.fakes.clouds import ACTIVE, LEAVING, PENDING, Story, change, compute, network, port, state, view

REACHABLE = frozenset(range(1, 20))
VERBS: dict[str, Callable[[State, list[str]], Decision]] = {
    "start": scalein.start,
    "end": lambda found, ids: scalein.end(found, ids, REACHABLE),
    "recover": scalein.recover,
}
PHASES: dict[str, dict[str, Any]] = {
    "member": {},
    "tombstoned": {"tombstoned": True},
    "waiting": {"membership": Membership.WAITING},
    "removed": {"membership": Membership.REMOVED, "removed_at": 7},
}


def one(phase: str, *more: Fact) -> State:
    return state(compute(1, **PHASES[phase]), compute(2), network(1), port(1, 1), port(2, 1), *more)


@pytest.mark.parametrize(
    ("verb", "phase", "answer", "word"),
    [
        ("start", "member", Answer.ACCEPTED, "tombstoned"),
        ("start", "tombstoned", Answer.ALREADY, "already tombstoned"),
        ("start", "waiting", Answer.REFUSED, "not a member yet: `ebbtide compute approve c1`"),
        ("start", "removed", Answer.REFUSED, "removed at revision 7: `ebbtide compute readmit c1`"),
        ("end", "member", Answer.REFUSED, "not tombstoned: call scalein-computes-start first"),
        ("end", "tombstoned", Answer.ACCEPTED, "removed"),
        ("end", "waiting", Answer.REFUSED, "not tombstoned"),
        ("end", "removed", Answer.ALREADY, "already removed"),
        ("recover", "member", Answer.ALREADY, "not tombstoned"),
        ("recover", "tombstoned", Answer.ACCEPTED, "recovered"),
        ("recover", "waiting", Answer.ALREADY, "not tombstoned"),
        ("recover", "removed", Answer.REFUSED, "`ebbtide compute readmit c1`"),
    ],
)
def test_each_verdict(verb: str, phase: str, answer: Answer, word: str) -> None:
    before = one(phase)
    decision = VERBS[verb](before, ["c1"])
    (verdict,) = decision.verdicts
    assert (verdict.id, verdict.answer, verdict.name, verdict.number) == ("c1", answer, "c1", 1)
    assert word in verdict.message
    assert bool(decision.edits) is (answer is Answer.ACCEPTED)
    if answer is Answer.REFUSED:
        with pytest.raises(Refused, match="nothing was changed") as caught:
            decision.checked(verb)
        assert caught.value.verdicts == decision.verdicts
    else:
        assert decision.checked(verb) is decision
        again = VERBS[verb](change(before, *decision.edits), ["c1"])
        assert [v.answer for v in again.verdicts] == [Answer.ALREADY]
        assert again.edits == ()


@pytest.mark.parametrize(
    ("phase", "answer"), [(ACTIVE, Answer.REFUSED), (PENDING, Answer.REFUSED), (LEAVING, Answer.ACCEPTED)]
)
def test_end_is_refused_while_a_port_is_bound_there_and_not_while_it_is_leaving(phase: Any, answer: Answer) -> None:
    before = one("tombstoned", Binding("p1", 1, phase))
    (verdict,) = scalein.end(before, ["c1"], REACHABLE).verdicts
    assert verdict.answer is answer
    assert ("p1" in verdict.message) is (answer is Answer.REFUSED)
    assert verdict.remains == (("port p1",) if answer is Answer.REFUSED else ())


def test_start_names_the_ports_that_keep_a_compute_from_being_empty() -> None:
    (verdict,) = scalein.start(one("member", Binding("p2", 1, ACTIVE), Binding("p1", 1, PENDING)), ["c1"]).verdicts
    assert verdict.remains == ("port p1", "port p2")


def test_end_names_five_ports_and_counts_the_others() -> None:
    ports = [f for n in range(1, 9) for f in (port(n, 1), Binding(f"p{n}", 1, ACTIVE))]
    (verdict,) = scalein.end(state(compute(1, tombstoned=True), network(1), *ports), ["c1"], REACHABLE).verdicts
    assert "still carries 8 port(s): p1, p2, p3, p4, p5 and 3 more" in verdict.message
    assert len(verdict.remains) == 8


@pytest.mark.parametrize("verb", VERBS)
def test_one_id_that_is_refused_keeps_all_from_being_touched(verb: str) -> None:
    before = state(compute(1, tombstoned=verb != "start"), compute(2, **PHASES["removed"]), compute(3))
    bad = {"start": "c2", "end": "c3", "recover": "c2"}[verb]
    decision = VERBS[verb](before, ["c1", bad, "nobody"])
    assert [v.answer for v in decision.verdicts] == [Answer.ACCEPTED, Answer.REFUSED, Answer.REFUSED]
    assert [v.id for v in decision.verdicts] == ["c1", bad, "nobody"]
    assert decision.edits == ()
    with pytest.raises(Refused) as caught:
        decision.checked(verb)
    assert bad in str(caught.value)
    assert "nobody" in str(caught.value)
    assert "c1:" not in str(caught.value)


@pytest.mark.parametrize("verb", VERBS)
def test_ids_that_are_only_unknown_or_ambiguous_are_bad_input(verb: str) -> None:
    before = state(compute(1, hostname="twin"), compute(2, hostname="twin"))
    for ids in (["nobody"], ["twin"], ["", "nobody"]):
        decision = VERBS[verb](before, ids)
        assert all(v.unknown for v in decision.verdicts)
        with pytest.raises(NotFound) as caught:
            decision.checked(verb)
        assert caught.value.status == 400
    with pytest.raises(BadInput, match="at least one"):
        VERBS[verb](before, [])


@pytest.mark.parametrize("verb", VERBS)
def test_an_id_given_twice_or_in_two_spellings_is_one_compute(verb: str) -> None:
    before = state(compute(1, tombstoned=verb != "start"))
    dpid = compute(1).dpid
    decision = VERBS[verb](
        before, ["c1", "c1", str(dpid), f"openflow:{dpid}", "sys-1", "ovsdb://uuid/uuid-1/bridge/br-int"]
    )
    assert [v.id for v in decision.verdicts] == ["c1"]
    assert len([e for e in decision.edits if isinstance(e.old, Compute)]) == 1


@settings(max_examples=150)
@given(st.integers(0, 1 << 32))
def test_removing_leaves_no_fact_that_names_a_compute_but_its_grave_and_debts(seed: int) -> None:
    random = Random(seed)
    story = Story(random)
    for _ in range(random.randint(2, 12)):
        story.batch()
    before = story.state
    chosen = random.sample(before.members(), min(len(before.members()), random.randint(1, 3)))
    reachable = {c.number for c in before.members() if random.random() < 0.6}
    marked = change(before, *(Edit(c, msgspec.structs.replace(c, tombstoned=True)) for c in chosen if not c.tombstoned))
    free = [c.name for c in chosen if not scalein.carried(marked, c.number)]
    if not free:
        return
    decision = scalein.end(marked, free, reachable)
    after = change(marked, *decision.edits)
    assert len(set(decision.edits)) == len(decision.edits), "a thing is taken away once"
    numbers = {v.number for v in decision.verdicts if v.answer is Answer.ACCEPTED}
    for number in numbers:
        grave = after.removed[number]
        assert (grave.membership, grave.tombstoned) == (Membership.REMOVED, False)
        assert grave.removed_at == after.revision
        assert marked.computes[number].identities() <= set(grave.past)
        assert number not in after.networks_on
        assert number not in after.ports_on
        assert number not in after.by_name.values()
        assert number not in after.by_dpid.values()
        assert not any(number in footprint for footprint in after.presence.values())
        assert not any(number in after.peers(c) for c in after.computes)
        owing = {d.compute for d in after.debts.values() if d.removed == number}
        assert owing == {c.number for c in marked.members()} - numbers - reachable | ({number} - reachable)
    for fact in facts(after):
        match fact:
            case Binding():
                assert fact.compute not in numbers
            case Relation():
                assert not numbers & {fact.gateway, fact.peer}
            case Debt():
                assert fact.compute not in numbers or fact.compute == fact.removed


@settings(max_examples=30)
@given(st.integers(0, 1 << 32))
def test_recover_gives_every_compute_byte_for_byte_what_it_held_before_start(seed: int) -> None:
    random = Random(seed)
    story = Story(random)
    for _ in range(random.randint(2, 12)):
        story.batch()
    before = story.state
    plain = [c.name for c in before.members() if not c.tombstoned]
    if not plain:
        return
    ids = random.sample(plain, random.randint(1, len(plain)))
    started = change(before, *scalein.start(before, ids).checked("start").edits)
    recovered = change(started, *scalein.recover(started, ids).checked("recover").edits)
    assert set(facts(recovered)) == set(facts(before))
    for found in (started, recovered):
        for number in before.computes:
            assert in_bytes(found, number) == in_bytes(before, number)


def in_bytes(found: State, number: int) -> list[Any]:
    made = compiler.desired(found, number, view(found, number))
    return [
        (k, [encode_flow(f) for f in m.flows], [encode_group(g) for g in m.groups])
        for k, m in sorted(made.items(), key=repr)
    ]


def test_readmitting_forgets_the_grave_once_nobody_owes() -> None:
    before = state(compute(1, **PHASES["removed"]), compute(2), compute(3), Debt(2, 1), Debt(1, 1), Debt(9, 1))
    with pytest.raises(Refused, match="c2 could not be reached"):
        scalein.readmit(before, "c1")
    paid = change(before, Edit(Debt(2, 1), None))
    found, edits = scalein.readmit(paid, "c1")
    after = change(paid, *edits)
    assert found == before.removed[1]
    assert not after.removed
    assert not after.debts


@pytest.mark.parametrize(("text", "error"), [("nobody", NotFound), ("c2", Refused), ("", NotFound)])
def test_only_a_removed_compute_can_be_readmitted(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        scalein.readmit(state(compute(1, **PHASES["removed"]), compute(2)), text)
