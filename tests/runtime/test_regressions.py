"""Faults that were found once, each by its story."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from ebbtide.lab import wait_until
from ebbtide.model.observed import Phase
from tests.support import snapshots
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


@pytest.fixture
def pair(make_cloud: Callable[..., Cloud]) -> Cloud:
    cloud = make_cloud()
    cloud.add_computes("a", "b")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("ab", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


def store_transact(cloud: Cloud, operations: str) -> None:
    """Write into the store behind the controller's back."""
    socket = f"unix:{cloud.directory}/state/store.sock"
    subprocess.run(["ovsdb-client", "transact", socket, f'["Ebbtide",{operations}]'], check=True, capture_output=True)


def test_a_backup_in_which_a_living_compute_is_removed_does_not_wipe_it_before_it_is_approved(pair: Cloud) -> None:
    call, service = pair.call, pair.service
    call(service.start(["a"]))
    pair.migrate("vm1", "b")
    call(service.end(["a"]))
    backup = service.backup()
    call(service.readmit("a"))
    pair.wait_ready("a", deadline=30)
    pair.migrate("vm1", "a")
    pair.wait_clean()
    before = snapshots.flows(pair.lab.compute("a"))
    assert len(before) > 15
    call(service.restore(backup))
    cluster = pair.controller.app.cluster
    pair.wait(lambda: cluster.members[cluster.state.by_name["b"]].phase is Phase.BRAKED, what="b braked")
    removed = next(iter(cluster.state.removed))
    pair.wait(lambda: cluster.members[removed].phase is Phase.BRAKED, what="a braked", deadline=30)
    assert snapshots.flows(pair.lab.compute("a")) == before
    assert pair.lab.vm("vm1").ping("10.1.0.2", count=3).lost == 0


def test_a_compute_whose_ovsdb_server_restarts_is_let_in_again_while_its_switch_stays(pair: Cloud) -> None:
    compute = pair.lab.compute("a")
    compute.kill_database()
    pair.wait(lambda: pair.controller.member("a").link is None, what="its OVSDB gone")
    compute.start_database()
    pair.wait(lambda: pair.controller.member("a").link is not None, what="its OVSDB back", deadline=30)
    pair.add_vm("vm3", "a", "blue", 3)
    assert pair.lab.vm("vm3").reaches("10.1.0.2")
    pair.wait_ready("a", "b", deadline=30)
    pair.assert_clean()


def test_what_changes_while_a_switch_is_being_read_is_not_lost(pair: Cloud) -> None:
    compute = pair.lab.compute("a")
    pair.controller.stop()
    compute.stop(database=False)
    pair.controller = type(pair.controller)(pair.lab, pair.directory / "state")
    pair.wait(lambda: pair.controller.member("a").link is not None, what="its OVSDB session", deadline=30)
    pair.add_vm("vm3", "b", "blue", 3)
    compute.cont()
    pair.wait_ready("a", "b", deadline=40)
    pair.assert_clean()
    assert pair.lab.vm("vm1").ping("10.1.0.3", count=3).lost == 0


def test_many_flows_that_nothing_explains_are_not_deleted_before_it_is_approved(pair: Cloud) -> None:
    compute = pair.lab.compute("a")
    wait_until(
        lambda: (
            f'ebbtide-revision="{pair.controller.app.cluster.state.revision}"'
            in compute.vsctl("get", "bridge", "br-int", "external_ids")
        ),
        "the stamp",
    )
    pair.controller.stop()
    for number in range(80):
        compute.ofctl(
            "add-flow", "br-int", f"table=51,priority=1,cookie=0x40200009{number:08x},reg6={number},actions=drop"
        )
    held = len(snapshots.flows(compute))
    pair.controller = type(pair.controller)(pair.lab, pair.directory / "state")
    pair.wait(lambda: pair.controller.member("a").phase is Phase.BRAKED, what="a braked", deadline=30)
    pair.wait_ready("b", deadline=30)
    assert len(snapshots.flows(compute)) == held
    pair.call(pair.service.reconcile(["a"], approve=True))
    pair.wait_ready("a", "b", deadline=30)
    pair.assert_clean()


def test_a_second_end_during_the_audit_of_the_first_ends_both(pair: Cloud) -> None:
    pair.add_computes("c", "d")
    pair.call(pair.service.start(["c", "d"]))

    async def both() -> None:
        import asyncio

        await asyncio.gather(pair.service.end(["c"]), pair.service.end(["d"]))

    pair.call(both())
    assert {o.state for o in pair.controller.app.cluster.state.operations.values()} == {"done"}
    assert set(pair.assert_clean().removed) == {"c", "d"}


def test_a_leader_whose_term_was_raised_by_somebody_else_leads_again(pair: Cloud) -> None:
    term = pair.controller.app.cluster.state.term
    store_transact(pair, f'{{"op":"update","table":"Global","where":[],"row":{{"term":{term + 5}}}}}')
    pair.wait(lambda: pair.controller.app.cluster.state.term == term + 6, what="a new term")
    pair.wait_ready("a", "b", deadline=30)
    pair.add_vm("vm3", "b", "blue", 3)
    pair.assert_clean()


def test_one_bridge_that_was_edited_by_hand_stops_itself_and_nobody_else(pair: Cloud) -> None:
    pair.add_computes("c")
    pair.lab.compute("a").vsctl("set", "bridge", "br-int", "external_ids:ebbtide-revision=999999999")
    pair.wait(lambda: pair.controller.member("a").phase is Phase.BRAKED, what="a braked", deadline=30)
    pair.add_vm("vm3", "c", "blue", 3)
    assert pair.controller.app.cluster.store.hold == ""
    assert pair.lab.vm("vm3").reaches("10.1.0.2")
    assert pair.call(pair.service.reconcile(["a"], approve=True)) == ["a"]
    pair.wait_ready("a", "b", "c", deadline=30)
    pair.assert_clean()


def test_a_bridge_whose_flows_came_without_a_controller_is_foreign_and_keeps_them(pair: Cloud) -> None:
    compute = pair.lab.add_compute("c")
    compute.vsctl("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev", "fail_mode=secure")
    compute.vsctl("add-port", "br-int", "theirs", "--", "set", "interface", "theirs", "type=internal")
    for number in range(30):
        compute.ofctl("add-flow", "br-int", f"table=5,priority={number + 1},actions=drop")
    before = snapshots.flows(compute)
    compute.register()
    pair.wait(lambda: "c" in pair.controller.app.cluster.state.by_name, what="c registered")
    pair.wait(lambda: pair.controller.member("c").phase is Phase.FOREIGN, what="c foreign")
    assert snapshots.flows(compute) == before
    pair.call(pair.service.adopt("c"))
    pair.wait_ready("c", deadline=30)
    pair.assert_clean()


def test_actions_changed_by_hand_under_the_same_cookie_are_mended_by_reconcile(pair: Cloud) -> None:
    compute = pair.lab.compute("a")
    line = next(f for f in snapshots.flows(compute) if "table=51, priority=20" in f)
    compute.ofctl("--strict", "mod-flows", "br-int", f"{line.split(', ', 1)[1].split(' actions')[0]},actions=drop")
    assert [f.what for f in pair.audit().findings] == ["flow differs"]
    pair.call(pair.service.reconcile(["a"], approve=False))
    pair.wait_ready("a", "b")
    pair.assert_clean()
