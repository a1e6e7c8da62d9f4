"""Residue: a needle of each kind, in each encoding, is found where it was planted; what belongs to the living is not.

The dumps hold real bytes: flows and groups as they are encoded for the wire.
"""

from __future__ import annotations

from random import Random

import pytest

from ebbtide.compile import compiler, ledger
from ebbtide.compile.features import tunnel
from ebbtide.compile.flow import (
    Action,
    Bucket,
    Flow,
    Group,
    GroupType,
    Learn,
    LearnLoad,
    LearnMatch,
    Load,
    Match,
    Output,
    SetField,
    match,
)
from ebbtide.compile.ledger import Feature, Kind
from ebbtide.decide.audit import Dump, RawFlow, RawGroup, RawRow, Residue, needles, search, sought
from ebbtide.model.facts import Binding, Compute, Membership
from ebbtide.model.state import State
from ebbtide.openflow.flows import encode_flow, encode_group
from ebbtide.openflow.text import format_flow, format_group
from tests.fakes.clouds import ACTIVE, Story, compute, network, port, state, view

TEP, MAC, NUMBER, DPID = 0x0A000007, 0x02AABBCCDDEE, 7, 0xEB0007
TEP6 = 0xFD00 << 112 | 7
GONE = Compute(
    "gone", NUMBER, DPID, "sys-gone", "uuid-gone", teps=("10.0.0.7", "fd00::7"), macs=("02:aa:bb:cc:dd:ee",)
).identities()
BASE = ledger.cookie(Kind.BASE, Feature.PIPELINE)


def flow(found: Match, *actions: Action, cookie: int = BASE) -> RawFlow:
    made = Flow(220, 1, found, actions, cookie=cookie)
    encoded = encode_flow(made)
    return RawFlow(encoded.cookie, encoded.match, encoded.instructions, format_flow(made))


def group(*actions: Action) -> RawGroup:
    made = Group(1, GroupType.ALL, (Bucket((*actions, Output(1))),))
    return RawGroup(1, encode_group(made).buckets, format_group(made))


def learn(*specs: LearnMatch | LearnLoad) -> Learn:
    return Learn(10, 1, ledger.cookie(Kind.VOLATILE, Feature.L2, 3), specs)


def row(**strings: str) -> RawRow:
    return RawRow("Interface", "x", {k.replace("__", ":").replace("_0_", "-"): v for k, v in strings.items()})


def found(identities: frozenset[str] | set[str], *planted: RawFlow | RawGroup | RawRow) -> list[Residue]:
    dump = Dump(
        "here",
        tuple(p for p in planted if isinstance(p, RawFlow)),
        tuple(p for p in planted if isinstance(p, RawGroup)),
        tuple(p for p in planted if isinstance(p, RawRow)),
    )
    return search("gone", needles(identities), dump)


IP, ARP = {"eth_type": 0x0800}, {"eth_type": 0x0806}
PLANTED = {
    "tep:10.0.0.7": [
        *(flow(match(**{name: TEP})) for name in ("tun_src", "tun_dst")),
        *(flow(match(**{name: TEP}, **IP)) for name in ("ipv4_src", "ipv4_dst")),
        *(flow(match(**{name: TEP}, **ARP)) for name in ("arp_spa", "arp_tpa")),
        flow(match(tun_dst=(TEP, 0xFFFFFF0F))),
        *(flow((), SetField(name, TEP), Output(1)) for name in ("tun_src", "tun_dst", "ipv4_dst", "arp_spa")),
        *(flow((), Load(name, 0, 32, TEP), Output(1)) for name in ("tun_src", "tun_dst", "ipv4_src", "arp_tpa")),
        flow((), SetField("reg1", 3), SetField("tun_dst", TEP), Output(1)),
        flow((), learn(LearnMatch("eth_dst", 48, src="eth_src"), LearnLoad("tun_dst", 32, value=TEP))),
        flow((), learn(LearnMatch("tun_src", 32, value=TEP), LearnLoad("reg6", 16, value=3))),
        flow(match(tun_dst=TEP), cookie=ledger.cookie(Kind.PORT, Feature.L2, 3)),
        group(SetField("tun_dst", TEP)),
        group(Load("ipv4_dst", 0, 32, TEP)),
        row(options__remote_ip="10.0.0.7"),
        row(options__remote_ip="flow", external_ids__note="was 10.0.0.7, moved"),
        row(bfd__local="10.0.0.7:4784"),
    ],
    "tep:fd00::7": [
        *(flow(match(**{name: TEP6})) for name in ("tun_ipv6_src", "tun_ipv6_dst")),
        *(flow(match(**{name: TEP6, "eth_type": 0x86DD})) for name in ("ipv6_src", "ipv6_dst")),
        flow((), SetField("tun_ipv6_dst", TEP6), Output(1)),
        flow(match(tun_ipv6_dst=TEP6), cookie=ledger.cookie(Kind.PORT, Feature.L2, 3)),
        group(SetField("tun_ipv6_dst", TEP6)),
        *(
            row(options__remote_ip=text)
            for text in ("fd00::7", "FD00::7", "fd00:0:0::7", "fd00:0000::0007", "fd00:0:0:0:0:0:0:7", "fd00::0.0.0.7")
        ),
        row(external_ids__target="tcp:[FD00::0:7]:6653"),
        row(external_ids__target="tcp:fd00::7"),
        row(external_ids__note="was fd00:0::7: moved"),
        row(external_ids__note="fd00::7/128 and fd00::7%br-phy"),
    ],
    "number:7": [
        flow(match(reg5=7)),
        flow(match(reg5=7, reg6=9, metadata=(0, 1))),
        flow(match(reg5=(7, 0xFFFF))),
        flow((), SetField("reg5", 7), Output(1)),
        flow((), Load("reg5", 0, 32, 7), Output(1)),
        flow((), Load("reg5", 0, 16, 7), Output(1)),
        flow((), learn(LearnMatch("eth_dst", 48, src="eth_src"), LearnLoad("reg5", 32, value=7))),
        flow((), learn(LearnMatch("reg5", 16, value=7), LearnLoad("reg6", 32, value=3))),
        flow(match(in_port=3), cookie=ledger.cookie(Kind.COMPUTE, Feature.TUNNEL, 7)),
        flow(match(in_port=3), cookie=ledger.cookie(Kind.RELATION, Feature.RELATION, 7)),
        group(SetField("reg5", 7)),
        row(external_ids__ebbtide_0_peer="7"),
    ],
    "mac:02:aa:bb:cc:dd:ee": [
        *(flow(match(**{name: MAC})) for name in ("eth_src", "eth_dst")),
        *(flow(match(**{name: MAC}, **ARP)) for name in ("arp_sha", "arp_tha")),
        flow((), SetField("eth_dst", MAC), Output(1)),
        flow((), SetField("eth_src", MAC), Output(1)),
        *(flow((), SetField(name, MAC), Output(1)) for name in ("arp_sha", "arp_tha")),
        *(flow((), Load(name, 0, 48, MAC), Output(1)) for name in ("eth_src", "eth_dst", "arp_sha", "arp_tha")),
        flow(match(eth_dst=(MAC, 0xFFFFFFFFFFFE)), Output(1)),
        flow(match(eth_dst=MAC, in_port=3), cookie=ledger.cookie(Kind.PORT, Feature.L2, 3)),
        flow((), learn(LearnMatch("eth_dst", 48, value=MAC), LearnLoad("reg6", 32, value=3))),
        flow((), learn(LearnMatch("eth_dst", 48, src="eth_src"), LearnLoad("eth_src", 48, value=MAC))),
        group(SetField("eth_dst", MAC)),
        group(Load("eth_src", 0, 48, MAC)),
        row(external_ids__attached_0_mac="02:AA:bb:cc:dd:ee"),
        row(other_config__hwaddr="02-AA-BB-CC-DD-EE"),
        row(external_ids__note="was 02aabbccddee, moved"),
        row(other_config__datapath_0_id="000002aabbccddee"),
    ],
    f"dpid:{DPID}": [
        row(external_ids__dpn=str(DPID)),
        row(other_config__datapath_0_id=f"{DPID:016x}"),
        row(other_config__datapath_0_id=f"{DPID:016X}"),
        row(external_ids__node=f"openflow:{DPID}"),
        row(external_ids__note=f"to {DPID}, by hand"),
    ],
    "system-id:sys-gone": [row(external_ids__peer_0_system="sys-gone")],
    "uuid:uuid-gone": [row(external_ids__node="ovsdb://uuid/uuid-gone/bridge/br-int")],
    "name:gone": [
        row(external_ids__peer="gone"),
        row(name="tun to gone"),
        row(external_ids__peer="GONE"),
        row(target="tcp:gone:6640"),
    ],
}


@pytest.mark.parametrize(("identity", "index"), [(i, n) for i, planted in PLANTED.items() for n in range(len(planted))])
def test_a_needle_of_each_kind_and_encoding_is_found(identity: str, index: int) -> None:
    planted = PLANTED[identity][index]
    (residue,) = found(GONE, flow(match(reg6=1), Output(1)), planted, row(name="br-int"))
    assert (residue.removed, residue.where, residue.identity) == ("gone", "here", identity)
    kind = {RawFlow: "flow", RawGroup: "group", RawRow: "row"}[type(planted)]
    assert residue.kind == kind
    assert residue.text


@pytest.mark.parametrize(
    ("identity", "innocent"),
    [
        ("tep:10.0.0.1", flow(match(tun_dst=0x0A00000B))),
        ("tep:10.0.0.1", flow((), SetField("tun_dst", 0x0A000100), Output(1))),
        ("tep:10.0.0.1", row(options__remote_ip="10.0.0.11")),
        ("tep:10.0.0.1", row(options__remote_ip="110.0.0.1")),
        ("tep:10.0.0.1", row(options__remote_ip="10.0.0.1.example.org")),
        # reg5 = 10 and the header of reg6 after it: 0000000a 00010c04 holds the four bytes of 10.0.1.12.
        ("tep:10.0.1.12", flow(match(reg5=10, reg6=5), Output(1))),
        # A set-field of 10 and the action after it: 0000000a 0019 0010.
        ("tep:10.0.25.0", flow((), SetField("reg5", 10), SetField("reg6", 1), Output(1))),
        # A tenant's addresses are its own, whatever the underlay uses.
        (
            "tep:10.0.0.1",
            flow(match(arp_tpa=0x0A000001, arp_op=1, **ARP), cookie=ledger.cookie(Kind.PORT, Feature.ARP, 1)),
        ),
        ("tep:10.0.0.1", flow((), SetField("arp_spa", 0x0A000001), cookie=ledger.cookie(Kind.PORT, Feature.ARP, 1))),
        *(
            ("tep:10.0.0.1", flow(match(**{name: 0x0A000001}, **IP), cookie=ledger.cookie(kind, feature, 1)))
            for kind, feature in (
                (Kind.NETWORK, Feature.L2),
                (Kind.ROUTER, Feature.NAT),
                (Kind.GROUP, Feature.SECURITY),
                (Kind.VOLATILE, Feature.NAT),
            )
            for name in ("ipv4_dst", "ct_nw_src")
        ),
        # As a CNI writes it to the interface of a pod; so do others with what they know of a VM.
        ("tep:10.0.0.1", row(external_ids__iface_0_id="x", external_ids__ip_addresses="10.0.0.1/24")),
        ("tep:fd00::1", flow(match(tun_ipv6_dst=0xFD00 << 112 | 0x10))),
        ("tep:fd00::1", row(options__remote_ip="fd00::10")),
        ("tep:fd00::1", row(options__remote_ip="fd00:1::1")),
        ("tep:fd00::1", row(options__remote_ip="1:fd00::1")),
        ("tep:fd00::1", row(options__remote_ip="fd00::1:1")),
        ("tep:::1", row(options__remote_ip="fd00::1")),
        ("tep:::1", row(external_ids__attached_0_mac="00:00:00:00:00:01")),
        ("number:1", flow(match(reg6=1))),
        ("number:1", flow(match(reg5=11))),
        ("number:1", flow(match(reg5=0x10001))),
        ("number:1", flow((), SetField("reg5", 0), Load("reg6", 0, 20, 1), Output(1))),
        ("number:1", flow((), cookie=ledger.cookie(Kind.PORT, Feature.L2, 1))),
        ("number:1", flow((), cookie=ledger.cookie(Kind.NETWORK, Feature.L2, 1))),
        ("number:1", flow((), cookie=ledger.cookie(Kind.COMPUTE, Feature.TUNNEL, 11))),
        ("number:1", row(external_ids__ebbtide_0_peer="11", external_ids__ebbtide_0_term="1")),
        ("number:1", group(SetField("reg6", 1), Output(1))),
        ("dpid:1", row(external_ids__ebbtide_0_revision="1", external_ids__ebbtide_0_term="1")),
        ("dpid:1", row(external_ids__ebbtide_0_peer="1")),
        ("dpid:100", row(bfd__min_tx="100", bfd__enable="true")),
        ("dpid:1", row(options__remote_ip="10.0.0.1", options__key="1")),
        ("dpid:1", row(name="tap-1", external_ids__iface_0_id="1")),
        ("dpid:1", row(external_ids__node="openflow:11")),
        ("dpid:1", row(other_config__datapath_0_id=f"{0x11:016x}")),
        ("name:a", row(name="tap-a", external_ids__peer="ab", other_config__dp_0_desc="a-1")),
        ("name:a", row(external_ids__peer="a.example.org")),
        ("name:a", row(external_ids__iface_0_id="a")),
        # An octet of a VM's MAC, or a group of somebody's IPv6 address, is nobody's name.
        ("name:c4", row(external_ids__attached_0_mac="fa:16:3e:c4:12:34")),
        ("name:c4", row(external_ids__attached_0_mac="c4:16:3e:00:12:34")),
        ("name:c4", row(external_ids__attached_0_mac="fa:16:3e:00:12:C4")),
        ("name:c4", row(external_ids__seen="fa:16:3e:00:12:c4 10.0.0.3")),
        ("name:c4", row(options__remote_ip="fd00::c4")),
        ("name:c4", row(options__remote_ip="c4::1", external_ids__far="[fd00::c4:1]:6640")),
        ("system-id:c4", row(external_ids__attached_0_mac="fa:16:3e:c4:12:34")),
        ("system-id:c4", row(external_ids__iface_0_id="c4")),
        ("system-id:7", row(external_ids__ebbtide_0_revision="7", options__key="7")),
        ("name:c4", row(name="c4", external_ids__iface_0_id="x", external_ids__pod_0_name="c4")),
        ("name:active", row(external_ids__iface_0_id="x", external_ids__iface_0_status="active")),
        ("name:vxlan", row(type="vxlan", options__key="flow")),
        ("name:flow", row(type="vxlan", options__key="flow")),
        ("name:true", row(bfd__enable="true", external_ids__skip_cleanup="true")),
        ("name:7", row(external_ids__ct_0_zone_0_x="7", options__n_rxq="7")),
        ("dpid:2048", row(options__n_rxq_desc="2048", other_config__mac_0_aging_0_time="2048")),
        ("name:1", row(external_ids__ebbtide_0_revision="1", bfd__mult="1")),
        ("mac:02:aa:bb:cc:dd:ee", row(external_ids__attached_0_mac="02:aa:bb:cc:dd:ef")),
        ("mac:02:aa:bb:cc:dd:ee", row(external_ids__long="02:aa:bb:cc:dd:ee:ff", external_ids__hex="02aabbccddee01")),
        ("mac:02:aa:bb:cc:dd:ee", flow(match(eth_dst=0x02AABBCCDDEF), SetField("eth_src", 0x03AABBCCDDEE))),
        # What is learnt from the packet is no constant; what goes to other registers is no compute's number.
        ("number:7", flow((), learn(LearnMatch("reg6", 32, value=7), LearnLoad("reg5", 32, src="reg6")))),
        ("number:7", flow(match(reg4=7, reg5=3), learn(LearnLoad("reg5", 32, value=70)))),
        ("system-id:sys-1", row(external_ids__system_0_id="sys-11")),
    ],
)
def test_what_only_looks_like_an_identity_is_not_residue(identity: str, innocent: RawFlow | RawGroup | RawRow) -> None:
    assert found({identity}, innocent) == []


def test_a_short_name_is_found_beside_addresses_and_one_that_is_an_address_as_a_whole() -> None:
    for value in ("tcp:c4:6640", "fa:16:3e:c4:12:34 c4", "fd00::c4 of c4", "c4:6640:6653", "c4"):
        assert found({"name:c4"}, row(external_ids__peer=value)), value
    assert found({"name:fd00::c4"}, row(external_ids__peer="fd00::c4"))
    assert found({"name:fa:16:3e:c4:12:34"}, row(external_ids__attached_0_mac="fa:16:3e:c4:12:34"))


def test_what_the_living_have_by_now_is_not_looked_for_under_whatever_title() -> None:
    gone = compute(1, name="10.0.0.4", teps=("10.0.0.4",), system_id="sys", membership=Membership.REMOVED)
    new = compute(2, name="c2", teps=("10.0.0.4",), system_id="SYS")
    before = compute(3, name="c3", past=("name:c1", "tep:10.0.0.9"))
    assert sought([gone], [new, before])["10.0.0.4"] == gone.identities() - {
        "name:10.0.0.4",
        "tep:10.0.0.4",
        "system-id:sys",
    }
    # What one of them was known by once is nobody's now.
    old = compute(1, name="c1", teps=("10.0.0.9",), membership=Membership.REMOVED)
    assert sought([old], [new, before])["c1"] == old.identities()


def dump_of(number: int, cloud: State) -> Dump:
    """What a compute of this State would show, its tunnel rows included."""
    flows, groups = [], []
    for made in compiler.desired(cloud, number, view(cloud, number)).values():
        for f in made.flows:
            encoded = encode_flow(f)
            flows.append(RawFlow(encoded.cookie, encoded.match, encoded.instructions, format_flow(f)))
        groups += [RawGroup(g.group_id, encode_group(g).buckets, format_group(g)) for g in made.groups]
    rows = [
        RawRow(
            "Interface",
            r.name,
            {
                "name": r.name,
                "type": "vxlan",
                "options:remote_ip": r.remote_ip,
                "options:local_ip": r.local_ip,
                "options:key": "flow",
                "external_ids:ebbtide-peer": str(r.peer),
            },
        )
        for r in tunnel.rows(cloud, number).values()
    ]
    ids = {"external_ids:ebbtide-revision": str(cloud.revision), "external_ids:ebbtide-term": "1"}
    rows.append(RawRow("Bridge", "br-int", {**ids, "other_config:datapath-id": f"{cloud.computes[number].dpid:016x}"}))
    rows += [
        RawRow("Interface", f"tap-{p}", {"name": f"tap-{p}", "external_ids:iface-id": p})
        for p in cloud.ports_on.get(number, ())
    ]
    return Dump(cloud.computes[number].name, tuple(flows), tuple(groups), tuple(rows))


@pytest.mark.parametrize("seed", range(12))
def test_no_removed_compute_is_found_in_what_the_compiler_makes_for_the_others(seed: int) -> None:
    random = Random(seed)
    story = Story(random)
    for _ in range(random.randint(20, 40)):
        story.batch()
    cloud = story.state
    wanted = sought(cloud.removed.values(), cloud.computes.values())
    for gone in cloud.removed.values():
        for member in cloud.members():
            dump = dump_of(member.number, cloud)
            assert search(gone.name, needles(wanted[gone.name]), dump) == []


def test_a_compute_that_was_not_removed_is_found_on_each_of_its_peers() -> None:
    cloud = state(compute(1), compute(2), network(1), port(1, 1), port(2, 1), *(_bound(n) for n in (1, 2)))
    kinds = {r.kind for r in search("c1", needles(cloud.computes[1].identities()), dump_of(2, cloud))}
    assert kinds == {"flow", "group", "row"}


def test_small_numbers_and_short_names_of_the_removed_do_not_hit_the_living() -> None:
    gone = compute(1, name="a", dpid=1, teps=("10.1.0.2",), membership=Membership.REMOVED, system_id="1", ovs_uuid="b")
    living = [compute(n, teps=(f"10.1.0.{n + 10}",), dpid=n + 10) for n in (2, 10, 11)]
    ports = [port(n, 1, id=name) for n, name in ((1, "a"), (2, "b"), (3, "1"))]
    at = [Binding(p.id, c.number, ACTIVE) for p, c in zip(ports, living, strict=True)]
    cloud = state(gone, *living, network(1), *ports, *at)
    wanted = needles(i for i in gone.identities() if not i.startswith(("system-id", "uuid")))
    for member in living:
        assert search("a", wanted, dump_of(member.number, cloud)) == []


def _bound(number: int) -> Binding:
    return Binding(f"p{number}", number, ACTIVE)
