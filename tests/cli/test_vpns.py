"""VPNs, learnt addresses and designations by the command line: what is asked, how it is shown; and the pages about them, typed."""

from __future__ import annotations

import json

import pytest

from tests.cli.controllers import Run, Running
from tests.project.documents import ROOT, blocks, commands, words


@pytest.mark.parametrize("page", ["vpns.md", "subnet-routes.md", "security.md"])
def test_the_page_can_be_typed_from_its_top_to_its_end(run: Run, real: Running, page: str) -> None:
    typed = [
        words(command.text)
        for block in blocks(ROOT / "docs" / page)
        if block.tag == "console"
        for command in commands(block)
        if words(command.text)
    ]
    assert len(typed) > 4
    for given in typed:
        result = run(*given)
        assert (result.exit_code, result.stderr) == (0, ""), (given, result.stdout)
    kinds = {"router": "routers", "vpn": "vpns", "port": "ports", "group": "security-groups", "network": "networks"}
    for noun, kind in kinds.items():
        names = [x["id"] for x in json.loads(run(noun, "list", "--json").stdout)[kind]]
        if kind == "routers":
            for name in names:
                for place in json.loads(run("router", "show", name, "--json").stdout)["networks"]:
                    run("router", "detach", name, place["network"])
        if names:
            assert run(noun, "delete", *names).exit_code == 0


def test_a_vpn_is_listed_and_shown_with_what_it_sees(run: Run, real: Running) -> None:
    for given in (
        ("network", "add", "v-one", "--subnet", "10.1.0.0/24"),
        ("network", "add", "v-two", "--subnet", "10.2.0.0/24"),
        ("network", "add", "v-twin", "--subnet", "10.1.0.0/16"),
        ("vpn", "add", "v-red", "--rd", "64512:1", "--import", "64512:9", "--export", "64512:8"),
        ("vpn", "add", "v-blue", "--rd", "64512:2", "--export", "64512:9"),
        ("vpn", "add", "v-green", "--rd", "64512:3", "--export", "64512:9"),
        ("vpn", "associate", "v-red", "--network", "v-one"),
        ("vpn", "associate", "v-blue", "--network", "v-two"),
        ("vpn", "associate", "v-green", "--network", "v-twin", "--address", "10.1.9.1"),
    ):
        result = run(*given)
        assert (result.exit_code, result.stderr) == (0, ""), given
    shown = run("vpn", "show", "v-red").stdout
    assert "imported, of v-blue" in shown
    assert "of v-green, not seen: it overlaps" in shown
    line = next(x for x in run("vpns").stdout.splitlines() if x.startswith("v-red"))
    assert line.split() == ["v-red", "64512:1", "64512:9", "64512:8", "v-one", "0", "1"]
    assert "already so" in run("vpn", "associate", "v-red", "--network", "v-one").stdout
    assert run("vpn", "set", "v-red", "--no-imports", "--import", "64512:1").exit_code == 2
    assert run("vpn", "set", "v-red").exit_code == 2
    assert run("vpn", "delete", "v-red").exit_code == 4
    assert "Nobody is designated for 10.1.0.0/24" in run("explain", "network", "v-one").stdout
    for name, network in (("v-red", "v-one"), ("v-blue", "v-two"), ("v-green", "v-twin")):
        assert run("vpn", "dissociate", name, "--network", network).exit_code == 0
    assert run("vpn", "delete", "v-red", "v-blue", "v-green").exit_code == 0
    assert run("network", "delete", "v-one", "v-two", "v-twin").exit_code == 0


def test_what_was_not_learnt_cannot_be_forgotten(run: Run, real: Running) -> None:
    assert run("learnt", "list").stdout == "nothing was learnt\n"
    result = run("learnt", "delete", "nowhere", "10.2.0.100")
    assert result.exit_code == 3
    assert "is not learnt in network nowhere" in result.stdout
    assert run("designations").stdout == "nobody is designated for anything\n"
