"""Media types: what a body may be, and what an answer is (RFC 8040, section 5.2; RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.exceptions import HTTPException

JSON = "application/json"
YANG = "application/yang-data+json"
#: What clients of the older style send and ask for (draft-bierman-netconf-restconf-02).
OLD = ("application/yang.data+json", "application/yang.operation+json", "application/yang.api+json")


def restconf(old: bool) -> tuple[str, ...]:
    """The media types of RESTCONF, the preferred one first."""
    return (JSON, YANG, *OLD) if old else (YANG, JSON)


def check_body(content_type: str, known: Sequence[str]) -> None:
    """Refuse a body of another kind.

    Raises:
        HTTPException: 415.
    """
    kind, _, parameters = content_type.partition(";")
    charset = parameters.replace(" ", "").lower()
    if kind.strip().lower() not in known or (charset.startswith("charset=") and charset[8:].strip('"') != "utf-8"):
        given = f"Content-Type {content_type!r}" if content_type else "a body without Content-Type"
        raise HTTPException(415, f"{given} is not read here: send {' or '.join(known[:2])} in UTF-8")


def choose(accept: str, known: Sequence[str]) -> str:
    """The media type to answer with.

    Raises:
        HTTPException: 406, when the client takes none of those known.
    """
    if not accept.strip():
        return known[0]
    best, found = 0.0, ""
    wishes = [_wish(part) for part in accept.split(",")]
    for kind in known:
        # The most specific range that fits decides (RFC 9110, section 12.5.1).
        fitting = [(rank, quality) for name, quality in wishes if (rank := _fit(name, kind))]
        quality = max(fitting)[1] if fitting else 0.0
        if quality > best:
            best, found = quality, kind
    if not found:
        raise HTTPException(406, f"Accept {accept!r} takes nothing that is offered here: {', '.join(known)}")
    return found


def for_errors(accept: str, old: bool) -> str:
    """The media type of an error: the wished one, else the default."""
    known = restconf(old)
    try:
        return choose(accept, known)
    except HTTPException:
        return known[0]


def _wish(part: str) -> tuple[str, float]:
    name, *parameters = (p.strip().lower() for p in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0


def _fit(name: str, kind: str) -> int:
    if name == kind:
        return 3
    if name == kind.partition("/")[0] + "/*":
        return 2
    return 1 if name == "*/*" else 0
