"""What breaks a connection: silence, a wrong answer, an end. On loopback, with servers that misbehave."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from ebbtide.lab.flow_guest import Flow
from ebbtide.lab.flow_loop import Clockwork
from ebbtide.lab.flow_wire import SIZE, Kind, Message

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

IDENTITY = Message(1, Kind.ACTIVE, 0, 3)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(SIZE))


async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(SIZE)
    writer.write(IDENTITY._replace(sequence=7).pack())


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(SIZE)
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(SIZE)


async def speak_unasked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(SIZE) + IDENTITY.pack())


def against(server: Server, check: Callable[[Flow], Awaitable[None]], identity: Message = IDENTITY) -> list[str]:
    """What was told, when a flow has talked to such a server and `check` is through."""
    told: list[str] = []

    async def play() -> None:
        writers = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await server(reader, writer)

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
            flow = Flow("one", identity, 0, listener.sockets[0].getsockname(), told.append)
            running = asyncio.create_task(flow.run())
            async with asyncio.timeout(5):
                await check(flow)
            flow.fail("the test is over")
            await running
            for writer in writers:
                writer.transport.abort()

    asyncio.run(play())
    return told


async def until(condition: Callable[[], object]) -> None:
    """With the loop turning; the caller has the deadline."""
    for _ in itertools.repeat(None):
        if condition():
            return
        await asyncio.sleep(0)


async def broken(flow: Flow) -> None:
    await until(lambda: flow.broken)


async def answered(flow: Flow) -> None:
    await until(lambda: flow.answered)


def test_a_right_answer() -> None:
    assert against(echo, answered) == ["one, port 0: the test is over"]


@pytest.mark.parametrize(
    ("server", "words"),
    [(lie, "wrong data"), (speak_unasked, "wrong data"), (hang_up, "closed by the other side")],
)
def test_what_breaks_it(server: Server, words: str) -> None:
    told = against(server, broken)
    assert len(told) == 1
    assert words in told[0]


def test_silence_breaks_it_after_five_seconds() -> None:
    async def wait(flow: Flow) -> None:
        await until(lambda: flow.asked_at)
        flow.check(flow.asked_at + 4.9)
        assert not flow.broken
        assert flow.waiting(flow.asked_at + 4.9) == pytest.approx(4.9)
        flow.check(flow.asked_at + 5.1)
        assert flow.broken

    assert against(say_nothing, wait) == ["one, port 0: no answer in 5 s"]


def test_a_refused_connection_is_broken_and_was_never_established() -> None:
    told: list[str] = []

    async def play() -> Flow:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as listener:
            address = listener.sockets[0].getsockname()
        flow = Flow("one", IDENTITY, 0, address, told.append)
        await flow.run()
        return flow

    flow = asyncio.run(play())
    assert (flow.broken, flow.established, len(told)) == (True, False, 1)


def test_things_are_done_at_their_pace() -> None:
    async def play() -> int:
        clockwork, calls = Clockwork(), 0
        enough = asyncio.Event()

        def call() -> None:
            nonlocal calls
            calls += 1
            if calls == 50:
                enough.set()

        began = asyncio.get_running_loop().time()
        clockwork.every(0.002, call)
        async with asyncio.timeout(5):
            await enough.wait()
        assert asyncio.get_running_loop().time() - began >= 49 * 0.002
        return calls

    assert asyncio.run(play()) >= 50
