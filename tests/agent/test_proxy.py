"""The proxy on loopback, between guests and a real HTTP server: what passes, what is refused, and what nobody may hold up.

Guests are told apart by the last byte of their loopback address; that of a real VM is made of its lport (`tests/tenants/test_metadata.py`).
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ebbtide.agent.askers import Askers
from ebbtide.agent.proxy import Backend, Limits, Proxy
from ebbtide.errors import NotReady
from tests.support.certificates import certificate
from tests.support.metadata import SECRET, Service

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Backing = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUICK = Limits(request=0.5, connect=0.5, answer=0.5, piece=0.5, of_one=4, connections=6)


async def known(lport: int) -> Mapping[str, Any] | None:
    """The controller: it knows VMs 1 and 2; that 4 asks it cannot say."""
    if lport == 4:
        raise NotReady("no controller answers")
    port = {"id": f"port-{lport}", "addresses": [f"10.1.0.{lport}"], "device": f"i-{lport}", "project": f"p-{lport}"}
    return port if lport in (1, 2) else None


def own_byte(address: str) -> int:
    return int(address.rsplit(".", 1)[1])


@asynccontextmanager
async def proxy(port: int, limits: Limits = QUICK, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """One in front of a backend on loopback; gives its own port."""
    far = Backend("127.0.0.1", port, SECRET, tls)
    made = Proxy(Askers(known, asyncio.get_running_loop().time), far, limits, own_byte)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await made.close()
        await server.wait_closed()


@asynccontextmanager
async def backend(behave: Backing) -> AsyncIterator[int]:
    """A server of any behaviour."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        except OSError:
            pass  # the proxy has gone first, as it may
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.fixture
def service() -> Iterator[Service]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    made = Service(listener)
    yield made
    made.close()


def tell(story: Callable[[], Awaitable[None]]) -> None:
    """Run it, and let every connection come to its end."""

    async def told() -> None:
        await story()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(told())


async def connect(port: int, guest: int = 1) -> Wire:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{guest}", 0))


async def say(port: int, text: bytes, guest: int = 1) -> bytes:
    """All that answers, until the connection is closed."""
    reader, writer = await connect(port, guest)
    writer.write(text)
    try:
        async with asyncio.timeout(10):
            return await reader.read(-1)
    finally:
        writer.close()


async def is_shut(port: int, guest: int) -> bool:
    """Whether a guest's next connection is closed unheard."""
    try:
        return await say(port, b"GET / HTTP/1.0\r\n\r\n", guest) == b""
    except ConnectionResetError:
        return True


def told(answer: bytes) -> Any:
    """The body of an answer of `Service`."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_guest_is_answered_in_its_own_name(service: Service) -> None:
    async def story() -> None:
        async with proxy(service.port) as port:
            for guest in (1, 2):
                answer = await say(port, b"GET /latest?x=%41 HTTP/1.0\r\nX-Instance-ID: i-9\r\n\r\n", guest)
                assert status(answer) == 200
                found = told(answer)
                assert (found["instance"], found["project"], found["address"], found["path"]) == (
                    *(f"i-{guest}", f"p-{guest}"),
                    *(f"10.1.0.{guest}", "/latest?x=%41"),
                )

    tell(story)


def test_a_connection_carries_several_requests_and_bodies_and_head(service: Service) -> None:
    async def story() -> None:
        async with proxy(service.port) as port:
            post = b"POST /openstack/latest/password HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            post += b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
            head = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
            last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            answer = await say(port, post + head + last)
            assert answer.count(b"HTTP/1.1 200") == 3
        assert [(s["method"], s["body"]) for s in service.seen] == [("POST", "abcdef"), ("HEAD", ""), ("GET", "")]

    tell(story)


def test_a_guest_that_waits_for_100_is_told_to_go_on(service: Service) -> None:
    async def story() -> None:
        async with proxy(service.port) as port:
            reader, writer = await connect(port)
            writer.write(
                b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
            )
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(b"ok")
            assert status(await reader.read(-1)) == 200
            writer.close()
        assert service.seen[0]["body"] == "ok"

    tell(story)


@pytest.mark.parametrize(
    ("guest", "text", "code"),
    [
        pytest.param(3, b"GET / HTTP/1.0\r\n\r\n", 404, id="a port that is none"),
        pytest.param(4, b"GET / HTTP/1.0\r\n\r\n", 503, id="who it is cannot be asked"),
        pytest.param(1, b"GET nova:80 HTTP/1.0\r\n\r\n", 400, id="no path"),
        pytest.param(1, b"CONNECT nova:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="a tunnel"),
        pytest.param(1, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n", 400, id="TLS"),
        pytest.param(1, b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(1, b"GET / HTTP/1.0\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", 431, id="a head too large"),
        pytest.param(
            1, b"POST / HTTP/1.0\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, 413, id="a body too large"
        ),
        pytest.param(1, b"HEAD nova HTTP/1.0\r\n\r\n", 400, id="HEAD has no body"),
    ],
)
def test_what_is_refused(service: Service, guest: int, text: bytes, code: int) -> None:
    async def story() -> None:
        async with proxy(service.port) as port:
            answer = await say(port, text, guest)
            assert status(answer) == code, answer
            assert (b"Retry-After" in answer) == (code == 503)

    tell(story)
    assert service.seen == [], "nobody else hears of it"


def test_a_guest_that_is_silent_or_slow_is_not_waited_for(service: Service) -> None:
    async def story() -> None:
        async with proxy(service.port) as port:
            assert await say(port, b"") == b""
            assert await say(port, b"GET / HT") == b""
            assert await say(port, b"POST / HTTP/1.0\r\nContent-Length: 10\r\n\r\nabc") == b""

    tell(story)
    assert service.seen == []


def test_one_guest_cannot_take_the_places_of_others(service: Service) -> None:
    async def story() -> None:
        async with proxy(service.port, QUICK._replace(request=5.0)) as port:
            held = [await connect(port, 1) for _ in range(4)]
            assert await is_shut(port, 1), "a fifth of one guest is closed"
            assert status(await say(port, b"GET / HTTP/1.0\r\n\r\n", 2)) == 200
            held += [await connect(port, 3) for _ in range(2)]
            assert await is_shut(port, 2), "a seventh of all too"
            for _, writer in held[:1]:
                writer.close()
                await writer.wait_closed()
            async with asyncio.timeout(5):
                while await is_shut(port, 2):
                    pass
            for _, writer in held[1:]:
                writer.close()

    tell(story)


def test_a_backend_by_https_is_checked_against_its_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(cert, key)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    service = Service(own.wrap_socket(listener, server_side=True))

    async def story() -> None:
        for trusted, code in ((str(cert), 200), (None, 502)):
            context = ssl.create_default_context(cafile=trusted)
            async with proxy(service.port, tls=context) as port:
                assert status(await say(port, b"GET / HTTP/1.0\r\n\r\n")) == code

    try:
        tell(story)
    finally:
        service.close()


def test_a_backend_that_is_not_there_or_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async def story() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            async with proxy(nobody.getsockname()[1]) as port:
                assert status(await say(port, b"GET / HTTP/1.0\r\n\r\n")) == 502
        async with backend(silent) as far, proxy(far) as port:
            assert status(await say(port, b"GET / HTTP/1.0\r\n\r\n")) == 504

    tell(story)


@pytest.mark.parametrize("text", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000])
def test_a_backend_that_speaks_no_http(text: bytes) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()

    async def story() -> None:
        async with backend(odd) as far, proxy(far) as port:
            assert status(await say(port, b"GET / HTTP/1.0\r\n\r\n")) == 502

    tell(story)


@pytest.mark.parametrize("cut", [True, False])
def test_an_answer_that_breaks_off_is_seen_to(cut: bool) -> None:
    """A guest must not take half of an answer for all of it."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        if not cut:
            await reader.read(-1)

    async def story() -> None:
        async with backend(half) as far, proxy(far) as port:
            with pytest.raises(ConnectionResetError):
                await say(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    tell(story)


def test_a_large_answer_without_a_length_passes_at_the_guests_speed() -> None:
    size = 4 << 20

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(size >> 16):
            writer.write(b"x" * (1 << 16))
            await writer.drain()

    async def story() -> None:
        async with backend(large) as far, proxy(far) as port:
            answer = await say(port, b"GET / HTTP/1.0\r\n\r\n")
            assert len(answer.partition(b"\r\n\r\n")[2]) == size
            chunked = await say(port, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert b"chunked" in chunked[:200].lower()

    tell(story)
