"""Packets walked through VPNs: who has routes to whom, and who never meets.

n1 and n3 hold 10.1.0.0/16, n2 and n4 10.2.0.0/16. Port p<k> is in n<k>, on A for odd k and B for even, with address 10.<1 or 2>.0.<k>.
"""

from __future__ import annotations

from itertools import permutations

import msgspec
import pytest

from ebbtide.model.facts import Binding, Edit, Fact, Port, RouterPort, Vpn
from ebbtide.model.state import State
from tests.core.compile.test_routed_walks import number
from tests.core.compile.test_walks import tables
from tests.fakes import clouds
from tests.fakes.clouds import ACTIVE, compute, leg, network, ofport, port, router, state, vpn
from tests.fakes.flow_table import Packet, Walk

A, B = 1, 2
#: VRFs have their MAC by their tag.
GATEWAY = 0x02EB_0400_0000


def half(tag: int) -> int:
    return 1 if tag % 2 else 2


def member(tag: int) -> Port:
    return port(tag, tag, addresses=(f"10.{half(tag)}.0.{tag}",))


def place(vrf: str, tag: int, network_tag: int) -> RouterPort:
    base = f"10.{half(network_tag)}"
    return leg(tag, network_tag, router=vrf, address=f"{base}.255.1", subnet=f"{base}.0.0/16", mac=GATEWAY + tag)


def cloud(*vrfs: Fact, networks: int = 4) -> State:
    facts: list[Fact] = [compute(A), compute(B), *vrfs]
    for tag in range(1, networks + 1):
        facts += [network(tag), member(tag), Binding(f"p{tag}", A if tag % 2 else B, ACTIVE)]
    return state(*facts)


def packet(sender: int, receiver: int, vrf_tag: int) -> Packet:
    one, other = member(sender), member(receiver)
    udp = {"ip_proto": 17, "udp_src": 4000, "udp_dst": 53, "nw_ttl": 64, "eth_type": 0x0800}
    ends = {"ipv4_src": number(one.addresses[0]), "ipv4_dst": number(other.addresses[0])}
    return {"eth_src": one.mac, "eth_dst": GATEWAY + vrf_tag, **udp, **ends}


def reached(found: State, sender: int, receiver: int, vrf_tag: int) -> list[tuple[int, str]]:
    at = A if sender % 2 else B
    return Walk(tables(found)).enter(at, ofport(sender), packet(sender, receiver, vrf_tag)).taps


def test_networks_of_one_vpn_have_routes_to_each_other_and_each_is_on_its_own_compute() -> None:
    found = cloud(vpn(11), place("v11", 11, 1), place("v11", 11, 2))
    assert reached(found, 1, 2, 11) == [(B, "p2")]
    assert reached(found, 2, 1, 11) == [(A, "p1")]
    assert found.present("v11") == {A, B}


def test_vpns_with_the_same_addresses_never_meet() -> None:
    found = cloud(
        vpn(11), vpn(12), *(place(*x) for x in (("v11", 11, 1), ("v11", 11, 2), ("v12", 12, 3), ("v12", 12, 4)))
    )
    for sender, receiver in permutations(range(1, 5), 2):
        vrf = 11 if sender < 3 else 12
        same = (sender < 3) == (receiver < 3)
        assert reached(found, sender, receiver, vrf) == (
            [(B if receiver % 2 == 0 else A, f"p{receiver}")] if same else []
        )


@pytest.mark.parametrize("back", [True, False])
def test_a_vpn_has_the_routes_that_another_exports_with_a_target_that_it_imports(back: bool) -> None:
    one = vpn(11, imports=("100:9",), exports=("100:8",))
    other = vpn(12, imports=("100:8",) if back else (), exports=("100:9",))
    found = cloud(one, other, place("v11", 11, 1), place("v12", 12, 2), networks=2)
    assert reached(found, 1, 2, 11) == [(B, "p2")]
    assert reached(found, 2, 1, 12) == ([(A, "p1")] if back else [])
    # Both ends need their tunnel, whoever has the route.
    assert found.peers(A) == {B}
    assert found.peers(B) == {A}


def test_a_router_of_a_vpn_has_its_routes_and_the_vpn_those_of_the_router() -> None:
    found = cloud(vpn(11), router(5, vpn="v11"), place("v11", 11, 1), place("r5", 5, 2))
    assert reached(found, 1, 2, 11) == [(B, "p2")]
    assert reached(found, 2, 1, 5) == [(A, "p1")]
    gone = clouds.change(found, Edit(found.routers["r5"], msgspec.structs.replace(found.routers["r5"], vpn="")))
    assert reached(gone, 1, 2, 11) == []
    assert reached(gone, 2, 1, 5) == []
    assert gone.peers(A) == set()


def test_two_routers_of_a_vpn_have_each_others_routes() -> None:
    found = cloud(vpn(11), router(5, vpn="v11"), router(6, vpn="v11"), place("r5", 5, 1), place("r6", 6, 2))
    assert reached(found, 1, 2, 5) == [(B, "p2")]
    assert reached(found, 2, 1, 6) == [(A, "p1")]


def test_what_is_imported_and_overlaps_is_not_seen_and_said() -> None:
    """v13 imports n1 of v11 and n3 of v12, which are one prefix: that of the older VPN is seen."""
    targets = {"imports": (), "exports": ("100:9",)}
    third = vpn(13, imports=("100:9",), exports=())
    legs = (place("v11", 11, 1), place("v12", 12, 3), place("v13", 13, 2))
    found = cloud(vpn(11, **targets), vpn(12, **targets), third, *legs)
    assert reached(found, 2, 1, 13) == [(A, "p1")]
    assert reached(found, 2, 3, 13) == []
    assert [(owner, g.network) for owner, g in found.shadowed("v13", "v13")] == [("v12", "n3")]


def test_its_own_networks_come_before_what_a_vpn_imports() -> None:
    found = cloud(vpn(11, "100:9"), vpn(12, "100:9"), place("v11", 11, 1), place("v11", 11, 2), place("v12", 12, 3))
    assert reached(found, 2, 1, 11) == [(A, "p1")]
    assert reached(found, 2, 3, 11) == []
    assert reached(found, 3, 2, 12) == [(B, "p2")]


def test_a_vpn_is_on_a_compute_from_the_first_port_behind_it_to_the_last() -> None:
    def rows(found: State, at: int) -> int:
        vrfs = {found.vpns["v11"].tag}
        return sum(
            flow.cookie >> 60 == 5 and flow.cookie >> 32 & 0xFFFFF in vrfs for flow in tables(found)[at].flows.values()
        )

    found = cloud(vpn(11), place("v11", 11, 1), networks=1)
    assert rows(found, A) > 0
    assert rows(found, B) == 0
    more = clouds.change(found, Edit(None, port(9, 1)), Edit(None, Binding("p9", B, ACTIVE)))
    assert rows(more, B) > 0
    less = clouds.change(more, Edit(Binding("p9", B, ACTIVE), None))
    assert rows(less, B) == 0


def test_a_vpn_that_is_deleted_leaves_no_index_behind() -> None:
    found = cloud(made := vpn(11, "100:9"), place("v11", 11, 1))
    gone = clouds.change(found, Edit(place("v11", 11, 1), None), Edit(made, None))
    for index in ("vpns", "by_rd", "importers", "exporters", "seen", "seers", "legs", "routers_of", "vpn_routers"):
        assert not getattr(gone, index), index
    assert isinstance(made, Vpn)
