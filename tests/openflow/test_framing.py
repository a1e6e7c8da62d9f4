"""Where messages begin and end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import RemoteProtocolError
from ebbtide.openflow.framing import Frame, FrameBuffer, message

MESSAGES = [message(5, kind, kind + 1, b"x" * kind) for kind in range(30)]


def test_whole() -> None:
    frames = FrameBuffer().feed(b"".join(MESSAGES))
    assert frames == [Frame(5, kind, kind + 1, b"x" * kind) for kind in range(30)]


def test_one_byte_at_a_time() -> None:
    stream = b"".join(MESSAGES)
    buffer = FrameBuffer()
    frames = [frame for n in range(len(stream)) for frame in buffer.feed(stream[n : n + 1])]
    assert frames == FrameBuffer().feed(stream)
    assert buffer.pending == 0


@given(st.lists(st.integers(1, 900), max_size=30))
def test_any_cut(cuts: list[int]) -> None:
    stream = b"".join(MESSAGES)
    buffer = FrameBuffer()
    frames: list[Frame] = []
    pos = 0
    for cut in [*cuts, len(stream)]:
        frames += buffer.feed(stream[pos : pos + cut])
        pos += cut
    assert frames == FrameBuffer().feed(stream)


def test_the_longest_message() -> None:
    longest = message(4, 0, 0, b"\0" * 65527)
    buffer = FrameBuffer()
    assert buffer.feed(longest[:-1]) == []
    assert buffer.pending == 65534
    assert len(buffer.feed(longest[-1:])) == 1


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\0", b"\x05\0\0\x07\0\0\0\0", b"\x05\0\0\0\0\0\0\0"],
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        FrameBuffer().feed(data)
