"""State: all facts of one revision, with the indexes that the compiler and the decisions walk.

`apply(state, edits, revision) -> state` costs the edits, not the cluster: the maps are persistent (immutables.Map), so the
State of revision N stays valid while N + 1 is made. Indexes are derived from facts and nothing else; `rebuild` makes them
from scratch and a property test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from immutables import Map

from ebbtide.model.facts import (
    Binding,
    BindingPhase,
    Compute,
    Cursor,
    Debt,
    Edit,
    Fact,
    Membership,
    Network,
    Operation,
    Port,
    Relation,
    Retired,
)

_EMPTY: Map[Any, Any] = Map()


class State(msgspec.Struct, frozen=True):
    """Everything the store says, at `revision`.

    `computes` is keyed by number and holds members and waiting ones; `removed` those whose scale-in is over.
    `bindings`: port id -> its bindings, sorted by compute. `presence`: network -> {compute: number of bindings};
    `networks_on` is its inverse. `ports_on`: compute -> {port id: phase}. `retired` is keyed by tag; `retired_vnis`: VNI -> that tag.
    """

    revision: int = 0
    store_id: str = ""
    term: int = 0
    computes: Map[int, Compute] = _EMPTY
    removed: Map[int, Compute] = _EMPTY
    by_name: Map[str, int] = _EMPTY
    by_dpid: Map[int, int] = _EMPTY
    networks: Map[str, Network] = _EMPTY
    by_tag: Map[int, str] = _EMPTY
    by_vni: Map[int, str] = _EMPTY
    ports: Map[str, Port] = _EMPTY
    by_lport: Map[int, str] = _EMPTY
    ports_of: Map[str, Map[str, None]] = _EMPTY
    bindings: Map[str, tuple[Binding, ...]] = _EMPTY
    presence: Map[str, Map[int, int]] = _EMPTY
    networks_on: Map[int, Map[str, int]] = _EMPTY
    ports_on: Map[int, Map[str, BindingPhase]] = _EMPTY
    relations: Map[tuple[int, int], Relation] = _EMPTY
    debts: Map[tuple[int, int], Debt] = _EMPTY
    cursors: Map[str, Cursor] = _EMPTY
    retired: Map[int, Retired] = _EMPTY
    retired_vnis: Map[int, int] = _EMPTY
    operations: Map[str, Operation] = _EMPTY

    def footprint(self, network: str) -> Map[int, int]:
        """The computes on which a network is present, each with its number of bindings."""
        found: Map[int, int] = self.presence.get(network, _EMPTY)
        return found

    def members(self) -> list[Compute]:
        """Computes that belong to the cluster, in order of name."""
        chosen = [c for c in self.computes.values() if c.membership is Membership.MEMBER]
        return sorted(chosen, key=lambda c: c.name)

    def active(self, port: str) -> Binding | None:
        """The one binding at which the port is served."""
        for binding in self.bindings.get(port, ()):
            if binding.phase is BindingPhase.ACTIVE:
                return binding
        return None

    def binding(self, port: str, compute: int) -> Binding | None:
        """The port's binding on that compute."""
        for binding in self.bindings.get(port, ()):
            if binding.compute == compute:
                return binding
        return None

    def peers(self, compute: int) -> set[int]:
        """The computes it needs a tunnel to: those it shares a network or a gateway relation with. Both ends have a TEP."""
        found: set[int] = set()
        own = self.computes.get(compute)
        if own is None or not own.tep:
            return found
        for network in self.networks_on.get(compute, _EMPTY):
            found.update(self.presence[network])
        for gateway, peer in self.relations:
            if gateway == compute:
                found.add(peer)
            elif peer == compute:
                found.add(gateway)
        found.discard(compute)
        return {n for n in found if n in self.computes and self.computes[n].tep}

    def relation_peers(self, compute: int) -> set[int]:
        """The far ends of its gateway relations."""
        return {b if a == compute else a for a, b in self.relations if compute in (a, b)}


def _bump(index: Map[Any, Map[Any, int]], outer: Any, inner: Any, by: int) -> Map[Any, Map[Any, int]]:
    counts = index.get(outer, _EMPTY)
    count = counts.get(inner, 0) + by
    assert count >= 0, (outer, inner, by)
    counts = counts.set(inner, count) if count else counts.delete(inner)
    return index.set(outer, counts) if counts else index.delete(outer)


class _Draft:
    """Edits in the making. Each `_x` method takes one kind of fact out of, or puts it into, the maps."""

    def __init__(self, state: State) -> None:
        self.maps: dict[str, Any] = {f: getattr(state, f) for f in state.__struct_fields__}

    def edit(self, old: Fact | None, new: Fact | None) -> None:
        for fact, present in ((old, False), (new, True)):
            if fact is not None:
                getattr(self, "_" + type(fact).__name__.lower())(fact, present)

    def _put(self, name: str, key: Any, value: Any, present: bool) -> None:
        table = self.maps[name]
        if present:
            self.maps[name] = table.set(key, value)
        elif key in table:
            self.maps[name] = table.delete(key)

    def _index(self, name: str, key: Any, owner: Any, present: bool) -> None:
        # An owner that gives a key up takes nothing from another that has been given it by an earlier edit of the same revision.
        if present or self.maps[name].get(key) == owner:
            self._put(name, key, owner, present)

    def _compute(self, fact: Compute, present: bool) -> None:
        gone = fact.membership is Membership.REMOVED
        self._put("removed" if gone else "computes", fact.number, fact, present)
        if not gone:
            self._index("by_name", fact.name, fact.number, present)
            self._index("by_dpid", fact.dpid, fact.number, present)

    def _network(self, fact: Network, present: bool) -> None:
        self._put("networks", fact.id, fact, present)
        self._index("by_tag", fact.tag, fact.id, present)
        self._index("by_vni", fact.vni, fact.id, present)

    def _port(self, fact: Port, present: bool) -> None:
        self._put("ports", fact.id, fact, present)
        self._index("by_lport", fact.lport, fact.id, present)
        index = self.maps["ports_of"]
        inner = index.get(fact.network, _EMPTY)
        inner = inner.set(fact.id, None) if present else inner.delete(fact.id)
        self.maps["ports_of"] = index.set(fact.network, inner) if inner else index.delete(fact.network)

    def _binding(self, fact: Binding, present: bool) -> None:
        others = tuple(b for b in self.maps["bindings"].get(fact.port, ()) if b.compute != fact.compute)
        kept = tuple(sorted((*others, fact), key=lambda b: b.compute)) if present else others
        self._put("bindings", fact.port, kept, bool(kept))
        by = 1 if present else -1
        network = self.maps["ports"][fact.port].network
        self.maps["presence"] = _bump(self.maps["presence"], network, fact.compute, by)
        self.maps["networks_on"] = _bump(self.maps["networks_on"], fact.compute, network, by)
        index = self.maps["ports_on"]
        inner = index.get(fact.compute, _EMPTY)
        inner = inner.set(fact.port, fact.phase) if present else inner.delete(fact.port)
        self.maps["ports_on"] = index.set(fact.compute, inner) if inner else index.delete(fact.compute)

    def _relation(self, fact: Relation, present: bool) -> None:
        self._put("relations", (fact.gateway, fact.peer), fact, present)

    def _debt(self, fact: Debt, present: bool) -> None:
        self._put("debts", (fact.compute, fact.removed), fact, present)

    def _cursor(self, fact: Cursor, present: bool) -> None:
        self._put("cursors", fact.kind, fact, present)

    def _retired(self, fact: Retired, present: bool) -> None:
        self._put("retired", fact.tag, fact, present)
        self._index("retired_vnis", fact.vni, fact.tag, present)

    def _operation(self, fact: Operation, present: bool) -> None:
        self._put("operations", fact.id, fact, present)


_ORDER = (Operation, Retired, Cursor, Debt, Relation, Binding, Port, Network, Compute)


def in_order(edits: Iterable[Edit]) -> list[Edit]:
    """Edits such that nothing refers to what is not there: users vanish before what they use, and appear after it.

    Changes of a fact stay whole; a changed port keeps its network (the parsers refuse to move it).
    """
    rank: dict[Any, int] = {kind: i for i, kind in enumerate(_ORDER)}
    gone = [e for e in edits if e.new is None]
    rest = [e for e in edits if e.new is not None]
    gone.sort(key=lambda e: rank[type(e.old)])
    rest.sort(key=lambda e: -rank[type(e.new)])
    return gone + rest


def apply(
    state: State, edits: Iterable[Edit], revision: int, *, store_id: str | None = None, term: int | None = None
) -> State:
    """The State after `edits`, which is that of `revision`."""
    draft = _Draft(state)
    for old, new in in_order(list(edits)):
        draft.edit(old, new)
    draft.maps["revision"] = revision
    if store_id is not None:
        draft.maps["store_id"] = store_id
    if term is not None:
        draft.maps["term"] = term
    return State(**draft.maps)


def facts(state: State) -> list[Fact]:
    """Every fact of a State, in no particular order."""
    found: list[Fact] = [*state.computes.values(), *state.removed.values(), *state.networks.values()]
    found += state.ports.values()
    for bindings in state.bindings.values():
        found += bindings
    found += [*state.relations.values(), *state.debts.values(), *state.cursors.values()]
    found += [*state.retired.values(), *state.operations.values()]
    return found


def rebuild(all_facts: Iterable[Fact], revision: int, store_id: str = "", term: int = 0) -> State:
    """The State that these facts make up, from scratch."""
    return apply(State(), [Edit(None, f) for f in all_facts], revision, store_id=store_id, term=term)
