"""How soon the command line answers: wall time of the whole process, against a running controller."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ebbtide.lab.commands import wait_until

from .rows import Options, Row, median, spread

RUNS = 10


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    numbers = [int(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return numbers


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def run(options: Options) -> Iterator[Row]:
    """Rows."""
    program = str(Path(sys.executable).parent / "ebbtide")
    ovsdb, openflow, http = _free_ports(3)
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as folder:
        command = [program, "controller", "--state-dir", folder, "--http", f"127.0.0.1:{http}"]
        command += ["--ovsdb-listen", f"ptcp:{ovsdb}:127.0.0.1", "--openflow-listen", f"ptcp:{openflow}:127.0.0.1"]
        controller = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: _listens(http), "the controller's HTTP", 20)
            environment = {**os.environ, "EBBTIDE_URL": f"http://127.0.0.1:{http}"}
            for words in (["--help"], ["computes"]):
                taken = []
                for _ in range(RUNS + 1):
                    begun = time.perf_counter()
                    done = subprocess.run(
                        [program, *words], env=environment, capture_output=True, text=True, check=False
                    )
                    taken.append(time.perf_counter() - begun)
                    assert done.returncode == 0, done.stderr
                # The first one may have to write byte code.
                name = f"start: `ebbtide {' '.join(words)}`, whole process"
                yield Row(name, median(taken[1:]), "s", None, 0.2, spread(taken[1:], unit=" s"))
        finally:
            controller.terminate()
            controller.wait(20)
