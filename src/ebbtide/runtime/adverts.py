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

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.compile.flow import Output, ToGroup
from ebbtide.decide import adverts
from ebbtide.decide.adverts import Advert
from ebbtide.model import facts
from ebbtide.model.addresses import link_local, number
from ebbtide.model.facts import Edit
from ebbtide.openflow import messages as m
from ebbtide.runtime import asking, frames6
from ebbtide.runtime.pulse import woken

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("adverts")
#: Seconds between two times that all is told; and after a change, when it is told.
INTERVAL, SOON = 1200.0, (0.0, 4.0, 16.0)
#: Seconds in which all is told for the first time in a leadership: a VM may have come up while nobody led.
FIRST = 120.0
#: Frames sent at one go; the next follow a moment later.
AT_ONCE, BREATH = 50, 0.1
#: Seconds after which a controller that does not lead looks whether it does.
FOLLOWER = 1.0


class Network(msgspec.Struct):
    """What the routers of a network say; what is said of those that have gone, until when; and when all is told next."""

    told: list[Advert]
    gone: list[Advert] = []
    until: float = 0.0
    due: float = 0.0


class Adverts:
    """All networks' routers."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wake = asyncio.Event()
        self._networks: dict[str, Network] = {}
        #: When a network is told; an entry for its round counts only as long as its `due` says the same.
        self._due: list[tuple[float, str]] = []
        self._waiting: dict[tuple[int, str], None] = {}
        #: What could not be told on a compute, whose switch was away.
        self._missed: dict[int, set[str]] = {}

    def begin(self) -> None:
        """A new leadership: all is told in the course of its first minutes. What has gone before it is not known any more."""
        state, now = self._cluster.state, self._cluster.now()
        self._networks = {n: Network(found) for n in state.routers_of if (found := adverts.of(state, n))}
        self._waiting.clear()
        self._missed.clear()
        self._due.clear()
        for name, known in self._networks.items():
            self._plan(name, known, now + FIRST * _share(name))
        self._wake.set()

    def _plan(self, name: str, known: Network, due: float) -> None:
        known.due = due
        heapq.heappush(self._due, (due, name))

    def changed(self, edits: Iterable[Edit]) -> None:
        """State has changed: what a network's routers say may have."""
        if not self._cluster.store.leading.is_set():
            return
        state, names = self._cluster.state, set[str]()
        for fact in (fact for edit in edits for fact in edit):
            if isinstance(fact, facts.RouterPort):
                # With what it has elsewhere, too: a router that leads outside comes first.
                names.update([fact.network, *(network for network, _ in state.legs.get(fact.router, ()))])
            elif isinstance(fact, facts.Network):
                names.add(fact.id)
            elif isinstance(fact, facts.Router | facts.External):
                # Who leads outside comes before who does not.
                routers = [r for r in state.routers.values() if fact.id in (r.id, r.external)]
                names.update(network for r in routers for network, _ in state.legs.get(r.id, ()))
        for name in names:
            self._look_at(name)

    def back(self, member: Member) -> None:
        """A compute has its flows: what it has missed is told there."""
        if member.number in self._missed and member.connected:
            self._waiting.update(((member.number, name), None) for name in self._missed.pop(member.number))
            self._wake.set()

    def _look_at(self, name: str) -> None:
        now, after = self._cluster.now(), adverts.of(self._cluster.state, name)
        known = self._networks.get(name)
        before = known.told if known is not None else []
        if before == after:
            return
        if known is None:
            known = self._networks[name] = Network(after)
            self._plan(name, known, now + INTERVAL)
        # For as long as somebody may believe it: who sleeps now, or is away, hears of it later.
        known.gone, known.until = adverts.farewell([*before, *known.gone], after), now + adverts.LONGEST
        known.told = after
        for wait in SOON:
            heapq.heappush(self._due, (now + wait, name))
        self._wake.set()

    def _spoken(self, name: str, to: tuple[int, int] | None = None) -> list[bytes]:
        known = self._networks.get(name)
        said = [*known.told, *known.gone] if known is not None else []
        return [frames6.router_advert(advert, to) for advert in said]

    async def run(self) -> None:
        """Tell what is due; until cancelled."""
        while True:
            await woken(self._wake, self._idle())
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
            due, name = heapq.heappop(self._due)
            known = self._networks.get(name)
            if known is None:
                continue
            if now >= known.until:
                known.gone = []
            if not known.told and not known.gone:
                del self._networks[name]
                continue
            if due == known.due:
                self._plan(name, known, now + INTERVAL)
            self._waiting.update(((compute, name), None) for compute in state.footprint(name))
        for compute, name in list(self._waiting)[:AT_ONCE]:
            del self._waiting[compute, name]
            member, net = self._cluster.members.get(compute), state.networks.get(name)
            if member is None or not member.connected or member.switch is None or net is None:
                self._missed.setdefault(compute, set()).add(name)
                continue
            for frame in self._spoken(name):
                asking.send(member.switch, (ToGroup(ledger.local_group(net.tag)),), frame)

    def heard(self, member: Member, tag: int, packet: m.PacketIn) -> None:
        """A VM asks for routers, or for a router's address without saying where it is itself: it is answered on its compute."""
        state, source = self._cluster.state, frames6.source_of(packet.data)
        name, port = state.by_tag.get(tag, ""), asking.sender(state, packet)
        interface = member.view.ports.get(port) if port is not None else None
        if source is None or interface is None or not interface.ofport or member.switch is None:
            return
        to = source if source[1] else None
        if frames6.asks_for_router(packet.data):
            answers = self._spoken(name, to)
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
