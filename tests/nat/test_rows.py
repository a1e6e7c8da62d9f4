"""The rows of connections at a compute: what is there already is not sent again, in this session, the next, or by another controller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ebbtide.compile.features.nat import TCP, UDP, Translation
from ebbtide.compile.ledger import T
from ebbtide.decide import natmove
from ebbtide.lab import wait_until
from ebbtide.model.addresses import ipv4
from ebbtide.runtime.rows import Rows
from ebbtide.runtime.standbys import OLD_ENOUGH
from tests.support.cloud import Cloud
from tests.support.outside import NEXT_HOP, Answers, asked, speaking
from tests.support.routed import SNAT, Routed

pytestmark = pytest.mark.lab


@pytest.fixture
def routed(make_cloud: Callable[..., Cloud]) -> Routed:
    """a and b, both with a wire; one serves, one stands by."""
    made = Routed(make_cloud(lag=0.6), "a", "b")
    made.add_vm("vm1", "a", 1)
    made.add_vm("vm2", "b", 2)
    made.wait_served()
    return made


def connection(number: int, proto: int = TCP) -> Translation:
    own, remote = ipv4(SNAT), ipv4(NEXT_HOP)
    assert own is not None
    assert remote is not None
    return Translation(proto, 0x0A010001, 10_000 + number, remote, 80, own, 20_000 + number)


KNOWN = [connection(1), connection(2), connection(3, UDP)]


def ports_there(routed: Routed, name: str) -> tuple[set[int], set[int]]:
    """The external ports of which a switch has rows, in each of both tables."""
    found = []
    for table, word in ((T.NAT_NEW, "nat(src="), (T.NAT_REPLY, "tp_dst=")):
        lines = routed.cloud.lab.compute(name).ofctl("dump-flows", "br-int", f"table={int(table)}").splitlines()
        found.append({n for n in range(20_000, 20_010) for line in lines if word in line and str(n) in line})
    return found[0], found[1]


def test_rows_are_known_and_what_is_there_is_not_sent_again(routed: Routed) -> None:
    cloud, name = routed.cloud, routed.served_by()
    router, number = routed.state.routers["r1"], routed.state.by_name[name]

    rows = cloud.controller.app.cluster.rows

    def put(*, replies: bool) -> int:
        return cloud.call(rows.put(router, number, KNOWN, replies=replies))

    assert put(replies=False) == 3
    assert ports_there(routed, name) == ({20_001, 20_002, 20_003}, set())
    assert put(replies=False) == 0
    assert put(replies=True) == 3
    assert ports_there(routed, name) == ({20_001, 20_002, 20_003},) * 2

    rows = Rows(cloud.controller.app.cluster)
    assert cloud.call(rows.at(router, number)) == KNOWN, "read from the switch"
    assert put(replies=True) == 0
    again = [connection(1)._replace(port=20_005)]
    assert cloud.call(rows.put(router, number, again)) == 2, "given another port, and that is what holds"
    cloud.call(rows.take(router, number, [connection(1), connection(2)]))
    assert ports_there(routed, name) == ({20_003, 20_005},) * 2

    cloud.lab.compute(name).restart_switch()
    cloud.wait_ready("a", "b")
    cloud.wait_clean()
    assert cloud.call(rows.at(router, number)) == [], "its switch has begun anew, with no rows"
    assert put(replies=True) == 6
    cloud.call(rows.clear(router, number))
    assert ports_there(routed, name) == (set(), set())
    cloud.assert_clean()


def test_a_standby_has_rows_for_what_is_open_and_of_some_age_and_loses_them_with_it(routed: Routed) -> None:
    cloud, standby = routed.cloud, routed.stands_by()
    tag, serving = routed.state.routers["r1"].tag, routed.state.by_name[routed.served_by()]
    record = cloud.controller.app.cluster.connections

    async def tell(word: str, *known: Translation) -> None:
        for each in known:
            getattr(record, word)(tag, serving, each)

    began = record.now()
    cloud.call(tell("opened", *KNOWN))
    wait_until(lambda: ports_there(routed, standby) == ({20_001, 20_002, 20_003},) * 2, "rows at the standby")
    assert record.now() - began >= OLD_ENOUGH - 1
    cloud.call(tell("closed", connection(2)))
    wait_until(lambda: ports_there(routed, standby) == ({20_001, 20_003},) * 2, "one row less")

    # It has seen whoever serves before, and does not see it when it is back: that is no death.
    cloud.lab.compute(standby).restart_switch()
    wait_until(lambda: ports_there(routed, standby) == ({20_001, 20_003},) * 2, "rows at the standby once more")
    assert (routed.state.by_name[routed.served_by()], routed.stands_by()) == (serving, standby)
    cloud.restart_controller()
    cloud.wait_ready("a", "b")
    record = cloud.controller.app.cluster.connections
    cloud.call(tell("closed", connection(1)))
    wait_until(
        lambda: ports_there(routed, standby) == ({20_003},) * 2, "a new controller to follow the old one's record"
    )
    cloud.assert_clean()


def test_a_controller_with_another_record_leaves_the_rows_that_it_finds(routed: Routed) -> None:
    """One that has stood by elsewhere has its own file; nobody will tell it of what was opened before."""
    cloud, standby = routed.cloud, routed.stands_by()
    tag, serving = routed.state.routers["r1"].tag, routed.state.by_name[routed.served_by()]
    record = cloud.controller.app.cluster.connections

    async def tell(word: str, *known: Translation) -> None:
        for each in known:
            getattr(record, word)(tag, serving, each)

    cloud.call(tell("opened", *KNOWN))
    wait_until(lambda: ports_there(routed, standby) == ({20_001, 20_002, 20_003},) * 2, "rows at the standby")
    cloud.controller.stop()
    (cloud.directory / "state" / "connections.log").unlink()
    cloud.restart_controller()
    cloud.wait_ready("a", "b")
    record = cloud.controller.app.cluster.connections
    wait_until(lambda: len(record) == 3, "the record to know of them")
    cloud.call(tell("opened", connection(4)))
    cloud.call(tell("closed", connection(1)))
    wait_until(lambda: ports_there(routed, standby) == ({20_002, 20_003, 20_004},) * 2, "rows to be followed on")
    cloud.assert_clean()


def moved(routed: Routed) -> None:
    """The NAT is moved to the compute that stands by, and who has served stands by now."""
    cloud, old, new = routed.cloud, routed.served_by(), routed.stands_by()
    numbers = routed.state.by_name
    cloud.call(
        cloud.controller.app.cluster.store.commit(
            lambda state: (natmove.begin(state, "r1", numbers[old], numbers[new]), None)
        )
    )
    routed.wait_moved()
    cloud.wait(lambda: (routed.served_by(), routed.stands_by()) == (new, old), what="the old one to stand by")


def test_who_has_served_and_stands_by_has_rows_for_what_it_has_opened_itself(routed: Routed) -> None:
    """Its connections are gone with its part; those that have been silent since are in nobody's conntrack."""
    cloud, old = routed.cloud, routed.served_by()
    tag, serving = routed.state.routers["r1"].tag, routed.state.by_name[old]
    record = cloud.controller.app.cluster.connections

    async def tell() -> None:
        for each in KNOWN[:2]:
            record.opened(tag, serving, each)

    cloud.call(tell())
    moved(routed)
    wait_until(lambda: ports_there(routed, old) == ({20_001, 20_002},) * 2, "rows at the new standby")

    # A move's end clears the old compute some time later than it has become the standby.
    cluster = cloud.controller.app.cluster
    cloud.call(cluster.rows.clear(routed.state.routers["r1"], serving))
    assert ports_there(routed, old) == (set(), set())
    wait_until(lambda: ports_there(routed, old) == ({20_001, 20_002},) * 2, "rows once more")
    cloud.assert_clean()


def test_rows_that_two_read_at_the_same_time_are_remembered_once(routed: Routed) -> None:
    """An operator looks at a router's connections while its rows are written for the first time in a session."""
    cloud, name = routed.cloud, routed.served_by()
    router, number = routed.state.routers["r1"], routed.state.by_name[name]
    rows = Rows(cloud.controller.app.cluster)

    async def both() -> None:
        await asyncio.gather(rows.put(router, number, KNOWN), *(rows.at(router, number) for _ in range(20)))
        assert await rows.at(router, number) == KNOWN

    cloud.call(both())
    cloud.assert_clean()


def test_nothing_of_its_connections_stays_when_a_router_is_gone_or_another_stands_by(routed: Routed) -> None:
    cloud, standby = routed.cloud, routed.stands_by()
    router, cluster = routed.state.routers["r1"], cloud.controller.app.cluster
    for name in "ab":
        cloud.call(cluster.rows.put(router, routed.state.by_name[name], KNOWN))
    cloud.lab.compute(standby).vsctl("remove", "Open_vSwitch", ".", "other_config", "provider_mappings")
    wait_until(lambda: ports_there(routed, standby) == (set(), set()), "no rows at who stands by no more")
    assert ports_there(routed, routed.served_by())[0] == {20_001, 20_002, 20_003}
    serving = routed.served_by()
    cloud.call(cloud.service.detach("r1", "blue"))
    cloud.call(cloud.service.delete_router("r1"))
    wait_until(lambda: ports_there(routed, serving) == (set(), set()), "no rows when there is no router")
    cloud.assert_clean()


def test_a_connection_that_was_silent_in_a_move_lives_on_when_its_new_compute_dies(
    make_cloud: Callable[..., Cloud],
) -> None:
    """It has spoken through nobody but the first, whose switch is restarted and stands by: what is left of it is in the record."""
    routed = Routed(make_cloud(lag=0.6), "a", "b", "c", wired="ab")
    for index, name in enumerate("abc", 1):
        routed.add_vm(f"vm{index}", name, index)
    routed.wait_served()
    cloud, vm, host, old = routed.cloud, routed.cloud.lab.vm("vm3"), routed.host, routed.served_by()
    with Answers() as answers:
        answers.serve(host)
        with speaking(vm, NEXT_HOP) as silent:
            before = asked(silent)
            moved(routed)
            cloud.lab.compute(old).restart_switch()
            routed.wait_served()
            wait_until(
                lambda: "nat(src=" in cloud.lab.compute(old).ofctl("dump-flows", "br-int", f"table={int(T.NAT_NEW)}"),
                "its row at the new standby",
            )
            cloud.lab.compute(routed.served_by()).kill_switch()
            cloud.wait(lambda: routed.served_by() == old, what="the old one to take over")

            def opens_all() -> bool:
                lease = routed.state.opening("r1", routed.state.by_name[old])
                return lease is not None and not lease.careful

            cloud.wait(opens_all, what="whoever has taken over to open everything")
            assert asked(silent) == before
