"""What Neutron has against what the controller has. What differs is noted in the journal, and goes its way.

    missing there    it was never said, or the controller has lost it
    differs there    what of it is served is not the same
    unknown here     Neutron has no such object
    newer there      Neutron counts fewer changes than the controller was told of: its database was restored, and whatever it says of this
                     object is taken for old. `force` makes it count on from there

An answer that would have much deleted is not believed, unless by force: it may be that of another controller, or to another Neutron.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models import l3, securitygroup
from neutron_lib.db import api as db_api
from neutron_lib.db import standard_attr
from oslo_log import log

from neutron_ebbtide import journal, objects
from neutron_ebbtide.client import Client

LOG = log.getLogger(__name__)
MISSING, DIFFERS, UNKNOWN, NEWER = "missing there", "differs there", "unknown here", "newer there"
#: networking-odl's canary: no network.
_CANARY = "bd8db3a8-2b30-4083-a8b3-b3fd46401142"
#: So many objects of a kind, or else a third of them, may be unknown here: they are deleted there.
_FEW, _SHARE = 3, 3
_MODELS = {
    "security-groups": securitygroup.SecurityGroup,
    "security-group-rules": securitygroup.SecurityGroupRule,
    "networks": models_v2.Network,
    "subnets": models_v2.Subnet,
    "routers": l3.Router,
    "ports": models_v2.Port,
    "floatingips": l3.FloatingIP,
}


class Difference(NamedTuple):
    """One object. `revision`: that of which the controller was told (-1: none)."""

    kind: str
    id: str
    what: str
    revision: int = -1


def differences(
    context: Any, client: Client, keep: Callable[[], None] = lambda: None, kinds: Sequence[str] = objects.KINDS
) -> list[Difference]:
    """What differs, of these kinds, and is not on its way. `keep` is called now and then.

    Raises:
        Away, Refused: the controller does not answer.
    """
    return [each for kind in kinds if objects.has(kind) for each in _of_kind(context, client, kind, keep)]


def _of_kind(context: Any, client: Client, kind: str, keep: Callable[[], None]) -> list[Difference]:
    """First there, then here, then what is under way: what changes meanwhile is in the last."""
    there = client.known(kind)
    keep()
    ids = objects.ids_of(context, kind)
    found = [Difference(kind, name, UNKNOWN) for name in sorted(there.keys() - set(ids) - {_CANARY})]
    for at in range(0, len(ids), objects.PAGE):
        keep()
        for name, body in objects.read(context, kind, ids[at : at + objects.PAGE]).items():
            told = there.get(name)
            if told is None:
                found.append(Difference(kind, name, MISSING))
            elif objects.revision(told) > objects.revision(body):
                found.append(Difference(kind, name, NEWER, objects.revision(told)))
            elif objects.served(kind, told) != objects.served(kind, body):
                found.append(Difference(kind, name, DIFFERS))
    waiting = journal.pending(context, kind)
    return [each for each in found if each.id not in waiting]


def lasting(context: Any, client: Client) -> list[Difference]:
    """What differs at two looks: a worker may send what the first has seen on its way.

    Raises:
        Away, Refused: the controller does not answer.
    """
    first = differences(context, client)
    return [each for each in differences(context, client) if each in first] if first else []


def believed(found: Sequence[Difference], client: Client, force: bool) -> list[Difference]:
    """Those that are to be repaired."""
    kept: list[Difference] = []
    for kind in objects.KINDS:
        of_kind = [each for each in found if each.kind == kind]
        unknown = [each for each in of_kind if each.what == UNKNOWN]
        newer = [each for each in of_kind if each.what == NEWER]
        if not force and len(unknown) > _FEW and len(unknown) * _SHARE > len(client.known(kind)):
            LOG.error(
                "ebbtide: %d %s of the controller's are unknown here, and none of them is deleted there: if Neutron is right, "
                "`neutron-ebbtide-sync --repair --force`",
                len(unknown),
                kind,
            )
            of_kind = [each for each in of_kind if each.what != UNKNOWN]
        if newer and not force:
            LOG.error(
                "ebbtide: of %d %s the controller knows later changes than Neutron, which it will not take back: if Neutron's "
                "database was restored, `neutron-ebbtide-sync --repair --force`",
                len(newer),
                kind,
            )
            of_kind = [each for each in of_kind if each.what != NEWER]
        kept += of_kind
    return kept


def repair(
    context: Any,
    client: Client,
    *,
    force: bool = False,
    keep: Callable[[], None] = lambda: None,
    kinds: Sequence[str] = objects.KINDS,
) -> list[Difference]:
    """Note what differs, of these kinds, as far as that is believed; these.

    Raises:
        Away, Refused: the controller does not answer.
    """
    found = believed(differences(context, client, keep, kinds), client, force)
    for each in found:
        if each.what == NEWER:
            _outrun(context, each)
    for kind in objects.KINDS:
        ids = [each.id for each in found if each.kind == kind]
        for at in range(0, len(ids), objects.PAGE):
            keep()
            journal.again(kind, ids[at : at + objects.PAGE])
    if found:
        LOG.warning("ebbtide: %d objects differ from the controller's, and are sent anew", len(found))
    return found


@db_api.retry_db_errors
def _outrun(context: Any, found: Difference) -> None:
    """Have Neutron count an object's changes on from what the controller was told."""
    model, attributes = _MODELS[found.kind], standard_attr.StandardAttribute
    with db_api.CONTEXT_WRITER.using(context):
        own = sa.select(model.standard_attr_id).where(model.id == found.id).scalar_subquery()
        context.session.execute(
            sa.update(attributes)
            .where(attributes.id == own)
            .values(revision_number=found.revision + 1)
            .execution_options(synchronize_session=False)
        )
