"""The router service: Neutron's own database of routers and floating IPs, whose changes are noted.

Places of routers are ports, and come by ML2.
"""

from __future__ import annotations

from typing import Any

from neutron.api.rpc.agentnotifiers import utils as notifiers
from neutron.db import dns_db, extraroute_db, l3_db, l3_fip_port_details, l3_gwmode_db
from neutron.db.models import l3 as models
from neutron.quota import resource_registry
from neutron_lib import constants
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.db import api as db_api
from neutron_lib.plugins import constants as plugins
from neutron_lib.services import base

from neutron_ebbtide import journal

_KINDS = {resources.ROUTER: "routers", resources.FLOATING_IP: "floatingips"}
_BEFORE = (events.PRECOMMIT_CREATE, events.PRECOMMIT_UPDATE, events.PRECOMMIT_DELETE)
_AFTER = (events.AFTER_CREATE, events.AFTER_UPDATE, events.AFTER_DELETE)


class Routers(  # type: ignore[misc]
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
        for resource in _KINDS:
            for event in _BEFORE:
                registry.subscribe(_note, resource, event)
            for event in _AFTER:
                registry.subscribe(_after, resource, event)
        for resource in (resources.ROUTER_INTERFACE, resources.ROUTER_GATEWAY):
            for event in (events.AFTER_CREATE, events.AFTER_DELETE):
                registry.subscribe(_placed, resource, event)

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

    def create_floatingip(self, context: Any, floatingip: Any) -> Any:
        """As Neutron has it; it is active with a port, else down."""
        leads = bool(floatingip["floatingip"].get("port_id"))
        status = constants.FLOATINGIP_STATUS_ACTIVE if leads else constants.FLOATINGIP_STATUS_DOWN
        return super().create_floatingip(context, floatingip, initial_status=status)

    def update_floatingip(self, context: Any, id: str, floatingip: Any) -> Any:
        """As Neutron has it; see `create_floatingip`."""
        found = super().update_floatingip(context, id, floatingip)
        return {**found, "status": self._settle(context, found)}

    def disassociate_floatingips(self, context: Any, port_id: str, *args: Any, **kwargs: Any) -> Any:
        """As Neutron has it: those of a port that goes are down."""
        were = [f["id"] for f in self.get_floatingips(context.elevated(), filters={"port_id": [port_id]})]
        found = super().disassociate_floatingips(context, port_id, *args, **kwargs)
        for each in were:
            self.update_floatingip_status(context.elevated(), each, constants.FLOATINGIP_STATUS_DOWN)
        return found

    def _settle(self, context: Any, found: dict[str, Any]) -> str:
        leads = bool(found["port_id"])
        status = str(constants.FLOATINGIP_STATUS_ACTIVE if leads else constants.FLOATINGIP_STATUS_DOWN)
        if found["status"] != status:
            self.update_floatingip_status(context, found["id"], status)
        return status


def _note(resource: str, event: str, trigger: Any, payload: Any) -> None:
    object_id = payload.resource_id
    if not object_id:
        # A model, or what is made of one: Neutron gives the one here and the other there.
        state = payload.desired_state or payload.latest_state
        object_id = state["id"] if isinstance(state, dict) else state.id
    journal.note(payload.context, _KINDS[resource], object_id)


def _placed(resource: str, event: str, trigger: Any, payload: Any) -> None:
    """A router's place has come or gone: that raises the router's revision."""
    with db_api.CONTEXT_WRITER.using(payload.context):
        journal.note(payload.context, "routers", payload.resource_id)
    journal.wake()


def _after(resource: str, event: str, trigger: Any, payload: Any) -> None:
    journal.wake()
