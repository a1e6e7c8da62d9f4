"""A RabbitMQ of one's own, in a lab's control namespace."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...errors import NotReady
from ..lab import Lab

PORT = 5672
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class Queue:
    """RabbitMQ. Its port mapper (epmd) lives in the namespace too, and ends with it."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab, self._directory = lab, directory

    url = f"rabbit://guest:guest@127.0.0.1:{PORT}/"

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
        (folder / "rabbitmq.conf").write_text("loopback_users = none\nvm_memory_high_watermark.absolute = 512MB\n")
        environment = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": "cloud@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(PORT),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        }
        self._lab.spawn("cloud-queue", [str(_SERVER)], env=environment)
