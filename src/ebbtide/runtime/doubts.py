"""Whether a compute that BFD does not see any more carries packets all the same.

BFD that is silent for three intervals (225 ms) is a death, or a machine that had no processor for as long: whoever takes over from one
that lives breaks what it is there to save. A dead process ends its session at once and is dead. Who holds its session is asked first, by
probes through the tunnels of those who have lost it: they are answered by its switch, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.runtime.switch import SwitchLink

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("doubts")
#: Seconds between two looks at what is in doubt.
TICK = 0.05
#: Seconds in which an answer is due, for which one holds, and after which BFD is believed all the same: other computes' packets have
#: taken the way of the standby all that time.
ANSWER, HOLDS, LONGEST = 0.1, 0.3, 3.0
#: So many of those who have lost it ask.
_ASKED = 8


class _Doubt(msgspec.Struct):
    switch: SwitchLink
    observers: tuple[int, ...]
    since: float
    asked: float
    looked: float
    told: bool = False


class Doubts:
    """All computes whose death is in doubt."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._doubts: dict[int, _Doubt] = {}

    def __bool__(self) -> bool:
        return bool(self._doubts)

    def carries(self, number: int, observers: Iterable[int]) -> bool:
        """Whether a compute that all these have lost has just shown that it carries packets, or still has time to do so."""
        member, now = self._cluster.members[number], self._cluster.now()
        if member.switch is None:
            self._doubts.pop(number, None)
            return False
        doubt = self._doubts.get(number)
        if doubt is None or doubt.switch is not member.switch:
            doubt = _Doubt(member.switch, tuple(sorted(observers)[:_ASKED]), now, now, now)
            self._doubts[number] = doubt
            self._probe(number, doubt.observers)
        # Time that we have slept through ourselves counts for nothing: answers of that time have not been read yet.
        slept = max(0.0, now - doubt.looked - 2 * TICK)
        doubt.since, doubt.asked, doubt.looked = doubt.since + slept, doubt.asked + slept, now
        if now - doubt.since > LONGEST:
            return False
        probes = self._cluster.probes
        if not any(probes.is_open(observer, number) for observer in doubt.observers):
            return now - doubt.asked < ANSWER
        if not doubt.told:
            log.warning("carries_without_bfd", compute=number, observers=list(doubt.observers))
            doubt.told = True
        if now - doubt.asked >= HOLDS:
            doubt.asked = now
            self._probe(number, doubt.observers)
        return True

    def forget(self, number: int) -> None:
        """Somebody sees it."""
        self._doubts.pop(number, None)

    def _probe(self, number: int, observers: Iterable[int]) -> None:
        for observer in observers:
            self._cluster.probes.watch_again(observer, number)

    def keep(self, numbers: Container[int]) -> None:
        """Forget all but these."""
        for number in [n for n in self._doubts if n not in numbers]:
            del self._doubts[number]
