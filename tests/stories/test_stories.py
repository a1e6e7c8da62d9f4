"""Each story told to both, and in the end both have come to the same."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.in_core import InCore
from tests.stories.in_lab import InLab
from tests.stories.story import STORIES, Telling, end_state, tell
from tests.support.cloud import Cloud
from tests.support.outside import LAG

_numbers = itertools.count()
stories = pytest.mark.parametrize("story", STORIES, ids=[path.stem for path in STORIES])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Cloud]:
    cloud = Cloud(f"s{os.getpid()}_{next(_numbers)}", tmp_path, lag=LAG)
    yield cloud
    cloud.down()


@stories
def test_a_story_comes_true_without_wires(story: Path) -> None:
    tell(story, InCore())


@pytest.mark.lab
@stories
def test_a_story_comes_true_on_switches_and_ends_the_same(story: Path, lab: Cloud) -> None:
    on_switches, without_wires = InLab(lab), InCore()
    tell(story, on_switches)
    tell(story, without_wires)
    lab.assert_clean()
    assert end_state(on_switches.state) == end_state(without_wires.state)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("=> vm1 is on b", "it is {'a'}"),
        ("=> vm1 does not reach vm2", "vm1 reaches vm2"),
        ("=> vm1 reaches 10.2.0.77", "does not reach"),
        ("=> a is tombstoned", "it is ready"),
        ("=> red's subnet is served by a", "it is set()"),
        ("=> refused: anything", "nothing was refused"),
        ("vm1 flies to b", "no such sentence"),
        ("=> vm1 flies", "no such sentence"),
    ],
)
def test_what_is_not_so_is_not_believed(text: str, why: str) -> None:
    telling = Telling(InCore())
    for line in (
        "a, b join",
        "network red 10.2.0.0/24",
        "vm vm1 on a in red at 10.2.0.1",
        "vm vm2 on b in red at 10.2.0.2",
        "=> vm1 reaches vm2",
    ):
        telling.say(line)
    with pytest.raises(AssertionError) as raised:
        telling.say(text)
    assert why in str(raised.value)


def test_a_refusal_that_the_story_does_not_speak_of_is_told() -> None:
    telling = Telling(InCore())
    telling.say("a joins")
    telling.say("scalein-computes-end a")
    with pytest.raises(AssertionError, match="not tombstoned"):
        telling.say("b joins")
