"""ovs-vswitchd, played on a real ovsdb-server: what it reads of a compute's database, and what it writes there.

New interfaces get an OpenFlow port number, or an error where the real one would have one; the switch gets its ports and connects to the
controllers of its bridge; `bfd_status` says whether the far end of a tunnel watches too; `cur_cfg` follows `next_cfg` in the transaction
that realises what it asked for. Only br-int has tables: what other bridges would do with a packet is the fleet's affair.

Longer than 400 lines: one walk through the database is one transaction, and what it reads and what it writes belong together.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2s
from pathlib import Path
from typing import Any, NamedTuple

from ebbtide.errors import EbbtideError
from ebbtide.model.facts import format_mac
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.conditions import by_uuid, delete_from, insert_into
from ebbtide.ovsdb.replica import Replica, Watch
from ebbtide.ovsdb.transaction import Transaction
from ebbtide.ovsdb.values import Uuid
from ebbtide.runtime.link import OvsdbLink
from tests.sweep.pipeline import Port
from tests.sweep.switch import Switch, SwitchSession

DATABASE, INTEGRATION = "Open_vSwitch", "br-int"
LOCAL, LOCAL_PORT = 65_534, 0xFFFFFFFE  # the bridge's own port, in the database and in OpenFlow (1.3.5, A.2.1)
TUNNELS = ("vxlan", "geneve", "gre")
_WATCHED = {
    "Open_vSwitch": Watch(("bridges", "cur_cfg", "next_cfg", "external_ids", "other_config")),
    "Bridge": Watch(
        (
            *("name", "ports", "controller", "other_config", "datapath_id", "datapath_version"),
            *("external_ids", "fail_mode", "flood_vlans"),
        )
    ),
    "Port": Watch(("name", "interfaces")),
    "Interface": Watch(
        (
            *("name", "type", "ofport", "ofport_request", "error", "options", "external_ids", "bfd", "bfd_status"),
            *("mac_in_use", "mtu", "admin_state", "link_state"),
        )
    ),
    "Controller": Watch(("target", "is_connected", "role", "status")),
}
_MTU = {"br-phy": 1_600}


class Spoken(NamedTuple):
    """One interface row, and whose it is."""

    bridge: str
    uuid: Uuid
    row: Mapping[str, Any]


class Backoff:
    """Seconds between two tries to connect: from the first, doubled up to the last."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last, self._now = first, last, first

    def succeeded(self) -> None:
        """Begin anew."""
        self._now = self._first

    async def wait(self) -> None:
        """As long as it is due."""
        now, self._now = self._now, min(2 * self._now, self._last)
        await asyncio.sleep(now)


def host_and_port(target: str) -> tuple[str, int]:
    """Host and port of "tcp:HOST:PORT"."""
    _, _, rest = target.partition(":")
    host, _, port = rest.rpartition(":")
    return host.strip("[]"), int(port)


async def connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which small messages go at once; "tcp:HOST:PORT" or "unix:PATH"."""
    if target.startswith("unix:"):
        return await asyncio.open_unix_connection(target.removeprefix("unix:"), limit=1 << 24)
    reader, writer = await asyncio.open_connection(*host_and_port(target), limit=1 << 24)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return reader, writer


class Daemon:
    """One compute's. `sees(port)`: whether BFD at a tunnel port hears the far end; `rewired` is called when ports or BFD have changed.

    `missing`: names of devices that are not there. `openflow`: where to connect instead of where the Controller row says, or "".
    """

    def __init__(
        self,
        name: str,
        database: Path,
        switch: Switch,
        running: asyncio.Event,
        backoff: tuple[float, float],
        openflow: str,
        sees: Callable[[Port], bool],
        rewired: Callable[[], None],
    ) -> None:
        self.name, self.switch = name, switch
        self.missing: set[str] = set()
        self.watched: dict[str, str] = {}  # far ends of tunnel ports where BFD is armed -> name
        self.changed = asyncio.Event()
        self.tables: Replica | None = None
        self.link: OvsdbLink | None = None
        self._database, self._running, self._backoff, self._openflow = database, running, backoff, openflow
        self._sees, self._rewired = sees, rewired
        self._numbers: dict[Uuid, int] = {}
        self._flaps: dict[Uuid, int] = {}
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._status: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # --- life ---

    async def open(self) -> None:
        """Connect to the database."""
        reader, writer = await asyncio.open_unix_connection(str(self._database), limit=1 << 24)
        self.link = OvsdbLink(reader, writer, self._event)
        self._tasks.append(asyncio.create_task(self.link.run()))
        self.tables = Replica(await self.link.schema(DATABASE), _WATCHED)
        await self.link.monitor(self.tables)

    def start(self) -> None:
        """Follow it from now on."""
        self._tasks.append(asyncio.create_task(self._run(), name=f"vswitchd-{self.name}"))
        self.changed.set()

    async def stop(self) -> None:
        """End, and every connection with it."""
        self.disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def disconnect(self) -> None:
        """No controller any more, for now."""
        for task in self._connecting.values():
            task.cancel()
        self._connecting.clear()
        self._status.clear()

    def _event(self, event: ev.Event) -> None:
        self.changed.set()

    async def _run(self) -> None:
        while True:
            await self.changed.wait()
            await self._running.wait()
            self.changed.clear()
            transaction = self.configure()
            if len(transaction):
                assert self.link is not None
                outcome = await self.link.transact(transaction)
                if not outcome.ok:
                    # A row has gone meanwhile: the update that says so is on its way or here.
                    self.changed.set()

    # --- reading ---

    def _interfaces(self) -> Iterator[Spoken]:
        assert self.tables is not None
        for bridge in sorted(self.tables.rows("Bridge").values(), key=lambda row: str(row["name"])):
            for port in bridge["ports"]:
                row = self.tables.row("Port", port)
                for uuid in row["interfaces"] if row is not None else ():
                    found = self.tables.row("Interface", uuid)
                    if found is not None:
                        yield Spoken(bridge["name"], uuid, found)

    def bridge(self) -> tuple[Uuid, Mapping[str, Any]] | None:
        """br-int, if it is there."""
        assert self.tables is not None
        rows = self.tables.rows("Bridge").items()
        return next(((uuid, row) for uuid, row in rows if row["name"] == INTEGRATION), None)

    def interface_of(self, iface_id: str) -> Spoken | None:
        """The interface on br-int with this iface-id."""
        found = (x for x in self._interfaces() if x.bridge == INTEGRATION)
        return next((x for x in found if x.row["external_ids"].get("iface-id") == iface_id), None)

    def joined(self, port: Port) -> bool:
        """Whether a patch port of br-int leads to another bridge, and back."""
        others = (x.row for x in self._interfaces() if x.bridge != INTEGRATION)
        return any(row["name"] == port.peer and row["options"].get("peer") == port.name for row in others)

    # --- configuring ---

    def configure(self) -> Transaction:
        """Bring the switch to what the database says; what is to be written there of it."""
        assert self.tables is not None
        transaction = Transaction(self.tables.schema)
        found = sorted(self._interfaces(), key=lambda x: (x.bridge, x.row["ofport"] or 0, x.row["name"]))
        self._numbers = {x.uuid: self._numbers[x.uuid] for x in found if x.uuid in self._numbers}
        ports: dict[int, Port] = {}
        watched: dict[str, str] = {}
        for spoken in found:
            error = self._error(spoken, found)
            number = -1 if error else self._number(spoken)
            said: dict[str, Any] = {"ofport": number, "error": error or None}
            if number >= 0:
                port = self._port(spoken, number if number != LOCAL else LOCAL_PORT)
                said |= {"mac_in_use": format_mac(port.mac), "admin_state": "up", "link_state": "up"}
                if port.kind in ("", "internal"):
                    said["mtu"] = _MTU.get(port.name, 1_500)
                if spoken.bridge == INTEGRATION:
                    if port.kind in TUNNELS and spoken.row["bfd"].get("enable") == "true":
                        watched[port.peer] = port.name
                        up = self._sees(port)
                        port = port._replace(live=up)
                        said["bfd_status"] = self._bfd(spoken, up)
                    else:
                        said["bfd_status"] = {}
                    ports[port.ofport] = port
            self._update(transaction, "Interface", spoken.uuid, spoken.row, said)
        self._set_ports(ports, watched)
        self._bridges(transaction)
        for uuid, root in self.tables.rows("Open_vSwitch").items():
            self._update(transaction, "Open_vSwitch", uuid, root, {"cur_cfg": root["next_cfg"]})
        return transaction

    def _set_ports(self, ports: dict[int, Port], watched: dict[str, str]) -> None:
        new = ports != self.switch.ports or watched != self.watched
        self.watched = watched
        if new:
            self.switch.set_ports(ports)
            self._rewired()

    @staticmethod
    def _update(
        transaction: Transaction, table: str, uuid: Uuid, row: Mapping[str, Any], said: Mapping[str, Any]
    ) -> None:
        changed = {k: v for k, v in said.items() if row[k] != v}
        if changed:
            transaction.update(table, by_uuid(uuid), changed)

    def _error(self, spoken: Spoken, others: list[Spoken]) -> str:
        """Why there is no such port, in ovs-vswitchd's words, or ""."""
        row, name = spoken.row, spoken.row["name"]
        if row["type"] in TUNNELS:
            remote = row["options"].get("remote_ip")
            if not remote:
                return f"{name}: could not set configuration (Invalid argument)"
            before = others[: others.index(spoken)]
            if any(o.row["type"] == row["type"] and o.row["options"].get("remote_ip") == remote for o in before):
                return f"could not add network device {name} to ofproto (File exists)"
        elif row["type"] == "" and name in self.missing:
            return f"could not open network device {name} (No such device)"
        return ""

    def _number(self, spoken: Spoken) -> int:
        """Its port number: the one it has, else the one that it asks for if that is free, else the lowest that is."""
        row = spoken.row
        if row["name"] == spoken.bridge:
            return LOCAL
        used = {
            self._numbers[x.uuid] for x in self._interfaces() if x.bridge == spoken.bridge and x.uuid in self._numbers
        }
        if spoken.uuid not in self._numbers:
            asked = [row["ofport"], row["ofport_request"]]
            free = next(n for n in range(1, LOCAL) if n not in used)
            self._numbers[spoken.uuid] = next((n for n in asked if n and n > 0 and n not in used), free)
        return self._numbers[spoken.uuid]

    def _port(self, spoken: Spoken, number: int) -> Port:
        row, kind = spoken.row, spoken.row["type"]
        own = "internal" if row["name"] == spoken.bridge else kind
        peer = row["options"].get("remote_ip", "") if kind in TUNNELS else row["options"].get("peer", "")
        digest = blake2s(f"{self.name}/{row['name']}".encode(), digest_size=5).digest()
        return Port(
            number,
            row["name"],
            own,
            0x02 << 40 | int.from_bytes(digest, "big"),
            peer,
            row["external_ids"].get("iface-id", ""),
        )

    def _bfd(self, spoken: Spoken, up: bool) -> dict[str, str]:
        """bfd_status(5): flap_count is how often forwarding has changed since it was armed."""
        was = spoken.row["bfd_status"].get("state") == "up"
        flaps = self._flaps.get(spoken.uuid, 0) if spoken.row["bfd_status"] else 0
        self._flaps[spoken.uuid] = flaps + (was != up)
        state = "up" if up else "down"
        said = "No Diagnostic" if up or not flaps else "Control Detection Time Expired"
        return {
            "state": state,
            "remote_state": state,
            "forwarding": "true" if up else "false",
            "diagnostic": said,
            "remote_diagnostic": "No Diagnostic",
            "flap_count": str(self._flaps[spoken.uuid]),
        }

    def _bridges(self, transaction: Transaction) -> None:
        assert self.tables is not None
        targets = set[str]()
        for uuid, row in self.tables.rows("Bridge").items():
            asked = row["other_config"].get("datapath-id", "")
            digest = blake2s(f"{self.name}/{row['name']}".encode(), digest_size=6).hexdigest()
            said = {"datapath_id": asked or f"0000{digest}", "datapath_version": "<built-in>"}
            self._update(transaction, "Bridge", uuid, row, said)
            if row["name"] == INTEGRATION:
                self.switch.dpid = int(said["datapath_id"], 16)
                for one in row["controller"]:
                    controller = self.tables.row("Controller", one)
                    if controller is not None:
                        targets.add(controller["target"])
                        self._update(transaction, "Controller", one, controller, self._connection(controller["target"]))
        if self.bridge() is None:
            self.switch.close()
        for target in [t for t in self._connecting if t not in targets]:
            self._connecting.pop(target).cancel()
            self._status.pop(target, None)
        for target in targets - self._connecting.keys():
            self._connecting[target] = asyncio.create_task(self._keep_connected(target))

    def _connection(self, target: str) -> dict[str, Any]:
        state = self._status.get(target, "CONNECTING")
        active = state == "ACTIVE"
        return {"is_connected": active, "role": "master" if active else None, "status": {"state": state}}

    # --- OpenFlow ---

    async def _keep_connected(self, target: str) -> None:
        backoff = Backoff(*self._backoff)
        while True:
            await self._running.wait()
            try:
                reader, writer = await connect(self._openflow or target)
            except OSError:
                self._say(target, "BACKOFF")
                await backoff.wait()
                continue
            session = SwitchSession(self.switch, reader, writer, controller=True)
            self._say(target, "ACTIVE")
            try:
                await session.run()
            finally:
                session.close()
            if session.version:
                backoff.succeeded()
            self._say(target, "BACKOFF")
            await backoff.wait()

    def _say(self, target: str, state: str) -> None:
        self._status[target] = state
        self.changed.set()

    # --- what others write into the database ---

    async def plug(self, name: str, external_ids: Mapping[str, str]) -> None:
        """A Port and an Interface on br-int, as Nova makes them."""
        transaction, own = self._transaction(), self.bridge()
        if own is None:
            raise LookupError(f"{self.name} has no {INTEGRATION}")
        interface = transaction.insert(
            "Interface", {"name": name, "external_ids": dict(external_ids)}, name="interface"
        )
        port = transaction.insert("Port", {"name": name, "interfaces": frozenset({interface})}, name="port")
        transaction.mutate("Bridge", by_uuid(own[0]), [insert_into("ports", frozenset({port}))])
        await self._send(transaction)

    async def unplug(self, iface_id: str) -> None:
        """Take it away again."""
        own, found = self.bridge(), self.interface_of(iface_id)
        assert self.tables is not None
        if own is None or found is None:
            raise LookupError(f"{self.name} has no interface of {iface_id}")
        ports = {p for p, row in self.tables.rows("Port").items() if found.uuid in row["interfaces"]}
        transaction = self._transaction()
        transaction.mutate("Bridge", by_uuid(own[0]), [delete_from("ports", frozenset(ports))])
        await self._send(transaction)

    async def prepare(
        self, external_ids: Mapping[str, str], other_config: Mapping[str, str], cards: Mapping[str, str]
    ) -> None:
        """An empty database becomes that of a host: `cards` are its bridges and the network cards in them."""
        transaction, bridges = self._transaction(), set()
        for index, (bridge, card) in enumerate(cards.items()):
            ports = set()
            for kind, name in (("internal", bridge), ("", card)):
                label = f"{kind or 'card'}{index}"
                interface = transaction.insert("Interface", {"name": name, "type": kind}, name=f"i{label}")
                ports.add(
                    transaction.insert("Port", {"name": name, "interfaces": frozenset({interface})}, name=f"p{label}")
                )
            row = {"name": bridge, "ports": frozenset(ports), "datapath_type": "netdev", "fail_mode": "standalone"}
            bridges.add(transaction.insert("Bridge", row, name=f"b{index}"))
        transaction.insert(
            "Open_vSwitch",
            {
                "bridges": frozenset(bridges),
                "external_ids": dict(external_ids),
                "other_config": dict(other_config),
                "ovs_version": "3.1.0",
                "datapath_types": frozenset({"netdev", "system"}),
                "next_cfg": 1,
            },
        )
        await self._send(transaction)

    def _transaction(self) -> Transaction:
        assert self.tables is not None
        return Transaction(self.tables.schema)

    async def _send(self, transaction: Transaction) -> None:
        assert self.link is not None
        outcome = await self.link.transact(transaction)
        if not outcome.ok:
            raise EbbtideError(f"{self.name}: {outcome.error}")
