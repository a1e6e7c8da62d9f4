"""Who asks, by the lport in the address that the agent sees: asked of the controller, and remembered for a while.

What is known is used unasked for some seconds, and while the controller cannot be asked for some minutes: its restart is not noticed. An
lport comes round to another port only after a million others, so what is remembered is never another VM's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from ebbtide.agent.headers import Asker
from ebbtide.errors import EbbtideError, NotReady

#: Seconds for which a port is known without asking again; one that is none, or nobody's; and one while nobody can be asked.
FRESH, UNKNOWN, STALE = 10.0, 1.0, 300.0
_MOST = 8192
log = structlog.get_logger("metadata")


class Askers:
    """`ask(lport)` gives the port as the REST interface shows it, None: there is none; it may raise any EbbtideError. `now`: seconds."""

    def __init__(self, ask: Callable[[int], Awaitable[Mapping[str, Any] | None]], now: Callable[[], float]) -> None:
        self._ask, self._now = ask, now
        self._known: dict[int, tuple[float, Asker | None]] = {}
        self._asking: dict[int, asyncio.Task[Asker | None]] = {}
        self._away = False

    async def who(self, lport: int) -> Asker | None:
        """The port with that lport; None: there is none, or it is no instance's.

        Raises:
            NotReady: the controller cannot be asked, and it is not known from before.
        """
        at, found = self._known.get(lport, (float("-inf"), None))
        age = self._now() - at
        if age < (FRESH if found is not None else UNKNOWN):
            return found
        task = self._asking.get(lport)
        if task is None:
            task = self._asking[lport] = asyncio.create_task(self._fetch(lport))
            task.add_done_callback(lambda done: self._asked(lport, done))
        try:
            return await asyncio.shield(task)
        except EbbtideError as error:
            if found is not None and age < STALE:
                return found
            raise NotReady(f"the controller cannot be asked: {error}") from None

    def _asked(self, lport: int, done: asyncio.Task[Asker | None]) -> None:
        del self._asking[lport]
        error = done.exception() if not done.cancelled() else None
        if (error is not None) != self._away and not done.cancelled():
            self._away = error is not None
            log.warning("controller_away", reason=str(error)) if error is not None else log.info("controller_back")

    async def _fetch(self, lport: int) -> Asker | None:
        shown = await self._ask(lport)
        found = _asker(shown) if shown is not None else None
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[lport] = self._now(), found
        return found


def _asker(shown: Mapping[str, Any]) -> Asker | None:
    if not shown.get("device"):
        return None
    addresses = [str(address) for address in shown.get("addresses", ())]
    first = next((a for a in addresses if ":" not in a), addresses[0] if addresses else "")
    return Asker(str(shown["id"]), first, str(shown["device"]), str(shown.get("project", "")))
