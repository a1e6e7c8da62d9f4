"""Private ovsdb-servers for tests: each in its own folder, on a unix socket, stopped by its own process."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ebbtide.ovsdb import DatabaseSchema, parse_schema

VSWITCH_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def vswitch() -> DatabaseSchema:
    """The schema of a compute, without a server."""
    if not VSWITCH_SCHEMA.exists():
        pytest.skip("Open vSwitch is not installed")
    return parse_schema(msgspec.json.decode(VSWITCH_SCHEMA.read_bytes()))


class Server:
    """One ovsdb-server. `stop` and `start` keep the database."""

    def __init__(self, folder: Path, database: Path, remote: str) -> None:
        self.folder = folder
        self.database = database
        self.remote = remote
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def control(self) -> Path:
        return self.database.with_suffix(".ctl")

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        log = self.database.with_suffix(".log").open("ab")
        self._process = subprocess.Popen(
            ["ovsdb-server", f"--remote=p{self.remote}", f"--unixctl={self.control}", str(self.database)],
            stdout=log,
            stderr=log,
        )
        log.close()
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, self.database.with_suffix(".log").read_text()
            assert time.monotonic() < deadline, "ovsdb-server does not take connections"

    def _answers(self) -> bool:
        if not self.control.exists():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.remote.removeprefix("unix:"))
            except OSError:
                return False
        return True

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.control.unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP: it hears nothing until it is killed or resumed."""
        assert self._process is not None
        self._process.send_signal(19)

    def appctl(self, *arguments: str) -> str:
        """ovs-appctl."""
        command = ["ovs-appctl", "-t", str(self.control), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's name has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ovsdb-") as name:
        yield Path(name)


@pytest.fixture
def make_server(folder: Path, vswitch: DatabaseSchema) -> Iterator[Callable[..., Server]]:
    """Make servers of the vswitch database; all are stopped in the end."""
    servers: list[Server] = []

    def make(*, clustered: bool = False, join: Server | None = None) -> Server:
        number = len(servers)
        database = folder / f"{number}.db"
        raft = f"unix:{folder}/{number}.raft"
        if join is not None:
            command = [
                "join-cluster",
                str(database),
                "Open_vSwitch",
                raft,
                f"unix:{join.database.with_suffix('.raft')}",
            ]
        elif clustered:
            command = ["create-cluster", str(database), str(VSWITCH_SCHEMA), raft]
        else:
            command = ["create", str(database), str(VSWITCH_SCHEMA)]
        subprocess.run(["ovsdb-tool", *command], check=True, timeout=20)
        server = Server(folder, database, f"unix:{folder}/{number}.sock")
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """One standalone server."""
    return make_server()
