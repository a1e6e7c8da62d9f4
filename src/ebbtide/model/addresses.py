"""Stored addresses (checked where they came in) as numbers. Nothing here raises for what the parsers have let in."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


def ipv4(text: str) -> int | None:
    """An address as a number; None for IPv6."""
    if ":" in text:
        return None
    a, b, c, d = text.split(".")
    return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)


def number(text: str) -> int:
    """An address of either family as a number."""
    found = ipv4(text)
    return _ipv6(text) if found is None else found


@lru_cache(4096)
def _ipv6(text: str) -> int:
    return int(IPv6Address(text))


@lru_cache(4096)
def prefix(text: str) -> tuple[int, int, int]:
    """A prefix or an address, IPv4 or IPv6, as address, mask and length. An IPv6 mask is wider than 32 bits, but for /0."""
    net: IPv4Network | IPv6Network = ip_network(text, strict=False)
    return int(net.network_address), int(net.netmask), net.prefixlen


def bits(text: str) -> int:
    """The width of an address or prefix of this family."""
    return 128 if ":" in text else 32


def holds(subnet: str, address: str) -> bool:
    """Whether an address is in a subnet."""
    if (":" in subnet) != (":" in address):
        return False
    value, mask, _ = prefix(subnet)
    return number(address) & mask == value


def within(inner: str, outer: str) -> bool:
    """Whether a prefix is one that it equals or lies within."""
    value, _, longer = prefix(inner)
    start, mask, length = prefix(outer)
    return bits(inner) == bits(outer) and longer >= length and value & mask == start


def overlap(one: str, other: str) -> bool:
    """Whether two prefixes have an address in common."""
    return within(one, other) or within(other, one)


def ends(subnet: str) -> set[int]:
    """The addresses of a subnet that are no host's: its own, and in IPv4 its broadcast address.

    A subnet of two has none (RFC 3021, RFC 6164)."""
    value, mask, length = prefix(subnet)
    if length >= bits(subnet) - 1:
        return set()
    return {value} if ":" in subnet else {value, value | ~mask & 0xFFFF_FFFF}


def link_local(mac: int) -> int:
    """The IPv6 link-local address that is made of a MAC (RFC 4291, appendix A)."""
    left, right = mac >> 24, mac & 0xFF_FFFF
    return 0xFE80 << 112 | (left ^ 0x02_0000) << 40 | 0xFFFE << 24 | right


def link_local_text(mac: int) -> str:
    """That address, as it is stored and said."""
    return str(IPv6Address(link_local(mac)))


def parse_ip(text: str) -> IPv4Address | IPv6Address:
    """An address that may be stored: without a zone, which names an interface of one host.

    Raises:
        ValueError: it is none.
    """
    if "%" in text:
        raise ValueError(f"{text[:60]!r} has a zone: an address alone is wanted")
    return ip_address(text)


def parse_net(text: str) -> IPv4Network | IPv6Network:
    """A prefix that may be stored; bits behind its length are cleared.

    Raises:
        ValueError: it is none.
    """
    if "%" in text:
        raise ValueError(f"{text[:60]!r} has a zone: a prefix alone is wanted")
    return ip_network(text, strict=False)


def split_pair(pair: str) -> tuple[str, int]:
    """Prefix and MAC of a stored address pair."""
    prefix_, _, mac = pair.rpartition(" ")
    return prefix_, int(mac.replace(":", ""), 16)


def dotted(address: int) -> str:
    """A number as an IPv4 address."""
    return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"


def split_route(route: str) -> tuple[str, str]:
    """Prefix and next hop of a stored extra route."""
    way, _, via = route.partition(" via ")
    return way, via
