"""Backup and restore over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection

from ebbtide.model.facts import Operation
from tests.north.site import Site


def exchange(site: Site, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", site.port, timeout=20)
    headers = {"Content-Type": "application/octet-stream"} if body is not None else {}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_a_backup_comes_back_whole_and_under_a_new_store_id(make_site: Callable[..., Site]) -> None:
    site = make_site()
    a = site.compute()
    status, backup = exchange(site, "GET", "/api/v1/backup")
    assert status == 200
    before = site.state
    site.call(site.app.service.add_network("later", ["10.9.0.0/24"]))
    status, _ = exchange(site, "POST", "/api/v1/restore", backup)
    assert status == 200
    assert "later" not in site.state.networks
    assert site.state.computes == before.computes
    assert site.state.store_id != before.store_id
    assert site.state.revision > before.revision
    assert a.number in site.state.computes
    assert "approve" in site.get("/api/v1/status").json["hold"]


def test_an_operation_of_a_backup_does_not_go_on(make_site: Callable[..., Site]) -> None:
    """Nobody has asked for it in this time: it is over, and says why."""
    site = make_site()
    a = site.compute()
    going = Operation("one", "loss", (a.number,), "running", "2 VMs to go")
    site.put(going, Operation("two", "end", (a.number,), "done", "residue 0"))
    backup = exchange(site, "GET", "/api/v1/backup")[1]
    assert exchange(site, "POST", "/api/v1/restore", backup)[0] == 200
    found = site.state.operations
    assert (found["one"].state, found["two"].state) == ("failed", "done")
    assert "restore while 2 VMs to go" in found["one"].reason


def test_what_is_no_backup_changes_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.compute()
    backup = exchange(site, "GET", "/api/v1/backup")[1]
    before = site.state
    cut = b"\n".join(backup.splitlines()[:-1])
    for bad in (
        b"",
        b"nonsense",
        b"{}",
        cut,
        backup.replace(b'"number":', b'"nummer":'),
        b'{"ebbtide-backup":1,"schema":"9.0.0","facts":0}',
        b"\xff\xfe\x00",
        backup.replace(b'"name":"', b'"name":"\xff'),
        backup + b"\xff\n",
        backup.splitlines()[0] + b"\n[]\n",
        backup.splitlines()[0] + b"\n" + b"[" * 100_000,
    ):
        assert exchange(site, "POST", "/api/v1/restore", bad)[0] == 400, bad[:60]
    assert site.state == before
