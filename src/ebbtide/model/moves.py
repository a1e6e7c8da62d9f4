"""How far a move has come, and what it was before it was called back."""

from __future__ import annotations

import msgspec

from ebbtide.model.facts import Move, MovePhase

_ORDER = list(MovePhase)


def reached(move: Move, phase: MovePhase) -> bool:
    """Whether a move has come to this phase."""
    return _ORDER.index(move.phase) >= _ORDER.index(phase)


def forth(move: Move) -> Move:
    """The move that was called back, as it stood then."""
    return msgspec.structs.replace(move, old=move.new, new=move.old, phase=MovePhase(move.turned), turned="")
