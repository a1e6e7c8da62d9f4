"""L3VPNs by REST: each verb, its refusals with their status, how they are shown and explained."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.north.site import Site

API = "/api/v1"
_numbers = itertools.count(1)


class Cloud:
    """VPN v, networks a and b, router r in b; names and addresses of this test's own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        n = next(_numbers)
        self.vpn, self.a, self.b, self.router, self.target = f"v{n}", f"a{n}", f"b{n}", f"r{n}", f"100:{n}"
        for path, body in (
            ("networks", {"id": self.a, "subnets": ["10.1.0.0/24"]}),
            ("networks", {"id": self.b, "subnets": ["10.2.0.0/24"]}),
            ("routers", {"id": self.router}),
            (f"routers/{self.router}/attach", {"network": self.b}),
            ("vpns", {"id": self.vpn, "rd": self.target, "imports": [self.target], "exports": [self.target]}),
        ):
            assert self.post(path, body)[0] == 201, path

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        answer = self.site.ask("POST", f"{API}/{path}", body)
        return answer.status, answer.json

    def get(self, path: str) -> Any:
        return self.site.ask("GET", f"{API}/{path}").json


@pytest.fixture
def cloud(site: Site) -> Cloud:
    return Cloud(site)


def test_a_vpn_is_made_shown_changed_and_deleted(cloud: Cloud) -> None:
    wish = {"id": cloud.vpn, "rd": cloud.target, "imports": [cloud.target], "exports": [cloud.target]}
    status, again = cloud.post("vpns", wish)
    assert (status, again["changed"]) == (200, False)
    shown = cloud.get(f"vpns/{cloud.vpn}")
    assert (shown["rd"], shown["networks"], shown["routers"], shown["computes"]) == (cloud.target, [], [], [])
    assert cloud.vpn in [v["id"] for v in cloud.get("vpns")["vpns"]]
    changed = cloud.site.ask("PATCH", f"{API}/vpns/{cloud.vpn}", {"exports": []})
    assert (changed.json["changed"], changed.json["vpn"]["exports"]) == (True, [])
    assert changed.json["vpn"]["imports"] == [cloud.target]
    assert cloud.site.ask("DELETE", f"{API}/vpns/{cloud.vpn}", {}).status == 200
    assert cloud.site.ask("GET", f"{API}/vpns/{cloud.vpn}").status == 404


def test_networks_and_routers_are_associated_and_dissociated(cloud: Cloud) -> None:
    way = f"vpns/{cloud.vpn}/associate"
    status, first = cloud.post(way, {"network": cloud.a})
    assert (status, first["changed"]) == (200, True)
    assert [p["address"] for p in first["vpn"]["networks"]] == ["10.1.0.1"]
    assert cloud.post(way, {"network": cloud.a})[1]["changed"] is False
    assert cloud.post(way, {"router": cloud.router})[1]["vpn"]["routers"] == [cloud.router]
    assert cloud.get(f"routers/{cloud.router}")["vpn"] == cloud.vpn
    refused = cloud.site.ask("DELETE", f"{API}/vpns/{cloud.vpn}", {})
    assert (refused.status, "associated" in refused.json["error"]["message"]) == (409, True)
    back = f"vpns/{cloud.vpn}/dissociate"
    assert cloud.post(back, {"router": cloud.router})[1]["vpn"]["routers"] == []
    assert cloud.post(back, {"network": cloud.a})[1]["vpn"]["networks"] == []
    assert cloud.post(back, {"network": cloud.a})[0] == 404


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name a network or a router, one of the two"),
        ({"network": "x", "router": "y"}, "name a network or a router, one of the two"),
        ({"router": "x", "address": "10.1.0.1"}, "given with a network only"),
        ({"nett": "x"}, "unknown field"),
        ({"network": 7}, "Expected `str`"),
    ],
)
def test_an_association_of_something_else_is_refused(cloud: Cloud, body: Any, words: str) -> None:
    before = cloud.site.state.revision
    status, answer = cloud.post(f"vpns/{cloud.vpn}/associate", body)
    assert (status, words in answer["error"]["message"]) == (400, True), answer
    assert cloud.site.state.revision == before


def test_the_words_for_a_vpn_say_who_sees_whom_and_what_overlaps(cloud: Cloud) -> None:
    other, twin = f"{cloud.vpn}other", f"{cloud.a}twin"
    cloud.post("networks", {"id": twin, "subnets": ["10.1.0.0/16"]})
    cloud.post("vpns", {"id": other, "rd": f"{cloud.target}0", "exports": [cloud.target]})
    cloud.post(f"vpns/{other}/associate", {"network": twin})
    cloud.post(f"vpns/{cloud.vpn}/associate", {"router": cloud.router})
    lines = cloud.get(f"explain/vpn/{cloud.vpn}")["lines"]
    text = "\n".join(lines)
    assert f"Router {cloud.router} belongs to it, with 10.2.0.0/24 ({cloud.b})." in text
    assert f"It imports 10.1.0.0/16 of VPN {other}, by {cloud.target}, which does not import from {cloud.vpn}" in text
    cloud.post(f"vpns/{cloud.vpn}/associate", {"network": cloud.a})
    text = "\n".join(cloud.get(f"explain/vpn/{cloud.vpn}")["lines"])
    assert f"{cloud.vpn} has no route to 10.1.0.0/16 of VPN {other}: it overlaps" in text
    shown = cloud.get(f"vpns/{cloud.vpn}")
    assert [(x["vpn"], x["subnet"]) for x in shown["shadowed"]] == [(other, "10.1.0.0/16")]
    assert "ovs-ofctl -O OpenFlow14 dump-flows br-int metadata=" in text


def rpc(cloud: Cloud, name: str, given: Any, root: str = "rests") -> tuple[int, Any]:
    answer = cloud.site.ask("POST", f"/{root}/operations/neutronvpn:{name}", {"input": given})
    return answer.status, answer.json if answer.raw else None


@pytest.mark.parametrize("root", ["rests", "restconf"])
def test_the_rpcs_of_netvirt_make_find_and_delete_vpns(cloud: Cloud, root: str) -> None:
    names = [f"{cloud.vpn}x", f"{cloud.vpn}y"]
    wishes = [
        {
            "id": name,
            "name": "ours",
            "tenant-id": "6c53df3a-3456-11e5-a151-feff819cdc9f",
            "route-distinguisher": [f"{cloud.target}{n}"],
            "import-RT": [f"{cloud.target}{n}"],
            "export-RT": [f"{cloud.target}{n}"],
        }
        for n, name in enumerate(names, 7)
    ]
    status, made = rpc(cloud, "createL3VPN", {"l3vpn": wishes}, root)
    assert (status, len(made["output" if root == "restconf" else "neutronvpn:output"]["response"])) == (200, 2)
    assert rpc(cloud, "associateNetworks", {"vpn-id": names[0], "network-id": [cloud.a]}, root)[0] == 200
    assert (
        rpc(cloud, "associateRouter", {"vpn-id": names[0], "router-ids": [{"router-id": cloud.router}]}, root)[0] == 204
    )
    (found,) = rpc(cloud, "getL3VPN", {"id": names[0]}, root)[1][
        "output" if root == "restconf" else "neutronvpn:output"
    ]["l3vpn-instances"]
    assert (found["network-ids"], found["router-ids"]) == ([cloud.a], [{"router-id": cloud.router}])
    assert (
        rpc(cloud, "dissociateRouter", {"vpn-id": names[0], "router-ids": [{"router-id": cloud.router}]}, root)[0]
        == 204
    )
    assert rpc(cloud, "dissociateNetworks", {"vpn-id": names[0], "network-id": [cloud.a]}, root)[0] == 200
    assert rpc(cloud, "associateNetworks", {"vpn-id": names[1], "network-id": [cloud.a]}, root)[0] == 200
    assert rpc(cloud, "deleteL3VPN", {"id": names}, root)[0] == 200
    assert not set(names) & set(cloud.site.state.vpns)
    assert rpc(cloud, "getL3VPN", {"id": names[0]}, root)[0] == 404


@pytest.mark.parametrize(
    ("name", "given", "status"),
    [
        ("createL3VPN", {}, 400),
        ("createL3VPN", {"l3vpn": [{"id": "new"}]}, 400),
        ("createL3VPN", {"l3vpn": [{"route-distinguisher": ["1:1"]}]}, 400),
        ("createL3VPN", {"l3vpn": [{"id": "new", "route-distinguisher": ["1:1", "1:2"]}]}, 400),
        ("createL3VPN", {"l3vpn": [{"id": "new", "route-distinguisher": ["1:1"], "network-ids": ["nowhere"]}]}, 404),
        ("associateNetworks", {"vpn-id": "none", "network-id": ["nowhere"]}, 404),
        ("associateNetworks", {"vpn-id": "none"}, 400),
        ("deleteL3VPN", {"id": ["none"]}, 404),
    ],
)
def test_a_call_that_cannot_be_changes_nothing(cloud: Cloud, name: str, given: Any, status: int) -> None:
    before = cloud.site.state.revision
    assert rpc(cloud, name, given)[0] == status
    assert cloud.site.state.revision == before


def test_of_several_all_are_done_or_none(cloud: Cloud) -> None:
    wishes = [{"id": f"{cloud.vpn}{x}", "route-distinguisher": [rd]} for x, rd in (("p", "77:1"), ("q", cloud.target))]
    assert rpc(cloud, "createL3VPN", {"l3vpn": wishes})[0] == 409
    assert f"{cloud.vpn}p" not in cloud.site.state.vpns
