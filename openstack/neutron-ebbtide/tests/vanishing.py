"""A host that vanishes in the middle of what it asks of a database: the connections stay, and nothing comes over them any more."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path
from types import TracebackType


class Vanishing:
    """Between a client and the socket of its database: `path` is where the client connects. After `arm`, the first statement with
    these words in it is the last that is passed on, in either direction."""

    def __init__(self, database: Path, path: Path) -> None:
        self.path, self._database = path, database
        self._words = b""
        self._silent = False
        #: Set once that statement was done.
        self.gone = threading.Event()
        self._over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Vanishing:
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._begin(threading.Thread(target=self._listen))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for each in self._threads:
            each.join(10)
        self._listener.close()
        self.path.unlink()

    def arm(self, words: str) -> None:
        """From now on it is waited for these words."""
        self._words = words.encode()

    def _begin(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        self._listener.settimeout(0.1)
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self._begin(threading.Thread(target=self._pass_on, args=(client,)))

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as database:
            database.connect(str(self._database))
            database.settimeout(10)
            while not self._over.is_set():
                ready, _, _ = select.select([client, database], [], [], 0.1)
                for each in [] if self._silent else ready:
                    said = each.recv(65536)
                    if not said:
                        return
                    last = each is client and self._words and self._words in said
                    self._silent |= bool(last)
                    (database if each is client else client).sendall(said)
                    if last:
                        # What it answers shows that it is done, and is heard by nobody.
                        database.recv(65536)
                        self.gone.set()
                if self._silent:
                    self._over.wait()
