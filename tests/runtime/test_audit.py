"""The audit on real switches: each kind of residue and of deviation, planted by hand, is found; and the second searcher agrees."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ebbtide.lab import Compute
from ebbtide.model import facts
from tests.support.cloud import Cloud
from tests.support.second_search import left_of

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("audit")]

# A place of its own, which no flow of ours uses.
TABLE = 200


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """ "gone" has been removed in good order; b and c have a VM each."""
    cloud = Cloud(f"u{os.getpid()}", tmp_path_factory.mktemp("audit"))
    try:
        cloud.add_computes("gone", "b", "c")
        cloud.add_network("blue", "10.1.0.0/24")
        for index, name in enumerate(("gone", "b", "c"), 1):
            cloud.add_vm(f"vm{index}", name, "blue", index)
        cloud.wait_clean()
        cloud.call(cloud.service.start(["gone"]))
        cloud.migrate("vm1", "b")
        cloud.call(cloud.service.end(["gone"]))
        yield cloud
    finally:
        cloud.down()


@pytest.fixture
def cloud(shared: Cloud) -> Iterator[Cloud]:
    """The shared cloud, clean before and after."""
    shared.assert_clean()
    yield shared
    report = shared.assert_clean()
    assert (report.computes, report.removed) == (("b", "c"), ("gone",))
    assert report.flows > 0
    assert report.groups > 0
    assert report.rows > 0


def removed(cloud: Cloud) -> facts.Compute:
    return next(iter(cloud.controller.app.cluster.state.removed.values()))


# ---- residue --------------------------------------------------------------------------------------


class Plant(NamedTuple):
    """Commands of ovs-ofctl and ovs-vsctl that leave something of a removed compute, with {tep} and so on to be filled in.

    `kind`: what both searchers call it. `unexpected`: found by comparison as well.
    """

    make: tuple[str, ...]
    undo: tuple[str, ...]
    kind: str
    unexpected: int = 1


def flow(match: str, actions: str, cookie: str = "0x77") -> Plant:
    make = ("ofctl", "add-flow", "br-int", f"table={TABLE},priority=7,cookie={cookie},{match}actions={actions}")
    return Plant(make, ("ofctl", "del-flows", "br-int", f"table={TABLE}"), "flow")


def learn(spec: str) -> Plant:
    return flow("", f"learn(table={TABLE + 1},cookie=0xf000000000000001,NXM_OF_VLAN_TCI[0..11],{spec})")


def group(bucket: str) -> Plant:
    made = ("ofctl", "add-group", "br-int", f"group_id=4242,type=all,bucket=actions={bucket}")
    return Plant(made, ("ofctl", "del-groups", "br-int", "group_id=4242"), "group")


def bridge_key(value: str) -> Plant:
    made = ("vsctl", "set", "bridge", "br-int", f'external_ids:planted="{value}"')
    return Plant(made, ("vsctl", "remove", "bridge", "br-int", "external_ids", "planted"), "row", 0)


PLANTS = {
    "a flow by the cookie of the compute": flow("", "drop", "{compute_cookie}"),
    "a flow by the cookie of a relation": flow("", "drop", "{relation_cookie}"),
    "a flow that matches its number": flow("reg5={number},", "drop"),
    "a flow that matches its number and more": flow("reg5={number},reg6=9,metadata=0/1,", "drop"),
    "a flow that matches its number under a mask": flow("reg5={number}/0xffff,", "drop"),
    "a flow that sets its number": flow("", "set_field:{number}->reg5"),
    "a flow that loads its number": flow("", "load:{number}->NXM_NX_REG5[0..15]"),
    "a flow that loads its number whole": flow("", "load:{number}->NXM_NX_REG5[]"),
    "a flow that learns a flow that loads its number": learn("load:{number}->NXM_NX_REG5[]"),
    "a flow that learns a flow that loads its number in part": learn("load:{number}->NXM_NX_REG5[0..15]"),
    "a flow that learns a flow for its number": learn("reg5={number}"),
    "a flow that sends to its address": flow("", "set_field:{tep}->tun_dst"),
    "a flow that sends from its address": flow("", "set_field:{tep}->tun_src"),
    "a flow that loads its address": flow("", "load:{tep_hex}->NXM_NX_TUN_IPV4_DST[]"),
    "a flow for what comes from its address": flow("tun_src={tep},", "drop"),
    "a flow for what went to its address": flow("tun_dst={tep},", "drop"),
    "a flow for packets to its address": flow("ip,nw_dst={tep},", "drop"),
    "a flow for questions for its address": flow("arp,arp_tpa={tep},", "drop"),
    "a flow that writes its address": flow("ip,", "mod_nw_dst:{tep}"),
    "a flow for frames to its MAC": flow("dl_dst={mac},", "drop"),
    "a flow for frames from its MAC": flow("dl_src={mac},", "drop"),
    "a flow for frames to its tunnel bridge's MAC": flow("dl_dst={other_mac},", "drop"),
    "a flow for ARP from its MAC": flow("arp,arp_sha={mac},", "drop"),
    "a flow for ARP to its MAC": flow("arp,arp_tha={mac},", "drop"),
    "a flow that writes its MAC": flow("", "set_field:{mac}->eth_src"),
    "a flow that writes its MAC the old way": flow("", "mod_dl_dst:{mac}"),
    "a flow that loads its MAC": flow("arp,", "load:{mac_hex}->NXM_NX_ARP_SHA[]"),
    "a flow that learns a flow for its MAC": learn("dl_dst={mac}"),
    "a flow that learns a flow that writes its MAC": learn("load:{mac_hex}->NXM_OF_ETH_DST[]"),
    "a group that sets its number": group("set_field:{number}->reg5,resubmit(,220)"),
    "a group that sends to its address": group("set_field:{tep}->tun_dst,resubmit(,220)"),
    "a group that writes its MAC": group("set_field:{mac}->eth_dst,resubmit(,220)"),
    "its name in a row": bridge_key("gone"),
    "its system-id in a row": bridge_key("{system_id}"),
    "its row's uuid in a row": bridge_key("{ovs_uuid}"),
    "its DPN id in a row": bridge_key("{dpid}"),
    "its OpenFlow id in a row": bridge_key("openflow:{dpid}"),
    "its DPN id in hex in a row": bridge_key("{dpid:016x}"),
    "its address in a row": bridge_key("{tep}"),
    "its MAC in a row": bridge_key("{mac}"),
    "its MAC in a row, as a datapath id": bridge_key("0000{mac_plain}"),
    "a tunnel port": Plant(
        (
            *("vsctl", "add-port", "br-int", "planted", "--", "set", "interface", "planted", "type=vxlan"),
            *("options:remote_ip={tep}", "options:key=flow"),
        ),
        ("vsctl", "del-port", "br-int", "planted"),
        "row",
    ),
}


def spelled(gone: facts.Compute) -> dict[str, object]:
    """The identities of a removed compute, as commands want them: whatever it was known by is filled in from there."""
    own = [i.removeprefix("mac:") for i in sorted(gone.identities()) if i.startswith("mac:")]
    return {
        "number": gone.number,
        "tep": gone.tep,
        "tep_hex": f"{int(ipaddress.IPv4Address(gone.tep)):#x}",
        "dpid": gone.dpid,
        "system_id": gone.system_id,
        "ovs_uuid": gone.ovs_uuid,
        "mac": own[0],
        "other_mac": own[-1],
        "mac_plain": own[0].replace(":", ""),
        "mac_hex": f"0x{own[0].replace(':', '')}",
        "compute_cookie": f"{2 << 60 | gone.number << 32 | 0xABC:#x}",
        "relation_cookie": f"{6 << 60 | gone.number << 32 | 0xABC:#x}",
    }


def do(compute: Compute, words: tuple[str, ...], known: dict[str, object]) -> None:
    tool, *arguments = (word.format(**known) for word in words)
    getattr(compute, tool)(*arguments)


@pytest.mark.parametrize("plant", list(PLANTS.values()), ids=list(PLANTS))
def test_residue_planted_by_hand_is_found_by_both_searchers(cloud: Cloud, plant: Plant) -> None:
    gone, where = removed(cloud), cloud.lab.compute("b")
    known = spelled(gone)
    assert left_of(gone, cloud.lab, "b", "c") == []
    do(where, plant.make, known)
    try:
        # A row is heard of a moment later; a flow is read when asked.
        cloud.wait(lambda: bool(planted_row(cloud, "b")) or plant.kind != "row", what="the row to be heard of")
        seen = left_of(gone, cloud.lab, "b", "c")
        report = cloud.audit()
    finally:
        do(where, plant.undo, known)
    assert (report.residue, report.unexpected, report.missing) == (1, plant.unexpected, 0), report.findings
    found = next(f for f in report.findings if f.kind == "residue")
    assert found.compute == "b"
    assert found.what.startswith(f"{plant.kind} with ")
    assert found.what.endswith(" of gone")
    assert not report.clean
    # The other searcher calls it the same, and finds it nowhere else.
    assert {line.partition(" with ")[0] for line in seen} == {f"b: {plant.kind}"}, seen
    by = found.what.removeprefix(f"{plant.kind} with ").removesuffix(" of gone")
    assert by in {line.partition(" with ")[2].rpartition(by)[1] for line in seen}, (by, seen)
    cloud.wait(lambda: not planted_row(cloud, "b"), what="the row to be gone")


def planted_row(cloud: Cloud, name: str) -> bool:
    """Whether the controller has heard of a planted row."""
    tables = cloud.controller.member(name).tables
    assert tables is not None
    keys = any("planted" in row["external_ids"] for row in tables.rows("Bridge").values())
    return keys or any(row["name"] == "planted" for row in tables.rows("Interface").values())


def test_a_tunnel_port_that_passes_for_ours_is_taken_away(cloud: Cloud) -> None:
    where, gone = cloud.lab.compute("b"), removed(cloud)
    where.vsctl(
        *("add-port", "br-int", "tunplanted", "--", "set", "interface", "tunplanted", "type=vxlan"),
        *(f"options:remote_ip={gone.tep}", "options:key=flow", f"external_ids:ebbtide-peer={gone.number}"),
        wait=False,
    )
    cloud.wait(lambda: "tunplanted" not in where.ports(), what="the port to be taken away")


# ---- deviations -----------------------------------------------------------------------------------


def counts(cloud: Cloud) -> tuple[int, int, int]:
    report = cloud.audit()
    assert not report.clean
    assert {f.compute for f in report.findings} == {"b"}
    return report.missing, report.unexpected, report.residue


def again(cloud: Cloud) -> None:
    """Let the controller put b in order."""
    cloud.call(cloud.service.reconcile(["b"], approve=False))
    cloud.wait_ready("b")
    cloud.assert_clean()


def test_a_missing_flow_is_found(cloud: Cloud) -> None:
    b = cloud.lab.compute("b")
    before = len(b.dump_flows())
    b.ofctl("del-flows", "br-int", "table=51,dl_dst=02:00:00:00:01:03")
    gone = before - len(b.dump_flows())
    assert gone == 1
    assert counts(cloud) == (1, 0, 0)
    again(cloud)
    assert len(b.dump_flows()) == before


def test_changed_actions_under_the_same_cookie_are_found(cloud: Cloud) -> None:
    b = cloud.lab.compute("b")
    cookie = b.dump_flows("br-int", "table=51,dl_dst=02:00:00:00:01:03")[0].split(",")[0]
    b.ofctl("mod-flows", "br-int", "table=51,dl_dst=02:00:00:00:01:03,actions=drop")
    assert b.dump_flows("br-int", "table=51,dl_dst=02:00:00:00:01:03")[0].startswith(cookie)
    assert counts(cloud) == (0, 1, 0)
    # A restart compares cookies, and so leaves it alone; taking the flow away is what mends it.
    b.ofctl("del-flows", "br-int", "table=51,dl_dst=02:00:00:00:01:03")
    again(cloud)


def test_a_stray_flow_is_found_whoever_it_seems_to_be_from(cloud: Cloud) -> None:
    b = cloud.lab.compute("b")
    for number, cookie in enumerate(("0x0", "0x77", "0x1010000000000001", "0x4010000100000001"), 1):
        b.ofctl("add-flow", "br-int", f"table={TABLE},priority={number},cookie={cookie},actions=drop")
    assert counts(cloud) == (0, 4, 0)
    again(cloud)
    assert b.dump_flows("br-int", f"table={TABLE}") == []


def test_missing_changed_and_stray_groups_are_found(cloud: Cloud) -> None:
    b = cloud.lab.compute("b")
    numbers = [line.split("group_id=")[1].split(",")[0] for line in b.dump_groups() if "drop" not in line]
    b.ofctl("add-group", "br-int", "group_id=4242,type=all,bucket=actions=drop")
    assert counts(cloud) == (0, 1, 0)
    b.ofctl("mod-group", "br-int", f"group_id={numbers[0]},type=all,bucket=actions=drop")
    assert counts(cloud) == (0, 2, 0)
    users = len(b.dump_flows())
    b.ofctl("del-groups", "br-int", f"group_id={numbers[0]}")
    # The switch has taken the group's users with it.
    users -= len(b.dump_flows())
    assert counts(cloud) == (1 + users, 1, 0)
    again(cloud)


def test_a_missing_and_a_diverted_tunnel_port_are_found(cloud: Cloud) -> None:
    """Rows that differ are put in order at once; so for once the controller is told to keep its hands off."""
    b = cloud.lab.compute("b")
    port = next(p for p in b.ports() if p.startswith("tun"))
    cluster = cloud.controller.app.cluster
    cloud.call(cluster.store.set_hold("an operator looks"))
    cloud.wait(lambda: bool(cluster.store.hold), what="the hold")
    try:
        b.vsctl("set", "interface", port, "options:remote_ip=192.0.2.99")
        cloud.wait(lambda: options(cloud, port) == "192.0.2.99", what="the diverted port to be heard of")
        assert counts(cloud) == (0, 1, 0)
        b.vsctl("del-port", "br-int", port)
        cloud.wait(lambda: options(cloud, port) == "", what="the missing port to be heard of")
        missing, _, residue = counts(cloud)
        assert (missing > 0, residue) == (True, 0)
        assert "tunnel port" in {f.what for f in cloud.audit().findings if f.kind == "missing"}
    finally:
        cloud.call(cloud.service.reconcile([], approve=True))
    cloud.wait_ready("b", "c", deadline=30)
    assert port in b.ports()
    cloud.assert_clean()
    assert cloud.lab.vm("vm2").reaches("10.1.0.3")


def options(cloud: Cloud, port: str) -> str:
    """Where the controller believes that this port of b leads; "" if it is not there."""
    tables = cloud.controller.member("b").tables
    assert tables is not None
    rows = [row for row in tables.rows("Interface").values() if row["name"] == port]
    return str(rows[0]["options"]["remote_ip"]) if rows else ""


def test_a_mark_that_is_not_in_the_store_is_found(cloud: Cloud) -> None:
    cluster = cloud.controller.app.cluster
    cloud.call(cluster.store.set_hold("an operator looks"))
    cloud.wait(lambda: bool(cluster.store.hold), what="the hold")
    try:
        cloud.lab.compute("b").vsctl("set", "bridge", "br-int", "external_ids:tombstoned=true")
        tables = cloud.controller.member("b").tables
        assert tables is not None
        cloud.wait(
            lambda: any("tombstoned" in r["external_ids"] for r in tables.rows("Bridge").values()), what="the mark"
        )
        assert counts(cloud) == (0, 1, 0)
    finally:
        cloud.call(cloud.service.reconcile([], approve=True))
    cloud.wait_ready("b", "c", deadline=30)


# ---- what was not read ----------------------------------------------------------------------------


def test_who_could_not_be_read_is_named_and_nothing_read_is_a_failure(cloud: Cloud) -> None:
    b, c = (cloud.lab.compute(name) for name in "bc")
    try:
        b.cut_control()
        cloud.wait(lambda: not cloud.controller.member("b").connected, what="b to be cut off")
        report = cloud.audit()
        assert (report.computes, report.unreachable, report.clean) == (("c",), ("b",), True)
        c.cut_control()
        cloud.wait(lambda: not cloud.controller.member("c").connected, what="c to be cut off")
        report = cloud.audit()
        assert (report.computes, report.unreachable, report.clean) == ((), ("b", "c"), False)
        assert report.flows == report.groups == report.rows == 0
    finally:
        b.heal_control()
        c.heal_control()
    cloud.wait_ready("b", "c", deadline=40)
