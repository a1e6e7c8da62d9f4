"""What a server needs to leave its host. Pure; as Nova's API allows it (compute API guide, "Server concepts", and its state table)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

#: Who has the ports of DHCP agents.
DHCP_OWNER = "network:dhcp"
#: Statuses in which a server may be migrated while it runs, and while it does not.
_LIVE, _COLD = {"ACTIVE", "PAUSED"}, {"SHUTOFF"}
_HOW = {
    "SUSPENDED": "resume it, or shelve it",
    "RESCUE": "unrescue it",
    "SHELVED": "offload it, or unshelve it",
    "SOFT_DELETED": "restore it, or delete it for good",
    "ERROR": "look at its fault, and reset or delete it",
}


class Way(StrEnum):
    """How a server leaves: while it runs, while it does not, by the confirmation of a move of ours, or not now."""

    LIVE = "live"
    COLD = "cold"
    CONFIRM = "confirm"
    WAIT = "wait"


class Server(NamedTuple):
    """A server as Nova shows it. `task`: what Nova is doing with it ("": nothing)."""

    id: str
    name: str
    status: str
    task: str
    host: str

    @property
    def called(self) -> str:
        """How it is named to people."""
        return f"{self.name} ({self.id})"


class Port(NamedTuple):
    """A port as Neutron shows it. `owner`, `device`: its device_owner and device_id; `host`: to which it is bound; `revision`: its
    revision_number."""

    id: str
    owner: str
    device: str
    network: str = ""
    host: str = ""
    active: bool = False
    revision: int = 0


class Need(NamedTuple):
    """What a server needs, and why it is not moved now, in words."""

    way: Way
    words: str = ""


def need(server: Server, *, cold: bool, own: bool, drain: str = "") -> Need:
    """What becomes of a server of a host that is to be empty. `cold`: stopped ones may be moved; `own`: its last move is a cold one
    of ours; `drain`: the id of the drain."""
    status, who = server.status, server.called
    if server.task:
        return Need(Way.WAIT, f"{who}: Nova is at it ({server.task})")
    if status in _LIVE:
        return Need(Way.LIVE)
    if status == "VERIFY_RESIZE":
        if own:
            return Need(Way.CONFIRM)
        return Need(Way.WAIT, f"{who} is in VERIFY_RESIZE: its owner has to confirm or to revert it")
    if status in _COLD:
        return (
            Need(Way.COLD)
            if cold
            else Need(
                Way.WAIT,
                f"{who} is stopped, and this drain moves no stopped ones (`ebbtide operation set {drain} --cold`)",
            )
        )
    return Need(Way.WAIT, f"{who} is in {status}: {_HOW.get(status, 'wait for it')}")


def unowned(port: Port) -> str:
    """What is said of a port that no server of Nova's has, and what to do with it."""
    told = f"is no server's of Nova: it is {port.owner or 'nobody'}'s ({port.device or 'no device'})"
    if port.owner == DHCP_OWNER:
        return f"{told}: stop that agent and delete the port, since every compute answers DHCP itself"
    return f"{told}: move it, or delete it"
