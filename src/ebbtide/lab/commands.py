"""Running a command to its end, and waiting for a condition: both with a deadline, both saying what went wrong."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from ..errors import NotReady, Unexpected


class CommandFailed(Unexpected):
    """A command of the lab ended with an error. Its own words are in `stderr`."""

    def __init__(self, command: Sequence[str], code: int, stderr: str) -> None:
        super().__init__(f"`{' '.join(command)}` failed with {code}: {stderr.strip() or 'no word of why'}")
        self.command = tuple(command)
        self.code = code
        self.stderr = stderr


def run(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    deadline: float = 30.0,
) -> str:
    """The command's output. Raises CommandFailed, or NotReady when it does not end in `deadline` seconds."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=None if env is None else dict(env),
            timeout=deadline,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotReady(f"`{' '.join(command)}` did not end in {deadline:g} s") from error
    except FileNotFoundError as error:
        raise NotReady(
            f"`{command[0]}` is not installed; the lab needs iproute2, util-linux and Open vSwitch"
        ) from error
    if done.returncode != 0:
        raise CommandFailed(command, done.returncode, done.stderr)
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str, deadline: float = 10.0, every: float = 0.02) -> None:
    """Ask until the condition holds. NotReady, naming `what`, when it does not in `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() >= end:
            raise NotReady(f"waited {deadline:g} s in vain for {what}")
        time.sleep(every)
