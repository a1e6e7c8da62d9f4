"""A flood to a thousand computes, as a real switch carries it out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ebbtide.model.facts import Binding, BindingPhase, Compute, Edit, Fact, Port
from ebbtide.model.state import State
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab
PEERS = 999
FIRST = 2000


def tep(peer: int) -> str:
    """In the lab's underlay, where nobody lives."""
    return f"172.31.{100 + peer // 250}.{1 + peer % 250}"


def far_ends(network: str) -> list[Fact]:
    """Computes that never connect, each with a port of the network."""
    found: list[Fact] = []
    for peer in range(PEERS):
        number = FIRST + peer
        found.append(Compute(f"far{peer}", number, 0xFA0000 + peer, system_id=f"far-{peer}", teps=(tep(peer),)))
        found.append(Port(f"far-p{peer}", network, 0x02_0000_100000 + peer, FIRST + peer))
        found.append(Binding(f"far-p{peer}", number, BindingPhase.ACTIVE))
    return found


def test_a_broadcast_is_sent_to_a_thousand_computes_and_not_only_to_as_many_as_one_translation_reaches(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud()
    (here,) = cloud.add_computes("here")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_vm("vm1", "here", "blue", 1)
    cloud.add_vm("vm2", "here", "blue", 2)

    def decide(state: State) -> tuple[list[Edit], None]:
        return [Edit(None, fact) for fact in far_ends("blue")], None

    cloud.call(cloud.controller.app.cluster.store.commit(decide))
    member = cloud.controller.member("here")
    cloud.wait(lambda: len(member.view.tunnels) == PEERS and member.clean, 60, "a thousand tunnels")
    # The userspace datapath sends nothing to a peer whose MAC it does not know; these would answer no ARP.
    for peer in range(PEERS):
        here.appctl("tnl/neigh/set", "br-phy", tep(peer), "02:aa:00:00:00:01")
    port = member.view.ports["vm1"].ofport
    mac = "02:00:00:00:01:01"
    for kind in ("0x88b6", "0x0800"):
        traced = here.trace(f"in_port={port},dl_src={mac},dl_dst=ff:ff:ff:ff:ff:ff,dl_type={kind}")
        reached = set(re.findall(r"dst=(172\.31\.1\d\d\.\d+)", traced))
        assert reached == {tep(peer) for peer in range(PEERS)}
    report = cloud.audit()
    assert report.computes == ("here",)
    assert report.findings == ()
