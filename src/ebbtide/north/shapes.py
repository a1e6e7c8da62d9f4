"""Facts as the own API shows them: pure functions from State to JSON values. Golden files hold these shapes."""

from __future__ import annotations

from typing import Any

import msgspec

from ebbtide.decide.scalein import carried
from ebbtide.model.facts import Compute, Network, Operation, Port, Relation, format_mac
from ebbtide.model.state import State
from ebbtide.runtime.auditor import Report


def name_of(state: State, number: int) -> str:
    """A compute's name, member or removed."""
    compute = state.computes.get(number) or state.removed.get(number)
    return compute.name if compute else f"#{number}"


def network(state: State, fact: Network) -> dict[str, Any]:
    """A network, with the computes it is present on."""
    return {
        "id": fact.id,
        "vni": fact.vni,
        "tag": fact.tag,
        "mtu": fact.mtu,
        "subnets": list(fact.subnets),
        "ports": len(state.ports_of.get(fact.id, ())),
        "computes": sorted(name_of(state, n) for n in state.footprint(fact.id)),
    }


def port(state: State, fact: Port) -> dict[str, Any]:
    """A port, with its bindings: none while it is plugged nowhere."""
    return {
        "id": fact.id,
        "network": fact.network,
        "mac": format_mac(fact.mac),
        "addresses": list(fact.addresses),
        "lport": fact.lport,
        "bindings": [
            {"compute": name_of(state, b.compute), "phase": str(b.phase), "since": b.since}
            for b in state.bindings.get(fact.id, ())
        ],
    }


def relation(state: State, fact: Relation) -> dict[str, Any]:
    """A gateway relation."""
    return {"gateway": name_of(state, fact.gateway), "peer": name_of(state, fact.peer)}


def operation(state: State, fact: Operation) -> dict[str, Any]:
    """A scale-in end."""
    return {
        "id": fact.id,
        "verb": fact.verb,
        "state": fact.state,
        "reason": fact.reason,
        "computes": [name_of(state, n) for n in fact.computes],
        "revision": fact.revision,
        "started": fact.started,
    }


def operations(state: State) -> list[dict[str, Any]]:
    """All operations, the newest first."""
    known = sorted(state.operations.values(), key=lambda o: (-o.revision, o.id))
    return [operation(state, o) for o in known]


def remains(state: State, compute: Compute) -> list[str]:
    """What keeps a compute from being ended, in words."""
    found = [f"port {p}" for p in carried(state, compute.number)]
    return found if compute.tombstoned else ["not tombstoned", *found]


def report(found: Report) -> dict[str, Any]:
    """An audit's report."""
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return {"clean": found.clean, **shown}
