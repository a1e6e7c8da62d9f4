"""What secured ports are refused, as their rows without actions count it (`compile/features/security.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ebbtide.compile import ledger
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Port
from ebbtide.model.state import home_zone

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster


class Drops(NamedTuple):
    """Packets, since the port came to the computes where it is: what it has sent that is not its own, what came and was not for its MAC,
    what no rule lets out and in, and what was to begin a connection when there were too many beginnings."""

    not_its_own: int = 0
    not_for_it: int = 0
    out: int = 0
    into: int = 0
    too_many: int = 0


_COUNTERS = (
    (T.SECURITY_OUT, Priority.REFUSED_HERE),
    (T.SECURITY_IN, Priority.REFUSED_HERE),
    (T.OUT_VERDICT, Priority.NOT_ALLOWED),
    (T.IN_VERDICT, Priority.NOT_ALLOWED),
)


async def read(cluster: Cluster, port: Port) -> Drops | None:
    """The counters of all places where the port is; None: none of them could be asked."""
    cookie = ledger.cookie(Kind.PORT, Feature.SECURITY, port.lport)
    counts, asked, cut = dict.fromkeys(_COUNTERS, 0), False, 0
    for binding in cluster.state.bindings.get(port.id, ()):
        member = cluster.members.get(binding.compute)
        if member is None or not member.connected or member.switch is None:
            continue
        try:
            for table, priority in _COUNTERS:
                for flow in await member.switch.flows_of(table, cookie, ledger.UPPER_COOKIE_MASK):
                    counts[table, priority] += flow.n_packets if flow.priority == priority else 0
            zone = binding.zone or home_zone(port.lport)
            for inbound in (False, True):
                cut += await member.switch.dropped_by(ledger.port_meter(zone, inbound))
        except EbbtideError:
            continue  # it has just gone, or does not answer
        asked = True
    own, other, out, into = counts.values()
    return Drops(own, other, out, into, cut) if asked else None
