"""The RPCs: /rests/operations/MODULE:RPC and /restconf/operations/MODULE:RPC (RFC 8040, sections 3.6 and 4.4.2).

Three modules of scale-in say the same three things: `scalein-api` (the specification's), `scalein-rpc` (NetVirt's first name for it) and
`cloudscaler-rpc` (what Genius shipped, by names, with `tep-delete` and a status that here tells the truth). One table holds them; those
of L3VPNs are in `vpn_rpcs.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide.lifecycle import resolve
from ebbtide.decide.scalein import Answer, Decision, IdVerdict, carried
from ebbtide.errors import BadInput, StillWorking, some
from ebbtide.model.facts import Membership
from ebbtide.model.state import State
from ebbtide.north import body, media, vpn_rpcs
from ebbtide.north.answers import json_response
from ebbtide.north.schema import Schema
from ebbtide.runtime.service import Service

Work = Callable[[Service, Sequence[str]], Awaitable[dict[str, Any] | None]]


class Rpc(NamedTuple):
    """An RPC: the leaf-list of computes in its input, and what it does. It gives the output, or None for none."""

    leaf: str
    work: Work

    async def carry_out(self, request: Request, service: Service, module: str, given: dict[str, Any]) -> Any:
        """Do it, with an input that fits its module."""
        request.state.leaf = path = f"/{module}:input/{self.leaf}"
        return await self.work(service, body.check_ids(request, given.get(self.leaf, []), path))


async def _start(service: Service, ids: Sequence[str]) -> None:
    await service.start(ids)


async def _end(service: Service, ids: Sequence[str]) -> None:
    await service.end(ids)


async def _recover(service: Service, ids: Sequence[str]) -> None:
    await service.recover(ids)


async def _end_polled(service: Service, ids: Sequence[str]) -> dict[str, Any]:
    try:
        await service.end(ids, wait=0)
    except StillWorking:
        return {"status": "INPROGRESS"}
    return {"status": "DONE"}


async def _tep_delete(service: Service, ids: Sequence[str]) -> None:
    tep_delete(service.state, ids, service.serves).checked("scalein-computes-tep-delete")


def tep_delete(state: State, ids: Sequence[str], serving: Callable[[int], Sequence[str]] = lambda _: ()) -> Decision:
    """Verdicts of a tep-delete: there is nothing to store, since tunnels go by themselves as ports and services leave.

    `serving`: what a compute still serves that has somewhere to go, in words."""
    if not ids:
        raise BadInput("no compute names were given: name at least one", tag="missing-element")
    verdicts = []
    for text in dict.fromkeys(ids):
        compute, reason = resolve(state, text)
        if compute is None:
            verdicts.append(IdVerdict(text, Answer.REFUSED, message=reason, unknown=True))
            continue
        left = tuple(f"port {p}" for p in carried(state, compute.number))
        gone = compute.membership is Membership.REMOVED
        why = ""
        if not gone and not compute.tombstoned:
            why = f"{compute.name} is not tombstoned: call scalein-computes-start first"
        elif not gone and left:
            why = f"{compute.name} still carries {len(left)} port(s): its tunnels go when they have left"
        elif not gone and (left := tuple(serving(compute.number))):
            why = f"{compute.name} still serves: {some(left, 1)}; its tunnels go when it has moved (`ebbtide router list`)"
        answer = Answer.REFUSED if why else Answer.ALREADY
        verdicts.append(IdVerdict(text, answer, compute.name, compute.number, why or "no tunnel is needed", left))
    return Decision(tuple(verdicts))


_BY_IDS = {
    "scalein-computes-start": Rpc("scalein-node-ids", _start),
    "scalein-computes-end": Rpc("scalein-node-ids", _end),
    "scalein-computes-recover": Rpc("recover-node-ids", _recover),
}
RPCS: dict[str, Mapping[str, Rpc | vpn_rpcs.Rpc]] = {
    "scalein-api": {**_BY_IDS, "scalein-compute-recover": Rpc("recover-node-ids", _recover)},
    "scalein-rpc": _BY_IDS,
    "cloudscaler-rpc": {
        "scalein-computes-start": Rpc("scalein-compute-names", _start),
        "scalein-computes-tep-delete": Rpc("scalein-compute-names", _tep_delete),
        "scalein-computes-end": Rpc("scalein-compute-names", _end_polled),
        "scalein-computes-recover": Rpc("recover-compute-names", _recover),
    },
    "neutronvpn": vpn_rpcs.RPCS,
}


def routes(service: Service, schema: Schema) -> list[Route]:
    """The operation resources, new and old style."""

    async def listing(request: Request) -> Response:
        old = _is_old(request)
        kind = media.choose(request.headers.get("accept", ""), media.restconf(old))
        names = {f"{module}:{rpc}": [None] for module, rpcs in RPCS.items() for rpc in rpcs}
        return json_response({"operations" if old else "ietf-restconf:operations": names}, kind=kind)

    async def call(request: Request) -> Response:
        module, _, name = request.path_params["rpc"].partition(":")
        rpc = RPCS.get(module, {}).get(name)
        if rpc is None:
            known = ", ".join(f"{m}:{r}" for m, rpcs in RPCS.items() for r in rpcs)
            raise HTTPException(404, f"there is no operation {request.path_params['rpc'][:80]}; there are {known}")
        if request.method != "POST":
            headers = {"Allow": "POST, OPTIONS"}
            if request.method == "OPTIONS":
                return Response(None, 200, headers)
            raise HTTPException(405, f"{module}:{name} is called by POST", headers)
        old = _is_old(request)
        kind = media.choose(request.headers.get("accept", ""), media.restconf(old))
        given = await _input(request, module, old)
        checked = schema.check_input(module, name, given)
        output = await rpc.carry_out(request, service, module, checked)
        if output is None:
            return Response(None, 204)
        return json_response({"output" if old else f"{module}:output": output}, kind=kind)

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    found = []
    for root in ("/rests", "/restconf"):
        found.append(Route(f"{root}/operations", listing, methods=["GET"]))
        found.append(Route(f"{root}/operations/{{rpc}}", call, methods=methods))
    return found


def _is_old(request: Request) -> bool:
    return request.url.path.startswith("/restconf/")


async def _input(request: Request, module: str, old: bool) -> Any:
    """The content of the input envelope; {} where there is no body (RFC 8040, section 3.6.1).

    Raises:
        BadInput: malformed-message, or another member than the input.
        HTTPException: 415.
    """
    raw = await body.read(request)
    if not raw.strip():
        return {}
    media.check_body(request.headers.get("content-type", ""), media.restconf(old))
    found = body.decode(raw)
    if not isinstance(found, dict):
        raise BadInput(f'the body is an object with the one member "{module}:input"', "/", "malformed-message")
    names = {f"{module}:input", "input"}
    strange = sorted(found.keys() - names)
    if strange:
        raise BadInput(f'{strange[0][:80]!r} is unknown here: the body has the one member "{module}:input"',
                       f"/{strange[0][:80]}", "unknown-element")  # fmt: skip
    if len(found) > 1:
        raise BadInput("the input is there twice, with and without its module", f"/{module}:input", "malformed-message")
    if not found:
        raise BadInput(f'the body has the one member "{module}:input"', f"/{module}:input", "missing-element")
    return next(iter(found.values()))
