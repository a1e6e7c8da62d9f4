"""A cloud without wires: State, the decisions that change it, and what each compute would hold.

It does what the shell does between two events, in no time: it asks the decisions, stores what they want, and asks again until they want
nothing. Computes that cannot be heard keep the tables that they had; those that are dead have none. What a packet does is walked through
these tables (`flow_table.py`).

A guest runs on one compute, or on none; its tap may be on two of them, as it is in a live migration.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec
from immutables import Map

from ebbtide.compile.fragment import Fragment, Key
from ebbtide.decide import bindings, designation, duties, hidden, lifecycle, marking, natmove, routing, scalein
from ebbtide.decide.designation import Standing
from ebbtide.decide.ids import Allocator, released, retire
from ebbtide.decide.lifecycle import Claim, Outcome
from ebbtide.decide.scalein import Decision
from ebbtide.model.facts import (
    Binding,
    Compute,
    Designation,
    Edit,
    Fact,
    Lease,
    Move,
    Neighbour,
    Network,
    Port,
)
from ebbtide.model.moves import reached
from ebbtide.model.observed import View
from ebbtide.model.state import State, apply, facts
from tests.fakes import clouds
from tests.fakes.flow_table import Table, Walk, contents
from tests.fakes.follower import Follower

PHYSICAL, NEXT_HOP_MAC = "physnet1", 0x06_0000_000001
#: Steps after which decisions that still want something are taken to want it for ever.
PATIENCE = 60


class Life(StrEnum):
    """How a compute is seen."""

    READY = "ready"
    CONNECTED = "connected"  # and not ready
    SILENT = "silent"  # its control session is lost, and its peers see it
    GONE = "gone"  # and they do not
    DEAD = "dead"  # all of its peers have ceased to see it


HEARD = (Life.READY, Life.CONNECTED)
LOST = (Life.GONE, Life.DEAD)


class Host(NamedTuple):
    """A machine, member or not."""

    name: str
    number: int
    wired: bool = False
    gateway: bool = False

    @property
    def claim(self) -> Claim:
        """What its Open vSwitch says of itself."""
        return Claim(
            self.name,
            f"sys-{self.name}",
            f"uuid-{self.name}",
            teps=(f"192.168.0.{self.number}",),
            provider_mappings=((PHYSICAL, "br-ex"),) if self.wired else (),
            gateway=self.gateway,
        )


class CoreCloud:
    """State, what is seen of computes and ports, and their tables."""

    def __init__(self) -> None:
        self.state = apply(State(), [], 1, store_id="store", term=1)
        self.follower = Follower()
        self.life: dict[int, Life] = {}
        self.absent: set[int] = set()
        self.taps: dict[str, set[int]] = {}
        self.guest: dict[str, int] = {}
        #: What is desired of each compute that is heard, and what each that is not dead forwards by.
        self.desired: dict[int, dict[Key, Fragment]] = {}
        self.tables: dict[int, Table] = {}

    # --- what is stored ---

    def commit(self, edits: Iterable[Edit]) -> None:
        """One transaction, and what follows from it."""
        self.store(edits)
        self.settle()

    def store(self, edits: Iterable[Edit]) -> None:
        """One transaction. Each member that is heard follows."""
        net = clouds.squash(edits)
        if not net:
            return
        after = apply(self.state, net, self.state.revision + 1)
        assert not _dangling(after), "a compute that is gone is named"
        self.state = after
        self.follower.away = {n for n in after.computes if self.life.get(n) not in HEARD}
        self.follower.changed(net, after)

    def settle(self) -> None:
        """Until no decision wants anything more; then everybody shows and holds what follows."""
        for _ in range(PATIENCE):
            edits = self._next()
            if not edits:
                break
            self.store(edits)
        else:
            raise AssertionError(f"it never comes to rest: {self._next()}")
        self._follow()

    def _next(self) -> list[Edit]:
        for port in sorted(self.state.ports):
            edits = bindings.judge(self.state, port, self._sight(port))
            if edits:
                return edits
        standings = self.standings()
        for judge in (designation.judge, duties.judge):
            edits = judge(self.state, standings)
            if edits:
                return edits
        heard = self.heard()
        paid = [Edit(d, None) for d in self.state.debts.values() if d.compute in heard]
        everybody = {c.number for c in self.state.members()} <= heard
        return paid or (released(self.state, self.state.revision) if everybody else [])

    def _sight(self, port: str) -> bindings.Sight:
        heard, plugged = self.heard(), self.taps.get(port, set())
        held = {b.compute for b in self.state.bindings.get(port, ())}
        network = self.state.ports[port].network
        speaks = {self.guest.get(port, 0)} & heard
        flipped = all(n in heard or self.life[n] in LOST for n in self.state.footprint(network))
        return bindings.Sight({n: n in plugged for n in (plugged | held) & heard}, speaks, heard, flipped)

    def heard(self) -> set[int]:
        """Members whose sessions are up."""
        return {c.number for c in self.state.members() if self.life[c.number] in HEARD}

    def standings(self) -> dict[int, Standing]:
        """How each member is seen."""
        return {c.number: self._standing(c) for c in self.state.members()}

    def _standing(self, compute: Compute) -> Standing:
        life, wired = self.life[compute.number], frozenset(dict(compute.provider_mappings))
        absent = compute.number in self.absent or life in LOST
        return Standing(
            life is Life.READY,
            life in HEARD,
            "" if life is Life.READY else str(life),
            wired,
            life is Life.DEAD,
            life is Life.GONE,
            absent and life not in HEARD,
        )

    def _follow(self) -> None:
        """What each shows, and what its switch holds."""
        heard = self.heard()
        for number in sorted(heard):
            self.follower.shows(number, self._view(number))
        self.desired = self.follower.check()
        assert self.desired.keys() == heard
        for number, made in self.desired.items():
            self.tables[number] = Table(number, *contents(made), self.follower.views[number])
        for number in list(self.tables):
            if self.life.get(number) not in (*HEARD, Life.SILENT):
                del self.tables[number]
        for table in self.tables.values():
            table.dead = {out for out, peer in table.tunnels.items() if self.life.get(peer, Life.DEAD) in LOST}

    def _view(self, number: int) -> View:
        here = [p for p in self.state.ports_on.get(number, Map()) if number in self.taps.get(p, ())]
        whole = clouds.view(self.state, number, taps=here)
        tunnels = {
            peer: msgspec.structs.replace(i, up=self.life[peer] not in LOST, watched=True, seen=True)
            for peer, i in whole.tunnels.items()
        }
        return msgspec.structs.replace(whole, tunnels=Map(tunnels))

    # --- computes ---

    def number(self, name: str) -> int:
        """The number of a member of that name; 0: there is none."""
        return self.state.by_name.get(name, 0)

    def connect(self, host: Host, life: Life = Life.READY) -> Outcome:
        """A session begins: as a new compute, as one that is known, or as one that was removed."""
        verdict = lifecycle.judge(self.state, host.claim, set(), open_admission=True)
        if verdict.outcome is Outcome.QUARANTINED:
            debt = self.state.debts.get((verdict.number, verdict.number))
            self.commit([Edit(debt, None)] if debt is not None else [])
            return verdict.outcome
        assert verdict.outcome is Outcome.ACCEPTED, verdict
        self.life[verdict.number] = life
        self.absent.discard(verdict.number)
        self.store(verdict.edits)
        self.follower.away.discard(verdict.number)
        self.follower.renew(verdict.number)
        self.settle()
        return verdict.outcome

    def lose(self, number: int, life: Life, *, absent: bool = True) -> None:
        """A compute is not heard any more. With a dead one its guests and its tables are gone."""
        self.life[number] = life
        if absent:
            self.absent.add(number)
        self.follower.leave(number, empty=life is Life.DEAD)
        if life is Life.DEAD:
            for port, taps in self.taps.items():
                taps.discard(number)
                if self.guest.get(port) == number:
                    self.guest[port] = 0
        self.settle()

    def start(self, ids: Collection[str]) -> Decision:
        """scalein-computes-start, as the service does it."""
        decision = scalein.start(self.state, list(ids)).checked("start")
        begun = marking.mark(self.state, decision, {v.number for v in decision.verdicts}, self.standings())
        self.commit(begun.edits)
        return begun.decision

    def recover(self, ids: Collection[str]) -> Decision:
        """scalein-computes-recover, as the service does it."""
        decision = scalein.recover(self.state, list(ids)).checked("recover")
        numbers = {v.number for v in decision.verdicts if v.answer is scalein.Answer.ACCEPTED}
        self.commit([*decision.edits, *designation.call_back(self.state, numbers)])
        return decision

    def end(self, ids: Collection[str]) -> Decision:
        """scalein-computes-end, as the service does it, but for its operation."""
        standings = self.standings()
        decision = scalein.end(
            self.state,
            list(ids),
            self.heard(),
            serving=lambda number: designation.holds(self.state, number, standings),
        ).checked("end")
        for verdict in decision.verdicts:
            if verdict.answer is scalein.Answer.ACCEPTED:
                self.tables.pop(verdict.number, None)
        self.commit(decision.edits)
        return decision

    def readmit(self, name: str) -> None:
        """Forget that a compute was removed."""
        _, edits = scalein.readmit(self.state, name)
        self.commit(edits)

    # --- networks and ports ---

    def add_network(self, name: str, *subnets: str) -> None:
        """A network, with a tag and a VNI as they come."""
        ids = Allocator(self.state)
        made = Network(name, ids.take("network"), ids.take("vni"), 1450, subnets)
        self.commit([Edit(None, made), *ids.edits()])

    def delete_network(self, name: str) -> None:
        """A network without ports and places goes."""
        found = self.state.networks[name]
        self.commit([Edit(found, None), retire(found)])

    def add_port(self, name: str, network: str, mac: int, *addresses: str) -> Port:
        """A port that is plugged nowhere yet."""
        ids = Allocator(self.state)
        made = Port(name, network, mac, ids.take("lport"), addresses)
        self.commit([Edit(None, made), *ids.edits(), *hidden.release(self.state, network, (), mac)])
        return made

    def delete_port(self, name: str) -> None:
        """A port goes, wherever it is plugged, and its guest with it."""
        bound = [Edit(b, None) for b in self.state.bindings.get(name, ())]
        left = [*routing.without_port(self.state, name), *hidden.of_port(self.state, name)]
        self.taps.pop(name, None)
        self.guest.pop(name, None)
        self.commit([*bound, *left, Edit(self.state.ports[name], None)])

    def run(self, port: str, at: int) -> None:
        """Its guest runs there, and speaks; its tap is there if it was not."""
        self.taps.setdefault(port, set()).add(at)
        self.guest[port] = at
        self.settle()

    def plug(self, port: str, at: int) -> None:
        """A tap is made there, and no guest runs behind it yet."""
        self.taps.setdefault(port, set()).add(at)
        self.settle()

    def unplug(self, port: str, at: int) -> None:
        """The tap there goes, and the guest if it ran there."""
        self.taps[port].discard(at)
        if self.guest.get(port) == at:
            self.guest[port] = 0
        self.settle()

    def migrate(self, port: str, to: int) -> None:
        """A whole live migration."""
        at = self.guest[port]
        self.plug(port, to)
        self.run(port, to)
        self.unplug(port, at)

    # --- the way outside ---

    def add_external(self, name: str, subnet: str, next_hop: str) -> None:
        """A network outside, whose next hop has answered."""
        edits, made = routing.add_external(self.state, name, PHYSICAL, 0, subnet, next_hop, 1500)
        self.commit([*edits, Edit(None, Neighbour(made.id, next_hop, NEXT_HOP_MAC))])

    def move_on(self, router: str) -> None:
        """A move comes to its next phase, or arrives. Nobody has any connection."""
        move = self.state.moves[router]
        following = natmove.following(move)
        self.commit([Edit(move, following)] if following is not None else natmove.arrive(self.state, move, ()))

    def arrive(self) -> None:
        """All moves arrive whose ends are heard."""
        for _ in range(PATIENCE):
            ready = [r for r, m in self.state.moves.items() if {m.old, m.new} <= self.heard()]
            if not ready:
                return
            self.move_on(min(ready))
        raise AssertionError(f"moves never end: {self.state.moves}")

    def call_back(self, router: str) -> None:
        """A move is to stay where it was, or to go back."""
        move = self.state.moves[router]
        if not (move.turned and reached(move, natmove.P.FREEZE)):
            self.commit(natmove.call_back(self.state, move))

    # --- packets ---

    def decide(self, decision: Callable[[State], tuple[list[Edit], object] | list[Edit]]) -> None:
        """Store what a decision wants of the newest State."""
        found = decision(self.state)
        self.commit(found if isinstance(found, list) else found[0])

    def send(self, port: str, packet: Mapping[str, int]) -> Walk:
        """Its guest sends a packet."""
        lport = self.state.ports[port].lport
        return Walk(self.tables).enter(self.guest[port], clouds.ofport(lport), dict(packet))

    def runs(self, port: str) -> bool:
        """Whether its guest runs on a compute that is heard, and its binding has followed."""
        at = self.guest.get(port, 0)
        return at in self.desired and self.state.binding(port, at) is not None


def _dangling(state: State) -> set[Fact]:
    """Facts that name a compute which is no member. A debt may: whoever is removed owes what it holds itself."""
    found: set[Fact] = set()
    for fact in facts(state):
        match fact:
            case Binding():
                named = {fact.compute}
            case Designation():
                named = {fact.compute, fact.standby} - {0}
            case Lease():
                named = {fact.compute}
            case Move():
                named = {fact.old, fact.new}
            case _:
                continue
        if not named <= set(state.computes):
            found.add(fact)
    return found
