"""Multipart requests and the replies to them (OpenFlow 1.3.5 section 7.3.5).

What lives here: one function per kind that makes a request (`messages.MultipartRequest`), and one that reads the
joined bodies of its reply parts. `session` joins the parts, `flows.iter_flow_stats` reads flow dumps.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import NamedTuple, TypeVar

from ebbtide.compile.flow import ANY, Bucket, Match, Meter
from ebbtide.errors import RemoteProtocolError
from ebbtide.openflow import flows, messages, oxm, versions
from ebbtide.openflow.messages import MultipartRequest

DESC, FLOW, AGGREGATE, TABLE, PORT_STATS, GROUP_STATS, GROUP_DESC = 0, 1, 2, 3, 4, 6, 7
METER_STATS, METER_CONFIG, PORT_DESC = 9, 10, 13
MORE = 1
ALL_METERS = 0xFFFFFFFF

_S_FLOW = Struct("!B3xII4xQQ")
_S_U32 = Struct("!I4x")
_S_DESC = Struct("!256s256s256s32s256s")
_S_AGGREGATE = Struct("!QQI4x")
_S_TABLE = Struct("!B3xIQQ")
_S_GROUP_DESC = Struct("!HBxI")
_S_GROUP_STATS = Struct("!H2xII4xQQII")
_S_PAIR = Struct("!QQ")
_S_METER_CONFIG = Struct("!HHI")
_S_METER_STATS = Struct("!IH6xIQQII")
_S_BAND = Struct("!HHII4x")

T = TypeVar("T")


class Desc(NamedTuple):
    """Section 7.3.5.1: who made the switch."""

    manufacturer: str
    hardware: str
    software: str
    serial: str
    datapath: str


class Aggregate(NamedTuple):
    """Section 7.3.5.3."""

    n_packets: int
    n_bytes: int
    n_flows: int


class TableStats(NamedTuple):
    """Section 7.3.5.4."""

    table: int
    n_active: int
    n_lookups: int
    n_matched: int


class InstalledGroup(NamedTuple):
    """Section 7.3.5.7: a group as the switch holds it; `buckets` compares with `flows.EncodedGroup.buckets`."""

    group_id: int
    type: int
    buckets: bytes

    def decoded(self) -> tuple[Bucket, ...]:
        """The buckets as values."""
        return flows.decode_buckets(self.buckets)


class GroupStats(NamedTuple):
    """Section 7.3.5.6: counters of a group and (packets, bytes) of each bucket."""

    group_id: int
    n_references: int
    n_packets: int
    n_bytes: int
    duration: float
    buckets: tuple[tuple[int, int], ...]


class MeterStats(NamedTuple):
    """Section 7.3.5.9: counters of a meter and (packets, bytes) of each band."""

    meter_id: int
    n_flows: int
    n_packets: int
    n_bytes: int
    duration: float
    bands: tuple[tuple[int, int], ...]


def _flow_body(table: int, match: Match, cookie: int, cookie_mask: int) -> bytes:
    return _S_FLOW.pack(table, ANY, ANY, cookie, cookie_mask) + oxm.encode_match(match)


def flow_request(
    table: int = flows.ALL_TABLES, match: Match = (), cookie: int = 0, cookie_mask: int = 0
) -> MultipartRequest:
    """Ask for flow entries; by default for all."""
    return MultipartRequest(FLOW, _flow_body(table, match, cookie, cookie_mask))


def aggregate_request(
    table: int = flows.ALL_TABLES, match: Match = (), cookie: int = 0, cookie_mask: int = 0
) -> MultipartRequest:
    """Ask for the sum of counters, and the number, of flow entries."""
    return MultipartRequest(AGGREGATE, _flow_body(table, match, cookie, cookie_mask))


def desc_request() -> MultipartRequest:
    """Ask who made the switch."""
    return MultipartRequest(DESC)


def table_request() -> MultipartRequest:
    """Ask for the counters of all tables."""
    return MultipartRequest(TABLE)


def port_desc_request() -> MultipartRequest:
    """Ask for all ports."""
    return MultipartRequest(PORT_DESC)


def port_stats_request(port: int = ANY) -> MultipartRequest:
    """Ask for the counters of a port; by default of all."""
    return MultipartRequest(PORT_STATS, _S_U32.pack(port))


def group_desc_request() -> MultipartRequest:
    """Ask for all groups."""
    return MultipartRequest(GROUP_DESC)


def group_stats_request(group_id: int = flows.ALL_GROUPS) -> MultipartRequest:
    """Ask for the counters of a group; by default of all."""
    return MultipartRequest(GROUP_STATS, _S_U32.pack(group_id))


def meter_config_request(meter_id: int = ALL_METERS) -> MultipartRequest:
    """Ask how a meter is set; by default all."""
    return MultipartRequest(METER_CONFIG, _S_U32.pack(meter_id))


def meter_stats_request(meter_id: int = ALL_METERS) -> MultipartRequest:
    """Ask for the counters of a meter; by default of all."""
    return MultipartRequest(METER_STATS, _S_U32.pack(meter_id))


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _each(body: bytes, what: str, read: Callable[[bytes, int], tuple[T, int]]) -> tuple[T, ...]:
    """Read items one after the other; `read` gives an item and where the next starts."""
    out, pos = [], 0
    try:
        while pos < len(body):
            item, pos = read(body, pos)
            out.append(item)
    except StructError:
        raise RemoteProtocolError(
            f"{what}: the reply ends in the middle of an entry ({len(body) - pos} left)"
        ) from None
    return tuple(out)


def _end(body: bytes, pos: int, length: int, least: int, what: str) -> int:
    if length < least or pos + length > len(body):
        raise RemoteProtocolError(f"{what}: an entry says it is {length} bytes long; {len(body) - pos} are left")
    return pos + length


def _read_group(body: bytes, pos: int) -> tuple[InstalledGroup, int]:
    length, kind, group_id = _S_GROUP_DESC.unpack_from(body, pos)
    end = _end(body, pos, length, 8, "group description")
    return InstalledGroup(group_id, kind, body[pos + 8 : end]), end


def _pairs(body: bytes, start: int, end: int) -> tuple[tuple[int, int], ...]:
    if (end - start) % 16:
        raise RemoteProtocolError("statistics: the counters of buckets or bands have a broken length")
    return tuple([_S_PAIR.unpack_from(body, p) for p in range(start, end, 16)])


def _read_group_stats(body: bytes, pos: int) -> tuple[GroupStats, int]:
    length, group_id, references, packets, size, sec, nsec = _S_GROUP_STATS.unpack_from(body, pos)
    end = _end(body, pos, length, 40, "group statistics")
    return GroupStats(group_id, references, packets, size, sec + nsec / 1e9, _pairs(body, pos + 40, end)), end


def _read_meter_stats(body: bytes, pos: int) -> tuple[MeterStats, int]:
    meter_id, length, n_flows, packets, size, sec, nsec = _S_METER_STATS.unpack_from(body, pos)
    end = _end(body, pos, length, 40, "meter statistics")
    return MeterStats(meter_id, n_flows, packets, size, sec + nsec / 1e9, _pairs(body, pos + 40, end)), end


def _read_meter(body: bytes, pos: int) -> tuple[Meter, int]:
    length, flags, meter_id = _S_METER_CONFIG.unpack_from(body, pos)
    end = _end(body, pos, length, 8, "meter configuration")
    rate = burst = 0
    if length >= 24:
        _, _, rate, burst = _S_BAND.unpack_from(body, pos + 8)
    # Without the flag a switch may say any burst; it means none.
    return Meter(meter_id, rate, burst if flags & messages.METER_BURST else 0, bool(flags & messages.METER_PKTPS)), end


def _read_table(body: bytes, pos: int) -> tuple[TableStats, int]:
    return TableStats._make(_S_TABLE.unpack_from(body, pos)), pos + _S_TABLE.size


def read_desc(body: bytes) -> Desc:
    """The reply to `desc_request`."""
    if len(body) != _S_DESC.size:
        raise RemoteProtocolError(f"switch description: {len(body)} bytes, not {_S_DESC.size}")
    return Desc._make(_text(raw) for raw in _S_DESC.unpack(body))


def read_aggregate(body: bytes) -> Aggregate:
    """The reply to `aggregate_request`."""
    if len(body) != _S_AGGREGATE.size:
        raise RemoteProtocolError(f"aggregate statistics: {len(body)} bytes, not {_S_AGGREGATE.size}")
    return Aggregate._make(_S_AGGREGATE.unpack(body))


def read_tables(body: bytes) -> tuple[TableStats, ...]:
    """The reply to `table_request`."""
    return _each(body, "table statistics", _read_table)


def read_groups(body: bytes) -> tuple[InstalledGroup, ...]:
    """The reply to `group_desc_request`."""
    return _each(body, "group description", _read_group)


def read_group_stats(body: bytes) -> tuple[GroupStats, ...]:
    """The reply to `group_stats_request`."""
    return _each(body, "group statistics", _read_group_stats)


def read_meters(body: bytes) -> tuple[Meter, ...]:
    """The reply to `meter_config_request`; a meter's first band counts."""
    return _each(body, "meter configuration", _read_meter)


def read_meter_stats(body: bytes) -> tuple[MeterStats, ...]:
    """The reply to `meter_stats_request`."""
    return _each(body, "meter statistics", _read_meter_stats)


def read_ports(body: bytes, version: int = versions.OF14) -> tuple[versions.PortFields, ...]:
    """The reply to `port_desc_request`."""
    return _each(body, "port description", lambda data, pos: versions.decode_port(version, data, pos))


def read_port_stats(body: bytes, version: int = versions.OF14) -> tuple[versions.PortCounters, ...]:
    """The reply to `port_stats_request`."""
    return _each(body, "port statistics", lambda data, pos: versions.decode_port_stats(version, data, pos))
