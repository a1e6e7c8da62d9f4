"""`ebbtide router ...`: routers between networks, and the way outside. Networks outside and floating IPs are in `outside.py`."""

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
    known_networks,
    known_routers,
    wait_option,
    waiting,
)
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput


@click.group("router", cls=NounGroup)
def router() -> None:
    """Routers between networks, and to a network outside.

    Every compute routes for its own VMs. The way outside leads by one designated compute, which translates connections (SNAT);
    another stands by.

    \b
    Examples:
      ebbtide router add r1 --external pub --address 203.0.113.5
      ebbtide router attach r1 blue
      ebbtide routers
    """


def _router_options(function: Any) -> Any:
    for option in (
        click.option("--record/--no-record", default=None, help="Keep a record of its connections, or not."),
        click.option(
            "--route",
            "routes",
            multiple=True,
            metavar='"CIDR via IP"',
            help="An extra route; its next hop is in a network of the router. May be repeated.",
        ),
        click.option("--snat/--no-snat", default=None, help="Translate connections into its addresses, or not."),
        click.option("--address", "addresses", multiple=True, metavar="IP", help="One outside; may be repeated."),
        click.option("--external", help="The network outside.", shell_complete=known_externals),
    ):
        function = option(function)
    return function


@router.command("add")
@click.argument("name")
@_router_options
@wait_option
@client_verb
def router_add(
    session: Session,
    name: str,
    external: str | None,
    addresses: tuple[str, ...],
    snat: bool | None,
    routes: tuple[str, ...],
    record: bool | None,
    wait: bool,
) -> None:
    """Make a router. The same again changes nothing.

    SNAT is on and a record is kept, unless something else is said.

    \b
    Examples:
      ebbtide router add r1 --external pub --address 203.0.113.5
      ebbtide router add inner
    """
    wishes = given(external=external, addresses=addresses, snat=snat, routes=routes, record=record)
    found = session.client.call("POST", "/routers", {"id": name, **wishes}, query=waiting(wait))
    verdicts.made(session, found, "router", _router)


@router.command("set")
@click.argument("name", shell_complete=known_routers)
@_router_options
@click.option("--no-external", is_flag=True, help="No network outside any more, and no addresses there.")
@click.option("--no-addresses", is_flag=True, help="No addresses outside.")
@click.option("--no-routes", is_flag=True, help="No extra routes.")
@wait_option
@client_verb
def router_set(
    session: Session,
    name: str,
    external: str | None,
    addresses: tuple[str, ...],
    snat: bool | None,
    routes: tuple[str, ...],
    record: bool | None,
    no_external: bool,
    no_addresses: bool,
    no_routes: bool,
    wait: bool,
) -> None:
    """Change what is given of a router; the rest stays. Addresses and routes that are given are all that it has then.

    \b
    Examples:
      ebbtide router set r1 --address 203.0.113.5 --address 203.0.113.6
      ebbtide router set r1 --route "10.9.0.0/16 via 10.1.0.9"
      ebbtide router set r1 --no-snat
    """
    change = given(external=external, addresses=addresses, snat=snat, routes=routes, record=record)
    for field, no, nothing in (
        ("external", no_external, ""),
        ("addresses", no_addresses, []),
        ("routes", no_routes, []),
    ):
        if no and field in change:
            raise BadInput(f"--no-{field} and {field} to have were both given: say one of them")
        if no:
            change[field] = nothing
    if not change:
        raise BadInput("nothing to change was given: `ebbtide router set --help`")
    found = session.client.call("PATCH", f"/routers/{segment(name)}", change, query=waiting(wait))

    def show(made: dict[str, Any]) -> None:
        _router(made)
        for address in found.get("addresses-gone", ()):
            render.line(f"{address} is not its address any more: its connections are cut")

    verdicts.made(session, found, "router", show)


@router.command("list")
@click.option("--network", help="Only those in this network.", shell_complete=known_networks)
@client_verb
def router_list(session: Session, network: str | None) -> None:
    """List the routers, and who serves their NAT.

    \b
    Examples:
      ebbtide routers
      ebbtide router list --network blue
    """
    found = session.client.get("/routers", {} if network is None else {"network": network})
    if session.json:
        render.as_json(found)
        return
    columns = ("router", "external", "networks", "designated", "standby", "remarks")
    render.table(
        columns, [_row(r) for r in found["routers"]], "no routers: `ebbtide router add NAME --external NETWORK`"
    )


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    remarks = []
    if found["move"]:
        remarks.append(f"moves to {found['move']['new']} ({found['move']['phase']})")
    if found["external"] and not found["designated"]:
        remarks.append("unserved" if found["networks"] else "in no network")
    if found["external"] and not found["snat"]:
        remarks.append("no SNAT")
    elif found["external"] and not any(":" not in address for address in found["addresses"]):
        remarks.append("no address" if not found["addresses"] else "no IPv4 address")
    if found["next-hop"] and not found["next-hop-mac"]:
        remarks.append("next hop unknown")
    if found["untranslated"] and found["next-hop6"] and not found["next-hop6-mac"]:
        remarks.append("IPv6 next hop unknown")
    networks = render.some(list(dict.fromkeys(place["network"] for place in found["networks"])), 2)
    return (
        found["id"],
        found["external"],
        networks,
        found["designated"],
        found["standby"],
        ", ".join(remarks),
    )


@router.command("show")
@click.argument("name", shell_complete=known_routers)
@client_verb
def router_show(session: Session, name: str) -> None:
    """Show a router: its places in networks, who serves its NAT, the ports leased for it, a move.

    \b
    Examples:
      ebbtide router show r1
      ebbtide router show r1 --json
    """
    found = session.client.get(f"/routers/{segment(name)}")
    render.as_json(found) if session.json else _router(found)


def _router(found: dict[str, Any]) -> None:
    places, leases, move, refused = (found.get(k) for k in ("networks", "leases", "move", "refused"))
    fields = {k: v for k, v in found.items() if k not in ("networks", "leases", "move", "refused")}
    if refused and any(refused.values()):
        fields["refused"] = f"{refused['sctp']} packets of SCTP, {refused['other']} of other protocols"
    render.facts(fields | {"since": found.get("since") or ""})
    if move:
        fields = {"moves": f"from {move['old']} to {move['new']}", "phase": move["phase"], "since": move["since"]}
        fields |= {
            "waits for": move["reason"],
            "unknown": move["unknown"],
            "deadline": render.instant(move["deadline"]),
        }
        click.echo()
        render.facts(fields)
    if places:
        click.echo()
        rows = [(p["network"], p["address"], p["subnet"], p["mac"]) for p in places]
        render.table(("network", "address", "subnet", "mac"), rows)
    if leases:
        click.echo()
        rows = [(f"{x['first']}-{x['last']}", x["compute"], _use(x), x["since"]) for x in leases]
        render.table(("ports", "compute", "use", "since"), rows)


def _use(found: dict[str, Any]) -> str:
    if not found["opening"]:
        return "kept for what is open"
    return "opens, TCP on a SYN alone" if found["careful"] else "opens"


@router.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=known_routers)
@wait_option
@client_verb
def router_delete(session: Session, names: tuple[str, ...], wait: bool) -> None:
    """Delete routers that are in no network.

    \b
    Examples:
      ebbtide router delete r1
    """

    def call(text: str) -> dict[str, Any]:
        return session.client.call("DELETE", f"/routers/{segment(text)}", query=waiting(wait))

    verdicts.each(session, names, call)


@router.command("attach")
@click.argument("name", shell_complete=known_routers)
@click.argument("network", shell_complete=known_networks)
@click.option("--address", metavar="IP", help="The router's there (the first of the only subnet when not given).")
@click.option("--mac", help="The router's MAC there; chosen when not given.")
@wait_option
@client_verb
def router_attach(session: Session, name: str, network: str, address: str | None, mac: str | None, wait: bool) -> None:
    """Give a router a place in a network. The same again changes nothing.

    \b
    Examples:
      ebbtide router attach r1 blue
      ebbtide router attach r1 red --address 10.2.0.254
    """
    body = {"network": network, **given(address=address, mac=mac)}
    found = session.client.call("POST", f"/routers/{segment(name)}/attach", body, query=waiting(wait))
    verdicts.made(session, found, "place")


@router.command("detach")
@click.argument("name", shell_complete=known_routers)
@click.argument("network", shell_complete=known_networks)
@click.option("--address", metavar="IP", help="Only this place of several there.")
@wait_option
@client_verb
def router_detach(session: Session, name: str, network: str, address: str | None, wait: bool) -> None:
    """Take a router out of a network.

    \b
    Examples:
      ebbtide router detach r1 blue
    """
    body = {"network": network, **given(address=address)}
    found = session.client.call("POST", f"/routers/{segment(name)}/detach", body, query=waiting(wait))
    verdicts.made(session, found, "router", _router)
