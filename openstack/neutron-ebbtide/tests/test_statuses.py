"""On real switches: a port is active once it is served where Neutron has bound it, and hosts come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from deployment import LEASE, NOVA, SOON, Deployment
from vanishing import Vanishing

pytestmark = pytest.mark.lab


@pytest.fixture
def nova(running: Deployment) -> Iterator[list[dict[str, Any]]]:
    """What Neutron tells Nova: a list that grows."""
    told: list[dict[str, Any]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"]
            told.extend(found)
            answer = json.dumps({"events": [{**each, "code": 200} for each in found]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Not a word."""

    server = HTTPServer(("127.0.0.1", 0), Ear, bind_and_activate=False)
    server.socket.close()
    server.socket = running.lab.listen("127.0.0.1", NOVA)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


def test_active_once_it_is_served_and_down_without_its_vm(running: Deployment) -> None:
    network, _ = running.network(cidr="10.3.0.0/24")
    ports = [running.port(network, host) for host in ("nova-a", "nova-b")]
    for port in ports:
        assert (port["binding:vif_type"], port["status"]) == ("ovs", "DOWN")
        assert port["binding:vif_details"]["port_filter"] is True
        assert port["binding:vif_details"]["ovs_hybrid_plug"] is False
    running.wait_told()
    assert {running.controller.status(port["id"]) for port in ports} == {"DOWN"}
    vms = [running.plug(port, compute) for port, compute in zip(ports, "ab", strict=True)]
    for port in ports:
        running.wait_status(port["id"], "ACTIVE")
    assert running.lab.vm(vms[0]).reaches(ports[1]["fixed_ips"][0]["ip_address"])

    # A router's place is active without any VM.
    router = running.neutron.make_one("routers", name="r")["id"]
    subnet = ports[0]["fixed_ips"][0]["subnet_id"]
    place = running.neutron.ask("PUT", f"routers/{router}/add_router_interface", {"subnet_id": subnet})["port_id"]
    running.wait_status(place, "ACTIVE")

    # While nobody hears, one goes and another comes.
    running.neutron.kill()
    running.lab.remove_vm(vms[0])
    late = running.port(network, "nova-a")
    running.neutron.start_workers()
    running.wait_status(ports[0]["id"], "DOWN")
    vms[0] = running.plug(late, "a")
    running.wait_status(late["id"], "ACTIVE")

    # The controller starts anew: nothing goes down for that.
    running.controller.kill()
    running.controller.start()
    running.wait(lambda: running.controller.status(late["id"]) == "ACTIVE", "the controller to see it again")
    assert {running.neutron.one("ports", port["id"])["status"] for port in (ports[1], late)} == {"ACTIVE"}
    for vm in vms:
        running.lab.remove_vm(vm)
    running.wait_status(late["id"], "DOWN")


def test_a_host_that_vanishes_in_the_middle_of_what_it_tells_neutron_holds_up_nobody_for_long(
    running: Deployment,
) -> None:
    neutron = running.neutron
    network, _ = running.network(cidr="10.8.0.0/24")
    ports = [running.port(network, "nova-a") for _ in range(2)]
    running.wait_told()
    neutron.stop()
    with Vanishing(neutron.database.socket, running.lab.site.run_directory / "far-sql") as far:
        try:
            neutron.start_far(far.path)
            neutron.start_workers()
            far.arm("UPDATE ports SET status")
            vms = [running.plug(ports[0], "a")]
            assert far.gone.wait(SOON)
            beats = {host: agent["heartbeat_timestamp"] for host, agent in neutron.agents().items()}
            vms += [running.plug(ports[1], "a")]
            # It takes a lease's time until another sends, and as long until the database gives up what was begun.
            for port in ports:
                running.wait_status(port["id"], "ACTIVE", 4 * LEASE)
            running.wait(
                lambda: all(agent["heartbeat_timestamp"] > beats[host] for host, agent in neutron.agents().items()),
                "all hosts to live",
                4 * LEASE,
            )
        finally:
            neutron.kill("far")
    for vm in vms:
        running.lab.remove_vm(vm)


def test_a_live_migration(running: Deployment, nova: list[dict[str, Any]]) -> None:
    neutron = running.neutron
    network, _ = running.network(cidr="10.4.0.0/24")
    port = running.port(network, "nova-a")
    name = port["id"]

    def told() -> list[str]:
        return [each["name"] for each in nova if each["tag"] == name and each["name"].startswith("network-vif")]

    vm = running.plug(port, "a")
    running.wait_status(name, "ACTIVE")
    running.wait(lambda: told() == ["network-vif-plugged"], "Nova to be told that it runs")
    nova.clear()

    # As Nova does it: a binding at the destination, then a word at the source about where it goes.
    neutron.ask("POST", f"ports/{name}/bindings", {"binding": {"host": "nova-b", "project_id": "p1"}})
    moving = neutron.change("ports", name, **{"binding:profile": {"migrating_to": "nova-b"}})
    assert (moving["binding:host_id"], moving["binding:vif_type"]) == ("nova-a", "ovs")
    running.wait_status(name, "ACTIVE")
    assert "network-vif-plugged" not in told(), "it is not served at its destination yet"
    migration = running.lab.migration(vm, "b")
    migration.begin()
    running.wait(lambda: told().count("network-vif-plugged") == 1, "Nova to be told of the destination")
    nova.clear()
    migration.switch()
    neutron.ask("PUT", f"ports/{name}/bindings/nova-b/activate")
    migration.finish()
    running.wait_status(name, "ACTIVE")
    moved = neutron.one("ports", name)
    assert (moved["binding:host_id"], moved["binding:vif_type"]) == ("nova-b", "ovs")
    running.lab.remove_vm(vm)
    running.wait_status(name, "DOWN")


def test_a_live_migration_that_fails_and_is_tried_again(running: Deployment, nova: list[dict[str, Any]]) -> None:
    neutron = running.neutron
    network, _ = running.network(cidr="10.7.0.0/24")
    port = running.port(network, "nova-a")
    name = port["id"]
    vm = running.plug(port, "a")
    running.wait_status(name, "ACTIVE")
    # A failed migration's binding goes a moment later than its machine at the destination does.
    neutron.ask("POST", f"ports/{name}/bindings", {"binding": {"host": "nova-b", "project_id": "p1"}})
    neutron.change("ports", name, **{"binding:profile": {"migrating_to": "nova-b"}})
    for _ in range(2):
        nova.clear()
        migration = running.lab.migration(vm, "b")
        migration.begin()
        running.wait(
            lambda: any(e["name"] == "network-vif-plugged" for e in nova), "Nova to be told of the destination"
        )
        migration.fail()
        running.wait(lambda: running.controller.hosts(name) == ["nova-a"], "the controller to see that it has left")
        running.wait_status(name, "ACTIVE")
    running.lab.remove_vm(vm)


def test_a_status_that_is_wrong_is_mended_though_nobody_says_a_word(running: Deployment) -> None:
    """What was told of a port may have been missed."""
    neutron = running.neutron
    network, _ = running.network(cidr="10.8.0.0/24")
    port = running.port(network, "nova-a")
    running.wait_told()
    neutron.database.ask(f"UPDATE neutron.ports SET status = 'ACTIVE' WHERE id = '{port['id']}'")
    running.wait_status(port["id"], "DOWN")


def test_a_host_with_more_to_say_than_neutron_keeps_is_one_all_the_same(running: Deployment) -> None:
    many = ",".join(f"a-physical-network-{number}:br-{number}" for number in range(200))
    running.add_compute("d", many)
    running.wait(lambda: "nova-d" in running.neutron.agents(), "a host with many networks", 40)
    assert running.neutron.agents()["nova-d"]["configurations"]["bridge_mappings"] == {}
    running.controller.scale_in("start", "d")
    running.controller.scale_in("end", "d")
    running.wait(lambda: "nova-d" not in running.neutron.agents(), "its agent to be gone")
    running.lab.remove_compute("d")


def test_a_host_that_leaves(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, _ = running.network(cidr="10.5.0.0/24")
    stays = running.port(network, "nova-b")
    vm = running.plug(stays, "b")
    running.wait_status(stays["id"], "ACTIVE")
    controller.scale_in("start", "b")
    running.wait(lambda: not neutron.agents()["nova-b"]["configurations"]["bindable"], "Neutron to know")
    assert running.port(network, "nova-b")["binding:vif_type"] == "binding_failed"
    assert running.port(network, "nova-a")["binding:vif_type"] == "ovs"
    # What is there is bound there still, and may be bound anew as it leaves.
    leaving = neutron.change("ports", stays["id"], **{"binding:profile": {"migrating_to": "nova-a"}})
    assert leaving["binding:vif_type"] == "ovs"
    running.wait_status(stays["id"], "ACTIVE")
    controller.scale_in("recover", "b")
    running.wait(lambda: neutron.agents()["nova-b"]["configurations"]["bindable"], "Neutron to know that it stays")
    assert running.port(network, "nova-b")["binding:vif_type"] == "ovs"

    running.lab.remove_vm(vm)
    running.add_compute("c")
    running.wait(lambda: "nova-c" in neutron.agents(), "a third host", 40)
    controller.scale_in("start", "c")
    controller.scale_in("end", "c")
    running.wait(lambda: "nova-c" not in neutron.agents(), "its agent to be gone")
    assert neutron.agents().keys() == {"nova-a", "nova-b"}
    running.lab.remove_compute("c")


def test_a_controller_that_is_away_hinders_no_binding(running: Deployment) -> None:
    network, _ = running.network(cidr="10.6.0.0/24")
    running.controller.kill()
    port = running.port(network, "nova-a")
    assert (port["binding:vif_type"], port["status"]) == ("ovs", "DOWN")
