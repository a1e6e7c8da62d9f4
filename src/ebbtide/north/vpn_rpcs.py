"""The RPCs of L3VPNs that users of NetVirt call (module neutronvpn): the verbs of `decide/vpns.py`, several at a time, all or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request

from ebbtide.decide import vpns
from ebbtide.errors import BadInput
from ebbtide.model.facts import Edit, Vpn
from ebbtide.model.state import State
from ebbtide.north import body
from ebbtide.runtime.service import Service

Given = dict[str, Any]
Step = Callable[[State], list[Edit]]


class Rpc(NamedTuple):
    """An RPC: what it does with an input that fits its module. It gives the output, or None for none."""

    work: Callable[[Service, Given], Awaitable[Given | None]]

    async def carry_out(self, request: Request, service: Service, module: str, given: Given) -> Given | None:
        """Do it."""
        request.state.leaf = f"/{module}:input"
        body.check_ids(request, _names(given), f"/{module}:input")
        return await self.work(service, given)


def _names(given: Given) -> list[str]:
    """What a call is about, for the audit log."""
    ids = given.get("id", [])
    found = [given["vpn-id"]] if "vpn-id" in given else []
    found += [ids] if isinstance(ids, str) else ids
    return found + [wish["id"] for wish in given.get("l3vpn", [])]


def _routers(given: Given) -> list[str]:
    return [entry["router-id"] for entry in given.get("router-ids", [])]


def _one_distinguisher(wish: Given) -> str:
    found: Sequence[str] = wish.get("route-distinguisher", [])
    if len(found) != 1:
        raise BadInput(
            f"VPN {wish['id'][:80]} has {len(found)} route distinguishers: one is possible, and needed",
            "route-distinguisher",
        )
    return found[0]


def _steps(does: Callable[[State, str, str], Any], vpn: str, names: Sequence[str]) -> list[Step]:
    """One verb with a VPN and each of these names."""

    def step(name: str, state: State) -> list[Edit]:
        found = does(state, vpn, name)
        edits: list[Edit] = found[0] if isinstance(found, tuple) else found
        return edits

    return [partial(step, name) for name in names]


def _with(vpn: str, networks: Sequence[str], routers: Sequence[str]) -> list[Step]:
    return [*_steps(vpns.associate_network, vpn, networks), *_steps(vpns.associate_router, vpn, routers)]


def _added(wish: Given, rd: str, state: State) -> list[Edit]:
    return vpns.add(state, wish["id"], rd, wish.get("import-RT", []), wish.get("export-RT", []))[0]


def _cleared(name: str, state: State) -> list[Edit]:
    return vpns.clear(state, name)


async def _create(service: Service, given: Given) -> Given:
    wishes = given.get("l3vpn", [])
    if not wishes:
        raise BadInput("no l3vpn was given: give at least one", "l3vpn", "missing-element")
    steps: list[Step] = []
    for wish in wishes:
        steps.append(partial(_added, wish, _one_distinguisher(wish)))
        steps += _with(wish["id"], wish.get("network-ids", []), _routers(wish))
    await service.in_turn(steps)
    return {"response": [f"VPN {wish['id']} is there" for wish in wishes]}


async def _get(service: Service, given: Given) -> Given:
    state = service.state
    chosen = [vpns.vpn(state, given["id"])] if "id" in given else [state.vpns[name] for name in sorted(state.vpns)]
    return {"l3vpn-instances": [_instance(state, vpn) for vpn in chosen]}


def _instance(state: State, vpn: Vpn) -> Given:
    return {
        "id": vpn.id,
        "name": vpn.id,
        "route-distinguisher": [vpn.rd],
        "import-RT": list(vpn.imports),
        "export-RT": list(vpn.exports),
        "router-ids": [{"router-id": router} for router in sorted(state.vpn_routers.get(vpn.id, ()))],
        "network-ids": sorted({leg.network for leg in state.places(vpn.id)}),
    }


async def _delete(service: Service, given: Given) -> Given:
    names = given.get("id", [])
    if not names:
        raise BadInput("no id was given: name at least one VPN", "id", "missing-element")
    await service.in_turn([partial(_cleared, name) for name in names])
    return {"response": [f"VPN {name} is deleted" for name in names]}


async def _associate_networks(service: Service, given: Given) -> Given:
    await service.in_turn(_with(given["vpn-id"], given["network-id"], ()))
    return {"response": f"associated with VPN {given['vpn-id']}"}


async def _dissociate_networks(service: Service, given: Given) -> Given:
    vpn = given["vpn-id"]
    await service.in_turn(_steps(vpns.dissociate_network, vpn, given["network-id"]))
    return {"response": f"dissociated from VPN {vpn}"}


async def _associate_routers(service: Service, given: Given) -> None:
    await service.in_turn(_with(given["vpn-id"], (), _routers(given)))


async def _dissociate_routers(service: Service, given: Given) -> None:
    await service.in_turn(_steps(vpns.dissociate_router, given["vpn-id"], _routers(given)))


RPCS: dict[str, Rpc] = {
    "createL3VPN": Rpc(_create),
    "getL3VPN": Rpc(_get),
    "deleteL3VPN": Rpc(_delete),
    "associateNetworks": Rpc(_associate_networks),
    "dissociateNetworks": Rpc(_dissociate_networks),
    "associateRouter": Rpc(_associate_routers),
    "dissociateRouter": Rpc(_dissociate_routers),
}
