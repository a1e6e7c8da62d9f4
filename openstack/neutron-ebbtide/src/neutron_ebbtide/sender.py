"""What the journal names is said to the controller: read when it is sent, many objects in a call.

Only the worker that holds the lease sends. It renews that between calls, and each call is shorter than what is left of it; if a call of an
earlier one arrives late all the same, its number is too low, and the controller takes nothing from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from oslo_log import log

from neutron_ebbtide import compare, journal, objects, statuses
from neutron_ebbtide.client import MOST_BYTES, Client, encoded
from neutron_ebbtide.errors import Away, Refused
from neutron_ebbtide.journal import Entry, Holder

LOG = log.getLogger(__name__)
#: Rows read at a time.
ROWS = 1000
#: What the controller answers when it lacks what an object is in; and seconds until that leads to another comparison.
_NO_PARENT, _PARENTS = 442, 30.0
#: Objects in one call while the controller is slow.
_LEAST = 20
#: Rows of deleted objects that are taken out of the journal at a time.
_GONE = 50
_NEWER = "the controller knows a later change than Neutron: if its database was restored, `neutron-ebbtide-sync --repair --force`"


class _Orphans(Exception):
    """The controller lacks what some of these are in."""


class Sender:
    """What the worker does while it holds the lease. `sent` is told of ports that may become active."""

    def __init__(self, options: Any, holder: Holder, sent: Callable[[list[str]], None]) -> None:
        self._options, self._holder, self._sent = options, holder, sent
        self._client = Client(options)
        self._most: int = options.batch
        #: When each kind was compared last; and all at once.
        self._compared: dict[str, float] = {}
        self._compared_all = float("-inf")

    def round(self, context: Any) -> bool:
        """Send some of what waits, and compare one kind, if one is due. Whether there may be more.

        Raises:
            Away: the controller does not answer: nothing is lost, all of it waits.
            Lost: another worker sends by now.
        """
        self._keep()
        try:
            more = self._send(context)
            due = self._due()
            # One at a time, so that neither keeps the other from being done.
            self._compare(context, due[:1])
            return more or len(due) > 1
        except _Orphans:
            # It has lost something: its store, say. What is in what it has lost can be said after that.
            self._compare(context, objects.KINDS)
            self._compared_all = time.monotonic()
            return True
        except Away:
            # It may have been too much for it; and what it was told before, it may have lost.
            self._most = max(self._most // 2, min(_LEAST, self._options.batch))
            self._compared.clear()
            raise

    def _keep(self) -> None:
        self._holder.keep()
        if self._client.writer != self._holder.generation:
            self._client.writer = self._holder.generation
            try:
                # From now on the controller takes nothing from whoever had the lease before, whatever comes first of ours.
                self._client.post("networks", [])
                # What another has said meanwhile, and how, is not known.
                self._compared.clear()
            except Exception:
                self._client.writer = 0
                raise

    def _due(self) -> list[str]:
        """Kinds that are to be compared."""
        now, never = time.monotonic(), float("-inf")
        interval = self._options.compare_interval
        return [kind for kind in objects.KINDS if now - self._compared.get(kind, never) > interval]

    def _compare(self, context: Any, kinds: Sequence[str]) -> None:
        if kinds:
            compare.repair(context, self._client, keep=self._keep, kinds=kinds)
            self._compared |= dict.fromkeys(kinds, time.monotonic())

    def _send(self, context: Any) -> bool:
        rows = journal.waiting(context, ROWS, objects.KINDS)
        strange = [row for row in rows if not objects.has(row.kind)]
        if strange:
            # Without its plugin nobody knows what is there: it is not gone.
            self._holder.refused(
                strange, "the worker's Neutron has no plugin for this: is it configured as the API's is?"
            )
            return True
        # What is there is read after the rows: a change that comes later has a row of its own.
        bad: set[tuple[str, str]] = set()
        found = {
            kind: self._read(context, kind, _ids(rows, kind), rows, bad) for kind in objects.KINDS if objects.has(kind)
        }
        whole = len(rows)
        rows = [row for row in rows if (row.kind, row.id) not in bad]
        for kind in found:
            there = [row for row in rows if row.kind == kind and row.id in found[kind]]
            self._say_all(kind, there, found[kind])
        for kind in reversed(found):
            self._take_back(kind, [row for row in rows if row.kind == kind and row.id not in found[kind]])
        if whole:
            self._sent([name for name, port in found["ports"].items() if statuses.unsettled(port)])
            self._most = min(self._most * 2, self._options.batch)
        return bool(whole)

    def _read(
        self, context: Any, kind: str, ids: list[str], rows: Sequence[Entry], bad: set[tuple[str, str]]
    ) -> dict[str, dict[str, Any]]:
        """Those that are there. One that Neutron itself cannot read waits, is in `bad`, and is not taken for gone."""
        try:
            return objects.read(context, kind, ids) if ids else {}
        except Exception as error:
            if len(ids) > 1:
                halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
                found = [self._read(context, kind, half, rows, bad) for half in halves]
                return found[0] | found[1]
            LOG.exception("ebbtide: Neutron cannot read %s %s", kind, ids[0])
            own = [row for row in rows if (row.kind, row.id) == (kind, ids[0])]
            self._holder.refused(own, f"Neutron cannot read it: {error}")
            bad.add((kind, ids[0]))
            return {}

    def _say_all(self, kind: str, rows: list[Entry], found: dict[str, dict[str, Any]]) -> None:
        """As few calls as hold them."""
        bodies = {i: encoded(found[i]) for i in dict.fromkeys(row.id for row in rows)}
        part: list[str] = []
        size = 0
        for name, body in bodies.items():
            if part and (len(part) >= self._most or size + len(body) > MOST_BYTES):
                self._say(kind, part, rows, bodies, found)
                part, size = [], 0
            part.append(name)
            size += len(body) + 1
        if part:
            self._say(kind, part, rows, bodies, found)

    def _say(
        self,
        kind: str,
        ids: Sequence[str],
        rows: Sequence[Entry],
        bodies: dict[str, bytes],
        found: dict[str, dict[str, Any]],
    ) -> None:
        """All at once; in halves if that is refused, so that one which is wrong hinders no other."""
        own = [row for row in rows if row.id in set(ids)]
        self._keep()
        try:
            known = self._client.post(kind, [bodies[i] for i in ids])
        except Refused as error:
            if error.status == _NO_PARENT and time.monotonic() - self._compared_all > _PARENTS:
                raise _Orphans from None
            if len(ids) > 1:
                for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
                    self._say(kind, half, rows, bodies, found)
                return
            LOG.error("ebbtide: %s %s was refused: %s", kind, ids[0], error)
            self._holder.refused(own, str(error))
            return
        ignored = {i for i in ids if known.get(i, -1) > objects.revision(found[i]) >= 0}
        if ignored:
            LOG.error("ebbtide: %s %s: %s", kind, ", ".join(sorted(ignored)), _NEWER)
            self._holder.refused([row for row in own if row.id in ignored], _NEWER)
        self._holder.sent([row.seq for row in own if row.id not in ignored])

    def _take_back(self, kind: str, rows: Sequence[Entry]) -> None:
        done: list[int] = []
        gone: set[str] = set()
        for row in rows:
            self._keep()
            try:
                if row.id not in gone:
                    self._client.delete(kind, row.id)
                    gone.add(row.id)
            except Refused as error:
                LOG.error("ebbtide: %s %s could not be deleted: %s", kind, row.id, error)
                self._holder.refused([row], str(error))
                continue
            done.append(row.seq)
            if len(done) >= _GONE:
                self._holder.sent(done)
                done = []
        if done:
            self._holder.sent(done)


def _ids(rows: Iterable[Entry], kind: str) -> list[str]:
    return list(dict.fromkeys(row.id for row in rows if row.kind == kind))
