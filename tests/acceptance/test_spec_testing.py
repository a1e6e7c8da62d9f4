"""The spec's "Testing" list, line by line, as far as L2 goes; each test is named after its line.

The lines of its "CSIT" list are among them: CSIT 1 (scale out) is Testing 1, CSIT 2 (flows removed, service continues) is Testing 2,
CSIT 3 (designated for NAT or subnet routes) is Testing 4, CSIT 4 (recovery) is Testing 6; in the same words, but for "scale out" for
"scaled out". So one test stands for both.

Testing 4, 5, 7 and 8 (CSIT 3) are in `test_spec_nat.py`, for NAT. Subnet routes and VPN have no service to run on yet.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from ebbtide.lab import Compute
from ebbtide.lab.probes import Probes, pairs_among
from tests.support import snapshots, trees
from tests.support.cloud import Cloud
from tests.support.second_search import left_of

pytestmark = pytest.mark.lab


@pytest.fixture
def trio(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; one network, a VM on each, two on b."""
    cloud = make_cloud(web=True)
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("abcb", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


def test_verify_that_scaled_out_compute_vms_should_be_able_to_communicate_with_inter_and_intra_compute_vms(
    trio: Cloud,
) -> None:
    trio.add_computes("d")
    trio.add_vm("vm5", "d", "blue", 5)
    trio.add_vm("vm6", "d", "blue", 6)
    new = [trio.lab.vm(name) for name in ("vm5", "vm6")]
    with Probes(trio.lab) as probes:
        others = [trio.lab.vm(f"vm{i}") for i in range(1, 5)]
        pairs = [*pairs_among(new), *((n, o) for n in new for o in others), *((o, n) for n in new for o in others)]
        probes.start(pairs, rate=50)
        probes.wait_flowing()
        probes.mark_phase("counted")
        for _ in range(3):
            assert trio.lab.vm("vm5").ping("10.1.0.6", count=2).lost == 0
            assert trio.lab.vm("vm5").ping("10.1.0.1", count=2).lost == 0
        report = probes.stop()
    assert not report.failures("counted"), report.table()
    trio.assert_clean()


def test_verify_that_scale_in_compute_flows_be_removed_and_existing_service_continue_work(trio: Cloud) -> None:
    gone = trio.fact("a")
    assert {line.partition(" with ")[0] for line in left_of(gone, trio.lab, "b")} == {"b: flow", "b: group", "b: row"}
    with Probes(trio.lab) as probes:
        probes.start(pairs_among(trio.lab.vms()), rate=50)
        probes.wait_flowing()
        probes.mark_phase("scale-in")
        assert trio.rpc("scalein-computes-start", "scalein-node-ids", ["a"])[0] == 204
        trio.migrate("vm1", "c")
        assert trio.rpc("scalein-computes-end", "scalein-node-ids", ["a"])[0] == 204
        probes.mark_phase("after")
        assert trio.lab.vm("vm1").ping("10.1.0.2", count=3).lost == 0
        report = probes.stop()
    assert not report.failures("scale-in"), report.table()
    assert not report.failures("after"), report.table()
    assert left_of(gone, trio.lab, "b", "c") == []
    assert snapshots.flows(trio.lab.compute("a")) == []
    assert snapshots.groups(trio.lab.compute("a")) == []
    assert trio.assert_clean().residue == 0


def test_verify_that_scale_in_compute_nodes_config_inventory_and_topology_datastores_are_cleaned(trio: Cloud) -> None:
    facts, peer = trio.fact("a"), trio.fact("b")
    paths = trees.entries(facts, peer)
    for path in paths:
        assert trio.http("GET", path)[0] == 200, path
    assert trio.rpc("scalein-computes-start", "scalein-node-ids", [str(facts.dpid)])[0] == 204
    bridge = quote(facts.bridge_node_id, safe="")
    marked = trio.http("GET", f"/rests/data/network-topology:network-topology/topology=ovsdb%3A1/node={bridge}")[1]
    assert '"tombstoned"' in str(marked).replace("'", '"')
    trio.migrate("vm1", "c")
    assert trio.rpc("scalein-computes-end", "scalein-node-ids", [facts.node_id])[0] == 204
    for path in paths:
        status, body = trio.http("GET", path)
        assert (status, trees.tags(body)) == (404, ["data-missing"]), path
    # And nowhere else: the whole of it holds no name of it.
    for content in ("config", "nonconfig"):
        everything = str(trio.http("GET", f"/rests/data?content={content}")[1])
        for word in (str(facts.dpid), facts.ovs_uuid, facts.system_id, facts.tep):
            assert word not in everything


def test_verify_the_recovery_procedure_of_scale_in_workflow_make_sure_that_the_recovered_compute_gets_its_relevant_flows(
    trio: Cloud,
) -> None:
    computes = [trio.lab.compute(name) for name in "abc"]
    taps = {"a": ["vm1"], "b": ["vm2", "vm4"], "c": ["vm3"]}
    for compute in computes:
        for number, vm in enumerate(taps[compute.name]):
            keep_port_number(trio, compute, vm, 100 + number)
    trio.wait_clean()
    before = [snapshots.snapshot(c) for c in computes]
    assert trio.rpc("scalein-computes-start", "scalein-node-ids", ["a", "b", "c"])[0] == 204
    # In the window VMs move, a network is made, a switch restarts.
    trio.migrate("vm1", "b")
    trio.add_network("green", "10.2.0.0/24")
    trio.add_vm("vmx", "c", "green", 9)
    trio.lab.compute("b").restart_switch()
    trio.wait_ready("a", "b", "c")
    between = [snapshots.snapshot(c) for c in computes]
    for was, now, compute in zip(before, between, computes, strict=True):
        # Not merely the mark: a has lost its network and its tunnels, the others a place of it and the tunnel there.
        for part in ("flows", "groups", "tunnels", "rows"):
            assert snapshots.unmarked(now)[part] != snapshots.unmarked(was)[part], (compute.name, part)
    trio.lab.remove_vm("vmx")
    trio.call(trio.service.delete_port("vmx"))
    trio.call(trio.service.delete_network("green"))
    assert trio.rpc("scalein-computes-recover", "recover-node-ids", ["a", "b", "c"])[0] == 204
    trio.migrate("vm1", "a")
    keep_port_number(trio, computes[0], "vm1", 100)
    trio.assert_clean()
    for was, compute in zip(before, computes, strict=True):
        now = snapshots.snapshot(compute)
        for part in was:
            assert now[part] == was[part], (compute.name, part)


def keep_port_number(cloud: Cloud, compute: Compute, vm: str, wanted: int) -> None:
    """A tap's OpenFlow port number is the switch's choice at each plugging; ask for the same one, to compare byte for byte."""
    view = cloud.controller.member(compute.name)
    compute.vsctl("set", "interface", view.view.ports[vm].name, f"ofport_request={wanted}")
    cloud.wait(lambda: view.view.ports[vm].ofport == wanted, what="the port number")
