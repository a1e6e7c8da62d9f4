"""A thing that happens again and again, and can be waited for: `fire` wakes all who wait now, and is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pulse:
    """Waiters look at the world after each beat; no beat between looking and waiting is lost, since both are synchronous."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake everybody who waits."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next beat."""
        await self._event.wait()

    async def until(self, holds: Callable[[], bool], deadline: float, at_least_every: float = 0.25) -> bool:
        """Wait until something holds, looking after each beat; False when the deadline (seconds) has passed first."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        while not holds():
            left = end - loop.time()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, at_least_every)):
                    await self.wait()
            except TimeoutError:
                continue
        return True


async def woken(wake: asyncio.Event, seconds: float) -> None:
    """Wait until it is set, or that long; it is clear then: what sets it from here on wakes the next who waits."""
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()
