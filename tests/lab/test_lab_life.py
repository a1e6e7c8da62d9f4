"""Up, down, and what is left: nothing, whatever happened in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.lab import Lab, processes, wait_until
from ebbtide.lab.namespace import names_with

MAKER = """
import sys, time
from ebbtide.lab import Lab
from ebbtide.lab.probes import Probes, pairs_among
lab = Lab(sys.argv[1], sys.argv[2])
lab.up()
a, b = lab.add_computes(["a", "b"])
for compute in (a, b):
    compute.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev")
lab.add_vm("one", a, "02:00:00:00:00:01", "10.0.0.1/24", "one")
lab.add_vm("two", a, "02:00:00:00:00:02", "10.0.0.2/24", "two")
lab.spawn("sleeper", ["sleep", "1000"])
probes = Probes(lab)
probes.start(pairs_among(lab.vms()))
print("ready", flush=True)
time.sleep(1000)
"""


HALF_ENDED = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
raw = ctypes.CDLL(None).syscall
raw(60, 0)  # exit(2): of the calling thread alone
"""


def processes_naming(directory: Path) -> list[int]:
    pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
    return [pid for pid in pids if processes.is_running(pid) and processes.names_directory(pid, directory)]


def machine_addresses() -> str:
    show = (["ip", "-o", "addr"], ["ip", "route"], ["ip", "-6", "route"], ["ip", "-o", "link"])
    return "".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in show)


@pytest.mark.lab
def test_down_after_kill_9_of_the_maker(fresh_name: Callable[[], str], tmp_path: Path) -> None:
    name, directory = fresh_name(), tmp_path / "lab"
    maker = subprocess.Popen([sys.executable, "-c", MAKER, name, str(directory)], stdout=subprocess.PIPE)
    try:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"ready\n"
        maker.send_signal(signal.SIGKILL)
        maker.wait()
        maker.stdout.close()
        lab = Lab.found_in(directory)
        assert lab.vm("one").active == "a"
        assert len(names_with(lab.site.prefix)) == 6
        lab.down()
        assert names_with(lab.site.prefix) == []
        wait_until(lambda: processes_naming(directory) == [], "the end of all processes of the lab")
        assert not directory.exists()
        lab.down()
    finally:
        maker.kill()
        maker.wait()
        Lab(name, directory).down()


@pytest.mark.lab
def test_two_labs_side_by_side(fresh_name: Callable[[], str], tmp_path: Path) -> None:
    with Lab(fresh_name(), tmp_path / "one") as one, Lab(fresh_name(), tmp_path / "two") as two:
        first, second = one.add_compute("a"), two.add_compute("a")
        assert first.tep == second.tep
        assert first.switch_pid != second.switch_pid
        one.down()
        assert names_with(one.site.prefix) == []
        assert second.switch_pid is not None
        assert "br-phy" in second.vsctl("list-br")


@pytest.mark.lab
def test_the_machine_is_left_alone(fresh_name: Callable[[], str], tmp_path: Path) -> None:
    before = machine_addresses()
    with Lab(fresh_name(), tmp_path / "lab") as lab:
        lab.add_compute("a", physical_network="physnet1")
        lab.add_host("outside", "192.0.2.10/24")
        assert machine_addresses() == before
    assert machine_addresses() == before


@pytest.mark.lab
def test_up_twice_is_refused_and_harms_nothing(lab: Lab) -> None:
    again = Lab(lab.name, lab.site.directory)
    with pytest.raises(Refused, match="lab down"), again:
        pass
    assert lab.is_up()


@pytest.mark.lab
def test_a_pid_file_that_is_no_longer_true_kills_nobody(lab: Lab) -> None:
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        (lab.site.run_directory / "old.pid").write_text(f"{stranger.pid}\n")
        lab.down()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.lab
def test_down_leaves_files_of_others(lab: Lab) -> None:
    kept = lab.site.directory / "notes.txt"
    kept.write_text("mine")
    lab.down()
    assert list(lab.site.directory.iterdir()) == [kept]


@pytest.mark.lab
def test_a_spawned_process_lives_in_the_lab(lab: Lab) -> None:
    pid = lab.spawn("echo", ["sh", "-c", "ip -br addr show eth-mgmt; exec sleep 1000"])
    assert lab.spawned("echo") == pid
    log = lab.site.run_directory / "echo.log"
    wait_until(lambda: "10.255.0.1/16" in log.read_text(), "its first words")
    with pytest.raises(Refused):
        lab.spawn("echo", ["true"])
    lab.kill_spawned("echo")
    assert lab.spawned("echo") is None
    lab.kill_spawned("echo")


@pytest.mark.lab
def test_a_compute_is_thrown_away_and_made_again(lab: Lab) -> None:
    first = lab.add_compute("a")
    with pytest.raises(BadInput, match="already has a compute a"):
        lab.add_compute("a")
    lab.remove_compute("a")
    assert names_with(first.namespace) == []
    with pytest.raises(NotFound):
        lab.compute("a")
    again = lab.add_compute("a")
    assert again.system_id == first.system_id
    assert again.tep != first.tep


def test_an_underlay_that_no_lab_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="ipv4 and ipv6"):
        Lab("x", tmp_path, underlay="ipx")


@pytest.mark.parametrize("name", ["", "A", "a-b", "a" * 25, "a/b"])
def test_names_that_could_meet_others_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        Lab(name, tmp_path)


def test_a_lab_that_is_not_there(tmp_path: Path) -> None:
    lab = Lab("nowhere", tmp_path / "lab")
    assert not lab.is_up()
    with pytest.raises(NotFound, match="lab up"):
        lab.computes()


def test_a_process_runs_until_its_last_thread_has_ended() -> None:
    """A switch that was killed has a zombie for a moment whose other threads still hold its pid file's lock."""
    with subprocess.Popen([sys.executable, "-c", HALF_ENDED]) as process:
        try:
            wait_until(lambda: "(zombie)" in Path(f"/proc/{process.pid}/status").read_text(), "its main thread's end")
            assert processes.is_running(process.pid)
        finally:
            processes.kill([process.pid])
        assert not processes.is_running(process.pid)
