"""The driver of drains: tells the machine of `decide/drain.py` what is seen, stores what it decides, and has its ends driven.

A drain is a stored operation with items, so whoever leads goes on with it. What is known here alone is whether movers are heard of: a mover
that has not been since this leadership began gets its time anew.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import cache

import structlog

from ebbtide.decide import dead, designation, drain, foresight, marking, scalein
from ebbtide.decide.designation import Going
from ebbtide.decide.drain import Claim, Goal, Problem, Seen, Wish
from ebbtide.decide.scalein import Decision
from ebbtide.errors import BadInput, EbbtideError, NotReady, Refused, some
from ebbtide.model.facts import Edit, Item, Operation
from ebbtide.model.state import State
from ebbtide.runtime.cluster import Cluster
from ebbtide.runtime.endings import Endings, old_operations
from ebbtide.runtime.sights import sights
from ebbtide.runtime.vouches import Said, Vouches

log = structlog.get_logger("drains")
#: Seconds between two steps: what comes together is entered together, so that the store is not written for each VM.
_PACE = 0.2
#: Transactions in a row, before others have their turn.
_TURNS = 20
#: Seconds for which a mover keeps a VM without a word.
LEASE = 30.0
#: Seconds for which it is known that there were movers of a kind, of others than those that there are anyway.
REMEMBERED = 86_400.0


class Drains:
    """All drains that go on."""

    def __init__(
        self, cluster: Cluster, endings: Endings, new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    ) -> None:
        self._cluster = cluster
        self._endings = endings
        self._new_id = new_id
        self._heard: dict[tuple[str, str, str], float] = {}
        self._asked: dict[str, float] = {}
        self.vouches = Vouches(cluster.now)

    # --- the loop ---

    async def run(self) -> None:
        """Go on with them while this controller leads; until cancelled."""
        while True:
            await self._cluster.changed.until(self._is_due, float("inf"))
            try:
                await self._step()
            except EbbtideError as error:
                log.warning("drain_waits", reason=str(error))
            except Exception:
                # Whatever it was: what was accepted is never left without somebody who goes on with it.
                log.exception("drain_fault")
                await asyncio.sleep(1.0)
            await asyncio.sleep(_PACE)

    def _is_due(self) -> bool:
        return self._cluster.leads() and bool(going(self._cluster.state))

    async def _step(self) -> None:
        faulty: set[str] = set()

        def decide(state: State) -> tuple[list[Edit], list[Edit]]:
            seen = self._seen(state)
            for operation in going(state):
                try:
                    edits = drain.step(state, operation, seen) if operation.id not in faulty else []
                except Exception:
                    # One that cannot be gone on with keeps no other from it.
                    log.exception("drain_fault", operation=operation.id)
                    faulty.add(operation.id)
                    continue
                if edits:
                    return edits, edits  # one a transaction: the next is decided on what this one has changed
            return [], []

        for _ in range(_TURNS):
            edits = await self._cluster.store.commit(decide)
            if not edits:
                break
            self._said(edits)
        self._heard = {k: at for k, at in self._heard.items() if k[0] in self._cluster.state.operations}
        self.drive()

    def drive(self) -> None:
        """See to it that the ends which drains have begun go on."""
        for operation in self._cluster.state.operations.values():
            if operation.parent and operation.verb == drain.END and operation.open:
                self._endings.drive(operation.id)

    def _said(self, edits: Iterable[Edit]) -> None:
        for old, new in edits:
            if isinstance(new, Operation) and isinstance(old, Operation) and old.state != new.state:
                log.info("drain", operation=new.id, state=new.state, found=new.reason)
            elif isinstance(new, Item) and (not isinstance(old, Item) or old.state is not new.state):
                log.info(
                    "drain_item",
                    operation=new.operation,
                    kind=new.kind,
                    object=new.object,
                    compute=self._endings.name(new.compute),
                    state=str(new.state),
                    reason=new.reason,
                )

    # --- what is seen ---

    def _seen(self, state: State) -> Seen:
        cluster = self._cluster
        standings = cluster.designations.standings()
        return Seen(
            now=int(time.time() * 1000),
            standings=standings,
            hold=self._hold(state),
            led=cluster.now() - cluster.designations.began,
            reachable=cluster.owing_nothing(),
            moving=cluster.places.moving(),
            sight=lambda number: sights(cluster, state, [number])[number],
            settled=cache(self._settled),
            filled=self._filled,
            heard=self.heard,
            asked=self.asked,
            serves=lambda number: designation.holds(state, number, standings),
            new_id=self._new_id,
            vouched=lambda operation, number: self.vouches.of(operation, self._endings.name(number), number),
        )

    def _hold(self, state: State) -> str:
        """Why nobody may be removed or given up now, in words."""
        cluster = self._cluster
        if cluster.store.hold:
            return f"the brake: {cluster.store.hold}"
        cut_off = cluster.designations.cut_off_now()
        missing = cluster.not_yet_heard(c.number for c in state.members())
        if cut_off or not missing:
            return cut_off
        return f"waits for {some(missing, 3)} to connect"

    def _settled(self, revision: int) -> bool:
        """Whether all who can be programmed have a revision, and their cached flows have followed."""
        members = (self._cluster.members.get(c.number) for c in self._cluster.state.members())
        return all(m.settled(revision) for m in members if m is not None and m.waited_for)

    def _filled(self, number: int) -> str:
        """Why a compute may not be empty though State says so."""
        member, state = self._cluster.members.get(number), self._cluster.state
        if member is None or not member.connected:
            return "has not connected yet" if self._cluster.not_yet_heard([number]) else ""
        plugged = sorted(p for p in member.view.ports if p in state.ports)
        more = f" and {len(plugged) - 1} more" if len(plugged) > 1 else ""
        return f"{plugged[0]} is plugged there{more}" if plugged else ""

    # --- movers ---

    def heard(self, item: Item) -> bool:
        """Whether the mover of a VM has been heard of within its lease."""
        began = self._cluster.designations.began
        at = max(began, self._heard.get((item.operation, item.object, item.mover), began))
        return self._cluster.now() - at < LEASE

    def asked(self, kind: str) -> bool:
        """Whether a mover of some kind has asked for VMs of late."""
        return self._cluster.now() - self._asked.get(kind, float("-inf")) < LEASE

    def silences(self) -> dict[str, float]:
        """Of each kind of mover that this controller has heard of: for how many seconds none of it has said a word."""
        return {kind: self._cluster.now() - at for kind, at in self._asked.items()}

    def _ask_of(self, kind: str) -> None:
        now = self._cluster.now()
        kept = {each: at for each, at in self._asked.items() if now - at < REMEMBERED or each in drain.KINDS}
        self._asked = {**kept, kind: now}

    def _hear(self, operation: str, vm: str, mover: str) -> None:
        self._heard[operation, vm, mover] = self._cluster.now()

    async def claim(self, kind: str, mover: str, free: int, holding: Collection[str] | None = None) -> list[Claim]:
        """Give a mover of some kind VMs to move, as many as it has room for, and again those that it does not know to have."""

        def decide(state: State) -> tuple[list[Edit], list[Claim]]:
            standings = self._cluster.designations.standings()
            # Whoever has not connected yet to a controller that has just begun to lead is no worse a place than it was.
            room = 0 if self._hold(state) else free
            return drain.claim(state, kind, mover, room, int(time.time() * 1000), standings, holding)

        self._ask_of(kind)
        given = await self._cluster.store.commit(decide)
        for one in given:
            self._hear(one.operation, one.vm, mover)
            log.info("vm_given", operation=one.operation, vm=one.vm, mover=mover)
        return given

    def hosts(self, kind: str, operation: str, said: Mapping[str, Said]) -> list[str]:
        """A mover says what it knows of computes, by name. Gives the names that are no member's.

        Raises:
            NotFound: there is no such operation.
            Refused: it is over, or movers of another kind are at it.
        """
        state = self._cluster.state
        known = drain.find(state, operation) if operation else None
        if known is not None and (known.vms != kind or not known.open):
            raise Refused(
                f"operation {operation} is {known.state}, with movers of kind {known.vms}: let go of its hosts"
            )
        self._ask_of(kind)
        found = {state.by_name[name]: one for name, one in said.items() if name in state.by_name}
        self.vouches.say(kind, operation, found)
        self._cluster.changed.fire()
        return sorted(set(said) - set(state.by_name))

    async def report(self, operation: str, vm: str, mover: str, claim: int, failure: str) -> None:
        """A mover says that it is still at it, or (`failure`) that it could not do it.

        Raises:
            NotFound, Refused: see `drain.claimed`.
        """
        drain.claimed(self._cluster.state, operation, vm, mover, claim)
        self._hear(operation, vm, mover)
        if not failure:
            return

        def decide(state: State) -> tuple[list[Edit], None]:
            item = drain.claimed(state, operation, vm, mover, claim)
            return [Edit(item, drain.failed(item, failure, int(time.time() * 1000)))], None

        await self._cluster.store.commit(decide)
        log.warning("vm_not_moved", operation=operation, vm=vm, mover=mover, reason=failure)

    # --- verbs ---

    async def begin(self, ids: Sequence[str], asked: Wish, resumed: str = "") -> tuple[Operation, bool]:
        """Begin a drain; gives its operation, and whether it began now: one of the same computes that goes on is "already so".

        `resumed`: the id of the one that begins again; see `drain.again` for what is asked of it.

        Raises:
            NotFound, Refused: an id is unknown or of no member; an operation goes on with one of them; or see `drain.problems`.
            NotReady: it is this controller that seems to be cut off.
        """

        def decide(state: State) -> tuple[list[Edit], tuple[str, bool]]:
            wish = drain.again(drain.find(state, resumed), asked) if resumed else asked
            decision = scalein.start(state, ids).checked("drain")
            numbers = frozenset(v.number for v in decision.verdicts)
            known = drain.the_same(state, numbers, wish.dead)
            if known is not None and not resumed:
                now_so = drain.adopted(known, wish)
                return ([Edit(known, now_so)] if now_so != known else []), (known.id, False)
            standings = self._cluster.designations.standings()
            begun = marking.mark(state, decision, numbers, standings, wish.until)
            goals = drain.goals(state, begun.marked, numbers, standings)
            targets = drain.targets(state, numbers, standings) if not wish.dead else {}
            if any(goal.how is Going.STAYS for goal in goals) and not wish.dead:
                then = foresight.after(state, begun.edits, numbers, targets, standings).state
                goals = drain.awaited(goals, then, numbers)
            drain.refuse(self.problems(state, numbers, goals, targets, wish))
            now = int(time.time() * 1000)
            # A dead one may be in another drain: its mark goes over, so that it is this one's to take away.
            taken = {n for o in drain.owners(state, numbers) for n in o.marked if n in numbers} if wish.dead else set()
            made = self._made(state, decision, wish, resumed, taken)
            old = state.operations.get(resumed)
            items = drain.begin(state, made, sorted(numbers), goals, targets, now)
            others = drain.released(state, numbers) if wish.dead else []
            return [*begun.edits, *others, *items, Edit(old, made), *old_operations(state, resumed)], (made.id, True)

        cut_off = self._cluster.designations.cut_off_now()
        if cut_off:
            raise NotReady(f"nothing is drained now: {cut_off}")
        made, anew = await self._cluster.store.commit(decide)
        if anew:
            log.info("drain_begun", operation=made, computes=list(ids), resumed=bool(resumed))
        return self._cluster.state.operations[made], anew

    def problems(
        self, state: State, numbers: Set[int], goals: Iterable[Goal], targets: Mapping[str, int], wish: Wish
    ) -> list[Problem]:
        """Why a drain would be refused.

        Raises:
            BadInput: a service that may end is none.
        """
        for name in wish.outages:
            kind, _, about = name.partition(" ")
            if (kind, about) not in state.designations:
                raise BadInput(
                    f"{name!r} is no service: it is a kind and a name, like 'nat r1' (`ebbtide designations`)",
                    "allow-outage",
                )
        standings, share = self._cluster.designations.standings(), self._cluster.settings.drain_share
        found = drain.problems(state, numbers, goals, targets, standings, wish, share)
        if not wish.dead:
            names = [(n, self._endings.name(n)) for n in sorted(numbers)]
            found += self.vouches.problems(wish.vms, names, wish.forced)
            if wish.vms not in (*drain.KINDS, *self._asked) and not wish.forced:
                text = (
                    f"no mover of kind {wish.vms} has spoken to this controller of late: start it, or see how it is spelt ("
                    f"{', '.join(drain.KINDS)} are there)"
                )
                found.append(Problem("no-mover", "", text))
        busy = drain.busy(state, numbers)
        # One that has died in the middle of a drain is taken out of it; by one drain of the dead at a time.
        if busy is not None and not (wish.dead and busy[0].verb == drain.VERB and not busy[0].dead):
            found.insert(0, Problem("busy", busy[0].id, self._busy(*busy)))
        if wish.dead:
            after = self._cluster.settings.loss_after
            seen = sights(self._cluster, state, (c.number for c in state.members()))
            found += [Problem("alive", "", text) for text in dead.doubts(seen, numbers, after, wish.forced)]
        return found

    def _busy(self, other: Operation, number: int) -> str:
        abort = f", or abort it (`ebbtide operation abort {other.id}`)" if other.state == "running" else ""
        return (
            f"operation {other.id} ({other.verb}, {other.state}) goes on with {self._endings.name(number)}: wait for it "
            f"(`ebbtide operation watch {other.id}`){abort if other.verb == drain.VERB else ''}"
        )

    def _made(self, state: State, decision: Decision, wish: Wish, resumed: str, taken: Set[int]) -> Operation:
        accepted = {v.number for v in decision.verdicts if v.answer is scalein.Answer.ACCEPTED}
        own = tuple(sorted(accepted | taken))
        return Operation(
            resumed or self._new_id(),
            drain.VERB,
            tuple(sorted(v.number for v in decision.verdicts)),
            "running",
            "begins",
            started=state.revision,
            vms=wish.vms,
            mover_options=wish.mover_options,
            at_once=wish.at_once or drain.AT_ONCE,
            wave=wish.wave or 0,
            deadline=wish.deadline,
            forced=wish.forced,
            outages=wish.outages,
            marked=own,
            dead=wish.dead,
            began=int(time.time()),
        )

    async def abort(self, operation_id: str) -> Operation:
        """See `drain.abort`. An abort under way is "already so".

        Raises:
            NotFound: there is no such operation.
            Refused: see `drain.abort`.
        """

        def decide(state: State) -> tuple[list[Edit], None]:
            known = drain.find(state, operation_id)
            return drain.abort(state, known, int(time.time() * 1000)) if known.state != "aborting" else [], None

        await self._cluster.store.commit(decide)
        return drain.find(self._cluster.state, operation_id)

    async def change(self, operation_id: str, wish: Wish) -> tuple[Operation, bool]:
        """See `drain.changed`; and whether that was not so already.

        Raises:
            NotFound: there is no such operation.
            BadInput, Refused: see `drain.changed`.
        """

        def decide(state: State) -> tuple[list[Edit], bool]:
            old = drain.find(state, operation_id)
            new = drain.changed(old, wish)
            return ([Edit(old, new)], True) if new != old else ([], False)

        is_new = await self._cluster.store.commit(decide)
        found = drain.find(self._cluster.state, operation_id)
        if is_new:
            log.info("drain_changed", operation=found.id, at_once=found.at_once, options=list(found.mover_options))
        return found, is_new

    async def resume(
        self, operation_id: str, deadline: int = 0, forced: str = "", outages: Sequence[str] = ()
    ) -> Operation:
        """Begin a drain that has ended again, under its id, with those of its computes that are still members.

        `deadline` (seconds since the epoch; 0: none), `forced` and `outages` are those of this time; all else is as it was asked for.

        Raises:
            NotFound: there is no such operation.
            Refused: see `drain.resume`, and `begin`.
        """
        state = self._cluster.state
        known = drain.find(state, operation_id)
        if known.verb == drain.VERB and known.state == "running":
            again = Wish(deadline=deadline, forced=forced, outages=tuple(outages))

            def adopt(state: State) -> tuple[list[Edit], None]:
                old = drain.find(state, known.id)
                new = drain.adopted(old, again)
                return ([Edit(old, new)] if old.open and old != new else []), None

            await self._cluster.store.commit(adopt)
            return drain.find(self._cluster.state, known.id)
        left = drain.resume(state, known)
        wish = Wish(deadline=deadline, forced=forced, outages=tuple(outages))
        ids = [str(state.computes[n].dpid) for n in sorted(left)]
        made, _ = await self.begin(ids, wish, known.id)
        return made


def going(state: State) -> list[Operation]:
    """Drains that are not over, the oldest first."""
    found = (o for o in state.operations.values() if o.verb == drain.VERB and o.open)
    return sorted(found, key=lambda o: o.revision)
