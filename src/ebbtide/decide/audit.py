"""Residue: what is left of a removed compute in the raw dumps of the others.

This file knows nothing of the compiler: it is given dumps (flows, groups, rows, as the switch and its database hold them) and
identities (every name, id, address and number that a compute ever had), and looks for each of them in each of its encodings. So a
fault of the compiler, or of an older version, is found like anything else.

Encodings searched:
  TEP address       dotted, and as 32 bits in an address match or set-field; in any text of a row
  DPN id            decimal, 16 hex digits, openflow:<n>; in rows
  system-id, uuid   text; in rows
  name              text, whole word; in rows
  MACs              six bytes in match, actions, group buckets; text in rows
  number            in the owner field of cookies of kind "compute", as the value of reg5 in matches and actions, in the
                    `ebbtide-peer` key of rows
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec


class RawFlow(msgspec.Struct, frozen=True):
    """One flow as the switch holds it, with its text for people."""

    cookie: int
    match: bytes
    instructions: bytes
    text: str = ""


class RawGroup(msgspec.Struct, frozen=True):
    """One group as the switch holds it."""

    group_id: int
    buckets: bytes
    text: str = ""


class RawRow(msgspec.Struct, frozen=True):
    """One row of a compute's OVSDB: every string in it, flattened as "column" or "column:key" -> value."""

    table: str
    label: str
    strings: Mapping[str, str]


class Dump(msgspec.Struct, frozen=True):
    """All that one compute holds."""

    compute: str
    flows: tuple[RawFlow, ...] = ()
    groups: tuple[RawGroup, ...] = ()
    rows: tuple[RawRow, ...] = ()


class Residue(msgspec.Struct, frozen=True):
    """Something of a removed compute, found on `where`."""

    removed: str
    where: str
    kind: str
    identity: str
    text: str


class Needle(msgspec.Struct, frozen=True):
    """One identity in all its encodings. `raw`: bytes that must appear in match, instructions or buckets."""

    identity: str
    raw: tuple[bytes, ...] = ()
    text: re.Pattern[str] | None = None
    number: int = 0


# The wire's own forms (OpenFlow 1.3 section 7.2.3; nicira-ext.h): NXM/OXM header of reg5, as match and set-field, and reg_load.
_REG5_HEADER = (0x0001 << 16 | 5 << 9 | 4).to_bytes(4, "big")
_COOKIE_KIND_COMPUTE = 2


def needles(identities: Iterable[str]) -> tuple[Needle, ...]:
    """What to look for, from "kind:value" identities."""
    found = []
    for identity in sorted(identities):
        kind, _, value = identity.partition(":")
        if kind == "tep":
            packed = bytes(int(part) for part in value.split(".")) if value.count(".") == 3 else b""
            found.append(Needle(identity, (packed,) if packed else (), _word(value)))
        elif kind == "dpid":
            number = int(value)
            forms = [str(number), f"{number:016x}", f"openflow:{number}"]
            found.append(
                Needle(identity, (), re.compile("|".join(rf"(?<![\w.]){re.escape(f)}(?![\w.])" for f in forms)))
            )
        elif kind == "number":
            found.append(Needle(identity, (_REG5_HEADER + int(value).to_bytes(4, "big"),), None, int(value)))
        elif kind == "mac":
            found.append(Needle(identity, (bytes.fromhex(value.replace(":", "")),), _word(value)))
        else:
            found.append(Needle(identity, (), _word(value)))
    return tuple(found)


def _word(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){re.escape(value)}(?![\w-]|\.\w)", re.IGNORECASE)


def search(removed: str, wanted: Iterable[Needle], dump: Dump) -> list[Residue]:
    """Everything in a dump that carries one of the identities."""
    found: list[Residue] = []
    chosen = tuple(wanted)
    for flow in dump.flows:
        blob = flow.match + flow.instructions
        for needle in chosen:
            owner = flow.cookie >> 32 & 0xFFFFF
            by_cookie = needle.number and flow.cookie >> 60 == _COOKIE_KIND_COMPUTE and owner == needle.number
            if by_cookie or any(raw in blob for raw in needle.raw):
                found.append(Residue(removed, dump.compute, "flow", needle.identity, flow.text))
                break
    for group in dump.groups:
        for needle in chosen:
            if any(raw in group.buckets for raw in needle.raw):
                found.append(Residue(removed, dump.compute, "group", needle.identity, group.text))
                break
    for row in dump.rows:
        hit = _in_row(row, chosen)
        if hit is not None:
            found.append(Residue(removed, dump.compute, "row", hit[0], f"{row.table} {row.label}: {hit[1]}"))
    return found


def _in_row(row: RawRow, wanted: tuple[Needle, ...]) -> tuple[str, str] | None:
    for column, value in row.strings.items():
        for needle in wanted:
            if needle.number and column.endswith(":ebbtide-peer") and value == str(needle.number):
                return needle.identity, f"{column}={value}"
            if needle.text is not None and needle.text.search(value):
                return needle.identity, f"{column}={value}"
    return None
