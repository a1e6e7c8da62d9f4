"""What a session has to say: values, each the answer to one request or one thing that the peer did.

Answers carry `request`, the number that the call returned, so a driver can keep one future per request and hand the
rest to whoever watches. Nothing in here has behaviour.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ebbtide.errors import RemoteProtocolError
from ebbtide.ovsdb.replica import Replica, RowChange
from ebbtide.ovsdb.schema import DatabaseSchema
from ebbtide.ovsdb.transaction import OperationError, Outcome

__all__ = [
    "Answer",
    "Broken",
    "DatabasesListed",
    "Done",
    "EchoReplied",
    "Event",
    "Failed",
    "Ignored",
    "LockAnswered",
    "Locked",
    "MonitorCanceled",
    "SchemaReceived",
    "Stolen",
    "Synced",
    "Transacted",
    "Updated",
]


class Answer(msgspec.Struct, frozen=True):
    """The peer answered `request`."""

    request: int


class Done(Answer, frozen=True):
    """It did as asked and has nothing to add: monitor_cancel, monitor_cond_change, unlock, set_db_change_aware."""


class EchoReplied(Answer, frozen=True):
    """Our echo came back: the peer lives."""


class Failed(Answer, frozen=True):
    """It refused the request as a whole. `error.index` is -1."""

    method: str
    error: OperationError


class DatabasesListed(Answer, frozen=True):
    """list_dbs."""

    names: tuple[str, ...]


class SchemaReceived(Answer, frozen=True):
    """get_schema."""

    schema: DatabaseSchema


class Transacted(Answer, frozen=True):
    """transact: done, or refused; a refusal is in `outcome.error`."""

    outcome: Outcome


class Synced(Answer, frozen=True):
    """The monitor runs. `changes` leads from what the replica held to what it holds; `found`: the server resumed."""

    replica: Replica
    found: bool
    changes: list[RowChange]


class LockAnswered(Answer, frozen=True):
    """lock or steal. `held` False: we stand in the queue, and `Locked` follows some day."""

    lock: str
    held: bool


class Updated(msgspec.Struct, frozen=True):
    """Rows changed, by one transaction or several."""

    replica: Replica
    changes: list[RowChange]


class MonitorCanceled(msgspec.Struct, frozen=True):
    """The server ended the monitor: the database went away or got another schema. Ask for the schema again, let the
    replica adopt it, and monitor again."""

    replica: Replica


class Locked(msgspec.Struct, frozen=True):
    """A lock that we waited for is ours."""

    lock: str


class Stolen(msgspec.Struct, frozen=True):
    """Another client took our lock. We stand in the queue again (ovsdb-server keeps us there)."""

    lock: str


class Ignored(msgspec.Struct, frozen=True):
    """Something that the protocol lets us pass over: a late update, a reply to nothing, an unknown method."""

    what: str


class Broken(msgspec.Struct, frozen=True):
    """The peer broke the protocol. Always the last event of a session; close the connection."""

    error: RemoteProtocolError


Event: TypeAlias = "Answer | Updated | MonitorCanceled | Locked | Stolen | Ignored | Broken"
