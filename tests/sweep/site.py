"""A store, a controller and a fleet, each a process of its own on this machine's loopback, for one run: `with Site(directory, "abcd")`.

Nothing of it needs root or a namespace. All is on an address of the loopback of its own, the controller's command line is the user's, and
it is driven over REST. `Ways` says to whom each connects, so that something may stand between (see `wires.py`).
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec

from ebbtide.errors import EbbtideError, NotReady
from ebbtide.lab.commands import wait_until
from ebbtide.runtime import records
from tests.sweep.fleet import ComputeConfig, Config
from tests.sweep.processes import die_with_parent
from tests.sweep.wires import Config as WiresConfig
from tests.sweep.wires import Strike, WireConfig

PHYSICAL, NEXT_HOP, NEXT_HOP_MAC = "physnet1", "203.0.113.1", "02:ee:00:00:00:01"
LOOK = 0.01
#: Seconds between two announcements of a guest that wakes: the first pause of QEMU's.
ANNOUNCE = 0.05
#: MACs that the controller gives carry some of the store's id: with one id, all runs have the same.
STORE_ID = "5eed0000-0000-4000-8000-000000000001"
#: Sites that one process may have at a time.
SITES = 1000
_TURNS = itertools.count()
#: Seconds for which a controller that is started again may not answer, and the status by which it says that it cannot do it now.
PATIENCE, UNAVAILABLE = 20.0, 503
#: Short lags: no cached datapath flow is here that would follow its table later.
QUICK = ("--lag", "0.05", "--nat-patience", "5", "--bfd-interval-ms", "200")


class Ways(msgspec.Struct):
    """Who connects where. `ovsdb`, `openflow`: compute -> "tcp:HOST:PORT", "" or nothing: straight to the controller."""

    store: str = ""
    ovsdb: dict[str, str] = {}
    openflow: dict[str, str] = {}


class Site:
    """All three; `fleet` is spoken to by `tell`, the controller by `get`, `post`, `rpc`."""

    def __init__(
        self, directory: Path, names: Iterable[str], more: Sequence[str] = QUICK, module: str = "ebbtide"
    ) -> None:
        self.directory, self.names = directory, list(names)
        self.address, turn = own_address(), next(_TURNS)
        self.http, self.ovsdb, self.openflow = (first + turn % SITES for first in (8181, 16640, 26653))
        self.next_hop_mac = NEXT_HOP_MAC
        self.store_remote = f"unix:{directory}/store.sock"
        self._more, self._module = list(more), module
        self._ways: Ways | None = None
        #: Whether a controller that has ended is started again, as a service would be, and what was asked of it is asked again.
        self.revives = False
        self.revived = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._control: socket.socket | None = None

    def __enter__(self) -> Site:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._control is not None:
            self._control.close()
        for name in ("controller", "fleet", "wires", "store"):
            self.kill(name)

    def start(self, strikes: Iterable[Strike] | None = None) -> None:
        """All three, and all computes registered. `strikes`: with wires between them, and the controller is killed at these."""
        self.start_store()
        ways = self._ways = self.start_wires(strikes) if strikes is not None else None
        self.revives = ways is not None
        self.start_controller(leads=False)
        self.start_fleet(ways)
        wait_until(self._leads, "the controller to lead", PATIENCE, every=LOOK)
        self.register()

    # --- processes ---

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OVS_RUNDIR": str(self.directory)},
                preexec_fn=die_with_parent,
            )
        (self.directory / f"{name}.pid").write_text(f"{self._processes[name].pid}\n")

    def kill(self, name: str) -> None:
        """SIGKILL, and it is gone. A process that has ended already is no fault."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(10)

    def pid(self, name: str) -> int:
        """Of "store", "controller" or "fleet"."""
        return self._processes[name].pid

    def is_alive(self, name: str) -> bool:
        """Whether it has been started, and has not ended."""
        return name in self._processes and self._processes[name].poll() is None

    def start_store(self) -> None:
        """An empty store, as one is that a controller has led once; or the one that is there."""
        database = self.directory / "store.db"
        if not database.exists():
            make_store(self.directory)
        self._spawn(
            "store",
            [
                *("ovsdb-server", str(database), f"--remote=p{self.store_remote}", "--no-chdir", "-vconsole:warn"),
                f"--unixctl={self.directory}/store.ctl",
            ],
        )
        wait_until(lambda: _answers(self.store_remote), "the store to answer", 10, every=LOOK)

    def start_wires(self, strikes: Iterable[Strike] = ()) -> Ways:
        """What passes is logged (see `passed`), and the controller is killed at these points. How everybody is to connect."""
        place = self.directory / "wires"
        place.mkdir()
        store = f"unix:{place}/store"
        wires = [WireConfig("store", store, self.store_remote, database=self.store_remote)]
        ways = Ways(store, {}, {})
        for name in self.names:
            database = f"unix:{self.directory}/fleet/{name}/db.sock"
            for kind, port, found in (("ovsdb", self.ovsdb, ways.ovsdb), ("openflow", self.openflow, ways.openflow)):
                found[name] = f"unix:{place}/{kind}-{name}"
                to = f"tcp:{self.address}:{port}"
                wires.append(WireConfig(kind, found[name], to, name, database if kind == "ovsdb" else ""))
        config = WiresConfig(f"{place}/log", str(self.directory), wires, list(strikes))
        file = place / "config.json"
        file.write_bytes(msgspec.json.encode(config))
        self._spawn("wires", [sys.executable, "-m", "tests.sweep.wires", str(file)])
        wait_until((place / "log.ready").exists, "the wires", 20, every=LOOK)
        return ways

    def passed(self) -> list[dict[str, Any]]:
        """What has passed the wires, line by line: see `wires.py`. Nothing, where there are none."""
        file = self.directory / "wires" / "log"
        # A line that is being written has no end yet.
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def start_fleet(self, ways: Ways | None = None) -> None:
        """The computes; they connect when they are told to: see `register`."""
        ways = ways or Ways()
        computes = [
            ComputeConfig(n, f"172.31.0.{i}", ways.ovsdb.get(n, ""), ways.openflow.get(n, ""), PHYSICAL)
            for i, n in enumerate(self.names, 1)
        ]
        config = Config(
            f"{self.directory}/fleet",
            f"tcp:{self.address}:{self.ovsdb}",
            computes,
            {NEXT_HOP: self.next_hop_mac},
            (0.05, 0.2),
            False,
        )
        file = self.directory / "fleet.json"
        file.write_bytes(msgspec.json.encode(config))
        self._spawn("fleet", [sys.executable, "-m", "tests.sweep.fleet", str(file)])
        wait_until(self._fleet_answers, "the fleet", 20, every=LOOK)

    def register(self) -> None:
        """All computes register, each when the one before is known: so they have the same numbers in each run."""
        for name in self.names:
            self.tell("register", compute=name)
            self.wait(lambda: name in self.computes(), f"{name} to be known")  # noqa: B023
        self.wait_ready(*self.names)

    def _fleet_answers(self) -> bool:
        if not self.is_alive("fleet"):
            raise AssertionError((self.directory / "fleet.log").read_text())
        control = socket.socket(socket.AF_UNIX)
        try:
            control.connect(f"{self.directory}/fleet/control")
        except OSError:
            control.close()
            return False
        control.settimeout(20)
        self._control = control
        return True

    def start_controller(self, leads: bool = True) -> None:
        """Until it answers, and (`leads`) leads. A killed one is started again by this."""
        command = [sys.executable, "-m", self._module, "controller", "--state-dir", f"{self.directory}/state"]
        command += [
            "--store",
            self._ways.store if self._ways else self.store_remote,
            "--http",
            f"{self.address}:{self.http}",
        ]
        for name, port in (("ovsdb", self.ovsdb), ("openflow", self.openflow)):
            command += [f"--{name}-listen", f"ptcp:{port}:{self.address}"]
        self._spawn("controller", [*command, "--admission", "open", "--log-format", "json", *self._more])
        if leads:
            wait_until(self._leads, "the controller to lead", PATIENCE, every=LOOK)

    def _leads(self) -> bool:
        """One that does not lead has read nothing, and answers as if there were nothing. It may have been killed before it did."""
        if not self.is_alive("controller"):
            return True
        try:
            return bool(self._ask("GET", "/api/v1/status", None)[1]["leading"])
        except (OSError, HTTPException):
            return False

    def log(self) -> list[dict[str, Any]]:
        """What the controllers have logged, line by line."""
        lines = (self.directory / "controller.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    # --- the fleet ---

    def tell(self, verb: str, **arguments: Any) -> Any:
        """A command to the fleet: see `fleet.COMMANDS`."""
        assert self._control is not None
        self._control.sendall(json.dumps({"do": verb, **arguments}).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            part = self._control.recv(1 << 20)
            if not part:
                raise AssertionError("the fleet is gone")
            data += part
        answer = json.loads(data)
        if "error" in answer:
            raise AssertionError(f"{verb} {arguments}: {answer['error']}")
        return answer["ok"]

    def management(self, compute: str) -> str:
        """Where `ovs-ofctl` finds its br-int."""
        return f"unix:{self.directory}/fleet/{compute}/br-int.mgmt"

    # --- REST ---

    def ask(self, method: str, path: str, body: object | None = None) -> tuple[int, Any]:
        """Status and decoded answer."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                found = self._ask(method, path, body)
            except (OSError, HTTPException):
                if not self.revives or time.monotonic() > until:
                    raise
            else:
                if not self.revived or found[0] != UNAVAILABLE or time.monotonic() > until:
                    return found
            # Its connections end before the process does.
            time.sleep(LOOK)
            self._revive()

    def _revive(self) -> None:
        """A store and a controller that have ended are started again; until it leads, nothing is asked of it."""
        if self.revives and "store" in self._processes and not self.is_alive("store"):
            self.kill("store")
            self.start_store()
        if self.revives and "controller" in self._processes and not self.is_alive("controller"):
            self.revived += 1
            self.kill("controller")
            self.start_controller()

    def _ask(self, method: str, path: str, body: object | None) -> tuple[int, Any]:
        connection = HTTPConnection(self.address, self.http, timeout=60)
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None

    def get(self, path: str) -> Any:
        """The answer to a GET that must succeed."""
        status, found = self.ask("GET", path)
        assert status == 200, (path, found)
        return found

    def post(self, path: str, body: object) -> Any:
        """The answer to a POST that must succeed."""
        status, found = self.ask("POST", path, body)
        assert status < 300, (path, found)
        return found

    def rpc(self, verb: str, *names: str) -> None:
        """One of the spec's RPCs, which must succeed."""
        leaf = "recover-node-ids" if verb == "recover" else "scalein-node-ids"
        path = f"/rests/operations/scalein-api:scalein-computes-{verb}"
        status, found = self.ask("POST", path, {"scalein-api:input": {leaf: list(names)}})
        assert status < 300, (verb, names, found)

    def wait(self, holds: Callable[[], bool], what: str, deadline: float = 30.0, every: float = LOOK) -> None:
        """Wait until something holds; a controller that does not answer is one of which nothing holds."""
        last = ""

        def asked() -> bool:
            nonlocal last
            if self.revives and not self.is_alive("store"):
                self._revive()
            try:
                return holds()
            except (OSError, HTTPException, AssertionError, KeyError, ValueError, EbbtideError) as error:
                last = f"; last: {error!r:.500}"
            self._revive()
            if "controller" in self._processes and not self.is_alive("controller"):
                raise RuntimeError(
                    f"the controller has ended: {(self.directory / 'controller.log').read_text()[-2000:]}"
                )
            return False

        try:
            wait_until(asked, what, deadline, every=every)
        except NotReady as error:
            raise NotReady(f"{error}{last}") from None

    def computes(self) -> dict[str, Any]:
        """Every compute's status, by name."""
        return {c["name"]: c for c in self.get("/api/v1/computes")["computes"]}

    def wait_ready(self, *names: str) -> None:
        """Until these are ready and have applied all."""

        def ready() -> bool:
            revision, found = self.get("/api/v1/status")["revision"], self.computes()
            return all(found[n]["phase"] == "ready" and found[n]["applied"] >= revision for n in names)

        self.wait(ready, f"{', '.join(names)} to be ready")

    def bindings(self, port: str) -> list[dict[str, Any]]:
        """Where it is, and where it may be going."""
        found: list[dict[str, Any]] = self.get(f"/api/v1/ports/{port}")["bindings"]
        return found

    def place(self, port: str) -> str:
        """Where it is active."""
        return next((b["compute"] for b in self.bindings(port) if b["phase"] == "active"), "")

    def router(self, name: str) -> Any:
        """Its status."""
        return self.get(f"/api/v1/routers/{name}")

    def _wakes(self, port: str, target: str) -> bool:
        """Whether a guest has arrived, else it says so once more: nobody may have been there to hear it."""
        if self.place(port) == target:
            return True
        self.tell("announce", compute=target, port=port)
        return self.place(port) == target

    def migrate(self, port: str, mac: str, target: str) -> None:
        """As libvirt does it: plugged at both ends for a while, then the guest wakes at the other."""
        source = ""

        def placed() -> bool:
            nonlocal source
            source = next((b["compute"] for b in self.bindings(port) if b["compute"] != target), "")
            return bool(source)

        self.wait(placed, f"{port} to be somewhere")
        self.tell("plug", compute=target, port=port, mac=mac)
        self.wait(lambda: len(self.bindings(port)) == 2, f"{port} to be prepared on {target}")
        self.wait_ready(target)
        self.wait(lambda: self._wakes(port, target), f"{port} to be served on {target}", every=ANNOUNCE)
        self.tell("unplug", compute=source, port=port)
        self.wait(lambda: len(self.bindings(port)) == 1, f"{port} to have left {source}")


def make_store(directory: Path) -> Path:
    """The file of a store in which nothing is but its id."""
    schema, database = directory / "ebbtide.ovsschema", directory / "store.db"
    schema.write_text(json.dumps(records.schema()))
    row = {"store_id": STORE_ID, "revision": 1, "intent": 1, "term": 0, "hold": ""}
    insert = json.dumps([records.DATABASE, {"op": "insert", "table": "Global", "row": row}])
    for command in (["create", str(database), str(schema)], ["transact", str(database), insert]):
        subprocess.run(["ovsdb-tool", *command], check=True, stdout=subprocess.DEVNULL)
    return database


def own_address() -> str:
    """An address of the loopback that no other process of the machine takes: it is made of the pid (22 bits at most).

    Free ports of 127.0.0.1 would do for one run, and two at a time would find each other's controllers now and then; and what the kernel
    gives to whoever connects can be the port itself that nobody listens on while a controller is started again.
    """
    pid = os.getpid()
    return f"127.{64 + (pid >> 16)}.{pid >> 8 & 0xFF}.{pid & 0xFF}"


def _answers(remote: str) -> bool:
    with socket.socket(socket.AF_UNIX) as made:
        try:
            made.connect(remote.removeprefix("unix:"))
        except OSError:
            return False
    return True
