"""Tunnel end points: which addresses can be one, how they are written, and between which of them there can be a tunnel.

They are kept in one spelling (RFC 5952 for IPv6), so that two spellings of one address are one TEP.
"""

from __future__ import annotations

import ipaddress

#: Bytes that a tunnel puts around a frame's payload, by the underlay's IP version: Ethernet 14, VXLAN 8, UDP 8, IP 20 or 40 (RFC 7348).
OVERHEAD = {4: 50, 6: 70}
#: The MTU of a network that fits into an underlay of 1500, by the underlay's IP version.
DEFAULT_MTU = {version: 1500 - overhead for version, overhead in OVERHEAD.items()}


def canonical(text: str) -> str:
    """The address in its one spelling; what is no address stays as it is."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def trouble(text: str) -> str:
    """Why this cannot be a tunnel address, in words that follow it; "" if it can."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "is no IP address"
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return "has a zone, which is known on its own host only"
        if address.ipv4_mapped is not None:
            return f"is an IPv4 address in an IPv6 one: write {address.ipv4_mapped}"
        if address.is_link_local:
            return "is link-local, and leads nowhere beyond its link"
        if address.is_loopback:
            return "is the host's loopback"
    if address.is_multicast:
        return "is a multicast group"
    return "is the unspecified address" if address.is_unspecified else ""


def version(tep: str) -> int:
    """The IP version of a TEP: 4 or 6."""
    return 6 if ":" in tep else 4


def joined(one: str, other: str) -> bool:
    """Whether there can be a tunnel between two TEPs ("": the compute has none): they are of one IP version."""
    return bool(one) and bool(other) and version(one) == version(other)
