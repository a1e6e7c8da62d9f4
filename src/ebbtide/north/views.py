"""The data trees that OpenDaylight users know, rendered from State: topology, inventory, transport zones, tunnels, computes;
those of NAT are in `nat_views.py`, those of VPNs and subnet routes in `vpn_views.py`, that of Neutron in `neutron_views.py`.

Members only: a compute that waits for admission, or was removed, is in none of them. "config" is what Ebbtide wants, from State
alone; "nonconfig" is what is seen, and has a compute only while it is connected. Trees are
lazy (`tree.Rows`, and roots that are called): one node of a thousand costs one node. Pure: a `Picture` comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2s
from typing import Any

import msgspec
from immutables import Map

from ebbtide.compile import compiler
from ebbtide.compile.features import tunnel
from ebbtide.model.facts import Compute
from ebbtide.model.observed import View
from ebbtide.model.state import State
from ebbtide.north import nat_views, neutron_views, vpn_views
from ebbtide.north.tree import U64, Rows, rows
from ebbtide.openflow.flows import encode_flow
from ebbtide.openflow.text import format_flow, format_group, format_meter

Node = dict[str, Any]
BRIDGE = "br-int"
_OVSDB, _FLOW = "ovsdb:1", "flow:1"
_VXLAN = "odl-interface:tunnel-type-vxlan"
_TOPOLOGY = "/network-topology:network-topology/network-topology:topology[network-topology:topology-id='ovsdb:1']"


class Seen(msgspec.Struct, frozen=True):
    """What is seen of one compute. `ids`: its bridge's external_ids as read."""

    view: View = View()
    connected: bool = False
    ids: Mapping[str, str] = Map()


class Picture(msgspec.Struct, frozen=True):
    """What the views are rendered from. `config` and `nonconfig` tell what was asked for; `check` raises while Neutron is not to be told
    what is seen, as of a controller that stands by."""

    state: State
    seen: Callable[[int], Seen]
    is_open: Callable[[int, int], bool]
    config: bool = True
    nonconfig: bool = True
    host: Callable[[int], neutron_views.Host] = neutron_views.unseen
    check: Callable[[], None] = lambda: None

    def shown(self, compute: Compute) -> bool:
        """Whether a member is in what was asked for."""
        return self.config or self.seen(compute.number).connected


def trees(picture: Picture) -> dict[str, Any]:
    """All trees, by qualified name of their roots; a root is called when it is asked for."""
    found: dict[str, Any] = {
        "network-topology:network-topology": lambda: network_topology(picture),
        "opendaylight-inventory:nodes": lambda: {"node": _inventory(picture)},
    }
    if picture.config:
        found["cloudscaler-rpc:compute-nodes"] = lambda: {"compute-node": _compute_nodes(picture)}
        found["itm:transport-zones"] = lambda: {"transport-zone": _zones(picture)}
        found["itm-state:dpn-endpoints"] = lambda: {"DPN-TEPs-info": _end_points(picture)}
        found["itm-state:tunnel-list"] = lambda: {"internal-tunnel": _tunnel_list(picture)}
        found |= nat_views.trees(picture.state) | vpn_views.config(picture.state)
    if picture.nonconfig:
        found["itm-state:tunnels_state"] = lambda: {"state-tunnel-list": _tunnels(picture)}
        found |= vpn_views.nonconfig(picture.state) | neutron_views.trees(picture.state, picture.host, picture.check)
    return found


def _by(picture: Picture, key: str, name: Callable[[Compute], str], make: Callable[[Compute], Node]) -> Rows:
    """A list with one entry a member."""

    def members() -> Iterable[Compute]:
        return (c for c in picture.state.members() if picture.shown(c))

    def one(keys: tuple[str, ...]) -> Node | None:
        return next((make(c) for c in members() if name(c) == keys[0]), None)

    return Rows((key,), lambda: map(make, members()), one)


# --- topology ---


def network_topology(picture: Picture) -> Node:
    """network-topology: ovsdb:1 with an OVSDB node and a bridge node a compute; flow:1 with a node a connected switch."""
    topologies = [{"topology-id": _OVSDB, "node": _ovsdb_nodes(picture)}]
    if picture.nonconfig:
        topologies.append({"topology-id": _FLOW, "node": _flow_nodes(picture)})
    return {"topology": rows(("topology-id",), topologies)}


def _flow_nodes(picture: Picture) -> Rows:
    def node(compute: Compute) -> Node:
        points = _flow_points(compute, picture.seen(compute.number).view)
        return {"node-id": compute.node_id, "termination-point": rows(("tp-id",), points)}

    return _by(msgspec.structs.replace(picture, config=False), "node-id", lambda c: c.node_id, node)


def _flow_points(compute: Compute, view: View) -> list[Node]:
    ports = sorted({i.ofport for i in [*view.ports.values(), *view.tunnels.values()] if i.ofport})
    return [{"tp-id": f"{compute.node_id}:{number}"} for number in ports]


def _ovsdb_nodes(picture: Picture) -> Rows:
    def members() -> Iterable[Compute]:
        return (c for c in picture.state.members() if c.ovs_uuid and picture.shown(c))

    def every() -> Iterable[Node]:
        for compute in members():
            yield _ovsdb_node(compute)
            yield _bridge_node(picture, compute)

    def one(keys: tuple[str, ...]) -> Node | None:
        for compute in members():
            if keys[0] == compute.ovsdb_node_id:
                return _ovsdb_node(compute)
            if keys[0] == compute.bridge_node_id:
                return _bridge_node(picture, compute)
        return None

    return Rows(("node-id",), every, one)


def _ovsdb_node(compute: Compute) -> Node:
    configs = {"local_ip": ",".join(compute.teps)}
    if compute.provider_mappings:
        configs["provider_mappings"] = ",".join(f"{k}:{v}" for k, v in compute.provider_mappings)
    ids = {"system-id": compute.system_id, "hostname": compute.hostname, "transport-zone": compute.zone}
    bridge = f"{_TOPOLOGY}/network-topology:node[network-topology:node-id='{compute.bridge_node_id}']"
    return {
        "node-id": compute.ovsdb_node_id,
        "ovsdb:openvswitch-other-configs": _pairs("other-config", configs),
        "ovsdb:openvswitch-external-ids": _pairs("external-id", ids),
        "ovsdb:managed-node-entry": rows(("bridge-ref",), [{"bridge-ref": bridge}]),
    }


def _pairs(kind: str, values: Mapping[str, str]) -> Rows:
    found = [{f"{kind}-key": k, f"{kind}-value": v} for k, v in sorted(values.items()) if v]
    return rows((f"{kind}-key",), found)


def _bridge_node(picture: Picture, compute: Compute) -> Node:
    seen = picture.seen(compute.number)
    ids = dict(seen.ids) if picture.nonconfig else {}
    ids.pop("tombstoned", None)
    if compute.tombstoned:
        ids["tombstoned"] = "true"
    external = [{"bridge-external-id-key": k, "bridge-external-id-value": v} for k, v in sorted(ids.items())]
    other = [{"bridge-other-config-key": "dp-desc", "bridge-other-config-value": compute.name}]
    node: Node = {
        "node-id": compute.bridge_node_id,
        "ovsdb:bridge-name": BRIDGE,
        "ovsdb:datapath-id": dpid_text(compute.dpid),
        "ovsdb:fail-mode": "ovsdb:ovsdb-fail-mode-secure",
        "ovsdb:managed-by": f"{_TOPOLOGY}/network-topology:node[network-topology:node-id='{compute.ovsdb_node_id}']",
        "ovsdb:bridge-external-ids": rows(("bridge-external-id-key",), external),
        "ovsdb:bridge-other-configs": rows(("bridge-other-config-key",), other),
    }
    if picture.nonconfig and seen.connected:
        node["termination-point"] = rows(("tp-id",), _points(picture.state, compute, seen.view))
    return node


def dpid_text(dpid: int) -> str:
    """A datapath id as eight hex bytes with colons."""
    raw = f"{dpid:016x}"
    return ":".join(raw[i : i + 2] for i in range(0, 16, 2))


def _points(state: State, compute: Compute, view: View) -> list[Node]:
    tunnels = tunnel.rows(state, compute.number) if compute.number in state.computes else {}
    found = []
    for peer, interface in view.tunnels.items():
        options = {"remote_ip": tunnels[peer].remote_ip, "key": "flow"} if peer in tunnels else {"key": "flow"}
        found.append(
            {
                "tp-id": interface.name,
                "ovsdb:name": interface.name,
                "ovsdb:ofport": interface.ofport,
                "ovsdb:interface-type": "ovsdb:interface-type-vxlan",
                "ovsdb:options": [{"option": k, "value": v} for k, v in sorted(options.items())],
            }
        )
    for iface_id, interface in view.ports.items():
        ids = {"iface-id": iface_id, "attached-mac": interface.mac}
        found.append(
            {
                "tp-id": interface.name,
                "ovsdb:name": interface.name,
                "ovsdb:ofport": interface.ofport,
                "ovsdb:interface-external-ids": [
                    {"external-id-key": k, "external-id-value": v} for k, v in sorted(ids.items()) if v
                ],
            }
        )
    return sorted(found, key=lambda p: str(p["tp-id"]))


# --- inventory ---


def _inventory(picture: Picture) -> Rows:
    return _by(picture, "id", lambda c: c.node_id, lambda c: _switch(picture, c))


def _switch(picture: Picture, compute: Compute) -> Node:
    seen = picture.seen(compute.number)
    node: Node = {"id": compute.node_id}
    if picture.nonconfig and seen.connected:
        node["flow-node-inventory:description"] = compute.name
        node["flow-node-inventory:ip-address"] = compute.tep
        interfaces = [*seen.view.ports.values(), *seen.view.tunnels.values()]
        connectors = [
            {
                "id": f"{compute.node_id}:{i.ofport}",
                "flow-node-inventory:port-number": str(i.ofport),
                "flow-node-inventory:name": i.name,
            }
            for i in sorted(interfaces, key=lambda i: i.ofport)
            if i.ofport
        ]
        node["node-connector"] = rows(("id",), connectors)
    if picture.config:
        node.update(_programme(picture.state, compute, seen.view))
    return node


def _programme(state: State, compute: Compute, view: View) -> Node:
    """All that Ebbtide wants on a switch: flows by table, groups, meters, each with its ovs-ofctl spelling."""
    tables: dict[int, list[Node]] = {}
    groups: list[Node] = []
    meters: list[Node] = []
    for key, made in compiler.desired(state, compute.number, view).items():
        what = f"{key.room}:{key.object}"
        for flow in made.flows:
            encoded = encode_flow(flow)
            name = blake2s(repr(encoded.key).encode(), digest_size=8).hexdigest()
            tables.setdefault(flow.table, []).append(
                {
                    "id": name,
                    "table_id": int(flow.table),
                    "priority": int(flow.priority),
                    "cookie": U64(encoded.cookie),
                    "flow-name": what,
                    "ebbtide:text": format_flow(flow),
                }
            )
        for group in made.groups:
            kind = ("group-all", "group-select", "group-indirect", "group-ff")[group.type]
            text = format_group(group)
            groups.append({"group-id": group.group_id, "group-type": kind, "group-name": what, "ebbtide:text": text})
        meters += [{"meter-id": m.meter_id, "meter-name": what, "ebbtide:text": format_meter(m)} for m in made.meters]
    found = [
        {"id": int(table), "flow": rows(("id",), sorted(flows, key=lambda f: (-int(f["priority"]), str(f["id"]))))}
        for table, flows in sorted(tables.items())
    ]
    return {
        "flow-node-inventory:table": rows(("id",), found),
        "flow-node-inventory:group": rows(("group-id",), sorted(groups, key=lambda g: int(g["group-id"]))),
        "flow-node-inventory:meter": rows(("meter-id",), sorted(meters, key=lambda m: int(m["meter-id"]))),
    }


# --- computes, transport zones, tunnels ---


def _compute_nodes(picture: Picture) -> Rows:
    return _by(
        picture,
        "compute-name",
        lambda c: c.name,
        lambda c: {
            "compute-name": c.name,
            "nodeid": c.bridge_node_id if c.ovs_uuid else "",
            "dpnid": U64(c.dpid),
            "tombstoned": c.tombstoned,
        },
    )


def _zones(picture: Picture) -> Rows:
    zones: dict[str, list[Node]] = {}
    for compute in picture.state.members():
        if compute.tep:
            zones.setdefault(compute.zone, []).append({"dpn-id": U64(compute.dpid), "ip-address": compute.tep})
    found = [
        {"zone-name": zone, "tunnel-type": _VXLAN, "vteps": rows(("dpn-id",), vteps)}
        for zone, vteps in sorted(zones.items())
    ]
    return rows(("zone-name",), found)


def _end_points(picture: Picture) -> Rows:
    found = []
    for compute in picture.state.members():
        points = [
            {"ip-address": tep, "tunnel-type": _VXLAN, "tz-membership": [{"zone-name": compute.zone}]}
            for tep in compute.teps
        ]
        if points:
            end_points = rows(("ip-address", "tunnel-type"), points)
            found.append({"DPN-ID": U64(compute.dpid), "tunnel-end-points": end_points})
    return rows(("DPN-ID",), found)


def _directed(picture: Picture) -> Iterable[tuple[Compute, Compute, str]]:
    """Every tunnel that should be, with its name on the switch at its source."""
    state = picture.state
    for compute in state.members():
        for peer, row in sorted(tunnel.rows(state, compute.number).items()):
            yield compute, state.computes[peer], row.name


def _tunnel_list(picture: Picture) -> Rows:
    found = [
        {
            "source-DPN": U64(a.dpid),
            "destination-DPN": U64(b.dpid),
            "transport-type": _VXLAN,
            "tunnel-interface-names": [name],
        }
        for a, b, name in _directed(picture)
    ]
    return rows(("source-DPN", "destination-DPN", "transport-type"), found)


def _tunnels(picture: Picture) -> Rows:
    found = [
        {
            "tunnel-interface-name": name,
            "oper-state": _oper_state(picture, a, b),
            "transport-type": _VXLAN,
            "src-info": {"tep-device-id": str(a.dpid), "tep-ip": a.tep},
            "dst-info": {"tep-device-id": str(b.dpid), "tep-ip": b.tep},
        }
        for a, b, name in _directed(picture)
    ]
    return rows(("tunnel-interface-name",), found)


def _oper_state(picture: Picture, source: Compute, target: Compute) -> str:
    """up: probes came through both ways. unknown: its source cannot be heard, so nobody can say. Else down."""
    if not picture.seen(source.number).connected:
        return "unknown"
    return "up" if picture.is_open(source.number, target.number) else "down"
