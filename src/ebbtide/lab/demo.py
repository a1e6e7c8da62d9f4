"""The demo: a cloud of four computes grows by one, shrinks by two, takes one back, and nobody's traffic notices.

It runs the real controller in a lab (`ebbtide controller`, over its REST interface, as a user would), keeps numbered probes running
between every two VMs of a network in both directions, and TCP connections to a host outside through the NAT of a router, which one of
the leaving computes serves; and ends with what was counted. `sabotage` does from outside what a bad controller would do; the demo must
then end red.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ebbtide.lab.commands import wait_until
from ebbtide.lab.compute import Compute
from ebbtide.lab.flow_report import Report as Outcome
from ebbtide.lab.flows import Load, Traffic
from ebbtide.lab.lab import Lab
from ebbtide.lab.mover import Mover
from ebbtide.lab.probes import Probes, Report, pairs_among
from ebbtide.lab.rest import Api
from ebbtide.lab.second_search import identities_of, second_search
from ebbtide.lab.vm import Vm

SABOTAGES = ("break-before-make", "skip-tunnel", "leave-residue", "cut-connections", "close-nat")
# What is promised for each pair, and what is sent, so that a sender that is late for a moment keeps the promise.
PROMISED = 50.0
RATE = 52.0
LEAST = 1.0
#: Seconds for computes to be ready.
READY = 30.0
#: Seconds after which the drain recovers who is not empty.
DEADLINE = 20.0
MANAGER = "tcp:10.255.0.1:6640"
PHYSICAL, NEXT_HOP, SNAT, GATEWAY = "physnet1", "203.0.113.1", "203.0.113.10", "10.1.0.254"
#: What each of four VMs does through NAT. The source ports of its connections are the same as those of the other three.
LOAD = Load.only(active=10, silent=10, new=5)
_COUNTERS = re.compile(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[^, ]+,? ?")


class Story:
    """What is told, and how long each phase took."""

    def __init__(self, probes: list[Probes]) -> None:
        self.seconds: dict[str, float] = {}
        self._probes = probes
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """One line, with the time since the beginning."""
        print(f"{self.told_for():6.1f} s  {text}", file=sys.stderr, flush=True)

    def told_for(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun

    @contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """A part of the story, counted apart."""
        self.say(text)
        for probes in self._probes:
            probes.mark_phase(name)
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 2)
        if self._probes:
            # A phase that is over in no time is watched for a while all the same.
            _for_a_while(max(0.0, begun + LEAST - time.monotonic()))


def main(as_json: bool = False, sabotage: str | None = None) -> int:
    """Run it; 0 if nothing was lost and nothing is left."""
    directory = Path(tempfile.mkdtemp(prefix="ebbtide-demo-"))
    lab = Lab(f"demo{os.getpid()}", directory / "lab")
    try:
        result = _run(lab, directory, sabotage)
    finally:
        lab.down()
        shutil.rmtree(directory, ignore_errors=True)
    _print(result, as_json)
    return 0 if result["passed"] else 1


def _controller(lab: Lab, directory: Path) -> Api:
    command = [sys.executable, "-m", "ebbtide", "controller", "--state-dir", str(directory / "state")]
    command += ["--ovsdb-listen", "ptcp:6640:10.255.0.1", "--openflow-listen", "ptcp:6653:10.255.0.1"]
    lab.spawn("controller", [*command, "--http", "127.0.0.1:8181", "--admission", "open"])
    api = Api(lab)
    api.wait_leading(20)
    return api


def _add_vm(lab: Lab, api: Api, name: str, compute: str, network: int, index: int) -> Vm:
    mac, ip = f"02:00:00:00:{network:02x}:{index:02x}", f"10.{network}.0.{index}"
    body = {"id": name, "network": ("blue", "green")[network - 1], "mac": mac, "addresses": [ip]}
    api.ask("POST", "/api/v1/ports", body)
    way = GATEWAY if network == 1 else None
    vm = lab.add_vm(name, compute, mac=mac, ip_cidr=f"{ip}/24", iface_id=name, gateway=way)
    wait_until(lambda: _place(api, name) == compute, f"{name} to be served on {compute}")
    return vm


def _add_router(lab: Lab, api: Api) -> None:
    """Blue gets a way out: the router r1, and a host on the network outside."""
    lab.add_host("outside", f"{NEXT_HOP}/24")
    outside = {"id": "out", "physical": PHYSICAL, "subnet": "203.0.113.0/24", "gateway": NEXT_HOP}
    api.ask("POST", "/api/v1/externals", outside)
    api.ask("POST", "/api/v1/routers", {"id": "r1", "external": "out", "addresses": [SNAT]})
    api.ask("POST", "/api/v1/routers/r1/attach", {"network": "blue", "address": GATEWAY})


def _router(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.ask("GET", "/api/v1/routers/r1")
    return found


def _sabotage_nat(heir: Compute, sabotage: str | None) -> None:
    """What a controller does that takes along only half of what a NAT is."""
    if sabotage == "cut-connections":
        # The address and the rules have moved, what was open has not: neither its entries nor the rows from which they are made.
        heir.appctl("dpctl/flush-conntrack")
        for table in (92, 93):
            heir.ofctl("del-flows", "br-int", f"table={table}")
    if sabotage == "close-nat":
        # What was open has moved, and there is no range of ports to open anything from.
        heir.ofctl("add-flow", "br-int", "table=94,priority=65535,actions=drop")


def _bindings(api: Api, port: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.ask("GET", f"/api/v1/ports/{port}")["bindings"]
    return found


def _place(api: Api, port: str) -> str:
    return next((b["compute"] for b in _bindings(api, port) if b["phase"] == "active"), "")


class _Mover(Mover):
    """The lab's mover; `sabotage` has it spoil its first migration."""

    def __init__(self, lab: Lab, ask: Callable[..., Any], sabotage: str | None) -> None:
        super().__init__(lab, ask, failing=frozenset({"vmB1", "vmB2"}))
        self._sabotage = sabotage

    def copied(self, vm: str, source: str) -> None:
        if self._sabotage == "break-before-make" and source == "A":
            # What a controller does that clears the old place before the new one is known.
            self._lab.compute(source).ofctl("del-flows", "br-int", "table=220")


def _drain(lab: Lab, api: Api, story: Story, sabotage: str | None) -> dict[str, Any]:
    """The drain, from its beginning to its end; told as it goes."""
    over = threading.Event()
    mover = threading.Thread(target=_Mover(lab, api.ask, sabotage).run, args=(over.is_set,), daemon=True)
    wish = {"vms": "lab", "deadline": DEADLINE, "force": "the example of the specification: three of five"}
    found = api.ask("POST", "/api/v1/drains", {"computes": ["A", "B", "C"], **wish})["operation"]
    mover.start()
    said: dict[tuple[str, str], str] = {}

    def ended() -> bool:
        nonlocal found
        found = api.ask("GET", f"/api/v1/operations/{found['id']}")
        for item in found["items"]:
            key = item["kind"], item["object"]
            if item["state"] != said.get(key) and item["state"] in ("done", "failed", "skipped"):
                goes = f" -> {item['target']}" if item["target"] and item["state"] == "done" else ""
                story.say(f"{item['kind']} {item['object']}{goes} {item['state']} {item['reason']}".rstrip())
            said[key] = item["state"]
        return bool(found["state"] != "running")

    try:
        wait_until(ended, "the drain to be over", deadline=DEADLINE + 90, every=0.2)
    finally:
        over.set()
        mover.join(60)
    return dict(found)


def _told(drained: dict[str, Any], proven: list[dict[str, Any]]) -> dict[str, Any]:
    """What has become of the drain: who is removed, who was recovered and why, and of whom there is a proof."""
    computes = [i for i in drained["items"] if i["kind"] == "compute"]
    return {
        "state": drained["state"],
        "removed": sorted(i["object"] for i in computes if i["state"] == "done"),
        "recovered": {i["object"]: i["reason"] for i in computes if i["state"] == "failed"},
        "proven": sorted(name for p in proven for name in p["removed"]),
    }


def _own_flows(compute: Compute, lports: list[int]) -> list[str]:
    """A compute's flows about itself: those of its own VMs, and those that are the same everywhere; read by ovs-ofctl."""
    lines = [_COUNTERS.sub("", x).strip() for x in compute.ofctl("dump-flows", "br-int").splitlines() if "cookie=" in x]
    owners = [f"{lport:05x}" for lport in lports]

    def mine(line: str) -> bool:
        cookie = line.split("cookie=0x", 1)[1].split(",", 1)[0].rjust(16, "0")
        return cookie[0] == "1" or (cookie[0] == "4" and cookie[3:8] in owners)

    return sorted(filter(mine, lines))


def _run(lab: Lab, directory: Path, sabotage: str | None) -> dict[str, Any]:
    first, second = Probes(lab), Probes(lab)
    running: list[Probes] = []
    story = Story(running)
    with first, second, ExitStack() as stack:
        story.say(
            "4 computes A, B, C, D register; 8 VMs on the networks blue and green; blue has a router to a host outside"
        )
        lab.up()
        api = _controller(lab, directory)
        lab.add_computes(["A", "B", "C", "D"], register=MANAGER, physical_network=PHYSICAL)
        api.wait_ready("A", "B", "C", "D", deadline=READY)
        for number, name in enumerate(("blue", "green"), 1):
            api.ask("POST", "/api/v1/networks", {"id": name, "subnets": [f"10.{number}.0.0/24"]})
        _add_router(lab, api)
        vms: dict[int, list[Vm]] = {1: [], 2: []}
        for index, compute in enumerate("ABCD", 1):
            for network in (1, 2):
                vms[network].append(_add_vm(lab, api, f"vm{compute}{network}", compute, network, index))
            # Whoever has the first VM behind it serves the router, and it stays where it is when others could.
            wait_until(lambda: _router(api)["designated"] == "A", "A to serve the router's NAT")
        wait_until(lambda: bool(_router(api)["standby"]), "a compute to stand by for it")
        traffic = stack.enter_context(Traffic(lab, "outside", vms[1], LOAD))
        traffic.wait_flowing()
        first.start([pair for found in vms.values() for pair in pairs_among(found)], rate=RATE)
        first.wait_flowing()
        running.append(first)
        traffic.reset()
        told = "every VM probes every other on its network, 50 a second, both ways; 80 connections lead outside, by A's NAT"
        with story.phase("steady", told):
            _for_a_while(2.0)
        with story.phase("scale-out", "E joins with two VMs"):
            lab.add_computes(["E"], register=MANAGER, physical_network=PHYSICAL)
            api.wait_ready("E", deadline=READY)
            new = {network: _add_vm(lab, api, f"vmE{network}", "E", network, 5) for network in (1, 2)}
            pairs = [(new[n], vm) for n in (1, 2) for vm in vms[n]]
            second.start([*pairs, *((b, a) for a, b in pairs)], rate=RATE)
            if sabotage == "skip-tunnel":
                lab.compute("E").ofctl("add-flow", "br-int", "table=0,priority=200,tun_id=0x2710,actions=drop")
            else:
                second.wait_flowing()
        running.append(second)
        second.mark_phase("scale-out")
        if sabotage != "skip-tunnel":
            second.wait_flowing()
        lports = _lports(api, "B")
        before = _own_flows(lab.compute("B"), lports)
        identities = {name: _identities(lab, api, name) for name in ("A", "B", "C")}
        told = "drain A, B, C: services move, VMs are moved by the lab's mover; those of B cannot be"
        with story.phase("drain", told):
            drained = _drain(lab, api, story, sabotage)
            heir = str(_router(api)["designated"])
            story.say(f"{drained['state']}: {drained['reason']}; {heir} serves the NAT now")
            _sabotage_nat(lab.compute(heir), sabotage)
            api.wait_ready("B", "D", "E", deadline=READY)
        del identities["B"]
        identical = before == _own_flows(lab.compute("B"), lports) and bool(before)
        if sabotage == "leave-residue":
            number = next(int(i.removeprefix("number:")) for i in identities["A"] if i.startswith("number:"))
            flow = f"table=220,priority=10,cookie=0x204{number:05x}00000000,reg5={number},actions=drop"
            lab.compute("D").ofctl("add-flow", "br-int", flow)
        with story.phase("after", "the rest of the cloud goes on"):
            traffic.speak()
            _for_a_while(2.0)
        outcome = traffic.report()
        audit = api.ask("POST", "/api/v1/audit", {})
        searched = _second_search(lab, identities)
        proven = [p for p in api.ask("GET", "/api/v1/proofs")["proofs"] if p["clean"] and p["complete"]]
        left = sorted(c["name"] for c in api.ask("GET", "/api/v1/computes")["computes"])
        reports = [first.stop(), second.stop()]
        through = _through_nat(outcome, heir, str(_router(api)["designated"]))
    return _result(story, reports, through, audit, searched, identical, left, _told(drained, proven))


def _for_a_while(seconds: float) -> None:
    """Let probes run; there is nothing to wait for but time itself."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, "time to pass", deadline=seconds + 1)


def _lports(api: Api, compute: str) -> list[int]:
    ports = api.ask("GET", "/api/v1/ports")["ports"]
    return [p["lport"] for p in ports if any(b["compute"] == compute for b in p["bindings"])]


def _identities(lab: Lab, api: Api, name: str) -> set[str]:
    facts = api.ask("GET", f"/api/v1/computes/{name}")
    return identities_of(lab.compute(name), int(facts["number"]), int(facts["dpid"]))


def _second_search(lab: Lab, removed: dict[str, set[str]]) -> list[str]:
    """Look for removed computes once more, with Open vSwitch's own tools and nothing of ours."""
    left = [lab.compute(name) for name in ("B", "D", "E")]
    return [f"{line} (of {gone})" for gone, known in removed.items() for line in second_search(left, known)]


def _through_nat(outcome: Outcome, heir: str, now: str) -> dict[str, Any]:
    """What has become of the connections through NAT."""
    total = outcome.total()
    active, silent = total.active, total.silent
    mute = silent.established - silent.alive
    faults = outcome.failures() + outcome.too_few()
    if heir != now or heir not in ("D", "E"):
        faults.append(f"the NAT went from A to {heir}, and is on {now}")
    if (others := outcome.addresses("active") | outcome.addresses("silent") | outcome.addresses("new")) != {SNAT}:
        faults.append(f"the host outside has seen {', '.join(sorted(others))}, and not {SNAT} alone")
    return {
        "tcp_established": active.established + silent.established,
        "tcp_broken": active.broken + mute,
        "tcp_exchanges": active.exchanges,
        "tcp_slowest_exchange_ms": active.slowest_ms,
        "tcp_silent": silent.established,
        "tcp_silent_alive": silent.alive,
        "new_connections": total.new.opened,
        "new_connections_failed": total.new.failed,
        "new_connections_slowest_ms": total.new.slowest_ms,
        "nat_from": "A",
        "nat_to": now,
        "nat_faults": faults,
    }


def _result(
    story: Story,
    reports: list[Report],
    through: dict[str, Any],
    audit: dict[str, Any],
    searched: list[str],
    identical: bool,
    left: list[str],
    drained: dict[str, Any],
) -> dict[str, Any]:
    phases = []
    for name in ("start", *story.seconds):
        counted = [r for r in reports if name in r.phases]
        sent, lost = sum(r.sent(name) for r in counted), sum(r.lost(name) for r in counted)
        gap = max((r.longest_gap_ms(name) for r in counted), default=0.0)
        phases.append(
            {
                "phase": "warming up" if name == "start" else name,
                "seconds": story.seconds.get(name),
                "sent": sent,
                "lost": lost,
                "longest_gap_ms": gap,
            }
        )
    sent, lost = sum(r.sent() for r in reports), sum(r.lost() for r in reports)
    per_pair: dict[tuple[str, str], int] = {}
    for count in (c for r in reports for c in r.counts):
        pair = count.source, count.destination
        per_pair[pair] = per_pair.get(pair, 0) + count.sent
    silent = [
        f"{c.source} -> {c.destination} in {c.phase}: nothing was sent" for r in reports for c in r.counts if not c.sent
    ]
    too_few = [line for r in reports for line in r.too_few(PROMISED)]
    failures = [line for r in reports for line in r.failures()] + too_few
    residue = audit["residue"] + len(searched)
    passed = bool(sent) and not failures and not residue and identical and audit["clean"]
    passed = passed and bool(through["tcp_established"]) and not through["nat_faults"]
    passed = passed and drained["proven"] == drained["removed"] == ["A", "C"]
    return {
        "probes_sent": sent,
        "probes_lost": lost,
        "pairs": len(per_pair),
        "strays": sum(r.strays for r in reports),
        "probes_duplicated": sum(r.duplicated() for r in reports),
        "residue": residue,
        "residue_found": [f["text"] for f in audit["findings"] if f["kind"] == "residue"] + searched,
        "residue_by_audit": audit["residue"],
        "residue_by_second_search": len(searched),
        "missing": audit["missing"],
        "unexpected": audit["unexpected"],
        "recovered_identical": identical,
        "computes_left": left,
        "drain": drained,
        "seconds": story.seconds,
        "phases": phases,
        **through,
        "silent_pairs": silent,
        "too_few": too_few,
        "total_seconds": round(story.told_for(), 2),
        "passed": passed,
    }


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    rows = [("phase", "seconds", "probes sent", "lost", "longest gap")]
    for p in result["phases"]:
        seconds = "" if p["seconds"] is None else f"{p['seconds']:.1f}"
        rows.append((p["phase"], seconds, str(p["sent"]), str(p["lost"]), f"{p['longest_gap_ms']:.0f} ms"))
    rows.append(("all", "", str(result["probes_sent"]), str(result["probes_lost"]), ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    print()
    for row in rows:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    print()
    for line in _nat_lines(result):
        print(line)
    print()
    for name, why in result["drain"]["recovered"].items():
        print(f"{name} was recovered: {why}")
    print(f"removed, and proven: {', '.join(result['drain']['proven'])}")
    print(f"left of A and C on B, D and E: {result['residue']}")
    for line in result["residue_found"]:
        print(f"  {line}")
    print(f"missing {result['missing']}, unexpected {result['unexpected']}")
    print(
        f"B's own flows after recover are {'byte for byte' if result['recovered_identical'] else 'NOT'} what they were"
    )
    print(f"what remains: {', '.join(result['computes_left'])} with all ten VMs and the NAT on {result['nat_to']}")
    for line in (*result["silent_pairs"], *result["too_few"]):
        print(f"not probed as promised: {line}")
    for line in result["nat_faults"]:
        print(f"not kept through NAT: {line}")
    print("nothing lost, nothing left" if result["passed"] else "FAILED")


def _nat_lines(result: dict[str, Any]) -> Iterator[str]:
    """The connections through NAT, as a table."""
    talk = result["tcp_established"] - result["tcp_silent"]
    rows = [("through the NAT of r1, by A and then by " + result["nat_to"], "made", "broken", "slowest answer")]
    mute = result["tcp_silent"] - result["tcp_silent_alive"]
    rows.append(
        (
            "connections that talk all the time",
            str(talk),
            str(result["tcp_broken"] - mute),
            _ms(result, "tcp_slowest_exchange_ms"),
        )
    )
    rows.append(("connections silent from before the start until after it", str(result["tcp_silent"]), str(mute), ""))
    new, failed = result["new_connections"], result["new_connections_failed"]
    rows.append(
        ("connections made anew, twenty a second", str(new), str(failed), _ms(result, "new_connections_slowest_ms"))
    )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        yield "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))


def _ms(result: dict[str, Any], key: str) -> str:
    return f"{result[key]:.0f} ms"
