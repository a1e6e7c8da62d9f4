"""Settings of the controller: from flags, environment (EBBTIDE_*), and a TOML file, in that order; checked once.

Listeners are written as Open vSwitch writes them: ptcp:PORT:ADDRESS, pssl: for TLS (loopback unless an address is given).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ebbtide.errors import BadInput

LOOPBACK = "127.0.0.1"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. Times in seconds."""

    state_dir: str = "/var/lib/ebbtide"
    store: str = ""
    ovsdb_listen: str = "ptcp:6640:127.0.0.1"
    openflow_listen: str = "ptcp:6653:127.0.0.1"
    ssl_cert: str = ""
    ssl_key: str = ""
    ssl_ca: str = ""
    http: str = "127.0.0.1:8181"
    http_cert: str = ""
    http_key: str = ""
    credentials: str = ""
    insecure: bool = False
    admission: str = "approve"
    lag: float = 1.0
    silence: float = 60.0
    unreachable_grace: float = 300.0
    bfd_interval_ms: int = 100
    audit_wait: float = 30.0
    log_format: str = "auto"
    log_level: str = "info"

    def check(self) -> Config:
        """Itself, if it makes sense.

        Raises:
            BadInput: a value is not possible; the message says which and what is.
        """
        for name in ("ovsdb_listen", "openflow_listen"):
            parse_listen(name, getattr(self, name))
        if self.wants_tls() and not (self.ssl_cert and self.ssl_key and self.ssl_ca):
            raise BadInput("a pssl: listener needs ssl_cert, ssl_key and ssl_ca", "ssl_cert")
        host, _ = parse_http(self.http)
        if self.admission not in ("open", "approve"):
            raise BadInput(f"admission = {self.admission!r}: it is open or approve", "admission")
        if bool(self.http_cert) != bool(self.http_key):
            raise BadInput("http_cert and http_key go together", "http_cert")
        if not is_loopback(host) and not self.insecure and not (self.credentials and self.http_cert):
            raise BadInput(
                f"http = {self.http!r} is not loopback: give credentials and http_cert/http_key, or insecure = true",
                "http",
            )
        return self

    def wants_tls(self) -> bool:
        """Whether computes come by TLS."""
        return any(text.startswith("pssl:") for text in (self.ovsdb_listen, self.openflow_listen))

    def remotes(self) -> list[str]:
        """The stores named, none for the private one."""
        return [part.strip() for part in self.store.split(",") if part.strip()]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    return host in ("localhost", "::1") or host.startswith("127.")


def parse_listen(name: str, text: str) -> tuple[str, int]:
    """(address, port) of ptcp:PORT[:ADDRESS], or pssl: for TLS.

    Raises:
        BadInput: it is not of this form.
    """
    parts = text.split(":", 2)
    if len(parts) < 2 or parts[0] not in ("ptcp", "pssl") or not parts[1].isdecimal() or not 0 <= int(parts[1]) < 65536:
        raise BadInput(f"{name} = {text!r}: it is ptcp:PORT or ptcp:PORT:ADDRESS, or pssl: for TLS", name)
    return (parts[2].strip("[]") if len(parts) == 3 and parts[2] else LOOPBACK), int(parts[1])


def parse_http(text: str) -> tuple[str, int]:
    """(address, port) of ADDRESS:PORT.

    Raises:
        BadInput: it is not of this form.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise BadInput(f"http = {text!r}: it is ADDRESS:PORT", "http")
    return host.strip("[]"), int(port)


def load(flags: Mapping[str, Any], file: str | None = None, environment: Mapping[str, str] = os.environ) -> Config:
    """Settings from the file, overridden by the environment, overridden by flags (those that are not None).

    Raises:
        BadInput: the file cannot be read, a name is unknown, or a value is not possible.
    """
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found.update(tomllib.loads(Path(file).read_text()))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise BadInput(f"{file}: {error}") from None
    known = {field.name: field.type for field in msgspec.structs.fields(Config)}
    for name in known:
        value = environment.get(f"EBBTIDE_{name.upper()}")
        if value is not None:
            found[name] = value
    found.update({k: v for k, v in flags.items() if v is not None})
    try:
        return msgspec.convert(found, Config, strict=False).check()
    except msgspec.ValidationError as error:
        raise BadInput(f"settings: {error}; known are {', '.join(sorted(known))}") from None
