"""A metadata service in small, for tests: an HTTP server that believes what Nova's believes, and agents on computes of a lab."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from ebbtide.compile import ledger
from ebbtide.lab import CONTROLLER, Vm, processes
from tests.support.cloud import Cloud

ADDRESS, PORT = "169.254.169.254", 8775
SECRET = b"a secret of this test"


class Said(NamedTuple):
    """An answer: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """Answers each request with what it was told, as JSON: 403 where the signature is not right, as Nova does. `seen`: all requests."""

    def __init__(self, listener: socket.socket) -> None:
        self.seen: list[dict[str, Any]] = []
        self.port = listener.getsockname()[1]
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                told = {
                    "method": self.command,
                    "path": self.path,
                    "headers": [(k.lower(), v) for k, v in self.headers.items()],
                    "instance": self.headers.get("X-Instance-ID"),
                    "project": self.headers.get("X-Tenant-ID"),
                    "address": self.headers.get("X-Forwarded-For"),
                    "body": body.decode("latin1"),
                }
                service.seen.append(told)
                own = hmac.new(SECRET, str(told["instance"]).encode(), hashlib.sha256).hexdigest()
                right = self.headers.get("X-Instance-ID-Signature") == own
                text = json.dumps(told).encode()
                self.send_response(200 if right else 403)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        listener.setblocking(True)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def service_in(cloud: Cloud) -> Iterator[Service]:
    """One in the control network, which agents on computes reach."""
    made = Service(cloud.lab.listen(CONTROLLER, PORT))
    try:
        yield made
    finally:
        made.close()


def agent_command(cloud: Cloud, compute: str, backend: str = f"http://{CONTROLLER}:{PORT}") -> list[str]:
    secret = Path(cloud.directory) / "secret"
    secret.write_bytes(SECRET + b"\n")
    database = f"unix:{cloud.lab.compute(compute).directory}/db.sock"
    options = ["--backend", backend, "--secret-file", str(secret), "--ovsdb", database, "--log-level", "debug"]
    return [sys.executable, "-m", "ebbtide", "--lab", str(cloud.directory / "lab"), "metadata-agent", *options]


def start_agent(cloud: Cloud, compute: str, **more: str) -> int:
    """An agent on a compute, whose flows are there."""
    pid = cloud.lab.spawn(f"agent-{compute}", agent_command(cloud, compute, **more), where=compute)
    cloud.wait(lambda: has_agent(cloud, compute), what=f"an agent on {compute}")
    cloud.wait_clean()
    cloud.lab.compute(compute).revalidate()
    return pid


def kill_agent(cloud: Cloud, compute: str) -> None:
    cloud.lab.kill_spawned(f"agent-{compute}")
    cloud.wait(lambda: not has_agent(cloud, compute), what=f"no agent on {compute}")
    cloud.wait_clean()
    cloud.lab.compute(compute).revalidate()


def end_agent(cloud: Cloud, compute: str) -> None:
    """In good order."""
    pid = cloud.lab.spawned(f"agent-{compute}")
    assert pid is not None
    processes.send_signal(pid, 15)
    cloud.wait(lambda: not has_agent(cloud, compute) and not processes.is_running(pid), what=f"no agent on {compute}")
    cloud.wait_clean()
    cloud.lab.compute(compute).revalidate()


def has_agent(cloud: Cloud, compute: str) -> bool:
    interface = cloud.controller.member(compute).view.ports.get(ledger.AGENT_IFACE_ID)
    return interface is not None and bool(interface.ofport)


def rows(cloud: Cloud, compute: str) -> list[str]:
    """The flows of the metadata service on a compute."""
    feature = ledger.Feature.METADATA << ledger.FEATURE_SHIFT
    mask = 0xFF << ledger.FEATURE_SHIFT
    return cloud.lab.compute(compute).dump_flows("br-int", f"cookie={feature:#x}/{mask:#x}")


def ask(
    vm: Vm, path: str = "/openstack/latest/meta_data.json", method: str = "GET", body: bytes = b"", **headers: str
) -> Said:
    """A VM asks, by what names as keyword arguments have: X_y is X-y."""
    connection = HTTPConnection(ADDRESS, 80, timeout=10)
    connection.sock = vm.connect(ADDRESS, 80)
    connection.sock.settimeout(10)
    try:
        connection.request(method, path, body or None, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return Said(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def on_link(vm: Vm) -> None:
    """As a guest without a gateway has it: the address is somewhere on its network."""
    vm.exec(["ip", "route", "replace", ADDRESS, "dev", "eth0"])
