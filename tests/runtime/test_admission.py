"""Who is let in, what is written to whom, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ebbtide.errors import Refused
from ebbtide.lab import Compute, wait_until
from ebbtide.model import facts
from ebbtide.model.observed import Phase
from tests.support import snapshots
from tests.support.cloud import Cloud
from tests.support.hostile import undisturbed
from tests.support.rows import database

pytestmark = pytest.mark.lab


def fact(cloud: Cloud, name: str) -> facts.Compute:
    state = cloud.controller.app.cluster.state
    return state.computes[state.by_name[name]]


def wait_phase(cloud: Cloud, name: str, phase: Phase, deadline: float = 20.0) -> None:
    def holds() -> bool:
        state, members = cloud.controller.app.cluster.state, cloud.controller.app.cluster.members
        member = members.get(state.by_name.get(name, 0))
        return member is not None and member.phase is phase

    cloud.wait(holds, deadline, f"{name} {phase}")


def heard(cloud: Cloud, name: str) -> None:
    """Until the controller has heard something that the host has said after all else, and has had its step."""
    number = cloud.controller.app.cluster.state.by_name[name]
    zone = f"heard-{cloud.controller.app.cluster.state.revision}"
    cloud.lab.compute(name).vsctl("set", "Open_vSwitch", ".", f"external_ids:transport-zone={zone}", wait=False)
    cloud.wait(lambda: cloud.controller.app.cluster.state.computes[number].zone == zone, what="the host to be heard")
    cloud.lab.compute(name).vsctl("remove", "Open_vSwitch", ".", "external_ids", "transport-zone", wait=False)
    cloud.wait(lambda: cloud.controller.app.cluster.state.computes[number].zone != zone, what="the host to be heard")


def but_for_the_manager(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Without what `ovs-vsctl set-manager` has written."""
    found["Manager"] = {}
    for row in found["Open_vSwitch"].values():
        row["manager_options"] = None
    return found


def but_for_br_int(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Without br-int, its port and interface, its Controller row, and its place in the list of bridges."""
    found = but_for_the_manager(found)
    for table in ("Bridge", "Port", "Interface"):
        found[table].pop("br-int", None)
    found["Controller"] = {}
    for row in found["Open_vSwitch"].values():
        row["bridges"] = None
    return found


# ---- admission ------------------------------------------------------------------------------------


def test_an_unknown_compute_waits_untouched_until_it_is_approved(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud(admission="approve")
    x = cloud.lab.add_compute("x")
    before = but_for_the_manager(database(x))
    x.register()
    wait_phase(cloud, "x", Phase.WAITING)
    assert "compute approve" in cloud.service.compute_status(fact(cloud, "x"))["reason"]
    heard(cloud, "x")
    assert but_for_the_manager(database(x)) == before
    assert not cloud.audit().computes
    cloud.call(cloud.service.approve("x"))
    cloud.wait_ready("x")
    assert cloud.assert_clean().computes == ("x",)
    # Known once, known ever: neither a new controller nor a new session has to ask again.
    cloud.restart_controller()
    cloud.wait_ready("x")


def test_a_waiting_compute_takes_part_in_nothing(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud(admission="approve")
    for name in ("a", "b"):
        cloud.lab.add_compute(name, register="tcp:10.255.0.1:6640")
        wait_phase(cloud, name, Phase.WAITING)
    cloud.call(cloud.service.approve("a"))
    cloud.wait_ready("a")
    cloud.add_network("blue", "10.1.0.0/24")
    cloud.add_vm("vm1", "a", "blue", 1)
    cloud.wait_clean()
    assert snapshots.tunnels(cloud.lab.compute("a")) == []
    assert not cloud.lab.compute("b").has_bridge()
    cloud.call(cloud.service.forget("b"))
    wait_phase(cloud, "b", Phase.WAITING)  # it is connected still, and asks again


def test_another_host_takes_the_place_of_a_silent_compute_only_when_it_is_approved(
    make_cloud: Callable[..., Cloud],
) -> None:
    cloud = make_cloud(admission="approve", silence=1.0)
    for name in ("a", "b", "c"):
        cloud.lab.add_compute(name, register="tcp:10.255.0.1:6640")
        wait_phase(cloud, name, Phase.WAITING)
        cloud.call(cloud.service.approve(name))
    cloud.wait_ready("a", "b", "c")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("abc", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    cluster, old = cloud.controller.app.cluster, fact(cloud, "a")
    with undisturbed(cloud, "b", "c"):
        cloud.lab.compute("a").kill_all()
        cloud.wait(lambda: cloud.controller.member("a").link is None, what="a gone")
        new = cloud.lab.add_compute("a2")
        new.vsctl("set", "Open_vSwitch", ".", "external_ids:hostname=a", wait=False)
        new.register()
        cloud.wait(lambda: bool(fact(cloud, "a").applicants), what="the new host to ask")
        said = "`ebbtide compute approve a`"
        cloud.wait(lambda: any(said in why for why in cluster.refused.values()), what="the refusal to say what to do")
        assert f"{new.system_id}@{new.tep} asks to be a" in cloud.service.compute_status(fact(cloud, "a"))["reason"]
        # The first comes back before anybody has approved: it is what it was, and who asked has to ask anew.
        cloud.lab.compute("a").start_all()
        cloud.wait_ready("a", deadline=30)
        assert fact(cloud, "a") == old
    assert not new.has_bridge()
    cloud.lab.compute("a").kill_all()
    cloud.wait(lambda: bool(fact(cloud, "a").applicants), 30, "the new host to ask again")
    assert fact(cloud, "a").tep == old.tep
    cloud.call(cloud.service.approve("a"))
    cloud.wait(lambda: fact(cloud, "a").system_id == new.system_id, what="the new host in a's place")
    cloud.wait_ready("a", "b", "c", deadline=30)
    now = fact(cloud, "a")
    assert (now.number, now.dpid, now.tep, now.successor) == (old.number, old.dpid, new.tep, "")
    cloud.assert_clean()


# ---- another's br-int -----------------------------------------------------------------------------

_BR_INT = ("--", "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
_FOREIGN = {
    "another's controller": (*_BR_INT, "--", "set-controller", "br-int", "tcp:127.0.0.1:16633"),
    "another's tunnel": (
        *(*_BR_INT, "--", "add-port", "br-int", "vx1", "--", "set", "interface", "vx1", "type=vxlan"),
        *("options:remote_ip=172.31.1.1", "options:key=flow"),
    ),
    "the host's own port": (
        *_BR_INT,
        "--",
        "add-port",
        "br-int",
        "mgmt0",
        "--",
        "set",
        "interface",
        "mgmt0",
        "type=internal",
    ),
    "another's patch": (
        *(*_BR_INT, "--", "add-port", "br-int", "patch-tun", "--", "set", "interface", "patch-tun", "type=patch"),
        "options:peer=patch-int",
    ),
}


@pytest.fixture
def trio(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a and b with a VM each; x has not registered."""
    cloud = make_cloud()
    cloud.add_computes("a", "b")
    cloud.lab.add_compute("x")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("ab", 1):
        cloud.add_vm(f"vm{index}", name, "blue", index)
    cloud.wait_clean()
    return cloud


@pytest.mark.parametrize("made", list(_FOREIGN.values()), ids=list(_FOREIGN))
def test_a_bridge_that_another_system_runs_is_not_written_to_until_it_is_adopted(
    trio: Cloud, made: tuple[str, ...]
) -> None:
    x = trio.lab.compute("x")
    x.vsctl(*made)
    for number in range(20):
        x.ofctl("add-flow", "br-int", f"table=9,priority={number + 1},cookie=0x77,actions=drop")
    flows, before = x.dump_flows(), but_for_the_manager(database(x))
    with undisturbed(trio, "a", "b"):
        x.register()
        wait_phase(trio, "x", Phase.FOREIGN)
        assert "compute adopt" in trio.service.compute_status(fact(trio, "x"))["reason"]
        heard(trio, "x")
        assert but_for_the_manager(database(x)) == before
        assert x.dump_flows() == flows
        trio.call(trio.service.adopt("x"))
        trio.wait_ready("x", deadline=30)
    trio.add_vm("vm3", "x", "blue", 3)
    assert trio.lab.vm("vm3").reaches("10.1.0.1")
    assert not [line for line in x.dump_flows() if "cookie=0x77" in line]
    assert "vx1" not in x.ports()
    assert x.vsctl("get-controller", "br-int").strip() == "tcp:10.255.0.1:6653"
    trio.assert_clean()


def test_a_bridge_through_which_a_host_is_reached_is_not_made_secure_until_it_is_adopted(trio: Cloud) -> None:
    """A network card is in it, and its one flow is NORMAL: to take that away would cut the host off. A plugged VM alone is no sign."""
    x = trio.lab.compute("x")
    x.exec("ip", "link", "add", "eth9", "type", "veth", "peer", "name", "eth9-far")
    x.vsctl(
        *(*_BR_INT, "fail_mode=standalone", "--", "add-port", "br-int", "eth9"),
        *("--", "add-port", "br-int", "tap9", "--", "set", "interface", "tap9", "type=internal"),
        "external_ids:iface-id=vm9",
    )
    before = but_for_the_manager(database(x))
    x.register()
    wait_phase(trio, "x", Phase.FOREIGN)
    heard(trio, "x")
    with pytest.raises(Refused, match="nobody has told of vm9, which are plugged there and would be cut off"):
        trio.call(trio.service.adopt("x"))
    reason = trio.service.compute_status(fact(trio, "x"))["reason"]
    assert "eth9" in reason
    assert "tap9" not in reason
    assert "cut" in reason
    heard(trio, "x")
    assert but_for_the_manager(database(x)) == before
    assert any("NORMAL" in line for line in x.dump_flows())
    x.vsctl("del-port", "br-int", "eth9")
    trio.call(trio.service.reconcile(["x"], approve=False))
    trio.wait_ready("x", deadline=30)
    assert x.vsctl("get-fail-mode", "br-int").strip() == "secure"


def test_a_bridge_that_holds_flows_of_another_system_keeps_them_until_it_is_adopted(trio: Cloud) -> None:
    """Another controller ran it from the very address that is ours now: nothing but the flows tells."""
    x = trio.lab.compute("x")
    x.vsctl(*_BR_INT, "fail_mode=secure", "--", "set-controller", "br-int", "tcp:10.255.0.1:6653")
    for number in range(20):
        x.ofctl("add-flow", "br-int", f"table=9,priority={number + 1},cookie=0x77,actions=drop")
    x.register()
    wait_phase(trio, "x", Phase.FOREIGN)
    assert "br-int holds 20 flows of another system" in trio.service.compute_status(fact(trio, "x"))["reason"]
    heard(trio, "x")
    assert len([line for line in x.dump_flows() if "cookie=0x77" in line]) == 20
    trio.call(trio.service.adopt("x"))
    trio.wait_ready("x", deadline=30)
    trio.assert_clean()


# ---- prepared by hand -----------------------------------------------------------------------------


def test_a_host_that_was_prepared_for_netvirt_works_as_it_is(trio: Cloud) -> None:
    """br-int is there already, with the name in dp-desc; the host says neither its name nor its system-id."""
    x = trio.lab.compute("x")
    x.vsctl(*("remove", "Open_vSwitch", ".", "external_ids", "system-id"), wait=False)
    x.vsctl(*("remove", "Open_vSwitch", ".", "external_ids", "hostname"), wait=False)
    x.vsctl(*_BR_INT, "other_config:dp-desc=rack9-host3", "fail_mode=standalone")
    x.register()
    trio.wait_ready("rack9-host3")
    trio.add_vm("vm3", "x", "blue", 3)
    for target in ("10.1.0.1", "10.1.0.2"):
        assert trio.lab.vm("vm3").reaches(target)
    assert x.vsctl("get-fail-mode", "br-int").strip() == "secure"
    trio.call(trio.service.start(["rack9-host3"]))
    trio.lab.remove_vm("vm3")
    trio.wait_clean()
    trio.call(trio.service.end(["rack9-host3"]))
    trio.assert_clean()


def test_nothing_of_a_host_but_br_int_is_touched_and_nothing_stays_in_it(trio: Cloud) -> None:
    x = trio.lab.compute("x")
    x.vsctl(
        *("set", "Open_vSwitch", ".", "external_ids:theirs=1", "other_config:theirs=2", "--", "add-br", "br-theirs"),
        *("--", "set", "bridge", "br-theirs", "datapath_type=netdev", "external_ids:tombstoned=theirs"),
        *("--", "set-controller", "br-theirs", "tcp:127.0.0.1:16633"),
        *("--", "add-port", "br-theirs", "vx1", "--", "set", "interface", "vx1", "type=vxlan"),
        *("options:remote_ip=192.0.2.1", "options:key=7"),
    )
    theirs = database(x)
    before = but_for_br_int(theirs)
    x.register()
    trio.wait_ready("x")
    trio.add_vm("vm3", "x", "blue", 3)
    trio.wait_clean()
    assert trio.lab.vm("vm3").reaches("10.1.0.1")
    trio.lab.remove_vm("vm3")
    trio.wait_clean()
    trio.wait(lambda: not trio.controller.member("x").view.tunnels, what="x's tunnels gone")
    assert x.vsctl("get-controller", "br-theirs").strip() == "tcp:127.0.0.1:16633"
    assert but_for_br_int(database(x)) == before
    trio.call(trio.service.start(["x"]))
    trio.call(trio.service.end(["x"]))
    wait_until(lambda: x.vsctl("get-controller", "br-int").strip() == "", "our Controller row to go")
    after = database(x)
    assert after["Bridge"]["br-int"]["external_ids"] == ["map", []]
    assert sorted(after["Bridge"]) == ["br-int", "br-phy", "br-theirs"]
    assert [row["target"] for row in after["Manager"].values()] == ["tcp:10.255.0.1:6640"]
    assert x.dump_flows() == []
    assert but_for_br_int(after) == before


def is_held(compute: Compute) -> bool:
    return "flow-restore-wait" in compute.vsctl("get", "Open_vSwitch", ".", "other_config")


def test_a_gateway_is_held_at_a_start_only_where_that_was_asked_for(make_cloud: Callable[..., Cloud]) -> None:
    """Its management may run through its own switch: held, that would never come back."""
    cloud = make_cloud()
    gateway = cloud.lab.add_compute("gw")
    gateway.vsctl("set", "Open_vSwitch", ".", "other_config:ebbtide-gateway=true", wait=False)
    gateway.register()
    cloud.wait_ready("gw")
    status = cloud.service.compute_status
    assert not is_held(gateway)
    assert "ebbtide-held-start" in status(fact(cloud, "gw"))["reason"]
    # Without a controller it comes up by itself, and speaks.
    gateway.restart_switch()
    cloud.wait_ready("gw", deadline=30)
    gateway.vsctl("set", "Open_vSwitch", ".", "other_config:ebbtide-held-start=true", wait=False)
    wait_until(lambda: is_held(gateway), "the key")
    cloud.wait(lambda: not status(fact(cloud, "gw"))["reason"], what="nothing to be said any more")
    gateway.vsctl("remove", "Open_vSwitch", ".", "other_config", "ebbtide-held-start", wait=False)
    wait_until(lambda: not is_held(gateway), "the key to go")
    cloud.wait_clean()
    assert "ebbtide-held" not in snapshots.bridge_ids(gateway)
    cloud.assert_clean()


def test_a_switch_that_is_held_no_longer_for_a_reason_is_let_go(make_cloud: Callable[..., Cloud]) -> None:
    """The wish is taken back while the switch is away: nobody else would end its silence."""
    cloud = make_cloud()
    gateway = cloud.lab.add_compute("gw")
    wish = ("other_config:ebbtide-gateway=true", "other_config:ebbtide-held-start=true")
    gateway.vsctl("set", "Open_vSwitch", ".", *wish, wait=False)
    gateway.register()
    cloud.wait_ready("gw")
    wait_until(lambda: is_held(gateway), "the key")
    gateway.kill_switch()
    cloud.wait(lambda: cloud.controller.member("gw").switch is None, what="its switch gone")
    gateway.vsctl("remove", "Open_vSwitch", ".", "other_config", "ebbtide-held-start", wait=False)
    cloud.wait(lambda: not fact(cloud, "gw").held_start, what="the wish taken back")
    gateway.start_switch()
    cloud.wait_ready("gw", deadline=30)
    wait_until(lambda: not is_held(gateway), "the key to go")
    cloud.assert_clean()


def test_a_removed_gateway_does_not_keep_the_key_that_holds_its_switch(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    gateway = cloud.lab.add_compute("gw")
    wish = ("other_config:ebbtide-gateway=true", "other_config:ebbtide-held-start=true")
    gateway.vsctl("set", "Open_vSwitch", ".", *wish, wait=False)
    gateway.register()
    cloud.wait_ready("gw")
    wait_until(lambda: is_held(gateway), "the key")
    cloud.call(cloud.service.start(["gw"]))
    cloud.call(cloud.service.end(["gw"]))
    assert not is_held(gateway)


# ---- the path -------------------------------------------------------------------------------------


def test_a_path_that_cannot_carry_a_network_is_said_at_admission(trio: Cloud) -> None:
    x = trio.lab.compute("x")
    x.exec("ip", "link", "set", "eth-data", "mtu", "1400")
    wait_until(lambda: mtu_of(x, "br-phy") == 1400, "br-phy to follow its card")
    status = trio.service.compute_status
    assert status(fact(trio, "a"))["reason"] == ""
    x.register()
    trio.wait_ready("x")
    assert (
        "network blue has MTU 1450 and needs 1500 on the wire, br-phy carries 1400" in status(fact(trio, "x"))["reason"]
    )
    x.exec("ip", "link", "set", "eth-data", "mtu", "1500")
    wait_until(lambda: mtu_of(x, "br-phy") == 1500, "br-phy to follow its card")
    trio.wait(lambda: status(fact(trio, "x"))["reason"] == "", what="the path to be wide enough")


def test_a_path_that_is_narrow_somewhere_on_its_way_is_said(trio: Cloud) -> None:
    """Both ends' cards are wide enough; something between them is not: small probes arrive, large ones do not."""
    x = trio.lab.compute("x")
    x.register()
    trio.wait_ready("x")
    trio.lab.exec("net", "ip", "link", "set", f"d{x.index}", "mtu", "1300")
    trio.add_vm("vm3", "x", "blue", 3)
    status = trio.service.compute_status
    trio.wait(
        lambda: "large packets do not reach" in status(fact(trio, "x"))["reason"], what="the narrow path to be told"
    )
    assert "a, b" in status(fact(trio, "x"))["reason"]


def mtu_of(compute: Compute, interface: str) -> int:
    found = json.loads(compute.vsctl("--format=json", "--columns=mtu", "list", "interface", interface))["data"][0][0]
    return found if isinstance(found, int) else 0


def test_what_carries_a_computes_packets_is_told_and_kept_while_it_is_silent(make_cloud: Callable[..., Cloud]) -> None:
    cloud = make_cloud()
    cloud.add_computes("x")
    compute = cloud.lab.compute("x")

    def told() -> dict[str, object]:
        status = cloud.service.compute_status(fact(cloud, "x"))
        return {k: status[k] for k in ("datapath", "ovs-version", "hw-offload", "dpdk", "nat-move-proven")}

    version = compute.vsctl("get", "Open_vSwitch", ".", "ovs_version", wait=False).strip().strip('"')
    usual = {"datapath": "netdev", "ovs-version": version, "hw-offload": False, "dpdk": False, "nat-move-proven": True}
    cloud.wait(lambda: told() == usual, what="its datapath to be told")
    compute.vsctl("set", "Open_vSwitch", ".", "other_config:hw-offload=true", wait=False)
    offloaded = usual | {"hw-offload": True, "nat-move-proven": False}
    cloud.wait(lambda: told() == offloaded, what="the offload to be told")
    compute.kill_all()
    cloud.wait(lambda: not cloud.service.compute_status(fact(cloud, "x"))["connected"], what="its silence to be noted")
    assert told() == offloaded
