"""The trees that networking-odl reads: on which hosts ports may be bound, and which ports are served. Pure, as `views.py`.

A host is one whose compute is ready: a tombstoned one is in no list, so that Neutron binds nothing new there, and a removed one is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ebbtide.decide import arrivals
from ebbtide.decide.arrivals import Heard
from ebbtide.model.facts import Compute, Document
from ebbtide.model.observed import Phase, View
from ebbtide.model.state import State
from ebbtide.north.tree import Rows, rows

Node = dict[str, Any]
#: What networking-odl knows of hosts: the agent that it takes each of them for.
HOST_TYPE = "ODL L2"


class Host(msgspec.Struct, frozen=True):
    """What is seen of a compute. `applied`: the newest revision that its switch has confirmed."""

    view: View = View()
    connected: bool = False
    phase: Phase = Phase.CONNECTED
    applied: int = 0

    @property
    def heard(self) -> Heard:
        """As far as ports wait for it."""
        return Heard(self.applied, self.connected and self.phase not in (Phase.BRAKED, Phase.FOREIGN))


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
    return {"host-id": compute.host, "host-type": HOST_TYPE, "config": text}


def _ports(state: State, host: Callable[[int], Host]) -> Rows:
    known: Mapping[str, Document] = state.documents.get("ports", {})

    def every() -> Iterable[Node]:
        return (_port(state, host, name) for name in sorted(known))

    def one(keys: tuple[str, ...]) -> Node | None:
        return _port(state, host, keys[0]) if keys[0] in known else None

    return Rows(("uuid",), every, one)


def _port(state: State, host: Callable[[int], Host], name: str) -> Node:
    """Neutron knows no state between: what is plugged and not confirmed is down."""

    def heard(number: int) -> Heard:
        return host(number).heard

    found = arrivals.of_port(state, name, heard).status
    return {"uuid": name, "status": found if found == arrivals.ACTIVE else arrivals.DOWN}
