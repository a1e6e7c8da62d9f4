"""What the two ends of traffic agree on: ports, the one message, and the orders that start them.

A message is as long as every other, so a stream of them needs no framing. It says of which run, kind, VM and flow it is;
so the host outside knows flows by what they say, not by the address that a gateway gave them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec

# The host's, and for what comes in also a VM's.
ECHO_PORT = 7000
BULK_PORT = 7001
# Ports that answer a SYN late -> after how many seconds.
LATE_PORTS = {7006: 0.6, 7015: 1.5}

# The VMs' own, the same in each VM: that they collide behind one address is the point. Below the ephemeral ones.
ACTIVE_PORTS = 20_000
SILENT_PORTS = 22_000
UDP_PORT = 24_000
UDP_SLOW_PORTS = 24_001
MOST_FLOWS = 2_000

# Longer without an answer, and a connection is broken, or was never made.
ANSWER_LIMIT = 5.0
# A half-open connection repeats its SYN after 1, 3 and 7 s.
HALF_OPEN_LIMIT = 10.0

_MESSAGE = struct.Struct("!4sIBBIQ")
_MARK = b"ebf!"
SIZE = _MESSAGE.size


class Kind(IntEnum):
    ACTIVE = 1
    SILENT = 2
    UDP = 3
    UDP_SLOW = 4
    NEW = 5
    HALF_OPEN = 6
    BULK = 7
    PING = 8
    INBOUND = 9

    @property
    def text(self) -> str:
        return self.name.lower()


class Message(NamedTuple):
    """`vm` is its number among those of the run; `flow` is one of its kind in that VM."""

    run: int
    kind: Kind
    vm: int
    flow: int
    sequence: int = 0

    def pack(self) -> bytes:
        return _MESSAGE.pack(_MARK, self.run, self.kind, self.vm, self.flow, self.sequence)


def parse(data: bytes) -> Message | None:
    """None: this is none of ours."""
    if len(data) < SIZE:
        return None
    mark, run, kind, vm, flow, sequence = _MESSAGE.unpack_from(data)
    if mark != _MARK or kind not in _KINDS:
        return None
    return Message(run, Kind(kind), vm, flow, sequence)


_KINDS = frozenset(Kind)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What each VM does; 0 of a kind is none of it."""

    active: int = 20  # connections
    active_period: float = 0.1  # seconds between two exchanges of one
    silent: int = 20  # connections
    udp: float = 500.0  # datagrams a second
    udp_slow: int = 5  # flows
    udp_slow_period: float = 20.0  # seconds between two exchanges of one
    new: float = 20.0  # connections a second
    half_open: float = 4.0  # connections a second, by turns to each of the late ports
    bulk: float = 20.0  # Mbit/s
    ping: float = 50.0  # a second

    @classmethod
    def only(cls, **kinds: float) -> Load:
        """Nothing but these."""
        nothing = dict.fromkeys(("active", "silent", "udp", "udp_slow", "new", "half_open", "bulk", "ping"), 0)
        return msgspec.convert({**nothing, **kinds}, cls)


class Inbound(msgspec.Struct, frozen=True):
    """What the host outside sends to one address, a second."""

    address: str
    ping: float = 20.0
    tcp: float = 5.0  # connections of one exchange; port ECHO_PORT of the VM answers


class GuestOrder(msgspec.Struct, frozen=True):
    """To the process in a VM."""

    run: int
    number: int
    name: str
    host: str
    late_host: str
    load: Load


class HostOrder(msgspec.Struct, frozen=True):
    """To the process outside. `late_host` is an address of no machine, for which the process itself answers, with `late_mac`."""

    run: int
    address: str
    device: str
    late_host: str
    late_mac: str
    vms: tuple[str, ...]
    load: Load
    inbound: tuple[Inbound, ...]
