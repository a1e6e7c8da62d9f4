"""The tree of commands: helps, examples, short forms, aliases, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest

from ebbtide.cli.main import cli
from ebbtide.cli.tree import ALIASES, COMMANDS
from tests.cli.controllers import Run, Scripted


def tree(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from tree(found, *path, name)


def test_every_command_has_its_golden_help(run: Run, golden: Callable[[str, str], None]) -> None:
    pages = [run("--help").stdout]
    pages += [run(*path, "--help").stdout for path, _ in tree(cli)]
    golden("cli/help.txt", ("=" * 80 + "\n").join(pages))


def test_every_command_shows_examples() -> None:
    for path, found in tree(cli):
        assert "Examples:" in (found.help or ""), path


def test_the_table_has_the_summaries_of_the_commands() -> None:
    for name, entry in COMMANDS.items():
        found = cli.get_command(click.Context(cli), name)
        assert found is not None
        assert found.get_short_help_str(200) == entry.summary, name


def test_every_client_verb_has_json() -> None:
    without = {
        " ".join(path)
        for path, found in tree(cli)
        if not isinstance(found, click.Group) and "json" not in {p.name for p in found.params}
    }
    assert without == {"controller", "metadata-agent", "mover", "help", "completion"}


@pytest.mark.parametrize("words", [("net", "l"), ("networks",), ("network", "ls"), ("n", "list")])
def test_short_forms_and_aliases(run: Run, scripted: Scripted, words: tuple[str, ...]) -> None:
    scripted.says("GET", "/networks", {"networks": []})
    result = run(*words)
    assert (result.exit_code, result.stdout) == (0, "no networks: `ebbtide network add NAME --subnet CIDR`\n")


def test_every_alias_is_a_command() -> None:
    for alias in ALIASES:
        assert cli.get_command(click.Context(cli), alias) is not None


def test_an_ambiguous_short_form_is_refused_and_says_what_it_can_be(run: Run) -> None:
    result = run("co", "list")
    assert result.exit_code == 2
    assert "'co' can be compute, controller: add a letter" in result.stderr


@pytest.mark.parametrize(
    "words", [("nosuch",), ("compute", "nosuch"), ("compute", "show"), ("--nosuch",), ("compute", "list", "x")]
)
def test_what_is_no_command_is_bad_input(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_version(run: Run) -> None:
    assert run("--version").stdout.startswith("ebbtide, version ")


@pytest.mark.parametrize("topic", ["exit-codes", "connection", "ids"])
def test_topics(run: Run, golden: Callable[[str, str], None], topic: str) -> None:
    golden(f"cli/{topic}.txt", run("help", topic).stdout)


def test_help_on_a_command_is_its_help(run: Run) -> None:
    assert run("help", "scale-in", "end").stdout == run("scale-in", "end", "--help").stdout
    assert run("help").stdout == run("--help").stdout
    assert run("help", "nosuch").exit_code == 2
    assert run("help", "status", "more").exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_EBBTIDE_COMPLETE" in result.stdout


def complete(line: str, **settings: str) -> list[str]:
    words = line.split(" ")
    given = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_EBBTIDE_COMPLETE": "bash_complete"}
    command = [sys.executable, "-c", "from ebbtide.cli.main import main; main()"]
    done = subprocess.run(command, env=os.environ | given | settings, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [text.partition(",")[2] for text in done.stdout.splitlines() if text]


def test_names_are_completed() -> None:
    assert complete("ebbtide ne") == ["network", "networks"]
    assert complete("ebbtide scale-in re") == ["recover"]


def test_ids_are_completed_by_what_the_controller_knows(scripted: Scripted) -> None:
    scripted.says("GET", "/computes", {"computes": [{"name": "c1"}, {"name": "d1"}]})
    assert complete("ebbtide compute show c", EBBTIDE_URL=scripted.url) == ["c1"]


def test_completion_is_silent_without_a_controller() -> None:
    assert complete("ebbtide compute show c", EBBTIDE_URL="http://127.0.0.1:1") == []
