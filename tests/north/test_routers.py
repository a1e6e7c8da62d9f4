"""Networks outside, routers and floating IPs by REST: each verb, each refusal with its status, and how they are explained."""

from __future__ import annotations

import itertools
import re
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import pytest

from ebbtide.compile import compiler, ledger
from ebbtide.compile.features.nat import UDP
from ebbtide.model.facts import (
    Binding,
    BindingPhase,
    Compute,
    Designation,
    Edit,
    Fact,
    Floating,
    Lease,
    Move,
    MovePhase,
    Neighbour,
    Router,
)
from ebbtide.model.observed import Datapath, View
from ebbtide.model.state import NAT
from ebbtide.north import explain, shapes
from ebbtide.openflow.flows import encode_flow
from ebbtide.runtime.untranslated import Exhausted, Refusals
from tests.fakes import clouds
from tests.north.site import Answer, Site

API = "/api/v1"
_numbers = itertools.count(1)


def error(answer: Answer) -> tuple[int, str]:
    shown = answer.json["error"]
    assert shown["status"] == answer.status
    return answer.status, shown["message"]


def change(site: Site, *edits: Edit) -> None:
    site.call(site.app.cluster.store.commit(lambda state: (list(edits), None)))


class Cloud(NamedTuple):
    """A network with a port, a network outside, and a router between them; all with names that end alike."""

    site: Site
    network: str
    external: str
    router: str
    port: str

    def route(self, path: str = "") -> str:
        return f"{API}/routers/{self.router}{path}"

    def fact(self) -> Router:
        found: Router = self.site.state.routers[self.router]
        return found


@pytest.fixture
def cloud(site: Site) -> Cloud:
    n = next(_numbers)
    made = Cloud(site, f"n{n}", f"x{n}", f"r{n}", f"p{n}")
    mac = f"02:00:00:00:00:{n:02x}"
    wish = {"id": made.external, "physical": f"phys{n}", "subnet": "203.0.113.0/24", "gateway": "203.0.113.1"}
    for path, body in (
        ("networks", {"id": made.network, "subnets": ["10.1.0.0/24"]}),
        ("ports", {"id": made.port, "network": made.network, "mac": mac, "addresses": ["10.1.0.9"]}),
        ("externals", wish),
        ("routers", {"id": made.router, "external": made.external, "addresses": ["203.0.113.5"]}),
        (f"routers/{made.router}/attach", {"network": made.network}),
    ):
        answer = site.post(f"{API}/{path}", body)
        assert answer.status == 201, answer.raw
    return made


# --- the verbs ---


def test_externals(site: Site) -> None:
    wish = {"physical": "wire", "subnet": "198.51.100.0/24", "gateway": "198.51.100.1", "vlan": 42, "mtu": 1400}
    made = site.ask("PUT", f"{API}/externals/out%2Fside", wish)
    assert (made.status, made.json["changed"]) == (201, True)
    shown = made.json["external"]
    assert {k: shown[k] for k in wish} == wish
    assert (shown["id"], shown["gateway-mac"], shown["computes"], shown["routers"]) == ("out/side", "", [], [])
    for again in (
        site.ask("PUT", f"{API}/externals/out%2Fside", wish),
        site.post(f"{API}/externals", {**wish, "id": "out/side"}),
    ):
        assert (again.status, again.json["changed"]) == (200, False)
    site.put(Neighbour("out/side", "198.51.100.1", 0x020000000009))
    a = site.compute(provider_mappings=(("wire", "br-ex"),))
    shown = site.get(f"{API}/externals/out%2Fside").json
    assert (shown["gateway-mac"], shown["computes"]) == ("02:00:00:00:00:09", [a.name])
    assert shown in site.get(f"{API}/externals").json["externals"]
    gone = site.ask("DELETE", f"{API}/externals/out%2Fside?wait=applied").json
    assert (gone["deleted"], gone["behind"]) == ("out/side", [])
    assert error(site.get(f"{API}/externals/out%2Fside"))[0] == 404


def test_a_router_from_its_making_to_its_end(site: Site, cloud: Cloud) -> None:
    shown = site.get(cloud.route()).json
    assert shown.pop("refused") is None, "nobody is there to be asked"
    assert shown in site.get(f"{API}/routers").json["routers"]
    assert [r["id"] for r in site.get(f"{API}/routers?network={cloud.network}").json["routers"]] == [cloud.router]
    assert (shown["external"], shown["addresses"], shown["snat"], shown["record"], shown["routes"]) == (
        cloud.external,
        ["203.0.113.5"],
        True,
        True,
        [],
    )
    (place,) = shown["networks"]
    assert (place["network"], place["address"], place["subnet"]) == (cloud.network, "10.1.0.1", "10.1.0.0/24")
    assert (shown["designated"], shown["standby"], shown["since"], shown["leases"], shown["move"]) == (
        "",
        "",
        0,
        [],
        None,
    )
    assert (shown["next-hop"], shown["next-hop-mac"]) == ("203.0.113.1", "")

    wish = {"external": cloud.external, "addresses": ["203.0.113.5"]}
    again = site.ask("PUT", cloud.route(), wish)
    assert (again.status, again.json["changed"]) == (200, False)
    again = site.post(cloud.route("/attach"), {"network": cloud.network, "address": "10.1.0.1"})
    assert (again.status, again.json["changed"], again.json["place"]) == (200, False, place)

    change = {"addresses": ["203.0.113.7", "203.0.113.6"], "routes": ["10.9.0.0/16 via 10.1.0.9"], "snat": False}
    changed = site.ask("PATCH", cloud.route(), change)
    assert (changed.status, changed.json["changed"]) == (200, True)
    assert changed.json["router"]["addresses"] == ["203.0.113.6", "203.0.113.7"]
    assert changed.json["router"]["external"] == cloud.external, "what is not given stays"
    assert site.ask("PATCH", cloud.route(), change).json["changed"] is False
    assert site.ask("PATCH", cloud.route(), {"routes": [], "record": False}).json["changed"] is True
    assert site.ask("PATCH", cloud.route(), {"external": ""}).json["router"]["addresses"] == []

    detached = site.post(cloud.route("/detach"), {"network": cloud.network}).json
    assert (detached["changed"], detached["router"]["networks"]) == (True, [])
    assert site.ask("DELETE", cloud.route()).json["deleted"] == cloud.router
    assert error(site.get(cloud.route()))[0] == 404
    assert site.ask("DELETE", f"{API}/externals/{cloud.external}").status == 200


def test_a_slash_in_a_routers_name_is_no_path(site: Site) -> None:
    for name in ("a/b", "a/attach"):
        path = f"{API}/routers/{quote(name, safe='')}"
        assert site.ask("PUT", path, {}).status == 201
        assert site.get(path).json["id"] == name
        assert error(site.post(f"{path}/attach", {"network": "none"}))[0] == 404
        assert site.ask("PATCH", path, {"record": False}).json["router"]["record"] is False
        assert site.ask("DELETE", path).status == 200


def test_floating_ips(site: Site, cloud: Cloud) -> None:
    path = f"{API}/floating-ips/{cloud.external}/203.0.113.9"
    made = site.ask("PUT", path, {})
    assert (made.status, made.json["changed"]) == (201, True)
    idle = made.json["floating-ip"]
    assert (idle["port"], idle["router"], idle["fixed"], idle["computes"]) == ("", "", "", [])
    led = site.post(f"{API}/floating-ips", {"external": cloud.external, "address": "203.0.113.9", "port": cloud.port})
    assert (led.status, led.json["changed"]) == (200, True)
    shown = led.json["floating-ip"]
    assert (shown["router"], shown["fixed"], shown["mac"]) == (cloud.router, "10.1.0.9", idle["mac"])
    assert site.ask("PUT", path, {"port": cloud.port}).json["changed"] is False
    a = site.compute(provider_mappings=((site.state.externals[cloud.external].physical, "br-ex"),))
    site.put(Binding(cloud.port, a.number, BindingPhase.ACTIVE))
    assert site.get(path).json["computes"] == [a.name]
    for query in (f"?external={cloud.external}", f"?router={cloud.router}", ""):
        assert site.get(path).json in site.get(f"{API}/floating-ips{query}").json["floating-ips"]
    assert site.get(f"{API}/floating-ips?external={cloud.external}&router={cloud.router}").json["floating-ips"]
    assert site.get(cloud.route()).json["floating-ips"] == ["203.0.113.9"]
    assert site.get(f"{API}/externals/{cloud.external}").json["floating-ips"] == 1
    assert site.ask("DELETE", f"{API}/ports/{cloud.port}").status == 200
    assert site.get(path).json["port"] == "", "it stays, and leads nowhere"
    gone = site.ask("DELETE", path).json
    assert (gone["deleted"], gone["external"]) == ("203.0.113.9", cloud.external)
    assert error(site.get(path))[0] == 404


# --- what is refused ---

OUT = {"id": "bad", "physical": "w", "subnet": "198.51.100.0/24"}


@pytest.mark.parametrize(
    ("wish", "where", "says"),
    [
        ({"id": "a b"}, "id", "no external network name"),
        ({"id": ""}, "id", "id is missing"),
        ({"physical": "a b"}, "id", "no physical network name"),
        ({"vlan": 4095}, "vlan", "between 1 and 4094"),
        ({"vlan": "7"}, "vlan", "Expected `int`"),
        ({"mtu": 10}, "mtu", "between 576"),
        ({"subnet": "198.51.100.1/24"}, "subnet", "is not an IPv4 subnet"),
        ({"subnet": "2001:db8::/64"}, "subnet", "is not an IPv4 subnet"),
        ({"gateway": "here"}, "gateway", "is not an IPv4 address"),
        ({"colour": "red"}, "", "unknown field"),
    ],
)
def test_what_no_external_can_be(site: Site, wish: dict[str, Any], where: str, says: str) -> None:
    answer = site.post(f"{API}/externals", {**OUT, **wish})
    status, message = error(answer)
    assert (status, answer.json["error"].get("path", "")) == (400, where)
    assert says in message
    assert "bad" not in site.state.externals


def test_refusals_of_externals(site: Site, cloud: Cloud) -> None:
    def made(**more: Any) -> tuple[int, str]:
        return error(site.post(f"{API}/externals", {**OUT, **more}))

    own = site.get(f"{API}/externals/{cloud.external}").json
    wish = {k: own[k] for k in ("id", "physical", "subnet", "gateway")}
    assert made(gateway="203.0.113.1") == (409, "gateway 203.0.113.1 is not in 198.51.100.0/24")
    assert "broadcast" in made(gateway="198.51.100.255")[1]
    assert "exists already with other settings" in made(**{**wish, "vlan": 3})[1]
    assert "the untagged part of" in made(**{**wish, "id": "other"})[1]
    assert site.post(f"{API}/externals", {**wish, "id": f"{cloud.external}v", "vlan": 7}).status == 201
    assert "VLAN 7 of" in made(**{**wish, "id": "other", "vlan": 7})[1]
    answer = site.ask("PUT", f"{API}/externals/other", wish)
    assert (answer.status, answer.json["error"]["path"]) == (400, "id")
    assert site.post(f"{API}/floating-ips", {"external": cloud.external, "address": "203.0.113.9"}).status == 201
    status, message = error(site.ask("DELETE", f"{API}/externals/{cloud.external}"))
    assert status == 409
    assert f"used by floating IP 203.0.113.9, router {cloud.router}" in message
    assert error(site.ask("DELETE", f"{API}/externals/nothing"))[0] == 404


@pytest.mark.parametrize(
    ("wish", "status", "where", "says"),
    [
        ({"id": "a b"}, 400, "id", "no router name"),
        ({"id": ""}, 400, "id", "id is missing"),
        ({"external": None}, 400, "external", "Expected `str`"),
        ({"addresses": ["203.0.113.20"]}, 400, "external", "and no external network"),
        ({"external": "EXTERNAL", "addresses": ["x"]}, 400, "addresses", "is not an IP address"),
        ({"external": "EXTERNAL", "addresses": [f"203.0.113.{n}" for n in range(100, 165)]}, 400, "addresses", "may have 64"),
        ({"external": "EXTERNAL", "addresses": ["198.51.100.1"]}, 409, "", "is not in 203.0.113.0/24"),
        ({"external": "EXTERNAL", "addresses": ["203.0.113.0"]}, 409, "", "no host's"),
        ({"external": "EXTERNAL", "addresses": ["203.0.113.1"]}, 409, "", "is that of the next hop"),
        ({"external": "EXTERNAL", "addresses": ["203.0.113.5"]}, 409, "", "is that of router"),
        ({"external": "EXTERNAL", "addresses": ["203.0.113.9"]}, 409, "", "is that of floating IP"),
        ({"external": "nothing"}, 404, "", "no external network nothing"),
        ({"routes": ["10.9.0.0/16 via 10.1.0.9"]}, 409, "", "is in no subnet of router"),
    ],
)  # fmt: skip
def test_what_no_router_can_be(
    site: Site, cloud: Cloud, wish: dict[str, Any], status: int, where: str, says: str
) -> None:
    assert site.post(f"{API}/floating-ips", {"external": cloud.external, "address": "203.0.113.9"}).status == 201
    given = {k: cloud.external if v == "EXTERNAL" else v for k, v in {"id": "bad", **wish}.items()}
    answer = site.post(f"{API}/routers", given)
    assert error(answer)[0] == status
    assert answer.json["error"].get("path", "") == where
    assert says in error(answer)[1]
    assert "bad" not in site.state.routers


@pytest.mark.parametrize(
    ("routes", "status", "says"),
    [
        (["10.9.0.0/16"], 400, "is not PREFIX via ADDRESS"),
        (["10.9.0.1/16 via 10.1.0.9"], 400, "is not an IP subnet"),
        (["10.9.0.0/16 via nowhere"], 400, "is not an IP address"),
        (["0.0.0.0/0 via 10.1.0.9"], 400, "cannot be an extra route"),
        ([f"10.9.{n}.0/24 via 10.1.0.9" for n in range(201)], 400, "may have 200"),
        (["10.9.0.0/16 via 10.1.0.9", "10.9.0.0/16 via 10.1.0.8"], 409, "has two next hops"),
        (["10.1.0.0/24 via 10.1.0.9"], 409, "is connected to router"),
        (["10.9.0.0/16 via 10.2.0.9"], 409, "is in no subnet of router"),
    ],
)
def test_what_no_route_can_be(site: Site, cloud: Cloud, routes: list[str], status: int, says: str) -> None:
    before = cloud.fact()
    found = error(site.ask("PATCH", cloud.route(), {"routes": routes}))
    assert found[0] == status
    assert says in found[1]
    assert cloud.fact() == before


def test_refusals_of_routers(site: Site, cloud: Cloud) -> None:
    assert "`ebbtide router set" in error(site.ask("PUT", cloud.route(), {}))[1]
    assert error(site.ask("PUT", cloud.route(), {}))[0] == 409
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", "")):
        assert error(site.ask(method, f"{API}/routers/nothing{path}", {} if method == "PATCH" else None))[0] == 404
    assert error(site.ask("PATCH", cloud.route(), {"mac": "02:00:00:00:00:01"}))[0] == 400
    assert error(site.ask("PATCH", cloud.route(), {"external": "nothing"}))[0] == 404
    assert error(site.get(f"{API}/routers?network=nothing"))[0] == 404
    status, message = error(site.ask("DELETE", cloud.route()))
    assert (status, f"still in network {cloud.network}" in message) == (409, True)
    wish = {"external": cloud.external, "address": "203.0.113.9", "port": cloud.port}
    assert site.post(f"{API}/floating-ips", wish).status == 201
    assert (
        "floating IP 203.0.113.9 leads to ports behind" in error(site.ask("PATCH", cloud.route(), {"external": ""}))[1]
    )
    assert error(site.ask("PATCH", cloud.route(), {"external": ""}))[0] == 409
    assert error(site.ask("DELETE", f"{API}/networks/{cloud.network}"))[0] == 409

    lost = f"{cloud.router}lost"
    assert site.ask("PUT", f"{API}/routers/{lost}", {"external": cloud.external}).status == 201
    site.put(Floating(cloud.external, "203.0.113.10", 10, lost, cloud.port, "10.1.0.9"))
    assert "take them away first" in error(site.ask("DELETE", f"{API}/routers/{lost}"))[1]


def test_while_its_nat_moves_a_router_stays_as_it_is(site: Site, cloud: Cloud) -> None:
    a, b = site.compute(), site.compute()
    site.put(Designation(NAT, cloud.router, a.number), Move(cloud.router, a.number, b.number))
    for wish in ({"addresses": ["203.0.113.6"]}, {"snat": False}, {"record": False}, {"external": ""}):
        status, message = error(site.ask("PATCH", cloud.route(), wish))
        assert status == 409
        assert "is on its way to another compute (prepare)" in message
    assert site.ask("PATCH", cloud.route(), {"routes": ["10.9.0.0/16 via 10.1.0.9"]}).status == 200


@pytest.mark.parametrize(
    ("wish", "status", "says"),
    [
        ({}, 400, "missing required field `network`"),
        ({"network": "nothing"}, 404, "there is no network nothing"),
        ({"network": "NETWORK", "address": "x"}, 400, "is not an IP address"),
        ({"network": "NETWORK", "address": "10.8.0.1"}, 409, "is in no subnet of network"),
        ({"network": "NETWORK", "address": "10.1.0.255"}, 409, "no host's"),
        ({"network": "NETWORK", "address": "10.1.0.2"}, 409, "in which router"),
        ({"network": "NETWORK", "mac": "zz"}, 400, "is not a MAC address"),
        ({"network": "NETWORK", "mac": "01:00:00:00:00:01"}, 400, "is not the MAC address of one host"),
        ({"network": "NETWORK", "mac": "02:00:00:00:99:01"}, 409, "already"),
        ({"network": "TWO"}, 400, "has 2 IPv4 subnets"),
        ({"network": "TWO", "address": "10.9.0.1"}, 409, "has an extra route to 10.9.0.0/24"),
        ({"network": "TWO", "address": "10.8.0.9"}, 409, "is that of port"),
        ({"network": "TWO", "address": "10.8.0.1", "mac": "02:00:00:00:77:01"}, 409, "is that of port"),
        ({"network": "TWO", "address": "10.8.0.254"}, 409, "is that of router"),
        ({"network": "TWO", "address": "10.8.0.1", "mac": "02:00:00:00:77:02"}, 409, "is that of router"),
    ],
)
def test_where_a_router_cannot_be(site: Site, cloud: Cloud, wish: dict[str, Any], status: int, says: str) -> None:
    two, other = f"{cloud.network}two", f"{cloud.router}other"
    for path, body in (
        ("networks", {"id": two, "subnets": ["10.8.0.0/24", "10.9.0.0/24"]}),
        ("ports", {"id": two, "network": two, "mac": "02:00:00:00:77:01", "addresses": ["10.8.0.9"]}),
        ("routers", {"id": other}),
        (f"routers/{other}/attach", {"network": two, "address": "10.8.0.254", "mac": "02:00:00:00:77:02"}),
    ):
        assert site.post(f"{API}/{path}", body).status == 201
    assert site.ask("PATCH", cloud.route(), {"routes": ["10.9.0.0/24 via 10.1.0.9"]}).status == 200
    before = site.state.legs[cloud.router]
    given = {k: {"NETWORK": cloud.network, "TWO": two}.get(v, v) for k, v in wish.items()}
    found = error(site.post(cloud.route("/attach"), given))
    assert found[0] == status
    assert says in found[1]
    assert site.state.legs[cloud.router] == before


def test_refusals_of_places(site: Site, cloud: Cloud) -> None:
    detach = cloud.route("/detach")
    assert error(site.post(f"{API}/routers/nothing/attach", {"network": cloud.network}))[0] == 404
    assert error(site.post(f"{API}/routers/nothing/detach", {"network": cloud.network}))[0] == 404
    assert error(site.post(detach, {"network": "nothing"}))[0] == 404
    assert "with address 10.1.0.2" in error(site.post(detach, {"network": cloud.network, "address": "10.1.0.2"}))[1]
    assert error(site.post(detach, {"network": cloud.network, "mac": "02:00:00:00:00:01"}))[0] == 400
    assert site.ask("PATCH", cloud.route(), {"routes": ["10.9.0.0/16 via 10.1.0.9"]}).status == 200
    status, message = error(site.post(detach, {"network": cloud.network}))
    assert (status, "extra route 10.9.0.0/16 via 10.1.0.9 leads through" in message) == (409, True)
    assert site.ask("PATCH", cloud.route(), {"routes": []}).status == 200
    wish = {"external": cloud.external, "address": "203.0.113.9", "port": cloud.port}
    assert site.post(f"{API}/floating-ips", wish).status == 201
    status, message = error(site.post(detach, {"network": cloud.network}))
    assert (status, "floating IP 203.0.113.9 leads to ports in 10.1.0.0/24" in message) == (409, True)
    port = {"id": "bad", "network": cloud.network, "mac": "02:00:00:00:99:99", "addresses": ["10.1.0.1"]}
    assert "is that of router" in error(site.post(f"{API}/ports", port))[1]


@pytest.mark.parametrize(
    ("wish", "status", "says"),
    [
        ({"external": ""}, 400, "external is missing"),
        ({"address": ""}, 400, "address is missing"),
        ({"external": "nothing"}, 404, "no external network nothing"),
        ({"address": "x"}, 400, "is not an IPv4 address"),
        ({"address": "198.51.100.9"}, 409, "is not in 203.0.113.0/24"),
        ({"address": "203.0.113.1"}, 409, "is that of the next hop"),
        ({"address": "203.0.113.5"}, 409, "is that of router"),
        ({"mac": "zz"}, 400, "is not a MAC address"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, 400, "is not the MAC address of one host"),
        ({"port": "nothing"}, 404, "there is no port nothing"),
        ({"port": "PORT", "fixed": "10.1.0.8"}, 409, "is no IPv4 address of port"),
        ({"port": "PORT"}, 409, "has floating IP 203.0.113.10 already"),
        ({"port": "FAR"}, 409, "no router leads from"),
    ],
)
def test_what_no_floating_ip_can_be(site: Site, cloud: Cloud, wish: dict[str, Any], status: int, says: str) -> None:
    far = f"{cloud.network}far"
    assert site.post(f"{API}/networks", {"id": far}).status == 201
    port = {"id": far, "network": far, "mac": "02:00:00:00:88:01", "addresses": ["10.5.0.1"]}
    assert site.post(f"{API}/ports", port).status == 201
    held = {"external": cloud.external, "address": "203.0.113.10", "port": cloud.port}
    assert site.post(f"{API}/floating-ips", held).status == 201
    given = {"external": cloud.external, "address": "203.0.113.9", **wish}
    given |= {k: {"PORT": cloud.port, "FAR": far}[v] for k, v in wish.items() if v in ("PORT", "FAR")}
    found = error(site.post(f"{API}/floating-ips", given))
    assert found[0] == status
    assert says in found[1]
    assert (cloud.external, "203.0.113.9") not in site.state.floatings


def test_refusals_of_floating_ips(site: Site, cloud: Cloud) -> None:
    path = f"{API}/floating-ips/{cloud.external}/203.0.113.9"
    assert error(site.ask("PUT", path, {"address": "203.0.113.10"}))[0] == 400
    assert error(site.ask("PUT", path, {"external": "other"}))[0] == 400
    assert error(site.ask("DELETE", path))[0] == 404
    assert error(site.get(path))[0] == 404
    assert error(site.get(f"{API}/floating-ips?external=nothing"))[0] == 404
    assert error(site.get(f"{API}/floating-ips?router=nothing"))[0] == 404
    assert error(site.ask("PATCH", path, {}))[0] == 405


# --- what is seen of them ---


class Served(NamedTuple):
    """A router that `old` serves, `standby` stands by, `new` could take over; a floating IP that leads to its port."""

    cloud: Cloud
    old: Compute
    standby: Compute
    new: Compute


@pytest.fixture
def served(site: Site, cloud: Cloud) -> Served:
    mapped = ((site.state.externals[cloud.external].physical, "br-ex"),)
    old, standby, new = (site.compute(provider_mappings=mapped) for _ in range(3))
    facts: list[Fact] = [
        Designation(NAT, cloud.router, old.number, standby.number),
        Lease(cloud.router, 1024, 33279, old.number),
        Lease(cloud.router, 33280, 49407, standby.number, careful=True),
        Lease(cloud.router, 49408, 50000, old.number, opening=False),
        Binding(cloud.port, new.number, BindingPhase.ACTIVE),
    ]
    site.put(*facts)
    wish = {"external": cloud.external, "address": "203.0.113.9", "port": cloud.port}
    assert site.post(f"{API}/floating-ips", wish).status == 201
    return Served(cloud, old, standby, new)


def story(site: Site, name: str) -> list[str]:
    lines: list[str] = site.get(f"{API}/explain/router/{name}").json["lines"]
    return lines


def masked(served: Served, lines: list[str]) -> str:
    """Lines with the names and revisions of a test taken out, for a golden file."""
    # Who is electable depends on whoever else is at this site; that it is told is a test of its own.
    told = set(served.cloud.site.app.service.electable(served.cloud.router))
    text = "\n".join(line for line in lines if line not in told) + "\n"
    cloud, state = served.cloud, served.cloud.site.state
    designation = state.designations[NAT, cloud.router]
    words = {f"revision {designation.since}": "revision R"}
    if cloud.router in state.moves:
        move = state.moves[cloud.router]
        words |= {f"revision {move.since} (": "revision S (", f"revision {move.began}.": "revision B."}
    words |= {f"revision {x.since}:": "revision L:" for x in state.leases[cloud.router].values()}
    for old, new in words.items():
        text = text.replace(old, new)
    named = (cloud.router, cloud.external, cloud.port, served.old.name, served.standby.name, served.new.name)
    for name, new in zip(named, ("ROUTER", "EXTERNAL", "PORT", "OLD", "STANDBY", "NEW"), strict=True):
        text = re.sub(rf"\b{name}\b", new, text)
    return text.partition("Its own flows")[0]


def test_a_served_router_is_shown(site: Site, served: Served) -> None:
    cloud = served.cloud
    change(site, Edit(None, Neighbour(cloud.external, "203.0.113.1", 0x020000000009)))
    shown = site.get(cloud.route()).json
    state = site.state
    assert (shown["designated"], shown["standby"]) == (served.old.name, served.standby.name)
    assert shown["since"] == state.designations[NAT, cloud.router].since > 0
    assert shown["next-hop-mac"] == "02:00:00:00:00:09"
    assert [(x["first"], x["last"], x["compute"], x["opening"], x["careful"]) for x in shown["leases"]] == [
        (1024, 33279, served.old.name, True, False),
        (33280, 49407, served.standby.name, True, True),
        (49408, 50000, served.old.name, False, False),
    ]
    assert all(x["since"] for x in shown["leases"])
    move = Move(
        cloud.router,
        served.old.number,
        served.new.number,
        MovePhase.FREEZE,
        reason="c9 has not",
        unknown=3,
        deadline=1_800_000_000,
    )
    change(site, Edit(None, move))
    shown = site.get(cloud.route()).json["move"]
    stored = site.state.moves[cloud.router]
    assert shown == {
        "old": served.old.name,
        "new": served.new.name,
        "phase": "freeze",
        "reason": "c9 has not",
        "unknown": 3,
        "deadline": 1_800_000_000,
        "began": stored.began,
        "since": stored.since,
    }


def test_they_are_counted(site: Site, served: Served) -> None:
    change(site, Edit(None, Move(served.cloud.router, served.old.number, served.new.number)))
    state = site.state
    text, counts = site.get("/metrics").raw.decode(), site.get(f"{API}/status").json["counts"]
    for name, value in (
        ("externals", len(state.externals)),
        ("routers", len(state.routers)),
        ("routers_unserved", shapes.unserved(state)),
        ("floating_ips", len(state.floatings)),
        ("moves", len(state.moves)),
    ):
        assert value or name == "routers_unserved"
        assert f"ebbtide_{name} {float(value)}\n" in text
        assert counts[name] == value


def test_the_story_of_a_router_at_rest(site: Site, served: Served, golden: Any) -> None:
    golden("north/router-at-rest.txt", masked(served, story(site, served.cloud.router)))


def test_the_story_of_a_router_that_moves(site: Site, served: Served, golden: Any) -> None:
    cloud = served.cloud
    move = Move(
        cloud.router,
        served.old.number,
        served.new.number,
        MovePhase.FLIP,
        reason="somebody has not applied it",
        unknown=3,
        deadline=1_800_000_000,
    )
    change(site, Edit(None, move), Edit(None, Neighbour(cloud.external, "203.0.113.1", 0x020000000009)))
    golden("north/router-moving.txt", masked(served, story(site, cloud.router)))


def test_what_a_compute_serves_keeps_it_from_being_ended(site: Site, served: Served) -> None:
    router, old, standby = served.cloud.router, served.old, served.standby

    def told(compute: Compute, holds: tuple[str, ...] = (), **fields: Any) -> str:
        shown = msgspec.structs.replace(compute, **fields)
        state = clouds.change(site.state, Edit(compute, shown))
        return " ".join(explain.compute_story(state, shown, site.app.service.compute_status(compute), holds))

    assert f"It serves the NAT of 1 router(s): {router}." in told(old)
    assert f"It stands by for the NAT of 1 router(s): {router}." in told(standby)
    assert "NAT of" not in told(served.new)
    assert "1 port(s) keep it from being ended." in told(served.new, tombstoned=True)
    for compute in (old, standby):
        assert "It is empty and may be ended; its parts in these NATs go with it." in told(compute, tombstoned=True)
    words = f"router {router}: its NAT is still here, and {served.new.name} can have it"
    assert f"It may be ended only when this has moved: {words}." in told(old, (words,), tombstoned=True)
    assert "empty" not in told(old, (words,), tombstoned=True)


def test_a_compute_that_a_nat_is_on_its_way_from_keeps_its_tunnels(site: Site, served: Served) -> None:
    router, old, new = served.cloud.router, served.old.name, served.new.name
    marked = msgspec.structs.replace(served.old, tombstoned=True)
    change(site, Edit(served.old, marked), Edit(None, Move(router, served.old.number, served.new.number)))
    lines = " ".join(site.get(f"{API}/explain/compute/{old}").json["lines"])
    assert f"The NAT of 1 router(s) moves from or to it: {router}." in lines
    words = f"router {router} moves from {old} to {new}, prepare"
    assert f"It may be ended only when this has moved: {words}" in lines
    answer = site.rpc("cloudscaler-rpc:scalein-computes-tep-delete", [old], "scalein-compute-names")
    assert answer.status == 409
    (found,) = answer.errors
    assert f"{old} still serves: {words}" in found["error-message"]
    assert "its tunnels go when it has moved (`ebbtide router list`)" in found["error-message"]


def test_every_phase_has_words(site: Site, served: Served) -> None:
    cloud = served.cloud
    old = None
    for phase in MovePhase:
        new = Move(cloud.router, served.old.number, served.new.number, phase)
        change(site, Edit(old, new))
        old = site.state.moves[cloud.router]
        text = "\n".join(story(site, cloud.router))
        assert f"phase {phase} since revision {old.since} (" in text
        assert "The move waits for: the computes concerned to have applied this phase." in text
        assert "owns its addresses" in text


def test_other_stories(site: Site, served: Served) -> None:
    cloud, n = served.cloud, next(_numbers)
    assert site.ask("PUT", f"{API}/routers/inner{n}", {}).status == 201
    text = "\n".join(story(site, f"inner{n}"))
    assert "has no network outside" in text
    assert "dump-conntrack" not in text
    wish = {"physical": f"dark{n}", "subnet": "198.51.100.0/24"}
    assert site.ask("PUT", f"{API}/externals/dark{n}", wish).status == 201
    assert site.ask("PUT", f"{API}/routers/lonely{n}", {"external": f"dark{n}"}).status == 201
    text = "\n".join(story(site, f"lonely{n}"))
    assert f"Nobody serves the NAT of router lonely{n}" in text
    assert "no IPv4 address in" in text
    assert "has no next hop" in text
    assert "No ports are leased" in text
    assert site.ask("PATCH", cloud.route(), {"snat": False}).status == 200
    assert any(line.startswith("SNAT is off") for line in story(site, cloud.router))
    assert error(site.get(f"{API}/explain/router/nothing"))[0] == 404


def test_who_has_no_port_left_is_told_the_whole_command_for_one_more_address(site: Site, served: Served) -> None:
    name = served.cloud.router
    assert site.ask("PATCH", served.cloud.route(), {"addresses": ["203.0.113.5", "203.0.113.6"]}).status == 200
    command = f"`ebbtide router set {name} --address 203.0.113.5 --address 203.0.113.6 --address NEW`"
    state = site.state
    router, lease = state.routers[name], state.leases[name][1024]
    told = explain.router_story(
        state, router, (), exhausted=Exhausted(0, served.old.name, 6, "10.1.0.9", "198.51.100.9:443")
    )
    assert any(line.endswith(f"Give the router one more address: {command}.") for line in told)
    kept = clouds.change(state, Edit(lease, msgspec.structs.replace(lease, opening=False)))
    (line,) = [line for line in explain.router_story(kept, router, ()) if "opens no new connections" in line]
    assert line.endswith(f"Give the router one more address ({command}), or wait for connections to end.")


def test_addresses_that_are_taken_from_a_router_are_named(site: Site, cloud: Cloud) -> None:
    def change(**wish: Any) -> list[str]:
        gone: list[str] = site.ask("PATCH", cloud.route(), wish).json["addresses-gone"]
        return gone

    assert change(addresses=["203.0.113.6", "203.0.113.5"]) == []
    assert change(snat=False) == []
    assert change(addresses=["203.0.113.7"]) == ["203.0.113.5", "203.0.113.6"]
    other = f"{cloud.external}b"
    wish = {"id": other, "physical": other, "subnet": "203.0.113.0/24"}
    assert site.post(f"{API}/externals", wish).status == 201
    assert change(external=other) == ["203.0.113.7"], "the same address of another network is another address"
    assert change(external="") == ["203.0.113.7"]


def test_an_extra_route_whose_next_hop_is_not_there_is_told(site: Site, served: Served) -> None:
    name, port = served.cloud.router, served.cloud.port
    routes = ["10.8.0.0/16 via 10.1.0.9", "10.9.0.0/16 via 10.1.0.77"]
    assert site.ask("PATCH", served.cloud.route(), {"routes": routes}).status == 200

    def told(**fields: Any) -> list[str]:
        router = msgspec.structs.replace(site.state.routers[name], **fields)
        state = clouds.change(site.state, Edit(site.state.routers[name], router))
        return [line for line in explain.router_story(state, router, ()) if line.startswith("Extra route")]

    assert told() == [
        f"Extra route {routes[0]}: its next hop is port {port} on {served.new.name}.",
        f"Extra route {routes[1]}: no plugged port has its next hop, so its traffic takes the default route.",
    ]
    assert told(external="", addresses=())[1].endswith(
        "no plugged port has its next hop, and there is no default route."
    )
    assert told(routes=()) == []
    change(site, Edit(site.state.binding(port, served.new.number), None))
    assert "no plugged port has its next hop" in told()[0]


def test_where_a_floating_ip_is_exchanged(site: Site, served: Served) -> None:
    cloud = served.cloud
    start = f"Floating IP 203.0.113.9 is 10.1.0.9 of port {cloud.port}: exchanged "

    def said() -> str:
        (line,) = [text for text in story(site, cloud.router) if text.startswith("Floating IP")]
        return line.removeprefix(start)

    assert said() == f"on {served.new.name}, the port's own compute."
    plain = msgspec.structs.replace(site.state.computes[served.new.number], provider_mappings=())
    change(site, Edit(site.state.computes[served.new.number], plain))
    assert said() == (
        f"on {served.old.name}, the port's own compute does not have the network ({served.standby.name} would too)."
    )
    for each in (served.old, served.standby):
        known = site.state.computes[each.number]
        change(site, Edit(known, msgspec.structs.replace(known, provider_mappings=())))
    assert said() == "nowhere."
    change(site, Edit(site.state.bindings[cloud.port][0], None))
    assert said() == "nowhere, since the port is plugged nowhere."


def test_the_filters_fit_the_flows(site: Site, served: Served) -> None:
    """Every flow and group that the compiler makes of the router alone is found by them."""
    cloud, state = served.cloud, site.state
    lines = story(site, cloud.router)
    value, mask = (int(x, 16) for x in next(x for x in lines if "cookie=" in x).partition("cookie=")[2].split("/"))
    tag = state.routers[cloud.router].tag
    found = {
        room: compiler.fragment(state, compiler.Key(room, cloud.router, served.old.number), View())
        for room in ("router", "gate", "exit", "addresses")
    }
    for room, fragment in found.items():
        assert fragment is not None, room
        assert all(encode_flow(flow).cookie & mask == value for flow in fragment.flows), room
    text = "\n".join(lines)
    vrf = ledger.metadata_vrf(tag)
    for part in (
        f"metadata={vrf[0]:#x}/{vrf[1]:#x}",
        f"group_id={ledger.gateway_group(tag)},",
        f"VNI {ledger.gateway_vni(tag)}",
        f"VNI {ledger.ask_vni(tag)}",
        f"VNI {ledger.answer_vni(tag)}",
        f"zone={ledger.router_zone(tag)}",
    ):
        assert part in text


def test_a_wrong_wait_is_refused_before_anything_is_done(site: Site, cloud: Cloud) -> None:
    here = site.compute()
    pair = {"gateway": here.name, "peer": site.compute().name}
    change(site, Edit(None, Floating(cloud.external, "203.0.113.9", 9)))

    def stored() -> list[object]:
        kinds = ("networks", "ports", "relations", "externals", "routers", "legs", "floatings", "computes")
        return [getattr(site.state, kind) for kind in kinds]

    before = stored()
    for method, path, body in (
        ("POST", "networks", {"id": "late"}),
        ("DELETE", f"networks/{cloud.network}", None),
        ("POST", "ports", {"id": "late", "network": cloud.network, "mac": "02:00:00:00:99:99"}),
        ("DELETE", f"ports/{cloud.port}", None),
        ("POST", "relations", pair),
        ("POST", "externals", {"id": "late", "physical": "late", "subnet": "198.51.100.0/24"}),
        ("PUT", "externals/late", {"physical": "late", "subnet": "198.51.100.0/24"}),
        ("POST", "routers", {"id": "late"}),
        ("PATCH", f"routers/{cloud.router}", {"snat": False}),
        ("POST", f"routers/{cloud.router}/detach", {"network": cloud.network}),
        ("POST", "floating-ips", {"external": cloud.external, "address": "203.0.113.10", "port": cloud.port}),
        ("DELETE", f"floating-ips/{cloud.external}/203.0.113.9", None),
        ("POST", f"computes/{here.name}/adopt", None),
        ("POST", "scale-in/start", {"computes": [here.name]}),
        ("POST", "reconcile", {"computes": [here.name]}),
    ):
        for wait in ("yes", "true", "30", "APPLIED"):
            answer = site.ask(method, f"{API}/{path}?wait={wait}", body)
            assert error(answer) == (400, f"wait={wait}: it is wait=applied or nothing"), path
        assert stored() == before, path
        assert answer.json["error"]["path"] == "wait"
    assert site.ask("PATCH", f"{cloud.route()}?wait=applied", {"snat": False}).json["behind"] == []


def test_writes_are_in_the_audit_log(site: Site, cloud: Cloud) -> None:
    assert site.ask("PATCH", cloud.route(), {"snat": False}).status == 200
    last = msgspec.json.decode((site.state_dir / "audit.log").read_text().splitlines()[-1])
    assert (last["method"], last["path"], last["status"]) == ("PATCH", cloud.route(), 200)


def test_a_port_too_few_is_told_of_by_the_counters_alone_after_a_restart(site: Site, served: Served) -> None:
    state = site.state
    router = state.routers[served.cloud.router]

    def told(refused: Refusals | None, exhausted: Exhausted | None = None) -> list[str]:
        lines = explain.router_story(state, router, (), refused=refused, exhausted=exhausted)
        return [line for line in lines if line.startswith("No port was left")]

    assert told(None) == told(Refusals(sctp=3)) == []
    (line,) = told(Refusals(exhausted=7))
    assert line.startswith(
        "No port was left for 7 packet(s) that would have begun a connection: they were dropped. All ports"
    )
    (line,) = told(Refusals(exhausted=7), Exhausted(0.0, "a", UDP, "10.1.0.1", "198.51.100.7:53"))
    assert "were dropped, the last at a 1970-01-01T00:00:00Z, 10.1.0.1 to 198.51.100.7:53 (UDP). All ports" in line


def test_a_datapath_on_which_the_move_is_not_proven_is_told_where_its_nat_may_be(site: Site, served: Served) -> None:
    state = site.state
    router = state.routers[served.cloud.router]

    def lines(**kinds: str) -> list[str]:
        numbers = {"old": served.old.number, "standby": served.standby.number, "new": served.new.number}
        carriers = {numbers[role]: Datapath(kind, "3.1.0") for role, kind in kinds.items()}
        return [line for line in explain.router_story(state, router, (), (), carriers) if "not proven" in line]

    assert lines(old="netdev", standby="netdev", new="system") == []
    assert lines(old="netdev", standby="system") == [
        f"{served.standby.name} runs kernel (system), Open vSwitch 3.1.0: a move of this NAT is not proven on the kernel datapath; "
        "import, flip and reply rows keep their safe order."
    ]
