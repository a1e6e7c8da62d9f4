"""`ebbtide controller`: run one, until SIGTERM or SIGINT. Every setting of `config.Config` is an option here."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ebbtide.config import Config, load
from ebbtide.errors import NotReady

if TYPE_CHECKING:
    from ebbtide.app import App

HELP = {
    "state_dir": "Where the private store, and what else must survive, is kept.",
    "store": "Stores to use instead of a private one: tcp:ADDRESS:PORT,... (a cluster's members).",
    "ovsdb_listen": "Where computes register.",
    "openflow_listen": "Where their switches connect.",
    "ssl_cert": "Our certificate for pssl: listeners, PEM.",
    "ssl_key": "Its key, PEM.",
    "ssl_ca": "The authority that computes' certificates are checked against, PEM.",
    "http": "Where the REST interface is.",
    "http_cert": "Certificate of the REST interface, PEM.",
    "http_key": "Its key, PEM.",
    "credentials": "File of users and tokens (see `ebbtide user hash`).",
    "insecure": "Serve REST to other machines without credentials or TLS. It is logged, and shown in every status.",
    "admission": "Who may join: open (everybody) or approve (by `ebbtide compute approve`).",
    "lag": "Seconds that cached datapath flows may lag behind a barrier.",
    "silence": "Seconds of silence after which the holder of an identity counts as gone.",
    "unreachable_grace": "Seconds after which the services of an unreachable compute are elected anew.",
    "nat_patience": "Seconds that a NAT move waits for connections that are in no record.",
    "drain_share": "Part of all computes that a drain may take out without a reason, 0 to 1.",
    "loss_after": "Seconds of silence after which a compute is reported as lost, and may be drained as dead.",
    "bfd_interval_ms": "BFD's transmission interval in milliseconds.",
    "audit_wait": "Seconds that a scale-in end waits for its proof.",
    "subnet_route_punt_timeout": "Seconds for which an unknown address of a subnet is asked for but once.",
    "log_format": "auto (text on a terminal, else JSON), json or text.",
    "log_level": "debug, info, warning or error.",
}


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for field in reversed(msgspec.structs.fields(Config)):
        flag = f"--{field.name.replace('_', '-')}"
        text = HELP.get(field.name, f"Setting {field.name}.")
        if field.type is bool:
            function = click.option(flag, is_flag=True, default=None, help=text)(function)
            continue
        shown = f" [{field.default}]" if field.default != "" else ""
        metavar = "PART" if field.name == "drain_share" else {int: "N", float: "SECONDS"}.get(field.type, "TEXT")
        function = click.option(flag, default=None, metavar=metavar, help=text + shown)(function)
    return function


@click.command("controller")
@click.option("--config", "file", metavar="FILE", help="A TOML file with any of these, written with _ for -.")
@_options
def controller(file: str | None, **flags: Any) -> None:
    """Run a controller.

    Options win over the environment (EBBTIDE_STATE_DIR, ...), and that over the file. It listens on loopback unless told otherwise.
    SIGTERM and SIGINT end it in good order; no switch is changed by that. Under systemd (Type=notify) it is
    ready when it listens, and its status says whether it leads, stands by for another, or waits for the store.

    \b
    Examples:
      ebbtide controller --state-dir /var/lib/ebbtide
      ebbtide controller --config /etc/ebbtide.toml
      ebbtide controller --ovsdb-listen ptcp:6640:192.0.2.1 --openflow-listen ptcp:6653:192.0.2.1
    """
    config = load(flags, file)
    from ebbtide import log

    log.configure(config.log_format, config.log_level)
    sys.exit(asyncio.run(_serve(config)))


async def _serve(config: Config) -> int:
    """Run until asked to stop: 0; 5 if a part of it failed."""
    from ebbtide.app import App

    class Announced(App):
        """An App that tells the service manager that it listens, and whether it leads."""

        async def start(self) -> None:
            await super().start()
            self._start(_announce(self), "announce")

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        await Announced(config).run(stopping)
    except OSError as error:
        raise NotReady(f"the controller could not start: {error}") from error
    notify(b"STOPPING=1")
    return 0 if stopping.is_set() else NotReady.exit_code


async def _announce(app: App) -> None:
    """READY=1, since it listens (another controller may lead for days, and that is in order); then each change of what it is."""
    said = _standing(app)
    notify(f"READY=1\nSTATUS={said}".encode())
    while True:
        said = await _other_than(app, said)
        notify(f"STATUS={said}".encode())


async def _other_than(app: App, said: str) -> str:
    await app.cluster.changed.until(lambda: _standing(app) != said, float("inf"))
    return _standing(app)


def _standing(app: App) -> str:
    """What it is now, in one line."""
    store = app.cluster.store
    if store.leading.is_set():
        return "leading"
    if store.reachable:
        return "standing by: another controller leads"
    return f"waiting for the store: {' '.join(store.reason.split())}"


def notify(message: bytes) -> None:
    """Tell the service manager (sd_notify(3)), where there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message, address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            pass  # the manager went away: there is nobody to tell
