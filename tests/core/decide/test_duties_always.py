"""Services through the controller, whatever has happened to their computes: what must hold of who is designated."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.decide import duties, parts, scalein
from ebbtide.decide.designation import Standing
from ebbtide.model.facts import Binding, Designation, Edit, Fact
from ebbtide.model.state import SUBNET, State, subnet_name
from tests.fakes.clouds import ACTIVE, change, compute, leg, network, port, router, state

UP = Standing(ready=True, reachable=True)
AWAY = Standing(ready=True)
ABSENT = Standing(ready=True, absent=True)
RED = subnet_name("n1", "10.1.0.0/16")


def cloud(computes: int = 3, ports: int = 3, *more: Fact) -> State:
    """n1 behind r1, with a port on each of the first computes."""
    facts: list[Fact] = [compute(n) for n in range(1, computes + 1)]
    facts += [network(1), router(1), leg(1, 1)]
    for n in range(1, ports + 1):
        facts += [port(n, 1), Binding(f"p{n}", n, ACTIVE)]
    return state(*facts, *more)


def standings(found: State, **other: Standing) -> dict[int, Standing]:
    return {c.number: other.get(c.name, UP) for c in found.members()}


def then(found: State, **other: Standing) -> State:
    return change(found, *duties.judge(found, standings(found, **other)))


def mark(found: State, *names: str) -> State:
    decision = scalein.start(found, names).checked("start")
    return change(found, *decision.edits)


def of(found: State, service: str = SUBNET, name: str = RED) -> tuple[int, int]:
    held = found.designations.get((service, name))
    return (held.compute, held.standby) if held is not None else (0, 0)


def test_a_restart_in_which_nobody_has_come_yet_changes_nothing() -> None:
    found = then(cloud())
    assert duties.judge(found, {c.number: AWAY for c in found.members()}) == []
    assert duties.judge(found, {}) == []


def test_made_in_the_window_where_all_are_marked_it_waits_for_one_that_is_recovered() -> None:
    marked = mark(cloud(ports=1), "c1")
    assert of(then(marked)) == (0, 0)
    back = change(marked, *scalein.recover(marked, ["c1"]).checked("recover").edits)
    assert of(then(back)) == (1, 0)


def test_who_stands_by_serves_at_once_when_a_compute_is_removed() -> None:
    found = then(cloud())
    one, other = of(found)
    left = change(found, *parts.leave(found, {one}))
    assert of(left) == (other, 0)
    assert of(change(found, *parts.leave(found, {one, other}))) == (0, 0)


def test_what_needs_a_compute_no_more_has_none() -> None:
    # An older controller designated computes for DHCP too.
    found = then(cloud(3, 3, Designation("dhcp", "n1", 1, 2)))
    assert of(found, "dhcp", "n1") == (0, 0)
    assert of(found)[0]
    place = found.places("r1")[0]
    assert of(then(change(found, Edit(place, None)))) == (0, 0)


def test_of_all_that_leave_together_what_nobody_can_take_over_yet_is_said() -> None:
    found = then(cloud(ports=2))
    one, other = of(found)
    marked = mark(found, f"c{one}", f"c{other}")
    edits = duties.judge(marked, standings(marked))
    assert duties.stays(marked, {one, other}, edits)[one].startswith("nobody else has a port yet of subnet 10.1.0.0/16")


@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_in_any_order_nobody_tombstoned_lost_or_without_a_port_serves_while_another_can(seed: int) -> None:
    random = Random(seed)
    facts: list[Fact] = [compute(n, tombstoned=random.random() < 0.3) for n in range(1, 7)]
    facts += [network(n) for n in range(1, 6)]
    facts += [router(1), *(leg(1, n, address=f"10.{n}.0.1", subnet=f"10.{n}.0.0/16") for n in range(1, 6))]
    lport = 0
    for net in range(1, 6):
        for at in random.sample(range(1, 7), random.randint(0, 4)):
            lport += 1
            facts += [port(lport, net), Binding(f"p{lport}", at, ACTIVE)]
    for net in range(1, 6):
        if random.random() < 0.7:
            one, two = random.sample(range(1, 7), 2)
            facts.append(Designation(SUBNET, subnet_name(f"n{net}", f"10.{net}.0.0/16"), one, two))
    found = state(*facts)
    seen = {n: random.choice([UP, UP, UP, AWAY, ABSENT, Standing(dead=True)]) for n in range(1, 7)}
    after = change(found, *duties.judge(found, seen))
    for kind in duties.KINDS:
        for service in duties.services(after, kind):
            able = {
                n for n in service.footprint if seen[n].ready and seen[n].reachable and not after.computes[n].tombstoned
            }
            held = after.designations.get(service.key)
            if able:
                assert held is not None, service.key
            if held is not None:
                lost = seen[held.compute].lost or seen[held.compute].absent
                marked = after.computes[held.compute].tombstoned
                assert held.compute in service.footprint
                assert not able or not (lost or marked), service.key
                assert held.compute != held.standby
                assert held.standby == 0 or not after.computes[held.standby].tombstoned
    assert change(after, *duties.judge(after, seen)).designations == after.designations
