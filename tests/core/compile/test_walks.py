"""Packets walked through the compiled flows of whole clusters: who hears whom, how often, and that nothing goes round.

A migration is walked in every combination of what its computes may hold at that moment: each one independently at the older or the
newer of two neighbouring revisions, or in between, where the newer one's flows have been made and the older one's are not yet
taken away; and with nothing at all taken away since the story began.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile import ledger
from ebbtide.model.facts import Binding, Fact, Port
from ebbtide.model.observed import Datapath
from ebbtide.model.state import State
from tests.fakes.clouds import ACTIVE, LEAVING, PENDING, compute, network, ofport, port, state, view
from tests.fakes.flow_table import BROADCAST, Table, Walk, arp_request, unicast

NOBODY = 0x0A_0000_00FFFF


def tables(found: State) -> dict[int, Table]:
    return {n: Table.of(found, n, view(found, n)) for n in found.computes}


def cluster(seed: int) -> State:
    """Up to 5 computes, 3 networks, 10 ports, each bound to one compute or to none; MACs and addresses recur between networks."""
    random = Random(seed)
    computes, networks = random.randint(1, 5), random.randint(1, 3)
    facts: list[Fact] = [*(compute(n + 1) for n in range(computes)), *(network(n + 1) for n in range(networks))]
    for lport in range(1, random.randint(2, 11)):
        tag, nth = random.randint(1, networks), lport // 2
        made = port(lport, tag)
        taken = [p.mac for p in facts if isinstance(p, Port) and p.network == made.network]
        if 0x02_0000_000000 + nth not in taken:
            made = msgspec.structs.replace(made, mac=0x02_0000_000000 + nth, addresses=(f"10.1.0.{nth}",))
        facts.append(made)
        if random.random() < 0.9:
            facts.append(Binding(made.id, random.randint(1, computes), ACTIVE))
    return state(*facts)


def bound(found: State) -> list[tuple[int, Port]]:
    return [(b.compute, found.ports[p]) for p, bindings in sorted(found.bindings.items()) for b in bindings]


@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_every_port_reaches_every_other_of_its_network_once_and_nobody_else(seed: int) -> None:
    found = cluster(seed)
    held = tables(found)
    for (here, sender), (there, receiver) in product(bound(found), repeat=2):
        walk = Walk(held).enter(here, ofport(sender.lport), unicast(sender.mac, receiver.mac))
        if sender.network == receiver.network:
            assert walk.taps == ([] if sender == receiver else [(there, receiver.id)])
            assert walk.tunnels <= 1
        assert all(found.ports[name].network == sender.network for _, name in walk.taps)


@settings(max_examples=60)
@given(st.integers(0, 1 << 32))
def test_a_broadcast_and_an_unknown_mac_reach_every_other_port_of_the_network_once(seed: int) -> None:
    found = cluster(seed)
    held = tables(found)
    for here, sender in bound(found):
        others = sorted((n, p.id) for n, p in bound(found) if p.network == sender.network and p != sender)
        for destination in (BROADCAST, NOBODY, 0x01_005E_000001):
            walk = Walk(held).enter(here, ofport(sender.lport), unicast(sender.mac, destination))
            assert walk.taps == others
            assert walk.tunnels == len(found.footprint(sender.network)) - 1


@settings(max_examples=40)
@given(st.integers(0, 1 << 32))
def test_arp_is_answered_on_the_spot_for_known_addresses_and_asked_of_all_for_others(seed: int) -> None:
    found = cluster(seed)
    held = tables(found)
    for here, sender in bound(found):
        own = int(ipaddress.ip_address(sender.addresses[0]))
        for _, wanted in bound(found):
            asked = int(ipaddress.ip_address(wanted.addresses[0]))
            walk = Walk(held).enter(here, ofport(sender.lport), arp_request(sender.mac, own, asked))
            if wanted.network != sender.network:
                continue
            if wanted == sender:
                assert (here, sender.id) not in walk.taps  # a probe or an announcement: the others, never itself
                assert len(walk.taps) == sum(p.network == sender.network for _, p in bound(found)) - 1
                continue
            assert walk.taps == [(here, sender.id)]
            answer = walk.delivered[0][2]
            expected = {"eth_src": wanted.mac, "eth_dst": sender.mac, "arp_op": 2, "arp_sha": wanted.mac}
            assert expected.items() <= answer.items()
            assert (answer["arp_spa"], answer["arp_tha"], answer["arp_tpa"]) == (asked, sender.mac, own)
        walk = Walk(held).enter(here, ofport(sender.lport), arp_request(sender.mac, own, 0x0A0900FE))
        assert len(walk.taps) == sum(p.network == sender.network for _, p in bound(found)) - 1


@pytest.mark.parametrize("userspace", [True, False])
@pytest.mark.parametrize("kind", [0x0800, 0x86DD, 0x88B6])
def test_a_network_of_more_computes_than_a_bucket_list_holds_is_flooded_all_the_same(
    kind: int, userspace: bool
) -> None:
    count = ledger.MAX_BUCKETS + 3
    computes = range(1, count + 1)
    facts = [*(compute(n, teps=(f"10.0.{n >> 8}.{n & 255}",)) for n in computes), network(1)]
    facts += [port(n, 1) for n in computes]
    found = state(*facts, *(Binding(f"p{n}", n, ACTIVE) for n in computes))
    views = {
        n: msgspec.structs.replace(view(found, n), datapath=Datapath("netdev" if userspace else "system"))
        for n in (1, 2, count)
    }
    held = {n: Table.of(found, n, shown) for n, shown in views.items()}
    walk = Walk(held).enter(1, ofport(1), {**unicast(port(1, 1).mac, BROADCAST), "eth_type": kind})
    assert walk.tunnels == count - 1
    # The kernel's conntrack refuses what is not IP, and the whole flow with it.
    assert walk.cut == (userspace or kind != 0x88B6)
    assert walk.taps == [(2, "p2"), (count, f"p{count}")]
    for group in held[1].groups.values():
        assert len(group.buckets) <= ledger.MAX_BUCKETS


# --- a migration, in every combination ---

A, B, C = 1, 2, 3
#: Each step: the bindings of the migrating port p1, and where its guest runs by then. A tap stays until its binding is gone.
STEPS: dict[str, tuple[tuple[Binding, ...], tuple[int, ...]]] = {
    "on A": ((Binding("p1", A, ACTIVE),), (A,)),
    "pending on B": ((Binding("p1", A, ACTIVE), Binding("p1", B, PENDING)), (A, B)),
    "flipped to B": ((Binding("p1", A, LEAVING), Binding("p1", B, ACTIVE)), (B,)),
    "on B": ((Binding("p1", B, ACTIVE),), (B,)),
    "pending on A": ((Binding("p1", A, PENDING), Binding("p1", B, ACTIVE)), (B, A)),
    "flipped to A": ((Binding("p1", A, ACTIVE), Binding("p1", B, LEAVING)), (A,)),
    "pending on C": ((Binding("p1", A, LEAVING), Binding("p1", B, ACTIVE), Binding("p1", C, PENDING)), (B, C)),
    "flipped to C": ((Binding("p1", A, LEAVING), Binding("p1", B, LEAVING), Binding("p1", C, ACTIVE)), (C,)),
    "on C": ((Binding("p1", C, ACTIVE),), (C,)),
}
STORIES = {
    "there": ["on A", "pending on B", "flipped to B", "on B"],
    "given up": ["on A", "pending on B", "on A"],
    "back while leaving": ["on A", "pending on B", "flipped to B", "pending on A", "flipped to A", "on A"],
    "there and back": ["on A", "pending on B", "flipped to B", "on B", "pending on A", "flipped to A", "on A"],
    "on at once": ["on A", "pending on B", "flipped to B", "pending on C", "flipped to C", "on C"],
    "to and fro": [
        *["on A", "pending on B", "flipped to B", "pending on A", "flipped to A", "pending on B", "flipped to B"],
        *["pending on A", "flipped to A", "on A"],
    ],
}


def revision(step: str, neighbours: bool) -> State:
    """p1 migrates; p3 is on C; with `neighbours`, p4 is on A and p5 on B (so that both are in the footprint at all times)."""
    facts: list[Fact] = [compute(A), compute(B), compute(C), network(1), port(1, 1), port(3, 1), port(4, 1), port(5, 1)]
    facts += [Binding("p3", C, ACTIVE)]
    if neighbours:
        facts += [Binding("p4", A, ACTIVE), Binding("p5", B, ACTIVE)]
    return state(*facts, *STEPS[step][0])


class Moment:
    """What each compute holds, and the step it stands at: 0 the older, 1 the newer one."""

    def __init__(self, held: dict[int, Table], at: dict[int, int], note: str) -> None:
        self.held, self.at, self.note = held, at, note


def moments(story: list[str], state_of: Callable[[str], State]) -> Iterator[tuple[str, str, Moment]]:
    """Every combination along a story, with the two steps it stands between. `state_of`: the State of a step."""
    clean = [tables(state_of(step)) for step in story]
    lazy = [clean[0]]
    for newer in clean[1:]:
        lazy.append({n: lazy[-1][n].made(newer[n]) for n in newer})
    for index, (older, newer) in enumerate(pairwise(story)):
        choices = {
            "before": clean[index],
            "made": {n: clean[index][n].made(clean[index + 1][n]) for n in (A, B, C)},
            "after": clean[index + 1],
            "before, nothing taken": lazy[index],
            "after, nothing taken": lazy[index + 1],
        }
        for chosen in product(choices, repeat=3):
            held = {n: choices[name][n] for n, name in zip((A, B, C), chosen, strict=True)}
            at = {n: 0 if name.startswith("before") else 1 for n, name in zip((A, B, C), chosen, strict=True)}
            yield older, newer, Moment(held, at, f"{older} -> {newer}: {chosen}")


@pytest.mark.parametrize("neighbours", [True, False])
@pytest.mark.parametrize("story", STORIES)
def test_a_migration_never_loops_nor_doubles_and_always_reaches_the_guest(story: str, neighbours: bool) -> None:
    senders = {C: 3, A: 4, B: 5} if neighbours else {C: 3}
    target = port(1, 1).mac
    for older, newer, moment in moments(STORIES[story], lambda step: revision(step, neighbours)):
        for here, lport in senders.items():
            walk = Walk(moment.held).enter(here, ofport(lport), unicast(port(lport, 1).mac, target))
            assert len(set(walk.taps)) == len(walk.taps), (moment.note, here, walk.taps)
            assert {name for _, name in walk.taps} <= {"p1"}, (moment.note, here, walk.taps)
            reached = {number for number, _ in walk.taps}
            assert must_reach(older, newer, moment, reached), (moment.note, here, walk.taps)
            check_flood(moment, here, lport)
        for here in {b.compute for step in (older, newer) for b in STEPS[step][0]}:
            # The guest itself, before, during and after: what it says is heard once by each of the others.
            if moment.held[here].taps.get(ofport(1)):
                check_flood(moment, here, 1)
                for lport, there in ((3, C), (4, A), (5, B)) if neighbours else ((3, C),):
                    walk = Walk(moment.held).enter(here, ofport(1), unicast(target, port(lport, 1).mac))
                    if programmed(older, newer, moment, here) and knows(moment, here, there):
                        assert walk.taps == [(there, f"p{lport}")], (moment.note, here, walk.taps)


def check_flood(moment: Moment, here: int, lport: int) -> None:
    walk = Walk(moment.held).enter(here, ofport(lport), unicast(port(lport, 1).mac, BROADCAST))
    assert len(set(walk.taps)) == len(walk.taps), (moment.note, here, walk.taps)
    assert (here, f"p{lport}") not in walk.taps, (moment.note, here)
    assert walk.tunnels <= 4, (moment.note, walk.tunnels)


def runs(step: str) -> tuple[int, ...]:
    return STEPS[step][1]


def programmed(older: str, newer: str, moment: Moment, here: int) -> bool:
    """Whether the compute has been told of the port in the step that it stands at."""
    step = newer if moment.at[here] else older
    return any(b.compute == here for b in STEPS[step][0])


def knows(moment: Moment, here: int, there: int) -> bool:
    """Whether both ends have their tunnel by now: a compute that has just joined the network waits for it."""
    ends = ((here, there), (there, here))
    return here == there or all(far in moment.held[near].tunnels.values() for near, far in ends)


def must_reach(older: str, newer: str, moment: Moment, reached: set[int]) -> bool:
    """The guest is where both steps say it may be; while it is pending, both ends get a copy once both have applied that."""
    if not reached:
        return False
    if "pending" in newer and all(moment.at[n] for n in runs(newer)):
        return reached == set(runs(newer))
    if "flipped" in newer:
        return runs(newer)[0] in reached
    if "pending" in older and "pending" not in newer:
        return runs(newer)[0] in reached
    return bool(set(runs(older)) & set(runs(newer)) & reached)
