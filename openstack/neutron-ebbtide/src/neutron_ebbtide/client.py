"""The controller's REST interface."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import requests
from oslo_config import cfg

from neutron_ebbtide import config
from neutron_ebbtide.errors import Away, Lost, Refused
from neutron_ebbtide.objects import revision

ROOT = "/controller/nb/v2/neutron"
#: Bytes of one call; the controller takes a mebibyte.
MOST_BYTES = 900_000
#: What is read of each host, and of each port, that an answer lists; the first is its name.
_OF_HOSTS = ("host", "compute", "datapath", "ready", "tombstoned", "bridge-mappings")
_OF_PORTS = ("id", "status", "hosts")
#: Ports asked for in one call: their ids are part of its path.
MOST_PORTS = 100
#: Seconds without a word after which a stream of events is taken for dead; the controller says something each quarter of a minute.
SILENCE = 40.0


class Client:
    """One connection, for one thread. `writer`: the number that its owner writes under; 0: it only reads."""

    def __init__(self, options: Any = None) -> None:
        self._options = options if options is not None else config.register(cfg.CONF)
        self._url = self._options.url.rstrip("/")
        self._patience = config.patience(self._options)
        self.writer = 0
        self._session = requests.Session()
        # What the environment says of proxies and of other people's passwords is not meant for the controller.
        self._session.trust_env = False
        self._session.verify = self._options.cacert or True
        if self._options.token:
            self._session.headers["Authorization"] = f"Bearer {self._options.token}"
        elif self._options.username:
            self._session.auth = (self._options.username, self._options.password)

    def ask(self, method: str, path: str, data: bytes | None = None) -> Any:
        """One call; the decoded answer, None without one.

        Raises:
            Away: nobody answers, or says "not now".
            Lost: somebody with a higher number has written.
            Refused: the answer is another error.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.writer and method != "GET":
            headers["Ebbtide-Writer"] = str(self.writer)
        try:
            answer = self._session.request(
                method, self._url + path, data=data, headers=headers, timeout=self._patience, allow_redirects=False
            )
            found = answer.json() if answer.content else None
        except (OSError, ValueError, RecursionError) as error:
            # Whatever requests says of a call; a `cacert` that is not there, or cannot be read, is not among that.
            raise Away(self._discreet(error)) from None
        tag, words = _words(answer, found)
        # 401: credentials are being changed. What is ours to say stays so, and nothing of it is wrong.
        if answer.status_code in (401, 403):
            raise Away(
                f"it refuses our credentials ({answer.status_code}: {words}): see username, password, token in [ebbtide]"
            )
        if answer.status_code >= 500 or answer.status_code == 429:
            raise Away(words)
        if tag == "stale-writer":
            raise Lost(words)
        if answer.status_code >= 300:
            raise Refused(answer.status_code, words)
        return found

    def post(self, kind: str, bodies: Sequence[bytes]) -> dict[str, int]:
        """Say several of one kind, encoded; all or none. The revisions that the controller has of them now (-1: none).

        Raises:
            Away, Lost, Refused: see `ask`.
        """
        name = kind.replace("-", "_")
        found = self.ask("POST", f"{ROOT}/{kind}", b'{"%s":[%s]}' % (name.encode(), b",".join(bodies)))
        return {each["id"]: revision(each) for each in listed(found, name, "id")}

    def delete(self, kind: str, object_id: str) -> None:
        """Take one away; it may be gone already.

        Raises:
            Away, Lost, Refused: see `ask`.
        """
        try:
            self.ask("DELETE", f"{ROOT}/{kind}/{object_id}")
        except Refused as error:
            if error.status != 404:
                raise

    def known(self, kind: str) -> dict[str, dict[str, Any]]:
        """What the controller was told of a kind, by id."""
        found = self.ask("GET", f"{ROOT}/{kind}")
        return {each["id"]: each for each in listed(found, kind.replace("-", "_"), "id")}

    def hosts(self) -> list[dict[str, Any]]:
        """Every member's host."""
        return listed(self.ask("GET", "/api/v1/neutron/hosts"), "hosts", *_OF_HOSTS)

    def ports(self, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """How far ports have come; all without ids."""
        if ids is None:
            return listed(self.ask("GET", "/api/v1/neutron/ports"), "ports", *_OF_PORTS)
        found: list[dict[str, Any]] = []
        for at in range(0, len(ids), MOST_PORTS):
            path = f"/api/v1/neutron/ports?ids={','.join(ids[at : at + MOST_PORTS])}"
            found += listed(self.ask("GET", path), "ports", *_OF_PORTS)
        return found

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Kind and facts of each event, from now on; ("reset", {}) at the start, ("", {}) when there is nothing new. It ends when the
        controller does.

        Raises:
            Away: it does not answer, or is silent for long.
        """
        headers = {"Accept": "text/event-stream"}
        url = f"{self._url}/api/v1/events?kinds=neutron-port,compute"
        kind = ""
        try:
            waits = (self._patience, SILENCE)
            with self._session.get(url, stream=True, timeout=waits, headers=headers, allow_redirects=False) as answer:
                kind_of = answer.headers.get("Content-Type", "")
                if answer.status_code >= 300 or not kind_of.startswith("text/event-stream"):
                    raise Away(f"{answer.status_code} {answer.reason}, of type {kind_of[:40]}, and no events")
                yield "reset", {}
                for line in answer.iter_lines(chunk_size=1):
                    name, _, value = line.decode().partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        yield kind, json.loads(value)
                    elif line.startswith(b":"):
                        yield "", {}
        except (OSError, ValueError, RecursionError) as error:
            raise Away(self._discreet(error)) from None

    def _discreet(self, error: Exception) -> str:
        """What went wrong, without what we show to the controller: it is logged."""
        words = str(error)
        for secret in (self._options.token, self._options.password):
            words = words.replace(secret, "...") if secret else words
        return words


def encoded(body: dict[str, Any]) -> bytes:
    """An object of Neutron's as JSON: what is no JSON of itself (dates, addresses) as its text."""
    return json.dumps(body, default=str, separators=(",", ":")).encode()


def listed(found: Any, name: str, *needed: str) -> list[dict[str, Any]]:
    """What an answer lists, each with all these fields, the first of which is its name.

    Raises:
        Away: it is no such answer: it is not our controller that gave it.
    """
    rows = found.get(name) if isinstance(found, dict) else None
    if isinstance(rows, list) and all(
        isinstance(each, dict) and each.keys() >= set(needed) and isinstance(each[needed[0]], str) for each in rows
    ):
        return rows
    raise Away(f"an answer without {name} as a controller of Ebbtide lists them: is it one?")


def _words(answer: Any, found: Any) -> tuple[str, str]:
    """What an error is called, and says."""
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        return "", f"{answer.status_code} {answer.reason}"
    return str(error.get("tag", "")), str(error.get("message", ""))
