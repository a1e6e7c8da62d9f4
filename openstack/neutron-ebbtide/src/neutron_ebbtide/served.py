"""What Neutron's clients may not have, since the controller does not do it: they are told, before anything is written.

Only what is asked for now is looked at. What was there before the driver stays: `GET /api/v1/neutron` of the controller says what becomes
of it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron_lib import constants
from neutron_lib.api.definitions import external_net, provider_net

from neutron_ebbtide.errors import NotServed

#: Networks of tenants, and those outside.
INSIDE, OUTSIDE = (constants.TYPE_VXLAN,), (constants.TYPE_FLAT, constants.TYPE_VLAN)
#: Protocols of rules with ports, or with ICMP's types in their place; by name and number, as Neutron takes both.
_WITH_PORTS = frozenset(
    {
        *("tcp", "6", "udp", "17", "sctp", "132"),
        *("icmp", "1", "icmpv6", "ipv6-icmp", "58"),
    }
)


def check_state(what: str, before: dict[str, Any], said: dict[str, Any]) -> None:
    """Whether something that is on is not to be switched off. That it is made so Neutron needs itself, for a topology that it allocates.

    Raises:
        NotServed: it is.
    """
    if before["admin_state_up"] and said.get("admin_state_up") is False:
        raise NotServed(what=f"admin_state_up false of {what}", instead="ports have one that is in force")


def check_type(network: dict[str, Any]) -> None:
    """Whether a network is of a type that the controller has.

    Raises:
        NotServed: it is not.
    """
    outside, kind = bool(network.get(external_net.EXTERNAL)), network.get(provider_net.NETWORK_TYPE)
    served = OUTSIDE if outside else INSIDE
    if kind is not None and kind not in served:
        what = f"a network {'outside' if outside else 'of tenants'} of type {kind}"
        raise NotServed(what=what, instead=f"it has to be {' or '.join(served)}")


def check_subnet(context: Any, subnet: dict[str, Any], network: dict[str, Any]) -> None:
    """Whether a new subnet goes with those that its network has.

    Raises:
        NotServed: it does not.
    """
    check_routes(subnet)
    row, version = models_v2.Subnet, subnet["ip_version"]
    query = sa.select(row.enable_dhcp, row.ipv6_ra_mode, row.ipv6_address_mode).where(
        row.network_id == subnet["network_id"], row.ip_version == version, row.id != subnet["id"]
    )
    others = context.session.execute(query).all()
    if not others:
        return
    if network.get(external_net.EXTERNAL):
        raise NotServed(what=f"a second IPv{version} subnet of a network outside", instead="make another network of it")
    if version == constants.IP_VERSION_4:
        if any(with_dhcp != subnet["enable_dhcp"] for with_dhcp, _, _ in others):
            instead = "enable_dhcp has to be the same in all IPv4 subnets of a network"
            raise NotServed(what="DHCP in some of a network's IPv4 subnets", instead=instead)
    elif any((ra or mode) != _mode(subnet) for _, ra, mode in others):
        instead = "ipv6_ra_mode and ipv6_address_mode have to be the same in all IPv6 subnets of a network"
        raise NotServed(what="another IPv6 mode in a second subnet", instead=instead)


def check_routes(subnet: dict[str, Any]) -> None:
    """Whether the host routes of a subnet can be told.

    Raises:
        NotServed: they cannot.
    """
    if subnet["ip_version"] == constants.IP_VERSION_6 and subnet.get("host_routes"):
        raise NotServed(what="host routes of IPv6", instead="routers have routes")


def check_rule(rule: dict[str, Any]) -> None:
    """Whether a rule of a security group can be kept as it is said.

    Raises:
        NotServed: it cannot.
    """
    if rule.get("remote_address_group_id"):
        # Neutron cannot do without the extension, so its clients may ask for this.
        raise NotServed(what="a rule with an address group", instead="use prefixes, or a remote group")
    protocol = str(rule.get("protocol") or "").lower()
    ports = rule.get("port_range_min") is not None or rule.get("port_range_max") is not None
    if ports and protocol not in _WITH_PORTS:
        raise NotServed(what=f"a rule with ports of {protocol}", instead="TCP, UDP and SCTP have them")


def _mode(subnet: dict[str, Any]) -> str | None:
    return subnet.get("ipv6_ra_mode") or subnet.get("ipv6_address_mode")
