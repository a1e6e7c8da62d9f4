"""Dual stack on real switches: neighbours are found in the sender's own switch, routers are advertised, and what a router routes in IPv4 it
routes in IPv6, out to the world without NAT."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from ebbtide.decide.adverts import Advert, Prefix
from ebbtide.errors import NotReady
from ebbtide.lab import Vm, namespace, packets, wait_until
from ebbtide.model.addresses import link_local, number
from ebbtide.north import explain
from ebbtide.runtime import frames6
from tests.isolation.test_groups import allow, secure
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, LAG, Host, gateway_of, outside, route, settle, wait_served

pytestmark = pytest.mark.lab

NEXT_HOP6, ROUTER6 = "2001:db8:ffff::1", "2001:db8:ffff::10"


def blue(index: int | str) -> str:
    return f"2001:db8:1::{index}"


def red(index: int | str) -> str:
    return f"2001:db8:2::{index}"


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    return make_cloud(lag=LAG)


@pytest.fixture
def outer(cloud: Cloud) -> Host:
    """a, b and c have a cable outside, where the next hop sends what is for our networks to r1's IPv6 address there. vm1 on a and vm2 on b
    are in blue, vm3 on b in red; r1 is in both, in both families."""
    host = outside(cloud, "a", "b", "c")
    for name, tag in (("blue", 1), ("red", 2)):
        subnets = [f"10.{tag}.0.0/24", f"2001:db8:{tag}::/64"]
        cloud.call(cloud.service.add_network(name, subnets, ipv6_mode="static"))
    six = {"subnet6": "2001:db8:ffff::/64", "gateway6": NEXT_HOP6, "prefixes": ["2001:db8::/44"]}
    cloud.call(cloud.service.set_external("out", **six))
    route(cloud, "r1", "blue", "red", outside="out", addresses=["203.0.113.10", ROUTER6])
    for index, (compute, network) in enumerate((("a", "blue"), ("b", "blue"), ("b", "red")), 1):
        prefix = blue if network == "blue" else red
        cloud.add_vm(f"vm{index}", compute, network, index, gateway=GATEWAY)
        cloud.call(cloud.service.set_port(f"vm{index}", addresses=[cloud.lab.vm(f"vm{index}").ip, prefix(index)]))
    for network, prefix in (("blue", blue), ("red", red)):
        cloud.call(cloud.service.attach("r1", network, prefix(GATEWAY)))
    host.speak_ipv6(f"{NEXT_HOP6}/64", advertised=False)
    host.exec(["ip", "-6", "route", "add", "2001:db8::/32", "via", ROUTER6])
    wait_served(cloud, "r1")
    for index, prefix in ((1, blue), (2, blue), (3, red)):
        cloud.lab.vm(f"vm{index}").speak_ipv6(f"{prefix(index)}/64")
    wait_until(lambda: not any("tentative" in shown(cloud.lab.vm(f"vm{n}")) for n in (1, 2, 3)), "addresses their own")
    return host


def shown(vm: Vm) -> str:
    return vm.exec(["ip", "-6", "addr", "show", "dev", "eth0"])


def has_router(vm: Vm) -> bool:
    return "default" in vm.exec(["ip", "-6", "route", "show", "default"])


def wait_router(*vms: Vm) -> None:
    wait_until(lambda: all(has_router(vm) for vm in vms), "a router advertised")


def test_a_guest_finds_its_router_its_neighbours_and_the_world(cloud: Cloud, outer: Host) -> None:
    vm1, vm2, vm3 = (cloud.lab.vm(f"vm{n}") for n in (1, 2, 3))
    wait_router(vm1, vm2, vm3)
    assert vm1.reaches(blue(2)), "a neighbour"
    assert vm1.reaches(blue(GATEWAY)), "the router's own address, answered in the switch"
    assert vm1.reaches(red(3)), "by way of the router"
    cloud.wait(lambda: ("out", NEXT_HOP6) in cloud.controller.app.cluster.state.neighbours, what="the next hop known")
    settle(cloud)
    assert vm1.reaches(NEXT_HOP6), "the world, untranslated"
    assert outer.reaches(blue(2)), "and from there"
    with vm3.listen(80, "::") as listener, outer.connect(red(3), 80) as near:
        listener.settimeout(5)
        far, peer = listener.accept()
        assert peer[0] == NEXT_HOP6
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        far.close()


def test_neighbours_are_answered_in_the_senders_own_switch_and_nobody_else_hears(cloud: Cloud, outer: Host) -> None:
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    wait_router(vm1, vm2)
    cloud.controller.stop()
    vm1.exec(["ip", "-6", "neigh", "flush", "dev", "eth0"])
    with vm2.packets() as seen:
        assert vm1.reaches(blue(2))
        assert vm1.reaches(blue(GATEWAY))
        assert not vm1.ping(blue(98), deadline=0.1).received
        asked = seen.receive(lambda f: is_solicitation(f) and f[6:12] == mac_of(vm1))
    # The first that anybody heard of: no controller was there, and nobody was asked about what is known.
    assert asked[62:78] == number(blue(98)).to_bytes(16, "big")
    assert neighbour(vm1, blue(2)) == vm2.mac


def until(seen: packets.PacketSocket, last: Callable[[bytes], bool]) -> list[bytes]:
    """All frames that come up to one, and that: it was sent after them by the same way."""
    heard: list[bytes] = []

    def found(frame: bytes) -> bool:
        heard.append(frame)
        return last(frame)

    seen.receive(found)
    return heard


def is_solicitation(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 135


def mac_of(vm: Vm) -> bytes:
    return bytes.fromhex(vm.mac.replace(":", ""))


def neighbour(vm: Vm, address: str) -> str:
    words = vm.exec(["ip", "-6", "neigh", "show", address]).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def test_nobody_takes_an_address_that_is_taken(cloud: Cloud, outer: Host) -> None:
    vm2 = cloud.lab.vm("vm2")
    for taken in (blue(1), blue(GATEWAY)):
        vm2.exec(["ip", "addr", "add", f"{taken}/64", "dev", "eth0"])
        wait_until(lambda: "dadfailed" in shown(vm2), f"{taken} refused")
        vm2.exec(["ip", "addr", "del", f"{taken}/64", "dev", "eth0"])
    vm2.exec(["ip", "addr", "add", f"{blue(77)}/64", "dev", "eth0"])
    assert cloud.lab.vm("vm1").reaches(blue(77)), "a free one is had at once"
    assert "dadfailed" not in shown(vm2)


def test_a_guest_makes_its_address_of_what_the_router_says(cloud: Cloud, outer: Host) -> None:
    cloud.call(cloud.service.set_network("red", ipv6_mode="slaac"))
    vm4 = cloud.add_vm("vm4", "c", "red", 4)
    own = str(IPv6Address(number(red("")) | link_local(number_of(vm4)) & (1 << 64) - 1))
    assert own in cloud.controller.app.cluster.state.ports["vm4"].addresses, (
        "it is the port's, without anybody saying so"
    )
    settle(cloud)
    vm4.speak_ipv6()
    wait_until(lambda: own in shown(vm4), "an address made")
    assert vm4.exec(["cat", "/proc/sys/net/ipv6/conf/eth0/mtu"]).strip() == "1450"
    assert cloud.lab.vm("vm1").reaches(own)


def test_what_a_vm_says_of_routers_is_nobodys(cloud: Cloud, outer: Host) -> None:
    vm2 = cloud.lab.vm("vm2")
    lie = Advert(number_of(vm2), 9000, 1450, prefixes=(Prefix(number("2001:db8:bad::"), 64, True),))
    with cloud.lab.vm("vm1").packets() as seen, vm2.packets() as out:
        out.send(frames6.router_advert(lie))
        out.send(frames6.advertisement(number(blue(2)), number_of(vm2)))
        heard = until(
            seen, lambda f: f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 136 and f[6:12] == mac_of(vm2)
        )
        assert not [f for f in heard if mac_of(vm2) in f and is_router(f)]
    assert "bad" not in cloud.lab.vm("vm1").exec(["ip", "-6", "route"])
    cloud.call(cloud.service.set_network("blue", ipv6_mode="none"))
    settle(cloud)
    with cloud.lab.vm("vm1").packets() as seen, vm2.packets() as out:
        out.send(frames6.router_advert(lie))
        seen.receive(lambda f: f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 134 and f[6:12] == mac_of(vm2))


def test_what_has_no_way_is_told_so_at_once(cloud: Cloud, outer: Host) -> None:
    vm1 = cloud.lab.vm("vm1")
    wait_out(cloud, vm1)
    cloud.call(cloud.service.set_router("r1", addresses=["203.0.113.10"]))
    settle(cloud)
    begun = time.monotonic()
    with pytest.raises(NotReady, match=r"No route to host|unreachable"):
        vm1.connect(NEXT_HOP6, 80, 20)
    assert time.monotonic() - begun < 5


def number_of(vm: Vm) -> int:
    return int.from_bytes(mac_of(vm), "big")


def test_a_router_that_leaves_a_network_says_so(cloud: Cloud, outer: Host) -> None:
    vm3 = cloud.lab.vm("vm3")
    wait_router(vm3)
    cloud.call(cloud.service.detach("r1", "red", red(GATEWAY)))
    wait_until(lambda: not has_router(vm3), "no router any more")
    cloud.call(cloud.service.attach("r1", "red", red(GATEWAY)))
    wait_router(vm3)
    settle(cloud)
    assert cloud.lab.vm("vm1").reaches(red(3))
    cloud.assert_clean()


def test_the_gateway_is_scaled_in_and_no_packet_is_lost(cloud: Cloud, outer: Host) -> None:
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    wait_out(cloud, vm1, vm2)
    old = gateway_of(cloud, "r1")
    with ThreadPoolExecutor(2) as pool:
        streams = [pool.submit(end.ping, NEXT_HOP6, 600, 3.0, 0.02) for end in (vm1, vm2)]
        inward = pool.submit(outer.ping, blue(1), 600, 3.0, 0.02)
        cloud.call(cloud.service.start([old]))
        cloud.wait(lambda: gateway_of(cloud, "r1") != old, 30, "served elsewhere")
        cloud.wait(lambda: not cloud.controller.app.cluster.state.moves, 60, "the move over")
        assert [stream.result().lost for stream in (*streams, inward)] == [0, 0, 0]
    cloud.assert_clean()


def wait_out(cloud: Cloud, *vms: Vm) -> None:
    """Until these reach the world."""
    wait_router(*vms)
    cloud.wait(lambda: ("out", NEXT_HOP6) in cloud.controller.app.cluster.state.neighbours, what="the next hop known")
    settle(cloud)
    for vm in vms:
        assert vm.reaches(NEXT_HOP6)


def test_the_gateway_dies_and_the_one_that_stands_by_takes_over(cloud: Cloud, outer: Host) -> None:
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    wait_out(cloud, vm1, vm2)
    old = gateway_of(cloud, "r1")
    alive = vm2 if old == "a" else vm1
    cloud.lab.compute(old).kill_switch()
    assert alive.reaches(NEXT_HOP6)
    assert outer.reaches(blue(2) if alive is vm2 else blue(1))


def test_from_where_nothing_can_come_back_nothing_leaves(cloud: Cloud, outer: Host) -> None:
    vm1 = cloud.lab.vm("vm1")
    wait_out(cloud, vm1)
    gateway = number_of_router(cloud)
    with outer.packets() as seen, vm1.packets() as out:
        for source in ("2001:db8:99::1", str(IPv6Address(link_local(number_of(vm1)))), "fd00::1", blue(1)):
            out.send(udp6(number_of(vm1), gateway, source, NEXT_HOP6))
        heard = until(seen, lambda f: f[22:38] == number(blue(1)).to_bytes(16, "big") and f[20] == 17)
    came = [f for f in heard if f[12:14] == b"\x86\xdd" and f[20] == 17]
    assert len(came) == 1, "its own is the last that was sent, and the only one that came"


def number_of_router(cloud: Cloud) -> int:
    return next(leg.mac for leg in cloud.controller.app.cluster.state.places("r1") if leg.network == "blue")


def udp6(source_mac: int, mac: int, source: str, target: str, hops: int = 64) -> bytes:
    ends = (source_mac, number(source)), (mac, number(target))
    return frames6.sealed(17, b"\x30\x39\x00\x09\x00\x09\x00\x00x", *ends, hops=hops, at=6)


def test_whose_hops_are_over_is_told_by_the_router(cloud: Cloud, outer: Host) -> None:
    vm1 = cloud.lab.vm("vm1")
    wait_router(vm1)
    with vm1.packets() as wire:
        wire.send(udp6(number_of(vm1), number_of_router(cloud), blue(1), red(3), hops=1))
        told = wire.receive(lambda f: f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 3)
    assert told[22:38] == number(blue(GATEWAY)).to_bytes(16, "big")
    assert told[62 + 24 : 62 + 40] == number(red(3)).to_bytes(16, "big"), "and which packet it was"


def test_a_hidden_address_is_found_follows_its_host_and_goes_with_it(cloud: Cloud, outer: Host) -> None:
    vm1, vm3, hidden = cloud.lab.vm("vm1"), cloud.lab.vm("vm3"), red(100)
    vm4 = cloud.add_vm("vm4", "c", "red", 4)
    vm4.speak_ipv6(f"{red(4)}/64")
    state = cloud.controller.app.cluster
    wait_router(vm1, vm3)
    cloud.wait(lambda: any(d.service == "subnet" and "db8:2" in d.object for d in state.state.designations.values()))
    settle(cloud)
    give = ["ip", "addr", "add", f"{hidden}/64", "dev", "eth0", "nodad"]
    vm3.exec(give)
    assert vm1.reaches(hidden)
    assert state.state.learnt_in("red")[hidden].port == "vm3"
    vm3.exec(["ip", "addr", "del", f"{hidden}/64", "dev", "eth0"])
    vm4.exec(give)
    with vm4.packets() as out:
        out.send(frames6.advertisement(number(hidden), number_of(vm4)))
    cloud.wait(lambda: state.state.learnt_in("red")[hidden].port == "vm4", 10, "it has moved")
    settle(cloud)
    assert vm1.reaches(hidden)
    vm3.exec(["ip", "addr", "add", f"{red(101)}/64", "dev", "eth0"])
    cloud.wait(
        lambda: red(101) in state.state.learnt_in("red"), 10, "who looks whether an address is free is about to have it"
    )
    cloud.call(cloud.service.delete_port("vm4"))
    assert hidden not in state.state.learnt_in("red")
    cloud.assert_clean()


def test_a_scan_from_outside_asks_for_little_and_leaves_who_asks_inside_unharmed(cloud: Cloud, outer: Host) -> None:
    vm1, vm3 = cloud.lab.vm("vm1"), cloud.lab.vm("vm3")
    wait_out(cloud, vm1, vm3)
    vm3.exec(["ip", "addr", "add", f"{red(200)}/64", "dev", "eth0", "nodad"])
    with vm3.packets() as seen, outer.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as scan:
        for index in range(1000, 4000):
            scan.sendto(b"x", (red(index), 9))
        assert vm1.reaches(red(200)), "an address that is hidden is found all the same"
        asked = {f[62:78] for f in seen.waiting(is_solicitation)}
    assert len(asked) < 60, "ten a second, and no more"
    assert outer.reaches(red(3))


def test_secured_ports_are_judged_in_both_families(cloud: Cloud, outer: Host) -> None:
    vm1, vm3 = cloud.lab.vm("vm1"), cloud.lab.vm("vm3")
    allow(cloud, "out6", False, family="ipv6")
    allow(cloud, "ping6", True, family="ipv6", protocol="icmpv6", icmp_type=128)
    secure(cloud, "vm1", "out6")
    secure(cloud, "vm3", "ping6")
    wait_out(cloud, vm1)
    assert vm1.reaches(red(3))
    assert vm1.reaches(red(GATEWAY))
    assert not cloud.lab.vm("vm2").ping(blue(1), deadline=0.5).received
    assert not outer.ping(blue(1), deadline=0.5).received
    assert outer.reaches(red(3))
    assert not vm3.ping(NEXT_HOP6, deadline=0.5).received, "it may be called, and may not call"
    vm1.exec(["ip", "addr", "add", f"{blue(55)}/64", "dev", "eth0", "nodad"])
    vm1.exec(["ip", "-6", "route", "add", f"{red(3)}/128", "via", blue(GATEWAY), "src", blue(55)])
    assert not vm1.ping(red(3), deadline=0.5).received, "from an address that is not its own"


def test_it_is_told_who_advertises_what_and_what_the_outside_has_to_know(cloud: Cloud, outer: Host) -> None:
    state = cloud.controller.app.cluster.state
    blues = explain.network_story(state, state.networks["blue"], {}, ())
    assert any("Router r1 advertises 2001:db8:1::/64 as the default router" in line for line in blues), blues
    told = explain.router_story(state, state.routers["r1"], ())
    way = "IPv6 goes out without NAT, from 2001:db8:1::/64, 2001:db8:2::/64 alone: out must have a route for that to 2001:db8:ffff::10."
    assert way in told, told
    cloud.call(cloud.service.set_router("r1", addresses=["203.0.113.10"]))
    state = cloud.controller.app.cluster.state
    told = explain.router_story(state, state.routers["r1"], ())
    assert any("IPv6 does not get out of 2001:db8:1::/64, 2001:db8:2::/64" in line for line in told), told


def path_mtu(end: Vm | Host, target: str) -> int:
    """What a kernel learns of a path when it sends packets of 1500 bytes along it."""
    with end.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.connect((target, 9999))

        def learnt() -> bool:
            with suppress(OSError):
                out.send(b"x" * (1500 - 48))
            return out.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU) < 1500

        wait_until(learnt, f"{end.name} to be told of {target}")
        return out.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)


#: ipv6(7): what a connected socket holds its path for.
IPV6_MTU = 24


def test_what_is_too_big_is_told_from_outside_and_inside(cloud: Cloud, outer: Host) -> None:
    cloud.call(cloud.service.add_network("wide", ["10.3.0.0/24", "2001:db8:3::/64"], mtu=1500, ipv6_mode="static"))
    # Where what it sends leaves: no tunnel of the lab takes as much.
    vm5 = cloud.add_vm("vm5", gateway_of(cloud, "r1"), "wide", 5, mtu=1500)
    cloud.call(cloud.service.set_port("vm5", addresses=[vm5.ip, "2001:db8:3::5"]))
    cloud.call(cloud.service.attach("r1", "wide", "2001:db8:3::fe"))
    vm5.speak_ipv6("2001:db8:3::5/64")
    wait_out(cloud, cloud.lab.vm("vm1"), vm5)
    assert path_mtu(outer, blue(1)) == 1450
    assert path_mtu(vm5, red(3)) == 1450
    assert outer.reaches("2001:db8:3::5", size=1500 - 48), "to the wide one all of it passes"
    assert vm5.reaches(NEXT_HOP6, size=1500 - 48)
    with cloud.lab.vm("vm1").listen(80, "::") as listener, outer.connect(blue(1), 80) as near:
        listener.settimeout(5)
        far, _ = listener.accept()
        with far:
            near.sendall(b"y" * 20_000)
            far.settimeout(10)
            got = 0
            while got < 20_000:
                got += len(far.recv(65536))
    cloud.assert_clean()


def solicits(vm: Vm) -> bytes:
    """A question for routers."""
    own, everybody = number_of(vm), frames6.ALL_ROUTERS
    body = bytes([133, 0, 0, 0, 0, 0, 0, 0, 1, 1]) + mac_of(vm)
    return frames6.sealed(58, body, (own, link_local(own)), (frames6.group_mac(everybody), everybody), hops=255, at=2)


def is_router(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 134


def test_who_asks_for_routers_without_end_keeps_no_neighbour_from_an_answer(cloud: Cloud, outer: Host) -> None:
    vm1, vm4 = cloud.lab.vm("vm1"), cloud.add_vm("vm4", "a", "blue", 4)
    settle(cloud)
    with vm1.packets() as flood, vm4.packets() as asks:
        for turn in range(4000):
            flood.send(solicits(vm1))
            if turn == 2000:
                asks.send(solicits(vm4))
        asks.receive(lambda f: is_router(f) and f[0:6] == mac_of(vm4))


def test_nobody_speaks_as_the_router_secured_or_not(cloud: Cloud, outer: Host) -> None:
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    wait_router(vm1, vm2)
    assert vm2.reaches(blue(GATEWAY))
    known = neighbour(vm2, blue(GATEWAY))
    with vm1.packets() as lie, vm2.packets() as seen:
        lie.send(frames6.advertisement(number(blue(GATEWAY)), number_of(vm1)))
        lie.send(frames6.advertisement(number(blue(99)), number_of(vm1)))
        heard = until(seen, lambda f: f[62:78] == number(blue(99)).to_bytes(16, "big") and f[54] == 136)
        assert not [f for f in heard if f[62:78] == number(blue(GATEWAY)).to_bytes(16, "big") and f[54] == 136]
    assert neighbour(vm2, blue(GATEWAY)) == known


def test_a_secured_guest_looks_for_no_address_but_its_own(cloud: Cloud, outer: Host) -> None:
    vm1, vm2 = cloud.lab.vm("vm1"), cloud.lab.vm("vm2")
    allow(cloud, "out6", False, family="ipv6")
    secure(cloud, "vm2", "out6")

    def looks_for(address: str) -> bytes:
        group = frames6.solicited_node(number(address))
        body = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + number(address).to_bytes(16, "big")
        return frames6.sealed(58, body, (number_of(vm2), 0), (frames6.group_mac(group), group), hops=255, at=2)

    with vm2.packets() as out, vm1.packets() as seen:
        out.send(looks_for(blue(1)))
        out.send(looks_for(blue(2)))
        heard = until(seen, lambda f: is_solicitation(f) and f[62:78] == number(blue(2)).to_bytes(16, "big"))
        assert not [f for f in heard if is_solicitation(f) and f[62:78] == number(blue(1)).to_bytes(16, "big")]


def test_what_has_no_route_inside_does_not_come_back_from_outside(cloud: Cloud, outer: Host) -> None:
    """An extra route whose next hop is plugged nowhere: the outside sends what is for it here, and here it is sent out."""
    vm1 = cloud.lab.vm("vm1")
    cloud.call(cloud.service.set_router("r1", routes=[f"2001:db8:5::/64 via {blue(200)}"]))
    forwards(outer)
    wait_out(cloud, vm1)
    with outer.packets() as seen, vm1.packets() as out:
        out.send(udp6(number_of(vm1), number_of_router(cloud), blue(1), "2001:db8:5::1"))
        out.send(udp6(number_of(vm1), number_of_router(cloud), blue(1), NEXT_HOP6))
        heard = until(seen, lambda f: f[38:54] == number(NEXT_HOP6).to_bytes(16, "big") and f[20] == 17)
        assert not [f for f in heard if f[38:54] == number("2001:db8:5::1").to_bytes(16, "big")]
    router = cloud.controller.app.cluster.state.routers["r1"].mac
    host = int.from_bytes(bytes.fromhex(outer.mac.replace(":", "")), "big")
    with vm1.packets() as seen, outer.packets() as out:
        out.send(udp6(host, router, blue(2), blue(1)))
        out.send(udp6(host, router, NEXT_HOP6, blue(1)))
        heard = until(seen, lambda f: f[22:38] == number(NEXT_HOP6).to_bytes(16, "big") and f[20] == 17)
        assert not [f for f in heard if f[22:38] == number(blue(2)).to_bytes(16, "big") and f[20] == 17]


def forwards(host: Host) -> None:
    """It sends on what is not for itself, as the next hop that it is."""
    namespace.inside(host.namespace, lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1"))


def test_outside_the_routers_address_is_answered_for_whoever_asks_how(cloud: Cloud, outer: Host) -> None:
    wait_out(cloud, cloud.lab.vm("vm1"))
    mac, target = int.from_bytes(bytes.fromhex(outer.mac.replace(":", "")), "big"), number(ROUTER6)
    router, group = cloud.controller.app.cluster.state.routers["r1"].mac, frames6.solicited_node(target)
    body = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + target.to_bytes(16, "big")
    to_group, to_one = (frames6.group_mac(group), group), (router, target)
    option = b"\x01\x01" + mac.to_bytes(6, "big")
    for source, to, more in (
        (number(NEXT_HOP6), to_group, option),
        (number(NEXT_HOP6), to_one, option),
        (number(NEXT_HOP6), to_one, b""),
        (0, to_group, b""),
    ):
        with outer.packets() as seen:
            seen.send(frames6.sealed(58, body + more, (mac, source), to, hops=255, at=2))
            told = seen.receive(lambda f: f[12:14] == b"\x86\xdd" and f[20] == 58 and f[54] == 136)
        assert told[62:78] == target.to_bytes(16, "big")
        assert (told[6:12], told[58] >> 5) == (router.to_bytes(6, "big"), 0b111 if source else 0b101)
        assert told[38:54] == (source or frames6.ALL_NODES).to_bytes(16, "big")


def test_a_router_that_begins_to_lead_outside_elsewhere_becomes_the_default_one(cloud: Cloud, outer: Host) -> None:
    """r0 is older by its number and leads nowhere; r2 leads outside as soon as it is in a network that the outside knows."""
    add, attach = cloud.service.add_network, cloud.service.attach
    cloud.call(add("inner", ["10.8.0.0/24", "fd00:8::/64"], ipv6_mode="static"))
    cloud.call(add("known", ["10.9.0.0/24", "2001:db8:9::/64"], ipv6_mode="static"))
    cloud.call(cloud.service.add_router("r0"))
    cloud.call(cloud.service.add_router("r2", outside="out", addresses=["2001:db8:ffff::2"]))
    macs = [cloud.call(attach(name, "inner", f"fd00:8::{n}")).mac for n, name in ((1, "r0"), (2, "r2"))]
    vm6 = cloud.add_vm("vm6", "a", "inner", 6)
    with vm6.packets() as seen:
        vm6.speak_ipv6("fd00:8::6/64")
        wait_until(lambda: default_of(vm6) == link_local(macs[0]), "the older one")
        cloud.call(attach("r2", "known", "2001:db8:9::2"))
        wait_until(lambda: default_of(vm6) == link_local(macs[1]), "the one that leads outside")
        assert seen.waiting(is_router)


def default_of(vm: Vm) -> int:
    words = vm.exec(["ip", "-6", "route", "show", "default"]).split()
    return number(words[words.index("via") + 1]) if "via" in words else 0
