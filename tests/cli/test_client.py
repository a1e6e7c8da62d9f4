"""Calls over a real socket: what is asked, and which exit code each answer has."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ebbtide.cli.client import Client
from ebbtide.errors import BadInput, NotReady
from tests.cli.controllers import Run, Scripted

VERDICTS = [
    {"id": "a", "name": "a", "answer": "accepted", "message": "tombstoned", "remains": []},
    {
        "id": "b",
        "name": "b",
        "answer": "refused",
        "message": "b was removed",
        "remains": ["port 1", "port 2", "port 3", "port 4"],
    },
]


@pytest.mark.parametrize(
    ("status", "tag", "code"),
    [
        (400, "invalid-value", 2),
        (401, "access-denied", 4),
        (403, "access-denied", 4),
        (404, "data-missing", 3),
        (409, "operation-failed", 4),
        (409, "in-use", 6),
        (413, "too-big", 2),
        (415, "invalid-value", 2),
        (500, "operation-failed", 1),
        (502, "operation-failed", 5),
        (503, "resource-denied", 5),
        (503, "in-use", 6),
    ],
)
def test_exit_code_of_each_answer(run: Run, scripted: Scripted, status: int, tag: str, code: int) -> None:
    scripted.refuses("GET", "/status", status, tag, "this is why")
    result = run("status")
    assert result.exit_code == code
    assert result.stderr.startswith("ebbtide: this is why")
    assert result.stdout == ""


def test_refusals_are_shown_per_id(run: Run, scripted: Scripted) -> None:
    scripted.refuses("POST", "/scale-in/start", 409, "operation-failed", verdicts=VERDICTS)
    result = run("scale-in", "start", "a", "b")
    assert result.exit_code == 4
    assert result.stdout == (
        "ID  COMPUTE  ANSWER    MESSAGE        WHAT REMAINS\n"
        "a   a        accepted  tombstoned\n"
        "b   b        refused   b was removed  port 1, port 2, port 3 and 1 more\n"
    )
    assert result.stderr == "ebbtide: 1 id of 2 refused; nothing was changed\n"
    assert scripted.asked[-1].body == {"computes": ["a", "b"]}


def test_ids_that_nobody_knows_are_not_found(run: Run, scripted: Scripted) -> None:
    scripted.refuses("POST", "/scale-in/start", 400, "invalid-value", verdicts=VERDICTS[1:])
    assert run("scale-in", "start", "b").exit_code == 3


def test_errors_as_json(run: Run, scripted: Scripted) -> None:
    scripted.refuses("POST", "/scale-in/start", 409, "operation-failed", "no", verdicts=VERDICTS)
    result = run("scale-in", "start", "a", "b", "--json")
    assert result.stderr == ""
    error = json.loads(result.stdout)["error"]
    assert (error["status"], error["message"], error["exit-code"]) == (409, "no", 4)
    assert error["verdicts"] == VERDICTS


def test_what_remains_of_an_end_that_goes_on(run: Run, scripted: Scripted) -> None:
    scripted.says("POST", "/scale-in/end", {"verdicts": VERDICTS[:1], "done": False, "operations": []}, 202)
    result = run("scale-in", "end", "a", "--wait", "0")
    assert result.exit_code == 6
    assert scripted.asked[-1].body == {"computes": ["a"], "wait": 0.0}


def test_one_bad_id_does_not_stop_the_next(run: Run, scripted: Scripted) -> None:
    scripted.refuses("POST", "/computes/a/approve", 404, "data-missing", "there is no a")
    done = {"compute": {"name": "b", "membership": "member", "phase": "connected"}, "known": True, "changed": True}
    scripted.says("POST", "/computes/b/approve", done)
    scripted.says("POST", "/computes/c/approve", done | {"changed": False})
    result = run("compute", "approve", "a", "b", "c")
    assert result.exit_code == 3
    assert result.stdout == (
        "ID  COMPUTE  ANSWER      MESSAGE\n"
        "a            refused     there is no a\n"
        "b   b        accepted    member, connected\n"
        "c   b        already so  member, connected\n"
    )


def test_ids_are_one_segment_of_the_path(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/computes/ovsdb%3A%2F%2Fuuid%2Fx%2Fbridge%2Fbr-int?removed=1", {"name": "a"})
    assert run("compute", "show", "ovsdb://uuid/x/bridge/br-int").stdout == "name  a\n"


def test_a_token_wins_over_a_user(run: Run, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.says("GET", "/status", {})
    run("status")
    assert "Authorization" not in scripted.asked[-1].headers
    monkeypatch.setenv("EBBTIDE_USER", "admin")
    monkeypatch.setenv("EBBTIDE_PASSWORD", "pass:word")
    run("status")
    assert scripted.asked[-1].headers["Authorization"] == "Basic " + b64encode(b"admin:pass:word").decode()
    monkeypatch.setenv("EBBTIDE_TOKEN", "secret")
    run("status")
    assert scripted.asked[-1].headers["Authorization"] == "Bearer secret"


def test_401_says_how_to_log_in(run: Run, scripted: Scripted) -> None:
    scripted.refuses("GET", "/status", 401, "access-denied", "credentials are needed")
    assert "EBBTIDE_TOKEN" in run("status").stderr


@pytest.mark.parametrize("words", [("--url", "URL", "status"), ("status", "--url", "URL")])
def test_the_url_may_stand_before_or_after_the_verb(
    run: Run, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("EBBTIDE_URL", "http://127.0.0.1:1")
    scripted.says("GET", "/status", {"leading": True, "hold": ""})
    result = run(*(scripted.url if word == "URL" else word for word in words))
    assert (result.exit_code, result.stdout) == (0, "leading  yes\n")


def test_nobody_answers(run: Run) -> None:
    result = run("status", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 5
    assert "no controller answers at http://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a/?x=1"])
def test_what_is_no_url(run: Run, url: str) -> None:
    assert run("status", "--url", url).exit_code == 2


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_a_peer_that_is_no_controller(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = Thread(target=serve, name="peer")
        thread.start()
        with pytest.raises(NotReady):
            Client(f"http://127.0.0.1:{server.getsockname()[1]}").get("/status")
        thread.join()


def test_an_answer_that_is_not_json(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/status", b"<html>")
    assert run("status").exit_code == 5


def test_a_peer_that_does_not_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(NotReady, match="did not answer within"):
            client.get("/status", timeout=0.05)


def test_cacert_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cacert"):
        Client("https://127.0.0.1:1", cacert=str(tmp_path / "none")).get("/status")


def test_writes_wait_for_the_computes_when_asked(run: Run, scripted: Scripted) -> None:
    made = {"id": "blue", "vni": 4096, "subnets": []}
    body = {"network": made, "changed": True, "behind": ["c2"]}
    scripted.says("POST", "/networks?wait=applied", body, 202)
    result = run("network", "add", "blue", "--wait")
    assert result.exit_code == 6
    assert result.stdout == "id   blue\nvni  4096\nnot applied yet on c2\n"


def test_backup_is_written_whole_and_private(run: Run, scripted: Scripted, tmp_path: Path) -> None:
    scripted.says("GET", "/backup", b"\0\1\2")
    target = tmp_path / "b"
    assert run("backup", str(target)).exit_code == 0
    assert target.read_bytes() == b"\0\1\2"
    assert target.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert run("backup", str(tmp_path / "no" / "b")).exit_code == 2
    assert run("backup", "-").stdout_bytes == b"\0\1\2"


def test_restore_asks(run: Run, scripted: Scripted, tmp_path: Path) -> None:
    scripted.says("POST", "/restore", b"")
    source = tmp_path / "b"
    source.write_bytes(b"\0\1")
    assert run("restore", str(source)).exit_code == 2
    assert scripted.asked == []
    assert run("restore", str(source), "--yes").exit_code == 0
    assert scripted.asked[-1].body == b"\0\1"


HELD = {"name": "c2", "phase": "braked", "reason": "80 of 90 flows would be deleted"}


def braked(scripted: Scripted, hold: str = "") -> None:
    ready = {"name": "c1", "phase": "ready"}
    scripted.says("GET", "/computes", {"computes": [ready, HELD]})
    scripted.says("GET", "/computes/c1", ready)
    scripted.says("GET", "/computes/openflow%3A2", HELD)
    scripted.says("GET", "/status", {"hold": hold})
    scripted.says("POST", "/reconcile", {"approved": True, "computes": ["c2"]})


def sent(scripted: Scripted) -> list[Any]:
    return [asked.body for asked in scripted.asked if asked.method == "POST"]


def test_approving_without_ids_says_what_is_held_and_approves_nothing(run: Run, scripted: Scripted) -> None:
    braked(scripted, "restored from a backup")
    for words in ((), ("--yes",)):
        result = run("reconcile", "--approve", *words)
        assert result.exit_code == 2
        assert result.stderr == (
            "everything is held: restored from a backup\n"
            "c2 is held: 80 of 90 flows would be deleted\n"
            "ebbtide: nothing was approved: name the computes that may go on, or say --all for every one\n"
        )
    assert sent(scripted) == []


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(("--all",), []), (("openflow:2",), ["openflow:2"]), (("c1", "openflow:2"), ["c1", "openflow:2"])],
)
def test_approving_says_what_is_held_and_asks(
    run: Run, scripted: Scripted, words: tuple[str, ...], wanted: list[str]
) -> None:
    braked(scripted)
    result = run("reconcile", "--approve", *words)
    assert result.exit_code == 2
    assert "c2 is held: 80 of 90 flows would be deleted\n" in result.stderr
    assert ("c1 is not held: it is ready\n" in result.stderr) == ("c1" in words)
    assert result.stderr.endswith("nothing was approved: there is nobody to ask; say --yes\n")
    assert sent(scripted) == []
    result = run("reconcile", "--approve", *words, "--yes")
    assert (result.exit_code, result.stdout) == (0, "approved: c2\n")
    assert sent(scripted) == [{"approve": True, "computes": wanted}]


@pytest.mark.parametrize(
    ("words", "hold", "answer", "wanted"),
    [
        # What is braked while the question is open was not shown, and is not approved.
        (("--all",), "", "y", [["c2"]]),
        (("--all",), "restored from a backup", "y", [[]]),
        (("--all",), "", "n", []),
        (("c1", "openflow:2"), "", "y", [["c1", "openflow:2"]]),
        (("openflow:2",), "", "n", []),
    ],
)
def test_the_question_on_a_terminal(
    scripted: Scripted, words: tuple[str, ...], hold: str, answer: str, wanted: list[list[str]]
) -> None:
    braked(scripted, hold)
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        command = [sys.executable, "-m", "ebbtide", "reconcile", "--approve", *words]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=30, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "c2 is held: 80 of 90 flows would be deleted\n" in done.stderr
    asked = "Let everything go on?" if hold else "Let 1 held compute go on?"
    assert asked in done.stderr
    assert done.returncode == (0 if answer == "y" else 1)
    assert sent(scripted) == [{"approve": True, "computes": ids} for ids in wanted]


def test_where_nothing_is_held_there_is_nothing_to_ask(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/computes", {"computes": []})
    scripted.says("GET", "/computes/c1", {"name": "c1", "phase": "ready"})
    scripted.says("GET", "/status", {"hold": ""})
    for words in (("--all",), ("c1",)):
        result = run("reconcile", "--approve", *words)
        assert (result.exit_code, result.stdout) == (0, "approved: none; no compute is held or named so\n")
        assert json.loads(run("reconcile", "--approve", *words, "--json").stdout) == {"approved": True, "computes": []}
    scripted.refuses("GET", "/computes/c9", 404, "data-missing", "there is no c9")
    assert run("reconcile", "--approve", "c1", "c9").exit_code == 3
    assert sent(scripted) == []


@pytest.mark.parametrize("words", [("--all",), ("--approve", "--all", "c1"), ("--all", "c1", "--yes")])
def test_all_goes_with_approve_alone(run: Run, scripted: Scripted, words: tuple[str, ...]) -> None:
    assert run("reconcile", *words).exit_code == 2
    assert scripted.asked == []


def test_adopt_says_what_it_changes_and_asks(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/computes/c9", {"name": "c9", "phase": "foreign", "reason": "12 flows of another controller"})
    result = run("compute", "adopt", "c9")
    assert result.exit_code == 2
    assert "c9 is foreign: 12 flows of another controller" in result.stderr
    assert [a.method for a in scripted.asked] == ["GET"]


def test_adopting_who_waits_says_to_approve_first(run: Run, scripted: Scripted) -> None:
    scripted.says("GET", "/computes/c9", {"name": "c9", "membership": "waiting", "phase": "waiting"})
    for words in ((), ("--yes",)):
        result = run("compute", "adopt", "c9", *words)
        assert result.exit_code == 4
        assert "approve it first" in result.stderr
    assert {a.method for a in scripted.asked} == {"GET"}


def test_events_are_followed(run: Run, scripted: Scripted) -> None:
    stream = b': hello\n\nid: 1\nevent: compute\ndata: {"name":"c1"}\n\nevent: state\ndata: {}\n\n'
    scripted.says("GET", "/events", stream)
    result = run("events")
    assert result.stdout == 'compute  {"name":"c1"}\nstate  {}\n'
    assert (result.exit_code, result.stderr) == (5, f"ebbtide: {scripted.url} has gone, and its events with it\n")
    assert run("events", "--count", "1", "--json").stdout == '{"name":"c1"}\n'


def test_a_url_that_is_said_wins_over_the_lab_of_the_environment(
    run: Run, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBBTIDE_LAB", "nosuch")
    scripted.says("GET", "/status", {"leading": True})
    assert run("status").exit_code == 3
    assert run("status", "--url", scripted.url).exit_code == 0


def test_credentials_in_the_clear_are_warned_of() -> None:
    assert Client("http://192.0.2.1", authorization="Bearer x").readable
    assert not Client("https://192.0.2.1", authorization="Bearer x").readable
    assert not Client("http://127.0.0.1", authorization="Bearer x").readable
    assert not Client("http://192.0.2.1").readable
