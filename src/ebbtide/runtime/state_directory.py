"""The state directory, and who has it: one controller at a time.

Two would start, convert and end one private store, each by its own lights. The lock is the kernel's (flock(2)), so it ends with the
process that has it, however that ends. What is in the file is for the message only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from ebbtide.errors import BadInput


class StateDirectory:
    """`path`, made if it is not there, with `controller.lock` in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._lock is not None

    def hold(self) -> None:
        """Make it ours.

        Raises:
            BadInput: another controller has it.
            OSError: it cannot be made or written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / "controller.lock", os.O_RDWR | os.O_CREAT, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
            os.close(lock)
            who = f" (process {pid})" if pid else ""
            raise BadInput(
                f"state_dir = '{self.path}' is in use by another controller{who}: stop that one, or give this one a directory "
                "of its own",
                "state_dir",
            ) from None
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        with contextlib.suppress(OSError):  # a full disk must not keep a controller from its start
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def leave(self) -> None:
        """Let others have it; again is no harm."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
