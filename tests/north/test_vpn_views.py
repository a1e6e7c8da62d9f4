"""OpenDaylight's trees of L3VPNs and subnet routes: what is rendered of a State, in both styles, and that it is what the modules say."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from yangson import DataModel
from yangson.enumerations import ContentType

from ebbtide.model.facts import Binding, Designation, Edit, Learnt
from ebbtide.model.state import SUBNET, State
from ebbtide.north import schema, tree, views
from tests.fakes import clouds

#: n1 and n2 in VPN v11 (n2 by router r1), n3 imported from v12, n4 behind r2, which has no VPN. p1 and p2 are on c1, p3 and p4 on c2.
STATE = clouds.state(
    clouds.compute(1, dpid=0xFFFF_FFFF_FFFF_FFF0),
    clouds.compute(2),
    *(clouds.network(n, subnets=(f"10.{n}.0.0/16",)) for n in (1, 2, 3, 4)),
    *(clouds.port(n, n, addresses=(f"10.{n}.0.{n}",)) for n in (1, 2, 3, 4)),
    *(Binding(f"p{n}", 1 if n < 3 else 2, clouds.ACTIVE) for n in (1, 2, 3, 4)),
    clouds.vpn(11, imports=("64512:9",), exports=("64512:8",)),
    clouds.vpn(12, "64512:9"),
    clouds.router(1, vpn="v11", routes=("10.99.0.0/16 via 10.2.0.2",)),
    clouds.router(2),
    clouds.leg(11, 1, router="v11", address="10.1.255.1", subnet="10.1.0.0/16"),
    clouds.leg(1, 2, address="10.2.255.1", subnet="10.2.0.0/16"),
    clouds.leg(12, 3, router="v12", address="10.3.255.1", subnet="10.3.0.0/16"),
    clouds.leg(2, 4, address="10.4.255.1", subnet="10.4.0.0/16"),
    Designation(SUBNET, "n1 10.1.0.0/16", 1),
    Designation(SUBNET, "n3 10.3.0.0/16", 2),
    Learnt("n1", "10.1.0.100", 0x0A_0000_000001, "p1"),
)
ROOTS = ("odl-fib:", "odl-l3vpn:")


def trees(state: State = STATE, config: bool = True, nonconfig: bool = True) -> dict[str, Any]:
    found = views.Picture(state, lambda n: views.Seen(), lambda a, b: False, config, nonconfig)
    return {name: node for name, node in views.trees(found).items() if name.startswith(ROOTS)}


def read(path: str, old: bool = False, state: State = STATE) -> Any:
    return tree.envelope(tree.locate(trees(state), tree.steps(path), old), old)


def test_they_are_as_recorded(golden: Any) -> None:
    golden("north/vpn-views.json", json.dumps(tree.plain(trees(), False), indent=1) + "\n")


def test_they_are_what_the_modules_say() -> None:
    model = DataModel((schema.FOLDER / "library.json").read_text(), (str(schema.FOLDER),))
    model.from_raw(tree.plain(trees(), False)).validate(ctype=ContentType.all)


def test_a_vpns_table_has_its_networks_its_routers_and_what_it_imports() -> None:
    (table,) = read("odl-fib:fibEntries/vrfTables=100%3A11")["odl-fib:vrfTables"]
    told = {x["destPrefix"]: (x["origin"], [p["nexthop-address"] for p in x["route-paths"]]) for x in table["vrfEntry"]}
    assert told == {
        "10.1.0.0/16": ("c", ["10.0.0.1"]),
        "10.1.0.1/32": ("l", ["10.0.0.1"]),
        "10.1.0.100/32": ("s", ["10.0.0.1"]),
        "10.2.0.0/16": ("c", []),
        "10.2.0.2/32": ("l", ["10.0.0.1"]),
        "10.3.0.0/16": ("si", ["10.0.0.2"]),
        "10.3.0.3/32": ("si", ["10.0.0.2"]),
        "10.99.0.0/16": ("s", ["10.0.0.1"]),
    }
    (own,) = read("odl-fib:fibEntries/vrfTables=r2")["odl-fib:vrfTables"]
    assert [x["destPrefix"] for x in own["vrfEntry"]] == ["10.4.0.0/16", "10.4.0.4/32"]
    assert "10.1.0.100" in json.dumps(read("odl-fib:fibEntries", old=True))


def test_a_subnet_without_a_designated_compute_has_no_next_hop_not_a_stale_one() -> None:
    found = {
        x["subnet-id"]: x for x in read("odl-l3vpn:subnet-op-data")["odl-l3vpn:subnet-op-data"]["subnet-op-data-entry"]
    }
    assert found["n1 10.1.0.0/16"]["nh-dpnId"] == str(0xFFFF_FFFF_FFFF_FFF0)
    assert found["n1 10.1.0.0/16"]["vrf-id"] == "100:11"
    assert found["n2 10.2.0.0/16"]["route-adv-state"] == "withdrawn"
    assert "nh-dpnId" not in found["n2 10.2.0.0/16"]
    old = STATE.designations[SUBNET, "n1 10.1.0.0/16"]
    gone = clouds.change(STATE, Edit(old, None))
    (entry,) = read("odl-l3vpn:subnet-op-data/subnet-op-data-entry=n1%2010.1.0.0%2F16", state=gone)[
        "odl-l3vpn:subnet-op-data-entry"
    ]
    assert ("nh-dpnId" in entry, entry["route-adv-state"]) == (False, "withdrawn")


def test_presence_follows_the_last_port() -> None:
    def on(state: State) -> list[str]:
        (entry,) = read("odl-l3vpn:vpn-instance-op-data/vpn-instance-op-data-entry=100%3A12", state=state)[
            "odl-l3vpn:vpn-instance-op-data-entry"
        ]
        return [x["dpnId"] for x in entry["vpn-to-dpn-list"]]

    assert on(STATE) == [str(STATE.computes[2].dpid)]
    assert on(clouds.change(STATE, Edit(Binding("p3", 2, clouds.ACTIVE), None))) == []
    tombstoned = msgspec.structs.replace(STATE.computes[2], tombstoned=True)
    assert on(clouds.change(STATE, Edit(STATE.computes[2], tombstoned))) == [str(STATE.computes[2].dpid)]
