"""What is known of a compute that may be dead: by the controller's own sessions, and by who sees it by BFD."""

from __future__ import annotations

from collections.abc import Iterable

from ebbtide.decide.dead import Sight
from ebbtide.model.state import State
from ebbtide.runtime.cluster import Cluster


def sights(cluster: Cluster, state: State, numbers: Iterable[int]) -> dict[int, Sight]:
    """Of each of these members. Silence counts from the beginning of this leadership at the earliest."""
    now, began = cluster.now(), cluster.designations.began
    names = {c.number: c.name for c in state.computes.values()}
    wanted, found = set(numbers), {}
    seen_by: dict[int, list[str]] = {}
    lost_by: dict[int, list[str]] = {}
    for watcher in cluster.members.values():
        if watcher.connected:
            sighting, name = watcher.sighting(), watcher.name
            for other in sighting.seen & wanted:
                (lost_by if other in sighting.lost else seen_by).setdefault(other, []).append(name)
    for number in wanted:
        member = cluster.members.get(number)
        connected = member is not None and member.connected
        lost_at = member.lost_at if member is not None and member.lost_at is not None else began
        found[number] = Sight(
            names[number],
            connected,
            0.0 if connected else max(0.0, now - max(lost_at, began)),
            tuple(sorted(seen_by.get(number, ()))),
            tuple(sorted(lost_by.get(number, ()))),
        )
    return found
