"""State and what is observed -> fragments.

`fragment(key)` is the one way to make a fragment; `keys` lists all that a compute should hold: the truth, a full recompute. What a change
may alter, the cache in front of it, is in `affected.py`.

Longer than 400 lines: it is a list of rooms, a few lines each, and of who gets what they say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from immutables import Map

from ebbtide.compile import ledger
from ebbtide.compile.families import IPV4, IPV6, Family
from ebbtide.compile.features import (
    arp,
    base,
    dhcp,
    l2,
    l3,
    metadata,
    nat,
    nd,
    outside,
    path_mtu,
    security,
    stances,
    subnet_route,
    tunnel,
)
from ebbtide.compile.features.security import Guard
from ebbtide.compile.fragment import Fragment, Key
from ebbtide.model.facts import Binding, BindingPhase, External, Floating, Learnt, Membership, Network, Port, Router
from ebbtide.model.observed import View
from ebbtide.model.state import SUBNET, State, home_zone, split_subnet, subnet_name

BASE = Key("base", 0)
STAGES = Key("stages", 0)
QUARANTINE = Key("quarantine", 0)
_NONE: Map[str, int] = Map()


def fragment(state: State, key: Key, view: View) -> Fragment | None:
    """The fragment, or None where there is nothing to say. `view` is that of `key.compute` (unused by shared fragments)."""
    found = _ROOMS[key.room](state, key, view)
    return found if found is not None and (found.flows or found.groups or found.meters) else None


def _base(state: State, key: Key, view: View) -> Fragment | None:
    return base.BASE


def _stages(state: State, key: Key, view: View) -> Fragment | None:
    return security.BASE


def _quarantine(state: State, key: Key, view: View) -> Fragment | None:
    return base.QUARANTINE


def _network(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    footprint = state.presence.get(str(key.object))
    return l2.network(net, list(footprint)) if net and footprint else None


def _local(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    if net is None or key.compute not in state.footprint(net.id):
        return None
    here = []
    for port_id, phase in state.ports_on.get(key.compute, Map()).items():
        port = state.ports[port_id]
        if port.network == net.id and phase is not BindingPhase.LEAVING and _ofport(view, port_id):
            here.append(port)
    return l2.local_delivery(net, here, is_large(state, net.id), view.userspace)


def is_large(state: State, network: str) -> bool:
    return len(state.footprint(network)) > ledger.MAX_BUCKETS


def _port(state: State, key: Key, view: View) -> Fragment | None:
    port = state.ports.get(str(key.object))
    active = state.active(str(key.object))
    if port is None or active is None:
        return None
    net = state.networks[port.network]
    learnt = _learnt(state, port)
    others = sorted({found.mac for found in learnt} - {port.mac})
    claims = subnet_route.claims(net, port, learnt)
    answers = (*arp.responder(net, port).flows, *nd.responder(net, port), *nd.claims(net, port, learnt))
    return Fragment(l2.known_mac(net, port, active, others).flows + answers + claims.flows)


def _learnt(state: State, port: Port) -> list[Learnt]:
    """What has answered behind a port, less what has been given to another that is there."""
    known, claimed = state.learnt.get(port.network, Map()), state.claimed.get(port.network, Map())
    found = (known[address] for address in sorted(state.learnt_of.get(port.id, _NONE)))
    return [x for x in found if x.address not in claimed or state.active(claimed[x.address]) is None]


def _plug(state: State, key: Key, view: View) -> Fragment | None:
    port_id = str(key.object)
    binding = state.binding(port_id, key.compute)
    if binding is None:
        return None
    port = state.ports[port_id]
    net = state.networks[port.network]
    ofport, guard = _ofport(view, port_id), _guarded(state, port, binding)
    if binding.phase is BindingPhase.LEAVING:
        target = state.active(port_id)
        return l2.leaving(net, port, ofport, _tunnel(view, target.compute) if target else 0, guard)
    pending = [b.compute for b in state.bindings[port_id] if b.phase is BindingPhase.PENDING]
    copy_to = _tunnel(view, pending[0]) if pending and binding.phase is BindingPhase.ACTIVE else 0
    if not ofport:
        return l2.relay(net, port, binding, copy_to, guard) if copy_to else None
    return l2.plugged(net, port, binding, ofport, copy_to, guard)


def _guarded(state: State, port: Port, binding: Binding) -> Guard | None:
    if not port.secured:
        return None
    tags = (state.security_groups[g].tag for g in port.groups if g in state.security_groups)
    return Guard(binding.zone or home_zone(port.lport), tuple(sorted(tags)))


def _rules(state: State, key: Key, view: View) -> Fragment | None:
    found = state.security_groups.get(str(key.object))
    if found is None:
        return None
    tags = {name: fact.tag for name in state.named_by(found.id) if (fact := state.security_groups.get(name))}
    return security.group(found, state.rules_of(found.id), tags)


def member_key(group: str, address: str) -> Key:
    """The rows of an address that a member of a security group has."""
    return Key("member", f"{group} {address}")


def _member(state: State, key: Key, view: View) -> Fragment | None:
    name, _, address = str(key.object).rpartition(" ")
    found = state.security_groups.get(name)
    if found is None or address not in state.held.get(name, _NONE):
        return None
    family = 6 if ":" in address else 4
    namers = (state.rules.get(namer, Map()).values() for namer in state.namers.get(name, _NONE))
    directions = {r.inbound for rules in namers for r in rules if r.remote == name and r.family == family}
    return security.member(found.tag, address, sorted(directions))


def _towards(state: State, key: Key, view: View) -> Fragment | None:
    peer = int(key.object)
    ofport = _tunnel(view, peer)
    return tunnel.towards(peer, ofport) if ofport and state.needs_tunnel(key.compute, peer) else None


def _router(state: State, key: Key, view: View) -> Fragment | None:
    found = state.vrf(str(key.object))
    if found is None:
        return None
    external = isinstance(found, Router) and bool(found.external)
    leaving = state.untranslated(found.id)
    own, seen = (
        [(leg, state.networks[leg.network]) for leg in legs]
        for legs in (state.places(found.id), state.seen.get(found.id, ()))
    )
    widths = path_mtu.widths(state, found.id)
    return l3.router(found.tag, own, seen, external=external, leaving=leaving, widths=widths)


def _ways_out(state: State, router: Router) -> Collection[Family]:
    """The families in which a router leads outside: in IPv6 where the network outside knows the way back."""
    if not router.external:
        return ()
    return (IPV4, IPV6) if state.untranslated(router.id) else (IPV4,)


def routes_key(vrf: str, port: str) -> Key:
    """The rows of a port in a VRF."""
    return Key("routes", f"{vrf} {port}")


def _routes(state: State, key: Key, view: View) -> Fragment | None:
    name, _, port_id = str(key.object).partition(" ")
    vrf, port, active = state.vrf(name), state.ports.get(port_id), state.active(port_id)
    if vrf is None or port is None or active is None:
        return None
    own = [leg for leg in state.places(name) if leg.network == port.network]
    legs = own + [leg for leg in state.seen.get(name, ()) if leg.network == port.network]
    # An extra route is its router's own: who sees its networks does not see what is behind them.
    extra = vrf.routes if isinstance(vrf, Router) and own else ()
    return l3.routes(state.networks[port.network], port, active, vrf.tag, legs, extra, _learnt(state, port))


def _subnets(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    if net is None:
        return None
    served = {s: state.designations.get((SUBNET, subnet_name(net.id, s))) for s in state.subnets(net.id)}
    return subnet_route.towards(net, {s: found.compute if found is not None else 0 for s, found in served.items()})


def _hidden(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    if net is None:
        return None
    mine, others = [], []
    for subnet in state.subnets(net.id):
        found = state.designations.get((SUBNET, subnet_name(net.id, subnet)))
        if found is not None and found.compute == key.compute:
            mine.append(subnet)
        elif found is not None and found.standby == key.compute:
            others.append(subnet)
    return subnet_route.here(net, mine, others, view.hold_off)


def _dhcp(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    return dhcp.served(net) if net is not None and net.dhcp else None


def _adverts(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    return nd.routed(net) if net is not None and _advertised(state, net) else None


def _advertised(state: State, net: Network) -> bool:
    """Whether a network's routers are advertised to its VMs."""
    return bool(net.ipv6_mode) and any(":" in subnet for subnet in state.subnets(net.id))


def _solicits(state: State, key: Key, view: View) -> Fragment | None:
    binding = state.binding(str(key.object), key.compute)
    if binding is None or binding.phase is BindingPhase.LEAVING:
        return None
    port = state.ports[binding.port]
    net = state.networks[port.network]
    return nd.solicits(net, port, binding.zone or home_zone(port.lport)) if _advertised(state, net) else None


def _metadata(state: State, key: Key, view: View) -> Fragment | None:
    agent = _ofport(view, ledger.AGENT_IFACE_ID)
    return metadata.served(agent) if agent else None


def _asks(state: State, key: Key, view: View) -> Fragment | None:
    agent, binding = _ofport(view, ledger.AGENT_IFACE_ID), state.binding(str(key.object), key.compute)
    if not agent or binding is None or binding.phase is BindingPhase.LEAVING:
        return None
    port = state.ports[binding.port]
    return metadata.asks(port, binding.zone or home_zone(port.lport), agent)


def _exit(state: State, key: Key, view: View) -> Fragment | None:
    found = state.routers.get(str(key.object))
    if found is None or not found.external or key.compute not in state.reach(found.id):
        return None
    ways = []
    for number in stances.exits(state, found.id):
        if number == key.compute:
            ways.append(nat.Way(0, True, True))
        elif number in view.tunnels and view.tunnels[number].ofport:
            tunnel = view.tunnels[number]
            ways.append(nat.Way(tunnel.ofport, tunnel.up, tunnel.seen or tunnel.up))
    return nat.exit_by(found, ways, _ways_out(state, found))


def _gate(state: State, key: Key, view: View) -> Fragment | None:
    found = state.routers.get(str(key.object))
    external = state.externals.get(found.external) if found else None
    stance = stances.stance(state, str(key.object), key.compute)
    if found is None or external is None or stance is None:
        return None
    tunnels = {n: i.ofport for n, i in view.tunnels.items()}
    own_mac, mtu, prefixes = (
        _own_mac(state, key.compute),
        path_mtu.narrowest(state, found),
        state.untranslated(found.id),
    )
    return nat.gate(found, external, stance, own_mac, tunnels, _guard(stance, view), mtu, prefixes)


def _guard(stance: nat.Stance | None, view: View) -> int:
    """The tunnel by which a compute that stands by sees the one it stands in for, if BFD has come up there."""
    seen = view.tunnels.get(stance.stands_in_for) if stance is not None else None
    return seen.ofport if seen is not None and seen.up else 0


def _own_mac(state: State, compute: int) -> int:
    return ledger.mac(state.store_id, ledger.MacOf.COMPUTE, compute)


def _outside(state: State, key: Key, view: View) -> Fragment | None:
    external = state.externals.get(str(key.object))
    if external is None:
        return None
    gateways = (external.gateway, external.gateway6)
    known = (state.neighbours.get((external.id, address)) for address in gateways if address)
    return outside.network(external, [neighbour for neighbour in known if neighbour is not None])


def _wire(state: State, key: Key, view: View) -> Fragment | None:
    external = state.externals.get(str(key.object))
    if external is None or key.compute not in state.wired(external.id):
        return None
    provider = view.providers.get(external.physical)
    return (
        outside.wire(external, _own_mac(state, key.compute), provider.ofport) if provider and provider.ofport else None
    )


def _addresses(state: State, key: Key, view: View) -> Fragment | None:
    found = state.routers.get(str(key.object))
    external = state.externals.get(found.external) if found else None
    return outside.addresses_of(external, found) if found and external else None


def floating_key(found: Floating) -> str:
    """What a floating IP is called in keys."""
    return f"{found.external} {found.address}"


def _known_floating(state: State, key: Key) -> tuple[External, Floating, Router, int] | None:
    external, _, address = str(key.object).partition(" ")
    found = state.floatings.get((external, address))
    if found is None or found.port not in state.ports or found.router not in state.routers:
        return None
    return state.externals[external], found, state.routers[found.router], state.ports[found.port].lport


def _address(state: State, key: Key, view: View) -> Fragment | None:
    known = _known_floating(state, key)
    return outside.address_of(known[0], known[1], known[3]) if known else None


def _floating(state: State, key: Key, view: View) -> Fragment | None:
    known = _known_floating(state, key)
    if known is None:
        return None
    external, found, router, lport = known
    hosts = state.hosts(found)
    if key.compute not in hosts:
        return None
    answers, guarded = hosts[key.compute], False
    if True not in hosts.values():
        answers = stances.owner(state, router.id) == key.compute
        guarded = bool(_guard(stances.stance(state, router.id, key.compute), view))
    own_mac = _own_mac(state, key.compute)
    mtu = path_mtu.behind(state, found.external, found.address)
    return outside.floating(external, found, router, lport, own_mac, answers=answers, guarded=guarded, mtu=mtu)


def _ofport(view: View, port: str) -> int:
    interface = view.ports.get(port)
    return interface.ofport if interface else 0


def _tunnel(view: View, peer: int) -> int:
    interface = view.tunnels.get(peer)
    return interface.ofport if interface else 0


_ROOMS = {
    "base": _base,
    "stages": _stages,
    "rules": _rules,
    "member": _member,
    "quarantine": _quarantine,
    "network": _network,
    "local": _local,
    "port": _port,
    "plug": _plug,
    "tunnel": _towards,
    "router": _router,
    "routes": _routes,
    "subnets": _subnets,
    "hidden": _hidden,
    "dhcp": _dhcp,
    "adverts": _adverts,
    "metadata": _metadata,
    "asks": _asks,
    "solicits": _solicits,
    "exit": _exit,
    "gate": _gate,
    "outside": _outside,
    "wire": _wire,
    "addresses": _addresses,
    "address": _address,
    "floating": _floating,
}


_SHARED_BY_SOME = frozenset(
    {
        "network",
        "dhcp",
        "adverts",
        "port",
        "router",
        "routes",
        "subnets",
        "outside",
        "addresses",
        "address",
        "rules",
        "member",
    }
)


def keys(state: State, compute: int, view: View) -> Iterator[Key]:
    """Every key that a member may have a fragment for."""
    yield from own_keys(state, compute, view)
    for vrf, ports in wholes(state, compute):
        yield from whole_keys(vrf, ports)


def wholes(state: State, compute: int) -> Iterator[tuple[str, Map[str, None]]]:
    """Whole networks' ports, as the network itself has them (VRF ""), and as a VRF has: the same maps for all whom they concern."""
    for network in state.networks_on.get(compute, _NONE):
        yield "", state.ports_of.get(network, Map())
    for vrf in state.routers_at(compute):
        for network in state.horizon(vrf):
            yield vrf, state.ports_of.get(network, Map())


def whole_keys(vrf: str, ports: Map[str, None]) -> Iterator[Key]:
    """The keys of such a one, each shared by its audience."""
    return (routes_key(vrf, port) if vrf else Key("port", port) for port in ports)


def own_keys(state: State, compute: int, view: View) -> Iterator[Key]:
    """All others: those of ports elsewhere are not among them, so they grow with what a compute has, not with the cloud."""
    yield BASE
    yield STAGES
    yield Key("metadata", 0, compute)
    # Members before rules and rules before ports: what refers to something comes after it, should they not fit into one bundle.
    groups = state.groups_on.get(compute, _NONE)
    for far in {far for group in groups for far in state.named_by(group)}:
        for address in state.held.get(far, _NONE):
            yield member_key(far, address)
    for group in groups:
        yield Key("rules", group)
    for network in state.networks_on.get(compute, _NONE):
        yield Key("network", network)
        yield Key("dhcp", network)
        yield Key("adverts", network)
        yield Key("local", network, compute)
    for port in state.ports_on.get(compute, Map()):
        yield Key("plug", port, compute)
        yield Key("asks", port, compute)
        yield Key("solicits", port, compute)
    for peer in {*state.peers(compute), *view.tunnels}:
        yield Key("tunnel", peer, compute)
    routed: set[str] = set()
    for router in state.routers_at(compute):
        yield Key("router", router)
        yield Key("exit", router, compute)
        yield Key("gate", router, compute)
        routed |= state.horizon(router)
    for network in routed:
        yield Key("subnets", network)
    duties: Map[tuple[str, str], None] = state.duties.get(compute, Map())
    for network in {split_subnet(name)[0] for service, name in duties if service == SUBNET}:
        yield Key("hidden", network, compute)
    own = state.computes.get(compute)
    physical = dict(own.provider_mappings) if own is not None else {}
    for external in state.externals.values():
        if external.physical in physical:
            yield Key("outside", external.id)
            yield Key("wire", external.id, compute)
    for known in state.routers.values():
        if known.external and state.externals[known.external].physical in physical:
            yield Key("addresses", known.id)
    for found in state.floatings.values():
        if found.port and state.externals[found.external].physical in physical:
            yield Key("address", floating_key(found))
            yield Key("floating", floating_key(found), compute)


def desired(state: State, compute: int, view: View) -> dict[Key, Fragment]:
    """All that a member should hold. The truth, at any time."""
    found = ((key, fragment(state, key, view)) for key in keys(state, compute, view))
    return {key: made for key, made in found if made is not None}


def audience(state: State, key: Key) -> Iterable[int]:
    """The computes that a shared fragment is for."""
    if key.compute:
        return (key.compute,) if key.compute in state.computes else ()
    if key.room in ("network", "dhcp", "adverts"):
        return state.footprint(str(key.object))
    if key.room == "port":
        port = state.ports.get(str(key.object))
        return state.footprint(port.network) if port else ()
    if key.room == "router":
        return state.reach(str(key.object))
    if key.room == "routes":
        return state.reach(str(key.object).partition(" ")[0])
    if key.room == "subnets":
        return {n for vrf in state.vrfs_with(str(key.object)) for n in state.reach(vrf)}
    if key.room in ("outside", "addresses", "address"):
        return _wired_for(state, key)
    if key.room == "rules":
        return state.guards(str(key.object))
    if key.room == "member":
        return state.asks_for(str(key.object).rpartition(" ")[0])
    return [c.number for c in state.members()]


def _wired_for(state: State, key: Key) -> Iterable[int]:
    name = str(key.object)
    if key.room == "addresses":
        router = state.routers.get(name)
        name = router.external if router is not None else ""
    elif key.room == "address":
        name = name.partition(" ")[0]
    return state.wired(name)


def concerns(state: State, key: Key, compute: int) -> bool:
    """Whether a compute is in the fragment's audience, without listing it."""
    if key.room in _SHARED_BY_SOME or key.compute:
        return compute in audience(state, key)
    found = state.computes.get(compute)
    return found is not None and found.membership is Membership.MEMBER
