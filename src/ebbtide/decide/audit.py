"""Residue: what is left of a removed compute in the raw dumps of the others.

This file knows nothing of the compiler: it is given dumps (flows, groups, rows, as the switch and its database hold them) and
identities (every name, id, address and number that a compute ever had), and looks for each of them in each of its encodings. So a
fault of the compiler, or of an older version, is found like anything else.

Encodings searched:
  TEP address       dotted, or in any spelling of IPv6, in any text of a row; as 32 or 128 bits in a match, set-field or load of a
                    tunnel, IP or ARP address (in the flows of a port the last two are a tenant's, who may use the same addresses inside
                    the overlay)
  DPN id            decimal, 16 hex digits, openflow:<n>; in rows, the bare number not where a row counts something else
  system-id, uuid   text; in rows
  name              text, whole word; in rows, but not in an iface-id, which is a tenant's word
  MACs              six bytes in match, actions (learn's among them), group buckets; in rows with colons, dashes or nothing between
  number            in the owner field of cookies of kind "compute" and "relation", as the value of reg5 in matches, set-fields and
                    loads, in the `ebbtide-peer` key of rows
Fields are searched with their headers: four bytes of an address alone are soon found across the border of two other fields. What a
learn action will write has the value before the header, and is searched so as well.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

import msgspec

from ebbtide.model.facts import Compute


class RawFlow(msgspec.Struct, frozen=True):
    """One flow as the switch holds it. `text` is for people: itself, or how to make it, which is only asked of what is found."""

    cookie: int
    match: bytes
    instructions: bytes
    text: str | Callable[[], str] = ""


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
    """One identity in all its encodings. `raw`: bytes that must appear in match, instructions or buckets.

    `inner`: the same, but a tenant's in flows about tenants. `bare`: what somebody has chosen: it may be a plain number, a word of the
    schema, or look like a part of an address.
    """

    identity: str
    raw: tuple[bytes, ...] = ()
    text: re.Pattern[str] | None = None
    number: int = 0
    inner: tuple[bytes, ...] = ()
    bare: re.Pattern[str] | None = None


# The wire's own forms: class and number of a field in an OXM or NXM header (OpenFlow 1.3 section 7.2.3; nicira-ext.h).
_REG5 = ((0x0001, 5),)
_TUNNEL_V4, _TUNNEL_V6 = ((0x0001, 31), (0x0001, 32)), ((0x0001, 109), (0x0001, 110))
_ADDRESS_V4 = (
    *((0x8000, 11), (0x8000, 12), (0x8000, 22), (0x8000, 23)),  # ipv4_src, ipv4_dst, arp_spa, arp_tpa
    *((0x0000, 7), (0x0000, 8), (0x0000, 16), (0x0000, 17)),
    *((0x0001, 120), (0x0001, 121)),  # ct_nw_src, ct_nw_dst
)
_ADDRESS_V6 = ((0x8000, 26), (0x8000, 27), (0x0001, 19), (0x0001, 20))  # ipv6_src, ipv6_dst
_COOKIES_OF_COMPUTES = (2, 6)
#: Cookies about networks, ports, routers and security groups, and of what is learnt for them: an address in there is a tenant's, whatever
#: the underlay uses, but for those of tunnels.
_COOKIES_OF_TENANTS = (3, 4, 5, 7, 15)
#: Keys of rows whose numbers are not DPN ids.
_COUNTS = re.compile(
    r"bfd:.*|options:(key|dst_port|tos|ttl|n_\w+)|.*:ebbtide-(revision|term|peer)|(.*:)?(ofport|mtu)\w*|.*:(ct-zone-|mac-).*"
)
#: Words that the schema has as values.
_SCHEMA = ("true", "false", "flow")
#: An interface that has this is a tenant's: what else is said there of it is others' too.
_TENANT = "external_ids:iface-id"
#: A MAC; and what may be one, or an IPv6 address.
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w.-])(?:[0-9a-f]{0,4}:){2,}[0-9a-f.]*(?![\w-])", re.IGNORECASE)


def _forms(fields: Iterable[tuple[int, int]], value: bytes) -> tuple[bytes, ...]:
    """The value in these fields: exact (a match, a set-field), masked, and as the 64 bits of a reg_load."""
    found = []
    for oxm_class, number in fields:
        head = oxm_class << 16 | number << 9
        exact, masked = (head | len(value)).to_bytes(4, "big"), (head | 1 << 8 | 2 * len(value)).to_bytes(4, "big")
        found += [exact + value, masked + value]
        if len(value) < 8:
            found.append(exact + value.rjust(8, b"\0"))
        found += _learnt(exact, value)
    return tuple(found)


def _learnt(head: bytes, value: bytes) -> Iterable[bytes]:
    """A constant in a learn action, to be matched or loaded (nicira-ext.h, NX_LEARN_*): what for, value, field, from bit 0."""
    bits = 8 * len(value)
    sizes = [bits, 16] if bits == 32 and not any(value[:2]) else [bits]
    for size in sizes:
        for to in (0x2000, 0x2800):
            yield (to | size).to_bytes(2, "big") + value[-size // 8 :] + head + b"\0\0"


def sought(removed: Iterable[Compute], living: Iterable[Compute]) -> dict[str, set[str]]:
    """Of each removed compute, by name, the identities to look for: those that nobody has by now (a tunnel address may be given to a new
    host), and of what it was called only what is not somebody's address or name, under whatever title."""
    taken = {identity for other in living for identity in other.identities() - set(other.past)}
    words = {value.casefold() for kind, _, value in (i.partition(":") for i in taken) if kind not in ("number", "dpid")}

    def free(identity: str) -> bool:
        kind, _, value = identity.partition(":")
        return identity not in taken and not (kind in ("name", "system-id") and value.casefold() in words)

    return {gone.name: set(filter(free, gone.identities())) for gone in removed}


def needles(identities: Iterable[str]) -> tuple[Needle, ...]:
    """What to look for, from "kind:value" identities."""
    found = []
    for identity in sorted(identities):
        kind, _, value = identity.partition(":")
        if kind == "tep":
            found.append(_tep(identity, value))
        elif kind == "dpid":
            number = int(value)
            forms = "|".join(rf"(?<![\w.]){f}(?![\w.])" for f in (f"{number:016x}", f"openflow:{number}"))
            found.append(Needle(identity, (), re.compile(forms, re.IGNORECASE), bare=_word(str(number))))
        elif kind == "number":
            found.append(Needle(identity, _forms(_REG5, int(value).to_bytes(4, "big")), None, int(value)))
        elif kind == "mac":
            found.append(Needle(identity, (bytes.fromhex(value.replace(":", "")),), _mac(value)))
        else:
            found.append(Needle(identity, bare=_word(value)))
    return tuple(found)


def _tep(identity: str, value: str) -> Needle:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return Needle(identity, (), _word(value))
    tunnel, other = (_TUNNEL_V4, _ADDRESS_V4) if address.version == 4 else (_TUNNEL_V6, _ADDRESS_V6)
    text = _spellings(address) if isinstance(address, ipaddress.IPv6Address) else _word(value)
    return Needle(identity, _forms(tunnel, address.packed), text, inner=_forms(other, address.packed))


def _spellings(address: ipaddress.IPv6Address) -> re.Pattern[str]:
    """An IPv6 address in every way that RFC 4291 (section 2.2) lets it be written: whoever wrote it was free to choose."""
    words = [int.from_bytes(address.packed[i : i + 2], "big") for i in range(0, 16, 2)]
    plain = [f"0{{0,{4 - len(f'{word:x}')}}}{word:x}" for word in words]
    dotted = [*plain[:6], re.escape(str(ipaddress.IPv4Address(address.packed[12:])))]
    forms = []
    for parts, groups in ((plain, 8), (dotted, 6)):
        forms.append(":".join(parts))
        for first, last in combinations(range(groups + 1), 2):
            if not any(words[first:last]):
                forms.append(":".join(parts[:first]) + "::" + ":".join(parts[last:]))
    return re.compile(rf"(?<![\w.-])(?<![0-9a-f]:)(?<!::)({'|'.join(forms)})(?![\w-]|\.\w|:[0-9a-f:])", re.IGNORECASE)


def _mac(value: str) -> re.Pattern[str]:
    """With colons, dashes or nothing between; also with the four zeroes before it that make it a datapath id."""
    octets = "[:-]?".join(value.split(":"))
    return re.compile(rf"(?<![\w:.-])(0000)?{octets}(?![\w:-]|\.\w)", re.IGNORECASE)


def _word(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){re.escape(value)}(?![\w-]|\.\w)", re.IGNORECASE)


def search(removed: str, wanted: Iterable[Needle], dump: Dump) -> list[Residue]:
    """Everything in a dump that carries one of the identities."""
    found: list[Residue] = []
    chosen = tuple(wanted)
    for flow in dump.flows:
        blob = flow.match + flow.instructions
        kind, owner = flow.cookie >> 60, flow.cookie >> 32 & 0xFFFFF
        for needle in chosen:
            by_cookie = needle.number and kind in _COOKIES_OF_COMPUTES and owner == needle.number
            forms = needle.raw if kind in _COOKIES_OF_TENANTS else needle.raw + needle.inner
            if by_cookie or any(raw in blob for raw in forms):
                found.append(Residue(removed, dump.compute, "flow", needle.identity, _told(flow.text)))
                break
    for group in dump.groups:
        for needle in chosen:
            if any(raw in group.buckets for raw in needle.raw + needle.inner):
                found.append(Residue(removed, dump.compute, "group", needle.identity, group.text))
                break
    for row in dump.rows:
        hit = _in_row(row, chosen)
        if hit is not None:
            found.append(Residue(removed, dump.compute, "row", hit[0], f"{row.table} {row.label}: {hit[1]}"))
    return found


def _told(text: str | Callable[[], str]) -> str:
    return text if isinstance(text, str) else text()


def _in_row(row: RawRow, wanted: tuple[Needle, ...]) -> tuple[str, str] | None:
    tenants = _TENANT in row.strings
    for column, value in row.strings.items():
        if tenants and ":ebbtide-" not in column and (column == "name" or column.startswith("external_ids:")):
            continue
        for needle in wanted:
            if needle.number and column.endswith(":ebbtide-peer") and value == str(needle.number):
                return needle.identity, f"{column}={value}"
            text = needle.text is not None and needle.text.search(value)
            bare = needle.bare is not None and not _is_other(column, value) and _is_said(needle.bare, value)
            if text or bare:
                return needle.identity, f"{column}={value}"
    return None


def _is_said(word: re.Pattern[str], value: str) -> bool:
    """Whether a word is there, and not as a part of an address: c4 is an octet of many a VM's MAC."""
    if not word.search(value):
        return False
    rest = _ADDRESS.sub(lambda token: token[0] if word.fullmatch(token[0]) or not _is_address(token[0]) else " ", value)
    return word.search(rest) is not None


def _is_address(text: str) -> bool:
    if _MAC.fullmatch(text):
        return True
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_other(column: str, value: str) -> bool:
    """Whether a word or number there is something else's, whatever it looks like."""
    counts = value.isdecimal() and _COUNTS.fullmatch(column) is not None
    return counts or column == "type" or value in _SCHEMA
