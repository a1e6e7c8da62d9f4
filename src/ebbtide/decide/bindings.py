"""Where a port is: from plugs and evidence to bindings (docs/decisions.md, section 6).

`judge` looks at one port: where its iface-id is plugged, where its frames have been seen, what has been applied. It gives the
next edits, or none. It is asked again after every change, so it needs no memory: everything it knows is State and observation.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Set

import msgspec

from ebbtide.decide import documents
from ebbtide.model.facts import Binding, BindingPhase, Edit, Membership
from ebbtide.model.state import LAST_ZONE, State, home_zone


class Sight(msgspec.Struct, frozen=True):
    """What is seen of one port.

    `plugged`: compute -> True (its interface is there, and realised or about to be), False (its OVSDB is heard and says it is
    not). A compute that is not heard is absent, and that changes nothing. `frames`: computes where a frame of the port's MAC came in by its
    interface. `applied`: computes that have applied everything up to the revision of their binding of this port.
    `flipped`: whether every compute of the footprint has applied the flip and is settled. `open`:
    whether the tunnels between the pending place and the rest of the footprint are known to carry frames.
    """

    plugged: Mapping[int, bool]
    frames: Set[int] = frozenset()
    applied: Set[int] = frozenset()
    flipped: bool = False
    open: bool = True


def judge(state: State, port: str, sight: Sight) -> list[Edit]:
    """The next edits for one port; the revision they are stored with becomes their `since` (0 here: the store fills it in)."""
    if port not in state.ports:
        return []
    bindings = state.bindings.get(port, ())
    active = state.active(port)
    if active is None:
        return _without_active(state, port, bindings, sight)
    gone = [b for b in bindings if b.phase is BindingPhase.PENDING and sight.plugged.get(b.compute) is False]
    if gone:
        return [Edit(b, None) for b in gone]
    left_over = [b for b in bindings if b.phase is BindingPhase.LEAVING and sight.plugged.get(b.compute) is False]
    if sight.flipped and left_over:
        return [Edit(b, None) for b in left_over]
    pending = next((b for b in bindings if b.phase is BindingPhase.PENDING), None)
    left = sight.plugged.get(active.compute) is False
    if pending is not None:
        if arrives(state, pending, active, sight) and pending.compute in sight.applied and sight.open:
            return _flip(active, pending)
        return []
    for old in bindings:
        if old.phase is BindingPhase.LEAVING and _back(state, old, active, sight):
            # Pending first, and flipped only when that is applied: two computes never forward to each other.
            return [Edit(old, bound(state, port, old.compute, BindingPhase.PENDING))]
    fresh = _fresh(state, port, sight, {b.compute for b in bindings})
    if fresh is not None:
        return [Edit(None, bound(state, port, fresh, BindingPhase.PENDING))]
    return [Edit(b, None) for b in bindings] if left else []


def arrives(state: State, pending: Binding, active: Binding, sight: Sight) -> bool:
    """Whether the guest is, or is about to be, at a pending place: it has left the other one, it speaks at the new one; or Neutron has
    bound it there and the other one is silent: its host died, and Nova builds it anew and waits to hear that it is served."""
    there = sight.plugged.get(active.compute)
    silent = there is None and _is_named(state, pending)
    return there is False or pending.compute in sight.frames or silent


def _is_named(state: State, binding: Binding) -> bool:
    """Whether Neutron has bound the port there."""
    member = state.computes.get(binding.compute)
    return member is not None and documents.host_of(state, binding.port) == member.host


def bound(state: State, port: str, compute: int, phase: BindingPhase) -> Binding:
    """A binding at a place that the port comes to, or comes back to: with a conntrack zone that has nobody there.

    Each time another one: what conntrack has seen of the port's connections when it was here last is wrong by now.
    """
    used: Container[int] = state.zones.get(compute, ())
    if 0 in used:
        alike = ((other, state.binding(other, compute)) for other in state.ports_on.get(compute, ()))
        homes = {home_zone(state.ports[other].lport) for other, found in alike if found is not None and not found.zone}
        used = {*state.zones[compute], *homes}
    first = state.ports[port].lport * 7919 + state.revision
    zone = next((z for z in ((first + n) % LAST_ZONE + 1 for n in range(LAST_ZONE)) if z not in used), 0)
    return Binding(port, compute, phase, zone=zone)


def _back(state: State, old: Binding, active: Binding, sight: Sight) -> bool:
    """Whether the guest is at the place it had left: the new one is gone, or it speaks there again.

    What speaks there while Neutron has bound the port at the new one is what a host that was given up for dead still runs.
    """
    speaks = sight.flipped and old.compute in sight.frames and not _is_named(state, active)
    return bool(sight.plugged.get(old.compute)) and (sight.plugged.get(active.compute) is False or speaks)


def _without_active(state: State, port: str, bindings: tuple[Binding, ...], sight: Sight) -> list[Edit]:
    candidates = sorted(b.compute for b in bindings if sight.plugged.get(b.compute))
    if candidates:
        chosen = state.binding(port, candidates[0])
        assert chosen is not None
        return [Edit(chosen, msgspec.structs.replace(chosen, phase=BindingPhase.ACTIVE, since=0))]
    dead = [Edit(b, None) for b in bindings if sight.plugged.get(b.compute) is False]
    fresh = _fresh(state, port, sight, {b.compute for b in bindings})
    if fresh is not None:
        return [*dead, Edit(None, bound(state, port, fresh, BindingPhase.ACTIVE))]
    return dead


def _fresh(state: State, port: str, sight: Sight, known: Set[int]) -> int | None:
    """A member where the port is plugged and not bound. Tombstoned ones serve ports in full (design, section 6)."""
    for compute, there in sorted(sight.plugged.items()):
        member = state.computes.get(compute)
        if there and compute not in known and member is not None and member.membership is Membership.MEMBER:
            return compute
    return None


def _flip(old: Binding, new: Binding) -> list[Edit]:
    return [
        Edit(old, msgspec.structs.replace(old, phase=BindingPhase.LEAVING, since=0)),
        Edit(new, msgspec.structs.replace(new, phase=BindingPhase.ACTIVE, since=0)),
    ]
