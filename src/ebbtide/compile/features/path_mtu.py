"""Path MTU: what is larger than the network that it goes to is not sent there, and its sender is told (RFC 1191 and RFC 1812, 4.3.2.3; RFC
8201 and RFC 4443, 3.2).

What a VM gives to its router is compared with the narrowest network that the router has routes to (table 19), and what is larger than that
with the one that it goes to: by a band of the FIB above its routes, and table 23. So is IPv6 from outside. What is to be translated is
compared before that, with what is behind the address that it is for (table 25), wherever it has come from. What is too big goes to the
controller, which answers (`runtime/outside.py`): whether a packet may be fragmented is not asked, since no switch of ours can.

Where nothing can be too big, nothing is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ebbtide.compile import families, ledger
from ebbtide.compile.flow import Action, CheckLarger, Flow, Match, Resubmit, SetField, ToController, match
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import holds, prefix, split_route
from ebbtide.model.facts import External, Network, Router
from ebbtide.model.state import State

_ETHERNET = 14
_DEFAULT, _DEFAULT6 = "0.0.0.0/0", "::/0"
#: As much of a packet as is quoted to its sender (`runtime/frames.py`).
_TOLD = 128
#: Prefix -> MTU of the network that a VRF's route to it leads into.
Widths = Mapping[str, int]


def widths(state: State, vrf: str) -> dict[str, int]:
    """Of all that a VRF has routes to: its subnets, those that it sees, its extra routes, the network outside."""
    seen, own = ([(leg.subnet, leg.network) for leg in legs] for legs in (state.seen.get(vrf, ()), state.places(vrf)))
    found = {subnet: state.networks[name].mtu for subnet, name in (*seen, *own)}
    router = state.routers.get(vrf)
    if router is not None:
        ways = {way: towards(found, via) for way, via in map(split_route, router.routes)}
        found |= {way: mtu for way, mtu in ways.items() if mtu}
        if router.external:
            found[_DEFAULT] = state.externals[router.external].mtu
        if state.untranslated(vrf):
            found[_DEFAULT6] = state.externals[router.external].mtu
    return found


def towards(known: Widths, address: str) -> int:
    """The MTU of the network by which an address is reached: the longest prefix counts. 0: by none."""
    return max(((prefix(text)[2], mtu) for text, mtu in known.items() if holds(text, address)), default=(0, 0))[1]


def behind(state: State, external: str, address: str) -> int:
    """The MTU of what is behind an external address: the network of a floating IP's port, or the narrowest of a router's, since before it
    is translated nobody can say where a packet goes. 0: there is nothing."""
    floating = state.floatings.get((external, address))
    port = state.ports.get(floating.port) if floating is not None else None
    if port is not None:
        return state.networks[port.network].mtu
    own = (r for r in state.routers.values() if r.external == external and address in r.addresses)
    return min((narrowest(state, router) for router in own), default=0)


def narrowest(state: State, router: Router) -> int:
    """The smallest MTU of the networks that a router has places in; 0: it has none."""
    return min((state.networks[leg.network].mtu for leg in state.places(router.id)), default=0)


def exceeds(frame: int, mtu: int) -> bool:
    """Whether an untagged frame of so many bytes is larger than a network of that MTU takes."""
    return frame > _ETHERNET + mtu


def measured(net: Network, known: Widths) -> tuple[Action, ...]:
    """What a packet of this network's VMs has to undergo where it comes to its router: nothing, if it cannot be too big anywhere."""
    least = min(known.values(), default=net.mtu)
    return (_larger_than(least, ledger.LARGE_BIT),) if least < net.mtu else ()


def band(tag: int, networks: Iterable[Network], known: Widths) -> list[Flow]:
    """A VRF's rows of the band above its routes, and what becomes of a packet then; none where nothing is `measured` that comes to it, from
    VMs in its networks or, in IPv6, from outside."""
    inward = known.get(_DEFAULT6, 0) > min(known.values(), default=0)
    if not inward and not any(measured(net, known) for net in networks):
        return []
    cookie = ledger.cookie(Kind.ROUTER, Feature.ROUTER, tag)
    vrf = ledger.metadata_vrf(tag)
    punt = _punt(Punt.TOO_BIG, tag, ledger.TOO_BIG_METER)
    again = SetField(ledger.SIZE_REG, 0, 1 << ledger.LARGE_BIT), Resubmit(T.FIB)
    flows = [
        Flow(T.PATH_MTU, Priority.TOO_BIG, _marked(vrf, ledger.TOO_BIG_BIT), actions=(punt,), cookie=cookie),
        Flow(T.PATH_MTU, Priority.FITS, match(metadata=vrf), actions=again, cookie=cookie),
    ]
    for text, mtu in sorted(known.items()):
        value, mask, length = prefix(text)
        way = match(**families.of(text).to(value, mask))
        flows.append(
            Flow(
                T.FIB,
                Priority.LARGE + length,
                tuple(sorted((*_marked(vrf, ledger.LARGE_BIT), *way))),
                actions=(_larger_than(mtu, ledger.TOO_BIG_BIT),),
                goto=T.PATH_MTU,
                cookie=cookie,
            )
        )
    return flows


def entering(external: External, mtu: int) -> tuple[Action, ...]:
    """What IPv6 from outside has to undergo before it is routed, where something behind the router takes no more than `mtu`."""
    return (_larger_than(mtu, ledger.LARGE_BIT),) if 0 < mtu < external.mtu else ()


def inbound(external: External, address: int, mtu: int, cookie: int) -> tuple[Flow, ...]:
    """What is for an external address is compared with what is behind it, once."""
    if not 0 < mtu < external.mtu:
        return ()
    mark = 1 << ledger.MEASURED_BIT
    new: dict[str, int | tuple[int, int]] = {ledger.SIZE_REG: (0, mark)}
    entry = match(metadata=ledger.metadata_network(external.tag), eth_type=0x0800, ipv4_dst=address, **new)
    compared = SetField(ledger.SIZE_REG, mark, mark), _larger_than(mtu, ledger.TOO_BIG_BIT), Resubmit(T.PRE_DNAT)
    return (Flow(T.PRE_DNAT, Priority.MEASURE, entry, actions=compared, cookie=cookie),)


def refused(external: External) -> Flow:
    """What has been found too big for what is behind an external address."""
    cookie = ledger.cookie(Kind.NETWORK, Feature.EXTERNAL, external.tag)
    matched = _marked(ledger.metadata_network(external.tag), ledger.TOO_BIG_BIT)
    punt = _punt(Punt.TOO_BIG_OUTSIDE, external.tag, ledger.TOO_BIG_OUTSIDE_METER)
    return Flow(T.PRE_DNAT, Priority.TOO_BIG, matched, actions=(punt,), cookie=cookie)


def _larger_than(mtu: int, bit: int) -> CheckLarger:
    return CheckLarger(_ETHERNET + mtu, ledger.SIZE_REG, bit)


def _marked(where: tuple[int, int], bit: int) -> Match:
    mark: dict[str, int | tuple[int, int]] = {ledger.SIZE_REG: (1 << bit, 1 << bit)}
    return match(metadata=where, **mark)


def _punt(punt: Punt, owner: int, meter: int) -> ToController:
    return ToController(max_len=_TOLD, userdata=ledger.userdata(punt, owner), meter_id=meter)
