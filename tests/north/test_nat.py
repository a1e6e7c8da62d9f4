"""A router's connections, the deadline of its move and a rebalance by REST: shapes, pages, refusals. No switch is there to be read."""

from __future__ import annotations

from typing import Any

import pytest

from ebbtide.compile.features.nat import TCP, UDP, Translation
from ebbtide.decide import rebalancing
from ebbtide.model.facts import Designation, Edit, Move, MovePhase, Operation
from ebbtide.model.state import NAT
from tests.north.site import Site
from tests.north.test_routers import Cloud, change, cloud, error

API = "/api/v1"
OUT = (203 << 24) + (113 << 8) + 5
__all__ = ["cloud"]


def served(cloud: Cloud) -> tuple[str, str]:
    """The names of two computes, of which the first serves the router and the second stands by."""
    physical = cloud.site.state.externals[cloud.external].physical
    one, two = (cloud.site.compute(provider_mappings=((physical, "br-ex"),)) for _ in range(2))
    change(cloud.site, Edit(None, Designation(NAT, cloud.router, one.number, two.number)))
    return one.name, two.name


def told(cloud: Cloud, compute: str, count: int, proto: int = TCP, *, closed: int = 0) -> None:
    """A compute's switch has opened connections, some of which are over."""
    record, tag = cloud.site.app.cluster.connections, cloud.fact().tag
    number = cloud.site.state.by_name[compute]

    async def tell() -> None:
        for n in range(count):
            known = Translation(proto, 0x0A010009, 40000 + n, 0xCB007101, 443, OUT, 1024 + n)
            record.opened(tag, number, known)
            if n < closed:
                record.closed(tag, number, known)

    cloud.site.call(tell())


def test_connections_are_counted_by_protocol_and_by_who_opened_them(site: Site, cloud: Cloud) -> None:
    one, two = served(cloud)
    told(cloud, one, 5, closed=2)
    told(cloud, two, 3, UDP)
    found = site.get(f"{API}/nat/sessions/{cloud.router}").json
    assert (found["open"], found["closed"], found["unknown"], found["record"]) == (6, 2, 0, True)
    assert found["recorded"] == [
        {"compute": one, "protocol": "tcp", "open": 3, "closed": 2},
        {"compute": two, "protocol": "udp", "open": 3, "closed": 0},
    ]
    assert [(c["compute"], c["part"], c["read"], c["opened"]) for c in found["computes"]] == [
        (one, "serves", False, None),
        (two, "stands by", False, None),
    ]
    assert {c["reason"] for c in found["computes"]} == {f"{one} is unreachable", f"{two} is unreachable"}
    assert found["refused"] is None, "nobody could be asked"
    assert "connections" not in found


def test_connections_are_listed_a_page_at_a_time_each_once(site: Site, cloud: Cloud) -> None:
    one, _ = served(cloud)
    told(cloud, one, 7)
    pages, after = [], ""
    while True:
        page = site.get(f"{API}/nat/sessions/{cloud.router}?limit=3&after={after}").json
        pages.append([c["source"] for c in page["connections"]])
        after = page["next"]
        if not after:
            break
        told(cloud, one, 9 if len(pages) == 1 else 0)  # some come while one reads
    assert [len(p) for p in pages[:2]] == [3, 3]
    sources = [s for p in pages for s in p]
    assert len(set(sources)) >= 7
    first = site.get(f"{API}/nat/sessions/{cloud.router}?limit=1").json["connections"][0]
    assert first | {"opened": 0} == {
        "protocol": "tcp",
        "source": "10.1.0.9:40000",
        "remote": "203.0.113.1:443",
        "external": "203.0.113.5:1024",
        "compute": one,
        "opened": 0,
        "closed": 0,
    }


@pytest.mark.parametrize("query", ["limit=-1", "limit=1001", "limit=many", "limit=1&after=x", "limit=1&after=1-2-3"])
def test_a_page_that_cannot_be(site: Site, cloud: Cloud, query: str) -> None:
    assert error(site.get(f"{API}/nat/sessions/{cloud.router}?{query}"))[0] == 400


def test_routers_without_connections(site: Site, cloud: Cloud) -> None:
    assert error(site.get(f"{API}/nat/sessions/nobody"))[0] == 404
    found = site.get(f"{API}/nat/sessions/{cloud.router}").json
    assert (found["computes"], found["recorded"], found["open"]) == ([], [], 0)
    assert site.post(f"{API}/routers", {"id": f"inner-{cloud.router}"}).status == 201
    status, message = error(site.get(f"{API}/nat/sessions/inner-{cloud.router}"))
    assert (status, "no external network" in message) == (409, True)


def test_the_deadline_of_a_move_is_set_and_shown(site: Site, cloud: Cloud) -> None:
    path = f"{API}/nat/deadline/{cloud.router}"
    assert error(site.post(path, {"seconds": 60}))[0] == 409
    assert error(site.post(f"{API}/nat/deadline/nobody", {"seconds": 60}))[0] == 404
    one, two = served(cloud)
    numbers = [site.state.by_name[name] for name in (one, two)]
    change(site, Edit(None, Move(cloud.router, *numbers, MovePhase.REPLY, unknown=2)))
    answer = site.post(path, {"seconds": 6000})
    assert (answer.status, answer.json["changed"]) == (200, True)
    until = answer.json["move"]["deadline"]
    move = site.state.moves[cloud.router]
    assert move.deadline == until
    lines = "\n".join(site.get(f"{API}/explain/router/{cloud.router}").json["lines"])
    assert f"2 connection(s) of {one} are in no record; waited for until 2" in lines
    change(site, Edit(move, None))


@pytest.mark.parametrize("body", [{}, {"seconds": "soon"}, {"seconds": -1}, {"seconds": 1e9}, {"seconds": 1, "x": 1}])
def test_no_deadline(site: Site, cloud: Cloud, body: dict[str, Any]) -> None:
    assert error(site.post(f"{API}/nat/deadline/{cloud.router}", body))[0] == 400
    started = {"computes": ["nobody"], "deadline": body.get("seconds", -1)}
    assert site.post(f"{API}/scale-in/start", started).status == 400


def test_a_rebalance_where_nobody_can_be_reached_says_so_and_does_nothing(site: Site, cloud: Cloud) -> None:
    served(cloud)
    found = site.get(f"{API}/rebalance").json
    again = site.post(f"{API}/rebalance", {"plan": True}).json
    assert again | {"revision": 0} == found | {"revision": 0}
    assert found["moves"] == []
    begun = site.post(f"{API}/rebalance", {})
    assert (begun.status, begun.json["operation"], begun.json["changed"]) == (200, None, False)
    assert site.post(f"{API}/rebalance", {"stop": True}).json["operation"] is None
    both = ({"plan": True, "stop": True}, {"plan": True, "wait": 5}, {"stop": True, "wait": 5})
    for body in (*both, {"wait": -1}, {"wait": 1e300}, {"now": True}):
        assert error(site.post(f"{API}/rebalance", body))[0] == 400


def test_a_rebalance_that_is_stopped_says_what_goes_on_and_plans_nothing(site: Site, cloud: Cloud) -> None:
    old, new = served(cloud)
    numbers = site.state.by_name
    move = Move(cloud.router, numbers[old], numbers[new], MovePhase.FLIP)
    begun = Operation(f"rebalance-{cloud.router}", rebalancing.VERB, (), "running", "begins")
    site.put(move, begun)
    answer = site.post(f"{API}/rebalance", {"stop": True})
    found = answer.json
    assert (answer.status, found["changed"], found["operation"]["id"]) == (200, True, begun.id)
    assert (found["moves"], found["loads"], found["gain"]) == ([], [], [])
    phase = str(site.state.moves[cloud.router].phase)
    mine = {"service": "nat", "object": cloud.router, "old": old, "new": new, "phase": phase}
    assert mine in found["under-way"]
    assert len(found["under-way"]) == len(site.state.moves)
    again = site.post(f"{API}/rebalance", {"stop": True}).json
    assert (again["operation"], again["changed"]) == (None, False)
    assert mine in again["under-way"]
