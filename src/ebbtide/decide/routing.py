"""Routers, networks outside and floating IPs: what may be made, changed and deleted, as edits of one transaction.

Every function is State and wishes in, edits out; what is not possible is an error that says which, why and what to do next, and then there
are no edits. Doing a thing twice is "already so". While a router's NAT moves, what the move rests on is not changed.

Longer than 400 lines: the checks of each verb are those that make the flows unambiguous, and they refer to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network, ip_network
from typing import Any

import msgspec

from ebbtide import errors
from ebbtide.compile import ledger
from ebbtide.decide import hidden, parts
from ebbtide.decide.ids import Allocator, retire
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.addresses import ends, holds, ipv4, link_local_text, number, overlap, parse_ip, split_route, within
from ebbtide.model.facts import Edit, External, Floating, Port, Router, RouterPort, Vpn, format_mac, parse_mac
from ebbtide.model.state import State, apply

MAX_NAME = 255
#: Extra routes of one router, and its external addresses: each is a flow on every compute of its reach, or on those that serve its NAT.
MAX_ROUTES, MAX_ADDRESSES = 200, 64
MIN_MTU_IPV6 = 1280
#: IPv6 prefixes that a network outside sends here.
MAX_PREFIXES = 200


def check_name(kind: str, name: str) -> None:
    """A name that can stand in a line, a path and a key.

    Raises:
        BadInput: it cannot.
    """
    if not name or len(name) > MAX_NAME or any(c.isspace() or not c.isprintable() for c in name):
        raise BadInput(f"{name[:40]!r} is no {kind} name: 1 to {MAX_NAME} printable characters without spaces", "id")


def check_mtu(mtu: int) -> None:
    """An MTU that Ethernet carries (bytes), and IPv4 asks for at least (RFC 791).

    Raises:
        BadInput: it is another.
    """
    if not 576 <= mtu <= 9216:
        raise BadInput(f"MTU {mtu} is not between 576 and 9216", "mtu")


def check_mtu_for(mtu: int, subnet: str, what: str) -> None:
    """IPv6 asks for an MTU of 1280 bytes at least (RFC 8200, section 5).

    Raises:
        Refused: it is less.
    """
    if ":" in subnet and mtu < MIN_MTU_IPV6:
        raise Refused(
            f"{what} has an MTU of {mtu}: IPv6 needs {MIN_MTU_IPV6} at least (RFC 8200), make another one with such a one (`--mtu`)"
        )


def _address(text: str, what: str, field: str, version: int = 0) -> str:
    """An address as it is stored; `version`: 4, 6 or 0 (either).

    Raises:
        BadInput: it is none that a host can have there.
    """
    name = f"IPv{version} address" if version else "IP address"
    try:
        found = parse_ip(text)
    except ValueError as error:
        raise BadInput(f"{what} {text[:60]!r} is not an {name}: {error}", field) from None
    if version not in (0, found.version):
        raise BadInput(f"{what} {text[:60]!r} is not an {name}", field)
    if isinstance(found, IPv6Address) and (found.is_link_local or found.is_multicast or found.ipv4_mapped is not None):
        raise BadInput(
            f"{what} {found}: an address of a subnet is wanted, not a link-local, multicast or mapped one", field
        )
    return str(found)


def _subnet(text: str, what: str, field: str, version: int = 0) -> str:
    """A prefix as it is stored; `version`: 4, 6 or 0 (either).

    Raises:
        BadInput: it is none, or has bits set behind its length.
    """
    name = f"IPv{version} subnet" if version else "IP subnet"
    try:
        found = ip_network(text)
    except ValueError as error:
        raise BadInput(f"{what} {text[:60]!r} is not an {name}: {error}", field) from None
    if version not in (0, found.version) or "%" in text:
        raise BadInput(f"{what} {text[:60]!r} is not an {name}", field)
    if isinstance(found, IPv6Network) and (found.is_link_local or found.is_multicast):
        raise BadInput(f"{what} {found} is link-local or multicast, which is not routed", field)
    return str(found)


def host_mac(text: str, field: str = "mac") -> int:
    """The MAC of one host.

    Raises:
        BadInput: it is none.
    """
    try:
        value = parse_mac(text)
    except ValueError as error:
        raise BadInput(str(error), field) from None
    if value >> 40 & 1 or not value:
        raise BadInput(f"{text} is not the MAC address of one host", field)
    return value


def first_host(subnet: str) -> str:
    """The first address of a subnet that a host can have."""
    return str(next(iter(ip_network(subnet).hosts())))


def _host_in(address: str, subnet: str, what: str) -> None:
    if not holds(subnet, address):
        raise Refused(f"{what} {address} is not in {subnet}")
    if number(address) in ends(subnet):
        more = "" if ":" in subnet else " or its broadcast address"
        raise Refused(f"{what} {address} is no host's in {subnet}: it is the subnet's own{more}")


# --- networks outside ---


def add_external(
    state: State,
    name: str,
    physical: str,
    vlan: int,
    subnet: str,
    gateway: str,
    mtu: int,
    subnet6: str | None = None,
    gateway6: str | None = None,
    prefixes: Sequence[str] | None = None,
) -> tuple[list[Edit], External]:
    """Make a network outside. `subnet6`, `gateway6`: the same of IPv6; `prefixes`: what of IPv6 it sends to routers here. Of one that is
    there, what is None is as it is.

    Raises:
        BadInput: a value is not valid.
        Refused: it exists and is different, or its place on that physical network is taken.
    """
    check_name("external network", name)
    check_name("physical network", physical)
    if not 0 <= vlan <= 4094:
        raise BadInput(f"VLAN {vlan} is not between 1 and 4094 (0: untagged)", "vlan")
    check_mtu(mtu)
    subnet = _subnet(subnet, "subnet", "subnet", 4)
    if gateway:
        gateway = _address(gateway, "gateway", "gateway", 4)
        _host_in(gateway, subnet, "gateway")
    known = state.externals.get(name)
    six: dict[str, Any] = {
        "subnet6": subnet6,
        "gateway6": gateway6,
        "prefixes": None if prefixes is None else tuple(prefixes),
    }
    before = External("", 0, "") if known is None else known
    fields = {field: getattr(before, field) if value is None else value for field, value in six.items()}
    wish = _with_ipv6(External(name, 0, physical, vlan, subnet, gateway, mtu, **fields))
    if known is not None:
        if known == msgspec.structs.replace(wish, tag=known.tag):
            return [], known
        raise Refused(
            f"external network {name} exists already with other settings: those of IPv6 `ebbtide external set {name}` changes, for others "
            "delete it first, or choose another name"
        )
    for other in state.externals.values():
        if (other.physical, other.vlan) == (physical, vlan):
            where = f"VLAN {vlan}" if vlan else "the untagged part"
            raise Refused(f"{where} of {physical} is external network {other.id}: choose another VLAN, or use that one")
    ids = Allocator(state)
    made = msgspec.structs.replace(wish, tag=ids.take("network"))
    return [Edit(None, made), *ids.edits()], made


def _with_ipv6(wish: External) -> External:
    """The wish as it is stored, if its IPv6 can be."""
    subnet, gateway = wish.subnet6, wish.gateway6
    if (gateway or wish.prefixes) and not subnet:
        raise BadInput("a gateway or prefixes of IPv6 without an IPv6 subnet: name that too", "subnet6")
    if len(wish.prefixes) > MAX_PREFIXES:
        raise BadInput(f"{len(wish.prefixes)} prefixes: an external network may have {MAX_PREFIXES}", "prefixes")
    if subnet:
        subnet = _subnet(subnet, "subnet", "subnet6", 6)
        check_mtu_for(wish.mtu, subnet, f"external network {wish.id}")
    if gateway:
        gateway = _gateway6(gateway, subnet)
    prefixes = tuple(sorted({_subnet(text, "prefix", "prefixes", 6) for text in wish.prefixes}))
    return msgspec.structs.replace(wish, subnet6=subnet, gateway6=gateway, prefixes=prefixes)


def set_external(
    state: State,
    name: str,
    subnet6: str | None = None,
    gateway6: str | None = None,
    prefixes: Sequence[str] | None = None,
) -> tuple[list[Edit], External]:
    """Change what is given of a network's IPv6, and leave the rest.

    Raises:
        BadInput: a value is not valid.
        NotFound: there is no such network.
        Refused: a router has an address in the subnet that would go, or two routers would have one prefix there.
    """
    known = external(state, name)
    wishes: dict[str, Any] = {
        "subnet6": subnet6,
        "gateway6": gateway6,
        "prefixes": None if prefixes is None else tuple(prefixes),
    }
    fields = {key: value for key, value in wishes.items() if value is not None}
    if subnet6 == "":
        fields = {"gateway6": "", "prefixes": (), **fields}
    made = _with_ipv6(msgspec.structs.replace(known, **fields))
    if made == known:
        return [], known
    users = [r for r in state.routers.values() if r.external == name]
    for user in users:
        for address in user.addresses:
            if ":" in address and not (made.subnet6 and holds(made.subnet6, address)):
                raise Refused(f"router {user.id} has address {address} in {known.subnet6}: take that away first")
    after = apply(state, [Edit(known, made)], state.revision)
    for user in users:
        _alone_outside(after, user.id)
    gone = [Edit(n, None) for n in state.neighbours.values() if n.external == name and n.address == known.gateway6]
    return [Edit(known, made), *(gone if made.gateway6 != known.gateway6 else [])], made


def _alone_outside(after: State, name: str) -> None:
    """The outside sends a prefix to one router.

    Raises:
        Refused: another router of the same external network has what meets one of this one's.
    """
    own = after.untranslated(name)
    others = [r for r in after.routers.values() if own and r.id != name and r.external == after.routers[name].external]
    for other in others:
        for theirs in after.untranslated(other.id):
            meets = next((mine for mine in own if overlap(mine, theirs)), None)
            if meets is not None:
                raise Refused(
                    f"IPv6 prefix {meets} of router {name} meets {theirs} of router {other.id}, and both lead to {other.external}: it can "
                    "send it to one of them"
                )


def _gateway6(text: str, subnet: str) -> str:
    """A next hop for IPv6: in the subnet, or link-local, as many a router outside is known."""
    try:
        found = parse_ip(text)
    except ValueError as error:
        raise BadInput(f"gateway {text[:60]!r} is not an IPv6 address: {error}", "gateway6") from None
    if found.version == 6 and found.is_link_local:
        return str(found)
    address = _address(text, "gateway", "gateway6", 6)
    _host_in(address, subnet, "gateway")
    return address


def external(state: State, name: str) -> External:
    """The network outside of that name.

    Raises:
        NotFound: there is none.
    """
    found = state.externals.get(name)
    if found is None:
        raise NotFound(f"there is no external network {name}: `ebbtide external add {name}` makes one")
    return found


def delete_external(state: State, name: str) -> list[Edit]:
    """Delete a network outside that no router and no floating IP uses."""
    found = external(state, name)
    users = [f"router {r.id}" for r in state.routers.values() if r.external == name]
    users += [f"floating IP {address}" for e, address in state.floatings if e == name]
    if users:
        raise Refused(f"external network {name} is used by {some(users)}; take it from them first")
    near = [Edit(n, None) for n in state.neighbours.values() if n.external == name]
    return [Edit(found, None), *near, retire(found)]


def some(names: Sequence[str]) -> str:
    """The first five of them in order, and how many more there are."""
    return errors.some(sorted(names), 5)


def _taken_outside(state: State, network: External, address: str, but: str = "") -> str:
    """Whose this external address is already, or "". `but`: the router that asks."""
    if address in (network.gateway, network.gateway6):
        return "the next hop"
    for other in state.routers.values():
        if other.external == network.id and address in other.addresses and other.id != but:
            return f"router {other.id}"
    found = state.floatings.get((network.id, address))
    return f"floating IP {found.address}" if found is not None else ""


def _mac_outside(state: State, network: External, mac: int, but: str) -> str:
    """Whose this MAC is already in a network outside, or "". `but`: the floating IP that asks."""
    for other in state.routers.values():
        if other.external == network.id and other.mac == mac:
            return f"router {other.id}"
    for found in state.floatings.values():
        if found.external == network.id and found.mac == mac and found.address != but:
            return f"floating IP {found.address}"
    for compute in state.computes.values():
        if ledger.mac(state.store_id, ledger.MacOf.COMPUTE, compute.number) == mac:
            return f"compute {compute.name}"
    return ""


# --- routers ---


def router(state: State, name: str) -> Router:
    """The router of that name.

    Raises:
        NotFound: there is none.
    """
    found = state.routers.get(name)
    if found is None:
        raise NotFound(f"there is no router {name}: `ebbtide router add {name}` makes one")
    return found


def vrf(state: State, name: str) -> Router | Vpn:
    """The router or VPN of that name.

    Raises:
        NotFound: there is neither.
    """
    found = state.vrf(name)
    if found is None:
        raise NotFound(f"there is no router and no VPN {name}: `ebbtide router add {name}` makes a router")
    return found


def named(state: State, name: str) -> str:
    """What a VRF is, and its name: "router r1", "VPN blue"."""
    return f"{'VPN' if name in state.vpns else 'router'} {name}"


def add_router(
    state: State,
    name: str,
    outside: str = "",
    addresses: Sequence[str] = (),
    snat: bool = True,
    routes: Sequence[str] = (),
    record: bool = True,
) -> tuple[list[Edit], Router]:
    """Make a router; the same again is "already so".

    Raises:
        BadInput: a value is not valid.
        NotFound: there is no such external network.
        Refused: it exists and is different, or an address is taken.
    """
    check_name("router", name)
    if name in state.vpns:
        raise Refused(f"{name} is the name of a VPN: routers and VPNs share their names, choose another")
    known = state.routers.get(name)
    tag, mac, ids = (known.tag, known.mac, None) if known is not None else (0, 0, Allocator(state))
    if ids is not None:
        tag = ids.take("router")
        mac = ledger.mac(state.store_id, ledger.MacOf.ROUTER, tag)
    vpn = known.vpn if known is not None else ""
    made = _checked(state, Router(name, tag, mac, outside, tuple(addresses), snat, tuple(routes), record, vpn))
    if known is not None:
        if known == made:
            return [], known
        raise Refused(f"router {name} exists already with other settings: change it with `ebbtide router set {name}`")
    assert ids is not None
    return [Edit(None, made), *ids.edits()], made


def set_router(
    state: State,
    name: str,
    outside: str | None = None,
    addresses: Sequence[str] | None = None,
    snat: bool | None = None,
    routes: Sequence[str] | None = None,
    record: bool | None = None,
) -> tuple[list[Edit], Router]:
    """Change what is given of a router, and leave the rest."""
    known = router(state, name)
    wishes = {"external": outside, "addresses": addresses, "snat": snat, "routes": routes, "record": record}
    fields = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in wishes.items() if v is not None}
    if outside == "" and addresses is None:
        fields["addresses"] = ()
    made = _checked(state, msgspec.structs.replace(known, **fields))
    if made == known:
        return [], known
    nat = (known.external, known.addresses, known.snat, known.record)
    if nat != (made.external, made.addresses, made.snat, made.record):
        _at_rest(state, name)
    edits = [Edit(known, made)]
    _alone_outside(apply(state, edits, state.revision), name)
    if made.external != known.external:
        used = [f.address for f in state.floatings.values() if f.router == name]
        if used:
            raise Refused(f"floating IP {some(used)} leads to ports behind router {name}: take them away first")
        edits += parts.resign(state, name)
    return edits, made


def _at_rest(state: State, name: str) -> None:
    move = state.moves.get(name)
    if move is not None:
        raise Refused(
            f"the NAT of router {name} is on its way to another compute ({move.phase}): try again when it has arrived "
            f"(`ebbtide explain router {name}`)"
        )


def _checked(state: State, wish: Router) -> Router:
    """The wish as it is stored, if it can be."""
    addresses = tuple(sorted({_address(a, "external address", "addresses") for a in wish.addresses}))
    if len(addresses) > MAX_ADDRESSES:
        raise BadInput(f"{len(addresses)} external addresses: a router may have {MAX_ADDRESSES}", "addresses")
    if addresses and not wish.external:
        raise BadInput(f"router {wish.id} has external addresses and no external network: name it too", "external")
    if wish.external:
        network = external(state, wish.external)
        for address in addresses:
            if ":" in address and not network.subnet6:
                raise Refused(
                    f"external address {address}: external network {network.id} has no IPv6 subnet: give it one (`ebbtide external set "
                    f"{network.id} --subnet6 CIDR`)"
                )
            _host_in(address, network.subnet6 if ":" in address else network.subnet, "external address")
            whose = _taken_outside(state, network, address, but=wish.id)
            if whose:
                raise Refused(f"external address {address} is that of {whose} in {network.id}: choose another")
    return msgspec.structs.replace(wish, addresses=addresses, routes=_routes(state, wish))


def _routes(state: State, wish: Router) -> tuple[str, ...]:
    if len(wish.routes) > MAX_ROUTES:
        raise BadInput(f"{len(wish.routes)} extra routes: a router may have {MAX_ROUTES}", "routes")
    legs = state.legs.get(wish.id, {}).values()
    found: dict[str, str] = {}
    for text in wish.routes:
        way, via = split_route(text)
        if not via:
            raise BadInput(f"route {text!r} is not PREFIX via ADDRESS, as in '10.9.0.0/16 via 10.0.0.9'", "routes")
        way, via = _subnet(way.strip(), "route to", "routes"), _address(via.strip(), "next hop", "routes")
        if way in ("0.0.0.0/0", "::/0"):
            raise BadInput(
                f"the default route is that of the external network; {way} cannot be an extra route", "routes"
            )
        if (":" in way) != (":" in via):
            raise BadInput(f"route to {way}: next hop {via} is of the other family", "routes")
        if found.get(way, via) != via:
            raise Refused(f"route to {way} has two next hops, {found[way]} and {via}: one is possible")
        for leg in legs:
            if way == leg.subnet:
                raise Refused(f"route to {way}: that subnet is connected to router {wish.id} itself")
            if within(way, leg.subnet):
                # A longer prefix, or the same as a port's own /32, would take the addresses of ports there.
                raise Refused(
                    f"route to {way}: it lies within {leg.subnet}, which is connected to router {wish.id} itself: "
                    "choose a prefix outside it"
                )
        if not any(holds(leg.subnet, via) for leg in legs):
            first = "" if wish.id in state.routers else f"make router {wish.id} without routes, "
            raise Refused(
                f"route to {way}: next hop {via} is in no subnet of router {wish.id}: {first}attach the router to the network of the next "
                f"hop first (`ebbtide router attach {wish.id} NETWORK`), then set the route (`ebbtide router set {wish.id} --route ...`)"
            )
        if any(via == leg.address for leg in legs):
            raise Refused(
                f"route to {way}: next hop {via} is router {wish.id}'s own address: name the port's behind which {way} is"
            )
        found[way] = via
    return tuple(sorted(f"{way} via {via}" for way, via in found.items()))


def delete_router(state: State, name: str) -> list[Edit]:
    """Delete a router without places in networks, to which no floating IP leads."""
    found = router(state, name)
    legs = [network for network, _ in state.legs.get(name, {})]
    if legs:
        raise Refused(f"router {name} is still in network {some(legs)}: `ebbtide router detach {name} NETWORK` first")
    used = [f.address for f in state.floatings.values() if f.router == name]
    if used:
        raise Refused(f"floating IP {some(used)} leads to ports behind router {name}: take them away first")
    return [Edit(found, None), *parts.resign(state, name), retire(found)]


def attach(state: State, name: str, network: str, address: str = "", mac: str = "") -> tuple[list[Edit], RouterPort]:
    """Give a router or a VPN a place in a network: its address there, and maybe its MAC.

    Address "": the first of the only subnet, which is the only IPv4 one if there is such a one.

    Raises:
        BadInput: a value is not valid.
        NotFound: there is no such router, VPN or network.
        Refused: the address is taken, or the subnet meets another of the router's, or of its VPN's.
    """
    found, net = vrf(state, name), state.networks.get(network)
    who = named(state, name)
    if net is None:
        raise NotFound(f"there is no network {network}: `ebbtide network add {network}` makes one")
    if not address:
        subnets = [text for text in net.subnets if ":" not in text] or list(net.subnets)
        if len(subnets) != 1:
            family = "IPv4 " if any(":" not in text for text in net.subnets) else ""
            raise BadInput(
                f"network {network} has {len(subnets)} {family}subnets: say which address {who} has there", "address"
            )
        address = first_host(subnets[0])
    address = _address(address, "address", "address")
    subnet = next((text for text in net.subnets if holds(text, address)), "")
    if not subnet:
        raise Refused(
            f"address {address} is in no subnet of network {network}, which has {', '.join(net.subnets) or 'none'}"
        )
    _host_in(address, subnet, "address")
    check_mtu_for(net.mtu, subnet, f"network {network}")
    known = state.legs[name].get((network, address)) if name in state.legs else None
    value = host_mac(mac) if mac else ledger.mac(state.store_id, ledger.MacOf.LEG, found.tag)
    made = RouterPort(name, network, address, subnet, value)
    if known is not None:
        if not mac or known.mac == value:
            return [], known
        raise Refused(f"{who} is in network {network} with MAC {format_mac(known.mac)} already")
    for other, leg in _fellows(state, found):
        if overlap(leg.subnet, subnet):
            there = named(state, other) + ("" if other == name else f", of the same VPN {vpn_of(found)},")
            raise Refused(f"subnet {subnet} meets {leg.subnet}, in which {there} is already (network {leg.network})")
    for way, _ in map(split_route, found.routes if isinstance(found, Router) else ()):
        if within(way, subnet):
            more = "" if way == subnet else f", which lies within {subnet}"
            raise Refused(f"{who} has an extra route to {way}{more}: take it away first")
    vpns = [other for other in sorted(state.routers_of.get(network, ())) if other in state.vpns and other != name]
    if vpns:
        raise Refused(
            f"network {network} belongs to VPN {vpns[0]}, which is its gateway: `ebbtide vpn dissociate {vpns[0]} --network {network}` "
            "first"
        )
    on_link = link_local_text(value)
    for port_id in state.ports_of.get(network, ()):
        port = state.ports[port_id]
        if on_link in port.addresses:
            raise Refused(
                f"{on_link}, which {who} has on the link in IPv6, is that of port {port_id} in network {network}: give {who} another MAC"
            )
        if address in port.addresses:
            raise Refused(
                f"address {address} is that of port {port_id} in network {network}: give {who} another (`--address`)"
            )
        if port.mac == value:
            raise Refused(f"MAC {format_mac(value)} is that of port {port_id} in network {network}")
    for other in state.routers_of.get(network, ()):
        for leg in state.legs.get(other, {}).values():
            if leg.network == network and (leg.address == address or leg.mac == value) and leg.router != name:
                raise Refused(
                    f"{address} or MAC {format_mac(value)} is that of {named(state, other)} in network {network}"
                )
    if ":" in address and name in state.routers:
        _alone_outside(apply(state, [Edit(None, made)], state.revision), name)
    return [Edit(None, made), *hidden.release(state, network, (address,), value)], made


def vpn_of(found: Router | Vpn) -> str:
    """The VPN that a VRF belongs to ("": none)."""
    return found.vpn if isinstance(found, Router) else found.id


def _fellows(state: State, found: Router | Vpn) -> list[tuple[str, RouterPort]]:
    """The places of a VRF, and of all others of its VPN: name of the VRF, place."""
    vpn = vpn_of(found)
    names = {found.id, *([vpn, *state.vpn_routers.get(vpn, ())] if vpn else ())}
    return [(name, leg) for name in sorted(names) for leg in state.places(name)]


def detach(state: State, name: str, network: str, address: str = "") -> list[Edit]:
    """Take a router's or a VPN's place in a network away (all of them, unless an address is given)."""
    found = vrf(state, name)
    legs = [leg for (n, a), leg in state.legs.get(name, {}).items() if n == network and address in ("", a)]
    if not legs:
        with_it = f" with address {address}" if address else ""
        raise NotFound(f"{named(state, name)} is not in network {network}{with_it}")
    for leg in legs:
        used = [f.address for f in state.floatings.values() if f.router == name and holds(leg.subnet, f.fixed)]
        if used:
            raise Refused(f"floating IP {some(used)} leads to ports in {leg.subnet}: take them away first")
        extra = found.routes if isinstance(found, Router) else ()
        ways = [route for route in extra if holds(leg.subnet, split_route(route)[1])]
        if ways:
            raise Refused(f"extra route {some(ways)} leads through {leg.subnet}: take it away first")
    return [Edit(leg, None) for leg in legs]


# --- floating IPs ---


def add_floating(
    state: State, outside: str, address: str, port: str = "", fixed: str = "", mac: str = ""
) -> tuple[list[Edit], Floating]:
    """Make a floating IP, or lead one that exists to (another) port. No port: it leads nowhere.

    Raises:
        BadInput: a value is not valid.
        NotFound: there is no such external network or port.
        Refused: the address is taken, or no router leads from there to the port.
    """
    if fixed and not port:
        raise BadInput("a fixed address without a port: name the port too", "fixed")
    network = external(state, outside)
    if ":" in address:
        raise BadInput(
            f"floating IP {address[:60]}: floating IPs are IPv4 addresses; IPv6 goes out as it is, without NAT",
            "address",
        )
    address = _address(address, "floating IP", "address", 4)
    _host_in(address, network.subnet, "floating IP")
    known = state.floatings.get((outside, address))
    if known is None:
        whose = _taken_outside(state, network, address)
        if whose:
            raise Refused(f"address {address} is that of {whose} in {outside}: choose another")
    ids = Allocator(state)
    value = host_mac(mac) if mac else known.mac if known is not None else 0
    whose = _mac_outside(state, network, value, address) if mac else ""
    if whose:
        raise Refused(f"MAC {format_mac(value)} is that of {whose} in {outside}: choose another, or none")
    if not value:
        value = ledger.mac(state.store_id, ledger.MacOf.FLOATING, ids.take("floating"))
    behind = ("", "", "")
    if port:
        found = state.ports.get(port)
        if found is None:
            raise NotFound(f"there is no port {port}")
        behind = _behind(state, network, found, fixed)
        for key in state.floatings_of.get(port, ()):
            other = state.floatings[key]
            if other.fixed == behind[2] and key != (outside, address) and other.external == outside:
                raise Refused(f"{behind[2]} of port {port} has floating IP {other.address} already")
    made = Floating(outside, address, value, *behind)
    return ([] if made == known else [Edit(known, made), *ids.edits()]), made


def _behind(state: State, network: External, port: Port, fixed: str) -> tuple[str, str, str]:
    """Router, port and address that a floating IP leads to."""
    addresses = [a for a in port.addresses if ipv4(a) is not None]
    if fixed:
        if fixed not in addresses:
            raise Refused(
                f"{fixed} is no IPv4 address of port {port.id}, which has {', '.join(port.addresses) or 'none'}"
            )
        addresses = [fixed]
    for address in addresses:
        for name in sorted(r for r in state.routers_of.get(port.network, ()) if r in state.routers):
            legs = (leg for leg in state.legs.get(name, {}).values() if leg.network == port.network)
            inside = any(holds(leg.subnet, address) for leg in legs)
            if inside and state.routers[name].external == network.id:
                return name, port.id, address
    raise Refused(
        f"no router leads from {network.id} to port {port.id}: attach one to network {port.network} whose external network is {network.id}"
    )


def delete_floating(state: State, outside: str, address: str) -> list[Edit]:
    """Delete a floating IP."""
    found = state.floatings.get((outside, address))
    if found is None:
        raise NotFound(f"there is no floating IP {address} in external network {outside}")
    return [Edit(found, None)]


def without_port(state: State, port: str) -> list[Edit]:
    """A port is deleted: its floating IPs stay, and lead nowhere."""
    found = [state.floatings[key] for key in state.floatings_of.get(port, ())]
    return [Edit(f, msgspec.structs.replace(f, port="", router="", fixed="")) for f in found]


def own_addresses(state: State, network: str) -> dict[str, str]:
    """Addresses of routers and VPNs in a network, and whose they are, in words."""
    legs = _legs_in(state, network)
    on_link = {link_local_text(leg.mac): named(state, leg.router) for leg in legs}
    return {**on_link, **{leg.address: named(state, leg.router) for leg in legs}}


def own_macs(state: State, network: str) -> dict[int, str]:
    """MACs of routers and VPNs in a network, and whose they are, in words."""
    return {leg.mac: named(state, leg.router) for leg in _legs_in(state, network)}


def _legs_in(state: State, network: str) -> list[RouterPort]:
    legs = (leg for router in state.routers_of.get(network, ()) for leg in state.legs[router].values())
    return [leg for leg in legs if leg.network == network]
