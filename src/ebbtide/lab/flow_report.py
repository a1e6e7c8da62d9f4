"""What is told of traffic: a tree of counts, the same in the processes that count and for the one who asks.

Integers are numbers of things, and add up; what ends in `_ms` is a time, of which the worst counts. Frozen, and
JSON both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from ..errors import Unexpected
from .flow_wire import Load

S = TypeVar("S", bound=msgspec.Struct)

Endpoint = tuple[str, int]  # an address, and a port (of an echo request, its identifier)


class Connections(msgspec.Struct, frozen=True):
    """Long-lived TCP connections that talk all the time. Broken: refused, reset, closed, no answer in 5 s, or a wrong one.

    `established` and `broken` count from the start, whatever was reset: a connection breaks only once. The rest counts
    from the reset.
    """

    wanted: int = 0
    established: int = 0
    broken: int = 0
    exchanges: int = 0
    slowest_ms: float = 0.0


class Silent(msgspec.Struct, frozen=True):
    """Those that are silent until they are told to speak. `alive` of the `asked` have answered the last time."""

    wanted: int = 0
    established: int = 0
    broken: int = 0
    asked: int = 0
    alive: int = 0


class Datagrams(msgspec.Struct, frozen=True):
    """A flow of datagrams or echo requests, each answered once. `sources`: endpoints from which the host has heard it.

    The gap is the longest time between two answers; `heard_gap_ms` between two datagrams that the host has heard.
    """

    sent: int = 0
    received: int = 0
    lost: int = 0
    duplicated: int = 0
    sources: int = 0
    longest_gap_ms: float = 0.0
    heard_gap_ms: float = 0.0


class Slow(msgspec.Struct, frozen=True):
    """UDP flows that say something now and then. `kept` were always heard from one endpoint, `changed` from several."""

    flows: int = 0
    sent: int = 0
    received: int = 0
    lost: int = 0
    kept: int = 0
    changed: int = 0


class Attempts(msgspec.Struct, frozen=True):
    """Connections of one exchange each. The gap is the longest time between two that went well."""

    opened: int = 0
    done: int = 0
    failed: int = 0
    slowest_ms: float = 0.0
    longest_gap_ms: float = 0.0


class Bulk(msgspec.Struct, frozen=True):
    """A paced transfer, as its receiver saw it."""

    received_bytes: int = 0
    broken: int = 0
    longest_pause_ms: float = 0.0


class Counts(msgspec.Struct, frozen=True):
    """All of one VM, or of several."""

    active: Connections = Connections()
    silent: Silent = Silent()
    udp: Datagrams = Datagrams()
    udp_slow: Slow = Slow()
    new: Attempts = Attempts()
    half_open: Attempts = Attempts()
    bulk: Bulk = Bulk()
    ping: Datagrams = Datagrams()


class Incoming(msgspec.Struct, frozen=True):
    """What the host outside sent to one address, and which VMs have answered."""

    ping: Datagrams = Datagrams()
    tcp: Attempts = Attempts()
    answered_by: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True):
    """What each VM did (`load`), in how many seconds, and what came of it.

    `seen`: from which endpoints the host has heard each kind, since the start.

    `two_ports`: half-open connections whose SYN came from more than one endpoint; `repeated_syns` is how many SYNs came
    again. `strays`: messages of nobody. `late_ms`: how late our own loops ever were, so that a gap can be told from a
    busy machine. `told`: what happened to whom, in words, the first ones only.
    """

    load: Load
    seconds: float
    vms: dict[str, Counts]
    inbound: dict[str, Incoming]
    seen: dict[str, tuple[Endpoint, ...]]
    two_ports: int
    repeated_syns: int
    strays: int
    late_ms: float
    told: tuple[str, ...]

    def total(self) -> Counts:
        return joined(list(self.vms.values())) if self.vms else Counts()

    def addresses(self, kind: str) -> set[str]:
        """The addresses from which the host has heard this kind."""
        return {address for address, _ in self.seen.get(kind, ())}

    def failures(self) -> list[str]:
        """What a tenant would have noticed, a line each. Slowness is not among it."""
        lines = [line for name, counts in self.vms.items() for line in _failures(name, counts)]
        for address, incoming in self.inbound.items():
            lines += _told(f"inbound {address}: pings lost", incoming.ping.lost)
            lines += _told(f"inbound {address}: connections failed", incoming.tcp.failed)
        lines += _told("half-open connections with two external ports", self.two_ports)
        return lines + _told("messages of nobody", self.strays)

    def too_few(self, share: float = 0.9) -> list[str]:
        """VMs that have done less than this share of their load, whoever is to blame: what was not sent proves nothing."""
        told = []
        for name, counts in self.vms.items():
            for what, rate, done in _rates(self.load, counts):
                if done + 1 < rate * self.seconds * share:  # one falls out of the time at either end
                    told.append(f"{name}: {what}: {done:.0f} in {self.seconds:.1f} s, not {rate:g} a second")
        return told

    def table(self) -> str:
        """For people: a line a VM and kind, and what was told."""
        rows = [("vm", "kind", "counts")]
        rows += [(name, kind, _words(part)) for name, counts in self.vms.items() for kind, part in _parts(counts)]
        for address, incoming in self.inbound.items():
            rows += [(address, "ping", _words(incoming.ping)), (address, "tcp", _words(incoming.tcp))]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:{widths[0]}}  {kind:{widths[1]}}  {words}" for name, kind, words in rows]
        lines.append(f"{self.seconds:.1f} s, our own loops late by at most {self.late_ms} ms, strays {self.strays}")
        return "\n".join([*lines, *self.told])


class VmAtHost(msgspec.Struct, frozen=True):
    """Of one VM, what only the host can say."""

    silent_asked: int = 0
    silent_alive: int = 0
    udp_sources: int = 0
    udp_gap_ms: float = 0.0
    ping_sources: int = 0
    slow_kept: int = 0
    slow_changed: int = 0
    bulk_bytes: int = 0
    bulk_pause_ms: float = 0.0


class GuestReport(msgspec.Struct, frozen=True):
    """From the process in a VM."""

    counts: Counts
    late_ms: float
    told: tuple[str, ...]


class HostReport(msgspec.Struct, frozen=True):
    """From the process outside. VMs in the order in which they were given."""

    vms: tuple[VmAtHost, ...]
    inbound: dict[str, Incoming]
    seen: dict[str, tuple[Endpoint, ...]]
    two_ports: int
    repeated_syns: int
    strays: int
    late_ms: float
    told: tuple[str, ...]


def completed(counts: Counts, host: VmAtHost) -> Counts:
    """A VM's own counts, with what only the host knows."""
    put = msgspec.structs.replace
    silent = counts.silent
    return put(
        counts,
        silent=put(silent, asked=silent.asked + host.silent_asked, alive=silent.alive + host.silent_alive),
        udp=put(counts.udp, sources=host.udp_sources, heard_gap_ms=host.udp_gap_ms),
        ping=put(counts.ping, sources=host.ping_sources),
        udp_slow=put(counts.udp_slow, kept=host.slow_kept, changed=host.slow_changed),
        bulk=put(counts.bulk, received_bytes=host.bulk_bytes, longest_pause_ms=host.bulk_pause_ms),
    )


def joined(parts: Sequence[S]) -> S:
    """Several of one type as one: numbers of things added, times by the worst."""
    first = parts[0]
    fields: dict[str, Any] = {}
    for name in first.__struct_fields__:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], msgspec.Struct):
            fields[name] = joined(values)
        elif name.endswith("_ms"):
            fields[name] = max(values)
        elif isinstance(values[0], int):
            fields[name] = sum(values)
        else:
            raise Unexpected(f"{type(first).__name__}.{name} is neither a number of things nor a time")
    return type(first)(**fields)


def _failures(name: str, counts: Counts) -> list[str]:
    active, silent = counts.active, counts.silent
    lines = _told(f"{name}: active connections broken", active.broken)
    lines += _told(f"{name}: active connections never established", active.wanted - active.established)
    lines += _told(f"{name}: silent connections broken", silent.broken)
    lines += _told(f"{name}: silent connections never established", silent.wanted - silent.established)
    lines += _told(f"{name}: silent connections without an answer", silent.asked - silent.alive)
    lines += _told(f"{name}: datagrams lost", counts.udp.lost)
    lines += _told(f"{name}: endpoints too many for one UDP flow", max(0, counts.udp.sources - 1))
    lines += _told(f"{name}: datagrams of slow flows lost", counts.udp_slow.lost)
    lines += _told(f"{name}: slow UDP flows changed their endpoint", counts.udp_slow.changed)
    lines += _told(f"{name}: new connections failed", counts.new.failed)
    lines += _told(f"{name}: half-open connections failed", counts.half_open.failed)
    lines += _told(f"{name}: bulk transfer broken", counts.bulk.broken)
    return lines + _told(f"{name}: pings lost", counts.ping.lost)


def _rates(load: Load, counts: Counts) -> list[tuple[str, float, float]]:
    """What, how many a second were wanted, how many there were."""
    return [
        ("exchanges", load.active / load.active_period, counts.active.exchanges),
        ("datagrams", load.udp, counts.udp.sent),
        ("new connections", load.new, counts.new.opened),
        ("half-open connections", load.half_open, counts.half_open.opened),
        ("Mbit", load.bulk, counts.bulk.received_bytes * 8 / 1e6),
        ("pings", load.ping, counts.ping.sent),
    ]


def _told(what: str, number: int) -> list[str]:
    return [f"{what}: {number}"] if number else []


def _parts(counts: Counts) -> list[tuple[str, msgspec.Struct]]:
    """Those kinds that there were."""
    empty = Counts()
    parts = [(name, getattr(counts, name)) for name in counts.__struct_fields__]
    return [(name, part) for name, part in parts if part != getattr(empty, name)]


def _words(part: msgspec.Struct) -> str:
    fields: dict[str, Any] = msgspec.structs.asdict(part)
    return "  ".join(
        f"{name.removesuffix('_ms')} {value}{' ms' * name.endswith('_ms')}" for name, value in fields.items()
    )
