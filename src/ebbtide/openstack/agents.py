"""How a network's DHCP moves from an agent whose host leaves to another one, look by look. Pure.

    add       an agent on a host that stays is given the network, unless one has it already; it makes a port of its own
    wait      until that port is ACTIVE, which it is when its flows are confirmed
    remove    the network is taken from the agent that leaves, which unplugs its port
    clean     Neutron keeps that port, for whoever is given the network next: it is bound to the host that leaves, so it is deleted

Neutron has no such move: its own failover takes the network away first. How many agents a network is to have Neutron sees to by itself, at
the next port.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

from ebbtide.openstack.servers import Port

#: The device of a port that no agent has any more.
RESERVED = "reserved_dhcp_port"


class Agent(NamedTuple):
    """One of Neutron's DHCP agents. `on`: nobody has switched it off; `networks`: how many it says it has; `reason`: its description."""

    id: str
    host: str
    alive: bool
    on: bool = True
    networks: int = 0
    reason: str = ""

    @property
    def works(self) -> bool:
        """Whether it may be given a network."""
        return self.alive and self.on


class Act(StrEnum):
    """What is to be done."""

    ADD = "add"
    WAIT = "wait"
    REMOVE = "remove"
    CLEAN = "clean"
    DONE = "done"
    FAILED = "failed"


class Step(NamedTuple):
    """`about`: the id of the agent that is added or removed, or of the port that is deleted; or what is waited for, or is missing."""

    act: Act
    about: str = ""


def step(
    source: str,
    staying: Collection[str],
    agents: Iterable[Agent],
    serving: Collection[str],
    ports: Iterable[Port],
    slow: Collection[str] = (),
) -> Step:
    """What is to be done for a network that an agent on host `source` has.

    `staying`: hosts where new ports are served, and go on to be; `agents`: all of the cloud; `serving`: ids of those that have it; `ports`:
    its DHCP ports; `slow`: ids of those that have been waited for long enough.
    """
    known, made = list(agents), list(ports)
    own = [each for each in known if each.host == source and each.id in serving]
    here = [each for each in made if each.host == source]
    if not own:
        kept = [each for each in here if each.device == RESERVED]
        if here and not kept:
            return Step(
                Act.WAIT, f"no DHCP agent on {source} has it any more, and its port {here[0].id} is there still"
            )
        return Step(Act.CLEAN, kept[0].id) if kept else Step(Act.DONE)
    others = [each for each in known if each.host != source and each.host in staying]
    heirs = [each for each in others if each.works and each.id in serving]
    ready = {each.host for each in made if each.active and each.device != RESERVED}
    if any(each.host in ready for each in heirs):
        return Step(Act.REMOVE, own[0].id)
    if all(each.id in slow for each in heirs):
        new = _least([each for each in others if each.works and each.id not in {*serving, *slow}])
        if new is not None:
            return Step(Act.ADD, new.id)
    where = ", ".join(sorted(each.host for each in heirs or others))
    if heirs:
        return Step(Act.WAIT, f"the DHCP agent on {where} has no active port there yet")
    if others:
        return Step(Act.WAIT, f"no DHCP agent works on {where}: see to one")
    return Step(Act.FAILED, "no DHCP agent is on a host that stays: start one, or delete this one's port")


def heir(source: str, staying: Collection[str], agents: Iterable[Agent], serving: Collection[str]) -> Agent | None:
    """Who is given a network that the agent on `source` has and does not serve; None: another one has it, or nobody could."""
    others = [each for each in agents if each.works and each.host != source and each.host in staying]
    return None if any(each.id in serving for each in others) else _least(others)


def _least(agents: Iterable[Agent]) -> Agent | None:
    """The one with the fewest networks."""
    return min(agents, key=lambda each: (each.networks, each.host), default=None)
