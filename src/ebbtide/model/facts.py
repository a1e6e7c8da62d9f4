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
    certificate: str = ""
    asked: str = ""
    applicants: tuple[str, ...] = ()
    successor: str = ""
    past: tuple[str, ...] = ()
    removed_at: int = 0

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


class Network(msgspec.Struct, frozen=True):
    """A tenant network: `tag` (16 bits) inside a switch, `vni` (24 bits) on the wire, `mtu` in bytes as a VM sees it."""

    id: str
    tag: int
    vni: int
    mtu: int = 1450
    subnets: tuple[str, ...] = ()


class Port(msgspec.Struct, frozen=True):
    """A logical port. `id` is the interface's `external_ids:iface-id`; `mac` a 48-bit int; `lport` its tag (20 bits)."""

    id: str
    network: str
    mac: int
    lport: int
    addresses: tuple[str, ...] = ()


class Binding(msgspec.Struct, frozen=True):
    """A port on a compute; `since` is the revision at which this phase began."""

    port: str
    compute: int
    phase: BindingPhase
    since: int = 0


class Relation(msgspec.Struct, frozen=True):
    """A gateway relation: `peer` sends by `gateway`, watched by BFD."""

    gateway: int
    peer: int


class Debt(msgspec.Struct, frozen=True):
    """`compute` could not be reached when `removed` was removed, and may still hold something of it."""

    compute: int
    removed: int


class Cursor(msgspec.Struct, frozen=True):
    """The last id of a kind that was given out. The next one is looked for after it, so that ids are re-used late."""

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
    """A scale-in end: who is removed, at which revision, and what its audit found.

    `state` is running, done or failed; `reason` says what it waits for, or what was found.
    """

    id: str
    verb: str
    computes: tuple[int, ...]
    state: str
    reason: str = ""
    revision: int = 0
    started: int = 0


Fact = Compute | Network | Port | Binding | Relation | Debt | Cursor | Retired | Operation


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
