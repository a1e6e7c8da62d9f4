"""DHCP for IPv6 on real switches: a guest that asks from a socket is told its addresses on its own compute, wherever that is."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from ebbtide.lab import Vm, wait_until
from ebbtide.runtime.dhcp import LEASE
from tests.isolation.test_groups import secure
from tests.support.cloud import Cloud
from tests.support.dhcp6 import (
    ADVERTISE,
    ALL_SERVERS,
    IA_NA,
    INFORMATION,
    OWN_ID,
    RAPID,
    REPLY,
    REQUEST,
    SERVER_ID,
    SOLICIT,
    Option,
    Told,
    dns,
    frame,
    ia,
    link_local,
    message,
    read,
)
from tests.support.outside import LAG, settle

pytestmark = pytest.mark.lab
CLIENT, SERVER = 546, 547


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; network red of both families with DHCP, which tells a name server of each; vm1 on a, vm2 on b."""
    cloud = make_cloud(lag=LAG)
    cloud.add_computes("a", "b", "c")
    subnets, servers = ["10.2.0.0/24", "fd00:2::/64"], ["192.0.2.53", "2001:db8::53"]
    cloud.call(cloud.service.add_network("red", subnets, dhcp=True, dns=servers, ipv6_mode="dhcpv6-stateful"))
    for index, compute in enumerate("ab", 1):
        vm = cloud.add_vm(f"vm{index}", compute, "red", index)
        cloud.call(cloud.service.set_port(f"vm{index}", addresses=[vm.ip, f"fd00:2::{index}"]))
        vm.speak_ipv6()
    settle(cloud)
    wait_until(lambda: all(speaks(cloud.lab.vm(f"vm{n}")) for n in (1, 2)), "a link-local address")
    return cloud


def speaks(vm: Vm) -> bool:
    """Whether the guest has its link-local address: nobody else has been found to have it."""
    return link_local(vm.mac) in vm.exec(["ip", "-6", "addr", "show", "dev", "eth0", "-tentative"])


def ask(vm: Vm, kind: int, *more: Option, deadline: float = 2.0) -> Told | None:
    """What a guest is told that asks all servers from a socket; None: nothing."""
    with vm.open_socket(socket.AF_INET6) as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        own.bind(("::", CLIENT))
        own.settimeout(deadline)
        own.sendto(message(kind, OWN_ID, *more), (ALL_SERVERS, SERVER))
        try:
            answer, (sender, port, *_) = own.recvfrom(2000)
        except TimeoutError:
            return None
    assert port == SERVER
    told = read(answer)
    return told._replace(sender=sender.partition("%")[0])


def leased(vm: Vm) -> dict[str, int]:
    """The addresses that a guest gets, and for how long."""
    offered = ask(vm, SOLICIT, ia(IA_NA))
    assert offered is not None
    assert offered.kind == ADVERTISE
    given = ask(vm, REQUEST, offered.server, ia(IA_NA, *offered.lives))
    assert given is not None
    assert (given.kind, given.lives, dns(given)) == (REPLY, offered.lives, ["2001:db8::53"])
    return given.lives


def test_each_guest_is_told_its_own_address_secured_or_not(cloud: Cloud) -> None:
    for index in (1, 2):
        assert leased(cloud.lab.vm(f"vm{index}")) == {f"fd00:2::{index}": LEASE}
    secure(cloud, "vm1")
    vm1 = cloud.lab.vm("vm1")
    assert leased(vm1) == {"fd00:2::1": LEASE}, "in no group, and with no rule"
    at_once = ask(vm1, SOLICIT, (RAPID, b""), ia(IA_NA))
    assert at_once is not None
    assert (at_once.kind, at_once.lives) == (REPLY, {"fd00:2::1": LEASE})
    told = ask(vm1, INFORMATION)
    assert told is not None
    assert (told.lives, dns(told)) == ({}, ["2001:db8::53"])
    cloud.assert_clean()


def test_who_asks_another_server_or_with_anothers_mac_is_told_nothing_and_nobody_hears_it(cloud: Cloud) -> None:
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    with vm2.packets() as ear:
        assert ask(vm1, REQUEST, (SERVER_ID, bytes(18)), ia(IA_NA), deadline=0.5) is None
        with vm1.packets() as own:
            own.send(frame("02:aa:bb:cc:dd:ee", message(SOLICIT, OWN_ID, ia(IA_NA))))
        # Answered, so what was sent before has been heard.
        assert leased(vm1)
        assert not ear.waiting(lambda f: f[12:14] == b"\x86\xdd" and f[54:58] == b"\x02\x22\x02\x23")


def test_a_guest_that_moves_is_told_at_its_new_place_and_nothing_is_asked_of_another_compute(cloud: Cloud) -> None:
    cloud.migrate("vm1", "c")
    vm1 = cloud.lab.vm("vm1")
    assert leased(vm1) == {"fd00:2::1": LEASE}
    for name in "ab":
        cloud.lab.compute(name).kill_switch()
    offered = ask(vm1, SOLICIT, ia(IA_NA))
    assert offered is not None
    assert offered.lives == {"fd00:2::1": LEASE}


def test_a_guest_finds_its_router_and_asks_it_for_the_rest(cloud: Cloud) -> None:
    cloud.call(cloud.service.add_router("r1"))
    cloud.call(cloud.service.attach("r1", "red", "fd00:2::fe"))
    vm1 = cloud.lab.vm("vm1")
    wait_until(lambda: "default" in vm1.exec(["ip", "-6", "route"]), "a router advertised")
    told = ask(vm1, INFORMATION)
    assert told is not None
    assert f"default via {told.sender} " in vm1.exec(["ip", "-6", "route"])
    (lease,) = leased(vm1)
    vm1.exec(["ip", "addr", "add", f"{lease}/128", "dev", "eth0"])
    assert vm1.reaches("fd00:2::fe")
    cloud.assert_clean()


def test_another_controller_is_the_same_server(cloud: Cloud) -> None:
    vm1 = cloud.lab.vm("vm1")
    offered = ask(vm1, SOLICIT, ia(IA_NA))
    assert offered is not None
    cloud.restart_controller()
    cloud.wait_ready()
    given = ask(vm1, REQUEST, offered.server, ia(IA_NA))
    assert given is not None
    assert given.lives == {"fd00:2::1": LEASE}


def test_with_dhcp_off_again_a_server_of_the_tenants_own_hears_what_is_asked(cloud: Cloud) -> None:
    cloud.call(cloud.service.set_network("red", dhcp=False, ipv6_mode="none"))
    settle(cloud)
    with cloud.lab.vm("vm2").packets() as ear:
        assert ask(cloud.lab.vm("vm1"), SOLICIT, ia(IA_NA), deadline=0.5) is None
        assert ear.receive(lambda f: f[12:14] == b"\x86\xdd" and f[54:58] == b"\x02\x22\x02\x23")
    cloud.assert_clean()
