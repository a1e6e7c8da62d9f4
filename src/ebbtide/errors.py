"""Every error Ebbtide raises, drawn.

    EbbtideError
    ├── UserError                    the request is wrong; nothing was written
    │   ├── BadInput                 400  exit 2   malformed, unknown leaf, wrong type
    │   ├── NotFound                 404  exit 3   no such object
    │   ├── Refused                  409  exit 4   the request is clear, but may not be done now (one verdict per id)
    │   ├── MissingParent            442  exit 3   what it refers to is not there (a status of OpenDaylight's)
    │   ├── Forbidden                403  exit 4   the caller's role does not allow it
    │   └── TooLarge                 413  exit 2   more bytes than accepted
    ├── NotReady                     503  exit 5   a part it needs is away; try again
    │   ├── StoreUnreachable         503  exit 5   the store cannot be written; read-only until it is back
    │   └── StillWorking             409  exit 6   accepted and going on; the same call again waits for it
    ├── Unexpected                   500  exit 1   a broken invariant of ours
    └── ProtocolError                     closes the one connection that it concerns
        ├── LocalProtocolError            we asked the codec for something that the protocol does not allow
        └── RemoteProtocolError           the peer sent something that the protocol does not allow

The HTTP status and the exit code of each are its class attributes. Messages say
what, which one, why, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def some(names: Sequence[str], most: int) -> str:
    """The first of them for a sentence, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def discreet(text: str) -> str:
    """The same without the user and password that URLs in it may have (RFC 3986, 3.2.1): for messages, which are logged and stored."""
    import re

    # A slash is in no password that is written as it has to be; who writes one all the same is not to be betrayed by it.
    return re.sub(r"//[^\s?#]{1,200}@", "//", text)


class EbbtideError(Exception):
    """Root of the tree."""

    status: int = 500
    exit_code: int = 1
    tag: str = "operation-failed"


class UserError(EbbtideError):
    """The request is wrong; nothing was written."""

    status = 400
    exit_code = 2
    tag = "invalid-value"


class BadInput(UserError):
    """Malformed input. `path` is the instance path of the offending part, where there is one."""

    def __init__(self, message: str, path: str = "", tag: str = "invalid-value") -> None:
        super().__init__(message)
        self.path = path
        self.tag = tag


class TooLarge(UserError):
    """The body is larger than is accepted."""

    status = 413
    tag = "too-big"


class NotFound(UserError):
    """No such object."""

    status = 404
    exit_code = 3
    tag = "data-missing"


class MissingParent(UserError):
    """What the request refers to is not there. OpenDaylight's Neutron interface has this status, which no RFC knows."""

    status = 442
    exit_code = 3
    tag = "data-missing"


class Forbidden(UserError):
    """The caller may not do this."""

    status = 403
    exit_code = 4
    tag = "access-denied"


class Refused(UserError):
    """A clear request that may not be done now. `verdicts` holds one value per id, refused and not."""

    status = 409
    exit_code = 4
    tag = "operation-failed"

    def __init__(self, message: str, verdicts: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.verdicts = tuple(verdicts)


class StaleWriter(Refused):
    """Somebody else speaks for Neutron by now: what this one says may be older than what was said since."""

    tag = "stale-writer"


class NotReady(EbbtideError):
    """Something that the request needs is away."""

    status = 503
    exit_code = 5
    tag = "resource-denied"


class StoreUnreachable(NotReady):
    """The store cannot be written now. Nothing is forgotten; nothing new is accepted."""


class StillWorking(NotReady):
    """The work was accepted and goes on; `operation` names it."""

    status = 409
    exit_code = 6
    tag = "in-use"

    def __init__(self, message: str, operation: str = "") -> None:
        super().__init__(message)
        self.operation = operation


class Unexpected(EbbtideError):
    """A broken invariant: a fault of ours."""


class ProtocolError(EbbtideError):
    """Something on a wire is wrong. Concerns one connection only."""


class LocalProtocolError(ProtocolError):
    """We asked for something that the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""
