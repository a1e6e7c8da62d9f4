"""What happens to a switch's flows, as the switch itself tells it: `ovs-ofctl monitor` reports every flow-mod, also one that
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.lab import Compute, Lab, wait_until

_TABLE = 200


class FlowWatch:
    """The reports on one switch since the watch began."""

    def __init__(self, lab: Lab, compute: Compute) -> None:
        self.compute = compute
        self.name = f"watch-{compute.name}"
        self._log = lab.site.run_directory / f"{self.name}.log"
        self._heard = 0

    def prove(self) -> None:
        """A flow is added and taken away by hand, and reported: from here on silence means that nothing happened."""
        wait_until(self._reports_a_flow, f"the watch on {self.compute.name} to report", every=0.1)
        self._heard = len(self._lines())

    def _reports_a_flow(self) -> bool:
        self.compute.ofctl("add-flow", "br-int", f"table={_TABLE},priority=1,cookie=0x77,actions=drop")
        self.compute.ofctl("del-flows", "br-int", f"table={_TABLE}")
        told = [line for line in self._lines() if f"table={_TABLE}" in line]
        return len(told) >= 2 and "DELETED" in told[-1]

    def _lines(self) -> list[str]:
        return [line for line in self._log.read_text().splitlines() if "event=" in line]

    def reports(self) -> list[str]:
        """Flow-mods since then; a last one by hand shows that all before it have been heard."""
        since = self._heard
        self.prove()
        return [line for line in self._lines()[since:] if f"table={_TABLE}" not in line]


@contextmanager
def watched(lab: Lab, *names: str) -> Iterator[list[FlowWatch]]:
    """Watch these computes' br-int."""
    watches = [FlowWatch(lab, lab.compute(name)) for name in names]
    try:
        for watch in watches:
            target = f"unix:{watch.compute.directory}/br-int.mgmt"
            control = f"--unixctl={lab.site.run_directory}/{watch.name}.ctl"
            lab.spawn(watch.name, ["ovs-ofctl", "-O", "OpenFlow10", control, "monitor", target, "watch:!initial"])
        for watch in watches:
            watch.prove()
        yield watches
    finally:
        for watch in watches:
            lab.kill_spawned(watch.name)
