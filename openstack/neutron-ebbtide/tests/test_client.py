"""What answers is no controller, or lies: the driver takes it for one that is away, whatever it says."""

from __future__ import annotations

import json
import subprocess

import pytest

from ebbtide.errors import NotReady
from ebbtide.lab.cloud.files import environment

#: In the driver's environment: a server that gives each answer, and what the client makes of it.
_ASKS = """
import http.server, json, sys, threading
from oslo_config import cfg
from neutron_ebbtide import client, config, errors

answers = json.load(sys.stdin)
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if now.startswith("<") else "application/json")
        self.end_headers()
        self.wfile.write(now.encode())
    do_GET = do_POST = answer
    def log_message(self, *words): pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
config.register()
cfg.CONF.set_override("url", f"http://127.0.0.1:{server.server_port}", "ebbtide")
asked = client.Client()
does = {
    "known": lambda: asked.known("networks"),
    "post": lambda: asked.post("networks", [b"{}"]),
    "hosts": lambda: asked.hosts(),
    "ports": lambda: asked.ports(["p1"]),
    "events": lambda: list(asked.events()),
}
found = {}
for now in answers:
    for name, ask in does.items():
        try:
            ask()
            found[f"{name}: {now[:20]}"] = "taken"
        except (errors.Away, errors.Refused) as error:
            pass
        except Exception as error:
            found[f"{name}: {now[:20]}"] = repr(error)
print(json.dumps(found))
"""


def test_an_answer_that_is_none_is_nobodys() -> None:
    try:
        python = environment() / "bin" / "python"
    except NotReady as error:
        pytest.skip(str(error))
    kinds = ("networks", "hosts", "ports")
    odd = (None, 5, [1], [[]], [{}], [{"id": None, "host": None}], {"id": "n1"})
    answers = ["", "null", "5", "[]", "{}", "<html>", '{"networks": [', "[" * 100_000]
    answers += [json.dumps(dict.fromkeys(kinds, each)) for each in odd]
    done = subprocess.run(
        [str(python), "-c", _ASKS], input=json.dumps(answers), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
