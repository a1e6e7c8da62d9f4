"""What tests of routers and NAT need besides a cloud: hosts that say whom they see, traceroute, and a router made in one line."""

from __future__ import annotations

import json
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ebbtide.lab import Compute, Vm, namespace, packets
from tests.support.cloud import Cloud

PHYSICAL, SUBNET, NEXT_HOP = "physnet1", "203.0.113.0/24", "203.0.113.1"
PORT = 7777
#: Cached flows follow within half a second on this datapath; tests need not wait for as long as one in earnest (seconds).
LAG = 0.6
#: The last byte of each gateway's address.
GATEWAY = 254


class Host:
    """A host on the provider network: what a VM can do, it can too."""

    ping, reaches, exec = Vm.ping, Vm.reaches, Vm.exec
    open_socket, connect, listen, speak_ipv6 = Vm.open_socket, Vm.connect, Vm.listen, Vm.speak_ipv6

    def __init__(self, cloud: Cloud, name: str, cidr: str = f"{NEXT_HOP}/24", vlan: int = 0) -> None:
        self.name, self.ip = name, cidr.partition("/")[0]
        self.namespace = cloud.lab.add_host(name, cidr)
        self.device = "eth0"
        if vlan:
            self._behind_a_switch(cloud, cidr, vlan)

    def _behind_a_switch(self, cloud: Cloud, cidr: str, vlan: int) -> None:
        """Its address is on another card, at a port of that VLAN of a switch outside: a br-ex that no controller knows."""
        switch = cloud.lab.add_compute(f"switch-{self.name}", physical_network="outside")
        self.device, there = "tagged", "host"
        link = f"link add {self.device} type veth peer name {there} netns {switch.namespace}"
        moved = [f"addr del {cidr} dev eth0", link, f"link set {self.device} up", f"addr add {cidr} dev {self.device}"]
        namespace.ip_batch(self.namespace, moved)
        namespace.ip_batch(switch.namespace, [f"link set {there} up"])
        namespace.offloads_off(self.namespace, self.device)
        namespace.offloads_off(switch.namespace, there)
        switch.vsctl("add-port", "br-ex", there, f"tag={vlan}")

    def packets(self) -> packets.PacketSocket:
        return packets.PacketSocket(self.namespace, self.device)

    @property
    def mac(self) -> str:
        words = self.exec(["ip", "-o", "link", "show", self.device]).split()
        return words[words.index("link/ether") + 1]

    def announce(self) -> None:
        """Gratuitous ARP, as a host sends that has just come up."""
        with self.packets() as out:
            out.send(packets.gratuitous_arp(self.mac, self.ip))

    def knows(self, address: str) -> str:
        """The MAC that it has for an address, or ""."""
        words = self.exec(["ip", "neigh", "show", address]).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def outside(cloud: Cloud, *computes: str, **settings: Any) -> Host:
    """Computes with a cable to the provider network, the network "out" there, and its next hop."""
    cloud.lab.add_computes(list(computes), register="tcp:10.255.0.1:6640", physical_network=PHYSICAL)
    cloud.wait_ready(*computes)
    cloud.call(cloud.service.add_external("out", PHYSICAL, SUBNET, NEXT_HOP, **settings))
    return Host(cloud, "ext", vlan=settings.get("vlan", 0))


def route(cloud: Cloud, name: str, *networks: str, **wishes: Any) -> None:
    """A router in these networks, at .254 of each."""
    cloud.call(cloud.service.add_router(name, **wishes))
    for network in networks:
        base = cloud.controller.app.cluster.state.networks[network].subnets[0].rsplit(".", 1)[0]
        cloud.call(cloud.service.attach(name, network, f"{base}.{GATEWAY}"))


def wait_served(cloud: Cloud, *routers: str) -> None:
    """Until these have a compute for their NAT, their networks outside a next hop, those who watch each other do, and all is applied."""
    cluster = cloud.controller.app.cluster

    def watched() -> bool:
        state, members = cluster.state, cluster.members
        pairs = [(members[n].view.tunnels.get(p), p) for n in state.computes for p in state.relation_peers(n)]
        return all(tunnel is not None and tunnel.up for tunnel, _ in pairs)

    def served() -> bool:
        state = cluster.state
        found = [state.routers[name] for name in routers]
        known = all((r.external, state.externals[r.external].gateway) in state.neighbours for r in found)
        return known and all(("nat", name) in state.designations for name in routers) and watched()

    cloud.wait(served, what=f"{routers} served")
    cloud.wait_clean()


def settle(cloud: Cloud) -> None:
    """Until all is applied, and the cached flows of each datapath follow."""
    cloud.wait_clean()
    for compute in cloud.lab.computes():
        compute.revalidate()


def gateway_of(cloud: Cloud, router: str) -> str:
    """The name of the compute that serves a router's NAT."""
    state = cloud.controller.app.cluster.state
    return state.computes[state.designations["nat", router].compute].name


# --- who is seen ---


class Answers:
    """A thread that answers on sockets: to whoever speaks, what it is called and whom it sees."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._ends = socket.socketpair()
        self._selector.register(self._ends[0], selectors.EVENT_READ, "")
        self._thread = threading.Thread(target=self._run, daemon=True)

    def serve(self, end: Any, port: int = PORT) -> None:
        """TCP and UDP at `end`, a VM or a host."""
        heard = end.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        heard.bind(("0.0.0.0", port))
        for each in (heard, end.listen(port)):
            each.setblocking(False)
            self._selector.register(each, selectors.EVENT_READ, end.name)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._ends[0]:
                    return
                self._hear(key.fileobj, key.data)

    def _hear(self, heard: Any, name: str) -> None:
        try:
            if heard.type == socket.SOCK_DGRAM:
                data, peer = heard.recvfrom(2048)
                heard.sendto(_words(name, peer), peer)
            elif heard.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                made, _ = heard.accept()
                made.setblocking(False)
                self._selector.register(made, selectors.EVENT_READ, name)
            else:
                data = heard.recv(2048)
                if data:
                    heard.send(_words(name, heard.getpeername()))
                else:
                    self._drop(heard)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(heard)

    def _drop(self, gone: Any) -> None:
        self._selector.unregister(gone)
        gone.close()

    def __enter__(self) -> Answers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends[1].send(b".")
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._ends[1].close()
        self._selector.close()


def _words(name: str, peer: tuple[str, int]) -> bytes:
    return f"{name} {peer[0]} {peer[1]}".encode()


def asked(spoken: socket.socket, deadline: float = 3.0) -> tuple[str, str, int]:
    """Who answers on a socket that is connected, and the address and port that it sees."""
    spoken.settimeout(deadline)
    spoken.send(b"who am I?")
    name, address, port = spoken.recv(100).decode().split()
    return name, address, int(port)


@contextmanager
def speaking(source: Any, target: str, kind: int = socket.SOCK_STREAM, port: int = PORT) -> Iterator[socket.socket]:
    """A connected socket of a VM or host; UDP that finds nobody says so as well."""
    with source.open_socket(socket.AF_INET, kind) as made:
        made.settimeout(5)
        made.connect((target, port))
        yield made


def seen(source: Any, target: str, kind: int = socket.SOCK_STREAM, port: int = PORT) -> tuple[str, str]:
    """Who answers at `target`, and the address from which it is spoken to."""
    with speaking(source, target, kind, port) as made:
        return asked(made)[:2]


# --- traceroute ---


def hop(vm: Any, target: str, ttl: int, deadline: float = 3.0) -> str:
    """Who answers a packet with this TTL by ICMP: the address, and "!" behind it if that is the end of the way ("" : nobody)."""
    with vm.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear:
        with vm.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            out.bind(("0.0.0.0", 0))
            out.sendto(b"?" * 32, (target, 33434))
            own = out.getsockname()[1]
            end = time.monotonic() + deadline
            while (left := end - time.monotonic()) > 0:
                ear.settimeout(left)
                try:
                    packet, (address, _) = ear.recvfrom(2048)
                except TimeoutError:
                    break
                icmp = packet[(packet[0] & 15) * 4 :]
                quoted = icmp[8:]
                ports = quoted[(quoted[0] & 15) * 4 :] if len(quoted) > 20 else b""
                if icmp[0] in (3, 11) and struct.unpack("!H", ports[:2])[0] == own:
                    return f"{address}!" if icmp[0] == 3 else str(address)
    return ""


def burst(vm: Any, target: str, count: int) -> tuple[int, float]:
    """So many packets whose TTL ends at the router: the answers, and how long it took to send (seconds)."""
    with vm.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        with vm.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
            began = time.monotonic()
            for _ in range(count):
                out.sendto(b"?", (target, 33434))
            took = time.monotonic() - began
        answers = 0
        ear.settimeout(1.0)
        try:
            while ear.recv(2048):
                answers += 1
        except TimeoutError:
            pass
    return answers, took


# --- what a compute's host shows ---


def reason_of(cloud: Cloud, compute: str) -> str:
    """What a person reads of a compute in its status."""
    return str(cloud.service.compute_status(cloud.fact(compute))["reason"])


def assert_well(cloud: Cloud) -> None:
    """The audit finds nothing, and no compute has anything to complain of."""
    cloud.assert_clean()
    for compute in cloud.controller.app.cluster.state.members():
        status = cloud.service.compute_status(compute)
        assert (status["reason"], status["rejected"]) == ("", []), status


def bridge(compute: Compute, name: str = "br-ex") -> dict[str, object]:
    """A bridge of the host's: its ports, and all of its settings."""
    found = {
        c: compute.vsctl("get", "bridge", name, c).strip() for c in ("flood_vlans", "external_ids", "other_config")
    }
    return {**found, "ports": sorted(compute.ports(name)), "fail_mode": compute.vsctl("get-fail-mode", name).strip()}


def patches(compute: Compute) -> list[str]:
    """Where our patch ports are: "bridge physical-network", in order."""
    columns = ("--format=json", "--columns=name,external_ids", "find", "interface", "type=patch")
    rows = json.loads(compute.vsctl(*columns, wait=False))["data"]
    where = {port: name for name in compute.vsctl("list-br", wait=False).split() for port in compute.ports(name)}
    return sorted(f"{where.get(name)} {dict(ids[1]).get('ebbtide-provider')}" for name, ids in rows)
