"""The connections of a router's NAT, as they are now: what its switches have opened, what of that is recorded, and what nobody knows.

A switch's own list of connections can be read by no protocol that a controller speaks. What can: how many connections it has opened since
its flows are there, by TCP, UDP and all else, and the record (`connections.py`). Their difference is what is unknown, at most: some of it
may be over by now. The counters follow the datapath within a second or so: for a moment the record may be ahead of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING, NamedTuple

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import Translation
from ebbtide.compile.ledger import Feature, Kind, T
from ebbtide.decide import datapaths
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Router
from ebbtide.runtime import exports
from ebbtide.runtime.connections import Entry
from ebbtide.runtime.exports import Opened
from ebbtide.runtime.switch import SwitchLink

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

#: Routers whose switches are read at the same time, for a plan.
_READ_AT_ONCE = 8
#: Seconds that a switch may take to say what it has opened, when somebody looks.
_PATIENCE = 5.0


class Part(NamedTuple):
    """One compute that has a part in a router's NAT. `received`: records of connections that it told since its counters began; `rows`:
    connections that it carries for others. `reason`: why it was not read, and then there are no counts."""

    compute: int
    opened: Opened | None = None
    received: int = 0
    rows: int = 0
    reason: str = ""

    @property
    def unknown(self) -> int:
        """Connections that it has opened and of which no record has come, at most."""
        if self.opened is None:
            return 0
        return max(0, self.opened.known_of - (self.received if self.opened.recording else 0))


async def opened(switch: SwitchLink, router: Router) -> Opened:
    """What a switch has opened for a router since its flows are there.

    Raises:
        SwitchLost: its session has ended.
    """
    cookie = ledger.cookie(Kind.ROUTER, Feature.NAT, router.tag)
    return exports.read_opened(await switch.flows_of(T.NAT_OPENED, cookie, ledger.UPPER_COOKIE_MASK))


def received(cluster: Cluster, router: Router, number: int, seen: Opened) -> int:
    """Records that have come from a compute since it counts what it opens."""
    return cluster.connections.received(router.tag, number, time.time() - seen.seconds - 1.0)


async def parts(cluster: Cluster, router: Router) -> list[Part]:
    """Every compute that has a part in a router's NAT, as it says itself; one that cannot be read is there with the reason."""
    numbers = sorted(cluster.state.servers(router.id))
    return list(await asyncio.gather(*(part(cluster, router, number) for number in numbers)))


class BeforeMove(NamedTuple):
    """What a move of a router's NAT would carry over: connections that are on record and open, what its compute says of itself, and whether
    the move is proven on the datapaths of both ends."""

    recorded: int
    part: Part
    proof: datapaths.Proof


async def before_moves(cluster: Cluster, moves: Sequence[tuple[Router, int, int]]) -> list[BeforeMove]:
    """Of each of these moves (router, old compute, new compute), for a plan; a few switches are read at the same time."""
    turns = asyncio.Semaphore(_READ_AT_ONCE)

    async def looked_at(router: Router, old: int, new: int) -> BeforeMove:
        async with turns:
            seen = await part(cluster, router, old)
        entries = cluster.connections.of(router.tag)
        ends = [cluster.members[n].view.datapath for n in (old, new) if n in cluster.members]
        return BeforeMove(sum(not e.closed for e in entries), seen, datapaths.move_proven(*ends))

    return list(await asyncio.gather(*(looked_at(*move) for move in moves)))


async def part(cluster: Cluster, router: Router, number: int) -> Part:
    """One of them."""
    try:
        async with asyncio.timeout(_PATIENCE):
            seen = await opened(cluster.rows.switch(number), router)
            rows = len(await cluster.rows.at(router, number))
    except TimeoutError:
        return Part(number, reason="does not answer")
    except EbbtideError as error:
        return Part(number, reason=str(error))
    return Part(number, seen, received(cluster, router, number, seen), rows)


def counted(entries: Iterable[Entry]) -> dict[tuple[int, int], tuple[int, int]]:
    """Of a record: (compute that opened, protocol) -> connections that are open, and those whose end was seen a moment ago."""
    found = Counter((e.compute, e.translation.proto, bool(e.closed)) for e in entries)
    kinds = sorted({key[:2] for key in found})
    return {kind: (found[*kind, False], found[*kind, True]) for kind in kinds}


#: A place in the list of connections, which is in order of age: where a page ended.
Place = tuple[int, Translation]


def place(entry: Entry) -> Place:
    """Where an entry stands."""
    return entry.opened, entry.translation


def page(entries: Iterable[Entry], limit: int, after: Place | None = None) -> list[Entry]:
    """So many connections, the oldest first, of those behind a place."""
    return nsmallest(limit, (e for e in entries if after is None or place(e) > after), key=place)
