"""REST by TLS: a real controller with a certificate of its own, asked by a browser's means and by the command line."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli.conftest import need_store
from tests.cli.controllers import Run, Running
from tests.support.certificates import certificate


class Served(NamedTuple):
    """A controller that speaks https, and the certificate that it shows."""

    port: int
    cert: Path
    key: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    need_store()
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder)
    running = Running(folder, "--http-cert", str(cert), "--http-key", str(key))
    try:
        running.says("leading")
        yield Served(running.port("http"), cert, key)
    finally:
        running.close()


def test_a_request_by_https(served: Served) -> None:
    context = ssl.create_default_context(cafile=str(served.cert))
    connection = HTTPSConnection("127.0.0.1", served.port, context=context, timeout=20)
    try:
        connection.request("GET", "/api/v1/status")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["leading"]) == (200, True)
        connection.request("POST", "/api/v1/networks", '{"id": "blue"}', {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["network"]["id"]) == (201, "blue")
    finally:
        connection.close()


def test_one_that_is_not_trusted_is_not_talked_to(served: Served, tmp_path: Path) -> None:
    other, _ = certificate(tmp_path)
    for context in (ssl.create_default_context(), ssl.create_default_context(cafile=str(other))):
        connection = HTTPSConnection("127.0.0.1", served.port, context=context, timeout=20)
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", "/api/v1/status")
        connection.close()


def test_clear_text_is_not_answered(served: Served) -> None:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        connection.request("GET", "/healthz")
        with pytest.raises(OSError, match=r"reset|closed connection"):
            connection.getresponse()
    finally:
        connection.close()


def test_the_command_line_checks_the_certificate(
    run: Run, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("status", "--json", "--url", served.url, "--cacert", str(served.cert))
    assert (result.exit_code, json.loads(result.stdout)["leading"]) == (0, True)
    monkeypatch.setenv("EBBTIDE_URL", served.url)
    assert run("network", "add", "green", "--cacert", str(served.cert)).exit_code == 0
    other, _ = certificate(tmp_path)
    for words in ((), ("--cacert", str(other))):
        refused = run("status", *words)
        assert refused.exit_code == 5
        assert "certificate verify failed" in refused.stderr
        assert "--cacert" in refused.stderr
    monkeypatch.setenv("EBBTIDE_CACERT", str(served.cert))
    assert "green" in run("networks").stdout
    assert run("status", "--url", f"https://localhost:{served.port}").exit_code == 5, "it is not a certificate of that"
    for words in (("--cacert", str(tmp_path / "none")), ("--cacert", str(served.key))):
        assert run("status", *words).exit_code == 2
