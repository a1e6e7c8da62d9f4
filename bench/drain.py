"""Drains: what a plan costs in a large cloud, and what the journal of one on real switches costs.

The plan is for 50 of 1,000 computes with 50,000 ports, 500 networks in blocks of 20 computes, and 50 routers with NAT, in one process
without switches: everything that `ebbtide drain --plan` counts, but for the reading of sessions from switches. The drain is of two of four
computes in a lab, with a router's NAT and three VMs, moved by the lab's mover; the store's transactions are counted and timed in the
controller's process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import msgspec
from immutables import Map

from ebbtide.decide.designation import Standing
from ebbtide.lab import Lab
from ebbtide.lab.commands import wait_until
from ebbtide.lab.mover import Mover
from ebbtide.lab.rest import Api
from ebbtide.model.facts import Designation, Edit, External, Fact, Network, Router, RouterPort
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import NAT, State, apply
from ebbtide.runtime import drain_plan

from . import clouds
from .clusters import Ours, lab_named
from .rows import Options, Row, median, say, spread

COMPUTES, LEAVING, BLOCK = 1000, 50, clouds.BLOCK
PHYSICAL = "physnet1"


def large(computes: int = COMPUTES) -> State:
    """The cloud of the plan."""
    facts: list[Fact] = []
    for fact in clouds.cloud(computes):
        if isinstance(fact, Network):
            fact = msgspec.structs.replace(fact, subnets=(f"10.{fact.tag >> 8}.{fact.tag & 255}.0/24",))
        elif hasattr(fact, "provider_mappings"):
            fact = msgspec.structs.replace(fact, provider_mappings=((PHYSICAL, "br-ex"),))
        facts.append(fact)
    facts.append(External("out", 2_000, PHYSICAL, 0, "203.0.0.0/16", "203.0.0.1", 1500))
    for block in range(computes // BLOCK):
        name, first = f"r{block}", block * BLOCK + 1
        facts.append(Router(name, 1_000 + block, 0x02EB_0000_0000 + block, "out", (f"203.0.1.{block + 1}",)))
        for number in range(2):
            tag = block * clouds.NETWORKS_EACH + number + 1
            subnet = f"10.{tag >> 8}.{tag & 255}.0/24"
            facts.append(RouterPort(name, f"n{tag}", f"10.{tag >> 8}.{tag & 255}.254", subnet, 0x02EB_0001_0000 + tag))
        facts.append(Designation(NAT, name, first, first + 1))
    return apply(State(), [Edit(None, fact) for fact in facts], 1, store_id="bench", term=1)


def _view(state: State, number: int) -> View:
    ports = {p: Interface(f"tap{p}", at, p) for at, p in enumerate(state.ports_on[number], 1)}
    tunnels = {n: Interface(f"tun{n}", 20_000 + n, type="vxlan", up=True) for n in state.peers(number)}
    return View(True, Map(ports), Map(tunnels))


def _planned(options: Options) -> Iterator[Row]:
    state = large()
    views = {number: _view(state, number) for number in state.computes}
    standings = {n: Standing(True, True, "", frozenset({PHYSICAL})) for n in state.computes}
    ids = [f"c{1 + number * (COMPUTES // LEAVING)}" for number in range(LEAVING)]
    taken, found = [], None
    for _ in range(1 if options.quick else 5):
        begun = time.process_time()
        found = drain_plan.count(state, standings, views.__getitem__, lambda _: 0, ids)
        taken.append(time.process_time() - begun)
    assert found is not None
    flows = found.flows
    note = (
        f"{spread(taken, unit=' s')}; {len(found.vms)} VMs, {len(found.goals)} services, {flows.made} flows made and {flows.gone} gone on "
        f"{flows.computes} computes; CPU time"
    )
    yield Row(f"drain: plan for {LEAVING} of {COMPUTES} computes", median(taken), "s", None, 2.0, note)


class Site:
    """a, b, c, d; blue on a, b and c with a VM each, and a router that leads outside, whose NAT one of them has."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ours = Ours(lab, "--log-format", "json")
        lab.add_host("outside", "203.0.113.1/24")
        self.ours.join(["a", "b", "c", "d"], PHYSICAL)
        self.ours.ask("POST", "/api/v1/networks", {"id": "blue", "subnets": ["10.1.0.0/24"]})
        outside = {"id": "out", "physical": PHYSICAL, "subnet": "203.0.113.0/24", "gateway": "203.0.113.1"}
        self.ours.ask("POST", "/api/v1/externals", outside)
        self.ours.ask("POST", "/api/v1/routers", {"id": "r1", "external": "out", "addresses": ["203.0.113.10"]})
        self.ours.ask("POST", "/api/v1/routers/r1/attach", {"network": "blue", "address": "10.1.0.254"})
        for index, compute in enumerate("abc", 1):
            mac = f"02:00:00:0d:00:{index:02x}"
            port = {"id": f"vm{index}", "network": "blue", "mac": mac, "addresses": [f"10.1.0.{index}"]}
            self.ours.ask("POST", "/api/v1/ports", port)
            lab.add_vm(
                f"vm{index}",
                compute,
                mac=mac,
                ip_cidr=f"10.1.0.{index}/24",
                iface_id=f"vm{index}",
                gateway="10.1.0.254",
            )
        wait_until(lambda: bool(self._router()["standby"]), "a compute to stand by", 30)

    def _router(self) -> dict[str, Any]:
        return dict(self.ours.ask("GET", "/api/v1/routers/r1"))

    def leaving(self) -> list[str]:
        """Who serves the router, and another that has a VM."""
        serves = str(self._router()["designated"])
        return [serves, next(name for name in "abc" if name != serves)]

    def store(self) -> tuple[int, float]:
        """Transactions so far, and the seconds for which they were waited for."""
        text = _metrics(self.lab)
        return int(_value(text, "ebbtide_store_transactions")), _value(text, "ebbtide_store_wait_seconds")

    def transitions(self) -> int:
        """Of items, and of moves of NAT, so far: each is in the log."""
        text = (self.lab.site.run_directory / "controller.log").read_text()
        return text.count('"drain_item"') + text.count('"move_phase"')


def _metrics(lab: Lab) -> str:
    connection = HTTPConnection("127.0.0.1", 8181, timeout=30)
    connection.sock = lab.connect("127.0.0.1", 8181)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _value(text: str, name: str) -> float:
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))


def _journalled() -> Iterator[Row]:
    say("drain: two of four computes, on real switches")
    with lab_named("benchdrain") as lab:
        site, over = Site(lab), threading.Event()
        mover = threading.Thread(target=Mover(lab, Api(lab).ask).run, args=(over.is_set,), daemon=True)
        count, waited = site.store()
        steps = site.transitions()
        begun = time.monotonic()
        found = site.ours.ask("POST", "/api/v1/drains", {"computes": site.leaving(), "vms": "lab"})["operation"]
        mover.start()
        path = f"/api/v1/operations/{found['id']}"
        wait_until(lambda: site.ours.ask("GET", path)["state"] != "running", "the drain to be over", 120)
        taken = time.monotonic() - begun
        over.set()
        mover.join(30)
        told = site.ours.ask("GET", path)
        after, waited_then = site.store()
        moved = site.transitions() - steps
    if told["state"] != "done":
        raise RuntimeError(f"the drain is {told['state']}: {told['reason']}")
    note = f"{after - count} transactions, {moved} transitions of {len(told['items'])} items and of one move of NAT; {taken:.1f} s in all"
    yield Row("drain: durable transactions an item and transition", (after - count) / moved, "", None, 4.0, note)
    share = (waited_then - waited) / taken
    yield Row("drain: of its time, waiting for the store", share, "", None, 0.1, f"{waited_then - waited:.2f} s")


def run(options: Options) -> Iterator[Row]:
    """All rows."""
    yield from _planned(options)
    yield from _journalled()
