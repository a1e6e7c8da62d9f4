"""Processes of a lab: which are ours, what they use, and how they end.

A pid is only a number that the kernel gives to others later. So a process is ours when it is recorded
in a pid file *and* its command line names the lab's directory, or when it lives in one of the lab's
namespaces. Nothing else is ever signalled.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

from .commands import wait_until
from .namespace import path_of

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """What a process, or several together, have used. Seconds of processor time, bytes of resident memory."""

    cpu_seconds: float
    rss_bytes: int

    def plus(self, other: Usage) -> Usage:
        return Usage(self.cpu_seconds + other.cpu_seconds, self.rss_bytes + other.rss_bytes)


def pid_in(pidfile: Path, directory: Path) -> int | None:
    """The pid in the file, if such a process runs and its command line names the lab's directory."""
    try:
        pid = int(pidfile.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None
    return pid if names_directory(pid, directory) else None


def names_directory(pid: int, directory: Path) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A trailing slash, so that lab "a" does not take the processes of lab "ab" for its own.
    return os.fsencode(directory) + b"/" in arguments or any(
        argument == os.fsencode(directory) for argument in arguments.split(b"\0")
    )


def pids_in_namespaces(names: list[str]) -> list[int]:
    """Processes whose main thread lives in one of these namespaces. Ourselves and our ancestors excepted."""
    wanted = set()
    for name in names:
        try:
            found = path_of(name).stat()
        except FileNotFoundError:
            continue
        wanted.add((found.st_dev, found.st_ino))
    if not wanted:
        return []
    family = _ancestors()
    pids = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in family:
            continue
        try:
            where = os.stat(f"/proc/{entry}/ns/net")
        except OSError:  # gone meanwhile, or a zombie
            continue
        if (where.st_dev, where.st_ino) in wanted:
            pids.append(int(entry))
    return pids


def _ancestors() -> set[int]:
    family, pid = set(), os.getpid()
    while pid > 0:
        family.add(pid)
        stat = _stat(pid)
        if stat is None:
            break
        pid = int(stat[1])
    return family


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, ... None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def is_running(pid: int) -> bool:
    """A zombie does not run: it holds no memory, port or file. One whose other threads still end holds them all."""
    stat = _stat(pid)
    if stat is None:
        return False
    return stat[0] not in ("Z", "X") or _threads(pid) > 1


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def is_stopped(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat[0] == "T"


def usage_of(pid: int) -> Usage:
    stat = _stat(pid)
    if stat is None:
        return Usage(0.0, 0)
    # proc(5): utime and stime are fields 14 and 15, rss is 24; `stat` begins with field 3.
    return Usage((int(stat[11]) + int(stat[12])) / _TICKS, int(stat[21]) * _PAGE)


def send_signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it ended by itself: as wanted


def session_of(pid: int) -> int:
    """The session that a process is in; 0: it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def kill(pids: list[int], deadline: float = 5.0) -> None:
    """End them at once, as a power cut would, and wait until they are gone."""
    for pid in pids:
        send_signal(pid, signal.SIGKILL)
    if pids:
        wait_until(lambda: not any(map(is_running, pids)), f"the end of processes {pids}", deadline)
