"""The repository itself: what has to be there, and what may not be in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .documents import ROOT, files

SCRIPTS = ("scripts/setup.sh", "scripts/setup-openstack.sh", "scripts/test-kernel.sh", ".ci/run")
TARGETS = (
    *("help", "setup", "setup-runtime", "setup-mover", "demo", "test", "test-kernel"),
    *("acceptance", "test-demo", "nat", "drains", "tenants", "isolation"),
    *("test-networking-odl", "test-driver", "neutron"),
    *("openstack-lab", "test-openstack", "crash-sweep"),
    *("lint", "bench", "clean", "distclean"),
)


def make(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_make_alone_lists_every_target() -> None:
    printed = make()
    assert printed.returncode == 0
    assert tuple(re.findall(r"^ +make ([a-z-]+) ", printed.stdout, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_target_exists(target: str) -> None:
    assert make("--dry-run", target).returncode == 0


def test_the_two_commands_share_setup() -> None:
    for target in ("demo", "test"):
        assert make("--dry-run", target).stdout.startswith("scripts/setup.sh\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_strict_and_parses(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert re.search(r"^set -e?uo pipefail$", text, re.MULTILINE)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_what_a_script_or_target_runs_is_there() -> None:
    """By the names of tests in them: files move, and who names them is not asked by any linter."""
    named = re.compile(r"(?<![\w./-])((?:[\w-]+/)*tests/[\w/.-]+)(?:::(\w+))?")
    found = {m.groups() for text in (*SCRIPTS, "Makefile") for m in named.finditer((ROOT / text).read_text())}
    assert found, "nothing is named any more: look whether this still finds anything"
    missing = {path for path, _ in found if not (ROOT / path).exists()}
    missing |= {
        f"{path}::{test}"
        for path, test in found
        if test and path not in missing and f"def {test}(" not in (ROOT / path).read_text()
    }
    assert missing == set()


def test_setup_refuses_an_option_that_it_does_not_know() -> None:
    done = subprocess.run([str(ROOT / "scripts" / "setup.sh"), "--wrong"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--runtime" in done.stderr


def test_licence() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == {"text": "Apache-2.0"}
    assert (ROOT / project["readme"]).is_file()


# Put together here, so that this file does not hold them itself.
_FORBIDDEN = {
    "the home of a person or a build machine": rf"(?<![\w.])/{'(home|root|work|Users)'}/[\w.]",
    "the host of a package registry": "|".join(
        [
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            "npm" + r"js\.(org|com)",
            "deb" + r"ian\.org/debian",
            "ghcr" + r"\.io",
        ]
    ),
}
_BINARY = {".pcap", ".bin", ".png", ".gz"}


@pytest.mark.parametrize("what", _FORBIDDEN)
def test_the_tree_does_not_name(what: str) -> None:
    pattern = re.compile(_FORBIDDEN[what])
    found = []
    for path in files():
        if path.suffix in _BINARY:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-mover.lock", "requirements-dev.lock"])
def test_lock_has_every_dependency_with_hashes(name: str) -> None:
    text = (ROOT / name).read_text()
    pinned = {m[1] for m in re.finditer(r"^([A-Za-z0-9_.-]+)==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)}
    assert len(pinned) == len(re.findall(r"^[A-Za-z0-9]", text, re.MULTILINE)), "each line that pins has a hash"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    if name == "requirements-mover.lock":
        wanted += project["optional-dependencies"]["openstack"]
    if name == "requirements-dev.lock":
        # scripts/setup.sh installs the package itself without build isolation.
        wanted += [*project["optional-dependencies"]["dev"], "setuptools"]
        wanted = [each for each in wanted if not each.startswith("ebbtide[")]
    missing = {re.split(r"[^A-Za-z0-9_-]", w)[0].lower().replace("_", "-") for w in wanted} - pinned
    assert missing == set()


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(linter), "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_part_stands_in_the_house() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    house = next(c for c in contracts if c["id"] == "house")
    placed = {name.strip().removeprefix("ebbtide.") for layer in house["layers"] for name in layer.split("|")}
    package = ROOT / "src" / "ebbtide"
    there = {
        p.stem if p.is_file() else p.name
        for p in package.iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    # openstack has a contract of its own; the two others hold no code of a part.
    assert there - {"__init__", "__main__", "openstack"} == placed
