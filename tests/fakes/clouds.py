"""Clouds in memory: facts written short, the view that a compute would show of them, and random changes of them.

`Story` changes a State as the decisions do (one active binding a port, users gone with what they use), in batches. It makes up
nothing that the parsers would refuse: MACs and addresses are unique in a network, ids are unique, a port stays in its network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any, TypeVar

import msgspec
from immutables import Map

from ebbtide.compile import ledger
from ebbtide.decide import parts, scalein
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
    MovePhase,
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
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import NAT, SUBNET, State, apply, subnet_name

PENDING, ACTIVE, LEAVING = BindingPhase.PENDING, BindingPhase.ACTIVE, BindingPhase.LEAVING
FIRST_TUNNEL = 1000
PROVIDER = 900
V = TypeVar("V")


def compute(number: int, **more: Any) -> Compute:
    """Compute "c<number>" with TEP 10.0.0.<number>."""
    made = Compute(f"c{number}", number, 0xEB0000 + number, system_id=f"sys-{number}", ovs_uuid=f"uuid-{number}")
    return msgspec.structs.replace(made, **{"teps": (f"10.0.0.{number}",), **more})


def network(tag: int, **more: Any) -> Network:
    """Network "n<tag>" with VNI 10000 + tag."""
    return msgspec.structs.replace(Network(f"n{tag}", tag, 10_000 + tag), **more)


def port(lport: int, tag: int, **more: Any) -> Port:
    """Port "p<lport>" in network "n<tag>", with a MAC and an address made of its number."""
    made = Port(f"p{lport}", f"n{tag}", 0x02_0000_000000 + lport, lport, (f"10.1.{lport >> 8}.{lport & 255}",))
    return msgspec.structs.replace(made, **more)


def external(tag: int, **more: Any) -> External:
    """External network "x<tag>" of physical network "physnet", flat, 203.0.<tag>.0/24 with its next hop at .1, and the same of IPv6."""
    six = f"2001:db8:{tag & 255:x}::"
    made = External(
        *(f"x{tag}", tag, "physnet", 0, f"203.0.{tag & 255}.0/24", f"203.0.{tag & 255}.1"),
        subnet6=f"{six}/64",
        gateway6=f"{six}1",
        prefixes=("fd00::/12",),
    )
    return msgspec.structs.replace(made, **more)


def router(tag: int, **more: Any) -> Router:
    """Router "r<tag>"."""
    return msgspec.structs.replace(Router(f"r{tag}", tag, ledger.mac("store", ledger.MacOf.ROUTER, tag)), **more)


def vpn(tag: int, *targets: str, **more: Any) -> Vpn:
    """VPN "v<tag>", which imports and exports these targets."""
    return msgspec.structs.replace(Vpn(f"v{tag}", tag, f"100:{tag}", targets, targets), **more)


def leg(router_tag: int, network_tag: int, **more: Any) -> RouterPort:
    """Router "r<router_tag>" in network "n<network_tag>", which holds 10.1.0.0/16; its address ends with its own tag."""
    address = f"10.1.255.{router_tag % 250 + 1}"
    made = RouterPort(f"r{router_tag}", f"n{network_tag}", address, "10.1.0.0/16", 0x02EB_0400_0000 + router_tag)
    return msgspec.structs.replace(made, **more)


def state(*facts: Fact, revision: int = 1) -> State:
    """The State of these facts."""
    return apply(State(), [Edit(None, f) for f in facts], revision, store_id="store", term=1)


def change(before: State, *edits: Edit) -> State:
    """The next revision."""
    return apply(before, edits, before.revision + 1)


def ofport(lport: int) -> int:
    """OpenFlow port of a tap, the same on each compute."""
    return lport


def view(found: State, number: int, *, taps: Iterable[str] | None = None) -> View:
    """What a compute shows when all that State asks is realised: a tap for each binding (or for `taps`), all its tunnels."""
    here = found.ports_on.get(number, Map()) if taps is None else taps
    ports = {p: Interface(f"tap-{p}", ofport(found.ports[p].lport), p) for p in here}
    tunnels = {n: Interface(f"tun{n}", FIRST_TUNNEL + n, type="vxlan", up=True) for n in found.peers(number)}
    own = found.computes.get(number)
    mapped = dict(own.provider_mappings) if own is not None else {}
    providers = {physical: Interface("patch", PROVIDER, type="patch") for physical in mapped}
    return View(True, Map(ports), Map(tunnels), providers=Map(providers))


def key_of(fact: Fact) -> tuple[Any, ...]:
    """What makes two facts the same thing."""
    match fact:
        case Compute():
            return ("compute", fact.number)
        case Binding():
            return ("binding", fact.port, fact.compute)
        case Relation():
            return ("relation", fact.gateway, fact.peer)
        case Debt():
            return ("debt", fact.compute, fact.removed)
        case Cursor():
            return ("cursor", fact.kind)
        case Retired():
            return ("retired", fact.tag)
        case RouterPort():
            return ("leg", fact.router, fact.network, fact.address)
        case Floating() | Neighbour():
            return (type(fact).__name__, fact.external, fact.address)
        case Learnt():
            return ("learnt", fact.network, fact.address)
        case Designation():
            return ("designation", fact.service, fact.object)
        case Lease():
            return ("lease", fact.router, fact.first)
        case Move():
            return ("move", fact.router)
        case Item():
            return ("item", fact.operation, fact.kind, fact.object, fact.compute)
        case Proof():
            return ("proof", fact.operation)
        case Document():
            return ("document", fact.kind, fact.id)
        case _:
            return (type(fact).__name__, fact.id)


def squash(edits: Iterable[Edit]) -> list[Edit]:
    """One edit a fact, from what it was first to what it is last."""
    first: dict[tuple[Any, ...], Fact | None] = {}
    last: dict[tuple[Any, ...], Fact | None] = {}
    for old, new in edits:
        fact = new if new is not None else old
        assert fact is not None
        first.setdefault(key_of(fact), old)
        last[key_of(fact)] = new
    return [Edit(first[k], last[k]) for k in first if first[k] != last[k]]


class Story:
    """A State that changes at random."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.state = State()
        self._next = 0

    def batch(self, size: int = 3) -> list[Edit]:
        """The edits of one transaction, after which `state` is one revision on."""
        before, edits = self.state, []
        founded = [_join] * 5 + [_network] * 3 + [_port] * 8 + [_external, _router, _leg] if not before.revision else []
        chosen = self.random.choices(list(_CHANGES), list(_CHANGES.values()), k=self.random.randint(1, size))
        for made in (make(self) for make in founded or chosen):
            self.state = apply(self.state, made, before.revision + 1)
            edits += made
        net = squash(edits)
        self.state = apply(before, net, before.revision + 1)
        return net

    def fresh(self) -> int:
        """A number that nothing has had before."""
        self._next += 1
        return self._next

    def pick(self, among: Iterable[V]) -> V | None:
        """One of them, or None."""
        found = sorted(among, key=repr)  # hashes differ from run to run; a story must not
        return self.random.choice(found) if found else None

    def changed(self, fact: Any, **fields: Any) -> list[Edit]:
        """An edit of some fields."""
        return [Edit(fact, msgspec.structs.replace(fact, **fields))] if fact is not None else []

    def member(self) -> Compute | None:
        """One that a port may be bound to."""
        return self.pick(self.state.members())


def _join(s: Story) -> list[Edit]:
    n = s.fresh()
    membership = s.random.choice([Membership.MEMBER, Membership.MEMBER, Membership.WAITING])
    teps = s.random.choice([(), (f"10.0.0.{n}",), (f"10.0.0.{n}",), (f"fd00::{n:x}",)])
    mapped = s.random.choice([(), (("physnet", "br-ex"),)])
    return [Edit(None, compute(n, membership=membership, teps=teps, provider_mappings=mapped))]


def _map(s: Story) -> list[Edit]:
    return s.changed(
        s.pick(s.state.computes.values()), provider_mappings=s.random.choice([(), (("physnet", "br-ex"),)])
    )


def _member(s: Story) -> list[Edit]:
    waiting = [c for c in s.state.computes.values() if c.membership is Membership.WAITING]
    return s.changed(s.pick(waiting), membership=Membership.MEMBER)


def _tep(s: Story) -> list[Edit]:
    return s.changed(
        s.pick(s.state.computes.values()),
        teps=s.random.choice([(), (f"10.0.1.{s.fresh()}",), (f"fd00::1:{s.fresh():x}",)]),
    )


def _rename(s: Story) -> list[Edit]:
    one, two = s.pick(s.state.computes.values()), s.pick(s.state.computes.values())
    if one is None or two is None:
        return []
    if one == two:
        return s.changed(one, name=f"r{s.fresh()}", dpid=0xEC0000 + s.fresh())
    return s.changed(one, name=two.name, dpid=two.dpid) + s.changed(two, name=one.name, dpid=one.dpid)


def _mark(s: Story) -> list[Edit]:
    found = s.member()
    return s.changed(found, tombstoned=not found.tombstoned) if found else []


def _remove(s: Story) -> list[Edit]:
    found = s.member()
    reachable = {c.number for c in s.state.members() if s.random.random() < 0.7}
    return scalein.removal(s.state, found, reachable) if found else []


def _replace(s: Story) -> list[Edit]:
    """A compute goes and another takes its name and DPN id at once."""
    gone = _remove(s)
    if not gone:
        return []
    old = gone[0].old
    assert isinstance(old, Compute)
    return [Edit(None, compute(s.fresh(), name=old.name, dpid=old.dpid)), *gone]


def _forget(s: Story) -> list[Edit]:
    found = s.pick(s.state.removed.values())
    return [Edit(found, None)] if found else []


def _network(s: Story) -> list[Edit]:
    return [Edit(None, network(s.fresh(), dhcp=s.random.random() < 0.3, mtu=s.random.choice([1400, 1450])))]


def _redhcp(s: Story) -> list[Edit]:
    found, mode = s.pick(s.state.networks.values()), s.random.choice(["", "static", "slaac", "dhcpv6-stateful"])
    return s.changed(found, dhcp=s.random.random() < 0.5, ipv6_mode=mode) if found is not None else []


def _reopen(s: Story) -> list[Edit]:
    """What a network outside says of IPv6."""
    prefixes = s.random.choice([(), ("fd00::/64",), ("fd00::/12",)])
    six = s.random.choice([("", ""), ("2001:db8:1::/64", "fe80::1"), ("2001:db8:1::/64", "2001:db8:1::1")])
    return s.changed(
        s.pick(s.state.externals.values()), prefixes=prefixes if six[0] else (), subnet6=six[0], gateway6=six[1]
    )


def _remtu(s: Story) -> list[Edit]:
    """A network inside or outside becomes wider or narrower, and nothing else of it changes."""
    found = s.pick([*s.state.networks.values(), *s.state.externals.values()])
    widths = (1300, 1500) if isinstance(found, External) else (1400, 1450)
    return s.changed(found, mtu=s.random.choice(widths))


def _retag(s: Story) -> list[Edit]:
    one, two = s.pick(s.state.networks.values()), s.pick(s.state.networks.values())
    if one is None or two is None:
        return []
    if one == two:
        return s.changed(one, vni=20_000 + s.fresh(), mtu=s.random.choice([1400, 1450]))
    return s.changed(one, tag=two.tag, vni=two.vni) + s.changed(two, tag=one.tag, vni=one.vni)


def _port(s: Story) -> list[Edit]:
    net = s.pick(s.state.networks.values())
    if net is None:
        return []
    n = s.fresh()
    made = [Edit(None, port(n, 0, network=net.id))]
    at = s.member()
    return [*made, Edit(None, Binding(f"p{n}", at.number, ACTIVE))] if at and s.random.random() < 0.7 else made


def _readdress(s: Story) -> list[Edit]:
    n = s.fresh()
    fields: dict[str, Any] = {"mac": 0x06_0000_000000 + n, "addresses": (f"10.2.{n >> 8}.{n & 255}", f"fd00::{n:x}")}
    name = s.random.choice([*fields, "lport"])
    return s.changed(s.pick(s.state.ports.values()), **{name: fields.get(name, n)})


def _unport(s: Story) -> list[Edit]:
    found = s.pick(s.state.ports.values())
    return _without(s, found) if found else []


def _without(s: Story, found: Port) -> list[Edit]:
    named = [s.state.floatings[key] for key in s.state.floatings_of.get(found.id, ())]
    freed = [Edit(f, msgspec.structs.replace(f, port="", fixed="", router="")) for f in named]
    learnt = s.state.learnt.get(found.network, Map())
    freed += [Edit(learnt[address], None) for address in s.state.learnt_of.get(found.id, Map())]
    return [Edit(found, None), *(Edit(b, None) for b in s.state.bindings.get(found.id, ())), *freed]


def _unnetwork(s: Story) -> list[Edit]:
    found = s.pick(s.state.networks.values())
    if found is None:
        return []
    ports = [s.state.ports[p] for p in sorted(s.state.ports_of.get(found.id, ()))]
    legs = [Edit(x, None) for inner in s.state.legs.values() for x in inner.values() if x.network == found.id]
    return [Edit(found, None), *(e for p in ports for e in _without(s, p)), *legs]


def _external(s: Story) -> list[Edit]:
    n = s.fresh()
    return [Edit(None, external(n, vlan=n % 4094, mtu=s.random.choice([1300, 1500])))]


def _router(s: Story) -> list[Edit]:
    n, found = s.fresh(), s.pick(s.state.externals.values())
    addresses = (f"203.0.113.{n % 250}", f"2001:db8::{n:x}")[: s.random.choice([1, 2])]
    outside = {"external": found.id, "addresses": addresses} if found else {}
    return [Edit(None, router(n, **outside))]


def _reroute(s: Story) -> list[Edit]:
    found = s.pick(s.state.routers.values())
    via = s.pick(a for p in s.state.ports.values() for a in p.addresses)
    addresses = tuple(f"203.0.113.{s.fresh() % 250}" for _ in range(s.random.randint(0, 3)))
    addresses += tuple(f"2001:db8::{s.fresh():x}" for _ in range(s.random.randint(0, 1)))
    way = "fd09::/48" if via and ":" in via else "10.9.0.0/16"
    fields = {"addresses": addresses, "snat": False, "routes": (f"{way} via {via}",) if via else ()}
    name = s.random.choice(list(fields))
    return s.changed(found, **{name: fields[name]})


def _unrouter(s: Story) -> list[Edit]:
    found = s.pick(s.state.routers.values())
    if found is None:
        return []
    legs = [Edit(x, None) for x in s.state.legs.get(found.id, Map()).values()]
    used = [f for f in s.state.floatings.values() if f.router == found.id]
    return [Edit(found, None), *legs, *(Edit(f, None) for f in used), *parts.resign(s.state, found.id)]


def _some_targets(s: Story) -> tuple[str, ...]:
    return s.random.choice([(), ("64512:1",), ("64512:2",), ("64512:1", "64512:2")])


def _vpn(s: Story) -> list[Edit]:
    return [Edit(None, vpn(s.fresh(), imports=_some_targets(s), exports=_some_targets(s)))]


def _target(s: Story) -> list[Edit]:
    return s.changed(s.pick(s.state.vpns.values()), **{s.random.choice(["imports", "exports"]): _some_targets(s)})


def _associate(s: Story) -> list[Edit]:
    found = s.pick(s.state.vpns.values())
    name = found.id if found is not None and s.random.random() < 0.8 else ""
    return s.changed(s.pick(s.state.routers.values()), vpn=name)


def _unvpn(s: Story) -> list[Edit]:
    found = s.pick(s.state.vpns.values())
    if found is None:
        return []
    legs = [Edit(x, None) for x in s.state.places(found.id)]
    freed = [s.changed(s.state.routers[r], vpn="") for r in s.state.vpn_routers.get(found.id, ())]
    return [Edit(found, None), *legs, *(edit for edits in freed for edit in edits)]


def _leg(s: Story) -> list[Edit]:
    found = s.pick([*s.state.routers.values(), *s.state.vpns.values()])
    net = s.pick(s.state.networks.values())
    if found is None or net is None:
        return []
    held = s.pick(x for x in s.state.legs.get(found.id, Map()).values() if x.network == net.id)
    if held is not None:
        return [Edit(held, None)]
    used = {x.subnet for x in s.state.legs.get(found.id, Map()).values()}
    free = [
        x
        for x in (("10.1.0.0/16", "10.1.255."), ("10.2.0.0/16", "10.2.255."), ("fd00::/64", "fd00::ff:"))
        if x[0] not in used
    ]
    if not free:
        return []
    subnet, start = s.random.choice(free)
    place = {"address": f"{start}{found.tag % 250 + 1}", "subnet": subnet}
    return [Edit(None, leg(found.tag, 0, router=found.id, network=net.id, **place))]


def _float(s: Story) -> list[Edit]:
    n = s.fresh()
    held = s.pick(s.state.floatings.values()) if s.random.random() < 0.4 else None
    if held is not None:
        return [Edit(held, None)]
    found = s.pick(r for r in s.state.routers.values() if r.external)
    at = s.pick(p for p in s.state.ports.values() if p.addresses and not s.state.floatings_of.get(p.id))
    if found is None or at is None:
        return []
    return [Edit(None, Floating(found.external, f"203.0.200.{n}", n, found.id, at.id, at.addresses[0]))]


def _designate(s: Story) -> list[Edit]:
    found, one, two = s.pick(s.state.routers.values()), s.member(), s.member()
    if found is None or one is None or two is None:
        return []
    return parts.designate(s.state, found.id, one.number, two.number if one != two else 0)


def _move(s: Story) -> list[Edit]:
    found, to = s.pick(d for d in s.state.designations.values() if d.service == NAT), s.member()
    held = s.state.moves.get(found.object) if found else None
    if held is not None:
        return (
            [Edit(held, None)] if s.random.random() < 0.3 else s.changed(held, phase=s.random.choice(list(MovePhase)))
        )
    if found is None or to is None or to.number == found.compute:
        return []
    return [Edit(None, Move(found.object, found.compute, to.number, s.random.choice(list(MovePhase))))]


def _resign(s: Story) -> list[Edit]:
    found = s.pick(d for d in s.state.designations.values() if d.service == NAT)
    return parts.resign(s.state, found.object) if found else []


def _serve(s: Story) -> list[Edit]:
    """Somebody is designated for a subnet, or nobody any more."""
    place = s.pick(x for inner in s.state.legs.values() for x in inner.values())
    one, two = s.member(), s.member()
    held = s.pick(d for d in s.state.designations.values() if d.service != NAT)
    if held is not None and s.random.random() < 0.3:
        return [Edit(held, None)]
    if place is None or one is None or two is None:
        return []
    name = subnet_name(place.network, place.subnet)
    made = Designation(SUBNET, name, one.number, two.number if one != two else 0)
    return [Edit(s.state.designations.get((SUBNET, name)), made)]


def _learn(s: Story) -> list[Edit]:
    found = s.pick(s.state.ports.values())
    if found is None:
        return []
    others = [a for a in s.state.claimed.get(found.network, Map()) if a not in found.addresses]
    address = s.random.choice(["10.1.200.", "10.2.200.", "fd00::200:"]) + str(s.random.randint(1, 5))
    if others and s.random.random() < 0.3:
        address = s.pick(others) or address  # a port's that is not plugged, maybe
    held = s.state.learnt.get(found.network, Map()).get(address)
    mac = s.random.choice([found.mac, 0x0A_0000_000000 + int(found.id[1:])])
    if held is not None and s.random.random() < 0.4:
        return [Edit(held, None)]
    made = Learnt(found.network, address, mac, found.id)
    return [Edit(held, made)] if held != made else []


def _neighbour(s: Story) -> list[Edit]:
    found = s.pick(s.state.externals.values())
    if found is None:
        return []
    gateway = s.random.choice([found.gateway, found.gateway6])
    held = s.state.neighbours.get((found.id, gateway))
    return [Edit(held, Neighbour(found.id, gateway, s.fresh()))]


def _bind(s: Story) -> list[Edit]:
    found, at = s.pick(s.state.ports.values()), s.member()
    if found is None or at is None or s.state.binding(found.id, at.number):
        return []
    phases = [PENDING, LEAVING] if s.state.active(found.id) else [ACTIVE, LEAVING]
    return [Edit(None, Binding(found.id, at.number, s.random.choice(phases), s.state.revision))]


def _unbind(s: Story) -> list[Edit]:
    found = s.pick(b for bindings in s.state.bindings.values() for b in bindings)
    return [Edit(found, None)] if found else []


def _flip(s: Story) -> list[Edit]:
    found = s.pick(p for p, bindings in s.state.bindings.items() if len(bindings) > 1)
    if found is None:
        return []
    active = s.state.active(found)
    other = s.pick(b for b in s.state.bindings[found] if b != active)
    edits = s.changed(active, phase=LEAVING)
    return edits + s.changed(other, phase=s.random.choice([ACTIVE, ACTIVE, PENDING]) if active else ACTIVE)


def _relate(s: Story) -> list[Edit]:
    one, two = s.member(), s.member()
    if one is None or two is None or one == two:
        return []
    held = s.state.relations.get((one.number, two.number))
    return [Edit(held, None) if held else Edit(None, Relation(one.number, two.number))]


def _record(s: Story) -> list[Edit]:
    n = s.fresh()
    held = s.state.cursors.get("lport")
    made = Operation(f"o{n}", "end", (n,), "running")
    gone = [Edit(r, None) for r in s.state.retired.values()] or [Edit(None, Retired(60_000 + n, 4_000 + n, f"n{n}", n))]
    return [
        Edit(held, Cursor("lport", n)),
        Edit(None, made),
        *gone,
        *(Edit(o, None) for o in s.state.operations.values()),
    ]


#: How often each kind of change is made: clouds must grow, or nothing is left to go wrong.
def _group(s: Story) -> list[Edit]:
    n = s.fresh()
    return [Edit(None, SecurityGroup(f"g{n}", n))]


def _ungroup(s: Story) -> list[Edit]:
    found = s.pick(s.state.security_groups.values())
    if found is None:
        return []
    rules = [x for inner in s.state.rules.values() for x in inner.values() if found.id in (x.group, x.remote)]
    inside = [s.state.ports[p] for p in s.state.members_of.get(found.id, ())]
    out = [Edit(p, msgspec.structs.replace(p, groups=tuple(g for g in p.groups if g != found.id))) for p in inside]
    return [*(Edit(rule, None) for rule in rules), *out, Edit(found, None)]


def _rule(s: Story) -> list[Edit]:
    own, far = s.pick(s.state.security_groups), s.pick(["", "", *s.state.security_groups])
    if own is None or far is None:
        return []
    family = s.random.choice([4, 4, 6])
    prefix = "" if far else s.random.choice(["", "10.0.0.0/8" if family == 4 else "fd00::/16"])
    protocol, first, last = s.random.choice(
        [(-1, -1, -1), (6, 80, 80), (6, 81, 95), (17, -1, -1), (132, 5, 6), (1, 8, 0)]
    )
    if protocol == 1 and family == 6:
        protocol = 58
    return [
        Edit(
            None,
            SecurityRule(f"u{s.fresh()}", own, s.random.random() < 0.5, family, protocol, first, last, prefix, far),
        )
    ]


def _unrule(s: Story) -> list[Edit]:
    found = s.pick(x for inner in s.state.rules.values() for x in inner.values())
    return [Edit(found, None)] if found is not None else []


def _secure(s: Story) -> list[Edit]:
    found = s.pick(s.state.ports.values())
    groups = tuple(sorted(s.random.sample(sorted(s.state.security_groups), min(2, len(s.state.security_groups)))))
    secured = s.random.random() < 0.7
    pairs = s.random.choice([(), ("10.7.0.0/24 06:00:00:00:00:07",), ("fd07::7/128 06:00:00:00:00:07",)])
    return s.changed(found, secured=secured, groups=groups if secured else (), pairs=pairs)


_CHANGES: dict[Callable[[Story], list[Edit]], int] = {
    _join: 2,
    _member: 2,
    _tep: 2,
    _rename: 2,
    _mark: 2,
    _remove: 2,
    _replace: 1,
    _forget: 1,
    _network: 1,
    _retag: 3,
    _remtu: 3,
    _redhcp: 3,
    _reopen: 2,
    _port: 8,
    _readdress: 3,
    _unport: 2,
    _unnetwork: 1,
    _bind: 14,
    _unbind: 4,
    _flip: 6,
    _relate: 3,
    _record: 1,
    _map: 2,
    _external: 1,
    _router: 2,
    _reroute: 2,
    _unrouter: 1,
    _leg: 5,
    _vpn: 2,
    _target: 2,
    _associate: 3,
    _unvpn: 1,
    _float: 4,
    _designate: 4,
    _move: 4,
    _resign: 1,
    _neighbour: 2,
    _serve: 4,
    _learn: 5,
    _group: 3,
    _ungroup: 1,
    _rule: 5,
    _unrule: 2,
    _secure: 6,
}


def random_view(random: Random, found: State, number: int, before: View) -> View:
    """What a compute shows, more or less of it: ports and tunnels come, go, and change their numbers."""
    whole = view(found, number)
    if random.random() < 0.5:
        return whole
    keep = {name: i for name, i in sorted({**before.ports, **whole.ports}.items()) if random.random() < 0.7}
    numbers = random.sample(range(1, 60), len(keep))
    if random.random() < 0.5:
        keep = {name: msgspec.structs.replace(i, ofport=n) for (name, i), n in zip(keep.items(), numbers, strict=True)}
    if random.random() < 0.2:
        keep = {name: msgspec.structs.replace(i, ofport=0) for name, i in keep.items()}
    tunnels = {name: i for name, i in sorted({**before.tunnels, **whole.tunnels}.items()) if random.random() < 0.8}
    providers = whole.providers if random.random() < 0.7 else Map()
    if random.random() < 0.5:
        keep[ledger.AGENT_IFACE_ID] = Interface("agent", random.choice((0, 61, 62)), ledger.AGENT_IFACE_ID)
    return View(random.random() < 0.9, Map(keep), Map(tunnels), providers=providers)
