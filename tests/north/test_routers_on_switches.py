"""The commands that `explain router` gives, typed on real switches: they find what is installed of the router, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebbtide.compile import ledger
from ebbtide.lab import CONTROLLER, Lab
from ebbtide.lab.compute import Compute
from ebbtide.model.state import NAT
from tests.north.site import Site

pytestmark = pytest.mark.lab
API = "/api/v1"


def typed(compute: Compute, command: str) -> str:
    """What a command of the explanation prints there."""
    control = command.replace("ovs-appctl ", f"ovs-appctl -t {compute.directory / 'switch.ctl'} ")
    return compute.exec("bash", "-c", control)


def test_the_commands_find_the_routers_flows(lab: Lab, tmp_path: Path) -> None:
    listeners = [lab.listen(CONTROLLER, port) for port in (6640, 6653)]
    site = Site(tmp_path / "state", *listeners, admission="open", lag=0.2)
    try:
        computes = lab.add_computes(["a", "b"], physical_network="physnet1")
        for each in computes:
            each.register()
        site.wait(lambda: site.ready(2))
        macs = {name: f"02:00:00:00:00:0{n}" for n, name in enumerate("ab", 1)}
        ports = [
            {"id": f"vm-{name}", "network": "blue", "mac": mac, "addresses": [f"10.1.0.{9 + n}"]}
            for n, (name, mac) in enumerate(macs.items())
        ]
        for path, body in (
            ("networks", {"id": "blue", "subnets": ["10.1.0.0/24"]}),
            *(("ports", port) for port in ports),
            ("externals", {"id": "pub", "physical": "physnet1", "subnet": "203.0.113.0/24", "gateway": "203.0.113.1"}),
            ("routers", {"id": "r1", "external": "pub", "addresses": ["203.0.113.5"]}),
            ("routers/r1/attach", {"network": "blue"}),
            ("routers", {"id": "r2", "external": "pub"}),
        ):
            assert site.post(f"{API}/{path}", body).status == 201
        for n, (name, mac) in enumerate(macs.items()):
            lab.add_vm(f"vm-{name}", name, mac=mac, ip_cidr=f"10.1.0.{9 + n}/24", iface_id=f"vm-{name}")
        site.wait(lambda: len(site.state.bindings) == 2 and (NAT, "r1") in site.state.designations and site.ready(2))
        served = site.state.computes[site.state.designations[NAT, "r1"].compute].name
        server, sender = sorted(computes, key=lambda c: c.name != served)

        lines = site.get(f"{API}/explain/router/r1").json["lines"]
        split = (text.partition(": ") for text in lines if "ovs-" in text)
        commands = {what: command.strip() for what, _, command in split}
        tag = site.state.routers["r1"].tag
        elsewhere = commands.pop("Group to its NAT, where it is not served")
        assert f"group_id={ledger.gateway_group(tag)}," in typed(sender, elsewhere)
        found = {what: typed(server, command) for what, command in commands.items()}
        for what in ("Its own flows", "Flows in its VRF", f"Arriving at its NAT, VNI {ledger.gateway_vni(tag)}"):
            assert "table=" in found[what], what
        cookies = {int(text, 16) for text in re.findall(r"cookie=(0x[0-9a-f]+)", found["Its own flows"])}
        assert {ledger.read_cookie(c)[::2] for c in cookies} == {(ledger.Kind.ROUTER, tag)}
        tables = {int(text) for text in re.findall(r"table=(\d+)", found["Its own flows"])}
        assert {ledger.T.FIB, ledger.T.NAPT_OUT} <= tables
    finally:
        site.stop()
