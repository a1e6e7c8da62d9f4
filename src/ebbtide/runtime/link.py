"""One OVSDB connection under asyncio: bytes between a socket and a `ovsdb.Session`, one future per request.

The owner gets every event that answers no request by `on_event`, in order, before the next bytes are read. A link ends when
the peer closes, breaks the protocol, or stops answering echoes; then every request still open fails with `LinkLost`, which
means "nobody knows whether it was done".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from hashlib import sha256

from ebbtide.errors import NotReady, ProtocolError
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.framing import DEFAULT_LIMIT
from ebbtide.ovsdb.replica import Replica
from ebbtide.ovsdb.schema import DatabaseSchema
from ebbtide.ovsdb.session import Session, State
from ebbtide.ovsdb.transaction import Outcome, Transaction

READ_BYTES = 1 << 20
#: Seconds of silence after which the far end is asked whether it is there, and for which its answer is waited for.
PROBE = 5.0
#: Seconds that a peer has to answer a request.
DEADLINE = 30.0


class LinkLost(NotReady):
    """The connection is gone."""


def certificate_of(writer: asyncio.StreamWriter) -> str:
    """SHA-256 of the peer's certificate, in hex; "" without TLS."""
    tls = writer.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    return sha256(shown).hexdigest() if shown else ""


def let_go(writer: asyncio.StreamWriter) -> None:
    """Close a connection; at once where something is still to be sent: a peer that does not read would keep it for a quarter of an hour."""
    if writer.is_closing():
        return
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()
    else:
        writer.close()


def no_delay(writer: asyncio.StreamWriter) -> None:
    """Send small messages at once. asyncio sees to that only where the listening socket was made with the protocol's number; otherwise
    each second one waits for the peer's delayed acknowledgement, 40 ms."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class OvsdbLink:
    """A session and its socket. `run` owns the reading; requests may be made from any task of the same loop."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[ev.Event], None],
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        no_delay(writer)
        self.session = Session(limit=limit)
        self.peer = writer.get_extra_info("peername")
        self.local = writer.get_extra_info("sockname")
        self.certificate = certificate_of(writer)
        self.lost = asyncio.Event()
        self.reason = ""
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._waiting: dict[int, asyncio.Future[ev.Event]] = {}
        self._heard = True

    async def run(self) -> None:
        """Read until the connection ends; says why in `reason`."""
        prober = asyncio.create_task(self._probing())
        try:
            while data := await self._reader.read(READ_BYTES):
                self._heard = True
                for event in self.session.receive(data):
                    self._deliver(event)
                self._flush()
                await self._writer.drain()
            self.reason = self.reason or "closed by the peer"
        except (ProtocolError, OSError) as error:
            self.reason = self.reason or str(error) or type(error).__name__
        finally:
            prober.cancel()
            self._end()

    def close(self, reason: str) -> None:
        """End the connection from our side."""
        self.reason = self.reason or reason
        let_go(self._writer)

    def _end(self) -> None:
        if self.session.state is State.OPEN:
            self.session.receive_eof()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkLost(f"connection lost: {self.reason or 'closed'}"))
                future.exception()  # it may have been abandoned; that is no news
        self._waiting.clear()
        self.lost.set()
        let_go(self._writer)

    async def _probing(self) -> None:
        while True:
            await asyncio.sleep(PROBE)
            if not self._heard:
                self.close(f"no answer for {2 * PROBE:.0f} s")
                # What is still unsent to a peer that does not read would hold a closed connection open for ever.
                self._writer.transport.abort()
                return
            self._heard = False
            if self.session.state is State.OPEN:
                self.session.echo()
                self._flush()

    def _deliver(self, event: ev.Event) -> None:
        if isinstance(event, ev.Synced):
            self._on_event(event)
        if isinstance(event, ev.Answer):
            future = self._waiting.pop(event.request, None)
            if future is not None and not future.done():
                future.set_result(event)
        elif isinstance(event, ev.Broken):
            raise event.error
        else:
            self._on_event(event)

    def _flush(self) -> None:
        data = self.session.data_to_send()
        if data and not self._writer.is_closing():
            self._writer.write(data)

    async def _ask(self, request: int) -> ev.Event:
        future: asyncio.Future[ev.Event] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        self._flush()
        try:
            async with asyncio.timeout(DEADLINE):
                return await future
        except TimeoutError:
            self._waiting.pop(request, None)
            self.close(f"no answer to a request for {DEADLINE:.0f} s")
            self._writer.transport.abort()
            raise LinkLost(self.reason) from None

    def _open(self) -> Session:
        if self.session.state is not State.OPEN or self.lost.is_set():
            raise LinkLost(f"connection lost: {self.reason or 'closed'}")
        return self.session

    async def schema(self, database: str) -> DatabaseSchema:
        """The schema of a database.

        Raises:
            LinkLost: the connection is gone, or the server does not serve this database.
        """
        answer = await self._ask(self._open().get_schema(database))
        if isinstance(answer, ev.SchemaReceived):
            return answer.schema
        raise LinkLost(f"the server has no database {database}: {answer}")

    async def monitor(self, replica: Replica) -> None:
        """Keep the replica in step; its first changes have been given to `on_event` when this returns."""
        answer = await self._ask(self._open().monitor(replica))
        if not isinstance(answer, ev.Synced):
            raise LinkLost(f"monitor refused: {answer}")

    async def transact(self, transaction: Transaction) -> Outcome:
        """Carry out a transaction. Its updates have been given to `on_event` when this returns.

        Raises:
            LinkLost: the outcome is unknown.
        """
        answer = await self._ask(self._open().transact(transaction))
        assert isinstance(answer, ev.Transacted), answer
        return answer.outcome

    async def lock(self, name: str) -> bool:
        """Ask for a lock; whether it is ours at once."""
        answer = await self._ask(self._open().lock(name))
        return isinstance(answer, ev.LockAnswered) and answer.held
