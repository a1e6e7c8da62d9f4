"""What the wires say now, per compute. Never stored, never guessed: a compute that is silent keeps its last value and is
marked unreachable; nothing is taken away because somebody could not be heard.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import msgspec
from immutables import Map

K = TypeVar("K")


class Phase(StrEnum):
    """Life of a compute as an operator sees it (design, section 6)."""

    WAITING = "waiting"
    FOREIGN = "foreign"
    CONNECTED = "connected"
    RECONCILED = "reconciled"
    READY = "ready"
    BRAKED = "braked"
    QUARANTINED = "quarantined"


def is_waited_for(connected: bool, phase: Phase) -> bool:
    """Whether others wait for what a compute has to confirm: it can be heard, is not held by the brake, and is no other system's."""
    return connected and phase not in (Phase.BRAKED, Phase.FOREIGN)


class Interface(msgspec.Struct, frozen=True):
    """A port of br-int. `ofport` 0: the switch has not realised it (or failed to: `error`).

    `fresh`: the switch has not looked at it yet, which it will within milliseconds if it runs at all. `watched`: a tunnel with BFD
    armed; `up`: its far end is seen; `seen`: it has been seen since the tunnel is watched.
    """

    name: str
    ofport: int
    iface_id: str = ""
    mac: str = ""
    error: str = ""
    type: str = ""
    fresh: bool = False
    up: bool = False
    watched: bool = False
    seen: bool = False


class Datapath(msgspec.Struct, frozen=True):
    """What carries a compute's packets, as its OVSDB says.

    `kind`: br-int's datapath_type, "netdev" (Open vSwitch's own, in userspace) or "system" (the kernel's); "" as long as nobody has seen
    it. `version`: of Open vSwitch, as it says itself. `offload`: other_config:hw-offload; `dpdk`: dpdk_initialized.
    """

    kind: str = ""
    version: str = ""
    offload: bool = False
    dpdk: bool = False


class View(msgspec.Struct, frozen=True):
    """One compute as its OVSDB shows it.

    `ports`: iface-id -> interface; `tunnels`: far end's number -> interface of the tunnel made for it.
    `providers`: physical network -> our port to it. `hold_off`: seconds for which its switch asks for an unknown address but once, as the
    controller is set. `live` tells whether the OVSDB session is up; a view outlives its session.
    """

    live: bool = False
    ports: Map[str, Interface] = Map()
    tunnels: Map[int, Interface] = Map()
    datapath: Datapath = Datapath()
    providers: Map[str, Interface] = Map()
    hold_off: int = 10

    @property
    def userspace(self) -> bool:
        """Whether br-int's datapath is Open vSwitch's own, not the kernel's."""
        return self.datapath.kind == "netdev"


def differing(old: Map[K, Interface], new: Map[K, Interface]) -> set[K]:
    """Where two views of the same differ."""
    gone = (key for key in old if key not in new)
    return {*gone, *(key for key, interface in new.items() if old.get(key) != interface)}


class Observed(msgspec.Struct, frozen=True):
    """All views, by compute number."""

    views: Map[int, View] = Map()

    def view(self, compute: int) -> View:
        """The compute's view (empty if it was never seen)."""
        found: View = self.views.get(compute, View())
        return found
