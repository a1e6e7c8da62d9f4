"""The audit: read everything that every reachable compute holds, compare it with what should be, and look for removed computes.

It only reads. Two independent questions: missing and unexpected (dump against the compiler's output, canonical actions included,
since a mod-flow keeps a cookie), and residue (`decide.audit`: raw dumps against identities). Nothing read is a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from ebbtide.compile import ledger
from ebbtide.compile.features import tunnel
from ebbtide.compile.flow import Group
from ebbtide.decide.audit import Dump, Needle, RawFlow, RawGroup, RawRow, Residue, needles, search, sought
from ebbtide.errors import EbbtideError, RemoteProtocolError
from ebbtide.model.facts import Compute, Membership
from ebbtide.model.observed import Phase
from ebbtide.openflow.flows import InstalledFlow, canonical_instructions, decode_buckets
from ebbtide.openflow.text import format_group, format_installed
from ebbtide.ovsdb.replica import Replica
from ebbtide.reconcile.delta import Found
from ebbtide.runtime import vswitch
from ebbtide.runtime.member import Member
from ebbtide.runtime.providers import BRIDGE

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be. `kind`: missing, unexpected or residue."""

    kind: str
    compute: str
    what: str
    text: str


class Look(msgspec.Struct, frozen=True):
    """What one compute was seen to hold. `applied`: the revision that it had confirmed before it was read."""

    compute: str
    number: int
    applied: int
    flows: int
    groups: int
    ports: int
    tunnels: int
    rows: int


class Report(msgspec.Struct, frozen=True):
    """What was read, at which revision, and what was found; `looks`: a line each compute that was read."""

    revision: int
    computes: tuple[str, ...]
    unreachable: tuple[str, ...]
    flows: int
    groups: int
    rows: int
    missing: int
    unexpected: int
    residue: int
    findings: tuple[Finding, ...] = ()
    removed: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()

    @property
    def clean(self) -> bool:
        """Something was read, and nothing was found."""
        return bool(self.computes) and not self.findings


MAX_FINDINGS = 1000
TRIES = 5
#: Flows searched for all removed computes before others have their turn.
AT_A_STRETCH = 500


async def audit(cluster: Cluster, only: Iterable[int] | None = None, among: Iterable[int] | None = None) -> Report:
    """Audit every compute, or those `among` them, looking for the removed computes `only` (default: all that were ever removed)."""
    state = cluster.state
    chosen, places = (None if x is None else set(x) for x in (only, among))
    removed = [c for c in state.removed.values() if chosen is None or c.number in chosen]
    wanted = {name: needles(found) for name, found in sought(removed, state.computes.values()).items()}
    looks, unreachable, findings = [], [], []
    for compute in state.members():
        if places is not None and compute.number not in places:
            continue
        member = cluster.members.get(compute.number)
        looked = await _look(cluster, member, compute, wanted) if member is not None else None
        if looked is None:
            if compute.number in cluster.state.computes:
                unreachable.append(compute.name)
            continue
        look, seen = looked
        looks.append(look)
        findings += seen
    counts = {kind: sum(f.kind == kind for f in findings) for kind in ("missing", "unexpected", "residue")}
    return Report(
        state.revision,
        tuple(look.compute for look in looks),
        tuple(unreachable),
        sum(look.flows for look in looks),
        sum(look.groups for look in looks),
        sum(look.rows for look in looks),
        findings=tuple(findings[:MAX_FINDINGS]),
        removed=tuple(sorted(wanted)),
        looks=tuple(looks),
        **counts,
    )


async def _look(
    cluster: Cluster, member: Member, compute: Compute, wanted: Mapping[str, tuple[Needle, ...]]
) -> tuple[Look, list[Finding]] | None:
    """What one compute holds and what is wrong with it; None if it cannot be read.

    What is found while the compute is being changed may be the change: then it is looked at again. One that the brake holds is not.
    """

    def at_rest() -> bool:
        return member.clean or member.phase is Phase.BRAKED

    for _ in range(TRIES):
        if not member.connected or not member.synced:
            return None
        await cluster.wait_for(lambda: at_rest() or not member.connected, 2.0)
        revision, applied = cluster.state.revision, member.rid_through()
        try:
            dump, found = await _dump(member, compute)
        except EbbtideError:
            return None
        if compute.number not in cluster.state.computes:
            return None
        findings = _compare(cluster, member, compute, found)
        for part in _parts(dump):
            # A large dump and many removed computes take seconds: echoes must be answered meanwhile.
            await asyncio.sleep(0)
            for name, chosen in wanted.items():
                findings += [_residue(r) for r in search(name, chosen, part)]
        if not findings or (at_rest() and cluster.state.revision == revision):
            break
    kinds = [row.strings.get("type", "") for row in dump.rows if row.table == "Interface"]
    amounts = len(dump.flows), len(dump.groups), len(kinds), kinds.count("vxlan"), len(dump.rows)
    return Look(compute.name, compute.number, applied, *amounts), findings


def _parts(dump: Dump) -> Iterable[Dump]:
    """The dump in pieces, each searched at a stretch."""
    yield Dump(dump.compute, (), dump.groups, dump.rows)
    for at in range(0, len(dump.flows), AT_A_STRETCH):
        yield Dump(dump.compute, dump.flows[at : at + AT_A_STRETCH])


def _residue(found: Residue) -> Finding:
    what = f"{found.kind} with {found.identity} of {found.removed}"
    return Finding("residue", found.where, what, found.text)


async def _dump(member: Member, compute: Compute) -> tuple[Dump, Found]:
    assert member.switch is not None
    assert member.tables is not None
    found = await member.switch.dump()
    flows = tuple(
        RawFlow(f.cookie, f.match, f.instructions, partial(format_installed, f, stats=False)) for f in found.flows
    )
    groups = tuple(
        RawGroup(number, buckets, format_installed_group(number, kind, buckets))
        for number, (kind, buckets) in found.groups.items()
    )
    return Dump(compute.name, flows, groups, tuple(raw_rows(member.tables))), found


def format_installed_group(number: int, kind: int, buckets: bytes) -> str:
    """A group of a dump as text; what we cannot read is shown as bytes."""
    try:
        return format_group(Group(number, kind, decode_buckets(buckets)))
    except RemoteProtocolError:
        return f"group_id={number} bytes={buckets.hex()}"


def raw_rows(tables: Replica) -> Iterable[RawRow]:
    """The rows of br-int's own world: the bridge, its ports and interfaces. The host's other bridges are not ours."""
    own = vswitch.bridge(tables)
    if own is None:
        return
    yield RawRow("Bridge", BRIDGE, _strings({k: own.row[k] for k in ("external_ids", "other_config")}))
    for _, _, row in vswitch.interfaces(tables):
        columns = ("name", "options", "external_ids", "bfd", "type")
        yield RawRow("Interface", row["name"], _strings({k: row[k] for k in columns}))


def _strings(row: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for column, value in row.items():
        if isinstance(value, Mapping):
            found.update({f"{column}:{k}": str(v) for k, v in value.items()})
        else:
            found[column] = str(value)
    return found


def _compare(cluster: Cluster, member: Member, compute: Compute, found: Found) -> list[Finding]:
    """Dump against the compiler: flows by key, cookie and canonical actions; groups, meters, tunnel rows by content."""
    state, findings = cluster.state, []
    desired = cluster.compiled.desired(state, member.number, member.view)
    flows = {f.key: f for made in desired.values() for f in made.flows}
    groups = {g.group_id: (g.type, g.buckets) for made in desired.values() for g in made.groups}
    seen: dict[Any, InstalledFlow] = {
        f.key: f for f in found.flows if ledger.read_cookie(f.cookie)[0] != ledger.Kind.VOLATILE
    }
    for key, flow in flows.items():
        there = seen.pop(key, None)
        if there is None:
            findings.append(Finding("missing", compute.name, "flow", f"table={key[0]}, priority={key[1]}"))
        elif there.cookie != flow.cookie or canonical_instructions(there.instructions) != flow.instructions:
            findings.append(Finding("unexpected", compute.name, "flow differs", format_installed(there, stats=False)))
    findings += [Finding("unexpected", compute.name, "flow", format_installed(f, stats=False)) for f in seen.values()]
    for number, content in groups.items():
        if found.groups.get(number) != content:
            kind = "unexpected" if number in found.groups else "missing"
            findings.append(Finding(kind, compute.name, "group", f"group_id={number}"))
    for number in found.groups.keys() - groups.keys():
        findings.append(Finding("unexpected", compute.name, "group", f"group_id={number}"))
    meters = {m.meter_id for made in desired.values() for m in made.meters}
    for number in meters - found.meters:
        findings.append(Finding("missing", compute.name, "meter", f"meter={number}"))
    for number in found.meters - meters:
        findings.append(Finding("unexpected", compute.name, "meter", f"meter={number}"))
    return findings + _compare_rows(cluster, member, compute)


def _compare_rows(cluster: Cluster, member: Member, compute: Compute) -> list[Finding]:
    assert member.tables is not None
    findings = []
    wanted = {row.name: row for row in tunnel.rows(cluster.state, member.number).values()}
    there = {row["name"]: row for _, _, row in vswitch.interfaces(member.tables)}
    for name, row in wanted.items():
        seen = there.get(name)
        if seen is None:
            findings.append(Finding("missing", compute.name, "tunnel port", f"{name} to {row.remote_ip}"))
        elif seen["options"].get("remote_ip") != row.remote_ip or not (seen["ofport"] or 0) > 0:
            text = f"{name}: {dict(seen['options'])} ofport {seen['ofport']} {seen['error'] or ''}"
            findings.append(Finding("unexpected", compute.name, "tunnel port differs", text))
    for name, seen in there.items():
        if name in wanted:
            continue
        if vswitch.PEER in seen["external_ids"] or seen["type"] in ("vxlan", "geneve", "gre"):
            findings.append(Finding("unexpected", compute.name, "tunnel port", f"{name}: {dict(seen['options'])}"))
    own = vswitch.bridge(member.tables)
    mark = own.row["external_ids"].get(vswitch.TOMBSTONED) if own else None
    if (mark == "true") != (compute.tombstoned and compute.membership is Membership.MEMBER):
        findings.append(Finding("unexpected", compute.name, "external_ids:tombstoned", str(mark)))
    return findings
