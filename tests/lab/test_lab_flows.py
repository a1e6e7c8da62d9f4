"""Traffic between VMs and a host outside counts what happened, and sees what was done to it.

No controller and no switch: the VMs' cables are joined to the network outside. There is a test per kind, and each kind sees
the wire cut, or the host forget. All kinds at once: `test_lab_flows_nat`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ebbtide.errors import BadInput, NotFound, NotReady
from ebbtide.lab import Lab, namespace, packets, wait_until
from ebbtide.lab.flow_report import Counts
from ebbtide.lab.flow_wire import ACTIVE_PORTS, SILENT_PORTS, SIZE, UDP_PORT
from ebbtide.lab.flows import Inbound, Load, Report, Traffic

pytestmark = pytest.mark.lab

HOST = "192.0.2.10"
LATE = "192.0.2.254"
RST, ACK = 4, 16
VMS = {"vm1": "192.0.2.1", "vm2": "192.0.2.2"}


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, fresh_name: Callable[[], str]) -> Iterator[Lab]:
    """Two VMs and a host on one wire. Each VM's cable is `j0` or `j1` in the fabric."""
    with Lab(fresh_name(), tmp_path_factory.mktemp("flows") / "lab") as made:
        made.add_host("out", f"{HOST}/24")
        for number, (name, address) in enumerate(VMS.items()):
            made.add_vm(name, None, f"02:00:00:00:00:0{number + 1}", f"{address}/24", name)
            namespace.ip_batch(
                made.site.fabric,
                [
                    f"link add j{number} type veth peer name k{number}",
                    f"link set j{number} master vm{number} up",
                    f"link set k{number} master ext up",
                ],
            )
        yield made


def cable(lab: Lab, state: str) -> None:
    namespace.ip_batch(lab.site.fabric, [f"link set j0 {state}", f"link set j1 {state}"])


@contextmanager
def cut(lab: Lab) -> Iterator[None]:
    cable(lab, "down")
    try:
        yield
    finally:
        cable(lab, "up")


@contextmanager
def running(lab: Lab, inbound: tuple[Inbound, ...] = (), **kinds: float) -> Iterator[Traffic]:
    with Traffic(lab, "out", list(VMS), Load.only(**kinds), inbound) as traffic:
        traffic.wait_flowing()
        traffic.reset()
        yield traffic


def until(traffic: Traffic, holds: Callable[[Counts], bool], what: str = "the counts to show it") -> None:
    wait_until(lambda: holds(traffic.glance().total()), what, deadline=10, every=0.05)


def ports(report: Report, kind: str) -> dict[str, set[int]]:
    """By address."""
    found: dict[str, set[int]] = {}
    for address, port in report.seen[kind]:
        found.setdefault(address, set()).add(port)
    return found


def test_active_connections_collide_in_their_ports_and_talk(direct: Lab) -> None:
    with running(direct, active=5) as traffic:
        until(traffic, lambda counts: counts.active.exchanges >= 50)
        report = traffic.report()
    assert report.failures() == [], report.table()
    for counts in report.vms.values():
        assert (counts.active.wanted, counts.active.established, counts.active.broken) == (5, 5, 0)
        assert 0 < counts.active.slowest_ms < 1000
    expected = set(range(ACTIVE_PORTS, ACTIVE_PORTS + 5))
    assert ports(report, "active") == dict.fromkeys(VMS.values(), expected)


def test_an_active_connection_that_the_host_forgets_is_broken(direct: Lab) -> None:
    with running(direct, active=3) as traffic:
        assert traffic.forget() == 6
        until(traffic, lambda counts: counts.active.broken == 6)
        report = traffic.report()
    assert report.vms["vm1"].active.broken == report.vms["vm2"].active.broken == 3
    assert "vm2: active connections broken: 3" in report.failures()
    assert any(line.startswith("vm1 active 0, port 20000: ") and "reset by peer" in line for line in report.told)


def test_silent_connections_speak_when_told_and_from_either_side(direct: Lab) -> None:
    with running(direct, silent=4) as traffic:
        assert traffic.report().total().silent.asked == 0
        for _ in range(2):
            assert traffic.speak() == 8
            report = traffic.report()
            assert report.failures() == [], report.table()
            assert (report.total().silent.asked, report.total().silent.alive) == (8, 8)
    expected = set(range(SILENT_PORTS, SILENT_PORTS + 4))
    assert ports(report, "silent") == dict.fromkeys(VMS.values(), expected)


def test_a_silent_connection_that_the_host_forgets_is_found_dead_when_it_speaks(direct: Lab) -> None:
    with running(direct, silent=4) as traffic:
        traffic.forget()
        assert traffic.glance().total().silent.broken == 0
        assert traffic.speak() == 8
        until(traffic, lambda counts: counts.silent.broken == 4, "those that speak first to be refused")
        silent = traffic.glance().total().silent
    assert (silent.established, silent.asked, silent.alive) == (8, 8, 0)


def test_datagrams_lost_on_a_cut_wire_are_counted(direct: Lab) -> None:
    with running(direct, udp=500) as traffic:
        until(traffic, lambda counts: counts.udp.received > 200)
        before = traffic.report()
        assert before.failures() == before.too_few() == [], before.table()
        assert traffic.missing() == []
        assert [counts.udp.sources for counts in before.vms.values()] == [1, 1]
        assert all(0 < counts.udp.heard_gap_ms < 300 for counts in before.vms.values())
        assert ports(before, "udp") == {address: {UDP_PORT} for address in VMS.values()}
        traffic.reset()
        with cut(direct):
            until(traffic, lambda counts: counts.udp.longest_gap_ms > 300)
        report = traffic.report()
    for counts in report.vms.values():
        assert counts.udp.lost > 100
        assert counts.udp.longest_gap_ms > 300
        assert counts.udp.heard_gap_ms > 300
        assert counts.udp.duplicated == 0


def test_slow_flows_say_something_now_and_then(direct: Lab) -> None:
    with running(direct, udp_slow=3, udp_slow_period=0.2) as traffic:
        until(traffic, lambda counts: counts.udp_slow.received >= 12)
        slow = traffic.glance().total().udp_slow
        assert (slow.flows, slow.kept, slow.changed, slow.lost) == (6, 6, 0, 0)
        with cut(direct):
            until(traffic, lambda counts: counts.udp_slow.lost > 0)
        assert "datagrams of slow flows lost" in " ".join(traffic.glance().failures())


def test_new_connections_wait_for_a_cut_wire_and_are_counted_when_it_takes_too_long(direct: Lab) -> None:
    with running(direct, new=20) as traffic:
        until(traffic, lambda counts: counts.new.done >= 20)
        report = traffic.report()
        assert report.failures() == [], report.table()
        assert report.total().new.slowest_ms < 900
        traffic.reset()
        with cut(direct):
            until(traffic, lambda counts: counts.new.slowest_ms > 300)
        report = traffic.report()
    # A SYN is repeated after one second.
    assert report.total().new.slowest_ms > 900
    assert report.total().new.failed == 0


def test_half_open_connections_complete_late_from_one_port_and_over_a_cut_wire(direct: Lab) -> None:
    with running(direct, half_open=10) as traffic:
        until(traffic, lambda counts: counts.half_open.done >= 10 and counts.half_open.slowest_ms >= 1500)
        assert traffic.glance().failures() == []
        with cut(direct):
            until(traffic, lambda counts: counts.half_open.longest_gap_ms > 500)
        report = traffic.report()
    assert report.failures() == [], report.table()
    assert report.two_ports == 0
    assert report.repeated_syns > 0  # of those that wait 1.5 s
    assert report.total().half_open.slowest_ms > 1600
    assert report.addresses("half_open") == set(VMS.values())


def test_the_late_server_refuses_what_it_does_not_know(direct: Lab) -> None:
    """What it does not know it refuses; a message of nobody is answered, and told."""
    vm, late_mac = direct.vm("vm1"), direct.site.mac(5, 0)
    with running(direct, half_open=10) as traffic, vm.packets() as card:

        def say(port: int, sequence: int, acknowledged: int, flags: int, payload: bytes = b"") -> bytes:
            segment = packets.tcp((vm.ip, port), (LATE, 7006), sequence, acknowledged, flags, payload)
            card.send(packets.ethernet(late_mac, vm.mac, packets.ETH_IP, segment))
            return card.receive(lambda frame: frame[23] == 6 and frame[34:38] == struct.pack("!HH", 7006, port))[34:]

        refusal = say(9, 100, 200, ACK, b"unknown")
        assert (refusal[13], refusal[4:8]) == (RST, struct.pack("!I", 200))
        with vm.connect(LATE, 7006) as connection:
            connection.sendall(b"x" * SIZE)
            assert connection.recv(SIZE) == b"x" * SIZE
        assert traffic.glance().strays == 1


def test_a_bulk_transfer_pauses_while_the_wire_is_cut(direct: Lab) -> None:
    with running(direct, bulk=20) as traffic:
        until(traffic, lambda counts: counts.bulk.received_bytes > 1_000_000)
        report = traffic.report()
        assert report.failures() == [], report.table()
        for counts in report.vms.values():
            assert counts.bulk.received_bytes / report.seconds < 22e6 / 8
            assert 5 <= counts.bulk.longest_pause_ms < 300
        with cut(direct):
            until(traffic, lambda counts: counts.bulk.longest_pause_ms > 300)
        traffic.reset()
        traffic.wait_flowing()
        report = traffic.report()
    assert report.total().bulk.broken == 0
    assert report.addresses("bulk") == set(VMS.values())


def test_pings_lost_on_a_cut_wire_are_counted(direct: Lab) -> None:
    with running(direct, ping=50) as traffic:
        until(traffic, lambda counts: counts.ping.received >= 20)
        report = traffic.report()
        assert report.failures() == [], report.table()
        assert report.addresses("ping") == set(VMS.values())
        assert [counts.ping.sources for counts in report.vms.values()] == [1, 1]
        with cut(direct):
            until(traffic, lambda counts: counts.ping.longest_gap_ms > 300)
        report = traffic.report()
    assert all(counts.ping.lost > 10 for counts in report.vms.values())


def test_what_the_host_sends_in_is_answered_by_the_vm_of_that_address(direct: Lab) -> None:
    inbound = (Inbound(VMS["vm2"], ping=50, tcp=20), Inbound(VMS["vm1"], ping=0, tcp=20))
    with running(direct, inbound) as traffic:
        wait_until(lambda: traffic.glance().inbound[VMS["vm1"]].tcp.done > 10, "connections")
        report = traffic.report()
        assert report.failures() == [], report.table()
        with cut(direct):
            gap = "a gap"
            wait_until(lambda: traffic.glance().inbound[VMS["vm2"]].ping.longest_gap_ms > 300, gap)
        cut_short = traffic.report()
    first, second = report.inbound[VMS["vm1"]], report.inbound[VMS["vm2"]]
    assert (first.answered_by, second.answered_by) == (("vm1",), ("vm2",))
    assert (first.ping.sent, first.ping.longest_gap_ms) == (0, 0.0)
    assert second.ping.received > 10
    second = cut_short.inbound[VMS["vm2"]]
    assert second.ping.lost > 10
    assert second.tcp.longest_gap_ms > 300


def test_traffic_that_does_not_flow_says_what_is_missing(direct: Lab) -> None:
    with cut(direct), Traffic(direct, "out", ["vm1"], Load.only(active=1, ping=10)) as traffic:
        with pytest.raises(NotReady, match=r"waited 0\.2 s in vain for vm1 active 0, vm1 ping; what happened: "):
            traffic.wait_flowing(0.2)


def test_what_cannot_be_is_refused(direct: Lab) -> None:
    with pytest.raises(NotFound, match="no host elsewhere"):
        Traffic(direct, "elsewhere", ["vm1"]).start()
    with pytest.raises(BadInput, match="2000 flows"):
        Traffic(direct, "out", ["vm1"], Load.only(active=2001))
    with pytest.raises(BadInput, match="host's own address"):
        Traffic(direct, "out", ["vm1"], late_host=HOST).start()
    with pytest.raises(NotReady, match="start it first"):
        Traffic(direct, "out", ["vm1"]).report()
