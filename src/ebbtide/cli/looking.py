"""`ebbtide status|audit|explain|events`: verbs that only read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ebbtide.cli import render
from ebbtide.cli.client import segment
from ebbtide.cli.session import (
    Session,
    client_verb,
    given,
    known_computes,
    known_networks,
    known_ports,
    known_routers,
    known_vpns,
)
from ebbtide.errors import BadInput, NotReady

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FOUND = 7
NOTHING_READ = 8
AUDIT_SECONDS = 900.0


@click.command("status")
@client_verb
def status(session: Session) -> None:
    """The controller: leading or not, at which revision, what is held up.

    \b
    Examples:
      ebbtide status
      ebbtide status --json
    """
    found = session.client.get("/status")
    render.as_json(found) if session.json else render.facts(found)


@click.command("audit")
@client_verb
def audit(session: Session) -> None:
    """Compare all that is installed with what should be; look for residue.

    Reads every flow, group and row of every reachable compute. Residue is anything left of a removed compute.

    Exit code 0: clean; 7: something was found; 8: nothing could be read, which proves nothing.

    \b
    Examples:
      ebbtide audit
      ebbtide audit --json
    """
    with render.working("auditing: reading every compute"):
        report = session.client.call("POST", "/audit", {}, timeout=AUDIT_SECONDS)
    if session.json:
        render.as_json(report)
    else:
        _show(report)
    if not report.get("computes"):
        sys.exit(NOTHING_READ)
    if report.get("findings") or not report.get("clean", True):
        sys.exit(FOUND)


def _show(report: dict[str, Any]) -> None:
    read, unreachable, removed = (report.get(k) or [] for k in ("computes", "unreachable", "removed"))
    if read:
        render.line(", ".join(f"{report.get(kind, 0)} {kind}" for kind in ("missing", "unexpected", "residue")))
    else:
        render.line("nothing was read, so nothing is proven: no compute is reachable")
    amounts = ", ".join(render.counted(report.get(f"{noun}s", 0), noun) for noun in ("flow", "group", "row"))
    revision = report.get("revision", 0)
    render.line(f"read {amounts} on {render.counted(len(read), 'compute')} at revision {revision}")
    if unreachable:
        render.line(f"not read, unreachable: {', '.join(map(str, unreachable))}")
    if removed:
        render.line(f"looked for what is left of: {', '.join(map(str, removed))}")
    findings = report.get("findings") or []
    if findings:
        rows = [(f.get("kind"), f.get("compute"), f.get("what"), f.get("text")) for f in findings]
        render.table(("finding", "compute", "what", "text"), rows)
        total = sum(int(report.get(kind, 0)) for kind in ("missing", "unexpected", "residue"))
        if total > len(findings):
            render.line(f"{total - len(findings)} more are not listed")


_EXPLAINED = {
    "compute": known_computes,
    "port": known_ports,
    "network": known_networks,
    "router": known_routers,
    "vpn": known_vpns,
}


def _known(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    complete = _EXPLAINED.get(ctx.params.get("kind") or "")
    return complete(ctx, param, incomplete) if complete else []


@click.command("explain")
@click.argument("kind", type=click.Choice(list(_EXPLAINED)))
@click.argument("name", metavar="ID", shell_complete=_known)
@click.option("--from", "source", metavar="ADDRESS", help="Of a port: would a packet from there reach it?")
@click.option("--to", "target", metavar="ADDRESS", help="Of a port: would a packet of it be let out to there?")
@click.option("--protocol", help="The packet's: tcp, udp, icmp, icmpv6, sctp or a number.")
@click.option("--port", "ports", type=int, help="Its destination port.")
@click.option("--icmp-type", type=int, help="Of icmp and icmpv6.")
@client_verb
def explain(
    session: Session,
    kind: str,
    name: str,
    source: str | None,
    target: str | None,
    protocol: str | None,
    ports: int | None,
    icmp_type: int | None,
) -> None:
    """Why a compute, port, network, router or VPN is as it is, in words.

    Of a router: who serves its NAT, a move under way, its next hop, the ports leased for it, its floating IPs, and the commands that show
    its flows and connections on a compute.

    \b
    Examples:
      ebbtide explain compute c4
      ebbtide explain port vm1
      ebbtide explain port vm1 --from 10.1.0.7 --protocol tcp --port 443
      ebbtide explain router r1
    """
    asked = given(to=target, protocol=protocol, port=ports, **{"from": source, "icmp-type": icmp_type})
    if asked and kind != "port":
        raise BadInput("a packet is asked about at a port: `ebbtide explain port ID --from ADDRESS ...`")
    query = {key: str(value) for key, value in asked.items()}
    found = session.client.get(f"/explain/{kind}/{segment(name)}", query)
    if session.json:
        render.as_json(found)
        return
    for text in found.get("lines", []):
        render.line(text)


@click.command("events")
@click.option("--count", type=int, metavar="N", help="End after N events.")
@client_verb
def events(session: Session, count: int | None) -> None:
    """Follow changes as they happen.

    One event a line: its kind, then its facts as JSON (with --json only these). Ends with Ctrl-C; exit code 5 when the controller
    goes away.

    \b
    Examples:
      ebbtide events
      ebbtide events --count 1
    """
    seen = 0
    name, data = "message", list[str]()
    for text in session.client.lines("/events"):
        if text.startswith("event:"):
            name = text[6:].strip()
        elif text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            render.line(" ".join(data) if session.json else f"{name}  {' '.join(data)}")
            name, data, seen = "message", [], seen + 1
            if seen == count:
                return
    raise NotReady(f"{session.client.place} has gone, and its events with it")
