"""Processes that end when they are to end, and whether one is there."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Whoever has started this process is killed: so is this one, and nothing is left behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def died(pid: int, deadline: float = 5.0) -> bool:
    """SIGKILL to a process that need not be a child, and whether it is gone. Nothing else is done meanwhile."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        try:
            # After the name, which may hold anything: the state. A zombie has closed all that it had open.
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
    return False


async def until_listening(path: Path) -> None:
    """Until somebody accepts connections at a unix socket."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(0.002)
                continue
            writer.close()
            return
