"""Whoever is away or killed: nothing is lost, and nothing that was deleted comes back."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from deployment import LEASE, SOON, Deployment, Refused
from vanishing import Vanishing

from ebbtide.errors import NotReady
from tests.support.certificates import certificate

pytestmark = pytest.mark.lab


def test_what_is_made_while_the_controller_is_away_arrives(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    controller.kill()
    network, _ = running.network()
    group = neutron.make_one("security-groups", name="web")["id"]
    one = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    rules = [{**one, "port_range_min": port, "port_range_max": port} for port in range(1, 191)]
    neutron.make_many("security-group-rules", rules)
    neutron.make_many("ports", [{"network_id": network}] * 6)
    gone = running.port(network)["id"]
    neutron.delete("ports", gone)
    passing, _ = running.network(cidr="10.2.0.0/24")
    neutron.delete("networks", passing)
    assert neutron.waiting() >= 200
    controller.start()
    running.wait_told()
    assert gone not in controller.told("ports")
    assert passing not in controller.told("networks")


def test_a_sender_that_is_killed_loses_nothing_and_brings_nothing_back(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, _ = running.network()
    old = [running.port(network)["id"] for _ in range(2)]
    running.wait_told()
    neutron.stop()
    neutron.fill(network, 500)
    for each in old:
        neutron.delete("ports", each)
    neutron.start_workers()
    # Kill it as soon as something of it has been taken.
    running.wait(lambda: len(controller.told("ports")) > 10, "the first to arrive")
    neutron.kill()
    neutron.start_workers()
    running.wait_told(30)
    assert len(controller.told("ports")) == 500
    assert not set(old) & controller.told("ports").keys()
    neutron.spill()


def test_of_two_workers_one_sends_and_the_other_takes_over(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, _ = running.network()
    running.wait_told()
    first = neutron.holder()
    neutron.start_workers("others")
    try:
        port = running.port(network)["id"]
        running.wait_told()
        assert neutron.holder() == first
        # It hangs in the middle of its work. The other takes over, and deletes what the first may be about to send.
        neutron.signal(signal.SIGSTOP)
        neutron.change("ports", port, name="late")
        running.wait(lambda: neutron.holder() not in (first, ""), "the other to take over", 3 * LEASE)
        running.wait_told()
        neutron.delete("ports", port)
        running.wait_told()
        neutron.signal(signal.SIGCONT)
        second = neutron.holder()
        other = running.port(network)["id"]
        running.wait_told()
        assert neutron.holder() == second
        told = controller.told("ports")
        assert port not in told
        assert other in told
        # One that ends lets go at once.
        neutron.stop("others")
        running.wait(lambda: neutron.holder() not in (second, ""), "the first to take over again", LEASE - 1)
    finally:
        neutron.signal(signal.SIGCONT)
        neutron.kill("others")
        if running.lab.spawned("workers") is None:
            neutron.start_workers()


#: In Neutron's environment: one loses its turn, as if it had hung, and another has had one before it looks again.
_TURNS = """
import sys
from oslo_config import cfg
from neutron_ebbtide.errors import Lost
from neutron_ebbtide.journal import Holder

cfg.CONF(["--config-file", sys.argv[1]], project="neutron")
first, second = Holder(4), Holder(4)
assert first.hold()
assert not second.hold()
first.keep()
first.release()
for others in ([second], [second, Holder(4)]):
    for each in others:
        assert each.hold()
        each.release()
    try:
        first.keep()
    except Lost:
        print("begins anew")
    first.keep()
    first.release()
"""


def test_who_had_lost_its_turn_meanwhile_begins_anew(running: Deployment) -> None:
    """What it has read before the other's turn may have been deleted in it."""
    neutron = running.neutron
    neutron.stop()
    assert neutron.script(_TURNS).split("\n")[:-1] == ["begins anew"] * 2


@pytest.mark.parametrize("words", ["UPDATE ebbtide_lease", "DELETE j FROM"])
def test_a_host_that_vanishes_in_the_middle_of_a_statement_holds_up_nobody(running: Deployment, words: str) -> None:
    """The database does not know that it is gone, and keeps whatever is locked by what it has begun."""
    neutron, controller = running.neutron, running.controller
    network, _ = running.network()
    running.wait_told()
    neutron.stop()
    with Vanishing(neutron.database.socket, running.lab.site.run_directory / "far-sql") as far:
        try:
            first = neutron.start_far(far.path)
            neutron.start_workers()
            far.arm(words)
            neutron.delete("networks", network)
            assert far.gone.wait(SOON)
            running.wait(lambda: not neutron.locked(), "nothing to be locked", LEASE / 2)
            running.wait(lambda: neutron.holder() not in (first, ""), "the other to take over", 2 * LEASE)
            other, _ = running.network(cidr="10.3.0.0/24")
            running.wait(
                lambda: other in controller.told("networks") and network not in controller.told("networks"),
                "the other to send",
            )
        finally:
            neutron.kill("far")
    running.wait_told()


def test_who_vanishes_while_it_notes_a_change_holds_up_nobody(running: Deployment) -> None:
    """One of Neutron's own processes: what it has noted is not there until its transaction ends, and is not waited for."""
    neutron = running.neutron
    network, _ = running.network()
    neutron.stop()
    ports = [running.port(network)["id"] for _ in range(6)]
    noted = "INSERT INTO ebbtide_journal (kind, object_id, tries, not_before, error) VALUES ('ports', 'x', 0, 0, '')"
    with neutron.begun(noted):
        ports += [running.port(network)["id"] for _ in range(6)]
        neutron.start_workers()
        running.wait_told()
        assert set(ports) <= running.controller.told("ports").keys()


def test_neutron_killed_in_the_middle_of_its_requests(running: Deployment) -> None:
    neutron = running.neutron
    network, _ = running.network()
    made = threading.Event()

    def keep_making() -> None:
        with suppress(OSError, HTTPException, NotReady, Refused):
            while True:
                running.port(network)
                made.set()

    makers = [threading.Thread(target=keep_making) for _ in range(2)]
    for each in makers:
        each.start()
    assert made.wait(20)
    neutron.kill("neutron")
    for each in makers:
        each.join(30)
    neutron.start()
    assert neutron.all("ports")
    running.wait_told()


def test_what_is_refused_waits_and_hinders_nobody(running: Deployment) -> None:
    neutron, controller = running.neutron, running.controller
    network, _ = running.network()
    running.wait_told()
    # Somebody has put a port of their own into Neutron's network, which therefore cannot go.
    controller.ask("POST", "/api/v1/ports", {"id": "own", "network": network, "mac": "02:00:00:00:00:09"})
    neutron.delete("networks", network)
    other, _ = running.network(cidr="10.2.0.0/24")
    running.wait(lambda: other in controller.told("networks"), "the other to arrive")
    code, words = neutron.sync("--check")
    assert network in controller.told("networks")
    assert (code, neutron.waiting()) == (1, 1)
    assert network in words
    assert "1 of them refused" in words
    controller.ask("DELETE", "/api/v1/ports/own")
    running.wait_told()


def test_a_database_that_starts_anew_is_waited_for(running: Deployment) -> None:
    neutron = running.neutron
    network, _ = running.network()
    running.lab.end_spawned("cloud-database")
    neutron.database.start()
    running.wait(lambda: bool(running.port(network)), "Neutron to find it")
    running.wait_told()


def test_who_is_not_trusted_or_not_known_is_named_and_everything_waits(running: Deployment, tmp_path: Path) -> None:
    neutron, controller = running.neutron, running.controller
    log = running.lab.site.run_directory / "workers.log"
    stranger, _ = certificate(tmp_path)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"token": "of somebody else"}, "refuses our credentials"),
        ({"token": ""}, "refuses our credentials"),
        ({"cacert": stranger}, "certificate verify failed"),
        ({"cacert": tmp_path / "missing.pem"}, "missing.pem"),
        ({"cacert": ""}, "certificate verify failed"),
        ({"url": controller.options["url"].replace("https", "http")}, "Connection aborted"),
    ]
    network, _ = running.network()
    running.wait_told()
    try:
        for options, words in wrong:
            neutron.stop()
            neutron.change("networks", network, name=words)
            before = log.stat().st_size
            neutron.start_workers(**options)
            running.wait(lambda at=before, words=words: words in log.read_text()[at:], f"{words!r} to be logged")
            assert "Traceback" not in log.read_text()[before:], options
            assert neutron.waiting(), options
    finally:
        neutron.stop()
        neutron.start_workers()
    running.wait_told()
    assert controller.told("networks")[network]["name"] == wrong[-1][1]
