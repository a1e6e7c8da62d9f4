"""The demo as a user runs it: green when nothing is wrong, red when something is."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


#: Seconds that the whole of it may take, the taking down of its lab as well.
TWO_MINUTES = 120


def demo(*words: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "ebbtide", "demo", "--json", *words],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.alone  # of what was due and not sent in time it makes a fault
def test_the_demo_loses_nothing_and_leaves_nothing() -> None:
    begun = time.monotonic()
    code, result = demo()
    assert code == 0, result
    assert time.monotonic() - begun < TWO_MINUTES
    assert result["passed"]
    assert result["probes_lost"] == 0
    assert result["residue"] == 0
    assert result["recovered_identical"] is True
    assert result["computes_left"] == ["B", "D", "E"]
    assert result["pairs"] == 40
    assert isinstance(result["probes_sent"], int)
    assert result["probes_sent"] > 10_000
    assert (result["silent_pairs"], result["too_few"], result["strays"]) == ([], [], 0)
    assert set(result["seconds"]) == {"steady", "scale-out", "drain", "after"}  # type: ignore[call-overload]
    drained = result["drain"]
    assert isinstance(drained, dict)
    assert (drained["state"], drained["removed"], drained["proven"]) == ("partial", ["A", "C"], ["A", "C"])
    assert list(drained["recovered"]) == ["B"]
    assert "vmB1" in drained["recovered"]["B"]
    # Through the NAT of a compute that leaves: four VMs, ten connections each that talk, ten that are silent until it is gone.
    assert (result["tcp_established"], result["tcp_broken"]) == (80, 0)
    assert (result["tcp_silent"], result["tcp_silent_alive"]) == (40, 40)
    assert (result["nat_from"], result["nat_faults"], result["new_connections_failed"]) == ("A", [], 0)
    assert result["nat_to"] in ("D", "E")
    assert isinstance(result["new_connections"], int)
    assert result["new_connections"] > 200


@pytest.mark.parametrize(
    ("sabotage", "seen"),
    [
        ("break-before-make", ["probes_lost"]),
        ("skip-tunnel", ["probes_lost"]),
        ("leave-residue", ["residue_by_audit", "residue_by_second_search"]),
        ("cut-connections", ["tcp_broken"]),
        ("close-nat", ["new_connections_failed"]),
    ],
)
def test_a_sabotaged_demo_ends_red(sabotage: str, seen: list[str]) -> None:
    code, result = demo("--sabotage", sabotage)
    assert code == 1
    assert not result["passed"]
    for each in seen:
        assert isinstance(result[each], int)
        assert result[each] > 0  # type: ignore[operator]
