"""Security groups: what a large remote group costs to compile, one member more, and what a packet of a secured port costs the switch.

The large group is compiled in one process without switches. The price of a packet is on a real switch, between two VMs of one compute,
which pass both stages there: small datagrams as fast as a sender gets rid of them, and the CPU time that ovs-vswitchd takes for each,
secured and not in turns. What a switch can forward is what its CPU is worth, so the ratio of the two is that of the packet rates.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Iterator

from ebbtide.compile import affected
from ebbtide.decide import ports, security
from ebbtide.decide.security import RuleWish
from ebbtide.lab import Lab, Vm, packets
from ebbtide.model.facts import Binding, BindingPhase, Edit, Fact, Network, Port, SecurityGroup
from ebbtide.model.state import State, apply
from ebbtide.reconcile.compiled import Compiled

from . import clouds
from .clusters import Ours, lab_named
from .price import price_of
from .rows import Options, Row, median, say, spread

COMPUTES, MEMBERS, RULES = 50, 1000, 100
PACKETS, TURNS = 200_000, 5


def large() -> State:
    """A thousand members on 50 computes, and on each a port with 100 rules, half of which name them."""
    facts: list[Fact] = [clouds.compute(number) for number in range(1, COMPUTES + 1)]
    facts += [Network("n1", 1, 10_001), SecurityGroup("members", 1), SecurityGroup("guarded", 2)]
    for lport in range(1, MEMBERS + 1):
        groups = ("members",)
        facts.append(Port(f"m{lport}", "n1", 0x02_0000_000000 + lport, lport, (clouds.address(lport),), True, groups))
        facts.append(Binding(f"m{lport}", 1 + lport % COMPUTES, BindingPhase.ACTIVE, zone=lport))
    for number in range(1, COMPUTES + 1):
        lport = MEMBERS + number
        groups = ("guarded",)
        facts.append(Port(f"g{number}", "n1", 0x02_0000_000000 + lport, lport, (clouds.address(lport),), True, groups))
        facts.append(Binding(f"g{number}", number, BindingPhase.ACTIVE, zone=lport))
    state = apply(State(), [Edit(None, fact) for fact in facts], 1, store_id="bench", term=1)
    for at in range(RULES):
        wish = RuleWish(True, "ipv4", "tcp", str(1000 + at), remote="members" if at % 2 else "")
        state = apply(state, security.add_rule(state, "guarded", wish)[0], state.revision + 1)
    return state


def _compiled(options: Options) -> Iterator[Row]:
    state = large()
    views = {number: clouds.view(state, number) for number in state.computes}
    taken, flows = [], 0
    for _ in range(1 if options.quick else 3):
        compiled = Compiled()
        gc.collect()
        begun = time.process_time()
        for number, view in views.items():
            found = compiled.desired(state, number, view)
            flows = sum(len(e.flows) for key, e in found.items() if key.room in ("rules", "member"))
        taken.append(time.process_time() - begun)
    note = f"{spread(taken, unit=' s')}; {flows} flows of rules and members on each of {COMPUTES}; with all else that they hold"
    yield Row("security: a group with 1,000 members and 100 rules, from cold", median(taken), "s", None, 3.0, note)
    compiled, all_of, sent = Compiled(), [], []
    held = {number: compiled.desired(state, number, view) for number, view in views.items()}
    for turn in range(5 if options.quick else 50):
        lport = 5000 + turn
        made = Port(f"m{lport}", "n1", 0x02_0000_000000 + lport, lport, (clouds.address(lport),))
        state = apply(state, [Edit(None, made)], state.revision + 1)
        begun = time.process_time()
        edits, _ = ports.change(state, made.id, secured=True, groups=["members"])
        state, before = apply(state, edits, state.revision + 1), state
        named = affected.by_edits(edits, before, state)
        compiled.forget(key for keys in named.values() for key in keys if not key.compute)
        added = [compiled.wanted(state, number, views[number], keys) for number, keys in named.items()]
        all_of.append((time.process_time() - begun) * 1000)
        sent.append(max(sum(len(e.flows) for e in wanted.values() if e is not None) for wanted in added))
    del held
    note = f"{spread(all_of, unit=' ms')}; the decision, State, and flows for {COMPUTES} computes"
    yield Row("security: one member more, CPU", median(all_of), "ms", None, 10.0, note)
    yield Row(
        "security: one member more, flows on a compute", max(sent), "", None, 1.0, "for all rules that name its group"
    )


# --- the price of a packet ---


def _packets(options: Options) -> Iterator[Row]:
    with lab_named("bsec") as lab:
        ours = Ours(lab)
        (compute,) = ours.join(["a"])
        ours.ask("POST", "/api/v1/networks", {"id": "n1", "subnets": ["10.9.0.0/24"]})
        ours.ask("POST", "/api/v1/security-groups", {"id": "all"})
        for way in ("in", "out"):
            rule = {"direction": way, "protocol": "udp", "ports": "5001"}
            ours.ask("POST", "/api/v1/security-groups/all/rules", rule)
        one, two = (_vm(ours, lab, index) for index in (1, 2))
        assert one.reaches(two.ip)
        found: dict[bool, list[float]] = {False: [], True: []}
        count = PACKETS // 4 if options.quick else PACKETS
        share = 1.0
        for _ in range(2 if options.quick else TURNS):
            for secured in (False, True):
                change = {"secured": secured, "security-groups": ["all"] if secured else []}
                for vm in (one, two):
                    ours.ask("PATCH", f"/api/v1/ports/{vm.name}?wait=applied", change)
                time.sleep(1.5)  # cached flows follow their tables
                price, arrived = price_of(compute, one, two, _frame(one, two), count)
                found[secured].append(price)
                share = min(share, arrived)
    plain, secured_price = median(found[False]), median(found[True])
    say(f"security: {spread(found[True], unit=' us')} secured, {spread(found[False], unit=' us')} not")
    note = f"limit: 80 % of the rate; both stages on one compute; {share:.0%} or more arrived; one flow, 60 bytes"
    yield Row("security: CPU of the switch for a packet", secured_price, "us", plain, 1.25, note)


def _frame(sender: Vm, receiver: Vm) -> bytes:
    body = packets.udp((sender.ip, 5000), (receiver.ip, 5001), b"x" * 18)
    return packets.ethernet(receiver.mac, sender.mac, 0x0800, body)


def _vm(ours: Ours, lab: Lab, index: int) -> Vm:
    name, mac, address = f"vm{index}", f"02:00:00:0c:00:{index:02x}", f"10.9.0.{index}"
    ours.ask("POST", "/api/v1/ports", {"id": name, "network": "n1", "mac": mac, "addresses": [address]})
    return lab.add_vm(name, "a", mac=mac, ip_cidr=f"{address}/24", iface_id=name)


def run(options: Options) -> Iterable[Row]:
    """The rows."""
    yield from _compiled(options)
    yield from _packets(options)
