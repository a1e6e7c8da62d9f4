"""Tells of each of Neutron's ports when it is served and when it is no more: the event "neutron-port".

A port waits for one compute at a time, the one that has to confirm something first, and is looked at again when that moves on; so a burst
of ports, or all computes that connect to a controller which has just begun to lead, cost each port a few looks and not one a step. What was
told stays so while a compute cannot be heard. See `decide/arrivals.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

import structlog

from ebbtide.decide import arrivals
from ebbtide.decide.arrivals import A_ROUTER, ACTIVE, BUILD, DOWN, Arrival, Heard
from ebbtide.model.facts import Binding, Document, Edit, Port, Router, RouterPort
from ebbtide.runtime.cluster import Cluster

log = structlog.get_logger("arrivals")
#: Seconds between two looks: what is confirmed together is told together.
_PACE = 0.001
#: Ports in one look, before others have their turn.
_BATCH = 500


class Arrivals:
    """What has been told of each port, and which are to be looked at. Joins in at the cluster's listeners by itself."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._told: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._due: dict[str, None] = {}
        self._waiting: dict[int, set[str]] = {}
        #: The leadership that this was told in: another one knows nothing.
        self._epoch: object = None
        cluster.edited.append(self._edited)
        cluster.listeners.append(self._heard_of)

    def told(self, *names: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What is so of ports now: its status, and the hosts where it is plugged and confirmed. Once ACTIVE, it stays so while its compute
        cannot be heard."""
        heard, lowest = self._now()
        for name in names:
            found = self._look(name, heard, lowest)
            known = self._told.get(name) if self._epoch == self._cluster.store.epoch else None
            if known is not None and known[0] == ACTIVE and found.status == BUILD:
                yield known
            else:
                yield found.status, arrivals.hosts(self._cluster.state, found)

    async def run(self) -> None:
        """Tell, while this controller leads; until cancelled."""
        cluster = self._cluster
        while True:
            await cluster.changed.until(self._is_due, float("inf"))
            try:
                self._tell()
            except Exception:
                log.exception("arrivals_fault")
            await asyncio.sleep(_PACE)

    def _is_due(self) -> bool:
        if not self._cluster.leads():
            return False
        if self._epoch != self._cluster.store.epoch:
            self._epoch = self._cluster.store.epoch
            self._told.clear()
            self._waiting.clear()
            self._due = dict.fromkeys(self._cluster.state.documents.get("ports", ()))
        return bool(self._due)

    def _edited(self, edits: Iterable[Edit]) -> None:
        for old, new in edits:
            fact = new if new is not None else old
            match fact:
                case Binding():
                    self._due[fact.port] = None
                case Port():
                    self._due[fact.id] = None
                case Document(kind="ports"):
                    self._due[fact.id] = None
                    if old is None:
                        self._told.setdefault(fact.id, (DOWN, ()))
                case Router() | RouterPort():
                    self._wake(A_ROUTER)

    def _heard_of(self, what: str, facts: dict[str, object]) -> None:
        if what in ("progress", "compute") and self._waiting:
            self._wake(self._cluster.state.by_name.get(str(facts.get("name", "")), 0))

    def _wake(self, number: int) -> None:
        self._due |= dict.fromkeys(self._waiting.pop(number, ()))

    def _tell(self) -> None:
        cluster = self._cluster
        known: Mapping[str, Document] = cluster.state.documents.get("ports", {})
        heard, lowest = self._now()
        for name in list(self._due)[:_BATCH]:
            del self._due[name]
            if name not in known:
                self._told.pop(name, None)
                continue
            found = self._look(name, heard, lowest)
            if found.blocked:
                self._waiting.setdefault(found.blocked, set()).add(name)
            self._say(name, found)

    def _say(self, name: str, found: Arrival) -> None:
        hosts = arrivals.hosts(self._cluster.state, found)
        if found.status == BUILD:
            return
        # A new leadership knows of none what was told: DOWN is told then too, since it may have been ACTIVE.
        if self._told.get(name) != (found.status, hosts):
            self._cluster.notify("neutron-port", name=name, status=found.status, hosts=list(hosts))
        self._told[name] = found.status, hosts

    def _now(self) -> tuple[Callable[[int], Heard], int]:
        """What is heard of each compute, and the revision that all have confirmed who count: for many ports at once."""
        heard = cache(self._heard)
        return heard, min((x.applied for x in map(heard, self._cluster.members) if x.counts), default=-1)

    def _look(self, name: str, heard: Callable[[int], Heard], lowest: int) -> Arrival:
        return arrivals.of_port(self._cluster.state, name, heard, lowest)

    def _heard(self, number: int) -> Heard:
        member = self._cluster.members.get(number)
        if member is None:
            return Heard()
        return Heard(member.applied(), member.waited_for, member.serves)
