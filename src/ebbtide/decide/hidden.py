"""Addresses of a connected subnet that no port was given, and that answer all the same: a second address in a VM, a virtual IP, an
appliance behind a port. What may be learnt, and where it goes when somebody is given it.

A MAC is at one place in a network: an address that moves, under the MAC that it was learnt with, brings along what else was learnt with
that, as the addresses of a virtual router do when it changes its host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address, ip_network

from ebbtide.model.addresses import ends, holds, number, split_pair
from ebbtide.model.facts import Edit, Learnt, Port, RouterPort
from ebbtide.model.state import State, apply

Key = tuple[str, str]  # network, address
#: Addresses that may be learnt behind one port, and in one network: each is a row on every compute that has a route there.
MAX_OF_PORT, MAX_OF_NETWORK = 256, 10_000


def place_for(state: State, network: str, address: str) -> RouterPort | None:
    """The place in a network from whose address an address is asked for; None: there is none in whose subnet it is, or it is nobody's."""
    found = [leg for vrf in sorted(state.routers_of.get(network, ())) for leg in state.places(vrf)]
    for leg in found:
        if leg.network == network and holds(leg.subnet, address) and number(address) not in ends(leg.subnet):
            return leg
    return None


def speaks_from(port: Port, address: str, mac: int) -> bool:
    """Whether a port's security lets it speak from an address with a MAC: its own, or one of its pairs'."""
    if not port.secured or (mac == port.mac and address in port.addresses):
        return True
    found, pairs = ip_address(address), map(split_pair, port.pairs)
    return any(mac == theirs and found in ip_network(own) for own, theirs in pairs)


def why_not(state: State, network: str, address: str, mac: int, port: str) -> str:
    """Why an address may not be learnt behind a port, in words, or ""."""
    known = state.ports.get(port)
    if known is None or known.network != network or state.active(port) is None:
        return "the port is not there"
    if mac >> 40 & 1 or not mac:
        return "its MAC is not one host's"
    if place_for(state, network, address) is None:
        return "no router has a place in its subnet"
    for vrf in state.routers_of.get(network, ()):
        for leg in state.places(vrf):
            if leg.network == network and (leg.address == address or leg.mac == mac):
                return f"it is {vrf}'s own"
    holder = state.given_to(network, address)
    if not speaks_from(known, address, mac):
        return "port security does not let the port speak from there: an address pair does"
    if holder is not None and (holder == port or state.active(holder) is not None):
        return f"it was given to port {holder}"
    if mac != known.mac and state.with_mac(network, mac) is not None:
        return "its MAC is another port's"
    held = state.learnt_in(network)
    mine = held.get(address)
    elsewhere = next((x.port for x in held.values() if x.mac == mac and x.port != port), None)
    if elsewhere is not None and (mine is None or (mine.mac, mine.port) != (mac, elsewhere)):
        # Whoever wants that MAC has to win an address from who has it; a new address is no way to it.
        return f"its MAC answers behind port {elsewhere}"
    if address not in held and len(held) >= MAX_OF_NETWORK:
        return f"{MAX_OF_NETWORK} addresses are learnt in network {network}: no more"
    of_port = state.learnt_of.get(port, ())
    if address not in of_port and len(of_port) >= MAX_OF_PORT:
        return f"{MAX_OF_PORT} addresses are learnt behind port {port}: no more"
    return ""


def learn(state: State, network: str, address: str, mac: int, port: str) -> list[Edit]:
    """What is to be stored when an address has answered; nothing where it may not be learnt (`why_not`)."""
    if why_not(state, network, address, mac, port):
        return []
    held = state.learnt_in(network)
    old, new = held.get(address), Learnt(network, address, mac, port)
    edits = [Edit(old, new)] if old != new else []
    if mac != state.ports[port].mac:
        same = (x for x in held.values() if x.mac == mac and x.port != port and x.address != address)
        edits += [Edit(x, Learnt(network, x.address, mac, port)) for x in same]
    return edits


def withdraw(state: State, keys: Iterable[tuple[str, str]]) -> list[Edit]:
    """What is to be stored when addresses answer no more. `keys`: network and address."""
    found = (state.learnt_in(network).get(address) for network, address in keys)
    return [Edit(x, None) for x in found if x is not None]


def outcome(state: State, found: Mapping[Key, tuple[int, str]], gone: Iterable[Key]) -> list[Edit]:
    """What is to be stored of several at once: MAC and port of those that have answered, and those that answer no more.

    Each is decided on what those before it lead to, so that two that answer under one MAC are at one place afterwards.
    """
    now, concerned = state, set(gone)
    edits = withdraw(now, concerned)
    now = apply(now, edits, now.revision)
    for key, (mac, port) in found.items():
        edits = learn(now, *key, mac, port)
        now = apply(now, edits, now.revision)
        concerned |= {(x.network, x.address) for edit in edits for x in edit if isinstance(x, Learnt)}
    ends = (Edit(state.learnt_in(n).get(a), now.learnt_in(n).get(a)) for n, a in sorted(concerned))
    return [edit for edit in ends if edit.old != edit.new]


def release(state: State, network: str, addresses: Collection[str], mac: int) -> list[Edit]:
    """What somebody is given now is not learnt any more: its addresses, and what has answered under its MAC."""
    held = state.learnt_in(network)
    return [Edit(x, None) for x in held.values() if x.address in addresses or x.mac == mac]


def of_port(state: State, port: str) -> list[Edit]:
    """A port is deleted, and what has answered behind it is nowhere."""
    known = state.ports.get(port)
    if known is None:
        return []
    return withdraw(state, [(known.network, address) for address in state.learnt_of.get(port, ())])
