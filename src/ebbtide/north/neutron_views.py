"""The trees that networking-odl reads: on which hosts ports may be bound, and which ports are served. Pure, as `views.py`. What it is told
of both as they change (`odl_streams.py`) is decided here too.

A host is one whose compute is ready. A tombstoned one is listed too, with no type of network that is allowed: networking-odl binds ports by
what it has read last, whether or not a host is listed still. A removed one is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from ebbtide.decide import arrivals, documents
from ebbtide.decide.arrivals import Heard
from ebbtide.model.facts import Compute, Document
from ebbtide.model.observed import Phase, View, is_waited_for
from ebbtide.model.state import State
from ebbtide.north.tree import Rows, rows

Node = dict[str, Any]
#: What networking-odl knows of hosts: the agent that it takes each of them for.
HOST_TYPE = "ODL L2"
#: What makes networking-odl wait for a port's status, instead of calling it active when it is bound.
FEATURE = "neutron-extensions:operational-port-status"
_FEATURE = "service-provider-feature"


class Host(msgspec.Struct, frozen=True):
    """What is seen of a compute. `applied`, `serves`: see `Heard`."""

    view: View = View()
    connected: bool = False
    phase: Phase = Phase.CONNECTED
    applied: int = 0
    serves: Callable[[str], bool] = Heard().serves

    @property
    def heard(self) -> Heard:
        """As far as ports wait for it."""
        return Heard(self.applied, is_waited_for(self.connected, self.phase), self.serves)


def unseen(number: int) -> Host:
    """A compute of which nothing is seen."""
    return Host()


def trees(
    state: State, host: Callable[[int], Host], check: Callable[[], None] = lambda: None
) -> dict[str, Callable[[], Node]]:
    """The operational tree, under the qualified name of its root. `check` raises if what is seen of hosts is not to be told."""

    def root() -> Node:
        check()
        return {
            "hostconfigs": lambda: {"hostconfig": _hosts(state, host)},
            "ports": lambda: {"port": _ports(state, host)},
            "features": {"feature": rows((_FEATURE,), [{_FEATURE: FEATURE, "configuration": ""}])},
        }

    return {"neutron:neutron": root}


def served(state: State, host: Callable[[int], Host]) -> dict[str, str]:
    """The hosts where ports may be bound, each with its configuration."""
    leaving = fleet(state)[1]
    return {each["host-id"]: each["config"] for each in _hosts(state, host).every() if each["host-id"] not in leaving}


def fleet(state: State) -> tuple[set[str], set[str]]:
    """Hosts that stay, seen or not; and those where nothing is to be bound any more: tombstoned, or removed."""
    members = list(state.members())
    staying = {compute.host for compute in members if not compute.tombstoned}
    return staying, {compute.host for compute in (*members, *state.removed.values())} - staying


def at_its_host(state: State, name: str, status: str, hosts: Collection[str]) -> str:
    """What a status, true of a port on these hosts, is to Neutron: it is ACTIVE where Neutron has bound it. "": nothing is to be said."""
    if state.document("ports", name) is None or status == arrivals.BUILD:
        return ""
    bound = documents.host_of(state, name)
    return arrivals.DOWN if hosts and bound is not None and bound not in hosts else status


def _hosts(state: State, host: Callable[[int], Host]) -> Rows:
    found = []
    for compute in state.members():
        seen = host(compute.number)
        if seen.phase is Phase.READY or compute.tombstoned:
            found.append(_host(compute, seen))
    return rows(("host-id", "host-type"), found)


def _host(compute: Compute, seen: Host) -> Node:
    """A host as networking-odl takes it, its configuration as text. Ports are bound in vxlan networks only: no other has any."""
    config = {
        "supported_vnic_types": [
            {"vnic_type": "normal", "vif_type": "ovs", "vif_details": {"port_filter": True, "ovs_hybrid_plug": False}}
        ],
        "allowed_network_types": [] if compute.tombstoned else ["vxlan"],
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

    found = arrivals.of_port(state, name, heard)
    status = at_its_host(state, name, found.status, arrivals.hosts(state, found))
    return {"uuid": name, "status": status or arrivals.DOWN}
