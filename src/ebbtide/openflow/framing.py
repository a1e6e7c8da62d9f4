"""Bytes to whole OpenFlow messages, and the 8-byte header (OpenFlow 1.3.5 section 7.1, struct ofp_header).

What lives here: finding where a message ends, and refusing bytes that cannot be OpenFlow. What must not: what a
message means (`messages`), and who may send it when (`session`). A length field is 16 bits, so a message is never
longer than 65,535 bytes; bytes held back for an unfinished message are therefore bounded by that, too.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from ebbtide.errors import RemoteProtocolError

HEADER = Struct("!BBHI")
HEADER_LEN = 8
MAX_MESSAGE_LEN = 0xFFFF
# Highest OpenFlow version number that any peer may show in a header: 1.6, the newest that Open vSwitch names.
MAX_WIRE_VERSION = 7


class Frame(NamedTuple):
    """One whole message: the header's fields, and the bytes after the header."""

    version: int
    type: int
    xid: int
    body: bytes


class FrameBuffer:
    """Collects bytes and yields whole messages.

    After a RemoteProtocolError the buffer must not be used again: where the next message starts is not known.
    """

    def __init__(self) -> None:
        self._data = b""

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return len(self._data)

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes; return the messages that are complete now, in order."""
        buf = self._data + data if self._data else bytes(data)
        frames: list[Frame] = []
        pos, end = 0, len(buf)
        unpack = HEADER.unpack_from
        while end - pos >= HEADER_LEN:
            version, kind, length, xid = unpack(buf, pos)
            if not 1 <= version <= MAX_WIRE_VERSION:
                raise RemoteProtocolError(f"not OpenFlow: version byte {version:#04x} in a message header")
            if length < HEADER_LEN:
                raise RemoteProtocolError(
                    f"message of type {kind} says it is {length} bytes long; the header alone has 8"
                )
            if end - pos < length:
                break
            frames.append(Frame(version, kind, xid, buf[pos + HEADER_LEN : pos + length]))
            pos += length
        self._data = buf[pos:]
        if self._data and not 1 <= self._data[0] <= MAX_WIRE_VERSION:
            raise RemoteProtocolError(f"not OpenFlow: version byte {self._data[0]:#04x} in a message header")
        return frames


def message(version: int, kind: int, xid: int, body: bytes = b"") -> bytes:
    """Put a header before a body."""
    return HEADER.pack(version, kind, HEADER_LEN + len(body), xid) + body
