"""Database schemas: what get_schema answers, parsed and compiled (RFC 7047 section 3.2).

A `DatabaseSchema` is a value: tables, columns, types. Each `TableSchema` carries the decoders and encoders of its
columns, compiled when the schema is parsed, so that nobody looks at a type again when rows fly by. Nothing in here
knows a particular database; the peer's schema is what counts, since computes differ in version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb.values import (
    INT_MAX,
    BaseType,
    ColumnType,
    Decoder,
    Encoder,
    Row,
    decode_uuid,
    decoder_for,
    default_for,
    encode_uuid,
    encoder_for,
)

__all__ = ["ColumnSchema", "DatabaseSchema", "TableSchema", "parse_schema"]

_UUID_TYPE = ColumnType(BaseType("uuid"))
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_KINDS = frozenset({"integer", "real", "boolean", "string", "uuid"})


class ColumnSchema:
    """One column: its type, and the functions made of it. `diff` decodes what "modify" carries."""

    __slots__ = (
        "decode",
        "default",
        "diff",
        "encode",
        "encode_keys",
        "encode_part",
        "ephemeral",
        "mutable",
        "name",
        "type",
    )

    def __init__(self, name: str, type_: ColumnType, *, ephemeral: bool = False, mutable: bool = True) -> None:
        self.name = name
        self.type = type_
        self.ephemeral = ephemeral
        self.mutable = mutable
        self.decode: Decoder = decoder_for(type_)
        self.diff: Decoder = decoder_for(type_, loose=type_.is_composite)
        self.encode: Encoder = encoder_for(type_)
        #: for mutations and "includes": any part of the column; and, of a map, for keys alone
        self.encode_part: Encoder = encoder_for(type_, loose=True)
        self.encode_keys: Encoder = encoder_for(ColumnType(type_.key, None, 0, None))
        self.default: Any = default_for(type_)

    def __repr__(self) -> str:
        return f"ColumnSchema({self.name!r}, {self.type!r})"


class TableSchema:
    """One table. `columns` leaves out _uuid and _version, which every table has (RFC 7047 section 3.2)."""

    __slots__ = ("_decoders", "columns", "indexes", "is_root", "max_rows", "name")

    def __init__(
        self,
        name: str,
        columns: Mapping[str, ColumnSchema],
        *,
        is_root: bool = True,
        max_rows: int | None = None,
        indexes: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.name = name
        self.columns = MappingProxyType(dict(columns))
        self.is_root = is_root
        self.max_rows = max_rows
        self.indexes = tuple(indexes)
        self._decoders: dict[str, Decoder] = {column.name: column.decode for column in columns.values()}
        self._decoders |= {"_uuid": decode_uuid, "_version": decode_uuid}

    def __repr__(self) -> str:
        return f"TableSchema({self.name!r}, {len(self.columns)} columns)"

    def column(self, name: str) -> ColumnSchema:
        """The column, or a LocalProtocolError: the peer's schema has none of that name."""
        try:
            return self.columns[name]
        except KeyError:
            raise LocalProtocolError(f"table {self.name} of the peer has no column {name}") from None

    def decode_row(self, json: Any, defaults: Mapping[str, Any] = _NOTHING) -> Row:
        """A <row> from the wire; columns that it leaves out are taken from `defaults`."""
        if type(json) is not dict:
            raise RemoteProtocolError(f"table {self.name}: a row is an object, not {type(json).__name__}")
        row = dict(defaults)
        decoders = self._decoders
        for name, value in json.items():
            decoder = decoders.get(name)
            if decoder is None:
                raise RemoteProtocolError(f"table {self.name}: unknown column {name[:60]!r}")
            try:
                row[name] = decoder(value)
            except RemoteProtocolError as error:
                raise RemoteProtocolError(f"table {self.name}, column {name}: {error}") from None
        return MappingProxyType(row)

    def encode_row(self, row: Row) -> dict[str, Any]:
        """A <row> for insert, update or wait."""
        encoded = {}
        for name, value in row.items():
            column = self.columns.get(name)
            encode = column.encode if column is not None else self._encoder_of_special(name)
            try:
                encoded[name] = encode(value)
            except LocalProtocolError as error:
                raise LocalProtocolError(f"table {self.name}, column {name}: {error}") from None
        return encoded

    def _encoder_of_special(self, name: str) -> Encoder:
        if name in ("_uuid", "_version"):
            return encode_uuid
        raise LocalProtocolError(f"table {self.name} of the peer has no column {name}")

    def column_type(self, name: str) -> ColumnType:
        """Type of a column, _uuid and _version included."""
        return _UUID_TYPE if name in ("_uuid", "_version") else self.column(name).type


class DatabaseSchema:
    """A whole schema. `version` is the database's own, "x.y.z"."""

    __slots__ = ("checksum", "name", "tables", "version")

    def __init__(self, name: str, tables: Mapping[str, TableSchema], version: str = "", checksum: str = "") -> None:
        self.name = name
        self.version = version
        self.checksum = checksum
        self.tables = MappingProxyType(dict(tables))

    def __repr__(self) -> str:
        return f"DatabaseSchema({self.name!r}, {self.version!r}, {len(self.tables)} tables)"

    def table(self, name: str) -> TableSchema:
        """The table, or a LocalProtocolError: the peer's schema has none of that name."""
        try:
            return self.tables[name]
        except KeyError:
            raise LocalProtocolError(f"database {self.name} of the peer has no table {name}") from None


# ---- parsing ------------------------------------------------------------------------------------------------------


class _BaseJson(msgspec.Struct):
    type: str
    enum: Any = None
    min_integer: int | None = msgspec.field(default=None, name="minInteger")
    max_integer: int | None = msgspec.field(default=None, name="maxInteger")
    min_real: float | None = msgspec.field(default=None, name="minReal")
    max_real: float | None = msgspec.field(default=None, name="maxReal")
    min_length: int | None = msgspec.field(default=None, name="minLength")
    max_length: int | None = msgspec.field(default=None, name="maxLength")
    ref_table: str = msgspec.field(default="", name="refTable")
    ref_type: str = msgspec.field(default="strong", name="refType")


class _TypeJson(msgspec.Struct):
    key: str | _BaseJson
    value: str | _BaseJson | None = None
    min: int = 1
    max: int | str = 1


class _ColumnJson(msgspec.Struct):
    type: str | _TypeJson
    ephemeral: bool = False
    mutable: bool = True


class _TableJson(msgspec.Struct):
    columns: dict[str, _ColumnJson]
    max_rows: int | None = msgspec.field(default=None, name="maxRows")
    is_root: bool = msgspec.field(default=False, name="isRoot")
    indexes: list[list[str]] = []


class _SchemaJson(msgspec.Struct):
    name: str
    tables: dict[str, _TableJson]
    version: str = ""
    cksum: str = ""


def parse_schema(json: Any) -> DatabaseSchema:
    """The result of get_schema, or the content of an .ovsschema file, as decoded JSON."""
    try:
        raw = msgspec.convert(json, _SchemaJson)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RemoteProtocolError(f"not a database schema: {error}") from error
    # With no isRoot anywhere, every table is a root: schemas older than the key (RFC 7047 section 3.2).
    any_root = any(table.is_root for table in raw.tables.values())
    tables = {
        name: TableSchema(
            name,
            {c: _parse_column(f"{name}.{c}", c, column) for c, column in table.columns.items()},
            is_root=table.is_root or not any_root,
            max_rows=table.max_rows,
            indexes=[tuple(index) for index in table.indexes],
        )
        for name, table in raw.tables.items()
    }
    return DatabaseSchema(raw.name, tables, raw.version, raw.cksum)


def _parse_column(where: str, name: str, json: _ColumnJson) -> ColumnSchema:
    raw = _TypeJson(json.type) if isinstance(json.type, str) else json.type
    if isinstance(raw.max, str) and raw.max != "unlimited":
        raise RemoteProtocolError(f"schema of {where}: max is {raw.max[:20]!r}")
    high = None if isinstance(raw.max, str) else raw.max
    if raw.min not in (0, 1) or (high is not None and not max(raw.min, 1) <= high <= INT_MAX):
        raise RemoteProtocolError(f"schema of {where}: from {raw.min} to {high} elements")
    key = _parse_base(where, raw.key)
    value = None if raw.value is None else _parse_base(where, raw.value)
    return ColumnSchema(name, ColumnType(key, value, raw.min, high), ephemeral=json.ephemeral, mutable=json.mutable)


def _parse_base(where: str, json: str | _BaseJson) -> BaseType:
    raw = _BaseJson(json) if isinstance(json, str) else json
    if raw.type not in _KINDS:
        raise RemoteProtocolError(f"schema of {where}: unknown type {raw.type[:20]!r}")
    low: float | None = None
    high: float | None = None
    if raw.type == "integer":
        low, high = raw.min_integer, raw.max_integer
    elif raw.type == "real":
        low, high = raw.min_real, raw.max_real
    elif raw.type == "string":
        low, high = raw.min_length, raw.max_length
    enum: frozenset[Any] = frozenset()
    if raw.enum is not None:
        enum = decoder_for(ColumnType(BaseType(raw.type), None, 0, None))(raw.enum)
    return BaseType(raw.type, enum, low, high, raw.ref_table, raw.ref_type != "weak")
