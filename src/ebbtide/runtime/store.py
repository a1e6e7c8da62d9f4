"""The store: the one truth, in `ovsdb-server` with our schema; State is its replica.

`commit(decide)` is the only way to write: `decide(state)` is asked for edits on the newest State, they are stored in one durable
transaction that waits on the revision and the term that the decision was made on, and State has moved on when it returns. A
decision that was overtaken is made again. Two leaders can therefore never both write, whatever their locks say (the locks of a
clustered ovsdb-server are kept per server).

A store that cannot be reached raises StoreUnreachable from `commit`; State stays as it was last known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from ebbtide.errors import StoreUnreachable, Unexpected
from ebbtide.model.facts import (
    Binding,
    Compute,
    Designation,
    Document,
    Edit,
    Fact,
    Item,
    Learnt,
    Lease,
    Move,
    Operation,
    Proof,
    Retired,
)
from ebbtide.model.state import State, apply, in_order
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.conditions import Where, add, by_uuid, eq
from ebbtide.ovsdb.databases import SERVER_DATABASE, database_statuses, database_watch
from ebbtide.ovsdb.replica import Replica, RowChange
from ebbtide.ovsdb.transaction import Transaction
from ebbtide.ovsdb.values import Uuid
from ebbtide.runtime import records
from ebbtide.runtime.link import LinkLost, OvsdbLink

LOCK = "ebbtide"
log = structlog.get_logger("store")
T = TypeVar("T")


async def open_remote(remote: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to "unix:PATH" or "tcp:HOST:PORT"."""
    kind, _, rest = remote.partition(":")
    if kind == "unix":
        return await asyncio.open_unix_connection(rest, limit=1 << 24)
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port), limit=1 << 24)
    raise Unexpected(f"{remote}: a store is unix:PATH or tcp:HOST:PORT")


class Store:
    """A connection to one of the remotes, the State, and leadership.

    `on_change(edits, before, after)` is called for each revision, synchronously, in order.
    """

    def __init__(
        self, remotes: Sequence[str], on_change: Callable[[list[Edit], State, State], None], *, new_store_id: str
    ) -> None:
        self.state = State()
        self.hold = ""
        self.leading = asyncio.Event()
        self.reachable = False
        self.reason = "not connected yet"
        self._remotes = list(remotes)
        self._on_change = on_change
        self._new_store_id = new_store_id
        self._replica: Replica | None = None
        # The server finds a row by its uuid at once, and by anything else by looking at all of the table.
        self._uuids: dict[tuple[Any, ...], Uuid] = {}
        self._link: OvsdbLink | None = None
        self._status: Replica | None = None
        self._writing = asyncio.Lock()
        self._locked = asyncio.Event()
        self._term = 0
        self._deposed = asyncio.Event()
        self._broken = False
        #: Counts leaderships: who waits for a new one cannot miss it, however short the gap was.
        self.epoch = 0
        #: Transactions that were asked for, and the seconds for which they were waited for.
        self.transactions, self.waited = 0, 0.0

    @property
    def own_term(self) -> int:
        """The term of our own leadership, past or present. What fences our writes: State's may be that of who came after us."""
        return self._term

    # --- connection ---

    async def run(self) -> None:
        """Keep connected, one remote after the other, and lead when the lock is ours."""
        wait, turn = 0.1, 0
        while True:
            remote = self._remotes[turn % len(self._remotes)]
            turn += 1
            try:
                await self._session(remote)
                wait = 0.1
            except (OSError, LinkLost) as error:
                self.reason = f"{remote}: {error}"
                wait = min(wait * 2, 2.0)
            self._lost()
            await asyncio.sleep(wait)

    def _lost(self) -> None:
        if self.reachable:
            log.warning("store_unreachable", reason=self.reason)
        self.reachable = False
        self._link = None
        self._locked.clear()
        self.leading.clear()

    async def _session(self, remote: str) -> None:
        reader, writer = await open_remote(remote)
        link = OvsdbLink(reader, writer, self._event)
        task = asyncio.create_task(link.run())
        try:
            await self._check_leader(link)
            schema = await link.schema(records.DATABASE)
            if not records.is_enough(schema.version):
                raise LinkLost(
                    f"the store has schema {schema.version}, this is a controller for {records.SCHEMA_VERSION}: "
                    "convert the store (docs/operations.md, upgrade), or use the controller that it is for"
                )
            if self._broken:
                self._broken, self._replica = False, None
                self.state = State()
            if self._replica is None:
                self._replica = Replica(schema)
            else:
                self._replica.adopt(schema)
            await link.monitor(self._replica)
            if self._broken:
                raise LinkLost("the store holds what cannot be understood")
            self._link = link
            self.reachable = True
            if await link.lock(LOCK):
                self._locked.set()
            while not link.lost.is_set():
                await _first(self._locked.wait(), link.lost.wait())
                if self._locked.is_set() and not self.leading.is_set() and not link.lost.is_set():
                    await self._lead(schema)
                if self.leading.is_set():
                    await _first(self._deposed.wait(), link.lost.wait())
                    # Whoever has raised the term may go on raising it: two that lead in turn are worse than one that waits.
                    await _first(asyncio.sleep(2.0), link.lost.wait())
            self.reason = f"{remote}: {link.reason}"
        finally:
            link.close("")
            task.cancel()

    async def _check_leader(self, link: OvsdbLink) -> None:
        """In a cluster, only its leader will do: a follower's reads lag, and its locks are its own (ovsdb-server(7) section 2.2.2)."""
        watch = database_watch(await link.schema(SERVER_DATABASE))
        await link.monitor(watch)
        status = database_statuses(watch).get(records.DATABASE)
        if status is None:
            raise LinkLost(f"this server has no database {records.DATABASE}")
        if status.model == "clustered" and not (status.connected and status.leader):
            raise LinkLost("this server of the cluster is not its leader")
        self._status = watch

    def _led_elsewhere(self) -> bool:
        status = database_statuses(self._status).get(records.DATABASE) if self._status is not None else None
        return status is None or (status.model == "clustered" and not (status.connected and status.leader))

    async def _lead(self, schema: Any) -> None:
        """A new leadership: one more term, in a transaction that only succeeds for one."""
        assert self._link is not None
        assert self._replica is not None
        transaction = Transaction(schema)
        transaction.assert_lock(LOCK)
        term = self.state.term + 1
        if self._replica.rows("Global"):
            self._wait(transaction)
            # The revision stays: it counts what was asked for, and a leadership asks for nothing.
            # A store that was converted from a schema without it has none: what it asked for last is its revision.
            intent = self.state.intent or self.state.revision
            transaction.update("Global", (), {"term": term, "intent": intent})
        else:
            transaction.wait("Global", (), [], columns=["store_id"])
            row = {"store_id": self._new_store_id, "revision": 1, "intent": 1, "term": term, "hold": ""}
            transaction.insert("Global", row)
        transaction.commit(durable=True)
        outcome = await self._link.transact(transaction)
        if outcome.ok:
            self._term = term
            self._deposed.clear()
            self.epoch += 1
            self.leading.set()
            log.info("leading", term=term, revision=self.state.revision, store=self.state.store_id)
        else:
            log.warning("leadership_lost", reason=str(outcome.error))
            await asyncio.sleep(0.2)

    def _wait(self, transaction: Transaction) -> None:
        found = {"revision": self.state.revision, "term": self.state.term}
        transaction.wait("Global", (), [found])

    # --- replica ---

    def _event(self, event: ev.Event) -> None:
        match event:
            case ev.Updated(replica=replica) | ev.Synced(replica=replica) if replica is not self._replica:
                if self._link is not None and self._led_elsewhere():
                    self._link.close("the cluster has another leader")
            case ev.Updated(changes=changes) | ev.Synced(changes=changes):
                try:
                    self._follow(changes)
                except Exception:
                    # State and replica must not part: forget both, and read everything again under a new leadership.
                    log.exception("state_not_followed")
                    self._broken = True
                    if self._link is not None:
                        self._link.close("what the store said could not be followed")
            case ev.Locked():
                self._locked.set()
            case ev.Stolen():
                self._locked.clear()
                self.leading.clear()
                self._deposed.set()
            case ev.MonitorCanceled() if self._link is not None:
                self._link.close("the store's schema changed")
            case _:
                log.debug("store_event", seen=repr(event))

    def _follow(self, changes: Iterable[RowChange]) -> None:
        edits: list[Edit] = []
        before = self.state
        revision, store_id, term, intent = before.revision, before.store_id, before.term, before.intent
        for change in changes:
            if change.table == "Global":
                if change.new is not None:
                    revision, store_id, term = change.new["revision"], change.new["store_id"], change.new["term"]
                    self.hold, intent = change.new["hold"], change.new["intent"]
                continue
            old = records.fact_of(change.table, change.old) if change.old is not None else None
            new = records.fact_of(change.table, change.new) if change.new is not None else None
            edits.append(Edit(old, new))
            if old is not None and self._uuids.get(_name(old)) == change.uuid:
                del self._uuids[_name(old)]
            if new is not None:
                self._uuids[_name(new)] = change.uuid
        if self.leading.is_set() and term > self._term:
            log.warning("deposed", term=term, own=self._term)
            self.leading.clear()
            self._deposed.set()
        self.state = apply(before, edits, revision, store_id=store_id, term=term, intent=intent)
        self._on_change(edits, before, self.state)

    # --- writing ---

    async def commit(self, decide: Callable[[State], tuple[list[Edit], T]]) -> T:
        """Decide on the newest State and store the edits as its next revision; gives what `decide` gave with them.

        The revision field of a Binding, an Operation and a Retired is filled in with the revision they are stored at.

        Raises:
            StoreUnreachable: nothing is known to be written. After a connection that broke in the middle, the same decision
                made again on the State that the store then shows is right, whichever way it went.
        """
        async with self._writing:
            for _ in range(20):
                if self._link is None or not self.leading.is_set():
                    raise StoreUnreachable(
                        f"the store cannot be written now ({self.reason if not self.reachable else 'another controller leads'}); "
                        "nothing was changed, try again"
                    )
                edits, answer = decide(self.state)
                if not edits:
                    return answer
                seen = self.state.revision, self.state.term
                began = asyncio.get_running_loop().time()
                try:
                    outcome = await self._link.transact(self._transaction(edits))
                except LinkLost as error:
                    raise StoreUnreachable(
                        f"the store went away in the middle: {error}; ask what became of it"
                    ) from None
                finally:
                    self.transactions += 1
                    self.waited += asyncio.get_running_loop().time() - began
                if outcome.ok:
                    return answer
                if (self.state.revision, self.state.term) == seen:
                    raise Unexpected(f"the store refused a transaction: {outcome.error}")
        raise StoreUnreachable("the store is changed by somebody else faster than a decision can be made")

    def _transaction(self, edits: Iterable[Edit]) -> Transaction:
        assert self._replica is not None
        transaction = Transaction(self._replica.schema)
        transaction.assert_lock(LOCK)
        self._wait(transaction)
        revision = self.state.revision + 1
        asked = False
        for old, new in in_order(list(edits)):
            asked = asked or _asks(old, new)
            if new is None:
                assert old is not None
                transaction.delete(records.table_of(old), self._where(old))
                continue
            row = records.row_of(_dated(new, old, revision))
            if old is None:
                transaction.insert(records.table_of(new), row)
            else:
                was = records.row_of(old)
                changed = {k: v for k, v in row.items() if was[k] != v}
                transaction.update(records.table_of(old), self._where(old), changed)
        transaction.mutate("Global", (), [add("revision", 1)])
        if asked:
            # What tenants' machines say of themselves, and how far work has come, explains nothing to the brake.
            transaction.update("Global", (), {"intent": revision})
        transaction.commit(durable=True)
        return transaction

    def _where(self, fact: Fact) -> Where:
        uuid = self._uuids.get(_name(fact))
        return by_uuid(uuid) if uuid is not None else [eq(k, v) for k, v in records.key_of(fact)]

    async def replace(self, facts: Iterable[Fact], store_id: str, hold: str) -> None:
        """Everything in the store becomes these facts, in one transaction, under a new store id."""
        async with self._writing:
            if self._link is None or self._replica is None or not self.leading.is_set():
                raise StoreUnreachable("the store cannot be written now; nothing was changed")
            transaction = Transaction(self._replica.schema)
            transaction.assert_lock(LOCK)
            self._wait(transaction)
            for table in records.TABLES:
                transaction.delete(table, ())
            for fact in facts:
                transaction.insert(records.table_of(fact), records.row_of(fact))
            revision = self.state.revision + 1
            row = {"store_id": store_id, "revision": revision, "intent": revision, "hold": hold}
            transaction.update("Global", (), row)
            transaction.commit(durable=True)
            try:
                outcome = await self._link.transact(transaction)
            except LinkLost as error:
                raise StoreUnreachable(f"the store went away in the middle: {error}; look what it holds") from None
            if not outcome.ok:
                raise Unexpected(f"the store refused the backup: {outcome.error}")

    async def set_hold(self, reason: str) -> None:
        """Record (or clear, with "") that this store is not trusted: it outlives the controller."""
        await self._set_global({"hold": reason})

    async def raise_to(self, revision: int, term: int) -> None:
        """Lift revision and term above what a switch has seen, after an operator has approved this store."""
        self._term = max(term, self.state.term)
        raised = max(revision, self.state.revision) + 1
        await self._set_global({"revision": raised, "intent": raised, "term": self._term})

    async def _set_global(self, row: dict[str, Any]) -> None:
        async with self._writing:
            if self._link is None or self._replica is None or not self.leading.is_set():
                raise StoreUnreachable("the store cannot be written now; nothing was changed")
            transaction = Transaction(self._replica.schema)
            transaction.assert_lock(LOCK)
            self._wait(transaction)
            transaction.update("Global", (), row)
            transaction.commit(durable=True)
            try:
                outcome = await self._link.transact(transaction)
            except LinkLost as error:
                raise StoreUnreachable(f"the store went away in the middle: {error}; ask what became of it") from None
            if not outcome.ok:
                raise StoreUnreachable(f"the store was changed by somebody else meanwhile: {outcome.error}; try again")


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Until one of them is done; the others are given up."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _asks(old: Fact | None, new: Fact | None) -> bool:
    """Whether an edit asks for something else to be installed than before."""
    if isinstance(old, Move) and isinstance(new, Move):
        return (old.old, old.new, old.phase, old.turned) != (new.old, new.new, new.phase, new.turned)
    return not isinstance(new if new is not None else old, Learnt | Operation | Item | Proof | Document)


def _name(fact: Fact) -> tuple[Any, ...]:
    """What identifies a fact among all."""
    table = records.table_of(fact)
    return (table, *(getattr(fact, column) for column in records.TABLES[table][1]))


def _dated(new: Fact, old: Fact | None, revision: int) -> Fact:
    if isinstance(new, Binding) and (not isinstance(old, Binding) or old.phase != new.phase):
        return msgspec.structs.replace(new, since=revision)
    if isinstance(new, Retired | Lease) and not new.since:
        return msgspec.structs.replace(new, since=revision)
    if isinstance(new, Designation) and (not isinstance(old, Designation) or old.compute != new.compute):
        return msgspec.structs.replace(new, since=revision)
    if isinstance(new, Move) and (not isinstance(old, Move) or old.phase != new.phase):
        return msgspec.structs.replace(new, since=revision, began=new.began or revision)
    if isinstance(new, Operation) and not new.revision:
        return msgspec.structs.replace(new, revision=revision)
    if isinstance(new, Compute) and new.removed_at and isinstance(old, Compute) and not old.removed_at:
        return msgspec.structs.replace(new, removed_at=revision)
    return new
