"""A lab with all that a cloud needs: the controller, computes with a leg in the network outside, a host there, and OpenStack."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..lab import Lab
from ..rest import Api
from ..site import CONTROLLER, MANAGER_TARGET
from .cloud import Cloud, Say
from .services import PHYSICAL

_READY = 60.0
#: The network outside, and the host there that tenants reach.
OUTSIDE, OUTSIDE_HOST, OUTSIDE_NAME = "203.0.113.0/24", "203.0.113.1", "out"


def make(lab: Lab, computes: int, *, python: str = sys.executable, say: Say = lambda words: None) -> dict[str, float]:
    """The lab, its controller and computes c1, c2, ..., and the cloud: what took how many seconds. The caller takes the lab down.

    `python`: that of ours which runs the controller.
    """
    lab.up()
    say("controller and computes")
    start_controller(lab, python)
    lab.add_host(OUTSIDE_NAME, f"{OUTSIDE_HOST}/24")
    names = [f"c{number}" for number in range(1, computes + 1)]
    add_computes(lab, names)
    return Cloud(lab).up(names, say=say)


def add_host(lab: Lab, name: str) -> None:
    """A compute more, with a nova-compute, known to Nova when this returns."""
    add_computes(lab, [name])
    Cloud(lab).add_hosts([name])


def start_controller(lab: Lab, python: str = sys.executable) -> None:
    """Ours, as an operator runs it: its state outlives it."""
    options = ["--state-dir", str(lab.site.run_directory / "controller"), "--admission", "open"]
    options += ["--ovsdb-listen", f"ptcp:6640:{CONTROLLER}", "--openflow-listen", f"ptcp:6653:{CONTROLLER}"]
    lab.spawn(
        "controller",
        [python, "-m", "ebbtide", "controller", *options, "--http", "127.0.0.1:8181", "--log-format", "json"],
    )
    Api(lab).wait_leading(_READY)


def add_computes(lab: Lab, names: Sequence[str]) -> None:
    """Computes with a leg in the network outside, ready when this returns."""
    for compute in lab.add_computes(names, physical_network=PHYSICAL):
        compute.vsctl("set", "Open_vSwitch", ".", "other_config:ebbtide-gateway=true", wait=False)
        compute.register(MANAGER_TARGET)
    Api(lab).wait_ready(*names, deadline=_READY)
