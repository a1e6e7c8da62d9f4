"""Which compute serves a router's NAT: what the election is asked, and what follows from its answer.

Nobody serves it: the chosen one does. The one that serves it is to leave and is there: a move. It is gone or dead: the other takes over.
The order in which computes leave does not matter: one judgement looks at all services and all computes of one State.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from enum import StrEnum

import msgspec

from ebbtide.decide import election, natmove, parts
from ebbtide.decide.election import Candidate, Choice, Service
from ebbtide.model import teps
from ebbtide.model.facts import Compute, Edit, Lease, Membership, Move, MovePhase, Router
from ebbtide.model.moves import reached
from ebbtide.model.state import NAT, State


class Standing(msgspec.Struct, frozen=True):
    """How a compute is seen now. `wired`: physical networks that its switch has realised.

    `dead`: all who saw it by BFD have ceased to. `gone`: it is silent, and nobody sees it by BFD either; after a grace, unless it was to
    leave anyway. `absent`: its control session is lost, and it is its own fault: whoever asks the controller does not wait for it.
    """

    ready: bool = False
    reachable: bool = False
    reason: str = ""
    wired: frozenset[str] = frozenset()
    dead: bool = False
    gone: bool = False
    absent: bool = False

    @property
    def lost(self) -> bool:
        """Whether it serves nobody any more, as far as can be known."""
        return self.dead or self.gone


class Sighting(msgspec.Struct, frozen=True):
    """What one compute, whose sessions are up, sees of others by BFD: those that it has seen in this session, and those of them that it
    sees no more. `unheard`: the controller hears nothing of any of those either."""

    observer: int
    seen: frozenset[int]
    lost: frozenset[int]
    unheard: bool = False

    @property
    def blind(self) -> bool:
        """Whether it has lost all of several at once, and they are heard of: then it is itself that is cut off."""
        return len(self.seen) > 1 and self.lost == self.seen and not self.unheard


def is_seen(number: int, sightings: Iterable[Sighting]) -> bool:
    """Whether anybody sees a compute by BFD."""
    return any(number in s.seen and number not in s.lost for s in sightings)


def is_dead(number: int, standbys: Set[int], sightings: Iterable[Sighting]) -> bool:
    """Whether all who saw a compute have ceased to: its standbys among them, and two at least where two did."""
    observers = [s for s in sightings if number in s.seen and not s.blind and s.observer != number]
    if not observers or any(number not in s.lost for s in observers):
        return False
    watching = {s.observer for s in observers}
    seeing = {s.observer for s in sightings if number in s.seen}
    return standbys & seeing <= watching


def candidates(state: State, standings: Mapping[int, Standing], *, by_controller: bool = False) -> list[Candidate]:
    """All members, as places for services. `by_controller`: for services that nobody can do without a control session."""
    return [_candidate(c, standings.get(c.number, Standing()), by_controller) for c in state.members()]


def _candidate(compute: Compute, seen: Standing, by_controller: bool) -> Candidate:
    barred, keeps = "", False
    if compute.tombstoned:
        barred = "tombstoned"
    elif seen.dead:
        barred = "dead: no peer sees it"
    elif seen.gone:
        barred = "silent for too long"
    elif not seen.reachable:
        # Silence is no death: what it has it keeps, for its peers may see it all the same.
        barred, keeps = "unreachable", not (by_controller and seen.absent)
    elif not seen.ready:
        barred, keeps = f"not ready{f' ({seen.reason})' if seen.reason else ''}", True
    elif not compute.tep:
        barred, keeps = "it has no tunnel address", True
    return Candidate(compute.number, compute.name, compute.weight, compute.base, barred, keeps)


def _gateways(state: State) -> set[int]:
    """The computes that are in every footprint."""
    return {c.number for c in state.computes.values() if c.gateway and c.membership is Membership.MEMBER}


def service(state: State, router: Router, standings: Mapping[int, Standing], gateways: Set[int]) -> Service:
    """A router's NAT, as the election knows it. `gateways`: the computes that are in every footprint."""
    found, move = state.designations.get((NAT, router.id)), state.moves.get(router.id)
    footprint = state.present(router.id) | gateways
    current = found.compute if found is not None else 0
    standby = found.standby if found is not None else 0
    physical = state.externals[router.external].physical
    leaves_at_once = _is_lost(state, current, standings) or _has_lost_its_wire(state, router.id, current)
    unable = {}
    for number in footprint | {current, standby}:
        compute = state.computes.get(number)
        if compute is None:
            continue
        if physical not in dict(compute.provider_mappings):
            unable[number] = f"has no provider network {physical}"
        elif number not in (current, standby) and physical not in standings.get(number, Standing()).wired:
            unable[number] = f"its port to provider network {physical} is not there"
        elif not leaves_at_once and _is_apart(state, number, current):
            unable[number] = f"has a tunnel address of another IP version than {state.computes[current].name}"
    held = ""
    if move is not None:
        target = state.computes.get(move.new)
        held = f"its move is under way ({move.phase})" if target is not None and not _goal_leaves(state, move) else ""
    return Service(NAT, router.id, frozenset(footprint), current, standby, unable, held)


def _is_apart(state: State, one: int, other: int) -> bool:
    """Whether the two have tunnel addresses between which there is no way: a NAT cannot be moved from one to the other."""
    ends = state.computes[one].tep, state.computes[other].tep
    return one != other and all(ends) and not teps.joined(*ends)


def services(state: State, standings: Mapping[int, Standing]) -> list[Service]:
    """All routers that need a compute for their NAT: those with a network outside, and with a place in some network; and those that move,
    whatever they have: a move is brought to its end."""
    gateways = _gateways(state)
    return [
        service(state, r, standings, gateways)
        for r in state.routers.values()
        if r.external and (state.legs.get(r.id) or r.id in state.moves)
    ]


def judge(state: State, standings: Mapping[int, Standing]) -> list[Edit]:
    """What is to be stored so that every router's NAT is where it belongs."""
    wanted = services(state, standings)
    if not wanted:
        return []
    chosen = election.elect(wanted, candidates(state, standings))
    return [edit for s in wanted for edit in _follow(state, s, chosen[s.key], standings)]


def _follow(state: State, asked: Service, choice: Choice, standings: Mapping[int, Standing]) -> list[Edit]:
    router = asked.object
    move = state.moves.get(router)
    if move is not None:
        old, new = (_is_lost(state, n, standings) for n in (move.old, move.new))
        if old and not new and not reached(move, MovePhase.COUPLE_NEW):
            # Nobody has shown yet that the new one gets out; whoever stands by carries all of it already.
            stands_by = asked.standby if asked.standby != move.new else 0
            if stands_by and not _is_lost(state, stands_by, standings):
                edits = _take_over(state, router, move.old, stands_by, 0)
                return [Edit(move, None), *edits, *parts.inherit(state, router, {move.new}, stands_by)]
        if old or new:
            return natmove.lose(state, move, old_dead=old, new_dead=new)
        return _lead_elsewhere(state, move, choice.compute)
    if asked.held or not choice.compute:
        return []
    if not asked.current or asked.current not in state.computes:
        return parts.designate(state, router, choice.compute, choice.standby)
    if choice.compute == asked.current:
        return parts.designate(state, router, choice.compute, choice.standby)
    if _is_lost(state, asked.current, standings) or _has_lost_its_wire(state, router, asked.current):
        standby = choice.standby if choice.standby != asked.current else 0
        return _take_over(state, router, asked.current, choice.compute, standby)
    return natmove.begin(state, router, asked.current, choice.compute)


def _goal_leaves(state: State, move: Move) -> bool:
    """Whether the goal of a move, which may have opened nothing yet, is to leave as well."""
    return state.computes[move.new].tombstoned and not move.turned and not reached(move, MovePhase.FREEZE)


def _lead_elsewhere(state: State, move: Move, chosen: int) -> list[Edit]:
    """What becomes of a move whose goal is to leave as well: it would only have to move once more. `chosen`: who would get it now.

    Later than in FREEZE the shortest way is on; but one that comes from where it may stay goes back there.
    """
    if _goal_leaves(state, move):
        edits = natmove.call_back(state, move)
        if chosen in (0, move.old):
            return edits
        begun = natmove.begin(state, move.router, move.old, chosen)
        moves = [new for _, new in begun if isinstance(new, Move)]
        later = [Edit(move, msgspec.structs.replace(new, deadline=move.deadline)) for new in moves]
        return later + [edit for edit in edits + begun if not any(isinstance(fact, Move) for fact in edit)]
    stays = not state.computes[move.old].tombstoned and not _has_lost_its_wire(state, move.router, move.old)
    before_flip = not move.turned and not reached(move, MovePhase.FLIP)
    return natmove.call_back(state, move) if state.computes[move.new].tombstoned and before_flip and stays else []


def _take_over(state: State, router: str, old: int, new: int, standby: int) -> list[Edit]:
    """The new one serves at once; connections with ports of the old one's are its own now, and nobody opens from those.

    It is careful, if it has stood by or not: what is in the middle of a connection waits for its row (`standbys.py`).
    """
    edits = parts.designate(state, router, new, standby) + parts.inherit(state, router, {old}, new)
    return [Edit(e.old, _careful(e.new)) if isinstance(e.new, Lease) and e.new.opening else e for e in edits]


def _careful(lease: Lease) -> Lease:
    return msgspec.structs.replace(lease, careful=True)


def _has_lost_its_wire(state: State, name: str, number: int) -> bool:
    """Whether whoever serves has no provider network any more: a move would leave everybody without a way out for as long as it lasts.

    Without a record of connections it is moved all the same: what passes it is exported, and nobody else knows of them.
    """
    router, compute = state.routers[name], state.computes[number]
    return router.record and state.externals[router.external].physical not in dict(compute.provider_mappings)


def _is_lost(state: State, number: int, standings: Mapping[int, Standing]) -> bool:
    return number not in state.computes or standings.get(number, Standing()).lost


def call_back(state: State, recovered: Set[int]) -> list[Edit]:
    """Computes are not tombstoned any more: what is on its way from them stays there, or goes back."""
    edits: list[Edit] = []
    for move in state.moves.values():
        if move.old in recovered and not (move.turned and reached(move, MovePhase.FREEZE)):
            edits += natmove.call_back(state, move)
    return edits


class Going(StrEnum):
    """What becomes of a router's NAT when its compute is to leave."""

    MOVES = "moves"  # and no connection breaks
    UNDER_WAY = "under way"  # its move has begun before
    TAKEN_OVER = "taken over"  # at once: its compute is lost
    LATER = "later"  # moves once VMs that need it are where another can have it
    STAYS = "stays"  # nobody else may have it; it ends with its compute


class Departure(msgspec.Struct, frozen=True):
    """A router's NAT whose compute is to leave: where it goes (0: nowhere), how, and why there, in words."""

    router: str
    old: int
    new: int
    how: Going
    why: tuple[str, ...]


def departures(state: State, standings: Mapping[int, Standing], leaving: Set[int]) -> list[Departure]:
    """What `judge` does for these computes, which are tombstoned in this State, and what it cannot do; a line each router."""
    wanted = services(state, standings)
    chosen = election.elect(wanted, candidates(state, standings)) if wanted else {}
    names, found = {n: c.name for n, c in state.computes.items()}, []
    for asked in wanted:
        move, choice = state.moves.get(asked.object), chosen[asked.key]
        if move is not None and leaving & {move.old, move.new}:
            ends_there = move.old in state.computes and move.new in state.computes
            then = _lead_elsewhere(state, move, choice.compute) if ends_there else []
            led = next((new for _, new in then if isinstance(new, Move)), None)
            words = [natmove.words(move, names)]
            if led is not None:
                words.append(f"it is led to {names[led.new]}, for {names[move.new]} is to leave")
            elif then:
                words.append(f"it stays on {names[move.old]}, for {names[move.new]} is to leave")
            elif move.new in leaving:
                words.append(f"it arrives on {names[move.new]}, and moves on from there")
            goal = led.new if led is not None else move.old if then else move.new
            found.append(Departure(asked.object, move.old, goal, Going.UNDER_WAY, tuple(words)))
        elif move is None and asked.current in leaving:
            new = choice.compute if choice.compute != asked.current else 0
            how = Going.TAKEN_OVER if _is_lost(state, asked.current, standings) else Going.MOVES
            found.append(Departure(asked.object, asked.current, new, how if new else Going.STAYS, choice.why))
    return sorted(found, key=lambda d: d.router)


def stays(found: Iterable[Departure]) -> dict[int, str]:
    """Of the computes that are to leave: whose NAT ends with them, in words."""
    routers: dict[int, list[str]] = {}
    for departure in found:
        if departure.how is Going.STAYS:
            routers.setdefault(departure.old, []).append(departure.router)
    return {
        number: f"nobody else can have the NAT of router {', '.join(names[:5])}{' and others' if len(names) > 5 else ''} now: it stays, "
        "and ends with this compute"
        for number, names in routers.items()
    }


def holds(state: State, number: int, standings: Mapping[int, Standing]) -> list[str]:
    """Why a compute cannot be removed yet: what it serves and another could, or what is on its way; in words, each service."""
    found, routers = [], sorted(state.serves.get(number, ()))
    chosen: dict[tuple[str, str], Choice] = {}
    if routers:
        chosen = election.elect(services(state, standings), candidates(state, standings))
    names = {n: c.name for n, c in state.computes.items()}
    for router in routers:
        move, designation = state.moves.get(router), state.designations.get((NAT, router))
        if move is not None and number in (move.old, move.new):
            found.append(natmove.words(move, names))
        elif designation is not None and designation.compute == number:
            choice = chosen.get((NAT, router))
            if choice is None:
                continue  # a router that is in no network needs nobody, and waits for nobody
            soon = _soon(state, router, number, standings)
            if choice.compute not in (0, number):
                found.append(f"router {router}: its NAT is still here, and {names[choice.compute]} can have it")
            elif soon:
                found.append(
                    f"router {router}: its NAT is here, and nobody else can have it now, but {soon} will be able to"
                )
    return found


def bar(state: State, router: str, number: int, standings: Mapping[int, Standing]) -> str:
    """Why a compute may not have a router's NAT now, in words; "": it may."""
    asked = service(state, state.routers[router], standings, _gateways(state))
    return election.bar(asked, candidates(state, standings), number)


def chosen(state: State, standings: Mapping[int, Standing]) -> dict[str, int]:
    """Who is to have each router's NAT (0: nobody can), by an election of now."""
    found = election.elect(services(state, standings), candidates(state, standings))
    return {name: choice.compute for (_, name), choice in found.items()}


def has_home(
    state: State, router: str, number: int, standings: Mapping[int, Standing], elected: Mapping[str, int]
) -> bool:
    """Whether another than this compute can have a router's NAT now, or will be able to in a moment. `elected`: see `chosen`."""
    return elected.get(router, 0) not in (0, number) or bool(_soon(state, router, number, standings))


def _soon(state: State, router: str, number: int, standings: Mapping[int, Standing]) -> str:
    """Another that is heard and has the router's network outside, and is not ready, in words; "": there is none, and waiting is no use."""
    physical = state.externals[state.routers[router].external].physical
    for other in sorted(state.present(router) | _gateways(state)):
        compute, seen = state.computes.get(other), standings.get(other, Standing())
        if compute is None or other == number or compute.tombstoned or compute.membership is not Membership.MEMBER:
            continue
        if physical in dict(compute.provider_mappings) and seen.reachable and not seen.lost:
            why = seen.reason or ("not ready" if not seen.ready else f"its port to {physical} is not there")
            if _is_apart(state, other, number):
                why = "its tunnel address is of another IP version"
            return f"{compute.name} ({why})"
    return ""


def electable(state: State, router: str, standings: Mapping[int, Standing]) -> list[str]:
    """Why a router's NAT is where it is, in words, each compute with its reason."""
    found = state.routers.get(router)
    if found is None or not found.external:
        return [f"router {router} has no external network: nobody serves its NAT"]
    asked = service(state, found, standings, _gateways(state))
    return election.explain(asked, candidates(state, standings), services(state, standings))
