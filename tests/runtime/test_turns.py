"""Turns of those who work, a few at a time, and wait in between."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ebbtide.runtime.turns import Turn, Turns


class Workers:
    """Everybody who has a turn of some, and what they have been told of the queue."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self.told: list[tuple[str, bool]] = []
        self.at_work: list[str] = []

    def turn(self, name: str) -> Turn:
        async def queued(waits: bool) -> None:
            self.told.append((name, waits))

        return self.turns.turn(queued)

    async def work(self, name: str) -> None:
        """Take a turn, work, and give it back."""
        turn = self.turn(name)
        await turn.take()
        self.at_work.append(name)
        turn.give_back()


def play(story: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(10):
            await story

    asyncio.run(whole())


def test_who_comes_when_all_turns_are_taken_is_told_that_it_waits_and_when_it_does_no_more() -> None:
    async def story() -> None:
        workers = Workers(1)
        first = workers.turn("first")
        await first.take()
        assert workers.told == []
        second = asyncio.create_task(workers.work("second"))
        third = asyncio.create_task(workers.work("third"))
        await asyncio.sleep(0)
        assert (workers.told, workers.at_work) == ([("second", True), ("third", True)], [])
        first.give_back()
        first.give_back()
        await asyncio.gather(second, third)
        assert workers.at_work == ["second", "third"], "in the order in which they came"
        assert workers.told[2:] == [("second", False), ("third", False)]

    play(story())


def test_a_turn_that_is_given_back_while_something_is_waited_for_is_taken_by_another_and_had_again_after() -> None:
    async def story() -> None:
        workers = Workers(1)
        first = workers.turn("first")
        await first.take()
        second = asyncio.create_task(workers.work("second"))
        async with first.given_back():
            await second
        third = asyncio.create_task(workers.work("third"))
        await asyncio.sleep(0)
        assert workers.at_work == ["second"]
        first.give_back()
        await third

    play(story())


def test_it_is_kept_while_the_wait_is_short() -> None:
    async def story() -> None:
        workers = Workers(1)
        first = workers.turn("first")
        await first.take()
        second = asyncio.create_task(workers.work("second"))
        async with first.given_back(after=3600.0):
            await asyncio.sleep(0)
        assert ("first", True) not in workers.told
        assert workers.at_work == []
        first.give_back()
        await second

    play(story())


def test_who_has_given_its_turn_back_waits_for_the_next_one_behind_the_others() -> None:
    async def story() -> None:
        workers = Workers(1)
        first, second = workers.turn("first"), workers.turn("second")
        await first.take()
        queued = asyncio.create_task(second.take())
        third = asyncio.create_task(workers.work("third"))

        async def wait() -> None:
            async with first.given_back():
                await queued
            workers.at_work.append("first")
            first.give_back()

        again = asyncio.create_task(wait())
        await queued
        await asyncio.sleep(0)
        assert workers.at_work == [], "the second one has it"
        second.give_back()
        await asyncio.gather(again, third)
        assert workers.at_work == ["third", "first"]
        assert workers.told[-2:] == [("third", False), ("first", False)]

    play(story())


def test_who_is_cancelled_or_fails_while_it_has_given_its_turn_back_does_not_have_it_and_loses_none() -> None:
    async def story() -> None:
        workers = Workers(1)
        first, second = workers.turn("first"), workers.turn("second")
        await first.take()

        async def fail() -> None:
            async with first.given_back():
                await second.take()
                raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            await fail()
        first.give_back()
        queued = asyncio.create_task(first.take())
        await asyncio.sleep(0)
        queued.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        first.give_back()
        third = asyncio.create_task(workers.work("third"))
        await asyncio.sleep(0)
        assert workers.at_work == [], "the second one has it"
        second.give_back()
        await third

    play(story())
