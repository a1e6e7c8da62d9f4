"""A real controller works with the fleet as with real computes; and what its switches hold in the end is what real ones hold."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.compile import ledger
from ebbtide.lab import Lab, wait_until
from ebbtide.lab.commands import run
from ebbtide.model.facts import MovePhase
from ebbtide.runtime.member import OPENING_EYES
from tests.support.process import Process
from tests.sweep import dumps
from tests.sweep.scenario import LEAVING, MOVES, PLACES, Cloud, address_of, mac_of
from tests.sweep.site import NEXT_HOP, PHYSICAL, QUICK, Site, make_store

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A fleet of five that has registered; nothing is in the cloud yet."""
    with Site(tmp_path, "abcde") as made:
        made.start()
        yield made


def phases(site: Site) -> list[str]:
    """Of NAT moves, in the order in which they were stored, but for the first."""
    return [line["phase"] for line in site.log() if line.get("event") == "move_phase"]


def _wait_until_silent(site: Site) -> None:
    """Until no switch was sent anything for a second: who takes on a router's connections is told of them after the cloud has settled."""
    told: list[Any] = [None, 0.0]

    def silent() -> bool:
        counts = site.tell("counts")
        if counts != told[0]:
            told[:] = counts, time.monotonic()
        return time.monotonic() - told[1] > 1

    site.wait(silent, "the controller to have nothing to say")


def test_two_of_five_leave_with_a_router_a_vpn_and_their_ports(site: Site) -> None:
    cloud = Cloud(site)
    cloud.build(PLACES)
    assert site.post("/api/v1/audit", {})["clean"]
    cloud.empty(LEAVING, MOVES)
    cloud.moved(LEAVING)
    assert phases(site) == [str(phase) for phase in MovePhase][1:], "a whole planned move, each phase once"
    cloud.end(LEAVING)
    cloud.settle()
    audit = site.post("/api/v1/audit", {})
    assert (audit["clean"], audit["findings"], audit["unreachable"]) == (True, [], [])
    status = site.tell("status")
    assert all(not found["unhandled"] for found in status.values()), "packets met nothing that is not understood"
    assert [(n, f["flows"], f["groups"]) for n, f in status.items() if n in LEAVING] == [("a", 0, 0), ("b", 0, 0)]
    for name in LEAVING:
        assert not [row for row in site.tell("rows", compute=name, table="Interface") if row["type"] == "vxlan"]


def test_a_settled_fleet_is_sent_no_change_by_the_controller_after_a_killed_one(site: Site) -> None:
    Cloud(site).build(PLACES)
    _wait_until_silent(site)
    before, held = site.tell("counts"), dumps.of_fleet(site, "abcde", exact=True)
    site.kill("controller")
    site.start_controller()
    Cloud(site).settle()
    assert site.post("/api/v1/audit", {})["clean"]
    changes = ("flow_mod", "group_mod", "meter_mod", "bundle")
    sent = {
        name: {what: found[what] - before[name][what] for what in changes if found[what] != before[name][what]}
        for name, found in site.tell("counts").items()
    }
    assert sent == {name: {} for name in "abcde"}
    assert dumps.differences(held, dumps.of_fleet(site, "abcde", exact=True)) == []


def test_two_runs_end_with_the_same_tables(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        with Site(tmp_path / name, "abcde") as site:
            site.start()
            cloud = Cloud(site)
            cloud.build(PLACES)
            cloud.leave()
            found.append(dumps.of_fleet(site, "cde", exact=True))
    assert all(len(lines) > 50 for lines in found[0].values())
    assert dumps.differences(*found) == []


def test_a_guest_is_found_by_its_gratuitous_arp_too(site: Site) -> None:
    cloud = Cloud(site)
    cloud.build(PLACES)
    site.tell("plug", compute="e", port="blue-2", mac=mac_of("blue-2"))
    site.wait(lambda: len(site.bindings("blue-2")) == 2, "blue-2 to be prepared on e")

    def speaks() -> bool:
        site.tell("announce", compute="e", port="blue-2", address=address_of("blue-2"))
        return site.place("blue-2") == "e"

    site.wait(speaks, "blue-2 to be served on e")


def test_what_is_left_of_somebody_who_left_is_seen(site: Site) -> None:
    """By the audit, and by a comparison of dumps: neither is blind."""
    cloud = Cloud(site)
    cloud.build(PLACES)
    cloud.leave()
    before = dumps.of_fleet(site, "cde")
    cookie = ledger.cookie(ledger.Kind.COMPUTE, ledger.Feature.TUNNEL, 1)
    flow = f"table=220,priority=10,cookie={cookie:#x},reg5=1,actions=drop"
    run(["ovs-ofctl", "-O", "OpenFlow13", "add-flow", site.management("c"), flow])
    (found,) = dumps.differences(before, dumps.of_fleet(site, "cde"))
    assert found.startswith("c + table=220 priority=10")
    audit = site.post("/api/v1/audit", {})
    assert (audit["clean"], audit["residue"]) == (False, 1), audit


def test_a_compute_that_dies_is_missed_by_its_peers_and_filled_when_it_returns(site: Site) -> None:
    cloud = Cloud(site)
    cloud.build(PLACES)
    held = dumps.of_fleet(site, "abcde")
    # Who serves the NAT and who stands by watch each other.
    gateway, standby = (site.router("r1")[role] for role in ("designated", "standby"))
    wait_until(lambda: gateway in site.tell("status")[standby]["up"], f"{standby} to see {gateway}", 10)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > OPENING_EYES, "the controller to believe what is said of BFD", 5)
    site.tell("kill", compute=gateway)
    assert site.tell("status")[gateway]["flows"] == 0
    wait_until(lambda: gateway not in site.tell("status")[standby]["up"], f"{standby} to miss {gateway}", 10)
    site.wait(lambda: site.router("r1")["designated"] == standby, f"{standby} to take over")
    site.tell("start", compute=gateway)
    cloud.settle()
    assert site.post("/api/v1/audit", {})["clean"]
    assert len(dumps.of_fleet(site, gateway)[gateway]) > len(held[gateway]) / 2


def test_a_compute_that_hangs_does_not_follow_and_goes_on(site: Site) -> None:
    cloud = Cloud(site)
    cloud.build(PLACES)
    site.tell("stop", compute="b")
    cloud.plug("blue-5", "c")
    site.wait_ready(*"acde")
    assert site.computes()["b"]["applied"] < site.get("/api/v1/status")["revision"]
    site.tell("cont", compute="b")
    cloud.settle()
    assert site.post("/api/v1/audit", {})["clean"]


def test_a_device_that_is_not_there_has_an_error_in_the_place_of_a_port(site: Site) -> None:
    site.tell("miss", compute="a", devices=["tap-blue-1"])
    site.tell("plug", compute="a", port="blue-1", mac=mac_of("blue-1"))

    def row() -> Any:
        rows = site.tell("rows", compute="a", table="Interface")
        return next(r for r in rows if r["name"] == "tap-blue-1")

    wait_until(lambda: row()["ofport"] == -1, "an error", 5)
    assert row()["error"] == "could not open network device tap-blue-1 (No such device)"


# --- beside the lab ---


@pytest.mark.timeout(300)
def test_real_switches_hold_the_same_in_the_end(tmp_path: Path) -> None:
    """The scenario of four, one of whom leaves with the NAT, told to both; `dumps.py` says what is normalised."""
    places = {"blue-1": "a", "blue-2": "b", "green-1": "a", "green-2": "c", "red-1": "b", "red-2": "d"}
    moves = {"blue-1": "c", "green-1": "d"}
    with Lab(f"sw{os.getpid()}", tmp_path / "lab") as lab:
        real = _in_the_lab(lab, tmp_path, places, moves)
        mac = lab.site.mac(4, 0)
    with Site(tmp_path / "fleet", "abcd") as site:
        site.next_hop_mac = mac
        site.start()
        cloud = Cloud(site)
        cloud.build(places)
        cloud.leave(["a"], moves)
        mine = dumps.of_fleet(site, "bcd")
    assert all(len(lines) > 50 for lines in real.values())
    assert not (found := dumps.differences(real, mine)), "\n".join(found)


class _Guests:
    """What a scenario asks of a fleet, of the lab's: the verbs of `Site.tell` that it uses."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._away: dict[str, Any] = {}

    def tell(self, verb: str, compute: str, port: str, mac: str = "") -> None:
        lab = self._lab
        known = {vm.name for vm in lab.vms()}
        if verb == "plug" and port not in known:
            lab.add_vm(port, compute, mac=mac, ip_cidr=f"{address_of(port)}/24", iface_id=port)
        elif verb == "plug":
            self._away[port] = lab.migration(port, compute)
            self._away[port].begin()
        elif verb == "announce":
            # What wakes sooner than cached datapath flows follow their tables may speak in vain.
            for each in lab.computes():
                each.revalidate()
            self._away[port].switch()
        else:
            self._away.pop(port).finish()


class _LabSite(Site):
    """The lab in the place of a fleet: the same REST, other computes."""

    def __init__(self, directory: Path, lab: Lab, process: Process) -> None:
        super().__init__(directory, "abcd")
        self._guests, self._process = _Guests(lab), process

    def ask(self, method: str, path: str, body: object | None = None) -> tuple[int, Any]:
        return self._process.ask(method, path, body)

    def tell(self, verb: str, **arguments: Any) -> Any:
        return self._guests.tell(verb, **arguments)


def _in_the_lab(lab: Lab, directory: Path, places: dict[str, str], moves: dict[str, str]) -> dumps.Dump:
    socket = directory / "store.sock"
    server = [
        "ovsdb-server",
        str(make_store(directory)),
        f"--remote=punix:{socket}",
        f"--unixctl={directory}/store.ctl",
    ]
    lab.spawn("store", [*server, "--no-chdir"])
    wait_until(socket.exists, "the store")
    process = Process(lab, directory, store=f"unix:{socket}", more=QUICK)
    process.start()
    lab.add_host("ext", f"{NEXT_HOP}/24")
    for name in "abcd":
        (compute,) = lab.add_computes([name], physical_network=PHYSICAL)
        compute.register(f"tcp:10.255.0.1:{process.ovsdb}")
        process.wait_ready(name)
    site = _LabSite(directory, lab, process)
    cloud = Cloud(site)
    cloud.build(places)
    cloud.leave(["a"], moves)
    found = {}
    for name in "bcd":
        compute = lab.compute(name)
        rows = json.loads(
            compute.vsctl("--format=json", "--columns=name,external_ids", "list", "Interface", wait=False)
        )
        names = dumps.roles({"name": n, "external_ids": dict(ids[1])} for n, ids in rows["data"])
        found[name] = dumps.normal(lambda what: compute.ofctl("--names", what, "br-int"), names)  # noqa: B023
    process.kill()
    return found
