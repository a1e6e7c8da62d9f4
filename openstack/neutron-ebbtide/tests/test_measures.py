"""How long it takes to tell a controller everything: one that has lost all of it."""

from __future__ import annotations

import time

import pytest
from deployment import Controller, Deployment

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
ROWS = 10_000
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
        neutron.start_workers("filling", url=empty.url)
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
