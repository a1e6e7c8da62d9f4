"""The audit log: one JSON line for each write that was asked for, granted or not, in `audit.log` of the state directory.

The line is on disk before the answer is on the wire. The file is opened for each line, so that it can be rotated by moving it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger("audit")


class Line(msgspec.Struct, frozen=True):
    """One write. `digest` is the SHA-256 of the body, `ids` the computes that it named, `revision` State's when it was answered."""

    when: str
    who: str
    source: str
    method: str
    path: str
    digest: str
    ids: Sequence[str]
    status: int
    revision: int


def now() -> str:
    """The time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class AuditLog:
    """The file, and how many lines could not be written."""

    def __init__(self, file: Path, clock: Callable[[], str] = now) -> None:
        self.file = file
        self.clock = clock
        self.lost = 0

    def append(self, line: Line) -> None:
        """Write a line. A disk that is full is said and counted; the write that it is about has been done."""
        try:
            handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.write(handle, msgspec.json.encode(line) + b"\n")
            finally:
                os.close(handle)
        except OSError as error:
            self.lost += 1
            log.error("audit_line_lost", reason=str(error), method=line.method, path=line.path, who=line.who)
