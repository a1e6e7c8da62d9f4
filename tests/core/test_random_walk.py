"""One long random walk: computes, ports, routers, VPNs come, go, migrate, die, return, are tombstoned, ended, recovered, in any order.

Every step is taken by the decisions themselves, on a cloud without wires (`tests/fakes/core_cloud.py`). After each step:

* no flow, group or tunnel of a removed compute is anywhere but where a debt says so;
* nobody serves anything that is lost, nor one that is tombstoned while another could; and what one compute does for all is done by one;
* whoever should reach somebody does, and nobody else hears of it;
* recompute equals incremental: what each compute holds was made step by step;

and to start and recover a scale-in restores every byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from ipaddress import IPv4Address
from itertools import product
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ebbtide.compile import ledger
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Punt
from ebbtide.decide import audit, hidden, routing, vpns
from ebbtide.decide.lifecycle import Outcome
from ebbtide.errors import NotFound, Refused
from ebbtide.model.facts import BindingPhase, Compute, Designation, Fact, Lease, Port, RouterPort
from ebbtide.model.state import NAT, SUBNET, State, facts, subnet_name
from tests.fakes.clouds import PROVIDER
from tests.fakes.core_cloud import HEARD, LOST, NEXT_HOP_MAC, PHYSICAL, CoreCloud, Host, Life
from tests.fakes.flow_table import Packet, Walk, arp_request, unicast
from tests.fakes.follower import encoded

HOSTS = {name: Host(name, number, wired=name in "abcf", gateway=name == "f") for number, name in enumerate("abcdef", 1)}
#: n4 has the addresses of n1, so that VPNs which import both see one of them.
SUBNETS = {"n1": "10.1.0.0/24", "n2": "10.2.0.0/24", "n3": "10.3.0.0/24", "n4": "10.1.0.0/24"}
ROUTERS, VPNS, TARGETS = ("r1", "r2"), ("blue", "red", "green"), ("100:1", "100:2")
VRFS = {name: 240 + at for at, name in enumerate((*ROUTERS, *VPNS))}
PORTS = {f"p{k}": ("n1", "n2", "n3", "n4")[(k - 1) % 4] for k in range(1, 8)}
OUTSIDE, REMOTE = "203.0.113.0/24", int(IPv4Address("198.51.100.7"))
T = TypeVar("T")


def value(address: str) -> int:
    return int(IPv4Address(address))


def address_in(network: str, last: int) -> str:
    return f"{SUBNETS[network].rpartition('.')[0]}.{last}"


def mac_of(port: str) -> int:
    return 0x02_0000_000000 + int(port[1:])


class Cloud(RuleBasedStateMachine):
    """See above. Whatever a rule may choose from is listed in the order of names, so that an example means the same each time."""

    def __init__(self) -> None:
        super().__init__()
        self.cloud = CoreCloud()
        self._walked: object = None

    @property
    def state(self) -> State:
        return self.cloud.state

    def pick(self, data: st.DataObject, among: Iterable[T]) -> T | None:
        found = sorted(among, key=repr)
        return data.draw(st.sampled_from(found)) if found else None

    def some(self, data: st.DataObject, among: Iterable[str]) -> list[str]:
        found = sorted(among)
        return data.draw(st.lists(st.sampled_from(found), min_size=1, max_size=3, unique=True)) if found else []

    def living(self, *lives: Life) -> list[str]:
        return [c.name for c in self.state.members() if self.cloud.life[c.number] in lives]

    @initialize()
    def begin(self) -> None:
        """a to d, four networks, r1 in two of them with a way outside, one VPN that imports from two others, and ports on a, b and c."""
        cloud = self.cloud
        cloud.add_external("out", OUTSIDE, "203.0.113.1")
        for name in "abcd":
            cloud.connect(HOSTS[name])
        for name in ("n1", "n2", "n3", "n4"):
            cloud.add_network(name, SUBNETS[name])
        for port, name in (("p1", "a"), ("p2", "b"), ("p3", "c"), ("p4", "d"), ("p5", "b")):
            self.made(port)
            cloud.run(port, cloud.number(name))
        cloud.decide(lambda s: routing.add_router(s, "r1", "out", ["203.0.113.10"]))
        for network in ("n1", "n2"):
            cloud.decide(lambda s, n=network: routing.attach(s, "r1", n, address_in(n, VRFS["r1"])))
        for name, network, exports in (("blue", "n3", ()), ("red", "n4", TARGETS[:1]), ("green", "", TARGETS[1:])):
            rd, imports = f"100:{VPNS.index(name) + 1}", TARGETS if name == "blue" else ()
            cloud.decide(lambda s, n=name, r=rd, i=imports, e=exports: vpns.add(s, n, r, i, e))
            if network:
                cloud.decide(lambda s, n=name, w=network: routing.attach(s, n, w, address_in(w, VRFS[n])))

    def made(self, port: str) -> None:
        self.cloud.add_port(port, PORTS[port], mac_of(port), address_in(PORTS[port], int(port[1:])))

    # --- computes ---

    @rule(data=st.data())
    def a_compute_joins_or_returns(self, data: st.DataObject) -> None:
        away = [h for n, h in HOSTS.items() if n not in self.living(*HEARD)]
        host = self.pick(data, away)
        if host is None:
            return
        grave = next((c for c in self.state.removed.values() if c.name == host.name), None)
        life = data.draw(st.sampled_from([Life.READY, Life.READY, Life.CONNECTED]))
        outcome = self.cloud.connect(host, life)
        assert (outcome is Outcome.QUARANTINED) == (grave is not None)

    @rule(data=st.data())
    def one_is_ready_or_not_any_more(self, data: st.DataObject) -> None:
        name = self.pick(data, self.living(*HEARD))
        if name is not None:
            number = self.cloud.number(name)
            self.cloud.life[number] = Life.READY if self.cloud.life[number] is Life.CONNECTED else Life.CONNECTED
            self.cloud.settle()

    @rule(data=st.data(), absent=st.booleans())
    def one_falls_silent(self, data: st.DataObject, absent: bool) -> None:
        name = self.pick(data, self.living(*HEARD))
        if name is not None:
            self.cloud.lose(self.cloud.number(name), Life.SILENT, absent=absent)

    @rule(data=st.data())
    def one_is_silent_for_too_long(self, data: st.DataObject) -> None:
        name = self.pick(data, self.living(Life.SILENT))
        if name is not None:
            self.cloud.lose(self.cloud.number(name), Life.GONE)

    @rule(data=st.data())
    def one_dies(self, data: st.DataObject) -> None:
        name = self.pick(data, self.living(*HEARD, Life.SILENT, Life.GONE))
        if name is not None:
            self.cloud.lose(self.cloud.number(name), Life.DEAD)

    @rule(data=st.data())
    def one_is_readmitted(self, data: st.DataObject) -> None:
        grave = self.pick(data, [c.name for c in self.state.removed.values()])
        if grave is not None:
            self.maybe(lambda: self.cloud.readmit(grave))

    # --- scale-in ---

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        ids = self.some(data, [c.name for c in self.state.members()])
        if ids:
            self.cloud.start(ids)
            assert all(self.state.computes[self.cloud.number(n)].tombstoned for n in ids)

    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        ids = self.some(data, [c.name for c in self.state.members()])
        if ids:
            self.cloud.recover(ids)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ids = self.some(data, [c.name for c in self.state.members() if c.tombstoned])
        numbers = {self.cloud.number(n) for n in ids}
        if ids and self.maybe(lambda: self.cloud.end(ids)):
            assert numbers <= set(self.state.removed)

    @rule(data=st.data())
    def empty_and_end(self, data: st.DataObject) -> None:
        """The whole drain of one, alive or dead: its ports leave for another, its services arrive elsewhere, and it is removed."""
        name = self.pick(data, self.living(*HEARD, Life.DEAD))
        to = self.pick(data, [n for n in self.living(*HEARD) if n != name])
        if name is None or to is None:
            return
        number = self.cloud.number(name)
        self.cloud.start([name])
        for port in sorted(self.state.ports_on.get(number, {})):
            self.leave(port, number, self.cloud.number(to))
        self.cloud.arrive()
        ended = self.maybe(lambda: self.cloud.end([name]))
        # Refused while something of it is on its way, or somebody who could have it is not ready.
        everybody = {self.cloud.life[c.number] for c in self.state.members()}
        assert ended or everybody != {Life.READY}

    def leave(self, port: str, old: int, new: int) -> None:
        """A live migration; or the guest is started anew, where it died with its compute."""
        if self.cloud.guest[port] == old:
            self.cloud.migrate(port, new)
        elif old in self.cloud.taps[port]:
            self.cloud.unplug(port, old)
        elif not self.cloud.guest[port]:
            self.cloud.run(port, new)

    @rule(data=st.data())
    def start_and_recover_restores_every_byte(self, data: st.DataObject) -> None:
        """From a state at rest, with nothing between. What moves at once (duties, and who stands by) may stay where it went: then all facts
        but these are what they were."""
        ids = self.some(data, [c.name for c in self.state.members() if not c.tombstoned])
        if not ids or self.state.moves:
            return
        before, held = self.state, self.in_bytes()
        self.cloud.start(ids)
        self.cloud.recover(ids)
        after = self.state
        moved = {key for key in after.designations if after.designations[key] != before.designations.get(key)}
        assert standing_still(after, moved) ^ standing_still(before, moved) == set()
        assert moved or self.in_bytes() == held

    def in_bytes(self) -> dict[int, Any]:
        return {n: {k: encoded(f) for k, f in made.items()} for n, made in self.cloud.desired.items()}

    # --- ports ---

    @rule(data=st.data())
    def a_port_is_made_and_plugged(self, data: st.DataObject) -> None:
        idle = [p for p in PORTS if p not in self.state.ports or not self.cloud.taps.get(p)]
        idle = [p for p in idle if PORTS[p] in self.state.networks]
        port, name = self.pick(data, idle), self.pick(data, self.living(*HEARD))
        if port is not None and name is not None:
            if port not in self.state.ports and not self.maybe(lambda: self.made(port)):
                return
            self.cloud.run(port, self.cloud.number(name))

    @rule(data=st.data())
    def a_port_is_unplugged(self, data: st.DataObject) -> None:
        place = self.pick(data, self.plugged())
        if place is not None:
            self.cloud.unplug(*place)

    @rule(data=st.data())
    def a_port_is_deleted(self, data: st.DataObject) -> None:
        port = self.pick(data, self.state.ports)
        if port is not None:
            self.cloud.delete_port(port)

    def plugged(self) -> list[tuple[str, int]]:
        """Taps on computes that are heard: nothing is done to a host that cannot be reached."""
        return [(p, n) for p, taps in self.cloud.taps.items() for n in taps if n in self.cloud.heard()]

    @rule(data=st.data())
    def a_migration_begins(self, data: st.DataObject) -> None:
        """Or a guest is started anew, whose compute is dead."""
        port, name = self.pick(data, self.cloud.guest), self.pick(data, self.living(*HEARD))
        if port is None or name is None or len(self.cloud.taps[port]) > 1:
            return
        at = self.cloud.guest[port]
        if at in self.cloud.heard():
            self.cloud.plug(port, self.cloud.number(name))
        elif not at:
            self.cloud.run(port, self.cloud.number(name))

    @rule(data=st.data())
    def a_guest_comes_over(self, data: st.DataObject) -> None:
        """To the other place that its migration has: there, or back. Where it has left it is not looked for as long as somebody who may
        still send there cannot be heard: then it comes back when its tap at the new place goes."""
        heard, guest = self.cloud.heard(), self.cloud.guest
        ways = [(p, n) for p, n in self.plugged() if guest[p] in heard and guest[p] != n and self.may_be(p, n)]
        way = self.pick(data, ways)
        if way is not None:
            self.cloud.run(*way)

    def may_be(self, port: str, number: int) -> bool:
        held = self.state.binding(port, number)
        everybody = set(self.state.footprint(self.state.ports[port].network)) <= self.cloud.heard()
        return held is not None and (held.phase is not BindingPhase.LEAVING or everybody)

    # --- routers, VPNs, addresses ---

    def maybe(self, act: Any) -> bool:
        """Do what may be refused; then nothing has changed."""
        before = self.state
        try:
            act()
        except (Refused, NotFound):
            assert self.state is before
            return False
        return True

    @rule(data=st.data(), outside=st.booleans())
    def a_router_comes_or_changes(self, data: st.DataObject, outside: bool) -> None:
        name = self.pick(data, ROUTERS)
        way = ("out", [f"203.0.113.{10 + ROUTERS.index(name or '')}"]) if outside else ("", [])
        if name in self.state.routers:
            self.maybe(lambda: self.cloud.decide(lambda s: routing.set_router(s, str(name), *way)))
        else:
            self.maybe(lambda: self.cloud.decide(lambda s: routing.add_router(s, str(name), *way)))

    @rule(data=st.data())
    def a_vpn_comes_or_changes(self, data: st.DataObject) -> None:
        name = self.pick(data, VPNS) or ""
        imports, exports = (
            tuple(data.draw(st.lists(st.sampled_from(TARGETS), unique=True, max_size=2))) for _ in range(2)
        )
        if name in self.state.vpns:
            self.maybe(lambda: self.cloud.decide(lambda s: vpns.change(s, name, imports, exports)))
        else:
            rd = f"100:{VPNS.index(name) + 1}"
            self.maybe(lambda: self.cloud.decide(lambda s: vpns.add(s, name, rd, imports, exports)))

    @rule(data=st.data())
    def a_place_comes_or_goes(self, data: st.DataObject) -> None:
        name = self.pick(data, [*self.state.routers, *self.state.vpns])
        network = self.pick(data, self.state.networks)
        if name is None or network is None:
            return
        if any(leg.network == network for leg in self.state.places(name)):
            self.maybe(lambda: self.cloud.decide(lambda s: routing.detach(s, name, network)))
        else:
            address = address_in(network, VRFS[name])
            self.maybe(lambda: self.cloud.decide(lambda s: routing.attach(s, name, network, address)))

    @rule(data=st.data())
    def a_router_leaves_all_its_networks(self, data: st.DataObject) -> None:
        name = self.pick(data, self.state.routers)
        for leg in self.state.places(str(name)):
            self.maybe(lambda n=leg.network: self.cloud.decide(lambda s: routing.detach(s, str(name), n)))

    @rule(data=st.data())
    def a_router_joins_a_vpn_or_leaves_it(self, data: st.DataObject) -> None:
        router, name = self.pick(data, self.state.routers), self.pick(data, self.state.vpns)
        if router is None or name is None:
            return
        change = vpns.dissociate_router if self.state.routers[router].vpn == name else vpns.associate_router
        self.maybe(lambda: self.cloud.decide(lambda s: change(s, name, router)))

    @rule(data=st.data(), with_everything=st.booleans())
    def a_router_or_vpn_is_deleted(self, data: st.DataObject, with_everything: bool) -> None:
        name = self.pick(data, [*self.state.routers, *self.state.vpns])
        if name in self.state.vpns:
            delete = vpns.clear if with_everything else vpns.delete
            self.maybe(lambda: self.cloud.decide(lambda s: delete(s, str(name))))
        elif name is not None:
            self.maybe(lambda: self.cloud.decide(lambda s: routing.delete_router(s, name)))

    @rule(data=st.data(), last=st.sampled_from([200, 201]), shared=st.booleans())
    def an_address_answers_or_does_no_more(self, data: st.DataObject, last: int, shared: bool) -> None:
        port = self.pick(data, self.state.ports)
        if port is None:
            return
        network, mac = self.state.ports[port].network, 0x0A_0000_000001 if shared else mac_of(port)
        address = address_in(network, last)
        known = self.state.learnt_in(network).get(address)
        if known is not None and known.port == port:
            self.cloud.decide(lambda s: hidden.withdraw(s, [(network, address)]))
        else:
            self.cloud.decide(lambda s: hidden.learn(s, network, address, mac, port))

    # --- moves of a router's NAT ---

    @precondition(lambda self: self.state.moves)
    @rule(data=st.data(), steps=st.integers(1, 13))
    def a_move_goes_on(self, data: st.DataObject, steps: int) -> None:
        router = self.pick(data, self.state.moves)
        for _ in range(steps):
            move = self.state.moves.get(str(router))
            if move is not None and {move.old, move.new} <= self.cloud.heard():
                self.cloud.move_on(move.router)

    @precondition(lambda self: self.state.moves)
    @rule(data=st.data())
    def a_move_is_called_back(self, data: st.DataObject) -> None:
        self.cloud.call_back(str(self.pick(data, self.state.moves)))

    # --- what always holds ---

    @invariant()
    def all_is_well(self) -> None:
        self.nothing_of_a_removed_compute_is_anywhere()
        self.who_serves_is_who_should()
        self.every_port_that_should_reach_another_does()
        self.an_address_outside_is_answered_for_by_one()

    def nothing_of_a_removed_compute_is_anywhere(self) -> None:
        for number, grave in self.state.removed.items():
            for other, made in self.cloud.desired.items():
                assert number not in self.state.peers(other)
                for fragment in made.values():
                    assert not residue(fragment, grave), (grave.name, self.state.computes[other].name, fragment)
            for other, table in self.cloud.tables.items():
                if other not in self.cloud.desired and number in table.tunnels.values():
                    assert (other, number) in self.state.debts

    def who_serves_is_who_should(self) -> None:
        lost = {n for n, life in self.cloud.life.items() if life in LOST}
        needed = {(SUBNET, subnet_name(n, s)): set(self.state.footprint(n)) for n in SUBNETS for s in self.served(n)}
        gateways = {c.number for c in self.state.members() if c.gateway}
        for router in self.state.routers.values():
            if router.external and self.state.places(router.id):
                wired = {c.number for c in self.state.members() if PHYSICAL in dict(c.provider_mappings)}
                needed[NAT, router.id] = (self.state.present(router.id) | gateways) & wired
        for key, found in self.state.designations.items():
            # A router keeps the NAT that it had while it is in no network.
            outside = key[0] == NAT and self.state.routers[key[1]].external
            assert key in needed or outside, f"{key} needs nobody"
            assert found.compute in self.state.computes
            assert found.standby in (0, *self.state.computes)
            assert found.standby != found.compute
        for key, places in needed.items():
            able = {n for n in places if self.is_able(n)}
            designated = self.state.designations.get(key)
            at = designated.compute if designated is not None else 0
            if not able - {at}:
                continue
            assert at, f"nobody serves {key}, and {able} could"
            assert at not in lost, f"{key} is served by a compute that is lost, and {able} could"
            moves = key[0] == NAT and key[1] in self.state.moves
            assert moves or not self.state.computes[at].tombstoned, (
                f"{key} is on a tombstoned compute, and {able} could"
            )

    def served(self, network: str) -> tuple[str, ...]:
        return self.state.subnets(network) if self.state.footprint(network) else ()

    def is_able(self, number: int) -> bool:
        compute = self.state.computes[number]
        return not compute.tombstoned and self.cloud.life[number] is Life.READY

    def every_port_that_should_reach_another_does(self) -> None:
        now = (self.state, dict(self.cloud.guest), dict(self.cloud.life))
        if now == self._walked:
            return
        self._walked = now
        running = [self.state.ports[p] for p in sorted(self.state.ports) if self.cloud.runs(p)]
        for sender, receiver in product(running, repeat=2):
            if sender.network == receiver.network and sender != receiver:
                walk = self.cloud.send(sender.id, unicast(sender.mac, receiver.mac))
                self.arrives(walk, receiver.id)
        for sender in running:
            for leg, vrf in self.gateways(sender):
                for network in SUBNETS:
                    if network in self.state.networks:
                        self.route(sender, leg, vrf, network)
                self.leave_by(sender, leg, vrf)

    def gateways(self, sender: Port) -> Iterator[tuple[RouterPort, str]]:
        for vrf in sorted(VRFS):
            for leg in self.state.places(vrf):
                if leg.network == sender.network:
                    yield leg, vrf

    def arrives(self, walk: Walk, port: str) -> None:
        """Once where its guest runs; while it migrates the other place may have a copy."""
        places = {(b.compute, port) for b in self.state.bindings.get(port, ())}
        assert len(set(walk.taps)) == len(walk.taps), walk.taps
        assert set(walk.taps) <= places, (walk.taps, places)
        assert (self.cloud.guest[port], port) in walk.taps, (port, self.cloud.guest[port], walk.taps)

    def route(self, sender: Port, leg: RouterPort, vrf: str, network: str) -> None:
        """To all addresses in a network: those of its ports, one that is learnt, and one that nobody has."""
        seen = network in self.horizon(vrf)
        targets = {p.addresses[0]: p.id for p in self.state.ports.values() if p.network == network and p != sender}
        targets |= {address: found.port for address, found in self.state.learnt_in(network).items()}
        for address, port in sorted(targets.items()):
            if network == sender.network:
                continue
            walk = self.cloud.send(sender.id, routed(sender, leg, address))
            if not seen:
                assert port not in [name for _, name in walk.taps], f"{sender.id} hears of {address} in {network}"
            elif self.cloud.runs(port):
                self.arrives(walk, port)
            else:
                # One that cannot be heard may not know the MAC yet, and floods what comes out of the tunnel: in its own network.
                assert {PORTS[name] for _, name in walk.taps} <= {network}, (sender.id, vrf, address, walk.taps)
        if seen:
            self.ask(sender, leg, network)

    def ask(self, sender: Port, leg: RouterPort, network: str) -> None:
        """A packet to an address that nobody has is asked for by the one designated compute, and goes nowhere else."""
        walk = self.cloud.send(sender.id, routed(sender, leg, address_in(network, 99)))
        found = self.state.designations.get((SUBNET, subnet_name(network, SUBNETS[network])))
        tag = self.state.networks[network].tag
        asked = [at for at, why, _ in walk.punts if why == ledger.userdata(Punt.HIDDEN, tag)]
        assert (walk.taps, walk.wires) == ([], [])
        if found is not None and found.compute in self.cloud.heard():
            assert asked == [found.compute]
        else:
            assert len(asked) <= 1

    def leave_by(self, sender: Port, leg: RouterPort, vrf: str) -> None:
        """What goes outside leaves by one wire: that of the designated compute, unless its NAT moves."""
        router = self.state.routers.get(vrf)
        walk = self.cloud.send(sender.id, routed(sender, leg, str(IPv4Address(REMOTE))))
        assert walk.taps == []
        assert len(walk.wires) <= 1
        found = self.state.designations.get((NAT, vrf))
        if router is None or not router.external or not router.addresses or found is None:
            assert not walk.wires
        elif vrf not in self.state.moves and found.compute in self.cloud.heard():
            assert walk.wires == [(found.compute, PHYSICAL)]
            assert walk.sent[0][2]["ipv4_src"] == value(router.addresses[0])

    def horizon(self, vrf: str) -> set[str]:
        """The networks that a VRF has a route to (docs/vpns.md, "Who has a route to what"), by their rules alone."""
        router = self.state.routers.get(vrf)
        vpn = router.vpn if router is not None else vrf
        found = {leg.subnet: leg.network for leg in self.state.places(vrf)}
        if vpn:
            own = self.state.vpns[vpn]
            imported = [v for v in self.state.vpns.values() if set(v.exports) & set(own.imports) and v != own]
            for other in (own, *sorted(imported, key=lambda v: v.tag)):
                fellows = [r.id for r in self.state.routers.values() if r.vpn == other.id]
                # Of one VPN no two subnets overlap, so their order is of no account.
                for leg in (leg for name in (other.id, *fellows) for leg in self.state.places(name)):
                    found.setdefault(leg.subnet, leg.network)
        return set(found.values())

    def an_address_outside_is_answered_for_by_one(self) -> None:
        """While a NAT moves, the old compute may answer as well, under a MAC of its own: no switch outside learns two places of one."""
        for router in self.state.routers.values():
            for address in router.addresses:
                said = self.answers(value(address))
                assert len([n for n, mac in said if mac == router.mac]) <= 1, (address, said)
                found = self.state.designations.get((NAT, router.id))
                if found is not None and found.compute in self.cloud.heard() and router.id not in self.state.moves:
                    assert said == [(found.compute, router.mac)], (address, said)

    def answers(self, address: int) -> list[tuple[int, int]]:
        """Who answers for an external address, and from which MAC."""
        found = []
        for number in sorted(self.cloud.heard() & set(self.state.wired("out"))):
            asked = arp_request(NEXT_HOP_MAC, value("203.0.113.1"), address)
            walk = Walk(self.cloud.tables).enter(number, PROVIDER, asked)
            found += [(at, frame["eth_src"]) for at, _, frame in walk.sent]
        return found

    def teardown(self) -> None:
        """In the end all that moves arrives; then nothing is on a tombstoned compute that could be elsewhere."""
        if self.state.moves.keys() and all({m.old, m.new} <= self.cloud.heard() for m in self.state.moves.values()):
            self.cloud.arrive()
            self.who_serves_is_who_should()


def standing_still(state: State, moved: Set[tuple[str, str]]) -> set[Fact]:
    """All facts but those of services that have moved, and ranges of ports of computes that have no part in the NAT (any more)."""
    return {
        fact
        for fact in facts(state)
        if not (isinstance(fact, Designation) and (fact.service, fact.object) in moved)
        and not (
            isinstance(fact, Lease) and ((NAT, fact.router) in moved or fact.compute not in state.servers(fact.router))
        )
    }


def routed(sender: Port, leg: RouterPort, address: str) -> Packet:
    """A datagram that a VM gives to its gateway."""
    udp = {"ip_proto": 17, "udp_src": 4000, "udp_dst": 53, "nw_ttl": 64}
    ends = {"ipv4_src": value(sender.addresses[0]), "ipv4_dst": value(address)}
    return {**unicast(sender.mac, leg.mac), **udp, **ends}


_searched: dict[tuple[Fragment, int], bool] = {}


def residue(fragment: Fragment, grave: Compute) -> bool:
    """Whether anything that the compute ever was called stands in these flows and groups, in any encoding."""
    key = fragment, grave.number
    if key not in _searched:
        made = encoded(fragment)
        dump = audit.Dump(
            "",
            tuple(audit.RawFlow(f.cookie, f.match, f.instructions) for f in made.flows),
            tuple(audit.RawGroup(g.group_id, g.buckets) for g in made.groups),
        )
        _searched[key] = bool(audit.search(grave.name, audit.needles(grave.identities()), dump))
    return _searched[key]


TestCloud = Cloud.TestCase
TestCloud.settings = settings(max_examples=50, stateful_step_count=80, derandomize=True)
