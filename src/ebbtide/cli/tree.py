"""The tree of commands: where each is, how it may be shortened, and how it is listed.

A command's file is imported when the command is called, not to list it: the table below holds the one-line summaries, and a test
compares them with the commands' own. Any unambiguous beginning of a name is taken for the name (`ebbtide net l`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """A command that is imported when it is needed."""

    section: str
    target: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "compute": Entry(
        "Cluster", "computes:compute", "Nodes with Open vSwitch: who is in the cluster, and in what state."
    ),
    "network": Entry("Cluster", "networks:network", "Tenant networks, each with a VNI and subnets."),
    "port": Entry("Cluster", "networks:port", "Logical ports: the MAC and addresses of a VM's interface."),
    "group": Entry("Cluster", "groups:group", "Security groups: what the ports in them may receive and send."),
    "external": Entry("Cluster", "outside:external", "Networks outside of the overlay, each with its next hop."),
    "router": Entry("Cluster", "routers:router", "Routers between networks, and to a network outside."),
    "vpn": Entry("Cluster", "vpns:vpn", "L3VPNs: networks and routers that have routes to each other."),
    "nat": Entry("Cluster", "nat:nat", "Connections through a router's NAT, and what a move of it waits for."),
    "floating-ip": Entry(
        "Cluster", "outside:floating_ip", "Floating IPs: an address outside that stands for a port's."
    ),
    "learnt": Entry("Cluster", "learnt:learnt", "Addresses that no port was given, and that answer."),
    "designation": Entry(
        "Cluster", "learnt:designation", "Who is designated for what: routers' NAT, subnets' unknown addresses."
    ),
    "relation": Entry("Cluster", "networks:relation", "Gateway relations: who sends by whom, watched by BFD."),
    "scale-in": Entry(
        "Cluster", "scalein:scale_in", "Take computes out of the cluster, or back, without a packet lost."
    ),
    "drain": Entry(
        "Cluster",
        "drains:drain",
        "Empty computes, remove each as soon as it is empty, and prove that nothing of it is left.",
    ),
    "rebalance": Entry(
        "Cluster",
        "balance:rebalance",
        "Move routers' NAT from computes above their bound to those that have room; no connection breaks.",
    ),
    "status": Entry("Looking", "looking:status", "The controller: leading or not, at which revision, what is held up."),
    "audit": Entry("Looking", "looking:audit", "Compare all that is installed with what should be; look for residue."),
    "explain": Entry(
        "Looking", "looking:explain", "Why a compute, port, network, router or VPN is as it is, in words."
    ),
    "operation": Entry(
        "Looking",
        "operations:operation",
        "Long work: drains, scale-in ends, rebalances; what they wait for, and how they are stopped.",
    ),
    "proof": Entry(
        "Looking", "proofs:proof", "That nothing is left of removed computes: what was read, what was found, signed."
    ),
    "events": Entry("Looking", "looking:events", "Follow changes as they happen."),
    "reconcile": Entry("Keeping", "keeping:reconcile", "Look at computes anew, or approve what the brake holds."),
    "backup": Entry("Keeping", "keeping:backup", "Write all that is stored to a file (- for standard output)."),
    "restore": Entry("Keeping", "keeping:restore", "Put a backup back."),
    "user": Entry("Keeping", "keeping:user", "Users of the REST interface."),
    "controller": Entry("Running", "controller:controller", "Run a controller."),
    "metadata-agent": Entry(
        "Running", "metadata:metadata_agent", "Answer the VMs of this compute at http://169.254.169.254/."
    ),
    "mover": Entry(
        "Running", "nova:mover", "Move VMs for drains: empty the Nova hosts that `ebbtide drain --vms nova` takes out."
    ),
    "lab": Entry("Running", "labs:lab", "Emulated computes on this machine: real Open vSwitch, real packets."),
    "demo": Entry("Running", "labs:demo", "The main job on a lab, with every packet counted."),
    "help": Entry("More", "topics:help_", "Help on a command or a topic: exit-codes, connection, ids."),
    "completion": Entry("More", "topics:completion", "Print the completion script of a shell."),
}

ALIASES: dict[str, tuple[str, ...]] = {
    "computes": ("compute", "list"),
    "networks": ("network", "list"),
    "ports": ("port", "list"),
    "groups": ("group", "list"),
    "externals": ("external", "list"),
    "routers": ("router", "list"),
    "vpns": ("vpn", "list"),
    "floating-ips": ("floating-ip", "list"),
    "designations": ("designation", "list"),
    "relations": ("relation", "list"),
    "operations": ("operation", "list"),
    "proofs": ("proof", "list"),
    "labs": ("lab", "list"),
    "scalein": ("scale-in",),
}

# These don't stand in the way of a short form of another.
RARE = ("completion", "demo", "nat", "restore")

SPELLINGS = {"ls": "list", "rm": "delete", "del": "delete"}


class NounGroup(click.Group):
    """A noun with verbs. Verbs can be shortened."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant, under its full name."""
        name = self.full_name(ctx, args[0]) if args else None
        if name is None:
            return super().resolve_command(ctx, args)
        found = self.get_command(ctx, name)
        assert found is not None
        return name, found, args[1:]

    def full_name(self, ctx: click.Context, text: str) -> str | None:
        """The name that `text` is, or is the only beginning of; None when there is none."""
        known = self.names(ctx)
        text = SPELLINGS.get(text, text)
        if text in known:
            return text
        fitting = [name for name in self.list_commands(ctx) if name.startswith(text)] if text[:1].isalpha() else []
        if len(fitting) > 1:
            fitting = [name for name in fitting if name not in RARE] or fitting
        if len(fitting) > 1 and not ctx.resilient_parsing:
            ctx.fail(f"{text!r} can be {', '.join(fitting)}: add a letter")
        return fitting[0] if len(fitting) == 1 else None

    def names(self, ctx: click.Context) -> Sequence[str]:
        """Every name that is taken as it stands."""
        return self.list_commands(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were written."""
        return list(self.commands)


class RootGroup(NounGroup):
    """The root: commands by table, imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The table's names."""
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As a noun's; and what lists things is taken for their noun where a verb follows (`ebbtide operations watch`)."""
        name, found, rest = super().resolve_command(ctx, args)
        path = ALIASES.get(name or "", ())
        noun = self.get_command(ctx, path[0]) if len(path) > 1 and rest and rest[0][:1].isalpha() else None
        if isinstance(noun, NounGroup) and noun.full_name(ctx, rest[0]) is not None:
            return path[0], noun, rest
        return name, found, rest

    def names(self, ctx: click.Context) -> Sequence[str]:
        """With aliases."""
        return [*COMMANDS, *ALIASES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it."""
        path = ALIASES.get(cmd_name, (cmd_name,))
        entry = COMMANDS.get(path[0])
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        found = getattr(import_module(f"ebbtide.cli.{module}"), attribute)
        assert isinstance(found, click.Command)
        for verb in path[1:]:
            assert isinstance(found, click.Group)
            found = found.commands[verb]
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """By section, without importing anything."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in COMMANDS.items():
            sections.setdefault(entry.section, []).append((name, entry.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Names and summaries, without importing anything of ours."""
        if incomplete[:1] == "-":
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem

        found: Mapping[str, str] = {n: e.summary for n, e in COMMANDS.items()} | dict.fromkeys(ALIASES, "")
        return [CompletionItem(n, help=text) for n, text in found.items() if n.startswith(incomplete)]
