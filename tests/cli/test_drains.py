"""`ebbtide drain`: what is asked of the controller, and how a plan is shown."""

from __future__ import annotations

from collections.abc import Callable
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
    "mover-options": ["block-migration=no", "cold"],
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
        ((), []),
        (("--cold",), ["cold"]),
        (("--remove-hosts", "--cold"), ["cold", "remove-hosts"]),
        (("--block-migration", "auto"), ["block-migration=auto"]),
    ],
)
def test_what_is_asked_of_novas_movers(
    words: tuple[str, ...], options: list[str], run: Run, scripted: Scripted
) -> None:
    scripted.says("POST", "/drains", PLAN)
    run("drain", "--plan", "c4", "--vms", "nova", *words)
    (asked,) = scripted.asked
    assert (asked.body["vms"], asked.body["mover-options"]) == ("nova", options)


def test_nobody_is_asked_where_nobody_is(run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/drains", PLAN | {"problems": []})
    done = run("drain", "c4")
    assert done.exit_code == 2
    assert "--yes" in done.stderr
    assert [asked.body.get("plan") for asked in scripted.asked] == [True], "nothing was begun"
