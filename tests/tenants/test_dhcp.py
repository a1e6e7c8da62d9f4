"""DHCP on real switches: a VM is told its address on its own compute, wherever that is."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from ebbtide.errors import BadInput, NotReady
from ebbtide.lab import Vm
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
    cloud.wait_clean()
    return cloud


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


def test_a_vm_that_moves_is_told_at_its_new_place_and_nothing_is_asked_of_another_compute(cloud: Cloud) -> None:
    cloud.migrate("vm1", "b")
    assert ask(cloud.lab.vm("vm1"), DISCOVER) is not None
    for name in "ac":
        cloud.lab.compute(name).kill_switch()
    assert ask(cloud.lab.vm("vm1"), DISCOVER) is not None
    assert ask(cloud.lab.vm("vm2"), DISCOVER) is not None


def test_name_servers_and_routes_are_told_and_a_client_that_takes_them_has_its_default_route_too(cloud: Cloud) -> None:
    servers = ["192.0.2.54", "2001:db8::53", "192.0.2.53"]
    told = {"dns": servers, "routes": ["10.9.0.0/16 via 10.2.0.9", "192.0.2.128/25 via 10.2.0.8"]}
    cloud.call(cloud.service.set_network("red", **told))
    offered = ask(cloud.lab.vm("vm2"), DISCOVER)
    assert offered is not None
    options = offered[1]
    assert options[6] == bytes([192, 0, 2, 54, 192, 0, 2, 53]), "in the order given, and none of IPv6"
    ways = bytes([16, 10, 9, 10, 2, 0, 9]) + bytes([25, 192, 0, 2, 128, 10, 2, 0, 8]) + bytes([0, 10, 2, 0, GATEWAY])
    assert options[121] == ways
    cloud.call(cloud.service.set_network("red", dns=[], routes=[]))
    offered = ask(cloud.lab.vm("vm2"), DISCOVER)
    assert offered is not None
    assert not {6, 121} & offered[1].keys()


@pytest.mark.parametrize(
    "wish",
    [{"dns": ["ns1"]}, {"routes": ["10.0.0.0/8"]}, {"routes": ["10.0.0.0/8 via fd00::1"]}, {"dns": ["192.0.2.1"] * 21}],
)
def test_what_cannot_be_told_is_refused(cloud: Cloud, wish: dict[str, list[str]]) -> None:
    with pytest.raises(BadInput):
        cloud.call(cloud.service.set_network("red", **wish))


def test_with_dhcp_off_again_nothing_is_left_and_requests_flood_as_before(cloud: Cloud) -> None:
    cloud.call(cloud.service.set_network("red", dhcp=False))
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
