"""Which tunnels are open, and for what."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ebbtide.runtime import probes
from tests.support.cloud import Cloud

pytestmark = pytest.mark.lab


@pytest.fixture
def pair(make_cloud: Callable[..., Cloud]) -> Cloud:
    cloud = make_cloud()
    cloud.add_computes("a", "b")
    return cloud


def numbers(cloud: Cloud) -> tuple[int, int]:
    state = cloud.controller.app.cluster.state
    return state.by_name["a"], state.by_name["b"]


def test_full_is_as_wide_as_the_widest_network_that_both_ends_share(pair: Cloud) -> None:
    cluster = pair.controller.app.cluster
    pair.call(pair.service.add_network("slim", ["10.1.0.0/24"], mtu=1300))
    pair.call(pair.service.add_network("wide", ["10.2.0.0/24"], mtu=1400))
    pair.add_vm("vm1", "a", "slim", 1, mtu=1300)
    pair.add_vm("vm2", "b", "slim", 2, mtu=1300)
    a, b = numbers(pair)
    pair.wait(lambda: cluster.probes.is_open(a, b), what="the tunnel open for the slim network")
    assert set(cluster.probes.sizes(a, b)) == {probes.SMALL, 1314}
    pair.add_vm("vm3", "a", "wide", 3, mtu=1400)
    pair.add_vm("vm4", "b", "wide", 4, mtu=1400)
    pair.wait_clean()

    async def wanted() -> bool:
        return cluster.probes.want(a, b)

    assert not pair.call(wanted())  # nobody has tried yet whether it carries as much
    pair.wait(lambda: cluster.probes.is_open(a, b), what="the tunnel open for the wide network as well")
    assert 1414 in cluster.probes.sizes(a, b)


def test_a_tunnel_is_not_known_to_be_open_after_its_switch_has_started_anew(pair: Cloud) -> None:
    cluster = pair.controller.app.cluster
    pair.add_network("blue", "10.1.0.0/24")
    for index, name in enumerate("ab", 1):
        pair.add_vm(f"vm{index}", name, "blue", index)
    a, b = numbers(pair)
    pair.wait(lambda: cluster.probes.is_open(a, b), what="the tunnel open")
    before = max(cluster.probes.sizes(a, b).values())
    pair.lab.compute("a").restart_switch()
    pair.wait_ready("a", "b", deadline=30)
    pair.wait(lambda: cluster.probes.is_open(a, b), what="the tunnel open again")
    assert min(cluster.probes.sizes(a, b).values()) > before
