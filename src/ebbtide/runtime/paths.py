"""What a path between computes can carry: said when a compute becomes ready, and in its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebbtide.model.state import State
from ebbtide.runtime import vswitch

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member

#: Bytes that a tunnel puts around a frame's payload: Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348).
TUNNEL_OVERHEAD = 50


def narrow(cluster: Cluster, member: Member) -> str:
    """Why large packets of a network cannot leave this compute, or ""."""
    if member.tables is None or member.link is None:
        return ""
    bridge, mtu = vswitch.underlay(member.tables)
    widest = _widest(cluster.state, member.number)
    if widest is not None and 0 < mtu < widest[0] + TUNNEL_OVERHEAD:
        return (
            f"network {widest[1]} has MTU {widest[0]} and needs {widest[0] + TUNNEL_OVERHEAD} on the wire, {bridge} carries {mtu}: "
            "widen the path, or make the network's MTU smaller"
        )
    state = cluster.state
    peers = state.peers(member.number) if member.number in state.computes else ()
    far = [state.computes[n].name for n in cluster.probes.narrow(member.number, peers)]
    if far:
        return (
            f"large packets do not reach {', '.join(sorted(far)[:5])}, small ones do: the path is too narrow on its way"
        )
    return ""


def _widest(state: State, number: int) -> tuple[int, str] | None:
    """MTU and name of the widest network here; of all networks while nothing is plugged here yet."""
    here = state.networks_on.get(number) or state.networks
    return max(((state.networks[name].mtu, name) for name in here), default=None)
