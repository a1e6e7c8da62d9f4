"""The standing record of connections: what it says, what it forgets, what it costs to follow, and its file through every crash."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.compile.features.nat import TCP, UDP, Translation
from ebbtide.runtime import record_log
from ebbtide.runtime.connections import AFTER_CLOSE, TCP_LIFE, UDP_LIFE, Connections, Entry, Follower, newest

ADDRESS, REMOTE = 0xCB00710A, 0xC6336401
A, B = 1, 2
TAG, OTHER = 7, 8


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def record(clock: Clock) -> Connections:
    return Connections(clock=clock)


def connection(number: int, port: int = 0, proto: int = TCP) -> Translation:
    return Translation(proto, 0x0A010001, 10_000 + number, REMOTE, 80, ADDRESS, port or 20_000 + number)


def told(record: Connections, tag: int = TAG) -> list[Translation]:
    return [e.translation for e in record.of(tag)]


def test_a_connection_is_recorded_until_some_time_after_its_end(record: Connections, clock: Clock) -> None:
    record.opened(TAG, A, connection(1))
    record.opened(OTHER, B, connection(1))
    clock.now += 10
    record.closed(TAG, A, connection(1))
    assert record.of(TAG) == [Entry(connection(1), A, 1_000_000, 1_000_010)]
    clock.now += AFTER_CLOSE + 1
    assert record.of(TAG) == []
    assert told(record, OTHER) == [connection(1)]
    assert len(record) == 1


@pytest.mark.parametrize(("proto", "life"), [(TCP, TCP_LIFE), (UDP, UDP_LIFE)])
def test_what_was_not_seen_again_is_over_one_day(record: Connections, clock: Clock, proto: int, life: int) -> None:
    record.opened(TAG, A, connection(1, proto=proto))
    clock.now += life
    assert told(record) == [connection(1, proto=proto)]
    record.opened(TAG, A, connection(2, proto=proto))
    clock.now += 1
    assert told(record) == [connection(2, proto=proto)]


def test_a_port_that_is_given_out_anew_is_the_new_ones(record: Connections) -> None:
    record.opened(TAG, A, connection(1, port=20_000))
    record.opened(TAG, A, connection(2, port=20_000))
    assert told(record) == [connection(2, port=20_000)]
    record.closed(TAG, A, connection(2, port=20_000))
    record.opened(TAG, A, connection(3, port=20_000))
    assert record.of(TAG) == [Entry(connection(3, port=20_000), A, 1_000_000)]


def test_one_router_that_opens_too_many_pushes_out_its_own(clock: Clock) -> None:
    record = Connections(clock=clock, most=1000)
    silent = [connection(n) for n in range(100)]
    for each in silent:
        record.opened(TAG, A, each)
    for number in range(5000):
        record.opened(OTHER, A, connection(number, proto=UDP))
    assert told(record) == silent
    assert len(record) <= 1000
    assert record.lost == 5000 - len(told(record, OTHER))
    assert told(record, OTHER)[-1] == connection(4999, proto=UDP)


def test_received_records_are_counted_by_second(record: Connections, clock: Clock) -> None:
    for number in range(3):
        record.opened(TAG, A, connection(number))
        clock.now += 1
    record.closed(TAG, A, connection(0))
    assert record.received(TAG, A, 1_000_000) == 3
    assert record.received(TAG, A, 1_000_001) == 2
    assert record.received(TAG, B, 0) == record.received(OTHER, A, 0) == 0


def _opened_for(record: Connections, clock: Clock, seconds: int) -> None:
    for second in range(seconds):
        record.opened(TAG, A, connection(second % 100))
        clock.now += 1


@pytest.mark.parametrize("restarted", [False, True])
def test_what_came_before_a_switch_began_to_count_anew_hides_nothing_that_is_unknown(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """A day of records, then the counter begins at zero: who asks for those since then is not told of those before."""
    monkeypatch.setattr(record_log, "_PAST", 10)
    record = Connections(tmp_path / "connections.log", clock)
    _opened_for(record, clock, 20_000)
    since = clock.now
    _opened_for(record, clock, 2_000)
    if restarted:
        for _ in range(4):
            record.flush()
        record = Connections(tmp_path / "connections.log", clock)
    assert len(record) == 100
    assert 2_000 <= record.received(TAG, A, since) <= 3_000
    assert record.received(TAG, A, 0) == 22_000
    assert len(record._routers[TAG].received[A]) <= 512


def test_a_record_that_neither_grows_nor_shrinks_is_not_written_anew_all_the_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that come and go each second; writing anew costs about as much as what was told since the last time."""
    monkeypatch.setattr(record_log, "_SLICE", 200)
    monkeypatch.setattr(record_log, "_PAST", 100)
    written, write = 0, record_log.RecordLog._write

    def counted(path: Path | None, data: bytes) -> None:
        nonlocal written
        written += len(data) // record_log._LINE.size
        write(path, data)

    monkeypatch.setattr(record_log.RecordLog, "_write", staticmethod(counted))
    record, told = Connections(tmp_path / "connections.log", clock), 0
    for second in range(4 * AFTER_CLOSE):
        for number in range(20):
            record.opened(TAG, A, connection(20 * second + number))
            record.closed(TAG, A, connection(20 * second + number))
            told += 2
        assert len(record.of(TAG)) <= 20 * (AFTER_CLOSE + 2)
        record.flush()
        clock.now += 1
    assert told <= written <= 3 * told


def test_what_was_only_seen_is_no_record_of_an_opening_after_a_restart_either(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_log, "_PAST", -10)
    record = Connections(tmp_path / "connections.log", clock)
    record.opened(TAG, A, connection(1, proto=UDP))
    clock.now += 60
    record.seen(TAG, B, connection(1, proto=UDP))
    record.seen(TAG, B, connection(2, proto=UDP))
    for _ in range(4):
        record.flush()
    for back in (record, Connections(tmp_path / "connections.log", clock)):
        assert [back.received(TAG, compute, 0) for compute in (A, B)] == [1, 0]
        assert back.received(TAG, A, clock.now - 10) == 0
        assert [e.compute for e in back.of(TAG)] == [B, B]


def test_a_router_that_is_gone_is_forgotten(record: Connections) -> None:
    record.opened(TAG, A, connection(1))
    assert record.tags() == [TAG]
    record.forget(TAG)
    record.forget(TAG)
    assert (record.tags(), len(record), record.received(TAG, A, 0)) == ([], 0, 0)


def test_of_two_that_claim_one_port_or_one_connection_the_last_is_right() -> None:
    first, again, other = connection(1), connection(1, port=30_000), connection(2, port=30_000)
    assert newest([first, again]) == [again]
    assert newest([again, other]) == [other]


# --- following ---


def test_who_follows_hears_of_a_connection_when_it_has_some_age(record: Connections, clock: Clock) -> None:
    record.opened(TAG, A, connection(1))
    clock.now += 5
    record.opened(TAG, A, connection(2))
    follower = Follower(record, TAG, 5)
    whole, ripe, over = follower.look()
    assert (whole, [e.translation for e in ripe], over) == (True, [connection(1)], [])
    record.opened(TAG, A, connection(3))
    record.closed(TAG, A, connection(3))
    clock.now += 5
    record.closed(TAG, A, connection(1))
    whole, ripe, over = follower.look()
    assert (whole, [e.translation for e in ripe]) == (False, [connection(2)])
    assert [e.translation for e in over] == [connection(1)], "and never of the third, which was over before"


def test_who_begins_to_follow_with_something_in_hand_hears_of_its_end_however_young(
    record: Connections, clock: Clock
) -> None:
    for number in range(3):
        record.seen(TAG, A, connection(number))
    follower = Follower(record, TAG, 5)
    whole, ripe, over = follower.look({connection(1)})
    assert (whole, [e.translation for e in ripe], over) == (True, [connection(1)], [])
    record.closed(TAG, A, connection(0))
    record.closed(TAG, A, connection(1))
    clock.now += 5
    whole, ripe, over = follower.look()
    assert [e.translation for e in ripe] == [connection(2)]
    assert [e.translation for e in over] == [connection(1)]


def test_who_has_missed_too_much_is_told_all(record: Connections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebbtide.runtime.connections._REMEMBERED", 10)
    follower = Follower(record, TAG, 0)
    assert follower.look() == (True, [], [])
    for number in range(100):
        record.opened(TAG, A, connection(number))
    whole, ripe, _ = follower.look()
    assert (whole, len(ripe)) == (True, 100)
    assert follower.look() == (False, [], [])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_following_comes_to_what_the_record_says(seed: int) -> None:
    """Whatever happens: what was told as ripe and not as over is what is open and old enough."""
    random, clock = Random(seed), Clock()
    record = Connections(clock=clock, most=60)
    follower, held = Follower(record, TAG, 3), set[Translation]()
    for _ in range(150):
        _something(random, record, clock)
        if random.random() < 0.3:
            whole, ripe, over = follower.look()
            held = (set() if whole else held - {e.translation for e in over}) | {e.translation for e in ripe}
            still = [e for e in record.of(TAG) if not e.closed]
            # What was seen once more is young again in the record, and stays where it is with those who follow.
            assert {e.translation for e in still if clock.now - e.opened >= 3} <= held <= {e.translation for e in still}


def _something(random: Random, record: Connections, clock: Clock) -> None:
    known = connection(random.randrange(20), port=20_000 + random.randrange(20), proto=random.choice((TCP, UDP)))
    tag = random.choice((TAG, TAG, OTHER))
    match random.randrange(9):
        case 0 | 1 | 2 | 3:
            record.opened(tag, random.choice((A, B)), known)
        case 4 | 5:
            for entry in record.of(tag)[:2]:
                record.closed(tag, entry.compute, entry.translation)
        case 6:
            record.seen(tag, random.choice((A, B)), known)
        case 7:
            clock.now += random.choice((1, 2, 60, UDP_LIFE / 2))
        case _:
            clock.now += random.choice((0, 1))


# --- the file ---


def contents(record: Connections) -> dict[int, list[Entry]]:
    return {tag: sorted(record.of(tag)) for tag in (TAG, OTHER)}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32))
def test_after_a_restart_it_says_what_it_said(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """However often it is written anew meanwhile, and wherever between two writes it is killed."""
    random, clock = Random(seed), Clock()
    path = tmp_path_factory.mktemp("record") / "connections.log"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(record_log, "_SLICE", 5)
        patched.setattr(record_log, "_PAST", 10)
        record = Connections(path, clock)
        for _ in range(200):
            _something(random, record, clock)
            if random.random() < 0.5:
                record.flush()
            if random.random() < 0.05:
                record.flush()
                before = contents(record), [record.received(TAG, c, 0) for c in (A, B)]
                record = Connections(path, clock)
                assert (contents(record), [record.received(TAG, c, 0) for c in (A, B)]) == before


def _killed_at_each_step(path: Path, work: Callable[[], None]) -> Iterator[Path]:
    """The state of the folder after each change that the work makes to it."""
    copies = path.parent.parent / "copies"
    steps: list[Path] = []

    def keep() -> None:
        steps.append(copies / str(len(steps)))
        shutil.copytree(path.parent, steps[-1])

    def after(name: str, module: object) -> None:
        real = getattr(module, name)

        def call(*args: object, **kwargs: object) -> object:
            done = real(*args, **kwargs)
            keep()
            return done

        patched.setattr(module, name, call)

    with pytest.MonkeyPatch.context() as patched:
        after("replace", record_log.os)
        for name in ("write_bytes", "unlink"):
            after(name, Path)
        real = record_log.RecordLog._write
        patched.setattr(record_log.RecordLog, "_write", staticmethod(lambda *args: (real(*args), keep())))
        work()
    return iter(steps)


def test_a_kill_at_any_step_of_writing_it_anew_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_log, "_SLICE", 20)
    monkeypatch.setattr(record_log, "_PAST", 10)
    path = tmp_path / "state" / "connections.log"
    path.parent.mkdir()
    record = Connections(path, clock)
    for number in range(100):
        record.opened(TAG, A, connection(number))
        record.closed(TAG, A, connection(number))
    clock.now += AFTER_CLOSE + 1
    for number in range(60):
        record.opened(TAG, A, connection(number))
    record.flush()
    wanted = contents(record)

    def work() -> None:
        for _ in range(12):
            record.flush()

    steps = list(_killed_at_each_step(path, work))
    assert any((step / "connections.next").exists() for step in steps)
    for step in steps:
        back = Connections(step / path.name, clock)
        assert contents(back) == wanted, step
        assert back.received(TAG, A, 0) == 160, step
    assert path.stat().st_size < 40 * 70


def test_what_was_cut_short_ends_the_file_and_the_next_goes_on(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "connections.log"
    record = Connections(path, clock)
    record.opened(TAG, A, connection(1))
    record.opened(TAG, A, connection(2))
    record.flush()
    path.write_bytes(path.read_bytes()[:-7])
    record = Connections(path, clock)
    assert told(record) == [connection(1)]
    record.opened(TAG, A, connection(3))
    record.flush()
    assert told(Connections(path, clock)) == [connection(1), connection(3)]


def test_a_full_disk_loses_records_and_not_the_file(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "connections.log"
    record = Connections(path, clock)
    record.opened(TAG, A, connection(1))
    record.flush()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(record_log.RecordLog, "_write", staticmethod(full))
        record.opened(TAG, A, connection(2))
        record.flush()
    record.opened(TAG, A, connection(3))
    record.flush()
    assert told(record) == [connection(1), connection(2), connection(3)]
    assert told(Connections(path, clock)) == [connection(1), connection(3)]
