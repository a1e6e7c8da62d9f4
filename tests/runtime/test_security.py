"""Security groups and port security on real switches: what has a rule passes, with its answers; nothing else does. Nobody is spoofed."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebbtide.decide.security import RuleWish
from ebbtide.errors import NotReady
from ebbtide.lab import Vm
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab
#: Seconds after which what has not come will not: retransmissions of a SYN begin after one.
IN_VAIN = 0.6


@pytest.fixture
def cloud(make_cloud: Callable[..., Cloud]) -> Cloud:
    """a and b; web1 and lb on a, web2 on b, all in blue. Nothing is secured."""
    cloud = make_cloud()
    cloud.add_computes("a", "b")
    cloud.add_network("blue", "10.1.0.0/24")
    for index, (name, compute) in enumerate((("web1", "a"), ("lb", "a"), ("web2", "b")), 1):
        cloud.add_vm(name, compute, "blue", index)
    cloud.wait_clean()
    assert cloud.lab.vm("lb").reaches("10.1.0.3")
    return cloud


def allow(cloud: Cloud, group: str, inbound: bool, **wish: Any) -> str:
    """A rule; its id."""
    cloud.call(cloud.service.add_group(group))
    return cloud.call(cloud.service.add_rule(group, RuleWish(inbound, **wish))).id


def secure(cloud: Cloud, port: str, *groups: str, **more: Any) -> None:
    """Put a port into groups, and wait until everybody holds that."""
    cloud.call(cloud.service.set_port(port, True, groups, **more))
    cloud.wait_clean()


def addr(vm: Vm) -> str:
    return vm.ip


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
    cloud.wait_clean()
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
        cloud.wait_clean()
        assert not passes(near, far, IN_VAIN)
        assert not passes(far, near, IN_VAIN)
        assert passes(other, kept)
        assert passes(kept, other)
        allow(cloud, "web", True, protocol="tcp", ports="8000-8010")
        cloud.wait_clean()
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
        cloud.wait_clean()
        assert not passes(far, near, IN_VAIN), "it is a member no more, though it may say what it likes now"
        assert not passes(near, far, IN_VAIN)
