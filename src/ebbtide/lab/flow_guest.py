"""The process behind `flows` in a VM: opens, asks, checks what comes back, counts. Started inside the VM's namespace.

Long-lived connections have fixed source ports, the same in every VM. They end by a reset when this process does, so that
the next one can have the same ports at once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from . import packets
from .flow_loop import Clockwork, Echo, datagram_socket, drain, echo_socket, exchange_once, receive, serve
from .flow_report import Bulk, Connections, Counts, Datagrams, GuestReport, Silent, Slow
from .flow_wire import (
    ACTIVE_PORTS,
    ANSWER_LIMIT,
    BULK_PORT,
    ECHO_PORT,
    HALF_OPEN_LIMIT,
    LATE_PORTS,
    SILENT_PORTS,
    UDP_PORT,
    UDP_SLOW_PORTS,
    GuestOrder,
    Kind,
    Message,
    parse,
)
from .tally import Series, Trials, milliseconds

# No two VMs have the same identifier: nor would real ones, which draw it by lot.
_PING_IDENTIFIER = 0x4500
_LINGER_NOT = struct.pack("ii", 1, 0)
_CHUNK_PERIOD = 0.005
# Small, so that what was held up is not made up for in one burst.
_BULK_BUFFER = 256 << 10
_BULK_BEHIND = 0.2


class Flow:
    """One long-lived connection. It asks when told to, and answers when the server speaks first."""

    def __init__(
        self, name: str, identity: Message, port: int, host: tuple[str, int], tell: Callable[[str], None]
    ) -> None:
        self.name = name
        self.established = False
        self.broken = False
        self.asked_at = 0.0  # 0: no answer is awaited
        self.answered = 0
        self.exchanges = 0  # as `answered`, but since the reset
        self.slowest = 0.0
        self._identity = identity
        self._port = port
        self._host = host
        self._tell = tell
        self._expected = b""
        self._connection: socket.socket | None = None

    async def run(self) -> None:
        """Until it breaks."""
        loop = asyncio.get_running_loop()
        try:
            with _connection_from(self._port) as connection:
                async with asyncio.timeout(ANSWER_LIMIT):
                    await loop.sock_connect(connection, self._host)
                self._connection = connection
                self.established = True
                self.ask(loop.time())
                while not self.broken:
                    self._heard(await receive(loop, connection), loop.time())
        except TimeoutError:
            self.fail(f"no connection in {ANSWER_LIMIT:g} s" if not self.established else "timed out")
        except OSError as error:
            self.fail(str(error))
        finally:
            self._connection = None

    def ask(self, now: float) -> bool:
        """One more exchange, if none is awaited."""
        if self._connection is None or self.asked_at:
            return False
        self._identity = self._identity._replace(sequence=self._identity.sequence + 1)
        self._expected = self._identity.pack()
        self.asked_at = now
        self._send(self._expected)
        return True

    def check(self, now: float) -> None:
        if self.asked_at and not self.broken and now - self.asked_at > ANSWER_LIMIT:
            self.fail(f"no answer in {ANSWER_LIMIT:g} s")

    def fail(self, reason: str) -> None:
        if self.broken:
            return
        self.broken = True
        self.asked_at = 0.0
        self._tell(f"{self.name}, port {self._port}: {reason}")
        if self._connection is not None:
            # Wakes the reader, who closes it.
            try:
                self._connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is down already

    def waiting(self, now: float) -> float:
        return now - self.asked_at if self.asked_at else 0.0

    def _heard(self, data: bytes, now: float) -> None:
        message = parse(data)
        if self.asked_at and data == self._expected:
            self.slowest = max(self.slowest, now - self.asked_at)
            self.asked_at = 0.0
            self.answered += 1
            self.exchanges += 1
        elif self._identity.kind is Kind.SILENT and message is not None and message[:4] == self._identity[:4]:
            self._send(data)  # the server speaks first
        else:
            self.fail(f"wrong data: {data.hex()}, awaited {self._expected.hex()}")

    def _send(self, data: bytes) -> None:
        assert self._connection is not None
        try:
            sent = self._connection.send(data)
        except OSError as error:
            self.fail(str(error))
            return
        if sent != len(data):
            self.fail("what was sent before is still on its way")


class Guest:
    """All of one VM."""

    def __init__(self, order: GuestOrder, clockwork: Clockwork) -> None:
        self.order = order
        self.load = order.load
        self.clockwork = clockwork
        self.loop = asyncio.get_running_loop()
        self.active = self._flows(Kind.ACTIVE, self.load.active, ACTIVE_PORTS)
        self.silent = self._flows(Kind.SILENT, self.load.silent, SILENT_PORTS)
        self.told_to_speak: list[tuple[Flow, int]] = []  # with how much had been answered before
        self.udp, self.ping = Series(), Series()
        self.slow = [Series() for _ in range(self.load.udp_slow)]
        self.new, self.half_open = Trials(), Trials()
        self.bulk_broken = 0

    def _flows(self, kind: Kind, number: int, ports: int) -> list[Flow]:
        host = (self.order.host, ECHO_PORT)
        return [
            Flow(f"{self.order.name} {kind.text} {n}", self._message(kind, n), ports + n, host, self.clockwork.tell)
            for n in range(number)
        ]

    def _message(self, kind: Kind, flow: int, sequence: int = 0) -> Message:
        return Message(self.order.run, kind, self.order.number, flow, sequence)

    async def start(self) -> None:
        load, clockwork = self.load, self.clockwork
        await self.loop.create_server(partial(Echo, self.order.run, self._answer, lambda: None), "0.0.0.0", ECHO_PORT)
        for flow in (*self.active, *self.silent):
            clockwork.start(flow.run())
        if self.active:
            clockwork.every(load.active_period / load.active, self._ask_next)
        if self.active or self.silent:
            clockwork.every(0.1, self._check)
        if load.udp:
            self._start_udp(UDP_PORT, self.udp, Kind.UDP, 0, 1 / load.udp)
        for number, series in enumerate(self.slow):
            self._start_udp(UDP_SLOW_PORTS + number, series, Kind.UDP_SLOW, number, load.udp_slow_period)
        if load.new:
            clockwork.every(1 / load.new, lambda: clockwork.start(self._try_new()))
        if load.half_open:
            clockwork.every(1 / load.half_open, lambda: clockwork.start(self._try_half_open()))
        if load.bulk:
            clockwork.start(self._bulk())
        if load.ping:
            self._start_ping()

    def _answer(self, message: Message, connection: Echo) -> bytes:
        """To what comes in: the same, in our own name."""
        return message._replace(vm=self.order.number).pack()

    # ---- kinds --------------------------------------------------------------------------------

    def _ask_next(self) -> None:
        """Each in its turn: no two at once."""
        flow = self.active.pop(0)
        self.active.append(flow)
        flow.ask(self.loop.time())

    def _check(self) -> None:
        now = self.loop.time()
        for flow in (*self.active, *self.silent):
            flow.check(now)

    def speak(self) -> int:
        """Those of the silent whose turn it is to speak first: the even ones. The host speaks to the odd ones."""
        now = self.loop.time()
        speakers = [flow for flow in self.silent[::2] if flow.established]
        self.told_to_speak = [(flow, flow.answered + bool(flow.asked_at)) for flow in speakers]
        for flow in speakers:
            flow.ask(now)
        return len(speakers)

    def _start_udp(self, port: int, series: Series, kind: Kind, flow: int, period: float) -> None:
        made = datagram_socket("0.0.0.0", port)
        made.connect((self.order.host, ECHO_PORT))

        def send() -> None:
            message = self._message(kind, flow, series.sent(self.loop.time()))
            try:
                made.send(message.pack())
            except OSError:
                pass  # a tenant would have noticed: it counts as sent, and so as lost

        def take(data: bytes, _: tuple[str, int]) -> None:
            message = parse(data)
            if message is not None and message[:4] == (self.order.run, kind, self.order.number, flow):
                series.arrived(message.sequence, self.loop.time())

        self.loop.add_reader(made, drain(made, take))
        self.clockwork.every(period, send)

    def _start_ping(self) -> None:
        raw, identifier = echo_socket(), _PING_IDENTIFIER + self.order.number

        def send() -> None:
            number = self.ping.sent(self.loop.time())
            request = packets.icmp_echo(identifier, number & 0xFFFF, self._message(Kind.PING, 0, number).pack())
            try:
                raw.sendto(request, (self.order.host, 0))
            except OSError:
                pass  # lost, as above

        def take(packet: bytes, _: tuple[str, int]) -> None:
            body = packet[(packet[0] & 0xF) * 4 :]
            message = parse(body[8:])
            ours = (self.order.run, Kind.PING, self.order.number)
            if body[:1] == b"\0" and message is not None and message[:3] == ours:
                self.ping.arrived(message.sequence, self.loop.time())

        self.loop.add_reader(raw, drain(raw, take))
        self.clockwork.every(1 / self.load.ping, send)

    async def _try_new(self) -> None:
        number = self.new.begin(self.loop.time())
        message = self._message(Kind.NEW, number)
        await self._attempt(
            self.new, number, exchange_once((self.order.host, ECHO_PORT), message, ANSWER_LIMIT), message
        )

    async def _try_half_open(self) -> None:
        number = self.half_open.begin(self.loop.time())
        message = self._message(Kind.HALF_OPEN, number)
        port = list(LATE_PORTS)[number % len(LATE_PORTS)]
        attempt = exchange_once((self.order.late_host, port), message, HALF_OPEN_LIMIT)
        await self._attempt(self.half_open, number, attempt, message)

    async def _attempt(self, trials: Trials, number: int, attempt: Awaitable[bytes], message: Message) -> None:
        what = f"{self.order.name} {message.kind.text} {number}"
        try:
            answer = await attempt
        except OSError as error:  # TimeoutError is one
            trials.failed(number)
            self.clockwork.tell(f"{what}: {error or 'timed out'}")
            return
        if answer == message.pack():
            trials.done(number, self.loop.time())
        else:
            trials.failed(number)
            self.clockwork.tell(f"{what}: wrong data")

    async def _bulk(self) -> None:
        chunk = bytes(int(self.load.bulk * 1e6 / 8 * _CHUNK_PERIOD))
        try:
            with _connection_from(0) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BULK_BUFFER)
                async with asyncio.timeout(ANSWER_LIMIT):
                    await self.loop.sock_connect(connection, (self.order.host, BULK_PORT))
                await self.loop.sock_sendall(connection, self._message(Kind.BULK, 0).pack())
                due = self.loop.time()
                while True:
                    await self.loop.sock_sendall(connection, chunk)
                    due = max(due + _CHUNK_PERIOD, self.loop.time() - _BULK_BEHIND)
                    await asyncio.sleep(due - self.loop.time())
        except OSError as error:
            self.bulk_broken = 1
            self.clockwork.tell(f"{self.order.name} bulk: {error or 'timed out'}")

    # ---- questions ----------------------------------------------------------------------------

    def answer(self, word: str, argument: str) -> object:
        match word:
            case "missing":
                return self.missing()
            case "settled":
                return self.settled(float(argument))
            case "speak":
                return self.speak()
            case "reset":
                return self.reset()
            case "report":
                return self.report()
        raise ValueError(f"no such question: {word}")

    def missing(self) -> list[str]:
        """What has not been answered yet, of all that should be."""
        waiting = [flow.name for flow in self.active if not flow.exchanges]
        waiting += [flow.name for flow in self.silent if not flow.answered]
        waiting += [f"{self.order.name} udp_slow {number}" for number, slow in enumerate(self.slow) if not slow.heard]
        others: list[tuple[str, float, Series | Trials]] = [
            ("udp", self.load.udp, self.udp),
            ("ping", self.load.ping, self.ping),
            ("new", self.load.new, self.new),
            ("half_open", self.load.half_open, self.half_open),
        ]
        return waiting + [f"{self.order.name} {name}" for name, rate, one in others if rate and not one.flowing()]

    def settled(self, mark: float) -> bool:
        now = self.loop.time()
        return (
            all(not flow.asked_at or flow.asked_at > mark for flow in (*self.active, *self.silent))
            and all(series.settled(mark, now) for series in (self.udp, self.ping, *self.slow))
            and self.new.settled(mark)
            and self.half_open.settled(mark)
        )

    def reset(self) -> bool:
        now = self.loop.time()
        for series in (self.udp, self.ping, *self.slow):
            series.reset(now)
        for flow in self.active:
            flow.slowest, flow.exchanges = 0.0, 0
        self.new.reset()
        self.half_open.reset()
        self.clockwork.reset()
        return True

    def report(self) -> GuestReport:
        now = self.loop.time()
        active, silent = self.active, self.silent
        slow = [series.counts(now) for series in self.slow]
        counts = Counts(
            active=Connections(
                wanted=len(active),
                established=sum(flow.established for flow in active),
                broken=sum(flow.broken for flow in active),
                exchanges=sum(flow.exchanges for flow in active),
                slowest_ms=milliseconds(max((max(flow.slowest, flow.waiting(now)) for flow in active), default=0.0)),
            ),
            silent=Silent(
                wanted=len(silent),
                established=sum(flow.established for flow in silent),
                broken=sum(flow.broken for flow in silent),
                asked=len(self.told_to_speak),
                alive=sum(flow.answered > before and not flow.broken for flow, before in self.told_to_speak),
            ),
            udp=self.udp.counts(now) if self.load.udp else Datagrams(),
            udp_slow=Slow(
                flows=len(slow),
                sent=sum(one.sent for one in slow),
                received=sum(one.received for one in slow),
                lost=sum(one.lost for one in slow),
            ),
            new=self.new.counts(now),
            half_open=self.half_open.counts(now),
            bulk=Bulk(broken=self.bulk_broken),
            ping=self.ping.counts(now),
        )
        return GuestReport(counts, milliseconds(self.clockwork.worst), tuple(self.clockwork.told))


def _connection_from(port: int) -> socket.socket:
    """A socket that will connect from this port (0: any), and end by a reset."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.bind(("0.0.0.0", port))
    return made


async def start(line: bytes, clockwork: Clockwork) -> Callable[[str, str], object]:
    guest = Guest(msgspec.json.decode(line, type=GuestOrder), clockwork)
    await guest.start()
    return guest.answer


if __name__ == "__main__":
    serve(start)
