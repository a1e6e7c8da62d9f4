"""The own API, /api/v1: computes, scale-in, operations, audit, explanations. Networks, ports and relations are in `resources.py`,
routers and what is outside in `routers.py`.

Parse, ask the service, answer. Errors are raised and rendered elsewhere (`answers.py`). A write answers when it is stored; with
`?wait=applied` (or "wait": true in the body) when every reachable compute has applied it: 200, or 202 if some have not in time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide import __version__
from ebbtide.config import Config
from ebbtide.decide.designation import Going
from ebbtide.decide.lifecycle import resolve
from ebbtide.errors import BadInput, NotFound, StillWorking
from ebbtide.model.facts import Compute, Membership
from ebbtide.model.state import State
from ebbtide.north import auth, body, explain, passing, shapes
from ebbtide.north.answers import json_response, verdict
from ebbtide.runtime.service import Leaving, Service

#: Seconds that a write with ?wait=applied waits for.
APPLIED_WAIT = 30.0
#: Seconds that a scale-in end may be asked to wait.
MAX_WAIT = 3600.0
#: Seconds that a move may be told to wait for connections: a week, seven times what conntrack keeps a silent one.
MAX_DEADLINE = 604_800.0


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that says nothing but whether to wait."""

    wait: bool = False


class Adopting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`force`: why a br-int is taken over though VMs on it will be cut off."""

    force: str = ""
    wait: bool = False


class Computes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compute ids of recover."""

    computes: list[str] = []
    wait: bool = False


class Starting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compute ids of start. `deadline`: seconds from now until which moves wait for unknown connections (null: as configured)."""

    computes: list[str] = []
    deadline: float | None = None
    wait: bool = False


class Ending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Compute ids of end; `wait` in seconds, null: as configured, 0: not at all."""

    computes: list[str] = []
    wait: float | None = None


class Reconciling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to reconcile: none named is all. `approve` lets braked computes go on."""

    approve: bool = False
    computes: list[str] = []


async def answer(
    request: Request, service: Service, found: dict[str, Any], *, status: int = 200, wait: bool = False
) -> Response:
    """The answer of a write: what was made, the revision, and, if waiting was asked for, who is behind."""
    revision = service.state.revision
    shown = {**found, "revision": revision}
    if wait or request.query_params.get("wait"):
        shown["behind"] = await behind(service, revision, APPLIED_WAIT)
        status = 202 if shown["behind"] else status
    return json_response(shown, status)


async def behind(service: Service, revision: int, deadline: float) -> list[str]:
    """The reachable members that have not applied a revision by the deadline. Braked and foreign ones are not waited for."""

    def late() -> list[str]:
        members = (service.cluster.members.get(c.number) for c in service.state.members())
        return [m.name for m in members if m is not None and m.waited_for and m.applied() < revision]

    await service.cluster.wait_for(lambda: not late(), deadline)
    return late()


def find(service: Service, text: str, *, removed: bool = True) -> Compute:
    """The compute that an id names.

    Raises:
        NotFound: none, several, or one that is removed where that is not asked for.
    """
    compute, reason = resolve(service.state, text)
    if compute is None:
        raise NotFound(reason)
    if compute.membership is Membership.REMOVED and not removed:
        raise NotFound(f"{compute.name} was removed at revision {compute.removed_at}; ?removed=1 shows it")
    return compute


def check_deadline(seconds: float, name: str) -> None:
    """Whether a move may be told to wait for so many seconds.

    Raises:
        BadInput: it may not.
    """
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_DEADLINE):
        raise BadInput(f"{name} = {seconds}: 0 to {MAX_DEADLINE:.0f} seconds", name)


def routes(service: Service, config: Config) -> list[Route]:
    """The routes of this room."""
    return [*_computes(service), *_scale_in(service), *_looks(service, config)]


def _computes(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state = service.state
        chosen = list(state.computes.values())
        if _flag(request, "removed"):
            chosen += state.removed.values()
        shown = [service.compute_status(c) for c in sorted(chosen, key=lambda c: (c.name, c.number))]
        refused = [{"peer": peer, "reason": why} for peer, why in sorted(service.cluster.refused.items())]
        return json_response({"computes": shown, "refused": refused, "revision": state.revision})

    async def one(request: Request) -> Response:
        compute = find(service, request.path_params["id"], removed=_flag(request, "removed"))
        return json_response(service.compute_status(compute))

    async def act(request: Request) -> Response:
        verb = request.path_params["verb"]
        acts: dict[str, Callable[..., Awaitable[Compute]]] = {
            "approve": service.approve,
            "adopt": service.adopt,
            "readmit": service.readmit,
            "forget": service.forget,
        }
        if verb not in acts:
            raise NotFound(f"a compute is not told to {verb[:40]}: there are {', '.join(acts)}")
        wish: Adopting | Waiting
        more: tuple[str, ...] = ()
        if verb == "adopt":
            auth.need(request, "force")
            wish = await body.struct(request, Adopting)
            more = (body.reason(wish.force, "force"),)
        else:
            wish = await body.struct(request, Waiting)
        ids = body.check_ids(request, [request.path_params["id"]], "id")
        before, _ = resolve(service.state, ids[0])
        compute = await acts[verb](ids[0], *more)
        now = service.state.computes.get(compute.number) or service.state.removed.get(compute.number)
        # Readmitted and forgotten computes are gone until they connect again: what they were is shown.
        shown = {"compute": service.compute_status(now or compute), "known": now is not None, "changed": now != before}
        return await answer(request, service, shown, wait=wish.wait)

    return [
        Route("/api/v1/computes", listing),
        Route("/api/v1/computes/{id:path}/{verb}", act, methods=["POST"]),
        Route("/api/v1/computes/{id:path}", one),
    ]


def _scale_in(service: Service) -> list[Route]:
    async def start(request: Request) -> Response:
        wish = await body.struct(request, Starting)
        ids = body.check_ids(request, wish.computes, "computes")
        if wish.deadline is not None:
            check_deadline(wish.deadline, "deadline")
        decision = await service.start(ids, wish.deadline)
        return await answer(request, service, {"verdicts": [verdict(v) for v in decision.verdicts]}, wait=wish.wait)

    async def plan(request: Request) -> Response:
        wish = await body.struct(request, Computes)
        ids = body.check_ids(request, wish.computes, "computes")
        decision, found = await service.plan_start(ids)
        moving = sum(x.departure.how is Going.MOVES for x in found)
        told = {
            "verdicts": [verdict(v) for v in decision.verdicts],
            "routers": [_leaving(service.state, x) for x in found],
            "expected-seconds": round(service.expected_seconds(moving), 1),
            "patience-seconds": service.cluster.settings.nat_patience,
        }
        return json_response({**told, "revision": service.state.revision})

    async def recover(request: Request) -> Response:
        wish = await body.struct(request, Computes)
        ids = body.check_ids(request, wish.computes, "computes")
        decision = await service.recover(ids)
        return await answer(request, service, {"verdicts": [verdict(v) for v in decision.verdicts]}, wait=wish.wait)

    async def end(request: Request) -> Response:
        wish = await body.struct(request, Ending)
        ids = body.check_ids(request, wish.computes, "computes")
        if wish.wait is not None and not (math.isfinite(wish.wait) and 0 <= wish.wait <= MAX_WAIT):
            raise BadInput(f"wait = {wish.wait}: 0 to {MAX_WAIT:.0f} seconds", "wait")
        decision, concerned = await service.begin_end(ids)
        done = True
        try:
            await service.wait_end(concerned, wish.wait)
        except StillWorking:
            if wish.wait != 0:
                raise
            done = False
        state = service.state
        known = [shapes.operation(state, state.operations[i]) for i in concerned if i in state.operations]
        shown = {"verdicts": [verdict(v) for v in decision.verdicts], "done": done, "operations": known}
        return json_response({**shown, "revision": state.revision}, 200 if done else 202)

    async def status(request: Request) -> Response:
        state = service.state
        computes = []
        for compute in state.members():
            if compute.tombstoned:
                left = [*shapes.remains(state, compute), *service.serves(compute.number)]
                computes.append({**service.compute_status(compute), "remains": left, "empty": not left})
        ends = [o for o in shapes.operations(state) if o["verb"] == "end"]
        leaving = {c.number for c in state.members() if c.tombstoned}
        moves = [
            {"router": router, **shapes.moving(state, move)}
            for router, move in sorted(state.moves.items())
            if leaving & {move.old, move.new}
        ]
        return json_response({"computes": computes, "moves": moves, "operations": ends, "revision": state.revision})

    return [
        Route("/api/v1/scale-in/start", start, methods=["POST"]),
        Route("/api/v1/scale-in/plan", plan, methods=["POST"]),
        Route("/api/v1/scale-in/recover", recover, methods=["POST"]),
        Route("/api/v1/scale-in/end", end, methods=["POST"]),
        Route("/api/v1/scale-in/status", status),
    ]


def _leaving(state: State, found: Leaving) -> dict[str, Any]:
    """What a scale-in would do with a router."""
    departure = found.departure
    return {
        "router": departure.router,
        "old": shapes.name_of(state, departure.old),
        "new": shapes.name_of(state, departure.new) if departure.new else "",
        "how": str(departure.how),
        "why": list(departure.why),
        "recorded": found.recorded,
        "unknown": found.part.unknown,
        "reason": found.part.reason,
        "nat-move-proven": found.proof.proven,
        "nat-move": found.proof.words,
    }


def _looks(service: Service, config: Config) -> list[Route]:
    async def status(request: Request) -> Response:
        return json_response(_status(service, config))

    async def operations(request: Request) -> Response:
        state = service.state
        return json_response({"operations": shapes.operations(state), "revision": state.revision})

    async def audit(request: Request) -> Response:
        await body.struct(request, Waiting)
        return json_response(shapes.report(await service.audit()))

    async def reconcile(request: Request) -> Response:
        wish = await body.struct(request, Reconciling)
        if wish.approve:
            auth.need(request, "force")
        ids = body.check_ids(request, wish.computes, "computes")
        names = [find(service, text).name for text in ids]
        chosen = await service.reconcile(names, wish.approve)
        return await answer(request, service, {"computes": chosen, "approved": wish.approve})

    async def why(request: Request) -> Response:
        kind, text = request.path_params["kind"], request.path_params["id"]
        packet = passing.asked(request) if kind == "port" else None
        if packet is not None:
            port, agents = explain.port_named(service.state, text), explain.metadata_agents(service)
            told = passing.judge(service.state, port, packet, agents)
            shown = {"passes": told.passes, "rules": told.rules, "lines": told.lines}
            return json_response({"kind": kind, "id": text, **shown, "revision": service.state.revision})
        lines = await explain.story(service, kind, text)
        return json_response({"kind": kind, "id": text, "lines": lines, "revision": service.state.revision})

    return [
        Route("/api/v1/status", status),
        Route("/api/v1/operations", operations),
        Route("/api/v1/audit", audit, methods=["POST"]),
        Route("/api/v1/reconcile", reconcile, methods=["POST"]),
        Route("/api/v1/explain/{kind}/{id:path}", why),
    ]


def _status(service: Service, config: Config) -> dict[str, Any]:
    cluster, state = service.cluster, service.state
    phases: dict[str, int] = {}
    for compute in [*state.computes.values(), *state.removed.values()]:
        phase = str(cluster.phase(compute))
        phases[phase] = phases.get(phase, 0) + 1
    return {
        "version": __version__,
        "store": state.store_id,
        "revision": state.revision,
        "term": state.term,
        "leading": cluster.store.leading.is_set(),
        "reachable": cluster.store.reachable,
        "reason": "" if cluster.store.reachable else cluster.store.reason,
        "hold": cluster.store.hold,
        "insecure": config.insecure,
        "authenticated": bool(config.credentials),
        "counts": {
            "computes": phases,
            "members": len(state.members()),
            "tombstoned": sum(c.tombstoned for c in state.computes.values()),
            "unreachable": sum(c.number not in cluster.reachable() for c in state.members()),
            "removed": len(state.removed),
            "networks": len(state.networks),
            "ports": len(state.ports),
            "externals": len(state.externals),
            "routers": len(state.routers),
            "routers_unserved": shapes.unserved(state),
            "floating_ips": len(state.floatings),
            "moves": len(state.moves),
            "debts": len(state.debts),
            "operations_running": sum(o.open for o in state.operations.values()),
            "refused": len(cluster.refused),
        },
    }


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("1", "true", "yes")
