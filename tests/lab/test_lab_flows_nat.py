"""Traffic through a gateway that translates addresses, made by hand of one switch: the host sees what the gateway did.

And it sees what a gateway does wrong: one that forgets its connections and has another address afterwards.
"""

from __future__ import annotations

import msgspec
import pytest

from ebbtide.lab import Compute, Lab, namespace, wait_until
from ebbtide.lab.flow_report import Counts
from ebbtide.lab.flow_wire import ACTIVE_PORTS
from ebbtide.lab.flows import Inbound, Load, Report, Traffic

pytestmark = pytest.mark.lab

HOST, LATE = "192.0.2.10", "192.0.2.254"
ROUTER_MAC, ROUTER = "06:eb:0f:00:00:01", "10.0.0.254"
BEFORE, AFTER, FLOATING = "192.0.2.101", "192.0.2.102", "192.0.2.103"


@pytest.fixture
def gateway(lab: Lab) -> Compute:
    """VMs vm1 and vm2 on a compute, whose br-int routes them to the host `out`. Neighbours are told, not asked for."""
    lab.add_host("out", f"{HOST}/24")
    compute = lab.add_compute("gw", physical_network="ext")
    patches = [
        *("--", "add-port", "br-int", "to-ex", "--", "set", "Interface", "to-ex", "type=patch", "options:peer=to-int"),
        *("--", "add-port", "br-ex", "to-int", "--", "set", "Interface", "to-int", "type=patch", "options:peer=to-ex"),
    ]
    compute.vsctl("add-br", "br-int", "--", "set", "Bridge", "br-int", "datapath_type=netdev", *patches)
    for number in (1, 2):
        vm = f"vm{number}"
        lab.add_vm(vm, compute, f"02:00:00:00:00:0{number}", f"10.0.0.{number}/24", f"vm{number}", gateway=ROUTER)
        neighbour(lab, vm, ROUTER)
    for address in (BEFORE, AFTER, FLOATING):
        neighbour(lab, "out", address)
    translate(lab, compute, BEFORE)
    return compute


def neighbour(lab: Lab, where: str, address: str) -> None:
    line = f"neigh replace {address} lladdr {ROUTER_MAC} nud permanent dev eth0"
    namespace.ip_batch(lab.namespace_of(where), [line])


def translate(lab: Lab, compute: Compute, address: str) -> None:
    """SNAT to `address` for both VMs, and FLOATING for what comes in to vm2."""
    host_mac, late_mac = lab.site.mac(4, 0), lab.site.mac(5, 0)
    flows = [
        f"table=0,ip,in_port=to-ex,nw_dst={FLOATING},actions=ct(commit,zone=1,nat(dst=10.0.0.2),table=3)",
        "table=0,ip,in_port=to-ex,actions=ct(zone=1,nat,table=3)",
        "table=0,priority=9,ip,ct_state=-trk,in_port=tapvm1,actions=ct(zone=1,nat,table=1)",
        "table=0,priority=9,ip,ct_state=-trk,in_port=tapvm2,actions=ct(zone=1,nat,table=1)",
        f"table=1,ip,ct_state=+new,actions=ct(commit,zone=1,nat(src={address}:1024-65535),table=2)",
        "table=1,ip,actions=goto_table:2",
        f"table=2,ip,nw_dst={HOST},actions=set_field:{ROUTER_MAC}->eth_src,set_field:{host_mac}->eth_dst,to-ex",
        f"table=2,ip,nw_dst={LATE},actions=set_field:{ROUTER_MAC}->eth_src,set_field:{late_mac}->eth_dst,to-ex",
        f"table=3,ip,nw_dst=10.0.0.1,actions=set_field:{lab.vm('vm1').mac}->eth_dst,tapvm1",
        f"table=3,ip,nw_dst=10.0.0.2,actions=set_field:{lab.vm('vm2').mac}->eth_dst,tapvm2",
    ]
    compute.ofctl("del-flows", "br-int")
    for flow in flows:
        compute.ofctl("add-flow", "br-int", flow)
    compute.revalidate()


def test_behind_one_address_colliding_ports_become_different_ones(lab: Lab, gateway: Compute) -> None:
    with Traffic(lab, "out", ["vm1", "vm2"], inbound=[Inbound(FLOATING)]) as traffic:
        traffic.wait_flowing()
        traffic.reset()
        wait_until(lambda: traffic.glance().total().new.done > 20, "new connections")
        traffic.speak()
        report = traffic.report()
    assert report.failures() == report.too_few() == [], report.table()
    assert set(report.seen) == {"active", "silent", "udp", "udp_slow", "new", "half_open", "bulk", "ping"}
    assert {kind for kind in report.seen if report.addresses(kind) != {BEFORE}} == set()
    assert len(report.seen["active"]) == 40
    assert {port for _, port in report.seen["active"]} != set(range(ACTIVE_PORTS, ACTIVE_PORTS + 20))
    assert report.inbound[FLOATING].answered_by == ("vm2",)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_a_gateway_that_forgets_and_changes_its_address_is_seen_in_every_kind(lab: Lab, gateway: Compute) -> None:
    load = Load.only(active=4, silent=4, udp=100, udp_slow=2, udp_slow_period=0.2, half_open=10, bulk=2, ping=50)
    with Traffic(lab, "out", ["vm1", "vm2"], load) as traffic:
        traffic.wait_flowing()
        assert traffic.report().failures() == []
        translate(lab, gateway, AFTER)
        gateway.appctl("dpctl/flush-conntrack")

        def all_are_broken(counts: Counts) -> bool:
            return counts.active.broken == 8 and counts.bulk.broken == 2 and counts.udp_slow.changed == 4

        wait_until(lambda: all_are_broken(traffic.glance().total()), "everything to break")
        wait_until(lambda: traffic.glance().two_ports > 0, "a SYN that comes again from elsewhere")
        wait_until(lambda: AFTER in traffic.glance().addresses("half_open"), "one that is made anew")
        traffic.speak()
        wait_until(lambda: traffic.glance().total().silent.broken == 4, "those that speak first to be refused")
        report = traffic.glance()
    assert report.total().silent.alive == 0
    assert [counts.udp.sources for counts in report.vms.values()] == [2, 2]
    assert [counts.ping.sources for counts in report.vms.values()] == [2, 2]
    for kind in ("udp", "udp_slow", "ping", "half_open"):
        assert report.addresses(kind) == {BEFORE, AFTER}, kind
