"""What a real ovs-vswitchd makes of our bytes, and we of its: Open vSwitch is the oracle."""

from __future__ import annotations

import re
import time

import pytest

from ebbtide.compile.flow import (
    CONTROLLER,
    Action,
    Ct,
    Flow,
    Load,
    Meter,
    Output,
    SetField,
    ToController,
    ToGroup,
    match,
)
from ebbtide.openflow import flows, multipart, oxm, text
from ebbtide.openflow import messages as m
from ebbtide.openflow.session import Collected, Received, Refused

from .conftest import DEADLINE, PrivateSwitch, Wire
from .samples import GROUPS
from .samples import flows as sample_flows

pytestmark = pytest.mark.lab


@pytest.fixture
def clean(wire: Wire) -> Wire:
    """A bridge with the sample groups and a meter, and no flows."""
    session = wire.session
    # A connection to the management socket gets no asynchronous messages while miss_send_len is 0.
    session.send(m.SetConfig(0, 0xFFFF))
    session.send_bytes(flows.flow_delete_bytes(session.take_xids(), wire.version))
    session.send_bytes(flows.group_delete_bytes(flows.ALL_GROUPS, session.take_xids(), wire.version))
    session.send(m.MeterMod(2, Meter(multipart.ALL_METERS, 0)))
    session.send(m.MeterMod(0, Meter(1, 1000, 100)))
    for group in GROUPS:
        session.send_bytes(flows.group_mod_bytes(flows.encode_group(group), session.take_xids(), wire.version))
    barrier(wire)
    return wire


def barrier(wire: Wire) -> None:
    """Wait until all is done, and see that nothing was refused."""
    assert wire.ask(m.BarrierRequest()) == Received(wire.session._next_xid - 1, m.BarrierReply())
    refused = [e for e in wire.seen if isinstance(e, Refused)]
    assert not refused, refused


def dump(wire: Wire) -> dict[flows.Key, flows.InstalledFlow]:
    return {found.key: found for found in flows.iter_flow_stats(wire.collect(multipart.flow_request()))}


def install(wire: Wire, wanted: list[Flow]) -> None:
    for flow in wanted:
        xid = wire.session.take_xids()
        wire.session.send_bytes(flows.flow_add_bytes(flows.encode_flow(flow, wire.version), xid, wire.version))
    barrier(wire)


def same(installed: flows.InstalledFlow, encoded: flows.EncodedFlow) -> bool:
    return (
        *(installed.key, installed.instructions, installed.cookie, installed.idle_timeout, installed.hard_timeout),
        installed.flags,
    ) == encoded


def test_dump_gives_our_bytes_back(clean: Wire) -> None:
    install(clean, sample_flows())
    found = dump(clean)
    assert len(found) == len(sample_flows())
    for flow in sample_flows():
        encoded = flows.encode_flow(flow, clean.version)
        assert encoded.key in found, (flow, [f for f in found.values() if f.priority == flow.priority])
        assert same(found[encoded.key], encoded), (flow, found[encoded.key])


def test_groups_come_back(clean: Wire) -> None:
    found = multipart.read_groups(clean.collect(multipart.group_desc_request()))
    assert {g.group_id: tuple(g) for g in found} == {g.group_id: tuple(flows.encode_group(g)) for g in GROUPS}


def test_add_or_modify_replaces_a_group(clean: Wire) -> None:
    changed = flows.encode_group(GROUPS[1])._replace(group_id=1)
    clean.session.send_bytes(flows.group_mod_bytes(changed, clean.session.take_xids(), clean.version))
    barrier(clean)
    found = multipart.read_groups(clean.collect(multipart.group_desc_request()))
    (one,) = [g for g in found if g.group_id == 1]
    assert len(one.decoded()) == 2
    assert one.decoded()[0].actions == GROUPS[1].buckets[0].actions


def test_bundle_is_atomic(clean: Wire) -> None:
    session, version = clean.session, clean.version
    wanted = sample_flows()
    first = session.take_xids(len(wanted))
    data = [flows.flow_add_bytes(flows.encode_flow(f), first + n, version) for n, f in enumerate(wanted)]
    xid = session.send_bundle(7, data)
    assert clean.reply(xid) == Received(xid, m.BundleControl(7, m.BUNDLE_OPENED, 0))
    assert clean.reply(xid) == Received(xid, m.BundleControl(7, m.BUNDLE_COMMITTED, 0))
    assert set(dump(clean)) == {flows.encode_flow(f).key for f in wanted}

    # What can only be seen while it is carried out makes the whole bundle fail: a group that is not there.
    session.take_xids()
    inner = session.take_xids(2)
    delete = flows.flow_delete_bytes(inner, version)
    bad = flows.flow_add_bytes(flows.encode_flow(Flow(0, 5, (), (ToGroup(999),))), inner + 1, version)
    xid = session.send_bundle(8, [delete, bad])
    clean.until(lambda: any(isinstance(e, Refused) and e.xid == xid for e in clean.seen))
    refused = {e.xid: e.words for e in clean.seen if isinstance(e, Refused)}
    assert refused == {inner + 1: "bad_action/bad_out_group", xid: "bundle_failed/msg_failed"}
    assert len(dump(clean)) == len(wanted)


def test_bundle_loses_a_malformed_message(clean: Wire) -> None:
    # What the switch refuses on arrival is not in the bundle, and a commit goes through without it. Therefore a
    # bundle can be sent without its commit, and the commit after a barrier that brought no refusal.
    session, version = clean.session, clean.version
    good = Flow(0, 5, match(in_port=1), (Output(1),))
    bad = Flow(0, 5, match(ipv4_dst=1), (Output(1),))
    first = session.take_xids(2)
    data = [flows.flow_add_bytes(flows.encode_flow(f), first + n, version) for n, f in enumerate((good, bad))]
    xid = session.send_bundle(9, data, commit=False)
    assert clean.reply(xid) == Received(xid, m.BundleControl(9, m.BUNDLE_OPENED, 0))
    assert isinstance(clean.ask(m.BarrierRequest()), Received)
    (refused,) = [e for e in clean.seen if isinstance(e, Refused)]
    assert (refused.xid, refused.words) == (first + 1, "bad_match/bad_prereq")
    done = clean.ask(m.BundleControl(9, m.BUNDLE_COMMIT))
    assert isinstance(done, Received)
    assert done.message == m.BundleControl(9, m.BUNDLE_COMMITTED, 0)
    assert set(dump(clean)) == {flows.encode_flow(good).key}

    clean.seen.clear()
    xid = session.send_bundle(10, [flows.flow_delete_bytes(session.take_xids(), version)], commit=False)
    assert clean.reply(xid) == Received(xid, m.BundleControl(10, m.BUNDLE_OPENED, 0))
    assert isinstance(clean.ask(m.BundleControl(10, m.BUNDLE_DISCARD)), Received)
    barrier(clean)
    assert len(dump(clean)) == 1


def test_delete_strict_and_by_cookie(clean: Wire) -> None:
    wanted = [Flow(t, 5, match(reg0=n), (Output(1),), cookie=t << 32) for t in (1, 2) for n in range(3)]
    install(clean, wanted)
    key = flows.encode_flow(wanted[0]).key
    session = clean.session
    session.send_bytes(flows.flow_delete_strict_bytes(key, session.take_xids(), clean.version))
    barrier(clean)
    assert set(dump(clean)) == {flows.encode_flow(f).key for f in wanted[1:]}
    session.send_bytes(
        flows.flow_delete_bytes(session.take_xids(), clean.version, cookie=2 << 32, cookie_mask=0xFF << 32)
    )
    barrier(clean)
    assert {key[0] for key in dump(clean)} == {1}


def test_statistics(clean: Wire) -> None:
    install(clean, [Flow(0, 5, match(in_port=1), (Output(2),))])
    version = clean.version
    desc = multipart.read_desc(clean.collect(multipart.desc_request()))
    assert desc.hardware == "Open vSwitch"
    assert multipart.read_aggregate(clean.collect(multipart.aggregate_request())).n_flows == 1
    tables = multipart.read_tables(clean.collect(multipart.table_request()))
    assert [t.n_active for t in tables if t.table == 0] == [1]
    ports = multipart.read_ports(clean.collect(multipart.port_desc_request()), version)
    assert {p.name: p.port for p in ports} == {"br0": 0xFFFFFFFE, "p1": 1, "p2": 2}
    counters = multipart.read_port_stats(clean.collect(multipart.port_stats_request()), version)
    assert {c.port for c in counters} == {0xFFFFFFFE, 1, 2}
    groups = multipart.read_group_stats(clean.collect(multipart.group_stats_request()))
    assert {g.group_id: len(g.buckets) for g in groups} == {g.group_id: len(g.buckets) for g in GROUPS}
    assert multipart.read_meters(clean.collect(multipart.meter_config_request())) == (Meter(1, 1000, 100),)
    (stats,) = multipart.read_meter_stats(clean.collect(multipart.meter_stats_request()))
    assert (stats.meter_id, len(stats.bands)) == (1, 1)
    one = clean.ask(multipart.flow_request(0, match(in_port=1)))
    assert isinstance(one, Collected)
    assert len(flows.iter_flow_stats(one.body)) == 1


def test_meters(clean: Wire) -> None:
    wanted = (Meter(1, 7, 0, False), Meter(2, 5, 9), Meter(3, 5))
    clean.session.send(m.MeterMod(1, wanted[0]))
    for meter in wanted[1:]:
        clean.session.send(m.MeterMod(0, meter))
    barrier(clean)
    found = multipart.read_meters(clean.collect(multipart.meter_config_request()))
    assert tuple(sorted(found, key=lambda x: x.meter_id)) == wanted
    refused = clean.ask(m.MeterMod(0, wanted[0]))
    assert isinstance(refused, Refused)
    assert refused.words == "meter_mod_failed/meter_exists"


PACKET = bytes.fromhex(
    "020000000002 020000000001 0800 4500001c 00000000 4011 66cf 0a000001 0a000002 0001 0002 00080000"
)


def receive(switch: PrivateSwitch, port: int, packet: bytes) -> None:
    # What the datapath remembers of earlier flows outlives the barrier for a moment.
    switch.appctl("revalidator/wait")
    switch.appctl("netdev-dummy/receive", f"p{port}", packet.hex())


def packet_in(wire: Wire) -> m.PacketIn:
    wire.until(lambda: any(isinstance(e, Received) and isinstance(e.message, m.PacketIn) for e in wire.seen))
    (found,) = [e.message for e in wire.seen if isinstance(e, Received) and isinstance(e.message, m.PacketIn)]
    wire.seen.clear()
    return found


def test_packet_in(switch: PrivateSwitch, clean: Wire) -> None:
    session = clean.session
    flow = Flow(0, 5, match(in_port=1), (SetField("reg3", 9), Output(CONTROLLER)), cookie=5 << 32)
    install(clean, [flow])
    receive(switch, 1, PACKET)
    standard = packet_in(clean)
    assert standard.data[: len(PACKET)] == PACKET
    assert (standard.table, standard.cookie) == (0, flows.encode_flow(flow).cookie)
    assert {f.name: f.value for f in standard.match}["in_port"] == 1

    punt = ToController(reason=2, userdata=b"\x01\x02\x03", pause=True)
    install(clean, [Flow(0, 5, match(in_port=1), (SetField("reg3", 9), punt))])
    session.send(m.SetPacketInFormat(2))
    session.send(m.SetAsync(packet_in=0b111111))
    barrier(clean)
    receive(switch, 1, PACKET)
    found = packet_in(clean)
    assert found.data[: len(PACKET)] == PACKET
    assert found.total_len == len(found.data)
    assert (found.reason, found.userdata) == (2, b"\x01\x02\x03")
    assert found.continuation
    fields = {f.name: f.value for f in found.match}
    assert (fields["in_port"], fields["reg3"]) == (1, 9)


def test_packet_in_with_conntrack_fields(switch: PrivateSwitch, clean: Wire) -> None:
    clean.session.send(m.SetPacketInFormat(2))
    tracked = match(eth_type=0x800, ct_state=(0x20, 0x20))
    install(
        clean,
        [
            Flow(0, 5, match(eth_type=0x800), (Ct(zone=77, table=1),)),
            Flow(1, 5, tracked, (ToController(userdata=b"x"),)),
        ],
    )
    receive(switch, 1, PACKET)
    fields = {f.name: f.value for f in packet_in(clean).match}
    assert fields["ct_zone"] == 77
    assert fields["ct_nw_src"] == 0x0A000001
    assert fields["ct_tp_dst"] == 2


def test_packet_out(switch: PrivateSwitch, clean: Wire) -> None:
    before = multipart.read_port_stats(clean.collect(multipart.port_stats_request(2)), clean.version)
    clean.session.send(m.PacketOut(CONTROLLER, (SetField("reg0", 1), Output(2)), PACKET))
    barrier(clean)
    after = multipart.read_port_stats(clean.collect(multipart.port_stats_request(2)), clean.version)
    assert after[0].tx_packets == before[0].tx_packets + 1


def test_flow_removed(clean: Wire) -> None:
    flow = Flow(0, 5, match(in_port=1, eth_type=0x800), (Output(2),), cookie=9 << 32, send_flow_removed=True)
    install(clean, [flow])
    clean.session.send_bytes(flows.flow_delete_bytes(clean.session.take_xids(), clean.version))
    clean.until(lambda: any(isinstance(e, Received) and isinstance(e.message, m.FlowRemoved) for e in clean.seen))
    (removed,) = [e.message for e in clean.seen if isinstance(e, Received) and isinstance(e.message, m.FlowRemoved)]
    encoded = flows.encode_flow(flow)
    assert (removed.table, removed.priority, removed.match) == encoded.key
    assert (removed.cookie, removed.reason) == (encoded.cookie, 2)


def test_port_status(switch: PrivateSwitch, clean: Wire) -> None:
    add = "add-port br0 p9 -- set interface p9 type=dummy ofport_request=9"
    switch.run("ovs-vsctl", f"--db={switch.db}", "-t", "15", *add.split())
    switch.run("ovs-vsctl", f"--db={switch.db}", "-t", "15", "del-port", "p9")

    def reasons() -> list[int]:
        return [
            e.message.reason
            for e in clean.seen
            if isinstance(e, Received) and isinstance(e.message, m.PortStatus) and e.message.port.name == "p9"
        ]

    clean.until(lambda: 1 in reasons())
    assert reasons()[0] == 0


def test_roles(switch: PrivateSwitch, clean: Wire) -> None:
    other = Wire(switch.bridge, clean.version)
    try:
        # The switch remembers the generation between tests.
        old, new = clean.version * 10, clean.version * 10 + 1
        reply = clean.ask(m.RoleRequest(2, old))
        assert isinstance(reply, Received)
        assert reply.message == m.RoleReply(2, old)
        other.ask(m.RoleRequest(2, new))
        stale = clean.ask(m.RoleRequest(2, old))
        assert isinstance(stale, Refused)
        assert stale.words == "role_request_failed/stale"
        if clean.version == 5:
            statuses = [e.message for e in clean.seen if isinstance(e, Received)]
            assert m.RoleStatus(3, 0, new) in statuses, clean.seen
        refused = clean.ask(m.GroupMod(flows.GROUP_DELETE, 99))
        assert isinstance(refused, Refused)
        assert refused.words == "bad_request/is_slave"
    finally:
        other.close()


def test_small_messages_are_taken(clean: Wire) -> None:
    for message in (
        *(m.SetPacketInFormat(0), m.SetPacketInFormat(2), m.SetAsync(), m.CtFlushZone(5), m.CtFlush(zone=3)),
        m.CtFlush(3, 6, m.CtTuple(0x0A000001, 0x0A000002, 5, 6)),
        m.CtFlush(None, 1, m.CtTuple(src=0x0A000001, icmp_id=2, icmp_type=8, icmp_code=0)),
        m.CtFlush(None, 0, m.CtTuple(src=1 << 100, ipv6=True)),
    ):
        clean.session.send(message)
    barrier(clean)
    clean.session.send(m.SetConfig(0, 99))
    reply = clean.ask(m.GetConfigRequest())
    assert isinstance(reply, Received)
    assert reply.message == m.GetConfigReply(0, 99)
    echo = clean.ask(m.EchoRequest(b"abc"))
    assert isinstance(echo, Received)
    assert echo.message == m.EchoReply(b"abc")


def connections(switch: PrivateSwitch) -> str:
    return switch.appctl("dpctl/dump-conntrack")


def test_conntrack_is_flushed_by_tuple(switch: PrivateSwitch, clean: Wire) -> None:
    install(clean, [Flow(0, 5, match(eth_type=0x800), (Ct(zone=78, commit=True), Output(2)))])
    for port in (1001, 1002):
        receive(switch, 1, PACKET[:34] + port.to_bytes(2, "big") + PACKET[36:])
    deadline = time.monotonic() + DEADLINE
    while "sport=1002" not in connections(switch):
        assert time.monotonic() < deadline
    assert "sport=1001" in connections(switch)
    clean.session.send(m.CtFlush(78, 17, m.CtTuple(src=0x0A000001, src_port=1001)))
    barrier(clean)
    assert "sport=1001" not in connections(switch)
    assert "sport=1002" in connections(switch)
    clean.session.send(m.CtFlushZone(78))
    barrier(clean)
    assert "sport=1002" not in connections(switch)


def test_prerequisites_are_those_of_the_switch(clean: Wire) -> None:
    for name in oxm.PREREQUISITES:
        mask = 2 if name == "tcp_flags" else None
        found = match(**{name: 1 if mask is None else (2, mask)})
        assert oxm.missing_prerequisite(found)
        xid = clean.session.take_xids()
        data = flows.flow_add_bytes(flows.encode_flow(Flow(0, 1, found)), xid, clean.version)
        clean.session.send_bytes(data)
        refused = clean.reply(xid)
        assert isinstance(refused, Refused)
        assert refused.words == "bad_match/bad_prereq", name


# ---- text ----------------------------------------------------------------------------------------------------------


def test_text_is_what_the_switch_prints(switch: PrivateSwitch, clean: Wire) -> None:
    install(clean, sample_flows())
    printed = switch.ofctl("--no-stats", "--no-names", "dump-flows", switch_socket(switch), version=clean.version)
    theirs = {re.sub(r"^ *cookie=\S+, ", "", line) for line in printed.splitlines() if "actions=" in line}
    assert {text.format_flow(flow) for flow in sample_flows()} == theirs
    with_cookies = {text.format_installed(found, stats=False) for found in dump(clean).values()}
    assert with_cookies == {line.strip() for line in printed.splitlines() if "actions=" in line}


def test_group_text_is_what_the_switch_prints(switch: PrivateSwitch, clean: Wire) -> None:
    printed = switch.ofctl("dump-groups", switch_socket(switch), version=clean.version)
    theirs = {line.strip() for line in printed.splitlines() if "group_id" in line}
    assert {text.format_group(group) for group in GROUPS} == theirs


def switch_socket(switch: PrivateSwitch) -> str:
    return f"unix:{switch.bridge}"


def as_loads(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """A masked SetField as the reg_load actions that ovs-ofctl makes of its text: one per run of ones, from the top."""
    out: list[Action] = []
    for action in actions:
        if isinstance(action, Ct):
            exec_ = tuple(e for e in as_loads(action.exec) if isinstance(e, SetField | Load))
            out.append(Ct(**{n: getattr(action, n) for n in action.__struct_fields__} | {"exec": exec_ or action.exec}))
        elif isinstance(action, SetField) and action.mask is not None:
            out += runs(action.name, action.value, action.mask)
        else:
            out.append(action)
    return tuple(out)


def runs(name: str, value: int, mask: int) -> list[Load]:
    found: list[Load] = []
    offset = 0
    while mask >> offset:
        if not mask >> offset & 1:
            offset += 1
            continue
        nbits = 0
        while mask >> offset + nbits & 1 and nbits < 64:
            nbits += 1
        found.append(Load(name, offset, nbits, value >> offset & (1 << nbits) - 1))
        offset += nbits
    return found


def test_text_means_what_our_bytes_mean(switch: PrivateSwitch, clean: Wire) -> None:
    # Left out: a bare ToController, whose text is that of an Output; and max_len of output_reg, which has no text.
    wanted = [
        flow
        for flow in sample_flows()
        if not any(
            (isinstance(a, ToController) and not a.userdata and not a.pause) or getattr(a, "max_len", 0xFFFF) == 128
            for a in flow.actions
        )
        or any(a == Output(CONTROLLER, 128) for a in flow.actions)
    ]
    lines = [text.format_flow(flow) for flow in wanted]
    path = switch.folder / "flows.txt"
    path.write_text("\n".join(lines))
    switch.ofctl("add-flows", switch_socket(switch), str(path), version=clean.version)
    found = dump(clean)
    for flow in wanted:
        encoded = flows.encode_flow(flow)
        loads = Flow(**{n: getattr(flow, n) for n in flow.__struct_fields__} | {"actions": as_loads(flow.actions)})
        assert encoded.key in found, text.format_flow(flow)
        assert found[encoded.key].instructions in (
            encoded.instructions,
            flows.encode_flow(loads).instructions,
        ), text.format_flow(flow)


def test_group_and_meter_text_is_taken(switch: PrivateSwitch, clean: Wire) -> None:
    session = clean.session
    session.send_bytes(flows.group_delete_bytes(flows.ALL_GROUPS, session.take_xids(), clean.version))
    barrier(clean)
    for group in GROUPS:
        switch.ofctl("add-group", switch_socket(switch), text.format_group(group), version=clean.version)
    test_groups_come_back(clean)
    meter = Meter(8, 55, 5, False)
    switch.ofctl("add-meter", switch_socket(switch), text.format_meter(meter), version=clean.version)
    assert meter in multipart.read_meters(clean.collect(multipart.meter_config_request()))
