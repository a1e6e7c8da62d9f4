"""The own API's view into a router's NAT: its connections, and how long a move waits for those that nobody knows."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.compile.features.nat import TCP, UDP, Translation
from ebbtide.errors import BadInput
from ebbtide.model.facts import Router
from ebbtide.model.state import NAT, State
from ebbtide.north import body, shapes
from ebbtide.north.answers import json_response
from ebbtide.north.api import check_deadline
from ebbtide.runtime.connections import Entry
from ebbtide.runtime.service import Service
from ebbtide.runtime.sessions import Part, Place, counted, place

#: Connections on one page, at most.
MAX_LIMIT = 1000
_PROTOCOLS = {TCP: "tcp", UDP: "udp"}


class Deadline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds from now until which a move waits for connections that are unknown."""

    seconds: float


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    async def sessions(request: Request) -> Response:
        limit, after = _limit(request), _after(request)
        router, parts, entries, listed = await service.sessions(request.path_params["id"], limit, after)
        state = service.state
        refused = await service.refused(router.id)
        found = summary(state, router, parts, entries)
        found["refused"] = refused._asdict() if refused is not None else None
        if limit:
            found["connections"] = [_connection(state, e) for e in listed]
            found["next"] = _token(listed[-1]) if len(listed) == limit else ""
        return json_response({**found, "now": int(time.time()), "revision": state.revision})

    async def deadline(request: Request) -> Response:
        wish, name = await body.struct(request, Deadline), request.path_params["id"]
        check_deadline(wish.seconds, "seconds")
        before = service.state.moves.get(name)
        made = await service.set_deadline(name, wish.seconds)
        changed = before is None or before.deadline != made.deadline
        state = service.state
        found = {"router": name, "move": shapes.moving(state, made), "changed": changed}
        return json_response({**found, "revision": state.revision})

    return [
        Route("/api/v1/nat/sessions/{id:path}", sessions, methods=["GET"]),
        Route("/api/v1/nat/deadline/{id:path}", deadline, methods=["POST"]),
    ]


def summary(state: State, router: Router, parts: list[Part], entries: list[Entry]) -> dict[str, Any]:
    """How many connections there are, who opened them, and what is not known of them."""
    told = counted(entries)
    return {
        "router": router.id,
        "record": router.record,
        "open": sum(n for n, _ in told.values()),
        "closed": sum(n for _, n in told.values()),
        "unknown": sum(part.unknown for part in parts),
        "recorded": [
            {
                "compute": shapes.name_of(state, compute),
                "protocol": _PROTOCOLS.get(proto, str(proto)),
                "open": now,
                "closed": over,
            }
            for (compute, proto), (now, over) in told.items()
        ],
        "computes": [_part(state, router, part) for part in parts],
    }


def _part(state: State, router: Router, part: Part) -> dict[str, Any]:
    seen = part.opened
    return {
        "compute": shapes.name_of(state, part.compute),
        "part": role(state, router.id, part.compute),
        "read": seen is not None,
        "reason": part.reason,
        "seconds": int(seen.seconds) if seen is not None else 0,
        # Where nothing is recorded, the switch counts all protocols as one.
        "opened": {"tcp": seen.tcp, "udp": seen.udp, "other": seen.other} if seen is not None else None,
        "received": part.received,
        "unknown": part.unknown,
        "rows": part.rows,
    }


def role(state: State, router: str, number: int) -> str:
    """What part a compute has in a router's NAT, in words."""
    found, move = state.designations.get((NAT, router)), state.moves.get(router)
    if move is not None and number in (move.old, move.new):
        return "moves from here" if number == move.old else "moves here"
    if found is not None and number == found.compute:
        return "serves"
    return "stands by"


def _connection(state: State, entry: Entry) -> dict[str, Any]:
    t = entry.translation
    return {
        "protocol": _PROTOCOLS.get(t.proto, str(t.proto)),
        "source": _end(t.src, t.sport),
        "remote": _end(t.dst, t.dport),
        "external": _end(t.address, t.port),
        "compute": shapes.name_of(state, entry.compute),
        "opened": entry.opened,
        "closed": entry.closed,
    }


def _end(address: int, port: int) -> str:
    return f"{ipaddress.IPv4Address(address)}:{port}"


def _token(entry: Entry) -> str:
    """A place in the list, as one word."""
    opened, t = place(entry)
    return "-".join(map(str, (opened, *t)))


def _after(request: Request) -> Place | None:
    text = request.query_params.get("after", "")
    if not text:
        return None
    words = text.split("-")
    if len(words) != 1 + len(Translation._fields) or not all(
        w.isascii() and w.isdecimal() and len(w) < 20 for w in words
    ):
        raise BadInput(f"after={text[:80]}: it is the `next` of the page before", "after")
    opened, *rest = map(int, words)
    return opened, Translation(*rest)


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "0")
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or int(text) > MAX_LIMIT:
        raise BadInput(f"limit={text[:40]}: 0 (none are listed) to {MAX_LIMIT}", "limit")
    return int(text)
