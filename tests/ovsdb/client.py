"""A driver of `ebbtide.ovsdb.Session` over asyncio: all that the protocol package leaves out.

One task reads; answers go to the future of their request, everything else to `on_event` and the list `events`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from ebbtide.errors import EbbtideError
from ebbtide.ovsdb import DatabaseSchema, Outcome, Replica, Session, Transaction
from ebbtide.ovsdb import events as ev


class Client:
    """One connection to "unix:PATH" or "tcp:HOST:PORT"."""

    def __init__(self, remote: str, session: Session | None = None) -> None:
        self.remote = remote
        self.session = session or Session()
        self.events: list[ev.Event] = []
        self.on_event: Callable[[ev.Event], None] = self.events.append
        self._waiting: dict[int, asyncio.Future[ev.Answer]] = {}
        self._moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self.remote.startswith("unix:"):
            self._reader, self._writer = await asyncio.open_unix_connection(self.remote[5:])
        else:
            host, port = self.remote.removeprefix("tcp:").rsplit(":", 1)
            self._reader, self._writer = await asyncio.open_connection(host, int(port))
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(262144):
                for event in self.session.receive(data):
                    future = self._waiting.pop(event.request, None) if isinstance(event, ev.Answer) else None
                    if future is not None and not future.done():
                        future.set_result(event)
                    else:
                        self.on_event(event)
                self.flush()
                self._moved.set()
        except (EbbtideError, OSError):
            pass
        finally:
            self.session.receive_eof()
            for future in self._waiting.values():
                future.cancel()
            self._moved.set()

    def flush(self) -> None:
        """Send what the session has for the peer."""
        self._writer.write(self.session.data_to_send())

    async def ask(self, request: int) -> Any:
        """Wait for the answer to a request of the session."""
        self._waiting[request] = future = asyncio.get_running_loop().create_future()
        self.flush()
        return await asyncio.wait_for(future, 20)

    async def schema(self, database: str) -> DatabaseSchema:
        """get_schema."""
        return (await self.ask(self.session.get_schema(database))).schema

    async def transact(self, transaction: Transaction) -> Outcome:
        """transact."""
        return (await self.ask(self.session.transact(transaction))).outcome

    async def monitor(self, replica: Replica) -> ev.Synced:
        """monitor."""
        return await self.ask(self.session.monitor(replica))

    async def until(self, condition: Callable[[], object], deadline: float = 20) -> None:
        """Wait for bytes until `condition` holds."""
        async with asyncio.timeout(deadline):
            while not condition():
                self._moved.clear()
                if self._task.done():
                    raise ConnectionError("the connection ended")
                await self._moved.wait()
