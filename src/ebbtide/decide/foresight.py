"""What State will be when a drain has gone well: its moves arrived, its VMs where they are proposed to go, its computes removed.

Nothing of it is stored: a plan counts the difference between then and now. It holds as long as movers follow the proposed targets, and
nobody else changes anything meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from ebbtide.decide import bindings, designation, duties, natmove, scalein
from ebbtide.decide.designation import Standing
from ebbtide.model.facts import BindingPhase, Edit
from ebbtide.model.state import State, apply

#: Elections follow from each other (who stands by, once a move has arrived): so many rounds, at most.
_ROUNDS = 8


class Then(NamedTuple):
    """State then, and all edits that lead to it."""

    state: State
    edits: list[Edit]


class _Course:
    def __init__(self, state: State) -> None:
        self.state = state
        self.edits: list[Edit] = []

    def go(self, edits: Iterable[Edit]) -> bool:
        made = list(edits)
        if made:
            self.edits += made
            self.state = apply(self.state, made, self.state.revision + 1)
        return bool(made)

    def settle(self, standings: Mapping[int, Standing]) -> None:
        for _ in range(_ROUNDS):
            went = [self.go(designation.judge(self.state, standings)), self.go(duties.judge(self.state, standings))]
            for move in list(self.state.moves.values()):
                went.append(self.go(natmove.arrive(self.state, move, ())))
            if not any(went):
                return


def after(
    state: State,
    marking: Iterable[Edit],
    numbers: Set[int],
    targets: Mapping[str, int],
    standings: Mapping[int, Standing],
) -> Then:
    """State when these computes have been drained. `marking`: what begins it; `targets`: where each VM goes; it stays without one."""
    course = _Course(state)
    course.go(marking)
    course.settle(standings)
    course.go(_moved(course.state, numbers, targets))
    course.settle(standings)
    ids = [str(course.state.computes[n].dpid) for n in sorted(numbers)]
    course.go(scalein.end(course.state, ids, frozenset(course.state.computes)).edits)
    course.settle(standings)
    return Then(course.state, course.edits)


def _moved(state: State, numbers: Set[int], targets: Mapping[str, int]) -> list[Edit]:
    edits: list[Edit] = []
    for number in sorted(numbers):
        for port in state.ports_on.get(number, ()):
            old = state.binding(port, number)
            edits.append(Edit(old, None))
            if port in targets and state.binding(port, targets[port]) is None:
                edits.append(Edit(None, bindings.bound(state, port, targets[port], BindingPhase.ACTIVE)))
    return edits
