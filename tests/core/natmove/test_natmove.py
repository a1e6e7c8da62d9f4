"""The move of a router's NAT, explored: the recipe holds, and each of its steps is needed, or is listed as safe with the reason.

`pytest -s` prints what each search has visited. The rules and their bounds are those of `exploration`; the connections are one that
talks (p1 on C), one that is half-open (p2 on D, no packet of it sent yet), one that is silent until the last read (p1 again),
UDP, a ping, and one each of a VM on A and on B. All of them but the silent one have the same source port.

In the table, "without" leaves phases out, "x, y" is an exchange of neighbours, and "unsettled" does not wait for the lag of a phase. A lag
stays before the phase that it was before, or where that is left out, before the next. The middle says what the first search has found
that finds a fault: for this the first three connections and the ping have one packet each in the network, nothing crashes, and the driver
waits until all have applied a phase.

| variant | found | why |
|---|---|---|
| without prepare | safe | the first revision of a move brings it all to B, whatever its phase; the probes of tunnels are not here |
| without couple-new | lost | B drops answers to what A has opened, once the fabric sends to it |
| without couple-old | lost | B has opened a connection, and its answer still comes to A, which does not know whom to ask |
| without export | safe | the record alone is complete; where it is not, the driver waits: see the tests of the record below |
| without freeze | lost | from address on A opens nothing, and leaves nothing to B either |
| without silence | flaps | A and B both send under the router's MAC |
| without address | lost | the fabric still sends to A when A is taken away |
| without import | safe | the second read, for reply, brings the rows too; until then B asks: two hops more for each packet |
| without flip | lost | the computes come to B by uncouple-out, and a ping that has left by A gets its answer when B asks no more |
| without reply | lost | the remote speaks first after the move, or answers a SYN: no row, and nobody to ask |
| without uncouple-out | lost | B still asks A when A is taken away |
| without uncouple-in | safe | what B asks about after the round trip is nobody's; the last step ends it too |
| without quiet | safe | it is a look: for a compute that does not follow, which the driver would have waited for already |
| without import reply | two mappings | the move of those who do not think of it: B opens anew what A had opened |
| couple-new, prepare | safe | as without prepare |
| couple-old, couple-new | safe | before the freeze B has opened nothing that A could be asked about |
| export, couple-old | safe | what A exports does not depend on what it asks |
| freeze, export | two mappings | the mark of the export gives a connection two flows of the cache, one of them older than the freeze |
| silence, freeze | safe | who opens and who speaks are different questions |
| address, silence | flaps | as without silence, for a while |
| import, address | safe | A opens nothing from the freeze on, wherever the fabric sends |
| flip, import | safe | as without import, for a while |
| reply, flip | safe | on the userspace datapath: A does not see the answers any more, and drops nothing for it |
| uncouple-out, reply | safe | the record was complete at the first read, and what B does not know it opens |
| uncouple-in, uncouple-out | lost | a ping is still asked out by A, and its answer is asked about no more |
| quiet, uncouple-in | safe | as without quiet |
| unsettled export | lost | older flows of A's cache drop what the freeze has let B open, or open it themselves |
| unsettled freeze | safe | silence settles before anything is read |
| unsettled silence | flaps | older flows of A's cache still send under the router's MAC |
| unsettled address | safe | nothing of B rests on it before the flip |
| unsettled flip | safe | as the exchange of reply and flip |
| unsettled uncouple-out | lost | a ping that was asked out by A is on its way |
| unsettled uncouple-in | safe | nobody has sent to A since the flip, and what was has arrived in the lag of uncouple-out |
| unsettled freeze address uncouple-in | safe | together as well (and with flip: a search of a minute) |
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from ebbtide.decide.natmove import NEEDS, Need
from ebbtide.model.facts import MovePhase
from tests.core.natmove.exploration import Fault, Needs, Result, Rules, explore
from tests.core.natmove.site import A, B, Site
from tests.core.natmove.traffic import Kind
from tests.fakes.conntrack import ICMP, UDP

TALKING, HALF_OPEN = Kind("talking", "p1"), Kind("half-open", "p2", opened=False)
SILENT = Kind("silent", "p1", source=4001, silent=True)
PING, ONE_WAY = Kind("ping", "p2", ICMP, opened=False), Kind("udp", "p1", UDP, opened=False)
ON_OLD, ON_NEW = Kind("on A", "p3"), Kind("on B", "p4", opened=False)
KINDS = (TALKING, HALF_OPEN, SILENT, ONE_WAY, PING, ON_OLD, ON_NEW)
ORDER = tuple(MovePhase)
ONE = Rules(limit=1)


def search(what: str, site: Site, kinds: tuple[Kind, ...], rules: Rules) -> Result:
    found = explore(site, kinds, rules)
    names = " + ".join(k.name for k in kinds)
    print(
        f"{what}: {names}: {found.states} states ({found.controls} of the control), {found.steps} steps, "
        f"{found.seconds:.1f} s; {rules.limit} packets each, {'one crash' if rules.crash else 'no crash'}"
    )
    return found


def fault(site: Site, kinds: tuple[Kind, ...], rules: Rules) -> str:
    with pytest.raises(Fault) as found:
        explore(site, kinds, rules)
    print(found.value)
    return found.value.what.partition(":")[0]


# --- the recipe holds ---


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_a_connection_survives_the_move_with_two_packets_in_the_network(kind: Kind) -> None:
    assert search("recipe", Site(), (kind,), ONE if kind is ON_NEW else Rules()).arrived


@pytest.mark.parametrize("kinds", [(TALKING, HALF_OPEN), (HALF_OPEN, SILENT), (TALKING, SILENT)])
def test_two_connections_survive_it_with_a_packet_each(kinds: tuple[Kind, ...]) -> None:
    assert search("recipe", Site(), kinds, ONE).arrived


def test_three_connections_survive_it_when_all_settle_in_each_phase() -> None:
    """A compute that is late, and lags that overlap, are explored with two connections; three of them are 10 million states."""
    needs = {phase: Need((), ("all",)) for phase in ORDER}
    assert search("recipe", Site(), (TALKING, HALF_OPEN, SILENT), ONE._replace(needs=needs)).arrived


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_the_move_to_the_compute_that_has_stood_by_breaks_nothing_either(kind: Kind) -> None:
    """Above all where computes still fail over to it: in the middle of a connection it opens nothing until it asks."""
    assert search("standby", Site(standby=True), (kind,), ONE._replace(anew=True)).arrived


# --- and each part of it is needed, or is said to be safe ---


def rows() -> list[tuple[str, str]]:
    assert __doc__ is not None
    table = [[cell.strip() for cell in line.split("|")] for line in __doc__.splitlines()]
    return [(cells[1], cells[2]) for cells in table if len(cells) == 5 and cells[1] not in ("variant", "---")]


def variant(words: str) -> tuple[tuple[MovePhase, ...], Needs]:
    """The order of the phases, and whom the driver waits for."""
    how, *names = words.replace(",", "").split()
    order, gone = list(ORDER), [MovePhase(name) for name in names]
    # Whose lag passes before each step.
    lags = {after: NEEDS[p].settled if p else () for p, after in pairwise((None, *ORDER, "after"))}
    if how == "unsettled":
        lags |= {after: () for p, after in pairwise((*ORDER, "after")) if p in gone}
    elif how == "without":
        for phase in gone:
            after = (*order, "after")[order.index(phase) + 1]
            lags[after] = (*lags.get(phase, ()), *lags[after])
            order.remove(phase)
    else:
        order = [{MovePhase(how): gone[0], gone[0]: MovePhase(how)}.get(p, p) for p in ORDER]
    return tuple(order), {p: Need(("all",), lags[q]) for p, q in zip(order, (*order[1:], "after"), strict=True)}


def test_the_table_lists_each_phase_left_out_each_exchange_and_each_lag() -> None:
    wanted = {f"without {p}" for p in ORDER} | {f"{b}, {a}" for a, b in pairwise(ORDER)}
    wanted |= {f"unsettled {p}" for p, need in NEEDS.items() if need.settled}
    assert {words for words, _ in rows()} >= wanted


@pytest.mark.parametrize(("words", "expected"), rows())
def test_what_is_left_out_or_exchanged_is_found_faulty_or_safe(words: str, expected: str) -> None:
    order, needs = variant(words)
    site, rules = Site(order), ONE._replace(needs=needs, crash=False)
    try:
        safe = [search(words, site, (kind,), rules).arrived for kind in (TALKING, HALF_OPEN, SILENT, PING)]
        found = "safe" if all(safe) else "does not arrive"
    except Fault as fault:
        print(f"{words}: {fault}")
        found = fault.what.partition(":")[0]
    assert found == expected


def test_a_driver_that_does_not_look_whether_the_fabric_has_followed_loses_packets() -> None:
    assert fault(Site(), (TALKING,), ONE._replace(looks=False)) == "lost"


def test_two_gateways_with_one_block_of_ports_give_a_port_twice() -> None:
    site = Site(blocks={A: (1999, 2009), B: (2000, 2009)})
    assert fault(site, (TALKING, SILENT, HALF_OPEN), ONE._replace(crash=False)) == "shared"


# --- the record ---


@pytest.mark.parametrize("kind", [TALKING, HALF_OPEN, SILENT], ids=lambda k: k.name)
def test_a_record_that_gets_lost_is_waited_for_and_costs_nothing_else(kind: Kind) -> None:
    assert search("lossy", Site(), (kind,), ONE._replace(lossy=True)).arrived


@pytest.mark.parametrize("record", [True, False])
def test_what_is_in_no_record_and_says_nothing_is_waited_for_and_lives_as_long(record: bool) -> None:
    forgotten, calm = SILENT._replace(recorded=False), ONE._replace(crash=False)
    assert not search("not recorded", Site(record=record), (forgotten,), calm).arrived
    assert fault(Site(record=record), (forgotten,), calm._replace(patient=False)) in ("lost", "two mappings")


def test_without_a_record_the_export_knows_who_has_spoken() -> None:
    calm = ONE._replace(crash=False)
    for kind in KINDS:
        if kind is not SILENT:
            assert search("no record", Site(record=False), (kind._replace(recorded=False),), calm).arrived
    order, needs = variant("without export")
    talking = TALKING._replace(recorded=False)
    site = Site(order, record=False)
    assert not search("no record, no export", site, (talking,), calm._replace(needs=needs)).arrived
