"""The special database _Server: which databases a server has, and how each of them is (ovsdb-server(7), "Database
Replication and Clustering"; ovsdb(7), "Service Models").

Watch it like any database: get_schema of "_Server", then a replica made by `database_watch`. For a clustered database
it tells whether this server is connected to the majority and whether it leads; for any, whether its schema has
changed. Servers older than Open vSwitch 2.9 have none: get_schema fails with "unknown database", and then the server
is standalone.
"""

from __future__ import annotations

import msgspec

from ebbtide.ovsdb.replica import Replica, Watch
from ebbtide.ovsdb.schema import DatabaseSchema
from ebbtide.ovsdb.values import Row, Uuid

__all__ = ["SERVER_DATABASE", "DatabaseStatus", "database_statuses", "database_watch"]

SERVER_DATABASE = "_Server"

_COLUMNS = ("name", "model", "connected", "leader", "schema", "cid", "sid", "index")


class DatabaseStatus(msgspec.Struct, frozen=True):
    """One row of table Database. A standalone database is always connected and leader."""

    name: str
    #: "standalone", "clustered" or "relay"
    model: str = "standalone"
    #: to a majority of the cluster, or to the source of a relay
    connected: bool = True
    leader: bool = True
    #: text of the schema; None before the server has joined its cluster
    schema: str | None = None
    #: uuid of the cluster, and of this server in it
    cid: Uuid | None = None
    sid: Uuid | None = None
    #: of the last log entry; grows. A server that shows a smaller one than was seen before is behind.
    index: int | None = None


def database_watch(schema: DatabaseSchema) -> Replica:
    """A replica of what `database_statuses` needs, by the _Server schema of that peer."""
    known = schema.table("Database").columns
    return Replica(schema, {"Database": Watch(tuple(name for name in _COLUMNS if name in known))})


def database_statuses(replica: Replica) -> dict[str, DatabaseStatus]:
    """The databases by name, as they stand in the replica."""
    return {status.name: status for status in map(_status, replica.rows("Database").values())}


def _status(row: Row) -> DatabaseStatus:
    return DatabaseStatus(**row)
