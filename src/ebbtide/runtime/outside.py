"""What the controller itself does outside: asks for the next hops' MACs, announces addresses that have moved, and answers for routers what
cannot be sent on: its TTL has ended, or it is too big for where it goes.

A next hop is asked by each compute that owns an address there, one after the other, every half minute, and at short intervals while it
is unknown: what answers is stored, and what differs is followed. Asked from an address of nobody (RFC 5227), so that no neighbour learns a
place from the question; in IPv6 from the compute's own on the link. An address is announced five times by the compute that owns it now,
in both forms of gratuitous ARP or by an advertisement; and with each question for a next hop switches outside are told who listens for
questions for IPv6 addresses of ours.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.compile.features import path_mtu, stances
from ebbtide.compile.flow import Resubmit, SetField
from ebbtide.errors import EbbtideError
from ebbtide.model.addresses import holds, number
from ebbtide.model.facts import Edit, External, Neighbour, RouterPort, format_mac
from ebbtide.model.state import State
from ebbtide.openflow import messages as m
from ebbtide.runtime import asking, frames, frames6, neighbours
from ebbtide.runtime.pulse import woken
from ebbtide.runtime.switch import SwitchLost

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("outside")
#: Seconds between two questions for a next hop that is unknown, and for one that is known.
ASK_SOON, ASK = 0.5, 30.0
#: Seconds after an address has come to a compute at which it is announced there.
ANNOUNCE = (0.0, 0.05, 0.15, 1.0, 5.0)
#: A change of a next hop's MAC is followed at once, but no more than once in so many seconds.
FOLLOW = 1.0
#: Seconds of a leadership in which a next hop that has not answered yet is asked for at short intervals: sessions begin and end in them,
#: and a question may go down with one.
BEGINNING = 10.0


class Place(msgspec.Struct, frozen=True):
    """Who owns an external address: compute, MAC."""

    compute: int
    mac: int


class Outside:
    """All networks outside."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wake = asyncio.Event()
        self._asked: dict[str, float] = {}
        self._turn: dict[str, int] = {}
        self._followed: dict[str, float] = {}
        #: When to ask again for a next hop whose MAC has changed too soon after it had changed, that could not be stored, or that nobody
        #: could ask for.
        self._doubted: dict[str, float] = {}
        self._begun = float("-inf")
        self._places: dict[tuple[str, str], Place] = {}
        self._announcing: list[tuple[float, tuple[str, str], Place]] = []
        self._looked_at: State | None = None
        #: When a next hop last answered, by external network and the compute that heard it.
        self.answered: dict[tuple[str, int], float] = {}
        #: Where and when the network outside has last delivered what a next hop answers to one of our MACs, by external network and MAC.
        self.delivered: dict[tuple[str, int], tuple[int, float]] = {}

    def changed(self, edits: Iterable[Edit]) -> None:
        """State has changed."""
        if self._cluster.state.externals or self._places:
            self._wake.set()

    def begin(self) -> None:
        """A new leadership: nobody has listened before it, so all next hops are asked for at once."""
        self._asked.clear()
        self._doubted.clear()
        self.answered.clear()
        self._begun = self._cluster.now()
        self._wake.set()

    async def run(self) -> None:
        """Ask and announce when it is due; until cancelled."""
        while True:
            await woken(self._wake, self._idle())
            if not self._cluster.store.leading.is_set():
                self._places.clear()
                self._announcing.clear()
                continue
            try:
                self._look_at_places()
                self._announce()
                self._ask()
            except EbbtideError as error:
                log.info("outside_waits", reason=str(error))
            except Exception:
                log.exception("outside_fault")
                await asyncio.sleep(1.0)

    def _idle(self) -> float:
        if not self._cluster.store.leading.is_set():
            # What is due is done by who leads.
            return FOLLOW
        now, waits = self._cluster.now(), [3600.0]
        if self._announcing:
            waits.append(self._announcing[0][0] - now)
        state = self._cluster.state
        waits += [self._due(state, name, now) - now for name in state.externals]
        return max(0.01, min(waits))

    # --- addresses and where they are ---

    def _look_at_places(self) -> None:
        state = self._cluster.state
        if self._looked_at is state:
            return
        self._looked_at = state
        places = places_of(state)
        for key, place in places.items():
            if self._places.get(key) != place:
                self._schedule(key, place)
        self._places = places

    def _schedule(self, key: tuple[str, str], place: Place) -> None:
        for wait in ANNOUNCE:
            heapq.heappush(self._announcing, (self._cluster.now() + wait, key, place))

    def _announce(self) -> None:
        now = self._cluster.now()
        while self._announcing and self._announcing[0][0] <= now:
            due, key, place = heapq.heappop(self._announcing)
            if self._places.get(key) != place:
                continue  # it has moved on meanwhile
            member = self._cluster.members.get(place.compute)
            if member is None or not self._owns(member):
                if due + 60.0 > now and member is not None and member.connected:
                    heapq.heappush(self._announcing, (now + 0.02, key, place))
                continue
            for frame in neighbours.announcements(key[1], place.mac):
                self.send(member, key[0], frame)

    def _owns(self, member: Member) -> bool:
        """Whether the compute has its flows: nothing is announced before."""
        return member.connected and member.applied() >= self._cluster.state.revision

    def announce_again(self, external: str, addresses: Iterable[str]) -> None:
        """The network outside does not follow: say it once more, at all intervals."""
        for address in addresses:
            place = self._places.get((external, address))
            if place is not None:
                self._schedule((external, address), place)
        self._wake.set()

    def send(self, member: Member, external: str, frame: bytes) -> bool:
        """A frame out of a compute's port to a network outside; whether it could be sent."""
        found = self._cluster.state.externals.get(external)
        provider = member.view.providers.get(found.physical) if found is not None else None
        if found is None or provider is None or not provider.ofport or member.switch is None:
            return False
        try:
            member.switch.packet_out(provider.ofport, frame, vlan=found.vlan)
        except SwitchLost:
            return False
        return True

    # --- next hops ---

    def _due(self, state: State, name: str, never: float) -> float:
        """When a next hop is to be asked for; `never`: what counts where it never was."""
        due = self._asked.get(name, never) + self._interval(state, name)
        return min(due, self._doubted.get(name, due))

    def _interval(self, state: State, name: str) -> float:
        gateways = next_hops(state.externals[name])
        return ASK if all((name, gateway) in state.neighbours for gateway in gateways) else ASK_SOON

    def _ask(self) -> None:
        state, now = self._cluster.state, self._cluster.now()
        for external in state.externals.values():
            if now < self._due(state, external.id, float("-inf")):
                continue
            self._asked[external.id] = now
            self._doubted.pop(external.id, None)
            self._listens(state, external)
            if next_hops(external):
                # All of those that serve or stand by, and one of the others: so that a dead cable is known before it is needed.
                askers = self._askers(state, external)
                heard = any((external.id, number) in self.answered for number in askers)
                sent = [self.probe(external.id, number) for number in askers]
                if askers and not heard and (now < self._begun + BEGINNING or not any(sent)):
                    self._doubted[external.id] = now + ASK_SOON

    def _askers(self, state: State, external: External) -> list[int]:
        wired = [n for n in sorted(state.wired(external.id)) if n in self._cluster.members]
        serving = {n for r in state.routers.values() if r.external == external.id for n in state.servers(r.id)}
        serving |= {n for f in state.floatings.values() if f.external == external.id for n in state.hosts(f)}
        chosen = [n for n in wired if n in serving]
        others = [n for n in wired if n not in serving]
        if others:
            turn = self._turn.get(external.id, 0)
            self._turn[external.id] = turn + 1
            chosen.append(others[turn % len(others)])
        return chosen

    def probe(self, external: str, compute: int) -> bool:
        """Have a compute ask for the next hop, from its own MAC and an address of nobody; whether it could be sent."""
        member, found = self._cluster.members.get(compute), self._cluster.state.externals.get(external)
        if member is None or not member.connected or found is None:
            return False
        own = ledger.mac(self._cluster.state.store_id, ledger.MacOf.COMPUTE, compute)
        asked = [self.send(member, external, neighbours.question(hop, (own, ""))) for hop in next_hops(found)]
        return any(asked)

    def _listens(self, state: State, external: External) -> None:
        """A switch outside that snoops sends questions for IPv6 addresses to those who say now and then that they listen (RFC 4541)."""
        for (name, address), place in self._places.items():
            member = self._cluster.members.get(place.compute)
            if name == external.id and ":" in address and member is not None and self._owns(member):
                self.send(member, name, frames6.report([number(address)], place.mac))

    def ask_as(self, external: str, compute: int, mac: int) -> bool:
        """Have the owner of one of our MACs ask for the next hop under it; whether it could be sent.

        The answer goes to that MAC (RFC 826), so to where the switches outside have learnt it: see `delivered`.
        """
        member, found = self._cluster.members.get(compute), self._cluster.state.externals.get(external)
        if member is None or not member.connected or found is None or not found.gateway:
            return False
        return self.send(member, external, neighbours.question(found.gateway, (mac, "")))

    def heard(self, punt: ledger.Punt, member: Member, owner: int, packet: m.PacketIn) -> None:
        """A punt of an external network or a router."""
        if punt is ledger.Punt.NEXT_HOP:
            self._heard_next_hop(member, owner, packet.data)
        elif punt is ledger.Punt.TOO_BIG_OUTSIDE:
            self._too_big_outside(member, owner, packet)
        elif punt is ledger.Punt.TOO_BIG:
            self._too_big(member, owner, packet)
        else:
            self._tell(member, owner, packet, neighbours.no_further)

    def _heard_next_hop(self, member: Member, tag: int, data: bytes) -> None:
        state = self._cluster.state
        found, external = neighbours.read(data), state.externals.get(state.by_tag.get(tag, ""))
        if found is None or external is None or found.address not in next_hops(external):
            return
        if found.mac >> 40 & 1 or not found.mac or found.mac in {p.mac for p in self._places.values()}:
            return
        self.answered[external.id, member.number] = now = self._cluster.now()
        if found.answer and found.address == external.gateway:
            self.delivered[external.id, int.from_bytes(data[0:6], "big")] = member.number, now
        known = state.neighbours.get((external.id, found.address))
        if known is not None and known.mac == found.mac:
            return
        last = self._followed.get(external.id, float("-inf"))
        if known is not None and now - last < FOLLOW:
            self._doubted[external.id] = last + FOLLOW
            self._wake.set()
            return
        self._followed[external.id] = now
        log.info("next_hop", external=external.id, address=found.address, mac=format_mac(found.mac), at=member.name)
        task = asyncio.ensure_future(self._store(external.id, found.address, found.mac))
        task.add_done_callback(partial(self._has_stored, external.id))

    async def _store(self, external: str, address: str, mac: int) -> None:
        def decide(state: State) -> tuple[list[Edit], None]:
            if external not in state.externals or address not in next_hops(state.externals[external]):
                return [], None
            new = Neighbour(external, address, mac)
            old = state.neighbours.get((external, address))
            return ([] if old == new else [Edit(old, new)]), None

        await self._cluster.store.commit(decide)

    def _has_stored(self, external: str, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, EbbtideError):
            log.warning("next_hop_not_stored", external=external, reason=str(error))
        else:
            log.error("outside_fault", external=external, exc_info=error)
        # Nobody may speak of it again for long: it is asked for.
        self._followed.pop(external, None)
        self._doubted[external] = self._cluster.now() + FOLLOW
        self._wake.set()

    # --- what cannot be sent on ---

    def _too_big(self, member: Member, tag: int, packet: m.PacketIn) -> None:
        """Tell a VM, or in IPv6 who has sent from outside, the MTU of the network that its packet was to go to."""
        state = self._cluster.state
        target = neighbours.destination(packet.data)
        mtu = path_mtu.towards(path_mtu.widths(state, state.by_router_tag.get(tag, "")), target) if target else 0
        if not mtu or not path_mtu.exceeds(packet.total_len, mtu):
            return
        self._tell(member, tag, packet, partial(neighbours.too_big, mtu=mtu))

    def _tell(self, member: Member, tag: int, packet: m.PacketIn, says: Callable[[bytes, str], bytes | None]) -> None:
        """Answer what a router cannot send on: to a VM as its address in the VM's network, to the outside in IPv6 as its address there."""
        state = self._cluster.state
        router = state.routers.get(state.by_router_tag.get(tag, ""))
        if router is None or packet.data[0:6] != router.mac.to_bytes(6, "big"):
            self._tell_vm(member, tag, packet, says)
            return
        own = next((address for address in router.addresses if ":" in address), "")
        answer = says(packet.data, own) if own else None
        if answer is not None:
            self.send(member, router.external, self._voiced(member, (router.external, own), answer))

    def _voiced(self, member: Member, key: tuple[str, str], frame: bytes) -> bytes:
        """A frame for an address of ours, with its MAC where it is served: elsewhere with the compute's own, so that no switch outside
        learns a second place of it."""
        place = self._places.get(key)
        if place is not None and place.compute == member.number:
            return frame
        own = ledger.mac(self._cluster.state.store_id, ledger.MacOf.COMPUTE, member.number)
        return frame[:6] + own.to_bytes(6, "big") + frame[12:]

    def _too_big_outside(self, member: Member, tag: int, packet: m.PacketIn) -> None:
        """Tell who has sent to an external address the MTU of what is behind it, as that address."""
        state = self._cluster.state
        external = state.externals.get(state.by_tag.get(tag, ""))
        provider = member.view.providers.get(external.physical) if external is not None else None
        address = neighbours.destination(packet.data) or ""
        mtu = path_mtu.behind(state, external.id, address) if external is not None else 0
        if external is None or provider is None or not mtu or not path_mtu.exceeds(packet.total_len, mtu):
            return
        answer = neighbours.too_big(packet.data, address, mtu=mtu)
        if answer is None or member.switch is None:
            return
        sender = state.floatings.get((external.id, neighbours.sender(packet.data) or ""))
        if sender is not None and sender.port:
            # A VM of ours: where its floating IP is exchanged, what an error quotes is not.
            answer = frames.quoting(answer, number(sender.fixed))
        came_by = next((f.value for f in packet.match if f.name == ledger.INPUT_REG), 0)
        if came_by == provider.ofport & 0xFFFF:
            self.send(member, external.id, self._voiced(member, (external.id, address), answer))
            return
        # It was sent here, by who has a part in an address of ours: a switch outside would not send the answer back.
        inside = SetField("metadata", *ledger.metadata_network(external.tag)), Resubmit(ledger.T.GATEWAY_MAC)
        member.switch.send_out(inside, answer)

    def _tell_vm(
        self, member: Member, tag: int, packet: m.PacketIn, says: Callable[[bytes, str], bytes | None]
    ) -> None:
        """Answer a VM's packet, as the router's address in the VM's network."""
        state = self._cluster.state
        router, port = state.by_router_tag.get(tag), state.ports.get(asking.sender(state, packet) or "")
        interface = member.view.ports.get(port.id) if port is not None else None
        if port is None or interface is None or not interface.ofport or member.switch is None:
            return
        for leg in _in_order(state.legs.get(router or "", {}).values(), packet.data):
            if leg.network == port.network and packet.data[0:6] == leg.mac.to_bytes(6, "big"):
                answer = says(packet.data, leg.address)
                if answer is not None:
                    member.switch.packet_out(interface.ofport, answer)
                return


def _in_order(legs: Iterable[RouterPort], data: bytes) -> list[RouterPort]:
    """A router's places, those first in whose subnet the sender of a frame is: a network may have several subnets. In IPv6 a sender may
    have an address of its own only."""
    sender = neighbours.sender(data) or ""
    return sorted(legs, key=lambda leg: (not holds(leg.subnet, sender), (":" in leg.subnet) != (":" in sender)))


def next_hops(external: External) -> tuple[str, ...]:
    """The addresses of a network's next hops, one of each family that has one."""
    return tuple(address for address in (external.gateway, external.gateway6) if address)


def places_of(state: State) -> dict[tuple[str, str], Place]:
    """Every external address of ours that has an owner now, and who that is."""
    found: dict[tuple[str, str], Place] = {}
    for router in state.routers.values():
        owner = stances.owner(state, router.id) if router.external else 0
        if owner:
            found.update({(router.external, a): Place(owner, router.mac) for a in router.addresses})
    for key, floating in state.floatings.items():
        if floating.port:
            hosts = state.hosts(floating)
            at = next((n for n, answers in sorted(hosts.items()) if answers), 0)
            if not at and hosts:
                at = stances.owner(state, floating.router)
            if at in hosts:
                found[key] = Place(at, floating.mac)
    return found
