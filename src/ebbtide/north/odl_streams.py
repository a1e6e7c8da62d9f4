"""Notifications as OpenDaylight has them, and networking-odl listens to: of hosts where ports may be bound, and of ports that are served.

    POST /restconf/operations/sal-remote:create-data-change-event-subscription   what is to be told: the name of a stream
    GET  /restconf/streams/stream/NAME                                           where it is, in Location
    websocket, there                                                             one notification a message, one event a notification

Such a client shows no credentials when it opens the websocket, so the name is a secret that says who has subscribed: drawn at random, of
use once, and within a minute.

Whoever listens is behind by so many names at most as there are ports: what is told of a port is what is so when it is told, and all is told
anew to whoever comes. networking-odl believes the change to ACTIVE only, loses it while the port is not bound yet, and calls a method that
is missing when a host is created; so ACTIVE is said again whenever Neutron has said the port anew, and a host that appears ends the stream,
whose listener comes back and reads all hosts. It is slow, too: what it most likely knows is told at its pace, and waits for what is new.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ebbtide.decide.arrivals import ACTIVE
from ebbtide.errors import BadInput, EbbtideError, NotReady
from ebbtide.model.facts import Compute, Document, Edit
from ebbtide.north import body, media, neutron_views
from ebbtide.north.answers import json_response, refusal
from ebbtide.north.auth import Principal
from ebbtide.runtime.pulse import woken
from ebbtide.runtime.service import Service

log = structlog.get_logger("streams")
SUBSCRIBE = "/restconf/operations/sal-remote:create-data-change-event-subscription"
STREAM = "/restconf/streams/stream/"
PORTS, HOSTS = "/neutron:neutron/neutron:ports", "/neutron:neutron/neutron:hostconfigs"
#: What a subscription may ask for, member by member; the first is what it is without that member.
ASKED: Mapping[str, tuple[str, ...]] = {
    "sal-remote-augment:datastore": ("OPERATIONAL",),
    "sal-remote-augment:scope": ("SUBTREE",),
    "sal-remote-augment:notification-output-type": ("JSON",),
}
#: Listeners at a time, and subscriptions that nobody has opened yet.
LISTENERS = 64
#: Seconds for which a subscription waits to be opened.
OPENED_WITHIN = 60.0
#: Seconds that a listener may take to take one message.
PATIENCE = 30.0
#: Seconds from one port to the next among those that were plugged before: Neutron takes 50 ms for each, even if it knew.
PACE = 0.1
#: Seconds between looks at whether this controller leads still.
LOOK = 5.0
#: Seconds that are given to other hosts to appear, before listeners are made to read all of them: to a controller that starts, all do.
GATHER = 1.0
#: How a stream ends that is to be opened anew: "service restart" in the registry of RFC 6455, section 11.7.
COME_BACK = 1012


class Subscription(NamedTuple):
    """What somebody wants to be told: one of PORTS and HOSTS. `until`: it is void from then on."""

    path: str
    who: Principal
    until: float


class Listener:
    """One websocket: names of ports that it is to be told of (True: whatever is so; False: if they are ACTIVE), at once, and at leisure."""

    def __init__(self, path: str, names: Iterable[str] = ()) -> None:
        self.path = path
        self.now: dict[str, bool] = {}
        self.later: dict[str, bool] = dict.fromkeys(names, False)
        self.some = asyncio.Event()

    def add(self, name: str, changed: bool, at_once: bool) -> None:
        """There is something to tell of a port."""
        changed |= self.now.get(name, False) or self.later.get(name, False)
        if at_once or name in self.now:
            self.later.pop(name, None)
            self.now[name] = changed
        else:
            self.later[name] = changed
        self.some.set()

    def take(self, queue: dict[str, bool]) -> tuple[str, bool]:
        """The next one of `now` or `later`."""
        name = next(iter(queue))
        return name, queue.pop(name)


class Streams:
    """All subscriptions and listeners of one controller. `host`: what is seen of a compute, by number."""

    def __init__(
        self,
        service: Service,
        host: Callable[[int], neutron_views.Host],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service, self._host, self._clock = service, host, clock
        self._waiting: dict[str, Subscription] = {}
        self._listeners: set[Listener] = set()
        service.cluster.listeners.append(self._heard_of)
        service.cluster.edited.append(self._edited)

    # --- subscriptions ---

    def _subscribe(self, path: str, who: Principal) -> str:
        """The name of a new stream. The oldest one that nobody has opened makes room."""
        now = self._clock()
        self._waiting = {name: each for name, each in self._waiting.items() if each.until > now}
        if len(self._waiting) >= LISTENERS:
            del self._waiting[next(iter(self._waiting))]
        name = secrets.token_urlsafe(24)
        self._waiting[name] = Subscription(path, who, now + OPENED_WITHIN)
        return name

    def _subscription(self, name: str) -> Subscription:
        """The subscription of a name.

        Raises:
            HTTPException: 410, there is none. After a 404 networking-odl would never subscribe again.
        """
        found = self._found(name)
        if found is None:
            raise HTTPException(
                410, f"no such stream waits to be opened: one does so once, within a minute of POST {SUBSCRIBE}"
            )
        return found

    def _found(self, name: str) -> Subscription | None:
        found = self._waiting.get(name)
        return found if found is not None and found.until > self._clock() else None

    def holder(self, path: str) -> Principal | None:
        """Who has subscribed to the stream at a path, while it waits to be opened."""
        found = self._found(path.removeprefix(STREAM)) if path.startswith(STREAM) else None
        return found.who if found is not None else None

    # --- what happens ---

    def _heard_of(self, what: str, facts: dict[str, Any]) -> None:
        if what == "neutron-port":
            name = str(facts.get("name", ""))
            self._tell(name, changed=True, at_once=self._since(name) > self._service.cluster.began_revision)
        elif what == "compute":
            self._look_at_hosts()

    def _edited(self, edits: Iterable[Edit]) -> None:
        for old, new in edits:
            if isinstance(new, Document) and new.kind == "ports":
                self._tell(new.id, changed=False, at_once=True)
            elif isinstance(old if new is None else new, Compute):
                self._look_at_hosts()

    def _since(self, name: str) -> int:
        """The revision at which a port was plugged last; 0: it is not."""
        return max((each.since for each in self._service.state.bindings.get(name, ())), default=0)

    def _tell(self, name: str, changed: bool, at_once: bool) -> None:
        for each in self._listeners:
            if each.path == PORTS:
                each.add(name, changed, at_once)

    def _look_at_hosts(self) -> None:
        for each in self._listeners:
            if each.path == HOSTS:
                each.some.set()

    # --- telling ---

    def _leads(self) -> bool:
        return self._service.cluster.leads()

    async def _tell_ports(self, socket: WebSocket, listener: Listener) -> None:
        due = self._clock()
        while self._leads():
            while listener.now:
                await self._tell_port(socket, *listener.take(listener.now))
                await asyncio.sleep(0)
            if listener.later and self._clock() >= due:
                due = self._clock() + (PACE if await self._tell_port(socket, *listener.take(listener.later)) else 0.0)
                await asyncio.sleep(0)
            else:
                await woken(listener.some, max(due - self._clock(), 0.001) if listener.later else LOOK)

    async def _tell_port(self, socket: WebSocket, name: str, changed: bool) -> bool:
        """Whether there was anything to tell."""
        status = self._status(name)
        if status != ACTIVE and not (changed and status):
            return False
        path = f"{PORTS}/neutron:port[neutron:uuid='{name}']/neutron:status"
        await _send(socket, path, "updated", {"status": {"content": status}})
        return True

    def _status(self, name: str) -> str:
        """What is so of a port, as Neutron has bound it; "": there is nothing to tell."""
        ((status, hosts),) = self._service.arrivals.told(name)
        return neutron_views.at_its_host(self._service.state, name, status, hosts)

    def _ports(self) -> list[str]:
        """All ports, those that were plugged last first: the more likely it is that Neutron does not know."""
        return sorted(self._service.state.documents.get("ports", ()), key=lambda name: (-self._since(name), name))

    async def _tell_hosts(self, socket: WebSocket, listener: Listener, known: dict[str, str]) -> None:
        _, left = neutron_views.fleet(self._service.state)
        for name in sorted(left):
            await _send_deleted(socket, name)
        while self._leads():
            await woken(listener.some, LOOK)
            staying, _ = neutron_views.fleet(self._service.state)
            for name in sorted(known.keys() - staying):
                del known[name]
                await _send_deleted(socket, name)
            if not self._hosts().items() <= known.items():
                await asyncio.sleep(GATHER)
                return

    def _hosts(self) -> dict[str, str]:
        return neutron_views.served(self._service.state, self._host)

    # --- routes ---

    def routes(self) -> list[BaseRoute]:
        """Before those of other operations."""

        async def subscribe(request: Request) -> Response:
            raw = await body.read(request)
            media.check_body(request.headers.get("content-type", ""), media.restconf(True))
            path = asked(body.decode(raw))
            self._check()
            return json_response({"output": {"stream-name": self._subscribe(path, request.state.who)}})

        async def where(request: Request) -> Response:
            name = request.path_params["name"]
            self._subscription(name)
            return Response(None, 200, {"Location": _location(request, name)})

        async def stream(socket: WebSocket) -> None:
            try:
                found = self._subscription(socket.path_params["name"])
                self._check()
            except (EbbtideError, HTTPException) as error:
                await socket.send_denial_response(refusal(socket, error))
                return
            del self._waiting[socket.path_params["name"]]
            await self._serve(socket, found.path)

        return [
            Route(SUBSCRIBE, subscribe, methods=["POST"]),
            Route(f"{STREAM}{{name}}", where, methods=["GET"]),
            WebSocketRoute(f"{STREAM}{{name}}", stream),
        ]

    def _check(self) -> None:
        """Whether there is anybody to tell, and room for who listens.

        Raises:
            NotReady: no.
        """
        if not self._leads():
            raise NotReady("another controller leads, and tells: ask that one, or this one again")
        if len(self._listeners) >= LISTENERS:
            raise NotReady(f"{LISTENERS} listeners are connected already: try again later")

    async def _serve(self, socket: WebSocket, path: str) -> None:
        # Before it can ask what else is so: what appears from here on, it has not read.
        known = self._hosts()
        await socket.accept()
        listener = Listener(path, self._ports() if path == PORTS else ())
        self._listeners.add(listener)
        tell = self._tell_ports(socket, listener) if path == PORTS else self._tell_hosts(socket, listener, known)
        telling = asyncio.create_task(_guarded(tell))
        try:
            await _first(telling, asyncio.create_task(_until_it_goes(socket)))
        finally:
            self._listeners.discard(listener)
        if not telling.cancelled() and telling.result():
            try:
                await socket.close(COME_BACK, "come back, and read everything anew")
            except (WebSocketDisconnect, OSError, RuntimeError):
                pass  # it has gone by itself meanwhile


def asked(given: Any) -> str:
    """The path that a subscription is about: one of PORTS and HOSTS.

    Raises:
        BadInput: it is about something else, or of another shape.
    """
    inner = given.get("input") if isinstance(given, dict) and len(given) == 1 else None
    if not isinstance(inner, dict):
        raise BadInput('the body is an object with the one member "input"', "/input", "malformed-message")
    for name, known in ASKED.items():
        if inner.get(name, known[0]) not in known:
            raise BadInput(f"{name} = {str(inner[name])[:40]}: there is {', '.join(known)}", f"/input/{name}")
    path = inner.get("path")
    if path not in (PORTS, HOSTS):
        raise BadInput(f"path = {str(path)[:80]}: there are {PORTS} and {HOSTS}", "/input/path")
    return str(path)


def notification(path: str, operation: str, data: Mapping[str, Any] | None = None) -> str:
    """One event, as it goes over the wire. One a message: a listener that fails at it gets the next all the same."""
    event: dict[str, Any] = {"path": path, "operation": operation}
    if data is not None:
        event["data"] = data
    return msgspec.json.encode({"notification": {"data-changed-notification": {"data-change-event": [event]}}}).decode()


async def _send(socket: WebSocket, path: str, operation: str, data: Mapping[str, Any] | None = None) -> None:
    """Send one event.

    Raises:
        TimeoutError: it was not taken in time.
        WebSocketDisconnect: nobody listens any more.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            await socket.send_text(notification(path, operation, data))
    except RuntimeError as error:
        # The server has ended the stream, and `receive` has not said so yet.
        raise WebSocketDisconnect from error


async def _send_deleted(socket: WebSocket, host: str) -> None:
    keys = f"[neutron:host-id='{host}'][neutron:host-type='{neutron_views.HOST_TYPE}']"
    await _send(socket, f"{HOSTS}/neutron:hostconfig{keys}", "deleted")


async def _guarded(telling: Awaitable[None]) -> bool:
    """Whether it ended of itself, and the listener is there still."""
    try:
        await telling
    except (WebSocketDisconnect, OSError, TimeoutError):
        return False
    except Exception:
        log.exception("stream_fault")
    return True


async def _until_it_goes(socket: WebSocket) -> None:
    """Take and drop what it says; nothing is asked here."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        continue


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Until one of them is over; the others are ended."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _location(request: HTTPConnection, name: str) -> str:
    """Where a stream is: at the address that was asked."""
    scheme = "wss" if request.url.scheme == "https" else "ws"
    return f"{scheme}://{request.headers.get('host') or request.url.netloc}{STREAM}{name}"
