"""The metadata service of a VM, 169.254.169.254, where an agent runs on the VM's own compute.

A VM's TCP to it is taken before any router or network is asked, whatever MAC it was sent to, and shown to the agent as of an address that
is made of the port's lport: so the agent knows who asks, and VMs of two networks may have the same address. Conntrack's label of the
connection keeps what the answer needs: the VM's address and the two MACs. Nothing in a packet but the port of entry says who it is of.

The agent's port sends answers of such connections and nothing else, and gets nothing else. What passes needs no security group's rule, as
with DHCP; but a secured port sends from its own MAC and addresses only.
"""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.features import arp, base
from ebbtide.compile.flow import Ct, Flow, Meter, Move, Output, Resubmit, SetField, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.model.facts import Port

_ARP, _IPV4, _TCP = 0x0806, 0x0800, 6
# ct_state, as (value, mask): new 0x01, est 0x02, rpl 0x08, inv 0x10, trk 0x20.
_NEW, _ASKED, _ANSWERED = (0x21, 0x31), (0x22, 0x3A), (0x2A, 0x3A)
_ASKING = match(
    eth_type=_IPV4, ip_proto=_TCP, ipv4_dst=ledger.METADATA_ADDRESS, tcp_dst=ledger.METADATA_PORT, vlan_vid=0
)
_TRACK = Ct(zone=ledger.METADATA_ZONE, table=T.METADATA)
#: The VM's address while it is asked under another, then in the label: address, its MAC, and the MAC that it has sent to.
_OWN = "reg0"
_LABEL = ((_OWN, "ipv4_dst", 32, 0), ("eth_src", "eth_dst", 48, 32), ("eth_dst", "eth_src", 48, 80))


def served(agent: int) -> Fragment:
    """One compute's, with a metadata agent at that OpenFlow port."""
    cookie = ledger.cookie(Kind.BASE, Feature.METADATA)

    by_lport = Move("metadata", "ipv4_src", ledger.LPORT_BITS, src_offset=ledger.LPORT_SHIFT)
    asked = (Move("ipv4_src", _OWN, 32), SetField("ipv4_src", ledger.AGENT_PREFIX), by_lport, _TRACK)
    to_lport = (Move("ipv4_dst", ledger.TO_LPORT_REG, ledger.LPORT_BITS), SetField(ledger.TO_COMPUTE_REG, 0))
    answers = match(
        in_port=agent,
        eth_type=_IPV4,
        ip_proto=_TCP,
        ipv4_src=ledger.METADATA_ADDRESS,
        ipv4_dst=(ledger.AGENT_PREFIX, ledger.AGENT_MASK),
        tcp_src=ledger.METADATA_PORT,
    )
    wanted = match(eth_type=_ARP, arp_op=1, arp_tpa=ledger.METADATA_ADDRESS, vlan_vid=0)
    answer = arp.answer(ledger.METADATA_ADDRESS, ledger.METADATA_MAC, ledger.METADATA_MAC)
    back = tuple(Move("ct_label", field, bits, src_offset=at) for _, field, bits, at in _LABEL)
    flows = (
        Flow(T.CLASSIFIER, Priority.FROM_AGENT, answers, (*base.RECORD_INPUT, *to_lport, _TRACK), cookie=cookie),
        Flow(T.DISPATCHER, Priority.METADATA, _ASKING, asked, cookie=cookie),
        Flow(T.DISPATCHER, Priority.METADATA, wanted, (*answer, *arp.TO_SENDER), goto=T.EGRESS, cookie=cookie),
        # Nobody else is to be flooded with what is for it.
        Flow(T.DISPATCHER, Priority.METADATA_ELSE, match(eth_dst=ledger.METADATA_MAC), cookie=cookie),
        Flow(
            T.METADATA,
            Priority.METADATA_ASKED,
            match(ct_state=_ASKED, eth_type=_IPV4),
            (SetField("eth_dst", ledger.METADATA_MAC), Output(agent)),
            cookie=cookie,
        ),
        Flow(
            T.METADATA,
            Priority.METADATA_ANSWERED,
            match(ct_state=_ANSWERED, eth_type=_IPV4),
            back,
            goto=T.EGRESS,
            cookie=cookie,
        ),
        Flow(T.OUT_KIND, Priority.WITHOUT_CONNTRACK, _ASKING, (Resubmit(T.DISPATCHER),), cookie=cookie),
        Flow(
            T.IN_KIND,
            Priority.WITHOUT_CONNTRACK,
            match(ct_state=_ANSWERED, ct_zone=ledger.METADATA_ZONE, eth_type=_IPV4),
            goto=T.IN_DELIVER,
            cookie=cookie,
        ),
    )
    return Fragment(flows)


def asks(port: Port, zone: int, agent: int) -> Fragment:
    """One compute's: a port there opens connections to the agent, some at a time. `zone`: its conntrack zone there (of its meter)."""
    meter = ledger.metadata_meter(zone)
    own = tuple(Move(field, "ct_label", bits, dst_offset=at) for field, _, bits, at in _LABEL)
    commit = Ct(zone=ledger.METADATA_ZONE, commit=True, exec=own)
    return Fragment(
        (
            Flow(
                T.METADATA,
                Priority.METADATA_NEW,
                match(metadata=ledger.metadata_lport(port.lport), ct_state=_NEW, eth_type=_IPV4),
                (commit, SetField("eth_dst", ledger.METADATA_MAC), Output(agent)),
                meter=meter,
                cookie=ledger.cookie(Kind.PORT, Feature.METADATA, port.lport),
            ),
        ),
        meters=(Meter(meter, ledger.ASKED_PER_SECOND, burst=ledger.ASKED_AT_ONCE),),
    )
