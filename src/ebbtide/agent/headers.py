"""What the backend (Nova's metadata API, or what speaks as it) is told of a request. Pure.

Nova believes X-Instance-ID, X-Tenant-ID and X-Forwarded-For when X-Instance-ID-Signature is right: HMAC-SHA256 of the instance id under a
secret that it shares with the agent. So nothing of a guest's own may come through under such a name; and since web servers take "_" for "-"
in names, only those that are listed come through at all.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Header = tuple[bytes, bytes]
_FROM_GUEST = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"content-encoding",
        b"content-type",
        b"user-agent",
        b"x-aws-ec2-metadata-token",
        b"x-aws-ec2-metadata-token-ttl-seconds",
    }
)
#: Of one connection, not of what is carried (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class Asker(NamedTuple):
    """Who asks: a port, and whose it is. `address`: the VM's own ("": it was given none)."""

    port: str
    address: str
    device: str
    project: str


def signature(secret: bytes, instance: str) -> str:
    """What proves to the backend that the agent says which instance asks."""
    return hmac.new(secret, instance.encode(), hashlib.sha256).hexdigest()


def to_backend(asked: Iterable[Header], asker: Asker, secret: bytes, host: str, body: bytes) -> list[Header]:
    """The headers of the request that goes on. `asked`: those of the guest, names in lower case."""
    told = {
        "Host": host,
        "Connection": "close",
        "X-Instance-ID": asker.device,
        "X-Instance-ID-Signature": signature(secret, asker.device),
        "X-Tenant-ID": asker.project,
    }
    if asker.address:
        told["X-Forwarded-For"] = asker.address
    if body:
        told["Content-Length"] = str(len(body))
    own = [(name.encode(), value.encode()) for name, value in told.items()]
    return own + [(name, value) for name, value in asked if name in _FROM_GUEST]


def to_guest(answered: Sequence[Header]) -> list[Header]:
    """The headers of the answer that goes back."""
    named = {part.strip().lower() for name, value in answered if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in answered if name not in _HOP_BY_HOP | named]


def path_of(target: bytes) -> bytes | None:
    """Path and query that are asked for, of a target as RFC 9112 (section 3.2) has it; None: it is none for a server."""
    if target[:7].lower() == b"http://":
        rest = target[7:]
        target = rest[rest.index(b"/") :] if b"/" in rest else b"/"
    return target if target.startswith(b"/") else None
