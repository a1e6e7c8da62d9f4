"""A live migration as Nova and QEMU do it, one step at a time: the caller decides when the next one comes.

      step       at the source                at the destination             who runs the guest
      begin      plugged                      plugged too, same iface-id     source
      switch     port still there, silent     RARP in the guest's name       destination
      finish     unplugged                    plugged                        destination
    or
      fail       plugged                      unplugged                      source

Between begin and switch lie seconds to minutes of memory copying, in which both computes have the port.
A step out of turn is refused.
"""

from __future__ import annotations

import threading
import time

from ..errors import EbbtideError, Refused
from .compute import Compute
from .vm import Vm

# QEMU's announce: the first at once, then growing pauses, in seconds (announce-initial 50 ms, -step 100 ms).
ANNOUNCE_PAUSES = (0.05, 0.15, 0.25, 0.35)

_BEFORE = {"begin": "ready", "switch": "begun", "finish": "switched", "fail": "begun"}
_AFTER = {"begin": "begun", "switch": "switched", "finish": "finished", "fail": "failed"}


class Migration:
    """One VM on its way to one compute."""

    def __init__(self, vm: Vm, destination: Compute) -> None:
        source = vm.active
        if not source:
            raise Refused(f"{vm.name} runs nowhere: plug it first")
        if source == destination.name:
            raise Refused(f"{vm.name} already runs on {source}")
        self.vm = vm
        self.source = Compute(vm.site, vm.site.read().computes[source])
        self.destination = destination
        self.state = "ready"
        self._announcing: threading.Thread | None = None

    def begin(self, deadline: float = 20.0) -> None:
        """Plug it at the destination, where the guest does not run yet."""
        self._turn("begin")
        self.vm.plug(self.destination, active=False, deadline=deadline)
        self.state = _AFTER["begin"]

    def switch(self, linger: float = 0.003, announce: bool = True) -> None:
        """The guest runs at the destination from now on. The first announcement is out when this returns."""
        self._turn("switch")
        self.vm.run_on(self.destination, linger)
        self.state = _AFTER["switch"]
        if announce:
            self.vm.send_rarp()
            self._announcing = threading.Thread(target=self._announce, name=f"announce {self.vm.name}", daemon=True)
            self._announcing.start()

    def finish(self) -> None:
        """Unplug it at the source. Announcements still to come are sent from a thread."""
        self._turn("finish")
        self.vm.unplug(self.source)
        self.state = _AFTER["finish"]

    def fail(self) -> None:
        """The migration is given up before the switch: the guest has never left."""
        self._turn("fail")
        self.vm.unplug(self.destination)
        self.state = _AFTER["fail"]

    def _turn(self, step: str) -> None:
        if self.state != _BEFORE[step]:
            raise Refused(f"{step} of {self.vm.name} comes after {_BEFORE[step]}; the migration is {self.state}")

    def _announce(self) -> None:
        for pause in ANNOUNCE_PAUSES:
            time.sleep(pause)
            try:
                self.vm.send_rarp()
            except (EbbtideError, OSError, KeyError):
                return  # the VM or the lab is gone meanwhile: nothing to announce

    def await_announced(self) -> None:
        """Until the last announcement is out: 0.8 s after the switch."""
        if self._announcing is not None:
            self._announcing.join()
