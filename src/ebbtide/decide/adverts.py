"""What routers advertise in a network (RFC 4861, 6.2): prefixes, MTU, name servers, and how VMs come by their addresses.

One router is the default one of a network: one that leads outside in IPv6, and of those the oldest. It is so for as long as can be said
(RFC 8319), so that a VM keeps its route while nobody advertises anything: a controller that is away for eighteen hours is not noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ebbtide.model.addresses import number, prefix
from ebbtide.model.facts import SLAAC, STATEFUL, STATELESS, Network, RouterPort
from ebbtide.model.state import State

#: Seconds: how long an address that a VM makes of a prefix is good, and is preferred (RFC 4861, 6.2.1); the longest that a router may be
#: the default one; and how long an address of a prefix that has gone is still taken (RFC 4862, 5.5.3 e: a host believes no less of who has
#: not proved who it is).
VALID, PREFERRED, LONGEST, RUN_OUT = 2_592_000, 604_800, 65_535, 7200


class Prefix(NamedTuple):
    """A prefix as a router advertises it: whether VMs make addresses of it, and its lifetimes in seconds."""

    address: int
    length: int
    autonomous: bool
    valid: int = VALID
    preferred: int = PREFERRED


class Advert(NamedTuple):
    """What a router (`mac`) says of a network: `lifetime` in seconds as the default router, `managed` and `other` as VMs are to ask DHCPv6
    for addresses, and for the rest."""

    mac: int
    lifetime: int
    mtu: int
    managed: bool = False
    other: bool = False
    prefixes: tuple[Prefix, ...] = ()
    dns: tuple[int, ...] = ()


def of(state: State, network: str) -> list[Advert]:
    """What each of a network's routers and VPNs says there, the default router first: nothing while VMs are to be told nothing."""
    net = state.networks.get(network)
    if net is None or not net.ipv6_mode:
        return []
    return [_advert(net, legs, 0 if n else LONGEST) for n, (_, legs) in enumerate(speakers(state, network))]


def speakers(state: State, network: str) -> list[tuple[str, list[RouterPort]]]:
    """Those of a network's routers and VPNs that have IPv6 places there, and these; the default router first."""

    def order(vrf: str) -> tuple[bool, int]:
        known = state.vrf(vrf)
        return not state.untranslated(vrf), known.tag if known is not None else 0

    found = []
    for vrf in sorted(state.routers_of.get(network, ()), key=order):
        legs = [leg for leg in state.places(vrf) if leg.network == network and ":" in leg.subnet]
        if legs:
            found.append((vrf, legs))
    return found


def _advert(net: Network, legs: list[RouterPort], lifetime: int) -> Advert:
    how = net.ipv6_mode
    autonomous = how in (SLAAC, STATELESS)
    prefixes = tuple(Prefix(*_start(leg.subnet), autonomous) for leg in legs)
    dns = tuple(number(text) for text in net.dns.split() if ":" in text)
    told = how in (STATELESS, STATEFUL)
    return Advert(legs[0].mac, lifetime, net.mtu, how == STATEFUL, told, prefixes, dns)


def _start(subnet: str) -> tuple[int, int]:
    value, _, length = prefix(subnet)
    return value, length


def farewell(before: Iterable[Advert], after: Iterable[Advert]) -> list[Advert]:
    """What is to be said of what is not there any more: routers, and prefixes of whoever still is one."""
    left = {advert.mac: advert for advert in after}
    kept = {(known.address, known.length) for advert in left.values() for known in advert.prefixes}
    told = []
    for old in before:
        gone = [known for known in old.prefixes if (known.address, known.length) not in kept]
        if old.mac in left and not gone:
            continue
        now = left.get(old.mac, old)
        ended = tuple(known._replace(valid=RUN_OUT, preferred=0) for known in gone)
        told.append(now._replace(lifetime=now.lifetime if old.mac in left else 0, prefixes=ended))
    return told
