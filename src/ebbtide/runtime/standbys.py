"""Connections at the compute that stands by: rows in advance for what is recorded, all at once for who has just taken over.

Whoever serves gets rows too, of what the standby has opened in its place: computes that do not see it by BFD for a moment send to the
standby, and to it again as soon as they do, without asking anybody.

Rows of a standby follow the record a second at a time, and only for connections that are some seconds old and open: most are over before
that, and each change of a table has the switch look at all of its cached flows again. Whoever serves and is careful has taken over from a
dead one: it gets every row that is missing, and a little later it may open what it likes. UDP is never held up: without a row it gets
another port.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import Translation
from ebbtide.decide import natmove
from ebbtide.errors import EbbtideError
from ebbtide.model.addresses import ipv4
from ebbtide.model.facts import Designation, Edit, Router
from ebbtide.model.state import NAT, State
from ebbtide.runtime.connections import Entry, Follower, newest
from ebbtide.runtime.rows import Reading, RowsWait
from ebbtide.runtime.switch import SwitchLink

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("standbys")
#: Seconds between two looks at the record, and the age from which a connection is worth a row.
EVERY, OLD_ENOUGH = 1.0, 5.0
#: Seconds that whoever has taken over stays careful after all rows are there: packets may be on their way to a row.
GRACE = 3.0
#: Seconds after somebody has come out of sight until what its standby opens is looked at: a death is judged before that, undisturbed.
JUDGED = 0.15
#: Seconds from which on what a standby opens for a compute out of sight is not looked for ten times a second any more.
HURRIES = 10.0
#: Seconds after a compute has been out of somebody's sight until what its standby has carried meanwhile is forgotten there.
AFTER_BLIP = 10.0
Job = Callable[[], Coroutine[Any, Any, None]]


class _Following(NamedTuple):
    """How far a standby has come with the record; it begins anew when its rows are read anew, and with other addresses."""

    rows: Reading
    addresses: tuple[str, ...]
    follower: Follower


class _Lending(NamedTuple):
    """What the standby has opened since then (by the record's clock), as far as whoever serves has rows of it."""

    owner: int
    standby: int
    since: float
    follower: Follower


class Standbys:
    """All routers' rows at computes that stand by or have just taken over."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._following: dict[tuple[str, int], _Following] = {}
        #: Since when all rows are there, at who has taken a router over.
        self._whole: dict[str, tuple[int, float]] = {}
        self._working: dict[int, asyncio.Task[None]] = {}
        self._adopted: set[str] = set()
        self._lending: dict[str, _Lending] = {}
        #: When somebody has not seen who serves a router, last; and where nothing is left of an older time in conntrack.
        self._unseen: dict[str, float] = {}
        self._emptied: dict[tuple[str, int], SwitchLink] = {}
        self._hurry = False
        self._careful: tuple[int, bool] = (-1, False)

    async def run(self) -> None:
        """Follow the record; until cancelled."""
        try:
            while True:
                await self._cluster.changed.until(lambda: self._hurry or self._somebody_took_over(), EVERY)
                if self._cluster.store.leading.is_set():
                    self._hurry = self._look()
                    await asyncio.sleep(EVERY / 10 if self._hurry or self._somebody_took_over() else 0)
                    continue
                await self._stop()
                for each in (self._following, self._whole, self._adopted, self._lending, self._unseen, self._emptied):
                    each.clear()
                await asyncio.sleep(EVERY)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        tasks = list(self._working.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hurry(self) -> None:
        """Somebody did not see somebody any more, a moment ago."""
        self._hurry = True
        self._cluster.changed.fire()

    def _look(self) -> bool:
        """Begin what there is to do at each compute, each for itself: one that has just died, or hangs, keeps nobody else waiting.

        Returns whether somebody who serves has come out of another's sight a moment ago.
        """
        self._forget()
        lost = {n for m in self._cluster.members.values() if m.connected for n in m.down_at}
        jobs: dict[int, list[tuple[str, Job]]] = defaultdict(list)
        jobs[0].append(("", partial(self._cluster.rows.tidy, self._is_served)))
        state = self._cluster.state
        for router in state.routers.values():
            found = state.designations.get((NAT, router.id))
            if found is None or not router.external:
                continue
            jobs[found.compute].append((router.id, partial(self._cluster.renewals.look, router, found.compute)))
            if self._is_careful(state, found):
                jobs[found.compute].append((router.id, partial(self._take_over, router, found.compute)))
                continue
            self._whole.pop(router.id, None)
            if router.record and found.standby and router.id not in state.moves:
                if found.compute in lost:
                    self._stand_in(router, found)
                if router.id in self._lending:
                    jobs[found.compute].append((router.id, partial(self._lend, router)))
                jobs[found.standby].append((router.id, partial(self._keep_up, router, found)))
        for number, work in jobs.items():
            if number not in self._working:
                task = self._working[number] = asyncio.create_task(self._at(work), name=f"rows-{number}")
                task.add_done_callback(partial(self._done, number))
        soon = self._cluster.connections.now() - HURRIES
        return any(known.since > soon for known in self._lending.values())

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        if self._working.get(number) is task:
            del self._working[number]

    async def _at(self, work: list[tuple[str, Job]]) -> None:
        began = self._cluster.now()
        for router, job in work:
            await self._try(router, job())
        # To go through a large record ten times a second would keep everybody else waiting, in the moment after a death.
        await asyncio.sleep(min(EVERY, 4 * (self._cluster.now() - began)))

    @staticmethod
    async def _try(router: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except RowsWait:
            pass  # said elsewhere: a compute is unreachable
        except EbbtideError as error:
            log.info("rows_wait", router=router, reason=str(error))
        except Exception:
            log.exception("rows_fault", router=router)

    def _forget(self) -> None:
        """What is remembered of routers that are gone, and of computes that have no part in one any more."""
        state, record = self._cluster.state, self._cluster.connections
        tags = {r.tag for r in state.routers.values()}
        for tag in set(record.tags()) - tags:
            record.forget(tag)
        self._cluster.exhaustions.keep(tags)
        self._cluster.renewals.keep(state.routers)
        self._adopted.intersection_update(state.routers)
        serving = {(d.object, d.compute, d.standby) for d in state.designations.values() if d.object not in state.moves}
        standing = {(router, standby) for router, _, standby in serving}
        self._following = {key: known for key, known in self._following.items() if key in standing}
        self._emptied = {key: switch for key, switch in self._emptied.items() if key in standing}
        self._lending = {name: known for name, known in self._lending.items() if (name, *known[:2]) in serving}
        self._unseen = {name: at for name, at in self._unseen.items() if name in self._lending}

    def _is_served(self, router: str, tag: int, number: int) -> bool:
        state = self._cluster.state
        found = state.routers.get(router)
        return found is not None and found.tag == tag and bool(found.external) and number in state.servers(router)

    def _somebody_took_over(self) -> bool:
        """Whether there is a designated compute that is careful still. Asked at each news of the cluster, answered once a revision."""
        state = self._cluster.state
        if self._careful[0] != state.revision:
            found = (d for d in state.designations.values() if d.service == NAT)
            self._careful = state.revision, any(self._is_careful(state, d) for d in found)
        return self._careful[1]

    @staticmethod
    def _is_careful(state: State, found: Designation) -> bool:
        lease = state.opening(found.object, found.compute)
        return lease is not None and lease.careful and found.object not in state.moves

    async def _take_over(self, router: Router, number: int) -> None:
        """All rows to who has taken over from a dead one; a while later it may open what it likes."""
        await self._fill(router, number)
        now = self._cluster.now()
        who, whole = self._whole.setdefault(router.id, (number, now))
        if who != number:
            self._whole[router.id] = number, now
        elif now - whole >= GRACE:
            await self._confirm(router.id)
            self._whole.pop(router.id, None)

    async def _confirm(self, name: str) -> None:
        """It may open what it likes. Of the ranges of who has died it keeps the ports that the record knows of: nothing else has lived."""

        def decide(state: State) -> tuple[list[Edit], bool]:
            found = state.designations.get((NAT, name))
            lease = state.opening(name, found.compute) if found is not None else None
            if lease is None or not lease.careful or name in state.moves:
                return [], False
            used = {e.translation.port for e in self._cluster.connections.of(state.routers[name].tag)}
            shrunk = natmove.shrink(state, name, lease.compute, used)
            return [Edit(lease, msgspec.structs.replace(lease, careful=False)), *shrunk], True

        if await self._cluster.store.commit(decide):
            log.info("rows_confirmed", router=name)

    async def _fill(self, router: Router, number: int) -> None:
        """Every row that is missing at a compute, of connections that are young or half closed too."""
        entries = _carried(router, self._cluster.connections.of(router.tag))
        await self._cluster.rows.put(router, number, newest(entries))

    def _stand_in(self, router: Router, found: Designation) -> None:
        """Somebody does not see who serves, and sends to the standby: what is opened there from now on is lent back."""
        record = self._cluster.connections
        self._unseen[router.id] = self._cluster.now()
        if router.id not in self._lending:
            # A record may say that something was opened a second before, or after, it was.
            follower = Follower(record, router.tag, 0.0)
            self._lending[router.id] = _Lending(found.compute, found.standby, record.now() - 2.0, follower)

    async def _lend(self, router: Router) -> None:
        """To who serves, rows of what its standby has opened in its place, as long as that is open."""
        known, rows = self._lending.get(router.id), self._cluster.rows
        if known is None:
            return  # others serve and stand by since this was to be done
        _, ripe, over = known.follower.look()
        try:
            lent = [e for e in ripe if e.compute == known.standby and e.opened >= known.since]
            await rows.take(router, known.owner, {e.translation for e in over})
            await rows.put(router, known.owner, newest(_carried(router, lent)))
        except BaseException:
            # What was looked at is not there: the next look is a whole one.
            again = Follower(self._cluster.connections, router.tag, 0.0)
            self._lending[router.id] = known._replace(follower=again)
            raise

    async def _empty(self, router: Router, found: Designation) -> None:
        """Let a standby forget what it has carried when it served, or stood in for who serves: what an old entry of conntrack says of a
        connection is asked before any row."""
        key = router.id, found.standby
        if self._cluster.now() - self._unseen.get(router.id, -AFTER_BLIP) < AFTER_BLIP:
            self._emptied.pop(key, None)
            return
        switch = self._cluster.rows.switch(found.standby)
        if self._emptied.get(key) is not switch:
            await switch.forget_zone(ledger.router_zone(router.tag))
            self._emptied[key] = switch

    async def _keep_up(self, router: Router, found: Designation) -> None:
        """Bring the rows at the standby to what the record says of connections that are open and of some age."""
        await self._empty(router, found)
        rows, record, number = self._cluster.rows, self._cluster.connections, found.standby
        key = router.id, number
        # Known to be followed only when all is done: whatever goes wrong in between, the next look is a whole one.
        known, reading = self._following.pop(key, None), await rows.reading(router, number)
        if known is None or known[:2] != (reading, router.addresses):
            follower = Follower(record, router.tag, OLD_ENOUGH)
            known = _Following(reading, router.addresses, follower)
        if router.id not in self._adopted:
            self._adopt(router, found.compute, await rows.at(router, number))
            self._adopted.add(router.id)
        whole, ripe, over = known.follower.look(reading)
        wanted = newest(_carried(router, ripe))
        gone = set(await rows.at(router, number)).difference(wanted) if whole else {e.translation for e in over}
        await rows.take(router, number, gone)
        await rows.put(router, number, wanted)
        self._following[key] = known

    def _adopt(self, router: Router, number: int, there: Iterable[Translation]) -> None:
        """Rows at the standby of which the record says nothing at all, neither that they are open nor over, when a leadership begins:
        another controller, with another record, has put them there, or we were away for longer than a silent record lasts."""
        record = self._cluster.connections
        known = [e.translation for e in record.of(router.tag)]
        tuples, ports = {t[:5] for t in known}, {(t.proto, *t[3:]) for t in known}
        strange = [t for t in there if t[:5] not in tuples and (t.proto, *t[3:]) not in ports]
        for each in _ours(router, strange):
            record.seen(router.tag, number, each)
        if strange:
            log.info("rows_adopted", router=router.id, rows=len(strange))


def _carried(router: Router, entries: Iterable[Entry]) -> Iterable[Translation]:
    """What was opened under one of a router's addresses, whoever opened it: one that served before may have lost its connections since,
    with its part or its switch, and where it has not, a row is never asked."""
    return _ours(router, (e.translation for e in entries))


def _ours(router: Router, known: Iterable[Translation]) -> Iterable[Translation]:
    own = {ipv4(a) for a in router.addresses}
    return (t for t in known if t.address in own)
