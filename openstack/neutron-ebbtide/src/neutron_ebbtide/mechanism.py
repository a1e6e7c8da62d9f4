"""The ML2 mechanism driver: what changes is noted, and ports are bound where the controller's hosts are."""

from __future__ import annotations

from typing import Any

from neutron.db import provisioning_blocks
from neutron_lib import constants
from neutron_lib.api.definitions import external_net, portbindings
from neutron_lib.callbacks import resources
from neutron_lib.plugins.ml2 import api
from oslo_log import log

from neutron_ebbtide import config, groups, hosts, journal, served
from neutron_ebbtide.worker import Worker

LOG = log.getLogger(__name__)
ACTIVE = constants.PORT_STATUS_ACTIVE
#: What of a port changes by itself.
_UNMEANT = frozenset({"status", "updated_at", "revision_number"})
#: What is not served; Neutron takes nothing of it from its clients then.
_NOT_SERVED = frozenset(
    {
        "trunk",
        "trunk-details",
        "vlan-transparent",
        "qinq",
        "port-numa-affinity-policy",
        "port-numa-affinity-policy-socket",
        "data-plane-status",
        "uplink-status-propagation",
        "uplink-status-propagation-updatable",
        "port-resource-request",
        "port-resource-request-groups",
        "l3-ndp-proxy",
        "multi-provider",
        "extra_dhcp_opt",
        "stateful-security-group",
        "security-groups-default-statefulness",
        "port-device-profile",
        "network_availability_zone",
        "availability_zone",
        "availability_zone_filter",
        "agent-resources-synced",
        "address-group",
        "rbac-address-group",
        "address-scope",
        "rbac-address-scope",
        "rbac-subnetpool",
    }
)
#: How networks are given to DHCP agents: by option.
_AGENTS = frozenset({"dhcp_agent_scheduler"})


class Mechanism(api.MechanismDriver):
    """See the package."""

    def initialize(self) -> None:
        """Neutron starts."""
        config.check(config.register())
        groups.listen()

    @property
    def connectivity(self) -> str:
        """What it gives to bound ports."""
        return str(portbindings.CONNECTIVITY_L2)

    def supported_extensions(self, extensions: set[str]) -> set[str]:
        """Of what others would have Neutron announce, what is served."""
        return extensions - _NOT_SERVED - (frozenset() if config.register().dhcp_agents else _AGENTS)

    def get_workers(self) -> list[Worker]:
        """What runs in neutron-periodic-workers."""
        return [Worker()]

    # --- networks and subnets ---

    def create_network_precommit(self, context: Any) -> None:
        """Refuse what is not served, and note the rest.

        Raises:
            NotServed: the network's type is none that the controller has.
        """
        served.check_type(context.current)
        self._note(context, "networks")

    def update_network_precommit(self, context: Any) -> None:
        """Note it.

        Raises:
            NotServed: it would become a network outside, or inside, of a type that the controller does not have there; or be switched off.
        """
        if context.current.get(external_net.EXTERNAL) != context.original.get(external_net.EXTERNAL):
            served.check_type(context.current)
        served.check_state("networks", context.original, context.current)
        self._note(context, "networks")

    def delete_network_precommit(self, context: Any) -> None:
        """Note it."""
        self._note(context, "networks")

    def create_subnet_precommit(self, context: Any) -> None:
        """Refuse what is not served, and note the rest.

        Raises:
            NotServed: it does not go with the other subnets of its network, or has routes that nobody can be told.
        """
        served.check_subnet(context.plugin_context, context.current, context.network.current)
        self._note(context, "subnets")

    def update_subnet_precommit(self, context: Any) -> None:
        """Note it.

        Raises:
            NotServed: it would get routes that nobody can be told.
        """
        if context.current.get("host_routes") != context.original.get("host_routes"):
            served.check_routes(context.current)
        self._note(context, "subnets")

    def delete_subnet_precommit(self, context: Any) -> None:
        """Note it."""
        self._note(context, "subnets")

    # --- ports ---

    def create_port_precommit(self, context: Any) -> None:
        """Note it; it is not active before the controller says so."""
        self._block(context)
        self._note(context, "ports")

    def update_port_precommit(self, context: Any) -> None:
        """Note it, unless it is its status that changes: that is the controller's own word.

        Bound anew, it is not active before the controller says so.
        """
        self._block(context)
        if _meant(context.current) != _meant(context.original):
            self._note(context, "ports")

    def delete_port_precommit(self, context: Any) -> None:
        """Note it."""
        self._note(context, "ports")

    @staticmethod
    def _block(context: Any) -> None:
        """Neutron's agents may call a port ready: only with ours it is."""
        port = context.current
        if context.host and context.vif_type == portbindings.VIF_TYPE_UNBOUND and port["status"] != ACTIVE:
            provisioning_blocks.add_provisioning_component(
                context.plugin_context, port["id"], resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )

    def bind_port(self, context: Any) -> None:
        """Bind a port where the controller serves, and nobody leaves; what is known of hosts is in Neutron's own database, so that a
        controller which is away hinders nobody."""
        port = context.current
        if port.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL) != portbindings.VNIC_NORMAL:
            return
        # Where it is it stays what it is: a migration away from there binds it anew. A second try does not show that it was bound.
        before = context.original or {}
        was_here = (
            before.get(portbindings.VIF_TYPE) == portbindings.VIF_TYPE_OVS and context.original_host == context.host
        )
        stays = was_here or bool((port.get(portbindings.PROFILE) or {}).get("migrating_to"))
        found = hosts.bindable(context.host_agents(hosts.AGENT_TYPE), leaving=stays)
        if found is None:
            LOG.warning("ebbtide: port %s is not bound: %s is no host that new ports go to", port["id"], context.host)
            return
        details = {
            portbindings.CAP_PORT_FILTER: True,
            portbindings.OVS_HYBRID_PLUG: False,
            portbindings.VIF_DETAILS_CONNECTIVITY: portbindings.CONNECTIVITY_L2,
            "bridge_name": "br-int",
            "datapath_type": found.get("datapath_type", "system"),
        }
        for segment in context.segments_to_bind:
            if segment[api.NETWORK_TYPE] in served.INSIDE:
                context.set_binding(
                    segment[api.ID], portbindings.VIF_TYPE_OVS, details, status=constants.PORT_STATUS_DOWN
                )
                return

    # --- what all have ---

    @staticmethod
    def _note(context: Any, kind: str) -> None:
        journal.note(context.plugin_context, kind, context.current["id"])

    @staticmethod
    def _wake(context: Any) -> None:
        journal.wake()

    create_network_postcommit = update_network_postcommit = delete_network_postcommit = _wake
    create_subnet_postcommit = update_subnet_postcommit = delete_subnet_postcommit = _wake
    create_port_postcommit = update_port_postcommit = delete_port_postcommit = _wake


def _meant(port: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in port.items() if key not in _UNMEANT}
