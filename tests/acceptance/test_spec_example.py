"""The spec's worked example, as one story: "scalein-computes-start A,B,C; delete/migrate vms of A (success), of B (fail), of C (success);
scalein-computes-end A,C; scalein-computes-recover B". VMs, the NAT of a router, and a VPN with its subnet routes are on all three."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.lab.flows import Load
from ebbtide.lab.probes import Host as ProbedHost
from ebbtide.lab.probes import Probes, pairs_among
from tests.support import outside, services, snapshots
from tests.support.cloud import Cloud
from tests.support.outside import LAG, settle
from tests.support.routed import SNAT, nothing_breaks
from tests.support.second_search import left_of
from tests.support.told import Told

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

RD, GREEN = "100:1", "10.2.0.0/24"
HIDDEN, LATER = "10.2.0.100", "10.2.0.101"
#: What each VM behind the router does, as long as the story goes.
OUTSIDE = Load(active=4, silent=3, udp=20, udp_slow=0, new=3, half_open=0, bulk=0, ping=5)


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """A, B, C, D; network blue behind router r1, which has NAT; VPN red of r1 and network green. Each has a VM in both: blueA and greenA
    on A, and so on. Those of B were there first: it serves the NAT and green."""
    cloud = make_cloud(web=True, lag=LAG, nat_patience=2.0)
    outside.outside(cloud, "A", "B", "C", "D")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_network("green", GREEN)
    cloud.call(cloud.service.add_router("r1", outside="out", addresses=[SNAT]))
    cloud.call(cloud.service.attach("r1", "blue", "10.1.0.1"))
    services.add_vpn(cloud, "red", RD, ["green"], ["r1"])
    for index, name in enumerate("BACD", 11):
        cloud.add_vm(f"blue{name}", name, "blue", index, gateway=1)
        cloud.add_vm(f"green{name}", name, "green", index, gateway=1)
        cloud.wait(lambda: ("nat", "r1") in services.state_of(cloud).designations, what="a compute for the NAT")
    outside.wait_served(cloud, "r1")
    services.wait_asks(cloud, "green", GREEN, "B")
    services.hide(cloud, "greenB", HIDDEN)
    assert cloud.lab.vm("blueA").reaches(HIDDEN)
    settle(cloud)
    return cloud


@pytest.mark.line("Example")
def test_start_a_b_c_migrate_the_vms_of_a_fail_with_those_of_b_migrate_those_of_c_end_a_c_recover_b(
    cloud: Cloud, told: Told
) -> None:
    gone = [cloud.fact(name) for name in "AC"]
    before = [len(left_of(fact, cloud.lab, "B", "D")) for fact in gone]
    assert all(before)
    own = own_flows(cloud, "B")
    assert (services.translates(cloud, "r1"), services.asks_for(cloud, "green", GREEN)) == ("B", "B")
    assert services.present(cloud, RD) == ["A", "B", "C", "D"]
    hidden = ProbedHost("greenB's hidden address", cloud.lab.vm("greenB").namespace, HIDDEN)
    with (
        Probes(cloud.lab) as probes,
        Probes(cloud.lab) as to_hidden,
        nothing_breaks(cloud.lab, "blueA", "blueB", "blueC", "blueD", load=OUTSIDE, told=told),
    ):
        probes.start(pairs_among(cloud.lab.vms()), rate=20)
        to_hidden.start([(cloud.lab.vm(name), hidden) for name in ("blueA", "blueC", "blueD", "greenD")], rate=20)
        for each in (probes, to_hidden):
            each.wait_flowing()
            each.mark_phase("story")
        told.did("start A, B, C; B has the NAT and the subnet route")
        assert cloud.rpc("scalein-computes-start", "scalein-node-ids", ["A", "B", "C"])[0] == 204
        assert services.wait_asks(cloud, "green", GREEN, "D") == "D"
        told.did("A's VMs migrate to D")
        for vm in ("blueA", "greenA"):
            cloud.migrate(vm, "D")
        told.did("the migration of B's fails")
        failed = cloud.lab.migration("blueB", "D")
        failed.begin()
        cloud.wait_prepared("blueB")
        failed.fail()
        cloud.wait_clean()
        assert cloud.place("blueB") == "B"
        told.did("C's VMs migrate to D")
        for vm in ("blueC", "greenC"):
            cloud.migrate(vm, "D")
        cloud.wait(lambda: not services.state_of(cloud).moves, 60, "the NAT to be on D")
        assert services.translates(cloud, "r1") == "D"
        told.did("end A, B, C is refused for B's sake; end A, C; recover B")
        status, refused = cloud.rpc("scalein-computes-end", "scalein-node-ids", ["A", "B", "C"])
        assert status == 409
        assert "B still carries 2 port(s)" in str(refused)
        assert [c.tombstoned for c in services.state_of(cloud).members()] == [True, True, True, False]
        assert cloud.rpc("scalein-computes-end", "scalein-node-ids", ["A", "C"])[0] == 204
        assert cloud.rpc("scalein-computes-recover", "recover-node-ids", ["B"])[0] == 204
        outside.wait_served(cloud, "r1")
        cloud.wait(lambda: services.stands_by(cloud, "green", GREEN) == "B", what="B to stand by for green")
        cloud.wait_clean()
        own_after = own_flows(cloud, "B")
        services.hide(cloud, "greenB", LATER)
        assert cloud.lab.vm("blueA").ping(LATER, count=1, deadline=3.0).lost == 0
        reports = probes.stop(), to_hidden.stop()
    for report, to in zip(reports, ("all VMs", "an address that was learnt"), strict=True):
        assert not report.failures("story"), report.table("story")
        told.saw(f"{report.sent('story')} probes to {to}, {report.lost('story')} lost")
    serving = services.translates(cloud, "r1"), services.asks_for(cloud, "green", GREEN)
    assert serving == ("D", "D")
    state = services.state_of(cloud)
    assert state.computes[state.designations["nat", "r1"].standby].name == "B", "it may be designated again"
    told.saw(f"designated for NAT, subnet route: B, B before; {', '.join(serving)} after, and B stands by for both")
    after = [left_of(fact, cloud.lab, "B", "D") for fact in gone]
    assert after == [[], []]
    told.saw(
        f"flows, groups and rows about A, C on B and D: {before[0]}, {before[1]}; then {len(after[0])}, {len(after[1])}"
    )
    assert [snapshots.flows(cloud.lab.compute(name)) for name in "AC"] == [[], []]
    assert own_after == own
    assert "tombstoned" not in snapshots.bridge_ids(cloud.lab.compute("B"))
    told.saw(f"B's {len(own)} flows about its own VMs are as before, byte for byte")
    assert services.present(cloud, RD) == ["B", "D"]
    assert {by for _, by in services.routes(cloud, RD).values()} == {("B",), ("D",)}
    told.saw(f"the VPN was on A, B, C, D, and is on {', '.join(services.present(cloud, RD))}")
    assert cloud.assert_clean().residue == 0


def own_flows(cloud: Cloud, name: str) -> list[str]:
    """A compute's flows about its own VMs, whose cookies have kind 4 and the port's lport, and those that are the same everywhere."""
    state = services.state_of(cloud)
    ports = {f"{state.ports[p].lport:05x}" for p in state.ports_on[state.by_name[name]]}
    flows = [(x.partition("cookie=0x")[2].partition(",")[0], x) for x in snapshots.flows(cloud.lab.compute(name))]
    return [x for cookie, x in flows if cookie[0] == "1" or (cookie[0] == "4" and cookie[3:8] in ports)]
