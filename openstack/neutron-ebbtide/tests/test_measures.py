"""Many ports: what waits for a controller that has lost everything, and what is made while it is killed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from deployment import Controller, Deployment

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
ROWS, PORTS = 10_000, 500
#: Rows in a second, at least; it is some hundreds on two cores that nobody else uses.
SLOW = 60.0


def test_ten_thousand_rows(running: Deployment) -> None:
    neutron = running.neutron
    network, _ = running.network()
    running.wait_told()
    neutron.stop()
    empty = Controller(running.lab, "empty", offset=10)
    empty.start()
    neutron.fill(network, ROWS)
    try:
        neutron.start_workers("filling", **empty.options)
        running.wait(lambda: neutron.waiting() < ROWS, "the first rows to be sent", 90)
        started = time.monotonic()
        running.wait(lambda: neutron.waiting() == 0, "the journal to be empty", ROWS / SLOW)
        took = time.monotonic() - started
        assert network in empty.told("networks"), "what it lacked was found by itself"
        print(f"{ROWS} rows in {took:.1f} s, {ROWS / took:.0f} in each")  # noqa: T201 - for who reads the run
        assert len(empty.told("ports")) == ROWS
        assert neutron.agents().keys() == {"nova-a", "nova-b"}, "a controller without hosts has removed none"
    finally:
        neutron.kill("filling")
        empty.kill()
        neutron.database.ask(
            "USE neutron",
            "DELETE a FROM standardattributes a JOIN ports p ON p.standard_attr_id = a.id",
            "DELETE FROM ebbtide_journal",
        )
        neutron.start_workers()


@pytest.mark.timeout(600)
def test_five_hundred_ports_are_active_and_answer_though_the_controller_is_killed_meanwhile(
    running: Deployment,
) -> None:
    neutron, controller, lab = running.neutron, running.controller, running.lab
    network, _ = running.network(cidr="10.20.0.0/22")
    began = time.monotonic()
    made: list[dict[str, object]] = []
    with ThreadPoolExecutor(1) as killer:
        for number in range(PORTS):
            made.append(running.port(network, f"nova-{'ab'[number % 2]}"))
            if number == PORTS // 2:
                restarted = killer.submit(lambda: (controller.kill(), controller.start()))
    restarted.result()
    took = time.monotonic() - began
    running.wait_told(60)
    vms = [running.plug(port, "ab"[number % 2], prefix=22) for number, port in enumerate(made)]
    ids = {str(port["id"]) for port in made}

    def active() -> bool:
        return {each["status"] for name, each in neutron.all("ports").items() if name in ids} == {"ACTIVE"}

    running.wait(active, "all of them to be active", 60)
    anchor = lab.vm(vms[0])
    silent = [name for name in vms[1:] if not anchor.ping(lab.vm(name).ip).received]
    print(f"{PORTS} ports made in {took:.0f} s ({PORTS / took:.1f} a second); {len(silent)} do not answer")  # noqa: T201
    assert silent == []
    for name in vms:
        lab.remove_vm(name)
