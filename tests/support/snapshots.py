"""What a compute holds, read by Open vSwitch's own tools and by nothing of ours: for byte-for-byte comparisons and a second search."""

from __future__ import annotations

import json
import re
from typing import Any

from ebbtide.lab import Compute
from tests.support.rows import SAID

_SUBNET_ROUTES = re.compile(r"cookie=0x30b0")
_COUNTERS = re.compile(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]+,? ?")


def flows(compute: Compute) -> list[str]:
    """Every flow of br-int, cookies included, counters not."""
    lines = compute.ofctl("dump-flows", "br-int").splitlines()
    return sorted(_COUNTERS.sub("", line).strip() for line in lines if "cookie=" in line)


def groups(compute: Compute) -> list[str]:
    """Every group of br-int."""
    return sorted(line.strip() for line in compute.ofctl("dump-groups", "br-int").splitlines() if "group_id=" in line)


def tunnels(compute: Compute) -> list[str]:
    """Every tunnel port: its name and where it leads."""
    text = compute.vsctl("--format=csv", "--no-headings", "--columns=name,options,type", "list", "interface")
    return sorted(line for line in text.splitlines() if "vxlan" in line)


def bridge_ids(compute: Compute) -> dict[str, str]:
    """br-int's external_ids, less what grows with every revision."""
    text = compute.vsctl("br-get-external-id", "br-int") if compute.has_bridge("br-int") else ""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {k: v for k, v in pairs.items() if k not in ("ebbtide-revision", "ebbtide-term")}


# What br-int's rows hold besides what is configured: names for the database's own use, and what is drawn anew at each plugging.
_NAMES_OF_ROWS = {"Bridge": "name", "Port": "name", "Interface": "name", "Controller": "target"}
_STAMP = ("ebbtide-revision", "ebbtide-term")
# A port number is the switch's answer to what was asked for; it is in every flow of the port, and so belongs to what is compared.
_NOT_COMPARED = (SAID | {"_uuid"}) - {"ofport"}


def rows(compute: Compute) -> dict[str, dict[str, Any]]:
    """br-int's rows, as ovsdb-client dumps them, its controllers', ports' and interfaces' among them: "Table name" -> columns.

    Less uuids (references are the names of what they lead to), statistics and whatever daemons write, and the revision stamp.
    """
    dumped = {table: _dump(compute, table) for table in _NAMES_OF_ROWS}
    names = {row["_uuid"][1]: row[_NAMES_OF_ROWS[table]] for table, found in dumped.items() for row in found}

    def plain(value: Any) -> Any:
        kind = value[0] if isinstance(value, list) else ""
        if kind == "uuid":
            return names.get(value[1], value[1])
        if kind == "set":
            return sorted(map(plain, value[1]), key=repr)
        if kind == "map":
            return {k: v for k, v in sorted(value[1]) if k not in _STAMP}
        return value

    found: dict[str, dict[str, Any]] = {}
    wanted = [("Bridge", "br-int")]
    while wanted:
        table, name = wanted.pop()
        for row in (r for r in dumped[table] if r[_NAMES_OF_ROWS[table]] == name):
            made = found[f"{table} {name}"] = {k: plain(v) for k, v in row.items() if k not in _NOT_COMPARED}
            for column, to in (("controller", "Controller"), ("ports", "Port"), ("interfaces", "Interface")):
                leads = made.get(column, [])
                wanted += [(to, one) for one in ([leads] if isinstance(leads, str) else leads)]
    return found


def _dump(compute: Compute, table: str) -> list[dict[str, Any]]:
    answer = json.loads(compute.ovsdb_client("dump", "Open_vSwitch", table, "--format=json"))
    return [dict(zip(answer["headings"], row, strict=True)) for row in answer["data"]]


def unmarked(found: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without the tombstoned mark: what else differs?"""
    bridge = found["rows"]["Bridge br-int"]
    kept = {**bridge, "external_ids": {k: v for k, v in bridge["external_ids"].items() if k != "tombstoned"}}
    ids = {k: v for k, v in found["ids"].items() if k != "tombstoned"}
    return {**found, "ids": ids, "rows": {**found["rows"], "Bridge br-int": kept}}


def differences(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Which lines and rows two snapshots of a compute do not share, but for who asks for a subnet's unknown addresses: that may have moved,
    and nothing moves back by itself."""
    found = []
    for part in was:
        old, new = ([f"{k}: {v}" for k, v in x.items()] if isinstance(x, dict) else x for x in (was[part], now[part]))
        both = [*(f"- {x}" for x in old if x not in new), *(f"+ {x}" for x in new if x not in old)]
        found += [f"{part} {x}" for x in both if not _SUBNET_ROUTES.match(x[2:])]
    return found


def size(found: dict[str, Any]) -> int:
    """How many lines and rows a snapshot has."""
    return sum(map(len, found.values()))


def stamp(compute: Compute) -> str:
    """The revision that the switch carries."""
    return compute.vsctl("get", "bridge", "br-int", "external_ids:ebbtide-revision", wait=False).strip().strip('"')


def snapshot(compute: Compute) -> dict[str, Any]:
    """All of it, but for what tells of UDP that is in use: that takes turns, and is no State (`nat.seen`)."""
    return {
        "flows": [line for line in flows(compute) if "ct_mark=" not in line],
        "groups": groups(compute),
        "tunnels": tunnels(compute),
        "ids": bridge_ids(compute),
        "rows": rows(compute),
    }


def search(compute: Compute, *words: str) -> list[str]:
    """Lines of ovs-ofctl's and ovs-vsctl's output that hold any of these words."""
    text = [
        *compute.ofctl("dump-flows", "br-int").splitlines(),
        *compute.ofctl("dump-groups", "br-int").splitlines(),
        *compute.ofctl("show", "br-int").splitlines(),
        *compute.vsctl("show").splitlines(),
        *compute.vsctl("--format=csv", "list", "interface").splitlines(),
        *compute.vsctl("--format=csv", "list", "bridge").splitlines(),
    ]
    return [line for line in text if any(word in line for word in words)]
