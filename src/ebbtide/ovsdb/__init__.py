"""OVSDB without I/O: RFC 7047 and the extensions of ovsdb-server(7).

    bytes ─► framing ─► session ─► events          requests ─► session ─► bytes
                          │  ▲
                          ▼  │ monitor
                        replica: rows, and the changes that lead to them

`schema` and `values` say what a column holds in Python; `conditions` and `transaction` build what is sent; `locks` and
`databases` hold the state of locks and of the peer's databases. Nothing in here opens a connection, asks for the time
or makes an id: a driver of some sixty lines does (`tests/ovsdb/client.py` is one).
"""

from ebbtide.ovsdb.conditions import (
    Condition,
    Mutation,
    Where,
    add,
    by_uuid,
    delete_from,
    eq,
    excludes,
    ge,
    gt,
    includes,
    insert_into,
    le,
    lt,
    ne,
)
from ebbtide.ovsdb.databases import SERVER_DATABASE, DatabaseStatus, database_statuses, database_watch
from ebbtide.ovsdb.framing import DEFAULT_LIMIT, PEER_LIMIT
from ebbtide.ovsdb.locks import LockState
from ebbtide.ovsdb.replica import Replica, RowChange, Watch
from ebbtide.ovsdb.schema import ColumnSchema, DatabaseSchema, TableSchema, parse_schema
from ebbtide.ovsdb.session import Session, State
from ebbtide.ovsdb.transaction import OperationError, Outcome, Transaction
from ebbtide.ovsdb.values import ZERO_UUID, NamedUuid, Row, Uuid, is_uuid

__all__ = [
    "DEFAULT_LIMIT",
    "PEER_LIMIT",
    "SERVER_DATABASE",
    "ZERO_UUID",
    "ColumnSchema",
    "Condition",
    "DatabaseSchema",
    "DatabaseStatus",
    "LockState",
    "Mutation",
    "NamedUuid",
    "OperationError",
    "Outcome",
    "Replica",
    "Row",
    "RowChange",
    "Session",
    "State",
    "TableSchema",
    "Transaction",
    "Uuid",
    "Watch",
    "Where",
    "add",
    "by_uuid",
    "database_statuses",
    "database_watch",
    "delete_from",
    "eq",
    "excludes",
    "ge",
    "gt",
    "includes",
    "insert_into",
    "is_uuid",
    "le",
    "lt",
    "ne",
    "parse_schema",
]
