"""DHCP by a designated compute, on real switches: a VM is told its address, wherever it is and whoever is designated."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from ebbtide.errors import NotReady
from ebbtide.lab import Vm, wait_until
from ebbtide.model.state import DHCP
from ebbtide.runtime.dhcp import LEASE, options
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, LAG, route, settle

pytestmark = pytest.mark.lab
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
XID = 0xEBB71DE


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; network red with DHCP, router r1 in it, vm1 on a, vm2 on b, vm3 on c."""
    cloud = make_cloud(lag=LAG)
    cloud.add_computes("a", "b", "c")
    cloud.call(cloud.service.add_network("red", ["10.2.0.0/24"], dhcp=True))
    route(cloud, "r1", "red")
    for index, compute in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", compute, "red", index, gateway=GATEWAY)
    cloud.wait_ready()
    cloud.wait(lambda: bool(served_by(cloud)), what="somebody designated")
    cloud.wait_clean()
    return cloud


def served_by(cloud: Cloud) -> str:
    state = cloud.controller.app.cluster.state
    found = state.designations.get((DHCP, "red"))
    return state.computes[found.compute].name if found is not None else ""


def message(mac: bytes, kind: int, *more: tuple[int, bytes]) -> bytes:
    """A client's broadcast, as RFC 2131 has it."""
    head = struct.pack("!BBBBIHHIIII16s192x4s", 1, 1, 6, 0, XID, 0, 0x8000, 0, 0, 0, 0, mac, b"\x63\x82\x53\x63")
    body = head + b"".join(bytes([n, len(v)]) + v for n, v in ((53, bytes([kind])), *more)) + b"\xff"
    udp = struct.pack("!HHHH", 68, 67, 8 + len(body), 0) + body
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, 0, 0xFFFFFFFF)
    total = sum(struct.unpack("!10H", ip))
    ip = ip[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + ip[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + ip + udp


def ask(vm: Vm, kind: int, *more: tuple[int, bytes], deadline: float = 2.0) -> tuple[str, dict[int, bytes]] | None:
    """The address that a VM is given, and the options; None: no answer."""
    mac = bytes.fromhex(vm.mac.replace(":", ""))
    with vm.packets() as ear:
        ear.send(message(mac, kind, *more))
        try:
            frame = ear.receive(lambda f: f[12:14] == b"\x08\x00" and f[23] == 17 and f[34:38] == b"\0C\0D", deadline)
        except NotReady:
            return None
    assert frame[0:6] == mac, "nobody else's"
    assert frame[46:50] == XID.to_bytes(4, "big")
    return ".".join(map(str, frame[58:62])), options(frame[42 + 240 :])


def test_each_vm_is_told_its_own_address_wherever_it_is(cloud: Cloud) -> None:
    for index in (1, 2, 3):
        vm = cloud.lab.vm(f"vm{index}")
        offered = ask(vm, DISCOVER)
        assert offered is not None, index
        address, told = offered
        assert (address, told[53]) == (f"10.2.0.{index}", bytes([OFFER]))
        assert (told[1], told[3], told[26]) == (
            b"\xff\xff\xff\0",
            bytes([10, 2, 0, GATEWAY]),
            (1450).to_bytes(2, "big"),
        )
        given = ask(vm, REQUEST, (50, bytes([10, 2, 0, index])), (54, told[54]))
        assert given is not None
        assert (given[0], given[1][53], given[1][51]) == (f"10.2.0.{index}", bytes([ACK]), LEASE.to_bytes(4, "big"))
    cloud.assert_clean()


def test_who_asks_for_anothers_address_is_told_no_and_a_stranger_nothing(cloud: Cloud) -> None:
    vm = cloud.lab.vm("vm1")
    refused = ask(vm, REQUEST, (50, bytes([10, 2, 0, 2])))
    assert refused is not None
    assert (refused[0], refused[1][53]) == ("0.0.0.0", bytes([NAK]))
    assert ask(vm, REQUEST, (50, bytes([10, 2, 0, 1])), (54, bytes([192, 0, 2, 1])), deadline=0.5) is None
    with vm.packets() as ear:
        ear.send(message(b"\x02\xaa\xbb\xcc\xdd\xee", DISCOVER))
        with pytest.raises(NotReady):
            ear.receive(lambda f: f[34:38] == b"\0C\0D", 0.5)


def test_its_compute_is_scaled_in_or_killed_and_vms_are_told_all_the_same(cloud: Cloud) -> None:
    first = served_by(cloud)
    cloud.call(cloud.service.start([first]))
    cloud.wait(lambda: served_by(cloud) not in ("", first), what="another designated")
    settle(cloud)
    assert ask(cloud.lab.vm("vm1"), DISCOVER) is not None
    cloud.call(cloud.service.recover([first]))
    second = served_by(cloud)
    alive = next(f"vm{i}" for i, name in enumerate("abc", 1) if name not in (first, second))
    cloud.lab.compute(second).kill_switch()
    cloud.wait(lambda: served_by(cloud) not in ("", second), what="who stands by designated")
    wait_until(lambda: ask(cloud.lab.vm(alive), DISCOVER, deadline=0.5) is not None, "an offer")


def test_with_dhcp_off_again_nothing_is_left_and_requests_flood_as_before(cloud: Cloud) -> None:
    cloud.call(cloud.service.set_network("red", dhcp=False))
    cloud.wait(lambda: not served_by(cloud), what="nobody designated")
    settle(cloud)
    for compute in cloud.lab.computes():
        rows = [line for line in compute.ofctl("dump-flows", "br-int").splitlines() if "table=60" in line]
        assert rows == []
    with cloud.lab.vm("vm2").packets() as ear:
        vm = cloud.lab.vm("vm1")
        with vm.packets() as out:
            out.send(message(bytes.fromhex(vm.mac.replace(":", "")), DISCOVER))
        assert ear.receive(lambda f: f[34:38] == b"\0D\0C")
    cloud.assert_clean()
