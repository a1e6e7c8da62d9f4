"""How a lab comes up: fabric, controller, computes, networks and ports through the API, VMs; ready when VMs reach each other.

Everything that a controller has to be told goes through the REST interface, as anybody's would.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ebbtide.cli import render
from ebbtide.cli.client import Client
from ebbtide.cli.places import leave_root
from ebbtide.cli.session import DEFAULT_URL
from ebbtide.errors import BadInput, EbbtideError, NotFound, NotReady, Refused
from ebbtide.lab import CONTROLLER, MANAGER_TARGET, Lab, wait_until

NAMES = ("blue", "green", "red", "amber", "violet", "white", "silver", "brown")
START_SECONDS = 30.0
READY_SECONDS = 60.0
REACH_SECONDS = 20.0
CALL_SECONDS = 10.0
_LOG_LINES = 5


class Wanted(NamedTuple):
    """What `lab up` is asked for."""

    computes: int
    vms_per_compute: int
    networks: int
    settings: tuple[tuple[str, str], ...] = ()
    underlay: str = "ipv4"


def make(name: str, directory: Path, wanted: Wanted, *, keep: bool = False) -> dict[str, Any]:
    """Bring a lab up; take it down again if that fails (unless `keep`). Gives what was made."""
    begun = time.monotonic()
    lab = Lab(name, directory, underlay=wanted.underlay)
    try:
        with render.working(f"lab {name}: fabric and controller"):
            lab.up()
            _settings_file(lab).write_text("".join(f"{name} = {_toml(text)}\n" for name, text in wanted.settings))
            start_controller(lab)
        names = [f"c{number}" for number in range(1, wanted.computes + 1)]
        with render.working(f"lab {name}: {render.counted(wanted.computes, 'compute')}"):
            lab.add_computes(names, register=MANAGER_TARGET)
            await_ready(lab, names)
        client = client_of(lab)
        networks = [_add_network(client, number) for number in range(1, wanted.networks + 1)]
        vms: list[dict[str, Any]] = []
        with render.working(f"lab {name}: VMs"):
            for compute in names:
                vms += _add_vms(lab, client, compute, wanted.vms_per_compute, networks)
            _await_reach(lab, vms)
    except Refused:
        raise  # there is such a lab already: it is not ours to take down
    except BaseException:
        if not keep:
            lab.down()
            leave_root()
        raise
    return {
        "lab": name,
        "dir": str(directory),
        "computes": names,
        "networks": [n["id"] for n in networks],
        "vms": vms,
        "seconds": round(time.monotonic() - begun, 3),
    }


def _settings_file(lab: Lab) -> Path:
    """What this lab's controller is set to, at its next start too."""
    return Path(lab.site.run_directory) / "controller.toml"


def _toml(text: str) -> str:
    """A value as TOML: numbers and truths as they are, all else as a string."""
    return text if re.fullmatch(r"[-+]?\d+(\.\d+)?|inf|true|false", text) else json.dumps(text)


def client_of(lab: Lab) -> Client:
    """The lab's own controller."""
    return Client(DEFAULT_URL, lab=str(lab.site.directory))


def start_controller(lab: Lab) -> None:
    """Start the lab's controller and wait until it leads. Running already: it is waited for only.

    Raises:
        NotReady: it ended, or does not lead in time; its last words are in the message.
    """
    if lab.spawned("controller") is None:
        # What is set for a controller of this shell's is not meant for the lab's.
        clean = [part for key in os.environ if key.startswith("EBBTIDE_") for part in ("-u", key)]
        options = ["--state-dir", str(lab.site.run_directory / "controller"), "--admission", "open"]
        options += ["--ovsdb-listen", f"ptcp:6640:{CONTROLLER}", "--openflow-listen", f"ptcp:6653:{CONTROLLER}"]
        if _settings_file(lab).exists():
            options += ["--config", str(_settings_file(lab))]
        options += ["--http", DEFAULT_URL.partition("//")[2], "--log-format", "json"]
        lab.spawn("controller", ["env", *clean, sys.executable, "-m", "ebbtide", "controller", *options])
    client = client_of(lab)

    def leads() -> bool:
        if lab.spawned("controller") is None:
            raise NotReady(f"the lab's controller ended: {_last_words(lab)}")
        try:
            client.exchange("GET", "/readyz", timeout=CALL_SECONDS)
        except EbbtideError:
            return False
        return True

    try:
        wait_until(leads, "the lab's controller to lead", START_SECONDS, every=0.05)
    except NotReady as error:
        raise NotReady(f"{error}; log: {lab.site.run_directory / 'controller.log'}") from None


def _last_words(lab: Lab) -> str:
    try:
        text = (lab.site.run_directory / "controller.log").read_text(errors="replace")
    except OSError:
        return "it left no log"
    return " / ".join(text.splitlines()[-_LOG_LINES:]) or "it left no word"


def await_ready(lab: Lab, names: Iterable[str]) -> None:
    """Until the controller calls all of these ready."""
    client, waited, seen = client_of(lab), set(names), dict[str, str]()

    def ready() -> bool:
        found = client.get("/computes", timeout=CALL_SECONDS)["computes"]
        seen.update({c["name"]: c["phase"] for c in found})
        return all(seen.get(name) == "ready" for name in waited)

    try:
        wait_until(ready, "computes to be ready", READY_SECONDS, every=0.05)
    except NotReady:
        left = ", ".join(f"{n} ({seen.get(n, 'not seen')})" for n in sorted(waited) if seen.get(n) != "ready")
        raise NotReady(f"not ready after {READY_SECONDS:g} s: {left}") from None


def _add_network(client: Client, number: int) -> dict[str, Any]:
    name = NAMES[number - 1] if number <= len(NAMES) else f"net{number}"
    subnet = f"10.{number}.0.0/16"
    made = client.call("POST", "/networks", {"id": name, "subnets": [subnet]})["network"]
    return {"id": name, "subnets": [subnet], "mtu": made["mtu"]}


def _add_vms(
    lab: Lab, client: Client, compute: str, count: int, networks: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """VMs on a compute, on the networks by turns. Port and VM have one name."""
    taken = {vm.name for vm in lab.vms()}
    number = 0
    made: list[dict[str, Any]] = []
    while len(made) < count:
        number += 1
        name = f"vm{number}"
        if name in taken:
            continue
        chosen = networks[(number - 1) % len(networks)]
        subnet = ipaddress.ip_network(chosen["subnets"][0])
        address = str(subnet[number])
        mac = f"02:eb:00:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
        body = {"id": name, "network": chosen["id"], "mac": mac, "addresses": [address]}
        client.call("POST", "/ports", body)
        lab.add_vm(name, compute, mac, f"{address}/{subnet.prefixlen}", name, mtu=chosen["mtu"])
        made.append({"name": name, "compute": compute, "network": chosen["id"], "ip": address, "mac": mac})
    return made


def _await_reach(lab: Lab, vms: Sequence[dict[str, Any]]) -> None:
    """Until the first VM of each network reaches each other one there."""
    first: dict[str, dict[str, Any]] = {}
    for vm in vms:
        start = first.setdefault(vm["network"], vm)
        if start is not vm and not lab.vm(start["name"]).reaches(vm["ip"], deadline=REACH_SECONDS):
            raise NotReady(f"{start['name']} does not reach {vm['name']} ({vm['ip']}) after {REACH_SECONDS:g} s")


def add_compute(lab: Lab, name: str | None, vms: int) -> dict[str, Any]:
    """One compute more, with VMs on the networks that there are."""
    client = client_of(lab)
    there = {compute.name for compute in lab.computes()}
    chosen = name or next(f"c{n}" for n in range(1, len(there) + 2) if f"c{n}" not in there)
    networks = [n for n in client.get("/networks")["networks"] if n.get("subnets")] if vms else []
    if vms and not networks:
        raise NotFound("there is no network with a subnet for the VMs: `ebbtide network add blue --subnet 10.1.0.0/16`")
    if chosen in there:
        raise BadInput(f"lab {lab.name} already has a compute {chosen}")
    with render.working(f"{chosen}: joining"):
        lab.add_compute(chosen, register=MANAGER_TARGET)
        await_ready(lab, [chosen])
        made = _add_vms(lab, client, chosen, vms, networks)
        for vm in made:
            others = [
                p for p in client.get("/ports")["ports"] if p["network"] == vm["network"] and p["id"] != vm["name"]
            ]
            known = {v.name for v in lab.vms() if v.active}
            peer = next((p for p in others if p["id"] in known and p["addresses"]), None)
            if peer is not None and not lab.vm(vm["name"]).reaches(peer["addresses"][0], deadline=REACH_SECONDS):
                raise NotReady(f"{vm['name']} does not reach {peer['id']} after {REACH_SECONDS:g} s")
    return {"compute": chosen, "vms": made}
