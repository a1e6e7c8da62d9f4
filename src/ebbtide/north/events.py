"""The event stream, /api/v1/events (Server-Sent Events, WHATWG HTML section 9.2).

One hub listens to the cluster. Each watcher has a bounded box in which a newer event of the same thing replaces the older one, so
that a slow reader sees the newest state and costs a fixed amount. Ids grow, across restarts too. A reader that comes back with
Last-Event-ID gets what it missed, or, when that is no longer known, a `reset` event: read everything anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Set
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ebbtide.errors import BadInput, NotReady
from ebbtide.runtime.pulse import woken

#: Events that a reader who comes back may have missed.
KEPT = 1024
#: Things that one slow watcher may be behind with.
BOX = 1024
#: Watchers at a time.
WATCHERS = 256
#: Seconds between comments that keep an idle stream open.
KEEPALIVE = 15.0
#: What everybody is told of who does not ask for something else.
KINDS = frozenset({"state", "compute", "progress", "operation"})
PORT = "neutron-port"
ALL = KINDS | {PORT}
Listener = Callable[[str, dict[str, Any]], None]


class Event(NamedTuple):
    """Something has changed. `name` is the thing's name, "" for State."""

    id: int
    kind: str
    name: str
    facts: dict[str, Any]

    def text(self) -> str:
        """As it goes over the wire."""
        data = msgspec.json.encode(self.facts).decode()
        return f"id: {self.id}\nevent: {self.kind}\ndata: {data}\n\n"


class Watcher:
    """One reader's box."""

    def __init__(self, kinds: Set[str] = KINDS) -> None:
        self.kinds = kinds
        self._box: OrderedDict[tuple[str, str], Event] = OrderedDict()
        self._some = asyncio.Event()
        self.overflown = False

    def put(self, event: Event) -> None:
        """Of what it asks for, newest state wins; a box that is full is emptied, and the reader told to read everything anew."""
        if event.kind not in self.kinds:
            return
        self._box.pop((event.kind, event.name), None)
        self._box[event.kind, event.name] = event
        if len(self._box) > BOX:
            self._box.clear()
            self.overflown = True
        self._some.set()

    def wake(self) -> None:
        """Have `take` return at once."""
        self._some.set()

    async def take(self) -> list[Event]:
        """What has come, oldest first; empty after a while without any."""
        await woken(self._some, KEEPALIVE)
        found = list(self._box.values())
        self._box.clear()
        return found


class Hub:
    """All watchers of one cluster, and the events of late.

    `listeners` is where it joins in, `revision` State's, `first` what ids grow from: larger at each start; `leads`: whether this controller
    does.
    """

    def __init__(
        self,
        listeners: list[Listener],
        revision: Callable[[], int],
        first: int | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._revision = revision
        self._leads = leads
        self._next = time.time_ns() // 1000 if first is None else first
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._began = self._next
        self._watchers: set[Watcher] = set()
        self._closed = False
        listeners.append(self.heard)

    @property
    def newest(self) -> int:
        """The id of the last event; before the first, the number that it will follow."""
        return self._next - 1

    def heard(self, what: str, facts: dict[str, Any]) -> None:
        """The cluster's listener."""
        if what not in ALL:
            return
        event = Event(self._next, what, str(facts.get("name", "")), dict(facts))
        self._next += 1
        self._kept.append(event)
        for watcher in self._watchers:
            watcher.put(event)

    def close(self) -> None:
        """End every stream, properly: the controller stops."""
        self._closed = True
        for watcher in self._watchers:
            watcher.wake()

    def missed(self, last: int) -> list[Event] | None:
        """Events after `last`; None when some of them are no longer known, or `last` is of another life."""
        oldest = self._kept[0].id if self._kept else self._next
        if not max(self._began, oldest) - 1 <= last <= self.newest:
            return None
        return [e for e in self._kept if e.id > last]

    async def stream(self, last: int | None, kinds: Set[str] = KINDS) -> AsyncIterator[str]:
        """Everything of these kinds from now on, after what was missed."""
        watcher = Watcher(kinds)
        self._watchers.add(watcher)
        try:
            missed = [] if last is None else self.missed(last)
            # Without data it is no event, but the reader knows from where to go on.
            yield f"id: {self.newest}\nretry: 1000\n\n"
            if missed is None:
                yield self._say("reset")
            for event in missed or ():
                if event.kind in kinds:
                    yield event.text()
            while not self._closed and self._may_follow(kinds):
                found = await watcher.take()
                if watcher.overflown:
                    watcher.overflown = False
                    yield self._say("reset")
                for event in found:
                    yield event.text()
                if not found and not self._closed and self._may_follow(kinds):
                    yield ": nothing new\n\n"
        finally:
            self._watchers.discard(watcher)

    def _may_follow(self, kinds: Set[str]) -> bool:
        """Whether these kinds happen here: ports' status is known to who leads."""
        return PORT not in kinds or self._leads()

    def _say(self, kind: str) -> str:
        return Event(self.newest, kind, "", {"revision": self._revision()}).text()

    def routes(self) -> list[Route]:
        """The one stream."""

        async def events(request: Request) -> Response:
            if len(self._watchers) >= WATCHERS:
                raise NotReady(f"{WATCHERS} watchers are connected already: try again later")
            given = request.headers.get("last-event-id", "") or request.query_params.get("last-event-id", "")
            # What is no id of ours is of another life: the answer is `reset`.
            last = (int(given) if given.isdecimal() and len(given) < 20 else -1) if given else None
            kinds = _kinds(request.query_params.get("kinds", ""))
            if not self._may_follow(kinds):
                raise NotReady("this controller stands by, and hears of no port: ask the one that leads")
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(self.stream(last, kinds), 200, headers, "text/event-stream")

        return [Route("/api/v1/events", events)]


def _kinds(given: str) -> Set[str]:
    """The kinds that a reader asks for.

    Raises:
        BadInput: there is no such kind.
    """
    asked = frozenset(filter(None, given.split(",")))
    if not asked <= ALL:
        raise BadInput(f"kinds = {','.join(sorted(asked - ALL))[:80]}: there are {', '.join(sorted(ALL))}", "kinds")
    return asked or KINDS
