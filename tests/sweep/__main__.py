"""The sweep: `python -m tests.sweep` kills the controller once at every point of a drain, a run for each, and looks at what comes of it.

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
from tests.sweep.scenario import Cloud, Outcome, run
from tests.sweep.wires import BEFORE, CONTROLLER, STORE, Strike

PEER, PLANTED = "peer", "tests.sweep.planted"
#: Of five computes, those that do not leave.
STAYING = ("c", "d", "e")
SAME, ELSEWHERE, DIFFERS, FAILED, MISSED = "same", "another end", "differs", "failed", "not reached"
#: Runs in which a point is to be reached.
TURNS = 4
#: Seconds after which a run is told of though all is well: something was waited for.
SLOW = 10.0


class Verdict(NamedTuple):
    """What has come of one strike."""

    strike: Strike
    what: str
    seconds: float
    words: str = ""


def struck(directory: Path, strike: Strike, wanted: dumps.Dump, module: str) -> Verdict:
    """One strike. How often something is done again is not the same in each run: a point that is not reached is tried again."""
    for turn in range(TURNS):
        verdict = _struck(directory / str(turn), strike, wanted, module)
        if verdict.what != MISSED:
            break
    return verdict


def _struck(directory: Path, strike: Strike, wanted: dumps.Dump, module: str) -> Verdict:
    """One run. Its directory stays if there is something to be looked at."""
    began = time.monotonic()
    try:
        found = run(directory, [strike], Cloud.drain, module=module)
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description="Strike a drain at its every point.")
    parser.add_argument(
        "--since", default="drain", help="the step from which on is struck (build: all; default: drain)"
    )
    parser.add_argument("--sample", type=int, default=0, help="so many strikes, drawn (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw, and of whom is frozen")
    parser.add_argument(
        "--references", type=int, default=2, help="runs without a blow; struck are points that all of them have"
    )
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--whom",
        choices=(CONTROLLER, STORE, PEER),
        default=CONTROLLER,
        help="who is struck: the controller or the store's server, killed; or one of the computes that stay, frozen for a second",
    )
    parser.add_argument(
        "--planted", action="store_true", help="with a fault planted in the controller: it must be seen"
    )
    return parser.parse_args()


def _aimed(strikes: list[Strike], whom: str, draw: random.Random) -> list[Strike]:
    """The same points, and who is struck there. One that is frozen is so before the point: it answers nothing after it."""
    if whom != PEER:
        return [msgspec.structs.replace(strike, whom=whom) for strike in strikes]
    before = [strike for strike in strikes if strike.when == BEFORE]
    return [msgspec.structs.replace(strike, whom=draw.choice(STAYING)) for strike in before]


def main() -> int:
    """The command."""
    options = _arguments()
    directory, draw = Path(tempfile.mkdtemp(prefix="ebbtide-sweep-")), random.Random(options.seed)
    module = PLANTED if options.planted else "ebbtide"
    runs: list[Outcome] = [
        run(directory / f"reference{index}", story=Cloud.drain, module=module) for index in range(options.references)
    ]
    found = choice.strikes([each.passed for each in runs], runs[0].marks[options.since])
    strikes = _aimed(found, options.whom, draw)
    if options.sample:
        strikes = draw.sample(strikes, min(options.sample, len(strikes)))
    tell(f"{len(strikes)} strikes at {options.whom} since {options.since}; logs: {directory}")
    wanted = dumps.without_leases(runs[0].dump)
    places = [directory / str(index) for index in range(len(strikes))]
    counts: Counter[str] = Counter()
    longest, number = 0.0, len(strikes)
    with ProcessPoolExecutor(options.workers) as pool:
        done = pool.map(struck, places, strikes, [wanted] * number, [module] * number)
        for place, verdict in zip(places, done, strict=True):
            counts[verdict.what] += 1
            longest = max(longest, verdict.seconds)
            if verdict.what != SAME or verdict.seconds > SLOW:
                words = f"{verdict.seconds:.1f} s {verdict.words}"
                tell(f"{place.name} {verdict.what}: {json.dumps(msgspec.to_builtins(verdict.strike))} {words}")
    failures = counts[DIFFERS] + counts[FAILED]
    told = {"points": len(found), "tried": number - counts[MISSED], "not tried": len(found) - number + counts[MISSED]}
    tell(json.dumps({**told, "failures": failures, "seed": options.seed, **counts, "longest": round(longest, 1)}))
    if not failures:
        shutil.rmtree(directory, ignore_errors=True)
    # A run that misses its point has proven nothing of it.
    return 0 if not failures and not counts[MISSED] else 1


def tell(words: str) -> None:
    """A line."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
