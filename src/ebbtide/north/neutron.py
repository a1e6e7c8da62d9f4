"""Neutron's northbound as OpenDaylight has it, and networking-odl speaks it: /controller/nb/v2/neutron/{kind}[/{id}].

What of it is not served, and why, is at /api/v1/neutron; /api/v1/neutron/hosts and /ports say where ports may be bound, and which are
served (the event "neutron-port" tells of changes). Parse, ask the service, answer. What a body has to be is decided in
`decide/documents.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide import documents
from ebbtide.errors import BadInput
from ebbtide.model.facts import Document
from ebbtide.model.observed import Phase
from ebbtide.model.state import State
from ebbtide.north import body, media
from ebbtide.north.answers import json_response
from ebbtide.runtime.service import Service

ROOT = "/controller/nb/v2/neutron"
#: Ports looked at before others have their turn.
_AT_ONCE = 500


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    async def listing(request: Request) -> Response:
        name = _kind(request)
        found = sorted(service.state.documents.get(name, {}).items())
        return json_response({name.replace("-", "_"): [msgspec.Raw(d.body.encode()) for _, d in found]})

    async def one(request: Request) -> Response:
        name = _kind(request)
        return _shown(documents.one(service.state, name, request.path_params["id"]))

    async def make(request: Request) -> Response:
        name = _kind(request)
        given, several = documents.objects(name, await _said(request))
        request.state.ids = [str(each.get("id", ""))[:64] for each in given]
        made = await service.post_documents(name, given, _writer(request))
        if not several:
            return _shown(made[0], 201)
        return json_response({name.replace("-", "_"): [msgspec.Raw(d.body.encode()) for d in made]}, 201)

    async def change(request: Request) -> Response:
        name, document_id = _kind(request), request.path_params["id"]
        documents.one(service.state, name, document_id)
        given, several = documents.objects(name, await _said(request))
        if several:
            raise BadInput(f"a PUT of {name}/{document_id} takes one object, not a list", tag="malformed-message")
        request.state.ids = [document_id]
        return _shown(await service.put_document(name, document_id, given[0], _writer(request)))

    async def delete(request: Request) -> Response:
        name, document_id = _kind(request), request.path_params["id"]
        request.state.ids = [document_id[:64]]
        await service.delete_document(name, document_id, _writer(request))
        return Response(None, 204)

    async def summary(request: Request) -> Response:
        state = service.state
        waiting = (state.document(*key) for key in sorted(state.unserved))
        shown = [{"kind": d.kind, "id": d.id, "reason": d.unserved} for d in waiting if d is not None]
        counts = {name: len(state.documents.get(name, ())) for name in documents.KINDS}
        return json_response({"documents": counts, "unserved": shown, "revision": state.revision})

    async def hosts(request: Request) -> Response:
        service.need_lead()
        state, members = service.state, service.cluster.members
        shown = []
        for compute in sorted(state.members(), key=lambda c: c.host):
            member = members.get(compute.number)
            phase = member.phase if member is not None else Phase.CONNECTED
            shown.append(
                {
                    "host": compute.host,
                    "compute": compute.name,
                    "phase": str(phase) if member is not None and member.connected else "away",
                    "ready": phase is Phase.READY and member is not None and member.connected,
                    "tombstoned": compute.tombstoned,
                    "datapath": (member.view.datapath.kind if member is not None else "") or "system",
                    "bridge-mappings": dict(compute.provider_mappings),
                }
            )
        return json_response({"hosts": shown, "revision": state.revision})

    async def ports(request: Request) -> Response:
        service.need_lead()
        state = service.state
        known: Mapping[str, Document] = state.documents.get("ports", {})
        asked = request.query_params.get("ids")
        ids = sorted(known) if asked is None else [name for name in asked.split(",") if name in known]
        if asked is not None and asked.count(",") >= documents.MAX_BULK:
            raise BadInput(f"ids: at most {documents.MAX_BULK} in one call; leave it away for all", "ids", "too-big")
        shown: list[dict[str, Any]] = []
        for at in range(0, len(ids), _AT_ONCE):
            some = ids[at : at + _AT_ONCE]
            found = zip(some, service.arrivals.told(*some), strict=True)
            shown += [_port(state, name, status, there) for name, (status, there) in found]
            await asyncio.sleep(0)
        return json_response({"ports": shown, "revision": state.revision})

    async def unknown(request: Request) -> Response:
        path = request.path_params["path"].strip("/")
        if path.partition("/")[0] not in documents.KINDS:
            documents.kind(path)
        raise BadInput(
            f"{request.method} {request.url.path[:120]}: a kind takes GET and POST, one of it GET, PUT and DELETE"
        )

    found = [
        Route("/api/v1/neutron", summary, methods=["GET"]),
        Route("/api/v1/neutron/hosts", hosts, methods=["GET"]),
        Route("/api/v1/neutron/ports", ports, methods=["GET"]),
    ]
    for ending in ("", "/"):
        found += [
            Route(f"{ROOT}/{{kind}}{ending}", listing, methods=["GET"]),
            Route(f"{ROOT}/{{kind}}{ending}", make, methods=["POST"]),
            Route(f"{ROOT}/{{kind}}/{{id}}{ending}", one, methods=["GET"]),
            Route(f"{ROOT}/{{kind}}/{{id}}{ending}", change, methods=["PUT"]),
            Route(f"{ROOT}/{{kind}}/{{id}}{ending}", delete, methods=["DELETE"]),
        ]
    return [*found, Route(f"{ROOT}/{{path:path}}", unknown, methods=["GET", "POST", "PUT", "DELETE", "PATCH"])]


def _port(state: State, name: str, status: str, hosts: tuple[str, ...]) -> dict[str, Any]:
    """A port's status; where it is plugged and confirmed, and which of its visits there that is: each has another number, which stays."""
    here = {state.computes[b.compute].host: b.zone for b in state.bindings.get(name, ()) if b.compute in state.computes}
    return {"id": name, "status": status, "hosts": list(hosts), "visits": [here.get(host, 0) for host in hosts]}


def _kind(request: Request) -> str:
    """The kind that a path names.

    Raises:
        NotFound: there is none of that name.
    """
    name: str = request.path_params["kind"]
    whole = request.url.path.removeprefix(ROOT).strip("/")
    documents.kind(name if name in documents.KINDS else whole)
    return name


def _writer(request: Request) -> int | None:
    """The number of who speaks (header Ebbtide-Writer); None: it takes no turns.

    Raises:
        BadInput: it is none.
    """
    found = request.headers.get("ebbtide-writer", "")
    if found and not (found.isdecimal() and len(found) < 16):
        raise BadInput(f"Ebbtide-Writer: {found[:40]!r} is no number of up to 15 digits", "ebbtide-writer")
    return int(found) if found else None


async def _said(request: Request) -> Any:
    """The body, as JSON."""
    raw = await body.read(request)
    media.check_body(request.headers.get("content-type", ""), (media.JSON,))
    return body.decode(raw)


def _shown(document: Document, status: int = 200) -> Response:
    """A document as it was said, in its envelope."""
    name = documents.KINDS[document.kind].singular
    return json_response({name: msgspec.Raw(document.body.encode())}, status)
