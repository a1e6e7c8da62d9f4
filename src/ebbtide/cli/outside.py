"""`ebbtide external|floating-ip ...`: networks outside of the overlay, and addresses there that stand for ports."""

from __future__ import annotations

from typing import Any

import click

from ebbtide.cli import render, verdicts
from ebbtide.cli.client import segment
from ebbtide.cli.session import (
    Session,
    client_verb,
    given,
    known_externals,
    known_floating_ips,
    known_ports,
    known_routers,
    wait_option,
    waiting,
)
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput


def _delete(session: Session, path: str, names: tuple[str, ...], wait: bool) -> None:
    def call(text: str) -> dict[str, Any]:
        return session.client.call("DELETE", f"{path}/{segment(text)}", query=waiting(wait))

    verdicts.each(session, names, call)


@click.group("external", cls=NounGroup)
def external() -> None:
    """Networks outside of the overlay, each with its next hop.

    Computes that have the physical network say so themselves: other_config:provider_mappings of their Open_vSwitch.

    \b
    Examples:
      ebbtide external add pub --physical physnet1 --subnet 203.0.113.0/24 --gateway 203.0.113.1
      ebbtide externals
    """


def _ipv6(function: Any) -> Any:
    for option in (
        click.option(
            *("--prefix", "prefixes"),
            multiple=True,
            metavar="CIDR",
            help="An IPv6 prefix that it sends to routers here, and that may leave by it; may be given several times.",
        ),
        click.option("--gateway6", metavar="IP", help="The next hop for IPv6: in its subnet, or link-local."),
        click.option("--subnet6", metavar="CIDR", help="Its IPv6 subnet."),
    ):
        function = option(function)
    return function


@external.command("add")
@click.argument("name")
@click.option("--physical", required=True, help="The physical network, as provider_mappings name it.")
@click.option("--subnet", required=True, metavar="CIDR", help="Its IPv4 subnet.")
@click.option("--gateway", metavar="IP", help="The next hop; without one, only the subnet is reached.")
@_ipv6
@click.option("--vlan", type=int, help="VLAN, 1 to 4094 (untagged when not given).")
@click.option("--mtu", type=int, help="MTU in bytes (1500 when not given).")
@wait_option
@client_verb
def external_add(
    session: Session,
    name: str,
    physical: str,
    subnet: str,
    gateway: str | None,
    subnet6: str | None,
    gateway6: str | None,
    prefixes: tuple[str, ...],
    vlan: int | None,
    mtu: int | None,
    wait: bool,
) -> None:
    """Make a network outside. The same again changes nothing.

    \b
    Examples:
      ebbtide external add pub --physical physnet1 --subnet 203.0.113.0/24 --gateway 203.0.113.1
      ebbtide external add dmz --physical physnet1 --vlan 42 --subnet 198.51.100.0/24
      ebbtide external add pub --physical physnet1 --subnet 203.0.113.0/24 --gateway 203.0.113.1 \\
        --subnet6 2001:db8::/64 --gateway6 2001:db8::1 --prefix 2001:db8:100::/40
    """
    wishes = {"physical": physical, "subnet": subnet, "gateway": gateway, "subnet6": subnet6, "gateway6": gateway6}
    body = {"id": name, **given(**wishes, prefixes=prefixes, vlan=vlan, mtu=mtu)}
    verdicts.made(session, session.client.call("POST", "/externals", body, query=waiting(wait)), "external")


@external.command("set")
@click.argument("name", shell_complete=known_externals)
@_ipv6
@click.option("--no-ipv6", is_flag=True, help="In the place of the others: no IPv6.")
@wait_option
@client_verb
def external_set(
    session: Session,
    name: str,
    subnet6: str | None,
    gateway6: str | None,
    prefixes: tuple[str, ...],
    no_ipv6: bool,
    wait: bool,
) -> None:
    """Change a network's IPv6; what is not given stays.

    \b
    Examples:
      ebbtide external set pub --subnet6 2001:db8::/64 --gateway6 2001:db8::1 --prefix 2001:db8:100::/40
      ebbtide external set pub --no-ipv6
    """
    change = given(subnet6=subnet6, gateway6=gateway6, prefixes=prefixes)
    if no_ipv6 and change:
        raise BadInput("--no-ipv6 and the others were both given: say one of them")
    if no_ipv6:
        change = {"subnet6": ""}
    if not change:
        raise BadInput("nothing to change was given: `ebbtide external set --help`")
    found = session.client.call("PATCH", f"/externals/{segment(name)}", change, query=waiting(wait))
    verdicts.made(session, found, "external")


@external.command("list")
@client_verb
def external_list(session: Session) -> None:
    """List the networks outside.

    \b
    Examples:
      ebbtide externals
      ebbtide externals --json
    """
    found = session.client.get("/externals")
    if session.json:
        render.as_json(found)
        return
    rows = [row for each in found["externals"] for row in _rows(each)]
    columns = ("external", "physical", "vlan", "subnet", "next hop", "its mac", "computes")
    render.table(
        columns, rows, "no networks outside: `ebbtide external add NAME --physical NAME --subnet CIDR --gateway IP`"
    )


def _rows(found: dict[str, Any]) -> list[tuple[object, ...]]:
    """What it has of IPv4, and below that what it has of IPv6."""
    first = (found["id"], found["physical"], found["vlan"] or "untagged")
    shown: list[tuple[object, ...]] = [(*first, *_hop(found, ""), render.some(found["computes"], 1))]
    return [*shown, ("", "", "", *_hop(found, "6"), "")] if found["subnet6"] else shown


def _hop(found: dict[str, Any], family: str) -> tuple[str, str, str]:
    gateway, mac = found[f"gateway{family}"], found[f"gateway{family}-mac"]
    return found[f"subnet{family}"], gateway, mac or ("unknown" if gateway else "")


@external.command("show")
@click.argument("name", shell_complete=known_externals)
@client_verb
def external_show(session: Session, name: str) -> None:
    """Show a network outside.

    \b
    Examples:
      ebbtide external show pub
    """
    found = session.client.get(f"/externals/{segment(name)}")
    render.as_json(found) if session.json else render.facts(found)


@external.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=known_externals)
@wait_option
@client_verb
def external_delete(session: Session, names: tuple[str, ...], wait: bool) -> None:
    """Delete networks outside that no router and no floating IP uses.

    \b
    Examples:
      ebbtide external delete dmz
    """
    _delete(session, "/externals", names, wait)


@click.group("floating-ip", cls=NounGroup)
def floating_ip() -> None:
    """Floating IPs: an address outside that stands for a port's.

    \b
    Examples:
      ebbtide floating-ip add pub 203.0.113.9 --port vm1
      ebbtide floating-ips
    """


@floating_ip.command("add")
@click.argument("external", shell_complete=known_externals)
@click.argument("address")
@click.option("--port", help="The port that it leads to; to none when not given.", shell_complete=known_ports)
@click.option("--fixed", metavar="IP", help="Which of the port's addresses (the first that a router leads to).")
@click.option("--mac", help="Its MAC outside; chosen when not given.")
@wait_option
@client_verb
def floating_ip_add(
    session: Session, external: str, address: str, port: str | None, fixed: str | None, mac: str | None, wait: bool
) -> None:
    """Make a floating IP, or lead one that is there to another port (without --port: to none).

    \b
    Examples:
      ebbtide floating-ip add pub 203.0.113.9 --port vm1
      ebbtide floating-ip add pub 203.0.113.9 --port vm2
      ebbtide floating-ip add pub 203.0.113.10
    """
    body = {"external": external, "address": address, **given(port=port, fixed=fixed, mac=mac)}
    verdicts.made(session, session.client.call("POST", "/floating-ips", body, query=waiting(wait)), "floating-ip")


@floating_ip.command("list")
@click.option("--external", help="Only those of this network outside.", shell_complete=known_externals)
@click.option("--router", help="Only those that lead behind this router.", shell_complete=known_routers)
@client_verb
def floating_ip_list(session: Session, external: str | None, router: str | None) -> None:
    """List the floating IPs, and the computes that exchange them.

    \b
    Examples:
      ebbtide floating-ips
      ebbtide floating-ip list --router r1
    """
    found = session.client.get("/floating-ips", given(external=external, router=router))
    if session.json:
        render.as_json(found)
        return
    columns = ("floating ip", "external", "router", "port", "address", "exchanged on")
    rows = [
        (f["address"], f["external"], f["router"], f["port"], f["fixed"], render.some(f["computes"], 1))
        for f in found["floating-ips"]
    ]
    render.table(columns, rows, "no floating IPs: `ebbtide floating-ip add EXTERNAL ADDRESS --port ID`")


@floating_ip.command("show")
@click.argument("external", shell_complete=known_externals)
@click.argument("address", shell_complete=known_floating_ips)
@client_verb
def floating_ip_show(session: Session, external: str, address: str) -> None:
    """Show a floating IP.

    \b
    Examples:
      ebbtide floating-ip show pub 203.0.113.9
    """
    found = session.client.get(f"/floating-ips/{segment(external)}/{segment(address)}")
    render.as_json(found) if session.json else render.facts(found)


@floating_ip.command("delete")
@click.argument("external", shell_complete=known_externals)
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...", shell_complete=known_floating_ips)
@wait_option
@client_verb
def floating_ip_delete(session: Session, external: str, addresses: tuple[str, ...], wait: bool) -> None:
    """Delete floating IPs.

    \b
    Examples:
      ebbtide floating-ip delete pub 203.0.113.9
    """
    _delete(session, f"/floating-ips/{segment(external)}", addresses, wait)
