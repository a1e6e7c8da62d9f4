"""Ports that Neutron makes: the controller's own share of the time until each is served.

Ports are told one after the other over Neutron's northbound, as often as Neutron itself makes any, and plugged on one of three computes.
Who looks on are others than the controller: the time from the request to its answer is its client's; what follows begins when the compute's
database shows that the switch has made the interface (`ovsdb-client monitor`), and ends when the event arrives that the port is ACTIVE,
which it is once all three computes have confirmed what they need. What Neutron, Nova and the switch take before that is not in it.

Of that time the controller's own share is what is left when it has been waiting for the switch: between a barrier that it has asked the
port's compute for and the answer, as they are seen on the wire, and only from the last barrier on that it has asked any of the three for. A
switch that has just made an interface takes its time. What the other two computes take is not deducted.

The controller and its store have one core of the machine, all switches and those who look on have the others, as on hosts of their own. How
often a port's compute is asked and waited for has a limit of its own: each time costs a way through the underlay, which is short here.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from ebbtide.lab import Compute
from ebbtide.lab.commands import wait_until
from ebbtide.ovsdb import Transaction, eq, insert_into

from .awaited import Awaited, within
from .clusters import Ours, lab_named
from .ovsdb import Link
from .rows import Options, Row, median, say

COMPUTES, PORTS, QUICK = 3, 500, 100
#: Ports a second; Neutron's API makes about five on such a machine.
RATE = 8.0
#: Of the slowest in a hundred: seconds that are the controller's own share; how often its compute is waited for.
LIMIT, WAYS = 0.020, 2
NAME = "port that Neutron makes"
ROOT = "/controller/nb/v2/neutron"


class Realised:
    """When the database of a compute has shown interfaces to be made: by name, seconds since the epoch."""

    def __init__(self, compute: Compute, file: Path) -> None:
        self._file = file
        command = ["ovsdb-client", "monitor", "--timestamp", "-f", "csv", f"unix:{compute.directory}/db.sock"]
        with file.open("w") as out:
            self._process = subprocess.Popen([*command, "Open_vSwitch", "Interface", "name,ofport"], stdout=out)

    def end(self) -> dict[str, float]:
        """The first time of each."""
        self._process.terminate()
        self._process.wait(10)
        found: dict[str, float] = {}
        at = 0.0
        for line in self._file.read_text().splitlines():
            cells = line.split(",")
            if len(cells) == 1 and line:
                at = datetime.datetime.fromisoformat(line).replace(tzinfo=datetime.UTC).timestamp()
            elif cells[-1].isdecimal():
                found.setdefault(cells[-2], at)
        return found


class Plugs:
    """A connection to the database of a compute that is kept: to start ovs-vsctl for each port takes more than is to be measured."""

    def __init__(self, compute: Compute) -> None:
        self._link = Link(f"{compute.directory}/db.sock")
        self._schema = self._link.schema()

    def plug(self, tap: str, port: str) -> None:
        """An interface on br-int that is a port's."""
        transaction = Transaction(self._schema)
        row = {"name": tap, "type": "internal", "external_ids": {"iface-id": port}}
        made = transaction.insert("Port", {"name": tap, "interfaces": {transaction.insert("Interface", row)}})
        transaction.mutate("Bridge", [eq("name", "br-int")], [insert_into("ports", {made})])
        self._link.transact(transaction)

    def close(self) -> None:
        """Over."""
        self._link.socket.close()


class Kept:
    """A connection that is kept, as the driver has it."""

    def __init__(self, ours: Ours) -> None:
        self._connection = HTTPConnection("127.0.0.1", 8181, timeout=60)
        self._connection.sock = ours.lab.connect("127.0.0.1", 8181)
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: object) -> None:
        """One request that is granted."""
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {text}")


class Told(threading.Thread):
    """When ports were told to be ACTIVE: by id, seconds since the epoch."""

    def __init__(self, ours: Ours) -> None:
        super().__init__(daemon=True)
        self.found: dict[str, float] = {}
        self._connection = HTTPConnection("127.0.0.1", 8181, timeout=60)
        self._connection.sock = ours.lab.connect("127.0.0.1", 8181)
        self._connection.request("GET", "/api/v1/events?kinds=neutron-port")
        self._answer = self._connection.getresponse()

    def run(self) -> None:
        """Until the controller ends."""
        while line := self._answer.readline():
            at = time.time()
            if line.startswith(b"data: "):
                facts = json.loads(line[6:])
                if facts.get("status") == "ACTIVE":
                    self.found.setdefault(facts["name"], at)


class Share(NamedTuple):
    """Of one port, seconds: of the request; from its interface to its event; how much of that its switch was waited for, and how often."""

    request: float
    flows: float
    switch: float
    ways: int

    @property
    def own(self) -> float:
        """The controller's."""
        return self.request + self.flows - self.switch


def measure(ours: Ours, count: int) -> list[Share]:
    """Of each port."""
    computes = ours.join([f"c{number}" for number in range(1, COMPUTES + 1)])
    network = {"id": "n1", "provider:network_type": "vxlan", "provider:segmentation_id": 70001}
    ours.ask("POST", f"{ROOT}/networks", {"network": network})
    subnet = {"id": "s1", "network_id": "n1", "cidr": "10.8.0.0/20", "ip_version": 4, "gateway_ip": "10.8.15.254"}
    ours.ask("POST", f"{ROOT}/subnets", {"subnet": subnet})
    told = Told(ours)
    told.start()
    neutron = Kept(ours)
    plugs = [Plugs(each) for each in computes]
    wire = Awaited(ours.lab.site.control)
    wire.start()
    seen = [Realised(each, ours.lab.site.directory / f"made-{each.name}") for each in computes]
    requests = []
    begun = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, begun + index / RATE - time.monotonic()))
        name, tap = f"port{index}", f"tap{index}"
        fixed = [{"subnet_id": "s1", "ip_address": f"10.8.{index + 1 >> 8}.{index + 1 & 255}"}]
        mac = f"02:00:00:08:{index >> 8:02x}:{index & 255:02x}"
        port = {"id": name, "network_id": "n1", "mac_address": mac, "fixed_ips": fixed, "device_owner": "compute:nova"}
        asked = time.perf_counter()
        neutron.post(f"{ROOT}/ports", {"port": port})
        requests.append(time.perf_counter() - asked)
        plugs[index % COMPUTES].plug(tap, name)
    wait_until(lambda: len(told.found) == count, "all of them to be active", 60)
    realised: dict[str, float] = {}
    for each in seen:
        realised |= each.end()
    for each in plugs:
        each.close()
    spans, found = wire.end(), []
    for i in range(count):
        made, active = realised[f"tap{i}"], told.found[f"port{i}"]
        waits = spans[computes[i % COMPUTES].control_address]
        ways = sum(made < answered <= active for _, answered in waits)
        found.append(Share(requests[i], active - made, within(waits, made, active), ways))
    return found


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    count = QUICK if options.quick else PORTS
    with divided() as core, lab_named("benchneutron") as lab:
        found = measure(Ours(lab, core=core), count)
    own = [each.own for each in found]
    whole = [each.request + each.flows for each in found]
    note = f"{count} ports, {RATE:g} a second, {COMPUTES} computes (userspace datapath); median {median(own) * 1000:.1f} ms, of which "
    note += f"the request {median([each.request for each in found]) * 1000:.1f}; the slowest {max(own) * 1000:.1f}; with what its switch "
    note += f"takes: median {median(whole) * 1000:.1f}, 99 of 100 {slow(whole) * 1000:.1f}"
    note += "" if core is not None else "; one core for everything"
    say(f"neutron: {note}")
    yield Row(f"{NAME}: the controller's own share, 99 of 100", slow(own) * 1000, "ms", None, LIMIT * 1000, note)
    yield Row(f"{NAME}: ways to its compute and back, 99 of 100", slow([each.ways for each in found]), "", None, WAYS)


@contextmanager
def divided() -> Iterator[int | None]:
    """A core that is the controller's; whatever this process starts without saying where has the others. None: there is only one."""
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        yield None
        return
    first = min(cores)
    os.sched_setaffinity(0, cores - {first})
    try:
        yield first
    finally:
        os.sched_setaffinity(0, cores)


def slow(times: Iterable[float]) -> float:
    """What 99 of 100 do not take longer than."""
    found = sorted(times)
    return found[len(found) * 99 // 100]
