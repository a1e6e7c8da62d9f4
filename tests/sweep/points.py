"""Names for what a controller sends, made of its content alone, so that a run's points are found again in the next run.

A *batch* is what is carried out as one: a transaction, or OpenFlow messages up to a barrier. It has one point for each thing that it does
("update Move[r1] phase=flip", "add ROUTER/NAT/1"), since what is done together depends on when the controller came to it: a point is found
again in whatever batch it is. In a name stand states and phases, and nothing that is drawn (uuids, ports of the run) or that counts
(revisions, terms, xids).

Classes: `state` changes something that matters; `session` is said once in a session (roles, locks, monitors); `fill` puts messages into a
bundle that is not committed; `noise` comes when its time comes (texts of reasons, stamps, echoes, reads, packets) and repeats by no rule.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from ebbtide.compile import ledger
from ebbtide.openflow import flows, multipart
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import Frame, FrameBuffer
from ebbtide.runtime import records, vswitch

STATE, SESSION, FILL, NOISE = "state", "session", "fill", "noise"
_RANK = (STATE, FILL, SESSION, NOISE)


class Point(NamedTuple):
    """One thing that a batch does."""

    kind: str
    name: str


class Batch(NamedTuple):
    """What is carried out as one, and by what its answer is known (an id or xid); None: it has none."""

    points: tuple[Point, ...]
    answer: Any = None

    @property
    def kind(self) -> str:
        """That of the weightiest of its points."""
        return min((p.kind for p in self.points), key=_RANK.index, default=NOISE)


#: (table, uuid) -> the row as it is, if it is known.
Find = Callable[[str, str], Mapping[str, Any] | None]

# --- transactions ---

#: Columns that say how something stands, in words for people.
_TEXTS = frozenset({"reason", "unknown", "told", "note"})
#: Of the key of a row, what is drawn.
_DRAWN = {"Operation": ("id",), "Item": ("operation",), "Proof": ("operation",), "Lease": ("first",)}
#: What names a row beside its key. (A range of ports is what connections have left free: chance.)
_TITLES = {"Operation": ("verb",), "Lease": ("compute",)}
_STATES = frozenset({"phase", "state", "verb"})


def _valued() -> dict[str, frozenset[str]]:
    """Of each table of the store, the columns whose values are states."""
    found = {}
    for table, (kind, _) in records.TABLES.items():
        hints = typing.get_type_hints(kind)
        found[table] = frozenset(c for c, hint in hints.items() if c in _STATES or _is_state(hint))
    return found


def _is_state(hint: Any) -> bool:
    return hint is bool or (isinstance(hint, type) and issubclass(hint, StrEnum))


_VALUED: Mapping[str, frozenset[str]] = types.MappingProxyType(_valued())


def of_store(request: Mapping[str, Any], find: Find) -> Batch:
    """A request to the store."""
    if request["method"] != "transact":
        return _other(request)
    points = []
    for op in request["params"][1:]:
        table = op.get("table", "")
        if op["op"] not in ("insert", "update", "mutate", "delete"):
            continue
        if table == "Global":
            row = op.get("row", {})
            if row.keys() & {"term", "hold", "store_id"}:
                points.append(
                    Point(SESSION, f"{op['op']} Global {' '.join(sorted(row.keys() - {'revision', 'intent'}))}")
                )
            continue
        points.append(_edit(op, table, find))
    return Batch(tuple(dict.fromkeys(points)), request["id"])


def _edit(op: Mapping[str, Any], table: str, find: Find) -> Point:
    row = dict(op.get("row", {}))
    whose = row if op["op"] == "insert" else _found(op, table, find)
    named = _title(table, whose)
    if op["op"] == "delete":
        return Point(STATE, f"delete {named}")
    noise = op["op"] == "update" and row.keys() <= _TEXTS
    # What waits for something says so, beside whatever else is written: a text is no part of a name, if there is more to it.
    kept = row.keys() if noise else row.keys() - _TEXTS
    told = [
        f"{c}={row[c]}" if c in _VALUED[table] else c
        for c in sorted(kept)
        if op["op"] == "update" or c in _VALUED[table]
    ]
    return Point(NOISE if noise else STATE, " ".join((op["op"], named, *told)))


def _title(table: str, row: Mapping[str, Any]) -> str:
    drawn = _DRAWN.get(table, ())
    columns = [c for c in records.TABLES[table][1] if c not in drawn] + list(_TITLES.get(table, ()))
    return f"{table}[{','.join(str(row.get(c, '?')) for c in columns)}]"


def _found(op: Mapping[str, Any], table: str, find: Find) -> Mapping[str, Any]:
    """The row that an operation is about, or what its condition says of it."""
    said = {column: value for column, function, value in op.get("where", ()) if function == "=="}
    uuid = said.get("_uuid")
    return (find(table, uuid[1]) or {}) if isinstance(uuid, list) else said


def _other(request: Mapping[str, Any]) -> Batch:
    kind = SESSION if request["method"] in ("lock", "steal", "unlock") else NOISE
    return Batch((Point(kind, str(request["method"])),), request.get("id"))


def of_compute(request: Mapping[str, Any], find: Find) -> Batch:
    """A request to a compute's database."""
    if request["method"] != "transact":
        return _other(request)
    points: list[Point] = []
    for op in request["params"][1:]:
        if op["op"] in ("insert", "update", "mutate", "delete"):
            points += _written(op, op["table"], find)
    return Batch(tuple(dict.fromkeys(points)), request["id"])


def _written(op: Mapping[str, Any], table: str, find: Find) -> Iterable[Point]:
    if op["op"] == "insert":
        # A Port goes with its Interface, and a Controller has nothing but the run's target.
        if table != "Port":
            yield Point(STATE, f"insert {table} {op['row'].get('name', '')}".strip())
        return
    name = _found(op, table, find).get("name", "")
    if op["op"] == "update":
        columns = sorted(op["row"].keys() - {"ofport_request"})
        told = (f"bfd={'on' if _pairs(op['row'][c]) else 'off'}" if c == "bfd" else c for c in columns)
        yield Point(STATE, f"update {table} {name} {' '.join(told)}")
        return
    for column, mutator, value in op.get("mutations", ()):
        if (table, column) == ("Open_vSwitch", "next_cfg"):
            yield Point(NOISE, "next_cfg")
        elif (column, mutator) == ("ports", "delete"):
            rows = (find("Port", uuid[1]) or {} for uuid in _atoms(value))
            yield from (Point(STATE, f"delete Port {row.get('name', '?')}") for row in rows)
        elif isinstance(value, list) and value[0] == "map":
            for key, said in _pairs(value):
                yield Point(*_key(table, name, column, key, said))
        elif mutator == "delete":
            gone = [k for k in _atoms(value) if k not in (vswitch.REVISION, vswitch.TERM)]
            yield from (Point(STATE, f"{table} {name} {column} -{key}") for key in gone if isinstance(key, str))


def _key(table: str, name: str, column: str, key: str, said: str) -> tuple[str, str]:
    if key == vswitch.REVISION:
        return NOISE, f"{table} {name} {key}"
    if key in (vswitch.TERM, vswitch.STORE):
        return SESSION, f"{table} {name} {key}"
    shown = f"={said}" if key in (vswitch.TOMBSTONED, vswitch.HELD, vswitch.BRAKE) else ""
    return STATE, f"{table} {name} {column} +{key}{shown}"


def _atoms(value: Any) -> list[Any]:
    """Of a set as it is on the wire (RFC 7047 section 5.1)."""
    return value[1] if isinstance(value, list) and value[0] == "set" else [value]


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(k, v) for k, v in value[1]] if isinstance(value, list) and value[0] == "map" else []


# --- OpenFlow ---


class FlowBatches:
    """Cuts what a controller sends to one switch into batches, in a session of its own."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._bundles: dict[int, list[Point]] = {}

    def take(self, frame: Frame) -> Batch | None:
        """A message; a batch, if it ends one. What it does goes on waiting otherwise."""
        if frame.type == m.BARRIER_REQUEST:
            points, self._points = tuple(dict.fromkeys(self._points)), []
            return Batch(points or (Point(NOISE, "barrier"),), frame.xid)
        if frame.type in (m.FLOW_MOD, m.GROUP_MOD, m.METER_MOD):
            self._points.append(Point(STATE, _change(frame)))
            return None
        value = m.decode(frame)
        match value:
            case m.BundleControl(bundle_id=number, kind=m.BUNDLE_COMMIT):
                self._points += self._bundles.pop(number, [])
            case m.BundleControl(bundle_id=number, kind=m.BUNDLE_DISCARD):
                self._bundles.pop(number, None)
                return Batch((Point(FILL, "discard"),), frame.xid)
            case m.BundleControl():
                pass
            case m.BundleAdd(bundle_id=number, data=data):
                inner = [Point(STATE, _change(one)) for one in FrameBuffer().feed(data)]
                self._bundles.setdefault(number, []).extend(inner)
                self._points += [Point(FILL, f"fill {p.name}") for p in inner]
            case m.CtFlushZone(zone=zone):
                self._points.append(Point(STATE, f"flush zone {zone}"))
            case m.RoleRequest():
                return Batch((Point(SESSION, "role"),), frame.xid)
            case m.SetPacketInFormat() | m.Other(type=m.SET_ASYNC):
                self._points.append(Point(SESSION, "what it is told"))
            case _ if not self._points:
                return Batch((Point(NOISE, _words(value)),))
            case _:
                # Between the messages of a batch: it keeps its place among them.
                self._points.append(Point(NOISE, _words(value)))
        return None


def _words(value: m.Message) -> str:
    return f"{type(value).__name__} {value.kind}" if isinstance(value, m.MultipartRequest) else type(value).__name__


_COMMANDS = {flows.ADD: "add", flows.DELETE: "delete all", flows.DELETE_STRICT: "delete"}


def _change(frame: Frame) -> str:
    body = frame.body
    if frame.type == m.FLOW_MOD:
        cookie, mask, command = int.from_bytes(body[:8], "big"), int.from_bytes(body[8:16], "big"), body[17]
        if command == flows.DELETE and not mask:
            return "delete all flows"
        return f"{_COMMANDS.get(command, command)} {owner_of(cookie)}"
    if frame.type == m.GROUP_MOD:
        command, number = int.from_bytes(body[:2], "big"), int.from_bytes(body[4:8], "big")
        if number == flows.ALL_GROUPS:
            return "delete all groups"
        return f"{'delete' if command == flows.GROUP_DELETE else 'put'} group {number:#x}"
    command, number = int.from_bytes(body[:2], "big"), int.from_bytes(body[4:8], "big")
    return (
        "delete all meters"
        if number == multipart.ALL_METERS
        else f"{'delete' if command == 2 else 'put'} meter {number}"
    )


def owner_of(cookie: int) -> str:
    """What a flow belongs to, in words: "PORT/L2/3"."""
    kind, feature, owner = ledger.read_cookie(cookie)
    try:
        return f"{ledger.Kind(kind).name}/{ledger.Feature(feature).name}/{owner}"
    except ValueError:
        return f"{cookie >> ledger.HASH_BITS:#x}"
