"""What has changed, written in the transaction that changes it.

A row says which object, and nothing else: what is sent is read from Neutron's database when it is sent, or the object is deleted there
because it is not here any more. So no order of rows can be wrong, and rows of one object are one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron_lib.db import api as db_api
from neutron_lib.db import model_base
from oslo_config import cfg
from oslo_log import log

from neutron_ebbtide.errors import Lost

LOG = log.getLogger(__name__)
#: Seconds until a row that was refused is tried again: at first, and at most.
FIRST, LAST = 5, 300
#: Characters of the controller's words that are kept with a row.
WORDS = 500
#: Rows in one statement: databases take unions of more, but not all of them any number.
_PAGE = 100
#: The one row of leases.
_NAME = "sender"
#: On this a worker of the same host is woken.
WAKE = "ebbtide.wake"


class Row(model_base.BASEV2):
    """An object that has changed. `not_before`: when it is tried again (seconds, by the database's clock)."""

    __tablename__ = "ebbtide_journal"
    __table_args__ = (sa.Index("ix_ebbtide_journal_object", "kind", "object_id"), model_base.BASEV2.__table_args__)

    seq = sa.Column(sa.BigInteger(), primary_key=True, autoincrement=True)
    kind = sa.Column(sa.String(32), nullable=False)
    object_id = sa.Column(sa.String(36), nullable=False)
    tries = sa.Column(sa.Integer(), nullable=False, default=0)
    not_before = sa.Column(sa.BigInteger(), nullable=False, default=0, index=True)
    error = sa.Column(sa.String(WORDS), nullable=False, default="")


class Lease(model_base.BASEV2):
    """Who sends. `generation` grows with each owner: the controller takes nothing from one of before. It is the time when that is more, so
    that it grows too when Neutron's database is restored, or made anew."""

    __tablename__ = "ebbtide_lease"

    name = sa.Column(sa.String(16), primary_key=True)
    owner = sa.Column(sa.String(64), nullable=False)
    generation = sa.Column(sa.BigInteger(), nullable=False, default=0)
    until = sa.Column(sa.BigInteger(), nullable=False, default=0)


class Entry(NamedTuple):
    """A row that was read."""

    seq: int
    kind: str
    id: str
    tries: int


def note(context: Any, kind: str, *ids: str) -> None:
    """Write that these have changed; the caller is in its transaction."""
    for object_id in ids:
        context.session.add(Row(kind=kind, object_id=object_id, tries=0, not_before=0, error=""))
    # Before the end of the transaction: what is wrong with the table is an error of the request, not of its commit.
    context.session.flush()


def wake() -> None:
    """Wake the worker of this host, if it is here: it looks by itself soon enough."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        try:
            out.sendto(b".", wake_path())
        except OSError:
            pass


def wake_path() -> str:
    """Where it listens."""
    return os.path.join(cfg.CONF.state_path, WAKE)


@contextlib.contextmanager
def _at_once() -> Iterator[sa.Connection]:
    """Each statement is a transaction of its own, over when the database has done it. Whoever vanishes within a longer one leaves the
    database waiting for it, for hours, with its rows locked: nobody else could take over."""
    with db_api.CONTEXT_WRITER.get_engine().connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def _now(connection: Any) -> int:
    """Seconds since 1970 by the database's clock: those of several hosts differ."""
    return int(connection.execute(sa.select(sa.func.unix_timestamp())).scalar())


def _change(connection: sa.Connection, verb: str, seqs: Sequence[int], change: str = "", **values: Any) -> None:
    """Change rows with these numbers (as `j`), each looked up by itself. Left its choice, the database reads the whole table for many of
    them, and waits for every row that somebody is about to write; whoever that is may have vanished."""
    for at in range(0, len(seqs), _PAGE):
        numbers = " UNION ALL ".join(f"SELECT {int(seq)} AS seq" for seq in seqs[at : at + _PAGE])
        rows = f"({numbers}) v STRAIGHT_JOIN {Row.__tablename__} j FORCE INDEX (PRIMARY) ON j.seq = v.seq"
        connection.execute(sa.text(f"{verb} {rows} {change}"), values)


def waiting(context: Any, most: int, kinds: Sequence[str]) -> list[Entry]:
    """Rows whose time has come; of these kinds first, in that order, and the oldest of each first."""
    rank = sa.case({kind: number for number, kind in enumerate(kinds)}, value=Row.kind, else_=len(kinds))
    with db_api.CONTEXT_READER.using(context):
        session = context.session
        found = session.execute(
            sa.select(Row.seq, Row.kind, Row.object_id, Row.tries)
            .where(Row.not_before <= _now(session))
            .order_by(rank, Row.seq)
            .limit(most)
        )
        return [Entry(*row) for row in found]


def length(context: Any) -> tuple[int, list[tuple[str, str, int, str]]]:
    """How many rows there are, and up to a hundred of those that were refused: kind, id, tries, words."""
    with db_api.CONTEXT_READER.using(context):
        count = context.session.execute(sa.select(sa.func.count(Row.seq))).scalar()
        found = context.session.execute(
            sa.select(Row.kind, Row.object_id, Row.tries, Row.error).where(Row.tries > 0).order_by(Row.seq).limit(100)
        )
        return int(count or 0), [tuple(row) for row in found]


def pending(context: Any, kind: str) -> set[str]:
    """Objects of a kind that wait for their first try."""
    with db_api.CONTEXT_READER.using(context):
        found = context.session.execute(sa.select(Row.object_id).where(Row.kind == kind, Row.tries == 0))
        return set(found.scalars())


@db_api.retry_db_errors
def again(kind: str, ids: Sequence[str]) -> None:
    """Have these sent, those that were refused too, and now."""
    with _at_once() as connection:
        refused = connection.execute(
            sa.select(Row.seq).where(Row.kind == kind, Row.tries > 0, Row.object_id.in_(ids))
        ).scalars()
        before = list(refused)
        rows = [{"kind": kind, "object_id": each, "tries": 0, "not_before": 0, "error": ""} for each in ids]
        connection.execute(sa.insert(Row), rows)
        _change(connection, "DELETE j FROM", before)


class Holder:
    """The right to send, for one worker."""

    def __init__(self, seconds: float) -> None:
        self.owner = f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._seconds = int(seconds)
        self._renewed = float("-inf")
        self.generation = 0

    def keep(self) -> None:
        """Renew it, if a quarter of it is over: what is done next is done within it.

        Raises:
            Lost: another has it, or had it meanwhile: what was read before may be old.
        """
        if time.monotonic() - self._renewed > self._seconds / 4:
            before = self.generation
            if not self.hold() or self.generation != before:
                raise Lost("the lease was over")

    def hold(self) -> bool:
        """Take or renew it; False: another has it."""
        began = time.monotonic()
        generation = self._hold()
        self._renewed = began if generation else float("-inf")
        if generation not in (0, self.generation):
            self.generation = generation
            LOG.info("ebbtide: this worker sends, as number %d", generation)
        return bool(generation)

    @db_api.retry_db_errors
    def _hold(self) -> int:
        """Its generation; 0: another has it."""
        with _at_once() as connection:
            now = _now(connection)
            own = Lease.owner == self.owner
            more = sa.case((Lease.generation < now, now), else_=Lease.generation + 1)
            # MySQL assigns in this order, and reads what it has assigned: the owner comes last.
            change = (
                sa.update(Lease)
                .where(Lease.name == _NAME, sa.or_(own, Lease.until <= now))
                .ordered_values(
                    (Lease.generation, sa.case((own, Lease.generation), else_=more)),
                    (Lease.until, now + self._seconds),
                    (Lease.owner, self.owner),
                )
            )
            if not connection.execute(change).rowcount:
                if connection.execute(sa.select(Lease.name)).first():
                    return 0
                # Of two that find none, one makes it, and the other is told of a duplicate, which is tried again.
                connection.execute(sa.insert(Lease).values(name=_NAME, owner="", generation=0, until=0))
                connection.execute(change)
            return connection.execute(sa.select(Lease.generation).where(own)).scalar() or 0

    def _check(self, connection: sa.Connection) -> None:
        """That it still sends. Another may take over the moment after: that one judges each object anew, so what is written here of a call
        that the controller has answered does no harm then."""
        own = sa.select(Lease.name).where(Lease.owner == self.owner, Lease.generation == self.generation)
        if not connection.execute(own).first():
            raise Lost("another worker has taken over")

    @db_api.retry_db_errors
    def sent(self, rows: Sequence[int]) -> None:
        """These were sent: just these, since others of the same object may have come meanwhile.

        Raises:
            Lost: another one sends by now, and judges for itself.
        """
        with _at_once() as connection:
            self._check(connection)
            _change(connection, "DELETE j FROM", rows)

    @db_api.retry_db_errors
    def refused(self, rows: Sequence[Entry], words: str) -> None:
        """These were refused, and wait.

        Raises:
            Lost: see `sent`.
        """
        tries = max(row.tries for row in rows) + 1
        pause = min(FIRST * 2 ** (tries - 1), LAST)
        change = "SET j.tries = :tries, j.error = :error, j.not_before = UNIX_TIMESTAMP() + :pause"
        values = {"tries": tries, "error": words[:WORDS], "pause": pause}
        with _at_once() as connection:
            self._check(connection)
            _change(connection, "UPDATE", [row.seq for row in rows], change, **values)

    @db_api.retry_db_errors
    def release(self) -> None:
        """Let another take over at once."""
        with _at_once() as connection:
            connection.execute(sa.update(Lease).where(Lease.owner == self.owner).values(owner="", until=0))
        self._renewed = float("-inf")
