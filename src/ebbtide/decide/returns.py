"""Computes that fall silent, and those that are let back: each is an operation, so that it is seen and its end is stored.

A loss removes nothing: services are taken over by elections, VMs are where they are, and whether the compute is dead an operator says
(`ebbtide drain --dead`). It is over when the compute is heard again, or is a member no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from ebbtide.decide import scalein
from ebbtide.decide.dead import Sight
from ebbtide.errors import some
from ebbtide.model.facts import Compute, Edit, Item, ItemState, Membership, Operation
from ebbtide.model.state import State

LOSS, READMIT = "loss", "readmit"
#: Seconds for which a readmission waits for the compute to come; it is taken later as well.
COMES = 3600
#: Of all computes, this part silent at once is no loss of each: it is the controller that hears nobody, or everything is down.
_MANY = 5


def losses(
    state: State, sights: Mapping[int, Sight], after: float, hold: str, now: int, new_id: Callable[[], str]
) -> list[Edit]:
    """Losses that begin, and that are over. `sights`: of all members; `after`: of silence, in seconds; `now`: seconds since the epoch."""
    known = {o.computes[0]: o for o in state.operations.values() if o.verb == LOSS and o.open and o.computes}
    edits = [edit for number, o in known.items() for edit in _ended(state, o, sights.get(number), now)]
    silent = [n for n, s in sights.items() if not s.connected and s.silent >= after]
    if hold or (len(silent) > 1 and _MANY * len(silent) > len(sights)):
        return edits
    for number in silent:
        if number not in known:
            made = Operation(new_id(), LOSS, (number,), "running", _words(state, number, sights[number]), began=now)
            name = state.computes[number].name
            item = Item(made.id, "compute", name, number, ItemState.MOVING, since=now * 1000)
            edits += [Edit(None, made), Edit(None, item)]
    return edits


def _ended(state: State, operation: Operation, sight: Sight | None, now: int) -> list[Edit]:
    number = operation.computes[0]
    found = state.computes.get(number)
    if found is None or found.membership is not Membership.MEMBER:
        why = "was removed"
    elif sight is not None and sight.connected:
        why = f"has come back after {now - operation.began} s"
    else:
        return []
    over: list[Edit] = [Edit(operation, msgspec.structs.replace(operation, state="done", reason=why, over=now))]
    return [
        *over,
        *(Edit(i, msgspec.structs.replace(i, state=ItemState.DONE, reason=why)) for i in state.items_of(operation.id)),
    ]


def _words(state: State, number: int, sight: Sight) -> str:
    vms = scalein.carried(state, number)
    serves = sorted(
        f"{kind} {name}" for kind, name in state.duties.get(number, ()) if _serves(state, kind, name, number)
    )
    told = [f"silent for {sight.silent:.0f} s"]
    if sight.seen_by:
        told.append(f"its switch is seen by {', '.join(sight.seen_by[:3])}: it forwards")
    told.append(f"VMs there: {some(vms, 3)}" if vms else "no VMs there")
    told.append(f"serves yet: {some(serves, 3)}" if serves else "what it served is taken over")
    return "; ".join(told)


def _serves(state: State, kind: str, name: str, number: int) -> bool:
    return state.designations[kind, name].compute == number


def readmission(compute: Compute, operation_id: str, now: int) -> list[Edit]:
    """The operation of one that is let back. Its number is a new one when it comes, so it is followed by its name."""
    made = Operation(operation_id, READMIT, (compute.number,), "running", "waits for it to connect", began=now)
    item = Item(operation_id, "compute", compute.name, compute.number, ItemState.MOVING, since=now * 1000)
    return [Edit(None, made), Edit(None, item)]


def readmissions(state: State, phase: Callable[[int], str], now: int) -> list[Edit]:
    """How far those that were let back have come. `phase`: of a member, "ready" in the end."""
    edits: list[Edit] = []
    for operation in state.operations.values():
        if operation.verb == READMIT and operation.open:
            for item in state.items_of(operation.id):
                edits += _readmitted(state, operation, item, phase, now)
    return edits


def _readmitted(state: State, operation: Operation, item: Item, phase: Callable[[int], str], now: int) -> list[Edit]:
    number = state.by_name.get(item.object, 0)
    outcome, at = "running", ItemState.MOVING
    if any(c.name == item.object for c in state.removed.values()):
        # It had joined, or it could not have been removed.
        outcome, at, reason = "done", ItemState.DONE, "joined, and was removed again"
    elif not number:
        reason = "waits for it to connect"
        if now - operation.began > COMES:
            outcome, at, reason = "failed", ItemState.FAILED, "has not come; it is taken whenever it does"
    elif state.computes[number].membership is Membership.WAITING:
        reason = f"waits for `ebbtide compute approve {item.object}`"
    else:
        seen = phase(number)
        reason = f"is {seen}" if seen != "ready" else f"is ready as number {number}"
        if seen == "ready":
            outcome, at = "done", ItemState.DONE
    if (operation.state, operation.reason) == (outcome, reason):
        return []
    over = now if outcome != "running" else 0
    took = now * 1000 - item.since if at is ItemState.DONE else item.took
    return [
        Edit(operation, msgspec.structs.replace(operation, state=outcome, reason=reason, over=over)),
        Edit(item, msgspec.structs.replace(item, state=at, reason=reason, took=took)),
    ]
