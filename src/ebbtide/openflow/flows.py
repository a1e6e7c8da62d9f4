"""Flow entries as bytes: encoded once, sent to many switches, and compared with what a switch holds.

What lives here: the hot paths. A flow's body (match and instructions) is encoded apart from the message around it;
a dump is taken apart without looking into match or instructions, because `oxm` and `actions` write the bytes that a
switch gives back. (table, priority, match bytes) is therefore the identity of a flow on both sides.

The low 32 bits of a cookie are the CRC-32 of all that a flow says. A switch whose flow has our key and our cookie
holds our flow; `canonical_instructions` is for telling why when it does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

from ebbtide.compile.flow import ANY, Bucket, Flow, Group
from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow import actions, oxm
from ebbtide.openflow.framing import MAX_MESSAGE_LEN

FLOW_MOD, GROUP_MOD = 14, 15
ADD, MODIFY, MODIFY_STRICT, DELETE, DELETE_STRICT = range(5)
SEND_FLOW_REMOVED, RESET_COUNTS = 1, 4
CHECK_OVERLAP = 2
RESET_COUNTS = 4
ALL_TABLES = 0xFF
NO_BUFFER = 0xFFFFFFFF

# Header and struct ofp_flow_mod up to the match (1.3.5 section 7.3.4.1; 1.4 has importance where 1.3 has padding).
_MOD = Struct("!BBHIQQBBHHHIIIHH")
# struct ofp_flow_stats up to the match (1.3.5 section 7.3.5.2).
_STATS = Struct("!HBxIIHHHHHxxQQQHH")
_CONTENT = Struct("!BHHHH")
_BUCKET = Struct("!HHII4x")

Key = tuple[int, int, bytes]


class EncodedFlow(NamedTuple):
    """A flow ready to send. `key` is (table, priority, match bytes); `cookie` is whole, hash included."""

    key: Key
    instructions: bytes
    cookie: int
    idle_timeout: int
    hard_timeout: int
    flags: int

    @property
    def match(self) -> bytes:
        """The match as on the wire, padded."""
        return self.key[2]


class InstalledFlow(NamedTuple):
    """One entry of a flow dump. `match` and `instructions` are the switch's bytes; `duration` is in seconds."""

    table: int
    priority: int
    match: bytes
    cookie: int
    n_packets: int
    n_bytes: int
    duration: float
    idle_timeout: int
    hard_timeout: int
    flags: int
    instructions: bytes

    @property
    def key(self) -> Key:
        """What identifies the entry in its switch."""
        return self.table, self.priority, self.match


def encode_flow(flow: Flow, version: int = 5) -> EncodedFlow:
    """Encode match and instructions, and complete the cookie. The bytes are the same in 1.3 and 1.4."""
    match = oxm.encode_match(flow.match)
    instructions = actions.encode_instructions(flow.actions, flow.goto, flow.metadata, flow.meter)
    table, priority = flow.table, flow.priority
    idle, hard = flow.idle_timeout, flow.hard_timeout
    flags = (SEND_FLOW_REMOVED if flow.send_flow_removed else 0) | (RESET_COUNTS if flow.reset_counts else 0)
    try:
        content = _CONTENT.pack(table, priority, idle, hard, flags)
    except StructError as error:
        raise LocalProtocolError(f"table {table}, priority {priority}, timeouts {idle}, {hard}: {error}") from None
    cookie = flow.cookie & 0xFFFFFFFF_00000000 | crc32(instructions, crc32(match, crc32(content)))
    return EncodedFlow((table, priority, match), instructions, cookie, idle, hard, flags)


def flow_add_bytes(flow: EncodedFlow, xid: int, version: int = 5) -> bytes:
    """A whole flow-mod that adds the flow; an entry with the same key is replaced, its age starts anew (its counters with RESET_COUNTS)."""
    (table, priority, match), instructions, cookie, idle, hard, flags = flow
    length = 48 + len(match) + len(instructions)
    if length > MAX_MESSAGE_LEN:
        raise LocalProtocolError(f"a flow of table {table} takes {length} bytes; a message holds {MAX_MESSAGE_LEN}")
    return (
        _MOD.pack(version, 14, length, xid, cookie, 0, table, 0, idle, hard, priority, NO_BUFFER, ANY, ANY, flags, 0)
        + match
        + instructions
    )


def flow_delete_strict_bytes(key: Key, xid: int, version: int = 5, cookie: int = 0, cookie_mask: int = 0) -> bytes:
    """A whole flow-mod that deletes the one entry with this key (`EncodedFlow.key` or `InstalledFlow.key`), if its
    cookie agrees under `cookie_mask`."""
    table, priority, match = key
    length = 48 + len(match)
    return (
        _MOD.pack(
            *(version, FLOW_MOD, length, xid, cookie, cookie_mask, table, DELETE_STRICT, 0, 0, priority),
            *(NO_BUFFER, ANY, ANY, 0, 0),
        )
        + match
    )


def flow_delete_bytes(
    xid: int, version: int = 5, table: int = ALL_TABLES, cookie: int = 0, cookie_mask: int = 0, match: bytes = b""
) -> bytes:
    """A whole flow-mod that deletes every entry of the table (or of all) that the match and the masked cookie cover."""
    match = match or oxm.encode_match(())
    length = 48 + len(match)
    return (
        _MOD.pack(
            *(version, FLOW_MOD, length, xid, cookie, cookie_mask, table, DELETE, 0, 0, 0),
            *(NO_BUFFER, ANY, ANY, 0, 0),
        )
        + match
    )


def iter_flow_stats(body: bytes) -> list[InstalledFlow]:
    """The entries of a flow-stats reply body (multipart header removed). Neither match nor instructions are read."""
    out: list[InstalledFlow] = []
    append, unpack, make = out.append, _STATS.unpack_from, InstalledFlow._make
    pos, end = 0, len(body)
    try:
        while pos < end:
            (length, table, sec, nsec, priority, idle, hard, flags, _, cookie, packets, size, kind, match_len) = unpack(
                body, pos
            )
            split = pos + 48 + (match_len + 7 & ~7)
            stop = pos + length
            if kind != 1 or match_len < 4 or split > stop or stop > end:
                raise RemoteProtocolError(
                    f"bad flow entry at byte {pos}: length {length}, match of type {kind} and length {match_len}"
                )
            append(
                make(
                    (
                        *(table, priority, body[pos + 48 : split], cookie, packets, size, sec + nsec / 1e9),
                        *(idle, hard, flags, body[split:stop]),
                    )
                )
            )
            pos = stop
    except StructError:
        raise RemoteProtocolError(f"a flow dump ends in the middle of an entry ({end - pos} bytes left)") from None
    return out


def decode_flow(installed: InstalledFlow | EncodedFlow) -> Flow:
    """The flow as a value: slow, for people. Instructions and actions that no Flow can hold raise RemoteProtocolError."""
    table, priority, match = installed.key
    found = actions.decode_instructions(installed.instructions)
    known = tuple(a for a in found.actions if not isinstance(a, actions.Unknown))
    if found.other or len(known) != len(found.actions):
        raise RemoteProtocolError(f"an entry of table {table} has instructions or actions that are not ours")
    return Flow(
        table=table,
        priority=priority,
        match=oxm.decode_match(match),
        actions=known,
        goto=found.goto,
        metadata=found.metadata,
        meter=found.meter,
        cookie=installed.cookie,
        idle_timeout=installed.idle_timeout,
        hard_timeout=installed.hard_timeout,
        send_flow_removed=bool(installed.flags & SEND_FLOW_REMOVED),
        reset_counts=bool(installed.flags & RESET_COUNTS),
    )


def canonical_instructions(data: bytes) -> bytes:
    """Instruction bytes in the one form that `encode_flow` writes, for comparing entries that another program made.

    Open vSwitch gives back the bytes of `encode_flow` unchanged. Bytes of others may say the same in other ways:
    instructions in another order, a max_len on an output that is not to the controller, output_reg2 for output_reg,
    reg_load2 with a full mask for set_field, bits set outside a mask, empty apply-actions. Instructions that we would
    not write at all (a subfield outside its field) come back as they are.
    """
    found = actions.decode_instructions(data)
    try:
        return actions.encode_instructions(*found[:4]) + b"".join(found.other)
    except LocalProtocolError:
        return data


# ---- groups --------------------------------------------------------------------------------------------------------


class EncodedGroup(NamedTuple):
    """A group ready to send; `buckets` compares with `InstalledGroup.buckets`."""

    group_id: int
    type: int
    buckets: bytes


GROUP_ADD, GROUP_MODIFY, GROUP_DELETE = 0, 1, 2
# Open vSwitch's own: add the group or replace it (OFPGC11_ADD_OR_MOD in OVS include/openflow/openflow-1.1.h).
GROUP_ADD_OR_MODIFY = 0x8000
ALL_GROUPS = 0xFFFFFFFC

_GROUP_MOD = Struct("!BBHIHBxI")


def encode_buckets(buckets: Iterable[Bucket]) -> bytes:
    """A bucket list (1.3.5 section 7.3.4.2, struct ofp_bucket)."""
    out = []
    for bucket in buckets:
        body = actions.encode_actions(bucket.actions)
        out.append(_BUCKET.pack(16 + len(body), bucket.weight, bucket.watch_port, bucket.watch_group))
        out.append(body)
    return b"".join(out)


def decode_buckets(data: bytes) -> tuple[Bucket, ...]:
    """Bucket bytes back into values; an action of ours or RemoteProtocolError."""
    out, pos = [], 0
    try:
        while pos < len(data):
            length, weight, port, group = _BUCKET.unpack_from(data, pos)
            if length < 16 or pos + length > len(data):
                raise RemoteProtocolError(f"a bucket says it is {length} bytes long; {len(data) - pos} are left")
            found = actions.decode_actions(data[pos + 16 : pos + length])
            known = tuple(a for a in found if not isinstance(a, actions.Unknown))
            if len(known) != len(found):
                raise RemoteProtocolError("a bucket has actions that are not ours")
            out.append(Bucket(known, weight, port, group))
            pos += length
    except StructError:
        raise RemoteProtocolError("a bucket list ends in the middle of a bucket") from None
    return tuple(out)


def encode_group(group: Group, version: int = 5) -> EncodedGroup:
    """Encode the buckets. The bytes are the same in 1.3 and 1.4."""
    return EncodedGroup(group.group_id, group.type, encode_buckets(group.buckets))


def group_mod_bytes(group: EncodedGroup, xid: int, version: int = 5, command: int = GROUP_ADD_OR_MODIFY) -> bytes:
    """A whole group-mod. By default the group is added or replaced."""
    length = 16 + len(group.buckets)
    if length > MAX_MESSAGE_LEN:
        raise LocalProtocolError(f"group {group.group_id} takes {length} bytes; a message holds {MAX_MESSAGE_LEN}")
    return _GROUP_MOD.pack(version, GROUP_MOD, length, xid, command, group.type, group.group_id) + group.buckets


def group_delete_bytes(group_id: int, xid: int, version: int = 5) -> bytes:
    """A whole group-mod that deletes the group (ALL_GROUPS: all), and with it every flow that points to it."""
    return _GROUP_MOD.pack(version, GROUP_MOD, 16, xid, GROUP_DELETE, 0, group_id)
