"""The HTTP application, as a value: routes from each room, the gate in front, one way to show an error."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ebbtide.config import Config, is_loopback, parse_http
from ebbtide.errors import EbbtideError
from ebbtide.north import (
    api,
    balance,
    drains,
    keeping,
    learnt,
    nat,
    neutron,
    odl_streams,
    operations,
    proofs,
    resources,
    restconf,
    routers,
    schema,
    security,
    vpns,
)
from ebbtide.north.answers import on_error
from ebbtide.north.audit_log import AuditLog
from ebbtide.north.auth import Credentials
from ebbtide.north.events import Hub
from ebbtide.north.gate import Gate
from ebbtide.north.metrics import Metrics
from ebbtide.runtime.service import Service


def build(service: Service, config: Config) -> Starlette:
    """The application over a service. `state.hub.close()` ends the event streams, before the server is stopped.

    Raises:
        BadInput: the credentials file cannot be used.
    """
    model = schema.load()
    metrics = Metrics(service)
    hub = Hub(service.cluster.listeners, lambda: service.state.revision, leads=service.cluster.leads)
    streams = odl_streams.Streams(service, restconf.hosts(service))
    routes = [
        *_health(service),
        *metrics.routes(),
        *streams.routes(),
        *operations.routes(service, model),
        *restconf.routes(service, model),
        *hub.routes(),
        *api.routes(service, config),
        *resources.routes(service),
        *routers.routes(service),
        *security.routes(service),
        *vpns.routes(service),
        *learnt.routes(service),
        *balance.routes(service),
        *drains.routes(service),
        *nat.routes(service),
        *neutron.routes(service),
        *proofs.routes(service),
        *keeping.routes(service),
    ]
    gate = Middleware(
        Gate,
        service=service,
        credentials=Credentials(config.credentials) if config.credentials else None,
        audit=AuditLog(Path(config.state_dir) / "audit.log"),
        metrics=metrics,
        holder=streams.holder,
        local=not config.insecure and is_loopback(parse_http(config.http)[0]),
    )
    handlers = {EbbtideError: on_error, HTTPException: on_error}
    application = Starlette(routes=routes, middleware=[gate], exception_handlers=handlers)
    application.router.redirect_slashes = False
    application.state.hub = hub
    return application


def _health(service: Service) -> list[Route]:
    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        store = service.cluster.store
        if not store.reachable:
            return PlainTextResponse(f"the store cannot be reached: {store.reason}\n", 503)
        if not store.leading.is_set():
            return PlainTextResponse("another controller leads\n", 503)
        return PlainTextResponse("ready\n")

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
