"""start, end and recover: one verdict per id, all before anything is written; then the edits of one transaction.

Every call is all or nothing: one id refused, none touched, every refusal listed. Doing a thing twice is "already so". The
spec's words: "mark them as tombstoned", "config inventory and topology database also can be deleted", "tombstoned flag is set
to false" (Proposed change).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from enum import StrEnum

import msgspec

from ebbtide.decide import parts
from ebbtide.decide.lifecycle import resolve
from ebbtide.errors import BadInput, NotFound, Refused, some
from ebbtide.model.facts import Binding, BindingPhase, Compute, Debt, Edit, Membership
from ebbtide.model.state import State


class Answer(StrEnum):
    """What is decided for one id."""

    ACCEPTED = "accepted"
    ALREADY = "already so"
    REFUSED = "refused"


class IdVerdict(msgspec.Struct, frozen=True):
    """Verdict for one id of a call: `id` as given, the compute's name, and why or what remains, in words."""

    id: str
    answer: Answer
    name: str = ""
    number: int = 0
    message: str = ""
    remains: tuple[str, ...] = ()
    unknown: bool = False


class Decision(msgspec.Struct, frozen=True):
    """Verdicts, in the order of the ids, and what to store (nothing if any is refused)."""

    verdicts: tuple[IdVerdict, ...]
    edits: tuple[Edit, ...] = ()

    def saying(self, more: Mapping[int, str]) -> Decision:
        """The same, and more in words of some computes (by number)."""
        told = (
            msgspec.structs.replace(v, message="; ".join(filter(None, (v.message, more.get(v.number, "")))))
            for v in self.verdicts
        )
        return msgspec.structs.replace(self, verdicts=tuple(told))

    def checked(self, verb: str) -> Decision:
        """Itself.

        Raises:
            NotFound: ids are unknown or ambiguous, and nothing else is wrong.
            Refused: an id is refused. Nothing was written.
        """
        bad = [v for v in self.verdicts if v.answer is Answer.REFUSED]
        if not bad:
            return self
        lines = "; ".join(f"{v.id}: {v.message}" for v in bad)
        message = f"{verb} refused, nothing was changed: {lines}"
        error = Refused(message, self.verdicts)
        if all(v.unknown for v in bad):
            missing = NotFound(message)
            missing.tag = "invalid-value"
            missing.status = 400
            raise missing from error
        raise error


def _distinct(ids: Sequence[str]) -> list[str]:
    if not ids:
        raise BadInput("no compute ids were given: name at least one", tag="missing-element")
    return list(dict.fromkeys(ids))


def _resolve(state: State, ids: Sequence[str]) -> list[tuple[str, Compute | None, str]]:
    found = [(text, *resolve(state, text)) for text in _distinct(ids)]
    seen: dict[int, str] = {}
    kept: list[tuple[str, Compute | None, str]] = []
    for text, compute, reason in found:
        if compute is not None and compute.number in seen:
            continue  # two spellings of one compute are one compute
        if compute is not None:
            seen[compute.number] = text
        kept.append((text, compute, reason))
    return kept


def _unknown(text: str, reason: str) -> IdVerdict:
    return IdVerdict(text, Answer.REFUSED, message=reason, unknown=True)


def carried(state: State, number: int) -> list[str]:
    """Ports that keep a compute from being empty: bound there and not leaving. State decides, not stale interfaces."""
    phases = state.ports_on.get(number)
    return sorted(p for p, phase in phases.items() if phase is not BindingPhase.LEAVING) if phases else []


def start(state: State, ids: Sequence[str]) -> Decision:
    """Mark computes as tombstoned."""
    verdicts, edits = [], []
    for text, compute, reason in _resolve(state, ids):
        if compute is None:
            verdicts.append(_unknown(text, reason))
        elif compute.membership is Membership.REMOVED:
            why = (
                f"{compute.name} was removed at revision {compute.removed_at}: `ebbtide compute readmit {compute.name}`"
            )
            verdicts.append(IdVerdict(text, Answer.REFUSED, compute.name, compute.number, why))
        elif compute.membership is Membership.WAITING:
            why = f"{compute.name} is not a member yet: `ebbtide compute approve {compute.name}` or let it be"
            verdicts.append(IdVerdict(text, Answer.REFUSED, compute.name, compute.number, why))
        else:
            left = tuple(f"port {p}" for p in carried(state, compute.number))
            answer = Answer.ALREADY if compute.tombstoned else Answer.ACCEPTED
            word = "already tombstoned" if compute.tombstoned else "tombstoned"
            verdicts.append(IdVerdict(text, answer, compute.name, compute.number, word, left))
            if not compute.tombstoned:
                edits.append(Edit(compute, msgspec.structs.replace(compute, tombstoned=True)))
    return _decision(verdicts, edits)


def recover(state: State, ids: Sequence[str]) -> Decision:
    """Take the mark away."""
    verdicts, edits = [], []
    for text, compute, reason in _resolve(state, ids):
        if compute is None:
            verdicts.append(_unknown(text, reason))
        elif compute.membership is Membership.REMOVED:
            why = f"{compute.name} was removed: `ebbtide compute readmit {compute.name}` takes it back as a new member"
            verdicts.append(IdVerdict(text, Answer.REFUSED, compute.name, compute.number, why))
        else:
            answer = Answer.ACCEPTED if compute.tombstoned else Answer.ALREADY
            word = "recovered" if compute.tombstoned else "not tombstoned"
            verdicts.append(IdVerdict(text, answer, compute.name, compute.number, word))
            if compute.tombstoned:
                edits.append(Edit(compute, msgspec.structs.replace(compute, tombstoned=False)))
    return _decision(verdicts, edits)


def end(
    state: State,
    ids: Sequence[str],
    reachable: Set[int],
    moving: Set[str] = frozenset(),
    serving: Callable[[int], Sequence[str]] = lambda _: (),
    lost: Set[int] = frozenset(),
) -> Decision:
    """Remove computes. `reachable`: computes that can be cleaned now; the others get debts, to be paid at their return.
    `moving`: ports that have just moved, and whose new place not everybody has learnt: where they left still forwards for them.
    `serving`: what a compute still serves that has somewhere to go, in words. `lost`: computes that are dead, and their ports with them."""
    verdicts: list[IdVerdict] = []
    leaving: list[Compute] = []
    for text, compute, reason in _resolve(state, ids):
        if compute is None:
            verdicts.append(_unknown(text, reason))
            continue
        if compute.membership is Membership.REMOVED:
            verdicts.append(IdVerdict(text, Answer.ALREADY, compute.name, compute.number, "already removed"))
            continue
        left = carried(state, compute.number) if compute.number not in lost else []
        if not compute.tombstoned:
            why = f"{compute.name} is not tombstoned: call scalein-computes-start first"
        elif left:
            why = f"{compute.name} still carries {len(left)} port(s): {some(left, 5)}; migrate or delete them, or recover it"
        elif forwards := sorted(set(state.ports_on.get(compute.number) or ()) & moving):
            why = f"{compute.name} still forwards for {forwards[0]}, which has just moved: try again in a moment"
        elif serves := serving(compute.number):
            why = f"{compute.name} still serves: {some(serves, 1)}; wait until it has moved (`ebbtide router list`), or recover it"
            left = [*serves]
        else:
            verdicts.append(IdVerdict(text, Answer.ACCEPTED, compute.name, compute.number, "removed"))
            leaving.append(compute)
            continue
        verdicts.append(
            IdVerdict(
                text,
                Answer.REFUSED,
                compute.name,
                compute.number,
                why,
                tuple(p if " " in p else f"port {p}" for p in left),
            )
        )
    # Those that go together owe each other nothing, and a relation between two of them goes once.
    together = {compute.number for compute in leaving}
    edits = list(dict.fromkeys(e for compute in leaving for e in removal(state, compute, reachable, together)))
    return _decision(verdicts, edits)


def removal(state: State, compute: Compute, reachable: Set[int], together: Set[int] = frozenset()) -> list[Edit]:
    """Everything that State holds of a compute goes; who cannot be reached now owes its cleaning.

    `together`: the computes that are removed in the same transaction, which will be wiped as a whole.
    """
    gone = msgspec.structs.replace(
        compute,
        membership=Membership.REMOVED,
        tombstoned=False,
        removed_at=state.revision + 1,
        past=tuple(sorted(compute.identities())),
    )
    edits = [Edit(compute, gone)]
    phases = state.ports_on.get(compute.number)
    for port in phases or ():
        binding = state.binding(port, compute.number)
        assert isinstance(binding, Binding)
        edits.append(Edit(binding, None))
    edits += [Edit(r, None) for r in state.relations.values() if compute.number in (r.gateway, r.peer)]
    edits += parts.leave(state, {compute.number, *together})
    owing = {n for n, c in state.computes.items() if c.membership is Membership.MEMBER} - together | {compute.number}
    edits += [
        Edit(None, Debt(other, compute.number))
        for other in sorted(owing - set(reachable))
        if (other, compute.number) not in state.debts
    ]
    # A removed compute's own debts are of no interest any more: it is quarantined and wiped at its return.
    edits += [
        Edit(d, None) for d in state.debts.values() if d.compute == compute.number and d.removed != compute.number
    ]
    return edits


def readmit(state: State, text: str) -> tuple[Compute, list[Edit]]:
    """Forget that a compute was removed, so that it may join as a new one.

    Raises:
        NotFound: unknown, or not removed.
        Refused: computes still owe its cleaning.
    """
    compute, reason = resolve(state, text)
    if compute is None:
        raise NotFound(reason)
    if compute.membership is not Membership.REMOVED:
        raise Refused(f"{compute.name} is not removed: there is nothing to readmit")
    proving = next(
        (o for o in state.operations.values() if o.verb == "end" and o.open and compute.number in o.computes), None
    )
    if proving is not None:
        raise Refused(
            f"{compute.name} cannot be readmitted yet: operation {proving.id} still proves that nothing of it is left ({proving.reason})"
        )
    owing = sorted(
        state.computes[d.compute].name
        for d in state.debts.values()
        if d.removed == compute.number and d.compute in state.computes
    )
    if owing:
        raise Refused(
            f"{compute.name} cannot be readmitted yet: {', '.join(owing)} could not be reached and may still hold "
            "something of it; bring them back or remove them"
        )
    debts = [Edit(d, None) for d in state.debts.values() if d.removed == compute.number]
    return compute, [Edit(compute, None), *debts]


def _decision(verdicts: list[IdVerdict], edits: list[Edit]) -> Decision:
    refused = any(v.answer is Answer.REFUSED for v in verdicts)
    return Decision(tuple(verdicts), () if refused else tuple(edits))
