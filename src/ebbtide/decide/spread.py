"""Who goes where: an order by hash, a bound per compute, and the fewest shifts that keep it.

Numbers only: which compute may do what, and words for people, are in `election.py`. Nothing here is a float, so two machines never
differ in the last bit of a logarithm, and nothing depends on the order in which anything is given.

1. `rank`: weighted rendezvous. Each compute draws u in (0, 1] from a hash of the service's key and its own name; the smallest -ln(u)/weight
   is first. A compute that vanishes changes nothing in the order of the others.
2. `bounds`: the fair share of each compute, rounded up. Services are divided among those that may serve them so that they are filled
   to one level of (load - head start) / weight, as far as the services' choice allows. As services can be divided like that, they can be
   placed whole with at most the shares rounded up (integrality of flows): where all are free to be placed, the bounds can be kept.
3. `relieve`: from where each is, the fewest shifts until no compute is above its bound, or as near to that as can be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from hashlib import blake2s
from heapq import heapify, heappop, heappush
from itertools import pairwise

import msgspec

Key = tuple[str, str]

ONE = 1 << 64  # a service, when it is divided
SWEEPS = 16  # at most, to level what services with different choices pour; two or three do


class Place(msgspec.Struct, frozen=True):
    """A compute that may take services. `start`: how many services it takes before the others begin to count."""

    name: str
    weight: int = 1
    start: int = 0


class Piece(msgspec.Struct, frozen=True):
    """A service: the computes that may have it, and their order of preference."""

    key: Key
    able: frozenset[int]
    order: tuple[int, ...] = ()


_DIGITS = 40


def _logarithms() -> list[int]:
    """log2(1 + i/256) for i in 0..256, in units of 2**-_DIGITS, a binary digit at a time: squaring doubles the logarithm."""
    found = []
    for i in range(256):
        x, digits = (256 + i) << 40, 0
        for _ in range(_DIGITS):
            x = x * x >> 48
            digits = digits << 1 | x >> 49
            x >>= x >> 49
        found.append(digits)
    return [*found, 1 << _DIGITS]


_LOG = _logarithms()


def distance(draw: int) -> int:
    """-log2(draw / 2**64) for a draw in 1..2**64, in units of 2**-_DIGITS. Straight between the table's points: off by 3e-6 at most."""
    whole = draw.bit_length() - 1
    rest = (draw << (64 - whole)) - ONE
    low = _LOG[rest >> 56]
    step = (_LOG[(rest >> 56) + 1] - low) * (rest & (1 << 56) - 1) >> 56
    return ((64 - whole) << _DIGITS) - low - step


def rank(key: Key, able: Iterable[int], places: Mapping[int, Place]) -> tuple[int, ...]:
    """The computes in the order in which the service would have them."""
    seed = blake2s("\0".join((*key, "")).encode(), digest_size=8)
    drawn = []
    for number in able:
        place = places[number]
        own = seed.copy()
        own.update(place.name.encode())
        draw = int.from_bytes(own.digest(), "big") + 1
        drawn.append(((distance(draw) << 24) // place.weight, -draw, place.name, number))
    drawn.sort()
    return tuple(number for *_, number in drawn)


def bounds(
    able: Iterable[frozenset[int]], places: Mapping[int, Place], slack: int = 0, held: Mapping[int, int] | None = None
) -> dict[int, int]:
    """The most services that each compute may have. `slack`: per cent above the fair share.

    `held`: what stays where it is and is counted in the bound, but not to be divided; it weighs like a head start taken away.
    Services with the same choice are poured as one, onto what the others have poured, again and again until the levels hardly change;
    whenever that stops, everything has been divided, so the bounds can be kept.
    """
    held = held or {}
    groups = sorted(Counter(able).items(), key=lambda item: sorted(item[0]))
    empty = {n: (p.start - held.get(n, 0)) * ONE for n, p in places.items()}
    ahead = dict(empty)
    poured: list[dict[int, int]] = [{} for _ in groups]
    for _ in range(SWEEPS):
        before = dict(ahead)
        for i, (group, count) in enumerate(groups):
            for number, share in poured[i].items():
                ahead[number] += share
            poured[i] = _pour(group, count, ahead, places)
            for number, share in poured[i].items():
                ahead[number] -= share
        if len(groups) < 2 or all(abs(ahead[n] - level) < ONE >> 10 for n, level in before.items()):
            break
    shares = {n: empty[n] - ahead[n] for n in places}
    if len(groups) > 1:
        shares.update(_exact(poured, shares, empty, places))
    # Shares are rounded down by less than 2**-40 in all, so that one of exactly 5 is never taken for a bit more, which would be 6.
    return {n: held.get(n, 0) - (-share * (100 + slack) // (100 * ONE)) for n, share in shares.items()}


def _exact(
    poured: Sequence[Mapping[int, int]],
    shares: Mapping[int, int],
    empty: Mapping[int, int],
    places: Mapping[int, Place],
) -> dict[int, int]:
    """What pouring comes close to: computes that services have in common are one vessel, with one level and a whole number of services.

    Where that is not close to what was poured, the vessel was not yet to be seen, and what was poured holds.
    """
    vessels: list[set[int]] = []
    for pour in poured:
        vessel = {n for n, share in pour.items() if share > ONE >> 6}
        joined = [v for v in vessels if not v.isdisjoint(vessel)]
        vessels = [v for v in vessels if v.isdisjoint(vessel)]
        vessels.append(vessel.union(*joined))
    found: dict[int, int] = {}
    for vessel in vessels:
        count = (sum(shares[n] for n in vessel) + ONE // 2) // ONE
        level = _pour(frozenset(vessel), count, empty, places)
        if all(abs(level.get(n, 0) - shares[n]) < ONE >> 3 for n in vessel):
            found.update((n, level.get(n, 0)) for n in vessel)
    return found


def _pour(group: frozenset[int], count: int, ahead: Mapping[int, int], places: Mapping[int, Place]) -> dict[int, int]:
    """`count` services, in units of 1/ONE, over a group: all to one level, and none to those that are above it already."""
    active = list(group)
    while active:
        weight = sum(places[n].weight for n in active)
        level = count * ONE - sum(ahead[n] for n in active)
        shares = {n: places[n].weight * level // weight + ahead[n] for n in active}
        active = [n for n, share in shares.items() if share >= 0]
        if len(active) == len(shares):
            return shares
    return {}


def spread(
    loose: Sequence[Piece],
    settled: Sequence[Piece],
    at: Mapping[Key, int],
    places: Mapping[int, Place],
    slack: int = 0,
) -> dict[Key, int]:
    """Where each loose piece goes: the first of its order, or, where that is full, the fewest of them elsewhere.

    `at` tells where the settled ones are, and stay. Two bounds, one after the other: what is loose, divided in view of what is settled,
    which always fits; then the fair share of everything, as far as it can be had.
    """
    found = {p.key: p.order[0] for p in loose}
    held = Counter(at[p.key] for p in settled)
    relieve(loose, found, held, bounds((p.able for p in loose), places, slack, held))
    if loose and settled:
        relieve(loose, found, held, bounds((p.able for p in (*loose, *settled)), places, slack))
    return found


def relieve(
    pieces: Sequence[Piece], at: MutableMapping[Key, int], held: Mapping[int, int], caps: Mapping[int, int]
) -> None:
    """Shift pieces (in `at`) until no compute has more than its cap, `held` included, with as few of them shifted as that takes.

    It is a flow of least cost: a piece costs 1 away from where it was. Each step takes one off a compute that has too many, by the cheapest
    way to one that has room. No way costs less than 1, so a single shift is always a cheapest one; where there is none, a chain is
    looked for, in which others make room.
    """
    by_key = {p.key: p for p in sorted(pieces, key=lambda p: p.key)}
    load = Counter(held)
    load.update(at[key] for key in by_key)
    home = {key: at[key] for key in by_key}
    for number in sorted(n for n in load if load[n] > caps.get(n, 0)):
        _shift(number, by_key, at, load, caps)
    while over := sorted(n for n in load if load[n] > caps.get(n, 0)):
        chain = _chain(over, by_key, at, home, load, caps)
        if not chain:
            return
        for key, number in chain:
            load[at[key]] -= 1
            load[number] += 1
            at[key] = number


def _shift(
    number: int,
    pieces: Mapping[Key, Piece],
    at: MutableMapping[Key, int],
    load: Counter[int],
    caps: Mapping[int, int],
) -> None:
    """Single shifts off one compute, those first that get what they prefer. Room only shrinks, so a place in an order is passed once."""
    waiting = [(0, key) for key in pieces if at[key] == number]
    heapify(waiting)
    while waiting and load[number] > caps.get(number, 0):
        position, key = heappop(waiting)
        order = pieces[key].order
        for further in range(position, len(order)):
            target = order[further]
            if target == number or load[target] >= caps[target]:
                continue
            if further > position:
                heappush(waiting, (further, key))
            else:
                at[key] = target
                load[number] -= 1
                load[target] += 1
            break


def _chain(
    over: Sequence[int],
    pieces: Mapping[Key, Piece],
    at: Mapping[Key, int],
    home: Mapping[Key, int],
    load: Mapping[int, int],
    caps: Mapping[int, int],
) -> list[tuple[Key, int]]:
    """The cheapest chain of shifts from a compute with too many to one with room (Bellman and Ford; going home costs -1)."""
    edges: dict[tuple[int, int], tuple[int, int, Key]] = {}
    for key, piece in pieces.items():
        here = at[key]
        for position, there in enumerate(piece.order):
            if there != here:
                offer = ((there != home[key]) - (here != home[key]), position, key)
                edges[here, there] = min(edges.get((here, there), offer), offer)
    price = dict.fromkeys(over, 0)
    came: dict[int, int] = {}
    ways = sorted(edges)
    for _ in range(len(caps) + len(over) + 1):
        changed = False
        for here, there in ways:
            if here in price and price[here] + edges[here, there][0] < price.get(there, len(ways) + 1):
                price[there] = price[here] + edges[here, there][0]
                came[there] = here
                changed = True
        if not changed:
            break
    else:
        raise AssertionError(f"shifts that gain by going round: {sorted(came.items())}")
    room = [n for n in price if load.get(n, 0) < caps.get(n, 0)]
    if not room:
        return []
    way = [min(room, key=lambda n: (price[n], n))]
    while way[-1] in came:
        way.append(came[way[-1]])
    way.reverse()
    return [(edges[here, there][2], there) for here, there in pairwise(way)]
