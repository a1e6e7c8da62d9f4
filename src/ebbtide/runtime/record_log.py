"""The file of the standing record: 40 bytes an entry, appended, each with a checksum.

What is of the past is left behind a part at a time: a second file takes what is new while the first is written anew, some thousands of
entries at each flush, for a controller that writes a whole record at once does not hear who has died meanwhile. At the start the first file
is read, then the second, unless their generations say that it is in the first already; an entry that is not whole ends a file. Times are
seconds since the epoch: they must mean the same after a restart.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import structlog

from ebbtide.compile.features.nat import Translation

log = structlog.get_logger("connections")
_LINE = struct.Struct("!BBHIIHIHIHIIHI")
#: Lines written at each flush, at least, while a file is written anew; and how many may be of the past before that begins.
_SLICE, _PAST = 5_000, 20_000


class What(IntEnum):
    """What a line says."""

    OPENED = 1
    CLOSED = 2
    COUNTED = 3  # so many records have come from this compute, besides those of which there is a line
    SEEN = 4
    GENERATION = 5  # the first line of a file; in the place of the VM's address


_NOBODY = Translation(0, 0, 0, 0, 0, 0, 0)


class Line(NamedTuple):
    """One line. `tag`: the router's; `when`: seconds since the epoch. A count is in the place of the VM's address."""

    what: What
    tag: int
    compute: int
    translation: Translation
    when: int

    def encode(self) -> bytes:
        """As bytes, with its checksum."""
        t = self.translation
        body = _LINE.pack(
            *(self.what, t.proto, 0, self.tag, t.src, t.sport, t.dst, t.dport, t.address, t.port),
            *(self.compute, self.when, 0, 0),
        )[:-4]
        return body + crc32(body).to_bytes(4, "big")


class RecordLog:
    """The two files. `path` None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._unwritten = bytearray()
        self._lines = self._generation = 0
        self._split = False
        self._anew: Iterator[Line] | None = None
        #: Bytes of the second file that `_anew` tells as well.
        self._told = 0

    @property
    def _next(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".next")

    @property
    def _fresh(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".new")

    def read(self) -> Iterator[Line]:
        """What is there, in the order in which it was written."""
        if self._path is None:
            return
        self._fresh.unlink(missing_ok=True)
        self._generation, lines = self._read(self._path)
        yield from lines
        generation, lines = self._read(self._next)
        if generation > self._generation:
            self._split = True
            yield from lines
        else:
            self._next.unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[int, list[Line]]:
        """Its generation, and its lines."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return 0, []
        generation, found, whole = 0, [], 0
        for at in range(0, len(data) - _LINE.size + 1, _LINE.size):
            line = _decode(data[at : at + _LINE.size])
            if line is None:
                break
            whole = at + _LINE.size
            if line.what is What.GENERATION:
                generation = line.translation.src
            else:
                found.append(line)
        if whole != len(data):
            # The end of a write that was cut short; what would be appended behind it could not be read any more.
            log.warning("record_cut", path=str(path), bytes=len(data) - whole)
            os.truncate(path, whole)
        self._lines += len(found)
        return generation, found

    def note(self, line: Line) -> None:
        """To be written with the next flush."""
        if self._path is not None:
            self._unwritten += line.encode()

    def flush(self, worth: int, anew: Callable[[], Iterator[Line]]) -> None:
        """Write what has not been written. A disk that is full loses records, not the controller.

        `worth`: how many lines are worth keeping; `anew`: those, asked for when too many of the file are of
        the past.
        """
        if self._path is None:
            return
        try:
            self._append()
            if self._anew is not None:
                self._go_on(self._anew, max(_SLICE, worth // 20))
            elif self._split or self._lines > 2 * worth + _PAST:
                self._begin(anew())
        except OSError as error:
            self._anew = None  # what of it was not written would be missing
            log.error("record_not_written", path=str(self._path), reason=str(error))

    def _append(self) -> None:
        if self._unwritten:
            data, self._unwritten = bytes(self._unwritten), bytearray()
            self._lines += len(data) // _LINE.size
            self._write(self._next if self._split else self._path, data)

    def _begin(self, anew: Iterator[Line]) -> None:
        head = Line(What.GENERATION, 0, 0, _NOBODY._replace(src=self._generation + 1), 0).encode()
        self._fresh.write_bytes(head)
        if not self._split:
            self._next.write_bytes(head)
        self._told = self._next.stat().st_size
        self._split, self._anew, self._lines = True, anew, 0

    def _go_on(self, anew: Iterator[Line], most: int) -> None:
        assert self._path is not None
        part = b"".join(line.encode() for line in islice(anew, most))
        self._lines += len(part) // _LINE.size
        if part:
            self._write(self._fresh, part)
            return
        self._anew = None
        self._write(self._fresh, self._next.read_bytes()[self._told :])
        os.replace(self._fresh, self._path)
        # From here on what the second file says is in the first, of the same generation.
        self._generation += 1
        self._split = False
        self._next.unlink()

    @staticmethod
    def _write(path: Path | None, data: bytes) -> None:
        assert path is not None
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(data) != len(data):
                    raise OSError(f"only a part of {len(data)} bytes was written")
            except OSError:
                os.truncate(path, size)  # or nobody could read what comes behind
                raise


def _decode(raw: bytes) -> Line | None:
    """A line, or None for what is not whole or not of this program."""
    if crc32(raw[:-4]).to_bytes(4, "big") != raw[-4:]:
        return None
    kind, proto, _, tag, src, sport, dst, dport, address, port, compute, when, _, _ = _LINE.unpack(raw)
    known = Translation(proto, src, sport, dst, dport, address, port)
    return Line(What(kind), tag, compute, known, when) if kind in set(What) else None
