"""The day in docs/operations.md, command by command, in one shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.documents import ROOT, blocks, commands

pytestmark = pytest.mark.lab
#: Of the lab in the document: another lab of that name may be up on this machine.
NAME = "day"


@pytest.mark.timeout(300)
def test_the_day_goes_as_it_is_told(tmp_path: Path) -> None:
    told = [b for b in blocks(ROOT / "docs" / "operations.md") if b.tag == "console day"]
    lines = [command.text for block in told for command in commands(block)]
    assert len(lines) > 25
    own = f"day{os.getpid()}"
    script = "\n".join(["set -eux -o pipefail", *lines]).replace(f"EBBTIDE_LAB={NAME}", f"EBBTIDE_LAB={own}")
    script = script.replace(f"--name {NAME}", f"--name {own}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "EBBTIDE_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "140"}
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        subprocess.run(
            ["ebbtide", "lab", "down", own], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "the signature is right" in done.stdout
    assert "is as it was" in done.stdout
    assert "0 missing, 0 unexpected, 0 residue" in done.stdout
