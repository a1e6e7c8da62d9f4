"""A cloud with a way out: computes with a provider network, a router that leads to a host outside, VMs behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ebbtide.lab import Lab, Vm
from ebbtide.lab.flows import Load, Traffic
from ebbtide.model.facts import Designation, Move, MovePhase
from ebbtide.model.state import NAT, State
from tests.support.cloud import Cloud
from tests.support.outside import NEXT_HOP, Host
from tests.support.told import Told

SNAT = "203.0.113.10"
#: Of each kind a few: what is looked for is one that breaks, not how many can be carried.
LOAD = Load(active=10, silent=6, udp=100, udp_slow=2, udp_slow_period=3.0, new=10, half_open=2, bulk=0, ping=20)


@contextmanager
def nothing_breaks(lab: Lab, *vms: str, load: Load = LOAD, told: Told | None = None) -> Iterator[Traffic]:
    """Inside, VMs talk to the outside in all ways; nothing of it is lost, refused or seen under another address.

    `told`: who is told the figures.
    """
    with Traffic(lab, outside="ext", vms=list(vms), load=load) as traffic:
        traffic.wait_flowing(deadline=30)
        traffic.reset()
        yield traffic
        traffic.speak()
        report = traffic.report()
    assert not report.failures(), f"{report.failures()}\n{report.table()}\n{report.told}"
    assert not report.too_few(), report.too_few()
    for kind in ("active", "silent", "udp", "new"):
        assert report.addresses(kind) == {SNAT}, (kind, report.addresses(kind))
    if told is not None:
        total = report.total()
        kept, broken = total.active.established + total.silent.established, total.active.broken + total.silent.broken
        told.saw(f"{kept} connections outside, {broken} broken; {total.new.opened} new ones, {total.new.failed} failed")
        told.saw(
            f"{total.udp.sent + total.ping.sent} datagrams and pings outside, {total.udp.lost + total.ping.lost} lost"
        )


class Routed:
    """Router r1 between network blue (10.1.0.0/24) and "ext", a host at the next hop's address."""

    def __init__(self, cloud: Cloud, *names: str, wired: str = "") -> None:
        self.cloud = cloud
        for name in names:
            physical = "physnet1" if not wired or name in wired else ""
            cloud.lab.add_compute(name, register="tcp:10.255.0.1:6640", physical_network=physical)
        cloud.wait_ready(*names)
        cloud.add_network("blue", "10.1.0.0/24")
        service = cloud.service
        cloud.call(service.add_external("out", "physnet1", "203.0.113.0/24", NEXT_HOP))
        self.host = Host(cloud, "ext")
        cloud.call(service.add_router("r1", outside="out", addresses=[SNAT]))
        cloud.call(service.attach("r1", "blue", "10.1.0.254"))

    @property
    def state(self) -> State:
        """The newest State."""
        return self.cloud.controller.app.cluster.state

    def add_vm(self, name: str, compute: str, index: int) -> Vm:
        """A VM in blue whose default route is the router."""
        cloud, mac = self.cloud, f"02:00:00:00:01:{index:02x}"
        cloud.call(cloud.service.add_port(name, "blue", mac, [f"10.1.0.{index}"]))
        address, mtu = f"10.1.0.{index}/24", self.state.networks["blue"].mtu
        vm = cloud.lab.add_vm(name, compute, mac, address, iface_id=name, mtu=mtu, gateway="10.1.0.254")
        cloud.wait(lambda: self.state.active(name) is not None, what=f"{name} bound")
        return vm

    def designation(self, router: str = "r1") -> Designation | None:
        """Who serves a router's NAT."""
        return self.state.designations.get((NAT, router))

    def served_by(self, router: str = "r1") -> str:
        """The name of the compute that serves a router's NAT."""
        found = self.designation(router)
        return self.state.computes[found.compute].name if found is not None else ""

    def stands_by(self, router: str = "r1") -> str:
        """The name of the compute that stands by for it."""
        found = self.designation(router)
        return self.state.computes[found.standby].name if found is not None and found.standby else ""

    def wait_served(self) -> None:
        """Until a compute serves the router, another stands by, its neighbours see it, and the next hop is known."""
        cloud, cluster = self.cloud, self.cloud.controller.app.cluster
        cloud.wait(lambda: bool(self.served_by()) and bool(self.state.neighbours), what="the router to be served")
        able = {n for n in self.state.reach("r1") if n in self.state.wired("out")}
        cloud.wait(lambda: len(able) < 2 or bool(self.stands_by()), what="a standby")
        cloud.wait_clean()
        cloud.wait(
            lambda: all(
                peer in m.view.tunnels and m.view.tunnels[peer].up
                for m in cluster.members.values()
                if m.connected
                for peer in self.state.relation_peers(m.number)
            ),
            what="BFD up on all relations",
        )

    def move(self, router: str = "r1") -> Move | None:
        """The move of a router's NAT that is under way."""
        return self.state.moves.get(router)

    def wait_moved(self, deadline: float = 60.0) -> None:
        """Until no move is under way, and everybody is at rest."""
        self.cloud.wait(lambda: not self.state.moves, deadline, "the move to be over")
        self.cloud.wait_clean()

    def wait_phase(self, phase: MovePhase, deadline: float = 30.0) -> None:
        """Until the move has come to that phase (or beyond it, where it passes in milliseconds)."""
        order = list(MovePhase)

        def there() -> bool:
            move = self.move()
            return move is not None and order.index(move.phase) >= order.index(phase)

        self.cloud.wait(there, deadline, f"the move to come to {phase}")

    def at(self, phase: MovePhase, act: Callable[[], None]) -> None:
        """Do something when the move has come to that phase."""
        self.wait_phase(phase)
        act()
