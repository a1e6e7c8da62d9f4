"""A compute's whole database, read by ovs-vsctl: what an operator has set, without what counters and daemons say."""

from __future__ import annotations

import json
from typing import Any

from ebbtide.lab import Compute

TABLES = ("Open_vSwitch", "Bridge", "Port", "Interface", "Controller", "Manager", "QoS", "Queue", "Mirror", "SSL")
# Written by ovsdb-server and ovs-vswitchd, at any time.
SAID = frozenset(
    "statistics status cur_cfg next_cfg is_connected link_resets rstp_statistics rstp_status bfd_status cfm_health "  # noqa: SIM905
    "link_state admin_state ifindex lacp_current role link_speed duplex error ofport mac_in_use mtu".split()
)


def database(compute: Compute) -> dict[str, dict[str, dict[str, Any]]]:
    """Table -> row (by name where it has one, else by uuid) -> column -> value."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for table in TABLES:
        answer = json.loads(compute.vsctl("--format=json", "list", table, wait=False))
        rows = [dict(zip(answer["headings"], map(_plain, row), strict=True)) for row in answer["data"]]
        found[table] = {
            row.get("name", str(row["_uuid"])): {k: v for k, v in row.items() if k not in SAID} for row in rows
        }
    return found


def _plain(value: Any) -> Any:
    """Sets and maps in one order."""
    if isinstance(value, list) and len(value) == 2 and value[0] in ("set", "map"):
        return [value[0], sorted(value[1], key=repr)]
    return value
