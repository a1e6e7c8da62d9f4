"""Servers boot, talk to each other, go out and are reached, by the clients of OpenStack alone."""

from __future__ import annotations

import itertools

from ebbtide.lab import wait_until
from tests.openstack.cloud import MARKS, Cloud, Tenant
from tests.support.outside import Answers, seen

pytestmark = MARKS


def test_three_servers_on_three_hosts_reach_each_other_and_the_world(cloud: Cloud, tenant: Tenant) -> None:
    servers = tenant.boot("c1", "c2", "c3")
    assert [server.host for server in servers] == ["c1", "c2", "c3"]
    mtu = str(tenant.network.mtu or cloud.sdk.network.get_network(tenant.network.id).mtu)
    for server in servers:
        assert server.addresses() == [f"{server.ip}/24"]
        assert f" mtu {mtu} " in server.exec(["ip", "-o", "link", "show", "eth0"])
        assert f"via {tenant.subnet.gateway_ip} " in server.exec(["ip", "route", "show", "default"])
        assert cloud.sdk.network.get_port(server.port).status == "ACTIVE"
    for one, other in itertools.permutations(servers, 2):
        assert one.ping(other.ip, count=3).lost == 0, (one.name, other.name)
    with Answers() as answers:
        for each in (*servers, cloud.outside):
            answers.serve(each)
        for one, other in itertools.permutations(servers, 2):
            assert seen(one, other.ip) == (other.name, one.ip)
        for server in servers:
            assert seen(server, cloud.outside.ip) == ("out", tenant.address_outside)


def test_a_server_with_a_floating_ip_is_reached_from_outside(cloud: Cloud, tenant: Tenant) -> None:
    (server,) = tenant.boot("c2")
    address = tenant.floating(server)
    with Answers() as answers:
        answers.serve(server)
        answers.serve(cloud.outside)
        assert cloud.outside.reaches(address.floating_ip_address)
        assert seen(cloud.outside, address.floating_ip_address) == (server.name, cloud.outside.ip)
        assert seen(server, cloud.outside.ip) == ("out", address.floating_ip_address)
        assert cloud.sdk.network.get_ip(address.id).status == "ACTIVE"

        cloud.sdk.network.update_ip(address, port_id=None)
        wait_until(lambda: cloud.sdk.network.get_ip(address.id).status == "DOWN", "the floating IP to be down", 10)
        wait_until(
            lambda: not cloud.outside.ping(address.floating_ip_address, deadline=0.3).received, "it to be silent", 10
        )
        assert seen(server, cloud.outside.ip) == ("out", tenant.address_outside)


def test_a_server_is_closed_until_its_group_says_otherwise(cloud: Cloud, tenant: Tenant) -> None:
    closed = cloud.sdk.network.create_security_group(name=f"{tenant.name}-closed")
    (guarded,) = tenant.boot("c1", group=closed)
    (other,) = tenant.boot("c2")
    assert guarded.ping(other.ip, count=2).lost == 0, "what it asks for is answered"
    assert other.ping(guarded.ip, count=2, deadline=1).received == 0
    tenant.allow("icmp", closed)
    assert other.reaches(guarded.ip)
    tenant.delete([guarded])
    cloud.sdk.network.delete_security_group(closed)


def test_a_server_stops_and_starts(cloud: Cloud, tenant: Tenant) -> None:
    one, other = tenant.boot("c1", "c2")
    cloud.sdk.compute.stop_server(one.id)
    one.wait("SHUTOFF")
    assert one.plugged == ()
    cloud.sdk.compute.start_server(one.id)
    one.wait("ACTIVE")
    assert one.plugged == ("c1",)
    assert other.reaches(one.ip)
