"""The second searcher reads what Open vSwitch's own tools print, and is not taken in by what only looks alike."""

from __future__ import annotations

import pytest

from ebbtide.lab.second_search import holds

DPID = 0x00EB_0000_0000_0007


@pytest.mark.parametrize(
    ("identity", "line"),
    [
        ("number:7", "cookie=0x2010000700000abc, table=220, priority=7 actions=drop"),
        ("number:7", "cookie=0x6010000700000abc, table=220, priority=7 actions=drop"),
        ("number:7", "cookie=0x1, table=220, priority=10,reg5=0x7 actions=drop"),
        ("number:7", "cookie=0x1, table=220, priority=10,reg5=0x7,reg6=0x1 actions=drop"),
        ("number:7", "cookie=0x1, table=220, reg5=0x7/0xffff actions=drop"),
        ("number:7", "cookie=0x1, actions=set_field:0x7->reg5,resubmit(,220)"),
        ("number:7", "cookie=0x1, actions=set_field:0x7/0xffff->reg5,resubmit(,220)"),
        ("number:7", "cookie=0x1, actions=load:0x7->NXM_NX_REG5[0..15]"),
        ("number:7", "cookie=0x1, actions=learn(table=9,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0x7->NXM_NX_REG5[])"),
        ("number:7", "cookie=0x1, actions=learn(table=9,reg5=0x7,output:NXM_OF_IN_PORT[])"),
        ("number:7", "cookie=0x1, actions=set_field:0x300000007->xreg2"),
        ("number:7", "group_id=1,type=all,bucket=bucket_id:0,actions=set_field:0x7->reg5,resubmit(,220)"),
        ("tep:10.0.0.7", "actions=set_field:10.0.0.7->tun_dst,output:1"),
        ("tep:10.0.0.7", "priority=7,tun_src=10.0.0.7 actions=drop"),
        ("tep:10.0.0.7", "actions=load:0xa000007->NXM_NX_TUN_IPV4_DST[]"),
        ("tep:fd00::7", "actions=set_field:fd00::7->tun_ipv6_dst,output:1"),
        ("tep:fd00::7", "priority=7,tun_ipv6_src=fd00::7 actions=drop"),
        ("tep:fd00::7", "priority=7,tun_ipv6_dst=fd00::7/ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff0f actions=drop"),
        ("tep:fd00::7", "actions=load:0xfd000000000000000000000000000007->NXM_NX_TUN_IPV6_DST[]"),
        ("mac:02:aa:bb:cc:dd:ee", "priority=7,dl_dst=02:aa:bb:cc:dd:ee actions=drop"),
        ("mac:02:aa:bb:cc:dd:ee", "arp,arp_sha=02:aa:bb:cc:dd:ee actions=drop"),
        ("mac:02:aa:bb:cc:dd:ee", "actions=set_field:02:aa:bb:cc:dd:ee->eth_dst"),
        ("mac:02:aa:bb:cc:dd:ee", "actions=learn(table=9,load:0x2aabbccddee->NXM_OF_ETH_DST[])"),
    ],
)
def test_an_identity_is_found_in_a_flow_or_group(identity: str, line: str) -> None:
    assert holds(line, identity)


@pytest.mark.parametrize(
    ("identity", "line"),
    [
        ("number:7", 'Interface external_ids        : {ebbtide-peer="7"}'),
        ("tep:10.0.0.7", 'Interface options             : {key=flow, remote_ip="10.0.0.7"}'),
        *(
            ("tep:fd00::7", f'Interface options             : {{key=flow, remote_ip="{text}"}}')
            for text in ("fd00::7", "FD00::7", "fd00:0:0::7", "fd00:0000::0007", "fd00:0:0:0:0:0:0:7", "fd00::0.0.0.7")
        ),
        ("tep:fd00::7", 'Controller target             : "tcp:[FD00::0:7]:6653"'),
        ("tep:fd00::7", 'Bridge external_ids           : {note="was fd00:0::7: moved"}'),
        (f"dpid:{DPID}", 'Bridge other_config           : {datapath-id="00eb000000000007"}'),
        (f"dpid:{DPID}", f"Bridge external_ids           : {{of=openflow:{DPID}}}"),
        ("mac:02:aa:bb:cc:dd:ee", 'Bridge other_config           : {hwaddr="02-AA-BB-CC-DD-EE"}'),
        ("mac:02:aa:bb:cc:dd:ee", 'Bridge datapath_id            : "000002aabbccddee"'),
        ("system-id:sys-gone", 'Bridge external_ids           : {peer="sys-gone"}'),
        ("name:gone", "Interface external_ids        : {peer=gone}"),
        ("name:c4", 'Controller target             : "tcp:c4:6640"'),
    ],
)  # fmt: skip
def test_an_identity_is_found_in_a_row(identity: str, line: str) -> None:
    assert holds(line, identity, row=True)


@pytest.mark.parametrize(
    ("identity", "line", "row"),
    [
        ("number:7", "cookie=0x4010000700000abc, table=220, reg6=0x7 actions=drop", False),
        ("number:7", "cookie=0x1, table=7, priority=7,reg5=0x70 actions=set_field:0x7->reg6", False),
        ("number:7", "cookie=0x1, actions=load:0x7->NXM_NX_REG5[8..15]", False),
        ("number:7", "cookie=0x1, actions=set_field:0x700000003->xreg2", False),
        ("number:7", 'Interface external_ids        : {ebbtide-peer="17"}', True),
        ("tep:10.0.0.7", "actions=set_field:10.0.0.71->tun_dst", False),
        ("tep:10.0.0.7", "actions=set_field:110.0.0.7->tun_dst", False),
        ("tep:fd00::7", "actions=set_field:fd00::70->tun_ipv6_dst", False),
        ("tep:fd00::7", "actions=set_field:1:fd00::7->tun_ipv6_dst", False),
        ("tep:fd00::7", "actions=set_field:fd00::7:1->tun_ipv6_dst", False),
        ("tep:::7", "dl_dst=00:00:00:00:00:07,tun_ipv6_dst=fd00::7 actions=drop", False),
        ("mac:02:aa:bb:cc:dd:ee", "dl_dst=02:aa:bb:cc:dd:ef actions=drop", False),
        ("name:gone", "Interface name                : tap-gone", True),
        ("name:gone", "Interface external_ids        : {attached-mac=x, iface-id=gone}", True),
        ("name:c4", 'Interface external_ids        : {attached-mac="fa:16:3e:c4:12:34", iface-id=vm1}', True),
        ("name:c4", 'Interface external_ids        : {attached-mac="fa:16:3e:00:12:c4", iface-id=vm1}', True),
        ("name:c4", 'Interface options             : {key=flow, remote_ip="fd00::c4"}', True),
        ("system-id:c4", 'Interface external_ids        : {attached-mac="fa:16:3e:00:12:c4"}', True),
        ("dpid:7", "Interface ofport              : 7", True),
    ],
)
def test_what_only_looks_like_an_identity_is_not_found(identity: str, line: str, row: bool) -> None:
    assert not holds(line, identity, row)
