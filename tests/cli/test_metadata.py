"""`ebbtide metadata-agent` with careless hands, and what `ebbtide port` says of whose a port is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.controllers import Run, Scripted


@pytest.mark.parametrize(
    ("backend", "secret", "words"),
    [
        ("nova:8775", b"s", "it is http://ADDRESS:PORT"),
        ("http://", b"s", "it is http://ADDRESS:PORT"),
        ("http://nova:x", b"s", "it is http://ADDRESS:PORT"),
        ("ftp://nova", b"s", "it is http://ADDRESS:PORT"),
        ("http://nova:8775/path", b"s", "it is http://ADDRESS:PORT"),
        ("http://nova:8775", b" \n", "it is empty"),
        ("http://nova:8775", None, "No such file or directory"),
    ],
)
def test_what_an_agent_cannot_start_with(
    run: Run, tmp_path: Path, backend: str, secret: bytes | None, words: str
) -> None:
    file = tmp_path / "secret"
    if secret is not None:
        file.write_bytes(secret)
    result = run("metadata-agent", "--backend", backend, "--secret-file", str(file))
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_port_says_whose_it_is(run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/ports", {"port": {"id": "vm1"}, "changed": True})
    scripted.says("PATCH", "/ports/vm1", {"port": {"id": "vm1"}, "changed": True})
    words = ("port", "add", "vm1", "--network", "blue", "--mac", "02:00:00:00:00:01")
    assert run(*words, "--device", "i-1", "--project", "p-1").exit_code == 0
    assert run(*words).exit_code == 0
    assert run("port", "set", "vm1", "--device", "").exit_code == 0
    first, second, third = (asked.body for asked in scripted.asked)
    assert (first["device"], first["project"]) == ("i-1", "p-1")
    assert not {"device", "project"} & second.keys()
    assert third == {"device": ""}
