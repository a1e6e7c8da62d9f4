"""Nova waits for Neutron, Neutron for the controller, and the controller for the switches: and without that, it is seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.lab import wait_until
from tests.openstack.cloud import LONG, MARKS, Cloud, Server, Tenant

pytestmark = MARKS


@contextmanager
def silent(cloud: Cloud) -> Iterator[None]:
    """Neutron binds ports, says nothing of them to the controller, and hears nothing of them."""
    cloud.services.stop("neutron-workers")
    try:
        yield
    finally:
        cloud.services.start("neutron-workers")


def test_a_server_starts_when_all_is_ready_for_it(cloud: Cloud, tenant: Tenant) -> None:
    (first,) = tenant.boot("c1")
    for number in range(3):
        (server,) = tenant.boot(f"c{number % 3 + 1}")
        assert server.asked == 1, "the first that a guest asks is answered"
        assert first.ping(server.ip, count=5, interval=0.02).lost == 0, "and so is the first that others ask it"


def test_a_server_that_starts_too_early_is_found_out(cloud: Cloud, tenant: Tenant) -> None:
    """The control of the story above: who says that a port is active before it is served."""
    with silent(cloud):
        asked = tenant.ask(f"{tenant.name}-early", "c1")

        def lied() -> bool:
            (port,) = list(cloud.sdk.network.ports(device_id=asked.id)) or [None]
            if port is not None:
                event = {"name": "network-vif-plugged", "server_uuid": asked.id, "tag": port.id, "status": "completed"}
                cloud.sdk.compute.post("/os-server-external-events", json={"events": [event]})
            return bool(cloud.sdk.compute.get_server(asked.id).status == "ACTIVE")

        wait_until(lied, "Nova to believe that its port is active", LONG, every=0.5)
        server = Server(cloud, asked.id, asked.name)
        wait_until(lambda: server.asked > 1, "its guest to ask in vain", 10)
        assert server.addresses() == []
    server.wait_address(30)


def test_a_boot_fails_whose_port_never_becomes_active(cloud: Cloud, tenant: Tenant) -> None:
    with silent(cloud):
        asked = tenant.ask(f"{tenant.name}-never", "c1")
        wait_until(
            lambda: cloud.sdk.compute.get_server(asked.id).status == "ERROR", "the boot to fail", LONG, every=0.5
        )
        assert "Failed to allocate the network(s)" in cloud.sdk.compute.get_server(asked.id).fault["message"]
        assert asked.id not in cloud.lab.site.read().vms
    tenant.delete([asked])


def test_a_migration_fails_whose_destination_never_becomes_active(cloud: Cloud, tenant: Tenant) -> None:
    stays, other = tenant.boot("c1", "c2")
    with silent(cloud):
        migration = stays.migrate("c2")
        assert migration.status in ("failed", "error")
        stays.wait("ACTIVE")
        wait_until(lambda: stays.plugged == ("c1",), "the destination to be as it was", 10)
        assert stays.host == "c1"
        assert other.reaches(stays.ip)
    assert stays.migrate("c2").status == "completed"
    assert other.reaches(stays.ip)
