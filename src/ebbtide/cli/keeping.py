"""`ebbtide reconcile|backup|restore|user`: what an operator does now and then."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from ebbtide.cli import render
from ebbtide.cli.client import API, segment
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
    delete much without a reason known to the controller is held; --approve lets it go on, on the computes named or on all, after
    saying which are held and why, and a question. With neither, it says the same, and approves nothing.

    \b
    Examples:
      ebbtide reconcile c1
      ebbtide reconcile --approve           which are held, and why
      ebbtide reconcile --approve c1 c2
      ebbtide reconcile --approve --all
    """
    if everyone and (ids or not approve):
        raise BadInput("--all goes with --approve, and in the place of ids")
    chosen: list[str] | None = list(ids)
    if approve and not (yes and (ids or everyone)):
        chosen = _ask_to_approve(session, ids, everyone)
    if chosen is None:
        found: dict[str, Any] = {"approved": True, "computes": []}
    else:
        found = session.client.call("POST", "/reconcile", {"approve": approve, "computes": chosen}, timeout=_LONG)
    if session.json:
        render.as_json(found)
        return
    names = found.get("computes") or []
    word = "approved" if approve else "reconciling"
    render.line(f"{word}: {', '.join(map(str, names))}" if names else f"{word}: none; no compute is held or named so")


def _ask_to_approve(session: Session, ids: tuple[str, ...], everyone: bool) -> list[str] | None:
    """Say what is held and why; go on only if that was meant. Gives the ids to approve ([]: all there is); None: nothing is held.

    Raises:
        BadInput: nobody said which, or nobody is there to ask.
    """
    if ids:
        looked = [session.client.get(f"/computes/{segment(text)}") for text in ids]
    else:
        looked = session.client.get("/computes")["computes"]
    hold = session.client.get("/status").get("hold")
    if hold:
        click.echo(f"everything is held: {render.clean(hold)}", err=True)
    held = [compute for compute in looked if compute.get("phase") == "braked"]
    for compute in looked:
        name, phase = render.clean(compute["name"]), render.clean(compute.get("phase"))
        if phase == "braked":
            click.echo(f"{name} is held: {render.clean(compute.get('reason'))}", err=True)
        elif ids:
            click.echo(f"{name} is not held: it is {phase}", err=True)
    if not ids and not everyone:
        if not held and not hold:
            raise BadInput("nothing was approved: no compute is held")
        raise BadInput("nothing was approved: name the computes that may go on, or say --all for every one")
    everything = bool(hold) and everyone
    if not held and not everything:
        return None
    if not sys.stdin.isatty():
        raise BadInput("nothing was approved: there is nobody to ask; say --yes")
    what = "everything" if everything else render.counted(len(held), "held compute")
    click.confirm(f"Let {what} go on?", abort=True, err=True)
    if ids:
        return list(ids)
    # Not whoever has been held since: that was not shown.
    return [] if everything else [str(compute["name"]) for compute in held]


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
