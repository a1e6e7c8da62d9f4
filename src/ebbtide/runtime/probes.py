"""Probes through tunnels: a tunnel is open when a small one and one at full tenant MTU have arrived at the far end.

A probe leaves by packet-out under a VNI of its own and is punted by the far end's classifier. The first ones also make the userspace
datapath resolve its peer's MAC (it drops what it cannot resolve yet), and one every few minutes keeps that from being forgotten.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

import structlog

from ebbtide.compile import ledger
from ebbtide.errors import EbbtideError

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("probes")
_HEADER = struct.Struct("!6s6sHIII")
_MAC = bytes.fromhex("02eb00000000")
SMALL = 60
FAST, SLOW, KEEP = 0.1, 5.0, 240.0
FAST_TRIES = 30


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

    def watch(self, source: int, target: int) -> None:
        """A tunnel has been made (or made anew): find out whether it is open."""
        self._schedule(source, target, 0.0)
        self._tries[source, target] = 0
        self._arrived.pop((source, target), None)
        self._cluster.probing.set()

    def _schedule(self, source: int, target: int, at: float) -> None:
        # An entry of the heap counts only if it is the one noted here: what was scheduled before is passed over.
        self._next[source, target] = at
        heapq.heappush(self._due, (at, source, target))

    def forget(self, source: int, target: int) -> None:
        """The tunnel is gone."""
        self._tries.pop((source, target), None)
        self._next.pop((source, target), None)
        self._arrived.pop((source, target), None)

    def arrived(self, source: int, target: int, size: int) -> None:
        """The far end has punted a probe."""
        if (source, target) in self._tries:
            self._arrived.setdefault((source, target), {})[size] = self._cluster.now()

    def sizes(self, source: int, target: int) -> dict[int, float]:
        """Sizes of probes that have arrived, and when."""
        return self._arrived.get((source, target), {})

    def is_open(self, source: int, target: int) -> bool:
        """Whether probes of both sizes have arrived, both ways."""
        full = self._cluster.full_frame
        return all({SMALL, full} <= set(self.sizes(*way)) for way in ((source, target), (target, source)))

    def narrow(self, source: int, targets: Iterable[int]) -> list[int]:
        """Where small probes of a compute arrive, and large ones do not, though both were sent again and again."""
        return [
            target
            for target in targets
            if self._tries.get((source, target), 0) >= FAST_TRIES and set(self.sizes(source, target)) == {SMALL}
        ]

    def run_due(self) -> float:
        """Send what is due; seconds until the next."""
        now = self._cluster.now()
        while self._due and self._due[0][0] <= now:
            due, source, target = heapq.heappop(self._due)
            if self._next.get((source, target)) != due:
                continue
            self._tries[source, target] += 1
            self._send(source, target)
            done = {SMALL, self._cluster.full_frame} <= set(self.sizes(source, target))
            wait = KEEP if done else FAST if self._tries[source, target] < FAST_TRIES else SLOW
            self._schedule(source, target, now + wait)
        return max(0.01, self._due[0][0] - now) if self._due else 3600.0

    def _send(self, source: int, target: int) -> None:
        member = self._cluster.members.get(source)
        if member is None or member.switch is None or not member.synced:
            return
        interface = member.view.tunnels.get(target)
        if interface is None or not interface.ofport:
            return
        try:
            for size in (SMALL, self._cluster.full_frame):
                member.switch.packet_out(interface.ofport, frame(source, target, size), ledger.PROBE_VNI)
        except EbbtideError as error:
            log.debug("probe_not_sent", source=source, target=target, reason=str(error))
