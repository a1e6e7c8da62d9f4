"""What switches hold, read by ovs-ofctl and nothing of ours, in a form in which two runs, or a fleet and real switches, can be compared.

What is normalised, and why:

- Counters, durations and ages are left out: they tell of traffic and of when.
- Flows stand in order of table, priority and match; ovs-ofctl prints them in that of a hash. So do groups and meters, by number.
- Port numbers are an answer of the switch, and interface names one of whoever plugs (Nova, the lab): ports are called by what they are for,
  `port(ID)`, `tunnel(NUMBER)`, `provider(PHYSICAL)`. Sent is the number all the same: a flow whose port is not there keeps it, and differs.
- Of a cookie its kind, feature and owner are kept, in words. Its lower half is a hash of the encoded flow, so of port numbers and of the
  store's MACs: it says the same again. `exact=True` keeps it, for two runs on one fleet.
- What a switch has learnt by itself (kind VOLATILE) depends on who spoke, and is left out.

Nothing else: MACs, VNIs, tags, group numbers and leases are compared as they are. So that they can be, runs have one store id
(`site.STORE_ID`), register their computes in one order and make things in one order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ebbtide.compile import ledger
from ebbtide.lab.commands import run
from ebbtide.runtime import vswitch
from ebbtide.runtime.providers import PROVIDER
from tests.sweep.site import Site

#: compute -> the lines of its flows, groups and meters.
Dump = dict[str, list[str]]
_COUNTED = re.compile(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]+,? ?")
_COOKIE = re.compile(r"cookie=0x([0-9a-f]+), ?")
_TABLE, _PRIORITY = re.compile(r"table=(\d+)"), re.compile(r"priority=(\d+)")
_LEASE = re.compile(r"(nat\(src=[\d.]+):\d+-\d+\)")
_MANY = re.compile(r"(group_id|meter)=(\d+)")
_ROLES = {"iface-id": "port", vswitch.PEER: "tunnel", PROVIDER: "provider"}


def roles(interfaces: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Interface name -> what it is for, of rows with `name` and `external_ids`."""
    found = {}
    for row in interfaces:
        for key, role in _ROLES.items():
            if key in row["external_ids"]:
                found[row["name"]] = f"{role}({row['external_ids'][key]})"
    return found


def _kind(cookie: int, exact: bool) -> str:
    kind, feature, owner = ledger.read_cookie(cookie)
    try:
        words = f"{ledger.Kind(kind).name}/{ledger.Feature(feature).name}/{owner}"
    except ValueError:
        return f"{cookie:#x}"
    return f"{words}/{cookie & 0xFFFF_FFFF:08x}" if exact else words


def normal_flow(line: str, names: Mapping[str, str], exact: bool = False) -> str | None:
    """One flow of a dump; None: it is not compared."""
    found = _COOKIE.search(line)
    if found is None:
        return None
    cookie = int(found[1], 16)
    if ledger.read_cookie(cookie)[0] == ledger.Kind.VOLATILE:
        return None
    rest = _named(_COUNTED.sub("", _COOKIE.sub("", line.strip(), count=1)), names).replace(", ", " ")
    return f"{rest} cookie={_kind(cookie, exact)}"


def _named(line: str, names: Mapping[str, str]) -> str:
    for name, role in names.items():
        line = re.sub(rf'"?(?<![\w-]){re.escape(name)}(?![\w-])"?', role, line)
    return line


def _flow_order(line: str) -> tuple[int, int, str]:
    table, priority = _TABLE.search(line), _PRIORITY.search(line)
    return int(table[1]) if table else 0, -int(priority[1]) if priority else -32768, line


def normal(asked: Callable[[str], str], names: Mapping[str, str], exact: bool = False) -> list[str]:
    """All of one switch. `asked(command)` gives what `ovs-ofctl --names` prints."""
    flows, groups, meters = (asked(what) for what in ("dump-flows", "dump-groups", "dump-meters"))
    made = (normal_flow(line, names, exact) for line in flows.splitlines())
    lines = sorted((line for line in made if line is not None), key=_flow_order)
    several = [_named(x.strip(), names) for x in groups.splitlines() if "group_id=" in x]
    # A meter's bands stand in lines of their own, under it.
    several += [x.replace("\n", " ").strip() for x in re.split(r"\n(?=meter=)", meters) if x.startswith("meter=")]
    return lines + sorted(several, key=_number)


def _number(line: str) -> tuple[str, int]:
    found = _MANY.search(line)
    return (found[1], int(found[2])) if found else ("", 0)


def of_fleet(site: Site, computes: Iterable[str], exact: bool = False) -> Dump:
    """Of these computes of a fleet."""
    found = {}
    for name in computes:
        names = roles(site.tell("rows", compute=name, table="Interface"))
        found[name] = normal(partial(_ask, site.management(name)), names, exact)
    return found


def rows_of_fleet(site: Site, computes: Iterable[str]) -> Dump:
    """What the controller has written into these computes' databases ("COMPUTE rows" -> lines), but for what it stamps at rest."""
    found = {}
    for name in computes:
        interfaces = site.tell("rows", compute=name, table="Interface")
        names = roles(interfaces)
        lines = []
        for row in interfaces:
            armed = "bfd" if row["bfd"].get("enable") == "true" else ""
            words = (
                names.get(row["name"], row["name"]),
                row["type"],
                *_settings(row["options"]),
                armed,
                row["error"] or "",
            )
            lines.append(" ".join(("Interface", *filter(None, words))))
        for row in site.tell("rows", compute=name, table="Bridge"):
            ids = {k: v for k, v in row["external_ids"].items() if k not in (vswitch.REVISION, vswitch.TERM)}
            controlled = "controlled" if row["controller"] else ""
            words = (row["name"], row["fail_mode"] or "", controlled, *_settings(ids), *row["flood_vlans"])
            lines.append(" ".join(("Bridge", *filter(None, words))))
        found[f"{name} rows"] = sorted(lines)
    return found


def _settings(found: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(found.items())]


def _ask(target: str, what: str) -> str:
    command = ["ovs-ofctl", "-O", "OpenFlow13", "--names", what, target]
    return run(command, deadline=20)


def without_leases(dump: Dump) -> Dump:
    """The same, but for which ports of an external address a NAT opens connections from: that tells of who stood by in between, and a
    controller that was killed may have chosen another."""
    return {name: [_LEASE.sub(r"\1:lease)", line) for line in lines] for name, lines in dump.items()}


def is_let_go(dump: Dump) -> bool:
    """Whether computes that have left hold nothing.

    Or nothing but the flow that drops all, as one does that comes back after it was removed: when a controller starts again in the middle
    of an end, they are not there yet.
    """
    flows = [line for name, lines in dump.items() if not name.endswith(" rows") for line in lines]
    rows = [line for name, lines in dump.items() if name.endswith(" rows") for line in lines]
    ours = [
        line for line in rows if any(word in line for word in ("tunnel(", "provider(", "ebbtide-", vswitch.TOMBSTONED))
    ]
    return not ours and all("actions=drop cookie=QUARANTINE/QUARANTINE/0" in line for line in flows)


def differences(one: Dump, other: Dump) -> list[str]:
    """Lines that only one of two dumps has: "COMPUTE - LINE" of the first, "COMPUTE + LINE" of the second."""
    found = []
    for name in sorted({*one, *other}):
        old, new = one.get(name, []), other.get(name, [])
        found += [f"{name} - {line}" for line in old if line not in new]
        found += [f"{name} + {line}" for line in new if line not in old]
    return found
