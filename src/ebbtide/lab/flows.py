"""Long-lived and other traffic between VMs and a host outside, measured: what a move of a NAT gateway must not disturb.

    with Traffic(lab, outside="out", vms=["vm1", "vm2"]) as traffic:
        traffic.wait_flowing()
        traffic.reset()                 # what is counted is counted from here on
        ...                             # whatever must not be noticed
        traffic.speak()                 # the silent connections say something
        report = traffic.report()
    assert report.failures() == [], report.table()
    assert report.addresses("active") == {"203.0.113.7"}

What each VM does is its `Load`: all kinds unless told otherwise, one of them by `Load.only(active=20)`. `Inbound` is what
the host sends to an address by which a VM can be reached. The source ports of long-lived flows are the same in every VM.

For half-open connections the host's process answers for one more address on the host's network, `late_host`: the last one
unless told otherwise. Nobody else may have it.

One process a VM and one for the host, inside their namespaces. Two Traffics at once need VMs and hosts of their own.
"""

from __future__ import annotations

import ipaddress
import os
import sys
import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from ..errors import BadInput, NotFound, NotReady
from . import namespace
from .commands import wait_until
from .flow_report import GuestReport, HostReport, Report, completed
from .flow_wire import ANSWER_LIMIT, HALF_OPEN_LIMIT, MOST_FLOWS, GuestOrder, HostOrder, Inbound, Load
from .lab import Lab
from .probes import Endpoint
from .worker import Worker

__all__ = ["Inbound", "Load", "Report", "Traffic"]

T = TypeVar("T")

# What is asked last may be a half-open connection; a busy machine takes its time to notice.
_SETTLE = HALF_OPEN_LIMIT + ANSWER_LIMIT
_MOST_VMS = 200


class Traffic:
    """Runs from the beginning of the `with` block to its end."""

    def __init__(
        self,
        lab: Lab,
        outside: str,
        vms: Sequence[str | Endpoint],
        load: Load | None = None,
        inbound: Sequence[Inbound] = (),
        late_host: str | None = None,
    ) -> None:
        self._lab = lab
        self._outside = outside
        self._vms: list[Endpoint] = [lab.vm(vm) if isinstance(vm, str) else vm for vm in vms]
        self._load = load or Load()
        self._inbound = tuple(inbound)
        self._late_host = late_host
        self._host: Worker | None = None
        self._guests: list[Worker] = []
        self._counted_from = 0.0
        if len(self._vms) > _MOST_VMS or max(self._load.active, self._load.silent, self._load.udp_slow) > MOST_FLOWS:
            raise BadInput(f"traffic takes at most {_MOST_VMS} VMs, and {MOST_FLOWS} flows of a kind in each")

    def __enter__(self) -> Traffic:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Returns when every process runs; `wait_flowing` waits for what they do."""
        host_order = self._host_order()
        run = host_order.run
        self._host = self._worker("flow_host", self._outside, self._lab.site.host_namespace(self._outside))
        for vm in self._vms:
            self._guests.append(self._worker("flow_guest", vm.name, vm.namespace))
        self._host.ask(msgspec.json.encode(host_order))
        for number, (vm, guest) in enumerate(zip(self._vms, self._guests, strict=True)):
            order = GuestOrder(run, number, vm.name, host_order.address, host_order.late_host, self._load)
            guest.tell(msgspec.json.encode(order))
        for guest in self._guests:
            guest.hear()
        self._ask(self._host, "begin", bool)
        self._counted_from = time.monotonic()

    def wait_flowing(self, deadline: float = 20.0) -> None:
        """Until everything of the load has been answered at least once: since the reset, silent and slow flows since the start."""
        missing: list[str] = []

        def flowing() -> bool:
            missing[:] = self.missing()
            return not missing

        try:
            wait_until(flowing, "traffic", deadline, every=0.05)
        except NotReady:
            some = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            told = "; ".join(self.glance().told)
            raise NotReady(f"waited {deadline:g} s in vain for {some}; what happened: {told or 'nothing'}") from None

    def missing(self) -> list[str]:
        """What of the load has not been answered yet, a line each: since the reset, silent and slow flows since the start."""
        return [line for lines in self._ask_all("missing", list[str]) for line in lines]

    def speak(self) -> int:
        """Let the silent connections exchange one message, half of them from here, half from there. How many are asked.

        `report` waits for the answers.
        """
        return sum(self._ask_all("speak", int))

    def forget(self) -> int:
        """The host loses its long-lived connections without a word: what a test of the counting needs. How many."""
        return self._ask(self._host, "forget", int)

    def reset(self) -> None:
        """Count from now on. Connections stay, and so does what was `established`, `broken`, `seen` and `told`."""
        self._counted_from = time.monotonic()
        self._ask_all("reset", bool)

    def report(self) -> Report:
        """The counts so far, when everything sent until now has been answered or given up. Traffic goes on meanwhile."""
        question = f"settled {time.monotonic()!r}"
        wait_until(lambda: all(self._ask_all(question, bool)), "traffic to be answered or given up", _SETTLE)
        return self.glance()

    def glance(self) -> Report:
        """The counts of this moment. What is on its way counts as neither lost nor answered, but its waiting is seen."""
        guests = [self._ask(guest, "report", GuestReport) for guest in self._guests]
        host = self._ask(self._host, "report", HostReport)
        counts = {
            vm.name: completed(guest.counts, at_host)
            for vm, guest, at_host in zip(self._vms, guests, host.vms, strict=True)
        }
        return Report(
            load=self._load,
            seconds=round(time.monotonic() - self._counted_from, 3),
            vms=counts,
            inbound=host.inbound,
            seen=host.seen,
            two_ports=host.two_ports,
            repeated_syns=host.repeated_syns,
            strays=host.strays,
            late_ms=max([host.late_ms, *(guest.late_ms for guest in guests)]),
            told=host.told + tuple(line for guest in guests for line in guest.told),
        )

    def close(self) -> None:
        """End it all. Twice is fine."""
        # VMs first: their connections end by a reset, and leave nothing waiting on either side.
        workers, self._guests, self._host = [*self._guests, *filter(None, [self._host])], [], None
        for worker in workers:
            worker.close()

    # ---- how it is done -----------------------------------------------------------------------

    def _host_order(self) -> HostOrder:
        hosts = self._lab.site.read().hosts
        if self._outside not in hosts:
            raise NotFound(f"lab {self._lab.name} has no host {self._outside}: make it with `add_host`")
        interface = ipaddress.IPv4Interface(hosts[self._outside])
        late_host = self._late_host or str(interface.network[-2])
        if late_host == str(interface.ip):
            raise BadInput(f"{late_host} is the host's own address: half-open connections need another, `late_host`")
        return HostOrder(
            run=int.from_bytes(os.urandom(4), "big"),
            address=str(interface.ip),
            device="eth0",
            late_host=late_host,
            late_mac=self._lab.site.mac(5, list(hosts).index(self._outside)),
            vms=tuple(vm.name for vm in self._vms),
            load=self._load,
            inbound=self._inbound,
        )

    def _worker(self, module: str, name: str, where: str) -> Worker:
        # In a namespace of the lab's, and with an argument under its directory: by either `down` knows it as ours.
        command = [sys.executable, "-m", f"ebbtide.lab.{module}", str(self._lab.site.run_directory)]
        return Worker(f"the traffic of {name}", namespace.command_in(where, command))

    def _ask_all(self, question: str, kind: type[T]) -> list[T]:
        """Of everybody at once."""
        workers = [self._running(self._host), *self._guests]
        for worker in workers:
            worker.tell(question.encode())
        return [msgspec.json.decode(worker.hear(), type=kind) for worker in workers]

    def _ask(self, worker: Worker | None, question: str, kind: type[T]) -> T:
        return msgspec.json.decode(self._running(worker).ask(question.encode()), type=kind)

    def _running(self, worker: Worker | None) -> Worker:
        if worker is None:
            raise NotReady("the traffic does not run: start it first")
        return worker
