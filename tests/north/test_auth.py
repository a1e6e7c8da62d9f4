"""Who may do what; what is written down of it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ebbtide.errors import BadInput
from ebbtide.north import auth
from ebbtide.north.audit_log import AuditLog, Line
from tests.north.site import Site

FILE = f"""
[[user]]
name = "admin"
password = "{auth.hash_secret("pass:word")}"
roles = ["operate"]

[[user]]
name = "lab"
password = "plain:lab"
roles = ["read"]

[[token]]
name = "ci"
value = "{auth.hash_token("t0ken")}"
roles = ["read", "force"]
"""


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


BEARER = {"Authorization": "Bearer t0ken"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "users.toml").write_text(FILE)
    site = Site(folder / "state", credentials=str(folder / "users.toml"))
    yield site
    site.stop()


def lines(site: Site) -> list[dict[str, Any]]:
    file = site.state_dir / "audit.log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


READ, WRITE, FORCE = ("GET", "/api/v1/status"), ("POST", "/api/v1/audit"), ("POST", "/api/v1/reconcile")


@pytest.mark.parametrize(
    ("headers", "answers"),
    [
        ({}, (401, 401, 401)),
        (basic("lab", "lab"), (200, 403, 403)),
        (basic("admin", "pass:word"), (200, 200, 403)),
        (BEARER, (200, 200, 200)),
        (basic("admin", "wrong"), (401, 401, 401)),
        (basic("nobody", "lab"), (401, 401, 401)),
        (basic("lab", ""), (401, 401, 401)),
        ({"Authorization": "Bearer wrong"}, (401, 401, 401)),
        ({"Authorization": "Bearer"}, (401, 401, 401)),
        ({"Authorization": "Basic ???"}, (401, 401, 401)),
        ({"Authorization": "Basic /w=="}, (401, 401, 401)),
        ({"Authorization": "Basic \xe9"}, (401, 401, 401)),
        ({"Authorization": "Basic \xe9Q=="}, (401, 401, 401)),
        ({"Authorization": "Bearer \xe9"}, (401, 401, 401)),
        ({"Authorization": "\xff\xfe \xe9"}, (401, 401, 401)),
        ({"Authorization": "Digest x"}, (401, 401, 401)),
        ({"Authorization": "bearer t0ken"}, (200, 200, 200)),
    ],
)
def test_the_matrix(guarded: Site, headers: dict[str, str], answers: tuple[int, int, int]) -> None:
    bodies = (None, None, {"approve": True})
    found = []
    for (method, path), body in zip((READ, WRITE, FORCE), bodies, strict=True):
        answer = guarded.ask(method, path, body, headers=headers)
        found.append(answer.status)
        if answer.status == 401:
            assert answer.headers["www-authenticate"].startswith('Basic realm="ebbtide"')
            assert answer.json["error"]["tag"] == "access-denied"
    assert tuple(found) == answers


@pytest.mark.parametrize("path", ["/api/v1/audit", "/rests/operations/scalein-api:scalein-computes-start"])
def test_credentials_that_a_browser_sends_along_are_no_leave_for_other_pages(guarded: Site, path: str) -> None:
    own = f"controller.example:{guarded.port}"
    a = guarded.compute()
    before = guarded.state.revision
    body = {"scalein-api:input": {"scalein-node-ids": [a.name]}} if "rests" in path else {}
    for origin in ("http://evil.example", "null", f"http://evil.example:{guarded.port}", "http://controller.example"):
        answer = guarded.ask("POST", path, body, headers={**BEARER, "Host": own, "Origin": origin})
        assert answer.status == 403, origin
    assert guarded.state.revision == before
    for origin in (f"http://{own}", f"https://{own.upper()}"):
        assert guarded.ask("POST", path, body, headers={**BEARER, "Host": own, "Origin": origin}).status < 300
    assert guarded.get("/api/v1/status", **BEARER, Host=own, Origin="http://evil.example").status == 200
    assert guarded.ask("POST", path, body, headers={"Host": own, "Origin": f"http://{own}"}).status == 401


def test_restconf_speaks_its_own_errors(guarded: Site) -> None:
    for path, name in (("/rests/data", "ietf-restconf:errors"), ("/restconf/config/x:y", "errors")):
        answer = guarded.get(path)
        assert (answer.status, answer.json[name]["error"][0]["error-tag"]) == (401, "access-denied")
    path = "/rests/operations/scalein-api:scalein-computes-start"
    answer = guarded.ask("POST", path, {"input": {"scalein-node-ids": ["a"]}}, headers=basic("lab", "lab"))
    assert (answer.status, answer.errors[0]["error-tag"]) == (403, "access-denied")


def test_adopting_takes_force(guarded: Site) -> None:
    a = guarded.compute()
    path = f"/api/v1/computes/{a.name}/adopt"
    assert guarded.ask("POST", path, headers=basic("admin", "pass:word")).status == 403
    assert guarded.ask("POST", path, headers=BEARER).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "externals/x"),
        ("DELETE", "externals/x"),
        ("PUT", "routers/r"),
        ("PATCH", "routers/r"),
        ("DELETE", "routers/r"),
        ("POST", "routers/r/attach"),
        ("POST", "routers/r/detach"),
        ("PUT", "floating-ips/x/203.0.113.9"),
        ("DELETE", "floating-ips/x/203.0.113.9"),
    ],
)
def test_routers_are_changed_by_who_may_operate(guarded: Site, method: str, path: str) -> None:
    assert guarded.ask(method, f"/api/v1/{path}", {}, headers=basic("lab", "lab")).status == 403
    assert guarded.ask(method, f"/api/v1/{path}", {}).status == 401
    assert guarded.ask(method, f"/api/v1/{path}", {}, headers=basic("admin", "pass:word")).status not in (401, 403)
    assert guarded.get("/api/v1/routers", **basic("lab", "lab")).status == 200
    assert (lines(guarded)[-1]["method"], lines(guarded)[-1]["path"]) == (method, f"/api/v1/{path}")


def test_backup_and_restore_take_force(guarded: Site) -> None:
    admin, kind = basic("admin", "pass:word"), {"Content-Type": "application/octet-stream"}
    assert guarded.get("/api/v1/backup", **admin).status == 403
    assert guarded.get("/api/v1/backup", **BEARER).status == 200
    assert guarded.ask("POST", "/api/v1/restore", raw=b"x", headers={**admin, **kind}).status == 403
    assert guarded.ask("POST", "/api/v1/restore", raw=b"x", headers={**BEARER, **kind}).status == 400


def test_health_needs_nobody_and_metrics_somebody(guarded: Site) -> None:
    assert guarded.get("/healthz").status == 200
    assert guarded.get("/readyz").status == 200
    assert guarded.get("/metrics").status == 401
    assert guarded.get("/metrics", **basic("lab", "lab")).status == 200


def test_every_write_is_written_down(guarded: Site) -> None:
    a = guarded.compute()
    path = "/rests/operations/scalein-api:scalein-computes-start"
    body = {"input": {"scalein-node-ids": [a.name]}}
    before = len(lines(guarded))
    assert guarded.ask("POST", path, body, headers=basic("admin", "pass:word")).status == 204
    assert guarded.ask("POST", path, body).status == 401
    assert guarded.ask("POST", path, body, headers=basic("lab", "lab")).status == 403
    assert guarded.ask("POST", path, raw=b"{", headers=BEARER).status == 400
    assert guarded.ask("PUT", path, headers=BEARER).status == 405
    guarded.get("/api/v1/status", **BEARER)
    done, nobody, reader, broken, wrong = lines(guarded)[before:]
    assert done["who"] == "admin"
    assert done["source"].startswith("127.0.0.1:")
    assert (done["method"], done["path"], done["status"]) == ("POST", path, 204)
    assert done["ids"] == [a.name]
    assert done["digest"] == sha256(json.dumps(body).encode()).hexdigest()
    assert done["revision"] == guarded.state.revision
    assert done["when"].endswith("Z")
    assert [(x["who"], x["status"]) for x in (nobody, reader, broken, wrong)] == [
        ("", 401),
        ("lab", 403),
        ("ci", 400),
        ("ci", 405),
    ]


def test_a_header_does_not_say_where_a_write_came_from(guarded: Site) -> None:
    said = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Forwarded": "for=203.0.113.9"}
    assert guarded.ask("POST", "/api/v1/audit", headers={**BEARER, **said}).status == 200
    assert lines(guarded)[-1]["source"].startswith("127.0.0.1:")


def test_the_log_holds_no_secrets(guarded: Site) -> None:
    guarded.ask("POST", "/api/v1/audit", headers=basic("admin", "s3cret"))
    text = (guarded.state_dir / "audit.log").read_text()
    assert "s3cret" not in text
    assert "pass:word" not in text
    assert os.stat(guarded.state_dir / "audit.log").st_mode & 0o007 == 0


def test_a_line_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "none" / "audit.log", lambda: "now")
    log.append(Line("now", "me", "", "POST", "/", "", [], 200, 1))
    assert log.lost == 1


# --- open: loopback only ---


def test_a_web_page_may_not_write_through_its_readers_browser(site: Site) -> None:
    own = {"Host": f"127.0.0.1:{site.port}"}
    for origin, status in (("http://evil.example", 403), (f"http://127.0.0.1:{site.port}", 200), ("null", 403)):
        assert site.ask("POST", "/api/v1/audit", headers={**own, "Origin": origin}).status == status
    assert site.ask("GET", "/api/v1/status", headers={**own, "Origin": "http://evil.example"}).status == 200
    assert site.ask("POST", "/api/v1/audit", headers={"Host": "", "Origin": "null"}).status == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8181", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8181", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("evil.example:8181", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_a_name_that_was_rebound_is_refused(site: Site, host: str, status: int) -> None:
    assert site.ask("GET", "/api/v1/status", headers={"Host": host}).status == status


def test_insecure_is_shown_and_takes_any_name(make_site: Callable[..., Site]) -> None:
    site = make_site(insecure=True)
    assert site.ask("GET", "/api/v1/status", headers={"Host": "controller.example"}).json["insecure"] is True


# --- the file ---


def test_hashes() -> None:
    made = auth.hash_secret("secret")
    assert made != auth.hash_secret("secret"), "salted"
    assert auth.matches("secret", made)
    assert not auth.matches("Secret", made)
    assert auth.matches("secret", auth.hash_token("secret"))
    assert auth.matches("gehä", "plain:gehä")
    assert not auth.matches("x", "plain:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[user]]",
        "not toml",
        '[[user]]\nname = "a"\npassword = "clear"\nroles = ["read"]',
        '[[user]]\nname = "a"\npassword = "scrypt$x"\nroles = ["read"]',
        '[[user]]\nname = "a"\npassword = "scrypt$a$b$c"\nroles = ["read"]',
        '[[token]]\nname = "a"\nvalue = "sha256$zz"\nroles = ["read"]',
        '[[user]]\nname = "a"\npassword = "plain:x"\nroles = ["root"]',
        '[[user]]\nname = "a"\npassword = "plain:x"\nroles = []',
        '[[user]]\nname = "a"\npassword = "plain:x"\nroles = ["read"]\nshell = "sh"',
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users.toml"
    file.write_text(text)
    with pytest.raises(BadInput, match="credentials"):
        auth.Credentials(str(file))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"users\.toml"):
        auth.Credentials(str(tmp_path / "users.toml"))
