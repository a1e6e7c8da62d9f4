"""Bodies: read with a limit, decoded strictly. What was read leaves its digest behind for the audit log."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from ebbtide.errors import BadInput, TooLarge
from ebbtide.north import media

#: Bytes of a body that are read and kept.
LIMIT = 1 << 20
#: Characters of a reason.
REASON = 1000
#: Bytes of a body that is too large which are taken off the wire and dropped, so that its sender gets to read the answer.
DRAIN = 1 << 26
#: Ids in one call; each is looked for among all computes.
MAX_IDS = 1024
#: Characters in one id: the longest (an OVSDB node id with a bridge) needs about 300.
MAX_ID = 512
T = TypeVar("T", bound=msgspec.Struct)


async def read(request: Request, limit: int = LIMIT) -> bytes:
    """The body.

    Raises:
        TooLarge: it is longer than `limit` bytes; no more than that was held in memory.
    """
    kept, size = bytearray(), 0
    declared = request.headers.get("content-length", "")
    long = declared.isdecimal() and int(declared) > limit
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if long or size > limit:
                long = True
                kept.clear()
                if size > DRAIN:
                    break
            else:
                kept += chunk
    except ClientDisconnect:
        raise BadInput("the body ended before it was complete", tag="malformed-message") from None
    if long:
        raise TooLarge(f"the body is longer than {limit} bytes: send less, or in several calls")
    request.state.digest = sha256(kept).hexdigest() if kept else ""
    return bytes(kept)


def decode(raw: bytes) -> Any:
    """A body as JSON.

    Raises:
        BadInput: malformed-message.
    """
    try:
        msgspec.json.decode(raw)  # the stricter of the two
        return json.loads(raw, object_pairs_hook=_object)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"the body is not JSON: {error}", tag="malformed-message") from None
    except RecursionError:
        raise BadInput("the body is nested too deeply", tag="malformed-message") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different (RFC 7493, section 2.3): of two, one would be lost without a word."""
    found = dict(pairs)
    if len(found) != len(pairs):
        counted = Counter(name for name, _ in pairs)
        twice = counted.most_common(1)[0][0]
        raise BadInput(f"{twice[:80]!r} is there twice in one object", tag="malformed-message")
    return found


async def struct(request: Request, kind: type[T]) -> T:
    """The body as a struct of `kind`; none is {}. What the query says of waiting is checked with it.

    Raises:
        BadInput: it is not JSON, or not of that shape, or `?wait=` has another value than "applied"; the path says where.
    """
    # Whoever asks for a body does its work next: when the answer is made, it is too late to refuse.
    waiting = request.query_params.get("wait", "")
    if waiting not in ("", "applied"):
        raise BadInput(f"wait={waiting[:40]}: it is wait=applied or nothing", "wait")
    raw = await read(request)
    if raw or request.headers.get("content-type"):
        media.check_body(request.headers.get("content-type", ""), (media.JSON, media.YANG))
    try:
        return msgspec.convert(decode(raw) if raw else {}, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        tag = (
            "unknown-element" if "unknown field" in message else "missing-element" if "missing" in message else ""
        ) or "invalid-value"
        raise BadInput(message, path.rstrip("`").lstrip("."), tag) from None


def check_ids(request: Request, ids: list[str] | tuple[str, ...], path: str) -> list[str]:
    """Ids as given, if they can be ids at all; noted for the audit log.

    Raises:
        BadInput: too many, too long, or with characters that no id has.
    """
    if len(ids) > MAX_IDS:
        raise BadInput(f"{len(ids)} ids in one call: at most {MAX_IDS}", path, "too-big")
    for position, text in enumerate(ids, 1):
        if not text or len(text) > MAX_ID or not text.isprintable():
            raise BadInput(
                f"id {position} ({text[:40]!r}) is none: 1 to {MAX_ID} printable characters", f"{path}[{position}]"
            )
    request.state.ids = list(ids)
    return list(ids)


def named(request: Request, given: str, name: str = "id") -> str:
    """The name of a thing to make: that of the path where there is one, else that of the body.

    Raises:
        BadInput: neither has one, or they differ.
    """
    path: str = request.path_params.get(name, "")
    if not path and not given:
        raise BadInput(
            f"{name} is missing: say in the body which it is, or PUT it under its name", name, "missing-element"
        )
    if path and given not in ("", path):
        raise BadInput(f"the path names {path[:80]}, and the body {given[:80]}", name)
    return path or given


def reason(given: str, name: str) -> str:
    """What an operator says for why something is done all the same.

    Raises:
        BadInput: it is longer than a line.
    """
    if len(given) > REASON or not given.isprintable():
        raise BadInput(f"{name}: a reason is one line of at most {REASON} characters", name)
    return given.strip()
