"""A websocket's client side: what is pushed, one message at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
)


class Refused(Exception):
    """It was not opened. `status`, `headers` and `body` of the answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(status, body)
        self.status, self.headers, self.body = status, headers, body


class Websocket:
    """One, opened. Each wait ends after `deadline` seconds. `room`: bytes that wait to be read, at most (0: as usual)."""

    def __init__(
        self,
        port: int,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        host: str = "",
        deadline: float = 10.0,
        room: int = 0,
    ) -> None:
        self.wire = socket.socket()
        self.wire.settimeout(deadline)
        if room:
            self.wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.wire.connect(("127.0.0.1", port))
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self._say(Request(host or f"127.0.0.1:{port}", path, extra_headers=more))
        answer = self._next()
        if isinstance(answer, RejectConnection):
            body = b""
            while isinstance(part := self._next(), RejectData):
                body += part.data
                if part.body_finished:
                    break
            self.wire.close()
            raise Refused(answer.status_code, {k.decode().lower(): v.decode() for k, v in answer.headers}, body)
        assert isinstance(answer, AcceptConnection)

    def __enter__(self) -> Websocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wire.close()

    def _say(self, event: Event) -> None:
        self.wire.sendall(self._protocol.send(event))

    def say(self, text: str) -> None:
        """One message."""
        self._say(Message(data=text))

    def _next(self) -> Event | None:
        """None: the connection was cut."""
        while not self._events:
            data = self.wire.recv(65536)
            self._protocol.receive_data(data or None)
            self._events += self._protocol.events()
            if not data:
                return None
        return self._events.pop(0)

    def told(self) -> Any:
        """The next message, as JSON; the code, as a number, when it is closed instead."""
        text = ""
        while True:
            event = self._next()
            match event:
                case Ping():
                    self._say(event.response())
                case CloseConnection():
                    self._say(event.response())
                    return event.code
                case Message():
                    text += str(event.data)
                    if event.message_finished:
                        return json.loads(text)
                case None:
                    return None
