"""How long switches let a controller wait: barriers asked for and answered, seen on the wire by somebody else."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable

from ebbtide.lab import namespace as ns
from ebbtide.openflow.messages import BARRIER_REPLY, BARRIER_REQUEST

OPENFLOW = 6653
_EVERYTHING = 3
#: SO_TIMESTAMPNS of socket(7): when the kernel had a packet, whenever it is read. SO_RCVBUFFORCE: as large as it is asked for.
_STAMPED, _LARGE = 35, 33
_STAMP = struct.Struct("@qq")


class Stream:
    """What one end of a TCP connection says, as OpenFlow messages. Begun while it is silent, so at the start of a message."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._rest = b""

    def heard(self, sequence: int, data: bytes) -> list[tuple[int, int]]:
        """The type and xid of each message that is complete now.

        Raises:
            RuntimeError: something was missed, or it is not OpenFlow.
        """
        ahead = 0 if self._next is None else (sequence - self._next + (1 << 31)) % (1 << 32) - (1 << 31)
        if ahead > 0:
            raise RuntimeError(f"{ahead} bytes of an OpenFlow session were not seen")
        self._next = (sequence - ahead + max(0, len(data) + ahead)) % (1 << 32)
        self._rest += data[-ahead:]
        found = []
        while len(self._rest) >= 8:
            version, kind, length, xid = struct.unpack_from("!BBHI", self._rest)
            if version not in (4, 5) or length < 8:
                raise RuntimeError("what was seen of an OpenFlow session does not begin at a message")
            if len(self._rest) < length:
                break
            self._rest = self._rest[length:]
            found.append((kind, xid))
        return found


class Awaited(threading.Thread):
    """Listens in the namespace of a controller until it is told to end."""

    def __init__(self, namespace: str) -> None:
        super().__init__(daemon=True)
        self._streams: dict[tuple[bytes, bytes], Stream] = {}
        self._asked: dict[tuple[str, int], float] = {}
        self._spans: dict[str, list[tuple[float, float]]] = {}
        self._last = 0.0
        self._failed: Exception | None = None
        self._over = threading.Event()
        self._socket = ns.make_socket(namespace, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERYTHING))
        self._socket.setsockopt(socket.SOL_SOCKET, _STAMPED, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _LARGE, 1 << 22)
        self._socket.settimeout(0.2)

    def run(self) -> None:
        """Until `end`."""
        try:
            while not self._over.is_set():
                try:
                    data, ancillary, _, _ = self._socket.recvmsg(1 << 17, 64)
                except TimeoutError:
                    continue
                seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
                self._packet(data, seconds + nanoseconds / 1e9)
        except Exception as error:
            self._failed = error

    def end(self) -> dict[str, list[tuple[float, float]]]:
        """By the address of a switch: from when to when (seconds since the epoch) a barrier was waited for, and nothing else was done:
        from the last barrier that anybody was asked for until then.

        Raises:
            RuntimeError: something was missed.
        """
        self._over.set()
        self.join(10)
        self._socket.close()
        if self._failed is not None:
            raise RuntimeError(f"the wire could not be followed: {self._failed}") from self._failed
        return self._spans

    def _packet(self, packet: bytes, at: float) -> None:
        head = (packet[0] & 15) * 4
        if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return
        source, target, sequence, _, offset = struct.unpack_from("!HHIIB", packet, head)
        data = packet[head + (offset >> 4) * 4 : int.from_bytes(packet[2:4], "big")]
        if OPENFLOW not in (source, target) or not data:
            return
        ours = source == OPENFLOW
        switch = socket.inet_ntoa(packet[16:20] if ours else packet[12:16])
        ends = packet[12:16] + packet[head : head + 2], packet[16:20] + packet[head + 2 : head + 4]
        for kind, xid in self._streams.setdefault(ends, Stream()).heard(sequence, data):
            if ours and kind == BARRIER_REQUEST:
                self._asked[switch, xid] = self._last = at
            elif not ours and kind == BARRIER_REPLY:
                begun = self._asked.pop((switch, xid), None)
                if begun is not None:
                    self._spans.setdefault(switch, []).append((max(begun, self._last), at))


def within(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """How much of a time is covered by spans, which may overlap."""
    covered, until = 0.0, begin
    for first, last in sorted(spans):
        covered += max(0.0, min(last, end) - max(first, until))
        until = max(until, last)
    return covered
