"""Why things are as they are, in words. The wording is pure; `story` gathers what it needs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ebbtide.compile import ledger
from ebbtide.compile.features import tunnel
from ebbtide.decide.lifecycle import resolve
from ebbtide.decide.scalein import carried
from ebbtide.errors import NotFound
from ebbtide.model.facts import Binding, BindingPhase, Compute, Membership, Network, Port, format_mac
from ebbtide.model.state import State
from ebbtide.north.shapes import name_of
from ebbtide.runtime.service import Service

_SHOWN = 8
#: Pairs of computes whose tunnels are looked at: all of a footprint of 100.
_PAIRS = 4950
_PHASES = {
    "waiting": "it has registered and waits for admission",
    "foreign": "its br-int is another system's, and nothing is written to it",
    "connected": "it is known, but its flows are not confirmed now",
    "reconciled": "its flows were compared and sent",
    "ready": "its flows are confirmed by barrier",
    "braked": "the brake holds it: nothing is sent",
    "quarantined": "it was removed: it may connect, and gets nothing",
}
_BINDINGS = {
    BindingPhase.PENDING: "programmed in advance; the port is not there yet",
    BindingPhase.ACTIVE: "the port is served there",
    BindingPhase.LEAVING: "the port has left; frames that still come are forwarded",
}


def some(names: Sequence[str]) -> str:
    """A list for a sentence, cut at a length that can be read."""
    if not names:
        return "none"
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def compute_story(state: State, compute: Compute, status: Mapping[str, Any]) -> list[str]:
    """Why a compute is in its phase, what it carries, and what keeps it from leaving."""
    name, number = compute.name, compute.number
    lines = [f"{name} is {status['phase']}: {_PHASES.get(status['phase'], status['phase'])}."]
    if status["reason"]:
        lines.append(f"Reason: {status['reason']}.")
    if compute.membership is Membership.REMOVED:
        lines.append(f"Removed at revision {compute.removed_at}; known by {some(sorted(compute.identities()))}.")
        owing = sorted(name_of(state, d.compute) for d in state.debts.values() if d.removed == number)
        lines.append(f"Its cleaning is owed by {some(owing)}.")
        return lines
    if status["connected"]:
        lag = state.revision - status["applied"]
        told = f"applied revision {status['applied']}" + (f", {lag} behind" if lag > 0 else ", nothing is behind")
        lines.append(f"Both of its sessions are up; it has {told}.")
    else:
        lines.append("It is unreachable: its sessions are not both up. Nothing is taken from it for that.")
    lines.append(f"Tunnel end point: {compute.tep or 'none announced (other_config:local_ip), so it has no tunnels'}.")
    peers = sorted(name_of(state, n) for n in state.peers(number))
    lines.append(f"It shares a network or a gateway relation with {len(peers)} compute(s): {some(peers)}.")
    ports = carried(state, number)
    lines.append(f"It carries {len(ports)} port(s): {some(ports)}.")
    if compute.tombstoned:
        lines.append(
            "It is tombstoned: nothing is elected to it. "
            + (f"{len(ports)} port(s) keep it from being ended." if ports else "It is empty and may be ended.")
        )
    if status["rejected"]:
        lines.append(f"Its switch has refused {len(status['rejected'])} fragment(s): {some(status['rejected'])}.")
    if status["debts"]:
        lines.append(f"It was unreachable when {some(status['debts'])} left, and may still hold something of them.")
    return lines


def port_story(state: State, port: Port, plugged: Sequence[str]) -> list[str]:
    """Where a port is and why. `plugged`: the computes whose switch shows an interface with its id."""
    addresses = ", ".join(port.addresses) or "no addresses"
    lines = [f"{port.id} is a port of network {port.network}: {format_mac(port.mac)}, {addresses}, lport {port.lport}."]
    bindings = state.bindings.get(port.id, ())
    for binding in bindings:
        lines.append(
            f"{binding.phase} on {name_of(state, binding.compute)} since revision {binding.since}: "
            f"{_BINDINGS[binding.phase]}."
        )
    if not bindings:
        lines.append("It is bound nowhere: no ready member shows an interface with external_ids:iface-id of that name.")
    lines.append(f"Plugged on: {some(plugged)}.")
    if any(b.phase is BindingPhase.PENDING for b in bindings) and state.active(port.id):
        lines.append(
            "It moves when a frame of its MAC is seen at the new place, or its interface is gone at the old one."
        )
    lines += [_marked(state, b) for b in bindings if _is_marked(state, b)]
    return lines


def _is_marked(state: State, binding: Binding) -> bool:
    compute = state.computes.get(binding.compute)
    return compute is not None and compute.tombstoned and binding.phase is not BindingPhase.LEAVING


def _marked(state: State, binding: Binding) -> str:
    name = name_of(state, binding.compute)
    return f"{name} is tombstoned: the port is served there in full, and keeps {name} from being ended."


def network_story(state: State, network: Network, opened: Mapping[tuple[int, int], bool]) -> list[str]:
    """Footprint, flood groups, tunnels. `opened`: pairs of it -> whether probes came through both ways."""
    footprint = sorted(state.footprint(network.id), key=lambda n: name_of(state, n))
    ports = len(state.ports_of.get(network.id, ()))
    lines = [
        f"{network.id} has VNI {network.vni}, tag {network.tag}, MTU {network.mtu} and {ports} port(s).",
        f"Footprint: {len(footprint)} compute(s): {some([name_of(state, n) for n in footprint])}.",
    ]
    if footprint:
        lines.append(
            f"Flooding: group {ledger.flood_group(network.tag)} names them all, "
            f"group {ledger.local_group(network.tag)} the ports on each."
        )
    if len(footprint) > ledger.MAX_BUCKETS:
        lines.append(f"A flood goes in parts of {ledger.MAX_BUCKETS} computes (table {int(ledger.T.L2_FLOOD_PART)}).")
    pairs = sorted(opened)
    shut = [f"{name_of(state, a)}-{name_of(state, b)}" for a, b in pairs if not opened[a, b]]
    if pairs:
        every = len(footprint) * (len(footprint) - 1) // 2
        asked = f"{len(pairs)} pair(s)" + (f" of {every} looked at" if every > len(pairs) else "")
        lines.append(f"Tunnels: {asked}, {len(pairs) - len(shut)} open; not open: {some(shut)}.")
    alone = sorted(name_of(state, n) for n in footprint if not tunnel.rows(state, n) and len(footprint) > 1)
    if alone:
        lines.append(f"Without any tunnel: {some(alone)}.")
    return lines


def story(service: Service, kind: str, text: str) -> list[str]:
    """The words for one thing.

    Raises:
        NotFound: there is no such thing, or it cannot be explained.
    """
    state, cluster = service.state, service.cluster
    if kind == "compute":
        compute, reason = resolve(state, text)
        if compute is None:
            raise NotFound(reason)
        return compute_story(state, compute, service.compute_status(compute))
    if kind == "port":
        port = state.ports.get(text)
        if port is None:
            raise NotFound(f"there is no port {text[:80]}")
        plugged = sorted(m.name for m in cluster.members.values() if text in m.view.ports)
        return port_story(state, port, plugged)
    if kind == "network":
        network = state.networks.get(text)
        if network is None:
            raise NotFound(f"there is no network {text[:80]}")
        footprint = sorted(state.footprint(text))
        pairs = itertools.islice(itertools.combinations(footprint, 2), _PAIRS)
        opened = {(a, b): cluster.probes.is_open(a, b) for a, b in pairs}
        return network_story(state, network, opened)
    raise NotFound(f"{kind[:40]} is not explained: compute, port or network")
