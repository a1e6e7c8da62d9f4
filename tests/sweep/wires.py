"""A process between a controller and all that it speaks to: `python -m tests.sweep.wires CONFIG.json`. It knows what passes by name, logs
it, and kills the controller in the moment that it is told to.

Every batch (see `points.py`) can be struck at two moments. "before": it is held back, the controller is killed, and it is dropped: nobody
has ever heard of it. "after": it is passed on, and when its answer comes (of a transaction, a barrier) the controller is killed, and never
learns of it. The whole process stands still from the signal until the controller is gone, so nothing passes on any wire meanwhile; what it
had sent on others before that is let through, as a network would.

The log has a line of JSON for each batch: `wire` (store, ovsdb, openflow), `at` (the compute), `kind` (of the batch) and `points`, each
with its kind, its name and how often it has come by now on this wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import Frame, FrameBuffer, message
from ebbtide.ovsdb.replica import Replica, Watch
from ebbtide.ovsdb.schema import DatabaseSchema
from ebbtide.runtime import records, vswitch
from ebbtide.runtime.link import OvsdbLink
from tests.sweep import points
from tests.sweep.daemon import connect
from tests.sweep.processes import die_with_parent, died

READ_BYTES = 1 << 18
#: Seconds for which a row that a transaction names is waited for: whoever names it has heard of it, perhaps before us.
KNOWN_SOON = 0.5
BEFORE, AFTER = "before", "after"


CONTROLLER, STORE = "controller", "store"
#: Seconds for which a peer is frozen.
FROZEN = 1.0


class Strike(msgspec.Struct, frozen=True):
    """Where somebody is struck, once. `nth`: at the how-manieth time that the point is passed on this wire. `whom`: the controller or the
    store's server, which are killed, or a compute, which is frozen for a while."""

    wire: str
    name: str
    at: str = ""
    nth: int = 1
    when: str = BEFORE
    whom: str = CONTROLLER


class WireConfig(msgspec.Struct):
    """One wire. `to`: what the controller, or the compute, would be connected with; `database`: where its rows are read."""

    wire: str
    listen: str
    to: str
    at: str = ""
    database: str = ""


class Config(msgspec.Struct):
    """All of them. `site`: the directory of all processes, with their pids, which are read when one is to be killed."""

    log: str
    site: str
    wires: list[WireConfig]
    strikes: list[Strike] = []


class Struck(Exception):
    """The controller is dead: this connection ends, and what was held back with it."""


class Watcher:
    """The log, and the strikes that are still to fall."""

    def __init__(self, config: Config) -> None:
        self._site = Path(config.site)
        self._log = Path(config.log).open("a")  # noqa: SIM115 (until the process ends)
        self._left = list(config.strikes)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._began = time.monotonic()

    def ready(self) -> None:
        """All listeners are there: a file beside the log says so."""
        Path(f"{self._log.name}.ready").touch()

    def passes(self, config: WireConfig, batch: points.Batch) -> Strike | None:
        """A batch has come, and is not passed on yet. The strike that is to fall after it, if there is one.

        Raises:
            Struck: one was to fall before it.
        """
        counted = []
        for point in batch.points:
            key = config.wire, config.at, point.name
            self._counts[key] += 1
            counted.append((point.kind, point.name, self._counts[key]))
        self._write(wire=config.wire, at=config.at, kind=batch.kind, points=counted)
        for strike in self._left:
            if (strike.wire, strike.at) == (config.wire, config.at) and any(
                (strike.name, strike.nth) == (name, count) for _, name, count in counted
            ):
                if strike.when == AFTER:
                    return strike
                self.strike(strike)
        return None

    def strike(self, strike: Strike) -> None:
        """Kill, and see it dead; or freeze, and thaw later.

        Raises:
            Struck: who was killed is an end of this wire, or of all.
        """
        self._left.remove(strike)
        if strike.whom in (CONTROLLER, STORE):
            pid = int((self._site / f"{strike.whom}.pid").read_text())
            gone = died(pid)
            self._write(struck=msgspec.to_builtins(strike), pid=pid, gone=gone)
            raise Struck(strike.name)
        self._command("stop", strike.whom)
        self._write(struck=msgspec.to_builtins(strike))
        threading.Timer(FROZEN, self._command, ("cont", strike.whom)).start()

    def _command(self, verb: str, compute: str) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._site / "fleet" / "control"))
            control.sendall(json.dumps({"do": verb, "compute": compute}).encode() + b"\n")
            control.recv(1 << 16)

    def _write(self, **line: Any) -> None:
        self._log.write(json.dumps({"t": round(time.monotonic() - self._began, 4), **line}) + "\n")
        self._log.flush()


class Rows:
    """Somebody's database as it is: what a uuid names."""

    def __init__(self, where: str, database: str) -> None:
        self._where, self._database = where, database
        self._tables: Replica | None = None
        self._turn, self._told = asyncio.Lock(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Follow it from now on; again is no harm."""
        async with self._turn:
            if self._tables is None:
                link = OvsdbLink(*await connect(self._where), lambda _: self._told.set())
                self._task = asyncio.create_task(link.run())
                schema = await link.schema(self._database)
                tables = Replica(schema, _watches(schema))
                await link.monitor(tables)
                self._tables = tables

    def find(self, table: str, uuid: str) -> Any:
        """A row, as JSON-like values; None: it is not known."""
        return self._tables.row(table, uuid) if self._tables is not None else None  # type: ignore[arg-type]

    async def know(self, request: dict[str, Any]) -> None:
        """Until all rows that a transaction names are known, or will not be."""
        named = list(_named(request))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_SOON):
                while any(self.find(*row) is None for row in named):
                    self._told.clear()
                    await self._told.wait()


def _watches(schema: DatabaseSchema) -> dict[str, Watch]:
    if schema.name == records.DATABASE:
        return {table: Watch(tuple(records.COLUMNS[table])) for table in records.TABLES}
    return {
        "Bridge": Watch(("name",)),
        "Port": Watch(("name",)),
        "Interface": Watch(("name",)),
        "Open_vSwitch": Watch(("cur_cfg",)),
    }


def _named(request: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for op in request["params"][1:] if request.get("method") == "transact" else ():
        for column, _, value in op.get("where", ()):
            if column == "_uuid":
                yield op["table"], value[1]
        for column, mutator, value in op.get("mutations", ()):
            if (column, mutator) == ("ports", "delete"):
                for uuid in value[1] if value[0] == "set" else [value]:
                    yield "Port", uuid[1]


class JsonStream:
    """JSON texts one after the other, each with its bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> Iterator[tuple[Any, bytes]]:
        """More bytes; what is whole now."""
        self._rest = (self._rest + data).lstrip()
        while self._rest:
            try:
                # All of one byte a character: positions are those of the bytes, and nothing that is named has others.
                value, end = self._decoder.raw_decode(self._rest.decode("latin-1"))
            except ValueError:
                return
            whole, self._rest = self._rest[:end], self._rest[end:].lstrip()
            yield value, whole


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Passage:
    """One connection, and both ways of it. Subclasses know its messages.

    `_held`: the answers at which a strike falls. As long as one is waited for nothing is told to the controller: of a transaction it would
    hear by its monitor before it is answered.
    """

    def __init__(self, config: WireConfig, watcher: Watcher) -> None:
        self.config, self._watcher = config, watcher
        self._held: dict[Any, Strike] = {}

    async def run(self, controller: Ends, peer: Ends) -> None:
        """Until either end is closed, or a strike falls."""
        ways = [
            asyncio.create_task(self._pass(controller[0], peer[1], asked=True)),
            asyncio.create_task(self._pass(peer[0], controller[1], asked=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if ways[0].done() and not ways[1].done():
                await _drained(peer[1])
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for _, writer in (controller, peer):
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool) -> None:
        with contextlib.suppress(OSError, Struck, EbbtideError):
            while data := await reader.read(READ_BYTES):
                if asked:
                    await self.asked(data, writer)
                else:
                    self.answered(data, writer)
                await writer.drain()

    async def asked(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Bytes of the controller."""
        raise NotImplementedError

    def answered(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Bytes for the controller."""
        raise NotImplementedError

    def _comes(self, batch: points.Batch) -> None:
        strike = self._watcher.passes(self.config, batch)
        if strike is not None:
            self._held[batch.answer] = strike

    def _answers(self, number: Any) -> None:
        strike = self._held.pop(number, None) if self._held else None
        if strike is not None:
            self._watcher.strike(strike)


class OvsdbPassage(Passage):
    """To the store, or of a compute's database."""

    def __init__(self, config: WireConfig, watcher: Watcher, rows: Rows) -> None:
        super().__init__(config, watcher)
        self._rows, self._down, self._up = rows, JsonStream(), JsonStream()

    async def asked(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """See `Passage`."""
        name = points.of_store if self.config.wire == "store" else points.of_compute
        for value, whole in self._down.feed(data):
            if value.get("method"):
                await self._rows.open()
                await self._rows.know(value)
                self._comes(name(value, self._rows.find))
            writer.write(whole)

    def answered(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """See `Passage`."""
        for value, whole in self._up.feed(data):
            if not value.get("method"):
                self._answers(_hashable(value.get("id")))
            if not self._held:
                writer.write(whole)


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


class OpenFlowPassage(Passage):
    """Of a compute's switch."""

    def __init__(self, config: WireConfig, watcher: Watcher) -> None:
        super().__init__(config, watcher)
        self._down, self._up = FrameBuffer(), FrameBuffer()
        self._batches = points.FlowBatches()
        self._waiting: list[Frame] = []

    async def asked(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """See `Passage`."""
        for frame in self._down.feed(data):
            self._waiting.append(frame)
            batch = self._batches.take(frame)
            if batch is None:
                continue
            self._comes(batch)
            waiting, self._waiting = self._waiting, []
            writer.write(_bytes(waiting))

    def answered(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """See `Passage`."""
        for frame in self._up.feed(data):
            if frame.type in (m.BARRIER_REPLY, m.ROLE_REPLY):
                self._answers(frame.xid)
            if not self._held:
                writer.write(_bytes([frame]))


def _bytes(frames: Iterable[Frame]) -> bytes:
    return b"".join(message(f.version, f.type, f.xid, f.body) for f in frames)


async def _drained(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.drain()


class Wires:
    """All listeners."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._watcher = Watcher(config)
        self._rows = {w.database: Rows(w.database, _database(w)) for w in config.wires if w.database}

    async def run(self) -> None:
        """For as long as the process lives."""
        for wire in self._config.wires:
            await asyncio.start_unix_server(self._accepting(wire), wire.listen.removeprefix("unix:"), limit=1 << 24)
        self._watcher.ready()
        await asyncio.Event().wait()

    def _accepting(self, wire: WireConfig) -> Any:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far = await connect(wire.to)
            except OSError:
                writer.close()
                return
            near = reader, writer
            controller, peer = (near, far) if wire.wire == "store" else (far, near)
            await self._passage(wire).run(controller, peer)

        return accept

    def _passage(self, wire: WireConfig) -> Passage:
        if wire.wire == "openflow":
            return OpenFlowPassage(wire, self._watcher)
        return OvsdbPassage(wire, self._watcher, self._rows[wire.database])


def _database(wire: WireConfig) -> str:
    return records.DATABASE if wire.wire == "store" else vswitch.DATABASE


def main() -> None:
    """The process."""
    die_with_parent()
    asyncio.run(Wires(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config)).run())


if __name__ == "__main__":
    main()
