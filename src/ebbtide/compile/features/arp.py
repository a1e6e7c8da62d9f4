"""ARP answered on the spot: a request for a known port's address is turned into its answer in the sender's own switch.

Left alone, so that they reach everybody: a request of the owner for its own address (gratuitous, or a duplicate address
probe), and a request for an address that nobody is known to have. RFC 826; RFC 5227 for probes.
"""

from __future__ import annotations

from ebbtide.compile import ledger
from ebbtide.compile.flow import Action, Flow, M, Move, Resubmit, SetField
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.model.addresses import ipv4
from ebbtide.model.facts import Network, Port


def responder(net: Network, port: Port) -> Fragment:
    """Shared by the footprint: answers for each IPv4 address of the port."""
    cookie = ledger.cookie(Kind.PORT, Feature.ARP, port.lport)
    elan = M("metadata", *ledger.metadata_network(net.tag))
    flows = []
    for text in port.addresses:
        address = ipv4(text)
        if address is None:
            continue
        # As `match` would give it, sorted by name: this is made for every port.
        target = M("arp_tpa", address)
        flows.append(
            Flow(
                T.ARP_RESPONDER,
                Priority.ARP_OWN,
                (_ASKED, M("arp_sha", port.mac), target, _ARP, elan),
                actions=_TO_L2,
                cookie=cookie,
            )
        )
        flows.append(
            Flow(
                T.ARP_RESPONDER,
                Priority.ARP_ANSWER,
                (_ASKED, target, _ARP, elan),
                actions=(*answer(address, port.mac, port.mac), *TO_SENDER),
                goto=T.EGRESS,
                cookie=cookie,
            )
        )
    return Fragment(tuple(flows))


def answer(address: int, mac: int, source: int) -> tuple[Action, ...]:
    """A request becomes its answer: `address` is at `mac`, says a frame from `source`."""
    return (
        _ETH_BACK,
        SetField("eth_src", source),
        _ANSWER,
        _MAC_BACK,
        SetField("arp_sha", mac),
        _ADDRESS_BACK,
        SetField("arp_spa", address),
    )


_ASKED, _ARP = M("arp_op", 1), M("eth_type", 0x0806)
_TO_L2 = (Resubmit(T.L2_BASE),)
_ANSWER = SetField("arp_op", 2)
_ETH_BACK = Move("eth_src", "eth_dst", 48)
_MAC_BACK = Move("arp_sha", "arp_tha", 48)
_ADDRESS_BACK = Move("arp_spa", "arp_tpa", 32)
#: Out by the port of entry, to the VM that has sent it.
TO_SENDER = (
    Move("metadata", ledger.TO_LPORT_REG, ledger.LPORT_BITS, src_offset=ledger.LPORT_SHIFT),
    SetField(ledger.TO_COMPUTE_REG, 0),
)
