"""`ebbtide network|port|relation ...`: what tenants have, and who sends by whom."""

from __future__ import annotations

from typing import Any

import click

from ebbtide.cli import render, verdicts
from ebbtide.cli.client import segment
from ebbtide.cli.session import (
    Session,
    client_verb,
    given,
    known_computes,
    known_groups,
    known_networks,
    known_ports,
    wait_option,
    waiting,
)
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput


def _show(session: Session, found: dict[str, Any]) -> None:
    render.as_json(found) if session.json else render.facts(found)


def _delete(session: Session, kind: str, ids: tuple[str, ...], wait: bool) -> None:
    def call(text: str) -> dict[str, Any]:
        return session.client.call("DELETE", f"/{kind}/{segment(text)}", query=waiting(wait))

    verdicts.each(session, ids, call)


@click.group("network", cls=NounGroup)
def network() -> None:
    """Tenant networks, each with a VNI and subnets.

    \b
    Examples:
      ebbtide network add blue --subnet 10.1.0.0/24
      ebbtide networks
    """


_ipv6_mode = click.option(
    "--ipv6-mode",
    type=click.Choice(["static", "slaac", "dhcpv6-stateless", "dhcpv6-stateful", "none"]),
    help="How its VMs come by IPv6 addresses; but with none, its routers are advertised to them.",
)


@network.command("add")
@click.argument("name")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="A subnet; may be given several times.")
@click.option("--vni", type=int, help="VXLAN network id; chosen when not given.")
@click.option(
    "--mtu",
    type=int,
    help="MTU in bytes, as a VM sees it (1450 when not given, 1430 if a compute has an IPv6 tunnel address).",
)
@click.option("--dhcp", is_flag=True, help="Tell its VMs their addresses.")
@click.option("--dns", multiple=True, metavar="IP", help="A name server that DHCP tells; may be given several times.")
@click.option(
    "--host-route", "routes", multiple=True, metavar="'CIDR via IP'", help="A route that DHCP tells; likewise."
)
@_ipv6_mode
@wait_option
@client_verb
def network_add(
    session: Session,
    name: str,
    subnets: tuple[str, ...],
    vni: int | None,
    mtu: int | None,
    dhcp: bool,
    dns: tuple[str, ...],
    routes: tuple[str, ...],
    ipv6_mode: str | None,
    wait: bool,
) -> None:
    """Make a network. The same again changes nothing.

    \b
    Examples:
      ebbtide network add blue --subnet 10.1.0.0/24
      ebbtide network add red --subnet 10.2.0.0/24 --vni 7002 --mtu 8950
      ebbtide network add web --subnet 10.3.0.0/24 --dhcp --dns 192.0.2.53
      ebbtide network add dual --subnet 10.4.0.0/24 --subnet 2001:db8:4::/64 --ipv6-mode slaac
    """
    told = {"dns": dns, "host-routes": routes, "ipv6-mode": ipv6_mode}
    body = {"id": name, "subnets": list(subnets), **given(vni=vni, mtu=mtu, dhcp=dhcp or None, **told)}
    verdicts.made(session, session.client.call("POST", "/networks", body, query=waiting(wait)), "network")


@network.command("set")
@click.argument("name", shell_complete=known_networks)
@click.option("--dhcp/--no-dhcp", default=None, help="Tell its VMs their addresses, or not.")
@click.option("--dns", multiple=True, metavar="IP", help="A name server that DHCP tells; may be given several times.")
@click.option("--no-dns", is_flag=True, help="In the place of --dns: none.")
@click.option(
    "--host-route", "routes", multiple=True, metavar="'CIDR via IP'", help="A route that DHCP tells; likewise."
)
@click.option("--no-host-routes", is_flag=True, help="In the place of --host-route: none.")
@click.option("--subnet", "subnets", multiple=True, metavar="CIDR", help="All its subnets: may be given several times.")
@_ipv6_mode
@wait_option
@client_verb
def network_set(
    session: Session,
    name: str,
    dhcp: bool | None,
    dns: tuple[str, ...],
    no_dns: bool,
    routes: tuple[str, ...],
    no_host_routes: bool,
    subnets: tuple[str, ...],
    ipv6_mode: str | None,
    wait: bool,
) -> None:
    """Change a network.

    \b
    Examples:
      ebbtide network set blue --dhcp
      ebbtide network set blue --dns 192.0.2.53 --host-route '10.9.0.0/16 via 10.1.0.9'
      ebbtide network set blue --subnet 10.1.0.0/24 --subnet 2001:db8:1::/64 --ipv6-mode slaac
    """
    change = given(dhcp=dhcp, dns=dns, subnets=subnets, **{"host-routes": routes, "ipv6-mode": ipv6_mode})
    for key, nothing in (("dns", no_dns), ("host-routes", no_host_routes)):
        if nothing and key in change:
            raise BadInput(f"--no-{key} and the other were both given: say one of them")
        if nothing:
            change[key] = []
    if not change:
        raise BadInput("nothing to change was given: `ebbtide network set --help`")
    found = session.client.call("PATCH", f"/networks/{segment(name)}", change, query=waiting(wait))
    verdicts.made(session, found, "network")


@network.command("list")
@client_verb
def network_list(session: Session) -> None:
    """List the networks.

    \b
    Examples:
      ebbtide networks
      ebbtide networks --json
    """
    found = session.client.get("/networks")
    if session.json:
        render.as_json(found)
        return
    rows = [
        (n["id"], n["vni"], n["mtu"], n["subnets"], n["ipv6-mode"], n["ports"], render.some(n["computes"]))
        for n in found["networks"]
    ]
    render.table(
        ("network", "vni", "mtu", "subnets", "ipv6", "ports", "present on"),
        rows,
        "no networks: `ebbtide network add NAME --subnet CIDR`",
    )


@network.command("show")
@click.argument("name", shell_complete=known_networks)
@client_verb
def network_show(session: Session, name: str) -> None:
    """Show a network.

    \b
    Examples:
      ebbtide network show blue
    """
    _show(session, session.client.get(f"/networks/{segment(name)}"))


@network.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=known_networks)
@wait_option
@client_verb
def network_delete(session: Session, names: tuple[str, ...], wait: bool) -> None:
    """Delete networks that have no ports.

    \b
    Examples:
      ebbtide network delete blue
    """
    _delete(session, "networks", names, wait)


@click.group("port", cls=NounGroup)
def port() -> None:
    """Logical ports: the MAC and addresses of a VM's interface.

    \b
    Examples:
      ebbtide port add vm1 --network blue --mac 02:00:00:00:00:01 --ip 10.1.0.1
      ebbtide ports
    """


def _security_options(function: Any) -> Any:
    for option in (
        click.option("--no-pairs", is_flag=True, help="In the place of --pair: none."),
        click.option(
            *("--pair", "pairs"),
            multiple=True,
            metavar="CIDR[@MAC]",
            help="What it may send from beside its own; may be given several times.",
        ),
        click.option("--no-groups", is_flag=True, help="In the place of --group: none, so nothing is let through."),
        click.option(
            *("--group", "groups"),
            multiple=True,
            help="A security group that it is in; may be given several times.",
            shell_complete=known_groups,
        ),
        click.option("--secured/--unsecured", default=None, help="With port security or without [with a group: with]."),
    ):
        function = option(function)
    return function


def _owner_options(function: Any) -> Any:
    for option in (
        click.option("--project", metavar="ID", help="The instance's project; '' is none."),
        click.option(
            "--device", metavar="ID", help="Whose interface it is: the instance, for its metadata; '' is none."
        ),
    ):
        function = option(function)
    return function


def _security(
    secured: bool | None, groups: tuple[str, ...], no_groups: bool, pairs: tuple[str, ...], no_pairs: bool
) -> dict[str, Any]:
    """What was said of a port's security, as the controller takes it."""
    found: dict[str, Any] = given(secured=secured)
    for name, chosen, nothing in (("group", groups, no_groups), ("pair", pairs, no_pairs)):
        if chosen and nothing:
            raise BadInput(f"--{name} and --no-{name}s were both given: say one of them")
    if groups or no_groups:
        found["security-groups"] = list(groups)
    if pairs or no_pairs:
        found["address-pairs"] = [{"prefix": p, "mac": m} for p, _, m in (text.partition("@") for text in pairs)]
    return found


@port.command("add")
@click.argument("port_id", metavar="ID")
@click.option("--network", required=True, help="The network it is in.", shell_complete=known_networks)
@click.option("--mac", required=True, help="Its MAC address.")
@click.option("--ip", "addresses", multiple=True, metavar="IP", help="An address of it; may be given several times.")
@_security_options
@_owner_options
@wait_option
@client_verb
def port_add(
    session: Session,
    port_id: str,
    network: str,
    mac: str,
    addresses: tuple[str, ...],
    device: str | None,
    project: str | None,
    wait: bool,
    **security: Any,
) -> None:
    """Make a port. The same again changes nothing.

    ID is what the interface will have as external_ids:iface-id; where such an interface is plugged, the port is served.

    \b
    Examples:
      ebbtide port add vm1 --network blue --mac 02:00:00:00:00:01 --ip 10.1.0.1
      ebbtide port add vm2 --network blue --mac 02:00:00:00:00:02 --ip 10.1.0.2 --group web
    """
    body = {"id": port_id, "network": network, "mac": mac, "addresses": list(addresses)}
    body |= {**_security(**security), **given(device=device, project=project)}
    verdicts.made(session, session.client.call("POST", "/ports", body, query=waiting(wait)), "port")


@port.command("set")
@click.argument("port_id", metavar="ID", shell_complete=known_ports)
@click.option("--ip", "addresses", multiple=True, metavar="IP", help="All its addresses: may be given several times.")
@_security_options
@_owner_options
@wait_option
@client_verb
def port_set(
    session: Session,
    port_id: str,
    addresses: tuple[str, ...],
    device: str | None,
    project: str | None,
    wait: bool,
    **security: Any,
) -> None:
    """Change a port's addresses, its security, or whose it is; what is not given stays.

    \b
    Examples:
      ebbtide port set vm1 --group web --group ssh
      ebbtide port set vm1 --pair 10.1.0.100/32 --pair 10.1.0.101/32@00:00:5e:00:01:0a
      ebbtide port set vm1 --unsecured --no-groups
      ebbtide port set vm1 --ip 10.1.0.1 --ip 2001:db8:1::10
      ebbtide port set vm1 --device 0d3a7c8e-2f11-4f6e-9a43-6d1f1b6c7a10 --project 4f6e9a43
    """
    change = {**given(addresses=addresses, device=device, project=project), **_security(**security)}
    if not change:
        raise BadInput("nothing to change was given: `ebbtide port set --help`")
    found = session.client.call("PATCH", f"/ports/{segment(port_id)}", change, query=waiting(wait))
    verdicts.made(session, found, "port")


@port.command("list")
@click.option("--network", help="Only those of this network.", shell_complete=known_networks)
@client_verb
def port_list(session: Session, network: str | None) -> None:
    """List the ports, and where they are.

    \b
    Examples:
      ebbtide ports
      ebbtide port list --network blue
    """
    found = session.client.get("/ports", {} if network is None else {"network": network})
    if session.json:
        render.as_json(found)
        return
    cells = [(p["id"], p["network"], p["mac"], p["addresses"], _where(p)) for p in found["ports"]]
    render.table(("port", "network", "mac", "addresses", "where"), cells, "no ports: `ebbtide port add ID ...`")


def _where(found: dict[str, Any]) -> str:
    """Where it is plugged; the phase is said when it is not just active there."""
    places = [(str(b["compute"]), str(b["phase"])) for b in found["bindings"]]
    return ", ".join(name if phase == "active" else f"{name} ({phase})" for name, phase in places)


@port.command("show")
@click.argument("port_id", metavar="ID", shell_complete=known_ports)
@client_verb
def port_show(session: Session, port_id: str) -> None:
    """Show a port.

    \b
    Examples:
      ebbtide port show vm1
    """
    _show(session, session.client.get(f"/ports/{segment(port_id)}"))


@port.command("delete")
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=known_ports)
@wait_option
@client_verb
def port_delete(session: Session, ids: tuple[str, ...], wait: bool) -> None:
    """Delete ports, wherever they are plugged.

    \b
    Examples:
      ebbtide port delete vm1 vm2 --wait
    """
    _delete(session, "ports", ids, wait)


@click.group("relation", cls=NounGroup)
def relation() -> None:
    """Gateway relations: who sends by whom, watched by BFD.

    \b
    Examples:
      ebbtide relation add c1 c2
      ebbtide relations
    """


def _relation_arguments(function: Any) -> Any:
    for name in ("peer", "gateway"):
        function = click.argument(name, shell_complete=known_computes)(function)
    return function


def _relate(session: Session, method: str, gateway: str, peer: str, wait: bool) -> None:
    body = {"gateway": gateway, "peer": peer}
    verdicts.made(session, session.client.call(method, "/relations", body, query=waiting(wait)), "relation")


@relation.command("add")
@_relation_arguments
@wait_option
@client_verb
def relation_add(session: Session, gateway: str, peer: str, wait: bool) -> None:
    """Let PEER send by GATEWAY.

    \b
    Examples:
      ebbtide relation add c1 c2
    """
    _relate(session, "POST", gateway, peer, wait)


@relation.command("list")
@client_verb
def relation_list(session: Session) -> None:
    """List the gateway relations.

    \b
    Examples:
      ebbtide relations
    """
    found = session.client.get("/relations")
    if session.json:
        render.as_json(found)
        return
    rows = [(r["gateway"], r["peer"]) for r in found["relations"]]
    render.table(("gateway", "peer"), rows, "no gateway relations")


@relation.command("delete")
@_relation_arguments
@wait_option
@client_verb
def relation_delete(session: Session, gateway: str, peer: str, wait: bool) -> None:
    """End a gateway relation.

    \b
    Examples:
      ebbtide relation delete c1 c2
    """
    _relate(session, "DELETE", gateway, peer, wait)
