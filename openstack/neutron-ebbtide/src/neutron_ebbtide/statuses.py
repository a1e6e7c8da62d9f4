"""Ports' status, as the controller tells it.

A port is ACTIVE when it is served where Neutron has bound it. One that migrates is bound at its source until Nova calls it moved. Before
that Nova waits for a word that it is served at its destination, and would take one about the source for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db import models_v2, provisioning_blocks
from neutron.plugins.ml2 import models
from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import resources
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from oslo_log import log

LOG = log.getLogger(__name__)
ACTIVE, DOWN = constants.PORT_STATUS_ACTIVE, constants.PORT_STATUS_DOWN
#: What a port is due: nothing, to be called active or down, active without a word to Nova.
STAY, UP, QUIET, FALL = "stay", "up", "quiet", "fall"
_PLACES = (*constants.ROUTER_INTERFACE_OWNERS, constants.DEVICE_OWNER_ROUTER_GW)
#: Ports that may fail in one go before it is taken for the database's fault.
_BAD = 5
#: Ports in one question to the database.
_PAGE = 500


class Seen(NamedTuple):
    """A port in Neutron's database. `host`: where it is bound ("": nowhere); `comes`: where it is going to be."""

    id: str
    status: str
    host: str
    vif: str
    migrates: bool
    comes: frozenset[str]


class Word(NamedTuple):
    """What the controller says of a port. `hosts`: where it is plugged, and served; `visits`: the number of its visit to each, since it may
    come to one again."""

    id: str
    status: str
    hosts: tuple[str, ...]
    visits: tuple[int, ...] = ()

    @property
    def places(self) -> dict[str, int]:
        """The visit to each host."""
        return dict(zip(self.hosts, self.visits or (0,) * len(self.hosts), strict=True))


def due(port: Seen, word: Word) -> str:
    """What becomes of a port's status."""
    if word.status == ACTIVE and port.status != ACTIVE:
        if port.vif == portbindings.VIF_TYPE_OVS and port.host in word.hosts:
            return QUIET if port.migrates else UP
        if not port.host and not word.hosts:
            return UP  # a router's, which is nowhere
    if word.status == DOWN and port.status == ACTIVE:
        return FALL
    return STAY


def arrived(port: Seen, word: Word) -> frozenset[str]:
    """Hosts where it is served already, and is not bound yet."""
    return port.comes & set(word.hosts)


def unsettled(port: dict[str, Any]) -> bool:
    """Whether a port, as Neutron shows it, may become active."""
    return port["status"] != ACTIVE and bool(port.get(portbindings.HOST_ID) or port.get("device_owner") in _PLACES)


class Statuses:
    """Brings ports in line. One thread does: what is read first is applied first."""

    def __init__(self) -> None:
        #: Arrivals that Nova was told of, once each: of each port the hosts, and its visits there.
        self._told: dict[str, dict[str, int]] = {}

    def take(self, context: Any, words: Sequence[Word], still: Callable[[], None] = lambda: None) -> None:
        """Each of these ports; one that cannot be brought in line keeps no other from it. `still` raises when the words have grown old."""
        failed = 0
        for at in range(0, len(words), _PAGE):
            still()
            page = {word.id: word for word in words[at : at + _PAGE]}
            for port in look(context, list(page)):
                try:
                    self._one(context, port, page[port.id])
                except Exception:
                    failed += 1
                    if failed > _BAD:
                        raise  # it is not this port
                    LOG.exception("ebbtide: the status of port %s could not be changed: tried again later", port.id)

    def _one(self, context: Any, port: Seen, word: Word) -> None:
        what = due(port, word)
        if what in (UP, QUIET):
            _up(context, port, word, quiet=what == QUIET)
        elif what == FALL:
            directory.get_plugin().update_port_status(context, port.id, DOWN, port.host)
        # One that left before its binding went, as after a failure, may come again.
        there = {host: visit for host, visit in word.places.items() if host in arrived(port, word)}
        before = self._told.pop(port.id, {})
        for host, visit in there.items():
            if before.get(host) != visit and _tell_nova(context, port.id):
                LOG.info("ebbtide: port %s is served at %s, where it migrates to", port.id, host)
        if there:
            self._told[port.id] = there

    def unsettled(self, context: Any, after: str, most: int) -> tuple[list[str], str]:
        """Ports that may be due something, by id, `most` of them beyond `after`: bound or of a router, and not active; or coming to a host
        that Nova was not told of. And beyond which to go on ("": from the start)."""
        port, binding = models_v2.Port, models.PortBinding
        bound = sa.and_(binding.status == constants.ACTIVE, binding.vif_type == portbindings.VIF_TYPE_OVS)
        waits = sa.and_(port.status != ACTIVE, sa.or_(bound, port.device_owner.in_(_PLACES)))
        query = sa.select(port.id, binding.host, binding.status).join(binding, binding.port_id == port.id)
        query = query.where(port.id > after, sa.or_(waits, binding.status == constants.INACTIVE))
        with db_api.CONTEXT_READER.using(context):
            rows = context.session.execute(query.order_by(port.id).limit(most)).all()
        due = (i for i, host, at in rows if at == constants.ACTIVE or host not in self._told.get(i, ()))
        return list(dict.fromkeys(due)), rows[-1][0] if len(rows) == most else ""

    def settled(self, context: Any, after: str, most: int) -> tuple[list[str], str]:
        """Ports that are due nothing, as far as was heard, `most` of them beyond `after`: what was told of one may have been missed."""
        port, binding = models_v2.Port, models.PortBinding
        query = sa.select(port.id).join(binding, binding.port_id == port.id)
        query = query.where(port.id > after, port.status == ACTIVE, binding.vif_type == portbindings.VIF_TYPE_OVS)
        with db_api.CONTEXT_READER.using(context):
            found = context.session.execute(query.distinct().order_by(port.id).limit(most)).scalars().all()
        return list(found), found[-1] if len(found) == most else ""


def look(context: Any, ids: Iterable[str]) -> Iterator[Seen]:
    """Ports as they are now."""
    port, binding = models_v2.Port, models.PortBinding
    columns = (port.id, port.status, binding.host, binding.vif_type, binding.profile, binding.status)
    query = sa.select(*columns).join(binding, binding.port_id == port.id).where(port.id.in_(list(ids)))
    found: dict[str, list[Any]] = {}
    with db_api.CONTEXT_READER.using(context):
        for row in context.session.execute(query):
            found.setdefault(row[0], []).append(row)
    for name, rows in found.items():
        here = next((row for row in rows if row[5] == constants.ACTIVE), None)
        if here is None:
            continue
        to = _migrating(here[4])
        comes = {row[2] for row in rows if row[5] == constants.INACTIVE} | ({to} if to else set())
        yield Seen(name, here[1], here[2] or "", here[3], bool(to), frozenset(comes - {here[2]}))


def _migrating(profile: str) -> str:
    """Where a binding's profile says that its port goes."""
    try:
        return str(json.loads(profile).get("migrating_to") or "") if profile else ""
    except (ValueError, AttributeError):
        return ""


def _up(context: Any, port: Seen, word: Word, *, quiet: bool) -> None:
    plugin, what = directory.get_plugin(), (port.id, resources.PORT, provisioning_blocks.L2_AGENT_ENTITY)
    if not port.host:
        plugin.update_port_status(context, port.id, ACTIVE)
        return
    if quiet:
        provisioning_blocks.remove_provisioning_component(context, *what)
        if provisioning_blocks.is_object_blocked(context, port.id, resources.PORT):
            return
        nova = _nova(plugin)
        with nova.context_enabled(False) if nova else nullcontext():
            plugin.update_port_status(context, port.id, ACTIVE, port.host)
    else:
        # Neutron's own way for agents: who else has a port wait is waited for.
        provisioning_blocks.provisioning_complete(context, *what)
    # Bound anew meanwhile, it may have been called active where it is not served.
    for now in look(context, [port.id]):
        if now.status == ACTIVE and now.host not in word.hosts:
            plugin.update_port_status(context, port.id, DOWN, now.host)


def _tell_nova(context: Any, port_id: str) -> bool:
    """That a port is plugged where it migrates to; whether there is a Nova to be told."""
    plugin = directory.get_plugin()
    if not (_nova(plugin) and cfg.CONF.notify_nova_on_port_status_changes):
        return False
    with db_api.CONTEXT_READER.using(context):
        port = context.session.get(models_v2.Port, port_id)
        if port is None or not (port.device_owner or "").startswith(constants.DEVICE_OWNER_COMPUTE_PREFIX):
            return False
        _nova(plugin).notify_port_active_direct(port)
    return True


def _nova(plugin: Any) -> Any:
    return getattr(plugin, "nova_notifier", None)
