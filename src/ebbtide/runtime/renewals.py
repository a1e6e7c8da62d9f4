"""The turns in which the record hears again of UDP connections that are in use: a datagram opens a connection, and nothing ends it.

Once a minute the compute that serves a router gets another flow, which tells of the next packet of each connection and marks it, so that
the others are not told (`nat.seen`). What is not seen in three turns is over for the record, as it is for conntrack after one. Only what a
VM sends counts: an answer alone keeps nothing open (RFC 4787, REQ-6).
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, NamedTuple

from ebbtide.compile.features import nat
from ebbtide.model.facts import Router
from ebbtide.runtime.switch import SwitchLink

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

#: Seconds of a turn. The first is shorter by some of so many parts: with one begin, all routers of all computes would tell in one second.
TURN, _PARTS = 60.0, 16


class _Turn(NamedTuple):
    switch: SwitchLink
    record: bool
    turn: int
    tells: bool
    since: float
    shorter: float = 0.0


class Renewals:
    """All routers' turns."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turns: dict[str, _Turn] = {}

    async def look(self, router: Router, number: int) -> None:
        """End the turn of a router at the compute that serves it, or begin the next, if it is time.

        Between two turns cached flows of the datapath have to follow: with those of both it would mark to and fro, and tell of each packet.

        Raises:
            RowsWait, SwitchLost: it is away.
        """
        switch, now, was = self._cluster.rows.switch(number), self._cluster.now(), self._turns.get(router.id)
        shorter = 0.0
        if was is None or was.switch is not switch or was.record != router.record:
            turn, is_over = was.turn if was is not None else 0, True
            shorter = router.tag % _PARTS / _PARTS * TURN
        else:
            turn, is_over = was.turn, was.tells and now - was.since >= TURN - was.shorter
        if is_over:
            await self._cluster.rows.tell_of(router, number, ())
            self._turns[router.id] = _Turn(switch, router.record, 1 - turn, False, self._cluster.now(), shorter)
        elif was is not None and not was.tells and router.record and now - was.since >= self._cluster.settings.lag:
            await self._cluster.rows.tell_of(router, number, [nat.seen(router, turn)])
            self._turns[router.id] = was._replace(tells=True, since=self._cluster.now())

    def keep(self, routers: Container[str]) -> None:
        """Forget all but these routers."""
        self._turns = {name: turn for name, turn in self._turns.items() if name in routers}
