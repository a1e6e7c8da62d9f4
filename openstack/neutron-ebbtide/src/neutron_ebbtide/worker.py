"""The worker: sends what the journal names, and brings ports' status and hosts back.

One of all in a deployment does so, the one that holds the lease; the others wait for it to fall silent. It runs in
neutron-periodic-workers.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import sqlalchemy as sa
from neutron_lib import context as contexts
from neutron_lib import worker
from neutron_lib.db import api as db_api
from oslo_config import cfg
from oslo_log import log

from neutron_ebbtide import config, journal
from neutron_ebbtide.errors import Away, Lost
from neutron_ebbtide.follower import Follower
from neutron_ebbtide.journal import Holder
from neutron_ebbtide.sender import Sender

LOG = log.getLogger(__name__)
#: Seconds between two looks at the journal, unless it is woken; between two tries while the controller is away, and at most; at the lease.
LOOK, AWAY, LONG_AWAY, TURN = 0.5, 0.5, 10.0, 2.0


class Worker(worker.BaseWorker):
    """A process of its own: Neutron starts, stops and waits for it."""

    def __init__(self) -> None:
        super().__init__(worker_process_count=1, desc="ebbtide")
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, name: str = "neutron-server", desc: str | None = None) -> None:
        """Begin."""
        options, holds = config.register(cfg.CONF), threading.Event()
        # Before others who hear that it starts ask the database.
        _leave_nothing_locked(options.lease)
        super().start(name, desc)
        self._over.clear()
        follower = Follower(options, holds, self._over)
        turns = Turns(options, holds, self._over, follower)
        for does in (turns.run, follower.listen, follower.run):
            thread = threading.Thread(
                target=self._keep_at, args=(does,), name=f"ebbtide {does.__qualname__}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def _keep_at(self, does: Callable[[], None]) -> None:
        """Whatever ends one of these, Neutron would go on without it, and nobody would know."""
        while not self._over.is_set():
            try:
                does()
            except Exception:
                LOG.exception("ebbtide: %s has ended, and begins again", does.__qualname__)
                self._over.wait(TURN)

    def stop(self) -> None:
        """End; what is under way is finished."""
        self._over.set()
        self.wait()

    def wait(self) -> None:
        """Until it has ended. Who listens hears of it when the controller says something, and is not waited for."""
        for thread in self._threads:
            if "listen" not in thread.name:
                thread.join(timeout=10)

    def reset(self) -> None:
        """Nothing is read anew."""


def _leave_nothing_locked(seconds: int) -> None:
    """Have the database give up what this process has begun and says nothing more of: its host may have vanished, and whoever takes over
    would wait for what it has locked. MariaDB is asked for it; MySQL has `wait_timeout` alone, which ends idle connections, too."""

    def tell(connection: Any, _: Any) -> None:
        try:
            with closing(connection.cursor()) as cursor:
                cursor.execute("SHOW VARIABLES LIKE 'idle_transaction_timeout'")
                found = cursor.fetchone()
                if found and not 0 < int(found[1]) < seconds:
                    cursor.execute(f"SET SESSION idle_transaction_timeout = {seconds}")
        except Exception as error:
            # Raised here it would keep this process from the database.
            LOG.warning("ebbtide: the database cannot be asked to give up what a vanished worker has begun: %s", error)

    engine = db_api.CONTEXT_WRITER.get_engine()
    sa.event.listen(engine, "connect", tell)
    # Connections that were made before have not been told.
    engine.pool.dispose()


def _bell() -> socket.socket:
    """By which Neutron's processes on this machine wake the worker; one that nobody can ring, if there cannot be another."""
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bell.settimeout(LOOK)
    path = journal.wake_path()
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        bell.bind(path)
    except OSError as error:
        LOG.warning("ebbtide: %s cannot be made (%s): what has changed is seen every %s s", path, error, LOOK)
        bell.bind("")
    return bell


class Turns:
    """Takes the lease, and sends while it has it."""

    def __init__(self, options: Any, holds: threading.Event, over: threading.Event, follower: Follower) -> None:
        self._options, self._holds, self._over = options, holds, over
        self._holder = Holder(options.lease)
        self._sender = Sender(options, self._holder, follower.sent)
        self._away = AWAY

    def run(self) -> None:
        """Until it is over."""
        with closing(_bell()) as bell:
            while not self._over.is_set():
                if not self._round():
                    with suppress(OSError):
                        bell.recv(16)
        self._holds.clear()
        with suppress(Exception):
            self._holder.release()

    def _round(self) -> bool:
        """Whether to go on at once."""
        context = contexts.get_admin_context()
        try:
            if not self._holder.hold():
                self._holds.clear()
                self._over.wait(min(TURN, self._options.lease / 4))
                return True
            self._holds.set()
            more = self._sender.round(context)
            self._away = AWAY
            return more
        except Away as error:
            LOG.warning(
                "ebbtide: what has changed waits: the controller is away, or wants to hear nothing now: %s", error
            )
            self._over.wait(self._away)
            self._away = min(self._away * 2, LONG_AWAY, self._options.lease / 4)
        except Lost as error:
            self._holds.clear()
            LOG.warning("ebbtide: this worker does not send any more: %s", error)
            with suppress(Exception):
                # If it is not another one's by now, whoever is next gets a higher number.
                self._holder.release()
            self._over.wait(AWAY)
        except Exception:
            LOG.exception("ebbtide: a round failed")
            self._over.wait(AWAY)
        return True
