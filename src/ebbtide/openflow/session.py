"""One OpenFlow connection without its socket: bytes in, events out; messages in, bytes out.

Two rules. Everything that changes `state` is in `TRANSITIONS` and `Session._fail`; and nothing here knows a clock or
a socket: keep-alive, reconnecting and deadlines are the caller's. The life of a session is

    HELLO_WAIT --Hello--> FEATURES_WAIT --FeaturesReply--> READY --close()--> CLOSED
         \\_____________________ RemoteProtocolError in any of them ____________> ERROR (and stays there)

`receive` answers echo requests itself, joins multipart replies, and gives everything else as an event. Whatever is
to be sent collects in one buffer, in order, and leaves by `data_to_send`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow import messages as m
from ebbtide.openflow import refusals, versions
from ebbtide.openflow.framing import Frame, FrameBuffer

# A dump of 50,000 flows of 300 bytes is 15 MB; ten times that is a fault of the peer.
MAX_MULTIPART_BYTES = 160 * 1024 * 1024
# Requests that may wait for parts at the same time.
MAX_MULTIPARTS = 64
# Echo replies that the peer made us queue without reading them.
MAX_UNSENT_REPLY_BYTES = 1024 * 1024
MAX_XID = 0xFFFFFFFF

_MULTIPART_MORE = 1
# What an empty part counts, so that a peer cannot send them without end.
_PART_COST = 64


class State(Enum):
    """Where a session stands. Each says what it waits for."""

    HELLO_WAIT = "waits for the peer's hello"
    FEATURES_WAIT = "waits for the answer to our features request"
    READY = "speaks"
    CLOSED = "was closed by us or ended by the peer"
    ERROR = "the peer broke the protocol"


# What moves a session on. A message that is not named leaves the state as it is (see `_EARLY` for when it may come).
TRANSITIONS: dict[State, dict[type, State]] = {
    State.HELLO_WAIT: {m.Hello: State.FEATURES_WAIT},
    State.FEATURES_WAIT: {m.FeaturesReply: State.READY},
    State.READY: {},
    State.CLOSED: {},
    State.ERROR: {},
}
# Before the hello, nothing else may come but what needs no version.
_EARLY = (m.HELLO, m.ERROR, m.ECHO_REQUEST, m.ECHO_REPLY)


class Ready(NamedTuple):
    """The handshake is done."""

    version: int
    features: m.FeaturesReply


class Received(NamedTuple):
    """A message. For a reply, `xid` is that of its request."""

    xid: int
    message: m.Message


class Refused(NamedTuple):
    """The switch refused the message that had this xid. `words` is the error spelled out."""

    xid: int
    error: m.Error
    words: str


class Collected(NamedTuple):
    """A multipart reply, whole: read `body` with `flows.iter_flow_stats` or `multipart.read_*`."""

    xid: int
    kind: int
    body: bytes


Event = Ready | Received | Refused | Collected


class Session:
    """One connection. The hello is queued at once: call `data_to_send` before anything is received.

    Public attributes to read: `state`, `version` (0 before the hello), `features` (None before READY).
    """

    def __init__(self, accept: tuple[int, ...] = versions.VERSIONS) -> None:
        for version in accept:
            versions.check_version(version)
        if not accept:
            raise LocalProtocolError("a session needs at least one OpenFlow version")
        self.state = State.HELLO_WAIT
        self.version = 0
        self.features: m.FeaturesReply | None = None
        self._accept = accept
        self._frames = FrameBuffer()
        self._out: list[bytes] = []
        self._unsent_replies = 0
        self._next_xid = 1
        self._parts: dict[int, list[bytes]] = {}
        self._part_bytes = 0
        self._kinds: dict[int, int] = {}
        self._error: RemoteProtocolError | None = None
        self._out.append(m.encode(m.Hello(tuple(accept)), self.take_xids(), max(accept)))

    # ---- sending ---------------------------------------------------------------------------------------------------

    def take_xids(self, count: int = 1) -> int:
        """Reserve `count` xids in a row; returns the first. They wrap around before 2**32 and are never 0."""
        if self._next_xid + count > MAX_XID:
            self._next_xid = 1
        first = self._next_xid
        self._next_xid += count
        return first

    def send(self, message: m.Message) -> int:
        """Queue a message; returns its xid. Only while READY."""
        self._must_be_ready()
        xid = self.take_xids()
        data = m.encode(message, xid, self.version)
        if isinstance(message, m.MultipartRequest):
            if len(self._kinds) >= MAX_MULTIPARTS:
                raise LocalProtocolError(f"{MAX_MULTIPARTS} multipart requests already wait for their replies")
            self._kinds[xid] = message.kind
            self._parts[xid] = []
        self._out.append(data)
        return xid

    def send_bytes(self, data: bytes) -> None:
        """Queue whole messages made elsewhere (`flows.flow_add_bytes`, `versions.bundle_bytes`), with xids of
        `take_xids`. Only while READY. Not for multipart requests: those are known by `send`."""
        self._must_be_ready()
        self._out.append(data)

    def send_bundle(
        self,
        bundle_id: int,
        data: list[bytes],
        flags: int = versions.ORDERED | versions.ATOMIC,
        commit: bool = True,
    ) -> int:
        """Queue a bundle around whole messages: open, all of them, commit. Returns the xid of open and commit.

        See `versions.bundle_bytes` for what `commit` is good for.
        """
        self._must_be_ready()
        xid = self.take_xids()
        self._out.append(versions.bundle_bytes(bundle_id, data, xid, self.version, flags, commit))
        return xid

    def data_to_send(self) -> bytes:
        """Everything queued, in order; the queue is empty then. Also after an error: the last word to the peer."""
        data = b"".join(self._out)
        self._out.clear()
        self._unsent_replies = 0
        return data

    def close(self) -> None:
        """The connection is gone, or is to go. Nothing can be sent or received any more."""
        if self.state is not State.ERROR:
            self.state = State.CLOSED

    def _must_be_ready(self) -> None:
        if self.state is not State.READY:
            raise LocalProtocolError(f"nothing can be sent now: the session {self.state.value}")

    # ---- receiving -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes of the peer; give what they mean.

        Raises RemoteProtocolError when the peer breaks the protocol: the session is in ERROR then, and every later
        call raises the same error. Send what `data_to_send` still has, and close the connection.
        """
        if self._error is not None:
            raise self._error
        if self.state is State.CLOSED:
            raise LocalProtocolError("bytes for a session that is closed")
        try:
            events: list[Event] = []
            for frame in self._frames.feed(data):
                self._take(frame, events)
            return events
        except RemoteProtocolError as error:
            self._fail(error)
            raise

    def _fail(self, error: RemoteProtocolError) -> None:
        self.state = State.ERROR
        self._error = error
        self._parts.clear()
        self._kinds.clear()

    def _take(self, frame: Frame, events: list[Event]) -> None:
        early = frame.type in _EARLY
        if self.state is State.HELLO_WAIT and not early:
            raise RemoteProtocolError(f"message of type {frame.type} before the hello")
        if not early and frame.version != self.version:
            raise RemoteProtocolError(f"message in version {frame.version} on a connection of version {self.version}")
        message = m.decode(frame)
        match message:
            case m.EchoRequest():
                self._answer_echo(frame)
            case m.Hello():
                self._take_hello(message)
            case m.Error():
                self._take_error(frame.xid, message, events)
            case m.MultipartReply():
                self._take_part(frame.xid, message, events)
            case m.FeaturesReply() if self.state is State.FEATURES_WAIT:
                self.features = message
                events.append(Ready(self.version, message))
            case _:
                events.append(Received(frame.xid, message))
        self.state = TRANSITIONS[self.state].get(type(message), self.state)

    def _answer_echo(self, frame: Frame) -> None:
        reply = m.encode(m.EchoReply(frame.body), frame.xid, frame.version)
        self._unsent_replies += len(reply)
        if self._unsent_replies > MAX_UNSENT_REPLY_BYTES:
            raise RemoteProtocolError("the peer asks for echoes faster than it takes the answers")
        self._out.append(reply)

    def _take_hello(self, hello: m.Hello) -> None:
        if self.state is not State.HELLO_WAIT:
            raise RemoteProtocolError("a second hello")
        common = set(self._accept) & set(hello.versions)
        if not common:
            theirs = ", ".join(versions.NAMES.get(v, f"wire {v}") for v in hello.versions)
            ours = ", ".join(versions.NAMES[v] for v in self._accept)
            text = f"no OpenFlow version in common: the switch speaks {theirs}, we speak {ours}"
            # 1.3.5 section 7.5.1: say why before hanging up.
            self._out.append(m.encode(m.Error(0, 0, text.encode()), self.take_xids(), max(self._accept)))
            raise RemoteProtocolError(f"{text}; set protocols=OpenFlow14 on the bridge")
        self.version = max(common)
        self._out.append(m.encode(m.FeaturesRequest(), self.take_xids(), self.version))

    def _take_error(self, xid: int, error: m.Error, events: list[Event]) -> None:
        words = refusals.describe(error)
        if self.state is State.HELLO_WAIT or error.type == 0:
            raise RemoteProtocolError(f"the switch refused our hello: {words} {error.data!r}")
        self._forget(xid)
        events.append(Refused(xid, error, words))

    def _take_part(self, xid: int, part: m.MultipartReply, events: list[Event]) -> None:
        kind = self._kinds.get(xid)
        if kind is None:
            raise RemoteProtocolError(f"a multipart reply with xid {xid}, which asked for nothing")
        if kind != part.kind:
            raise RemoteProtocolError(f"a multipart reply of kind {part.kind} to a request of kind {kind}")
        parts = self._parts[xid]
        parts.append(part.body)
        self._part_bytes += len(part.body) + _PART_COST
        if self._part_bytes > MAX_MULTIPART_BYTES:
            raise RemoteProtocolError(f"multipart replies of more than {MAX_MULTIPART_BYTES} bytes")
        if not part.flags & _MULTIPART_MORE:
            body = b"".join(parts)
            self._forget(xid)
            events.append(Collected(xid, kind, body))

    def _forget(self, xid: int) -> None:
        if self._kinds.pop(xid, None) is not None:
            self._part_bytes -= sum(len(part) + _PART_COST for part in self._parts.pop(xid))
