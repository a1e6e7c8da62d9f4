"""What of a network and of a port's addresses may be made and changed, as edits of one transaction.

Nothing that is in use is taken away: a subnet that a router has a place in or a port an address of stays, and so does an address that a
floating IP leads to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import msgspec

from ebbtide.decide import hidden, routing
from ebbtide.decide.ids import retire
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.addresses import holds, link_local, parse_ip, prefix
from ebbtide.model.facts import SLAAC, STATEFUL, STATELESS, STATIC, Edit, Network, Port
from ebbtide.model.state import State, apply

IPV6_MODES = (STATIC, SLAAC, STATELESS, STATEFUL)
#: As it is said; stored is "".
NONE = "none"
#: RFC 4862 makes an address of a prefix of 64 bits and an interface identifier.
_SLAAC_LENGTH = 64


def delete(state: State, name: str) -> list[Edit]:
    """Delete a network that has no ports.

    Raises:
        NotFound: there is no such network.
        Refused: it has ports, or a router or VPN has a place in it.
    """
    known = state.networks.get(name)
    if known is None:
        raise NotFound(f"there is no network {name}")
    ports = sorted(state.ports_of.get(name, ()))
    if ports:
        raise Refused(f"network {name} still has {len(ports)} port(s): {', '.join(ports[:5])}; delete them first")
    vrfs = [routing.named(state, vrf) for vrf in sorted(state.routers_of.get(name, ()))]
    if vrfs:
        raise Refused(f"network {name} has {', '.join(vrfs[:5])} in it: detach it first")
    return [Edit(known, None), retire(known)]


def delete_port(state: State, port_id: str) -> list[Edit]:
    """Delete a port, wherever it is plugged.

    Raises:
        NotFound: there is no such port.
    """
    known = state.ports.get(port_id)
    if known is None:
        raise NotFound(f"there is no port {port_id}")
    bound = [Edit(b, None) for b in state.bindings.get(port_id, ())]
    return [*bound, *routing.without_port(state, port_id), *hidden.of_port(state, port_id), Edit(known, None)]


def cidrs(texts: Sequence[str]) -> tuple[str, ...]:
    """Subnets as the store gives them back.

    Raises:
        BadInput: one is none.
    """
    found = set()
    for text in texts:
        try:
            found.add(str(ipaddress.ip_network(text)))
        except ValueError as error:
            raise BadInput(f"{text!r} is not a subnet: {error}", "subnets") from None
    return tuple(sorted(found))


def checked(net: Network) -> Network:
    """The network, if its settings go together.

    Raises:
        BadInput: there is no such way to come by IPv6 addresses, or it does not go with the network's subnets or with DHCP.
    """
    if net.ipv6_mode == NONE:
        net = msgspec.structs.replace(net, ipv6_mode="")
    if net.ipv6_mode and net.ipv6_mode not in IPV6_MODES:
        raise BadInput(f"IPv6 mode {net.ipv6_mode[:40]!r} is not one of {', '.join((*IPV6_MODES, NONE))}", "ipv6-mode")
    if net.ipv6_mode in (STATELESS, STATEFUL) and not net.dhcp:
        raise BadInput(
            f"IPv6 mode {net.ipv6_mode} has VMs ask DHCP, which network {net.id} is without: `--dhcp`", "ipv6-mode"
        )
    for subnet in net.subnets if net.ipv6_mode else ():
        routing.check_mtu_for(net.mtu, subnet, f"network {net.id}")
    if net.ipv6_mode in (SLAAC, STATELESS):
        other = next((s for s in net.subnets if ":" in s and prefix(s)[2] != _SLAAC_LENGTH), "")
        if other:
            words = f"IPv6 mode {net.ipv6_mode} has VMs make their addresses of a /64: subnet {other} is none"
            raise BadInput(words, "ipv6-mode")
    return net


def completed(net: Network, mac: int, found: Sequence[str]) -> tuple[str, ...]:
    """A port's addresses and those that its VM makes of its MAC, where it has been given no other of that subnet (RFC 4291, appendix A)."""
    makes = net.subnets if net.ipv6_mode in (SLAAC, STATELESS) else ()
    wanting = [subnet for subnet in makes if ":" in subnet and not any(holds(subnet, address) for address in found)]
    return tuple(sorted({*found, *(made(subnet, mac) for subnet in wanting)}))


def made(subnet: str, mac: int) -> str:
    """The address that a VM makes of a prefix of 64 bits and its MAC."""
    return str(ipaddress.IPv6Address(prefix(subnet)[0] | link_local(mac) & (1 << 64) - 1))


def change(state: State, name: str, **wishes: Any) -> tuple[list[Edit], Network]:
    """Change what is given of a network (`dhcp`, `dns`, `routes`, `subnets`, `ipv6_mode`), and leave what is None.

    Raises:
        BadInput: the settings do not go together.
        NotFound: there is no such network.
        Refused: a subnet that would go is in use.
    """
    known = state.networks.get(name)
    if known is None:
        raise NotFound(f"there is no network {name}")
    net = checked(msgspec.structs.replace(known, **{k: v for k, v in wishes.items() if v is not None}))
    if net == known:
        return [], known
    gone = sorted(set(known.subnets) - set(net.subnets))
    edits: list[Edit] = [Edit(known, net)]
    for port in (state.ports[port_id] for port_id in sorted(state.ports_of.get(name, ()))):
        # What it has only because its VM made it of a subnet that goes, goes too.
        lost = {made(subnet, port.mac) for subnet in gone if ":" in subnet and prefix(subnet)[2] == _SLAAC_LENGTH}
        found = completed(net, port.mac, [address for address in port.addresses if address not in lost])
        if found != port.addresses:
            check_addresses(state, net, port.id, found)
            edits.append(Edit(port, msgspec.structs.replace(port, addresses=found)))
    after = apply(state, edits, state.revision)
    for subnet in gone:
        _unused(after, net, subnet)
    return edits, net


def _unused(state: State, known: Network, subnet: str) -> None:
    legs = (leg for vrf in sorted(state.routers_of.get(known.id, ())) for leg in state.places(vrf))
    placed = next((leg for leg in legs if (leg.network, leg.subnet) == (known.id, subnet)), None)
    if placed is not None:
        raise Refused(f"subnet {subnet}: {routing.named(state, placed.router)} has a place in it, detach that first")
    for port_id in sorted(state.ports_of.get(known.id, ())):
        inside = next((address for address in state.ports[port_id].addresses if holds(subnet, address)), "")
        if inside:
            raise Refused(
                f"subnet {subnet}: port {port_id} has address {inside} in it, take that away first (`ebbtide port set`)"
            )


def addresses(texts: Sequence[str]) -> tuple[str, ...]:
    """A port's addresses as the store gives them back.

    Raises:
        BadInput: one is none.
    """
    found = set()
    for text in texts:
        try:
            found.add(str(parse_ip(text)))
        except ValueError as error:
            raise BadInput(f"{text[:60]!r} is not an IP address: {error}", "addresses") from None
    return tuple(sorted(found))


def check_addresses(state: State, net: Network, port_id: str, found: Sequence[str]) -> None:
    """Whether a port may have these addresses in a network.

    Raises:
        Refused: one is in none of the network's subnets, or somebody else's.
    """
    stray = _stray(found, net.subnets)
    if stray:
        raise Refused(
            f"address {stray} is in no subnet of network {net.id}, which has {', '.join(net.subnets)}: "
            "give another address, or none"
        )
    routers = routing.own_addresses(state, net.id)
    for address in found:
        if address in routers:
            raise Refused(f"address {address} is that of {routers[address]} in network {net.id}")
        holder = state.given_to(net.id, address)
        if holder not in (None, port_id):
            raise Refused(f"address {address} is that of port {holder} in network {net.id}")


def _stray(found: Sequence[str], subnets: Sequence[str]) -> str:
    """The first address that is in none of these subnets, or "". Where there are no subnets, and for link-local IPv6, all is inside."""
    for text in found:
        on_link = holds("fe80::/10", text)
        if subnets and not on_link and not any(holds(subnet, text) for subnet in subnets):
            return text
    return ""


def readdressed(state: State, port: Port, found: Sequence[str]) -> Port:
    """The port with other addresses; connections of those that it keeps go on.

    Raises:
        Refused: it may not have one, or a floating IP leads to one that it would lose.
    """
    net = state.networks[port.network]
    found = completed(net, port.mac, found)
    check_addresses(state, net, port.id, found)
    used = [state.floatings[key] for key in sorted(state.floatings_of.get(port.id, ()))]
    lost = next((f for f in used if f.fixed not in found), None)
    if lost is not None:
        raise Refused(f"floating IP {lost.address} leads to {lost.fixed} of port {port.id}: take it away first")
    return msgspec.structs.replace(port, addresses=found)
