"""`ebbtide help` and `ebbtide completion`."""

from __future__ import annotations

from inspect import cleandoc

import click

from ebbtide.errors import BadInput

TOPICS = {
    "exit-codes": """
        Exit codes

          0    done, or already so
          1    a fault of ours, or a question answered with no
          2    bad input: malformed, unknown option, wrong type, too large
          3    not found: no such compute, network, port, lab, ...
          4    refused: clear, but may not be done now, or not by you; with the reason per id
          5    not ready: no controller answers, the store is away, ...; try again
          6    still working: accepted and going on; the same call again waits for it
          7    the audit found something: missing, unexpected or residue
          8    the audit could read nothing, which proves nothing
          9    a proof is not what the controller has signed
          10   a proof is, and something is left, or somebody could not be read yet
          11   a drain is over in part: some computes were recovered
          12   a drain has failed: no compute was removed
          13   a drain was aborted
          130  interrupted by Ctrl-C; what the controller has accepted goes on

        Where several ids fail in different ways, the gravest counts. With --json an error is an object
        {"error": {"status", "tag", "message", "verdicts", "exit-code"}} on standard output.
        """,
    "connection": """
        Where the controller is, and who asks

          --url, EBBTIDE_URL            http://127.0.0.1:8181 if not said; https://... too
          --cacert, EBBTIDE_CACERT      certificates that an https controller's is checked against
          --lab, EBBTIDE_LAB            the controller of a lab, by the lab's name or directory
          EBBTIDE_TOKEN                 a token; or
          EBBTIDE_USER, EBBTIDE_PASSWORD

        The options may stand before the verb or after it. Secrets are taken from the environment only.
        """,
    "ids": """
        How a compute is named

          c4                                its name: the host name, or br-int's dp-desc
          6f1a3c52-65bb-...                 its system-id
          123456789                         its DPN id (OpenFlow datapath id), in decimal
          openflow:123456789                OpenDaylight's inventory id
          ovsdb://uuid/.../bridge/br-int    OpenDaylight's bridge node id

        All of them name one compute. An id that fits two is refused, and both are named.
        """,
}


@click.command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND...|TOPIC]")
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Help on a command or a topic: exit-codes, connection, ids.

    \b
    Examples:
      ebbtide help scale-in end
      ebbtide help exit-codes
    """
    if len(words) == 1 and words[0] in TOPICS:
        click.echo(cleandoc(TOPICS[words[0]]))
        return
    here = ctx.parent
    assert here is not None
    rest = list(words)
    while rest:
        group = here.command
        if not isinstance(group, click.Group):
            raise BadInput(f"{here.command_path} has no verbs: `{here.command_path} --help`")
        name, found, rest = group.resolve_command(here, rest)
        if found is None:
            raise BadInput(f"no such command; topics are {', '.join(TOPICS)}")
        here = click.Context(found, info_name=name, parent=here)
    click.echo(here.get_help())


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      source <(ebbtide completion bash)
      ebbtide completion fish > ~/.config/fish/completions/ebbtide.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from ebbtide.cli.main import cli

    chosen = get_completion_class(shell)
    assert chosen is not None
    # The class's own `source` may run the shell to learn its version; the script itself is all we want.
    click.echo(ShellComplete.source(chosen(cli, {}, "ebbtide", "_EBBTIDE_COMPLETE")))
