"""`ebbtide vpn ...`: L3VPNs, and what is associated with them."""

from __future__ import annotations

from typing import Any

import click

from ebbtide.cli import render, verdicts
from ebbtide.cli.client import segment
from ebbtide.cli.session import (
    Session,
    client_verb,
    given,
    known_networks,
    known_routers,
    known_vpns,
    wait_option,
    waiting,
)
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput


@click.group("vpn", cls=NounGroup)
def vpn() -> None:
    """L3VPNs: networks and routers that have routes to each other.

    What is associated with one VPN has routes to all of it; VPNs have routes to each other by route targets, and may have the same
    addresses otherwise.

    \b
    Examples:
      ebbtide vpn add blue --rd 100:1 --target 100:1
      ebbtide vpn associate blue --network web
      ebbtide vpn associate blue --router r1
    """


def _target_options(function: Any) -> Any:
    for option in (
        click.option("--export", "exports", multiple=True, metavar="RT", help="Who imports RT has its routes."),
        click.option("--import", "imports", multiple=True, metavar="RT", help="It has the routes that RT exports."),
        click.option("--target", "both", multiple=True, metavar="RT", help="Both. All three may be repeated."),
    ):
        function = option(function)
    return function


@vpn.command("add")
@click.argument("name")
@click.option("--rd", required=True, metavar="RD", help="Its route distinguisher, ASN:NUMBER or ADDRESS:NUMBER.")
@_target_options
@wait_option
@client_verb
def vpn_add(
    session: Session,
    name: str,
    rd: str,
    both: tuple[str, ...],
    imports: tuple[str, ...],
    exports: tuple[str, ...],
    wait: bool,
) -> None:
    """Make a VPN. The same again changes nothing.

    \b
    Examples:
      ebbtide vpn add blue --rd 100:1 --target 100:1
      ebbtide vpn add spoke --rd 100:2 --import 100:10 --export 100:20
    """
    body = {"id": name, "rd": rd, **given(imports=imports + both, exports=exports + both)}
    found = session.client.call("POST", "/vpns", body, query=waiting(wait))
    verdicts.made(session, found, "vpn", _vpn)


@vpn.command("set")
@click.argument("name", shell_complete=known_vpns)
@_target_options
@click.option("--no-imports", is_flag=True, help="Import nothing any more.")
@click.option("--no-exports", is_flag=True, help="Export nothing any more.")
@wait_option
@client_verb
def vpn_set(
    session: Session,
    name: str,
    both: tuple[str, ...],
    imports: tuple[str, ...],
    exports: tuple[str, ...],
    no_imports: bool,
    no_exports: bool,
    wait: bool,
) -> None:
    """Change a VPN's route targets. Those that are given are all that it has then, of their kind.

    \b
    Examples:
      ebbtide vpn set blue --import 100:1 --import 100:2
      ebbtide vpn set blue --no-exports
    """
    change = given(imports=imports + both, exports=exports + both)
    for field, nothing in (("imports", no_imports), ("exports", no_exports)):
        if nothing and field in change:
            raise BadInput(f"--no-{field} and targets to {field[:-1]} were both given: say one of them")
        if nothing:
            change[field] = []
    if not change:
        raise BadInput("nothing to change was given: `ebbtide vpn set --help`")
    found = session.client.call("PATCH", f"/vpns/{segment(name)}", change, query=waiting(wait))
    verdicts.made(session, found, "vpn", _vpn)


@vpn.command("list")
@client_verb
def vpn_list(session: Session) -> None:
    """List the VPNs.

    \b
    Examples:
      ebbtide vpns
      ebbtide vpn list --json
    """
    found = session.client.get("/vpns")
    if session.json:
        render.as_json(found)
        return
    columns = ("vpn", "rd", "imports", "exports", "networks", "routers", "computes", "shadowed")
    rows = [
        (
            v["id"],
            v["rd"],
            render.some(v["imports"], 2),
            render.some(v["exports"], 2),
            render.some(list(dict.fromkeys(place["network"] for place in v["networks"])), 2),
            render.some(v["routers"], 2),
            len(v["computes"]),
            len(v["shadowed"]) or "",
        )
        for v in found["vpns"]
    ]
    render.table(columns, rows, "no VPNs: `ebbtide vpn add NAME --rd ASN:NUMBER --target ASN:NUMBER`")


@vpn.command("show")
@click.argument("name", shell_complete=known_vpns)
@client_verb
def vpn_show(session: Session, name: str) -> None:
    """Show a VPN: its networks and routers, what it imports, and what of that overlaps.

    \b
    Examples:
      ebbtide vpn show blue
    """
    found = session.client.get(f"/vpns/{segment(name)}")
    render.as_json(found) if session.json else _vpn(found)


def _vpn(found: dict[str, Any]) -> None:
    places, imported, shadowed = (found.get(k) or [] for k in ("networks", "imported", "shadowed"))
    render.facts({k: v for k, v in found.items() if k not in ("networks", "imported", "shadowed")})
    rows = [(p["network"], p["subnet"], p["address"], p["mac"], "its own") for p in places]
    rows += [(p["network"], p["subnet"], p["address"], p["mac"], f"imported, of {p['vrf']}") for p in imported]
    rows += [
        (p["network"], p["subnet"], p["address"], p["mac"], f"of {p['vrf']}, not seen: it overlaps") for p in shadowed
    ]
    if rows:
        click.echo()
        render.table(("network", "subnet", "address", "mac", "how"), rows)


@vpn.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=known_vpns)
@wait_option
@client_verb
def vpn_delete(session: Session, names: tuple[str, ...], wait: bool) -> None:
    """Delete VPNs with which nothing is associated.

    \b
    Examples:
      ebbtide vpn delete blue
    """

    def call(text: str) -> dict[str, Any]:
        return session.client.call("DELETE", f"/vpns/{segment(text)}", query=waiting(wait))

    verdicts.each(session, names, call)


def _what_options(function: Any) -> Any:
    for option in (
        click.option("--router", help="A router.", shell_complete=known_routers),
        click.option("--network", help="A network without a router.", shell_complete=known_networks),
    ):
        function = option(function)
    return function


@vpn.command("associate")
@click.argument("name", shell_complete=known_vpns)
@_what_options
@click.option("--address", metavar="IP", help="The VPN's in the network (the first of each subnet when not given).")
@click.option("--mac", help="The VPN's MAC in the network; chosen when not given.")
@wait_option
@client_verb
def vpn_associate(
    session: Session,
    name: str,
    router: str | None,
    network: str | None,
    address: str | None,
    mac: str | None,
    wait: bool,
) -> None:
    """Bring a network or a router into a VPN. The same again changes nothing.

    A network without a router gets the VPN as its gateway; a router brings all of its networks, and keeps its way outside.

    \b
    Examples:
      ebbtide vpn associate blue --network web
      ebbtide vpn associate blue --router r1
    """
    body = given(network=network, router=router, address=address, mac=mac)
    found = session.client.call("POST", f"/vpns/{segment(name)}/associate", body, query=waiting(wait))
    verdicts.made(session, found, "vpn", _vpn)


@vpn.command("dissociate")
@click.argument("name", shell_complete=known_vpns)
@_what_options
@wait_option
@client_verb
def vpn_dissociate(session: Session, name: str, router: str | None, network: str | None, wait: bool) -> None:
    """Take a network or a router out of a VPN.

    \b
    Examples:
      ebbtide vpn dissociate blue --network web
    """
    body = given(network=network, router=router)
    found = session.client.call("POST", f"/vpns/{segment(name)}/dissociate", body, query=waiting(wait))
    verdicts.made(session, found, "vpn", _vpn)
