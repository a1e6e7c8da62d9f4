"""What one compute that cannot be brought to what it should hold does to the others, and what the brake holds back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ebbtide.compile import ledger
from ebbtide.compile.ledger import Feature, Kind
from ebbtide.errors import Refused
from ebbtide.lab import wait_until
from ebbtide.model.observed import Phase
from ebbtide.runtime import vswitch
from tests.support import snapshots
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab
COOKIE = ledger.cookie(Kind.PORT, Feature.L2, 1000)
PLANTED = 300


@pytest.fixture
def trio(make_cloud: Callable[..., Cloud]) -> Cloud:
    cloud = make_cloud()
    cloud.add_computes("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("ab", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


def plant(cloud: Cloud, name: str, count: int = PLANTED) -> None:
    """Flows that look like ours, and that no fact explains."""
    lines = [f"table=51,priority=7,cookie={COOKIE:#x},metadata={n:#x},actions=drop" for n in range(1, count + 1)]
    path = cloud.directory / "planted.txt"
    path.write_text("\n".join(lines) + "\n")
    cloud.lab.compute(name).ofctl("add-flows", "br-int", str(path))


def planted(cloud: Cloud, name: str) -> int:
    return sum("priority=7" in flow for flow in snapshots.flows(cloud.lab.compute(name)))


def await_stamp(cloud: Cloud, name: str) -> None:
    """Until the switch carries the store's revision."""

    def holds() -> bool:
        if name not in cloud.controller.app.cluster.state.by_name:
            return False
        member = cloud.controller.member(name)
        own = vswitch.bridge(member.tables) if member.tables is not None else None
        return own is not None and own.stamp.revision == cloud.controller.app.cluster.state.revision

    cloud.wait(holds, what=f"{name} to be stamped")


def brake(cloud: Cloud, name: str) -> None:
    """Have the third question hold something back on a compute."""
    await_stamp(cloud, name)
    plant(cloud, name)
    cloud.call(cloud.service.reconcile([name], approve=False))
    cloud.wait(lambda: cloud.controller.member(name).phase is Phase.BRAKED, what=f"{name} braked")
    assert "would be deleted" in cloud.controller.member(name).reason


def test_what_the_brake_held_back_stays_held_at_later_revisions_and_after_a_restart(trio: Cloud) -> None:
    brake(trio, "a")
    trio.add_network("green", "10.2.0.0/24")
    trio.call(trio.service.reconcile(["a"], approve=False))
    trio.restart_controller()
    trio.wait(lambda: trio.controller.member("a").resyncs > 0, what="a compared anew")
    assert trio.controller.member("a").phase is Phase.BRAKED
    # It is served all the same: what makes is sent, and what a change takes away goes.
    trio.add_vm("vm3", "a", "blue", 3)
    assert trio.lab.vm("vm2").reaches("10.1.0.3")
    assert planted(trio, "a") == PLANTED
    assert trio.call(trio.service.reconcile(["a"], approve=True)) == ["a"]
    trio.wait_ready("a", "b", "c", deadline=30)
    assert planted(trio, "a") == 0
    trio.assert_clean()


def test_a_compute_that_the_brake_holds_owes_the_cleaning_and_an_end_does_not_wait_for_it(trio: Cloud) -> None:
    call, service = trio.call, trio.service
    brake(trio, "a")
    call(service.start(["c"]))
    operation = call(service.end(["c"]))
    assert operation is not None
    assert (operation.state, operation.reason.split("; ")[-1]) == ("done", "owed by a")
    with pytest.raises(Refused, match="a could not be reached"):
        call(service.readmit("c"))
    call(service.reconcile(["a"], approve=True))
    trio.wait(lambda: not trio.controller.app.cluster.state.debts, what="the debt paid", deadline=30)
    call(service.readmit("c"))
    trio.wait_ready("a", "b", "c", deadline=30)
    trio.assert_clean()


def test_a_foreign_compute_owes_nothing_and_holds_up_no_end(trio: Cloud) -> None:
    call, service = trio.call, trio.service
    stranger = trio.lab.add_compute("d")
    stranger.vsctl("add-br", "br-int", "--", "set-controller", "br-int", "tcp:127.0.0.1:6699")
    stranger.register()
    trio.wait(lambda: "d" in trio.controller.app.cluster.state.by_name, what="d to register")
    trio.wait(lambda: trio.controller.member("d").phase is Phase.FOREIGN, what="d foreign")
    call(service.start(["c"]))
    operation = call(service.end(["c"]))
    assert operation is not None
    assert operation.state == "done"
    assert operation.reason.startswith("residue 0 on 2 computes")
    assert "owed" not in operation.reason
    call(service.readmit("c"))


def test_a_switch_full_of_another_systems_flows_is_dumped_once(trio: Cloud) -> None:
    """The other system's controller had the address that ours has now: only the flows tell."""
    stranger = trio.lab.add_compute("d")
    stranger.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "fail_mode=secure", "datapath_type=netdev")
    stranger.vsctl("set-controller", "br-int", "tcp:10.255.0.1:6653")
    lines = [f"table=0,priority=9,in_port={n},actions=drop" for n in range(1, 40)]
    path = trio.directory / "theirs.txt"
    path.write_text("\n".join(lines) + "\n")
    stranger.ofctl("add-flows", "br-int", str(path))
    stranger.register()
    trio.wait(lambda: "d" in trio.controller.app.cluster.state.by_name, what="d to register")
    member = trio.controller.member("d")
    trio.wait(lambda: member.phase is Phase.FOREIGN, what="d foreign")
    assert "39 flows of another system" in member.reason
    configured = stranger.vsctl("get", "Open_vSwitch", ".", "next_cfg")
    trio.add_network("green", "10.2.0.0/24")
    trio.call(trio.service.start(["c"]))
    assert trio.call(trio.service.end(["c"])) is not None
    assert stranger.vsctl("get", "Open_vSwitch", ".", "next_cfg") == configured
    assert len(snapshots.flows(stranger)) == 39
    assert member.resyncs == 0
    trio.call(trio.service.adopt("d"))
    trio.wait_ready("a", "b", "d", deadline=30)
    trio.assert_clean()


def test_who_is_compared_first_waits_for_the_others_before_a_few_flows_go(trio: Cloud) -> None:
    """Switches come back to a controller that starts anew within seconds of each other, each when its own patience is over."""
    names = ["a", "b", "c", "d", "e"]
    trio.add_computes("d", "e")
    trio.restart_controller()
    for name in names:
        await_stamp(trio, name)
    trio.controller.stop()
    for name in names:
        plant(trio, name, 2)
    late = [trio.lab.compute(name) for name in "ab"]
    for compute in late:
        compute.stop(database=False)
    trio.restart_controller()

    def compared(*which: str) -> bool:
        known = trio.controller.app.cluster.state.by_name
        return all(name in known and trio.controller.member(name).resyncs > 0 for name in which)

    trio.wait(lambda: compared("c", "d", "e"), what="three compared", deadline=30)
    since = time.monotonic()
    wait_until(lambda: time.monotonic() > since + 2.0, "their flows to have gone, if they went")
    for compute in late:
        compute.cont()
    members = trio.controller.app.cluster.members
    trio.wait(lambda: [m.phase for m in members.values()] == [Phase.BRAKED] * 5, what="all five braked", deadline=30)
    assert [planted(trio, name) for name in names] == [2] * 5


def test_who_stays_away_keeps_a_few_flows_there_for_moments_only(trio: Cloud) -> None:
    await_stamp(trio, "c")
    trio.controller.stop()
    plant(trio, "c", 2)
    trio.lab.compute("a").stop(database=False)
    trio.restart_controller()
    wait_until(lambda: planted(trio, "c") == 0, "it to be put right", 45)


def test_a_few_flows_that_would_go_from_many_computes_at_once_stay_until_that_is_approved(trio: Cloud) -> None:
    names = ["a", "b", "c", "d", "e"]
    trio.add_computes("d", "e")
    trio.restart_controller()  # a compute that a change does not concern is stamped when it is looked at next
    for name in names:
        await_stamp(trio, name)
    trio.controller.stop()
    plant(trio, "e", 2)
    trio.restart_controller()
    trio.wait_ready(*names, deadline=30)
    wait_until(lambda: planted(trio, "e") == 0, "one compute to be put right")
    for name in names:
        await_stamp(trio, name)
    trio.controller.stop()
    for name in names:
        plant(trio, name, 2)
    trio.restart_controller()
    members = trio.controller.app.cluster.members
    trio.wait(lambda: [m.phase for m in members.values()] == [Phase.BRAKED] * 5, what="all five braked", deadline=30)
    assert (
        "on 4 of 5 computes" in trio.controller.member("a").reason or "on 5 of 5" in trio.controller.member("a").reason
    )
    assert [planted(trio, name) for name in names] == [2] * 5
    # One that comes back alone, or a controller that starts anew, finds few flows on few computes: held they stay.
    trio.add_network("green", "10.2.0.0/24")
    trio.restart_controller()
    members = trio.controller.app.cluster.members
    trio.wait(lambda: sum(m.resyncs > 0 for m in members.values()) == 5, what="all compared anew", deadline=30)
    assert [m.phase for m in members.values()] == [Phase.BRAKED] * 5
    assert [planted(trio, name) for name in names] == [2] * 5
    assert trio.call(trio.service.reconcile([], approve=True)) == names
    trio.wait_ready(*names, deadline=30)
    assert [planted(trio, name) for name in names] == [0] * 5
    trio.assert_clean()
