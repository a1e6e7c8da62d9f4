"""The nonconfig trees of real computes: there while they are connected members, 404 after end."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ebbtide.lab import CONTROLLER, Lab
from tests.north.site import Site

pytestmark = pytest.mark.lab


def test_what_is_seen_of_a_compute(lab: Lab, tmp_path: Path) -> None:
    listeners = [lab.listen(CONTROLLER, port) for port in (6640, 6653)]
    site = Site(tmp_path / "state", *listeners, admission="open", lag=0.2)
    try:
        for name in ("a", "b"):
            lab.add_compute(name).register()
        site.wait(lambda: site.ready(2))
        assert site.post("/api/v1/networks", {"id": "blue"}).status == 201
        for number, name in ((1, "a"), (2, "b")):
            mac, ip = f"02:00:00:00:00:0{number}", f"10.1.0.{number}"
            wish = {"id": f"vm{number}", "network": "blue", "mac": mac, "addresses": [ip]}
            answer = site.ask("POST", "/api/v1/ports?wait=applied", wish)
            assert (answer.status, answer.json["behind"]) == (201, [])
            lab.add_vm(f"vm{number}", name, mac=mac, ip_cidr=f"{ip}/24", iface_id=f"vm{number}")
        site.wait(lambda: len(site.state.bindings) == 2 and site.ready(2))
        a, b = (site.state.computes[site.state.by_name[name]] for name in "ab")
        site.wait(lambda: site.app.cluster.probes.is_open(a.number, b.number))
        assert tunnels(site) == {"up"}
        node = f"/rests/data/network-topology:network-topology/topology=ovsdb:1/node={quote(a.bridge_node_id, safe='')}"
        (bridge,) = site.get(f"{node}?content=nonconfig").json["network-topology:node"]
        points = {p["ovsdb:name"]: p for p in bridge["termination-point"]}
        assert sum(name.startswith("tun") for name in points) == 1
        assert any("ovsdb:interface-external-ids" in p for p in points.values())
        keys = {e["bridge-external-id-key"] for e in bridge["ovsdb:bridge-external-ids"]}
        assert {"ebbtide-store", "ebbtide-term"} <= keys
        inventory = f"/rests/data/opendaylight-inventory:nodes/node={a.node_id}?content=nonconfig"
        assert site.get(inventory).status == 200
        flow1 = site.get("/restconf/operational/network-topology:network-topology/topology/flow:1").json["topology"]
        assert {n["node-id"] for n in flow1[0]["node"]} == {c.node_id for c in site.state.members()}

        assert site.rpc("scalein-api:scalein-computes-start", ["a"]).status == 204
        assert "tombstoned" in site.get(f"{node}?content=nonconfig").raw.decode()
        lab.remove_vm("vm1")
        site.wait(lambda: "vm1" not in site.state.bindings)
        assert site.rpc("scalein-api:scalein-computes-end", ["a"]).status == 204
        for path in (f"{node}?content=nonconfig", node, inventory):
            answer = site.get(path)
            assert (answer.status, answer.errors[0]["error-tag"]) == (404, "data-missing")
        assert tunnels(site) == set()
        everything: Any = site.get("/rests/data").raw.decode()
        assert a.ovs_uuid not in everything
        assert f'"{a.dpid}"' not in everything
        assert site.post("/api/v1/audit").json["clean"] is True
    finally:
        site.stop()


def tunnels(site: Site) -> set[str]:
    """Every oper-state that a tunnel has now."""
    found = site.get("/rests/data/itm-state:tunnels_state?content=nonconfig").json["itm-state:tunnels_state"]
    return {t["oper-state"] for t in found["state-tunnel-list"]}
