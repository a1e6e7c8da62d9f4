"""Subnet routes: what is sent to an address of a connected subnet that nobody is known to have goes to the subnet's designated compute.

There the first packet to an address goes to the controller, which asks the network for it by ARP (`runtime/hidden.py`), and the next ones
are dropped until the answer is there, or the hold-off over. (A switch that is busy may punt some more until its cached flows follow: the
controller asks once all the same.) What has answered is a route of
its own on every compute (`l3.routes`), and passes nobody's designated compute any more.

The table of the FIB has written the destination's network into the metadata (`l3.router`): what is here knows networks, not VRFs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ebbtide.compile import families, ledger
from ebbtide.compile.families import Family
from ebbtide.compile.features import nd
from ebbtide.compile.flow import Action, Flow, Learn, LearnMatch, M, Resubmit, SetField, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import ends, ipv4, prefix
from ebbtide.model.facts import Learnt, Network, Port

#: Addresses of a network that are held off at one compute. Beyond that a packet is only metered: what a scan asks for leaves nobody else's
#: address without a question for as long as the hold-off lasts (measured: without a limit 2,701 of 3,000 addresses were).
LIMIT = 200


def _cookie(net: Network) -> int:
    return ledger.cookie(Kind.NETWORK, Feature.SUBNET_ROUTE, net.tag)


def _within(metadata: tuple[int, int], subnet: str) -> tuple[M, ...]:
    value, mask, _ = prefix(subnet)
    return match(metadata=metadata, **families.of(subnet).to(value, mask))


def towards(net: Network, designated: Mapping[str, int]) -> Fragment:
    """Shared by all who have a route to the network: to whom its subnets' unknown addresses go.

    `designated`: subnet -> compute (0: nobody).
    The subnet's own address and its broadcast address are nobody's; without a designated compute nothing is sent, and the row counts it.
    Of what VMs here ask about addresses that nobody is known to have, a few are looked at: one that asks for its own has just come up.
    """
    flows = []
    if any(":" not in subnet for subnet in designated):
        flows.append(_announced(net))
    if any(":" in subnet for subnet in designated):
        flows += nd.announced(net, _cookie(net))
    for subnet, compute in sorted(designated.items()):
        for address in sorted(ends(subnet)):
            nobody = match(metadata=ledger.metadata_network(net.tag), **families.of(subnet).to(address))
            flows.append(Flow(T.SUBNET_ROUTE, Priority.NO_HOST, nobody, cookie=_cookie(net)))
        if ":" in subnet:
            flows.append(_from_outside(net, subnet))
        to: tuple[Action, ...] = (
            SetField("tun_id", ledger.subnet_vni(net.tag)),
            SetField(ledger.TO_LPORT_REG, 0),
            SetField(ledger.TO_COMPUTE_REG, compute),
        )
        flows.append(
            Flow(
                T.SUBNET_ROUTE,
                Priority.HIDDEN,
                _within(ledger.metadata_network(net.tag), subnet),
                actions=to if compute else (),
                goto=T.EGRESS if compute else None,
                cookie=_cookie(net),
            )
        )
    return Fragment(tuple(flows))


def _from_outside(net: Network, subnet: str) -> Flow:
    """What comes from outside for addresses that nobody is known to have: a few a second are asked for, the rest is dropped."""
    value, mask = ledger.metadata_network(net.tag)
    nobody = value, mask | ledger.LPORT_MASK | ledger.SPLIT_HORIZON
    mark = SetField("metadata", *ledger.metadata_lport(ledger.NO_LPORT))
    return Flow(
        T.SUBNET_ROUTE,
        Priority.FROM_OUTSIDE,
        _within(nobody, subnet),
        actions=(mark, Resubmit(T.SUBNET_ROUTE)),
        meter=ledger.OUTSIDE_HIDDEN_METER,
        cookie=_cookie(net),
    )


def _announced(net: Network) -> Flow:
    value, mask = ledger.metadata_network(net.tag)
    asked = match(metadata=(value, mask | ledger.SPLIT_HORIZON), eth_type=0x0806, arp_op=1)
    data = ledger.userdata(Punt.ANNOUNCED, net.tag)
    punt = ToController(max_len=64, userdata=data, meter_id=ledger.ANNOUNCED_METER)
    return Flow(T.ARP_RESPONDER, Priority.ANNOUNCED, asked, actions=(punt, Resubmit(T.L2_BASE)), cookie=_cookie(net))


def here(net: Network, designated: Iterable[str], standing_by: Iterable[str], hold_off: int) -> Fragment:
    """One compute's, of the subnets that it is designated for, and of those that it stands by for: these it serves if somebody sends to it.

    `hold_off`: seconds for which a question for an address is not repeated; 0: each packet is one.
    """
    cookie = _cookie(net)
    own = ledger.metadata_network(net.tag)
    arrived = own[0] | ledger.SPLIT_HORIZON, own[1] | ledger.SPLIT_HORIZON
    # Whole: it is sent on when the answer is there.
    punt = ToController(userdata=ledger.userdata(Punt.HIDDEN, net.tag), meter_id=ledger.HIDDEN_METER)

    def ask(family: Family) -> tuple[Action, ...]:
        return (_held_off(net, family, hold_off), punt) if hold_off else (punt,)

    mine = sorted(set(designated))
    others = sorted(set(standing_by) - set(mine))
    if not mine and not others:
        return Fragment()
    flows = [
        Flow(
            T.TUNNEL_TERMINATION,
            Priority.RELATION,
            match(tun_id=ledger.subnet_vni(net.tag)),
            actions=(SetField("metadata", *arrived), Resubmit(T.SUBNET_ROUTE)),
            cookie=cookie,
        )
    ]
    # Whoever stands by asks for what others send it, and for nothing of its own: one question an address is enough.
    for metadata, subnets in ((own, mine), (arrived, others)):
        flows += [
            Flow(
                T.SUBNET_ROUTE,
                Priority.HIDDEN_HERE,
                _within(metadata, subnet),
                actions=ask(families.of(subnet)),
                cookie=cookie,
            )
            for subnet in subnets
        ]
    return Fragment(tuple(flows))


def _held_off(net: Network, family: Family, seconds: int) -> Learn:
    return Learn(
        table=T.SUBNET_ROUTE,
        priority=Priority.HELD_OFF,
        cookie=ledger.held_off_cookie(net.tag),
        hard_timeout=seconds,
        limit=LIMIT,
        specs=(
            LearnMatch("eth_type", 16, value=family.ethertype),
            LearnMatch("metadata", ledger.NETWORK_BITS, ledger.NETWORK_SHIFT, "metadata", ledger.NETWORK_SHIFT),
            LearnMatch(family.dst, family.bits, src=family.dst),
        ),
    )


def claims(net: Network, port: Port, learnt: Iterable[Learnt]) -> Fragment:
    """Shared by the network's footprint: a copy of what anybody but its holder says under a learnt address (gratuitous ARP above all)."""
    cookie = ledger.cookie(Kind.PORT, Feature.SUBNET_ROUTE, port.lport)
    elan = ledger.metadata_network(net.tag)
    lport = ledger.metadata_lport(port.lport)
    punt = ToController(max_len=64, userdata=ledger.userdata(Punt.CLAIM, net.tag), meter_id=ledger.CLAIM_METER)
    flows = []
    for found in learnt:
        address = ipv4(found.address)
        if address is None:
            continue
        said = {"eth_type": 0x0806, "arp_spa": address}
        # From VMs here: what comes out of a tunnel has been looked at where it entered.
        anybody = (elan[0], elan[1] | ledger.SPLIT_HORIZON)
        holder = (elan[0] | lport[0], elan[1] | lport[1])
        for priority, who, actions in (
            (Priority.CLAIM, anybody, (punt,)),
            (Priority.OWN_CLAIM, holder, ()),
        ):
            flows.append(
                Flow(
                    T.ARP_CHECK,
                    priority,
                    match(metadata=who, **said),
                    actions=actions,
                    goto=T.ARP_RESPONDER,
                    cookie=cookie,
                )
            )
    return Fragment(tuple(flows))
