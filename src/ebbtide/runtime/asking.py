"""How a question for an address gets out, and a packet that has waited for it: through the switches, as one of the network's routers.

All of it may be done twice, and none of it must arrive: whoever asks looks for the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebbtide.compile import ledger
from ebbtide.compile.flow import Output, Resubmit, SetField
from ebbtide.compile.ledger import T
from ebbtide.decide import hidden
from ebbtide.model.addresses import ipv4
from ebbtide.model.facts import Learnt, RouterPort
from ebbtide.runtime import frames

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.switch import SwitchLink


def flood(cluster: Cluster, key: tuple[str, str], place: RouterPort, compute: int) -> None:
    """A question to all of a network for an address (`key`), from a compute that it is on.

    Through the flood's own table, which knows how: its group has no ports of this compute, and a large network's is cut into parts.
    """
    member, net = cluster.members.get(compute), cluster.state.networks.get(key[0])
    if member is None or not member.connected or member.switch is None or net is None:
        return
    value, mask = ledger.metadata_network(net.tag)
    member.switch.send_out((SetField("metadata", value, mask), Resubmit(T.L2_UNKNOWN)), _question(place, key[1]))


def ask_holder(cluster: Cluster, known: Learnt) -> bool:
    """Ask an address at the port that has it; whether that could be sent."""
    place = hidden.place_for(cluster.state, known.network, known.address)
    found = _port_of(cluster, known)
    if place is None or found is None:
        return False
    switch, ofport = found
    switch.send_out((Output(ofport),), _question(place, known.address, known.mac))
    return True


def deliver(cluster: Cluster, known: Learnt, frame: bytes) -> None:
    """A packet that has waited goes to where its address is, as the router sends it on."""
    state = cluster.state
    place, found = hidden.place_for(state, known.network, known.address), _port_of(cluster, known)
    sent = frames.forwarded(frame, place.mac, known.mac) if place is not None else None
    if found is None or sent is None or len(sent) > state.networks[known.network].mtu + 14:
        return
    switch, ofport = found
    switch.send_out((Output(ofport),), sent)


def _port_of(cluster: Cluster, known: Learnt) -> tuple[SwitchLink, int] | None:
    """Where a learnt address is plugged now."""
    active = cluster.state.active(known.port)
    member = cluster.members.get(active.compute) if active is not None else None
    if member is None or not member.connected or member.switch is None:
        return None
    interface = member.view.ports.get(known.port)
    return (member.switch, interface.ofport) if interface is not None and interface.ofport else None


def _question(place: RouterPort, address: str, mac: int = frames.BROADCAST) -> bytes:
    """An ARP request of a router for an address: to all, or to a MAC that has had it."""
    own = ipv4(place.address) or 0
    return frames.arp(frames.Arp(1, place.mac, own, 0, ipv4(address) or 0), place.mac, mac)
