"""What a quick command imports: its speed, without a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.cli.controllers import Scripted

HEAVY = (
    "rich",
    "starlette",
    "uvicorn",
    "structlog",
    "yangson",
    "msgspec",
    "asyncio",
    "ebbtide.app",
    "ebbtide.lab",
    "ebbtide.north",
)
SCRIPT = """
import sys
from ebbtide.cli.main import cli
try:
    cli(sys.argv[1:], prog_name="ebbtide")
except SystemExit as end:
    assert not end.code, end.code
import json
print("\\n" + json.dumps(sorted(sys.modules)))
"""


@pytest.mark.parametrize("words", [["--help"], ["computes", "--json"], ["computes"], ["--version"]])
def test_quick_commands_import_little(scripted: Scripted, words: list[str]) -> None:
    scripted.says("GET", "/computes", {"computes": [], "refused": []})
    settings = os.environ | {"EBBTIDE_URL": scripted.url}
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded.isdisjoint(HEAVY)
