"""The spec's "Testing" list, with VMs in one network and in two networks of a VPN; each test is named after its line.

Testing 1, 2, 3, and 6 for what has no designated compute. What has one is in `test_spec_subnet.py` (VPNs and subnet routes) and in
`test_spec_nat.py`: Testing 4 to 8. The lines of the "CSIT" list are in `test_spec_csit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

from ebbtide.lab import Compute
from ebbtide.lab.probes import Probes, pairs_among
from tests.support import services, snapshots, trees
from tests.support.cloud import Cloud
from tests.support.second_search import left_of
from tests.support.told import Told

pytestmark = pytest.mark.lab

RD = "100:1"


@pytest.fixture
def trio(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a, b, c; networks blue and green in the VPN red; VMs of blue on all three, two on b, and one of green on c."""
    cloud = make_cloud(web=True)
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_network("green", "10.2.0.0/24")
    services.add_vpn(cloud, "red", RD, ["blue", "green"])
    for index, name in enumerate("abcb", 11):
        cloud.add_vm(f"vm{index - 10}", name, "blue", index, gateway=1)
    cloud.add_vm("far", "c", "green", 11, gateway=1)
    cloud.wait_clean()
    return cloud


@pytest.mark.line("Testing 1")
def test_verify_that_scaled_out_compute_vms_should_be_able_to_communicate_with_inter_and_intra_compute_vms(
    trio: Cloud, told: Told
) -> None:
    old = trio.lab.vms()
    assert services.present(trio, RD) == ["a", "b", "c"]
    told.did("d joins, with VMs in both networks of a VPN")
    trio.add_computes("d")
    trio.add_vm("new1", "d", "blue", 21, gateway=1)
    trio.add_vm("new2", "d", "blue", 22, gateway=1)
    trio.add_vm("new3", "d", "green", 23, gateway=1)
    trio.wait_clean()
    new = [trio.lab.vm(name) for name in ("new1", "new2", "new3")]
    told.did("they and the others send to each other, in each network and between the two")
    with Probes(trio.lab) as probes:
        pairs = [*pairs_among(new), *((n, o) for n in new for o in old), *((o, n) for n in new for o in old)]
        probes.start(pairs, rate=50)
        probes.wait_flowing()
        probes.mark_phase("counted")
        for _ in range(3):
            assert trio.lab.vm("new1").ping("10.1.0.22", count=2).lost == 0
            assert trio.lab.vm("new1").ping("10.1.0.11", count=2).lost == 0
            assert trio.lab.vm("new1").ping("10.2.0.11", count=2).lost == 0
        report = probes.stop()
    assert not report.failures("counted"), report.table()
    told.saw(f"{len(pairs)} pairs: {report.sent('counted')} probes, {report.lost('counted')} lost")
    on = services.present(trio, RD)
    assert on == ["a", "b", "c", "d"]
    assert services.routes(trio, RD)["10.2.0.23/32"] == ("l", ("d",))
    rows = services.vpn_flows(trio, "d", services.state_of(trio).vpns["red"].tag)
    assert rows
    told.saw(f"the VPN is on {', '.join(on)}; {len(rows)} flows of it on d")
    told.saw(f"audit: {len(trio.assert_clean().findings)} findings")


@pytest.mark.line("Testing 2")
def test_verify_that_scale_in_compute_flows_be_removed_and_existing_service_continue_work(
    trio: Cloud, told: Told
) -> None:
    gone = trio.fact("a")
    before = left_of(gone, trio.lab, "b", "c")
    assert {line.partition(" with ")[0] for line in before} >= {"b: flow", "b: group", "b: row"}
    own = len(snapshots.flows(trio.lab.compute("a")))
    assert services.routes(trio, RD)["10.1.0.11/32"] == ("l", ("a",))
    told.did("start a, its VM migrates to c, end a; all VMs send to each other, in and between two networks of a VPN")
    with Probes(trio.lab) as probes:
        probes.start(pairs_among(trio.lab.vms()), rate=50)
        probes.wait_flowing()
        probes.mark_phase("scale-in")
        assert trio.rpc("scalein-computes-start", "scalein-node-ids", ["a"])[0] == 204
        trio.migrate("vm1", "c")
        assert trio.rpc("scalein-computes-end", "scalein-node-ids", ["a"])[0] == 204
        probes.mark_phase("after")
        assert trio.lab.vm("vm1").ping("10.1.0.12", count=3).lost == 0
        assert trio.lab.vm("vm1").ping("10.2.0.11", count=3).lost == 0
        report = probes.stop()
    assert not report.failures("scale-in"), report.table()
    assert not report.failures("after"), report.table()
    told.saw(f"{report.sent()} probes, {report.lost('scale-in') + report.lost('after')} lost")
    after, left = left_of(gone, trio.lab, "b", "c"), snapshots.flows(trio.lab.compute("a"))
    assert (after, left) == ([], [])
    assert snapshots.groups(trio.lab.compute("a")) == []
    told.saw(
        f"flows, groups and rows about a on b and c: {len(before)}, then {len(after)}; flows on a: {own}, then {len(left)}"
    )
    assert services.present(trio, RD) == ["b", "c"]
    assert services.routes(trio, RD)["10.1.0.11/32"] == ("l", ("c",))
    told.saw(f"the VPN is on {', '.join(services.present(trio, RD))}")
    assert trio.assert_clean().residue == 0


@pytest.mark.line("Testing 3")
def test_verify_that_scale_in_compute_nodes_config_inventory_and_topology_datastores_are_cleaned(
    trio: Cloud, told: Told
) -> None:
    facts, peer = trio.fact("a"), trio.fact("b")
    paths = trees.entries(facts, peer)
    for path in paths:
        assert trio.http("GET", path)[0] == 200, path
    words = (str(facts.dpid), facts.ovs_uuid, facts.system_id, facts.tep)
    named = {content: mentions(trio, content, words) for content in ("config", "nonconfig")}
    assert all(named.values())
    assert "a" in services.present(trio, RD)
    told.did("start a by its DPN id, its VM migrates, end a by its node id")
    assert trio.rpc("scalein-computes-start", "scalein-node-ids", [str(facts.dpid)])[0] == 204
    bridge = quote(facts.bridge_node_id, safe="")
    marked = trio.http("GET", f"/rests/data/network-topology:network-topology/topology=ovsdb%3A1/node={bridge}")[1]
    assert '"tombstoned"' in str(marked).replace("'", '"')
    trio.migrate("vm1", "c")
    assert trio.rpc("scalein-computes-end", "scalein-node-ids", [facts.node_id])[0] == 204
    gone = 0
    for path in paths:
        status, body = trio.http("GET", path)
        assert (status, trees.tags(body)) == (404, ["data-missing"]), path
        gone += 1
    told.saw(f"{gone} entries about it, in both styles, config and not: 200, then 404")
    # And nowhere else, in the trees of VPNs as little: the whole of it holds no name of it.
    for content, before in named.items():
        after = mentions(trio, content, words)
        assert after == 0, content
        told.saw(f"its ids in the whole {content} datastore: {before}, then {after}")
    assert services.present(trio, RD) == ["b", "c"]
    assert snapshots.flows(trio.lab.compute("a")) == []
    for address in ("10.1.0.12", "10.2.0.11"):
        assert trio.lab.vm("vm1").ping(address, count=3).lost == 0
    told.saw(f"its VM, on {trio.place('vm1')} now, reaches the others")


def mentions(cloud: Cloud, content: str, words: tuple[str, ...]) -> int:
    """How often the whole of a datastore has any of these words."""
    everything = str(cloud.http("GET", f"/rests/data?content={content}")[1])
    return sum(everything.count(word) for word in words)


@pytest.mark.line("Testing 6", of="VMs, VPN")
def test_verify_the_recovery_procedure_of_scale_in_workflow_make_sure_that_the_recovered_compute_gets_its_relevant_flows(
    trio: Cloud, told: Told
) -> None:
    computes = [trio.lab.compute(name) for name in "abc"]
    taps = {"a": ["vm1"], "b": ["vm2", "vm4"], "c": ["vm3", "far"]}
    for compute in computes:
        for number, vm in enumerate(taps[compute.name]):
            keep_port_number(trio, compute, vm, 100 + number)
    services.wait_asks(trio, "blue", "10.1.0.0/24", *"abc")
    before = [snapshots.snapshot(c) for c in computes]
    told.did("start a, b, c; a VM moves, a network comes and goes, b's switch restarts; recover a, b, c")
    assert trio.rpc("scalein-computes-start", "scalein-node-ids", ["a", "b", "c"])[0] == 204
    # In the window VMs move, a network is made, a switch restarts.
    trio.migrate("vm1", "b")
    trio.add_network("extra", "10.3.0.0/24")
    trio.add_vm("vmx", "c", "extra", 9)
    trio.lab.compute("b").restart_switch()
    trio.wait_ready("a", "b", "c")
    between = [snapshots.snapshot(c) for c in computes]
    for was, now, compute in zip(before, between, computes, strict=True):
        # Not merely the mark: a has lost its network and its tunnels, the others a place of it and the tunnel there.
        for part in ("flows", "groups", "tunnels", "rows"):
            assert snapshots.unmarked(now)[part] != snapshots.unmarked(was)[part], (compute.name, part)
        told.saw(f"{compute.name} meanwhile: {len(snapshots.differences(was, now))} differences")
    trio.lab.remove_vm("vmx")
    trio.call(trio.service.delete_port("vmx"))
    trio.call(trio.service.delete_network("extra"))
    assert trio.rpc("scalein-computes-recover", "recover-node-ids", ["a", "b", "c"])[0] == 204
    trio.migrate("vm1", "a")
    keep_port_number(trio, computes[0], "vm1", 100)
    trio.assert_clean()
    for was, compute in zip(before, computes, strict=True):
        now = snapshots.snapshot(compute)
        found = snapshots.differences(was, now)
        assert found == [], compute.name
        told.saw(
            f"{compute.name} after: {snapshots.size(now)} flows, groups and rows, {len(found)} differences but for subnet routes"
        )


def keep_port_number(cloud: Cloud, compute: Compute, vm: str, wanted: int) -> None:
    """A tap's OpenFlow port number is the switch's choice at each plugging; ask for the same one, to compare byte for byte."""
    view = cloud.controller.member(compute.name)
    compute.vsctl("set", "interface", view.view.ports[vm].name, f"ofport_request={wanted}")
    cloud.wait(lambda: view.view.ports[vm].ofport == wanted, what="the port number")
