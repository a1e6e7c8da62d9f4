"""Proofs: made when a scale-in end is over, completed when computes that could not be read have returned.

A debt is paid by being looked at: a compute that returns is read, and its debts and its entry in the proofs are stored in one transaction.
So there is no moment in which it owes nothing and is not in the proof either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import structlog

from ebbtide.decide import proofs
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Edit, Operation, Proof
from ebbtide.model.state import State
from ebbtide.runtime.auditor import Report, audit
from ebbtide.runtime.signing import Signer
from ebbtide.runtime.vswitch import interfaces

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

log = structlog.get_logger("proofs")
#: Seconds after which a compute that has returned and is not clean yet is read again.
_AGAIN = 2.0


class Proofs:
    """The proofs that the store keeps."""

    def __init__(self, cluster: Cluster, signer: Signer) -> None:
        self._cluster = cluster
        self.signer = signer
        self._paying: set[int] = set()

    def made(self, state: State, operation: Operation, report: Report, not_ours: Iterable[str]) -> Proof:
        """The proof of an end whose audit is over. Who owes is in State: the debts for these computes."""
        owing = {d.compute for d in state.debts.values() if d.removed in operation.computes}
        checked = _checked(report, int(time.time()))
        return self._signed(proofs.begin(state, operation, checked, owing, not_ours, int(time.time())))

    def _signed(self, body: proofs.Body) -> Proof:
        text = body.text()
        computes = tuple(sorted(x.number for x in body.removed))
        owed = tuple(sorted(x.number for x in body.owing if not x.gone))
        return Proof(body.operation, computes, owed, text, self.signer.sign(text), self.signer.public)

    def pay(self, number: int) -> None:
        """A compute that owes has been brought to what it should hold: it is read, and owes nothing any more. Again is no harm."""
        if number in self._paying:
            return
        self._paying.add(number)
        task = asyncio.ensure_future(self._pay(number))
        task.add_done_callback(lambda _: self._paying.discard(number))

    async def _pay(self, number: int) -> None:
        try:
            while self._owes(number):
                seen = await self._read(number)
                if seen is not None and not seen.residue:
                    await self._cluster.store.commit(lambda state: (self._paid(state, number, seen), None))  # noqa: B023 (asked at once)
                    log.info("debts_paid", compute=seen.compute)
                    return
                if seen is None:
                    return  # it has gone again; it is read when it returns
                log.warning("debts_not_paid", compute=seen.compute, residue=list(seen.residue[:3]))
                await asyncio.sleep(_AGAIN)
        except EbbtideError as error:
            log.warning("debts_wait", reason=str(error))

    def _owes(self, number: int) -> bool:
        return any(d.compute == number for d in self._cluster.state.debts.values())

    async def _read(self, number: int) -> proofs.Checked | None:
        cluster, member = self._cluster, self._cluster.members.get(number)
        if member is None or not member.connected:
            return None
        if number in cluster.state.removed:
            return await _wiped(member)
        owed = [d.removed for d in cluster.state.debts.values() if d.compute == number]
        report = await audit(cluster, owed, [number])
        return next(iter(_checked(report, int(time.time()))), None)

    def _paid(self, state: State, number: int, seen: proofs.Checked) -> list[Edit]:
        edits = [Edit(d, None) for d in state.debts.values() if d.compute == number]
        for proof in state.proofs.values():
            if number in proof.owed:
                edits.append(Edit(proof, self._signed(proofs.paid(proofs.read(proof.body), seen))))
        return edits

    async def run(self) -> None:
        """Enter into proofs that who owed has been removed itself, until cancelled."""
        while True:
            await self._cluster.changed.until(
                lambda: bool(self._cluster.store.leading.is_set() and self._gone()), float("inf")
            )
            try:
                await self._cluster.store.commit(self._strike)
            except EbbtideError as error:
                log.warning("proofs_wait", reason=str(error))
                await asyncio.sleep(_AGAIN)

    def _gone(self) -> list[Proof]:
        return [p for p in self._cluster.state.proofs.values() if _lost(self._cluster.state, p)]

    def _strike(self, state: State) -> tuple[list[Edit], None]:
        found = [(p, _lost(state, p)) for p in state.proofs.values()]
        return [Edit(p, self._signed(proofs.gone(proofs.read(p.body), lost))) for p, lost in found if lost], None


def _lost(state: State, proof: Proof) -> list[int]:
    """Those that owe something to a proof by its words, and have no debt of it: they were removed, and what they hold goes with them."""
    return [n for n in proof.owed if not any((n, removed) in state.debts for removed in proof.computes)]


def _checked(report: Report, now: int) -> list[proofs.Checked]:
    found = []
    for look in report.looks:
        mine = [f for f in report.findings if f.compute == look.compute]
        residue = tuple(f"{f.what}: {f.text}" for f in mine if f.kind == "residue")
        entry = proofs.Checked(
            **msgspec.structs.asdict(look), residue=residue, differs=len(mine) - len(residue), time=now
        )
        found.append(entry)
    return found


async def _wiped(member: Member) -> proofs.Checked | None:
    """A removed compute, held in quarantine: what it has is counted, and whatever is no drop is something that it should not have."""
    if member.switch is None or member.tables is None:
        return None
    found = await member.switch.dump()
    rows = [row for _, _, row in interfaces(member.tables)]
    tunnels = sum(row["type"] == "vxlan" for row in rows)
    wrong = sum(bool(f.instructions) for f in found.flows) + len(found.groups)
    amounts = len(found.flows), len(found.groups), len(rows), tunnels, len(rows)
    return proofs.Checked(member.name, member.number, 0, *amounts, differs=wrong, time=int(time.time()))
