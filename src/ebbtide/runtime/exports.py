"""What a switch tells of connections, as values: learnt rows of the export table, import rows, and copies of packets that opened one.

The rows are read by where their fields stand, since a gateway may hold 50,000 of them: every one of a kind is laid out like every other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import TCP, UDP, Translation
from ebbtide.compile.flow import Ct
from ebbtide.openflow import messages as m
from ebbtide.openflow.actions import decode_instructions
from ebbtide.openflow.flows import InstalledFlow
from ebbtide.openflow.oxm import decode_match
from ebbtide.runtime import frames


def _tuple(match: bytes) -> tuple[int, int, int, int, int] | None:
    """Protocol, addresses and ports of a row's match."""
    fields = {field.name: field.value for field in decode_match(match)}
    proto = fields.get("ip_proto", 0)
    kind = {TCP: "tcp", UDP: "udp"}.get(proto)
    if kind is None:
        return None
    found = (fields.get("ipv4_src"), fields.get(f"{kind}_src"), fields.get("ipv4_dst"), fields.get(f"{kind}_dst"))
    src, sport, dst, dport = found
    if src is None or sport is None or dst is None or dport is None:
        return None
    return proto, src, sport, dst, dport


def _loads(row: InstalledFlow) -> dict[str, int]:
    """What a row's actions put into which fields."""
    actions = decode_instructions(row.instructions).actions
    return {getattr(action, "name", ""): getattr(action, "value", 0) for action in actions}


def read_exported(rows: Iterable[InstalledFlow]) -> list[Translation]:
    """Connections that have passed while a move exported. A row without address or port is of a packet that was not marked."""
    found = []
    for row in rows:
        of, loads = _tuple(row.match), _loads(row)
        address, port = loads.get("reg0", 0), loads.get("reg1", 0) & 0xFFFF
        if of is not None and address and port:
            found.append(Translation(*of, address, port))
    return found


def read_imported(rows: Iterable[InstalledFlow]) -> list[Translation]:
    """Connections for which a compute has a row from a move before."""
    found = []
    for row in rows:
        of = _tuple(row.match)
        for action in decode_instructions(row.instructions).actions:
            if isinstance(action, Ct) and action.nat is not None and action.nat.ip_min and action.nat.port_min and of:
                found.append(Translation(*of, action.nat.ip_min, action.nat.port_min))
    return found


def read_replied(rows: Iterable[InstalledFlow]) -> list[Translation]:
    """Connections of which a compute exchanges what the remote sends before the VM does."""
    found = []
    for row in rows:
        of, loads = _tuple(row.match), _loads(row)
        src, sport = loads.get("ipv4_dst", 0), loads.get("tcp_dst", 0) or loads.get("udp_dst", 0)
        if of is not None and src and sport:
            proto, remote, dport, address, port = of
            found.append(Translation(proto, src, sport, remote, dport, address, port))
    return found


def read_punt(packet: m.PacketIn) -> Translation | None:
    """The connection that a copied packet belongs to: its original tuple is in the metadata, its external address and port in itself."""
    data = packet.data
    found = frames.transport(data)
    if found is None:
        return None
    proto, at = found
    fields = {name: value for name, value, _ in packet.match}
    if fields.get("ct_nw_proto", proto) != proto:
        return None
    try:
        src, sport, dst, dport = fields["ct_nw_src"], fields["ct_tp_src"], fields["ct_nw_dst"], fields["ct_tp_dst"]
    except KeyError:
        return None
    address, port = int.from_bytes(data[26:30], "big"), int.from_bytes(data[at : at + 2], "big")
    return Translation(proto, src, sport, dst, dport, address, port)


class Opened(NamedTuple):
    """Connections that a switch has opened for a router in the last `seconds`, since its flows are there.

    `recording`: each TCP and UDP connection is told to the controller. If not, `other` are those of all protocols.
    """

    tcp: int = 0
    udp: int = 0
    other: int = 0
    recording: bool = False
    seconds: float = 0.0

    @property
    def known_of(self) -> int:
        """Those that would be known if nothing were lost: TCP and UDP, where they are recorded; else all, since none is."""
        return self.tcp + self.udp if self.recording else self.other


def read_opened(rows: Iterable[InstalledFlow]) -> Opened:
    """What the flows behind the opening of a connection have counted."""
    found = list(rows)
    recording = [row for row in found if row.priority == ledger.Priority.RECORD]
    counts = {TCP: 0, UDP: 0}
    for row in recording:
        fields = {field.name: field.value for field in decode_match(row.match)}
        counts[fields["ip_proto"]] += row.n_packets
    other = sum(row.n_packets for row in found if row.priority == ledger.Priority.OPENED)
    seconds = max((row.duration for row in (recording or found)), default=0.0)
    return Opened(counts[TCP], counts[UDP], other, bool(recording), seconds)
