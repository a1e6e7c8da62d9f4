"""The own API's rebalance: `GET` says what it would do, `POST` does it, `POST {"plan": true}` is another way to ask."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide.election import Plan
from ebbtide.errors import BadInput
from ebbtide.model.facts import Operation
from ebbtide.model.state import State
from ebbtide.north import body, shapes
from ebbtide.north.answers import json_response
from ebbtide.north.api import MAX_WAIT
from ebbtide.runtime.service import Service


class Rebalancing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plan`: say what would be done, and do nothing. `stop`: begin no more moves. `wait`: seconds to wait until it is over."""

    plan: bool = False
    stop: bool = False
    wait: float = 0.0


def shown(state: State, found: Plan) -> dict[str, Any]:
    """What a rebalance moves, how many services each compute has before and after, and what is gained."""

    def name(number: int) -> str:
        return shapes.name_of(state, number)

    return {
        "moves": [{"service": m.kind, "object": m.object, "old": name(m.old), "new": name(m.new)} for m in found.moves],
        "loads": [
            {"service": x.kind, "compute": x.name, "before": x.before, "after": x.after, "bound": x.bound}
            for x in found.loads
        ],
        "gain": list(found.gain),
    }


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    def answer(found: Plan, operation: Operation | None, changed: bool) -> Response:
        state = service.state
        goes_on = operation is not None and operation.state == "running"
        told = {
            **shown(state, found),
            "operation": shapes.operation(state, operation) if operation is not None else None,
            "changed": changed,
            "revision": state.revision,
        }
        return json_response(told, 202 if goes_on else 200)

    async def plan(request: Request) -> Response:
        return json_response({**shown(service.state, service.rebalance_plan()), "revision": service.state.revision})

    async def rebalance(request: Request) -> Response:
        wish = await body.struct(request, Rebalancing)
        if wish.plan and wish.stop:
            raise BadInput("plan and stop were both given: say one of them", "stop")
        if not (math.isfinite(wish.wait) and 0 <= wish.wait <= MAX_WAIT):
            raise BadInput(f"wait = {wish.wait}: 0 to {MAX_WAIT:.0f} seconds", "wait")
        if wish.plan:
            return await plan(request)
        if wish.stop:
            stopped = await service.stop_rebalance()
            return answer(service.rebalance_plan(), stopped, stopped is not None)
        operation, found, changed = await service.rebalance()
        if operation is not None and wish.wait:
            operation = await service.wait_operation(operation.id, wish.wait)
        return answer(found, operation, changed)

    return [
        Route("/api/v1/rebalance", plan, methods=["GET"]),
        Route("/api/v1/rebalance", rebalance, methods=["POST"]),
    ]
