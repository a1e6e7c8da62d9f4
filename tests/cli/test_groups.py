"""Security groups by the command line: what is asked, how it is shown, what is refused."""

from __future__ import annotations

import json

from tests.cli.controllers import Run, Running


def test_a_group_is_made_listed_shown_and_not_deleted_while_it_is_used(run: Run, real: Running) -> None:
    for given in (
        ("network", "add", "s-net", "--subnet", "10.7.0.0/24"),
        ("group", "add", "s-web"),
        ("group", "add", "s-db"),
        (
            "group",
            "allow",
            "s-web",
            "--in",
            "--protocol",
            "tcp",
            "--ports",
            "80-90",
            "--prefix",
            "10.0.0.0/8",
            "--id",
            "r1",
        ),
        ("group", "allow", "s-web", "--in", "--protocol", "icmp", "--icmp-type", "8", "--id", "r2"),
        ("group", "allow", "s-db", "--in", "--protocol", "tcp", "--ports", "5432", "--far", "s-web", "--id", "r3"),
        (
            "port",
            "add",
            "s-vm",
            "--network",
            "s-net",
            "--mac",
            "02:00:00:00:07:01",
            "--ip",
            "10.7.0.1",
            "--group",
            "s-db",
        ),
    ):
        result = run(*given)
        assert (result.exit_code, result.stderr) == (0, ""), given
    assert "already so" in run("group", "add", "s-web").stdout
    assert "already so" in run("group", "allow", "s-web", "--in", "--protocol", "icmp", "--icmp-type", "8").stdout
    shown = run("group", "show", "s-web").stdout
    assert "from 10.0.0.0/8, IPv4, tcp, ports 80 to 90" in shown
    assert "from anybody, IPv4, icmp, type 8" in shown
    line = next(x for x in run("groups").stdout.splitlines() if x.startswith("s-db"))
    assert line.split() == ["s-db", "1", "1", "0"]
    assert json.loads(run("port", "show", "s-vm", "--json").stdout)["security-groups"] == ["s-db"]
    assert run("group", "delete", "s-web").exit_code == 4, "a rule of s-db names it"
    assert run("group", "delete", "s-db").exit_code == 4, "a port is in it"
    assert run("group", "forbid", "s-web", "r9").exit_code == 3
    assert "has no rule r9" in run("group", "forbid", "s-web", "r9").stdout
    story = run("explain", "port", "s-vm").stdout
    assert "Security groups: s-db; rules: 1 about what goes in, 0 about what goes out." in story
    refused = run("explain", "port", "s-vm", "--from", "10.7.0.9", "--protocol", "tcp", "--port", "5432").stdout
    assert "None of the 1 rules of security group s-db that are about what goes in lets it." in refused
    assert run("port", "set", "s-vm", "--group", "s-web", "--group", "s-db", "--pair", "10.7.0.64/28").exit_code == 0
    passed = run("explain", "port", "s-vm", "--from", "10.7.0.65", "--protocol", "tcp", "--port", "5432").stdout
    assert "Rule r3 of security group s-db lets it in: from group s-web, IPv4, tcp, port 5432." in passed
    assert run("port", "set", "s-vm", "--unsecured").exit_code == 4, "it is in groups"
    assert run("port", "set", "s-vm", "--unsecured", "--no-groups", "--no-pairs").exit_code == 0
    for given in (
        ("port", "delete", "s-vm"),
        ("group", "delete", "s-db"),
        ("group", "delete", "s-web"),
        ("network", "delete", "s-net"),
    ):
        assert run(*given).exit_code == 0, given


def test_what_makes_no_rule_is_said(run: Run, real: Running) -> None:
    assert run("group", "add", "s-one").exit_code == 0
    for words, given in {
        "has no ports": ("--protocol", "icmp", "--ports", "80"),
        "1 to 65535": ("--protocol", "tcp", "--ports", "90-80"),
        "a port, or two": ("--protocol", "tcp", "--ports", "http"),
        "is none of any, icmp, tcp": ("--protocol", "ipx"),
        "is no prefix": ("--prefix", "10.1.2.3.4"),
        "of two families": ("--protocol", "icmpv6", "--prefix", "10.0.0.0/8"),
        "does not go with": ("--family", "ipv6", "--prefix", "10.0.0.0/8"),
        "not both": ("--prefix", "10.0.0.0/8", "--far", "s-one"),
        "give the type too": ("--protocol", "icmp", "--icmp-code", "0"),
        "has no ICMP type": ("--protocol", "tcp", "--icmp-type", "8"),
        "-1 for any": ("--protocol", "icmp", "--icmp-type", "256"),
    }.items():
        result = run("group", "allow", "s-one", "--in", *given)
        assert result.exit_code == 2, given
        assert words in result.stderr, (given, result.stderr)
    assert run("group", "allow", "s-one", "--in", "--far", "s-none").exit_code == 3
    assert run("group", "allow", "s-none", "--in").exit_code == 3
    assert run("explain", "port", "x", "--from", "1.2.3.4", "--to", "1.2.3.4").exit_code == 2
    assert run("explain", "router", "x", "--from", "1.2.3.4").exit_code == 2
    assert run("group", "delete", "s-one").exit_code == 0
