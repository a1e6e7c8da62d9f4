"""The metadata service on real switches: an agent on a compute, VMs that ask it, and who they are to it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from ebbtide.compile import ledger
from ebbtide.errors import NotReady
from ebbtide.lab import Vm, processes
from ebbtide.lab.commands import CommandFailed, wait_until
from tests.support.cloud import Cloud
from tests.support.metadata import (
    ADDRESS,
    Service,
    agent_command,
    ask,
    end_agent,
    has_agent,
    kill_agent,
    on_link,
    rows,
    service_in,
    start_agent,
)
from tests.support.outside import GATEWAY, LAG

pytestmark = pytest.mark.lab


def add_vm(cloud: Cloud, name: str, compute: str, network: str, index: int, **port: object) -> Vm:
    """A VM at 10.1.0.INDEX, whatever network it is in."""
    mac = f"02:00:00:00:{ord(network[0]):02x}:{index:02x}"
    cloud.call(cloud.service.add_port(name, network, mac, [f"10.1.0.{index}"], **port))  # type: ignore[arg-type]
    vm = cloud.lab.add_vm(name, compute, mac=mac, ip_cidr=f"10.1.0.{index}/24", iface_id=name)
    on_link(vm)
    cloud.wait(lambda: cloud.controller.app.cluster.state.active(name) is not None, what=f"{name} bound")
    return vm


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a and b; networks blue and red with the same subnet."""
    cloud = make_cloud(lag=LAG, web=True)
    cloud.add_computes("a", "b")
    for name in ("blue", "red"):
        cloud.add_network(name, "10.1.0.0/24")
    return cloud


@pytest.fixture
def service(cloud: Cloud) -> Iterator[Service]:
    with service_in(cloud) as made:
        yield made


def test_two_vms_with_one_address_on_one_compute_get_each_its_own(cloud: Cloud, service: Service) -> None:
    blue = add_vm(cloud, "vm1", "a", "blue", 1, device="instance-1", project="project-1")
    red = add_vm(cloud, "vm2", "a", "red", 1, device="instance-2", project="project-2")
    start_agent(cloud, "a")
    for _ in range(3):
        for vm, number in ((blue, 1), (red, 2)):
            said = ask(vm)
            assert (said.status, said.json["instance"], said.json["project"], said.json["address"]) == (
                *(200, f"instance-{number}", f"project-{number}"),
                "10.1.0.1",
            )
    # From one and the same port too, at the same time.
    both = []
    for vm in (blue, red):
        made = vm.open_socket(kind=1)
        made.bind(("0.0.0.0", 40_000))
        made.settimeout(5)
        made.connect((ADDRESS, 80))
        both.append(made)
    for made in both:
        made.sendall(b"GET /who HTTP/1.0\r\n\r\n")
    told = [b"".join(iter(lambda made=made: made.recv(65536), b"")) for made in both]
    assert b'"instance": "instance-1"' in told[0]
    assert b'"instance": "instance-2"' in told[1]
    for made in both:
        made.close()
    cloud.assert_clean()


def add_secured(cloud: Cloud, name: str, compute: str, network: str, index: int, **port: object) -> Vm:
    """One in no security group: nothing passes that needs a rule."""
    return add_vm(cloud, name, compute, network, index, secured=True, **port)


def instance_of(vm: Vm, **headers: str) -> object:
    said = ask(vm, **headers)
    return said.json["instance"] if said.status == 200 else said.status


def test_a_secured_vm_needs_no_rule_and_gets_nothing_else(cloud: Cloud, service: Service) -> None:
    vm = add_secured(cloud, "vm1", "a", "blue", 1, device="i-1", project="p-1")
    with pytest.raises(NotReady):
        vm.connect(ADDRESS, 80, deadline=1.0)
    start_agent(cloud, "a")
    assert instance_of(vm) == "i-1"
    with pytest.raises(NotReady):
        vm.connect(ADDRESS, 81, deadline=1.0)
    # From an address that is not its own it does not come through, with the MAC that is.
    vm.exec(["ip", "addr", "add", "10.1.0.77/32", "dev", "eth0"])
    with vm.open_socket(kind=socket.SOCK_STREAM) as other:
        other.bind(("10.1.0.77", 0))
        other.settimeout(1.0)
        with pytest.raises(TimeoutError):
            other.connect((ADDRESS, 80))
    told = cloud.http("GET", f"/api/v1/explain/port/vm1?to={ADDRESS}&protocol=tcp&port=80")[1]
    assert told["passes"]
    assert "is answered by the agent on a, in the name of instance i-1" in told["lines"][0]
    told = cloud.http("GET", f"/api/v1/explain/port/vm1?to={ADDRESS}&protocol=tcp&port=81")[1]
    assert not told["passes"]
    cloud.assert_clean()


def test_what_a_guest_says_of_itself_is_not_believed(cloud: Cloud, service: Service) -> None:
    vm = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1", project="p-1")
    add_vm(cloud, "vm2", "a", "blue", 2, device="i-2", project="p-2")
    start_agent(cloud, "a")
    forged = {
        "X_Instance_ID": "i-2",
        "X_Tenant_ID": "p-2",
        "X_Forwarded_For": "10.1.0.2",
        "X_Instance_ID_Signature": "0" * 64,
        "X_Metadata_Provider": "lb",
        "Accept": "text/plain",
    }
    said = ask(vm, **forged)
    assert (said.status, said.json["instance"], said.json["project"], said.json["address"]) == (
        *(200, "i-1", "p-1"),
        "10.1.0.1",
    )
    names = [name for name, _ in said.json["headers"]]
    assert len(names) == len(set(names))
    assert "x-metadata-provider" not in names
    assert ["accept", "text/plain"] in said.json["headers"]
    # Under the other's address it is still itself: who asks is known by the port, not by what stands in the packet.
    vm.exec(["ip", "addr", "add", "10.1.0.2/32", "dev", "eth0"])
    with vm.open_socket(kind=socket.SOCK_STREAM) as other:
        other.bind(("10.1.0.2", 0))
        other.settimeout(5.0)
        other.connect((ADDRESS, 80))
        other.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b'"instance": "i-1"' in b"".join(iter(lambda: other.recv(65536), b""))


def test_a_vm_reaches_it_by_its_gateway_too_and_by_any_mac(cloud: Cloud, service: Service) -> None:
    cloud.call(cloud.service.add_router("r1"))
    cloud.call(cloud.service.attach("r1", "blue", f"10.1.0.{GATEWAY}"))
    vm = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1")
    start_agent(cloud, "a")
    vm.exec(["ip", "route", "replace", ADDRESS, "via", f"10.1.0.{GATEWAY}"])
    with vm.packets() as ear:
        assert instance_of(vm) == "i-1"
        answer = ear.receive(lambda f: f[12:14] == b"\x08\x00" and f[23] == 6 and f[34:36] == b"\0P")
    asked = vm.exec(["ip", "neigh", "show", f"10.1.0.{GATEWAY}"]).split()
    assert answer[6:12].hex(":") == asked[asked.index("lladdr") + 1], "from the MAC that it was sent to"
    large = ask(vm, method="POST", body=b"x" * 60_000)
    assert large.json["body"] == "x" * 60_000, "whole both ways"
    vm.exec(["ip", "route", "replace", ADDRESS, "via", "10.1.0.99", "dev", "eth0", "onlink"])
    vm.exec(["ip", "neigh", "replace", "10.1.0.99", "lladdr", "02:11:22:33:44:55", "dev", "eth0"])
    assert instance_of(vm) == "i-1"


def test_a_vm_that_moves_asks_at_its_new_place(cloud: Cloud, service: Service) -> None:
    vm = add_secured(cloud, "vm1", "a", "blue", 1, device="i-1")
    for compute in "ab":
        start_agent(cloud, compute)
    assert instance_of(vm) == "i-1"
    migration = cloud.lab.migration("vm1", "b")
    migration.begin()
    cloud.wait_prepared("vm1")
    assert instance_of(vm) == "i-1", "while it is at two places"
    migration.switch()
    assert instance_of(vm) == "i-1", "as soon as it runs"
    cloud.wait(lambda: cloud.place("vm1") == "b", what="flipped")
    migration.finish()
    cloud.wait_clean()
    kill_agent(cloud, "a")
    assert instance_of(vm) == "i-1"
    assert [line for line in rows(cloud, "a") if "metadata=" in line] == []
    cloud.assert_clean()


def test_an_agent_that_is_killed_leaves_no_flow_and_no_device_and_comes_back(cloud: Cloud, service: Service) -> None:
    vm = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1")
    for _ in range(2):
        start_agent(cloud, "a")
        assert instance_of(vm) == "i-1"
        kill_agent(cloud, "a")
        assert rows(cloud, "a") == []
        assert "ebbtide-md" not in cloud.lab.exec("a", "ip", "-o", "link")
        with pytest.raises(NotReady):
            vm.connect(ADDRESS, 80, deadline=0.5)
    told = cloud.http("GET", "/api/v1/explain/port/vm1")[1]["lines"]
    assert f"Metadata: no agent runs on a; what it sends to {ADDRESS} there goes the way of any other address." in told
    start_agent(cloud, "a")
    end_agent(cloud, "a")
    assert rows(cloud, "a") == []
    assert "ebbtide-md" not in cloud.lab.compute("a").ports()
    cloud.assert_clean()


def test_a_restart_of_the_switch_or_of_the_controller_is_survived(cloud: Cloud, service: Service) -> None:
    vm = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1")
    start_agent(cloud, "a")
    assert instance_of(vm) == "i-1"
    cloud.controller.stop()
    assert instance_of(vm) == "i-1", "it is known who that is"
    cloud.restart_controller()
    cloud.wait_ready("a", "b")
    cloud.lab.compute("a").restart_switch()
    cloud.wait(lambda: has_agent(cloud, "a"), what="the agent's port again")
    cloud.wait_ready("a", "b")
    cloud.wait_clean()
    vm.exec(["ip", "neigh", "flush", "dev", "eth0"])
    assert instance_of(vm) == "i-1"
    # Somebody takes the port out: it is put back.
    cloud.lab.compute("a").vsctl("del-port", "br-int", "ebbtide-md")
    cloud.wait(lambda: not has_agent(cloud, "a"), what="the port to be gone")
    cloud.wait(lambda: has_agent(cloud, "a"), what="the agent's port again")
    cloud.wait_clean()
    cloud.lab.compute("a").revalidate()
    assert instance_of(vm) == "i-1"


def test_agents_that_end_while_no_controller_runs_do_not_pull_the_brake(cloud: Cloud, service: Service) -> None:
    """Flows go from more than a fifth of all computes then, and from more than three, and nothing in the store explains it."""
    cloud.add_computes("c", "d")
    vms = {c: add_vm(cloud, f"vm-{c}", c, "blue", n, device=f"i-{c}") for n, c in enumerate("abcd", 1)}
    for compute in "abcd":
        start_agent(cloud, compute)
    cloud.wait(
        lambda: all(m.applied() == m.cluster.state.revision for m in cloud.controller.app.cluster.members.values())
    )
    assert instance_of(vms["d"]) == "i-d"
    cloud.controller.stop()
    for compute in "abcd":
        pid = cloud.lab.spawned(f"agent-{compute}")
        assert pid is not None
        processes.send_signal(pid, 15)
        wait_until(lambda pid=pid: not processes.is_running(pid), "the agent to end")  # type: ignore[misc]
        assert rows(cloud, compute) != []
    cloud.restart_controller()
    cloud.wait_ready(*"abcd")
    cloud.wait_clean()
    assert [rows(cloud, compute) for compute in "abcd"] == [[]] * 4
    cloud.assert_clean()


def test_a_second_agent_on_a_compute_is_refused(cloud: Cloud, service: Service) -> None:
    start_agent(cloud, "a")
    with pytest.raises(CommandFailed) as refused:
        cloud.lab.exec("a", *agent_command(cloud, "a"))
    assert refused.value.code == 4
    assert "another metadata agent runs on this compute" in refused.value.stderr
    assert has_agent(cloud, "a")


def test_a_compute_that_is_scaled_in_keeps_nothing_of_it(cloud: Cloud, service: Service) -> None:
    vm = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1")
    add_vm(cloud, "vm2", "b", "blue", 2, device="i-2")
    for compute in "ab":
        start_agent(cloud, compute)
    assert instance_of(vm) == "i-1"
    gone = cloud.fact("a")
    cloud.call(cloud.service.start(["a"]))
    cloud.migrate("vm1", "b")
    assert instance_of(vm) == "i-1"
    cloud.call(cloud.service.begin_end(["a"]))
    cloud.wait(lambda: gone.number in cloud.controller.app.cluster.state.removed, what="a removed")
    cloud.wait(lambda: rows(cloud, "a") == [], what="no row of it on a")
    assert instance_of(vm) == "i-1"
    end = cloud.lab.spawned("agent-a")
    assert end is not None
    processes.send_signal(end, 15)
    cloud.wait(lambda: not processes.is_running(end), what="the agent on a to end")
    assert "ebbtide-md" not in cloud.lab.compute("a").ports()
    cloud.assert_clean()


def test_what_a_vm_opens_is_bounded_and_another_is_served_meanwhile(cloud: Cloud, service: Service) -> None:
    flooding = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1")
    other = add_vm(cloud, "vm2", "a", "blue", 2, device="i-2")
    start_agent(cloud, "a")
    assert instance_of(flooding) == "i-1"
    asked = flooding.exec(["ip", "neigh", "show", ADDRESS]).split()
    far = bytes.fromhex(asked[asked.index("lladdr") + 1].replace(":", ""))
    syns = [syn(bytes.fromhex(flooding.mac.replace(":", "")), far, "10.1.0.1", port) for port in range(10_000, 14_000)]
    with flooding.packets() as out:
        for frame in syns:
            out.send(frame)
        assert instance_of(other) == "i-2"
    compute = cloud.lab.compute("a")
    lport = cloud.controller.app.cluster.state.ports["vm1"].lport
    mine = f"{IPv4Address(ledger.AGENT_PREFIX + lport)},"
    held = compute.appctl("dpctl/dump-conntrack", f"zone={ledger.METADATA_ZONE}").count(f"src={mine}")
    assert 0 < held <= ledger.ASKED_AT_ONCE + 10 * ledger.ASKED_PER_SECOND, "of 4,000"


def syn(source: bytes, target: bytes, address: str, port: int) -> bytes:
    """The first segment of a connection to the metadata service."""
    own, far = IPv4Address(address).packed, IPv4Address(ADDRESS).packed
    tcp = struct.pack("!HHIIBBHHH", port, 80, 1, 0, 0x50, 2, 64_000, 0, 0)
    tcp = tcp[:16] + checksum(own + far + struct.pack("!HH", 6, len(tcp)) + tcp) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + own + far
    return target + source + b"\x08\x00" + ip[:10] + checksum(ip) + ip[12:] + tcp


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def test_nothing_else_passes_the_agents_port(cloud: Cloud, service: Service) -> None:
    """Neither tenants' frames into it, nor out of it anything that is not an answer."""
    vm = add_vm(cloud, "vm1", "a", "blue", 1, device="i-1")
    start_agent(cloud, "a")
    assert instance_of(vm) == "i-1"
    compute = cloud.lab.compute("a")
    ofport = compute.vsctl("get", "Interface", "ebbtide-md", "ofport").strip()
    mac, lport = vm.mac, cloud.controller.app.cluster.state.ports["vm1"].lport
    agent = str(IPv4Address(ledger.AGENT_PREFIX + lport))
    for packet in (
        f"in_port={ofport},tcp,dl_dst={mac},nw_src=169.254.169.254,nw_dst={agent},tp_src=80,tp_dst=999",
        f"in_port={ofport},tcp,dl_dst={mac},nw_src=169.254.169.254,nw_dst=10.1.0.1,tp_src=80,tp_dst=999",
        f"in_port={ofport},arp,dl_dst=ff:ff:ff:ff:ff:ff,arp_op=1,arp_tpa=10.1.0.1",
    ):
        assert "Datapath actions: drop" in compute.trace(packet) or "ct(zone=32768)" in compute.trace(packet)
        assert f"output:{compute.vsctl('get', 'Interface', 'tapvm1', 'ofport').strip()}" not in compute.trace(packet)
    tap = compute.vsctl("get", "Interface", "tapvm1", "ofport").strip()
    for packet in (
        f"in_port={tap},dl_type=0x88b5,dl_src={mac},dl_dst=ff:ff:ff:ff:ff:ff",
        f"in_port={tap},tcp,dl_src={mac},dl_dst=02:00:a9:fe:a9:fe,nw_src=10.1.0.1,nw_dst=169.254.169.254,tp_dst=22",
        f"in_port={tap},icmp,dl_src={mac},dl_dst=02:00:a9:fe:a9:fe,nw_src=10.1.0.1,nw_dst=169.254.169.254",
    ):
        traced = compute.trace(packet)
        assert f"output:{ofport}" not in traced


def test_without_an_agent_a_port_that_serves_it_is_reached_by_a_host_route(cloud: Cloud, service: Service) -> None:
    """Neutron's own way: its DHCP or metadata agent has a port in the network, and answers there."""
    cloud.call(cloud.service.set_network("blue", dhcp=True, routes=[f"{ADDRESS}/32 via 10.1.0.2"]))
    vm = add_vm(cloud, "vm1", "a", "blue", 1)
    server = add_vm(cloud, "dhcp-agent", "b", "blue", 2)
    vm.exec(["ip", "route", "replace", ADDRESS, "via", "10.1.0.2"])
    server.exec(["ip", "route", "del", ADDRESS])
    server.exec(["ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"])
    with server.listen(80, ADDRESS) as listener:
        listener.settimeout(5)
        with vm.connect(ADDRESS, 80) as asking:
            answering, peer = listener.accept()
            with answering:
                assert peer[0] == "10.1.0.1"
                answering.sendall(b"Neutron's")
                assert asking.recv(100) == b"Neutron's"
