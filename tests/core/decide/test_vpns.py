"""L3VPNs: each refusal says which, why and what to do; twice is "already so"; nothing is half done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ebbtide.compile import ledger
from ebbtide.decide import routing, vpns
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.facts import Edit, Fact, Retired, Vpn
from ebbtide.model.state import State
from tests.fakes.clouds import change, leg, network, port, router, state, vpn

RED = vpn(11, "64512:1", id="red", rd="64512:11")
WEB, DATA, TWIN = (network(tag, subnets=(f"10.{n}.0.0/24",)) for tag, n in ((1, 1), (2, 2), (3, 1)))
R1 = router(1)
IN_WEB = leg(11, 1, router="red", address="10.1.0.1", subnet="10.1.0.0/24")
IN_DATA = leg(1, 2, address="10.2.0.254", subnet="10.2.0.0/24")


def cloud(*more: Fact) -> State:
    """VPN red with network n1 associated; router r1 in n2; n3 has n1's addresses."""
    return state(RED, R1, WEB, DATA, TWIN, IN_WEB, IN_DATA, port(1, 1, addresses=("10.1.0.9",)), *more)


def then(before: State, answer: tuple[Iterable[Edit], Any]) -> State:
    return change(before, *answer[0])


@pytest.mark.parametrize("text", ["100:1", "65535:4294967295", "4294967295:65535", "192.0.2.1:65535"])
def test_a_distinguisher_is_as_the_rfcs_have_it(text: str) -> None:
    assert vpns.distinguisher(text, "x", "x") == text
    assert vpns.distinguisher(f"0{text}" if "." not in text else text, "x", "x") == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "100", "100:", ":1", "a:1", "100:1:1", "-1:1", "65536:65536", "4294967296:1", "1:4294967296"),
        *("192.0.2.1:65536", "192.0.2.256:1", "1.2.3:1", "\uff11:1", "100:1 "),
    ],
)
def test_what_is_no_distinguisher_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="is not ASN:NUMBER or ADDRESS:NUMBER") as caught:
        vpns.add(cloud(), "blue", text)
    assert caught.value.path == "rd"


def test_a_vpn_is_made_once_and_gets_a_vrf_of_its_own() -> None:
    edits, made = vpns.add(cloud(), "blue", "64512:12", ["64512:2", "064512:2"], ["64512:3"])
    assert (made.imports, made.exports) == (("64512:2",), ("64512:3",))
    found = change(cloud(), *edits)
    assert found.by_router_tag[made.tag] == "blue"
    assert made.tag not in (RED.tag, R1.tag)
    assert vpns.add(found, "blue", "64512:12", ["64512:2"], ["64512:3"]) == ([], made)
    with pytest.raises(
        Refused, match="VPN blue exists already with other settings: change it with `ebbtide vpn set blue`"
    ):
        vpns.add(found, "blue", "64512:12")


@pytest.mark.parametrize(
    ("name", "rd", "kind", "words"),
    [
        ("a b", "1:1", BadInput, "is no VPN name"),
        ("r1", "1:1", Refused, "r1 is the name of a router: routers and VPNs share their names"),
        ("blue", "64512:11", Refused, "route distinguisher 64512:11 is that of VPN red: choose another"),
    ],
)
def test_a_name_or_a_distinguisher_that_is_taken_is_refused(
    name: str, rd: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        vpns.add(cloud(), name, rd)


def test_a_router_does_not_take_a_vpns_name() -> None:
    with pytest.raises(Refused, match="red is the name of a VPN"):
        routing.add_router(cloud(), "red")


def test_too_many_targets_are_refused() -> None:
    with pytest.raises(BadInput, match="101 targets to exports: a VPN may have 100"):
        vpns.change(cloud(), "red", exports=[f"1:{n}" for n in range(101)])


def test_targets_are_changed_and_the_rest_stays() -> None:
    edits, made = vpns.change(cloud(), "red", imports=["64512:7"])
    assert made == Vpn("red", RED.tag, RED.rd, ("64512:7",), RED.exports)
    found = change(cloud(), *edits)
    assert vpns.change(found, "red", imports=["64512:7"]) == ([], made)
    assert set(found.importers) == {"64512:7"}


def test_a_network_is_associated_by_a_place_in_each_of_its_subnets() -> None:
    wide = network(9, subnets=("10.8.0.0/24", "10.9.0.0/24", "fd00::/64"))
    edits, legs = vpns.associate_network(cloud(wide), "red", "n9")
    assert [(g.address, g.subnet) for g in legs] == [
        ("10.8.0.1", "10.8.0.0/24"),
        ("10.9.0.1", "10.9.0.0/24"),
        ("fd00::1", "fd00::/64"),
    ]
    assert {g.mac for g in legs} == {ledger.mac("store", ledger.MacOf.LEG, RED.tag)}
    found = change(cloud(wide), *edits)
    assert vpns.associate_network(found, "red", "n9") == ([], legs)
    one = then(cloud(wide), vpns.associate_network(cloud(wide), "red", "n9", "10.9.0.254"))
    assert [g.address for g in one.places("red") if g.network == "n9"] == ["10.9.0.254"]


@pytest.mark.parametrize(
    ("vpn_name", "net", "address", "kind", "words"),
    [
        ("none", "n1", "", NotFound, "there is no VPN none: `ebbtide vpn add none --rd ASN:NUMBER` makes one"),
        ("red", "none", "", NotFound, "there is no network none"),
        ("red", "bare", "", Refused, "network bare has no subnet: a VPN has nothing to route there"),
        ("red", "n3", "", Refused, "subnet 10.1.0.0/24 meets 10.1.0.0/24, in which VPN red is already"),
        ("red", "n2", "10.2.0.1", Refused, "network n2 has router r1: associate that with VPN red"),
        ("red", "n1", "10.1.0.999", BadInput, "is not an IP address"),
    ],
)
def test_a_network_that_cannot_be_associated(
    vpn_name: str, net: str, address: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        vpns.associate_network(cloud(network(8, id="bare")), vpn_name, net, address)


def test_a_router_is_associated_once_and_with_one_vpn() -> None:
    found = then(cloud(vpn(12)), vpns.associate_router(cloud(vpn(12)), "red", "r1"))
    assert found.routers["r1"].vpn == "red"
    assert vpns.associate_router(found, "red", "r1") == ([], found.routers["r1"])
    with pytest.raises(Refused, match="router r1 is associated with VPN red: dissociate it there first"):
        vpns.associate_router(found, "v12", "r1")
    free = then(found, vpns.dissociate_router(found, "red", "r1"))
    assert (free.routers["r1"].vpn, free.seen) == ("", cloud().seen)
    with pytest.raises(NotFound, match="router r1 is not associated with VPN red"):
        vpns.dissociate_router(free, "red", "r1")


def test_subnets_of_one_vpn_may_not_overlap_whichever_comes_last() -> None:
    twin = leg(2, 3, address="10.1.0.254", subnet="10.1.0.0/24")
    before = cloud(router(2), twin)
    with pytest.raises(
        Refused, match=r"subnet 10\.1\.0\.0/24 of router r2 meets 10\.1\.0\.0/24 of VPN red \(network n1\) in VPN red"
    ):
        vpns.associate_router(before, "red", "r2")
    found = then(cloud(router(2)), vpns.associate_router(cloud(router(2)), "red", "r2"))
    with pytest.raises(Refused, match="in which VPN red, of the same VPN red, is already"):
        routing.attach(found, "r2", "n3")


def test_a_vpn_goes_when_nothing_is_associated_and_its_tag_is_kept_for_a_while() -> None:
    found = then(cloud(), vpns.associate_router(cloud(), "red", "r1"))
    with pytest.raises(
        Refused, match="VPN red has network n1, router r1 associated: `ebbtide vpn dissociate red --network"
    ):
        vpns.delete(found, "red")
    found = then(found, vpns.dissociate_router(found, "red", "r1"))
    found = change(found, *vpns.dissociate_network(found, "red", "n1"))
    edits = vpns.delete(found, "red")
    retired = [new for _, new in edits if isinstance(new, Retired)]
    assert [r.tag for r in retired] == [ledger.ROUTER_TAGS | RED.tag]
    assert not change(found, *edits).vpns


def test_a_vpns_address_and_mac_are_not_for_ports() -> None:
    assert routing.own_addresses(cloud(), "n1").keys() >= {"10.1.0.1"}
    assert set(routing.own_addresses(cloud(), "n1").values()) == {"VPN red"}
    assert set(routing.own_macs(cloud(), "n1").values()) == {"VPN red"}
