"""Ports that Neutron makes: the controller's own share of the time until each is served.

Ports are told one after the other over Neutron's northbound, as often as Neutron itself makes any, and plugged on one of three computes.
Who looks on are others than the controller: the time from the request to its answer is its client's; what follows begins when the compute's
database shows that the switch has made the interface (`ovsdb-client monitor`), and ends when the event arrives that the port is ACTIVE,
which it is once all three computes have confirmed what they need. What Neutron, Nova and the switch take before that is not in it.
"""

from __future__ import annotations

import datetime
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

from ebbtide.lab import Compute
from ebbtide.lab.commands import wait_until

from .clusters import Ours, lab_named
from .rows import Options, Row, median, say

COMPUTES, PORTS, QUICK = 3, 500, 100
#: Ports a second; Neutron's API makes about five on such a machine.
RATE = 8.0
#: Seconds, of the slowest in a hundred.
LIMIT = 0.020
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


def measure(ours: Ours, count: int) -> list[tuple[float, float]]:
    """Of each port, seconds: of the request; from its interface to its event."""
    computes = ours.join([f"c{number}" for number in range(1, COMPUTES + 1)])
    network = {"id": "n1", "provider:network_type": "vxlan", "provider:segmentation_id": 70001}
    ours.ask("POST", f"{ROOT}/networks", {"network": network})
    subnet = {"id": "s1", "network_id": "n1", "cidr": "10.8.0.0/20", "ip_version": 4, "gateway_ip": "10.8.15.254"}
    ours.ask("POST", f"{ROOT}/subnets", {"subnet": subnet})
    told = Told(ours)
    told.start()
    neutron = Kept(ours)
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
        made = "set", "Interface", tap, "type=internal", f"external_ids:iface-id={name}"
        computes[index % COMPUTES].vsctl("add-port", "br-int", tap, "--", *made, wait=False)
    wait_until(lambda: len(told.found) == count, "all of them to be active", 60)
    realised: dict[str, float] = {}
    for each in seen:
        realised |= each.end()
    return [(requests[i], told.found[f"port{i}"] - realised[f"tap{i}"]) for i in range(count)]


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    count = QUICK if options.quick else PORTS
    with lab_named("benchneutron") as lab:
        found = measure(Ours(lab), count)
    whole = sorted(sum(each) for each in found)
    slow = whole[len(whole) * 99 // 100]
    parts = [sorted(each[i] for each in found) for i in range(2)]
    say(f"neutron: {count} ports, median {median(whole) * 1000:.1f} ms, 99 of 100 within {slow * 1000:.1f} ms")
    note = f"{count} ports, {RATE:g} a second, {COMPUTES} computes (userspace datapath); median {median(whole) * 1000:.1f} ms, of which "
    note += f"the request {median(parts[0]) * 1000:.1f} and its flows {median(parts[1]) * 1000:.1f}; the slowest {whole[-1] * 1000:.1f}"
    yield Row(
        "port that Neutron makes: the controller's own share, 99 of 100", slow * 1000, "ms", None, LIMIT * 1000, note
    )
