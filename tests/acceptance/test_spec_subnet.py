"""The spec's "Testing" list, the lines about a designated compute, for subnet routes of a VPN; each test is named after its line.

Testing 4, 5, 6, 7 and 8. What a designated compute does here: it asks for addresses of a subnet that nobody is known to have, so a test
hides some in VMs. The same lines for NAT are in `test_spec_nat.py`; Testing 7 has both here, on a compute that is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ebbtide.lab import Vm
from ebbtide.lab.probes import Endpoint, Probes, pairs_among
from ebbtide.lab.probes import Host as ProbedHost
from tests.support import services, snapshots
from tests.support.cloud import Cloud
from tests.support.outside import LAG, NEXT_HOP, outside, settle
from tests.support.second_search import left_of
from tests.support.told import Told

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

RD = "100:1"
ONE, TWO = "10.1.0.0/24", "10.2.0.0/24"
#: Addresses that nobody was given: who has them is found out.
HIDDEN, LATER = "10.2.0.100", "10.2.0.101"
START, END, RECOVER = "scalein-computes-start", "scalein-computes-end", "scalein-computes-recover"


@pytest.fixture
def shared(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; VPN red with network one (vm1 on a) and two (vm2 on b, vm3 on c): b or c is designated for two."""
    cloud = make_cloud(web=True, lag=LAG)
    cloud.add_computes("a", "b", "c")
    vpn_of_two(cloud)
    for name, compute, network, index in (("vm1", "a", "one", 11), ("vm2", "b", "two", 12), ("vm3", "c", "two", 13)):
        cloud.add_vm(name, compute, network, index, gateway=1)
    services.wait_asks(cloud, "two", TWO, "b", "c")
    return cloud


def vpn_of_two(cloud: Cloud) -> None:
    cloud.add_network("one", ONE)
    cloud.add_network("two", TWO)
    services.add_vpn(cloud, "red", RD, ["one", "two"])


@contextmanager
def no_probe_lost(cloud: Cloud, told: Told, *more: tuple[Endpoint, Endpoint]) -> Iterator[None]:
    """Inside, all VMs send to each other, and these pairs as well; nothing of it is lost."""
    with ExitStack() as stack:
        running = [stack.enter_context(Probes(cloud.lab)) for _ in range(1 + bool(more))]
        for probes, pairs in zip(running, (pairs_among(cloud.lab.vms()), more), strict=False):
            probes.start(pairs, rate=50)
            probes.wait_flowing()
        for probes in running:
            probes.mark_phase("counted")
        yield
        reports = [probes.stop() for probes in running]
    for report in reports:
        assert not report.failures("counted"), report.table("counted")
    for report, to in zip(reports, ("VMs", "an address that was learnt"), strict=False):
        told.saw(f"{report.sent('counted')} probes to {to}, {report.lost('counted')} lost")


def hidden_in(vm: Vm, address: str) -> Endpoint:
    """A VM under an address that nobody was told of."""
    return ProbedHost(f"{vm.name} as {address}", vm.namespace, address)


@pytest.mark.line("Testing 4", of="subnet route")
def test_identify_a_compute_node_which_is_designated_for_subnetroute_functionality_scale_in_that_compute_verify_that_it_continues_to_work_and_that_its_relevant_flows_are_reprogrammed(  # noqa: E501
    shared: Cloud, told: Told
) -> None:
    cloud, old = shared, services.asks_for(shared, "two", TWO)
    own, holder = ("vm2", "vm3") if old == "b" else ("vm3", "vm2")
    new = "c" if old == "b" else "b"
    services.hide(cloud, holder, HIDDEN)
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    settle(cloud)
    gone = cloud.fact(old)
    before = left_of(gone, cloud.lab, "a", new)
    assert any("table=22" in line for line in before)
    assert [services.towards(cloud, name, "two", TWO) for name in "abc"] == [old] * 3
    told.did(f"{old}, which is designated, is started, its VM migrates, it is ended")
    with no_probe_lost(cloud, told, (cloud.lab.vm("vm1"), hidden_in(cloud.lab.vm(holder), HIDDEN))):
        assert cloud.rpc(START, "scalein-node-ids", [old])[0] == 204
        assert services.wait_asks(cloud, "two", TWO, "a", new) == new
        assert [services.towards(cloud, name, "two", TWO) for name in "abc"] == [new] * 3
        counts = [len(services.asking(cloud, name, "two", TWO)) for name in (old, new)]
        assert counts == [0, 1]
        cloud.migrate(own, "a")
        assert cloud.rpc(END, "scalein-node-ids", [old])[0] == 204
        settle_left(cloud, "a", new)
        told.did("what nobody was asked for yet is asked for by who is designated now")
        services.hide(cloud, holder, LATER)
        assert cloud.lab.vm("vm1").ping(LATER, count=1, deadline=3.0).lost == 0
    told.saw(
        f"designated {old}, then {services.asks_for(cloud, 'two', TWO)}; flows that ask there: {counts[0]}, then {counts[1]}"
    )
    assert services.learnt(cloud) == {HIDDEN: holder, LATER: holder}
    told.saw(f"learnt and reached: {', '.join(sorted(services.learnt(cloud)))}")
    after = left_of(gone, cloud.lab, "a", new)
    assert after == []
    assert snapshots.flows(cloud.lab.compute(old)) == []
    told.saw(f"flows, groups and rows about {old}: {len(before)}, then {len(after)}")
    assert cloud.assert_clean().residue == 0


def settle_left(cloud: Cloud, *names: str) -> None:
    """Until all is applied, and the cached flows of these follow."""
    cloud.wait_clean()
    for name in names:
        cloud.lab.compute(name).revalidate()


@pytest.mark.line("Testing 5", of="subnet route")
def test_while_the_scale_in_work_flow_is_going_on_for_few_computes_create_a_new_subnetroute_resource_make_sure_that_one_of_these_compute_nodes_are_not_chosen(  # noqa: E501
    shared: Cloud, told: Told
) -> None:
    cloud = shared
    told.did("start a and b; five networks come into the VPN, on a, b and c; one more on a and b alone")
    assert cloud.rpc(START, "scalein-node-ids", ["a", "b"])[0] == 204
    subnets = {f"n{number}": f"10.{number}.0.0/24" for number in range(11, 17)}
    for network, subnet in subnets.items():
        number = int(network[1:])
        cloud.add_network(network, subnet)
        services.associate(cloud, "red", network)
        # Who is there first would have it, were it not marked.
        for index, name in enumerate("ab" if number == 16 else "abc", 11):
            cloud.add_vm(f"{network}{name}", name, network, index, gateway=1)
    *shared_ones, alone = subnets
    for network in shared_ones:
        services.wait_asks(cloud, network, subnets[network], "c")
    cloud.wait_clean()
    chosen = [services.asks_for(cloud, network, subnet) for network, subnet in subnets.items()]
    assert chosen == ["c"] * 5 + [""]
    told.saw(f"designated: {', '.join(name or 'nobody' for name in chosen)}")
    rows = {name: sum(len(services.asking(cloud, name, *x)) for x in subnets.items()) for name in "abc"}
    assert rows == {"a": 0, "b": 0, "c": 5}
    told.saw("flows that ask: " + ", ".join(f"{name} {count}" for name, count in rows.items()))
    services.hide(cloud, "n11a", "10.11.0.100")
    services.hide(cloud, "n16a", "10.16.0.100")
    reached = [cloud.lab.vm("vm3").reaches("10.11.0.100"), cloud.lab.vm("vm3").reaches("10.16.0.100", deadline=1.0)]
    assert reached == [True, False]
    told.did("recover a and b: who had nobody gets one of them")
    assert cloud.rpc(RECOVER, "recover-node-ids", ["a", "b"])[0] == 204
    late = services.wait_asks(cloud, alone, subnets[alone], "a", "b")
    assert cloud.lab.vm("vm3").reaches("10.16.0.100")
    assert set(services.learnt(cloud)) == {"10.11.0.100", "10.16.0.100"}
    told.saw(
        f"{alone}: nobody, then {late}; its hidden address is reached: {reached[1]}, then {'10.16.0.100' in services.learnt(cloud)}"
    )
    assert [services.asks_for(cloud, n, subnets[n]) for n in shared_ones] == ["c"] * 5, "nothing moves back by itself"
    cloud.assert_clean()


@pytest.mark.line("Testing 6", of="subnet route")
def test_verify_the_recovery_procedure_of_scale_in_workflow_make_sure_that_the_recovered_compute_gets_its_relevant_flows(
    shared: Cloud, told: Told
) -> None:
    """Nothing moves back by itself: what it gets is its part as the one that stands by, and then the subnet, when the other leaves."""
    cloud, old = shared, services.asks_for(shared, "two", TWO)
    new, holder = ("c", "vm2") if old == "b" else ("b", "vm3")
    services.hide(cloud, holder, HIDDEN)
    assert cloud.lab.vm("vm1").reaches(HIDDEN)
    settle(cloud)
    before = {name: snapshots.snapshot(cloud.lab.compute(name)) for name in "abc"}
    told.did(f"start {old}, which is designated; recover it; then start {new}")
    with no_probe_lost(cloud, told, (cloud.lab.vm("vm1"), hidden_in(cloud.lab.vm(holder), HIDDEN))):
        assert cloud.rpc(START, "scalein-node-ids", [old])[0] == 204
        seen = [services.wait_asks(cloud, "two", TWO, new)]
        assert services.stands_by(cloud, "two", TWO) == ""
        asking = [len(services.serving(cloud, old, "two", TWO))]
        assert asking == [0]
        assert cloud.rpc(RECOVER, "recover-node-ids", [old])[0] == 204
        cloud.wait(lambda: services.stands_by(cloud, "two", TWO) == old, what=f"{old} to stand by")
        cloud.wait_clean()
        asking.append(len(services.serving(cloud, old, "two", TWO)))
        assert asking == [0, 1]
        for name, was in before.items():
            assert snapshots.differences(was, snapshots.snapshot(cloud.lab.compute(name))) == [], name
        assert cloud.rpc(START, "scalein-node-ids", [new])[0] == 204
        seen.append(services.wait_asks(cloud, "two", TWO, old))
        settle(cloud)
    told.saw(
        f"designated {old}, {', '.join(seen)}; flows by which {old} serves: {asking[0]} when marked, {asking[1]} recovered"
    )
    assert [services.towards(cloud, name, "two", TWO) for name in "abc"] == [old] * 3
    services.hide(cloud, holder, LATER)
    assert cloud.lab.vm("vm1").ping(LATER, count=1, deadline=3.0).lost == 0
    assert cloud.rpc(RECOVER, "recover-node-ids", [new])[0] == 204
    assert services.learnt(cloud) == {HIDDEN: holder, LATER: holder}
    told.saw(f"it asks again: {LATER} is behind {services.learnt(cloud)[LATER]}")
    cloud.assert_clean()


# --- nobody else can have it ---


@pytest.fixture
def lonely(make_cloud: Callable[..., Cloud]) -> Cloud:
    """VPN red is on a alone: network one (vm1), and by router r1, which has NAT, network two (vm2). b has VPN blue, with routes to it."""
    cloud = make_cloud(web=True, lag=LAG)
    outside(cloud, "a")
    cloud.add_computes("b")
    for name, subnet in (("one", ONE), ("two", TWO), ("three", "10.3.0.0/24")):
        cloud.add_network(name, subnet)
    cloud.call(cloud.service.add_router("r1", outside="out", addresses=["203.0.113.10"]))
    cloud.call(cloud.service.attach("r1", "two", "10.2.0.1"))
    services.add_vpn(cloud, "red", RD, ["one"], ["r1"], imports=["100:2"])
    services.add_vpn(cloud, "blue", "100:2", ["three"], imports=[RD])
    for name, compute, network, index in (("vm1", "a", "one", 11), ("vm2", "a", "two", 12), ("vm3", "b", "three", 13)):
        cloud.add_vm(name, compute, network, index, gateway=1)
    services.wait_asks(cloud, "two", TWO, "a")
    cloud.wait(lambda: services.state_of(cloud).neighbours != {}, what="the next hop to be known")
    cloud.wait_clean()
    services.hide(cloud, "vm2", HIDDEN)
    assert cloud.lab.vm("vm3").reaches(HIDDEN)
    works(cloud)
    return cloud


def works(cloud: Cloud) -> None:
    """All that the VPN, its subnet routes and its NAT are for."""
    settle(cloud)
    assert cloud.lab.vm("vm3").ping("10.1.0.11", count=2).lost == 0
    assert cloud.lab.vm("vm1").ping("10.2.0.12", count=2).lost == 0
    assert cloud.lab.vm("vm3").ping(HIDDEN, count=2).lost == 0
    assert cloud.lab.vm("vm2").reaches(NEXT_HOP)


def datastores(cloud: Cloud) -> dict[str, Any]:
    """All that is shown of who serves red, where it is, and by whom its routes go."""
    return {
        "asks": [services.asks_for(cloud, "one", ONE), services.asks_for(cloud, "two", TWO)],
        "NAT": services.translates(cloud, "r1"),
        "present": services.present(cloud, RD),
        "routes by a": sorted(x for x, (_, by) in services.routes(cloud, RD).items() if by == ("a",)),
        "routes by a in blue": sorted(x for x, (_, by) in services.routes(cloud, "100:2").items() if by == ("a",)),
        "learnt": services.learnt(cloud),
    }


ALL_ROUTES = [ONE, "10.1.0.11/32", TWO, HIDDEN + "/32", "10.2.0.12/32"]
SERVED = {
    "asks": ["a", "a"],
    "NAT": "a",
    "present": ["a"],
    "routes by a": ALL_ROUTES,
    "routes by a in blue": ALL_ROUTES,
    "learnt": {HIDDEN: "vm2"},
}


@pytest.mark.line("Testing 7", of="VPN, subnet route, NAT")
def test_scale_in_a_compute_which_is_designated_and_no_other_compute_has_presence_of_that_service_vpn_to_be_designated_make_sure_that_all_its_flows_and_datastores_are_deleted(  # noqa: E501
    lonely: Cloud, told: Told
) -> None:
    """Its last port goes through the API while it is away, as Nova deletes a server whose host does not answer."""
    cloud, a, gone = lonely, lonely.lab.compute("a"), lonely.fact("a")
    vpn = services.state_of(cloud).vpns["red"].tag
    told.did("start a, which alone has the VPN, its subnet routes and NAT: all stays, and works")
    assert cloud.rpc(START, "scalein-node-ids", ["a"])[0] == 204
    cloud.wait_clean()
    works(cloud)
    told.did("a is disconnected; its ports are deleted through the API, the last one too; end a")
    a.cut_control()
    cloud.wait(lambda: not cloud.controller.app.cluster.members[gone.number].connected, what="a to be away")
    cloud.wait_clean()
    assert datastores(cloud) == SERVED
    assert cloud.http("DELETE", "/api/v1/ports/vm1")[0] == 200
    cloud.wait_clean()
    # All that shall not be there after it is there just before.
    just_before, peers = datastores(cloud), left_of(gone, cloud.lab, "b")
    routes = [TWO, HIDDEN + "/32", "10.2.0.12/32"]
    assert just_before == {**SERVED, "asks": ["", "a"], "routes by a": routes, "routes by a in blue": routes}
    assert {line.partition(" with ")[0] for line in peers} >= {"b: flow", "b: row"}
    for address in ("nw_dst=10.2.0.12 ", f"nw_dst={HIDDEN} ", f"nw_dst={TWO} "):
        assert any(address in line for line in peers), address
    own = services.vpn_flows(cloud, "a", vpn)
    assert own
    assert services.asking(cloud, "a", "two", TWO)
    assert cloud.http("DELETE", "/api/v1/ports/vm2")[0] == 200
    assert cloud.rpc(END, "scalein-node-ids", ["a"])[0] == 204
    after, left = datastores(cloud), left_of(gone, cloud.lab, "b")
    assert after == {
        "asks": ["", ""],
        "NAT": "",
        "present": [],
        "routes by a": [],
        "routes by a in blue": [],
        "learnt": {},
    }
    assert left == []
    state = services.state_of(cloud)
    assert (dict(state.designations), dict(state.leases), dict(state.moves)) == (the_rest(cloud), {}, {})
    for what in ("asks", "NAT", "present"):
        told.saw(f"{WORDS[what]}: {said(just_before[what])} before, {said(after[what])} after")
    counts = [len(x["routes by a"] + x["routes by a in blue"]) for x in (just_before, after)]
    told.saw(f"routes by a: {counts[0]}, then {counts[1]}; b's flows and rows about a: {len(peers)}, then {len(left)}")
    # It is away, and has all that it had: that goes when it is heard again.
    assert services.vpn_flows(cloud, "a", vpn) == own
    told.did("a is connected again")
    a.heal_control()
    cloud.wait(lambda: not services.state_of(cloud).debts, what="a to be wiped")
    held = snapshots.flows(a)
    assert len(held) == 1
    assert "actions=drop" in held[0]
    assert (snapshots.groups(a), snapshots.tunnels(a)) == ([], [])
    told.saw(f"flows of the VPN on a: {len(own)}, on reconnection {len(services.vpn_flows(cloud, 'a', vpn))}")
    assert not cloud.lab.vm("vm3").ping("10.2.0.12", deadline=0.3).received
    assert datastores(cloud) == after
    assert cloud.assert_clean().residue == 0


WORDS = {"asks": "designated for its subnets", "NAT": "for NAT", "present": "the VPN is on"}


def said(found: str | list[str]) -> str:
    """Names of computes, in words."""
    return ", ".join(filter(None, [found] if isinstance(found, str) else found)) or "nobody"


def the_rest(cloud: Cloud) -> dict[tuple[str, str], Any]:
    """Who is designated for what b alone has."""
    found = services.state_of(cloud).designations
    assert [key for key in found if key[1].startswith("three ")] == [("subnet", "three 10.3.0.0/24")]
    return {key: found[key] for key in found if key[1].startswith("three ")}


@pytest.mark.line("Testing 8", of="VPN, subnet route, NAT")
def test_start_scale_in_for_a_compute_which_is_designated_and_no_other_compute_has_presence_of_that_service_vpn_to_be_designated_recover_the_compute_and_make_sure_that_all_its_flows_and_datastores_are_recovered(  # noqa: E501
    lonely: Cloud, told: Told
) -> None:
    cloud, computes = lonely, lonely.lab.computes()
    before = [snapshots.snapshot(c) for c in computes]
    assert datastores(cloud) == SERVED
    told.did("start a, which alone has the VPN, its subnet routes and NAT")
    with no_probe_lost(cloud, told, (cloud.lab.vm("vm3"), hidden_in(cloud.lab.vm("vm2"), HIDDEN))):
        assert cloud.rpc(START, "scalein-node-ids", ["a"])[0] == 204
        cloud.wait_clean()
        assert snapshots.bridge_ids(computes[0])["tombstoned"] == "true"
        for path, words in (("explain/network/two", "tombstoned"), ("explain/router/r1", "stays on a (tombstoned)")):
            lines = "\n".join(cloud.http("GET", f"/api/v1/{path}")[1]["lines"])
            assert words in lines, lines
        works(cloud)
        meanwhile = datastores(cloud)
        told.did("recover a")
        assert cloud.rpc(RECOVER, "recover-node-ids", ["a"])[0] == 204
        cloud.wait_clean()
        works(cloud)
    after = datastores(cloud)
    assert (meanwhile, after) == (SERVED, SERVED)
    for what in ("asks", "NAT", "present"):
        told.saw(f"{WORDS[what]}: {said(meanwhile[what])} when marked, {said(after[what])} recovered")
    for was, compute in zip(before, computes, strict=True):
        now = snapshots.snapshot(compute)
        for part in was:
            assert now[part] == was[part], (compute.name, part)
        told.saw(f"{compute.name}: {snapshots.size(now)} flows, groups and rows, byte for byte as before")
    services.hide(cloud, "vm2", LATER)
    assert cloud.lab.vm("vm3").reaches(LATER)
    assert services.learnt(cloud)[LATER] == "vm2"
    told.saw(f"it asks as before: {LATER} is behind {services.learnt(cloud)[LATER]}")
    cloud.assert_clean()
