"""What a drain would do, in numbers, before it is begun: services, sessions, VMs, tunnels, flows, loads. Touches nothing.

Flows are counted, not guessed: State as it will be is compiled beside State as it is, for whom the difference concerns. Ports that the
switches have not made yet get numbers of their own, which changes no count. Not counted is what is no part of State: rows of connections,
and the flow by which a router's record takes turns.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import msgspec
from immutables import Map

from ebbtide.compile import affected, compiler
from ebbtide.compile.fragment import Key
from ebbtide.decide import datapaths, drain, foresight, marking, rebalancing, scalein
from ebbtide.decide.designation import Going
from ebbtide.decide.drain import Goal, Problem, Wish
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import NAT, State
from ebbtide.reconcile.compiled import Compiled
from ebbtide.reconcile.delta import Encoded
from ebbtide.runtime import natmoves, sessions
from ebbtide.runtime.cluster import Cluster

#: Routers whose switches are read at the same time.
_READ_AT_ONCE = 8
#: Seconds that a VM takes to move, as far as nothing is known of it.
VM_SECONDS = 20.0
_OFPORT = 0x8000
K = TypeVar("K")


class Sessions(msgspec.Struct, frozen=True):
    """Connections through a router's NAT: on record and open; in no record (None: nobody could be asked, `reason`)."""

    router: str
    recorded: int
    unknown: int | None
    reason: str
    proven: bool
    words: str


class Load(msgspec.Struct, frozen=True):
    """What a compute that stays has to carry, before and after. `bound`: of routers' NAT, what is its share; 0: none."""

    compute: int
    vms: int
    vms_after: int
    routers: int
    routers_after: int
    bound: int = 0

    @property
    def over(self) -> bool:
        """Whether it would have more than its share."""
        return bool(self.bound) and self.routers_after > self.bound


class Flows(msgspec.Struct, frozen=True):
    """Flows by their keys (table, priority, match). `made`, `gone`: on computes that stay, of which `computes` are concerned; `wiped`: on
    those that leave."""

    made: int
    gone: int
    computes: int
    wiped: int


class DrainPlan(NamedTuple):
    """See the module. `tunnels`: ports of tunnels that are made and that go, all ends counted, on computes that stay."""

    verdicts: tuple[scalein.IdVerdict, ...]
    numbers: frozenset[int]
    goals: list[Goal]
    sessions: list[Sessions]
    targets: dict[str, int]
    vms: dict[str, int]
    tunnels_made: int
    tunnels_gone: int
    flows: Flows
    loads: list[Load]
    problems: list[Problem]
    seconds: float


async def plan(cluster: Cluster, ids: Iterable[str], wish: Wish) -> DrainPlan:
    """What a drain of these computes would do.

    Raises:
        NotFound, Refused: an id is unknown, or of one that is no member.
    """
    state, standings = cluster.state, cluster.designations.standings()
    decision = scalein.start(state, list(ids)).checked("drain")
    numbers = frozenset(v.number for v in decision.verdicts)
    begun = marking.mark(state, decision, numbers, standings)
    targets = drain.targets(state, numbers, standings)
    then = foresight.after(state, begun.edits, numbers, targets, standings)
    goals = drain.awaited(drain.goals(state, begun.marked, numbers, standings), then.state, numbers)
    made, gone = _tunnels(state, then.state, numbers)
    vms = {port: n for n in sorted(numbers) for port in scalein.carried(state, n)}
    return DrainPlan(
        decision.verdicts,
        numbers,
        goals,
        await _sessions(cluster, state, goals),
        targets,
        vms,
        made,
        gone,
        _flows(cluster, state, then, numbers),
        _loads(state, then.state, numbers, cluster),
        drain.problems(state, numbers, goals, standings, wish, cluster.settings.drain_share),
        _seconds(cluster, goals, len(vms), wish),
    )


def _seconds(cluster: Cluster, goals: Iterable[Goal], vms: int, wish: Wish) -> float:
    """About how long it takes, without what is waited for: services move while VMs do, as many at a time as are let; then the end."""
    moves = sum(g.how is Going.MOVES and bool(g.router) for g in goals)
    nat = natmoves.expected_seconds(moves, cluster.settings.lag) if moves else 0.0
    emptied = -(-vms // wish.at_once) * VM_SECONDS if vms and wish.vms != drain.NOBODY else 0.0
    return max(nat, emptied) + 2 * cluster.settings.lag + 1.0


async def _sessions(cluster: Cluster, state: State, goals: Iterable[Goal]) -> list[Sessions]:
    turns = asyncio.Semaphore(_READ_AT_ONCE)

    async def looked_at(goal: Goal) -> Sessions:
        router = state.routers[goal.router]
        async with turns:
            part = await sessions.part(cluster, router, goal.old)
        entries = cluster.connections.of(router.tag)
        ends = [cluster.members[n].view.datapath for n in (goal.old, goal.new) if n in cluster.members]
        proof = datapaths.move_proven(*ends)
        recorded = sum(not e.closed for e in entries)
        return Sessions(goal.router, recorded, part.unknown, part.reason, proof.proven, proof.words)

    return list(await asyncio.gather(*(looked_at(goal) for goal in goals if goal.router)))


def _tunnels(before: State, after: State, numbers: frozenset[int]) -> tuple[int, int]:
    """Tunnel ports that computes which stay get, and lose."""
    made = gone = 0
    for compute in before.members():
        if compute.number not in numbers:
            was, will = before.peers(compute.number), after.peers(compute.number)
            made += len(will - was)
            gone += len(was - will)
    return made, gone


def _loads(before: State, after: State, numbers: frozenset[int], cluster: Cluster) -> list[Load]:
    bounds = {x.name: x for x in rebalancing.plan(after, cluster.designations.standings()).loads}

    routers_before, routers_after = (
        Counter(d.compute for key, d in state.designations.items() if key[0] == NAT) for state in (before, after)
    )

    def vms(state: State, number: int) -> int:
        return len(scalein.carried(state, number))

    found = []
    for compute in sorted(before.members(), key=lambda c: c.name):
        n = compute.number
        if n in numbers:
            continue
        bound = bounds[compute.name].bound if compute.name in bounds else 0
        one = Load(n, vms(before, n), vms(after, n), routers_before[n], routers_after[n], bound)
        if (one.vms, one.routers) != (one.vms_after, one.routers_after):
            found.append(one)
    return found


def _flows(cluster: Cluster, before: State, then: foresight.Then, numbers: frozenset[int]) -> Flows:
    now, later = Compiled(), Compiled()
    # The same fragment differs in the same way for everybody who has it then and now.
    shared: dict[tuple[Key, bool, bool], tuple[int, int]] = {}
    made = gone = computes = wiped = 0
    for number, keys in affected.by_edits(then.edits, before, then.state).items():
        member = cluster.members.get(number)
        view = member.view if member is not None else View()
        if number in numbers or number not in before.computes:
            continue
        expected = _as_it_will_be(view, then.state, number)
        more = less = 0
        for key in sorted(keys, key=str):
            had, has = compiler.concerns(before, key, number), compiler.concerns(then.state, key, number)
            known = shared.get((key, had, has)) if not key.compute else None
            if known is None:
                old = now.get(before, key, view) if had else None
                new = later.get(then.state, key, expected) if has else None
                known = shared[key, had, has] = _difference(old, new)
            more, less = more + known[0], less + known[1]
        made, gone, computes = made + more, gone + less, computes + bool(more or less)
    for number in numbers:
        member = cluster.members.get(number)
        if member is not None:
            wiped += sum(len(e.flows) for e in now.desired(before, number, member.view).values())
    return Flows(made, gone, computes, wiped)


def _difference(old: Encoded | None, new: Encoded | None) -> tuple[int, int]:
    was = {f.key for f in old.flows} if old is not None else set()
    will = {f.key for f in new.flows} if new is not None else set()
    return len(will - was), len(was - will)


def _as_it_will_be(view: View, state: State, number: int) -> View:
    """A compute's view with the ports that it does not have yet, and its tunnels watched by those who are to see each other."""
    made = _missing(state.ports_on.get(number, {}), view.ports)
    tunnels = view.tunnels.update(_missing(state.peers(number), view.tunnels, len(made)))
    watched = {
        peer: msgspec.structs.replace(tunnels[peer], watched=True, up=True, seen=True)
        for peer in state.relation_peers(number)
        if peer in tunnels
    }
    return msgspec.structs.replace(view, ports=view.ports.update(made), tunnels=tunnels.update(watched))


def _missing(wanted: Iterable[K], known: Map[K, Interface], first: int = 0) -> dict[K, Interface]:
    names = [name for name in wanted if name not in known]
    return {name: Interface(f"planned-{first + i}", _OFPORT + first + i) for i, name in enumerate(names)}
