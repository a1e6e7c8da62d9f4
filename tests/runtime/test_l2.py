"""Frames on real switches: broadcast, unknown and multicast reach everybody once, ARP is answered on the spot, full MTU passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from ebbtide.lab import packets
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    cloud = make_cloud()
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_network("green", "10.1.0.0/24")
    for index, compute in enumerate("aabc", 1):
        cloud.add_vm(f"vm{index}", compute, "blue", index)
    for index, compute in enumerate("ab", 1):
        cloud.add_vm(f"other{index}", compute, "green", index)
    cloud.wait_clean()
    assert cloud.lab.vm("vm1").reaches("10.1.0.4")
    assert cloud.lab.vm("vm1").reaches("10.1.0.3")
    return cloud


def heard(cloud: Cloud, sender: str, frame: bytes) -> dict[str, int]:
    """How often each VM hears a frame; counted when a last frame of the sender has come to all who can hear it."""
    names = [vm.name for vm in cloud.lab.vms()]
    mac = cloud.lab.vm(sender).mac
    last = packets.ethernet(packets.BROADCAST, mac, 0x88B6, b"the last one")
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        ears = {name: stack.enter_context(cloud.lab.vm(name).packets()) for name in names}
        ears[sender].send(frame)
        ears[sender].send(last)
        for name, ear in ears.items():
            seen: list[bytes] = []
            if name != sender and name.startswith("vm"):
                ear.receive(lambda f, seen=seen: bool(seen.append(f)) or f[:40] == last[:40])
                counts[name] = sum(f[:60] == frame[:60] for f in seen)
        for name in names:
            counts.setdefault(name, sum(f[:60] == frame[:60] for f in ears[name].waiting()))
    return counts


EVERYBODY_ELSE = {"vm1": 0, "vm2": 1, "vm3": 1, "vm4": 1, "other1": 0, "other2": 0}


@pytest.mark.parametrize(
    ("kind", "destination"),
    [
        ("broadcast", packets.BROADCAST),
        ("unknown", "02:99:99:99:99:99"),
        ("multicast", "01:00:5e:00:00:fb"),
    ],
)
def test_what_is_flooded_reaches_every_other_port_of_the_network_once(
    cloud: Cloud, kind: str, destination: str
) -> None:
    frame = packets.ethernet(destination, cloud.lab.vm("vm1").mac, 0x88B6, kind.encode())
    assert heard(cloud, "vm1", frame) == EVERYBODY_ELSE


def test_a_frame_for_a_known_mac_reaches_it_alone(cloud: Cloud) -> None:
    frame = packets.ethernet(cloud.lab.vm("vm4").mac, cloud.lab.vm("vm1").mac, 0x88B6, b"for vm4")
    assert heard(cloud, "vm1", frame) == {**EVERYBODY_ELSE, "vm2": 0, "vm3": 0}


def test_arp_for_a_known_address_is_answered_on_the_spot_and_heard_by_nobody_else(cloud: Cloud) -> None:
    asker, asked = cloud.lab.vm("vm1"), cloud.lab.vm("vm4")
    request = packets.arp_request(asker.mac, asker.ip, asked.ip)
    with asker.packets() as ear:
        ear.send(request)
        answer = ear.receive(lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x02")
    assert answer[:42] == packets.arp_reply(asked.mac, asked.ip, asker.mac, asker.ip)[:42]
    assert heard(cloud, "vm1", request) == dict.fromkeys(EVERYBODY_ELSE, 0)


def test_an_address_probe_of_the_owner_and_a_gratuitous_arp_reach_everybody_and_are_not_answered(cloud: Cloud) -> None:
    owner = cloud.lab.vm("vm1")
    for frame in (packets.arp_request(owner.mac, "0.0.0.0", owner.ip), packets.gratuitous_arp(owner.mac, owner.ip)):
        assert heard(cloud, "vm1", frame) == EVERYBODY_ELSE


def test_frames_of_full_tenant_mtu_pass_the_tunnel(cloud: Cloud) -> None:
    assert cloud.lab.vm("vm1").ping("10.1.0.4", count=3, size=1450 - 28).lost == 0
