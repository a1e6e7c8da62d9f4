"""What those who move VMs have said of hosts of late: which are theirs, and whether one of a drain is empty.

A compute of such a drain is removed only while somebody vouches for it: Nova knows of servers that are plugged nowhere, and nobody else
does. Nothing of it is stored: it is said again every few seconds, and what is old is no word at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ebbtide.decide.drain import VOUCHERS, Problem, Vouch
from ebbtide.model.facts import Operation

#: Seconds for which a word on a drained host, and one on which hosts there are, is good.
FRESH, KNOWN = 10.0, 120.0
EMPTYING, EMPTY, FAILED, MATCHED = "emptying", "empty", "failed", "matched"
STATES = (EMPTYING, EMPTY, FAILED, MATCHED)


class Said(NamedTuple):
    """A word on a host. `host`: what it is called where its VMs are managed; `words`: what keeps it, or what is wrong with it; `options`:
    those that the mover was started with, like a drain's."""

    host: str
    state: str
    words: str = ""
    options: tuple[str, ...] = ()


class Vouches:
    """`now`: seconds, monotonic."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: dict[tuple[str, str, int], tuple[float, Said]] = {}

    def say(self, kind: str, operation: str, hosts: Mapping[int, Said]) -> None:
        """Enter what a mover of some kind says of computes, in a drain or (operation "") at all."""
        at = self._now()
        self._said = {key: found for key, found in self._said.items() if at - found[0] < KNOWN}
        self._said |= {(kind, operation, number): (at, said) for number, said in hosts.items()}

    def of(self, operation: Operation, name: str, number: int) -> Vouch:
        """Whether a drained compute (`name`) may be removed, as far as who moves its VMs knows."""
        if operation.vms not in VOUCHERS:
            return Vouch()
        at, said = self._said.get((operation.vms, operation.id, number), (float("-inf"), None))
        if said is None or self._now() - at > FRESH:
            return Vouch(f"no mover of kind {operation.vms} says that {name} is empty")
        if said.state == EMPTY:
            return Vouch()
        return Vouch(said.words or f"{operation.vms} has not emptied {said.host} yet", said.state == FAILED)

    def known(self, kind: str, number: int) -> Said | None:
        """What is known of a compute before any drain of it; None: nobody has said anything."""
        at, said = self._said.get((kind, "", number), (float("-inf"), None))
        return said if self._now() - at < KNOWN else None

    def problems(self, kind: str, computes: Iterable[tuple[int, str]], forced: str) -> list[Problem]:
        """Why a drain with movers of this kind would be refused; a wrong match whatever the reason: another host would be emptied."""
        if kind not in VOUCHERS:
            return []
        told = []
        for number, name in computes:
            said = self.known(kind, number)
            if said is None and not forced:
                told.append(
                    Problem("no-mover", name, f"no mover of kind {kind} has said which host {name} is: start one")
                )
            elif said is not None and said.state == FAILED:
                told.append(Problem("host", name, f"{name}: {said.words}"))
        return told
