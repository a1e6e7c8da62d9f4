"""Against clustered databases: resuming, leaders, and a leader that dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from ebbtide.errors import LocalProtocolError
from ebbtide.ovsdb import (
    ZERO_UUID,
    DatabaseStatus,
    Replica,
    Transaction,
    Uuid,
    Watch,
    database_statuses,
    database_watch,
    eq,
    insert_into,
)
from ebbtide.ovsdb import events as ev

from .client import Client
from .conftest import Server

pytestmark = pytest.mark.anyio


async def add_bridge(client: Client, name: str) -> None:
    transaction = Transaction(await client.schema("Open_vSwitch"))
    bridge = transaction.insert("Bridge", {"name": name})
    transaction.mutate("Open_vSwitch", [], [insert_into("bridges", {bridge})])
    transaction.commit()
    outcome = await client.transact(transaction)
    assert outcome.ok, outcome


async def add_bridges(client: Client, count: int) -> None:
    """Some data: a server keeps no more history than it has data."""
    for number in range(count):
        await add_bridge(client, f"br-{number}")


async def make_root(client: Client) -> None:
    transaction = Transaction(await client.schema("Open_vSwitch"))
    transaction.insert("Open_vSwitch", {})
    assert (await client.transact(transaction)).ok


async def test_a_dropped_connection_resumes(make_server: Callable[..., Server]) -> None:
    server = make_server(clustered=True)
    async with Client(server.remote) as client:
        await make_root(client)
        await add_bridges(client, 20)
        await add_bridge(client, "br-a")
        replica = Replica(await client.schema("Open_vSwitch"), {"Bridge": Watch(("name", "external_ids"))})
        assert not (await client.monitor(replica)).found
        assert replica.last_id != ZERO_UUID
    held = dict(replica.rows("Bridge"))
    async with Client(server.remote) as client:
        assert not replica.synced
        await add_bridge(client, "br-b")
        change = Transaction(replica.schema)
        change.mutate("Bridge", [eq("name", "br-a")], [insert_into("external_ids", {"k": "v"})])
        assert (await client.transact(change)).ok
        synced = await client.monitor(replica)
        assert synced.found
        assert {(change.old is None, change.new["name"]) for change in synced.changes if change.new} == {
            (True, "br-b"),
            (False, "br-a"),
        }
        assert all(held.get(change.uuid) == change.old for change in synced.changes)
        assert replica.synced

    # A position that the server does not know: full contents, and no change to see.
    replica.last_id = Uuid("12345678-0000-0000-0000-000000000000")
    async with Client(server.remote) as client:
        synced = await client.monitor(replica)
        assert (synced.found, synced.changes) == (False, [])

    # History does not outlive the server; the difference does.
    async with Client(server.remote) as client:
        remove = Transaction(replica.schema)
        remove.update("Open_vSwitch", [], {"bridges": ()})
        assert (await client.transact(remove)).ok
    server.kill()
    server.start()
    async with Client(server.remote) as client:
        synced = await client.monitor(replica)
        assert [change.new for change in synced.changes] == [None] * 22
        assert len(replica) == 0


async def status_of(server: Server) -> DatabaseStatus | None:
    """What _Server says of the database there; None when nobody answers, or hangs up while it joins."""
    try:
        async with Client(server.remote) as client:
            replica = database_watch(await client.schema("_Server"))
            await client.monitor(replica)
            return database_statuses(replica).get("Open_vSwitch")
    except (OSError, asyncio.CancelledError, LocalProtocolError):
        return None


async def leader_of(servers: list[Server]) -> Server:
    """Ask until one says that it leads and all are connected."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        statuses = [await status_of(server) for server in servers]
        leaders = [s for s, status in zip(servers, statuses, strict=True) if status and status.leader]
        if len(leaders) == 1 and all(status and status.connected for status in statuses):
            return leaders[0]
    raise AssertionError("the cluster finds no leader")


async def test_the_leader_of_three_dies(make_server: Callable[..., Server]) -> None:
    first = make_server(clustered=True)
    servers = [first, make_server(join=first), make_server(join=first)]
    leader = await leader_of(servers)
    statuses = [await status_of(server) for server in servers]
    assert {status.model for status in statuses if status} == {"clustered"}
    assert len({status.cid for status in statuses if status}) == 1
    assert len({status.sid for status in statuses if status}) == 3

    watcher = next(server for server in servers if server is not leader)
    async with Client(leader.remote) as client:
        await make_root(client)
        await add_bridges(client, 20)
        await add_bridge(client, "br-before")
        replica = Replica(await client.schema("Open_vSwitch"), ["Open_vSwitch", "Bridge"])
        await client.monitor(replica)
        # A follower hands transactions on to the leader.
        async with Client(watcher.remote) as follower:
            await add_bridge(follower, "br-by-follower")
        await client.until(lambda: len(replica.rows("Bridge")) == 22)
        leader.kill()
        with pytest.raises(ConnectionError):
            await client.until(lambda: False)
    assert not replica.synced
    held = {table: dict(replica.rows(table)) for table in replica.tables}

    rest = [server for server in servers if server is not leader]
    await leader_of(rest)
    async with Client(rest[0].remote) as client:
        await add_bridge(client, "br-after")
        synced = await client.monitor(replica)
        assert synced.found
        names = {row["name"] for row in replica.rows("Bridge").values()}
        assert names > {"br-before", "br-by-follower", "br-after"}
        for change in synced.changes:
            assert held[change.table].get(change.uuid) == change.old
        assert {change.table for change in synced.changes} == {"Open_vSwitch", "Bridge"}
        await add_bridge(client, "br-last")
        assert any(isinstance(event, ev.Updated) for event in client.events)
        assert len(replica.rows("Bridge")) == 24
