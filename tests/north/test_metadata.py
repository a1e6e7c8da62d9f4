"""Whose interface a port is, by REST; and finding a port by its lport, as the metadata agent does."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.north.site import Site

_numbers = itertools.count(1)


class Ports:
    """A network, and ports in it by REST."""

    def __init__(self, site: Site) -> None:
        number = next(_numbers)
        self.site, self.network, self.name = site, f"mn{number}", f"mp{number}"
        assert self.ask("POST", "networks", {"id": self.network, "subnets": ["10.1.0.0/24"]})[0] == 201

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.site.ask(method, f"/api/v1/{path}", body)
        return answer.status, answer.json if answer.raw else None

    def add(self, **more: Any) -> tuple[int, Any]:
        wish = {"id": self.name, "network": self.network, "mac": "02:00:00:00:0a:01", "addresses": ["10.1.0.1"]}
        return self.ask("POST", "ports", {**wish, **more})


@pytest.fixture
def ports(site: Site) -> Ports:
    return Ports(site)


def test_a_port_is_found_by_its_lport_with_whose_it_is(ports: Ports) -> None:
    made = ports.add(device="i-1", project="p-1")[1]["port"]
    assert (made["device"], made["project"]) == ("i-1", "p-1")
    assert ports.ask("GET", f"ports?lport={made['lport']}")[1]["ports"] == [made]
    for text in ("0", "1048575", "x", "-1", "9" * 40, ""):
        assert ports.ask("GET", f"ports?lport={text}")[1]["ports"] == [], text
    assert ports.ask("GET", f"ports?lport={made['lport']}&network={ports.network}")[1]["ports"] == [made]


def test_whose_it_is_can_be_said_later_changed_and_taken_back(ports: Ports) -> None:
    assert ports.add()[1]["port"]["device"] == ""
    assert ports.ask("PATCH", f"ports/{ports.name}", {"device": "i-1"})[1]["changed"]
    assert not ports.ask("PATCH", f"ports/{ports.name}", {"device": "i-1"})[1]["changed"]
    assert ports.ask("PATCH", f"ports/{ports.name}", {"secured": True, "project": "p-1"})[1]["port"]["device"] == "i-1"
    assert ports.add()[0] == 200, "the same again, and nothing said of whose it is"
    status, refused = ports.add(device="i-2")
    assert status == 409
    assert f"`ebbtide port set {ports.name} --device ID` changes that" in refused["error"]["message"]
    assert ports.ask("PATCH", f"ports/{ports.name}", {"device": ""})[1]["port"]["device"] == ""


@pytest.mark.parametrize("text", ["a b", "x\r\nX-Instance-ID: other", "ü", "x" * 256, "\t"])
def test_what_could_not_stand_in_a_header_is_refused(ports: Ports, text: str) -> None:
    for what in ("device", "project"):
        status, refused = ports.add(**{what: text})
        assert (status, refused["error"]["path"]) == (400, what)
    assert ports.ask("GET", f"ports/{ports.name}")[0] == 404


def test_the_names_of_our_own_interfaces_are_no_ports(ports: Ports) -> None:
    status, refused = ports.add(id="ebbtide:metadata")
    assert status == 400
    assert "are the controller's own" in refused["error"]["message"]
