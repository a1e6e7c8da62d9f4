"""One cloud for all stories: three hosts and a network outside. Stories name what they make, and take it away again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from ebbtide.errors import NotReady
from ebbtide.lab import Lab
from ebbtide.lab.cloud import whole
from ebbtide.lab.cloud.files import environment
from tests.openstack.cloud import Cloud, Tenant
from tests.openstack.leaving import Leaving
from tests.project.documents import ROOT

#: The directory of a lab that `make openstack-lab` has made: stories are told there, and it stays up.
THERE = os.environ.get("EBBTIDE_OPENSTACK_LAB", "")
KEPT = ROOT / "build" / "openstack-logs"


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """Brought up once, in minutes. What its services have logged is kept in build/openstack-logs if a story has failed."""
    if THERE:
        yield Cloud(Lab.found_in(THERE))
        return
    try:
        environment()
    except NotReady as error:
        pytest.skip(f"{error}")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    lab = Lab(f"os{os.getpid()}", tmp_path_factory.mktemp("openstack") / "lab")
    try:
        took = whole.make(lab, 3)
        print("up:", took)
        yield Cloud(lab)
    finally:
        if request.session.testsfailed:
            _keep_logs(lab)
        lab.down()


def _keep_logs(lab: Lab) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    for log in lab.site.run_directory.glob("*.log"):
        shutil.copy(log, KEPT)


@pytest.fixture
def tenant(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """A network of its own behind a router, and a group that lets ICMP and TCP in; all of it is gone afterwards."""
    with cloud.tenant(request.node.name[:40]) as made:
        yield made


@pytest.fixture
def leaving(cloud: Cloud) -> Leaving:
    """Drains of it."""
    return Leaving(cloud)
