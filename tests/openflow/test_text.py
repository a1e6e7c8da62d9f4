"""Flows in the spelling of ovs-ofctl. That a switch spells them so is tested in `test_real_switch`."""

from __future__ import annotations

import pytest

from ebbtide.compile.flow import (
    CONTROLLER,
    Bucket,
    Ct,
    Flow,
    Group,
    GroupType,
    Load,
    Meter,
    Move,
    Nat,
    Output,
    Resubmit,
    SetField,
    match,
)
from ebbtide.openflow import flows
from ebbtide.openflow.actions import Unknown
from ebbtide.openflow.text import (
    format_action,
    format_flow,
    format_group,
    format_installed,
    format_match,
    format_meter,
)


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (Flow(0, 0, ()), "table=0, priority=0 actions=drop"),
        (
            Flow(
                17, 10, match(in_port=1, eth_type=0x800, ipv4_dst=(0x0A000000, 0xFFFFFF00)), (SetField("reg6", 5),), 21
            ),
            "table=17, priority=10,ip,in_port=1,nw_dst=10.0.0.0/24 actions=set_field:0x5->reg6,goto_table:21",
        ),
        (
            Flow(3, 5, match(eth_type=0x86DD, ip_proto=58, icmpv6_type=135), (Output(CONTROLLER),), idle_timeout=9),
            "table=3, idle_timeout=9, priority=5,icmp6,icmp_type=135 actions=CONTROLLER:65535",
        ),
        (
            Flow(3, 5, match(metadata=(0x500, 0xFF00)), metadata=(1 << 40, 0xFF << 40), send_flow_removed=True),
            "table=3, send_flow_rem priority=5,metadata=0x500/0xff00 actions=write_metadata:0x10000000000/0xff0000000000",
        ),
        (
            Flow(4, 1, (), (Ct(5, commit=True, table=6, nat=Nat(src=True, ip_min=0x0A000001)), Resubmit(7)), meter=2),
            "table=4, priority=1 actions=meter:2,ct(commit,table=6,zone=5,nat(src=10.0.0.1)),resubmit(,7)",
        ),
    ],
)
def test_flow(flow: Flow, text: str) -> None:
    assert format_flow(flow) == text


def test_cookie() -> None:
    assert format_flow(Flow(0, 0, (), cookie=0xAB), cookie=True) == "cookie=0xab, table=0, priority=0 actions=drop"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (match(xreg0=5), "reg0=0,reg1=0x5"),
        (match(reg0=(5, 0)), ""),
        (match(ipv4_src=(0x0A000001, 0xFF0000FF), eth_type=0x800), "ip,nw_src=10.0.0.1/255.0.0.255"),
        (match(eth_type=0x800, ip_frag=(0, 1)), "ip,nw_frag=no"),
    ],
)
def test_match(found: tuple[object, ...], text: str) -> None:
    assert format_match(found) == text  # type: ignore[arg-type]


def test_actions() -> None:
    assert format_action(Load("reg0", 4, 1, 1)) == "load:0x1->NXM_NX_REG0[4]"
    assert format_action(Move("eth_src", "xxreg0", 48, 0, 3)) == "move:NXM_OF_ETH_SRC[]->NXM_NX_XXREG0[3..50]"
    assert format_action(Unknown(b"\x01\x02")) == "unknown(0102)"


def test_group_and_meter() -> None:
    group = Group(9, GroupType.FAST_FAILOVER, (Bucket((Output(1),), watch_port=1), Bucket((), watch_group=2)))
    assert format_group(group) == (
        "group_id=9,type=ff,bucket=watch_port:1,actions=output:1,bucket=watch_group:2,actions=drop"
    )
    assert format_meter(Meter(1, 100, 10)) == "meter=1,pktps,burst,stats,bands=type=drop,rate=100,burst_size=10"
    assert format_meter(Meter(1, 100, pktps=False)) == "meter=1,kbps,stats,bands=type=drop,rate=100"


def test_installed() -> None:
    encoded = flows.encode_flow(Flow(3, 7, match(in_port=1), (Output(2),), goto=9, cookie=0xAB << 32))
    clear = bytes.fromhex("0005000800000000")
    found = flows.InstalledFlow(
        *(3, 7, encoded.match, 0xAB, 5, 6, 1.5, 0, 0, 1, encoded.instructions + clear),
    )
    assert format_installed(found) == (
        "cookie=0xab, duration=1.500s, table=3, n_packets=5, n_bytes=6, send_flow_rem priority=7,in_port=1 "
        "actions=output:2,goto_table:9,instruction(0005000800000000)"
    )
    assert format_installed(
        found._replace(instructions=clear, match=bytes.fromhex("0001000c00015004010203040000 0000")), stats=False
    ) == ("cookie=0xab, table=3, send_flow_rem priority=7,oxm:00015004=0x1020304 actions=instruction(0005000800000000)")
