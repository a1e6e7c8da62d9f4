"""The private store's file and server, as the controller that looks after them finds them: real servers, real files."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ebbtide.errors import NotReady
from ebbtide.runtime import records
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


def test_stopping_one_that_has_died_is_quick_and_no_fault(tmp_path: Path) -> None:
    async def scenario(store: PrivateStore) -> None:
        await store.ensure()
        await killed(store)
        await store.stop()

    play(tmp_path, scenario)


# --- a file of another schema ---


def tool(*words: str) -> str:
    return subprocess.run(["ovsdb-tool", *words], check=True, capture_output=True, text=True).stdout.strip()


def a_file(directory: Path, version: str, without: str = "") -> Path:
    """A database of another version, with one row, and perhaps without a table."""
    schema = records.schema() | {"version": version}
    schema["tables"].pop(without, None)
    file, text = directory / "ebbtide.db", directory / "old.ovsschema"
    text.write_text(json.dumps(schema))
    tool("create", str(file), str(text))
    row = {"store_id": "kept", "revision": 41, "term": 3, "hold": ""}
    tool("transact", str(file), json.dumps([records.DATABASE, {"op": "insert", "table": "Global", "row": row}]))
    return file


def test_a_file_of_an_older_minor_version_is_converted_and_a_copy_kept(tmp_path: Path) -> None:
    need_store()
    major = records.SCHEMA_VERSION.split(".")[0]
    old = f"{major}.0.0"
    before = a_file(tmp_path, old, without="Retired").read_bytes()

    async def scenario(store: PrivateStore) -> None:
        with capture_logs() as logs:
            await store.ensure()
        converted = {"event": "store_converted", "old": old, "new": records.SCHEMA_VERSION, "log_level": "warning"}
        assert converted in logs
        assert (tmp_path / f"ebbtide.db.{old}").read_bytes() == before
        await store.stop()
        assert tool("db-version", str(store.database)) == records.SCHEMA_VERSION
        query = [
            {"op": "select", "table": "Global", "where": [], "columns": ["store_id", "revision"]},
            {"op": "select", "table": "Retired", "where": []},
        ]
        kept, new = json.loads(tool("query", str(store.database), json.dumps([records.DATABASE, *query])))
        assert kept["rows"] == [{"store_id": "kept", "revision": 41}]
        assert new["rows"] == []

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.99.0", "newer than"),
        ("2.0.0", "newer than"),
        ("10.0.0", "newer than"),
        ("0.9.0", "cannot be brought to"),
    ],
)
def test_a_file_of_a_newer_or_another_major_version_is_refused_and_left_alone(
    tmp_path: Path, version: str, words: str
) -> None:
    need_store()
    file = a_file(tmp_path, version)
    before = file.read_bytes()

    async def scenario(store: PrivateStore) -> None:
        with pytest.raises(NotReady, match=rf"ebbtide\.db has schema {version}.*{words}"):
            await store.ensure()
        assert not store.socket.exists()

    play(tmp_path, scenario)
    assert file.read_bytes() == before
    assert list(tmp_path.glob("ebbtide.db.*.*")) == []


def test_a_file_of_our_version_is_left_as_it_is(tmp_path: Path) -> None:
    need_store()
    a_file(tmp_path, records.SCHEMA_VERSION)

    async def scenario(store: PrivateStore) -> None:
        with capture_logs() as logs:
            await store.ensure()
        assert [e["event"] for e in logs] == ["store_started"]

    play(tmp_path, scenario)
    assert list(tmp_path.glob("ebbtide.db.*.*")) == []


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("1.1.0", True),
        ("1.1.7", True),
        ("1.2.0", False),
        ("1.0.0", False),
        ("2.1.0", False),
        ("0.9.0", False),
        ("", False),
    ],
)
def test_a_remote_store_must_hold_all_that_is_written_and_nothing_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, version: str, enough: bool
) -> None:
    monkeypatch.setattr(records, "SCHEMA_VERSION", "1.1.0")
    assert records.is_enough(version) is enough
