"""Probes through tunnels: a tunnel is open when a small one and one at full tenant MTU have arrived at the far end.

A probe leaves by packet-out under a VNI of its own and is punted by the far end's classifier. The first ones also make the userspace
datapath resolve its peer's MAC (it drops what it cannot resolve yet), and one every few minutes keeps that from being forgotten. "Full"
is the widest frame of the networks that the two ends share; where they share none, what fits into an underlay of 1500.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from ebbtide.compile import ledger
from ebbtide.errors import EbbtideError
from ebbtide.model import teps
from ebbtide.runtime import vswitch

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("probes")
_HEADER = struct.Struct("!6s6sHIII")
_MAC = bytes.fromhex("02eb00000000")
SMALL = 60
ETHERNET_HEADER = 14
#: Seconds between two tries, at first and later; between two of an open tunnel, on the userspace datapath (which forgets its peer's MAC
#: after 15 minutes without traffic) and on others.
FAST, SLOW, KEEP, RARELY = 0.1, 5.0, 240.0, 3600.0
FAST_TRIES = 30
#: Tunnels probed at a stretch, and the pause (seconds) before the next: when hundreds of computes come at once, others have their turn.
AT_ONCE, PAUSE = 50, 0.01


def frame(source: int, target: int, size: int) -> bytes:
    """A probe of `size` bytes, Ethernet header included."""
    head = _HEADER.pack(_MAC, _MAC, ledger.PROBE_ETHERTYPE, source, target, size)
    return head + bytes(max(0, size - len(head)))


def read(data: bytes) -> tuple[int, int, int] | None:
    """(source, target, size) of a probe, or None."""
    if len(data) < _HEADER.size:
        return None
    _, _, kind, source, target, size = _HEADER.unpack_from(data)
    return (source, target, size) if kind == ledger.PROBE_ETHERTYPE else None


class Probes:
    """Which directed tunnels are open, and the schedule of asking."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._due: list[tuple[float, int, int]] = []
        self._next: dict[tuple[int, int], float] = {}
        self._tries: dict[tuple[int, int], int] = {}
        self._arrived: dict[tuple[int, int], dict[int, float]] = {}
        self._full: dict[tuple[int, int], int] = {}

    def watch(self, source: int, target: int) -> None:
        """A tunnel has been made (or made anew): find out whether it is open."""
        self._schedule(source, target, 0.0)
        self._tries[source, target] = 0
        self._arrived.pop((source, target), None)
        self._full[source, target] = self._widest(source, target)
        self._cluster.probing.set()

    def watch_again(self, one: int, other: int) -> None:
        """Whatever has been found out of the tunnel between the two, if there is one, is to be found out once more, both ways."""
        for way in ((one, other), (other, one)):
            if way in self._tries:
                self.watch(*way)

    def want(self, source: int, target: int) -> bool:
        """Whether the tunnel is open, both ways, for what the two share by now; if not, it is probed soon."""
        late = self._cluster.now() + SLOW
        for way in ((source, target), (target, source)):
            if way not in self._tries:
                continue
            wider = self._full[way] != self._widest(*way)
            if wider or (not self._is_done(way) and self._next[way] > late):
                self.watch(*way)
        return self.is_open(source, target)

    def _widest(self, source: int, target: int) -> int:
        """Bytes of the widest frame, Ethernet header included, of the networks that both are in."""
        state = self._cluster.state
        here, there = state.networks_on.get(source, ()), state.networks_on.get(target, ())
        shared = (state.networks[name].mtu for name in here if name in there)
        own = state.computes.get(source)
        usual = teps.DEFAULT_MTU[teps.version(own.tep if own is not None else "")]
        return max(shared, default=usual) + ETHERNET_HEADER

    def _schedule(self, source: int, target: int, at: float) -> None:
        # An entry of the heap counts only if it is the one noted here: what was scheduled before is passed over.
        self._next[source, target] = at
        heapq.heappush(self._due, (at, source, target))

    def forget(self, source: int, target: int) -> None:
        """The tunnel is gone."""
        self._tries.pop((source, target), None)
        self._next.pop((source, target), None)
        self._arrived.pop((source, target), None)
        self._full.pop((source, target), None)

    def arrived(self, source: int, target: int, size: int) -> None:
        """The far end has punted a probe."""
        if (source, target) in self._tries:
            self._arrived.setdefault((source, target), {})[size] = self._cluster.now()

    def sizes(self, source: int, target: int) -> dict[int, float]:
        """Sizes of probes that have arrived, and when."""
        return self._arrived.get((source, target), {})

    def is_open(self, source: int, target: int) -> bool:
        """Whether probes of both sizes have arrived, both ways."""
        return self._is_done((source, target)) and self._is_done((target, source))

    def _is_done(self, way: tuple[int, int]) -> bool:
        sizes = self._arrived.get(way, ())
        return SMALL in sizes and self._full.get(way, 0) in sizes

    def narrow(self, source: int, targets: Iterable[int]) -> list[int]:
        """Where small probes of a compute arrive, and large ones do not, though both were sent again and again."""
        return [
            target
            for target in targets
            if self._tries.get((source, target), 0) >= FAST_TRIES
            and SMALL in self.sizes(source, target)
            and not self._is_done((source, target))
        ]

    def run_due(self) -> float:
        """Send what is due; seconds until the next."""
        now, looked_at = self._cluster.now(), 0
        while self._due and self._due[0][0] <= now:
            if looked_at == AT_ONCE:
                return PAUSE
            due, source, target = heapq.heappop(self._due)
            way = source, target
            if self._next.get(way) != due:
                continue
            looked_at += 1
            sent = self._send(source, target)
            self._tries[way] += sent
            # What cannot be sent now is watched anew when its switch has been compared.
            wait = FAST if sent and self._tries[way] < FAST_TRIES else SLOW
            if self._is_done(way):
                wait = KEEP if self._forgets(source) else RARELY
            self._schedule(source, target, now + wait)
        return max(0.01, self.idle_for())

    def idle_for(self) -> float:
        """Seconds until something is due; not above zero if it is."""
        return self._due[0][0] - self._cluster.now() if self._due else 3600.0

    def _forgets(self, source: int) -> bool:
        member = self._cluster.members.get(source)
        own = vswitch.bridge(member.tables) if member is not None and member.tables is not None else None
        return own is not None and own.row["datapath_type"] == "netdev"

    def _send(self, source: int, target: int) -> bool:
        member = self._cluster.members.get(source)
        if member is None or member.switch is None or not member.synced:
            return False
        interface = member.view.tunnels.get(target)
        if interface is None or not interface.ofport:
            return False
        try:
            for size in (SMALL, self._full[source, target]):
                member.switch.packet_out(interface.ofport, frame(source, target, size), ledger.PROBE_VNI)
        except EbbtideError as error:
            log.debug("probe_not_sent", source=source, target=target, reason=str(error))
            return False
        return True
