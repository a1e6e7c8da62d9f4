"""What a drain would do, in numbers, before it is begun: services, sessions, VMs, tunnels, flows, loads. Touches nothing.

Flows are counted, not guessed: State as it will be is compiled beside State as it is, for whom the difference concerns. Ports that the
switches have not made yet get numbers of their own, which changes no count. Not counted is what is no part of State: rows of connections,
and the flow by which a router's record takes turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
from immutables import Map

from ebbtide.compile import affected, compiler
from ebbtide.compile.features import tunnel
from ebbtide.compile.flow import Match
from ebbtide.compile.fragment import Key
from ebbtide.decide import drain, foresight, marking, rebalancing, scalein
from ebbtide.decide.designation import Going, Standing
from ebbtide.decide.drain import Goal, Problem, Wish
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import NAT, State
from ebbtide.runtime import natmoves, sessions
from ebbtide.runtime.cluster import Cluster

#: Seconds that a VM takes to move, as far as nothing is known of it.
VM_SECONDS = 20.0
_OFPORT = 0x8000
#: Flows of a tunnel to one peer: the same for all.
_TUNNEL = len(tunnel.towards(1, 1).flows)
K = TypeVar("K")

if TYPE_CHECKING:
    from ebbtide.runtime.drains import Drains


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


class Standby(msgspec.Struct, frozen=True):
    """A service that stays where it is, and whose standby leaves; `new`: who stands by then (0: nobody)."""

    service: str
    compute: int
    old: int
    new: int


class Counted(NamedTuple):
    """All of a plan that follows from State, and from what is seen of computes. `tunnels`: ports of tunnels that are made and that go, all
    ends counted, on computes that stay."""

    decision: scalein.Decision
    numbers: frozenset[int]
    goals: list[Goal]
    targets: dict[str, int]
    vms: dict[str, int]
    standbys: list[Standby]
    tunnels_made: int
    tunnels_gone: int
    flows: Flows
    loads: list[Load]


class DrainPlan(NamedTuple):
    """What was counted, and what else is to be known before a drain is begun. `mover_options`: what holds of what its movers were started
    with, what is asked of a drain of the same computes that goes on, and what is asked now."""

    counted: Counted
    sessions: list[Sessions]
    problems: list[Problem]
    waits: list[Problem]
    seconds: float
    mover_options: tuple[str, ...] = ()


def count(
    state: State,
    standings: Mapping[int, Standing],
    view_of: Callable[[int], View],
    held: Callable[[int], int],
    ids: Iterable[str],
    *,
    dead: bool = False,
) -> Counted:
    """What a drain of these computes moves and changes. `view_of`: what is seen of a compute; `held`: how many flows of ours it has.

    Raises:
        NotFound, Refused: an id is unknown, or of one that is no member.
    """
    decision = scalein.start(state, list(ids)).checked("drain")
    numbers = frozenset(v.number for v in decision.verdicts)
    begun = marking.mark(state, decision, numbers, standings)
    targets = drain.targets(state, numbers, standings) if not dead else {}
    then = foresight.after(state, begun.edits, numbers, targets, standings)
    goals = drain.awaited(drain.goals(state, begun.marked, numbers, standings), then.state, numbers)
    made, gone = _tunnels(state, then.state, numbers)
    vms = {port: n for n in sorted(numbers) for port in scalein.carried(state, n)}
    flows, loads = _flows(state, then, numbers, view_of, held), _loads(state, then.state, numbers, standings)
    return Counted(
        decision, numbers, goals, targets, vms, _standbys(state, then.state, numbers), made, gone, flows, loads
    )


def _standbys(before: State, after: State, numbers: frozenset[int]) -> list[Standby]:
    found = []
    for (kind, name), held in sorted(before.designations.items()):
        if held.standby in numbers and held.compute not in numbers:
            then = after.designations.get((kind, name))
            new = then.standby if then is not None else 0
            found.append(Standby(drain.named(kind, name), held.compute, held.standby, new))
    return found


async def plan(cluster: Cluster, drains: Drains, ids: Iterable[str], wish: Wish) -> DrainPlan:
    """What a drain of these computes would do.

    Raises:
        NotFound, Refused: an id is unknown, or of one that is no member.
    """
    state, standings = cluster.state, cluster.designations.standings()
    members = cluster.members

    def view_of(number: int) -> View:
        return members[number].view if number in members else View()

    def held(number: int) -> int:
        return sum(len(e.flows) for e in members[number].held.values()) if number in members else 0

    found = count(state, standings, view_of, held, ids, dead=wish.dead)
    going = drain.the_same(state, found.numbers, wish.dead)
    # Who has died is emptied by nobody, whatever movers were started with.
    known = [drains.vouches.known(wish.vms, n) for n in sorted(found.numbers)] if not wish.dead else []
    started = next((said.options for said in known if said is not None), ())
    options = drain.merged(started, drain.merged(going.mover_options if going is not None else (), wish.mover_options))
    wish = msgspec.structs.replace(wish, mover_options=options)
    problems = drains.problems(state, found.numbers, found.goals, found.targets, wish)
    if going is not None:  # who asks again changes its options, and is not refused for it
        problems = [p for p in problems if (p.code, p.about) != ("busy", going.id)]
    told = await _sessions(cluster, state, found.goals)
    waits = drain.waits(state, found.numbers, wish)
    return DrainPlan(found, told, problems, waits, _seconds(cluster, found.goals, len(found.vms), wish), options)


def _seconds(cluster: Cluster, goals: Iterable[Goal], vms: int, wish: Wish) -> float:
    """About how long it takes, without what is waited for: services move while VMs do, as many at a time as are let; then the end."""
    moves = sum(g.how is Going.MOVES and bool(g.router) for g in goals)
    nat = natmoves.expected_seconds(moves, cluster.settings.lag) if moves else 0.0
    emptied = -(-vms // (wish.at_once or drain.AT_ONCE)) * VM_SECONDS if vms and wish.vms != drain.NOBODY else 0.0
    return max(nat, emptied) + 2 * cluster.settings.lag + 1.0


async def _sessions(cluster: Cluster, state: State, goals: Iterable[Goal]) -> list[Sessions]:
    wanted = [goal for goal in goals if goal.router]
    found = await sessions.before_moves(cluster, [(state.routers[g.router], g.old, g.new) for g in wanted])
    return [
        Sessions(goal.router, x.recorded, x.part.unknown, x.part.reason, x.proof.proven, x.proof.words)
        for goal, x in zip(wanted, found, strict=True)
    ]


def _tunnels(before: State, after: State, numbers: frozenset[int]) -> tuple[int, int]:
    """Tunnel ports that computes which stay get, and lose."""
    made = gone = 0
    for compute in before.members():
        if compute.number not in numbers:
            was, will = before.peers(compute.number), after.peers(compute.number)
            made += len(will - was)
            gone += len(was - will)
    return made, gone


def _loads(before: State, after: State, numbers: frozenset[int], standings: Mapping[int, Standing]) -> list[Load]:
    bounds = {x.name: x for x in rebalancing.plan(after, standings).loads}

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


def _flows(
    before: State,
    then: foresight.Then,
    numbers: frozenset[int],
    view_of: Callable[[int], View],
    held: Callable[[int], int],
) -> Flows:
    now, later = _Flows(before), _Flows(then.state)
    # The same fragment differs in the same way for everybody who has it then and now.
    shared: dict[tuple[Key, bool, bool], tuple[int, int]] = {}
    made = gone = computes = 0
    for number, keys in affected.by_edits(then.edits, before, then.state).items():
        if number in numbers or number not in before.computes:
            continue
        view = view_of(number)
        expected = _as_it_will_be(view, then.state, number)
        more = less = 0
        for key in keys:
            if key.room == "tunnel":
                had, has = now.has_tunnel(key, view), later.has_tunnel(key, expected)
                known = _TUNNEL * (has and not had), _TUNNEL * (had and not has)
            else:
                had, has = compiler.concerns(before, key, number), compiler.concerns(then.state, key, number)
                found = shared.get((key, had, has)) if not key.compute else None
                if found is None:
                    same = had and has and key.room == "port" and _is_as_it_was(str(key.object), before, then.state)
                    found = (0, 0) if same else _difference(now.of(key, view, had), later.of(key, expected, has))
                    if not key.compute:
                        shared[key, had, has] = found
                known = found
            more, less = more + known[0], less + known[1]
        made, gone, computes = made + more, gone + less, computes + bool(more or less)
    return Flows(made, gone, computes, sum(map(held, numbers)))


class _Flows:
    """Keys (table, priority, match) of the flows of fragments of one State; not encoded, since they are only counted."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._shared: dict[Key, frozenset[tuple[int, int, Match]]] = {}

    def of(self, key: Key, view: View, concerned: bool = True) -> frozenset[tuple[int, int, Match]]:
        if not concerned:
            return frozenset()
        known = self._shared.get(key)
        if known is None:
            made = compiler.fragment(self.state, key, view)
            known = frozenset((f.table, f.priority, f.match) for f in made.flows) if made is not None else frozenset()
            if not key.compute:
                self._shared[key] = known
        return known

    def has_tunnel(self, key: Key, view: View) -> bool:
        found = view.tunnels.get(int(key.object))
        return found is not None and bool(found.ofport) and self.state.needs_tunnel(key.compute, int(key.object))


def _is_as_it_was(port: str, before: State, after: State) -> bool:
    """Whether a port's own flows are the same: nothing that they are made of has changed."""
    if before.learnt is not after.learnt or before.ports.get(port) is not after.ports.get(port):
        return False
    return before.bindings.get(port) is after.bindings.get(port)


def _difference(old: frozenset[tuple[int, int, Match]], new: frozenset[tuple[int, int, Match]]) -> tuple[int, int]:
    return len(new - old), len(old - new)


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
