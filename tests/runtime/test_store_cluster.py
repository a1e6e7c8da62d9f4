"""A store of three servers: the controller follows its leader, a second controller takes over, nothing is forgotten."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebbtide.runtime import records
from tests.north.site import Site
from tests.ovsdb.conftest import Server

SHIPPED = Path(records.__file__).with_name("ebbtide.ovsschema")


def test_the_schema_that_is_shipped_is_the_one_that_is_used() -> None:
    assert json.loads(SHIPPED.read_text()) == json.loads(json.dumps(records.schema()))


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**settings: object) -> Site:
        made.append(Site(tmp_path / f"site{len(made)}", **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[list[Server]]:
    """Three servers of one cluster, in folders of their own."""
    made: list[Server] = []
    ports = [_free_port() for _ in range(3)]
    for number, port in enumerate(ports):
        folder = tmp_path / f"s{number}"
        folder.mkdir()
        database = folder / "ebbtide.db"
        local = f"tcp:127.0.0.1:{port}"
        if number == 0:
            words = ["create-cluster", str(database), str(SHIPPED), local]
        else:
            words = ["join-cluster", str(database), records.DATABASE, local, f"tcp:127.0.0.1:{ports[0]}"]
        subprocess.run(["ovsdb-tool", *words], check=True, capture_output=True)
        server = Server(folder, database, f"unix:{folder}/db.sock")
        server.start()
        made.append(server)
    yield made
    for server in made:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_cluster_that_loses_its_leader_goes_on(trio: list[Server], make_site: Callable[..., Site]) -> None:
    site = make_site(store=",".join(s.remote for s in trio))
    site.compute("a")
    site.call(site.app.service.add_network("blue", ["10.1.0.0/24"]))
    before = site.state
    leader = next(s for s in trio if _leads(s))
    leader.kill()
    site.wait(lambda: not site.app.cluster.store.reachable)
    site.wait(site.app.cluster.store.leading.is_set)
    assert site.state.networks == before.networks
    assert site.state.computes == before.computes
    assert site.state.term > before.term
    site.call(site.app.service.add_network("green", ["10.2.0.0/24"]))
    assert set(site.state.networks) == {"blue", "green"}


def test_a_second_controller_stands_by_and_takes_over(trio: list[Server], make_site: Callable[..., Site]) -> None:
    remotes = ",".join(s.remote for s in trio)
    first = make_site(store=remotes)
    second = make_site(store=remotes, leads=False)
    first.call(first.app.service.add_network("blue", ["10.1.0.0/24"]))
    second.wait(lambda: "blue" in second.state.networks)
    assert not second.app.cluster.store.leading.is_set()
    answer = second.post("/api/v1/networks", {"id": "green"})
    assert answer.status == 503
    # It sees no switch: nobody must take that for what is so.
    hosts, ports = "/restconf/operational/neutron:neutron/hostconfigs", "/api/v1/neutron/ports"
    for path in (hosts, ports, "/api/v1/neutron/hosts", "/api/v1/events?kinds=neutron-port"):
        assert second.get(path).status == 503, path
    assert (first.get(hosts).status, first.get(ports).status) == (200, 200)
    first.stop()
    second.wait(second.app.cluster.store.leading.is_set)
    second.call(second.app.service.add_network("green", []))
    assert set(second.state.networks) == {"blue", "green"}


def _leads(server: Server) -> bool:
    done = subprocess.run(
        ["ovs-appctl", "-t", str(server.control), "cluster/status", records.DATABASE],
        capture_output=True,
        text=True,
        check=False,
    )
    return "Role: leader" in done.stdout
