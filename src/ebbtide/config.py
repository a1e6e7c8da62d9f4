"""Settings of the controller: from flags, environment (EBBTIDE_*), and a TOML file, in that order; checked once.

Listeners are written as Open vSwitch writes them: ptcp:PORT:ADDRESS, pssl: for TLS (loopback unless an address is given).
"""

from __future__ import annotations

import math
import os
import ssl
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ebbtide.errors import BadInput

LOOPBACK = "127.0.0.1"
LOG_FORMATS = ("auto", "json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")
#: BFD's interval, in milliseconds: 0 turns it off in Open vSwitch, and slower than this it watches nothing.
BFD_INTERVALS = (1, 60_000)
#: Seconds for which an unknown address is asked for but once, at most: for as long it cannot be reached if it comes up meanwhile.
PUNT_TIMEOUT = 600
#: Durations that may be infinite: "never". Somebody waits for the others.
_ENDLESS = ("silence", "unreachable_grace", "loss_after")


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
    nat_patience: float = 300.0
    drain_share: float = 0.5
    loss_after: float = 60.0
    bfd_interval_ms: int = 65
    audit_wait: float = 30.0
    subnet_route_punt_timeout: int = 10
    log_format: str = "auto"
    log_level: str = "info"

    def check(self) -> Config:
        """Itself, if it makes sense.

        Raises:
            BadInput: a value is not possible; the message says which and what is.
        """
        if not self.state_dir:
            raise BadInput("state_dir = '': it is the path of a directory", "state_dir")
        self._check_directory()
        self._check_store()
        for name in ("ovsdb_listen", "openflow_listen"):
            parse_listen(name, getattr(self, name))
        if self.wants_tls():
            self._check_tls()
        self._check_http()
        for name, allowed in (
            ("admission", ("open", "approve")),
            ("log_format", LOG_FORMATS),
            ("log_level", LOG_LEVELS),
        ):
            if getattr(self, name) not in allowed:
                words = ", ".join(allowed[:-1]) + f" or {allowed[-1]}"
                raise BadInput(f"{name} = {getattr(self, name)!r}: it is {words}", name)
        for name in ("lag", "silence", "unreachable_grace", "nat_patience", "loss_after", "audit_wait"):
            value = getattr(self, name)
            if not value >= 0 or (math.isinf(value) and name not in _ENDLESS):
                never = ", or inf: never" if name in _ENDLESS else ""
                raise BadInput(f"{name} = {value:g}: it is a number of seconds, 0 or more{never}", name)
        if not 0 <= self.drain_share <= 1:
            raise BadInput(f"drain_share = {self.drain_share:g}: it is a part of all computes, 0 to 1", "drain_share")
        least, most = BFD_INTERVALS
        if not least <= self.bfd_interval_ms <= most:
            raise BadInput(
                f"bfd_interval_ms = {self.bfd_interval_ms}: it is {least} to {most} milliseconds", "bfd_interval_ms"
            )
        if not 0 <= self.subnet_route_punt_timeout <= PUNT_TIMEOUT:
            raise BadInput(
                f"subnet_route_punt_timeout = {self.subnet_route_punt_timeout}: it is 0 (no hold-off) to {PUNT_TIMEOUT} seconds",
                "subnet_route_punt_timeout",
            )
        return self

    def _check_directory(self) -> None:
        """It is made if it is not there; not below a file, or in the place of one."""
        directory = Path(self.state_dir)
        for path in (directory, *directory.parents):
            if os.path.isfile(path):  # Path.is_file raises where it may not look
                raise BadInput(
                    f"state_dir = '{directory}' cannot be a directory: {path} is a file; name another", "state_dir"
                )

    def _check_store(self) -> None:
        remotes = self.remotes()
        if self.store and not remotes:
            raise BadInput(f"store = {self.store!r} names no store: leave it empty for the private one", "store")
        for remote in remotes:
            kind, _, rest = remote.partition(":")
            host, _, port = rest.rpartition(":")
            bare = ":" not in host or (host.startswith("[") and host.endswith("]"))
            if not (kind == "unix" and rest) and not (
                kind == "tcp" and host.strip("[]") and bare and _is_port(port, 1)
            ):
                raise BadInput(
                    f"store = {remote!r}: it is tcp:ADDRESS:PORT (an IPv6 address in brackets) or unix:PATH, several with commas; "
                    "TLS is not spoken to a store",
                    "store",
                )

    def _check_http(self) -> None:
        host, _ = parse_http(self.http)
        if bool(self.http_cert) != bool(self.http_key):
            raise BadInput("http_cert and http_key go together", "http_cert")
        if not is_loopback(host) and not self.insecure and not (self.credentials and self.http_cert):
            raise BadInput(
                f"http = {self.http!r} is not loopback: give credentials and http_cert/http_key, or insecure = true",
                "http",
            )
        if self.http_cert:
            self._check_pair("http_cert", "http_key")
        if self.credentials:
            self._check_file("credentials", "a TOML file of users and tokens")

    def _check_tls(self) -> None:
        if not (self.ssl_cert and self.ssl_key and self.ssl_ca):
            raise BadInput("a pssl: listener needs ssl_cert, ssl_key and ssl_ca", "ssl_cert")
        self._check_pair("ssl_cert", "ssl_key")
        self._check_file("ssl_ca", "a PEM file")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(self.ssl_ca)
        except (OSError, ValueError) as error:
            raise BadInput(
                f"ssl_ca = {self.ssl_ca!r} cannot be used: {error}; it is certificates, PEM", "ssl_ca"
            ) from None

    def _check_pair(self, cert: str, key: str) -> None:
        for name in (cert, key):
            self._check_file(name, "a PEM file")
        files = getattr(self, cert), getattr(self, key)
        try:
            # A key with a passphrase would be asked for on a terminal: nobody sits there.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password="")
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{cert} = {files[0]!r} and {key} = {files[1]!r} cannot be used: {error}; they are a certificate "
                "with its chain and its key, PEM, without a passphrase",
                cert,
            ) from None

    def _check_file(self, name: str, what: str) -> None:
        try:
            Path(getattr(self, name)).read_bytes()
        except OSError as error:
            raise BadInput(
                f"{name} = {getattr(self, name)!r} cannot be read: {error.strerror}; it is {what}", name
            ) from None

    def wants_tls(self) -> bool:
        """Whether computes come by TLS."""
        return any(text.startswith("pssl:") for text in (self.ovsdb_listen, self.openflow_listen))

    def remotes(self) -> list[str]:
        """The stores named, none for the private one."""
        return [part.strip() for part in self.store.split(",") if part.strip()]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _is_port(text: str, least: int = 0) -> bool:
    return text.isascii() and text.isdecimal() and least <= int(text) < 65536


def parse_listen(name: str, text: str) -> tuple[str, int]:
    """(address, port) of ptcp:PORT[:ADDRESS], or pssl: for TLS.

    Raises:
        BadInput: it is not of this form.
    """
    parts = text.split(":", 2)
    if len(parts) < 2 or parts[0] not in ("ptcp", "pssl") or not _is_port(parts[1]):
        raise BadInput(f"{name} = {text!r}: it is ptcp:PORT or ptcp:PORT:ADDRESS, or pssl: for TLS", name)
    return (parts[2].strip("[]") if len(parts) == 3 and parts[2] else LOOPBACK), int(parts[1])


def parse_http(text: str) -> tuple[str, int]:
    """(address, port) of ADDRESS:PORT.

    Raises:
        BadInput: it is not of this form.
    """
    host, _, port = text.rpartition(":")
    if not host or not _is_port(port):
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
        except (OSError, ValueError) as error:  # no TOML, or not even text
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
