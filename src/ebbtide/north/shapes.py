"""Facts as the own API shows them: pure functions from State to JSON values. Golden files hold these shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from ebbtide.decide import proofs, security
from ebbtide.decide.scalein import carried
from ebbtide.model.addresses import split_pair
from ebbtide.model.facts import (
    Compute,
    External,
    Floating,
    Lease,
    Membership,
    Move,
    Network,
    Operation,
    Port,
    Relation,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
    Vpn,
    format_mac,
)
from ebbtide.model.state import NAT, SUBNET, State, subnet_name
from ebbtide.runtime.auditor import Report


def name_of(state: State, number: int) -> str:
    """A compute's name, member or removed."""
    compute = state.computes.get(number) or state.removed.get(number)
    return compute.name if compute else f"#{number}"


def network(state: State, fact: Network) -> dict[str, Any]:
    """A network, with the computes it is present on."""
    return {
        "id": fact.id,
        "vni": fact.vni,
        "tag": fact.tag,
        "mtu": fact.mtu,
        "subnets": list(fact.subnets),
        "dhcp": fact.dhcp,
        "dns": fact.dns.split(),
        "host-routes": list(fact.routes),
        "ipv6-mode": fact.ipv6_mode or "none",
        "ports": len(state.ports_of.get(fact.id, ())),
        "computes": sorted(name_of(state, n) for n in state.footprint(fact.id)),
    }


def port(state: State, fact: Port) -> dict[str, Any]:
    """A port, with its bindings: none while it is plugged nowhere."""
    return {
        "id": fact.id,
        "network": fact.network,
        "mac": format_mac(fact.mac),
        "addresses": list(fact.addresses),
        "lport": fact.lport,
        "secured": fact.secured,
        "security-groups": list(fact.groups),
        "address-pairs": [{"prefix": prefix, "mac": format_mac(mac)} for prefix, mac in map(split_pair, fact.pairs)],
        "device": fact.device,
        "project": fact.project,
        "bindings": [
            {"compute": name_of(state, b.compute), "phase": str(b.phase), "since": b.since}
            for b in state.bindings.get(fact.id, ())
        ],
    }


def security_group(state: State, fact: SecurityGroup) -> dict[str, Any]:
    """A security group: its rules, the ports in it, the groups whose rules name it, and the computes that hold its rules."""
    return {
        "id": fact.id,
        "tag": fact.tag,
        "rules": [security_rule(rule) for rule in state.rules_of(fact.id)],
        "ports": sorted(state.members_of.get(fact.id, ())),
        "named-by": sorted(state.namers.get(fact.id, ())),
        "computes": sorted(name_of(state, n) for n in state.guards(fact.id)),
    }


def security_rule(rule: SecurityRule) -> dict[str, Any]:
    """A rule, as it was asked for, and in words. "icmp-type" and "icmp-code": null is any."""
    icmp = rule.protocol in (1, 58)
    ports = "" if icmp or rule.first < 0 else f"{rule.first}" + (f"-{rule.last}" if rule.last != rule.first else "")
    return {
        "id": rule.id,
        "direction": "in" if rule.inbound else "out",
        "family": f"ipv{rule.family}",
        "protocol": security.protocol_name(rule.protocol),
        "ports": ports,
        "icmp-type": rule.first if icmp and rule.first >= 0 else None,
        "icmp-code": rule.last if icmp and rule.last >= 0 else None,
        "prefix": rule.prefix,
        "remote-group": rule.remote,
        "words": security.said(rule),
    }


def relation(state: State, fact: Relation) -> dict[str, Any]:
    """A gateway relation."""
    return {"gateway": name_of(state, fact.gateway), "peer": name_of(state, fact.peer)}


def externals(state: State, chosen: Iterable[External]) -> list[dict[str, Any]]:
    """Networks outside: the MAC of each one's next hop ("": not resolved), the computes that have it, its routers."""
    routers: dict[str, list[str]] = {}
    for found in state.routers.values():
        routers.setdefault(found.external, []).append(found.id)
    floating_ips = Counter(name for name, _ in state.floatings)
    return [
        {
            "id": fact.id,
            "physical": fact.physical,
            "vlan": fact.vlan,
            "subnet": fact.subnet,
            "gateway": fact.gateway,
            "gateway-mac": next_hop_mac(state, fact.id, fact.gateway),
            "subnet6": fact.subnet6,
            "gateway6": fact.gateway6,
            "prefixes": list(fact.prefixes),
            "gateway6-mac": next_hop_mac(state, fact.id, fact.gateway6),
            "mtu": fact.mtu,
            "tag": fact.tag,
            "computes": sorted(name_of(state, n) for n in state.wired(fact.id)),
            "routers": sorted(routers.get(fact.id, ())),
            "floating-ips": floating_ips[fact.id],
        }
        for fact in chosen
    ]


def external(state: State, fact: External) -> dict[str, Any]:
    """One of them."""
    return externals(state, [fact])[0]


def next_hop_mac(state: State, external: str, gateway: str) -> str:
    """The MAC of a network's next hop, as it last answered; "" while it has not."""
    known = state.neighbours.get((external, gateway)) if gateway else None
    return format_mac(known.mac) if known is not None else ""


def routers(state: State, chosen: Iterable[Router]) -> list[dict[str, Any]]:
    """Routers: what each was told to be, who serves its NAT, what is leased to whom, and a move if there is one."""
    behind: dict[str, list[str]] = {}
    for found in state.floatings.values():
        behind.setdefault(found.router, []).append(found.address)
    return [_router(state, fact, sorted(behind.get(fact.id, ()))) for fact in chosen]


def router(state: State, fact: Router) -> dict[str, Any]:
    """One of them."""
    return routers(state, [fact])[0]


def _router(state: State, fact: Router, floating_ips: list[str]) -> dict[str, Any]:
    outside, served = state.externals.get(fact.external), state.designations.get((NAT, fact.id))
    move = state.moves.get(fact.id)
    return {
        "id": fact.id,
        "tag": fact.tag,
        "mac": format_mac(fact.mac),
        "external": fact.external,
        "addresses": list(fact.addresses),
        "snat": fact.snat,
        "routes": list(fact.routes),
        "record": fact.record,
        "vpn": fact.vpn,
        "designated": name_of(state, served.compute) if served else "",
        "standby": name_of(state, served.standby) if served and served.standby else "",
        "since": served.since if served else 0,
        "next-hop": outside.gateway if outside else "",
        "next-hop-mac": next_hop_mac(state, outside.id, outside.gateway) if outside else "",
        "next-hop6": outside.gateway6 if outside else "",
        "next-hop6-mac": next_hop_mac(state, outside.id, outside.gateway6) if outside else "",
        "untranslated": state.untranslated(fact.id),
        "floating-ips": floating_ips,
        "networks": [place(leg) for _, leg in sorted(state.legs.get(fact.id, {}).items())],
        "leases": [lease(state, x) for _, x in sorted(state.leases.get(fact.id, {}).items())],
        "move": moving(state, move) if move is not None else None,
    }


def unserved(state: State) -> int:
    """How many routers have something that needs their network outside, and nobody who serves their NAT.

    One without a place in a network, or whose networks are present on no compute while no compute is a gateway, needs nobody: the
    election does not ask for a compute then, or has none to choose from (`designation.services`).
    """
    gateways = any(c.gateway and c.membership is Membership.MEMBER for c in state.computes.values())

    def needs(fact: Router) -> bool:
        networks = {network for network, _ in state.legs.get(fact.id, ())}
        return any(gateways or state.footprint(network) for network in networks)

    waiting = (r for r in state.routers.values() if r.external and (NAT, r.id) not in state.designations)
    return sum(map(needs, waiting))


def vpn(state: State, fact: Vpn) -> dict[str, Any]:
    """A VPN: what is associated with it, what it imports, and on which computes it is present.

    `shadowed`: what it would have a route to, did that not overlap with something that comes before it.
    """
    routers = sorted(state.vpn_routers.get(fact.id, ()))
    vrfs = [fact.id, *routers]
    shadowed = {pair: None for vrf in vrfs for pair in state.shadowed(vrf, fact.id)}
    imported = {leg: None for vrf in vrfs for leg in state.seen.get(vrf, ()) if leg.router not in vrfs}
    return {
        "id": fact.id,
        "tag": fact.tag,
        "rd": fact.rd,
        "imports": list(fact.imports),
        "exports": list(fact.exports),
        "networks": [place(leg) for leg in state.places(fact.id)],
        "routers": routers,
        "imported": [{"vrf": leg.router, **place(leg)} for leg in imported],
        "shadowed": [{"vpn": owner, "vrf": leg.router, **place(leg)} for owner, leg in shadowed],
        "computes": sorted(name_of(state, n) for n in {n for vrf in vrfs for n in state.present(vrf)}),
    }


def subnets_unserved(state: State) -> int:
    """How many routed subnets are present somewhere, and have nobody designated for their unknown addresses."""
    return sum(
        (SUBNET, subnet_name(network, subnet)) not in state.designations
        for network in state.routers_of
        if state.footprint(network)
        for subnet in state.subnets(network)
    )


def place(fact: RouterPort) -> dict[str, Any]:
    """A router's or a VPN's place in a network."""
    return {"network": fact.network, "address": fact.address, "subnet": fact.subnet, "mac": format_mac(fact.mac)}


def lease(state: State, fact: Lease) -> dict[str, Any]:
    """A range of ports of a router's external addresses."""
    return {
        "first": fact.first,
        "last": fact.last,
        "compute": name_of(state, fact.compute),
        "opening": fact.opening,
        "careful": fact.careful,
        "since": fact.since,
    }


def moving(state: State, fact: Move) -> dict[str, Any]:
    """How far a move of a router's NAT has come. `deadline` is in seconds since the epoch, 0: none."""
    return {
        "old": name_of(state, fact.old),
        "new": name_of(state, fact.new),
        "phase": str(fact.phase),
        "reason": fact.reason,
        "unknown": fact.unknown,
        "deadline": fact.deadline,
        "began": fact.began,
        "since": fact.since,
    }


def floating(state: State, fact: Floating) -> dict[str, Any]:
    """A floating IP, with the computes that exchange its address."""
    return {
        "external": fact.external,
        "address": fact.address,
        "mac": format_mac(fact.mac),
        "router": fact.router,
        "port": fact.port,
        "fixed": fact.fixed,
        "computes": sorted(name_of(state, n) for n in state.hosts(fact)) if fact.port else [],
    }


def operation(state: State, fact: Operation) -> dict[str, Any]:
    """Long work, in short."""
    items = state.items_of(fact.id)
    # What was readmitted or forgotten meanwhile is known by its item alone.
    names = {i.compute: i.object for i in items if i.kind == "compute"}
    proof = state.proofs.get(fact.id)
    if proof is not None and not all(n in names or n in state.removed for n in fact.computes):
        names |= {x.number: x.name for x in proofs.read(proof.body).removed}
    return {
        "id": fact.id,
        "verb": fact.verb,
        "state": fact.state,
        "reason": fact.reason,
        "computes": [names.get(n) or name_of(state, n) for n in fact.computes],
        "items-done": sum(i.state in ("done", "skipped") for i in items),
        "items-all": len(items),
        "vms": fact.vms,
        "mover-options": list(fact.mover_options),
        "parent": fact.parent,
        "revision": fact.revision,
        "started": fact.started,
        "began": fact.began,
        "over": fact.over,
    }


def operations(state: State) -> list[dict[str, Any]]:
    """All operations, the newest first."""
    known = sorted(state.operations.values(), key=lambda o: (-o.revision, o.id))
    return [operation(state, o) for o in known]


def remains(state: State, compute: Compute) -> list[str]:
    """What keeps a compute from being ended, in words."""
    found = [f"port {p}" for p in carried(state, compute.number)]
    return found if compute.tombstoned else ["not tombstoned", *found]


def report(found: Report) -> dict[str, Any]:
    """An audit's report."""
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return {"clean": found.clean, **shown}
