"""The designated compute of a router's NAT is scaled in: it moves, and nothing breaks, wherever that is called back or cut short."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.errors import Refused
from ebbtide.lab import wait_until
from ebbtide.lab.flows import Load
from ebbtide.model.facts import MovePhase
from tests.support.cloud import Cloud
from tests.support.routed import Routed, nothing_breaks

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.xdist_group("natmove")]

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


def others(routed: Routed) -> list[str]:
    """The VMs that are not on the compute that serves."""
    return [f"vm{i}" for i, name in enumerate("abc", 1) if name != routed.served_by()]


def test_the_designated_compute_is_scaled_in_and_nothing_breaks(routed: Routed) -> None:
    old, new = routed.served_by(), routed.stands_by()
    with nothing_breaks(routed.cloud.lab, "vm1", "vm2", "vm3"):
        routed.cloud.call(routed.cloud.service.start([old]))
        move = routed.move()
        assert move is not None
        routed.wait_moved()
        assert routed.served_by() == new, "the warm one is the first choice"
    routed.cloud.assert_clean()


def test_a_few_connections_open_and_silent_outlive_a_move(make_cloud: Callable[..., Cloud]) -> None:
    """The smallest move there is: also for a kernel's datapath, in a machine that is emulated (`make test-kernel`)."""
    routed = Routed(
        make_cloud(lag=LAG, nat_patience=2.0, bfd_interval_ms=1000), "a", "b"
    )  # nobody is taken for dead there
    for index, name in enumerate("ab", 1):
        routed.add_vm(f"vm{index}", name, index)
    routed.wait_served()
    few = Load(active=3, active_period=0.5, silent=3, udp=5, udp_slow=0, new=1, half_open=0, bulk=0, ping=2)
    with nothing_breaks(routed.cloud.lab, "vm1", "vm2", load=few):
        old = routed.served_by()
        routed.cloud.call(routed.cloud.service.start([old]))
        routed.wait_moved()
        assert routed.served_by() not in ("", old)
    routed.cloud.assert_clean()


def test_a_move_that_is_called_back_at_any_phase_breaks_nothing(routed: Routed) -> None:
    service, call = routed.cloud.service, routed.cloud.call
    old = routed.served_by()
    with nothing_breaks(routed.cloud.lab, "vm1", "vm2", "vm3"):
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


def test_the_goal_of_a_move_is_scaled_in_as_well_and_the_nat_goes_to_the_third_at_once(routed: Routed) -> None:
    call, service = routed.cloud.call, routed.cloud.service
    old, new = routed.served_by(), routed.stands_by()
    third = ({"a", "b", "c"} - {old, new}).pop()
    served: set[str] = set()
    with nothing_breaks(routed.cloud.lab, "vm1", "vm2", "vm3"):
        call(service.start([old]))
        routed.wait_phase(MovePhase.EXPORT)
        call(service.start([new]))

        def arrived() -> bool:
            served.add(routed.served_by())
            return routed.served_by() == third and routed.move() is None

        routed.cloud.wait(arrived, 60, f"{third} to serve")
    assert served == {old, third}, "it has not been where it could not stay"
    routed.cloud.assert_clean()


def test_an_end_is_refused_while_the_nat_has_somewhere_to_go_and_passes_once_it_is_there(routed: Routed) -> None:
    """Whoever calls too soon is told which router, from where to where, and how far it is; nothing is changed by it."""
    cloud, service = routed.cloud, routed.cloud.service
    old = routed.served_by()
    new = next(name for name in "abc" if name != old)
    cloud.migrate(f"vm{'abc'.index(old) + 1}", new)
    told: list[str] = []
    with nothing_breaks(cloud.lab, "vm1", "vm2", "vm3"):
        cloud.call(service.start([old]))

        def ended() -> bool:
            try:
                cloud.call(service.end([old]))
            except Refused as error:
                told.append(str(error))
                assert old in (routed.served_by(), *(c.name for c in routed.state.members()))
                return False
            assert routed.move() is None, "it passed in the middle of a move"
            return True

        wait_until(ended, "the end to be let through", deadline=60, every=0.2)
        assert routed.served_by() not in ("", old)
    assert told
    for words in told:
        assert f"{old} still serves: router r1" in words, words
        assert "wait until it has moved" in words
    assert any(f"moves from {old} to" in words and str(MovePhase.SILENCE) in words for words in told), told
    cloud.assert_clean()
