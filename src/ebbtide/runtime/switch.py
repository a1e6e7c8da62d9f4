"""One OpenFlow connection: the handshake, the role, dumps, work in bundles, barriers, punts.

Nothing is sent to a switch before it has confirmed the role with our term as generation id: a switch that answers "stale" has heard
a newer leader, and the connection is closed (a session that stayed would be EQUAL, and obeyed). Requests have deadlines; a switch
that stops reading fills a bounded buffer and is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from ebbtide.compile.flow import CONTROLLER, Action, Meter, Output, PushVlan, SetField
from ebbtide.errors import NotReady, ProtocolError
from ebbtide.openflow import flows, multipart
from ebbtide.openflow import messages as m
from ebbtide.openflow.session import Collected, Ready, Received, Refused, Session, State
from ebbtide.reconcile.delta import Break, Found, Work
from ebbtide.runtime import link
from ebbtide.runtime.collector import no_collection
from ebbtide.runtime.link import certificate_of, let_go, no_delay

READ_BYTES = 1 << 18
MAX_UNSENT = 64 << 20
BUNDLE_MESSAGES = 5_000
DEADLINE = 30.0
MASTER = 2
METER_EXISTS = "meter_exists"
log = structlog.get_logger("switch")


class SwitchLost(NotReady):
    """The connection is gone; what was under way is unknown until the next dump."""


class Rejected(NotReady):
    """The switch refused messages. `refused`: index of the message in the work's flows or groups, and why, in words."""

    def __init__(self, refused: dict[int, str]) -> None:
        super().__init__(f"{len(refused)} messages refused: {next(iter(refused.values()))}")
        self.refused = refused


class SwitchLink:
    """A session and its socket. `on_punt(packet_in)` is called for each packet sent up by a flow of ours."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_punt: Callable[[SwitchLink, m.PacketIn], None],
    ) -> None:
        no_delay(writer)
        self.session = Session()
        self.dpid = 0
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.reason = ""
        self.peer = writer.get_extra_info("peername")
        self.certificate = certificate_of(writer)
        self.flow_mods = 0
        self._reader = reader
        self._writer = writer
        self._on_punt = on_punt
        self._waiting: dict[int, asyncio.Future[object]] = {}
        self._errors: dict[int, str] = {}
        self._bundle = 0
        self._turn = asyncio.Lock()
        self._heard = True

    # --- life ---

    async def run(self) -> None:
        """Read until the connection ends; says why in `reason`."""
        prober = asyncio.create_task(self._probing())
        self._flush()
        try:
            while data := await self._reader.read(READ_BYTES):
                self._heard = True
                for event in self.session.receive(data):
                    self._take(event)
                self._flush()
            self.reason = self.reason or "closed by the switch"
        except (ProtocolError, OSError) as error:
            self.reason = self.reason or str(error) or type(error).__name__
            self._flush()
        finally:
            prober.cancel()
            self.session.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(SwitchLost(f"connection lost: {self.reason}"))
                    future.exception()
            self._waiting.clear()
            self.lost.set()
            let_go(self._writer)

    def close(self, reason: str) -> None:
        """End the connection from our side."""
        self.reason = self.reason or reason
        let_go(self._writer)

    async def _probing(self) -> None:
        while True:
            await asyncio.sleep(link.PROBE)
            if not self._heard:
                self.close(f"no answer for {2 * link.PROBE:.0f} s")
                self._writer.transport.abort()
                return
            self._heard = False
            if self.session.state is State.READY:
                self.session.send(m.EchoRequest())
                self._flush()

    def _take(self, event: object) -> None:
        match event:
            case Ready():
                self.dpid = event.features.datapath_id
                self.ready.set()
            case Collected(xid=xid):
                self._answer(xid, event.body)
            case Refused(xid=xid):
                self._errors[xid] = event.words
                future = self._waiting.pop(xid, None)
                if future is not None and not future.done():
                    future.set_exception(Rejected({-1: event.words}))
            case Received(xid=xid, message=m.PacketIn() as packet):
                self._on_punt(self, packet)
            case Received(message=m.RoleStatus() as status) if status.role != MASTER:
                # Whoever took the role has a newer term; what we would send now is refused, message by message.
                self.close("another controller has become the switch's master")
            case Received(xid=xid, message=m.BundleControl() as control):
                if control.kind == m.BUNDLE_COMMITTED:
                    self._answer(xid, control)
            case Received(xid=xid, message=message):
                self._answer(xid, message)
            case _:
                pass

    def _answer(self, xid: int, value: object) -> None:
        future = self._waiting.pop(xid, None)
        if future is not None and not future.done():
            future.set_result(value)

    def _flush(self) -> None:
        data = self.session.data_to_send()
        if not data or self._writer.is_closing():
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self.close("the switch does not read")
            self._writer.transport.abort()

    async def _reply(self, xid: int) -> object:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[xid] = future
        self._flush()
        try:
            async with asyncio.timeout(DEADLINE):
                return await future
        except TimeoutError:
            self._waiting.pop(xid, None)
            self.close(f"no answer to a request for {DEADLINE:.0f} s")
            raise SwitchLost(self.reason) from None

    def _open(self) -> Session:
        if self.lost.is_set() or self.session.state is not State.READY or self._writer.is_closing():
            raise SwitchLost(f"connection lost: {self.reason or 'closed'}")
        return self.session

    # --- requests ---

    async def take_role(self, term: int) -> None:
        """Become master with this term as generation id (OpenFlow 1.3, 6.3.5), and ask for the punts that we read.

        Raises:
            Rejected: the switch has heard a newer term.
        """
        await self._reply(self._open().send(m.RoleRequest(MASTER, term)))
        session = self._open()
        session.send(m.SetPacketInFormat(2))
        # Punts come by reason "action" only; nothing else is asked for.
        session.send(m.SetAsync(packet_in=0b010, port_status=0, flow_removed=0, role_status=0b11))
        await self.barrier()

    async def barrier(self) -> None:
        """Everything sent before is done when this returns."""
        await self._reply(self._open().send(m.BarrierRequest()))

    async def dump(self) -> Found:
        """All flows, groups and meters."""
        session = self._open()
        asked = [
            session.send(multipart.flow_request()),
            session.send(multipart.group_desc_request()),
            session.send(multipart.meter_config_request()),
        ]
        flow_body, group_body, meter_body = await asyncio.gather(*(self._reply(xid) for xid in asked))
        assert isinstance(flow_body, bytes)
        assert isinstance(group_body, bytes)
        assert isinstance(meter_body, bytes)
        groups = {g.group_id: (g.type, g.buckets) for g in multipart.read_groups(group_body)}
        meters = frozenset(meter.meter_id for meter in multipart.read_meters(meter_body))
        with no_collection():
            return Found(flows.iter_flow_stats(flow_body), groups, meters)

    async def flows_of(self, table: int, cookie: int = 0, mask: int = 0) -> list[flows.InstalledFlow]:
        """The flows of one table, with their counters; those whose cookie agrees under `mask`."""
        session = self._open()
        body = await self._reply(session.send(multipart.flow_request(table=table, cookie=cookie, cookie_mask=mask)))
        assert isinstance(body, bytes)
        with no_collection():
            return flows.iter_flow_stats(body)

    async def dropped_by(self, meter: int) -> int:
        """How many packets a meter has dropped; 0 if there is no such meter.

        Raises:
            SwitchLost: it has gone, or does not answer.
        """
        session = self._open()
        try:
            body = await self._reply(session.send(multipart.meter_stats_request(meter)))
        except Rejected:
            return 0
        assert isinstance(body, bytes)
        return sum(packets for found in multipart.read_meter_stats(body) for packets, _ in found.bands)

    async def delete_flows(self, table: int, cookie: int, mask: int) -> None:
        """Delete the flows of one table whose cookie agrees under `mask`; up to the barrier."""
        async with self._turn:
            session = self._open()
            xid = session.take_xids(1)
            session.send_bytes(flows.flow_delete_bytes(xid, session.version, table, cookie, mask))
            await self.barrier()

    async def forget_zone(self, zone: int) -> None:
        """Forget all connections of a conntrack zone; up to the barrier."""
        self._open().send(m.CtFlushZone(zone))
        await self.barrier()

    async def make(self, work: Work) -> None:
        """`_make`, one at a time: two tasks that fill bundles on one connection would commit each other's."""
        async with self._turn:
            await self._make(work)

    async def take_away(self, breaks: Sequence[Break], groups: Sequence[int] = (), meters: Sequence[int] = ()) -> None:
        """Delete flows that still have the cookie they were given, then groups and meters; up to the barrier."""
        async with self._turn:
            await self._take_away(breaks, groups, meters)

    async def wipe(self, keep: Work) -> None:
        """Delete every flow, group and meter and put `keep` there instead: a removed or quarantined switch."""
        async with self._turn:
            await self._wipe(keep)

    async def _make(self, work: Work) -> None:
        """Carry out what makes, up to the barrier.

        Raises:
            SwitchLost: unknown how much was done.
            Rejected: nothing of the bundle that holds the refused message was done.
        """
        session = self._open()
        self._errors.clear()
        meters = {session.send(m.MeterMod(0, meter)): meter for meter in work.meters}
        version = session.version
        start = session.take_xids(work.makes)
        messages = [flows.group_mod_bytes(g, start + i, version) for i, g in enumerate(work.groups)]
        first = start + len(messages)
        messages += [flows.flow_add_bytes(f, first + i, version) for i, f in enumerate(work.flows)]
        self.flow_mods += len(work.flows)
        await self._bundles(messages, start, meters)

    async def _take_away(self, breaks: Sequence[Break], groups: Sequence[int], meters: Sequence[int]) -> None:
        session = self._open()
        version = session.version
        start = session.take_xids(len(breaks) + len(groups))
        messages = [
            flows.flow_delete_strict_bytes(b.key, start + i, version, b.cookie, 0xFFFFFFFF_FFFFFFFF)
            for i, b in enumerate(breaks)
        ]
        first = start + len(messages)
        messages += [flows.group_delete_bytes(number, first + i, version) for i, number in enumerate(groups)]
        self.flow_mods += len(breaks)
        # No bundle: nothing hits these flows any more, in whatever order they go, and groups go after them all the same.
        self._errors.clear()
        session.send_bytes(b"".join(messages))
        for number in meters:
            session.send(m.MeterMod(2, Meter(number, 0)))
        await self.barrier()
        refused = self._refused(start, len(messages), start)
        if refused:
            raise Rejected(refused)

    async def _wipe(self, keep: Work) -> None:
        session = self._open()
        session.send_bytes(flows.flow_delete_bytes(session.take_xids(), session.version))
        session.send_bytes(flows.group_delete_bytes(flows.ALL_GROUPS, session.take_xids(), session.version))
        session.send(m.MeterMod(2, Meter(multipart.ALL_METERS, 0)))
        await self.barrier()
        await self._make(keep)

    async def _bundles(self, messages: list[bytes], first_xid: int, meters: Mapping[int, Meter]) -> None:
        """Send whole messages as ordered atomic bundles; one if they fit. The barrier after the last has been answered when this returns.

        `meters`: those that have been asked for before, by xid: they take no way of their own to the switch and back. One that cannot be
        had is refused with the flows that name it.

        Open vSwitch refuses a malformed message when it arrives, drops it, and would commit the rest: so the commit is only sent when a
        barrier has shown that everything before it was taken. While the switch carries one bundle out, the next is filled.
        """
        if messages or meters:
            await self._reply(self._fill(messages, 0) if messages else self._open().send(m.BarrierRequest()))
        there = {xid: meter for xid, meter in meters.items() if METER_EXISTS in self._errors.get(xid, "")}
        changed = {self._open().send(m.MeterMod(1, meter)): meter for meter in there.values()}
        if changed and not messages:
            await self.barrier()
        for at in range(0, len(messages), BUNDLE_MESSAGES):
            bundle, after = self._bundle, at + BUNDLE_MESSAGES
            base, count = first_xid + at, min(BUNDLE_MESSAGES, len(messages) - at)
            refused = self._refused(base, count, first_xid)
            if refused:
                self._discard(bundle)
                raise Rejected(refused)
            commit = self._open().send(m.BundleControl(bundle, m.BUNDLE_COMMIT))
            more = after < len(messages)
            barrier = self._fill(messages, after) if more else self._open().send(m.BarrierRequest())
            committed, passed = await asyncio.gather(self._reply(commit), self._reply(barrier), return_exceptions=True)
            if isinstance(committed, Rejected):
                if more:
                    self._discard(self._bundle)
                raise Rejected(self._refused(base, count, first_xid) or committed.refused)
            for result in (committed, passed):
                if isinstance(result, BaseException):
                    raise result
        # Flows that name one that is not there were refused. Nothing else depends on a meter: it keeps nobody from what comes next.
        for xid, meter in (*meters.items(), *changed.items()):
            if xid in self._errors and xid not in there:
                words = self._errors[xid]
                log.error("meter_refused", peer=str(self.peer), meter=meter.meter_id, rate=meter.rate, reason=words)

    def _fill(self, messages: list[bytes], at: int) -> int:
        """Open the next bundle and put its messages in; the xid of the barrier after them."""
        self._bundle = (self._bundle + 1) & 0xFFFFFFFF
        session = self._open()
        session.send_bundle(self._bundle, messages[at : at + BUNDLE_MESSAGES], commit=False)
        return session.send(m.BarrierRequest())

    def _discard(self, bundle: int) -> None:
        self._open().send(m.BundleControl(bundle, m.BUNDLE_DISCARD))
        self._flush()

    def _refused(self, base: int, count: int, first: int) -> dict[int, str]:
        return {xid - first: words for xid, words in self._errors.items() if base <= xid < base + count}

    def packet_out(self, port: int, frame: bytes, tunnel_id: int = 0, vlan: int = 0) -> None:
        """Send a frame out of a port; `tunnel_id` for tunnel ports, `vlan` (0: untagged) for those to networks outside."""
        before: tuple[Action, ...] = (SetField("tun_id", tunnel_id),) if tunnel_id else ()
        if vlan:
            before = (PushVlan(), SetField("vlan_vid", 0x1000 | vlan))
        self.send_out((*before, Output(port)), frame)

    def send_out(self, actions: tuple[Action, ...], frame: bytes) -> None:
        """Have the switch carry out actions on a frame."""
        self._open().send(m.PacketOut(CONTROLLER, actions, frame))
        self._flush()
