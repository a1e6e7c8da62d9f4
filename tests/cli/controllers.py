"""Two controllers for tests: one that says what a test wants, on a real socket, and a real one in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import Result

Run = Callable[..., Result]
START_SECONDS = 30.0


class Asked(NamedTuple):
    """One request that the scripted controller got."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]


class Scripted:
    """A controller that answers what it was told to answer: `said[method, path] = (status, body)`."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[Asked] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                is_json = raw and self.headers.get("Content-Type") == "application/json"
                path = self.path.removeprefix("/api/v1")
                scripted.asked.append(
                    Asked(self.command, path, json.loads(raw) if is_json else raw, dict(self.headers.items()))
                )
                status, body = scripted.said.get((self.command, path), (404, "not said"))
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def says(self, method: str, path: str, body: Any, status: int = 200) -> None:
        self.said[method, path] = (status, body)

    def refuses(self, method: str, path: str, status: int, tag: str, message: str = "no", **more: Any) -> None:
        self.says(method, path, {"error": {"status": status, "tag": tag, "message": message, **more}}, status)


class Running:
    """A real controller in a process of its own, on ports that the kernel chose."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.log = directory / "log"
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notices.bind(str(directory / "notify"))
        notices.settimeout(START_SECONDS)
        self.notices = notices
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EBBTIDE_")}
        ports = ["--ovsdb-listen", "ptcp:0", "--openflow-listen", "ptcp:0", "--http", "127.0.0.1:0"]
        command = [sys.executable, "-m", "ebbtide", "controller", "--state-dir", str(directory / "state"), *ports]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options, "--log-format", "json"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=clean | {"NOTIFY_SOCKET": str(directory / "notify")},
            )

    def notice(self) -> bytes:
        """The next thing it tells its service manager."""
        try:
            return self.notices.recv(4096)
        except TimeoutError:
            raise AssertionError(f"it said nothing; its log: {self.log.read_text()}") from None

    def says(self, status: str) -> list[bytes]:
        """Wait until its status begins so; what it told its service manager until then."""
        told = [self.notice()]
        while not told[-1].split(b"STATUS=")[-1].startswith(status.encode()):
            told.append(self.notice())
        return told

    def port(self, listener: str) -> int:
        """The port of its `ovsdb`, `openflow` or `http` listener, as it says in its log."""
        for text in self.log.read_text().splitlines():
            event = json.loads(text)
            if listener in event:
                return int(event[listener][1])
        raise AssertionError(f"it does not listen; its log: {self.log.read_text()}")

    @property
    def url(self) -> str:
        """Where its REST interface is."""
        return f"http://127.0.0.1:{self.port('http')}"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def close(self) -> None:
        """Whatever state it is in."""
        try:
            self.stop()
        finally:
            self.notices.close()
