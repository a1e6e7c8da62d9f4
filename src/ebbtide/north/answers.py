"""Answers: JSON out, and every error of `errors.py` in the dialect of the path that was asked.

Below /rests and /restconf an error is `ietf-restconf:errors` (RFC 8040, section 7.1), one entry for each refused id; everywhere
else it is {"error": {"status", "tag", "message", ...}}. Nothing but this file knows how an error looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from ebbtide.decide.scalein import Answer, IdVerdict
from ebbtide.errors import BadInput, EbbtideError, StillWorking
from ebbtide.north import media

log = structlog.get_logger("http")
#: Seconds after which a call that was answered "in-use" is worth repeating.
RETRY_AFTER = 2
#: The error-tag of what is refused before a verb is reached (RFC 8040, section 7, table 1, where it has the status).
_TAGS = {
    400: "malformed-message",
    401: "access-denied",
    403: "access-denied",
    404: "invalid-value",
    405: "operation-not-supported",
    406: "invalid-value",
    413: "too-big",
    415: "invalid-value",
}


class Fault(msgspec.Struct, frozen=True):
    """An error as both dialects show it. `headers` go with it."""

    status: int
    tag: str
    message: str
    path: str = ""
    operation: str = ""
    verdicts: tuple[IdVerdict, ...] = ()
    headers: Mapping[str, str] = {}
    application: bool = True


def fault(error: Exception) -> Fault:
    """What an error is to a client. The status of `StillWorking` is 409, which is in-use in RFC 8040, section 7."""
    if isinstance(error, HTTPException):
        return Fault(
            error.status_code,
            _TAGS.get(error.status_code, "operation-failed"),
            str(error.detail),
            headers=dict(error.headers or {}),
            application=False,
        )
    if isinstance(error, StillWorking):
        headers = {"Retry-After": str(RETRY_AFTER)}
        return Fault(409, error.tag, str(error), operation=error.operation, headers=headers)
    if isinstance(error, EbbtideError):
        headers = {"Retry-After": str(RETRY_AFTER)} if error.status == 503 else {}
        return Fault(
            error.status,
            error.tag,
            str(error),
            path=getattr(error, "path", ""),
            verdicts=verdicts(error),
            headers=headers,
            application=not isinstance(error, BadInput),
        )
    return Fault(500, "operation-failed", "a fault of ours: the log of the controller says more")


def verdicts(error: BaseException) -> tuple[IdVerdict, ...]:
    """The verdicts that an error (or the one it was made of) carries."""
    found = getattr(error, "verdicts", ()) or getattr(error.__cause__, "verdicts", ())
    return tuple(v for v in found if isinstance(v, IdVerdict))


def is_restconf(path: str) -> bool:
    """Whether a path belongs to RESTCONF, new or old style."""
    return path.startswith(("/rests", "/restconf"))


def refusal(request: HTTPConnection, error: Exception) -> Response:
    """The response for an error, in the dialect of the request."""
    found = fault(error)
    if is_restconf(request.url.path):
        old = request.url.path.startswith("/restconf")
        body = {"errors" if old else "ietf-restconf:errors": {"error": _entries(request, found)}}
        kind = media.for_errors(request.headers.get("accept", ""), old)
        return Response(msgspec.json.encode(body), found.status, dict(found.headers), kind)
    body = {"error": _own(found)}
    return Response(msgspec.json.encode(body), found.status, dict(found.headers), media.JSON)


def _own(found: Fault) -> dict[str, Any]:
    shown: dict[str, Any] = {"status": found.status, "tag": found.tag, "message": found.message}
    if found.path:
        shown["path"] = found.path
    if found.operation:
        shown["operation"] = found.operation
    if found.verdicts:
        shown["verdicts"] = [verdict(v) for v in found.verdicts]
    return shown


def verdict(given: IdVerdict) -> dict[str, Any]:
    """The verdict on one id."""
    return {
        "id": given.id,
        "name": given.name,
        "answer": str(given.answer),
        "message": given.message,
        "remains": list(given.remains),
    }


def _entries(request: HTTPConnection, found: Fault) -> list[dict[str, Any]]:
    leaf = getattr(request.state, "leaf", "")
    refused = [v for v in found.verdicts if v.answer is Answer.REFUSED]
    if refused:
        return [_refused_id(v, leaf) for v in refused]
    entry = {
        "error-type": "application" if found.application else "protocol",
        "error-tag": found.tag,
        "error-message": found.message,
    }
    path = found.path if found.path.startswith("/") else leaf if found.tag == "missing-element" else ""
    if path:
        entry["error-path"] = path
    if found.operation:
        entry["error-app-tag"] = found.operation
    return [entry]


def _refused_id(given: IdVerdict, leaf: str) -> dict[str, Any]:
    tag = "invalid-value" if given.unknown else "in-use" if given.remains else "operation-failed"
    entry: dict[str, Any] = {"error-type": "application", "error-tag": tag, "error-message": given.message}
    if leaf:
        quote = '"' if "'" in given.id else "'"
        entry["error-path"] = f"{leaf}[.={quote}{given.id}{quote}]"
    if given.remains:
        entry["error-info"] = {"remains": list(given.remains)}
    return entry


async def on_error(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for what handlers raise on purpose."""
    return refusal(request, error)


def on_fault(request: Request, error: Exception) -> Response:
    """The response for what nobody raised on purpose: a fault of ours, named in the log and not to the client."""
    log.error("fault", path=request.url.path, method=request.method, reason=repr(error), exc_info=error)
    return refusal(request, error)


def json_response(body: Any, status: int = 200, kind: str = "application/json") -> Response:
    """A JSON response that no cache keeps (RFC 8040, section 5.5)."""
    return Response(msgspec.json.encode(body), status, {"Cache-Control": "no-cache"}, kind)
