"""Who is designated: one election for all services (NAT routers, subnet routes, ...), and why, in words.

Values in, values out; neither State nor clock. Who may be elected, and what a service needs, is told by whoever asks. How the electable
are ordered and how many services each may have is `spread.py`.

* A service stays where it is while its compute may serve it, even above the bound; only one that must move is placed. So removing
  computes moves what they had and nothing else, and a compute that joins moves nothing: that is `rebalance`, which is asked for.
* A service that must move goes to its standby, which is warm already, if there is room, else down its own order (weighted rendezvous).
* Each kind is balanced by itself: a DHCP server says nothing about the load of a NAT router.
* A service that nobody else may serve stays where it is, and its choice says so.

Two settings, which an operator may combine. `weight` is a ratio, for bigger hosts: twice the weight, twice the services. `base` is
`external_ids:odl_base_weight`, a head start as NetVirt specifies it ("Weighted NAPT selection", Oxygen): a base of X counts as a weight
of -X, each service hosted as +1, and the lowest is chosen. So a HIGHER base takes MORE services, the first X before the others begin to
count, and a negative one fewer. Both together: computes are filled to one level of (services - base) / weight. As there, a changed value
by itself moves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ebbtide.decide.spread import Key, Piece, Place, bounds, rank, relieve, spread
from ebbtide.errors import some

FEW = 5


class Candidate(msgspec.Struct, frozen=True):
    """A compute, as a place for services.

    `barred`: why it takes none now, in words ("": it does). `keeps`: though barred, it keeps what it has, as designated and as standby (its
    control session is lost, and BFD still sees it). A weight of 0 bars it too, and it keeps what it has.
    """

    number: int
    name: str
    weight: int = 1
    base: int = 0
    barred: str = ""
    keeps: bool = False

    @property
    def bar(self) -> str:
        """Why it takes no service, or ""."""
        return self.barred or ("" if self.weight > 0 else "its weight is 0")

    @property
    def retains(self) -> bool:
        """Whether it keeps what it has."""
        return self.keeps or not self.barred


class Service(msgspec.Struct, frozen=True):
    """Something that one compute does for all.

    `footprint`: the computes that may do it; `unable`: those of them that cannot do this one, and why ("has no provider network physnet1").
    `current`, `standby`: where it is now (0: nowhere). After a crash the standby serves already: whoever asks says so here.
    `held`: why it may not be moved now, in words ("its move is under way"); it stays as long as its compute is known at all.
    """

    kind: str
    object: str
    footprint: frozenset[int]
    current: int = 0
    standby: int = 0
    unable: Mapping[int, str] = {}
    held: str = ""

    @property
    def key(self) -> Key:
        """What it is known by."""
        return (self.kind, self.object)


class Choice(msgspec.Struct, frozen=True):
    """Where a service belongs (0: nobody can have it), who stands by (0: nobody), and why."""

    compute: int
    standby: int
    why: tuple[str, ...]


class Shift(msgspec.Struct, frozen=True):
    """One service that a rebalance would move."""

    kind: str
    object: str
    old: int
    new: int


class Load(msgspec.Struct, frozen=True):
    """How many services of a kind a compute has, before and after, and its bound."""

    kind: str
    compute: int
    name: str
    before: int
    after: int
    bound: int


class Plan(msgspec.Struct, frozen=True):
    """What a rebalance would do, and what is gained, a line per kind."""

    moves: tuple[Shift, ...] = ()
    loads: tuple[Load, ...] = ()
    gain: tuple[str, ...] = ()


class _Field:
    """The candidates, looked at from a service."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self.known: dict[int, Candidate] = {}
        for candidate in sorted(candidates, key=lambda c: (c.name, c.number)):
            assert candidate.number not in self.known, f"two candidates have number {candidate.number}"
            self.known[candidate.number] = candidate
        self.places = {n: Place(c.name, c.weight, c.base) for n, c in self.known.items() if not c.bar}
        self.open = frozenset(self.places)

    def name(self, number: int) -> str:
        return self.known[number].name if number in self.known else f"compute {number}, which is gone"

    def able(self, service: Service, also: int) -> frozenset[int]:
        """Those that may have it. Where it is (`also`) counts even if it has left the footprint: it does not lose the service by that."""
        within = service.footprint if also in service.footprint else service.footprint | {also}
        return (within & self.open).difference(service.unable)

    def bar(self, service: Service, number: int) -> str:
        """Why a known candidate may not have it, or ""."""
        candidate = self.known[number]
        return candidate.bar or service.unable.get(number, "")

    def retains(self, service: Service, number: int) -> bool:
        candidate = self.known.get(number)
        return candidate is not None and candidate.retains and number not in service.unable

    def bars(self, service: Service) -> str:
        """Why none of its footprint may have it."""
        there = sorted((self.name(n), self.bar(service, n)) for n in service.footprint if n in self.known)
        said = [f"{name} {bar if bar.startswith('has ') else 'is ' + bar}" for name, bar in there if bar]
        return some(said, FEW) or "its footprint is empty"

    def stays(self, service: Service) -> tuple[bool, str]:
        """Whether it stays where it is, and why, or why not."""
        number = service.current
        able = self.able(service, number)
        if number not in self.known:
            return False, "it was nowhere" if not number else f"leaves {self.name(number)}"
        name, bar = self.name(number), self.bar(service, number)
        if service.held:
            return True, f"stays on {name}: {service.held}"
        if not bar:
            left = "" if number in service.footprint else ", though that has left its footprint"
            return True, f"stays on {name}{left}: a service moves only when its compute may not serve it any more"
        if self.retains(service, number):
            return True, f"stays on {name} ({bar}), which takes nothing new and keeps what it has"
        if not able:
            return True, f"stays on {name} ({bar}): nobody else may serve it: {self.bars(service)}"
        return False, f"leaves {name}: {bar}"


def elect(services: Iterable[Service], candidates: Iterable[Candidate], slack: int = 0) -> dict[Key, Choice]:
    """One election over the final set. `slack`: per cent that a compute may have above its fair share, rounded up."""
    field = _Field(candidates)
    found: dict[Key, Choice] = {}
    for ballot in _by_kind(services):
        found.update(_elect(ballot, field, slack))
    return found


def _by_kind(services: Iterable[Service]) -> list[list[Service]]:
    kinds: dict[str, dict[Key, Service]] = {}
    for service in sorted(services, key=lambda s: s.key):
        kind = kinds.setdefault(service.kind, {})
        assert service.key not in kind, f"{service.kind} {service.object} stands for election twice"
        kind[service.key] = service
    return [list(kind.values()) for kind in kinds.values()]


def _elect(services: Sequence[Service], field: _Field, slack: int) -> dict[Key, Choice]:
    """Designated ones first, then standbys in view of them."""
    at: dict[Key, int] = {}
    why: dict[Key, list[str]] = {}
    loose: list[Piece] = []
    settled: list[Piece] = []
    for service in services:
        stays, reason = field.stays(service)
        able = field.able(service, service.current)
        why[service.key] = [reason]
        if stays:
            at[service.key] = service.current
            if service.current in able:
                settled.append(Piece(service.key, able))
        elif able:
            loose.append(Piece(service.key, able, _order(service, able, field)))
        else:
            at[service.key] = 0
            why[service.key].append(f"nobody may serve it: {field.bars(service)}")
    at.update(spread(loose, settled, at, field.places, slack))
    orders = {piece.key: piece.order for piece in loose}
    standbys = _standbys(services, at, field, slack)
    for service in services:
        if service.key in orders:
            why[service.key].append(_went(service, orders[service.key], at[service.key], field))
        stand = standbys.get(service.key, 0)
        why[service.key].append(f"{field.name(stand)} stands by" if stand else "nobody stands by: nobody else may")
    return {s.key: Choice(at[s.key], standbys.get(s.key, 0), tuple(why[s.key])) for s in services}


def _order(service: Service, able: frozenset[int], field: _Field) -> tuple[int, ...]:
    """Its standby, if there is one, then as its hash has it. Where it is takes the place of a standby that it has not, so that of several
    that could be moved those go first whose standby is warm already."""
    order = rank(service.key, able, field.places)
    first = service.standby if service.standby in able else service.current
    return (first, *(n for n in order if n != first)) if first in able else order


def _standbys(services: Sequence[Service], at: Mapping[Key, int], field: _Field, slack: int) -> dict[Key, int]:
    """Who stands by: the one that did, if it may, else the next in order; balanced like the designated ones."""
    chosen: dict[Key, int] = {}
    loose, settled = [], []
    for service in services:
        compute, standby = at[service.key], service.standby
        able = field.able(service, standby) - {compute}
        if compute and standby != compute and standby in able:
            chosen[service.key] = standby
            settled.append(Piece(service.key, able))
        elif compute and standby != compute and field.retains(service, standby):
            chosen[service.key] = standby
        elif compute and able:
            loose.append(Piece(service.key, able, rank(service.key, able, field.places)))
    chosen.update(spread(loose, settled, chosen, field.places, slack))
    return chosen


def _went(service: Service, order: Sequence[int], number: int, field: _Field) -> str:
    place = order.index(number)
    if number == service.standby:
        return f"goes to {field.name(number)}, its standby"
    if not place:
        return f"goes to {field.name(number)}, the first of {len(order)} in its order"
    full = some([field.name(n) for n in order[:place]], FEW)
    return f"goes to {field.name(number)}, number {place + 1} of {len(order)} in its order, to keep the bound of {full}"


def rebalance(services: Iterable[Service], candidates: Iterable[Candidate], slack: int = 0) -> Plan:
    """The fewest moves that bring every compute within its bound, and nothing else. What an election has to place is left to it."""
    field = _Field(candidates)
    moves: list[Shift] = []
    loads: list[Load] = []
    gain: list[str] = []
    for ballot in _by_kind(services):
        kind = ballot[0].kind
        here = [s for s in ballot if s.current in field.able(s, s.current)]
        able = {s.key: field.able(s, s.current) for s in here}
        caps = bounds(able.values(), field.places, slack)
        before = Counter(s.current for s in here)
        after = {s.key: s.current for s in here}
        if any(before[n] > caps[n] for n in before):
            free = [Piece(s.key, able[s.key], _order(s, able[s.key], field)) for s in here if not s.held]
            relieve(free, after, Counter(s.current for s in here if s.held), caps)
        moved = [Shift(*s.key, s.current, after[s.key]) for s in here if after[s.key] != s.current]
        then = Counter(after.values())
        rows = [Load(kind, n, p.name, before[n], then[n], caps[n]) for n, p in field.places.items()]
        moves += moved
        loads += rows
        gain += _gain(kind, len(here), len(moved), rows)
    return Plan(tuple(moves), tuple(loads), tuple(gain))


def _gain(kind: str, total: int, moved: int, rows: Sequence[Load]) -> list[str]:
    above = [r for r in rows if r.before > r.bound]
    if not above:
        return [f"{kind}: balanced, no compute is above its bound"]
    lines = []
    if moved:
        names = some([f"{r.name} ({r.before}, bound {r.bound})" for r in above], FEW)
        takers = some([f"{r.name} takes {r.after - r.before}" for r in rows if r.after > r.before], FEW)
        lines.append(f"{kind}: {moved} of {total} move, for {names}; {takers}")
    left = [f"{r.name} ({r.after}, bound {r.bound})" for r in rows if r.after > r.bound]
    if left:
        lines.append(
            f"{kind}: still above the bound: {some(left, FEW)}: what it has may not be moved, or nobody has room for it"
        )
    return lines


def bar(service: Service, candidates: Iterable[Candidate], number: int) -> str:
    """Why a compute may not have a service now, in words; "": it may."""
    return _Field(candidates).bar(service, number) or ("" if number in service.footprint else "is not in its footprint")


def explain(
    service: Service, candidates: Iterable[Candidate], services: Iterable[Service] = (), slack: int = 0
) -> list[str]:
    """Why it is where it is, and what each candidate is to it. `services`: the others, which make the bounds."""
    field = _Field(candidates)
    others = [s for s in services if s.kind == service.kind and s.key != service.key]
    choices = elect([service, *others], field.known.values(), slack)
    choice = choices[service.key]
    where = f"is on {field.name(service.current)}" if service.current else "is nowhere"
    lines = [f"{service.kind} {service.object} {where}", *choice.why]
    able = field.able(service, service.current)
    caps = bounds((field.able(s, s.current) for s in (service, *others)), field.places, slack)
    load = Counter(c.compute for c in choices.values())
    mark = {choice.standby: ", stands by", choice.compute: ", goes here", service.current: ", serves it"}
    for place, number in enumerate(rank(service.key, able, field.places), 1):
        full = f"has {load[number]}, bound {caps[number]}"
        lines.append(f"{place}. {field.name(number)}{mark.get(number, '')}: {full}")
    near = [n for n in field.known if n not in able and n in service.footprint | {service.current, service.standby}]
    for number in near:
        bar = field.bar(service, number) or "not in its footprint"
        lines.append(f"-  {field.name(number)}{mark.get(number, '')}: {bar}")
    far = [field.name(n) for n in field.known if n not in able and n not in near]
    return [*lines, f"-  not in its footprint: {some(far, FEW)}"] if far else lines
