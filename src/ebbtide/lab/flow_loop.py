"""What both ends of traffic run on: one asyncio loop, things done at a steady pace, and questions answered between them.

A question is a line on standard input, the answer a line of JSON; when the input ends, so does the process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from .flow_wire import SIZE, Message, parse

# A loop that was kept from running catches up, but never by more than this many at once, with this pause after each:
# a burst would overflow a queue, and count as the network's loss. What is further behind is not done at all.
_BURST = 16
_PAUSE = 0.0005
_GIVE_UP = 0.5

_MOST_TOLD = 20

_SO_RCVBUFFORCE = 33
_BUFFER = 1 << 20


class Clockwork:
    """Does things at their pace, and knows how late it ever was. `told` is what happened, in words."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.began = time.monotonic()
        self.told: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def every(self, period: float, function: Callable[[], object], first: float = 0.0) -> None:
        """Call `function` each `period` seconds, the first time in `first`."""
        loop = asyncio.get_running_loop()
        due = loop.time() + first

        def tick() -> None:
            nonlocal due
            now = loop.time()
            late = now - due
            self.worst = max(self.worst, late)
            if late > _GIVE_UP:
                due += int((late - _GIVE_UP) / period) * period
            calls = 0
            while due <= now and calls < _BURST:
                function()
                due += period
                calls += 1
            loop.call_at(max(due, now + _PAUSE) if calls == _BURST else due, tick)

        loop.call_at(due, tick)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work of its own. An error in it ends the process: a count that may be wrong is none."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    def tell(self, words: str) -> None:
        if len(self.told) < _MOST_TOLD:
            self.told.append(f"{words}, {time.monotonic() - self.began:.3f} s after the start")

    def reset(self) -> None:
        self.worst = 0.0


def serve(start: Callable[[bytes, Clockwork], Awaitable[Callable[[str, str], object]]]) -> None:
    """Run until standard input ends. The first line goes to `start`; what it returns answers each line after.

    A line is a word, and perhaps an argument.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()  # what is here stays: no collection has to look at it, and none takes long
    asyncio.run(_serve(start))


async def _serve(start: Callable[[bytes, Clockwork], Awaitable[Callable[[str, str], object]]]) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not ended.done():
            ended.set_exception(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(fail)
    lines: asyncio.Queue[bytes] = asyncio.Queue(64)
    rest = b""

    def hear() -> None:
        nonlocal rest
        piece = os.read(0, 65536)
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            lines.put_nowait(line)
        if not piece:
            loop.remove_reader(0)
            if not ended.done():
                ended.set_result(None)

    async def converse() -> None:
        answer = await start(await lines.get(), Clockwork())
        _say("started")
        while True:
            word, _, argument = (await lines.get()).decode().partition(" ")
            _say(answer(word, argument))

    loop.add_reader(0, hear)
    conversation = asyncio.create_task(converse())
    conversation.add_done_callback(
        lambda task: None if ended.done() or task.cancelled() else ended.set_exception(_reason(task))
    )
    try:
        await ended
    finally:
        conversation.cancel()


def _reason(task: asyncio.Task[None]) -> BaseException:
    return task.exception() or RuntimeError("the conversation has ended by itself")


def _say(value: object) -> None:
    # The one who has asked reads at once, however much it is.
    left = msgspec.json.encode(value) + b"\n"
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


# ---- sockets --------------------------------------------------------------------------------------


def datagram_socket(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    made.bind((host, port))
    return made


def echo_socket() -> socket.socket:
    """A raw socket for ICMP: every packet of it that comes in, requests as well."""
    made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    return made


def drain(source: socket.socket, take: Callable[[bytes, tuple[str, int]], None]) -> Callable[[], None]:
    """A reader for the loop: hands over every datagram that is there."""

    def read() -> None:
        while True:
            try:
                data, sender = source.recvfrom(2048)
            except OSError:
                return  # nothing more, or word of an earlier datagram that was refused; it counts as lost anyway
            take(data, sender)

    return read


class Echo(asyncio.Protocol):
    """A server's side of one connection: each message is handed over, and what comes of it is sent back."""

    def __init__(self, run: int, heard: Callable[[Message, Echo], bytes | None], stray: Callable[[], None]) -> None:
        self._run = run
        self._heard = heard
        self._stray = stray
        self._buffer = b""
        self.peer = ("", 0)
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = transport.get_extra_info("peername")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= SIZE:
            message, self._buffer = parse(self._buffer), self._buffer[SIZE:]
            if message is None or message.run != self._run:
                self._stray()
                self.transport.abort()
                return
            answer = self._heard(message, self)
            if answer is not None:
                self.transport.write(answer)


async def receive(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    """The next message's bytes. ConnectionResetError as well where the other side has closed in good order."""
    data = b""
    while len(data) < SIZE:
        piece = await loop.sock_recv(connection, SIZE - len(data))
        if not piece:
            raise ConnectionResetError("closed by the other side")
        data += piece
    return data


async def exchange_once(host: tuple[str, int], message: Message, limit: float) -> bytes:
    """A connection of its own: open, one exchange, close. OSError where it does not end well in `limit` seconds."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        async with asyncio.timeout(limit):
            await loop.sock_connect(connection, host)
            await loop.sock_sendall(connection, message.pack())
            return await receive(loop, connection)
