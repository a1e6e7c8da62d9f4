"""A RabbitMQ of one's own, in a lab's control namespace."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...errors import NotReady
from ..lab import Lab
from ..site import CONTROLLER

PORT = 5672
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class Queue:
    """RabbitMQ. Its port mapper (epmd) lives in the namespace too, and ends with it."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab, self._directory = lab, directory

    url = f"rabbit://guest:guest@127.0.0.1:{PORT}/"
    #: As computes reach it.
    url_of_computes = f"rabbit://guest:guest@{CONTROLLER}:{PORT}/"

    def start(self) -> None:
        """Start it; it answers some seconds later (`lab.connect`).

        Raises:
            NotReady: it is not installed.
        """
        if not _SERVER.exists() or shutil.which("epmd") is None:
            raise NotReady("RabbitMQ is not installed (rabbitmq-server): `scripts/setup-openstack.sh` installs it")
        folder = self._directory
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plugins").write_text("[].\n")
        listeners = [f"listeners.tcp.{n} = {at}:{PORT}" for n, at in enumerate(("127.0.0.1", CONTROLLER))]
        settings = ["loopback_users = none", "vm_memory_high_watermark.absolute = 512MB", *listeners]
        (folder / "rabbitmq.conf").write_text("\n".join([*settings, ""]))
        environment = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": "cloud@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        }
        self._lab.spawn("cloud-queue", [str(_SERVER)], env=environment)
