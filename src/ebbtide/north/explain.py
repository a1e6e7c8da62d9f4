"""Why things are as they are, in words. The wording is pure; `story` gathers what it needs.

Longer than 400 lines: it is one story a thing, and they share their words.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ebbtide import errors
from ebbtide.compile import ledger
from ebbtide.compile.features import path_mtu, stances, tunnel
from ebbtide.decide import adverts, datapaths, drain, parts, routing
from ebbtide.decide.lifecycle import resolve
from ebbtide.decide.scalein import carried
from ebbtide.errors import NotFound
from ebbtide.model.addresses import dotted, split_route
from ebbtide.model.facts import (
    SLAAC,
    STATEFUL,
    STATELESS,
    STATIC,
    Binding,
    BindingPhase,
    Compute,
    Floating,
    Membership,
    Move,
    MovePhase,
    Network,
    Port,
    Router,
    Vpn,
    format_mac,
)
from ebbtide.model.moves import reached
from ebbtide.model.observed import Datapath
from ebbtide.model.state import NAT, SUBNET, State, home_zone, subnet_name
from ebbtide.north.shapes import name_of, next_hop_mac
from ebbtide.runtime.drops import Drops
from ebbtide.runtime.service import Service
from ebbtide.runtime.untranslated import Exhausted, Refusals

_SHOWN = 8
METADATA = dotted(ledger.METADATA_ADDRESS)
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
_MOVES = {
    MovePhase.PREPARE: "the new one gets everything that it needs, and is asked by nobody",
    MovePhase.COUPLE_NEW: "the new one asks the old one about connections that it does not know",
    MovePhase.COUPLE_OLD: "the old one answers it, for what comes in too",
    MovePhase.EXPORT: "what passes the old one leaves its mapping in a table",
    MovePhase.FREEZE: "only the new one opens connections",
    MovePhase.SILENCE: "the old one still answers for the addresses, and sends with a MAC of its own",
    MovePhase.ADDRESS: "the new one answers for the addresses",
    MovePhase.IMPORT: "the new one gets a row for each connection of the old one",
    MovePhase.FLIP: "computes send to the new one",
    MovePhase.REPLY: "the new one gets rows for answers, and the old one exports no more",
    MovePhase.UNCOUPLE_OUT: "the new one opens what it does not know",
    MovePhase.UNCOUPLE_IN: "the new one asks nobody any more",
    MovePhase.QUIET: "the old one is watched until nothing reaches it",
}


def some(names: Sequence[str]) -> str:
    """A list for a sentence, cut at a length that can be read."""
    if not names:
        return "none"
    return errors.some(names, _SHOWN)


def compute_story(state: State, compute: Compute, status: Mapping[str, Any], holds: Sequence[str] = ()) -> list[str]:
    """Why a compute is in its phase, what it carries and serves, and what keeps it from leaving.

    `holds`: what it serves that has somewhere to go or is on its way, in words (`Service.serves`).
    """
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
    carried_by = Datapath(status["datapath"], status["ovs-version"], status["hw-offload"], status["dpdk"])
    if carried_by.kind:
        lines.append(f"Datapath: {datapaths.words(carried_by)}; a NAT's move is {status['nat-move']}.")
    lines.append(f"Tunnel end point: {compute.tep or 'none announced (other_config:local_ip), so it has no tunnels'}.")
    peers = sorted(name_of(state, n) for n in state.partners(number))
    lines.append(f"It shares a network or a gateway relation with {len(peers)} compute(s): {some(peers)}.")
    ports = carried(state, number)
    lines.append(f"It carries {len(ports)} port(s): {some(ports)}.")
    serves = list(_nats(state, number))
    lines += serves
    for service, what in ((SUBNET, "unknown addresses of {} subnet(s)"),):
        held = [state.designations[key] for key in sorted(state.duties.get(number, ())) if key[0] == service]
        for how, found in (
            ("is designated", [d.object for d in held if d.compute == number]),
            ("stands by", [d.object for d in held if d.compute != number]),
        ):
            if found:
                lines.append(f"It {how} for {what.format(len(found))}: {some(found)}.")
    if compute.tombstoned:
        keeps = [f"{len(ports)} port(s) keep it from being ended."] if ports else []
        keeps += [f"It may be ended only when this has moved: {some(holds)}."] if holds else []
        goes = "; its parts in these NATs go with it" if serves else ""
        free = f"It is empty and may be ended{goes}."
        lines.append(f"It is tombstoned: nothing is elected to it. {' '.join(keeps) or free}")
    busy = drain.busy(state, {number})
    if busy is not None:
        lines.append(
            f"Operation {busy[0].id} ({busy[0].verb}) is at work with it: `ebbtide operation show {busy[0].id}`."
        )
    if status["rejected"]:
        lines.append(f"Its switch has refused {len(status['rejected'])} fragment(s): {some(status['rejected'])}.")
    if status["debts"]:
        lines.append(f"It was unreachable when {some(status['debts'])} left, and may still hold something of them.")
    return lines


def _nats(state: State, number: int) -> Iterator[str]:
    """The routers in whose NAT it has a part, by what part that is."""
    routers = sorted(state.serves.get(number, ()))
    moving = [r for r in routers if r in state.moves and number in (state.moves[r].old, state.moves[r].new)]
    resting = [state.designations[NAT, r] for r in routers if r not in moving]
    for what, found in (
        ("It serves the NAT of {} router(s)", [d.object for d in resting if d.compute == number]),
        ("It stands by for the NAT of {} router(s)", [d.object for d in resting if d.compute != number]),
        ("The NAT of {} router(s) moves from or to it", moving),
    ):
        if found:
            yield f"{what.format(len(found))}: {some(found)}."


def port_story(
    state: State, port: Port, plugged: Sequence[str], dropped: Drops | None = None, agents: Collection[int] = ()
) -> list[str]:
    """Where a port is and why, and what may pass. `plugged`: the computes whose switch shows an interface with its id; `dropped`: what its
    security has refused (None: nobody could be asked); `agents`: the computes with a metadata agent."""
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
    behind = sorted(state.learnt_of.get(port.id, ()))
    if behind:
        lines.append(f"{len(behind)} address(es) that it was not given were learnt behind it: {some(behind)}.")
    if any(b.phase is BindingPhase.PENDING for b in bindings) and state.active(port.id):
        lines.append(
            "It moves when a frame of its MAC is seen at the new place, or its interface is gone at the old one."
        )
    lines += [_marked(state, b) for b in bindings if _is_marked(state, b)]
    lines += [metadata_words(state, port, b.compute, b.compute in agents) for b in bindings]
    return lines + _security(state, port, dropped)


def metadata_words(state: State, port: Port, compute: int, agent: bool) -> str:
    """What becomes of a port's question for metadata on a compute."""
    name = name_of(state, compute)
    if not agent:
        return (
            f"Metadata: no agent runs on {name}; what it sends to {METADATA} there goes the way of any other address."
        )
    whose = (
        f"in the name of instance {port.device}"
        if port.device
        else (f"with 404, since it is no instance's (`ebbtide port set {port.id} --device ID`)")
    )
    return f"Metadata: {METADATA}, TCP port {ledger.METADATA_PORT}, is answered by the agent on {name}, {whose}."


def metadata_agents(service: Service) -> set[int]:
    """The computes whose switch shows a metadata agent's port."""
    shown = ((n, m.view.ports.get(ledger.AGENT_IFACE_ID)) for n, m in service.cluster.members.items())
    return {number for number, interface in shown if interface is not None and interface.ofport}


def _security(state: State, port: Port, dropped: Drops | None) -> list[str]:
    """What may pass, and what was refused."""
    if not port.secured:
        return ["It has no port security: it may send under any address, and all reaches it."]
    lines = ["It is secured: it sends from its own MAC and addresses only, and what no rule lets through is dropped."]
    if port.pairs:
        lines.append(f"It may send from {some(port.pairs)} too.")
    rules = [rule for name in port.groups for rule in state.rules_of(name)]
    ways = [
        f"{sum(r.inbound == inbound for r in rules)} about what goes {way}"
        for inbound, way in ((True, "in"), (False, "out"))
    ]
    lines.append(f"Security groups: {some(port.groups) if port.groups else 'none'}; rules: {', '.join(ways)}.")
    if dropped is not None:
        lines.append(
            f"Dropped where it is now: {dropped.not_its_own} that it sent and that was not its own, {dropped.not_for_it} that came and was "
            f"not for its MAC; without a rule {dropped.out} out, {dropped.into} in; "
            f"{dropped.too_many} that were to begin a connection, and were too many."
        )
    lines += [
        f"Its connections on {name_of(state, b.compute)}: ovs-appctl dpctl/dump-conntrack zone={b.zone or home_zone(port.lport)}"
        for b in state.bindings.get(port.id, ())
    ]
    return [
        *lines,
        f"Why one packet passes or not: ebbtide explain port {port.id} --from ADDRESS --protocol tcp --port 80",
    ]


def _is_marked(state: State, binding: Binding) -> bool:
    compute = state.computes.get(binding.compute)
    return compute is not None and compute.tombstoned and binding.phase is not BindingPhase.LEAVING


def _marked(state: State, binding: Binding) -> str:
    name = name_of(state, binding.compute)
    return f"{name} is tombstoned: the port is served there in full, and keeps {name} from being ended."


def network_story(
    state: State, network: Network, opened: Mapping[tuple[int, int], bool], why: Sequence[str] = ()
) -> list[str]:
    """Footprint, flood groups, tunnels, who asks for its unknown addresses. `opened`: pairs of it -> whether probes came through both ways.
    `why`: why its subnets' designated computes are those that they are, in words."""
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
    return lines + list(_subnets(state, network)) + list(why)


def _subnets(state: State, network: Network) -> Iterator[str]:
    """Who asks for addresses that nobody was given, and what has answered."""
    for subnet in state.subnets(network.id):
        found = state.designations.get((SUBNET, subnet_name(network.id, subnet)))
        if found is None:
            yield f"Nobody is designated for {subnet}: what is sent to an address there that no port was given is dropped."
            continue
        one, standby = name_of(state, found.compute), name_of(state, found.standby) if found.standby else "nobody"
        yield (
            f"{one} is designated for {subnet} since revision {found.since}, and asks for addresses that no port was given; "
            f"{standby} stands by."
        )
        vni, table = ledger.subnet_vni(network.tag), int(ledger.T.SUBNET_ROUTE)
        yield f"What is sent to such an address in {subnet} goes there under VNI {vni} (table {table})."
    yield from _advertised(state, network)
    if network.dhcp:
        yield "Its VMs are told their addresses by DHCP, each on its own compute; while no controller runs, a lease that is held stays."
    held = state.learnt_in(network.id)
    if held:
        told = [f"{a} ({held[a].port})" for a in sorted(held)]
        yield f"{len(held)} address(es) were learnt: {some(told)}."


_WAYS = {
    SLAAC: "make their addresses of that and their MACs",
    STATELESS: "make their addresses of that and their MACs, and ask DHCPv6 for name servers",
    STATEFUL: "ask DHCPv6 for their addresses",
    STATIC: "have the addresses that they were given by hand",
}


def _advertised(state: State, network: Network) -> Iterator[str]:
    """Which router says what to its VMs."""
    if not network.ipv6_mode:
        if adverts.speakers(state, network.id):
            yield (
                "Nobody advertises its routers to its VMs in IPv6, nor tells them addresses: "
                f"`ebbtide network set {network.id} --ipv6-mode` does."
            )
        return
    if not adverts.speakers(state, network.id):
        yield (
            f"Its VMs {_WAYS[network.ipv6_mode]}, but nobody tells them so: no router and no VPN has a place in an IPv6 subnet of it "
            f"(`ebbtide router attach ROUTER {network.id} --address`)."
        )
    for number, (vrf, legs) in enumerate(adverts.speakers(state, network.id)):
        prefixes = some(sorted(leg.subnet for leg in legs))
        role = "the default router" if not number else "not the default router"
        lasts = "the route for eighteen hours, addresses for a month" if not number else "addresses for a month"
        yield (
            f"{_capital(routing.named(state, vrf))} advertises {prefixes} as {role}; VMs {_WAYS[network.ipv6_mode]}. What was "
            f"advertised holds while no controller runs: {lasts}."
        )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def router_story(
    state: State,
    router: Router,
    reachable: Collection[int],
    electable: Sequence[str] = (),
    carriers: Mapping[int, Datapath] | None = None,
    refused: Refusals | None = None,
    unseen: Collection[tuple[int, int]] = (),
    exhausted: Exhausted | None = None,
) -> list[str]:
    """What one asks of a router at night: who serves, what moves, the next hop, ports, floating IPs, and where to look for its flows.

    `carriers`: the datapath of each compute that has ever been seen. `refused`: None: nobody who serves it could be asked. `unseen`: who
    (first) does not see whom (second) by BFD any more.
    """
    return [
        *_served(state, router, reachable),
        *_unseen(state, router, unseen),
        *_moving(state, router),
        *_unproven(state, router, carriers or {}),
        *_refused(refused),
        *_exhausted(router, refused, exhausted),
        *_next_hop(state, router),
        *_widths(state, router),
        *_extra_routes(state, router),
        *_leased(state, router),
        *_floating(state, router),
        *electable,
        *_filters(router),
    ]


def _unseen(state: State, router: Router, unseen: Collection[tuple[int, int]]) -> Iterator[str]:
    serving = state.servers(router.id)
    for observer, number in sorted(unseen):
        if number in serving and observer in state.reach(router.id):
            one, other = name_of(state, observer), name_of(state, number)
            yield f"{one} does not see {other} by BFD any more, and sends to the other one meanwhile; only what all agree on is a death."


def _served(state: State, router: Router, reachable: Collection[int]) -> Iterator[str]:
    found = state.designations.get((NAT, router.id))
    if not router.external:
        yield f"Router {router.id} has no network outside: each compute routes for its own VMs, and nobody serves a NAT."
        return
    if found is None:
        yield f"Nobody serves the NAT of router {router.id}: nothing gets from behind it to {router.external}."
    else:
        one, two = (
            name_of(state, n) + ("" if n in reachable else " (unreachable)") for n in (found.compute, found.standby)
        )
        standby = f"{two} stands by" if found.standby else "nobody stands by"
        yield (f"{one} serves the NAT of router {router.id}, designated since revision {found.since}; {standby}.")
    own = [address for address in router.addresses if ":" not in address]
    addresses = some(own)
    if not router.snat:
        yield f"SNAT is off: only what has a floating IP gets to {router.external}."
    elif not own:
        yield f"SNAT is on, but it has no IPv4 address in {router.external}: only what has a floating IP gets out."
    else:
        kept = "a record of its connections is kept" if router.record else "no record of its connections is kept"
        yield f"SNAT is on, into {addresses} of {router.external}; {kept}."
    yield from _untranslated(state, router)


def _untranslated(state: State, router: Router) -> Iterator[str]:
    """What becomes of IPv6, which goes out as it is: it is for the outside to know the way back."""
    prefixes = state.prefixes6(router.id)
    own = [address for address in router.addresses if ":" in address]
    leave, outside = state.untranslated(router.id), state.externals[router.external]
    if leave:
        yield f"IPv6 goes out without NAT, from {some(leave)} alone: {outside.id} must have a route for that to {some(own)}."
        open_to_all = {leg.network for leg in state.places(router.id) if leg.subnet in leave}
        ports = [state.ports[p] for network in open_to_all for p in state.ports_of.get(network, ())]
        bare = {p.id for p in ports if not p.secured}
        if bare:
            yield f"{len(bare)} port(s) there without port security can be reached from outside in IPv6: {some(sorted(bare))}."
    kept = sorted(prefixes - set(leave))
    if kept and not own:
        more = "" if outside.subnet6 else f", which needs an IPv6 subnet first (`ebbtide external set {outside.id}`)"
        yield (
            f"IPv6 does not get out of {some(kept)}: the router has no IPv6 address in {outside.id}{more}; name one with its others "
            f"(`ebbtide router set {router.id} --address`)."
        )
    elif kept:
        yield (
            f"IPv6 does not get out of {some(kept)}: no prefix that {outside.id} sends here holds it "
            f"(`ebbtide external set {outside.id} --prefix`)."
        )


def _moving(state: State, router: Router) -> Iterator[str]:
    move = state.moves.get(router.id)
    if move is None:
        yield "No move is under way."
        return
    yield (
        f"It moves from {name_of(state, move.old)} to {name_of(state, move.new)}: phase {move.phase} since revision {move.since} "
        f"({_MOVES[move.phase]}); decided at revision {move.began}."
    )
    yield f"The move waits for: {move.reason or 'the computes concerned to have applied this phase'}."
    if move.unknown and reached(move, MovePhase.UNCOUPLE_OUT):
        yield f"Up to {move.unknown} connection(s) of {name_of(state, move.old)} were in no record and are cut now; its deadline is over."
    elif move.unknown:
        until = _instant(move.deadline)
        yield f"{move.unknown} connection(s) of {name_of(state, move.old)} are in no record; waited for {until}."
    elif move.deadline:
        yield f"If connections of {name_of(state, move.old)} are in no record, they are waited for {_instant(move.deadline)}."
    yield _at_this_moment(state, router, move)


def _unproven(state: State, router: Router, carriers: Mapping[int, Datapath]) -> Iterator[str]:
    """Those with a part in its NAT, now or in the move, on whose datapath the move of it is not proven."""
    found, move = state.designations.get((NAT, router.id)), state.moves.get(router.id)
    ends = {found.compute, found.standby} if found is not None else set()
    ends |= {move.old, move.new} if move is not None else set()
    for number in sorted(ends - {0}):
        datapath = carriers.get(number, Datapath())
        proof = datapaths.move_proven(datapath)
        if datapath.kind and not proof.proven:
            yield f"{name_of(state, number)} runs {datapaths.words(datapath)}: a move of this NAT is {proof.words}."


def _refused(refused: Refusals | None) -> Iterator[str]:
    if refused is not None and (refused.sctp or refused.other):
        yield (
            f"Refused: {refused.sctp} packet(s) of SCTP and {refused.other} of other protocols than TCP, UDP and ICMP, which a NAT "
            "with one address for many VMs cannot tell apart. A VM that needs them gets a floating IP."
        )


def _one_more(router: Router) -> str:
    """The command that gives it one more address. Those that it has are said again: what is not said is taken away."""
    present = "".join(f" --address {address}" for address in router.addresses)
    return f"`ebbtide router set {router.id}{present} --address NEW`"


def _exhausted(router: Router, refused: Refusals | None, exhausted: Exhausted | None) -> Iterator[str]:
    counted = refused.exhausted if refused is not None else 0
    if exhausted is None and not counted:
        return
    count = f"{counted} packet(s)" if counted else "packets"
    # The counters are the switches', and outlive the controller; who it was last does not.
    last = (
        f", the last at {exhausted.compute} {_when(exhausted.at)}, {exhausted.words}" if exhausted is not None else ""
    )
    yield (
        f"No port was left for {count} that would have begun a connection: they were dropped{last}. All ports that it opens from lead to "
        f"{'that' if last else 'one'} end point already. Give the router one more address: {_one_more(router)}."
    )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _instant(seconds: int) -> str:
    if not seconds:
        return "without a deadline"
    return f"until {_when(seconds)}"


def _at_this_moment(state: State, router: Router, move: Move) -> str:
    owner = stances.owner(state, router.id)
    ways = [name_of(state, n) for n in stances.exits(state, router.id)]
    voice = f"{name_of(state, owner)} owns its addresses" if owner else "nobody owns its addresses"
    return f"In this phase {voice}, and computes send to {', else to '.join(ways)}."


def _next_hop(state: State, router: Router) -> Iterator[str]:
    outside = state.externals.get(router.external)
    if outside is None:
        return
    for subnet, gateway in ((outside.subnet, outside.gateway), (outside.subnet6, outside.gateway6)):
        mac = next_hop_mac(state, outside.id, gateway)
        if gateway:
            yield f"Next hop: {gateway} in {outside.id}, " + (f"MAC {mac}." if mac else "not resolved yet.")
        elif subnet:
            yield f"{outside.id} has no next hop: only its own subnet {subnet} is reached."


def _widths(state: State, router: Router) -> Iterator[str]:
    """Where a VM may send what is larger than another network takes: that goes no further."""
    found = path_mtu.widths(state, router.id)
    if any(path_mtu.measured(state.networks[leg.network], found) for leg in state.places(router.id)):
        told = ", ".join(f"{way} {mtu}" for way, mtu in sorted(found.items(), key=lambda item: (item[1], item[0]))[:5])
        yield (
            f"Its networks differ in MTU ({told}): who sends one more than it takes is told so by the controller, and while none leads by "
            f"nobody. Counted: table {int(ledger.T.PATH_MTU)}, and on the way in table {int(ledger.T.PRE_DNAT)}."
        )


def _extra_routes(state: State, router: Router) -> Iterator[str]:
    """Where each extra route leads: a route is installed with the port that has its next hop, where that is plugged."""
    if not router.routes:
        return
    networks = {network for network, _ in state.legs.get(router.id, ())}
    ports = (state.ports[p] for network in sorted(networks) for p in state.ports_of.get(network, ()))
    holders = {
        address: (port.id, found) for port in ports if (found := state.active(port.id)) for address in port.addresses
    }
    default = "so its traffic takes the default route" if router.external else "and there is no default route"
    for route in router.routes:
        holder = holders.get(split_route(route)[1])
        if holder is None:
            yield f"Extra route {route}: no plugged port has its next hop, {default}."
        else:
            yield f"Extra route {route}: its next hop is port {holder[0]} on {name_of(state, holder[1].compute)}."


def _leased(state: State, router: Router) -> Iterator[str]:
    leases = [found for _, found in sorted(state.leases.get(router.id, {}).items())]
    every = ledger.LAST_NAT_PORT - ledger.FIRST_NAT_PORT + 1
    for found in leases:
        count = found.last - found.first + 1
        use = "opens connections from them" if found.opening else "keeps them until the last connection of them is gone"
        careful = ", TCP on a SYN alone" if found.opening and found.careful else ""
        yield (
            f"Ports {found.first}-{found.last} ({count}, {count * 100 // every} %) are leased to "
            f"{name_of(state, found.compute)} since revision {found.since}: it {use}{careful}."
        )
    if leases:
        free = every - sum(found.last - found.first + 1 for found in leases)
        yield f"{free} of {every} ports are free, of each external address."
        serves = state.designations.get((NAT, router.id))
        if serves is not None and state.opening(router.id, serves.compute) is None:
            yield (
                f"{name_of(state, serves.compute)} opens no new connections: no range of {parts.FEWEST_PORTS} ports is free. Give the "
                f"router one more address ({_one_more(router)}), or wait for connections to end."
            )
    elif router.external:
        yield "No ports are leased: nobody opens connections for it."


def _floating(state: State, router: Router) -> Iterator[str]:
    found = [f for _, f in sorted(state.floatings.items()) if f.router == router.id]
    if router.external and not found:
        yield "No floating IP leads behind it."
    yield from (_exchanged(state, each) for each in found)


def _exchanged(state: State, floating: Floating) -> str:
    start = f"Floating IP {floating.address} is {floating.fixed} of port {floating.port}"
    hosts = state.hosts(floating)
    if not hosts:
        where = "nowhere" if state.active(floating.port) else "nowhere, since the port is plugged nowhere"
        return f"{start}: exchanged {where}."
    # Where none is the port's own, who owns the router's addresses answers for this one too.
    announced = next((n for n, is_found in sorted(hosts.items()) if is_found), 0) or stances.owner(
        state, floating.router
    )
    more = [name_of(state, n) for n in sorted(hosts) if n != announced]
    also = f" ({some(more)} would too)" if more else ""
    if announced not in hosts:
        return f"{start}: exchanged on {some(more)}, and nobody answers for it."
    here = state.binding(floating.port, announced) is not None
    why = "the port's own compute" if here else "the port's own compute does not have the network"
    return f"{start}: exchanged on {name_of(state, announced)}, {why}{also}."


def _filters(router: Router) -> Iterator[str]:
    """Where to look on a compute: what of the ledger is this router's, as ovs-ofctl and ovs-appctl take it."""
    tag, flows = router.tag, "ovs-ofctl -O OpenFlow14 dump-flows br-int"
    value, mask = ledger.metadata_vrf(tag)
    owner = ledger.cookie(ledger.Kind.ROUTER, ledger.Feature.ROUTER, tag) & ledger.OWNER_COOKIE_MASK
    yield f"Its own flows: {flows} cookie={owner:#x}/{ledger.OWNER_COOKIE_MASK:#x}"
    yield f"Flows in its VRF: {flows} metadata={value:#x}/{mask:#x}"
    if not router.external:
        return
    group = ledger.gateway_group(tag)
    yield f"Group to its NAT, where it is not served: ovs-ofctl -O OpenFlow14 dump-groups br-int | grep group_id={group},"
    for what, vni in (
        ("Arriving at its NAT", ledger.gateway_vni(tag)),
        ("Asked in a move", ledger.ask_vni(tag)),
        ("Answered in a move", ledger.answer_vni(tag)),
    ):
        yield f"{what}, VNI {vni}: {flows} tun_id={vni:#x}"
    yield f"Its connections, where it is served: ovs-appctl dpctl/dump-conntrack zone={ledger.router_zone(tag)}"


def vpn_story(state: State, vpn: Vpn) -> list[str]:
    """Who has routes to whom by a VPN, and why not; and where to look for its flows."""
    routers = sorted(state.vpn_routers.get(vpn.id, ()))
    vrfs = [vpn.id, *routers]
    on = sorted({name_of(state, n) for vrf in vrfs for n in state.present(vrf)})
    where = (
        f"is on {some(on)}: on each compute with a port behind it"
        if on
        else "is on no compute: no port behind it is plugged"
    )
    lines = [f"VPN {vpn.id}, route distinguisher {vpn.rd}, {where}."]
    lines += [f"It is the gateway of network {g.network}: {g.address} in {g.subnet}." for g in state.places(vpn.id)]
    for router in routers:
        subnets = [f"{leg.subnet} ({leg.network})" for leg in state.places(router)]
        lines.append(f"Router {router} belongs to it, with {some(subnets)}.")
    if not lines[1:]:
        lines.append(f"Nothing is associated with it: `ebbtide vpn associate {vpn.id} --network NETWORK`, or --router.")
    for other in sorted({name for target in vpn.imports for name in state.exporters.get(target, ())} - {vpn.id}):
        by = sorted(set(vpn.imports) & set(state.vpns[other].exports))
        theirs = {other, *state.vpn_routers.get(other, ())}
        seen = {leg for vrf in vrfs for leg in state.seen.get(vrf, ()) if leg.router in theirs}
        back = set(state.vpns[other].imports) & set(vpn.exports)
        way = "" if back else f", which does not import from {vpn.id}: nothing comes back from there"
        lines.append(f"It imports {some(sorted(g.subnet for g in seen))} of VPN {other}, by {some(by)}{way}.")
    for vrf in vrfs:
        for owner, leg in state.shadowed(vrf, vpn.id):
            lines.append(f"{vrf} has no route to {leg.subnet} of VPN {owner}: it overlaps with what comes before it.")
    for target in vpn.imports:
        if not state.exporters.get(target):
            lines.append(f"No VPN exports with target {target}.")
    value, mask = ledger.metadata_vrf(vpn.tag)
    lines.append(f"Flows in its VRF: ovs-ofctl -O OpenFlow14 dump-flows br-int metadata={value:#x}/{mask:#x}")
    return lines


def port_named(state: State, text: str) -> Port:
    """The port of that id.

    Raises:
        NotFound: there is none.
    """
    found = state.ports.get(text)
    if found is None:
        raise NotFound(f"there is no port {text[:80]}")
    return found


async def story(service: Service, kind: str, text: str) -> list[str]:
    """The words for one thing.

    Raises:
        NotFound: there is no such thing, or it cannot be explained.
    """
    state, cluster = service.state, service.cluster
    if kind == "compute":
        compute, reason = resolve(state, text)
        if compute is None:
            raise NotFound(reason)
        holds = service.serves(compute.number) if compute.tombstoned else ()
        return compute_story(state, compute, service.compute_status(compute), holds)
    if kind == "port":
        port = port_named(state, text)
        plugged = sorted(m.name for m in cluster.members.values() if text in m.view.ports)
        dropped = await service.dropped(text) if port.secured else None
        return port_story(state, port, plugged, dropped, metadata_agents(service))
    if kind == "network":
        network = state.networks.get(text)
        if network is None:
            raise NotFound(f"there is no network {text[:80]}")
        footprint = sorted(state.footprint(text))
        pairs = itertools.islice(itertools.combinations(footprint, 2), _PAIRS)
        opened = {(a, b): cluster.probes.is_open(a, b) for a, b in pairs}
        names = [subnet_name(text, subnet) for subnet in state.subnets(text)]
        why = [line for name in names for line in service.why_designated(SUBNET, name)]
        return network_story(state, network, opened, why)
    if kind == "router":
        router = state.routers.get(text)
        if router is None:
            raise NotFound(f"there is no router {text[:80]}")
        carriers = {n: m.view.datapath for n, m in cluster.members.items()}
        electable, refused = service.electable(router.id), await service.refused(router.id)
        exhausted = cluster.exhaustions.of(router.tag)
        return router_story(
            state, router, cluster.reachable(), electable, carriers, refused, cluster.unseen(), exhausted
        )
    if kind == "vpn":
        vpn = state.vpns.get(text)
        if vpn is None:
            raise NotFound(f"there is no VPN {text[:80]}")
        return vpn_story(state, vpn)
    raise NotFound(f"{kind[:40]} is not explained: compute, port, network, router or vpn")
