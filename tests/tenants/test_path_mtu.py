"""Path MTU on real switches: Linux is told what is too big, believes it, and its connections go through; what fits is nobody's business."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from ebbtide.decide.security import RuleWish
from ebbtide.lab import packets, wait_until
from ebbtide.model.facts import format_mac
from tests.support.cloud import Cloud
from tests.support.outside import (
    GATEWAY,
    LAG,
    NEXT_HOP,
    Host,
    gateway_of,
    outside,
    route,
    settle,
    wait_served,
)

pytestmark = pytest.mark.lab
SNAT, FLOATING, SECOND, THIRD = "203.0.113.10", "203.0.113.21", "203.0.113.22", "203.0.113.23"
#: IP_MTU_DISCOVER of ip(7), two of its values (IP_PMTUDISC_DO, IP_PMTUDISC_PROBE), and IP_MTU.
_MTU_DISCOVER, _ALWAYS, _PROBE, _PATH_MTU = 10, 2, 3, 14
HEADERS = 28


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud(lag=LAG)


def build(cloud: Cloud, outer: int, secured: bool) -> Host:
    """Router r1 between wide (MTU 1500; vm1 on a), blue (1450; vm2 on a, vm3 on b) and "out". Each VM takes its network for one of 1500."""
    host = outside(cloud, "a", "b", mtu=outer)
    cloud.call(cloud.service.add_network("wide", ["10.1.0.0/24"], mtu=1500))
    cloud.call(cloud.service.add_network("blue", ["10.2.0.0/24"], mtu=1450))
    route(cloud, "r1", "wide", "blue", outside="out", addresses=[SNAT])
    for index, (compute, network) in enumerate((("a", "wide"), ("a", "blue"), ("b", "blue")), 1):
        cloud.add_vm(f"vm{index}", compute, network, index, mtu=1500, gateway=GATEWAY)
    for address, port in ((FLOATING, "vm2"), (SECOND, "vm3")):
        cloud.call(cloud.service.add_floating("out", address, port))
    wait_served(cloud, "r1")
    if secured:
        cloud.call(cloud.service.add_group("all"))
        for inbound in (False, True):
            cloud.call(cloud.service.add_rule("all", RuleWish(inbound)))
        for index in (1, 2, 3):
            cloud.call(cloud.service.set_port(f"vm{index}", True, ["all"]))
    settle(cloud)
    return host


class Probe:
    """A UDP socket of a VM or host that never lets its packets be cut."""

    def __init__(self, end: Any, target: str = "", port: int = 9999) -> None:
        self.socket = end.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _ALWAYS)
        if target:
            self.socket.connect((target, port))
        else:
            self.socket.bind(("0.0.0.0", port))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def mtu(self) -> int:
        """What the kernel holds the path for."""
        return self.socket.getsockopt(socket.IPPROTO_IP, _PATH_MTU)

    def send(self, mtu: int) -> bool:
        """A packet of so many bytes; whether the kernel takes it. What it says of one before it, that nobody is there, is no matter."""
        for _ in range(2):
            try:
                self.socket.send(b"x" * (mtu - HEADERS))
                return True
            except ConnectionRefusedError:
                pass
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
        return False


def found(source: Any, target: str) -> int:
    """The path MTU that a kernel learns when it sends packets of 1500 bytes."""
    with Probe(source, target) as probe:

        def learnt() -> bool:
            probe.send(1500)
            return probe.mtu < 1500

        wait_until(learnt, f"{source.name} to be told of {target}")
        assert not probe.send(probe.mtu + 1)
        return probe.mtu


def is_error(frame: bytes) -> bool:
    """Fragmentation needed."""
    return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34:36] == b"\x03\x04"


def who_says(source: Any, target: str) -> tuple[str, str, int]:
    """MAC and address of who answers a packet of 1500 bytes, and the MTU told."""
    with source.packets() as ear, Probe(source, target) as probe:
        probe.send(1500)
        frame = ear.receive(is_error)
    said = int.from_bytes(frame[40:42], "big")
    return packets.mac_text(frame[6:12]), socket.inet_ntoa(frame[26:30]), said


def passes(source: Any, target: str, mtu: int) -> bool:
    """Whether a packet of that size comes and is echoed, and nobody has anything to say of it."""
    with source.packets() as ear:
        heard = source.reaches(target, size=mtu - HEADERS)
        return heard and not ear.waiting(is_error)


BULK = bytes(range(256)) * 1200


@contextmanager
def accepted(server: Any, client: Any, target: str, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: the client's end and the server's."""
    with server.listen(port) as listener, client.connect(target, port) as near:
        listener.settimeout(5)
        far, _ = listener.accept()
        with far:
            yield near, far


def carries(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether 300 KB arrive as they were sent."""
    thread = threading.Thread(target=sender.sendall, args=(BULK,))
    thread.start()
    receiver.settimeout(10)
    got = bytearray()
    while len(got) < len(BULK):
        data = receiver.recv(65536)
        if not data:
            break
        got += data
    thread.join(10)
    return bytes(got) == BULK


@pytest.mark.parametrize("secured", [False, True])
def test_between_networks_of_a_router(cloud: Cloud, secured: bool) -> None:
    build(cloud, 1500, secured)
    vm1, vm2, vm3 = (cloud.lab.vm(f"vm{n}") for n in (1, 2, 3))
    for there in (vm2, vm3):
        assert passes(vm1, there.ip, 1450)
        mac = format_mac(next(g.mac for g in cloud.controller.app.cluster.state.places("r1") if g.network == "wide"))
        assert who_says(vm1, there.ip) == (mac, f"10.1.0.{GATEWAY}", 1450)
        assert found(vm1, there.ip) == 1450
    # TCP says 1460 at both ends, and learns that it is 1410.
    vm1.exec(["ip", "route", "flush", "cache"])
    with accepted(vm2, vm1, vm2.ip, 8000) as (near, far):
        assert carries(near, far)
        assert near.getsockopt(socket.IPPROTO_IP, _PATH_MTU) == 1450
    # Back, and to the router itself, everything fits.
    with vm2.packets() as ear:
        assert passes(vm2, vm1.ip, 1450)
        assert not ear.waiting(is_error)
    assert passes(vm1, f"10.2.0.{GATEWAY}", 1500)
    cloud.assert_clean()


@pytest.mark.parametrize("secured", [False, True])
def test_from_outside_by_floating_ip_and_by_nat(cloud: Cloud, secured: bool) -> None:
    host = build(cloud, 1500, secured)
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    for address in (FLOATING, SECOND):
        mac = format_mac(cloud.controller.app.cluster.state.floatings["out", address].mac)
        assert passes(host, address, 1450)
        assert who_says(host, address) == (mac, address, 1450)
        assert found(host, address) == 1450
    host.exec(["ip", "route", "flush", "cache"])
    with accepted(vm2, host, FLOATING, 8000) as (near, far):
        assert carries(near, far)
        assert near.getsockopt(socket.IPPROTO_IP, _PATH_MTU) == 1450
        assert carries(far, near)
    # What is open by the NAT: a datagram is answered by one that is too big, and TCP by many.
    with Probe(host, port=7000) as far_end, Probe(vm1, NEXT_HOP, 7000) as opened:
        opened.socket.send(b"?")
        far_end.socket.settimeout(5)
        _, peer = far_end.socket.recvfrom(100)
        assert peer[0] == SNAT
        far_end.socket.connect(peer)
        with host.packets() as ear:
            far_end.send(1500)
            wait_until(lambda: far_end.mtu == 1450, "the host to be told of the router")
            assert [socket.inet_ntoa(frame[26:30]) for frame in ear.waiting(is_error)] == [SNAT]
        far_end.send(1450)
        opened.socket.settimeout(5)
        assert len(opened.socket.recv(2000)) == 1450 - HEADERS
    host.exec(["ip", "route", "flush", "cache"])
    with accepted(host, vm1, NEXT_HOP, 8001) as (near, far):
        assert carries(far, near)
        assert carries(near, far)
    cloud.assert_clean()


@pytest.mark.parametrize("secured", [False, True])
def test_to_an_outside_that_takes_less(cloud: Cloud, secured: bool) -> None:
    host = build(cloud, 1300, secured)
    vm1, vm2, vm3 = (cloud.lab.vm(f"vm{n}") for n in (1, 2, 3))
    for vm, gateway in ((vm1, f"10.1.0.{GATEWAY}"), (vm2, f"10.2.0.{GATEWAY}"), (vm3, f"10.2.0.{GATEWAY}")):
        assert passes(vm, NEXT_HOP, 1300)
        assert who_says(vm, NEXT_HOP)[1:] == (gateway, 1300)
        assert found(vm, NEXT_HOP) == 1300
    vm2.exec(["ip", "route", "flush", "cache"])
    with accepted(host, vm2, NEXT_HOP, 8000) as (near, far):
        assert carries(near, far)
    # Between the networks it is still theirs that counts.
    assert found(vm1, vm3.ip) == 1450
    assert passes(vm2, vm1.ip, 1450)
    cloud.assert_clean()


@pytest.mark.parametrize("secured", [False, True])
def test_a_vm_that_writes_to_another_vms_floating_ip(cloud: Cloud, secured: bool) -> None:
    """One of the two is exchanged where vm1 is translated, so what vm1 sends there never sees the wire."""
    build(cloud, 1500, secured)
    vm1 = cloud.lab.vm("vm1")
    assert gateway_of(cloud, "r1") in ("a", "b")
    for address in (FLOATING, SECOND):
        assert passes(vm1, address, 1450)
        assert found(vm1, address) == 1450
    # With a floating IP of its own, it is told of what it has sent itself, and not of what was made of that.
    vm1.exec(["ip", "route", "flush", "cache"])
    cloud.call(cloud.service.add_floating("out", THIRD, "vm1"))
    settle(cloud)
    for address in (FLOATING, SECOND):
        assert passes(vm1, address, 1450)
        assert found(vm1, address) == 1450
    cloud.assert_clean()


def test_a_flood_of_what_is_too_big_is_answered_at_a_bounded_rate(cloud: Cloud) -> None:
    build(cloud, 1500, False)
    vm1 = cloud.lab.vm("vm1")
    assert vm1.reaches("10.2.0.3")
    with vm1.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear, Probe(vm1) as out:
        ear.settimeout(1.0)
        out.socket.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _PROBE)
        began = time.monotonic()
        for _ in range(3000):
            out.socket.sendto(b"x" * (1500 - HEADERS), ("10.2.0.3", 9999))
        took, answers = time.monotonic() - began, 0
        with suppress(TimeoutError):
            while ear.recv(2048):
                answers += 1
    assert 0 < answers <= 100 * (took + 2)
    assert found(vm1, "10.2.0.3") == 1450, "the meter lets some pass again"
