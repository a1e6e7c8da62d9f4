"""A cloud of four with a router that leads outside, and movers of its VMs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from ebbtide.lab.mover import Mover
from ebbtide.lab.rest import Api
from tests.support.cloud import Cloud
from tests.support.outside import GATEWAY, outside, route, wait_served

SNAT = "203.0.113.10"


@pytest.fixture
def cloud(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A lab, and its controller with its REST interface."""
    name = f"dr{abs(hash(request.node.nodeid)) % 10**6}"
    made = Cloud(name, tmp_path / "cloud", web=True)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def four(cloud: Cloud) -> Cloud:
    """a, b, c and d; network blue with a VM on each of a, b and c; router r1 that leads outside, and whose NAT a has."""
    outside(cloud, "a", "b", "c", "d")
    cloud.add_network("blue", "10.1.0.0/24")
    route(cloud, "r1", "blue", outside="out", addresses=(SNAT,))
    for index, compute in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", compute, "blue", index, gateway=GATEWAY)
        if index == 1:
            wait_served(cloud, "r1")
    wait_served(cloud, "r1")
    return cloud


@pytest.fixture
def cloud_of_dead(four: Cloud) -> Cloud:
    """As `four`, where three seconds of silence are enough."""
    settings = four.controller.app.cluster.settings
    four.controller.app.cluster.settings = msgspec.structs.replace(settings, loss_after=3.0)
    return four


@contextmanager
def moving(cloud: Cloud, *failing: str) -> Iterator[Mover]:
    """A mover of the lab's is at work. `failing`: VMs that it cannot move."""
    over = threading.Event()
    mover = Mover(cloud.lab, Api(cloud.lab).ask, failing=frozenset(failing))
    thread = threading.Thread(target=mover.run, args=(over.is_set,), daemon=True)
    thread.start()
    try:
        yield mover
    finally:
        over.set()
        thread.join(60)
        assert not thread.is_alive()
