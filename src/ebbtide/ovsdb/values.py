"""OVSDB values <-> Python values (RFC 7047 section 5.1), driven by column types.

What a column holds decides what Python sees:

    scalar (min 1, max 1)        int, float, bool, str, Uuid
    optional scalar (0, 1)       the same, or None
    set (max > 1)                frozenset
    map                          Mapping that cannot be written (MappingProxyType)

A uuid is a plain lower-case `str` at run time (`Uuid` for the type checker): the column says that it is one. A row
made in the same transaction is a `NamedUuid`. Each column type is compiled once into quick functions. Decoders raise
RemoteProtocolError and check types and counts, not ranges: a replica must hold what the server holds. Encoders raise
LocalProtocolError and check ranges and enums too, so that a mistake of ours is named before it is sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NewType, TypeAlias

import msgspec

from ebbtide.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "ZERO_UUID",
    "Atom",
    "BaseType",
    "ColumnType",
    "Decoder",
    "Encoder",
    "NamedUuid",
    "Row",
    "Uuid",
    "check_id",
    "decode_uuid",
    "decoder_for",
    "default_for",
    "encode_uuid",
    "encoder_for",
    "is_uuid",
    "parse_uuid",
]

Uuid = NewType("Uuid", str)

ZERO_UUID = Uuid("00000000-0000-0000-0000-000000000000")

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class NamedUuid(msgspec.Struct, frozen=True, order=True):
    """A row inserted in the same transaction, by its uuid-name (RFC 7047 section 5.1, <named-uuid>)."""

    name: str


Atom: TypeAlias = "int | float | bool | str | NamedUuid"
#: One row: column name to value. Typed Any, as the schema is known at run time only: convert it at once.
Row: TypeAlias = Mapping[str, Any]
Decoder: TypeAlias = Callable[[Any], Any]
Encoder: TypeAlias = Callable[[Any], Any]


class BaseType(msgspec.Struct, frozen=True):
    """Type of a key or a value: <base-type> of RFC 7047 section 3.2. `low` and `high` bound a number, or a string's
    length in characters."""

    kind: str
    enum: frozenset[Any] = frozenset()
    low: float | None = None
    high: float | None = None
    ref_table: str = ""
    ref_strong: bool = True


class ColumnType(msgspec.Struct, frozen=True):
    """<type> of RFC 7047 section 3.2. `max` None is "unlimited"."""

    key: BaseType
    value: BaseType | None = None
    min: int = 1
    max: int | None = 1

    @property
    def is_map(self) -> bool:
        """Pairs, not elements."""
        return self.value is not None

    @property
    def is_composite(self) -> bool:
        """May hold more than one element; "modify" then carries a difference (ovsdb-server(7), update2)."""
        return self.max is None or self.max > 1

    @property
    def is_optional(self) -> bool:
        """One scalar or nothing."""
        return self.value is None and self.min == 0 and self.max == 1

    @property
    def is_scalar(self) -> bool:
        """Exactly one scalar."""
        return self.value is None and self.min == 1 and self.max == 1


# ---- uuids --------------------------------------------------------------------------------------------------------

_match_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


_match_id = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII).fullmatch


def check_id(text: str) -> str:
    """An <id> (RFC 7047 section 3.1): names of locks and rows to be. A LocalProtocolError when it is none."""
    if _match_id(text) is None:
        raise LocalProtocolError(f"{_short(text)} is no <id>: letters, digits and _, no digit first")
    return text


def is_uuid(text: object) -> bool:
    """Whether `text` is a uuid as we keep it: 36 lower-case characters."""
    return isinstance(text, str) and _match_uuid(text) is not None


def decode_uuid(json: Any) -> Uuid:
    """["uuid", "..."] to a Uuid."""
    if type(json) is list and len(json) == 2 and json[0] == "uuid":
        return parse_uuid(json[1])
    raise RemoteProtocolError(f"not a uuid: {_short(json)}")


def parse_uuid(text: Any) -> Uuid:
    """The bare 36 characters to a Uuid."""
    if type(text) is str:
        if _match_uuid(text):
            return Uuid(text)
        if _match_uuid(text.lower()):
            return Uuid(text.lower())
    raise RemoteProtocolError(f"not a uuid: {_short(text)}")


def encode_uuid(value: Any) -> list[str]:
    """A Uuid or NamedUuid to JSON."""
    if isinstance(value, NamedUuid):
        return ["named-uuid", value.name]
    if isinstance(value, str) and _match_uuid(value):
        return ["uuid", value]
    raise LocalProtocolError(f"not a uuid or NamedUuid: {_short(value)}")


def _short(json: Any) -> str:
    """For messages: what came, cut, whatever it is."""
    if isinstance(json, (list, dict)):
        return f"{type(json).__name__} of {len(json)}"
    if isinstance(json, int) and not isinstance(json, bool) and not INT_MIN <= json <= INT_MAX:
        return "an integer beyond 64 bits"
    return repr(json)[:60]


# ---- from the wire ------------------------------------------------------------------------------------------------


def _decode_integer(json: Any) -> int:
    if type(json) is int and INT_MIN <= json <= INT_MAX:
        return json
    raise RemoteProtocolError(f"not an integer: {_short(json)}")


def _decode_real(json: Any) -> float:
    if type(json) is float:
        return json
    if type(json) is int and INT_MIN <= json <= INT_MAX:
        return float(json)
    raise RemoteProtocolError(f"not a real: {_short(json)}")


def _decode_boolean(json: Any) -> bool:
    if type(json) is bool:
        return json
    raise RemoteProtocolError(f"not a boolean: {_short(json)}")


def _decode_string(json: Any) -> str:
    if type(json) is str:
        return json
    raise RemoteProtocolError(f"not a string: {_short(json)}")


_ATOM_DECODERS: dict[str, Decoder] = {
    "integer": _decode_integer,
    "real": _decode_real,
    "boolean": _decode_boolean,
    "string": _decode_string,
    "uuid": decode_uuid,
}


def decoder_for(column: ColumnType, *, loose: bool = False) -> Decoder:
    """The function that turns this column's JSON into its Python value.

    `loose` takes any number of elements: for the differences that "modify" carries, which may be empty or longer
    than the column.
    """
    low, high = (0, None) if loose else (column.min, column.max)
    key = _ATOM_DECODERS[column.key.kind]
    if column.value is not None:
        return _map_decoder(key, _ATOM_DECODERS[column.value.kind], low, high)
    if column.is_scalar and not loose:
        return _scalar_decoder(key)
    if column.is_optional and not loose:
        return _optional_decoder(key)
    return _set_decoder(key, low, high)


def _scalar_decoder(atom: Decoder) -> Decoder:
    def decode(json: Any) -> Any:
        # One element may also come as a set of one (RFC 7047 section 5.1, <set>).
        if type(json) is list and len(json) == 2 and json[0] == "set" and type(json[1]) is list and len(json[1]) == 1:
            json = json[1][0]
        return atom(json)

    return decode


def _optional_decoder(atom: Decoder) -> Decoder:
    def decode(json: Any) -> Any:
        if type(json) is list and len(json) == 2 and json[0] == "set":
            elements = json[1]
            if elements == []:
                return None
            if type(elements) is not list or len(elements) != 1:
                raise RemoteProtocolError("more than one element in an optional value")
            json = elements[0]
        return atom(json)

    return decode


def _set_decoder(atom: Decoder, low: int, high: int | None) -> Decoder:
    def decode(json: Any) -> frozenset[Any]:
        if type(json) is list and len(json) == 2 and json[0] == "set":
            elements = json[1]
            if type(elements) is not list:
                raise RemoteProtocolError(f"not the elements of a set: {_short(elements)}")
        else:
            elements = (json,)
        found = frozenset(map(atom, elements))
        size = len(elements)
        if len(found) != size:
            raise RemoteProtocolError("a set holds the same element twice")
        if size < low or (high is not None and size > high):
            raise RemoteProtocolError(f"{size} elements in a set of {low} to {high}")
        return found

    return decode


def _map_decoder(key: Decoder, value: Decoder, low: int, high: int | None) -> Decoder:
    strings = key is _decode_string and value is _decode_string

    def decode(json: Any) -> Mapping[Any, Any]:
        if type(json) is not list or len(json) != 2 or json[0] != "map" or type(json[1]) is not list:
            raise RemoteProtocolError(f"not a map: {_short(json)}")
        found: dict[Any, Any] = {}
        for pair in json[1]:
            if type(pair) is not list or len(pair) != 2:
                raise RemoteProtocolError(f"not a pair of a map: {_short(pair)}")
            k, v = pair
            if strings and type(k) is str and type(v) is str:
                found[k] = v
            else:
                found[key(k)] = value(v)
        size = len(json[1])
        if len(found) != size:
            raise RemoteProtocolError("a map holds the same key twice")
        if size < low or (high is not None and size > high):
            raise RemoteProtocolError(f"{size} pairs in a map of {low} to {high}")
        return MappingProxyType(found)

    return decode


_ATOM_DEFAULTS: dict[str, Any] = {"integer": 0, "real": 0.0, "boolean": False, "string": "", "uuid": ZERO_UUID}


def default_for(column: ColumnType) -> Any:
    """What a column holds when nothing was said; update2 leaves such columns out (ovsdb-server(7))."""
    atom = _ATOM_DEFAULTS[column.key.kind]
    if column.value is not None:
        return MappingProxyType({atom: _ATOM_DEFAULTS[column.value.kind]} if column.min else {})
    if column.max == 1:
        return atom if column.min else None
    return frozenset([atom]) if column.min else frozenset()


# ---- to the wire --------------------------------------------------------------------------------------------------


def encoder_for(column: ColumnType, *, loose: bool = False) -> Encoder:
    """The function that turns a Python value into this column's JSON.

    `loose` takes any number of elements: for mutations and for "includes" and "excludes", whose value is a part.
    """
    low, high = (0, None) if loose else (column.min, column.max)
    key = _atom_encoder(column.key)
    if column.value is not None:
        return _map_encoder(key, _atom_encoder(column.value), low, high)
    if column.is_scalar and not loose:
        return key
    if column.max == 1:
        return _optional_encoder(key)
    return _set_encoder(key, low, high)


def _atom_encoder(base: BaseType) -> Encoder:
    if base.kind == "uuid":
        return encode_uuid
    kind, enum, low, high = base.kind, base.enum, base.low, base.high

    def encode(value: Any) -> Any:
        if kind == "string":
            good = isinstance(value, str) and "\0" not in value
            size: float = len(value) if good else 0
        elif kind == "boolean":
            good, size = isinstance(value, bool), 0
        elif kind == "integer":
            good = isinstance(value, int) and not isinstance(value, bool) and INT_MIN <= value <= INT_MAX
            size = value if good else 0
        else:
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            size = value = float(value) if good else 0.0
        if not good:
            raise LocalProtocolError(f"not a {kind}: {_short(value)}")
        if enum and value not in enum:
            raise LocalProtocolError(f"{_short(value)} is none of {sorted(enum)}")
        if (low is not None and size < low) or (high is not None and size > high):
            raise LocalProtocolError(f"{_short(value)} is outside {low} to {high}")
        return value

    return encode


def _optional_encoder(atom: Encoder) -> Encoder:
    def encode(value: Any) -> Any:
        if value is None:
            return ["set", []]
        if isinstance(value, (frozenset, set, tuple, list)):
            return ["set", [atom(element) for element in value]]
        return atom(value)

    return encode


def _set_encoder(atom: Encoder, low: int, high: int | None) -> Encoder:
    def encode(value: Any) -> Any:
        if not isinstance(value, (frozenset, set, tuple, list)):
            value = (value,)
        size = len(value)
        if size < low or (high is not None and size > high):
            raise LocalProtocolError(f"{size} elements for a set of {low} to {high}")
        # Sorted, so that the same request is the same bytes.
        return ["set", sorted(map(atom, value))]

    return encode


def _map_encoder(key: Encoder, value: Encoder, low: int, high: int | None) -> Encoder:
    def encode(pairs: Any) -> Any:
        if not isinstance(pairs, Mapping):
            raise LocalProtocolError(f"not a mapping: {_short(pairs)}")
        if len(pairs) < low or (high is not None and len(pairs) > high):
            raise LocalProtocolError(f"{len(pairs)} pairs for a map of {low} to {high}")
        return ["map", sorted([key(k), value(v)] for k, v in pairs.items())]

    return encode
