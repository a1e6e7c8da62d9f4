"""Who asks is asked of the controller, remembered for a while, and known on while the controller is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from ebbtide.agent.askers import FRESH, STALE, UNKNOWN, Askers
from ebbtide.agent.headers import Asker
from ebbtide.errors import NotReady

SHOWN = {"id": "p1", "addresses": ["fd00::1", "10.1.0.1"], "device": "i-1", "project": "p-1", "lport": 1}
ASKER = Asker("p1", "10.1.0.1", "i-1", "p-1")


class Controller:
    """Knows ports by lport; counts what it is asked; away when `away`."""

    def __init__(self) -> None:
        self.ports: dict[int, Mapping[str, Any]] = {1: SHOWN}
        self.asked, self.away, self.now = 0, False, 1000.0
        self.askers = Askers(self.ask, lambda: self.now)

    async def ask(self, lport: int) -> Mapping[str, Any] | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise NotReady("no controller answers")
        return self.ports.get(lport)

    def who(self, lport: int = 1) -> Asker | None:
        return asyncio.run(self.askers.who(lport))


def test_a_port_is_asked_for_once_in_a_while() -> None:
    controller = Controller()
    assert [controller.who() for _ in range(3)] == [ASKER] * 3
    assert controller.asked == 1
    controller.ports[1] = {**SHOWN, "device": "i-2"}
    controller.now += FRESH
    found = controller.who()
    assert found is not None
    assert found.device == "i-2"


def test_many_questions_at_once_are_one_for_the_controller() -> None:
    controller = Controller()

    async def all_at_once() -> list[Asker | None]:
        return await asyncio.gather(*(controller.askers.who(1) for _ in range(20)))

    assert asyncio.run(all_at_once()) == [ASKER] * 20
    assert controller.asked == 1


@pytest.mark.parametrize("ports", [{}, {1: {**SHOWN, "device": ""}}])
def test_who_is_nobodys_is_looked_for_again_soon(ports: dict[int, Mapping[str, Any]]) -> None:
    controller = Controller()
    controller.ports = ports
    assert [controller.who() for _ in range(5)] == [None] * 5
    assert controller.asked == 1
    controller.ports = {1: SHOWN}
    controller.now += UNKNOWN
    assert controller.who() == ASKER


def test_while_the_controller_is_away_who_is_known_stays_known_for_some_minutes() -> None:
    controller = Controller()
    assert controller.who() == ASKER
    controller.away = True
    controller.now += STALE - 1
    assert controller.who() == ASKER
    with pytest.raises(NotReady):
        controller.who(2)
    controller.now += 1
    with pytest.raises(NotReady):
        controller.who()
    controller.away = False
    assert controller.who() == ASKER
