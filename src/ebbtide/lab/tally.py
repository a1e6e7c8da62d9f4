"""Counting what was sent and what came back of it. Values only: `now` comes in, in seconds of CLOCK_MONOTONIC.

A thing is lost when it has been unanswered for longer than its grace; until then it is on its way and counts as
neither. `settled(mark)` says that nothing sent before `mark` is on its way any more. `reset` begins the counts
anew: what was on its way is then counted with what comes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from .flow_report import Attempts, Datagrams

DATAGRAM_GRACE = 1.0


class Series:
    """Numbered datagrams or echo requests, each of which should come back once."""

    def __init__(self) -> None:
        self.times = array("d")
        self.seen = bytearray()
        self.heard = False  # since the start, whatever was reset
        self._begin = 0
        self._open = 0
        self._gap = 0.0
        self._last: float | None = None

    def sent(self, now: float) -> int:
        """The number of the next one."""
        if self._last is None:
            self._last = now
        self.times.append(now)
        self.seen.append(0)
        return len(self.seen) - 1

    def arrived(self, number: int, now: float) -> None:
        if number >= len(self.seen) or self._last is None:
            return
        if self.seen[number] < 255:
            self.seen[number] += 1
        self.heard = True
        if self.seen[number] == 1:
            self._gap = max(self._gap, now - self._last)
            self._last = now

    def settled(self, mark: float, now: float) -> bool:
        before = bisect_right(self.times, mark)
        while self._open < before and (self.seen[self._open] or now - self.times[self._open] > DATAGRAM_GRACE):
            self._open += 1
        return self._open >= before

    def flowing(self) -> bool:
        return any(self.seen[self._begin :])

    def reset(self, now: float) -> None:
        # On its way is what was sent after the newest that has come back: older ones were lost before, as a rule before the way was known.
        self._begin = max(bisect_right(self.times, now - DATAGRAM_GRACE), len(self.seen.rstrip(b"\0")))
        self._gap = 0.0

    def counts(self, now: float) -> Datagrams:
        part = self.seen[self._begin :]
        overdue = self.seen[self._begin : bisect_right(self.times, now - DATAGRAM_GRACE)]
        received = len(part) - part.count(0)
        gap = self._gap if self._last is None else max(self._gap, now - self._last)
        return Datagrams(
            sent=len(part),
            received=received,
            lost=overdue.count(0),
            duplicated=sum(part) - received,
            longest_gap_ms=milliseconds(gap),
        )


class Trials:
    """Things tried again and again, each of which ends well or not: a connection, its one exchange, its close."""

    def __init__(self) -> None:
        self.pending: dict[int, float] = {}
        self._next = 0
        self._opened = self._done = self._failed = 0
        self._slowest = self._gap = 0.0
        self._last: float | None = None

    def begin(self, now: float) -> int:
        if self._last is None:
            self._last = now
        self._opened += 1
        self._next += 1
        self.pending[self._next] = now
        return self._next

    def done(self, number: int, now: float) -> None:
        assert self._last is not None
        self._slowest = max(self._slowest, now - self.pending.pop(number))
        self._gap = max(self._gap, now - self._last)
        self._last = now
        self._done += 1

    def failed(self, number: int) -> None:
        del self.pending[number]
        self._failed += 1

    def settled(self, mark: float) -> bool:
        return all(began > mark for began in self.pending.values())

    def flowing(self) -> bool:
        return self._done > 0

    def reset(self) -> None:
        self._opened, self._done, self._failed = len(self.pending), 0, 0
        self._slowest = self._gap = 0.0

    def counts(self, now: float) -> Attempts:
        waiting = max((now - began for began in self.pending.values()), default=0.0)
        gap = self._gap if self._last is None else max(self._gap, now - self._last)
        return Attempts(
            opened=self._opened,
            done=self._done,
            failed=self._failed,
            slowest_ms=milliseconds(max(self._slowest, waiting)),
            longest_gap_ms=milliseconds(gap),
        )


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
