"""A cloud of NetVirt moves over, as docs/openstack.md has it: Neutron first, then all hosts at once, while their servers talk."""

from __future__ import annotations

import pytest

from ebbtide.lab import Compute, wait_until
from ebbtide.lab.probes import Probes, pairs_among
from tests.odl.conftest import LONG, Cloud

pytestmark = pytest.mark.lab
#: Who ran these hosts until now, and is not there any more.
OTHER = "tcp:127.0.0.1:16633"


def run_as_netvirt_does(here: Compute, there: Compute) -> None:
    """Another controller's br-int, with a tunnel, and flows that carry everything."""
    here.vsctl(
        *("--", "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev", "fail_mode=secure"),
        *("--", "add-port", "br-int", "tun1", "--", "set", "interface", "tun1", "type=vxlan"),
        *(f"options:remote_ip={there.tep}", "options:key=flow"),
        *("--", "set-controller", "br-int", OTHER),
    )
    here.ofctl("add-flow", "br-int", "table=0,priority=4,cookie=0x8000001,actions=goto_table:17")
    here.ofctl("add-flow", "br-int", "table=17,priority=1,cookie=0x8000001,actions=NORMAL")


def test_hosts_of_netvirt_are_adopted_while_their_servers_talk(polling: Cloud) -> None:
    cloud = polling
    network, _ = cloud.network("of netvirt", 21)
    names = "e", "f"
    for name in names:
        compute = cloud.lab.add_compute(name, physical_network="physnet1")
        compute.vsctl("set", "Open_vSwitch", ".", f"external_ids:odl_os_hostconfig_hostid=nova-{name}", wait=False)
    e, f = (cloud.lab.compute(name) for name in names)
    run_as_netvirt_does(e, f)
    run_as_netvirt_does(f, e)
    ports = [cloud.bound_port(network, f"nova-{name}") for name in names]
    cloud.wait_told()
    vms = [cloud.plug(port, name) for port, name in zip(ports, names, strict=True)]
    wait_until(lambda: vms[0].reaches(vms[1].ip), "NetVirt to carry it", 15)
    before = [each.dump_flows() for each in (e, f)]

    with Probes(cloud.lab) as probes:
        probes.start(pairs_among(vms), rate=100)
        probes.wait_flowing()
        for each in (e, f):
            each.register()
        cloud.controller.wait(
            lambda: {cloud.controller.computes()[name]["phase"] for name in names} == {"foreign"}, "both to be seen"
        )
        assert [each.dump_flows() for each in (e, f)] == before

        # A server of which Neutron has not told would be cut off.
        made = "--", "set", "Interface", "stray", "type=internal", "external_ids:iface-id=stray"
        e.vsctl("add-port", "br-int", "stray", *made)

        def refused() -> bool:
            status, found = cloud.controller.ask("POST", "/api/v1/computes/e/adopt", {})
            return status == 409 and "nobody has told of stray" in found["error"]["message"]

        cloud.controller.wait(refused, "it to be refused")
        e.vsctl("del-port", "br-int", "stray")

        probes.mark_phase("adopted")
        for name in names:
            cloud.controller.post(f"/api/v1/computes/{name}/adopt", {})
        for port in ports:
            cloud.wait_seen(port["id"], "ACTIVE")
        probes.mark_phase("after")
        cloud.controller.wait(lambda: vms[0].reaches(vms[1].ip), "them to reach each other")
        report = probes.stop()
    print("longest gap", report.longest_gap_ms("adopted"), "ms;", report.lost("adopted"), "of", report.sent("adopted"))
    assert report.lost(report.phases[0]) == 0
    assert report.longest_gap_ms("adopted") < 3000
    # From now on they are hosts as any other.
    wait_until(lambda: "nova-e" in cloud.neutron.agents(), "Neutron to know the host", LONG)
    new = cloud.bound_port(network, "nova-e")
    vms.append(cloud.plug(new, "e"))
    cloud.wait_status(new["id"], "ACTIVE")
    assert vms[2].reaches(vms[1].ip)
    for each in (e, f):
        assert "tun1" not in each.ports()
        wait_until(lambda each=each: "cookie=0x8000001" not in "".join(each.dump_flows()), "NetVirt's flows to go")  # type: ignore[misc]
    assert cloud.controller.post("/api/v1/audit", {})["clean"]
    for vm in vms:
        cloud.lab.remove_vm(vm.name)
    for name in names:
        assert cloud.controller.rpc("start", name) == 204
        cloud.controller.wait(lambda name=name: cloud.controller.rpc("end", name) == 204, "it to go")  # type: ignore[misc]
        cloud.lab.remove_compute(name)
