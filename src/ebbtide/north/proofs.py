"""The own API's proofs: that nothing is left of removed computes, as signed (`decide/proofs.py`)."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ebbtide.decide import proofs
from ebbtide.decide.lifecycle import resolve
from ebbtide.errors import NotFound
from ebbtide.model.facts import Proof
from ebbtide.model.state import State
from ebbtide.north.answers import json_response
from ebbtide.runtime.service import Service


def summary(state: State, fact: Proof) -> dict[str, Any]:
    """A proof in short: about whom, what was read, and who is still to be. `superseded`: who has been let back since."""
    body = proofs.read(fact.body)
    return {
        "operation": fact.operation,
        "removed": [x.name for x in body.removed],
        "revision": body.revision,
        "time": body.time,
        "checked": len(body.checked),
        "residue": sum(len(x.residue) for x in body.checked),
        "owing": [x.compute for x in body.owing],
        "clean": body.clean,
        "complete": body.complete,
        "superseded": [x.name for x in body.removed if x.number not in state.removed],
    }


def find(state: State, text: str) -> Proof:
    """The proof of an operation, or the newest that is about a compute, of any of its ids.

    Raises:
        NotFound: there is none.
    """
    if text in state.proofs:
        return state.proofs[text]
    compute, _ = resolve(state, text)
    found = []
    for proof in state.proofs.values():
        body = proofs.read(proof.body)
        # One that was readmitted is known by other numbers; its name is still in the proof.
        if (compute is not None and compute.number in proof.computes) or any(x.name == text for x in body.removed):
            found.append((body.revision, proof))
    if not found:
        raise NotFound(
            f"there is no proof of an operation or about a compute {text[:80]}: `ebbtide proof list` shows all"
        )
    return max(found, key=lambda x: x[0])[1]


def routes(service: Service) -> list[Route]:
    """The routes of this room."""

    async def listing(request: Request) -> Response:
        state = service.state
        found = sorted((summary(state, p) for p in state.proofs.values()), key=lambda x: -x["revision"])
        return json_response({"proofs": found, "revision": state.revision})

    async def one(request: Request) -> Response:
        fact = find(service.state, request.path_params["id"])
        told = msgspec.to_builtins(proofs.read(fact.body))
        return json_response(
            {
                **summary(service.state, fact),
                "body": fact.body,
                "signature": fact.signature,
                "key": fact.key,
                "told": told,
            }
        )

    async def key(request: Request) -> Response:
        own = service.cluster.proofs.signer.public
        # Each controller of a cluster signs with its own.
        others = sorted({p.key for p in service.state.proofs.values()} - {own})
        return json_response({"key": own, "others": others})

    return [
        Route("/api/v1/proofs", listing, methods=["GET"]),
        Route("/api/v1/proof-key", key, methods=["GET"]),
        Route("/api/v1/proofs/{id:path}", one, methods=["GET"]),
    ]
