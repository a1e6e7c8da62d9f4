"""Services that one compute does for all through the controller: NAT's election, without NAT's moves.

Nothing of such a service is kept at its compute, so it changes its place in one transaction: whoever stands by has all its flows already,
and the old one keeps its own until all others have followed. What it cannot do without is a control session: it answers nothing by itself.

A kind of service is a description (`Kind`): what needs a compute, and which may have it. All rules are those of `designation.py` and
`election.py`: only ready, reachable computes of the footprint, never a tombstoned one that has an alternative, balanced, sticky.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from typing import NamedTuple

from ebbtide.decide import designation, election
from ebbtide.decide.designation import Standing
from ebbtide.decide.election import Candidate, Service
from ebbtide.model.facts import Designation, Edit
from ebbtide.model.state import NAT, SUBNET, State, split_subnet, subnet_name


class Kind(NamedTuple):
    """A kind of service. `objects`: what needs a compute now; `footprint`: the computes that may serve one of them; `words`: what an object
    is called in a sentence."""

    name: str
    objects: Callable[[State], Iterable[str]]
    footprint: Callable[[State, str], Collection[int]]
    words: Callable[[str], str]


def _subnets(state: State) -> Iterable[str]:
    return (subnet_name(network, subnet) for network in state.routers_of for subnet in state.subnets(network))


SUBNETS = Kind(
    SUBNET,
    _subnets,
    lambda state, name: state.footprint(split_subnet(name)[0]),
    lambda name: "subnet {1} of network {0}".format(*split_subnet(name)),
)
KINDS: tuple[Kind, ...] = (SUBNETS,)


def kind_of(service: str) -> Kind | None:
    """The kind of that name, if it is one of these."""
    return next((kind for kind in KINDS if kind.name == service), None)


def services(state: State, kind: Kind) -> list[Service]:
    """All of a kind that need a compute, and can have one: those without a footprint are nobody's."""
    found = []
    for name in kind.objects(state):
        footprint = frozenset(kind.footprint(state, name))
        if footprint:
            known = state.designations.get((kind.name, name))
            current, standby = (known.compute, known.standby) if known is not None else (0, 0)
            left = dict.fromkeys({current, standby} - footprint - {0}, "has no part in it any more")
            found.append(Service(kind.name, name, footprint, current, standby, left))
    return found


def judge(state: State, standings: Mapping[int, Standing]) -> list[Edit]:
    """What is to be stored so that every such service is where it belongs, and nowhere if nobody needs it."""
    places = designation.candidates(state, standings, by_controller=True)
    # A store that was written by an older controller designates computes for DHCP too, which each port's own compute does now.
    known = {NAT, *(kind.name for kind in KINDS)}
    left = [Edit(found, None) for (service, _), found in state.designations.items() if service not in known]
    return left + [edit for kind in KINDS for edit in _judge(state, kind, places)]


def _judge(state: State, kind: Kind, places: list[Candidate]) -> list[Edit]:
    wanted = services(state, kind)
    names = {s.object for s in wanted}
    held = (found for (service, _), found in state.designations.items() if service == kind.name)
    edits = [Edit(found, None) for found in held if found.object not in names]
    if _at_rest(wanted, places):
        return edits
    chosen = election.elect(wanted, places)
    for service in wanted:
        choice, old = chosen[service.key], state.designations.get(service.key)
        # Where it is counts for an election though it has left the footprint; but it cannot ask there any more.
        compute = choice.compute if choice.compute in service.footprint else 0
        new = _designated(old, service, compute, choice.standby) if compute else None
        if new != old:
            edits.append(Edit(old, new))
    return edits


def _designated(old: Designation | None, service: Service, compute: int, standby: int) -> Designation:
    since = old.since if old is not None and old.compute == compute else 0
    return Designation(service.kind, service.object, compute, standby if standby != compute else 0, since)


def _at_rest(wanted: Iterable[Service], places: Iterable[Candidate]) -> bool:
    """Whether an election would change nothing: each is served, and somebody stands by or nobody can."""
    able = {c.number for c in places if not c.bar}
    return all(
        s.current in able
        and s.current in s.footprint
        and (
            (s.standby in able and s.standby in s.footprint and s.standby != s.current)
            or (not s.standby and len(s.footprint & able) == 1)
        )
        for s in wanted
    )


def bar(state: State, service: str, name: str, number: int, standings: Mapping[int, Standing]) -> str:
    """Why a compute may not have such a service now, in words; "": it may."""
    kind = kind_of(service)
    asked = next((s for s in services(state, kind) if s.object == name), None) if kind is not None else None
    if asked is None:
        return "is needed no more"
    return election.bar(asked, designation.candidates(state, standings, by_controller=True), number)


def stays(state: State, leaving: Set[int], edits: Iterable[Edit]) -> dict[int, str]:
    """Of the computes that are to leave: what nobody else can serve yet, in words. `edits`: what `judge` does."""
    moved = {(n.service, n.object) for _, n in edits if isinstance(n, Designation) and n.compute not in leaving}
    found: dict[int, list[str]] = {}
    for number in leaving:
        for key in sorted(state.duties.get(number, ())):
            kind, held = kind_of(key[0]), state.designations[key]
            if kind is not None and held.compute == number and key not in moved:
                found.setdefault(number, []).append(kind.words(key[1]))
    return {
        number: f"nobody else has a port yet of {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}: it follows the first "
        "that is plugged elsewhere"
        for number, names in found.items()
    }


def electable(state: State, service: str, name: str, standings: Mapping[int, Standing]) -> list[str]:
    """Why such a service is where it is, in words, each compute with its reason."""
    kind = kind_of(service)
    every = services(state, kind) if kind is not None else []
    asked = next((s for s in every if s.object == name), None)
    if kind is None or asked is None:
        return [f"{kind.words(name) if kind else name} needs no compute, or none has a port of it"]
    return election.explain(asked, designation.candidates(state, standings, by_controller=True), every)
