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
from ebbtide.model.state import NAT, State
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


def under_way(state: State) -> list[dict[str, Any]]:
    """The moves that go on, whoever began them."""
    return [
        {
            "service": NAT,
            "object": move.router,
            "old": shapes.name_of(state, move.old),
            "new": shapes.name_of(state, move.new),
            "phase": str(move.phase),
        }
        for _, move in sorted(state.moves.items())
    ]


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    def answer(found: dict[str, Any], operation: Operation | None, changed: bool) -> Response:
        state = service.state
        goes_on = operation is not None and operation.state == "running"
        told = {
            **found,
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
        if wish.wait and (wish.plan or wish.stop):
            raise BadInput(f"{'plan' if wish.plan else 'stop'} and wait were both given: neither takes long", "wait")
        if not (math.isfinite(wish.wait) and 0 <= wish.wait <= MAX_WAIT):
            raise BadInput(f"wait = {wish.wait}: 0 to {MAX_WAIT:.0f} seconds", "wait")
        if wish.plan:
            return await plan(request)
        if wish.stop:
            stopped = await service.stop_rebalance()
            # Nothing is moved by this call: what a plan would say of moves to come is what will not be done.
            found = {**shown(service.state, Plan()), "under-way": under_way(service.state)}
            return answer(found, stopped, stopped is not None)
        operation, planned, changed = await service.rebalance()
        if operation is not None and wish.wait:
            operation = await service.wait_operation(operation.id, wish.wait)
        return answer(shown(service.state, planned), operation, changed)

    return [
        Route("/api/v1/rebalance", plan, methods=["GET"]),
        Route("/api/v1/rebalance", rebalance, methods=["POST"]),
    ]
