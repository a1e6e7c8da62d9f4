"""A rebalance of the routers' NAT: what it would move, and which of that begins now. Asked for, never by itself.

`election.rebalance` finds the fewest moves that bring every compute within its bound; here it is told what is so, and what follows becomes
moves like those of a scale-in. A move under way counts where it goes, so that asking twice moves nothing twice.

The rule of its rate: a rebalance begins a move only while fewer than `AT_ONCE` are under way in all, whoever began them. That is half of
what is driven at once (`runtime/natmoves.py`), so a scale-in that comes meanwhile never queues behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from ebbtide.decide import designation, election, natmove, parts
from ebbtide.decide.designation import Standing
from ebbtide.decide.election import Load, Plan, Service
from ebbtide.model.facts import Edit, Item, ItemState, Move, Operation
from ebbtide.model.state import NAT, State

#: Moves under way at the same time, of all kinds, beyond which a rebalance begins none.
AT_ONCE = 4
#: The verb of its operation: a rebalance is stored as one, so that whoever leads goes on with it.
VERB = "rebalance"


def plan(state: State, standings: Mapping[int, Standing]) -> Plan:
    """What a rebalance would move now, and what is gained by it."""
    found = election.rebalance(
        [_as_it_will_be(state, s, standings) for s in designation.services(state, standings)],
        designation.candidates(state, standings),
    )
    return msgspec.structs.replace(found, gain=(*found.gain, *_largest(found.loads)))


def _as_it_will_be(state: State, asked: Service, standings: Mapping[int, Standing]) -> Service:
    """A service where its move takes it. What is moved of one's own accord goes only to a compute with a wire and ports to open from."""
    router, move = state.routers[asked.object], state.moves.get(asked.object)
    if move is not None:
        return msgspec.structs.replace(asked, current=move.new, held=asked.held or "its move is under way")
    unable = dict(asked.unable)
    physical = state.externals[router.external].physical
    full = parts.lease(state, router.id, 0) is None
    for number in (asked.footprint | {asked.standby}) - {asked.current, 0}:
        if physical not in standings.get(number, Standing()).wired:
            unable.setdefault(number, f"its port to provider network {physical} is not there")
        elif full and state.opening(router.id, number) is None:
            unable.setdefault(number, f"has no range of ports for router {router.id}: none is free")
    return msgspec.structs.replace(asked, unable=unable)


def _largest(loads: Iterable[Load]) -> list[str]:
    """A line per kind whose loads change: the largest load before and after."""
    kinds: dict[str, list[Load]] = {}
    for row in loads:
        kinds.setdefault(row.kind, []).append(row)
    lines = []
    for kind, rows in kinds.items():
        if any(r.before != r.after for r in rows):
            before, after = max(r.before for r in rows), max(r.after for r in rows)
            lines.append(f"{kind}: the largest load goes from {before} to {after}")
    return lines


def begin(state: State, found: Plan) -> list[Edit]:
    """The moves of a plan that begin now."""
    room = max(0, AT_ONCE - len(state.moves))
    return [edit for shift in found.moves[:room] for edit in natmove.begin(state, shift.object, shift.old, shift.new)]


def running(state: State) -> Operation | None:
    """The rebalance that is under way."""
    return next((o for o in state.operations.values() if o.verb == VERB and o.state == "running"), None)


def step(
    state: State, standings: Mapping[int, Standing], operation: Operation, hold: str = "", now_ms: int = 0
) -> list[Edit]:
    """What a rebalance that is under way does now: it begins moves, waits for those that are, or is over.

    `hold`: why nothing may be begun now, in words. `now_ms`: milliseconds since the epoch.
    """
    found = plan(state, standings)
    edits = [] if hold else begin(state, found)
    moves = [e.new for e in edits if isinstance(e.new, Move)]
    begun = len(moves)
    waiting = len(found.moves) - begun
    edits = [*edits, *_entered(state, operation, moves, now_ms), *_over(state, operation, now_ms)]
    if not waiting and not begun and not state.moves:
        told = "; ".join(found.gain)
        done = msgspec.structs.replace(operation, state="done", reason=told, over=now_ms // 1000)
        return [*edits, Edit(operation, done)]
    words = f"{len(state.moves) + begun} under way, {waiting} to go" + (f"; waits: {hold}" if hold else "")
    now = msgspec.structs.replace(operation, reason=words)
    return [*edits, Edit(operation, now)] if now != operation else edits


def _entered(state: State, operation: Operation, moves: Iterable[Move], now_ms: int) -> list[Edit]:
    """The items of moves that begin; one that was there before, of an earlier turn, is begun again."""
    known = {(i.object, i.compute): i for i in state.items_of(operation.id)}
    made = (
        Item(operation.id, "service", f"{NAT} {m.router}", m.old, ItemState.MOVING, m.new, since=now_ms) for m in moves
    )
    return [Edit(known.get((item.object, item.compute)), item) for item in made]


def _over(state: State, operation: Operation, now_ms: int) -> list[Edit]:
    """The items of moves that are over, wherever they have ended."""
    edits = []
    for item in state.items_of(operation.id):
        name = item.object.partition(" ")[2]
        if item.state is not ItemState.MOVING or name in state.moves:
            continue
        held = state.designations.get((NAT, name))
        arrived = held is not None and held.compute == item.target
        at, reason = (ItemState.DONE, "") if arrived else (ItemState.SKIPPED, "has ended elsewhere")
        took = now_ms - item.since if arrived else 0
        edits.append(Edit(item, msgspec.structs.replace(item, state=at, reason=reason, took=took)))
    return edits


def left_alone(state: State, operation: Operation) -> list[Edit]:
    """Items of a rebalance that is stopped: their moves go on by themselves."""
    moving = (i for i in state.items_of(operation.id) if i.state is ItemState.MOVING)
    return [Edit(i, msgspec.structs.replace(i, state=ItemState.SKIPPED, reason="goes on by itself")) for i in moving]


def stop(state: State, standings: Mapping[int, Standing]) -> Operation | None:
    """The rebalance under way, as it is when nothing more is begun; None: there is none. What moves goes on."""
    operation = running(state)
    if operation is None:
        return None
    left = len(plan(state, standings).moves)
    words = f"stopped: {left} not moved, {len(state.moves)} under way go on"
    return msgspec.structs.replace(operation, state="done", reason=words)
