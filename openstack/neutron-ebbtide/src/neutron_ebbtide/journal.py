"""What has changed, written in the transaction that changes it.

A row says which object, and nothing else: what is sent is read from Neutron's database when it is sent, or the object is deleted there
because it is not here any more. So no order of rows can be wrong, and rows of one object are one.
"""

from __future__ import annotations

import datetime
import os
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
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
#: On this a worker of the same host is woken.
WAKE = "ebbtide.wake"


class Row(model_base.BASEV2):
    """An object that has changed. `not_before`: when it is tried again (seconds, by the database's clock)."""

    __tablename__ = "ebbtide_journal"
    __table_args__ = (sa.Index("ix_ebbtide_journal_object", "kind", "object_id"), model_base.BASEV2.__table_args__)

    seq = sa.Column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True)
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


def _now(session: Any) -> int:
    """Seconds since 1970 by the database's clock: those of several hosts differ."""
    mysql = session.get_bind().dialect.name in ("mysql", "mariadb")
    # now() is in the session's zone, and goes back when summer ends.
    found = session.execute(sa.select(sa.func.utc_timestamp() if mysql else sa.func.now())).scalar()
    if isinstance(found, str):
        found = datetime.datetime.fromisoformat(found)
    return int((found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp())


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
def again(context: Any, kind: str, ids: Sequence[str]) -> None:
    """Have these sent, those that were refused too, and now."""
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(sa.delete(Row).where(Row.kind == kind, Row.tries > 0, Row.object_id.in_(ids)))
        note(context, kind, *ids)


class Holder:
    """The right to send, for one worker."""

    def __init__(self, seconds: float) -> None:
        self.owner = f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._seconds = int(seconds)
        self._renewed = float("-inf")
        self.generation = 0

    def keep(self, context: Any) -> None:
        """Renew it, if a quarter of it is over: what is done next is done within it.

        Raises:
            Lost: another has it.
        """
        if time.monotonic() - self._renewed > self._seconds / 4 and not self.hold(context):
            raise Lost("the lease was over")

    def hold(self, context: Any) -> bool:
        """Take or renew it; False: another has it."""
        began = time.monotonic()
        held = bool(self._hold(context))
        self._renewed = began if held else float("-inf")
        return held

    @db_api.retry_db_errors
    def _hold(self, context: Any) -> bool:
        with db_api.CONTEXT_WRITER.using(context):
            session = context.session
            lease = session.get(Lease, "sender", with_for_update=True)
            now = _now(session)
            if lease is None:
                lease = Lease(name="sender", owner="", generation=0, until=0)
                session.add(lease)
            if lease.owner != self.owner:
                if lease.until > now:
                    return False
                lease.owner, lease.generation = self.owner, max(lease.generation + 1, now)
                LOG.info("ebbtide: this worker sends, as number %d", lease.generation)
            lease.until = now + self._seconds
            self.generation = lease.generation
        return True

    def _check(self, session: Any) -> None:
        lease = session.get(Lease, "sender", with_for_update=True)
        if lease is None or (lease.owner, lease.generation) != (self.owner, self.generation):
            raise Lost("another worker has taken over")

    @db_api.retry_db_errors
    def sent(self, context: Any, rows: Iterable[int]) -> None:
        """These were sent: just these, since others of the same object may have come meanwhile.

        Raises:
            Lost: another one sends by now, and judges for itself.
        """
        with db_api.CONTEXT_WRITER.using(context):
            self._check(context.session)
            context.session.execute(sa.delete(Row).where(Row.seq.in_(list(rows))))

    @db_api.retry_db_errors
    def refused(self, context: Any, rows: Sequence[Entry], words: str) -> None:
        """These were refused, and wait.

        Raises:
            Lost: see `sent`.
        """
        tries = max(row.tries for row in rows) + 1
        pause = min(FIRST * 2 ** (tries - 1), LAST)
        with db_api.CONTEXT_WRITER.using(context):
            self._check(context.session)
            later = {"tries": tries, "error": words[:WORDS], "not_before": _now(context.session) + pause}
            context.session.execute(sa.update(Row).where(Row.seq.in_([row.seq for row in rows])).values(later))

    @db_api.retry_db_errors
    def release(self, context: Any) -> None:
        """Let another take over at once."""
        with db_api.CONTEXT_WRITER.using(context):
            lease = context.session.get(Lease, "sender", with_for_update=True)
            if lease is not None and lease.owner == self.owner:
                lease.owner, lease.until = "", 0
        self._renewed = float("-inf")
