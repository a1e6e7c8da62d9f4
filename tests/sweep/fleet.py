"""A fleet of simulated computes in one process: `python -m tests.sweep.fleet CONFIG.json`. A controller cannot tell them from real ones as
long as no guest speaks.

A compute is a real ovsdb-server with Open vSwitch's schema, and `daemon.py`, `switch.py` and `pipeline.py` in the place of ovs-vswitchd.
Its database is brought to the controller by a relay that connects actively, as the server itself would by a Manager row, and tries again
after fractions of a second where the server waits for one at least. Tunnels lead to whoever has the far end's address; what leaves for a
physical network comes to all that are in it, by a switch that learns, and to hosts that answer for their addresses.

Commands come as lines of JSON on `DIRECTORY/control`: {"do": NAME, ...} is answered by {"ok": ...} or {"error": "..."}; they are the
methods of `Fleet` that are named in `COMMANDS`. `ovs-ofctl` may be asked at `unix:DIRECTORY/COMPUTE/br-int.mgmt`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.lab.compute import SCHEMA
from tests.sweep import frames
from tests.sweep.daemon import INTEGRATION, TUNNELS, Backoff, Daemon, connect
from tests.sweep.outside import Outside, address_of
from tests.sweep.pipeline import Port
from tests.sweep.processes import die_with_parent, until_listening
from tests.sweep.switch import Switch, serve

PROVIDER_BRIDGE, PHYSICAL_BRIDGE = "br-ex", "br-phy"
COMMANDS = (
    "register",
    "plug",
    "unplug",
    "announce",
    "rows",
    "kill",
    "start",
    "stop",
    "cont",
    "forget",
    "counts",
    "status",
    "miss",
)
READ_BYTES = 1 << 18


class ComputeConfig(msgspec.Struct):
    """One compute. `ovsdb`, `openflow`: where it connects to ("tcp:HOST:PORT"); "" : as the fleet, and as its Controller row says."""

    name: str
    tep: str
    ovsdb: str = ""
    openflow: str = ""
    physical: str = ""
    other_config: dict[str, str] = {}
    external_ids: dict[str, str] = {}


class Config(msgspec.Struct):
    """A fleet. `hosts`: address -> MAC of who answers on the physical networks; `backoff`: the first and the longest (seconds).

    `registered`: whether all connect at once, or each when it is told to.
    """

    directory: str
    ovsdb: str
    computes: list[ComputeConfig]
    hosts: dict[str, str] = {}
    backoff: tuple[float, float] = (0.1, 0.4)
    registered: bool = True


class Compute:
    """One of the fleet. `alive`: it has not been killed."""

    def __init__(self, config: ComputeConfig, directory: Path, fleet: Fleet) -> None:
        self.config, self.name = config, config.name
        self.directory = directory / config.name
        self.running = asyncio.Event()
        self.running.set()
        self.registered = asyncio.Event()
        self.alive = False
        self.switch = Switch(0, self._send, self.running)
        self.daemon: Daemon
        self._fleet = fleet
        self._server: asyncio.subprocess.Process | None = None
        self._relay: asyncio.Task[None] | None = None
        self._management: asyncio.Server | None = None

    @property
    def socket(self) -> Path:
        """Of its database."""
        return self.directory / "db.sock"

    # --- life ---

    async def make(self, template: Path) -> None:
        """The machine with an empty database, and then the daemons."""
        self.directory.mkdir(parents=True)
        shutil.copyfile(template, self.directory / "conf.db")
        await self._start_database()
        # As a host is before it hears of a controller: see `lab/compute.py`.
        mapped = {"provider_mappings": f"{self.config.physical}:{PROVIDER_BRIDGE}"} if self.config.physical else {}
        cards = {PHYSICAL_BRIDGE: "eth-data"} | ({PROVIDER_BRIDGE: "eth-ext"} if self.config.physical else {})
        ids = {"system-id": f"{self.name}-0000", "hostname": self.name, **self.config.external_ids}
        self._new_daemon()
        await self.daemon.open()
        await self.daemon.prepare(ids, {"local_ip": self.config.tep, **mapped, **self.config.other_config}, cards)
        self._come_alive()
        if self._fleet.config.registered:
            self.registered.set()
        self._management = await serve(self.switch, str(self.directory / f"{INTEGRATION}.mgmt"))

    async def _start_database(self) -> None:
        self._server = await asyncio.create_subprocess_exec(
            *("ovsdb-server", str(self.directory / "conf.db"), f"--remote=punix:{self.socket}"),
            *(f"--unixctl={self.directory}/db.ctl", "--no-chdir", "-vconsole:off", "-vsyslog:off"),
            *("-vfile:warn", f"--log-file={self.directory}/db.log"),
            env={**os.environ, "OVS_RUNDIR": str(self.directory)},
            preexec_fn=die_with_parent,
        )
        await until_listening(self.socket)

    def _new_daemon(self) -> None:
        fleet = self._fleet
        self.daemon = Daemon(
            *(self.name, self.socket, self.switch, self.running, fleet.config.backoff, self.config.openflow),
            *(lambda port: fleet.is_watched(self, port), lambda: fleet.rewired(self)),
        )

    def _come_alive(self) -> None:
        self.alive = True
        if self.config.physical:
            self._fleet.outside[self.config.physical].computes.add(self.name)
        self.daemon.start()
        self._relay = asyncio.create_task(self._relaying(), name=f"relay-{self.name}")

    async def kill(self) -> None:
        """It dies: its tables are gone, its database stays."""
        if not self.alive:
            return
        self.alive = False
        self.running.set()
        if self.config.physical:
            self._fleet.outside[self.config.physical].forget(self.name)
        assert self._relay is not None
        self._relay.cancel()
        await asyncio.gather(self._relay, return_exceptions=True)
        await self.daemon.stop()
        self.switch.close()
        self.switch.set_ports({})
        self._fleet.rewired(self)

    async def start(self) -> None:
        """It comes up again, with the database as it was and no flow."""
        if not self.alive:
            self._new_daemon()
            await self.daemon.open()
            self._come_alive()

    async def remove(self) -> None:
        """For good."""
        await self.kill()
        if self._management is not None:
            self._management.close()
        if self._server is not None and self._server.returncode is None:
            self._server.kill()
            await self._server.wait()

    # --- its database, to the controller ---

    async def _relaying(self) -> None:
        backoff = Backoff(*self._fleet.config.backoff)
        await self.registered.wait()
        while True:
            await self.running.wait()
            try:
                far = await connect(self.config.ovsdb or self._fleet.config.ovsdb)
            except OSError:
                await backoff.wait()
                continue
            near = await connect(f"unix:{self.socket}")
            backoff.succeeded()
            pumps = [asyncio.create_task(self._pump(*ends)) for ends in ((far[0], near[1]), (near[0], far[1]))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                for _, writer in (far, near):
                    writer.transport.abort()
                await asyncio.gather(*pumps, return_exceptions=True)
            await backoff.wait()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self.running.wait()
                writer.write(data)
                await writer.drain()

    # --- packets ---

    def _send(self, port: Port, frame: bytes, tun_id: int) -> None:
        """A frame leaves br-int. It arrives when what has sent it is done: no walk through a pipeline begins within another."""
        asyncio.get_running_loop().call_soon(self._fleet.carry, self, port, frame, tun_id)

    def receive(self, port: Port | None, frame: bytes, around: frames.Packet | None = None) -> None:
        """A frame comes to br-int by a port; none: it is lost."""
        if port is not None and self.alive and self.running.is_set():
            self.switch.pipeline.receive(port.ofport, frame, around)
            self.switch.reschedule()

    def port(self, kinds: tuple[str, ...], peer: str) -> Port | None:
        """Its port of these kinds that leads to a peer."""
        return next((p for p in self.switch.ports.values() if p.kind in kinds and p.peer == peer), None)


class Fleet:
    """All of them, and what is between them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory = Path(config.directory)
        hosts = {address_of(a): int(mac.replace(":", ""), 16) for a, mac in config.hosts.items()}
        self.outside = {c.physical: Outside(hosts, self._deliver) for c in config.computes if c.physical}
        self.computes = {c.name: Compute(c, self.directory, self) for c in config.computes}
        self._teps = {c.config.tep: c for c in self.computes.values()}
        self._done = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM, or until whoever has started it is gone. All computes are there when `DIRECTORY/control` is."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._done.set)
        self.directory.mkdir(parents=True, exist_ok=True)
        template = self.directory / "empty.db"
        subprocess.run(["ovsdb-tool", "create", str(template), str(SCHEMA)], check=True)  # noqa: ASYNC221
        try:
            await asyncio.gather(*(compute.make(template) for compute in self.computes.values()))
            server = await asyncio.start_unix_server(self._commanded, str(self.directory / "control"), limit=1 << 24)
            await self._done.wait()
            server.close()
        finally:
            await asyncio.gather(*(compute.remove() for compute in self.computes.values()))

    # --- between them ---

    def is_watched(self, compute: Compute, port: Port) -> bool:
        """Whether BFD at a tunnel's end hears the other: that is there, does not hang, and watches this one."""
        far = self._teps.get(port.peer)
        return far is not None and far.alive and far.running.is_set() and compute.config.tep in far.daemon.watched

    def _is_up(self, compute: Compute, port: Port) -> bool:
        return port.kind in TUNNELS and port.peer in compute.daemon.watched and port.live

    def rewired(self, compute: Compute) -> None:
        """Ports of a compute have changed, or it hangs, or not any more: others look at their tunnels."""
        for other in self.computes.values():
            if other is not compute and other.alive:
                other.daemon.changed.set()

    def carry(self, compute: Compute, port: Port, frame: bytes, tun_id: int) -> None:
        """A frame that has left a compute by a port goes on to wherever the port leads."""
        if port.kind in TUNNELS:
            far = self._teps.get(port.peer)
            if far is not None:
                ends = {
                    "tun_id": tun_id,
                    "tun_src": address_of(compute.config.tep),
                    "tun_dst": address_of(far.config.tep),
                }
                far.receive(far.port(TUNNELS, compute.config.tep), frame, ends)
        elif port.kind == "patch" and compute.daemon.joined(port) and compute.config.physical:
            self.outside[compute.config.physical].carry(compute.name, frame)

    def _deliver(self, name: str, frame: bytes) -> None:
        compute = self.computes[name]
        patches = (p for p in compute.switch.ports.values() if p.kind == "patch" and compute.daemon.joined(p))
        compute.receive(next(patches, None), frame)

    # --- commands ---

    async def _commanded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                asked: dict[str, Any] = json.loads(line)
                verb = asked.pop("do")
                if verb not in COMMANDS:
                    raise LookupError(f"no command {verb!r}: there are {', '.join(COMMANDS)}")
                answer = {"ok": await getattr(self, verb)(**asked)}
            except (EbbtideError, LookupError, TypeError, ValueError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def register(self, compute: str) -> None:
        """Give it its controller, as an operator does by a Manager row."""
        self.computes[compute].registered.set()

    async def plug(self, compute: str, port: str, mac: str) -> None:
        """As Nova does: an interface with the port's id, on br-int."""
        ids = {"iface-id": port, "attached-mac": mac, "iface-status": "active", "vm-uuid": f"of-{port}"}
        await self.computes[compute].daemon.plug(f"tap-{port}"[:15], ids)

    async def unplug(self, compute: str, port: str) -> None:
        """And away again."""
        await self.computes[compute].daemon.unplug(port)

    async def announce(self, compute: str, port: str, address: str = "") -> None:
        """A guest that wakes there says so: by RARP, as QEMU does for it, or with an address of its own by gratuitous ARP."""
        own = self.computes[compute]
        found = own.daemon.interface_of(port)
        if found is None:
            raise LookupError(f"{compute} has no interface of {port}")
        mac = int(found.row["external_ids"]["attached-mac"].replace(":", ""), 16)
        frame = frames.garp(mac, address_of(address)) if address else frames.rarp(mac)
        own.receive(own.switch.ports.get(found.row["ofport"] or 0), frame)

    async def rows(self, compute: str, table: str) -> list[dict[str, Any]]:
        """A table of its database, as far as ovs-vswitchd reads it."""
        tables = self.computes[compute].daemon.tables
        assert tables is not None
        return [{k: _plain(v) for k, v in row.items()} for row in tables.rows(table).values()]

    async def kill(self, compute: str) -> None:
        """Pull the plug."""
        await self.computes[compute].kill()

    async def start(self, compute: str) -> None:
        """Put it in again."""
        await self.computes[compute].start()

    async def stop(self, compute: str) -> None:
        """It hangs: connections stay, and nothing is answered."""
        self.computes[compute].running.clear()
        self.rewired(self.computes[compute])

    async def cont(self, compute: str) -> None:
        """It goes on."""
        self.computes[compute].running.set()
        self.rewired(self.computes[compute])

    async def forget(self, compute: str) -> None:
        """Its switch has no flow, group or meter any more, and says nothing of it."""
        self.computes[compute].switch.tables.clear()

    async def miss(self, compute: str, devices: list[str]) -> None:
        """These devices are not there: an interface of such a name has an error in the place of a port."""
        own = self.computes[compute].daemon
        own.missing = set(devices)
        own.changed.set()

    async def counts(self) -> dict[str, dict[str, int]]:
        """What controllers have sent to each switch, by kind."""
        return {name: dict(c.switch.counts) for name, c in self.computes.items()}

    async def status(self) -> dict[str, dict[str, Any]]:
        """Of each: who controls it, how much it holds, whom it sees by BFD, and what a packet has met that is not understood here."""
        return {
            name: {
                "alive": c.alive,
                "controllers": sum(s.controller and bool(s.version) for s in c.switch.sessions),
                "flows": len(c.switch.tables.flows),
                "groups": len(c.switch.tables.groups),
                "ports": {p.name: p.ofport for p in c.switch.ports.values()},
                "up": sorted(self._teps[p.peer].name for p in c.switch.ports.values() if self._is_up(c, p)),
                "unhandled": dict(c.switch.pipeline.unhandled),
            }
            for name, c in self.computes.items()
        }


def _plain(value: Any) -> Any:
    return (
        sorted(map(str, value))
        if isinstance(value, set | frozenset)
        else dict(value)
        if hasattr(value, "items")
        else value
    )


def main() -> None:
    """The process."""
    die_with_parent()
    asyncio.run(Fleet(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config)).run())


if __name__ == "__main__":
    main()
