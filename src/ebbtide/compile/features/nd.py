"""Neighbour discovery answered on the spot (RFC 4861): a solicitation for a known address is turned into its advertisement in the sender's
own switch, and what only a router may answer goes to the controller.

Left alone, so that they reach everybody: a solicitation without its sender's link-layer address, as duplicate address detection is (RFC
4862, 5.4.2), and one for an address that nobody is known to have. But a router's own address is defended on the spot, and the router's
answer to who does not say where it is comes from the controller. An advertisement is finished in a table of its own, since an action may
only touch what its row has matched: `icmpv6_type` first, the option behind it next.
"""

from __future__ import annotations

from collections.abc import Iterable

from ebbtide.compile import ledger
from ebbtide.compile.features import arp
from ebbtide.compile.flow import Action, Flow, M, Match, Meter, Move, Resubmit, SetField, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import number
from ebbtide.model.facts import Learnt, Network, Port

ROUTER_SOLICIT, ROUTER_ADVERT, SOLICIT, ADVERT, REDIRECT = 133, 134, 135, 136, 137
#: The option with its target's link-layer address: what a solicitation's option with its source's becomes.
TARGET_OPTION = 2
#: Flags of an advertisement (RFC 4861, 4.4): it was solicited, and it overrides what is known; by a router.
SOLICITED, OVERRIDE, BY_ROUTER = 0x4000_0000, 0x2000_0000, 0x8000_0000
HOPS = 255
_FINISH = (SetField("nd_options_type", TARGET_OPTION), Move(ledger.SCRATCH_MAC, "nd_tll", 48))
_BARE = M("nd_sll", 0)
ALL_NODES, _ALL_NODES_MAC = 0xFF02 << 112 | 1, 0x3333_0000_0001
_ND = (M("eth_type", 0x86DD), M("ip_proto", 58))


def _seen(kind: int, *more: M) -> Match:
    return tuple(sorted((*_ND, M("icmpv6_type", kind), *more)))


def _base() -> Iterable[Flow]:
    cookie = ledger.cookie(Kind.BASE, Feature.ND)
    for kind in (ROUTER_SOLICIT, SOLICIT, ADVERT):
        # Untagged: what a VM tags is its own business. What has come by way of a router is no neighbour's (RFC 4861, 7.1).
        seen = match(eth_type=0x86DD, ip_proto=58, icmpv6_type=kind, icmpv6_code=0, nw_ttl=HOPS, ip_frag=0, vlan_vid=0)
        yield Flow(T.GATEWAY_MAC, Priority.ND, seen, goto=T.ARP_CHECK, cookie=cookie)
        yield Flow(T.ARP_CHECK, Priority.ARP_REQUEST, seen, goto=T.IPV6_ND, cookie=cookie)
    yield Flow(T.IPV6_ND, Priority.MISS, (), goto=T.L2_BASE, cookie=cookie)
    yield Flow(T.IPV6_ND, Priority.ND_BARE, _seen(SOLICIT, _BARE), goto=T.L2_BASE, cookie=cookie)
    yield Flow(T.ND_ANSWER, Priority.ND_ANSWER, _seen(ADVERT), actions=_FINISH, goto=T.EGRESS, cookie=cookie)


#: The same on every compute.
BASE = tuple(_base())


def to_provider(own: tuple[int, int], cookie: int) -> Flow:
    """An answer to somebody outside: finished like any other, and out by the wire. `own`: the external network in the metadata."""
    out = (*_FINISH, Resubmit(T.PROVIDER))
    return Flow(T.ND_ANSWER, Priority.ND_ANSWER_OUTSIDE, _seen(ADVERT, M("metadata", *own)), actions=out, cookie=cookie)


def asked(target: int, metadata: tuple[int, int]) -> Match:
    """A solicitation for an address; below `ND_BARE`, one that says where its answer shall go."""
    return _seen(SOLICIT, M("metadata", *metadata), M("nd_target", target))


def asked_barely(target: int, metadata: tuple[int, int]) -> Match:
    """A solicitation for an address that does not say where its answer shall go."""
    return _seen(SOLICIT, M("metadata", *metadata), _BARE, M("nd_target", target))


def wanted(target: int, metadata: tuple[int, int]) -> Match:
    """Somebody is about to take an address: duplicate address detection."""
    return _seen(SOLICIT, M("ipv6_src", 0), M("metadata", *metadata), M("nd_target", target))


def defence(target: int, mac: int) -> tuple[Action, ...]:
    """It is taken, by a router: to all nodes, and without an option, since it has none that could become another (RFC 4861, 7.2.4)."""
    to_all = SetField("eth_dst", _ALL_NODES_MAC), SetField("eth_src", mac), SetField("ipv6_dst", ALL_NODES)
    return (*to_all, *_advertises(target, OVERRIDE | BY_ROUTER))


def said_by(address: int, metadata: tuple[int, int]) -> tuple[Match, Match]:
    """What whoever has an address says of itself: that it does, or a question under it."""
    own = M("metadata", *metadata)
    return _seen(ADVERT, own, M("nd_target", address)), _seen(SOLICIT, M("ipv6_src", address), own)


def answer(target: int, mac: int, source: int, *, router: bool = False) -> tuple[Action, ...]:
    """A solicitation becomes its advertisement: `target` is at `mac`, says a frame from `source`; table ND_ANSWER finishes it."""
    return (
        Move("eth_src", "eth_dst", 48),
        SetField("eth_src", source),
        Move("ipv6_src", "ipv6_dst", 128),
        *_advertises(target, SOLICITED | OVERRIDE | (BY_ROUTER if router else 0)),
        SetField(ledger.SCRATCH_MAC, mac),
    )


def _advertises(target: int, flags: int) -> tuple[Action, ...]:
    return SetField("ipv6_src", target), SetField("icmpv6_type", ADVERT), SetField("nd_reserved", flags)


def responder(net: Network, port: Port) -> list[Flow]:
    """Shared by the footprint: answers for each IPv6 address of the port."""
    cookie = ledger.cookie(Kind.PORT, Feature.ND, port.lport)
    targets = (number(text) for text in port.addresses if ":" in text)
    return [_answered(net, target, port.mac, cookie, router=False) for target in targets]


def _answered(net: Network, target: int, mac: int, cookie: int, *, router: bool) -> Flow:
    told = (*answer(target, mac, mac, router=router), *arp.TO_SENDER, Resubmit(T.ND_ANSWER))
    seen = asked(target, ledger.metadata_network(net.tag))
    return Flow(T.IPV6_ND, Priority.ND_KNOWN, seen, actions=told, cookie=cookie)


def router(net: Network, mac: int, targets: Iterable[int], cookie: int) -> list[Flow]:
    """Shared by a VRF's reach: answers for a router's own addresses in a network, and what it has asked for itself."""
    own = M("metadata", *ledger.metadata_network(net.tag))
    flows = []
    for target in sorted(targets):
        flows.append(_answered(net, target, mac, cookie, router=True))
        bare = asked_barely(target, (own.value, own.mask or 0))
        flows.append(Flow(T.IPV6_ND, Priority.ND_BARE_ROUTER, bare, actions=(_asks(net),), cookie=cookie))
        taken = wanted(target, (own.value, own.mask or 0))
        defended = (*defence(target, mac), *arp.TO_SENDER)
        flows.append(Flow(T.IPV6_ND, Priority.ND_DEFENDED, taken, actions=defended, goto=T.EGRESS, cookie=cookie))
        # Whoever of our VMs says that it has it, secured or not, is not heard. (What comes out of a tunnel has been looked at.)
        flows += [
            Flow(T.ARP_CHECK, Priority.ND_IMPOSTOR, said, cookie=cookie)
            for said in said_by(target, (own.value, (own.mask or 0) | ledger.SPLIT_HORIZON))
        ]
    told = _seen(ADVERT, M("eth_dst", mac), own)
    punt = ToController(userdata=ledger.userdata(Punt.ANSWER, net.tag), meter_id=ledger.ANSWER_METER)
    flows.append(Flow(T.ARP_CHECK, Priority.ANSWER_TO_US, told, actions=(punt,), cookie=cookie))
    return flows


def _asks(net: Network) -> ToController:
    return ToController(userdata=ledger.userdata(Punt.ROUTER_ASKED, net.tag), meter_id=ledger.ROUTER_ASKED_METER)


def solicits(net: Network, port: Port, zone: int) -> Fragment:
    """One compute's: a port there asks for routers, some times, and the controller answers (RFC 4861, 6.2.6). `zone`: its conntrack zone
    (of its meter). By a meter of its own, so that no neighbour's questions are in its way."""
    elan, lport = ledger.metadata_network(net.tag), ledger.metadata_lport(port.lport)
    seen = _seen(ROUTER_SOLICIT, M("metadata", elan[0] | lport[0], elan[1] | lport[1]))
    meter = ledger.solicit_meter(zone)
    cookie = ledger.cookie(Kind.PORT, Feature.ND, port.lport)
    flow = Flow(T.IPV6_ND, Priority.ND_KNOWN, seen, actions=(_asks(net),), meter=meter, cookie=cookie)
    return Fragment((flow,), meters=(Meter(meter, ledger.SOLICITS_PER_SECOND, burst=ledger.SOLICITS_AT_ONCE),))


def routed(net: Network) -> Fragment:
    """Shared by the footprint of a network whose routers are advertised: what VMs say of routers is nobody's, whether they are secured or
    not: one of them would have every other's packets."""
    cookie = ledger.cookie(Kind.NETWORK, Feature.ND, net.tag)
    own = M("metadata", *ledger.metadata_network(net.tag))
    kinds = (ROUTER_ADVERT, REDIRECT)
    return Fragment(tuple(Flow(T.GATEWAY_MAC, Priority.ND, _seen(kind, own), cookie=cookie) for kind in kinds))


def announced(net: Network, cookie: int) -> list[Flow]:
    """What VMs here say of addresses that nobody is known to have, a copy of some of it: who looks whether an address is free, or
    advertises it, has just come up."""
    value, mask = ledger.metadata_network(net.tag)
    own = M("metadata", value, mask | ledger.SPLIT_HORIZON)
    punt = ToController(userdata=ledger.userdata(Punt.ANNOUNCED, net.tag), meter_id=ledger.ANNOUNCED_METER)
    kinds = ((Priority.ND_BARE_ROUTER, _seen(SOLICIT, M("ipv6_src", 0), own)), (Priority.ANNOUNCED, _seen(ADVERT, own)))
    return [Flow(T.IPV6_ND, priority, seen, actions=(punt,), goto=T.L2_BASE, cookie=cookie) for priority, seen in kinds]


def claims(net: Network, port: Port, learnt: Iterable[Learnt]) -> list[Flow]:
    """Shared by the network's footprint: a copy of what anybody but its holder says under a learnt address."""
    cookie = ledger.cookie(Kind.PORT, Feature.SUBNET_ROUTE, port.lport)
    elan, lport = ledger.metadata_network(net.tag), ledger.metadata_lport(port.lport)
    punt = ToController(userdata=ledger.userdata(Punt.CLAIM, net.tag), meter_id=ledger.CLAIM_METER)
    anybody = (elan[0], elan[1] | ledger.SPLIT_HORIZON)
    holder = (elan[0] | lport[0], elan[1] | lport[1])
    return [
        Flow(T.ARP_CHECK, priority, seen, actions=actions, goto=T.IPV6_ND, cookie=cookie)
        for found in learnt
        if ":" in found.address
        for priority, who, actions in ((Priority.CLAIM, anybody, (punt,)), (Priority.OWN_CLAIM, holder, ()))
        for seen in said_by(number(found.address), who)
    ]
