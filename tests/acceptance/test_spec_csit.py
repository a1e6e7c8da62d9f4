"""The spec's "CSIT" list; each test is named after its line.

They are run as OpenDaylight's system tests are: the controller is a process of its own and driven over REST alone, in the old style
(/restconf) too; switches are read by ovs-ofctl, and VMs send. Where the tests of the "Testing" list, in the same words, migrate VMs, these
delete them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebbtide.lab import Lab
from ebbtide.lab.flows import Load
from ebbtide.lab.probes import Probes, Report, pairs_among
from ebbtide.lab.second_search import identities_of, second_search
from tests.support import snapshots
from tests.support.process import Process
from tests.support.routed import NEXT_HOP, SNAT, nothing_breaks
from tests.support.told import Told

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

GREEN, HIDDEN, LATER = "10.2.0.0/24", "10.2.0.100", "10.2.0.101"
SOME = Load(active=4, silent=2, udp=20, udp_slow=0, new=4, half_open=0, bulk=0, ping=10)


class Site:
    """Computes with a wire to the outside; networks blue and green of router r1, which has NAT; a VM in both on each: blue-a, green-a."""

    def __init__(self, lab: Lab, controller: Process, *names: str) -> None:
        self.lab, self.controller = lab, controller
        self.add_computes(*names)
        post = controller.post
        lab.add_host("ext", f"{NEXT_HOP}/24")
        post(
            "/api/v1/externals", {"id": "out", "physical": "physnet1", "subnet": "203.0.113.0/24", "gateway": NEXT_HOP}
        )
        post("/api/v1/routers", {"id": "r1", "external": "out", "addresses": [SNAT]})
        for number, network in enumerate(("blue", "green"), 1):
            post("/api/v1/networks", {"id": network, "subnets": [f"10.{number}.0.0/24"]})
            post("/api/v1/routers/r1/attach", {"network": network, "address": f"10.{number}.0.254"})
        # Who has the first VMs is designated, and stays it when others could be.
        for name in names:
            self.add_vms(name)
            controller.wait(lambda: self.designated() == (names[0], names[0]), f"{names[0]} to be designated")
        controller.wait(lambda: all(self.standing_by()), "others to stand by")
        controller.wait_ready(*names)

    def add_computes(self, *names: str) -> None:
        for compute in self.lab.add_computes(list(names), physical_network="physnet1"):
            compute.register(f"tcp:10.255.0.1:{self.controller.ovsdb}")
        self.controller.wait_ready(*names)

    def add_vms(self, compute: str) -> None:
        index = 10 + "abc".index(compute)
        for number, network in enumerate(("blue", "green"), 1):
            name, mac, ip = f"{network}-{compute}", f"02:00:00:00:{number:02x}:{index:02x}", f"10.{number}.0.{index}"
            self.controller.post("/api/v1/ports", {"id": name, "network": network, "mac": mac, "addresses": [ip]})
            way = f"10.{number}.0.254"
            self.lab.add_vm(name, compute, mac=mac, ip_cidr=f"{ip}/24", iface_id=name, gateway=way)
            self.controller.wait(lambda vm=name: self.controller.place(vm) == compute, f"{name} on {compute}")  # type: ignore[misc]

    def delete_vms(self, compute: str) -> None:
        for name in (f"blue-{compute}", f"green-{compute}"):
            self.lab.remove_vm(name)
            status, body = self.controller.ask("DELETE", f"/api/v1/ports/{name}")
            assert status == 200, body

    def rpc(self, verb: str, *names: str) -> None:
        leaf = "recover-node-ids" if verb == "recover" else "scalein-node-ids"
        path = f"/restconf/operations/scalein-api:scalein-computes-{verb}"
        status, body = self.controller.ask("POST", path, {"input": {leaf: list(names)}})
        assert status in (200, 204), body

    # --- what is seen ---

    def designated(self) -> tuple[str, str]:
        """For NAT and for green's subnet route, where users of OpenDaylight look ("": nobody)."""
        names = {str(c["dpid"]): name for name, c in self.controller.computes().items()}
        status, nat = self.controller.ask("GET", "/restconf/config/odl-nat:napt-switches/router-to-napt-switch/r1")
        found = nat["router-to-napt-switch"][0]["primary-switch-id"] if status == 200 else ""
        _, tree = self.controller.ask("GET", "/restconf/operational/odl-l3vpn:subnet-op-data")
        (green,) = [x for x in tree["subnet-op-data"]["subnet-op-data-entry"] if x["subnet-cidr"] == GREEN]
        return names.get(str(found), ""), names.get(str(green.get("nh-dpnId", "")), "")

    def standing_by(self) -> tuple[str, str]:
        found = self.controller.get("/api/v1/designations")["designations"]
        (green,) = [x for x in found if x["service"] == "subnet" and GREEN in x["object"]]
        return self.controller.get("/api/v1/routers/r1")["standby"], green["standby"]

    def wait_designated(self, name: str) -> tuple[str, str]:
        """Until it is for both, and the NAT's move is over."""
        self.controller.wait(lambda: self.designated() == (name, name), f"{name} to be designated", 60)
        self.controller.wait(lambda: not self.controller.get("/api/v1/routers/r1")["move"], "the move to be over", 60)
        self.wait_ready()
        return self.designated()

    def wait_ready(self) -> None:
        self.controller.wait_ready(*self.controller.computes())

    def relevant(self, compute: str) -> dict[str, int]:
        """How many of a compute's flows are those of who is designated."""
        lines = snapshots.flows(self.lab.compute(compute))
        asks = [x for x in lines if "table=22," in x and f"nw_dst={GREEN} " in x and "controller(" in x]
        return {
            "of NAT": sum(f"nat(src={SNAT}:" in x for x in lines),
            "that ask": sum("/0xffff000000," in x for x in asks),
        }

    def left_of(self, identities: set[str], *names: str) -> list[str]:
        return second_search([self.lab.compute(name) for name in names], identities)

    def identities(self, name: str) -> set[str]:
        facts = self.controller.get(f"/api/v1/computes/{name}")
        return identities_of(self.lab.compute(name), int(facts["number"]), int(facts["dpid"]))

    def assert_clean(self) -> None:
        report = self.controller.audit()
        assert report["clean"], report


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    with Lab(f"cs{os.getpid()}", tmp_path / "lab") as lab:

        def made(*names: str) -> Site:
            controller = Process(lab, tmp_path, more=("--lag", "0.6", "--nat-patience", "2"))
            controller.start()
            return Site(lab, controller, *names)

        yield made


@pytest.mark.line("CSIT 1")
def test_verify_that_scale_out_compute_vms_should_be_able_to_communicate_with_inter_and_intra_compute_vms(
    site: Callable[..., Site], told: Told
) -> None:
    made = site("a", "b")
    told.did("c joins, with two VMs; all send to each other, in and between two networks")
    made.add_computes("c")
    made.add_vms("c")
    made.wait_ready()
    report = sent_to_each_other(made)
    told.saw(f"{len(report.of('counted'))} pairs: {report.sent('counted')} probes, {report.lost('counted')} lost")
    about = [len(made.left_of(made.identities("c"), name)) for name in "ab"]
    assert all(about)
    own = len(snapshots.flows(made.lab.compute("c")))
    assert own >= 50
    told.saw(f"flows, groups and rows about c on a and b: {about[0]} and {about[1]}; flows on c: {own}")
    made.assert_clean()


def sent_to_each_other(site: Site, during: Callable[[], None] = lambda: None, but: str = "") -> Report:
    """All VMs, but for one compute's, send to each other while something is done, and nothing is lost."""
    with Probes(site.lab) as probes:
        probes.start(pairs_among(vm for vm in site.lab.vms() if vm.active != but), rate=50)
        probes.wait_flowing()
        probes.mark_phase("counted")
        during()
        for vm in site.lab.vms():
            assert vm.ping(NEXT_HOP, count=2).lost == 0
        report = probes.stop()
    assert not report.failures("counted"), report.table("counted")
    return report


@pytest.mark.line("CSIT 2")
def test_verify_that_scale_in_compute_flows_be_removed_and_existing_service_continue_work(
    site: Callable[..., Site], told: Told
) -> None:
    made = site("a", "b", "c")
    identities = made.identities("c")
    before, own = made.left_of(identities, "a", "b"), len(snapshots.flows(made.lab.compute("c")))
    assert {line.partition(" with ")[0] for line in before} >= {"a: flow", "a: group", "a: row", "b: flow"}

    def scale_in() -> None:
        made.rpc("start", "c")
        made.delete_vms("c")
        made.rpc("end", "c")

    told.did("start c, its VMs are deleted, end c; the others send to each other and to the outside")
    report = sent_to_each_other(made, scale_in, but="c")
    told.saw(f"{report.sent('counted')} probes, {report.lost('counted')} lost")
    after, left = made.left_of(identities, "a", "b"), snapshots.flows(made.lab.compute("c"))
    assert (after, left) == ([], [])
    told.saw(
        f"flows, groups and rows about c on a and b: {len(before)}, then {len(after)}; flows on c: {own}, then {len(left)}"
    )
    assert sorted(made.controller.computes()) == ["a", "b"]
    made.assert_clean()


@pytest.mark.line("CSIT 3")
def test_identify_a_compute_node_which_is_designated_for_nat_subnetroute_functionality_scale_in_that_compute_verify_that_it_continues_to_work_and_that_its_relevant_flows_are_reprogrammed(  # noqa: E501
    site: Callable[..., Site], told: Told
) -> None:
    made = site("a", "b")
    old, identities = made.designated(), made.identities("a")
    before, flows = made.left_of(identities, "b"), made.relevant("a")
    assert before
    assert all(flows.values())
    hide(made, "green-b", HIDDEN)
    assert made.lab.vm("blue-b").reaches(HIDDEN)
    told.did("a, which is designated for NAT and a subnet route, is started, its VMs are deleted, it is ended")
    with nothing_breaks(made.lab, "blue-b", load=SOME, told=told):
        made.rpc("start", "a")
        new = made.wait_designated("b")
        assert made.relevant("a") == {"of NAT": 0, "that ask": 0}
        assert all(made.relevant("b").values())
        made.delete_vms("a")
        made.rpc("end", "a")
        assert made.lab.vm("blue-b").ping(HIDDEN, count=3).lost == 0
        hide(made, "green-b", LATER)
        assert made.lab.vm("blue-b").ping(LATER, count=1, deadline=3.0).lost == 0
    told.saw(f"designated for NAT, subnet route: {', '.join(old)}; then {', '.join(new)}")
    told.saw(f"flows of who is designated: a {in_words(flows)}; then b {in_words(made.relevant('b'))}")
    after = made.left_of(identities, "b")
    assert after == []
    assert snapshots.flows(made.lab.compute("a")) == []
    told.saw(f"flows, groups and rows about a on b: {len(before)}, then {len(after)}")
    made.assert_clean()


def hide(site: Site, vm: str, address: str) -> None:
    """A second address in a VM, of which nobody is told: who is designated for its subnet finds it."""
    site.lab.vm(vm).exec(["ip", "addr", "add", f"{address}/32", "dev", "eth0"])


def in_words(flows: dict[str, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in flows.items())


@pytest.mark.line("CSIT 4")
def test_verify_the_recovery_procedure_of_scale_in_workflow_make_sure_that_the_recovered_compute_gets_its_relevant_flows(
    site: Callable[..., Site], told: Told
) -> None:
    made = site("a", "b")
    flows = [made.relevant("a")]
    assert all(flows[0].values())
    told.did("start a, which is designated for NAT and a subnet route; recover a; then start b, recover b")
    with nothing_breaks(made.lab, "blue-a", "blue-b", load=SOME, told=told):
        made.rpc("start", "a")
        seen = [made.wait_designated("b")]
        flows.append(made.relevant("a"))
        assert not any(flows[1].values())
        assert made.standing_by() == ("", "")
        made.rpc("recover", "a")
        made.controller.wait(lambda: made.standing_by() == ("a", "a"), "a to stand by")
        made.wait_ready()
        made.rpc("start", "b")
        seen.append(made.wait_designated("a"))
        flows.append(made.relevant("a"))
        assert all(flows[2].values())
        hide(made, "green-b", HIDDEN)
        assert made.lab.vm("blue-b").reaches(HIDDEN)
        made.rpc("recover", "b")
    told.saw(f"designated: a; then {seen[0][0]}; then a, recovered, stands by and is designated again: {seen[1][0]}")
    told.saw("a's flows of who is designated: " + "; then ".join(map(in_words, flows)))
    report = sent_to_each_other(made)
    told.saw(f"{report.sent('counted')} probes after it, {report.lost('counted')} lost")
    made.assert_clean()
