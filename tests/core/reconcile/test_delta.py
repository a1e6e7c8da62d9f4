"""Work for a switch: in an order that it can take, and ending in what is desired, from wherever it starts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile import compiler, ledger
from ebbtide.compile.flow import Bucket, Flow, Group, GroupType, Output, ToGroup, match
from ebbtide.compile.fragment import Fragment, Key
from ebbtide.compile.ledger import Feature, Kind
from ebbtide.openflow.flows import encode_flow, encode_group
from ebbtide.reconcile.delta import Encoded, diff, encode, resync, strangers
from tests.fakes.clouds import Story, view
from tests.fakes.model_switch import ModelSwitch

COOKIE = ledger.cookie(Kind.BASE, Feature.PIPELINE)


def some_fragments(random: Random) -> dict[Key, Encoded]:
    """Fragments that fight for few flow keys and group ids, as owners do that take over from each other."""
    keys, groups = list(range(6)), list(range(1, 5))
    random.shuffle(keys)
    random.shuffle(groups)
    made = {}
    for n in range(random.randint(0, 4)):
        own = [
            Group(groups.pop(), GroupType.ALL, (Bucket((Output(random.randint(1, 3)),)),))
            for _ in range(random.randint(0, 1))
        ]
        flows = []
        for _ in range(random.randint(0, 2)):
            if keys:
                actions = (ToGroup(own[0].group_id),) if own else (Output(random.randint(1, 2)),)
                flows.append(Flow(0, 1, match(in_port=keys.pop()), actions, cookie=COOKIE))
        made[Key("room", random.randint(0, 9) * 10 + n)] = encode(Fragment(tuple(flows), tuple(own)))
    return made


@settings(max_examples=200)
@given(st.integers(0, 1 << 32))
def test_work_takes_a_switch_from_any_fragments_to_any_others_in_an_order_it_accepts(seed: int) -> None:
    random = Random(seed)
    switch = ModelSwitch()
    held: dict[Key, Encoded] = {}
    for _ in range(4):
        wanted = some_fragments(random)
        work = diff(held, {**dict.fromkeys(held), **wanted})
        switch.make(work)
        switch.take_away(work)
        assert switch.holds(wanted.values())
        held = {k: e for k, e in work.after.items() if e is not None} | {
            k: e for k, e in held.items() if wanted.get(k) == e
        }
        assert held == wanted
        again = diff(held, wanted)
        assert (again.makes, again.breaks, again.after) == (0, 0, {})


@settings(max_examples=100)
@given(st.integers(0, 1 << 32))
def test_a_switch_that_holds_anything_at_all_is_brought_to_what_is_desired(seed: int) -> None:
    random = Random(seed)
    switch = ModelSwitch()
    for _ in range(random.randint(0, 3)):
        for garbage in some_fragments(random).values():
            switch.groups |= {g.group_id: g for g in garbage.groups}
            switch.flows |= {f.key: f for f in garbage.flows}
            switch.meters.add(random.randint(1, 9))
    if random.random() < 0.5:
        switch.flows = {k: f._replace(cookie=random.choice([0, f.cookie ^ 1])) for k, f in switch.flows.items()}
    wanted = some_fragments(random)
    work = resync(switch.dump(), wanted)
    switch.make(work)
    switch.take_away(work)
    assert switch.holds(wanted.values())
    assert work.after == wanted
    again = resync(switch.dump(), wanted)
    assert (again.makes, again.breaks) == (0, 0)


@settings(max_examples=20)
@given(st.integers(0, 1 << 32))
def test_a_reconnected_switch_that_holds_what_it_should_is_sent_nothing(seed: int) -> None:
    story = Story(Random(seed))
    for _ in range(10):
        story.batch()
    for member in story.state.members():
        wanted = {
            k: encode(f)
            for k, f in compiler.desired(story.state, member.number, view(story.state, member.number)).items()
        }
        switch = ModelSwitch()
        first = resync(switch.dump(), wanted)
        switch.make(first)
        assert first.breaks == 0
        again = resync(switch.dump(), wanted)
        assert (again.makes, again.breaks) == (0, 0)


def test_a_flow_that_two_fragments_hand_over_is_replaced_and_never_taken_away() -> None:
    one = encode(Fragment((Flow(0, 1, match(in_port=1), (Output(1),), cookie=COOKIE),)))
    two = encode(Fragment((Flow(0, 1, match(in_port=1), (Output(2),), cookie=COOKIE),)))
    for wanted in ({Key("a", 1): None, Key("b", 1): two}, {Key("b", 1): two, Key("a", 1): None}):
        work = diff({Key("a", 1): one}, wanted)
        assert work.flows == list(two.flows)
        assert work.break_flows == []


def test_flows_that_a_switch_has_learnt_by_itself_are_left_to_it() -> None:
    switch = ModelSwitch()
    learnt = encode_flow(Flow(0, 1, match(in_port=1), cookie=ledger.cookie(Kind.VOLATILE, Feature.L2, 3)))
    switch.flows[learnt.key] = learnt
    assert resync(switch.dump(), {}).breaks == 0
    assert strangers(switch.dump()) == []


@pytest.mark.parametrize("cookie", [0, 7, 0x7 << 60, 1 << 60 | 0xFF << 52])
def test_a_flow_whose_cookie_no_room_can_have_written_is_a_stranger_and_goes(cookie: int) -> None:
    switch = ModelSwitch()
    found = encode_flow(Flow(0, 1, match(in_port=1), cookie=cookie))
    switch.flows[found.key] = found
    assert [f.key for f in strangers(switch.dump())] == [found.key]
    assert len(resync(switch.dump(), {}).break_flows) == 1


def test_a_group_whose_buckets_changed_is_replaced_and_its_flows_are_left_alone() -> None:
    old = encode_group(Group(1, GroupType.ALL, ()))
    new = encode_group(Group(1, GroupType.ALL, (Bucket((Output(1),)),)))
    flow = encode_flow(Flow(0, 1, (), (ToGroup(1),), cookie=COOKIE))
    work = diff({Key("g", 1): Encoded((flow,), (old,), ())}, {Key("g", 1): Encoded((flow,), (new,), ())})
    assert (work.groups, work.flows, work.breaks) == ([new], [], 0)
