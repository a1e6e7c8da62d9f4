"""What a VRF of a VPN has routes to besides its own networks: the places of the other VRFs of its VPN, and of those that it imports.

A VPN's VRFs are the VPN itself and its routers. Who overlaps with what is seen already is not seen: a VRF's own places come before those of
its VPN, these before imported ones, and of imported ones those of the VPN that has the lower tag, which as a rule is the older. Nor is
what an extra route of its own equals or lies within. So a prefix leads to one network.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

from ebbtide.model.addresses import bits, prefix, split_route, within
from ebbtide.model.facts import RouterPort

#: The maps of State that all this is read from.
MAPS = ("vpns", "vpn_routers", "exporters", "legs", "routers")


class _Taken:
    """Ranges of addresses that do not overlap. IPv6 ones stand above all of IPv4."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._starts: list[int] = []

    def add(self, subnet: str) -> bool:
        """Take a prefix, unless it overlaps with one that is taken."""
        start, _, length = prefix(subnet)
        width = bits(subnet)
        start += 1 << width
        end = start + (1 << width - length) - 1
        at = bisect_left(self._ends, start)
        if at < len(self._starts) and self._starts[at] <= end:
            return False
        self._ends.insert(at, end)
        self._starts.insert(at, start)
        return True


def members(maps: Mapping[str, Any], vpn: str) -> list[str]:
    """The VRFs of a VPN: its own, and its routers'. `maps`: those of State."""
    own = [vpn] if vpn in maps["vpns"] else []
    return own + sorted(maps["vpn_routers"].get(vpn, ()))


def _candidates(maps: Mapping[str, Any], vrf: str, vpn: str) -> Iterator[tuple[str, RouterPort]]:
    """VPN and place of all that it may have a route to besides its own, in order of precedence."""
    names = [other for other in members(maps, vpn) if other != vrf]
    imports = maps["vpns"][vpn].imports if vpn in maps["vpns"] else ()
    others = {other for target in imports for other in maps["exporters"].get(target, ())} - {vpn}
    by_age = sorted(others, key=lambda other: (maps["vpns"][other].tag, other))
    whole = [(vpn, name) for name in names] + [(other, name) for other in by_age for name in members(maps, other)]
    for owner, name in whole:
        for _, leg in sorted(maps["legs"].get(name, {}).items()):
            yield owner, leg


def seen(maps: Mapping[str, Any], vrf: str, vpn: str) -> tuple[RouterPort, ...]:
    """The places of others that a VRF of a VPN has routes to."""
    return tuple(leg for _, leg, free in _judged(maps, vrf, vpn) if free)


def shadowed(maps: Mapping[str, Any], vrf: str, vpn: str) -> tuple[tuple[str, RouterPort], ...]:
    """VPN and place of what it would have a route to, did that not overlap with something that comes before it."""
    return tuple((owner, leg) for owner, leg, free in _judged(maps, vrf, vpn) if not free)


def _judged(maps: Mapping[str, Any], vrf: str, vpn: str) -> Iterator[tuple[str, RouterPort, bool]]:
    """VPN, place, and whether nothing that comes before it overlaps, of all that are not its own."""
    taken = _Taken()
    for _, leg in sorted(maps["legs"].get(vrf, {}).items()):
        taken.add(leg.subnet)
    router = maps["routers"].get(vrf)
    ways = [split_route(route)[0] for route in router.routes] if router is not None else []
    for owner, leg in _candidates(maps, vrf, vpn):
        # A shorter extra route stands beside a place: the longer prefix has the packets.
        meets = any(within(way, leg.subnet) for way in ways)
        yield owner, leg, not meets and taken.add(leg.subnet)
