"""Desired against held: ordered work for one switch.

`Desired` and `Held` are different things: desired fragments come out of the compiler, held ones are those that this switch has
confirmed by barrier (or, at the start of a session, what its dump shows). Only this file sees both.

Order inside the work (docs/decisions.md, section 5): meters, groups, flows that make; barrier; then, when settled, flows, groups and
meters that break. Groups go before their users and flows before their groups, so no flow ever points nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from ebbtide.compile.flow import Meter
from ebbtide.compile.fragment import Fragment, Key
from ebbtide.compile.ledger import KIND_SHIFT, Kind, is_ours
from ebbtide.openflow.flows import (
    EncodedFlow,
    EncodedGroup,
    InstalledFlow,
    canonical_instructions,
    encode_flow,
    encode_group,
)

FlowKey = tuple[int, int, bytes]


class Encoded(NamedTuple):
    """A fragment as bytes: encoded once, however many switches get it."""

    flows: tuple[EncodedFlow, ...]
    groups: tuple[EncodedGroup, ...]
    meters: tuple[Meter, ...]


def encode(fragment: Fragment) -> Encoded:
    """Encode a fragment."""
    return Encoded(
        tuple(map(encode_flow, fragment.flows)),
        tuple(map(encode_group, fragment.groups)),
        fragment.meters,
    )


class Break(NamedTuple):
    """One flow to take away: its key, and the cookie it must still have."""

    key: FlowKey
    cookie: int


class Work(msgspec.Struct):
    """What to send, top to bottom. `flows` replace what has the same key. `after` is what the switch holds then."""

    meters: list[Meter] = msgspec.field(default_factory=list)
    groups: list[EncodedGroup] = msgspec.field(default_factory=list)
    flows: list[EncodedFlow] = msgspec.field(default_factory=list)
    break_flows: list[Break] = msgspec.field(default_factory=list)
    break_groups: list[int] = msgspec.field(default_factory=list)
    break_meters: list[int] = msgspec.field(default_factory=list)
    after: dict[Key, Encoded | None] = msgspec.field(default_factory=dict)

    @property
    def makes(self) -> int:
        """Number of objects that are made or changed."""
        return len(self.meters) + len(self.groups) + len(self.flows)

    @property
    def breaks(self) -> int:
        """Number of objects that go."""
        return len(self.break_flows) + len(self.break_groups) + len(self.break_meters)


def diff(held: Mapping[Key, Encoded], wanted: Mapping[Key, Encoded | None]) -> Work:
    """Work that turns the held fragments of `wanted`'s keys into the wanted ones (None: gone)."""
    work = Work()
    old_flows: dict[FlowKey, int] = {}
    old_groups: dict[int, EncodedGroup] = {}
    old_meters: set[Meter] = set()
    new: list[Encoded] = []
    for key, encoded in wanted.items():
        was = held.get(key)
        if was is encoded or was == encoded:
            continue
        work.after[key] = encoded
        if was is not None:
            old_flows.update((f.key, f.cookie) for f in was.flows)
            old_groups.update((g.group_id, g) for g in was.groups)
            old_meters.update(was.meters)
        if encoded is not None:
            new.append(encoded)
    _changes(work, new, old_flows, old_groups, old_meters)
    return work


def _changes(
    work: Work,
    new: Collection[Encoded],
    flows: dict[FlowKey, int],
    groups: dict[int, EncodedGroup],
    meters: set[Meter],
) -> None:
    for encoded in new:
        for meter in encoded.meters:
            if meter not in meters:
                work.meters.append(meter)
        for group in encoded.groups:
            if groups.pop(group.group_id, None) != group:
                work.groups.append(group)
        if not flows:
            work.flows += encoded.flows
            continue
        for flow in encoded.flows:
            if flows.pop(flow.key, None) != flow.cookie:
                work.flows.append(flow)
    work.break_flows = [Break(key, cookie) for key, cookie in flows.items()]
    work.break_groups = list(groups)
    kept = {meter.meter_id for encoded in new for meter in encoded.meters}
    work.break_meters = sorted({meter.meter_id for meter in meters} - kept)


class Found(NamedTuple):
    """What a switch holds, as dumped. `meters`: ids only; their content is set anew at each session."""

    flows: list[InstalledFlow]
    groups: dict[int, tuple[int, bytes]]
    meters: frozenset[int]


def resync(found: Found, desired: Mapping[Key, Encoded], deep: bool = False) -> Work:
    """Work that turns what was found into the desired fragments.

    `deep`: compare canonical actions too; somebody who changes a flow's actions by hand leaves its cookie as it was.

    Flows are compared by key and cookie and nothing else: the cookie is the hash of the content. Flows of kind VOLATILE are left
    to their makers. Meters have no content that a dump of Open vSwitch's userspace shows reliably: the missing ones are made.
    """
    work = Work(after=dict(desired))
    installed = {f.key: f.cookie for f in found.flows if f.cookie >> KIND_SHIFT != Kind.VOLATILE}
    if deep:
        wanted = {f.key: f.instructions for e in desired.values() for f in e.flows}
        for flow in found.flows:
            if flow.key in installed and canonical_instructions(flow.instructions) != wanted.get(flow.key, b""):
                # Another cookie than any of ours: it is replaced where it is wanted, and taken away where it is not.
                installed[flow.key] = flow.cookie if flow.key not in wanted else ~flow.cookie
    groups = {number: EncodedGroup(number, kind, buckets) for number, (kind, buckets) in found.groups.items()}
    wished = {m.meter_id: m for e in desired.values() for m in e.meters}
    known = {wished.get(number, Meter(number, 0)) for number in found.meters}
    _changes(work, desired.values(), installed, groups, known)
    return work


def strangers(found: Found) -> list[InstalledFlow]:
    """Flows whose cookie no room of ours can have written."""
    return [f for f in found.flows if not is_ours(f.cookie)]
