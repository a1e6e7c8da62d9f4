"""Round trips of matches, actions, flows and messages, and what becomes of bytes that are wrong."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.compile.flow import CONTROLLER, Flow, Load, M, Match, Meter, Output, SetField, match
from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.openflow import actions, flows, framing, messages, multipart, oxm, refusals, versions

from . import samples, strategies


def frame_of(data: bytes) -> framing.Frame:
    (frame,) = framing.FrameBuffer().feed(data)
    return frame


# ---- round trips ---------------------------------------------------------------------------------------------------


@given(strategies.matches)
def test_match_round_trip(found: Match) -> None:
    assert oxm.decode_match(oxm.encode_match(found)) == found


@given(strategies.matches, st.randoms())
def test_match_bytes_do_not_depend_on_the_order_of_writing(found: Match, random: object) -> None:
    assert oxm.encode_match(tuple(reversed(found))) == oxm.encode_match(found)


@given(strategies.action_lists)
def test_actions_round_trip(found: tuple[actions.AnyAction, ...]) -> None:
    data = actions.encode_actions(found)
    assert len(data) % 8 == 0
    assert actions.decode_actions(data) == found


@given(strategies.flows)
def test_flow_round_trip(flow: Flow) -> None:
    encoded = flows.encode_flow(flow)
    assert encoded.cookie >> 32 == flow.cookie >> 32
    back = flows.decode_flow(encoded)
    assert back == Flow(**{name: getattr(flow, name) for name in flow.__struct_fields__} | {"cookie": encoded.cookie})
    assert flows.canonical_instructions(encoded.instructions) == encoded.instructions


@given(strategies.messages, st.integers(0, 0xFFFFFFFF), st.sampled_from([4, 5]))
def test_message_round_trip(message: messages.Message, xid: int, version: int) -> None:
    frame = frame_of(messages.encode(message, xid, version))
    assert (frame.version, frame.xid) == (version, xid)
    assert messages.decode(frame) == message


@pytest.mark.parametrize("version", [4, 5])
def test_bundle_add_round_trip(version: int) -> None:
    inner = messages.encode(messages.BarrierRequest(), 7, version)
    frame = frame_of(messages.encode(messages.BundleAdd(9, inner, 3), 7, version))
    assert messages.decode(frame) == messages.BundleAdd(9, inner, 3)


def test_flow_add_is_the_flow_mod_of_the_same_content() -> None:
    for flow in samples.flows():
        encoded = flows.encode_flow(flow)
        slow = messages.FlowMod(
            *(flows.ADD, flow.table, flow.priority, flow.match, flow.actions, flow.goto, flow.metadata, flow.meter),
            cookie=encoded.cookie,
            idle_timeout=flow.idle_timeout,
            hard_timeout=flow.hard_timeout,
            flags=encoded.flags,
        )
        for version in (4, 5):
            assert flows.flow_add_bytes(encoded, 5, version) == messages.encode(slow, 5, version)


def test_deletes() -> None:
    encoded = flows.encode_flow(Flow(3, 7, match(in_port=1), cookie=5 << 32))
    strict = messages.decode(frame_of(flows.flow_delete_strict_bytes(encoded.key, 9, 5, 5 << 32, 0xFF << 32)))
    assert strict == messages.FlowMod(
        flows.DELETE_STRICT, 3, 7, match(in_port=1), cookie=5 << 32, cookie_mask=0xFF << 32
    )
    assert messages.decode(frame_of(flows.flow_delete_bytes(9, 4))) == messages.FlowMod(flows.DELETE)


def test_cookie_hashes_all_content() -> None:
    flow = Flow(1, 2, match(in_port=1), (Output(2),), cookie=0xAB << 32)
    others = [
        Flow(2, 2, match(in_port=1), (Output(2),)),
        Flow(1, 3, match(in_port=1), (Output(2),)),
        Flow(1, 2, match(in_port=2), (Output(2),)),
        Flow(1, 2, match(in_port=1), (Output(3),)),
        Flow(1, 2, match(in_port=1), (Output(2),), idle_timeout=1),
        Flow(1, 2, match(in_port=1), (Output(2),), hard_timeout=1),
        Flow(1, 2, match(in_port=1), (Output(2),), send_flow_removed=True),
    ]
    low = [flows.encode_flow(f).cookie & 0xFFFFFFFF for f in (flow, *others)]
    assert len(set(low)) == len(low)
    assert flows.encode_flow(flow).cookie >> 32 == 0xAB


def test_group_round_trip() -> None:
    for group in samples.GROUPS:
        encoded = flows.encode_group(group)
        assert flows.decode_buckets(encoded.buckets) == group.buckets
        back = messages.decode(frame_of(flows.group_mod_bytes(encoded, 1)))
        assert back == messages.GroupMod(flows.GROUP_ADD_OR_MODIFY, group.group_id, group.type, group.buckets)


# ---- canonical forms -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (match(reg0=(5, 0xFFFFFFFF)), match(reg0=5)),
        (match(reg0=(5, 0)), ()),
        (match(reg0=(0xFF, 0x0F)), match(reg0=(0x0F, 0x0F))),
        (match(xreg1=1 << 32 | 2), match(reg2=1, reg3=2)),
        (match(xxreg1=(3, 0xFF)), match(reg7=(3, 0xFF))),
        (match(xreg0=(1 << 32, 0xFF << 32), reg0=(0x100, 0x100)), match(reg0=(0x101, 0x1FF))),
        (match(vlan_tci=(0x1005, 0x1FFF)), match(vlan_vid=0x1005)),
        (match(vlan_tci=0x7005), match(vlan_vid=0x1005, vlan_pcp=3)),
        (match(vlan_tci=0), match(vlan_vid=0)),
        (match(vlan_tci=(0x1000, 0x1000)), match(vlan_vid=(0x1000, 0x1000))),
    ],
)
def test_names_that_a_switch_never_gives_back(written: Match, read: Match) -> None:
    assert oxm.decode_match(oxm.encode_match(written)) == read == oxm.canonical_match(written)


def test_canonical_instructions() -> None:
    plain = actions.encode_instructions((SetField("reg1", 5), Output(1)), goto=7)
    goto = b"\0\1\0\x08\7\0\0\0"
    full_load2 = bytes.fromhex("ffff001800002320002100010308 00000005 ffffffff 0000")
    output = bytes.fromhex("0000001000000001 ffff 000000000000")
    other = goto + bytes.fromhex("00040030 00000000") + full_load2 + output
    assert flows.canonical_instructions(other) == plain


def test_instructions_that_we_would_not_write_stay_as_they_are() -> None:
    outside = bytes.fromhex("0004002000000000 ffff0018000023200006 0020 0800 0000 00010004 00010204")
    assert flows.canonical_instructions(outside) == outside


@pytest.mark.parametrize("fields", ["00010004000000010001000400000002", "80000c02ffff", "80000d04ffff0000"])
def test_matches_that_contradict_themselves(fields: str) -> None:
    body = bytes.fromhex(fields)
    data = b"\0\1" + (4 + len(body)).to_bytes(2, "big") + body
    with pytest.raises(RemoteProtocolError):
        oxm.decode_match(data + b"\0" * (-len(data) % 8))


def test_unknown_action_keeps_its_bytes() -> None:
    note = bytes.fromhex("ffff00100000232000080102030405 06")
    assert actions.decode_actions(note) == (actions.Unknown(note),)
    assert actions.encode_actions((actions.Unknown(note),)) == note


def test_unknown_field_is_named_by_its_header() -> None:
    tun_metadata0 = bytes.fromhex("00015004 01020304")
    assert oxm.decode_fields(tun_metadata0, 0, 8) == [M("oxm:00015004", 0x01020304)]


def test_prerequisites() -> None:
    for found in samples.MATCHES:
        assert oxm.missing_prerequisite(found) == ""
    for found, _ in samples.ACTIONS:
        assert oxm.missing_prerequisite(found) == ""
    assert "ip_proto=0x6" in oxm.missing_prerequisite(match(tcp_dst=80, eth_type=0x800))
    assert "eth_type" in oxm.missing_prerequisite(match(ipv4_dst=80))
    assert "vlan_vid" in oxm.missing_prerequisite(match(vlan_pcp=1))
    assert "ct_state" in oxm.missing_prerequisite(match(ct_nw_proto=6, eth_type=0x800, ct_state=(0x20, 0x20)))


# ---- what we may not ask for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flow",
    [
        Flow(0, 1, match(nonsense=1)),
        Flow(0, 1, match(in_port=1 << 32)),
        Flow(0, 1, match(in_port=-1)),
        Flow(0, 1, match(vlan_vid=0x2000)),
        Flow(0, 1, match(eth_type=(0x800, 0xFF))),
        Flow(0, 1, match(reg0=(1, 1 << 32))),
        Flow(0, 1, match(xreg0=1, reg0=5)),
        Flow(0, 1, match(vlan_tci=(0x2000, 0x2000))),
        Flow(256, 1, ()),
        Flow(0, 65536, ()),
        Flow(0, 1, (), (Output(1 << 32),)),
        Flow(0, 1, (), (Load("reg0", 0, 4, 16),)),
        Flow(0, 1, (), (Load("reg0", 30, 4, 1),)),
        Flow(0, 1, (), (Load("nonsense", 0, 4, 1),)),
        Flow(0, 1, (), (Load("actset_output", 0, 4, 1),)),
        Flow(0, 1, (), (SetField("reg0", 1 << 32),)),
        Flow(0, 1, (), goto=256),
        Flow(0, 1, (), meter=-1),
        Flow(0, 1, (), metadata=(1 << 64, 1 << 64)),
        Flow(0, 1, (), (Output(1),) * 5000),
    ],
)
def test_local_errors(flow: Flow) -> None:
    with pytest.raises(LocalProtocolError):
        flows.flow_add_bytes(flows.encode_flow(flow), 1)


def test_bundle_refuses_what_does_not_fit() -> None:
    big = flows.flow_add_bytes(flows.encode_flow(Flow(0, 1, (), (Output(1),) * 4091)), 1)
    assert 65535 - 16 < len(big) <= 65535
    with pytest.raises(LocalProtocolError):
        versions.bundle_bytes(1, [big], 1)


# ---- what the peer may not send ------------------------------------------------------------------------------------


def survives(data: bytes) -> None:
    """Whatever the bytes are, only RemoteProtocolError comes out."""
    try:
        for frame in framing.FrameBuffer().feed(data):
            message = messages.decode(frame)
            if isinstance(message, messages.MultipartReply):
                read_all(message.body, frame.version)
    except RemoteProtocolError:
        pass


def read_all(body: bytes, version: int) -> None:
    for read in (
        *(flows.iter_flow_stats, multipart.read_desc, multipart.read_aggregate, multipart.read_tables),
        *(multipart.read_groups, multipart.read_group_stats, multipart.read_meters, multipart.read_meter_stats),
        *(flows.decode_buckets, actions.decode_instructions, oxm.decode_match),
    ):
        try:
            read(body)
        except RemoteProtocolError:
            pass
    for read_versioned in (multipart.read_ports, multipart.read_port_stats):
        try:
            read_versioned(body, version)
        except RemoteProtocolError:
            pass


@given(strategies.messages, st.sampled_from([4, 5]), st.data())
def test_cut_messages(message: messages.Message, version: int, data: st.DataObject) -> None:
    whole = messages.encode(message, 1, version)
    cut = whole[: data.draw(st.integers(8, len(whole)))]
    survives(cut[:2] + len(cut).to_bytes(2, "big") + cut[4:])


@given(strategies.messages, st.sampled_from([4, 5]), st.data())
def test_changed_messages(message: messages.Message, version: int, data: st.DataObject) -> None:
    whole = bytearray(messages.encode(message, 1, version))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(strategies.u8)
    survives(bytes(whole))


@given(st.integers(0, 40), st.binary(max_size=300), st.sampled_from([4, 5]))
def test_random_bodies(kind: int, body: bytes, version: int) -> None:
    survives(framing.message(version, kind, 1, body))


@given(st.binary(max_size=300), st.sampled_from([4, 5]))
def test_random_multipart_bodies(body: bytes, version: int) -> None:
    read_all(body, version)


@given(st.binary(max_size=100))
def test_random_nicira_actions(body: bytes) -> None:
    body += b"\0" * (-len(body) % 8)
    for subtype in range(50):
        head = b"\xff\xff" + (16 + len(body)).to_bytes(2, "big") + b"\0\0\x23\x20" + subtype.to_bytes(2, "big")
        try:
            actions.decode_actions(head + b"\0" * 6 + body)
        except RemoteProtocolError:
            pass


@given(st.binary(max_size=60))
def test_random_packet_in2(body: bytes) -> None:
    survives(framing.message(5, 4, 1, b"\0\0\x23\x20\0\0\0\x1e" + body))


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (messages.Error(4, 9), "bad_match/bad_prereq"),
        (messages.Error(17, 13), "bundle_failed/msg_failed"),
        (messages.Error(0xFFFF, 2313, b"", 0x4F4E4600), "bundle_failed/msg_failed"),
        (messages.Error(5, 99), "flow_mod_failed/99"),
        (messages.Error(99, 1), "99/1"),
        (messages.Error(0xFFFF, 1, b"", 0x2320), "experimenter/0x00002320/1"),
    ],
)
def test_errors_in_words(error: messages.Error, words: str) -> None:
    assert refusals.describe(error) == words


def test_crc_is_over_what_the_docstring_says() -> None:
    encoded = flows.encode_flow(Flow(1, 2, match(in_port=1), (Output(CONTROLLER),), idle_timeout=3))
    content = bytes.fromhex("01 0002 0003 0000 0000") + encoded.match + encoded.instructions
    assert encoded.cookie == crc32(content)


def test_meter_mod_delete_has_no_bands() -> None:
    assert len(messages.encode(messages.MeterMod(2, Meter(1, 5)), 1)) == 16
