"""A VM is plugged into a compute that has just joined: from `ovs-vsctl add-port` to the first answered ping, ours and OVN's.

Each time a new compute joins; when its controller says that it is ready (ours: phase ready; OVN: `ovn-nbctl --wait=hv sync`), a port
that was made beforehand is plugged. The guest asks a VM on another compute every millisecond. Both systems in labs of the same kind, in the
same run, one at a time; userspace datapath, VXLAN, neighbours known to the guests, so that ARP plays no part.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from .clusters import Cluster, Guest, Ours, Ovn, Pinger, lab_named, missing_ovn
from .rows import Options, Row, median, say, spread

ANCHOR = 1


def measure(cluster: Cluster, times: int) -> list[float]:
    """Seconds."""
    (base,) = cluster.join(["base"])
    first, last = 2, times + 3
    cluster.add_port(ANCHOR)
    anchor = Guest(cluster.lab, ANCHOR, base, range(first, last))
    anchor.plug()
    found = []
    for index in range(first, last):
        cluster.add_port(index)
        name = f"new{index}"
        (compute,) = cluster.join([name])
        guest = Guest(cluster.lab, index, compute, [ANCHOR])
        pinger = Pinger(guest, ANCHOR)
        begun = time.perf_counter()
        guest.plug()
        answered = pinger.wait(20)
        if answered is None:
            raise RuntimeError(f"{cluster.title}: no answer within 20 s")
        # The first one also brings the network to the anchor's compute.
        if index > first:
            found.append(answered - begun)
        guest.unplug()
        cluster.throw_away(name)
    say(f"plug: {cluster.title} {median(found) * 1000:.0f} ms, {spread(found, 1000, ' ms')}")
    return found


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    times = 5 if options.quick else 20
    name = (
        f"VM plugged into a compute that has just joined: first answered ping, median of {times} (userspace datapath)"
    )
    name += ", against OVN"
    with lab_named("benchours") as lab:
        ours = measure(Ours(lab), times)
    reason = missing_ovn()
    if reason:
        yield Row(name, None, "ms", None, 1.0, f"no OVN to compare with: {reason}; ours {median(ours) * 1000:.0f} ms")
        return
    with lab_named("benchovn") as lab:
        theirs = measure(Ovn(lab), times)
    note = f"ours {spread(ours, 1000, ' ms')}; OVN {spread(theirs, 1000, ' ms')}"
    yield Row(name, median(ours) * 1000, "ms", median(theirs) * 1000, 1.0, note)
