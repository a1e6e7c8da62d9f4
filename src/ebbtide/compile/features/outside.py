"""Networks outside of the overlay: the provider port, ARP there, next hops, and floating IPs.

A frame that comes in by the provider port has its VLAN tag taken off and gets the external network's tag; one that goes out meets table 28
(whose MAC: the next hop's, or that of an address of ours) and table 29 (VLAN tag, port). What is for an address that this very compute
serves never sees the wire: a switch outside does not send a frame back to where it came from.

A floating IP is a stateless exchange of addresses, so that it follows its VM with every connection; what an ICMP error quotes is not
rewritten by it. RFC 826 for ARP; RFC 1812.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ebbtide.compile import families, ledger
from ebbtide.compile.features import arp, base, nd, path_mtu
from ebbtide.compile.flow import (
    Action,
    CtClear,
    Flow,
    Match,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
    match,
)
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import ipv4, number
from ebbtide.model.facts import External, Floating, Neighbour, Router

_TAGGED = 0x1000  # in vlan_vid: a tag is there (OpenFlow 1.3, OFPVID_PRESENT)


def wire(external: External, own_mac: int, provider: int) -> Fragment:
    """One compute's: its provider port, in and out. `own_mac`: the compute's own outside; `provider`: that OpenFlow port."""
    cookie = ledger.cookie(Kind.NETWORK, Feature.EXTERNAL, external.tag)
    own = ledger.metadata_network(external.tag)
    vlan = external.vlan
    entry = match(in_port=provider, vlan_vid=_TAGGED | vlan if vlan else 0)
    tag = (PushVlan(), SetField("vlan_vid", _TAGGED | vlan)) if vlan else ()
    flows = (
        Flow(
            T.CLASSIFIER,
            Priority.PROVIDER,
            entry,
            actions=(*((PopVlan(),) if vlan else ()), *base.RECORD_INPUT, SetField(ledger.NETWORK_REG, external.tag)),
            metadata=own,
            goto=T.GATEWAY_MAC,
            cookie=cookie,
        ),
        Flow(T.PROVIDER, Priority.WIRE, match(metadata=own), actions=(*tag, Output(provider)), cookie=cookie),
        Flow(
            # Sent by who has heard this compute in the middle of a move, under its own MAC.
            T.GATEWAY_MAC,
            Priority.GATEWAY,
            match(metadata=own, eth_type=0x0800, eth_dst=own_mac),
            goto=T.PRE_DNAT,
            cookie=cookie,
        ),
    )
    return Fragment(flows)


def network(external: External, next_hops: Iterable[Neighbour]) -> Fragment:
    """Shared by the computes that have this network: ARP, and where everything goes that is for nobody of ours."""
    cookie = ledger.cookie(Kind.NETWORK, Feature.EXTERNAL, external.tag)
    own = ledger.metadata_network(external.tag)
    flows = [
        Flow(
            T.GATEWAY_MAC,
            Priority.OUTSIDE_ARP_REQUEST,
            match(metadata=own, eth_type=0x0806, arp_op=1),
            goto=T.ARP_RESPONDER,
            cookie=cookie,
        ),
        Flow(T.GATEWAY_MAC, Priority.OUTSIDE_STRANGER, match(metadata=own), cookie=cookie),
        path_mtu.refused(external),
    ]
    gateway = ipv4(external.gateway) if external.gateway else None
    if gateway is not None:
        heard = ToController(
            max_len=64, userdata=ledger.userdata(Punt.NEXT_HOP, external.tag), meter_id=ledger.NEXT_HOP_METER
        )
        says = match(metadata=own, eth_type=0x0806, arp_spa=gateway)
        flows.append(
            Flow(
                T.GATEWAY_MAC,
                Priority.OUTSIDE_NEXT_HOP,
                says,
                actions=(heard,),
                goto=T.ARP_RESPONDER,
                cookie=cookie,
            )
        )
    if external.subnet6:
        flows += _neighbours(external, own, cookie)
    for next_hop in next_hops:
        flows.append(
            Flow(
                T.SNAT,
                Priority.NEXT_HOP,
                match(metadata=own, eth_type=families.of(next_hop.address).ethertype),
                actions=(SetField("eth_dst", next_hop.mac),),
                goto=T.PROVIDER,
                cookie=cookie,
            )
        )
    return Fragment(tuple(flows))


def _neighbours(external: External, own: tuple[int, int], cookie: int) -> list[Flow]:
    """Neighbour discovery outside: what the next hop says of itself is told; what else is not for an address of ours is nobody's here."""
    flows = [
        Flow(T.IPV6_ND, Priority.ND_STRANGER, match(metadata=own), cookie=cookie),
        nd.to_provider(own, cookie),
    ]
    if external.gateway6:
        data = ledger.userdata(Punt.NEXT_HOP, external.tag)
        heard = (ToController(userdata=data, meter_id=ledger.NEXT_HOP_METER),)
        for said in nd.said_by(number(external.gateway6), own):
            flows.append(Flow(T.ARP_CHECK, Priority.ND_NEXT_HOP, said, actions=heard, goto=T.IPV6_ND, cookie=cookie))
    return flows


def addresses_of(external: External, router: Router) -> Fragment:
    """Shared by the computes that have this network: the MAC of a router's own addresses, for who sends to them from here."""
    cookie = ledger.cookie(Kind.ROUTER, Feature.EXTERNAL, router.tag)
    numbers = [a for a in map(ipv4, router.addresses) if a is not None]
    return Fragment(tuple(_known(external, address, router.mac, cookie) for address in numbers))


def address_of(external: External, floating: Floating, lport: int) -> Fragment:
    """The same of a floating IP."""
    address = ipv4(floating.address)
    cookie = ledger.cookie(Kind.PORT, Feature.FLOATING, lport)
    return Fragment((_known(external, address, floating.mac, cookie),) if address is not None else ())


def _known(external: External, address: int, mac: int, cookie: int) -> Flow:
    return Flow(
        T.SNAT,
        Priority.OUR_ADDRESS,
        match(metadata=ledger.metadata_network(external.tag), eth_type=0x0800, ipv4_dst=address),
        actions=(SetField("eth_dst", mac),),
        goto=T.PROVIDER,
        cookie=cookie,
    )


def answer_if(external: External, address: int, mac: int, tag: int, cookie: int) -> tuple[Flow, Flow]:
    """The same by a compute that stands by for a router's NAT: only once the owner is dead, by its group."""
    made = answer(external, address, mac, mac, cookie)
    asked = msgspec.structs.replace(made, actions=(ToGroup(ledger.answer_group(tag)),))
    return asked, msgspec.structs.replace(made, table=T.ARP_STANDBY)


def answer(external: External, address: int, mac: int, source: int | None, cookie: int) -> Flow:
    """An ARP request from outside for one of our addresses becomes its answer, sent from `source`; None: it is not answered here.

    The key is the same in both cases, so that one takes the other's place at once, and no answer outlives what it stood for.
    """
    return Flow(
        T.ARP_RESPONDER,
        Priority.ARP_ANSWER,
        match(metadata=ledger.metadata_network(external.tag), eth_type=0x0806, arp_op=1, arp_tpa=address),
        actions=(*arp.answer(address, mac, source), Resubmit(T.PROVIDER)) if source is not None else (),
        cookie=cookie,
    )


def neighbours_if(external: External, address: int, mac: int, tag: int, cookie: int) -> list[Flow]:
    """As `answer_if`, of an IPv6 address."""
    made = neighbours(external, address, mac, mac, cookie)
    asks = (ToGroup(ledger.answer_group(tag)),)
    asked = [msgspec.structs.replace(flow, actions=asks) for flow in made]
    return [*asked, *(msgspec.structs.replace(flow, table=T.ARP_STANDBY) for flow in made)]


def neighbours(external: External, address: int, mac: int, source: int | None, cookie: int) -> list[Flow]:
    """As `answer`, of an IPv6 address. A question that does not say where its answer shall go is answered to where it has come from, and
    who is about to take the address hears at once that it is taken: both without an option, there being none that could become another."""
    own, out = ledger.metadata_network(external.tag), (Resubmit(T.PROVIDER),)
    said: list[tuple[int, Match, tuple[Action, ...]]] = [(Priority.ND_KNOWN, nd.asked(address, own), ())]
    said += [
        (Priority.ND_BARE_ROUTER, nd.asked_barely(address, own), ()),
        (Priority.ND_DEFENDED, nd.wanted(address, own), ()),
    ]
    if source is not None:
        told = (
            (*nd.answer(address, mac, source, router=True), Resubmit(T.ND_ANSWER)),
            (*nd.answer(address, mac, source, router=True), *out),
            (*nd.defence(address, source), *out),
        )
        said = [(priority, seen, actions) for (priority, seen, _), actions in zip(said, told, strict=True)]
    return [Flow(T.IPV6_ND, priority, seen, actions=actions, cookie=cookie) for priority, seen, actions in said]


def sent_here(external: External, address: int, mac: int, *, served: bool, cookie: int) -> Flow:
    """What this compute sends to an address that it has a part in: it stays here if it is `served` here, else it goes by the wire."""
    own = ledger.metadata_network(external.tag)
    return Flow(
        T.SNAT,
        Priority.ADDRESS_HERE,
        match(metadata=own, eth_type=0x0800, ipv4_dst=address),
        actions=(CtClear(), Resubmit(T.PRE_DNAT)) if served else (SetField("eth_dst", mac),),
        goto=None if served else T.PROVIDER,
        cookie=cookie,
    )


def into_vrf(router: Router) -> tuple[Action, ...]:
    """From here on it is this router's, and not out of a tunnel any more: an answer may leave by one."""
    value, mask = ledger.metadata_vrf(router.tag)
    return (
        SetField("metadata", value, mask | ledger.SPLIT_HORIZON | ledger.NETWORK_MASK | ledger.LPORT_MASK),
        SetField(ledger.VRF_REG, router.tag),
    )


def floating(
    external: External,
    found: Floating,
    router: Router,
    lport: int,
    own_mac: int,
    *,
    answers: bool,
    guarded: bool = False,
    mtu: int = 0,
) -> Fragment:
    """One compute's: a floating IP that is exchanged here. `answers`: this is where the outside shall find it; where not, what leaves has
    the compute's own MAC, so that no switch outside learns two places of one. `guarded`: it answers once the router's owner is dead. `mtu`:
    that of the port's network."""
    cookie = ledger.cookie(Kind.PORT, Feature.FLOATING, lport)
    own, vrf = ledger.metadata_network(external.tag), ledger.metadata_vrf(router.tag)
    address, fixed = ipv4(found.address), ipv4(found.fixed)
    if address is None or fixed is None:
        return Fragment()
    return Fragment(
        (
            Flow(
                T.GATEWAY_MAC,
                Priority.GATEWAY,
                match(metadata=own, eth_type=0x0800, eth_dst=found.mac),
                goto=T.PRE_DNAT,
                cookie=cookie,
            ),
            Flow(
                T.PRE_DNAT,
                Priority.INBOUND,
                match(metadata=own, eth_type=0x0800, ipv4_dst=address),
                actions=(SetField("ipv4_dst", fixed), *into_vrf(router), Resubmit(T.FIB)),
                cookie=cookie,
            ),
            Flow(
                T.PRE_SNAT,
                Priority.FLOATING,
                match(metadata=vrf, eth_type=0x0800, ipv4_src=fixed),
                actions=(
                    SetField("ipv4_src", address),
                    # Guarded, it is the router's owner's place that it takes: whoever sends here finds that one dead.
                    SetField("eth_src", found.mac if answers or guarded else own_mac),
                    SetField("metadata", own[0], own[1] | ledger.LPORT_MASK | ledger.VRF_MASK | ledger.SPLIT_HORIZON),
                ),
                goto=T.SNAT,
                cookie=cookie,
            ),
            *(
                answer_if(external, address, found.mac, router.tag, cookie)
                if guarded and not answers
                else (answer(external, address, found.mac, found.mac if answers else None, cookie),)
            ),
            sent_here(external, address, found.mac, served=answers, cookie=cookie),
            *path_mtu.inbound(external, address, mtu, cookie),
        )
    )
