"""Networks outside, routers and floating IPs by the command line: what is asked, how it is shown; and the page about them, typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.controllers import Run, Running, Scripted
from tests.cli.test_tree import complete
from tests.project.documents import ROOT, blocks, commands, words

#: What a row of a table may hold for people with a terminal of this many columns, where names are of usual length.
COLUMNS = 100
ROUTER: dict[str, Any] = {
    "id": "tenant-a-router",
    "tag": 3,
    "mac": "02:58:77:00:00:03",
    "external": "pub",
    "addresses": ["203.0.113.5", "203.0.113.6"],
    "snat": True,
    "routes": ["10.9.0.0/16 via 10.1.0.9"],
    "record": True,
    "designated": "host-1",
    "standby": "host-2",
    "since": 41,
    "next-hop": "203.0.113.1",
    "next-hop-mac": "02:00:00:00:00:fe",
    "next-hop6": "",
    "next-hop6-mac": "",
    "untranslated": [],
    "floating-ips": ["203.0.113.9"],
    "networks": [
        {"network": "blue", "address": "10.1.0.1", "subnet": "10.1.0.0/24", "mac": "02:58:77:c0:00:03"},
        {"network": "red", "address": "10.2.0.1", "subnet": "10.2.0.0/24", "mac": "02:58:77:c0:00:03"},
    ],
    "leases": [
        {"first": 1024, "last": 33279, "compute": "host-1", "opening": True, "careful": False, "since": 41},
        {"first": 33280, "last": 49407, "compute": "host-2", "opening": True, "careful": True, "since": 41},
        {"first": 49408, "last": 57471, "compute": "host-3", "opening": False, "careful": False, "since": 12},
    ],
    "move": None,
}
MOVE = {
    "old": "host-1",
    "new": "host-3",
    "phase": "uncouple-out",
    "reason": "host-7 has not applied it",
    "unknown": 2,
    "deadline": 1_800_000_000,
    "began": 50,
    "since": 58,
}
MOVING = ROUTER | {"id": "r2", "addresses": [f"203.0.113.{n}" for n in range(20, 26)], "move": MOVE}
ALONE = ROUTER | {
    "id": "r3",
    "designated": "",
    "standby": "",
    "since": 0,
    "next-hop-mac": "",
    "snat": False,
    "networks": [],
    "leases": [],
}
WITHOUT = ROUTER | {"id": "bare", "designated": "", "standby": "", "since": 0, "addresses": [], "leases": []}
INNER = ALONE | {"id": "inner", "external": "", "addresses": [], "next-hop": "", "floating-ips": []}
EXTERNALS: list[dict[str, Any]] = [
    {
        "id": "pub",
        "physical": "physnet1",
        "vlan": 0,
        "subnet": "203.0.113.0/24",
        "gateway": "203.0.113.1",
        "gateway-mac": "02:00:00:00:00:fe",
        "subnet6": "2001:db8:ffff::/64",
        "gateway6": "fe80::1",
        "gateway6-mac": "",
        "prefixes": ["2001:db8:100::/40"],
        "mtu": 1500,
        "tag": 9,
        "computes": [f"host-{n}" for n in range(1, 6)],
        "routers": ["r1"],
        "floating-ips": 1,
    },
    {
        "id": "dmz",
        "physical": "physnet1",
        "vlan": 42,
        "subnet": "198.51.100.0/24",
        "gateway": "198.51.100.1",
        "gateway-mac": "",
        "subnet6": "",
        "gateway6": "",
        "gateway6-mac": "",
        "prefixes": [],
        "mtu": 1500,
        "tag": 10,
        "computes": [],
        "routers": [],
        "floating-ips": 0,
    },
]
FLOATING_IPS: list[dict[str, Any]] = [
    {
        "external": "pub",
        "address": "203.0.113.9",
        "mac": "02:58:77:80:00:01",
        "router": "tenant-a-router",
        "port": "6c1d-vm1",
        "fixed": "10.1.0.11",
        "computes": ["host-1"],
    },
    {
        "external": "pub",
        "address": "203.0.113.10",
        "mac": "02:58:77:80:00:02",
        "router": "",
        "port": "",
        "fixed": "",
        "computes": [],
    },
]


@pytest.fixture
def known(scripted: Scripted) -> Scripted:
    """A controller that knows all of these."""
    scripted.says("GET", "/routers", {"routers": [ROUTER, MOVING, ALONE, WITHOUT, INNER]})
    for each in (ROUTER, MOVING, ALONE, INNER):
        scripted.says("GET", f"/routers/{each['id']}", each)
    scripted.says("GET", "/externals", {"externals": EXTERNALS})
    scripted.says("GET", "/externals/pub", EXTERNALS[0])
    scripted.says("GET", "/floating-ips", {"floating-ips": FLOATING_IPS})
    scripted.says("GET", "/floating-ips/pub/203.0.113.9", FLOATING_IPS[0])
    return scripted


SHOWN = (
    ("routers",),
    ("externals",),
    ("floating-ips",),
    ("router", "show", "tenant-a-router"),
    ("router", "show", "r2"),
    ("router", "show", "inner"),
    ("external", "show", "pub"),
    ("floating-ip", "show", "pub", "203.0.113.9"),
)


def test_how_they_are_shown(run: Run, known: Scripted, golden: Callable[[str, str], None]) -> None:
    pages = [f"$ ebbtide {' '.join(given)}\n{run(*given).stdout}" for given in SHOWN]
    golden("cli/routers.txt", "\n".join(pages))


@pytest.mark.parametrize("given", SHOWN, ids=" ".join)
def test_what_is_shown_fits(run: Run, known: Scripted, given: tuple[str, ...]) -> None:
    shown = run(*given)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= COLUMNS


@pytest.mark.parametrize("given", SHOWN, ids=" ".join)
def test_json_is_the_controllers_answer(run: Run, known: Scripted, given: tuple[str, ...]) -> None:
    shown = json.loads(run(*given, "--json").stdout)
    path = known.asked[-1].path
    assert shown == known.said["GET", path][1]


def test_there_are_none(run: Run, scripted: Scripted) -> None:
    for noun in ("router", "external", "floating-ip"):
        scripted.says("GET", f"/{noun}s", {f"{noun}s": []})
        result = run(f"{noun}s")
        assert result.exit_code == 0
        assert f"`ebbtide {noun} add " in result.stdout


@pytest.mark.parametrize(
    ("given", "method", "path", "body"),
    [
        (
            "external add pub --physical p --subnet 203.0.113.0/24",
            "POST",
            "/externals",
            {"id": "pub", "physical": "p", "subnet": "203.0.113.0/24"},
        ),
        (
            "external add pub --physical p --subnet 203.0.113.0/24 --gateway 203.0.113.1 --vlan 0 --mtu 1400",
            "POST",
            "/externals",
            {
                "id": "pub",
                "physical": "p",
                "subnet": "203.0.113.0/24",
                "gateway": "203.0.113.1",
                "vlan": 0,
                "mtu": 1400,
            },
        ),
        ("router add r1", "POST", "/routers", {"id": "r1"}),
        (
            "router add r1 --external pub --address 203.0.113.5 --no-snat --no-record --wait",
            "POST",
            "/routers?wait=applied",
            {"id": "r1", "external": "pub", "addresses": ["203.0.113.5"], "snat": False, "record": False},
        ),
        (
            "router set a/b --address 203.0.113.5 --address 203.0.113.6",
            "PATCH",
            "/routers/a%2Fb",
            {"addresses": ["203.0.113.5", "203.0.113.6"]},
        ),
        (
            "router set r1 --route '10.9.0.0/16 via 10.1.0.9' --snat",
            "PATCH",
            "/routers/r1",
            {"routes": ["10.9.0.0/16 via 10.1.0.9"], "snat": True},
        ),
        (
            "router set r1 --no-external --no-addresses --no-routes",
            "PATCH",
            "/routers/r1",
            {"external": "", "addresses": [], "routes": []},
        ),
        ("router attach r1 blue", "POST", "/routers/r1/attach", {"network": "blue"}),
        (
            "router attach r1 blue --address 10.1.0.254 --mac 02:00:00:00:00:01",
            "POST",
            "/routers/r1/attach",
            {"network": "blue", "address": "10.1.0.254", "mac": "02:00:00:00:00:01"},
        ),
        (
            "router detach r1 blue --address 10.1.0.254",
            "POST",
            "/routers/r1/detach",
            {"network": "blue", "address": "10.1.0.254"},
        ),
        (
            "floating-ip add pub 203.0.113.9 --port vm1 --fixed 10.1.0.9",
            "POST",
            "/floating-ips",
            {"external": "pub", "address": "203.0.113.9", "port": "vm1", "fixed": "10.1.0.9"},
        ),
    ],
)
def test_what_is_asked(run: Run, scripted: Scripted, given: str, method: str, path: str, body: dict[str, Any]) -> None:
    done = {"router": ROUTER, "external": EXTERNALS[0], "floating-ip": FLOATING_IPS[0], "place": ROUTER["networks"][0]}
    scripted.says(method, path, {**done, "changed": True})
    result = run(*words(f"ebbtide {given}"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert scripted.asked[-1].body == body
    scripted.says(method, path, {**done, "changed": False})
    assert run(*words(f"ebbtide {given}")).stdout.endswith("already so\n")
    scripted.says(method, path, {**done, "changed": True, "behind": ["host-1"]}, 202)
    assert run(*words(f"ebbtide {given}")).exit_code == 6
    for status, tag, code in ((400, "invalid-value", 2), (404, "data-missing", 3), (409, "operation-failed", 4)):
        scripted.refuses(method, path, status, tag, "this is why")
        result = run(*words(f"ebbtide {given}"))
        assert (result.exit_code, result.stderr) == (code, "ebbtide: this is why\n")


@pytest.mark.parametrize(
    "given",
    [
        "router set r1",
        "router set r1 --no-routes --route '10.9.0.0/16 via 10.1.0.9'",
        "router set r1 --no-addresses --address 203.0.113.5",
        "router set r1 --no-external --external pub",
        "router add",
        "router attach r1",
        "external add pub --physical p",
        "external add pub --physical p --subnet 203.0.113.0/24 --vlan many",
        "floating-ip add pub",
        "floating-ip delete pub",
        "router delete",
    ],
)
def test_what_is_not_asked_at_all(run: Run, scripted: Scripted, given: str) -> None:
    assert run(*words(f"ebbtide {given}")).exit_code == 2
    assert scripted.asked == []


def test_addresses_that_are_not_a_routers_any_more_are_named(run: Run, scripted: Scripted) -> None:
    found = {"router": ROUTER, "changed": True, "addresses-gone": ["203.0.113.7", "203.0.113.8"]}
    scripted.says("PATCH", "/routers/r1", found)
    given = ("router", "set", "r1", "--address", "203.0.113.5", "--address", "203.0.113.6")
    result = run(*given)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(
        "\n203.0.113.7 is not its address any more: its connections are cut\n"
        "203.0.113.8 is not its address any more: its connections are cut\n"
    )
    result = run(*given, "--json")
    assert (json.loads(result.stdout), result.stderr) == (found, "")


def test_one_that_cannot_be_deleted_does_not_stop_the_next(run: Run, scripted: Scripted) -> None:
    for path, given in (
        ("/routers/", ("router", "delete")),
        ("/externals/", ("external", "delete")),
        ("/floating-ips/pub/", ("floating-ip", "delete", "pub")),
    ):
        scripted.refuses("DELETE", f"{path}a", 409, "operation-failed", "it is in use")
        scripted.says("DELETE", f"{path}b", {"deleted": "b"})
        result = run(*given, "a", "b")
        assert result.exit_code == 4
        assert result.stdout == "ID  ANSWER    MESSAGE\na   refused   it is in use\nb   accepted\n"


def test_lists_are_narrowed(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/routers?network=blue", {"routers": []})
    scripted.says("GET", "/floating-ips?external=pub&router=r1", {"floating-ips": []})
    assert run("router", "list", "--network", "blue").exit_code == 0
    assert run("floating-ip", "list", "--router", "r1", "--external", "pub").exit_code == 0


def test_a_router_is_explained(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/explain/router/r1", {"lines": ["host-1 serves it.", "No move is under way."]})
    assert run("explain", "router", "r1").stdout == "host-1 serves it.\nNo move is under way.\n"


def test_names_are_completed(known: Scripted) -> None:
    for line, found in (
        ("ebbtide router show ten", ["tenant-a-router"]),
        ("ebbtide router set r", ["r2", "r3"]),
        ("ebbtide external delete d", ["dmz"]),
        ("ebbtide router add r9 --external p", ["pub"]),
        ("ebbtide floating-ip delete pub 203.0.113.1", ["203.0.113.10"]),
        ("ebbtide flo", ["floating-ip", "floating-ips"]),
        ("ebbtide explain router ten", ["tenant-a-router"]),
    ):
        assert complete(line, EBBTIDE_URL=known.url) == found, line


def test_the_page_can_be_typed_from_its_top_to_its_end(run: Run, real: Running) -> None:
    """Each command of docs/routers.md, in order; the part that looks at things is typed before they are taken away again."""
    typed = [
        [words(c.text) for c in commands(block) if words(c.text)]
        for block in blocks(ROOT / "docs" / "routers.md")
        if block.tag == "console"
    ]
    make, change, look, sessions = [part for part in typed if part]
    for given in (*make, *look, *sessions, *change):
        result = run(*given)
        assert (result.exit_code, result.stderr) == (0, ""), (given, result.stdout)
    assert json.loads(run("routers", "--json").stdout)["routers"] == []
