"""A switch in memory that is sent Work: it refuses what Open vSwitch refuses, and forgets what Open vSwitch forgets."""

from __future__ import annotations

from collections.abc import Iterable

from ebbtide.compile.flow import ToGroup
from ebbtide.openflow.actions import decode_instructions
from ebbtide.openflow.flows import EncodedFlow, EncodedGroup, InstalledFlow, Key, decode_buckets
from ebbtide.reconcile.delta import Encoded, Found, Work


class ModelSwitch:
    """Flows, groups and meters as sent."""

    def __init__(self) -> None:
        self.flows: dict[Key, EncodedFlow] = {}
        self.groups: dict[int, EncodedGroup] = {}
        self.meters: set[int] = set()

    def make(self, work: Work) -> None:
        """Meters, groups, flows: a group that is used must be there (OFPGMFC_INVALID_GROUP, OFPBAC_BAD_OUT_GROUP)."""
        self.meters |= {m.meter_id for m in work.meters}
        for group in work.groups:
            used = {a.group_id for b in decode_buckets(group.buckets) for a in b.actions if isinstance(a, ToGroup)}
            assert used <= self.groups.keys(), f"group {group.group_id} uses {used - self.groups.keys()}"
            self.groups[group.group_id] = group
        for flow in work.flows:
            assert used_groups(flow) <= self.groups.keys(), f"{flow} uses a group that is not there"
            self.flows[flow.key] = flow

    def take_away(self, work: Work) -> None:
        """Flows whose cookie is still the one that is meant; then groups, and with a group every flow that uses it."""
        for gone in work.break_flows:
            held = self.flows.get(gone.key)
            if held is not None and held.cookie == gone.cookie:
                del self.flows[gone.key]
        for number in work.break_groups:
            self.groups.pop(number, None)
            self.flows = {k: f for k, f in self.flows.items() if number not in used_groups(f)}
        self.meters -= set(work.break_meters)

    def dump(self) -> Found:
        """All that it holds."""
        flows = [
            InstalledFlow(*f.key, f.cookie, 0, 0, 0.0, f.idle_timeout, f.hard_timeout, f.flags, f.instructions)
            for f in self.flows.values()
        ]
        groups = {g.group_id: (g.type, g.buckets) for g in self.groups.values()}
        return Found(flows, groups, frozenset(self.meters))

    def holds(self, wanted: Iterable[Encoded]) -> bool:
        """Whether it holds these and nothing else."""
        chosen = list(wanted)
        flows = {f.key: f for e in chosen for f in e.flows}
        groups = {g.group_id: g for e in chosen for g in e.groups}
        meters = {m.meter_id for e in chosen for m in e.meters}
        return (self.flows, self.groups, self.meters) == (flows, groups, meters)


def used_groups(flow: EncodedFlow) -> set[int]:
    """The groups that a flow points to."""
    return {a.group_id for a in decode_instructions(flow.instructions).actions if isinstance(a, ToGroup)}
