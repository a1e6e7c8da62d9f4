"""A report adds up, says what a tenant would have noticed, and is JSON both ways."""

from __future__ import annotations

import msgspec
import pytest

from ebbtide.errors import Unexpected
from ebbtide.lab import flow_report as of
from ebbtide.lab.flow_wire import SIZE, Kind, Load, Message, parse

GOOD = of.Counts(
    active=of.Connections(wanted=2, established=2, exchanges=40, slowest_ms=1.5),
    silent=of.Silent(wanted=2, established=2, asked=2, alive=2),
    udp=of.Datagrams(sent=100, received=99, sources=1, longest_gap_ms=4.0),
    udp_slow=of.Slow(flows=1, sent=1, received=1, kept=1),
)
BAD = of.Counts(
    active=of.Connections(wanted=3, established=2, broken=1, exchanges=9, slowest_ms=9.0),
    silent=of.Silent(wanted=3, established=3, broken=1, asked=3, alive=1),
    udp=of.Datagrams(sent=100, received=90, lost=10, sources=2, longest_gap_ms=40.0),
    udp_slow=of.Slow(flows=3, sent=3, received=2, lost=1, kept=2, changed=1),
    new=of.Attempts(opened=9, done=8, failed=1),
    half_open=of.Attempts(opened=9, done=7, failed=2),
    bulk=of.Bulk(received_bytes=1, broken=1),
    ping=of.Datagrams(sent=2, received=1, lost=1, sources=1),
)


def report_of(**vms: of.Counts) -> of.Report:
    incoming = of.Incoming(ping=of.Datagrams(sent=3, lost=2), tcp=of.Attempts(opened=3, failed=1), answered_by=("one",))
    inbound = {"192.0.2.7": incoming} if "bad" in vms else {}
    seen = {"udp": (("192.0.2.1", 4), ("192.0.2.1", 5), ("192.0.2.2", 4))}
    return of.Report(Load.only(udp=50, ping=5), 2.0, vms, inbound, seen, int(bool(inbound)), 3, 0, 1.25, ("one fell",))


def test_numbers_are_added_and_times_are_the_worst() -> None:
    total = report_of(good=GOOD, bad=BAD).total()
    assert (total.active.wanted, total.active.exchanges, total.active.slowest_ms) == (5, 49, 9.0)
    assert (total.udp.lost, total.udp.longest_gap_ms) == (10, 40.0)
    assert of.Report(Load(), 0.0, {}, {}, {}, 0, 0, 0, 0.0, ()).total() == of.Counts()
    with pytest.raises(Unexpected, match=r"Incoming\.answered_by"):
        of.joined([of.Incoming()])


def test_what_a_tenant_would_have_noticed() -> None:
    assert report_of(good=GOOD).failures() == []
    assert report_of(bad=BAD).failures() == [
        "bad: active connections broken: 1",
        "bad: active connections never established: 1",
        "bad: silent connections broken: 1",
        "bad: silent connections without an answer: 2",
        "bad: datagrams lost: 10",
        "bad: endpoints too many for one UDP flow: 1",
        "bad: datagrams of slow flows lost: 1",
        "bad: slow UDP flows changed their endpoint: 1",
        "bad: new connections failed: 1",
        "bad: half-open connections failed: 2",
        "bad: bulk transfer broken: 1",
        "bad: pings lost: 1",
        "inbound 192.0.2.7: pings lost: 2",
        "inbound 192.0.2.7: connections failed: 1",
        "half-open connections with two external ports: 1",
    ]


def test_a_vm_that_has_done_less_than_its_load_is_told() -> None:
    assert report_of(bad=BAD).too_few() == ["bad: pings: 2 in 2.0 s, not 5 a second"]
    assert report_of(good=GOOD, bad=BAD).too_few(0.2) == ["good: pings: 0 in 2.0 s, not 5 a second"]


def test_one_that_the_edges_of_the_time_cut_off_is_not_missing() -> None:
    slow = of.Counts(ping=of.Datagrams(sent=6))
    short, long = (of.Report(of.Load.only(ping=1), s, {"slow": slow}, {}, {}, 0, 0, 0, 0.0, ()) for s in (7.7, 8.0))
    assert short.too_few() == []
    assert long.too_few() == ["slow: pings: 6 in 8.0 s, not 1 a second"]


def test_a_report_is_json_both_ways_and_text_for_people() -> None:
    report = report_of(good=GOOD, bad=BAD)
    assert msgspec.json.decode(msgspec.json.encode(report), type=of.Report) == report
    assert report.addresses("udp") == {"192.0.2.1", "192.0.2.2"}
    assert report.addresses("ping") == set()
    table = report.table().splitlines()
    assert table[1] == "good       active     wanted 2  established 2  broken 0  exchanges 40  slowest 1.5 ms"
    assert table[-1] == "one fell"
    assert not any(line.startswith("good       ping") for line in table)


def test_what_the_host_knows_is_put_in() -> None:
    at_host = of.VmAtHost(silent_asked=1, silent_alive=1, udp_sources=2, bulk_bytes=7, bulk_pause_ms=3.0)
    counts = of.completed(GOOD, at_host)
    assert (counts.silent.asked, counts.silent.alive, counts.udp.sources, counts.bulk.received_bytes) == (3, 3, 2, 7)


def test_a_message_is_what_it_was() -> None:
    message = Message(7, Kind.SILENT, 3, 900, 1 << 40)
    assert parse(message.pack()) == message
    assert len(message.pack()) == SIZE
    assert parse(b"") is None
    assert parse(b"x" * SIZE) is None


def test_a_load_of_one_kind_is_nothing_else() -> None:
    load = Load.only(udp=10, udp_slow_period=0.5)
    assert (load.udp, load.udp_slow_period, load.active, load.bulk) == (10.0, 0.5, 0, 0.0)
