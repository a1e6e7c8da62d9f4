"""Hosts leave a cloud while its servers talk, and every packet is counted."""

from __future__ import annotations

import re
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import pytest

from ebbtide.lab import processes, wait_until
from ebbtide.lab.cloud import whole
from ebbtide.lab.probes import Probes, pairs_among
from tests.openstack.cloud import LONG, MARKS, Cloud, Tenant
from tests.openstack.leaving import Leaving, add_hosts, give_back, moving, new_number, wait_matched
from tests.openstack.test_migrations import RATE, assert_whole
from tests.support.outside import Answers, asked, speaking

#: Seconds in which a host that is down would have been removed.
PATIENT = 45.0
pytestmark = [*MARKS[:1], *MARKS[2:], pytest.mark.timeout(420)]


def is_off(cloud: Cloud, host: str) -> tuple[bool, str]:
    found = cloud.service_of(host)
    return found.status == "disabled", found.disabled_reason or ""


def test_three_hosts_leave_and_one_that_cannot_be_emptied_stays(cloud: Cloud, tenant: Tenant, leaving: Leaving) -> None:
    names = add_hosts(cloud, 3)
    servers = tenant.boot("c1", *names, names[0])
    stuck = servers[3]
    floating = tenant.floating(servers[1])
    with moving(cloud, "--remove-hosts"), Answers() as answers, Probes(cloud.lab) as probes:
        wait_matched(leaving, *names)
        assert [(h["compute"], h["host"]) for h in leaving.plan(*names)["hosts"]] == [(n, n) for n in names]
        answers.serve(cloud.outside)
        probes.start([*pairs_among(servers), *((each, cloud.outside) for each in servers)], rate=RATE)
        probes.wait_flowing()
        with speaking(servers[1], cloud.outside.ip) as wire, speaking(servers[2], cloud.outside.ip) as other:
            seen = asked(wire), asked(other)
            assert seen[0][1] == floating.floating_ip_address
            probes.mark_phase("drain")
            with cloud.failing(stuck):
                operation = leaving.begin(*names)
                wait_until(lambda: all(is_off(cloud, n)[0] for n in names), "Nova to send nothing there", 30)
                assert {is_off(cloud, n)[1] for n in names} == {f"ebbtide drain {operation} of {n}" for n in names}
                found = leaving.wait_over(operation)
            assert (asked(wire), asked(other)) == seen, "their connections go on"
        wait_until(lambda: not is_off(cloud, names[2])[0], "the third to be given back", 15)
        report = probes.stop()
    assert_whole(report)
    assert found["state"] == "partial"
    states = {i["object"]: i["state"] for i in found["items"] if i["kind"] == "compute"}
    assert states == {names[0]: "done", names[1]: "done", names[2]: "failed"}
    assert stuck.id in leaving.item(operation, names[2])["reason"]
    assert stuck.host == names[2]
    assert all(server.host in ("c1", "c2", "c3", names[2]) for server in servers)
    assert {n: is_off(cloud, n)[0] for n in names[:2]} == dict.fromkeys(names[:2], True)

    # What is gone is removed once its nova-compute is down; the third goes when its server can, and is kept until its drain says else.
    wait_until(lambda: not set(names[:2]) & cloud.agents().keys(), "their agents to go", 30, every=0.5)
    with moving(cloud, "--remove-hosts"):
        wait_matched(leaving, names[2])
        operation = leaving.begin(names[2], **{"mover-options": ["remove-hosts=no"]})
        assert leaving.wait_over(operation)["state"] == "done"
        give_back(cloud, names)
        compute = cloud.sdk.compute

        def known() -> dict[str, str]:
            return {s.host: s.state for s in compute.services(binary="nova-compute") if s.host in names}

        wait_until(lambda: known() == {names[2]: "down"}, "Nova to know the third alone", LONG, every=1)
        since = time.monotonic()
        wait_until(lambda: not known() or time.monotonic() > since + PATIENT, "nothing to happen", LONG, every=1)
        assert known(), "its drain has said that it is kept"
        leaving.set(operation, "remove-hosts=yes")
        wait_until(lambda: not known(), "Nova to know none of them", LONG, every=1)
    assert not {p.name for p in cloud.sdk.placement.resource_providers()} & set(names)
    assert leaving.ask("POST", "/api/v1/audit", {})["clean"]
    assert all(server.reaches(servers[0].ip) for server in servers[1:])


def test_an_aborted_drain_gives_hosts_back_but_for_who_was_off_before(
    cloud: Cloud, tenant: Tenant, leaving: Leaving
) -> None:
    names = add_hosts(cloud, 2)
    servers = tenant.boot(names[0], names[1])
    compute = cloud.sdk.compute
    compute.disable_service(cloud.service_of(names[1]), disabled_reason="a broken fan")
    with moving(cloud), cloud.failing(*servers):
        wait_matched(leaving, *names)
        operation = leaving.begin(*names)
        wait_until(lambda: is_off(cloud, names[0])[0], "Nova to send nothing there", 30)
        leaving.ask("POST", f"/api/v1/operations/{operation}/abort", {})
        assert leaving.wait_over(operation)["state"] == "aborted"
        wait_until(lambda: not is_off(cloud, names[0])[0], "it to be given back", 15)
        assert is_off(cloud, names[1]) == (True, "a broken fan")
        for server in servers:
            server.wait("ACTIVE")
    with moving(cloud):
        wait_matched(leaving, *names)
        assert leaving.wait_over(leaving.begin(*names))["state"] == "done"
    assert is_off(cloud, names[1]) == (True, "a broken fan")
    give_back(cloud, names)


def test_a_mover_that_is_killed_goes_on_with_what_it_had_begun(cloud: Cloud, tenant: Tenant, leaving: Leaving) -> None:
    (name,) = add_hosts(cloud, 1)
    servers = tenant.boot("c1", name, name, name)
    with moving(cloud) as anew, Probes(cloud.lab) as probes:
        wait_matched(leaving, name)
        probes.start(pairs_among(servers), rate=RATE)
        probes.wait_flowing()
        operation = leaving.begin(name)
        wait_until(lambda: any(s.shown.task_state for s in servers[1:]), "a migration to begin", 60, every=0.3)
        anew()
        found = leaving.wait_over(operation)
        report = probes.stop()
    assert_whole(report)
    assert found["state"] == "done"
    assert all(server.host != name for server in servers)
    for server in servers[1:]:
        moves = [m for m in server.migrations() if m.source_compute == name]
        assert [m.status for m in moves] == ["completed"], "none was begun twice"
    give_back(cloud, [name])


def test_what_nova_says_of_a_server_that_goes_nowhere_is_said(cloud: Cloud, tenant: Tenant, leaving: Leaving) -> None:
    (name,) = add_hosts(cloud, 1)
    (server,) = tenant.boot(name)
    compute = cloud.sdk.compute
    others = [s for s in compute.services(binary="nova-compute") if s.host != name and s.status == "enabled"]
    for other in others:
        compute.disable_service(other.id, disabled_reason="no room")
    try:
        with moving(cloud):
            wait_matched(leaving, name)
            found = leaving.wait_over(leaving.begin(name))
            wait_until(lambda: not is_off(cloud, name)[0], "it to be given back", 15)
    finally:
        for other in others:
            compute.enable_service(other.id)
    assert found["state"] == "failed"
    (vm,) = [item for item in found["items"] if item["kind"] == "vm"]
    assert (vm["object"], vm["state"]) == (server.port, "failed")
    assert server.id in vm["reason"]
    assert "No valid host was found" in vm["reason"]
    assert server.host == name
    with moving(cloud):
        assert leaving.wait_over(leaving.begin(name))["state"] == "done"
    give_back(cloud, [name])


def test_a_host_is_not_empty_while_placement_counts_something_there(cloud: Cloud, leaving: Leaving) -> None:
    (name,) = add_hosts(cloud, 1)
    (provider,) = cloud.sdk.placement.resource_providers(name=name)
    somebody = f"/allocations/{uuid.uuid4()}"

    def counts(something: bool) -> None:
        said = {
            "allocations": {provider.id: {"resources": {"VCPU": 1}}} if something else {},
            "project_id": "p1",
            "user_id": "u1",
            "consumer_generation": None if something else generation(),
            "consumer_type": "INSTANCE",
        }
        answer = cloud.sdk.placement.put(somebody, json=said, microversion="1.38")
        assert answer.status_code == 204, answer.text

    def generation() -> int:
        found = cloud.sdk.placement.get(somebody, microversion="1.38").json()
        return int(found["consumer_generation"])

    with moving(cloud):
        wait_matched(leaving, name)
        counts(True)
        operation = leaving.begin(name, **{"mover-options": ["remove-hosts=yes"]})
        leaving.wait_said(operation, name, "Placement still counts")
        counts(False)
        assert leaving.wait_over(operation)["state"] == "done"

        # Nor is it forgotten.
        counts(True)
        log = cloud.lab.site.run_directory / "mover.log"
        before = log.stat().st_size
        give_back(cloud, [name])
        kept = f"host {name} is not removed"
        wait_until(lambda: kept in log.read_text()[before:], "it to be kept", LONG, every=0.5)
        assert name in {s.host for s in cloud.sdk.compute.services(binary="nova-compute")}
        counts(False)
        wait_until(
            lambda: name not in {s.host for s in cloud.sdk.compute.services(binary="nova-compute")},
            "it to be forgotten",
            LONG,
            every=1,
        )


def test_a_host_that_hangs_keeps_no_other_one(cloud: Cloud, leaving: Leaving) -> None:
    names = add_hosts(cloud, 2)
    pid = cloud.lab.spawned(f"cloud-compute-{names[1]}")
    assert pid is not None
    with moving(cloud):
        wait_matched(leaving, *names)
        processes.send_signal(pid, signal.SIGSTOP)
        try:
            # Nova itself waits for a minute for whoever does not answer it.
            assert leaving.wait_over(leaving.begin(names[0]), 45)["state"] == "done"
        finally:
            processes.send_signal(pid, signal.SIGCONT)
        assert leaving.wait_over(leaving.begin(names[1]))["state"] == "done"
    give_back(cloud, names)


def test_no_more_servers_move_at_a_time_than_is_asked_for(cloud: Cloud, tenant: Tenant, leaving: Leaving) -> None:
    (name,) = add_hosts(cloud, 1)
    tenant.boot(name, name, name)
    most = 0
    with moving(cloud):
        wait_matched(leaving, name)
        operation = leaving.begin(name, **{"at-once": 1})

        def is_over() -> bool:
            nonlocal most
            most = max(most, sum(s.task_state == "migrating" for s in cloud.sdk.compute.servers()))
            return bool(leaving.told(operation)["state"] != "running")

        wait_until(is_over, "it to end", LONG, every=0.2)
    assert leaving.told(operation)["state"] == "done"
    assert most == 1
    give_back(cloud, [name])


def test_a_stopped_server_keeps_its_host_until_the_drain_may_move_it(
    cloud: Cloud, tenant: Tenant, leaving: Leaving
) -> None:
    (name,) = add_hosts(cloud, 1)
    other, stopped, running = tenant.boot("c1", name, name)
    cloud.sdk.compute.stop_server(stopped.id)
    stopped.wait("SHUTOFF")
    with moving(cloud):
        wait_matched(leaving, name)
        operation = leaving.begin(name, **{"mover-options": ["block-migration=yes"]})
        leaving.wait_said(operation, name, "is stopped, and this drain moves no stopped ones")
        wait_until(lambda: running.host != name, "the other one to go", 60, every=0.5)
        told = (cloud.lab.site.run_directory / f"cloud-compute-{name}.log").read_text()
        assert re.search(f"live migration of {running.id} to .*, block migration True", told), "as was asked"
        leaving.set(operation, "cold=yes")
        assert leaving.wait_over(operation)["state"] == "done"
    stopped.wait("SHUTOFF")
    assert stopped.host != name
    cloud.sdk.compute.start_server(stopped.id)
    stopped.wait("ACTIVE")
    assert other.reaches(stopped.ip)
    give_back(cloud, [name])


def test_what_is_not_novas_is_named_with_its_owner(cloud: Cloud, tenant: Tenant, leaving: Leaving) -> None:
    (name,) = add_hosts(cloud, 1)
    network = cloud.sdk.network
    port = network.create_port(
        network_id=tenant.network.id, device_owner="network:lbaas", device_id="balancer-1", binding_host_id=name
    )
    address = port.fixed_ips[0]["ip_address"]
    lab_vm = cloud.lab.add_vm("balancer", name, port.mac_address, f"{address}/24", port.id)
    wait_until(lambda: network.get_port(port.id).status == "ACTIVE", "it to be served", 30, every=0.3)
    with moving(cloud):
        wait_matched(leaving, name)
        operation = leaving.begin(name)

        def named() -> bool:
            items = leaving.told(operation)["items"]
            return any(i["kind"] == "vm" and "network:lbaas's (balancer-1)" in i["reason"] for i in items)

        wait_until(named, "its owner to be named", 60, every=0.5)
        cloud.lab.remove_vm(lab_vm.name)
        network.delete_port(port.id)
        found = leaving.wait_over(operation)
    assert found["state"] in ("done", "failed"), found
    give_back(cloud, [name])


def test_a_compute_that_is_no_host_of_novas_is_not_drained_by_nova(cloud: Cloud, leaving: Leaving) -> None:
    name = f"c{new_number(cloud)}"
    whole.add_computes(cloud.lab, [name])
    with moving(cloud):
        wait_matched(leaving, name)
        (problem,) = [p for p in leaving.plan(name)["problems"] if p["code"] == "host"]
        assert f"no nova-compute is called {name}" in problem["text"]
    found = leaving.begin(name, vms="none")
    assert leaving.wait_over(found)["state"] == "done"
    cloud.lab.remove_compute(name)


@contextmanager
def translating(cloud: Cloud, leaving: Leaving, host: str) -> Iterator[socket.socket]:
    """A connection to the outside that this host translates."""
    with ExitStack() as made, Answers() as answers:
        answers.serve(cloud.outside)
        for number in range(10):
            tenant = made.enter_context(cloud.tenant(f"outward-{number}"))
            if leaving.designated("nat", tenant.router.id) == host:
                (guest,) = tenant.boot("c1")
                yield made.enter_context(speaking(guest, cloud.outside.ip))
                return
        raise AssertionError(f"none of ten routers is on {host}")


class Ten:
    """Ten servers that are together on a host, and away from there."""

    def __init__(self, cloud: Cloud, tenant: Tenant, leaving: Leaving) -> None:
        self.cloud, self.leaving = cloud, leaving
        self.servers = tenant.boot(*["c1"] * 10)

    def _begin(self, host: str | None) -> None:
        for server in self.servers:
            self.cloud.sdk.compute.live_migrate_server(server.id, host=host, block_migration="auto")

    def _there(self, host: str) -> list[bool]:
        """Of each that Nova is not at: whether it is on that host."""
        ids = {each.id for each in self.servers}
        found = [s for s in self.cloud.sdk.compute.servers() if s.id in ids and not s.task_state]
        return [s.compute_host == host for s in found]

    def gather(self, host: str) -> None:
        """All of them go there."""
        self._begin(host)
        wait_until(lambda: self._there(host) == [True] * 10, f"ten servers to be on {host}", LONG, every=0.2)

    def disperse(self, host: str) -> float:
        """By the client alone: all of them begun at once, until Nova calls the last one moved. Seconds."""
        began = time.monotonic()
        self._begin(None)
        wait_until(lambda: self._there(host) == [False] * 10, f"ten servers to leave {host}", LONG, every=0.2)
        return time.monotonic() - began

    def drain(self, host: str) -> float:
        """The host is drained. Seconds."""
        wait_matched(self.leaving, host)
        began = time.monotonic()
        assert self.leaving.wait_over(self.leaving.begin(host))["state"] == "done"
        return time.monotonic() - began


def test_a_drain_of_ten_servers_takes_little_longer_than_their_migrations(
    cloud: Cloud, tenant: Tenant, leaving: Leaving
) -> None:
    """Without a designated duty, and with NAT, which leaves meanwhile."""
    ten = Ten(cloud, tenant, leaving)
    names = []
    with moving(cloud):
        for duty in ("none", "nat"):
            names += add_hosts(cloud, 1)
            host = names[-1]
            with translating(cloud, leaving, host) if duty == "nat" else nullcontext() as wire:
                seen = wire and asked(wire)
                ten.gather(host)
                by_client = ten.disperse(host)
                ten.gather(host)
                by_drain = ten.drain(host)
                print(f"duty {duty}: ten servers take {by_client:.1f} s by the client, {by_drain:.1f} s by a drain")
                assert by_drain <= 1.1 * by_client + 2.0
                assert (wire and asked(wire)) == seen, "the connection goes on"
    give_back(cloud, names)
