"""What the documents say is so: settings, commands, links."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from ebbtide.config import Config

from .documents import (
    ROOT,
    TAGS,
    Block,
    Command,
    blocks,
    commands,
    console_commands,
    documents,
    files,
    link_targets,
    quoted_commands,
    table_rows,
    words,
)

FIELDS = {field.name: field.default for field in msgspec.structs.fields(Config)}


# ---- settings -------------------------------------------------------------------------------------------------------------


def test_every_setting_has_a_row_with_its_environment_name_and_default() -> None:
    rows = table_rows(ROOT / "docs" / "configuration.md", "## Settings of the controller")
    shown = {name.strip("`"): (environment.strip("`"), default.strip("`")) for name, environment, default, _ in rows}
    assert shown == {name: (f"EBBTIDE_{name.upper()}", msgspec.json.encode(FIELDS[name]).decode()) for name in FIELDS}


def test_sample_configuration_holds_every_setting_at_its_default() -> None:
    text = (ROOT / "packaging" / "ebbtide.toml").read_text()
    assert tomllib.loads(text) == {}, "as it ships, it changes nothing"
    settings = tomllib.loads("\n".join(re.findall(r"^#([a-z_]+ = .*)$", text, re.MULTILINE)))
    assert settings == FIELDS
    assert msgspec.convert(settings, Config).check() == Config()


def test_systemd_unit_calls_what_exists() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "packaging" / "ebbtide.service")
    check_call(words(unit["Service"]["ExecStart"]))
    assert unit["Service"]["Type"] == "notify"
    assert Config().state_dir == f"/var/lib/{unit['Service']['StateDirectory']}"
    assert unit["Service"]["Restart"] == "on-failure"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "else five quick failures are the last"


@pytest.mark.parametrize(("name", "type_"), [("metadata-agent", "notify"), ("mover-nova", "")])
def test_the_other_units_call_what_exists(name: str, type_: str) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "packaging" / f"ebbtide-{name}.service")
    check_call(words(unit["Service"]["ExecStart"]))
    assert unit["Service"].get("Type", "") == type_
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


# ---- commands -------------------------------------------------------------------------------------------------------------


def check_call(given: list[str]) -> None:
    """The command exists under these words, and has the options; arguments are not judged.

    Raises:
        AssertionError: it does not; the message says which word.
    """
    main = pytest.importorskip("ebbtide.cli.main")
    command: click.Command = main.cli
    context = click.Context(command, info_name="ebbtide")
    options = _options(command)
    rest = list(given)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            assert name in options, f"`ebbtide {' '.join(given)}`: {context.command_path} has no option {name}"
            if "=" not in word and not options[name] and rest:
                rest.pop(0)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            assert found is not None, f"`ebbtide {' '.join(given)}`: {context.command_path} has no command {word}"
            command, context = found, click.Context(found, info_name=word, parent=context)
            options |= _options(command)


def _options(command: click.Command) -> dict[str, bool]:
    """Names of a command's options -> whether each is a flag."""
    found = {"--help": True, "-h": True}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            flag = parameter.is_flag or parameter.count
            found |= dict.fromkeys([*parameter.opts, *parameter.secondary_opts], flag)
    return found


@pytest.mark.parametrize("command", [c for c in console_commands() if words(c.text)], ids=lambda c: c.place)
def test_command_line_in_a_document_exists(command: Command) -> None:
    check_call(words(command.text))


def _mentions() -> list[tuple[str, str]]:
    """Commands between backticks, in documents and in what the program says. Of names put in at run time, "X" is left."""
    found = set()
    for path in files():
        if path.suffix == ".md" or (path.suffix == ".py" and ROOT / "src" in path.parents):
            for text in quoted_commands(path.read_text()):
                plain = re.sub(r"\{[^}]*\}", "X", text)
                if "|" in plain or "[" in plain:
                    continue  # a synopsis of several commands
                found.add((str(path.relative_to(ROOT)), plain.removesuffix("...").split(" ...")[0].strip()))
    return sorted(found)


@pytest.mark.parametrize(("place", "text"), _mentions())
def test_command_mentioned_in_passing_exists(place: str, text: str) -> None:
    given = words(text)
    if given[:1] == ["net"]:
        return  # the example of a name cut short
    check_call(given)


def _tried() -> list[Block]:
    return [block for path in documents() for block in blocks(path) if block.tag == "console tried"]


@pytest.mark.parametrize("block", _tried(), ids=str)
def test_block_prints_what_it_says(block: Block) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "EBBTIDE_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
    for command in commands(block):
        done = subprocess.run(
            ["bash", "-c", command.text],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command.place}: {done.stderr}"
        expected = "\n".join(command.expected).strip()
        pattern = ".*".join(re.escape(part) for part in expected.split("..."))
        assert re.fullmatch(pattern, done.stdout.strip(), re.DOTALL), f"{command.place} printed:\n{done.stdout}"


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_have_a_known_tag_and_are_closed(document: Path) -> None:
    assert document.read_text().count("\n```") % 2 == 0, "a fence is not closed"
    assert [f"{b}: {b.tag!r}" for b in blocks(document) if b.tag not in TAGS] == []


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert [target for target in link_targets(document) if not (document.parent / target).exists()] == []


# ---- the three calls ------------------------------------------------------------------------------------------------------


def test_rpcs_in_documents_are_served() -> None:
    operations: Any = pytest.importorskip("ebbtide.north.operations")
    known = {
        f"{module}:{rpc}": getattr(rpc_, "leaf", "")
        for module, rpcs in operations.RPCS.items()
        for rpc, rpc_ in rpcs.items()
    }
    bodies = 0
    for command in console_commands():
        called = re.search(r"/operations/([a-z-]+:[a-z-]+) -d '(.*)'$", command.text)
        if called:
            body = msgspec.json.decode(called[2])
            assert list(body["input"]) == [known[called[1]]], command.place
            bodies += 1
    assert bodies >= 3
    named = {
        name
        for path in documents()
        for name in re.findall(r"\b(?:scalein-api|scalein-rpc|cloudscaler-rpc):[a-z-]+", path.read_text())
    }
    assert named - known.keys() - {"cloudscaler-rpc:compute-nodes"} == set(), "that one is a tree"
