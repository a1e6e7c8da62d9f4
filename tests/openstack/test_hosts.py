"""Hosts come, and die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.lab import wait_until
from ebbtide.lab.cloud import whole
from tests.openstack.cloud import LONG, MARKS, Cloud, Tenant
from tests.openstack.leaving import new_number

pytestmark = MARKS


def join(cloud: Cloud) -> str:
    """A host more; its name."""
    name = f"c{new_number(cloud)}"
    whole.add_host(cloud.lab, name)
    wait_until(lambda: name in cloud.agents(), "Neutron to know the new host", 15, every=0.2)
    return name


@contextmanager
def dead(cloud: Cloud, name: str) -> Iterator[None]:
    """A host has died, as Nova is told by who has seen to it; then it comes back."""
    compute = cloud.sdk.compute
    cloud.lab.compute(name).kill_all()
    cloud.services.stop(f"compute-{name}")
    compute.update_service_forced_down(cloud.service_of(name), forced=True)
    try:
        yield
    finally:
        cloud.lab.compute(name).start_all()
        cloud.services.start(f"compute-{name}")
        compute.update_service_forced_down(cloud.service_of(name), forced=False)
        wait_until(lambda: cloud.service_of(name).state == "up", "the host to be back", LONG, every=0.5)


def test_a_host_joins_a_running_cloud_and_serves_at_once(cloud: Cloud, tenant: Tenant) -> None:
    (first,) = tenant.boot("c1")
    name = join(cloud)
    (there,) = tenant.boot(name)
    assert there.asked == 1
    assert there.ping(first.ip, count=3).lost == 0
    assert there.ping(cloud.outside.ip, count=3).lost == 0
    assert first.migrate(name).status == "completed"
    assert there.ping(first.ip, count=3).lost == 0


def test_servers_of_a_host_that_died_start_elsewhere(cloud: Cloud, tenant: Tenant) -> None:
    name = join(cloud)
    first, lost = tenant.boot("c1", name)
    with dead(cloud, name):
        cloud.sdk.compute.evacuate_server(lost.id)
        wait_until(lambda: not lost.shown.task_state, "Nova to be done with it", LONG, every=0.3)
        assert lost.shown.status == "ACTIVE", "it was plugged, and Nova was not told"
        assert lost.plugged == (lost.host,)
        assert first.reaches(lost.ip)
    assert lost.plugged == (lost.host,), "what a host finds of others it leaves alone"
    assert first.reaches(lost.ip)
