"""What the record of connections hears from real switches, of TCP and of UDP, which nothing ends."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from itertools import pairwise

import pytest

from ebbtide.compile import ledger
from ebbtide.compile.features.nat import TCP, UDP, Translation
from ebbtide.compile.ledger import T
from ebbtide.decide import natmove
from ebbtide.lab import wait_until
from ebbtide.model.addresses import ipv4
from ebbtide.runtime import connections, renewals
from ebbtide.runtime.connections import Entry
from ebbtide.runtime.record_log import What
from tests.support.cloud import Cloud
from tests.support.outside import NEXT_HOP, PORT, Answers, asked, speaking
from tests.support.routed import SNAT, Routed

pytestmark = pytest.mark.lab


@pytest.fixture
def routed(make_cloud: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch) -> Routed:
    """vm1 on a, vm2 on b, both with a wire; a turn of UDP lasts a second, with its pause nearly two, and three of them its life."""
    monkeypatch.setattr(renewals, "TURN", 1.0)
    monkeypatch.setattr(connections, "UDP_LIFE", 5)
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


def tells_of(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """When the record is told of UDP that is in use, and by which external port, from now on. A flow's counter would not do: what a cached
    flow has counted goes to whichever flow is in its place when it is looked at again."""
    record = routed.cloud.controller.app.cluster.connections
    told: list[tuple[float, int]] = []
    tell = record.tell

    def listen(what: What, tag: int, compute: int, known: Translation) -> None:
        if what is What.SEEN:
            told.append((record.now(), known.port))
        tell(what, tag, compute, known)

    monkeypatch.setattr(record, "tell", listen)
    return told


def test_udp_stays_in_the_record_as_long_as_it_is_spoken_and_no_longer(
    routed: Routed, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            told, words = tells_of(routed, monkeypatch), 0

            def talked() -> list[float]:
                return [when for when, port in told if port == ends[UDP][2]]

            def over() -> bool:
                nonlocal words
                assert asked(talks) == ends[UDP], "it has its port as long as it speaks"
                words += 1
                return last not in recorded(routed) and len(talked()) >= 3

            began = recorded(routed)[last].opened
            wait_until(over, "the record to forget who does not speak any more, and to hear of who does", every=0.05)
            assert words > 10 * len(talked())
            assert all(later - earlier >= renewals.TURN for earlier, later in pairwise(talked())), "one a turn"
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


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_had_a_row_is_opened_anew_from_the_same_port(routed: Routed, reset: bool) -> None:
    """Conntrack has let go of the old one and its port is not free yet: the row is refused, and the VM gets another port at once."""
    cloud, vm, host = routed.cloud, routed.cloud.lab.vm("vm2"), routed.host
    own, remote, source = (ipv4(address) or 0 for address in (SNAT, NEXT_HOP, "10.1.0.2"))
    known = Translation(TCP, source, 45_000, remote, PORT, own, 20_001)
    router, number = routed.state.routers["r1"], routed.state.by_name[routed.served_by()]
    cloud.call(cloud.controller.app.cluster.rows.put(router, number, [known]))
    vm.exec(["sysctl", "-w", "net.ipv4.tcp_tw_reuse=1"])
    seen = []
    with Answers() as answers:
        answers.serve(host)

        def spoken() -> bool:
            with vm.open_socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.settimeout(3)
                made.bind(("10.1.0.2", 45_000))
                try:
                    made.connect((NEXT_HOP, PORT))
                except OSError as error:
                    if error.errno == errno.EADDRNOTAVAIL:
                        return False  # the VM itself keeps who has closed in good order for a second
                    raise
                seen.append(asked(made))
                if reset:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return len(seen) == 3

        wait_until(spoken, "the same port to be spoken from three times", every=0.1)
    assert seen[0] == ("ext", SNAT, 20_001), "by its row"
    assert {address for _, address, _ in seen} == {SNAT}
    cloud.assert_clean()


def test_who_has_served_keeps_no_connection_when_it_stands_by_again(routed: Routed) -> None:
    """It would hold them for a day, and have its own port for a tuple that is used again meanwhile, when it takes over."""
    cloud, vm, host = routed.cloud, routed.cloud.lab.vm("vm2"), routed.host
    old, new, numbers = routed.served_by(), routed.stands_by(), routed.state.by_name
    zone = ledger.router_zone(routed.state.routers["r1"].tag)

    def known(name: str) -> bool:
        return SNAT in cloud.lab.compute(name).appctl("dpctl/dump-conntrack", f"zone={zone}")

    with Answers() as answers:
        answers.serve(host)
        with speaking(vm, NEXT_HOP) as talks:
            before = asked(talks)
            assert known(old)
            begin = cloud.controller.app.cluster.store.commit
            cloud.call(begin(lambda state: (natmove.begin(state, "r1", numbers[old], numbers[new]), None)))
            cloud.wait(lambda: (routed.served_by(), routed.stands_by()) == (new, old), what="the old one to stand by")
            wait_until(lambda: not known(old), "the old one to forget")
            assert asked(talks) == before
            assert known(new)
    cloud.assert_clean()
