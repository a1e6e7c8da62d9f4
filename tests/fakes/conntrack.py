"""Connection tracking as Open vSwitch's own datapath does it, as far as our pipeline can tell the difference.

One zone is a frozen set of entries, and `track` is a function of it: an entry that is hit, opened or closed makes another set. Time is not
here: nothing lapses. The rules (ovs-fields(7), ct_state; RFC 5382 for TCP in the middle of a stream):

- "+snat", "+dnat" say that this packet was translated, whatever else it is: a repeated SYN and UDP without an answer are "+new", a segment
  out of the window is "+inv", and all of them are translated if there is an entry.
- TCP opens by a SYN, and in the middle of a stream by an ACK; never by a SYN+ACK, which is "+inv".
- A SYN on what both sides have closed is a new connection. A commit of what has an entry changes nothing.
- A commit that finds no free port opens nothing: "+new" without "+snat".
- ICMP has its id on both sides, and it is not translated. What is not IPv4 is "+inv" and passes.
"""

from __future__ import annotations

from typing import NamedTuple

from ebbtide.compile.flow import Nat

Packet = dict[str, int]
NEW, EST, RPL, INV, TRK, SNAT, DNAT = 0x01, 0x02, 0x08, 0x10, 0x20, 0x40, 0x80
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
ICMP, TCP, UDP = 1, 6, 17
ECHO_REPLY, ECHO_REQUEST = 0, 8
_BY_ORIGINAL, _BY_REPLY = 1, 2  # who has closed


class Ends(NamedTuple):
    """Who sends to whom. Of ICMP a "port" is the id and the type that this side sends."""

    proto: int
    src: int
    src_port: int
    dst: int
    dst_port: int

    def back(self) -> Ends:
        """An answer's."""
        return Ends(self.proto, self.dst, self.dst_port, self.src, self.src_port)


class Entry(NamedTuple):
    """One connection: its first packet's ends as it came, and an answer's as it will come."""

    original: Ends
    reply: Ends
    answered: bool = False
    closed: int = 0

    @property
    def mapping(self) -> tuple[int, int]:
        """Address and port that the outside knows it by."""
        return self.reply.dst, self.reply.dst_port

    @property
    def state(self) -> str:
        """new, established, closing or closed."""
        if self.closed:
            return "closed" if self.closed == _BY_ORIGINAL | _BY_REPLY else "closing"
        return "established" if self.answered else "new"


Entries = frozenset[Entry]
EMPTY: Entries = frozenset()


def ends(packet: Packet) -> Ends:
    """The packet's own."""
    proto = packet.get("ip_proto", 0)
    src, dst = packet.get("ipv4_src", 0), packet.get("ipv4_dst", 0)
    if proto == ICMP:
        kind, number = packet.get("icmpv4_type", 0), packet.get("icmp_id", 0) << 8
        return Ends(proto, src, number | kind, dst, number | ECHO_REQUEST - kind)
    name = {TCP: "tcp", UDP: "udp"}.get(proto, "")
    return Ends(proto, src, packet.get(f"{name}_src", 0), dst, packet.get(f"{name}_dst", 0))


def track(entries: Entries, packet: Packet, nat: Nat | None = None, commit: bool = False) -> tuple[Entries, Packet]:
    """The zone and the packet after it has passed."""
    after = without_state(packet)
    if packet.get("eth_type") != 0x0800:
        return entries, {**after, "ct_state": TRK | INV}
    own = ends(packet)
    entry, answer = find(entries, own)
    if entry is not None and entry.state == "closed" and _syn(packet):
        entries, entry = entries - {entry}, None
    if entry is None:
        state = NEW if _may_open(packet) else INV
        entry = _opened(entries, own, nat) if commit and state == NEW else None
        if entry is None:
            return entries, {**after, "ct_state": TRK | state, **_original(own)}
        entries |= {entry}
    else:
        moved = _moved(entry, packet, answer)
        entries, entry = entries - {entry} | {moved}, moved
        state = _state(entry, packet, answer)
    if nat is not None and entry.reply != entry.original.back():
        state |= DNAT if answer else SNAT
        _rewrite(after, own.proto, entry, answer)
    return entries, {**after, "ct_state": TRK | state, **_original(entry.original)}


def without_state(packet: Packet) -> Packet:
    """The packet as if it had never been tracked."""
    return {name: value for name, value in packet.items() if not name.startswith("ct_")}


def find(entries: Entries, own: Ends) -> tuple[Entry | None, bool]:
    """The entry that these ends belong to, and whether they are an answer's."""
    for entry in entries:
        if own == entry.original:
            return entry, False
        if own == entry.reply:
            return entry, True
    return None, False


def _syn(packet: Packet) -> bool:
    return packet.get("ip_proto") == TCP and packet.get("tcp_flags", 0) & (SYN | ACK) == SYN


def _may_open(packet: Packet) -> bool:
    if packet.get("ip_proto") == TCP:
        return _syn(packet) or packet.get("tcp_flags", 0) & (SYN | ACK) == ACK
    return packet.get("ip_proto") != ICMP or packet.get("icmpv4_type") == ECHO_REQUEST


def _opened(entries: Entries, own: Ends, nat: Nat | None) -> Entry | None:
    """An entry, with the lowest port that is free towards that end (which one is conntrack's own affair); None: all are in use."""
    if nat is None or not nat.src:
        return Entry(own, own.back())
    assert nat.ip_min is not None
    ported = own.proto in (TCP, UDP) and nat.port_min is not None
    first, last = (nat.port_min, nat.port_max or nat.port_min) if ported else (own.src_port, own.src_port)
    assert first is not None
    assert last is not None
    taken = {e.reply for e in entries} | {e.original for e in entries}
    for port in range(first, last + 1):
        reply = own.back()._replace(dst=nat.ip_min, dst_port=port)
        if reply not in taken:
            return Entry(own, reply)
    return None


def _moved(entry: Entry, packet: Packet, answer: bool) -> Entry:
    flags = packet.get("tcp_flags", 0) if packet.get("ip_proto") == TCP else 0
    closed = _BY_REPLY if answer else _BY_ORIGINAL
    closed = closed | (_BY_ORIGINAL | _BY_REPLY) * (flags & RST > 0) if flags & (FIN | RST) else 0
    return entry._replace(answered=entry.answered or answer, closed=entry.closed | closed)


def _state(entry: Entry, packet: Packet, answer: bool) -> int:
    """`out_of_window` is no field of a packet, but what conntrack would say of its sequence numbers."""
    if packet.get("out_of_window") or (_syn(packet) and (answer or entry.answered)):
        return INV
    if answer:
        return EST | RPL
    return NEW if not entry.answered and (_syn(packet) or packet.get("ip_proto") != TCP) else EST


def _rewrite(packet: Packet, proto: int, entry: Entry, answer: bool) -> None:
    address, port = (entry.original.src, entry.original.src_port) if answer else entry.mapping
    side = "dst" if answer else "src"
    packet[f"ipv4_{side}"] = address
    if proto in (TCP, UDP):
        packet[f"{'tcp' if proto == TCP else 'udp'}_{side}"] = port


def _original(found: Ends) -> Packet:
    return {
        "ct_nw_proto": found.proto,
        "ct_nw_src": found.src,
        "ct_nw_dst": found.dst,
        # Of ICMP, type and code (ovs-fields(7)); only queries make a connection, and their code is 0.
        "ct_tp_src": found.src_port if found.proto != ICMP else found.src_port & 0xFF,
        "ct_tp_dst": found.dst_port if found.proto != ICMP else 0,
    }
