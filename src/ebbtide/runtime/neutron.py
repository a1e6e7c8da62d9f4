"""What Neutron has said and could not be served yet is tried again: a VNI is let go of, a router's NAT arrives, a hand-made thing goes.

Nothing is decided here: see `decide/neutron.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from ebbtide.decide import neutron
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Document, Edit
from ebbtide.model.state import State
from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("neutron")
#: Seconds between two tries: each looks at all that waits.
_PAUSE = 2.0


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

    async def run(self) -> None:
        """Try again after changes while this controller leads; until cancelled."""
        cluster = self._cluster
        while True:
            await cluster.changed.until(self._is_due, float("inf"))
            revision = cluster.state.revision
            try:
                said(await cluster.store.commit(_again))
            except EbbtideError as error:
                log.warning("neutron_waits", reason=str(error))
            except Exception:
                log.exception("neutron_fault")
            await asyncio.sleep(_PAUSE)
            await cluster.wait_for(lambda: cluster.state.revision > revision, float("inf"))  # noqa: B023 (asked at once)

    def _is_due(self) -> bool:
        return self._cluster.store.leading.is_set() and bool(self._cluster.state.unserved)


def _again(state: State) -> tuple[list[Edit], list[Edit]]:
    edits = neutron.again(state)
    return edits, edits
