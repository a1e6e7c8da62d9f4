"""The facts that are stored: what the cloud has been told to be.

A fact is a frozen value with a key; `Edit(old, new)` says that a fact appeared, changed or vanished. Observed things
(sessions, port numbers) are not facts: see `observed.py`. The words are those of docs/architecture.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Membership(StrEnum):
    """What the store says of a compute. What a wire says of it is in `observed.Phase`."""

    WAITING = "waiting"  # it has registered and waits for `compute approve`
    MEMBER = "member"
    REMOVED = "removed"  # scale-in end is over; kept so that it stays removed and can be searched for


class BindingPhase(StrEnum):
    """Where a port's binding stands (docs/decisions.md, section 6)."""

    PENDING = "pending"
    ACTIVE = "active"
    LEAVING = "leaving"


class Compute(msgspec.Struct, frozen=True):
    """A node with Open vSwitch.

    `number` names it in registers and cookies; `dpid` is the OpenFlow datapath id; `ovs_uuid` the row of its
    Open_vSwitch table (ODL's OVSDB node id is made of it); `past` holds every identity it ever had, as "kind:value".
    `certificate` is the SHA-256 of the certificate that it came with first ("": it came without TLS).
    `gateway`: it may serve gateway relations; `held_start`: its switch is held at a start until its flows are there.
    `asked` is the tunnel address that it announces and does not get, since it is another's ("": it has what it announces).
    `applicants` are hosts that ask to take its place, or to come back as it though they have changed ("system-id@TEP");
    `successor` is the one of them that was approved, and may do so while the compute is silent.
    `macs` are those of its bridges' own interfaces, as aa:bb:cc:dd:ee:ff.
    `nova_host` is what it says that it is called in Nova ("": as its `hostname`).
    `weight` and `base` say how many designated services it is to have (`decide/election.py`).
    `removed_at` is the revision at which it was removed (0: not removed).
    """

    name: str
    number: int
    dpid: int
    system_id: str = ""
    ovs_uuid: str = ""
    hostname: str = ""
    teps: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    zone: str = "default-transport-zone"
    provider_mappings: tuple[tuple[str, str], ...] = ()
    membership: Membership = Membership.MEMBER
    tombstoned: bool = False
    adopted: bool = False
    gateway: bool = False
    held_start: bool = False
    weight: int = 1
    base: int = 0
    certificate: str = ""
    asked: str = ""
    applicants: tuple[str, ...] = ()
    successor: str = ""
    past: tuple[str, ...] = ()
    removed_at: int = 0
    nova_host: str = ""

    @property
    def host(self) -> str:
        """What Neutron and Nova call it."""
        return self.nova_host or self.hostname or self.name

    @property
    def tep(self) -> str:
        """The tunnel end point in use, or "" while it has announced none."""
        return self.teps[0] if self.teps else ""

    @property
    def node_id(self) -> str:
        """OpenDaylight's inventory id."""
        return f"openflow:{self.dpid}"

    @property
    def ovsdb_node_id(self) -> str:
        """OpenDaylight's topology id of the OVSDB node."""
        return f"ovsdb://uuid/{self.ovs_uuid}"

    @property
    def bridge_node_id(self) -> str:
        """OpenDaylight's topology id of the bridge."""
        return f"ovsdb://uuid/{self.ovs_uuid}/bridge/br-int"

    def identities(self) -> frozenset[str]:
        """Everything by which this compute was ever known, as "kind:value"."""
        now = {f"name:{self.name}", f"dpid:{self.dpid}", f"number:{self.number}"}
        now |= {f"tep:{tep}" for tep in self.teps} | {f"mac:{mac}" for mac in self.macs}
        now |= {f"{kind}:{value}" for kind, value in (("system-id", self.system_id), ("uuid", self.ovs_uuid)) if value}
        return frozenset(now | set(self.past))


#: How VMs come by their IPv6 addresses: by hand, they make them of their MAC (RFC 4862), the same and ask DHCPv6 for the rest, or ask it
#: for all. In each of these routers are advertised.
STATIC, SLAAC, STATELESS, STATEFUL = "static", "slaac", "dhcpv6-stateless", "dhcpv6-stateful"


class Network(msgspec.Struct, frozen=True):
    """A tenant network: `tag` (16 bits) inside a switch, `vni` (24 bits) on the wire, `mtu` in bytes as a VM sees it. `dhcp`: whether its
    VMs are told their addresses, and with them `dns`, servers' addresses in their order with spaces between, and `routes`,
    each "prefix via address". `ipv6_mode`: how they come by IPv6 addresses, and that routers are advertised
    to them (STATIC, SLAAC, STATELESS, STATEFUL; "": nobody tells them anything)."""

    id: str
    tag: int
    vni: int
    mtu: int = 1450
    subnets: tuple[str, ...] = ()
    dhcp: bool = False
    dns: str = ""
    routes: tuple[str, ...] = ()
    ipv6_mode: str = ""


class Port(msgspec.Struct, frozen=True):
    """A logical port. `id` is the interface's `external_ids:iface-id`; `mac` a 48-bit int; `lport` its tag (20 bits).

    `secured`: what it sends is checked to be its own, and nothing passes that no rule of its security `groups` lets through. `pairs`: what
    else it may send from, and is sent to, as "prefix mac". `device`, `project`: whose interface it is, an instance and its project (in
    Nova's words), for the metadata agent ("": not known).
    """

    id: str
    network: str
    mac: int
    lport: int
    addresses: tuple[str, ...] = ()
    secured: bool = False
    groups: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    device: str = ""
    project: str = ""


class SecurityGroup(msgspec.Struct, frozen=True):
    """A set of rules that ports may be in; `tag` (20 bits) names it in registers."""

    id: str
    tag: int


class SecurityRule(msgspec.Struct, frozen=True):
    """What ports of `group` may receive (`inbound`) or send: connections of that direction, with all that belongs to them.

    `family`: 4 or 6. `protocol`: IANA's number (-1: any). `first`, `last`: ports of TCP, UDP or SCTP; of ICMP type and code (-1: any).
    `prefix`: the far end ("": anybody); or `remote`: it is a port of that security group.
    """

    id: str
    group: str
    inbound: bool
    family: int
    protocol: int = -1
    first: int = -1
    last: int = -1
    prefix: str = ""
    remote: str = ""


class Binding(msgspec.Struct, frozen=True):
    """A port on a compute; `since` is the revision at which this phase began. `zone`: its conntrack zone there (0: `home_zone`)."""

    port: str
    compute: int
    phase: BindingPhase
    since: int = 0
    zone: int = 0


class Relation(msgspec.Struct, frozen=True):
    """A gateway relation: `peer` sends by `gateway`, watched by BFD."""

    gateway: int
    peer: int


class Debt(msgspec.Struct, frozen=True):
    """`compute` could not be reached when `removed` was removed, and may still hold something of it."""

    compute: int
    removed: int


class Cursor(msgspec.Struct, frozen=True):
    """The last id of a kind that was given out: the next one is looked for after it, so that ids are re-used late. Of "neutron-writer": the
    last number under which Neutron has spoken."""

    kind: str
    last: int


class Retired(msgspec.Struct, frozen=True):
    """A network was deleted at revision `since`, and its tag and VNI are nobody's until every compute has confirmed that: one that cannot
    be heard may still send the old network's frames under them."""

    tag: int
    vni: int
    network: str
    since: int = 0


class Operation(msgspec.Struct, frozen=True):
    """Long work that goes on whoever leads: `verb` is end (of a scale-in), drain, loss (a compute has fallen silent) or rebalance.

    `state` is running, aborting, done, partial, failed or aborted; `reason` says what it waits for, or what was found.
    `computes`: whom it is about; `revision`: at which it was stored. `began`, `over`: seconds since the epoch (0: not over).

    Of a drain: `vms`, who moves its VMs; `mover_options`, how they are to do it, in words of their kind; `at_once`, how many of them at the
    same time; `wave`, how many computes are emptied at the same time (0: all); `deadline`, seconds since the epoch after which nothing is
    waited for (0: none); `forced`, why it was begun though it would have been refused ("": it would not); `outages`, services that may end
    with their compute ("nat r1"); `marked`, the computes that it has tombstoned itself; `dead`, that they are taken for dead, and their VMs
    for lost. `parent`: the drain that has begun this end.
    """

    id: str
    verb: str
    computes: tuple[int, ...]
    state: str
    reason: str = ""
    revision: int = 0
    started: int = 0
    vms: str = ""
    at_once: int = 0
    wave: int = 0
    deadline: int = 0
    forced: str = ""
    outages: tuple[str, ...] = ()
    marked: tuple[int, ...] = ()
    dead: bool = False
    parent: str = ""
    began: int = 0
    over: int = 0
    mover_options: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether it goes on."""
        return self.state in ("running", "aborting")


class ItemState(StrEnum):
    """How far one item of an operation is."""

    PENDING = "pending"
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Item(msgspec.Struct, frozen=True):
    """One thing that an operation has to do. `kind` is compute, service or vm (a port); `object` its name (of a service "nat r1"),
    `compute` where it was when the operation began.

    `target` is where it goes (0: not known), `standby` who stood by for it. `reason` says what it waits for, or why it failed. `since`:
    milliseconds since the epoch at which this state began; `took`: milliseconds from its beginning to its end. `tries`: how often it has
    failed; `mover`: who has taken it on (of a compute: the end that removes it).
    """

    operation: str
    kind: str
    object: str
    compute: int
    state: ItemState = ItemState.PENDING
    target: int = 0
    standby: int = 0
    reason: str = ""
    since: int = 0
    took: int = 0
    tries: int = 0
    mover: str = ""


class Proof(msgspec.Struct, frozen=True):
    """What an audit has found of removed `computes`, signed. `body` is JSON (`decide/proofs.py`), `signature` its Ed25519 signature in
    base64 by `key`, the controller's public key. `owed`: computes that could not be looked at, and are when they return."""

    operation: str
    computes: tuple[int, ...]
    owed: tuple[int, ...]
    body: str
    signature: str
    key: str


class External(msgspec.Struct, frozen=True):
    """A network outside of the overlay: `physical` as provider mappings name it, `vlan` 1..4094 or 0 (flat), one IPv4 subnet and in it the
    address of the next hop, and the same of IPv6 ("": it has none). `prefixes`: IPv6 ones that the outside sends to routers here; from
    others nothing leaves. `tag` is of the same range as a network's."""

    id: str
    tag: int
    physical: str
    vlan: int = 0
    subnet: str = ""
    gateway: str = ""
    mtu: int = 1500
    subnet6: str = ""
    gateway6: str = ""
    prefixes: tuple[str, ...] = ()


class Router(msgspec.Struct, frozen=True):
    """A tenant's router. `tag` is its VRF; its conntrack zone and its tunnel ids follow from it (see the ledger). `mac` is the one that it
    has outside.

    `external`: the network outside that its default route leads to ("": none). `addresses`: those of its own there, into which
    connections are translated if `snat`; IPv6 ones are where the outside sends what is for its networks, and nothing is translated.
    `routes`: "prefix via address". `record`: whether a record of its connections is kept. `vpn`: the VPN that it belongs to ("": none).
    """

    id: str
    tag: int
    mac: int
    external: str = ""
    addresses: tuple[str, ...] = ()
    snat: bool = True
    routes: tuple[str, ...] = ()
    record: bool = True
    vpn: str = ""


class Vpn(msgspec.Struct, frozen=True):
    """An L3VPN instance (RFC 4364). `tag` is its VRF, of the same range as a router's; `rd` its route distinguisher.

    `imports`, `exports`: route targets. It sees what a VPN exports with a target that it imports.
    """

    id: str
    tag: int
    rd: str
    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()


class RouterPort(msgspec.Struct, frozen=True):
    """A router's place in a network: its address there (the subnet's gateway), the subnet, and the MAC that it has in it.

    A VPN has such places too: `router` is the name of either, which no two of them share.
    """

    router: str
    network: str
    address: str
    subnet: str
    mac: int


class Floating(msgspec.Struct, frozen=True):
    """A floating IP: `address` of an external network stands for `fixed`, an address of `port`, behind `router`. No port: not in use."""

    external: str
    address: str
    mac: int
    router: str = ""
    port: str = ""
    fixed: str = ""


class Neighbour(msgspec.Struct, frozen=True):
    """The MAC of a next hop outside, as it last answered. Stored, so that nothing is taken away while nobody asks."""

    external: str
    address: str
    mac: int


class Learnt(msgspec.Struct, frozen=True):
    """An address of a network's subnet that no port was given, where it answers: behind `port`, with `mac`."""

    network: str
    address: str
    mac: int
    port: str


class Designation(msgspec.Struct, frozen=True):
    """The one compute that serves something, and the one that stands by (0: none).

    `service` and `object`: "nat" and the router; "subnet" and network and subnet (`subnet_name`).
    """

    service: str
    object: str
    compute: int
    standby: int = 0
    since: int = 0


class Lease(msgspec.Struct, frozen=True):
    """Ports `first` to `last` of a router's external addresses belong to `compute`, since that revision. It opens connections from them
    while `opening`; later they stay leased until the last connection that has one of them is gone. `careful`: it opens TCP on a SYN alone,
    since the rows of connections that others have opened may not all be there yet."""

    router: str
    first: int
    last: int
    compute: int
    opening: bool = True
    careful: bool = False
    since: int = 0


class MovePhase(StrEnum):
    """How far a planned move of a router's NAT has come, in this order (docs/decisions.md, "The move of a designated compute")."""

    PREPARE = "prepare"  # the new compute holds everything, and is asked by nobody
    COUPLE_NEW = "couple-new"  # what the new one does not know, it asks of the old one
    COUPLE_OLD = "couple-old"  # and the old one answers in the same way for what comes in
    EXPORT = "export"  # what passes the old one leaves its mapping in a table
    FREEZE = "freeze"  # only the new one opens connections
    SILENCE = "silence"  # the old one still answers for the addresses, and sends with its own MAC
    ADDRESS = "address"  # the new one does
    IMPORT = "import"  # the new one has a row for each connection of the old one
    FLIP = "flip"  # computes send to the new one
    REPLY = "reply"  # the new one has rows for answers, and export is off
    UNCOUPLE_OUT = "uncouple-out"  # the new one opens what it does not know
    UNCOUPLE_IN = "uncouple-in"  # and asks nobody
    QUIET = "quiet"  # the old one is looked at until nothing reaches it


class Move(msgspec.Struct, frozen=True):
    """A planned move of a router's NAT from `old` to `new`: the journal. `phase` is asked for since revision `since`.

    `turned`: the move went the other way until it had come to that phase, and has been called back ("": it has not). `reason` says what it
    waits for, `unknown` how many connections of the old one are in no record, `deadline` (seconds since the epoch, 0: none) until when
    these are waited for. `began` is the revision at which it was decided.
    """

    router: str
    old: int
    new: int
    phase: MovePhase = MovePhase.PREPARE
    turned: str = ""
    reason: str = ""
    unknown: int = 0
    deadline: int = 0
    began: int = 0
    since: int = 0


class Document(msgspec.Struct, frozen=True):
    """What Neutron has said of one of its things, as it has said it. `kind` as in its paths ("networks"), `body` a JSON object, `revision`
    its revision_number (0: none was given).

    `refs`: what it names, as "kind/id". `unserved`: why not all of it is in our own facts, in words ("": it is).
    """

    kind: str
    id: str
    body: str
    revision: int = 0
    refs: tuple[str, ...] = ()
    unserved: str = ""


Fact = (
    Compute
    | Network
    | Port
    | Binding
    | Relation
    | Debt
    | Cursor
    | Retired
    | Operation
    | Item
    | Proof
    | External
    | Router
    | Vpn
    | SecurityGroup
    | SecurityRule
    | RouterPort
    | Floating
    | Neighbour
    | Learnt
    | Designation
    | Lease
    | Move
    | Document
)


class Edit(NamedTuple):
    """One fact appeared (old is None), changed, or vanished (new is None)."""

    old: Fact | None
    new: Fact | None


def format_mac(mac: int) -> str:
    """A 48-bit int as aa:bb:cc:dd:ee:ff."""
    raw = f"{mac:012x}"
    return ":".join(raw[i : i + 2] for i in range(0, 12, 2))


def parse_mac(text: str) -> int:
    """aa:bb:cc:dd:ee:ff (or with dashes) as a 48-bit int.

    Raises:
        ValueError: it is not a MAC address.
    """
    parts = text.replace("-", ":").split(":")
    if len(parts) != 6 or not all(1 <= len(p) <= 2 for p in parts):
        raise ValueError(f"{text!r} is not a MAC address (aa:bb:cc:dd:ee:ff)")
    value = 0
    for part in parts:
        value = value << 8 | int(part, 16)
    return value
