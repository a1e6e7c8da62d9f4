"""Turns: so many work at the same time, in the order in which they came. Who waits for something else gives its turn back meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class Turns:
    """All turns: `at_once` of them."""

    def __init__(self, at_once: int) -> None:
        self._free = asyncio.Semaphore(at_once)

    def turn(self, queued: Callable[[bool], Awaitable[None]]) -> Turn:
        """For one who will have turns; not taken yet. `queued(True)` is called when it has to wait for one, `queued(False)` when that is
        over."""
        return Turn(self._free, queued)


class Turn:
    """The turn of one: it has it, or not."""

    def __init__(self, free: asyncio.Semaphore, queued: Callable[[bool], Awaitable[None]]) -> None:
        self._free = free
        self._queued = queued
        self._held = False

    async def take(self, *, told: bool = True) -> None:
        """Have it, behind all who wait for theirs; at once, if it has it already. `told`: `queued` is called if it has to wait."""
        if self._held:
            return
        waits = told and self._free.locked()
        if waits:
            await self._queued(True)
        await self._free.acquire()
        self._held = True
        if waits:
            await self._queued(False)

    def give_back(self) -> None:
        """Let another have it; again is no harm."""
        if self._held:
            self._held = False
            self._free.release()

    @asynccontextmanager
    async def given_back(self, after: float = 0.0) -> AsyncIterator[None]:
        """Inside, it is given back once that has lasted for `after` seconds, and taken again at the end. Where the inside fails or is
        cancelled, it stays as it is then."""
        timer = asyncio.get_running_loop().call_later(after, self.give_back)
        try:
            yield
        finally:
            timer.cancel()
        await self.take()
