"""L3VPNs and subnet routes: what a large VPN costs to compile, what one learnt address costs, and what hidden addresses notice when their
subnet's designated compute is scaled in or killed.

The large VPN is compiled for every compute, from nothing, in one process without switches. The take-overs are on real switches: red on b
and c, of which one is designated, and a VM on a that sends there; both are measured from a, whose compute stays.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from ebbtide.compile import affected
from ebbtide.decide import hidden
from ebbtide.lab import Lab, Vm
from ebbtide.lab.commands import wait_until
from ebbtide.model.facts import Binding, BindingPhase, Designation, Edit, Fact, Network, Port, RouterPort, Vpn
from ebbtide.model.state import SUBNET, State, apply, subnet_name
from ebbtide.reconcile.compiled import Compiled

from . import clouds
from .clusters import Ours, lab_named
from .rows import Options, Row, median, say, spread

COMPUTES, NETWORKS, PORTS_EACH = 200, 20, 50
#: Addresses of red that nobody is told of: those that a VM has from the start, each used once.
FIRST_HIDDEN, HIDDEN = 100, 100


def large() -> State:
    """One VPN with 20 networks, each on all of 200 computes, and 10,000 ports."""
    facts: list[Fact] = [clouds.compute(number) for number in range(1, COMPUTES + 1)]
    facts.append(Vpn("large", 1, "100:1"))
    for tag in range(1, NETWORKS + 1):
        subnet = f"10.{tag}.0.0/16"
        facts += [Network(f"n{tag}", tag, 10_000 + tag, subnets=(subnet,))]
        facts += [RouterPort("large", f"n{tag}", f"10.{tag}.0.1", subnet, 0x02EB_0000_0001)]
        facts += [Designation(SUBNET, subnet_name(f"n{tag}", subnet), tag, tag + 1)]
    for lport in range(1, COMPUTES * PORTS_EACH + 1):
        tag = 1 + lport % NETWORKS
        addresses = (f"10.{tag}.{2 + (lport >> 8)}.{lport & 255}",)
        facts.append(Port(f"p{lport}", f"n{tag}", 0x02_0000_000000 + lport, lport, addresses))
        facts.append(Binding(f"p{lport}", 1 + (lport - 1) // PORTS_EACH, BindingPhase.ACTIVE))
    return apply(State(), [Edit(None, fact) for fact in facts], 1, store_id="bench", term=1)


def _compiled(options: Options) -> Iterator[Row]:
    state = large()
    views = {number: clouds.view(state, number) for number in state.computes}
    taken, flows, compiled = [], 0, Compiled()
    for _ in range(1 if options.quick else 3):
        compiled = Compiled()
        gc.collect()
        begun = time.process_time()
        made = [compiled.desired(state, number, view) for number, view in views.items()]
        taken.append(time.process_time() - begun)
        flows = sum(len(encoded.flows) for encoded in made[0].values())
        del made
    note = f"{spread(taken, unit=' s')}; {flows} flows on each compute; CPU time, all fragments encoded"
    yield Row("vpn: 200 computes and 10,000 host routes compiled from cold", median(taken), "s", None, 5.0, note)
    once, each = [], []
    for turn in range(5 if options.quick else 50):
        port = state.ports[f"p{turn * 7 + 1}"]
        begun = time.process_time()
        edits = hidden.learn(state, port.network, f"10.{port.network[1:]}.250.{turn + 2}", port.mac, port.id)
        state, before = apply(state, edits, state.revision + 1), state
        named = affected.by_edits(edits, before, state)
        compiled.forget(key for keys in named.values() for key in keys if not key.compute)
        first = next(iter(named))
        compiled.wanted(state, first, views[first], named[first])
        middle = time.process_time()
        for number, keys in named.items():
            compiled.wanted(state, number, views[number], keys)
        once.append((middle - begun) * 1000)
        each.append((time.process_time() - middle) * 1000 / len(named))
    note = f"{spread(once, unit=' ms')}; the decision, State, who is concerned, and its flows encoded"
    yield Row("vpn: one learnt address there, what is done once", median(once), "ms", None, 5.0, note)
    yield Row("vpn: one learnt address there, for each compute", median(each), "ms", None, None, spread(each))


def _address(number: int) -> str:
    return f"10.2.0.{FIRST_HIDDEN + number}"


class Site:
    """a, b, c; blue on a, red on b and c, a router between them, and a VM on each compute. The VM of b or c has hidden addresses."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.ours = Ours(lab)
        self.ours.join(["a", "b", "c"])
        self.ours.ask("PUT", "/api/v1/routers/r1", {})
        for number, network in enumerate(("blue", "red"), 1):
            self.ours.ask("POST", "/api/v1/networks", {"id": network, "subnets": [f"10.{number}.0.0/24"]})
            place = {"network": network, "address": f"10.{number}.0.254"}
            self.ours.ask("POST", "/api/v1/routers/r1/attach", place)
        self.vms = {name: self._vm(name, 1 if name == "a" else 2, index) for index, name in enumerate("abc", 1)}
        self._used = 0
        wait_until(
            lambda: bool(self.designated()[0] and self.designated()[1]),
            "somebody designated, and one who stands by",
            30,
        )
        self.holder = next(name for name in "bc" if name != self.designated()[0])
        for number in range(HIDDEN):
            self.vms[self.holder].exec(["ip", "addr", "add", f"{_address(number)}/32", "dev", "eth0"])

    def _vm(self, compute: str, net: int, index: int) -> Vm:
        name, mac = f"vm-{compute}", f"02:00:00:0b:00:{index:02x}"
        network = "blue" if net == 1 else "red"
        port = {"id": name, "network": network, "mac": mac, "addresses": [f"10.{net}.0.{index}"]}
        self.ours.ask("POST", "/api/v1/ports", port)
        return self.lab.add_vm(
            name, compute, mac=mac, ip_cidr=f"10.{net}.0.{index}/24", iface_id=name, gateway=f"10.{net}.0.254"
        )

    def designated(self) -> tuple[str, str]:
        """Who asks for red's unknown addresses, and who stands by."""
        found = self.ours.ask("GET", "/api/v1/designations?service=subnet")["designations"]
        mine = next((x for x in found if x["object"] == "red 10.2.0.0/24"), {"compute": "", "standby": ""})
        return mine["compute"], mine["standby"]

    def fresh(self) -> str:
        """A hidden address that nobody has asked for yet."""
        self._used += 1
        return _address(self._used - 1)

    def reach(self, address: str, patience: float = 10.0) -> float:
        """Seconds until an address answers the VM on a."""
        begun = time.monotonic()
        assert self.vms["a"].reaches(address, patience), address
        return time.monotonic() - begun

    @contextmanager
    def stream(self, address: str) -> Iterator[list[float]]:
        """Inside, the VM on a asks every 5 ms. Gives a list that holds, at the end, the longest gap in milliseconds and what was lost."""
        found: list[float] = []
        over = Event()

        def run() -> None:
            longest, gap, lost = 0, 0, 0
            while not over.is_set():
                answered = self.vms["a"].ping(address, count=40, interval=0.005, deadline=0.5)
                lost += answered.lost
                gap = answered.lost and gap + answered.lost
                longest = max(longest, gap)
            found[:] = [longest * 5.0, float(lost)]

        thread = Thread(target=run)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            thread.join()


def _scaled_in(site: Site) -> Row:
    address = site.fresh()
    site.reach(address)
    old = site.designated()[0]
    with site.stream(address) as found:
        site.ours.mark(old)
        wait_until(lambda: site.designated()[0] not in ("", old), "another designated", 30)
    taken = site.reach(site.fresh())
    note = f"asked each 5 ms; an address unknown until then answered {taken * 1000:.0f} ms after it was asked for"
    site.ours.ask("POST", "/api/v1/scale-in/recover", {"computes": [old]})
    return Row("vpn: designated compute scaled in: lost of a learnt address", found[1], "packets", None, 0.0, note)


def _killed(site: Site) -> Iterator[Row]:
    known = site.fresh()
    site.reach(known)
    old = site.designated()[0]
    if old == site.holder:
        # The address is to live on: it is who serves that dies.
        site.ours.mark(old)
        wait_until(lambda: site.designated()[0] not in ("", old), "another designated", 30)
        site.ours.ask("POST", "/api/v1/scale-in/recover", {"computes": [old]})
        old = site.designated()[0]
    wait_until(lambda: site.designated()[1] == site.holder, "the other to stand by", 30)
    with site.stream(known) as found:
        site.lab.compute(old).kill_switch()
        begun = time.monotonic()
        while not site.vms["a"].ping(site.fresh(), count=1, deadline=0.05).received:
            pass
        taken = (time.monotonic() - begun) * 1000
    yield Row("vpn: designated compute killed: until an address unknown till then answers", taken, "ms", None, 300.0)
    yield Row("vpn: designated compute killed: lost of a learnt address", found[1], "packets", None, 0.0)


def run(options: Options) -> Iterator[Row]:
    """All rows."""
    yield from _compiled(options)
    with lab_named("vpn") as lab:
        site = Site(lab)
        say("vpn: take-overs on real switches")
        yield _scaled_in(site)
        yield from _killed(site)
