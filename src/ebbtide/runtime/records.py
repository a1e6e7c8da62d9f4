"""Facts as rows of the store's own OVSDB schema, and back.

One table a kind of fact, one column a field; the conversion is driven by the fields' types, so a new fact costs one line here and
one table in `schema()`. Numbers that may exceed a signed 64-bit integer (DPN ids) are text. Facts refer to each other by their
keys, and State is checked for dangling ones when it is loaded: `docs/decisions.md`, "The store".
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from ebbtide.model.facts import (
    Binding,
    Compute,
    Cursor,
    Debt,
    Designation,
    Document,
    External,
    Fact,
    Floating,
    Item,
    Learnt,
    Lease,
    Move,
    Neighbour,
    Network,
    Operation,
    Port,
    Proof,
    Relation,
    Retired,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
    Vpn,
)

DATABASE = "Ebbtide"
SCHEMA_VERSION = "1.9.0"

TABLES: dict[str, tuple[type[Any], tuple[str, ...]]] = {
    "Compute": (Compute, ("number",)),
    "Network": (Network, ("id",)),
    "Port": (Port, ("id",)),
    "Binding": (Binding, ("port", "compute")),
    "Relation": (Relation, ("gateway", "peer")),
    "Debt": (Debt, ("compute", "removed")),
    "Cursor": (Cursor, ("kind",)),
    "Retired": (Retired, ("tag",)),
    "Operation": (Operation, ("id",)),
    "Item": (Item, ("operation", "kind", "object", "compute")),
    "Proof": (Proof, ("operation",)),
    "External": (External, ("id",)),
    "Router": (Router, ("id",)),
    "Vpn": (Vpn, ("id",)),
    "SecurityGroup": (SecurityGroup, ("id",)),
    "SecurityRule": (SecurityRule, ("group", "id")),
    "RouterPort": (RouterPort, ("router", "network", "address")),
    "Floating": (Floating, ("external", "address")),
    "Neighbour": (Neighbour, ("external", "address")),
    "Learnt": (Learnt, ("network", "address")),
    "Designation": (Designation, ("service", "object")),
    "Lease": (Lease, ("router", "first")),
    "Move": (Move, ("router",)),
    "Document": (Document, ("kind", "id")),
}
_AS_TEXT = {("Compute", "dpid")}
_NAMES = {kind: table for table, (kind, _) in TABLES.items()}


class _Column(msgspec.Struct, frozen=True):
    type: Any
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _column(table: str, field: str, kind: Any) -> _Column:
    if (table, field) in _AS_TEXT:
        return _Column("string", str, int)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _Column("string", str, kind)
    if kind is str:
        return _Column("string", _same, _same)
    if kind is bool:
        return _Column("boolean", _same, _same)
    if kind is int:
        return _Column("integer", _same, _same)
    if kind == tuple[tuple[str, str], ...]:
        shape = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}
        return _Column(shape, dict, lambda value: tuple(sorted(value.items())))
    if kind in (tuple[str, ...], tuple[int, ...]):
        atom = "string" if kind == tuple[str, ...] else "integer"
        return _Column({"key": atom, "min": 0, "max": "unlimited"}, frozenset, lambda value: tuple(sorted(value)))
    raise AssertionError(f"{table}.{field}: no column type for {kind}")


def _columns() -> dict[str, dict[str, _Column]]:
    found = {}
    for table, (kind, _) in TABLES.items():
        hints = typing.get_type_hints(kind)
        found[table] = {f: _column(table, f, hints[f]) for f in kind.__struct_fields__}
    return found


COLUMNS: Mapping[str, Mapping[str, _Column]] = types.MappingProxyType(_columns())
GLOBAL_COLUMNS = {
    "store_id": "string",
    "revision": "integer",
    "intent": "integer",
    "term": "integer",
    "hold": "string",
}


def schema() -> dict[str, Any]:
    """The store's schema, as JSON (ovsdb(5), RFC 7047 section 3.2)."""
    tables: dict[str, Any] = {
        "Global": {
            "columns": {name: {"type": kind} for name, kind in GLOBAL_COLUMNS.items()},
            "isRoot": True,
            "maxRows": 1,
        }
    }
    for table, (_, key) in TABLES.items():
        tables[table] = {
            "columns": {name: {"type": column.type} for name, column in COLUMNS[table].items()},
            "isRoot": True,
            "indexes": [list(key)],
        }
    return {"name": DATABASE, "version": SCHEMA_VERSION, "tables": tables}


def is_enough(version: str) -> bool:
    """Whether a store of this schema version is one for this controller: the same major and minor version.

    One of an older version lacks what we write. One of a newer holds what we would not know, and would take from every switch.
    """
    found, ours = (tuple(int(n) for n in v.split(".") if n.isdecimal())[:2] for v in (version, SCHEMA_VERSION))
    return len(found) == 2 and found == ours


def table_of(fact: Fact) -> str:
    """The table that a fact is a row of."""
    return _NAMES[type(fact)]


def key_of(fact: Fact) -> tuple[tuple[str, Any], ...]:
    """Key columns and their values."""
    return tuple((name, getattr(fact, name)) for name in TABLES[table_of(fact)][1])


def row_of(fact: Fact) -> dict[str, Any]:
    """The fact as a row."""
    columns = COLUMNS[table_of(fact)]
    return {name: column.write(getattr(fact, name)) for name, column in columns.items()}


def fact_of(table: str, row: Mapping[str, Any]) -> Fact:
    """The row as a fact."""
    kind = TABLES[table][0]
    fact: Fact = kind(**{name: column.read(row[name]) for name, column in COLUMNS[table].items()})
    return fact
