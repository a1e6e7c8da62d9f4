"""Answers DHCP: each port gets the address that it was given, on the compute where it asks, and nobody else anything (RFC 2131, RFC 2132).

There is no state: a port's address is its lease, for as long as the port has it. Who asks for another is told so, and asks anew.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ebbtide.compile import ledger
from ebbtide.compile.features.dhcp import CLIENT, SERVER
from ebbtide.model.addresses import ipv4, prefix, split_route
from ebbtide.model.facts import Port
from ebbtide.model.state import State
from ebbtide.runtime import frames

#: Seconds for which a client may use its address without asking again.
LEASE = 86_400
#: Who answers where no router has a place in the subnet: nobody can send to it, so a client renews by broadcast.
NOBODY = 0xA9FE_0043
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK, _INFORM = 1, 2, 3, 5, 6, 8
_REQUESTED, _KIND, _SERVER_ID = 50, 53, 54
_BOOTP = struct.Struct("!BBBBIHHIIII16s192x4s")
_AT = 14 + 20 + 8


def options(data: bytes) -> dict[int, bytes]:
    """Options of a DHCP message, by number; what is cut is left out."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            break
        found[data[at]] = data[at + 2 : at + 2 + data[at + 1]]
        at += 2 + data[at + 1]
    return found


def static_routes(routes: Sequence[str], gateway: int) -> bytes:
    """Classless static routes (RFC 3442), the default one among them, since who gets these heeds no other; "" if there are none."""
    if not routes:
        return b""
    ways = [(prefix(way), ipv4(via) or 0) for way, via in map(split_route, routes)]
    ways += [((0, 0, 0), gateway)] if gateway and all(length for (_, _, length), _ in ways) else []
    told = b""
    for (start, _, length), via in ways:
        told += bytes([length]) + start.to_bytes(4, "big")[: (length + 7) // 8] + via.to_bytes(4, "big")
    return told


def answer(state: State, port: Port, data: bytes) -> bytes | None:
    """The frame that answers what a port has asked; None: it gets no answer."""
    if len(data) < _AT + _BOOTP.size or data[14] != 0x45:
        return None
    op, kind, size, _, xid, _, flags, client, _, _, relay, hardware, cookie = _BOOTP.unpack_from(data, _AT)
    mac = int.from_bytes(hardware[:6], "big")
    if (op, kind, size, cookie, relay) != (1, 1, 6, _COOKIE, 0) or data[6:12] != hardware[:6]:
        return None
    net = state.networks[port.network]
    subnets = [prefix(text) for text in net.subnets if ":" not in text]
    held = [value for value in map(ipv4, port.addresses) if value is not None]
    lease = next(((a, mask) for a in held for start, mask, _ in subnets if a & mask == start), None)
    if mac != port.mac or lease is None:
        return None
    address, mask = lease
    asked = options(data[_AT + _BOOTP.size :])
    legs = [leg for vrf in sorted(state.routers_of.get(net.id, ())) for leg in state.places(vrf)]
    place = next((g for g in legs if g.network == net.id and (ipv4(g.address) or 0) & mask == address & mask), None)
    own = (ipv4(place.address) or 0) if place is not None else NOBODY
    source = place.mac if place is not None else ledger.mac(state.store_id, ledger.MacOf.COMPUTE, 0)
    servers = [value for value in map(ipv4, net.dns.split()) if value is not None]
    routes = static_routes(net.routes, own if place is not None else 0)
    told = _verdict(asked, client, address, own)
    if not told:
        return None
    fields = [(_KIND, bytes([told])), (_SERVER_ID, own.to_bytes(4, "big"))]
    if told != _NAK:
        fields += [(1, mask.to_bytes(4, "big")), (26, net.mtu.to_bytes(2, "big"))]
        fields += [(3, own.to_bytes(4, "big"))] if place is not None else []
        fields += [(6, b"".join(server.to_bytes(4, "big") for server in servers))] if servers else []
        fields += [(121, routes)] if routes else []
        fields += [(51, LEASE.to_bytes(4, "big"))] if asked.get(_KIND) != bytes([_INFORM]) else []
    given = 0 if told == _NAK or asked.get(_KIND) == bytes([_INFORM]) else address
    head = _BOOTP.pack(2, 1, 6, 0, xid, 0, flags, client if told == _ACK else 0, given, own, 0, hardware, _COOKIE)
    body = head + b"".join(bytes([number, len(value)]) + value for number, value in fields) + b"\xff"
    # To the MAC that has asked: it need not have the address yet, and nobody else is to hear it.
    target = 0xFFFF_FFFF if told == _NAK or not client else client
    return frames.udp(body.ljust(300, b"\0"), (source, own, SERVER), (mac, target, CLIENT))


def _verdict(asked: dict[int, bytes], client: int, address: int, own: int) -> int:
    """The kind of answer to a message; 0: none. Who has chosen another server, or gives an address back, expects none."""
    kind = asked.get(_KIND, b"\0")[0:1]
    if kind == bytes([_DISCOVER]):
        return _OFFER
    if kind == bytes([_INFORM]):
        return _ACK
    if kind != bytes([_REQUEST]) or asked.get(_SERVER_ID, own.to_bytes(4, "big")) != own.to_bytes(4, "big"):
        return 0
    wanted = int.from_bytes(asked[_REQUESTED], "big") if len(asked.get(_REQUESTED, b"")) == 4 else client
    return _ACK if wanted == address else _NAK
