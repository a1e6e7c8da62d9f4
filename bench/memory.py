"""Resident memory of the controller (VmRSS), in processes of their own.

Small: `ebbtide controller` as it is started, with a lab of the demo's size that talks to it. Large: everything of the controller around
1,000 simulated computes with 50 ports each (simulated.py): State, fragments, what each switch is known to hold, the rows of every
compute's OVSDB. Sockets and their buffers, and the web server, are not in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import structlog

from ebbtide.lab import CONTROLLER, Lab
from ebbtide.lab.commands import wait_until

from . import clouds
from .rows import Options, Row
from .simulated import Simulation, fill

MB = 1e6


def resident(pid: int | str = "self") -> float:
    """Resident memory in MB (10**6 bytes)."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / MB


def _ask(lab: Lab, method: str, path: str, body: object | None = None) -> Any:
    connection = HTTPConnection("127.0.0.1", 8181, timeout=30)
    connection.sock = lab.connect("127.0.0.1", 8181)
    try:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    assert answer.status < 400, f"{method} {path}: {answer.status} {text}"
    return json.loads(text) if text else None


def demo() -> float:
    """5 computes, 2 networks, 9 VMs, as in the demo; an audit has been made as well."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as name:
        folder = Path(name)
        lab = Lab("benchmem", folder / "lab")
        lab.up()
        try:
            command = [sys.executable, "-m", "ebbtide", "controller", "--state-dir", str(folder / "state")]
            command += ["--ovsdb-listen", f"ptcp:6640:{CONTROLLER}", "--openflow-listen", f"ptcp:6653:{CONTROLLER}"]
            pid = lab.spawn("controller", [*command, "--http", "127.0.0.1:8181", "--admission", "open"])

            def answers() -> bool:
                try:
                    return bool(_ask(lab, "GET", "/api/v1/status")["leading"])
                except Exception:
                    return False

            wait_until(answers, "the controller", 30)
            hosts = [f"h{number}" for number in range(1, 6)]
            lab.add_computes(hosts, register=f"tcp:{CONTROLLER}:6640")
            for number, network in enumerate(("blue", "green"), 1):
                _ask(lab, "POST", "/api/v1/networks", {"id": network, "subnets": [f"10.{number}.0.0/24"]})

            def ready() -> bool:
                found = _ask(lab, "GET", "/api/v1/computes")["computes"]
                return len(found) == len(hosts) and all(c["phase"] == "ready" for c in found)

            wait_until(ready, "the computes", 30)
            for index in range(1, 10):
                number = index % 2 + 1
                vm, mac, ip = f"vm{index}", f"02:00:00:00:{number:02x}:{index:02x}", f"10.{number}.0.{index}"
                network = ("blue", "green")[number - 1]
                _ask(lab, "POST", "/api/v1/ports", {"id": vm, "network": network, "mac": mac, "addresses": [ip]})
                lab.add_vm(vm, hosts[index % 5], mac=mac, ip_cidr=f"{ip}/24", iface_id=vm)
            assert lab.vm("vm1").reaches("10.2.0.9", 20)
            _ask(lab, "POST", "/api/v1/audit", {})
            time.sleep(2)
            return resident(pid)
        finally:
            lab.down()


async def _large(computes: int) -> None:
    """The child's side: prints what it uses."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as folder:
        # Filling the store is another process's work: a controller finds it filled.
        filler = [sys.executable, "-m", "bench.memory", "fill", str(computes), folder]
        await (await asyncio.create_subprocess_exec(*filler)).wait()
        begun = time.process_time()
        async with Simulation(Path(folder)) as simulation:
            loaded = time.process_time() - begun
            await simulation.connect_all()
            gc.collect()
            held = sum(len(member.held) for member in simulation.cluster.members.values())
            print(json.dumps({"resident": resident(), "held": held, "loaded": loaded}), flush=True)


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    yield Row("memory: resident, `ebbtide controller` with 5 computes and 9 VMs (lab)", demo(), "MB", None, 100.0)
    child = [sys.executable, "-m", "bench.memory", "large", "1000"]
    found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])
    name = "memory: resident, controller with 1000 computes x 50 ports in blocks (simulated computes, no sockets)"
    yield Row(name, found["resident"], "MB", None, 1500.0, f"{found['held']} fragments held for switches")
    name = "start: CPU of a controller that reads a store of 1000 computes x 50 ports, until it leads"
    yield Row(name, found["loaded"], "s")


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if sys.argv[1] == "fill":
        asyncio.run(fill(Path(sys.argv[3]), clouds.cloud(int(sys.argv[2]))))
    else:
        asyncio.run(_large(int(sys.argv[2])))
