"""A copy of some tables of a peer's database, kept by a monitor (ovsdb-server(7) sections 4.1.12 to 4.1.16).

A `Replica` outlives connections: each new session picks it up where the last one left. Its promise: the changes that
it has handed out, one after the other, always add up to what it holds. So when a server cannot resume (`found`
false: it restarted, or its history is too short) the new contents are compared with the old ones and only the
difference is handed out; nothing is forgotten meanwhile, and nobody sees rows vanish and come back.

An update is decoded wholly before any of it is applied, so a bad one leaves the replica as it was. After a bad one
the replica asks for the full contents next time, or it would meet the same update again for ever.

A standalone ovsdb-server has no transaction ids (they are zero) and never resumes; a clustered one keeps up to a
hundred transactions, and no more of them than it has data. Rows cannot be written: they are MappingProxyType over the
watched columns, without _uuid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb.conditions import Where, encode_where
from ebbtide.ovsdb.schema import DatabaseSchema, TableSchema
from ebbtide.ovsdb.values import ZERO_UUID, Row, Uuid, is_uuid, parse_uuid

__all__ = ["MONITOR_METHODS", "Replica", "RowChange", "Watch"]

#: Best first. Each knows its own notification: update3, update2, update.
MONITOR_METHODS: Final = ("monitor_cond_since", "monitor_cond", "monitor")


class Watch(msgspec.Struct, frozen=True):
    """What to copy of a table: `columns` None is all; `where` empty is every row, else any term suffices.

    With the old "monitor" method `where` cannot be sent and every row comes.
    """

    columns: tuple[str, ...] | None = None
    where: Where = ()


class RowChange(msgspec.Struct, frozen=True):
    """A row appeared (`old` None), vanished (`new` None) or changed. Never both None, never equal."""

    table: str
    uuid: Uuid
    old: Row | None
    new: Row | None

    def touches(self, *columns: str) -> bool:
        """Whether any of these columns has changed; in a row that has come or gone, all have."""
        old, new = self.old, self.new
        return old is None or new is None or any(old[column] != new[column] for column in columns)


class _Table:
    """One watched table: its rows, and all that is needed to decode them."""

    __slots__ = ("defaults", "rows", "shape", "where")

    def __init__(self, schema: TableSchema, watch: Watch) -> None:
        names = schema.columns if watch.columns is None else watch.columns
        # Only the watched columns: one that we did not ask for is refused like an unknown one.
        self.shape = TableSchema(schema.name, {name: schema.column(name) for name in names})
        self.defaults = {name: column.default for name, column in self.shape.columns.items()}
        self.where = watch.where
        self.rows: dict[Uuid, Row] = {}


class Replica:
    """The copy. A session feeds it (`Session.monitor`); consumers read `rows` and get the changes as events."""

    def __init__(self, schema: DatabaseSchema, watches: Mapping[str, Watch] | Iterable[str] | None = None) -> None:
        """Watch the given tables, or all. A LocalProtocolError when the peer's schema lacks a table or column."""
        self.last_id: Uuid = ZERO_UUID
        self._owner: object | None = None
        self._synced = False
        self._unsettled = 0
        self._asked = ZERO_UUID
        self._tables: dict[str, _Table] = {}
        if watches is None:
            watches = schema.tables
        if not isinstance(watches, Mapping) or watches is schema.tables:
            watches = {name: Watch() for name in watches}
        self._watches: dict[str, Watch] = dict(watches)
        self.adopt(schema)

    def adopt(self, schema: DatabaseSchema) -> None:
        """Take another schema, between two monitors: the database was converted, or the server replaced. Rows stay
        until the next synchronization, which hands out the difference. A LocalProtocolError, and nothing done, when
        the schema lacks a watched table or column."""
        if self._owner is not None:
            raise LocalProtocolError("a replica takes no other schema while it is monitored")
        old = self._tables
        tables = {name: _Table(schema.table(name), watch) for name, watch in self._watches.items()}
        for name, table in tables.items():
            if name in old:
                table.rows = old[name].rows
        self.schema = schema
        self._tables = tables
        self.last_id = ZERO_UUID

    # ---- reading ----

    @property
    def synced(self) -> bool:
        """Whether a live monitor keeps this copy now. When not, the contents are the last ones known."""
        return self._synced

    @property
    def tables(self) -> tuple[str, ...]:
        """The watched tables."""
        return tuple(self._tables)

    def rows(self, table: str) -> Mapping[Uuid, Row]:
        """The rows of a table: a view that follows updates."""
        return MappingProxyType(self._tables[table].rows)

    def row(self, table: str, uuid: Uuid) -> Row | None:
        """One row."""
        return self._tables[table].rows.get(uuid)

    def __len__(self) -> int:
        return sum(len(table.rows) for table in self._tables.values())

    # ---- for the session ----

    def attach(self, owner: object, method: str) -> list[Any]:
        """A session takes over; the answer is the monitor requests, and the id to resume from where there is one."""
        self.detach(self._owner)
        self._owner = owner
        self._asked = self.last_id
        requests = {name: [self._request(table, method)] for name, table in self._tables.items()}
        return [requests, self._asked] if method == "monitor_cond_since" else [requests]

    @staticmethod
    def _request(table: _Table, method: str) -> dict[str, Any]:
        request: dict[str, Any] = {"columns": list(table.shape.columns)}
        if table.where and method != "monitor":
            request["where"] = encode_where(table.shape, table.where)
        return request

    def owned_by(self, owner: object) -> bool:
        """Whether `owner` is the session that feeds this replica; a session that was replaced must not."""
        return self._owner is owner

    def detach(self, owner: object | None, *, forget_position: bool = False) -> None:
        """The monitor of `owner` is gone. The contents stay."""
        if owner is None or self._owner is not owner:
            return
        self._owner = None
        self._synced = False
        if self._unsettled or forget_position:
            self._unsettled = 0
            self.last_id = ZERO_UUID

    def change_where(self, wheres: Mapping[str, Where]) -> dict[str, Any]:
        """Choose other rows; the answer is the parameter of monitor_cond_change (ovsdb-server(7) section 4.1.13).

        Until the server has answered, the position in its history fits neither choice and is not used to resume.
        """
        encoded = {}
        for name, where in wheres.items():
            if name not in self._tables:
                raise LocalProtocolError(f"table {name} is not watched")
            # An empty where means every row here, but no row in this request.
            encoded[name] = [{"where": encode_where(self._tables[name].shape, where) or [True]}]
        for name, where in wheres.items():
            self._tables[name].where = where
            self._watches[name] = Watch(self._watches[name].columns, where)
        self._unsettled += 1
        return encoded

    def where_settled(self) -> None:
        """The server has answered a monitor_cond_change."""
        self._unsettled -= 1

    def take_reply(self, method: str, result: Any) -> tuple[bool, list[RowChange]]:
        """The reply to a monitor request: whether it resumed, and what has changed since the last change."""
        found, last_id, updates = False, ZERO_UUID, result
        if method == "monitor_cond_since":
            if type(result) is not list or len(result) != 3 or type(result[0]) is not bool:
                raise RemoteProtocolError("reply to monitor_cond_since: not [found, last-txn-id, updates]")
            found, last_id, updates = result[0], parse_uuid(result[1]), result[2]
            if found and self._asked == ZERO_UUID:
                raise RemoteProtocolError("reply to monitor_cond_since: resumed from nothing")
        changes = list(self._decode(updates, old_style=method == "monitor"))
        if not found:
            changes += self._vanished(updates)
        self._commit(changes)
        self.last_id = last_id
        self._synced = True
        return found, changes

    def take_update(self, updates: Any, *, old_style: bool, last_id: Any = None) -> list[RowChange]:
        """An update, update2 or update3 notification."""
        position = parse_uuid(last_id) if last_id is not None else ZERO_UUID
        changes = list(self._decode(updates, old_style=old_style))
        self._commit(changes)
        self.last_id = position
        return changes

    # ---- inside ----

    def _decode(self, updates: Any, *, old_style: bool) -> Iterator[RowChange]:
        """<table-updates> or <table-updates2>, as the changes that they make to what is held now."""
        if type(updates) is not dict:
            raise RemoteProtocolError("table updates are an object")
        decode = _decode_v1 if old_style else _decode_v2
        for name, rows in updates.items():
            table = self._tables.get(name)
            if table is None or type(rows) is not dict:
                raise RemoteProtocolError(f"an update of a table that is not watched, or without rows: {name[:60]!r}")
            held = table.rows
            for text, update in rows.items():
                if not is_uuid(text):
                    raise RemoteProtocolError(f"table {name}: a row that is not named by a uuid: {text[:60]!r}")
                uuid = Uuid(text)
                old = held.get(uuid)
                new = decode(table, old, update)
                if old is None or old != new:
                    yield RowChange(name, uuid, old, new)

    def _vanished(self, updates: Mapping[str, Mapping[str, Any]]) -> Iterator[RowChange]:
        """Rows that we hold and full contents lack."""
        for name, table in self._tables.items():
            present = updates.get(name, ())
            for uuid, row in table.rows.items():
                if uuid not in present:
                    yield RowChange(name, uuid, row, None)

    def _commit(self, changes: list[RowChange]) -> None:
        for change in changes:
            rows = self._tables[change.table].rows
            if change.new is None:
                del rows[change.uuid]
            else:
                rows[change.uuid] = change.new


def _decode_v2(table: _Table, old: Row | None, update: Any) -> Row | None:
    """<row-update2> (ovsdb-server(7) section 4.1.14): one of initial, insert, modify, delete."""
    if type(update) is not dict or len(update) != 1:
        raise RemoteProtocolError(f"table {table.shape.name}: not a row update")
    ((kind, body),) = update.items()
    if kind in ("initial", "insert"):
        # Whole contents, so a row that we hold already is replaced.
        return table.shape.decode_row(body, table.defaults)
    if old is None:
        raise RemoteProtocolError(f"table {table.shape.name}: {kind[:20]!r} of a row that is not there")
    if kind == "delete":
        return None
    if kind == "modify":
        return _modified(table.shape, old, body)
    raise RemoteProtocolError(f"table {table.shape.name}: unknown row update {kind[:20]!r}")


def _modified(shape: TableSchema, old: Row, body: Any) -> Row:
    """A "modify": sets and maps carry the difference, other columns the new value."""
    if type(body) is not dict:
        raise RemoteProtocolError(f"table {shape.name}: a modified row is an object")
    new = dict(old)
    for name, json in body.items():
        column = shape.columns.get(name)
        if column is None:
            raise RemoteProtocolError(f"table {shape.name}: unknown column {name[:60]!r}")
        try:
            value = column.diff(json)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"table {shape.name}, column {name}: {error}") from None
        if column.type.is_composite:
            value = _patched(old[name], value) if column.type.is_map else old[name] ^ value
        new[name] = value
    return MappingProxyType(new)


def _patched(old: Mapping[Any, Any], difference: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A map after a difference: the same pair again takes it out, any other sets it."""
    new = dict(old)
    for key, value in difference.items():
        if key in new and new[key] == value:
            del new[key]
        else:
            new[key] = value
    return MappingProxyType(new)


def _decode_v1(table: _Table, old: Row | None, update: Any) -> Row | None:
    """<row-update> (RFC 7047 section 4.1.6): "new" is the whole row, "old" what was different."""
    if type(update) is not dict or not update:
        raise RemoteProtocolError(f"table {table.shape.name}: not a row update")
    if "new" in update:
        return table.shape.decode_row(update["new"], table.defaults)
    if old is None:
        raise RemoteProtocolError(f"table {table.shape.name}: delete of a row that is not there")
    return None
