"""How a question for an address gets out, and a packet that has waited for it: through the switches, as one of the network's routers.

All of it may be done twice, and none of it must arrive: whoever asks looks for the answer. A switch that has just gone is no error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebbtide.compile import ledger
from ebbtide.compile.flow import Action, Output, Resubmit, SetField
from ebbtide.compile.ledger import T
from ebbtide.decide import hidden
from ebbtide.model.facts import Learnt, RouterPort
from ebbtide.model.state import State
from ebbtide.openflow import messages as m
from ebbtide.runtime import neighbours
from ebbtide.runtime.switch import SwitchLink, SwitchLost

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster


def flood(cluster: Cluster, key: tuple[str, str], place: RouterPort, compute: int) -> None:
    """A question to all of a network for an address (`key`), from a compute that it is on.

    Through the flood's own table, which knows how: its group has no ports of this compute, and a large network's is cut into parts.
    """
    member, net = cluster.members.get(compute), cluster.state.networks.get(key[0])
    if member is None or not member.connected or member.switch is None or net is None:
        return
    value, mask = ledger.metadata_network(net.tag)
    send(member.switch, (SetField("metadata", value, mask), Resubmit(T.L2_UNKNOWN)), _question(place, key[1]))


def ask_holder(cluster: Cluster, known: Learnt) -> bool:
    """Ask an address at the port that has it; whether that could be sent."""
    place = hidden.place_for(cluster.state, known.network, known.address)
    found = _port_of(cluster, known)
    if place is None or found is None:
        return False
    switch, ofport = found
    return send(switch, (Output(ofport),), _question(place, known.address, known.mac))


def deliver(cluster: Cluster, known: Learnt, frame: bytes) -> None:
    """A packet that has waited goes to where its address is, as the router sends it on."""
    state = cluster.state
    place, found = hidden.place_for(state, known.network, known.address), _port_of(cluster, known)
    sent = neighbours.forwarded(frame, place.mac, known.mac) if place is not None else None
    if found is None or sent is None or len(sent) > state.networks[known.network].mtu + 14:
        return
    # As any packet to the port: past its security, if it has one.
    to = (SetField(ledger.TO_LPORT_REG, state.ports[known.port].lport), SetField(ledger.TO_COMPUTE_REG, 0))
    send(found[0], (*to, Resubmit(T.EGRESS)), sent)


def send(switch: SwitchLink, actions: tuple[Action, ...], frame: bytes) -> bool:
    """Have a switch carry out actions on a frame; whether it is there."""
    try:
        switch.send_out(actions, frame)
    except SwitchLost:
        return False
    return True


def sender(state: State, packet: m.PacketIn) -> str | None:
    """The port that a packet has come from: its tag is in the metadata."""
    metadata = next((field.value for field in packet.match if field.name == "metadata"), 0)
    return state.by_lport.get(ledger.lport_of(metadata))


def _port_of(cluster: Cluster, known: Learnt) -> tuple[SwitchLink, int] | None:
    """Where a learnt address is plugged now."""
    active = cluster.state.active(known.port)
    member = cluster.members.get(active.compute) if active is not None else None
    if member is None or not member.connected or member.switch is None:
        return None
    interface = member.view.ports.get(known.port)
    return (member.switch, interface.ofport) if interface is not None and interface.ofport else None


def _question(place: RouterPort, address: str, mac: int = 0) -> bytes:
    """A router's question for an address: to all, or to a MAC that has had it."""
    return neighbours.question(address, (place.mac, place.address), mac)
