"""One emulated compute: a namespace with its own ovsdb-server and ovs-vswitchd in it.

The lab prepares the machine, as an operator would: addresses, the physical bridge br-phy, host name,
system-id and local_ip. Everything else, br-int first, is the controller's.

br-phy is there because the userspace datapath routes its own tunnels: the tunnel address has to be on
the internal port of a netdev bridge that has the network card as a port. It survives a kill of the
switch (the tap device is persistent), and its address is set again at each start all the same.
"""

from __future__ import annotations

import os
import shutil
import signal
from functools import cache
from pathlib import Path

from ..errors import NotReady
from . import namespace, processes
from .commands import CommandFailed, run, wait_until
from .site import CONTROL_NETWORK, MANAGER_TARGET, UNDERLAYS, ComputeRecord, Site

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PHYSICAL_BRIDGE = "br-phy"
PROVIDER_BRIDGE = "br-ex"
INTEGRATION_BRIDGE = "br-int"

_SSL = {"private-key": "private_key", "certificate": "certificate", "ca-cert": "ca_cert"}
_OPTIONS = ("--disable-system", "--disable-system-route")


class Compute:
    """A handle; any process may make one for a compute of the lab."""

    def __init__(self, site: Site, record: ComputeRecord) -> None:
        self.site = site
        self.name = record.name
        self.index = record.index
        self.system_id = record.system_id
        self.physical_network = record.physical_network
        self.datapath = record.datapath
        self.namespace = site.compute_namespace(record.name)
        self.directory = site.compute_directory(record.name)
        self.underlay = UNDERLAYS[record.underlay]
        self.tep = site.tep(record.index, record.underlay)
        self.control_address = site.control_address(record.index)

    def __repr__(self) -> str:
        return f"Compute({self.name}, tep={self.tep})"

    # ---- making and removing ------------------------------------------------------------------

    def make(self) -> None:
        """The machine, then the daemons. `register` is left to the caller."""
        self.directory.mkdir(parents=True, exist_ok=True)
        namespace.ip_batch(None, [f"netns add {self.namespace}"])
        namespace.quiet(self.namespace)
        own, fabric = self.namespace, self.site.fabric
        # (device here, device in the fabric, bridge there, kind of MAC)
        cables = [("eth-data", f"d{self.index}", "data", 1), ("eth-mgmt", f"m{self.index}", "mgmt", 2)]
        if self.physical_network:
            cables.append(("eth-ext", f"x{self.index}", "ext", 3))
        lines = []
        for here, there, bridge, kind in cables:
            mac = self.site.mac(kind, self.index)
            lines.append(f"link add {there} type veth peer name {here} address {mac} netns {own}")
            lines.append(f"link set {there} master {bridge} up")
        namespace.ip_batch(fabric, lines)
        namespace.ip_batch(
            own,
            [
                "link set lo up",
                *(f"link set {here} up" for here, *_ in cables),
                f"addr add {self.control_address}/{CONTROL_NETWORK.prefixlen} dev eth-mgmt",
            ],
        )
        namespace.offloads_off(own, *(here for here, *_ in cables))
        namespace.offloads_off(fabric, *(there for _, there, *_ in cables))
        shutil.copyfile(self.site.database_template, self.directory / "conf.db")
        self.start_database()
        self._prepare_database()
        self.start_switch()

    def _prepare_database(self) -> None:
        mac = self.site.mac(1, self.index)
        settings = [
            f"external_ids:system-id={self.system_id}",
            f"external_ids:hostname={self.name}",
            f'other_config:local_ip="{self.tep}"',
            f"ovs_version={_version()}",  # as ovs-ctl does on a host
        ]
        bridges = [*_bridge(PHYSICAL_BRIDGE, "eth-data", self.datapath), "--", "set", "Bridge", PHYSICAL_BRIDGE]
        bridges.append(f'other_config:hwaddr="{mac}"')
        if self.physical_network:
            settings.append(f"other_config:provider_mappings={self.physical_network}:{PROVIDER_BRIDGE}")
            bridges += _bridge(PROVIDER_BRIDGE, "eth-ext", self.datapath)
        self.vsctl("init", "--", "set", "Open_vSwitch", ".", *settings, *bridges, wait=False)

    def remove(self) -> None:
        """Pull the plug and throw the machine away, cables and all."""
        self.kill_all()
        processes.kill(processes.pids_in_namespaces([self.namespace]))
        namespace.remove_links(self.site.fabric, *(f"{kind}{self.index}" for kind in "dmx"))
        if namespace.path_of(self.namespace).exists():
            namespace.ip_batch(None, [f"netns del {self.namespace}"])
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- commands -----------------------------------------------------------------------------

    def vsctl(self, *arguments: str, wait: bool = True, deadline: float = 10.0) -> str:
        """`ovs-vsctl`. `wait`: until the switch has carried it out, as ovs-vsctl does by itself."""
        options = [f"--db=unix:{self.directory}/db.sock", f"--timeout={max(1, round(deadline))}"]
        if not wait:
            options.append("--no-wait")
        return self._run(["ovs-vsctl", *options, *arguments], deadline + 5)

    def ofctl(self, *arguments: str, deadline: float = 30.0) -> str:
        """`ovs-ofctl`; a bridge's name in the arguments is enough, whoever its controller is."""
        return self._run(["ovs-ofctl", "-O", "OpenFlow13,OpenFlow14", *arguments], deadline)

    def appctl(self, *arguments: str, deadline: float = 10.0) -> str:
        """`ovs-appctl`, to the switch."""
        return self._run(["ovs-appctl", "-t", str(self.directory / "switch.ctl"), *arguments], deadline)

    def ovsdb_client(self, command: str, *arguments: str, deadline: float = 10.0) -> str:
        """`ovsdb-client COMMAND`, on this compute's database: ovsdb_client("dump", "Open_vSwitch", "Bridge")."""
        return self._run(["ovsdb-client", command, f"unix:{self.directory}/db.sock", *arguments], deadline)

    def exec(self, *command: str, deadline: float = 30.0) -> str:
        """Any command on this compute."""
        return self._run(namespace.command_in(self.namespace, command), deadline)

    def dump_flows(self, bridge: str = INTEGRATION_BRIDGE, *matches: str) -> list[str]:
        """The bridge's flows, one a line, without counters; matches are ovs-ofctl's."""
        text = self.ofctl("--no-stats", "--no-names", "dump-flows", bridge, *matches)
        return [line.strip() for line in text.splitlines() if "actions=" in line]

    def dump_groups(self, bridge: str = INTEGRATION_BRIDGE) -> list[str]:
        text = self.ofctl("--no-names", "dump-groups", bridge)
        return [line.strip() for line in text.splitlines() if "group_id=" in line]

    def revalidate(self, deadline: float = 10.0) -> None:
        """Until the cached datapath flows follow the tables: a barrier does not wait for them."""
        self.appctl("revalidator/wait", deadline=deadline)

    def trace(self, flow: str, bridge: str = INTEGRATION_BRIDGE) -> str:
        """`ofproto/trace`: what the pipeline does with such a packet."""
        return self.appctl("ofproto/trace", bridge, flow)

    def ports(self, bridge: str = INTEGRATION_BRIDGE) -> list[str]:
        return self.vsctl("list-ports", bridge, wait=False).split()

    def has_bridge(self, bridge: str = INTEGRATION_BRIDGE) -> bool:
        return bridge in self.vsctl("list-br", wait=False).split()

    def await_bridge(self, bridge: str = INTEGRATION_BRIDGE, deadline: float = 20.0) -> None:
        """Until somebody, usually the controller, has made the bridge."""
        what = f"{bridge} on {self.name} (the controller makes it, once the compute has registered)"
        wait_until(lambda: self.has_bridge(bridge), what, deadline, every=0.05)

    def register(self, manager: str = MANAGER_TARGET) -> None:
        """Give the compute its controller, as an operator does; it comes back within a second of a cut, as few have to."""
        self.vsctl("set-manager", manager, "--", "set", "Manager", manager, "max_backoff=1000", wait=False)

    def unregister(self) -> None:
        self.vsctl("del-manager", wait=False)

    def _environment(self) -> dict[str, str]:
        here = str(self.directory)
        places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), here)
        return {**os.environ, **places}

    def _run(self, command: list[str], deadline: float) -> str:
        return run(command, env=self._environment(), deadline=deadline)

    # ---- daemons ------------------------------------------------------------------------------

    @property
    def switch_pid(self) -> int | None:
        return self._running(self.directory / "switch.pid")

    @property
    def database_pid(self) -> int | None:
        return self._running(self.directory / "db.pid")

    def _running(self, pidfile: Path) -> int | None:
        pid = self.site.pid_of(pidfile)
        return pid if pid is not None and processes.is_running(pid) else None

    def _daemon(self, name: str, command: list[str]) -> None:
        here = self.directory
        options = [f"--pidfile={here}/{name}.pid", f"--log-file={here}/{name}.log", f"--unixctl={here}/{name}.ctl"]
        options += ["--detach", "--no-chdir", "-vconsole:off", "-vsyslog:off"]
        self.exec(*command, *options)

    def start_database(self) -> None:
        if self.database_pid is None:
            here = self.directory
            remotes = [f"--remote=punix:{here}/db.sock", "--remote=db:Open_vSwitch,Open_vSwitch,manager_options"]
            # As Debian's service starts it: keys and certificates are what `ovs-vsctl set-ssl` says.
            tls = [f"--{o}=db:Open_vSwitch,SSL,{c}" for o, c in _SSL.items()]
            self._daemon("db", ["ovsdb-server", f"{here}/conf.db", *remotes, *tls])

    def start_switch(self) -> None:
        """Returns when the switch has carried out its database. Already running: nothing is done."""
        if self.switch_pid is not None:
            return
        # Its own routing table only: with the system's, any link that appears or goes on the compute, a
        # tap at that, makes the switch forget and read again all routes, and a revalidator that looks in
        # between turns tunnels off for some milliseconds. No kernel datapath does that, and a lab that
        # counts packets must not. Userspace datapath only, so that nobody asks for the kernel's.
        options = _OPTIONS if self.datapath == "netdev" else ()
        self._daemon("switch", ["ovs-vswitchd", f"unix:{self.directory}/db.sock", *options])
        if self.underlay.version == 6:
            namespace.ipv6_on(self.namespace, PHYSICAL_BRIDGE)
        namespace.ip_batch(
            self.namespace,
            [
                f"addr replace {self.tep}/{self.underlay.prefixlen} dev {PHYSICAL_BRIDGE}",
                f"link set {PHYSICAL_BRIDGE} up",
            ],
        )
        # The kernel's datapath sends tunnels by the kernel's routes, and asks nobody here.
        if self.datapath == "netdev":
            wait_until(self._route_tunnels, f"the switch of {self.name} to see its tunnel address", every=0.01)

    def _route_tunnels(self) -> bool:
        """Refused as long as the switch has not heard of the address of br-phy."""
        try:
            self.appctl("ovs/route/add", str(self.underlay), PHYSICAL_BRIDGE)
        except CommandFailed:
            return False
        return True

    def start_all(self) -> None:
        self.start_database()
        self.start_switch()

    def kill_switch(self) -> None:
        """SIGKILL, as a crash: the flows are gone, the database stays. Already dead: nothing is done."""
        self._kill(self.switch_pid)

    def kill_database(self) -> None:
        self._kill(self.database_pid)

    def kill_all(self) -> None:
        """The compute dies. Its VMs' namespaces stay, cut off."""
        self._kill(self.switch_pid, self.database_pid)

    def restart_switch(self, graceful: bool = False) -> None:
        """By SIGKILL, or in good order as a package upgrade does."""
        pid = self.switch_pid
        if graceful and pid is not None:
            self.appctl("exit")
            wait_until(lambda: not processes.is_running(pid), f"the exit of the switch of {self.name}")
        self.kill_switch()
        self.start_switch()

    def stop(self, database: bool = True) -> None:
        """SIGSTOP: it hangs. Without `database`, the switch alone does."""
        pids = self._pids() if database else [pid for pid in (self.switch_pid,) if pid is not None]
        if not pids:
            raise NotReady(f"{self.name} has no running daemon to stop")
        for pid in pids:
            processes.send_signal(pid, signal.SIGSTOP)
        wait_until(lambda: all(map(processes.is_stopped, pids)), f"{self.name} to stop")

    def cont(self) -> None:
        for pid in self._pids():
            processes.send_signal(pid, signal.SIGCONT)

    def _pids(self) -> list[int]:
        return [pid for pid in (self.switch_pid, self.database_pid) if pid is not None]

    def _kill(self, *pids: int | None) -> None:
        processes.kill([pid for pid in pids if pid is not None])

    # ---- cables -------------------------------------------------------------------------------

    def cut_control(self) -> None:
        """Pull the management cable. Tenants' packets don't run through it."""
        self._cable(f"m{self.index}", "down")

    def heal_control(self) -> None:
        self._cable(f"m{self.index}", "up")

    def cut_data(self) -> None:
        """Pull the underlay cable: tunnels end, the controller is still heard."""
        self._cable(f"d{self.index}", "down")

    def heal_data(self) -> None:
        self._cable(f"d{self.index}", "up")

    def cut_outside(self) -> None:
        """Pull the cable to the provider network, of a compute that has one."""
        self._cable(f"x{self.index}", "down")

    def heal_outside(self) -> None:
        self._cable(f"x{self.index}", "up")

    def _cable(self, device: str, state: str) -> None:
        namespace.ip_batch(self.site.fabric, [f"link set {device} {state}"])

    # ---- what it uses -------------------------------------------------------------------------

    def usage(self) -> processes.Usage:
        """Of both daemons together."""
        total = processes.Usage(0.0, 0)
        for pid in self._pids():
            total = total.plus(processes.usage_of(pid))
        return total

    def cpu_time(self) -> float:
        return self.usage().cpu_seconds

    def rss(self) -> int:
        return self.usage().rss_bytes


@cache
def _version() -> str:
    """Of Open vSwitch: "ovs-vswitchd (Open vSwitch) 3.1.0"."""
    return run(["ovs-vswitchd", "--version"]).split("\n", 1)[0].rpartition(" ")[2]


def _bridge(name: str, card: str, datapath: str) -> list[str]:
    return [
        *("--", "add-br", name),
        *("--", "set", "Bridge", name, f"datapath_type={datapath}", "fail_mode=standalone"),
        *("--", "add-port", name, card),
    ]
