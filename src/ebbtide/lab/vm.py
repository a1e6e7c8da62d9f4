"""One emulated VM: a namespace is the guest, a small bridge in the fabric its machine.

            guest              machine (in the fabric's namespace)          computes
        eb-L-v-NAME        g1 --[vm1]-- t1-0 ------------------- tapXXXX in eb-L-c-A, port of br-int
           eth0 ------------'        `- t1-1 ------------------- tapXXXX in eb-L-c-B, port of br-int

There is one tap per compute on which the VM is plugged: one, and two while it migrates. Taps are
isolated from each other, so no frame ever runs from compute to compute through a machine. A tap is open
(the guest runs here), draining (what is on its way to the guest still gets in) or closed. These are
flags of bridge ports, one netlink message each; port *states* would not do, for the kernel sets them
anew whenever a link changes.

The machine bridge learns nothing: what the guest sends goes to every open tap, what comes in goes to
the guest alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
import time
import uuid
from typing import NamedTuple

import msgspec

from ..errors import NotReady, Refused
from . import namespace, packets, processes
from .commands import run
from .compute import INTEGRATION_BRIDGE, Compute
from .site import Site, VmRecord

_VM_IDS = uuid.UUID("aa2c1ebb-71de-4b1d-8f5e-000000000001")

_OPEN = "locked off flood on mcast_flood on bcast_flood on"
_DRAINING = "locked off flood off mcast_flood off bcast_flood off"
_CLOSED = "locked on flood off mcast_flood off bcast_flood off"


class PingResult(NamedTuple):
    sent: int
    received: int
    milliseconds: tuple[float, ...]

    @property
    def lost(self) -> int:
        return self.sent - self.received


class Vm:
    """A handle; any process may make one for a VM of the lab. Where it is plugged is read from the record."""

    def __init__(self, site: Site, record: VmRecord) -> None:
        self.site = site
        self.name = record.name
        self.index = record.index
        self.mac = record.mac
        self.ip_cidr = record.ip_cidr
        self.ip = record.ip_cidr.partition("/")[0]
        self.iface_id = record.iface_id
        self.mtu = record.mtu
        self.namespace = site.vm_namespace(record.name)
        self.uuid = str(uuid.uuid5(_VM_IDS, record.name))

    def __repr__(self) -> str:
        return f"Vm({self.name}, {self.ip})"

    @property
    def record(self) -> VmRecord:
        return self.site.read().vms[self.name]

    @property
    def active(self) -> str:
        """The compute on which the guest runs; empty while it runs nowhere."""
        return self.record.active

    @property
    def plugged(self) -> tuple[str, ...]:
        return tuple(self.record.taps)

    # ---- making and removing ------------------------------------------------------------------

    def make(self, gateway: str | None = None) -> None:
        own, fabric = self.namespace, self.site.fabric
        bridge, guest = f"vm{self.index}", f"g{self.index}"
        namespace.ip_batch(None, [f"netns add {own}"])
        namespace.quiet(own)
        namespace.ip_batch(
            fabric,
            [
                f"link add {bridge} type bridge stp_state 0 mcast_snooping 0",
                f"link set {bridge} mtu {self.mtu} up",
                f"link add {guest} mtu {self.mtu} type veth "
                f"peer name eth0 address {self.mac} mtu {self.mtu} netns {own}",
                f"link set {guest} master {bridge} up",
            ],
        )
        namespace.bridge_batch(fabric, [f"link set dev {guest} learning off"])
        routes = [] if gateway is None else [f"route add default via {gateway}"]
        addresses = [f"addr add {self.ip_cidr} dev eth0"] if self.ip_cidr else []
        namespace.ip_batch(own, ["link set lo up", "link set eth0 up", *addresses, *routes])
        namespace.offloads_off(own, "eth0")
        namespace.offloads_off(fabric, bridge, guest)

    def remove(self) -> None:
        """Shut down, unplug from every compute that still answers, and throw away."""
        computes = self.site.read().computes
        for name in self.plugged:
            if name in computes:
                self.unplug(Compute(self.site, computes[name]))
        processes.kill(processes.pids_in_namespaces([self.namespace]))
        namespace.remove_links(self.site.fabric, f"g{self.index}", f"vm{self.index}")
        if namespace.path_of(self.namespace).exists():
            namespace.ip_batch(None, [f"netns del {self.namespace}"])

    # ---- plugging -----------------------------------------------------------------------------

    def plug(self, compute: Compute, active: bool = True, deadline: float = 20.0) -> str:
        """Plug the VM into br-int there, as libvirt does for Nova. Waits for br-int. Returns the tap's name."""
        if active and self.active not in ("", compute.name):
            raise Refused(f"{self.name} runs on {self.active}: migrate it, or plug it inactive")
        compute.await_bridge(deadline=deadline)
        tap = self._record_tap(compute.name)
        port = self._port(compute)
        fabric = self.site.fabric
        namespace.ip_batch(
            fabric,
            [
                f"link add {port} mtu {self.mtu} type veth peer name {tap} mtu {self.mtu} netns {compute.namespace}",
                f"link set {port} up",
            ],
        )
        namespace.ip_batch(compute.namespace, [f"link set {tap} up"])
        # It joins the machine open, but nothing is at its other end until the port is in br-int, below.
        namespace.ip_batch(fabric, [f"link set {port} master vm{self.index}"])
        namespace.bridge_batch(fabric, [f"link set dev {port} isolated on learning off {_OPEN if active else _CLOSED}"])
        namespace.offloads_off(fabric, port)
        namespace.offloads_off(compute.namespace, tap)
        compute.vsctl(
            *("--", "--may-exist", "add-port", INTEGRATION_BRIDGE, tap),
            *("--", "set", "Interface", tap),
            f"external_ids:iface-id={self.iface_id}",
            f'external_ids:attached-mac="{self.mac}"',
            "external_ids:iface-status=active",
            f"external_ids:vm-uuid={self.uuid}",
            deadline=deadline,
        )
        if active:
            self._record_active(compute.name)
        return tap

    def unplug(self, compute: Compute) -> None:
        """Take the VM's port out of br-int there, and the tap away. Not plugged: nothing is done."""
        tap = self.record.taps.get(compute.name)
        if tap is None:
            return
        if compute.database_pid is not None:
            compute.vsctl("--if-exists", "del-port", INTEGRATION_BRIDGE, tap, wait=compute.switch_pid is not None)
        namespace.remove_links(self.site.fabric, self._port(compute))
        with self.site.change() as record:
            mine = record.vms[self.name]
            taps = {name: tap for name, tap in mine.taps.items() if name != compute.name}
            active = "" if mine.active == compute.name else mine.active
            record.vms[self.name] = msgspec.structs.replace(mine, taps=taps, active=active)

    def run_on(self, compute: Compute, linger: float = 0.003) -> None:
        """The guest stops on one compute and runs on another, where it is plugged. No pause, no frame lost.

        For `linger` seconds the old tap still hands over what was on its way to the guest, as a real
        machine would during the last, short stop of the guest; then it is closed.
        """
        record = self.record
        if compute.name not in record.taps:
            raise Refused(f"{self.name} is not plugged on {compute.name}; it is on {', '.join(record.taps) or 'none'}")
        others = [self._port_of(name) for name in record.taps if name != compute.name]
        moves = [f"link set dev {self._port(compute)} {_OPEN}"]
        moves += [f"link set dev {port} {_DRAINING}" for port in others]
        namespace.bridge_batch(self.site.fabric, moves)
        if others:
            time.sleep(linger)
            namespace.bridge_batch(self.site.fabric, [f"link set dev {port} {_CLOSED}" for port in others])
        self._record_active(compute.name)

    def _record_tap(self, compute: str) -> str:
        with self.site.change() as record:
            mine = record.vms[self.name]
            if compute in mine.taps:
                raise Refused(f"{self.name} is plugged on {compute} already, as {mine.taps[compute]}")
            taken = {vm.taps[compute] for vm in record.vms.values() if compute in vm.taps}
            # Nova's way: "tap" and the first eleven characters of the port's id.
            tap = "tap" + self.iface_id[:11]
            if tap in taken or not re.fullmatch(r"tap[A-Za-z0-9_.-]+", tap):
                tap = "tap" + hashlib.sha256(self.iface_id.encode()).hexdigest()[:11]
            record.vms[self.name] = msgspec.structs.replace(mine, taps={**mine.taps, compute: tap})
        return tap

    def _record_active(self, compute: str) -> None:
        with self.site.change() as record:
            record.vms[self.name] = msgspec.structs.replace(record.vms[self.name], active=compute)

    def _port(self, compute: Compute) -> str:
        """The tap's other end, in the fabric."""
        return f"t{self.index}-{compute.index}"

    def _port_of(self, compute: str) -> str:
        return f"t{self.index}-{self.site.read().computes[compute].index}"

    # ---- what the guest does ------------------------------------------------------------------

    def speak_ipv6(self, *addresses: str, advertised: bool = True) -> None:
        """The guest speaks IPv6 from now on, from these addresses (with their prefixes) too; `advertised`: it believes routers."""
        namespace.speak_ipv6(self.namespace, "eth0", advertised=advertised)
        namespace.ip_batch(self.namespace, [f"addr add {address} dev eth0" for address in addresses])

    def exec(self, command: list[str], deadline: float = 30.0) -> str:
        """Run a command in the guest's network."""
        return run(namespace.command_in(self.namespace, command), deadline=deadline)

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0
    ) -> socket.socket:
        """A socket of the guest's, in this process."""
        return namespace.make_socket(self.namespace, family, kind, protocol)

    def connect(self, host: str, port: int, deadline: float = 5.0) -> socket.socket:
        return namespace.connect(self.namespace, host, port, deadline)

    def listen(self, port: int, host: str = "0.0.0.0") -> socket.socket:
        return namespace.listen(self.namespace, host, port)

    def packets(self, outgoing: bool = False) -> packets.PacketSocket:
        """What the guest's network card sees."""
        return packets.PacketSocket(self.namespace, "eth0", outgoing)

    def ping(self, ip: str, count: int = 1, deadline: float = 2.0, interval: float = 0.1, size: int = 56) -> PingResult:
        """`count` echo requests, one every `interval` seconds; `deadline` is for the last answer, after the last."""
        identifier = int.from_bytes(os.urandom(2), "big")
        sent_at: dict[int, float] = {}
        times: dict[int, float] = {}
        ipv6 = ":" in ip
        family, protocol = namespace.family_of(ip), socket.IPPROTO_ICMPV6 if ipv6 else socket.IPPROTO_ICMP
        echo = packets.icmpv6_echo if ipv6 else packets.icmp_echo
        with self.open_socket(family, socket.SOCK_RAW, protocol) as raw:
            due = time.monotonic()
            for sequence in range(count):
                sent_at[sequence] = time.monotonic()
                try:
                    raw.sendto(echo(identifier, sequence, b"e" * size), (ip, 0))
                except OSError:
                    pass  # no route, or the neighbour did not answer: this one is lost
                last = sequence == count - 1
                due = time.monotonic() + deadline if last else due + interval
                while (left := due - time.monotonic()) > 0 and not (last and len(times) == count):
                    answered = _echo_reply(raw, identifier, left, ipv6=ipv6)
                    if answered is not None and answered in sent_at:
                        times.setdefault(answered, (time.monotonic() - sent_at[answered]) * 1000)
        return PingResult(count, len(times), tuple(round(times[sequence], 3) for sequence in sorted(times)))

    def reaches(self, ip: str, deadline: float = 10.0, size: int = 56) -> bool:
        """Ask until an echo comes back, or the deadline is over."""
        end = time.monotonic() + deadline
        while True:
            if self.ping(ip, deadline=0.2, size=size).received:
                return True
            if time.monotonic() >= end:
                return False

    def send_rarp(self) -> None:
        """Announce the guest where it runs, once, as QEMU does: it is the machine that speaks, not the guest."""
        active = self.active
        if not active:
            raise NotReady(f"{self.name} runs nowhere: it has no place to announce")
        with packets.PacketSocket(self.site.fabric, self._port_of(active)) as out:
            out.send(packets.rarp(self.mac))


def _echo_reply(raw: socket.socket, identifier: int, timeout: float, *, ipv6: bool) -> int | None:
    """The sequence number of the next echo reply to us, if the next packet is one."""
    raw.settimeout(timeout)
    try:
        packet = raw.recv(65535)
    except OSError:
        return None
    body = packet if ipv6 else packet[(packet[0] & 0xF) * 4 :]
    if len(body) < 8:
        return None
    kind, _, _, who, sequence = struct.unpack("!BBHHH", body[:8])
    return int(sequence) if kind == (129 if ipv6 else 0) and who == identifier else None
