"""Routers: each compute routes for its own VMs. All that is here is the same bytes on every compute of a router's reach.

A packet for the router's MAC enters the router's VRF (table 19), is answered if it is a ping for one of the router's own addresses
(table 21), or goes to where its destination is, with the MACs, the VNI and the network of that place. What has no route but the default
one leaves towards the network outside (table 26: `nat`, `floating`). RFC 1812 for TTL; RFC 792 for echo.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ebbtide.compile import ledger
from ebbtide.compile.features import arp
from ebbtide.compile.flow import DecTtl, Flow, M, Move, SetField, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import ipv4, prefix, split_route
from ebbtide.model.facts import Binding, Learnt, Network, Port, RouterPort

_ECHO_REQUEST, _ECHO_REPLY, _TTL = 8, 0, 64


Places = Sequence[tuple[RouterPort, Network]]


def router(tag: int, legs: Places, seen: Places = (), *, external: bool = False) -> Fragment:
    """Shared by the reach of a VRF, a router's or a VPN's: its own addresses, TTL, its subnets and the way out. IPv6 is not routed.

    `legs`: its own places. `seen`: those of other VRFs that it has routes to. `external`: whether a default route leads outside.
    """
    cookie = ledger.cookie(Kind.ROUTER, Feature.ROUTER, tag)
    vrf = ledger.metadata_vrf(tag)
    flows = []
    subnets = {leg.subnet: net for leg, net in seen}
    # A network with several subnets has the router's MAC once.
    known: set[tuple[int, int]] = set()
    for leg, net in legs:
        own, address = ledger.metadata_network(net.tag), ipv4(leg.address)
        if address is None:
            continue
        subnets[leg.subnet] = net
        if (net.tag, leg.mac) not in known:
            known.add((net.tag, leg.mac))
            flows.append(_answer_to_us(net, leg.mac, cookie))
            flows.append(
                Flow(
                    T.GATEWAY_MAC,
                    Priority.GATEWAY,
                    # Untagged: what a VM tags would leave by the provider port on a VLAN of the VM's choice.
                    match(metadata=own, eth_dst=leg.mac, eth_type=0x0800, vlan_vid=0),
                    actions=(SetField(ledger.VRF_REG, tag),),
                    metadata=vrf,
                    goto=T.FIB,
                    cookie=cookie,
                )
            )
        flows.append(
            Flow(
                T.ARP_RESPONDER,
                Priority.ARP_ANSWER,
                match(metadata=own, eth_type=0x0806, arp_op=1, arp_tpa=address),
                actions=(*arp.answer(address, leg.mac, leg.mac), *arp.TO_SENDER),
                goto=T.EGRESS,
                cookie=cookie,
            )
        )
        flows += _own_address(vrf, address, cookie)
    for leg, _ in seen:
        # A gateway that is routed to answers in the sender's own switch too: where it stands, nobody is it.
        flows += _own_address(vrf, ipv4(leg.address) or 0, cookie)
    for text, net in sorted(subnets.items()):
        address, mask, length = prefix(text)
        flows.append(
            Flow(
                T.FIB,
                Priority.ROUTE + length,
                match(metadata=vrf, eth_type=0x0800, ipv4_dst=(address, mask)),
                metadata=ledger.metadata_network(net.tag),
                goto=T.SUBNET_ROUTE,
                cookie=cookie,
            )
        )
    if legs:
        flows += _expired(tag, vrf, cookie)
    if external and legs:
        flows.append(
            Flow(
                T.FIB,
                Priority.ROUTE,
                match(metadata=vrf, eth_type=0x0800),
                actions=(DecTtl(),),
                goto=T.PRE_SNAT,
                cookie=cookie,
            )
        )
    return Fragment(tuple(flows))


def _answer_to_us(net: Network, mac: int, cookie: int) -> Flow:
    """An ARP answer to the router's own MAC: the controller has asked (`runtime/hidden.py`), and nobody else wants it."""
    said = match(metadata=ledger.metadata_network(net.tag), eth_type=0x0806, arp_op=2, eth_dst=mac)
    data = ledger.userdata(Punt.ANSWER, net.tag)
    punt = ToController(max_len=64, userdata=data, meter_id=ledger.ANSWER_METER)
    return Flow(T.ARP_CHECK, Priority.ANSWER_TO_US, said, actions=(punt,), cookie=cookie)


def _own_address(vrf: tuple[int, int], address: int, cookie: int) -> list[Flow]:
    echo = match(metadata=vrf, eth_type=0x0800, ip_proto=1, icmpv4_type=_ECHO_REQUEST, ipv4_dst=address)
    answer = (
        Move("eth_src", ledger.SCRATCH_MAC, 48),
        Move("eth_dst", "eth_src", 48),
        Move(ledger.SCRATCH_MAC, "eth_dst", 48),
        Move("ipv4_src", "ipv4_dst", 32),
        SetField("ipv4_src", address),
        SetField("icmpv4_type", _ECHO_REPLY),
        SetField("nw_ttl", _TTL),
        *arp.TO_SENDER,
    )
    return [
        Flow(T.FIB, Priority.OWN_PING, echo, actions=answer, goto=T.EGRESS, cookie=cookie),
        Flow(T.FIB, Priority.OWN_ADDRESS, match(metadata=vrf, eth_type=0x0800, ipv4_dst=address), cookie=cookie),
    ]


def _expired(tag: int, vrf: tuple[int, int], cookie: int) -> list[Flow]:
    """A TTL that ends here: the controller tells the sender (metered), and the packet goes no further."""
    data = ledger.userdata(Punt.EXPIRED, tag)
    punt = ToController(max_len=128, userdata=data, meter_id=ledger.EXPIRED_METER)
    return [
        Flow(T.FIB, Priority.EXPIRED, match(metadata=vrf, eth_type=0x0800, nw_ttl=1), actions=(punt,), cookie=cookie),
        Flow(T.FIB, Priority.EXPIRED, match(metadata=vrf, eth_type=0x0800, nw_ttl=0), cookie=cookie),
    ]


def routes(
    net: Network,
    port: Port,
    active: Binding,
    tag: int,
    legs: Sequence[RouterPort],
    extra: Iterable[str] = (),
    learnt: Iterable[Learnt] = (),
) -> Fragment:
    """Shared by a VRF's reach: the way to each of the port's addresses, and by them to what is behind it.

    `tag`: the VRF's. `legs`: the places in the port's network that it has routes to. `extra`: extra routes, which may lead by the port.
    `learnt`: addresses that nobody gave the port, and that answer behind it.
    """
    given, found = (ledger.cookie(Kind.PORT, feature, port.lport) for feature in (Feature.ROUTER, Feature.SUBNET_ROUTE))
    held = [*((text, port.mac, given) for text in port.addresses), *((x.address, x.mac, found) for x in learnt)]
    vrf = ledger.metadata_vrf(tag)
    flows: list[Flow] = []
    for text, mac, cookie in held:
        address = ipv4(text)
        leg = next((g for g in legs if address is not None and _holds(g.subnet, address)), None)
        if leg is None or address is None:
            continue
        to = (
            DecTtl(),
            SetField("eth_src", leg.mac),
            SetField("eth_dst", mac),
            SetField(ledger.TO_LPORT_REG, port.lport),
            SetField(ledger.TO_COMPUTE_REG, active.compute),
            SetField("tun_id", net.vni),
        )
        ways = [(address, 0xFFFFFFFF, 32)]
        ways += [prefix(way) for way, via in map(split_route, extra) if via == text]
        flows += [
            Flow(
                T.FIB,
                Priority.ROUTE + length,
                (
                    M("eth_type", 0x0800),
                    M("ipv4_dst", value, None if length == 32 else mask),
                    M("metadata", *vrf),
                ),
                actions=to,
                goto=T.L2_FILTER,
                cookie=cookie,
            )
            for value, mask, length in ways
        ]
    return Fragment(tuple(flows))


def _holds(subnet: str, address: int) -> bool:
    if ":" in subnet:
        return False
    value, mask, _ = prefix(subnet)
    return address & mask == value
