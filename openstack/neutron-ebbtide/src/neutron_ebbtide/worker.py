"""The worker: sends what the journal names, brings ports' status and hosts back, and compares from time to time.

One of all in a deployment does so, the one that holds the lease; the others wait for it to fall silent. It runs in
neutron-periodic-workers.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from neutron_lib import context as contexts
from neutron_lib import worker
from oslo_config import cfg
from oslo_log import log

from neutron_ebbtide import compare, config, hosts, journal, objects, statuses
from neutron_ebbtide.client import Away, Client, Refused
from neutron_ebbtide.journal import Entry, Holder, Lost

LOG = log.getLogger(__name__)
#: Seconds between two looks at the journal, unless it is woken; between two tries while the controller is away, and at most.
LOOK, AWAY, LONG_AWAY = 0.5, 0.5, 10.0


class Worker(worker.BaseWorker):  # type: ignore[misc]
    """A process of its own: Neutron starts, stops and waits for it."""

    def __init__(self) -> None:
        super().__init__(worker_process_count=1, desc="ebbtide")
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str = "neutron-server", desc: str | None = None) -> None:
        """Begin."""
        super().start(name, desc)
        self._over.clear()
        sender = Sender(self._over)
        for does in (sender.run, sender.follow):
            thread = threading.Thread(target=does, name=f"ebbtide {does.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End; what is under way is finished."""
        self._over.set()
        self.wait()

    def wait(self) -> None:
        """Until it has ended."""
        for thread in self._threads:
            thread.join(timeout=10)

    def reset(self) -> None:
        """Nothing is read anew."""


class Sender:
    """What the worker does, while it holds the lease."""

    def __init__(self, over: threading.Event) -> None:
        self._over = over
        self._options = config.register(cfg.CONF)
        self._client = Client(self._options)
        self._holder = Holder(self._options.lease)
        self._holds = threading.Event()
        self._compared = float("-inf")
        self._away = AWAY

    def run(self) -> None:
        """Send, until it is over."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
            with suppress(FileNotFoundError):
                os.unlink(journal.wake_path())
            bell.bind(journal.wake_path())
            while not self._over.is_set():
                self._round(bell)
        with suppress(Exception):
            self._holder.release(contexts.get_admin_context())

    def _round(self, bell: socket.socket) -> None:
        context = contexts.get_admin_context()
        try:
            if not self._holder.hold(context):
                self._holds.clear()
                self._over.wait(min(2.0, self._options.lease / 3))
                return
            self._holds.set()
            if self.send(context):
                return
            if time.monotonic() - self._compared > self._options.compare_interval:
                compare.repair(context, self._client)
                self._compared = time.monotonic()
            self._away = AWAY
        except Away as error:
            LOG.warning("ebbtide: the controller is away, and what has changed waits: %s", error)
            self._over.wait(self._away)
            self._away = min(self._away * 2, LONG_AWAY)
            return
        except Lost:
            LOG.warning("ebbtide: another worker sends by now")
            return
        except Exception:
            LOG.exception("ebbtide: a round failed")
            self._over.wait(1.0)
            return
        bell.settimeout(LOOK)
        with suppress(OSError):
            bell.recv(16)

    # --- sending ---

    def send(self, context: Any) -> bool:
        """Send some of what waits; whether there was anything.

        Raises:
            Away: the controller does not answer: nothing is lost, all of it waits.
            Lost: another worker sends by now.
        """
        rows = journal.waiting(context, self._options.batch)
        if not rows:
            return False
        found = {kind: objects.read(context, kind, _ids(rows, kind)) for kind in objects.KINDS}
        for kind in objects.KINDS:
            there = [row for row in rows if row.kind == kind and row.id in found[kind]]
            self._say(context, kind, there, found[kind])
        for kind in reversed(objects.KINDS):
            for row in rows:
                if row.kind == kind and row.id not in found[kind]:
                    self._take_back(context, kind, row)
        self._ask_for_status(context, found["ports"])
        return True

    def _say(self, context: Any, kind: str, rows: list[Entry], found: dict[str, dict[str, Any]]) -> None:
        """All of a kind at once; each by itself if that is refused, so that one which is wrong hinders no other."""
        if not rows:
            return
        ids = list(dict.fromkeys(row.id for row in rows))
        try:
            self._client.post(kind, [found[i] for i in ids])
        except Refused as error:
            if len(ids) == 1:
                LOG.error("ebbtide: %s %s was refused: %s", kind, ids[0], error)
                self._holder.refused(context, rows, str(error))
                return
            for each in ids:
                self._say(context, kind, [row for row in rows if row.id == each], found)
            return
        self._holder.sent(context, [row.seq for row in rows])

    def _take_back(self, context: Any, kind: str, row: Entry) -> None:
        try:
            self._client.delete(kind, row.id)
        except Refused as error:
            LOG.error("ebbtide: %s %s could not be deleted: %s", kind, row.id, error)
            self._holder.refused(context, [row], str(error))
            return
        self._holder.sent(context, [row.seq])

    def _ask_for_status(self, context: Any, ports: dict[str, dict[str, Any]]) -> None:
        """What the controller had said before Neutron was ready to hear it, as at the end of a live migration."""
        ids = [name for name, port in ports.items() if port["status"] != "ACTIVE"]
        for found in self._client.ports(ids) if ids else ():
            statuses.take(context, found["id"], found["status"], found["hosts"])

    # --- following ---

    def follow(self) -> None:
        """Bring back what the controller tells, until it is over."""
        client = Client(self._options)
        while not self._over.is_set():
            if not self._holds.wait(1.0):
                continue
            try:
                self._listen(client)
            except (Away, Refused) as error:
                LOG.warning("ebbtide: the controller's events are away: %s", error)
            except Exception:
                LOG.exception("ebbtide: following failed")
            self._over.wait(1.0)

    def _listen(self, client: Client) -> None:
        asked = Client(self._options)
        told = float("-inf")
        for kind, facts in client.events():
            if self._over.is_set() or not self._holds.is_set():
                return
            context = contexts.get_admin_context()
            if kind in ("", "reset"):
                statuses.take_all(context, asked.ports())
            elif kind == "neutron-port":
                statuses.take(context, facts["name"], facts["status"], facts["hosts"])
            if kind != "neutron-port" or time.monotonic() - told > self._options.hosts_interval:
                hosts.take(context, asked.hosts())
                told = time.monotonic()


def _ids(rows: Iterable[Entry], kind: str) -> list[str]:
    return list(dict.fromkeys(row.id for row in rows if row.kind == kind))
