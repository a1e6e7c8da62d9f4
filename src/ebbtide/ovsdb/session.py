"""One OVSDB connection, without its I/O (RFC 7047 section 4, ovsdb-server(7)).

Bytes go in by `receive`, events come out; each request method returns the number of its request and puts bytes where
`data_to_send` finds them. Both sides of the wire look alike: a compute's ovsdb-server that connected to us and our
own store that we connected to. Rules of this room:

 1. The state moves only by `_TRANSITIONS`; locks have their own table (`locks.py`).
 2. What the peer breaks is a RemoteProtocolError: it comes out as the event `Broken`, after all events before it (for
    their changes are in the replicas already), and the state is BROKEN for ever. What the caller breaks is a
    LocalProtocolError and changes nothing.
 3. Late and unknown things that the RFC allows are `Ignored`, and counted.
 4. Echo is answered here. Other requests of the peer get the error "unknown method".

Some 430 lines: one short method for each message of the protocol, requests beside their replies; no part of them
stands alone.

        receive, requests
          ┌────┐
          └─► OPEN ──garbage──► BROKEN
                └────eof, close──► CLOSED
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.conditions import Where
from ebbtide.ovsdb.framing import DEFAULT_LIMIT, Envelope, Framer, encode_message
from ebbtide.ovsdb.locks import Locks, LockState
from ebbtide.ovsdb.replica import MONITOR_METHODS, Replica
from ebbtide.ovsdb.schema import parse_schema
from ebbtide.ovsdb.transaction import CANCELED, OperationError, Outcome, Transaction, decode_error
from ebbtide.ovsdb.values import check_id

__all__ = ["Session", "State"]


class State(enum.Enum):
    """Of the connection."""

    OPEN = "open"
    BROKEN = "broken"
    CLOSED = "closed"


#: (state, what happened) -> state. Anything else stays where it is.
_TRANSITIONS = {
    (State.OPEN, "garbage"): State.BROKEN,
    (State.OPEN, "eof"): State.CLOSED,
}


class _Pending(msgspec.Struct, frozen=True):
    """A request without reply. `request` is the caller's number: a monitor may take several tries under it."""

    request: int
    method: str
    subject: Any = None


class Session:
    """One connection. Make a new one for each."""

    def __init__(self, *, limit: int = DEFAULT_LIMIT, monitor_methods: tuple[str, ...] = MONITOR_METHODS) -> None:
        """`limit`: bytes of one message of the peer. `monitor_methods`: the ones to try, in order."""
        self.state = State.OPEN
        self.error: RemoteProtocolError | None = None
        #: things passed over so far
        self.ignored = 0
        self._framer = Framer(limit)
        self._outgoing: list[bytes] = []
        self._next_id = 0
        self._pending: dict[int, _Pending] = {}
        self._monitors: dict[str, Replica] = {}
        self._locks = Locks()
        self._monitor_methods = monitor_methods

    # ---- bytes ----

    def receive(self, data: bytes) -> list[ev.Event]:
        """Bytes from the peer. The events are in order; `Broken` is the last one there will ever be."""
        if self.state is not State.OPEN:
            raise self.error or LocalProtocolError("bytes for a session that is closed")
        events: list[ev.Event] = []
        try:
            for message in self._framer.feed(data):
                event = self._on_message(message)
                if event is not None:
                    events.append(event)
        except RemoteProtocolError as error:
            self.error = error
            self._move("garbage")
            events.append(ev.Broken(error))
        return events

    def receive_eof(self) -> tuple[int, ...]:
        """The connection is gone. The answer: requests whose outcome nobody knows."""
        self._move("eof")
        unknown = tuple(sorted(pending.request for pending in self._pending.values()))
        self._pending.clear()
        return unknown

    def data_to_send(self) -> bytes:
        """What has gathered for the peer since the last call. Echo replies are in it: a driver that cannot write must
        not go on reading, or a hostile peer fills the memory."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def pending(self) -> tuple[int, ...]:
        """Requests without an answer yet."""
        return tuple(sorted(pending.request for pending in self._pending.values()))

    def _move(self, happened: str) -> None:
        self.state = _TRANSITIONS.get((self.state, happened), self.state)
        for replica in self._monitors.values():
            replica.detach(self)
        self._monitors.clear()
        self._locks.clear()

    # ---- requests ----

    def _send(self, method: str, params: list[Any], subject: Any = None, request: int | None = None) -> int:
        if self.state is not State.OPEN:
            raise LocalProtocolError(f"{method} on a session that is {self.state.value}")
        number = self._next_id + 1
        self._outgoing.append(encode_message({"id": number, "method": method, "params": params}))
        self._next_id = number
        self._pending[number] = _Pending(request or number, method, subject)
        return number

    def echo(self) -> int:
        """Ask whether the peer lives (RFC 7047 section 4.1.11). Answer: EchoReplied."""
        return self._send("echo", [])

    def list_dbs(self) -> int:
        """Names of the databases (section 4.1.1). Answer: DatabasesListed."""
        return self._send("list_dbs", [])

    def get_schema(self, database: str) -> int:
        """Schema of a database (section 4.1.2). Answer: SchemaReceived."""
        return self._send("get_schema", [database])

    def transact(self, transaction: Transaction) -> int:
        """Send a transaction (section 4.1.3). Answer: Transacted, never Failed."""
        return self._send("transact", transaction.params(), transaction)

    def cancel(self, request: int) -> None:
        """Give up a transaction that waits (section 4.1.4). Its answer comes all the same: done, or "canceled".

        RFC 7047 promises the reply "canceled", ovsdb-server sends none; so an echo follows, and when that is back and
        the reply is not, none will come. Of a transaction that only waited, nothing was done then; in a clustered
        database one that had stopped waiting may still take effect.
        """
        pending = self._pending.get(request)
        if pending is None or pending.method != "transact":
            raise LocalProtocolError(f"request {request} is no transaction without answer")
        self._outgoing.append(encode_message({"id": None, "method": "cancel", "params": [request]}))
        self._send("echo", [], request)

    def monitor(self, replica: Replica) -> int:
        """Keep `replica` in step (ovsdb-server(7) section 4.1.15), from where it was where the server can.

        Answer: Synced, then Updated as rows change. Servers without monitor_cond_since get monitor_cond, or monitor.
        """
        if any(held is replica for held in self._monitors.values()):
            raise LocalProtocolError("this replica is monitored by this session already")
        return self._monitor(replica, None)

    def _monitor(self, replica: Replica, request: int | None) -> int:
        if self.state is not State.OPEN:
            raise LocalProtocolError(f"monitor on a session that is {self.state.value}")
        method = self._monitor_methods[0]
        name = f"monitor-{self._next_id + 1}"
        requests, *position = replica.attach(self, method)
        number = self._send(method, [replica.schema.name, name, requests, *position], (name, replica), request)
        self._monitors[name] = replica
        return number

    def change_where(self, replica: Replica, wheres: Mapping[str, Where]) -> int:
        """Watch other rows (ovsdb-server(7) section 4.1.13). Answer: Done, around it the Updated that tells."""
        name = self._name_of(replica)
        if self._monitor_methods[0] == "monitor":
            raise LocalProtocolError("this server knows no conditions on monitors")
        return self._send("monitor_cond_change", [name, name, replica.change_where(wheres)], replica)

    def monitor_cancel(self, replica: Replica) -> int:
        """Stop (RFC 7047 section 4.1.7). The contents stay. Answer: Done; updates on the way are Ignored."""
        name = self._name_of(replica)
        number = self._send("monitor_cancel", [name])
        del self._monitors[name]
        replica.detach(self)
        return number

    def _name_of(self, replica: Replica) -> str:
        for name, held in self._monitors.items():
            if held is replica:
                return name
        raise LocalProtocolError("this replica is not monitored by this session")

    def set_db_change_aware(self, aware: bool = True) -> int:
        """Be told by MonitorCanceled when a database changes its schema or goes, instead of being cut off
        (ovsdb-server(7) section 4.1.18). Answer: Done, or Failed from a server that is too old."""
        return self._send("set_db_change_aware", [aware])

    # ---- locks ----

    def lock(self, name: str) -> int:
        """Ask for a lock (RFC 7047 section 4.1.8). Answer: LockAnswered; perhaps Locked and Stolen later."""
        return self._ask_lock("lock", name)

    def steal(self, name: str) -> int:
        """Take a lock from whoever holds it (section 4.1.8). Not while we wait for it: unlock first."""
        return self._ask_lock("steal", name)

    def unlock(self, name: str) -> int:
        """Give a lock up, or the wait for it (section 4.1.8). Answer: Done."""
        self._locks.check(name, "release")
        number = self._send("unlock", [name], name)
        self._locks.move(name, "release")
        return number

    def lock_state(self, name: str) -> LockState:
        """How we stand with a lock."""
        return self._locks.state(name)

    def _ask_lock(self, method: str, name: str) -> int:
        self._locks.check(check_id(name), "ask")
        number = self._send(method, [name], name)
        self._locks.move(name, "ask")
        return number

    # ---- messages of the peer ----

    def _ignore(self, what: str) -> ev.Ignored:
        self.ignored += 1
        return ev.Ignored(what)

    def _on_message(self, message: Envelope) -> ev.Event | None:
        if message.method is None:
            return self._on_reply(message)
        if message.result is not None or message.error is not None:
            raise RemoteProtocolError(f"{message.method[:60]!r}: a request that is a reply too")
        if type(message.params) is not list:
            raise RemoteProtocolError(f"{message.method[:60]!r}: params is not an array")
        if message.id is not None and message.id is not msgspec.UNSET:
            return self._on_request(message.id, message.method, message.params)
        handler = _NOTIFICATIONS.get(message.method)
        if handler is None:
            return self._ignore(f"notification {message.method[:60]!r}")
        return handler(self, message.params)

    def _on_request(self, number: Any, method: str, params: list[Any]) -> ev.Event | None:
        known = method == "echo"
        reply = {
            "id": number,
            "result": params if known else None,
            "error": None if known else {"error": "unknown method", "details": f"no method {method[:60]!r} here"},
        }
        try:
            self._outgoing.append(encode_message(reply))
        except LocalProtocolError as error:
            raise RemoteProtocolError(f"an {method[:60]!r} that cannot be answered: {error}") from error
        return None if known else self._ignore(f"request {method[:60]!r}")

    def _on_reply(self, message: Envelope) -> ev.Event | None:
        if message.id is None or message.id is msgspec.UNSET:
            raise RemoteProtocolError("a message that is neither request, notification nor reply")
        if message.error is not None and message.result is not None:
            raise RemoteProtocolError("a reply with both result and error")
        # The type test keeps true and 1.0, which equal 1, away from request 1.
        pending = self._pending.pop(message.id, None) if type(message.id) is int else None
        if pending is None:
            return self._ignore("a reply to no request")
        if message.error is not None:
            return self._on_error(pending, message.error)
        return _REPLIES[pending.method](self, pending, message.result)

    def _on_error(self, pending: _Pending, json: Any) -> ev.Event | None:
        error = decode_error(json)
        method = pending.method
        if method == "transact":
            return ev.Transacted(pending.request, Outcome(error=error))
        if method in MONITOR_METHODS:
            name, replica = pending.subject
            if self._monitors.pop(name, None) is None:
                return ev.Failed(pending.request, method, error)
            replica.detach(self)
            if error.error == "unknown method" and method != MONITOR_METHODS[-1]:
                self._monitor_methods = MONITOR_METHODS[MONITOR_METHODS.index(method) + 1 :]
                self._monitor(replica, pending.request)
                return None
        elif method in ("lock", "steal", "unlock"):
            self._locks.move(pending.subject, "failed")
        return ev.Failed(pending.request, method, error)

    # ---- replies ----

    def _on_echo(self, pending: _Pending, result: Any) -> ev.Event | None:
        if pending.subject is None:
            return ev.EchoReplied(pending.request)
        # The echo behind a cancel.
        canceled = self._pending.pop(pending.subject, None)
        if canceled is None:
            return None
        return ev.Transacted(canceled.request, Outcome(error=OperationError(-1, CANCELED)))

    def _on_list_dbs(self, pending: _Pending, result: Any) -> ev.Event:
        if type(result) is not list or not all(type(name) is str for name in result):
            raise RemoteProtocolError("reply to list_dbs: not an array of names")
        return ev.DatabasesListed(pending.request, tuple(result))

    def _on_schema(self, pending: _Pending, result: Any) -> ev.Event:
        return ev.SchemaReceived(pending.request, parse_schema(result))

    def _on_transacted(self, pending: _Pending, result: Any) -> ev.Event:
        return ev.Transacted(pending.request, pending.subject.decode(result))

    def _on_monitored(self, pending: _Pending, result: Any) -> ev.Event:
        name, _ = pending.subject
        replica = self._monitor_named(name)
        if replica is None:
            # Given up by monitor_cancel, or taken over by another session, before the contents came.
            return ev.Failed(pending.request, pending.method, OperationError(-1, CANCELED))
        try:
            found, changes = replica.take_reply(pending.method, result)
        except RemoteProtocolError:
            replica.detach(self, forget_position=True)
            raise
        return ev.Synced(pending.request, replica, found, changes)

    def _on_where_changed(self, pending: _Pending, result: Any) -> ev.Event:
        if pending.subject.owned_by(self):
            pending.subject.where_settled()
        return ev.Done(pending.request)

    def _on_lock(self, pending: _Pending, result: Any) -> ev.Event:
        held = result.get("locked") if type(result) is dict else None
        if type(held) is not bool:
            raise RemoteProtocolError(f'reply to {pending.method}: no boolean "locked"')
        self._locks.move(pending.subject, "granted" if held else "queued")
        return ev.LockAnswered(pending.request, pending.subject, held)

    def _on_unlocked(self, pending: _Pending, result: Any) -> ev.Event:
        self._locks.move(pending.subject, "released")
        return ev.Done(pending.request)

    def _on_done(self, pending: _Pending, result: Any) -> ev.Event:
        return ev.Done(pending.request)

    # ---- notifications ----

    def _on_update(self, params: list[Any]) -> ev.Event:
        return self._update(params, 2, old_style=True)

    def _on_update2(self, params: list[Any]) -> ev.Event:
        return self._update(params, 2, old_style=False)

    def _on_update3(self, params: list[Any]) -> ev.Event:
        return self._update(params, 3, old_style=False)

    def _update(self, params: list[Any], size: int, *, old_style: bool) -> ev.Event:
        if len(params) != size:
            raise RemoteProtocolError(f"an update with {len(params)} parameters, not {size}")
        replica = self._monitor_named(params[0])
        if replica is None:
            return self._ignore("an update for no monitor of this session")
        if not replica.synced:
            raise RemoteProtocolError("an update before the contents")
        try:
            changes = replica.take_update(params[-1], old_style=old_style, last_id=params[1] if size == 3 else None)
        except RemoteProtocolError:
            replica.detach(self, forget_position=True)
            raise
        return ev.Updated(replica, changes)

    def _monitor_named(self, name: Any) -> Replica | None:
        replica = self._monitors.get(name) if type(name) is str else None
        return replica if replica is not None and replica.owned_by(self) else None

    def _on_monitor_canceled(self, params: list[Any]) -> ev.Event:
        replica = self._monitor_named(params[0]) if len(params) == 1 else None
        if replica is None:
            return self._ignore("the end of no monitor of this session")
        del self._monitors[params[0]]
        replica.detach(self, forget_position=True)
        return ev.MonitorCanceled(replica)

    def _on_locked(self, params: list[Any]) -> ev.Event:
        name = _lock_name("locked", params)
        waited = self._locks.state(name) is LockState.WAITING
        self._locks.move(name, "locked")
        return ev.Locked(name) if waited else self._ignore("locked, for a lock that we did not wait for")

    def _on_stolen(self, params: list[Any]) -> ev.Event:
        name = _lock_name("stolen", params)
        held = self._locks.state(name) is LockState.HELD
        self._locks.move(name, "stolen")
        return ev.Stolen(name) if held else self._ignore("stolen, for a lock that we gave up")


def _lock_name(happened: str, params: list[Any]) -> str:
    if len(params) != 1 or type(params[0]) is not str:
        raise RemoteProtocolError(f"{happened}: not the name of one lock")
    name: str = params[0]
    return name


_REPLIES: dict[str, Callable[[Session, _Pending, Any], ev.Event | None]] = {
    "echo": Session._on_echo,
    "list_dbs": Session._on_list_dbs,
    "get_schema": Session._on_schema,
    "transact": Session._on_transacted,
    "monitor_cond_since": Session._on_monitored,
    "monitor_cond": Session._on_monitored,
    "monitor": Session._on_monitored,
    "monitor_cond_change": Session._on_where_changed,
    "monitor_cancel": Session._on_done,
    "set_db_change_aware": Session._on_done,
    "lock": Session._on_lock,
    "steal": Session._on_lock,
    "unlock": Session._on_unlocked,
}

_NOTIFICATIONS: dict[str, Callable[[Session, list[Any]], ev.Event]] = {
    "update": Session._on_update,
    "update2": Session._on_update2,
    "update3": Session._on_update3,
    "monitor_canceled": Session._on_monitor_canceled,
    "locked": Session._on_locked,
    "stolen": Session._on_stolen,
}
