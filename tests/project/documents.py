"""The documents as data: fenced blocks with their tags, command lines in them, links, tables."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TAGS = ("console", "console tried", "console day", "text")
_SKIPPED = {".git", ".venv", ".venv-odl", ".venv-openstack", "build", "__pycache__"}


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    tag: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


class Command(NamedTuple):
    """A line that a reader would type, and what it should print."""

    place: str
    text: str
    expected: tuple[str, ...] = ()


def documents() -> list[Path]:
    """Every document that we wrote."""
    return [path for path in files() if path.suffix == ".md"]


def files() -> list[Path]:
    """Every file of the project: as git knows it, or, in an unpacked archive, all that is there."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if not _SKIPPED & set(p.relative_to(ROOT).parts)]
    return sorted(path for path in found if path.is_file())


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    start, tag, lines = 0, "", list[str]()
    for number, line in enumerate(document.read_text().splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            yield Block(document, start, tag, tuple(lines))
            start = 0
        else:
            start, tag, lines = number, line[3:].strip(), []


def commands(block: Block) -> Iterator[Command]:
    """The lines after a prompt; what follows each is what it prints."""
    text, place, expected = "", "", list[str]()
    for offset, line in enumerate(block.lines, start=1):
        if line.startswith(("$ ", "# ")):
            if text:
                yield Command(place, text, tuple(expected))
            text, expected = line[2:].strip(), []
            place = f"{block.document.relative_to(ROOT)}:{block.line + offset}"
        else:
            expected.append(line)
    if text:
        yield Command(place, text, tuple(expected))


def console_commands() -> list[Command]:
    """Every command line of every console block."""
    return [c for d in documents() for b in blocks(d) if b.tag.startswith("console") for c in commands(b)]


def quoted_commands(text: str) -> Iterator[str]:
    """`ebbtide ...` between backticks, in a document or in a message of the program."""
    yield from re.findall(r"`(?:\.venv/bin/)?(ebbtide [a-z][^`\n]*)`", text)


def words(text: str) -> list[str]:
    """The words of an `ebbtide` call, without the program's name; [] if it is another program's."""
    found = shlex.split(text, comments=True)
    return found[1:] if found and Path(found[0]).name == "ebbtide" else []


def link_targets(document: Path) -> Iterator[str]:
    """Where a document's relative links lead."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in target and not target.startswith("#"):
            yield target.partition("#")[0]


def table_rows(document: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    text = document.read_text().partition(f"\n{heading}\n")[2]
    rows = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))])
        elif rows:
            break
    return rows[2:]
