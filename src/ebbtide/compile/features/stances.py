"""Who is what to a router's NAT: from its designation, and from how far a move has come.

The order of a move can be read from top to bottom in `_old` and `_new`. A phase means that the store asks for it; the driver goes on when
the switches concerned have applied it, and settled where it stops something (`decide/natmove.py`).

A move that is called back when the new compute may have opened connections already is not undone: the roles are exchanged, and it goes
through its phases once more. Until then both keep what they had (`turned`).
"""

from __future__ import annotations

import msgspec

from ebbtide.compile.features.nat import Stance, Voice
from ebbtide.model.facts import Lease, Move, MovePhase
from ebbtide.model.moves import forth, reached
from ebbtide.model.state import NAT, State

P = MovePhase


def stance(state: State, router: str, compute: int) -> Stance | None:
    """What this compute is to the router's NAT; None: nothing."""
    move = state.moves.get(router)
    lease = state.opening(router, compute)
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
    return Stance(Voice.SILENT, lease, stands_in_for=found.compute if move is None else 0)


def _old(move: Move, lease: Lease | None) -> Stance:
    before = _new(forth(move), lease) if move.turned else Stance(Voice.OWNER, lease)
    frozen = reached(move, P.FREEZE)
    voice = before.voice
    if reached(move, P.SILENCE) and voice is Voice.OWNER:
        voice = Voice.DEPUTY
    if reached(move, P.FLIP):
        voice = Voice.SILENT
    coupled = reached(move, P.COUPLE_OLD)
    return Stance(
        voice,
        # Frozen, it opens only what has been left to it (of a move that is called back), until nobody leaves it anything any more.
        lease=None if reached(move, P.ADDRESS) else lease,
        asks_out=0 if frozen else before.asks_out,
        asks_in=0 if coupled else before.asks_in,
        answers_in=move.new if coupled else 0,
        answers_out=move.new if frozen else 0,
        opens_answered=before.opens_answered and not reached(move, P.ADDRESS),
        exports=reached(move, P.EXPORT) and not reached(move, P.REPLY),
    )


def _new(move: Move, lease: Lease | None) -> Stance:
    before = _old(forth(move), lease) if move.turned else Stance(Voice.SILENT)
    coupled = reached(move, P.COUPLE_NEW)
    # Called back, it goes on leaving packets to the other until that one is frozen.
    leaves = before.answers_out if not reached(move, P.SILENCE) else 0
    asks = coupled and not leaves
    if lease is not None and not coupled:
        # Until it asks, whoever comes to it for the old one's sake (as to the one that has stood by) may be in the middle of a connection.
        lease = msgspec.structs.replace(lease, careful=True)
    return Stance(
        Voice.OWNER if reached(move, P.ADDRESS) else before.voice,
        lease,
        asks_out=move.old if asks and not reached(move, P.UNCOUPLE_OUT) else 0,
        asks_in=move.old if coupled and not reached(move, P.UNCOUPLE_IN) else 0,
        answers_out=leaves,
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
    if move is None:
        return [n for n in (found.compute, found.standby) if n] if found is not None else []
    if move.turned and not reached(move, P.FLIP):
        return _exits(forth(move))
    ways = _exits(move)
    if len(ways) == 1 and found is not None and found.standby not in (0, move.old, move.new):
        ways.append(found.standby)
    return ways


def _exits(move: Move) -> list[int]:
    if reached(move, P.UNCOUPLE_OUT):
        return [move.new]
    if reached(move, P.FLIP):
        return [move.new, move.old]
    # Not before it asks: what it does not know it would open.
    return [move.old, move.new] if reached(move, P.FREEZE) else [move.old]
