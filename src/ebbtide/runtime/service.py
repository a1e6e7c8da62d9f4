"""What the north asks for: one method a verb. Parses nothing, prints nothing; values in, values out, errors of `errors.py`.

Every write goes through `Store.commit`, so a verb decides on the newest State or not at all, and is heard of by everybody at once.

Longer than 400 lines: it is a list of verbs, each a few lines, and one looks for a verb in one place.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from ebbtide.compile import ledger
from ebbtide.decide import (
    datapaths,
    designation,
    documents,
    drain,
    duties,
    hidden,
    lifecycle,
    marking,
    natmove,
    networks,
    neutron,
    ports,
    rebalancing,
    returns,
    routing,
    scalein,
    security,
    vpns,
)
from ebbtide.decide.designation import Departure
from ebbtide.decide.drain import Wish
from ebbtide.decide.election import Plan
from ebbtide.decide.ids import Allocator
from ebbtide.decide.scalein import Decision
from ebbtide.errors import BadInput, NotFound, NotReady, Refused, StillWorking, some
from ebbtide.model import teps
from ebbtide.model.addresses import parse_ip
from ebbtide.model.facts import (
    Compute,
    Document,
    Edit,
    External,
    Fact,
    Floating,
    Membership,
    Move,
    Network,
    Operation,
    Port,
    Relation,
    Retired,
    Router,
    RouterPort,
    SecurityGroup,
    SecurityRule,
    Vpn,
    format_mac,
)
from ebbtide.model.observed import Datapath
from ebbtide.model.state import State, apply, facts, rebuild
from ebbtide.runtime import drain_plan, drops, natmoves, paths, records, sessions, untranslated, vswitch
from ebbtide.runtime.arrivals import Arrivals
from ebbtide.runtime.auditor import Report, audit
from ebbtide.runtime.cluster import Cluster
from ebbtide.runtime.connections import Entry
from ebbtide.runtime.drain_plan import DrainPlan
from ebbtide.runtime.drains import Drains
from ebbtide.runtime.drops import Drops
from ebbtide.runtime.endings import Endings, old_operations
from ebbtide.runtime.neutron import Waiting
from ebbtide.runtime.neutron import said as said_of_neutron
from ebbtide.runtime.rebalances import Rebalances, drained, said
from ebbtide.runtime.returns import Returns
from ebbtide.runtime.untranslated import Refusals

log = structlog.get_logger("service")
#: Seconds that an end waits for who sends to ports that have just left the compute to have learnt that.
FORWARD_PATIENCE = 5.0
#: Seconds that a network which asks for the VNI of one just deleted waits for the computes to let go of it.
RELEASE_PATIENCE = 5.0
#: Name servers, and host routes, that a network tells its VMs: a DHCP option has 255 bytes.
MAX_TOLD = 20


class Leaving(NamedTuple):
    """A router's NAT that a scale-in would move: connections that are on record and open, what its compute says of itself, and whether
    its move is proven on the datapaths of both ends."""

    departure: Departure
    recorded: int
    part: sessions.Part
    proof: datapaths.Proof


class Service:
    """The verbs of Ebbtide over one cluster."""

    def __init__(self, cluster: Cluster, new_id: Callable[[], str] = lambda: str(uuid.uuid4())) -> None:
        self.cluster = cluster
        self._new_id = new_id
        self.endings = Endings(cluster)
        self.rebalances = Rebalances(cluster)
        self.drains = Drains(cluster, self.endings, new_id)
        self.returns = Returns(cluster, new_id)
        self.waiting = Waiting(cluster)
        self.arrivals = Arrivals(cluster)
        #: When Neutron has said something last (monotonic); None: not yet, to this controller.
        self.neutron_heard: float | None = None

    @property
    def state(self) -> State:
        """The newest State."""
        return self.cluster.state

    async def run(self) -> None:
        """Go on with operations that were under way when the last controller ended, until this one ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.endings.run())
            group.create_task(self.rebalances.run())
            group.create_task(self.drains.run())
            group.create_task(self.returns.run())
            group.create_task(self.waiting.run())
            group.create_task(self.arrivals.run())

    # --- networks and ports ---

    async def add_network(
        self,
        name: str,
        subnets: Sequence[str] = (),
        vni: int | None = None,
        mtu: int | None = None,
        *,
        dhcp: bool | None = None,
        dns: Sequence[str] | None = None,
        routes: Sequence[str] | None = None,
        ipv6_mode: str | None = None,
    ) -> Network:
        """Make a network; the same again is "already so". Without an MTU it gets what fits into tunnels over an underlay of 1500.

        Raises:
            BadInput: the name, a subnet, the VNI or the MTU is not valid.
            Refused: it exists and is different, or the VNI is taken.
        """
        routing.check_name("network", name)
        cidrs = networks.cidrs(subnets)
        if vni is not None and not 1 <= vni <= ledger.LAST_VNI:
            raise BadInput(f"VNI {vni} is not between 1 and {ledger.LAST_VNI} (those above are reserved)", "vni")
        if mtu is not None:
            routing.check_mtu(mtu)
        servers, ways = _told(dns or ()), _ways(routes or ())

        if vni in self.state.retired_vnis:
            await self.cluster.wait_for(lambda: vni not in self.state.retired_vnis, RELEASE_PATIENCE)

        def decide(state: State) -> tuple[list[Edit], Network]:
            known = state.networks.get(name)
            if known is not None:
                if known.subnets == cidrs and mtu in (None, known.mtu) and vni in (None, known.vni):
                    if (dns is not None and servers != known.dns) or (routes is not None and ways != known.routes):
                        raise Refused(
                            f"network {name} tells its VMs other servers or routes: `ebbtide network set {name}`"
                        )
                    if ipv6_mode not in (None, known.ipv6_mode or networks.NONE):
                        raise Refused(
                            f"network {name} exists already with another IPv6 mode: `ebbtide network set {name} --ipv6-mode {ipv6_mode}`"
                        )
                    if dhcp in (None, known.dhcp):
                        return [], known
                    how, word = ("without", "--dhcp") if dhcp else ("with", "--no-dhcp")
                    raise Refused(f"network {name} exists already {how} DHCP: `ebbtide network set {name} {word}`")
                raise Refused(
                    f"network {name} exists already with other settings: delete it first, or choose another name"
                )
            ids = Allocator(state)
            if vni is not None and vni in state.by_vni:
                raise Refused(f"VNI {vni} is that of network {state.by_vni[vni]}: choose another")
            if vni is not None and vni in state.retired_vnis:
                raise Refused(self._still_held(state.retired[state.retired_vnis[vni]]))
            number = vni if vni is not None else ids.take("vni")
            width = mtu if mtu is not None else _usual_mtu(state)
            made = Network(name, ids.take("network"), number, width, cidrs, bool(dhcp), servers, ways, ipv6_mode or "")
            made = networks.checked(made)
            return [Edit(None, made), *ids.edits()], made

        return await self.cluster.store.commit(decide)

    async def set_network(
        self,
        name: str,
        *,
        dhcp: bool | None = None,
        dns: Sequence[str] | None = None,
        routes: Sequence[str] | None = None,
        subnets: Sequence[str] | None = None,
        ipv6_mode: str | None = None,
    ) -> Network:
        """Change what is given of a network: whether its VMs are told their addresses, name servers and routes ("prefix via address"), its
        subnets, and how VMs come by IPv6 addresses.

        Raises:
            BadInput, NotFound, Refused: as `networks.change`.
        """
        wishes = {
            "dhcp": dhcp,
            "dns": None if dns is None else _told(dns),
            "routes": None if routes is None else _ways(routes),
            "subnets": None if subnets is None else networks.cidrs(subnets),
            "ipv6_mode": ipv6_mode,
        }
        return await self.cluster.store.commit(lambda state: networks.change(state, name, **wishes))

    async def delete_network(self, name: str) -> None:
        """Delete a network that has no ports."""
        await self.cluster.store.commit(lambda state: (networks.delete(state, name), None))

    def _still_held(self, retired: Retired) -> str:
        holding = self.cluster.holding(retired.since)
        who = some(holding, 5)
        return (
            f"VNI {retired.vni} was that of network {retired.network}, and {who or 'somebody'} has not confirmed that it holds nothing "
            "of it any more: choose another VNI, or bring back or remove what cannot be reached"
        )

    async def add_port(
        self,
        port_id: str,
        network: str,
        mac: str,
        addresses: Sequence[str] = (),
        *,
        secured: bool | None = None,
        groups: Sequence[str] | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
        device: str | None = None,
        project: str | None = None,
    ) -> Port:
        """Make a port; the same again is "already so".

        Raises:
            BadInput: the id, the MAC or an address is not valid.
            NotFound: there is no such network.
            Refused: it exists and is different, its MAC or an address is taken in this network, or an address is outside its subnets.
        """
        ports.check_port_name(port_id)
        value = routing.host_mac(mac)
        given = networks.addresses(addresses)

        def decide(state: State) -> tuple[list[Edit], Port]:
            net = state.networks.get(network)
            if net is None:
                raise NotFound(f"there is no network {network}: `ebbtide network add {network}` makes one")
            found = networks.completed(net, value, given)
            known = state.ports.get(port_id)
            if known is not None:
                plain = msgspec.structs.replace(known, secured=False, groups=(), pairs=(), device="", project="")
                if plain != Port(port_id, network, value, known.lport, found):
                    raise Refused(f"port {port_id} exists already with other settings: delete it first")
                if known != security.secure(state, known, secured, groups, pairs):
                    raise Refused(
                        f"port {port_id} exists already with other security: `ebbtide port set {port_id}` changes it"
                    )
                if known != ports.owned(known, device, project):
                    raise Refused(
                        f"port {port_id} exists already and is another's: `ebbtide port set {port_id} --device ID` changes that"
                    )
                return [], known
            networks.check_addresses(state, net, port_id, found)
            holder = routing.own_macs(state, network).get(value)
            if holder is not None:
                raise Refused(f"MAC {format_mac(value)} is that of {holder} in network {network}")
            for other_id in state.ports_of.get(network, ()):
                other = state.ports[other_id]
                if other.mac == value:
                    raise Refused(f"MAC {format_mac(value)} is that of port {other.id} in network {network}")
            ids = Allocator(state)
            made = Port(port_id, network, value, ids.take("lport"), found)
            made = ports.owned(security.secure(state, made, secured, groups, pairs), device, project)
            return [Edit(None, made), *ids.edits(), *hidden.release(state, network, (), value)], made

        return await self.cluster.store.commit(decide)

    async def set_port(
        self,
        name: str,
        secured: bool | None = None,
        groups: Sequence[str] | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
        addresses: Sequence[str] | None = None,
        device: str | None = None,
        project: str | None = None,
    ) -> Port:
        """Change a port's security, its addresses, or whose it is; what is None stays."""
        wishes: dict[str, Any] = {
            "secured": secured,
            "groups": groups,
            "pairs": pairs,
            "device": device,
            "project": project,
        }
        wishes["addresses"] = None if addresses is None else networks.addresses(addresses)
        return await self.cluster.store.commit(lambda state: ports.change(state, name, **wishes))

    async def delete_port(self, port_id: str) -> None:
        """Delete a port, wherever it is plugged."""
        await self.cluster.store.commit(lambda state: (networks.delete_port(state, port_id), None))

    # --- routers, networks outside, floating IPs: see decide/routing.py for what each verb refuses ---

    async def add_external(
        self,
        name: str,
        physical: str,
        subnet: str,
        gateway: str = "",
        vlan: int = 0,
        mtu: int = 1500,
        subnet6: str | None = None,
        gateway6: str | None = None,
        prefixes: Sequence[str] | None = None,
    ) -> External:
        """Make a network outside; the same again is "already so"."""
        wish = (name, physical, vlan, subnet, gateway, mtu, subnet6, gateway6, prefixes)
        return await self.cluster.store.commit(lambda state: routing.add_external(state, *wish))

    async def set_external(self, name: str, **wishes: Any) -> External:
        """Change what is given of a network's IPv6."""
        return await self.cluster.store.commit(lambda state: routing.set_external(state, name, **wishes))

    async def delete_external(self, name: str) -> None:
        """Delete a network outside that nobody uses."""
        await self.cluster.store.commit(lambda state: (routing.delete_external(state, name), None))

    async def add_router(self, name: str, **wishes: Any) -> Router:
        """Make a router; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: routing.add_router(state, name, **wishes))

    async def set_router(self, name: str, **wishes: Any) -> Router:
        """Change what is given of a router."""
        return await self.cluster.store.commit(lambda state: routing.set_router(state, name, **wishes))

    async def delete_router(self, name: str) -> None:
        """Delete a router that is in no network."""
        await self.cluster.store.commit(lambda state: (routing.delete_router(state, name), None))

    async def attach(self, router: str, network: str, address: str = "", mac: str = "") -> RouterPort:
        """Give a router a place in a network; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: routing.attach(state, router, network, address, mac))

    async def detach(self, router: str, network: str, address: str = "") -> None:
        """Take a router's place in a network away."""
        await self.cluster.store.commit(lambda state: (routing.detach(state, router, network, address), None))

    async def add_floating(
        self, external: str, address: str, port: str = "", fixed: str = "", mac: str = ""
    ) -> Floating:
        """Make a floating IP, or lead one to another port."""
        return await self.cluster.store.commit(
            lambda state: routing.add_floating(state, external, address, port, fixed, mac)
        )

    async def delete_floating(self, external: str, address: str) -> None:
        """Delete a floating IP."""
        await self.cluster.store.commit(lambda state: (routing.delete_floating(state, external, address), None))

    # --- security groups: see decide/security.py ---

    async def add_group(self, name: str) -> SecurityGroup:
        """Make a security group; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: security.add_group(state, name))

    async def delete_group(self, name: str) -> None:
        """Delete a security group that nobody is in and nobody names."""
        await self.cluster.store.commit(lambda state: (security.delete_group(state, name), None))

    async def add_rule(self, group: str, wish: security.RuleWish) -> SecurityRule:
        """Give a security group a rule; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: security.add_rule(state, group, wish))

    async def delete_rule(self, group: str, rule: str) -> None:
        """Take a rule out of a security group."""
        await self.cluster.store.commit(lambda state: (security.delete_rule(state, group, rule), None))

    # --- VPNs: see decide/vpns.py for what each verb refuses ---

    async def add_vpn(self, name: str, rd: str, imports: Sequence[str] = (), exports: Sequence[str] = ()) -> Vpn:
        """Make a VPN; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: vpns.add(state, name, rd, imports, exports))

    async def set_vpn(
        self, name: str, imports: Sequence[str] | None = None, exports: Sequence[str] | None = None
    ) -> Vpn:
        """Change a VPN's route targets."""
        return await self.cluster.store.commit(lambda state: vpns.change(state, name, imports, exports))

    async def delete_vpn(self, name: str) -> None:
        """Delete a VPN with which nothing is associated."""
        await self.cluster.store.commit(lambda state: (vpns.delete(state, name), None))

    async def associate_network(self, vpn: str, network: str, address: str = "", mac: str = "") -> list[RouterPort]:
        """Give a VPN its places in a network; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: vpns.associate_network(state, vpn, network, address, mac))

    async def dissociate_network(self, vpn: str, network: str) -> None:
        """Take a VPN's places in a network away."""
        await self.cluster.store.commit(lambda state: (vpns.dissociate_network(state, vpn, network), None))

    async def associate_router(self, vpn: str, router: str) -> Router:
        """Make a router one of a VPN's; the same again is "already so"."""
        return await self.cluster.store.commit(lambda state: vpns.associate_router(state, vpn, router))

    async def dissociate_router(self, vpn: str, router: str) -> Router:
        """Take a router out of a VPN."""
        return await self.cluster.store.commit(lambda state: vpns.dissociate_router(state, vpn, router))

    async def in_turn(self, steps: Sequence[Callable[[State], list[Edit]]]) -> None:
        """Decisions one after the other, each on what those before it lead to, stored together or not at all."""

        def decide(state: State) -> tuple[list[Edit], None]:
            found: list[Edit] = []
            for step in steps:
                edits = step(state)
                found += edits
                state = apply(state, edits, state.revision)
            return found, None

        await self.cluster.store.commit(decide)

    async def forget_address(self, network: str, address: str) -> None:
        """Forget an address that was learnt.

        Raises:
            NotFound: it was not.
        """

        def decide(state: State) -> tuple[list[Edit], None]:
            edits = hidden.withdraw(state, [(network, address)])
            if not edits:
                raise NotFound(
                    f"address {address[:80]} is not learnt in network {network[:80]} (`ebbtide learnt list`)"
                )
            return edits, None

        await self.cluster.store.commit(decide)

    async def relate(self, gateway: str, peer: str, *, on: bool = True) -> Relation:
        """Make (or end) a gateway relation: `peer` sends by `gateway`, with a tunnel watched by BFD."""

        def decide(state: State) -> tuple[list[Edit], Relation]:
            ends = [self._member(state, text) for text in (gateway, peer)]
            if ends[0].number == ends[1].number:
                raise BadInput(f"{gateway} cannot be its own gateway")
            made = Relation(ends[0].number, ends[1].number)
            known = state.relations.get((made.gateway, made.peer))
            if on == (known is not None):
                return [], made
            return [Edit(None, made) if on else Edit(made, None)], made

        return await self.cluster.store.commit(decide)

    @staticmethod
    def _member(state: State, text: str) -> Compute:
        compute, reason = lifecycle.resolve(state, text)
        if compute is None:
            raise NotFound(reason)
        if compute.membership is Membership.WAITING:
            raise Refused(
                f"{compute.name} waits for admission: approve it first (`ebbtide compute approve {compute.name}`)"
            )
        if compute.membership is not Membership.MEMBER:
            raise Refused(f"{compute.name} is {compute.membership}, not a member")
        return compute

    # --- computes ---

    async def approve(self, text: str) -> Compute:
        """Admit a waiting compute; let a member come with another certificate, or another host in its place."""

        def decide(state: State) -> tuple[list[Edit], Compute]:
            compute, edits = lifecycle.approve(state, text)
            return edits, compute

        return await self.cluster.store.commit(decide)

    async def adopt(self, text: str, forced: str = "") -> Compute:
        """Take over a br-int that another system runs: its controller, and every flow and tunnel port that is not ours, go.

        Raises:
            NotFound, Refused: it is no member; or VMs are plugged there of which nobody has said a word, so that they would be cut off, and
                no reason is given to do it all the same.
        """

        def decide(state: State) -> tuple[list[Edit], Compute]:
            compute = self._member(state, text)
            if compute.adopted:
                return [], compute
            member = self.cluster.members.get(compute.number)
            strange = sorted(lifecycle.untold(state, member.view.ports)) if member is not None and not forced else []
            if strange:
                raise Refused(
                    f"{compute.name} was not adopted: nobody has told of {some(strange, 3)}, which are plugged there and would "
                    "be cut off. Let Neutron tell of them first, or add them (`ebbtide port add`); to cut them off: --force REASON"
                )
            adopted = msgspec.structs.replace(compute, adopted=True)
            return [Edit(compute, adopted)], adopted

        return await self.cluster.store.commit(decide)

    async def readmit(self, text: str) -> Compute:
        """Let a removed compute join again, as a new one: an operation that is over when it is ready."""

        def decide(state: State) -> tuple[list[Edit], Compute]:
            compute, edits = scalein.readmit(state, text)
            return [*edits, *returns.readmission(compute, self._new_id(), int(time.time()))], compute

        return await self.cluster.store.commit(decide)

    async def forget(self, text: str) -> Compute:
        """Drop a compute that waits for admission."""

        def decide(state: State) -> tuple[list[Edit], Compute]:
            compute, reason = lifecycle.resolve(state, text)
            if compute is None:
                raise NotFound(reason)
            if compute.membership is not Membership.WAITING:
                raise Refused(f"{compute.name} is {compute.membership}: only a waiting compute can be forgotten")
            return [Edit(compute, None)], compute

        return await self.cluster.store.commit(decide)

    # --- scale-in ---

    async def start(self, ids: Sequence[str], deadline: float | None = None) -> Decision:
        """scalein-computes-start. `deadline`: seconds from now until which moves wait for connections that are unknown (default: as
        configured); those under way from these computes get it as well."""
        until = _instant(deadline) if deadline is not None else 0

        def decide(state: State) -> tuple[list[Edit], Decision]:
            decision = scalein.start(state, ids).checked("scalein-computes-start")
            numbers = {v.number for v in decision.verdicts}
            begun = marking.mark(state, decision, numbers, self.cluster.designations.standings(), until)
            # From now on they are marked by somebody else as well: an abort of a drain leaves them marked.
            owners = {n: o.id for o in drain.owners(state, numbers) for n in o.marked}
            said = {
                n: f"its mark is not drain {owners[n]}'s alone any more: an abort of that leaves it tombstoned"
                for n in numbers & owners.keys()
            }
            return [*begun.edits, *drain.released(state, numbers)], begun.decision.saying(said)

        decision = await self.cluster.store.commit(decide)
        self._say("scale_in_started", decision)
        await self._marked(decision)
        return decision

    async def plan_start(self, ids: Sequence[str]) -> tuple[Decision, list[Leaving]]:
        """What `start` would do for routers; touches nothing, and refuses what `start` refuses."""
        cluster, state = self.cluster, self.state
        decision = scalein.start(state, ids).checked("scalein-computes-start")
        marked = apply(state, decision.edits, state.revision + 1)
        numbers = {v.number for v in decision.verdicts}
        found = designation.departures(marked, cluster.designations.standings(), numbers)
        moves = [(state.routers[d.router], d.old, d.new) for d in found]
        looked_at = await sessions.before_moves(cluster, moves)
        return decision, [Leaving(d, x.recorded, x.part, x.proof) for d, x in zip(found, looked_at, strict=True)]

    def expected_seconds(self, moves: int) -> float:
        """What so many moves take that begin together, as far as that can be said before."""
        return natmoves.expected_seconds(moves, self.cluster.settings.lag)

    async def recover(self, ids: Sequence[str]) -> Decision:
        """scalein-computes-recover."""

        def decide(state: State) -> tuple[list[Edit], Decision]:
            decision = scalein.recover(state, ids).checked("scalein-computes-recover")
            numbers = {v.number for v in decision.verdicts if v.answer is scalein.Answer.ACCEPTED}
            return [*decision.edits, *designation.call_back(state, numbers)], decision

        decision = await self.cluster.store.commit(decide)
        self._say("scale_in_recovered", decision)
        await self._marked(decision)
        return decision

    def _say(self, what: str, decision: Decision, **facts: object) -> None:
        log.info(what, computes=[v.name for v in decision.verdicts], revision=self.state.revision, **facts)

    async def _marked(self, decision: Decision) -> None:
        """Wait until the mark is on the reachable computes' bridges (the store is the truth; this is for who reads there)."""
        numbers = [v.number for v in decision.verdicts]
        members = [self.cluster.members[n] for n in numbers if n in self.cluster.members]

        def there() -> bool:
            # What else follows from the call (services that have moved, and their flows that go a lag later) is not waited for.
            marks = {n: c.tombstoned for n in numbers if (c := self.state.computes.get(n)) is not None}
            return all(
                vswitch.is_marked(m.tables) == marks[m.number] for m in members if m.connected and m.number in marks
            )

        await self.cluster.wait_for(there, 5.0)

    async def end(self, ids: Sequence[str], wait: float | None = None) -> Operation | None:
        """scalein-computes-end: decide, store, clean, audit. None: all of them were removed and done with before.

        `wait`: seconds to wait for the audit (default: as configured; 0: not at all).

        Raises:
            StillWorking: accepted, but not proven clean within `wait`; the same call again waits for it.
        """
        _, mine = await self.begin_end(ids)
        await self.wait_end(mine, wait)
        return self.state.operations.get(mine[-1]) if mine else None

    async def begin_end(self, ids: Sequence[str]) -> tuple[Decision, list[str]]:
        """The first half of `end`: decide and store. Gives the verdicts, and the ids of the operations that concern these computes."""

        # Who has emptied a compute a moment ago need not ask twice: what has just moved is waited for before anything is decided.
        await self.cluster.wait_for(lambda: not self._forwards(ids), FORWARD_PATIENCE)

        def decide(state: State) -> tuple[list[Edit], tuple[Decision, str]]:
            reachable, moving = self.cluster.owing_nothing(), self.cluster.places.moving()
            decision = scalein.end(state, ids, reachable, moving, self.serves).checked("scalein-computes-end")
            if not decision.edits:
                return [], (decision, "")
            numbers = tuple(v.number for v in decision.verdicts if v.answer is scalein.Answer.ACCEPTED)
            made = Operation(self._new_id(), "end", numbers, "running", "cleaning", started=state.revision)
            return [*decision.edits, Edit(None, made), *old_operations(state)], (decision, made.id)

        decision, begun = await self.cluster.store.commit(decide)
        if begun:
            self._say("scale_in_ending", decision, operation=begun)
        numbers = {v.number for v in decision.verdicts}
        mine = [o for o in self.state.operations.values() if o.verb == "end" and numbers & set(o.computes)]
        for operation in mine:
            if operation.state == "running":
                self.endings.drive(operation.id)
        return decision, [o.id for o in mine]

    def serves(self, number: int) -> list[str]:
        """What a compute still serves, and another could, or what is on its way; in words, each service."""
        return designation.holds(self.state, number, self.cluster.designations.standings())

    def why_designated(self, kind: str, name: str) -> list[str]:
        """Why a service other than NAT is where it is, in words."""
        return duties.electable(self.state, kind, name, self.cluster.designations.standings())

    def electable(self, router: str) -> list[str]:
        """Why a router's NAT is where it is, in words."""
        return designation.electable(self.state, router, self.cluster.designations.standings())

    async def refused(self, router: str) -> Refusals | None:
        """What a router's NAT has refused to translate; None: nobody who serves it could be asked."""
        known = self.state.routers.get(router)
        return await untranslated.read(self.cluster, known) if known is not None else None

    async def dropped(self, port: str) -> Drops | None:
        """What a port's security has refused; None: no compute where it is could be asked."""
        known = self.state.ports.get(port)
        return await drops.read(self.cluster, known) if known is not None else None

    def _forwards(self, ids: Sequence[str]) -> bool:
        """Whether one of these, empty otherwise, still forwards for a port that has just left it."""
        found = (lifecycle.resolve(self.state, text)[0] for text in ids)
        moving, ports_on = self.cluster.places.moving(), self.state.ports_on
        return any(
            c is not None
            and not scalein.carried(self.state, c.number)
            and not moving.isdisjoint(ports_on.get(c.number, ()))
            for c in found
        )

    async def wait_end(self, operations: Sequence[str], wait: float | None = None) -> None:
        """The second half of `end`: wait until these operations are over.

        Raises:
            StillWorking: one goes on.
        """
        patience = self.cluster.settings.audit_wait if wait is None else wait
        await self.cluster.wait_for(lambda: not self.endings.unfinished(operations), patience)
        left = self.endings.unfinished(operations)
        if left:
            raise StillWorking(
                f"scale-in end goes on as operation {left[0].id}: {left[0].reason}; the same call again waits for it",
                left[0].id,
            )

    # --- drains ---

    async def drain(self, ids: Sequence[str], wish: Wish) -> tuple[Operation, bool]:
        """Empty computes and remove them, as one operation; see `Drains.begin`."""
        operation, anew = await self.drains.begin(ids, wish)
        if anew:
            await self._marked(scalein.start(self.state, ids))
        return operation, anew

    async def plan_drain(self, ids: Sequence[str], wish: Wish) -> DrainPlan:
        """What a drain would do; touches nothing. See `drain_plan.plan`."""
        return await drain_plan.plan(self.cluster, self.drains, ids, wish)

    # --- connections through a NAT ---

    async def sessions(
        self, name: str, limit: int = 0, after: sessions.Place | None = None
    ) -> tuple[Router, list[sessions.Part], list[Entry], list[Entry]]:
        """A router's connections: what each compute that has a part in its NAT has opened, all that are recorded and may be open, and a
        page of those.

        Raises:
            NotFound: there is no such router.
            Refused: it leads nowhere, so nobody serves its NAT.
        """
        router = routing.router(self.state, name)
        if not router.external:
            raise Refused(f"router {name} has no external network: it translates no connections")
        parts = await sessions.parts(self.cluster, router)
        entries = self.cluster.connections.of(router.tag)
        return router, parts, entries, sessions.page(entries, limit, after) if limit else []

    async def set_deadline(self, name: str, seconds: float) -> Move:
        """Let a router's move wait for connections that are unknown for so many seconds from now, and cut them after.

        Raises:
            NotFound, Refused: see `natmove.set_deadline`.
        """
        until = _instant(seconds)

        def decide(state: State) -> tuple[list[Edit], Move]:
            edits = natmove.set_deadline(state, name, until)
            return edits, msgspec.structs.replace(state.moves[name], deadline=until)

        made = await self.cluster.store.commit(decide)
        log.info("deadline_set", router=name, seconds=seconds)
        return made

    # --- rebalance ---

    def rebalance_plan(self) -> Plan:
        """What a rebalance would move now, and what is gained. Touches nothing."""
        return rebalancing.plan(self.state, self.cluster.designations.standings())

    async def rebalance(self) -> tuple[Operation | None, Plan, bool]:
        """Bring every compute within its bound by moves that break nothing, a few at a time (`decide/rebalancing.py`).

        Gives its operation (None: all is balanced), what is to move yet, and whether it began now; one that is under way is "already so".

        Raises:
            NotReady: it is this controller that seems to be cut off.
            Refused: a drain goes on.
        """

        def decide(state: State) -> tuple[list[Edit], tuple[Operation | None, Plan, list[Edit]]]:
            standings, known = self.cluster.designations.standings(), rebalancing.running(state)
            found = rebalancing.plan(state, standings)
            if known is not None or not found.moves:
                return [], (known, found, [])
            cut_off = self.cluster.designations.cut_off_now()
            if cut_off:
                raise NotReady(f"nothing is rebalanced now: {cut_off}")
            if drained(state):
                raise Refused(f"nothing is rebalanced now: {drained(state)}; wait for it, or abort it")
            made = Operation(
                self._new_id(),
                rebalancing.VERB,
                (),
                "running",
                "begins",
                started=state.revision,
                began=int(time.time()),
            )
            edits = rebalancing.step(state, standings, made, now_ms=int(time.time() * 1000))
            # Its first step is of the same transaction: it is stored as that leaves it.
            edits = [Edit(None, new) if old is made else Edit(old, new) for old, new in edits]
            return [*edits, *old_operations(state)], (made, found, edits)

        made, found, edits = await self.cluster.store.commit(decide)
        if made is not None and edits:
            log.info("rebalance_begun", operation=made.id, moves=len(found.moves), gain=list(found.gain))
            said(self.state, edits)
        return self.state.operations.get(made.id) if made is not None else None, found, bool(edits)

    async def stop_rebalance(self) -> Operation | None:
        """Begin no more moves of the rebalance under way; None: there is none. What moves goes on."""

        def decide(state: State) -> tuple[list[Edit], Operation | None]:
            known = rebalancing.running(state)
            stopped = rebalancing.stop(state, self.cluster.designations.standings())
            if known is None:
                return [], stopped
            return [Edit(known, stopped), *rebalancing.left_alone(state, known)], stopped

        return await self.cluster.store.commit(decide)

    async def wait_operation(self, operation_id: str, deadline: float) -> Operation | None:
        """An operation when it is over, or as it stands after so many seconds."""

        def over() -> bool:
            found = self.state.operations.get(operation_id)
            return found is None or found.state != "running"

        await self.cluster.wait_for(over, deadline)
        return self.state.operations.get(operation_id)

    # --- what Neutron says: see decide/documents.py, and decide/neutron.py for what it means ---

    async def post_documents(
        self, kind: str, given: Sequence[dict[str, Any]], writer: int | None = None
    ) -> list[Document]:
        """Keep what Neutron says of things, all of them or none, and do it; gives the documents as they are then. `writer`: see
        `documents.fenced`."""
        ids = documents.ids(kind, given)
        return await self._tell(kind, ids, writer, lambda state: documents.post(state, kind, given))

    async def put_document(
        self, kind: str, document_id: str, given: dict[str, Any], writer: int | None = None
    ) -> Document:
        """Keep what Neutron says anew of a thing, and do it; gives the document as it is then."""

        def speak(state: State) -> list[Edit]:
            return documents.put(state, kind, document_id, given)

        (made,) = await self._tell(kind, [document_id], writer, speak)
        return made

    async def delete_document(self, kind: str, document_id: str, writer: int | None = None) -> None:
        """Forget what Neutron has said of a thing, and take it away."""
        await self._tell(kind, (), writer, lambda state: documents.delete(state, kind, document_id))

    def need_lead(self) -> None:
        """What is asked for is known to who leads alone.

        Raises:
            NotReady: this controller stands by.
        """
        if not self.cluster.leads():
            raise NotReady("this controller stands by, and sees no switch: ask the one that leads")

    async def _tell(
        self, kind: str, shown: Sequence[str], writer: int | None, speak: Callable[[State], list[Edit]]
    ) -> list[Document]:
        def decide(state: State) -> tuple[list[Edit], tuple[list[Edit], list[Document]]]:
            turn = documents.fenced(state, writer)
            edits = neutron.change(state, speak(state))
            new = (edit.new for edit in edits if isinstance(edit.new, Document))
            made = {each.id: each for each in new if each.kind == kind}
            found = [made.get(name) or documents.one(state, kind, name) for name in shown]
            return [*turn, *edits], (edits, found)

        edits, found = await self.cluster.store.commit(decide)
        self.neutron_heard = self.cluster.now()
        said_of_neutron(edits)
        return found

    # --- backup ---

    def backup(self) -> bytes:
        """Everything that the store holds, as JSON lines: a head, then one fact a line."""
        state = self.state
        head = {
            "ebbtide-backup": 1,
            "schema": records.SCHEMA_VERSION,
            "store-id": state.store_id,
            "revision": state.revision,
            "facts": len(facts(state)),
        }
        lines = [msgspec.json.encode(head)]
        for fact in facts(state):
            lines.append(msgspec.json.encode({"table": records.table_of(fact), "fact": fact}))
        return b"\n".join(lines) + b"\n"

    async def restore(self, data: bytes) -> int:
        """Put a backup in the place of all that the store holds; gives the number of facts.

        The store gets a new id, so that every switch stops at the brake until `reconcile --approve`: a backup is older than the
        network, and nobody but an operator can say that it is the truth all the same.

        Raises:
            BadInput: it is not a backup, not whole, or of another schema. Nothing is changed.
        """
        found = [_stopped(fact) for fact in parse_backup(data)]
        await self.cluster.store.replace(found, self._new_id(), "restored from a backup: `ebbtide reconcile --approve`")
        return len(found)

    # --- looking ---

    async def audit(self) -> Report:
        """The audit of everything."""
        return await audit(self.cluster)

    async def reconcile(self, names: Sequence[str], approve: bool) -> list[str]:
        """Let braked computes go on (`approve`), or look at computes anew. Gives the names concerned."""
        if approve:
            return await self.cluster.approve(names)
        chosen = [m for m in self.cluster.members.values() if not names or m.name in names]
        for member in chosen:
            member.look_again()
        return sorted(m.name for m in chosen)

    def _reason(self, compute: Compute) -> str:
        member = self.cluster.members.get(compute.number)
        said = [member.reason if member else "", self.cluster.kept.get(compute.number, ""), lifecycle.note(compute)]
        said += [paths.apart(self.state, compute.number), *(member.complaints() if member else ())]
        narrow = paths.narrow(self.cluster, member) if member else ""
        return "; ".join(filter(None, said)) or narrow or lifecycle.unheld(compute)

    def compute_status(self, compute: Compute) -> dict[str, Any]:
        """One compute for people and scripts."""
        member = self.cluster.members.get(compute.number)
        ports = self.state.ports_on.get(compute.number)
        datapath = member.view.datapath if member else Datapath()
        proof = datapaths.move_proven(datapath)
        return {
            "name": compute.name,
            "number": compute.number,
            "dpid": str(compute.dpid),
            "node-id": compute.node_id,
            "system-id": compute.system_id,
            "tep": compute.tep,
            "phase": str(self.cluster.phase(compute)),
            "reason": self._reason(compute),
            "membership": str(compute.membership),
            "tombstoned": compute.tombstoned,
            "gateway": compute.gateway,
            "held-start": compute.held_start,
            "connected": bool(member and member.connected),
            "datapath": datapath.kind,
            "ovs-version": datapath.version,
            "hw-offload": datapath.offload,
            "dpdk": datapath.dpdk,
            "nat-move-proven": proof.proven,
            "nat-move": proof.words,
            "ports": len(ports) if ports else 0,
            "peers": len(self.state.peers(compute.number)) if compute.number in self.state.computes else 0,
            "applied": member.applied() if member else 0,
            "rejected": [str(k) for k in self.cluster.settle_keys(compute.number)],
            "debts": sorted(
                self.endings.name(d.removed) for d in self.state.debts.values() if d.compute == compute.number
            ),
        }


def _usual_mtu(state: State) -> int:
    """That of a network made without one: a VXLAN header over IPv6 is 20 bytes longer than over IPv4."""
    return teps.DEFAULT_MTU[max((teps.version(compute.tep) for compute in state.computes.values()), default=4)]


def _instant(seconds: float) -> int:
    """So many seconds from now, since the epoch."""
    return int(time.time() + seconds)


def _stopped(fact: Fact) -> Fact:
    """An operation of a backup was going on in another time: nobody has asked for it to go on in this one."""
    if not (isinstance(fact, Operation) and fact.open):
        return fact
    why = f"stopped by a restore while {fact.reason or fact.state}: begin it anew if it is still wanted"
    return msgspec.structs.replace(fact, state="failed", reason=why, over=int(time.time()))


def parse_backup(data: bytes) -> list[Fact]:
    """The facts of a backup.

    Raises:
        BadInput: it is not a backup, not whole, or of another schema.
    """
    lines = data.splitlines()
    try:
        head = msgspec.json.decode(lines[0]) if lines else None
        if not isinstance(head, dict) or head.get("ebbtide-backup") != 1:
            raise BadInput("this is not a backup of Ebbtide")
        if str(head.get("schema", "")).split(".")[0] != records.SCHEMA_VERSION.split(".")[0]:
            raise BadInput(f"the backup has schema {head.get('schema')}, this controller has {records.SCHEMA_VERSION}")
        found: list[Fact] = []
        for line in lines[1:]:
            row = msgspec.json.decode(line)
            found.append(msgspec.convert(row["fact"], records.TABLES[row["table"]][0]))
        if len(found) != head.get("facts"):
            raise BadInput(f"the backup is cut: {len(found)} of {head.get('facts')} facts")
        rebuild(found, 1)
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise BadInput(f"the backup cannot be read: {error!r}") from None
    return found


def _told(dns: Sequence[str]) -> str:
    """Name servers' addresses in their order, as they are stored. DHCP tells each family its own."""
    if len(dns) > MAX_TOLD:
        raise BadInput(f"{len(dns)} name servers: a network may tell {MAX_TOLD}", "dns")
    found = []
    for text in dns:
        try:
            found.append(str(parse_ip(text)))
        except ValueError as error:
            raise BadInput(f"name server {text[:60]!r} is no IP address: {error}", "dns") from None
    return " ".join(dict.fromkeys(found))


def _ways(routes: Sequence[str]) -> tuple[str, ...]:
    """Host routes, "prefix via address" of IPv4, as the store gives them back."""
    if len(routes) > MAX_TOLD:
        raise BadInput(f"{len(routes)} host routes: a network may tell {MAX_TOLD}", "host-routes")
    found = set()
    for text in routes:
        way, _, via = text.partition(" via ")
        try:
            net, hop = ipaddress.IPv4Network(way.strip(), strict=False), ipaddress.IPv4Address(via.strip())
        except ValueError as error:
            words = f"host route {text[:60]!r} is not PREFIX via ADDRESS of IPv4 (DHCPv6 tells none): {error}"
            raise BadInput(words, "host-routes") from None
        found.add(f"{net} via {hop}")
    return tuple(sorted(found))
