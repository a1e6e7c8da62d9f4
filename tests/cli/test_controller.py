"""The verbs against a real controller with a real store, and the controller's own life."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ebbtide.cli.controller import HELP
from ebbtide.config import Config
from tests.cli.conftest import need_store
from tests.cli.controllers import Run, Running


def test_every_setting_is_an_option_with_help() -> None:
    assert {field.name for field in msgspec.structs.fields(Config)} == set(HELP)


@pytest.mark.parametrize(
    "words",
    [
        ("--http", "nonsense"),
        ("--http", "192.0.2.1:8181"),
        ("--admission", "maybe"),
        ("--lag", "soon"),
        ("--config", "/nonexistent/ebbtide.toml"),
    ],
)
def test_settings_that_are_not_possible(run: Run, words: tuple[str, ...]) -> None:
    result = run("controller", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("ebbtide: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_that_it_listens_and_leads_and_ends_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    need_store()
    running = Running(tmp_path)
    try:
        told = running.says("leading")
        assert told[0].startswith(b"READY=1\nSTATUS=")
        assert [b"READY=1" in each for each in told].count(True) == 1
        assert running.stop(number) == 0
        assert running.says("")[-1] == b"STOPPING=1"
        assert "Traceback" not in running.log.read_text()
    finally:
        running.close()


def test_it_says_when_its_store_goes_and_comes(tmp_path: Path) -> None:
    need_store()
    running = Running(tmp_path)
    try:
        running.says("leading")
        state = running.directory / "state"
        # It cannot be started again at once, or nobody would notice.
        (state / "ebbtide.ovsschema").unlink()
        (state / "ebbtide.ovsschema").mkdir()
        os.kill(int((state / "store.pid").read_text()), signal.SIGKILL)
        running.says("waiting for the store: ")
        (state / "ebbtide.ovsschema").rmdir()
        running.says("leading")
    finally:
        running.close()


def test_one_that_waits_for_a_store_is_ready_and_says_so(tmp_path: Path) -> None:
    running = Running(tmp_path, "--store", f"unix:{tmp_path / 'none.sock'}")
    try:
        told = running.says("waiting for the store: unix:")
        assert told[0].startswith(b"READY=1\nSTATUS=waiting for the store: ")
        assert b"No such file" in told[-1]
        assert running.port("http")
    finally:
        running.close()


def test_a_standby_is_ready_and_says_when_it_takes_over(tmp_path: Path) -> None:
    need_store()
    state, folder = tmp_path / "state", tmp_path / "second"
    folder.mkdir()
    first = Running(tmp_path)
    try:
        first.says("leading")
        second = Running(folder, "--store", f"unix:{state / 'store.sock'}")
        try:
            assert second.says("standing by: another controller leads")[0].startswith(b"READY=1\n")
            first.stop(signal.SIGKILL)
            second.says("leading")
            subprocess.run(["ovs-appctl", "-t", state / "store.ctl", "exit"], check=True)
            second.says("waiting for the store: ")
        finally:
            second.close()
    finally:
        first.close()


def test_a_state_directory_has_one_controller_at_a_time(tmp_path: Path) -> None:
    need_store()
    state, folder = tmp_path / "state", tmp_path / "second"
    folder.mkdir()
    first = Running(tmp_path)
    try:
        first.says("leading")
        store = (state / "store.pid").read_text()
        for more in (
            (),
            ("--ovsdb-listen", f"ptcp:{first.port('ovsdb')}"),
            ("--store", f"unix:{state / 'store.sock'}"),
        ):
            second = Running(folder, "--state-dir", str(state), *more)
            try:
                assert second.process.wait(30) == 2
                assert second.log.read_text() == (
                    f"ebbtide: state_dir = '{state}' is in use by another controller (process {first.process.pid}): "
                    "stop that one, or give this one a directory of its own\n"
                )
            finally:
                second.close()
                (folder / "notify").unlink()
        # Who was refused ends nothing of the other's.
        assert (state / "store.pid").read_text() == store
        first.stop(signal.SIGKILL)
        third = Running(folder, "--state-dir", str(state))
        try:
            third.says("leading")
            assert (state / "store.pid").read_text() == store, "the server outlives a controller that is killed"
            assert third.stop() == 0
            assert not (state / "store.pid").exists()
        finally:
            third.close()
    finally:
        first.close()


def test_a_state_directory_that_is_none_is_a_wrong_setting(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for given in (file, file / "below"):
        result = run("controller", "--state-dir", str(given))
        assert (result.exit_code, result.stderr) == (
            2,
            f"ebbtide: state_dir = '{given}' cannot be a directory: {file} is a file; name another\n",
        )


def test_a_standby_that_ends_leaves_the_store_to_the_other(tmp_path: Path) -> None:
    need_store()
    folder = tmp_path / "second"
    folder.mkdir()
    first = Running(tmp_path)
    try:
        first.says("leading")
        pid = tmp_path / "state" / "store.pid"
        store = pid.read_text()
        second = Running(folder, "--store", f"unix:{tmp_path / 'state' / 'store.sock'}")
        try:
            second.says("standing by")
            assert second.stop() == 0
        finally:
            second.close()
        assert pid.read_text() == store
        assert first.stop() == 0
        assert b"STATUS=waiting" not in b"".join(first.says(""))
    finally:
        first.close()


def test_insecure_is_logged_at_the_start_and_shown(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_store()
    running = Running(tmp_path, "--insecure")
    try:
        running.says("leading")
        events = [json.loads(line) for line in running.log.read_text().splitlines()]
        (said,) = [e for e in events if e["event"] == "insecure"]
        assert (said["level"], said["without"]) == ("warning", ["credentials", "TLS"])
        monkeypatch.setenv("EBBTIDE_URL", running.url)
        assert json.loads(run("status", "--json").stdout)["insecure"] is True
    finally:
        running.close()


def test_an_address_in_use_is_said(real: Running, tmp_path: Path) -> None:
    other = Running(tmp_path, "--ovsdb-listen", f"ptcp:{real.port('ovsdb')}")
    try:
        assert other.process.wait(30) == 5
        assert "Address already in use" in other.log.read_text()
    finally:
        other.close()


def test_status(run: Run, real: Running) -> None:
    assert "insecure" not in real.log.read_text()
    found = json.loads(run("status", "--json").stdout)
    assert found["leading"] is True
    assert "leading" in run("status").stdout


def test_no_computes(run: Run, real: Running) -> None:
    assert run("computes").stdout.startswith("no computes have registered")
    assert json.loads(run("computes", "--json").stdout)["computes"] == []
    assert run("computes", "--removed").stdout == "no removed computes\n"
    assert run("compute", "show", "c1").exit_code == 3
    assert run("compute", "approve", "c1").exit_code == 3


def test_networks_and_ports(run: Run, real: Running) -> None:
    add = ("network", "add", "blue", "--subnet", "10.1.0.0/24", "--vni", "77")
    assert run(*add).exit_code == 0
    assert "already so" in run(*add).stdout
    assert run("network", "add", "blue", "--subnet", "10.2.0.0/24").exit_code == 4
    assert run("network", "add", "red", "--subnet", "nonsense").exit_code == 2
    port = ("port", "add", "vm1", "--network", "blue", "--mac", "02:00:00:00:00:01", "--ip", "10.1.0.1")
    assert run(*port).exit_code == 0
    assert run("port", "add", "vm2", "--network", "no", "--mac", "02:00:00:00:00:02").exit_code == 3
    assert run("ports").stdout == (
        "PORT  NETWORK  MAC                ADDRESSES\nvm1   blue     02:00:00:00:00:01  10.1.0.1\n"
    )
    shown = json.loads(run("network", "show", "blue", "--json").stdout)
    assert (shown["vni"], shown["subnets"]) == (77, ["10.1.0.0/24"])
    assert run("network", "delete", "blue").exit_code == 4
    assert "vm1" in run("explain", "port", "vm1").stdout
    assert run("explain", "port", "vm9").exit_code == 3
    result = run("port", "delete", "vm9", "vm1")
    assert result.exit_code == 3
    assert "accepted" in result.stdout
    assert run("network", "delete", "blue").exit_code == 0
    assert "blue" not in run("networks").stdout


def test_scale_in_of_computes_that_nobody_knows(run: Run, real: Running) -> None:
    for verb in ("start", "end", "recover"):
        result = run("scale-in", verb, "c8", "c9")
        assert result.exit_code == 3
        assert result.stdout.count("refused") == 2
        assert "2 ids of 2 refused; nothing was changed" in result.stderr
    assert run("scale-in", "start").exit_code == 2
    assert run("scale-in", "status").stdout == "no compute is tombstoned\n"


def test_relations_need_members(run: Run, real: Running) -> None:
    assert run("relation", "add", "c1", "c2").exit_code == 3
    assert run("relations").stdout == "no gateway relations\n"


def test_nothing_to_audit_proves_nothing(run: Run, real: Running) -> None:
    assert run("audit").exit_code == 8


def test_reconcile_and_operations(run: Run, real: Running) -> None:
    assert run("reconcile").exit_code == 0
    assert run("reconcile", "--approve", "--all", "--yes").exit_code == 0
    assert run("reconcile", "--approve").stderr == "ebbtide: nothing was approved: no compute is held\n"
    assert run("reconcile", "c9").exit_code == 3
    assert run("operations").stdout == "no operations\n"
    assert run("operation", "show", "x").exit_code == 3


def test_an_event_is_heard(run: Run, real: Running) -> None:
    command = [sys.executable, "-m", "ebbtide", "events", "--count", "1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
        for number in range(1000):
            try:
                said, _ = listening.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                assert run("network", "add", f"heard{number}").exit_code == 0
        else:
            raise AssertionError("1000 networks were made, and none was heard of")
    assert listening.returncode == 0
    assert json.loads(said)["revision"] > 0


def test_a_hash_opens_the_door(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_store()
    hashed = run("user", "hash", input="secret\n").stdout.strip()
    token = run("user", "hash", "--token", input="token\n").stdout.strip()
    assert run("user", "hash", input="\n").exit_code == 2
    file = tmp_path / "credentials"
    file.write_text(
        f'[[user]]\nname = "admin"\npassword = "{hashed}"\nroles = ["operate"]\n'
        f'[[token]]\nname = "ci"\nvalue = "{token}"\nroles = ["read"]\n'
    )
    running = Running(tmp_path, "--credentials", str(file))
    try:
        running.says("leading")
        monkeypatch.setenv("EBBTIDE_URL", running.url)
        assert run("status").exit_code == 4
        monkeypatch.setenv("EBBTIDE_USER", "admin")
        monkeypatch.setenv("EBBTIDE_PASSWORD", "secret")
        assert run("network", "add", "blue").exit_code == 0
        monkeypatch.setenv("EBBTIDE_TOKEN", "token")
        assert run("networks").exit_code == 0
        assert run("network", "delete", "blue").exit_code == 4
    finally:
        running.close()
