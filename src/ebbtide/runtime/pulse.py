"""A thing that happens again and again, and can be waited for: `fire` wakes those whose wait is over, and is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pulse:
    """Waiters look at the world after each beat; no beat between looking and waiting is lost, since both are synchronous.

    What they look for is looked at here, once for all beats of one turn of the loop. To wake a dozen of tasks at each beat, most of whom
    went to sleep again, was a tenth of what a port of Neutron's costs (`bench neutron`).
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._looks = False

    def fire(self) -> None:
        """Have everybody who waits look."""
        if self._waiting and not self._looks:
            self._looks = True
            next(iter(self._waiting)).get_loop().call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        for future, holds in list(self._waiting.items()):
            if future.done():
                continue
            try:
                if holds():
                    future.set_result(None)
            except Exception as error:
                future.set_exception(error)

    async def wait(self) -> None:
        """Until the next beat."""
        await self._next(lambda: True, float("inf"))

    async def until(self, holds: Callable[[], bool], deadline: float, at_least_every: float = 0.25) -> bool:
        """Wait until something holds, looking after each beat; False when the deadline (seconds) has passed first."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline
        while not holds():
            left = end - loop.time()
            if left <= 0:
                return False
            await self._next(holds, min(left, at_least_every))
        return True

    async def _next(self, holds: Callable[[], bool], seconds: float) -> None:
        """Until a beat after which something holds, or that long."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting[future] = holds
        timer = loop.call_later(seconds, _wake, future) if seconds < float("inf") else None
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            del self._waiting[future]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def woken(wake: asyncio.Event, seconds: float) -> None:
    """Wait until it is set, or that long; it is clear then: what sets it from here on wakes the next who waits."""
    try:
        async with asyncio.timeout(seconds):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()
