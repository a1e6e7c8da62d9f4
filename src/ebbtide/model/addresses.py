"""Stored addresses (checked where they came in) as numbers. Nothing here raises for what the parsers have let in."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network


def ipv4(text: str) -> int | None:
    """An address as a number; None for IPv6."""
    if ":" in text:
        return None
    a, b, c, d = text.split(".")
    return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)


@lru_cache(1024)
def prefix(text: str) -> tuple[int, int, int]:
    """An IPv4 prefix as address, mask and length."""
    net = IPv4Network(text)
    return int(net.network_address), int(net.netmask), net.prefixlen


def dotted(address: int) -> str:
    """A number as an IPv4 address."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def split_route(route: str) -> tuple[str, str]:
    """Prefix and next hop of a stored extra route."""
    way, _, via = route.partition(" via ")
    return way, via
