"""Port security and security groups, on the port's own compute: what a VM sends is its own, and nothing passes without a rule.

A secured port's frames pass tables 210 to 217 before anything else looks at them, and 240 to 248 last of all. Conntrack, in a zone of the
port's own, says which end has opened a connection; then the rules of that direction are asked, for every packet, as they are now. Nothing
else is remembered: a rule that goes cuts both directions of what it allowed, and an answer needs no rule.

A rule is asked by group (reg14) and far end (reg13), so that no two groups share a row; a member of a group is a row, however many rules
name its group. RFC 4861, RFC 3810 and RFC 5227 for what goes without conntrack, which calls neighbour discovery invalid.

Where a port is at two places (a live migration), the one that has it lets through what the other gets (`delivery`), and what the one that
it has left does not know, the new one judges (`passed_on`): conntrack at the old one sees one direction only by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ebbtide.compile import ledger
from ebbtide.compile.features.dhcp import ALL_SERVERS_V6
from ebbtide.compile.flow import (
    Action,
    Ct,
    CtClear,
    Flow,
    Load,
    M,
    Match,
    Meter,
    Move,
    Output,
    Resubmit,
    SetField,
    match,
)
from ebbtide.compile.fragment import Fragment
from ebbtide.compile.ledger import Feature, Kind, Priority, T
from ebbtide.model.addresses import ipv4, link_local_text, prefix, split_pair
from ebbtide.model.facts import Network, Port, SecurityGroup, SecurityRule

ARP, RARP, IPV4, IPV6 = 0x0806, 0x8035, 0x0800, 0x86DD
TCP, UDP, SCTP, ICMP, ICMPV6 = 6, 17, 132, 1, 58
_PORTS = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
_ROUTER_SOLICIT, _ROUTER, _SOLICIT, _ADVERT, _REDIRECT = 133, 134, 135, 136, 137
_LISTENERS = (131, 132, 143)  # MLD reports and done (RFC 2710, RFC 3810)
_TO_MANY = (1 << 40, 1 << 40)
_ALL_ROUTERS_HOPS, _ND_HOPS = 1, 255
_ADMITTED_BIT = (1, 1)
_TURNED = (ledger.TURNED_MARK, ledger.TURNED_MARK)
_COUNTED = (ledger.COUNTED_MARK, ledger.COUNTED_MARK)
_LATER_FRAGMENT = (3, 3)  # NX nw_frag: any, and later

# ct_state, as (value, mask): new 0x01, est 0x02, rel 0x04, rpl 0x08, inv 0x10, trk 0x20.
_TRACKED = (0x20, 0x30)
_INVALID = (0x30, 0x30)
_RELATED = (0x24, 0x34)
_FROM_OPENER = (0x20, 0x38)
_FROM_OTHER = (0x28, 0x38)
_NEW = (0x21, 0x31)
_VALID = (0x20, 0x30)
Fields = dict[str, int | tuple[int, int]]
_UNTAGGED: Fields = {"vlan_vid": 0}


class Guard(NamedTuple):
    """A secured port at one place: its conntrack zone there (1 to 32767), and the tags of its security groups."""

    zone: int
    groups: tuple[int, ...]


class Stage(NamedTuple):
    """The two stages are the same but for these: their tables, the register of the port's zone, and how it goes on."""

    kind: T
    tracked: T
    groups: T
    rules: T
    members: T
    verdict: T
    zone: str
    on: tuple[Action, ...]
    goto: T | None


_OUT = Stage(
    *(T.OUT_KIND, T.OUT_TRACKED, T.OUT_GROUPS, T.OUT_RULES, T.OUT_MEMBERS, T.OUT_VERDICT, ledger.OUT_ZONE_REG),
    (Resubmit(T.DISPATCHER),),
    None,
)
_IN = Stage(
    *(T.IN_KIND, T.IN_TRACKED, T.IN_GROUPS, T.IN_RULES, T.IN_MEMBERS, T.IN_VERDICT, ledger.IN_ZONE_REG),
    (),
    T.IN_DELIVER,
)
_BASE_COOKIE = ledger.cookie(Kind.BASE, Feature.SECURITY)


_COUNT = (Load("ct_mark", ledger.COUNTED_BIT, 1, 1),)


def _cookie(port: Port) -> int:
    return ledger.cookie(Kind.PORT, Feature.SECURITY, port.lport)


# --- the same on every compute ---


def _on(stage: Stage, table: T, priority: int, seen: Match, before: tuple[Action, ...] = ()) -> Flow:
    return Flow(table, priority, seen, actions=(*before, *stage.on), goto=stage.goto, cookie=_BASE_COOKIE)


def _without_conntrack(stage: Stage) -> Iterator[Flow]:
    """Neighbour discovery and its like, and the broadcasts of DHCP."""

    def on(**fields: int | tuple[int, int]) -> Flow:
        return _on(stage, stage.kind, Priority.WITHOUT_CONNTRACK, match(**fields))

    nd: Fields = {"eth_type": IPV6, "ip_proto": ICMPV6, "ip_frag": 0}
    for kind in _LISTENERS:
        yield on(**nd, icmpv6_type=kind, nw_ttl=_ALL_ROUTERS_HOPS)
    if stage is _OUT:
        yield on(**nd, icmpv6_type=_ROUTER_SOLICIT, nw_ttl=_ND_HOPS)
        yield on(eth_type=IPV4, ip_proto=UDP, ip_frag=0, udp_src=68, udp_dst=67, ipv4_dst=0xFFFF_FFFF)
        yield on(eth_type=IPV6, ip_proto=UDP, ip_frag=0, udp_src=546, udp_dst=547, ipv6_dst=ALL_SERVERS_V6)
        servers: tuple[Fields, ...] = (
            {"eth_type": IPV4, "ip_proto": UDP, "udp_src": 67, "udp_dst": 68},
            {"eth_type": IPV6, "ip_proto": UDP, "udp_src": 547, "udp_dst": 546},
            {"eth_type": IPV6, "ip_proto": ICMPV6, "icmpv6_type": _ROUTER},
            {"eth_type": IPV6, "ip_proto": ICMPV6, "icmpv6_type": _REDIRECT},
        )
        for fields in servers:
            yield Flow(stage.kind, Priority.SERVERS_ONLY, match(**fields), cookie=_BASE_COOKIE)
        return
    yield on(**nd, icmpv6_type=130, nw_ttl=_ALL_ROUTERS_HOPS)
    for kind in (_SOLICIT, _ADVERT, _ROUTER):
        yield on(**nd, icmpv6_type=kind, nw_ttl=_ND_HOPS)
    for ethertype in (ARP, RARP):
        yield on(eth_type=ethertype)
    yield on(eth_type=IPV4, ip_proto=UDP, ip_frag=0, udp_src=67, udp_dst=68)
    yield on(eth_type=IPV6, ip_proto=UDP, ip_frag=0, udp_src=547, udp_dst=546)


def _judge(opener: Stage, lport: Action) -> tuple[Action, ...]:
    """Ask the port's groups, in the direction in which the connection was opened."""
    return (lport, SetField(ledger.GROUP_REG, 0), Resubmit(opener.groups))


def _tracked(stage: Stage, other: Stage, lport: Action) -> Iterator[Flow]:
    """After conntrack. What an invalid packet is about is nobody's to say; an error about a connection goes with it."""

    def flow(
        priority: int,
        state: tuple[int, int],
        actions: tuple[Action, ...] = (),
        goto: T | None = None,
        **more: int | tuple[int, int],
    ) -> Flow:
        return Flow(
            stage.tracked, priority, match(ct_state=state, **more), actions=actions, goto=goto, cookie=_BASE_COOKIE
        )

    allowed = (SetField(ledger.ALLOWED_REG, 1),)
    yield flow(Priority.INVALID, _INVALID)
    yield flow(Priority.ABOUT_CONNECTION, _RELATED, allowed, stage.verdict)
    yield flow(Priority.FROM_OPENER, _FROM_OPENER, _judge(stage, lport), stage.verdict)
    yield flow(Priority.FROM_OTHER, _FROM_OTHER, _judge(other, lport), stage.verdict)
    if stage is _OUT:
        # The guest goes on with what it had opened elsewhere: from now on it is the opener here too.
        for family in (IPV4, IPV6):
            yield flow(*(Priority.TURNED, _FROM_OTHER, _afresh(stage)), eth_type=family, ct_mark=_TURNED)
        return
    yield flow(Priority.TURNED, _FROM_OPENER, allowed, stage.verdict, ct_mark=_TURNED)
    yield from _admitted(stage)


def _afresh(stage: Stage) -> tuple[Action, ...]:
    return (Ct(zone_field=stage.zone, table=stage.tracked, commit=True, force=True),)


def _admitted(stage: Stage) -> Iterator[Flow]:
    """What the port's other place has let through is delivered, and opens its connection here: the guest goes on with it.

    Not by a packet that begins or ends one: its other half is never seen here, and what follows would be called invalid.
    """
    own = (Move(ledger.ADMITTED_REG, "ct_mark", 1, src_offset=1),)
    commit = (Ct(zone_field=stage.zone, commit=True, exec=own),)
    bit: Fields = {ledger.ADMITTED_REG: _ADMITTED_BIT}
    yield _on(stage, stage.tracked, Priority.ADMITTED_INVALID, match(ct_state=_INVALID, **bit))
    for family in (IPV4, IPV6):
        new: Fields = {"ct_state": _NEW, "eth_type": family, **bit}
        middle = match(**new, ip_proto=TCP, tcp_flags=(0, 0x7))
        yield _on(stage, stage.tracked, Priority.ADMITTED_MIDDLE, middle, commit)
        yield _on(stage, stage.tracked, Priority.ADMITTED_TCP, match(**new, ip_proto=TCP))
        yield _on(stage, stage.tracked, Priority.ADMITTED_OTHER, match(**new), commit)
        yield _on(stage, stage.tracked, Priority.ADMITTED_TCP, match(**new, eth_dst=_TO_MANY))
    yield _on(stage, stage.tracked, Priority.ADMITTED, match(ct_state=_TRACKED, **bit))


def _verdict(stage: Stage) -> Iterator[Flow]:
    allowed: Fields = {ledger.ALLOWED_REG: 1}
    yield _on(stage, stage.verdict, Priority.ALLOWED, match(**allowed))
    yield _on(stage, stage.verdict, Priority.ALLOWED_COUNTED, match(**allowed, ct_state=_NEW, ct_mark=_COUNTED))
    yield _on(stage, stage.verdict, Priority.ALLOWED_TO_MANY, match(**allowed, eth_dst=_TO_MANY))
    for family in (IPV4, IPV6):
        # The other end opens one of its own on the same ports: judged as that. A TCP connection begins with SYN and nothing else.
        refused: Fields = {ledger.ALLOWED_REG: 0, "ct_state": _FROM_OTHER, "eth_type": family}
        opened: tuple[Fields, ...] = (
            {"ip_proto": TCP, "tcp_flags": (0x02, 0x12)},
            {"ip_proto": UDP},
            {"ip_proto": ICMP if family == IPV4 else ICMPV6},
        )
        for fields in opened:
            seen = match(**refused, **fields)
            yield Flow(stage.verdict, Priority.OPENED_AFRESH, seen, actions=_afresh(stage), cookie=_BASE_COOKIE)


def _base() -> Iterator[Flow]:
    # Left over from what came before, they would make a translation of each value.
    clean: tuple[Action, ...] = tuple(
        SetField(name, 0) for name in ("reg0", "reg1", ledger.ALLOWED_REG, ledger.FAR_GROUP_REG, ledger.GROUP_REG)
    )
    lport_out = Move("metadata", ledger.JUDGED_REG, ledger.LPORT_BITS, src_offset=ledger.LPORT_SHIFT)
    lport_in = Move(ledger.TO_LPORT_REG, ledger.JUDGED_REG, 32)
    for stage, other, lport in ((_OUT, _IN, lport_out), (_IN, _OUT, lport_in)):
        yield from _without_conntrack(stage)
        for family in (IPV4, IPV6):
            # Cleared first: a packet that a router has turned round would be taken for what it was (userspace keeps the entry at hand).
            track = (*clean, SetField(ledger.JUDGED_REG, 0), CtClear(), Ct(zone_field=stage.zone, table=stage.tracked))
            yield Flow(stage.kind, Priority.TRACK, match(eth_type=family), actions=track, cookie=_BASE_COOKIE)
        yield from _tracked(stage, other, lport)
        yield from _verdict(stage)


BASE = Fragment(tuple(_base()))


# --- one compute's: a port ---


def meter(guard: Guard | None) -> tuple[Meter, ...]:
    """What a secured port's new connections pass."""
    if guard is None:
        return ()
    opens = ledger.port_meter(guard.zone, False), ledger.CONNECTIONS_PER_SECOND, ledger.CONNECTIONS_AT_ONCE
    called = ledger.port_meter(guard.zone, True), ledger.CALLS_PER_SECOND, ledger.CALLS_AT_ONCE
    return Meter(*opens), Meter(*called)


def port(net: Network, port: Port, guard: Guard) -> list[Flow]:
    """A secured port's own rows, wherever it is bound: what it may say, what it is told, and which groups it is in."""
    # A pair may say again what the port has already.
    return list({(f.table, f.priority, f.match): f for f in _port(net, port, guard)}.values())


def _port(net: Network, port: Port, guard: Guard) -> Iterator[Flow]:
    cookie = _cookie(port)
    lport = ledger.metadata_lport(port.lport)
    yield from _sends(net, port, cookie, {"metadata": lport, **_UNTAGGED})
    here: Fields = {ledger.TO_LPORT_REG: port.lport}
    for mac in sorted(macs(port)):
        seen = match(**here, **_UNTAGGED, eth_dst=mac)
        yield Flow(T.SECURITY_IN, Priority.OWN, seen, goto=T.IN_KIND, cookie=cookie)
    seen = match(**here, **_UNTAGGED, eth_dst=_TO_MANY)
    yield Flow(T.SECURITY_IN, Priority.OWN, seen, goto=T.IN_KIND, cookie=cookie)
    # Without actions: they count what is refused, a port at a time.
    yield Flow(T.SECURITY_OUT, Priority.REFUSED_HERE, match(metadata=lport), cookie=cookie)
    yield Flow(T.SECURITY_IN, Priority.REFUSED_HERE, match(**here), cookie=cookie)
    yield Flow(T.OUT_VERDICT, Priority.NOT_ALLOWED, match(metadata=lport, reg2=0), cookie=cookie)
    yield Flow(T.IN_VERDICT, Priority.NOT_ALLOWED, match(**here, reg2=0), cookie=cookie)
    ends: tuple[tuple[Stage, Fields], ...] = ((_OUT, {"metadata": lport}), (_IN, here))
    for stage, own in ends:
        for family in (IPV4, IPV6):
            yield Flow(
                stage.verdict,
                Priority.ALLOWED_NEW,
                match(**own, reg2=1, ct_state=_NEW, eth_type=family),
                actions=(Ct(zone_field=stage.zone, commit=True, exec=_COUNT), *stage.on),
                goto=stage.goto,
                meter=ledger.port_meter(guard.zone, stage is _IN),
                cookie=cookie,
            )
        asked = tuple(a for tag in guard.groups for a in (SetField(ledger.GROUP_REG, tag), Resubmit(stage.groups)))
        if asked:
            seen = match(reg15=port.lport, reg14=0)
            yield Flow(stage.groups, Priority.PORTS_GROUPS, seen, actions=asked, cookie=cookie)


def macs(port: Port) -> set[int]:
    """Its MAC, and those of its pairs."""
    return {port.mac, *(mac for _, mac in map(split_pair, port.pairs))}


def _sends(net: Network, port: Port, cookie: int, own: Fields) -> Iterator[Flow]:
    on = (Resubmit(T.DISPATCHER),)

    def passes(**fields: int | tuple[int, int]) -> Flow:
        return Flow(T.SECURITY_OUT, Priority.OWN, match(**own, **fields), actions=on, cookie=cookie)

    for mac in sorted(macs(port)):
        yield passes(eth_type=RARP, eth_src=mac)
        yield passes(eth_type=ARP, eth_src=mac, arp_sha=mac, arp_spa=0)
        yield passes(eth_type=IPV4, eth_src=mac, ipv4_src=0, ip_proto=UDP, udp_src=68, udp_dst=67, ipv4_dst=0xFFFF_FFFF)
        nd: Fields = {"eth_type": IPV6, "eth_src": mac, "ip_proto": ICMPV6, "ip_frag": 0}
        # Looking for routers and joining a group before there is an address: from nobody, to many.
        for kind in (_ROUTER_SOLICIT, *_LISTENERS):
            yield passes(**nd, ipv6_src=0, icmpv6_type=kind, eth_dst=_TO_MANY)
        advert = match(**own, **nd, icmpv6_type=_ADVERT)
        yield Flow(T.SECURITY_OUT, Priority.NOT_OWN_ND, advert, cookie=cookie)
    for mac, text in _own(port):
        address, mask, _ = prefix(text)
        if ":" in text:
            yield from _sends_ipv6(mac, (address, mask), own, cookie)
            continue
        source = (address, mask)
        yield passes(eth_type=ARP, eth_src=mac, arp_sha=mac, arp_spa=source)
        if net.dhcp:
            yield passes(eth_type=IPV4, eth_src=mac, ipv4_src=source, ip_proto=UDP, udp_src=68, udp_dst=67)
        seen = match(**own, eth_type=IPV4, eth_src=mac, ipv4_src=source)
        yield Flow(T.SECURITY_OUT, Priority.OWN_IP, seen, goto=T.OUT_KIND, cookie=cookie)


def _sends_ipv6(mac: int, source: tuple[int, int], own: Fields, cookie: int) -> Iterator[Flow]:
    on = (Resubmit(T.DISPATCHER),)
    nd: Fields = {"eth_type": IPV6, "eth_src": mac, "ip_proto": ICMPV6, "ip_frag": 0, "nw_ttl": _ND_HOPS}
    # An advertisement is about its target, whoever sends it; one without a link-layer address (nd_tll 0) changes none.
    for tll in (mac, 0):
        seen = match(**own, **nd, icmpv6_type=_ADVERT, nd_target=source, nd_tll=tll)
        yield Flow(T.SECURITY_OUT, Priority.OWN_ND, seen, actions=on, cookie=cookie)
    for sll in (mac, 0):
        seen = match(**own, **nd, icmpv6_type=_SOLICIT, ipv6_src=source, nd_sll=sll)
        yield Flow(T.SECURITY_OUT, Priority.OWN_ND, seen, actions=on, cookie=cookie)
    # Duplicate address detection is about its own: somebody else's would not be had by whoever it was given to (RFC 4862, 5.4.3).
    free = match(**own, **nd, icmpv6_type=_SOLICIT, ipv6_src=0, nd_target=source, eth_dst=_TO_MANY)
    yield Flow(T.SECURITY_OUT, Priority.OWN_ND, free, actions=on, cookie=cookie)
    solicit = match(**own, eth_type=IPV6, eth_src=mac, ip_proto=ICMPV6, icmpv6_type=_SOLICIT, ipv6_src=source)
    yield Flow(T.SECURITY_OUT, Priority.NOT_OWN_ND, solicit, cookie=cookie)
    seen = match(**own, eth_type=IPV6, eth_src=mac, ipv6_src=source)
    yield Flow(T.SECURITY_OUT, Priority.OWN_IP, seen, goto=T.OUT_KIND, cookie=cookie)


def _own(port: Port) -> Iterator[tuple[int, str]]:
    """MAC and prefix of all that it may send from."""
    for text in port.addresses:
        yield port.mac, text
    for mac in sorted(macs(port)):
        yield mac, link_local_text(mac)
    for pair, mac in map(split_pair, port.pairs):
        yield mac, pair


_AS_ANSWER = {
    Priority.TO_LOCAL: Priority.TO_LOCAL_ANSWER,
    Priority.FORWARD: Priority.FORWARD_ANSWER,
}


def delivery(
    port: Port, guard: Guard | None, net: Network, rows: Iterable[tuple[int, Match, tuple[Action, ...]]]
) -> Iterator[Flow]:
    """The rows that deliver to a port, (priority, match, outputs): at once, or behind the stage of what it may receive."""
    own = ledger.cookie(Kind.PORT, Feature.L2, port.lport)
    for priority, seen, outputs in rows:
        if guard is None:
            yield Flow(T.EGRESS, priority, seen, actions=outputs, cookie=own)
            continue
        yield Flow(
            T.EGRESS,
            priority,
            seen,
            actions=(SetField(ledger.IN_ZONE_REG, guard.zone),),
            goto=T.SECURITY_IN,
            cookie=own,
        )
        yield Flow(T.IN_DELIVER, priority, seen, actions=outputs, cookie=own)
        # What goes on to the port's other place says there whether it is an answer: by its own MAC, which nobody else has. (Two ports may
        # have one pair.)
        vni, answered = (SetField("tun_id", n) for n in (ledger.DELIVER_VNI | port.lport, ledger.answered_vni(net.tag)))
        if vni in outputs:
            as_answer = tuple(answered if a == vni else a for a in outputs)
            answers = tuple(sorted((*seen, M("ct_state", *_FROM_OTHER), M("eth_dst", port.mac))))
            yield Flow(T.IN_DELIVER, _AS_ANSWER[priority], answers, actions=as_answer, cookie=own)


def passed_on(net: Network, port: Port, tunnel: int) -> Iterator[Flow]:
    """A place that a port has left: what it does not let through, the new one judges."""
    on = (SetField("tun_id", ledger.unjudged_vni(net.tag)), Output(tunnel))
    here: Fields = {ledger.TO_LPORT_REG: port.lport, "eth_dst": port.mac}
    for table, priority, seen in (
        (T.IN_TRACKED, Priority.INVALID_PASSED_ON, match(ct_state=_INVALID, **here)),
        (T.IN_VERDICT, Priority.NOT_ALLOWED_PASSED_ON, match(reg2=0, **here)),
    ):
        yield Flow(table, priority, seen, actions=on, cookie=_cookie(port))


def arrivals(net: Network, port: Port) -> Iterator[Flow]:
    """What comes from the port's other place, by the MAC that it is for: as an answer, or not judged."""
    answered, unjudged = ledger.answered_vni(net.tag), ledger.unjudged_vni(net.tag)
    for vni, admitted in ((answered, ledger.ADMITTED_ANSWER), (unjudged, 0)):
        yield Flow(
            T.TUNNEL_TERMINATION,
            Priority.RELATION,
            match(tun_id=vni, eth_dst=port.mac),
            actions=(
                SetField(ledger.TO_LPORT_REG, port.lport),
                SetField(ledger.TO_COMPUTE_REG, 0),
                SetField(ledger.ADMITTED_REG, admitted),
            ),
            goto=T.EGRESS,
            cookie=_cookie(port),
        )


# --- shared by those who have a port of the group ---


def group(fact: SecurityGroup, rules: Iterable[SecurityRule], tags: Mapping[str, int]) -> Fragment:
    """A group's rules. `tags`: of the groups that they name. Two rules that come to the same row have it once."""
    found: dict[tuple[int, Match], Flow] = {}
    cookie = ledger.cookie(Kind.GROUP, Feature.SECURITY, fact.tag)
    chosen = [rule for rule in rules if not rule.remote or rule.remote in tags]
    for stage, inbound in ((_OUT, False), (_IN, True)):
        fars = sorted({tags.get(rule.remote, 0) for rule in chosen if rule.inbound == inbound})
        sets: list[Action] = []
        for far in fars:
            sets += (SetField(ledger.FAR_GROUP_REG, far), SetField(ledger.GROUP_REG, fact.tag), Resubmit(stage.rules))
        if sets:
            seen = match(reg14=fact.tag)
            found[stage.groups, seen] = Flow(stage.groups, Priority.GROUP_SETS, seen, tuple(sets), cookie=cookie)
        for rule in chosen:
            if rule.inbound != inbound:
                continue
            far = tags.get(rule.remote, 0)
            actions: tuple[Action, ...] = (Resubmit(stage.members),) if far else (SetField(ledger.ALLOWED_REG, 1),)
            base: Fields = {"reg14": fact.tag, "reg13": far, "reg2": 0}
            for fields in _matches(rule):
                seen = match(**base, **fields)
                found[stage.rules, seen] = Flow(stage.rules, Priority.RULE, seen, actions, cookie=cookie)
    return Fragment(tuple(found.values()))


def _matches(rule: SecurityRule) -> Iterator[Fields]:
    """What the packets of a connection look like that a rule lets through.

    By the packet's own ports, whose tries keep a scan from filling the datapath's cache; by what conntrack knows where a packet has none:
    a later fragment, an answer to an ICMP query.
    """
    family = IPV4 if rule.family == 4 else IPV6
    names = ("ipv4_src", "ipv4_dst", "ct_nw_") if rule.family == 4 else ("ipv6_src", "ipv6_dst", "ct_ipv6_")
    source, target, tuple_ = names
    there, back = (source, target) if rule.inbound else (target, source)
    known = f"{tuple_}{'src' if rule.inbound else 'dst'}"
    far: tuple[int, int] | None = None
    if rule.prefix:
        address, mask, length = prefix(rule.prefix)
        far = (address, mask) if length else None
    ports = _PORTS.get(rule.protocol)
    plain: Fields = {"ct_state": _VALID, "eth_type": family}
    if ports is None or rule.first < 0:
        fields = dict(plain)
        if rule.protocol >= 0:
            fields["ct_nw_proto"] = rule.protocol
        if rule.protocol in (ICMP, ICMPV6):
            fields |= {
                name: value for name, value in (("ct_tp_src", rule.first), ("ct_tp_dst", rule.last)) if value >= 0
            }
        yield fields | ({known: far} if far else {})
        return
    for value, mask in port_masks(rule.first, rule.last):
        at = (value, mask)
        own: Fields = {"eth_type": family, "ip_proto": rule.protocol}
        yield {"ct_state": _FROM_OPENER, **own, f"{ports}_dst": at} | ({there: far} if far else {})
        yield {"ct_state": _FROM_OTHER, **own, f"{ports}_src": at} | ({back: far} if far else {})
        if rule.protocol != SCTP:
            cut: Fields = {"ip_frag": _LATER_FRAGMENT, "ct_nw_proto": rule.protocol, "ct_tp_dst": at}
            yield {**plain, **cut} | ({known: far} if far else {})


def port_masks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest (value, mask) of 16 bits that make up a range."""
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        yield first, 0xFFFF & ~(size - 1)
        first += size


def member(tag: int, address: str, directions: Sequence[bool]) -> Fragment:
    """An address of a group's members, where rules of those directions (True: inbound) name the group."""
    value, mask, _ = prefix(address)
    ipv6 = ipv4(address.partition("/")[0]) is None
    cookie = ledger.cookie(Kind.GROUP, Feature.SECURITY, tag)
    flows = []
    for inbound in directions:
        stage = _IN if inbound else _OUT
        known = f"{'ct_ipv6_' if ipv6 else 'ct_nw_'}{'src' if inbound else 'dst'}"
        far: Fields = {known: (value, mask), "eth_type": IPV6 if ipv6 else IPV4, "ct_state": _VALID}
        seen = match(reg13=tag, **far)
        flows.append(
            Flow(stage.members, Priority.MEMBER, seen, actions=(SetField(ledger.ALLOWED_REG, 1),), cookie=cookie)
        )
    return Fragment(tuple(flows))
