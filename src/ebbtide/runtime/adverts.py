"""Advertises routers to the VMs of networks in which they have IPv6 places (`decide/adverts.py` says what; RFC 4861, 6.2).

* Who asks for a router is answered on its own compute, alone.
* What has changed is told three times to all VMs of the network, by the group that delivers to a compute's ports of it.
* All is told again every twenty minutes, the networks one after the other: nothing is due at the same time, whoever begins to lead.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from typing import TYPE_CHECKING
from zlib import crc32

import structlog

from ebbtide.compile import ledger
from ebbtide.compile.flow import Output, ToGroup
from ebbtide.decide import adverts
from ebbtide.decide.adverts import Advert
from ebbtide.model.addresses import link_local, number
from ebbtide.model.facts import Edit, Network, RouterPort
from ebbtide.openflow import messages as m
from ebbtide.runtime import asking, frames6

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("adverts")
#: Seconds between two times that all is told; and after a change, when it is told.
INTERVAL, SOON = 1200.0, (0.0, 4.0, 16.0)
#: Frames sent at one go; the next follow a moment later.
AT_ONCE, BREATH = 50, 0.1
#: Seconds after which a controller that does not lead looks whether it does.
FOLLOWER = 1.0


class Adverts:
    """All networks' routers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wake = asyncio.Event()
        #: What each network's routers say; and what is to be said of those that have gone.
        self._told: dict[str, list[Advert]] = {}
        self._gone: dict[str, list[Advert]] = {}
        self._due: list[tuple[float, str, bool]] = []
        self._waiting: list[tuple[Member, int, bytes]] = []

    def begin(self) -> None:
        """A new leadership: what is so has been said, and is said again in the course of one interval."""
        state, now = self._cluster.state, self._cluster.now()
        self._told = {name: found for name in state.routers_of if (found := adverts.of(state, name))}
        self._gone.clear()
        self._waiting.clear()
        self._due = [(now + INTERVAL * _share(name), name, True) for name in self._told]
        heapq.heapify(self._due)
        self._wake.set()

    def changed(self, edits: Iterable[Edit]) -> None:
        """State has changed: what a network's routers say may have."""
        facts = (fact for edit in edits for fact in edit)
        names = {
            fact.network if isinstance(fact, RouterPort) else fact.id
            for fact in facts
            if isinstance(fact, RouterPort | Network)
        }
        for name in names:
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        before, after = self._told.get(name, []), adverts.of(self._cluster.state, name)
        if before == after or not self._cluster.store.leading.is_set():
            return
        now = self._cluster.now()
        gone = adverts.farewell([*before, *self._gone.get(name, ())], after)
        for table, value in ((self._told, after), (self._gone, gone)):
            if value:
                table[name] = value
            else:
                table.pop(name, None)
        for wait in SOON:
            heapq.heappush(self._due, (now + wait, name, False))
        if not before:
            heapq.heappush(self._due, (now + INTERVAL, name, True))
        self._wake.set()

    async def run(self) -> None:
        """Tell what is due; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._idle()):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if not self._cluster.store.leading.is_set():
                await asyncio.sleep(FOLLOWER)
                continue
            try:
                self._tell()
            except Exception:
                log.exception("adverts_fault")
                await asyncio.sleep(1.0)

    def _idle(self) -> float:
        if self._waiting:
            return BREATH
        return max(0.01, self._due[0][0] - self._cluster.now()) if self._due else 3600.0

    def _tell(self) -> None:
        now, state = self._cluster.now(), self._cluster.state
        while self._due and self._due[0][0] <= now:
            _, name, again = heapq.heappop(self._due)
            told = [*self._told.get(name, ()), *self._gone.get(name, ())]
            net = state.networks.get(name)
            if net is None or not told:
                continue
            if again:
                # What has gone has been said often enough.
                self._gone.pop(name, None)
                heapq.heappush(self._due, (now + INTERVAL, name, True))
            members = [self._cluster.members.get(number) for number in state.footprint(name)]
            spoken = [frames6.router_advert(advert) for advert in told]
            self._waiting += [(member, net.tag, frame) for member in members if member is not None for frame in spoken]
        for member, tag, frame in self._waiting[:AT_ONCE]:
            if member.connected and member.switch is not None:
                asking.send(member.switch, (ToGroup(ledger.local_group(tag)),), frame)
        del self._waiting[:AT_ONCE]

    def heard(self, member: Member, tag: int, packet: m.PacketIn) -> None:
        """A VM asks for routers, or for a router's address without saying where it is itself: it is answered on its compute."""
        state, source = self._cluster.state, frames6.source_of(packet.data)
        name, port = state.by_tag.get(tag, ""), asking.sender(state, packet)
        interface = member.view.ports.get(port) if port is not None else None
        if source is None or interface is None or not interface.ofport or member.switch is None:
            return
        to = source if source[1] else None
        if frames6.asks_for_router(packet.data):
            answers = [frames6.router_advert(advert, to) for advert in adverts.of(state, name)]
        else:
            answers = self._defended(name, packet.data, to)
        for frame in answers:
            asking.send(member.switch, (Output(interface.ofport),), frame)

    def _defended(self, name: str, data: bytes, to: tuple[int, int] | None) -> list[bytes]:
        said, state = frames6.read(data), self._cluster.state
        legs = [leg for vrf in state.routers_of.get(name, ()) for leg in state.places(vrf) if leg.network == name]
        wanted = said.target if said is not None else 0
        own = (leg for leg in legs if ":" in leg.address and wanted in (number(leg.address), link_local(leg.mac)))
        return [frames6.advertisement(wanted, leg.mac, to) for leg in own][:1]


def _share(name: str) -> float:
    """A network's place in the course of an interval, 0 to 1: always the same."""
    return crc32(name.encode()) / 0xFFFF_FFFF
