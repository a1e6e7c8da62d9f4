"""A compute joins two that serve routers' NAT: nothing moves by itself; asked for, its share moves to it, and nothing breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ebbtide.decide.election import Plan
from ebbtide.lab.flows import Load, Traffic
from ebbtide.model.facts import MovePhase
from ebbtide.model.state import NAT, SUBNET
from tests.support.cloud import Cloud
from tests.support.routed import Routed

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300), pytest.mark.xdist_group("natmove")]

LAG = 0.6
LOAD = Load(active=10, silent=6, udp=100, udp_slow=2, udp_slow_period=3.0, new=10, half_open=2, bulk=0, ping=20)
ROUTERS = [f"r{n}" for n in range(1, 7)]


def address(router: str) -> str:
    """A router's address outside: the last byte is 9 and its number."""
    return f"203.0.113.{9 + int(router[1:])}"


def gateway(router: str) -> str:
    """Its address in network blue."""
    return f"10.1.0.{255 - int(router[1:])}"


@pytest.fixture
def routed(make_cloud: Callable[..., Cloud]) -> Routed:
    """Six routers, of which a and b serve three each; then c joins, which has a wire and a VM as well."""
    made = Routed(make_cloud(web=True, lag=LAG, nat_patience=2.0), "a", "b")
    cloud = made.cloud
    for index, name in enumerate("ab", 1):
        made.add_vm(f"vm{index}", name, index)
    for router in ROUTERS[1:]:
        cloud.call(cloud.service.add_router(router, outside="out", addresses=[address(router)]))
        cloud.call(cloud.service.attach(router, "blue", gateway(router)))
    cloud.wait(lambda: sum(loads(made).values()) == len(ROUTERS), what="all routers served")
    assert loads(made) == {"a": 3, "b": 3}
    join(made, "c", 3)
    made.wait_served()
    return made


def join(made: Routed, name: str, index: int) -> None:
    made.cloud.lab.add_compute(name, register="tcp:10.255.0.1:6640", physical_network="physnet1")
    made.cloud.wait_ready(name)
    made.add_vm(f"vm{index}", name, index)
    made.cloud.wait_clean()


def loads(made: Routed) -> Counter[str]:
    """How many routers each compute serves."""
    return Counter(made.served_by(router) for (service, router) in made.state.designations if service == NAT)


def plan(made: Routed) -> Plan:
    async def ask() -> Plan:
        return made.cloud.service.rebalance_plan()

    return made.cloud.call(ask())


def wait_over(made: Routed) -> None:
    over = [o for o in made.state.operations.values() if o.verb == "rebalance"]
    made.cloud.wait(
        lambda: all(made.state.operations[o.id].state == "done" for o in over), 60.0, "the rebalance to be over"
    )
    made.wait_moved()


def test_a_third_compute_takes_its_share_and_nothing_breaks(routed: Routed) -> None:
    cloud, service = routed.cloud, routed.cloud.service
    told = plan(routed)
    status, asked = cloud.http("POST", "/api/v1/rebalance", {"plan": True})
    assert (status, asked) == (200, cloud.http("GET", "/api/v1/rebalance")[1])
    assert [m["object"] for m in asked["moves"]] == [m.object for m in told.moves]
    assert loads(routed) == {"a": 3, "b": 3}, "a compute that joins moves nothing, and a plan touches nothing"
    assert "nat: the largest load goes from 3 to 2" in told.gain
    moving = [m.object for m in told.moves]
    assert len(moving) == 2
    assert {m.new for m in told.moves} == {routed.state.by_name["c"]}
    stays = next(r for r in ROUTERS if r not in moving)

    # A VM behind each of those that move, and behind one that does not; one on each compute.
    vms = {}
    for index, (router, compute) in enumerate(zip([*moving, stays], "abc", strict=True), 11):
        mac, ip, name = f"02:00:00:00:01:{index:02x}", f"10.1.0.{index}", f"vm{index}"
        cloud.call(service.add_port(name, "blue", mac, [ip]))
        cloud.lab.add_vm(
            name,
            compute,
            mac=mac,
            ip_cidr=f"{ip}/24",
            iface_id=name,
            gateway=gateway(router) if router != "r1" else "10.1.0.254",
        )
        vms[name] = router
    cloud.wait(lambda: all(routed.state.active(name) for name in vms), what="the VMs bound")
    cloud.wait_clean()
    with Traffic(cloud.lab, outside="ext", vms=list(vms), load=LOAD) as traffic:
        traffic.wait_flowing(deadline=30)
        traffic.reset()
        status, begun = cloud.http("POST", "/api/v1/rebalance", {})
        assert (status, begun["changed"], len(begun["moves"])) == (202, True, 2)
        status, again = cloud.http("POST", "/api/v1/rebalance", {"wait": 60})
        assert (status, again["changed"], again["operation"]["id"]) == (200, False, begun["operation"]["id"])
        assert again["operation"]["reason"] == "nat: balanced, no compute is above its bound"
        routed.wait_moved()
        traffic.speak()
        report = traffic.report()
    assert not report.failures(), f"{report.failures()}\n{report.table()}\n{report.told}"
    assert not report.too_few(), report.too_few()
    assert report.addresses("active") == {address(router) for router in vms.values()}
    assert loads(routed) == {"a": 2, "b": 2, "c": 2}
    assert {r for r in ROUTERS if routed.served_by(r) == "c"} == set(moving)
    assert plan(routed).moves == ()
    status, idle = cloud.http("POST", "/api/v1/rebalance", {})
    assert (status, idle["operation"], idle["changed"]) == (200, None, False), "all is balanced: nothing is begun"
    cloud.assert_clean()


def test_a_rebalance_goes_on_after_a_restart_and_while_a_compute_is_scaled_in(routed: Routed) -> None:
    cloud = routed.cloud
    operation, told, _ = cloud.call(cloud.service.rebalance())
    assert operation is not None
    router = told.moves[0].object

    def frozen() -> bool:
        move = routed.move(router)
        return move is not None and list(MovePhase).index(move.phase) >= list(MovePhase).index(MovePhase.FREEZE)

    cloud.wait(frozen, 30.0, "a move to be frozen")
    cloud.restart_controller()
    cloud.wait_ready("a", "b", "c")
    cloud.call(cloud.service.start(["a"]))
    wait_over(routed)
    cloud.wait(lambda: "a" not in loads(routed), 60.0, "a to serve nothing")
    assert loads(routed).total() == len(ROUTERS)
    assert cloud.call(cloud.service.rebalance())[0] is None
    assert max(loads(routed).values()) == 3
    cloud.call(cloud.service.recover(["a"]))
    assert "a" in {routed.state.computes[m.new].name for m in plan(routed).moves}
    cloud.assert_clean()
    assert {d.service for d in routed.state.designations.values()} == {NAT, SUBNET}
