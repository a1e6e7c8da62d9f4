"""How answers look: audit's lines, plain tables, terminals, and text that must not do anything."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Any

import pytest

from ebbtide.cli import render
from tests.cli.controllers import Run, Scripted

CLEAN: dict[str, Any] = {
    "clean": True,
    "revision": 12,
    "computes": ["c1", "c2"],
    "unreachable": [],
    "flows": 120,
    "groups": 4,
    "rows": 1,
    "missing": 0,
    "unexpected": 0,
    "residue": 0,
    "findings": [],
    "removed": [],
}


def test_a_clean_audit(run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/audit", CLEAN)
    result = run("audit")
    assert result.exit_code == 0
    assert result.stdout == (
        "0 missing, 0 unexpected, 0 residue\nread 120 flows, 4 groups, 1 row on 2 computes at revision 12\n"
    )


def test_an_audit_that_found_something(run: Run, scripted: Scripted) -> None:
    finding = {"kind": "residue", "compute": "c2", "what": "flow with tep:172.31.1.4 of c4", "text": "table=220"}
    counted = {"clean": False, "residue": 1, "findings": [finding], "removed": ["c4"], "unreachable": ["c3"]}
    scripted.says("POST", "/audit", CLEAN | counted)
    result = run("audit")
    assert result.exit_code == 7
    assert result.stdout == (
        "0 missing, 0 unexpected, 1 residue\n"
        "read 120 flows, 4 groups, 1 row on 2 computes at revision 12\n"
        "not read, unreachable: c3\n"
        "looked for what is left of: c4\n"
        "FINDING  COMPUTE  WHAT                            TEXT\n"
        "residue  c2       flow with tep:172.31.1.4 of c4  table=220\n"
    )
    assert run("audit", "--json").exit_code == 7


def test_an_audit_that_read_nothing(run: Run, scripted: Scripted) -> None:
    nothing = {"clean": False, "computes": [], "unreachable": ["c1"], "flows": 0, "groups": 0, "rows": 0}
    scripted.says("POST", "/audit", CLEAN | nothing)
    result = run("audit")
    assert result.exit_code == 8
    assert result.stdout.startswith("nothing was read")
    assert "not read, unreachable: c1" in result.stdout
    assert "0 missing" not in result.stdout


def test_computes(run: Run, scripted: Scripted) -> None:
    member = {
        "name": "c1",
        "phase": "ready",
        "membership": "member",
        "tep": "172.31.1.1",
        "dpid": "7",
        "connected": True,
    }
    member |= {"ports": 2, "peers": 1, "applied": 9, "tombstoned": False, "debts": [], "rejected": [], "reason": ""}
    marked = member | {"name": "c2", "tombstoned": True, "connected": False, "debts": ["c9"], "dpid": "8"}
    gone = member | {"name": "c9", "membership": "removed", "phase": "quarantined"}
    refused = [{"peer": "192.0.2.1:5", "reason": "c1 is connected already"}]
    scripted.says("GET", "/computes", {"computes": [member, marked], "refused": refused})
    scripted.says("GET", "/computes?removed=1", {"computes": [member, gone], "refused": refused})
    assert run("computes").stdout == (
        "NAME  PHASE  TEP         DPN ID  PORTS  PEERS  APPLIED  REMARKS\n"
        "c1    ready  172.31.1.1  7       2      1      9\n"
        "c2    ready  172.31.1.1  8       2      1      9        tombstoned, unreachable, owes the cleaning of c9\n"
        "\n"
        "REFUSED      REASON\n"
        "192.0.2.1:5  c1 is connected already\n"
    )
    removed = run("computes", "--removed").stdout.splitlines()
    assert [text.split()[:2] for text in removed[1:]] == [["c9", "quarantined"]]


def test_text_of_others_does_nothing_to_a_terminal() -> None:
    assert render.clean("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert render.clean([1, "\r"]) == "1, \\r"
    assert render.clean(None) == ""


def test_lists_are_cut() -> None:
    assert render.some(list("abc")) == "a, b, c"
    assert render.some(list("abcde")) == "a, b, c and 2 more"


def on_terminal(words: list[str], columns: int, **settings: str) -> str:
    """The output of `ebbtide` on a terminal of this width."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from ebbtide.cli.main import main; main()", *words]
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"} | settings
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        found = b""
        try:
            while part := os.read(ours, 65536):
                found += part
        except OSError:
            pass  # Linux says EIO when the other end is closed
        finally:
            os.close(ours)
    assert process.returncode == 0
    return found.decode()


@pytest.mark.parametrize("columns", [60, 200])
def test_tables_fit_the_terminal(scripted: Scripted, columns: int) -> None:
    rows = [
        {"id": f"port-{n}", "network": "blue", "mac": "02:00:00:00:00:01", "addresses": ["10.1.0.1"]} for n in range(2)
    ]
    bindings = {"bindings": [{"compute": f"c{n}", "phase": "active"} for n in range(30)]}
    scripted.says("GET", "/ports", {"ports": [row | bindings for row in rows]})
    shown = on_terminal(["ports"], columns, EBBTIDE_URL=scripted.url, NO_COLOR="1")
    lines = shown.replace("\r", "").splitlines()
    assert all(len(render_free(text)) <= columns for text in lines)
    assert "c29" in shown


def render_free(text: str) -> str:
    """Without escape sequences (bold stays with NO_COLOR)."""
    while "\x1b[" in text:
        head, _, tail = text.partition("\x1b[")
        text = head + tail.partition("m")[2]
    return text
