"""Neutron's objects as the controller is told of them: read from the database, many at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from neutron_lib.plugins import constants, directory

#: Parents before children: what is made comes in this order, what is deleted in the reverse. And what of each is served.
SERVED = {
    "security-groups": ("stateful",),
    "security-group-rules": (
        *("security_group_id", "direction", "ethertype", "protocol", "port_range_min", "port_range_max"),
        *("remote_ip_prefix", "remote_group_id", "remote_address_group_id"),
    ),
    "networks": (
        *("provider:network_type", "provider:physical_network", "provider:segmentation_id", "router:external"),
        *("mtu", "admin_state_up"),
    ),
    "subnets": (
        *("network_id", "cidr", "gateway_ip", "enable_dhcp", "ipv6_ra_mode", "ipv6_address_mode"),
        *("dns_nameservers", "host_routes"),
    ),
    "routers": ("admin_state_up", "external_gateway_info", "routes"),
    "ports": (
        *("network_id", "mac_address", "fixed_ips", "security_groups", "port_security_enabled"),
        *("allowed_address_pairs", "device_owner", "device_id", "binding:host_id", "admin_state_up"),
    ),
    "floatingips": ("floating_network_id", "floating_ip_address", "port_id", "fixed_ip_address", "router_id"),
}
KINDS = tuple(SERVED)
#: Neutron's own use: what is said elsewhere.
_LEFT_OUT = {"security-groups": ("security_group_rules",), "networks": ("subnets",)}
#: Objects read at a time.
PAGE = 500


def _getter(kind: str) -> Callable[..., list[dict[str, Any]]] | None:
    plugin = directory.get_plugin(constants.L3 if kind in ("routers", "floatingips") else constants.CORE)
    return getattr(plugin, f"get_{kind.replace('-', '_')}", None)


def has(kind: str) -> bool:
    """Whether this Neutron has any: without a plugin, nobody here knows."""
    return _getter(kind) is not None


def read(context: Any, kind: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Those of these that there are, as bodies, by id."""
    getter = _getter(kind)
    assert getter is not None, f"{kind}: whether there are any is not known here"
    found: dict[str, dict[str, Any]] = {}
    for at in range(0, len(ids), PAGE):
        for each in getter(context, filters={"id": list(ids[at : at + PAGE])}):
            found[each["id"]] = {key: value for key, value in each.items() if key not in _LEFT_OUT.get(kind, ())}
    return found


def ids_of(context: Any, kind: str) -> list[str]:
    """All that there are."""
    getter = _getter(kind)
    found: Iterable[dict[str, Any]] = getter(context, fields=["id"]) if getter is not None else ()
    return [each["id"] for each in found]


def revision(body: dict[str, Any]) -> int:
    """Of an object, as Neutron counts; -1: it is not counted."""
    found = body.get("revision_number")
    return found if isinstance(found, int) else -1


def served(kind: str, body: dict[str, Any]) -> str:
    """What of an object the controller makes something of, as text that is the same when that is. The order within lists is no matter."""
    return json.dumps({field: _plain(body[field]) for field in SERVED[kind] if body.get(field) not in (None, [], {})})


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {str(key): _plain(value) for key, value in sorted(found.items())}
    if isinstance(found, list | tuple | set | frozenset):
        return sorted((_plain(each) for each in found), key=lambda each: json.dumps(each, default=str))
    return found if isinstance(found, bool | int | float | str) or found is None else str(found)
