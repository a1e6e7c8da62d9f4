"""Who falls silent is reported; who was removed is held, let back, or replaced by another machine: nothing of the old comes back."""

from __future__ import annotations

import uuid

import pytest

from ebbtide.model.facts import Operation
from ebbtide.model.observed import Phase
from tests.drains.test_drains import drain, wait_over
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


def operations(cloud: Cloud, verb: str) -> list[Operation]:
    return [o for o in cloud.controller.app.cluster.state.operations.values() if o.verb == verb]


def emptied(cloud: Cloud) -> None:
    """a's VM is deleted, and a is drained."""
    cloud.lab.remove_vm("vm1")
    cloud.call(cloud.service.delete_port("vm1"))
    told = wait_over(cloud, drain(cloud, "a"))
    assert told["state"] == "done", told


def test_a_silent_compute_is_reported_until_it_is_heard_again(cloud_of_dead: Cloud) -> None:
    cloud = cloud_of_dead
    cloud.lab.compute("c").kill_all()
    cloud.wait(lambda: bool(operations(cloud, "loss")), 20, "the loss to be reported")
    (loss,) = operations(cloud, "loss")
    assert (loss.open, loss.computes) == (True, (cloud.fact("c").number,))
    assert "VMs there: vm3" in loss.reason
    # It stands in nobody's way.
    cloud.wait(lambda: not cloud.controller.app.cluster.state.moves, what="nothing to move")
    begun = drain(cloud, "d")
    assert wait_over(cloud, begun)["state"] == "done"
    cloud.lab.compute("c").start_all()
    cloud.wait(lambda: not operations(cloud, "loss")[0].open, 30, "the loss to be over")
    assert "come back" in operations(cloud, "loss")[0].reason


def test_a_removed_compute_is_held_and_let_back_by_command_as_an_operation(four: Cloud) -> None:
    emptied(four)
    cluster = four.controller.app.cluster
    four.wait(lambda: cluster.phase(cluster.state.removed[1]) is Phase.QUARANTINED, what="a held")
    flows = [x for x in four.lab.compute("a").dump_flows() if "cookie=0x0," not in x]
    assert flows == []
    assert four.call(four.service.readmit("a")).name == "a"
    (back,) = operations(four, "readmit")
    four.wait(lambda: not cluster.state.operations[back.id].open, 30, "a to be ready")
    assert cluster.state.operations[back.id].state == "done"
    four.wait_ready("a", "b", "c", "d")
    four.assert_clean()


def test_another_machine_with_the_name_of_a_removed_one_is_held_and_then_a_compute_of_its_own(
    four: Cloud,
) -> None:
    old = four.fact("a")
    emptied(four)
    cluster = four.controller.app.cluster
    held = cluster.members[old.number]
    four.lab.remove_compute("a")
    four.wait(lambda: held.link is None, what="the old machine gone")
    four.lab.add_compute("a", "tcp:10.255.0.1:6640", "physnet1", str(uuid.uuid4()))
    four.wait(lambda: held.link is not None, what="the new machine held in the place of the old one")
    assert sorted(c.name for c in cluster.state.members()) == ["b", "c", "d"]
    assert not four.lab.compute("a").has_bridge()
    four.call(four.service.readmit("a"))
    four.wait_ready("a", "b", "c", "d", deadline=30)
    new = four.fact("a")
    assert new.system_id != old.system_id
    assert new.number != old.number
    four.add_vm("vm4", "a", "blue", 4)
    assert four.lab.vm("vm4").reaches("10.1.0.2")
    four.assert_clean()
