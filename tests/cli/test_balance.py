"""`ebbtide rebalance`: what is asked, how it is shown, and when it is not over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.controllers import Run, Scripted

PLAN: dict[str, Any] = {
    "moves": [
        {"service": "nat", "object": "tenant-a-router", "old": "host-1", "new": "host-3"},
        {"service": "nat", "object": "r2", "old": "host-2", "new": "host-3"},
    ],
    "loads": [
        {"service": "nat", "compute": "host-1", "before": 3, "after": 2, "bound": 2},
        {"service": "nat", "compute": "host-2", "before": 3, "after": 2, "bound": 2},
        {"service": "nat", "compute": "host-3", "before": 0, "after": 2, "bound": 2},
    ],
    "gain": [
        "nat: 2 of 6 move, for host-1 (3, bound 2), host-2 (3, bound 2); host-3 takes 2",
        "nat: the largest load goes from 3 to 2",
    ],
    "revision": 41,
}
OPERATION = {
    "id": "4f3c1a52-0d3b-4c55-9a0e-5d1e4c3f9a2b",
    "verb": "rebalance",
    "state": "running",
    "reason": "2 under way, 0 to go",
    "computes": [],
    "revision": 41,
    "started": 40,
}
BALANCED = {
    "moves": [],
    "loads": PLAN["loads"],
    "gain": ["nat: balanced, no compute is above its bound"],
    "revision": 50,
}
MOVE = {"service": "nat", "object": "r2", "old": "host-2", "new": "host-3", "phase": "flip"}
STOPPED = {"moves": [], "loads": [], "gain": [], "under-way": [MOVE], "revision": 50}
NOT_MOVED = OPERATION | {"state": "done", "reason": "stopped: 1 not moved, 1 under way go on"}
OVER = OPERATION | {"state": "done", "reason": "nat: balanced, no compute is above its bound"}


def test_how_it_is_shown(run: Run, scripted: Scripted, golden: Callable[[str, str], None]) -> None:
    pages = []
    for given, method, answer in (
        (("rebalance", "--plan"), "GET", PLAN),
        (("rebalance",), "POST", PLAN | {"operation": OPERATION, "changed": True}),
        (("rebalance", "--wait", "60"), "POST", BALANCED | {"operation": OVER, "changed": False}),
        (("rebalance",), "POST", BALANCED | {"operation": None, "changed": False}),
        (("rebalance", "--stop"), "POST", STOPPED | {"operation": NOT_MOVED, "changed": True}),
        (("rebalance", "--stop"), "POST", STOPPED | {"under-way": [], "operation": None, "changed": False}),
        (("rebalance", "--plan"), "GET", {"moves": [], "loads": [], "gain": [], "revision": 1}),
    ):
        scripted.says(method, "/rebalance", answer)
        shown = run(*given)
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert max(map(len, shown.stdout.splitlines())) <= 100
        assert json.loads(run(*given, "--json").stdout) == answer
        pages.append(f"$ ebbtide {' '.join(given)}\n{shown.stdout}")
    golden("cli/rebalance.txt", "\n".join(pages))


@pytest.mark.parametrize(("given", "body"), [((), {}), (("--stop",), {"stop": True}), (("--wait", "5"), {"wait": 5.0})])
def test_what_is_asked(run: Run, scripted: Scripted, given: tuple[str, ...], body: dict[str, Any]) -> None:
    scripted.says("POST", "/rebalance", PLAN | {"operation": OPERATION, "changed": True, "under-way": []}, 202)
    assert run("rebalance", *given).exit_code == (6 if "--wait" in given else 0)
    assert scripted.asked[-1].body == body


def test_two_wishes_at_once_are_bad_input(run: Run, scripted: Scripted) -> None:
    for given in (("--plan", "--stop"), ("--plan", "--wait", "5"), ("--stop", "--wait", "5")):
        assert run("rebalance", *given).exit_code == 2
    assert scripted.asked == []
