"""The root command. Errors of `errors.py` become a message and the exit code that the error has; see `ebbtide help exit-codes`."""

from __future__ import annotations

import sys
from typing import Any

import click

from ebbtide import __version__
from ebbtide.cli.session import Session, connection_options, json_option
from ebbtide.cli.tree import RootGroup
from ebbtide.errors import EbbtideError

INTERRUPTED = 130


class Root(RootGroup):
    """Turns errors into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Carry the command out."""
        session = ctx.ensure_object(Session)  # here, so that all contexts below share it
        try:
            return super().invoke(ctx)
        except EbbtideError as error:
            from ebbtide.cli.verdicts import report

            report(session, error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Any unambiguous beginning of a name will do (`ebbtide net l`). Aliases: computes, networks, ports,"
    " groups, externals, routers, vpns, floating-ips, designations, relations, operations, labs. Exit codes: 0 done, 2 bad input,"
    " 3 not found, 4 refused, 5 not ready, 6 still working, 7 audit found something, 8 audit read nothing: `ebbtide help exit-codes`.",
)
@connection_options(hidden=False)
@json_option
@click.version_option(__version__, prog_name="ebbtide")
def cli() -> None:
    """A controller for clusters of Open vSwitch computes that join and leave while the network runs.

    \b
    Examples:
      ebbtide lab up --computes 4 --vms-per-compute 2   a cluster to play with
      ebbtide --lab lab computes                        who is in it
      ebbtide --lab lab scale-in start c4               take a compute out
      ebbtide controller --state-dir /var/lib/ebbtide   run a controller
    """


def main() -> None:
    """The entry point of `ebbtide` and `python -m ebbtide`."""
    sys.exit(cli(prog_name="ebbtide"))
