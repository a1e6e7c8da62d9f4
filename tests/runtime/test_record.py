"""What the record of connections hears from real switches, of TCP and of UDP, which nothing ends."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from ebbtide.compile.features.nat import TCP, UDP
from ebbtide.compile.ledger import Priority, T
from ebbtide.lab import wait_until
from ebbtide.runtime import connections, renewals
from ebbtide.runtime.connections import Entry
from tests.support.cloud import Cloud
from tests.support.outside import NEXT_HOP, Answers, asked, speaking
from tests.support.routed import SNAT, Routed

pytestmark = pytest.mark.lab


@pytest.fixture
def routed(make_cloud: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch) -> Routed:
    """vm1 on a, vm2 on b, both with a wire; a turn of UDP lasts a second, and three of them its life."""
    monkeypatch.setattr(renewals, "TURN", 1.0)
    monkeypatch.setattr(connections, "UDP_LIFE", 3)
    made = Routed(make_cloud(lag=0.6), "a", "b")
    made.add_vm("vm1", "a", 1)
    made.add_vm("vm2", "b", 2)
    made.wait_served()
    return made


def recorded(routed: Routed) -> dict[tuple[int, int], Entry]:
    """What is in the record of r1, by protocol and external port."""
    tag = routed.state.routers["r1"].tag
    found = routed.cloud.controller.app.cluster.connections.of(tag)
    return {(e.translation.proto, e.translation.port): e for e in found}


def told_in_this_turn(routed: Routed) -> int:
    """UDP packets of which the compute that serves has told since its turn began."""
    compute = routed.cloud.lab.compute(routed.served_by())
    (line,) = [
        x for x in compute.ofctl("dump-flows", "br-int", f"table={int(T.NAPT_OUT)}").splitlines() if "ct_mark" in x
    ]
    assert f"priority={int(Priority.SEEN)}" in line
    return int(line.partition("n_packets=")[2].partition(",")[0])


def test_udp_stays_in_the_record_as_long_as_it_is_spoken_and_no_longer(routed: Routed) -> None:
    vm, host = routed.cloud.lab.vm("vm2"), routed.host
    with Answers() as answers:
        answers.serve(host)
        with (
            speaking(vm, NEXT_HOP) as silent,
            speaking(vm, NEXT_HOP, socket.SOCK_DGRAM) as talks,
            speaking(vm, NEXT_HOP, socket.SOCK_DGRAM) as falls_silent,
        ):
            ends = {proto: asked(each) for proto, each in ((TCP, silent), (UDP, talks))}
            last = UDP, asked(falls_silent)[2]
            assert {address for _, address, _ in ends.values()} == {SNAT}
            keys = {(proto, port) for proto, (_, _, port) in ends.items()}
            wait_until(lambda: keys | {last} <= set(recorded(routed)), "all three to be recorded")
            told = []

            def over() -> bool:
                assert asked(talks) == ends[UDP], "it has its port as long as it speaks"
                told.append(told_in_this_turn(routed))
                return last not in recorded(routed)

            began = recorded(routed)[last].opened
            wait_until(over, "the record to forget who does not speak any more", every=0.05)
            assert set(told) <= {0, 1}, "one packet of a connection in a turn"
            assert keys <= set(recorded(routed))
            assert recorded(routed)[UDP, ends[UDP][2]].opened > began
            router = routed.state.routers["r1"]
            routed.cloud.call(routed.cloud.service.set_router("r1", record=False))
            assert routed.state.routers["r1"] != router
            served = routed.cloud.lab.compute(routed.served_by())
            wait_until(
                lambda: "ct_mark" not in served.ofctl("dump-flows", "br-int", f"table={int(T.NAPT_OUT)}"),
                "nothing to be told when no record is kept",
            )
    routed.cloud.assert_clean()
