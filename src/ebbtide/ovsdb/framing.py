"""A byte stream of JSON texts <-> whole messages (RFC 7047 section 4, JSON-RPC 1.0).

OVSDB puts no length before a message and no mark after it: one JSON object follows another. This room finds where
each ends, hands it to the decoder, and knows nothing of what it says. Two rules:

 1. Every byte is looked at a bounded number of times, however the stream is cut, so a peer cannot make us quadratic.
 2. All looking is done by C code on whole chunks. `Framer` throws away all but quotes and braces, then the strings,
    then every matched ``{}`` pair; what is left of a chunk is ``}}...{{``, which says how the depth moved.

A boundary between two messages always reads ``}{`` (perhaps with white space inside), and no valid JSON value holds
that outside a string, so chunks are cut there first and a message can only end where a piece ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from ebbtide.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["DEFAULT_LIMIT", "MAX_DEPTH", "PEER_LIMIT", "Envelope", "Framer", "encode_message"]

#: Bytes buffered for one message from a server whose size we know: our own store. A dump of 100 000 rows is 40 MB.
DEFAULT_LIMIT = 256 * 1024 * 1024

#: The same for a peer that connected to us: 16 MB holds 40 000 rows of a compute, a hundred times the usual.
PEER_LIMIT = 16 * 1024 * 1024

#: Objects inside objects. The deepest message of the protocol, a get_schema reply, has 8.
MAX_DEPTH = 64

_SEAM = re.compile(rb"\}[ \t\r\n]*(?=\{)")
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_NOT_STRUCTURE = bytes(b for b in range(256) if b not in b'"{}')
_SPACE = b" \t\r\n"


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """One JSON-RPC message: a request, a notification (`id` null) or a reply, as it came (RFC 7047 section 4)."""

    id: Any = msgspec.UNSET
    method: str | None = None
    params: Any = None
    result: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def encode_message(message: dict[str, Any]) -> bytes:
    """The bytes of one message. `message` holds plain JSON values only; else it is a LocalProtocolError."""
    try:
        return _encoder.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"message cannot be written as JSON: {error}") from error


class Framer:
    """Cut a stream into messages. One per connection and direction.

    After a RemoteProtocolError the framer is of no use any more; the session that owns it sees to that.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def buffered(self) -> int:
        """Bytes held of a message that has not ended yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Envelope]:
        """Take bytes as they came, yield the messages that are now whole, in order.

        An iterator, so that what came before garbage is still handed out; it must be run to its end. Only a message
        that garbage without a brace follows in the same chunk is lost with it.
        """
        start = 0
        for seam in _SEAM.finditer(data):
            yield from self._take(data[start : seam.end()])
            start = seam.end()
        yield from self._take(data[start:] if start else data)

    def _take(self, piece: bytes) -> Iterator[Envelope]:
        """One piece: without a message boundary, but perhaps at its end."""
        if not self._buffer:
            piece = piece.lstrip(_SPACE)
            if not piece:
                return
            if piece[0] != 0x7B:
                raise RemoteProtocolError(f"a message must start with '{{', this one starts with {piece[:16]!r}")
        if not piece:
            return  # no byte of it, so the one that is escaped is still to come
        if len(self._buffer) + len(piece) > self._limit:
            raise RemoteProtocolError(f"a message is longer than {self._limit} bytes")
        self._measure(piece)
        self._buffer += piece
        if self._depth == 0:
            whole, self._buffer = self._buffer, bytearray()
            yield _decode(whole)

    def _measure(self, piece: bytes) -> None:
        """Move depth, in-string and escape state over `piece`."""
        if self._escaped:
            piece = piece[1:]
            self._escaped = False
        if b"\\" in piece:
            # A backslash outside a string is no JSON; the decoder says so later.
            piece = _ESCAPE.sub(b"", piece)
            if piece.endswith(b"\\"):
                self._escaped = True
        left = piece.translate(None, _NOT_STRUCTURE)
        if self._in_string:
            left = b'"' + left
        # Dropping two quotes side by side changes the in-string state of no other byte.
        left = left.replace(b'""', b"")
        if b'"' in left:
            parts = left.split(b'"')
            self._in_string = len(parts) % 2 == 0
            left = b"".join(parts[::2])
        else:
            self._in_string = False
        for _ in range(MAX_DEPTH + 1):
            if b"{}" not in left:
                break
            left = left.replace(b"{}", b"")
        else:
            raise RemoteProtocolError(f"objects are nested deeper than {MAX_DEPTH}")
        closed = left.count(b"}")
        if closed > self._depth or (self._depth == closed and len(left) > closed and self._buffer):
            raise RemoteProtocolError("a message is followed by something that is not a message")
        self._depth += len(left) - 2 * closed
        if self._depth > MAX_DEPTH:
            raise RemoteProtocolError(f"objects are nested deeper than {MAX_DEPTH}")


def _decode(data: bytearray) -> Envelope:
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a JSON-RPC message: {error}") from error
