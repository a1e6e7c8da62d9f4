"""The own API's networks, ports and gateway relations: list, show, make, delete. Making the same again is "already so" (200)."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.errors import BadInput, NotFound
from ebbtide.north import body, shapes
from ebbtide.north.answers import json_response
from ebbtide.north.api import Waiting, answer
from ebbtide.runtime.service import Service


class NewNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A network to make. `vni` null: the next free one; `mtu` null: what fits into an underlay of 1500. `dns`: name servers;
    `host_routes`: "prefix via address"."""

    id: str
    subnets: list[str] = []
    vni: int | None = None
    mtu: int | None = None
    dhcp: bool | None = None
    dns: list[str] | None = None
    host_routes: list[str] | None = None
    ipv6_mode: str | None = None
    wait: bool = False


class NetworkChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What to change of a network: whether its VMs are told their addresses, and what with them, and its subnets; what is not there
    stays."""

    subnets: list[str] | None = None
    ipv6_mode: str | None = None
    dhcp: bool | None = None
    dns: list[str] | None = None
    host_routes: list[str] | None = None
    wait: bool = False


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a secured port may speak from beside its own; `mac` "": its own."""

    prefix: str
    mac: str = ""


class NewPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A port to make. `id` is what the interface has as external_ids:iface-id. It is secured if that is said,
    or if it is in a security group. `device` and `project`: whose interface it is."""

    id: str
    network: str
    mac: str
    addresses: list[str] = []
    secured: bool | None = None
    security_groups: list[str] | None = None
    address_pairs: list[Pair] | None = None
    device: str | None = None
    project: str | None = None
    wait: bool = False


class PortChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What to change of a port; what is not there stays."""

    addresses: list[str] | None = None
    secured: bool | None = None
    security_groups: list[str] | None = None
    address_pairs: list[Pair] | None = None
    device: str | None = None
    project: str | None = None
    wait: bool = False


def _pairs(wishes: list[Pair] | None) -> list[tuple[str, str]] | None:
    return None if wishes is None else [(pair.prefix, pair.mac) for pair in wishes]


class NewRelation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gateway relation to make or to end, by any ids of its computes."""

    gateway: str = ""
    peer: str = ""
    wait: bool = False


def routes(service: Service) -> list[Route]:
    """The routes of this room."""
    return [*_networks(service), *_ports(service), *_relations(service)]


def _networks(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state = service.state
        shown = [shapes.network(state, state.networks[i]) for i in sorted(state.networks)]
        return json_response({"networks": shown, "revision": state.revision})

    async def one(request: Request) -> Response:
        known = service.state.networks.get(request.path_params["id"])
        if known is None:
            raise NotFound(f"there is no network {request.path_params['id'][:80]}")
        return json_response(shapes.network(service.state, known))

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewNetwork)
        old = wish.id in service.state.networks
        made = await service.add_network(
            *(wish.id, wish.subnets, wish.vni, wish.mtu),
            dhcp=wish.dhcp,
            dns=wish.dns,
            routes=wish.host_routes,
            ipv6_mode=wish.ipv6_mode,
        )
        shown = {"network": shapes.network(service.state, made), "changed": not old}
        return await answer(request, service, shown, status=200 if old else 201, wait=wish.wait)

    async def change(request: Request) -> Response:
        wish, name = await body.struct(request, NetworkChange), request.path_params["id"]
        old = service.state.networks.get(name)
        made = await service.set_network(
            name,
            dhcp=wish.dhcp,
            dns=wish.dns,
            routes=wish.host_routes,
            subnets=wish.subnets,
            ipv6_mode=wish.ipv6_mode,
        )
        shown = {"network": shapes.network(service.state, made), "changed": made != old}
        return await answer(request, service, shown, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_network(request.path_params["id"])
        return await answer(request, service, {"deleted": request.path_params["id"]}, wait=wish.wait)

    return [
        Route("/api/v1/networks", listing, methods=["GET"]),
        Route("/api/v1/networks", make, methods=["POST"]),
        Route("/api/v1/networks/{id:path}", one, methods=["GET"]),
        Route("/api/v1/networks/{id:path}", change, methods=["PATCH"]),
        Route("/api/v1/networks/{id:path}", delete, methods=["DELETE"]),
    ]


def _ports(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state, network = service.state, request.query_params.get("network")
        if network is not None and network not in state.networks:
            raise NotFound(f"there is no network {network[:80]}")
        chosen = sorted(state.ports if network is None else state.ports_of.get(network, ()))
        lport = request.query_params.get("lport")
        if lport is not None:
            held = state.by_lport.get(int(lport)) if lport.isdecimal() and len(lport) < 8 else None
            chosen = [held] if held is not None and (network is None or state.ports[held].network == network) else []
        return json_response(
            {"ports": [shapes.port(state, state.ports[i]) for i in chosen], "revision": state.revision}
        )

    async def one(request: Request) -> Response:
        known = service.state.ports.get(request.path_params["id"])
        if known is None:
            raise NotFound(f"there is no port {request.path_params['id'][:80]}")
        return json_response(shapes.port(service.state, known))

    async def make(request: Request) -> Response:
        wish = await body.struct(request, NewPort)
        old = wish.id in service.state.ports
        made = await service.add_port(
            *(wish.id, wish.network, wish.mac, wish.addresses),
            secured=wish.secured,
            groups=wish.security_groups,
            pairs=_pairs(wish.address_pairs),
            device=wish.device,
            project=wish.project,
        )
        shown = {"port": shapes.port(service.state, made), "changed": not old}
        return await answer(request, service, shown, status=200 if old else 201, wait=wish.wait)

    async def change(request: Request) -> Response:
        wish, name = await body.struct(request, PortChange), request.path_params["id"]
        old = service.state.ports.get(name)
        made = await service.set_port(
            *(name, wish.secured, wish.security_groups, _pairs(wish.address_pairs), wish.addresses),
            *(wish.device, wish.project),
        )
        shown = {"port": shapes.port(service.state, made), "changed": made != old}
        return await answer(request, service, shown, wait=wish.wait)

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        await service.delete_port(request.path_params["id"])
        return await answer(request, service, {"deleted": request.path_params["id"]}, wait=wish.wait)

    return [
        Route("/api/v1/ports", listing, methods=["GET"]),
        Route("/api/v1/ports", make, methods=["POST"]),
        Route("/api/v1/ports/{id:path}", one, methods=["GET"]),
        Route("/api/v1/ports/{id:path}", change, methods=["PATCH"]),
        Route("/api/v1/ports/{id:path}", delete, methods=["DELETE"]),
    ]


def _relations(service: Service) -> list[Route]:
    async def listing(request: Request) -> Response:
        state = service.state
        shown = [shapes.relation(state, r) for _, r in sorted(state.relations.items())]
        return json_response({"relations": shown, "revision": state.revision})

    async def change(request: Request) -> Response:
        wish = await body.struct(request, NewRelation)
        gateway = wish.gateway or request.query_params.get("gateway", "")
        peer = wish.peer or request.query_params.get("peer", "")
        if not gateway or not peer:
            raise BadInput('a relation is {"gateway": id, "peer": id}', tag="missing-element")
        ends = body.check_ids(request, [gateway, peer], "relation")
        on = request.method == "POST"
        before = len(service.state.relations)
        made = await service.relate(*ends, on=on)
        changed = len(service.state.relations) != before
        shown = {"relation": shapes.relation(service.state, made), "changed": changed}
        return await answer(request, service, shown, status=201 if on and changed else 200, wait=wish.wait)

    return [
        Route("/api/v1/relations", listing, methods=["GET"]),
        Route("/api/v1/relations", change, methods=["POST"]),
        Route("/api/v1/relations", change, methods=["DELETE"]),
    ]
