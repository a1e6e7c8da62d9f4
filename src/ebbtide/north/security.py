"""The own API's security groups: list, show, make, delete, and their rules. What a port has of them is a port's (`resources.py`).

What may be done is decided in `decide/security.py`; nothing here judges but shapes.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide import security
from ebbtide.decide.security import RuleWish
from ebbtide.errors import BadInput
from ebbtide.north import body, shapes
from ebbtide.north.answers import json_response
from ebbtide.north.api import Waiting, answer
from ebbtide.runtime.service import Service


class NewGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security group to make."""

    id: str
    wait: bool = False


class NewRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A rule to make. `direction`: "in" or "out"; `family`: "ipv4" or "ipv6" ("": as the rest says, else ipv4); `protocol`: a name, or a
    number as text; `ports`: "80" or "8000-8100"; `prefix` or `remote_group`: the far end (neither: anybody)."""

    direction: str
    id: str = ""
    family: str = ""
    protocol: str = "any"
    ports: str = ""
    icmp_type: int = -1
    icmp_code: int = -1
    prefix: str = ""
    remote_group: str = ""
    wait: bool = False

    def wish(self) -> RuleWish:
        """As the decision takes it."""
        if self.direction not in ("in", "out"):
            raise BadInput(f'direction {self.direction[:40]!r} is neither "in" nor "out"', "direction")
        return RuleWish(
            self.direction == "in",
            self.family,
            self.protocol,
            self.ports,
            self.icmp_type,
            self.icmp_code,
            self.prefix,
            self.remote_group,
            self.id,
        )


def routes(service: Service) -> list[Route]:
    """The routes of this room."""
    return [*_rules(service), *_groups(service)]


def _groups(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state = service.state
        shown = [shapes.security_group(state, state.security_groups[i]) for i in sorted(state.security_groups)]
        return json_response({"security-groups": shown, "revision": state.revision})

    async def one(request: Request) -> Response:
        state = service.state
        return json_response(shapes.security_group(state, security.group(state, request.path_params["id"])))

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewGroup)
        old = wish.id in service.state.security_groups
        made = await service.add_group(wish.id)
        shown = {"security-group": shapes.security_group(service.state, made), "changed": not old}
        return await answer(request, service, shown, status=200 if old else 201, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_group(request.path_params["id"])
        return await answer(request, service, {"deleted": request.path_params["id"]}, wait=wish.wait)

    return [
        Route("/api/v1/security-groups", listing, methods=["GET"]),
        Route("/api/v1/security-groups", make, methods=["POST"]),
        Route("/api/v1/security-groups/{id:path}", one, methods=["GET"]),
        Route("/api/v1/security-groups/{id:path}", delete, methods=["DELETE"]),
    ]


def _rules(service: Service) -> list[Route]:
    async def make(request: Request) -> Response:
        wish, name = await body.struct(request, NewRule), request.path_params["id"]
        before = {rule.id for rule in service.state.rules_of(name)}
        made = await service.add_rule(name, wish.wish())
        old = made.id in before
        shown = {"rule": shapes.security_rule(made), "changed": not old}
        return await answer(request, service, shown, status=200 if old else 201, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_rule(request.path_params["id"], request.path_params["rule"])
        return await answer(request, service, {"deleted": request.path_params["rule"]}, wait=wish.wait)

    return [
        Route("/api/v1/security-groups/{id:path}/rules", make, methods=["POST"]),
        Route("/api/v1/security-groups/{id:path}/rules/{rule}", delete, methods=["DELETE"]),
    ]
