"""A drain: computes are emptied and removed, each as soon as it is empty; those that cannot be emptied are recovered, and named.

It is an operation with items, and each step is decided from State anew: an item only records how far its object has come, so whoever leads
next goes on from what is so, not from what was meant. What is announced by an item is stored in the same transaction as the item.

    compute   pending (waits its turn) -> moving (is emptied; then removed, its end not proven yet) -> done | failed | skipped (recovered)
    service   pending -> moving -> done; skipped: it ends with its compute, as was allowed, or stays with one that was recovered
    vm        pending -> moving (a mover has it, or it is plugged twice) -> done | failed (for good) | skipped

A compute is removed only if nothing is bound there, not even by a port that is leaving; if each of its VMs is served elsewhere or deleted
(one that is plugged nowhere may be one that restarts); if each service has gone, and everybody who sent to it here has settled on that;
and if what its own OVSDB says agrees. Nothing of that is concluded before everybody could be heard in this leadership.

A drain of dead computes waits for their services to be taken over, and for nothing else: their VMs are lost with them.

Longer than 400 lines: beginning, going on, aborting and resuming are about the same items.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import cached_property
from typing import NamedTuple

import msgspec

from ebbtide.decide import designation, documents, duties, natmove, parts, scalein
from ebbtide.decide.dead import Sight
from ebbtide.decide.designation import Departure, Going, Standing
from ebbtide.errors import BadInput, NotFound, Refused, some
from ebbtide.model.facts import (
    BindingPhase,
    Compute,
    Designation,
    Edit,
    Item,
    ItemState,
    Membership,
    Operation,
)
from ebbtide.model.state import NAT, State

VERB, END = "drain", "end"
COMPUTE, SERVICE, VM = "compute", "service", "vm"
#: Nobody moves VMs for us: they are watched.
NOBODY = "none"
#: Who moves VMs and also knows what nobody else does: whether a host is empty of those that are plugged nowhere.
VOUCHERS = frozenset({"nova"})
#: Kinds of movers that there are, whether any has spoken or not.
KINDS = (NOBODY, "nova", "lab")
#: VMs that move at the same time, where nothing is said of it.
AT_ONCE = 4
#: Of Nova's movers: stopped servers move too; hosts stay known there.
COLD, KEEP = "cold=yes", "remove-hosts=no"
#: What may be asked of movers of the kinds that there are; others have words of their own.
MOVER_OPTIONS: Mapping[str, frozenset[str]] = {
    NOBODY: frozenset(),
    "lab": frozenset(),
    "nova": frozenset(
        {COLD, "cold=no", "remove-hosts=yes", KEEP, "block-migration=auto", "block-migration=yes", "block-migration=no"}
    ),
}
#: Options of a drain, and characters of one: at most.
MOST_OPTIONS, OPTION = 20, 80
#: How often a VM's migration may fail, and milliseconds after the first and later failures until it is tried again.
TRIES, PAUSES = 3, (5_000, 30_000)
#: Seconds after the deadline for which a migration, or a move of a service, that is under way is waited for.
IN_FLIGHT = 60
#: Seconds of a leadership in which no deadline is over; and for which who sends to a service is waited for, once it has gone.
BEGINNING, FOLLOWS = 30, 60
#: How often a service is taken back: one that does not stay there is somebody else's.
BACK_TRIES = 2
#: Seconds that an abort takes to bring services back.
BACK = 300
#: VMs by which a compute counts as fuller for a VM whose network is not on it.
ELSEWHERE = 4
BY_HAND = "recovered by hand: it stays"
_OVER = (ItemState.DONE, ItemState.FAILED, ItemState.SKIPPED)


class Wish(msgspec.Struct, frozen=True):
    """What was asked of a drain; see `Operation`. `at_once`, `wave`: None, nothing is said of it. `until`: the deadline of its NAT moves
    (seconds since the epoch; 0: as configured)."""

    vms: str = NOBODY
    at_once: int | None = None
    wave: int | None = None
    deadline: int = 0
    forced: str = ""
    outages: tuple[str, ...] = ()
    until: int = 0
    dead: bool = False
    mover_options: tuple[str, ...] = ()


class Vouch(NamedTuple):
    """What who moves VMs says of a compute: why it is not empty for them ("": it is), and whether they have given it up for good."""

    keeps: str = ""
    failed: bool = False


class Seen(NamedTuple):
    """What a step knows besides State. `now`: milliseconds since the epoch. `hold`: why nothing may be removed now, nor given up, in words.

    `led`: seconds of this leadership: clocks differ, so in its beginning no deadline is over. `sight(number)`: whether a compute lives.
    `settled(revision)`: whether everybody who can be heard has settled on it. `filled(number)`: why a compute may not be empty though State
    says so, in words. `heard(item)`: whether the mover of an item has been heard of of late; `asked(kind)`: whether any of that kind has.
    `serves(number)`: see `scalein.end`. `vouched(operation, number)`: what those who move its VMs say of a compute.
    """

    now: int
    standings: Mapping[int, Standing]
    hold: str
    led: float
    reachable: Set[int]
    moving: Set[str]
    sight: Callable[[int], Sight]
    settled: Callable[[int], bool]
    filled: Callable[[int], str]
    heard: Callable[[Item], bool]
    asked: Callable[[str], bool]
    serves: Callable[[int], Sequence[str]]
    new_id: Callable[[], str]
    vouched: Callable[[Operation, int], Vouch]


class Goal(msgspec.Struct, frozen=True):
    """Where a service of a drained compute goes (0: nowhere), how, and why there, in words."""

    service: str
    old: int
    new: int
    standby: int
    how: Going
    why: tuple[str, ...] = ()

    @property
    def router(self) -> str:
        """The router whose NAT it is, or ""."""
        kind, _, name = self.service.partition(" ")
        return name if kind == NAT else ""


class Problem(msgspec.Struct, frozen=True):
    """Why a drain is refused, or what it would wait for. `code`: no-home (allowed by naming the service); share, unreachable, no-place,
    no-mover (allowed by a reason); busy, alive, host (not allowed); servers (waited for)."""

    code: str
    about: str
    text: str


def named(kind: str, name: str) -> str:
    """What a service is called in items."""
    return f"{kind} {name}"


def words(service: str) -> str:
    """A service in a sentence."""
    kind, _, name = service.partition(" ")
    found = duties.kind_of(kind)
    return found.words(name) if found is not None else f"the NAT of router {name}"


def goals(before: State, marked: State, numbers: Set[int], standings: Mapping[int, Standing]) -> list[Goal]:
    """What becomes of each service that these computes, tombstoned in `marked`, serve."""
    found = [_of_router(before, d) for d in designation.departures(marked, standings, numbers)]
    edits = {
        (new.service, new.object): new for _, new in duties.judge(marked, standings) if isinstance(new, Designation)
    }
    for number in numbers:
        for key in before.duties.get(number, ()):
            known = before.designations[key]
            if key[0] == NAT or known.compute != number:
                continue
            new = edits.get(key, known).compute
            goes = new not in numbers
            why = duties.electable(marked, *key, standings)
            how = Going.MOVES if goes else Going.STAYS
            found.append(Goal(named(*key), number, new if goes else 0, known.standby, how, tuple(why)))
    return sorted(found, key=lambda g: g.service)


def awaited(found: Iterable[Goal], then: State, numbers: Set[int]) -> list[Goal]:
    """The same, where what nobody can have now and somebody will is no loss. `then`: State with the VMs where they go."""
    told = []
    for goal in found:
        kind, _, name = goal.service.partition(" ")
        held = then.designations.get((kind, name))
        if goal.how is Going.STAYS and held is not None and held.compute not in numbers:
            why = f"{then.computes[held.compute].name} can have it once VMs are there"
            goal = msgspec.structs.replace(goal, new=held.compute, how=Going.LATER, why=(why,))
        told.append(goal)
    return told


def _of_router(state: State, found: Departure) -> Goal:
    known = state.designations.get((NAT, found.router))
    standby = known.standby if known is not None else 0
    return Goal(named(NAT, found.router), found.old, found.new, standby, found.how, found.why)


def problems(
    state: State,
    numbers: Set[int],
    found: Iterable[Goal],
    targets: Mapping[str, int],
    standings: Mapping[int, Standing],
    wish: Wish,
    share: float,
) -> list[Problem]:
    """Why a drain of these computes would be refused; whether dead ones are dead is `dead.doubts`."""
    told = []
    for goal in found if not wish.dead else ():
        if goal.how is Going.STAYS and goal.service not in wish.outages:
            old = state.computes[goal.old].name
            text = f"nobody else can have {words(goal.service)} now: it would end with {old}"
            told.append(Problem("no-home", goal.service, text))
    if wish.forced:
        return told
    members = state.members()
    leaving = numbers | {c.number for c in members if c.tombstoned}
    if len(leaving) > share * len(members):
        text = f"{len(leaving)} of {len(members)} computes would be leaving; {share:.0%} is the most"
        told.append(Problem("share", "", text))
    if wish.dead:
        return told
    for number in sorted(numbers):
        seen, name = standings.get(number, Standing()), state.computes[number].name
        if not seen.reachable:
            text = f"{name} cannot be reached: what it serves would be taken over, not moved (if it is dead: `ebbtide drain {name} --dead`)"
            told.append(Problem("unreachable", name, text))
    placeless = sum(port not in targets for n in numbers for port in scalein.carried(state, n))
    if placeless and wish.vms != NOBODY:
        told.append(Problem("no-place", "", f"{placeless} VMs have no other compute to go to"))
    return told


def waits(state: State, numbers: Set[int], wish: Wish) -> list[Problem]:
    """What nobody sees on the switches of these computes, and a drain would wait for all the same."""
    told = []
    for number in sorted(numbers) if not wish.dead else ():
        name, plugged = state.computes[number].name, set(state.ports_on.get(number, ()))
        found = [port for port in documents.servers_at(state, state.computes[number].host) if port not in plugged]
        if found and wish.vms in VOUCHERS:
            text = (
                f"on {name} Neutron has ports of servers that are plugged nowhere: {some(found, 3)}: stopped ones perhaps, which "
                f"{'are moved cold; others keep it' if COLD in wish.mover_options else 'keep it without --cold'}"
            )
            told.append(Problem("servers", name, text))
        elif found and not wish.forced:
            told.append(Problem("servers", name, f"{name}: {_unseen(found)}"))
    return told


def _unseen(found: Sequence[str]) -> str:
    return (
        f"Neutron has ports of servers there, stopped ones perhaps: {some(found, 3)}: move these servers, or drain with --vms nova "
        "(or begin again with --force, if Nova is done with that host)"
    )


def busy(state: State, numbers: Set[int], among: Collection[str] = (VERB, END)) -> tuple[Operation, int] | None:
    """An operation that goes on with one of these computes, and which; None: there is none. A child is told of by its parent."""
    for operation in sorted(state.operations.values(), key=lambda o: o.revision):
        if not operation.open or operation.verb not in among or operation.parent:
            continue
        items = {i.compute: i for i in state.items_of(operation.id) if i.kind == COMPUTE}
        for number in operation.computes:
            if number in numbers and (number not in items or items[number].state not in _OVER):
                return operation, number
    return None


def the_same(state: State, numbers: Set[int], dead: bool = False) -> Operation | None:
    """A drain of just these computes that goes on: who asks twice is told of it."""
    for operation in state.operations.values():
        asked = operation.verb == VERB and operation.state == "running" and operation.dead == dead
        if asked and set(operation.computes) == numbers:
            return operation
    return None


def adopted(operation: Operation, wish: Wish) -> Operation:
    """A drain that goes on, asked for again with other options: they hold from now on. What was not said again stays.

    Raises:
        BadInput: more is asked of movers than there is room for.
    """
    options = merged(operation.mover_options, wish.mover_options)
    if len(options) > MOST_OPTIONS:
        raise BadInput(
            f"mover-options: {len(options)} with those that it has, and {MOST_OPTIONS} are the most", "mover-options"
        )
    return msgspec.structs.replace(
        operation,
        vms=wish.vms if wish.vms != NOBODY else operation.vms,
        at_once=operation.at_once if wish.at_once is None else wish.at_once,
        wave=operation.wave if wish.wave is None else wish.wave,
        deadline=wish.deadline or operation.deadline,
        forced=wish.forced or operation.forced,
        outages=tuple(sorted({*operation.outages, *wish.outages})),
        mover_options=options,
    )


def again(operation: Operation, wish: Wish) -> Wish:
    """What a drain that begins again is asked for: deadline and reason are new, services that may end are added, all else is as it was."""
    return Wish(
        operation.vms,
        operation.at_once,
        operation.wave,
        wish.deadline,
        wish.forced,
        (*operation.outages, *wish.outages),
        dead=operation.dead,
        mover_options=operation.mover_options,
    )


def merged(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Options of movers of which some are said anew: what is not spoken of stays."""
    both = {option.partition("=")[0]: option for options in (old, new) for option in options}
    return tuple(sorted(both.values()))


def changed(operation: Operation, wish: Wish) -> Operation:
    """A drain, over or not, with other options (`at_once`, `wave`, `mover_options`).

    Raises:
        BadInput: its movers do not know one of them.
        Refused: it is no drain, or nobody moves anything for it.
    """
    if operation.verb != VERB:
        raise Refused(f"operation {operation.id} is {operation.verb}: only a drain has options")
    if operation.dead:
        raise Refused(f"operation {operation.id} is a drain of dead computes: it has no such options")
    check_mover_options(operation.vms, wish.mover_options)
    return adopted(operation, wish)


def check_mover_options(kind: str, options: Collection[str]) -> tuple[str, ...]:
    """What is asked of those who move VMs: words, some like key=value; sorted.

    Raises:
        BadInput: movers of this kind do not know one, or the same is asked for in two ways, or these are too many or no words at all.
    """
    if len(options) > MOST_OPTIONS:
        raise BadInput(f"mover-options: {len(options)} of them, and {MOST_OPTIONS} are the most", "mover-options")
    keys: set[str] = set()
    known = MOVER_OPTIONS.get(kind)
    for each in sorted({*options}):
        if known is not None and each not in known:
            there = f"there are {', '.join(sorted(known))}" if known else "there are none"
            text = f"mover-options = {each[:OPTION]!r}: no option of VMs that are moved by {kind!r}: {there}"
            raise BadInput(text, "mover-options")
        if not re.fullmatch(r"[a-z0-9][a-z0-9=._-]*", each) or len(each) > OPTION:
            text = f"mover-options = {each[:OPTION]!r}: a word of at most {OPTION} of a-z, 0-9 and =._-"
            raise BadInput(text, "mover-options")
        key = each.partition("=")[0]
        if key in keys:
            raise BadInput(f"mover-options: {key} is there twice", "mover-options")
        keys.add(key)
    return tuple(sorted({*options}))


def refuse(found: Sequence[Problem]) -> None:
    """Let it be if there are no problems.

    Raises:
        Refused: all of them, and what allows each.
    """
    if not found:
        return
    hard = [p.text for p in found if p.code in ("busy", "alive", "host")]
    if hard:
        raise Refused(f"drain refused, nothing was changed: {'; '.join(hard)}")
    homeless = [f'--allow-outage "{p.about}"' for p in found if p.code == "no-home"]
    ways = [" ".join(homeless)] if homeless else []
    ways += ['--force "why"'] if any(p.code != "no-home" for p in found) else []
    told = "; ".join(p.text for p in found)
    raise Refused(f"drain refused, nothing was changed: {told}. To do it all the same: {' '.join(ways)}")


def find(state: State, operation_id: str) -> Operation:
    """An operation by its id, or by an unambiguous beginning of it.

    Raises:
        NotFound: there is none, or several.
    """
    known = state.operations.get(operation_id)
    if known is not None:
        return known
    found = [o for name, o in state.operations.items() if len(operation_id) > 3 and name.startswith(operation_id)]
    if len(found) == 1:
        return found[0]
    several = f"there are {len(found)} operations that begin with" if found else "there is no operation"
    raise NotFound(f"{several} {operation_id[:80]}: `ebbtide operation list` names all")


def begin(
    state: State,
    operation: Operation,
    numbers: Iterable[int],
    found: Iterable[Goal],
    targets: Mapping[str, int],
    now: int,
) -> list[Edit]:
    """The items of a drain that begins, or begins again: its computes, their services, their VMs. `targets`: where these are to go."""
    made = [Item(operation.id, COMPUTE, state.computes[n].name, n, since=now) for n in numbers]
    known = {(i.kind, i.object, i.compute): i for i in state.items_of(operation.id)}
    for goal in found:
        moves = ItemState.MOVING if goal.how in (Going.MOVES, Going.UNDER_WAY, Going.TAKEN_OVER) else ItemState.PENDING
        made.append(Item(operation.id, SERVICE, goal.service, goal.old, moves, goal.new, goal.standby, since=now))
    for number in numbers:
        for port in scalein.carried(state, number):
            made.append(Item(operation.id, VM, port, number, target=targets.get(port, 0), since=now))
    # One that begins again has items of its first time: those of the same things are replaced, the others go.
    edits = [Edit(known.pop((item.kind, item.object, item.compute), None), item) for item in made]
    return [*edits, *(Edit(item, None) for item in known.values())]


def targets(state: State, numbers: Set[int], standings: Mapping[int, Standing]) -> dict[str, int]:
    """Where each VM of these computes is proposed to go: to the one with the fewest, of those that stay. One on which the VM's network is
    not yet counts as fuller, by `ELSEWHERE` VMs: a network that comes to a compute brings all its flows and tunnels. But no network is left
    on one compute alone, if there are two: somebody is to stand by for what is served there."""
    able = {c.number: c.name for c in state.members() if c.number not in numbers and _takes(c, standings)}
    count = {n: len(state.ports_on.get(n, ())) for n in able}
    heap = sorted((count[n], name, n) for n, name in able.items())
    there: dict[str, set[int]] = {}
    found: dict[str, int] = {}
    if not able:
        return found
    for number in sorted(numbers):
        for port in scalein.carried(state, number):
            network = state.ports[port].network
            if network not in there:
                there[network] = {n for n in state.footprint(network) if n in count}
            near = there[network]
            if len(near) == 1 and len(able) > 1:
                chosen = min((n for n in able if n not in near), key=lambda n: (count[n], able[n]))
            else:
                while heap[0][0] != count[heap[0][2]]:
                    _, name, stale = heapq.heappop(heap)
                    heapq.heappush(heap, (count[stale], name, stale))
                chosen = heap[0][2]
                best = min(near, key=lambda n: (count[n], able[n]), default=0)
                chosen = best if best and count[best] <= count[chosen] + ELSEWHERE else chosen
            count[chosen] += 1
            near.add(chosen)
            found[port] = chosen
    return found


def _takes(compute: Compute, standings: Mapping[int, Standing]) -> bool:
    seen = standings.get(compute.number, Standing())
    return not compute.tombstoned and seen.ready and seen.reachable


def step(state: State, operation: Operation, seen: Seen) -> list[Edit]:
    """What a drain that goes on does now; [] when it waits."""
    return _Step(state, operation, seen).run()


def abort(state: State, operation: Operation, now: int) -> list[Edit]:
    """Take back what has not been finished: marks, moves under way, then (step by step) services that have arrived elsewhere.

    Raises:
        Refused: it is over, or being aborted, or all of it is removed.
    """
    if operation.verb != VERB:
        raise Refused(f"operation {operation.id} is a {operation.verb}: only a drain can be aborted")
    if operation.state != "running":
        raise Refused(f"operation {operation.id} is {operation.state}: there is nothing to abort")
    items = state.items_of(operation.id)
    live = {i.compute for i in items if i.kind == COMPUTE and i.state not in _OVER and _member(state, i.compute)}
    if not live:
        raise Refused(
            f"operation {operation.id} has removed its computes already: that cannot be undone; `ebbtide compute readmit` takes one back"
        )
    edits = _unmark(state, operation, live)
    for item in items:
        if item.kind == VM and item.compute in live and item.state is ItemState.PENDING:
            stays = msgspec.structs.replace(
                item, state=ItemState.SKIPPED, reason="stays: the drain was aborted", since=now
            )
            edits.append(Edit(item, stays))
    going = msgspec.structs.replace(
        operation,
        state="aborting",
        reason="takes back what has moved",
        deadline=now // 1000 + BACK,
        # What lasts is not done for a drain that its operator has taken back, unless they ask for it again.
        mover_options=merged(operation.mover_options, [KEEP] if KEEP in MOVER_OPTIONS.get(operation.vms, ()) else []),
    )
    return [*edits, Edit(operation, going)]


def resume(state: State, operation: Operation) -> set[int]:
    """The computes with which a drain that has ended begins again: those that are still what they were.

    Raises:
        Refused: it goes on, or nothing is left to drain. One that was recovered by hand is not.
    """
    if operation.verb != VERB:
        raise Refused(f"operation {operation.id} is a {operation.verb}: only a drain can be resumed")
    if operation.open:
        raise Refused(f"operation {operation.id} is {operation.state}: it goes on by itself")
    items = [i for i in state.items_of(operation.id) if i.kind == COMPUTE]
    names = {i.compute: i.object for i in items if i.reason != BY_HAND}
    left = {n for n in operation.computes if _member(state, n) and names.get(n) == state.computes[n].name}
    if not left:
        raise Refused(f"operation {operation.id} has no compute left to drain: all were removed")
    return left


def _member(state: State, number: int) -> bool:
    found = state.computes.get(number)
    return found is not None and found.membership is Membership.MEMBER


def _unmark(state: State, operation: Operation, numbers: Set[int]) -> list[Edit]:
    """The drain's own marks go, and its own moves are called back. What others had begun goes on."""
    own = {n for n in numbers if n in operation.marked and _member(state, n) and state.computes[n].tombstoned}
    edits = [Edit(c, msgspec.structs.replace(c, tombstoned=False)) for n in sorted(own) for c in [state.computes[n]]]
    kept = {r for r, move in state.moves.items() if move.began < operation.revision}
    return edits + [e for e in designation.call_back(state, own) if not _about(e, kept)]


def released(state: State, numbers: Set[int]) -> list[Edit]:
    """Drains that have marked these computes do not own the mark any more: somebody else has asked for it too."""
    return [
        Edit(o, msgspec.structs.replace(o, marked=tuple(n for n in o.marked if n not in numbers)))
        for o in owners(state, numbers)
    ]


def owners(state: State, numbers: Set[int]) -> list[Operation]:
    """Drains that go on and have marked some of these computes."""
    return [o for o in state.operations.values() if o.open and not numbers.isdisjoint(o.marked)]


def _about(edit: Edit, routers: Set[str]) -> bool:
    fact = edit.new if edit.new is not None else edit.old
    return getattr(fact, "router", "") in routers


class Claim(msgspec.Struct, frozen=True):
    """A VM that a mover has taken on: `claim` (milliseconds since the epoch) names this attempt."""

    operation: str
    vm: str
    source: int
    target: int
    claim: int


def claim(
    state: State,
    kind: str,
    mover: str,
    free: int,
    now: int,
    standings: Mapping[int, Standing],
    holding: Collection[str] | None = None,
) -> tuple[list[Edit], list[Claim]]:
    """Give VMs that wait to be moved to a mover of this kind, as many as it has room for, and as each drain allows at the same time.

    `holding`: the VMs that it knows to have; others that it was given, and that are still where they were, are told to it again, since an
    answer may be lost, and a mover start anew.
    """
    edits: list[Edit] = []
    given: list[Claim] = []
    for operation in sorted(state.operations.values(), key=lambda o: o.revision):
        if operation.verb != VERB or operation.state != "running" or operation.vms != kind:
            continue
        if operation.deadline and now >= operation.deadline * 1000:
            continue
        items = state.items_of(operation.id)
        given += [
            Claim(operation.id, i.object, i.compute, i.target, i.since)
            for i in items
            if holding is not None
            and i.kind == VM
            and i.state is ItemState.MOVING
            and i.mover == mover
            and i.object not in holding
            and _is_at(state, i.object, i.compute)
        ]
        turn = {i.compute for i in items if i.kind == COMPUTE and i.state is ItemState.MOVING and not i.mover}
        room = operation.at_once - sum(i.kind == VM and i.state is ItemState.MOVING for i in items)
        for item in items:
            if min(room, free - len(given)) <= 0:
                break
            if item.kind != VM or item.state is not ItemState.PENDING or item.compute not in turn:
                continue
            early = item.tries and now < item.since + PAUSES[min(item.tries, len(PAUSES)) - 1]
            if early or state.active(item.object) is None or len(state.bindings[item.object]) > 1:
                continue
            target = _target(state, operation, item, standings)
            if not target:
                continue
            taken = msgspec.structs.replace(
                item, state=ItemState.MOVING, target=target, mover=mover, reason=f"{mover} moves it", since=now
            )
            edits.append(Edit(item, taken))
            given.append(Claim(operation.id, item.object, item.compute, target, now))
            room -= 1
    return edits, given


def _is_at(state: State, port: str, number: int) -> bool:
    active = state.active(port)
    return active is not None and active.compute == number


def _target(state: State, operation: Operation, item: Item, standings: Mapping[int, Standing]) -> int:
    """Where a VM is to go: as was proposed, if that one still takes it, else anew; 0: nobody takes it now."""
    known = state.computes.get(item.target)
    if known is not None and known.membership is Membership.MEMBER and _takes(known, standings):
        return item.target
    able = [c for c in state.members() if c.number not in operation.computes and _takes(c, standings)]
    least = min(able, key=lambda c: (len(state.ports_on.get(c.number, ())), c.name), default=None)
    return least.number if least is not None else 0


def claimed(state: State, operation_id: str, vm: str, mover: str, at: int) -> Item:
    """The item that a mover reports on.

    Raises:
        NotFound: there is no such operation or VM.
        Refused: the VM is not that mover's any more, or the drain has ended: it is to let go of it.
    """
    operation = state.operations.get(operation_id)
    found = [i for i in state.items_of(operation_id) if (i.kind, i.object) == (VM, vm)]
    if operation is None or not found:
        raise NotFound(f"no operation {operation_id[:80]} moves a VM {vm[:80]}")
    for item in found:
        if (item.state, item.mover, item.since) == (ItemState.MOVING, mover, at) and operation.open:
            return item
    raise Refused(f"{vm} is not {mover}'s to move any more: let go of it")


def failed(item: Item, reason: str, now: int) -> Item:
    """The item of a VM whose migration has failed: it is tried again, or not."""
    tries = item.tries + 1
    state = ItemState.FAILED if tries >= TRIES else ItemState.PENDING
    return msgspec.structs.replace(item, state=state, tries=tries, reason=reason, mover="", since=now)


class _Step:
    """One step of one drain. `now`: the items as they are to be."""

    def __init__(self, state: State, operation: Operation, seen: Seen) -> None:
        self.state, self.operation, self.seen = state, operation, seen
        self.stored = {(i.kind, i.object, i.compute): i for i in state.items_of(operation.id)}
        self.now: dict[tuple[str, str, int], Item] = {}
        self._keys: dict[tuple[str, int], list[tuple[str, str, int]]] = {}
        for item in self.stored.values():
            self.add(item)
        self.edits: list[Edit] = []
        self.aborting = operation.state == "aborting"

    def run(self) -> list[Edit]:
        live = self._computes()
        self._services(live)
        self._vms(live)
        if not self.aborting:
            for number in live:
                self._compute(number)
            self._give_turns()
            if not self.seen.hold:
                self._conclude(live)
        after = self._over()
        changed = [Edit(self.stored.get(key), item) for key, item in self.now.items() if self.stored.get(key) != item]
        return self.edits + changed + ([Edit(self.operation, after)] if after != self.operation else [])

    # --- items ---

    def add(self, item: Item) -> None:
        key = item.kind, item.object, item.compute
        self.now[key] = item
        for number in (0, item.compute):
            self._keys.setdefault((item.kind, number), []).append(key)

    def of(self, kind: str, number: int = 0) -> list[Item]:
        return [self.now[key] for key in self._keys.get((kind, number), ())]

    def put(
        self, item: Item, state: ItemState, reason: str, *, target: int = 0, mover: str | None = None, tries: int = -1
    ) -> None:
        """The item as it is now; since when, and how long it took, follow."""
        changes = state is not item.state
        self.now[item.kind, item.object, item.compute] = msgspec.structs.replace(
            item,
            state=state,
            reason=reason,
            target=target or item.target,
            mover=item.mover if mover is None else mover,
            tries=item.tries if tries < 0 else tries,
            since=self.seen.now if changes else item.since,
            took=self.seen.now - item.since
            if changes and state in _OVER and item.state is ItemState.MOVING
            else item.took,
        )

    def name(self, number: int) -> str:
        found: Compute | None = self.state.computes.get(number) or self.state.removed.get(number)
        return found.name if found is not None else f"#{number}"

    # --- computes ---

    def _computes(self) -> list[int]:
        """Those that are still to be emptied, or to be brought back; what others have done with the rest is entered."""
        live = []
        for item in self.of(COMPUTE):
            number, state = item.compute, self.state
            if item.state in _OVER:
                continue
            if not _member(state, number):
                end = self._end_of(item)
                parent = state.operations.get(end.parent) if end is not None else None
                if parent is not None and parent.dead and parent.id != self.operation.id:
                    self.put(item, ItemState.FAILED, f"died: operation {parent.id} has removed it")
                elif end is not None and end.open:
                    self.put(item, ItemState.MOVING, "removed; its end is being proven", mover=end.id)
                else:
                    self.put(item, ItemState.DONE, end.reason if end is not None else "removed by another")
            elif self.operation.dead and not self.aborting and self._lives(number):
                self.put(item, ItemState.FAILED, f"{self._lives(number)}: it is not dead")
                self.edits += _unmark(state, self.operation, {number})
            elif not self.aborting and not state.computes[number].tombstoned:
                self.put(item, ItemState.SKIPPED, BY_HAND)
            else:
                live.append(number)
        return sorted(live, key=self.name)

    def _lives(self, number: int) -> str:
        """What shows that a compute is not dead, in words."""
        seen = self.seen.sight(number)
        if seen.connected:
            return "has come back"
        return f"its switch is seen by {', '.join(seen.seen_by[:3])}" if seen.seen_by else ""

    def _end_of(self, item: Item) -> Operation | None:
        known = self.state.operations.get(item.mover)
        if known is not None:
            return known
        ends = [o for o in self.state.operations.values() if o.verb == END and item.compute in o.computes]
        return max(ends, key=lambda o: o.revision, default=None)

    def _of_compute(self, number: int) -> Item:
        """Its item: a host may be called otherwise by now."""
        return self.of(COMPUTE, number)[0]

    def _left(self, number: int) -> tuple[list[Item], list[Item]]:
        """Of a compute: what waits for something, and the VMs that have failed for good."""
        items = [*self.of(SERVICE, number), *self.of(VM, number)]
        failed = [i for i in items if i.kind == VM and i.state is ItemState.FAILED]
        return [i for i in items if i.state in (ItemState.PENDING, ItemState.MOVING)], failed

    def _compute(self, number: int) -> None:
        item = self._of_compute(number)
        waiting, failed = self._left(number)
        vms, services = (sum(i.kind == kind for i in waiting) for kind in (VM, SERVICE))
        told = [f"{n} {word}{'s' if n != 1 else ''} to go" for n, word in ((vms, "VM"), (services, "service")) if n]
        told += [f"{i.object}: {i.reason}" for i in failed[:3]]
        told = told or [self._filled(number)]
        if not self.operation.dead and not self.seen.standings.get(number, Standing()).reachable:
            told.insert(0, f"cannot be reached (if it is dead: `ebbtide drain {self.name(number)} --dead`)")
        self.put(item, item.state, "; ".join(told) or "is empty")

    def _give_turns(self) -> None:
        """Computes are emptied in order of name, so many at the same time."""
        items = [i for i in self.of(COMPUTE) if i.state in (ItemState.PENDING, ItemState.MOVING)]
        items.sort(key=lambda i: i.object)
        room = (self.operation.wave or len(items)) - sum(i.state is ItemState.MOVING and not i.mover for i in items)
        for item in items:
            if item.state is ItemState.PENDING and room > 0:
                self.put(item, ItemState.MOVING, item.reason)
                room -= 1

    def _conclude(self, live: Sequence[int]) -> None:
        """Remove those that are empty; else recover those that cannot be emptied."""
        if self._remove([n for n in live if not any(self._left(n)) and self._is_empty(n)]):
            return
        until, led = self.operation.deadline, self.seen.led
        late = bool(until) and led >= BEGINNING and self.seen.now >= until * 1000
        very_late = late and led >= IN_FLIGHT and self.seen.now >= (until + IN_FLIGHT) * 1000
        for number in live:
            waiting, failed = self._left(number)
            in_flight = any(i.state is ItemState.MOVING for i in waiting)
            # A service that has not begun to move may be there for the very VM that stays; no VM stays on one that is dead.
            going = in_flight or any(i.kind == VM for i in waiting) or (self.operation.dead and bool(waiting))
            given_up = bool(failed) or self.seen.vouched(self.operation, number).failed
            if (late and (very_late or not in_flight)) or (given_up and not going):
                self._give_up(number, self._why_left(number), late)

    def _why_left(self, number: int) -> list[str]:
        """What keeps a compute from being removed, in words."""
        waiting, failed = self._left(number)
        found = [
            f"{words(i.object) if i.kind == SERVICE else i.object}: {i.reason or i.state}" for i in failed or waiting
        ]
        filled = self._filled(number)
        return (
            found
            or [*([filled] if filled else []), *self.seen.serves(number)]
            or ["something still forwards through it"]
        )

    def _is_empty(self, number: int) -> bool:
        return self.operation.dead or (not self.state.ports_on.get(number) and not self._filled(number))

    def _filled(self, number: int) -> str:
        """Why a compute may not be empty though State says so, in words."""
        if self.operation.dead:
            return ""
        return (
            self.seen.filled(number) or self.seen.vouched(self.operation, number).keeps or self._unseen_servers(number)
        )

    def _unseen_servers(self, number: int) -> str:
        """Servers that Neutron has there, stopped ones among them, in words; where those are asked who know, they know better."""
        if self.operation.vms in VOUCHERS or self.operation.forced:
            return ""
        found = documents.servers_at(self.state, self.state.computes[number].host)
        return _unseen(found) if found else ""

    def _remove(self, numbers: list[int]) -> bool:
        state, seen = self.state, self.seen
        able = [n for n in numbers if not seen.serves(n)]
        if not able:
            return False
        lost = frozenset(able) if self.operation.dead else frozenset()
        decision = scalein.end(
            state, [str(state.computes[n].dpid) for n in able], seen.reachable, seen.moving, seen.serves, lost
        )
        if not decision.edits:
            return False
        child = Operation(
            seen.new_id(),
            END,
            tuple(able),
            "running",
            "cleaning",
            started=state.revision,
            parent=self.operation.id,
            began=seen.now // 1000,
        )
        self.edits += [*decision.edits, Edit(None, child)]
        for number in able:
            item = self._of_compute(number)
            self.put(item, ItemState.MOVING, "removed; its end is being proven", mover=child.id)
        return True

    def _give_up(self, number: int, why: Sequence[str], late: bool) -> None:
        begun = "not empty at the deadline: " if late else "cannot be emptied: "
        marked = number in self.operation.marked
        after = "" if marked else "; it stays tombstoned, as it was before"
        self.put(self._of_compute(number), ItemState.FAILED, f"{begun}{some(why, 1)}{after}")
        left = "is recovered" if marked else "stays tombstoned"
        for item in self.of(VM, number):
            if item.state in (ItemState.PENDING, ItemState.MOVING):
                self.put(item, ItemState.SKIPPED, f"stays on {self.name(number)}, which {left}", mover="")
        self.edits += _unmark(self.state, self.operation, {number})

    # --- services ---

    def _services(self, live: Sequence[int]) -> None:
        for number in live:
            for key in self.state.duties.get(number, ()):
                held = self.state.designations[key]
                anew = held.compute == number and (SERVICE, named(*key), number) not in self.now
                if anew and not self.aborting and not self._is_nobodys(*key):
                    self.add(
                        Item(self.operation.id, SERVICE, named(*key), number, standby=held.standby, since=self.seen.now)
                    )
        for item in self.of(SERVICE):
            if self.aborting:
                self._back(item)
            elif item.compute in live:
                self._service(item)
            elif item.state in (ItemState.PENDING, ItemState.MOVING):
                self._follow(item)

    def _service(self, item: Item) -> None:
        kind, _, name = item.object.partition(" ")
        held = self.state.designations.get((kind, name))
        move = self.state.moves.get(name) if kind == NAT else None
        if move is not None and item.compute in (move.old, move.new):
            self.put(item, ItemState.MOVING, "", target=move.new if move.old == item.compute else 0)
        elif held is None or self._is_nobodys(kind, name):
            self.put(item, ItemState.DONE, "is needed no more")
        elif held.compute != item.compute:
            # Once it is done it stays so: a switch that connects anew, later, is behind, and has nothing to do with this.
            late = item.state is ItemState.MOVING and self.seen.now - item.since > FOLLOWS * 1000
            if item.state is ItemState.DONE or late or self.seen.settled(held.since):
                self.put(item, ItemState.DONE, "", target=held.compute)
            else:
                self.put(
                    item,
                    ItemState.MOVING,
                    f"is on {self.name(held.compute)}; those who send to it follow",
                    target=held.compute,
                )
        elif self._has_home(kind, name, item.compute):
            self.put(item, ItemState.PENDING, "is about to move")
        elif self.operation.dead or item.object in self.operation.outages:
            allowed = "" if self.operation.dead else ", as was allowed"
            self.put(item, ItemState.SKIPPED, f"nobody else can have it: it ends with its compute{allowed}")
        else:
            self.put(item, ItemState.PENDING, "nobody else can have it now")

    def _is_nobodys(self, kind: str, name: str) -> bool:
        """Whether a designation is left over that no election knows: it waits for nobody, and goes with its compute."""
        return kind == NAT and name not in self._routers and name not in self.state.moves

    def _has_home(self, kind: str, name: str, number: int) -> bool:
        """Whether another can have a service now, or will be able to in a moment."""
        if kind == NAT:
            return designation.has_home(self.state, name, number, self.seen.standings, self._routers)
        return self._others.get((kind, name), number) != number

    @cached_property
    def _routers(self) -> dict[str, int]:
        return designation.chosen(self.state, self.seen.standings)

    @cached_property
    def _others(self) -> dict[tuple[str, str], int]:
        found = duties.judge(self.state, self.seen.standings)
        return {(n.service, n.object): n.compute for _, n in found if isinstance(n, Designation)}

    def _follow(self, item: Item) -> None:
        """A service of a compute that is not drained any more: it stays wherever it arrives."""
        kind, _, name = item.object.partition(" ")
        held = self.state.designations.get((kind, name))
        if kind == NAT and name in self.state.moves:
            self.put(item, ItemState.MOVING, "is on its way")
        elif held is not None and held.compute != item.compute:
            self.put(item, ItemState.DONE, "", target=held.compute)
        else:
            self.put(item, ItemState.SKIPPED, "stays")

    def _back(self, item: Item) -> None:
        """A service of a drain that is aborted: to be where it was, and who stood by for it to stand by."""
        kind, _, name = item.object.partition(" ")
        state, held = self.state, self.state.designations.get((kind, name))
        if item.state in (ItemState.SKIPPED, ItemState.FAILED) or not _member(state, item.compute):
            return
        if held is None:
            self.put(item, ItemState.SKIPPED, "is needed no more")
        elif kind == NAT and name in state.moves and not self._is_late() and not self._is_kept(item.compute):
            self.put(item, ItemState.MOVING, "is on its way back")
        elif (held.compute, held.standby) == (item.compute, item.standby):
            self.put(item, ItemState.SKIPPED, "is where it was")
        elif self._is_kept(item.compute):
            told = f"{self.name(item.compute)} stays tombstoned, as somebody else has asked (`ebbtide scale-in recover` takes it back)"
            self.put(item, ItemState.FAILED, f"goes on, or stays where it is: {told}")
        elif held.compute != item.compute and not self._is_able(item.compute) and not self._is_late():
            self.put(item, ItemState.PENDING, f"waits for {self.name(item.compute)} to be ready")
        elif held.compute != item.compute:
            bar = "it has taken too long" if self._is_late() else self._bar(kind, name, item.compute)
            bar = bar or ("it does not stay there" if item.tries >= BACK_TRIES else "")
            if bar:
                told = f"on {self.name(held.compute)}" + (
                    f", {self.name(held.standby)} stands by" if held.standby else ""
                )
                self.put(item, ItemState.FAILED, f"is {told}: it cannot go back to {self.name(item.compute)} ({bar})")
                return
            self.put(item, ItemState.MOVING, "is on its way back", tries=item.tries + 1)
            if kind == NAT:
                self.edits += natmove.begin(state, name, held.compute, item.compute)
            else:
                self._designate(held, item)
        elif item.standby and (bar := self._bar(kind, name, item.standby) or "it has taken long" * self._is_late()):
            self.put(
                item,
                ItemState.SKIPPED,
                f"is where it was; {self.name(item.standby)} cannot stand by for it now ({bar})",
            )
        elif item.tries > BACK_TRIES:
            self.put(item, ItemState.SKIPPED, "is where it was, but for who stands by")
        else:
            self.put(item, ItemState.MOVING, "is where it was; who stood by does so again", tries=item.tries + 1)
            if kind == NAT:
                self.edits += parts.designate(state, name, item.compute, item.standby)
            else:
                self._designate(held, item)

    def _bar(self, kind: str, name: str, number: int) -> str:
        """Why a compute may not have a service now, in words; "": it may."""
        if not _member(self.state, number):
            return "is no member any more"
        if kind == NAT:
            return designation.bar(self.state, name, number, self.seen.standings)
        return duties.bar(self.state, kind, name, number, self.seen.standings)

    def _designate(self, held: Designation, item: Item) -> None:
        standby = item.standby if not item.standby or not self._bar(held.service, held.object, item.standby) else 0
        self.edits.append(Edit(held, msgspec.structs.replace(held, compute=item.compute, standby=standby, since=0)))

    def _is_able(self, number: int) -> bool:
        seen = self.seen.standings.get(number, Standing())
        return (
            _member(self.state, number) and not self.state.computes[number].tombstoned and seen.ready and seen.reachable
        )

    def _is_kept(self, number: int) -> bool:
        """Whether it stays tombstoned: the mark is somebody else's, too."""
        return self.state.computes[number].tombstoned and number not in self.operation.marked

    def _is_late(self) -> bool:
        return self.seen.now >= self.operation.deadline * 1000

    # --- VMs ---

    def _vms(self, live: Sequence[int]) -> None:
        state = self.state
        for number in live if not self.aborting else ():
            for port in scalein.carried(self.state, number):
                if (VM, port, number) not in self.now:
                    self.add(Item(self.operation.id, VM, port, number, since=self.seen.now))
        for item in self.of(VM):
            if self.operation.dead and item.compute in live:
                self.put(item, ItemState.SKIPPED, f"is lost with {self.name(item.compute)}")
            elif item.compute in live and item.state is not ItemState.SKIPPED:
                self._vm(item)
            elif item.state in (ItemState.PENDING, ItemState.MOVING):
                here = state.computes.get(item.compute)
                told = "is drained no more" if here is not None else "was removed"
                self.put(item, ItemState.SKIPPED, f"{self.name(item.compute)} {told}", mover="")

    def _vm(self, item: Item) -> None:
        state = self.state
        here, active = state.binding(item.object, item.compute), state.active(item.object)
        if item.object not in state.ports:
            self.put(item, ItemState.DONE, "was deleted", mover="")
        elif here is None and active is not None:
            self.put(item, ItemState.DONE, "", target=active.compute)
        elif self.aborting and self._is_late():
            self.put(item, ItemState.SKIPPED, f"{item.mover or 'somebody'} was still at it", mover="")
        elif item.state is ItemState.MOVING and item.mover:
            if not self.seen.heard(item):
                self._let_go(item, f"{item.mover}, which moved it, is not heard of")
        elif here is None and self._is_elsewhere(item):
            self.put(item, ItemState.DONE, "is plugged nowhere, and another host's by now", mover="")
        elif here is None:
            self._let_go(item, "is plugged nowhere: it was stopped, or starts again")
        elif here.phase is BindingPhase.LEAVING:
            self.put(item, ItemState.MOVING, "has moved; those who send to it follow")
        elif len(state.bindings[item.object]) > 1:
            places = " and ".join(sorted(self.name(b.compute) for b in state.bindings[item.object]))
            self.put(item, ItemState.MOVING, f"is plugged on {places}, and no mover of ours is at it")
        elif item.state is not ItemState.FAILED:
            self._let_go(item, item.reason if item.tries else self._waits())

    def _is_elsewhere(self, item: Item) -> bool:
        """Whether Neutron says that a VM which is plugged nowhere is on a host that stays."""
        host = documents.host_of(self.state, item.object)
        leaving = {self.state.computes[n].host for n in self.operation.computes if n in self.state.computes}
        return host not in leaving and any(c.host == host for c in self.state.members())

    def _waits(self) -> str:
        kind = self.operation.vms
        if kind == NOBODY:
            return "waits to be moved, by you: this drain has no mover"
        return "waits to be moved" if self.seen.asked(kind) else f"waits: no mover of kind {kind} has asked for VMs"

    def _let_go(self, item: Item, reason: str) -> None:
        """It waits, for whoever takes it; not while it is plugged at two places: somebody is at it."""
        if len(self.state.bindings.get(item.object, ())) > 1:
            self.put(item, ItemState.MOVING, f"is plugged at two places; {reason}", mover="")
        else:
            self.put(item, ItemState.SKIPPED if self.aborting else ItemState.PENDING, reason, mover="")

    # --- its end ---

    def _over(self) -> Operation:
        """The operation as it is now."""
        items, put = list(self.now.values()), msgspec.structs.replace
        computes = sorted(self.of(COMPUTE), key=lambda i: i.object)
        if self.aborting:
            self._aborted([i for i in computes if i.state not in _OVER])
            computes = sorted(self.of(COMPUTE), key=lambda i: i.object)
        removed = [i.object for i in computes if i.state is ItemState.DONE]
        if any(i.state not in _OVER for i in computes) or any(
            i.state is ItemState.MOVING for i in self.of(SERVICE) if not self.aborting
        ):
            left = sum(i.state not in _OVER for i in items if i.kind != COMPUTE)
            told = [f"{len(removed)} of {len(computes)} removed", f"{left} to go", self.seen.hold]
            return put(self.operation, reason="; ".join(filter(None, told))) if not self.aborting else self.operation
        kept = [i for i in computes if i.state is not ItemState.DONE]
        told = [f"removed {', '.join(removed)}"] if removed else []
        lost = [i.object for i in self.of(VM) if self.operation.dead and i.object in self.state.ports]
        told += (
            [f"{len(lost)} VMs lost: {', '.join(lost[:5])}{' and others' if len(lost) > 5 else ''}"]
            if lost and removed
            else []
        )
        told += [f"{i.object}: {i.reason}" for i in kept]
        outcome = "aborted" if self.aborting else _outcome(computes)
        return put(self.operation, state=outcome, reason="; ".join(told), over=self.seen.now // 1000)

    def _aborted(self, computes: Sequence[Item]) -> None:
        """Enter which computes are as they were, once everything about them has been brought back or given up."""
        for item in computes:
            if not _member(self.state, item.compute):
                continue
            mine = [*self.of(SERVICE, item.compute), *self.of(VM, item.compute)]
            if any(i.state in (ItemState.PENDING, ItemState.MOVING) for i in mine):
                continue
            stay = [
                i.object for i in mine if i.kind == VM and i.state is ItemState.DONE and i.object in self.state.ports
            ]
            lost = [f"{words(i.object)} {i.reason}" for i in mine if i.kind == SERVICE and i.state is ItemState.FAILED]
            told = [f"VMs that had moved stay where they are: {', '.join(stay[:5])}"] if stay else []
            self.put(item, ItemState.SKIPPED, "; ".join([*lost, *told]) or "is as it was")


def _outcome(computes: Sequence[Item]) -> str:
    states = {i.state for i in computes}
    if states == {ItemState.DONE}:
        return "done"
    if ItemState.DONE in states:
        return "partial"
    return "failed" if ItemState.FAILED in states else "aborted"
