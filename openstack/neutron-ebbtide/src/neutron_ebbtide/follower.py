"""What the controller tells: hosts become agents, ports active or down.

Its events say only what to ask for: by the time one is read, it may be old. One thread listens, another asks and applies, so nothing older
is applied after something newer. Ports that were sent are asked for until they have settled, and so are, by turns, all that are bound and
not active, and, more slowly, all that are: what was said before Neutron could hear it is not said again. What was heard and could not be
applied is asked for again.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

from neutron_lib import context as contexts
from oslo_log import log

from neutron_ebbtide import hosts
from neutron_ebbtide.client import Client
from neutron_ebbtide.errors import Away, Refused
from neutron_ebbtide.statuses import ACTIVE, Statuses, Word

LOG = log.getLogger(__name__)
#: Seconds for which a port that was sent is asked for at each look.
FRESH = 60.0
#: Ports looked at in one turn, of those that are not active, and of those that are.
TURN, SLOW_TURN = 500, 50
#: Seconds before the next try when something has failed.
PAUSE = 1.0
#: What may be in the queue besides ids of ports.
_ALL, _HOSTS = "*", "hosts"


class Follower:
    """For as long as `holds` is set: this worker's turn."""

    def __init__(self, options: Any, holds: threading.Event, over: threading.Event) -> None:
        self._options, self._holds, self._over = options, holds, over
        self._client = Client(options)
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._fresh: dict[str, float] = {}
        self._statuses = Statuses()
        self._after = self._slowly_after = ""
        #: Another worker had its turn, and heard what was said.
        self._missed = False
        self._hosts_due = self._look_due = float("-inf")

    def sent(self, ports: list[str]) -> None:
        """These were sent just now."""
        self._fresh = {**self._fresh, **dict.fromkeys(ports, time.monotonic() + FRESH)}
        for name in ports:
            self._heard.put(name)

    def listen(self) -> None:
        """Hear the controller's events, until it is over."""
        client = Client(self._options)
        while not self._over.is_set():
            if not self._holds.wait(PAUSE):
                continue
            try:
                self._listen(client)
            except Away as error:
                LOG.warning("ebbtide: the controller's events are away: %s", error)
            except Exception:
                LOG.exception("ebbtide: listening failed")
            self._over.wait(PAUSE)

    def _listen(self, client: Client) -> None:
        for kind, facts in client.events():
            if self._over.is_set() or not self._holds.is_set():
                return
            if kind == "reset":
                self._heard.put(_ALL)
            if kind == "neutron-port":
                name = facts.get("name")
                self._heard.put(name if isinstance(name, str) else _ALL)
            elif kind:
                self._heard.put(_HOSTS)

    def run(self) -> None:
        """Ask and apply, until it is over."""
        while not self._over.is_set():
            if not self._holds.wait(PAUSE):
                self._heard_now(0)
                self._missed = True
                continue
            try:
                self._round(contexts.get_admin_context())
            except (Away, Refused) as error:
                LOG.warning("ebbtide: the controller tells nothing: %s", error)
                self._over.wait(PAUSE)
            except Exception:
                LOG.exception("ebbtide: following failed")
                self._over.wait(PAUSE)

    def _heard_now(self, patience: float) -> set[str]:
        """All that was heard, once there is something or `patience` seconds are over."""
        found: set[str] = set()
        try:
            found.add(self._heard.get(timeout=patience) if patience > 0 else self._heard.get_nowait())
            while True:
                found.add(self._heard.get_nowait())
        except queue.Empty:
            return found

    def _round(self, context: Any) -> None:
        heard = self._heard_now(min(self._look_due, self._hosts_due) - time.monotonic())
        if self._missed:
            heard.add(_ALL)
            self._missed = False
        try:
            self._apply(context, heard)
        except BaseException:
            for each in heard:
                self._heard.put(each)
            raise

    def _apply(self, context: Any, heard: set[str]) -> None:
        now = time.monotonic()
        self._ports(context, heard, now)
        if _HOSTS in heard or now >= self._hosts_due:
            beat = now >= self._hosts_due
            more = hosts.take(context, self._client.hosts(), self._options.hosts_interval / 2 if beat else None)
            if beat and not more:
                self._hosts_due = now + self._options.hosts_interval

    def _ports(self, context: Any, heard: set[str], now: float) -> None:
        ids = heard - {_ALL, _HOSTS}
        if now >= self._look_due:
            self._look_due = now + self._options.status_interval
            found, self._after = self._statuses.unsettled(context, self._after, TURN)
            slowly, self._slowly_after = self._statuses.settled(context, self._slowly_after, SLOW_TURN)
            self._fresh = {name: until for name, until in self._fresh.items() if until > now}
            ids |= {*found, *slowly, *list(self._fresh)[-TURN:]}
        told = self._client.ports(None if _ALL in heard else sorted(ids)) if ids or _ALL in heard else []
        words = [Word(each["id"], each["status"], tuple(each["hosts"]), tuple(each.get("visits", ()))) for each in told]
        until = time.monotonic() + self._options.lease / 3

        def still() -> None:
            if time.monotonic() > until or not self._holds.is_set():
                raise Away("what was heard of ports has grown old meanwhile")

        self._statuses.take(context, words, still)
        for word in words:
            if word.status == ACTIVE:
                self._fresh.pop(word.id, None)
