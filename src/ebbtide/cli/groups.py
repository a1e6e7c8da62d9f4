"""`ebbtide group ...`: security groups and their rules. Which groups a port is in, `ebbtide port set` says."""

from __future__ import annotations

from typing import Any

import click

from ebbtide.cli import render, verdicts
from ebbtide.cli.client import segment
from ebbtide.cli.session import Session, client_verb, given, known_groups, wait_option, waiting
from ebbtide.cli.tree import NounGroup


@click.group("group", cls=NounGroup)
def group() -> None:
    """Security groups: what the ports in them may receive and send.

    \b
    Examples:
      ebbtide group add web
      ebbtide group allow web --in --protocol tcp --ports 443
      ebbtide port set vm1 --group web
    """


@group.command("add")
@click.argument("name")
@wait_option
@client_verb
def group_add(session: Session, name: str, wait: bool) -> None:
    """Make a security group without rules. The same again changes nothing.

    \b
    Examples:
      ebbtide group add web
    """
    found = session.client.call("POST", "/security-groups", {"id": name}, query=waiting(wait))
    verdicts.made(session, found, "security-group", _group)


@group.command("list")
@client_verb
def group_list(session: Session) -> None:
    """List the security groups.

    \b
    Examples:
      ebbtide groups
      ebbtide group list --json
    """
    found = session.client.get("/security-groups")
    if session.json:
        render.as_json(found)
        return
    rows = [
        (g["id"], len(g["rules"]), len(g["ports"]), render.some(g["named-by"], 3), len(g["computes"]))
        for g in found["security-groups"]
    ]
    render.table(
        ("group", "rules", "ports", "named by", "computes"), rows, "no security groups: `ebbtide group add NAME`"
    )


@group.command("show")
@click.argument("name", shell_complete=known_groups)
@client_verb
def group_show(session: Session, name: str) -> None:
    """Show a security group: its rules, the ports in it, and where they are held.

    \b
    Examples:
      ebbtide group show web
    """
    found = session.client.get(f"/security-groups/{segment(name)}")
    render.as_json(found) if session.json else _group(found)


def _group(found: dict[str, Any]) -> None:
    render.facts({k: v for k, v in found.items() if k != "rules"})
    rules = found.get("rules") or []
    if rules:
        click.echo()
        render.table(("rule", "direction", "lets through"), [(r["id"], r["direction"], r["words"]) for r in rules])


@group.command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=known_groups)
@wait_option
@client_verb
def group_delete(session: Session, names: tuple[str, ...], wait: bool) -> None:
    """Delete security groups that no port is in and no rule of another names.

    \b
    Examples:
      ebbtide group delete web
    """

    def call(text: str) -> dict[str, Any]:
        return session.client.call("DELETE", f"/security-groups/{segment(text)}", query=waiting(wait))

    verdicts.each(session, names, call)


@group.command("allow")
@click.argument("name", shell_complete=known_groups)
@click.option("--in/--out", "inbound", required=True, help="What the ports receive, or what they send.")
@click.option("--protocol", help="tcp, udp, icmp, icmpv6, sctp or a number [any].")
@click.option("--ports", metavar="PORTS", help="80, or 8000-8100: the destination's.")
@click.option("--icmp-type", type=int, help="Of icmp and icmpv6.")
@click.option("--icmp-code", type=int, help="Of that type.")
@click.option("--prefix", metavar="CIDR", help="The far end [anybody].")
@click.option(
    "--far", "remote", metavar="GROUP", help="The far end: a port of this group.", shell_complete=known_groups
)
@click.option("--family", type=click.Choice(["ipv4", "ipv6"]), help="[as the rest says, else ipv4].")
@click.option("--id", "rule_id", metavar="ID", help="The rule's id; made of what it says when not given.")
@wait_option
@client_verb
def group_allow(session: Session, name: str, inbound: bool, wait: bool, **said: Any) -> None:
    """Give a security group a rule. The same again changes nothing.

    A rule is about connections: what answers needs none. Established connections are judged by the rules as they are now.

    \b
    Examples:
      ebbtide group allow web --in --protocol tcp --ports 443
      ebbtide group allow db --in --protocol tcp --ports 5432 --far web
      ebbtide group allow web --out
    """
    body = given(
        **{"icmp-type": said["icmp_type"], "icmp-code": said["icmp_code"], "remote-group": said["remote"]},
        **{k: said[k] for k in ("protocol", "ports", "prefix", "family")},
        id=said["rule_id"],
    )
    body["direction"] = "in" if inbound else "out"
    found = session.client.call("POST", f"/security-groups/{segment(name)}/rules", body, query=waiting(wait))
    verdicts.made(session, found, "rule")


@group.command("forbid")
@click.argument("name", shell_complete=known_groups)
@click.argument("rules", nargs=-1, required=True, metavar="RULE...")
@wait_option
@client_verb
def group_forbid(session: Session, name: str, rules: tuple[str, ...], wait: bool) -> None:
    """Take rules out of a security group, by id. What they alone let through is cut, established connections too.

    \b
    Examples:
      ebbtide group forbid web 5f0c2a9d11be
    """

    def call(text: str) -> dict[str, Any]:
        return session.client.call(
            "DELETE", f"/security-groups/{segment(name)}/rules/{segment(text)}", query=waiting(wait)
        )

    verdicts.each(session, rules, call)
