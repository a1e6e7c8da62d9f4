"""What a feature says of one thing: the unit of compiling, of sending and of forgetting.

A key is (room, object, compute): `room` names the feature's function, `object` the fact, and `compute` is 0 for a fragment
whose bytes are the same for its whole audience, else the one compute that it is for. Two fragments never hold a flow with the
same (table, priority, match) for the same compute, nor a group with the same id: a property test holds this.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ebbtide.compile.flow import Flow, Group, Meter


class Key(NamedTuple):
    """Name of a fragment."""

    room: str
    object: str | int
    compute: int = 0


class Fragment(msgspec.Struct, frozen=True):
    """Flows, groups and meters of one thing."""

    flows: tuple[Flow, ...] = ()
    groups: tuple[Group, ...] = ()
    meters: tuple[Meter, ...] = ()


class TunnelRow(msgspec.Struct, frozen=True, order=True):
    """A tunnel port that a compute should have in its OVSDB. `bfd` arms it (a gateway relation)."""

    peer: int
    name: str
    local_ip: str
    remote_ip: str
    bfd: bool = False
