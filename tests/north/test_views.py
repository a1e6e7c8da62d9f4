"""The data trees: both styles, keys, content, absence; what is rendered of a State and of what is seen."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from immutables import Map

from ebbtide.compile.features import tunnel
from ebbtide.errors import BadInput, NotFound
from ebbtide.model.facts import Binding, BindingPhase, Compute, Membership, Network, Port, Relation
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import State, rebuild
from ebbtide.north import tree, views
from tests.north.site import Site

A = Compute("a", 1, 0xA1, system_id="sys-a", ovs_uuid="uuid-a", hostname="a.example", teps=("192.0.2.1",))
B = Compute("b", 2, 0xFFFF_FFFF_FFFF_FFF0, system_id="sys-b", ovs_uuid="uuid-b", teps=("192.0.2.2",), tombstoned=True)
W = Compute("w", 3, 0xA3, ovs_uuid="uuid-w", teps=("192.0.2.3",), membership=Membership.WAITING)
R = Compute("r", 4, 0xA4, ovs_uuid="uuid-r", teps=("192.0.2.4",), membership=Membership.REMOVED, removed_at=3)
BLUE = Network("blue", 1, 10_001)
P1 = Port("p1", "blue", 0x020000000001, 1, ("10.1.0.1",))
P2 = Port("p2", "blue", 0x020000000002, 2, ("10.1.0.2",))
STATE = rebuild(
    [
        A,
        B,
        W,
        R,
        BLUE,
        P1,
        P2,
        Binding("p1", 1, BindingPhase.ACTIVE, 2),
        Binding("p2", 2, BindingPhase.ACTIVE, 2),
        Relation(1, 2),
    ],
    7,
    "store",
    1,
)
NAME_AB = tunnel.name("192.0.2.1", "192.0.2.2")
NAME_BA = tunnel.name("192.0.2.2", "192.0.2.1")
SEEN = {
    1: views.Seen(
        View(True, Map({"p1": Interface("tap1", 5, "p1", "02:00:00:00:00:01")}), Map({2: Interface(NAME_AB, 9)})),
        True,
        {"ebbtide-store": "store"},
    )
}


def picture(config: bool, nonconfig: bool, state: State = STATE) -> views.Picture:
    return views.Picture(state, lambda n: SEEN.get(n, views.Seen()), lambda a, b: {a, b} == {1, 2}, config, nonconfig)


def read(path: str, config: bool = True, nonconfig: bool = True, old: bool = False) -> Any:
    trees = views.trees(picture(config, nonconfig))
    return tree.envelope(tree.locate(trees, tree.steps(path), old), old)


def test_the_trees_are_as_recorded(golden: Any) -> None:
    """All but the flows, which have golden files of their own."""
    found = {
        style: tree.plain(views.trees(picture(config, nonconfig)), old)
        for style, config, nonconfig, old in (
            ("config", True, False, False),
            ("nonconfig", False, True, False),
            ("old config", True, False, True),
        )
    }
    for each in found.values():
        del each["opendaylight-inventory:nodes"]
    golden("north/views.json", json.dumps(found, indent=1) + "\n")


def test_members_only() -> None:
    text = json.dumps(tree.plain(views.trees(picture(True, True)), False))
    for hidden in ("uuid-w", "uuid-r", "192.0.2.3", "192.0.2.4", f"openflow:{0xA3}", f"openflow:{0xA4}"):
        assert hidden not in text
    assert "uuid-a" in text


def test_oper_state() -> None:
    found = read("itm-state:tunnels_state", False, True)["itm-state:tunnels_state"]["state-tunnel-list"]
    assert {t["tunnel-interface-name"]: t["oper-state"] for t in found} == {NAME_AB: "up", NAME_BA: "unknown"}
    trees = views.trees(views.Picture(STATE, lambda n: SEEN.get(n, views.Seen()), lambda a, b: False, False, True))
    found = tree.plain(trees["itm-state:tunnels_state"], False)["state-tunnel-list"]
    assert {t["oper-state"] for t in found} == {"down", "unknown"}


def test_uint64_is_text_in_the_newer_style_only() -> None:
    path = "cloudscaler-rpc:compute-nodes/compute-node"
    (new,) = read(f"{path}=b")["cloudscaler-rpc:compute-node"]
    (old,) = read(f"{path}/b", old=True)["compute-node"]
    assert (new["dpnid"], old["dpnid"]) == (str(B.dpid), B.dpid)
    assert new["tombstoned"] is True


def test_nonconfig_has_what_is_connected_only() -> None:
    assert read("opendaylight-inventory:nodes/node=openflow:161", False, True)
    with pytest.raises(NotFound):
        read(f"opendaylight-inventory:nodes/node=openflow:{B.dpid}", False, True)
    assert read(f"opendaylight-inventory:nodes/node=openflow:{B.dpid}", True, False)


def test_two_keys() -> None:
    path = "itm-state:tunnel-list/internal-tunnel"
    vxlan = "odl-interface:tunnel-type-vxlan"
    (found,) = read(f"{path}={A.dpid},{B.dpid},{vxlan}")["itm-state:internal-tunnel"]
    assert found["tunnel-interface-names"] == [NAME_AB]
    assert read(f"{path}/{A.dpid}/{B.dpid}/{vxlan}", old=True)["internal-tunnel"] == [
        {**found, "source-DPN": A.dpid, "destination-DPN": B.dpid}
    ]
    with pytest.raises(BadInput, match="3 key"):
        read(f"{path}={A.dpid}")


@pytest.mark.parametrize(
    ("path", "error", "tag"),
    [
        ("network-topology:network-topology/topology=ovsdb:9", NotFound, "data-missing"),
        ("network-topology:network-topology/topology=ovsdb:1/node=x", NotFound, "data-missing"),
        ("network-topology:network-topology/nothing", NotFound, "invalid-value"),
        ("nothing:at-all", NotFound, "invalid-value"),
        ("network-topology:network-topology=1", BadInput, "invalid-value"),
        ("network-topology:network-topology/topology/node", BadInput, "invalid-value"),
        ("network-topology:network-topology/topology=a,b", BadInput, "invalid-value"),
        ("network-topology:network-topology/topology=%ff", BadInput, "malformed-message"),
        ("network-topology:network-topology/topology=%zz", BadInput, "malformed-message"),
        ("cloudscaler-rpc:compute-nodes/compute-node=a/dpnid/deeper", NotFound, "invalid-value"),
    ],
)
def test_paths_that_lead_nowhere(path: str, error: type[Exception], tag: str) -> None:
    with pytest.raises(error) as caught:
        read(path)
    assert getattr(caught.value, "tag", "") == tag


def test_a_leaf_is_a_resource() -> None:
    assert read("cloudscaler-rpc:compute-nodes/compute-node=a/dpnid") == {"cloudscaler-rpc:dpnid": str(A.dpid)}
    bridge = f"network-topology:network-topology/topology=ovsdb:1/node={quote(A.bridge_node_id, safe='')}"
    assert read(f"{bridge}/ovsdb:bridge-name") == {"ovsdb:bridge-name": "br-int"}


# --- over HTTP ---


def paths(compute: Compute, old: bool) -> list[str]:
    """Where a compute is to be found in the config trees."""
    equals, root = ("/", "/restconf/config") if old else ("=", "/rests/data")
    topology = f"{root}/network-topology:network-topology/topology{equals}ovsdb:1/node{equals}"
    found = [
        topology + quote(compute.ovsdb_node_id, safe=""),
        topology + quote(compute.bridge_node_id, safe=""),
        f"{root}/opendaylight-inventory:nodes/node{equals}{compute.node_id}",
        f"{root}/cloudscaler-rpc:compute-nodes/compute-node{equals}{compute.name}",
        f"{root}/itm:transport-zones/transport-zone{equals}{compute.zone}/vteps{equals}{compute.dpid}",
        f"{root}/itm-state:dpn-endpoints/DPN-TEPs-info{equals}{compute.dpid}",
    ]
    return found if old else found + [f"{path}?content=config" for path in found]


def test_a_tunnel_end_point_of_ipv6_is_found_by_its_address(site: Site) -> None:
    compute = site.compute(teps=("fd00::9",))
    points = f"/rests/data/itm-state:dpn-endpoints/DPN-TEPs-info={compute.dpid}/tunnel-end-points"
    found = site.get(f"{points}={quote('fd00::9', safe='')},{quote('odl-interface:tunnel-type-vxlan', safe='')}")
    assert [row["ip-address"] for row in found.json["itm-state:tunnel-end-points"]] == ["fd00::9"]


@pytest.mark.parametrize("old", [False, True])
def test_a_compute_is_there_until_it_is_ended(site: Site, old: bool) -> None:
    a, b = site.compute(), site.compute()
    site.port_on(b)
    for path in paths(a, old):
        assert site.get(path).status == 200, path
    assert site.rpc("scalein-api:scalein-computes-start", [a.name]).status == 204
    bridge = site.get(paths(a, old)[1]).json
    (node,) = bridge["node" if old else "network-topology:node"]
    assert node["ovsdb:bridge-external-ids"] == [
        {"bridge-external-id-key": "tombstoned", "bridge-external-id-value": "true"}
    ]
    assert site.rpc("scalein-api:scalein-computes-end", [a.name]).status == 204
    for path in paths(a, old):
        answer = site.get(path)
        assert (answer.status, answer.errors[0]["error-tag"]) == (404, "data-missing"), path
    for path in paths(b, old):
        assert site.get(path).status == 200


def test_recover_takes_the_mark_out_of_the_topology(site: Site) -> None:
    a = site.compute(tombstoned=True)
    path = paths(a, False)[1]
    assert "tombstoned" in site.get(path).raw.decode()
    assert site.rpc("scalein-api:scalein-computes-recover", [a.name], "recover-node-ids").status == 204
    assert "tombstoned" not in site.get(path).raw.decode()


def test_the_inventory_holds_the_flows(site: Site) -> None:
    a = site.compute()
    (port,) = site.port_on(a)
    (node,) = site.get(paths(a, False)[2] + "?content=config").json["opendaylight-inventory:node"]
    flows = [f for t in node["flow-node-inventory:table"] for f in t["flow"]]
    assert any(f["flow-name"] == f"port:{port.id}" for f in flows)
    assert all(f["ebbtide:text"].startswith(f"table={f['table_id']}") for f in flows)
    table = node["flow-node-inventory:table"][0]
    path = f"{paths(a, False)[2]}/flow-node-inventory:table={table['id']}/flow={table['flow'][0]['id']}"
    (flow,) = site.get(path + "?content=config").json["flow-node-inventory:flow"]
    assert flow == table["flow"][0]


@pytest.mark.parametrize("root", ["/rests/data", "/restconf/config", "/restconf/operational"])
def test_data_are_read_only(site: Site, root: str) -> None:
    path = f"{root}/network-topology:network-topology"
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        answer = site.ask(method, path, {})
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert answer.errors[0]["error-tag"] == "operation-not-supported"
    assert site.ask("OPTIONS", path).headers["allow"] == "GET, HEAD, OPTIONS"
    assert site.ask("HEAD", path)[::2] == (200, b"")


def test_the_media_type_is_chosen(site: Site) -> None:
    path = "/rests/data/network-topology:network-topology"
    for accept, kind in (
        ("", "application/yang-data+json"),
        ("*/*", "application/yang-data+json"),
        ("application/json", "application/json"),
        ("application/json;q=0.2, application/*;q=0.5", "application/yang-data+json"),
        ("application/xml, application/json;q=0.1", "application/json"),
    ):
        answer = site.get(path, Accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (200, kind), accept
        assert answer.headers["cache-control"] == "no-cache"
    for accept in ("application/xml", "application/json;q=0", "application/json;q=x"):
        answer = site.get(path, Accept=accept)
        assert (answer.status, answer.errors[0]["error-tag"]) == (406, "invalid-value"), accept
    assert site.get(path.replace("/rests/data", "/restconf/config")).headers["content-type"] == "application/json"


@pytest.mark.parametrize("query", ["content=both", "content=config&content=all", "depth=1"])
def test_parameters_that_are_not_known(site: Site, query: str) -> None:
    answer = site.get(f"/rests/data/network-topology:network-topology?{query}")
    assert (answer.status, answer.errors[0]["error-tag"]) == (400, "invalid-value")


def test_everything_at_once(site: Site) -> None:
    a = site.compute()
    answer = site.get("/rests/data")
    assert a.ovs_uuid in answer.raw.decode()
    assert "ietf-restconf:data" in answer.json
    assert site.get("/restconf/operational").status == 404
    nonconfig = site.get("/rests/data?content=nonconfig").json["ietf-restconf:data"]
    assert nonconfig["opendaylight-inventory:nodes"] == {"node": []}, "none of these is connected"


def test_discovery(site: Site) -> None:
    assert b"rel='restconf' href='/rests'" in site.get("/.well-known/host-meta").raw
    assert site.get("/rests").json["ietf-restconf:restconf"]["yang-library-version"] == "2016-06-21"
    assert site.get("/rests/yang-library-version").json == {"ietf-restconf:yang-library-version": "2016-06-21"}
    library = site.get("/rests/data/ietf-yang-library:modules-state").json["ietf-yang-library:modules-state"]
    assert {m["name"] for m in library["module"]} == {
        *("scalein-api", "scalein-rpc", "cloudscaler-rpc", "neutronvpn"),
        *("odl-nat", "odl-l3vpn", "odl-fib"),
    }
    assert site.get("/rests/nothing").errors[0]["error-tag"] == "invalid-value"
