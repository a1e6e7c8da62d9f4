"""Backup and restore over HTTP: the store as JSON lines, out and in."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.north import auth, body, media
from ebbtide.north.answers import json_response
from ebbtide.runtime.service import Service

BYTES = "application/octet-stream"
#: Bytes of a backup: about 200 a fact, so a million facts.
LIMIT = 256 << 20


def routes(service: Service) -> list[Route]:
    """GET /backup (it holds every secret of the cloud there is: role force), POST /restore."""

    async def backup(request: Request) -> Response:
        auth.need(request, "force")
        return Response(service.backup(), media_type=BYTES)

    async def restore(request: Request) -> Response:
        auth.need(request, "force")
        media.check_body(request.headers.get("content-type", ""), (BYTES,))
        restored = await service.restore(await body.read(request, LIMIT))
        return json_response({"facts": restored, "revision": service.state.revision})

    return [Route("/api/v1/backup", backup), Route("/api/v1/restore", restore, methods=["POST"])]
