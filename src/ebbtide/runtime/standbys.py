"""Connections at the compute that stands by: rows in advance for what is recorded, all at once for who has just taken over.

Rows of a standby follow the record a second at a time, and only for connections that are some seconds old: most are over before that, and
each change of a table has the switch look at all of its cached flows again. Whoever serves and is careful has taken over from a dead one:
it gets every row that is missing, and a little later it may open what it likes. UDP is never held up: without a row it gets another port.

What is at a switch is read when its session is a new one, and remembered while it lasts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.compile.features import nat
from ebbtide.compile.features.nat import Translation
from ebbtide.compile.ledger import T
from ebbtide.errors import EbbtideError
from ebbtide.model.addresses import ipv4
from ebbtide.model.facts import Designation, Edit, Router
from ebbtide.model.state import NAT, State
from ebbtide.openflow.flows import EncodedFlow, encode_flow
from ebbtide.reconcile.delta import Break, Work
from ebbtide.runtime import exports
from ebbtide.runtime.connections import newest
from ebbtide.runtime.switch import SwitchLink

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("standbys")
#: Seconds between two looks at the record, and the age from which a connection is worth a row.
EVERY, OLD_ENOUGH = 1.0, 5.0
#: Rows put in or taken away at a stretch.
BATCH = 2_000
#: Seconds that whoever has taken over stays careful after all rows are there: packets may be on their way to a row.
GRACE = 3.0


class Standbys:
    """All routers' rows at computes that stand by or have just taken over."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._there: dict[tuple[str, int], tuple[SwitchLink, set[Translation]]] = {}
        self._whole: dict[str, float] = {}

    async def run(self) -> None:
        """Follow the record; until cancelled."""
        while True:
            await self._cluster.changed.until(self._somebody_took_over, EVERY)
            if not self._cluster.store.leading.is_set():
                self._there.clear()
                self._whole.clear()
                await asyncio.sleep(EVERY)
                continue
            for router in list(self._cluster.state.routers.values()):
                found = self._cluster.state.designations.get((NAT, router.id))
                if found is None or not router.external or router.id in self._cluster.state.moves:
                    continue
                try:
                    await self._follow(router, found)
                except EbbtideError as error:
                    log.info("rows_wait", router=router.id, reason=str(error))
                except Exception:
                    log.exception("rows_fault", router=router.id)
            if self._somebody_took_over():
                await asyncio.sleep(EVERY / 10)

    def _somebody_took_over(self) -> bool:
        """Whether there is a designated compute that is careful still."""
        state = self._cluster.state
        return any(self._is_careful(state, d) for d in state.designations.values() if d.service == NAT)

    @staticmethod
    def _is_careful(state: State, found: Designation) -> bool:
        lease = state.opening(found.object, found.compute)
        return lease is not None and lease.careful and found.object not in state.moves

    async def _follow(self, router: Router, found: Designation) -> None:
        careful = self._is_careful(self._cluster.state, found)
        if careful:
            await self._fill(router, found.compute, at_once=True)
            now = self._cluster.now()
            whole = self._whole.setdefault(router.id, now)
            if now - whole >= GRACE:
                await self._confirm(router.id)
                self._whole.pop(router.id, None)
        elif router.record and found.standby:
            await self._fill(router, found.standby, at_once=False)

    async def _confirm(self, name: str) -> None:
        def decide(state: State) -> tuple[list[Edit], bool]:
            found = state.designations.get((NAT, name))
            lease = state.opening(name, found.compute) if found is not None else None
            if lease is None or not lease.careful or name in state.moves:
                return [], False
            return [Edit(lease, msgspec.structs.replace(lease, careful=False))], True

        if await self._cluster.store.commit(decide):
            log.info("rows_confirmed", router=name)

    async def _fill(self, router: Router, number: int, at_once: bool) -> None:
        """Bring the rows at a compute to what the record says; `at_once`: also those that are new."""
        member = self._cluster.members.get(number)
        if member is None or member.switch is None or not member.synced:
            return
        switch = member.switch
        there = await self._rows_at(router, number, switch)
        own = {ipv4(a) for a in router.addresses}
        entries = [
            e for e in self._cluster.connections.of(router.tag) if e.compute != number and e.translation.address in own
        ]
        now = self._cluster.connections.now()
        wanted = set(newest(e.translation for e in entries if at_once or now - e.opened >= OLD_ENOUGH))
        fresh = [t for t in wanted if t not in there]
        gone = [] if at_once else [t for t in there if t not in wanted]
        for at in range(0, len(fresh), BATCH):
            part = fresh[at : at + BATCH]
            await switch.make(Work(flows=_rows(router, part)))
            there.update(part)
            if not at_once:
                await asyncio.sleep(0)
        for at in range(0, len(gone), BATCH):
            part = gone[at : at + BATCH]
            await switch.take_away([Break(row.key, row.cookie) for row in _rows(router, part)], [])
            there.difference_update(part)

    async def _rows_at(self, router: Router, number: int, switch: SwitchLink) -> set[Translation]:
        """What is at a switch: read once a session."""
        key = router.id, number
        known = self._there.get(key)
        if known is None or known[0] is not switch:
            cookie = ledger.connections_cookie(router.tag)
            rows = exports.read_imported(await switch.flows_of(T.NAT_NEW, cookie, ledger.UPPER_COOKIE_MASK))
            known = self._there[key] = (switch, set(rows))
        return known[1]

    def forget(self, router: str, number: int) -> None:
        """Somebody else has written rows there."""
        self._there.pop((router, number), None)


def _rows(router: Router, known: list[Translation]) -> list[EncodedFlow]:
    """Both rows of each connection."""
    return [encode_flow(make(router, t)) for t in known for make in (nat.imported, nat.replied)]
