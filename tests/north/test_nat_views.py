"""OpenDaylight's trees of NAT: what is rendered of a State, in both styles, and that it is what the YANG module says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from immutables import Map
from yangson import DataModel
from yangson.enumerations import ContentType

from ebbtide.errors import NotFound
from ebbtide.model.facts import Designation, Edit, Floating
from ebbtide.model.state import NAT, State
from ebbtide.north import schema, tree, views
from tests.fakes import clouds
from tests.north.site import Site

GATE = clouds.compute(1, dpid=0xFFFF_FFFF_FFFF_FFF0, provider_mappings=(("physnet", "br-ex"),))
STATE = clouds.state(
    GATE,
    clouds.compute(2),
    clouds.network(1, subnets=("10.1.0.0/16",)),
    clouds.port(1, 1),
    clouds.port(2, 1),
    clouds.external(9),
    clouds.external(8, vlan=42),
    clouds.router(1, external="x9", addresses=("203.0.9.5", "203.0.9.6")),
    clouds.router(2, external="x9", snat=False),
    clouds.router(3),
    clouds.leg(1, 1),
    Designation(NAT, "r1", 1, 2, 4),
    Floating("x9", "203.0.9.9", 9, "r1", "p1", "10.1.0.1"),
    Floating("x9", "203.0.9.10", 10, "r1", "p2", "10.1.0.2"),
    Floating("x9", "203.0.9.11", 11),
)
ROOTS = ("napt-switches", "ext-routers", "external-networks", "floating-ip-info")


def trees(state: State = STATE, config: bool = True, nonconfig: bool = False) -> dict[str, Any]:
    found = views.Picture(state, lambda n: views.Seen(), lambda a, b: False, config, nonconfig)
    return {name: node for name, node in views.trees(found).items() if name.startswith("odl-nat:")}


def read(path: str, old: bool = False, **more: Any) -> Any:
    return tree.envelope(tree.locate(trees(**more), tree.steps(path), old), old)


def test_they_are_as_recorded(golden: Any) -> None:
    found = {style: tree.plain(trees(), old) for style, old in (("config", False), ("old config", True))}
    golden("north/nat-views.json", json.dumps(found, indent=1) + "\n")


def test_they_are_what_the_module_says() -> None:
    model = DataModel((schema.FOLDER / "library.json").read_text(), (str(schema.FOLDER),))
    shown = tree.plain(trees(), False)
    assert set(shown) == {f"odl-nat:{root}" for root in ROOTS}
    model.from_raw(shown).validate(ctype=ContentType.all)


def test_all_is_config() -> None:
    assert trees(config=False, nonconfig=True) == {}


def test_who_serves_which_router() -> None:
    path = "odl-nat:napt-switches/router-to-napt-switch"
    (new,) = read(f"{path}=r1")["odl-nat:router-to-napt-switch"]
    (old,) = read(f"{path}/r1", old=True)["router-to-napt-switch"]
    assert (new["primary-switch-id"], old["primary-switch-id"]) == (str(GATE.dpid), GATE.dpid)
    assert read(f"{path}=r1/primary-switch-id") == {"odl-nat:primary-switch-id": str(GATE.dpid)}
    for absent in ("r2", "r3", "r4"):
        with pytest.raises(NotFound):
            read(f"{path}={absent}")
    nobody = clouds.change(STATE, *(Edit(found, None) for found in STATE.designations.values()))
    assert read(path, state=nobody) == {"odl-nat:router-to-napt-switch": []}


def test_a_compute_that_is_not_known_serves_nobody() -> None:
    lost = msgspec.structs.replace(STATE, computes=Map())
    assert read("odl-nat:napt-switches", state=lost) == {"odl-nat:napt-switches": {"router-to-napt-switch": []}}


def test_a_router_without_a_network_outside_is_no_ext_router() -> None:
    assert [r["router-name"] for r in read("odl-nat:ext-routers/routers")["odl-nat:routers"]] == ["r1", "r2"]
    with pytest.raises(NotFound):
        read("odl-nat:ext-routers/routers=r3")


def test_two_keys_of_an_address() -> None:
    path = "odl-nat:ext-routers/routers=r1/external-ips=203.0.9.0%2F24,203.0.9.6"
    assert read(path)["odl-nat:external-ips"] == [{"subnet-id": "203.0.9.0/24", "ip-address": "203.0.9.6"}]


def test_a_floating_ip_that_leads_nowhere_is_in_no_map() -> None:
    text = json.dumps(tree.plain(trees(), False))
    assert "203.0.9.9" in text
    assert "203.0.9.11" not in text


@pytest.mark.parametrize(("root", "equals"), [("/rests/data", "="), ("/restconf/config", "/")])
def test_over_http(site: Site, root: str, equals: str) -> None:
    a = site.compute()
    for path, body in (
        ("externals", {"id": "pub", "physical": "physnet", "subnet": "203.0.113.0/24"}),
        ("routers", {"id": "r/1", "external": "pub"}),
    ):
        assert site.post(f"/api/v1/{path}", body).status in (200, 201)
    path = f"{root}/odl-nat:napt-switches/router-to-napt-switch{equals}r%2F1"
    if (NAT, "r/1") not in site.state.designations:
        answer = site.get(path)
        assert (answer.status, answer.errors[0]["error-tag"]) == (404, "data-missing")
        site.put(Designation(NAT, "r/1", a.number))
    (found,) = next(iter(site.get(path).json.values()))
    served = site.state.computes[site.state.designations[NAT, "r/1"].compute]
    assert str(found["primary-switch-id"]) == str(served.dpid)
    for tree_ in ROOTS:
        assert site.get(f"{root}/odl-nat:{tree_}").status == 200
        assert site.get(f"/restconf/operational/odl-nat:{tree_}").status == 404
        assert site.ask("PUT", f"{root}/odl-nat:{tree_}", {}).status == 405
