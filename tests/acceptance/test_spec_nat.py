"""The spec's "Testing" list, the lines about a designated compute, for NAT; each test is named after its line.

Testing 4, 5, 7 and 8; and of Testing 6, recovery, what is about a designated compute. For VPNs and subnet routes, and for Testing 7 on a
compute that is disconnected when its last port goes, see `test_spec_subnet.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.lab import wait_until
from ebbtide.lab.flows import Load, Traffic
from ebbtide.model.facts import MovePhase
from ebbtide.model.state import NAT
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.routed import NEXT_HOP, SNAT, Routed, nothing_breaks
from tests.support.second_search import left_of
from tests.support.told import Told

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.xdist_group("specnat")]

#: Cached flows follow within half a second on this datapath; tests need not wait for as long as one in earnest (seconds).
LAG = 0.6
SOME = Load(active=5, silent=3, udp=50, udp_slow=1, udp_slow_period=3.0, new=5, half_open=1, bulk=0, ping=10)
#: How ovs-ofctl shows the table of NAT, inbound, and what opens connections.
INBOUND, OPENS = "table=44", f"nat(src={SNAT}:"


def routed(cloud: Cloud, *names: str, wired: str = "") -> Routed:
    """Router r1 with a VM behind it on each of these, vm1 on the first."""
    made = Routed(cloud, *names, wired=wired)
    for index, name in enumerate(names, 1):
        made.add_vm(f"vm{index}", name, index)
    made.wait_served()
    return made


@pytest.fixture
def three(make_cloud: Callable[..., Cloud]) -> Routed:
    """a, b and c, all with a wire to the outside."""
    return routed(make_cloud(web=True, lag=LAG, nat_patience=2.0), "a", "b", "c")


@pytest.fixture
def lonely(make_cloud: Callable[..., Cloud]) -> Routed:
    """a and b, of which a alone has a wire: nobody else can serve r1."""
    made = routed(make_cloud(web=True, lag=LAG, nat_patience=2.0), "a", "b", wired="a")
    assert (made.served_by(), made.stands_by()) == ("a", "")
    return made


def designated(routed: Routed, router: str = "r1") -> str:
    """The datapath id of the designated compute, where users of OpenDaylight look for it ("": there is none)."""
    status, body = routed.cloud.http(
        "GET", f"/rests/data/odl-nat:napt-switches/router-to-napt-switch={router}?content=config"
    )
    if status == 404:
        return ""
    assert status == 200, body
    (found,) = body["odl-nat:router-to-napt-switch"]
    return str(found["primary-switch-id"])


def dpid(routed: Routed, name: str) -> str:
    return str(routed.cloud.fact(name).dpid)


def datastore(routed: Routed, router: str = "r1") -> dict[str, Any]:
    """All that is stored of who serves a router, but for the revisions."""
    state = routed.state
    found = state.designations.get((NAT, router))
    return {
        "designation": (found.compute, found.standby) if found is not None else None,
        "leases": sorted((x.first, x.last, x.compute, x.opening) for x in state.leases.get(router, {}).values()),
        "move": state.moves.get(router),
        "served": sorted(n for n, serves in state.serves.items() if router in serves),
    }


def nat_flows(routed: Routed, name: str) -> list[str]:
    """A compute's flows that translate, or send, into r1's address."""
    words = (INBOUND, SNAT)
    return [line for line in snapshots.flows(routed.cloud.lab.compute(name)) if any(w in line for w in words)]


def wire_packets(routed: Routed, name: str) -> int:
    """How many packets have left a compute by its wire."""
    compute = routed.cloud.lab.compute(name)
    ports = compute.ports("br-ex")
    card = next(p for p in ports if "patch" not in compute.vsctl("get", "interface", p, "type", wait=False))
    text = compute.vsctl("get", "interface", card, "statistics:tx_packets", wait=False)
    return int(text)


def talked(traffic: Traffic) -> None:
    """Until each of the connections that talk has, on the average, exchanged twenty messages."""
    wanted = 20 * traffic.glance().total().active.wanted
    wait_until(lambda: traffic.glance().total().active.exchanges >= wanted, "exchanges", deadline=20)


def explained(routed: Routed, router: str = "r1") -> str:
    status, body = routed.cloud.http("GET", f"/api/v1/explain/router/{router}")
    assert status == 200, body
    return "\n".join(body["lines"])


@pytest.mark.line("Testing 4", of="NAT")
def test_identify_a_compute_node_which_is_designated_for_nat_functionality_scale_in_that_compute_verify_that_it_continues_to_work_and_that_its_relevant_flows_are_reprogrammed(  # noqa: E501
    three: Routed, told: Told
) -> None:
    cloud = three.cloud
    old = three.served_by()
    assert designated(three) == dpid(three, old)
    vm = f"vm{'abc'.index(old) + 1}"
    gone, stay = three.cloud.fact(old), [name for name in "abc" if name != old]
    before = left_of(gone, cloud.lab, *stay)
    assert before, "before, the others send to it"
    told.did(f"{old}, which is designated, is started, its VM migrates, it is ended; all talk to the outside")
    with nothing_breaks(cloud.lab, "vm1", "vm2", "vm3", load=SOME, told=told):
        assert carries(three) == {old}
        assert cloud.rpc("scalein-computes-start", "scalein-node-ids", [old])[0] == 204
        three.wait_moved()
        new = three.served_by()
        assert new in stay
        assert designated(three) == dpid(three, new)
        assert carries(three) == {new}
        opening = {n: sum(OPENS in line for line in nat_flows(three, n)) for n in (old, new)}
        assert opening[old] == 0, "it opens nothing any more"
        assert opening[new] > 0
        cloud.migrate(vm, new)
        assert cloud.rpc("scalein-computes-end", "scalein-node-ids", [old])[0] == 204
        after = left_of(gone, cloud.lab, *stay)
        assert after == []
        assert snapshots.flows(cloud.lab.compute(old)) == []
        assert snapshots.groups(cloud.lab.compute(old)) == []
        assert gone.number not in {x.compute for x in three.state.leases["r1"].values()}
        assert old not in (three.served_by(), three.stands_by())
    told.saw(
        f"designated {old}, then {new}; flows that translate to its address there: {opening[old]}, then {opening[new]}"
    )
    told.saw(f"flows, groups and rows about {old}: {len(before)}, then {len(after)}")
    assert cloud.assert_clean().residue == 0


def carries(routed: Routed) -> set[str]:
    """The computes by whose wire tenants' packets leave now: those of which 20 or more have, while 20 left by any."""
    before = {name: wire_packets(routed, name) for name in "abc"}
    found: set[str] = set()

    def some() -> bool:
        found.clear()
        found.update(name for name in before if wire_packets(routed, name) - before[name] >= 20)
        return bool(found)

    wait_until(some, "20 packets on a wire", deadline=20)
    return found


@pytest.mark.line("Testing 5", of="NAT")
def test_while_the_scale_in_work_flow_is_going_on_for_few_computes_create_a_new_nat_resource_make_sure_that_one_of_these_compute_nodes_are_not_chosen(  # noqa: E501
    three: Routed, told: Told
) -> None:
    cloud, service = three.cloud, three.cloud.service
    marked = {"a", "b"}
    assert cloud.rpc("scalein-computes-start", "scalein-node-ids", ["a", "b"])[0] == 204
    told.did("start a and b; five routers are made with networks on a, b and c, and one on a and b alone")
    # Five routers, each of which would go to a or b as soon as to c, and one whose networks are on a and b alone.
    for number in range(2, 7):
        cloud.add_network(f"n{number}", f"10.{number}.0.0/24")
        cloud.call(service.add_router(f"r{number}", outside="out", addresses=[f"203.0.113.{10 + number}"]))
        cloud.call(service.attach(f"r{number}", f"n{number}", f"10.{number}.0.254"))
        for index, name in enumerate("ab" if number == 6 else "abc", 1):
            cloud.add_vm(f"vm{number}{name}", name, f"n{number}", index, gateway=254)
    cloud.wait(lambda: all(three.served_by(f"r{n}") for n in range(1, 6)), what="the routers to be served")
    three.wait_moved()
    for number in range(1, 6):
        assert (three.served_by(f"r{number}"), three.stands_by(f"r{number}")) == ("c", "")
        assert designated(three, f"r{number}") == dpid(three, "c")
    told.saw(f"designated: {', '.join(three.served_by(f'r{n}') or 'nobody' for n in range(1, 7))}")
    opening = {n: sum("nat(src=" in line for line in snapshots.flows(cloud.lab.compute(n))) for n in "abc"}
    assert (opening["a"], opening["b"]) == (0, 0)
    assert opening["c"] >= 5
    told.saw(
        "flows that translate to such an address: " + ", ".join(f"{name} {count}" for name, count in opening.items())
    )
    assert cloud.lab.vm("vm2a").reaches(NEXT_HOP), "from a VM on a marked compute, by the one that is not"
    assert (three.served_by("r6"), designated(three, "r6")) == ("", "")
    why = explained(three, "r6")
    assert "nobody may serve it" in why, why
    assert "tombstoned" in why, why
    assert not cloud.lab.vm("vm6a").reaches(NEXT_HOP, deadline=1.0)
    # "If there are any services that do not have any compute node designated then they should start election of computes and
    # possibly choose from these recovered computes."
    told.did("recover a and b")
    assert cloud.rpc("scalein-computes-recover", "recover-node-ids", sorted(marked))[0] == 204
    cloud.wait(lambda: three.served_by("r6") in marked, what="the last one to be served")
    assert cloud.lab.vm("vm6a").reaches(NEXT_HOP)
    told.saw(f"r6: nobody, then {three.served_by('r6')}, and its VM reaches the outside")
    assert {three.served_by(f"r{n}") for n in range(1, 6)} == {"c"}, "nothing moves back by itself"
    cloud.assert_clean()


@pytest.mark.line("Testing 6", of="NAT")
def test_verify_the_recovery_procedure_of_scale_in_workflow_make_sure_that_the_recovered_compute_gets_its_relevant_flows(
    three: Routed, told: Told
) -> None:
    """Called back before the other may have opened anything, it is as if nothing had been: byte for byte."""
    cloud, old = three.cloud, three.served_by()
    computes = cloud.lab.computes()
    before, stored = [snapshots.snapshot(c) for c in computes], datastore(three)
    told.did(f"start {old}, which is designated; when its NAT is on its way, recover it; all talk to the outside")
    with nothing_breaks(cloud.lab, "vm1", "vm2", "vm3", load=SOME, told=told) as traffic:
        assert cloud.rpc("scalein-computes-start", "scalein-node-ids", [old])[0] == 204
        three.wait_phase(MovePhase.EXPORT)
        # Nothing is looked at here that takes its time: it is to be called back before FREEZE.
        move = three.move()
        assert move is not None
        assert cloud.rpc("scalein-computes-recover", "recover-node-ids", [old])[0] == 204
        three.wait_moved()
        assert datastore(three) == stored
        talked(traffic)
    # What has passed meanwhile has left its mark for the move, and that goes too.
    wait_until(
        lambda: not any("table=90" in line for c in computes for line in snapshots.flows(c)), "table 90 to be empty"
    )
    told.saw(
        f"called back in phase {move.phase}; designated {old}, then {three.served_by()}; leases as before: {len(stored['leases'])}"
    )
    for was, compute in zip(before, computes, strict=True):
        now = snapshots.snapshot(compute)
        found = snapshots.differences(was, now)
        assert found == [], compute.name
        told.saw(
            f"{compute.name} recovered: {snapshots.size(now)} flows, groups and rows, {len(found)} differences but for subnet routes"
        )
    cloud.assert_clean()


def stays_and_is_reported(lonely: Routed) -> None:
    """a is tombstoned, r1 is served there, and everybody who asks is told why."""
    cloud = lonely.cloud
    cloud.wait_clean()
    assert designated(lonely) == dpid(lonely, "a")
    assert lonely.move() is None
    why = explained(lonely)
    assert "stays on a (tombstoned): nobody else may serve it" in why, why
    assert "b has no provider network physnet1" in why, why


@pytest.mark.line("Testing 7", of="NAT")
@pytest.mark.parametrize("how", ["its VM migrates", "its VM is deleted, and it is switched off"])
def test_scale_in_a_compute_which_is_designated_and_no_other_compute_has_presence_of_that_service_to_be_designated_make_sure_that_all_its_flows_and_datastores_are_deleted(  # noqa: E501
    lonely: Routed, how: str, told: Told
) -> None:
    cloud, a = lonely.cloud, lonely.cloud.lab.compute("a")
    gone = cloud.fact("a")
    told.did(f"start a, which alone can have the NAT; {how}; end a")
    assert cloud.rpc("scalein-computes-start", "scalein-node-ids", ["a"])[0] == 204
    stays_and_is_reported(lonely)
    (again,) = cloud.call(cloud.service.start(["a"])).verdicts
    assert "nobody else can have the NAT of router r1 now: it stays, and ends with this compute" in again.message
    if how == "its VM migrates":
        cloud.migrate("vm1", "b")
        stays_and_is_reported(lonely)
        assert cloud.lab.vm("vm1").reaches(NEXT_HOP), "until the end it serves"
    else:
        cloud.lab.remove_vm("vm1")
        cloud.call(cloud.service.delete_port("vm1"))
        stays_and_is_reported(lonely)
    assert cloud.lab.vm("vm2").reaches(NEXT_HOP)
    # All that shall not be there after it is there just before.
    assert any(OPENS in line for line in nat_flows(lonely, "a"))
    before, opening = left_of(gone, cloud.lab, "b"), sum(OPENS in line for line in nat_flows(lonely, "a"))
    assert {line.partition(" with ")[0] for line in before} >= {"b: flow", "b: row"}
    held = datastore(lonely)
    assert (held["designation"], held["served"]) == ((gone.number, 0), [gone.number])
    assert held["leases"]
    if how != "its VM migrates":
        a.kill_all()
        cloud.wait(lambda: not cloud.controller.app.cluster.members[gone.number].connected, what="a to be away")
    assert cloud.rpc("scalein-computes-end", "scalein-node-ids", ["a"])[0] == 204
    assert datastore(lonely) == {"designation": None, "leases": [], "move": None, "served": []}
    assert designated(lonely) == ""
    after = left_of(gone, cloud.lab, "b")
    assert after == []
    told.saw(f"designated a, then {designated(lonely) or 'nobody'}")
    told.saw(f"leases of ports: {len(held['leases'])}, then {len(datastore(lonely)['leases'])}")
    told.saw(f"b's flows and rows about a: {len(before)}, then {len(after)}")
    if how != "its VM migrates":
        a.start_all()
        wait_until(lambda: snapshots.flows(a) != [], "a to be back in quarantine", deadline=20)
        cloud.wait_clean()
        assert nat_flows(lonely, "a") == []
    else:
        assert snapshots.flows(a) == []
        assert snapshots.groups(a) == []
        assert snapshots.tunnels(a) == []
        assert cloud.lab.vm("vm1").reaches("10.1.0.2"), "inside all is well"
    why = explained(lonely)
    assert "Nobody serves the NAT of router r1" in why, why
    assert not cloud.lab.vm("vm2").reaches(NEXT_HOP, deadline=1.0)
    told.saw(
        f"flows that translate to its address on a: {opening}, then {sum(OPENS in line for line in nat_flows(lonely, 'a'))}"
    )
    assert cloud.assert_clean().residue == 0


@pytest.mark.line("Testing 8", of="NAT")
def test_start_scale_in_for_a_compute_which_is_designated_and_no_other_compute_has_presence_of_that_service_to_be_designated_recover_the_compute_and_make_sure_that_all_its_flows_and_datastores_are_recovered(  # noqa: E501
    lonely: Routed, told: Told
) -> None:
    cloud = lonely.cloud
    computes = cloud.lab.computes()
    before, stored = [snapshots.snapshot(c) for c in computes], datastore(lonely)
    told.did("start a, which alone can have the NAT; recover a; all talk to the outside")
    with nothing_breaks(cloud.lab, "vm1", "vm2", load=SOME, told=told) as traffic:
        assert cloud.rpc("scalein-computes-start", "scalein-node-ids", ["a"])[0] == 204
        stays_and_is_reported(lonely)
        talked(traffic)
        assert snapshots.bridge_ids(computes[0])["tombstoned"] == "true"
        assert cloud.rpc("scalein-computes-recover", "recover-node-ids", ["a"])[0] == 204
        assert "stays on a: a service moves only when" in explained(lonely)
    assert datastore(lonely) == stored
    told.saw(f"designated a, then {lonely.served_by()}; leases of ports {len(stored['leases'])}, the same after")
    for was, compute in zip(before, computes, strict=True):
        now = snapshots.snapshot(compute)
        found = snapshots.differences(was, now)
        assert found == [], compute.name
        told.saw(
            f"{compute.name}: {snapshots.size(now)} flows, groups and rows, {len(found)} differences but for subnet routes"
        )
    cloud.assert_clean()
