"""State and what is observed -> fragments.

`fragment(key)` is the one way to make a fragment; `keys` lists all that a compute should hold (the truth: full recompute), and
`touched` names those that a change may alter (the cache in front of it). Measured: at 1,000 computes with 50 ports each a full
recompute takes seconds, one port's change touches 40 fragments. A property test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from immutables import Map

from ebbtide.compile import ledger
from ebbtide.compile.features import arp, base, l2, tunnel
from ebbtide.compile.fragment import Fragment, Key
from ebbtide.model.facts import Binding, BindingPhase, Compute, Edit, Membership, Network, Port, Relation
from ebbtide.model.observed import View
from ebbtide.model.state import State

BASE = Key("base", 0)
QUARANTINE = Key("quarantine", 0)
_NONE: Map[str, int] = Map()


def fragment(state: State, key: Key, view: View) -> Fragment | None:
    """The fragment, or None where there is nothing to say. `view` is that of `key.compute` (unused by shared fragments)."""
    found = _ROOMS[key.room](state, key, view)
    return found if found is not None and (found.flows or found.groups or found.meters) else None


def _base(state: State, key: Key, view: View) -> Fragment | None:
    return base.BASE


def _quarantine(state: State, key: Key, view: View) -> Fragment | None:
    return base.QUARANTINE


def _network(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    footprint = state.presence.get(str(key.object))
    return l2.network(net, list(footprint)) if net and footprint else None


def _local(state: State, key: Key, view: View) -> Fragment | None:
    net = state.networks.get(str(key.object))
    if net is None or key.compute not in state.footprint(net.id):
        return None
    here = []
    for port_id, phase in state.ports_on.get(key.compute, Map()).items():
        port = state.ports[port_id]
        if port.network == net.id and phase is not BindingPhase.LEAVING and _ofport(view, port_id):
            here.append(port)
    return l2.local_delivery(net, here, _is_large(state, net.id), view.userspace)


def _is_large(state: State, network: str) -> bool:
    return len(state.footprint(network)) > ledger.MAX_BUCKETS


def _port(state: State, key: Key, view: View) -> Fragment | None:
    port = state.ports.get(str(key.object))
    active = state.active(str(key.object))
    if port is None or active is None:
        return None
    net = state.networks[port.network]
    return Fragment(l2.known_mac(net, port, active).flows + arp.responder(net, port).flows)


def _plug(state: State, key: Key, view: View) -> Fragment | None:
    port_id = str(key.object)
    binding = state.binding(port_id, key.compute)
    if binding is None:
        return None
    port = state.ports[port_id]
    net = state.networks[port.network]
    ofport = _ofport(view, port_id)
    if binding.phase is BindingPhase.LEAVING:
        target = state.active(port_id)
        return l2.leaving(net, port, ofport, _tunnel(view, target.compute) if target else 0)
    pending = [b.compute for b in state.bindings[port_id] if b.phase is BindingPhase.PENDING]
    copy_to = _tunnel(view, pending[0]) if pending and binding.phase is BindingPhase.ACTIVE else 0
    if not ofport:
        return l2.relay(port, binding, copy_to) if copy_to else None
    return l2.plugged(net, port, binding, ofport, copy_to)


def _towards(state: State, key: Key, view: View) -> Fragment | None:
    peer = int(key.object)
    ofport = _tunnel(view, peer)
    return tunnel.towards(peer, ofport) if ofport and peer in state.peers(key.compute) else None


def _ofport(view: View, port: str) -> int:
    interface = view.ports.get(port)
    return interface.ofport if interface else 0


def _tunnel(view: View, peer: int) -> int:
    interface = view.tunnels.get(peer)
    return interface.ofport if interface else 0


_ROOMS = {
    "base": _base,
    "quarantine": _quarantine,
    "network": _network,
    "local": _local,
    "port": _port,
    "plug": _plug,
    "tunnel": _towards,
}


def keys(state: State, compute: int, view: View) -> Iterator[Key]:
    """Every key that a member may have a fragment for."""
    yield BASE
    for network in state.networks_on.get(compute, _NONE):
        yield Key("network", network)
        yield Key("local", network, compute)
        for port in state.ports_of.get(network, Map()):
            yield Key("port", port)
    for port in state.ports_on.get(compute, Map()):
        yield Key("plug", port, compute)
    for peer in {*state.peers(compute), *view.tunnels}:
        yield Key("tunnel", peer, compute)


def desired(state: State, compute: int, view: View) -> dict[Key, Fragment]:
    """All that a member should hold. The truth, at any time."""
    found = ((key, fragment(state, key, view)) for key in keys(state, compute, view))
    return {key: made for key, made in found if made is not None}


def audience(state: State, key: Key) -> Iterable[int]:
    """The computes that a shared fragment is for."""
    if key.compute:
        return (key.compute,) if key.compute in state.computes else ()
    if key.room == "network":
        return state.footprint(str(key.object))
    if key.room == "port":
        port = state.ports.get(str(key.object))
        return state.footprint(port.network) if port else ()
    return [c.number for c in state.members()]


def concerns(state: State, key: Key, compute: int) -> bool:
    """Whether a compute is in the fragment's audience, without listing it."""
    if key.room in ("network", "port") or key.compute:
        return compute in audience(state, key)
    found = state.computes.get(compute)
    return found is not None and found.membership is Membership.MEMBER


def touched(edits: Iterable[Edit], before: State, after: State) -> dict[int, set[Key]]:
    """Per compute, the keys whose fragment or audience may differ between two States.

    It may name too much, never too little.
    """
    found: dict[int, set[Key]] = {}

    def add(computes: Iterable[int], *names: Key) -> None:
        for compute in computes:
            found.setdefault(compute, set()).update(names)

    def both(network: str) -> set[int]:
        return {*before.footprint(network), *after.footprint(network)}

    joined: set[tuple[str, int]] = set()
    for old, new in edits:
        fact = new if new is not None else old
        match fact:
            case Network():
                add(both(fact.id), Key("network", fact.id))
                for compute in both(fact.id):
                    add([compute], Key("local", fact.id, compute))
                for port_id in after.ports_of.get(fact.id, Map()):
                    add(both(fact.id), Key("port", port_id))
                    for binding in after.bindings.get(port_id, ()):
                        add([binding.compute], Key("plug", port_id, binding.compute))
            case Port():
                found_at = (*before.bindings.get(fact.id, ()), *after.bindings.get(fact.id, ()))
                # A port that is nowhere is nobody's business.
                add(both(fact.network) if found_at else (), Key("port", fact.id))
                for binding in found_at:
                    here = binding.compute
                    add([here], Key("plug", fact.id, here), Key("local", fact.network, here))
            case Binding():
                port = after.ports.get(fact.port) or before.ports[fact.port]
                add(both(port.network), Key("port", fact.port))
                for binding in (*before.bindings.get(fact.port, ()), *after.bindings.get(fact.port, ())):
                    here = binding.compute
                    add([here], Key("plug", fact.port, here), Key("local", port.network, here))
                if (fact.compute in before.footprint(port.network)) != (fact.compute in after.footprint(port.network)):
                    joined.add((port.network, fact.compute))
            case Relation():
                add([fact.gateway], Key("tunnel", fact.peer, fact.gateway))
                add([fact.peer], Key("tunnel", fact.gateway, fact.peer))
            case Compute():
                add([fact.number], BASE)
                if not isinstance(old, Compute) or not isinstance(new, Compute) or old.teps != new.teps:
                    for compute, name in _tunnel_keys(fact.number, before, after):
                        add([compute], name)
    for network, compute in joined:
        computes = both(network)
        add(computes, Key("network", network))
        if _is_large(before, network) != _is_large(after, network):
            for other in computes:
                add([other], Key("local", network, other))
        for other in computes - {compute}:
            add([other], Key("tunnel", compute, other))
            add([compute], Key("tunnel", other, compute))
        everything = {*before.ports_of.get(network, Map()), *after.ports_of.get(network, Map())}
        add([compute], Key("local", network, compute), *(Key("port", port) for port in everything))
    return found


def _tunnel_keys(number: int, before: State, after: State) -> Iterator[tuple[int, Key]]:
    for peer in {n for s in (before, after) if number in s.computes for n in s.peers(number)}:
        yield peer, Key("tunnel", number, peer)
        yield number, Key("tunnel", peer, number)


def touched_by_view(state: State, compute: int, old: View, new: View) -> set[Key]:
    """The keys of a compute that a change of what it shows may alter."""
    found: set[Key] = set()
    if old.userspace != new.userspace:
        found |= {Key("local", network, compute) for network in state.networks_on.get(compute, _NONE)}
    for port in {*old.ports, *new.ports}:
        if old.ports.get(port) != new.ports.get(port) and port in state.ports:
            found.add(Key("plug", port, compute))
            found.add(Key("local", state.ports[port].network, compute))
    for peer in {*old.tunnels, *new.tunnels}:
        if old.tunnels.get(peer) == new.tunnels.get(peer):
            continue
        found.add(Key("tunnel", peer, compute))
        for port in state.ports_on.get(compute, Map()):
            if any(b.compute == peer for b in state.bindings.get(port, ())):
                found.add(Key("plug", port, compute))
    return found
