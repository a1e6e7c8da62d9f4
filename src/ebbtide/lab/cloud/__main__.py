"""`python -m ebbtide.lab.cloud up|add-host|restart|down`: a lab with a real OpenStack in it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ...errors import EbbtideError
from ..lab import Lab
from . import whole
from .cloud import NAME, Cloud
from .services import PHYSICAL


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m ebbtide.lab.cloud", description=__doc__)
    parser.add_argument("--lab", default="cloud", help="the lab's name")
    parser.add_argument("--dir", default="", help="its directory (default: /tmp/ebbtide-NAME)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="lab, controller, computes, and all of OpenStack: two minutes")
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
        whole.add_host(lab, given.name)
    elif given.verb == "restart":
        Cloud(lab).restart(given.service)
    else:
        began = time.monotonic()
        took = whole.make(lab, given.computes, say=lambda words: print(f"{words} ...", file=sys.stderr, flush=True))
        cloud = Cloud(lab)
        words = (
            ", ".join(f"{name} {seconds} s" for name, seconds in took.items()),
            f"up after {time.monotonic() - began:.0f} s; use it like this:",
            f"  export OS_CLIENT_CONFIG_FILE={cloud.credentials} OS_CLOUD={NAME}",
            f"  alias os='ip netns exec {lab.control_namespace} {cloud.services.venv}/bin/openstack'",
            "  os hypervisor list",
            "  os image create --file /dev/null --disk-format raw --container-format bare guest",
            "  os flavor create --vcpus 1 --ram 64 --disk 0 small   # there is neither image nor flavor yet; a server has one port",
            f"  os network create --external --provider-network-type flat --provider-physical-network {PHYSICAL} outside",
            f"  alias ebbtide='{sys.prefix}/bin/ebbtide --lab {lab.site.directory}'",
            "  ebbtide computes",
            f"  ip netns exec {lab.control_namespace} {sys.prefix}/bin/ebbtide mover nova &   # for ebbtide drain --vms nova",
            f"  {lab.site.directory}/run/cloud/etc/neutron/neutron.conf is Neutron's configuration",
            "  ebbtide lab down",
        )
        print("\n".join(words))


if __name__ == "__main__":
    sys.exit(main())
