"""Probes count exactly: what was sent, what came, what came twice, what did not come."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.errors import BadInput, NotReady
from ebbtide.lab import Compute, Lab, wait_until
from ebbtide.lab.prober import Pair
from ebbtide.lab.probes import Count, Probes, Report, pairs_among


def test_a_pair_counts_by_the_phase_of_sending() -> None:
    pair = Pair(0, 1)
    pair.seen.extend(b"\0\0\0")
    pair.arrived(0, 0, now=1.0)
    pair.next_phase()
    pair.seen.extend(b"\0\0\0")
    pair.arrived(3, 1, now=1.5)
    pair.arrived(2, 0, now=1.6)  # late, and of the phase before
    pair.arrived(2, 0, now=1.7)  # and twice
    pair.arrived(5, 1, now=4.0)
    first, second = pair.counts()
    assert first == {"sent": 3, "received": 2, "duplicated": 1, "reordered": 1, "longest_gap_ms": 1000.0}
    assert second == {"sent": 3, "received": 2, "duplicated": 0, "reordered": 0, "longest_gap_ms": 2400.0}


def report_of(*counts: Count, strays: int = 0) -> Report:
    return Report(counts, ("start", "move"), strays, 0, 0, 0.0)


def test_a_pair_that_sent_nothing_is_a_failure() -> None:
    assert report_of(Count("a", "b", "move", 0, 0, 0, 0, 0.0)).failures() == ["a -> b in move: nothing was sent"]


def test_losses_are_told_per_pair_and_phase() -> None:
    report = report_of(Count("a", "b", "start", 9, 5, 0, 0, 20.0), Count("a", "b", "move", 7, 7, 2, 1, 21.5), strays=1)
    assert (report.lost(), report.lost("start"), report.lost("move")) == (4, 4, 0)
    assert report.failures("move") == ["1 probes came to a VM for which they were not meant"]
    assert report.failures("start")[0] == "a -> b in start: 4 of 9 lost, longest gap 20.0 ms"
    assert report.longest_gap_ms("move") == 21.5
    assert "a   b   move     7         7     0    2      1    21.5" in report.table()
    with pytest.raises(BadInput, match="no phase 'end'"):
        report.lost("end")


def test_a_pair_that_sent_less_than_was_promised_is_told_and_so_is_what_was_skipped() -> None:
    counts = [Count(*pair, phase, sent, sent, 0, 0, 0.0) for pair, phase, sent in SENT]
    report = Report(tuple(counts), ("start", "move"), 0, 0, 3, 0.0, (1.0, 2.0))
    assert report.too_few(50) == ["b -> a: 149 sent in 3.0 s", "3 probes were due and never sent"]
    assert report._replace(skipped=0).too_few(49) == []


# A pair may be late in one phase, if it makes up for it in the next.
SENT = (
    (("a", "b"), "start", 40),
    (("a", "b"), "move", 110),
    (("b", "a"), "start", 50),
    (("b", "a"), "move", 99),
)


def test_probes_have_to_be_started() -> None:
    with Probes(Lab("nowhere", "/nonexistent")) as probes:
        with pytest.raises(NotReady):
            probes.stop()
        with pytest.raises(BadInput):
            probes.start([])


@pytest.mark.lab
def test_a_quiet_network_loses_nothing(shared: Lab) -> None:
    with Probes(shared) as probes:
        probes.start(pairs_among(shared.vms()), rate=50)
        probes.wait_flowing()
        for phase in ("one", "two", "three"):
            probes.mark_phase(phase)
            probes.wait_flowing()
        report = probes.stop()
    assert len(report.counts) == 12 * 4
    for phase in ("one", "two", "three"):
        assert report.failures(phase) == [], report.table()
        assert report.duplicated(phase) == 0
        assert report.sent(phase) == report.received(phase)


@pytest.mark.lab
def test_a_cut_cable_is_counted_where_it_hurts(shared: Lab) -> None:
    compute = shared.compute("b")
    with Probes(shared) as probes:
        probes.start(pairs_among([shared.vm("vm1"), shared.vm("vm2"), shared.vm("vm3")]), rate=50)
        probes.wait_flowing()
        probes.mark_phase("cut")
        compute.cut_data()
        try:
            wait_until(lambda: shared.vm("vm1").ping("10.0.0.3", deadline=0.2).lost == 1, "the cut to be felt")
        finally:
            compute.heal_data()
        probes.mark_phase("healed")
        probes.wait_flowing()
        probes.mark_phase("after")
        probes.wait_flowing()
        report = probes.stop()
    lost = {(count.source, count.destination): count.lost for count in report.of("cut")}
    assert lost["vm1", "vm2"] == lost["vm2", "vm1"] == 0
    assert all(lost[pair] > 0 for pair in (("vm1", "vm3"), ("vm3", "vm1"), ("vm2", "vm3"), ("vm3", "vm2")))
    assert report.failures("after") == [], report.table()
    assert report.longest_gap_ms() > 150


@pytest.mark.lab
def test_what_a_switch_sends_twice_is_counted_twice(
    lab: Lab, wired: Callable[..., None], numbered_vm: Callable[[Lab, int, str], None]
) -> None:
    compute = lab.add_compute("a")
    wired([compute])
    numbered_vm(lab, 1, "a")
    numbered_vm(lab, 2, "a")
    taps = [f"tap{lab.vm(name).iface_id[:11]}" for name in ("vm1", "vm2")]
    with Probes(lab) as probes:
        probes.start(pairs_among(lab.vms()))
        probes.wait_flowing()
        compute.ofctl("add-flow", "br-int", f"priority=9,udp,in_port={taps[0]},actions=output:{taps[1]},{taps[1]}")
        probes.mark_phase("double")
        probes.wait_flowing()
        report = probes.stop()
    there, back = report.of("double")
    assert (there.source, there.sent, there.duplicated, there.lost) == ("vm1", there.sent, there.sent, 0)
    assert (back.duplicated, back.lost) == (0, 0)


@pytest.mark.lab
def test_a_migration_between_flooding_switches_loses_nothing(
    lab: Lab,
    wired: Callable[..., None],
    numbered_vm: Callable[[Lab, int, str], None],
    flows: Callable[[Compute, str], None],
) -> None:
    """Where every frame goes to both places, the only thing that could lose one is the lab itself."""
    computes = lab.add_computes(["a", "b"])
    wired(computes, actions="FLOOD")
    for number, compute in enumerate(["a", "b", "b"], start=1):
        numbered_vm(lab, number, compute)
    with Probes(lab) as probes:
        probes.start(pairs_among(lab.vms()), rate=200)
        probes.wait_flowing()
        probes.mark_phase("moves")
        for destination in ("a", "b", "a", "b"):
            migration = lab.migration("vm3", destination)
            migration.begin()
            migration.switch()
            probes.wait_flowing()
            migration.finish()
        failed = lab.migration("vm3", "a")
        failed.begin()
        failed.fail()
        report = probes.stop()
    assert report.failures("moves") == [], report.table()
    assert report.sent("moves") > 100
