"""A compute is removed: how soon its tunnels have gone from all others, ours and OVN's.

What is timed. Ours: from the call of scalein-computes-end (REST) on a compute that is tombstoned, carries no ports and is alive. A
compute without ports has tunnels only where it has gateway relations, so it is given one to every other. OVN: from the call of
`ovn-sbctl chassis-del`, after the compute's ovn-controller was killed (a living one would register again). Until: no compute's OVSDB
has an Interface with the removed one's address as remote_ip any more, seen by a monitor on each. In both, the others have the full
mesh of tunnels among them (a port of one network on each), in labs of the same kind, in the same run; userspace datapath, VXLAN.

Of 100 it is done once: to build a full mesh of 100 userspace switches takes minutes on two cores.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from ebbtide.lab import Compute
from ebbtide.lab.commands import wait_until
from ebbtide.ovsdb import Replica, Session
from ebbtide.ovsdb import events as ev
from ebbtide.ovsdb.replica import Watch

from .clusters import Cluster, Ours, Ovn, lab_named, mac, missing_ovn
from .rows import Options, Row, median, say, spread


class TunnelWatch:
    """Monitors on the OVSDBs of some computes: who has a tunnel to an address."""

    def __init__(self, computes: Sequence[Compute], address: str) -> None:
        self._address = address
        self._selector = selectors.DefaultSelector()
        self._replicas: dict[str, Replica] = {}
        for compute in computes:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(compute.directory / "db.sock"))
            session = Session()
            session.get_schema("Open_vSwitch")
            connection.sendall(session.data_to_send())
            self._selector.register(connection, selectors.EVENT_READ, (compute.name, session))
        self._read(lambda: len(self._replicas) == len(computes) and all(r.synced for r in self._replicas.values()), 30)

    def _read(self, done: object, deadline: float) -> None:
        end = time.monotonic() + deadline
        while not done():  # type: ignore[operator]
            if time.monotonic() > end:
                raise RuntimeError(f"still there after {deadline:.0f} s: {', '.join(self.holders()[:5])}")
            for key, _ in self._selector.select(0.5):
                name, session = key.data
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                for event in session.receive(connection.recv(1 << 18)):
                    if isinstance(event, ev.SchemaReceived):
                        self._replicas[name] = Replica(event.schema, {"Interface": Watch(("name", "options"))})
                        session.monitor(self._replicas[name])
                if data := session.data_to_send():
                    connection.sendall(data)

    def holders(self) -> list[str]:
        """Computes that have a tunnel to the address."""
        return [
            name
            for name, replica in self._replicas.items()
            if any(row["options"].get("remote_ip") == self._address for row in replica.rows("Interface").values())
        ]

    def until_gone(self, deadline: float) -> float:
        """When the last one has gone."""
        self._read(lambda: not self.holders(), deadline)
        return time.perf_counter()

    def close(self) -> None:
        """Hang up."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()


def _mesh(cluster: Cluster, computes: Sequence[Compute]) -> None:
    """One port of the network on each."""
    for index, compute in enumerate(computes, 1):
        cluster.add_port(index)
        ids = [f"external_ids:iface-id=port{index}", f'external_ids:attached-mac="{mac(index)}"']
        compute.vsctl(
            *("add-port", "br-int", f"vm{index}", "--", "set", "Interface", f"vm{index}"), "type=internal", *ids
        )


def _tunnels(compute: Compute) -> int:
    text = compute.vsctl("--format=csv", "--no-headings", "--columns=type,ofport", "find", "Interface", "type=vxlan")
    return sum(line.startswith("vxlan,") and not line.endswith(("-1", "[]")) for line in text.splitlines())


def _measure(cluster: Cluster, size: int, times: int) -> list[float]:
    """Seconds, for one compute after the other removed of `size` and replaced by a new one."""
    others = [f"c{number}" for number in range(1, size)]
    computes: list[Compute] = []
    for at in range(0, len(others), 10):
        computes += cluster.join(others[at : at + 10])
    _mesh(cluster, computes)
    found = []
    for turn in range(times):
        name = f"gone{turn}"
        (gone,) = cluster.join([name])
        if isinstance(cluster, Ours):
            cluster.relate(name, others)
        wait_until(
            lambda: all(_tunnels(c) >= size - 1 for c in computes), f"{size - 1} tunnels on each", 180, every=0.2
        )
        time.sleep(2.0)
        watch = TunnelWatch(computes, gone.tep)
        assert len(watch.holders()) == len(computes), watch.holders()
        if isinstance(cluster, Ours):
            cluster.mark(name)
        elif isinstance(cluster, Ovn):
            cluster.stop(name)
        time.sleep(1.0)
        begun = time.perf_counter()
        call = threading.Thread(target=cluster.remove, args=[name])
        call.start()
        found.append(watch.until_gone(120) - begun)
        call.join()
        watch.close()
        cluster.lab.remove_compute(name)
    say(f"removal: {cluster.title}, of {size}: {median(found) * 1000:.0f} ms, {spread(found, 1000, ' ms')}")
    return found


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    reason = missing_ovn()
    sizes = {5: 5, 30: 2} if options.quick else {5: 7, 30: 5, 100: 1}
    for size, times in sizes.items():
        name = f"a compute of {size} removed: its tunnels gone from all others (userspace datapath), against OVN"
        try:
            with lab_named(f"rmours{size}") as lab:
                ours = _measure(Ours(lab), size, times)
            if reason:
                yield Row(
                    name, None, "ms", None, 1.0, f"no OVN to compare with: {reason}; ours {median(ours) * 1000:.0f} ms"
                )
                continue
            with lab_named(f"rmovn{size}") as lab:
                theirs = _measure(Ovn(lab), size, times)
        except Exception as error:
            yield Row(name, None, "ms", None, 1.0, f"could not be measured: {str(error)[:300] or error!r}")
            continue
        note = f"ours {spread(ours, 1000, ' ms')}; OVN {spread(theirs, 1000, ' ms')}"
        yield Row(name, median(ours) * 1000, "ms", median(theirs) * 1000, 1.0, note)
    if options.quick:
        name = "a compute of 100 removed: its tunnels gone from all others, against OVN"
        yield Row(name, None, "ms", None, None, "not measured with --quick")
