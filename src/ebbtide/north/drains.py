"""The own API's drains: `POST /api/v1/drains` begins one (or, with "plan", says what it would do); its operation is looked at, aborted and
resumed under `/api/v1/operations`. `/api/v1/movers` is for whoever moves VMs.

What a mover does: it claims VMs, moves each, and while it is at it says so within half a minute, again and again. Whether a VM has moved is
seen by the controller itself; only a failure is told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide import drain
from ebbtide.decide.drain import Claim, Wish
from ebbtide.errors import BadInput
from ebbtide.model.facts import Item, ItemState, Operation
from ebbtide.model.state import NAT, State
from ebbtide.north import auth, body, shapes
from ebbtide.north.answers import json_response, verdict
from ebbtide.north.api import check_deadline
from ebbtide.runtime import vouches
from ebbtide.runtime.drain_plan import DrainPlan, Load, Sessions
from ebbtide.runtime.service import Service
from ebbtide.runtime.vouches import Said

#: VMs at the same time, computes at the same time, characters of a reason: at most.
_AT_ONCE, _WAVE = 1000, 100_000
#: Characters of the name of a kind of mover.
_KIND = 40


class Draining(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """`plan`: say what would be done, and do nothing. `vms`: who moves VMs ("none": they are watched), and `mover_options` how. `at_once`:
    so many VMs at a time; `max_unavailable`: so many computes emptied at a time (0: all). `deadline`, `cut_after`: seconds from now: until
    what is not empty is recovered; until connections in no record are cut (null: never; as configured). `force`: why it is done though it
    would be refused; `allow_outage`: services that may end with their compute. `dead`: they have died."""

    computes: list[str] = []
    plan: bool = False
    vms: str = drain.NOBODY
    mover_options: list[str] = []
    at_once: int | None = None
    max_unavailable: int | None = None
    deadline: float | None = None
    cut_after: float | None = None
    force: str = ""
    allow_outage: list[str] = []
    dead: bool = False


class Changing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """See `Draining`; what is not there stays."""

    mover_options: list[str] = []
    at_once: int | None = None
    max_unavailable: int | None = None


class Resuming(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """See `Draining`."""

    deadline: float | None = None
    force: str = ""
    allow_outage: list[str] = []


class Claiming(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mover asks for VMs: its name, which no other has, and for how many it has room. `holding`: the VMs that it is at (null: it does not
    say); others that it was given are told to it again."""

    mover: str
    free: int = 1
    holding: list[str] | None = None


class Reporting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mover is still at a VM, or (`failure`: why) has given it up. `claim` is that of the claim."""

    operation: str
    vm: str
    mover: str
    claim: int
    failure: str = ""


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a mover says of a compute: what its host is called, `state` (matched, emptying, empty or failed), and why."""

    compute: str
    host: str
    state: str
    words: str = ""


class Vouching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mover says which hosts computes are (`operation` ""), or how far those of a drain are. `options`: what it was started with, like a
    drain's `mover-options`."""

    mover: str
    hosts: list[Host]
    operation: str = ""
    options: list[str] = []


def _instant(seconds: float | None, name: str) -> int:
    """Seconds since the epoch; 0 for None."""
    if seconds is None:
        return 0
    check_deadline(seconds, name)
    return int(time.time() + seconds)


def _check_limits(given: Draining | Changing) -> None:
    if given.at_once is not None and not 1 <= given.at_once <= _AT_ONCE:
        raise BadInput(f"at-once = {given.at_once}: 1 to {_AT_ONCE} VMs", "at-once")
    if given.max_unavailable is not None and not 0 <= given.max_unavailable <= _WAVE:
        raise BadInput(f"max-unavailable = {given.max_unavailable}: 0 (all) to {_WAVE} computes", "max-unavailable")


def _wish(given: Draining) -> Wish:
    _check_limits(given)
    _check_kind("vms", given.vms)
    options = drain.check_mover_options(given.vms, given.mover_options)
    if given.dead and options:
        raise BadInput("mover-options: who has died is emptied by nobody: leave them away", "mover-options")
    outages = tuple(sorted({body.reason(text, "allow-outage") for text in given.allow_outage}))
    return Wish(
        given.vms,
        given.at_once,
        given.max_unavailable,
        _instant(given.deadline, "deadline"),
        body.reason(given.force, "force"),
        outages,
        _instant(given.cut_after, "cut-after"),
        given.dead,
        options,
    )


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    def shown(operation: Operation, **more: Any) -> Response:
        told = detail(service, operation)
        return json_response(
            {"operation": told, **more, "revision": service.state.revision}, 202 if operation.open else 200
        )

    async def begin(request: Request) -> Response:
        given = await body.struct(request, Draining)
        ids = body.check_ids(request, given.computes, "computes")
        wish = _wish(given)
        if given.plan:
            found = await service.plan_drain(ids, wish)
            shown_hosts = _hosts(service, [v.number for v in found.counted.decision.verdicts], wish)
            told = plan_shown(service.state, found, wish)
            return json_response({**told, "hosts": shown_hosts, "revision": service.state.revision})
        if wish.forced or wish.outages:
            auth.need(request, "force")
        operation, changed = await service.drain(ids, wish)
        return shown(operation, changed=changed)

    async def listing(request: Request) -> Response:
        state = service.state
        found = [o for o in shapes.operations(state) if o["verb"] == drain.VERB]
        return json_response({"operations": found, "revision": state.revision})

    async def one(request: Request) -> Response:
        return json_response(detail(service, drain.find(service.state, request.path_params["id"])))

    async def abort(request: Request) -> Response:
        await body.struct(request, _Nothing)
        return shown(await service.drains.abort(request.path_params["id"]))

    async def change(request: Request) -> Response:
        given = await body.struct(request, Changing)
        _check_limits(given)
        wish = Wish(at_once=given.at_once, wave=given.max_unavailable, mover_options=tuple(given.mover_options))
        operation, changed = await service.drains.change(request.path_params["id"], wish)
        return shown(operation, changed=changed)

    async def resume(request: Request) -> Response:
        given = await body.struct(request, Resuming)
        forced, outages = (
            body.reason(given.force, "force"),
            [body.reason(x, "allow-outage") for x in given.allow_outage],
        )
        known = drain.find(service.state, request.path_params["id"])
        if forced or outages or known.outages:
            auth.need(request, "force")
        until = _instant(given.deadline, "deadline")
        return shown(await service.drains.resume(request.path_params["id"], until, forced, outages))

    async def claim(request: Request) -> Response:
        given = await body.struct(request, Claiming)
        if not 0 <= given.free <= _AT_ONCE:
            raise BadInput(f"free = {given.free}: 0 to {_AT_ONCE} VMs", "free")
        found = await service.drains.claim(_kind(request, given.mover), given.mover, given.free, given.holding)
        return json_response({"claims": [_claim(service.state, x) for x in found], "revision": service.state.revision})

    async def report(request: Request) -> Response:
        given = await body.struct(request, Reporting)
        _kind(request, given.mover)
        failure = body.reason(" ".join(given.failure.split())[: body.REASON], "failure")
        await service.drains.report(given.operation, given.vm, given.mover, given.claim, failure)
        return json_response({"revision": service.state.revision})

    async def hosts(request: Request) -> Response:
        given = await body.struct(request, Vouching)
        kind = _kind(request, given.mover)
        if len(given.hosts) > _WAVE:
            raise BadInput(f"{len(given.hosts)} hosts in one call: at most {_WAVE}", "hosts", "too-big")
        for one in given.hosts:
            if one.state not in vouches.STATES:
                raise BadInput(f"state = {one.state[:80]!r}: there are {', '.join(vouches.STATES)}", "state")
        options = drain.check_mover_options(kind, given.options)
        said = {
            one.compute: Said(one.host[:255], one.state, " ".join(one.words.split())[: body.REASON], options)
            for one in given.hosts
        }
        if len(said) < len(given.hosts):
            raise BadInput("hosts: a compute is named twice", "hosts")
        unknown = service.drains.hosts(kind, given.operation, said)
        return json_response({"unknown": unknown, "revision": service.state.revision})

    return [
        Route("/api/v1/drains", begin, methods=["POST"]),
        Route("/api/v1/drains", listing, methods=["GET"]),
        Route("/api/v1/operations/{id}", one, methods=["GET"]),
        Route("/api/v1/operations/{id}/abort", abort, methods=["POST"]),
        Route("/api/v1/operations/{id}/options", change, methods=["POST"]),
        Route("/api/v1/operations/{id}/resume", resume, methods=["POST"]),
        Route("/api/v1/movers/{kind}/claim", claim, methods=["POST"]),
        Route("/api/v1/movers/{kind}/report", report, methods=["POST"]),
        Route("/api/v1/movers/{kind}/hosts", hosts, methods=["POST"]),
    ]


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


def _check_kind(field: str, kind: str) -> None:
    if not kind.isidentifier() or len(kind) > _KIND:
        raise BadInput(f"{field} = {kind[:80]!r}: the name of a kind of mover, like none or lab", field)


def _kind(request: Request, mover: str) -> str:
    """Of which kind the movers are to whom a call is for, and that it says who makes it.

    Raises:
        BadInput: it does not.
    """
    kind = str(request.path_params["kind"])
    _check_kind("kind", kind)
    if not mover or len(mover) > 200 or not mover.isprintable():
        raise BadInput("mover: its name, one line of at most 200 characters", "mover")
    return kind


def _claim(state: State, found: Claim) -> dict[str, Any]:
    return {
        "operation": found.operation,
        "vm": found.vm,
        "source": shapes.name_of(state, found.source),
        "target": shapes.name_of(state, found.target) if found.target else "",
        "claim": found.claim,
        "options": list(state.operations[found.operation].mover_options),
    }


def detail(service: Service, fact: Operation) -> dict[str, Any]:
    """An operation with its items, and how far what they are about has come."""
    state = service.state
    items = [_item(service, i) for i in sorted(state.items_of(fact.id), key=lambda i: (i.kind, i.object, i.compute))]
    told = {
        **shapes.operation(state, fact),
        "at-once": fact.at_once,
        "max-unavailable": fact.wave,
        "deadline": fact.deadline,
        "forced": fact.forced,
        "allow-outage": list(fact.outages),
        "dead": fact.dead,
        "items": items,
    }
    ends = [o for o in state.operations.values() if o.parent == fact.id]
    told["ends"] = [
        {key: end[key] for key in ("id", "state", "reason", "computes")}
        for end in (shapes.operation(state, o) for o in sorted(ends, key=lambda o: o.revision))
    ]
    return told


def _item(service: Service, item: Item) -> dict[str, Any]:
    state = service.state
    told: dict[str, Any] = {
        "kind": item.kind,
        "object": item.object,
        "compute": shapes.name_of(state, item.compute),
        "state": str(item.state),
        "target": shapes.name_of(state, item.target) if item.target else "",
        "reason": item.reason,
        "since": item.since,
        "took": item.took,
        "tries": item.tries,
        "mover": item.mover if item.kind == drain.VM else "",
    }
    kind, _, name = item.object.partition(" ")
    router = state.routers.get(name) if item.kind == drain.SERVICE and kind == NAT else None
    if router is not None:
        told["sessions"] = sum(not e.closed for e in service.cluster.connections.of(router.tag))
        move = state.moves.get(name)
        if move is not None and item.state is ItemState.MOVING:
            told["phase"] = str(move.phase)
            told["reason"] = item.reason or move.reason
    return told


def _hosts(service: Service, numbers: Sequence[int], wish: Wish) -> list[dict[str, str]]:
    """Which hosts these computes are for who moves their VMs, as far as that has been said."""
    found = []
    for number in numbers:
        said = service.drains.vouches.known(wish.vms, number)
        if said is not None:
            name = shapes.name_of(service.state, number)
            found.append({"compute": name, "host": said.host, "state": said.state, "words": said.words})
    return found


def plan_shown(state: State, found: DrainPlan, wish: Wish) -> dict[str, Any]:
    """A plan as JSON."""
    counted = found.counted

    def name(number: int) -> str:
        return shapes.name_of(state, number) if number else ""

    return {
        "verdicts": [verdict(v) for v in counted.decision.verdicts],
        "services": [
            {
                "service": g.service,
                "words": drain.words(g.service),
                "old": name(g.old),
                "new": name(g.new),
                "how": str(g.how),
                "why": list(g.why),
            }
            for g in counted.goals
        ],
        "sessions": [_sessions(s) for s in found.sessions],
        "vms": [
            {"vm": vm, "compute": name(n), "target": name(counted.targets.get(vm, 0))} for vm, n in counted.vms.items()
        ],
        "standbys": [
            {
                "service": x.service,
                "words": drain.words(x.service),
                "compute": name(x.compute),
                "old": name(x.old),
                "new": name(x.new),
            }
            for x in counted.standbys
        ],
        "vms-moved-by": wish.vms,
        "mover-options": list(found.mover_options),
        "dead": wish.dead,
        "allow-outage": list(wish.outages),
        "tunnels": {"made": counted.tunnels_made, "gone": counted.tunnels_gone},
        "flows": msgspec.to_builtins(counted.flows),
        "loads": [_load(state, x) for x in counted.loads],
        "problems": [msgspec.to_builtins(p) for p in found.problems],
        "waits": [msgspec.to_builtins(p) for p in found.waits],
        "expected-seconds": round(found.seconds, 1),
    }


def _sessions(found: Sessions) -> dict[str, Any]:
    return {
        "router": found.router,
        "recorded": found.recorded,
        "unknown": found.unknown,
        "reason": found.reason,
        "nat-move-proven": found.proven,
        "nat-move": found.words,
    }


def _load(state: State, found: Load) -> dict[str, Any]:
    return {
        "compute": shapes.name_of(state, found.compute),
        "vms": found.vms,
        "vms-after": found.vms_after,
        "routers": found.routers,
        "routers-after": found.routers_after,
        "bound": found.bound,
        "over": found.over,
    }
