"""The second half of a scale-in end: clean the removed computes, wait for everybody else, audit, and say what was found.

An operation that is stored as running is driven by whoever leads, again and again, until it is over; each step may be taken twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence, Set

import msgspec
import structlog

from ebbtide.decide import proofs
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Debt, Edit, Operation
from ebbtide.model.observed import Phase
from ebbtide.model.state import State
from ebbtide.runtime.auditor import Report, audit
from ebbtide.runtime.cluster import Cluster
from ebbtide.runtime.member import Member

log = structlog.get_logger("endings")
#: Seconds after which an end no longer waits for a compute that is connected and cannot be brought to what it should hold: it owes.
STUCK = 60.0
#: So many characters of what was found are said.
TOLD = 200
#: Operations that are over are kept for reading, the newest of each verb.
KEPT_OPERATIONS = 200
#: Proofs outlive their operations: who asks for one does so later.
KEPT_PROOFS = 1000


class Endings:
    """All ends that are under way."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Go on with operations that were under way when the last controller ended, until this one ends."""
        try:
            while True:
                await self._cluster.store.leading.wait()
                for operation in self._cluster.state.operations.values():
                    if operation.verb == "end" and operation.state == "running":
                        self.drive(operation.id)
                await self._next_leadership(self._cluster.store.epoch)
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next_leadership(self, epoch: int) -> None:
        await self._cluster.changed.until(lambda: self._cluster.store.epoch != epoch, float("inf"))

    def unfinished(self, ids: Sequence[str]) -> list[Operation]:
        """Those of them that go on."""
        operations = (self._cluster.state.operations.get(i) for i in ids)
        return [o for o in operations if o is not None and o.state == "running"]

    def drive(self, operation_id: str) -> None:
        """See to it that an operation goes on; again is no harm."""
        if operation_id in self._running:
            return
        task = asyncio.create_task(self._finish_end(operation_id), name=f"end-{operation_id}")
        self._running[operation_id] = task
        task.add_done_callback(lambda _: self._running.pop(operation_id, None))

    async def _finish_end(self, operation_id: str) -> None:
        """Clean the removed computes, wait for everybody else, audit; each step may be taken again."""
        operation = self._cluster.state.operations.get(operation_id)
        names = [self.name(number) for number in operation.computes] if operation is not None else []
        with structlog.contextvars.bound_contextvars(operation=operation_id, computes=names):
            await self._go_on(operation_id)

    async def _go_on(self, operation_id: str) -> None:
        await self._cluster.wait_for(self._cluster.leads, STUCK)
        pause, patient_until = 0.2, self._cluster.now() + STUCK
        while self._cluster.store.leading.is_set():
            operation = self._cluster.state.operations.get(operation_id)
            if operation is None or operation.state != "running":
                return
            try:
                report, words = await self._try_end(operation, patient=self._cluster.now() < patient_until)
                done = report is not None
                if done or words != operation.reason:
                    await self._note(operation_id, words, report)
                if done:
                    log.info("scale_in_ended", revision=self._cluster.state.revision, found=words)
                    return
            except EbbtideError as error:
                log.warning("end_goes_on", reason=str(error))
            except Exception:
                # Whatever it was: an operation that was accepted is never left without somebody who goes on with it.
                log.exception("end_fault")
            await asyncio.sleep(pause)
            # An audit reads all computes: what has not gone in a minute is for somebody to see to.
            pause = min(pause * 1.5, 2.0 if self._cluster.now() < patient_until else 10.0)

    async def _try_end(self, operation: Operation, patient: bool) -> tuple[Report | None, str]:
        """One attempt: what its audit has found, or None and what it still waits for.

        `patient`: wait for who is connected and not brought to what it should hold. Later such a one owes, as if it were away; but
        residue on a compute that we can clean is waited for as long as it takes.
        """
        cluster, leaving, epoch = self._cluster, [], self._cluster.store.epoch
        if cluster.store.hold:
            return None, f"the brake: {cluster.store.hold}"
        missing = cluster.not_yet_heard([*operation.computes, *(c.number for c in cluster.state.members())])
        # One that was decided in this leadership has entered debts for those who were away.
        if missing and operation.revision <= cluster.began_revision:
            return None, f"waits for {', '.join(missing[:5])} to connect"
        for number in operation.computes:
            member = cluster.members.get(number)
            if member is not None and member.connected:
                member.leave()
                leaving.append(member)
        if not await cluster.wait_for(lambda: all(m.left or not m.connected for m in leaving), 5.0) and patient:
            return None, f"waits for {', '.join(m.name for m in leaving if not m.left)} to be wiped"
        if not await cluster.wait_for(lambda: not self._behind(operation.revision), 2.0) and patient:
            behind = self._behind(operation.revision)
            if behind:
                shown = ", ".join(f"{m.name} ({m.reason or m.phase})" for m in behind[:5])
                return None, f"waits for {shown} to apply revision {operation.revision}"
        report = await audit(cluster, operation.computes)
        if cluster.store.epoch != epoch or not cluster.leads():
            # All sessions end with a leadership: that nobody could be read says nothing of who is there.
            return None, "a new leadership has begun"
        held = {m.name for m in cluster.members.values() if m.phase is Phase.BRAKED}
        residue = [f for f in report.findings if f.kind == "residue" and f.compute not in held]
        if residue:
            first = residue[0]
            return None, f"{len(residue)} residue, first on {first.compute}: {first.what}: {first.text[:TOLD]}"
        owing = {*report.unreachable, *(held & set(report.computes))} - self._never_ours()
        if not report.computes and not owing and self._never_ours() != {c.name for c in self._cluster.state.members()}:
            return None, "no compute could be read: nothing is proven"
        numbers = [self._cluster.state.by_name[name] for name in sorted(owing) if name in self._cluster.state.by_name]
        numbers += [m.number for m in leaving if m.connected and not m.left]
        await self._owe(operation, numbers)
        return report, self._proof(operation, report, held)

    def _never_ours(self) -> set[str]:
        """Computes that another system runs: nothing of ours is there."""
        members = (self._cluster.members.get(c.number) for c in self._cluster.state.members())
        return {m.name for m in members if m is not None and m.phase is Phase.FOREIGN}

    async def _owe(self, operation: Operation, numbers: Sequence[int]) -> None:
        """Computes that were lost after the end was decided owe the cleaning like those that were away before."""

        def decide(state: State) -> tuple[list[Edit], None]:
            owed = [(n, removed) for n in numbers for removed in operation.computes if removed in state.removed]
            return [Edit(None, Debt(n, removed)) for n, removed in owed if (n, removed) not in state.debts], None

        if numbers:
            await self._cluster.store.commit(decide)

    def _proof(self, operation: Operation, report: Report, held: Set[str]) -> str:
        """The audit's finding in words, and who owes."""
        owed = sorted(
            {self.name(d.compute) for d in self._cluster.state.debts.values() if d.removed in operation.computes}
        )
        read = len(set(report.computes) - held)
        several = "s" if read != 1 else ""
        text = (
            f"residue 0 on {read} compute{several} at revision {report.revision}"
            if read
            else "no compute could be read"
        )
        return text + (f"; owed by {', '.join(owed)}" if owed else "")

    def _behind(self, revision: int) -> list[Member]:
        """Members that can be cleaned and have not applied a revision yet, or still hold something that it took away."""
        able = self._cluster.owing_nothing()
        found = (self._cluster.members.get(c.number) for c in self._cluster.state.members() if c.number in able)
        return [m for m in found if m is not None and m.phase is not Phase.FOREIGN and m.rid_through() < revision]

    async def _note(self, operation_id: str, reason: str, report: Report | None) -> None:
        """Store what an operation waits for; or, with its audit's report, that it is over, and its proof."""

        def decide(state: State) -> tuple[list[Edit], None]:
            known = state.operations.get(operation_id)
            if known is None:
                return [], None
            if report is None:
                return [Edit(known, msgspec.structs.replace(known, reason=reason))], None
            gone = [self.name(n) for n in known.computes if n not in state.removed]
            if gone:
                # What cannot be searched for any more is not proven to have gone.
                words = f"let back before anything was proven: {', '.join(gone)}"
                failed = msgspec.structs.replace(known, state="failed", reason=words, over=int(time.time()))
                return [Edit(known, failed)], None
            over = msgspec.structs.replace(known, state="done", reason=reason, over=int(time.time()))
            proof = self._cluster.proofs.made(state, known, report, self._never_ours())
            return [Edit(known, over), Edit(state.proofs.get(operation_id), proof)], None

        await self._cluster.store.commit(decide)

    def name(self, number: int) -> str:
        """A compute's name, member or removed, for people."""
        compute = self._cluster.state.computes.get(number) or self._cluster.state.removed.get(number)
        return compute.name if compute else f"#{number}"


def old_operations(state: State, begun_again: str = "") -> list[Edit]:
    """Those that are over, but for the newest of each verb, those whose proof is not complete yet, and one that begins again; with their
    items."""
    kept = {name for name, proof in state.proofs.items() if proof.owed} | {begun_again}
    verbs: dict[str, list[Operation]] = {}
    for operation in sorted(state.operations.values(), key=lambda o: o.revision):
        if not operation.open and operation.id not in kept:
            verbs.setdefault(operation.verb, []).append(operation)
    edits: list[Edit] = []
    for over in verbs.values():
        for operation in over[: max(0, len(over) - KEPT_OPERATIONS)]:
            edits += [Edit(operation, None), *(Edit(item, None) for item in state.items_of(operation.id))]
    if len(state.proofs) <= KEPT_PROOFS:
        return edits
    complete = sorted((p for p in state.proofs.values() if not p.owed), key=lambda p: proofs.read(p.body).revision)
    return edits + [Edit(p, None) for p in complete[: max(0, len(state.proofs) - KEPT_PROOFS)]]
