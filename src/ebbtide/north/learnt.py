"""The own API's addresses that nobody was given and that answer, and who is designated for what: list, and take away what is wrong."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.errors import NotFound
from ebbtide.model.facts import Learnt, format_mac
from ebbtide.model.state import State
from ebbtide.north import body
from ebbtide.north.answers import json_response
from ebbtide.north.api import Waiting, answer
from ebbtide.north.shapes import name_of
from ebbtide.runtime.service import Service


def shown(state: State, fact: Learnt) -> dict[str, Any]:
    """A learnt address; `compute` "": its port is plugged nowhere."""
    active = state.active(fact.port)
    return {
        "network": fact.network,
        "address": fact.address,
        "mac": format_mac(fact.mac),
        "port": fact.port,
        "compute": name_of(state, active.compute) if active is not None else "",
    }


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    async def listing(request: Request) -> Response:
        state, network = service.state, request.query_params.get("network")
        if network is not None and network not in state.networks:
            raise NotFound(f"there is no network {network[:80]}")
        chosen = sorted(state.learnt) if network is None else [network]
        found = [shown(state, state.learnt_in(n)[a]) for n in chosen for a in sorted(state.learnt_in(n))]
        asked = [
            {"network": n, "address": a, "doing": doing}
            for n, a, doing in service.cluster.hidden.asked_for()
            if network in (None, n)
        ]
        return json_response({"learnt": found, "asked": asked, "revision": state.revision})

    async def delete(request: Request) -> Response:
        wish = await body.struct(request, Waiting)
        network, address = request.path_params["network"], request.path_params["address"]
        await service.forget_address(network, address)
        return await answer(request, service, {"deleted": address, "network": network}, wait=wish.wait)

    async def designations(request: Request) -> Response:
        state = service.state
        kind, name = request.query_params.get("service"), request.query_params.get("compute")
        if name is not None and name not in state.by_name:
            raise NotFound(f"there is no compute {name[:80]}")
        found = [
            {
                "service": fact.service,
                "object": fact.object,
                "compute": name_of(state, fact.compute),
                "standby": name_of(state, fact.standby) if fact.standby else "",
                "since": fact.since,
            }
            for _, fact in sorted(state.designations.items())
            if kind in (None, fact.service)
        ]
        if name is not None:
            found = [x for x in found if name in (x["compute"], x["standby"])]
        return json_response({"designations": found, "revision": state.revision})

    return [
        Route("/api/v1/learnt", listing, methods=["GET"]),
        Route("/api/v1/learnt/{network:path}/{address}", delete, methods=["DELETE"]),
        Route("/api/v1/designations", designations, methods=["GET"]),
    ]
