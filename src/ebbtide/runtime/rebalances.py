"""The driver of a rebalance: begins moves as earlier ones are over, until every compute is within its bound (`decide/rebalancing.py`).

The rebalance is a stored operation and each of its moves is a stored fact: whoever leads goes on with it.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from ebbtide.decide import drain, rebalancing
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Edit, Move, Operation
from ebbtide.model.state import State
from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("rebalance")
#: Seconds between two looks while nothing changes: a compute may come back, or be able again.
_LOOK = 0.5


class Rebalances:
    """The rebalance that is under way, if there is one."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def run(self) -> None:
        """Go on with it while this controller leads; until cancelled."""
        while True:
            await self._cluster.changed.until(self._is_due, float("inf"))
            revision = self._cluster.state.revision
            try:
                await self._step()
            except EbbtideError as error:
                log.warning("rebalance_waits", reason=str(error))
                await asyncio.sleep(_LOOK)
            except Exception:
                # Whatever it was: what was accepted is never left without somebody who goes on with it.
                log.exception("rebalance_fault")
                await asyncio.sleep(2 * _LOOK)
            await self._cluster.wait_for(lambda: self._cluster.state.revision > revision, _LOOK)  # noqa: B023 (asked at once)

    def _is_due(self) -> bool:
        return self._cluster.store.leading.is_set() and rebalancing.running(self._cluster.state) is not None

    async def _step(self) -> None:
        cluster = self._cluster

        def decide(state: State) -> tuple[list[Edit], list[Edit]]:
            operation = rebalancing.running(state)
            if operation is None:
                return [], []
            hold = cluster.designations.cut_off_now() or drained(state)
            edits = rebalancing.step(state, cluster.designations.standings(), operation, hold, int(time.time() * 1000))
            return edits, edits

        said(self._cluster.state, await cluster.store.commit(decide))


def drained(state: State) -> str:
    """Why a drain that goes on keeps a rebalance from beginning moves, in words: what it moves is where it must be."""
    found = next((o for o in state.operations.values() if o.verb == drain.VERB and o.open), None)
    return f"drain {found.id} goes on" if found is not None else ""


def said(state: State, edits: list[Edit]) -> None:
    """Say in the log what was stored."""
    names = {n: c.name for n, c in state.computes.items()}
    for old, new in edits:
        if isinstance(new, Move) and old is None:
            log.info("rebalance_moves", router=new.router, old=names.get(new.old, ""), new=names.get(new.new, ""))
        elif isinstance(new, Operation) and new.state != "running":
            log.info("rebalance_over", operation=new.id, found=new.reason)
