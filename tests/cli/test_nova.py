"""`ebbtide mover`: what is wrong with its settings is said before it begins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("nova",), "it is not known where the cloud is"),
        (("nova", "--at-once", "0"), "--at-once 0: 1 to"),
        (("xen",), "xen"),
    ],
)
def test_a_mover_that_cannot_work_ends_at_once(options: tuple[str, ...], words: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    command = [sys.executable, "-m", "ebbtide", "mover", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
