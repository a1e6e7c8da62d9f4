"""What may be said of IPv6: subnets and modes of networks, addresses of ports, routers' places and ways out, and what is advertised."""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.decide import adverts, networks, ports, routing
from ebbtide.decide.adverts import Advert, Prefix
from ebbtide.errors import BadInput, Refused
from ebbtide.model.addresses import ends, holds, number, overlap, within
from ebbtide.model.facts import Edit, Fact
from ebbtide.model.state import State
from tests.fakes.clouds import change, external, network, port, router, state

BLUE = network(1, subnets=("10.1.0.0/24", "2001:db8:1::/64"), ipv6_mode="static")
RED = network(2, subnets=("10.2.0.0/24", "2001:db8:2::/64"), ipv6_mode="static")
P1 = port(1, 1, addresses=("10.1.0.2", "2001:db8:1::2"))
OUT = external(9)  # sends fd00::/12 here
OUT = msgspec.structs.replace(OUT, prefixes=("2001:db8::/32",))


def cloud(*more: Fact) -> State:
    return state(BLUE, RED, P1, OUT, router(1), router(2), *more)


def attached(*more: Fact) -> State:
    found = cloud(*more)
    for name, net, address in (("r1", "n1", "2001:db8:1::1"), ("r2", "n2", "2001:db8:2::1")):
        found = change(found, *routing.attach(found, name, net, address)[0])
    return found


# --- places and ways out ---


def test_a_place_without_an_address_is_in_the_only_subnet_of_ipv4_or_else_in_the_only_one() -> None:
    assert routing.attach(cloud(), "r1", "n1")[1].address == "10.1.0.1"
    six = network(3, subnets=("2001:db8:3::/64",))
    assert routing.attach(cloud(six), "r1", "n3")[1].address == "2001:db8:3::1"
    spelled = routing.attach(cloud(), "r1", "n1", "2001:DB8:1:0::FE")[1]
    assert (spelled.address, spelled.subnet) == ("2001:db8:1::fe", "2001:db8:1::/64")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("2001:db8:1::", "it is the subnet's own"),
        ("2001:db8:1::2", "is that of port p1"),
        ("2001:db8:9::1", "is in no subnet of network n1"),
        ("fe80::1", "not a link-local"),
        ("::ffff:10.1.0.1", "mapped"),
        ("fe80::1%eth0", "has a zone"),
    ],
)
def test_where_a_router_cannot_be(address: str, words: str) -> None:
    with pytest.raises((BadInput, Refused), match=words):
        routing.attach(cloud(), "r1", "n1", address)


def test_a_network_too_narrow_for_ipv6_gets_no_router_of_it() -> None:
    narrow = network(3, subnets=("2001:db8:3::/64",), mtu=1200)
    with pytest.raises(Refused, match="IPv6 needs 1280"):
        routing.attach(cloud(narrow), "r1", "n3")


def leading(found: State, name: str, *addresses: str, **more: Any) -> State:
    return change(found, *routing.set_router(found, name, "x9", list(addresses), **more)[0])


def test_what_leaves_is_of_a_prefix_that_the_outside_sends_here() -> None:
    found = leading(attached(), "r1", "203.0.9.10")
    assert found.untranslated("r1") == [], "it has no address of IPv6 there"
    found = leading(found, "r1", "203.0.9.10", "2001:db8:9::10")
    assert found.untranslated("r1") == ["2001:db8:1::/64"]
    wide = ["2000::/3 via 2001:db8:1::2", "2001:db8:77::/48 via 2001:db8:1::2"]
    found = leading(found, "r1", "2001:db8:9::10", routes=wide)
    assert found.untranslated("r1") == ["2001:db8:1::/64", "2001:db8:77::/48"]
    found = change(found, *routing.set_external(found, "x9", prefixes=[])[0])
    assert found.untranslated("r1") == []


def test_two_routers_of_one_network_outside_have_no_prefix_in_common() -> None:
    same = network(3, subnets=("2001:db8:1::/64",))
    found = leading(attached(same), "r1", "2001:db8:9::10")
    found = change(found, *routing.attach(found, "r2", "n3", "2001:db8:1::9")[0])
    with pytest.raises(Refused, match=r"2001:db8:1::/64 of router r2 meets 2001:db8:1::/64 of router r1"):
        leading(found, "r2", "2001:db8:9::20")
    found = change(found, *routing.detach(found, "r2", "n3"))
    found = leading(found, "r2", "2001:db8:9::20")
    with pytest.raises(Refused, match="meets"):
        routing.attach(found, "r2", "n3", "2001:db8:1::9")
    closed = change(found, *routing.set_external(found, "x9", prefixes=["2001:db8:2::/64"])[0])
    closed = change(closed, *routing.attach(closed, "r2", "n3", "2001:db8:1::9")[0])
    with pytest.raises(Refused, match="meets"):
        routing.set_external(closed, "x9", prefixes=["2001:db8::/32"])


@pytest.mark.parametrize(
    ("wishes", "kind", "words"),
    [
        ({"subnet6": "10.0.0.0/24"}, BadInput, "is not an IPv6 subnet"),
        ({"subnet6": "2001:db8::1/64"}, BadInput, "has host bits set"),
        ({"subnet6": "fe80::/64"}, BadInput, "link-local"),
        ({"gateway6": "10.0.0.1"}, BadInput, "is not an IPv6 address"),
        ({"gateway6": "2001:db8:77::1"}, Refused, "is not in 2001:db8:9::/64"),
        ({"prefixes": ["all"]}, BadInput, "is not an IPv6 subnet"),
        ({"prefixes": [f"2001:db8:{n:x}::/48" for n in range(300)]}, BadInput, "may have 200"),
        ({"subnet6": "", "gateway6": "2001:db8:9::1"}, BadInput, "without an IPv6 subnet"),
        ({"subnet6": "2001:db8:8::/64", "gateway6": ""}, Refused, "router r1 has address 2001:db8:9::10"),
        ({"subnet6": ""}, Refused, "router r1 has address 2001:db8:9::10"),
    ],
)
def test_what_ipv6_outside_cannot_be(wishes: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        routing.set_external(leading(attached(), "r1", "2001:db8:9::10"), "x9", **wishes)


def test_a_next_hop_may_be_link_local_and_goes_with_what_was_learnt_of_it() -> None:
    edits, made = routing.set_external(cloud(), "x9", gateway6="FE80::1")
    assert made.gateway6 == "fe80::1"
    assert routing.set_external(change(cloud(), *edits), "x9", gateway6="fe80::1")[0] == [], "already so"
    assert routing.set_external(cloud(), "x9", subnet6="")[1].prefixes == ()


def test_a_floating_ip_is_not_of_ipv6() -> None:
    with pytest.raises(BadInput, match="without NAT"):
        routing.add_floating(cloud(), "x9", "2001:db8:9::30")


# --- networks and ports ---


def test_a_network_in_use_gets_a_subnet_and_loses_none_that_is_used() -> None:
    plain = state(network(1), port(1, 1))
    edits, made = networks.change(plain, "n1", subnets=networks.cidrs(["10.1.0.0/16", "2001:db8:1::/64"]))
    assert made.subnets == ("10.1.0.0/16", "2001:db8:1::/64")
    assert len(edits) == 1
    with pytest.raises(Refused, match="port p1 has address 2001:db8:1::2 in it"):
        networks.change(cloud(), "n1", subnets=("10.1.0.0/24",))
    with pytest.raises(Refused, match="router r2 has a place in it"):
        networks.change(attached(), "n2", subnets=("10.2.0.0/24",))


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"ipv6_mode": "dhcp"}, "is not one of static, slaac"),
        ({"ipv6_mode": "dhcpv6-stateful"}, "which network n1 is without"),
        ({"ipv6_mode": "slaac", "subnets": ("2001:db8:1::/64", "2001:db8:7::/56", "10.1.0.0/24")}, "of a /64"),
    ],
)
def test_a_mode_that_cannot_be(wishes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        networks.change(cloud(), "n1", **wishes)


def test_a_vm_that_makes_its_address_has_it_without_being_given_it() -> None:
    bare, made_up = port(3, 2, addresses=("10.2.0.3",)), "2001:db8:2::ff:fe00:3"
    edits, _ = networks.change(cloud(bare), "n2", ipv6_mode="slaac")
    found = change(cloud(bare), *edits)
    assert found.ports["p3"].addresses == ("10.2.0.3", made_up)
    assert found.ports["p1"] == P1, "another network's"
    _, kept = ports.change(found, "p3", addresses=["10.2.0.3"])
    assert kept.addresses == ("10.2.0.3", made_up)
    _, given = ports.change(found, "p3", addresses=["10.2.0.3", "2001:db8:2::33"])
    assert given.addresses == ("10.2.0.3", "2001:db8:2::33"), "it was given another"
    taken = port(4, 2, addresses=(made_up,))
    with pytest.raises(Refused, match="is that of port p4"):
        networks.change(cloud(bare, taken), "n2", ipv6_mode="slaac")
    assert networks.change(found, "n2", ipv6_mode="none")[1].ipv6_mode == ""


def test_a_port_has_nobody_elses_address_and_no_routers_on_the_link() -> None:
    found = attached()
    mac = next(x.mac for x in found.places("r1"))
    on_link = f"fe80::{(mac >> 24 ^ 0x02_0000) >> 8:x}:{(mac >> 24 & 0xFF) << 8 | 0xFF:x}:fe{mac >> 16 & 0xFF:02x}:{mac & 0xFFFF:x}"
    for address in ("2001:db8:1::1", on_link):
        with pytest.raises(Refused, match="is that of router r1"):
            ports.change(found, "p1", addresses=["10.1.0.2", str(networks.addresses([address])[0])])
    with pytest.raises(Refused, match="is in no subnet"):
        ports.change(found, "p1", addresses=["2001:db8:5::5"])
    holder = port(7, 2, addresses=networks.addresses([f"fe80::{0xEB:x}:4ff:fe00:2"]))
    with pytest.raises(Refused, match="on the link in IPv6"):
        routing.attach(cloud(holder), "r2", "n2", "2001:db8:2::1", "02:eb:04:00:00:02")


# --- what is advertised ---


def told(found: State, name: str) -> list[tuple[int, bool]]:
    macs = {leg.mac: leg.router for r in found.routers for leg in found.places(r)}
    return [(int(macs[x.mac][1:]), x.lifetime > 0) for x in adverts.of(found, name)]


def test_nothing_is_said_until_that_is_asked_for() -> None:
    found = attached()
    silent = change(found, Edit(BLUE, msgspec.structs.replace(BLUE, ipv6_mode="")))
    assert adverts.of(silent, "n1") == []
    (advert,) = adverts.of(found, "n1")
    assert (advert.lifetime, advert.mtu, advert.managed, advert.other) == (65_535, BLUE.mtu, False, False)
    assert advert.prefixes == (Prefix(number("2001:db8:1::"), 64, False),)


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("static", (False, False, False)),
        ("slaac", (False, False, True)),
        ("dhcpv6-stateless", (False, True, True)),
        ("dhcpv6-stateful", (True, True, False)),
    ],
)
def test_a_mode_is_told_by_three_flags(mode: str, flags: tuple[bool, bool, bool]) -> None:
    found = change(attached(), Edit(BLUE, msgspec.structs.replace(BLUE, ipv6_mode=mode, dhcp=True)))
    (advert,) = adverts.of(found, "n1")
    assert (advert.managed, advert.other, advert.prefixes[0].autonomous) == flags


def test_the_default_router_is_the_oldest_of_those_that_lead_outside() -> None:
    found = attached(router(3))
    for name, address in (("r2", "2001:db8:1::2a"), ("r3", "2001:db8:1::3a")):
        found = change(found, *routing.attach(found, name, "n1", address)[0])
    assert told(found, "n1") == [(1, True), (2, False), (3, False)]
    closed = change(found, *routing.detach(found, "r1", "n1"), *routing.detach(found, "r2", "n1"))
    led = leading(closed, "r3", "2001:db8:9::30")
    led = change(led, *routing.set_external(led, "x9", prefixes=["2001:db8:77::/48"])[0])
    led = change(led, *routing.attach(led, "r1", "n1", "2001:db8:1::1")[0])
    assert told(led, "n1") == [(1, True), (3, False)]
    led = change(led, *routing.set_external(led, "x9", prefixes=["2001:db8:1::/48"])[0])
    assert told(led, "n1") == [(3, True), (1, False)]


A, B = Prefix(number("2001:db8:a::"), 64, True), Prefix(number("2001:db8:b::"), 64, True)


def test_what_has_gone_is_taken_back() -> None:
    one, two = Advert(1, 65_535, 1450, prefixes=(A, B)), Advert(2, 0, 1450, prefixes=(A,))
    assert adverts.farewell([one, two], [one, two]) == []
    (gone,) = adverts.farewell([one, two], [two])
    assert (gone.mac, gone.lifetime, [p.address for p in gone.prefixes]) == (1, 0, [B.address]), "the other has A still"
    assert (gone.prefixes[0].preferred, gone.prefixes[0].valid) == (0, 7200)
    (less,) = adverts.farewell([one], [one._replace(prefixes=(A,))])
    assert (less.lifetime, [p.address for p in less.prefixes]) == (65_535, [B.address]), "it is a router still"
    assert adverts.farewell([gone], [one]) == [], "and what comes back has not gone"


# --- addresses ---

prefixes = st.builds(
    lambda value, length: f"{ipaddress.ip_network((value >> 128 - length << 128 - length, length))}",
    st.integers(0, (1 << 128) - 1),
    st.integers(0, 128),
)


@given(prefixes, prefixes)
def test_prefixes_meet_if_one_lies_within_the_other(one: str, other: str) -> None:
    nets = [ipaddress.ip_network(text) for text in (one, other)]
    if all(net.version == 6 for net in nets):
        assert overlap(one, other) == nets[0].overlaps(nets[1])
        assert within(one, other) == nets[0].subnet_of(nets[1])
        assert holds(one, str(nets[1].network_address)) == (nets[1].network_address in nets[0])
    assert not overlap(one, "10.0.0.0/8") or ":" not in one


@pytest.mark.parametrize(
    ("subnet", "nobody"),
    [
        ("10.0.0.0/24", {"10.0.0.0", "10.0.0.255"}),
        ("10.0.0.0/31", set()),
        ("2001:db8::/64", {"2001:db8::"}),
        ("2001:db8::/127", set()),
    ],
)
def test_a_subnets_own_addresses_are_no_hosts(subnet: str, nobody: set[str]) -> None:
    assert ends(subnet) == {number(text) for text in nobody}


def test_places_of_routers_do_not_meet_in_either_family() -> None:
    found = attached()
    more = network(4, subnets=("2001:db8:1::/48",))
    found = change(found, Edit(None, more))
    with pytest.raises(Refused, match="meets"):
        routing.attach(found, "r1", "n4", "2001:db8:1:5::1")
    with pytest.raises(Refused, match="lies within"):
        routing.set_router(found, "r1", routes=["2001:db8:1:0:8000::/65 via 2001:db8:1::2"])
    with pytest.raises(BadInput, match="of the other family"):
        routing.set_router(found, "r1", routes=["2001:db8:70::/48 via 10.1.0.2"])
    with pytest.raises(BadInput, match="default route"):
        routing.set_router(found, "r1", routes=["::/0 via 2001:db8:1::2"])
