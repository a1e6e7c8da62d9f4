"""Peers that misbehave, and a way to see that nobody else notices.

The peers are plain sockets made inside a compute's namespace; what is true OpenFlow in what they say is written by our own codec. A
`FrontedController` can cut the connection of one switch after a number of bytes, as a network does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ebbtide.app import App
from ebbtide.lab import CONTROLLER, Compute, Lab
from ebbtide.lab.probes import Probes, pairs_among
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import FrameBuffer
from tests.support import snapshots
from tests.support.cloud import Cloud, Controller

OPENFLOW, OVSDB = 6653, 6640


def dial(cloud: Cloud, compute: str, port: int) -> socket.socket:
    """A connection to the controller from a compute's namespace."""
    return cloud.lab.connect(CONTROLLER, port, in_namespace=cloud.lab.compute(compute).namespace)


def heard_until_closed(peer: socket.socket, deadline: float = 10.0) -> bytes:
    """What the controller still says before it hangs up, which it must."""
    end, heard = time.monotonic() + deadline, b""
    while (left := end - time.monotonic()) > 0:
        peer.settimeout(left)
        try:
            data = peer.recv(1 << 16)
        except ConnectionError:
            return heard
        except TimeoutError:
            break
        if not data:
            return heard
        heard += data
    raise AssertionError(f"not closed within {deadline} s; heard {heard[:200]!r}")


def is_closed(peer: socket.socket) -> bool:
    """Whether the controller has hung up; what it said is thrown away."""
    peer.setblocking(False)
    try:
        while peer.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


class FakeSwitch:
    """The switch's side of a handshake, and no more of a switch than that."""

    def __init__(self, peer: socket.socket, version: int = 5) -> None:
        self.peer = peer
        self._version = version
        self._frames = FrameBuffer()

    def say(self, message: m.Message, xid: int = 1) -> None:
        self.peer.sendall(m.encode(message, xid, self._version))

    def shake(self, dpid: int, deadline: float = 5.0) -> None:
        """Hello, and the answer to the controller's question who we are."""
        self.say(m.Hello((5, 4)))
        self.peer.settimeout(deadline)
        while data := self.peer.recv(1 << 16):
            for frame in self._frames.feed(data):
                if isinstance(m.decode(frame), m.FeaturesRequest):
                    self.say(m.FeaturesReply(dpid), frame.xid)
                    return
        raise AssertionError("the controller hung up before it had asked who we are")


class FakeOvsdb:
    """A peer that answers requests of the controller as it is told: method -> result (or a function of the params)."""

    def __init__(self, peer: socket.socket, answers: dict[str, Any]) -> None:
        self.peer = peer
        self._answers = answers
        self._decoder = json.JSONDecoder()
        self._text = ""

    def serve_until_closed(self, deadline: float = 15.0) -> None:
        """Answer what can be answered, until the controller hangs up, which it must."""
        end = time.monotonic() + deadline
        while (left := end - time.monotonic()) > 0:
            self.peer.settimeout(left)
            try:
                data = self.peer.recv(1 << 16)
            except ConnectionError:
                return
            except TimeoutError:
                break
            if not data:
                return
            self._text += data.decode()
            self._answer()
        raise AssertionError(f"not closed within {deadline} s")

    def _answer(self) -> None:
        while self._text:
            try:
                request, size = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError:
                return
            self._text = self._text[size:]
            known = self._answers.get(request.get("method"), [])
            result = known(request["params"]) if callable(known) else known
            try:
                self.peer.sendall(json.dumps({"id": request["id"], "result": result, "error": None}).encode())
            except ConnectionError:
                return


class _Cut:
    """A StreamWriter whose connection ends after `left` more bytes; None: never."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.left: int | None = None
        self.sent = 0

    def write(self, data: bytes) -> None:
        if self.left is None:
            self.sent += len(data)
            self._writer.write(data)
            return
        self._writer.write(data[: self.left])
        self.left -= min(len(data), self.left)
        if not self.left:
            self._writer.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class FrontedController(Controller):
    """A controller with a wire before its OpenFlow listener that can be cut in the middle of a message."""

    def __init__(self, lab: Lab, *arguments: Any, **settings: Any) -> None:
        self._wires: dict[str, _Cut] = {}
        self._front: asyncio.Server
        super().__init__(lab, *arguments, **settings)

    async def _start(self) -> App:
        app = App(
            self.config,
            ovsdb=self.lab.listen(CONTROLLER, OVSDB),
            openflow=self.lab.listen("127.0.0.1", OPENFLOW),
            web=False,
        )

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            wire = self._wires[writer.get_extra_info("peername")[0]] = _Cut(writer)
            app.cluster.accept_openflow(reader, wire)  # type: ignore[arg-type]

        self._front = await asyncio.start_server(accept, sock=self.lab.listen(CONTROLLER, OPENFLOW), limit=1 << 24)
        await app.start()
        assert await app.cluster.changed.until(app.cluster.store.leading.is_set, 10), app.cluster.store.reason
        return app

    def cut_after(self, compute: Compute, size: int) -> None:
        """The present connection of this compute's switch ends when it has been sent `size` bytes more."""

        async def arm() -> None:
            self._wires[compute.control_address].left = size

        self.call(arm())

    def stop(self) -> None:
        async def close() -> None:
            self._front.close()

        self.call(close())
        super().stop()


@contextmanager
def undisturbed(cloud: Cloud, *names: str, flows: bool = True) -> Iterator[Probes]:
    """Whatever happens inside: between the VMs of these computes no probe is lost, and their sessions and `flows` stay."""
    computes = [cloud.lab.compute(name) for name in names]
    before = [snapshots.snapshot(c) for c in computes]
    sessions = [(cloud.controller.member(n).link, cloud.controller.member(n).switch) for n in names]
    with Probes(cloud.lab) as probes:
        probes.start(pairs_among([vm for vm in cloud.lab.vms() if vm.active in names]), rate=50)
        probes.wait_flowing()
        probes.mark_phase("hostile")
        yield probes
        probes.wait_flowing()
        probes.mark_phase("after")
        report = probes.stop()
    assert report.sent("hostile") > 0
    assert not report.failures("hostile"), report.table()
    assert not flows or [snapshots.snapshot(c) for c in computes] == before
    assert [(cloud.controller.member(n).link, cloud.controller.member(n).switch) for n in names] == sessions


def eventually(cloud: Cloud, holds: Callable[[], bool], what: str, deadline: float = 20.0) -> None:
    """Wait, and say where everybody stands if it was in vain."""
    cloud.wait(holds, deadline, what)
