"""What docs/netvirt.md says to people who come from NetVirt is so: its tests exist, its trees and RPCs are served, its tables are ours."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from ebbtide.compile.ledger import T
from ebbtide.model.state import State
from ebbtide.north import views
from ebbtide.north.operations import RPCS

from .documents import ROOT, table_rows

PAGE = ROOT / "docs" / "netvirt.md"
TEXT = PAGE.read_text()
#: The numbers that SECURITY_OUT and SECURITY_IN stand for.
RESERVED = {27, 49, 50}


def tables(heading: str) -> list[list[list[str]]]:
    """All tables of a section, as rows of cells."""
    section = TEXT.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    found: list[list[list[str]]] = []
    inside = False
    for line in section.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append([])
            found[-1].append([cell.strip() for cell in line.strip().strip("|").split("|")])
        inside = line.startswith("|")
    return [rows[2:] for rows in found]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- what went wrong there -----------------------------------------------------------------------------------------------


@cache
def functions_of(name: str) -> set[str]:
    """What a file of tests defines, by its path under tests/."""
    path = ROOT / "tests" / name
    assert path.is_file(), f"there is no tests/{name}"
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


DEFECTS = [row for title in re.findall(r"^### .*$", TEXT, re.MULTILINE) for row in table_rows(PAGE, title)]


@pytest.mark.parametrize("row", DEFECTS, ids=lambda row: row[0][:60])
def test_each_defect_has_a_test_or_says_why_not(row: list[str]) -> None:
    there, here, shown_by = row
    assert there
    assert here
    found = quoted(shown_by)
    assert found or re.match(r"none: .{20}", shown_by), shown_by
    assert all("::" in name for name in found), shown_by


@pytest.mark.parametrize("name", sorted({name for name in quoted(TEXT) if "::" in name}))
def test_each_test_that_is_named_exists(name: str) -> None:
    file, test = name.split("::")
    assert test.startswith("test_")
    assert test in functions_of(file)


# ---- trees and RPCs ------------------------------------------------------------------------------------------------------


def served(*, config: bool, nonconfig: bool) -> set[str]:
    picture = views.Picture(State(), lambda _: views.Seen(), lambda a, b: False, config, nonconfig)
    return set(views.trees(picture))


def test_the_trees_are_those_that_are_served() -> None:
    there, elsewhere = tables("## Data trees")
    told: dict[str, set[str]] = {"config": set(), "operational": set()}
    for names, stores, _ in there:
        for store in stores.split(", "):
            told[store] |= set(quoted(names))
    assert told["config"] == served(config=True, nonconfig=False)
    assert told["operational"] == served(config=False, nonconfig=True)
    absent = {name for names, _ in elsewhere for name in quoted(names)}
    assert absent
    assert not absent & served(config=True, nonconfig=True)


def test_the_rpcs_are_those_that_are_served() -> None:
    there, elsewhere = tables("## RPCs")
    told = {name for names, _ in there for name in quoted(names)}
    whole = {name.removesuffix(":...") for name in told if name.endswith(":...")}
    single = {name for name in told if not name.endswith(":...")}
    every = {f"{module}:{rpc}" for module, rpcs in RPCS.items() for rpc in rpcs}
    assert whole <= RPCS.keys()
    assert single | {name for name in every if name.split(":")[0] in whole} == every
    absent = {name for names, _ in elsewhere for name in quoted(names)}
    assert absent
    assert not absent & every


def test_paths_in_examples_lead_to_trees() -> None:
    named = re.findall(r"/(config|operational|data)/([a-z0-9-]+:[A-Za-z_-]+)", TEXT)
    assert named
    for store, name in named:
        assert name in served(config=store != "operational", nonconfig=store != "config"), name


# ---- tables --------------------------------------------------------------------------------------------------------------


def numbers(cell: str) -> set[int]:
    """The numbers of a cell: `70, 72, 83 to 87`."""
    found: set[int] = set()
    for part in cell.split(", "):
        first, _, last = part.partition(" to ")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def test_every_table_stands_there_once_with_what_became_of_it() -> None:
    (rows,) = tables("## Tables in br-int")
    told = [(numbers(cell), theirs, ours) for cell, theirs, ours in rows]
    every = [n for found, _, _ in told for n in sorted(found)]
    assert len(every) == len(set(every)), "each once"
    known = {int(t) for t in T} | RESERVED
    for found, theirs, ours in told:
        assert {theirs, ours} != {"-"}
        if ours == "-":
            assert not found & known, f"{found}: they are ours too"
        else:
            assert found <= known, f"{found - known}: there is no such table"
    assert known <= set(every)


@pytest.mark.parametrize("table", sorted(RESERVED))
def test_what_is_said_to_be_reserved_is_so_in_the_pipeline_too(table: int) -> None:
    rows = table_rows(ROOT / "docs" / "pipeline.md", "## Tables")
    reserved = {n for number, _, job in rows if job.startswith("reserved") for n in _reserved(int(number), job)}
    assert table in reserved
    (told,) = (ours for cell, _, ours in tables("## Tables in br-int")[0] if table in numbers(cell))
    assert told == "reserved"


def _reserved(number: int, job: str) -> set[int]:
    found = re.search(r"(\d+) to (\d+)", job)
    return set(range(int(found[1]), int(found[2]) + 1)) if found else {number}
