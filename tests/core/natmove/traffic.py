"""Connections through a small world: who may say what, and what becomes of each packet. No driver, no search: see `exploration`.

What a connection can do next depends on itself (`Local`: its ends, its packets, its entries in conntrack), on what switches may hold and
where the fabric sends (`View`), and of the other connections only on the ports that conntrack has given them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.core.natmove.site import (
    NAMES,
    NEXT_HOP_MAC,
    NO_ROWS,
    REMOTE,
    ROUTER_MAC,
    VMS,
    A,
    B,
    Frozen,
    Handed,
    Known,
    Mapping,
    Outcome,
    R,
    Rows,
    Seen,
    Sent,
    Site,
    Switch,
    Version,
    freeze,
)
from tests.fakes.clouds import leg, port
from tests.fakes.conntrack import ACK, ECHO_REPLY, ECHO_REQUEST, EMPTY, ICMP, SYN, TCP, UDP, Entries, Packet

MAX_HOPS = 2  # between gateways: asked, and answered
OUTSIDE = 0  # where a ping is that its target has not answered yet
NO_SEEN: tuple[Seen, Seen] = (frozenset(), frozenset())


class Kind(NamedTuple):
    """A connection of `vm` to one remote port. `opened`: by A, before the move, and `recorded` then. `silent`: it says nothing before the
    last read of A's mappings."""

    name: str
    vm: str
    proto: int = TCP
    source: int = 4000
    opened: bool = True
    silent: bool = False
    recorded: bool = True


class Item(NamedTuple):
    """A packet on its way to a gateway."""

    gateway: int
    packet: Frozen
    said: str
    hops: int = 0


class Connection(NamedTuple):
    """What its ends know (0: nothing, 1: a SYN sent or heard, 2: all), the mapping that the outside knows, and its packets."""

    vm: int = 0
    remote: int = 0
    mapping: Mapping | None = None
    items: tuple[Item, ...] = ()


class Local(NamedTuple):
    """One connection, with what is there for its sake: in conntrack of A and B, in caches there, and in the controller's record."""

    entries: tuple[Entries, Entries] = (EMPTY, EMPTY)
    seen: tuple[Seen, Seen] = NO_SEEN
    known: Rows = NO_ROWS
    connection: Connection = Connection()

    def with_item(self, item: Item | None) -> Local:
        """One packet more."""
        if item is None:
            return self
        return self._replace(connection=self.connection._replace(items=tuple(sorted((*self.connection.items, item)))))

    def without(self, item: Item) -> Local:
        """One packet less."""
        left = list(self.connection.items)
        left.remove(item)
        return self._replace(connection=self.connection._replace(items=tuple(left)))


class View(NamedTuple):
    """What switches may hold, where the fabric sends to the router's MAC, who is dead (0: nobody), and whether mappings will be read."""

    versions: tuple[tuple[Version, ...], ...]
    fabric: int = A
    dead: int = 0
    hush: bool = False


class Step(NamedTuple):
    """One thing that may happen to a connection, and where the fabric sends afterwards."""

    label: str
    after: Local
    fabric: int


class Broken(Exception):
    """A property does not hold."""


class Traffic:
    """All that may happen to connections of these kinds."""

    def __init__(self, site: Site, kinds: tuple[Kind, ...], limit: int, lossy: bool, anew: bool) -> None:
        self.site, self.kinds, self.limit, self.lossy, self.anew = site, kinds, limit, lossy, anew

    def before(self, view: View) -> tuple[Local, ...]:
        """All of them before the move: those that are open have said what opens them."""
        found: list[Local] = []
        for kind in self.kinds:
            local, others = Local(), (EMPTY.union(*(x.entries[0] for x in found)), EMPTY)
            for said in _OPENING.get(kind.proto, ()) if kind.opened else ():
                step = next((self._from_remote if said in _INWARD else self._from_vm)(view, kind, local, said))
                while step.after.connection.items:
                    step = next(self._arrives(view, kind, step.after, others, step.after.connection.items[0]))
                local = step.after
            found.append(local if kind.recorded else local._replace(known=NO_ROWS))
        return tuple(found)

    def steps(self, view: View, index: int, local: Local, others: tuple[Entries, Entries], part: int) -> Iterator[Step]:
        """What may happen next at one of the parts: at the ends (0), A or B; of the view, only what the VM's switch, A or B holds is
        looked at. `others`: what conntrack of A and B holds for other connections.

        Raises:
            Broken: a property does not hold then.
        """
        kind, connection = self.kinds[index], local.connection
        if not part and len(connection.items) < self.limit and not (kind.silent and view.hush):
            for said in _vm_says(kind, connection):
                yield from self._from_vm(view, kind, local, said)
            for said in _remote_says(kind, connection):
                yield from self._from_remote(view, kind, local, said)
        for item in dict.fromkeys(connection.items):
            if item.gateway == part:
                yield from self._arrives(view, kind, local, others, item)

    def _from_vm(self, view: View, kind: Kind, local: Local, said: str) -> Iterator[Step]:
        at, label = VMS[kind.vm], f"{kind.name}: {kind.vm} sends {said}"
        if at == view.dead:
            return
        if said == "SYN":
            local = _told(local, local.connection._replace(vm=max(local.connection.vm, 1)))
        number = int(kind.vm[1:])
        packet = {"eth_src": port(number, 1).mac, "eth_dst": leg(1, 1).mac, "eth_type": 0x0800, "nw_ttl": 64}
        packet |= {
            "ipv4_src": 0x0A010000 + number,
            "ipv4_dst": REMOTE,
            "ip_proto": kind.proto,
            **_transport(kind, said),
        }
        if at in (A, B):
            item = Item(at, freeze({**packet, "in_port": self.site.door(at, kind.vm)}), said)
            yield Step(label, local.with_item(item), view.fabric)
            return
        for events in self.site.send(view.versions[at - 1], kind.vm, packet, view.dead):
            if len(events) != 1 or not isinstance(events[0], Handed):
                raise Broken(f"lost: {kind.name}: {NAMES[at]} does not know where to send {said}: {events}")
            gateway = _gateway(kind, said, events[0])
            sent = Item(gateway, events[0].packet, said) if gateway != view.dead else None
            yield Step(label, local.with_item(sent), view.fabric)

    def _from_remote(self, view: View, kind: Kind, local: Local, said: str) -> Iterator[Step]:
        assert local.connection.mapping is not None
        address, number = local.connection.mapping
        packet = {"eth_src": NEXT_HOP_MAC, "eth_dst": ROUTER_MAC, "eth_type": 0x0800, "nw_ttl": 60}
        packet |= {"ipv4_src": REMOTE, "ipv4_dst": address, "ip_proto": kind.proto}
        packet |= _transport(kind, said, back=number)
        item = None
        if view.fabric != view.dead:
            item = Item(view.fabric, freeze({**packet, "in_port": self.site.door(view.fabric)}), said)
        yield Step(f"{kind.name}: the remote sends {said}", local.with_item(item), view.fabric)

    def _arrives(
        self, view: View, kind: Kind, local: Local, others: tuple[Entries, Entries], item: Item
    ) -> Iterator[Step]:
        without = local.without(item)
        if item.gateway == OUTSIDE:
            yield from self._from_remote(view, kind, without, "answer")
            return
        place = item.gateway - 1
        at, entries = Switch(view.versions[place], local.seen[place]), local.entries[place] | others[place]
        for outcome in self.site.arrive(at, entries, item.packet):
            assert outcome.entries >= others[place]
            label = f"{kind.name}: {item.said} {'asked ' * item.hops}at {NAMES[item.gateway]}"
            own = outcome._replace(entries=outcome.entries - others[place])
            yield Step(label, *self._came(view, kind, without, item, own))
            kept = tuple(e for e in own.events if not (isinstance(e, Known) and e.recorded))
            if self.lossy and kept != own.events:
                yield Step(f"{label} (no record)", *self._came(view, kind, without, item, own._replace(events=kept)))

    def _came(self, view: View, kind: Kind, local: Local, item: Item, outcome: Outcome) -> tuple[Local, int]:
        """What one outcome of an arrival makes of it all."""
        at_a = item.gateway == A
        entries = (outcome.entries, local.entries[1]) if at_a else (local.entries[0], outcome.entries)
        seen = (outcome.seen, local.seen[1]) if at_a else (local.seen[0], outcome.seen)
        known = {(e.original, e.mapping) for e in outcome.events if at_a and isinstance(e, Known)}
        after, fabric = Local(entries, seen, local.known | known, local.connection), view.fabric
        ways = [e for e in outcome.events if not isinstance(e, Known)]
        if len(ways) != 1:
            if ways or not view.dead:
                raise Broken(
                    f"{'doubled' if ways else 'lost'}: {kind.name}: {item.said} at {NAMES[item.gateway]}: {ways}"
                )
            return after, fabric
        (way,) = ways
        if isinstance(way, Sent):
            echo = Item(OUTSIDE, (), "answer") if kind.proto == ICMP else None
            before = local.connection
            if self.anew and view.dead and (kind.proto == UDP or (item.said == "SYN" and before.vm == 1)):
                before = before._replace(remote=0, mapping=None)
            remote = max(before.remote, 1 if item.said == "SYN" else 2)
            mapping = _heard_outside(kind, before, item.said, way)
            fabric = heard(view, item.gateway) if way.teaches else fabric
            return _told(after, local.connection._replace(mapping=mapping, remote=remote)).with_item(echo), fabric
        if isinstance(way, Handed):
            if item.hops >= MAX_HOPS:
                raise Broken(f"loops: {kind.name}: {item.said} goes from gateway to gateway for the third time")
            further = Item(_gateway(kind, item.said, way), way.packet, item.said, item.hops + 1)
            return after.with_item(further if way.gateway != view.dead else None), fabric
        if way.port != kind.vm or item.said not in _INWARD:
            raise Broken(f"strayed: {kind.name}: {item.said} comes to {way.port}")
        return _told(after, local.connection._replace(vm=2)), fabric


def _gateway(kind: Kind, said: str, way: Handed) -> int:
    """Nobody looks at what comes to another."""
    if way.gateway not in (A, B):
        raise Broken(f"strayed: {kind.name}: {said} is handed to {NAMES[way.gateway]}")
    return way.gateway


def _told(local: Local, connection: Connection) -> Local:
    return local._replace(connection=connection)


def heard(view: View, gateway: int) -> int:
    """The fabric hears the router's MAC at a gateway: once it has heard the new one, never the old one again."""
    if gateway == A and view.fabric == B and not view.dead:
        raise Broken("flaps: the fabric hears the router's MAC at A again, after B")
    return gateway


def _heard_outside(kind: Kind, connection: Connection, said: str, way: Sent) -> Mapping:
    packet = dict(way.packet)
    if packet["ipv4_src"] != R or said in _INWARD:
        raise Broken(f"untranslated: {kind.name}: {said} leaves as {packet}")
    mapping = R, packet.get(f"{_NAMES.get(kind.proto, '')}_src", kind.source)
    if connection.mapping not in (None, mapping):
        raise Broken(f"two mappings: {kind.name}: {connection.mapping} and now {mapping}")
    return mapping


_INWARD = frozenset({"SYN+ACK", "data", "answer"})
_OPENING = {TCP: ("SYN", "SYN+ACK", "ACK"), UDP: ("ask", "answer")}
_NAMES = {TCP: "tcp", UDP: "udp"}
_FLAGS = {"SYN": SYN, "SYN+ACK": SYN | ACK, "ACK": ACK, "data": ACK}


def _transport(kind: Kind, said: str, back: int = 0) -> Packet:
    """Ports, or what stands for them. `back`: an answer, to this port."""
    if kind.proto == ICMP:
        return {"icmpv4_type": ECHO_REPLY if back else ECHO_REQUEST, "icmp_id": kind.source}
    name = _NAMES[kind.proto]
    source, target = (80, back) if back else (kind.source, 80)
    flags = {"tcp_flags": _FLAGS[said]} if kind.proto == TCP else {}
    return {f"{name}_src": source, f"{name}_dst": target, **flags}


def _vm_says(kind: Kind, connection: Connection) -> list[str]:
    if kind.proto != TCP:
        return ["ask"]
    return ["SYN"] if connection.vm < 2 else ["ACK"]


def _remote_says(kind: Kind, connection: Connection) -> list[str]:
    if kind.proto == ICMP or not connection.remote:
        return []
    if kind.proto == UDP:
        return ["answer"]
    return ["SYN+ACK"] if connection.remote == 1 else ["data"]
