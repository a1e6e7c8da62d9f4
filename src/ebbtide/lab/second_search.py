"""A second search for what is left of a removed compute, to hold the controller's own audit against.

It shares no line with the controller: it reads what ovs-ofctl and ovs-vsctl print, and knows from their manuals how an identity looks
in there. Identities come as "kind:value": name, number, dpid, tep, mac, system-id, uuid.

    flows, groups   cookies of the kinds "compute" (2) and "relation" (6) with the number as owner; reg5 = number, matched (under a mask
                    too), set, loaded or learnt, also as part of a wider register; addresses, MACs and datapath ids in any field
    addresses       of IPv6 in any spelling: what looks like one is read, and compared as a number
    rows            every column of br-int's world and of the controller's, statistics apart: all of these as text, the name as a word,
                    and `ebbtide-peer`

It is blunter than the audit: an inner address that happens to be a removed compute's tunnel address is reported, whoever uses it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable

from .compute import Compute

TABLES = ("Open_vSwitch", "Bridge", "Port", "Interface", "Controller", "Manager")
_KINDS_OF_COMPUTES = (2, 6)
#: A datapath id this small is any number; it is looked for where it cannot be one.
_SMALL = 1 << 16
_COOKIE = re.compile(r"\bcookie=0x([0-9a-f]+)")
# The registers that reg5 is (a part of), with the place of its lowest bit in them: ovs-fields(7), "Registers".
_REGISTERS = {"reg5": 0, "NXM_NX_REG5": 0, "xreg2": 0, "OXM_OF_PKT_REG2": 0, "xxreg1": 64, "NXM_NX_XXREG1": 64}
_NAMES = "|".join(_REGISTERS)
_MATCHED = re.compile(rf"(?<![\w.])({_NAMES})(?:\[([\d.]*)\])?=(0x[0-9a-f]+|\d+)(?:/(?:0x)?[0-9a-f]+)?")
_WRITTEN = re.compile(rf"\b(?:set_field|load):(0x[0-9a-f]+|\d+)(?:/(?:0x)?[0-9a-f]+)?->({_NAMES})(?:\[([\d.]*)\])?")
_LIKE_IPV6 = re.compile(r"(?<![\w.-])[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*")
_PEER = re.compile(r'\bebbtide-peer="?(\d+)"?')
_TENANTS_WORD = re.compile(r'\biface-id=("[^"]*"|[^,}]*)')

Finder = Callable[[str], bool]


def second_search(computes: Iterable[Compute], identities: Iterable[str]) -> list[str]:
    """What these computes hold of somebody with these identities, one line each: where, what, and the line of the dump."""
    chosen = sorted(identities)
    in_tables = [(identity, finder) for identity in chosen for finder in _in_tables(identity)]
    in_rows = [(identity, finder) for identity in chosen for finder in _in_rows(identity)]
    found = []
    for compute in computes:
        for kind, lines, finders in (
            ("flow", compute.dump_flows() if compute.has_bridge() else [], in_tables),
            ("group", compute.dump_groups() if compute.has_bridge() else [], in_tables),
            ("row", _rows(compute), in_rows),
        ):
            for line in lines:
                identity = next((i for i, finder in finders if finder(line)), None)
                if identity is not None:
                    found.append(f"{compute.name}: {kind} with {identity}: {line}")
    return found


def holds(line: str, identity: str, row: bool = False) -> bool:
    """Whether a line of a dump (of rows, or of flows and groups) holds an identity."""
    return any(finder(line) for finder in (_in_rows if row else _in_tables)(identity))


def identities_of(compute: Compute, number: int, dpid: int) -> set[str]:
    """By what a living compute may be found, read from its own database; the two that the controller chose are said."""
    words = compute.vsctl(
        "get", "Open_vSwitch", ".", "_uuid", "external_ids:system-id", "other_config:local_ip", wait=False
    )
    uuid, system_id, tep = (word.strip('"') for word in words.split())
    macs = compute.vsctl("--bare", "--columns=mac_in_use", "find", "interface", "type=internal", wait=False).split()
    found = {f"name:{compute.name}", f"number:{number}", f"dpid:{dpid}", f"uuid:{uuid}"}
    return found | {f"system-id:{system_id}", f"tep:{tep}"} | {f"mac:{mac}" for mac in macs}


def _rows(compute: Compute) -> list[str]:
    """ "Table column : value", a line for each column of each row."""
    found = []
    for table in TABLES:
        lines = compute.vsctl("list", table, wait=False).splitlines()
        found += [f"{table} {line}" for line in lines if line and not line.startswith("statistics ")]
    return found


def _in_tables(identity: str) -> list[Finder]:
    """What to look for in a flow or a group."""
    kind, _, value = identity.partition(":")
    if kind == "number":
        return [lambda line: _has_number(line, int(value))]
    return _texts(kind, value) if kind in ("tep", "mac", "dpid") else []


def _in_rows(identity: str) -> list[Finder]:
    """What to look for in a row."""
    kind, _, value = identity.partition(":")
    if kind == "number":
        return [lambda line: value in _PEER.findall(line)]
    if kind == "name":
        word = _word(value)
        return [lambda line: bool(word.search(_LIKE_IPV6.sub("", _TENANTS_WORD.sub("", line.partition(" : ")[2]))))]
    if kind == "system-id":
        # Somebody has chosen it, as a name: an octet of a VM's MAC may be the same.
        word = _word(value)
        return [lambda line: bool(word.search(_LIKE_IPV6.sub("", line)))]
    return _texts(kind, value)


def _texts(kind: str, value: str) -> list[Finder]:
    words = [value]
    if kind == "tep" and ":" in value:
        number = int(ipaddress.IPv6Address(value))
        figures = _word(_hexadecimal(number))
        return [lambda line: number in _addresses(line) or bool(figures.search(line))]
    if kind == "tep":
        words = [value, _hexadecimal(int.from_bytes(bytes(map(int, value.split("."))), "big"))]
    elif kind == "mac":
        plain = value.replace(":", "")
        words = [value, value.replace(":", "-"), plain, f"0000{plain}", _hexadecimal(int(plain, 16))]
    elif kind == "dpid":
        number, plain = int(value), f"{int(value):016x}"
        octets = ":".join(plain[i : i + 2] for i in range(0, 16, 2))
        words = [plain, octets, f"openflow:{number}", *([value, _hexadecimal(number)] if number >= _SMALL else [])]
    patterns = [_word(word) for word in words]
    return [lambda line: any(pattern.search(line) for pattern in patterns)]


def _addresses(line: str) -> Iterable[int]:
    """The IPv6 addresses in a line, as numbers."""
    for text in _LIKE_IPV6.findall(line):
        for candidate in (text, text.rstrip(":.")):
            try:
                yield int(ipaddress.IPv6Address(candidate))
            except ValueError:
                continue


def _hexadecimal(number: int) -> str:
    return f"{number:#x}"


def _word(text: str) -> re.Pattern[str]:
    """The text where it is not a part of a longer name, address or number."""
    return re.compile(rf"(?<![\w.-]){re.escape(text)}(?!\w|-(?!>)|\.\w|:[0-9a-f]{{2}}\b)", re.IGNORECASE)


def _has_number(line: str, number: int) -> bool:
    """By the cookie's owner, or as the value of reg5."""
    cookie = _COOKIE.search(line)
    if cookie is not None:
        value = int(cookie[1], 16)
        if value >> 60 in _KINDS_OF_COMPUTES and value >> 32 & 0xFFFFF == number:
            return True
    written = [(name, bits, text) for text, name, bits in _WRITTEN.findall(line)]
    return any(_reg5(*found) == number for found in [*_MATCHED.findall(line), *written])


def _reg5(name: str, bits: str, text: str) -> int | None:
    """What reg5 holds by this; None: nothing is said of it. `bits` is "", "3" or "0..15"."""
    value = int(text, 0) << int(bits.partition("..")[0] or 0)
    return value >> _REGISTERS[name] & 0xFFFFFFFF or None
