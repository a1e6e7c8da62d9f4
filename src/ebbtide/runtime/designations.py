"""Who is designated for what: looks when something has changed that an election depends on, and stores what it finds.

Nothing is concluded from silence: a compute that is unreachable keeps what it has (`decide/designation.py`). When more than a fifth of the
computes have become unreachable within half a minute, it is this controller that is cut off, and it elects nobody.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import structlog

from ebbtide.decide import designation, duties
from ebbtide.decide.designation import Sighting, Standing
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import (
    Binding,
    Compute,
    Designation,
    Edit,
    External,
    Fact,
    Membership,
    Move,
    Network,
    Router,
    RouterPort,
    Vpn,
)
from ebbtide.model.observed import Phase
from ebbtide.model.state import NAT, State
from ebbtide.runtime.doubts import TICK, Doubts

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member
    from ebbtide.runtime.switch import SwitchLink

log = structlog.get_logger("designations")
#: Seconds after something has changed until it is looked at: computes come and go together.
_SOON, _AGAIN = 0.05, 1.0
#: Seconds of silence after which a tombstoned compute that nobody sees by BFD has left; and of one not heard yet in this leadership.
LEAVING, NOT_YET_HEARD = 5.0, 30.0
#: So many computes that fell silent within so many seconds are no accident of theirs.
_TOGETHER, _FEW = 30.0, 3
#: Seconds after which one that has died is tried again, if it has no peers whose tunnels could show that it lives.
_DOUBT = 30.0
#: What is served through the controller moves at once from a compute that loses its session, unless more than so many lose theirs within so
#: many seconds: then it is waited for that they come back.
_ALONE, _HOLD = 3, 5.0
_CONCERNS = (Network, Router, Vpn, RouterPort, Designation, Move, External)


class _Silence(NamedTuple):
    """Of all computes: whether many are away, how many have lost their sessions a moment ago, whether it is this controller's fault."""

    many: bool = False
    fallen: int = 0
    cut_off: bool = False


class Designations:
    """All designated services."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._due = asyncio.Event()
        #: Who has died, by the session of its switch at that time, and when: what it may be given again waits for a sign of life.
        self._died: dict[int, tuple[SwitchLink | None, float]] = {}
        self._doubts = Doubts(cluster)
        #: When this leadership began.
        self.began = cluster.now()
        self.cut_off = ""

    def begin(self) -> None:
        """A new leadership: nobody has been heard in it yet."""
        self.began = self._cluster.now()

    def changed(self, edits: Iterable[Edit], before: State, after: State) -> None:
        """State has changed: is it of interest to an election?"""
        for old, new in edits:
            fact: Fact | None = new if new is not None else old
            if isinstance(fact, Designation | Move):
                self._forget_unwatched()
            if isinstance(fact, _CONCERNS) or (isinstance(fact, Compute) and _differs(old, new)):
                self._due.set()
            elif isinstance(fact, Binding):
                port = after.ports.get(fact.port) or before.ports.get(fact.port)
                if port is not None and after.routers_of.get(port.network):
                    self._due.set()

    def _forget_unwatched(self) -> None:
        """Who is no end of a relation any more is watched by nobody: when it is one again, it is to be seen before it can be lost."""
        for number, member in self._cluster.members.items():
            if member.down_at:
                member.forget_sights(self._cluster.state.relation_peers(number))

    def look(self) -> None:
        """A compute has come to another phase, or its sessions have."""
        if self._any():
            self._due.set()

    def _any(self) -> bool:
        """Whether there is anything that somebody is designated for, or may be."""
        state = self._cluster.state
        return bool(state.routers or state.legs or state.designations)

    async def run(self) -> None:
        """Judge when there is something to judge; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(TICK if self._doubts else _AGAIN):
                    await self._due.wait()
            except TimeoutError:
                # Silence is no event: who has been silent for long enough is found by looking.
                if not self._doubts and not self._died and all(m.connected for m in self._cluster.members.values()):
                    continue
            await self._gather()
            self._due.clear()
            if not self._cluster.store.leading.is_set() or not self._any():
                continue
            try:
                await self._judge()
            except EbbtideError as error:
                log.warning("designations_wait", reason=str(error))
                await asyncio.sleep(0.5)
                self._due.set()
            except Exception:
                log.exception("designations_fault")
                await asyncio.sleep(1.0)
                self._due.set()

    async def _gather(self) -> None:
        """Wait a little for what comes together; but not once somebody who serves or stands by has died."""
        end = asyncio.get_running_loop().time() + _SOON
        while not self._has_died():
            self._due.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._due.wait()
            except TimeoutError:
                return

    def _has_died(self) -> bool:
        serves, members = self._cluster.state.serves, self._cluster.members.values()
        if not any(serves.get(number) for m in members if m.connected for number in m.down_at):
            return False
        return any(standing.dead and serves.get(number) for number, standing in self.standings().items())

    async def _judge(self) -> None:
        self.cut_off = self.cut_off_now()
        if self.cut_off and not self._has_died():
            log.error("elects_nobody", reason=self.cut_off)
            asyncio.get_running_loop().call_later(_TOGETHER / 3, self._due.set)
            return

        # NAT first, and by itself: what stands by for it is told of by nobody else, while all others only ask for addresses.
        edits: list[Edit] = []
        for judge in (designation.judge, duties.judge):
            edits += await self._cluster.store.commit(partial(self._decide, judge))
        for _, new in edits:
            if isinstance(new, Designation):
                names = {n: c.name for n, c in self._cluster.state.computes.items()}
                log.info(
                    "designated",
                    service=new.service,
                    object=new.object,
                    compute=names.get(new.compute, ""),
                    standby=names.get(new.standby, ""),
                )

    def _decide(
        self, judge: Callable[[State, Mapping[int, Standing]], list[Edit]], state: State
    ) -> tuple[list[Edit], list[Edit]]:
        edits = judge(state, self.standings())
        return edits, edits

    def standings(self) -> dict[int, Standing]:
        """How each compute is seen now."""
        state, members = self._cluster.state, self._cluster.members
        found = [(c, members[c.number]) for c in state.members() if c.number in members]
        sightings = [m.sighting() for _, m in found if m.connected]
        silence = self._silence(m for _, m in found)
        standings = {compute.number: self._standing(compute, member, sightings, silence) for compute, member in found}
        self._doubts.keep(standings)
        return standings

    def _standing(self, compute: Compute, member: Member, sightings: list[Sighting], silence: _Silence) -> Standing:
        state, now = self._cluster.state, self._cluster.now()
        wired = frozenset(p for p, interface in member.view.providers.items() if interface.ofport)
        served = [d for d in (state.designations.get((NAT, r)) for r in state.serves.get(compute.number, ())) if d]
        standbys = {d.standby for d in served if d.compute == compute.number and d.standby}
        dead = self._is_dead(member, standbys, sightings)
        gone = not member.connected and not designation.is_seen(compute.number, sightings)
        if gone:
            # Silence begins with this leadership: a controller that has just started has heard nobody yet.
            since = member.lost_at if member.lost_at is not None else now
            leaves = LEAVING if member.heard_before else NOT_YET_HEARD
            gone = now - since >= (leaves if compute.tombstoned else self._cluster.settings.unreachable_grace)
        ready, absent = member.phase is Phase.READY, self._is_absent(member, compute.tombstoned, silence)
        return Standing(ready, member.connected, member.reason, wired, dead, gone, absent)

    def _is_absent(self, member: Member, tombstoned: bool, silence: _Silence) -> bool:
        """Whether what needs a control session is to leave it: it has lost its own, and it is not the controller that is cut off."""
        if member.connected:
            return False
        now = self._cluster.now()
        if not member.heard_before or member.lost_at is None:
            # Silence begins with this leadership; and while many have not come yet, they will.
            return now - self.began >= (self._cluster.settings.unreachable_grace if silence.many else NOT_YET_HEARD)
        return tombstoned or silence.fallen <= _ALONE or (now - member.lost_at >= _HOLD and not silence.cut_off)

    def _silence(self, members: Iterable[Member]) -> _Silence:
        now, away = self._cluster.now(), [m for m in members if not m.connected]
        if not away:
            return _Silence()
        fallen = sum(m.lost_at is not None and m.heard_before and now - m.lost_at < _HOLD for m in away)
        return _Silence(5 * len(away) > len(self._cluster.state.computes), fallen, bool(self.cut_off_now()))

    def _is_dead(self, member: Member, standbys: set[int], sightings: list[Sighting]) -> bool:
        """Whether nobody sees it any more. With its parts it loses those who watch it, and is dead nevertheless until it has shown life."""
        number, cluster = member.number, self._cluster
        lost = designation.is_dead(number, standbys, sightings)
        if lost and number not in self._died:
            if self._doubts.carries(number, (s.observer for s in sightings if number in s.lost)):
                return False
            self._died[number] = member.switch, cluster.now()
            for peer in cluster.state.peers(number):
                cluster.probes.watch_again(peer, number)
        if lost:
            return True
        self._doubts.forget(number)
        if number in self._died:
            switch, at = self._died[number]
            peers = cluster.state.peers(number)
            anew = member.switch is not None and member.switch is not switch
            open_again = any(cluster.probes.is_open(peer, number) for peer in peers)
            forgotten = not peers and cluster.now() - at > _DOUBT
            if anew or open_again or forgotten or designation.is_seen(number, sightings):
                del self._died[number]
        return number in self._died

    def cut_off_now(self) -> str:
        """Why nothing may be concluded from who is reachable now, in words; "": it may."""
        members = [m for m in self._cluster.members.values() if m.compute and m.compute.membership is Membership.MEMBER]
        lost = sorted(m.lost_at for m in members if m.lost_at is not None and m.heard_before and not _is_marked(m))
        together = max((bisect_right(lost, at + _TOGETHER) - n for n, at in enumerate(lost)), default=0)
        if together >= _FEW and 5 * together > len(members):
            return (
                f"{together} of {len(members)} computes have become unreachable within {_TOGETHER:.0f} s, and are so still: it is this "
                "controller that is cut off, or the network between"
            )
        return ""


def _is_marked(member: Member) -> bool:
    """Whether it is to leave: its silence is no surprise."""
    return member.compute is not None and member.compute.tombstoned


def _differs(old: Fact | None, new: Fact | None) -> bool:
    """Whether an election looks at what has changed of a compute."""
    if not isinstance(old, Compute) or not isinstance(new, Compute):
        return True
    seen = ((c.membership, c.tombstoned, c.gateway, c.weight, c.base, c.provider_mappings, c.teps) for c in (old, new))
    return len(set(seen)) > 1
