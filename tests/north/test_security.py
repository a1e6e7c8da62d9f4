"""Security groups, rules and what ports have of them by REST: hostile and careless input is refused, and nothing that is stored is lost."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from ebbtide.model.state import member_addresses
from tests.north.site import Site

API = "/api/v1"
_numbers = itertools.count(1)


class Cloud(NamedTuple):
    """A network with a port in no group, and a group without rules."""

    site: Site
    network: str
    port: str
    group: str

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.site.ask(method, f"{API}/{path}", body)
        return answer.status, answer.json if answer.raw else None


@pytest.fixture
def cloud(site: Site) -> Cloud:
    number = next(_numbers)
    made = Cloud(site, f"sn{number}", f"sp{number}", f"sg{number}")
    assert made.ask("POST", "networks", {"id": made.network, "subnets": ["10.1.0.0/24"]})[0] == 201
    port = {"id": made.port, "network": made.network, "mac": "02:00:00:00:05:01", "addresses": ["10.1.0.1"]}
    assert made.ask("POST", "ports", port)[0] == 201
    assert made.ask("POST", "security-groups", {"id": made.group})[0] == 201
    return made


@pytest.mark.parametrize(
    "pairs",
    [
        [{"prefix": "fe80::1%a b"}],
        [{"prefix": "10.0.0.0/33"}],
        [{"prefix": "10.0.0.1", "mac": "01:00:5e:00:00:01"}],
        [{"prefix": "x" * 5000}],
        [{"prefix": f"10.0.{n}.0/24"} for n in range(33)],
    ],
)
def test_a_pair_that_is_none_is_refused_and_nothing_is_stored(cloud: Cloud, pairs: list[dict[str, str]]) -> None:
    before = cloud.site.state.revision
    assert cloud.ask("PATCH", f"ports/{cloud.port}", {"secured": True, "address-pairs": pairs})[0] == 400
    assert cloud.site.state.revision == before
    assert cloud.ask("GET", "ports")[0] == 200


@pytest.mark.parametrize("name", ["a/b", "a b%", "ü", "rules", "x/y/z"])
def test_a_group_and_a_rule_have_any_name_that_is_one(cloud: Cloud, name: str) -> None:
    wish = {"direction": "in", "id": name.replace(" ", "_").replace("/", "-")}
    group = name.replace(" ", "_")
    assert cloud.ask("POST", "security-groups", {"id": group})[0] in (200, 201)
    assert cloud.ask("POST", f"security-groups/{quote(group, safe='')}/rules", wish)[0] == 201
    shown = cloud.ask("GET", f"security-groups/{quote(group, safe='')}")[1]
    assert [rule["id"] for rule in shown["rules"]] == [wish["id"]]
    assert cloud.ask("DELETE", f"security-groups/{quote(group, safe='')}/rules/{quote(wish['id'], safe='')}")[0] == 200
    assert cloud.ask("DELETE", f"security-groups/{quote(group, safe='')}")[0] == 200


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"direction": "sideways"},
        {"direction": "in", "protocol": "9" * 5000},
        {"direction": "in", "protocol": "256"},
        {"direction": "in", "protocol": "tcp", "ports": "80-"},
        {"direction": "in", "protocol": "tcp", "ports": "9" * 5000},
        {"direction": "in", "protocol": "tcp", "ports": "80", "icmp-type": 8},
        {"direction": "in", "prefix": "fe80::%eth0/64"},
        {"direction": "in", "icmp-type": "8"},
        {"direction": "in", "id": "with space"},
        {"direction": "in", "id": "with/slash"},
        {"direction": "in", "unknown": 1},
    ],
)
def test_a_rule_that_is_none_is_refused(cloud: Cloud, wish: dict[str, Any]) -> None:
    before = cloud.site.state.revision
    assert cloud.ask("POST", f"security-groups/{cloud.group}/rules", wish)[0] == 400
    assert cloud.site.state.revision == before


def test_a_rules_id_is_its_own_within_its_group(cloud: Cloud) -> None:
    other = f"{cloud.group}other"
    cloud.ask("POST", "security-groups", {"id": other})
    wish = {"direction": "in", "protocol": "tcp", "ports": "22", "id": "ssh"}
    for group in (cloud.group, other):
        assert cloud.ask("POST", f"security-groups/{group}/rules", wish)[0] == 201
        assert cloud.ask("POST", f"security-groups/{group}/rules", wish)[0] == 200
    assert cloud.ask("POST", f"security-groups/{other}/rules", {**wish, "id": "again"})[0] == 409
    assert cloud.ask("POST", f"security-groups/{other}/rules", {**wish, "ports": "23"})[0] == 409
    assert cloud.ask("DELETE", f"security-groups/{other}/rules/ssh")[0] == 200
    assert cloud.ask("GET", f"security-groups/{cloud.group}")[1]["rules"], "the other's is still there"


def test_what_is_used_is_not_deleted_and_what_is_there_is_not_made_again(cloud: Cloud) -> None:
    own = {"direction": "in", "remote-group": cloud.group}
    assert cloud.ask("POST", f"security-groups/{cloud.group}/rules", own)[0] == 201, "a group may name itself"
    assert cloud.ask("PATCH", f"ports/{cloud.port}", {"security-groups": [cloud.group, cloud.group]})[0] == 200
    assert cloud.ask("DELETE", f"security-groups/{cloud.group}")[0] == 409
    port = {"id": cloud.port, "network": cloud.network, "mac": "02:00:00:00:05:01", "addresses": ["10.1.0.1"]}
    status, answer = cloud.ask("POST", "ports", {**port, "security-groups": []})
    assert (status, "port set" in answer["error"]["message"]) == (409, True), answer
    assert cloud.ask("POST", "ports", port)[0] == 200, "what is not said stays"
    assert cloud.ask("PATCH", f"ports/{cloud.port}", {"secured": False})[0] == 409
    assert cloud.ask("PATCH", f"ports/{cloud.port}", {"security-groups": ["none"]})[0] == 404
    assert cloud.ask("PATCH", "ports/none", {"secured": True})[0] == 404
    assert cloud.ask("PATCH", f"ports/{cloud.port}", {"secured": False, "security-groups": []})[0] == 200
    assert cloud.ask("DELETE", f"security-groups/{cloud.group}")[0] == 200


def test_a_group_names_so_many_others_and_no_more(cloud: Cloud) -> None:
    answers = []
    for number in range(33):
        far = f"{cloud.group}far{number}"
        cloud.ask("POST", "security-groups", {"id": far})
        answers.append(
            cloud.ask("POST", f"security-groups/{cloud.group}/rules", {"direction": "in", "remote-group": far})[0]
        )
    assert answers == [201] * 32 + [409]
    assert cloud.ask("POST", "security-groups", {"id": "x/rules/y"})[0] == 400


def test_a_packet_is_asked_about_whole_and_at_both_ends(cloud: Cloud) -> None:
    far, port = f"{cloud.network}far", f"{cloud.port}far"
    cloud.ask("POST", "networks", {"id": far, "subnets": ["10.2.0.0/24"]})
    made = {"id": port, "network": far, "mac": "02:00:00:00:05:02", "addresses": ["10.2.0.2"], "secured": True}
    cloud.ask("POST", "ports", made)
    way = f"explain/port/{cloud.port}?to=10.2.0.2&protocol=tcp"
    assert cloud.ask("GET", way)[0] == 400, "a port belongs to it"
    assert cloud.ask("GET", f"explain/port/{cloud.port}?to=10.2.0.2&protocol=icmp")[0] == 400
    unknown = cloud.ask("GET", f"{way}&port=80")[1]
    assert unknown["passes"]
    assert any("the far end lets through is not known" in line for line in unknown["lines"])
    cloud.ask("POST", "routers", {"id": f"{cloud.group}r"})
    for network, address in ((cloud.network, "10.1.0.254"), (far, "10.2.0.254")):
        place = {"network": network, "address": address}
        assert cloud.ask("POST", f"routers/{cloud.group}r/attach", place)[0] in (200, 201)
    refused = cloud.ask("GET", f"{way}&port=80")[1]
    assert not refused["passes"]
    assert any(line.startswith(f"At {port}, what it receives") for line in refused["lines"])
    for wrong in ("from=x", "from=10.1.0.1&protocol=tcp&port=99999", "from=fe80::1%25a&protocol=tcp&port=1", "port=80"):
        assert cloud.ask("GET", f"explain/port/{cloud.port}?{wrong}")[0] == 400, wrong


def test_a_pair_is_a_member_by_its_whole_prefix(cloud: Cloud) -> None:
    pairs = [{"prefix": "2001:db8::/32"}, {"prefix": "10.1.0.9/32"}, {"prefix": "0.0.0.0/0"}]
    assert (
        cloud.ask("PATCH", f"ports/{cloud.port}", {"security-groups": [cloud.group], "address-pairs": pairs})[0] == 200
    )
    held = member_addresses(cloud.site.state.ports[cloud.port])
    assert held == ["10.1.0.1", "10.1.0.9", "2001:db8::/32"]


def test_name_servers_keep_their_order_and_what_cannot_be_told_is_refused(cloud: Cloud) -> None:
    way = f"networks/{cloud.network}"
    assert cloud.ask("PATCH", way, {"dns": ["192.0.2.53", "2001:DB8:0::53", "10.0.0.53"]})[1]["network"]["dns"] == [
        "192.0.2.53",
        "2001:db8::53",
        "10.0.0.53",
    ]
    for wish in ({"dns": ["2001:db8::/64"]}, {"dns": ["fe80::1%a b"]}, {"host-routes": ["2001:db8::/32 via fe80::1"]}):
        assert cloud.ask("PATCH", way, wish)[0] == 400, wish
    assert cloud.ask("PATCH", way, {})[0] == 200, "nothing to change changes nothing"
