"""One answer per id: how it is shown, and which exit code follows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ebbtide.cli import render
from ebbtide.cli.client import Answered
from ebbtide.cli.session import Session
from ebbtide.errors import EbbtideError, Refused, StillWorking

Verdict = dict[str, Any]

# Where several ids fail in different ways, the first of these is the exit code.
_WORST_FIRST = (1, 5, 6, 2, 4, 3)


def show(verdicts: Sequence[Verdict]) -> None:
    """The table."""
    rows = [
        (v.get("id"), v.get("name"), v.get("answer"), v.get("message"), render.some(v.get("remains") or []))
        for v in verdicts
    ]
    render.table(("id", "compute", "answer", "message", "what remains"), rows)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 if all were accepted or already so."""
    return Refused.exit_code if any(v.get("answer") == "refused" for v in verdicts) else 0


def each(session: Session, ids: Sequence[str], call: Callable[[str], dict[str, Any]]) -> None:
    """Call once per id; one that fails does not stop the next ones. Ends the process if one failed."""
    found: list[Verdict] = []
    codes: list[int] = []
    for text in dict.fromkeys(ids):
        try:
            answer = call(text)
        except Answered as error:
            codes.append(error.exit_code)
            found.append({"id": text, "answer": "refused", "message": str(error), "tag": error.tag})
        else:
            codes.append(StillWorking.exit_code if answer.get("behind") else 0)
            found.append(_accepted(text, answer))
    if session.json:
        render.as_json({"verdicts": found})
    else:
        show(found)
    worst = next((code for code in _WORST_FIRST if code in codes), 0)
    if worst:
        sys.exit(worst)


def _accepted(text: str, answer: dict[str, Any]) -> Verdict:
    """The verdict that a successful answer amounts to."""
    about = answer.get("compute", {})
    word = "already so" if answer.get("changed") is False else "accepted"
    states = [str(about[key]) for key in ("membership", "phase") if about.get(key)]
    message = ", ".join(dict.fromkeys(states)) if answer.get("known", True) else "it may register anew"
    behind = [f"{name} has to apply it" for name in answer.get("behind") or []]
    return {"id": text, "answer": word, "name": about.get("name", ""), "message": message, "remains": behind}


def made(
    session: Session, found: dict[str, Any], kind: str, show: Callable[[dict[str, Any]], None] = render.facts
) -> None:
    """What was made, or was there already. Ends the process if it was waited for in vain."""
    behind = found.get("behind") or []
    if session.json:
        render.as_json(found)
    else:
        show(found.get(kind, {}))
        if found.get("changed") is False:
            render.line("already so")
        if behind:
            render.line(f"not applied yet on {render.some(behind)}")
    if behind:
        sys.exit(StillWorking.exit_code)


def report(session: Session, error: EbbtideError) -> None:
    """An error for people on standard error, with the verdicts that came with it; for scripts as JSON on standard output."""
    import click

    verdicts = error.verdicts if isinstance(error, Answered) else []
    if session.json:
        known = error.error if isinstance(error, Answered) else {}
        fields = {"status": error.status, "tag": error.tag, "message": str(error), **known}
        render.as_json({"error": {**fields, "exit-code": error.exit_code}})
        return
    if verdicts:
        show(verdicts)
        refused = sum(v.get("answer") == "refused" for v in verdicts)
        what = f"{render.counted(refused, 'id')} of {len(verdicts)} refused; nothing was changed"
        click.echo(f"ebbtide: {what if refused else render.clean(error)}", err=True)
        return
    click.echo(f"ebbtide: {render.clean(error)}", err=True)
