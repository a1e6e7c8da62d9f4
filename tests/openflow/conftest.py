"""A private Open vSwitch with the dummy datapath, and a blocking wire to it, for the tests marked `lab`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ebbtide.openflow.messages import Message, MultipartRequest
from ebbtide.openflow.session import Collected, Event, Received, Refused, Session, State

DEADLINE = 20.0

# Examples are bounded in number, not in time: the machine may be busy.
settings.register_profile("openflow", deadline=None)
settings.load_profile("openflow")


class Wire:
    """A session on a blocking socket."""

    def __init__(self, path: str, version: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(path)
        self.session = Session((version,))
        self.version = version
        self.seen: list[Event] = []
        self.until(lambda: self.session.state is State.READY)

    def close(self) -> None:
        self.socket.close()

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        self.flush()
        while not done():
            assert time.monotonic() < deadline, self.seen
            data = self.socket.recv(65536)
            assert data, "the switch hung up"
            self.seen += self.session.receive(data)
            self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.session.data_to_send())

    def reply(self, xid: int) -> Event:
        """The event that answers this xid."""
        found: list[Event] = []

        def done() -> bool:
            found.extend(e for e in self.seen if isinstance(e, Received | Refused | Collected) and e.xid == xid)
            return bool(found)

        self.until(done)
        self.seen.remove(found[0])
        return found[0]

    def ask(self, message: Message) -> Event:
        return self.reply(self.session.send(message))

    def collect(self, request: MultipartRequest) -> bytes:
        event = self.ask(request)
        assert isinstance(event, Collected), event
        return event.body


class PrivateSwitch:
    """ovsdb-server and ovs-vswitchd of our own, with bridge br0 and ports 1 and 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {
            name: str(folder) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        }
        self.db = f"unix:{folder}/db.sock"
        self.bridge = f"{folder}/br0.mgmt"

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout if check else done.stdout + done.stderr

    def start(self) -> None:
        self.run("ovsdb-tool", "create", f"{self.folder}/conf.db", "/usr/share/openvswitch/vswitch.ovsschema")
        daemon = ("--detach", "--no-chdir", "-vconsole:off")
        self.run(
            "ovsdb-server",
            f"{self.folder}/conf.db",
            f"--remote=punix:{self.folder}/db.sock",
            f"--pidfile={self.folder}/ovsdb-server.pid",
            f"--log-file={self.folder}/ovsdb-server.log",
            *daemon,
        )
        self.run("ovs-vsctl", f"--db={self.db}", "--no-wait", "init")
        self.run(
            "ovs-vswitchd",
            self.db,
            "--enable-dummy",
            "--disable-system",
            f"--pidfile={self.folder}/ovs-vswitchd.pid",
            f"--log-file={self.folder}/ovs-vswitchd.log",
            *daemon,
        )
        bridge = "add-br br0 -- set bridge br0 datapath_type=dummy fail_mode=secure protocols=OpenFlow13,OpenFlow14"
        ports = " ".join(f"-- add-port br0 p{n} -- set interface p{n} type=dummy ofport_request={n}" for n in (1, 2))
        self.run("ovs-vsctl", f"--db={self.db}", "-t", "15", *bridge.split(), *ports.split())

    def stop(self) -> None:
        for name in ("ovs-vswitchd", "ovsdb-server"):
            pidfile = self.folder / f"{name}.pid"
            if not pidfile.exists():
                continue
            pid = int(pidfile.read_text())
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + DEADLINE
            while pidfile.exists() and time.monotonic() < deadline:
                os.sched_yield()

    def ofctl(self, *arguments: str, version: int = 5, check: bool = True) -> str:
        return self.run("ovs-ofctl", "-O", {4: "OpenFlow13", 5: "OpenFlow14"}[version], *arguments, check=check)

    def appctl(self, *arguments: str) -> str:
        return self.run("ovs-appctl", "-t", "ovs-vswitchd", *arguments)


@pytest.fixture(scope="session")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSwitch]:
    if os.geteuid() != 0 or shutil.which("ovs-vswitchd") is None:
        pytest.skip("needs root and Open vSwitch")
    private = PrivateSwitch(tmp_path_factory.mktemp("ovs"))
    try:
        private.start()
        yield private
    finally:
        private.stop()


@pytest.fixture(params=[4, 5], ids=["1.3", "1.4"])
def wire(switch: PrivateSwitch, request: pytest.FixtureRequest) -> Iterator[Wire]:
    opened = Wire(switch.bridge, request.param)
    try:
        yield opened
    finally:
        opened.close()
