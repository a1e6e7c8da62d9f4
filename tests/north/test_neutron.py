"""Neutron's northbound: what is said is kept as it is, order and repetition do no harm, and hostile bodies are refused with a word.

Replayed are the requests that networking-odl has sent to a controller (`networking_odl.json`), as the real client sends them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ebbtide.decide.documents import CANARY, KINDS, MAX_BODY
from ebbtide.model.facts import Cursor, Document, Fact, Retired
from ebbtide.model.state import State, facts
from tests.north.site import Answer, Site

ROOT = "/controller/nb/v2/neutron"
_RECORDED = json.loads(Path(__file__).with_name("networking_odl.json").read_text())


class Neutron(NamedTuple):
    """A site, asked as Neutron asks."""

    site: Site

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return self.site.ask(method, f"{ROOT}/{path}", body, **more)

    def all(self) -> dict[str, Any]:
        """What is kept, by kind and id."""
        found = {}
        for kind in KINDS:
            (listed,) = self.ask("GET", kind).json.values()
            found[kind] = {each["id"]: each for each in listed}
        return found

    def forget_all(self) -> None:
        for kind in reversed(KINDS):
            for each in list(self.site.state.documents.get(kind, {})):
                assert self.ask("DELETE", f"{kind}/{each}").status in (204, 404)


@pytest.fixture
def neutron(site: Site) -> Neutron:
    made = Neutron(site)
    made.forget_all()
    return made


def replay(site: Site, scenario: str, *, fresh: bool = True, until: str = "") -> None:
    """Send what was recorded, in its order (`until` a method and path); each is answered as the real client expects it."""
    for sent in _RECORDED[scenario]:
        if until and f"{sent['method']} {sent['path']}".startswith(until):
            return
        answer = site.ask(sent["method"], sent["path"], sent["body"])
        assert answer.status == sent["status"], (sent, answer.raw)
        if fresh and sent["method"] in ("POST", "PUT"):
            (singular,) = sent["body"]
            assert answer.json[singular] == {**answer.json[singular], **sent["body"][singular]}


NETWORK = {"id": "11111111-0000-4000-8000-000000000001", "name": "n", "tenant_id": "t"}
GROUP = {"id": "22222222-0000-4000-8000-000000000001", "name": "g"}


def test_what_neutron_says_is_given_back_as_it_was_said(neutron: Neutron) -> None:
    assert neutron.ask("GET", "networks").json == {"networks": []}
    said = {**NETWORK, "anything": {"at": ["all", None, 1.5]}, "revision_number": 3}
    answer = neutron.ask("POST", "networks", {"network": said})
    assert (answer.status, answer.json) == (201, {"network": said})
    assert neutron.ask("GET", f"networks/{NETWORK['id']}").json == {"network": said}
    assert neutron.ask("GET", "networks/").json == {"networks": [said]}
    assert neutron.ask("POST", "networks", {"network": said}).status == 201, "networking-odl says some things twice"
    changed = neutron.ask("PUT", f"networks/{NETWORK['id']}", {"network": {"name": "m", "revision_number": 4}})
    assert (changed.status, changed.json) == (200, {"network": {**said, "name": "m", "revision_number": 4}})
    old = neutron.ask("PUT", f"networks/{NETWORK['id']}", {"network": {"name": "old", "revision_number": 3}})
    assert (old.status, old.json["network"]["name"]) == (200, "m"), "a revision number never goes backwards"
    again = neutron.ask("POST", "networks", {"network": {**said, "name": "old"}})
    assert (again.status, again.json["network"]["name"]) == (201, "m")
    assert neutron.ask("DELETE", f"networks/{NETWORK['id']}").status == 204
    assert neutron.ask("DELETE", f"networks/{NETWORK['id']}").status == 404
    assert neutron.ask("PUT", f"networks/{NETWORK['id']}", {"network": {"name": "x"}}).status == 404
    assert neutron.ask("GET", f"networks/{NETWORK['id']}").status == 404


def test_the_canary_is_kept_and_is_no_network(neutron: Neutron) -> None:
    assert neutron.ask("GET", f"networks/{CANARY}").status == 404, "networking-odl sends everything then"
    said = {"id": CANARY, "tenant_id": CANARY, "name": "Sync Canary Network", "admin_state_up": False}
    assert neutron.ask("POST", "networks", {"network": said}).status == 201
    assert neutron.ask("GET", f"networks/{CANARY}").json == {"network": said}
    assert CANARY not in neutron.site.state.networks
    assert not neutron.site.state.unserved


def test_several_are_said_at_once_all_or_none(neutron: Neutron) -> None:
    two = [NETWORK, {**NETWORK, "id": "11111111-0000-4000-8000-000000000002"}]
    answer = neutron.ask("POST", "networks", {"networks": two})
    assert (answer.status, answer.json) == (201, {"networks": two})
    subnets = [
        {"id": "s1", "network_id": NETWORK["id"], "cidr": "10.0.0.0/24"},
        {"id": "s2", "network_id": "nobody", "cidr": "10.1.0.0/24"},
    ]
    assert neutron.ask("POST", "subnets", {"subnets": subnets}).status == 442
    assert neutron.ask("GET", "subnets").json == {"subnets": []}
    assert neutron.ask("PUT", f"networks/{NETWORK['id']}", {"networks": two}).status == 400


def test_what_cannot_be_stored_of_a_reason_is_left_out_and_hinders_nobody(neutron: Neutron) -> None:
    odd = {"id": "odd", "external_gateway_info": {"network_id": "a\0b"}}
    assert neutron.ask("POST", "routers", {"router": odd}).status == 201
    port = {"id": "p1", "network_id": "n1", "mac_address": "02:00:00:00:00:01", "security_groups": ["a\0b"]}
    plain = {"id": "n1", "provider:network_type": "vlan", "provider:segmentation_id": 7}
    assert neutron.ask("POST", "networks", {"network": plain}).status == 201
    assert neutron.ask("POST", "ports", {"port": port}).status == 201
    vxlan = {"provider:network_type": "vxlan", "provider:segmentation_id": 70_007}
    assert neutron.ask("PUT", "networks/n1", {"network": vxlan}).status == 200
    assert "n1" in neutron.site.state.networks
    told = {d["id"]: d["reason"] for d in neutron.site.get("/api/v1/neutron").json["unserved"]}
    assert "a\ufffdb" in told["odd"]


@pytest.mark.parametrize(
    ("kind", "said", "names"),
    [
        ("subnets", {"network_id": "nobody", "cidr": "10.0.0.0/24"}, "network_id nobody"),
        ("ports", {"network_id": "nobody", "mac_address": "02:00:00:00:00:01"}, "network_id nobody"),
        (
            "floatingips",
            {"floating_network_id": "nobody", "floating_ip_address": "192.0.2.1"},
            "floating_network_id nobody",
        ),
        ("security-group-rules", {"security_group_id": "nobody", "direction": "ingress"}, "security_group_id nobody"),
    ],
)
def test_what_belongs_to_nothing_is_refused_and_says_to_what(
    neutron: Neutron, kind: str, said: dict[str, Any], names: str
) -> None:
    answer = neutron.ask("POST", kind, {KINDS[kind].singular: {"id": "x1", **said}})
    assert answer.status == 442
    assert names in answer.json["error"]["message"]
    assert neutron.ask("GET", f"{kind}/x1").status == 404


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("networks", {}, 400),
        ("networks", [], 400),
        ("networks", None, 400),
        ("networks", {"network": []}, 400),
        ("networks", {"network": None}, 400),
        ("networks", {"networks": [1]}, 400),
        ("networks", {"networks": {"id": "x"}}, 400),
        ("networks", {"port": NETWORK}, 400),
        ("networks", {"network": NETWORK, "networks": [NETWORK]}, 400),
        ("networks", {"networks": [NETWORK, NETWORK]}, 400),
        ("networks", {"networks": [{"id": f"n{n}"} for n in range(1001)]}, 400),
        ("networks", {"network": {"name": "without id"}}, 400),
        ("networks", {"network": {"id": 5}}, 400),
        ("networks", {"network": {"id": "a/b"}}, 400),
        ("networks", {"network": {"id": "x" * 65}}, 400),
        ("networks", {"network": {"id": "é"}}, 400),
        ("networks", {"network": {"id": "x", "mtu": "1450"}}, 400),
        ("networks", {"network": {"id": "x", "provider:segmentation_id": [1]}}, 400),
        ("networks", {"network": {"id": "x", "revision_number": -1}}, 400),
        ("networks", {"network": {"id": "x", "revision_number": True}}, 400),
        ("networks", {"network": {"id": "x", "revision_number": 1 << 70}}, 400),
        ("networks", {"network": {"id": "x", "name": "y" * MAX_BODY}}, 413),
        ("networks", {"network": {"id": "x", "name": "y" * (1 << 20)}}, 413),
        ("subnets", {"subnet": {"id": "x", "cidr": "10.0.0.0/24"}}, 400),
        ("subnets", {"subnet": {"id": "x", "network_id": 7, "cidr": "10.0.0.0/24"}}, 400),
        ("ports", {"port": {"id": "x", "network_id": "n", "mac_address": None}}, 400),
        ("ports", {"port": {"id": "x", "network_id": "n", "mac_address": "m", "fixed_ips": {"a": 1}}}, 400),
        ("routers", {"router": {"id": "x", "routes": ["10.0.0.0/8"]}}, 400),
        ("routers", {"router": {"id": "x", "external_gateway_info": "ext"}}, 400),
        ("bgpvpns", {"bgpvpn": {"id": "x", "networks": [f"n{n}" for n in range(2001)]}}, 400),
    ],
)
def test_a_body_that_is_none_is_refused_and_nothing_is_kept(
    neutron: Neutron, kind: str, body: Any, status: int
) -> None:
    before = neutron.site.state.revision
    answer = neutron.ask("POST", kind, raw=json.dumps(body).encode())
    assert answer.status == status, answer.raw
    assert answer.json["error"]["message"]
    assert neutron.site.state.revision == before


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b"[" * 5000, b'{"network": {"id": "x", "id": "y"}}', b'{"network": {"id": NaN}}']
)
def test_what_is_no_json_is_refused(neutron: Neutron, raw: bytes) -> None:
    assert neutron.ask("POST", "networks", raw=raw).status == 400
    assert neutron.ask("GET", "networks").json == {"networks": []}


@pytest.mark.parametrize(
    "raw",
    [
        b'{"network": {"id": "x", "name": "\\ud800"}}',
        b'{"network": {"id": "x", "name": "\\u0000\\u2028"}}',
        b'{"network": {"id": "x", "much": 123456789012345678901234567890123456789012345678901234567890}}',
        b'{"network": {"id": "x", "much": 1e400}}',
        b'{"network": {"id": "x", "much": ' + b"[" * 900 + b"]" * 900 + b"}}",
        b'{"network": {"id": "x", "' + b"n" * 60000 + b'": ""}}',
    ],
)
def test_what_is_odd_is_kept_whole_or_refused(neutron: Neutron, raw: bytes) -> None:
    answer = neutron.ask("POST", "networks", raw=raw)
    assert answer.status in (201, 400), answer.raw
    again = neutron.ask("GET", "networks/x")
    assert again.raw == answer.raw if answer.status == 201 else again.status == 404


@pytest.mark.parametrize(
    "kind",
    [
        "qos/policies",
        "trunks",
        "sfc/portchains",
        "sfc/flowclassifiers",
        "l2-gateways",
        "lbaas/loadbalancers",
        "x",
        "x/y/z",
    ],
)
def test_what_is_not_served_is_never_taken(neutron: Neutron, kind: str) -> None:
    for method, path in (
        ("GET", kind),
        ("POST", kind),
        ("POST", f"{kind}/"),
        ("PUT", f"{kind}/1"),
        ("DELETE", f"{kind}/1"),
    ):
        answer = neutron.ask(method, path, {"x": {"id": "1"}} if method != "GET" else None)
        assert (answer.status, "is not served" in answer.json["error"]["message"]) == (404, True), (
            method,
            path,
            answer.raw,
        )


def test_what_is_said_to_be_something_else_than_json_is_not_read(neutron: Neutron) -> None:
    raw, kind = json.dumps({"network": NETWORK}).encode(), {"Content-Type": "text/plain"}
    assert neutron.ask("POST", "networks", raw=raw, headers=kind).status == 415
    assert neutron.ask("GET", "networks").json == {"networks": []}


def test_who_speaks_after_its_turn_is_over_brings_nothing_back(neutron: Neutron) -> None:
    def say(method: str, path: str, writer: str, body: Any = None) -> Answer:
        return neutron.ask(method, path, body, headers={"Ebbtide-Writer": writer})

    group = {"security_group": {"id": "g1"}}
    assert say("POST", "security-groups", "1", group).status == 201
    assert say("DELETE", "security-groups/g1", "2").status == 204
    late = say("POST", "security-groups", "1", group)
    assert (late.status, late.json["error"]["tag"]) == (409, "stale-writer")
    assert say("PUT", "security-groups/g1", "1", group).status in (404, 409)
    assert neutron.ask("GET", "security-groups/g1").status == 404
    assert say("POST", "security-groups", "x", group).status == 400
    assert say("POST", "security-groups", "2", group).status == 201, "whose turn it is"
    assert neutron.ask("DELETE", "security-groups/g1").status == 204, "who takes no turns"


def test_who_begins_its_turn_by_saying_nothing_has_ended_the_one_before(neutron: Neutron) -> None:
    """What it would say first may be refused: then the other's turn would not be over."""
    group = {"security_group": {"id": "g1"}}
    assert neutron.ask("POST", "networks", {"networks": []}, headers={"Ebbtide-Writer": "2"}).json == {"networks": []}
    assert neutron.ask("DELETE", "security-groups/g1", headers={"Ebbtide-Writer": "2"}).status == 404
    assert neutron.ask("POST", "security-groups", group, headers={"Ebbtide-Writer": "1"}).status == 409


def test_a_method_that_a_path_has_not_is_refused(neutron: Neutron) -> None:
    for method, path in (("POST", "networks/x"), ("PUT", "networks"), ("DELETE", "networks"), ("PATCH", "networks/x")):
        assert neutron.ask(method, path, {"network": NETWORK}).status == 400, (method, path)


def test_credentials_are_asked_for(make_site: Callable[..., Site], tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    users = [("reader", "read"), ("neutron", "operate")]
    file.write_text(
        "".join(f"[[user]]\nname='{name}'\npassword='plain:secret'\nroles=['{role}']\n" for name, role in users)
    )
    file.chmod(0o600)
    site = make_site(credentials=str(file))
    reader, writer = ({"Authorization": f"Basic {text}"} for text in ("cmVhZGVyOnNlY3JldA==", "bmV1dHJvbjpzZWNyZXQ="))
    assert site.get(f"{ROOT}/networks").status == 401
    assert site.ask("GET", f"{ROOT}/networks", headers=reader).status == 200
    assert site.ask("POST", f"{ROOT}/networks", {"network": NETWORK}, headers=reader).status == 403
    assert site.ask("POST", f"{ROOT}/networks", {"network": NETWORK}, headers=writer).status == 201


def test_networking_odl_asks_for_features_and_hosts_when_it_starts(neutron: Neutron) -> None:
    root = "/restconf/operational/neutron:neutron"
    feature = {"service-provider-feature": "neutron-extensions:operational-port-status", "configuration": ""}
    answer = neutron.site.get(f"{root}/neutron:features/")
    assert (answer.status, answer.json) == (200, {"features": {"feature": [feature]}}), "it waits for statuses then"
    answer = neutron.site.get(f"{root}/hostconfigs/")
    assert (answer.status, answer.json) == (200, {"hostconfigs": {"hostconfig": []}})
    neutron.site.compute("not-connected")
    assert neutron.site.get(f"{root}/hostconfigs/").json == {"hostconfigs": {"hostconfig": []}}
    assert neutron.site.get(f"{root}/hostconfigs/hostconfig/not-connected/ODL%20L2").status == 404
    neutron.ask("POST", "networks", {"network": NETWORK})
    said = {"id": "p1", "network_id": NETWORK["id"], "mac_address": "02:00:00:00:00:01"}
    neutron.ask("POST", "ports", {"port": said})
    assert neutron.site.get(f"{root}/ports/port/p1").json == {"port": [{"uuid": "p1", "status": "DOWN"}]}
    assert neutron.site.get("/rests/data/neutron:neutron/ports/port=p1").json["neutron:port"][0]["status"] == "DOWN"
    assert neutron.site.get(f"{root}/ports/port/p2").status == 404


def own(state: State) -> list[Fact]:
    """What is there of ours, documents and what remembers ids apart."""
    return [fact for fact in facts(state) if not isinstance(fact, Document | Cursor | Retired)]


def test_what_networking_odl_has_said_is_what_is_there(make_site: Callable[..., Site]) -> None:
    site = make_site()
    replay(site, "A", until="DELETE")
    state = site.state
    assert sorted((n.vni, n.mtu, n.subnets, n.dhcp) for n in state.networks.values()) == [
        (83730, 1450, ("10.1.0.0/24",), True)
    ]
    (outside,) = state.externals.values()
    assert (outside.physical, outside.vlan, outside.subnet, outside.gateway) == (
        "physnet1",
        0,
        "198.51.100.0/24",
        "198.51.100.1",
    )
    (port,) = state.ports.values()
    assert (port.id, port.addresses, port.device) == ("79ecfc3a-22f8-4403-8ffc-1ab687cf2565", ("10.1.0.237",), "vm-1")
    assert port.secured
    assert port.groups == ("1373dd4c-9b65-426a-bcd4-345916aa7c75",)
    assert sorted(len(rules) for rules in state.rules.values()) == [3, 4]
    (router,) = state.routers.values()
    assert (router.external, router.addresses, router.snat, router.routes) == (
        outside.id,
        ("198.51.100.111",),
        True,
        (),
    )
    assert [(leg.network, leg.address) for leg in state.places(router.id)] == [(port.network, "10.1.0.1")]
    assert [(f.address, f.port) for f in state.floatings.values()] == [("198.51.100.241", "")], "it was disassociated"
    assert site.get("/api/v1/neutron").json["unserved"] == []
    told = dict(site.get("/api/v1/neutron").json["documents"])
    assert (told["networks"], told["ports"], told["security-group-rules"]) == (3, 4, 7)


def test_a_floating_ip_leads_to_its_port_as_long_as_neutron_says_so(make_site: Callable[..., Site]) -> None:
    site = make_site()
    replay(site, "A", until="PUT /controller/nb/v2/neutron/floatingips")
    (floating,), (router,) = site.state.floatings.values(), site.state.routers
    assert (floating.fixed, floating.router) == ("10.1.0.237", router)


def test_a_vni_that_is_still_held_is_given_as_soon_as_it_is_not(make_site: Callable[..., Site]) -> None:
    neutron = Neutron(make_site())
    said = {"provider:network_type": "vxlan", "provider:segmentation_id": 70099}
    assert neutron.ask("POST", "networks", {"network": {"id": "first", **said}}).status == 201
    assert neutron.ask("POST", "networks", {"network": {"id": "second", **said}}).status == 201
    (waits,) = neutron.site.get("/api/v1/neutron").json["unserved"]
    assert (waits["id"], waits["reason"]) == ("second", "segmentation id 70099 is the VNI of network first")
    assert neutron.ask("DELETE", "networks/first").status == 204
    neutron.site.wait(lambda: "second" in neutron.site.state.networks)
    assert neutron.site.get("/api/v1/neutron").json["unserved"] == []
    hand_made = {"id": "hand-made", "network": "second", "mac": "02:00:00:00:09:01"}
    assert neutron.site.post("/api/v1/ports", hand_made).status == 201
    refused = neutron.ask("DELETE", "networks/second")
    assert (refused.status, "hand-made" in refused.json["error"]["message"]) == (409, True)
    assert neutron.ask("GET", "networks/second").status == 200
    assert neutron.site.ask("DELETE", "/api/v1/ports/hand-made").status == 200
    assert neutron.ask("DELETE", "networks/second").status == 204


def test_a_vpn_of_a_network_with_a_router_waits_in_sight(make_site: Callable[..., Site]) -> None:
    site = make_site()
    replay(site, "C")
    (vpn,) = site.state.vpns.values()
    assert (vpn.rd, vpn.imports, vpn.exports) == ("64512:100", ("64512:100",), ("64512:100",))
    (waits,) = site.get("/api/v1/neutron").json["unserved"]
    assert (waits["kind"], waits["id"], "has a router" in waits["reason"]) == ("bgpvpns", vpn.id, True)


@pytest.mark.parametrize("scenario", sorted(_RECORDED))
def test_what_networking_odl_sends_is_answered_as_it_expects(make_site: Callable[..., Site], scenario: str) -> None:
    site = make_site()
    replay(site, scenario)
    first, had = Neutron(site).all(), set(own(site.state))
    replay(site, scenario, fresh=False)
    assert Neutron(site).all() == first
    assert set(own(site.state)) == had
    Neutron(site).forget_all()
    assert own(site.state) == []
    assert not site.state.documents
    assert not site.state.referrers
