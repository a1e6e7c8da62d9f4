"""One deployment for the stories of a process: Neutron with our driver, a controller, two computes. Each leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment

from ebbtide.errors import NotReady
from ebbtide.lab import Lab
from ebbtide.lab.cloud.files import environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two deployments at most, of a process each, whoever else runs beside them: most of the time they wait, for a lease to end, say."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(
                pytest.mark.xdist_group(f"driver-{'outages' if item.path.stem == 'test_outages' else 'others'}")
            )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Its database is made, and its computes are there; of its processes none runs."""
    try:
        environment()
    except NotReady as error:
        pytest.skip(str(error))
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Lab(f"drv{os.getpid()}", tmp_path_factory.mktemp("driver") / "lab") as lab:
        made = Deployment(lab)
        made.neutron.make()
        for name in "ab":
            made.add_compute(name)
        yield made


@pytest.fixture
def running(site: Deployment) -> Iterator[Deployment]:
    """All of it runs; what the story has made is gone afterwards, from Neutron and from the controller."""
    if site.lab.spawned("controller") is None:
        site.controller.start()
    if site.lab.spawned("neutron") is None:
        site.neutron.start()
    if site.lab.spawned("workers") is None:
        site.neutron.start_workers()
    both = {"nova-a", "nova-b"}
    site.wait(lambda: site.neutron.agents().keys() == both, "Neutron to know both hosts", 40)
    yield site
    if site.lab.spawned("controller") is None:
        site.controller.start()
    if site.lab.spawned("workers") is None:
        site.neutron.start_workers()
    site.clear()
    site.wait_told(40)
