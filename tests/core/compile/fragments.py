"""What holds of every compute's fragments, whatever the State."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ebbtide.compile import ledger
from ebbtide.compile.flow import Action, Resubmit, ToGroup
from ebbtide.compile.fragment import Fragment, Key


def check_fragments(made: Mapping[Key, Fragment]) -> None:
    """No two fragments speak of the same thing, and nothing points nowhere."""
    flows = [(f.table, f.priority, f.match) for m in made.values() for f in m.flows]
    groups = [g.group_id for m in made.values() for g in m.groups]
    meters = [x.meter_id for m in made.values() for x in m.meters]
    for found in (flows, groups, meters):
        assert len(found) == len(set(found)), sorted(x for x in set(found) if found.count(x) > 1)
    tables = {int(t) for t in ledger.T}
    assert {table for table, _, _ in flows} <= tables
    for action in _actions(made):
        if isinstance(action, ToGroup):
            assert action.group_id in groups
        elif isinstance(action, Resubmit):
            assert action.table in tables
    for flow in (f for m in made.values() for f in m.flows):
        assert flow.goto is None or (flow.goto in tables and flow.goto > flow.table)
        assert ledger.is_ours(flow.cookie)


def _actions(made: Mapping[Key, Fragment]) -> Iterator[Action]:
    for fragment in made.values():
        for flow in fragment.flows:
            yield from flow.actions
        for group in fragment.groups:
            for bucket in group.buckets:
                yield from bucket.actions
