"""The trees that networking-odl reads: on which hosts ports may be bound, and which ports are served. Pure, as `views.py`.

A host is one whose compute is ready: a tombstoned one is in no list, so that Neutron binds nothing new there, and a removed one is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ebbtide.decide import documents
from ebbtide.decide.bodies import GATEWAY, LEGS, PortBody
from ebbtide.model.facts import Compute, Document, Port
from ebbtide.model.observed import Phase, View
from ebbtide.model.state import State
from ebbtide.north.tree import Rows, rows

Node = dict[str, Any]
#: What networking-odl knows of hosts: the agent that it takes each of them for.
HOST_TYPE = "ODL L2"


class Host(msgspec.Struct, frozen=True):
    """What is seen of a compute. `name`: what it says that it is called in Nova ("": it says nothing); `applied`: the newest revision that
    its switch has confirmed."""

    view: View = View()
    connected: bool = False
    phase: Phase = Phase.CONNECTED
    applied: int = 0
    name: str = ""


def unseen(number: int) -> Host:
    """A compute of which nothing is seen."""
    return Host()


def trees(state: State, host: Callable[[int], Host]) -> dict[str, Any]:
    """The operational tree, under the qualified name of its root."""
    return {
        "neutron:neutron": lambda: {
            "hostconfigs": lambda: {"hostconfig": _hosts(state, host)},
            "ports": lambda: {"port": _ports(state, host)},
        }
    }


def _hosts(state: State, host: Callable[[int], Host]) -> Rows:
    found = []
    for compute in state.members():
        seen = host(compute.number)
        if seen.phase is Phase.READY and not compute.tombstoned:
            found.append(_host(compute, seen))
    return rows(("host-id", "host-type"), found)


def _host(compute: Compute, seen: Host) -> Node:
    """A host as networking-odl takes it, its configuration as text. Ports are bound in vxlan networks only: no other has any."""
    config = {
        "supported_vnic_types": [
            {"vnic_type": "normal", "vif_type": "ovs", "vif_details": {"port_filter": True, "ovs_hybrid_plug": False}}
        ],
        "allowed_network_types": ["vxlan"],
        "bridge_mappings": dict(compute.provider_mappings),
        "datapath_type": seen.view.datapath.kind or "system",
    }
    text = msgspec.json.encode(config).decode()
    return {"host-id": seen.name or compute.hostname or compute.name, "host-type": HOST_TYPE, "config": text}


def _ports(state: State, host: Callable[[int], Host]) -> Rows:
    known: Mapping[str, Document] = state.documents.get("ports", {})

    def every() -> Iterable[Node]:
        return (_port(state, host, name) for name in sorted(known))

    def one(keys: tuple[str, ...]) -> Node | None:
        return _port(state, host, keys[0]) if keys[0] in known else None

    return Rows(("uuid",), every, one)


def _port(state: State, host: Callable[[int], Host], name: str) -> Node:
    port, document = state.ports.get(name), state.document("ports", name)
    assert document is not None
    served = (
        is_served(state, host, port) if port is not None else _is_placed(state, documents.read("ports", document.body))
    )
    return {"uuid": name, "status": "ACTIVE" if served else "DOWN"}


def _is_placed(state: State, body: PortBody) -> bool:
    """Whether a router is where this port of it is."""
    router = state.routers.get(body.router)
    if router is None:
        return False
    if body.device_owner == GATEWAY:
        return router.external == body.network_id
    held = {(leg.network, leg.address) for leg in state.places(router.id)}
    wanted = {(body.network_id, fixed.ip_address) for fixed in body.fixed_ips or ()}
    return body.device_owner in LEGS and bool(wanted) and wanted <= held


def is_served(state: State, host: Callable[[int], Host], port: Port) -> bool:
    """Whether a port is plugged, and its own compute and all that can be reached and send to it have confirmed what they need for that."""
    binding = state.active(port.id)
    if binding is None or host(binding.compute).applied < binding.since:
        return False
    needed = set(state.footprint(port.network))
    for vrf in state.vrfs_with(port.network):
        needed |= state.reach(vrf)
    for group in port.groups:
        needed |= state.asks_for(group)
    heard = (host(number) for number in needed)
    waited_for = (h for h in heard if h.connected and h.phase not in (Phase.BRAKED, Phase.FOREIGN))
    return all(h.applied >= binding.since for h in waited_for)
