"""What Neutron has against what the controller has: ids and revisions. What differs is noted in the journal, and goes its way."""

from __future__ import annotations

from typing import Any, NamedTuple

from neutron_lib.db import api as db_api
from oslo_log import log

from neutron_ebbtide import journal, objects
from neutron_ebbtide.client import Client

LOG = log.getLogger(__name__)
#: networking-odl's canary: no network.
_CANARY = "bd8db3a8-2b30-4083-a8b3-b3fd46401142"
#: Rows in one transaction.
_BATCH = 500


class Difference(NamedTuple):
    """One object. `what`: missing there, stale there, or unknown here."""

    kind: str
    id: str
    what: str


def differences(context: Any, client: Client) -> list[Difference]:
    """What differs and is not on its way.

    Raises:
        Away, Refused: the controller does not answer.
    """
    found = []
    for kind in objects.KINDS:
        there = client.known(kind)
        here = objects.revisions(context, kind)
        for name, revision in here.items():
            if name not in there:
                found.append(Difference(kind, name, "missing there"))
            elif there[name] < revision:
                found.append(Difference(kind, name, "stale there"))
        found += [Difference(kind, name, "unknown here") for name in there.keys() - here.keys() - {_CANARY}]
    return found


def repair(context: Any, client: Client) -> list[Difference]:
    """Note what differs.

    Raises:
        Away, Refused: the controller does not answer.
    """
    found = differences(context, client)
    for at in range(0, len(found), _BATCH):
        _note(context, found[at : at + _BATCH])
    if found:
        LOG.warning("ebbtide: %d objects differ from the controller's, and are sent anew", len(found))
    return found


@db_api.retry_db_errors
def _note(context: Any, some: list[Difference]) -> None:
    with db_api.CONTEXT_WRITER.using(context):
        for each in some:
            journal.note(context, each.kind, each.id)
