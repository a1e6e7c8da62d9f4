"""The own API's networks outside, routers and floating IPs: list, show, make (POST, or PUT under its name), change, delete.

Making the same again is "already so" (200); making a router differently is refused, and PATCH changes it. What may be done is decided in
`decide/routing.py`; nothing here judges but shapes.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide import routing
from ebbtide.errors import BadInput, NotFound
from ebbtide.model.facts import Floating
from ebbtide.north import body, shapes
from ebbtide.north.answers import json_response
from ebbtide.north.api import Waiting, answer
from ebbtide.runtime.service import Service


class NewExternal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A network outside to make. `vlan` 0: untagged; `gateway` "": it has no next hop. What of IPv6 is null is as it is, or is not."""

    id: str = ""
    physical: str
    subnet: str
    gateway: str = ""
    vlan: int = 0
    mtu: int = 1500
    subnet6: str | None = None
    gateway6: str | None = None
    prefixes: list[str] | None = None
    wait: bool = False


class ExternalChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a network outside; what is not there stays. `subnet6` "" takes its IPv6 away."""

    subnet6: str | None = None
    gateway6: str | None = None
    prefixes: list[str] | None = None
    wait: bool = False


class NewRouter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A router to make."""

    id: str = ""
    external: str = ""
    addresses: list[str] = []
    snat: bool = True
    routes: list[str] = []
    record: bool = True
    wait: bool = False


class RouterChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a router; what is not there stays. `external` "" takes the network outside away, and the addresses with it."""

    external: str | UnsetType = UNSET
    addresses: list[str] | UnsetType = UNSET
    snat: bool | UnsetType = UNSET
    routes: list[str] | UnsetType = UNSET
    record: bool | UnsetType = UNSET
    wait: bool = False

    def wishes(self) -> dict[str, Any]:
        """What is there, by the names of `Service.set_router`."""
        given = {k: getattr(self, k) for k in ("external", "addresses", "snat", "routes", "record")}
        return _arguments({k: v for k, v in given.items() if v is not UNSET})


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in a network. Attach, `address` "": the first of its only subnet; `mac` "": one of ours. Detach, `address` "": all there."""

    network: str
    address: str = ""
    mac: str = ""
    wait: bool = False


class NewFloating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A floating IP to make, or to lead elsewhere. `port` "": it leads nowhere; `fixed` "": the port's first address behind a router."""

    external: str = ""
    address: str = ""
    port: str = ""
    fixed: str = ""
    mac: str = ""
    wait: bool = False


def routes(service: Service) -> list[Route]:
    """The routes of this room."""
    return [*_externals(service), *_routers(service), *_places(service), *_floatings(service)]


def _arguments(wishes: dict[str, Any]) -> dict[str, Any]:
    """Wishes under the names that the verbs have."""
    return {"outside" if k == "external" else k: v for k, v in wishes.items()}


def _externals(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state = service.state
        shown = shapes.externals(state, (state.externals[i] for i in sorted(state.externals)))
        return json_response({"externals": shown, "revision": state.revision})

    async def one(request: Request) -> Response:
        known = routing.external(service.state, request.path_params["id"])
        return json_response(shapes.external(service.state, known))

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewExternal)
        name = body.named(request, wish.id)
        old = name in service.state.externals
        made = await service.add_external(
            *(name, wish.physical, wish.subnet, wish.gateway, wish.vlan, wish.mtu),
            *(wish.subnet6, wish.gateway6, wish.prefixes),
        )
        shown = {"external": shapes.external(service.state, made), "changed": not old}
        return await answer(request, service, shown, status=200 if old else 201, wait=wish.wait)

    async def change(request: Request) -> Response:
        wish, name = await body.struct(request, ExternalChange), request.path_params["id"]
        old = service.state.externals.get(name)
        made = await service.set_external(name, subnet6=wish.subnet6, gateway6=wish.gateway6, prefixes=wish.prefixes)
        shown = {"external": shapes.external(service.state, made), "changed": made != old}
        return await answer(request, service, shown, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_external(request.path_params["id"])
        return await answer(request, service, {"deleted": request.path_params["id"]}, wait=wish.wait)

    return [
        Route("/api/v1/externals", listing, methods=["GET"]),
        Route("/api/v1/externals", make, methods=["POST"]),
        Route("/api/v1/externals/{id:path}", one, methods=["GET"]),
        Route("/api/v1/externals/{id:path}", make, methods=["PUT"]),
        Route("/api/v1/externals/{id:path}", change, methods=["PATCH"]),
        Route("/api/v1/externals/{id:path}", delete, methods=["DELETE"]),
    ]


def _routers(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state, network = service.state, request.query_params.get("network")
        if network is not None and network not in state.networks:
            raise NotFound(f"there is no network {network[:80]}")
        chosen = sorted(state.routers if network is None else state.routers_of.get(network, ()))
        shown = shapes.routers(state, (state.routers[i] for i in chosen))
        return json_response({"routers": shown, "revision": state.revision})

    async def one(request: Request) -> Response:
        known = routing.router(service.state, request.path_params["id"])
        refused = await service.refused(known.id)
        shown = shapes.router(service.state, known)
        return json_response({**shown, "refused": refused._asdict() if refused is not None else None})

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewRouter)
        name = body.named(request, wish.id)
        old = name in service.state.routers
        wishes = {k: getattr(wish, k) for k in ("external", "addresses", "snat", "routes", "record")}
        made = await service.add_router(name, **_arguments(wishes))
        shown = {"router": shapes.router(service.state, made), "changed": not old}
        return await answer(request, service, shown, status=200 if old else 201, wait=wish.wait)

    async def change(request: Request) -> Response:
        wish, name = await body.struct(request, RouterChange), request.path_params["id"]
        old = service.state.routers.get(name)
        made = await service.set_router(name, **wish.wishes())
        kept = made.addresses if old is not None and made.external == old.external else ()
        gone = [address for address in old.addresses if address not in kept] if old is not None else []
        shown = {"router": shapes.router(service.state, made), "changed": made != old, "addresses-gone": gone}
        return await answer(request, service, shown, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_router(request.path_params["id"])
        return await answer(request, service, {"deleted": request.path_params["id"]}, wait=wish.wait)

    return [
        Route("/api/v1/routers", listing, methods=["GET"]),
        Route("/api/v1/routers", make, methods=["POST"]),
        Route("/api/v1/routers/{id:path}", one, methods=["GET"]),
        Route("/api/v1/routers/{id:path}", make, methods=["PUT"]),
        Route("/api/v1/routers/{id:path}", change, methods=["PATCH"]),
        Route("/api/v1/routers/{id:path}", delete, methods=["DELETE"]),
    ]


def _places(service: Service) -> list[Route]:
    def shown(name: str, changed: bool) -> dict[str, Any]:
        return {"router": shapes.router(service.state, routing.router(service.state, name)), "changed": changed}

    async def attach(request: Request) -> Response:
        wish, name = await body.struct(request, Place), request.path_params["id"]
        before = service.state.legs
        made = await service.attach(name, wish.network, wish.address, wish.mac)
        new = (made.network, made.address) not in before.get(name, {})
        found = {**shown(name, new), "place": shapes.place(made)}
        return await answer(request, service, found, status=201 if new else 200, wait=wish.wait)

    async def detach(request: Request) -> Response:
        wish, name = await body.struct(request, Place), request.path_params["id"]
        if wish.mac:
            raise BadInput("a router is detached by network and address, not by MAC", "mac", "unknown-element")
        await service.detach(name, wish.network, wish.address)
        return await answer(request, service, shown(name, True), wait=wish.wait)

    return [
        Route("/api/v1/routers/{id:path}/attach", attach, methods=["POST"]),
        Route("/api/v1/routers/{id:path}/detach", detach, methods=["POST"]),
    ]


def _floatings(service: Service) -> list[Route]:
    def known(request: Request) -> Floating:
        outside, address = request.path_params["external"], request.path_params["address"]
        found = service.state.floatings.get((outside, address))
        if found is None:
            raise NotFound(f"there is no floating IP {address[:80]} in external network {outside[:80]}")
        return found

    async def listing(request: Request) -> Response:
        state = service.state
        outside, behind = request.query_params.get("external"), request.query_params.get("router")
        if outside is not None:
            routing.external(state, outside)
        if behind is not None:
            routing.router(state, behind)
        chosen = [
            f
            for _, f in sorted(state.floatings.items())
            if outside in (None, f.external) and behind in (None, f.router)
        ]
        shown = [shapes.floating(state, f) for f in chosen]
        return json_response({"floating-ips": shown, "revision": state.revision})

    async def one(request: Request) -> Response:
        return json_response(shapes.floating(service.state, known(request)))

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewFloating)
        outside, address = body.named(request, wish.external, "external"), body.named(request, wish.address, "address")
        before = service.state.floatings
        made = await service.add_floating(outside, address, wish.port, wish.fixed, wish.mac)
        old = before.get((made.external, made.address))
        shown = {"floating-ip": shapes.floating(service.state, made), "changed": made != old}
        return await answer(request, service, shown, status=200 if old is not None else 201, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        outside, address = request.path_params["external"], request.path_params["address"]
        await service.delete_floating(outside, address)
        return await answer(request, service, {"deleted": address, "external": outside}, wait=wish.wait)

    return [
        Route("/api/v1/floating-ips", listing, methods=["GET"]),
        Route("/api/v1/floating-ips", make, methods=["POST"]),
        Route("/api/v1/floating-ips/{external:path}/{address}", one, methods=["GET"]),
        Route("/api/v1/floating-ips/{external:path}/{address}", make, methods=["PUT"]),
        Route("/api/v1/floating-ips/{external:path}/{address}", delete, methods=["DELETE"]),
    ]
