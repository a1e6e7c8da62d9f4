"""`ebbtide nat ...`, and what a scale-in shows of moves: what is asked, how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.controllers import Run, Scripted
from tests.cli.test_routers import COLUMNS, MOVE, MOVING, ROUTER
from tests.cli.test_tree import complete

NOW = 1_800_000_000
CONNECTION: dict[str, Any] = {
    "protocol": "tcp",
    "source": "10.100.100.111:40000",
    "remote": "198.51.100.222:65535",
    "external": "203.0.113.105:33280",
    "compute": "host-1",
    "opened": NOW - 90_000,
    "closed": 0,
}
COUNTS: dict[str, Any] = {
    "router": "tenant-a-router",
    "record": True,
    "open": 50_120,
    "closed": 17,
    "unknown": 2,
    "recorded": [
        {"compute": "host-1", "protocol": "tcp", "open": 50_000, "closed": 17},
        {"compute": "host-1", "protocol": "udp", "open": 120, "closed": 0},
    ],
    "computes": [
        {
            "compute": "host-1",
            "part": "moves from here",
            "read": True,
            "reason": "",
            "seconds": 600,
            "opened": {"tcp": 50_019, "udp": 120, "other": 4},
            "received": 50_137,
            "unknown": 2,
            "rows": 0,
        },
        {
            "compute": "host-2",
            "part": "moves here",
            "read": False,
            "reason": "host-2 is unreachable",
            "seconds": 0,
            "opened": None,
            "received": 0,
            "unknown": 0,
            "rows": 0,
        },
    ],
    "refused": {"sctp": 3, "other": 1},
    "now": NOW,
    "revision": 41,
}
PAGE = COUNTS | {
    "connections": [CONNECTION, CONNECTION | {"protocol": "udp", "opened": NOW - 30, "closed": NOW - 5}],
    "next": "1799999970-17-174351471-40000-3325256926-65535-3405803881-33280",
}
NOBODY = COUNTS | {
    "refused": None,
    "record": False,
    "open": 0,
    "closed": 0,
    "unknown": 0,
    "recorded": [],
    "computes": [],
}
PLAN: dict[str, Any] = {
    "verdicts": [
        {"id": "c1", "name": "host-1", "answer": "accepted", "message": "tombstoned", "remains": ["port vm1"]}
    ],
    "routers": [
        {
            "router": "tenant-a-router",
            "old": "host-1",
            "new": "host-2",
            "how": "moves",
            "why": ["leaves host-1: tombstoned", "goes to host-2, its standby"],
            "recorded": 50_120,
            "unknown": 2,
            "reason": "",
            "nat-move-proven": False,
            "nat-move": "not proven on the kernel datapath; import, flip and reply rows keep their safe order",
        },
        {
            "router": "r2",
            "old": "host-1",
            "new": "",
            "how": "stays",
            "why": ["stays on host-1 (tombstoned): nobody else may serve it: host-2 has no provider network physnet2"],
            "recorded": 0,
            "unknown": 0,
            "reason": "host-1 is unreachable",
            "nat-move-proven": True,
            "nat-move": "proven on the userspace datapath",
        },
    ],
    "expected-seconds": 8.3,
    "patience-seconds": 300.0,
    "revision": 41,
}
STATUS = {
    "computes": [
        {"name": "host-1", "empty": False, "remains": ["router r2 moves from host-1 to host-3, uncouple-out"]}
    ],
    "moves": [{"router": "r2", **MOVE}],
    "operations": [],
}


def test_how_it_is_shown(run: Run, scripted: Scripted, golden: Callable[[str, str], None]) -> None:
    set_to = {"router": "r2", "move": MOVE, "changed": True}
    pages = []
    for method, path, answer, given in (
        ("GET", "/nat/sessions/r1", COUNTS, ("nat", "sessions", "r1")),
        ("GET", "/nat/sessions/r1?limit=2", PAGE, ("nat", "sessions", "r1", "--limit", "2")),
        ("GET", "/nat/sessions/r1", NOBODY, ("nat", "sessions", "r1")),
        ("POST", "/nat/deadline/r2", set_to, ("nat", "deadline", "r2", "600")),
        ("GET", "/scale-in/status", STATUS, ("scale-in", "status")),
        ("POST", "/scale-in/plan", PLAN, ("scale-in", "start", "--plan", "c1")),
    ):
        scripted.says(method, path, answer)
        shown = run(*given)
        assert (shown.exit_code, shown.stderr) == (0, "")
        # Tables fit; a sentence of a plan is as long as it is.
        tables = [text for text in shown.stdout.splitlines() if method == "GET" or ": " not in text]
        assert max(map(len, tables)) <= COLUMNS, shown.stdout
        assert json.loads(run(*given, "--json").stdout) == answer
        pages.append(f"$ ebbtide {' '.join(given)}\n{shown.stdout}")
    assert scripted.asked[-5].body == {"seconds": 600.0}
    assert scripted.asked[-1].body == {"computes": ["c1"]}
    golden("cli/nat.txt", "\n".join(pages))


def test_a_list_goes_on_where_a_page_ended(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/nat/sessions/a%2Fb?limit=100&after=1-6", PAGE | {"next": ""})
    shown = run("nat", "sessions", "a/b", "--after", "1-6")
    assert (shown.exit_code, "more:" in shown.stdout) == (0, False)


def test_a_scale_in_is_told_how_long_its_moves_may_wait(run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/scale-in/start", {"verdicts": []})
    assert run("scale-in", "start", "c4", "--deadline", "600").exit_code == 0
    assert scripted.asked[-1].body == {"computes": ["c4"], "deadline": 600.0}
    assert run("scale-in", "start", "c4").exit_code == 0
    assert scripted.asked[-1].body == {"computes": ["c4"]}


@pytest.mark.parametrize(
    "given",
    [
        ("nat", "sessions"),
        ("nat", "sessions", "r1", "--limit", "0"),
        ("nat", "deadline", "r1"),
        ("nat", "deadline", "r1", "soon"),
        ("nat", "deadline", "r1", "--", "-1"),
        ("scale-in", "start", "c1", "--plan", "--deadline", "5"),
    ],
)
def test_what_is_not_asked_at_all(run: Run, scripted: Scripted, given: tuple[str, ...]) -> None:
    assert run(*given).exit_code == 2
    assert scripted.asked == []


def test_names_are_completed(scripted: Scripted) -> None:
    scripted.says("GET", "/routers", {"routers": [ROUTER, MOVING]})
    assert complete("ebbtide nat sessions ", EBBTIDE_URL=scripted.url) == ["tenant-a-router", "r2"]
    assert complete("ebbtide nat deadline ", EBBTIDE_URL=scripted.url) == ["r2"], "only what moves"
    assert complete("ebbtide nat d") == ["deadline"]
