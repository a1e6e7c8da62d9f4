"""OpenDaylight's data trees of NAT, module odl-nat: who serves which router, routers and networks outside, floating IPs.

All of it is config there, and so it is here. What OpenDaylight names by UUIDs has the names that it has with us; a subnet has none, and is
named by itself (10.1.0.0/24). Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebbtide.model.facts import External, Floating, Router, format_mac
from ebbtide.model.state import NAT, State
from ebbtide.north.tree import U64, Rows, rows

Node = dict[str, Any]


def trees(state: State) -> dict[str, Any]:
    """The roots; each is called when it is asked for."""
    return {
        "odl-nat:napt-switches": lambda: {"router-to-napt-switch": _routers(state, _napt_switch)},
        "odl-nat:ext-routers": lambda: {"routers": _routers(state, _ext_router)},
        "odl-nat:external-networks": lambda: {"networks": _networks(state)},
        "odl-nat:floating-ip-info": lambda: {"router-ports": _router_ports(state)},
    }


def _routers(state: State, make: Callable[[State, Router], Node | None]) -> Rows:
    """A list with an entry for each router of which there is something to say."""

    def one(keys: tuple[str, ...]) -> Node | None:
        found = state.routers.get(keys[0])
        return make(state, found) if found is not None else None

    def every() -> list[Node]:
        made = (make(state, state.routers[name]) for name in sorted(state.routers))
        return [node for node in made if node is not None]

    return Rows(("router-name",), every, one)


def _napt_switch(state: State, router: Router) -> Node | None:
    served = state.designations.get((NAT, router.id))
    compute = state.computes.get(served.compute) if served is not None else None
    if compute is None:
        return None
    return {"router-name": router.id, "primary-switch-id": U64(compute.dpid), "enable-snat": router.snat}


def _ext_router(state: State, router: Router) -> Node | None:
    outside = state.externals.get(router.external)
    if outside is None:
        return None
    addresses = [
        {"subnet-id": outside.subnet6 if ":" in address else outside.subnet, "ip-address": address}
        for address in router.addresses
    ]
    return {
        "router-name": router.id,
        "network-id": outside.id,
        "enable-snat": router.snat,
        "external-ips": rows(("subnet-id", "ip-address"), addresses),
        "subnet-ids": sorted({leg.subnet for leg in state.legs.get(router.id, {}).values()}),
        "ext_gw_mac_address": format_mac(router.mac),
    }


def _networks(state: State) -> Rows:
    users: dict[str, list[str]] = {}
    for router in state.routers.values():
        users.setdefault(router.external, []).append(router.id)

    def node(outside: External) -> Node:
        return {
            "id": outside.id,
            "router-ids": sorted(users.get(outside.id, ())),
            "provider-network-type": "VLAN" if outside.vlan else "FLAT",
        }

    def one(keys: tuple[str, ...]) -> Node | None:
        found = state.externals.get(keys[0])
        return node(found) if found is not None else None

    return Rows(("id",), lambda: (node(state.externals[name]) for name in sorted(state.externals)), one)


def _router_ports(state: State) -> Rows:
    behind: dict[str, dict[str, list[Floating]]] = {}
    for _, found in sorted(state.floatings.items()):
        if found.port:
            behind.setdefault(found.router, {}).setdefault(found.port, []).append(found)
    made = [
        {
            "router-id": router,
            "external-network-id": state.routers[router].external,
            "ports": rows(("port-name",), [_port(name, ports[name]) for name in sorted(ports)]),
        }
        for router, ports in sorted(behind.items())
    ]
    return rows(("router-id",), made)


def _port(name: str, floatings: list[Floating]) -> Node:
    pairs = [{"internal-ip": f.fixed, "external-ip": f.address} for f in floatings]
    return {"port-name": name, "internal-to-external-port-map": rows(("internal-ip",), pairs)}
