"""The controller's REST interface, reached inside a lab."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from typing import Any

from ebbtide.errors import EbbtideError, NotReady, Refused
from ebbtide.lab.commands import wait_until
from ebbtide.lab.lab import Lab

#: Answers that say "not now": who asks again may be served.
_LATER = (502, 503, 504)


class Api:
    """One request a call; a connection each."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def ask(self, method: str, path: str, body: object | None = None) -> Any:
        """One request; the decoded answer.

        Raises:
            Refused: the controller answered with an error.
            NotReady: it says that it cannot now.
            OSError: it does not answer, or dies in the middle of its answer.
        """
        connection = HTTPConnection("127.0.0.1", 8181, timeout=60)
        connection.sock = self._lab.connect("127.0.0.1", 8181)
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except HTTPException as error:
            raise ConnectionError(f"{method} {path}: the answer was cut: {error!r}") from error
        finally:
            connection.close()
        if answer.status in _LATER:
            raise NotReady(f"{method} {path}: {answer.status} {text}")
        if answer.status >= 400:
            raise Refused(f"{method} {path}: {answer.status} {text}")
        return json.loads(text) if text else None

    def wait_leading(self, deadline: float) -> None:
        """Until it leads; NotReady after `deadline` seconds."""

        def leads() -> bool:
            try:
                return bool(self.ask("GET", "/api/v1/status")["leading"])
            except (OSError, EbbtideError):
                return False

        wait_until(leads, "the controller to lead", deadline)

    def wait_ready(self, *names: str, deadline: float) -> None:
        """Until these computes are ready; NotReady after `deadline` seconds."""

        def ready() -> bool:
            found = {c["name"]: c["phase"] for c in self.ask("GET", "/api/v1/computes")["computes"]}
            return all(found.get(name) == "ready" for name in names)

        wait_until(ready, f"{', '.join(names)} to be ready", deadline)

    def rpc(self, verb: str, leaf: str, names: list[str]) -> None:
        """One of the spec's RPCs."""
        self.ask("POST", f"/rests/operations/scalein-api:{verb}", {"scalein-api:input": {leaf: names}})
