"""The gate that every request passes: who asks, may they, how was it answered. Writes are logged before their answer leaves.

Websockets pass it too. A page's script may open one to any address, so they are held to the origin as writes are.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ebbtide.errors import EbbtideError, NotReady
from ebbtide.north import auth
from ebbtide.north.answers import on_fault, refusal
from ebbtide.north.audit_log import AuditLog, Line
from ebbtide.north.metrics import Metrics
from ebbtide.runtime.service import Service

#: Asked by machines that have no credentials, and telling nothing but "alive".
OPEN = ("/healthz", "/readyz", "/.well-known/host-meta")
#: Answered before the store has been read.
UNREAD = ("/api/v1/status", "/api/v1/events")
READS = ("GET", "HEAD", "OPTIONS")


class Gate:
    """ASGI middleware. `credentials` None: everybody may do everything (`local`: as far as this machine goes). `holder`: whom the path of a
    websocket was given to, as a secret of theirs."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        credentials: auth.Credentials | None,
        audit: AuditLog,
        metrics: Metrics,
        holder: Callable[[str], auth.Principal | None],
        local: bool,
    ) -> None:
        self._app = app
        self._service = service
        self._credentials = credentials
        self._audit = audit
        self._metrics = metrics
        self._holder = holder
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        scope.setdefault("state", {})
        reads = scope["method"] in READS
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.answered(scope["method"], message["status"])
                if not reads:
                    self._audit.append(self._line(request, message["status"]))
            await send(message)

        try:
            request.state.who = await self._who(request, reads)
            self._check_read(request)
        except (EbbtideError, HTTPException) as error:
            await refusal(request, error)(scope, receive, sent)
            return
        try:
            await self._app(scope, receive, sent)
        except Exception as error:
            if started:
                raise
            await on_fault(request, error)(scope, receive, sent)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        try:
            scope.setdefault("state", {})
            auth.check_origin(socket.headers)
            holder = self._holder(socket.url.path) if self._credentials is not None else None
            socket.state.who = holder if holder is not None else await self._who(socket, reads=True)
            self._check_read(socket)
        except (EbbtideError, HTTPException) as error:
            await socket.send_denial_response(refusal(socket, error))
            return
        await self._app(scope, receive, send)

    def _check_read(self, request: HTTPConnection) -> None:
        """Whether there is anything to tell: a controller that has not read its store knows of nothing, which is not "there is nothing".

        Raises:
            NotReady: it has not.
        """
        told = request.url.path.startswith(("/api/", "/rests/", "/restconf/", "/controller/"))
        if told and request.url.path not in UNREAD and not self._service.state.store_id:
            reason = self._service.cluster.store.reason
            raise NotReady(f"the store has not been read yet ({reason}): nothing is known; try again")

    async def _who(self, request: HTTPConnection, reads: bool) -> auth.Principal:
        headers: Headers = request.headers
        if not reads:
            auth.check_origin(headers)
        if self._credentials is None:
            if self._local:
                auth.check_host(headers)
            return auth.ANYBODY
        header = headers.get("authorization", "")
        who = await self._credentials.check(header) if header else auth.NOBODY
        if request.url.path not in OPEN:
            request.state.who = who
            auth.demand(who, "read" if reads else "operate")
        return who

    def _line(self, request: Request, status: int) -> Line:
        state, client = request.state, request.client
        return Line(
            self._audit.clock(),
            getattr(state, "who", auth.NOBODY).name,
            f"{client.host}:{client.port}" if client else "",
            request.method,
            request.url.path,
            getattr(state, "digest", ""),
            getattr(state, "ids", []),
            status,
            self._service.state.revision,
        )
