"""What a server needs to leave its host. Pure; as Nova's API allows it (compute API guide, "Server concepts", and its state table)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

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


class Need(NamedTuple):
    """What a server needs, and why it is not moved now, in words."""

    way: Way
    words: str = ""


def need(server: Server, *, cold: bool, own: bool) -> Need:
    """What becomes of a server of a host that is to be empty. `cold`: stopped ones may be moved; `own`: its last move is a cold one
    of ours."""
    status, who = server.status, f"{server.name} ({server.id})"
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
            else Need(Way.WAIT, f"{who} is stopped, and this mover moves no stopped ones (--cold)")
        )
    return Need(Way.WAIT, f"{who} is in {status}: {_HOW.get(status, 'wait for it')}")


def unowned(owner: str, device: str) -> str:
    """What is said of a port that no server of Nova's has, and what to do with it. `owner`, `device`: as Neutron has them."""
    told = f"is no server's of Nova: it is {owner or 'nobody'}'s ({device or 'no device'})"
    if owner == "network:dhcp":
        return f"{told}: stop that agent and delete the port, since every compute answers DHCP itself"
    return f"{told}: move it, or delete it"
