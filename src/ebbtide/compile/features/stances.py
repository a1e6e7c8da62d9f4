"""Who is what to a router's NAT: from its designation, and from how far a move has come.

One line a phase, so that the order of a move can be read from top to bottom. `Phase n` means that the store asks for it; the driver goes on
when the switches concerned have applied it, and settled where the phase stops something (`decide/natmove.py`).
"""

from __future__ import annotations

from ebbtide.compile.features.nat import Stance, Voice
from ebbtide.model.facts import Lease, Move, MovePhase
from ebbtide.model.state import NAT, State

_ORDER = list(MovePhase)
P = MovePhase


def reached(move: Move, phase: MovePhase) -> bool:
    """Whether a move has come to this phase."""
    return _ORDER.index(move.phase) >= _ORDER.index(phase)


def lease_of(state: State, router: str, compute: int) -> Lease | None:
    """The ports from which a compute opens connections for a router."""
    found = (x for x in state.leases.get(router, {}).values() if x.compute == compute and x.opening)
    return max(found, key=lambda x: (x.since, x.first), default=None)


def stance(state: State, router: str, compute: int) -> Stance | None:
    """What this compute is to the router's NAT; None: nothing."""
    move = state.moves.get(router)
    lease = lease_of(state, router, compute)
    if move is not None and compute == move.old:
        return _old(move, lease)
    if move is not None and compute == move.new:
        return _new(move, lease)
    found = state.designations.get((NAT, router))
    if found is None or compute not in (found.compute, found.standby):
        return None
    if compute == found.compute:
        # A compute whose tunnel to it fails sends to the one that stands by, and what comes back arrives here.
        return Stance(Voice.OWNER, lease, asks_in=found.standby)
    return Stance(Voice.SILENT, lease)


def _old(move: Move, lease: Lease | None) -> Stance:
    frozen = reached(move, P.FREEZE)
    voice = Voice.SILENT if reached(move, P.FLIP) else Voice.DEPUTY if reached(move, P.SILENCE) else Voice.OWNER
    return Stance(
        voice,
        lease=None if frozen else lease,
        answers_in=move.new if reached(move, P.COUPLE_OLD) else 0,
        answers_out=move.new if frozen else 0,
        exports=reached(move, P.EXPORT) and not reached(move, P.REPLY),
    )


def _new(move: Move, lease: Lease | None) -> Stance:
    coupled = reached(move, P.COUPLE_NEW)
    return Stance(
        Voice.OWNER if reached(move, P.ADDRESS) else Voice.SILENT,
        lease,
        asks_out=move.old if coupled and not reached(move, P.UNCOUPLE_OUT) else 0,
        asks_in=move.old if coupled and not reached(move, P.UNCOUPLE_IN) else 0,
        opens_answered=coupled,
    )


def owner(state: State, router: str) -> int:
    """The compute that owns the router's external addresses; 0: none at this moment."""
    found = ((n, stance(state, router, n)) for n in sorted(state.servers(router)))
    return next((n for n, s in found if s is not None and s.voice is Voice.OWNER), 0)


def exits(state: State, router: str) -> list[int]:
    """The computes that others send to: the first that is alive."""
    move = state.moves.get(router)
    found = state.designations.get((NAT, router))
    standby = [found.standby] if found is not None and found.standby else []
    if move is None:
        return [found.compute, *standby] if found is not None else []
    if reached(move, P.UNCOUPLE_OUT):
        return [move.new, *(n for n in standby if n not in (move.new, move.old))]
    if reached(move, P.FLIP):
        return [move.new, move.old]
    return [move.old, move.new] if reached(move, P.COUPLE_NEW) else [move.old]
