"""A gateway relation: tunnels without a shared network, warm and open at full MTU, watched by BFD, honest after a restart."""

from __future__ import annotations

import time

import pytest

from ebbtide.lab import Compute, wait_until
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


def bfd(compute: Compute) -> str:
    """What the one watched tunnel of a compute says of its far end."""
    return compute.vsctl("--bare", "--columns=bfd_status", "find", "interface", "type=vxlan")


def is_up(compute: Compute) -> bool:
    return "forwarding=true" in bfd(compute) and "remote_state=up" in bfd(compute)


def relate(cloud: Cloud) -> None:
    for compute in cloud.lab.add_computes(["gw", "peer"]):
        if compute.name == "gw":
            keys = ("other_config:ebbtide-gateway=true", "other_config:ebbtide-held-start=true")
            compute.vsctl("set", "Open_vSwitch", ".", *keys)
        compute.register()
    cloud.wait_ready("gw", "peer")
    assert not cloud.call(cloud.service.audit()).findings
    cloud.call(cloud.service.relate("gw", "peer"))


def test_a_relation_has_an_open_tunnel_watched_by_bfd(cloud: Cloud) -> None:
    relate(cloud)
    cluster = cloud.controller.app.cluster
    numbers = cluster.state.by_name["gw"], cluster.state.by_name["peer"]
    cloud.wait(lambda: cluster.probes.is_open(*numbers), what="tunnel open both ways at full MTU")
    for name in ("gw", "peer"):
        compute = cloud.lab.compute(name)
        wait_until(lambda c=compute: is_up(c), f"BFD up at {name}")
    cloud.assert_clean()
    cloud.call(cloud.service.relate("gw", "peer", on=False))
    cloud.assert_clean()
    assert cloud.lab.compute("gw").vsctl("--bare", "--columns=name", "find", "interface", "type=vxlan").strip() == ""


def test_a_restarted_gateway_is_not_seen_alive_before_it_has_its_flows(cloud: Cloud) -> None:
    relate(cloud)
    gateway, peer = cloud.lab.compute("gw"), cloud.lab.compute("peer")
    wait_until(lambda: is_up(peer), "BFD up")
    cloud.wait_ready("gw", "peer")
    cloud.controller.stop()
    gateway.restart_switch()
    wait_until(lambda: not is_up(peer), "BFD down")
    # Nobody is there to fill its tables: it must stay dark, however long that takes.
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert not is_up(peer)
    assert gateway.dump_flows() == []
    cloud.controller = type(cloud.controller)(cloud.lab, cloud.directory / "state")
    flows_at_up: list[int] = []

    def up() -> bool:
        if not is_up(peer):
            return False
        flows_at_up.append(len(gateway.dump_flows()))
        return True

    wait_until(up, "BFD up again", deadline=30)
    assert flows_at_up[0] > 0
    cloud.assert_clean()


def test_a_gateway_whose_switch_restarts_while_the_controller_looks_on_is_let_speak_again(cloud: Cloud) -> None:
    """It has no VM whose port would change: what shows that it waits is in rows that are nobody's but its own."""
    relate(cloud)
    gateway, peer = cloud.lab.compute("gw"), cloud.lab.compute("peer")
    wait_until(lambda: is_up(peer), "BFD up")
    cloud.wait_ready("gw", "peer")
    sessions = cloud.controller.member("gw").resyncs
    gateway.restart_switch()
    cloud.wait(lambda: cloud.controller.member("gw").resyncs > sessions, what="its switch to be heard again")
    cloud.wait_ready("gw", "peer")
    wait_until(lambda: is_up(peer), "BFD up again")
    cloud.assert_clean()
