"""Who may do what. Without credentials everything is open, which `config` allows on loopback only.

Credentials are a TOML file:

    [[user]]                        # HTTP Basic (RFC 7617), as OpenDaylight's clients send
    name = "admin"
    password = "scrypt$..."         # made by `hash_secret`; or "plain:admin", for labs
    roles = ["read", "operate"]

    [[token]]                       # Bearer (RFC 6750)
    name = "ci"
    value = "sha256$..."            # made by `hash_token`; or "plain:...", for labs
    roles = ["read"]

Roles: `read` looks, `operate` changes (and looks), `force` does what overrides a safeguard (and all else): adopting a foreign
br-int, letting the brake go, backup and restore. A secret that was found right is remembered as a keyed digest, so that scrypt is
paid once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import tomllib
from ipaddress import ip_address
from pathlib import Path

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ebbtide.errors import BadInput, Forbidden

ROLES = ("read", "operate", "force")
_COST = {"n": 1 << 14, "r": 8, "p": 1}


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `level` is the highest of its roles, as an index of ROLES."""

    name: str
    level: int

    def may(self, role: str) -> bool:
        """Whether it has this role, or a higher one."""
        return self.level >= ROLES.index(role)


ANYBODY = Principal("-", len(ROLES) - 1)
NOBODY = Principal("", -1)


class _User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    password: str
    roles: tuple[str, ...]


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    value: str
    roles: tuple[str, ...]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: tuple[_User, ...] = ()
    token: tuple[_Token, ...] = ()


def hash_secret(password: str, salt: bytes | None = None) -> str:
    """A password for the file."""
    salt = os.urandom(16) if salt is None else salt
    key = hashlib.scrypt(password.encode(), salt=salt, maxmem=1 << 26, **_COST)
    return f"scrypt${_b64(salt)}${_b64(key)}"


def hash_token(token: str) -> str:
    """A token for the file. A token is long and random, so a plain digest is enough; `hash_secret` does too."""
    return "sha256$" + hashlib.sha256(token.encode()).hexdigest()


def matches(given: str, stored: str) -> bool:
    """Whether a secret is the stored one; in constant time for each kind."""
    if stored.startswith("plain:"):
        return hmac.compare_digest(given.encode(), stored[6:].encode())
    if stored.startswith("sha256$"):
        return hmac.compare_digest(hash_token(given), stored)
    _, salt, _ = stored.split("$")
    return hmac.compare_digest(hash_secret(given, base64.b64decode(salt)), stored)


class Credentials:
    """The users and tokens of one file."""

    def __init__(self, file: str) -> None:
        try:
            found = msgspec.convert(tomllib.loads(Path(file).read_text()), _File)
        except (OSError, ValueError, msgspec.ValidationError) as error:
            raise BadInput(f"credentials {file}: {error}", "credentials") from None
        self._users: dict[str, tuple[Principal, str]] = {}
        for user in found.user:
            self._users[user.name] = _principal(file, user.name, user.roles), _stored(file, user.name, user.password)
        self._tokens = [(_principal(file, t.name, t.roles), _stored(file, t.name, t.value)) for t in found.token]
        if not self._users and not self._tokens:
            raise BadInput(f"credentials {file}: no [[user]] and no [[token]] in it: nobody could do anything")
        self._key = os.urandom(32)
        self._known: dict[bytes, Principal] = {}
        self._nobody = hash_secret("")
        self._one_at_a_time = asyncio.Semaphore(1)

    async def check(self, header: str) -> Principal:
        """The principal that an Authorization header proves, or NOBODY."""
        digest = hmac.digest(self._key, header.encode(), "sha256")
        known = self._known.get(digest)
        if known is not None:
            return known
        scheme, _, rest = header.partition(" ")
        async with self._one_at_a_time:
            found = await asyncio.to_thread(self._look, scheme.lower(), rest.strip())
        if found is not NOBODY:
            if len(self._known) > 1000:
                self._known.clear()
            self._known[digest] = found
        return found

    def _look(self, scheme: str, rest: str) -> Principal:
        if scheme == "bearer":
            # Every token is compared, whichever fits: the time says nothing.
            return max((p for p, stored in self._tokens if matches(rest, stored)), key=_level, default=NOBODY)
        if scheme == "basic":
            try:
                name, colon, password = base64.b64decode(rest, validate=True).decode().partition(":")
            except ValueError:  # not base64, not even ASCII, or not UTF-8 within
                return NOBODY
            principal, stored = self._users.get(name, (NOBODY, self._nobody))
            return principal if matches(password, stored) and colon else NOBODY
        return NOBODY


def _level(principal: Principal) -> int:
    return principal.level


def _principal(file: str, name: str, roles: tuple[str, ...]) -> Principal:
    strange = sorted(set(roles) - set(ROLES))
    if strange or not roles or not name:
        raise BadInput(f"credentials {file}: {name!r} has roles {list(roles)}: choose from {', '.join(ROLES)}")
    return Principal(name, max(map(ROLES.index, roles)))


def _stored(file: str, name: str, stored: str) -> str:
    kind, _, rest = stored.partition("$")
    try:
        good = stored.startswith("plain:") or (kind == "sha256" and len(bytes.fromhex(rest)) == 32)
        good = good or (kind == "scrypt" and all(base64.b64decode(p, validate=True) for p in rest.split("$", 1)))
        good = good and (kind != "scrypt" or rest.count("$") == 1)
    except ValueError:
        good = False
    if not good:
        raise BadInput(f"credentials {file}: the secret of {name!r} is none: scrypt$SALT$KEY, sha256$HEX or plain:TEXT")
    return stored


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def demand(principal: Principal, role: str) -> None:
    """Refuse who lacks a role.

    Raises:
        HTTPException: 401, nobody is logged in.
        Forbidden: somebody is, and may not.
    """
    if principal is NOBODY:
        challenge = {"WWW-Authenticate": 'Basic realm="ebbtide", charset="UTF-8", Bearer realm="ebbtide"'}
        raise HTTPException(401, "credentials are needed: Basic, or a Bearer token", challenge)
    if not principal.may(role):
        raise Forbidden(f"{principal.name} lacks the role {role}")


def need(request: Request, role: str) -> None:
    """The same, within a handler."""
    demand(request.state.who, role)


def check_origin(headers: Headers) -> None:
    """A web page that somebody looks at must not write through their browser, which may know their credentials.

    Raises:
        Forbidden: the request comes from a page of another origin.
    """
    origin = headers.get("origin", "")
    theirs = origin.partition("://")[2].lower()  # none: "null", a page without an address
    if origin and (not theirs or theirs != headers.get("host", "").lower()):
        raise Forbidden(
            f"a page of {origin[:200]} may not write here: call it from a page of this address, or from no page"
        )


def check_host(headers: Headers) -> None:
    """Where no credentials are asked for, on loopback: a page's name may have been rebound to this machine.

    Raises:
        Forbidden: the request was sent to such a name.
    """
    host = headers.get("host", "")
    if host and not _is_local(host):
        raise Forbidden(f"Host {host!r} is not this machine's loopback: set credentials to serve it under other names")


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.count(":") == 1 else host.partition("]")[0].strip("[")
    name = name or host
    if name == "localhost":
        return True
    try:
        return bool(ip_address(name))
    except ValueError:
        return False
