"""A store that others made, of another schema version than ours: a clear state, and nothing of it is touched. Real servers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebbtide.errors import StoreUnreachable
from ebbtide.runtime import records
from tests.north.site import Site
from tests.ovsdb.conftest import Server

Served = Callable[..., Server]
MAJOR, MINOR, _ = records.SCHEMA_VERSION.split(".")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Served]:
    """A store with our schema, but for its version, its name, or a table that it lacks."""
    made: list[Server] = []

    def start(version: str, name: str = records.DATABASE, without: str = "") -> Server:
        folder = tmp_path / "store"
        folder.mkdir()
        schema = records.schema() | {"version": version, "name": name}
        schema["tables"].pop(without, None)
        (folder / "schema").write_text(json.dumps(schema))
        database = folder / "store.db"
        subprocess.run(["ovsdb-tool", "create", str(database), str(folder / "schema")], check=True, capture_output=True)
        made.append(Server(folder, database, f"unix:{folder}/db.sock"))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        server.kill()


def follow(server: Server, directory: Path, leads: bool) -> Site:
    return Site(directory / "site", leads=leads, store=server.remote)


@pytest.mark.parametrize(
    ("version", "name", "words"),
    [
        (f"{int(MAJOR) + 1}.0.0", records.DATABASE, f"has schema {int(MAJOR) + 1}.0.0"),
        (f"{int(MAJOR) - 1}.9.0", records.DATABASE, f"has schema {int(MAJOR) - 1}.9.0"),
        *(
            (f"{MAJOR}.{n}.0", records.DATABASE, f"has schema {MAJOR}.{n}.0")
            for n in range(int(MINOR) + 2)
            if n != int(MINOR)
        ),
        (records.SCHEMA_VERSION, "Other", f"no database {records.DATABASE}"),
    ],
)
def test_another_major_or_minor_version_or_no_store_of_ours_is_said_and_not_written(
    serve: Served, tmp_path: Path, version: str, name: str, words: str
) -> None:
    server = serve(version, name)
    before = server.database.read_bytes()
    site = follow(server, tmp_path, leads=False)
    try:
        store = site.app.cluster.store
        site.wait(lambda: words in store.reason)
        assert server.remote in store.reason
        assert (store.reachable, store.leading.is_set()) == (False, False)
        with pytest.raises(StoreUnreachable, match=words):
            site.call(site.app.service.add_network("blue"))
        status = site.get("/api/v1/status").json
        assert (status["reachable"], words in status["reason"]) == (False, True)
    finally:
        site.stop()
    assert server.database.read_bytes() == before


def test_another_version_of_the_same_schema_is_followed(serve: Served, tmp_path: Path) -> None:
    site = follow(serve(f"{MAJOR}.{MINOR}.9"), tmp_path, leads=True)
    try:
        site.call(site.app.service.add_network("blue"))
        assert list(site.state.networks) == ["blue"]
    finally:
        site.stop()
