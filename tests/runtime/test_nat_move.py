"""The designated compute of a router's NAT is scaled in: it moves, and nothing breaks, wherever that is called back or cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ebbtide.lab.flows import Load, Traffic
from ebbtide.model.facts import MovePhase
from tests.support.cloud import Cloud
from tests.support.routed import SNAT, Routed

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.xdist_group("natmove")]

#: Of each kind a few: what is looked for here is one that breaks, not how many can be carried.
LOAD = Load(active=10, silent=6, udp=100, udp_slow=2, udp_slow_period=3.0, new=10, half_open=2, bulk=0, ping=20)
#: Cached flows follow within half a second on this datapath; a move of tests need not wait for as long as one in earnest.
LAG = 0.6


@pytest.fixture
def routed(make_cloud: Callable[..., Cloud]) -> Routed:
    """a, b and c, all with a wire to the outside; a VM on each of them."""
    made = Routed(make_cloud(lag=LAG, nat_patience=2.0), "a", "b", "c")
    for index, name in enumerate("abc", 1):
        made.add_vm(f"vm{index}", name, index)
    made.wait_served()
    return made


@contextmanager
def nothing_breaks(routed: Routed, *vms: str, load: Load = LOAD) -> Iterator[Traffic]:
    """Inside, VMs talk to the outside in all ways; nothing of it is lost, refused or seen under another address."""
    with Traffic(routed.cloud.lab, outside="ext", vms=list(vms), load=load) as traffic:
        traffic.wait_flowing(deadline=30)
        traffic.reset()
        yield traffic
        traffic.speak()
        report = traffic.report()
    assert not report.failures(), f"{report.failures()}\n{report.table()}\n{report.told}"
    assert not report.too_few(), report.too_few()
    for kind in ("active", "silent", "udp", "new"):
        assert report.addresses(kind) == {SNAT}, (kind, report.addresses(kind))


def others(routed: Routed) -> list[str]:
    """The VMs that are not on the compute that serves."""
    return [f"vm{i}" for i, name in enumerate("abc", 1) if name != routed.served_by()]


def test_the_designated_compute_is_scaled_in_and_nothing_breaks(routed: Routed) -> None:
    old, new = routed.served_by(), routed.stands_by()
    with nothing_breaks(routed, "vm1", "vm2", "vm3"):
        routed.cloud.call(routed.cloud.service.start([old]))
        move = routed.move()
        assert move is not None
        routed.wait_moved()
        assert routed.served_by() == new, "the warm one is the first choice"
    routed.cloud.assert_clean()


def test_a_move_that_is_called_back_at_any_phase_breaks_nothing(routed: Routed) -> None:
    service, call = routed.cloud.service, routed.cloud.call
    old = routed.served_by()
    with nothing_breaks(routed, "vm1", "vm2", "vm3"):
        for phase in (
            MovePhase.PREPARE,
            MovePhase.FREEZE,
            MovePhase.SILENCE,
            MovePhase.ADDRESS,
            MovePhase.FLIP,
            MovePhase.UNCOUPLE_OUT,
            MovePhase.QUIET,
        ):
            call(service.start([old]))
            routed.wait_phase(phase)
            call(service.recover([old]))
            routed.wait_moved()
            assert routed.served_by() == old, f"called back in {phase}"
            routed.cloud.wait(lambda: bool(routed.stands_by()), what="a new standby")
    routed.cloud.assert_clean()


def test_a_controller_that_ends_in_any_phase_is_followed_by_one_that_goes_on(routed: Routed) -> None:
    service = routed.cloud.service
    with nothing_breaks(routed, "vm1", "vm2", "vm3"):
        old = routed.served_by()
        routed.cloud.call(service.start([old]))
        for phase in MovePhase:
            if routed.move() is None:
                break
            routed.wait_phase(phase)
            routed.cloud.restart_controller()
            routed.cloud.wait_ready("a", "b", "c")
        routed.wait_moved()
        assert routed.served_by() != old
    routed.cloud.assert_clean()
