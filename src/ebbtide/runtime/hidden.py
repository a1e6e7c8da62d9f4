"""Asks networks for addresses that nobody was given, learns where they answer, and sees whether they still do (`decide/hidden.py`).

* A packet to an unknown address has come to its subnet's designated compute (`compile/features/subnet_route.py`): the network is asked for
  it from there by ARP or neighbour discovery, as one of its routers, some times and not again before the hold-off is over. The packet is
  kept, and sent on when the answer is there.
* What has answered is stored. Each such address is asked now and then, at its own port, whether it is still there.
* Somebody else speaks under a learnt address (gratuitous ARP, as a virtual router sends that takes over): whoever has it is asked. Only if
  nothing comes back does the address move, and each time that it does within a short time it takes longer: two hosts that both want it
  do not make every compute follow at their pace.
* What is learnt together is stored together, and what is stored counts no revision that the brake looks at (`Store.commit`).

A switch tells as much as its meters let pass; where they may have cut an answer, none that is missing counts.

Longer than 400 lines: what is asked, watched, challenged and stored of an address is one life, and each part of it ends another.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.compile.ledger import Punt
from ebbtide.decide import hidden
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Edit, Learnt, format_mac
from ebbtide.model.state import State
from ebbtide.openflow import messages as m
from ebbtide.runtime import asking, neighbours
from ebbtide.runtime.pulse import woken

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("hidden")
Key = tuple[str, str]  # network, address

#: Seconds after the first packet at which a network is asked for an address.
ASK = (0.0, 1.0, 2.0)
#: Questions that are open at the same time, in all and of one network: whoever scans a subnet is not answered any faster.
MOST, MOST_OF_NETWORK = 1000, 64
#: Seconds for which a holder may take to answer, before its address goes to whoever has spoken under it.
CHALLENGE = 0.3
#: An address that has moved so often within so many seconds waits 2, 4, 8... seconds before it may again, at most so many.
CALM, LONGEST = 600.0, 300.0
#: Of the interval at which an address is asked: so much of it between two questions once one was not answered.
SHARE = 1 / 6
#: Seconds for which an address stays whose port is plugged nowhere.
UNPLUGGED = 60.0
#: What is learnt within so many seconds is stored together.
TOGETHER = 0.1
#: Seconds for which the holder of an address whose compute has lost its session may come back before the address is another's.
AWAY = 3.0
#: An address that moves this often waits longest: 2 ** 9 seconds are more than LONGEST.
OFTEN = 9
#: Addresses asked at one go; the next follow a moment later.
AT_ONCE, BREATH = 50, 0.1
#: Seconds between two lines in the log about one address.
QUIET = 60.0


class Question(msgspec.Struct):
    """An address that a network is asked for: from which compute, how often already, when again; and the packet that waits for it."""

    compute: int
    frame: bytes
    asked: int = 0
    due: float = 0.0
    until: float = 0.0


class Watch(msgspec.Struct):
    """A learnt address. `asked`: since when it has not answered (0: it has) at `where`, its port's places; `due`: when it is asked next."""

    due: float
    asked: float = 0.0
    where: tuple[int, ...] = ()


class Challenge(msgspec.Struct, frozen=True):
    """Somebody has spoken under a learnt address."""

    port: str
    mac: int
    until: float


class Moved(msgspec.Struct):
    """How often an address has changed its port lately, and when last."""

    times: int
    at: float


class Hidden:
    """All learnt addresses, and those that are asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wake = asyncio.Event()
        self._questions: dict[Key, Question] = {}
        #: Until when an address is not asked for again.
        self._held_off: dict[Key, float] = {}
        self._watches: dict[Key, Watch] = {}
        self._heap: list[tuple[float, Key]] = []
        self._challenges: dict[Key, Challenge] = {}
        self._moved: dict[Key, Moved] = {}
        self._found: dict[Key, tuple[int, str]] = {}
        self._gone: set[Key] = set()
        self._frames: dict[Key, bytes] = {}
        self._said: dict[Key, float] = {}
        self._not_before = 0.0
        self._pruned = 0.0
        #: Answers that each compute has sent up, since when.
        self._heard: dict[int, tuple[float, int]] = {}
        #: For metrics: addresses learnt, moved, withdrawn and refused by this controller.
        self.counts = {"learnt": 0, "moved": 0, "withdrawn": 0, "conflict": 0, "refused": 0}

    def begin(self) -> None:
        """A new leadership: nothing is asked yet, and what is stored is asked in the course of one interval."""
        for table in (self._questions, self._held_off, self._watches, self._challenges, self._found, self._frames):
            table.clear()
        self._gone.clear()
        self._heap.clear()
        self._watch_all()
        self._wake.set()

    def changed(self, edits: Iterable[Edit]) -> None:
        """State has changed: what is learnt is watched."""
        for old, new in edits:
            if isinstance(new, Learnt):
                key = new.network, new.address
                # Where it is now it has not been asked yet, whatever was before.
                self._watch(key, self._cluster.now() + self._interval)
            elif isinstance(old, Learnt):
                self._watches.pop((old.network, old.address), None)

    @property
    def _interval(self) -> float:
        return self._cluster.settings.learnt_interval

    def _watch_all(self) -> None:
        keys = [(network, address) for network, held in self._cluster.state.learnt.items() for address in held]
        for number, key in enumerate(sorted(keys)):
            self._watch(key, self._cluster.now() + self._interval * (number + 1) / len(keys))

    def _watch(self, key: Key, due: float) -> None:
        self._watches[key] = Watch(due)
        heapq.heappush(self._heap, (due, key))
        self._wake.set()

    # --- what switches tell ---

    def heard(self, punt: Punt, member: Member, tag: int, packet: m.PacketIn) -> None:
        """A packet to an unknown address, or ARP that concerns one."""
        network = self._cluster.state.by_tag.get(tag, "")
        if network not in self._cluster.state.networks:
            return
        if punt is Punt.HIDDEN:
            self._wanted(network, member, packet.data)
            return
        said, port = neighbours.read(packet.data), asking.sender(self._cluster.state, packet)
        if said is None or port is None:
            return
        key = network, said.address
        if punt is Punt.ANNOUNCED:
            if not said.announced:
                return
            if key[1] not in self._cluster.state.learnt_in(network):
                # Of an address that is nobody's yet: whoever it is shall answer for it.
                self._held_off.pop(key, None)
                self._begin(key, member, b"")
                return
            # Of one that was learnt a moment ago: this compute does not know it yet. It is a claim.
        if punt is Punt.ANSWER:
            self._count(member)
        self._spoke(key, port, said.mac)

    def _wanted(self, network: str, member: Member, frame: bytes) -> None:
        address = neighbours.destination(frame)
        if address is None:
            return
        state = self._cluster.state
        key = network, address
        known = state.learnt_in(network).get(key[1])
        if known is not None and state.active(known.port) is not None:
            # Its route is on its way, or has just been missed.
            asking.deliver(self._cluster, known, frame)
            return
        self._begin(key, member, frame)

    def _begin(self, key: Key, member: Member, frame: bytes) -> None:
        """Ask a network for an address, unless that is being done, was done a moment ago, or is done too much.

        `frame` waits for the answer."""
        state, now = self._cluster.state, self._cluster.now()
        holder = state.given_to(*key)
        if holder is not None and state.active(holder) is not None:
            return
        open_now = self._questions.get(key)
        if open_now is not None:
            open_now.frame = frame or open_now.frame
            return
        if now < self._held_off.get(key, 0.0) or hidden.place_for(state, *key) is None:
            return
        of_network = sum(key[0] == other for other, _ in self._questions)
        if len(self._questions) >= MOST or of_network >= MOST_OF_NETWORK:
            self._refuse((key[0], "any"), "", f"{len(self._questions)} addresses are asked for already")
            return
        until = now + max(float(self._cluster.settings.hold_off), ASK[-1] + 1.0)
        self._questions[key] = Question(member.number, frame, due=now, until=until)
        self._ask(key, self._questions[key], now)
        self._wake.set()

    def _spoke(self, key: Key, port: str, mac: int) -> None:
        """Somebody has spoken under an address: it is learnt if it was asked for, still there if it is known, and questioned if it is
        another's."""
        state = self._cluster.state
        known = state.learnt_in(key[0]).get(key[1])
        if known is None:
            question = self._questions.pop(key, None)
            if question is not None:
                self._frames[key] = question.frame
                self._note(key, mac, port)
            return
        if known.port == port:
            watch = self._watches.get(key)
            if watch is not None and watch.asked:
                watch.asked, watch.due = 0.0, self._cluster.now() + self._interval
                heapq.heappush(self._heap, (watch.due, key))
            challenge = self._challenges.pop(key, None)
            if challenge is not None:
                self._conflict(key, known, challenge)
            if known.mac != mac and self._may_move(key, port):
                self._move(key, port, mac)
            return
        self._questions.pop(key, None)
        self._claimed(key, known, port, mac)

    def _claimed(self, key: Key, known: Learnt, port: str, mac: int) -> None:
        if key in self._challenges or not self._may_move(key, port):
            return
        why = hidden.why_not(self._cluster.state, *key, mac, port)
        if why:
            self._refuse(key, port, why)
            return
        patience = CHALLENGE
        if not asking.ask_holder(self._cluster, known):
            if self._cluster.state.active(known.port) is None:
                self._move(key, port, mac)
                return
            patience = AWAY  # its compute has lost its session, or a moment ago its switch
        self._challenges[key] = Challenge(port, mac, self._cluster.now() + patience)
        self._wake.set()

    def _settle(self, key: Key, challenge: Challenge, now: float) -> None:
        """The holder of an address has said nothing: it is the other's, if it could have been heard."""
        state = self._cluster.state
        known = state.learnt_in(key[0]).get(key[1])
        if known is None:
            return
        active = state.active(known.port)
        member = self._cluster.members.get(active.compute) if active is not None else None
        if member is not None and not member.connected and not member.heard_before:
            return  # it has not come yet since this controller leads; the other will say it again
        if active is not None and (len(state.bindings[known.port]) > 1 or self._may_be_cut(active.compute)):
            asking.ask_holder(self._cluster, known)
            self._challenges[key] = Challenge(challenge.port, challenge.mac, now + CHALLENGE)
            return
        self._move(key, challenge.port, challenge.mac)

    def _may_move(self, key: Key, port: str) -> bool:
        """Whether an address has kept its port and MAC for long enough to change them once more."""
        now, moved = self._cluster.now(), self._moved.get(key)
        if moved is not None and now - moved.at > CALM:
            self._moved.pop(key)
            moved = None
        if moved is not None and now < moved.at + min(2.0 ** min(moved.times, OFTEN), LONGEST):
            self._say("address_moves_too_often", key, port=port, times=moved.times)
            return False
        return True

    def _conflict(self, key: Key, known: Learnt, challenge: Challenge) -> None:
        self.counts["conflict"] += 1
        self._say("address_conflict", key, holder=known.port, claimed_by=challenge.port, mac=format_mac(challenge.mac))

    def _refuse(self, key: Key, port: str, why: str) -> None:
        self.counts["refused"] += 1
        self._say("address_refused", key, port=port, reason=why)

    def _move(self, key: Key, port: str, mac: int) -> None:
        moved = self._moved.setdefault(key, Moved(0, 0.0))
        moved.times, moved.at = moved.times + 1, self._cluster.now()
        self._note(key, mac, port)

    def _note(self, key: Key, mac: int, port: str) -> None:
        self._found[key] = mac, port
        self._gone.discard(key)
        self._wake.set()

    def _say(self, event: str, key: Key, **facts: object) -> None:
        now = self._cluster.now()
        if now - self._said.get(key, float("-inf")) >= QUIET:
            self._said[key] = now
            log.warning(event, network=key[0], address=key[1], **facts)

    def _count(self, member: Member) -> None:
        now = self._cluster.now()
        since, number = self._heard.get(member.number, (now, 0))
        self._heard[member.number] = (since, number + 1) if now - since < 1.0 else (now, 1)

    def _may_be_cut(self, compute: int) -> bool:
        """Whether a compute sends up so much that its meter may have cut an answer."""
        since, number = self._heard.get(compute, (0.0, 0))
        return self._cluster.now() - since < 2.0 and 2 * number > ledger.ANSWERS_PER_SECOND

    # --- questions ---

    def _ask(self, key: Key, question: Question, now: float) -> None:
        """Ask the network, once more or for the last time."""
        place = hidden.place_for(self._cluster.state, *key)
        if place is not None:
            asking.flood(self._cluster, key, place, question.compute)
        question.asked += 1
        begun = question.until - max(float(self._cluster.settings.hold_off), ASK[-1] + 1.0)
        question.due = begun + ASK[question.asked] if question.asked < len(ASK) else begun + ASK[-1] + 1.0

    # --- time ---

    async def run(self) -> None:
        """Ask, watch and store when it is due; until cancelled."""
        while True:
            await woken(self._wake, self._idle())
            if not self._cluster.store.leading.is_set():
                await asyncio.sleep(TOGETHER)
                continue
            try:
                self._look()
                if self._found or self._gone:
                    await self._store()
                    await asyncio.sleep(TOGETHER)
                    self._wake.set()
            except EbbtideError as error:
                log.info("hidden_waits", reason=str(error))
                await asyncio.sleep(1.0)
                self._wake.set()
            except Exception:
                log.exception("hidden_fault")
                await asyncio.sleep(1.0)

    def _idle(self) -> float:
        now, dues = self._cluster.now(), [self._cluster.now() + 60.0]
        dues += [q.due for q in self._questions.values()] + [c.until for c in self._challenges.values()]
        if self._heap:
            dues.append(max(self._heap[0][0], self._not_before))
        return max(0.01, min(dues) - now)

    def _look(self) -> None:
        now = self._cluster.now()
        for key, question in list(self._questions.items()):
            if question.due > now:
                continue
            if question.asked < len(ASK):
                self._ask(key, question, now)
            else:
                del self._questions[key]
                if self._cluster.settings.hold_off:
                    self._held_off[key] = question.until
        if now - self._pruned > QUIET:
            self._pruned = now
            self._held_off = {key: until for key, until in self._held_off.items() if until > now}
            self._said = {key: at for key, at in self._said.items() if now - at < QUIET}
            self._moved = {key: moved for key, moved in self._moved.items() if now - moved.at < CALM}
        for key, challenge in list(self._challenges.items()):
            if challenge.until <= now:
                del self._challenges[key]
                self._settle(key, challenge, now)
        self._look_at_learnt(now)

    def _look_at_learnt(self, now: float) -> None:
        asked = 0
        while now >= self._not_before and self._heap and self._heap[0][0] <= now:
            if asked >= AT_ONCE:
                self._not_before = now + BREATH
                return
            due, key = heapq.heappop(self._heap)
            watch = self._watches.get(key)
            if watch is None or watch.due != due:
                continue
            watch.due = now + self._interval * SHARE
            heapq.heappush(self._heap, (watch.due, key))
            asked += self._check(key, watch, now)

    def _check(self, key: Key, watch: Watch, now: float) -> bool:
        """Ask a learnt address, or give it up; whether it was asked."""
        state = self._cluster.state
        known = state.learnt_in(key[0]).get(key[1])
        if known is None:
            self._watches.pop(key, None)
            return False
        bindings = state.bindings.get(known.port, ())
        where = tuple(b.compute for b in bindings)
        if where != watch.where:
            watch.asked, watch.where = 0.0, where
        patience = self._interval if bindings else UNPLUGGED
        if watch.asked and now - watch.asked >= patience:
            self._gone.add(key)
            watch.asked = 0.0
            return False
        active = state.active(known.port)
        if len(bindings) > 1 or (active is not None and self._may_be_cut(active.compute)):
            # A guest that is about to move may say nothing for a while; nor does one count whose answer may have been cut.
            watch.asked = 0.0
            return False
        watch.asked = watch.asked or now
        if bindings and not asking.ask_holder(self._cluster, known):
            # Its compute cannot be heard, and nothing follows from that; but somebody else may have the address by now.
            watch.asked = 0.0
            place = hidden.place_for(state, *key)
            for compute in sorted(state.designated_for(key[0])):
                if place is not None:
                    asking.flood(self._cluster, key, place, compute)
        return True

    async def _store(self) -> None:
        """Store what was found and what has gone since the last time."""
        found, gone = dict(self._found), set(self._gone)
        before = self._cluster.state

        def decide(state: State) -> tuple[list[Edit], list[Edit]]:
            net = hidden.outcome(state, found, gone)
            return net, net

        edits = await self._cluster.store.commit(decide)
        for key in found:
            if self._found.get(key) == found[key]:
                del self._found[key]
        self._gone -= gone
        for old, new in edits:
            what = "withdrawn" if new is None else "learnt" if old is None else "moved"
            self.counts[what] += 1
            fact = new if isinstance(new, Learnt) else old
            if isinstance(fact, Learnt):
                log.info(
                    f"address_{what}",
                    network=fact.network,
                    address=fact.address,
                    port=fact.port,
                    mac=format_mac(fact.mac),
                )
        for key, (mac, port) in found.items():
            why = hidden.why_not(self._cluster.state, *key, mac, port)
            if why and key[1] not in self._cluster.state.learnt_in(key[0]):
                self._refuse(key, port, why)
        for key in found:
            frame, known = self._frames.pop(key, None), self._cluster.state.learnt_in(key[0]).get(key[1])
            if frame is not None and known is not None and known != before.learnt_in(key[0]).get(key[1]):
                asking.deliver(self._cluster, known, frame)

    # --- for the north ---

    def asked_for(self) -> Iterator[tuple[str, str, str]]:
        """Network, address, and what is done about it, of all that are in question now."""
        for key in sorted(self._questions):
            yield (*key, f"asked for {self._questions[key].asked} time(s), no answer yet")
        for key, challenge in sorted(self._challenges.items()):
            yield (*key, f"port {challenge.port} speaks under it: its holder is asked")
