"""The driver of losses and readmissions (`decide/returns.py`): looks when somebody is away or awaited, and stores what it finds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from ebbtide.decide import returns
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Edit, Operation
from ebbtide.model.state import State
from ebbtide.runtime.cluster import Cluster
from ebbtide.runtime.endings import old_operations
from ebbtide.runtime.sights import sights

log = structlog.get_logger("returns")
#: Seconds between two looks: silence is no event.
_LOOK = 1.0


class Returns:
    """All losses and readmissions."""

    def __init__(self, cluster: Cluster, new_id: Callable[[], str]) -> None:
        self._cluster = cluster
        self._new_id = new_id

    async def run(self) -> None:
        """Look while this controller leads; until cancelled."""
        while True:
            await self._cluster.changed.until(self._is_due, float("inf"))
            try:
                await self._look()
            except EbbtideError as error:
                log.warning("returns_wait", reason=str(error))
            except Exception:
                log.exception("returns_fault")
            await asyncio.sleep(_LOOK)

    def _is_due(self) -> bool:
        cluster = self._cluster
        if not cluster.leads() or cluster.store.hold:
            return False
        followed = (o.open and o.verb in (returns.LOSS, returns.READMIT) for o in cluster.state.operations.values())
        members = (cluster.members.get(c.number) for c in cluster.state.members())
        return any(followed) or any(m is None or not m.connected for m in members)

    async def _look(self) -> None:
        cluster = self._cluster

        def decide(state: State) -> tuple[list[Edit], list[Edit]]:
            now = int(time.time())
            seen = sights(cluster, state, (c.number for c in state.members()))
            hold = cluster.designations.cut_off_now()
            edits = returns.losses(state, seen, cluster.settings.loss_after, hold, now, self._new_id)
            edits += returns.readmissions(state, self._phase, now)
            return [*edits, *(old_operations(state) if edits else [])], edits

        for old, new in await cluster.store.commit(decide):
            if isinstance(new, Operation):
                names = [c.name for n in new.computes for c in [cluster.state.computes.get(n)] if c is not None]
                say = log.error if new.verb == returns.LOSS and old is None else log.info
                say(new.verb, operation=new.id, computes=names, state=new.state, found=new.reason)

    def _phase(self, number: int) -> str:
        compute = self._cluster.state.computes[number]
        member = self._cluster.members.get(number)
        return str(self._cluster.phase(compute)) if member is not None and member.connected else "not connected"
