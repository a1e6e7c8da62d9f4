"""A router's NAT on the computes that have a part in it, and the way there from all others.

The translation is conntrack's. Who may open connections, who owns the external addresses and who asks whom for what it does not know is a
`Stance`, and the tables are made of it; `stances.py` tells which compute has which stance in which phase of a move. What moves a NAT from
one compute to another without breaking a connection is docs/decisions.md, "The move of a designated compute"; the ideas that these
tables carry are:

- A packet of a known connection ("+snat", "+dnat": an entry exists) is translated wherever it arrives; "established" is never asked.
- A miss goes on to imported rows, then to whoever is asked, then to be opened; marks in the tunnel id bound that to two hops.
- What a full range of ports leaves untranslated is dropped and told, never sent on.
- What has neither ports nor an identifier to be told apart by (SCTP: not for this conntrack) is not opened, but dropped and counted: of
  two VMs that speak it with one remote, the second would be refused and the first get the answers of both.

An answer (ANSWERED) is never asked again, and passes the imported rows by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from hashlib import blake2s
from typing import NamedTuple

import msgspec

from ebbtide.compile import ledger
from ebbtide.compile.families import IPV4, Family
from ebbtide.compile.features import outside, path_mtu
from ebbtide.compile.flow import (
    Action,
    Bucket,
    Ct,
    Flow,
    Group,
    GroupType,
    Learn,
    LearnLoad,
    LearnMatch,
    Match,
    Move,
    Nat,
    Output,
    Resubmit,
    SetField,
    ToController,
    ToGroup,
    match,
)
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, Punt, T
from ebbtide.model.addresses import ipv4, number, prefix
from ebbtide.model.facts import External, Lease, Router

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
#: The low bits of a VM's address choose one of so many slots, and the slot one of the external addresses.
SLOTS = 16
# Conntrack state bits (ovs-fields(7), ct_state).
NEW, INVALID, TRACKED, SNAT, DNAT = 0x01, 0x10, 0x20, 0x40, 0x80
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10


class Voice(Enum):
    """How a compute speaks for a router's external addresses."""

    OWNER = "owner"  # it answers ARP, and sends with the router's MAC
    DEPUTY = "deputy"  # it answers ARP with the router's MAC in the answer, and sends with its own: no switch outside learns a place
    SILENT = "silent"  # it answers nobody, and sends with its own


class Stance(msgspec.Struct, frozen=True):
    """What a compute is to a router's NAT.

    `lease`: it opens connections from these ports. `asks_out`, `asks_in`: the compute that it asks about what it does not know.
    `answers_out`, `answers_in`: the one that it leaves such packets to. `opens_answered`: it opens what has been left to it. `exports`:
    what passes leaves its mapping in a table. `stands_in_for`: the compute in whose place it speaks once their tunnel is dead.
    """

    voice: Voice = Voice.SILENT
    lease: Lease | None = None
    asks_out: int = 0
    asks_in: int = 0
    answers_out: int = 0
    answers_in: int = 0
    opens_answered: bool = False
    exports: bool = False
    stands_in_for: int = 0


def ct_state(on: int, off: int = 0) -> tuple[int, int]:
    """A match on conntrack's state: these bits set, those not."""
    return on, on | off


def gate(
    router: Router,
    external: External,
    stance: Stance,
    own_mac: int,
    tunnels: Mapping[int, int],
    guard: int = 0,
    mtu: int = 0,
    prefixes: Sequence[str] = (),
) -> Fragment:
    """One compute's: the NAT tables. `own_mac`: its own outside; `tunnels`: the OpenFlow ports of its tunnels to other computes; `guard`:
    the one of them by which BFD watches whom it stands in for (0: none, and then it does not stand in). `mtu`: the smallest of the
    networks behind the router; `prefixes`: its IPv6 ones that go out as they are.

    But for what exports, every stance has flows of the same keys: what a stance takes away is replaced, not deleted, so that it has ended
    when what follows is said to be applied.
    """
    made = _Gate(router, external, stance, own_mac, tunnels, guard)
    flows = [*made.entries(), *made.outbound(), *made.opening(), *made.inbound()]
    if stance.exports:
        flows += made.export()
    flows += made.outside()
    flows += made.untranslated(prefixes, mtu)
    for address in made.addresses:
        flows += path_mtu.inbound(external, address, mtu, made.cookie)
    return Fragment(tuple(flows), made.groups())


def slots(addresses: Sequence[int]) -> list[int]:
    """The external address of each slot, by rendezvous: one more or less moves no slot but its own."""
    if len(addresses) < 2:
        return list(addresses)
    return [
        max(addresses, key=lambda a: blake2s(f"{slot} {a}".encode(), digest_size=8).digest()) for slot in range(SLOTS)
    ]


class _Gate:
    def __init__(
        self,
        router: Router,
        external: External,
        stance: Stance,
        own_mac: int,
        tunnels: Mapping[int, int],
        guard: int,
    ) -> None:
        self.router, self.external, self.stance, self.own_mac, self.tunnels = router, external, stance, own_mac, tunnels
        self.guard = guard if stance.voice is Voice.SILENT else 0
        self.cookie = ledger.cookie(Kind.ROUTER, Feature.NAT, router.tag)
        self.vrf = ledger.metadata_vrf(router.tag)
        self.zone = ledger.router_zone(router.tag)
        self.addresses = [a for a in map(ipv4, router.addresses) if a is not None]

    def _flow(self, table: T, priority: int, matched: Match, *actions: Action, goto: T | None = None) -> Flow:
        return Flow(table, priority, matched, actions=actions, goto=goto, cookie=self.cookie)

    def _ours(self, **fields: int | tuple[int, int]) -> Match:
        return match(metadata=self.vrf, eth_type=0x0800, **fields)

    def _in_vrf(self, asked: int) -> tuple[Action, ...]:
        return (*outside.into_vrf(self.router), SetField(ledger.ASKED_REG, asked))

    def _translate(self, table: T) -> Ct:
        return Ct(zone=self.zone, table=table, nat=Nat())

    def entries(self) -> list[Flow]:
        """What computes send here, and what the other end of a move asks or leaves."""
        tag = self.router.tag
        flows = [
            # Still marked as out of a tunnel, so that table 26 takes it in, whoever the computes send to now.
            self._flow(
                T.TUNNEL_TERMINATION,
                Priority.RELATION,
                match(tun_id=ledger.gateway_vni(tag), eth_type=0x0800),
                SetField("metadata", self.vrf[0] | ledger.SPLIT_HORIZON, self.vrf[1] | ledger.SPLIT_HORIZON),
                SetField(ledger.VRF_REG, tag),
                SetField(ledger.ASKED_REG, ledger.FROM_HERE),
                Resubmit(T.PRE_SNAT),
            ),
            self._flow(
                T.PRE_SNAT,
                Priority.AT_GATEWAY,
                match(
                    metadata=(self.vrf[0] | ledger.SPLIT_HORIZON, self.vrf[1] | ledger.SPLIT_HORIZON), eth_type=0x0800
                ),
                *self._in_vrf(ledger.FROM_HERE),
                *self._outbound_ct(),
            ),
        ]
        for vni, asked in ((ledger.ask_vni(tag), ledger.ASKED), (ledger.answer_vni(tag), ledger.ANSWERED)):
            flows.append(
                self._flow(
                    T.TUNNEL_TERMINATION,
                    Priority.RELATION,
                    match(tun_id=vni, eth_type=0x0800),
                    *self._in_vrf(asked),
                    *self._outbound_ct(),
                )
            )
            for address in self.addresses:
                entry: dict[str, int | tuple[int, int]] = {"tun_id": vni, "eth_type": 0x0800, "ipv4_dst": address}
                flows += self._inbound(
                    T.TUNNEL_TERMINATION, (Priority.RELATION_IN, Priority.RELATION_EXPORTED), entry, asked
                )
        return flows

    def _inbound(
        self, table: T, priorities: tuple[int, int], entry: Mapping[str, int | tuple[int, int]], asked: int
    ) -> list[Flow]:
        """What is for an external address: into conntrack; while exporting, with what that is about to overwrite kept in registers."""
        before, into = self._in_vrf(asked), self._translate(T.NAPT_IN)
        flows = [self._flow(table, priorities[0], match(**entry), *before, into)]
        if self.stance.exports:
            for proto, port in ((TCP, "tcp_dst"), (UDP, "udp_dst")):
                kept = (Move("ipv4_dst", ledger.EXPORT_ADDRESS_REG, 32), Move(port, ledger.EXPORT_PORT_REG, 16))
                matched = match(**entry, ip_proto=proto)
                flows.append(self._flow(table, priorities[1], matched, *before, *kept, *self._export_mark(), into))
        return flows

    def _note(self, punt: Punt, meter: int = ledger.RECORD_METER) -> ToController:
        """A copy to the controller, by default for the record of connections."""
        return ToController(max_len=64, userdata=ledger.userdata(punt, self.router.tag), meter_id=meter)

    def _outbound_ct(self) -> tuple[Action, ...]:
        return (*self._export_mark(), self._translate(T.NAPT_OUT))

    def _export_mark(self) -> tuple[Action, ...]:
        # Flows of the datapath that are older than the export rules must not run them: they carry 0 here (docs/decisions.md, the trap).
        return (SetField(ledger.EXPORTED_REG, 1, 1),) if self.stance.exports else ()

    def outbound(self) -> list[Flow]:
        """Table 46, after conntrack: known connections go out, others on to table 92."""
        tracked, unknown = ct_state(TRACKED | SNAT), ct_state(TRACKED, SNAT)
        flows = [
            self._flow(T.NAPT_OUT, Priority.KNOWN, self._ours(ct_state=tracked), goto=T.NAPT_FIB),
            self._flow(
                T.NAPT_OUT,
                Priority.KNOWN_INVALID,
                self._ours(ct_state=ct_state(TRACKED | INVALID | SNAT)),
                goto=T.NAPT_FIB,
            ),
            *(
                self._flow(T.NAPT_OUT, Priority.UNKNOWN, self._ours(ct_state=unknown, ip_proto=proto), goto=T.NAT_NEW)
                for proto in (ICMP, TCP, UDP)
            ),
            self._flow(T.NAPT_OUT, Priority.REFUSED_SCTP, self._ours(ct_state=unknown, ip_proto=SCTP)),
            self._flow(T.NAPT_OUT, Priority.REFUSED, self._ours(ct_state=unknown)),
        ]
        if self.router.record:
            closed = self._note(Punt.CLOSED)
            flows += [
                self._flow(
                    T.NAPT_OUT,
                    Priority.CLOSING,
                    self._ours(ct_state=tracked, ip_proto=TCP, tcp_flags=(flag, flag)),
                    closed,
                    goto=T.NAPT_FIB,
                )
                for flag in (_FIN, _RST)
            ]
        answered = {ledger.ASKED_REG: ledger.ANSWERED}
        flows.append(
            self._flow(
                T.NAPT_OUT,
                Priority.ANSWERED,
                self._ours(ct_state=ct_state(TRACKED, SNAT), **answered),
                goto=T.NAT_OPEN if self.stance.opens_answered else T.NAT_NEW,
            )
        )
        if self.guard:
            flows.append(
                self._flow(T.NAPT_FIB, Priority.TRANSLATED, self._ours(), ToGroup(ledger.voice_group(self.router.tag)))
            )
        else:
            mac = self.router.mac if self.stance.voice is Voice.OWNER else self.own_mac
            flows.append(self._flow(T.NAPT_FIB, Priority.TRANSLATED, self._ours(), *self._leave_as(mac)))
        return flows

    def _leave_as(self, mac: int) -> tuple[Action, ...]:
        return (
            SetField("eth_src", mac),
            SetField("metadata", *ledger.metadata_network(self.external.tag)),
            Resubmit(T.SNAT),
        )

    def groups(self) -> tuple[Group, ...]:
        """How a compute that stands by speaks: in the owner's place as soon as their tunnel is dead, without being told."""
        if not self.guard:
            return ()
        alive = ledger.ALIVE_GROUP
        own, routers = (self._leave_as(mac) for mac in (self.own_mac, self.router.mac))
        voice = (Bucket(own, watch_port=self.guard), Bucket(routers, watch_group=alive))
        answer = (Bucket((), watch_port=self.guard), Bucket((Resubmit(T.ARP_STANDBY),), watch_group=alive))
        return (
            Group(ledger.voice_group(self.router.tag), GroupType.FAST_FAILOVER, voice),
            Group(ledger.answer_group(self.router.tag), GroupType.FAST_FAILOVER, answer),
        )

    def opening(self) -> list[Flow]:
        """Tables 92, 94 and 95: a connection that nobody knows is asked about, left to another, or opened."""
        stance = self.stance
        flows = [self._flow(T.NAT_NEW, Priority.NOT_IMPORTED, self._ours(), goto=T.NAT_OPEN)]
        here, asked = ({ledger.ASKED_REG: n} for n in (ledger.FROM_HERE, ledger.ASKED))
        if stance.asks_out:
            flows.append(self._over(T.NAT_NEW, here, ledger.ask_vni(self.router.tag), stance.asks_out))
            flows.append(self._flow(T.NAT_NEW, Priority.COUPLING, self._ours(**asked), goto=T.NAT_OPEN))
        elif stance.answers_out:
            # What was asked goes back by the number of the tunnel: IN_PORT means nothing behind the classifier, which has freed it.
            vni = ledger.answer_vni(self.router.tag)
            flows += [self._over(T.NAT_NEW, which, vni, stance.answers_out) for which in (here, asked)]
        else:
            flows += [
                self._flow(T.NAT_NEW, Priority.COUPLING, self._ours(**which), goto=T.NAT_OPEN)
                for which in (here, asked)
            ]
        if stance.lease is not None and self.router.snat:
            flows += self._open(stance.lease)
        opened = ct_state(TRACKED | SNAT)
        flows.append(self._flow(T.NAT_OPENED, Priority.OPENED, self._ours(ct_state=opened), Resubmit(T.NAPT_FIB)))
        # A row's port may be taken, by one that conntrack has just let go of: who begins anew is opened like any other.
        failed: dict[str, int | tuple[int, int]] = {
            "ct_state": ct_state(TRACKED, SNAT),
            ledger.ASKED_REG: ledger.BY_ROW,
        }
        anew = SetField(ledger.ASKED_REG, ledger.FROM_HERE), Resubmit(T.NAT_OPEN)
        syn = self._ours(**failed, ip_proto=TCP, tcp_flags=(_SYN, _SYN | _ACK))
        for begun in (syn, self._ours(**failed, ip_proto=UDP)):
            flows.append(self._flow(T.NAT_OPENED, Priority.NOT_BY_ROW, begun, *anew))
        flows += self._exhausted()
        if self.router.record:
            recorded = ct_state(TRACKED | SNAT, INVALID)
            note = self._note(Punt.OPENED)
            flows += [
                # What they have counted since they are here is compared with the records that have arrived.
                msgspec.structs.replace(
                    self._flow(
                        T.NAT_OPENED,
                        Priority.RECORD,
                        self._ours(ct_state=recorded, ct_nw_proto=proto, ip_proto=proto),
                        note,
                        Resubmit(T.NAPT_FIB),
                    ),
                    reset_counts=True,
                )
                for proto in (TCP, UDP)
            ]
        return flows

    def _exhausted(self) -> list[Flow]:
        """What has just begun and got no port: all of them lead to that remote end point."""
        told = self._note(Punt.EXHAUSTED, ledger.EXHAUSTED_METER)
        fields: tuple[dict[str, int | tuple[int, int]], ...] = (
            {"ip_proto": TCP, "tcp_flags": (_SYN, _SYN | _ACK)},
            {"ip_proto": UDP},
        )
        # The userspace datapath lets it go on as it came, new and not translated; the kernel's drops it in conntrack, and tells nobody.
        nothing = ct_state(TRACKED, SNAT | INVALID)
        return [
            self._flow(T.NAT_OPENED, Priority.EXHAUSTED, self._ours(ct_state=nothing, **begun), told)
            for begun in fields
        ]

    def _over(self, table: T, asked: dict[str, int], vni: int, peer: int) -> Flow:
        tunnel = self.tunnels.get(peer, 0)
        # A tunnel that is not there yet: nothing is sent, and the move does not go on before it is.
        out = (SetField("tun_id", vni), Output(tunnel)) if tunnel else ()
        return self._flow(table, Priority.COUPLING, self._ours(**asked), *out)

    def _open(self, lease: Lease) -> list[Flow]:
        """One flow for each external address and slot: a VM always has the same address (RFC 4787, REQ-2)."""
        flows = []
        for slot, address in enumerate(slots(self.addresses)):
            chosen: dict[str, int | tuple[int, int]] = {}
            if len(self.addresses) > 1:
                chosen["ipv4_src"] = (slot, SLOTS - 1)
            nat = Nat(src=True, ip_min=address, port_min=lease.first, port_max=lease.last)
            commit = Ct(zone=self.zone, table=T.NAT_OPENED, commit=True, nat=nat)
            new = ct_state(TRACKED | NEW)
            if not lease.careful:
                flows.append(self._flow(T.NAT_OPEN, Priority.OPEN, self._ours(ct_state=new, **chosen), commit))
                continue
            syn = self._ours(ct_state=new, ip_proto=TCP, tcp_flags=(_SYN, _SYN | _ACK), **chosen)
            flows.append(self._flow(T.NAT_OPEN, Priority.OPEN_CAREFULLY, syn, commit))
            flows += [
                self._flow(
                    T.NAT_OPEN, Priority.OPEN_CAREFULLY, self._ours(ct_state=new, ip_proto=proto, **chosen), commit
                )
                for proto in (UDP, ICMP)
            ]
            flows.append(self._flow(T.NAT_OPEN, Priority.OPEN, self._ours(ct_state=new, **chosen)))
        return flows

    def inbound(self) -> list[Flow]:
        """Tables 44 and 93: an answer from outside goes to the VM by the router's routes."""
        stance, here = self.stance, {ledger.ASKED_REG: ledger.FROM_HERE}
        flows = [
            self._flow(
                T.NAPT_IN,
                Priority.KNOWN,
                self._ours(ct_state=ct_state(TRACKED | DNAT)),
                Resubmit(T.FIB),
            ),
            self._flow(T.NAPT_IN, Priority.UNKNOWN, self._ours(ct_state=ct_state(TRACKED, DNAT)), goto=T.NAT_REPLY),
        ]
        if stance.asks_in:
            flows.append(self._over(T.NAT_REPLY, here, ledger.ask_vni(self.router.tag), stance.asks_in))
        elif stance.answers_in:
            flows.append(self._over(T.NAT_REPLY, here, ledger.answer_vni(self.router.tag), stance.answers_in))
        else:
            flows.append(self._flow(T.NAT_REPLY, Priority.COUPLING, self._ours(**here)))
        return flows

    def outside(self) -> list[Flow]:
        """What comes from the wire for the external addresses, and who answers for them."""
        own = ledger.metadata_network(self.external.tag)
        flows = [
            # The old end of a move is still sent to under the router's MAC.
            self._flow(
                T.GATEWAY_MAC,
                Priority.GATEWAY,
                match(metadata=own, eth_type=0x0800, eth_dst=self.router.mac),
                goto=T.PRE_DNAT,
            )
        ]
        for address in self.addresses:
            entry: dict[str, int | tuple[int, int]] = {"metadata": own, "eth_type": 0x0800, "ipv4_dst": address}
            flows += self._inbound(T.PRE_DNAT, (Priority.INBOUND, Priority.INBOUND_EXPORTED), entry, ledger.FROM_HERE)
            source = {Voice.OWNER: self.router.mac, Voice.DEPUTY: self.own_mac}.get(self.stance.voice)
            if self.guard:
                flows += outside.answer_if(self.external, address, self.router.mac, self.router.tag, self.cookie)
            else:
                flows.append(outside.answer(self.external, address, self.router.mac, source, self.cookie))
            served = self.stance.voice is Voice.OWNER
            flows.append(outside.sent_here(self.external, address, self.router.mac, served=served, cookie=self.cookie))
        return flows

    def untranslated(self, prefixes: Sequence[str], mtu: int) -> list[Flow]:
        """IPv6, in and out, of the router's own prefixes alone: no connection is known, so whoever has a part in the NAT may send it on.

        From others nothing leaves (RFC 2827), and for others nothing comes in: it would go out again where it came from.
        """
        addresses = [number(text) for text in self.router.addresses if ":" in text]
        if not addresses:
            return []
        own, inside = ledger.metadata_network(self.external.tag), self.vrf[0] | ledger.SPLIT_HORIZON
        arrived, entry = (
            (inside, self.vrf[1] | ledger.SPLIT_HORIZON),
            match(metadata=own, eth_type=0x86DD, eth_dst=self.router.mac),
        )
        flows = [
            self._flow(
                T.TUNNEL_TERMINATION,
                Priority.RELATION,
                match(tun_id=ledger.gateway_vni(self.router.tag), eth_type=0x86DD),
                SetField("metadata", *arrived),
                SetField(ledger.VRF_REG, self.router.tag),
                Resubmit(T.PRE_SNAT),
            ),
            # What is not the router's own ends here: the way to the gateway leads back into this table.
            self._flow(T.PRE_SNAT, Priority.NOT_OURS, match(metadata=arrived, eth_type=0x86DD)),
            self._flow(T.GATEWAY_MAC, Priority.GATEWAY, entry, goto=T.PRE_DNAT),
        ]
        mac = self.router.mac if self.stance.voice is Voice.OWNER else self.own_mac
        leave = (ToGroup(ledger.voice_group(self.router.tag)),) if self.guard else self._leave_as(mac)
        measured = path_mtu.entering(self.external, mtu)
        for value, mask, _ in sorted({prefix(text) for text in prefixes}):
            # What is for one of our own prefixes and has no route here would come back from outside, and go out again.
            back = match(metadata=arrived, eth_type=0x86DD, ipv6_dst=(value, mask))
            ours = match(metadata=own, eth_type=0x86DD, eth_dst=self.router.mac, ipv6_src=(value, mask))
            flows.append(self._flow(T.PRE_SNAT, Priority.BACK_IN, back))
            flows.append(self._flow(T.PRE_DNAT, Priority.NOT_FROM_OUTSIDE, ours))
            leaving = match(metadata=arrived, eth_type=0x86DD, ipv6_src=(value, mask))
            coming = match(metadata=own, eth_type=0x86DD, eth_dst=self.router.mac, ipv6_dst=(value, mask))
            flows.append(self._flow(T.PRE_SNAT, Priority.AT_GATEWAY, leaving, *leave))
            flows.append(
                self._flow(
                    T.PRE_DNAT, Priority.INBOUND, coming, *measured, *outside.into_vrf(self.router), Resubmit(T.FIB)
                )
            )
        for address in addresses:
            flows += self._answers_neighbours(address)
        return flows

    def _answers_neighbours(self, address: int) -> list[Flow]:
        """Who answers for an IPv6 address outside, as `outside` says of ARP."""
        mac = self.router.mac
        if self.guard:
            return outside.neighbours_if(self.external, address, mac, self.router.tag, self.cookie)
        source = {Voice.OWNER: mac, Voice.DEPUTY: self.own_mac}.get(self.stance.voice)
        return outside.neighbours(self.external, address, mac, source, self.cookie)

    def export(self) -> list[Flow]:
        """What passes while a move exports: its original tuple and its mapping, as a flow of table 90 (never looked up)."""
        flows = []
        for proto, ports in ((TCP, "tcp"), (UDP, "udp")):
            marked: dict[str, int | tuple[int, int]] = {
                ledger.EXPORTED_REG: (1, 1),
                "ip_proto": proto,
                "ct_nw_proto": proto,
            }
            for table, state, address, port in (
                (T.NAPT_OUT, SNAT, "ipv4_src", f"{ports}_src"),
                (T.NAPT_IN, DNAT, ledger.EXPORT_ADDRESS_REG, ledger.EXPORT_PORT_REG),
            ):
                learn = Learn(
                    table=T.NAT_EXPORT,
                    priority=Priority.IMPORTED,
                    cookie=ledger.connections_cookie(self.router.tag),
                    fin_idle_timeout=60 if proto == TCP else 0,
                    idle_timeout=0 if proto == TCP else 300,
                    specs=(
                        LearnMatch("eth_type", 16, value=0x0800),
                        LearnMatch("ip_proto", 8, value=proto),
                        LearnMatch("metadata", ledger.VRF_BITS, ledger.VRF_SHIFT, "metadata", ledger.VRF_SHIFT),
                        LearnMatch("ipv4_src", 32, src="ct_nw_src"),
                        LearnMatch("ipv4_dst", 32, src="ct_nw_dst"),
                        LearnMatch(f"{ports}_src", 16, src="ct_tp_src"),
                        LearnMatch(f"{ports}_dst", 16, src="ct_tp_dst"),
                        LearnLoad(ledger.EXPORT_ADDRESS_REG, 32, src=address),
                        LearnLoad(ledger.EXPORT_PORT_REG, 16, src=port),
                    ),
                )
                matched = self._ours(ct_state=ct_state(TRACKED | state, INVALID), **marked)
                if table is T.NAPT_OUT:
                    flows.append(self._flow(table, Priority.EXPORT, matched, learn, goto=T.NAPT_FIB))
                else:
                    flows.append(self._flow(table, Priority.EXPORT, matched, learn, Resubmit(T.FIB)))
        return flows


class Way(NamedTuple):
    """A tunnel to a compute that may serve: its OpenFlow port (0: this compute itself), whether BFD is up there, and has ever been."""

    port: int
    up: bool
    seen: bool


def exit_by(router: Router, ways: Sequence[Way], out: Collection[Family] = (IPV4,)) -> Fragment:
    """One compute's: where what leaves the router (`out`: of these families) goes: the first of these ways that is alive.

    A port that is watched before BFD has come up there is dead until then; and before the first one has been seen at all, nobody stands
    in for it: the others' tunnels may only have been quicker.
    """
    cookie = ledger.cookie(Kind.ROUTER, Feature.NAT, router.tag)

    def leaving(actions: tuple[Action, ...]) -> tuple[Flow, ...]:
        vrf = ledger.metadata_vrf(router.tag)
        seen = (match(metadata=vrf, eth_type=family.ethertype) for family in out)
        return tuple(Flow(T.PRE_SNAT, Priority.TO_GATEWAY, m, actions=actions, cookie=cookie) for m in seen)

    if ways and not ways[0].port:
        return Fragment(leaving(_INTO_NAT))
    group = ledger.gateway_group(router.tag)
    vni = SetField("tun_id", ledger.gateway_vni(router.tag))
    trusted = ways if ways and ways[0].seen else ways[:1]
    watched = [way.port for way in trusted if way.port and way.up]
    buckets = [Bucket((vni, Output(port)), watch_port=port) for port in watched]
    # The last bucket is always alive: a group with none that is would drop everything, and silence is no proof of death.
    if any(not way.port for way in trusted):
        buckets.append(Bucket(_INTO_NAT, watch_group=ledger.ALIVE_GROUP))
    else:
        last = (watched or [way.port for way in trusted if way.port])[:1]
        buckets += [Bucket((vni, Output(port)), watch_group=ledger.ALIVE_GROUP) for port in last]
    return Fragment(
        leaving((ToGroup(group),)),
        (Group(group, GroupType.FAST_FAILOVER, tuple(buckets)),),
    )


#: As if it had come out of a tunnel: there is one way into the NAT (see `_Gate.entries`).
_INTO_NAT: tuple[Action, ...] = (
    SetField("metadata", ledger.SPLIT_HORIZON, ledger.SPLIT_HORIZON),
    Resubmit(T.PRE_SNAT),
)


class Translation(NamedTuple):
    """One connection and what it has been translated into: protocol, the VM's address and port, the remote's, the external ones."""

    proto: int
    src: int
    sport: int
    dst: int
    dport: int
    address: int
    port: int


def seen(router: Router, turn: int) -> Flow:
    """Of each UDP connection that sends something, one packet is told: a datagram opens a connection and nothing ends it, so a record of
    them is of those that were seen a short time ago. `turn`, 0 or 1 by turns: the mark of connections that have been told in the other
    turn, or never. No part of State: who keeps the record takes turns.
    """
    zone = ledger.router_zone(router.tag)
    told = Ct(zone=zone, commit=True, exec=(SetField("ct_mark", 1 - turn),))
    note = ToController(max_len=64, userdata=ledger.userdata(Punt.SEEN, router.tag), meter_id=ledger.RECORD_METER)
    known = match(
        metadata=ledger.metadata_vrf(router.tag),
        eth_type=0x0800,
        ip_proto=UDP,
        ct_state=ct_state(TRACKED | SNAT, INVALID),
        ct_mark=turn,
    )
    cookie = ledger.connections_cookie(router.tag)
    return Flow(T.NAPT_OUT, Priority.SEEN, known, actions=(note, told), goto=T.NAPT_FIB, cookie=cookie)


def imported(router: Router, known: Translation) -> Flow:
    """A connection that was opened elsewhere: its next packet that conntrack does not know opens it here, with the same port."""
    nat = Nat(src=True, ip_min=known.address, port_min=known.port, port_max=known.port)
    commit = Ct(zone=ledger.router_zone(router.tag), table=T.NAT_OPENED, commit=True, nat=nat)
    by_row = SetField(ledger.ASKED_REG, ledger.BY_ROW)
    return _row(router, T.NAT_NEW, known.proto, (known.src, known.sport), (known.dst, known.dport), by_row, commit)


def replied(router: Router, known: Translation) -> Flow:
    """What the remote sends before the VM does: exchanged without conntrack, which would not open a connection for it."""
    back = (SetField("ipv4_dst", known.src), SetField(f"{_ports(known.proto)}_dst", known.sport), Resubmit(T.FIB))
    return _row(router, T.NAT_REPLY, known.proto, (known.dst, known.dport), (known.address, known.port), *back)


def _ports(proto: int) -> str:
    return "tcp" if proto == TCP else "udp"


def _row(
    router: Router, table: T, proto: int, source: tuple[int, int], target: tuple[int, int], *actions: Action
) -> Flow:
    """What one end point (address, port) sends to the other. No part of State: rows come and go with connections."""
    kind = _ports(proto)
    matched = match(
        metadata=ledger.metadata_vrf(router.tag),
        eth_type=0x0800,
        ip_proto=proto,
        ipv4_src=source[0],
        ipv4_dst=target[0],
        **{f"{kind}_src": source[1], f"{kind}_dst": target[1]},
    )
    return Flow(table, Priority.IMPORTED, matched, actions=actions, cookie=ledger.connections_cookie(router.tag))
