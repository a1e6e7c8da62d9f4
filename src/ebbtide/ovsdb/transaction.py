"""Transactions: operations in, one outcome back (RFC 7047 sections 4.1.3 and 5.2, ovsdb-server(7)).

A `Transaction` gathers operations for one database and encodes each at once, by the peer's schema, so a mistake is a
LocalProtocolError at the line that made it. Operations run in order and all or none takes effect. `decode` turns the
reply into an `Outcome`: one result per operation, or an `OperationError` that says which operation failed and why.
A refused transaction is a value, not an exception: refusals (a wait that did not hold, a lost lock) are ordinary.

The changes of a transaction reach the replicas of its own session before its outcome does (ovsdb-server(7), 4.1.5).
When the connection ends before the reply, the outcome is unknown: look at the replica after it has resumed, or make
the transaction such that doing it twice is harmless (a wait on what was read, an insert with a uuid of its own).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb.conditions import Mutation, Where, encode_mutation, encode_where
from ebbtide.ovsdb.schema import DatabaseSchema, TableSchema
from ebbtide.ovsdb.values import NamedUuid, Row, Uuid, check_id, decode_uuid, is_uuid

__all__ = [
    "ABORTED",
    "CANCELED",
    "CONSTRAINT_VIOLATION",
    "NOT_OWNER",
    "REFERENTIAL_INTEGRITY_VIOLATION",
    "TIMED_OUT",
    "Counted",
    "Done",
    "Inserted",
    "OperationError",
    "Outcome",
    "Result",
    "Selected",
    "Transaction",
    "decode_error",
]

# The errors that callers tell apart (RFC 7047 sections 3.1 and 5.2). Others come through as the server spells them.
TIMED_OUT: Final = "timed out"
NOT_OWNER: Final = "not owner"
ABORTED: Final = "aborted"
CANCELED: Final = "canceled"
CONSTRAINT_VIOLATION: Final = "constraint violation"
REFERENTIAL_INTEGRITY_VIOLATION: Final = "referential integrity violation"

# ---- results ------------------------------------------------------------------------------------------------------


class Inserted(msgspec.Struct, frozen=True):
    """insert: the uuid of the new row."""

    uuid: Uuid


class Counted(msgspec.Struct, frozen=True):
    """update, mutate, delete: how many rows matched."""

    count: int


class Selected(msgspec.Struct, frozen=True):
    """select: the rows, with _uuid and _version where they were asked for."""

    rows: tuple[Row, ...]


class Done(msgspec.Struct, frozen=True):
    """wait, commit, abort, comment, assert: nothing to say."""


Result: TypeAlias = "Inserted | Counted | Selected | Done"


class OperationError(msgspec.Struct, frozen=True):
    """Why nothing was done. `index` is the operation; it equals the number of operations when the commit failed
    (constraints, references, durability). -1: the request as a whole, for example "canceled"."""

    index: int
    error: str
    details: str = ""

    def __str__(self) -> str:
        return f"operation {self.index}: {self.error}" + (f" ({self.details})" if self.details else "")


class Outcome(msgspec.Struct, frozen=True):
    """What became of a transaction: `results`, one per operation, or `error`."""

    results: tuple[Result, ...] = ()
    error: OperationError | None = None
    #: uuid-name -> the uuid that the row got
    uuids: Mapping[str, Uuid] = {}

    @property
    def ok(self) -> bool:
        """Whether it took effect."""
        return self.error is None

    def uuid_of(self, row: NamedUuid) -> Uuid:
        """The uuid that an inserted row got."""
        return self.uuids[row.name]

    def count(self, index: int) -> int:
        """Rows matched by the update, mutate or delete at `index`."""
        result = self.results[index]
        assert isinstance(result, Counted), f"operation {index} counts nothing: {result}"
        return result.count

    def rows(self, index: int) -> tuple[Row, ...]:
        """Rows found by the select at `index`."""
        result = self.results[index]
        assert isinstance(result, Selected), f"operation {index} selects nothing: {result}"
        return result.rows


# ---- the transaction ----------------------------------------------------------------------------------------------


class Transaction:
    """Operations for one database. Each method but `insert` returns the index of its operation."""

    def __init__(self, schema: DatabaseSchema) -> None:
        self.schema = schema
        self._operations: list[dict[str, Any]] = []
        self._names: dict[str, int] = {}
        self._tables: list[TableSchema | None] = []

    def __len__(self) -> int:
        return len(self._operations)

    @property
    def operations(self) -> Sequence[Mapping[str, Any]]:
        """The operations as JSON, for logs and tests."""
        return tuple(self._operations)

    def params(self) -> list[Any]:
        """Parameters of the "transact" request (RFC 7047 section 4.1.3)."""
        return [self.schema.name, *self._operations]

    def _append(self, operation: dict[str, Any], table: TableSchema | None = None) -> int:
        self._operations.append(operation)
        self._tables.append(table)
        return len(self._operations) - 1

    def insert(self, table: str, row: Row, *, name: str = "", uuid: Uuid | None = None) -> NamedUuid:
        """Insert a row (RFC 7047 section 5.2.1). The answer names it within this transaction.

        `uuid` gives the row a uuid of the caller's (ovsdb-server(7) section 5.2.1, Open vSwitch 2.13 and later).
        """
        shape = self.schema.table(table)
        named = NamedUuid(check_id(name or f"row{len(self._operations)}"))
        if named.name in self._names:
            raise LocalProtocolError(f"uuid-name {named.name} is used twice")
        operation = {"op": "insert", "table": table, "row": shape.encode_row(row), "uuid-name": named.name}
        if uuid is not None:
            if not is_uuid(uuid):
                raise LocalProtocolError(f"not a uuid: {uuid!r}")
            operation["uuid"] = uuid
        self._names[named.name] = self._append(operation)
        return named

    def update(self, table: str, where: Where, row: Row) -> int:
        """Set columns of every matching row (section 5.2.3)."""
        shape = self.schema.table(table)
        for name in row:
            if name in shape.columns and not shape.columns[name].mutable:
                raise LocalProtocolError(f"table {table}, column {name} cannot be changed after insert")
        return self._append(
            {"op": "update", "table": table, "where": encode_where(shape, where), "row": shape.encode_row(row)}
        )

    def mutate(self, table: str, where: Where, mutations: Iterable[Mutation]) -> int:
        """Change columns of every matching row in place (section 5.2.4)."""
        shape = self.schema.table(table)
        encoded = [encode_mutation(shape, mutation) for mutation in mutations]
        return self._append({"op": "mutate", "table": table, "where": encode_where(shape, where), "mutations": encoded})

    def delete(self, table: str, where: Where) -> int:
        """Delete every matching row (section 5.2.5). Rows that nothing refers to go by themselves."""
        shape = self.schema.table(table)
        return self._append({"op": "delete", "table": table, "where": encode_where(shape, where)})

    def select(self, table: str, where: Where = (), columns: Sequence[str] | None = None) -> int:
        """Read rows as this transaction sees them (section 5.2.2). None: all columns, _uuid and _version too."""
        shape = self.schema.table(table)
        operation: dict[str, Any] = {"op": "select", "table": table, "where": encode_where(shape, where)}
        if columns is not None:
            operation["columns"] = [name for name in columns if shape.column_type(name)]
        return self._append(operation, shape)

    def wait(
        self,
        table: str,
        where: Where,
        rows: Sequence[Row],
        *,
        columns: Sequence[str] | None = None,
        until: str = "==",
        timeout_ms: int | None = 0,
    ) -> int:
        """Go on only when the matching rows equal (or differ from, `until` "!=") `rows` (section 5.2.6).

        With the default timeout of 0 the transaction fails at once with "timed out" when they do not: optimistic
        locking. None waits for ever; then other requests of this connection go on meanwhile.
        """
        shape = self.schema.table(table)
        if until not in ("==", "!="):
            raise LocalProtocolError(f"wait until {until!r}: only == and != exist")
        names = columns if columns is not None else list(rows[0]) if rows else ["_uuid"]
        operation: dict[str, Any] = {
            "op": "wait",
            "table": table,
            "where": encode_where(shape, where),
            "columns": [name for name in names if shape.column_type(name)],
            "until": until,
            "rows": [shape.encode_row(row) for row in rows],
        }
        if timeout_ms is not None:
            operation["timeout"] = timeout_ms
        return self._append(operation)

    def assert_lock(self, lock: str) -> int:
        """Fail with "not owner" unless this connection holds `lock` (section 5.2.10)."""
        return self._append({"op": "assert", "lock": check_id(lock)})

    def comment(self, text: str) -> int:
        """Text for the database's log (section 5.2.9)."""
        return self._append({"op": "comment", "comment": text})

    def commit(self, *, durable: bool = True) -> int:
        """With `durable` the reply comes after the change is on disk (section 5.2.7)."""
        return self._append({"op": "commit", "durable": durable})

    def abort(self) -> int:
        """Undo all: for a trial run (section 5.2.8). The outcome is the error "aborted"."""
        return self._append({"op": "abort"})

    # ---- the reply ----

    def decode(self, result: Any) -> Outcome:
        """The result array of the reply (RFC 7047 section 4.1.3)."""
        count = len(self._operations)
        if type(result) is not list or not count <= len(result) <= count + 1:
            raise RemoteProtocolError(f"reply to a transaction of {count} operations: not an array of as many results")
        for index, item in enumerate(result):
            if type(item) is dict and "error" in item:
                return Outcome(error=decode_error(item, index))
        if len(result) != count:
            raise RemoteProtocolError(f"reply to a transaction of {count} operations holds {len(result)} results")
        results = tuple(self._decode_one(index, item) for index, item in enumerate(result))
        uuids: dict[str, Uuid] = {}
        for name, index in self._names.items():
            row = results[index]
            if isinstance(row, Inserted):
                uuids[name] = row.uuid
        return Outcome(results, None, uuids)

    def _decode_one(self, index: int, item: Any) -> Result:
        if type(item) is not dict:
            raise RemoteProtocolError(f"result of operation {index}: an object was due")
        kind = self._operations[index]["op"]
        if kind == "insert":
            return Inserted(decode_uuid(item.get("uuid")))
        if kind in ("update", "mutate", "delete"):
            number = item.get("count")
            if type(number) is not int or number < 0:
                raise RemoteProtocolError(f"result of operation {index}: no count")
            return Counted(number)
        if kind == "select":
            rows, table = item.get("rows"), self._tables[index]
            if type(rows) is not list or table is None:
                raise RemoteProtocolError(f"result of operation {index}: no rows")
            return Selected(tuple(table.decode_row(row) for row in rows))
        return Done()


def decode_error(json: Any, index: int = -1) -> OperationError:
    """An <error> (RFC 7047 section 3.1), or the bare string that some replies carry in its place."""
    if type(json) is str:
        return OperationError(index, json)
    if type(json) is dict and type(json.get("error")) is str:
        details = json.get("details", "")
        return OperationError(index, json["error"], details if type(details) is str else "")
    raise RemoteProtocolError("an error that is neither an object with a text nor a text")
