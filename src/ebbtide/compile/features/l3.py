"""Routers: each compute routes for its own VMs. All that is here is the same bytes on every compute of a router's reach.

A packet for the router's MAC enters the router's VRF (table 19), is answered if it is a ping for one of the router's own addresses
(table 21), or goes to where its destination is, with the MACs, the VNI and the network of that place. What has no route but the default
one leaves towards the network outside (table 26: `nat`, `floating`; IPv6 by `nat` as well, untranslated). RFC 1812 for TTL; RFC 792 and
RFC 4443 for echo; RFC 4291 for what of IPv6 is not routed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ebbtide.compile import families, ledger
from ebbtide.compile.families import IPV4, IPV6, Family
from ebbtide.compile.features import arp, nd, path_mtu
from ebbtide.compile.flow import Action, DecTtl, Flow, M, Move, SetField, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import holds, link_local, number, prefix, split_route
from ebbtide.model.facts import Binding, Learnt, Network, Port, RouterPort

_TTL = 64
#: Of IPv6: link-local, multicast, unspecified and loopback, and IPv4 in IPv6's clothes (RFC 4291, 2.5).
_NOT_ROUTED = tuple(prefix(text)[:2] for text in ("fe80::/10", "ff00::/8", "::/127", "::ffff:0:0/96"))


Places = Sequence[tuple[RouterPort, Network]]
_NONE: path_mtu.Widths = {}


def router(
    tag: int,
    legs: Places,
    seen: Places = (),
    *,
    external: bool = False,
    leaving: Collection[str] = (),
    widths: path_mtu.Widths = _NONE,
) -> Fragment:
    """Shared by the reach of a VRF, a router's or a VPN's: its own addresses, TTL, its subnets and the way out.

    `legs`: its own places. `seen`: those of other VRFs that it has routes to. `external`: whether a default route leads outside;
    `leaving`: the IPv6 prefixes from which it does. `widths`: the MTU of all that it has routes to.
    """
    cookie = ledger.cookie(Kind.ROUTER, Feature.ROUTER, tag)
    vrf = ledger.metadata_vrf(tag)
    flows = []
    subnets = {leg.subnet: net for leg, net in [*seen, *legs]}
    # A network with several subnets has the router's MAC once.
    macs = {(net.tag, leg.mac): net for leg, net in legs}
    for (_, mac), net in macs.items():
        flows.append(_answer_to_us(net, mac, cookie))
    for family in sorted({families.of(leg.address) for leg, _ in [*legs, *seen]}):
        # Whoever has a route here, a packet may come to it: by a floating IP, too, to what only others have a place in.
        flows += _expired(family, tag, vrf, cookie)
    for family, entrances in _entrances(legs).items():
        for where, mac in sorted(entrances):
            net = macs[where, mac]
            flows.append(_entrance(family, net, mac, tag, path_mtu.measured(net, widths), cookie))
        anywhere: dict[str, int | tuple[int, int]] = {"metadata": vrf, "eth_type": family.ethertype}
        ways: list[dict[str, int | tuple[int, int]]] = [{}] if external and family is IPV4 else []
        if family is IPV6:
            ways = [{"ipv6_src": prefix(text)[:2]} for text in sorted(leaving)]
            # A VM prefers IPv6 where it has both, and is not to wait for what has no way (RFC 4443, 3.1).
            flows.append(Flow(T.FIB, Priority.NO_WAY, match(**anywhere), actions=(_told(tag),), cookie=cookie))
        flows += [
            Flow(T.FIB, Priority.ROUTE, match(**anywhere, **way), actions=(DecTtl(),), goto=T.PRE_SNAT, cookie=cookie)
            for way in ways
        ]
    for leg, net in legs:
        if families.of(leg.address) is IPV4:
            flows.append(_answers_arp(net, leg, cookie))
    flows += _neighbour(legs, cookie)
    # A gateway that is routed to answers in the sender's own switch too: where it stands, nobody is it.
    own = {(families.of(leg.address), number(leg.address)) for leg, _ in [*legs, *seen]}
    own |= {(IPV6, link_local(mac)) for _, mac in _entrances(legs).get(IPV6, ())}
    for family, address in sorted(own):
        flows += _own_address(family, vrf, address, cookie)
    for text, net in sorted(subnets.items()):
        address, mask, length = prefix(text)
        flows.append(
            Flow(
                T.FIB,
                Priority.ROUTE + length,
                match(metadata=vrf, **families.of(text).to(address, mask)),
                metadata=ledger.metadata_network(net.tag),
                goto=T.SUBNET_ROUTE,
                cookie=cookie,
            )
        )
    if legs:
        flows += path_mtu.band(tag, (net for _, net in legs), widths)
    return Fragment(tuple(flows))


def _entrances(legs: Places) -> dict[Family, set[tuple[int, int]]]:
    """Network and MAC of a VRF's places, by family."""
    found: dict[Family, set[tuple[int, int]]] = {}
    for leg, net in legs:
        found.setdefault(families.of(leg.address), set()).add((net.tag, leg.mac))
    return found


def _entrance(family: Family, net: Network, mac: int, tag: int, size: tuple[Action, ...], cookie: int) -> Flow:
    return Flow(
        T.GATEWAY_MAC,
        Priority.GATEWAY,
        # Untagged: what a VM tags would leave by the provider port on a VLAN of the VM's choice.
        match(metadata=ledger.metadata_network(net.tag), eth_dst=mac, eth_type=family.ethertype, vlan_vid=0),
        actions=(SetField(ledger.VRF_REG, tag), *size),
        metadata=ledger.metadata_vrf(tag),
        goto=T.FIB,
        cookie=cookie,
    )


def _answers_arp(net: Network, leg: RouterPort, cookie: int) -> Flow:
    address = number(leg.address)
    return Flow(
        T.ARP_RESPONDER,
        Priority.ARP_ANSWER,
        match(metadata=ledger.metadata_network(net.tag), eth_type=0x0806, arp_op=1, arp_tpa=address),
        actions=(*arp.answer(address, leg.mac, leg.mac), *arp.TO_SENDER),
        goto=T.EGRESS,
        cookie=cookie,
    )


def _neighbour(legs: Places, cookie: int) -> list[Flow]:
    """Neighbour discovery of a VRF's own addresses, and of the link-local one under which it advertises itself (RFC 4861, 6.1.2)."""
    targets: dict[tuple[int, int], set[int]] = {}
    nets = {net.tag: net for _, net in legs}
    for leg, net in legs:
        if families.of(leg.address) is IPV6:
            targets.setdefault((net.tag, leg.mac), {link_local(leg.mac)}).add(number(leg.address))
    flows = []
    for (tag, mac), found in sorted(targets.items()):
        flows += nd.router(nets[tag], mac, found, cookie)
    return flows


def _answer_to_us(net: Network, mac: int, cookie: int) -> Flow:
    """An ARP answer to the router's own MAC: the controller has asked (`runtime/hidden.py`), and nobody else wants it."""
    said = match(metadata=ledger.metadata_network(net.tag), eth_type=0x0806, arp_op=2, eth_dst=mac)
    data = ledger.userdata(Punt.ANSWER, net.tag)
    punt = ToController(max_len=64, userdata=data, meter_id=ledger.ANSWER_METER)
    return Flow(T.ARP_CHECK, Priority.ANSWER_TO_US, said, actions=(punt,), cookie=cookie)


def _own_address(family: Family, vrf: tuple[int, int], address: int, cookie: int) -> list[Flow]:
    to: dict[str, int | tuple[int, int]] = {"metadata": vrf, **family.to(address)}
    echo = match(**to, ip_proto=family.icmp, **{family.icmp_type: family.echo_request})
    answer = (
        Move("eth_src", ledger.SCRATCH_MAC, 48),
        Move("eth_dst", "eth_src", 48),
        Move(ledger.SCRATCH_MAC, "eth_dst", 48),
        Move(family.src, family.dst, family.bits),
        SetField(family.src, address),
        SetField(family.icmp_type, family.echo_reply),
        SetField("nw_ttl", _TTL),
        *arp.TO_SENDER,
    )
    return [
        Flow(T.FIB, Priority.OWN_PING, echo, actions=answer, goto=T.EGRESS, cookie=cookie),
        Flow(T.FIB, Priority.OWN_ADDRESS, match(**to), cookie=cookie),
    ]


def _told(tag: int) -> ToController:
    """What the controller tells the sender that it gets no further."""
    return ToController(max_len=128, userdata=ledger.userdata(Punt.EXPIRED, tag), meter_id=ledger.EXPIRED_METER)


def _expired(family: Family, tag: int, vrf: tuple[int, int], cookie: int) -> list[Flow]:
    """A TTL that ends here: the controller tells the sender (metered), and it goes no further; nor what is for a link alone."""
    punt = _told(tag)
    ours: dict[str, int | tuple[int, int]] = {"metadata": vrf, "eth_type": family.ethertype}
    flows = [
        Flow(T.FIB, Priority.EXPIRED, match(**ours, nw_ttl=1), actions=(punt,), cookie=cookie),
        Flow(T.FIB, Priority.EXPIRED, match(**ours, nw_ttl=0), cookie=cookie),
    ]
    if family is IPV6:
        flows += [
            Flow(T.FIB, Priority.NOT_ROUTED, match(**ours, **{end: value}), cookie=cookie)
            for end in (family.src, family.dst)
            for value in _NOT_ROUTED
        ]
    return flows


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
        leg = next((g for g in legs if holds(g.subnet, text)), None)
        if leg is None:
            continue
        family = families.of(text)
        to = (
            DecTtl(),
            SetField("eth_src", leg.mac),
            SetField("eth_dst", mac),
            SetField(ledger.TO_LPORT_REG, port.lport),
            SetField(ledger.TO_COMPUTE_REG, active.compute),
            SetField("tun_id", net.vni),
        )
        ways = [(number(text), family.all_ones, family.bits)]
        ways += [prefix(way) for way, via in map(split_route, extra) if via == text]
        flows += [
            Flow(
                T.FIB,
                Priority.ROUTE + length,
                (M("eth_type", family.ethertype), family.target(value, mask), M("metadata", *vrf)),
                actions=to,
                goto=T.L2_FILTER,
                cookie=cookie,
            )
            for value, mask, length in ways
        ]
    return Fragment(tuple(flows))
