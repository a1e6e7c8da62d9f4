"""The sweep: `python -m tests.sweep` kills the controller once at every point of a scale-in, a run for each, and looks at what comes of it.

First some runs without any blow say which points there are. Each run must end with a clean audit, nothing on those who have left, and on
the others what a fresh start would put there ("differs"), or not come to its end ("failed"): that is told in a line, and the logs stay. One
that is right and ends otherwise than without a blow ("another end": somebody else was elected) is told too. The last line is the count; 0
is returned if nothing differs or failed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.sweep import choice, dumps
from tests.sweep.scenario import Outcome, run
from tests.sweep.wires import Strike

SAME, ELSEWHERE, DIFFERS, FAILED, MISSED = "same", "another end", "differs", "failed", "not reached"
#: Seconds after which a run is told of though all is well: something was waited for.
SLOW = 10.0


class Verdict(NamedTuple):
    """What has come of one strike."""

    strike: Strike
    what: str
    seconds: float
    words: str = ""


def struck(directory: Path, strike: Strike, wanted: dumps.Dump) -> Verdict:
    """One run. Its directory stays if there is something to be looked at."""
    began = time.monotonic()
    try:
        found = run(directory, [strike])
    except Exception as error:
        return Verdict(strike, FAILED, time.monotonic() - began, f"{type(error).__name__}: {error}"[:1000])
    if not any("struck" in line for line in found.passed):
        shutil.rmtree(directory)
        return Verdict(strike, MISSED, found.seconds)
    wrong = list(found.stale)
    if not dumps.is_let_go(found.left):
        wrong += [f"{name} has left, and holds {line}" for name, lines in found.left.items() for line in lines]
    if wrong:
        return Verdict(strike, DIFFERS, found.seconds, "; ".join(wrong[:5]))
    shutil.rmtree(directory)
    # Who was elected when the controller was there again may be another, and all is well there.
    other = dumps.differences(wanted, dumps.without_leases(found.dump))
    return Verdict(strike, ELSEWHERE if other else SAME, found.seconds, "; ".join(other[:1]))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep")
    parser.add_argument(
        "--since", default="start", help="the step from which on the controller is struck (build: all; default: start)"
    )
    parser.add_argument("--sample", type=int, default=0, help="so many strikes, drawn (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument(
        "--references", type=int, default=2, help="runs without a blow; struck are points that all of them have"
    )
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="ebbtide-sweep-"))
    runs: list[Outcome] = [run(directory / f"reference{index}") for index in range(options.references)]
    strikes = choice.strikes([each.passed for each in runs], runs[0].marks[options.since])
    if options.sample:
        strikes = random.Random(options.seed).sample(strikes, min(options.sample, len(strikes)))
    tell(f"{len(strikes)} strikes since {options.since}; logs: {directory}")
    wanted = dumps.without_leases(runs[0].dump)
    places = [directory / str(index) for index in range(len(strikes))]
    counts: Counter[str] = Counter()
    longest = 0.0
    with ProcessPoolExecutor(options.workers) as pool:
        for place, verdict in zip(places, pool.map(struck, places, strikes, [wanted] * len(strikes)), strict=True):
            counts[verdict.what] += 1
            longest = max(longest, verdict.seconds)
            if verdict.what != SAME or verdict.seconds > SLOW:
                words = f"{verdict.seconds:.1f} s {verdict.words}"
                tell(f"{place.name} {verdict.what}: {json.dumps(msgspec.to_builtins(verdict.strike))} {words}")
    tell(json.dumps({**counts, "longest": round(longest, 1)}))
    return 0 if not counts[DIFFERS] and not counts[FAILED] else 1


def tell(words: str) -> None:
    """A line."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
