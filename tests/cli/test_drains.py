"""`ebbtide drain`: what is asked of the controller, and how a plan is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.controllers import Run, Scripted

#: Two computes of five, of which one has a router's NAT.
PLAN: dict[str, Any] = {
    "verdicts": [
        {"given": "c4", "name": "c4", "answer": "accepted", "reason": ""},
        {"given": "c5", "name": "c5", "answer": "accepted", "reason": ""},
    ],
    "services": [
        {"service": "nat r1", "words": "NAT of r1", "old": "c4", "new": "c1", "how": "moves", "why": []},
        {"service": "nat r2", "words": "NAT of r2", "old": "c5", "new": "", "how": "stays", "why": []},
    ],
    "sessions": [
        {"router": "r1", "recorded": 24, "unknown": 1, "reason": "", "nat-move-proven": True, "nat-move": "proven"},
        {"router": "r2", "recorded": 0, "unknown": 0, "reason": "", "nat-move-proven": True, "nat-move": "proven"},
    ],
    "vms": [{"vm": "vm1", "compute": "c4", "target": "c1"}, {"vm": "vm2", "compute": "c4", "target": "c2"}],
    "standbys": [],
    "vms-moved-by": "nova",
    "mover-options": ["block-migration=no", "cold=yes"],
    "hosts": [
        {"compute": "c4", "host": "node-4", "state": "matched", "words": ""},
        {"compute": "c5", "host": "node-5", "state": "failed", "words": "nova-compute of node-5 is down"},
    ],
    "dead": False,
    "allow-outage": [],
    "tunnels": {"made": 0, "gone": 6},
    "flows": {"made": 18, "gone": 41, "computes": 3, "wiped": 310},
    "loads": [
        {"compute": "c1", "vms": 1, "vms-after": 2, "routers": 0, "routers-after": 1, "bound": 2, "over": False},
    ],
    "problems": [{"code": "no-home", "about": "nat r2", "text": "NAT of r2 would end with c5"}],
    "waits": [
        {"code": "servers", "about": "c4", "text": "on c4 Neutron has ports of servers that are plugged nowhere"}
    ],
    "expected-seconds": 12.0,
    "revision": 7,
}


def test_how_a_plan_is_shown(run: Run, scripted: Scripted, golden: Callable[[str, str], None]) -> None:
    scripted.says("POST", "/drains", PLAN)
    done = run("drain", "--plan", "c4", "c5", "--vms", "nova", "--cold", "--block-migration", "no")
    assert done.exit_code == 4, "it would be refused"
    golden("cli/drain.txt", done.stdout)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), None),
        (("--cold",), ["cold=yes"]),
        (("--remove-hosts", "--no-cold"), ["cold=no", "remove-hosts=yes"]),
        (("--keep-hosts",), ["remove-hosts=no"]),
        (("--block-migration", "auto"), ["block-migration=auto"]),
    ],
)
def test_what_is_asked_of_novas_movers(
    words: tuple[str, ...], options: list[str] | None, run: Run, scripted: Scripted
) -> None:
    scripted.says("POST", "/drains", PLAN)
    run("drain", "--plan", "c4", "--vms", "nova", *words)
    (asked,) = scripted.asked
    assert (asked.body["vms"], asked.body.get("mover-options")) == ("nova", options)
    assert "at-once" not in asked.body, "a drain that goes on keeps what it has"


def test_nobody_is_asked_where_nobody_is(run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/drains", PLAN | {"problems": []})
    done = run("drain", "c4")
    assert done.exit_code == 2
    assert "--yes" in done.stderr
    assert [asked.body.get("plan") for asked in scripted.asked] == [True], "nothing was begun"


@pytest.mark.parametrize("option", [("--cold",), ("--keep-hosts",), ("--block-migration", "no")])
def test_what_is_asked_of_novas_movers_needs_them(option: tuple[str, ...], run: Run, scripted: Scripted) -> None:
    done = run("drain", "c4", *option, "--yes")
    assert (done.exit_code, scripted.asked) == (2, [])
    assert "--vms nova" in done.stderr


def test_a_drain_that_goes_on_is_told_with_its_options(run: Run, scripted: Scripted) -> None:
    going = {"id": "op1", "state": "running", "vms": "nova", "at-once": 8, "max-unavailable": 1}
    going |= {"mover-options": ["cold=yes"]}
    scripted.says("POST", "/drains", {"operation": going, "changed": False, "revision": 7})
    done = run("drain", "c4", "--yes", "--detach")
    assert "goes on already, now with --vms nova, --at-once 8, --max-unavailable 1, cold=yes" in done.stdout
    scripted.says("POST", "/operations/op1/options", {"operation": going, "changed": True, "revision": 8})
    done = run("operation", "set", "op1", "--cold", "--at-once", "8")
    assert (done.exit_code, done.stdout.split(" --vms")[0]) == (0, "operation op1 has now")
    assert scripted.asked[-1].body == {"mover-options": ["cold=yes"], "at-once": 8}
    assert run("operation", "set", "op1").exit_code == 2


@pytest.fixture
def _somebody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who can be asked."""
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True), exit=sys.exit)
    monkeypatch.setattr("ebbtide.cli.drains.sys", terminal)


@pytest.mark.usefixtures("_somebody_there")
@pytest.mark.parametrize(
    ("options", "question"), [(["remove-hosts=no"], "begin?"), (["remove-hosts=yes"], "and their hosts from Nova")]
)
def test_what_lasts_is_asked_for(options: list[str], question: str, run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/drains", PLAN | {"problems": [], "mover-options": options})
    done = run("drain", "c4", "--vms", "nova", input="n\n")
    assert question in done.stdout
    assert len(scripted.asked) == 1, "nothing was begun"


@pytest.mark.usefixtures("_somebody_there")
def test_what_is_lost_is_asked_for_whatever_else_lasts(run: Run, scripted: Scripted) -> None:
    lost = PLAN | {"problems": [], "dead": True, "mover-options": ["remove-hosts=yes"]}
    scripted.says("POST", "/drains", lost)
    done = run("drain", "c4", "c5", "--vms", "nova", "--dead", input="n\n")
    assert "remove c4, c5, and lose 2 VMs?" in done.stdout
