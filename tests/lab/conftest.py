"""Labs for tests: each of its own name, so that tests may run side by side."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebbtide.lab import Compute, Lab

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [tool for tool in ("ip", "bridge", "nsenter", "ovs-vswitchd", "ovsdb-server") if not shutil.which(tool)]
    if os.geteuid() == 0 and not missing:
        return
    reason = f"needs {', '.join(missing)}" if missing else "needs root"
    for item in items:
        if item.get_closest_marker("lab") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def new_name() -> str:
    return f"t{os.getpid()}_{next(_numbers)}_{secrets.token_hex(2)}"


@pytest.fixture(scope="session")
def fresh_name() -> Callable[[], str]:
    """Names for labs that are nobody else's."""
    return new_name


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty lab of this test's."""
    with Lab(new_name(), tmp_path / "lab") as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for a module: computes a and b, wired by hand, and two VMs on each.

    Tests that use it leave it as they found it.
    """
    with Lab(new_name(), tmp_path_factory.mktemp("shared") / "lab") as made:
        computes = made.add_computes(["a", "b"])
        wire(computes)
        for number, compute in enumerate(["a", "a", "b", "b"], start=1):
            add_numbered_vm(made, number, compute)
        yield made


def wire(computes: list[Compute], actions: str = "NORMAL") -> None:
    """What a controller would do, in its simplest form: br-int, a tunnel to each other compute, and one flow."""
    for compute in computes:
        tunnels = []
        for peer in computes:
            if peer.name != compute.name:
                port = f"vx-{peer.name}"
                tunnels += ["--", "add-port", "br-int", port, "--", "set", "Interface", port, "type=vxlan"]
                tunnels += [f"options:remote_ip={peer.tep}", "options:key=7"]
        compute.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev", *tunnels)
        set_flows(compute, actions)


def set_flows(compute: Compute, actions: str) -> None:
    compute.ofctl("del-flows", "br-int")
    compute.ofctl("add-flow", "br-int", f"priority=0,actions={actions}")


def add_numbered_vm(lab: Lab, number: int, compute: str) -> None:
    mac = f"02:00:00:00:00:{number:02x}"
    iface_id = f"{number:08x}-5d1e-4c3f-9a2b-000000000000"
    lab.add_vm(f"vm{number}", compute, mac, f"10.0.0.{number}/24", iface_id)


@pytest.fixture
def wired() -> Callable[..., None]:
    return wire


@pytest.fixture
def numbered_vm() -> Callable[[Lab, int, str], None]:
    return add_numbered_vm


@pytest.fixture
def flows() -> Callable[[Compute, str], None]:
    return set_flows
