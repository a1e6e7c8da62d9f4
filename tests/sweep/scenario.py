"""What a run does: a cloud of networks, a router with SNAT and a VPN over some computes; some of them are emptied and leave.

Each step waits until what it asks for is there to be seen over REST, so that one run does the same things in the same order as the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.sweep import dumps
from tests.sweep.site import NEXT_HOP, PHYSICAL, Site
from tests.sweep.wires import Strike

SNAT = "203.0.113.10"
#: id, subnet's second byte: blue leads outside by r1, green and red are one VPN.
NETWORKS = {"blue": 1, "green": 2, "red": 3}
GATEWAY = 254
#: Of five computes a to e, a and b leave: a with the NAT, both with ports of a routed network and of the VPN.
LEAVING = ("a", "b")
PLACES = {"blue-1": "a", "blue-3": "c", "blue-2": "b", "blue-4": "d"} | {
    "green-1": "a",
    "green-2": "c",
    "red-1": "b",
    "red-2": "e",
}
#: Of the mover: the run itself.
KIND = "fleet"
MOVES = {"blue-1": "c", "blue-2": "d", "green-1": "e", "red-1": "c"}


def mac_of(port: str) -> str:
    """A port's MAC: "blue-1" -> 02:00:00:00:01:01; the first addresses of a subnet are a VPN's."""
    network, index = port.split("-")
    return f"02:00:00:00:{NETWORKS[network]:02x}:{int(index):02x}"


def address_of(port: str) -> str:
    """Its address."""
    network, index = port.split("-")
    return f"10.{NETWORKS[network]}.0.{10 + int(index)}"


class Outcome(NamedTuple):
    """What a run has come to: what members hold, and what those who have left do; what passed the wires, how often a controller was
    started again, and seconds.

    `stale`: what members hold and would not hold, or lack, if their switches were filled anew from the store as it is in the end. `marks`:
    how many lines had passed when a step began.
    """

    dump: dumps.Dump
    left: dumps.Dump
    stale: list[str]
    passed: list[dict[str, Any]]
    revived: int
    seconds: float
    marks: dict[str, int]


def run(
    directory: Path,
    strikes: Iterable[Strike] = (),
    story: Callable[[Cloud], None] | None = None,
    names: str = "abcde",
    module: str = "ebbtide",
) -> Outcome:
    """One run of it all, with wires; who is killed is started again, and what was asked is asked again. `module`: the controller's.

    `story`: what happens to the cloud when it is built; if nothing is said, a and b leave it.
    """
    began = time.monotonic()
    with Site(directory, names, module=module) as site:
        site.start(strikes)
        cloud = Cloud(site)
        cloud.step("build", lambda: cloud.build(PLACES))
        (story or Cloud.leave)(cloud)
        while not site.is_alive("controller"):
            # What was struck was the last thing that it did, beside what the run waits for.
            cloud.settle()
            cloud.audit()
        members = site.computes()
        dump, left = (
            dumps.of_fleet(site, found) | dumps.rows_of_fleet(site, found)
            for found in (sorted(members), [n for n in names if n not in members])
        )
        passed, revived = site.passed(), site.revived
        return Outcome(dump, left, cloud.stale(), passed, revived, time.monotonic() - began, cloud.marks)


class Cloud:
    """The cloud of one run, and what happens to it. `seconds`: how long each step took; `marks`: what had passed the wires before it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._places: dict[str, str] = {}
        self._leaving: frozenset[str] = frozenset()
        self.seconds: dict[str, float] = {}
        self.marks: dict[str, int] = {}

    def step(self, name: str, does: Callable[[], object]) -> None:
        """One step, with its time taken."""
        self.marks[name] = len(self.site.passed())
        began = time.monotonic()
        does()
        self.seconds[name] = round(time.monotonic() - began, 2)

    def build(self, places: dict[str, str]) -> None:
        """Networks, router, VPN and ports (id -> compute); the first of blue's ports decides who serves the router's NAT."""
        site = self.site
        for name, number in NETWORKS.items():
            site.post("/api/v1/networks", {"id": name, "subnets": [f"10.{number}.0.0/24"]})
        out = {"id": "out", "physical": PHYSICAL, "subnet": "203.0.113.0/24", "gateway": NEXT_HOP}
        site.post("/api/v1/externals", out)
        site.post("/api/v1/routers", {"id": "r1", "external": "out", "addresses": [SNAT]})
        site.post("/api/v1/routers/r1/attach", {"network": "blue", "address": f"10.1.0.{GATEWAY}"})
        site.post("/api/v1/vpns", {"id": "v1", "rd": "100:1", "imports": ["100:1"], "exports": ["100:1"]})
        for name in ("green", "red"):
            site.post("/api/v1/vpns/v1/associate", {"network": name})
        for port, compute in places.items():
            self.plug(port, compute)
        self.settle()

    def plug(self, port: str, compute: str) -> None:
        """A port, and its guest on a compute."""
        body = {"id": port, "network": port.split("-")[0], "mac": mac_of(port), "addresses": [address_of(port)]}
        self.site.post("/api/v1/ports", body)
        self.site.tell("plug", compute=compute, port=port, mac=mac_of(port))
        self.site.wait(lambda: self.site.place(port) == compute, f"{port} to be served on {compute}")
        self._settle_in(port, compute)

    def _settle_in(self, port: str, compute: str) -> None:
        """A port has come to a compute. Elected is among those who are there: that it is the same in each run, the next comes after it."""
        self._places[port] = compute
        network = port.split("-")[0]
        self.site.wait(lambda: self._is_elected("subnet", network), f"somebody for the subnet of {port}")
        if network == "blue" and not self._leaving:
            self.site.wait(lambda: self._is_elected("nat", "r1"), f"somebody for r1 after {port}")

    def _is_elected(self, service: str, name: str) -> bool:
        """Whether one of those who stay serves, and another stands by if there is one."""
        found = self.site.get(f"/api/v1/designations?service={service}")["designations"]
        network = "blue" if service == "nat" else name
        there = {c for p, c in self._places.items() if p.startswith(network)} - self._leaving
        fact = next((x for x in found if x["object"].split()[0] == name), None)
        return fact is not None and fact["compute"] in there and (bool(fact["standby"]) or len(there) < 2)

    def settle(self) -> None:
        """Until everybody is ready, and the router is served, has a standby and a next hop, and does not move."""
        site = self.site
        computes = site.computes()
        site.wait_ready(*computes)

        def served() -> bool:
            found = site.router("r1")
            return all(found[k] for k in ("designated", "standby", "next-hop-mac")) and not found["move"]

        site.wait(served, "r1 to be served, with a standby")
        site.wait_ready(*computes)

    def migrate(self, port: str, target: str) -> None:
        """A live migration."""
        self.site.migrate(port, mac_of(port), target)
        self._settle_in(port, target)

    def empty(self, leaving: Sequence[str], moves: dict[str, str]) -> None:
        """Start, and then every port (id -> compute) moves away."""
        self._leaving = frozenset(leaving)
        self.step("start", lambda: self.site.rpc("start", *leaving))
        for port, target in moves.items():
            self.step(f"migrate {port}", lambda p=port, t=target: self.migrate(p, t))  # type: ignore[misc]

    def moved(self, leaving: Sequence[str]) -> None:
        """Until the NAT is at home where nobody leaves."""

        def arrived() -> bool:
            found = self.site.router("r1")
            return not found["move"] and found["designated"] not in leaving

        self.site.wait(arrived, "the NAT to move")

    def leave(self, leaving: Sequence[str] = LEAVING, moves: dict[str, str] = MOVES) -> None:
        """All of it, from start to the end; then the audit is clean."""
        self.empty(leaving, moves)
        self.step("NAT", lambda: self.moved(leaving))
        self.step("end", lambda: self.end(leaving))
        self.step("settle", self.settle)
        self.step("audit", self.audit)

    def drain(self, leaving: Sequence[str] = LEAVING) -> None:
        """All of it as one operation, with a mover that moves one VM at a time; then its proofs are complete, and the audit is clean."""
        self._leaving = frozenset(leaving)
        wish = {"computes": list(leaving), "vms": KIND, "at-once": 1}

        def begun() -> bool:
            self._claims()
            return bool(self.site.post("/api/v1/drains", wish))

        self.step("drain", lambda: self.site.wait(begun, "the drain"))
        self.step("empty", self._move_all)
        self.step("settle", self.settle)
        self.step("audit", self.audit)
        (found,) = self.site.get("/api/v1/drains")["operations"]
        assert found["state"] == "done", found
        proofs = self.site.get("/api/v1/proofs")["proofs"]
        assert sorted(n for p in proofs for n in p["removed"] if p["clean"] and p["complete"]) == sorted(leaving), (
            proofs
        )

    def _claims(self) -> list[dict[str, Any]]:
        """What a mover is given that says that it holds nothing: an answer may be lost. A drain wants one that has asked before."""
        body = {"mover": "sweep", "free": 1, "holding": []}
        found: list[dict[str, Any]] = self.site.post(f"/api/v1/movers/{KIND}/claim", body)["claims"]
        return found

    def _move_all(self) -> None:
        """Move what is given to be moved, until the drain is over."""
        claims: list[dict[str, Any]] = []

        def asked() -> bool:
            nonlocal claims
            claims = [
                c
                for c in self._claims()
                if self.site.place(c["vm"]) != c["target"] or len(self.site.bindings(c["vm"])) > 1
            ]
            return bool(claims) or self.site.get("/api/v1/drains")["operations"][0]["state"] != "running"

        while True:
            self.site.wait(asked, "a VM to be moved, or the end of the drain", 60.0)
            if not claims:
                return
            vm, target = claims[0]["vm"], claims[0]["target"]
            self.migrate(vm, target)

    def audit(self) -> None:
        """Nothing is missing, unexpected or left."""
        revived = -1
        while revived != self.site.revived:
            # A controller that has just been started again has not heard of anybody yet.
            if revived >= 0:
                self.settle()
            revived = self.site.revived
            found = self.site.post("/api/v1/audit", {})
        assert found["clean"], found
        assert not found["unreachable"], found

    def stale(self) -> list[str]:
        """Empty switches are filled by another controller with what the store asks for: what differs from what they held."""
        members = sorted(self.site.computes())
        held = dumps.of_fleet(self.site, members, exact=True)
        self.site.kill("controller")
        for name in members:
            self.site.tell("forget", compute=name)
        self.site.start_controller()
        self.settle()
        return dumps.differences(held, dumps.of_fleet(self.site, members, exact=True))

    def end(self, leaving: Sequence[str]) -> None:
        """End, and they are no part of the cloud any more."""
        self.site.rpc("end", *leaving)
        self.site.wait(lambda: not set(leaving) & set(self.site.computes()), "them to be gone")
