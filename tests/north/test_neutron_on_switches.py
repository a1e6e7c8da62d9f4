"""What Neutron says, on real computes: a port is active once it is served, and a host is one for as long as its compute stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ebbtide.lab import CONTROLLER, Lab
from tests.north.site import Site

pytestmark = pytest.mark.lab
ROOT = "/controller/nb/v2/neutron"
READ = "/restconf/operational/neutron:neutron"


def say(site: Site, kind: str, name: str, **said: Any) -> None:
    assert site.post(f"{ROOT}/{kind}s", {kind.replace("-", "_"): {"id": name, **said}}).status == 201


def hosts(site: Site) -> set[str]:
    """Those where ports may be bound."""
    listed = site.get(f"{READ}/hostconfigs/").json["hostconfigs"]["hostconfig"]
    return {each["host-id"] for each in listed if json.loads(each["config"])["allowed_network_types"]}


def status(site: Site, name: str) -> str:
    (found,) = site.get(f"{READ}/ports/port/{name}").json["port"]
    return str(found["status"])


def test_ports_become_active_and_a_host_goes_with_its_compute(lab: Lab, tmp_path: Path) -> None:
    listeners = [lab.listen(CONTROLLER, port) for port in (6640, 6653)]
    site = Site(tmp_path / "state", *listeners, admission="open", lag=0.2)
    try:
        for name in ("a", "b"):
            compute = lab.add_compute(name)
            compute.vsctl("set", "Open_vSwitch", ".", f"external_ids:odl_os_hostconfig_hostid=nova-{name}")
            compute.register()
        site.wait(lambda: site.ready(2))
        assert hosts(site) == {"nova-a", "nova-b"}
        one = site.get(f"{READ}/hostconfigs/hostconfig/nova-a/ODL%20L2").json["hostconfig"][0]
        assert json.loads(one["config"])["datapath_type"] in ("netdev", "system")

        said = {"provider:network_type": "vxlan", "provider:segmentation_id": 70001, "mtu": 1400}
        say(site, "network", "n1", **said)
        say(site, "subnet", "s1", network_id="n1", cidr="10.1.0.0/24", gateway_ip="10.1.0.254", enable_dhcp=False)
        say(site, "security-group", "g1")
        for direction in ("ingress", "egress"):
            rule = {"security_group_id": "g1", "direction": direction, "protocol": "icmp", "ethertype": "IPv4"}
            say(site, "security-group-rule", f"x-{direction}", **rule)
        events: list[dict[str, Any]] = []
        site.app.cluster.listeners.append(lambda what, facts: events.append(facts) if what == "neutron-port" else None)

        def told(name: str) -> list[tuple[str, list[str]]]:
            return [(each["status"], each["hosts"]) for each in events if each["name"] == name]

        vms = {}
        for number, name in ((1, "a"), (2, "b")):
            mac, ip = f"02:00:00:00:00:0{number}", f"10.1.0.{number}"
            fixed = [{"subnet_id": "s1", "ip_address": ip}]
            port = {"network_id": "n1", "mac_address": mac, "fixed_ips": fixed, "security_groups": [{"id": "g1"}]}
            say(site, "port", f"vm{number}", **port)
            assert status(site, f"vm{number}") == "DOWN"
            vms[number] = lab.add_vm(f"vm{number}", name, mac=mac, ip_cidr=f"{ip}/24", iface_id=f"vm{number}")
        site.wait(lambda: site.ready(2) and len(site.state.bindings) == 2)
        assert {status(site, name) for name in ("vm1", "vm2")} == {"ACTIVE"}
        site.wait(lambda: told("vm1") == [("ACTIVE", ["nova-a"])])
        assert vms[1].reaches("10.1.0.2")
        assert site.ask("DELETE", f"{ROOT}/security-group-rules/x-ingress").status == 204
        site.wait(lambda: site.ready(2))
        assert vms[1].ping("10.1.0.2").received == 0

        one = {each["id"]: each for each in site.get("/api/v1/neutron/ports?ids=vm1,nobody").json["ports"]}
        (first,) = one["vm1"].pop("visits")
        assert one == {"vm1": {"id": "vm1", "status": "ACTIVE", "hosts": ["nova-a"]}}
        migration = lab.migration("vm1", "b")
        migration.begin()
        site.wait(lambda: told("vm1")[-1:] == [("ACTIVE", ["nova-a", "nova-b"])])
        during = site.get("/api/v1/neutron/ports?ids=vm1").json["ports"][0]["visits"]
        migration.fail()
        site.wait(lambda: told("vm1")[-1:] == [("ACTIVE", ["nova-a"])])
        migration = lab.migration("vm1", "b")
        migration.begin()
        site.wait(lambda: told("vm1")[-1:] == [("ACTIVE", ["nova-a", "nova-b"])])
        again = site.get("/api/v1/neutron/ports?ids=vm1").json["ports"][0]["visits"]
        assert first == during[0] == again[0], "it has stayed there"
        assert during[1] != again[1], "it comes again"
        migration.fail()
        site.wait(lambda: told("vm1")[-1:] == [("ACTIVE", ["nova-a"])])

        assert site.rpc("scalein-api:scalein-computes-start", ["a"]).status == 204
        assert hosts(site) == {"nova-b"}
        marks = {each["host"]: each["tombstoned"] for each in site.get("/api/v1/neutron/hosts").json["hosts"]}
        assert marks == {"nova-a": True, "nova-b": False}
        assert site.rpc("scalein-api:scalein-computes-recover", ["a"], "recover-node-ids").status == 204
        assert hosts(site) == {"nova-a", "nova-b"}
        assert site.rpc("scalein-api:scalein-computes-start", ["a"]).status == 204
        lab.remove_vm("vm1")
        site.wait(lambda: "vm1" not in site.state.bindings)
        assert status(site, "vm1") == "DOWN"
        site.wait(lambda: told("vm1")[-1:] == [("DOWN", [])])
        assert [each for each, _ in told("vm2")] == ["ACTIVE"], "nothing has become of it since"
        assert site.rpc("scalein-api:scalein-computes-end", ["a"]).status == 204
        assert hosts(site) == {"nova-b"}
        for path in ("ports/vm1", "ports/vm2", "security-groups/g1", "subnets/s1", "networks/n1"):
            assert site.ask("DELETE", f"{ROOT}/{path}").status == 204
        assert not site.state.networks
        left = site.app.cluster.members[site.state.by_name["b"]]
        site.wait(lambda: left.clean)
        assert site.post("/api/v1/audit").json["clean"] is True
    finally:
        site.stop()
