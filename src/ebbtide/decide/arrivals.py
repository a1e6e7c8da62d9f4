"""Whether what Neutron calls a port is served.

ACTIVE when it is plugged, and its own compute and all that can be heard and send to it have confirmed what they need for that; BUILD when
it is plugged and they have not; DOWN when it is plugged nowhere. A router's port is ACTIVE where the router is.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import NamedTuple

from ebbtide.decide import documents
from ebbtide.decide.bodies import GATEWAY, LEGS, PortBody
from ebbtide.model.facts import BindingPhase, Port
from ebbtide.model.state import State

ACTIVE, BUILD, DOWN = "ACTIVE", "BUILD", "DOWN"

#: Of an `Arrival`, in the place of a compute.
A_ROUTER = -1


def _nothing(port: str) -> bool:
    return False


class Heard(NamedTuple):
    """What is heard of a compute: the newest revision that it has confirmed; whether it is waited for (it is connected, and ours); which
    ports have flows of their own there, confirmed: one whose interface its switch has not made yet has none."""

    applied: int = 0
    counts: bool = False
    serves: Callable[[str], bool] = _nothing


class Arrival(NamedTuple):
    """How far a port has come. `places`: computes where it is plugged and which have confirmed it, two in a live migration; `blocked`: the
    compute that has to confirm something before anything changes (0: none; A_ROUTER: a router has to come)."""

    status: str
    places: tuple[int, ...] = ()
    blocked: int = 0


def of_port(state: State, name: str, heard: Callable[[int], Heard], lowest: int = -1) -> Arrival:
    """How far a document of Neutron's ports has come. `lowest`: all that count have confirmed this revision."""
    port = state.ports.get(name)
    if port is None:
        document = state.document("ports", name)
        body = documents.read("ports", document.body) if document is not None else None
        if body is None or not body.router:
            return Arrival(DOWN)
        return Arrival(ACTIVE) if _is_placed(state, body) else Arrival(DOWN, blocked=A_ROUTER)
    places, blocked, status = [], 0, DOWN
    for binding in state.bindings.get(name, ()):
        if binding.phase is BindingPhase.LEAVING:
            continue
        there = heard(binding.compute)
        here = there.applied >= binding.since and there.serves(name)
        if here:
            places.append(binding.compute)
        else:
            blocked = binding.compute
        if binding.phase is BindingPhase.ACTIVE:
            waits = binding.compute if not here else 0
            if here and lowest < binding.since:
                waits = next((n for n in sorted(senders(state, port)) if _lags(heard(n), binding.since)), 0)
            status = BUILD if waits else ACTIVE
            blocked = waits or blocked
    return Arrival(status, tuple(sorted(places)), blocked)


def hosts(state: State, found: Arrival) -> tuple[str, ...]:
    """What Neutron calls the computes where a port is plugged, and confirmed."""
    return tuple(state.computes[number].host for number in found.places if number in state.computes)


def senders(state: State, port: Port) -> Set[int]:
    """The computes that send to a port: those of its network, of its routers and VPNs, and of who lets its groups in."""
    found = set(state.footprint(port.network))
    for vrf in state.vrfs_with(port.network):
        found |= state.reach(vrf)
    for group in port.groups:
        found |= state.asks_for(group)
    return found


def _lags(heard: Heard, revision: int) -> bool:
    return heard.counts and heard.applied < revision


def _is_placed(state: State, body: PortBody) -> bool:
    """Whether a router is where this port of it is."""
    router = state.routers.get(body.router)
    if router is None:
        return False
    if body.device_owner == GATEWAY:
        return router.external == body.network_id
    held = {(leg.network, leg.address) for leg in state.places(router.id)}
    wanted = {(body.network_id, fixed.ip_address) for fixed in body.fixed_ips or ()}
    return body.device_owner in LEGS and bool(wanted) and wanted <= held
