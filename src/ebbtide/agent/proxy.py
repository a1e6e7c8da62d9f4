"""HTTP/1.1 from VMs to the backend. What a guest sends may be anything, and as slow and as often as it likes: every wait has a deadline,
everything that is kept a bound, and one VM cannot take what others need.

A request is read whole before anybody else is asked; an answer passes piece by piece, at the speed of whoever is slower.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

import h11
import structlog

from ebbtide.agent import headers
from ebbtide.agent.askers import Askers
from ebbtide.agent.headers import Asker
from ebbtide.compile import ledger
from ebbtide.errors import NotReady

log = structlog.get_logger("metadata")
_PIECE = 65_536
#: Seconds for which a guest that was refused may still send.
_LINGER = 2.0


class Limits(NamedTuple):
    """Connections at once (each has one more to the backend, and a process has 1,024 descriptors), and of one VM; bytes of a request's head
    and of its body; seconds: for a request to arrive, for the backend to be reached, for its answer to begin, for each piece of it to come
    and to go, and for all of it."""

    connections: int = 400
    of_one: int = 32
    head: int = 16_384
    body: int = 65_536
    request: float = 15.0
    connect: float = 5.0
    answer: float = 60.0
    piece: float = 30.0
    whole: float = 300.0


_LIMITS = Limits()


class Backend(NamedTuple):
    """Where requests go, and the secret that is shared with it."""

    host: str
    port: int
    secret: bytes
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """As it stands in a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Refused(Exception):
    """An answer of our own. `status` of HTTP, and words for who reads them in the guest. Nothing more is read from that connection."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


class _Cut(Exception):
    """The answer cannot be brought to its end: the guest sees that by the connection's."""


def lport_of(address: str) -> int:
    """The logical port that an address stands for; 0: none."""
    value = int(IPv4Address(address))
    return value & ~ledger.AGENT_MASK if value & ledger.AGENT_MASK == ledger.AGENT_PREFIX else 0


class Proxy:
    """All connections of an agent. `known_as`: the lport for an address that a connection comes from (0: none)."""

    def __init__(
        self,
        askers: Askers,
        backend: Backend,
        limits: Limits = _LIMITS,
        known_as: Callable[[str], int] = lport_of,
    ) -> None:
        self._askers, self._backend, self._limits, self._known_as = askers, backend, limits, known_as
        self._open: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, from its beginning to its end: what asyncio.start_server calls."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = writer.get_extra_info("peername")
        lport = self._known_as(peer[0]) if peer else 0
        try:
            if self._open.total() < self._limits.connections and self._open[lport] < self._limits.of_one:
                self._open[lport] += 1
                try:
                    await self._serve(lport, reader, writer)
                finally:
                    self._open[lport] -= 1
                    self._open += Counter()  # forgets who has none
        except (_Cut, OSError, TimeoutError, h11.ProtocolError):
            # Reset and not closed: where an answer's end is the connection's, half of it would pass for all.
            own = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()  # by `close`: nobody waits for this task, and asyncio calls a cancelled one a fault
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, lport: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = _Guest(reader, writer, self._limits)
        while True:
            try:
                found = await guest.request()
                if found is None:
                    return
                async with asyncio.timeout(self._limits.whole):
                    await self._answer(lport, guest, *found)
            except _Refused as error:
                await guest.refuse(error.status, error.words)
                return
            except h11.RemoteProtocolError as error:
                await guest.refuse(error.error_status_hint, "this is not HTTP as RFC 9112 has it")
                return
            if not guest.again():
                return

    async def _answer(self, lport: int, guest: _Guest, request: h11.Request, body: bytes) -> None:
        path = headers.path_of(request.target)
        if path is None:
            raise _Refused(400, "a path is wanted, as in http://169.254.169.254/openstack")
        try:
            asker = await self._askers.who(lport) if lport else None
        except NotReady:
            raise _Refused(503, "who asks cannot be found out now; try again") from None
        if asker is None:
            raise _Refused(404, "no instance is known to have this port")
        log.debug("asked", port=asker.port, method=request.method.decode(), path=path.decode("ascii", "replace"))
        backend = await self._reach(asker)
        try:
            await self._relay(backend, asker, guest, request, path, body)
        finally:
            backend.writer.transport.abort()

    async def _reach(self, asker: Asker) -> _Far:
        own = self._backend
        try:
            async with asyncio.timeout(self._limits.connect):
                reader, writer = await asyncio.open_connection(own.host, own.port, ssl=own.tls, limit=_PIECE)
        except TimeoutError:
            log.warning("backend_silent", backend=own.authority, port=asker.port)
            raise _Refused(504, "the metadata service does not answer; try again") from None
        except OSError as error:
            log.warning("backend_away", backend=own.authority, port=asker.port, reason=str(error))
            raise _Refused(502, "the metadata service cannot be reached; try again") from None
        return _Far(reader, writer, h11.Connection(h11.CLIENT, max_incomplete_event_size=_PIECE))

    async def _relay(
        self, far: _Far, asker: Asker, guest: _Guest, request: h11.Request, path: bytes, body: bytes
    ) -> None:
        own, limits = self._backend, self._limits
        asked = headers.to_backend(request.headers, asker, own.secret, own.authority, body)
        try:
            async with asyncio.timeout(limits.answer):
                await far.send(h11.Request(method=request.method, target=path, headers=asked))
                if body:
                    await far.send(h11.Data(data=body))
                await far.send(h11.EndOfMessage())
                event = await far.next()
                while isinstance(event, h11.InformationalResponse):
                    event = await far.next()
        except TimeoutError:
            log.warning("backend_silent", backend=own.authority, port=asker.port)
            raise _Refused(504, "the metadata service does not answer; try again") from None
        except (OSError, h11.ProtocolError) as error:
            log.warning("backend_broken", backend=own.authority, port=asker.port, reason=str(error))
            raise _Refused(502, "the metadata service broke off; try again") from None
        if not isinstance(event, h11.Response):
            raise _Refused(502, "the metadata service broke off; try again")
        told = headers.to_guest(event.headers)
        await guest.send(h11.Response(status_code=event.status_code, reason=event.reason, headers=told))
        while True:
            try:
                async with asyncio.timeout(limits.piece):
                    piece = await far.next()
            except (OSError, TimeoutError, h11.ProtocolError) as error:
                raise _Cut from error
            if isinstance(piece, h11.Data):
                await guest.send(piece)
            elif isinstance(piece, h11.EndOfMessage):
                await guest.send(h11.EndOfMessage())
                return
            else:
                raise _Cut


class _Far(NamedTuple):
    """The connection to the backend, for one request."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection

    async def send(self, event: h11.Event) -> None:
        self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()

    async def next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        return await _next(self.http, self.reader)


class _Guest:
    """The connection of a VM."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self._reader, self._writer, self._limits = reader, writer, limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head)
        self._no_body = False

    async def request(self) -> tuple[h11.Request, bytes] | None:
        """The next request with its body; None: there comes none any more, or not in time.

        Raises:
            _Refused: its body is too large.
        """
        try:
            async with asyncio.timeout(self._limits.request):
                return await self._whole()
        except TimeoutError:
            return None

    async def _whole(self) -> tuple[h11.Request, bytes] | None:
        request = await _next(self._http, self._reader)
        if not isinstance(request, h11.Request):
            return None
        self._no_body = request.method == b"HEAD"
        body = bytearray()
        while True:
            if self._http.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            piece = await _next(self._http, self._reader)
            if isinstance(piece, h11.EndOfMessage):
                return request, bytes(body)
            if not isinstance(piece, h11.Data):
                return None
            body += piece.data
            if len(body) > self._limits.body:
                raise _Refused(413, f"a request has at most {self._limits.body} bytes")

    async def send(self, event: h11.Event) -> None:
        """Send, and wait until the guest has taken most of it."""
        self._writer.write(self._http.send(event) or b"")
        async with asyncio.timeout(self._limits.piece):
            await self._writer.drain()

    async def refuse(self, status: int, words: str) -> None:
        """An answer of our own, and the end."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise _Cut
        text = f"{status}: {words}\n".encode()
        told = [("Content-Type", "text/plain"), ("Content-Length", str(len(text))), ("Connection", "close")]
        if status == 503:
            told.append(("Retry-After", "2"))
        await self.send(h11.Response(status_code=status, headers=told))
        if not self._no_body:
            await self.send(h11.Data(data=text))
        await self.send(h11.EndOfMessage())
        # What is closed with something unread is reset, and the answer with it (RFC 9112, section 9.6).
        self._writer.write_eof()
        async with asyncio.timeout(_LINGER):
            while await self._reader.read(_PIECE):
                pass

    def again(self) -> bool:
        """Whether another request may come on this connection."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True


async def _next(
    http: h11.Connection, reader: asyncio.StreamReader
) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
    """The next event; reads what is needed for it."""
    while True:
        event = http.next_event()
        if event is not h11.NEED_DATA:
            return event
        http.receive_data(await reader.read(_PIECE))
