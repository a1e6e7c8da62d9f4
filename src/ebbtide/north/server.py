"""The HTTP application: routes and nothing else."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ebbtide.config import Config
from ebbtide.runtime.service import Service


def build(service: Service, config: Config) -> Starlette:
    """The application over a service."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(routes=[Route("/healthz", healthz)])
