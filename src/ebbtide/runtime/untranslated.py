"""What routers' NATs refuse to translate, as the counters of their flows tell (`compile/features/nat.py`, REFUSED).

Nothing of it is ever opened, so a move has nothing of it to carry, and nothing of it is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ebbtide.compile import ledger
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.errors import EbbtideError
from ebbtide.model.facts import Router

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster


class Refusals(NamedTuple):
    """Packets, since the flows came to the computes that serve now: SCTP, and any other protocol but TCP, UDP and ICMP."""

    sctp: int = 0
    other: int = 0


async def read(cluster: Cluster, router: Router) -> Refusals | None:
    """The counters of all who have a part in this router's NAT; None: none of them could be asked."""
    cookie = ledger.cookie(Kind.ROUTER, Feature.NAT, router.tag)
    counted, asked = {Priority.REFUSED_SCTP: 0, Priority.REFUSED: 0}, False
    for number in sorted(cluster.state.servers(router.id)):
        member = cluster.members.get(number)
        if member is None or not member.connected or member.switch is None:
            continue
        try:
            flows = await member.switch.flows_of(T.NAPT_OUT, cookie, ledger.UPPER_COOKIE_MASK)
        except EbbtideError:
            continue  # it has just gone, or does not answer
        asked = True
        for flow in flows:
            if flow.priority in counted:
                counted[flow.priority] += flow.n_packets
    return Refusals(counted[Priority.REFUSED_SCTP], counted[Priority.REFUSED]) if asked else None
