"""The oracle: after random transactions, ovs.db.idl on the same server shows the tables that our replica shows."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ebbtide.ovsdb import (
    NamedUuid,
    Replica,
    RowChange,
    Session,
    Transaction,
    Uuid,
    add,
    by_uuid,
    delete_from,
    insert_into,
)
from ebbtide.ovsdb import events as ev

from .client import Client
from .conftest import VSWITCH_SCHEMA, Server

pytestmark = pytest.mark.anyio

TABLES = ("Open_vSwitch", "Bridge", "Port", "Interface", "Mirror", "QoS", "Queue", "Flow_Table")
WORDS = ["a", "b", "é", '"}{', "\\", "", "x" * 300]


def tables_by_idl(remote: str, root: Uuid, mark: int) -> dict[str, dict[str, dict[str, Any]]]:
    """All tables as the IDL sees them once next_cfg is `mark`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ovs.db.idl
        import ovs.poller
    schema = ovs.db.idl.SchemaHelper(str(VSWITCH_SCHEMA))
    for table in TABLES:
        schema.register_table(table)
    idl = ovs.db.idl.Idl(remote, schema)
    try:
        while not any(row.next_cfg == mark for row in idl.tables["Open_vSwitch"].rows.values()):
            if not idl.run():
                poller = ovs.poller.Poller()
                poller.timer_wait(20000)
                idl.wait(poller)
                poller.block()
        found = {}
        for name in TABLES:
            columns = idl.tables[name].columns
            found[name] = {
                str(uuid): {column: plain(row._data[column].to_json()) for column in columns}
                for uuid, row in idl.tables[name].rows.items()
            }
        return found
    finally:
        idl.close()


def plain(json: Any) -> Any:
    """A value of the IDL in one spelling, whatever its cardinality: sorted elements or pairs."""
    if isinstance(json, list) and json and json[0] in ("set", "map"):
        return sorted(json[1], key=repr)
    return [json]


def tables_by_replica(replica: Replica) -> dict[str, dict[str, dict[str, Any]]]:
    schema = replica.schema

    def spelled(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: plain(schema.tables[table].columns[name].encode(value)) for name, value in row.items()}

    return {name: {uuid: spelled(name, row) for uuid, row in replica.rows(name).items()} for name in TABLES}


class Scribe:
    """Makes random transactions that the server takes, or mostly."""

    def __init__(self, seed: int, replica: Replica, root: Uuid) -> None:
        self.dice = random.Random(seed)
        self.replica = replica
        self.root = root
        self.count = 0

    def pick(self, table: str) -> Uuid | None:
        rows = sorted(self.replica.rows(table))
        return self.dice.choice(rows) if rows else None

    def words(self) -> dict[str, str]:
        return {self.dice.choice(WORDS): self.dice.choice(WORDS) for _ in range(self.dice.randrange(4))}

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def add_port(self, transaction: Transaction, bridge: Uuid | NamedUuid) -> None:
        interfaces = {
            transaction.insert("Interface", {"name": self.name(), "options": self.words()})
            for _ in range(self.dice.randrange(1, 4))
        }
        row = {"name": self.name(), "interfaces": interfaces, "tag": self.dice.choice([None, 0, 4095])}
        row["trunks"] = set(self.dice.sample(range(4096), self.dice.randrange(5)))
        port = transaction.insert("Port", row)
        transaction.mutate("Bridge", by_uuid(bridge), [insert_into("ports", {port})])

    def step(self, transaction: Transaction) -> None:
        dice = self.dice
        bridge, port = self.pick("Bridge"), self.pick("Port")
        match dice.randrange(9):
            case 0 | 1:
                named = transaction.insert("Bridge", {"name": self.name(), "external_ids": self.words()})
                transaction.mutate("Open_vSwitch", [], [insert_into("bridges", {named})])
                self.add_port(transaction, named)
            case 2 | 3 if bridge:
                self.add_port(transaction, bridge)
            case 4 if bridge:
                mutations = [insert_into("other_config", self.words()), delete_from("other_config", set(WORDS[:2]))]
                transaction.mutate("Bridge", by_uuid(bridge), mutations)
                transaction.update(
                    "Bridge",
                    by_uuid(bridge),
                    {
                        "fail_mode": dice.choice([None, "secure"]),
                        "mcast_snooping_enable": dice.random() < 0.5,
                        "flood_vlans": set(dice.sample(range(4096), dice.randrange(3))),
                    },
                )
            case 5 if bridge and dice.random() < 0.4:
                transaction.mutate("Open_vSwitch", [], [delete_from("bridges", {bridge})])
            case 6 if port:
                transaction.update("Port", by_uuid(port), {"external_ids": self.words(), "tag": dice.choice([None, 5])})
                transaction.mutate("Port", by_uuid(port), [insert_into("trunks", {7, 8}), delete_from("trunks", {8})])
            case 7:
                queues = {n: transaction.insert("Queue", {"dscp": dice.choice([None, 3])}) for n in range(2)}
                qos = transaction.insert("QoS", {"type": "linux-htb", "queues": queues})
                if port:
                    transaction.update("Port", by_uuid(port), {"qos": qos})
            case _ if bridge:
                where = by_uuid(bridge)
                mirror = transaction.insert("Mirror", {"name": self.name(), "select_all": True})
                table = transaction.insert("Flow_Table", {"flow_limit": 5, "prefixes": {"a", "b"}})
                transaction.mutate("Bridge", where, [insert_into("mirrors", {mirror})])
                transaction.update("Bridge", where, {"flow_tables": {dice.randrange(5): table}})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("clustered", "method"),
    [(False, "monitor_cond_since"), (True, "monitor_cond_since"), (False, "monitor_cond"), (False, "monitor")],
)
async def test_the_idl_shows_the_same(
    make_server: Callable[..., Server], seed: int, clustered: bool, method: str
) -> None:
    server = make_server(clustered=clustered)
    session = Session(monitor_methods=(method,))
    root = Uuid("11111111-0000-0000-0000-000000000000")
    async with Client(server.remote) as writer, Client(server.remote, session) as client:
        schema = await writer.schema("Open_vSwitch")
        first = Transaction(schema)
        first.insert("Open_vSwitch", {}, uuid=root)
        assert (await writer.transact(first)).ok
        replica, seen = Replica(schema, TABLES), Replica(schema, TABLES)
        shadow: dict[tuple[str, Uuid], Any] = {}

        def follow(changes: list[RowChange]) -> None:
            for change in changes:
                assert shadow.get((change.table, change.uuid)) == change.old
                shadow[change.table, change.uuid] = change.new

        client.on_event = lambda event: follow(event.changes) if isinstance(event, ev.Updated) else None
        follow((await client.monitor(replica)).changes)
        await writer.monitor(seen)
        scribe = Scribe(seed, seen, root)
        done = 0
        for _ in range(60):
            transaction = Transaction(schema)
            for _ in range(scribe.dice.randrange(1, 4)):
                scribe.step(transaction)
            done += (await writer.transact(transaction)).ok
        assert done > 30
        mark = Transaction(schema)
        mark.mutate("Open_vSwitch", by_uuid(root), [add("next_cfg", 77)])
        assert (await writer.transact(mark)).ok
        await client.until(lambda: replica.rows("Open_vSwitch")[root]["next_cfg"] == 77)
        assert tables_by_replica(replica) == tables_by_idl(server.remote, root, 77)
        assert tables_by_replica(seen) == tables_by_replica(replica)
        assert {key: row for key, row in shadow.items() if row is not None} == {
            (table, uuid): row for table in TABLES for uuid, row in replica.rows(table).items()
        }
        assert all(len(replica.rows(table)) for table in TABLES)
