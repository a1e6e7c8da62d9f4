"""Why a packet of a port passes or does not, in words: `/api/v1/explain/port/ID?from=ADDRESS&protocol=tcp&port=80`, or `to=`."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from typing import NamedTuple

from starlette.requests import Request

from ebbtide.compile import ledger
from ebbtide.decide import security
from ebbtide.decide.security import Judged, Packet
from ebbtide.errors import BadInput
from ebbtide.model.addresses import parse_ip
from ebbtide.model.facts import Port
from ebbtide.model.state import State
from ebbtide.north import explain

_METADATA = Packet(False, explain.METADATA, 6, ledger.METADATA_PORT, ledger.METADATA_PORT)
_NUMBERS = {"port": 65535, "icmp-type": 255, "icmp-code": 255}


class Told(NamedTuple):
    """Whether the packet passes both ends, and why in words. `rules`: those that let it, at most one an end."""

    passes: bool
    rules: list[str]
    lines: list[str]


def asked(request: Request) -> Packet | None:
    """The packet that a question is about; None: about none.

    Raises:
        BadInput: a value is not valid.
    """
    query = request.query_params
    there = [way for way in ("from", "to") if query.get(way)]
    if not there:
        if any(query.get(name) for name in ("protocol", *_NUMBERS)):
            raise BadInput("from=ADDRESS or to=ADDRESS says which way the packet goes", "from", "missing-element")
        return None
    if len(there) > 1:
        raise BadInput("a packet of a port comes from an address, or goes to one: say one of them", "from")
    try:
        far = parse_ip(query[there[0]])
    except ValueError as error:
        raise BadInput(str(error), there[0]) from None
    number = security.protocol(query.get("protocol", "any"))
    if number < 0:
        raise BadInput("a packet is of one protocol: tcp, udp, icmp, ... or a number", "protocol", "missing-element")
    port, kind, code = (_number(query.get(name, ""), name, most) for name, most in _NUMBERS.items())
    icmp = number in (1, 58)
    if number in (6, 17, 132) and port < 0:
        raise BadInput(
            f"a packet of {security.protocol_name(number)} has a destination port: say which, as in port=80",
            "port",
            "missing-element",
        )
    if icmp and kind < 0:
        raise BadInput(
            "a packet of ICMP has a type: say which, as in icmp-type=8 (a ping; 128 with IPv6)",
            "icmp-type",
            "missing-element",
        )
    first, last = (kind, max(code, 0)) if icmp else (port, port)
    return Packet(there[0] == "from", str(far), number, first, last)


def _number(text: str, name: str, most: int) -> int:
    if not text:
        return -1
    if not text.isdecimal() or len(text) > 5 or int(text) > most:
        raise BadInput(f"{name} {text[:40]!r} is not a number from 0 to {most}", name)
    return int(text)


def judge(state: State, port: Port, packet: Packet, agents: Collection[int] = ()) -> Told:
    """What the port's own security says, and that of the port at the far end, if one has that address in its network or one routed to it.

    Whether there is a way from one to the other is not looked at. `agents`: the computes with a metadata agent, which needs no rule.
    """
    found = state.active(port.id)
    if packet == _METADATA and found is not None and found.compute in agents:
        words = explain.metadata_words(state, port, found.compute, agent=True)
        return Told(True, [], [words, "It passes without a rule, and so does what answers it."])
    ends: list[Judged] = []
    lines: list[str] = []
    for own, seen in _ends(state, port, packet):
        judged = security.judge(state, own, seen)
        way = "what it receives" if seen.inbound else "what it sends"
        lines.append(f"At {own.id}, {way}: {judged.words}")
        ends.append(judged)
    passes = all(end.passes for end in ends)
    if len(ends) == 1:
        lines.append(f"No port near it was given {packet.far}: what the far end lets through is not known here.")
    lines.append("It passes, and so does what answers it." if passes else "It is dropped.")
    return Told(passes, [end.rule.id for end in ends if end.rule is not None], lines)


def _ends(state: State, port: Port, packet: Packet) -> list[tuple[Port, Packet]]:
    """Sender first."""
    ends = [(port, packet)]
    near = (net for vrf in sorted(state.vrfs_with(port.network)) for net in sorted(state.horizon(vrf)))
    names = (state.given_to(net, packet.far) for net in dict.fromkeys((port.network, *near)))
    other = next((state.ports[name] for name in names if name is not None), None)
    family = ip_address(packet.far).version
    own = next((a for a in port.addresses if ip_address(a).version == family), "")
    if other is not None and own:
        ends.append((other, packet._replace(inbound=not packet.inbound, far=own)))
    return ends[::-1] if packet.inbound else ends
