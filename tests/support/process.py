"""The controller as a process of its own, as it runs in earnest: it can be killed and stopped, and is driven over REST."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from ebbtide.errors import EbbtideError
from ebbtide.lab import CONTROLLER, Lab, wait_until
from ebbtide.lab import processes as lab_processes


class Process:
    """One controller process in the lab's control namespace. A killed one is started again by `start`."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        name: str = "controller",
        offset: int = 0,
        store: str = "",
        more: Sequence[str] = (),
    ) -> None:
        self.lab, self.name = lab, name
        self.state_dir = directory / name
        self._http = 8181 + offset
        self.ovsdb = 6640 + offset
        self._command = [sys.executable, "-m", "ebbtide", "controller", "--state-dir", str(self.state_dir)]
        self._command += ["--ovsdb-listen", f"ptcp:{self.ovsdb}:{CONTROLLER}", "--http", f"127.0.0.1:{self._http}"]
        self._command += ["--openflow-listen", f"ptcp:{6653 + offset}:{CONTROLLER}", "--admission", "open"]
        self._command += [*(["--store", store] if store else []), *more]
        self.pid = 0

    def log(self) -> list[dict[str, Any]]:
        """What it has logged, line by line."""
        text = (self.lab.site.run_directory / f"{self.name}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def start(self, leads: bool = True) -> None:
        """Until it answers, and (`leads`) leads."""
        self.pid = self.lab.spawn(self.name, self._command)
        self.wait(lambda: bool(self.status()["leading"]) or not leads, "the controller to answer")

    def kill(self) -> None:
        """SIGKILL."""
        self.lab.kill_spawned(self.name)

    def stop(self) -> None:
        """SIGSTOP: it hangs."""
        lab_processes.send_signal(self.pid, signal.SIGSTOP)
        wait_until(lambda: lab_processes.is_stopped(self.pid), "the controller to stop")

    def thaw(self) -> None:
        """SIGCONT."""
        lab_processes.send_signal(self.pid, signal.SIGCONT)

    @property
    def store_pid(self) -> int:
        """The private store's server."""
        return int((self.state_dir / "store.pid").read_text())

    # --- REST ---

    def send(self, method: str, path: str, body: object | None = None) -> HTTPConnection:
        """Send a request, and wait for nothing."""
        connection = HTTPConnection("127.0.0.1", self._http, timeout=60)
        connection.sock = self.lab.connect("127.0.0.1", self._http)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection

    def ask(self, method: str, path: str, body: object | None = None) -> tuple[int, Any]:
        """Status and decoded answer."""
        connection = self.send(method, path, body)
        try:
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None

    def get(self, path: str) -> Any:
        """The answer to a GET that must succeed."""
        status, found = self.ask("GET", path)
        assert status == 200, found
        return found

    def post(self, path: str, body: object) -> Any:
        """The answer to a POST that must succeed."""
        status, found = self.ask("POST", path, body)
        assert status < 300, found
        return found

    def send_rpc(self, verb: str, *names: str) -> HTTPConnection:
        """Send one of the spec's RPCs, and wait for nothing."""
        leaf = "recover-node-ids" if verb == "recover" else "scalein-node-ids"
        path = f"/rests/operations/scalein-api:scalein-computes-{verb}"
        return self.send("POST", path, {"scalein-api:input": {leaf: list(names)}})

    def rpc(self, verb: str, *names: str) -> int:
        """One of the spec's RPCs: the status."""
        connection = self.send_rpc(verb, *names)
        try:
            return connection.getresponse().status
        finally:
            connection.close()

    def status(self) -> Any:
        """The controller's own status."""
        return self.get("/api/v1/status")

    def computes(self, removed: bool = False) -> dict[str, Any]:
        """Every compute's status, by name."""
        path = "/api/v1/computes?removed=true" if removed else "/api/v1/computes"
        return {c["name"]: c for c in self.get(path)["computes"]}

    def audit(self) -> Any:
        """The report of an audit."""
        return self.post("/api/v1/audit", {})

    # --- waiting ---

    def wait(self, holds: Callable[[], bool], what: str, deadline: float = 30.0) -> None:
        """Wait until something holds; a controller that does not answer is one of which nothing holds."""

        def asked() -> bool:
            try:
                return holds()
            except (OSError, AssertionError, KeyError, ValueError, EbbtideError):
                return False

        wait_until(asked, what, deadline, every=0.05)

    def wait_ready(self, *names: str, deadline: float = 40.0) -> None:
        """Until these computes are ready, have applied all, and nothing is left to break."""

        def ready() -> bool:
            found = self.computes()
            revision = self.status()["revision"]
            return all(found[n]["phase"] == "ready" and found[n]["applied"] >= revision for n in names)

        self.wait(ready, f"{', '.join(names)} to be ready", deadline)

    def place(self, port: str) -> str:
        """Where a port is active."""
        bindings = self.get(f"/api/v1/ports/{port}")["bindings"]
        return next((b["compute"] for b in bindings if b["phase"] == "active"), "")
