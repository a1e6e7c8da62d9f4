"""The controller's REST interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import requests
from oslo_config import cfg

from neutron_ebbtide import config

ROOT = "/controller/nb/v2/neutron"


class Away(Exception):
    """The controller does not answer, or cannot now: everything waits."""


class Refused(Exception):
    """The controller says no, in its own words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Client:
    """One connection, for one thread."""

    def __init__(self, options: Any = None) -> None:
        self._options = options if options is not None else config.register(cfg.CONF)
        self._session = requests.Session()
        if self._options.username:
            self._session.auth = (self._options.username, self._options.password)
        if self._options.cacert:
            self._session.verify = self._options.cacert

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One call; the decoded answer, None without one.

        Raises:
            Away: nobody answers, or says "not now".
            Refused: the answer is an error.
        """
        data = None if body is None else json.dumps(body, default=str)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            answer = self._session.request(
                method, self._options.url.rstrip("/") + path, data=data, headers=headers, timeout=self._options.timeout
            )
        except requests.RequestException as error:
            raise Away(str(error)) from None
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Away(_words(answer))
        if answer.status_code >= 400:
            raise Refused(answer.status_code, _words(answer))
        return answer.json() if answer.content else None

    def post(self, kind: str, bodies: list[dict[str, Any]]) -> None:
        """Say several of one kind, all or none."""
        self.ask("POST", f"{ROOT}/{kind}", {kind.replace("-", "_"): bodies})

    def delete(self, kind: str, object_id: str) -> None:
        """Take one away; it may be gone already."""
        try:
            self.ask("DELETE", f"{ROOT}/{kind}/{object_id}")
        except Refused as error:
            if error.status != 404:
                raise

    def known(self, kind: str) -> dict[str, int]:
        """Ids of what the controller has, and the revisions that it was told (-1: none)."""
        found = self.ask("GET", f"{ROOT}/{kind}")[kind.replace("-", "_")]
        return {each["id"]: int(each.get("revision_number", -1)) for each in found}

    def hosts(self) -> list[dict[str, Any]]:
        """Every member's host."""
        return list(self.ask("GET", "/api/v1/neutron/hosts")["hosts"])

    def ports(self, ids: list[str] | None = None) -> list[dict[str, Any]]:
        """How far ports have come; all without ids."""
        path = "/api/v1/neutron/ports" + ("" if ids is None else f"?ids={','.join(ids)}")
        return list(self.ask("GET", path)["ports"])

    def events(self, silence: float = 40.0) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and facts of each event, from now on; ("", {}) at the start. It ends when the controller does.

        Raises:
            Away: it does not answer, or is silent for that long (it says something each quarter of a minute).
        """
        url = self._options.url.rstrip("/") + "/api/v1/events?kinds=neutron-port,compute"
        kind = ""
        try:
            timeouts = (self._options.timeout, silence)
            with self._session.get(
                url, stream=True, timeout=timeouts, headers={"Accept": "text/event-stream"}
            ) as answer:
                if answer.status_code >= 400:
                    raise Away(_words(answer))
                yield "", {}
                for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                    name, _, value = line.partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        yield kind, json.loads(value)
        except (requests.RequestException, ValueError) as error:
            raise Away(str(error)) from None


def _words(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.reason}"
