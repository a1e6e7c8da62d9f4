"""What these tests share: the command line called in this process, and controllers for it to talk to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ebbtide.cli.main import cli
from tests.cli.controllers import Run, Running, Scripted

SETTINGS = ("URL", "LAB", "CACERT", "TOKEN", "USER", "PASSWORD")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set where the tests run is not meant for them."""
    for name in SETTINGS:
        monkeypatch.delenv(f"EBBTIDE_{name}", raising=False)


@pytest.fixture
def run() -> Run:
    """Call `ebbtide` with these words."""

    def call(*words: str, **settings: Any) -> Result:
        result = CliRunner().invoke(cli, list(words), prog_name="ebbtide", terminal_width=80, **settings)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    """A scripted controller, and EBBTIDE_URL naming it."""
    made = Scripted()
    thread = Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01}, name="scripted")
    thread.start()
    monkeypatch.setenv("EBBTIDE_URL", made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def need_store() -> None:
    if not shutil.which("ovsdb-server"):
        pytest.skip("needs ovsdb-server")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A controller that leads, for the tests of a module."""
    need_store()
    made = Running(tmp_path_factory.mktemp("c"))
    try:
        made.says("leading")
        yield made
    finally:
        made.close()


@pytest.fixture
def real(running: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    """The same, and EBBTIDE_URL naming it."""
    monkeypatch.setenv("EBBTIDE_URL", running.url)
    return running
