"""The process behind `probes`: one UDP socket in each VM's namespace, one loop that sends and counts.

Its own process, so that the test's work does not delay it. It is told what to do by JSON lines on its
standard input and answers each with one line; when the input ends, so does it. So it can't outlive a
caller that was killed.

A probe is numbered per ordered pair of VMs, and carries the phase in which it was sent; what is counted
for a phase is what was *sent* in it, whenever it arrives.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .namespace import inside

# Two probers may look at the same VM: each has a port of its own, or the second would take the first one's probes.
PORTS = range(20_000, 30_000)
_PROBE = struct.Struct("!4sIIIH")  # mark, run, pair, sequence, phase
_MARK = b"ebb!"
# A loop that was kept from running catches up, but never by more than this many frames at once, with
# this pause after each: a burst would overflow a queue, and count as the network's loss.
_BURST = 16
_PAUSE = 0.0005
# What is further behind than this is not sent at all.
_GIVE_UP = 0.5
_QUIET = 0.2
_LONGEST_WAIT = 3.0
_BUFFER = 1 << 20
_SO_RCVBUFFORCE = 33


class Pair:
    """One ordered pair. `seen[n]` is how often probe n has arrived; `begins` is the first number of each phase."""

    __slots__ = ("begins", "destination", "gaps", "highest", "last_arrival", "reordered", "seen", "source")

    def __init__(self, source: int, destination: int) -> None:
        self.source = source
        self.destination = destination
        self.seen = bytearray()
        self.begins = [0]
        self.highest = -1
        self.reordered = [0]
        self.gaps = [0.0]
        self.last_arrival = 0.0

    def next_phase(self) -> None:
        self.begins.append(len(self.seen))
        self.reordered.append(0)
        self.gaps.append(0.0)

    def arrived(self, sequence: int, phase: int, now: float) -> None:
        if self.seen[sequence] < 255:
            self.seen[sequence] += 1
        if self.seen[sequence] > 1:
            return
        if sequence < self.highest:
            self.reordered[phase] += 1
        else:
            self.highest = sequence
        if now - self.last_arrival > self.gaps[phase]:
            self.gaps[phase] = now - self.last_arrival
        self.last_arrival = now

    def counts(self) -> list[dict[str, Any]]:
        """By phase."""
        ends = [*self.begins[1:], len(self.seen)]
        counted = []
        for phase, (begin, end) in enumerate(zip(self.begins, ends, strict=True)):
            part = self.seen[begin:end]
            received = len(part) - part.count(0)
            counted.append(
                {
                    "sent": len(part),
                    "received": received,
                    "duplicated": sum(part) - received,
                    "reordered": self.reordered[phase],
                    "longest_gap_ms": round(self.gaps[phase] * 1000, 2),
                }
            )
        return counted


class Prober:
    """The loop. `ends` are (namespace, address), `pairs` are indices into them, `rate` is per pair and second."""

    def __init__(self, ends: Sequence[tuple[str, str]], pairs: Sequence[tuple[int, int]], rate: float) -> None:
        self.run = int.from_bytes(os.urandom(4), "big")
        port = PORTS[self.run % len(PORTS)]
        self.addresses = [(address, port) for _, address in ends]
        self.sockets = [_socket_in(namespace, address, port) for namespace, address in ends]
        self.owner = {made.fileno(): number for number, made in enumerate(self.sockets)}
        self.pairs = [Pair(source, destination) for source, destination in pairs]
        self.period = 1.0 / (rate * len(pairs))
        self.phases = ["start"]
        self.turn = 0
        self.strays = 0
        self.send_errors = 0
        self.worst_delay = 0.0
        self.skipped = 0
        self.began = self.due = time.monotonic()
        self.marks = [self.began]
        for pair in self.pairs:
            pair.last_arrival = self.began
        self.poll = select.epoll()
        for made in self.sockets:
            self.poll.register(made, select.EPOLLIN)
        self.poll.register(0, select.EPOLLIN)
        self.input = b""

    def mark_phase(self, name: str) -> None:
        self.phases.append(name)
        self.marks.append(time.monotonic())
        for pair in self.pairs:
            pair.next_phase()

    def flowing(self) -> bool:
        """Every pair has been heard in this phase."""
        return all(pair.highest >= pair.begins[-1] for pair in self.pairs)

    def work(self) -> bool:
        """Send until told otherwise. False: the input has ended."""
        while True:
            now = time.monotonic()
            late = now - self.due
            if late > self.worst_delay:
                self.worst_delay = late
            if late > _GIVE_UP:
                missed = int((late - _GIVE_UP) / self.period)
                self.skipped += missed
                self.due += missed * self.period
            burst = 0
            while self.due <= now and burst < _BURST:
                self._send()
                self.due += self.period
                burst += 1
            wait = _PAUSE if burst == _BURST else max(0.0, self.due - time.monotonic())
            for line in self._hear(wait):
                if line is None:
                    return False
                command, _, argument = line.partition(" ")
                if command == "phase":
                    self.mark_phase(argument)
                    answer(len(self.phases) - 1)
                elif command == "flowing":
                    answer(self.flowing())
                elif command == "stop":
                    self.drain()
                    answer(self.report())
                    return True

    def _send(self) -> None:
        pair = self.pairs[self.turn]
        probe = _PROBE.pack(_MARK, self.run, self.turn, len(pair.seen), len(self.phases) - 1)
        pair.seen.append(0)
        try:
            self.sockets[pair.source].sendto(probe, self.addresses[pair.destination])
        except OSError:
            self.send_errors += 1  # it counts as sent, and so as lost: a tenant would have noticed
        self.turn = (self.turn + 1) % len(self.pairs)

    def _hear(self, wait: float) -> list[str | None]:
        """Take in what has come. The lines of our input among it; None for its end."""
        lines: list[str | None] = []
        for descriptor, _ in self.poll.poll(wait):
            if descriptor != 0:
                self._receive(self.owner[descriptor])
                continue
            piece = os.read(0, 65536)
            *whole, self.input = (self.input + piece).split(b"\n")
            lines += [line.decode() for line in whole]
            if not piece:
                lines.append(None)
        return lines

    def _receive(self, end: int) -> None:
        receiver = self.sockets[end]
        while True:
            try:
                probe = receiver.recv(2048)
            except OSError:  # nothing more, or word of an earlier probe that was refused
                return
            if len(probe) != _PROBE.size:
                self.strays += 1
                continue
            mark, run, number, sequence, phase = _PROBE.unpack(probe)
            if mark != _MARK or run != self.run or self.pairs[number].destination != end:
                self.strays += 1
                continue
            self.pairs[number].arrived(sequence, phase, time.monotonic())

    def drain(self) -> None:
        """No more is sent. Wait for what is on its way: until all are here, or it has been quiet for a while."""
        now = time.monotonic()
        limit, quiet_at, missing = now + _LONGEST_WAIT, now + _QUIET, self._missing()
        stopped = now
        self.marks.append(stopped)
        while missing and now < min(limit, quiet_at):
            self._hear(min(limit, quiet_at) - now)
            now = time.monotonic()
            if self._missing() != missing:
                missing, quiet_at = self._missing(), now + _QUIET
        for pair in self.pairs:
            # Cut off at the end: the gap lasts until we stopped looking for more.
            if pair.highest < len(pair.seen) - 1:
                pair.gaps[-1] = max(pair.gaps[-1], stopped - pair.last_arrival)

    def _missing(self) -> int:
        return sum(pair.seen.count(0) for pair in self.pairs)

    def report(self) -> dict[str, Any]:
        return {
            "phases": self.phases,
            "pairs": [pair.counts() for pair in self.pairs],
            "strays": self.strays,
            "send_errors": self.send_errors,
            "skipped": self.skipped,
            "seconds": [round(end - begin, 3) for begin, end in itertools.pairwise(self.marks)],
            "worst_delay_ms": round(self.worst_delay * 1000, 2),
        }


def _socket_in(namespace: str, address: str, port: int) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        made.bind((address, port))
        return made

    return inside(namespace, make)


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(run_directory: Path) -> None:
    pidfile = run_directory / f"prober-{os.getpid()}.pid"
    try:
        pidfile.write_text(f"{os.getpid()}\n")
    except FileNotFoundError:
        return  # the lab was taken down while we started
    try:
        # Read by descriptor, as the loop does: a buffered reader could keep lines from it.
        first = b""
        while not first.endswith(b"\n"):
            piece = os.read(0, 65536)
            if not piece:
                return
            first += piece
        order = json.loads(first)
        prober = Prober(order["ends"], order["pairs"], order["rate"])
        answer("started")
        prober.work()
    finally:
        pidfile.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
