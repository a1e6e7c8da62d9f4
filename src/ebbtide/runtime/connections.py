"""The standing record of connections: which external port each connection through a NAT has, as the computes tell when they open one.

It is a log beside the store and not state: it is bounded, append-only, and may lose something (a packet-in that was dropped, a crash
between two writes, the bound). So it is never the only truth: a move compares it with the counters of the switch, and what is missing
counts as unknown. Entries are keyed by router, protocol, remote end point and external port: a port given out anew takes its old entry's
place.

One file: 40 bytes an entry, a checksum in each; read at the start up to the first entry that is not whole, and written anew when more than
half of it is of the past. Times are seconds since the epoch, for they must mean the same after a restart.
"""

from __future__ import annotations

import os
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import structlog

from ebbtide.compile.features.nat import TCP, Translation

log = structlog.get_logger("connections")
_ENTRY = struct.Struct("!BBHIIHIHIHIIHI")
_OPENED, _CLOSED, _COUNTED = 1, 2, 3
#: Entries kept, at most: the oldest go, and count as unknown then.
MOST = 500_000
#: Seconds that an entry outlives a FIN or RST: the other direction may still be open, and a move reads what speaks by itself.
AFTER_CLOSE = 120
#: Seconds after which nothing is said to be open any more: conntrack's own limits for a connection that is silent.
TCP_LIFE, UDP_LIFE = 86_400, 180

_Key = tuple[int, int, int, int, int, int]  # router tag, protocol, remote address and port, external address and port


class Entry(NamedTuple):
    """One connection: what it was translated into, by which compute, when; and when its end was seen (0: it was not)."""

    translation: Translation
    compute: int
    opened: int
    closed: int = 0


class Connections:
    """All routers' connections, as far as they were told. `path` None: in memory only."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time, most: int = MOST) -> None:
        self._path, self._now, self._most = path, clock, most
        self._entries: dict[_Key, Entry] = {}
        self._by_router: dict[int, dict[_Key, None]] = defaultdict(dict)
        self._received: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        self._unwritten = bytearray()
        self._written = 0
        self.lost = 0
        if path is not None:
            self._read(path)

    def now(self) -> float:
        """The clock of the record: seconds since the epoch."""
        return self._now()

    def __len__(self) -> int:
        return len(self._entries)

    # --- told by switches ---

    def opened(self, tag: int, compute: int, known: Translation) -> None:
        """A compute has opened (or taken over) a connection for the router with this tag."""
        now = int(self._now())
        self._put(tag, Entry(known, compute, now))
        self._count(tag, compute, now)
        self._note(_OPENED, tag, compute, known, now)

    def closed(self, tag: int, compute: int, known: Translation) -> None:
        """A FIN or RST was seen."""
        entry = self._entries.get(_key(tag, known))
        if entry is not None and not entry.closed:
            now = int(self._now())
            self._put(tag, entry._replace(closed=now))
            self._note(_CLOSED, tag, compute, known, now)

    def _put(self, tag: int, entry: Entry) -> None:
        key = _key(tag, entry.translation)
        self._entries.pop(key, None)
        self._entries[key] = entry
        self._by_router[tag][key] = None
        if len(self._entries) > self._most:
            self._drop(next(iter(self._entries)))
            self.lost += 1

    def _drop(self, key: _Key) -> None:
        del self._entries[key]
        self._by_router[key[0]].pop(key, None)

    def _count(self, tag: int, compute: int, now: int) -> None:
        """One more record received: second by second, for a comparison with the switch's counter."""
        seconds = self._received[tag, compute]
        if seconds and seconds[-1][0] == now:
            seconds[-1] = (now, seconds[-1][1] + 1)
        else:
            seconds.append((now, 1))
            if len(seconds) > 4096:
                # The oldest half as one: whoever asks about a time in it gets more than there was, at most that much.
                head = seconds[:2048]
                seconds[:2048] = [(head[-1][0], sum(n for _, n in head))]

    # --- asked by moves ---

    def received(self, tag: int, compute: int, since: float) -> int:
        """Records received from a compute since then."""
        return sum(n for second, n in self._received.get((tag, compute), ()) if second >= int(since))

    def of(self, tag: int) -> list[Entry]:
        """What may still be open of a router, the oldest first."""
        now = int(self._now())
        keys = list(self._by_router.get(tag, ()))
        found = []
        for key in keys:
            entry = self._entries[key]
            life = TCP_LIFE if entry.translation.proto == TCP else UDP_LIFE
            over = entry.closed and now - entry.closed > AFTER_CLOSE
            if over or (entry.translation.proto == TCP and now - entry.opened > life):
                self._drop(key)
            else:
                found.append(entry)
        return sorted(found, key=lambda entry: entry.opened)

    def forget(self, tag: int) -> None:
        """A router is gone."""
        for key in list(self._by_router.pop(tag, ())):
            self._entries.pop(key, None)

    # --- the file ---

    def _note(self, kind: int, tag: int, compute: int, t: Translation, now: int) -> None:
        body = _ENTRY.pack(kind, t.proto, 0, tag, t.src, t.sport, t.dst, t.dport, t.address, t.port, compute, now, 0, 0)
        self._unwritten += body[:-4] + crc32(body[:-4]).to_bytes(4, "big")

    def flush(self) -> None:
        """Write what has not been written. A disk that is full loses records, not the controller."""
        if self._path is None or not self._unwritten:
            self._unwritten.clear()
            return
        data, self._unwritten = bytes(self._unwritten), bytearray()
        try:
            if self._written > 2 * len(self._entries) + 20_000:
                self._rewrite()
            else:
                with self._path.open("ab") as file:
                    file.write(data)
                self._written += len(data) // _ENTRY.size
        except OSError as error:
            log.error("record_not_written", path=str(self._path), reason=str(error))

    def _rewrite(self) -> None:
        assert self._path is not None
        fresh = self._path.with_suffix(".new")
        kept = bytearray()
        for (tag, compute), seconds in self._received.items():
            # How many were received, of which some are over by now: or they would be taken for unknown after a restart.
            of_entries = sum(e.compute == compute for e in map(self._entries.get, self._by_router.get(tag, ())) if e)
            more = sum(n for _, n in seconds) - of_entries
            if more > 0:
                self._unwritten = bytearray()
                self._note(_COUNTED, tag, compute, Translation(0, more, 0, 0, 0, 0, 0), seconds[-1][0])
                kept += self._unwritten
        for key, entry in self._entries.items():
            self._unwritten = bytearray()
            self._note(_OPENED, key[0], entry.compute, entry.translation, entry.opened)
            if entry.closed:
                self._note(_CLOSED, key[0], entry.compute, entry.translation, entry.closed)
            kept += self._unwritten
        self._unwritten = bytearray()
        fresh.write_bytes(kept)
        os.replace(fresh, self._path)
        self._written = len(kept) // _ENTRY.size

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        whole = 0
        for at in range(0, len(data) - _ENTRY.size + 1, _ENTRY.size):
            raw = data[at : at + _ENTRY.size]
            if crc32(raw[:-4]).to_bytes(4, "big") != raw[-4:]:
                break
            whole = at + _ENTRY.size
            kind, proto, _, tag, src, sport, dst, dport, address, port, compute, when, _, _ = _ENTRY.unpack(raw)
            known = Translation(proto, src, sport, dst, dport, address, port)
            if kind == _OPENED:
                self._put(tag, Entry(known, compute, when))
                self._count(tag, compute, when)
            elif kind == _COUNTED:
                self._received[tag, compute].append((when, src))
            elif (entry := self._entries.get(_key(tag, known))) is not None:
                self._put(tag, entry._replace(closed=when))
        if whole != len(data):
            # The end of a write that was cut short; what would be appended behind it could not be read any more.
            log.warning("record_cut", path=str(path), bytes=len(data) - whole)
            os.truncate(path, whole)
        self._written = whole // _ENTRY.size


def _key(tag: int, t: Translation) -> _Key:
    return tag, t.proto, t.dst, t.dport, t.address, t.port


def newest(entries: Iterable[Translation]) -> list[Translation]:
    """Of connections that claim one external port towards one remote, the last: the port was given out anew since."""
    found: dict[tuple[int, int, int, int, int], Translation] = {}
    for t in entries:
        found[t.proto, t.dst, t.dport, t.address, t.port] = t
    # And of two translations of one connection, the last.
    return list({t[:5]: t for t in found.values()}.values())
