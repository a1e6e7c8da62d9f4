"""Security groups and port security on real switches: what has a rule passes, with its answers; nothing else does. Nobody is spoofed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebbtide.compile import ledger
from ebbtide.decide import security
from ebbtide.decide.security import RuleWish
from ebbtide.errors import NotReady
from ebbtide.lab import Compute, Vm, packets
from ebbtide.model.facts import Port
from tests.support.cloud import Cloud
from tests.support.outside import settle

pytestmark = pytest.mark.lab
#: Seconds after which what has not come will not: retransmissions of a SYN begin after one.
IN_VAIN = 0.6
_RCVBUFFORCE = 33  # SO_RCVBUFFORCE of socket(7), which Python does not name


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a and b; web1 and lb on a, web2 on b, all in blue. Nothing is secured."""
    cloud = make_cloud()
    cloud.add_computes("a", "b")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, (name, compute) in enumerate((("web1", "a"), ("lb", "a"), ("web2", "b")), 1):
        cloud.add_vm(name, compute, "blue", index)
    settle(cloud)
    assert cloud.lab.vm("lb").reaches("10.1.0.3")
    return cloud


def allow(cloud: Cloud, group: str, inbound: bool, **wish: Any) -> str:
    """A rule; its id."""
    cloud.call(cloud.service.add_group(group))
    return cloud.call(cloud.service.add_rule(group, RuleWish(inbound, **wish))).id


def secure(cloud: Cloud, port: str, *groups: str, **more: Any) -> None:
    """Put a port into groups, and wait until everybody holds that."""
    cloud.call(cloud.service.set_port(port, True, groups, **more))
    settle(cloud)


@contextlib.contextmanager
def connection(client: Vm, server: Vm, port: int = 80) -> Iterator[tuple[socket.socket, socket.socket]]:
    """An open one: the client's end and the server's."""
    with server.listen(port) as listener:
        listener.settimeout(5)
        with client.connect(server.ip, port) as near:
            far, _ = listener.accept()
            with far:
                yield near, far


def opens(client: Vm, server: Vm, port: int = 80) -> bool:
    """Whether a TCP connection comes about."""
    with server.listen(port):
        try:
            client.connect(server.ip, port, IN_VAIN).close()
        except (OSError, NotReady):
            return False
        return True


def passes(near: socket.socket, far: socket.socket, within: float = 5.0) -> bool:
    """Whether what one end says arrives at the other."""
    word = str(time.monotonic()).encode()
    near.sendall(word)
    far.settimeout(within)
    try:
        got = b""
        while word not in got:
            got += far.recv(4096)
    except TimeoutError:
        return False
    return True


def test_what_has_no_rule_does_not_come_in_and_what_answers_needs_none(cloud: Cloud) -> None:
    web1, lb, web2 = (cloud.lab.vm(name) for name in ("web1", "lb", "web2"))
    allow(cloud, "out", False)
    secure(cloud, "web1", "out")
    secure(cloud, "web2", "out")
    for client in (lb, web2):
        assert not opens(client, web1), "no rule lets it in"
        assert not client.ping(web1.ip).received
        assert opens(web1, client) == (client is lb), "its own go out; web2 has no rule that lets it in"
    assert web1.reaches(lb.ip), "an answer needs no rule"

    allow(cloud, "web", True, protocol="tcp", ports="80")
    secure(cloud, "web1", "out", "web")
    secure(cloud, "web2", "out", "web")
    for client, server in ((lb, web1), (lb, web2), (web2, web1), (web1, web2)):
        assert opens(client, server), (client, server)
        assert not opens(client, server, 81)
        assert not client.ping(server.ip).received
    allow(cloud, "web", True, protocol="icmp", icmp_type=8)
    settle(cloud)
    assert lb.reaches(web1.ip)
    assert web1.reaches(web2.ip)
    cloud.assert_clean()


def test_a_rule_that_goes_cuts_what_it_let_through_and_nothing_else(cloud: Cloud) -> None:
    web1, lb = cloud.lab.vm("web1"), cloud.lab.vm("lb")
    allow(cloud, "web", True, protocol="tcp", ports="443")
    rule = allow(cloud, "web", True, protocol="tcp", ports="8000-8010")
    secure(cloud, "web1", "web")
    with connection(lb, web1, 8003) as (near, far), connection(lb, web1, 443) as (other, kept):
        assert passes(near, far)
        assert passes(far, near)
        cloud.call(cloud.service.delete_rule("web", rule))
        settle(cloud)
        assert not passes(near, far, IN_VAIN)
        assert not passes(far, near, IN_VAIN)
        assert passes(other, kept)
        assert passes(kept, other)
        allow(cloud, "web", True, protocol="tcp", ports="8000-8010")
        settle(cloud)
        assert passes(near, far), "TCP has kept it, and it is allowed again"


def test_who_comes_into_a_group_and_leaves_it_is_let_in_and_cut_off(cloud: Cloud) -> None:
    web1, lb, web2 = (cloud.lab.vm(name) for name in ("web1", "lb", "web2"))
    cloud.call(cloud.service.add_group("clients"))
    allow(cloud, "web", True, protocol="tcp", ports="80", remote="clients")
    secure(cloud, "web1", "web")
    assert not opens(web2, web1)
    allow(cloud, "clients", False)
    secure(cloud, "web2", "clients")
    assert opens(web2, web1)
    assert not opens(lb, web1)
    with connection(web2, web1) as (near, far):
        assert passes(near, far)
        secure(cloud, "web2")
        cloud.call(cloud.service.set_port("web2", False))
        settle(cloud)
        assert not passes(far, near, IN_VAIN), "it is a member no more, though it may say what it likes now"
        assert not passes(near, far, IN_VAIN)


def all_heard(out: packets.PacketSocket, ear: packets.PacketSocket, last: bytes) -> list[bytes]:
    """What an ear has heard of all that was sent, the last frame not counted.

    It is sent twice, again when it has come: of one batch a switch sends what it knows after what it has to look up.
    """
    seen: list[bytes] = []
    for _ in range(2):
        out.send(last)
        # Without what fills a short frame up.
        ear.receive(lambda f: f[:42] == last[:42] or bool(seen.append(f)), 5.0)
    return seen


def heard(out: packets.PacketSocket, ear: packets.PacketSocket, frame: bytes, last: bytes) -> bool:
    """Whether a frame that was sent has come."""
    # Without a tag, which a packet socket keeps apart.
    frame = frame[:12] + frame[16:] if frame[12:14] == b"\x81\0" else frame
    return any(f[:40] == frame[:40] for f in all_heard(out, ear, last))


STRANGER = "02:00:00:00:77:01"


def spoofed(own: Vm, victim: Vm) -> dict[str, bytes]:
    """What a VM may not send, to the victim or to all."""
    ping = packets.icmp_echo(7, 1, b"spoof")

    def ip(source: str, source_mac: str, body: bytes = ping, protocol: int = 1, to: str = victim.mac) -> bytes:
        return packets.ethernet(to, source_mac, 0x0800, packets.ipv4(source, victim.ip, protocol, body))

    server = packets.udp(("10.1.0.99", 67), (victim.ip, 68), b"offer")
    return {
        "another's MAC": ip(own.ip, STRANGER),
        "another's address": ip("10.1.0.99", own.mac),
        "the victim's own address": ip(victim.ip, own.mac),
        "ARP under another's address": packets.arp_reply(own.mac, "10.1.0.99", victim.mac, victim.ip),
        "ARP under another's MAC": packets.ethernet(
            victim.mac, own.mac, 0x0806, packets.arp_reply(STRANGER, own.ip, victim.mac, victim.ip)[14:]
        ),
        "gratuitous ARP for another": packets.gratuitous_arp(own.mac, "10.1.0.99"),
        "a DHCP server": ip(own.ip, own.mac, server[20:] if server[0] == 0x45 else server, 17),
        "RARP for another": packets.rarp(STRANGER),
        "an unknown protocol": packets.ethernet(victim.mac, own.mac, 0x88B7, b"unknown"),
        "a tag": packets.ethernet(
            victim.mac, own.mac, 0x8100, b"\0\7\x08\0" + packets.ipv4(own.ip, victim.ip, 1, ping)
        ),
        "IPv6 that it was not given": packets.ethernet(
            victim.mac, own.mac, 0x86DD, bytes.fromhex("60000000 0008 3b 40") + b"\xfd" * 32 + b"\0" * 8
        ),
    }


@pytest.mark.parametrize("where", ["web2", "lb"])
def test_nobody_speaks_for_another(cloud: Cloud, where: str) -> None:
    own, victim = cloud.lab.vm("web1"), cloud.lab.vm(where)
    last = packets.arp_request(own.mac, own.ip, "10.1.0.200")
    with victim.packets() as ear, own.packets() as out:
        for told, frame in spoofed(own, victim).items():
            out.send(frame)
            assert heard(out, ear, frame, last), f"without port security it gets through: {told}"
    allow(cloud, "all", False)
    secure(cloud, "web1", "all")
    with victim.packets() as ear, own.packets() as out:
        for told, frame in spoofed(own, victim).items():
            out.send(frame)
            assert not heard(out, ear, frame, last), told
    assert own.reaches(victim.ip), "and what is its own does"
    dropped = cloud.call(cloud.service.dropped("web1"))
    assert dropped is not None
    assert dropped.not_its_own >= len(spoofed(own, victim)) - 1, (
        "a DHCP server's address is its own, and its words are not"
    )


def test_what_a_pair_says_is_its_own_too(cloud: Cloud) -> None:
    web1, lb = cloud.lab.vm("web1"), cloud.lab.vm("lb")
    allow(cloud, "all", False)
    allow(cloud, "all", True)
    secure(cloud, "web1", "all")
    web1.exec(["ip", "addr", "add", "10.1.0.50/24", "dev", "eth0"])
    assert not lb.ping("10.1.0.50", deadline=IN_VAIN).received
    secure(cloud, "web1", "all", pairs=[("10.1.0.50/32", "")])
    assert lb.reaches("10.1.0.50")
    cloud.assert_clean()


def test_what_is_said_of_a_packet_is_what_its_tables_do_with_it(cloud: Cloud) -> None:
    """`judge`, for packets of many kinds, beside Open vSwitch's own trace of the tables behind conntrack."""
    cloud.call(cloud.service.add_group("clients"))
    allow(cloud, "web", True, protocol="tcp", ports="80")
    allow(cloud, "web", True, protocol="tcp", ports="8000-8099", prefix="10.1.0.2/31")
    allow(cloud, "web", True, protocol="udp", remote="clients")
    allow(cloud, "web", True, protocol="icmp", icmp_type=8)
    allow(cloud, "web", True, protocol="sctp", ports="5000")
    allow(cloud, "web", False, protocol="udp", ports="53")
    allow(cloud, "web", False, protocol="47", prefix="192.0.2.0/24")
    secure(cloud, "web1", "web")
    secure(cloud, "web2", "clients")
    state = cloud.controller.app.cluster.state
    port, compute = state.ports["web1"], cloud.lab.compute("a")
    binding = state.active("web1")
    assert binding is not None
    verdicts = set()
    for inbound in (True, False):
        for protocol, name in ((6, "tcp"), (17, "udp"), (132, "sctp"), (1, "icmp"), (47, "ip")):
            for at in (79, 80, 81, 53, 5000, 7999, 8000, 8063, 8099, 8100) if protocol in (6, 17, 132) else (0, 8, 13):
                for far in ("10.1.0.2", "10.1.0.3", "10.1.0.4", "192.0.2.9", "198.51.100.1"):
                    ports = (at, 0) if protocol == 1 else (at, at)
                    said = security.judge(state, port, security.Packet(inbound, far, protocol, *ports))
                    traced = trace(compute, port, inbound, (protocol, name, at), far)
                    assert said.passes == traced, (inbound, name, at, far, said.words)
                    verdicts.add((inbound, name, said.passes))
    assert {(True, name, True) for name in ("tcp", "udp", "sctp", "icmp")} <= verdicts
    assert {(False, "udp", True), (False, "ip", True), (True, "ip", False)} <= verdicts


def test_what_is_said_of_a_packet_of_ipv6_is_what_its_tables_do_with_it(cloud: Cloud) -> None:
    cloud.call(cloud.service.set_network("blue", subnets=["10.1.0.0/24", "2001:db8:1::/64"]))
    for vm, index in (("web1", 1), ("web2", 2)):
        known = cloud.controller.app.cluster.state.ports[vm].addresses
        cloud.call(cloud.service.set_port(vm, addresses=[*known, f"2001:db8:1::{index}"]))
    cloud.call(cloud.service.add_group("clients"))
    six = {"family": "ipv6"}
    allow(cloud, "web", True, **six, protocol="tcp", ports="80")
    allow(cloud, "web", True, **six, protocol="tcp", ports="8000-8099", prefix="2001:db8:1::2/127")
    allow(cloud, "web", True, **six, protocol="udp", remote="clients")
    allow(cloud, "web", True, **six, protocol="icmpv6", icmp_type=128)
    allow(cloud, "web", True, protocol="sctp", ports="5000")
    allow(cloud, "web", False, **six, protocol="udp", ports="53")
    secure(cloud, "web1", "web")
    secure(cloud, "web2", "clients")
    state = cloud.controller.app.cluster.state
    port, compute = state.ports["web1"], cloud.lab.compute("a")
    verdicts = set()
    for inbound in (True, False):
        for protocol, name in ((6, "tcp6"), (17, "udp6"), (132, "sctp6"), (58, "icmp6")):
            for at in (79, 80, 53, 5000, 7999, 8000, 8099, 8100) if protocol != 58 else (1, 128, 129):
                for far in ("2001:db8:1::2", "2001:db8:1::3", "2001:db8:1::4", "2001:db8:99::9"):
                    ports = (at, 0) if protocol == 58 else (at, at)
                    said = security.judge(state, port, security.Packet(inbound, far, protocol, *ports))
                    assert said.passes == trace(compute, port, inbound, (protocol, name, at), far), (
                        inbound,
                        name,
                        at,
                        far,
                    )
                    verdicts.add((inbound, name, said.passes))
    assert {(True, "tcp6", True), (True, "udp6", True), (True, "icmp6", True), (False, "udp6", True)} <= verdicts
    assert {(True, "sctp6", False), (False, "tcp6", False), (True, "udp6", False)} <= verdicts, (
        "a rule is of one family"
    )


def trace(compute: Compute, port: Port, inbound: bool, kind: tuple[int, str, int], far: str) -> bool:
    """Whether the first packet of a connection comes out of the stage."""
    protocol, name, at = kind
    own = next(address for address in port.addresses if (":" in address) == (":" in far))
    source, target = (far, own) if inbound else (own, far)
    field = ("ipv6_{}", "ct_ipv6_{}") if ":" in far else ("nw_{}", "ct_nw_{}")
    ends = [(words.format(end), value) for words in field for end, value in (("src", source), ("dst", target))]
    said = f"in_port=1,{name},ct_state=new|trk," + ",".join(f"{word}={value}" for word, value in ends)
    said += f",ct_nw_proto={protocol}"
    if protocol in (1, 58):
        icmp = "icmpv6" if protocol == 58 else "icmp"
        said += f",{icmp}_type={at},{icmp}_code=0,ct_tp_src={at},ct_tp_dst=0"
    elif protocol in (6, 17, 132):
        ports = name.removesuffix("6")
        said += f",{ports}_src=40000,{ports}_dst={at},ct_tp_src=40000,ct_tp_dst={at}"
    else:
        said += f",nw_proto={protocol}"
    said += f",reg6={port.lport},reg11=9,reg12=9,metadata={port.lport << 40:#x}"
    table = 243 if inbound else 213
    told = compute.appctl("ofproto/trace-packet-out", "br-int", said, f"resubmit(,{table})")
    return "ct(commit" in told.rpartition("Datapath actions")[2]


def both_ways(one: socket.socket, other: socket.socket) -> bool:
    return passes(one, other) and passes(other, one)


def test_connections_go_with_a_vm_that_moves_and_back_again(cloud: Cloud) -> None:
    """One that it was called by and one that it has opened, neither of which has a rule in the other direction; and one that begins while
    it is at both places."""
    web1, lb, web2 = (cloud.lab.vm(name) for name in ("web1", "lb", "web2"))
    allow(cloud, "web", True, protocol="tcp", ports="80-90")
    allow(cloud, "web", False, protocol="tcp", ports="9000")
    secure(cloud, "web1", "web")
    with (
        connection(lb, web1, 80) as called,
        connection(web1, web2, 9000) as opened,
        connection(web2, web1, 81) as from_there,
    ):
        for target in ("b", "a", "b"):
            source = cloud.place("web1")
            migration = cloud.lab.migration("web1", target)
            migration.begin()
            cloud.wait_prepared("web1")
            for near, far in (called, opened, from_there):
                assert both_ways(near, far), f"on {source}, on the way to {target}"
            with connection(lb, web1, 85) as (near, far):
                assert both_ways(near, far)
                migration.switch()
                # The far ends speak first: what the guest opened elsewhere is an answer here.
                assert passes(opened[1], opened[0]), f"on {target}, the far end first"
                assert both_ways(far, near)
                for pair in (called, opened, from_there):
                    assert both_ways(*pair), f"on {target}"
                cloud.wait(lambda t=target: cloud.place("web1") == t, what="flipped")
                migration.finish()
                settle(cloud)
                for pair in ((near, far), called, opened, from_there):
                    assert both_ways(*pair), f"on {target}, settled"
            assert not opens(lb, web1, 92)
            assert not opens(web1, web2, 9001)
    cloud.assert_clean()


def test_a_rule_that_goes_while_a_vm_moves_cuts_what_it_let_through(cloud: Cloud) -> None:
    web1, lb, web2 = (cloud.lab.vm(name) for name in ("web1", "lb", "web2"))
    inward = allow(cloud, "web", True, protocol="tcp", ports="80")
    outward = allow(cloud, "web", False, protocol="tcp", ports="9000")
    secure(cloud, "web1", "web")
    with connection(lb, web1, 80) as called, connection(web1, web2, 9000) as opened:
        migration = cloud.lab.migration("web1", "b")
        migration.begin()
        cloud.wait_prepared("web1")
        assert both_ways(*called)
        assert both_ways(*opened)
        migration.switch()
        cloud.wait(lambda: cloud.place("web1") == "b", what="flipped")
        migration.finish()
        for rule in (inward, outward):
            cloud.call(cloud.service.delete_rule("web", rule))
        settle(cloud)
        for near, far in (called, opened):
            assert not passes(far, near, IN_VAIN) or near is opened[0]
            assert not passes(near, far, IN_VAIN)
        assert not passes(opened[1], opened[0], IN_VAIN), "its guest has spoken on it since"


def test_a_controller_that_is_away_changes_nothing_for_who_is_secured(cloud: Cloud) -> None:
    web1, lb = cloud.lab.vm("web1"), cloud.lab.vm("lb")
    allow(cloud, "web", True, protocol="tcp", ports="80-81")
    secure(cloud, "web1", "web")
    with connection(lb, web1) as (near, far):
        cloud.controller.stop()
        assert both_ways(near, far)
        assert opens(lb, web1, 81)
        assert not opens(lb, web1, 82)
        cloud.restart_controller()
        cloud.wait_ready()
        assert both_ways(near, far)
        report = cloud.assert_clean()
        assert report.clean


def test_a_port_has_a_meter_for_what_it_opens_and_takes_it_away_with_it(cloud: Cloud) -> None:
    web1, lb = cloud.lab.vm("web1"), cloud.lab.vm("lb")
    allow(cloud, "all", False)
    secure(cloud, "web1", "all")
    binding = cloud.controller.app.cluster.state.active("web1")
    assert binding is not None
    meter = ledger.port_meter(binding.zone, False)
    assert f"meter={meter} " in cloud.lab.compute("a").ofctl("dump-meters", "br-int")
    count = 4 * ledger.CONNECTIONS_AT_ONCE
    with web1.packets() as out:
        for at in range(count):
            body = packets.udp((web1.ip, 1024 + at), (lb.ip, 9), b"flood")
            out.send(packets.ethernet(lb.mac, web1.mac, 0x0800, body))
    told = cloud.lab.compute("a").appctl("dpctl/dump-conntrack", f"zone={binding.zone}")
    opened = sum("udp" in line for line in told.splitlines())
    assert opened < count - ledger.CONNECTIONS_AT_ONCE, "some were too many"
    assert opened >= ledger.CONNECTIONS_AT_ONCE // 2
    cloud.assert_clean()
    cloud.call(cloud.service.delete_port("web1"))
    cloud.assert_clean()
    assert f"meter={meter} " not in cloud.lab.compute("a").ofctl("dump-meters", "br-int")


def test_what_nobody_answers_is_metered_once(cloud: Cloud) -> None:
    """A stream of one way stays new to conntrack: all of it would pass the meter."""
    web1, lb = cloud.lab.vm("web1"), cloud.lab.vm("lb")
    allow(cloud, "all", False)
    allow(cloud, "all", True)
    secure(cloud, "web1", "all")
    secure(cloud, "lb", "all")
    count = 3 * ledger.CONNECTIONS_AT_ONCE
    with lb.open_socket() as ear, web1.open_socket() as mouth:
        ear.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 25)
        ear.bind((lb.ip, 5004))
        ear.settimeout(5)
        for at in range(count):
            mouth.sendto(at.to_bytes(4, "big"), (lb.ip, 5004))
            if at % 20 == 0:
                time.sleep(0.002)
        got = {ear.recv(4) for _ in range(count)}
    assert len(got) == count
    dropped = cloud.call(cloud.service.dropped("web1"))
    assert dropped is not None
    assert dropped.too_many == 0


def test_security_off_and_on_again_goes_on_with_what_has_moved_meanwhile(cloud: Cloud) -> None:
    web1, lb = cloud.lab.vm("web1"), cloud.lab.vm("lb")
    allow(cloud, "web", True, protocol="tcp", ports="80")
    secure(cloud, "web1", "web")
    with connection(lb, web1) as (near, far):
        assert both_ways(near, far)
        cloud.call(cloud.service.set_port("web1", False, []))
        settle(cloud)
        moved = threading.Thread(target=near.sendall, args=(bytes(1 << 24),))
        moved.start()
        left = 1 << 24
        while left:
            left -= len(far.recv(min(left, 1 << 16)))
        moved.join()
        secure(cloud, "web1", "web")
        assert both_ways(near, far)
