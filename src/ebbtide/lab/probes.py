"""Numbered one-way probes between VMs, counted where they arrive: what a tenant would have noticed.

    with Probes(lab) as probes:
        probes.start(pairs_among(vms), rate=50)
        probes.wait_flowing()               # ARP and tunnels have found each other
        probes.mark_phase("move")
        ...                                 # whatever must not be noticed
        report = probes.stop()
    assert report.lost("move") == 0, report.table()

Nothing is faked for the probes: neighbours are found by ARP as always. Up to some 5,000 probes a second
in all; `worst_delay_ms` of the report says how late the sender itself ever was, so that a gap can be
told from a busy machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any, NamedTuple, Protocol

from ..errors import BadInput, NotReady, Unexpected
from .commands import wait_until
from .lab import Lab
from .worker import Worker


class Endpoint(Protocol):
    """Anything with an address in a namespace; a Vm is one."""

    name: str
    namespace: str
    ip: str


class Host(NamedTuple):
    """An endpoint that is not a VM."""

    name: str
    namespace: str
    ip: str


class Count(NamedTuple):
    """One ordered pair in one phase. The gap is the longest time between two arrivals, in milliseconds."""

    source: str
    destination: str
    phase: str
    sent: int
    received: int
    duplicated: int
    reordered: int
    longest_gap_ms: float

    @property
    def lost(self) -> int:
        return self.sent - self.received


class Report(NamedTuple):
    """All counts, pair by pair and phase by phase. `strays` came to a VM for which they were not meant.

    `seconds` is how long each phase was; `skipped` is how many were due and never sent, because the sender came too late.
    """

    counts: tuple[Count, ...]
    phases: tuple[str, ...]
    strays: int
    send_errors: int
    skipped: int
    worst_delay_ms: float
    seconds: tuple[float, ...] = ()

    def of(self, phase: str | None = None) -> list[Count]:
        if phase is not None and phase not in self.phases:
            raise BadInput(f"no phase {phase!r} was marked; there are {', '.join(self.phases)}")
        return [count for count in self.counts if phase in (None, count.phase)]

    def sent(self, phase: str | None = None) -> int:
        return sum(count.sent for count in self.of(phase))

    def received(self, phase: str | None = None) -> int:
        return sum(count.received for count in self.of(phase))

    def lost(self, phase: str | None = None) -> int:
        return sum(count.lost for count in self.of(phase))

    def duplicated(self, phase: str | None = None) -> int:
        return sum(count.duplicated for count in self.of(phase))

    def reordered(self, phase: str | None = None) -> int:
        return sum(count.reordered for count in self.of(phase))

    def longest_gap_ms(self, phase: str | None = None) -> float:
        return max((count.longest_gap_ms for count in self.of(phase)), default=0.0)

    def failures(self, phase: str | None = None) -> list[str]:
        """Pairs that lost something, or sent nothing and so prove nothing; and strays."""
        told = []
        for count in self.of(phase):
            where = f"{count.source} -> {count.destination} in {count.phase}"
            if count.sent == 0:
                told.append(f"{where}: nothing was sent")
            elif count.lost:
                told.append(f"{where}: {count.lost} of {count.sent} lost, longest gap {count.longest_gap_ms} ms")
        if self.strays:
            told.append(f"{self.strays} probes came to a VM for which they were not meant")
        return told

    def too_few(self, rate: float) -> list[str]:
        """Pairs that were sent fewer than `rate` a second, over all phases, and what was due and never sent.

        Over all: a sender that is late for a moment makes up for it, be it in the next phase.
        """
        whole = sum(self.seconds)
        sent: dict[tuple[str, str], int] = {}
        for count in self.counts:
            pair = count.source, count.destination
            sent[pair] = sent.get(pair, 0) + count.sent
        told = [f"{a} -> {b}: {n} sent in {whole:.1f} s" for (a, b), n in sent.items() if n < rate * whole]
        return told + ([f"{self.skipped} probes were due and never sent"] if self.skipped else [])

    def table(self, phase: str | None = None) -> str:
        head = ("from", "to", "phase", "sent", "received", "lost", "dup", "reord", "gap ms")
        rows = [
            (c.source, c.destination, c.phase, c.sent, c.received, c.lost, c.duplicated, c.reordered, c.longest_gap_ms)
            for c in self.of(phase)
        ]
        lines = [[str(cell) for cell in row] for row in (head, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in lines)
        return f"{text}\nstrays {self.strays}, sender late by at most {self.worst_delay_ms} ms, skipped {self.skipped}"


def pairs_among(ends: Iterable[Endpoint]) -> list[tuple[Endpoint, Endpoint]]:
    """Every ordered pair."""
    return list(permutations(ends, 2))


class Probes:
    """A prober process. Leaving the `with` block ends it, report or not."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._worker: Worker | None = None
        self._pairs: list[tuple[str, str]] = []

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, pairs: Sequence[tuple[Endpoint, Endpoint]], rate: float = 50.0) -> None:
        """Begin to send, `rate` a second for each pair, in the phase "start"."""
        if self._worker is not None:
            raise Unexpected("these probes run already")
        if not pairs or rate <= 0:
            raise BadInput("probes need at least one pair, and a rate above 0")
        ends: dict[str, Endpoint] = {end.namespace: end for pair in pairs for end in pair}
        numbers = {namespace: number for number, namespace in enumerate(ends)}
        self._pairs = [(source.name, destination.name) for source, destination in pairs]
        order = {
            "ends": [(end.namespace, end.ip) for end in ends.values()],
            "pairs": [(numbers[source.namespace], numbers[destination.namespace]) for source, destination in pairs],
            "rate": rate,
        }
        # The argument under the lab's directory is by what `down` knows it as ours.
        command = [sys.executable, "-m", "ebbtide.lab.prober", str(self._lab.site.run_directory)]
        self._worker = Worker("the prober", command)
        self._ask(json.dumps(order))

    def mark_phase(self, name: str) -> None:
        """When this returns, everything sent counts for phase `name`."""
        if "\n" in name:
            raise BadInput("a phase's name is one line")
        self._ask(f"phase {name}")

    def wait_flowing(self, deadline: float = 15.0) -> None:
        """Until each pair has been heard in this phase."""
        wait_until(lambda: bool(self._ask("flowing")), "probes of every pair to arrive", deadline, every=0.05)

    def stop(self) -> Report:
        """Send no more, wait for what is on its way (at most 3 s), and count."""
        told: dict[str, Any] = self._ask("stop")
        self.close()
        phases = told["phases"]
        counts = [
            Count(source, destination, phase, **numbers)
            for (source, destination), by_phase in zip(self._pairs, told["pairs"], strict=True)
            for phase, numbers in zip(phases, by_phase, strict=True)
        ]
        rest = {key: told[key] for key in ("strays", "send_errors", "skipped", "worst_delay_ms")}
        return Report(tuple(counts), tuple(phases), **rest, seconds=tuple(told["seconds"]))

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _ask(self, line: str) -> Any:
        if self._worker is None:
            raise NotReady("the probes do not run: start them first")
        return json.loads(self._worker.ask(line.encode()))
