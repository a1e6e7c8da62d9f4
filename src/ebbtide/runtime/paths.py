"""Between which computes there is a path, and what it can carry: said when a compute becomes ready, and in its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebbtide.model import teps
from ebbtide.model.state import State
from ebbtide.runtime import vswitch

if TYPE_CHECKING:
    from ebbtide.runtime.cluster import Cluster
    from ebbtide.runtime.member import Member


#: Names listed in a sentence.
_SHOWN = 5


def narrow(cluster: Cluster, member: Member) -> str:
    """Why large packets of a network cannot leave this compute, or ""."""
    if member.tables is None or member.link is None:
        return ""
    bridge, mtu = vswitch.underlay(member.tables)
    state = cluster.state
    widest = _widest(state, member.number)
    own = state.computes.get(member.number)
    overhead = teps.OVERHEAD[teps.version(own.tep)] if own is not None else 0
    if widest is not None and 0 < mtu < widest[0] + overhead:
        return (
            f"network {widest[1]} has MTU {widest[0]} and needs {widest[0] + overhead} on the wire, {bridge} carries {mtu}: "
            "widen the path, or make the network's MTU smaller"
        )
    peers = state.peers(member.number) if member.number in state.computes else ()
    far = [state.computes[n].name for n in cluster.probes.narrow(member.number, peers)]
    if far:
        return f"large packets do not reach {', '.join(sorted(far)[:_SHOWN])}, small ones do: the path is too narrow on its way"
    return ""


def apart(state: State, number: int) -> str:
    """Why a compute has no tunnel to others that it needs one to, or "". Both ends say so."""
    own = state.computes.get(number)
    if own is None or not own.tep:
        return ""
    partners = (state.computes[n] for n in state.partners(number))
    far = sorted(c.name for c in partners if c.tep and teps.version(c.tep) != teps.version(own.tep))
    if not far:
        return ""
    names = ", ".join(far[:_SHOWN]) + (f" and {len(far) - _SHOWN} more" if len(far) > _SHOWN else "")
    return (
        f"no tunnel to {names}: its tunnel address {own.tep} is IPv{teps.version(own.tep)} and theirs are not: "
        "give all computes addresses of one version (other_config:local_ip)"
    )


def _widest(state: State, number: int) -> tuple[int, str] | None:
    """MTU and name of the widest network here; of all networks while nothing is plugged here yet."""
    here = state.networks_on.get(number) or state.networks
    return max(((state.networks[name].mtu, name) for name in here), default=None)
