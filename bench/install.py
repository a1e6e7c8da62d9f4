"""100,000 distinct flows on one real switch: from State to barrier, and a reconnect when nothing has changed.

Ours is the whole way of the product, in a controller in this process, on a lab compute (its own ovs-vswitchd, userspace datapath):
rows looked at, `cur_cfg` awaited, the switch dumped, everything compiled, compared, encoded, sent in bundles, and the last barrier
answered. The reference is `ovs-ofctl`, on the same switch, with the same flows, in turns with ours.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ebbtide.lab import Compute
from ebbtide.model.facts import Edit, Fact
from ebbtide.model.state import State
from ebbtide.runtime.member import Member
from ebbtide.runtime.switch import SwitchLink
from tests.support.cloud import Cloud

from . import clouds
from .rows import Options, Row, median, say, spread

FLOWS = 100_000
NETWORKS = 10
_COUNTERS = re.compile(r"(duration|n_packets|n_bytes|idle_age|hard_age|n_offload_packets|n_offload_bytes)=[^, ]+,? ?")


class Wide:
    """A lab of one compute, and a store that makes it hold many flows: for ports of a compute that never connects."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        cloud.add_computes("here")
        state = cloud.controller.app.cluster.state
        number = state.by_name["here"]
        self.compute: Compute = cloud.lab.compute("here")
        self.member: Member = cloud.controller.member("here")
        for index in range(1, NETWORKS + 1):
            port = ("--", "add-port", "br-int", f"w-p{index}", "--", "set", "Interface", f"w-p{index}", "type=internal")
            self.compute.vsctl(*port, f"external_ids:iface-id=w-p{index}")
        self._store(clouds.wide(FLOWS, number, number + 1, NETWORKS))
        self._idle()

    def _store(self, facts: list[Fact]) -> None:
        """In a few transactions, straight into the store: making the State is not what is measured."""
        for at in range(0, len(facts), 20_000):
            edits = [Edit(None, fact) for fact in facts[at : at + 20_000]]

            def decide(state: State, edits: list[Edit] = edits) -> tuple[list[Edit], None]:
                return edits, None

            self.cloud.call(self.cloud.controller.app.cluster.store.commit(decide), 120)

    def _idle(self) -> None:
        self.cloud.wait(lambda: self.member.clean, 300, "all installed")

    def command(self, *words: str) -> list[str]:
        """`ovs-ofctl` on br-int, as the lab does it."""
        return ["ovs-ofctl", "-O", "OpenFlow14", *words]

    def timed(self, *words: str, output: Path | None = None) -> float:
        """Wall time of one ovs-ofctl, in seconds."""
        with (output or Path("/dev/null")).open("w") as out:
            begun = time.perf_counter()
            environment = self.compute._environment()
            subprocess.run(self.command(*words), env=environment, check=True, stdout=out, stderr=subprocess.PIPE)
            return time.perf_counter() - begun

    def clear(self, groups: bool) -> None:
        """No flows on the switch, and with `groups` none of these either."""
        self.timed("del-flows", "br-int")
        if groups:
            self.timed("del-groups", "br-int")

    def resync(self) -> tuple[float, int]:
        """Everything compared with what the switch holds: seconds, and flow-mods sent."""
        member = self.member

        async def go() -> tuple[float, int]:
            # Shared fragments are kept between changes; here they are made anew.
            self.cloud.controller.app.cluster.compiled.clear()
            count = member.resyncs
            begun = time.perf_counter()
            member.synced = False
            member.touch_rows()
            assert await self.cloud.controller.app.cluster.wait_for(lambda: member.resyncs > count, 120)
            return time.perf_counter() - begun, member.resync_flow_mods

        return self.cloud.call(go(), 150)

    def reconnect(self) -> tuple[float, float, int]:
        """The switch's connection is cut, and it comes back: seconds from its features reply to "all compared"; seconds that its
        handshake took before that; flow-mods sent.

        The handshake is left out: between two of its messages vswitchd sleeps, up to half a second, until a timer of its own rings (seen
        in a trace of its system calls; with the same luck whatever it holds)."""
        member, cluster = self.member, self.cloud.controller.app.cluster
        times: dict[str, float] = {}
        serve, owner = cluster.openflow_session, cluster._owner

        async def accepted(*streams: Any) -> None:
            times["accepted"] = time.perf_counter()
            await serve(*streams)

        def ready(switch: SwitchLink) -> Member:
            times.setdefault("ready", time.perf_counter())
            return owner(switch)

        async def go() -> tuple[float, float, int]:
            count = member.resyncs
            assert member.switch is not None
            cluster.openflow_session = accepted  # type: ignore[method-assign,assignment]
            cluster._owner = ready  # type: ignore[method-assign]
            try:
                member.switch.close("the benchmark cuts it")
                assert await cluster.wait_for(lambda: member.resyncs > count, 120)
            finally:
                del cluster.openflow_session, cluster._owner
            end = time.perf_counter()
            return end - times["ready"], times["ready"] - times["accepted"], member.resync_flow_mods

        return self.cloud.call(go(), 150)


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    times = 2 if options.quick else 3
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as name:
        folder = Path(name)
        cloud = Cloud("bench", folder)
        try:
            yield from _measure(Wide(cloud, folder), times)
        finally:
            cloud.down()


def _measure(wide: Wide, times: int) -> Iterator[Row]:
    dump = wide.folder / "dump.txt"
    wide.timed("--no-names", "dump-flows", "br-int", output=dump)
    flows = wide.folder / "flows.txt"
    lines = [_COUNTERS.sub("", line).strip() for line in dump.read_text().splitlines() if "actions=" in line]
    flows.write_text("\n".join(lines) + "\n")
    say(f"install: {len(lines)} flows on the switch")
    ours, theirs = [], []
    for _ in range(times):
        wide.clear(groups=True)
        taken, sent = wide.resync()
        assert sent == len(lines), (sent, len(lines))
        ours.append(taken)
        wide.clear(groups=False)
        theirs.append(wide.timed("--bundle", "add-flows", "br-int", str(flows)))
    where = "userspace datapath, real switch"
    note = f"ours {spread(ours)}; ovs-ofctl {spread(theirs)}; nothing compiled beforehand"
    name = f"install {len(lines)} flows, from State to barrier ({where}), against ovs-ofctl --bundle add-flows"
    yield Row(name, median(ours), "s", median(theirs), 1.2, note)
    ours, theirs, cold, greetings = [], [], [], []
    sent_at_reconnect = 0
    for _ in range(2 * times - 1):
        taken, greeting, sent = wide.reconnect()
        ours.append(taken)
        greetings.append(greeting)
        sent_at_reconnect += sent
        theirs.append(wide.timed("dump-flows", "br-int"))
        taken, sent = wide.resync()
        cold.append(taken)
        sent_at_reconnect += sent
    name = f"reconnect of a switch that holds {len(lines)} flows unchanged ({where}), against ovs-ofctl dump-flows"
    note = f"ours {spread(ours)}, from features reply to all compared; ovs-ofctl {spread(theirs)}"
    note += f"; the switch's handshake before that, {spread(greetings)}, is not counted"
    yield Row(name, median(ours), "s", median(theirs), 2.0, note)
    name = "flow-mods sent at these reconnects"
    yield Row(name, float(sent_at_reconnect), "", None, 0.0)
    name = f"the same with nothing compiled beforehand, as after a restart of the controller ({where})"
    yield Row(name, median(cold), "s", median(theirs), None, spread(cold))
