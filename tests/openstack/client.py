"""openstacksdk, as any user of a cloud has it; only its sockets are made in the lab's control namespace, where the cloud listens."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

import requests
from keystoneauth1.session import Session
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from ebbtide.lab import Lab


def connect(lab: Lab, credentials: Path, name: str) -> Any:
    """A connection to the cloud of this name in clouds.yaml. One thread at a time: each needs its own."""

    class Wire(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return lab.connect(self.host, self.port or 80)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Wire

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **named: Any) -> None:
            super().init_poolmanager(*args, **named)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool}

    wires = requests.Session()
    wires.trust_env = False
    wires.mount("http://", Adapter())
    settings = OpenStackConfig(
        config_files=[str(credentials)],
        load_envvars=False,
        session_constructor=partial(Session, session=wires),
        app_name="tests",
    )
    made = Connection(config=settings.get_one(name))
    # 2.53: services by UUID; 2.80: who asked for a migration.
    made.compute.default_microversion = "2.90"
    return made
