"""Where OpenFlow 1.3 (wire 0x04) and 1.4 (wire 0x05) differ, and nothing else.

What lives here: the layouts that changed between the two (bundles, ports, port statistics, asynchronous
configuration), and the bundle wrapping that flow installation runs through. 1.3 has bundles by the ONF extension
EXT-230, whose messages have the native layout behind an experimenter header. The other modules ask here; none of
them compares a version itself. Sources: OpenFlow 1.3.5 section A, 1.4.1 section 7.3; OVS lib/ofp-bundle.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow.framing import MAX_MESSAGE_LEN

OF13, OF14 = 4, 5
VERSIONS = (OF14, OF13)
NAMES = {1: "1.0", 2: "1.1", 3: "1.2", OF13: "1.3", OF14: "1.4", 6: "1.5", 7: "1.6"}

EXPERIMENTER, BUNDLE_CONTROL, BUNDLE_ADD = 4, 33, 34
ONF = 0x4F4E4600
ONF_BUNDLE_CONTROL, ONF_BUNDLE_ADD = 2300, 2301

ATOMIC, ORDERED = 1, 2

_CONTROL = Struct("!BBHIIHH")
_CONTROL_ONF = Struct("!BBHIIIIHH")
_ADD = Struct("!BBHII2xH")
_ADD_ONF = Struct("!BBHIIII2xH")
_INNER = Struct("!xxHI")


def check_version(version: int) -> None:
    """Refuse a version that this package does not write."""
    if version not in VERSIONS:
        raise LocalProtocolError(f"OpenFlow version {NAMES.get(version, version)} is not one of 1.3 and 1.4")


# ---- bundles (1.4.1 section 7.3.9; EXT-230 for 1.3) -----------------------------------------------------------------


def bundle_control_bytes(version: int, xid: int, bundle_id: int, kind: int, flags: int) -> bytes:
    """A whole bundle control message; `kind` is OFPBCT_* (open 0, close 2, commit 4, discard 6, replies odd)."""
    if version >= OF14:
        return _CONTROL.pack(version, BUNDLE_CONTROL, 16, xid, bundle_id, kind, flags)
    return _CONTROL_ONF.pack(version, EXPERIMENTER, 24, xid, ONF, ONF_BUNDLE_CONTROL, bundle_id, kind, flags)


def bundle_add_bytes(version: int, bundle_id: int, messages: Iterable[bytes], flags: int) -> bytes:
    """Each whole message wrapped in a bundle-add, joined. The outer xid is the inner one, as the switch demands."""
    native = version >= OF14
    extra = 16 if native else 24
    pack, pack_onf, inner = _ADD.pack, _ADD_ONF.pack, _INNER.unpack_from
    largest = MAX_MESSAGE_LEN - extra
    out: list[bytes] = []
    append = out.append
    for data in messages:
        length, xid = inner(data)
        if length > largest or length != len(data):
            raise LocalProtocolError(f"one message of at most {largest} bytes fits in a bundle-add; got {len(data)}")
        if native:
            append(pack(version, BUNDLE_ADD, length + 16, xid, bundle_id, flags))
        else:
            append(pack_onf(version, EXPERIMENTER, length + 24, xid, ONF, ONF_BUNDLE_ADD, bundle_id, flags))
        append(data)
    return b"".join(out)


def bundle_bytes(
    bundle_id: int,
    messages: Sequence[bytes],
    xid: int,
    version: int = OF14,
    flags: int = ORDERED | ATOMIC,
    commit: bool = True,
) -> bytes:
    """Open, every message, commit: one byte string to send.

    `xid` is that of the open request and of the commit request, and should be of no message inside: the replies
    to both (and an error to the commit) carry it, an error to a message inside carries the message's own.

    A message that Open vSwitch refuses on arrival (a bad match, say) is left out of the bundle, and the commit goes
    through without it; only what fails while the bundle is carried out takes the whole bundle with it. Who needs all
    or nothing sends without `commit`, then a barrier, and commits if nothing was refused by then.
    """
    parts = [
        bundle_control_bytes(version, xid, bundle_id, 0, flags),
        bundle_add_bytes(version, bundle_id, messages, flags),
    ]
    if commit:
        parts.append(bundle_control_bytes(version, xid, bundle_id, 4, flags))
    return b"".join(parts)


# ---- ports (1.3.5 section 7.2.1, 1.4.1 section 7.2.1) --------------------------------------------------------------


class PortFields(NamedTuple):
    """What both versions say of a port. Speeds in kbit/s; `config` and `state` are OFPPC_* and OFPPS_* bits."""

    port: int
    mac: int
    name: str
    config: int
    state: int
    current: int
    advertised: int
    supported: int
    peer: int
    current_speed: int
    max_speed: int


_PORT_13 = Struct("!I4x6s2x16sIIIIIIII")
_PORT_14 = Struct("!IH2x6s2x16sII")
_ETHERNET_14 = Struct("!IIIIII")
_PROPERTY = Struct("!HH")


def _port(number: int, mac: bytes, name: bytes, *numbers: int) -> PortFields:
    text = name.split(b"\0", 1)[0].decode("utf-8", "replace")
    return PortFields(number, int.from_bytes(mac, "big"), text, *numbers)


def _properties(data: bytes, pos: int, end: int) -> Iterable[tuple[int, int, int]]:
    """(type, first byte after the property header, end) of each property; bounds are checked."""
    while pos < end:
        if pos + 4 > end:
            raise RemoteProtocolError("a property list ends in the middle of a header")
        kind, length = _PROPERTY.unpack_from(data, pos)
        if length < 4 or pos + length > end:
            raise RemoteProtocolError(f"property {kind:#x} says it is {length} bytes long; {end - pos} are left")
        yield kind, pos + 4, pos + length
        pos += length + 7 & ~7


def decode_port(version: int, data: bytes, pos: int) -> tuple[PortFields, int]:
    """One struct ofp_port at `pos`, and where the next one starts. Raises struct.error when cut."""
    if version < OF14:
        return _port(*_PORT_13.unpack_from(data, pos)), pos + _PORT_13.size
    number, length, mac, name, config, state = _PORT_14.unpack_from(data, pos)
    end = pos + length
    if length < _PORT_14.size or end > len(data):
        raise RemoteProtocolError(f"port {number} says it is {length} bytes long; {len(data) - pos} are left")
    ethernet: tuple[int, ...] = (0, 0, 0, 0, 0, 0)
    for kind, start, stop in _properties(data, pos + _PORT_14.size, end):
        if kind == 0 and stop - start == 28:
            ethernet = _ETHERNET_14.unpack_from(data, start + 4)
    return _port(number, mac, name, config, state, *ethernet), end


def encode_port(version: int, port: PortFields) -> bytes:
    """One struct ofp_port: for a fake switch."""
    mac, name = port.mac.to_bytes(6, "big"), port.name.encode()[:15]
    if version < OF14:
        return _PORT_13.pack(port.port, mac, name, *port[3:])
    return _PORT_14.pack(port.port, 72, mac, name, *port[3:5]) + b"\0\0\0\x20\0\0\0\0" + _ETHERNET_14.pack(*port[5:])


class PortCounters(NamedTuple):
    """Counters of a port; all ones where a switch does not count. `duration` in seconds."""

    port: int
    duration: float
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_dropped: int
    tx_dropped: int
    rx_errors: int
    tx_errors: int


_STATS_13 = Struct("!I4x8Q4QII")
_STATS_14 = Struct("!H2xIII8Q")


def decode_port_stats(version: int, data: bytes, pos: int) -> tuple[PortCounters, int]:
    """One struct ofp_port_stats at `pos`, and where the next one starts. Raises struct.error when cut."""
    if version < OF14:
        number, *counters, sec, nsec = _STATS_13.unpack_from(data, pos)
        return PortCounters(number, sec + nsec / 1e9, *counters[:8]), pos + _STATS_13.size
    length, number, sec, nsec, *counters = _STATS_14.unpack_from(data, pos)
    if length < _STATS_14.size or pos + length > len(data):
        raise RemoteProtocolError(f"statistics of port {number} say they are {length} bytes long")
    return PortCounters(number, sec + nsec / 1e9, *counters), pos + length


# ---- which asynchronous messages a controller gets (1.3.5 section 7.3.10, 1.4.1 section 7.3.10) ---------------------

_ASYNC_13 = Struct("!IIIIII")
_ASYNC_14 = Struct("!HHI")


def encode_set_async(version: int, packet_in: int, port_status: int, flow_removed: int, role_status: int) -> bytes:
    """The body of set-async: one bit mask of reasons per kind, for the roles master and equal; a slave keeps
    port-status only, as is the default."""
    if version < OF14:
        return _ASYNC_13.pack(packet_in, 0, port_status, port_status, flow_removed, 0)
    pairs = (
        *((0, 0), (1, packet_in), (2, port_status), (3, port_status), (4, 0), (5, flow_removed)),
        *((6, role_status), (7, role_status)),
    )
    return b"".join(_ASYNC_14.pack(kind, 8, mask) for kind, mask in pairs)
