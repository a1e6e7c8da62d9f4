"""Clouds of a given size, as facts: 50 ports a compute, in blocks or at random."""

from __future__ import annotations

from random import Random

from immutables import Map

from ebbtide.model.facts import Binding, BindingPhase, Compute, Cursor, Fact, Network, Port
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import State

PORTS_EACH = 50
BLOCK = 20
NETWORKS_EACH = 10


def tep(number: int) -> str:
    """Tunnel address of a compute."""
    return f"172.30.{number >> 8}.{number & 255}"


def compute(number: int, with_tep: bool = True) -> Compute:
    """Compute "c<number>"."""
    return Compute(
        f"c{number}",
        number,
        dpid(number),
        system_id=f"system-{number}",
        ovs_uuid=uuid_of(number),
        hostname=f"c{number}",
        teps=(tep(number),) if with_tep else (),
    )


def dpid(number: int) -> int:
    """Datapath id of a compute."""
    return 0x00EB_0000_0000_0000 | number


def uuid_of(number: int) -> str:
    """Uuid of a compute's Open_vSwitch row."""
    return f"00000000-0000-4000-8000-{number:012x}"


def address(index: int) -> str:
    """An address made of a port's number."""
    return f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"


def cloud(computes: int, *, at_random: bool = False, tunnels: bool = True) -> list[Fact]:
    """`computes` computes with 50 ports each. Blocks of 20 computes have 10 networks of their own; at random, each port is in any
    of as many networks. Without `tunnels`, computes have announced no tunnel address."""
    random = Random(2)
    blocks = -(-computes // BLOCK)
    networks = blocks * NETWORKS_EACH
    facts: list[Fact] = [compute(number, tunnels) for number in range(1, computes + 1)]
    facts += [Network(f"n{tag}", tag, 10_000 + tag) for tag in range(1, networks + 1)]
    lport = 0
    for number in range(1, computes + 1):
        first = (number - 1) // BLOCK * NETWORKS_EACH + 1
        for index in range(PORTS_EACH):
            lport += 1
            tag = random.randint(1, networks) if at_random else first + index % NETWORKS_EACH
            port = Port(f"p{lport}", f"n{tag}", 0x02_0000_000000 + lport, lport, (address(lport),))
            facts += [port, Binding(port.id, number, BindingPhase.ACTIVE, 1)]
    cursors = {"compute": computes, "network": networks, "vni": 10_000 + networks, "lport": lport}
    return [*facts, *(Cursor(kind, last) for kind, last in cursors.items())]


def wide(flows: int, here: int, there: int, networks: int = 10) -> list[Fact]:
    """What makes about this many distinct flows on compute `here`: networks with a port here each, and with many more ports on
    compute `there`, three flows each (its MAC, its ARP answer, its own ARP). `there` never connects: it says nothing of its ports."""
    facts: list[Fact] = [Network(f"w{tag}", tag, 20_000 + tag) for tag in range(1, networks + 1)]
    facts.append(compute(there))
    for lport in range(1, (flows - 9 * networks - 10) // 3 + 1):
        tag = (lport - 1) % networks + 1
        port = Port(f"w-p{lport}", f"w{tag}", 0x02_1000_000000 + lport, lport, (address(lport),))
        number = here if lport <= networks else there
        facts += [port, Binding(port.id, number, BindingPhase.ACTIVE, 1)]
    return facts


def view(state: State, number: int) -> View:
    """What a compute shows that has all that it should."""
    ports = {p: Interface(f"tap{p}", state.ports[p].lport, p) for p in state.ports_on[number]}
    tunnels = {n: Interface(f"tun{n}", 20_000 + n, type="vxlan", up=True) for n in state.peers(number)}
    return View(True, Map(ports), Map(tunnels))
