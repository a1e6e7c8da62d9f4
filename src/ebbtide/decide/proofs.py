"""The proof that nothing is left of removed computes: what it says, and how what could not be looked at is entered later.

A proof is one JSON object, written once and signed as it is written: whoever has it and the controller's public key can check it without
the controller. It claims what was seen and no more: each compute that was read, with the revision that it had confirmed and the amounts
that were searched; those that are not ours; and those that could not be read, until their entry is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ebbtide.model.facts import Compute, Operation
from ebbtide.model.state import State

FORMAT = 1


class Removed(msgspec.Struct, frozen=True):
    """A removed compute, and every identity that was searched for."""

    name: str
    number: int
    identities: tuple[str, ...]


class Checked(msgspec.Struct, frozen=True, rename="kebab"):
    """What one compute was seen to hold: `applied` is the revision that it had confirmed before it was read, `residue` what is left of the
    removed ones, `differs` how many other things were not as they should be. `paid`: it was away at first, and read when it returned."""

    compute: str
    number: int
    applied: int
    flows: int
    groups: int
    ports: int
    tunnels: int
    rows: int
    residue: tuple[str, ...] = ()
    differs: int = 0
    time: int = 0
    paid: bool = False


class Owing(msgspec.Struct, frozen=True):
    """A compute that could not be read, and may still hold something. `gone`: it was removed itself since, and will never be read."""

    compute: str
    number: int
    gone: bool = False


class Body(msgspec.Struct, frozen=True, rename="kebab"):
    """All that a proof says. Times in seconds since the epoch."""

    format: int
    store: str
    operation: str
    revision: int
    time: int
    removed: tuple[Removed, ...]
    checked: tuple[Checked, ...]
    owing: tuple[Owing, ...]
    not_ours: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everybody was read. One that was removed unread never will be: the proof stays without it."""
        return not self.owing

    @property
    def clean(self) -> bool:
        """Whether somebody was read, and nothing was found."""
        return bool(self.checked) and not any(x.residue for x in self.checked)

    def text(self) -> str:
        """As it is signed: members sorted, no spaces."""
        told = {**msgspec.to_builtins(self), "clean": self.clean, "complete": self.complete}
        return msgspec.json.encode(told, order="sorted").decode()


def read(text: str) -> Body:
    """A body from its text.

    Raises:
        msgspec.ValidationError: it is none.
    """
    return msgspec.json.decode(text, type=Body)


def begin(
    state: State,
    operation: Operation,
    checked: Sequence[Checked],
    owing: Iterable[int],
    not_ours: Iterable[str],
    now: int,
) -> Body:
    """The proof of a scale-in end as it is when its audit is over. `owing`: numbers of computes that could not be read."""
    removed = (state.removed.get(n) for n in operation.computes)
    named = sorted((_name(state, n), n) for n in owing)
    return Body(
        FORMAT,
        state.store_id,
        operation.id,
        operation.revision,
        now,
        tuple(Removed(c.name, c.number, tuple(sorted(c.identities()))) for c in removed if c is not None),
        tuple(sorted(checked, key=lambda x: x.compute)),
        tuple(Owing(name, number) for name, number in named),
        tuple(sorted(not_ours)),
    )


def paid(body: Body, seen: Checked) -> Body:
    """The proof with the entry of a compute that has been read at its return."""
    entry = msgspec.structs.replace(seen, paid=True)
    kept = [x for x in body.checked if x.number != seen.number]
    return msgspec.structs.replace(
        body,
        checked=tuple(sorted([*kept, entry], key=lambda x: x.compute)),
        owing=tuple(x for x in body.owing if x.number != seen.number),
    )


def gone(body: Body, numbers: Iterable[int]) -> Body:
    """The proof when computes that owed have been removed themselves."""
    lost = set(numbers)
    owing = (msgspec.structs.replace(x, gone=True) if x.number in lost else x for x in body.owing)
    return msgspec.structs.replace(body, owing=tuple(owing))


def _name(state: State, number: int) -> str:
    found: Compute | None = state.computes.get(number) or state.removed.get(number)
    return found.name if found is not None else f"#{number}"
