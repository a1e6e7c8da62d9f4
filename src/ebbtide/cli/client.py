"""One HTTP call to the controller: a path of /api/v1 in, the answer out, errors of `errors.py` with their exit codes.

Plain http.client: it costs 7 ms to import, and one call needs no more. The connection is made in a lab's namespace where a lab is
named. Nothing here prints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from ebbtide import __version__
from ebbtide.errors import BadInput, EbbtideError, Forbidden, NotFound, NotReady, Refused, StillWorking, TooLarge

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse
    from ssl import SSLContext

API = "/api/v1"
TIMEOUT = 60.0


class Answered(EbbtideError):
    """The controller answered with an error. `error` is its own account of it."""

    def __init__(self, message: str, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.error = dict(error)
        self.tag = str(error.get("tag", self.tag))
        self.verdicts: list[dict[str, Any]] = list(error.get("verdicts") or [])
        self.exit_code = _exit_code(status, self.tag, self.verdicts)


def _exit_code(status: int, tag: str, verdicts: list[dict[str, Any]]) -> int:
    """From 4xx and 5xx, the tag and the verdicts to the exit code that the error has in `errors.py`."""
    if tag == StillWorking.tag:
        return StillWorking.exit_code
    if any(v.get("answer") == "refused" for v in verdicts):
        # Ids that nobody knows, and nothing else: RESTCONF wants 400 for them.
        return NotFound.exit_code if status in (400, 404) else Refused.exit_code
    if tag == NotFound.tag:
        return NotFound.exit_code
    known: dict[int, type[EbbtideError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Refused, 413: TooLarge}
    if status in known:
        return known[status].exit_code
    if status in (502, 503, 504):
        return NotReady.exit_code
    return BadInput.exit_code if 400 <= status < 500 else EbbtideError.exit_code


def credentials(environment: Mapping[str, str]) -> str:
    """The Authorization header that the environment asks for, or "".

    Raises:
        BadInput: it can be no header.
    """
    # Out of a file there is often the end of a line after it.
    token = environment.get("EBBTIDE_TOKEN", "").strip()
    if token:
        if not (token.isascii() and token.isprintable()):
            raise BadInput("EBBTIDE_TOKEN has a character that is in no token; it is not shown here")
        return f"Bearer {token}"
    user = environment.get("EBBTIDE_USER")
    if not user:
        return ""
    from base64 import b64encode

    pair = f"{user}:{environment.get('EBBTIDE_PASSWORD', '')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _no_url(text: str) -> str:
    return f"{text!r} is no URL of a controller: it is http://ADDRESS:PORT or https://ADDRESS:PORT"


def segment(text: str) -> str:
    """An id as one segment of a path."""
    return quote(text, safe="")


class Client:
    """The REST interface at a URL, or in a lab. `readable`: others on the way can read the credentials."""

    def __init__(self, url: str, *, lab: str = "", cacert: str = "", authorization: str = "") -> None:
        if "@" in url:
            raise BadInput("a URL with a user in it is not taken: EBBTIDE_USER and EBBTIDE_PASSWORD say who you are")
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            self.host, self.port = parts.hostname or "", parts.port or {"http": 8181, "https": 443}[parts.scheme]
        except (ValueError, KeyError):
            raise BadInput(_no_url(url)) from None
        if not self.host or parts.query or parts.fragment:
            raise BadInput(_no_url(url))
        self.tls = parts.scheme == "https"
        if self.tls and lab:
            raise BadInput("the controller of a lab speaks http: leave --url away")
        self.prefix = parts.path.rstrip("/")
        self.lab = lab
        self.cacert = cacert
        self.readable = bool(authorization) and not self.tls and not lab and not _is_loopback(self.host)
        self.authorization = authorization
        self.place = f"{parts.scheme}://{parts.netloc}{self.prefix}" + (f" in lab {lab}" if lab else "")

    def check(self) -> None:
        """Whether the certificates that are trusted can be read, without asking anybody.

        Raises:
            BadInput: they cannot.
        """
        if self.tls:
            self._context()

    def get(self, path: str, query: Mapping[str, str] | None = None, *, timeout: float = TIMEOUT) -> dict[str, Any]:
        """GET of /api/v1 + `path`."""
        return self.call("GET", path, query=query, timeout=timeout)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any]:
        """A call with JSON in and out. An answer without content is {}.

        Raises:
            Answered: the controller refused, or could not.
            NotReady: nobody answers there.
        """
        content = None if body is None else json.dumps(body).encode()
        raw = self.exchange(method, API + path, content, query=query, timeout=timeout)
        if not raw:
            return {}
        try:
            found = json.loads(raw)
        except ValueError:
            raise NotReady(f"{self.place} answered something that is not JSON: is a controller there?") from None
        return found if isinstance(found, dict) else {"value": found}

    def exchange(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> bytes:
        """A call with bytes in and out, to a whole path."""
        connection = self._connection(timeout)
        try:
            response = self._ask(connection, method, path, content, kind, query)
            return self._whole(response)
        finally:
            connection.close()

    def lines(self, path: str) -> Iterator[str]:
        """The lines of an answer that does not end by itself."""
        connection = self._connection(None)
        try:
            response = self._ask(connection, "GET", API + path, None, "text/event-stream", None)
            if response.status >= 400:
                self._whole(response)
            while line := self._line(response):
                yield line.decode(errors="replace").rstrip("\r\n")
        finally:
            connection.close()

    def _line(self, response: HTTPResponse) -> bytes:
        from http.client import HTTPException

        try:
            return response.readline()
        except (OSError, HTTPException) as error:
            raise NotReady(f"{self.place} has gone: {error or type(error).__name__}") from None

    def _connection(self, timeout: float | None) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        if self.tls:
            return HTTPSConnection(self.host, self.port, timeout=timeout, context=self._context())
        connection = HTTPConnection(self.host, self.port, timeout=timeout)
        if self.lab:
            from ebbtide.cli.places import connect_in_lab

            # Handed over before the first request, so that http.client does not connect by itself.
            connection.sock = connect_in_lab(self.lab, self.host, self.port, timeout)
        return connection

    def _context(self) -> SSLContext:
        import ssl

        try:
            return ssl.create_default_context(cafile=self.cacert or None)
        except OSError as error:
            raise BadInput(f"--cacert {self.cacert}: {error}") from None

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        content: bytes | None,
        kind: str,
        query: Mapping[str, str] | None,
    ) -> HTTPResponse:
        from http.client import HTTPException

        headers = {"Accept": kind, "User-Agent": f"ebbtide/{__version__}"}
        if content is not None:
            headers["Content-Type"] = kind
        if self.authorization:
            headers["Authorization"] = self.authorization
        target = self.prefix + path + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, content, headers)
            return connection.getresponse()
        except TimeoutError:
            raise NotReady(f"{self.place} did not answer within {connection.timeout:g} s; try again") from None
        except ConnectionRefusedError:
            raise NotReady(f"no controller answers at {self.place}{_hint()}") from None
        except (OSError, HTTPException) as error:
            hint = "; name the certificate to trust with --cacert" if "certificate verify failed" in str(error) else ""
            raise NotReady(f"{self.place}: {error or type(error).__name__}{hint}") from None

    def _whole(self, response: HTTPResponse) -> bytes:
        from http.client import HTTPException

        try:
            raw = response.read()
        except TimeoutError:
            raise NotReady(f"{self.place} stopped in the middle of its answer; try again") from None
        except (OSError, HTTPException) as error:
            raise NotReady(f"{self.place}: {error or type(error).__name__}") from None
        if response.status < 400:
            return raw
        try:
            told = json.loads(raw)["error"]
            message = str(told["message"])
        except (ValueError, KeyError, TypeError):
            told, message = {}, f"{self.place} answered {response.status} {response.reason}"
        if response.status == 401:
            message += "; say who you are: EBBTIDE_TOKEN, or EBBTIDE_USER and EBBTIDE_PASSWORD"
        raise Answered(message, response.status, told)


def _hint() -> str:
    """What to do when nobody answers."""
    from ebbtide.cli.places import labs_there

    there = labs_there()
    if there:
        return f"; a lab is up, so perhaps `export EBBTIDE_LAB={there[0].name}`"
    return ": start one with `ebbtide controller`, or say where it is with --url or EBBTIDE_URL"
