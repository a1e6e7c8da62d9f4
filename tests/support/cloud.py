"""A lab with a controller in it, for tests: real switches, real packets, the controller in a thread of this process.

`Cloud.call(coroutine)` runs something in the controller's loop, `Cloud.wait(condition)` waits for a condition with a deadline.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

from ebbtide.app import App
from ebbtide.config import Config
from ebbtide.decide import duties
from ebbtide.lab import CONTROLLER, Compute, Lab, Vm
from ebbtide.model import facts
from ebbtide.model.observed import Phase
from ebbtide.runtime.auditor import Report
from ebbtide.runtime.member import Member
from ebbtide.runtime.service import Service

T = TypeVar("T")


class Controller:
    """One controller in a thread, listening in the lab's control namespace."""

    def __init__(self, lab: Lab, state_dir: Path, web: bool = False, **settings: Any) -> None:
        self.lab = lab
        self._web = web
        # A machine that others keep busy is not to be taken for a cloud that dies; how fast a death is seen is the bench's to measure.
        usual = {"admission": "open", "bfd_interval_ms": 200}
        self.config = Config(state_dir=str(state_dir), **{**usual, **settings})
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.app = self.call(self._start())

    async def _start(self) -> App:
        app = App(
            self.config,
            ovsdb=self.lab.listen(CONTROLLER, 6640),
            openflow=self.lab.listen(CONTROLLER, 6653),
            http=self.lab.listen("127.0.0.1", 8181) if self._web else None,
            web=self._web,
        )
        await app.start()
        assert await app.cluster.changed.until(app.cluster.store.leading.is_set, 10), app.cluster.store.reason
        return app

    @property
    def service(self) -> Service:
        return self.app.service

    def call(self, work: Coroutine[Any, Any, T], deadline: float = 60.0) -> T:
        """Run a coroutine in the controller's loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(deadline)

    def wait(self, holds: Callable[[], bool], deadline: float = 20.0, what: str = "") -> None:
        """Wait until something holds."""
        if not self.call(self.app.cluster.wait_for(holds, deadline), deadline + 5):
            raise AssertionError(f"not within {deadline} s: {what or holds}; {self.describe()}")

    def describe(self) -> str:
        """Where everybody stands, for a failure message."""
        members = self.app.cluster.members.values()
        told = [
            f"{m.name}: {m.phase} connected={m.connected} synced={m.synced} clean={m.clean} applied={m.applied()} {m.reason}"
            for m in members
        ]
        return f"revision {self.app.cluster.state.revision}; refused {self.app.cluster.refused}; " + "; ".join(told)

    def member(self, name: str) -> Member:
        state = self.app.cluster.state
        return self.app.cluster.members[state.by_name[name]]

    def stop(self) -> None:
        """Stop as a controller stops: sessions closed, switches left as they are. Again is no harm."""
        if self.loop.is_closed():
            return
        self.call(self.app.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Cloud:
    """A lab and its controller."""

    def __init__(self, name: str, directory: Path, underlay: str = "ipv4", **settings: Any) -> None:
        self.lab = Lab(name, directory / "lab", underlay=underlay)
        self.directory = directory
        self.settings = settings
        self.lab.up()
        self.controller = Controller(self.lab, directory / "state", **settings)

    # --- the controller ---

    def restart_controller(self, **settings: Any) -> None:
        """Stop it and start another on the same state."""
        self.controller.stop()
        self.controller = Controller(self.lab, self.directory / "state", **{**self.settings, **settings})

    @property
    def service(self) -> Service:
        return self.controller.service

    def call(self, work: Coroutine[Any, Any, T], deadline: float = 60.0) -> T:
        return self.controller.call(work, deadline)

    def wait(self, holds: Callable[[], bool], deadline: float = 20.0, what: str = "") -> None:
        self.controller.wait(holds, deadline, what)

    def wait_ready(self, *names: str, deadline: float = 20.0) -> None:
        """Until these computes (default: all of the lab's) are ready and nothing is left to do."""
        wanted = names or tuple(c.name for c in self.lab.computes())

        def ready() -> bool:
            state, members = self.controller.app.cluster.state, self.controller.app.cluster.members
            found = [members.get(state.by_name.get(name, 0)) for name in wanted]
            # Connected: one whose sessions end one after the other is, between the two, still what it was.
            return all(m is not None and m.connected and m.phase is Phase.READY and m.clean for m in found)

        self.wait(ready, deadline, f"{wanted} ready")

    def wait_clean(self, deadline: float = 20.0) -> None:
        """Until every reachable member has nothing left to make or break, no port is between two places, and (if all are reachable) all
        that is designated is where it belongs."""

        def clean() -> bool:
            cluster = self.controller.app.cluster
            members = [m for m in cluster.members.values() if m.compute is not None]
            moving = any(len(b) > 1 for b in cluster.state.bindings.values())
            elects = all(m.connected for m in members) and duties.judge(cluster.state, cluster.designations.standings())
            return all(m.clean for m in members if m.connected) and not moving and not elects

        self.wait(clean, deadline, "clean")

    def audit(self) -> Report:
        return self.call(self.service.audit())

    def assert_clean(self) -> Report:
        """The audit finds nothing, and has read everybody reachable."""
        self.wait_clean()
        report = self.audit()
        assert report.clean, (report.findings, f"read {report.computes}, unreachable {report.unreachable}")
        return report

    def http(self, method: str, path: str, body: object | None = None) -> tuple[int, Any]:
        """One request to the REST interface (a cloud made with web=True): status and decoded body."""
        connection = HTTPConnection("127.0.0.1", 8181, timeout=60)
        connection.sock = self.lab.connect("127.0.0.1", 8181)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json", "Accept": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None

    def rpc(self, verb: str, leaf: str, ids: list[str]) -> tuple[int, Any]:
        """One of the spec's RPCs."""
        return self.http("POST", f"/rests/operations/scalein-api:{verb}", {"scalein-api:input": {leaf: ids}})

    def wait_prepared(self, port: str) -> None:
        """Until a port is pending somewhere, and all switches have settled on that.

        A live migration overlaps for seconds at least; what wakes sooner than cached datapath flows follow may miss frames.
        """

        def prepared() -> bool:
            cluster = self.controller.app.cluster
            held = cluster.state.bindings.get(port, ())
            since = max((b.since for b in held), default=0)
            return len(held) == 2 and all(m.settled(since) for m in cluster.members.values() if m.connected)

        self.wait(prepared, what=f"{port} prepared")

    def migrate(self, vm: str, target: str) -> None:
        """A whole live migration, and everything that follows from it."""
        migration = self.lab.migration(vm, target)
        migration.begin()
        self.wait_prepared(vm)
        migration.switch()
        self.wait(lambda: self.place(vm) == target, what="flipped")
        migration.finish()
        self.wait_clean()

    # --- the lab ---

    def add_computes(self, *names: str) -> list[Compute]:
        made = self.lab.add_computes(list(names), register="tcp:10.255.0.1:6640")
        self.wait_ready(*names)
        return made

    def add_network(self, name: str, subnet: str) -> None:
        self.call(self.service.add_network(name, [subnet]))

    def add_vm(self, name: str, compute: str, network: str, index: int, mtu: int = 0, gateway: int | None = None) -> Vm:
        """A VM with a port of its own name; its address is the `index`-th of the network, and so is its gateway's, if it has one.
        `mtu` 0: the network's."""
        mtu = mtu or self.controller.app.cluster.state.networks[network].mtu
        base = self.controller.app.cluster.state.networks[network].subnets[0].rsplit(".", 1)[0]
        mac = f"02:00:00:00:{self.controller.app.cluster.state.networks[network].tag:02x}:{index:02x}"
        self.call(self.service.add_port(name, network, mac, [f"{base}.{index}"]))
        way = None if gateway is None else f"{base}.{gateway}"
        vm = self.lab.add_vm(name, compute, mac=mac, ip_cidr=f"{base}.{index}/24", iface_id=name, mtu=mtu, gateway=way)
        self.wait(lambda: self.controller.app.cluster.state.active(name) is not None, what=f"{name} bound")
        return vm

    def fact(self, name: str) -> facts.Compute:
        """What is stored of a member now, for a search once it is removed."""
        state = self.controller.app.cluster.state
        return state.computes[state.by_name[name]]

    def place(self, port: str) -> str:
        """The compute where a port is active."""
        state = self.controller.app.cluster.state
        active = state.active(port)
        return state.computes[active.compute].name if active else ""

    def down(self) -> None:
        try:
            self.controller.stop()
        finally:
            self.lab.down()
