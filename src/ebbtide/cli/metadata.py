"""`ebbtide metadata-agent`: run one on a compute, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from ebbtide.cli.session import Session, connection_options, log_options, pass_session
from ebbtide.errors import BadInput, NotReady

if TYPE_CHECKING:
    from ebbtide.agent.proxy import Backend

#: Seconds for which the controller is waited for: a guest waits meanwhile.
_ASK = 5.0


@click.command("metadata-agent")
@click.option("--backend", required=True, metavar="URL", help="Nova's metadata API, as http://ADDRESS:8775.")
@click.option("--secret-file", required=True, metavar="FILE", help="The secret that is shared with it, in a file.")
@click.option(
    "--backend-cacert", metavar="FILE", default="", help="Certificates that it is checked against, for https."
)
@click.option("--ovsdb", metavar="TARGET", default="", help="Open vSwitch's database, if not the usual: unix:PATH, ...")
@log_options
@connection_options(hidden=False)
@pass_session
def metadata_agent(
    session: Session,
    backend: str,
    secret_file: str,
    backend_cacert: str,
    ovsdb: str,
    log_format: str,
    log_level: str,
) -> None:
    """Answer the VMs of this compute at http://169.254.169.254/.

    It asks the controller whose port is asking, and the backend in the name of that instance (`ebbtide port add --device ID --project ID`).
    SIGTERM and SIGINT end it, and take its port out of br-int. It needs root.

    \b
    Examples:
      ebbtide metadata-agent --backend http://192.0.2.7:8775 --secret-file /etc/ebbtide/metadata.secret
      ebbtide metadata-agent --url https://192.0.2.1:8181 --backend http://192.0.2.7:8775 --secret-file s
    """
    far = _backend(backend, secret_file, backend_cacert)
    from ebbtide import log

    log.configure(log_format, log_level)
    asyncio.run(_serve(session, far, ovsdb))


def _backend(url: str, secret_file: str, cacert: str) -> Backend:
    from ebbtide.agent.proxy import Backend

    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        port = 0
    if not port or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username is not None:
        raise BadInput(f"--backend {url!r}: it is http://ADDRESS:PORT or https://ADDRESS:PORT")
    try:
        with open(secret_file, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        raise BadInput(f"--secret-file {secret_file}: {error.strerror}") from None
    if not secret:
        raise BadInput(f"--secret-file {secret_file}: it is empty")
    if parts.scheme == "http":
        return Backend(parts.hostname, port, secret)
    import ssl

    try:
        return Backend(parts.hostname, port, secret, ssl.create_default_context(cafile=cacert or None))
    except OSError as error:
        raise BadInput(f"--backend-cacert {cacert}: {error}") from None


async def _serve(session: Session, backend: Backend, ovsdb: str) -> None:
    from ebbtide.agent.askers import Askers
    from ebbtide.agent.place import Wire, alone, open_place
    from ebbtide.agent.proxy import Proxy
    from ebbtide.cli.controller import notify

    client = session.client

    async def ask(lport: int) -> Mapping[str, Any] | None:
        query = {"lport": str(lport)}
        found = (await asyncio.to_thread(client.get, "/ports", query, timeout=_ASK)).get("ports")
        if not isinstance(found, list):
            raise NotReady(f"{client.place} does not know ports by lport: is it older than this agent?")
        return found[0] if len(found) == 1 and found[0].get("lport") == lport else None

    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    proxy = Proxy(Askers(ask, loop.time), backend)
    mark = alone()
    listener = await asyncio.to_thread(open_place)
    server = await asyncio.start_server(proxy.connected, sock=listener)
    wire = Wire(ovsdb)
    keeping = asyncio.create_task(wire.keep())
    notify(b"READY=1")
    await stopping.wait()
    notify(b"STOPPING=1")
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    # Before it falls silent: until the controller has seen that, nothing but this tells VMs' packets another way.
    await asyncio.to_thread(wire.unplug)
    server.close()
    await proxy.close()
    await server.wait_closed()
    mark.close()
