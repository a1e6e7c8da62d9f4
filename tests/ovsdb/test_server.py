"""Against a real standalone ovsdb-server with the schema of a compute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ebbtide.errors import LocalProtocolError
from ebbtide.ovsdb import (
    LockState,
    Replica,
    Row,
    RowChange,
    Transaction,
    Uuid,
    Watch,
    add,
    by_uuid,
    database_statuses,
    database_watch,
    delete_from,
    eq,
    excludes,
    includes,
    insert_into,
)
from ebbtide.ovsdb import events as ev

from .client import Client
from .conftest import Server

pytestmark = pytest.mark.anyio

ROOT = Uuid("11111111-2222-3333-4444-555555555555")


async def make_root(client: Client) -> Transaction:
    """The one row of Open_vSwitch, with a bridge br-int."""
    transaction = Transaction(await client.schema("Open_vSwitch"))
    bridge = transaction.insert("Bridge", {"name": "br-int", "external_ids": {"a": "1", "b": "2"}})
    transaction.insert("Open_vSwitch", {"bridges": {bridge}, "other_config": {"x": "y"}}, uuid=ROOT)
    outcome = await client.transact(transaction)
    assert outcome.ok, outcome
    return transaction


async def test_lists_databases_and_schema(server: Server) -> None:
    async with Client(server.remote) as client:
        listed = await client.ask(client.session.list_dbs())
        assert set(listed.names) == {"Open_vSwitch", "_Server"}
        schema = await client.schema("Open_vSwitch")
        assert schema.tables["Bridge"].indexes == (("name",),)
        assert schema.tables["Bridge"].columns["ports"].type.key.ref_table == "Port"
        missing = await client.ask(client.session.get_schema("nowhere"))
        assert isinstance(missing, ev.Failed)
        assert missing.error.error == "unknown database"
        assert isinstance(await client.ask(client.session.echo()), ev.EchoReplied)


async def test_insert_takes_a_uuid_of_ours(server: Server) -> None:
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema
        replica = Replica(schema, ["Open_vSwitch"])
        synced = await client.monitor(replica)
        assert [change.uuid for change in synced.changes] == [ROOT]
        again = Transaction(schema)
        again.insert("Open_vSwitch", {}, uuid=ROOT)
        outcome = await client.transact(again)
        assert outcome.error is not None
        assert outcome.error.error in ("duplicate uuid", "constraint violation")


async def test_changes_add_up_to_what_is_held(server: Server) -> None:
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema
        replica = Replica(schema, {"Bridge": Watch(("name", "external_ids", "ports", "fail_mode")), "Port": Watch()})
        seen: dict[tuple[str, Uuid], Row] = {}

        def follow(changes: list[RowChange]) -> None:
            for change in changes:
                assert seen.get((change.table, change.uuid)) == change.old
                assert change.old != change.new
                if change.new is None:
                    del seen[change.table, change.uuid]
                else:
                    seen[change.table, change.uuid] = change.new

        client.on_event = lambda event: follow(event.changes) if isinstance(event, ev.Updated) else None
        synced = await client.monitor(replica)
        assert not synced.found
        follow(synced.changes)
        (bridge,) = replica.rows("Bridge")
        assert replica.row("Bridge", bridge) == {
            "name": "br-int",
            "external_ids": {"a": "1", "b": "2"},
            "ports": frozenset(),
            "fail_mode": None,
        }

        change = Transaction(schema)
        interface = change.insert("Interface", {"name": "vx1", "type": "vxlan", "options": {"remote_ip": "192.0.2.1"}})
        port = change.insert("Port", {"name": "vx1", "interfaces": {interface}, "tag": 7, "trunks": {1, 2}})
        mutations = [
            insert_into("ports", {port}),
            insert_into("external_ids", {"c": "3"}),
            delete_from("external_ids", {"a"}),
            delete_from("external_ids", {"b": "other"}),
        ]
        assert change.mutate("Bridge", [eq("name", "br-int")], mutations) == 2
        change.update("Bridge", by_uuid(bridge), {"fail_mode": "secure"})
        outcome = await client.transact(change)
        assert outcome.ok, outcome
        assert outcome.count(2) == 1
        await client.until(lambda: replica.rows("Port"))
        row = replica.rows("Bridge")[bridge]
        assert row["external_ids"] == {"b": "2", "c": "3"}
        assert row["ports"] == {outcome.uuid_of(port)}
        assert row["fail_mode"] == "secure"
        got = replica.rows("Port")[outcome.uuid_of(port)]
        assert (got["tag"], got["trunks"]) == (7, {1, 2})

        change = Transaction(schema)
        change.update("Bridge", by_uuid(bridge), {"fail_mode": None, "ports": (), "external_ids": {}})
        assert (await client.transact(change)).ok
        await client.until(lambda: not replica.rows("Port"))
        assert replica.rows("Bridge")[bridge]["fail_mode"] is None
        assert {key: dict(value) for key, value in seen.items()} == {
            ("Bridge", bridge): dict(replica.rows("Bridge")[bridge])
        }
        with pytest.raises(TypeError):
            replica.rows("Bridge")[bridge]["name"] = "x"  # type: ignore[index]


async def test_refusals_name_the_operation(server: Server) -> None:
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema

        async def error_of(transaction: Transaction) -> tuple[int, str]:
            outcome = await client.transact(transaction)
            assert outcome.error is not None
            return outcome.error.index, outcome.error.error

        waits = Transaction(schema)
        waits.comment("first")
        waits.wait("Bridge", [eq("name", "br-int")], [{"external_ids": {"a": "0"}}])
        waits.delete("Bridge", [])
        assert await error_of(waits) == (1, "timed out")

        asserts = Transaction(schema)
        asserts.assert_lock("nobodys")
        assert await error_of(asserts) == (0, "not owner")

        aborts = Transaction(schema)
        aborts.abort()
        assert await error_of(aborts) == (0, "aborted")

        twice = Transaction(schema)
        bridge = twice.insert("Bridge", {"name": "br-int"})
        twice.mutate("Open_vSwitch", [], [insert_into("bridges", {bridge})])
        assert await error_of(twice) == (2, "constraint violation")

        dangling = Transaction(schema)
        dangling.mutate("Open_vSwitch", [], [insert_into("bridges", {Uuid(ROOT.replace("1", "9"))})])
        assert await error_of(dangling) == (1, "referential integrity violation")


async def test_select_wait_and_durable(server: Server) -> None:
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema
        transaction = Transaction(schema)
        transaction.wait("Bridge", [eq("name", "br-int")], [{"external_ids": {"a": "1", "b": "2"}}])
        transaction.wait("Bridge", [eq("name", "br-ex")], [{"name": "br-ex"}], until="!=")
        transaction.mutate("Open_vSwitch", by_uuid(ROOT), [add("next_cfg", 5)])
        chosen = transaction.select(
            "Bridge", [includes("external_ids", {"a": "1"}), excludes("external_ids", {"z": "1"})]
        )
        some = transaction.select("Open_vSwitch", columns=["_uuid", "next_cfg"])
        transaction.commit(durable=True)
        outcome = await client.transact(transaction)
        assert outcome.ok, outcome
        assert outcome.rows(chosen)[0]["name"] == "br-int"
        assert outcome.rows(some) == ({"_uuid": ROOT, "next_cfg": 5},)


async def test_mistakes_are_named_before_they_are_sent(server: Server) -> None:
    async with Client(server.remote) as client:
        transaction = Transaction(await client.schema("Open_vSwitch"))
        for row in (
            {"nam": "x"},
            {"name": 5},
            {"name": None},
            {"fail_mode": "loose"},
            {"external_ids": {"a": 1}},
            {"ports": {"not a uuid"}},
            {"flood_vlans": {4096}},
            {"mcast_snooping_enable": 1},
        ):
            with pytest.raises(LocalProtocolError):
                transaction.insert("Bridge", row)
        with pytest.raises(LocalProtocolError, match="no table"):
            transaction.delete("Bridges", [])
        with pytest.raises(LocalProtocolError, match="cannot be changed"):
            transaction.update("Bridge", [], {"name": "other"})
        assert len(transaction) == 0


async def test_conditions_choose_rows_and_can_change(server: Server) -> None:
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema
        replica = Replica(schema, {"Bridge": Watch(("name",), (eq("name", "br-ex"), eq("name", "br-2")))})
        synced = await client.monitor(replica)
        assert synced.changes == []
        done = await client.ask(client.session.change_where(replica, {"Bridge": [eq("name", "br-int")]}))
        assert isinstance(done, ev.Done)
        await client.until(lambda: replica.rows("Bridge"))
        assert [row["name"] for row in replica.rows("Bridge").values()] == ["br-int"]
        await client.ask(client.session.change_where(replica, {"Bridge": [False]}))
        await client.until(lambda: not replica.rows("Bridge"))
        await client.ask(client.session.change_where(replica, {"Bridge": []}))
        await client.until(lambda: replica.rows("Bridge"))


async def test_locks_wait_steal_and_come_back(server: Server) -> None:
    async with Client(server.remote) as one, Client(server.remote) as two:
        a, b = one.session, two.session
        assert (await one.ask(a.lock("l"))).held
        assert not (await two.ask(b.lock("l"))).held
        with pytest.raises(LocalProtocolError):
            b.steal("l")
        await two.ask(b.unlock("l"))
        assert (await two.ask(b.steal("l"))).held
        await one.until(lambda: ev.Stolen("l") in one.events)
        assert a.lock_state("l") is LockState.WAITING
        schema = await one.schema("Open_vSwitch")
        mine = Transaction(schema)
        mine.assert_lock("l")
        outcome = await one.transact(mine)
        assert outcome.error is not None
        assert outcome.error.error == "not owner"
        await two.ask(b.unlock("l"))
        await one.until(lambda: ev.Locked("l") in one.events)
        assert (await one.transact(mine)).ok
        await one.ask(a.unlock("l"))
        assert a.lock_state("l") is LockState.FREE


async def test_a_lock_passes_on_when_its_owner_goes(server: Server) -> None:
    async with Client(server.remote) as two:
        async with Client(server.remote) as one:
            assert (await one.ask(one.session.lock("l"))).held
            assert not (await two.ask(two.session.lock("l"))).held
        await two.until(lambda: two.session.lock_state("l") is LockState.HELD)


async def test_a_wait_without_end_can_be_canceled(server: Server) -> None:
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema
        transaction = Transaction(schema)
        transaction.wait("Bridge", [eq("name", "br-ex")], [{"name": "br-ex"}], timeout_ms=None)
        number = client.session.transact(transaction)
        waiting = asyncio.ensure_future(client.ask(number))
        await client.ask(client.session.echo())
        assert not waiting.done()
        client.session.cancel(number)
        client.flush()
        outcome = (await waiting).outcome
        assert (outcome.error.index, outcome.error.error) == (-1, "canceled")


async def test_a_wait_ends_when_another_client_writes(server: Server) -> None:
    async with Client(server.remote) as client, Client(server.remote) as other:
        schema = (await make_root(client)).schema
        transaction = Transaction(schema)
        transaction.wait("Open_vSwitch", [], [{"cur_cfg": 3}], timeout_ms=20000)
        waiting = asyncio.ensure_future(client.ask(client.session.transact(transaction)))
        await client.ask(client.session.echo())
        write = Transaction(schema)
        write.update("Open_vSwitch", [], {"cur_cfg": 3})
        assert (await other.transact(write)).ok
        assert (await waiting).outcome.ok


async def test_server_database_tells_of_a_standalone_one(server: Server) -> None:
    async with Client(server.remote) as client:
        replica = database_watch(await client.schema("_Server"))
        await client.monitor(replica)
        status = database_statuses(replica)["Open_vSwitch"]
        assert (status.model, status.connected, status.leader) == ("standalone", True, True)


async def test_a_canceled_monitor_keeps_its_contents(server: Server) -> None:
    async with Client(server.remote) as client:
        assert isinstance(await client.ask(client.session.set_db_change_aware()), ev.Done)
        schema = (await make_root(client)).schema
        replica = Replica(schema, ["Bridge"])
        await client.monitor(replica)
        server.appctl("ovsdb-server/remove-db", "Open_vSwitch")
        await client.until(lambda: ev.MonitorCanceled(replica) in client.events)
        assert not replica.synced
        assert len(replica) == 1
        server.appctl("ovsdb-server/add-db", str(server.database))
        replica.adopt(await client.schema("Open_vSwitch"))
        assert (await client.monitor(replica)).changes == []
        await client.ask(client.session.monitor_cancel(replica))
        assert len(replica) == 1
        assert not replica.synced


async def test_killed_in_the_middle_of_a_transaction(make_server: Callable[..., Server]) -> None:
    server = make_server()
    async with Client(server.remote) as client:
        schema = (await make_root(client)).schema
        replica = Replica(schema)
        await client.monitor(replica)
        gone, kept = Transaction(schema), Transaction(schema)
        kept.mutate("Open_vSwitch", [], [insert_into("bridges", {kept.insert("Bridge", {"name": "br-kept"})})])
        kept.commit()
        assert (await client.transact(kept)).ok
        gone.mutate("Open_vSwitch", [], [insert_into("bridges", {gone.insert("Bridge", {"name": "br-gone"})})])
        server.pause()
        number = client.session.transact(gone)
        client.flush()
        server.kill()
        with pytest.raises(ConnectionError):
            await client.until(lambda: False)
        assert number not in client.session.pending
    before = {name: dict(replica.rows(name)) for name in replica.tables}
    server.start()
    async with Client(server.remote) as client:
        write = Transaction(schema)
        write.delete("Bridge", [eq("name", "br-kept")])
        write.update("Open_vSwitch", [], {"bridges": ()})
        assert (await client.transact(write)).ok
        synced = await client.monitor(replica)
        assert not synced.found
        assert {(change.table, change.new is None) for change in synced.changes} == {
            ("Open_vSwitch", False),
            ("Bridge", True),
        }
        for change in synced.changes:
            assert before[change.table].pop(change.uuid) == change.old
            if change.new is not None:
                before[change.table][change.uuid] = change.new
        assert before == {name: dict(replica.rows(name)) for name in replica.tables}
