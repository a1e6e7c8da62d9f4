"""Which fragments a change may alter: the cache in front of the full recompute.

Measured: at 1,000 computes with 50 ports each a full recompute takes seconds, one port's change touches 40 fragments. It may name too much,
never too little: a property test holds it against the recompute.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from immutables import Map

from ebbtide.compile import ledger
from ebbtide.compile.compiler import BASE, STAGES, floating_key, is_large, member_key, routes_key
from ebbtide.compile.fragment import Key
from ebbtide.model.facts import (
    Binding,
    Compute,
    Designation,
    Edit,
    External,
    Fact,
    Floating,
    Learnt,
    Lease,
    Membership,
    Move,
    Neighbour,
    Network,
    Port,
    Relation,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
    Vpn,
)
from ebbtide.model.observed import View, differing
from ebbtide.model.state import NAT, SUBNET, State, member_addresses, split_subnet

_NONE: Map[Any, Any] = Map()


def by_edits(edits: Iterable[Edit], before: State, after: State) -> dict[int, set[Key]]:
    """Per compute, the keys whose fragment or audience may differ between two States."""
    return _Change(before, after).of(edits)


class _Change:
    """One change of State. What a fact's own method notes down (a router, an address outside) is worked out once, at the end."""

    def __init__(self, before: State, after: State) -> None:
        self.before, self.after = before, after
        self.both = (before, after)
        self.found: dict[int, set[Key]] = {}
        #: (network, compute): the compute has come into its footprint, or left it.
        self.joined: set[tuple[str, int]] = set()
        self.routers: set[str] = set()
        self.reached: set[str] = set()  # those of the routers whose reach may differ
        self.sights: set[str] = set()  # VPNs of which what they see, or what is seen of them, may differ
        self.externals: set[str] = set()
        self.floatings: set[tuple[str, str]] = set()

    def of(self, edits: Iterable[Edit]) -> dict[int, set[Key]]:
        for old, new in edits:
            fact = new if new is not None else old
            method = _METHODS.get(type(fact))
            if method is not None:
                method(self, fact, old, new)
        for network, compute in self.joined:
            self._joined(network, compute)
        for vrf in {v for state in self.both for vpn in self.sights for v in state.onlookers(vpn)}:
            self._sees(vrf)
        for router in self.reached:
            self._reached(router)
        for router in self.routers | self.reached:
            self._router_flows(router)
        for external in self.externals:
            computes = self._either("wired", external)
            self.add(computes, Key("outside", external))
            self.each(computes, "wire", external)
        for key in self.floatings:
            self._floating_flows(key)
        return self.found

    def add(self, computes: Iterable[int], *names: Key) -> None:
        for compute in computes:
            self.found.setdefault(compute, set()).update(names)

    def each(self, computes: Iterable[int], room: str, name: str | int) -> None:
        """The fragments of that name that each of these computes has for itself."""
        for compute in computes:
            self.found.setdefault(compute, set()).add(Key(room, name, compute))

    def _either(self, method: str, name: str) -> set[Any]:
        return {n for state in self.both for n in getattr(state, method)(name)}

    def footprint(self, network: str) -> set[int]:
        return {*self.before.footprint(network), *self.after.footprint(network)}

    def reach(self, router: str) -> set[int]:
        return self.before.reach(router) | self.after.reach(router)

    def routers_of(self, network: str) -> set[str]:
        return {*self.before.routers_of.get(network, _NONE), *self.after.routers_of.get(network, _NONE)}

    def routes(self, network: str, ports: Iterable[str]) -> None:
        """The rows of these ports of a network in all VRFs that have a route to it."""
        for vrf in self._either("vrfs_with", network):
            self.add(self.reach(vrf), *(routes_key(vrf, port) for port in ports))

    # --- one method a kind of fact ---

    def network(self, fact: Network, old: Fact | None, new: Fact | None) -> None:
        footprint = self.footprint(fact.id)
        self.add(footprint, Key("network", fact.id), Key("dhcp", fact.id), Key("adverts", fact.id))
        self.each(footprint, "local", fact.id)
        ports = self.after.ports_of.get(fact.id, _NONE)
        for port in ports:
            self.add(footprint, Key("port", port))
            self.each((b.compute for b in self.after.bindings.get(port, ())), "plug", port)
            self._solicits(port)
        self.routers |= self._either("vrfs_with", fact.id)
        self.routes(fact.id, ports)
        self._subnets(fact.id)
        self._roles(fact.id)
        was, now = (f.mtu if isinstance(f, Network) else 0 for f in (old, new))
        for port in ports if was != now else ():
            self._floatings_of(port)

    def _solicits(self, port: str) -> None:
        self.each({b.compute for state in self.both for b in state.bindings.get(port, ())}, "solicits", port)

    def port(self, fact: Port, old: Fact | None, new: Fact | None) -> None:
        bound = {b.compute for state in self.both for b in state.bindings.get(fact.id, ())}
        self._floatings_of(fact.id)
        self._given(f for f in (old, new) if isinstance(f, Port))
        self._member(old if isinstance(old, Port) else None, new if isinstance(new, Port) else None, bound)
        # A port that is nowhere is nobody else's business.
        if not bound:
            return
        self.add(self.footprint(fact.network), Key("port", fact.id))
        self._plugs(fact.id, fact.network, bound)
        self.routes(fact.network, [fact.id])

    def _member(self, old: Port | None, new: Port | None, bound: Iterable[int]) -> None:
        """Which groups it is in, and which addresses it has there."""
        was, now = ({(g, a) for g in f.groups for a in member_addresses(f)} if f else set() for f in (old, new))
        for group, address in was ^ now:
            self.add(self._either("asks_for", group), member_key(group, address))
        guarding = [set(f.groups) if f is not None and f.secured else set() for f in (old, new)]
        for group in guarding[0] ^ guarding[1]:
            self._guarded(group, bound)

    def _guarded(self, group: str, computes: Iterable[int]) -> None:
        """These computes may have come to have a port of the group, or have none any more."""
        self.add(computes, Key("rules", group))
        for far in {far for state in self.both for far in state.named_by(group)}:
            self._members(far, computes)

    def _members(self, group: str, computes: Iterable[int]) -> None:
        self.add(computes, *(member_key(group, a) for state in self.both for a in state.held.get(group, _NONE)))

    def securitygroup(self, fact: SecurityGroup, old: Fact | None, new: Fact | None) -> None:
        self.add(self._either("guards", fact.id), Key("rules", fact.id))

    def securityrule(self, fact: SecurityRule, old: Fact | None, new: Fact | None) -> None:
        computes = self._either("guards", fact.group)
        self.add(computes, Key("rules", fact.group))
        for far in {f.remote for f in (old, new) if isinstance(f, SecurityRule) and f.remote}:
            self._members(far, computes | self._either("asks_for", far))

    def binding(self, fact: Binding, old: Fact | None, new: Fact | None) -> None:
        port = self.after.ports.get(fact.port) or self.before.ports[fact.port]
        network = port.network
        self.add(self.footprint(network), Key("port", port.id))
        self._plugs(port.id, network, {b.compute for state in self.both for b in state.bindings.get(port.id, ())})
        if (fact.compute in self.before.footprint(network)) != (fact.compute in self.after.footprint(network)):
            self.joined.add((network, fact.compute))
            self.reached |= self.routers_of(network)
            for vrf in self._either("vrfs_with", network):
                self._tunnels(fact.compute, self.reach(vrf))
        self.routes(network, [port.id])
        self._given([port])
        self._floatings_of(port.id)
        for group in port.groups if port.secured else ():
            if (fact.compute in self.before.guards(group)) != (fact.compute in self.after.guards(group)):
                self._guarded(group, [fact.compute])

    def _plugs(self, port: str, network: str, computes: Iterable[int]) -> None:
        for compute in computes:
            self.add(
                [compute],
                *(Key(room, port, compute) for room in ("plug", "asks", "solicits")),
                Key("local", network, compute),
            )

    def _floatings_of(self, port: str) -> None:
        for state in self.both:
            self.floatings.update(state.floatings_of.get(port, _NONE))

    def relation(self, fact: Relation, old: Fact | None, new: Fact | None) -> None:
        self.add([fact.gateway], Key("tunnel", fact.peer, fact.gateway))
        self.add([fact.peer], Key("tunnel", fact.gateway, fact.peer))

    def compute(self, fact: Compute, old: Fact | None, new: Fact | None) -> None:
        self.add([fact.number], BASE, STAGES)
        was, now = (f if isinstance(f, Compute) else None for f in (old, new))
        if was is None or now is None or was.teps != now.teps:
            for compute, name in _tunnel_keys(fact.number, self.before, self.after):
                self.add([compute], name)
        if _mappings(was) != _mappings(now):
            physical = {**_mappings(was), **_mappings(now)}
            for state in self.both:
                for external in state.externals.values():
                    if external.physical in physical:
                        self.external(external, None, None)

    def external(self, fact: External, old: Fact | None, new: Fact | None) -> None:
        self.externals.add(fact.id)
        for state in self.both:
            self.routers.update(r.id for r in state.routers.values() if r.external == fact.id)
            self.floatings.update(key for key in state.floatings if key[0] == fact.id)

    def neighbour(self, fact: Neighbour, old: Fact | None, new: Fact | None) -> None:
        self.add(self._either("wired", fact.external), Key("outside", fact.external))

    def router(self, fact: Router, old: Fact | None, new: Fact | None) -> None:
        self.reached.add(fact.id)
        was, now = (f.routes if isinstance(f, Router) else () for f in (old, new))
        if was != now:
            for state in self.both:
                for network, _ in state.legs.get(fact.id, _NONE):
                    self.routes(network, state.ports_of.get(network, _NONE))
        self.sights.update(f.vpn for f in (old, new) if isinstance(f, Router) and f.vpn)

    def vpn(self, fact: Vpn, old: Fact | None, new: Fact | None) -> None:
        self.reached.add(fact.id)
        self.sights.add(fact.id)

    def routerport(self, fact: RouterPort, old: Fact | None, new: Fact | None) -> None:
        self.reached.add(fact.router)
        self._subnets(fact.network)
        self._roles(fact.network)
        self.add(self.footprint(fact.network), Key("adverts", fact.network))
        for port in (
            {p for state in self.both for p in state.ports_of.get(fact.network, _NONE)} if ":" in fact.subnet else ()
        ):
            self._solicits(port)
        for state in self.both:
            self.routes(fact.network, state.ports_of.get(fact.network, _NONE))
            owner = state.vrf(fact.router)
            self.sights.update([owner.vpn or owner.id] if isinstance(owner, Router) else [fact.router])

    def floating(self, fact: Floating, old: Fact | None, new: Fact | None) -> None:
        self.floatings.add((fact.external, fact.address))

    def designation(self, fact: Designation, old: Fact | None, new: Fact | None) -> None:
        if fact.service == NAT:
            self._part(fact.object)
        elif fact.service == SUBNET:
            network, _ = split_subnet(fact.object)
            self._subnets(network)
            parts = (f for f in (old, new) if isinstance(f, Designation))
            self.each({n for f in parts for n in (f.compute, f.standby) if n}, "hidden", network)

    def learnt(self, fact: Learnt, old: Fact | None, new: Fact | None) -> None:
        self._learnt_by(fact.network, {f.port for f in (old, new) if isinstance(f, Learnt)})

    def _learnt_by(self, network: str, ports: Iterable[str]) -> None:
        """What has answered behind these ports may be somebody else's."""
        for port in ports:
            self.add(self.footprint(network), Key("port", port))
            self.routes(network, [port])

    def _given(self, ports: Iterable[Port]) -> None:
        """An address that has been given to a port, and is learnt behind another, is the port's once that is there."""
        for port in ports:
            for state in self.both:
                known = state.learnt.get(port.network, _NONE)
                self._learnt_by(port.network, {known[a].port for a in port.addresses if a in known} if known else ())

    def _roles(self, network: str) -> None:
        """Who may have a part in a network's subnets."""
        self.each(self._either("designated_for", network), "hidden", network)

    def _subnets(self, network: str) -> None:
        computes = {n for vrf in self._either("vrfs_with", network) for n in self.reach(vrf)}
        self.add(computes, Key("subnets", network))

    def move(self, fact: Move, old: Fact | None, new: Fact | None) -> None:
        self._part(fact.router)

    def _part(self, router: str) -> None:
        """Who has which part in a router's NAT has changed."""
        self.routers.add(router)
        if self.before.servers(router) != self.after.servers(router):
            self.reached.add(router)

    def lease(self, fact: Lease, old: Fact | None, new: Fact | None) -> None:
        computes = {f.compute for f in (old, new) if isinstance(f, Lease)}
        self.each(computes, "gate", fact.router)

    # --- what follows ---

    def _joined(self, network: str, compute: int) -> None:
        computes = self.footprint(network)
        self.add(computes, Key("network", network), Key("dhcp", network), Key("adverts", network))
        if is_large(self.before, network) != is_large(self.after, network):
            self.each(computes, "local", network)
        self._tunnels(compute, computes)
        everything = {*self.before.ports_of.get(network, _NONE), *self.after.ports_of.get(network, _NONE)}
        self.add([compute], Key("local", network, compute), *(Key("port", port) for port in everything))

    def _tunnels(self, compute: int, others: Iterable[int]) -> None:
        for other in others:
            if other != compute:
                self.add([other], Key("tunnel", compute, other))
                self.add([compute], Key("tunnel", other, compute))

    def _reached(self, router: str) -> None:
        computes = self.reach(router)
        joining = self.before.reach(router) ^ self.after.reach(router)
        served = self.before.servers(router) ^ self.after.servers(router)
        seen = {leg.network for state in self.both for leg in state.seen.get(router, ())}
        others = computes.union(*map(self.footprint, seen))
        for compute in joining | served:
            self._tunnels(compute, others if compute in joining else computes)
        if joining:
            networks = self._either("horizon", router)
            ports = {p for state in self.both for n in networks for p in state.ports_of.get(n, _NONE)}
            self.add(joining, *(routes_key(router, p) for p in ports), *(Key("subnets", n) for n in networks))

    def _sees(self, vrf: str) -> None:
        """What a VRF has routes to may differ."""
        before, after = (set(state.seen.get(vrf, ())) for state in self.both)
        if before == after:
            return
        self.routers.add(vrf)
        computes = self.reach(vrf)
        for network in {leg.network for leg in before ^ after}:
            ports = {p for state in self.both for p in state.ports_of.get(network, _NONE)}
            self.add(computes, *(routes_key(vrf, port) for port in ports), Key("subnets", network))
            for compute in computes:
                self._tunnels(compute, self.footprint(network))

    def _router_flows(self, router: str) -> None:
        reach = self.reach(router)
        self.add(reach, Key("router", router))
        self.each(reach, "exit", router)
        self.each(reach, "gate", router)
        for state in self.both:
            known = state.routers.get(router)
            if known is not None and known.external:
                self.add(self._either("wired", known.external), Key("addresses", router))
            self.floatings.update(key for key, found in state.floatings.items() if found.router == router)

    def _floating_flows(self, key: tuple[str, str]) -> None:
        for state in self.both:
            found = state.floatings.get(key)
            if found is not None:
                name = floating_key(found)
                self.add(self._either("wired", key[0]), Key("address", name))
                self.each(state.hosts(found), "floating", name)


_METHODS: dict[type, Any] = {
    Network: _Change.network,
    Port: _Change.port,
    Binding: _Change.binding,
    Relation: _Change.relation,
    Compute: _Change.compute,
    External: _Change.external,
    Neighbour: _Change.neighbour,
    Router: _Change.router,
    Vpn: _Change.vpn,
    SecurityGroup: _Change.securitygroup,
    SecurityRule: _Change.securityrule,
    RouterPort: _Change.routerport,
    Floating: _Change.floating,
    Designation: _Change.designation,
    Move: _Change.move,
    Learnt: _Change.learnt,
    Lease: _Change.lease,
}


def _mappings(fact: Compute | None) -> dict[str, str]:
    return dict(fact.provider_mappings) if fact is not None and fact.membership is Membership.MEMBER else {}


def _tunnel_keys(number: int, before: State, after: State) -> Iterator[tuple[int, Key]]:
    for peer in {n for s in (before, after) if number in s.computes for n in s.peers(number)}:
        yield peer, Key("tunnel", number, peer)
        yield number, Key("tunnel", peer, number)


def by_view(state: State, compute: int, old: View, new: View) -> set[Key]:
    """The keys of a compute that a change of what it shows may alter."""
    found: set[Key] = set()
    if old.userspace != new.userspace:
        found |= {Key("local", network, compute) for network in state.networks_on.get(compute, _NONE)}
    for port in differing(old.ports, new.ports):
        if port in state.ports:
            found.add(Key("plug", port, compute))
            found.add(Key("local", state.ports[port].network, compute))
    if old.ports.get(ledger.AGENT_IFACE_ID) != new.ports.get(ledger.AGENT_IFACE_ID):
        found |= {Key("asks", port, compute) for port in state.ports_on.get(compute, _NONE)}
        found.add(Key("metadata", 0, compute))
    if old.providers != new.providers:
        for external in state.externals.values():
            if old.providers.get(external.physical) != new.providers.get(external.physical):
                found.add(Key("wire", external.id, compute))
    for peer in differing(old.tunnels, new.tunnels):
        found.add(Key("tunnel", peer, compute))
        for port in state.ports_on.get(compute, _NONE):
            if any(b.compute == peer for b in state.bindings.get(port, ())):
                found.add(Key("plug", port, compute))
        for router in state.routers_at(compute):
            if peer in state.servers(router):
                found |= {Key("exit", router, compute), Key("gate", router, compute)}
                floatings = (floating_key(f) for f in state.floatings.values() if f.router == router)
                found |= {Key("floating", name, compute) for name in floatings}
    return found
