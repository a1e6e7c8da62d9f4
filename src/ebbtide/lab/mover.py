"""The lab's mover of VMs: takes those that drains have to empty, and migrates them as libvirt does.

It is a process of its own, like Nova's would be: it asks for VMs over REST, says while it is at them that it is, and gives up what the
controller has taken from it. Killed in the middle of a migration, it ends what it had begun when it starts again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ebbtide.errors import EbbtideError, NotReady, Refused
from ebbtide.lab.commands import wait_until
from ebbtide.lab.compute import Compute
from ebbtide.lab.lab import Lab
from ebbtide.lab.vm import Vm

KIND = "lab"
#: Seconds between two questions for VMs, and between two words about one.
PAUSE, BEAT = 0.5, 5.0
#: Seconds without an answer after which a VM is given up: the controller gives it to another.
LEASE = 28.0
#: Seconds for which a guest's memory is copied, at least: cached datapath flows follow their tables within one.
OVERLAP = 1.5
#: Seconds after the switch for which a guest is left plugged at its old place while the controller serves it there.
SERVED = 5.0
#: Seconds between two looks for what somebody left half done.
TIDY = 10.0
Ask = Callable[..., Any]


class _Job:
    """One VM that is being moved."""

    def __init__(self, claim: Mapping[str, Any]) -> None:
        self.claim = claim
        self.lost = threading.Event()
        self.told = self.heard = time.monotonic()
        self.thread: threading.Thread | None = None


class Mover:
    """`ask`: `rest.Api.ask`, or what stands for it. `failing`: VMs whose migration is to fail, for trials."""

    def __init__(
        self, lab: Lab, ask: Ask, name: str = KIND, at_once: int = 4, failing: frozenset[str] = frozenset()
    ) -> None:
        self._lab, self._ask, self._name, self._at_once = lab, ask, name, at_once
        self.failing = failing
        self._jobs: dict[str, _Job] = {}

    def run(self, over: Callable[[], bool] = lambda: False) -> None:
        """Until `over` says so; what is under way then is finished."""
        tidied = float("-inf")
        while not over():
            try:
                if time.monotonic() - tidied > TIDY:
                    self._tidy()
                    tidied = time.monotonic()
                self._round()
            except (OSError, NotReady):
                pass  # the controller restarts: asked again
            time.sleep(PAUSE)
        for job in list(self._jobs.values()):
            if job.thread is not None:
                job.thread.join()

    def _round(self) -> None:
        for vm, job in list(self._jobs.items()):
            if time.monotonic() - job.heard > LEASE:
                job.lost.set()  # it is somebody else's by now
            if job.thread is not None and not job.thread.is_alive():
                del self._jobs[vm]
            elif time.monotonic() - job.told > BEAT:
                self._tell(job)
        free = self._at_once - len(self._jobs)
        body = {"mover": self._name, "free": free, "holding": sorted(self._jobs)}
        if free:
            for claim in self._ask("POST", f"/api/v1/movers/{KIND}/claim", body)["claims"]:
                job = self._jobs[claim["vm"]] = _Job(claim)
                job.thread = threading.Thread(target=self._move, args=(job,), name=f"move {claim['vm']}", daemon=True)
                job.thread.start()

    def _tell(self, job: _Job, failure: str = "") -> None:
        job.told = time.monotonic()
        told = {k: job.claim[k] for k in ("operation", "vm", "claim")}
        try:
            self._ask("POST", f"/api/v1/movers/{KIND}/report", {**told, "mover": self._name, "failure": failure})
        except Refused:
            job.lost.set()
        else:
            job.heard = job.told

    # --- one migration ---

    def _move(self, job: _Job) -> None:
        try:
            failure = self._migrate(job)
        except (EbbtideError, OSError, KeyError) as error:
            failure = str(error) or repr(error)
        deadline = time.monotonic() + 60
        while failure and time.monotonic() < deadline:
            try:
                self._tell(job, failure)
                return
            except (OSError, NotReady):
                time.sleep(PAUSE)

    def _migrate(self, job: _Job) -> str:
        """Why it has failed; "": it has not."""
        vm, target = job.claim["vm"], job.claim["target"]
        if not target:
            return "no other compute was proposed for it"
        guest = self._lab.vm(vm)
        # One that was under way when this mover was killed, or its answer lost.
        self._unplug_idle(guest)
        if guest.active == target:
            return ""
        migration = self._lab.migration(vm, target)
        migration.begin()
        try:
            wait_until(lambda: job.lost.is_set() or self._is_prepared(vm, target), f"{vm} to be prepared on {target}")
            until = time.monotonic() + OVERLAP
            wait_until(lambda: job.lost.is_set() or time.monotonic() >= until, "memory to be copied")
            if vm in self.failing:
                raise Refused(f"{vm} does not fit on {target}")
            if job.lost.is_set():
                raise Refused(f"{vm} is not to be moved any more")
        except EbbtideError:
            migration.fail()
            raise
        self.copied(vm, migration.source.name)
        migration.switch()
        # Nova does not wait for this at all. A silent guest's announcements may all have gone while no controller ran: then it is the
        # unplug at its old place that says where it is.
        with contextlib.suppress(NotReady):
            wait_until(lambda: self._place(vm) == target, f"{vm} to be served on {target}", deadline=SERVED)
        migration.finish()
        return ""

    def copied(self, vm: str, source: str) -> None:
        """The guest is about to wake at its new place."""

    def _port(self, vm: str) -> list[dict[str, Any]]:
        """Where the controller has it; [] while it does not answer."""
        try:
            found: list[dict[str, Any]] = self._ask("GET", f"/api/v1/ports/{vm}")["bindings"]
        except (OSError, NotReady):
            return []
        return found

    def _place(self, vm: str) -> str:
        return next((b["compute"] for b in self._port(vm) if b["phase"] == "active"), "")

    def _is_prepared(self, vm: str, target: str) -> bool:
        if len(self._port(vm)) != 2:
            return False
        try:
            found = self._ask("GET", f"/api/v1/computes/{target}")
        except (OSError, NotReady):
            return False
        return bool(found["phase"] == "ready")

    # --- after a death in the middle ---

    def _tidy(self) -> None:
        """A guest is plugged where it does not run, and no mover is at it: its migration was begun, or had switched; the plug goes."""
        for operation in self._ask("GET", "/api/v1/drains")["operations"]:
            if operation["state"] != "running":
                continue
            told = self._ask("GET", f"/api/v1/operations/{operation['id']}")
            for item in told["items"] if told["vms"] == KIND else ():
                idle = item["state"] in ("moving", "pending") and not item["mover"] and item["object"] not in self._jobs
                if item["kind"] == "vm" and idle:
                    self._unplug_idle(self._lab.vm(item["object"]))

    def _unplug_idle(self, vm: Vm) -> None:
        active = vm.active
        for name in vm.plugged:
            if active and name != active:
                vm.unplug(Compute(vm.site, vm.site.read().computes[name]))
