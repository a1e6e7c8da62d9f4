"""What a hypervisor does to emulated VMs, a process a deed: machine.py LAB DIRECTORY DEED VM COMPUTE [MAC PORT MTU].

Apart from `hypervisor.py`, since Nova runs that in threads of its own kind, and this enters network namespaces.

    plug     the VM is made, or found, and runs here
    wait     it is plugged here too, and does not run here: it comes
    run      it runs here from now on, and is announced as QEMU does
    boot     a real DHCP client asks for its address, and goes on renewing it
    unplug   it is taken from here; from everywhere: `remove`
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from ...errors import NotFound
from .. import namespace, processes
from ..compute import Compute
from ..lab import Lab
from ..migration import ANNOUNCE_PAUSES
from ..vm import Vm

#: Of a guest that has not been told one: what no network of a lab has.
UNTOLD_MTU = 1280
#: What the client calls with what it was told.
_SCRIPT = """#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace "$ip/$mask" dev "$interface" valid_lft "$lease" preferred_lft "$lease"
[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
if [ -n "$staticroutes" ]; then
  set -- $staticroutes
  while [ $# -ge 2 ]; do
    if [ "$2" = 0.0.0.0 ]; then ip route replace "$1" dev "$interface"
    else ip route replace "$1" via "$2" dev "$interface" onlink; fi
    shift 2
  done
else
  for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; done
fi
"""


def _found(lab: Lab, name: str) -> Vm | None:
    try:
        return lab.vm(name)
    except NotFound:
        return None


def plug(lab: Lab, vm: str, compute: str, mac: str, port: str, mtu: str) -> None:
    """It runs here, wherever it was before."""
    known = _found(lab, vm)
    if known is None:
        lab.add_vm(vm, compute, mac, "", port, mtu=int(mtu))
        return
    for other in known.plugged:
        if other != compute:
            known.unplug(lab.compute(other))
    if compute not in known.plugged:
        known.plug(lab.compute(compute))
    known.run_on(lab.compute(compute))


def wait(lab: Lab, vm: str, compute: str, *_: str) -> None:
    """It is to come here."""
    known = lab.vm(vm)
    if compute not in known.plugged:
        known.plug(lab.compute(compute), active=False)


def run(lab: Lab, vm: str, compute: str, *_: str) -> None:
    """It has come."""
    known = lab.vm(vm)
    known.run_on(lab.compute(compute))
    known.send_rarp()
    for pause in ANNOUNCE_PAUSES:
        time.sleep(pause)
        known.send_rarp()


def boot(lab: Lab, vm: str, compute: str, *_: str) -> None:
    """It starts, and asks for its address."""
    known = lab.vm(vm)
    processes.kill(processes.pids_in_namespaces([known.namespace]))
    script = lab.site.run_directory / "udhcpc.sh"
    if not script.exists():
        script.write_text(_SCRIPT)
        script.chmod(0o755)
    # What it is told as MTU counts: until then it has another one.
    namespace.ip_batch(known.namespace, [f"link set eth0 mtu {UNTOLD_MTU}"])
    command = ["busybox", "udhcpc", "-f", "-i", "eth0", "-s", str(script), "-t", "5", "-T", "1", "-A", "2"]
    command += [f"-O{option}" for option in ("mtu", "staticroutes", "router")]
    log = (lab.site.run_directory / f"vm-{vm}.log").open("ab")
    inner = namespace.command_in(known.namespace, command)
    subprocess.Popen(inner, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def unplug(lab: Lab, vm: str, compute: str, *_: str) -> None:
    """It is not here any more."""
    known = _found(lab, vm)
    if known is not None:
        found: Compute = lab.compute(compute)
        known.unplug(found)


def remove(lab: Lab, vm: str, compute: str, *_: str) -> None:
    """It is not here any more, and if it is nowhere else, it is gone."""
    unplug(lab, vm, compute)
    known = _found(lab, vm)
    if known is not None and not known.plugged:
        lab.remove_vm(vm)


DEEDS = {"plug": plug, "wait": wait, "run": run, "boot": boot, "unplug": unplug, "remove": remove}


def main(name: str, directory: str, deed: str, *rest: str) -> None:
    """One deed."""
    DEEDS[deed](Lab(name, Path(directory)), *rest)  # type: ignore[operator]


if __name__ == "__main__":
    main(*sys.argv[1:])
