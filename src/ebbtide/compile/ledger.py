"""The ledger: every table, priority, register bit, metadata field, cookie, group id, meter and reserved VNI is born here.

docs/pipeline.md is checked against this file by a test. Tables keep NetVirt's numbers and names where the job is the same.
No other file may write such a number.
"""

from __future__ import annotations

from enum import IntEnum
from zlib import crc32

# --- tables ---


class T(IntEnum):
    """Tables. Those without a job hold no flow yet; their numbers and jobs are NetVirt's."""

    CLASSIFIER = 0
    DISPATCHER = 17
    GATEWAY_MAC = 19
    FIB = 21
    SUBNET_ROUTE = 22
    PATH_MTU = 23
    PRE_DNAT = 25
    PRE_SNAT = 26
    DNAT = 27  # reserved
    SNAT = 28
    PROVIDER = 29
    TUNNEL_TERMINATION = 36
    ARP_CHECK = 43
    NAPT_IN = 44
    IPV6_ND = 45
    NAPT_OUT = 46
    NAPT_FIB = 47
    L2_BASE = 48
    L2_SMAC_LEARNED = 49  # reserved
    L2_SMAC = 50  # reserved
    L2_DMAC = 51
    L2_UNKNOWN = 52
    L2_FLOOD_PART = 53
    L2_FILTER = 55
    DHCP = 60
    METADATA = 61
    ARP_RESPONDER = 81
    ARP_STANDBY = 82
    ND_ANSWER = 83
    NAT_EXPORT = 90
    NAT_NEW = 92
    NAT_REPLY = 93
    NAT_OPEN = 94
    NAT_OPENED = 95
    SECURITY_OUT = 210  # 210 to 217: what a VM sends
    OUT_KIND = 211
    OUT_TRACKED = 213
    OUT_GROUPS = 214
    OUT_RULES = 215
    OUT_MEMBERS = 216
    OUT_VERDICT = 217
    EGRESS = 220
    SECURITY_IN = 240  # 240 to 248: what a VM receives
    IN_KIND = 241
    IN_TRACKED = 243
    IN_GROUPS = 244
    IN_RULES = 245
    IN_MEMBERS = 246
    IN_VERDICT = 247
    IN_DELIVER = 248


TABLE_JOBS: dict[T, str] = {
    T.CLASSIFIER: "input port to logical port, tunnel or network outside; records the port, frees IN_PORT",
    T.DISPATCHER: "logical port to the services bound to its network",
    T.GATEWAY_MAC: "what is for a router, by destination MAC; what else comes from outside",
    T.FIB: "a router's routes, its own addresses, TTL",
    T.SUBNET_ROUTE: "addresses of a subnet that nobody is known to have: to the subnet's designated compute, which asks for them",
    T.PATH_MTU: "of what is larger than one of a router's networks: too big for the one that it goes to, or back to its routes",
    T.PRE_DNAT: "from outside: external address to router, floating IP to the address that it stands for",
    T.PRE_SNAT: "to the outside: floating IPs, else to the designated compute or into its NAT",
    T.SNAT: "to the outside: next hop's MAC",
    T.PROVIDER: "to the outside: VLAN tag, provider port",
    T.TUNNEL_TERMINATION: "VNI to network, for what comes out of a tunnel",
    T.ARP_CHECK: "ARP requests and neighbour discovery to what answers them, all else to L2",
    T.NAPT_IN: "NAT, inbound, after conntrack",
    T.IPV6_ND: "neighbour discovery: answers for known addresses, and what only a router may answer",
    T.NAPT_OUT: "NAT, outbound, after conntrack",
    T.NAPT_FIB: "NAT, outbound, translated",
    T.L2_BASE: "start of L2 forwarding",
    T.L2_DMAC: "network and destination MAC to logical port and compute",
    T.L2_UNKNOWN: "flood: broadcast, multicast, unknown unicast",
    T.L2_FLOOD_PART: "one part of a flood to more computes than one translation reaches",
    T.L2_FILTER: "never back to the sender's own port",
    T.DHCP: "what VMs here ask of a DHCP server: to the controller",
    T.METADATA: "between VMs here and the metadata agent, after conntrack: to the other end",
    T.ARP_RESPONDER: "answers for known addresses",
    T.ARP_STANDBY: "answers of a compute that stands by, for when the one it stands by for is dead",
    T.ND_ANSWER: "an advertisement that was a solicitation: its option, and out",
    T.NAT_EXPORT: "learnt: mappings of the old side of a move; nothing is ever looked up here",
    T.NAT_NEW: "outbound and unknown to conntrack: imported connections, then whom to ask",
    T.NAT_REPLY: "inbound and unknown to conntrack: imported connections, then whom to ask",
    T.NAT_OPEN: "opens a connection from the compute's own range of ports",
    T.NAT_OPENED: "just opened: recorded, or refused where the range is full",
    T.SECURITY_OUT: "from a secured port: what it sends is its own, by MAC and address",
    T.OUT_KIND: "from a secured port: what only servers and routers may say is dropped, IP goes through conntrack",
    T.OUT_TRACKED: "from a secured port, after conntrack: by the connection's first direction to the rules",
    T.OUT_GROUPS: "connections that a port has opened: its security groups, one after the other",
    T.OUT_RULES: "connections that a port has opened: a group's rules",
    T.OUT_MEMBERS: "connections that a port has opened: members of the group at the far end",
    T.OUT_VERDICT: "from a secured port: on, or dropped",
    T.EGRESS: "logical port or compute to an output",
    T.SECURITY_IN: "to a secured port: what is for its MAC, or for many",
    T.IN_KIND: "to a secured port: ARP and neighbour discovery, IP through conntrack",
    T.IN_TRACKED: "to a secured port, after conntrack: by the connection's first direction to the rules",
    T.IN_GROUPS: "connections that somebody has opened to a port: its security groups, one after the other",
    T.IN_RULES: "connections that somebody has opened to a port: a group's rules",
    T.IN_MEMBERS: "connections that somebody has opened to a port: members of the group at the far end",
    T.IN_VERDICT: "to a secured port: on, or dropped",
    T.IN_DELIVER: "to a secured port: out",
}

# --- priorities ---


class Priority:
    """Priority bands, by table. The same number may serve in two tables."""

    MISS = 0
    # table 0
    VM_UNTAGGED = 4
    TUNNEL = 5
    PROBE = 100
    QUARANTINE = 65535
    FROM_AGENT = 4
    # table 17
    SERVICE = 10
    METADATA_ELSE = 15
    METADATA = 20
    # table 36
    VNI = 5
    # table 22
    HIDDEN = 10
    HIDDEN_HERE = 20
    HELD_OFF = 30
    FROM_OUTSIDE = 40
    NO_HOST = 42
    # table 43
    ARP_REQUEST = 100
    CLAIM = 110
    OWN_CLAIM = 111
    ND_NEXT_HOP = 115
    ND_IMPOSTOR = 117
    ANSWER_TO_US = 120
    # table 45; ANNOUNCED as in 81
    ND_STRANGER = 1
    ND_KNOWN = 10
    ND_BARE = 15
    ND_BARE_ROUTER = 16
    ND_DEFENDED = 17
    # table 83
    ND_ANSWER = 10
    ND_ANSWER_OUTSIDE = 20
    # table 81
    ARP_ANSWER = 100
    ARP_OWN = 101
    ANNOUNCED = 1
    # table 51
    KNOWN_MAC = 20
    LEARNT_MAC = 10
    # tables 52 and 53
    FLOOD = 5
    FLOOD_IP = 6
    # table 55
    REFLECTION = 12
    # table 220
    TO_COMPUTE = 10
    FORWARD = 15
    TO_LOCAL = 20
    # table 0
    PROVIDER = 4
    # table 19
    OUTSIDE_ARP_REQUEST = 30
    OUTSIDE_NEXT_HOP = 31
    OUTSIDE_STRANGER = 1
    GATEWAY = 20
    DHCP_REQUEST = 40
    ND = 50
    # table 21: a route has ROUTE and the length of its prefix, up to 128; so have the rows of LARGE
    ROUTE = 10
    NO_WAY = 9
    LARGE = 150
    EXPIRED = 300
    NOT_ROUTED = 305
    OWN_ADDRESS = 310
    OWN_PING = 311
    # tables 23 and 25
    FITS = 10
    TOO_BIG = 20
    # table 25
    INBOUND = 10
    INBOUND_EXPORTED = 12
    NOT_FROM_OUTSIDE = 11
    MEASURE = 15
    # table 26
    TO_GATEWAY = 5
    NOT_OURS = 6
    BACK_IN = 9
    AT_GATEWAY = 7
    FLOATING = 10
    # table 28
    NEXT_HOP = 10
    OUR_ADDRESS = 20
    ADDRESS_HERE = 25
    # table 29
    WIRE = 10
    # table 36
    RELATION = 10
    RELATION_IN = 11
    RELATION_EXPORTED = 12
    # table 60
    DHCP = 10
    # table 61
    METADATA_NEW = 10
    METADATA_ASKED = 20
    METADATA_ANSWERED = 20
    # tables 44, 46
    REFUSED = 3
    REFUSED_SCTP = 4
    UNKNOWN = 5
    ANSWERED = 6
    KNOWN = 30
    KNOWN_INVALID = 31
    CLOSING = 32
    SEEN = 33
    EXPORT = 34
    # table 47
    TRANSLATED = 10
    # tables 92 and 93
    COUPLING = 10
    IMPORTED = 20
    NOT_IMPORTED = 1
    # tables 94 and 95
    OPEN = 10
    OPEN_CAREFULLY = 11
    EXHAUSTED = 4
    OPENED = 5
    NOT_BY_ROW = 6
    RECORD = 10
    # tables 210 and 240
    REFUSED_HERE = 1
    OWN_IP = 9
    OWN = 10
    OWN_ND = 20
    NOT_OWN_ND = 15
    # tables 211 and 241
    TRACK = 5
    WITHOUT_CONNTRACK = 10
    SERVERS_ONLY = 20
    # tables 213 and 243
    FROM_OPENER = 5
    FROM_OTHER = 10
    TURNED = 20
    ABOUT_CONNECTION = 25
    INVALID = 30
    INVALID_PASSED_ON = 35
    ADMITTED = 40
    ADMITTED_OTHER = 41
    ADMITTED_TCP = 42
    ADMITTED_MIDDLE = 43
    ADMITTED_INVALID = 44
    # tables 214 to 216, 244 to 246
    PORTS_GROUPS = 5
    GROUP_SETS = 10
    RULE = 10
    MEMBER = 10
    # tables 217 and 247
    NOT_ALLOWED = 1
    NOT_ALLOWED_PASSED_ON = 2
    OPENED_AFRESH = 5
    ALLOWED = 10
    ALLOWED_NEW = 15
    ALLOWED_COUNTED = 17
    ALLOWED_TO_MANY = 20
    # table 248: as 220, and for what is an answer
    FORWARD_ANSWER = 16
    TO_LOCAL_ANSWER = 21


# --- metadata (NetVirt's layout) ---

LPORT_SHIFT, LPORT_BITS = 40, 20
NETWORK_SHIFT, NETWORK_BITS = 24, 16
VRF_SHIFT, VRF_BITS = 1, 23
LPORT_MASK = (1 << LPORT_BITS) - 1 << LPORT_SHIFT
NETWORK_MASK = (1 << NETWORK_BITS) - 1 << NETWORK_SHIFT
VRF_MASK = (1 << VRF_BITS) - 1 << VRF_SHIFT
SPLIT_HORIZON = 1


def metadata_lport(lport: int) -> tuple[int, int]:
    """Match on the sender's logical port."""
    return lport << LPORT_SHIFT, LPORT_MASK


def lport_of(metadata: int) -> int:
    """The sender's logical port, of a packet's metadata."""
    return metadata >> LPORT_SHIFT & (1 << LPORT_BITS) - 1


def metadata_network(tag: int) -> tuple[int, int]:
    """Match on the network."""
    return tag << NETWORK_SHIFT, NETWORK_MASK


def metadata_vrf(tag: int) -> tuple[int, int]:
    """Match on the router."""
    return tag << VRF_SHIFT, VRF_MASK


def metadata_flood(tag: int, from_tunnel: bool) -> tuple[int, int]:
    """Match on the network and on whether the packet came out of a tunnel."""
    return tag << NETWORK_SHIFT | int(from_tunnel), NETWORK_MASK | SPLIT_HORIZON


# --- registers ---

REGISTERS: dict[str, str] = {
    "reg0": "scratch; part of a large flood; NAT export: address; metadata: the VM's address",
    "reg1": "scratch; NAT export: port",
    "reg2": "security: 1, allowed",
    "reg3": "VRF (router, VPN) id",
    "reg4": "security: bit 0, let through by the port's other place; bit 1, as an answer",
    "reg5": "destination compute number; 0: this one",
    "reg6": "destination logical port tag",
    "reg7": "network tag",
    "reg8": "NAT: bit 0, entered while export was on; path MTU: bit 1, large, bit 2, too big, bit 3, measured",
    "reg9": "NAT: 0 from compute or wire, 1 asked, 2 answered, 3 opened by a row",
    "reg10": "input port, low 16 bits",
    "reg11": "conntrack zone of the source port",
    "reg12": "conntrack zone of the destination port",
    "reg13": "security: group at the far end, 0: any",
    "reg14": "security: group whose rules are asked",
    "reg15": "security: logical port whose groups are asked",
}

TO_COMPUTE_REG = "reg5"
TO_LPORT_REG = "reg6"
NETWORK_REG = "reg7"
INPUT_REG = "reg10"
VRF_REG = "reg3"
ALLOWED_REG, ADMITTED_REG = "reg2", "reg4"
OUT_ZONE_REG, IN_ZONE_REG = "reg11", "reg12"
FAR_GROUP_REG, GROUP_REG, JUDGED_REG = "reg13", "reg14", "reg15"
ADMITTED, ADMITTED_ANSWER = 1, 3  # in ADMITTED_REG
#: In the mark of a connection: it was the other end that opened it, in another conntrack than this one.
TURNED_MARK = 1
#: The next bit: it has passed the port's meter. What nobody answers stays new to conntrack, each packet of it.
COUNTED_BIT, COUNTED_MARK = 1, 2
SCRATCH_MAC = "xreg0"  # 48 bits of it
ASKED_REG = "reg9"
EXPORTED_REG, EXPORT_ADDRESS_REG, EXPORT_PORT_REG = "reg8", "reg0", "reg1"
SIZE_REG = "reg8"
LARGE_BIT, TOO_BIG_BIT, MEASURED_BIT = 1, 2, 3  # in SIZE_REG
FROM_HERE, ASKED, ANSWERED, BY_ROW = 0, 1, 2, 3  # in ASKED_REG
PART_REG = "reg0"  # which part of a large flood, across the cut

# --- cookies ---


class Kind(IntEnum):
    """Upper 4 bits of a cookie: what its owner field names."""

    BASE = 1
    COMPUTE = 2
    NETWORK = 3
    PORT = 4
    ROUTER = 5
    RELATION = 6
    GROUP = 7
    QUARANTINE = 14
    VOLATILE = 15


class Feature(IntEnum):
    """Next 8 bits: which room wrote the flow."""

    PIPELINE = 1
    L2 = 2
    ARP = 3
    TUNNEL = 4
    RELATION = 5
    QUARANTINE = 6
    ROUTER = 7
    NAT = 8
    FLOATING = 9
    EXTERNAL = 10
    SUBNET_ROUTE = 11
    DHCP = 12
    SECURITY = 13
    ND = 14
    METADATA = 15


OWNER_BITS = 20
HASH_BITS = 32
KIND_SHIFT, FEATURE_SHIFT, OWNER_SHIFT = 60, 52, 32
#: Matches all cookies with the same upper half, whatever the content.
UPPER_COOKIE_MASK = 0xFFFF_FFFF << HASH_BITS
#: Matches all cookies with the same kind and owner, whatever the feature and the content.
OWNER_COOKIE_MASK = (0xF << KIND_SHIFT) | ((1 << OWNER_BITS) - 1 << OWNER_SHIFT)


def cookie(kind: Kind, feature: Feature, owner: int = 0) -> int:
    """The upper half of a cookie; the lower is the hash of the encoded flow."""
    assert 0 <= owner < 1 << OWNER_BITS, owner
    return kind << KIND_SHIFT | feature << FEATURE_SHIFT | owner << OWNER_SHIFT


def connections_cookie(tag: int) -> int:
    """The upper half of the cookies of a router's connections: learnt and imported rows."""
    return cookie(Kind.VOLATILE, Feature.NAT, tag)


def held_off_cookie(tag: int) -> int:
    """The upper half of the cookies of what holds off repeats of questions for a network's addresses."""
    return cookie(Kind.VOLATILE, Feature.SUBNET_ROUTE, tag)


def read_cookie(value: int) -> tuple[int, int, int]:
    """(kind, feature, owner) of a 64-bit cookie; the first two as plain numbers, since a switch may hold anything."""
    return value >> KIND_SHIFT, value >> FEATURE_SHIFT & 0xFF, value >> OWNER_SHIFT & (1 << OWNER_BITS) - 1


def is_ours(value: int) -> bool:
    """Whether a cookie can have been written by this ledger."""
    return value >> FEATURE_SHIFT in _OURS


#: Kind and feature of every cookie that this ledger can have written.
_OURS = frozenset(kind << KIND_SHIFT - FEATURE_SHIFT | feature for kind in Kind for feature in Feature)


# --- groups, meters, VNIs ---

MAX_BUCKETS = 500
_LOCAL_GROUPS, _FLOOD_GROUPS, _WHOLE_GROUPS = 0x0010_0000, 0x0020_0000, 0x0030_0000
_FLOOD_PARTS, _LOCAL_PARTS = 0x1000_0000, 0x3000_0000
_GATEWAY_GROUPS, _VOICE_GROUPS, _ANSWER_GROUPS = 0x0040_0000, 0x0048_0000, 0x004C_0000


def local_group(tag: int) -> int:
    """Group that delivers to a network's ports on this compute."""
    return _LOCAL_GROUPS + tag


def flood_group(tag: int) -> int:
    """Group that sends to every compute of a network's footprint."""
    return _FLOOD_GROUPS + tag


def whole_group(tag: int) -> int:
    """Group that sends to every compute of a network with more than MAX_BUCKETS of them, in one translation."""
    return _WHOLE_GROUPS + tag


def flood_part(tag: int, part: int) -> int:
    """Sub-group `part` (0..4095) of a flood group with more than MAX_BUCKETS computes."""
    assert 0 <= part < 4096
    return _FLOOD_PARTS + (tag << 12) + part


def local_part(tag: int, part: int) -> int:
    """Sub-group `part` (0..4095) of a local group with more than MAX_BUCKETS ports."""
    assert 0 <= part < 4096
    return _LOCAL_PARTS + (tag << 12) + part


#: Group that is always alive, for buckets that nobody watches: one without a watch is refused in a fast-failover group.
ALIVE_GROUP = 0x0050_0000


def gateway_group(tag: int) -> int:
    """Group that sends to the compute that serves a router's NAT, or to the one that stands by."""
    return _GATEWAY_GROUPS + tag


def voice_group(tag: int) -> int:
    """Group by which a compute that stands by sends: as the owner once the owner's tunnel is dead."""
    return _VOICE_GROUPS + tag


def answer_group(tag: int) -> int:
    """Group by which a compute that stands by answers ARP once the owner's tunnel is dead."""
    return _ANSWER_GROUPS + tag


PROBE_METER = 1
EVIDENCE_METER = 2
NEXT_HOP_METER = 3
EXPIRED_METER = 4
RECORD_METER = 5
EXHAUSTED_METER = 6
HIDDEN_METER = 7
ANSWER_METER = 8
CLAIM_METER = 9
DHCP_METER = 10
ANNOUNCED_METER = 11
ROUTER_ASKED_METER = 12
OUTSIDE_HIDDEN_METER = 13
TOO_BIG_METER = 14
TOO_BIG_OUTSIDE_METER = 15
NEXT_HOPS_PER_SECOND = 100
EXPIRED_PER_SECOND = 100
RECORDS_PER_SECOND = 20_000
EXHAUSTED_PER_SECOND = 10
HIDDEN_PER_SECOND = 200
ANSWERS_PER_SECOND = 1000
CLAIMS_PER_SECOND = 100
DHCP_PER_SECOND = 200
ANNOUNCED_PER_SECOND = 50
ROUTER_ASKED_PER_SECOND = 50
#: Packets from outside to unknown IPv6 addresses: a /64 is never scanned to its end, and is always being scanned (RFC 6583).
OUTSIDE_HIDDEN_PER_SECOND = 10
TOO_BIG_PER_SECOND = 100
PUNTS_PER_SECOND = 200
#: A compute that joins a thousand others hears two probes of each, at once.
PROBES_PER_SECOND = 2000

MAX_COMPUTE = 65279
MAX_LPORT = (1 << LPORT_BITS) - 2
#: In the metadata: nobody's port. What has come from outside, and has passed the meter of that.
NO_LPORT = (1 << LPORT_BITS) - 1
MAX_TAG = (1 << NETWORK_BITS) - 1
FIRST_VNI, LAST_VNI = 10_000, 14_999_999
RELATION_VNI = 15_000_000  # up to _SUBNET_VNI - 1
DELIVER_VNI = 0xF0_0000  # | lport: "for this port here, and nowhere else"
PROBE_VNI = 0xFF_FFFF

#: The conntrack zone through which large floods are cut; no port and no router has it.
FLOOD_ZONE = 65535

# --- routers ---

MAX_ROUTER = 32_766
#: Routers' tags stand in the list of retired ids with this bit, networks' without.
ROUTER_TAGS = 1 << OWNER_BITS
_ROUTER_ZONES = 32_768


def router_zone(tag: int) -> int:
    """Conntrack zone of a router's NAT, the same number on every compute; those below are for ports."""
    return _ROUTER_ZONES + tag


def gateway_vni(tag: int) -> int:
    """VNI of what goes to the compute that serves a router's NAT."""
    return RELATION_VNI + 4 * tag


def ask_vni(tag: int) -> int:
    """VNI of what one end of a move does not know and asks of the other."""
    return RELATION_VNI + 4 * tag + 1


def answer_vni(tag: int) -> int:
    """VNI of what the old end of a move gives (back) to the new one."""
    return RELATION_VNI + 4 * tag + 2


class MacOf(IntEnum):
    """Whose MAC it is that we make up."""

    ROUTER = 0
    COMPUTE = 1  # outside, while it does not own the address that it sends from
    FLOATING = 2
    LEG = 3


def mac(store_id: str, whose: MacOf, number: int) -> int:
    """A MAC that is ours to give, locally administered. It carries 16 bits of the store's id: two installations may meet on one wire."""
    site = crc32(store_id.encode()) & 0xFFFF
    return 0x02 << 40 | site << 24 | whose << 22 | number & 0x3F_FFFF


#: Ports of an external address that connections may be given.
FIRST_NAT_PORT, LAST_NAT_PORT = 1024, 65535

# --- subnet routes ---

_SUBNET_VNI, _ANSWER_VNI, _UNJUDGED_VNI = 0xE8_0000, 0xEA_0000, 0xEB_0000


def subnet_vni(tag: int) -> int:
    """VNI of what goes to the designated compute of a network's subnet, since nobody is known to have its address."""
    return _SUBNET_VNI + tag


# --- security groups ---

MAX_GROUP = (1 << OWNER_BITS) - 1
_PORT_METERS = 1000
#: New connections a second of one port, and at once: what one VM can put into a compute's conntrack, and what others can by way of it.
CONNECTIONS_PER_SECOND, CONNECTIONS_AT_ONCE = 2000, 4000
CALLS_PER_SECOND, CALLS_AT_ONCE = 10_000, 20_000


def port_meter(zone: int, inbound: bool) -> int:
    """Meter of the new connections that the port with this conntrack zone opens, or that are opened to it."""
    return _PORT_METERS + 2 * zone + inbound


def answered_vni(tag: int) -> int:
    """VNI of what a port's other place has let through as an answer, for the port with that MAC in the network."""
    return _ANSWER_VNI + tag


def unjudged_vni(tag: int) -> int:
    """VNI of what a place that a port has left does not know, for the port with that MAC in the network: to be judged there."""
    return _UNJUDGED_VNI + tag


# --- metadata ---

#: The iface-id of a metadata agent's port. No logical port has it: names that begin so are ours.
OWN_IFACE_ID = "ebbtide:"
AGENT_IFACE_ID = OWN_IFACE_ID + "metadata"
#: 169.254.169.254, TCP; its MAC, for guests that ask for it and at the agent's port, which never meet.
METADATA_ADDRESS, METADATA_PORT, METADATA_MAC = 0xA9FE_A9FE, 80, 0x02_00A9_FEA9FE
#: 100.64.0.0/12, of the addresses that are for what is between networks (RFC 6598): with the lport, as whom the agent sees a port.
AGENT_PREFIX, AGENT_MASK = 0x6440_0000, 0xFFF0_0000
#: No router has the tag 0.
METADATA_ZONE = _ROUTER_ZONES
_METADATA_METERS = 70_000
#: New connections of one port to the agent, a second and at once. A guest that boots asks some dozens of times.
ASKED_PER_SECOND, ASKED_AT_ONCE = 50, 200


def metadata_meter(zone: int) -> int:
    """Meter of what the port with this conntrack zone opens to the metadata agent."""
    return _METADATA_METERS + zone


# --- advertised routers ---

_SOLICIT_METERS = 110_000
#: Solicitations of one port for routers, a second and at once: a guest that comes up asks three times in eight seconds (RFC 4861, 10).
SOLICITS_PER_SECOND, SOLICITS_AT_ONCE = 1, 5


def solicit_meter(zone: int) -> int:
    """Meter of what the port with this conntrack zone asks of routers."""
    return _SOLICIT_METERS + zone


# --- punts ---

PROBE_ETHERTYPE = 0x88B5


class Punt(IntEnum):
    """First byte of a punt's userdata: why the packet was sent up. The rest is an owner id, 4 bytes, big-endian."""

    PROBE = 1
    EVIDENCE = 2
    NEXT_HOP = 3
    EXPIRED = 4
    OPENED = 5
    CLOSED = 6
    SEEN = 7
    EXHAUSTED = 8
    HIDDEN = 9
    ANSWER = 10
    CLAIM = 11
    DHCP = 12
    ANNOUNCED = 13
    ROUTER_ASKED = 14
    TOO_BIG = 15
    TOO_BIG_OUTSIDE = 16


_PUNTS = {int(punt): punt for punt in Punt}


def userdata(punt: Punt, owner: int) -> bytes:
    """Userdata of a controller action."""
    return bytes([punt]) + owner.to_bytes(4, "big")


def read_userdata(data: bytes) -> tuple[Punt, int] | None:
    """Punt and owner, or None if it is not ours."""
    punt = _PUNTS.get(data[0]) if len(data) == 5 else None
    return (punt, int.from_bytes(data[1:], "big")) if punt is not None else None
