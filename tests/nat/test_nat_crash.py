"""What dies around a router's NAT, and what only seems to: one owner at the end, and nothing lost but what died with somebody.

One lab for all: each test is a chapter, and leaves behind a, b and c ready, one that serves and one that stands by.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ebbtide.compile import ledger
from ebbtide.compile.ledger import T
from ebbtide.lab import Compute, namespace
from ebbtide.lab.commands import run, wait_until
from ebbtide.lab.flows import Load, Report, Traffic
from ebbtide.model.facts import MovePhase, format_mac
from ebbtide.north import explain
from ebbtide.runtime import doubts, standbys
from tests.support.cloud import Cloud
from tests.support.outside import NEXT_HOP, PHYSICAL, Answers, asked, speaking
from tests.support.routed import SNAT, Routed

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240), pytest.mark.xdist_group("natcrash")]

#: Cached flows follow within half a second on this datapath; a move of tests need not wait for as long as one in earnest (seconds).
LAG = 0.6
#: No pings: their ids are not translated on this datapath, so those of one chapter are in the way of the next's for half a minute.
LOAD = Load.only(active=10, silent=4, udp=100, new=10)
#: Through a kill: connections that send all the time, and silent ones.
KILLED = Load.only(active=20, active_period=0.05, silent=4)


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    """a, b and c, all with a wire to the outside; a VM on each of them."""
    directory: Path = tmp_path_factory.mktemp("natcrash")
    cloud = Cloud(f"k{directory.parent.name[-4:].replace('-', '')}", directory, lag=LAG, nat_patience=2.0)
    try:
        made = Routed(cloud, "a", "b", "c")
        hold_starts(made)
        fresh_vms(made, *"abc")
        yield made
    finally:
        cloud.down()


def hold_starts(routed: Routed) -> None:
    """As an operator does it for gateways: a switch that starts with empty tables says nothing until they are filled."""
    for compute in routed.cloud.lab.computes():
        keys = ("other_config:ebbtide-gateway=true", "other_config:ebbtide-held-start=true")
        compute.vsctl("set", "Open_vSwitch", ".", *keys)
    kept = "flow-restore-wait"

    def held() -> bool:
        settings = (c.vsctl("get", "Open_vSwitch", ".", "other_config") for c in routed.cloud.lab.computes())
        return all(kept in found for found in settings)

    wait_until(held, "starts to be held")


@pytest.fixture(autouse=True)
def rested(routed: Routed) -> None:
    """Before each chapter all is well."""
    routed.cloud.wait_ready()
    routed.wait_served()


def fresh_vms(routed: Routed, *computes: str) -> list[str]:
    """A new VM on each: userspace conntrack keeps the external port of what ended with the chapter before for another 20 s."""
    first = len(routed.cloud.lab.vms()) + 1
    names = [f"vm{index}" for index in range(first, first + len(computes))]
    for index, (name, compute) in enumerate(zip(names, computes, strict=True), first):
        routed.add_vm(name, compute, index)
    routed.cloud.wait_clean()
    return names


@contextmanager
def nothing_breaks(routed: Routed, *computes: str) -> Iterator[Traffic]:
    """Inside, a VM on each talks to the outside; nothing of it is lost, refused or seen under another address."""
    with Traffic(routed.cloud.lab, "ext", fresh_vms(routed, *(computes or "abc")), LOAD) as traffic:
        traffic.wait_flowing(deadline=30)
        traffic.reset()
        yield traffic
        traffic.speak()
        report = traffic.report()
    assert not report.failures(), f"{report.failures()}\n{report.table()}"
    assert not report.too_few(), report.too_few()
    assert report.addresses("active") == {SNAT}


def broken(report: Report) -> list[str]:
    """Connections that were open and are no more."""
    return [line for line in report.failures() if "connections" in line]


def all_live(traffic: Traffic) -> None:
    """Each connection speaks once more; none is broken, and all are seen under the router's address."""
    traffic.reset()
    traffic.speak()
    report = traffic.report()
    assert not broken(report), f"{broken(report)}\n{report.table()}"
    assert report.addresses("active") == {SNAT}


class Places:
    """Who has been designated and has stood by, one after the other."""

    def __init__(self, routed: Routed) -> None:
        self._routed = routed
        self.seen: list[tuple[str, str]] = []

    def until(self, holds: Callable[[], bool], what: str, deadline: float = 20.0) -> None:
        """Wait, and note each change that there is meanwhile."""

        def look() -> bool:
            now = (self._routed.served_by(), self._routed.stands_by())
            if not self.seen or self.seen[-1] != now:
                self.seen.append(now)
            return holds()

        self._routed.cloud.wait(look, deadline, what)


def unreachable(routed: Routed, *names: str) -> Callable[[], bool]:
    """Whether the controller hears nothing of these any more."""
    return lambda: not any(routed.cloud.controller.member(name).connected for name in names)


# --- the control connection alone ---


def test_control_connections_are_cut_and_nothing_moves(routed: Routed) -> None:
    lab, owner, standby = routed.cloud.lab, routed.served_by(), routed.stands_by()
    third = ({"a", "b", "c"} - {owner, standby}).pop()
    places = Places(routed)
    with nothing_breaks(routed):
        cut: list[str] = []
        for names in ([owner], [standby], [third]):  # the designated one; half and more; all
            for name in names:
                lab.compute(name).cut_control()
            cut += names
            places.until(unreachable(routed, *cut), f"{cut} not to be heard")
        for name in cut:
            lab.compute(name).heal_control()
        places.until(lambda: all(routed.cloud.controller.member(n).connected for n in cut), "all to be heard", 40)
        routed.cloud.wait_ready(*cut)
    assert places.seen == [(owner, standby)]
    assert not routed.state.moves


# --- death ---


@pytest.mark.parametrize("how", ["vswitchd killed", "links cut"])
def test_the_designated_compute_dies_and_established_connections_live(routed: Routed, how: str) -> None:
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    victim, places = cloud.lab.compute(owner), Places(routed)
    vms = fresh_vms(routed, *(name for name in "abc" if name != owner))
    with Traffic(cloud.lab, "ext", vms, KILLED) as traffic:
        traffic.wait_flowing(30)
        wait_until(lambda: _recorded(routed) >= 2 * 24, "the record to have them all", 10)
        die(victim, how)
        places.until(lambda: routed.served_by() == standby, f"{standby} to take over")
        all_live(traffic)
        revive(victim, how)
        places.until(lambda: bool(routed.stands_by()), "a new standby")
        routed.cloud.wait_ready("a", "b", "c")
        routed.wait_served()
        traffic.reset()
        traffic.speak()
        report = traffic.report()
        assert not report.failures(), f"{report.failures()}\n{report.table()}"
    assert {served for served, _ in places.seen} == {owner, standby}, "who comes back pre-empts nothing"
    assert len(places.seen) <= 3, f"designated, withdrawn and designated again: {places.seen}"
    assert owners(routed) == [standby]
    cloud.assert_clean()


def test_a_standby_that_was_away_for_a_while_has_its_rows_when_it_is_needed(
    routed: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back with what it had, as one that has no part; when it stands by again a moment later, nothing of that may go any more."""
    monkeypatch.setattr(standbys, "EVERY", 0.1)
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    third = ({"a", "b", "c"} - {owner, standby}).pop()
    away, victim = cloud.lab.compute(standby), cloud.lab.compute(owner)
    vms, tag, call = fresh_vms(routed, third), routed.state.routers["r1"].tag, cloud.call
    call(cloud.service.start([third]))  # nobody else may stand by
    try:
        with Traffic(cloud.lab, "ext", vms, KILLED) as traffic:
            traffic.wait_flowing(30)
            wait_until(lambda: lent(away, tag) >= 24, "rows of connections of some age", 20)
            away.cut_control()
            die(away, "links cut")
            cloud.wait(
                lambda: not routed.stands_by() and unreachable(routed, standby)(), what=f"{standby} to be missed"
            )
            revive(away, "links cut")
            away.heal_control()
            cloud.wait(lambda: routed.stands_by() == standby, 40, f"{standby} to stand by again")
            wait_until(lambda: lent(away, tag) >= 24, "its rows", 20)
            cloud.wait_clean()  # all is gone by now that was to go
            assert lent(away, tag) >= 24
            die(victim, "vswitchd killed")
            cloud.wait(lambda: routed.served_by() == standby, what=f"{standby} to take over")
            all_live(traffic)
    finally:
        call(cloud.service.recover([third]))
        revive(victim, "vswitchd killed")
    cloud.wait_ready()
    routed.wait_served()
    cloud.assert_clean()


def die(victim: Compute, how: str) -> None:
    """As a crash of the switch, or of the network around it."""
    if how == "links cut":
        victim.cut_data()
        victim.cut_outside()
    else:
        victim.kill_switch()


def revive(victim: Compute, how: str) -> None:
    """It is back."""
    if how == "links cut":
        victim.heal_data()
        victim.heal_outside()
    else:
        victim.start_switch()


def _recorded(routed: Routed) -> int:
    tag = routed.state.routers["r1"].tag
    return len(list(routed.cloud.controller.app.cluster.connections.of(tag)))


def owners(routed: Routed) -> list[str]:
    """The computes whose switch answers ARP for the external address by itself, as their flows say."""
    found = []
    for compute in routed.cloud.lab.computes():
        flows = compute.dump_flows("br-int", f"table=81,arp,arp_op=1,arp_tpa={SNAT}")
        if any("load:0x2->NXM_OF_ARP_OP" in f or "set_field:2->arp_op" in f for f in flows):
            found.append(compute.name)
    return found


# --- a gateway without a controller ---


def test_a_restarted_gateway_with_empty_tables_is_not_used(routed: Routed) -> None:
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    third = ({"a", "b", "c"} - {owner, standby}).pop()
    victim = cloud.lab.compute(owner)
    vms = fresh_vms(routed, third, standby)
    cloud.controller.stop()
    try:
        with Traffic(cloud.lab, "ext", vms, Load.only(new=20)) as traffic:
            traffic.wait_flowing(10)
            victim.restart_switch()
            wait_until(lambda: not sees(cloud.lab.compute(third), victim), "its peers to see it no more", 3)
            traffic.report()  # what was being opened when it died has come to its end
            traffic.reset()
            # For longer than BFD takes to come up (1.4 s, were it not held) nothing is sent to who would swallow it.
            wait_until(lambda: traffic.glance().total().new.opened >= 120, "new connections", 10)
            report = traffic.report()
            assert not report.failures(), report.table()
        assert not sees(cloud.lab.compute(third), victim)
        assert victim.dump_flows() == []
    finally:
        cloud.restart_controller()
    filled: list[int] = []

    def seen_again() -> bool:
        if sees(cloud.lab.compute(third), victim):
            filled.append(len(victim.dump_flows()))
        return bool(filled)

    wait_until(seen_again, "it to be seen again", 20)
    assert filled[0] > 0, "filled before it is used"
    cloud.wait_ready()
    routed.wait_served()
    with nothing_breaks(routed) as traffic:
        wait_until(lambda: traffic.glance().total().new.opened >= 30, "new connections", 10)


def sees(observer: Compute, peer: Compute) -> bool:
    """Whether one sees the other by BFD."""
    found = ("--bare", "--columns=bfd_status", "find", "interface", f'options:remote_ip="{peer.tep}"')
    return "state=up" in observer.vsctl(*found, wait=False)


# --- the network outside ---


def test_a_fabric_that_does_not_learn_the_new_place_is_waited_for_and_said(routed: Routed) -> None:
    """Its switch sends to the old place whatever it hears: a move stands in "address" until an answer has come to the new one."""
    cloud, old, new = routed.cloud, routed.served_by(), routed.stands_by()
    fabric, router = cloud.lab.site.fabric, routed.state.routers["r1"]
    entry = [format_mac(router.mac), "dev", f"x{cloud.lab.compute(old).index}", "master"]

    def fdb(*words: str) -> None:
        run(namespace.command_in(fabric, ["bridge", "fdb", *words]))

    with nothing_breaks(routed):
        fdb("replace", *entry, "static", "sticky")
        cloud.call(cloud.service.start([old]))
        routed.wait_phase(MovePhase.ADDRESS)
        cloud.wait(lambda: "has not moved" in _reason(routed), 20, "the move to say what it waits for")
        assert f"answers {old} gets, not {new}" in _reason(routed)
        fdb("del", *entry)
        routed.wait_moved()
    assert routed.served_by() == new
    cloud.call(cloud.service.recover([old]))
    cloud.assert_clean()


def test_a_silent_outside_is_no_proof_that_it_has_learnt_the_new_place(routed: Routed) -> None:
    """Nothing comes in, so that every counter is at rest, and the next hop answers nobody."""
    cloud, old = routed.cloud, routed.served_by()
    cloud.call(cloud.service.start([old]))
    routed.wait_phase(MovePhase.SILENCE)
    routed.host.exec(["ip", "link", "set", "eth0", "arp", "off"])
    try:
        cloud.wait(lambda: "does not answer" in _reason(routed), 20, "the move to say what it waits for")
        move = routed.move()
        assert move is not None
        assert move.phase is MovePhase.ADDRESS
    finally:
        routed.host.exec(["ip", "link", "set", "eth0", "arp", "on"])
    routed.wait_moved()
    assert routed.served_by() != old
    cloud.call(cloud.service.recover([old]))


def _reason(routed: Routed) -> str:
    move = routed.move()
    return move.reason if move is not None else ""


# --- what only some see, and what comes to again ---


def test_some_do_not_see_the_designated_compute_and_it_stays_the_owner(routed: Routed) -> None:
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    third = ({"a", "b", "c"} - {owner, standby}).pop()
    places, pair = Places(routed), [cloud.lab.compute(owner), cloud.lab.compute(third)]
    vms = fresh_vms(routed, third, standby)

    def isolated(state: str) -> None:
        for compute in pair:
            device = f"d{compute.index}"
            run(
                namespace.command_in(cloud.lab.site.fabric, ["bridge", "link", "set", "dev", device, "isolated", state])
            )

    with Traffic(cloud.lab, "ext", vms, Load.only(new=20)) as traffic:
        traffic.wait_flowing(10)
        isolated("on")
        try:
            places.until(lambda: not sees(pair[1], pair[0]), f"{third} not to see {owner}")
            traffic.report()
            traffic.reset()
            wait_until(lambda: traffic.glance().total().new.opened >= 80, "new connections", 10)
            report = traffic.report()
            assert not report.failures(), report.table()
            told = str(cloud.call(explain.story(cloud.service, "router", "r1")))
            assert f"{third} does not see {owner}" in told, told
        finally:
            isolated("off")
        places.until(lambda: sees(pair[1], pair[0]), f"{third} to see {owner} again")
    cloud.wait_clean()
    assert places.seen == [(owner, standby)]
    assert owners(routed) == [owner]


def test_a_frozen_switch_that_comes_to_again_is_no_owner_any_more(routed: Routed) -> None:
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    victim, places = cloud.lab.compute(owner), Places(routed)
    vms = fresh_vms(routed, *(name for name in "abc" if name != owner))
    with Traffic(cloud.lab, "ext", vms, KILLED) as traffic:
        traffic.wait_flowing(30)
        wait_until(lambda: _recorded(routed) >= 2 * 24, "the record to have them all", 10)
        victim.stop(database=False)
        try:
            places.until(lambda: routed.served_by() == standby, f"{standby} to take over")
        finally:
            victim.cont()
        wait_until(lambda: owners(routed) == [standby], "one owner", 20, every=0.05)
        places.until(lambda: bool(routed.stands_by()), "a new standby")
        cloud.wait_ready()
        traffic.reset()
        traffic.speak()
        report = traffic.report()
        assert not broken(report), f"{broken(report)}\n{report.table()}"
    assert {served for served, _ in places.seen} == {owner, standby}
    cloud.assert_clean()


@contextmanager
def without_bfd(compute: Compute) -> Iterator[None]:
    """Inside, what the compute sends by BFD is lost on its way, and nothing else: it looks as if it slept."""
    inner_port = 20 + 8 + 8 + 14 + 20 + 2  # behind the headers of IP, UDP, VXLAN, Ethernet, IP, and the source port
    fabric, device, pit = compute.site.fabric, f"d{compute.index}", "pit"
    namespace.ip_batch(fabric, [f"link add {pit} type veth peer name {pit}1", f"link set {pit} up"])
    match = f"protocol ip u32 match u16 3784 0xffff at {inner_port}"
    rules = (
        f"qdisc add dev {device} clsact",
        f"filter add dev {device} ingress {match} action mirred egress redirect dev {pit}",
    )
    try:
        run(namespace.command_in(fabric, ["tc", "-batch", "-"]), stdin="\n".join(rules))
        yield
    finally:
        run(namespace.command_in(fabric, ["tc", "qdisc", "del", "dev", device, "clsact"]))
        namespace.ip_batch(fabric, [f"link del {pit}"])


def lent(compute: Compute, tag: int) -> int:
    """Rows at a compute for connections of a router with this tag that it has not opened itself."""
    vrf = ledger.metadata_vrf(tag)
    rows = compute.dump_flows("br-int", f"table={int(T.NAT_NEW)},metadata={vrf[0]:#x}/{vrf[1]:#x}")
    return sum(f"priority={ledger.Priority.IMPORTED}," in row for row in rows)


def conntrack(compute: Compute, zone: int) -> str:
    """What conntrack of a compute's datapath has in a zone."""
    return compute.appctl("dpctl/dump-conntrack", f"zone={zone}").strip()


@pytest.mark.alone  # who carries packets has a tenth of a second to show it
@pytest.mark.parametrize("long", [False, True])
def test_who_carries_packets_is_not_dead_for_want_of_bfd(
    routed: Routed, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    """A machine that gets no processor for a quarter of a second is not relieved; one that stays silent is, and nothing breaks either."""
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    victim, others = cloud.lab.compute(owner), [c for c in cloud.lab.computes() if c.name != owner]
    monkeypatch.setattr(doubts, "LONGEST", 1.0 if long else 60.0)
    monkeypatch.setattr(standbys, "AFTER_BLIP", 2.0)
    places, vms, tag = Places(routed), fresh_vms(routed, *(c.name for c in others)), routed.state.routers["r1"].tag
    with Traffic(cloud.lab, "ext", vms, KILLED) as traffic, Answers() as answers, ExitStack() as opened:
        answers.serve(routed.host)
        traffic.wait_flowing(30)
        wait_until(lambda: _recorded(routed) >= 2 * 24, "the record to have them all", 10)
        with without_bfd(victim):
            places.until(lambda: not any(sees(c, victim) for c in others), f"nobody to see {owner}")
            kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            begun = [opened.enter_context(speaking(cloud.lab.vm(vm), NEXT_HOP, kind)) for vm in vms for kind in kinds]
            seen_as = [asked(each) for each in begun]
            if long:
                places.until(lambda: routed.served_by() == standby, f"{standby} to take over")
            else:
                assert conntrack(cloud.lab.compute(standby), ledger.router_zone(tag))
                places.until(lambda: lent(victim, tag) >= len(begun), f"{owner} to know of what {standby} has opened")
        places.until(lambda: bool(routed.stands_by()), "a standby")
        routed.wait_served()
        if not long:
            # What an old entry of conntrack says is asked before any row, hours later.
            zone, stood_in = ledger.router_zone(tag), cloud.lab.compute(standby)
            wait_until(lambda: not conntrack(stood_in, zone), f"{standby} to have forgotten what it has carried")
        assert [asked(each) for each in begun] == seen_as, "what was begun meanwhile lives on"
        all_live(traffic)
    assert {served for served, _ in places.seen} == ({owner, standby} if long else {owner})
    assert owners(routed) == [routed.served_by()]
    cloud.assert_clean()


# --- death in the middle of a move ---


@pytest.mark.parametrize("dies", ["new", "old", "both"])
def test_who_dies_in_the_middle_of_a_move_is_replaced_by_who_is_left(routed: Routed, dies: str) -> None:
    cloud, old, new = routed.cloud, routed.served_by(), routed.stands_by()
    third = ({"a", "b", "c"} - {old, new}).pop()
    victims = [cloud.lab.compute(name) for name in {"new": [new], "old": [old], "both": [old, new]}[dies]]
    heir = {"new": old, "old": new, "both": third}[dies]
    try:
        with Traffic(cloud.lab, "ext", fresh_vms(routed, third), KILLED) as traffic:
            traffic.wait_flowing(30)
            wait_until(lambda: _recorded(routed) >= 24, "the record to have them all", 10)
            cloud.call(cloud.service.start([old]))
            routed.wait_phase(MovePhase.FREEZE)
            for victim in victims:
                victim.kill_switch()
            cloud.wait(lambda: routed.served_by() == heir and not routed.state.moves, 30, f"{heir} to serve")
            all_live(traffic)
    finally:
        for victim in victims:
            victim.start_switch()
    cloud.call(cloud.service.recover([old]))
    cloud.wait_ready()
    routed.wait_served()
    assert owners(routed) == [routed.served_by()]
    cloud.assert_clean()


# --- a wire that goes away ---


def test_a_provider_mapping_is_taken_away_from_who_serves(routed: Routed) -> None:
    cloud, owner, standby = routed.cloud, routed.served_by(), routed.stands_by()
    compute, third = cloud.lab.compute(owner), ({"a", "b", "c"} - {owner, standby}).pop()
    with Traffic(cloud.lab, "ext", fresh_vms(routed, owner, third), KILLED) as traffic:
        traffic.wait_flowing(30)
        wait_until(lambda: _recorded(routed) >= 2 * 24, "the record to have them all", 10)
        compute.vsctl("remove", "open_vswitch", ".", "other_config", "provider_mappings")
        cloud.wait(lambda: routed.served_by() == standby, what=f"{standby} to serve")
        all_live(traffic)
    compute.vsctl("set", "open_vswitch", ".", f"other_config:provider_mappings={PHYSICAL}:br-ex")
    cloud.wait_ready()
    routed.wait_served()
    assert routed.served_by() == standby
    cloud.assert_clean()
