"""What routers' NATs refuse to translate, as their flows count and tell it (`compile/features/nat.py`, REFUSED and EXHAUSTED).

Nothing of it is ever opened, so a move has nothing of it to carry, and nothing of it is cut.
"""

from __future__ import annotations

import time
from collections.abc import Container
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

import structlog

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import TCP
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Router
from ebbtide.runtime import frames

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("nat")
#: Seconds for which a router that has no port left is said to have none, and between two such events of one router.
QUIET = 60.0


class Refusals(NamedTuple):
    """Packets, since the flows came to the computes that serve now: SCTP, any other protocol but TCP, UDP and ICMP, and those that would
    have begun a connection, and for which no port was left."""

    sctp: int = 0
    other: int = 0
    exhausted: int = 0


async def read(cluster: Cluster, router: Router) -> Refusals | None:
    """The counters of all who have a part in this router's NAT; None: none of them could be asked."""
    cookie = ledger.cookie(Kind.ROUTER, Feature.NAT, router.tag)
    counts = {
        (T.NAPT_OUT, Priority.REFUSED_SCTP): 0,
        (T.NAPT_OUT, Priority.REFUSED): 0,
        (T.NAT_OPENED, Priority.EXHAUSTED): 0,
    }
    asked = False
    for number in sorted(cluster.state.servers(router.id)):
        member = cluster.members.get(number)
        if member is None or not member.connected or member.switch is None:
            continue
        try:
            for table in sorted({table for table, _ in counts}):
                for flow in await member.switch.flows_of(table, cookie, ledger.UPPER_COOKIE_MASK):
                    if (table, flow.priority) in counts:
                        counts[table, flow.priority] += flow.n_packets
        except EbbtideError:
            continue  # it has just gone, or does not answer
        asked = True
    return Refusals(*counts.values()) if asked else None


class Exhausted(NamedTuple):
    """That a router had no port left: when last (seconds since the epoch), at which compute, and for whom."""

    at: float
    compute: str
    proto: int
    source: str
    remote: str

    @property
    def words(self) -> str:
        """Who wanted to go where."""
        return f"{self.source} to {self.remote} ({'TCP' if self.proto == TCP else 'UDP'})"


class Exhaustions:
    """All routers', by tag: what switches tell of connections that got no port. A switch tells at most some of them a second."""

    def __init__(self) -> None:
        self._found: dict[int, Exhausted] = {}

    def heard(self, router: str, tag: int, compute: str, data: bytes) -> None:
        """A packet that would have opened a connection. What cannot be read is passed over."""
        read = _ends(data)
        if read is None:
            return
        before, now = self._found.get(tag), time.time()
        found = Exhausted(now, compute, *read)
        self._found[tag] = found
        if before is None or now - before.at >= QUIET:
            log.warning("nat_ports_exhausted", router=router, compute=compute, refused=found.words)

    def of(self, tag: int) -> Exhausted | None:
        """A router's, if there ever was one."""
        return self._found.get(tag)

    def count(self) -> int:
        """Routers that had no port left within the last QUIET seconds."""
        return sum(time.time() - found.at < QUIET for found in self._found.values())

    def keep(self, tags: Container[int]) -> None:
        """Forget all but these."""
        self._found = {tag: found for tag, found in self._found.items() if tag in tags}


def _ends(data: bytes) -> tuple[int, str, str] | None:
    found = frames.transport(data)
    if found is None:
        return None
    proto, at = found
    source, remote = (str(IPv4Address(data[n : n + 4])) for n in (26, 30))
    return proto, source, f"{remote}:{int.from_bytes(data[at + 2 : at + 4], 'big')}"
