"""A process that is told what to do by lines on its standard input, and answers each with one line.

Its own process, so that the test's work does not delay what it measures. Its input ends with us, and it
ends with its input: so it does not outlive a caller that was killed.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Sequence

from ..errors import NotReady, Unexpected


class Worker:
    """A handle on one. `name` is for messages."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._heard = b""

    def ask(self, line: bytes, deadline: float = 30.0) -> bytes:
        """The line that answers this one."""
        self.tell(line)
        return self.hear(deadline)

    def tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def hear(self, deadline: float = 30.0) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        readable = select.poll()
        readable.register(descriptor, select.POLLIN)
        end = time.monotonic() + deadline
        while b"\n" not in self._heard:
            if not readable.poll(max(0.0, end - time.monotonic()) * 1000):
                raise NotReady(f"{self.name} has not answered in {deadline:g} s; its words are on standard error")
            piece = os.read(descriptor, 1 << 20)
            if not piece:
                raise self._ended()
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def close(self) -> None:
        """Its input ends, and so should it; it is made to after a while."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended before us
        process.stdout.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ended(self) -> Unexpected:
        return Unexpected(f"{self.name} ended by itself, with {self._exit_code()}; its words are on standard error")

    def _exit_code(self) -> int | str:
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "its output closed and no exit"
