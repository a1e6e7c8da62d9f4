"""DHCP of a network, answered by the controller on the client's own compute (RFC 2131): nobody is designated, nothing enters a tunnel."""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.flow import Flow, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.facts import Network

SERVER, CLIENT = 67, 68


def served(net: Network) -> Fragment:
    """Shared by the footprint: what a client asks goes to the controller, which learns from the metadata which port has asked."""
    cookie = ledger.cookie(Kind.NETWORK, Feature.DHCP, net.tag)
    own = ledger.metadata_network(net.tag)
    asked = match(metadata=own, eth_type=0x0800, ip_proto=17, udp_src=CLIENT, udp_dst=SERVER, vlan_vid=0)
    punt = ToController(userdata=ledger.userdata(Punt.DHCP, net.tag), meter_id=ledger.DHCP_METER)
    return Fragment(
        (
            Flow(T.GATEWAY_MAC, Priority.DHCP_REQUEST, asked, goto=T.DHCP, cookie=cookie),
            Flow(T.DHCP, Priority.DHCP, match(metadata=own), actions=(punt,), cookie=cookie),
        )
    )
