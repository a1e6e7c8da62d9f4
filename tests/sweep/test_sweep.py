"""Single strikes of the sweep at a drain: a few that count, in each test run; all of them are `make crash-sweep`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep import dumps
from tests.sweep.scenario import Cloud, run
from tests.sweep.wires import AFTER, BEFORE, STORE, Strike

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]
END = "insert Operation[end] dead=False state=running verb=end"
#: What a drain does together depends on what else is to be done at the moment: a run that does not pass the point shows nothing.
TURNS = 3
FLIP = "update Move[r1] phase=flip since"


@pytest.mark.parametrize(
    "strike",
    [
        Strike("store", END, when=BEFORE),
        Strike("store", END, when=AFTER),
        Strike("store", FLIP, when=AFTER, whom=STORE),
        Strike("store", FLIP, when=BEFORE, whom="c"),
        # An attempt at an end that begins in one leadership and ends in the next one would find nobody connected.
        Strike("openflow", "add QUARANTINE/QUARANTINE/0", at="a", when=AFTER, whom=STORE),
    ],
    ids=lambda s: f"{s.whom} {s.when} {s.name.split()[1]}",
)
def test_a_drain_that_is_struck_ends_as_it_should(strike: Strike, tmp_path: Path) -> None:
    for turn in range(TURNS):
        found = run(tmp_path / f"run{turn}", [strike], Cloud.drain)
        if any("struck" in line for line in found.passed):
            break
    else:
        raise AssertionError(f"the point was passed in none of {TURNS} runs")
    assert found.stale == []
    assert dumps.is_let_go(found.left)


def test_a_fault_that_is_planted_is_seen(tmp_path: Path) -> None:
    """The row of an end is written after what it announces: who is killed in between proves nothing."""
    with pytest.raises(AssertionError):
        run(tmp_path / "run", [Strike("store", END, when=BEFORE)], Cloud.drain, module="tests.sweep.planted")
