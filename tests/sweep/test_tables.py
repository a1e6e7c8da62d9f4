"""The same messages to a real ovs-vswitchd and to a switch of the fleet: what is refused, why, and what is there after them is the same."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ebbtide.compile.flow import Action, Bucket, Flow, Group, GroupType, Meter, Output, ToGroup, match
from ebbtide.openflow import flows, multipart
from ebbtide.openflow import messages as m
from ebbtide.openflow.session import Received, Refused
from tests.openflow.conftest import PrivateSwitch, Wire, switch
from tests.openflow.samples import GROUPS
from tests.openflow.samples import flows as sample_flows
from tests.sweep.pipeline import Port
from tests.sweep.switch import Switch, serve

__all__ = ["switch"]
pytestmark = [pytest.mark.lab, pytest.mark.timeout(60)]
ALL = 0xFFFFFFFF_FFFFFFFF
#: Gives the bytes of a message with this xid, in this version.
Make = Callable[[int, int], bytes]


class Thread:
    """A switch of the fleet with two ports, in a loop of its own."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._start())

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _start(self) -> None:
        running = asyncio.Event()
        running.set()
        self._switch = Switch(1, lambda _port, _frame, _tun: None, running)
        self._switch.set_ports({n: Port(n, f"p{n}") for n in (1, 2)})
        self._server = await serve(self._switch, self.path)

    async def _stop(self) -> None:
        self._server.close()
        self._switch.close()

    def close(self) -> None:
        """End it."""
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture(params=[4, 5], ids=["1.3", "1.4"])
def both(switch: PrivateSwitch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Wire, Wire]]:
    """A wire to each, empty but for some groups and a meter."""
    thread = Thread(f"{tmp_path}/fleet.mgmt")
    wires = Wire(switch.bridge, request.param), Wire(thread.path, request.param)
    try:
        for wire in wires:
            wire.session.send_bytes(flows.flow_delete_bytes(wire.session.take_xids(), wire.version))
            wire.session.send_bytes(flows.group_delete_bytes(flows.ALL_GROUPS, wire.session.take_xids(), wire.version))
            wire.session.send(m.MeterMod(2, Meter(multipart.ALL_METERS, 0)))
            wire.session.send(m.MeterMod(0, Meter(1, 1000, 100)))
            for group in GROUPS:
                data = flows.group_mod_bytes(flows.encode_group(group), wire.session.take_xids(), wire.version)
                wire.session.send_bytes(data)
        yield wires
    finally:
        for wire in wires:
            wire.close()
        thread.close()


def add(table: int, priority: int, matched: object, actions: Sequence[Action] = (), **more: object) -> Make:
    flow = Flow(table, priority, matched, tuple(actions), **more)  # type: ignore[arg-type]
    return lambda xid, version: flows.flow_add_bytes(flows.encode_flow(flow, version), xid, version)


def encoded(message: m.Message) -> Make:
    return lambda xid, version: m.encode(message, xid, version)


def delete(table: int = flows.ALL_TABLES, cookie: int = 0, mask: int = 0) -> Make:
    return lambda xid, version: flows.flow_delete_bytes(xid, version, table, cookie, mask)


def delete_strict(table: int, priority: int, matched: object, cookie: int = 0, mask: int = 0) -> Make:
    key = flows.encode_flow(Flow(table, priority, matched, ())).key  # type: ignore[arg-type]
    return lambda xid, version: flows.flow_delete_strict_bytes(key, xid, version, cookie, mask)


def group(made: Group) -> Make:
    return lambda xid, version: flows.group_mod_bytes(flows.encode_group(made), xid, version)


def raw_group(command: int, made: Group) -> Make:
    def make(xid: int, version: int) -> bytes:
        data = flows.group_mod_bytes(flows.encode_group(made), xid, version)
        return data[:8] + command.to_bytes(2, "big") + data[10:]

    return make


def with_flag(make: Make, flag: int) -> Make:
    def made(xid: int, version: int) -> bytes:
        data = make(xid, version)
        return data[:44] + (int.from_bytes(data[44:46], "big") | flag).to_bytes(2, "big") + data[46:]

    return made


def told(wire: Wire, makes: Sequence[Make]) -> tuple[list[tuple[int, str]], list[Sequence[object]]]:
    """What is refused (which message, why), and what the switch holds after it."""
    first = wire.session.take_xids(len(makes))
    for index, make in enumerate(makes):
        wire.session.send_bytes(make(first + index, wire.version))
    assert isinstance(wire.ask(m.BarrierRequest()), Received)
    refused = [(e.xid - first, e.words) for e in wire.seen if isinstance(e, Refused)]
    wire.seen.clear()
    found = sorted(
        (f.key, f.cookie, f.instructions, f.idle_timeout, f.hard_timeout, f.flags)
        for f in flows.iter_flow_stats(wire.collect(multipart.flow_request()))
    )
    groups = sorted(
        (g.group_id, g.type, g.buckets) for g in multipart.read_groups(wire.collect(multipart.group_desc_request()))
    )
    meters = sorted(x.meter_id for x in multipart.read_meters(wire.collect(multipart.meter_config_request())))
    return refused, [found, groups, meters]


def assert_same(both: tuple[Wire, Wire], *makes: Make) -> list[tuple[int, str]]:
    (refused, real), (mine, held) = (told(wire, makes) for wire in both)
    assert mine == refused
    for ours, theirs in zip(held, real, strict=True):
        assert ours == theirs
    return refused


def test_every_match_and_action_comes_back_as_from_a_real_switch(both: tuple[Wire, Wire]) -> None:
    def adds(flow: Flow) -> Make:
        return lambda xid, version: flows.flow_add_bytes(flows.encode_flow(flow, version), xid, version)

    assert assert_same(both, *map(adds, sample_flows())) == []


def test_flows_are_refused_for_the_same_reasons(both: tuple[Wire, Wire]) -> None:
    refused = assert_same(
        both,
        add(0, 5, match(in_port=1), [Output(2)]),
        add(0, 5, match(in_port=2), [ToGroup(999)]),
        add(0, 5, match(ipv4_dst=1), [Output(1)]),
        add(9, 5, match(), goto=3),
        add(9, 5, match(), goto=9),
        add(9, 5, match(), [Output(1)], meter=77),
        add(9, 6, match(), [Output(1)], meter=1),
        with_flag(add(0, 5, match(in_port=1, eth_type=0x800), [Output(1)]), flows.CHECK_OVERLAP),
        with_flag(add(0, 6, match(in_port=1, eth_type=0x800), [Output(1)]), flows.CHECK_OVERLAP),
    )
    assert [index for index, _ in refused] == [1, 2, 3, 4, 5, 7]


def test_flows_go_by_cookie_key_group_and_port(both: tuple[Wire, Wire]) -> None:
    made = [add(t, 5, match(reg0=n), [Output(1 + n % 2)], cookie=t << 32 | n) for t in (1, 2, 3) for n in range(4)]
    assert_same(both, *made, add(4, 5, match(), [ToGroup(1)]), add(4, 6, match(), [ToGroup(2)], cookie=7 << 32))
    assert_same(both, delete(table=1, cookie=1 << 32, mask=0xFFFFFFFF << 32))
    assert_same(both, delete_strict(2, 5, match(reg0=0), 5, ALL), delete_strict(2, 6, match(reg0=1)))
    assert_same(both, delete_strict(2, 5, match(reg0=2)), delete(table=3, cookie=2, mask=3))
    # A group goes, and what leads to it.
    assert_same(both, lambda xid, version: flows.group_delete_bytes(1, xid, version))
    assert_same(both, add(2, 5, match(reg0=1), [Output(2)], cookie=99))


def test_groups_and_meters_are_refused_for_the_same_reasons(both: tuple[Wire, Wire]) -> None:
    some = (Bucket((Output(1),)),)
    refused = assert_same(
        both,
        raw_group(flows.GROUP_ADD, Group(1, GroupType.ALL, some)),
        raw_group(flows.GROUP_MODIFY, Group(50, GroupType.ALL, some)),
        group(Group(51, GroupType.ALL, some)),
        raw_group(flows.GROUP_ADD, Group(52, GroupType.INDIRECT, some * 2)),
        raw_group(flows.GROUP_ADD, Group(53, GroupType.FAST_FAILOVER, some)),
        raw_group(77, Group(54, GroupType.ALL, some)),
        encoded(m.MeterMod(0, Meter(1, 5))),
        encoded(m.MeterMod(1, Meter(9, 5))),
        encoded(m.MeterMod(0, Meter(2, 5))),
        encoded(m.MeterMod(2, Meter(9, 5))),
    )
    assert [index for index, _ in refused][:2] == [0, 1]


def test_a_bundle_is_all_or_nothing(both: tuple[Wire, Wire]) -> None:
    def bundled(number: int, *makes: Make, commit: bool = True) -> object:
        found = []
        for wire in both:
            session = wire.session
            first = session.take_xids(len(makes))
            parts = [make(first + index, wire.version) for index, make in enumerate(makes)]
            opened = session.send_bundle(number, parts, commit=commit)
            assert isinstance(wire.ask(m.BarrierRequest()), Received)
            words = [
                (e.xid - first, e.words) if isinstance(e, Refused) else (e.xid - opened, str(e.message))
                for e in wire.seen
                if isinstance(e, Refused | Received)
            ]
            wire.seen.clear()
            found.append((words, told(wire, ())))
        assert found[0] == found[1]
        return found[0][0]

    good, bad = add(0, 5, match(in_port=1), [Output(2)]), add(0, 6, match(), [ToGroup(999)])
    bundled(1, good, add(0, 7, match(), [ToGroup(1)]))
    bundled(2, delete(), bad)
    bundled(3, delete(), add(0, 5, match(ipv4_dst=1)), group(Group(60, GroupType.ALL, ())))
    # Open twice, and one that was never opened.
    for kind, number in ((m.BUNDLE_OPEN, 9), (m.BUNDLE_OPEN, 9), (m.BUNDLE_COMMIT, 8), (m.BUNDLE_DISCARD, 8)):
        assert_same(both, encoded(m.BundleControl(number, kind)))
