"""Waiting for something that changes again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from ebbtide.runtime.pulse import Pulse


def in_a_loop(story: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    def played() -> None:
        asyncio.run(story())

    return played


class World:
    """A number, and a pulse that beats when it changes."""

    def __init__(self) -> None:
        self.pulse = Pulse()
        self.number = 0
        self.looked = 0

    def become(self, number: int) -> None:
        self.number = number
        self.pulse.fire()

    def is_three(self) -> bool:
        self.looked += 1
        return self.number == 3

    def waits(self) -> asyncio.Task[bool]:
        """Somebody waits until it is three, and looks at beats alone."""
        return asyncio.create_task(self.pulse.until(self.is_three, 10.0, at_least_every=10.0))


async def turns(count: int = 5) -> None:
    """Whoever can go on does."""
    for _ in range(count):
        await asyncio.sleep(0)


@in_a_loop
async def test_who_waits_goes_on_when_it_holds_and_not_at_any_other_beat() -> None:
    world = World()
    waiting = world.waits()
    for number in (1, 2):
        world.become(number)
        await turns()
        assert not waiting.done()
    world.become(3)
    assert await waiting


@in_a_loop
async def test_many_beats_in_one_turn_are_one_look() -> None:
    world = World()
    waiting = world.waits()
    await asyncio.sleep(0)
    before = world.looked
    for number in range(1, 100):
        world.become(number)
    await asyncio.sleep(0)
    assert world.looked == before + 1
    waiting.cancel()


@in_a_loop
async def test_what_nobody_tells_of_is_seen_all_the_same() -> None:
    world = World()
    waiting = asyncio.create_task(world.pulse.until(world.is_three, 10.0, at_least_every=0.001))
    await asyncio.sleep(0)
    world.number = 3
    assert await waiting


@in_a_loop
async def test_a_deadline_is_kept_and_what_holds_at_once_is_not_waited_for() -> None:
    world = World()
    assert not await world.pulse.until(world.is_three, 0.001)
    world.number = 3
    assert await world.pulse.until(world.is_three, 0.0)


@in_a_loop
async def test_what_held_for_a_moment_only_is_waited_for_again() -> None:
    world = World()
    waiting = world.waits()
    await asyncio.sleep(0)
    world.become(3)
    asyncio.get_running_loop().call_soon(world.become, 4)
    await turns()
    assert not waiting.done()
    world.become(3)
    assert await waiting


@in_a_loop
async def test_a_fault_in_looking_is_the_waiters_own() -> None:
    world, other = World(), World()

    def fails() -> bool:
        if world.number:
            raise ValueError("no number")
        return False

    waiting = asyncio.create_task(world.pulse.until(fails, 10.0, at_least_every=10.0))
    beside = world.waits()
    await asyncio.sleep(0)
    world.become(3)
    with pytest.raises(ValueError, match="no number"):
        await waiting
    assert await beside
    other.pulse.fire()  # nobody waits


@in_a_loop
async def test_each_who_waits_for_a_beat_has_it() -> None:
    world = World()
    both = [asyncio.create_task(world.pulse.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    world.pulse.fire()
    await asyncio.gather(*both)
