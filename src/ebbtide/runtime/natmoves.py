"""The driver of NAT moves: takes each from phase to phase when what it asks for is there to be seen on the switches.

One task a move, a few at a time. A task reads the stored phase, waits for its condition and stores the next one; what it does besides (rows
of connections, packet-outs) may be done twice. Where something does not follow, the move stands where it is, serves, says why, and lets
others have its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import Translation
from ebbtide.compile.fragment import Key
from ebbtide.compile.ledger import Feature, Kind, T
from ebbtide.decide import natmove
from ebbtide.errors import EbbtideError
from ebbtide.model.addresses import ipv4
from ebbtide.model.facts import Edit, Membership, Move, MovePhase, Router
from ebbtide.model.state import NAT, State
from ebbtide.runtime import exports, sessions
from ebbtide.runtime.connections import newest
from ebbtide.runtime.switch import SwitchLink
from ebbtide.runtime.turns import Turn, Turns

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("natmove")
P = MovePhase
#: Moves that are driven at the same time; those that wait for somebody else are not counted.
AT_ONCE = 8
#: Seconds that a wait may take beyond what it takes if everybody follows; after that, another move has the turn.
_LATE = 1.0
_QUEUED = "it waits for its turn"
#: Seconds between two looks while something is waited for; and between two reads of a counter that is to be at rest, beside the lag.
_LOOK, _REST = 0.05, 0.3
#: Seconds after which a network outside that does not follow is told again where the address is.
_TELL_AGAIN = 3.0
#: Seconds a round trip may take, between the last packet that left by the old compute and its answer.
_ROUND_TRIP = 0.5
#: Seconds between two questions for the next hop by which it is seen where the network outside has learnt an address.
_ASK = 0.2
#: Seconds between two counts of what is unknown, of up to AT_ONCE moves; of more, each is counted less often, at least every so many.
_COUNT, _COUNT_AT_LEAST = 0.5, 5.0
#: The tables of the old compute that must be at rest before a phase is over, and what it means if they are not.
_WATCHED = {
    P.FREEZE: (T.NAT_OPEN,),
    P.SILENCE: (T.NAT_OPEN,),
    P.ADDRESS: (T.PRE_DNAT,),
    P.QUIET: (T.TUNNEL_TERMINATION, T.PRE_DNAT),
}
_STILL = {
    P.FREEZE: "still opens connections",
    P.SILENCE: "still opens connections",
    P.ADDRESS: "still gets what comes from outside: the network there has not moved, and is told again",
    P.QUIET: "is still sent to",
}


def expected_seconds(moves: int, lag: float) -> float:
    """What so many moves that begin together take, if everybody follows and nothing is unknown: what each waits for cached flows, by
    the rounds in which they are driven. Rows of connections come on top."""
    settled = sum(bool(need.settled) for need in natmove.NEEDS.values())
    # The last phase reads twice, a rest apart; it settles by that.
    one = settled * lag + lag / 2 + _REST + _ROUND_TRIP
    return one * -(-moves // AT_ONCE)


class _Lost(EbbtideError):
    """Somebody who is needed has gone away; the phase is taken again when they are back."""


class _Overtaken(_Lost):
    """The phase is not asked for any more."""


class NatMoves:
    """All moves, as far as this controller leads."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: dict[str, asyncio.Task[None]] = {}
        self._turns = Turns(AT_ONCE)
        self._queue: set[str] = set()
        self._cleaning: set[tuple[str, int]] = set()

    async def run(self) -> None:
        """See to it that every stored move goes on; until cancelled."""
        try:
            while True:
                await self._cluster.changed.until(self._something_to_do, float("inf"))
                # In the order in which they were decided, and by name: whoever watches many finds his way.
                for router, _ in sorted(self._cluster.state.moves.items(), key=lambda item: (item[1].began, item[0])):
                    if router not in self._running:
                        task = asyncio.create_task(self._drive(router), name=f"natmove-{router}")
                        self._running[router] = task
                        task.add_done_callback(partial(self._done, router))
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, router: str, task: asyncio.Task[None]) -> None:
        if self._running.get(router) is task:
            del self._running[router]

    def _something_to_do(self) -> bool:
        return self._cluster.store.leading.is_set() and any(r not in self._running for r in self._cluster.state.moves)

    def _move(self, router: str) -> Move | None:
        return self._cluster.state.moves.get(router) if self._cluster.store.leading.is_set() else None

    async def _drive(self, router: str) -> None:
        began, last, turn = self._cluster.now(), None, self._turns.turn(partial(self._in_queue, router))
        try:
            while self._move(router) is not None:
                await turn.take()
                if (move := self._move(router)) is None:
                    break
                last = move
                try:
                    await self._phase(move, turn)
                except _Overtaken:
                    continue
                except EbbtideError as error:
                    if not isinstance(error, _Lost):
                        log.info("move_waits", router=router, phase=str(move.phase), reason=str(error))
                    await self._say(move, str(error))
                    turn.give_back()
                    await asyncio.sleep(0.2)
                    # Whoever looks is to see the error, not that there is a queue.
                    await turn.take(told=False)
                except Exception:
                    log.exception("move_fault", router=router, phase=str(move.phase))
                    turn.give_back()
                    await asyncio.sleep(1.0)
        finally:
            turn.give_back()
        log.info("move_over", router=router, seconds=round(self._cluster.now() - began, 2))
        if last is not None and (last.turned or last.phase is not P.QUIET):
            await self._forget_passed(last)

    async def _in_queue(self, router: str, waits: bool) -> None:
        """A move has to wait for its turn, or need not any more. Noted for all that wait, since many come at once."""
        if waits:
            self._queue.add(router)
        else:
            self._queue.discard(router)

        def decide(state: State) -> tuple[list[Edit], None]:
            edits: list[Edit] = []
            for name in sorted({router, *self._queue}):
                move, reason = state.moves.get(name), _QUEUED if name in self._queue else ""
                if move is not None and move.reason != reason and (reason or move.reason == _QUEUED):
                    edits.append(Edit(move, msgspec.structs.replace(move, reason=reason)))
            return edits, None

        await self._note(decide)

    async def _say(self, move: Move, reason: str) -> None:
        """Note what a move waits for, where an operator sees it."""

        def decide(state: State) -> tuple[list[Edit], None]:
            now = state.moves.get(move.router)
            if now is None or now.phase != move.phase or now.since != move.since or now.reason == reason:
                return [], None
            return [Edit(now, msgspec.structs.replace(now, reason=reason))], None

        await self._note(decide)

    async def _note(self, decide: Callable[[State], tuple[list[Edit], None]]) -> None:
        try:
            await self._cluster.store.commit(decide)
        except EbbtideError as error:
            log.info("not_noted", reason=str(error))

    # --- phases ---

    async def _phase(self, move: Move, turn: Turn) -> None:
        """What this phase asks for, and then the next one is stored."""
        async with turn.given_back(after=_LATE):
            await self._until(move, partial(self._behind, settled=False))
        watched = _WATCHED.get(move.phase, ())
        if move.phase is (P.FREEZE if move.turned else P.SILENCE):
            # Called back, the new one leaves packets to the frozen one to open until it has applied "silence".
            watched = ()
        # The first read is taken now: if nothing has come by the time that all have settled, nothing is on its way.
        before = await self._counts(move, watched)
        async with turn.given_back(after=self._cluster.settings.lag + _LATE):
            await self._until(move, partial(self._behind, settled=True))
        match move.phase:
            case P.PREPARE:
                async with turn.given_back(after=_LATE):
                    await self._prepared(move)
            case P.ADDRESS:
                async with turn.given_back(after=_TELL_AGAIN):
                    await self._followed(move)
            case P.IMPORT:
                await self._import(move)
            case P.FLIP:
                await self._import(move, replies=True)
            case P.REPLY:
                async with turn.given_back(after=_LATE):
                    await self._known_enough(move)
            case P.UNCOUPLE_OUT:
                await asyncio.sleep(_ROUND_TRIP)
            case _:
                pass
        if watched:
            async with turn.given_back(after=_TELL_AGAIN):
                await self._at_rest(move, watched, before)
        if move.phase is P.QUIET:
            await self._arrive(move)
        else:
            await self._next(move)

    async def _next(self, move: Move) -> None:
        def decide(state: State) -> tuple[list[Edit], Move | None]:
            now = state.moves.get(move.router)
            if now is None or (now.phase, now.since) != (move.phase, move.since):
                return [], None  # called back, or taken on by another
            new = natmove.following(now)
            return ([Edit(now, new)] if new is not None else []), new

        new = await self._cluster.store.commit(decide)
        if new is not None:
            log.info("move_phase", router=move.router, phase=str(new.phase), revision=self._cluster.state.revision)

    def _check(self, move: Move) -> None:
        """Whether the phase is still asked for.

        Raises:
            _Overtaken: it is not.
        """
        now = self._move(move.router)
        if now is None or (now.phase, now.since) != (move.phase, move.since):
            raise _Overtaken("the move has been called back, or taken on")

    async def _until(self, move: Move, reason: Callable[[Move], str]) -> None:
        """Wait until `reason(move)` is "", and say what it is while it lasts."""
        said, since = "", self._cluster.now()
        while why := reason(move):
            self._check(move)
            if why != said and self._cluster.now() - since > 1.0:
                await self._say(move, why)
                said = why
            await self._cluster.wait_for(lambda: not reason(move), _LOOK)

    def _behind(self, move: Move, *, settled: bool) -> str:
        """Who has not done what the phase asks for, and why, in words; "" if all have."""
        need = natmove.NEEDS[move.phase]
        for role in (*need.applied, *need.settled):
            for number in self._who(move, role):
                why = self._lacks(move, number, settled=settled and role in need.settled)
                if why:
                    return why
        return ""

    def _who(self, move: Move, role: str) -> Iterable[int]:
        if role == "all":
            return sorted(self._cluster.state.reach(move.router))
        return (move.old if role == "old" else move.new,)

    def _lacks(self, move: Move, number: int, *, settled: bool) -> str:
        compute, member = self._cluster.state.computes.get(number), self._cluster.members.get(number)
        if compute is None or compute.membership is not Membership.MEMBER:
            return f"compute {number} is no member any more"
        if member is None or not member.connected:
            return f"{compute.name} is unreachable"
        if member.held_back:
            return f"{compute.name} is held by the brake: {member.held_back}"
        for room in ("gate", "exit", "router"):
            refused = member.rejected.get(Key(room, move.router, number)) or member.rejected.get(Key(room, move.router))
            if refused:
                return f"{compute.name} refuses its flows: {refused}"
        if member.applied() < move.since:
            return f"{compute.name} has not applied revision {move.since}"
        if settled and not member.settled(move.since):
            return f"{compute.name} has not settled on revision {move.since}"
        return ""

    def _member(self, number: int) -> Member:
        member = self._cluster.members.get(number)
        if member is None or not member.connected:
            raise _Lost(f"{member.name if member else number} is unreachable")
        return member

    def _switch(self, number: int) -> SwitchLink:
        switch = self._member(number).switch
        if switch is None:
            raise _Lost(f"{self._member(number).name} is unreachable")
        return switch

    def _router(self, move: Move) -> Router:
        return self._cluster.state.routers[move.router]

    # --- before anything is moved ---

    async def _prepared(self, move: Move) -> None:
        """The new compute's tunnels carry frames, both ways and at full size, and its wire leads to the next hop."""
        cluster, began = self._cluster, self._cluster.now()
        found = cluster.state.designations.get((NAT, move.router))
        if not move.turned:
            # Left by a move that was called back while a controller ended.
            await cluster.rows.forget_passed(self._router(move), move.old)
        if not move.turned and (found is None or found.standby != move.new):
            # Of an older time: nobody has sent here since.
            await self._switch(move.new).forget_zone(ledger.router_zone(self._router(move).tag))
        external = cluster.state.externals[self._router(move).external]
        while True:
            # Where there can be no tunnel (`paths.apart`), there is none to be waited for.
            others = [n for n in cluster.state.reach(move.router) if cluster.state.needs_tunnel(move.new, n)]
            closed = [n for n in others if not cluster.probes.want(move.new, n)]
            heard = not external.gateway or cluster.outside.answered.get((external.id, move.new), -1.0) >= began
            if not closed and heard:
                return
            if not heard:
                cluster.outside.probe(external.id, move.new)
            if cluster.now() - began > 2.0:
                names = ", ".join(cluster.state.computes[n].name for n in closed[:3])
                name = cluster.state.computes[move.new].name
                why = f"tunnels of {name} to {names} do not carry frames" if closed else ""
                why = why or f"{name} does not reach the next hop {external.gateway} of {external.id} by its own wire"
                await self._say(move, why)
            self._check(move)
            await asyncio.sleep(_LOOK if cluster.now() - began < 2.0 else 10 * _LOOK)

    async def _followed(self, move: Move) -> None:
        """What the next hop answers to the router's MAC arrives at the new compute: the network outside has learnt the new place.

        That nothing arrives at the old one proves less: it may be that nobody speaks. Without a next hop there is nobody to be asked.
        """
        cluster, router = self._cluster, self._router(move)
        external, outside = cluster.state.externals[router.external], cluster.outside
        if not external.gateway:
            return
        names = {n: c.name for n, c in cluster.state.computes.items()}
        began = told = cluster.now()
        while True:
            at, when = outside.delivered.get((external.id, router.mac), (0, -1.0))
            if at == move.new and when >= began:
                return
            outside.ask_as(external.id, move.new, router.mac)
            if cluster.now() - told > _TELL_AGAIN:
                told = cluster.now()
                outside.announce_again(external.id, router.addresses)
                if at and when >= began:
                    gets = f"what {external.gateway} answers {names.get(at, at)} gets, not {names[move.new]}"
                    why = f"the network outside has not moved: {gets}"
                else:
                    why = f"the next hop {external.gateway} of {external.id} does not answer {names[move.new]} for the router's MAC"
                await self._say(move, f"{why}; it is told again")
            self._check(move)
            await asyncio.sleep(_ASK)

    # --- counters ---

    async def _counts(self, move: Move, tables: Iterable[T]) -> int:
        """Packets that this router's flows of these tables have seen at the old compute."""
        cookie = ledger.cookie(Kind.ROUTER, Feature.NAT, self._router(move).tag)
        total = 0
        for table in tables:
            total += sum(
                flow.n_packets
                for flow in await self._switch(move.old).flows_of(table, cookie, ledger.UPPER_COOKIE_MASK)
            )
        return total

    async def _at_rest(self, move: Move, tables: Iterable[T], before: int) -> None:
        """Two reads of the old compute's counters that are a lag apart are equal: nothing is on its way there any more."""
        router, told = self._router(move), self._cluster.now()
        pause = self._cluster.settings.lag / 2 + _REST
        if not natmove.NEEDS[move.phase].settled:
            await asyncio.sleep(pause)
        while (now := await self._counts(move, tables)) != before:
            if self._cluster.now() - told > _TELL_AGAIN:
                told = self._cluster.now()
                what = _STILL[move.phase]
                await self._say(move, f"{self._member(move.old).name} {what}: {now - before} packets in {pause:.1f} s")
                if move.phase is P.ADDRESS:
                    self._cluster.outside.announce_again(router.external, router.addresses)
            self._check(move)
            before = now
            await asyncio.sleep(pause)

    # --- connections ---

    async def _translations(self, move: Move) -> list[Translation]:
        """Every connection of the old compute that is known: the record, rows that were never used, and what has just passed it."""
        tag = self._router(move).tag
        volatile = ledger.connections_cookie(tag)
        switch = self._switch(move.old)
        told = [e.translation for e in self._cluster.connections.of(tag) if e.compute != move.new]
        rows = await self._cluster.rows.at(self._router(move), move.old)
        passed = exports.read_exported(await switch.flows_of(T.NAT_EXPORT, volatile, ledger.UPPER_COOKIE_MASK))
        own = {ipv4(a) for a in self._router(move).addresses}
        return newest(t for t in (*rows, *told, *passed) if t.address in own and t.port)

    async def _import(self, move: Move, *, replies: bool = False) -> None:
        """A row for each connection at the new compute; with `replies`, also for what its remote may send first."""
        await self._cluster.rows.put(self._router(move), move.new, await self._translations(move), replies=replies)

    async def unknown(self, move: Move) -> int:
        """Connections that the old compute has opened and of which nothing is known: opened less recorded, or less what has passed."""
        router, switch = self._router(move), self._switch(move.old)
        seen = await sessions.opened(switch, router)
        if seen.recording:
            known = sessions.received(self._cluster, router, move.old, seen)
        else:
            known = len(await self._cluster.rows.at(router, move.new))
        return max(0, seen.known_of - known)

    async def _known_enough(self, move: Move) -> None:
        """Go on when nothing is unknown; else when the deadline is over. Meanwhile both are coupled and nobody loses anything.

        The deadline may be changed while it is waited for (`natmove.set_deadline`).
        """
        patience = int(time.time() + self._cluster.settings.nat_patience)
        # What speaks is exported as long as export is on; here it is off, so only a connection's end helps, and the record.
        while unknown := await self.unknown(move):
            self._check(move)
            deadline = await self._note_unknown(move, unknown, patience)
            if time.time() >= deadline:
                log.warning("connections_cut", router=move.router, unknown=unknown, old=move.old)
                return
            pause = min(
                _COUNT * max(1.0, len(self._running) / AT_ONCE), _COUNT_AT_LEAST, max(_LOOK, deadline - time.time())
            )
            await self._cluster.wait_for(partial(self._is_redated, move.router, deadline), pause)

    def _is_redated(self, router: str, deadline: int) -> bool:
        move = self._move(router)
        return move is None or move.deadline != deadline

    async def _note_unknown(self, move: Move, unknown: int, patience: int) -> int:
        """Show what is waited for; returns until when, in seconds since the epoch: `patience`, if the operator has not said."""

        def decide(state: State) -> tuple[list[Edit], int]:
            now = state.moves.get(move.router)
            if now is None or (now.phase, now.since) != (move.phase, move.since):
                return [], patience  # called back, or taken on by another
            deadline = now.deadline or patience
            reason = f"up to {unknown} connections are in no record; waited for until the deadline"
            new = msgspec.structs.replace(now, unknown=unknown, deadline=deadline, reason=reason)
            return ([] if new == now else [Edit(now, new)]), deadline

        return await self._cluster.store.commit(decide)

    # --- the end ---

    async def _arrive(self, move: Move) -> None:
        tag = self._router(move).tag
        rows = await self._cluster.rows.at(self._router(move), move.new)
        used = {e.translation.port for e in self._cluster.connections.of(tag)} | {t.port for t in rows}
        unknown = await self.unknown(move)

        def decide(state: State) -> tuple[list[Edit], bool]:
            now = state.moves.get(move.router)
            if now is None or (now.phase, now.since) != (move.phase, move.since):
                return [], False
            return natmove.arrive(state, now, None if unknown else used), True

        if await self._cluster.store.commit(decide):
            log.info("move_arrived", router=move.router, compute=self._member(move.new).name)
            await self._clean(move, tag)

    async def _clean(self, move: Move, tag: int) -> None:
        """What is no State goes from the old compute: learnt and imported rows, and its connections, if it stands by again too: in hours a
        tuple is used again, elsewhere and with another port, and what it keeps of the old one would break that when it takes over.

        One that is away meanwhile is rid of the rows when it is compared again (`Member`), and of the connections before it is used.
        """
        revision, cluster = self._cluster.state.revision, self._cluster
        member = cluster.members.get(move.old)
        if member is None or not await cluster.wait_for(lambda: member.rid_through() >= revision, 5.0):
            return
        if not self._is_idle(move):
            return
        await cluster.rows.clear(cluster.state.routers[move.router], move.old)
        if self._is_idle(move):
            await self._switch(move.old).forget_zone(ledger.router_zone(tag))

    def _is_idle(self, move: Move) -> bool:
        """Whether the old compute of a move that is over serves nobody of this router."""
        state, found = self._cluster.state, self._cluster.state.designations.get((NAT, move.router))
        serves = move.router in state.moves or (found is not None and found.compute == move.old)
        return move.router in state.routers and not serves

    async def _forget_passed(self, move: Move) -> None:
        """What both ends have learnt in a move that was called back: in the next one it would tell of an older time.

        Where that is not possible now, the next move begins with it.
        """
        cluster, revision = self._cluster, self._cluster.state.revision
        ends = [cluster.members[n] for n in (move.old, move.new) if n in cluster.members]
        await cluster.wait_for(lambda: all(m.rid_through() >= revision for m in ends), 5.0)
        # Older flows of their caches go on learning for that long.
        await asyncio.sleep(cluster.settings.lag)
        router = cluster.state.routers.get(move.router)
        if router is None or not cluster.store.leading.is_set() or move.router in cluster.state.moves:
            return
        for member in ends:
            try:
                await cluster.rows.forget_passed(router, member.number)
            except EbbtideError as error:
                log.info("passed_stays", router=move.router, compute=member.name, reason=str(error))
