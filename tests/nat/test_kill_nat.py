"""kill -9 of the controller's process at each phase of a NAT's move: the next one goes on from the stored phase, and nothing breaks."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebbtide.lab import Lab, wait_until
from ebbtide.model.facts import MovePhase
from tests.support.process import Process
from tests.support.routed import NEXT_HOP, SNAT, nothing_breaks

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.xdist_group("killnat")]

ORDER = [str(phase) for phase in MovePhase]
#: A blow may fall after the next phase is stored: what was not struck in one move is struck in the next.
MOST_MOVES = 5


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Process]:
    """a and b with a wire and a VM each, and router r1; the controller is a process of its own."""
    with Lab(f"kn{os.getpid()}", tmp_path / "lab") as lab:
        made = Process(lab, tmp_path, more=("--lag", "0.6", "--nat-patience", "5"))
        made.start()
        for compute in lab.add_computes(["a", "b"], physical_network="physnet1"):
            compute.register(f"tcp:10.255.0.1:{made.ovsdb}")
        made.wait_ready("a", "b")
        made.post("/api/v1/networks", {"id": "blue", "subnets": ["10.1.0.0/24"]})
        outside = {"id": "out", "physical": "physnet1", "subnet": "203.0.113.0/24", "gateway": NEXT_HOP}
        made.post("/api/v1/externals", outside)
        lab.add_host("ext", f"{NEXT_HOP}/24")
        made.post("/api/v1/routers", {"id": "r1", "external": "out", "addresses": [SNAT]})
        made.post("/api/v1/routers/r1/attach", {"network": "blue", "address": "10.1.0.254"})
        for index, name in enumerate("ab", 1):
            mac, ip = f"02:00:00:00:01:{index:02x}", f"10.1.0.{index}"
            made.post("/api/v1/ports", {"id": f"vm{index}", "network": "blue", "mac": mac, "addresses": [ip]})
            lab.add_vm(f"vm{index}", name, mac=mac, ip_cidr=f"{ip}/24", iface_id=f"vm{index}", gateway="10.1.0.254")
            made.wait(lambda n=index, c=name: made.place(f"vm{n}") == c, f"vm{index} on {name}")  # type: ignore[misc]
        made.wait(lambda: bool(made.get("/api/v1/routers/r1")["standby"]), "r1 to be served, and a standby")
        made.wait_ready("a", "b")
        yield made


@contextmanager
def stored_phases(controller: Process) -> Iterator[queue.Queue[str]]:
    """Each phase of a move in the moment in which it is stored, read from the store itself ("": the move is gone)."""
    remote = f"unix:{controller.state_dir}/store.sock"
    command = ["ovsdb-client", "monitor", remote, "Ebbtide", "Move", "phase", "--format=json"]
    found: queue.Queue[str] = queue.Queue()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:

        def read() -> None:
            assert watch.stdout is not None
            for line in watch.stdout:
                for _, action, phase in json.loads(line)["data"]:
                    if action in ("initial", "insert", "new", "delete"):
                        found.put("" if action == "delete" else phase)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield found
        finally:
            watch.terminate()
            reader.join(5)


def stored_phase(controller: Process) -> str:
    """As it stands in the store now, whoever lives."""
    query = '["Ebbtide",{"op":"select","table":"Move","where":[],"columns":["phase"]}]'
    remote = f"unix:{controller.state_dir}/store.sock"
    done = subprocess.run(
        ["ovsdb-client", "query", remote, query], capture_output=True, text=True, check=True, timeout=10
    )
    rows = json.loads(done.stdout)[0]["rows"]
    return str(rows[0]["phase"]) if rows else ""


def struck(controller: Process, wanted: set[str]) -> set[str]:
    """One move, in which the controller is killed whenever a phase is stored that is wanted. The phases at which it stood then."""
    seen: list[str] = []
    at: set[str] = set()
    old = controller.get("/api/v1/routers/r1")["designated"]
    with stored_phases(controller) as phases:
        assert controller.rpc("start", old) == 204
        while (phase := phases.get(timeout=60)) or not seen:
            if not phase or (seen and phase == seen[-1]):
                continue  # its reason has changed, and not the phase
            assert not seen or ORDER.index(phase) == ORDER.index(seen[-1]) + 1, (seen, phase)
            seen.append(phase)
            if phase in wanted - at:
                controller.kill()
                stands = stored_phase(controller)
                if stands:
                    at.add(stands)
                controller.start()
    assert seen == ORDER, "each phase once, and none of them anew"
    controller.wait_ready("a", "b")
    found = controller.get("/api/v1/routers/r1")
    assert (found["designated"], found["move"]) == ("b" if old == "a" else "a", None)
    assert controller.rpc("recover", old) == 204
    controller.wait(lambda: bool(controller.get("/api/v1/routers/r1")["standby"]), "a standby")
    controller.wait_ready("a", "b")
    return at


def test_a_controller_killed_at_each_phase_of_a_move_is_followed_by_one_that_goes_on_from_there(
    controller: Process,
) -> None:
    left = set(ORDER)
    with nothing_breaks(controller.lab, "vm1", "vm2"):
        for _ in range(MOST_MOVES):
            left -= struck(controller, left)
            if not left:
                break
    assert not left, "at these no blow has fallen"
    wait_until(lambda: bool(controller.audit()["clean"]), "a clean audit")
