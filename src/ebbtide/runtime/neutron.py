"""What Neutron has said and could not be served yet is tried again: a VNI is let go of, a router's NAT arrives, a hand-made thing goes.

Nothing is decided here: see `decide/neutron.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from ebbtide.decide import neutron
from ebbtide.errors import StoreUnreachable
from ebbtide.model.facts import Document, Edit
from ebbtide.model.state import State
from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("neutron")
#: Seconds between two tries: each looks at all that waits.
_PAUSE = 2.0
#: Documents that are tried in one transaction.
_BATCH = 100


def said(edits: Iterable[Edit]) -> None:
    """Say in the log what is not served, and what is served at last."""
    for old, new in edits:
        before = old.unserved if isinstance(old, Document) else ""
        if isinstance(new, Document) and new.unserved != before:
            if new.unserved:
                log.warning("neutron_unserved", kind=new.kind, id=new.id, reason=new.unserved)
            else:
                log.info("neutron_served", kind=new.kind, id=new.id)


class Waiting:
    """The documents that wait."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        #: The revision at which all were tried last.
        self._tried = 0

    async def run(self) -> None:
        """Try again after changes while this controller leads; until cancelled."""
        cluster = self._cluster
        while True:
            await cluster.changed.until(self._is_due, float("inf"))
            revision = cluster.state.revision
            try:
                for some in batched(sorted(cluster.state.unserved)):
                    await self._try(some)
                    await asyncio.sleep(0)
                self._tried = revision
            except StoreUnreachable as error:
                log.warning("neutron_waits", reason=str(error))
            await asyncio.sleep(_PAUSE)

    async def _try(self, some: Sequence[neutron.Key]) -> None:
        """Whatever is wrong with a few of them, others get their turn.

        Raises:
            StoreUnreachable: nobody gets one now.
        """
        try:
            said(await self._cluster.store.commit(_again(some)))
        except StoreUnreachable:
            raise
        except Exception:
            log.exception("neutron_fault", first=some[0], last=some[-1])

    def _is_due(self) -> bool:
        state = self._cluster.state
        return self._cluster.store.leading.is_set() and bool(state.unserved) and state.revision != self._tried


def batched(waiting: Sequence[neutron.Key]) -> Iterator[Sequence[neutron.Key]]:
    """A few at a time, so that others get their turn."""
    return (waiting[n : n + _BATCH] for n in range(0, len(waiting), _BATCH))


def _again(some: Sequence[neutron.Key]) -> Callable[[State], tuple[list[Edit], list[Edit]]]:
    def decide(state: State) -> tuple[list[Edit], list[Edit]]:
        edits = neutron.again(state, some)
        return edits, edits

    return decide
