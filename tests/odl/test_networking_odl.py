"""networking-odl, unmodified, says what it has to say, and believes what it is told.

One cloud for all of them, and each leaves what it has made: what is there already is a part of the next story.
"""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ebbtide.lab import processes, wait_until
from tests.odl.conftest import LONG, Cloud
from tests.odl.neutron import DOWN_TIME
from tests.project import extensions

pytestmark = pytest.mark.lab


def unserved(cloud: Cloud) -> Any:
    return cloud.controller.get("/api/v1/neutron")["unserved"]


def test_neutron_waits_for_a_controller_and_tells_an_empty_one_everything(cloud: Cloud) -> None:
    cloud.neutron.start(wait=False)
    cloud.controller.start()
    cloud.neutron.wait_up()
    cloud.network("first", 1)
    cloud.wait_told()
    assert unserved(cloud) == []


def test_each_extension_is_in_the_documentation(polling: Cloud) -> None:
    announced = {each["alias"] for each in polling.neutron.ask("GET", "extensions")["extensions"]}
    assert announced == extensions.announced(extensions.WITH_NETWORKING_ODL)


def test_every_kind_of_call_arrives_and_is_served(polling: Cloud) -> None:
    cloud, neutron = polling, polling.neutron
    outside = neutron.make_one(
        "networks",
        name="outside",
        tenant_id="p1",
        **{"router:external": True, "provider:network_type": "flat", "provider:physical_network": "physnet1"},
    )["id"]
    neutron.make_one(
        "subnets", network_id=outside, ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False, tenant_id="p1"
    )
    network, subnet = cloud.network("tenant", 2)
    neutron.change("networks", network, name="renamed")
    neutron.change("subnets", subnet, name="renamed", dns_nameservers=["192.0.2.53"])
    port = cloud.bound_port(network, "nova-a")
    assert (port["binding:vif_type"], port["status"]) == ("ovs", "DOWN")
    moved = neutron.change("ports", port["id"], **{"binding:host_id": "nova-b"})
    assert moved["binding:vif_type"] == "ovs"
    group = neutron.make_one("security-groups", name="web", tenant_id="p1")["id"]
    rule = {"direction": "ingress", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
    rule = neutron.make_one("security-group-rules", security_group_id=group, tenant_id="p1", **rule)["id"]
    neutron.change("ports", port["id"], security_groups=[group])
    router = neutron.make_one("routers", name="r1", tenant_id="p1")["id"]
    neutron.ask("PUT", f"routers/{router}/add_router_interface", {"subnet_id": subnet})
    neutron.change("routers", router, external_gateway_info={"network_id": outside})
    via = port["fixed_ips"][0]["ip_address"]
    neutron.change("routers", router, routes=[{"destination": "10.99.0.0/24", "nexthop": via}])
    floating = neutron.make_one("floatingips", floating_network_id=outside, port_id=port["id"], tenant_id="p1")["id"]
    cloud.wait_told()
    assert unserved(cloud) == []
    served = cloud.controller.get(f"/api/v1/routers/{router}")
    assert served["floating-ips"], served

    neutron.change("floatingips", floating, port_id=None)
    cloud.wait_told()
    neutron.delete("floatingips", floating)
    neutron.change("routers", router, routes=[])
    neutron.change("routers", router, external_gateway_info=None)
    neutron.ask("PUT", f"routers/{router}/remove_router_interface", {"subnet_id": subnet})
    neutron.delete("routers", router)
    neutron.delete("ports", port["id"])
    neutron.delete("security-group-rules", rule)
    neutron.delete("security-groups", group)
    neutron.delete("subnets", subnet)
    neutron.delete("networks", network)
    cloud.wait_told()
    assert unserved(cloud) == []
    assert network not in cloud.told("networks")


def test_a_vpn_is_served(polling: Cloud) -> None:
    cloud, neutron = polling, polling.neutron
    network, _ = cloud.network("in the vpn", 3)
    vpn = neutron.make_one(
        "bgpvpn/bgpvpns", name="v1", type="l3", tenant_id="p1", route_distinguishers=["100:1"], route_targets=["100:1"]
    )["id"]
    _, subnet = cloud.network("behind a router", 13)
    router = neutron.make_one("routers", name="r2", tenant_id="p1")["id"]
    neutron.ask("PUT", f"routers/{router}/add_router_interface", {"subnet_id": subnet})
    made = {}
    for kind, name in (("network", network), ("router", router)):
        said = {f"{kind}_association": {f"{kind}_id": name, "tenant_id": "p1"}}
        made[kind] = neutron.ask("POST", f"bgpvpn/bgpvpns/{vpn}/{kind}_associations", said)[f"{kind}_association"]["id"]
    cloud.wait_told()
    assert unserved(cloud) == []
    served = cloud.controller.get(f"/api/v1/vpns/{vpn}")
    assert [each["network"] for each in served["networks"]] == [network]
    assert served["routers"] == [router]
    for kind, name in made.items():
        neutron.delete(f"bgpvpn/bgpvpns/{vpn}/{kind}_associations", name)
    neutron.delete("bgpvpn/bgpvpns", vpn)
    cloud.wait_told()
    assert unserved(cloud) == []


def test_a_port_is_active_once_it_is_plugged_and_served(polling: Cloud) -> None:
    cloud = polling
    network, _ = cloud.network("vms", 4)
    one, two, three = (cloud.bound_port(network, f"nova-{name}") for name in "aba")
    cloud.wait_told()
    vms = [cloud.plug(one, "a"), cloud.plug(two, "b")]
    for port in (one, two):
        cloud.wait_status(port["id"], "ACTIVE")
        shown = cloud.controller.get(f"/restconf/operational/neutron:neutron/ports/port/{port['id']}")
        assert shown["port"][0]["status"] == "ACTIVE"
    assert vms[0].reaches(vms[1].ip)
    assert cloud.neutron.port(three["id"])["status"] == "DOWN", "it is plugged nowhere"

    # What sends to it has not confirmed yet: the switch of b stands still.
    switch = cloud.lab.compute("b").switch_pid
    assert switch is not None
    processes.send_signal(switch, signal.SIGSTOP)
    cloud.plug(three, "a")
    cloud.wait_seen(three["id"], "BUILD")
    assert cloud.neutron.port(three["id"])["status"] == "DOWN"
    processes.send_signal(switch, signal.SIGCONT)
    cloud.wait_status(three["id"], "ACTIVE")


def test_a_port_that_migrates_is_active_where_it_has_come(polling: Cloud) -> None:
    cloud, neutron = polling, polling.neutron
    network, _ = cloud.network("on its way", 11)
    port = cloud.bound_port(network, "nova-a")
    cloud.wait_told()
    vm = cloud.plug(port, "a")
    cloud.wait_status(port["id"], "ACTIVE")
    bindings = f"ports/{port['id']}/bindings"
    there = neutron.ask("POST", bindings, {"binding": {"host": "nova-b", "project_id": "p1"}})["binding"]
    assert (there["vif_type"], there["status"]) == ("ovs", "INACTIVE")
    migration = cloud.lab.migration(vm, "b")
    migration.begin()
    migration.switch()
    neutron.ask("PUT", f"{bindings}/nova-b/activate")
    migration.finish()
    neutron.delete(bindings, "nova-a")
    cloud.wait_told()
    cloud.wait_status(port["id"], "ACTIVE")
    assert neutron.port(port["id"])["binding:host_id"] == "nova-b"
    migration.await_announced()


def test_a_controller_that_is_killed_while_things_are_made_misses_nothing(polling: Cloud) -> None:
    cloud = polling
    network, _ = cloud.network("in the middle", 5)
    with ThreadPoolExecutor(max_workers=3) as pool:
        made = [pool.submit(cloud.bound_port, network, f"nova-{'ab'[n % 2]}") for n in range(24)]
        made[4].result()
        cloud.controller.kill()
        made[12].result()
        cloud.controller.start()
        ports = [each.result() for each in made]
    cloud.plug(ports[0], "a")
    cloud.wait_told()
    assert unserved(cloud) == []
    cloud.wait_status(ports[0]["id"], "ACTIVE")


def test_neutron_that_is_killed_with_things_unsaid_says_them_when_it_is_back(polling: Cloud) -> None:
    cloud, neutron = polling, polling.neutron
    cloud.controller.kill()
    network, _ = cloud.network("unsaid", 6)
    port = cloud.bound_port(network, "nova-b")
    cloud.plug(port, "b")
    neutron.kill()
    neutron.start(wait=False)
    cloud.controller.start()
    neutron.wait_up()
    cloud.wait_told()
    cloud.wait_status(port["id"], "ACTIVE")


def test_a_store_that_was_lost_is_filled_again(either: Cloud) -> None:
    cloud = either
    network, _ = cloud.network("kept", 7)
    port, after = (cloud.bound_port(network, f"nova-{name}") for name in "ab")
    cloud.wait_told()
    vm, other = cloud.plug(port, "a"), cloud.plug(after, "b")
    cloud.wait_status(port["id"], "ACTIVE")
    cloud.controller.kill()
    shutil.rmtree(cloud.controller.state_dir)
    cloud.controller.start()
    cloud.wait_told()
    assert unserved(cloud) == []
    # As docs/operations.md has it: the computes stop at the brake, since they have seen another store.
    computes = cloud.controller.computes
    cloud.controller.wait(lambda: {each["phase"] for each in computes().values()} == {"braked"}, "both to wait")
    cloud.controller.post("/api/v1/reconcile", {"computes": ["a", "b"], "approve": True})
    cloud.controller.wait_ready("a", "b")
    wait_until(lambda: vm.reaches(other.ip), "traffic")
    new = cloud.bound_port(network, "nova-b")
    cloud.plug(new, "b")
    cloud.wait_status(new["id"], "ACTIVE")


def test_nothing_new_is_bound_where_a_compute_leaves(polling: Cloud) -> None:
    cloud, neutron = polling, polling.neutron
    network, _ = cloud.network("leaving", 8)
    cloud.add_compute("c")
    wait_until(lambda: "nova-c" in neutron.agents(), "Neutron to know the new host", LONG)
    old = cloud.bound_port(network, "nova-c")
    assert cloud.controller.rpc("start", "c") == 204
    wait_until(lambda: neutron.allowed("nova-c") == [], "Neutron to know that it leaves", LONG)
    assert cloud.bound_port(network, "nova-c")["binding:vif_type"] == "binding_failed"
    assert cloud.bound_port(network, "nova-b")["binding:vif_type"] == "ovs"
    assert cloud.controller.rpc("recover", "c") == 204
    wait_until(lambda: neutron.allowed("nova-c") == ["vxlan"], "Neutron to know that it stays", LONG)
    assert cloud.bound_port(network, "nova-c")["binding:vif_type"] == "ovs"
    assert neutron.port(old["id"])["binding:vif_type"] == "ovs", "what is bound stays so"

    assert cloud.controller.rpc("start", "c") == 204
    wait_until(lambda: neutron.allowed("nova-c") == [], "Neutron to know that it leaves", LONG)
    assert cloud.controller.rpc("end", "c") == 204
    wait_until(lambda: not neutron.agents()["nova-c"]["alive"], "Neutron to hear of it no more", DOWN_TIME + LONG)
    assert cloud.bound_port(network, "nova-c")["binding:vif_type"] == "binding_failed"
    neutron.delete("agents", neutron.agents()["nova-c"]["id"])
    cloud.lab.remove_compute("c")


# --- told of hosts over a websocket ---


def test_hosts_are_pushed(pushed: Cloud) -> None:
    cloud = pushed
    network, _ = cloud.network("pushed", 9)
    cloud.controller.kill()
    cloud.controller.start()
    cloud.controller.wait_ready("a", "b")
    assert cloud.bound_port(network, "nova-a")["binding:vif_type"] == "ovs"
    assert cloud.controller.rpc("start", "a") == 204
    wait_until(lambda: set(cloud.neutron.agents()) == {"nova-b"}, "Neutron to forget the host", 10)
    assert cloud.bound_port(network, "nova-a")["binding:vif_type"] == "binding_failed"
    assert cloud.controller.rpc("recover", "a") == 204
    wait_until(lambda: set(cloud.neutron.agents()) == {"nova-a", "nova-b"}, "Neutron to know it again", 10)
    assert cloud.bound_port(network, "nova-a")["binding:vif_type"] == "ovs"


def test_what_happens_while_nobody_listens_is_told_afterwards(pushed: Cloud) -> None:
    cloud = pushed
    network, _ = cloud.network("meanwhile", 10)
    early, late = (cloud.bound_port(network, f"nova-{name}") for name in "ab")
    cloud.wait_told()
    cloud.controller.kill()
    cloud.plug(early, "a")
    cloud.controller.start()
    cloud.plug(late, "b")
    for port in (early, late):
        cloud.wait_status(port["id"], "ACTIVE")


def test_neutron_has_met_no_fault_in_what_it_was_told(cloud: Cloud) -> None:
    text = (cloud.lab.site.run_directory / "neutron.log").read_text()
    for fault in ("AttributeError", "KeyError", "TypeError", "ValueError", "packet_handler", "400 Client Error"):
        assert fault not in text
