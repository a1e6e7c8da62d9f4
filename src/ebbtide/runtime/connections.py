"""The standing record of connections: which external port each connection through a NAT has, as the computes tell when they open one.

It is a log beside the store and not state: it is bounded, and may lose something (a packet-in that was dropped, a crash between two
writes, the bound). So it is never the only truth: a move compares it with the switch's counters, and what is missing counts as unknown.
Entries are keyed by router, protocol, remote end point and external port: a port given out anew takes its old entry's place.

A router's entries stand in the order in which they came, each protocol's for itself and those that are closed for themselves: what is over
stands in front, and nobody has to walk what is not. Whoever follows the record asks for what has changed (`Follower`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ebbtide.compile.features.nat import UDP, Translation
from ebbtide.runtime.record_log import Line, RecordLog, What

#: Entries kept, at most: the oldest of the router that has the most go, and count as unknown then.
MOST = 500_000
#: Seconds that an entry outlives a FIN or RST: the other direction may still be open, and a move reads what speaks by itself.
AFTER_CLOSE = 120
#: Seconds after which nothing is said to be open any more that was not seen again. TCP: conntrack's own limit for a silent connection; UDP,
#: which conntrack forgets after a minute or less: three of the turns in which it is seen again (`renewals.py`).
TCP_LIFE, UDP_LIFE = 86_400, 180
#: Changes of a router that are remembered, at most twice as many, for whoever follows it.
_REMEMBERED = 50_000
#: Times for which received records are counted, of a router and a compute, before the older ones are joined; and lines of a file for them.
_SECONDS, _COUNTS = 512, 96

_Key = tuple[int, int, int, int, int]  # protocol, remote address and port, external address and port


class Entry(NamedTuple):
    """One connection: what it was translated into, by which compute, and when (or seen again when); and when its end was seen, if."""

    translation: Translation
    compute: int
    opened: int
    closed: int = 0


class _OfRouter:
    """One router's."""

    def __init__(self) -> None:
        self.open: dict[int, dict[_Key, Entry]] = defaultdict(dict)
        self.closed: dict[_Key, Entry] = {}
        self.received: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.changes: list[Entry] = []
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self.closed) + sum(map(len, self.open.values()))

    def changed(self, entry: Entry) -> None:
        """An entry is new, or (its `closed` is set) is over."""
        self.changes.append(entry)
        if len(self.changes) > 2 * _REMEMBERED:
            del self.changes[:_REMEMBERED]
            self.forgotten += _REMEMBERED

    def find(self, key: _Key) -> Entry | None:
        return self.open[key[0]].get(key) or self.closed.get(key)

    def put(self, entry: Entry) -> int:
        """Returns how many entries there are more."""
        key, before = _key(entry.translation), len(self)
        gone = self.open[key[0]].pop(key, None)
        self.closed.pop(key, None)
        if gone is not None and (entry.closed or gone.translation != entry.translation):
            self.changed(gone._replace(closed=entry.closed or entry.opened))
        if entry.closed:
            self.closed[key] = entry
        else:
            self.open[key[0]][key] = entry
            if gone is None or gone.translation != entry.translation:
                self.changed(entry)
        return len(self) - before

    def expire(self, now: int) -> int:
        """Drop what is over; returns how many."""
        gone = _pop_older(self.closed, lambda e: now - e.closed > AFTER_CLOSE)
        for proto, entries in self.open.items():
            life = UDP_LIFE if proto == UDP else TCP_LIFE
            over = _pop_older(entries, lambda e: now - e.opened > life)  # noqa: B023 (asked at once)
            for entry in over:
                self.changed(entry._replace(closed=now))
            gone += over
        return len(gone)

    def drop(self, most: int, now: int) -> int:
        """Drop some of the oldest, closed ones first; returns how many were open still."""
        for key in list(self.closed)[:most]:
            most -= 1
            del self.closed[key]
        entries = max(self.open.values(), key=len, default={})
        dropped = list(entries)[:most]
        for key in dropped:
            self.changed(entries.pop(key)._replace(closed=now))
        return len(dropped)

    def count(self, compute: int, now: int) -> None:
        """One more record received: second by second, for a comparison with the switch's counter."""
        seconds = self.received[compute]
        if seconds and seconds[-1][0] == now:
            seconds[-1] = (now, seconds[-1][1] + 1)
        else:
            seconds.append((now, 1))
            if len(seconds) > _SECONDS:
                seconds[:] = _coarser(seconds, 16)

    def lines(self, tag: int) -> Iterator[Line]:
        """All that is worth keeping in a file, as it is now, whatever comes while it is written."""
        entries = [*self.closed.values(), *(e for entries in self.open.values() for e in entries.values())]
        return _as_lines(tag, entries, {compute: list(found) for compute, found in self.received.items()})


def _as_lines(tag: int, entries: list[Entry], counts: dict[int, list[tuple[int, int]]]) -> Iterator[Line]:
    for compute, found in counts.items():
        # How many were received, and when: or those that are over by now would be taken for unknown after a restart, and those from
        # before the switch began to count anew for what it has opened since.
        for when, count in _coarser(found, 4):
            yield Line(What.COUNTED, tag, compute, Translation(0, count, 0, 0, 0, 0, 0), when)
    for entry in entries:
        # Not as opened: it is counted already, or never was, and by whom and when it was opened is not always whom and when it tells.
        yield Line(What.SEEN, tag, entry.compute, entry.translation, entry.opened)
        if entry.closed:
            yield Line(What.CLOSED, tag, entry.compute, entry.translation, entry.closed)


def _coarser(seconds: list[tuple[int, int]], parts: int) -> list[tuple[int, int]]:
    """Counts, by second, as fewer: the longer ago, the more seconds are one; of each doubling of the age are so many `parts`, a power of 2.

    Whoever asks about a time in a part gets more than there was, at most what came in that part.
    """
    found, last = list[tuple[int, int]](), (-1, -1)
    for second, count in seconds:
        age = max(0, seconds[-1][0] - second)
        shift = max(0, age.bit_length() - parts.bit_length())
        cell = shift, age >> shift
        if cell == last:
            count += found.pop()[1]
        found.append((second, count))
        last = cell
    return found


def _pop_older(entries: dict[_Key, Entry], is_over: Callable[[Entry], bool]) -> list[Entry]:
    """Take what is over from the front, where the oldest stand."""
    gone = []
    for key, entry in entries.items():
        if not is_over(entry):
            break
        gone.append((key, entry))
    for key, _ in gone:
        del entries[key]
    return [entry for _, entry in gone]


class Connections:
    """All routers' connections, as far as they were told. `path` None: in memory only."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time, most: int = MOST) -> None:
        self._now, self._most = clock, most
        self._routers: dict[int, _OfRouter] = defaultdict(_OfRouter)
        self._count = 0
        self.lost = 0
        self._log = RecordLog(path)
        for line in self._log.read():
            self._take(line)

    def now(self) -> float:
        """The clock of the record: seconds since the epoch."""
        return self._now()

    def __len__(self) -> int:
        return self._count

    # --- told by switches ---

    def opened(self, tag: int, compute: int, known: Translation) -> None:
        """A compute has opened (or taken over) a connection for the router with this tag."""
        self.tell(What.OPENED, tag, compute, known)

    def closed(self, tag: int, compute: int, known: Translation) -> None:
        """A FIN or RST was seen."""
        self.tell(What.CLOSED, tag, compute, known)

    def seen(self, tag: int, compute: int, known: Translation) -> None:
        """A connection that was opened before, is in use: as opened now, and counted as no new one."""
        self.tell(What.SEEN, tag, compute, known)

    def tell(self, what: What, tag: int, compute: int, known: Translation) -> None:
        """Any of these."""
        line = Line(what, tag, compute, known, int(self._now()))
        if self._take(line):
            self._log.note(line)

    def _take(self, line: Line) -> bool:
        """Whether that was news."""
        router = self._routers[line.tag]
        if line.what is What.COUNTED:
            router.received[line.compute].append((line.when, line.translation.src))
            return True
        if line.what is What.CLOSED:
            entry = router.find(_key(line.translation))
            if entry is None or entry.closed:
                return False
            self._count += router.put(entry._replace(closed=line.when))
            return True
        self._count += router.put(Entry(line.translation, line.compute, line.when))
        if line.what is What.OPENED:
            router.count(line.compute, line.when)
        if self._count > self._most:
            self._make_room(line.when)
        return True

    def _make_room(self, now: int) -> None:
        largest = max(self._routers.values(), key=len)
        self._count -= largest.expire(now)
        if self._count > self._most:
            before = len(largest)
            self.lost += largest.drop(max(1, self._most // 1000), now)
            self._count -= before - len(largest)

    # --- asked by moves and those who follow ---

    def received(self, tag: int, compute: int, since: float) -> int:
        """Records received from a compute since then."""
        router = self._routers.get(tag)
        return sum(n for second, n in router.received.get(compute, ()) if second >= int(since)) if router else 0

    def of(self, tag: int) -> list[Entry]:
        """What may still be open of a router, the oldest first."""
        router = self._routers.get(tag)
        if router is None:
            return []
        self._count -= router.expire(int(self._now()))
        found = [*router.closed.values(), *(e for entries in router.open.values() for e in entries.values())]
        return sorted(found, key=lambda entry: entry.opened)

    def changes(self, tag: int, since: int) -> tuple[int, list[Entry] | None]:
        """What has become of a router's entries since an earlier answer's number (the first of both): those that are new, and those that
        are over, with `closed` set. None: more than is remembered; ask for all of them."""
        router = self._routers[tag]
        self._count -= router.expire(int(self._now()))
        end = router.forgotten + len(router.changes)
        return end, router.changes[since - router.forgotten :] if router.forgotten <= since <= end else None

    def tags(self) -> list[int]:
        """The routers of which something is recorded."""
        return list(self._routers)

    def forget(self, tag: int) -> None:
        """A router is gone."""
        self._count -= len(self._routers.pop(tag, ()))

    def flush(self) -> None:
        """To the file, what has not been written."""
        counts = sum(
            min(len(found), _COUNTS) for router in self._routers.values() for found in router.received.values()
        )
        # Of what is over there are two lines: that it was there, and that it ended.
        over = sum(len(router.closed) for router in self._routers.values())
        self._log.flush(self._count + over + counts, self._lines)

    def _lines(self) -> Iterator[Line]:
        for router in self._routers.values():
            self._count -= router.expire(int(self._now()))
        return chain.from_iterable([router.lines(tag) for tag, router in self._routers.items()])


class Follower:
    """What of a router's record is open and of some age (seconds), as it comes and goes."""

    def __init__(self, record: Connections, tag: int, age: float) -> None:
        self._record, self._tag, self._age = record, tag, age
        self._at = -1
        self._young: dict[_Key, Entry] = {}

    def look(self, held: Container[Translation] = ()) -> tuple[bool, list[Entry], list[Entry]]:
        """Whether this is all there is (the first time, or too much was missed); what is new, or all; and what is over.

        `held`: what whoever follows has already, whatever its age in the record: it may have been seen again a moment ago.
        """
        self._at, changes = self._record.changes(self._tag, self._at)
        if whole := changes is None:
            self._young = {_key(e.translation): e for e in self._record.of(self._tag) if not e.closed}
        over = []
        for entry in changes or ():
            key = _key(entry.translation)
            if not entry.closed:
                self._young[key] = entry
            elif self._young.pop(key, None) is None:
                over.append(entry)
        now = self._record.now()
        ripe = [e for e in self._young.values() if e.translation in held] if whole else []
        for entry in ripe:
            del self._young[_key(entry.translation)]
        ripe = _pop_older(self._young, lambda e: now - e.opened >= self._age) + ripe
        return whole, ripe, over


def _key(t: Translation) -> _Key:
    return t.proto, t.dst, t.dport, t.address, t.port


def newest(entries: Iterable[Translation]) -> list[Translation]:
    """Of connections that claim one external port towards one remote, the last: the port was given out anew since."""
    found: dict[_Key, Translation] = {}
    for t in entries:
        found[_key(t)] = t
    # And of two translations of one connection, the last.
    return list({t[:5]: t for t in found.values()}.values())
