"""What the benchmark of Neutron's ports takes from the wire."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.awaited import Stream, within


def said(kind: int, xid: int, length: int = 8) -> bytes:
    return struct.pack("!BBHI", 5, kind, length, xid) + bytes(length - 8)


TALK = b"".join(said(kind, xid, length) for xid, (kind, length) in enumerate([(20, 8), (34, 48), (14, 120), (20, 8)]))


@given(st.lists(st.integers(1, 60), min_size=1), st.integers(0, 2**32 - 1), st.booleans())
def test_messages_are_read_however_they_are_cut_and_sent_again(cuts: list[int], first: int, again: bool) -> None:
    stream, found, at = Stream(), [], 0
    for size in [*cuts, len(TALK)]:
        piece = TALK[at : at + size]
        for _ in range(2 if again else 1):
            found += stream.heard((first + at) % 2**32, piece) if piece else []
        at += len(piece)
    assert found == [(20, 0), (34, 1), (14, 2), (20, 3)]


def test_what_was_missed_or_is_no_openflow_is_said() -> None:
    stream = Stream()
    stream.heard(100, TALK)
    with pytest.raises(RuntimeError, match="7 bytes"):
        stream.heard(100 + len(TALK) + 7, TALK)
    with pytest.raises(RuntimeError, match="does not begin"):
        Stream().heard(0, b"HTTP/1.1 200 OK")


def test_time_that_two_spans_cover_counts_once() -> None:
    assert within([(1, 3), (2, 4), (6, 9)], 0, 8) == 5
    assert within([(1, 9), (2, 3)], 2, 4) == 2
    assert within([], 0, 1) == 0
