"""`ebbtide reconcile|backup|restore|user`: what an operator does now and then."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ebbtide.cli import render
from ebbtide.cli.client import API
from ebbtide.cli.session import Session, client_verb, json_option, known_computes, pass_session
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput

_LONG = 300.0
_BYTES = "application/octet-stream"


@click.command("reconcile")
@click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=known_computes)
@click.option("--approve", is_flag=True, help="Send what the brake holds back.")
@click.option("--all", "everyone", is_flag=True, help="With --approve: on every compute that is held.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@client_verb
def reconcile(session: Session, ids: tuple[str, ...], approve: bool, everyone: bool, yes: bool) -> None:
    """Look at computes anew, or approve what the brake holds.

    Without --approve, what is installed on the computes (all, if none is named) is read and compared again. A reconcile that would
    delete much without a reason known to the controller is held; --approve lets it go on, on the computes named or, after a
    question, on all. With neither, it says which are held and why, and approves nothing.

    \b
    Examples:
      ebbtide reconcile c1
      ebbtide reconcile --approve           which are held, and why
      ebbtide reconcile --approve c1 c2
      ebbtide reconcile --approve --all
    """
    if everyone and (ids or not approve):
        raise BadInput("--all goes with --approve, and in the place of ids")
    if approve and not ids and not (everyone and yes):
        _ask_to_approve(session, everyone)
    found = session.client.call("POST", "/reconcile", {"approve": approve, "computes": list(ids)}, timeout=_LONG)
    if session.json:
        render.as_json(found)
        return
    names = found.get("computes") or []
    word = "approved" if approve else "reconciling"
    render.line(f"{word}: {', '.join(map(str, names))}" if names else f"{word}: none; no compute is held or named so")


def _ask_to_approve(session: Session, everyone: bool) -> None:
    """Say what is held and why; go on only if all of it was meant.

    Raises:
        BadInput: nobody said which, or nobody is there to ask.
    """
    held = [c for c in session.client.get("/computes")["computes"] if c.get("phase") == "braked"]
    hold = session.client.get("/status").get("hold")
    if hold:
        click.echo(f"everything is held: {render.clean(hold)}", err=True)
    for compute in held:
        click.echo(f"{render.clean(compute['name'])} is held: {render.clean(compute.get('reason'))}", err=True)
    if not everyone:
        if not held and not hold:
            raise BadInput("nothing was approved: no compute is held")
        raise BadInput("nothing was approved: name the computes that may go on, or say --all for every one")
    if not sys.stdin.isatty():
        raise BadInput("nothing was approved: there is nobody to ask; say --yes")
    click.confirm(f"Let {render.counted(len(held), 'held compute')} go on?", abort=True, err=True)


@click.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@client_verb
def backup(session: Session, file: str) -> None:
    """Write all that is stored to a file (- for standard output).

    \b
    Examples:
      ebbtide backup monday.ebbtide
      ebbtide backup - | gzip > monday.gz
    """
    content = session.client.exchange("GET", f"{API}/backup", kind=_BYTES, timeout=_LONG)
    if file == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    target = Path(file)
    replacement = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(content)
        os.replace(replacement, target)
    except OSError as error:
        replacement.unlink(missing_ok=True)
        raise BadInput(f"{file}: {error.strerror}") from None
    if session.json:
        render.as_json({"file": file, "bytes": len(content)})
    else:
        render.line(f"{file}: {len(content)} bytes")


@click.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--yes", is_flag=True, help="Don't ask.")
@client_verb
def restore(session: Session, file: str, yes: bool) -> None:
    """Put a backup back. What was stored since is lost.

    The computes are not touched: their revision is newer than the backup's, so the brake holds each until `ebbtide reconcile --approve`.

    \b
    Examples:
      ebbtide restore monday.ebbtide
    """
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from None
    if not content:
        raise BadInput(f"{file} is empty: it is no backup")
    if not yes:
        if not sys.stdin.isatty():
            raise BadInput("nothing was changed: there is nobody to ask; say --yes")
        click.confirm(f"Replace all that is stored by {file}?", abort=True, err=True)
    session.client.exchange("POST", f"{API}/restore", content, kind=_BYTES, timeout=_LONG)
    if session.json:
        render.as_json({"file": file, "bytes": len(content)})
    else:
        render.line(
            f"restored from {file}; look at `ebbtide status`, then `ebbtide reconcile --approve` one compute after the other"
        )


@click.group("user", cls=NounGroup)
def user() -> None:
    """Users of the REST interface.

    \b
    Examples:
      ebbtide user hash
    """


@user.command("hash")
@click.option("--token", is_flag=True, help="It is a token (long and random), not a password.")
@json_option
@pass_session
def hash_(session: Session, token: bool) -> None:
    """Hash a password or a token, for the file given as `ebbtide controller --credentials`.

    It is asked for on a terminal, else read from standard input: one line.

    \b
    Examples:
      ebbtide user hash
      ebbtide user hash --token < token
    \b
    In the file:
      [[user]]
      name = "admin"
      password = "scrypt$..."
      roles = ["operate"]        read, operate or force
    """
    from ebbtide.north.auth import hash_secret, hash_token

    if sys.stdin.isatty():
        password = str(
            click.prompt("Token" if token else "Password", hide_input=True, confirmation_prompt=True, err=True)
        )
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise BadInput("nothing was given: one line, not empty")
    made = hash_token(password) if token else hash_secret(password)
    if session.json:
        render.as_json({"hash": made})
    else:
        click.echo(made)
