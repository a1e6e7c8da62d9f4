"""`ebbtide learnt ...` and `ebbtide designation ...`: addresses that nobody was given, and who is designated for what."""

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
    known_networks,
    wait_option,
    waiting,
)
from ebbtide.cli.tree import NounGroup


@click.group("learnt", cls=NounGroup)
def learnt() -> None:
    """Addresses that no port was given, and that answer.

    Second addresses of VMs, virtual IPs, what is behind an appliance.

    \b
    Examples:
      ebbtide learnt list
      ebbtide learnt delete red 10.2.0.100
    """


@learnt.command("list")
@click.option("--network", help="Only those of this network.", shell_complete=known_networks)
@client_verb
def learnt_list(session: Session, network: str | None) -> None:
    """List what was learnt, and what is asked for just now.

    \b
    Examples:
      ebbtide learnt list
      ebbtide learnt list --network red
    """
    found = session.client.get("/learnt", given(network=network))
    if session.json:
        render.as_json(found)
        return
    rows = [
        (x["network"], x["address"], x["port"], x["mac"], x["compute"] or "plugged nowhere") for x in found["learnt"]
    ]
    render.table(("network", "address", "port", "mac", "compute"), rows, "nothing was learnt")
    for asked in found["asked"]:
        render.line(f"{asked['network']} {asked['address']}: {asked['doing']}")


@learnt.command("delete")
@click.argument("network", shell_complete=known_networks)
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS...")
@wait_option
@client_verb
def learnt_delete(session: Session, network: str, addresses: tuple[str, ...], wait: bool) -> None:
    """Forget addresses. What is still sent to them is asked for anew.

    \b
    Examples:
      ebbtide learnt delete red 10.2.0.100
    """

    def call(text: str) -> dict[str, Any]:
        path = f"/learnt/{segment(network)}/{segment(text)}"
        return session.client.call("DELETE", path, query=waiting(wait))

    verdicts.each(session, addresses, call)


@click.group("designation", cls=NounGroup)
def designation() -> None:
    """Who is designated for what: routers' NAT, subnets' unknown addresses.

    \b
    Examples:
      ebbtide designations
      ebbtide designation list --compute c4
    """


@designation.command("list")
@click.option("--service", type=click.Choice(["nat", "subnet"]), help="Only those of this kind.")
@click.option("--compute", help="Only those that this compute has a part in.", shell_complete=known_computes)
@client_verb
def designation_list(session: Session, service: str | None, compute: str | None) -> None:
    """List them: what, where, and who stands by.

    \b
    Examples:
      ebbtide designations
      ebbtide designation list --service subnet
    """
    found = session.client.get("/designations", given(service=service, compute=compute))
    if session.json:
        render.as_json(found)
        return
    columns = ("service", "object", "compute", "standby", "since")
    rows = [tuple(x[c] for c in columns) for x in found["designations"]]
    render.table(columns, rows, "nobody is designated for anything")
