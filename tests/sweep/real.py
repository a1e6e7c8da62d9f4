"""The same on real switches, with traffic: `python -m tests.sweep.real [--sample N]`.

Two of four computes are drained in a lab: a router's NAT with connections through it, a VPN, VMs that the lab's mover moves, probes between
them. The controller is killed before and after transactions of its store, named and counted from outside by the wires; the first and the
last of each phase of a move, and of each kind of item, are among them. Each run must end with the drain done, both proofs complete, a clean
audit, a second search that finds nothing, no probe lost and no connection broken; its tables are compared with those of a run without a
blow (`dumps.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ebbtide.errors import EbbtideError
from ebbtide.lab import CONTROLLER, MANAGER_TARGET, Lab, wait_until
from ebbtide.lab.flows import Load, Traffic
from ebbtide.lab.mover import Mover
from ebbtide.lab.probes import Probes, pairs_among
from ebbtide.lab.rest import Api
from ebbtide.lab.second_search import identities_of, second_search
from tests.sweep import choice, dumps
from tests.sweep.site import PHYSICAL, make_store
from tests.sweep.wires import Config, Strike, WireConfig

#: Runs in which a point is to be reached.
TURNS = 3
COMPUTES, LEAVING, STAYING = "abcd", ("a", "b"), ("c", "d")
#: Nothing new: what is opened while there is no controller is in no record, and a move waits for it until `nat_patience`.
LOAD = Load.only(active=5, silent=5)
#: VM -> network's second byte, compute.
VMS = {"blue-1": (1, "a"), "blue-2": (1, "b"), "blue-3": (1, "c"), "green-1": (2, "b"), "green-2": (2, "d")}
NAMES = {1: "blue", 2: "green"}


class Found(NamedTuple):
    """What a run has come to: what passed, where the drain began, what is wrong, the tables of those who stay, and seconds."""

    passed: list[dict[str, Any]]
    begun: int
    faults: list[str]
    dump: dumps.Dump
    seconds: float


class Run:
    """One lab, its store behind wires, and its controller, which is started again whenever it has ended."""

    def __init__(self, directory: Path, strikes: Iterable[Strike]) -> None:
        directory.mkdir(parents=True)
        self.directory, self.lab = directory, Lab(f"rs{directory.name}", directory / "lab")
        self.lab.up()
        self.api, self._over = Api(self.lab), threading.Event()
        server = ["ovsdb-server", str(make_store(directory)), f"--remote=punix:{directory}/store.sock", "--no-chdir"]
        self.lab.spawn("store", [*server, f"--unixctl={directory}/store.ctl"])
        self._start_wires(list(strikes))
        self._start_controller()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        self.wait(lambda: bool(self.api.ask("GET", "/api/v1/status")["leading"]), "the controller to lead")

    def _start_wires(self, strikes: list[Strike]) -> None:
        store = f"unix:{self.directory}/store.sock"
        wire = WireConfig("store", f"unix:{self.directory}/wires.sock", store, database=store)
        config = Config(f"{self.directory}/wires.log", str(self.lab.site.run_directory), [wire], strikes)
        file = self.directory / "wires.json"
        file.write_bytes(msgspec.json.encode(config))
        root = str(Path(__file__).resolve().parents[2])
        self.lab.spawn("wires", [sys.executable, "-m", "tests.sweep.wires", str(file)], env={"PYTHONPATH": root})
        wait_until(Path(f"{config.log}.ready").exists, "the wires", 20)

    def _start_controller(self) -> None:
        command = [sys.executable, "-m", "ebbtide", "controller", "--state-dir", f"{self.directory}/state"]
        command += ["--store", f"unix:{self.directory}/wires.sock", "--http", "127.0.0.1:8181", "--admission", "open"]
        command += ["--ovsdb-listen", f"ptcp:6640:{CONTROLLER}", "--openflow-listen", f"ptcp:6653:{CONTROLLER}"]
        # A machine that is kept busy is not to be taken for a cloud that dies.
        self.lab.spawn("controller", [*command, "--bfd-interval-ms", "200"])

    def _keep(self) -> None:
        while not self._over.wait(0.1):
            if self.lab.spawned("controller") is None:
                self._start_controller()

    def wait(self, holds: Any, what: str, deadline: float = 60.0) -> None:
        """Until something holds; a controller that does not answer is one of which nothing holds."""

        def asked() -> bool:
            with contextlib.suppress(OSError, EbbtideError, KeyError, ValueError):
                return bool(holds())
            return False

        wait_until(asked, what, deadline, every=0.1)

    def post(self, path: str, body: object) -> None:
        """Asked again until it is answered."""
        self.wait(lambda: self.api.ask("POST", path, body) or True, path)

    def passed(self) -> list[dict[str, Any]]:
        """The log of the wires."""
        lines = (self.directory / "wires.log").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def close(self) -> None:
        """All of it goes."""
        self._over.set()
        self._keeper.join(10)
        self.lab.down()

    # --- the cloud ---

    def build(self) -> None:
        """Computes, networks, the way outside, a VPN, and VMs, one after the other so that all runs elect the same."""
        self.lab.add_host("outside", "203.0.113.1/24")
        for name in COMPUTES:
            self.lab.add_compute(name, register=MANAGER_TARGET, physical_network=PHYSICAL)
            self.wait_ready(name)
        for number, name in NAMES.items():
            self.post("/api/v1/networks", {"id": name, "subnets": [f"10.{number}.0.0/24"]})
        outside = {"id": "out", "physical": PHYSICAL, "subnet": "203.0.113.0/24", "gateway": "203.0.113.1"}
        self.post("/api/v1/externals", outside)
        self.post("/api/v1/routers", {"id": "r1", "external": "out", "addresses": ["203.0.113.10"]})
        self.post("/api/v1/routers/r1/attach", {"network": "blue", "address": "10.1.0.254"})
        self.post("/api/v1/vpns", {"id": "v1", "rd": "100:1", "imports": ["100:1"], "exports": ["100:1"]})
        self.post("/api/v1/vpns/v1/associate", {"network": "green"})
        for vm, (number, compute) in VMS.items():
            self._add_vm(vm, number, compute)
        self.wait(lambda: bool(self._router()["standby"] and self._router()["next-hop-mac"]), "a standby")
        self.wait_ready(*COMPUTES)

    def _add_vm(self, vm: str, number: int, compute: str) -> None:
        index = int(vm.split("-")[1])
        mac, ip = f"02:00:00:00:{number:02x}:{index:02x}", f"10.{number}.0.{10 + index}"
        self.post("/api/v1/ports", {"id": vm, "network": NAMES[number], "mac": mac, "addresses": [ip]})
        self.lab.add_vm(vm, compute, mac=mac, ip_cidr=f"{ip}/24", iface_id=vm, gateway=f"10.{number}.0.254")
        self.wait(lambda: any(b["phase"] == "active" for b in self._bindings(vm)), f"{vm} to be served")
        if vm == "blue-1":
            self.wait(lambda: self._router()["designated"] == "a", "a to serve the NAT")

    def _bindings(self, vm: str) -> list[dict[str, Any]]:
        return list(self.api.ask("GET", f"/api/v1/ports/{vm}")["bindings"])

    def _router(self) -> dict[str, Any]:
        return dict(self.api.ask("GET", "/api/v1/routers/r1"))

    def wait_ready(self, *names: str) -> None:
        """Until these are."""

        def ready() -> bool:
            found = {c["name"]: c["phase"] for c in self.api.ask("GET", "/api/v1/computes")["computes"]}
            return all(found.get(name) == "ready" for name in names)

        self.wait(ready, f"{', '.join(names)} to be ready")

    def identities(self) -> dict[str, set[str]]:
        """Of those who leave."""
        facts = {name: self.api.ask("GET", f"/api/v1/computes/{name}") for name in LEAVING}
        return {n: identities_of(self.lab.compute(n), int(f["number"]), int(f["dpid"])) for n, f in facts.items()}

    def drain(self) -> None:
        """From its beginning to its end, and until all is at rest."""
        over = threading.Event()
        mover = threading.Thread(target=Mover(self.lab, self.api.ask).run, args=(over.is_set,), daemon=True)
        mover.start()
        try:
            self.post("/api/v1/drains", {"computes": list(LEAVING), "vms": "lab"})
            self.wait(lambda: self._drained()["state"] not in ("running", "aborting"), "the drain to be over", 150)
        finally:
            over.set()
            mover.join(30)
        self.wait_ready(*STAYING)
        self.wait(lambda: bool(self._router()["standby"]) and not self._router()["move"], "a standby again")
        self.wait_ready(*STAYING)

    def _drained(self) -> dict[str, Any]:
        (found,) = self.api.ask("GET", "/api/v1/drains")["operations"]
        return dict(found)

    def faults(self, gone: dict[str, set[str]]) -> list[str]:
        """What is not as it should be, traffic apart."""
        told = []
        found = self._drained()
        if found["state"] != "done":
            told.append(f"the drain is {found['state']}: {found['reason']}")
        proofs = [p for p in self.api.ask("GET", "/api/v1/proofs")["proofs"] if p["clean"] and p["complete"]]
        if sorted(name for p in proofs for name in p["removed"]) != sorted(LEAVING):
            told.append(f"proven: {proofs}")
        self.wait(lambda: self.api.ask("POST", "/api/v1/audit", {})["clean"], "a clean audit", 30)
        computes = [self.lab.compute(name) for name in STAYING]
        return told + [line for known in gone.values() for line in second_search(computes, known)]

    def dump(self) -> dumps.Dump:
        """The tables of those who stay."""
        return {name: self._dump_of(name) for name in STAYING}

    def _dump_of(self, name: str) -> list[str]:
        compute = self.lab.compute(name)
        rows = json.loads(
            compute.vsctl("--format=json", "--columns=name,external_ids", "list", "Interface", wait=False)
        )
        names = dumps.roles({"name": n, "external_ids": dict(ids[1])} for n, ids in rows["data"])
        return dumps.normal(lambda what: compute.ofctl("--names", what, "br-int"), names)


@contextlib.contextmanager
def _running(directory: Path, strikes: Iterable[Strike]) -> Iterator[Run]:
    made = Run(directory, strikes)
    try:
        yield made
    finally:
        made.close()


def run(directory: Path, strikes: Iterable[Strike] = ()) -> Found:
    """One run."""
    began = time.monotonic()
    with _running(directory, strikes) as cloud:
        cloud.build()
        gone, blue = cloud.identities(), [cloud.lab.vm(name) for name in VMS if name.startswith("blue")]
        with Traffic(cloud.lab, "outside", blue, LOAD) as traffic, Probes(cloud.lab) as probes:
            traffic.wait_flowing()
            probes.start(pairs_among(blue), rate=50)
            probes.wait_flowing()
            traffic.reset()
            begun = len(cloud.passed())
            probes.mark_phase("drain")
            cloud.drain()
            traffic.speak()
            broken = traffic.report().failures()
            probes.mark_phase("after")
            lost = probes.stop().failures("drain")
        faults = [*cloud.faults(gone), *broken, *lost]
        return Found(cloud.passed(), begun, faults, cloud.dump(), time.monotonic() - began)


def chosen(found: list[Strike], sample: int, draw: random.Random) -> list[Strike]:
    """So many of these: the first and the last of each kind of thing that is written, then others as they are drawn."""
    kinds: dict[str, list[Strike]] = {}
    for strike in found:
        words = strike.name.split()
        kinds.setdefault(" ".join([words[0], words[1].partition("[")[0], *(w for w in words if "=" in w)]), []).append(
            strike
        )
    ends = list(dict.fromkeys(s for group in kinds.values() for s in (group[0], group[-1])))
    rest = [s for s in found if s not in set(ends)]
    draw.shuffle(rest)
    return (ends + rest)[: max(sample, 1)] if sample else found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep.real", description="Strike a drain of real switches.")
    parser.add_argument("--sample", type=int, default=60, help="so many strikes (0: all)")
    parser.add_argument("--skip", type=int, default=0, help="leave the first of them out")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="es-"))
    reference = run(directory / "r0")
    if reference.faults:
        tell(f"without a blow: {reference.faults}")
        return 1
    found = choice.strikes([reference.passed], reference.begun)
    strikes = chosen(found, options.sample, random.Random(options.seed))[options.skip :]
    tell(
        f"{len(found)} strikes at transactions of a drain of {reference.seconds:.0f} s, {len(strikes)} to be tried; logs: {directory}"
    )
    failures = missed = elsewhere = 0
    for number, strike in enumerate(strikes, 1):
        told: Found | None = None
        for turn in range(TURNS):
            place = directory / f"s{number}{'abcd'[turn]}"
            try:
                told = run(place, [strike])
                faults = told.faults
            except Exception as error:
                told, faults = None, [f"{type(error).__name__}: {error}"[:500]]
            if told is None or any("struck" in line for line in told.passed):
                break
        if told is not None and not any("struck" in line for line in told.passed):
            missed += 1
            tell(f"{number} not reached: {strike.name} {strike.when}")
        elif faults:
            failures += 1
            tell(f"{number} FAILED: {strike.name} {strike.nth} {strike.when}: {'; '.join(faults[:5])}")
            continue
        elif told is not None:
            other = dumps.differences(dumps.without_leases(reference.dump), dumps.without_leases(told.dump))
            elsewhere += bool(other)
            tell(
                f"{number} {'another end' if other else 'same'} {told.seconds:.0f} s: {strike.name} {strike.when} {other[:1] or ''}"
            )
        shutil.rmtree(place, ignore_errors=True)
    tried = len(strikes) - missed
    counts = {
        "points": len(found),
        "tried": tried,
        "not tried": len(found) - tried,
        "failures": failures,
        "another end": elsewhere,
    }
    tell(json.dumps({**counts, "seed": options.seed}))
    return 0 if not failures and not missed else 1


def tell(words: str) -> None:
    """A line."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
