"""A VNI that somebody out of reach may still send under is given to nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ebbtide.errors import Refused
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab
VNI = 4711


@pytest.fixture
def pair(make_cloud: Callable[..., Cloud]) -> Cloud:
    cloud = make_cloud()
    cloud.add_computes("a", "b")
    cloud.call(cloud.service.add_network("old", ["10.1.0.0/24"], vni=VNI))
    cloud.add_network("shared", "10.2.0.0/24")
    for index, name in enumerate("ab", 1):
        cloud.add_vm(f"old{index}", name, "old", index)
        cloud.add_vm(f"shared{index}", name, "shared", index)
    cloud.wait_clean()
    return cloud


def delete(cloud: Cloud, network: str) -> None:
    for port in list(cloud.controller.app.cluster.state.ports_of[network]):
        cloud.call(cloud.service.delete_port(port))
    cloud.call(cloud.service.delete_network(network))


def test_a_vni_is_free_again_as_soon_as_everybody_has_let_go_of_it(pair: Cloud) -> None:
    delete(pair, "old")
    begun = time.monotonic()
    made = pair.call(pair.service.add_network("new", ["10.1.0.0/24"], vni=VNI))
    assert made.vni == VNI
    assert time.monotonic() - begun < 5
    assert not pair.controller.app.cluster.state.retired


def test_a_compute_out_of_reach_keeps_its_vni_from_being_given_to_another_tenant(pair: Cloud) -> None:
    call, service = pair.call, pair.service
    pair.lab.compute("b").cut_control()
    pair.wait(lambda: not pair.controller.member("b").connected, what="b cut off")
    delete(pair, "old")
    with pytest.raises(Refused, match=f"VNI {VNI} was that of network old, and b has not confirmed"):
        call(service.add_network("new", ["10.1.0.0/24"], vni=VNI))
    # Of its own accord the controller takes another, and the other network is none the worse for it.
    assert call(service.add_network("other", ["10.3.0.0/24"])).vni != VNI
    assert pair.lab.vm("shared1").reaches("10.2.0.2")
    pair.restart_controller()
    with pytest.raises(Refused, match="b has not confirmed"):
        pair.call(pair.service.add_network("new", ["10.1.0.0/24"], vni=VNI))
    pair.lab.compute("b").heal_control()
    pair.wait_ready("a", "b", deadline=30)
    assert pair.call(pair.service.add_network("new", ["10.1.0.0/24"], vni=VNI)).vni == VNI
    assert not any(f"{VNI:#x}" in flow for flow in pair.lab.compute("b").dump_flows())
