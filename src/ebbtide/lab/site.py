"""What a lab is called and where it keeps things: names, addresses, and the record that processes share.

Every name is made here, from the lab's name and the number of the compute or VM, so that labs side by
side never meet, and what a dead lab left behind can be found by its names alone. The record is one JSON
file, replaced whole under a lock. What is about to be made is recorded *before* it is made: after a
crash the record may name too much, never too little.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ..errors import BadInput, NotFound
from . import namespace, processes

TEP_NETWORK = ipaddress.IPv4Network("172.31.0.0/16")
#: Where the computes' tunnel addresses are, by the lab's underlay.
UNDERLAYS: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network] = {
    "ipv4": TEP_NETWORK,
    "ipv6": ipaddress.IPv6Network("fd00:eb::/64"),
}
CONTROL_NETWORK = ipaddress.IPv4Network("10.255.0.0/16")
CONTROLLER = str(CONTROL_NETWORK[1])
MANAGER_TARGET = f"tcp:{CONTROLLER}:6640"

# Computes' addresses begin at .1.1 of both networks; .0.x is the controller's and the hosts' outside.
_FIRST_COMPUTE = 256
_MOST_COMPUTES = 60_000


class ComputeRecord(msgspec.Struct, frozen=True):
    name: str
    index: int
    system_id: str
    physical_network: str = ""  # of the provider bridge; empty: it has none
    datapath: str = "netdev"  # of its bridges: Open vSwitch's own in userspace, or "system", the kernel's
    underlay: str = "ipv4"


class VmRecord(msgspec.Struct, frozen=True):
    name: str
    index: int
    mac: str
    ip_cidr: str
    iface_id: str
    mtu: int
    taps: dict[str, str] = {}  # compute -> device there, where it is plugged
    active: str = ""  # the compute on which the guest runs


class LabRecord(msgspec.Struct):
    name: str
    underlay: str = "ipv4"  # of computes that are added
    next_compute: int = 0
    next_vm: int = 0
    computes: dict[str, ComputeRecord] = {}
    vms: dict[str, VmRecord] = {}
    hosts: dict[str, str] = {}  # outside hosts: name -> address


class Site:
    """The names, addresses and files of one lab."""

    def __init__(self, name: str, directory: Path) -> None:
        if not re.fullmatch(r"[a-z0-9_]{1,24}", name):
            raise BadInput(f"lab name {name!r}: 1 to 24 of a-z, 0-9 and _ are allowed")
        self.name = name
        self.directory = directory.resolve()
        self.prefix = f"eb-{name}-"
        self.fabric = f"{self.prefix}net"
        self.control = f"{self.prefix}ctl"
        self._record = self.directory / "lab.json"
        self._lock = self.directory / "lab.lock"

    # ---- names --------------------------------------------------------------------------------

    def compute_namespace(self, name: str) -> str:
        return f"{self.prefix}c-{name}"

    def vm_namespace(self, name: str) -> str:
        return f"{self.prefix}v-{name}"

    def host_namespace(self, name: str) -> str:
        return f"{self.prefix}x-{name}"

    def compute_directory(self, name: str) -> Path:
        return self.directory / "computes" / name

    @property
    def run_directory(self) -> Path:
        return self.directory / "run"

    @property
    def database_template(self) -> Path:
        return self.run_directory / "template.db"

    @staticmethod
    def tep(index: int, underlay: str = "ipv4") -> str:
        return str(UNDERLAYS[underlay][_FIRST_COMPUTE + 1 + index])

    @staticmethod
    def control_address(index: int) -> str:
        return str(CONTROL_NETWORK[_FIRST_COMPUTE + 1 + index])

    @staticmethod
    def mac(kind: int, index: int) -> str:
        """A locally administered address; `kind` tells the lab's devices apart in a packet dump."""
        return f"06:eb:{kind:02x}:{index >> 16 & 0xFF:02x}:{index >> 8 & 0xFF:02x}:{index & 0xFF:02x}"

    # ---- the record ---------------------------------------------------------------------------

    def exists(self) -> bool:
        return self._record.exists()

    def read(self) -> LabRecord:
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=LabRecord)
        except FileNotFoundError as error:
            raise NotFound(f"no lab {self.name} in {self.directory}: make it with `lab up`") from error

    @contextmanager
    def change(self, first: LabRecord | None = None) -> Iterator[LabRecord]:
        """The record, locked against other processes; written when the block ends without an error."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = first or self.read()
            yield record
            replacement = self._record.with_suffix(".new")
            replacement.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
            os.replace(replacement, self._record)

    def number_compute(
        self, name: str, system_id: str, physical_network: str, datapath: str, underlay: str = ""
    ) -> ComputeRecord:
        """A record for a new compute. `underlay` "": the lab's."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}", name):
            raise BadInput(f"compute name {name!r} is not a host name")
        with self.change() as record:
            if name in record.computes:
                raise BadInput(f"lab {self.name} already has a compute {name}")
            if record.next_compute >= _MOST_COMPUTES:
                raise BadInput(f"lab {self.name} has had {_MOST_COMPUTES} computes, which is all it has addresses for")
            version = underlay or record.underlay
            made = ComputeRecord(name, record.next_compute, system_id, physical_network, datapath, version)
            record.next_compute += 1
            record.computes[name] = made
        return made

    # ---- what is ours -------------------------------------------------------------------------

    def namespaces(self) -> list[str]:
        return namespace.names_with(self.prefix)

    def pid_of(self, pidfile: Path) -> int | None:
        return processes.pid_in(pidfile, self.directory)

    def processes(self) -> list[int]:
        """Every process of this lab: by pid files that are still true, and by namespaces."""
        found = {pid for file in self.directory.rglob("*.pid") if (pid := self.pid_of(file)) is not None}
        return sorted(found | set(processes.pids_in_namespaces(self.namespaces())))

    def remove_files(self) -> None:
        """What the lab made, and the directory itself if nothing else is in it."""
        for made in ("computes", "run"):
            shutil.rmtree(self.directory / made, ignore_errors=True)
        for file in (self._record.with_suffix(".new"), self._record, self._lock):
            file.unlink(missing_ok=True)
        try:
            self.directory.rmdir()
        except OSError:
            pass  # it holds files of someone else, or is already gone
