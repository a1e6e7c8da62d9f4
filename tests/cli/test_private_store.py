"""The private store's file and server, as the controller that looks after them finds them: real servers, real files."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ebbtide.runtime.private_store import PrivateStore
from ebbtide.runtime.pulse import Pulse
from tests.cli.conftest import need_store

Scenario = Callable[[PrivateStore], Coroutine[Any, Any, None]]


def play(directory: Path, scenario: Scenario) -> None:
    """Something with a store of its own, which is gone after."""
    need_store()

    async def whole() -> None:
        store = PrivateStore(directory)
        try:
            await scenario(store)
        finally:
            await store.stop()

    asyncio.run(whole())


async def until(holds: Callable[[], bool]) -> None:
    assert await Pulse().until(holds, 20, at_least_every=0.02)


def server(store: PrivateStore) -> int:
    return int((store.directory / "store.pid").read_text())


async def killed(store: PrivateStore) -> None:
    """Its server, without a word."""
    pid = server(store)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_all(taken: list[int]) -> None:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))


@contextmanager
def no_file_left() -> Iterator[None]:
    """Not one more file can be opened by this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            open_all(taken)
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_schema_file_is_written_only_if_it_differs(tmp_path: Path) -> None:
    async def scenario(store: PrivateStore) -> None:
        await store.ensure()
        file = tmp_path / "ebbtide.ovsschema"
        text = file.read_text()
        os.utime(file, ns=(1, 1))
        await killed(store)
        await store.ensure()
        assert file.stat().st_mtime_ns == 1, "it was right"
        await killed(store)
        file.write_text(text[: len(text) // 2])
        await store.ensure()
        assert file.read_text() == text, "it was cut"

    play(tmp_path, scenario)


def test_a_start_that_the_file_system_refuses_is_said_once_and_tried_again(tmp_path: Path) -> None:
    async def scenario(store: PrivateStore) -> None:
        await store.ensure()
        old = server(store)
        await killed(store)
        file = tmp_path / "ebbtide.ovsschema"
        file.unlink()
        file.mkdir()
        with capture_logs() as logs:
            watching = asyncio.create_task(store.watch())
            await until(lambda: "store_does_not_start" in [e["event"] for e in logs])
            assert not watching.done()
            file.rmdir()
            await until(lambda: "store_started" in [e["event"] for e in logs])
        watching.cancel()
        assert [e["event"] for e in logs] == ["store_died", "store_does_not_start", "store_started"]
        assert "Is a directory" in logs[1]["reason"]
        assert server(store) != old

    play(tmp_path, scenario)


def test_a_controller_that_can_open_no_file_does_not_take_its_store_for_dead(tmp_path: Path) -> None:
    async def scenario(store: PrivateStore) -> None:
        await store.ensure()
        before = (server(store), store.socket.stat().st_ino)
        with capture_logs() as logs:
            watching = asyncio.create_task(store.watch())
            with no_file_left():
                await until(lambda: bool(logs))
                with pytest.raises(OSError, match="Too many open files"):
                    await store.ensure()
            assert [(e["event"], "Too many open files" in e["reason"]) for e in logs] == [("store_not_seen", True)]
            assert not watching.done()
            watching.cancel()
        await store.ensure()
        assert (server(store), store.socket.stat().st_ino) == before

    play(tmp_path, scenario)


def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    async def scenario(store: PrivateStore) -> None:
        await store.ensure()
        old = server(store)
        await killed(store)
        with capture_logs() as logs:
            watching = asyncio.create_task(store.watch())
            await until(lambda: "store_started" in [e["event"] for e in logs])
            watching.cancel()
        assert [e["event"] for e in logs] == ["store_died", "store_started"]
        assert server(store) != old

    play(tmp_path, scenario)
