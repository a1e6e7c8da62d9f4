"""What is outside of the computes: physical networks with their hosts, as far as somebody there answers for an address."""

from __future__ import annotations

from collections.abc import Callable

from ebbtide.model.addresses import ipv4
from tests.sweep import frames


class Outside:
    """A physical network: one switch that learns where a MAC is, ports of computes, and hosts that answer questions for their addresses."""

    def __init__(self, hosts: dict[int, int], deliver: Callable[[str, bytes], None]) -> None:
        self._hosts, self._deliver = hosts, deliver
        self.computes: set[str] = set()
        self._places: dict[tuple[int, int], str] = {}  # (VLAN, MAC) -> compute, or "" for a host

    def carry(self, source: str, frame: bytes) -> None:
        """A frame from a compute, or (source "") from a host."""
        packet, _ = frames.read(frame)
        vlan, dst = packet["vlan_vid"], packet["eth_dst"]
        self._places[vlan, packet["eth_src"]] = source
        place = None if dst >> 40 & 1 else self._places.get((vlan, dst))
        for name in sorted(self.computes) if place is None else [place]:
            if name and name != source and name in self.computes:
                self._deliver(name, frame)
        if source and not place:
            self._ask_hosts(packet)

    def forget(self, compute: str) -> None:
        """Its cable is out."""
        self.computes.discard(compute)
        self._places = {key: name for key, name in self._places.items() if name != compute}

    def _ask_hosts(self, packet: frames.Packet) -> None:
        own = self._hosts.get(packet.get("arp_tpa", -1))
        if own is not None and packet["eth_type"] == frames.ARP and packet["arp_op"] == 1:
            # RFC 826: the answer goes to whoever has asked, whatever it claims to be.
            answer = frames.arp_reply(own, packet["arp_tpa"], packet["arp_sha"], packet["arp_spa"], packet["vlan_vid"])
            self.carry("", answer)


def address_of(text: str) -> int:
    """An IPv4 address as a number."""
    found = ipv4(text)
    if found is None:
        raise ValueError(f"{text!r} is no IPv4 address")
    return found
