"""Conditions and mutations: which rows, and how to change them in place (RFC 7047 section 5.1).

Values with a small function for each kind, so that a call reads like the sentence: `[eq("name", "br-int")]`,
`[insert_into("ports", {port})]`. They are encoded by the peer's schema when they are put into a transaction or a
monitor. Nothing else lives here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from ebbtide.errors import LocalProtocolError
from ebbtide.ovsdb.schema import TableSchema
from ebbtide.ovsdb.values import NamedUuid, Uuid, encode_uuid

__all__ = [
    "Condition",
    "Mutation",
    "Where",
    "add",
    "by_uuid",
    "delete_from",
    "encode_mutation",
    "encode_where",
    "eq",
    "excludes",
    "ge",
    "gt",
    "includes",
    "insert_into",
    "le",
    "lt",
    "ne",
]


class Condition(msgspec.Struct, frozen=True):
    """<condition> of RFC 7047 section 5.1: column, function, value."""

    column: str
    function: str
    value: Any


#: In a transaction all must hold; in a monitor one suffices (ovsdb-server(7), monitor_cond). A bool is a constant.
Where: TypeAlias = "Sequence[Condition | bool]"


def eq(column: str, value: Any) -> Condition:
    """The column equals `value`."""
    return Condition(column, "==", value)


def ne(column: str, value: Any) -> Condition:
    """The column differs from `value`."""
    return Condition(column, "!=", value)


def lt(column: str, value: Any) -> Condition:
    """Less than; numbers only."""
    return Condition(column, "<", value)


def le(column: str, value: Any) -> Condition:
    """Less or equal; numbers only."""
    return Condition(column, "<=", value)


def gt(column: str, value: Any) -> Condition:
    """Greater than; numbers only."""
    return Condition(column, ">", value)


def ge(column: str, value: Any) -> Condition:
    """Greater or equal; numbers only."""
    return Condition(column, ">=", value)


def includes(column: str, value: Any) -> Condition:
    """The set or map holds all of `value`."""
    return Condition(column, "includes", value)


def excludes(column: str, value: Any) -> Condition:
    """The set or map holds nothing of `value`."""
    return Condition(column, "excludes", value)


def by_uuid(uuid: Uuid | NamedUuid) -> tuple[Condition]:
    """The one row of that uuid: a whole where clause."""
    return (Condition("_uuid", "==", uuid),)


_FUNCTIONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "includes", "excludes"})


def encode_where(table: TableSchema, where: Where) -> list[Any]:
    """A where clause as JSON. The empty one matches every row."""
    return [term if isinstance(term, bool) else _encode_condition(table, term) for term in where]


def _encode_condition(table: TableSchema, term: Condition) -> list[Any]:
    if term.function not in _FUNCTIONS:
        raise LocalProtocolError(f"no such condition: {term.function}")
    if term.column in ("_uuid", "_version"):
        return [term.column, term.function, encode_uuid(term.value)]
    column = table.column(term.column)
    encode = column.encode_part if term.function in ("includes", "excludes") else column.encode
    return [term.column, term.function, _named(table, term.column, encode, term.value)]


class Mutation(msgspec.Struct, frozen=True):
    """<mutation> of RFC 7047 section 5.1: column, mutator, value."""

    column: str
    mutator: str
    value: Any


def add(column: str, number: float) -> Mutation:
    """Add `number` (may be negative) to the column, or to each element of it."""
    return Mutation(column, "+=", number)


def insert_into(column: str, value: Any) -> Mutation:
    """Put elements into a set, or pairs into a map. A pair whose key is there already is left as it was."""
    return Mutation(column, "insert", value)


def delete_from(column: str, value: Any) -> Mutation:
    """Take elements out of a set; out of a map either pairs (a mapping) or keys (a set)."""
    return Mutation(column, "delete", value)


_ARITHMETIC = frozenset({"+=", "-=", "*=", "/=", "%="})


def encode_mutation(table: TableSchema, mutation: Mutation) -> list[Any]:
    """A mutation as JSON."""
    column = table.column(mutation.column)
    value, mutator = mutation.value, mutation.mutator
    if mutator in _ARITHMETIC:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LocalProtocolError(f"table {table.name}, column {column.name}: {mutator} takes a number")
        return [column.name, mutator, value]
    if mutator not in ("insert", "delete"):
        raise LocalProtocolError(f"no such mutator: {mutator}")
    keys_only = column.type.is_map and mutator == "delete" and not isinstance(value, Mapping)
    encode = column.encode_keys if keys_only else column.encode_part
    return [column.name, mutator, _named(table, column.name, encode, value)]


def _named(table: TableSchema, column: str, encode: Any, value: Any) -> Any:
    try:
        return encode(value)
    except LocalProtocolError as error:
        raise LocalProtocolError(f"table {table.name}, column {column}: {error}") from None
