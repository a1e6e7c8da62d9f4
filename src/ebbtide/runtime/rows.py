"""The rows of connections at computes: which are there, and what is sent is only what is not.

One keeper for all who write them, a move and a standby alike. What is at a switch is read when its session is a new one, and remembered
while it lasts; it is no State, and goes with the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from ebbtide.compile import ledger
from ebbtide.compile.features import nat
from ebbtide.compile.features.nat import Translation
from ebbtide.compile.flow import Flow
from ebbtide.compile.ledger import T
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Router
from ebbtide.openflow.flows import EncodedFlow, encode_flow
from ebbtide.reconcile.delta import Break, Work
from ebbtide.runtime import exports
from ebbtide.runtime.switch import SwitchLink, SwitchLost

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster

#: Rows put in or taken away at a stretch.
BATCH = 2_000
#: What identifies a row in its table: protocol, and both end points of the packets that it is for.
_Of = tuple[int, int, int, int, int]


class RowsWait(EbbtideError):
    """A compute's rows cannot be written now: its switch is away, or is not compared yet."""


class Reading:
    """One router's rows at one switch, by table."""

    def __init__(self, switch: SwitchLink, out: Iterable[Translation], back: Iterable[Translation]) -> None:
        self.switch = switch
        self.out: dict[_Of, Translation] = {t[:5]: t for t in out}
        self.back: dict[_Of, Translation] = {_reply(t): t for t in back}

    def __contains__(self, known: object) -> bool:
        """Whether there is a row for this connection."""
        return isinstance(known, Translation) and self.out.get(known[:5]) == known


def _reply(t: Translation) -> _Of:
    return t.proto, t.dst, t.dport, t.address, t.port


class Rows:
    """All routers' rows at all computes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[str, int], Reading] = {}
        self._turns: dict[tuple[str, int], asyncio.Lock] = {}
        #: Where something of a router's connections may be: the router, its tag, the compute.
        self._left: set[tuple[str, int, int]] = set()

    async def at(self, router: Router, number: int) -> list[Translation]:
        """The connections for which a compute has a row.

        Raises:
            RowsWait, SwitchLost: it is away.
        """
        return list((await self.reading(router, number)).out.values())

    async def put(self, router: Router, number: int, known: Iterable[Translation], *, replies: bool = True) -> int:
        """A row for each of these connections, and, with `replies`, for what its remote sends first; returns how many were sent."""
        at = await self.reading(router, number)
        wanted = list(known)
        out = [t for t in wanted if at.out.get(t[:5]) != t]
        back = [t for t in wanted if at.back.get(_reply(t)) != t] if replies else []
        for of, table, make, fresh in ((_out, at.out, nat.imported, out), (_reply, at.back, nat.replied, back)):
            for part in _parts(fresh):
                async with self._turn(router, number):
                    self._check(router, number, at)
                    await at.switch.make(Work(flows=_encoded(router, part, make)))
                    table.update((of(t), t) for t in part)
                await asyncio.sleep(0)
        return len(out) + len(back)

    async def take(self, router: Router, number: int, known: Iterable[Translation]) -> None:
        """No rows for these connections any more."""
        at = await self.reading(router, number)
        gone = list(known)
        for of, table, make in ((_out, at.out, nat.imported), (_reply, at.back, nat.replied)):
            for part in _parts([t for t in gone if table.get(of(t)) == t]):
                async with self._turn(router, number):
                    self._check(router, number, at)
                    rows = [Break(row.key, row.cookie) for row in _encoded(router, part, make)]
                    await at.switch.take_away(rows)
                    for t in part:
                        table.pop(of(t), None)
                await asyncio.sleep(0)

    async def clear(self, router: Router, number: int) -> None:
        """Nothing of this router's connections stays in any table of a compute: rows, learnt ones too, and what tells of UDP."""
        async with self._turn(router, number):
            await self._delete(router.id, router.tag, number)

    async def _delete(self, router: str, tag: int, number: int) -> None:
        switch = self.switch(number)
        self._known.pop((router, number), None)
        for table in (T.NAT_EXPORT, T.NAT_NEW, T.NAT_REPLY, T.NAPT_OUT):
            await switch.delete_flows(table, ledger.connections_cookie(tag), ledger.UPPER_COOKIE_MASK)

    async def tell_of(self, router: Router, number: int, flows: Iterable[Flow]) -> None:
        """Put these in the place of what tells of connections that are in use at a compute.

        Raises:
            RowsWait, SwitchLost: it is away.
        """
        async with self._turn(router, number):
            switch = self.switch(number)
            self._left.add((router.id, router.tag, number))
            await switch.delete_flows(T.NAPT_OUT, ledger.connections_cookie(router.tag), ledger.UPPER_COOKIE_MASK)
            await switch.make(Work(flows=[encode_flow(flow) for flow in flows]))

    async def forget_passed(self, router: Router, number: int) -> None:
        """What a compute has learnt of the connections that passed it, in a move that is over, goes."""
        cookie = ledger.connections_cookie(router.tag)
        await self.switch(number).delete_flows(T.NAT_EXPORT, cookie, ledger.UPPER_COOKIE_MASK)

    async def reading(self, router: Router, number: int) -> Reading:
        """What is known of a compute's rows: another one when they were read anew, since its session is a new one or they were cleared.

        Raises:
            RowsWait, SwitchLost: it is away.
        """
        async with self._turn(router, number):
            switch = self.switch(number)
            self._left.add((router.id, router.tag, number))
            known = self._known.get((router.id, number))
            if known is None or known.switch is not switch:
                cookie = ledger.connections_cookie(router.tag)
                out = exports.read_imported(await switch.flows_of(T.NAT_NEW, cookie, ledger.UPPER_COOKIE_MASK))
                back = exports.read_replied(await switch.flows_of(T.NAT_REPLY, cookie, ledger.UPPER_COOKIE_MASK))
                known = self._known[router.id, number] = Reading(switch, out, back)
            return known

    def _turn(self, router: Router, number: int) -> asyncio.Lock:
        """One at a time reads, writes or clears a router's rows at a compute: or one would remember what another has just changed."""
        return self._turns.setdefault((router.id, number), asyncio.Lock())

    def _check(self, router: Router, number: int, at: Reading) -> None:
        if self._known.get((router.id, number)) is not at:
            raise RowsWait(f"the rows of router {router.id} at compute {number} have been cleared meanwhile")

    def switch(self, number: int) -> SwitchLink:
        """The session in which a compute's rows are written.

        Raises:
            RowsWait: it is away.
        """
        member = self._cluster.members.get(number)
        if member is None or member.switch is None or not member.synced:
            raise RowsWait(f"{member.name if member else number} is unreachable")
        return member.switch

    async def tidy(self, is_served: Callable[[str, int, int], bool]) -> None:
        """Take away what is left at computes that have no part in a router any more, or whose router is gone. One that is away is rid of it
        when it is compared again (`Member`).

        `is_served`: whether a router with this tag is served, or will be, by a compute; asked again when it is its turn.
        """
        for router, tag, number in [left for left in self._left if not is_served(*left)]:
            async with self._turns.setdefault((router, number), asyncio.Lock()):
                if is_served(router, tag, number):
                    continue
                self._left.discard((router, tag, number))
                try:
                    await self._delete(router, tag, number)
                except (RowsWait, SwitchLost):
                    self._known.pop((router, number), None)
        there = {(router, number) for router, _, number in self._left}
        for key in [key for key, turn in self._turns.items() if key not in there and not turn.locked()]:
            del self._turns[key]


def _out(t: Translation) -> _Of:
    return t[:5]


def _parts(known: list[Translation]) -> Iterable[list[Translation]]:
    rest = iter(known)
    while part := list(islice(rest, BATCH)):
        yield part


def _encoded(
    router: Router, known: list[Translation], make: Callable[[Router, Translation], Flow]
) -> list[EncodedFlow]:
    return [encode_flow(make(router, t)) for t in known]
