"""DHCP of a network, answered by the controller at the network's designated compute (RFC 2131).

A client's request leaves its VM's compute for the designated one, where it goes to the controller; the answer goes to the client's port.
"""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.flow import Action, Flow, Resubmit, SetField, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.facts import Network

SERVER, CLIENT = 67, 68


def _cookie(net: Network) -> int:
    return ledger.cookie(Kind.NETWORK, Feature.DHCP, net.tag)


def towards(net: Network, compute: int) -> Fragment:
    """Shared by the footprint: what VMs ask goes to `compute` (0: nobody is designated, and it is dropped)."""
    own = ledger.metadata_network(net.tag)
    asked = match(metadata=own, eth_type=0x0800, ip_proto=17, udp_src=CLIENT, udp_dst=SERVER, vlan_vid=0)
    to: tuple[Action, ...] = (
        SetField("tun_id", ledger.dhcp_vni(net.tag)),
        SetField(ledger.TO_LPORT_REG, 0),
        SetField(ledger.TO_COMPUTE_REG, compute),
    )
    way = Flow(
        T.DHCP,
        Priority.DHCP,
        match(metadata=own),
        actions=to if compute else (),
        goto=T.EGRESS if compute else None,
        cookie=_cookie(net),
    )
    return Fragment((Flow(T.GATEWAY_MAC, Priority.DHCP_REQUEST, asked, goto=T.DHCP, cookie=_cookie(net)), way))


def here(net: Network, stands_by: bool) -> Fragment:
    """One compute's, which is designated, or stands by: then it answers what others send it, and its own VMs go to the designated one."""
    value, mask = ledger.metadata_network(net.tag)
    arrived = value | ledger.SPLIT_HORIZON, mask | ledger.SPLIT_HORIZON
    punt = ToController(userdata=ledger.userdata(Punt.DHCP, net.tag), meter_id=ledger.DHCP_METER)
    return Fragment(
        (
            Flow(
                T.TUNNEL_TERMINATION,
                Priority.RELATION,
                match(tun_id=ledger.dhcp_vni(net.tag)),
                actions=(SetField("metadata", *arrived), Resubmit(T.DHCP)),
                cookie=_cookie(net),
            ),
            Flow(
                T.DHCP,
                Priority.DHCP_HERE,
                match(metadata=arrived if stands_by else (value, mask)),
                actions=(punt,),
                cookie=_cookie(net),
            ),
        )
    )
