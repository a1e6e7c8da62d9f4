"""Provider ports: rows that lead from br-int to the networks outside, by a bridge of the host's or by an interface of its own.

A mapping `physnet:NAME` names a bridge: then a pair of patch ports, one in each. The bridge stays the host's; two things of it are ours:
the patch port, and that MAC learning is off for the VLANs of our networks (Bridge.flood_vlans). A bridge that has seen a router's MAC on
its wire side would drop what comes for it from there after the NAT has moved here. We take away only the VLANs that we have added.

A mapping that names an interface puts it into br-int, where nothing else reaches it. That can cut a host off, so it must be asked for by
`other_config:ebbtide-provider-interfaces`; a name that is neither is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2s
from typing import Any
from zlib import crc32

import msgspec

from ebbtide.ovsdb.conditions import by_uuid, delete_from, insert_into
from ebbtide.ovsdb.replica import Replica, RowChange
from ebbtide.ovsdb.transaction import Transaction
from ebbtide.ovsdb.values import Uuid

PROVIDER = "ebbtide-provider"
FLOODED = "ebbtide-flood-vlans"
INTERFACES = "ebbtide-provider-interfaces"
BRIDGE = "br-int"
_FIRST_PORT, _PORTS = 9_000, 900
#: What of a host's bridge we depend on.
_LOOKED_AT = ("name", "ports", "datapath_type", "flood_vlans", "external_ids")


class Provider(msgspec.Struct, frozen=True):
    """A physical network that a compute is to have: what its mapping names, and the VLANs of our networks there (0: untagged)."""

    physical: str
    target: str
    vlans: frozenset[int]


def patch_names(physical: str) -> tuple[str, str]:
    """Names of the patch ports of a physical network, in br-int and in the host's bridge."""
    text = blake2s(physical.encode(), digest_size=8).hexdigest()[:10]
    return f"ebi{text}", f"ebx{text}"


def concerns(change: RowChange) -> bool:
    """Whether a change of a host's row is one of the ways to the networks outside: its bridges, and which interfaces we may have."""
    old, new = change.old, change.new
    if change.table == "Open_vSwitch":
        return _asks(old) != _asks(new)
    if change.table != "Bridge" or any(row is not None and row["name"] == BRIDGE for row in (old, new)):
        return False
    return change.touches(*_LOOKED_AT)


def _asks(row: Mapping[str, Any] | None) -> str:
    return str(row["other_config"].get(INTERFACES, "")) if row is not None else ""


def ports_of(tables: Replica, bridge: Mapping[str, Any]) -> Iterable[tuple[Uuid, Uuid, Mapping[str, Any]]]:
    """Port uuid, interface uuid and interface row of everything on a bridge."""
    ports, interfaces = tables.rows("Port"), tables.rows("Interface")
    for port in bridge["ports"]:
        row = ports.get(port)
        for name in row["interfaces"] if row else ():
            interface = interfaces.get(name)
            if interface is not None:
                yield port, name, interface


def trouble(tables: Replica, provider: Provider) -> str:
    """Why a physical network cannot be had here, in words, or ""."""
    bridges = {row["name"]: row for row in tables.rows("Bridge").values()}
    found = bridges.get(provider.target)
    if found is not None:
        own = bridges.get(BRIDGE)
        if own is not None and own["datapath_type"] != found["datapath_type"]:
            kind = found["datapath_type"] or "system"
            return f"bridge {provider.target} has datapath {kind}, br-int another: no patch port can join them"
        return ""
    if provider.target not in _allowed(tables):
        return (
            f"{provider.target} is no bridge here; if it is an interface that nothing else needs, say so: "
            f"ovs-vsctl set Open_vSwitch . other_config:{INTERFACES}={provider.target}"
        )
    for name, row in bridges.items():
        if name != BRIDGE and any(i["name"] == provider.target for _, _, i in ports_of(tables, row)):
            return f"{provider.target} is a port of bridge {name}: map the bridge"
    return ""


def complaint(tables: Replica, provider: Provider) -> str:
    """What a person is to know of a physical network here: why it cannot be had, or what the switch says of its port; or ""."""
    found = trouble(tables, provider)
    if found:
        return f"provider network {provider.physical}: {found}"
    own = next((row for row in tables.rows("Bridge").values() if row["name"] == BRIDGE), None)
    ports = (i for _, _, i in ports_of(tables, own)) if own is not None else ()
    mine = (i for i in ports if i["external_ids"].get(PROVIDER) == provider.physical)
    # What is said of a port that works is of a moment when its peer was not there yet.
    errors = (i["error"] for i in mine if i["error"] and (i["ofport"] or 0) <= 0)
    return next((f"provider network {provider.physical}: {error}" for error in errors), "")


def _allowed(tables: Replica) -> set[str]:
    for row in tables.rows("Open_vSwitch").values():
        return {name.strip() for name in row["other_config"].get(INTERFACES, "").split(",") if name.strip()}
    return set()


class ProviderRows:
    """What is to be written of them into one transaction."""

    def __init__(self, tables: Replica, transaction: Transaction) -> None:
        self._tables = tables
        self._transaction = transaction
        self._bridges = {row["name"]: (uuid, row) for uuid, row in tables.rows("Bridge").items()}

    def make(self, wanted: Iterable[Provider]) -> None:
        """Ports that are missing, and learning off for the VLANs of our networks."""
        flooded: dict[str, set[str]] = {}
        for provider in wanted:
            if trouble(self._tables, provider) or BRIDGE not in self._bridges:
                continue
            inner, outer = patch_names(provider.physical)
            if provider.target in self._bridges:
                self._port(BRIDGE, provider.physical, inner, {"peer": outer}, "patch")
                self._port(provider.target, provider.physical, outer, {"peer": inner}, "patch")
                flooded.setdefault(provider.target, set()).update(str(v) for v in provider.vlans)
            else:
                self._port(BRIDGE, provider.physical, provider.target, {}, "")
        for bridge, vlans in flooded.items():
            self._flood(bridge, vlans)

    def _port(self, bridge: str, physical: str, name: str, options: dict[str, str], kind: str) -> None:
        uuid, row = self._bridges[bridge]
        if any(i["name"] == name for _, _, i in ports_of(self._tables, row)):
            return
        self._clear_way(name)
        made: dict[str, Any] = {"name": name, "type": kind, "options": options, "external_ids": {PROVIDER: physical}}
        if bridge == BRIDGE:
            # Only a request: it keeps the number over a restart of the switch.
            made["ofport_request"] = _FIRST_PORT + crc32(physical.encode()) % _PORTS
        index = len(self._transaction)
        interface = self._transaction.insert("Interface", made, name=f"provider{index}")
        port = self._transaction.insert(
            "Port", {"name": name, "interfaces": frozenset({interface})}, name=f"providerport{index}"
        )
        self._transaction.mutate("Bridge", by_uuid(uuid), [insert_into("ports", frozenset({port}))])

    def _clear_way(self, name: str) -> None:
        """A mapping names another bridge than before: our port has one name, and can be in one of them."""
        for uuid, row in self._bridges.values():
            there = [
                p for p, _, i in ports_of(self._tables, row) if i["name"] == name and PROVIDER in i["external_ids"]
            ]
            if there:
                self._transaction.mutate("Bridge", by_uuid(uuid), [delete_from("ports", frozenset(there))])

    def _flood(self, bridge: str, vlans: set[str]) -> None:
        """Each change of the column empties the bridge's MAC table, so it is written only where it differs."""
        uuid, row = self._bridges[bridge]
        ours = {v for v in row["external_ids"].get(FLOODED, "").split(",") if v.isdecimal()}
        there = {str(v) for v in row["flood_vlans"]}
        new, gone = vlans - there, (ours - vlans) & there
        mark = ",".join(sorted((ours & there & vlans) | new, key=int))
        if new or gone:
            changed = frozenset(int(v) for v in (there - gone) | new)
            self._transaction.update("Bridge", by_uuid(uuid), {"flood_vlans": changed})
        if mark != row["external_ids"].get(FLOODED, ""):
            mutations = [delete_from("external_ids", frozenset({FLOODED}))] if FLOODED in row["external_ids"] else []
            if mark:
                mutations.append(insert_into("external_ids", {FLOODED: mark}))
            self._transaction.mutate("Bridge", by_uuid(uuid), mutations)

    def drop(self, keep: Iterable[Provider]) -> None:
        """Ports of ours to physical networks that are not to be had any more, or cannot be, at both ends, and what we have set on the
        host's bridges."""
        kept = {provider.physical: provider for provider in keep if not trouble(self._tables, provider)}
        targets = {provider.target for provider in kept.values()}
        for name, (uuid, row) in self._bridges.items():
            gone = []
            for port, _, interface in ports_of(self._tables, row):
                physical = interface["external_ids"].get(PROVIDER)
                if physical is None:
                    continue
                provider = kept.get(physical)
                there = provider is not None and (name in (BRIDGE, provider.target))
                if not there or (name == BRIDGE and not self._is_meant(interface, provider)):
                    gone.append(port)
            if gone:
                self._transaction.mutate("Bridge", by_uuid(uuid), [delete_from("ports", frozenset(gone))])
            if name != BRIDGE and name not in targets and FLOODED in row["external_ids"]:
                self._flood(name, set())

    def _is_meant(self, interface: Mapping[str, Any], provider: Provider | None) -> bool:
        if provider is None:
            return False
        by_bridge = provider.target in self._bridges
        return bool(interface["name"] == (patch_names(provider.physical)[0] if by_bridge else provider.target))
