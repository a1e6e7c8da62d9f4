"""Peers that send garbage, half-sentences, lies or nothing: each is cut off with a clear word, and nobody else notices."""

from __future__ import annotations

import json
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ebbtide.lab import Compute, wait_until
from ebbtide.openflow import messages as m
from ebbtide.openflow.framing import message
from tests.support.cloud import Cloud
from tests.support.hostile import (
    OPENFLOW,
    OVSDB,
    FakeOvsdb,
    FakeSwitch,
    FrontedController,
    dial,
    heard_until_closed,
    is_closed,
    undisturbed,
)

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("hostile")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """a and b with a VM each; x is a host that has not registered; c has a VM on a network of its own."""
    cloud = Cloud(f"h{os.getpid()}", tmp_path_factory.mktemp("hostile"))
    try:
        cloud.controller.stop()
        cloud.controller = FrontedController(cloud.lab, cloud.directory / "state")
        cloud.add_computes("a", "b", "c")
        cloud.lab.add_compute("x")
        cloud.add_network("blue", "10.1.0.0/24")
        cloud.add_network("green", "10.2.0.0/24")
        for index, name in enumerate("ab", 1):
            cloud.add_vm(f"vm{index}", name, "blue", index)
        cloud.add_vm("vm3", "c", "green", 3)
        cloud.wait_ready("a", "b", "c")
        cloud.wait_clean()
        yield cloud
    finally:
        cloud.down()


@pytest.fixture
def pair(shared: Cloud) -> Iterator[Cloud]:
    """The shared cloud; after each test everything is as it should be, and nobody has joined."""
    yield shared
    shared.wait_ready("a", "b", "c", deadline=30)
    shared.assert_clean()
    assert sorted(shared.controller.app.cluster.state.by_name) == ["a", "b", "c"]


def members(cloud: Cloud) -> set[int]:
    return set(cloud.controller.app.cluster.members)


# ---- OpenFlow -------------------------------------------------------------------------------------

_HELLO = m.encode(m.Hello((5, 4)), 1, 5)
_GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "zeros": bytes(64),
    "noise": random.Random(6653).randbytes(4096),
    "ovsdb": b'{"method":"echo","params":[],"id":"echo"}',
    "a length below the header's": bytes([5, 0, 0, 4]) + bytes(60),
    "something before the hello": m.encode(m.BarrierReply(), 1, 5),
    "two hellos": _HELLO + _HELLO,
    "another version after the hello": _HELLO + message(1, 6, 2, bytes(24)),
    "a features reply cut short": _HELLO + message(5, 6, 2, bytes(3)),
    "parts of an answer to no question": _HELLO + message(5, 19, 99, bytes(8) + bytes(56)),
}


@pytest.mark.parametrize("data", list(_GARBAGE.values()), ids=list(_GARBAGE))
def test_a_switch_that_sends_garbage_is_cut_off(pair: Cloud, data: bytes) -> None:
    before = members(pair)
    with dial(pair, "x", OPENFLOW) as peer:
        peer.sendall(data)
        heard_until_closed(peer, 5)
    assert members(pair) == before


def test_a_hello_of_versions_that_we_do_not_speak_is_told_why(pair: Cloud) -> None:
    with dial(pair, "x", OPENFLOW) as peer:
        peer.sendall(m.encode(m.Hello((7, 6)), 1, 5))
        assert b"no OpenFlow version in common: the switch speaks 1.6, 1.5" in heard_until_closed(peer, 5)


def test_a_switch_without_a_handshake_and_a_database_that_answers_nothing_are_cut_off(pair: Cloud) -> None:
    silent = {
        "nothing": b"",
        "half a hello": _HELLO[:5],
        "a hello": _HELLO,
        "half a message": _HELLO + message(5, 6, 2, bytes(24))[:20],
    }
    with undisturbed(pair, "a", "b"):
        peers = [dial(pair, "x", OPENFLOW) for _ in silent]
        for peer, data in zip(peers, silent.values(), strict=True):
            peer.sendall(data)
        # Not silent at all, and never done.
        chatter = dial(pair, "x", OPENFLOW)
        peers += [chatter, dial(pair, "x", OVSDB)]
        end = time.monotonic() + 20
        while left := [peer for peer in peers if not is_closed(peer)]:
            assert time.monotonic() < end, left
            select.select([], [], [], 0.1)
            try:
                chatter.send(m.encode(m.EchoRequest(), 7, 5))
            except (ConnectionError, BlockingIOError):
                pass
        for peer in peers:
            peer.close()


def test_a_datapath_id_that_is_claimed_from_another_host_is_refused_and_the_real_one_stays(pair: Cloud) -> None:
    state = pair.controller.app.cluster.state
    real = pair.controller.member("a").switch
    with undisturbed(pair, "a", "b"):
        for dpid in (state.computes[state.by_name["a"]].dpid, 4711, 0):
            with dial(pair, "x", OPENFLOW) as peer:
                FakeSwitch(peer).shake(dpid)
                heard_until_closed(peer, 5)
    assert pair.controller.member("a").switch is real


def test_a_peer_that_does_not_read_fills_a_bounded_queue_and_is_cut_off(pair: Cloud) -> None:
    bound = 192 << 20
    with undisturbed(pair, "a", "b"), dial(pair, "x", OPENFLOW) as peer:
        peer.settimeout(15)
        # Each echo request obliges us to an answer of its size, which is never read.
        request = m.encode(m.EchoRequest(bytes(60_000)), 1, 5) * 16
        assert sent_until_cut(peer, request, bound) < bound


def sent_until_cut(peer: socket.socket, data: bytes, most: int) -> int:
    """Send it again and again until the controller hangs up: how many bytes went out."""
    sent = 0
    try:
        while sent < most:
            sent += peer.send(data)
    except ConnectionError:
        pass
    return sent


def test_a_switch_that_hangs_is_cut_off_and_comes_back(pair: Cloud) -> None:
    hung = pair.lab.compute("c")
    with undisturbed(pair, "a", "b"):
        hung.stop(database=False)
        pair.wait(lambda: pair.controller.member("c").switch is None, 20, "c's switch to be cut off")
        hung.cont()
        pair.wait_ready("c", deadline=30)


def test_a_database_that_hangs_is_cut_off_and_comes_back(pair: Cloud) -> None:
    hung = pair.lab.compute("c")
    with undisturbed(pair, "a", "b"):
        hung.stop()
        pair.wait(lambda: pair.controller.member("c").link is None, 20, "c's database to be cut off")
        hung.cont()
        pair.wait_ready("c", deadline=30)


# ---- bundles --------------------------------------------------------------------------------------


def limit(compute: Compute, table: int, flows: int) -> None:
    """This table refuses flows above the limit, as a switch with small tables does."""
    compute.vsctl(
        *("--", "--id=@limit", "create", "Flow_Table", f"flow_limit={flows}", "overflow_policy=refuse"),
        *("--", "set", "Bridge", "br-int", f"flow_tables:{table}=@limit"),
    )


def test_a_switch_that_refuses_a_message_of_a_bundle_does_without_that_fragment_and_gets_the_rest(pair: Cloud) -> None:
    """Table 51 (MACs) of c is full: the port that came last is the one it must do without, and it is named."""
    c = pair.lab.compute("c")
    limit(c, 51, len(c.dump_flows("br-int", "table=51")))
    status = pair.service.compute_status
    try:
        with undisturbed(pair, "a", "b"):
            pair.add_vm("vm4", "c", "green", 4)
            fact = pair.controller.app.cluster.state.computes[pair.controller.member("c").number]
            pair.wait(lambda: bool(status(fact)["rejected"]), what="the refusal to be told")
            assert all("vm4" in key for key in status(fact)["rejected"])
            pair.wait_ready("c")
            # The rest is served; the audit knows what is missing.
            assert any(f.kind == "missing" and f.compute == "c" for f in pair.audit().findings)
            assert pair.lab.vm("vm3").active == "c"
    finally:
        c.vsctl("clear", "Bridge", "br-int", "flow_tables")
    pair.call(pair.service.reconcile(["c"], approve=False))
    pair.wait(lambda: not status(fact)["rejected"], what="nothing refused any more")
    pair.wait_clean()
    assert pair.lab.vm("vm3").reaches("10.2.0.4")
    pair.lab.remove_vm("vm4")
    pair.call(pair.service.delete_port("vm4"))


def test_a_refusal_at_a_restart_isolates_the_fragment_as_well(pair: Cloud) -> None:
    c = pair.lab.compute("c")
    pair.add_vm("vm4", "c", "green", 4)
    pair.wait_clean()
    held = len(c.dump_flows("br-int", "table=51"))
    try:
        with undisturbed(pair, "a", "b"):
            limit(c, 51, held - 1)
            c.ofctl("del-flows", "br-int")
            pair.call(pair.service.reconcile(["c"], approve=False))
            member = pair.controller.member("c")
            pair.wait(lambda: bool(member.rejected), what="the refusal to be told")
            pair.wait_ready("c")
            assert len(c.dump_flows("br-int", "table=51")) == held - 1
    finally:
        c.vsctl("clear", "Bridge", "br-int", "flow_tables")
    pair.call(pair.service.reconcile(["c"], approve=False))
    pair.wait(lambda: not member.rejected and member.clean, what="nothing refused any more")
    pair.lab.remove_vm("vm4")
    pair.call(pair.service.delete_port("vm4"))


@pytest.mark.parametrize("size", [1, 60, 200, 1000, 2000])
def test_a_connection_that_is_cut_in_the_middle_of_a_bundle_is_taken_up_again(pair: Cloud, size: int) -> None:
    """c has lost all of its flows; the wire is cut when so many bytes of the answer to that have been sent."""
    c = pair.lab.compute("c")
    held = c.dump_flows()
    assert isinstance(pair.controller, FrontedController)
    with undisturbed(pair, "a", "b"):
        cut = pair.controller.member("c").switch
        c.ofctl("del-flows", "br-int")
        pair.controller.cut_after(c, size)
        pair.call(pair.service.reconcile(["c"], approve=False))
        pair.wait(lambda: pair.controller.member("c").switch is not cut, what="the cut to be seen")
        pair.wait_ready("c", deadline=30)
    assert sorted(c.dump_flows()) == sorted(held)


# ---- OVSDB ----------------------------------------------------------------------------------------

_OVSDB_GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "noise": random.Random(6640).randbytes(4096),
    "openflow": _HELLO,
    "closed too often": b"}}}}",
    "an array": b"[1, 2, 3]",
    "no json inside": b'{"id": nonsense}',
    "nested without end": b'{"a":' * 5000,
    "params that are none": b'{"id":1,"method":"echo","params":{}}',
    "invalid text": b'{"id":1,"method":"\xff\xfe","params":[]}',
}


@pytest.mark.parametrize("data", list(_OVSDB_GARBAGE.values()), ids=list(_OVSDB_GARBAGE))
def test_a_database_that_sends_garbage_is_cut_off(pair: Cloud, data: bytes) -> None:
    before = members(pair)
    with dial(pair, "x", OVSDB) as peer:
        peer.sendall(data)
        heard_until_closed(peer, 5)
    assert members(pair) == before


def test_a_message_without_end_is_cut_off(pair: Cloud) -> None:
    with undisturbed(pair, "a", "b"), dial(pair, "x", OVSDB) as peer:
        peer.settimeout(15)
        peer.sendall(b'{"id":1,"method":"')
        assert sent_until_cut(peer, b"x" * (1 << 20), 64 << 20) < 64 << 20


def schema(cloud: Cloud) -> Any:
    return json.loads(cloud.lab.compute("x").ovsdb_client("get-schema", "Open_vSwitch"))


_ROW = "6f1a3c52-65bb-4a55-9a0e-eb7eb7eb7eb7"


def rows(**columns: Any) -> Any:
    """A monitor's first answer: one Open_vSwitch row, with these columns."""
    return [False, "00000000-0000-0000-0000-000000000000", {"Open_vSwitch": {_ROW: {"initial": columns}}}]


_LIES: dict[str, dict[str, Any]] = {
    "a schema that is a number": {"get_schema": 5},
    "a schema that is a text": {"get_schema": "Open_vSwitch"},
    "a schema without tables": {"get_schema": {"name": "Open_vSwitch", "version": "8.3.0", "tables": {}}},
    "tables that are a list": {"get_schema": {"name": "Open_vSwitch", "version": "8.3.0", "tables": []}},
    "the schema of another database": {
        "get_schema": {"name": "Ebbtide", "version": "1.0.0", "tables": {"Global": {"columns": {}}}}
    },
    "rows that are a number": {"monitor_cond_since": [False, "0", 7]},
    "no rows at all": {"monitor_cond_since": {}},
    "a map that is a number": {"monitor_cond_since": rows(external_ids=4)},
    "a map of the wrong kind": {"monitor_cond_since": rows(external_ids=["map", [[1, 2]]])},
    "a set of the wrong kind": {"monitor_cond_since": rows(bridges=["set", ["br-int"]])},
    "a number out of range": {"monitor_cond_since": rows(cur_cfg=1 << 70)},
    "a table that is not in the schema": {"monitor_cond_since": [False, "0", {"Nonsense": {"a": {"initial": {}}}}]},
}


@pytest.mark.parametrize("answers", list(_LIES.values()), ids=list(_LIES))
def test_a_database_whose_answers_have_the_wrong_types_is_cut_off(pair: Cloud, answers: dict[str, Any]) -> None:
    before = members(pair)
    with dial(pair, "x", OVSDB) as peer:
        FakeOvsdb(peer, {"get_schema": schema(pair), **answers}).serve_until_closed(12)
    assert members(pair) == before


@pytest.mark.parametrize("address", ["nonsense", "300.1.1.1", "0.0.0.0", "224.0.0.1", "::1", "10.0.0.1/24"])
def test_a_compute_with_an_impossible_tunnel_address_is_refused_and_told_why(pair: Cloud, address: str) -> None:
    x, cluster = pair.lab.compute("x"), pair.controller.app.cluster
    x.vsctl("set", "Open_vSwitch", ".", f'other_config:local_ip="{address}"', wait=False)
    try:
        x.register()
        pair.wait(lambda: any(address in why for why in cluster.refused.values()), what=f"{address} to be refused")
    finally:
        x.unregister()
        wait_until(lambda: not cluster.refused, "x to have gone")
        x.vsctl("set", "Open_vSwitch", ".", f"other_config:local_ip={x.tep}", wait=False)
    assert not x.has_bridge()
