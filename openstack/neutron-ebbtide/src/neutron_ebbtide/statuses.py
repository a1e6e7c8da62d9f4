"""Ports' status, as the controller tells it."""

from __future__ import annotations

from typing import Any

from neutron.db import provisioning_blocks
from neutron_lib import constants, exceptions
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import resources
from neutron_lib.plugins import directory
from oslo_log import log

LOG = log.getLogger(__name__)
ACTIVE, DOWN = constants.PORT_STATUS_ACTIVE, constants.PORT_STATUS_DOWN


def take(context: Any, port_id: str, status: str, hosts: list[str]) -> None:
    """Bring one port in line. `hosts`: where it is plugged, and served; a router's port has none."""
    try:
        port = directory.get_plugin().get_port(context, port_id)
    except exceptions.PortNotFound:
        return
    _take(context, port, status, hosts)


def take_all(context: Any, found: list[dict[str, Any]]) -> None:
    """Bring all in line, after a gap in what was told."""
    ports = {port["id"]: port for port in directory.get_plugin().get_ports(context)}
    for each in found:
        port = ports.get(each["id"])
        if port is not None:
            _take(context, port, each["status"], each["hosts"])


def _take(context: Any, port: dict[str, Any], status: str, hosts: list[str]) -> None:
    plugin, host = directory.get_plugin(), port.get(portbindings.HOST_ID) or ""
    if status == ACTIVE and port["status"] != ACTIVE:
        if port.get(portbindings.VIF_TYPE) == portbindings.VIF_TYPE_OVS and host in hosts:
            # Neutron's own way for agents, so that Nova is told at the end of a live migration too.
            provisioning_blocks.provisioning_complete(
                context, port["id"], resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )
        elif not host and not hosts:
            plugin.update_port_status(context, port["id"], ACTIVE)
    elif status == DOWN and port["status"] == ACTIVE and (host or not hosts):
        plugin.update_port_status(context, port["id"], DOWN, host)
