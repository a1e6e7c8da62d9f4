"""The acceptance run: each line of the specification has its test, and the table at the end hides nothing."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.told import LINES, Entry, table

FOLDER = Path(__file__).parents[1] / "acceptance"


def test_each_line_of_the_specification_has_a_test_of_its_own() -> None:
    found = [re.findall(r'mark\.line\("([^"]+)"', path.read_text()) for path in FOLDER.glob("test_*.py")]
    assert {name for names in found for name in names} == set(LINES)


def test_the_table_shows_what_was_said_what_failed_and_what_did_not_run() -> None:
    long = "something with more words than there is room for in one line of this column, or of any other one"
    entries = [
        Entry(("Testing 1",), "", ("d joins",), ("10 probes, 0 lost", long), True),
        Entry(("Testing 4", "CSIT 3"), "NAT", ("a is started",), (), False),
    ]
    text = table(entries)
    assert max(map(len, text)) <= 140
    shown = {line.partition(":")[0]: line for line in text if re.match(r"[A-Z][^ ]+( \d)?( NAT)?:", line)}
    assert re.search(r"d joins +10 probes, 0 lost +pass$", shown["Testing 1"])
    assert "Testing 4 NAT" in shown
    assert shown["Testing 4 NAT"].endswith("FAIL")
    assert shown["CSIT 3"].endswith("FAIL")
    assert "what Testing 4 did, in the same words" in " ".join(" ".join(text).split())
    assert shown["Testing 2"].endswith("no run")
    assert {name.rsplit(" NAT")[0] for name in shown} == set(LINES)
