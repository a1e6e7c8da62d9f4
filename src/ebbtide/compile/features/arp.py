"""ARP answered on the spot: a request for a known port's address is turned into its answer in the sender's own switch.

Left alone, so that they reach everybody: a request of the owner for its own address (gratuitous, or a duplicate address
probe), and a request for an address that nobody is known to have. RFC 826; RFC 5227 for probes.
"""

from __future__ import annotations

import ipaddress

from ebbtide.compile import ledger
from ebbtide.compile.flow import Flow, Move, Resubmit, SetField, match
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.model.facts import Network, Port


def responder(net: Network, port: Port) -> Fragment:
    """Shared by the footprint: answers for each IPv4 address of the port."""
    cookie = ledger.cookie(Kind.PORT, Feature.ARP, port.lport)
    elan = ledger.metadata_network(net.tag)
    flows = []
    for text in port.addresses:
        address = ipaddress.ip_address(text)
        if address.version != 4:
            continue
        asked: dict[str, int | tuple[int, int]] = {
            "metadata": elan,
            "eth_type": 0x0806,
            "arp_op": 1,
            "arp_tpa": int(address),
        }
        flows.append(
            Flow(
                T.ARP_RESPONDER,
                Priority.ARP_OWN,
                match(**asked, arp_sha=port.mac),
                actions=(Resubmit(T.L2_BASE),),
                cookie=cookie,
            )
        )
        flows.append(
            Flow(
                T.ARP_RESPONDER,
                Priority.ARP_ANSWER,
                match(**asked),
                actions=(
                    Move("eth_src", "eth_dst", 48),
                    SetField("eth_src", port.mac),
                    SetField("arp_op", 2),
                    Move("arp_sha", "arp_tha", 48),
                    SetField("arp_sha", port.mac),
                    Move("arp_spa", "arp_tpa", 32),
                    SetField("arp_spa", int(address)),
                    Move("metadata", ledger.TO_LPORT_REG, ledger.LPORT_BITS, src_offset=ledger.LPORT_SHIFT),
                    SetField(ledger.TO_COMPUTE_REG, 0),
                ),
                goto=T.EGRESS,
                cookie=cookie,
            )
        )
    return Fragment(tuple(flows))
