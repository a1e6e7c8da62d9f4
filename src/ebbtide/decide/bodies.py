"""What is read of Neutron's documents, a struct a kind. Whatever else a document holds is kept with it, and read by nobody here."""

from __future__ import annotations

from typing import Any

import msgspec

#: Port owners of Neutron's that are places of a router.
LEGS = ("network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface")
GATEWAY = "network:router_gateway"


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is read of a document; the rest of it is kept, and nothing else."""


class Named(Body, frozen=True):
    """A reference as networking-odl sends those of security groups."""

    id: str


class Way(Body, frozen=True):
    """A route of a subnet's hosts, or of a router."""

    destination: str
    nexthop: str


class Fixed(Body, frozen=True):
    """An address of a port in a subnet."""

    subnet_id: str
    ip_address: str = ""


class Pair(Body, frozen=True):
    """An address pair of a port: "" or null, its own MAC."""

    ip_address: str
    mac_address: str | None = None


class Gateway(Body, frozen=True):
    """A router's place outside."""

    network_id: str
    external_fixed_ips: list[Fixed] | None = None
    enable_snat: bool | None = None


class NetworkBody(Body, frozen=True):
    """A network, inside or outside."""

    type: str | None = msgspec.field(name="provider:network_type", default=None)
    physical: str | None = msgspec.field(name="provider:physical_network", default=None)
    segment: int | None = msgspec.field(name="provider:segmentation_id", default=None)
    external: bool | None = msgspec.field(name="router:external", default=None)
    mtu: int | None = None
    admin_state_up: bool | None = None
    qos_policy_id: str | None = None


class SubnetBody(Body, frozen=True):
    """A subnet of a network."""

    network_id: str
    cidr: str
    gateway_ip: str | None = None
    enable_dhcp: bool | None = None
    ipv6_ra_mode: str | None = None
    ipv6_address_mode: str | None = None
    dns_nameservers: list[str] | None = None
    host_routes: list[Way] | None = None
    created_at: str | None = None


class PortBody(Body, frozen=True):
    """A port: a VM's, or one of a router's places."""

    network_id: str
    mac_address: str
    fixed_ips: list[Fixed] | None = None
    security_groups: list[Named | str] | None = None
    port_security_enabled: bool | None = None
    allowed_address_pairs: list[Pair] | None = None
    device_owner: str | None = None
    device_id: str | None = None
    host: str | None = msgspec.field(name="binding:host_id", default=None)
    admin_state_up: bool | None = None
    qos_policy_id: str | None = None
    extra_dhcp_opts: list[Any] | None = None
    project_id: str | None = None
    tenant_id: str | None = None

    @property
    def groups(self) -> list[str]:
        """The ids of its security groups."""
        return [g if isinstance(g, str) else g.id for g in self.security_groups or ()]

    @property
    def router(self) -> str:
        """The router that it is a place of, inside or outside ("": none)."""
        return (self.device_id or "") if self.device_owner in (*LEGS, GATEWAY) else ""


class RouterBody(Body, frozen=True):
    """A router."""

    admin_state_up: bool | None = None
    external_gateway_info: Gateway | None = None
    routes: list[Way] | None = None


class FloatingBody(Body, frozen=True):
    """A floating IP."""

    floating_network_id: str
    floating_ip_address: str
    port_id: str | None = None
    fixed_ip_address: str | None = None
    router_id: str | None = None


class GroupBody(Body, frozen=True):
    """A security group. The rules that are embedded in it come as documents of their own too, and these count."""

    stateful: bool | None = None


class RuleBody(Body, frozen=True):
    """A rule of a security group."""

    security_group_id: str
    direction: str
    ethertype: str | None = None
    protocol: str | int | None = None
    port_range_min: int | None = None
    port_range_max: int | None = None
    remote_ip_prefix: str | None = None
    remote_group_id: str | None = None
    remote_address_group_id: str | None = None


class VpnBody(Body, frozen=True):
    """A BGP VPN. Its own lists of networks and routers count; associations that come as documents of their own say nothing more."""

    type: str | None = None
    route_targets: list[str] | None = None
    import_targets: list[str] | None = None
    export_targets: list[str] | None = None
    route_distinguishers: list[str] | None = None
    networks: list[str] | None = None
    routers: list[str] | None = None


class AssociationBody(Body, frozen=True):
    """An association of a BGP VPN, as a full sync sends it."""

    bgpvpn_id: str
