"""A controller with simulated computes: everything of the product runs, from the store's server to the bytes for each switch.

What is replaced is below the sessions: `OvsdbLink` and `SwitchLink` end in a `SimCompute` in this process, which holds the rows of
one compute's OVSDB, carries transactions out, and takes OpenFlow bytes without looking at them. Its own CPU time (carrying out what
ovsdb-server and ovs-vswitchd would) is counted apart, in `Simulation.aside`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from ebbtide.compile import ledger
from ebbtide.compile.features import tunnel
from ebbtide.model.facts import Edit, Fact
from ebbtide.model.state import State
from ebbtide.openflow import messages as m
from ebbtide.openflow.session import State as Phase
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.replica import Replica
from ebbtide.ovsdb.schema import DatabaseSchema, parse_schema
from ebbtide.ovsdb.transaction import Outcome, Transaction
from ebbtide.ovsdb.values import Uuid
from ebbtide.reconcile.delta import Found, Work
from ebbtide.runtime import cluster as _cluster
from ebbtide.runtime import vswitch
from ebbtide.runtime.cluster import Cluster, Settings
from ebbtide.runtime.link import OvsdbLink
from ebbtide.runtime.member import Member
from ebbtide.runtime.private_store import PrivateStore
from ebbtide.runtime.service import Service
from ebbtide.runtime.store import Store
from ebbtide.runtime.switch import SwitchLink

from . import clouds

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
CHUNK = 20_000
_PATCHED: Any = _cluster  # its two kinds of session are replaced while a simulation runs
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def load_schema() -> DatabaseSchema:
    """Open vSwitch's own."""
    return parse_schema(json.loads(SCHEMA.read_text()))


async def fill(directory: Path, facts: Iterable[Fact]) -> None:
    """Put facts into a private store, in a few transactions."""
    private = PrivateStore(directory)
    await private.ensure()
    store = Store([private.remote], lambda *_: None, new_store_id=str(uuid.uuid4()))
    task = asyncio.create_task(store.run())
    await store.leading.wait()
    facts = iter(facts)
    while chunk := [Edit(None, fact) for fact in itertools.islice(facts, CHUNK)]:

        def decide(state: State, chunk: list[Edit] = chunk) -> tuple[list[Edit], None]:
            return chunk, None

        await store.commit(decide)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class SimCompute:
    """One compute: its database rows, and a switch that takes everything."""

    def __init__(self, simulation: Simulation, name: str, number: int, tep: str, host: int) -> None:
        self.simulation = simulation
        self.name, self.number, self.tep = name, number, tep
        self.host = f"10.254.{host >> 8}.{host & 255}"
        self.link: SimLink | None = None
        self.switch: SimSwitch | None = None
        self.bytes = 0
        self._taps = itertools.count(1)
        self._named: dict[str, Uuid] = {}
        self.tables = vswitch.replica(simulation.schema)
        self._sessions: list[asyncio.Task[None]] = []
        root = {
            "external_ids": {"system-id": f"system-{name[1:]}", "hostname": name},
            "other_config": {"local_ip": tep} if tep else {},
            "datapath_types": frozenset({"netdev"}),
        }
        self._write("Open_vSwitch", Uuid(clouds.uuid_of(host)), root)

    # --- rows: written by ourselves, or by a transaction of the controller's ---

    def _write(self, table: str, row: Uuid, columns: dict[str, Any]) -> None:
        held = self.tables._tables[table]
        before = held.rows.get(row, held.defaults)
        held.rows[row] = MappingProxyType({**before, **columns})

    def realised(self, peers: Iterable[tuple[int, str]], taps: Iterable[str], term: int, store_id: str) -> None:
        """Rows as they are after everything has been carried out: for a compute that is there when the controller starts."""
        ids = {vswitch.STORE: store_id, vswitch.TERM: str(term), vswitch.REVISION: "1"}
        ports = [self._port(vswitch.BRIDGE, {"type": "internal", "ofport": 65534})]
        for peer, name in peers:
            ports.append(
                self._port(
                    name,
                    {
                        "type": "vxlan",
                        "ofport": vswitch.FIRST_TUNNEL + peer,
                        "external_ids": MappingProxyType({vswitch.PEER: str(peer)}),
                        "options": MappingProxyType({"remote_ip": clouds.tep(peer), "key": "flow"}),
                        "ofport_request": vswitch.FIRST_TUNNEL + peer,
                    },
                )
            )
        ports += [self._tap(port) for port in taps]
        controller = Uuid(str(uuid.uuid4()))
        target = {"target": "tcp:10.254.0.0:6653", "max_backoff": 1000, "inactivity_probe": 5000}
        self._write("Controller", controller, {**target, "connection_mode": "out-of-band", "is_connected": True})
        bridge = {
            "name": vswitch.BRIDGE,
            "ports": frozenset(ports),
            "controller": frozenset({controller}),
            "external_ids": MappingProxyType(ids),
            "other_config": MappingProxyType(
                {"disable-in-band": "true", "datapath-id": f"{clouds.dpid(self.number):016x}"}
            ),
            "datapath_id": f"{clouds.dpid(self.number):016x}",
            "datapath_type": "netdev",
            "fail_mode": "secure",
            "protocols": vswitch.PROTOCOLS,
        }
        self._write("Bridge", Uuid(str(uuid.uuid4())), bridge)

    def _port(self, name: str, interface: dict[str, Any]) -> Uuid:
        port, row = Uuid(str(uuid.uuid4())), Uuid(str(uuid.uuid4()))
        self._write("Interface", row, {"name": name, **interface})
        self._write("Port", port, {"name": name, "interfaces": frozenset({row})})
        return port

    def _tap(self, port: str) -> Uuid:
        ids = MappingProxyType({"iface-id": port, "attached-mac": "02:00:00:00:00:01", "iface-status": "active"})
        return self._port(f"tap-{port}", {"ofport": next(self._taps), "external_ids": ids})

    def plug(self, *ports: str) -> None:
        """VMs are plugged, in one transaction of the host's."""
        with self.simulation.set_aside():
            uuids = {self._tap(port) for port in ports}
            bridge, row = self._bridge()
            rows = {"Bridge": {bridge: {"modify": {"ports": ["set", [["uuid", u] for u in sorted(uuids)]]}}}}
            updates: dict[str, Any] = self._inserted(uuids) | rows
            self._write("Bridge", bridge, {"ports": row["ports"]})
        self._tell(updates)

    def unplug(self, *ports: str) -> None:
        """VMs are unplugged."""
        with self.simulation.set_aside():
            names = {f"tap-{port}" for port in ports}
            bridge, row = self._bridge()
            gone = {u for u in row["ports"] if self.tables.rows("Port")[u]["name"] in names}
            updates: dict[str, Any] = self._ports_changed(bridge, row, row["ports"] - gone)
        self._tell(updates)

    def _bridge(self) -> tuple[Uuid, Any]:
        return next((u, r) for u, r in self.tables.rows("Bridge").items() if r["name"] == vswitch.BRIDGE)

    def _inserted(self, ports: Iterable[Uuid]) -> dict[str, Any]:
        """Rows that were written beforehand, taken out again and told as inserted."""
        updates: dict[str, Any] = {"Port": {}, "Interface": {}}
        for port in ports:
            interfaces = self.tables.rows("Port")[port]["interfaces"]
            for table, uuids in (("Port", [port]), ("Interface", interfaces)):
                for row in uuids:
                    held = self.tables._tables[table]
                    updates[table][row] = {"insert": held.shape.encode_row(held.rows.pop(row))}
        return updates

    def _ports_changed(self, bridge: Uuid, row: Any, ports: frozenset[Uuid]) -> dict[str, Any]:
        """The bridge's ports become these; who is named no more vanishes."""
        updates: dict[str, Any] = {}
        changed = ports ^ row["ports"]
        if changed:
            body = {"ports": ["set", [["uuid", u] for u in sorted(changed)]]}
            updates["Bridge"] = {bridge: {"modify": body}}
        for port in row["ports"] - ports:
            updates.setdefault("Port", {})[port] = {"delete": None}
            for interface in self.tables.rows("Port")[port]["interfaces"]:
                updates.setdefault("Interface", {})[interface] = {"delete": None}
        return updates

    def _tell(self, updates: dict[str, Any]) -> None:
        """A notification: decoded from JSON by the replica, and told to the controller, as OvsdbLink does."""
        if not updates:
            return
        with self.simulation.set_aside():
            data = _encoder.encode(updates)
        changes = self.tables.take_update(_decoder.decode(data), old_style=False)
        if self.link is not None:
            self.link.tell(ev.Updated(self.tables, changes))

    def transact(self, transaction: Transaction) -> Outcome:
        """Carry out what the controller writes; vswitchd realises it at once."""
        _encoder.encode(transaction.params())
        with self.simulation.set_aside():
            updates = self._carry_out(transaction)
        self._tell(updates)
        return Outcome()

    def _carry_out(self, transaction: Transaction) -> dict[str, Any]:
        self._named = {}
        updates: dict[str, Any] = {}
        for operation in transaction.operations:
            table = operation.get("table", "")
            if operation["op"] == "insert":
                self._insert(table, operation, updates)
            elif operation["op"] in ("update", "mutate"):
                held = self.tables._tables[table]
                for row in self._found(table, operation["where"]):
                    old = held.rows[row]
                    if operation["op"] == "update":
                        columns = self._decoded(table, operation["row"])
                        new = {k: v for k, v in columns.items() if old[k] != v}
                    else:
                        new = self._mutated(table, old, operation["mutations"])
                    if table == "Open_vSwitch" and "next_cfg" in new:
                        new["cur_cfg"] = new["next_cfg"]
                    self._modify(table, row, old, new, updates)
        return updates

    def _insert(self, table: str, operation: Any, updates: dict[str, Any]) -> None:
        row = Uuid(str(uuid.uuid4()))
        self._named[operation["uuid-name"]] = row
        columns = self._decoded(table, operation["row"])
        if table == "Interface":
            columns["ofport"] = columns.get("ofport_request") or 65534
        if table == "Bridge":
            columns["datapath_id"] = columns["other_config"]["datapath-id"]
        held = self.tables._tables[table]
        whole = {**held.defaults, **columns}
        updates.setdefault(table, {})[row] = {"insert": held.shape.encode_row(whole)}

    def _decoded(self, table: str, row: Any) -> dict[str, Any]:
        shape = self.tables._tables[table].shape
        text = _resolved(row, self._named)
        return {name: shape.columns[name].decode(value) for name, value in text.items()}

    def _found(self, table: str, where: Any) -> list[Uuid]:
        rows = self.tables.rows(table)
        if not where:
            return list(rows)
        ((column, _, value),) = where
        if column == "_uuid":
            return [Uuid(value[1])] if value[1] in rows else []
        return [u for u, row in rows.items() if row[column] == value]

    def _mutated(self, table: str, old: Any, mutations: Any) -> dict[str, Any]:
        shape = self.tables._tables[table].shape
        new: dict[str, Any] = {}
        for column, what, raw in mutations:
            now = new.get(column, old[column])
            value = _resolved(raw, self._named)
            if what == "+=":
                new[column] = now + value
            elif shape.columns[column].type.is_map:
                if what == "insert":
                    new[column] = MappingProxyType({**dict(value[1]), **now})
                else:
                    gone = set(value[1]) if value[0] == "set" else {value}
                    new[column] = MappingProxyType({k: v for k, v in now.items() if k not in gone})
            else:
                found = shape.columns[column].diff(value)
                new[column] = now | found if what == "insert" else now - found
        return {k: v for k, v in new.items() if old[k] != v}

    def _modify(self, table: str, row: Uuid, old: Any, new: dict[str, Any], updates: dict[str, Any]) -> None:
        """Note a change of a row as the difference that a monitor would send."""
        if table == "Bridge" and "ports" in new:
            for name, rows in self._ports_changed(row, old, new["ports"]).items():
                for key, change in rows.items():
                    _merge(updates, name, key, change)
            new = {k: v for k, v in new.items() if k != "ports"}
        shape = self.tables._tables[table].shape
        body: dict[str, Any] = {}
        for column, value in new.items():
            kind = shape.columns[column]
            if kind.type.is_map:
                pairs = {k: value.get(k, old[column].get(k)) for k in {*value, *old[column]}}
                body[column] = ["map", [[k, v] for k, v in pairs.items() if value.get(k) != old[column].get(k)]]
            elif kind.type.is_composite:
                body[column] = kind.encode_part(frozenset(value ^ old[column]))
            else:
                body[column] = kind.encode(value)
        if body:
            _merge(updates, table, row, {"modify": body})

    # --- sessions ---

    def connect(self) -> None:
        """Both sessions come up, the switch's when the controller has made the bridge and its Controller row."""
        self._begin(self.simulation.cluster.ovsdb_session(self, self))  # type: ignore[arg-type]

    def connect_switch(self) -> None:
        """The switch connects."""
        self._begin(self.simulation.cluster.openflow_session(self, self))  # type: ignore[arg-type]

    def _begin(self, session: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(session)
        self._sessions.append(task)
        task.add_done_callback(self.simulation.session_ended)

    async def disconnect(self) -> None:
        """Both sessions end."""
        for link in (self.link, self.switch):
            if link is not None:
                link.lost.set()
        await asyncio.gather(*self._sessions)
        self.link = self.switch = None

    @property
    def datapath_id(self) -> int:
        """In force."""
        return int(self._bridge()[1]["datapath_id"], 16)

    def close(self) -> None:
        """As a StreamWriter."""


def _merge(updates: dict[str, Any], table: str, row: str, change: dict[str, Any]) -> None:
    now = updates.setdefault(table, {}).get(row)
    if now is not None and "modify" in now and "modify" in change:
        now["modify"].update(change["modify"])
    else:
        updates[table][row] = change


def _resolved(value: Any, named: dict[str, Uuid]) -> Any:
    if isinstance(value, dict):
        return {k: _resolved(v, named) for k, v in value.items()}
    if isinstance(value, list):
        if len(value) == 2 and value[0] == "named-uuid":
            return ["uuid", named[value[1]]]
        return [_resolved(v, named) for v in value]
    return value


class _NoWriter:
    """A StreamWriter that leads nowhere."""

    def __init__(self, host: str, port: int, local: int) -> None:
        self._names = {"peername": (host, port), "sockname": ("10.254.0.0", local)}
        self.transport = self

    def get_extra_info(self, name: str) -> Any:
        return self._names.get(name)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class SimLink(OvsdbLink):
    """In the place of OvsdbLink."""

    def __init__(self, reader: SimCompute, writer: Any, on_event: Callable[[ev.Event], None], **more: Any) -> None:
        super().__init__(None, _NoWriter(reader.host, 40000, 6640), on_event, **more)  # type: ignore[arg-type]
        self.compute = reader
        reader.link = self

    async def run(self) -> None:
        """Until it is lost."""
        await self.lost.wait()

    def close(self, reason: str) -> None:
        """End it."""
        self.reason = self.reason or reason
        self.lost.set()

    async def schema(self, database: str) -> DatabaseSchema:
        """The schema."""
        return self.compute.simulation.schema

    async def monitor(self, replica: Replica) -> None:
        """The controller's replica is the compute's own rows: one copy in memory, as in the product."""
        for name in replica.tables:
            replica._tables[name].rows = self.compute.tables._tables[name].rows
        self.compute.tables = replica
        self._on_event(ev.Synced(0, replica, False, []))

    async def transact(self, transaction: Transaction) -> Outcome:
        """Carry it out."""
        return self.compute.transact(transaction)

    def tell(self, event: ev.Event) -> None:
        """Something has changed."""
        self._on_event(event)


class SimSwitch(SwitchLink):
    """In the place of SwitchLink: encodes all, sends nothing, and every request is answered at once."""

    def __init__(self, reader: SimCompute, writer: Any, *more: Any, **named: Any) -> None:
        super().__init__(None, _NoWriter(reader.host, 50000, 6653), *more, **named)  # type: ignore[arg-type]
        self.compute = reader
        self.dpid = reader.datapath_id
        self.session.state = Phase.READY
        self.session.version = 5
        self.session.data_to_send()
        self.silent = reader.simulation.silent
        self.ready.set()
        reader.switch = self

    async def run(self) -> None:
        """Until it is lost."""
        await self.lost.wait()

    def close(self, reason: str) -> None:
        """End it."""
        self.reason = self.reason or reason
        self.lost.set()

    def _flush(self) -> None:
        self.compute.bytes += len(self.session.data_to_send())

    async def _reply(self, xid: int) -> object:
        self._flush()
        return None

    def packet_out(self, port: int, frame: bytes, tunnel_id: int = 0) -> None:
        """A probe arrives at the far end, whose switch punts it."""
        super().packet_out(port, frame, tunnel_id)
        with self.compute.simulation.set_aside():
            found = self.compute.simulation.cluster.members.get(port - vswitch.FIRST_TUNNEL)
            data = ledger.userdata(ledger.Punt.PROBE, self.compute.number)
            packet = m.PacketIn(1, 0, 0, (), frame[:64], len(frame), userdata=data)
        if found is not None and found.switch is not None:
            found.switch._on_punt(found.switch, packet)

    async def dump(self) -> Found:
        """An empty switch."""
        return Found([], {}, frozenset())

    async def make(self, work: Work) -> None:
        """While the simulation is set up, the first installation is believed and not encoded."""
        if not self.silent:
            await super().make(work)


class Simulation:
    """The controller's parts around simulated computes. `async with` it."""

    def __init__(self, directory: Path, *, lag: float = 0.0) -> None:
        self.schema = load_schema()
        self.private = PrivateStore(directory)
        settings = Settings(open_admission=True, lag=lag, stamp_interval=86400.0)
        self.cluster = Cluster([self.private.remote], settings, time.monotonic, str(uuid.uuid4()))
        self.service = Service(self.cluster)
        self.computes: dict[str, SimCompute] = {}
        self.aside = 0.0
        self.silent = False
        self._server = 0
        self._user: asyncio.Task[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._saved: tuple[Any, Any] | None = None

    @property
    def state(self) -> State:
        """The newest State."""
        return self.cluster.state

    def server_cpu(self) -> float:
        """Seconds of CPU time that the store's server has used (/proc/PID/schedstat, nanoseconds)."""
        if not self._server:
            self._server = int((self.private.directory / "store.pid").read_text())
        return int(Path(f"/proc/{self._server}/schedstat").read_text().split()[0]) / 1e9

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Work that ovsdb-server and ovs-vswitchd do in other processes."""
        begun = time.process_time()
        yield
        self.aside += time.process_time() - begun

    def session_ended(self, task: asyncio.Task[None]) -> None:
        """A session that fails would be waited for in vain."""
        if not task.cancelled() and (error := task.exception()) is not None and self._user is not None:
            print(f"a session of a simulated compute failed: {error!r}", file=sys.stderr)
            self._user.cancel()

    async def __aenter__(self) -> Simulation:
        self._user = asyncio.current_task()
        self._saved = (_PATCHED.OvsdbLink, _PATCHED.SwitchLink)
        _PATCHED.OvsdbLink, _PATCHED.SwitchLink = SimLink, SimSwitch
        await self.private.ensure()
        self._task = asyncio.create_task(self.cluster.run())
        await self.cluster.store.leading.wait()
        # A leadership begins by closing what sessions there are.
        await until(lambda: self.cluster.members.keys() >= set(self.state.computes))
        await asyncio.sleep(0.3)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        assert self._saved is not None
        for member in self.cluster.members.values():
            await member.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        _PATCHED.OvsdbLink, _PATCHED.SwitchLink = self._saved
        await self.private.stop()

    async def connect_all(self) -> None:
        """Every compute of State connects, as after a restart of the controller: its rows are there already."""
        self.silent = True
        state = self.state
        for number, fact in sorted(state.computes.items()):
            made = SimCompute(self, fact.name, number, fact.tep, number)
            peers = [(peer, row.name) for peer, row in tunnel.rows(state, number).items()]
            made.realised(peers, state.ports_on.get(number, ()), state.term, state.store_id)
            self.computes[fact.name] = made
            made.connect()
            if number % 20 == 0:
                await asyncio.sleep(0)
        for made in self.computes.values():
            await until(lambda made=made: made.link is not None and self.member(made.name).link is not None)  # type: ignore[misc]
            made.connect_switch()
        for made in self.computes.values():
            await until(lambda made=made: self.member(made.name).clean)  # type: ignore[misc]
            assert made.switch is not None
            made.switch.silent = False
        self.silent = False
        await until(lambda: not self.cluster.places.queued)
        # The first round of probes, a few tunnels at a time, is not what is measured.
        await until(lambda: self.cluster.probes.idle_for() > 1.0)

    async def add(self, name: str, host: int) -> SimCompute:
        """A compute that joins; no rows of ours are there yet."""
        self.silent = True
        made = self.computes[name] = SimCompute(self, name, 0, clouds.tep(host), host)
        made.connect()
        await until(lambda: any(r["controller"] for r in made.tables.rows("Bridge").values()))
        made.connect_switch()
        await until(lambda: name in self.state.by_name and self.member(name).clean)
        made.number = self.state.by_name[name]
        assert made.switch is not None
        made.switch.silent = self.silent = False
        return made

    def member(self, name: str) -> Member:
        """The owner of a compute."""
        return self.cluster.members[self.state.by_name[name]]

    def evidence(self, compute: SimCompute, port: str) -> None:
        """A frame of a port's MAC is punted by a compute's switch."""
        fact = self.state.ports[port]
        frame = b"\xff" * 6 + fact.mac.to_bytes(6, "big") + b"\x08\x06" + bytes(46)
        assert compute.switch is not None
        data = ledger.userdata(ledger.Punt.EVIDENCE, fact.lport)
        packet = m.PacketIn(1, 0, 0, (), frame, len(frame), userdata=data)
        compute.switch._on_punt(compute.switch, packet)


async def until(holds: Callable[[], bool], deadline: float = 60.0, every: float = 0.004) -> None:
    """Wait until something holds, asking rarely: what is measured is the controller and not the question."""
    end = time.monotonic() + deadline
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline} s")
        await asyncio.sleep(every)
