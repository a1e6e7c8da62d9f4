"""`ebbtide mover`: what is wrong with its settings is said before it begins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ebbtide.errors import NotReady
from ebbtide.openstack.nova import Cloud
from tests.cli.controllers import Scripted

SECRET = "hunter2"
#: Of a cloud where nobody is.
CLOUD = {
    "OS_AUTH_URL": f"http://admin:{SECRET}@127.0.0.1:1/v3",
    "OS_USERNAME": "admin",
    "OS_PASSWORD": SECRET,
    "OS_PROJECT_NAME": "admin",
}


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        (("nova",), {}, "it is not known where the cloud is"),
        (("nova", "--at-once", "0"), {}, "--at-once 0: 1 to"),
        (("xen",), {}, "xen"),
        (("nova", "--url", f"https://neutron:{SECRET}@192.0.2.1"), CLOUD, "EBBTIDE_USER and EBBTIDE_PASSWORD"),
        (("nova", "--url", f"neutron:{SECRET}@192.0.2.1:x"), CLOUD, "EBBTIDE_USER and EBBTIDE_PASSWORD"),
        (("nova", "--url", "https://192.0.2.1:x"), CLOUD, "'https://192.0.2.1:x' is no URL"),
        (("nova", "--url", "https://192.0.2.1", "--cacert", "/missing.pem"), CLOUD, "--cacert /missing.pem: [Errno 2]"),
        (("nova",), {**CLOUD, "EBBTIDE_TOKEN": f"{SECRET}\x01{SECRET}"}, "EBBTIDE_TOKEN has a character"),
    ],
)
def test_a_mover_that_cannot_work_ends_at_once(options: tuple[str, ...], given: dict[str, str], words: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OS_")} | given
    command = [sys.executable, "-m", "ebbtide", "mover", *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr


def test_a_mover_says_who_does_not_answer_and_no_password(scripted: Scripted) -> None:
    scripted.says("GET", "/drains", {"operations": []})
    scripted.says("GET", "/neutron/hosts", {"hosts": []})
    env = {**os.environ, **CLOUD, "EBBTIDE_TOKEN": f"{SECRET}\n"}
    command = [sys.executable, "-m", "ebbtide", "mover", "nova", "--log-format", "json", "--url", scripted.url]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            lines = []
            for line in running.stderr:
                lines.append(line)
                if "nova_waits" in line:
                    break
        finally:
            running.kill()
    assert "http://127.0.0.1:1/v3" in lines[-1]
    assert SECRET not in "".join(lines)
    assert "Traceback" not in "".join(lines)
    assert scripted.asked[0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.filterwarnings("ignore:Support for InfluxDB")
def test_a_cloud_that_cannot_be_reached_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLOUD.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotReady, match=r"http://127\.0\.0\.1:1/v3") as caught:
        Cloud().services()
    assert SECRET not in str(caught.value)
