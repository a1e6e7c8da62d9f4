"""Answers DHCP for IPv6: each port gets the addresses that it was given, on the compute where it asks, and nobody else anything (RFC 8415).

There is no state: a port's addresses are its lease, for as long as the port has them. The server is one, whoever leads: its identifier is
made of the store's.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from ebbtide.compile import ledger
from ebbtide.compile.features.dhcp import ALL_SERVERS_V6, CLIENT_V6, SERVER_V6
from ebbtide.model.addresses import link_local, number, prefix
from ebbtide.model.facts import STATEFUL, STATELESS, Network, Port
from ebbtide.model.state import State
from ebbtide.runtime import frames6
from ebbtide.runtime.dhcp import LEASE

#: After how many seconds a client asks again: this server, then any.
T1, T2 = LEASE // 2, LEASE * 4 // 5
#: Addresses that an IA holds in an answer, at most: that and all name servers are within IPv6's smallest MTU.
MOST = 20
_SOLICIT, _ADVERTISE, _REQUEST, _CONFIRM, _RENEW = 1, 2, 3, 4, 5
_REBIND, _REPLY, _RELEASE, _DECLINE, _INFORMATION = 6, 7, 8, 9, 11
_NAMES_SERVER, _GIVES_BACK = (_REQUEST, _RENEW, _RELEASE, _DECLINE), (_RELEASE, _DECLINE)
_KINDS = {_SOLICIT, _CONFIRM, _REBIND, _INFORMATION, *_NAMES_SERVER}
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_TA, _ADDRESS = 1, 2, 3, 4, 5
_PREFERENCE, _STATUS, _RAPID, _SERVERS, _IA_PD = 7, 13, 14, 23, 25
_SUCCESS, _NO_ADDRESSES, _NO_BINDING, _NOT_ON_LINK, _NO_PREFIXES = 0, 2, 3, 4, 6
#: What stands before the options in an identity association (IA): its id, and of two kinds the times T1 and T2.
_IA_HEADS = {_IA_NA: 12, _IA_TA: 4, _IA_PD: 12}
_IP, _ADDRESS_BODY = struct.Struct("!IHBB16s16sHHHH"), struct.Struct("!16sII")
_AT, _OPTIONS, _UDP, _HOPS = 14, 14 + 40 + 8 + 4, 17, 64
_LONGEST_ID = 130
_ID = uuid.UUID("5f0f3b0e-8415-4d0a-9b57-eb710de00006")

Option = tuple[int, bytes]


class Ia(NamedTuple):
    """An identity association as a client sends it: its kind (an option's number), its id, and the addresses in it."""

    kind: int
    id: bytes
    addresses: tuple[int, ...]


class Asked(NamedTuple):
    """What a client asks. `options`: the first of each number."""

    kind: int
    transaction: bytes
    source: int
    options: dict[int, bytes]
    ias: tuple[Ia, ...]


def options(data: bytes) -> list[Option] | None:
    """Options of a message, or of an option that holds others, in their order; None: one is cut."""
    found = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 > len(data) or end > len(data):
            return None
        found.append((int.from_bytes(data[at : at + 2], "big"), data[at + 4 : end]))
        at = end
    return found


def server_id(store_id: str) -> bytes:
    """The server's DUID, made of a UUID (RFC 6355): one store, one server."""
    return struct.pack("!H", 4) + uuid.uuid5(_ID, store_id).bytes


def addresses(net: Network, port: Port) -> tuple[int, ...]:
    """What a port is told: its IPv6 addresses that are in subnets of its network, the first MOST."""
    held = (number(text) for text in port.addresses if ":" in text)
    return tuple(address for address in held if _on_link(net, address))[:MOST]


def read(data: bytes) -> Asked | None:
    """What a frame asks of all servers; None: it is cut, or something else. Packets with extension headers, fragments among them, are."""
    if len(data) < _OPTIONS or data[12:14] != b"\x86\xdd":
        return None
    start, length, following, _, source, target, sender, port, size, _ = _IP.unpack_from(data, _AT)
    ports = (sender, port) == (CLIENT_V6, SERVER_V6)
    if start >> 28 != 6 or following != _UDP or not ports or int.from_bytes(target, "big") != ALL_SERVERS_V6:
        return None
    # It answers to a link-local address, from which all clients ask (section 18.2).
    if size != length or not 12 <= size <= len(data) - 54 or source[:8] != b"\xfe\x80" + bytes(6):
        return None
    found = options(data[_OPTIONS : 54 + size])
    ias = [_ia(*option) for option in found or () if option[0] in _IA_HEADS]
    whole = tuple(ia for ia in ias if ia is not None)
    if found is None or len(whole) < len(ias) or data[62] not in _KINDS:
        return None
    return Asked(data[62], data[63:66], int.from_bytes(source, "big"), dict(reversed(found)), whole)


def answer(state: State, port: Port, data: bytes) -> bytes | None:
    """The frame that answers what a port has asked; None: it gets no answer.

    All of the port's addresses are in one IA_NA: in the one that names one of them, else in the first. What else a client wants, temporary
    addresses and prefixes too, it is told that there is none of. Addresses that it names and that are not its own are, by message:

    * SOLICIT: hints, not heeded. REQUEST: not on this link if no subnet of the network has them, else not heeded.
    * CONFIRM: not on this link, whosever they are: the client asks anew, and is told its own.
    * RENEW, REBIND: to be let go of at once (lifetimes of 0). RELEASE, DECLINE: without a binding; the port keeps its own.
    """
    asked = read(data)
    if asked is None or int.from_bytes(data[6:12], "big") != port.mac:
        return None
    net, own = state.networks[port.network], server_id(state.store_id)
    if net.ipv6_mode not in (STATELESS, STATEFUL):
        return None
    client = asked.options.get(_CLIENT_ID)
    if not _for_us(asked, own) or (client is not None and not 3 <= len(client) <= _LONGEST_ID):
        return None
    told = _told(asked, net, addresses(net, port))
    if told is None:
        return None
    kind, fields = told
    fields = [*([(_CLIENT_ID, client)] if client is not None else []), (_SERVER_ID, own), *fields]
    body = bytes([kind]) + asked.transaction + b"".join(map(_option, fields))
    places = (leg for vrf in sorted(state.routers_of.get(net.id, ())) for leg in state.places(vrf))
    macs = (leg.mac for leg in places if leg.network == net.id and ":" in leg.address)
    source = next(macs, ledger.mac(state.store_id, ledger.MacOf.COMPUTE, 0))
    # Only who asks for more than the port can have gets more than fits.
    if 48 + len(body) > net.mtu:
        return None
    datagram = struct.pack("!HHHH", SERVER_V6, CLIENT_V6, 8 + len(body), 0) + body
    ends = (source, link_local(source)), (port.mac, asked.source)
    return frames6.sealed(_UDP, datagram, *ends, hops=_HOPS, at=6)


def _on_link(net: Network, address: int) -> bool:
    subnets = (prefix(text) for text in net.subnets if ":" in text)
    return any(address & mask == start for start, mask, _ in subnets)


def _option(option: Option) -> bytes:
    return struct.pack("!HH", option[0], len(option[1])) + option[1]


def _status(code: int) -> bytes:
    return _option((_STATUS, code.to_bytes(2, "big")))


def _ia(kind: int, data: bytes) -> Ia | None:
    """None: it is cut, or an address in it is."""
    inner = options(data[_IA_HEADS[kind] :])
    if len(data) < _IA_HEADS[kind] or inner is None:
        return None
    held = [value for number, value in inner if number == _ADDRESS]
    if any(len(value) < 24 for value in held):
        return None
    return Ia(kind, data[:4], tuple(int.from_bytes(value[:16], "big") for value in held))


def _for_us(asked: Asked, own: bytes) -> bool:
    """Whether a message is one to answer, by whom it names (section 16). Who only asks for name servers need not say who it is."""
    named = asked.options.get(_SERVER_ID)
    if asked.kind == _INFORMATION:
        return named in (None, own) and not asked.ias
    return _CLIENT_ID in asked.options and named == (own if asked.kind in _NAMES_SERVER else None)


def _told(asked: Asked, net: Network, own: tuple[int, ...]) -> tuple[int, list[Option]] | None:
    """The kind of answer to a message, and its options (section 18.3); None: none."""
    if asked.kind == _CONFIRM:
        named = [address for ia in asked.ias for address in ia.addresses]
        verdict = _SUCCESS if set(named) <= set(own) else _NOT_ON_LINK
        return (_REPLY, [(_STATUS, verdict.to_bytes(2, "big"))]) if named else None
    if asked.kind in _GIVES_BACK:
        strange = [ia for ia in asked.ias if ia.kind != _IA_NA or not set(ia.addresses) & set(own)]
        return _REPLY, [(_STATUS, _SUCCESS.to_bytes(2, "big")), *(_without(ia, _NO_BINDING) for ia in strange)]
    servers = [number(text).to_bytes(16, "big") for text in net.dns.split() if ":" in text]
    fields = [*_given(asked, net, own), *([(_SERVERS, b"".join(servers))] if servers else [])]
    if asked.kind != _SOLICIT:
        return _REPLY, fields
    if _RAPID in asked.options and own and any(ia.kind == _IA_NA for ia in asked.ias):
        return _REPLY, [(_RAPID, b""), *fields]
    # No other server is asked: the client need not wait for one.
    return _ADVERTISE, [(_PREFERENCE, b"\xff"), *fields]


def _given(asked: Asked, net: Network, own: tuple[int, ...]) -> Iterator[Option]:
    ours = [ia for ia in asked.ias if ia.kind == _IA_NA]
    chosen = next((ia for ia in ours if set(ia.addresses) & set(own)), ours[0] if ours else None)
    for ia in asked.ias:
        named = ia.addresses if ia.kind == _IA_NA else ()
        lives = [(address, LEASE) for address in own] if ia is chosen else []
        if asked.kind in (_RENEW, _REBIND):
            lives = [*lives, *((address, 0) for address in named if address not in own)][:MOST]
        if asked.kind == _REQUEST and not all(_on_link(net, address) for address in named):
            yield _without(ia, _NOT_ON_LINK)
        elif lives:
            inner = (_ADDRESS_BODY.pack(address.to_bytes(16, "big"), life, life) for address, life in lives)
            yield _IA_NA, ia.id + struct.pack("!II", T1, T2) + b"".join(_option((_ADDRESS, x)) for x in inner)
        else:
            yield _without(ia, _NO_PREFIXES if ia.kind == _IA_PD else _NO_ADDRESSES)


def _without(ia: Ia, code: int) -> Option:
    """An IA with nothing in it, and why."""
    return ia.kind, ia.id + bytes(_IA_HEADS[ia.kind] - 4) + _status(code)
