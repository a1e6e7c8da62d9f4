"""Hears what clients of DHCP ask, and has the answer sent where they have asked: by IPv4 or IPv6 (`dhcp.py`, `dhcp6.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebbtide.compile.flow import Output
from ebbtide.model.state import State
from ebbtide.openflow import messages as m
from ebbtide.runtime import asking, dhcp, dhcp6

if TYPE_CHECKING:
    from ebbtide.runtime.member import Member


def heard(state: State, member: Member, packet: m.PacketIn) -> None:
    """A client asks on a compute: answer it there, at the port that has asked."""
    port = state.ports.get(asking.sender(state, packet) or "")
    interface = member.view.ports.get(port.id) if port is not None else None
    if port is None or interface is None or not interface.ofport or member.switch is None:
        return
    told = (dhcp6 if packet.data[12:14] == b"\x86\xdd" else dhcp).answer(state, port, packet.data)
    if told is not None:
        asking.send(member.switch, (Output(interface.ofport),), told)
