"""What holds of every compute's fragments, whatever the State."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

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
    pointed = {group for m in made.values() for group in _checked(m)}
    assert pointed <= set(groups), pointed - set(groups)


@lru_cache(maxsize=1 << 16)
def _checked(fragment: Fragment) -> frozenset[int]:
    """What holds of one by itself. Gives the groups that it points to."""
    tables = {int(t) for t in ledger.T}
    for flow in fragment.flows:
        assert flow.table in tables
        assert flow.goto is None or (flow.goto in tables and flow.goto > flow.table)
        assert ledger.is_ours(flow.cookie)
    actions = list(_actions(fragment))
    assert {a.table for a in actions if isinstance(a, Resubmit)} <= tables
    return frozenset(a.group_id for a in actions if isinstance(a, ToGroup))


def _actions(fragment: Fragment) -> Iterator[Action]:
    for flow in fragment.flows:
        yield from flow.actions
    for group in fragment.groups:
        for bucket in group.buckets:
            yield from bucket.actions
