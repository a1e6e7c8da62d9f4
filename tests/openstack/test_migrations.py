"""Servers move while others talk to them, and every packet is counted."""

from __future__ import annotations

from collections.abc import Sequence

from ebbtide.lab import wait_until
from ebbtide.lab.probes import Probes, Report, pairs_among
from tests.openstack.cloud import MARKS, Cloud, Server, Tenant
from tests.support.outside import Answers, asked, speaking

pytestmark = MARKS
#: Probes a second, for each pair.
RATE = 50.0


def assert_whole(report: Report) -> None:
    """Nothing was lost, and enough was sent to say so."""
    print(report.table())
    assert not report.failures(), report.table()
    assert not report.too_few(RATE * 0.9)


def bindings(server: Server) -> dict[str, str]:
    """Hosts on which its port is bound, and how."""
    return {each.host: each.status for each in server.cloud.sdk.network.port_bindings(server.port)}


def probing(cloud: Cloud, ends: Sequence[Server]) -> Probes:
    """Every server sends to every other, and to the host outside."""
    probes = Probes(cloud.lab)
    probes.start([*pairs_among(ends), *((end, cloud.outside) for end in ends)], rate=RATE)
    return probes


def test_a_live_migration_loses_nothing(cloud: Cloud, tenant: Tenant) -> None:
    servers = tenant.boot("c1", "c2", "c3")
    moved = servers[0]
    with Answers() as answers, probing(cloud, servers) as probes:
        answers.serve(cloud.outside)
        probes.wait_flowing()
        with speaking(moved, cloud.outside.ip) as wire:
            seen_as = asked(wire)
            probes.mark_phase("to c2")
            migration = moved.migrate("c2")
            assert migration.status == "completed", migration
            assert (moved.host, moved.plugged, bindings(moved)) == ("c2", ("c2",), {"c2": "ACTIVE"})
            assert cloud.sdk.network.get_port(moved.port).status == "ACTIVE"
            probes.mark_phase("to wherever Nova likes")
            assert moved.migrate().status == "completed"
            assert moved.host != "c2"
            assert asked(wire) == seen_as, "its connection goes on"
        report = probes.stop()
    assert_whole(report)


def test_a_migration_that_fails_leaves_a_server_where_it_was(cloud: Cloud, tenant: Tenant) -> None:
    servers = tenant.boot("c1", "c2")
    stays = servers[0]
    with probing(cloud, servers) as probes:
        probes.wait_flowing()
        probes.mark_phase("failure")
        with cloud.failing(stays):
            migration = stays.migrate("c2")
        assert migration.status in ("failed", "error")
        stays.wait("ACTIVE")
        as_it_was = ("c1",), {"c1": "ACTIVE"}
        wait_until(lambda: (stays.plugged, bindings(stays)) == as_it_was, "the destination to be as it was", 10)
        assert stays.host == "c1"
        probes.mark_phase("again")
        assert stays.migrate("c2").status == "completed"
        assert stays.host == "c2"
        report = probes.stop()
    assert_whole(report)


def test_a_nova_compute_that_starts_anew_finds_its_servers(cloud: Cloud, tenant: Tenant) -> None:
    servers = tenant.boot("c1", "c2")
    with probing(cloud, servers) as probes:
        probes.wait_flowing()
        cloud.services.restart("compute-c1")
        assert servers[0].migrate("c3").status == "completed"
        report = probes.stop()
    assert_whole(report)


def test_a_stopped_server_moves_without_a_guest(cloud: Cloud, tenant: Tenant) -> None:
    stopped, other = tenant.boot("c1", "c2")
    cloud.sdk.compute.stop_server(stopped.id)
    stopped.wait("SHUTOFF")
    cloud.sdk.compute.migrate_server(stopped.id, host="c3")
    stopped.wait("VERIFY_RESIZE")
    cloud.sdk.compute.confirm_server_resize(stopped.id)
    stopped.wait("SHUTOFF")
    assert (stopped.host, stopped.plugged) == ("c3", ())
    cloud.sdk.compute.start_server(stopped.id)
    stopped.wait("ACTIVE")
    assert stopped.plugged == ("c3",)
    assert other.reaches(stopped.ip)


def test_a_server_that_is_moved_cold_comes_back_if_that_is_not_confirmed(cloud: Cloud, tenant: Tenant) -> None:
    moved, other = tenant.boot("c1", "c2")
    cloud.sdk.compute.migrate_server(moved.id, host="c3")
    moved.wait("VERIFY_RESIZE")
    assert (moved.host, moved.plugged) == ("c3", ("c3",))
    assert other.reaches(moved.ip)
    cloud.sdk.compute.revert_server_resize(moved.id)
    moved.wait("ACTIVE")
    assert (moved.host, moved.plugged, bindings(moved)) == ("c1", ("c1",), {"c1": "ACTIVE"})
    assert other.reaches(moved.ip)
