"""Marking computes, whoever asks for it: tombstones, and one election over all that stay, in one transaction.

One election over the final set: nothing moves to a compute that is about to go as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

from ebbtide.decide import designation, duties, natmove
from ebbtide.decide.designation import Standing
from ebbtide.decide.scalein import Decision
from ebbtide.model.facts import Edit
from ebbtide.model.state import State, apply


class Marking(NamedTuple):
    """`edits`: what is stored. `marked`: State with the tombstones alone, as elections see it. `decision`: with what is to be said."""

    edits: list[Edit]
    marked: State
    decision: Decision


def mark(
    state: State, decision: Decision, numbers: Set[int], standings: Mapping[int, Standing], until: int = 0
) -> Marking:
    """What follows when the computes of a start are tombstoned. `until`: seconds since the epoch, the deadline of moves from them."""
    marked = apply(state, decision.edits, state.revision + 1)
    moves = designation.judge(marked, standings) if decision.edits else []
    others = duties.judge(marked, standings) if decision.edits else []
    told = decision.saying(designation.stays(designation.departures(marked, standings, numbers)))
    told = told.saying(duties.stays(marked, numbers, others))
    dated = natmove.dated(state, moves, numbers if until else set(), until)
    return Marking([*decision.edits, *dated, *others], marked, told)
