"""State: all facts of one revision, with the indexes that the compiler and the decisions walk.

`apply(state, edits, revision) -> state` costs the edits, not the cluster: the maps are persistent (immutables.Map), so the
State of revision N stays valid while N + 1 is made. Indexes are derived from facts and nothing else; `rebuild` makes them
from scratch and a property test holds the two equal.

Longer than 400 lines: an index, how it is kept and what is read from it belong together.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from immutables import Map

from ebbtide.model import horizon, teps
from ebbtide.model.addresses import split_route, within
from ebbtide.model.facts import (
    Binding,
    BindingPhase,
    Compute,
    Cursor,
    Debt,
    Designation,
    Document,
    Edit,
    External,
    Fact,
    Floating,
    Item,
    Learnt,
    Lease,
    Membership,
    Move,
    Neighbour,
    Network,
    Operation,
    Port,
    Proof,
    Relation,
    Retired,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
    Vpn,
)

_EMPTY: Map[Any, Any] = Map()
#: Conntrack zones of ports are 1 to this; those above are routers' (the ledger).
LAST_ZONE = 32_767
#: The services of designations: a router's NAT; what is sent to addresses of a subnet that nobody has.
NAT, SUBNET = "nat", "subnet"


class State(msgspec.Struct, frozen=True):
    """Everything the store says, at `revision`. `intent` is the newest revision at which more has changed than what was learnt.

    `computes` is keyed by number and holds members and waiting ones; `removed` those whose scale-in is over.
    `bindings`: port id -> its bindings, sorted by compute. `presence`: network -> {compute: number of bindings};
    `networks_on` is its inverse. `ports_on`: compute -> {port id: phase}. `retired` is keyed by tag; `retired_vnis`: VNI -> that tag.
    `legs`: router -> its places in networks, by (network, address); `routers_of`: network -> {router: number of places}.
    `floatings` and `neighbours` are keyed by (external, address), `designations` by (service, object), `leases` by router and then first
    port. `floatings_of`: port -> its floating IPs; `serves`: compute -> {router: number of parts that it has in its NAT}.
    `mapped`: physical network -> {member with a provider mapping for it: 1}. `duties`: compute -> {(service, object): None} of all
    designations that it has a part in. `claimed`: network -> {address: port}; `macs`: network -> {MAC: port}. `learnt`: network ->
    {address: where it answers}; `learnt_of`: port -> its learnt addresses. `items`: operation -> {(kind, object, compute): item}.

    A VRF is a router or a VPN, by its name: `legs` and `routers_of` hold the places of both, `by_router_tag` the tags. `vpn_routers`:
    VPN -> its routers. `importers`, `exporters`: route target -> VPNs. `seen`: VRF of a VPN -> places of other VRFs that it has routes to
    (`horizon.py`); `seers`: network -> {VRF that has a route to it by that: number of places}.

    `rules`: security group -> {rule id: rule}. `namers`: security group -> {group with a rule that names
    it as the far end: number of such rules}. `members_of`: security group -> {port: None}; `held`: security group -> {address or prefix of
    a member: number of members}. `guarded`: security group -> {compute: number of bindings of its ports}, `groups_on` its inverse.
    `zones`: compute -> {conntrack zone (0: the port's, see `home_zone`): number of bindings that have it}.

    `documents`: kind -> {id: what Neutron has said of it}; `referrers`: "kind/id" -> {kind and id of a document that names it: None};
    `unserved`: kind and id of documents that are not in our own facts as a whole.
    """

    revision: int = 0
    intent: int = 0
    store_id: str = ""
    term: int = 0
    computes: Map[int, Compute] = _EMPTY
    removed: Map[int, Compute] = _EMPTY
    by_name: Map[str, int] = _EMPTY
    by_dpid: Map[int, int] = _EMPTY
    networks: Map[str, Network] = _EMPTY
    by_tag: Map[int, str] = _EMPTY
    by_vni: Map[int, str] = _EMPTY
    ports: Map[str, Port] = _EMPTY
    by_lport: Map[int, str] = _EMPTY
    ports_of: Map[str, Map[str, None]] = _EMPTY
    bindings: Map[str, tuple[Binding, ...]] = _EMPTY
    presence: Map[str, Map[int, int]] = _EMPTY
    networks_on: Map[int, Map[str, int]] = _EMPTY
    ports_on: Map[int, Map[str, BindingPhase]] = _EMPTY
    relations: Map[tuple[int, int], Relation] = _EMPTY
    debts: Map[tuple[int, int], Debt] = _EMPTY
    cursors: Map[str, Cursor] = _EMPTY
    retired: Map[int, Retired] = _EMPTY
    retired_vnis: Map[int, int] = _EMPTY
    operations: Map[str, Operation] = _EMPTY
    items: Map[str, Map[tuple[str, str, int], Item]] = _EMPTY
    proofs: Map[str, Proof] = _EMPTY
    externals: Map[str, External] = _EMPTY
    routers: Map[str, Router] = _EMPTY
    by_router_tag: Map[int, str] = _EMPTY
    vpns: Map[str, Vpn] = _EMPTY
    by_rd: Map[str, str] = _EMPTY
    vpn_routers: Map[str, Map[str, None]] = _EMPTY
    importers: Map[str, Map[str, None]] = _EMPTY
    exporters: Map[str, Map[str, None]] = _EMPTY
    seen: Map[str, tuple[RouterPort, ...]] = _EMPTY
    seers: Map[str, Map[str, int]] = _EMPTY
    legs: Map[str, Map[tuple[str, str], RouterPort]] = _EMPTY
    routers_of: Map[str, Map[str, int]] = _EMPTY
    floatings: Map[tuple[str, str], Floating] = _EMPTY
    floatings_of: Map[str, Map[tuple[str, str], None]] = _EMPTY
    neighbours: Map[tuple[str, str], Neighbour] = _EMPTY
    designations: Map[tuple[str, str], Designation] = _EMPTY
    leases: Map[str, Map[int, Lease]] = _EMPTY
    moves: Map[str, Move] = _EMPTY
    serves: Map[int, Map[str, int]] = _EMPTY
    mapped: Map[str, Map[int, int]] = _EMPTY
    duties: Map[int, Map[tuple[str, str], None]] = _EMPTY
    claimed: Map[str, Map[str, str]] = _EMPTY
    macs: Map[str, Map[int, str]] = _EMPTY
    learnt: Map[str, Map[str, Learnt]] = _EMPTY
    learnt_of: Map[str, Map[str, None]] = _EMPTY
    security_groups: Map[str, SecurityGroup] = _EMPTY
    by_group_tag: Map[int, str] = _EMPTY
    rules: Map[str, Map[str, SecurityRule]] = _EMPTY
    namers: Map[str, Map[str, int]] = _EMPTY
    members_of: Map[str, Map[str, None]] = _EMPTY
    held: Map[str, Map[str, int]] = _EMPTY
    guarded: Map[str, Map[int, int]] = _EMPTY
    groups_on: Map[int, Map[str, int]] = _EMPTY
    zones: Map[int, Map[int, int]] = _EMPTY
    documents: Map[str, Map[str, Document]] = _EMPTY
    referrers: Map[str, Map[tuple[str, str], None]] = _EMPTY
    unserved: Map[tuple[str, str], None] = _EMPTY

    def footprint(self, network: str) -> Map[int, int]:
        """The computes on which a network is present, each with its number of bindings."""
        found: Map[int, int] = self.presence.get(network, _EMPTY)
        return found

    def members(self) -> list[Compute]:
        """Computes that belong to the cluster, in order of name."""
        chosen = [c for c in self.computes.values() if c.membership is Membership.MEMBER]
        return sorted(chosen, key=lambda c: c.name)

    def active(self, port: str) -> Binding | None:
        """The one binding at which the port is served."""
        for binding in self.bindings.get(port, ()):
            if binding.phase is BindingPhase.ACTIVE:
                return binding
        return None

    def binding(self, port: str, compute: int) -> Binding | None:
        """The port's binding on that compute."""
        for binding in self.bindings.get(port, ()):
            if binding.compute == compute:
                return binding
        return None

    def peers(self, compute: int) -> set[int]:
        """The computes it has a tunnel to: those of its partners with which it can have one."""
        own = self.computes.get(compute)
        if own is None or not own.tep:
            return set()
        version, computes = teps.version(own.tep), self.computes
        return {n for n in self.partners(compute) if (tep := computes[n].tep) and teps.version(tep) == version}

    def partners(self, compute: int) -> set[int]:
        """The computes it needs a tunnel to: those it shares a network or a gateway relation with, whatever their TEPs are."""
        found: set[int] = set()
        for network in self.networks_on.get(compute, _EMPTY):
            found.update(self.presence[network])
            for vrf in self.seers.get(network, _EMPTY):
                found |= self.reach(vrf)
        for router in self.routers_at(compute):
            found |= self.reach(router)
            for leg in self.seen.get(router, ()):
                found.update(self.presence.get(leg.network, _EMPTY))
        for gateway, peer in self.relations:
            if gateway == compute:
                found.add(peer)
            elif peer == compute:
                found.add(gateway)
        found.discard(compute)
        return {n for n in found if n in self.computes}

    def needs_tunnel(self, compute: int, peer: int) -> bool:
        """Whether `peer` is one of its peers. Most are for a network that both are on, which is known without listing all."""
        one, other = self.computes.get(compute), self.computes.get(peer)
        if one is None or other is None or compute == peer or not teps.joined(one.tep, other.tep):
            return False
        here, there = self.networks_on.get(compute, _EMPTY), self.networks_on.get(peer, _EMPTY)
        fewer, more = (here, there) if len(here) <= len(there) else (there, here)
        return any(network in more for network in fewer) or peer in self.peers(compute)

    def relation_peers(self, compute: int) -> set[int]:
        """The far ends of its gateway relations: those made by hand, and between who serves a router's NAT and who sends by it."""
        found = {b if a == compute else a for a, b in self.relations if compute in (a, b)}
        for router in self.routers_at(compute):
            servers = self.servers(router)
            found |= self.reach(router) if compute in servers else servers
        return found - {compute}

    def vrf(self, name: str) -> Router | Vpn | None:
        """The router or VPN of that name."""
        found: Router | Vpn | None = self.routers.get(name) or self.vpns.get(name)
        return found

    def places(self, vrf: str) -> tuple[RouterPort, ...]:
        """The places of a VRF in networks, by network and address."""
        return tuple(leg for _, leg in sorted(self.legs.get(vrf, _EMPTY).items()))

    def horizon(self, vrf: str) -> set[str]:
        """The networks that a VRF has routes to: those of its own places, and those that it sees."""
        return {n for n, _ in self.legs.get(vrf, _EMPTY)} | {leg.network for leg in self.seen.get(vrf, ())}

    def vrfs_with(self, network: str) -> set[str]:
        """The VRFs that have a route to a network: those with a place in it, and those that see such a place."""
        return {*self.routers_of.get(network, _EMPTY), *self.seers.get(network, _EMPTY)}

    def onlookers(self, vpn: str) -> set[str]:
        """The VRFs that may see something of a VPN's: its own, and those of the VPNs that import what it exports."""
        found = self.vpns.get(vpn)
        targets = found.exports if found is not None else ()
        names = {vpn, *(name for target in targets for name in self.importers.get(target, _EMPTY))}
        return {vrf for name in names for vrf in (name, *self.vpn_routers.get(name, _EMPTY))}

    def shadowed(self, vrf: str, vpn: str) -> tuple[tuple[str, RouterPort], ...]:
        """VPN and place of what a VRF of that VPN would have a route to, did that not overlap with something else."""
        return horizon.shadowed({name: getattr(self, name) for name in horizon.MAPS}, vrf, vpn)

    def present(self, router: str) -> set[int]:
        """The computes with a port on a network of this router."""
        return {n for network, _ in self.legs.get(router, _EMPTY) for n in self.presence.get(network, _EMPTY)}

    def servers(self, router: str) -> set[int]:
        """The computes that have a part in this router's NAT: the designated one, the one that stands by, both ends of a move."""
        found = set()
        designation = self.designations.get((NAT, router))
        if designation is not None:
            found |= {designation.compute, designation.standby}
        move = self.moves.get(router)
        if move is not None:
            found |= {move.old, move.new}
        return found - {0}

    def reach(self, router: str) -> set[int]:
        """The computes that hold this router's routes: with a port behind it, or with a part in its NAT."""
        return self.present(router) | self.servers(router)

    def wired(self, external: str) -> Map[int, int]:
        """The members that say that they have this network."""
        found = self.externals.get(external)
        mapped: Map[int, int] = self.mapped.get(found.physical, _EMPTY) if found is not None else _EMPTY
        return mapped

    def hosts(self, floating: Floating) -> dict[int, bool]:
        """The computes that exchange a floating IP's address, and whether the outside shall find it there.

        On the port's own compute where that has the network, else where the router's NAT is. A place that the port is about to come to,
        or has left, exchanges it too, and where that has no such network, so does what stands for it: what a VM sends as soon as it runs
        there must not be taken for a connection of the router's.
        """
        wired, bound = self.wired(floating.external), self.bindings.get(floating.port, ())
        found = {b.compute: b.phase is BindingPhase.ACTIVE for b in bound if b.compute in wired}
        if len(found) < len(bound) and self.active(floating.port) is not None:
            found |= {n: False for n in self.servers(floating.router) if n in wired and n not in found}
        return found

    def untranslated(self, router: str) -> list[str]:
        """The IPv6 prefixes of a router that go out as they are, and that the outside sends to it: those of its networks, and what is
        behind them, as far as the network outside knows the way back. None while the router has no IPv6 address there."""
        found = self.routers.get(router)
        outside = self.externals.get(found.external) if found is not None else None
        if found is None or outside is None or not any(":" in address for address in found.addresses):
            return []
        return list(_sent_here(frozenset(self.prefixes6(router)), outside.prefixes))

    def prefixes6(self, router: str) -> set[str]:
        """The IPv6 prefixes of a router: those of its networks, and what is behind them."""
        ways = {split_route(route)[0] for route in self.routers[router].routes}
        return {p for p in ways | {leg.subnet for leg in self.legs.get(router, _EMPTY).values()} if ":" in p}

    def subnets(self, network: str) -> tuple[str, ...]:
        """The subnets of a network in which some VRF has a place."""
        legs = self.legs
        here = (leg for vrf in self.routers_of.get(network, _EMPTY) for leg in legs.get(vrf, _EMPTY).values())
        return tuple(sorted({leg.subnet for leg in here if leg.network == network}))

    def learnt_in(self, network: str) -> Map[str, Learnt]:
        """The addresses of a network that nobody was given, and that answer."""
        found: Map[str, Learnt] = self.learnt.get(network, _EMPTY)
        return found

    def rules_of(self, group: str) -> list[SecurityRule]:
        """A security group's rules, by id."""
        found: Map[str, SecurityRule] = self.rules.get(group, _EMPTY)
        return [rule for _, rule in sorted(found.items())]

    def named_by(self, group: str) -> list[str]:
        """The security groups that the rules of one name as the far end."""
        return sorted({rule.remote for rule in self.rules.get(group, _EMPTY).values() if rule.remote})

    def guards(self, group: str) -> set[int]:
        """The computes with ports of a security group: there its rules are held."""
        return set(self.guarded.get(group, _EMPTY))

    def asks_for(self, group: str) -> set[int]:
        """The computes that have to know the members of a security group: those with ports whose rules name it."""
        return {n for namer in self.namers.get(group, _EMPTY) for n in self.guarded.get(namer, _EMPTY)}

    def items_of(self, operation: str) -> list[Item]:
        """An operation's items, by kind, object and compute."""
        found: Map[tuple[str, str, int], Item] = self.items.get(operation, _EMPTY)
        return [item for _, item in sorted(found.items())]

    def given_to(self, network: str, address: str) -> str | None:
        """The port that an address of a network was given to."""
        found: Map[str, str] = self.claimed.get(network, _EMPTY)
        return found.get(address)

    def with_mac(self, network: str, mac: int) -> str | None:
        """The port of a network that has a MAC."""
        found: Map[int, str] = self.macs.get(network, _EMPTY)
        return found.get(mac)

    def document(self, kind: str, document_id: str) -> Document | None:
        """What Neutron has said of something, by its kind and id."""
        found: Map[str, Document] = self.documents.get(kind, _EMPTY)
        return found.get(document_id)

    def designated_for(self, network: str) -> set[int]:
        """The computes that have a part in serving a network's subnets."""
        found = (self.designations.get((SUBNET, subnet_name(network, s))) for s in self.subnets(network))
        return {n for d in found if d is not None for n in (d.compute, d.standby) if n}

    def opening(self, router: str, compute: int) -> Lease | None:
        """The range of ports from which a compute opens connections for a router now."""
        found = (x for x in self.leases.get(router, _EMPTY).values() if x.compute == compute and x.opening)
        return max(found, key=lambda x: (x.since, x.first), default=None)

    def routers_at(self, compute: int) -> set[str]:
        """The routers whose reach this compute is in."""
        here = {r for network in self.networks_on.get(compute, _EMPTY) for r in self.routers_of.get(network, _EMPTY)}
        return here | set(self.serves.get(compute, _EMPTY))


@lru_cache(4096)
def _sent_here(own: frozenset[str], prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a router's prefixes that lie within what the outside sends. Remembered: a change asks it for each compute, and with 200 of
    each it takes 16 ms."""
    return tuple(sorted(p for p in own if any(within(p, known) for known in prefixes)))


def subnet_name(network: str, subnet: str) -> str:
    """What a network's subnet is called as the object of a designation."""
    return f"{network} {subnet}"


def split_subnet(name: str) -> tuple[str, str]:
    """Network and subnet of such a name."""
    network, _, subnet = name.rpartition(" ")
    return network, subnet


def member_addresses(port: Port) -> list[str]:
    """What a port is known by as a member of a security group: its addresses, and those of its pairs that are not everybody's."""
    pairs = (pair.partition(" ")[0] for pair in port.pairs)
    return sorted(
        {*port.addresses, *(p.removesuffix("/128" if ":" in p else "/32") for p in pairs if not p.endswith("/0"))}
    )


def home_zone(lport: int) -> int:
    """The conntrack zone of a binding that was stored without one."""
    return lport % LAST_ZONE + 1


def _bump(index: Map[Any, Map[Any, int]], outer: Any, inner: Any, by: int) -> Map[Any, Map[Any, int]]:
    counts = index.get(outer, _EMPTY)
    count = counts.get(inner, 0) + by
    assert count >= 0, (outer, inner, by)
    counts = counts.set(inner, count) if count else counts.delete(inner)
    return index.set(outer, counts) if counts else index.delete(outer)


class _Draft:
    """Edits in the making. Each `_x` method takes one kind of fact out of, or puts it into, the maps."""

    def __init__(self, state: State) -> None:
        self.maps: dict[str, Any] = {f: getattr(state, f) for f in state.__struct_fields__}
        #: VPNs of which what they see may differ now, targets with which something else is exported, and routers that belong to none.
        self._vpns: set[str] = set()
        self._targets: set[str] = set()
        self._alone: set[str] = set()

    def edit(self, old: Fact | None, new: Fact | None) -> None:
        for fact, present in ((old, False), (new, True)):
            if fact is not None:
                getattr(self, "_" + type(fact).__name__.lower())(fact, present)

    def _put(self, name: str, key: Any, value: Any, present: bool) -> None:
        table = self.maps[name]
        if present:
            self.maps[name] = table.set(key, value)
        elif key in table:
            self.maps[name] = table.delete(key)

    def _index(self, name: str, key: Any, owner: Any, present: bool) -> None:
        # An owner that gives a key up takes nothing from another that has been given it by an earlier edit of the same revision.
        if present or self.maps[name].get(key) == owner:
            self._put(name, key, owner, present)

    def _compute(self, fact: Compute, present: bool) -> None:
        gone = fact.membership is Membership.REMOVED
        self._put("removed" if gone else "computes", fact.number, fact, present)
        if not gone:
            self._index("by_name", fact.name, fact.number, present)
            self._index("by_dpid", fact.dpid, fact.number, present)
        if fact.membership is Membership.MEMBER:
            for physical, _ in fact.provider_mappings:
                self.maps["mapped"] = _bump(self.maps["mapped"], physical, fact.number, 1 if present else -1)

    def _network(self, fact: Network, present: bool) -> None:
        self._put("networks", fact.id, fact, present)
        self._index("by_tag", fact.tag, fact.id, present)
        self._index("by_vni", fact.vni, fact.id, present)

    def _port(self, fact: Port, present: bool) -> None:
        self._put("ports", fact.id, fact, present)
        self._index("by_lport", fact.lport, fact.id, present)
        self._inner("ports_of", fact.network, fact.id, None, present)
        for index, value in (("macs", fact.mac), *(("claimed", address) for address in fact.addresses)):
            # Of two that change hands in one revision, the one who gives up takes nothing from the other.
            if present or self.maps[index].get(fact.network, _EMPTY).get(value) == fact.id:
                self._inner(index, fact.network, value, fact.id, present)
        by = 1 if present else -1
        for group in fact.groups:
            self._inner("members_of", group, fact.id, None, present)
            for address in member_addresses(fact):
                self.maps["held"] = _bump(self.maps["held"], group, address, by)
        for binding in self.maps["bindings"].get(fact.id, ()):
            self._guard(fact, binding, by)

    def _guard(self, port: Port, binding: Binding, by: int) -> None:
        for group in port.groups if port.secured else ():
            self.maps["guarded"] = _bump(self.maps["guarded"], group, binding.compute, by)
            self.maps["groups_on"] = _bump(self.maps["groups_on"], binding.compute, group, by)

    def _binding(self, fact: Binding, present: bool) -> None:
        others = tuple(b for b in self.maps["bindings"].get(fact.port, ()) if b.compute != fact.compute)
        kept = tuple(sorted((*others, fact), key=lambda b: b.compute)) if present else others
        self._put("bindings", fact.port, kept, bool(kept))
        by = 1 if present else -1
        port = self.maps["ports"][fact.port]
        network = port.network
        self._guard(port, fact, by)
        self.maps["zones"] = _bump(self.maps["zones"], fact.compute, fact.zone, by)
        self.maps["presence"] = _bump(self.maps["presence"], network, fact.compute, by)
        self.maps["networks_on"] = _bump(self.maps["networks_on"], fact.compute, network, by)
        self._inner("ports_on", fact.compute, fact.port, fact.phase, present)

    def _relation(self, fact: Relation, present: bool) -> None:
        self._put("relations", (fact.gateway, fact.peer), fact, present)

    def _debt(self, fact: Debt, present: bool) -> None:
        self._put("debts", (fact.compute, fact.removed), fact, present)

    def _cursor(self, fact: Cursor, present: bool) -> None:
        self._put("cursors", fact.kind, fact, present)

    def _retired(self, fact: Retired, present: bool) -> None:
        self._put("retired", fact.tag, fact, present)
        self._index("retired_vnis", fact.vni, fact.tag, present)

    def _operation(self, fact: Operation, present: bool) -> None:
        self._put("operations", fact.id, fact, present)

    def _item(self, fact: Item, present: bool) -> None:
        self._inner("items", fact.operation, (fact.kind, fact.object, fact.compute), fact, present)

    def _proof(self, fact: Proof, present: bool) -> None:
        self._put("proofs", fact.operation, fact, present)

    def _external(self, fact: External, present: bool) -> None:
        self._put("externals", fact.id, fact, present)
        self._index("by_tag", fact.tag, fact.id, present)

    def _router(self, fact: Router, present: bool) -> None:
        self._put("routers", fact.id, fact, present)
        self._index("by_router_tag", fact.tag, fact.id, present)
        if fact.vpn:
            self._inner("vpn_routers", fact.vpn, fact.id, None, present)
            self._vpns.add(fact.vpn)
        self._alone.add(fact.id)

    def _vpn(self, fact: Vpn, present: bool) -> None:
        self._put("vpns", fact.id, fact, present)
        self._index("by_router_tag", fact.tag, fact.id, present)
        self._index("by_rd", fact.rd, fact.id, present)
        for index, targets in (("importers", fact.imports), ("exporters", fact.exports)):
            for target in targets:
                self._inner(index, target, fact.id, None, present)
        self._vpns.add(fact.id)
        self._targets.update(fact.exports)
        self._alone.add(fact.id)

    def _securitygroup(self, fact: SecurityGroup, present: bool) -> None:
        self._put("security_groups", fact.id, fact, present)
        self._index("by_group_tag", fact.tag, fact.id, present)

    def _securityrule(self, fact: SecurityRule, present: bool) -> None:
        self._inner("rules", fact.group, fact.id, fact, present)
        if fact.remote:
            self.maps["namers"] = _bump(self.maps["namers"], fact.remote, fact.group, 1 if present else -1)

    def _inner(self, name: str, outer: Any, key: Any, value: Any, present: bool) -> None:
        index = self.maps[name]
        inner = index.get(outer, _EMPTY)
        inner = inner.set(key, value) if present else inner.delete(key)
        self.maps[name] = index.set(outer, inner) if inner else index.delete(outer)

    def _routerport(self, fact: RouterPort, present: bool) -> None:
        self._inner("legs", fact.router, (fact.network, fact.address), fact, present)
        self.maps["routers_of"] = _bump(self.maps["routers_of"], fact.network, fact.router, 1 if present else -1)
        router = self.maps["routers"].get(fact.router)
        vpn = router.vpn if router is not None else fact.router
        if vpn:
            self._vpns.add(vpn)

    def _floating(self, fact: Floating, present: bool) -> None:
        key = fact.external, fact.address
        self._put("floatings", key, fact, present)
        if fact.port:
            self._inner("floatings_of", fact.port, key, None, present)

    def _neighbour(self, fact: Neighbour, present: bool) -> None:
        self._put("neighbours", (fact.external, fact.address), fact, present)

    def _serves(self, router: str, computes: Iterable[int], present: bool) -> None:
        for compute in computes:
            if compute:
                self.maps["serves"] = _bump(self.maps["serves"], compute, router, 1 if present else -1)

    def _designation(self, fact: Designation, present: bool) -> None:
        self._put("designations", (fact.service, fact.object), fact, present)
        if fact.service == NAT:
            self._serves(fact.object, (fact.compute, fact.standby), present)
        for compute in {fact.compute, fact.standby} - {0}:
            self._inner("duties", compute, (fact.service, fact.object), None, present)

    def _learnt(self, fact: Learnt, present: bool) -> None:
        self._inner("learnt", fact.network, fact.address, fact, present)
        self._inner("learnt_of", fact.port, fact.address, None, present)

    def _lease(self, fact: Lease, present: bool) -> None:
        self._inner("leases", fact.router, fact.first, fact, present)

    def _move(self, fact: Move, present: bool) -> None:
        self._put("moves", fact.router, fact, present)
        self._serves(fact.router, (fact.old, fact.new), present)

    def _document(self, fact: Document, present: bool) -> None:
        key = fact.kind, fact.id
        self._inner("documents", *key, fact, present)
        for ref in fact.refs:
            self._inner("referrers", ref, key, None, present)
        self._put("unserved", key, None, present and bool(fact.unserved))

    def look_around(self) -> None:
        """Once all facts are there: what the VRFs of VPNs see, where that may differ."""
        if not self._vpns:
            return
        vpns, importers = self.maps["vpns"], self.maps["importers"]
        targets = self._targets.union(*(vpns[name].exports for name in self._vpns if name in vpns))
        names = self._vpns.union(*(importers.get(target, ()) for target in targets))
        found = {vrf: horizon.seen(self.maps, vrf, name) for name in names for vrf in horizon.members(self.maps, name)}
        for vrf in self._alone.difference(found):
            found[vrf] = ()
        for vrf, now in found.items():
            before = self.maps["seen"].get(vrf, ())
            if now == before:
                continue
            for legs, by in ((before, -1), (now, 1)):
                for leg in legs:
                    self.maps["seers"] = _bump(self.maps["seers"], leg.network, vrf, by)
            self._put("seen", vrf, now, bool(now))


_ORDER = (
    *(
        Document,
        Proof,
        Item,
        Operation,
        Retired,
        Cursor,
        Debt,
        Move,
        Lease,
        Designation,
        Neighbour,
        Learnt,
        Floating,
        RouterPort,
        Router,
        Vpn,
        External,
    ),
    *(Relation, Binding, Port, SecurityRule, SecurityGroup, Network, Compute),
)


def in_order(edits: Iterable[Edit]) -> list[Edit]:
    """Edits such that nothing refers to what is not there: users vanish before what they use, and appear after it.

    Changes of a fact stay whole; a changed port keeps its network (the parsers refuse to move it).
    """
    rank: dict[Any, int] = {kind: i for i, kind in enumerate(_ORDER)}
    gone = [e for e in edits if e.new is None]
    rest = [e for e in edits if e.new is not None]
    gone.sort(key=lambda e: rank[type(e.old)])
    rest.sort(key=lambda e: -rank[type(e.new)])
    return gone + rest


def apply(
    state: State,
    edits: Iterable[Edit],
    revision: int,
    *,
    store_id: str | None = None,
    term: int | None = None,
    intent: int | None = None,
) -> State:
    """The State after `edits`, which is that of `revision`."""
    draft = _Draft(state)
    for old, new in in_order(list(edits)):
        draft.edit(old, new)
    draft.look_around()
    draft.maps["revision"] = revision
    if store_id is not None:
        draft.maps["store_id"] = store_id
    if term is not None:
        draft.maps["term"] = term
    if intent is not None:
        draft.maps["intent"] = intent
    return State(**draft.maps)


def facts(state: State) -> list[Fact]:
    """Every fact of a State, in no particular order."""
    found: list[Fact] = [*state.computes.values(), *state.removed.values(), *state.networks.values()]
    found += state.ports.values()
    for bindings in state.bindings.values():
        found += bindings
    found += [*state.relations.values(), *state.debts.values(), *state.cursors.values()]
    found += [*state.retired.values(), *state.operations.values(), *state.externals.values()]
    found += [*state.routers.values(), *state.vpns.values()]
    for legs in state.legs.values():
        found += legs.values()
    for known in state.learnt.values():
        found += known.values()
    found += [*state.floatings.values(), *state.neighbours.values(), *state.designations.values()]
    for leases in state.leases.values():
        found += leases.values()
    found += [*state.moves.values(), *state.proofs.values(), *state.security_groups.values()]
    for rules in state.rules.values():
        found += rules.values()
    for items in state.items.values():
        found += items.values()
    for documents in state.documents.values():
        found += documents.values()
    return found


def rebuild(all_facts: Iterable[Fact], revision: int, store_id: str = "", term: int = 0) -> State:
    """The State that these facts make up, from scratch."""
    return apply(State(), [Edit(None, f) for f in all_facts], revision, store_id=store_id, term=term)
