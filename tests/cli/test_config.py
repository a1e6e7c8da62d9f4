"""Settings: from where they come, which of them counts, and which are refused."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebbtide.config import Config, load
from ebbtide.errors import BadInput
from tests.cli.controllers import Run
from tests.support.certificates import certificate


def file_of(directory: Path, text: str) -> str:
    file = directory / "ebbtide.toml"
    file.write_text(text)
    return str(file)


# --- from where ---


def test_every_kind_of_value_is_read_from_a_file(tmp_path: Path) -> None:
    text = """
        state_dir = "/srv/ebbtide"
        store = "tcp:192.0.2.1:6641, tcp:[2001:db8::1]:6641"
        insecure = true
        lag = 2
        silence = inf
        bfd_interval_ms = 300
        log_level = "debug"
    """
    found = load({}, file_of(tmp_path, text), {})
    wanted = {
        "state_dir": "/srv/ebbtide",
        "store": "tcp:192.0.2.1:6641, tcp:[2001:db8::1]:6641",
        "insecure": True,
        "lag": 2.0,
        "silence": math.inf,
        "bfd_interval_ms": 300,
        "log_level": "debug",
    }
    assert found == Config(**wanted)
    assert found.remotes() == ["tcp:192.0.2.1:6641", "tcp:[2001:db8::1]:6641"]


def test_every_kind_of_value_is_read_from_the_environment() -> None:
    environment = {
        "EBBTIDE_STATE_DIR": "/srv/ebbtide",
        "EBBTIDE_STORE": "unix:/run/store.sock",
        "EBBTIDE_INSECURE": "true",
        "EBBTIDE_LAG": "0.5",
        "EBBTIDE_BFD_INTERVAL_MS": "300",
        "EBBTIDE_LOG_FORMAT": "json",
        "EBBTIDE_URL": "of the command line, not ours",
        "LAG": "not ours either",
    }
    wanted = {"state_dir": "/srv/ebbtide", "store": "unix:/run/store.sock", "insecure": True, "lag": 0.5}
    assert load({}, None, environment) == Config(**wanted, bfd_interval_ms=300, log_format="json")


def test_every_setting_can_come_from_each_place(tmp_path: Path) -> None:
    cert, key = map(str, certificate(tmp_path))
    users = tmp_path / "users.toml"
    users.touch()
    wanted: dict[str, Any] = {
        "state_dir": "/srv/ebbtide",
        "store": "unix:/run/store.sock",
        "ovsdb_listen": "pssl:6641:192.0.2.1",
        "openflow_listen": "pssl:6654:192.0.2.1",
        "ssl_cert": cert,
        "ssl_key": key,
        "ssl_ca": cert,
        "http": "192.0.2.1:8443",
        "http_cert": cert,
        "http_key": key,
        "credentials": str(users),
        "insecure": True,
        "admission": "open",
        "lag": 2.5,
        "silence": 61.5,
        "unreachable_grace": 301.5,
        "nat_patience": 302.5,
        "drain_share": 0.25,
        "loss_after": 62.5,
        "bfd_interval_ms": 101,
        "audit_wait": 31.5,
        "subnet_route_punt_timeout": 11,
        "log_format": "text",
        "log_level": "error",
    }
    default = msgspec.structs.asdict(Config())
    assert [name for name in default if name not in wanted or wanted[name] == default[name]] == []
    file = file_of(tmp_path, "\n".join(f"{k} = {msgspec.json.encode(v).decode()}" for k, v in wanted.items()))
    environment = {f"EBBTIDE_{name.upper()}": str(value) for name, value in wanted.items()}
    assert load({}, file, {}) == load({}, None, environment) == load(wanted, None, {}) == Config(**wanted)


@pytest.mark.parametrize(
    ("flag", "environment", "file", "wanted"),
    [
        (None, None, None, 60.0),
        (None, None, "11", 11.0),
        (None, "22", None, 22.0),
        (None, "22", "11", 22.0),
        ("33", None, None, 33.0),
        ("33", None, "11", 33.0),
        ("33", "22", None, 33.0),
        ("33", "22", "11", 33.0),
        ("0", "22", "11", 0.0),
    ],
)
def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, flag: str | None, environment: str | None, file: str | None, wanted: float
) -> None:
    text = f"silence = {file}\n" if file else "lag = 3.0\n"
    given = {"EBBTIDE_SILENCE": environment} if environment else {}
    assert load({"silence": flag, "lag": None}, file_of(tmp_path, text), given).silence == wanted


def test_a_bad_value_that_is_overridden_is_no_fault(tmp_path: Path) -> None:
    assert load({"admission": "open"}, file_of(tmp_path, 'admission = "x"'), {"EBBTIDE_ADMISSION": "y"}) == Config(
        admission="open"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"lag = ",
        b"colour = 'red'",
        b"[section]\nlag = 1",
        b"lag = [1]",
        b"insecure = 'perhaps'",
        b"bfd_interval_ms = 1.5",
        b"\xff\xfe",
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ebbtide.toml"
    file.write_bytes(content)
    with pytest.raises(BadInput):
        load({}, str(file), {})
    with pytest.raises(BadInput, match="No such file"):
        load({}, str(tmp_path / "none.toml"), {})


# --- which values ---


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("state_dir", [""], "a directory"),
        (
            "store",
            [
                *("ssl:192.0.2.1:6641", "tcp:1.2.3.4", "tcp:", "tcp::6641", "tcp:1.2.3.4:0", "tcp:1.2.3.4:70000"),
                *("tcp:2001:db8::1", "tcp:2001:db8::1:6641", "tcp:a:b", "unix:", "192.0.2.1:6641", "tcp:[]:6641"),
                "tcp:1.2.3.4:6641,ssl:1.2.3.5:6641",
            ],
            "tcp:ADDRESS:PORT",
        ),
        ("store", [",", " "], "names no store"),
        ("ovsdb_listen", ["6640", "tcp:6640", "ptcp:", "ptcp:x", "ptcp:65536", "ptcp:²"], "ptcp:PORT"),
        ("openflow_listen", ["ssl:6653"], "ptcp:PORT"),
        ("ovsdb_listen", ["pssl:6640"], "ssl_cert, ssl_key and ssl_ca"),
        ("http", ["8181", ":8181", "127.0.0.1:", "127.0.0.1:70000"], "ADDRESS:PORT"),
        ("http", ["192.0.2.1:8181", "0.0.0.0:8181"], "not loopback"),
        ("admission", ["", "Open"], "open or approve"),
        ("lag", [-1.0, -0.001, math.nan, math.inf], "0 or more"),
        ("silence", [-1.0, math.nan, -math.inf], "0 or more, or inf"),
        ("unreachable_grace", [-1.0, math.nan], "0 or more, or inf"),
        ("drain_share", [-0.1, 1.1, math.nan], "0 to 1"),
        ("loss_after", [-1.0, math.nan], "0 or more, or inf"),
        ("subnet_route_punt_timeout", [-1, 601], "0 (no hold-off) to 600"),
        ("audit_wait", [-1.0, math.nan, math.inf], "0 or more"),
        ("bfd_interval_ms", [0, -100, 60_001], "1 to 60000"),
        ("log_format", ["", "xml"], "auto, json or text"),
        ("log_level", ["", "verbose", "notset"], "debug, info, warning or error"),
    ],
)
def test_what_is_refused_says_which_and_what_is_allowed(name: str, values: list[Any], words: str) -> None:
    for value in values:
        with pytest.raises(BadInput) as caught:
            Config(**{name: value}).check()
        assert words in str(caught.value), value
        assert name in str(caught.value) or words.startswith("ssl_cert"), value


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lag": 0.0, "audit_wait": 0.0, "silence": math.inf, "unreachable_grace": math.inf},
        {"store": "unix:/run/a:b.sock"},
        {"store": "tcp:store.example:6641"},
        {"bfd_interval_ms": 1},
        {"http": "[::1]:8181"},
        {"http": "0.0.0.0:8181", "insecure": True},
    ],
)
def test_what_is_taken(settings: dict[str, Any]) -> None:
    assert Config(**settings).check() == Config(**settings)


def test_certificate_and_key_of_the_rest_interface_are_read_at_the_start(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, other_key = certificate(other)
    locked, garbage, none = tmp_path / "locked.pem", tmp_path / "garbage.pem", tmp_path / "none.pem"
    subprocess.run(["openssl", "rsa", "-in", key, "-aes128", "-passout", "pass:x", "-out", locked], check=True)
    garbage.write_text("no certificate")
    assert Config(http_cert=str(cert), http_key=str(key)).check()
    for given, words in (
        ((cert, None), "go together"),
        ((None, key), "go together"),
        ((none, key), f"http_cert = '{none}' cannot be read: No such file"),
        ((cert, none), f"http_key = '{none}' cannot be read: No such file"),
        ((cert, tmp_path), "Is a directory"),
        ((garbage, key), "cannot be used"),
        ((cert, garbage), "cannot be used"),
        ((cert, other_key), "cannot be used"),
        ((cert, locked), "without a passphrase"),
    ):
        with pytest.raises(BadInput) as caught:
            Config(**dict(zip(("http_cert", "http_key"), (str(x or "") for x in given), strict=True))).check()
        assert words in str(caught.value)


def test_certificate_key_and_authority_for_computes_are_read_at_the_start(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    garbage, none = tmp_path / "garbage.pem", tmp_path / "none.pem"
    garbage.write_text("no certificate")
    good = {"ssl_cert": str(cert), "ssl_key": str(key), "ssl_ca": str(cert)}
    assert Config(ovsdb_listen="pssl:6640", **good).check()
    for name in good:
        with pytest.raises(BadInput, match=f"{name} = '{none}' cannot be read: No such file"):
            Config(openflow_listen="pssl:6653", **{**good, name: str(none)}).check()
        with pytest.raises(BadInput, match=f"'{garbage}'.* cannot be used"):
            Config(openflow_listen="pssl:6653", **{**good, name: str(garbage)}).check()
    assert Config(ssl_cert=str(none)).check(), "nobody looks at it"


def test_the_file_of_credentials_is_read_at_the_start(tmp_path: Path) -> None:
    for given, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BadInput, match=f"credentials = '{given}' cannot be read: {words}"):
            Config(credentials=str(given)).check()


@pytest.mark.parametrize(
    "words",
    [
        ("--credentials", "/nonexistent/users.toml"),
        ("--ssl-cert", "/none.pem", "--ssl-key", "/dev/null", "--ssl-ca", "/dev/null", "--ovsdb-listen", "pssl:0"),
        ("--store", "ssl:192.0.2.1:6641"),
        ("--store", "tcp:1.2.3.4"),
        ("--lag", "-1"),
        ("--silence", "nan"),
        ("--bfd-interval-ms", "0"),
        ("--log-level", "verbose"),
        ("--log-format", "xml"),
        ("--http-cert", "/nonexistent/cert.pem", "--http-key", "/nonexistent/key.pem"),
    ],
)
def test_the_controller_ends_with_a_message_and_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    result = run("controller", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"ebbtide: {words[0][2:].replace('-', '_')} = ")
