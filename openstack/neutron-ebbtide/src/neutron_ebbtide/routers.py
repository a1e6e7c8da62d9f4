"""The router service: Neutron's own database of routers and floating IPs, whose changes are noted.

Places of routers are ports, and come by ML2.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron.api.rpc.agentnotifiers import utils as notifiers
from neutron.db import dns_db, extraroute_db, l3_db, l3_fip_port_details, l3_gwmode_db
from neutron.db.models import l3 as models
from neutron.objects import router as objects
from neutron.quota import resource_registry
from neutron_lib import constants
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.plugins import constants as plugins
from neutron_lib.services import base

from neutron_ebbtide import journal, served


class Routers(
    base.ServicePluginBase,
    extraroute_db.ExtraRoute_dbonly_mixin,
    l3_gwmode_db.L3_NAT_dbonly_mixin,
    l3_db.L3NotifierMixin,
    dns_db.DNSDbMixin,
    l3_fip_port_details.Fip_port_details_db_mixin,
):
    """See the module."""

    supported_extension_aliases = ["router", "ext-gw-mode", "extraroute", "extraroute-atomic", "fip-port-details"]

    @resource_registry.tracked_resources(router=models.Router, floatingip=models.FloatingIP)
    def __init__(self) -> None:
        super().__init__()
        self._notifier = notifiers.RPCNotifierHandler()
        for event in (events.PRECOMMIT_CREATE, events.PRECOMMIT_UPDATE, events.PRECOMMIT_DELETE):
            registry.subscribe(_router, resources.ROUTER, event)
        sa.event.listen(models.Router, "after_update", _changed)
        registry.subscribe(_floating, resources.FLOATING_IP, events.PRECOMMIT_CREATE)
        registry.subscribe(_floating_changes, resources.FLOATING_IP, events.PRECOMMIT_UPDATE)
        registry.subscribe(_floating_goes, resources.FLOATING_IP, events.PRECOMMIT_DELETE)
        for event in (events.AFTER_CREATE, events.AFTER_UPDATE, events.AFTER_DELETE):
            registry.subscribe(_after, resources.ROUTER, event)
            registry.subscribe(_after, resources.FLOATING_IP, event)

    @classmethod
    def get_plugin_type(cls) -> str:
        """Which service it is."""
        return str(plugins.L3)

    def get_plugin_description(self) -> str:
        """For people."""
        return "Routers and floating IPs by Ebbtide"

    @property
    def l3_rpc_notifier(self) -> Any:
        """There are no agents to tell."""
        return self._notifier

    def update_router(self, context: Any, id: str, router: Any) -> Any:
        """As Neutron has it.

        Raises:
            NotServed: it is to be switched off.
        """
        served.check_state("routers", self.get_router(context, id, fields=["admin_state_up"]), router["router"])
        return super().update_router(context, id, router)

    def create_floatingip(self, context: Any, floatingip: Any) -> Any:
        """As Neutron has it; it is active with a port, else down."""
        status = _status(floatingip["floatingip"].get("port_id"))
        return super().create_floatingip(context, floatingip, initial_status=status)

    def update_floatingip(self, context: Any, id: str, floatingip: Any) -> Any:
        """As Neutron has it; its status is settled on the way, and what Neutron gives back is of before."""
        found = super().update_floatingip(context, id, floatingip)
        return {**found, "status": _status(found["port_id"])}


def _status(port_id: str | None) -> str:
    """Of a floating IP: active with a port."""
    return str(constants.FLOATINGIP_STATUS_ACTIVE if port_id else constants.FLOATINGIP_STATUS_DOWN)


def _router(resource: str, event: str, trigger: Any, payload: Any) -> None:
    journal.note(payload.context, "routers", _id(payload))


def _changed(mapper: Any, connection: Any, router: Any) -> None:
    """Its row has: a gateway comes and goes in transactions of which Neutron tells nobody, after one of which it does."""
    row = {"kind": "routers", "object_id": router.id, "tries": 0, "not_before": 0, "error": ""}
    connection.execute(sa.insert(journal.Row).values(row))


def _floating(resource: str, event: str, trigger: Any, payload: Any) -> None:
    journal.note(payload.context, "floatingips", _id(payload))


def _floating_changes(resource: str, event: str, trigger: Any, payload: Any) -> None:
    """It has got or lost its port, in this transaction."""
    found = payload.desired_state
    status = _status(found.fixed_port_id)
    if found.status != status:
        objects.FloatingIP.update_object(payload.context, {"status": status}, id=found.id)
    journal.note(payload.context, "floatingips", found.id)


def _floating_goes(resource: str, event: str, trigger: Any, payload: Any) -> None:
    """Neutron says this of the port that holds its address, and names that."""
    floating = models.FloatingIP
    query = sa.select(floating.id).where(floating.floating_port_id == payload.resource_id)
    journal.note(payload.context, "floatingips", *payload.context.session.execute(query).scalars())


def _id(payload: Any) -> str:
    """Neutron gives an id, or a model, or what is made of one."""
    if payload.resource_id:
        return str(payload.resource_id)
    state = payload.desired_state or payload.latest_state
    return str(state["id"] if isinstance(state, dict) else state.id)


def _after(resource: str, event: str, trigger: Any, payload: Any) -> None:
    journal.wake()
