"""`ebbtide lab`: one lab from up to down, through the command line alone."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from ebbtide.cli import places
from ebbtide.cli.labs import Seconds
from ebbtide.lab import Lab
from tests.cli.controllers import Run

TOOLS = ("ip", "bridge", "nsenter", "ovs-vswitchd", "ovsdb-server")


class Place(NamedTuple):
    """Where a test's lab is to stand."""

    name: str
    directory: Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place for one lab, empty before and after."""
    if os.geteuid() != 0 or not all(map(shutil.which, TOOLS)):
        pytest.skip(f"needs root, and {', '.join(TOOLS)}")
    made = Place(f"cli{os.getpid()}_{secrets.token_hex(2)}", tmp_path / "lab")
    yield made
    Lab(made.name, made.directory).down()


@pytest.mark.lab
def test_a_lab_from_up_to_down(run: Run, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    up = ("--json", "lab", "up", "--computes", "2", "--name", place.name, "--dir", str(place.directory))
    made = json.loads(run(*up).stdout)
    assert made["computes"] == ["c1", "c2"]
    assert [vm["name"] for vm in made["vms"]] == ["vm1", "vm2"]
    assert run(*up).exit_code == 4  # it is up already, and stays as it is
    monkeypatch.setenv("EBBTIDE_LAB", str(place.directory))
    assert [text.split()[1] for text in run("computes").stdout.splitlines()[1:]] == ["ready", "ready"]
    assert run("lab", "ping", "vm1", "vm2").stdout.startswith("vm1 to vm2: 3 sent, 0 lost, ")
    assert run("lab", "ping", "vm1", "10.1.99.99", "--count", "1").exit_code == 1
    assert run("lab", "migrate", "vm2", "c1", "--overlap", "100ms", "--fail").stdout == "vm2 runs on c2\n"
    assert run("lab", "migrate", "vm2", "c1", "--overlap", "500ms").stdout == "vm2 runs on c1\n"
    assert run("lab", "ping", "vm1", "vm2").exit_code == 0
    assert run("scale-in", "start", "c2").exit_code == 0
    assert run("scale-in", "end", "c2").exit_code == 0
    audited = run("audit")
    assert (audited.exit_code, audited.stdout.splitlines()[0]) == (0, "0 missing, 0 unexpected, 0 residue")
    assert run("lab", "add", "--vms", "1").stdout == "c3 has joined, with vm3\n"
    assert run("lab", "kill", "c3", "--switch").exit_code == 0
    states = {part["name"]: part["state"] for part in json.loads(run("labs", "--json").stdout)["labs"][0]["parts"]}
    assert (states["c3"], states["c1"], states["ctl"], states["vm1"]) == ("killed", "up", "up", "up")
    assert run("lab", "start", "c3").exit_code == 0
    assert run("lab", "kill", "ctl").exit_code == 0
    assert run("status").exit_code == 5
    assert run("lab", "start", "ctl").exit_code == 0
    assert run("status").exit_code == 0
    assert run("lab", "exec", "vm1", "--", "sh", "-c", "exit 9").exit_code == 9
    assert run("lab", "down").exit_code == 0
    assert Lab(place.name, place.directory).site.namespaces() == []
    assert run("lab", "ping", "vm1", "vm2").exit_code == 3


@pytest.mark.lab
def test_a_lab_has_as_many_vms_on_each_compute_and_as_many_networks_as_it_was_asked_for(run: Run, place: Place) -> None:
    where = ("--name", place.name, "--dir", str(place.directory))
    made = json.loads(
        run("--json", "lab", "up", "--computes", "2", "--vms-per-compute", "2", "--networks", "2", *where).stdout
    )
    assert [(vm["name"], vm["compute"]) for vm in made["vms"]] == [
        ("vm1", "c1"),
        ("vm2", "c1"),
        ("vm3", "c2"),
        ("vm4", "c2"),
    ]
    assert len({vm["network"] for vm in made["vms"]}) == 2


@pytest.mark.lab
def test_a_lab_over_an_ipv6_underlay_stays_one_when_it_grows(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = run("lab", "up", "--underlay", "ipv6", "--name", place.name, "--dir", str(place.directory))
    assert up.exit_code == 0, up.stderr
    monkeypatch.setenv("EBBTIDE_LAB", str(place.directory))
    assert run("lab", "add", "--vms", "1").stdout == "c3 has joined, with vm3\n"
    shown = [text.split() for text in run("computes").stdout.splitlines()[1:]]
    assert [(row[1], row[2]) for row in shown] == [("ready", f"fd00:eb::10{n}") for n in (1, 2, 3)]
    assert run("lab", "ping", "vm3", "vm1").exit_code == 0


def test_no_lab_is_not_found(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "labs_root", lambda: tmp_path / "none")
    assert run("lab", "list").stdout == "no lab is up: `ebbtide lab up`\n"
    result = run("lab", "ping", "vm1", "vm2")
    assert (result.exit_code, result.stderr) == (
        3,
        "ebbtide: there is no lab: `ebbtide lab up` makes one (--lab DIR if it stands elsewhere)\n",
    )
    assert run("computes", "--lab", "nosuch").exit_code == 3
    assert run("lab", "down").exit_code == 3
    assert run("lab", "down", "--all").exit_code == 0


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("10s", 10.0), ("500ms", 0.5), ("2m", 120.0), ("0", 0.0)])
def test_durations(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "soon", "-1s", "inf", "nan", "1d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds().convert(text, None, None)
