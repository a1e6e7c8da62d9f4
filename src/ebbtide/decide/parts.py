"""The parts that computes have in routers' NAT, as facts: given, taken away, and what is left of them when a compute is removed.

Ports of external addresses are leased in ranges. A range belongs to one compute for one term; a later term gets none that overlaps it
before the last connection with a port of it is gone. A range is half of what is free at one stretch: the first compute gets half of all
ports, its standby a quarter, and whoever comes next finds room. RFC 4787, REQ-3: no port is handed out twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set

import msgspec

from ebbtide.compile import ledger
from ebbtide.model.facts import Designation, Edit, Lease
from ebbtide.model.state import NAT, State

#: A range with fewer ports is not worth leasing: connections to one remote end point would soon be refused.
FEWEST_PORTS = 64


def gaps(taken: Iterable[tuple[int, int]], pinned: Collection[int] = ()) -> list[tuple[int, int]]:
    """Ranges (first, last) of ports that nobody has. `taken`: ranges; `pinned`: single ports that a connection still uses."""
    found, at = [], ledger.FIRST_NAT_PORT
    for first, last in sorted([*taken, *((port, port) for port in pinned)]):
        if first > at:
            found.append((at, first - 1))
        at = max(at, last + 1)
    if at <= ledger.LAST_NAT_PORT:
        found.append((at, ledger.LAST_NAT_PORT))
    return found


def lease(
    state: State, router: str, compute: int, given: Iterable[Lease] = (), freed: Set[int] = frozenset()
) -> Lease | None:
    """A range for a compute that is to open connections for a router: the lower half of the widest that is free; None: there is none.

    `given`: leases of the same transaction. `freed`: first ports of leases that go in it.
    """
    held = [x for x in state.leases.get(router, {}).values() if x.first not in freed]
    free = gaps((x.first, x.last) for x in [*held, *given])
    widest = max(free, key=lambda gap: (gap[1] - gap[0], -gap[0]), default=None)
    if widest is None or widest[1] - widest[0] + 1 < FEWEST_PORTS:
        return None
    first, last = widest
    return Lease(router, first, first + (last - first) // 2, compute)


def designate(state: State, router: str, compute: int, standby: int) -> list[Edit]:
    """Make `compute` serve a router's NAT and `standby` (or 0) stand by; each gets a range of ports if it has none."""
    old = state.designations.get((NAT, router))
    new = Designation(NAT, router, compute, standby, old.since if old is not None and old.compute == compute else 0)
    edits = [Edit(old, new)] if old != new else []
    given: list[Lease] = []
    for number in (compute, standby):
        held = state.opening(router, number) if number else None
        if number and held is None:
            made = lease(state, router, number, given)
            if made is not None:
                given.append(msgspec.structs.replace(made, careful=number == standby))
        elif held is not None and number == standby and not held.careful:
            edits.append(Edit(held, msgspec.structs.replace(held, careful=True)))
        # Whoever stood by and serves now stays careful, until the rows of what others have opened are all there (`standbys.py`).
    return edits + [Edit(None, x) for x in given]


def resign(state: State, router: str) -> list[Edit]:
    """Nobody serves a router's NAT any more: its designation, a move and all leases go."""
    move, found = state.moves.get(router), state.designations.get((NAT, router))
    edits = [Edit(x, None) for x in (move, found) if x is not None]
    return edits + [Edit(x, None) for x in state.leases.get(router, {}).values()]


def inherit(state: State, router: str, gone: Set[int], heir: int) -> list[Edit]:
    """The ranges of those that serve no more are the heir's: connections with their ports are, and nobody opens from them."""
    return [
        Edit(x, msgspec.structs.replace(x, compute=heir, opening=False))
        for x in state.leases.get(router, {}).values()
        if x.compute in gone
    ]


def leave(state: State, gone: Set[int]) -> list[Edit]:
    """What becomes of the parts of computes that are removed. Whoever stays keeps their ranges, and opens nothing from them."""
    edits: list[Edit] = []
    # Who served or stood by long ago serves no more, and its range is still its own.
    leased = {r for r, held in state.leases.items() if any(x.compute in gone for x in held.values())}
    for router in sorted(leased | {r for number in gone for r in state.serves.get(number, ())}):
        found, move = state.designations.get((NAT, router)), state.moves.get(router)
        if found is None or found.compute in gone:
            edits += resign(state, router)
            continue
        if move is not None and gone & {move.old, move.new}:
            edits.append(Edit(move, None))
        if found.standby in gone:
            edits.append(Edit(found, msgspec.structs.replace(found, standby=0)))
        edits += inherit(state, router, gone, found.compute)
    return edits + _resigned(state, gone)


def _resigned(state: State, gone: Set[int]) -> list[Edit]:
    """Of all other services: whoever stands by serves at once; where nobody does, it is an election's to find somebody."""
    edits = []
    for key in sorted({key for number in gone for key in state.duties.get(number, ()) if key[0] != NAT}):
        found = state.designations[key]
        standby = found.standby if found.standby not in gone else 0
        compute = found.compute if found.compute not in gone else standby
        left = msgspec.structs.replace(found, compute=compute, standby=standby if standby != compute else 0)
        edits.append(Edit(found, left if compute else None))
    return edits
