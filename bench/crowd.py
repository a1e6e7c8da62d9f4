"""Many connections from a VM to many end points outside, real sockets of the kernel's; and datagrams that open one each.

    with Crowd(lab, "out", "vm1-1", members=4) as crowd:
        crowd.open(50_000, rate=4000)
        ...
        alive = crowd.check()           # each says a word and must hear it again

No process may have more than some thousand sockets, so there are `members` pairs of processes: one in the VM, one on the host. Member M's
end points are ENDPOINTS ports from FIRST_PORT + M * ENDPOINTS on. A line is a JSON list of a word and its arguments, the answer is JSON.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ebbtide.lab import Lab, namespace
from ebbtide.lab.worker import Worker

from .gateways import HOST

FIRST_PORT, ENDPOINTS = 30_000, 50
#: Of one process, well below what it may have open.
MOST = 15_000
_BATCH = 0.002
_PATIENCE = 10.0


class Opened(msgspec.Struct, frozen=True):
    """Of `asked` connections, how many came about, and in how many seconds all were tried."""

    asked: int
    made: int
    seconds: float


class Crowd:
    """A handle on all of them."""

    def __init__(self, lab: Lab, outside: str, vm: str, members: int) -> None:
        here = str(lab.site.run_directory)
        self._hosts: list[Worker] = []
        self._guests: list[Worker] = []
        for member in range(members):
            for name, side, workers in ((outside, "host", self._hosts), (vm, "guest", self._guests)):
                command = [sys.executable, "-m", "bench.crowd", side, str(member), here]
                where = namespace.command_in(lab.namespace_of(name), command)
                workers.append(Worker(f"crowd {member} of {name}", where))
        for worker in (*self._hosts, *self._guests):
            worker.hear()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._guests, *self._hosts):
            worker.close()

    def open(self, number: int, rate: float) -> Opened:
        """So many connections, at that rate, kept open."""
        return self._shared("open", number, rate)

    def churn(self, seconds: float, rate: float) -> Opened:
        """Connections that are closed as soon as they are made, for some seconds."""
        return self._shared("churn", round(seconds * rate), rate)

    def scatter(self, seconds: float, rate: float) -> Opened:
        """Datagrams, each from and to ports of its own: each a connection for conntrack. `made` are those that were sent."""
        return self._shared("scatter", round(seconds * rate), rate)

    def check(self) -> int:
        """How many of the open connections say a word and hear it again."""
        return sum(msgspec.json.decode(answer, type=int) for answer in self._ask_all(["check"]))

    def _shared(self, word: str, number: int, rate: float) -> Opened:
        share = -(-number // len(self._guests))
        answers = [msgspec.json.decode(a, type=Opened) for a in self._ask_all([word, share, rate / len(self._guests)])]
        return Opened(sum(a.asked for a in answers), sum(a.made for a in answers), max(a.seconds for a in answers))

    def _ask_all(self, question: list[Any]) -> list[bytes]:
        for guest in self._guests:
            guest.tell(msgspec.json.encode(question))
        return [guest.hear(300) for guest in self._guests]


# ---- the processes ---------------------------------------------------------------------------------


def _paced(number: int, rate: float) -> Iterator[int]:
    """How many are due now, until all were; sleeps in between."""
    begun, done = time.monotonic(), 0
    while done < number:
        due = min(number, int((time.monotonic() - begun) * rate) + 1)
        if due > done:
            yield due - done
            done = due
        time.sleep(_BATCH)


class Guest:
    """The side of the VM."""

    def __init__(self, member: int) -> None:
        self._ports = range(FIRST_PORT + member * ENDPOINTS, FIRST_PORT + (member + 1) * ENDPOINTS)
        self._member = member
        self._open: dict[int, socket.socket] = {}
        # Somewhere, so that nobody's datagrams are those of the one before.
        self._next = int.from_bytes(os.urandom(3), "big")

    def open(self, number: int, rate: float) -> Opened:
        """Those that failed are not tried again."""
        begun = time.monotonic()
        waiting: dict[int, socket.socket] = {}
        with select.epoll() as poll:
            for due in _paced(number, rate):
                for _ in range(due):
                    self._connect(poll, waiting)
                self._made(poll, waiting, self._open, 0)
            end = time.monotonic() + _PATIENCE
            while waiting and time.monotonic() < end:
                self._made(poll, waiting, self._open, 0.1)
        for one in waiting.values():
            one.close()
        return Opened(number, number - len(waiting), time.monotonic() - begun)

    def churn(self, number: int, rate: float) -> Opened:
        """As `open`, and closed in good order."""
        begun, made = time.monotonic(), 0
        waiting: dict[int, socket.socket] = {}
        with select.epoll() as poll:

            def close(patience: float) -> int:
                found: dict[int, socket.socket] = {}
                self._made(poll, waiting, found, patience)
                for one in found.values():
                    one.close()
                return len(found)

            for due in _paced(number, rate):
                for _ in range(due):
                    self._connect(poll, waiting)
                made += close(0)
            seconds, end = time.monotonic() - begun, time.monotonic() + _PATIENCE
            while waiting and time.monotonic() < end:
                made += close(0.1)
        for one in waiting.values():
            one.close()
        return Opened(number, made, seconds)

    def _connect(self, poll: select.epoll, waiting: dict[int, socket.socket]) -> None:
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setblocking(False)
        self._next += 1
        one.connect_ex((HOST, self._ports[self._next % len(self._ports)]))
        waiting[one.fileno()] = one
        poll.register(one, select.EPOLLOUT)

    @staticmethod
    def _made(
        poll: select.epoll, waiting: dict[int, socket.socket], made: dict[int, socket.socket], patience: float
    ) -> None:
        """Move those that are connected; one that was refused or reset ends as never made."""
        for number, event in poll.poll(patience, 4096):
            poll.unregister(number)
            if not event & (select.EPOLLERR | select.EPOLLHUP):
                made[number] = waiting.pop(number)

    def check(self) -> int:
        """Paced, so that no queue on the way overflows."""
        alive, asked = 0, list(self._open.values())
        with select.epoll() as poll:

            def hear(patience: float) -> int:
                heard = 0
                for number, _ in poll.poll(patience, 4096):
                    poll.unregister(number)
                    try:
                        heard += self._open[number].recv(16) == b"word"
                    except OSError:
                        pass  # reset: it is not alive
                return heard

            for due in _paced(len(asked), 1000):
                for _ in range(due):
                    one = asked.pop()
                    try:
                        one.send(b"word")
                    except OSError:
                        continue  # neither is this
                    poll.register(one, select.EPOLLIN)
                alive += hear(0)
            end = time.monotonic() + _PATIENCE
            while alive < len(self._open) and time.monotonic() < end:
                alive += hear(0.1)
        return alive

    def scatter(self, number: int, rate: float) -> Opened:
        """By a raw socket: no port is bound. Of each destination port only a few sources: no range of external ports runs out."""
        begun, sent = time.monotonic(), 0
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            raw.connect((HOST, 0))
            for due in _paced(number, rate):
                for _ in range(due):
                    self._next += 1
                    source = 1024 + self._member * 8000 + self._next // 20_000 % 8000
                    target = 40_000 + self._next % 20_000
                    try:
                        raw.send(struct.pack("!HHHH4s", source, target, 12, 0, b"word"))
                        sent += 1
                    except OSError:
                        pass  # the queue of the VM's own card: not sent
        return Opened(number, sent, time.monotonic() - begun)


class Host:
    """The side outside: takes every connection, says what it hears, and closes when the other does."""

    def __init__(self, member: int) -> None:
        self._poll = select.epoll()
        self._listening: dict[int, socket.socket] = {}
        self._open: dict[int, socket.socket] = {}
        for port in range(FIRST_PORT + member * ENDPOINTS, FIRST_PORT + (member + 1) * ENDPOINTS):
            one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((HOST, port))
            one.listen(4096)
            self._listening[one.fileno()] = one
            self._poll.register(one, select.EPOLLIN)

    def run(self) -> None:
        """Until standard input ends."""
        self._poll.register(0, select.EPOLLIN)
        while True:
            for number, _ in self._poll.poll(-1, 4096):
                if number == 0:
                    if not os.read(0, 4096):
                        return
                elif number in self._listening:
                    self._accept(self._listening[number])
                else:
                    self._answer(number)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                one, _ = listening.accept()
            except OSError:
                return  # nobody more
            one.setblocking(False)
            self._open[one.fileno()] = one
            self._poll.register(one, select.EPOLLIN)

    def _answer(self, number: int) -> None:
        one = self._open[number]
        try:
            if data := one.recv(64):
                one.send(data)
                return
        except OSError:
            pass  # reset, which is an end as well
        self._poll.unregister(number)
        del self._open[number]
        one.close()


def main() -> None:
    """One process of a crowd; its last argument names the lab's directory, by which `down` knows it."""
    side, member = sys.argv[1], int(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if side == "host":
        host = Host(member)
        print("true", flush=True)
        host.run()
        return
    guest = Guest(member)
    words: dict[str, Callable[..., object]] = {
        "open": guest.open,
        "churn": guest.churn,
        "check": guest.check,
        "scatter": guest.scatter,
    }
    print("true", flush=True)
    for line in sys.stdin:
        word, *arguments = msgspec.json.decode(line)
        print(msgspec.json.encode(words[word](*arguments)).decode(), flush=True)


if __name__ == "__main__":
    main()
