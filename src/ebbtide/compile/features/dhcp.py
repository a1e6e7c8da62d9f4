"""DHCP of a network, answered by the controller on the client's own compute: nobody is designated, nothing enters a tunnel.

RFC 2131 for IPv4, RFC 8415 for IPv6.
"""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.flow import Flow, ToController, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.facts import STATEFUL, STATELESS, Network

SERVER, CLIENT = 67, 68
SERVER_V6, CLIENT_V6 = 547, 546
#: ff02::1:2. Clients send to no other address unless a server has told them to, and ours does not: what else is sent is another's.
ALL_SERVERS_V6 = 0xFF02_0000_0000_0000_0000_0000_0001_0002


def served(net: Network) -> Fragment:
    """Shared by the footprint: what a client asks goes to the controller, which learns from the metadata which port has asked.

    By IPv6 only where VMs are to ask so: elsewhere a server of the tenant's own goes on.
    """
    cookie = ledger.cookie(Kind.NETWORK, Feature.DHCP, net.tag)
    own = ledger.metadata_network(net.tag)
    asked = match(metadata=own, eth_type=0x0800, ip_proto=17, udp_src=CLIENT, udp_dst=SERVER, vlan_vid=0)
    asked6 = match(
        metadata=own,
        eth_type=0x86DD,
        ip_proto=17,
        ipv6_dst=ALL_SERVERS_V6,
        udp_src=CLIENT_V6,
        udp_dst=SERVER_V6,
        vlan_vid=0,
    )
    families = [asked, *([asked6] if net.ipv6_mode in (STATELESS, STATEFUL) else [])]
    punt = ToController(userdata=ledger.userdata(Punt.DHCP, net.tag), meter_id=ledger.DHCP_METER)
    return Fragment(
        (
            *(Flow(T.GATEWAY_MAC, Priority.DHCP_REQUEST, seen, goto=T.DHCP, cookie=cookie) for seen in families),
            Flow(T.DHCP, Priority.DHCP, match(metadata=own), actions=(punt,), cookie=cookie),
        )
    )
