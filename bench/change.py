"""What one change costs as the cluster grows: CPU time of the controller, from the call to the bytes for every switch and the store's
answer.

Measured is the CPU time of everything that the controller does: the decision, the transaction and its echo, State, compiling,
comparing and encoding for every compute concerned, the steps of their members and the rows that these look at; and the CPU time of
the store's ovsdb-server, a real one. Not measured is what switches spend: the computes are simulated (simulated.py).
Sizes are compared change by change, each size in a process of its own, in turns: the machine is the same for all of them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import structlog

from ebbtide.model.facts import format_mac
from ebbtide.model.state import State

from . import clouds
from .rows import Options, Row, median, say, spread
from .simulated import Simulation, fill, until

ADDED, MOVED, STARTED, EMPTIED, ENDED, SCALED_IN = "added", "moved", "start", "emptied", "end", "scaled in"
WHAT = {
    ADDED: "one port added (made, plugged, bound)",
    MOVED: "one port moved (the flip)",
    SCALED_IN: "one compute scaled in (start, 50 ports gone, end)",
    STARTED: "scale-in start alone",
    EMPTIED: "50 ports of a compute unplugged at once",
    ENDED: "scale-in end alone",
}


class Meter:
    """CPU time of single changes, in milliseconds, by kind."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.taken: dict[str, list[float]] = {}

    async def __call__(self, kind: str, change: Callable[[], Awaitable[object]], done: Callable[[], bool]) -> None:
        simulation = self._simulation
        aside, server, begun = simulation.aside, simulation.server_cpu(), time.process_time()
        await change()
        # A question costs some ten microseconds; the work goes on between two of them.
        await until(done, every=0.003)
        spent = time.process_time() - begun - (simulation.aside - aside) + simulation.server_cpu() - server
        self.taken.setdefault(kind, []).append(spent * 1000)


class Site:
    """Changes in a simulated cloud."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.meter = Meter(simulation)
        self._next = 1_000_000

    @property
    def _state(self) -> State:
        return self.simulation.state

    def _quiet(self, network: str) -> Callable[[], bool]:
        """Whether everybody whom a network concerns has nothing left to do."""
        cluster = self.simulation.cluster

        def holds() -> bool:
            return not cluster.places.queued and all(cluster.members[n].clean for n in self._state.footprint(network))

        return holds

    async def add_port(self, host: str) -> str:
        """A port of a network that is on the host already; it is made, plugged and bound."""
        simulation, state = self.simulation, self._state
        compute = simulation.computes[host]
        network = next(iter(state.networks_on[compute.number]))
        self._next += 1
        port, mac, address = f"p{self._next}", format_mac(0x02_0000_000000 + self._next), clouds.address(self._next)
        quiet = self._quiet(network)

        async def change() -> None:
            await simulation.service.add_port(port, network, mac, [address])
            compute.plug(port)

        await self.meter(ADDED, change, lambda: self._state.active(port) is not None and quiet())
        return port

    async def move_port(self, port: str, target: str) -> None:
        """It is plugged at the target, and pending there; measured is the flip: evidence, one transaction, everybody's flows."""
        simulation = self.simulation
        active = self._state.active(port)
        assert active is not None
        source = simulation.computes[self._state.computes[active.compute].name]
        destination = simulation.computes[target]
        quiet = self._quiet(self._state.ports[port].network)
        destination.plug(port)
        await until(lambda: len(self._state.bindings[port]) == 2 and quiet())

        async def change() -> None:
            simulation.evidence(destination, port)

        def flipped() -> bool:
            now = self._state.active(port)
            return now is not None and now.compute == destination.number and quiet()

        await self.meter(MOVED, change, flipped)
        source.unplug(port)
        await until(lambda: len(self._state.bindings[port]) == 1 and quiet())

    async def scale_in(self, host: str) -> None:
        """start; all of its ports unplugged at once; end. Unmeasured: the compute is readmitted and everything put back."""
        simulation = self.simulation
        compute, service = simulation.computes[host], simulation.service
        number = compute.number
        ports = list(self._state.ports_on[number])
        peers = self._state.peers(number)
        members = [simulation.cluster.members[n] for n in {*peers, number}]

        def quiet() -> bool:
            return not simulation.cluster.places.queued and all(m.clean for m in members)

        async def start() -> None:
            await service.start([host])

        async def empty() -> None:
            compute.unplug(*ports)

        async def end() -> None:
            await service.begin_end([host])

        await self.meter(STARTED, start, quiet)
        await self.meter(EMPTIED, empty, lambda: number not in self._state.ports_on and quiet())
        await self.meter(ENDED, end, lambda: number in self._state.removed and quiet())
        await compute.disconnect()
        await service.readmit(host)
        simulation.computes.pop(host)
        back = await simulation.add(host, int(host[1:]))
        back.plug(*ports)
        number = back.number

        def put_back() -> bool:
            members = [simulation.cluster.members[n] for n in {*self._state.peers(number), number}]
            here = self._state.ports_on.get(number, ())
            return len(here) == len(ports) and not simulation.cluster.places.queued and all(m.clean for m in members)

        await until(put_back)


class Child:
    """A controller with a cloud of one size, in a process of its own, that makes a change when it is told to."""

    def __init__(self, computes: int, at_random: bool) -> None:
        self.computes = computes
        self.taken: dict[str, list[float]] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.change", str(computes), "random" if at_random else "blocks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def ask(self, what: str) -> None:
        """One change, once the cloud is there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process with {self.computes} computes ended in the middle of {what!r}")
        for kind, value in json.loads(answer).items():
            self.taken.setdefault(kind, []).append(value)


async def _serve(computes: int, at_random: bool) -> None:
    """The child's side: a line in, a line out."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as folder:
        await fill(Path(folder), clouds.cloud(computes, at_random=at_random, tunnels=not at_random))
        async with Simulation(Path(folder)) as simulation:
            # The audit at the end of an end reads every compute: that is its purpose, and not part of the change.
            simulation.service._drive = lambda operation_id: None  # type: ignore[method-assign]
            await simulation.connect_all()
            gc.collect()
            site, hosts = Site(simulation), _hosts(computes)
            added: list[str] = []
            loop = asyncio.get_running_loop()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                site.meter.taken = {}
                match line.strip():
                    case "add":
                        added.append(await site.add_port(next(hosts)))
                    case "move":
                        port = added.pop(0)
                        await site.move_port(port, _neighbour(simulation.state, port))
                    case "in":
                        await site.scale_in(next(hosts))
                print(json.dumps({kind: values[0] for kind, values in site.meter.taken.items()}), flush=True)


def _hosts(computes: int) -> Iterator[str]:
    """Some computes, evenly spread."""
    number = 0
    while True:
        yield f"c{number % computes + 1}"
        number += 7


def _neighbour(state: State, port: str) -> str:
    active = state.active(port)
    assert active is not None
    others = [n for n in sorted(state.footprint(state.ports[port].network)) if n != active.compute]
    return state.computes[others[active.compute % len(others)]].name


def measure(
    sizes: Sequence[int], changes: int, removals: int, *, at_random: bool = False
) -> list[dict[str, list[float]]]:
    """Milliseconds of CPU time by kind of change, for each size."""
    children = [Child(size, at_random) for size in sizes]
    try:
        for what, times in (("add", changes), ("move", changes), ("in", removals)):
            for _ in range(times):
                for child in children:
                    child.ask(what)
            say(f"change cost{', random placement' if at_random else ''}: {what!r} measured {times} times")
    finally:
        for child in children:
            child.__exit__()
    for child in children:
        parts = (child.taken.get(kind, []) for kind in (STARTED, EMPTIED, ENDED))
        child.taken[SCALED_IN] = [sum(each) for each in zip(*parts, strict=True)]
    return [child.taken for child in children]


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    changes = 10 if options.quick else 30
    sizes = (20, 100, 1000)
    small, *others = measure(sizes, changes, changes)
    where = f"blocks of {clouds.BLOCK} computes, simulated switches"
    for kind, words in WHAT.items():
        for size, taken in zip(sizes[1:], others, strict=True):
            limit = 1.3 if size == 1000 and kind in (ADDED, MOVED, SCALED_IN) else None
            name = f"change: {words}, CPU at {size} computes against 20, {where}"
            yield Row(name, median(taken[kind]), "ms", median(small[kind]), limit, spread(taken[kind], unit=" ms"))
    for kind in (ADDED, MOVED):
        yield Row(f"change: {WHAT[kind]}, CPU at 1000 computes, {where}", median(others[-1][kind]), "ms", None, 5.0)
    small, large = measure((20, 1000), changes, 2 if options.quick else 5, at_random=True)
    for kind in (ADDED, MOVED, SCALED_IN):
        name = f"change: {WHAT[kind]}, CPU at 1000 computes against 20, random placement (95 computes a network), no tunnels"
        yield Row(name, median(large[kind]), "ms", median(small[kind]), None, spread(large[kind], unit=" ms"))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2] == "random"))
