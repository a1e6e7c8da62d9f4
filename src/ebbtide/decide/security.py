"""Security groups, their rules, and what a port is told of them: what may be made, changed and deleted, as edits of one transaction, in
the manner of `routing.py`; and what becomes of a packet by them, in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import msgspec
from immutables import Map

from ebbtide.decide import routing
from ebbtide.decide.ids import Allocator
from ebbtide.errors import BadInput, NotFound, Refused
from ebbtide.model.addresses import parse_net, prefix
from ebbtide.model.facts import Edit, Port, SecurityGroup, SecurityRule, format_mac
from ebbtide.model.state import State

#: Rules of one group, groups of one port, pairs of one port: each is a flow or more on every compute that has such a port.
MAX_RULES, MAX_GROUPS, MAX_PAIRS = 1000, 32, 32
#: Groups that the rules of one group may name: for each a packet is looked up once more, and a switch looks 4,096 times and no more.
MAX_FAR = 32
PROTOCOLS = {"any": -1, "icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_PORTS, _ICMP = (6, 17, 132), (1, 58)


class RuleWish(NamedTuple):
    """A rule as it is asked for. `ports`: "80" or "8000-8100"; `icmp_type`, `icmp_code`: -1, any."""

    inbound: bool
    family: str = ""
    protocol: str = "any"
    ports: str = ""
    icmp_type: int = -1
    icmp_code: int = -1
    prefix: str = ""
    remote: str = ""
    id: str = ""


def group(state: State, name: str) -> SecurityGroup:
    """The security group of that name.

    Raises:
        NotFound: there is none.
    """
    found = state.security_groups.get(name)
    if found is None:
        raise NotFound(f"there is no security group {name[:80]}: `ebbtide group add {name[:80]}` makes one")
    return found


def add_group(state: State, name: str) -> tuple[list[Edit], SecurityGroup]:
    """Make a group without rules; the same again is "already so"."""
    routing.check_name("security group", name)
    if "/rules" in name:
        raise BadInput(f"{name[:40]!r} is no security group name: /rules is where its rules are", "id")
    known = state.security_groups.get(name)
    if known is not None:
        return [], known
    ids = Allocator(state)
    made = SecurityGroup(name, ids.take("group"))
    return [Edit(None, made), *ids.edits()], made


def delete_group(state: State, name: str) -> list[Edit]:
    """Delete a group, with its rules, that no port is in and no other group's rule names."""
    known = group(state, name)
    ports = sorted(state.members_of.get(name, ()))
    if ports:
        raise Refused(
            f"security group {name} has {_some('port', ports)}: take them out of it first (`ebbtide port set`)"
        )
    namers = sorted(set(state.namers.get(name, ())) - {name})
    if namers:
        raise Refused(
            f"rules of {_some('security group', namers)} name security group {name}: delete those rules first"
        )
    return [*(Edit(rule, None) for rule in state.rules_of(name)), Edit(known, None)]


def _some(kind: str, names: Sequence[str]) -> str:
    """At most five of them by name."""
    return f"{kind}{'s' if len(names) > 1 else ''} {routing.some(names)}"


def protocol(text: str) -> int:
    """IANA's number of a protocol by name or number; -1: any.

    Raises:
        BadInput: it is neither.
    """
    if text.lower() in PROTOCOLS:
        return PROTOCOLS[text.lower()]
    if text.isdecimal() and len(text) <= 3 and int(text) <= 255:
        return int(text)
    raise BadInput(f"protocol {text[:40]!r} is none of {', '.join(PROTOCOLS)}, and no number from 0 to 255", "protocol")


def protocol_name(number: int) -> str:
    """By its name, if it has one here."""
    return _NAMES.get(number, str(number))


def _range(text: str, number: int) -> tuple[int, int]:
    if not text:
        return -1, -1
    if number not in _PORTS:
        raise BadInput(f"protocol {protocol_name(number)} has no ports: tcp, udp and sctp have", "ports")
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() if dash else True)) or len(text) > 11:
        raise BadInput(f"ports {text[:40]!r}: a port, or two with a dash between them (80, 8000-8100)", "ports")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= 65535:
        raise BadInput(f"ports {text[:40]}: 1 to 65535, the lower one first", "ports")
    return (-1, -1) if (low, high) == (1, 65535) else (low, high)


def _icmp(wish: RuleWish, number: int) -> tuple[int, int]:
    kind, code = wish.icmp_type, wish.icmp_code
    if (kind, code) == (-1, -1):
        return -1, -1
    if number not in _ICMP:
        raise BadInput(f"protocol {protocol_name(number)} has no ICMP type: icmp and icmpv6 have", "icmp-type")
    for value, name in ((kind, "icmp-type"), (code, "icmp-code")):
        if not -1 <= value <= 255:
            raise BadInput(f"{name} {value}: 0 to 255, or -1 for any", name)
    if kind < 0:
        raise BadInput("an ICMP code is of a type: give the type too", "icmp-type", "missing-element")
    return kind, code


def _family(wish: RuleWish, number: int) -> tuple[int, str]:
    """4 or 6, and the prefix as it is stored: "" for anybody."""
    families = {"": 0, "ipv4": 4, "4": 4, "ipv6": 6, "6": 6}
    if wish.family.lower() not in families:
        raise BadInput(f"family {wish.family[:40]!r} is neither ipv4 nor ipv6", "family")
    said, implied = families[wish.family.lower()], {1: 4, 58: 6}.get(number, 0)
    prefix = ""
    if wish.prefix:
        try:
            net = parse_net(wish.prefix)
        except ValueError as error:
            raise BadInput(f"{wish.prefix[:60]!r} is no prefix: {error}", "prefix") from None
        prefix = str(net) if net.prefixlen else ""
        implied = implied or net.version
        if net.version != implied:
            raise BadInput(f"protocol {protocol_name(number)} and prefix {net} are of two families", "prefix")
    if said and implied and said != implied:
        raise BadInput(f"family ipv{said} does not go with what else the rule says (ipv{implied})", "family")
    return said or implied or 4, prefix


def add_rule(state: State, name: str, wish: RuleWish) -> tuple[list[Edit], SecurityRule]:
    """Give a group a rule; the same again is "already so".

    Raises:
        BadInput: a value is not valid.
        NotFound: there is no such group.
        Refused: its id is another rule's, or the group has as many rules as it may.
    """
    known, number = group(state, name), protocol(wish.protocol)
    if wish.prefix and wish.remote:
        raise BadInput("a rule names a prefix or a group as the far end, not both", "remote-group")
    if wish.remote:
        group(state, wish.remote)
    family, prefix = _family(wish, number)
    ports, icmp = _range(wish.ports, number), _icmp(wish, number)
    first, last = icmp if icmp != (-1, -1) else ports
    said = SecurityRule("", known.id, wish.inbound, family, number, first, last, prefix, wish.remote)
    there = state.rules.get(name, Map())
    full = Refused(f"security group {name} has {MAX_RULES} rules: no more")
    if len(there) >= MAX_RULES and wish.id and wish.id not in there:
        # Before it is compared with each of them: one that waits is tried again at each change of its group.
        raise full
    for other in state.rules_of(name):
        if msgspec.structs.replace(other, id="") == said:
            if wish.id not in ("", other.id):
                raise Refused(f"rule {other.id} of security group {name} says this already")
            return [], other
    made = msgspec.structs.replace(said, id=wish.id or _own_id(said))
    routing.check_name("rule", made.id)
    if "/" in made.id:
        raise BadInput(f"{made.id[:40]!r} is no rule id: it stands at the end of a path, so without a slash", "id")
    if made.id in there:
        raise Refused(f"rule {made.id} of security group {name} exists already, and says something else")
    if len(there) >= MAX_RULES:
        raise full
    if wish.remote and len({*state.named_by(name), wish.remote}) > MAX_FAR:
        raise Refused(f"the rules of security group {name} name {MAX_FAR} groups as far ends: no more")
    return [Edit(None, made)], made


def _own_id(said: SecurityRule) -> str:
    """An id for a rule that was given none: by what it says, so that the same is the same."""
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:12]


def delete_rule(state: State, name: str, rule_id: str) -> list[Edit]:
    """Take a rule out of a group: what it alone let through is cut."""
    group(state, name)
    found = next((rule for rule in state.rules_of(name) if rule.id == rule_id), None)
    if found is None:
        raise NotFound(f"security group {name} has no rule {rule_id[:80]}: `ebbtide group show {name}` lists them")
    return [Edit(found, None)]


# --- ports ---


def secure(
    state: State,
    port: Port,
    secured: bool | None = None,
    groups: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Port:
    """The port with these settings; None: as it is. Groups alone make it a secured one. `pairs`: prefix and MAC ("": its own).

    Raises:
        BadInput: a pair is not valid, or there are too many.
        NotFound: there is no such group.
        Refused: a port without port security cannot be in groups.
    """
    if secured is None:
        secured = port.secured or bool(groups)
    chosen = port.groups if groups is None else tuple(sorted(set(groups)))
    for name in chosen:
        group(state, name)
    if chosen and not secured:
        raise Refused(
            f"port {port.id} is to have no port security, and is in {_some('security group', chosen)}: say `--no-groups` too"
        )
    if len(chosen) > MAX_GROUPS:
        raise BadInput(f"{len(chosen)} security groups: a port may be in {MAX_GROUPS}", "security-groups")
    own = port.pairs if pairs is None else tuple(sorted({_pair(port, *pair) for pair in pairs}))
    if len(own) > MAX_PAIRS:
        raise BadInput(f"{len(own)} address pairs: a port may have {MAX_PAIRS}", "address-pairs")
    return msgspec.structs.replace(port, secured=secured, groups=chosen, pairs=own)


def _pair(port: Port, prefix: str, mac: str) -> str:
    try:
        net = parse_net(prefix)
    except ValueError as error:
        raise BadInput(f"address pair {prefix[:60]!r}: {error}", "address-pairs") from None
    value = routing.host_mac(mac, "address-pairs") if mac else port.mac
    return f"{net} {format_mac(value)}"


# --- in words ---


class Packet(NamedTuple):
    """The first packet of a connection, as a port has it. `far`: the address at the other end; `first`, `last`: as in a rule, its ICMP type
    and code, or its destination port twice (-1: not given)."""

    inbound: bool
    far: str
    protocol: int
    first: int = -1
    last: int = -1


class Judged(NamedTuple):
    """What becomes of it: whether it passes, the rule that lets it, and why in words."""

    passes: bool
    rule: SecurityRule | None
    words: str


def judge(state: State, port: Port, packet: Packet) -> Judged:
    """What a port's security groups say of a connection's first packet."""
    if not port.secured:
        return Judged(True, None, f"Port {port.id} has no port security: all passes.")
    way = "in" if packet.inbound else "out"
    for name in port.groups:
        for rule in state.rules_of(name):
            if rule.inbound == packet.inbound and lets(state, rule, packet):
                return Judged(True, rule, f"Rule {rule.id} of security group {name} lets it {way}: {said(rule)}.")
    if not port.groups:
        return Judged(False, None, f"Port {port.id} is secured and in no security group: no rule lets anything {way}.")
    asked = sum(rule.inbound == packet.inbound for name in port.groups for rule in state.rules_of(name))
    groups = _some("security group", port.groups)
    return Judged(False, None, f"None of the {asked} rules of {groups} that are about what goes {way} lets it.")


def lets(state: State, rule: SecurityRule, packet: Packet) -> bool:
    """Whether a rule lets a connection's first packet through, direction apart."""
    far = ip_address(packet.far)
    if rule.family != far.version or rule.protocol not in (-1, packet.protocol):
        return False
    if rule.first >= 0 and rule.protocol in _PORTS and not rule.first <= packet.first <= rule.last:
        return False
    if rule.protocol in _ICMP and (rule.first not in (-1, packet.first) or rule.last not in (-1, packet.last)):
        return False
    if rule.prefix:
        return far in ip_network(rule.prefix)
    return not rule.remote or is_member(state, rule.remote, packet.far)


def is_member(state: State, name: str, address: str) -> bool:
    """Whether an address is one of a group's members'."""
    held: Iterable[str] = state.held.get(name, ())
    if address in held:
        return True
    value = int(ip_address(address))
    prefixes = (prefix(text) for text in held if "/" in text and (":" in text) == (":" in address))
    return any(value & mask == start for start, mask, _ in prefixes)


def said(rule: SecurityRule) -> str:
    """A rule in words, without its group."""
    words = [
        f"{'from' if rule.inbound else 'to'} {rule.prefix or (rule.remote and f'group {rule.remote}') or 'anybody'}"
    ]
    words.append(f"IPv{rule.family}")
    if rule.protocol >= 0:
        words.append(protocol_name(rule.protocol))
    if rule.protocol in _ICMP and rule.first >= 0:
        words.append(f"type {rule.first}" + (f" code {rule.last}" if rule.last >= 0 else ""))
    elif rule.first >= 0:
        words.append(f"port {rule.first}" if rule.first == rule.last else f"ports {rule.first} to {rule.last}")
    return ", ".join(words)
