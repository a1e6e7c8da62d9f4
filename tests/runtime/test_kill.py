"""kill -9 at any point of a start, an end or a recover: it goes on by itself, nothing is left, and no packet is lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from ebbtide.lab import CONTROLLER, Compute, Lab, Vm, wait_until
from ebbtide.lab import processes as lab_processes
from ebbtide.lab.probes import Probes, pairs_among
from ebbtide.lab.second_search import identities_of, second_search
from ebbtide.runtime import records
from tests.support import snapshots
from tests.support.flow_watch import watched
from tests.support.process import Process

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180), pytest.mark.xdist_group("kill")]

# Where in the life of a call the blow falls: before anything is known to be stored, at the first thing stored, and later.
_draw = random.Random(9)
# What a client may be told: done, try again, or nothing (0). A fault of ours (500) is none of them.
ANSWERS = (0, 204, 503)
LATER = [f"{_draw.uniform(0.01, 0.7):.3f} s later" for _ in range(3)]


def register(compute: Compute, *ports: int) -> None:
    """As an operator does, but that the host does not wait up to 8 s before it asks again for a controller that is away."""
    targets = [f"tcp:{CONTROLLER}:{port}" for port in ports]
    patience = [word for t in targets for word in ("--", "set", "Manager", t, "max_backoff=1000")]
    compute.vsctl("set-manager", *targets, *patience, wait=False)


def add_vm(controller: Process, name: str, compute: str, index: int) -> Vm:
    mac, ip = f"02:00:00:00:01:{index:02x}", f"10.1.0.{index}"
    controller.post("/api/v1/ports", {"id": name, "network": "blue", "mac": mac, "addresses": [ip]})
    vm = controller.lab.add_vm(name, compute, mac=mac, ip_cidr=f"{ip}/24", iface_id=name)
    controller.wait(lambda: controller.place(name) == compute, f"{name} on {compute}")
    return vm


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """a, b, c, d with a VM each; it is a that leaves and comes back, so vm1 is not probed."""
    directory = tmp_path_factory.mktemp("kill")
    lab = Lab(f"k{os.getpid()}", directory / "lab")
    lab.up()
    try:
        controller = Process(lab, directory)
        controller.start()
        for compute in lab.add_computes(list("abcd")):
            register(compute, 6640)
        controller.wait_ready(*"abcd")
        controller.post("/api/v1/networks", {"id": "blue", "subnets": ["10.1.0.0/24"]})
        for index, name in enumerate("abcd", 1):
            add_vm(controller, f"vm{index}", name, index)
        controller.wait_ready(*"abcd")
        yield controller
    finally:
        lab.down()


@pytest.fixture
def controller(running: Process) -> Iterator[Process]:
    """The running controller; after each test everybody is ready, and the audit is clean."""
    yield running
    running.wait_ready(*"abcd")
    assert_clean(running)


def assert_clean(controller: Process, *names: str) -> None:
    report = controller.audit()
    assert report["clean"], report
    assert sorted(report["computes"]) == sorted(names or "abcd"), report


@contextmanager
def probed(controller: Process, *names: str) -> Iterator[None]:
    """Between these VMs nothing is lost, whatever happens inside."""
    vms = [controller.lab.vm(name) for name in names]
    with Probes(controller.lab) as probes:
        probes.start(pairs_among(vms), rate=100)
        probes.wait_flowing()
        probes.mark_phase("killed")
        yield
        probes.wait_flowing()
        probes.mark_phase("after")
        report = probes.stop()
    assert not report.failures("killed"), report.table()


def marked(controller: Process, name: str) -> bool:
    return snapshots.bridge_ids(controller.lab.compute(name)).get("tombstoned") == "true"


def strike(controller: Process, verb: str, point: str, before: int) -> None:
    """Call, and kill the controller at this point of the call."""
    call = controller.send_rpc(verb, "a")
    try:
        if point == "stored":
            controller.wait(lambda: stored_revision(controller) > before, "something to be stored", 5)
        elif point != "sent":
            wait_readable(call, float(point.split()[0]))
        controller.kill()
    finally:
        call.close()


def answer_to(call: HTTPConnection) -> int:
    """The status of the answer; 0 if the connection ended without one."""
    try:
        return call.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        call.close()


def wait_readable(call: HTTPConnection, seconds: float) -> None:
    """Let the call go on for so long, or until it is answered."""
    import select

    select.select([call.sock], [], [], seconds)


def stored_revision(controller: Process) -> int:
    """Read from the store itself."""
    query = '["Ebbtide",{"op":"select","table":"Global","where":[],"columns":["revision"]}]'
    remote = f"unix:{controller.state_dir}/store.sock"
    done = subprocess.run(
        ["ovsdb-client", "query", remote, query], capture_output=True, text=True, check=True, timeout=10
    )
    return int(json.loads(done.stdout)[0]["rows"][0]["revision"])


@pytest.mark.parametrize("point", ["sent", "stored", LATER[0]])
def test_a_controller_killed_in_a_start_and_in_a_recover_comes_back_to_what_was_stored(
    controller: Process, point: str
) -> None:
    before = [snapshots.snapshot(controller.lab.compute(name)) for name in "abcd"]
    with probed(controller, "vm1", "vm2", "vm3"):
        for verb, wanted in (("start", True), ("recover", False)):
            strike(controller, verb, point, stored_revision(controller))
            controller.start()
            controller.wait_ready(*"abcd")
            # Done or not: the switch shows what the store holds, and nothing in between.
            stored = controller.computes()["a"]["tombstoned"]
            assert stored is wanted or point == "sent"
            assert marked(controller, "a") is stored
            assert_clean(controller)
            assert controller.rpc(verb, "a") == 204
            assert marked(controller, "a") is wanted
    assert [snapshots.snapshot(controller.lab.compute(name)) for name in "abcd"] == before


@pytest.mark.parametrize("verb", ["start", "recover"])
@pytest.mark.parametrize("victim", ["the store", "its own switch", "another switch"])
def test_whoever_is_killed_in_a_start_or_a_recover_what_was_stored_comes_true(
    controller: Process, victim: str, verb: str
) -> None:
    """It is the start and the recover of a that is struck; whose switch dies is not probed meanwhile."""
    computes = [controller.lab.compute(name) for name in "abcd"]
    before = [snapshots.snapshot(c) for c in computes]
    killed = {"its own switch": "a", "another switch": "d"}.get(victim, "")
    probes = [f"vm{index}" for index, name in enumerate("abcd", 1) if name != killed]
    if verb == "recover":
        assert controller.rpc("start", "a") == 204
    with probed(controller, *probes):
        stored = stored_revision(controller)
        call = controller.send_rpc(verb, "a")
        controller.wait(lambda: stored_revision(controller) > stored, "something to be stored", 5)
        if killed:
            controller.lab.compute(killed).kill_switch()
            assert answer_to(call) in ANSWERS
            controller.lab.compute(killed).start_switch()
        else:
            lab_processes.kill([controller.store_pid])
            assert answer_to(call) in ANSWERS
            controller.wait(lambda: bool(controller.status()["leading"]), "the store to be back")
        controller.wait_ready(*"abcd")
        wanted = verb == "start"
        assert controller.computes()["a"]["tombstoned"] is wanted
        wait_until(lambda: marked(controller, "a") is wanted, "the mark on a's br-int")
        assert_clean(controller)
        assert controller.rpc(verb, "a") == 204  # "already so"
        assert controller.rpc("recover", "a") == 204
        controller.wait_ready(*"abcd")
    wait_until(lambda: not marked(controller, "a"), "a without the mark")
    # A switch that starts may number its taps anew; all others are what they were.
    for was, compute in zip(before, computes, strict=True):
        assert compute.name == killed or snapshots.snapshot(compute) == was, compute.name


def test_a_controller_killed_at_rest_sends_no_flow_mod_when_it_is_back(controller: Process) -> None:
    """The switches themselves report every flow-mod, also one that would change nothing."""
    computes = [controller.lab.compute(name) for name in "abcd"]
    with watched(controller.lab, *"abcd") as watches:
        before = [snapshots.snapshot(c) for c in computes]
        with probed(controller, "vm1", "vm2", "vm3", "vm4"):
            controller.kill()
            controller.start()
            controller.wait_ready(*"abcd")
            assert_clean(controller)
        assert {watch.compute.name: watch.reports() for watch in watches} == {name: [] for name in "abcd"}
    assert [snapshots.snapshot(c) for c in computes] == before


def leave(controller: Process) -> set[str]:
    """a is tombstoned and empty; what it is known by."""
    assert controller.rpc("start", "a") == 204
    controller.lab.vm("vm1").unplug(controller.lab.compute("a"))
    controller.wait(lambda: controller.get("/api/v1/ports/vm1")["bindings"] == [], "vm1 to have left a")
    facts = controller.computes()["a"]
    return identities_of(controller.lab.compute("a"), int(facts["number"]), int(facts["dpid"]))


def come_back(controller: Process) -> None:
    controller.post("/api/v1/computes/a/readmit", {})
    controller.wait_ready(*"abcd")
    controller.lab.vm("vm1").plug(controller.lab.compute("a"))
    controller.wait(lambda: controller.place("vm1") == "a", "vm1 on a")
    controller.wait_ready(*"abcd")


def ended_by_itself(controller: Process, gone: set[str], *names: str) -> None:
    """Nobody asks again: the operation is finished, nothing is left of a, and the second searcher agrees."""

    def over() -> bool:
        return all(o["state"] == "done" for o in controller.get("/api/v1/operations")["operations"])

    controller.wait(over, "the end to be done", 40)
    controller.wait_ready(*names)
    assert_clean(controller, *names)
    assert second_search([controller.lab.compute(name) for name in names], gone) == []


def assert_empty(compute: Compute) -> None:
    """Nothing of ours is left but, where it has come back meanwhile, the one flow that drops all."""
    wait_until(lambda: snapshots.tunnels(compute) == [], f"the tunnels of {compute.name} to go")
    wait_until(lambda: len(snapshots.flows(compute)) <= 1, f"the flows of {compute.name} to go")
    assert [line for line in snapshots.flows(compute) if "priority=65535 actions=drop" not in line] == []


@pytest.mark.parametrize("point", ["sent", "stored", *LATER])
def test_a_controller_killed_in_an_end_finishes_it_by_itself(controller: Process, point: str) -> None:
    gone = leave(controller)
    with probed(controller, "vm2", "vm3", "vm4"):
        strike(controller, "end", point, stored_revision(controller))
        controller.start()
        if "a" in controller.computes():
            # Killed before anything was stored: nothing has begun, and the same call does it all.
            assert point == "sent"
            assert controller.rpc("end", "a") == 204
        ended_by_itself(controller, gone, *"bcd")
        assert controller.rpc("end", "a") == 204  # "already so"
    assert_empty(controller.lab.compute("a"))
    come_back(controller)


def test_a_store_that_is_killed_in_an_end_is_started_again_and_the_end_goes_on(controller: Process) -> None:
    gone = leave(controller)
    with probed(controller, "vm2", "vm3", "vm4"):
        before = stored_revision(controller)
        call = controller.send_rpc("end", "a")
        controller.wait(lambda: stored_revision(controller) > before, "something to be stored", 5)
        lab_processes.kill([controller.store_pid])
        assert answer_to(call) in ANSWERS
        controller.wait(lambda: bool(controller.status()["leading"]), "the store to be back")
        ended_by_itself(controller, gone, *"bcd")
    come_back(controller)


def test_a_switch_that_is_killed_in_an_end_holds_it_back_no_longer_than_it_takes(controller: Process) -> None:
    """d dies with its flows, in the middle; it is cleaned at the latest when it comes back."""
    gone, d = leave(controller), controller.lab.compute("d")
    with probed(controller, "vm2", "vm3"):
        before = stored_revision(controller)
        call = controller.send_rpc("end", "a")
        controller.wait(lambda: stored_revision(controller) > before, "something to be stored", 5)
        d.kill_switch()
        assert answer_to(call) in ANSWERS
        d.start_switch()
        ended_by_itself(controller, gone, *"bcd")
        controller.wait(lambda: not controller.computes()["d"]["debts"], "d's debts to be paid")
    assert controller.lab.vm("vm4").reaches("10.1.0.2")
    come_back(controller)


def test_the_leaving_switch_that_is_killed_in_its_end_comes_back_to_nothing(controller: Process) -> None:
    gone, a = leave(controller), controller.lab.compute("a")
    with probed(controller, "vm2", "vm3", "vm4"):
        before = stored_revision(controller)
        call = controller.send_rpc("end", "a")
        controller.wait(lambda: stored_revision(controller) > before, "something to be stored", 5)
        a.kill_switch()
        assert answer_to(call) in ANSWERS
        ended_by_itself(controller, gone, *"bcd")
        a.start_switch()
        assert_empty(a)
    come_back(controller)


def test_a_controller_and_its_store_killed_together_lose_nothing(controller: Process) -> None:
    before = [snapshots.snapshot(controller.lab.compute(name)) for name in "abcd"]
    with probed(controller, "vm1", "vm2", "vm3", "vm4"):
        lab_processes.kill([controller.store_pid])
        controller.kill()
        controller.start()
        controller.wait_ready(*"abcd")
    assert [snapshots.snapshot(controller.lab.compute(name)) for name in "abcd"] == before


def test_an_old_leader_that_is_thawed_sends_nothing_any_more(tmp_path: Path) -> None:
    """Two controllers on one store: the first hangs in the middle of its work, the second takes over, the first wakes."""
    with Lab(f"t{os.getpid()}", tmp_path / "lab") as lab:
        schema, database = tmp_path / "ebbtide.ovsschema", tmp_path / "ebbtide.db"
        schema.write_text(json.dumps(records.schema()))
        subprocess.run(["ovsdb-tool", "create", str(database), str(schema)], check=True, timeout=10)
        server = ["ovsdb-server", f"--unixctl={tmp_path}/store.ctl", f"--pidfile={tmp_path}/store.pid"]
        lab.spawn("store", [*server, "--remote=ptcp:6641:127.0.0.1", str(database)])
        first, second = (
            Process(lab, tmp_path, name, offset, "tcp:127.0.0.1:6641") for name, offset in (("one", 0), ("two", 10))
        )
        first.start()
        second.start(leads=False)
        for compute in lab.add_computes(["a", "b"]):
            register(compute, first.ovsdb, second.ovsdb)
        first.wait_ready("a", "b")
        assert not second.status()["leading"]
        first.post("/api/v1/networks", {"id": "blue", "subnets": ["10.1.0.0/24"]})
        for index, name in enumerate("ab", 1):
            add_vm(first, f"vm{index}", name, index)
        first.wait_ready("a", "b")
        with probed(first, "vm1", "vm2"):
            # It has work in its hands: a mark to write and to take away again.
            call = first.send_rpc("start", "b")
            first.stop()
            second.wait(lambda: bool(second.status()["leading"]), "the second to lead", 40)
            second.wait_ready("a", "b", deadline=60)
            assert second.rpc("start", "a") == 204
            add_vm(second, "vm3", "b", 3)
            second.wait_ready("a", "b")
            held = [snapshots.snapshot(c) for c in lab.computes()]
            term = second.status()["term"]
            first.thaw()
            first.wait(lambda: not first.status()["leading"], "the first to know that it does not lead")
            call.close()
            second.wait_ready("a", "b", deadline=60)
            assert first.ask("POST", "/api/v1/networks", {"id": "green"})[0] >= 500
        assert [snapshots.snapshot(c) for c in lab.computes()] == held
        assert second.status()["term"] == term
        assert second.status()["leading"]
        report = second.audit()
        assert report["clean"], report
