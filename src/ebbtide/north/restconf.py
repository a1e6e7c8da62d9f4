"""RESTCONF's data resources (RFC 8040): /rests/data, and the older /restconf/config and /restconf/operational. Read only.

The root resource, host-meta and the YANG library are here too. The trees come from `views.py`; this file knows paths, query
parameters, media types and methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.errors import BadInput, NotFound
from ebbtide.north import media, neutron_views, tree, views
from ebbtide.north.answers import json_response
from ebbtide.north.schema import Schema
from ebbtide.runtime import vswitch
from ebbtide.runtime.service import Service

LIBRARY = "ietf-yang-library:modules-state"
#: The revision of ietf-yang-library in use (RFC 7895).
LIBRARY_VERSION = "2016-06-21"
_HOST_META = (
    "<?xml version='1.0' encoding='UTF-8'?>\n"
    "<XRD xmlns='http://docs.oasis-open.org/ns/xri/xrd-1.0'>\n"
    "  <Link rel='restconf' href='/rests'/>\n"
    "</XRD>\n"
)
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def picture(service: Service, config: bool, nonconfig: bool) -> views.Picture:
    """What the views are rendered from, now."""
    cluster = service.cluster

    def seen(number: int) -> views.Seen:
        member = cluster.members.get(number)
        if member is None:
            return views.Seen()
        own = vswitch.bridge(member.tables) if member.tables is not None and member.link is not None else None
        return views.Seen(member.view, member.connected, own.row["external_ids"] if own else {})

    return views.Picture(
        service.state, seen, cluster.probes.is_open, config, nonconfig, hosts(service), service.need_lead
    )


def hosts(service: Service) -> Callable[[int], neutron_views.Host]:
    """What is seen of a compute now, by number, as Neutron's hosts need it."""

    def host(number: int) -> neutron_views.Host:
        member = service.cluster.members.get(number)
        if member is None:
            return neutron_views.unseen(number)
        return neutron_views.Host(member.view, member.connected, member.phase, member.applied(), member.serves)

    return host


def routes(service: Service, schema: Schema) -> list[Route]:
    """Root, host-meta, data resources of both styles."""

    async def host_meta(request: Request) -> Response:
        return Response(_HOST_META, media_type="application/xrd+xml")

    async def root(request: Request) -> Response:
        kind = media.choose(request.headers.get("accept", ""), media.restconf(False))
        shown = {"data": {}, "operations": {}, "yang-library-version": LIBRARY_VERSION}
        return json_response({"ietf-restconf:restconf": shown}, kind=kind)

    async def version(request: Request) -> Response:
        kind = media.choose(request.headers.get("accept", ""), media.restconf(False))
        return json_response({"ietf-restconf:yang-library-version": LIBRARY_VERSION}, kind=kind)

    async def data(request: Request) -> Response:
        content = _content(request)
        return await _read(request, service, schema, content != "nonconfig", content != "config", old=False)

    async def old_config(request: Request) -> Response:
        return await _read(request, service, schema, True, False, old=True)

    async def old_operational(request: Request) -> Response:
        return await _read(request, service, schema, False, True, old=True)

    found = [
        Route("/.well-known/host-meta", host_meta),
        Route("/rests", root),
        Route("/rests/yang-library-version", version),
    ]
    for path, handler in (
        ("/rests/data", data),
        ("/restconf/config", old_config),
        ("/restconf/operational", old_operational),
    ):
        found.append(Route(path, handler, methods=_METHODS))
        found.append(Route(path + "/{path:path}", handler, methods=_METHODS))
    return found


def _content(request: Request) -> str:
    """The content parameter (RFC 8040, section 4.8.1).

    Raises:
        BadInput: it has another value, or there is another parameter.
    """
    strange = sorted(set(request.query_params) - {"content"})
    if strange:
        raise BadInput(f"the parameter {strange[0][:40]!r} is not known here: there is content")
    values = request.query_params.getlist("content")
    if len(values) > 1 or (values and values[0] not in ("config", "nonconfig", "all")):
        raise BadInput(f"content={','.join(values)[:80]}: it is config, nonconfig or all")
    return values[0] if values else "all"


async def _read(
    request: Request, service: Service, schema: Schema, config: bool, nonconfig: bool, *, old: bool
) -> Response:
    allowed = {"Allow": "GET, HEAD, OPTIONS"}
    if request.method == "OPTIONS":
        return Response(None, 200, allowed)
    if request.method not in ("GET", "HEAD"):
        raise HTTPException(
            405, "these data are rendered from what the computes are: they are read, not written", allowed
        )
    kind = media.choose(request.headers.get("accept", ""), media.restconf(old))
    path = tree.steps(_raw_path(request))[2:]
    if old and not path:
        raise NotFound("name a tree: there is no answer with all of them in the older style")
    known = views.trees(picture(service, config, nonconfig))
    if nonconfig:
        known[LIBRARY] = schema.library[LIBRARY]

    def render() -> Any:
        if not path:
            return {"ietf-restconf:data": tree.plain(known, old)}
        return tree.envelope(tree.locate(known, path, old), old)

    # Only the inventory takes long, and it reads nothing but values: it is rendered beside the loop.
    large = not path or path[0].startswith("opendaylight-inventory")
    shown = await asyncio.to_thread(render) if large else render()
    return json_response(shown, kind=kind)


def _raw_path(request: Request) -> str:
    """The path as it came, percent-encoded: a key may hold a slash (RFC 8040, section 3.5.3)."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    return raw.decode("ascii", errors="replace")
