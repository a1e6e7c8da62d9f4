"""What Neutron's documents mean: our own facts brought in line with them, in the transaction that changes the documents.

What Neutron has allowed is not refused because of an order. What a document names and is not there yet is waited for; what cannot be served
is kept as a document whose `unserved` says why, and is tried again with every change of what it names. Each fact follows from documents
alone, but for the ids that it has been given. Facts that a document stands for are Neutron's: what else was made of them by hand goes with
the next change, and what others have made in its networks keeps these from being deleted.

Longer than 400 lines: one short function a kind, and the order in which they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from ebbtide.compile import ledger
from ebbtide.decide import documents, hidden, networks, ports, routing, security, vpns
from ebbtide.decide.bodies import (
    LEGS,
    FloatingBody,
    GroupBody,
    NetworkBody,
    PortBody,
    RouterBody,
    RuleBody,
    SubnetBody,
    VpnBody,
    Way,
)
from ebbtide.decide.documents import CANARY, ref
from ebbtide.decide.ids import Allocator
from ebbtide.decide.security import RuleWish
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.addresses import holds, parse_ip, parse_net
from ebbtide.model.facts import (
    SLAAC,
    STATEFUL,
    STATELESS,
    Document,
    Edit,
    Fact,
    Network,
    Port,
    SecurityRule,
    format_mac,
)
from ebbtide.model.state import State, apply

Key = tuple[str, str]  # kind and id of a document
#: Characters of a reason that are kept.
MAX_REASON = 500
#: Name servers and host routes that a network tells its VMs.
MAX_TOLD = 20
_MODES = {"slaac": SLAAC, "dhcpv6-stateless": STATELESS, "dhcpv6-stateful": STATEFUL}
_FLOATING = "network:floatingip"


class Inside(NamedTuple):
    """A tenant network as it should be."""

    vni: int
    mtu: int
    subnets: tuple[str, ...]
    dhcp: bool
    dns: str
    routes: tuple[str, ...]
    mode: str


class Outside(NamedTuple):
    """A network outside as it should be."""

    physical: str
    vlan: int
    mtu: int
    subnet: str
    gateway: str
    subnet6: str
    gateway6: str


class Leg(NamedTuple):
    """A place of a router in a network as it should be."""

    network: str
    address: str
    mac: str


def change(state: State, edits: Sequence[Edit]) -> list[Edit]:
    """Edits of documents, and what follows from them for our own facts.

    Raises:
        Refused: what would be deleted is used by what Neutron knows nothing of.
    """
    if not edits:
        return []
    work = _Work(apply(state, edits, state.revision), edits)
    return work.bring_in_line(_concerned(state, work.state, edits))


def again(state: State, some: Iterable[Key]) -> list[Edit]:
    """What can be served now of some documents, and could not be before. Nothing else changes."""
    waiting = {key for key in some if key in state.unserved}
    return _Work(state, ()).bring_in_line(waiting) if waiting else []


def fused(edits: Iterable[Edit]) -> list[Edit]:
    """One edit a fact, from what it was first to what it is last."""
    found: dict[int, Edit] = {}
    at: dict[Fact, int] = {}
    for number, (old, new) in enumerate(edits):
        before = at.pop(old, None) if old is not None else None
        found[number] = Edit(found.pop(before).old if before is not None else old, new)
        if new is not None:
            at[new] = number
    gone = {old for old, new in found.values() if old is not None and new is None}
    back = {new for old, new in found.values() if old is None and new in gone}
    changed = (edit for edit in found.values() if edit.old != edit.new)
    return [
        edit
        for edit in changed
        if not (edit.old in back and edit.new is None) and not (edit.old is None and edit.new in back)
    ]


# --- what a change concerns ---


def _read(state: State, kind: str, document_id: str) -> Any:
    """What is read of a document; None: there is none."""
    found = state.document(kind, document_id)
    return documents.read(kind, found.body) if found is not None else None


def _naming(state: State, kind: str, document_id: str) -> list[Key]:
    """The documents that name one."""
    return sorted(state.referrers.get(ref(kind, document_id), ()))


def _shown(document: Document | None) -> Any:
    """What others make of a document; while it stays, they do."""
    if document is None:
        return None
    match documents.read(document.kind, document.body):
        case NetworkBody() as found:
            return found.type, found.physical, found.segment, found.external
        case SubnetBody() as found:
            return found.cidr, found.gateway_ip, found.created_at
        case PortBody() as found:
            return found.fixed_ips, found.admin_state_up, found.device_owner, found.device_id, found.mac_address
        case RouterBody() as found:
            return found.external_gateway_info and found.external_gateway_info.network_id
    return ()


def _units(document: Document) -> Iterator[Key]:
    """The documents under whose names the facts are that a document has a part in."""
    body = documents.read(document.kind, document.body)
    if isinstance(body, SubnetBody):
        yield "networks", body.network_id
        return
    yield document.kind, document.id
    if isinstance(body, PortBody) and body.router:
        yield "routers", body.router


def _concerned(before: State, after: State, edits: Iterable[Edit]) -> set[Key]:
    """The names under which facts may have to change."""
    found: set[Key] = set()
    named: set[str] = set()
    for old, new in edits:
        versions = [d for d in (old, new) if isinstance(d, Document)]
        shown = _shown(versions[0]) != _shown(versions[-1]) or len(versions) == 1
        for document in versions:
            found.update(_units(document))
            named.update(document.refs, [ref(document.kind, document.id)])
            for state in (before, after) if shown else ():
                found.update(_near(state, document))
    for state in (before, after):
        for router in [name for kind, name in found if kind == "routers"]:
            found.update(key for key in _naming(state, "routers", router) if key[0] in ("floatingips", "bgpvpns"))
            for body in _interfaces(state, router):
                found.update(key for key in _naming(state, "networks", body.network_id) if key[0] == "bgpvpns")
        for kind, name in state.unserved:
            waiting = state.document(kind, name)
            if waiting is not None and (kind == "networks" or not named.isdisjoint(waiting.refs)):
                found.add((kind, name))
    return found


def _near(state: State, document: Document) -> Iterator[Key]:
    """Whose facts may differ with a document of which others make something else now."""
    for kind, name in _naming(state, document.kind, document.id):
        other = state.document(kind, name)
        if other is not None:
            yield from _units(other)
    if document.kind == "subnets":
        network = documents.read("subnets", document.body).network_id
        found = (key for key in _naming(state, "networks", network) if key[0] in ("routers", "floatingips", "bgpvpns"))
        yield from found


# --- what should be ---


def _subnets(state: State, network: str) -> list[SubnetBody]:
    """A network's subnets, the oldest first: what is served does not change with one that is added."""
    found = [_read(state, kind, name) for kind, name in _naming(state, "networks", network) if kind == "subnets"]
    return sorted(found, key=lambda subnet: subnet.created_at or "")


def _network(state: State, name: str) -> Inside | Outside | None:
    """What a network should be; None: nothing of ours.

    Raises:
        BadInput, Refused: it cannot be served; why.
    """
    body: NetworkBody | None = _read(state, "networks", name)
    if body is None or name == CANARY:
        return None
    subnets = [(str(parse_net(s.cidr)), s) for s in _subnets(state, name)]
    if body.external:
        return _outside(body, subnets)
    if not _is_inside(state, name) or body.segment is None:
        said = str(body.type)[:20]
        raise Refused(f"a tenant network of type {said} is not served: those of type vxlan with a segmentation id are")
    first6 = next((s for text, s in subnets if ":" in text and (s.ipv6_ra_mode or s.ipv6_address_mode)), None)
    mode = _MODES.get((first6.ipv6_ra_mode or first6.ipv6_address_mode or "") if first6 is not None else "", "")
    four = [s for text, s in subnets if ":" not in text]
    dhcp = any(s.enable_dhcp is not False for s in four) or (not four and mode in (STATELESS, STATEFUL))
    servers = [str(parse_ip(text)) for _, s in subnets for text in s.dns_nameservers or ()]
    ways = {f"{parse_net(way.destination)} via {parse_ip(way.nexthop)}" for s in four for way in s.host_routes or ()}
    dns = " ".join(list(dict.fromkeys(servers))[:MAX_TOLD])
    cidrs = tuple(sorted({text for text, _ in subnets}))
    return Inside(body.segment, body.mtu or 1450, cidrs, dhcp, dns, tuple(sorted(ways)[:MAX_TOLD]), mode)


def _halves(state: State, name: str, wish: Inside | Outside) -> Iterator[str]:
    """What subnets of a network say that a network of ours has but once, or fewer of, in words."""
    subnets = _subnets(state, name)
    four, six = ([s for s in subnets if (":" in s.cidr) == ipv6] for ipv6 in (False, True))
    if isinstance(wish, Outside):
        if len(four) > 1 or len(six) > 1:
            yield f"of its subnets {' and '.join(filter(None, (wish.subnet, wish.subnet6)))} are served, one of each IP version"
        return
    if len({s.enable_dhcp is not False for s in four}) > 1:
        yield "DHCP is served in all its IPv4 subnets, though some of them are without"
    if len({s.ipv6_ra_mode or s.ipv6_address_mode for s in six}) > 1:
        yield f"its IPv6 subnets have several modes: {wish.mode} is served in all"
    if len({text for s in subnets for text in s.dns_nameservers or ()}) > MAX_TOLD:
        yield f"of its name servers {MAX_TOLD} are told"
    if len([way for s in four for way in s.host_routes or ()]) > MAX_TOLD:
        yield f"of its host routes {MAX_TOLD} are told"
    if any(s.host_routes for s in six):
        yield "host routes of IPv6 are not told"


def _outside(body: NetworkBody, subnets: Sequence[tuple[str, SubnetBody]]) -> Outside:
    if body.type not in ("flat", "vlan") or not body.physical:
        raise Refused(
            f"an external network of type {str(body.type)[:20]} is not served: flat and vlan are, on a physical network"
        )
    four = next(((text, s.gateway_ip or "") for text, s in subnets if ":" not in text), None)
    six = next(((text, s.gateway_ip or "") for text, s in subnets if ":" in text), ("", ""))
    if four is None:
        raise Refused("an external network is served once it has an IPv4 subnet: it has none yet")
    return Outside(body.physical, (body.segment or 0) if body.type == "vlan" else 0, body.mtu or 1500, *four, *six)


def _is_inside(state: State, network: str) -> bool:
    """Whether a network is to be one of our own."""
    body: NetworkBody | None = _read(state, "networks", network)
    if body is None or network == CANARY or body.external:
        return False
    return body.type == "vxlan" and body.segment is not None


def _is_outside(state: State, network: str) -> bool:
    """Whether a network is to be one outside."""
    try:
        return isinstance(_network(state, network), Outside)
    except Refused:
        return False


def _port(state: State, name: str) -> PortBody | None:
    """A port that is to be one of ours: neither a router's nor a floating IP's, and of one of our networks."""
    body: PortBody | None = _read(state, "ports", name)
    if body is None or not _is_vms(body) or not _is_inside(state, body.network_id):
        return None
    return body


def _is_vms(body: PortBody) -> bool:
    """Whether a port is something that plugs in. One that is administratively down is not: nothing passes there."""
    return not body.router and body.device_owner != _FLOATING and body.admin_state_up is not False


def _interfaces(state: State, router: str) -> list[PortBody]:
    """The ports that are places of a router's."""
    ports = [_read(state, kind, name) for kind, name in _naming(state, "routers", router) if kind == "ports"]
    return [port for port in ports if port.device_owner in LEGS and port.admin_state_up is not False]


def _legs(state: State, router: str) -> list[Leg]:
    """The places that a router is to have, as far as their subnets are there."""
    if _read(state, "routers", router) is None:
        return []
    found = []
    for body in _interfaces(state, router):
        for fixed in (body.fixed_ips or ()) if _is_inside(state, body.network_id) else ():
            if state.document("subnets", fixed.subnet_id) is not None and _is_address(fixed.ip_address):
                found.append(Leg(body.network_id, str(parse_ip(fixed.ip_address)), body.mac_address))
    return found


def _is_address(text: str) -> bool:
    try:
        parse_ip(text)
    except ValueError:
        return False
    return True


def _vpn_legs(state: State, vpn: str) -> list[tuple[str, str]]:
    """Networks and addresses at which a VPN is to have places: the gateways of the subnets. Where a router is, the VPN is by that only."""
    body: VpnBody | None = _read(state, "bgpvpns", vpn)
    found = []
    for network in sorted(set(body.networks or ())) if body is not None else ():
        if _is_inside(state, network) and not _routed(state, network):
            for subnet in _subnets(state, network):
                gateway = subnet.gateway_ip or routing.first_host(str(parse_net(subnet.cidr)))
                found += [(network, str(parse_ip(gateway)))] if _is_address(gateway) else []
    return found


def _routed(state: State, network: str) -> bool:
    """Whether a router has an interface in a network."""
    ports = (_read(state, kind, name) for kind, name in _naming(state, "networks", network) if kind == "ports")
    return any(
        port.device_owner in LEGS
        and port.admin_state_up is not False
        and _read(state, "routers", port.router) is not None
        for port in ports
    )


def _rule(body: RuleBody, name: str) -> RuleWish:
    """A rule as our own decision takes it.

    Raises:
        BadInput, Refused: it says what ours cannot, and would let more through without that.
    """
    if body.direction not in ("ingress", "egress"):
        raise BadInput(f"direction {body.direction[:40]!r} is neither ingress nor egress", "direction")
    if body.remote_address_group_id:
        raise Refused("rules with an address group are not served: name the prefixes")
    six = (body.ethertype or "IPv4").lower() == "ipv6"
    number = str(body.protocol if body.protocol is not None else "any").lower()
    if number in ("ipv6-icmp", "icmpv6") or (six and number in ("icmp", "1")):
        number = "icmpv6"
    first, last = body.port_range_min, body.port_range_max
    family, remote = "ipv6" if six else "ipv4", body.remote_group_id or ""
    wish = RuleWish(body.direction == "ingress", family, number, "", -1, -1, body.remote_ip_prefix or "", remote, name)
    if first is None and last is None:
        return wish
    if number in ("icmp", "1", "icmpv6", "58"):
        return wish._replace(icmp_type=-1 if first is None else first, icmp_code=-1 if last is None else last)
    low, high = (last if first is None else first), (first if last is None else last)
    return wish._replace(ports=f"{low}-{high}")


# --- what is done ---


class _Work:
    """Facts on their way to what documents say: a State that moves on with each edit, and what could not be done for a document."""

    def __init__(self, state: State, edits: Sequence[Edit]) -> None:
        self.state = state
        self.edits = list(edits)
        self.reasons: dict[Key, list[str]] = {}
        #: Kind and body of what documents said before.
        self.old = {(o.kind, o.id): (o.kind, o.body) for o, _ in edits if isinstance(o, Document)}

    def do(self, edits: Iterable[Edit]) -> None:
        """Take edits as done."""
        made = list(edits)
        if made:
            self.edits += made
            self.state = apply(self.state, made, self.state.revision)

    def tries(self, key: Key, verb: Callable[[State], Iterable[Edit]]) -> bool:
        """Do what a verb decides; if it may not be done, that is a reason of this document's."""
        try:
            self.do(verb(self.state))
        except (BadInput, Refused, NotFound, ValueError) as error:
            self.say(key, str(error))
            return False
        return True

    def say(self, key: Key, reason: str) -> None:
        """Why not all of a document is served."""
        self.reasons.setdefault(key, []).append(reason)

    def _remark(self, key: Key, *given: tuple[str, Any]) -> None:
        """Say what of a document is without effect, where it is given."""
        for what, value in given:
            if value:
                self.say(key, f"{what}: given, and not served")

    def read(self, kind: str, name: str) -> Any:
        """What is read of a document, or None."""
        return _read(self.state, kind, name)

    def bring_in_line(self, concerned: set[Key]) -> list[Edit]:
        """The edits after which all these names mean what documents say. Users go before what they use, and come after it."""
        by_kind: dict[str, list[str]] = {}
        for kind, name in sorted(concerned):
            by_kind.setdefault(kind, []).append(name)

        def each(kind: str, act: Callable[[str], None]) -> None:
            for name in by_kind.get(kind, ()):
                act(name)

        self._lead_nowhere(by_kind)
        each("routers", self._less_of_router)
        each("bgpvpns", self._less_of_vpn)
        each("ports", self._less_of_port)
        each("networks", self._no_network)
        each("security-groups", self._group)
        each("security-group-rules", self._drop_rule)
        each("security-group-rules", self._rule)
        each("networks", self._network)
        each("ports", self._port)
        each("bgpvpns", self._vpn)
        each("routers", self._router)
        each("bgpvpns", self._vpn_places)
        each("floatingips", self._floating)
        each("security-groups", self._no_group)
        for key in sorted(concerned):
            self._note(key)
        return fused(self.edits)

    def _note(self, key: Key) -> None:
        document = self.state.document(*key)
        # What somebody said may be in there, and not all of that can be stored.
        words = "; ".join(dict.fromkeys(self.reasons.get(key, ())))
        reason = "".join(each if each.isprintable() else "\ufffd" for each in words)[:MAX_REASON]
        if document is not None and document.unserved != reason:
            self.do([Edit(document, msgspec.structs.replace(document, unserved=reason))])

    def _leads(self, network: str) -> bool:
        """Whether an external network is there, and stays."""
        return network in self.state.externals and _is_outside(self.state, network)

    def _holds(self, network: str) -> bool:
        """Whether a tenant network is there, and stays."""
        return network in self.state.networks and _is_inside(self.state, network)

    # --- floating IPs ---

    def _lead_nowhere(self, by_kind: dict[str, list[str]]) -> None:
        """Floating IPs that are looked at lead nowhere until it is known where; those go that nobody speaks of, or whose network goes."""
        said = {_place_outside(self.read("floatingips", name)) for name in by_kind.get("floatingips", ())}
        gone = {_place_outside(documents.read(*old)) for old in self.old.values() if old[0] == "floatingips"}
        for key in sorted(key for key in said | gone if key is not None):
            known = self.state.floatings.get(key)
            if known is not None:
                stays = key in said and _is_outside(self.state, key[0])
                kept = msgspec.structs.replace(known, port="", router="", fixed="") if stays else None
                self.do([Edit(known, kept)] if kept != known else [])

    def _floating(self, name: str) -> None:
        body: FloatingBody | None = self.read("floatingips", name)
        if body is None:
            return
        key, outside, address = ("floatingips", name), body.floating_network_id, body.floating_ip_address
        if not self._leads(outside):
            self.say(key, f"external network {outside} is not served (yet)")
            return
        port, fixed = body.port_id or "", body.fixed_ip_address or ""
        if port and port not in self.state.ports:
            self.say(key, f"port {port} is not there (yet): the address leads nowhere")
            port = fixed = ""
        if port and not body.router_id:
            self.say(key, f"it names port {port} and no router: the address leads nowhere")
            port = fixed = ""
        done = self.tries(key, lambda state: _lead(state, outside, address, port, fixed, body.router_id or ""))
        if not done and (outside, address) not in self.state.floatings:
            self.tries(key, lambda state: routing.add_floating(state, outside, address)[0])

    # --- routers ---

    def _less_of_router(self, name: str) -> None:
        known = self.state.routers.get(name)
        if known is None:
            return
        kept = {(leg.network, leg.address) for leg in _legs(self.state, name)}
        self.do(Edit(leg, None) for leg in self.state.places(name) if (leg.network, leg.address) not in kept)
        if self.state.document("routers", name) is None:
            self.do(routing.delete_router(self.state, name))
        elif known.external and not _is_outside(self.state, known.external):
            self.do(routing.set_router(self.state, name, outside="")[0])

    def _router(self, name: str) -> None:
        body: RouterBody | None = self.read("routers", name)
        if body is None:
            return
        key = "routers", name
        if name not in self.state.routers and not self.tries(key, lambda state: routing.add_router(state, name)[0]):
            return
        self._remark(key, ("admin_state_up false", body.admin_state_up is False))
        for leg in _legs(self.state, name):
            self._leg(key, leg)
        gateway = body.external_gateway_info
        outside = gateway.network_id if gateway is not None and self._leads(gateway.network_id) else ""
        if gateway is not None and not outside:
            self.say(key, f"external network {gateway.network_id} is not served (yet)")
        addresses = (
            [fixed.ip_address for fixed in (gateway.external_fixed_ips or ())]
            if gateway is not None and outside
            else []
        )
        snat = gateway is None or gateway.enable_snat is not False
        ways = [way for way in body.routes or () if self._has_way(key, way)]
        texts = [f"{way.destination} via {way.nexthop}" for way in ways]

        def lead(state: State, routes: Sequence[str]) -> list[Edit]:
            return routing.set_router(state, name, outside, addresses, snat, routes)[0]

        if not self.tries(key, lambda state: lead(state, texts)) and texts:
            self.tries(key, lambda state: lead(state, ()))

    def _has_way(self, key: Key, way: Way) -> bool:
        """Whether a route's next hop is in a subnet of the router's."""
        known = _is_address(way.nexthop) and any(holds(leg.subnet, way.nexthop) for leg in self.state.places(key[1]))
        if not known:
            self.say(
                key, f"the route to {way.destination[:60]} waits for an interface in the subnet of {way.nexthop[:60]}"
            )
        return known

    def _leg(self, key: Key, leg: Leg) -> None:
        known = next(
            (x for x in self.state.places(key[1]) if (x.network, x.address) == (leg.network, leg.address)), None
        )
        if not self._holds(leg.network):
            self.say(key, f"network {leg.network} is not served (yet)")
            return

        def attach(state: State) -> list[Edit]:
            without = apply(state, [Edit(known, None)], state.revision) if known is not None else state
            edits, made = routing.attach(without, key[1], leg.network, leg.address, leg.mac)
            return [Edit(known, made) if edit.new == made else edit for edit in edits if made != known]

        self.tries(key, attach)

    # --- BGP VPNs ---

    def _less_of_vpn(self, name: str) -> None:
        if name not in self.state.vpns:
            return
        body: VpnBody | None = self.read("bgpvpns", name)
        if body is None:
            self.do(vpns.clear(self.state, name))
            return
        kept = set(_vpn_legs(self.state, name))
        self.do(Edit(leg, None) for leg in self.state.places(name) if (leg.network, leg.address) not in kept)
        for router in sorted(set(self.state.vpn_routers.get(name, ())) - set(body.routers or ())):
            self.do(vpns.dissociate_router(self.state, name, router)[0])

    def _vpn(self, name: str) -> None:
        body: VpnBody | None = self.read("bgpvpns", name)
        if body is None:
            return
        key, both = ("bgpvpns", name), body.route_targets or []
        imports, exports = [*both, *(body.import_targets or ())], [*both, *(body.export_targets or ())]
        if (body.type or "l3") != "l3":
            self.say(key, f"a VPN of type {str(body.type)[:20]} is not served: l3 is")
        elif not body.route_distinguishers:
            self.say(key, "it has no route distinguisher, by which its routes are known: give it one")
        elif name not in self.state.vpns:
            self.tries(
                key, lambda state: vpns.add(state, name, (body.route_distinguishers or [""])[0], imports, exports)[0]
            )
        else:
            self.tries(key, lambda state: vpns.change(state, name, imports, exports)[0])
        known = self.state.vpns.get(name)
        if known is not None and body.route_distinguishers and body.route_distinguishers != [known.rd]:
            self.say(key, f"of its route distinguishers {known.rd} is served: a VPN has one, and keeps it")

    def _vpn_places(self, name: str) -> None:
        body: VpnBody | None = self.read("bgpvpns", name)
        if body is None or name not in self.state.vpns:
            return
        key = "bgpvpns", name
        for network in sorted(set(body.networks or ())):
            if not self._holds(network):
                self.say(key, f"network {network} is not served (yet)")
            elif _routed(self.state, network):
                self.say(key, f"network {network} has a router, which is its gateway: associate the router instead")
        held = {(leg.network, leg.address) for leg in self.state.places(name)}
        for network, address in _vpn_legs(self.state, name):
            if network in self.state.networks and (network, address) not in held:
                self._vpn_place(key, network, address)
        for router in sorted(set(body.routers or ())):
            if router not in self.state.routers:
                self.say(key, f"router {router} is not there (yet)")
            else:
                self._vpn_router(key, router)

    def _vpn_place(self, key: Key, network: str, address: str) -> None:
        self.tries(key, lambda state: vpns.associate_network(state, key[1], network, address)[0])

    def _vpn_router(self, key: Key, router: str) -> None:
        self.tries(key, lambda state: vpns.associate_router(state, key[1], router)[0])

    # --- ports ---

    def _less_of_port(self, name: str) -> None:
        if name in self.state.ports and _port(self.state, name) is None:
            self.do(networks.delete_port(self.state, name))

    def _port(self, name: str) -> None:
        body: PortBody | None = self.read("ports", name)
        key = "ports", name
        if body is None or not _is_vms(body):
            return
        self._remark(key, ("a QoS policy", body.qos_policy_id), ("extra DHCP options", body.extra_dhcp_opts))
        if not self._holds(body.network_id):
            self.say(key, f"network {body.network_id} is not served to ports (yet)")
            return
        fixed = [f for f in body.fixed_ips or () if self.state.document("subnets", f.subnet_id) is not None]
        addresses = [f.ip_address for f in fixed if f.ip_address]
        trusted = (body.device_owner or "").startswith("network:")
        secured = not trusted if body.port_security_enabled is None else body.port_security_enabled
        groups = [group for group in body.groups if self.state.document("security-groups", group) is not None]
        groups = [group for group in groups if group in self.state.security_groups] if secured else []
        for group in sorted(set(body.groups) - set(groups)) if secured else ():
            self.say(key, f"security group {group} is not there (yet)")
        pairs = [(pair.ip_address, pair.mac_address or "") for pair in body.allowed_address_pairs or ()]
        device, project = body.device_id or "", body.project_id or body.tenant_id or ""

        if name not in self.state.ports:
            wish = _PortWish(
                name, body.network_id, body.mac_address, addresses, secured, groups, pairs, device, project
            )
            self.tries(key, lambda state: _new_port(state, wish))
            return
        # What protects others first: an address that is somebody else's keeps nothing of it back.
        self.tries(key, lambda state: _with_mac(state, name, body.mac_address))
        if not self.tries(key, lambda state: ports.change(state, name, secured=secured, groups=groups, pairs=pairs)[0]):
            # Nor does an address pair that cannot be: a group which the port has left may go.
            self.tries(key, lambda state: ports.change(state, name, secured=secured, groups=groups)[0])
        self.tries(key, lambda state: _readdressed(state, name, addresses))
        self.tries(key, lambda state: _owned(state, name, device, project))

    # --- security groups ---

    def _group(self, name: str) -> None:
        body: GroupBody | None = self.read("security-groups", name)
        if body is not None:
            self._remark(("security-groups", name), ("stateful false (it is stateful)", body.stateful is False))
            self.tries(("security-groups", name), lambda state: security.add_group(state, name)[0])

    def _no_group(self, name: str) -> None:
        if self.state.document("security-groups", name) is None and name in self.state.security_groups:
            self.do(security.delete_group(self.state, name))

    def _drop_rule(self, name: str) -> None:
        """A rule that says something else now, or nothing, lets nothing through until that is decided."""
        known, body = self._known_rule(name), self.read("security-group-rules", name)
        if known is None:
            return
        made = None
        if body is not None and (
            not body.remote_group_id or self.state.document("security-groups", body.remote_group_id)
        ):
            made = self._as_rule(known, body)
        self.do([Edit(known, None)] if made != known else [])

    def _known_rule(self, name: str) -> SecurityRule | None:
        key = "security-group-rules", name
        now = self.state.document(*key)
        bodies = [(now.kind, now.body)] if now is not None else []
        bodies += [self.old[key]] if key in self.old else []
        groups = (documents.read(*each).security_group_id for each in bodies)
        found = (self.state.rules[group].get(name) for group in groups if group in self.state.rules)
        return next((rule for rule in found if rule is not None), None)

    def _as_rule(self, known: SecurityRule, body: RuleBody) -> SecurityRule | None:
        try:
            return security.add_rule(apply(self.state, [Edit(known, None)], 0), known.group, _rule(body, known.id))[1]
        except (BadInput, Refused, NotFound, ValueError):
            return None

    def _rule(self, name: str) -> None:
        body: RuleBody | None = self.read("security-group-rules", name)
        if body is None:
            return
        key = "security-group-rules", name
        if self.state.document("security-groups", body.security_group_id) is None:
            self.say(key, f"security group {body.security_group_id} is not there (yet)")
        elif body.remote_group_id and self.state.document("security-groups", body.remote_group_id) is None:
            self.say(key, f"security group {body.remote_group_id}, the far end, is not there (yet)")
        else:
            self.tries(key, lambda state: security.add_rule(state, body.security_group_id, _rule(body, name))[0])

    # --- networks ---

    def _no_network(self, name: str) -> None:
        if name in self.state.networks and not _is_inside(self.state, name):
            self.do(networks.delete(self.state, name))
        if name in self.state.externals and not _is_outside(self.state, name):
            self.do(routing.delete_external(self.state, name))

    def _network(self, name: str) -> None:
        key = "networks", name
        try:
            wish = _network(self.state, name)
        except (BadInput, Refused, ValueError) as error:
            self.say(key, str(error))
            return
        if wish is None:
            return
        for reason in _halves(self.state, name, wish):
            self.say(key, reason)
        body: NetworkBody = self.read("networks", name)
        down = ("admin_state_up false", body.admin_state_up is False)
        self._remark(key, ("a QoS policy", body.qos_policy_id), down)
        if isinstance(wish, Outside):
            self.tries(key, lambda state: _external(state, name, wish))
        else:
            if not self.tries(key, lambda state: _inside(state, name, wish)) and wish.mode:
                self.tries(key, lambda state: _inside(state, name, wish._replace(mode="")))
            known = self.state.networks.get(name)
            if known is not None and known.vni != wish.vni:
                self.say(key, f"its segmentation id was {known.vni} and stays, until the network is made anew")


class _PortWish(NamedTuple):
    """A port to make."""

    id: str
    network: str
    mac: str
    addresses: Sequence[str]
    secured: bool
    groups: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    device: str
    project: str


def _place_outside(body: FloatingBody | None) -> tuple[str, str] | None:
    """Under which external network and address a floating IP is found."""
    if body is None or not _is_address(body.floating_ip_address):
        return None
    return body.floating_network_id, str(parse_ip(body.floating_ip_address))


def _lead(state: State, outside: str, address: str, port: str, fixed: str, router: str) -> list[Edit]:
    """The edits that lead a floating IP to a port, by the router that Neutron names."""
    edits, made = routing.add_floating(state, outside, address, port, fixed)
    if port and made.router != router:
        raise Refused(f"address {made.fixed} of port {port} is behind router {made.router}, and not {router[:80]}")
    return edits


def _inside(state: State, name: str, wish: Inside) -> list[Edit]:
    """The edits that make, or change, a tenant network."""
    known = state.networks.get(name)
    routing.check_mtu(wish.mtu)
    if known is not None:
        fields = wish._asdict() | {"ipv6_mode": wish.mode}
        made = msgspec.structs.replace(known, **{k: v for k, v in fields.items() if k not in ("vni", "mode")})
        made = networks.checked(made)
        return [Edit(known, made)] if made != known else []
    routing.check_name("network", name)
    if not 1 <= wish.vni <= ledger.LAST_VNI:
        raise BadInput(f"segmentation id {wish.vni} is not between 1 and {ledger.LAST_VNI}", "provider:segmentation_id")
    if wish.vni in state.by_vni:
        raise Refused(f"segmentation id {wish.vni} is the VNI of network {state.by_vni[wish.vni]}")
    if wish.vni in state.retired_vnis:
        raise Refused(
            f"segmentation id {wish.vni} was that of a network just deleted, and not every compute has let go of it yet"
        )
    ids = Allocator(state)
    _, mtu, subnets, dhcp, dns, routes, mode = wish
    made = networks.checked(Network(name, ids.take("network"), wish.vni, mtu, subnets, dhcp, dns, routes, mode))
    return [Edit(None, made), *ids.edits()]


def _external(state: State, name: str, wish: Outside) -> list[Edit]:
    """The edits that make, or change, a network outside. Prefixes that were given to it by hand stay."""
    known = state.externals.get(name)
    without = apply(state, [Edit(known, None)], state.revision) if known is not None else state
    prefixes = known.prefixes if known is not None and wish.subnet6 else ()
    place = (name, wish.physical, wish.vlan, wish.subnet, wish.gateway, wish.mtu, wish.subnet6, wish.gateway6, prefixes)
    edits, made = routing.add_external(without, *place)
    if known is None:
        return edits
    made = msgspec.structs.replace(made, tag=known.tag)
    hops = {made.gateway, made.gateway6}
    near = (n for n in state.neighbours.values() if n.external == name and n.address not in hops)
    return [Edit(known, made), *(Edit(n, None) for n in near)] if made != known else []


def _free_mac(state: State, name: str, network: str, mac: int) -> None:
    """Whether a port may have a MAC.

    Raises:
        Refused: it is somebody else's in this network.
    """
    holder = state.with_mac(network, mac)
    whose = routing.own_macs(state, network).get(mac) or (f"port {holder}" if holder not in (None, name) else "")
    if whose:
        raise Refused(f"MAC {format_mac(mac)} is that of {whose} in network {network}")


def _new_port(state: State, wish: _PortWish) -> list[Edit]:
    """The edits that make a port."""
    ports.check_port_name(wish.id)
    mac, net = routing.host_mac(wish.mac), state.networks[wish.network]
    found = networks.addresses(wish.addresses)
    networks.check_addresses(state, net, wish.id, found)
    _free_mac(state, wish.id, wish.network, mac)
    ids = Allocator(state)
    made = Port(wish.id, wish.network, mac, ids.take("lport"), found)
    made = security.secure(state, made, wish.secured, wish.groups, wish.pairs)
    made = ports.owned(made, wish.device, wish.project)
    return [Edit(None, made), *ids.edits(), *hidden.release(state, wish.network, found, mac)]


def _with_mac(state: State, name: str, mac: str) -> list[Edit]:
    """The edits that give a port another MAC."""
    known, value = state.ports[name], routing.host_mac(mac)
    if value == known.mac:
        return []
    _free_mac(state, name, known.network, value)
    return [Edit(known, msgspec.structs.replace(known, mac=value)), *hidden.release(state, known.network, (), value)]


def _readdressed(state: State, name: str, addresses: Sequence[str]) -> list[Edit]:
    """The edits that give a port other addresses: those that Neutron says and no others, which are made by SLAAC with it too."""
    known, found = state.ports[name], networks.addresses(addresses)
    if found == known.addresses:
        return []
    networks.check_addresses(state, state.networks[known.network], name, found)
    release = hidden.release(state, known.network, found, 0)
    return [Edit(known, msgspec.structs.replace(known, addresses=found)), *release]


def _owned(state: State, name: str, device: str, project: str) -> list[Edit]:
    known = state.ports[name]
    made = ports.owned(known, device, project)
    return [Edit(known, made)] if made != known else []
