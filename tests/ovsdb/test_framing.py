"""Cutting the stream: whole, in pieces, one byte at a time, and hostile."""

from __future__ import annotations

import gc
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import LocalProtocolError, RemoteProtocolError
from ebbtide.ovsdb.framing import MAX_DEPTH, Envelope, Framer, encode_message

TRICKY = st.text(alphabet='{}[]"\\ \n\t,:aé\u2028', max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TRICKY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TRICKY, inner, max_size=4),
    max_leaves=20,
)


def fed(data: bytes, sizes: list[int]) -> list[Envelope]:
    framer, found, start = Framer(), [], 0
    for size in [*sizes, len(data)]:
        found += framer.feed(data[start : start + size])
        start += size
    return found


@given(st.lists(st.tuples(JSON, st.text(alphabet=" \t\r\n", max_size=3)), max_size=5), st.lists(st.integers(0, 30)))
def test_any_cut_gives_the_same_messages(values: list[tuple[object, str]], sizes: list[int]) -> None:
    data = b"".join(space.encode() + msgspec.json.encode({"id": 1, "params": value}) for value, space in values)
    expected = [value for value, _ in values]
    assert [message.params for message in fed(data, [])] == expected
    assert [message.params for message in fed(data, sizes)] == expected
    assert [message.params for message in fed(data, [1] * len(data))] == expected


def test_an_empty_chunk_between_a_backslash_and_what_it_escapes_changes_nothing() -> None:
    data = msgspec.json.encode({"id": 1, "params": ['"']})
    cut = data.index(b"\\") + 1
    assert [message.params for message in fed(data, [cut, 0])] == [['"']]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]",
        b"nul",
        b"}",
        b"{}}",
        b"{} []",
        b'{"id":1}x{"id":2}',
        b'{"id":}',
        b'{"id":NaN}',
        b'{"id":1e999}',
        b'{"id":"\xff"}',
        b'{"id":"\\ud800"}',
        b'{"method":5}',
        b'{"id":' + b"1" * 5000 + b"}",
        b"{\\}}",
        b'{"id":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"id":' * 200_000,
        b'{"id":' * 200_000 + b"1" + b"}" * 200_000,
    ],
)
def test_garbage_is_refused_however_it_is_cut(garbage: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(Framer().feed(garbage + b"{}"))
    framer = Framer()
    with pytest.raises(RemoteProtocolError):
        [list(framer.feed(bytes([byte]))) for byte in garbage + b"{}"]


def test_messages_before_garbage_come_out() -> None:
    feed = Framer().feed(b'{"id":1} {}garbage')
    assert next(feed).id == 1
    with pytest.raises(RemoteProtocolError):
        next(feed)


def test_the_last_of_two_equal_keys_counts() -> None:
    (message,) = Framer().feed(b'{"id":1,"id":2}')
    assert message.id == 2


def test_the_limit_is_on_one_message() -> None:
    framer = Framer(limit=100)
    small = b'{"id":"' + b"a" * 80 + b'"}'
    assert len(list(framer.feed(small * 50))) == 50
    assert list(framer.feed(b'{"id":"' + b"a" * 60)) == []
    with pytest.raises(RemoteProtocolError, match="longer than 100"):
        list(framer.feed(b"a" * 60))
    assert framer.buffered <= 100


def test_depth_just_allowed() -> None:
    nested = b'{"params":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1)
    assert len(list(Framer().feed(nested))) == 1


@pytest.mark.parametrize("filler", [b'"}{",', b'"\\"",', b'{"a":{}},', b'"a",', b"[[[]]],", b'{"a":"{"},'])
def test_cost_grows_with_the_bytes_only(filler: bytes) -> None:
    """Four times the bytes in small pieces cost far less than sixteen times the time."""

    def cost(count: int) -> float:
        data = b'{"params":[' + filler * count + b"0]}"
        best = 1e9
        gc.collect()
        for _ in range(3):
            framer, start, found = Framer(), time.process_time(), []
            for position in range(0, len(data), 4096):
                found += framer.feed(data[position : position + 4096])
            assert len(found) == 1
            best = min(best, time.process_time() - start)
        return best

    gc.disable()  # its cost depends on everything that lives
    try:
        assert cost(80_000) < 10 * cost(20_000) + 0.05
    finally:
        gc.enable()


def test_what_is_no_json_is_not_sent() -> None:
    for value in (object(), "\ud800", {1.5: object()}):
        with pytest.raises(LocalProtocolError):
            encode_message({"params": value})
