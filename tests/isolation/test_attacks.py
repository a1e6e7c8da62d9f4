"""Forty attacks and more by a VM on its neighbours: none gets through, each does where nobody is secured, and another tenant loses nothing.

`make isolation`. Tenant one: m (secured), u (not) and near on compute a, far on b, in blue; tenant two: t1 on a and t2 on b, in green, with
probes between them all the while.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import pytest

from ebbtide.errors import NotReady
from ebbtide.lab import Vm, packets
from ebbtide.lab.probes import Probes, pairs_among
from ebbtide.model.addresses import link_local, number
from ebbtide.model.facts import format_mac, parse_mac
from ebbtide.runtime import frames6
from tests.isolation.attacks import Attack, Ends, attacks
from tests.isolation.test_groups import all_heard, allow, opens
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, route, settle

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("isolation")]
ATTACKS = {attack.name: attack for attack in attacks()}
#: What gets nowhere whoever is secured: it has no way out of its network, or is answered by the router itself.
NOWHERE = {"VXLAN of a VM, under another network's VNI", "ARP: the gateway is here, to all"}
VICTIMS = ("near", "far")


class Site(NamedTuple):
    """The cloud, what arrived while nobody was secured, and the probes of the other tenant."""

    cloud: Cloud
    arrived: dict[tuple[str, str], bool]
    probes: Probes

    def ends(self, attack: Attack, victim: str) -> Ends:
        state = self.cloud.controller.app.cluster.state
        leg = next(leg for leg in state.places("r1") if leg.network == "blue")
        tep = state.computes[state.by_name["b"]].tep
        lab = self.cloud.lab
        return Ends(lab.vm(attack.by), lab.vm(victim), format_mac(leg.mac), tep, state.networks["green"].vni)

    def hears(self, attack: Attack, victim: str) -> bool:
        """Whether the victim, or whoever of the other tenant, sees anything of it before something that was sent later."""
        ends, mark = self.ends(attack, victim), secrets.token_bytes(6)
        last = packets.arp_request(ends.own.mac, ends.own.ip, f"10.1.0.{200 + secrets.randbelow(50)}")
        others = [self.cloud.lab.vm(name) for name in ("t1", "t2")]
        with (
            ends.own.packets() as out,
            ends.victim.packets() as ear,
            others[0].packets() as t1,
            others[1].packets() as t2,
        ):
            for frame in attack.frames(ends, mark):
                out.send(frame)
            seen = all_heard(out, ear, last)
            assert not [f for f in (*t1.waiting(), *t2.waiting()) if mark in f], "another tenant hears of it"
        return any(mark in f for f in seen)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("isolation")
    cloud = Cloud("isolate", directory)
    try:
        cloud.add_computes("a", "b")
        six = "2001:db8:1::/64"
        cloud.call(cloud.service.add_network("blue", ["10.1.0.0/24", six]))
        cloud.add_network("green", "10.7.0.0/24")
        route(cloud, "r1", "blue")
        cloud.call(cloud.service.attach("r1", "blue", f"2001:db8:1::{GATEWAY}"))
        for index, (name, compute) in enumerate((("m", "a"), ("u", "a"), ("near", "a"), ("far", "b")), 1):
            cloud.add_vm(name, compute, "blue", index, gateway=GATEWAY)
        for index, (name, compute) in enumerate((("t1", "a"), ("t2", "b")), 1):
            cloud.add_vm(name, compute, "green", index)
        for wish in ({"protocol": "tcp", "ports": "80"}, {"protocol": "udp", "ports": "53"}):
            allow(cloud, "web", True, **wish)
        allow(cloud, "out", False)
        allow(cloud, "out", False, family="ipv6")
        settle(cloud)
        with Probes(cloud.lab) as probes:
            probes.start(pairs_among([cloud.lab.vm("t1"), cloud.lab.vm("t2")]), rate=50)
            probes.wait_flowing()
            found = Site(cloud, {}, probes)
            for attack in ATTACKS.values():
                for victim in VICTIMS:
                    found.arrived[attack.name, victim] = found.hears(attack, victim)
            allow(cloud, "web", True, protocol="udp", ports="1-65535", prefix="10.7.0.0/24")  # the probes of tenant two
            cloud.call(cloud.service.set_port("m", True, ["out"]))
            for victim in (*VICTIMS, "t1", "t2"):
                cloud.call(cloud.service.set_port(victim, True, ["web", "out"]))
            settle(cloud)
            probes.mark_phase("attacks")
            yield found
    finally:
        cloud.down()


def test_there_are_forty_of_them() -> None:
    assert len(ATTACKS) >= 40


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_through_where_nobody_is_secured_and_nowhere_else(site: Site, name: str, victim: str) -> None:
    assert site.arrived[name, victim] or name in NOWHERE, "the control: nobody was secured, and it did not arrive"
    assert not site.hears(ATTACKS[name], victim)


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_is_allowed_gets_through_all_the_same(site: Site, victim: str) -> None:
    lab = site.cloud.lab
    for name in ("m", "u"):
        assert opens(lab.vm(name), lab.vm(victim), 80), name
        assert not opens(lab.vm(name), lab.vm(victim), 22), name
    assert lab.vm(victim).reaches(f"10.1.0.{GATEWAY}")


#: Frames a second: what a VM may send must not starve the one thread that this datapath has for all; it is what they do that is tried.
PACE = 5000


def flood(vm: Vm, frames: Iterator[bytes]) -> int:
    with vm.packets() as out:
        count, began = 0, time.monotonic()
        for frame in frames:
            out.send(frame)
            count += 1
            if count % 50 == 0:
                time.sleep(max(0.0, began + count / PACE - time.monotonic()))
        return count


def _connections(site: Site) -> Iterator[bytes]:
    m, far = site.cloud.lab.vm("m"), site.cloud.lab.vm("far")
    for port in range(1024, 21024):
        yield packets.ethernet(far.mac, m.mac, 0x0800, packets.udp((m.ip, port), (far.ip, 53), b"flood"))


def _strangers(site: Site) -> Iterator[bytes]:
    m = site.cloud.lab.vm("m")
    for turn in range(5000):
        yield packets.arp_request(m.mac, m.ip, f"10.1.0.{100 + turn % 100}")


def _expired(site: Site) -> Iterator[bytes]:
    m, ends = site.cloud.lab.vm("m"), site.ends(next(iter(ATTACKS.values())), "far")
    for turn in range(5000):
        datagram = packets.udp((m.ip, 30000 + turn), ("10.1.0.4", 53), b"hop")[20:]
        packet = packets.ipv4(m.ip, "10.1.0.4", 17, datagram, ttl=1)
        yield packets.ethernet(ends.gateway_mac, m.mac, 0x0800, packet)


def _unknown(site: Site) -> Iterator[bytes]:
    m, ends = site.cloud.lab.vm("m"), site.ends(next(iter(ATTACKS.values())), "far")
    for turn in range(5000):
        packet = packets.udp((m.ip, 40000), (f"10.1.0.{100 + turn % 150}", 9), b"scan")
        yield packets.ethernet(ends.gateway_mac, m.mac, 0x0800, packet)


def _neighbours(site: Site) -> Iterator[bytes]:
    """Questions for an address that is known: each is answered by the switch itself, which makes each answer anew."""
    m, ends = site.cloud.lab.vm("m"), site.ends(next(iter(ATTACKS.values())), "far")
    mac = parse_mac(m.mac)
    frame = frames6.solicitation(number(f"2001:db8:1::{GATEWAY}"), (mac, link_local(mac)), parse_mac(ends.gateway_mac))
    return repeat(frame, 5000)


def _routers(site: Site) -> Iterator[bytes]:
    """Questions for routers: each is for the controller."""
    mac = parse_mac(site.cloud.lab.vm("m").mac)
    body = bytes([133, 0, 0, 0, 0, 0, 0, 0, 1, 1]) + mac.to_bytes(6, "big")
    all_routers = 0xFF02 << 112 | 2
    ends = (mac, link_local(mac)), (frames6.group_mac(all_routers), all_routers)
    return repeat(frames6.sealed(58, body, *ends, hops=255, at=2), 5000)


FLOODS: dict[str, tuple[Callable[[Site], Iterator[bytes]], str]] = {
    "conntrack is filled": (_connections, "table=210"),
    "the controller is asked for strangers": (_strangers, "table=81"),
    "the controller is told of hops that have ended": (_expired, "table=21"),
    "the controller is asked for hidden addresses": (_unknown, "table=22"),
    "the switch is asked for a neighbour": (_neighbours, "table=83"),
    "the controller is asked for routers": (_routers, "table=45"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_nobody_elses(site: Site, name: str) -> None:
    """Its control: the packets did come as far as the table that would send them on."""
    made, table = FLOODS[name]
    compute, lab = site.cloud.lab.compute("a"), site.cloud.lab
    # From here on routers are advertised; before, what an unsecured VM said of them had to arrive.
    site.cloud.call(site.cloud.service.set_network("blue", ipv6_mode="static"))
    settle(site.cloud)

    def passed() -> int:
        told = compute.ofctl("dump-flows", "br-int", table)
        return sum(
            int(line.partition("n_packets=")[2].partition(",")[0]) for line in told.splitlines() if "n_packets" in line
        )

    before = passed()
    sent = flood(lab.vm("m"), made(site))
    site.cloud.wait(lambda: passed() - before > sent // 10, what=f"{name}: as far as {table}")
    assert opens(lab.vm("t1"), lab.vm("t2"), 80)
    assert opens(lab.vm("near"), lab.vm("far"), 80)
    site.cloud.assert_clean()


def test_zz_the_other_tenant_has_lost_nothing(site: Site) -> None:
    """The last of all: tests of a file come in this order."""
    report = site.probes.stop()
    assert not report.failures("attacks"), report.table()
    with pytest.raises(NotReady):
        site.cloud.lab.vm("t1").connect("10.7.0.2", 22, 0.3)
