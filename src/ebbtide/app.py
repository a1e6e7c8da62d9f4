"""Wires the parts together: store, cluster, service, listeners, HTTP; starts them and stops them.

`App` takes listening sockets from whoever has them (the lab makes them in a namespace of its own), or makes them as configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from ebbtide import config as settings
from ebbtide.errors import BadInput
from ebbtide.runtime import collector
from ebbtide.runtime.cluster import Cluster, Settings
from ebbtide.runtime.private_store import PrivateStore
from ebbtide.runtime.service import Service
from ebbtide.runtime.state_directory import StateDirectory

if TYPE_CHECKING:
    import uvicorn

log = structlog.get_logger("app")
LIMIT = 1 << 24


class App:
    """One controller. `async with` it, or `run()` it."""

    def __init__(
        self,
        config: settings.Config,
        *,
        ovsdb: socket.socket | None = None,
        openflow: socket.socket | None = None,
        http: socket.socket | None = None,
        web: bool = True,
    ) -> None:
        self.config = config
        self.directory = StateDirectory(Path(config.state_dir))
        self.private = None if config.remotes() else PrivateStore(self.directory.path)
        self._sockets = (ovsdb, openflow, http)
        self._serves_web = web
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[asyncio.Server] = []
        self._web: uvicorn.Server | None = None
        self.cluster: Cluster
        self.service: Service

    async def __aenter__(self) -> App:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything; returns when the listeners are open (not when it leads)."""
        config = self.config
        self.directory.hold()
        ovsdb, openflow, http = self._sockets
        ovsdb = ovsdb or _listen(settings.parse_listen("ovsdb_listen", config.ovsdb_listen))
        openflow = openflow or _listen(settings.parse_listen("openflow_listen", config.openflow_listen))
        remotes = config.remotes()
        if self.private is not None:
            await self.private.ensure()
            self._start(self.private.watch(), "private-store")
            remotes = [self.private.remote]
        self.cluster = Cluster(
            remotes,
            Settings(
                open_admission=config.admission == "open",
                lag=config.lag,
                silence=config.silence,
                unreachable_grace=config.unreachable_grace,
                drain_share=config.drain_share,
                loss_after=config.loss_after,
                nat_patience=config.nat_patience,
                bfd_interval=config.bfd_interval_ms,
                audit_wait=config.audit_wait,
                hold_off=config.subnet_route_punt_timeout,
                openflow_port=openflow.getsockname()[1],
                openflow_tls=config.openflow_listen.startswith("pssl:"),
            ),
            asyncio.get_running_loop().time,
            str(uuid.uuid4()),
            Path(config.state_dir) / "connections.log",
            Path(config.state_dir) / "proof.key",
        )
        self.service = Service(self.cluster)
        self._start(self.cluster.run(), "cluster")
        self._start(self.service.run(), "service")
        self._servers = [
            await self._serve(self.cluster.accept_ovsdb, ovsdb, config.ovsdb_listen),
            await self._serve(self.cluster.accept_openflow, openflow, config.openflow_listen),
        ]
        log.info("listening", ovsdb=ovsdb.getsockname()[:2], openflow=openflow.getsockname()[:2], pid=os.getpid())
        if self._serves_web:
            self._start_web(http or _listen(settings.parse_http(config.http)))

    async def _serve(self, accept: Callable[..., None], sock: socket.socket, listen: str) -> asyncio.Server:
        tls = self._tls() if listen.startswith("pssl:") else None
        return await asyncio.start_server(accept, sock=sock, limit=LIMIT, backlog=1024, ssl=tls)

    def _tls(self) -> ssl.SSLContext:
        """TLS for computes: both sides show a certificate, theirs of the authority named in `ssl_ca`."""
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.config.ssl_ca)
            context.load_cert_chain(self.config.ssl_cert, self.config.ssl_key)
        except (OSError, ssl.SSLError) as error:
            raise BadInput(f"ssl_cert, ssl_key or ssl_ca cannot be used: {error}", "ssl_cert") from None
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _start_web(self, sock: socket.socket) -> None:
        # Imported here: an embedded controller without HTTP has no use for a web server.
        import uvicorn

        from ebbtide.north.server import build

        web = uvicorn.Config(
            build(self.service, self.config),
            log_config=None,
            access_log=False,
            lifespan="off",
            # Else a header would say who asks, and the audit log would believe it.
            proxy_headers=False,
            ssl_certfile=self.config.http_cert or None,
            ssl_keyfile=self.config.http_key or None,
            timeout_graceful_shutdown=1,
            ws="wsproto",
            # Nobody who listens has much to say.
            ws_max_size=1 << 12,
            ws_per_message_deflate=False,
        )
        server = uvicorn.Server(web)
        # Signals are the business of whoever runs this App.
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        self._web = server
        self._start(server.serve(sockets=[sock]), "http")
        log.info("http", http=sock.getsockname()[:2])
        if self.config.insecure:
            lacking = [
                word
                for word, given in (("credentials", self.config.credentials), ("TLS", self.config.http_cert))
                if not given
            ]
            log.warning("insecure", without=lacking, reason="insecure = true: REST may be served to any address so")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def stop(self) -> None:
        """Close every session and stop; no switch is changed by that."""
        if self._web is not None:
            # Streams have no end of their own: without this, the server would wait for their watchers.
            self._web.config.app.state.hub.close()  # type: ignore[union-attr]
            self._web.should_exit = True
        for server in self._servers:
            server.close()
        if hasattr(self, "cluster"):
            await self.cluster.shut()
        if self._web is not None:
            await asyncio.wait([t for t in self._tasks if t.get_name() == "http"], timeout=2)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            # In a directory that is another's, the store is its too.
            if self.private is not None and self.directory.held:
                await self.private.stop()
        finally:
            self.directory.leave()

    async def run(self, stopping: asyncio.Event) -> None:
        """Start, and stop when asked, or when a part fails."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        stopped = asyncio.create_task(stopping.wait())
        collector.own()
        try:
            await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    log.error("part_failed", part=task.get_name(), reason=repr(task.exception()))
        finally:
            stopped.cancel()
            await self.stop()


def _listen(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.create_server(address, family=family, backlog=1024)
    sock.setblocking(False)
    return sock
