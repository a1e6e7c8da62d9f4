"""`python -m ebbtide.lab.cloud up|add-host|restart|down`: a lab with a real OpenStack in it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ...errors import EbbtideError
from ..commands import wait_until
from ..lab import Lab
from ..rest import Api
from ..site import CONTROLLER, MANAGER_TARGET
from .cloud import NAME, Cloud
from .services import PHYSICAL

_READY = 60.0
#: The network outside: its host, that tenants reach.
OUTSIDE, OUTSIDE_HOST = "203.0.113.0/24", "203.0.113.1"


def make(lab: Lab, computes: int, *, python: str = sys.executable) -> Cloud:
    """The lab, its controller and computes, and the cloud. The caller takes the lab down."""
    lab.up()
    start_controller(lab, python)
    lab.add_host("out", f"{OUTSIDE_HOST}/24")
    names = [f"c{number}" for number in range(1, computes + 1)]
    add_computes(lab, names)
    cloud = Cloud(lab)
    took = cloud.up(names, say=lambda words: print(f"{words} ...", file=sys.stderr, flush=True))
    lab.site.run_directory.joinpath("cloud", "took.json").write_text(json.dumps(took))
    return cloud


def start_controller(lab: Lab, python: str = sys.executable) -> None:
    """Ours, as an operator runs it: its state outlives it."""
    options = ["--state-dir", str(lab.site.run_directory / "controller"), "--admission", "open"]
    options += ["--ovsdb-listen", f"ptcp:6640:{CONTROLLER}", "--openflow-listen", f"ptcp:6653:{CONTROLLER}"]
    lab.spawn(
        "controller",
        [python, "-m", "ebbtide", "controller", *options, "--http", "127.0.0.1:8181", "--log-format", "json"],
    )
    api = Api(lab)

    def leads() -> bool:
        try:
            return bool(api.ask("GET", "/api/v1/status")["leading"])
        except (OSError, EbbtideError):
            return False

    wait_until(leads, "the controller to lead", _READY, every=0.1)


def add_computes(lab: Lab, names: list[str]) -> None:
    """Computes with a leg in the network outside, ready when this returns."""
    for compute in lab.add_computes(names, physical_network=PHYSICAL):
        compute.vsctl("set", "Open_vSwitch", ".", "other_config:ebbtide-gateway=true", wait=False)
        compute.register(MANAGER_TARGET)
    api = Api(lab)

    def ready() -> bool:
        found = {c["name"]: c["phase"] for c in api.ask("GET", "/api/v1/computes")["computes"]}
        return all(found.get(name) == "ready" for name in names)

    wait_until(ready, f"{', '.join(names)} to be ready", _READY, every=0.1)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ebbtide.lab.cloud", description=__doc__)
    parser.add_argument("--lab", default="cloud", help="the lab's name")
    parser.add_argument("--dir", default="", help="its directory (default: /tmp/ebbtide-NAME)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="lab, controller, computes, and all of OpenStack: about four minutes")
    up.add_argument("--computes", type=int, default=3)
    add = verbs.add_parser("add-host", help="one compute more, with a nova-compute")
    add.add_argument("name")
    again = verbs.add_parser("restart", help="a service anew, like neutron, nova-api, compute-c1")
    again.add_argument("service")
    verbs.add_parser("down", help="take it all down")
    given = parser.parse_args()
    lab = Lab(given.lab, Path(given.dir or f"/tmp/ebbtide-{given.lab}"))
    try:
        _carry_out(lab, given)
    except EbbtideError as error:
        print(f"{error}", file=sys.stderr)
        return error.exit_code
    return 0


def _carry_out(lab: Lab, given: argparse.Namespace) -> None:
    if given.verb == "down":
        lab.down()
    elif given.verb == "add-host":
        add_computes(lab, [given.name])
        Cloud(lab).add_hosts([given.name])
    elif given.verb == "restart":
        Cloud(lab).restart(given.service)
    else:
        began = time.monotonic()
        cloud = make(lab, given.computes)
        words = (
            f"up after {time.monotonic() - began:.0f} s; use it like this:",
            f"  export OS_CLIENT_CONFIG_FILE={cloud.credentials} OS_CLOUD={NAME}",
            f"  ip netns exec {lab.control_namespace} {cloud.services.venv}/bin/openstack hypervisor list",
            f"  ebbtide --lab {lab.site.directory} computes",
            f"  python -m ebbtide.lab.cloud --lab {lab.name} --dir {lab.site.directory} down",
        )
        print("\n".join(words))


if __name__ == "__main__":
    sys.exit(main())
