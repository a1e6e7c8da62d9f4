"""One cloud: brought up in an order in which everybody finds whom they need, hosts added, services stopped and started."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import NotReady
from ..commands import wait_until
from ..lab import Lab
from . import queue
from .database import Database
from .files import Files
from .queue import Queue
from .services import IDENTITY, REGION, Services

NAME = "lab"
#: A worker that is started only where there are agents of Neutron's own.
AGENTS = "neutron-rpc"
_DATABASES = ("keystone", "placement", "glance", "neutron", "nova_api", "nova_cell0", "nova")
#: Seconds for a service to answer.
_START = 120.0
Say = Callable[[str], None]


class Cloud:
    """A handle; any process may make one for a lab whose cloud is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.files = Files(lab)
        self.files.make()
        folder = self.files.folder
        self.database = Database(lab, folder("database"), self.files.password)
        self.queue = Queue(lab, folder("queue"))
        self.services = Services(lab, self.files, self.database)

    # --- all of it ---

    def up(self, hosts: Sequence[str], say: Say = lambda words: None) -> dict[str, float]:
        """Everything, with a nova-compute for each of these computes; what took how many seconds."""
        took: dict[str, float] = {}

        def step(name: str, *does: Callable[[], None]) -> None:
            say(name)
            began = time.monotonic()
            with ThreadPoolExecutor(max_workers=2) as pool:
                list(pool.map(lambda call: call(), does))
            took[name] = round(time.monotonic() - began, 1)

        services = self.services
        step("database and queue", self._start_database, self.queue.start)
        services.configure()
        self.write_credentials()
        makers = (services.make_neutron, services.make_nova, services.make_keystone, services.make_glance)
        step("tables", *makers, services.make_placement)
        step("identity", lambda: self.start("keystone"), self._await_queue)
        step("accounts", services.make_accounts)
        step("services", *(lambda n=name: self.start(n) for name in services.web() if name != "keystone"))
        step("workers", *(lambda n=name: services.start(n) for name in services.workers() if name != AGENTS))
        step("hosts", lambda: self.add_hosts(hosts))
        return took

    def _start_database(self) -> None:
        self.database.start()
        self.database.make(_DATABASES)

    def _await_queue(self) -> None:
        self._await_port("RabbitMQ", queue.PORT)

    def _await_port(self, name: str, port: int) -> None:
        wait_until(lambda: self._listens(port), f"{name} to answer", _START, every=0.1)

    # --- services ---

    def start(self, name: str) -> None:
        """Start a service, and wait until it answers, if it does; a nova-compute until it has reported."""
        _, mark, host = name.partition("compute-")
        before = self._reports(host) if mark else ""
        self.services.start(name)
        if mark:
            wait_until(lambda: self._reports(host) != before, f"nova-compute of {host} to report", _START, every=0.5)
        web = self.services.web().get(name)
        if web is not None:
            wait_until(lambda: self._answers(name, web.port), f"{name} to answer", _START, every=0.2)

    def _answers(self, name: str, port: int) -> bool:
        """Whether it speaks HTTP: its port is open long before."""
        if self.lab.spawned(f"cloud-{name}") is None:
            raise NotReady(f"{name} has ended: look at {self.lab.site.run_directory}/cloud-{name}.log")
        try:
            with self.lab.connect("127.0.0.1", port, deadline=10) as wire:
                wire.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return wire.recv(5) == b"HTTP/"
        except (OSError, NotReady):
            return False

    def stop(self, name: str) -> None:
        """End a service."""
        self.services.stop(name)
        web = self.services.web().get(name)
        if web is not None:
            wait_until(lambda: not self._listens(web.port), f"{name} to let go of its port", 30)

    def restart(self, name: str) -> None:
        """End it, and start it anew."""
        self.stop(name)
        self.start(name)

    def _listens(self, port: int) -> bool:
        try:
            self.lab.connect("127.0.0.1", port, deadline=1).close()
        except (OSError, NotReady):
            return False
        return True

    def add_hosts(self, hosts: Iterable[str]) -> None:
        """Nova-computes for computes of the lab that have none, known to Nova when this returns."""
        added = list(hosts)
        for host in added:
            self.services.start(f"compute-{host}")
        wait_until(
            lambda: set(added) <= self.hosts_up(), f"nova-compute of {', '.join(added)} to be up", _START, every=0.5
        )
        self.services.discover()

    def _reports(self, host: str) -> str:
        """How often its nova-compute has: the first time when it is done with what it has found at its start."""
        found = "SELECT report_count FROM nova.services WHERE `binary` = 'nova-compute' AND deleted = 0"
        return self.database.ask(f"{found} AND host = '{host}'")

    def hosts_up(self) -> set[str]:
        """Hosts whose nova-compute has reported, and whose room is known to Placement."""
        found = (
            "SELECT host FROM nova.services WHERE `binary` = 'nova-compute' AND deleted = 0 AND report_count > 0",
            "SELECT DISTINCT p.name FROM placement.resource_providers p JOIN placement.inventories i"
            " ON i.resource_provider_id = p.id",
        )
        return set.intersection(*(set(self.database.ask(each).split()) for each in found))

    # --- for its users ---

    @property
    def credentials(self) -> Path:
        """clouds.yaml: OS_CLIENT_CONFIG_FILE, with OS_CLOUD=lab."""
        return self.files.directory / "clouds.yaml"

    def write_credentials(self) -> None:
        """As openstacksdk reads them. JSON is YAML."""
        account: dict[str, Any] = {
            "auth_url": IDENTITY,
            "username": "admin",
            "password": self.files.password,
            "project_name": "admin",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
        cloud = {"auth": account, "region_name": REGION, "identity_api_version": "3"}
        self.files.write(self.credentials, json.dumps({"clouds": {NAME: cloud}}, indent=1) + "\n")
