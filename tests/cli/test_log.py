"""What a log does not tell."""

from __future__ import annotations

import subprocess
import sys

import pytest

SECRET = "hunter2"
FAULT = f"""
import logging, structlog
from ebbtide import log
log.configure(KIND)
log.hear_libraries()
def fault(password):
    raise ValueError("http://admin:{SECRET}@192.0.2.1/v3 does not answer")
try:
    fault("".join(reversed("2retnuh")))
except ValueError:
    structlog.get_logger("x").exception("something_fails")
logging.getLogger("urllib3").warning("retry of %s", "http://admin:pa'{SECRET}@192.0.2.1/")
logging.getLogger("urllib3").error("%d times", "http://admin:{SECRET}@192.0.2.1/")
"""


@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_fault_is_logged_without_passwords(kind: str) -> None:
    command = [sys.executable, "-c", FAULT.replace("KIND", repr(kind))]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr
    assert "ValueError: http://192.0.2.1/v3 does not answer" in told
    assert "retry of http://192.0.2.1/" in told
    assert SECRET not in told
