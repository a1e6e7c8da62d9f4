"""The own API's L3VPNs: list, show, make (POST, or PUT under its name), change, delete; and what is associated with them.

What may be done is decided in `decide/vpns.py`; nothing here judges but shapes.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide import vpns
from ebbtide.errors import BadInput
from ebbtide.north import body, shapes
from ebbtide.north.answers import json_response
from ebbtide.north.api import Waiting, answer
from ebbtide.runtime.service import Service


class NewVpn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A VPN to make: route distinguisher and route targets are ASN:NUMBER or ADDRESS:NUMBER."""

    rd: str
    id: str = ""
    imports: list[str] = []
    exports: list[str] = []
    wait: bool = False


class VpnChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a VPN; what is not there stays."""

    imports: list[str] | UnsetType = UNSET
    exports: list[str] | UnsetType = UNSET
    wait: bool = False


class Association(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network or a router. `address` "": the first of each of the network's subnets; `mac` "": one of ours."""

    network: str = ""
    router: str = ""
    address: str = ""
    mac: str = ""
    wait: bool = False

    def check(self) -> None:
        """Raises BadInput unless it names one of the two, and a place only in a network."""
        if bool(self.network) == bool(self.router):
            raise BadInput("name a network or a router, one of the two", "network", "missing-element")
        if self.router and (self.address or self.mac):
            raise BadInput(
                "a router has its addresses and MACs already: they are given with a network only",
                "address" if self.address else "mac",
            )


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    async def listing(request: Request) -> Response:
        state = service.state
        return json_response(
            {"vpns": [shapes.vpn(state, state.vpns[i]) for i in sorted(state.vpns)], "revision": state.revision}
        )

    async def one(request: Request) -> Response:
        return json_response(shapes.vpn(service.state, vpns.vpn(service.state, request.path_params["id"])))

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewVpn)
        name = body.named(request, wish.id)
        old = name in service.state.vpns
        made = await service.add_vpn(name, wish.rd, wish.imports, wish.exports)
        found = {"vpn": shapes.vpn(service.state, made), "changed": not old}
        return await answer(request, service, found, status=200 if old else 201, wait=wish.wait)

    async def change(request: Request) -> Response:
        wish, name = await body.struct(request, VpnChange), request.path_params["id"]
        old = service.state.vpns.get(name)
        imports, exports = (None if isinstance(x, UnsetType) else x for x in (wish.imports, wish.exports))
        made = await service.set_vpn(name, imports, exports)
        found = {"vpn": shapes.vpn(service.state, made), "changed": made != old}
        return await answer(request, service, found, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_vpn(request.path_params["id"])
        return await answer(request, service, {"deleted": request.path_params["id"]}, wait=wish.wait)

    async def associate(request: Request) -> Response:
        wish, name = await body.struct(request, Association), request.path_params["id"]
        wish.check()
        before = service.state.revision
        if wish.network:
            await service.associate_network(name, wish.network, wish.address, wish.mac)
        else:
            await service.associate_router(name, wish.router)
        return await _told(request, name, service.state.revision != before, wish.wait)

    async def dissociate(request: Request) -> Response:
        wish, name = await body.struct(request, Association), request.path_params["id"]
        wish.check()
        if wish.address or wish.mac:
            raise BadInput("a network is dissociated as a whole", "address" if wish.address else "mac")
        if wish.network:
            await service.dissociate_network(name, wish.network)
        else:
            await service.dissociate_router(name, wish.router)
        return await _told(request, name, True, wish.wait)

    async def _told(request: Request, name: str, changed: bool, wait: bool) -> Response:
        found = {"vpn": shapes.vpn(service.state, vpns.vpn(service.state, name)), "changed": changed}
        return await answer(request, service, found, wait=wait)

    return [
        Route("/api/v1/vpns", listing, methods=["GET"]),
        Route("/api/v1/vpns", make, methods=["POST"]),
        Route("/api/v1/vpns/{id:path}/associate", associate, methods=["POST"]),
        Route("/api/v1/vpns/{id:path}/dissociate", dissociate, methods=["POST"]),
        Route("/api/v1/vpns/{id:path}", one, methods=["GET"]),
        Route("/api/v1/vpns/{id:path}", make, methods=["PUT"]),
        Route("/api/v1/vpns/{id:path}", change, methods=["PATCH"]),
        Route("/api/v1/vpns/{id:path}", delete, methods=["DELETE"]),
    ]
