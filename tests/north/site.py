"""A real controller in a thread, asked over a loopback socket; facts are put straight into its store. No switch is needed."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ebbtide.app import App
from ebbtide.config import Config
from ebbtide.model.facts import Binding, BindingPhase, Compute, Edit, Fact, Network, Port
from ebbtide.model.state import State

T = TypeVar("T")
_numbers = itertools.count(1)


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The entries of a RESTCONF error, of either style."""
        body = self.json
        found: list[dict[str, Any]] = (body.get("ietf-restconf:errors") or body["errors"])["error"]
        return found


class Site:
    """One controller."""

    def __init__(self, state_dir: Path, *listeners: socket.socket, leads: bool = True, **settings: Any) -> None:
        """`listeners`: for OVSDB and OpenFlow, where they are not on loopback too. `leads`: whether to wait until it does."""
        self._leads = leads
        self.state_dir = state_dir
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        try:
            self.app = self.call(self._start(Config(state_dir=str(state_dir), **settings), list(listeners)))
        except BaseException:
            self._end_loop()
            raise

    async def _start(self, config: Config, sockets: list[socket.socket]) -> App:
        sockets += [socket.create_server(("127.0.0.1", 0)) for _ in range(3 - len(sockets))]
        for each in sockets:
            each.setblocking(False)
        self.port = sockets[2].getsockname()[1]
        app = App(config, ovsdb=sockets[0], openflow=sockets[1], http=sockets[2])
        try:
            await app.start()
            if self._leads:
                assert await app.cluster.wait_for(app.cluster.store.leading.is_set, 10), app.cluster.store.reason
        except BaseException:
            for each in sockets:
                each.close()
            raise
        return app

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the controller's loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(30)

    def stop(self) -> None:
        """Stop it; again is no harm."""
        if self.loop.is_closed():
            return
        self.call(self.app.stop())
        self._end_loop()

    def _end_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    @property
    def state(self) -> State:
        return self.app.cluster.state

    # --- facts ---

    def ready(self, count: int) -> bool:
        """Whether so many computes are connected, and all of them ready and at rest."""
        members = self.app.cluster.members.values()
        return len(members) == count and all(m.phase == "ready" and m.clean for m in members)

    def put(self, *facts: Fact) -> None:
        """Store facts as they are."""
        edits = [Edit(None, fact) for fact in facts]
        self.call(self.app.cluster.store.commit(lambda state: (edits, None)))

    def compute(self, name: str = "", **fields: Any) -> Compute:
        """A member."""
        number = next(_numbers)
        made = Compute(
            **{
                "name": name or f"c{number}",
                "number": number,
                "dpid": 0xABC000 + number,
                "system_id": f"sys-{number}",
                "ovs_uuid": f"00000000-0000-4000-8000-{number:012d}",
                "teps": (f"192.0.2.{number}",),
                **fields,
            }
        )
        self.put(made)
        return made

    def port_on(self, *computes: Compute) -> list[Port]:
        """A network of its own with one active port on each of these computes."""
        number = next(_numbers)
        network = Network(f"n{number}", number, 20_000 + number)
        ports = []
        facts: list[Fact] = [network]
        for compute in computes:
            lport = next(_numbers)
            ports.append(Port(f"p{lport}", network.id, 0x020000000000 + lport, lport, (f"10.9.0.{lport % 250}",)))
            facts += [ports[-1], Binding(ports[-1].id, compute.number, BindingPhase.ACTIVE)]
        self.put(*facts)
        return ports

    # --- asking ---

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """One request on a connection of its own. `body` goes as JSON."""
        content = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        sent = {} if content is None else {"Content-Type": "application/json"}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.ask("POST", path, body)

    def rpc(self, name: str, ids: Any, leaf: str = "scalein-node-ids", *, root: str = "/rests") -> Answer:
        """An RPC with the qualified envelope."""
        module = name.partition(":")[0]
        return self.post(f"{root}/operations/{name}", {f"{module}:input": {leaf: ids}})

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until something holds in the controller."""
        assert self.call(self.app.cluster.wait_for(holds, 20))
