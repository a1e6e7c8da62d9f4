"""Whether a compute that BFD does not see any more carries packets all the same.

BFD that is silent for three intervals (195 ms) is a death, or a machine that had no processor for as long: whoever takes over from one
that lives breaks what it is there to save. A dead process ends its session at once and is dead. Who holds its session is asked first, by
probes through the tunnels of those who have lost it: they are answered by its switch, and by nobody else.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.runtime.probes import SMALL
from ebbtide.runtime.switch import SwitchLink

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("doubts")
#: Seconds between two looks at what is in doubt.
TICK = 0.05
#: Seconds in which an answer is due, for which one holds, and after which BFD is believed all the same: other computes' packets have
#: taken the way of the standby all that time. It ends before flows follow what BFD says (HOLD_DOWN of members).
ANSWER, HOLDS, LONGEST = 0.1, 0.3, 2.5
#: So many of those who have lost it ask.
_ASKED = 8


class _Doubt(msgspec.Struct):
    """`asked`, `due`, `heard`: when the last round of probes began, when one of them must have come through, and when one has; `looked`:
    when that was looked at."""

    switch: SwitchLink
    since: float
    looked: float
    observers: tuple[int, ...] = ()
    asked: float = 0.0
    due: float = 0.0
    heard: float = 0.0
    told: bool = False


class Doubts:
    """All computes whose death is in doubt."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._doubts: dict[int, _Doubt] = {}

    def __bool__(self) -> bool:
        return bool(self._doubts)

    def carries(self, number: int, observers: Iterable[int]) -> bool:
        """Whether a compute that all these have lost has just shown that it carries packets, or still has time to do so. Once it is said
        to be dead, the doubt is over."""
        member, now, doubt = self._cluster.members[number], self._cluster.now(), self._doubts.get(number)
        if doubt is None or doubt.switch is not member.switch:
            if member.switch is None:
                self.forget(number)
                return False
            doubt = self._doubts[number] = _Doubt(member.switch, now, now)
        # Time that we have slept through ourselves counts for nothing: answers of that time have not been read yet.
        slept = max(0.0, now - doubt.looked - 2 * TICK)
        doubt.since, doubt.due, doubt.looked = doubt.since + slept, doubt.due + slept, now
        doubt.heard = max(doubt.heard, *(self._heard(observer, number) for observer in doubt.observers), 0.0)
        answered = doubt.heard >= doubt.asked
        if answered and doubt.asked and not doubt.told:
            log.warning("carries_without_bfd", compute=number, observers=list(doubt.observers))
            doubt.told = True
        if answered and now - doubt.asked >= HOLDS:
            self._ask(number, doubt, observers, now)
        if (not answered and now >= doubt.due) or now - doubt.since > LONGEST:
            self.forget(number)
            return False
        return True

    def forget(self, number: int) -> None:
        """Somebody sees it, or it is dead."""
        self._doubts.pop(number, None)

    def keep(self, numbers: Container[int]) -> None:
        """Forget all but these."""
        for number in [n for n in self._doubts if n not in numbers]:
            del self._doubts[number]

    def _ask(self, number: int, doubt: _Doubt, observers: Iterable[int], now: float) -> None:
        """Begin a round of probes, if both ends can send some now: a switch that is being compared takes its time, and is no dead one."""
        members = self._cluster.members
        able = sorted(n for n in observers if n in members and members[n].synced)[:_ASKED]
        if members[number].synced and able:
            doubt.asked, doubt.due, doubt.observers = now, now + ANSWER, tuple(able)
            for observer in able:
                self._cluster.probes.watch_again(observer, number)

    def _heard(self, observer: int, number: int) -> float:
        """When a small probe has come through last, the one way and the other; 0: not since the tunnel was asked about."""
        probes = self._cluster.probes
        return min(probes.sizes(one, other).get(SMALL, 0.0) for one, other in ((observer, number), (number, observer)))
