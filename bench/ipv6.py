"""IPv6: what a routed packet costs the switch beside one of IPv4, what an answer to a neighbour costs beside one by ARP, and what a
network's ports cost to compile once they have addresses of both families. And what it costs that a packet is measured on its way.

Packets are priced on a real switch (`price.py`), between two VMs of one compute in two networks of one router, the families in turns.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator

from ebbtide.decide import adverts
from ebbtide.lab import Lab, Vm, packets
from ebbtide.model.addresses import link_local, number
from ebbtide.model.facts import Binding, BindingPhase, Edit, Fact, Network, Port, Router, RouterPort, parse_mac
from ebbtide.model.state import State, apply
from ebbtide.reconcile.compiled import Compiled
from ebbtide.runtime import frames6

from . import clouds
from .clusters import Ours, lab_named
from .price import price_of
from .rows import Options, Row, median, say, spread

COMPUTES, PORTS = 20, 2000
#: The VM whose network takes more than the others'.
WIDE = 3
PACKETS, ANSWERS, TURNS = 200_000, 20_000, 5


def _cloud(dual: bool) -> State:
    """A routed network with 2,000 ports on 20 computes."""
    subnets = ("10.0.0.0/8", "fd00::/64") if dual else ("10.0.0.0/8",)
    facts: list[Fact] = [clouds.compute(number) for number in range(1, COMPUTES + 1)]
    facts += [
        Network("n1", 1, 10_001, subnets=subnets, ipv6_mode="slaac" if dual else ""),
        Router("r1", 1, 0x02_0000_0000FE),
    ]
    facts.append(RouterPort("r1", "n1", "10.255.255.254", "10.0.0.0/8", 0x02_0000_0000FF))
    if dual:
        facts.append(RouterPort("r1", "n1", "fd00::fffe", "fd00::/64", 0x02_0000_0000FF))
    for lport in range(1, PORTS + 1):
        addresses = (clouds.address(lport), *((f"fd00::{lport:x}",) if dual else ()))
        facts.append(Port(f"p{lport}", "n1", 0x02_0000_000000 + lport, lport, addresses))
        facts.append(Binding(f"p{lport}", 1 + lport % COMPUTES, BindingPhase.ACTIVE, zone=lport))
    return apply(State(), [Edit(None, fact) for fact in facts], 1, store_id="bench", term=1)


def _compiled(options: Options) -> Iterator[Row]:
    taken: dict[bool, list[float]] = {False: [], True: []}
    flows = {}
    for _ in range(1 if options.quick else 3):
        for dual in (False, True):
            state = _cloud(dual)
            views = {compute: clouds.view(state, compute) for compute in state.computes}
            compiled = Compiled()
            gc.collect()
            begun = time.process_time()
            for compute, view in views.items():
                found = compiled.desired(state, compute, view)
                flows[dual] = sum(len(encoded.flows) for encoded in found.values())
            taken[dual].append(time.process_time() - begun)
    note = f"limit: three times; {flows[True]} flows on a compute, and {flows[False]} of IPv4 alone"
    yield Row(
        "ipv6: 2,000 ports of both families, from cold", median(taken[True]), "s", median(taken[False]), 3.0, note
    )
    state = _cloud(True)
    begun = time.process_time()
    count = 2000
    for _ in range(count):
        for advert in adverts.of(state, "n1"):
            frames6.router_advert(advert)
    each = (time.process_time() - begun) * 1e6 / count
    yield Row(
        "ipv6: an answer to who asks for routers, CPU of the controller", each, "us", None, 500.0, "of the answer alone"
    )


def _packets(options: Options) -> Iterator[Row]:
    with lab_named("bsix") as lab:
        ours = Ours(lab)
        (compute,) = ours.join(["a"])
        ours.ask("POST", "/api/v1/routers", {"id": "r1"})
        one, two, wide = (_vm(ours, lab, index) for index in (1, 2, 3))
        assert one.reaches(two.ip)
        assert wide.reaches(two.ip)
        mac = _router(ours, "six1")
        found: dict[int, list[float]] = {4: [], 6: []}
        asked: dict[int, list[float]] = {4: [], 6: []}
        measured = []
        count = PACKETS // 4 if options.quick else PACKETS
        for _ in range(2 if options.quick else TURNS):
            for family, frame in ((4, _ipv4(one, two, mac)), (6, _ipv6(one, two, mac))):
                found[family].append(price_of(compute, one, two, frame, count)[0])
            measured.append(price_of(compute, wide, two, _ipv4(wide, two, _router(ours, "six3")), count)[0])
            for family, frame in ((4, _arp(one)), (6, _solicitation(one, mac))):
                asked[family].append(price_of(compute, one, one, frame, ANSWERS // 4 if options.quick else ANSWERS)[0])
    say(f"ipv6: {spread(found[6], unit=' us')} routed, {spread(found[4], unit=' us')} of IPv4")
    note = "limit: 80 % of IPv4's rate; routed, on one compute; one flow, 60 and 80 bytes"
    yield Row("ipv6: CPU of the switch for a routed packet", median(found[6]), "us", median(found[4]), 1.25, note)
    note = "limit: 80 % of the rate; one small packet, from a network of 1,500 bytes into one of 1,450, beside one from such a one"
    yield Row(
        "path MTU: CPU of the switch for a packet that is measured",
        median(measured),
        "us",
        median(found[4]),
        1.25,
        note,
    )
    note = "beside an answer by ARP; each is made by ovs-vswitchd, not by its datapath"
    yield Row(
        "ipv6: CPU of the switch for an answer to a neighbour", median(asked[6]), "us", median(asked[4]), None, note
    )


def _vm(ours: Ours, lab: Lab, index: int) -> Vm:
    """A VM in a network of its own."""
    name, mac = f"vm{index}", f"02:00:00:0d:00:{index:02x}"
    addresses = f"10.{index}.0.{index}", f"fd00:{index}::{index}"
    subnets = [f"10.{index}.0.0/24", f"fd00:{index}::/64"]
    mtu = 1500 if index == WIDE else 1450
    ours.ask("POST", "/api/v1/networks", {"id": f"six{index}", "subnets": subnets, "mtu": mtu, "ipv6-mode": "static"})
    ours.ask("POST", "/api/v1/ports", {"id": name, "network": f"six{index}", "mac": mac, "addresses": addresses})
    for gateway in (f"10.{index}.0.254", f"fd00:{index}::fe"):
        ours.ask("POST", "/api/v1/routers/r1/attach?wait=applied", {"network": f"six{index}", "address": gateway})
    return lab.add_vm(name, "a", mac=mac, ip_cidr=f"{addresses[0]}/24", iface_id=name, gateway=f"10.{index}.0.254")


def _router(ours: Ours, network: str) -> str:
    places = ours.ask("GET", "/api/v1/routers/r1")["networks"]
    return str(next(place["mac"] for place in places if place["network"] == network))


def _ipv4(one: Vm, two: Vm, mac: str) -> bytes:
    return packets.ethernet(mac, one.mac, 0x0800, packets.udp((one.ip, 5000), (two.ip, 5001), b"x" * 18))


def _ipv6(one: Vm, two: Vm, mac: str) -> bytes:
    body = b"\x13\x88\x13\x89" + (26).to_bytes(2, "big") + b"\0\0" + b"x" * 18
    ends = (parse_mac(one.mac), number("fd00:1::1")), (parse_mac(mac), number("fd00:2::2"))
    return frames6.sealed(17, body, *ends, hops=64, at=6)


def _arp(one: Vm) -> bytes:
    return packets.arp_request(one.mac, one.ip, "10.1.0.254")


def _solicitation(one: Vm, mac: str) -> bytes:
    own = parse_mac(one.mac)
    return frames6.solicitation(number("fd00:1::fe"), (own, link_local(own)), parse_mac(mac))


def run(options: Options) -> Iterable[Row]:
    """The rows."""
    yield from _compiled(options)
    yield from _packets(options)
