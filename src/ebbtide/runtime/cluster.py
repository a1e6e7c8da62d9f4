"""The cluster: State on one side, one Member a compute on the other, and the decisions between them.

Every change of State or of what a compute shows comes through `_state_changed` or `_view_changed`; both name the fragments that may
differ, mark the members concerned, and queue the ports whose bindings must be looked at again. Nothing else starts work.

Longer than 400 lines: sessions, State and members meet here, and each of the three would have to know the other two elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ebbtide.compile import affected, ledger
from ebbtide.compile.fragment import Key
from ebbtide.decide import brake, ids, lifecycle
from ebbtide.decide.lifecycle import Outcome
from ebbtide.errors import EbbtideError
from ebbtide.model import teps
from ebbtide.model.facts import Binding, Compute, Debt, Edit, External, Item, Membership, Operation, Port, Relation
from ebbtide.model.observed import Phase, View, differing
from ebbtide.model.state import State
from ebbtide.openflow import messages as m
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.framing import PEER_LIMIT
from ebbtide.ovsdb.replica import Replica, RowChange
from ebbtide.reconcile.compiled import Compiled
from ebbtide.runtime import exports, leasing, probes, signing, vswitch
from ebbtide.runtime.adverts import Adverts
from ebbtide.runtime.connections import Connections
from ebbtide.runtime.designations import Designations
from ebbtide.runtime.hidden import Hidden
from ebbtide.runtime.link import LinkLost, OvsdbLink
from ebbtide.runtime.member import OPENING_EYES, Member
from ebbtide.runtime.natmoves import NatMoves
from ebbtide.runtime.outside import Outside
from ebbtide.runtime.places import Places
from ebbtide.runtime.proofs import Proofs
from ebbtide.runtime.pulse import Pulse
from ebbtide.runtime.record_log import What
from ebbtide.runtime.renewals import Renewals
from ebbtide.runtime.rows import Rows
from ebbtide.runtime.standbys import JUDGED, Standbys
from ebbtide.runtime.store import Store
from ebbtide.runtime.switch import Rejected, SwitchLink, SwitchLost
from ebbtide.runtime.untranslated import Exhaustions

log = structlog.get_logger("cluster")
#: Seconds in which a peer that has connected must have said who it is.
HANDSHAKE, REGISTRATION = 10.0, 30.0
#: Seconds after somebody's step until it is looked at whether the ids of deleted networks are free again.
_RELEASE = 0.5
#: Deletions that nothing explains, on computes that were compared within so many seconds, are looked at together.
TOGETHER = 60.0
#: Seconds after which a session that was refused is judged again.
REFUSED_AGAIN = 2.0
#: Seconds between two writes of the record of connections.
RECORDS = 0.1
#: Seconds of a leadership until who has not connected counts as away.
ALL_HERE = 30.0
#: So many switches are dumped at the same time.
DUMPS = 32


class Settings(msgspec.Struct, frozen=True):
    """What an operator may set. Times in seconds, `bfd_interval` in milliseconds.

    `lag`: how long cached datapath flows may follow their tables. `silence`: after which a holder counts as silent.
    `unreachable_grace`: after which an unreachable compute no longer holds back the end of a move.
    `nat_patience`: how long a NAT move waits for connections that are in no record, before it cuts them.
    `hold_off`: for how long an address that nobody is known to have is asked for but once (0: for no time). `learnt_interval`: how often an
    address that was learnt is asked whether it is still there; it is withdrawn after as long without an answer.
    `open_patience`: how long a flip waits for the new place's tunnels to carry frames.
    `drain_share`: of all computes, what a drain may take out at the same time without a reason. `loss_after`: of silence, until a compute
    is reported as lost, and may be drained as dead.
    """

    open_admission: bool = False
    lag: float = 1.0
    silence: float = 60.0
    unreachable_grace: float = 300.0
    open_patience: float = 5.0
    drain_share: float = 0.5
    loss_after: float = 60.0
    nat_patience: float = 300.0
    bfd_interval: int = 65
    realise_timeout: float = 20.0
    stamp_interval: float = 1.0
    audit_wait: float = 30.0
    hold_off: int = 10
    learnt_interval: float = 30.0
    openflow_port: int = 6653
    openflow_tls: bool = False


_RECORDED = {
    ledger.Punt.OPENED: What.OPENED,
    ledger.Punt.CLOSED: What.CLOSED,
    ledger.Punt.SEEN: What.SEEN,
}
_OF_ROUTERS = (ledger.Punt.NEXT_HOP, ledger.Punt.EXPIRED, ledger.Punt.TOO_BIG, ledger.Punt.TOO_BIG_OUTSIDE)


class Cluster:
    """All computes, as far as this controller leads."""

    def __init__(
        self,
        remotes: Sequence[str],
        settings: Settings,
        clock: Callable[[], float],
        new_store_id: str,
        records: Path | None = None,
        proof_key: Path | None = None,
    ) -> None:
        self.settings = settings
        self.now = clock
        self.store = Store(remotes, self._state_changed, new_store_id=new_store_id)
        self.compiled = Compiled()
        self.members: dict[int, Member] = {}
        self.refused: dict[str, str] = {}
        self.probes = probes.Probes(self)
        self.probing = asyncio.Event()
        self.changed = Pulse()
        self.listeners: list[Callable[[str, dict[str, Any]], None]] = []
        #: Who is told of changes of State, while this controller leads.
        self.edited: list[Callable[[Sequence[Edit]], None]] = []
        self.places = Places(self)
        self.designations = Designations(self)
        self.outside = Outside(self)
        self.hidden = Hidden(self)
        self.adverts = Adverts(self)
        self.exhaustions = Exhaustions()
        self.natmoves = NatMoves(self)
        self.rows = Rows(self)
        self.renewals = Renewals(self)
        self.standbys = Standbys(self)
        self.connections = Connections(records)
        self.proofs = Proofs(self, signing.signer(proof_key))
        self._releasing: asyncio.TimerHandle | None = None
        self._sessions: set[OvsdbLink | SwitchLink] = set()
        self._owners: dict[SwitchLink, Member] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._stamps: dict[int, brake.Stamp] = {}
        self._unexplained: dict[int, float] = {}
        self._said: dict[str, str] = {}
        #: All computes connect at once when a controller starts, and a dump may be ten megabytes.
        self.dumping = asyncio.Semaphore(DUMPS)
        #: When a session of a compute last ended. `Member.lost_at` is when the first of its two did.
        self._heard: dict[int, float] = {}
        #: Why a connected compute has not all that it announces; and the sessions to be judged again when others have stood aside.
        self.kept: dict[int, str] = {}
        self._wanting: dict[OvsdbLink, tuple[Pulse, int]] = {}
        self._stood_aside = 0
        self._begun = 0
        #: State's revision when this leadership began: what is older was decided by who saw others than we do yet.
        self.began_revision = 0

    @property
    def state(self) -> State:
        """The newest State."""
        return self.store.state

    def leads(self) -> bool:
        """Whether this controller leads, and what was seen before this leadership is forgotten."""
        return self.store.leading.is_set() and self._begun == self.store.epoch

    def not_yet_heard(self, numbers: Iterable[int]) -> list[str]:
        """Those of these that have not connected in this leadership, while it is young: nothing is to be concluded from their absence.
        By name, in order."""
        if not self._is_young():
            return []
        return sorted(self._name(n) for n in numbers if not self._heard_yet(n))

    def _is_young(self) -> bool:
        """Whether this leadership is too new for somebody's absence to say anything."""
        return self.now() - self.designations.began < ALL_HERE

    def _heard_yet(self, number: int) -> bool:
        """Whether a compute has connected in this leadership. One that was removed, and is wiped already, has no switch for us any more."""
        member = self.members.get(number)
        if member is None:
            return False
        wiped = number in self.state.removed and member.link is not None
        return wiped or member.connected or member.heard_before

    def _name(self, number: int) -> str:
        member = self.members.get(number)
        return member.name if member is not None else f"#{number}"

    # --- life ---

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.store.run())
            group.create_task(self._lead())
            group.create_task(self.places.run())
            group.create_task(self.designations.run())
            group.create_task(self.outside.run())
            group.create_task(self.hidden.run())
            group.create_task(self.adverts.run())
            group.create_task(self.natmoves.run())
            group.create_task(self.standbys.run())
            group.create_task(self.proofs.run())
            group.create_task(self._write_records())
            group.create_task(self._probe())

    async def _lead(self) -> None:
        """Each leadership begins anew: sessions are opened again (with its term), every switch is compared with what it should hold."""
        epoch = 0

        def begun() -> bool:
            return self.store.epoch != epoch

        def over() -> bool:
            return not self.store.leading.is_set() or begun()

        while True:
            await self.changed.until(begun, float("inf"))
            epoch = self.store.epoch
            for session in list(self._sessions):
                session.close("a new leadership has begun")
            self.compiled.clear()
            # What was seen before belongs to another leadership: moves have come and gone meanwhile.
            self.places.forget()
            self.outside.begin()
            self.designations.begin()
            self.hidden.begin()
            self.adverts.begin()
            self._unexplained.clear()
            for number in [*self.state.computes, *self.state.removed]:
                self._member(number).renew()
            self._begun, self.began_revision = epoch, self.state.revision
            self.places.look_at(self.state.ports)
            await self.changed.until(over, float("inf"))
            if not self.store.leading.is_set():
                for session in list(self._sessions):
                    session.close("this controller does not lead")
                log.warning("not_leading")

    async def _write_records(self) -> None:
        """The record of connections, to its file, often: what a crash loses counts as unknown."""
        try:
            while True:
                await asyncio.sleep(RECORDS)
                self.connections.flush()
        finally:
            self.connections.flush()

    async def shut(self) -> None:
        """Close every session; nothing is changed anywhere."""
        for session in list(self._sessions):
            session.close("the controller stops")
        for task in self._handlers:
            task.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.gather(*(member.stop() for member in self.members.values()))

    def _member(self, number: int) -> Member:
        member = self.members.get(number)
        if member is None:
            member = self.members[number] = Member(self, number)
            member.start()
        return member

    # --- sessions ---

    def accept_ovsdb(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One compute's OVSDB has connected."""
        self._handle(self.ovsdb_session(reader, writer))

    def accept_openflow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One switch has connected."""
        self._handle(self.openflow_session(reader, writer))

    def _handle(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        task.add_done_callback(_log_failure)

    async def ovsdb_session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one compute's OVSDB until it goes."""
        if not self.store.leading.is_set():
            writer.close()
            return
        holder: list[Member] = []
        # One pulse a session: on the cluster's, every session would wake for every other's news.
        said = Pulse()
        link = OvsdbLink(reader, writer, lambda event: self._ovsdb_event(link, holder, event, said), limit=PEER_LIMIT)
        self._sessions.add(link)
        task = asyncio.create_task(link.run())
        task.add_done_callback(lambda _: said.fire())
        number = 0
        try:
            async with asyncio.timeout(REGISTRATION):
                schema = await link.schema(vswitch.DATABASE)
                tables = vswitch.replica(schema)
                await link.monitor(tables)
            while not link.lost.is_set():
                claim = vswitch.claim(tables, link.certificate)
                number = await self._admit(link, claim, number, said)
                if number and not holder:
                    holder.append(self._member(number))
                    self._view_changed(holder[0], vswitch.view(tables, True, self._tep))
                    holder[0].attach_link(link, tables)
                await self._claim_changed(link, tables, claim, said)
        except TimeoutError:
            link.close(f"not registered within {REGISTRATION:.0f} s")
        except LinkLost as error:
            log.info("ovsdb_session_lost", peer=str(link.peer), reason=str(error))
        finally:
            link.close("session over")
            await asyncio.gather(task, return_exceptions=True)
            self._sessions.discard(link)
            self.refused.pop(str(link.peer), None)
            self._wanting.pop(link, None)
            for member in holder:
                if member.link is link:
                    self.kept.pop(member.number, None)
                self._heard[member.number] = self.now()
                member.detach_link(link)
                self._view_changed(member, member.view)
                self.notify("compute", name=member.name)

    async def _admit(self, link: OvsdbLink, claim: lifecycle.Claim | None, number: int, said: Pulse) -> int:
        """Ask the identity table about what the session says of itself."""
        if claim is None:
            return number
        judged = 0

        def decide(state: State) -> tuple[list[Edit], lifecycle.Verdict]:
            nonlocal judged
            judged = self._stood_aside
            signs = self._signs(state, claim, link, number)
            verdict = lifecycle.judge(
                state,
                claim,
                lifecycle.alive(signs),
                seen=lifecycle.seen(signs),
                recent=lifecycle.recent(signs, self.settings.silence),
                session_of=number,
                open_admission=self.settings.open_admission,
            )
            return list(verdict.edits), verdict

        try:
            verdict = await self.store.commit(decide)
        except EbbtideError as error:
            reason = f"cannot be admitted now: {error}"
            link.close(reason)
            raise LinkLost(reason) from None
        if verdict.outcome is Outcome.REFUSED or verdict.kept:
            self._wanting[link] = said, judged
        else:
            self._wanting.pop(link, None)
        if verdict.outcome is Outcome.REFUSED:
            if self.refused.get(str(link.peer)) != verdict.reason:
                log.warning("refused", peer=str(link.peer), name=claim.name, reason=verdict.reason)
            self.refused[str(link.peer)] = verdict.reason
            return number
        self.refused.pop(str(link.peer), None)
        self._say_apart(verdict)
        before = self.kept.pop(verdict.number, "")
        if verdict.kept:
            self.kept[verdict.number] = verdict.reason
        if verdict.reason and verdict.reason != before and (verdict.kept or not number):
            log.info(str(verdict.outcome), name=claim.name, reason=verdict.reason)
        return verdict.number

    def _say_apart(self, verdict: lifecycle.Verdict) -> None:
        """Once, when a compute gets a tunnel address from which there is no way to those of others."""
        for old, new in verdict.edits:
            if not isinstance(new, Compute) or not new.tep or (isinstance(old, Compute) and old.teps == new.teps):
                continue
            far = sorted(c.name for c in self.state.computes.values() if c.tep and not teps.joined(new.tep, c.tep))
            if far:
                log.warning("underlay_mixed", name=new.name, tep=new.tep, no_tunnels_to=far[:5], count=len(far))

    async def _claim_changed(
        self, link: OvsdbLink, tables: Replica, before: lifecycle.Claim | None, said: Pulse
    ) -> None:
        """Wait until the session is to be judged again: it says something else of itself, others have stood aside, or it ends.

        One that is refused is judged again after a while too: a holder goes silent without a word.
        """
        patience = REFUSED_AGAIN if str(link.peer) in self.refused else None
        try:
            async with asyncio.timeout(patience):
                while not link.lost.is_set() and vswitch.claim(tables, link.certificate) == before:
                    if link in self._wanting and self._wanting[link][1] != self._stood_aside:
                        return
                    await said.wait()
        except TimeoutError:
            return

    def _judge_again(self) -> None:
        """A compute has stood aside: whoever was not granted all that it claims is judged anew."""
        self._stood_aside += 1
        for said, _ in self._wanting.values():
            said.fire()

    def _signs(self, state: State, claim: lifecycle.Claim, link: OvsdbLink, own: int) -> list[lifecycle.Sign]:
        """What shows that the computes concerned by a claim are there, by other ways than `link`, which is accepted as `own` (or 0)."""
        concerned = lifecycle.claimed(state, claim) - {own}
        return [self._sign(state, number, claim, link) for number in concerned]

    def _sign(self, state: State, number: int, claim: lifecycle.Claim, link: OvsdbLink) -> lifecycle.Sign:
        member, same = self.members.get(number), state.computes[number].system_id == claim.system_id
        if member is None:
            return lifecycle.Sign(number)
        switch, now = member.switch, self.now()
        heard = max(now if member.lost_at is None else member.lost_at, self._heard.get(number, float("-inf")))
        return lifecycle.Sign(
            number,
            session=member.link is not None and not member.link.lost.is_set(),
            switch=switch is not None,
            # Two hosts may be behind one address: of another system-id, it is no sign that they are one.
            vouches=switch is not None and same and _host(switch.peer) == _host(link.peer),
            bfd=any(self._sees(peer, number) for peer in state.relation_peers(number)),
            silent=now - heard,
        )

    def _sees(self, observer: int, number: int) -> bool:
        """Whether one compute sees another by BFD. What a switch that is away has left in its rows is not believed."""
        member = self.members.get(observer)
        return (
            member is not None
            and member.connected
            and member.tables is not None
            and number in vswitch.seen_by_bfd(member.tables)
        )

    def _ovsdb_event(self, link: OvsdbLink, holder: list[Member], event: ev.Event, said: Pulse) -> None:
        if not isinstance(event, (ev.Updated, ev.Synced)):
            return
        ports = isinstance(event, ev.Synced) or vswitch.concerns_ports(event.changes)
        for member in holder:
            if member.link is link:
                self._view_changed(member, vswitch.view(event.replica, True, self._tep) if ports else member.view)
                if vswitch.edited(event.changes):
                    self._edited(member, event.changes)
                elif (member.switch is None or member.phase is Phase.FOREIGN) and _beside_ours(event.changes):
                    # A switch that waits, silent, and a br-int that is foreign no longer show in rows that are not ours.
                    member.wake()
        if isinstance(event, ev.Synced) or vswitch.concerns_claim(event.replica, event.changes):
            said.fire()
        self.notify("rows")

    def _tep(self, number: int) -> str:
        compute = self.state.computes.get(number)
        return compute.tep if compute is not None else ""

    def _edited(self, member: Member, changes: Iterable[RowChange]) -> None:
        """What we keep in order on a compute was changed, by us or by hand: look at it again."""
        compute = self.state.computes.get(member.number)
        marks = vswitch.mark_change(changes)
        # Our own writes only ever lead to what State says.
        if compute is not None and marks is not None and marks[0] == compute.tombstoned != marks[1]:
            log.warning("edited_by_hand", compute=compute.name, key=vswitch.TOMBSTONED, put_back=compute.tombstoned)
        member.touch_rows()

    async def openflow_session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one switch until it goes."""
        if not self.store.leading.is_set():
            writer.close()
            return
        switch = SwitchLink(reader, writer, self._punt)
        self._sessions.add(switch)
        task = asyncio.create_task(switch.run())
        member: Member | None = None
        try:
            async with asyncio.timeout(HANDSHAKE):
                waits = [asyncio.create_task(switch.ready.wait()), asyncio.create_task(switch.lost.wait())]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for waiter in waits:
                        waiter.cancel()
            if switch.lost.is_set():
                raise SwitchLost(switch.reason)
            self._owner(switch)
            epoch = self.store.epoch
            await switch.take_role(self.store.own_term)
            if not self.store.leading.is_set() or self.store.epoch != epoch:
                raise SwitchLost("this controller does not lead any more")
            # Asked again: it may have been removed and readmitted while it answered.
            member = self._owner(switch)
            self._owners[switch] = member
            member.attach_switch(switch)
            asyncio.get_running_loop().call_later(OPENING_EYES + 0.01, self._look_again, member)
            self.notify("compute", name=member.name)
            await switch.lost.wait()
            log.info("openflow_session_lost", compute=member.name, reason=switch.reason)
        except TimeoutError:
            switch.close(f"no handshake within {HANDSHAKE:.0f} s")
        except Rejected as error:
            switch.close(f"the switch obeys a newer leader: {error}")
            log.error("stale_leader", dpid=switch.dpid, reason=str(error))
        except (SwitchLost, EbbtideError) as error:
            switch.close(str(error))
            self._say_once(f"{_host(switch.peer)} {switch.dpid}", "openflow_refused", str(error), dpid=switch.dpid)
        finally:
            switch.close("session over")
            await asyncio.gather(task, return_exceptions=True)
            self._sessions.discard(switch)
            self._owners.pop(switch, None)
            if member is not None:
                self._heard[member.number] = self.now()
                member.detach_switch(switch)
                self.notify("compute", name=member.name)

    def _say_once(self, who: str, what: str, reason: str, **facts: Any) -> None:
        """Log a refusal when its reason is a new one: who is refused comes again every second."""
        if self._said.get(who) != reason:
            if len(self._said) > 10_000:
                self._said.clear()
            self._said[who] = reason
            log.warning(what, peer=who, reason=reason, **facts)

    def _owner(self, switch: SwitchLink) -> Member:
        """The member whose switch this is: by datapath id, and from where its OVSDB comes."""
        state = self.state
        number = state.by_dpid.get(switch.dpid) or next(
            (c.number for c in state.removed.values() if c.dpid == switch.dpid), 0
        )
        member = self.members.get(number)
        if member is None or member.link is None:
            raise SwitchLost(f"no compute with DPN id {switch.dpid} has registered by OVSDB")
        theirs, registered = _host(switch.peer), _host(member.link.peer)
        if theirs != registered:
            raise SwitchLost(f"{theirs} claims the DPN id of {member.name}, which is at {registered}")
        if self.settings.openflow_tls and switch.certificate != member.link.certificate and member.link.certificate:
            raise SwitchLost(f"{theirs} has another certificate than {member.name}")
        return member

    def openflow_target(self, link: OvsdbLink) -> str:
        """Where a compute's switch finds us: the address at which its OVSDB did."""
        host = _host(link.local)
        scheme = "ssl" if self.settings.openflow_tls else "tcp"
        return f"{scheme}:{f'[{host}]' if ':' in host else host}:{self.settings.openflow_port}"

    # --- changes ---

    def _state_changed(self, edits: list[Edit], before: State, after: State) -> None:
        if not edits:
            return
        if not self.store.leading.is_set():
            # All of a store at once, or what another leader does: nobody is served from here, so nothing is kept.
            self.compiled.clear()
            return
        named = affected.by_edits(edits, before, after)
        for keys in named.values():
            self.compiled.forget(key for key in keys if not key.compute)
        # Who has most to do begins: where a port is plugged, rather than those who only send to it.
        for number, keys in sorted(named.items(), key=lambda each: -len(each[1])):
            if number in self.members:
                self.members[number].touch(keys, after.revision)
        ports: set[str] = set()
        for old, new in edits:
            fact = new if new is not None else old
            if isinstance(fact, Compute):
                if lifecycle.stands_aside(Edit(old, new)):
                    self._judge_again()
                self._member(fact.number).touch_rows()
                if new is None:
                    self._drop_member(fact.number)
                elif isinstance(old, Compute) and isinstance(new, Compute) and old.membership != new.membership:
                    self._membership_changed(new, ports)
            elif isinstance(fact, Relation):
                for number in (fact.gateway, fact.peer):
                    if number in self.members:
                        self.members[number].touch_rows()
            elif isinstance(fact, External):
                for number in after.mapped.get(fact.physical, ()):
                    self._member(number).touch_rows()
            elif isinstance(fact, Binding):
                # Tunnels come and go with the fragments named "tunnel": `touch` has marked the rows of whom they concern.
                ports.add(fact.port)
                self.places.bound_anew(fact.port)
            elif isinstance(fact, Port):
                ports.add(fact.id)
            elif isinstance(fact, Debt) and new is not None and fact.compute in self.members:
                # It may have nothing to do any more, and then nobody else would tell that it has paid.
                self.members[fact.compute].wake()
        self.places.look_at(ports)
        self.designations.changed(edits, before, after)
        self.outside.changed(edits)
        self.hidden.changed(edits)
        self.adverts.changed(edits)
        for told in self.edited:
            told(edits)
        self._release_soon()
        self.notify("state", revision=after.revision)
        facts = (new if new is not None else old for old, new in edits)
        for name in dict.fromkeys(_work(fact) for fact in facts if isinstance(fact, Operation | Item)):
            self.notify("operation", name=name, state=after.operations[name].state if name in after.operations else "")

    def _membership_changed(self, compute: Compute, ports: set[str]) -> None:
        member = self._member(compute.number)
        member.synced = False
        ports.update(member.view.ports)

    def _drop_member(self, number: int) -> None:
        """Readmitted: the sessions start anew, and are judged as new ones."""
        if number in self.state.computes or number in self.state.removed:
            return
        member = self.members.pop(number, None)
        self._stamps.pop(number, None)
        self._unexplained.pop(number, None)
        self.places.dropped(number)
        if member is not None:
            for session in (member.link, member.switch):
                if session is not None:
                    session.close("readmitted: connect again")
            task = asyncio.ensure_future(member.stop())
            task.add_done_callback(lambda _: None)

    def _look_again(self, member: Member) -> None:
        """A tunnel of a compute has been down for a moment: what was held back of that is seen now."""
        if member.link is not None and member.tables is not None:
            self._view_changed(member, vswitch.view(member.tables, True, self._tep))

    def _view_changed(self, member: Member, view: View) -> None:
        old, downs = member.view, len(member.down_at)
        again = 0.0
        if view.hold_off != self.settings.hold_off:
            view = msgspec.structs.replace(view, hold_off=self.settings.hold_off)
        if view is not old:
            view, again = member.look_around(view)
        if len(member.down_at) != downs:
            self.designations.look()
            asyncio.get_running_loop().call_later(JUDGED, self.standbys.hurry)
        if again:
            asyncio.get_running_loop().call_later(again + 0.01, self._look_again, member)
        if old == view:
            member.observed(view)
            return
        touched = affected.by_view(self.state, member.number, old, view)
        self.places.shown(member.number, old, view)
        for peer in differing(old.tunnels, view.tunnels):
            if peer not in view.tunnels:
                self.probes.forget(member.number, peer)
            else:
                self.probes.watch(member.number, peer)
        member.observed(view)
        member.touch(touched, self.state.revision)
        # No row of ours is about a VM's interface: to compare them all costs more than the flows of one that is plugged.
        if msgspec.structs.replace(old, ports=view.ports) != view:
            member.touch_rows()
        else:
            member.wake()
        ports = differing(old.ports, view.ports)
        if old.live != view.live:
            # What was bound there may have gone while nobody heard it.
            ports = {*old.ports, *view.ports, *self.state.ports_on.get(member.number, ())}
        self.places.look_at(port for port in ports if port in self.state.ports)

    def progressed(self, member: Member) -> None:
        """A member has taken a step."""
        self.adverts.back(member)
        self.places.somebody_has_moved_on()
        self.designations.look()
        self.probing.set()
        self.notify("progress", name=member.name)
        self._release_soon()
        if member.clean and any(d.compute == member.number for d in self.state.debts.values()):
            self.proofs.pay(member.number)

    def holding(self, revision: int) -> list[str]:
        """Members that have not confirmed a revision, or still hold something that it took away: by name, in order."""
        return sorted(m.name for m in self._of_ours() if m.rid_through() < revision)

    def _of_ours(self) -> list[Member]:
        found = [self.members.get(c.number) for c in self.state.computes.values() if c.membership is Membership.MEMBER]
        return [m for m in found if m is not None and m.phase is not Phase.FOREIGN]

    def _release_soon(self) -> None:
        if self.state.retired and self._releasing is None:
            self._releasing = asyncio.get_running_loop().call_later(_RELEASE, self._release_ids)

    def _release_ids(self) -> None:
        self._releasing = None
        through = min((m.rid_through() for m in self._of_ours()), default=self.state.revision)

        def decide(state: State) -> tuple[list[Edit], None]:
            return ids.released(state, through), None

        task = asyncio.ensure_future(self.store.commit(decide))
        task.add_done_callback(_log_failure)

    def notify(self, what: str, **facts: Any) -> None:
        """Tell all listeners that something has changed, and wake who waits."""
        if what == "compute":
            self.designations.look()
        for listener in self.listeners:
            listener(what, facts)
        self.changed.fire()

    async def wait_for(self, holds: Callable[[], bool], deadline: float) -> bool:
        """Wait until something holds; False when the deadline (seconds) has passed first."""
        return await self.changed.until(holds, deadline)

    # --- punts ---

    def _punt(self, switch: SwitchLink, packet: m.PacketIn) -> None:
        try:
            self._punted(switch, packet)
        except Exception:
            # What a packet says ends nobody's session.
            log.exception("punt_fault", peer=str(switch.peer))

    def _punted(self, switch: SwitchLink, packet: m.PacketIn) -> None:
        read = ledger.read_userdata(packet.userdata)
        member = self._owners.get(switch)
        if read is None or member is None:
            return
        punt, owner = read
        if punt in _OF_ROUTERS:
            self.outside.heard(punt, member, owner, packet)
            return
        if punt in (ledger.Punt.HIDDEN, ledger.Punt.ANSWER, ledger.Punt.CLAIM, ledger.Punt.ANNOUNCED):
            self.hidden.heard(punt, member, owner, packet)
            return
        if punt is ledger.Punt.ROUTER_ASKED:
            self.adverts.heard(member, owner, packet)
            return
        if punt is ledger.Punt.DHCP:
            leasing.heard(self.state, member, packet)
            return
        if punt is ledger.Punt.PROBE:
            probe = probes.read(packet.data)
            if probe is not None and probe[1] == member.number and packet.total_len >= probe[2]:
                self.probes.arrived(probe[0], probe[1], probe[2])
                self.places.tunnel_heard()
            return
        if punt in _RECORDED:
            known = exports.read_punt(packet)
            if known is not None:
                self.connections.tell(_RECORDED[punt], owner, member.number, known)
            return
        if punt is ledger.Punt.EXHAUSTED:
            router = self.state.by_router_tag.get(owner)
            if router is not None:
                self.exhaustions.heard(router, owner, member.name, packet.data)
            return
        port = self.state.by_lport.get(owner) if punt is ledger.Punt.EVIDENCE else None
        if port is None or len(packet.data) < 12:
            return
        if int.from_bytes(packet.data[6:12], "big") == self.state.ports[port].mac:
            self.places.heard(port, member.number)

    async def _probe(self) -> None:
        while True:
            wait = self.probes.run_due()
            self.probing.clear()
            try:
                async with asyncio.timeout(wait):
                    await self.probing.wait()
            except TimeoutError:
                pass

    # --- brake ---

    def unexplained(self, number: int, so: bool) -> None:
        """Whether flows would go from this compute for no reason that the store knows."""
        if so:
            self._unexplained[number] = self.now()
        else:
            self._unexplained.pop(number, None)

    def widespread(self) -> str:
        """Why nothing may go from any of them, or ""."""
        since = self.now() - TOGETHER
        return brake.widespread(sum(at >= since for at in self._unexplained.values()), len(self.state.members()))

    def compares_still(self) -> bool:
        """Whether this leadership is young, and not all members have been compared in it: switches come back one after the other."""
        return self._is_young() and not all(member.synced for member in self._of_ours())

    def braked(self, member: Member, stamp: brake.Stamp) -> None:
        """A member's switch was programmed by another store, or by a newer state of this one."""
        self._stamps[member.number] = stamp
        newer = [
            n
            for n, s in self._stamps.items()
            if s.store == self.state.store_id and s.revision > self.state.revision and n in self.members
        ]
        # One bridge may be edited by hand, and may be the first to connect; that more than half of all are newer is the store's fault.
        if 2 * len(newer) > len(self.state.members()) and member.number in newer and not self.store.hold:
            reason = f"{member.name} carries revision {stamp.revision}, the store was at {self.state.revision}"
            task = asyncio.ensure_future(
                self.store.set_hold(f"{reason}: `ebbtide reconcile --approve` if that is right")
            )
            task.add_done_callback(_log_failure)

    async def approve(self, names: Sequence[str]) -> list[str]:
        """Let braked computes be reconciled; all of them if none is named. Gives their names."""
        chosen = [x for x in self.members.values() if x.phase is Phase.BRAKED and (not names or x.name in names)]
        stamps = [self._stamps.get(x.number, brake.Stamp()) for x in chosen]
        if chosen:
            top = max(s.revision for s in stamps)
            await self.store.raise_to(top, max(s.term for s in stamps))
        if not names and self.store.hold:
            await self.store.set_hold("")
            chosen = list(
                {x.number: x for x in [*chosen, *(x for x in self.members.values() if x.link is not None)]}.values()
            )
        for member in chosen:
            member.approve()
        # One after the other is as good as all at once: the last one takes the store's own mark away.
        hold = self.store.hold
        if hold and chosen and all(x.released == hold for x in self._of_ours()):
            await self.store.set_hold("")
        if not self.store.hold:
            for member in self.members.values():
                member.released = ""
        return sorted(x.name for x in chosen)

    # --- for the north ---

    def unseen(self) -> set[tuple[int, int]]:
        """Pairs of computes of which the first has ceased to see the second by BFD."""
        sightings = [m.sighting() for m in self.members.values() if m.connected]
        return {(s.observer, number) for s in sightings for number in s.lost}

    def reachable(self) -> set[int]:
        """Computes that can be programmed now."""
        return {number for number, member in self.members.items() if member.connected}

    def owing_nothing(self) -> set[int]:
        """Computes that can be cleaned now, or hold nothing of ours. One that the brake holds is like one that is away: it will owe."""
        members = self.members.items()
        foreign = {n for n, m in members if m.phase is Phase.FOREIGN}
        return foreign | {n for n in self.reachable() if self.members[n].phase is not Phase.BRAKED}

    def phase(self, compute: Compute) -> Phase:
        """Where a compute stands."""
        member = self.members.get(compute.number)
        if compute.membership is Membership.REMOVED:
            return Phase.QUARANTINED
        return member.phase if member is not None else Phase.CONNECTED

    def settle_keys(self, number: int) -> list[Key]:
        """Fragments that a compute's switch has refused."""
        member = self.members.get(number)
        return sorted(member.rejected) if member is not None else []


def _beside_ours(changes: Iterable[RowChange]) -> bool:
    """Whether more has changed than the counters which our own transactions and the switch's answers to them move on."""
    return any(change.table != "Open_vSwitch" for change in changes)


def _work(fact: Operation | Item) -> str:
    """The operation that a fact is of."""
    return fact.operation if isinstance(fact, Item) else fact.id


def _host(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) else str(address)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("will_be_tried_again", reason=str(task.exception()))
