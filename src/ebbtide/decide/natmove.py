"""A planned move of a router's NAT: its phases, how it begins, ends and is called back (docs/decisions.md, section 17).

Each phase is a value in the store, and the tables of all computes follow from it (`compile/features/stances.py`); whoever leads takes a
move to its next phase when those concerned have done what this one asks for. So any moment between two phases may last, and a controller
that dies leaves nothing that another could not go on with.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence, Set
from itertools import pairwise
from typing import NamedTuple

import msgspec

from ebbtide.decide import parts
from ebbtide.errors import NotFound, Refused
from ebbtide.model.facts import Edit, Lease, Move, MovePhase
from ebbtide.model.moves import forth, reached
from ebbtide.model.state import NAT, State

P = MovePhase
#: A lease from which nobody opens any more is replaced by at most so many, of the ports that are still in use: of them alone where they
#: are no more than this, else with the least that lies between.
FEW_PINNED = 128


class Need(NamedTuple):
    """Who must have applied a phase before the next is asked for, and who must have settled on it: "old", "new", "all" that send."""

    applied: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()


#: Whoever receives is ready before who sends; what stops something settles before what counts on it.
NEEDS: dict[MovePhase, Need] = {
    P.PREPARE: Need(("new",)),
    P.COUPLE_NEW: Need(("new",)),
    P.COUPLE_OLD: Need(("old",)),
    # Settled: older flows of its cache would drop, or open, what the freeze leaves to the new one.
    P.EXPORT: Need((), ("old",)),
    P.FREEZE: Need(("new",), ("old",)),
    P.SILENCE: Need((), ("old", "new")),
    P.ADDRESS: Need((), ("new",)),
    P.IMPORT: Need(("new",)),
    P.FLIP: Need(("old", "new"), ("all",)),
    P.REPLY: Need(("old", "new")),
    P.UNCOUPLE_OUT: Need((), ("new",)),
    P.UNCOUPLE_IN: Need((), ("new",)),
    P.QUIET: Need(("old", "new")),
}
_ORDER = list(MovePhase)


def following(move: Move) -> Move | None:
    """The move in its next phase; None: it has arrived."""
    at = _ORDER.index(move.phase) + 1
    if at == len(_ORDER):
        return None
    return msgspec.structs.replace(move, phase=_ORDER[at], reason="")


def begin(state: State, router: str, old: int, new: int) -> list[Edit]:
    """A planned move: its journal, and a range of ports for the new place, from which it may open what comes first."""
    edits = [Edit(None, Move(router, old, new))]
    held = state.opening(router, new)
    made = parts.lease(state, router, new) if held is None else msgspec.structs.replace(held, careful=False)
    if made is not None and made != held:
        edits.append(Edit(held, made))
    return edits


def call_back(state: State, move: Move) -> list[Edit]:
    """Let a router's NAT stay where it was, or go back there.

    Before the new compute may have opened anything, it is as if nothing had been. Later the roles are exchanged.

    Raises:
        Refused: it is on its way back already, and has come too far to turn again.
    """
    name = move.router
    if not reached(move, P.FREEZE):
        if move.turned:
            return [Edit(move, forth(move))]
        edits = [Edit(move, None)]
        designation, held = state.designations.get((NAT, name)), state.opening(name, move.new)
        if held is not None:
            # A range that it had before is not the move's to take: connections that it opened from there may live.
            stays = (designation is not None and designation.standby == move.new) or 0 < held.since < move.began
            edits.append(Edit(held, msgspec.structs.replace(held, careful=True) if stays else None))
        return edits
    if move.turned:
        raise Refused(f"the NAT of router {name} is on its way back already: let it arrive, then move it again")
    # Without its deadline, which was that of the way there.
    back = Move(name, move.new, move.old, P.COUPLE_NEW, str(move.phase), began=move.began)
    edits = [Edit(move, back)]
    if reached(move, P.FLIP):
        # The old place does not see all connections with its ports any more: it opens from a new range.
        held = state.opening(name, move.old)
        made = parts.lease(state, name, move.old)
        if held is not None:
            edits.append(Edit(held, msgspec.structs.replace(held, opening=False)))
        if made is not None:
            edits.append(Edit(None, made))
    return edits


def set_deadline(state: State, router: str, deadline: int) -> list[Edit]:
    """Wait for what is unknown of a router's connections until then (seconds since the epoch), and cut it after.

    Raises:
        NotFound: there is no such router.
        Refused: it does not move, or has come past the phase that waits.
    """
    if router not in state.routers:
        raise NotFound(f"there is no router {router}")
    move = state.moves.get(router)
    if move is None:
        raise Refused(f"the NAT of router {router} does not move: a deadline is that of a move")
    if reached(move, P.UNCOUPLE_OUT):
        raise Refused(f"the move of router {router} waits for no connection any more (phase {move.phase})")
    return [Edit(move, msgspec.structs.replace(move, deadline=deadline))] if move.deadline != deadline else []


def dated(state: State, edits: Iterable[Edit], leaving: Set[int], deadline: int) -> list[Edit]:
    """These edits, with that deadline for all moves from computes that are to leave: for those that begin, and for those under way."""
    found: list[Edit] = []
    for old, new in edits:
        if isinstance(new, Move) and new.old in leaving:
            found.append(Edit(old, msgspec.structs.replace(new, deadline=deadline)))
        else:
            found.append(Edit(old, new))
    changed = {fact.router for edit in found for fact in edit if isinstance(fact, Move)}
    for router, move in state.moves.items():
        if move.old in leaving and router not in changed and not reached(move, P.UNCOUPLE_OUT):
            found += set_deadline(state, router, deadline)
    return found


def arrive(state: State, move: Move, used: Collection[int] | None) -> list[Edit]:
    """The move is over: the new compute is the designated one, and what the old one has left is its own.

    `used`: the external ports that connections may still have; None: that is not known, and no lease ends.
    """
    name, found = move.router, state.designations.get((NAT, move.router))
    standby = found.standby if found is not None and found.standby not in (move.new, move.old) else 0
    edits = [Edit(move, None), *parts.designate(state, name, move.new, standby)]
    ports = sorted(set(used)) if used is not None else []
    for lease in state.leases.get(name, {}).values():
        if lease.compute == move.new and lease.opening:
            continue
        if lease.compute == standby and lease.opening:
            continue
        rest = [msgspec.structs.replace(lease, compute=move.new, opening=False, careful=False)]
        if used is not None:
            rest = _still_used(rest[0], ports)
        edits += _replaced(lease, rest)
    return edits


def lose(state: State, move: Move, *, old_dead: bool, new_dead: bool) -> list[Edit]:
    """One end of a move has died, or both: whoever is left serves, with what it has.

    Without the old one, the new one takes over what it knows (the record is put in at once). Without the new one the old one opens
    again; of what the new one had taken over, what has lapsed at the old is lost. Without both, whoever is elected next takes over from
    the dead: what the record knows lives.
    """
    name, found = move.router, state.designations.get((NAT, move.router))
    if old_dead and new_dead:
        return [
            Edit(move, None),
            *parts.inherit(state, name, {move.new}, found.compute if found is not None else move.old),
        ]
    if old_dead:
        standby = found.standby if found is not None and found.standby not in (move.new, move.old) else 0
        edits = [Edit(move, None), *parts.designate(state, name, move.new, standby)]
        held = state.opening(name, move.new)
        if held is not None and not held.careful:
            # What the old one had opened comes to it in the middle of a connection, before its rows are all there.
            edits.append(Edit(held, msgspec.structs.replace(held, careful=True)))
        return edits + parts.inherit(state, name, {move.old}, move.new)
    edits = [Edit(move, None)]
    if found is not None and found.compute != move.old:
        edits += parts.designate(state, name, move.old, 0)
    edits += parts.inherit(state, name, {move.new}, move.old)
    if reached(move, P.FLIP):
        edits += [
            Edit(x, msgspec.structs.replace(x, opening=False))
            for x in state.leases.get(name, {}).values()
            if x.compute == move.old and x.opening
        ]
        made = parts.lease(state, name, move.old)
        edits += [Edit(None, msgspec.structs.replace(made, careful=True))] if made is not None else []
    return edits


def shrink(state: State, name: str, number: int, used: Collection[int]) -> list[Edit]:
    """Of the ranges that a compute keeps for a router and opens nothing from, only what is still used stays leased."""
    edits: list[Edit] = []
    ports = sorted(set(used))
    for lease in state.leases.get(name, {}).values():
        if lease.compute == number and not lease.opening:
            edits += _replaced(lease, _still_used(lease, ports))
    return edits


def _still_used(lease: Lease, used: Sequence[int]) -> list[Lease]:
    """What must stay leased of a range that nobody opens from any more. `used`: in order, each once."""
    pinned = used[bisect_left(used, lease.first) : bisect_right(used, lease.last)]
    if not pinned:
        return []
    widest = sorted(range(1, len(pinned)), key=lambda i: pinned[i - 1] - pinned[i])[: FEW_PINNED - 1]
    bounds = [0, *sorted(widest), len(pinned)]
    return [msgspec.structs.replace(lease, first=pinned[a], last=pinned[b - 1]) for a, b in pairwise(bounds)]


def _replaced(old: Lease, rest: list[Lease]) -> list[Edit]:
    edits = []
    same = next((x for x in rest if x.first == old.first), None)
    if same != old:
        edits.append(Edit(old, same))
    return edits + [Edit(None, x) for x in rest if x.first != old.first]


def words(move: Move, names: dict[int, str]) -> str:
    """Where a move stands, for people."""
    way = f"from {names.get(move.old, move.old)} to {names.get(move.new, move.new)}"
    back = " (called back)" if move.turned else ""
    waits = f": {move.reason}" if move.reason else ""
    return f"router {move.router} moves {way}{back}, {move.phase}{waits}"
