"""The event stream: newest state wins, bounded boxes, coming back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from ebbtide.north import events
from tests.north.site import Site

EVENTS = "/api/v1/events"


class Stream:
    """A reader of Server-Sent Events."""

    def __init__(self, site: Site, last: str = "") -> None:
        self.connection = HTTPConnection("127.0.0.1", site.port, timeout=10)
        self.connection.request("GET", EVENTS, headers={"Last-Event-ID": last} if last else {})
        self.response: HTTPResponse = self.connection.getresponse()
        assert self.response.getheader("content-type") == "text/event-stream; charset=utf-8"

    def block(self) -> dict[str, str]:
        """The next block of fields."""
        found: dict[str, str] = {}
        while line := self.response.readline().decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            found[name] = value
        return found

    def until(self, kind: str, **facts: Any) -> dict[str, str]:
        """The next event of a kind that has these facts."""
        while True:
            found = self.block()
            if found.get("event") == kind and facts.items() <= json.loads(found["data"]).items():
                return found

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@pytest.fixture
def open_stream(site: Site) -> Iterator[Any]:
    made: list[Stream] = []

    def start(last: str = "") -> Stream:
        made.append(Stream(site, last))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_changes_arrive_with_growing_ids(site: Site, open_stream: Any) -> None:
    stream = open_stream()
    first = stream.block()
    assert "event" not in first, "without data it is no event"
    assert first["retry"] == "1000"
    seen = int(first["id"])
    for _ in range(3):
        site.compute()
        found = stream.until("state", revision=site.state.revision)
        assert int(found["id"]) > seen
        seen = int(found["id"])


def test_who_comes_back_gets_what_was_missed(site: Site, open_stream: Any) -> None:
    stream = open_stream()
    last = stream.block()["id"]
    stream.close()
    revisions = []
    for _ in range(2):
        site.compute()
        revisions.append(site.state.revision)
    stream = open_stream(last)
    stream.block()
    for revision in revisions:
        assert int(stream.until("state", revision=revision)["id"]) > int(last)


@pytest.mark.parametrize("last", ["1", "99999999999999999", "x", "9" * 40, "-1"])
def test_who_comes_back_from_another_life_is_told(site: Site, open_stream: Any, last: str) -> None:
    stream = open_stream(last)
    stream.block()
    found = stream.block()
    assert found["event"] == "reset"
    assert json.loads(found["data"]) == {"revision": site.state.revision}


# --- the hub alone ---


def hub(first: int = 100) -> events.Hub:
    return events.Hub([], lambda: 7, first)


async def taken(source: Any, count: int) -> list[str]:
    found = []
    async with asyncio.timeout(5):
        async for text in source:
            found.append(text)
            if len(found) == count:
                break
    await source.aclose()
    return found


def test_newest_state_wins() -> None:
    watcher = events.Watcher()
    for number in range(5):
        watcher.put(events.Event(number, "state", "", {"revision": number}))
        watcher.put(events.Event(number + 10, "compute", f"c{number % 2}", {}))
    found = asyncio.run(watcher.take())
    assert [(e.id, e.kind, e.name) for e in found] == [(13, "compute", "c1"), (4, "state", ""), (14, "compute", "c0")]


def test_a_box_that_is_full_says_reset() -> None:
    async def story() -> list[str]:
        made = hub()
        source = made.stream(None)
        found = [await anext(source)]
        waiting = asyncio.ensure_future(taken(source, 1))
        await asyncio.sleep(0)
        for number in range(events.BOX + 1):
            made.heard("compute", {"name": f"c{number}"})
        return found + await waiting

    first, second = asyncio.run(story())
    assert first == "id: 99\nretry: 1000\n\n"
    assert second.endswith('event: reset\ndata: {"revision":7}\n\n')


def test_only_what_readers_can_use_is_passed_on() -> None:
    made = hub()
    made.heard("rows", {})
    assert made.newest == 99
    made.heard("progress", {"name": "a"})
    assert made.newest == 100


def test_ports_of_neutron_are_told_to_who_asks_for_them() -> None:
    async def story() -> tuple[list[str], list[str]]:
        made = hub()
        sources = [made.stream(None), made.stream(None, {"neutron-port"})]
        for source in sources:
            await anext(source)
        waiting = [asyncio.ensure_future(taken(source, 1)) for source in sources]
        await asyncio.sleep(0)
        made.heard("neutron-port", {"name": "p1", "status": "ACTIVE"})
        made.heard("state", {"revision": 7})
        return await waiting[0], await waiting[1]

    usual, asked = asyncio.run(story())
    assert "event: state" in usual[0]
    assert 'event: neutron-port\ndata: {"name":"p1","status":"ACTIVE"}' in asked[0]


def test_a_kind_of_event_that_is_none_is_refused(site: Site) -> None:
    answer = site.get(f"{EVENTS}?kinds=state,weather")
    assert answer.status == 400
    assert "weather" in str(answer.json)
    assert "neutron-port" in str(answer.json)


def test_what_is_kept_is_bounded() -> None:
    made = hub()
    for number in range(events.KEPT + 10):
        made.heard("state", {"revision": number})
    assert made.missed(99) is None, "too long ago"
    assert made.missed(made.newest) == []
    assert made.missed(made.newest + 1) is None, "of another life"
    missed = made.missed(made.newest - 3)
    assert missed is not None
    assert [e.id for e in missed] == [made.newest - 2, made.newest - 1, made.newest]
    assert hub().missed(99) == []
    assert hub().missed(98) is None


def test_streams_end_when_the_controller_stops() -> None:
    async def story() -> list[str]:
        made = hub()
        waiting = asyncio.ensure_future(taken(made.stream(None), 100))
        await asyncio.sleep(0)
        made.heard("state", {"revision": 8})
        made.close()
        return await waiting

    first, last = asyncio.run(story())
    assert first.startswith("id: 99")
    assert "event: state" in last
