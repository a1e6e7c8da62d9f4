"""A lab: the fabric, the controller's place, and the list of what was added. See the package for a drawing."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import msgspec

from ..errors import BadInput, NotFound, NotReady, Refused
from . import namespace, processes
from .commands import run, wait_until
from .compute import SCHEMA, Compute
from .migration import Migration
from .site import CONTROL_NETWORK, CONTROLLER, UNDERLAYS, LabRecord, Site, VmRecord
from .vm import Vm

# Identities are made from names, so that a compute that is thrown away and made again is the same one,
# unless the caller wants another.
_IDENTITIES = uuid.UUID("6f1a3c52-65bb-4a55-9a0e-eb7eb7eb7eb7")

_PASSES = 5
DATAPATHS = ("netdev", "system")


class Lab:
    """A handle on a lab; `up` makes it. Used as a context manager, it is up inside and down after.

    `datapath`: of the computes that this handle adds: "netdev", Open vSwitch's own in userspace, or "system", the kernel's, which has to
    have the module openvswitch. By default what EBBTIDE_LAB_DATAPATH says, else "netdev".
    `underlay`: "ipv4" or "ipv6", what the tunnel addresses of its computes are when it is brought up by this handle.
    """

    def __init__(self, name: str, state_dir: str | Path, datapath: str = "", underlay: str = "ipv4") -> None:
        self.site = Site(name, Path(state_dir))
        self.name = name
        self.datapath = datapath or os.environ.get("EBBTIDE_LAB_DATAPATH", "netdev")
        if self.datapath not in DATAPATHS:
            raise BadInput(f"datapath {self.datapath!r}: a lab knows {' and '.join(DATAPATHS)}")
        self.underlay = underlay
        if underlay not in UNDERLAYS:
            raise BadInput(f"underlay {underlay!r}: a lab knows {' and '.join(UNDERLAYS)}")

    @classmethod
    def found_in(cls, state_dir: str | Path) -> Lab:
        """The lab whose record is in this directory, for a process that does not know its name."""
        directory = Path(state_dir)
        try:
            record = msgspec.json.decode((directory / "lab.json").read_bytes(), type=LabRecord)
        except FileNotFoundError as error:
            raise NotFound(f"no lab in {directory}: make one with `lab up`") from error
        return cls(record.name, directory)

    def __repr__(self) -> str:
        return f"Lab({self.name})"

    def __enter__(self) -> Lab:
        try:
            self.up()
        except BaseException as error:
            if not isinstance(error, Refused):
                self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    # ---- up and down --------------------------------------------------------------------------

    def up(self) -> None:
        """The fabric and the controller's namespace. Refused when something of this name is there already."""
        if os.geteuid() != 0:
            raise NotReady("the lab needs root: it makes network namespaces")
        site = self.site
        if site.exists() or site.namespaces():
            raise Refused(f"lab {self.name} is up, or was not taken down: run `lab down` first")
        with site.change(first=LabRecord(self.name, self.underlay)):
            pass
        site.run_directory.mkdir(parents=True, exist_ok=True)
        namespace.ip_batch(None, [f"netns add {site.fabric}", f"netns add {site.control}"])
        namespace.quiet(site.fabric)
        namespace.quiet(site.control)
        bridges = ("data", "mgmt", "ext")
        namespace.ip_batch(
            site.fabric,
            [
                *(f"link add {bridge} type bridge stp_state 0 mcast_snooping 0" for bridge in bridges),
                *(f"link set {bridge} up" for bridge in bridges),
                f"link add ctl type veth peer name eth-mgmt address {site.mac(0, 0)} netns {site.control}",
                "link set ctl master mgmt up",
            ],
        )
        namespace.ip_batch(
            site.control,
            [
                "link set lo up",
                "link set eth-mgmt up",
                f"addr add {CONTROLLER}/{CONTROL_NETWORK.prefixlen} dev eth-mgmt",
            ],
        )
        namespace.offloads_off(site.fabric, *bridges, "ctl")
        namespace.offloads_off(site.control, "eth-mgmt")
        if not SCHEMA.exists():
            raise NotReady(f"{SCHEMA} is missing: install Open vSwitch (openvswitch-switch), its service may stay off")
        run(["ovsdb-tool", "create", str(site.database_template), str(SCHEMA)])

    def down(self, keep_files: bool = False) -> None:
        """Remove everything of the lab, whatever state it is in and whoever made it. Twice is fine."""
        site = self.site
        # A killed maker's last command may still be at work while we look, and add one thing more.
        for _ in range(_PASSES):
            pids, names = site.processes(), site.namespaces()
            processes.kill(pids)
            if names:
                namespace.ip_batch(None, [f"netns del {name}" for name in names])
            if not pids and not names:
                break
        if not keep_files:
            site.remove_files()

    def is_up(self) -> bool:
        return self.site.exists() and namespace.path_of(self.site.fabric).exists()

    # ---- computes -----------------------------------------------------------------------------

    def add_compute(
        self,
        name: str,
        register: str | None = None,
        physical_network: str = "",
        system_id: str | None = None,
        underlay: str = "",
    ) -> Compute:
        """A running compute. `register`: its manager target, else it waits for `compute.register()`.

        `physical_network` gives it br-ex with a cable to the network outside, and provider_mappings. `underlay`: if not the lab's own.
        """
        compute = self._numbered(name, physical_network, system_id, underlay)
        compute.make()
        if register is not None:
            compute.register(register)
        return compute

    def add_computes(
        self, names: Sequence[str], register: str | None = None, physical_network: str = ""
    ) -> list[Compute]:
        """Several, two at a time. Their addresses follow the order of the names."""
        computes = [self._numbered(name, physical_network, None) for name in names]
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(Compute.make, computes))
        if register is not None:
            for compute in computes:
                compute.register(register)
        return computes

    def _numbered(self, name: str, physical_network: str, system_id: str | None, underlay: str = "") -> Compute:
        identity = system_id or str(uuid.uuid5(_IDENTITIES, f"{self.name}/{name}"))
        made = self.site.number_compute(name, identity, physical_network, self.datapath, underlay)
        return Compute(self.site, made)

    def compute(self, name: str) -> Compute:
        record = self.site.read().computes.get(name)
        if record is None:
            raise NotFound(f"lab {self.name} has no compute {name}")
        return Compute(self.site, record)

    def computes(self) -> list[Compute]:
        return [Compute(self.site, record) for record in self.site.read().computes.values()]

    def remove_compute(self, name: str) -> None:
        """Throw the machine away. VMs on it have to be gone, or are cut off."""
        self.compute(name).remove()
        with self.site.change() as record:
            record.computes.pop(name, None)

    # ---- VMs ----------------------------------------------------------------------------------

    def add_vm(
        self,
        name: str,
        compute: str | Compute | None,
        mac: str,
        ip_cidr: str,
        iface_id: str,
        mtu: int = 1450,
        gateway: str | None = None,
        deadline: float = 20.0,
    ) -> Vm:
        """A VM, plugged and running on `compute`; with None it is not plugged yet. `ip_cidr` "": it has to ask for its address."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
            raise BadInput(f"VM name {name!r}: letters, digits, dot, dash and _ are allowed")
        if not re.fullmatch(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", mac):
            raise BadInput(f"MAC {mac!r} of VM {name} is not one")
        try:
            ipaddress.IPv4Interface(ip_cidr or "0.0.0.0")
        except ValueError as error:
            raise BadInput(f"address {ip_cidr!r} of VM {name}: {error}") from error
        with self.site.change() as record:
            if name in record.vms:
                raise BadInput(f"lab {self.name} already has a VM {name}")
            made = VmRecord(name, record.next_vm, mac.lower(), ip_cidr, iface_id, mtu)
            record.next_vm += 1
            record.vms[name] = made
        vm = Vm(self.site, made)
        vm.make(gateway)
        if compute is not None:
            vm.plug(self._compute(compute), active=True, deadline=deadline)
        return vm

    def vm(self, name: str) -> Vm:
        record = self.site.read().vms.get(name)
        if record is None:
            raise NotFound(f"lab {self.name} has no VM {name}")
        return Vm(self.site, record)

    def vms(self) -> list[Vm]:
        return [Vm(self.site, record) for record in self.site.read().vms.values()]

    def remove_vm(self, name: str) -> None:
        self.vm(name).remove()
        with self.site.change() as record:
            record.vms.pop(name, None)

    def migration(self, vm: str | Vm, destination: str | Compute) -> Migration:
        """A migration to walk through step by step."""
        moved = vm if isinstance(vm, Vm) else self.vm(vm)
        return Migration(moved, self._compute(destination))

    def migrate(self, vm: str | Vm, destination: str | Compute, overlap: float = 10.0, fail: bool = False) -> None:
        """A whole migration, as Nova does one: both plugged for `overlap` seconds, then moved or given up."""
        migration = self.migration(vm, destination)
        migration.begin()
        time.sleep(overlap)
        if fail:
            migration.fail()
        else:
            migration.switch()
            migration.finish()
            migration.await_announced()

    def _compute(self, compute: str | Compute) -> Compute:
        return compute if isinstance(compute, Compute) else self.compute(compute)

    # ---- the network outside ------------------------------------------------------------------

    def add_host(self, name: str, ip_cidr: str, gateway: str | None = None) -> str:
        """A host on the provider network, outside the cloud. Returns its namespace."""
        own = self.site.host_namespace(name)
        with self.site.change() as record:
            if name in record.hosts:
                raise BadInput(f"lab {self.name} already has a host {name}")
            number = len(record.hosts)
            record.hosts[name] = ip_cidr
        namespace.ip_batch(None, [f"netns add {own}"])
        namespace.quiet(own)
        mac = self.site.mac(4, number)
        namespace.ip_batch(
            self.site.fabric,
            [
                f"link add h{number} type veth peer name eth0 address {mac} netns {own}",
                f"link set h{number} master ext up",
            ],
        )
        routes = [] if gateway is None else [f"route add default via {gateway}"]
        namespace.ip_batch(own, ["link set lo up", "link set eth0 up", f"addr add {ip_cidr} dev eth0", *routes])
        namespace.offloads_off(own, "eth0")
        namespace.offloads_off(self.site.fabric, f"h{number}")
        return own

    # ---- the controller's place ---------------------------------------------------------------

    @property
    def control_namespace(self) -> str:
        return self.site.control

    def connect(self, host: str, port: int, in_namespace: str | None = None, deadline: float = 5.0) -> socket.socket:
        """A connection made inside the controller's namespace, or another: 127.0.0.1 there is its loopback."""
        return namespace.connect(in_namespace or self.site.control, host, port, deadline)

    async def connect_async(
        self, host: str, port: int, in_namespace: str | None = None, deadline: float = 5.0
    ) -> socket.socket:
        return await namespace.connect_async(in_namespace or self.site.control, host, port, deadline)

    def listen(self, host: str, port: int, in_namespace: str | None = None) -> socket.socket:
        """A listening socket inside the controller's namespace, for a controller in this process."""
        return namespace.listen(in_namespace or self.site.control, host, port)

    def exec(self, where: str, *command: str, deadline: float = 30.0) -> str:
        """A command on a compute, a VM or an outside host of that name, or `ctl`, and its output."""
        return run(namespace.command_in(self.namespace_of(where), command), deadline=deadline)

    def namespace_of(self, where: str) -> str:
        site, record = self.site, self.site.read()
        if where in record.computes:
            return site.compute_namespace(where)
        if where in record.vms:
            return site.vm_namespace(where)
        if where in record.hosts:
            return site.host_namespace(where)
        if where in ("ctl", "net"):
            return f"{site.prefix}{where}"
        raise NotFound(f"lab {self.name} has no compute, VM or host {where}, and it is not ctl or net")

    def spawn(self, name: str, command: Sequence[str], where: str = "ctl", env: Mapping[str, str] | None = None) -> int:
        """Start a process that outlives this one, inside the lab. Its pid; its output is run/NAME.log."""
        pidfile = self.site.run_directory / f"{name}.pid"
        log = self.site.run_directory / f"{name}.log"
        if self.spawned(name) is not None:
            raise Refused(f"{name} already runs in lab {self.name}; stop it first")
        pidfile.unlink(missing_ok=True)
        # The shell writes its pid and becomes the command: no moment without a record.
        script = 'log=$1; pidfile=$2; shift 2; exec >>"$log" 2>&1 </dev/null; echo $$ >"$pidfile"; exec "$@"'
        inner = namespace.command_in(self.namespace_of(where), ["sh", "-c", script, "sh", str(log), str(pidfile)])
        run(["setsid", "--fork", *inner, *command], env=None if env is None else {**os.environ, **env})
        wait_until(lambda: pidfile.exists() and pidfile.read_text().endswith("\n"), f"{name} to start")
        return int(pidfile.read_text())

    def spawned(self, name: str) -> int | None:
        """The pid of a spawned process, while it runs."""
        try:
            pid = int((self.site.run_directory / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if pid in processes.pids_in_namespaces(self.site.namespaces()) else None

    def end_spawned(self, name: str, deadline: float = 10.0) -> None:
        """Ask a spawned process to end; what of it, and of its children, is there after `deadline` seconds is killed."""
        pid = self.spawned(name)
        if pid is None:
            return
        # It leads a session of its own: see `spawn`.
        session = [p for p in processes.pids_in_namespaces(self.site.namespaces()) if processes.session_of(p) == pid]
        processes.send_signal(pid, signal.SIGTERM)
        try:
            wait_until(lambda: not any(map(processes.is_running, session)), f"{name} to end", deadline)
        except NotReady:
            processes.kill(session)

    def kill_spawned(self, name: str) -> None:
        pid = self.spawned(name)
        if pid is not None:
            processes.kill([pid])
