"""Neutron's objects as the controller is told of them: read from the database, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from neutron_lib.plugins import constants, directory

#: Parents before children: what is made comes in this order, what is deleted in the reverse.
KINDS = (
    "security-groups",
    "security-group-rules",
    "networks",
    "subnets",
    "routers",
    "ports",
    "floatingips",
)
#: Neutron's own use: what changes with every look, or is said elsewhere.
_LEFT_OUT = {"security-groups": ("security_group_rules",), "networks": ("subnets",)}


def _getter(kind: str) -> Callable[..., list[dict[str, Any]]] | None:
    core, routers = directory.get_plugin(), directory.get_plugin(constants.L3)
    name = f"get_{kind.replace('-', '_')}"
    return getattr(routers if kind in ("routers", "floatingips") else core, name, None)  # type: ignore[no-any-return]


def read(context: Any, kind: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Those of these that there are, as bodies, by id."""
    getter = _getter(kind)
    if getter is None or not ids:
        return {}
    return {each["id"]: _body(kind, each) for each in getter(context, filters={"id": list(ids)})}


def revisions(context: Any, kind: str) -> dict[str, int]:
    """All of a kind: id, and revision."""
    getter = _getter(kind)
    if getter is None:
        return {}
    found: Iterable[dict[str, Any]] = getter(context, fields=["id", "revision_number"])
    return {each["id"]: int(each.get("revision_number", -1)) for each in found}


def _body(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in _LEFT_OUT.get(kind, ())}
