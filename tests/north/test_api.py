"""The own API: each verb, each refusal, as scripts and the command line use it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from ebbtide.model.facts import Binding, BindingPhase, Edit, Membership
from tests.north.site import Answer, Site

API = "/api/v1"


def error(answer: Answer) -> tuple[int, str]:
    shown = answer.json["error"]
    assert shown["status"] == answer.status
    assert shown["message"]
    return answer.status, shown["tag"]


# --- computes ---


def test_computes_are_listed_and_shown_by_any_id(site: Site) -> None:
    a = site.compute()
    listed = site.get(f"{API}/computes").json
    (mine,) = [c for c in listed["computes"] if c["name"] == a.name]
    assert listed["refused"] == []
    for text in (a.name, a.system_id, str(a.dpid), a.node_id, a.bridge_node_id):
        for path in (quote(text, safe=""), quote(text, safe="/:")):
            assert site.get(f"{API}/computes/{path}").json == mine
    assert (mine["phase"], mine["connected"], mine["membership"]) == ("connected", False, "member")
    assert error(site.get(f"{API}/computes/nobody")) == (404, "data-missing")


def test_refused_sessions_are_shown(site: Site) -> None:
    site.app.cluster.refused["('192.0.2.9', 1)"] = "its name is taken"
    try:
        (refused,) = site.get(f"{API}/computes").json["refused"]
        assert refused == {"peer": "('192.0.2.9', 1)", "reason": "its name is taken"}
    finally:
        site.app.cluster.refused.clear()


def test_removed_computes_are_shown_when_asked_for(make_site: Callable[..., Site]) -> None:
    site = make_site()
    a = site.compute(tombstoned=True)
    assert site.post(f"{API}/scale-in/end", {"computes": [a.name]}).status == 200
    assert a.name not in {c["name"] for c in site.get(f"{API}/computes").json["computes"]}
    assert a.name in {c["name"] for c in site.get(f"{API}/computes?removed=1").json["computes"]}
    assert error(site.get(f"{API}/computes/{a.name}")) == (404, "data-missing")
    assert site.get(f"{API}/computes/{a.name}?removed=1").json["membership"] == "removed"
    answer = site.post(f"{API}/computes/{a.name}/approve")
    assert error(answer) == (409, "operation-failed")
    answer = site.post(f"{API}/computes/{a.name}/readmit")
    assert (answer.status, answer.json["known"], answer.json["changed"]) == (200, False, True)
    assert error(site.get(f"{API}/computes/{a.name}?removed=1")) == (404, "data-missing")


def test_approve_adopt_forget(site: Site) -> None:
    a, b = site.compute(membership=Membership.WAITING), site.compute(membership=Membership.WAITING)
    early = site.post(f"{API}/computes/{a.name}/adopt")
    assert error(early) == (409, "operation-failed")
    assert "approve it first" in early.json["error"]["message"]
    answer = site.post(f"{API}/computes/{a.name}/approve", {})
    assert (answer.json["compute"]["membership"], answer.json["changed"]) == ("member", True)
    assert answer.json["revision"] == site.state.revision
    assert site.post(f"{API}/computes/{a.name}/approve", {}).json["changed"] is False
    assert site.post(f"{API}/computes/{quote(a.bridge_node_id, safe='')}/adopt").json["changed"] is True
    assert site.state.computes[a.number].adopted
    assert error(site.post(f"{API}/computes/{a.name}/forget")) == (409, "operation-failed")
    assert site.post(f"{API}/computes/{b.name}/forget").json["known"] is False
    assert error(site.post(f"{API}/computes/{b.name}/forget")) == (404, "data-missing")
    assert error(site.post(f"{API}/computes/{a.name}/explode")) == (404, "data-missing")
    assert error(site.post(f"{API}/computes/{a.name}")) == (405, "operation-not-supported")


# --- networks, ports, relations ---


def test_networks(site: Site) -> None:
    wish = {"id": "net/blue", "subnets": ["10.1.0.0/24", "2001:db8::/64"], "mtu": 1400}
    made = site.post(f"{API}/networks", wish)
    assert (made.status, made.json["changed"]) == (201, True)
    shown = made.json["network"]
    assert site.get(f"{API}/networks/{quote('net/blue', safe='')}").json == shown
    assert shown in site.get(f"{API}/networks").json["networks"]
    again = site.post(f"{API}/networks", wish)
    assert (again.status, again.json["changed"]) == (200, False)
    assert error(site.post(f"{API}/networks", {**wish, "mtu": 1300})) == (409, "operation-failed")
    assert site.ask("DELETE", f"{API}/networks/net%2Fblue").json["deleted"] == "net/blue"
    assert error(site.ask("DELETE", f"{API}/networks/net%2Fblue")) == (404, "data-missing")
    assert error(site.get(f"{API}/networks/net%2Fblue")) == (404, "data-missing")


def test_ports(site: Site) -> None:
    site.post(f"{API}/networks", {"id": "green"})
    wish = {"id": "vm1", "network": "green", "mac": "02-00-00-00-00-01", "addresses": ["10.1.0.1"]}
    made = site.post(f"{API}/ports", wish)
    assert made.status == 201
    assert (made.json["port"]["mac"], made.json["port"]["bindings"]) == ("02:00:00:00:00:01", [])
    assert site.post(f"{API}/ports", wish).status == 200
    a = site.compute()
    site.put(Binding("vm1", a.number, BindingPhase.ACTIVE, 5))
    shown = site.get(f"{API}/ports/vm1").json
    assert [(b["compute"], b["phase"]) for b in shown["bindings"]] == [(a.name, "active")]
    assert shown["bindings"][0]["since"] == site.state.revision
    assert site.get(f"{API}/ports?network=green").json["ports"] == [shown]
    assert error(site.get(f"{API}/ports?network=red")) == (404, "data-missing")
    assert error(site.post(f"{API}/ports", {**wish, "id": "vm2"})) == (409, "operation-failed")
    assert error(site.ask("DELETE", f"{API}/networks/green")) == (409, "operation-failed")
    assert site.ask("DELETE", f"{API}/ports/vm1?wait=applied").json["behind"] == []
    assert error(site.get(f"{API}/ports/vm1")) == (404, "data-missing")


def test_the_order_and_number_of_addresses_and_subnets_say_nothing(site: Site) -> None:
    network = {"id": "order", "subnets": ["10.2.0.0/24", "10.1.0.0/24", "2001:db8::/64"]}
    made = site.post(f"{API}/networks", network)
    assert made.json["network"]["subnets"] == ["10.1.0.0/24", "10.2.0.0/24", "2001:db8::/64"]
    again = {**network, "subnets": ["2001:DB8::/64", "10.1.0.0/24", "10.2.0.0/24", "10.1.0.0/24"]}
    assert site.post(f"{API}/networks", network).json["changed"] is False
    assert site.post(f"{API}/networks", again).json["changed"] is False
    assert error(site.post(f"{API}/networks", {**network, "subnets": ["10.1.0.0/24"]})) == (409, "operation-failed")
    port = {"id": "o1", "network": "order", "mac": "02:00:00:00:00:01", "addresses": ["10.2.0.9", "10.1.0.9"]}
    assert site.post(f"{API}/ports", port).status == 201
    assert site.post(f"{API}/ports", port).json["changed"] is False
    again = {**port, "addresses": ["10.1.0.9", "10.2.0.9", "10.2.0.9"]}
    assert site.post(f"{API}/ports", again).json["changed"] is False
    assert error(site.post(f"{API}/ports", {**port, "addresses": ["10.1.0.9"]})) == (409, "operation-failed")


@pytest.mark.parametrize(
    ("addresses", "status"),
    [
        (["10.1.0.1"], 201),
        (["10.1.0.2", "2001:db8::2"], 201),
        (["fe80::3"], 201),
        ([], 201),
        (["10.1.1.1"], 409),
        (["10.1.0.4", "2001:db8:1::4"], 409),
    ],
)
def test_an_address_is_in_a_subnet_of_its_network(site: Site, addresses: list[str], status: int) -> None:
    site.post(f"{API}/networks", {"id": "inside", "subnets": ["10.1.0.0/24", "2001:db8::/64"]})
    number = len(site.state.ports)
    wish = {"id": f"in{number}", "network": "inside", "mac": f"02:00:00:00:01:{number:02x}", "addresses": addresses}
    answer = site.post(f"{API}/ports", wish)
    assert answer.status == status
    if status == 409:
        assert f"address {addresses[-1]} is in no subnet of network inside" in answer.json["error"]["message"]
        assert len(site.state.ports) == number


def test_relations(site: Site) -> None:
    a, b = site.compute(), site.compute()
    wish = {"gateway": a.name, "peer": b.node_id}
    made = site.post(f"{API}/relations", wish)
    assert (made.status, made.json["relation"]) == (201, {"gateway": a.name, "peer": b.name})
    assert site.post(f"{API}/relations", wish).status == 200
    assert made.json["relation"] in site.get(f"{API}/relations").json["relations"]
    assert site.ask("DELETE", f"{API}/relations?gateway={a.name}&peer={b.name}").json["changed"] is True
    assert site.ask("DELETE", f"{API}/relations", wish).json["changed"] is False
    assert error(site.post(f"{API}/relations", {"gateway": a.name})) == (400, "missing-element")
    assert error(site.post(f"{API}/relations", {"gateway": a.name, "peer": a.name})) == (400, "invalid-value")
    assert error(site.post(f"{API}/relations", {"gateway": a.name, "peer": "nobody"})) == (404, "data-missing")


@pytest.mark.parametrize(
    ("path", "body", "tag", "where"),
    [
        ("networks", {"id": "x", "vni": "7"}, "invalid-value", "vni"),
        ("networks", {"id": "x", "vni": 1 << 24}, "invalid-value", "vni"),
        ("networks", {"id": "x", "vni": True}, "invalid-value", "vni"),
        ("networks", {"id": "x", "mtu": 10}, "invalid-value", "mtu"),
        ("networks", {"id": "x", "subnets": ["10.0.0.1/8"]}, "invalid-value", "subnets"),
        ("networks", {"id": "x", "subnets": [7]}, "invalid-value", "subnets[0]"),
        ("networks", {"id": "a b"}, "invalid-value", "id"),
        ("networks", {"id": "x", "colour": "red"}, "unknown-element", ""),
        ("networks", {}, "missing-element", ""),
        ("networks", [], "invalid-value", ""),
        ("ports", {"id": "x", "network": "n", "mac": "ff:ff:ff:ff:ff:ff"}, "invalid-value", "mac"),
        ("ports", {"id": "x", "network": "n", "mac": "zz"}, "invalid-value", "mac"),
        ("ports", {"id": "x", "network": "n", "mac": "02:00:00:00:00:01", "addresses": ["10.1"]}, "invalid-value",
         "addresses"),
        ("scale-in/start", {"computes": []}, "missing-element", ""),
        ("scale-in/start", {"computes": "a"}, "invalid-value", "computes"),
        ("scale-in/end", {"computes": ["a"], "wait": -1}, "invalid-value", "wait"),
        ("scale-in/end", {"computes": ["a"], "wait": 1e300}, "invalid-value", "wait"),
        ("reconcile", {"approve": 1}, "invalid-value", "approve"),
        ("networks?wait=forever", {"id": "waits"}, "invalid-value", "wait"),
    ],
)  # fmt: skip
def test_wrong_input(site: Site, path: str, body: Any, tag: str, where: str) -> None:
    answer = site.post(f"{API}/{path}", body)
    assert error(answer) == (400, tag)
    assert answer.json["error"].get("path", "") == where


def test_bodies_that_are_not_read(site: Site) -> None:
    path = f"{API}/networks"
    revision = site.state.revision
    assert error(site.ask("POST", path, raw=b'{"id": "x"')) == (400, "malformed-message")
    assert error(site.ask("POST", path, raw=b'{"id": "x", "id": "y"}')) == (400, "malformed-message")
    assert error(site.ask("POST", path, raw=b'{"id": "x"}', headers={"Content-Type": "text/plain"})) == (
        415,
        "invalid-value",
    )
    assert error(site.ask("POST", path, raw=b'{"id": "x"}' + b" " * (10 << 20))) == (413, "too-big")
    assert site.state.revision == revision
    assert error(site.ask("PUT", path, {})) == (405, "operation-not-supported")
    assert error(site.get(f"{API}/nothing")) == (404, "invalid-value")


# --- scale-in ---


def test_scale_in_from_start_to_end(site: Site) -> None:
    a, b, c = site.compute(), site.compute(), site.compute()
    (port,) = site.port_on(b)
    ids = [a.name, b.name, c.name]
    started = site.post(f"{API}/scale-in/start", {"computes": ids}).json
    assert [(v["id"], v["answer"], v["remains"]) for v in started["verdicts"]] == [
        (a.name, "accepted", []),
        (b.name, "accepted", [f"port {port.id}"]),
        (c.name, "accepted", []),
    ]
    again = site.post(f"{API}/scale-in/start", {"computes": [a.name]}).json["verdicts"]
    assert (again[0]["answer"], again[0]["message"]) == ("already so", "already tombstoned")
    mine = {x["name"]: x for x in site.get(f"{API}/scale-in/status").json["computes"]}
    assert (mine[a.name]["empty"], mine[b.name]["empty"]) == (True, False)
    assert mine[b.name]["remains"] == [f"port {port.id}"]

    refused = site.post(f"{API}/scale-in/end", {"computes": ids})
    assert error(refused) == (409, "operation-failed")
    assert [v["answer"] for v in refused.json["error"]["verdicts"]] == ["accepted", "refused", "accepted"]
    assert a.number in site.state.computes, "one refused, none touched"

    ended = site.post(f"{API}/scale-in/end", {"computes": [a.name, c.name]}).json
    assert ended["done"] is True
    (operation,) = ended["operations"]
    assert (operation["state"], operation["computes"]) == ("done", [a.name, c.name])
    one = site.get(f"{API}/operations/{operation['id']}").json
    assert {k: one[k] for k in operation} == operation
    assert one["items"] == []
    assert operation in site.get(f"{API}/operations").json["operations"]
    recovered = site.post(f"{API}/scale-in/recover", {"computes": [b.name]}).json
    assert recovered["verdicts"][0]["message"] == "recovered"
    left = {x["name"] for x in site.get(f"{API}/scale-in/status").json["computes"]}
    assert not left & set(ids)
    assert error(site.get(f"{API}/operations/none")) == (404, "data-missing")


def test_end_that_is_not_waited_for(site: Site) -> None:
    a = site.compute(tombstoned=True)
    answer = site.post(f"{API}/scale-in/end", {"computes": [a.name], "wait": 0})
    assert (answer.status, answer.json["done"]) == (202, False)
    (operation,) = answer.json["operations"]
    site.wait(lambda: site.state.operations[operation["id"]].state == "done")
    answer = site.post(f"{API}/scale-in/end", {"computes": [a.name], "wait": 0})
    assert (answer.status, answer.json["done"]) == (200, True)
    assert answer.json["verdicts"][0]["answer"] == "already so"


def test_end_that_is_waited_for_in_vain(make_site: Callable[..., Site]) -> None:
    site = make_site(audit_wait=0.0)
    a = site.compute(tombstoned=True)
    answer = site.post(f"{API}/scale-in/end", {"computes": [a.name]})
    assert error(answer) == (409, "in-use")
    assert answer.json["error"]["operation"] in site.state.operations


def test_unknown_ids_come_with_verdicts(site: Site) -> None:
    answer = site.post(f"{API}/scale-in/start", {"computes": ["nobody", "no-one"]})
    assert error(answer) == (400, "invalid-value")
    assert [(v["id"], v["answer"]) for v in answer.json["error"]["verdicts"]] == [
        ("nobody", "refused"),
        ("no-one", "refused"),
    ]


# --- looking ---


def test_audit_says_what_it_could_not_read(site: Site) -> None:
    a = site.compute()
    report = site.post(f"{API}/audit").json
    assert report["clean"] is False, "nothing read is not clean"
    assert report["computes"] == []
    assert a.name in report["unreachable"]


def test_reconcile(site: Site) -> None:
    a = site.compute()
    answer = site.post(f"{API}/reconcile", {"computes": [a.node_id]}).json
    assert (answer["computes"], answer["approved"]) == ([a.name], False)
    assert site.post(f"{API}/reconcile", {"approve": True}).json["computes"] == []
    assert error(site.post(f"{API}/reconcile", {"computes": ["nobody"]})) == (404, "data-missing")


def test_explanations(site: Site) -> None:
    a, b = site.compute(), site.compute(tombstoned=True)
    port, other = site.port_on(a, b)
    text = " ".join(site.get(f"{API}/explain/compute/{a.name}").json["lines"])
    assert f"{a.name} is connected" in text
    assert f"carries 1 port(s): {port.id}" in text
    assert b.name in text
    marked = " ".join(site.get(f"{API}/explain/compute/{quote(b.bridge_node_id, safe='')}").json["lines"])
    assert "1 port(s) keep it from being ended" in marked
    text = " ".join(site.get(f"{API}/explain/port/{other.id}").json["lines"])
    assert f"active on {b.name}" in text
    assert "keeps" in text
    text = " ".join(site.get(f"{API}/explain/network/{port.network}").json["lines"])
    assert "Footprint: 2 compute(s)" in text
    assert "1 pair(s), 0 open" in text
    for path in ("compute/nobody", "port/none", "network/none", "weather/today"):
        assert error(site.get(f"{API}/explain/{path}")) == (404, "data-missing")


def test_a_removed_compute_is_explained(site: Site) -> None:
    a = site.compute(tombstoned=True)
    site.post(f"{API}/scale-in/end", {"computes": [a.name]})
    lines = site.get(f"{API}/explain/compute/{a.name}").json["lines"]
    assert "quarantined" in lines[0]
    assert any(f"tep:{a.tep}" in line for line in lines)


def test_a_moving_port_is_explained(site: Site) -> None:
    a, b = site.compute(), site.compute()
    (port,) = site.port_on(a)
    old = site.state.bindings[port.id][0]
    leaving = Binding(port.id, a.number, BindingPhase.LEAVING)
    pending = Binding(port.id, b.number, BindingPhase.PENDING)
    site.call(site.app.cluster.store.commit(lambda state: ([Edit(None, pending)], None)))
    lines = site.get(f"{API}/explain/port/{port.id}").json["lines"]
    assert any("frame of its MAC" in line for line in lines)
    site.call(site.app.cluster.store.commit(lambda state: ([Edit(old, leaving)], None)))
    lines = site.get(f"{API}/explain/port/{port.id}").json["lines"]
    assert any(line.startswith(f"leaving on {a.name}") for line in lines)


def test_status(site: Site) -> None:
    found = site.get(f"{API}/status").json
    assert (found["leading"], found["reachable"], found["hold"], found["insecure"]) == (True, True, "", False)
    assert found["revision"] == site.state.revision
    assert found["store"] == site.state.store_id
    assert found["counts"]["members"] == len(site.state.members())


def test_metrics(site: Site) -> None:
    a = site.compute(tombstoned=True)
    assert site.get(f"{API}/computes").status == 200
    before = site.get("/metrics")
    assert before.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = before.raw.decode()
    assert f'ebbtide_connected{{compute="{a.name}"}} 0.0' in text
    assert f"ebbtide_revision {float(site.state.revision)}" in text
    assert 'ebbtide_http_requests_total{code="200",method="GET"}' in text
    site.post(f"{API}/scale-in/end", {"computes": [a.name]})
    text = site.get("/metrics").raw.decode()
    assert f'"{a.name}"' not in text, "a removed compute leaves no label behind"
    assert 'ebbtide_computes{phase="quarantined"}' in text


def test_metrics_say_for_how_long_neutron_and_movers_have_been_silent(site: Site) -> None:
    text = site.get("/metrics").raw.decode()
    assert "ebbtide_neutron_silent_seconds 0" not in text
    network = {"id": "aaaaaaaa-0000-4000-8000-000000000009", "provider:network_type": "vxlan"}
    site.post("/controller/nb/v2/neutron/networks", {"network": network})
    site.post(f"{API}/movers/nova/claim", {"mover": "m", "free": 0})
    text = site.get("/metrics").raw.decode()
    assert re.search(r"^ebbtide_neutron_silent_seconds \d", text, re.MULTILINE)
    assert re.search(r'^ebbtide_mover_silent_seconds{kind="nova"} \d', text, re.MULTILINE)
