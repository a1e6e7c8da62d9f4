"""OpenDaylight's data trees of L3VPNs and subnet routes, modules odl-l3vpn and odl-fib: who has routes to what, by whom, what was learnt.

A VRF is known by its VPN's route distinguisher, also that of a router of the VPN; a router without a VPN by its own name. What OpenDaylight
names by UUIDs has the names that it has with us; a subnet is named by its network and itself ("red 10.2.0.0/24"). Pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from ebbtide.model.addresses import bits, holds, split_route
from ebbtide.model.facts import Designation, Port, Router, RouterPort, Vpn, format_mac
from ebbtide.model.state import SUBNET, State, subnet_name
from ebbtide.north.tree import U64, Rows, rows

Node = dict[str, Any]
#: How NetVirt writes where a route comes from: a connected subnet, a port's own address, an extra or learnt one, one of another VPN.
_CONNECTED, _LOCAL, _STATIC, _IMPORTED = "c", "l", "s", "si"


def config(state: State) -> dict[str, Any]:
    """The roots that are config; each is called when it is asked for."""
    return {
        "odl-l3vpn:vpn-instance-to-vpn-id": lambda: {"vpn-instance": _instances(state)},
        "odl-fib:fibEntries": lambda: {"vrfTables": _tables(state)},
    }


def nonconfig(state: State) -> dict[str, Any]:
    """The roots that are operational there. All of them are rendered from what is stored: it is what the switches are brought to."""
    return {
        "odl-l3vpn:vpn-instance-op-data": lambda: {"vpn-instance-op-data-entry": _entries(state)},
        "odl-l3vpn:subnet-op-data": lambda: {"subnet-op-data-entry": _subnets(state)},
        "odl-l3vpn:port-op-data": lambda: {"port-op-data-entry": _ports(state)},
        "odl-l3vpn:neutron-router-dpns": lambda: {"router-dpn-list": _router_dpns(state)},
        "odl-l3vpn:dpn-routers": lambda: {"dpn-routers-list": _dpn_routers(state)},
        "odl-l3vpn:learnt-vpn-vip-to-port-data": lambda: {"learnt-vpn-vip-to-port": _learnt(state)},
    }


def distinguisher(state: State, vrf: str) -> str:
    """What a VRF is known by: its VPN's route distinguisher, or the router's own name."""
    found = state.vrf(vrf)
    name = found.vpn if isinstance(found, Router) else vrf
    vpn = state.vpns.get(name)
    return vpn.rd if vpn is not None else vrf


def _vrfs(state: State) -> dict[str, list[str]]:
    """The VRFs that go by each distinguisher: the VPN's own first."""
    found: dict[str, list[str]] = {vpn.rd: [vpn.id] for vpn in state.vpns.values()}
    for router in sorted(state.routers):
        found.setdefault(distinguisher(state, router), []).append(router)
    return found


def _instances(state: State) -> Rows:
    made = [
        {"vpn-instance-name": vrf.id, "vpn-id": vrf.tag, "vrf-id": distinguisher(state, vrf.id)}
        for vrf in _by_name(state)
    ]
    return rows(("vpn-instance-name",), made)


def _by_name(state: State) -> list[Router | Vpn]:
    found: list[Router | Vpn] = [*state.vpns.values(), *state.routers.values()]
    return sorted(found, key=lambda vrf: vrf.id)


# --- routes ---


def _tables(state: State) -> Rows:
    known = _vrfs(state)

    def table(rd: str) -> Node:
        return {"routeDistinguisher": rd, "vrfEntry": rows(("destPrefix",), _routes(state, known[rd]))}

    def one(keys: tuple[str, ...]) -> Node | None:
        return table(keys[0]) if keys[0] in known else None

    return Rows(("routeDistinguisher",), lambda: (table(rd) for rd in sorted(known)), one)


def _routes(state: State, vrfs: Iterable[str]) -> list[Node]:
    """The routes of the VRFs that go by one distinguisher: their own before what they see."""
    found: dict[str, Node] = {}
    names = list(vrfs)
    own = [leg for name in names for leg in state.places(name)]
    seen = [leg for name in names for leg in state.seen.get(name, ()) if leg.router not in names]
    for leg, imported in [*((leg, False) for leg in own), *((leg, True) for leg in seen)]:
        for node in _of_place(state, leg, _IMPORTED if imported else ""):
            found.setdefault(node["destPrefix"], node)
    for name in names:
        router = state.routers.get(name)
        for way, via in map(split_route, router.routes if router is not None else ()):
            found.setdefault(way, {"destPrefix": way, "origin": _STATIC, "route-paths": _by_port(state, name, via)})
    return [found[key] for key in sorted(found)]


def _of_place(state: State, leg: RouterPort, origin: str) -> Iterator[Node]:
    served = state.designations.get((SUBNET, subnet_name(leg.network, leg.subnet)))
    net = state.networks[leg.network]
    connected: Node = {"destPrefix": leg.subnet, "origin": origin or _CONNECTED, "elantag": net.tag}
    yield connected | {"l3vni": net.vni, "route-paths": _paths(state, served.compute if served is not None else 0)}
    for port, address, mac, learnt in _answering(state, leg):
        yield {
            "destPrefix": f"{address}/{bits(address)}",
            "origin": origin or (_STATIC if learnt else _LOCAL),
            "mac": format_mac(mac),
            "gateway_mac_address": format_mac(leg.mac),
            "l3vni": net.vni,
            "route-paths": _paths(state, _place(state, port)),
        }


def _answering(state: State, leg: RouterPort) -> Iterator[tuple[Port, str, int, bool]]:
    """Port, address and MAC of all in the place's subnet, and whether that was learnt."""
    for name in sorted(state.ports_of.get(leg.network, ())):
        port = state.ports[name]
        if state.active(name) is None:
            continue
        held = [(a, port.mac, False) for a in port.addresses]
        held += [(a, state.learnt_in(leg.network)[a].mac, True) for a in state.learnt_of.get(name, ())]
        for address, mac, learnt in held:
            if holds(leg.subnet, address):
                yield port, address, mac, learnt


def _place(state: State, port: Port) -> int:
    active = state.active(port.id)
    return active.compute if active is not None else 0


def _by_port(state: State, vrf: str, via: str) -> Rows:
    for leg in state.places(vrf):
        port = state.given_to(leg.network, via)
        if port is not None:
            return _paths(state, _place(state, state.ports[port]))
    return rows(("nexthop-address",), [])


def _paths(state: State, compute: int) -> Rows:
    """By which tunnel end point; none where nobody serves it."""
    found = state.computes.get(compute)
    return rows(("nexthop-address",), [{"nexthop-address": found.tep}] if found is not None and found.tep else [])


# --- presence ---


def _entries(state: State) -> Rows:
    known = _vrfs(state)

    def entry(rd: str) -> Node:
        names = known[rd]
        vrf, vpn = state.vrf(names[0]), state.vpns.get(names[0])
        on = {n for name in names for n in state.present(name)}
        made: Node = {"vrf-id": rd, "vpn-id": vrf.tag if vrf else 0, "vpn-instance-name": names[0], "type": "l3"}
        made["vpn-to-dpn-list"] = rows(("dpnId",), [{"dpnId": d, "dpn-state": "active"} for d in _dpids(state, on)])
        if vpn is not None:
            made["rd"] = [rd]
            made["vpnTargets"] = {"vpnTarget": rows(("vrfRTValue",), _targets(vpn))}
        return made

    def one(keys: tuple[str, ...]) -> Node | None:
        return entry(keys[0]) if keys[0] in known else None

    return Rows(("vrf-id",), lambda: (entry(rd) for rd in sorted(known)), one)


def _targets(vpn: Vpn) -> list[Node]:
    both = set(vpn.imports) & set(vpn.exports)
    kinds = dict.fromkeys(vpn.imports, "import_extcommunity") | dict.fromkeys(vpn.exports, "export_extcommunity")
    return [{"vrfRTValue": text, "vrfRTType": "both" if text in both else kind} for text, kind in sorted(kinds.items())]


def _dpids(state: State, numbers: Iterable[int]) -> list[U64]:
    return [U64(d) for d in sorted(state.computes[n].dpid for n in numbers if n in state.computes)]


def _subnets(state: State) -> Rows:
    made = []
    for network in sorted(state.routers_of):
        net, places = state.networks[network], state.footprint(network)
        for subnet in state.subnets(network):
            vrf = min(v for v in state.routers_of[network] if any(g.subnet == subnet for g in state.places(v)))
            served = state.designations.get((SUBNET, subnet_name(network, subnet)))
            node: Node = {
                "subnet-id": subnet_name(network, subnet),
                "vpn-name": vrf,
                "vrf-id": distinguisher(state, vrf),
                "subnet-cidr": subnet,
                "route-adv-state": "advertised" if _is_there(state, served) else "withdrawn",
                "elan-tag": net.tag,
                "network-id": network,
                "subnet-to-dpn": rows(("dpnId",), [_with_ports(state, network, n, "dpnId") for n in sorted(places)]),
            }
            if served is not None and _is_there(state, served):
                node["nh-dpnId"] = U64(state.computes[served.compute].dpid)
            made.append(node)
    return rows(("subnet-id",), made)


def _is_there(state: State, served: Designation | None) -> bool:
    return served is not None and served.compute in state.computes


def _with_ports(state: State, network: str, number: int, key: str) -> Node:
    ports = _ports_on(state, number, {network})
    inner = rows(("interface-name",), [{"interface-name": p} for p in ports])
    return {key: U64(state.computes[number].dpid), "vpn-interfaces": inner}


def _ports_on(state: State, number: int, networks: Container[str]) -> list[str]:
    return sorted(p for p in state.ports_on.get(number, ()) if state.ports[p].network in networks)


def _ports(state: State) -> Rows:
    made = []
    for name, bindings in sorted(state.bindings.items()):
        port, active = state.ports[name], state.active(name)
        subnets = [subnet_name(port.network, s) for s in state.subnets(port.network)]
        if bindings and subnets:
            node: Node = {"port-id": name, "subnet-ids": subnets}
            if active is not None and active.compute in state.computes:
                node["dpnId"] = U64(state.computes[active.compute].dpid)
            made.append(node)
    return rows(("port-id",), made)


def _router_dpns(state: State) -> Rows:
    made = []
    for router in sorted(state.routers):
        networks = {leg.network for leg in state.places(router)}
        on = []
        for number in sorted(n for n in state.present(router) if n in state.computes):
            inner = rows(("interface",), [{"interface": p} for p in _ports_on(state, number, networks)])
            on.append({"dpn-id": U64(state.computes[number].dpid), "router-interfaces": inner})
        if on:
            made.append({"router-id": router, "dpn-vpninterfaces-list": rows(("dpn-id",), on)})
    return rows(("router-id",), made)


def _dpn_routers(state: State) -> Rows:
    here: dict[int, list[str]] = {}
    for router in sorted(state.routers):
        for number in state.present(router):
            here.setdefault(number, []).append(router)
    made = [
        {"dpn-id": U64(c.dpid), "routers-list": rows(("router",), [{"router": r} for r in here[c.number]])}
        for c in state.members()
        if c.number in here
    ]
    return rows(("dpn-id",), made)


def _learnt(state: State) -> Rows:
    made = [
        {"vpn-name": vrf, "port-fixedip": address, "port-name": found.port, "mac-address": format_mac(found.mac)}
        for network in sorted(state.learnt)
        for vrf in sorted(state.routers_of.get(network, ()))
        for address, found in sorted(state.learnt_in(network).items())
    ]
    return rows(("vpn-name", "port-fixedip"), made)
