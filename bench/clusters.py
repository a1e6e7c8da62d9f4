"""Two controllers over the same kind of lab, with the same verbs: ours, as `ebbtide controller`, and OVN, for comparison.

Both get the lab's computes: a namespace each with its own ovsdb-server and ovs-vswitchd (userspace datapath), VXLAN between them.
OVN's central databases and northd run in the lab's control namespace, an ovn-controller in each compute's.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

from ebbtide.lab import CONTROLLER, Compute, Lab
from ebbtide.lab import namespace as ns
from ebbtide.lab.commands import run, wait_until
from ebbtide.lab.compute import PROVIDER_BRIDGE
from ebbtide.lab.packets import icmp_echo

NETWORK, SUBNET = "bench", "10.9.0.0/16"
OVN_TOOLS = ("ovn-northd", "ovn-nbctl", "ovn-sbctl", "ovn-controller", "ovn-appctl")
OVN_SCHEMAS = Path("/usr/share/ovn")
MTU = 1400


def address(index: int) -> str:
    """Of the `index`-th port."""
    return f"10.9.{index >> 8}.{index & 255}"


def mac(index: int) -> str:
    """Of the `index`-th port."""
    return f"02:00:00:09:{index >> 8:02x}:{index & 255:02x}"


def missing_ovn() -> str:
    """Why there is no OVN to compare with, or ""."""
    lacking = [tool for tool in OVN_TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(lacking)} (scripts/setup.sh --bench)" if lacking else ""


class Cluster(Protocol):
    """What both can do."""

    lab: Lab
    title: str

    def join(self, names: Sequence[str]) -> list[Compute]:
        """Computes that have just joined, ready to be used."""

    def add_port(self, index: int) -> None:
        """A logical port "port<index>" of the one network."""

    def remove(self, name: str) -> None:
        """Have a compute removed; may return before its tunnels have gone."""

    def throw_away(self, name: str) -> None:
        """A compute that is not needed any more, without measuring anything."""


@contextmanager
def lab_named(name: str) -> Iterator[Lab]:
    """A lab in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as folder:
        with Lab(name, Path(folder) / "lab") as lab:
            yield lab


class Ours:
    """`ebbtide controller` in the lab, used over its REST interface; with its store on one core, if one is named."""

    title = "ebbtide"

    def __init__(self, lab: Lab, *flags: str, core: int | None = None) -> None:
        self.lab = lab
        self.state_directory = lab.site.directory / "run" / "state"
        command = [] if core is None else ["taskset", "--cpu-list", str(core)]
        command += [sys.executable, "-m", "ebbtide", "controller", "--state-dir", str(self.state_directory)]
        command += ["--ovsdb-listen", f"ptcp:6640:{CONTROLLER}", "--openflow-listen", f"ptcp:6653:{CONTROLLER}"]
        lab.spawn("controller", [*command, "--http", "127.0.0.1:8181", "--admission", "open", *flags])
        wait_until(self._leads, "the controller to lead", 30)
        self.ask("POST", "/api/v1/networks", {"id": NETWORK, "subnets": [SUBNET]})

    def ask(self, method: str, path: str, body: object | None = None) -> Any:
        """One request."""
        connection = HTTPConnection("127.0.0.1", 8181, timeout=120)
        connection.sock = self.lab.connect("127.0.0.1", 8181)
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text}")
        return json.loads(text) if text else None

    def _leads(self) -> bool:
        try:
            return bool(self.ask("GET", "/api/v1/status")["leading"])
        except Exception:
            return False

    def join(self, names: Sequence[str], physical_network: str = "") -> list[Compute]:
        """Registered, and ready. With a network outside they are gateways, whoever has a port there."""
        made = self.lab.add_computes(list(names), physical_network=physical_network)
        for compute in made:
            if physical_network:
                compute.vsctl("set", "Open_vSwitch", ".", "other_config:ebbtide-gateway=true", wait=False)
            compute.register(f"tcp:{CONTROLLER}:6640")
        wait_until(lambda: set(names) <= self._ready(), "the computes to be ready", 120, every=0.05)
        return made

    def _ready(self) -> set[str]:
        return {c["name"] for c in self.ask("GET", "/api/v1/computes")["computes"] if c["phase"] == "ready"}

    def add_port(self, index: int) -> None:
        """A port."""
        body = {"id": f"port{index}", "network": NETWORK, "mac": mac(index), "addresses": [address(index)]}
        self.ask("POST", "/api/v1/ports", body)

    def relate(self, gateway: str, peers: Sequence[str]) -> None:
        """A compute with relations to others has tunnels to them, and yet carries no port: it may be removed."""
        for peer in peers:
            self.ask("POST", "/api/v1/relations", {"gateway": gateway, "peer": peer})

    def mark(self, name: str) -> None:
        """scalein-computes-start."""
        self.ask("POST", "/api/v1/scale-in/start", {"computes": [name]})

    def remove(self, name: str) -> None:
        """scalein-computes-end; it returns when the audit has found nothing left."""
        self.ask("POST", "/api/v1/scale-in/end", {"computes": [name]})

    def throw_away(self, name: str) -> None:
        """Removed, then off."""
        self.mark(name)
        self.remove(name)
        self.lab.remove_compute(name)


class Ovn:
    """OVN central, and an ovn-controller on every compute."""

    title = "OVN"

    def __init__(self, lab: Lab, encapsulation: str = "vxlan") -> None:
        self.lab = lab
        self._encapsulation = encapsulation
        self._folder = lab.site.directory / "run"
        for name, schema in (("nb", "ovn-nb.ovsschema"), ("sb", "ovn-sb.ovsschema")):
            database = self._folder / f"{name}.db"
            run(["ovsdb-tool", "create", str(database), str(OVN_SCHEMAS / schema)])
            remotes = [f"--remote=punix:{self._folder}/{name}.sock"]
            if name == "sb":
                remotes.append(f"--remote=ptcp:6642:{CONTROLLER}")
            self._central(f"{name}-server", "ovsdb-server", str(database), *remotes)
        databases = [f"--ovnnb-db=unix:{self._folder}/nb.sock", f"--ovnsb-db=unix:{self._folder}/sb.sock"]
        self._central("northd", "ovn-northd", *databases)
        self.nbctl("ls-add", NETWORK)

    def _central(self, name: str, *command: str) -> None:
        run(ns.command_in(self.lab.control_namespace, [*command, *self._daemon(self._folder, name)]), deadline=30)

    @staticmethod
    def _daemon(folder: Path, name: str) -> list[str]:
        options = [
            f"--pidfile={folder}/{name}.pid",
            f"--log-file={folder}/{name}.log",
            f"--unixctl={folder}/{name}.ctl",
        ]
        return [*options, "--detach", "--no-chdir", "-vconsole:off", "-vsyslog:off"]

    def nbctl(self, *words: str) -> str:
        """ovn-nbctl, waiting until the southbound database follows."""
        return run(["ovn-nbctl", f"--db=unix:{self._folder}/nb.sock", "--wait=sb", *words])

    def sbctl(self, *words: str) -> str:
        """ovn-sbctl."""
        return run(["ovn-sbctl", f"--db=unix:{self._folder}/sb.sock", *words])

    def join(self, names: Sequence[str], physical_network: str = "") -> list[Compute]:
        """Known as chassis, br-int made, and every ovn-controller up to date."""
        made = self.lab.add_computes(list(names), physical_network=physical_network)
        for compute in made:
            settings = [f"ovn-remote=tcp:{CONTROLLER}:6642", f"ovn-encap-type={self._encapsulation}"]
            settings += [f"ovn-encap-ip={compute.tep}", "ovn-bridge-datapath-type=netdev"]
            settings += [f"ovn-bridge-mappings={physical_network}:{PROVIDER_BRIDGE}"] if physical_network else []
            compute.vsctl("set", "Open_vSwitch", ".", *(f"external_ids:{s}" for s in settings), wait=False)
            self.start(compute)
        for compute in made:
            compute.await_bridge(deadline=60)
        wait_until(lambda: {c.system_id for c in made} <= self._chassis(), "the chassis", 120, every=0.05)
        self.sync()
        return made

    def start(self, compute: Compute) -> None:
        """Its ovn-controller."""
        options = [f"unix:{compute.directory}/db.sock", *self._daemon(compute.directory, "ovn")]
        options = [option for option in options if not option.startswith("--unixctl")]  # it knows no such option
        environment = {**compute._environment(), "OVN_RUNDIR": str(compute.directory)}
        run(ns.command_in(compute.namespace, ["ovn-controller", *options]), env=environment)

    def sync(self) -> None:
        """Wait until every chassis has carried out what the northbound database says."""
        run(["ovn-nbctl", f"--db=unix:{self._folder}/nb.sock", "--wait=hv", "--timeout=120", "sync"], deadline=130)

    def _chassis(self) -> set[str]:
        return set(self.sbctl("--bare", "--columns=name", "list", "Chassis").split())

    def add_port(self, index: int) -> None:
        """A logical switch port."""
        port = f"port{index}"
        addresses = f"{mac(index)} {address(index)}"
        self.nbctl("lsp-add", NETWORK, port, "--", "lsp-set-addresses", port, addresses)

    def stop(self, name: str) -> None:
        """The compute dies: its ovn-controller is killed."""
        pid = int((self.lab.compute(name).directory / "ovn.pid").read_text())
        os.kill(pid, 9)
        wait_until(lambda: not Path(f"/proc/{pid}/fd").exists() or _is_zombie(pid), "the end of ovn-controller")

    def remove(self, name: str) -> None:
        """ovn-sbctl chassis-del."""
        self.sbctl("chassis-del", self.lab.compute(name).system_id)

    def throw_away(self, name: str) -> None:
        """Off, then removed."""
        self.stop(name)
        self.remove(name)
        self.lab.remove_compute(name)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Guest:
    """A VM without a machine: a namespace, and a tap that waits on the compute to be plugged. Neighbours are known to it, so that
    what is timed is the network and not the kernel's patience with ARP."""

    def __init__(self, lab: Lab, index: int, compute: Compute, others: Sequence[int]) -> None:
        self.index = index
        self.compute = compute
        self.tap = f"tap{index}"
        self.namespace = lab.site.vm_namespace(f"g{index}")
        ns.ip_batch(None, [f"netns add {self.namespace}"])
        ns.quiet(self.namespace)
        tap = f"link add {self.tap} mtu {MTU} type veth"
        ns.ip_batch(
            compute.namespace,
            [f"{tap} peer name eth0 address {mac(index)} mtu {MTU} netns {self.namespace}", f"link set {self.tap} up"],
        )
        neighbours = [f"neigh replace {address(n)} lladdr {mac(n)} nud permanent dev eth0" for n in others]
        ns.ip_batch(
            self.namespace,
            ["link set lo up", "link set eth0 up", f"addr add {address(index)}/16 dev eth0", *neighbours],
        )
        ns.offloads_off(self.namespace, "eth0")
        ns.offloads_off(compute.namespace, self.tap)

    def plug(self) -> None:
        """As Nova does; returns when vswitchd has the port."""
        ids = [f"external_ids:iface-id=port{self.index}", f'external_ids:attached-mac="{mac(self.index)}"']
        self.compute.vsctl("add-port", "br-int", self.tap, "--", "set", "Interface", self.tap, *ids)

    def unplug(self) -> None:
        """Out of br-int, and away."""
        self.compute.vsctl("--if-exists", "del-port", "br-int", self.tap)
        ns.remove_links(self.compute.namespace, self.tap)
        ns.ip_batch(None, [f"netns del {self.namespace}"])


class Pinger:
    """Echo requests every millisecond from a guest, until the first is answered."""

    def __init__(self, guest: Guest, target: int) -> None:
        self.answered: float | None = None
        self._target = address(target)
        self._raw = ns.make_socket(guest.namespace, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._raw.settimeout(0.001)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        sequence = 0
        while not self._over.is_set():
            sequence += 1
            due = time.perf_counter() + 0.001
            try:
                self._raw.sendto(icmp_echo(0xEB, sequence & 0xFFFF, b"plug"), (self._target, 0))
            except OSError:
                pass  # no carrier yet: the other end of the cable is in no bridge
            while (left := due - time.perf_counter()) > 0:
                self._raw.settimeout(left)
                try:
                    packet = self._raw.recv(2048)
                except OSError:
                    break
                if packet[20] == 0 and packet[-4:] == b"plug":
                    self.answered = time.perf_counter()
                    return

    def wait(self, deadline: float) -> float | None:
        """When the first answer came, or None."""
        self._thread.join(deadline)
        self._over.set()
        self._thread.join(1)
        self._raw.close()
        return self.answered
