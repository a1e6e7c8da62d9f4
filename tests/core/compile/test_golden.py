"""What a small cluster's switches are told, as ovs-ofctl would print it: a transcript of one migration.

`pytest --regen-golden tests/core/compile/test_golden.py` writes it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from ebbtide.compile import compiler, ledger
from ebbtide.model.facts import Binding, Edit, Fact, parse_mac
from ebbtide.model.observed import Interface, View
from ebbtide.model.state import State
from ebbtide.openflow.text import format_flow, format_group, format_meter
from tests.fakes.clouds import ACTIVE, LEAVING, PENDING, change, compute, network, port, state, view

A, B, C = 1, 2, 3
NAMES = {A: "A", B: "B", C: "C"}


def start() -> State:
    """blue (tag 1) is on A and C, red (tag 2) on B and C. p1 is the port that will move, from A to B."""
    facts: list[Fact] = [compute(n, name=name) for n, name in NAMES.items()]
    facts += [network(1, id="blue"), network(2, id="red")]
    for lport, net, mac in ((1, "blue", "01"), (2, "blue", "02"), (3, "red", "03"), (4, "red", "04")):
        facts.append(port(lport, 0, network=net, mac=parse_mac(f"02:00:00:00:00:{mac}")))
    places = (("p1", A), ("p2", C), ("p3", B), ("p4", C))
    return state(*facts, *(Binding(name, at, ACTIVE) for name, at in places))


def lines(found: State, number: int, shown: View | None = None) -> set[str]:
    made = compiler.desired(found, number, view(found, number) if shown is None else shown).values()
    told = {format_meter(m) for f in made for m in f.meters}
    told |= {format_group(g) for f in made for g in f.groups}
    return told | {format_flow(flow, cookie=True) for f in made for flow in f.flows}


def order(line: str) -> tuple[object, ...]:
    """Meters, groups, flows; flows by table, highest priority first."""
    if not line.startswith("cookie"):
        return (line[0] == "g", line)
    table, priority = (int(line.split(f"{word}=")[1].split(",")[0].split(" ")[0]) for word in ("table", "priority"))
    return (2, table, -priority, line)


def transcript() -> Iterator[str]:
    found = start()
    one = Binding("p1", A, ACTIVE)
    steps = [
        ("p1 is on A, p2 and p4 on C, p3 on B; blue holds p1 and p2, red p3 and p4", []),
        ("p1 is plugged on B too: pending", [Edit(None, Binding("p1", B, PENDING))]),
        (
            "a frame of p1 came in at B: active on B, leaving A",
            [Edit(one, Binding("p1", A, LEAVING)), Edit(Binding("p1", B, PENDING), Binding("p1", B, ACTIVE))],
        ),
        ("p1's interface is gone at A, and all have flipped: on B", [Edit(Binding("p1", A, LEAVING), None)]),
    ]
    held: dict[int, set[str]] = {n: set() for n in NAMES}
    for words, edits in steps:
        yield f"# {words}"
        found = change(found, *edits) if edits else found
        for number, name in NAMES.items():
            wanted = lines(found, number)
            yield f"\n{name}:" + ("" if wanted != held[number] else " nothing changes")
            for line in sorted(wanted - held[number], key=order):
                yield f"  + {line}"
            for line in sorted(held[number] - wanted, key=order):
                yield f"  - {line}"
            held[number] = wanted
        yield ""


def test_the_flows_of_a_small_cluster_and_of_one_migration(golden: Callable[[str, str], None]) -> None:
    golden("l2.txt", "\n".join(transcript()))


def test_the_flows_of_a_metadata_agent_come_and_go_with_it_on_its_compute_alone(
    golden: Callable[[str, str], None],
) -> None:
    found = change(start(), Edit(None, Binding("p3", A, PENDING)))
    plain = view(found, A)
    agent = Interface("ebbtide-md", 61, ledger.AGENT_IFACE_ID)
    shown = msgspec.structs.replace(plain, ports=plain.ports.set(ledger.AGENT_IFACE_ID, agent))
    with_it, without = lines(found, A, shown), lines(found, A)
    assert not without - with_it
    told = sorted(with_it - without, key=order)
    golden("metadata.txt", "# an agent on A, where p1 is active and p3 pending\n\n" + "\n".join(told) + "\n")
    fresh = msgspec.structs.replace(agent, ofport=0)
    assert (
        lines(found, A, msgspec.structs.replace(plain, ports=plain.ports.set(ledger.AGENT_IFACE_ID, fresh))) == without
    )
    left = change(
        found, Edit(Binding("p1", A, ACTIVE), Binding("p1", A, LEAVING)), Edit(None, Binding("p1", B, ACTIVE))
    )
    assert not [line for line in lines(left, A, shown) if "metadata=0x10000000000/" in line and "table=61" in line]


def test_what_a_footprint_shares_is_the_same_bytes_on_every_compute_of_it() -> None:
    found = start()
    for name, net in found.networks.items():
        told = [compiler.desired(found, n, view(found, n)) for n in found.footprint(name)]
        keys = {k for made in told for k in made if not k.compute and (k.room, k.object) != ("base", 0)}
        assert {k for k in keys if k.room == "network"} >= {compiler.Key("network", net.id)}
        for key in keys:
            assert len({made[key] for made in told if key in made}) == 1
