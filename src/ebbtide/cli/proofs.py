"""`ebbtide proof ...`: that nothing is left of removed computes, signed by the controller, to be checked without it."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebbtide.cli import render
from ebbtide.cli.client import segment
from ebbtide.cli.session import Session, client_verb, json_option, known_computes, pass_session
from ebbtide.cli.tree import NounGroup
from ebbtide.errors import BadInput

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

#: The signature is not of this key, or the text is not the one that was signed.
FALSE = 9
#: The signature is right, and something is left, or a compute could not be read yet.
OPEN = 10


@click.group("proof", cls=NounGroup)
def proof() -> None:
    """That nothing is left of removed computes: what was read, what was found, signed.

    \b
    Examples:
      ebbtide proof list
      ebbtide proof show c4
      ebbtide proof show c4 --json > c4.proof
      ebbtide proof key > controller.pem
      ebbtide proof verify c4.proof --key controller.pem
    """


@proof.command("list")
@client_verb
def proof_list(session: Session) -> None:
    """List proofs, the newest first.

    \b
    Examples:
      ebbtide proof list
    """
    found = session.client.get("/proofs")
    if session.json:
        render.as_json(found)
        return
    columns = ("removed", "time", "checked", "residue", "owing", "operation", "remarks")
    rows = [
        (
            render.some(p["removed"]),
            render.instant(p["time"]),
            p["checked"],
            p["residue"],
            render.some(p["owing"]),
            p["operation"],
            f"let back since: {render.some(p['superseded'])}" if p["superseded"] else "",
        )
        for p in found["proofs"]
    ]
    render.table(columns, rows, "no proofs: no compute was removed yet")


@proof.command("show")
@click.argument("name", metavar="COMPUTE|OPERATION", shell_complete=known_computes)
@client_verb
def proof_show(session: Session, name: str) -> None:
    """Show what was read on whom, and what was found. With --json: the proof itself, to be kept and verified.

    \b
    Examples:
      ebbtide proof show c4
      ebbtide proof show c4 --json > c4.proof
    """
    found = session.client.get(f"/proofs/{segment(name)}")
    if session.json:
        render.as_json({k: found[k] for k in ("body", "signature", "key")})
        return
    _show(found["told"])
    if found["superseded"]:
        render.line(f"let back since, by command: {', '.join(found['superseded'])}")


def _show(told: dict[str, Any]) -> None:
    removed = ", ".join(f"{x['name']} (number {x['number']})" for x in told["removed"])
    render.line(f"removed {removed} at revision {told['revision']}, looked for {render.instant(told['time'])}")
    columns = ("compute", "applied", "flows", "groups", "ports", "tunnels", "rows", "residue", "differs", "when")
    rows = [
        (
            *(x[c] for c in ("compute", "applied", "flows", "groups", "ports", "tunnels", "rows")),
            len(x["residue"]),
            x["differs"] or "",
            "at its return" if x["paid"] else "",
        )
        for x in told["checked"]
    ]
    render.table(columns, rows, "nothing could be read, so nothing is proven")
    for x in told["checked"]:
        for text in x["residue"]:
            render.line(f"left on {x['compute']}: {text}")
    for x in told["owing"]:
        render.line(
            f"{x['compute']}: {'was removed itself, unread' if x['gone'] else 'could not be read yet; it is when it returns'}"
        )
    if told["not-ours"]:
        render.line(f"not ours, not read: {', '.join(told['not-ours'])}")
    render.line(_verdict(told))


def _verdict(told: dict[str, Any]) -> str:
    left = sum(len(x["residue"]) for x in told["checked"])
    owing = [x["compute"] for x in told["owing"]]
    text = f"residue {left} on {render.counted(len(told['checked']), 'compute')}"
    return text + (f"; not complete: {render.some(owing)} not read" if owing else "; complete")


@proof.command("key")
@click.option("--others", is_flag=True, help="Those of other controllers, whose proofs are kept here.")
@client_verb
def proof_key(session: Session, others: bool) -> None:
    """Print the public key that this controller signs with (PEM). Fetch it once, and keep it apart from the proofs.

    \b
    Examples:
      ebbtide proof key > controller.pem
      ebbtide proof key --others
    """
    found = session.client.get("/proof-key")
    if session.json:
        render.as_json(found)
    else:
        click.echo("".join(found["others"] if others else [found["key"]]), nl=False)


@proof.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--key",
    "keys",
    required=True,
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="The controller's public key (PEM).",
)
@json_option
@pass_session
def proof_verify(session: Session, file: str, keys: tuple[str, ...]) -> None:
    """Check a proof without the controller: that it says what was signed, and what it says.

    --key may be given several times: each controller of a cluster has its own.

    Exit code 0: signed, nothing is left, everybody was read; 9: the signature is not right; 10: it is, and something is left or somebody
    could not be read yet.

    \b
    Examples:
      ebbtide proof verify c4.proof --key controller.pem
    """
    text = sys.stdin.read() if file == "-" else Path(file).read_text(errors="replace")
    try:
        given = json.loads(text)
        body, signature = given["body"], base64.b64decode(given["signature"], validate=True)
        signed = body.encode()
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise BadInput(f"{file} is no proof ({error!r}): make one by `ebbtide proof show COMPUTE --json`") from None
    right = any(_signed(_public(path), signature, signed) for path in keys)
    told = json.loads(body) if right else {}
    good = right and bool(told["clean"]) and bool(told["complete"])
    if session.json:
        render.as_json({"signed": right, "clean": told.get("clean"), "complete": told.get("complete"), "told": told})
    elif right:
        _show(told)
        render.line("the signature is right")
    else:
        render.line("the signature is not right: this is not what that controller has signed")
    sys.exit(0 if good else OPEN if right else FALSE)


def _public(path: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(Path(path).read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{path} holds no public key in PEM: {error}", "key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadInput(f"{path} holds a key of another kind than Ed25519", "key")
    return key


def _signed(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
