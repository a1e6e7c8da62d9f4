"""L3VPN instances: what may be made, changed, deleted and associated, as edits of one transaction, in the manner of `routing.py`.

A network is associated with a VPN by a place in it, as a router has one (`routing.attach`); a router by its own field. Within one VPN no
two subnets overlap; between VPNs they may, and what is imported and overlaps is not seen (`model/horizon.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address

import msgspec

from ebbtide.decide import routing
from ebbtide.decide.ids import Allocator, retire
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.addresses import overlap
from ebbtide.model.facts import Edit, Router, RouterPort, Vpn
from ebbtide.model.state import State

#: Route targets that a VPN may import, and export.
MAX_TARGETS = 100


def distinguisher(text: str, what: str, field: str) -> str:
    """A route distinguisher or a route target, as it is written without superfluous zeros (RFC 4364, section 4.2; RFC 4360, section 4).

    Raises:
        BadInput: it is neither ASN:NUMBER nor ADDRESS:NUMBER, or a number is too large.
    """
    found = re.fullmatch(r"([0-9.]{1,15}):([0-9]{1,10})", text)
    if found is not None:
        left, number = found.group(1), int(found.group(2))
        if left.isdecimal() and int(left) <= 0xFFFF and number <= 0xFFFF_FFFF:
            return f"{int(left)}:{number}"
        if left.isdecimal() and int(left) <= 0xFFFF_FFFF and number <= 0xFFFF:
            return f"{int(left)}:{number}"
        try:
            if "." in left and number <= 0xFFFF:
                return f"{IPv4Address(left)}:{number}"
        except ValueError:
            pass
    raise BadInput(
        f"{what} {text[:40]!r} is not ASN:NUMBER or ADDRESS:NUMBER, as in 100:1: after an ASN of 16 bits a number of 32, after one of "
        "32 bits or an IPv4 address a number of 16",
        field,
    )


def vpn(state: State, name: str) -> Vpn:
    """The VPN of that name.

    Raises:
        NotFound: there is none.
    """
    found = state.vpns.get(name)
    if found is None:
        raise NotFound(f"there is no VPN {name}: `ebbtide vpn add {name} --rd ASN:NUMBER` makes one")
    return found


def _targets(wishes: Sequence[str], field: str) -> tuple[str, ...]:
    if len(wishes) > MAX_TARGETS:
        raise BadInput(f"{len(wishes)} targets to {field}: a VPN may have {MAX_TARGETS}", field)
    return tuple(sorted({distinguisher(text, "route target", field) for text in wishes}))


def add(
    state: State, name: str, rd: str, imports: Sequence[str] = (), exports: Sequence[str] = ()
) -> tuple[list[Edit], Vpn]:
    """Make a VPN; the same again is "already so".

    Raises:
        BadInput: a value is not valid.
        Refused: it exists and is different, or its name or its route distinguisher is taken.
    """
    routing.check_name("VPN", name)
    if name in state.routers:
        raise Refused(f"{name} is the name of a router: routers and VPNs share their names, choose another")
    rd = distinguisher(rd, "route distinguisher", "rd")
    wanted = _targets(imports, "imports"), _targets(exports, "exports")
    known = state.vpns.get(name)
    if known is not None:
        if (known.rd, known.imports, known.exports) == (rd, *wanted):
            return [], known
        raise Refused(f"VPN {name} exists already with other settings: change it with `ebbtide vpn set {name}`")
    holder = state.by_rd.get(rd)
    if holder is not None:
        raise Refused(f"route distinguisher {rd} is that of VPN {holder}: choose another")
    ids = Allocator(state)
    made = Vpn(name, ids.take("router"), rd, *wanted)
    return [Edit(None, made), *ids.edits()], made


def change(
    state: State, name: str, imports: Sequence[str] | None = None, exports: Sequence[str] | None = None
) -> tuple[list[Edit], Vpn]:
    """Change what is given of a VPN's targets. Its route distinguisher stays: routes are known by it."""
    known = vpn(state, name)
    made = msgspec.structs.replace(
        known,
        imports=known.imports if imports is None else _targets(imports, "imports"),
        exports=known.exports if exports is None else _targets(exports, "exports"),
    )
    return ([Edit(known, made)] if made != known else []), made


def delete(state: State, name: str) -> list[Edit]:
    """Delete a VPN with which nothing is associated."""
    known = vpn(state, name)
    left = [f"network {network}" for network, _ in state.legs.get(name, {})]
    left += [f"router {router}" for router in state.vpn_routers.get(name, ())]
    if left:
        way = "--network NETWORK, or --router ROUTER"
        raise Refused(f"VPN {name} has {routing.some(left)} associated: `ebbtide vpn dissociate {name} {way}` first")
    return [Edit(known, None), retire(known)]


def clear(state: State, name: str) -> list[Edit]:
    """Delete a VPN with what is associated with it."""
    known = vpn(state, name)
    edits = [Edit(leg, None) for leg in state.places(name)]
    routers = (state.routers[router] for router in state.vpn_routers.get(name, ()))
    edits += [Edit(router, msgspec.structs.replace(router, vpn="")) for router in routers]
    return [*edits, Edit(known, None), retire(known)]


def associate_network(
    state: State, name: str, network: str, address: str = "", mac: str = ""
) -> tuple[list[Edit], list[RouterPort]]:
    """Give a VPN a place in each subnet of a network, at the first address there; or in one, at that address.

    A network that it is in already, in whatever subnets, it is in: one more place is asked for by its address.
    """
    vpn(state, name)
    net = state.networks.get(network)
    if net is None:
        raise NotFound(f"there is no network {network}: `ebbtide network add {network}` makes one")
    if not net.subnets:
        raise Refused(f"network {network} has no subnet: a VPN has nothing to route there")
    routers = [router for router in sorted(state.routers_of.get(network, ())) if router in state.routers]
    if routers:
        raise Refused(
            f"network {network} has router {routing.some(routers)}: associate that with VPN {name} (`ebbtide vpn associate {name} "
            f"--router {routers[0]}`)"
        )
    held = {leg.subnet: leg.address for leg in state.places(name) if leg.network == network}
    wanted = [address] if address else list(held.values()) or [routing.first_host(subnet) for subnet in net.subnets]
    edits, made = [], []
    for text in wanted:
        found, leg = routing.attach(state, name, network, text, mac)
        edits += found
        made.append(leg)
    return edits, made


def dissociate_network(state: State, name: str, network: str) -> list[Edit]:
    """Take a VPN's places in a network away."""
    vpn(state, name)
    return routing.detach(state, name, network)


def associate_router(state: State, name: str, router: str) -> tuple[list[Edit], Router]:
    """Make a router one of a VPN's. It keeps its addresses, its default route and its NAT.

    Raises:
        NotFound: there is no such VPN or router.
        Refused: it is another VPN's, or one of its subnets overlaps with what the VPN has.
    """
    known, found = vpn(state, name), routing.router(state, router)
    if found.vpn == name:
        return [], found
    if found.vpn:
        raise Refused(f"router {router} is associated with VPN {found.vpn}: dissociate it there first")
    fellows = [leg for other in (name, *state.vpn_routers.get(name, ())) for leg in state.places(other)]
    for own in state.places(router):
        for leg in fellows:
            if overlap(own.subnet, leg.subnet):
                raise Refused(
                    f"subnet {own.subnet} of router {router} meets {leg.subnet} of {routing.named(state, leg.router)} "
                    f"(network {leg.network}) in VPN {known.id}: two subnets of a VPN may not overlap"
                )
    made = msgspec.structs.replace(found, vpn=name)
    return [Edit(found, made)], made


def dissociate_router(state: State, name: str, router: str) -> tuple[list[Edit], Router]:
    """Take a router out of a VPN."""
    vpn(state, name)
    found = routing.router(state, router)
    if found.vpn != name:
        raise NotFound(f"router {router} is not associated with VPN {name}")
    made = msgspec.structs.replace(found, vpn="")
    return [Edit(found, made)], made
