"""What is to go from one switch, and from when on: breaks wait until what was made in their place is settled.

Each break remembers the revision that asked for it, so that "everything up to revision N has gone" can be said of a switch on which
something is always on its way out.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from ebbtide.compile import ledger
from ebbtide.reconcile.delta import Break, FlowKey, Work


class Due(NamedTuple):
    """What may go now, in this order."""

    flows: list[Break]
    groups: list[int]
    meters: list[int]


class Breaks:
    """Flows, groups and meters that wait to be taken away. Times are those of the cluster's clock, in seconds."""

    def __init__(self) -> None:
        self._flows: dict[FlowKey, tuple[int, float, int]] = {}
        self._groups: dict[int, tuple[float, int]] = {}
        self._meters: dict[int, tuple[float, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._flows or self._groups or self._meters)

    def clear(self) -> None:
        """Nothing is to go any more."""
        self._flows.clear()
        self._groups.clear()
        self._meters.clear()

    def add(self, work: Work, revision: int, now: float, lag: float, remains: Callable[[int], bool]) -> None:
        """What `work` breaks. `remains(number)`: whether a compute is still there; what concerns one that is not, and nothing else, has
        nothing to wait for."""
        for flow in work.break_flows:
            kind, _, owner = ledger.read_cookie(flow.cookie)
            gone = kind == ledger.Kind.COMPUTE and not remains(owner)
            self._flows[flow.key] = flow.cookie, now if gone else now + lag, revision
        for number in work.break_groups:
            self._groups[number] = now + lag, revision
        for number in work.break_meters:
            self._meters[number] = now + lag, revision

    def spare(self, work: Work) -> None:
        """What `work` has made again stays."""
        for flow in work.flows if self._flows else ():
            self._flows.pop(flow.key, None)
        for group in work.groups if self._groups else ():
            self._groups.pop(group.group_id, None)
        for meter in work.meters if self._meters else ():
            self._meters.pop(meter.meter_id, None)

    def spare_rows(self, served: Container[int]) -> None:
        """Rows of connections that were to go stay, if they are of routers (by tag) that the compute has got a part in since: whoever keeps
        them has read them, and counts on them."""
        for key, (cookie, _, _) in list(self._flows.items()):
            kind, feature, owner = ledger.read_cookie(cookie)
            if kind == ledger.Kind.VOLATILE and feature == ledger.Feature.NAT and owner in served:
                del self._flows[key]

    def due(self, now: float) -> Due:
        """What may go now. A group or a meter has no user left by then: its flows were due with it, and go first."""
        flows = [Break(key, cookie) for key, (cookie, at, _) in self._flows.items() if at <= now]
        groups, meters = ([n for n, (at, _) in held.items() if at <= now] for held in (self._groups, self._meters))
        return Due(flows, groups, meters)

    def done(self, gone: Due) -> None:
        """These have gone."""
        for flow in gone.flows:
            self._flows.pop(flow.key, None)
        for number in gone.groups:
            self._groups.pop(number, None)
        for number in gone.meters:
            self._meters.pop(number, None)

    def next_due(self) -> float | None:
        """When the first of them may go."""
        objects = [*self._groups.values(), *self._meters.values()]
        return min([*(at for _, at, _ in self._flows.values()), *(at for at, _ in objects)], default=None)

    def oldest(self) -> int | None:
        """The oldest revision that asked for something that has not gone yet."""
        objects = [*self._groups.values(), *self._meters.values()]
        return min([*(of for _, _, of in self._flows.values()), *(of for _, of in objects)], default=None)

    def peers(self) -> Iterator[int]:
        """Numbers of the computes that a flow on its way out is solely about."""
        for cookie, _, _ in self._flows.values():
            kind, _, owner = ledger.read_cookie(cookie)
            if kind == ledger.Kind.COMPUTE:
                yield owner
