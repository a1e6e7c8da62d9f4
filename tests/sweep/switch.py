"""One simulated switch as its controllers see it: OpenFlow 1.3 and 1.4 from the switch's side, over any stream.

The tables live as long as the switch, sessions come and go. Roles, bundles, errors, packet-ins and dumps are those of ovs-vswitchd 3.1,
as far as the controller or `ovs-ofctl` asks for them; anything else is refused as bad_request/bad_type, and tests would see it.

Longer than 400 lines: a session is one protocol, and whoever reads what is answered to a message wants to see what may come before it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from struct import Struct

import msgspec

from ebbtide.compile.flow import Meter
from ebbtide.errors import ProtocolError
from ebbtide.openflow import messages as m
from ebbtide.openflow import multipart, oxm, versions
from ebbtide.openflow.framing import Frame, FrameBuffer, message
from tests.sweep.pipeline import Pipeline, Port, Punt
from tests.sweep.tables import BAD_FIELD, Entry, Refusal, Tables, Wanted

EQUAL, MASTER, SLAVE = 1, 2, 3
#: Seconds of silence after which a controller is asked whether it lives, and until it counts as gone (Controller.inactivity_probe).
PROBE = 5.0
READ_BYTES = 1 << 18
_ONF = 0x4F4E4600
_BAD_TYPE, _BAD_EXPERIMENTER, _BAD_LEN, _IS_SLAVE, _BAD_MULTIPART = (1, 1), (1, 3), (1, 6), (1, 10), (1, 2)
_STALE, _BAD_ROLE = (11, 0), (11, 2)
_BAD_ID, _BUNDLE_CLOSED, _UNSUPPORTED, _FAILED = (17, 2), (17, 4), (17, 10), (17, 13)
_PROPERTY, _U32 = Struct("!HH"), Struct("!I")
_ASYNC_PROPERTY = Struct("!HHI")
_TABLE_FEATURES = 12  # OpenFlow 1.3.5, 7.3.5.5
_PART = 60_000  # bytes of one part of a multipart reply
_CHANGES = (m.FLOW_MOD, m.GROUP_MOD, m.METER_MOD)
_COMMANDS = {0: "add", 1: "modify", 2: "modify", 3: "delete", 4: "delete"}


class Bundle(msgspec.Struct):
    """Messages that wait for their commit."""

    flags: int
    frames: list[Frame] = []
    closed: bool = False


class Switch:
    """One bridge. `counts`: what controllers have sent, by kind of message, those inside of bundles too; those of `ovs-ofctl` are not."""

    def __init__(self, dpid: int, send: Callable[[Port, bytes, int], None], running: asyncio.Event) -> None:
        self.dpid = dpid
        self.tables = Tables(time.monotonic, self._removed)
        self.pipeline = Pipeline(self.tables, send, self._punt)
        self.counts: Counter[str] = Counter()
        self.sessions: set[SwitchSession] = set()
        self.generation: int | None = None
        self.running = running
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ports(self) -> dict[int, Port]:
        """By OpenFlow number; changed by `set_ports`."""
        return self.pipeline.ports

    def set_ports(self, ports: dict[int, Port]) -> None:
        """These are its ports now; controllers that asked for it are told what has changed."""
        old, self.pipeline.ports = self.pipeline.ports, ports
        for number in sorted({*old, *ports}):
            was, now = old.get(number), ports.get(number)
            if was == now:
                continue
            reason = 0 if was is None else 1 if now is None else 2
            shown = now if now is not None else was
            assert shown is not None
            for session in self.sessions:
                session.tell(m.PortStatus(reason, _fields(shown)), "port_status", reason)

    def carry_out(self, frame: Frame) -> None:
        """A message that changes tables, of a session or of a bundle."""
        self.tables.carry_out(frame)
        self.reschedule()

    def reschedule(self) -> None:
        """Flows go when they have lapsed."""
        at = self.tables.expire()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if at != float("inf"):
            wait = max(0.01, at - self.tables.now())
            self._timer = asyncio.get_running_loop().call_later(wait, self.reschedule)

    def demote(self, but: SwitchSession) -> None:
        """Another session has become the master."""
        for session in self.sessions:
            if session is not but and session.role == MASTER:
                session.role = SLAVE
                if session.version >= versions.OF14:
                    session.send(m.RoleStatus(SLAVE, 0, self.generation or 0))

    def _removed(self, entry: Entry, reason: int) -> None:
        gone = m.FlowRemoved(
            *(entry.table, entry.priority, entry.match, entry.cookie, reason, entry.n_packets, entry.n_bytes),
            *(self.tables.now() - entry.since, entry.idle, entry.hard),
        )
        for session in self.sessions:
            session.tell(gone, "flow_removed", reason)

    def _punt(self, punt: Punt) -> None:
        for session in self.sessions:
            session.tell_packet(punt)

    def close(self) -> None:
        """All sessions end; the tables are gone."""
        for session in list(self.sessions):
            session.close()
        if self._timer is not None:
            self._timer.cancel()
        self.tables.clear()


class SwitchSession:
    """One connection. `controller`: whether it is one, or an `ovs-ofctl` that is asked by nobody and told nothing."""

    def __init__(
        self, switch: Switch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, controller: bool
    ) -> None:
        self.switch, self.controller = switch, controller
        self.role, self.version = EQUAL, 0
        self._reader, self._writer = reader, writer
        self._frames = FrameBuffer()
        self._bundles: dict[int, Bundle] = {}
        self._packet_in_format = 0
        # OpenFlow 1.3, 7.3.10: until it says otherwise, master and equal are told of everything.
        self._told = {"packet_in": 0b11, "port_status": 0b111, "flow_removed": 0b1111}
        self._heard = 0.0

    async def run(self) -> None:
        """Until it ends, from either side."""
        self.switch.sessions.add(self)
        prober = asyncio.create_task(self._probing())
        try:
            self._write(m.encode(m.Hello(versions.VERSIONS), 1, versions.OF14))
            while data := await self._reader.read(READ_BYTES):
                await self.switch.running.wait()
                self._heard = time.monotonic()
                for frame in self._frames.feed(data):
                    self._take(frame)
                await self._writer.drain()
        except (OSError, ProtocolError):
            pass
        finally:
            prober.cancel()
            self.switch.sessions.discard(self)
            self.close()

    def close(self) -> None:
        """End it."""
        if not self._writer.is_closing():
            self._writer.transport.abort()

    async def _probing(self) -> None:
        self._heard = time.monotonic()
        while self.controller:
            await asyncio.sleep(PROBE)
            silent = time.monotonic() - self._heard
            if silent >= 2 * PROBE and self.switch.running.is_set():
                self.close()
            elif silent >= PROBE and self.version:
                self.send(m.EchoRequest())

    # --- sending ---

    def _write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    def send(self, value: m.Message, xid: int = 0) -> None:
        """A message, in the session's version."""
        self._write(m.encode(value, xid, self.version))

    def tell(self, value: m.Message, kind: str, reason: int) -> None:
        """Something that nobody has asked for, if this session wants to be told."""
        if self.controller and self.version and self.role != SLAVE and self._told[kind] >> reason & 1:
            self.send(value)

    def tell_packet(self, punt: Punt) -> None:
        """A packet-in, if this session wants it."""
        if (
            not (self.controller and self.version)
            or self.role == SLAVE
            or not self._told["packet_in"] >> punt.reason & 1
        ):
            return
        if self._packet_in_format == 2:
            body = _packet_in2(punt)
            self._write(message(self.version, m.EXPERIMENTER, 0, body))
            return
        own = tuple(f for f in punt.around if f.name not in ("ct_zone", "ct_nw_proto"))
        self.send(m.PacketIn(punt.reason, punt.table, punt.cookie, own, punt.data, punt.total))

    def _refuse(self, frame: Frame, error: tuple[int, int]) -> None:
        kind, code = error
        data = message(frame.version, frame.type, frame.xid, frame.body)[:64]
        if kind == 17 and self.version < versions.OF14:
            self.send(m.Error(0xFFFF, 2300 + code, data, _ONF), frame.xid)
        else:
            self.send(m.Error(kind, code, data), frame.xid)

    # --- receiving ---

    def _take(self, frame: Frame) -> None:
        if not self.version:
            if frame.type != m.HELLO:
                raise ProtocolError("no hello")
            hello = m.decode(frame)
            assert isinstance(hello, m.Hello)
            common = set(versions.VERSIONS) & set(hello.versions)
            if not common:
                self._write(m.encode(m.Error(0, 0, b"1.3 and 1.4 only"), frame.xid, versions.OF13))
                raise ProtocolError("no version in common")
            self.version = max(common)
            return
        try:
            self._carry_out(frame)
        except Refusal as refusal:
            self._refuse(frame, (refusal.kind, refusal.code))
        except ProtocolError:
            self._refuse(frame, _BAD_LEN)

    def _carry_out(self, frame: Frame) -> None:
        if frame.type in _CHANGES:
            self._may_change()
            self._count(frame)
            self.switch.carry_out(frame)
            return
        value = m.decode(frame)
        self._tally(type(value).__name__)
        match value:
            case m.EchoRequest():
                self.send(m.EchoReply(value.data), frame.xid)
            case m.EchoReply() | m.SetConfig() | m.Error():
                pass
            case m.FeaturesRequest():
                # n_buffers 0, 254 tables; flows, tables, ports, groups and queues are counted.
                self.send(m.FeaturesReply(self.switch.dpid, 0, 254, 0, 0x4F), frame.xid)
            case m.GetConfigRequest():
                self.send(m.GetConfigReply(), frame.xid)
            case m.BarrierRequest():
                self.send(m.BarrierReply(), frame.xid)
            case m.RoleRequest():
                self._take_role(value, frame.xid)
            case m.SetPacketInFormat():
                self._packet_in_format = value.format
            case m.CtFlushZone():
                self._may_change()
                self.switch.pipeline.zones.pop(value.zone, None)
            case m.PacketOut():
                self._may_change()
                self.switch.pipeline.send_out(value.in_port, value.actions, value.data)
                self.switch.reschedule()
            case m.MultipartRequest():
                self._answer(value, frame.xid)
            case m.BundleControl():
                self._control(value, frame)
            case m.BundleAdd():
                self._add(value, frame)
            case m.Other(type=m.SET_ASYNC):
                self._set_async(value.body)
            case m.Other(type=m.EXPERIMENTER):
                raise Refusal(*_BAD_EXPERIMENTER)
            case _:
                raise Refusal(*_BAD_TYPE)

    def _may_change(self) -> None:
        if self.role == SLAVE:
            raise Refusal(*_IS_SLAVE)

    def _tally(self, what: str) -> None:
        if self.controller:
            self.switch.counts[what] += 1

    def _count(self, frame: Frame) -> None:
        if frame.type == m.FLOW_MOD:
            self._tally("flow_mod")
            self._tally(f"flow_{_COMMANDS.get(frame.body[17], 'other')}")
        else:
            self._tally("group_mod" if frame.type == m.GROUP_MOD else "meter_mod")

    def _take_role(self, value: m.RoleRequest, xid: int) -> None:
        if value.role > SLAVE:
            raise Refusal(*_BAD_ROLE)
        if value.role in (MASTER, SLAVE):
            held = self.switch.generation
            # 1.3, 6.3.5: a distance, since generations may wrap around.
            if held is not None and (value.generation_id - held) & 1 << 63:
                raise Refusal(*_STALE)
            self.switch.generation = value.generation_id
        if value.role:
            self.role = value.role
        if value.role == MASTER:
            self.switch.demote(self)
        self.send(m.RoleReply(self.role, self.switch.generation or 0), xid)

    def _set_async(self, body: bytes) -> None:
        if self.version < versions.OF14:
            found = Struct("!6I").unpack_from(body)
            self._told = {"packet_in": found[0], "port_status": found[2], "flow_removed": found[4]}
            return
        names = {1: "packet_in", 3: "port_status", 5: "flow_removed"}
        for kind, _, mask in _ASYNC_PROPERTY.iter_unpack(body):
            if kind in names:
                self._told[names[kind]] = mask

    # --- bundles ---

    def _control(self, value: m.BundleControl, frame: Frame) -> None:
        bundle = self._bundles.get(value.bundle_id)
        if value.kind == m.BUNDLE_OPEN:
            if bundle is not None:
                del self._bundles[value.bundle_id]
                raise Refusal(*_BAD_ID)
            self._bundles[value.bundle_id] = Bundle(value.flags)
        elif bundle is None:
            raise Refusal(*_BAD_ID)
        elif value.kind == m.BUNDLE_CLOSE:
            if bundle.closed:
                del self._bundles[value.bundle_id]
                raise Refusal(*_BUNDLE_CLOSED)
            bundle.closed = True
        else:
            del self._bundles[value.bundle_id]
            if value.kind == m.BUNDLE_COMMIT:
                self._commit(bundle)
        self.send(m.BundleControl(value.bundle_id, value.kind + 1, 0), frame.xid)

    def _add(self, value: m.BundleAdd, frame: Frame) -> None:
        (inner,) = FrameBuffer().feed(value.data) or (None,)
        if inner is None or inner.type not in (*_CHANGES[:2], m.PACKET_OUT):
            raise Refusal(*_UNSUPPORTED)
        # 1.4.1, 7.3.9: a bundle that is not there is made by what is put into it.
        bundle = self._bundles.setdefault(value.bundle_id, Bundle(value.flags))
        if bundle.closed:
            del self._bundles[value.bundle_id]
            raise Refusal(*_BUNDLE_CLOSED)
        try:
            _check_form(inner)
        except Refusal as refusal:
            # As in Open vSwitch: what is malformed is refused when it comes, and the bundle goes on without it.
            self._refuse(inner, (refusal.kind, refusal.code))
            return
        bundle.frames.append(inner)

    def _commit(self, bundle: Bundle) -> None:
        self._may_change()
        switch = self.switch
        saved = switch.tables.saved()
        for frame in bundle.frames:
            try:
                if frame.type == m.PACKET_OUT:
                    out = m.decode(frame)
                    assert isinstance(out, m.PacketOut)
                    switch.pipeline.send_out(out.in_port, out.actions, out.data)
                else:
                    switch.tables.carry_out(frame)
            except Refusal as refusal:
                switch.tables.restore(saved)
                self._refuse(frame, (refusal.kind, refusal.code))
                raise Refusal(*_FAILED) from None
        for frame in bundle.frames:
            if frame.type != m.PACKET_OUT:
                self._count(frame)
        self._tally("bundle")
        switch.reschedule()

    # --- multipart ---

    def _answer(self, request: m.MultipartRequest, xid: int) -> None:
        parts = list(_parts(self._items(request)))
        for index, body in enumerate(parts):
            more = multipart.MORE if index + 1 < len(parts) else 0
            self.send(m.MultipartReply(request.kind, body, more), xid)

    def _items(self, request: m.MultipartRequest) -> Iterable[bytes]:
        tables, now = self.switch.tables, self.switch.tables.now()
        match request.kind:
            case multipart.DESC:
                words = ("Nicira, Inc.", "Open vSwitch", "3.1.0", "None", "None")
                return [Struct("!256s256s256s32s256s").pack(*(w.encode() for w in words))]
            case multipart.FLOW | multipart.AGGREGATE:
                wanted = Wanted.of_stats(request.body)
                found = [e for e in tables.flows.values() if wanted.covers(e)]
                if request.kind == multipart.FLOW:
                    return [e.stats(now) for e in found]
                packets, size = sum(e.n_packets for e in found), sum(e.n_bytes for e in found)
                return [Struct("!QQI4x").pack(packets, size, len(found))]
            case multipart.TABLE:
                held = Counter(e.table for e in tables.flows.values())
                return [Struct("!B3xIQQ").pack(n, held[n], 0, 0) for n in range(254)]
            case multipart.GROUP_DESC:
                return [
                    Struct("!HBxI").pack(8 + len(g.data), g.type, g.group_id) + g.data for g in tables.groups.values()
                ]
            case multipart.METER_CONFIG:
                (number,) = _U32.unpack_from(request.body)
                return [_meter(x) for x in tables.meters.values() if number in (x.meter_id, multipart.ALL_METERS)]
            case multipart.PORT_DESC:
                ports = self.switch.ports
                return [versions.encode_port(self.version, _fields(ports[n])) for n in sorted(ports)]
            case _ if request.kind == _TABLE_FEATURES:
                # `ovs-ofctl --names` looks for names of tables, and takes neither an error nor none: of one, that has no name and can
                # do nothing (eight properties, all of them empty).
                empty = b"".join(Struct("!HH4x").pack(kind, 4) for kind in range(0, 16, 2))
                return [Struct("!HB5x32sQQII").pack(64 + len(empty), 0, b"", 0, 0, 0, 0) + empty]
        raise Refusal(*_BAD_MULTIPART)


def _meter(x: Meter) -> bytes:
    """struct ofp_meter_config with one drop band (1.3.5, 7.3.5.10)."""
    flags = (m.METER_PKTPS if x.pktps else m.METER_KBPS) | m.METER_STATS | (m.METER_BURST if x.burst else 0)
    return Struct("!HHI").pack(24, flags, x.meter_id) + Struct("!HHII4x").pack(1, 16, x.rate, x.burst)


def _parts(items: Iterable[bytes]) -> Iterator[bytes]:
    part, size = list[bytes](), 0
    for item in items:
        if size + len(item) > _PART:
            yield b"".join(part)
            part, size = [], 0
        part.append(item)
        size += len(item)
    yield b"".join(part)


def _check_form(frame: Frame) -> None:
    """What Open vSwitch looks at when a message comes, before it is carried out: that its match can be one."""
    if frame.type != m.FLOW_MOD:
        return
    try:
        fields = oxm.decode_match(frame.body, 40)
    except ProtocolError:
        raise Refusal(*_BAD_LEN) from None
    if any(field.name.startswith("oxm:") for field in fields):
        raise Refusal(*BAD_FIELD)
    if oxm.missing_prerequisite(fields):
        raise Refusal(4, 9)


def _fields(port: Port) -> versions.PortFields:
    state = 0 if port.live else 1  # OFPPS_LINK_DOWN
    return versions.PortFields(port.ofport, port.mac, port.name, 0, state, 0, 0, 0, 0, 0, 0)


def _packet_in2(punt: Punt) -> bytes:
    """NXT_PACKET_IN2 (OVS include/openflow/nicira-ext.h, enum nx_packet_in2_prop_type)."""
    pieces = [(0, punt.data)]
    if punt.total != len(punt.data):
        pieces.append((1, _U32.pack(punt.total)))
    pieces.append((3, bytes([punt.table])))
    pieces.append((4, b"\0" * 4 + punt.cookie.to_bytes(8, "big")))
    pieces.append((5, bytes([punt.reason])))
    pieces.append((6, b"".join(oxm.encode_field(*field) for field in punt.around)))
    if punt.userdata:
        pieces.append((7, punt.userdata))
    out = [Struct("!II").pack(m.NICIRA, 30)]
    for kind, body in pieces:
        length = 4 + len(body)
        out.append(_PROPERTY.pack(kind, length) + body + b"\0" * (-length % 8))
    return b"".join(out)


async def serve(switch: Switch, path: str) -> asyncio.Server:
    """A passive socket of the switch, for `ovs-ofctl ... unix:PATH`."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await SwitchSession(switch, reader, writer, controller=False).run()

    return await asyncio.start_unix_server(accept, path)
