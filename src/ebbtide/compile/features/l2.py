"""L2 networks: from a port or a VNI to a network, from a MAC to a port and a compute, and flooding.

Everything above the classifier and the egress table is the same on every compute of the footprint (docs/decisions.md,
section 4). A frame that came out of a tunnel carries the split-horizon bit and enters no tunnel again. The two exceptions, a copy to
where a port is pending and what is forwarded to where it has gone, travel under a VNI of the port's own, which the far end delivers
to that port or drops: no loop can form, and a copied frame is never flooded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ebbtide.compile import ledger
from ebbtide.compile.features import base, security
from ebbtide.compile.features.security import Guard
from ebbtide.compile.flow import (
    Action,
    Bucket,
    Ct,
    Flow,
    Group,
    GroupType,
    M,
    Match,
    Output,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
    match,
)
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.facts import Binding, BindingPhase, Network, Port


def _evidence(port: Port) -> tuple[Action, ...]:
    """A copy of each frame to the controller: that is how it learns where the guest runs."""
    data = ledger.userdata(Punt.EVIDENCE, port.lport)
    return (ToController(max_len=64, userdata=data, meter_id=ledger.EVIDENCE_METER),)


def _deliver(port: Port, tunnel: int) -> tuple[Action, ...]:
    """Through a tunnel, for this port there and for nothing else: the far end never floods it and never sends it on."""
    return (SetField("tun_id", ledger.DELIVER_VNI | port.lport), Output(tunnel))


def network(net: Network, footprint: list[int]) -> Fragment:
    """Shared by the footprint: binding to the L2 service, VNI, and flooding to every compute in it."""
    cookie = ledger.cookie(Kind.NETWORK, Feature.L2, net.tag)
    elan = ledger.metadata_network(net.tag)
    flood, local = ledger.flood_group(net.tag), ledger.local_group(net.tag)
    large = len(footprint) > ledger.MAX_BUCKETS
    flows = (
        Flow(T.DISPATCHER, Priority.SERVICE, match(metadata=elan), goto=T.GATEWAY_MAC, cookie=cookie),
        Flow(
            T.TUNNEL_TERMINATION,
            Priority.VNI,
            match(tun_id=net.vni),
            actions=(SetField(ledger.NETWORK_REG, net.tag),),
            metadata=elan,
            goto=T.L2_DMAC,
            cookie=cookie,
        ),
        *(() if large else (_flood(net, flood),)),
        Flow(
            T.L2_UNKNOWN,
            Priority.FLOOD,
            match(metadata=ledger.metadata_flood(net.tag, from_tunnel=True)),
            actions=(ToGroup(local),),
            cookie=cookie,
        ),
    )
    buckets = tuple(Bucket((SetField(ledger.TO_COMPUTE_REG, n), Resubmit(T.EGRESS))) for n in sorted(footprint))
    if not large:
        return Fragment(flows, (Group(flood, GroupType.ALL, buckets),))
    more = _large_flood(net, buckets)
    return Fragment(flows + more.flows, more.groups)


def _flood(net: Network, group: int, eth_type: int = 0) -> Flow:
    """What a VM here floods: by that group to the other computes, and to the ports here."""
    kind = (M("eth_type", eth_type),) if eth_type else ()
    return Flow(
        T.L2_UNKNOWN,
        Priority.FLOOD_IP if eth_type else Priority.FLOOD,
        (*match(metadata=ledger.metadata_flood(net.tag, from_tunnel=False)), *kind),
        actions=(SetField("tun_id", net.vni), ToGroup(group), ToGroup(ledger.local_group(net.tag))),
        cookie=ledger.cookie(Kind.NETWORK, Feature.L2, net.tag),
    )


def _large_flood(net: Network, buckets: tuple[Bucket, ...]) -> Fragment:
    """A flood to more computes than one translation reaches: 64 kB of actions, 780 tunnels on Open vSwitch 3.1.0, and silently no more,
    whatever groups of groups there are. So each part is a translation of its own: the frame is cut off and comes back through conntrack
    (ovs-actions(7), ct with a table), in a zone where nothing is ever committed.

    The kernel's conntrack refuses what is neither IPv4 nor IPv6, and with it the whole flow; Open vSwitch's own lets it pass. So only IP
    is cut for all, and what else there is (ARP above all) is each compute's own affair: see `local_delivery`.
    """
    groups = _parts(ledger.flood_part, net.tag, buckets)
    cut = tuple(
        Bucket((SetField(ledger.PART_REG, part), Ct(zone=ledger.FLOOD_ZONE, table=T.L2_FLOOD_PART)))
        for part in range(len(groups))
    )
    value, mask = ledger.metadata_network(net.tag)
    flows = tuple(
        Flow(
            T.L2_FLOOD_PART,
            Priority.FLOOD,
            match(metadata=(value, mask), reg0=part),
            actions=(ToGroup(group.group_id),),
            cookie=ledger.cookie(Kind.NETWORK, Feature.L2, net.tag),
        )
        for part, group in enumerate(groups)
    )
    whole = tuple(Bucket((ToGroup(group.group_id),)) for group in groups)
    ip = tuple(_flood(net, ledger.flood_group(net.tag), kind) for kind in (0x0800, 0x86DD))
    tops = ((ledger.flood_group(net.tag), cut), (ledger.whole_group(net.tag), whole))
    return Fragment(ip + flows, (*groups, *(Group(number, GroupType.ALL, found) for number, found in tops)))


#: What follows for each port that a flooded frame is delivered to.
_HERE = (SetField(ledger.TO_COMPUTE_REG, 0), Resubmit(T.L2_FILTER))


def local_delivery(net: Network, here: list[Port], large: bool = False, userspace: bool = False) -> Fragment:
    """One compute's: deliver a flooded frame to each of its ports. `here`: ports bound here, not those leaving.

    `large`: the network is on more computes than one translation reaches for sure; then also how this compute floods what is not IP. A
    kernel datapath, which cannot cut that, sends as far as one translation goes.
    """
    buckets = tuple(
        Bucket((SetField(ledger.TO_LPORT_REG, port.lport), *_HERE)) for port in sorted(here, key=lambda p: p.lport)
    )
    whole = ledger.local_group(net.tag)
    by = ledger.flood_group(net.tag) if userspace else ledger.whole_group(net.tag)
    flows = (_flood(net, by),) if large else ()
    if len(buckets) <= ledger.MAX_BUCKETS:
        return Fragment(flows, (Group(whole, GroupType.ALL, buckets),))
    groups = _parts(ledger.local_part, net.tag, buckets)
    named = tuple(Bucket((ToGroup(group.group_id),)) for group in groups)
    return Fragment(flows, (*groups, Group(whole, GroupType.ALL, named)))


def _parts(part_id: Callable[[int, int], int], tag: int, buckets: tuple[Bucket, ...]) -> tuple[Group, ...]:
    """Sub-groups that each fit into a message (64 KB; 1,100 buckets killed a connection)."""
    parts = [buckets[i : i + ledger.MAX_BUCKETS] for i in range(0, len(buckets), ledger.MAX_BUCKETS)]
    return tuple(Group(part_id(tag, i), GroupType.ALL, part) for i, part in enumerate(parts))


def known_mac(net: Network, port: Port, active: Binding, others: Iterable[int] = ()) -> Fragment:
    """Shared by the footprint: where the port's MAC is. `others`: MACs that have answered behind it."""
    own = (port.mac, Priority.KNOWN_MAC, Feature.L2)
    flows = tuple(
        Flow(
            T.L2_DMAC,
            priority,
            (M("eth_dst", mac), M("metadata", *ledger.metadata_network(net.tag))),
            actions=(
                SetField(ledger.TO_LPORT_REG, port.lport),
                SetField(ledger.TO_COMPUTE_REG, active.compute),
                SetField("tun_id", net.vni),
            ),
            goto=T.L2_FILTER,
            cookie=ledger.cookie(Kind.PORT, feature, port.lport),
        )
        for mac, priority, feature in (own, *((m, Priority.LEARNT_MAC, Feature.SUBNET_ROUTE) for m in others))
    )
    return Fragment(flows)


def _classifier(net: Network, port: Port, ofport: int, guard: Guard | None, evidence: tuple[Action, ...]) -> Flow:
    """From a port to its network, past its security if it has one."""
    lport, elan = ledger.metadata_lport(port.lport), ledger.metadata_network(net.tag)
    zone = (SetField(ledger.OUT_ZONE_REG, guard.zone),) if guard is not None else ()
    return Flow(
        T.CLASSIFIER,
        Priority.VM_UNTAGGED,
        match(in_port=ofport),
        actions=(*evidence, *base.RECORD_INPUT, SetField(ledger.NETWORK_REG, net.tag), *zone),
        metadata=(lport[0] | elan[0], lport[1] | elan[1]),
        goto=T.SECURITY_OUT if guard is not None else T.DISPATCHER,
        cookie=ledger.cookie(Kind.PORT, Feature.L2, port.lport),
    )


def plugged(
    net: Network, port: Port, binding: Binding, ofport: int, copy_to: int, guard: Guard | None = None
) -> Fragment:
    """One compute's: a port bound here as pending or active.

    `ofport`: its OpenFlow port. `guard`: of a secured one. `copy_to`: the tunnel's OpenFlow port to the compute where the port is pending
    (0: none); what is delivered to the port is copied there, so that a guest misses nothing at the instant it wakes at the other end.
    """
    cookie = ledger.cookie(Kind.PORT, Feature.L2, port.lport)
    pending = binding.phase is BindingPhase.PENDING
    evidence = _evidence(port) if pending else ()
    lport = ledger.metadata_lport(port.lport)
    here = {"reg6": port.lport}
    admitted = (SetField(ledger.ADMITTED_REG, ledger.ADMITTED),) if guard is not None else ()
    flows = [
        _classifier(net, port, ofport, guard, evidence),
        Flow(T.L2_FILTER, Priority.REFLECTION, match(metadata=lport, reg6=port.lport), cookie=cookie),
        Flow(
            T.TUNNEL_TERMINATION,
            Priority.VNI,
            match(tun_id=ledger.DELIVER_VNI | port.lport),
            actions=(SetField(ledger.TO_LPORT_REG, port.lport), SetField(ledger.TO_COMPUTE_REG, 0), *admitted),
            goto=T.EGRESS,
            cookie=cookie,
        ),
    ]
    out: tuple[Action, ...] = (Output(ofport),)
    rows = [(Priority.TO_LOCAL, match(**here, reg5=0), out)]
    if pending:
        # Only what comes from elsewhere: this compute's own VMs still send to where the port is active. It has the key of
        # `leaving`'s row and takes its place at once: a row that forwards must not outlive the flip back, or two computes would
        # forward to each other until it is taken away. And it is below what an active port has, whom a row left over must not hide.
        seen = match(**here, metadata=(ledger.SPLIT_HORIZON, ledger.SPLIT_HORIZON))
        rows.append((Priority.FORWARD, seen, out))
    else:
        copy = _deliver(port, copy_to) if copy_to else ()
        rows.append((Priority.TO_LOCAL, match(**here, reg5=binding.compute), (*out, *copy)))
    flows += security.delivery(port, guard, net, rows)
    if guard is not None:
        flows += [*security.port(net, port, guard), *security.arrivals(net, port)]
    return Fragment(tuple(flows), meters=security.meter(guard))


def relay(net: Network, port: Port, binding: Binding, copy_to: int, guard: Guard | None = None) -> Fragment:
    """One compute's: a port that is active here, its interface gone already, and pending elsewhere: all of it goes there."""
    row = Priority.TO_LOCAL, match(reg6=port.lport, reg5=binding.compute), _deliver(port, copy_to)
    return Fragment(tuple(_onward(net, port, guard, row, copy_to)), meters=security.meter(guard))


def _onward(
    net: Network, port: Port, guard: Guard | None, row: tuple[int, Match, tuple[Action, ...]], tunnel: int
) -> Iterator[Flow]:
    """All that comes for a port goes on to its other place, past its security here if it has one."""
    yield from security.delivery(port, guard, net, [row])
    if guard is not None:
        yield from security.port(net, port, guard)
        yield from security.passed_on(net, port, tunnel)


def leaving(net: Network, port: Port, ofport: int, forward_to: int, guard: Guard | None = None) -> Fragment:
    """One compute's: a port that has moved away. What still arrives for it goes on to its new place.

    `ofport` 0: its interface is gone already. `forward_to`: the tunnel's OpenFlow port towards the new place (0: none yet).
    """
    flows: list[Flow] = []
    if forward_to:
        seen = match(reg6=port.lport, metadata=(ledger.SPLIT_HORIZON, ledger.SPLIT_HORIZON))
        flows += _onward(net, port, guard, (Priority.FORWARD, seen, _deliver(port, forward_to)), forward_to)
    elif ofport and guard is not None:
        flows += security.port(net, port, guard)
    if ofport:
        flows.append(_classifier(net, port, ofport, guard, _evidence(port)))
    return Fragment(tuple(flows), meters=security.meter(guard) if flows else ())
