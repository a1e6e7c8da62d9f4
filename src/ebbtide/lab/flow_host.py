"""The process behind `flows` on the host outside: answers everything, and writes down from which endpoints it came.

Started inside the host's namespace. It also asks, towards the addresses by which VMs can be reached from outside.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import msgspec

from . import packets
from .flow_loop import Clockwork, Echo, datagram_socket, drain, echo_socket, exchange_once, serve
from .flow_report import Endpoint, HostReport, Incoming, VmAtHost
from .flow_wire import (
    ANSWER_LIMIT,
    BULK_PORT,
    ECHO_PORT,
    LATE_PORTS,
    SIZE,
    HostOrder,
    Inbound,
    Kind,
    Message,
    parse,
)
from .late_server import LateServer
from .tally import Series, Trials, milliseconds

_PING_IDENTIFIER = 0x4600
_BACKLOG = 1024
_OURSELVES = 255  # in place of a VM's number
_TCP_REPAIR = 19
# Above all that a VM has asked with on the same connection.
_SPEAK = 1 << 32


class Sink(asyncio.Protocol):
    """The receiver of one transfer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._head = b""
        self._transport: asyncio.BaseTransport
        self.vm: int | None = None
        self.received = 0
        self.pause = 0.0
        self.last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = self._host.loop.time()
        if self.vm is None:
            self._head += data
            if len(self._head) < SIZE:
                return
            message = parse(self._head)
            if message is None or message.run != self._host.order.run:
                self._host.stray()
                self._transport.close()
                return
            self.vm, self.last = message.vm, now
            self._host.note(message, self._transport.get_extra_info("peername"))
            self._host.sinks[message.vm] = self
        self.received += len(data)
        self.pause = max(self.pause, now - self.last)
        self.last = now

    def reset(self) -> None:
        self.received, self.pause = 0, 0.0


class Target:
    """An address by which a VM can be reached."""

    def __init__(self, host: Host, number: int, inbound: Inbound) -> None:
        self.inbound = inbound
        self.ping, self.tcp = Series(), Trials()
        self.answered_by: set[int] = set()
        self._host = host
        self._number = number

    def message(self, sequence: int) -> Message:
        return Message(self._host.order.run, Kind.INBOUND, _OURSELVES, self._number, sequence)

    def send_ping(self, raw: socket.socket) -> None:
        number = self.ping.sent(self._host.loop.time())
        payload = self.message(number).pack()
        request = packets.icmp_echo(_PING_IDENTIFIER + self._number, number & 0xFFFF, payload)
        try:
            raw.sendto(request, (self.inbound.address, 0))
        except OSError:
            pass  # it counts as sent, and so as lost

    async def connect(self) -> None:
        number = self.tcp.begin(self._host.loop.time())
        asked = self.message(number)
        what = f"inbound connection {number} to {self.inbound.address}"
        try:
            answer = parse(await exchange_once((self.inbound.address, ECHO_PORT), asked, ANSWER_LIMIT))
        except OSError as error:
            self.tcp.failed(number)
            self._host.clockwork.tell(f"{what}: {error or 'timed out'}")
            return
        if answer is not None and answer._replace(vm=_OURSELVES) == asked:
            self.tcp.done(number, self._host.loop.time())
            self.answered_by.add(answer.vm)
        else:
            self.tcp.failed(number)
            self._host.clockwork.tell(f"{what}: wrong data")

    def missing(self) -> list[str]:
        there = ((self.inbound.ping, self.ping, "ping"), (self.inbound.tcp, self.tcp, "connection"))
        return [f"inbound {what} to {self.inbound.address}" for rate, one, what in there if rate and not one.flowing()]

    def report(self, now: float, vms: tuple[str, ...]) -> Incoming:
        names = tuple(sorted(vms[vm] if vm < len(vms) else f"VM {vm}" for vm in self.answered_by))
        return Incoming(self.ping.counts(now), self.tcp.counts(now), names)


class Host:
    """All of the host's."""

    def __init__(self, order: HostOrder, clockwork: Clockwork) -> None:
        self.order = order
        self.clockwork = clockwork
        self.loop = asyncio.get_running_loop()
        self.strays = 0
        self.seen: defaultdict[Kind, set[Endpoint]] = defaultdict(set)
        # Of the kinds whose flow may be heard from several endpoints; by VM and flow.
        self.sources: dict[Kind, defaultdict[tuple[int, int], set[Endpoint]]] = {
            kind: defaultdict(set) for kind in (Kind.UDP, Kind.UDP_SLOW, Kind.PING)
        }
        # Of each VM's steady UDP flow: when it was last heard, and its longest silence since the reset.
        self.heard: dict[int, float] = {}
        self.gaps: defaultdict[int, float] = defaultdict(float)
        self.connections: dict[tuple[Kind, int, int], Echo] = {}
        # Silent connections to which we have spoken, by VM and flow, and whether they have answered.
        self.spoken: dict[tuple[int, int], bool] = {}
        self.spoken_at = 0.0
        self.sinks: dict[int, Sink] = {}
        self.targets = [Target(self, number, inbound) for number, inbound in enumerate(order.inbound)]
        self.raw = echo_socket()
        self.late: LateServer | None = None

    async def start(self) -> None:
        order = self.order
        await self.loop.create_server(
            partial(Echo, order.run, self._answer, self.stray), order.address, ECHO_PORT, backlog=_BACKLOG
        )
        await self.loop.create_server(partial(Sink, self), order.address, BULK_PORT)
        datagrams = datagram_socket(order.address, ECHO_PORT)
        self.loop.add_reader(datagrams, drain(datagrams, partial(self._echo, datagrams)))
        self.loop.add_reader(self.raw, drain(self.raw, self._hear_icmp))
        if order.load.half_open:
            self.late = LateServer(order.device, order.late_mac, order.late_host, LATE_PORTS, self._hear_late)

    def begin(self) -> bool:
        """Ask as well, now that there is somebody to answer."""
        for target in self.targets:
            if target.inbound.ping:
                self.clockwork.every(1 / target.inbound.ping, partial(target.send_ping, self.raw))
            if target.inbound.tcp:
                self.clockwork.every(1 / target.inbound.tcp, partial(self._start_connection, target))
        return True

    def _start_connection(self, target: Target) -> None:
        self.clockwork.start(target.connect())

    # ---- what comes in ------------------------------------------------------------------------

    def stray(self) -> None:
        self.strays += 1

    def note(self, message: Message, endpoint: Endpoint) -> None:
        self.seen[message.kind].add(endpoint)
        if message.kind in self.sources:
            self.sources[message.kind][message.vm, message.flow].add(endpoint)

    def _ours(self, data: bytes) -> Message | None:
        message = parse(data)
        if message is not None and message.run == self.order.run:
            return message
        self.stray()
        return None

    def _answer(self, message: Message, connection: Echo) -> bytes | None:
        self.note(message, connection.peer)
        if message.kind in (Kind.ACTIVE, Kind.SILENT):
            self.connections[message.kind, message.vm, message.flow] = connection
        if message.sequence >= _SPEAK:
            self.spoken[message.vm, message.flow] = True
            return None
        return message.pack()

    def _echo(self, datagrams: socket.socket, data: bytes, sender: Endpoint) -> None:
        message = self._ours(data)
        if message is None:
            return
        self.note(message, sender)
        if message.kind is Kind.UDP:
            self.gaps[message.vm] = self._silence(message.vm, self.loop.time())
            self.heard[message.vm] = self.loop.time()
        try:
            datagrams.sendto(data, sender)
        except OSError:
            pass  # the sender will miss it

    def _silence(self, vm: int, now: float) -> float:
        return max(self.gaps[vm], now - self.heard.get(vm, now))

    def _hear_icmp(self, packet: bytes, sender: Endpoint) -> None:
        """Requests the kernel answers; from where they came is for us."""
        body = packet[(packet[0] & 0xF) * 4 :]
        message = parse(body[8:])
        if message is None or message.run != self.order.run:
            return
        if body[0] == 8 and message.kind is Kind.PING:
            self.note(message, (sender[0], int.from_bytes(body[4:6], "big")))
        elif body[0] == 0 and message.kind is Kind.INBOUND and message.flow < len(self.targets):
            self.targets[message.flow].ping.arrived(message.sequence, self.loop.time())

    def _hear_late(self, data: bytes, sender: Endpoint) -> None:
        message = self._ours(data)
        if message is not None:
            self.note(message, sender)

    # ---- questions ----------------------------------------------------------------------------

    def answer(self, word: str, argument: str) -> object:
        match word:
            case "begin":
                return self.begin()
            case "missing":
                return self.missing()
            case "settled":
                return self.settled(float(argument))
            case "speak":
                return self.speak()
            case "forget":
                return self.forget()
            case "reset":
                return self.reset()
            case "report":
                return self.report()
        raise ValueError(f"no such question: {word}")

    def missing(self) -> list[str]:
        waiting = [line for target in self.targets for line in target.missing()]
        if self.order.load.bulk:
            receiving = {number for number, sink in self.sinks.items() if sink.received}
            waiting += [f"{name} bulk" for number, name in enumerate(self.order.vms) if number not in receiving]
        return waiting

    def settled(self, mark: float) -> bool:
        now = self.loop.time()
        heard = all(self.spoken.values()) or not 0 < self.spoken_at <= mark or now - self.spoken_at > ANSWER_LIMIT
        return heard and all(target.ping.settled(mark, now) and target.tcp.settled(mark) for target in self.targets)

    def speak(self) -> int:
        """To the odd ones of the silent; the even ones speak first themselves."""
        odd = [(key, one) for key, one in self.connections.items() if key[0] is Kind.SILENT and key[2] % 2]
        self.spoken = {(vm, flow): False for (_, vm, flow), _ in odd}
        self.spoken_at = self.loop.time()
        for (kind, vm, flow), connection in odd:
            if not connection.transport.is_closing():
                connection.transport.write(Message(self.order.run, kind, vm, flow, _SPEAK).pack())
        return len(odd)

    def forget(self) -> int:
        """Lose all long-lived connections without a word, as a machine does that crashes and is back at once."""
        for connection in self.connections.values():
            if not connection.transport.is_closing():
                # A socket in repair mode is closed without FIN and RST: tcp(7) does not tell, CRIU lives by it.
                connection.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
                connection.transport.abort()
        return len(self.connections)

    def reset(self) -> bool:
        now = self.loop.time()
        for target in self.targets:
            target.ping.reset(now)
            target.tcp.reset()
        for sink in self.sinks.values():
            sink.reset()
        self.gaps.clear()
        self.clockwork.reset()
        return True

    def report(self) -> HostReport:
        now = self.loop.time()
        return HostReport(
            vms=tuple(self._vm(number, now) for number in range(len(self.order.vms))),
            inbound={target.inbound.address: target.report(now, self.order.vms) for target in self.targets},
            seen={kind.text: tuple(sorted(endpoints)) for kind, endpoints in sorted(self.seen.items())},
            two_ports=self.late.two_ports() if self.late else 0,
            repeated_syns=self.late.repeated if self.late else 0,
            strays=self.strays,
            late_ms=milliseconds(self.clockwork.worst),
            told=tuple(self.clockwork.told),
        )

    def _vm(self, number: int, now: float) -> VmAtHost:
        slow = [len(of) for (vm, _), of in self.sources[Kind.UDP_SLOW].items() if vm == number]
        answers = [alive for (vm, _), alive in self.spoken.items() if vm == number]
        sink = self.sinks.get(number)
        return VmAtHost(
            silent_asked=len(answers),
            silent_alive=sum(answers),
            udp_sources=len(self.sources[Kind.UDP][number, 0]),
            udp_gap_ms=milliseconds(self._silence(number, now)),
            ping_sources=len(self.sources[Kind.PING][number, 0]),
            slow_kept=slow.count(1),
            slow_changed=sum(endpoints > 1 for endpoints in slow),
            bulk_bytes=sink.received if sink else 0,
            bulk_pause_ms=milliseconds(max(sink.pause, now - sink.last)) if sink else 0.0,
        )


async def start(line: bytes, clockwork: Clockwork) -> Callable[[str, str], object]:
    host = Host(msgspec.json.decode(line, type=HostOrder), clockwork)
    await host.start()
    return host.answer


if __name__ == "__main__":
    serve(start)
