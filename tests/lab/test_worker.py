"""A worker answers line by line; one that is silent or has ended is told apart."""

from __future__ import annotations

import pytest

from ebbtide.errors import NotReady, Unexpected
from ebbtide.lab.worker import Worker


def test_line_by_line() -> None:
    worker = Worker("an echo", ["cat"])
    assert worker.ask(b"one") == b"one"
    worker.tell(b"two")
    worker.tell(b"three")
    assert (worker.hear(), worker.hear()) == (b"two", b"three")
    worker.close()


def test_a_long_line_comes_whole() -> None:
    worker = Worker("an echo", ["cat"])
    assert worker.ask(b"x" * 50_000) == b"x" * 50_000
    worker.close()


def test_a_silent_one_is_not_waited_for_longer_than_the_deadline() -> None:
    worker = Worker("a sleeper", ["sh", "-c", "read line; read line"])
    with pytest.raises(NotReady, match=r"a sleeper has not answered in 0\.05 s"):
        worker.ask(b"hello", deadline=0.05)
    worker.close()


def test_one_that_has_ended_says_with_what() -> None:
    worker = Worker("a fool", ["sh", "-c", "read line; exit 7"])
    with pytest.raises(Unexpected, match="a fool ended by itself, with 7"):
        worker.ask(b"hello")
    worker.close()
