"""What every client verb has: where the controller is, who asks, and how the answer is wanted.

`--url`, `--lab`, `--cacert` and `--json` may stand before the verb or after it; the last one counts. What is not said is taken
from the environment. Secrets are taken from there only: a command line is readable by every user of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ebbtide.cli.client import Client

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "http://127.0.0.1:8181"
_COMPLETION_SECONDS = 1.0


class Session:
    """One call of the command line."""

    def __init__(self) -> None:
        self.url = os.environ.get("EBBTIDE_URL") or DEFAULT_URL
        self.lab = os.environ.get("EBBTIDE_LAB", "")
        self.cacert = os.environ.get("EBBTIDE_CACERT", "")
        self.json = False
        self.said: set[str] = set()  # on the command line
        self.client_made: Client | None = None

    @property
    def client(self) -> Client:
        """The way to the controller; nothing is connected before the first call."""
        if self.client_made is None:
            from ebbtide.cli.client import Client, credentials

            # What is said on the command line wins: a URL over the environment's lab, a lab over the environment's URL.
            lab = "" if "url" in self.said and "lab" not in self.said else self.lab
            url = DEFAULT_URL if lab and "url" not in self.said else self.url
            made = Client(url, lab=lab, cacert=self.cacert, authorization=credentials(os.environ))
            if made.readable:
                click.echo(f"ebbtide: warning: credentials go to {made.place} without encryption; use https", err=True)
            self.client_made = made
        return self.client_made


pass_session = click.make_pass_decorator(Session, ensure=True)


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value and param.name is not None:
        session = ctx.ensure_object(Session)
        setattr(session, param.name, value)
        session.said.add(param.name)


def connection_options(hidden: bool) -> Callable[[F], F]:
    """--url, --lab and --cacert."""

    def decorate(function: F) -> F:
        for name, metavar, text in (
            ("--cacert", "FILE", "Certificates that the controller's is checked against, for https [EBBTIDE_CACERT]."),
            ("--lab", "NAME|DIR", "Talk to the controller of this lab [EBBTIDE_LAB]."),
            ("--url", "URL", f"Where the controller is [EBBTIDE_URL; else {DEFAULT_URL}]."),
        ):
            option = click.option(
                name, metavar=metavar, help=text, hidden=hidden, expose_value=False, callback=_set, default=None
            )
            function = option(function)
        return function

    return decorate


def log_options(function: F) -> F:
    """--log-format and --log-level, of what runs on."""
    level = click.option("--log-level", default="info", metavar="TEXT", help="debug, info, warning or error.")
    text = "auto (text on a terminal, else JSON), json or text."
    return click.option("--log-format", default="auto", metavar="TEXT", help=text)(level(function))


def json_option(function: F) -> F:
    """--json."""
    text = "Print the answer as JSON."
    return click.option("--json", is_flag=True, help=text, expose_value=False, callback=_set)(function)


def client_verb(function: F) -> F:
    """The options of a verb that asks the controller; its first argument is the Session."""
    return json_option(connection_options(hidden=True)(pass_session(function)))  # type: ignore[return-value]


def wait_option(function: F) -> F:
    """--wait, for writes."""
    text = "Return when every compute concerned has confirmed the change."
    return click.option("--wait", is_flag=True, help=text)(function)


def waiting(wait: bool) -> dict[str, str]:
    """The query that --wait asks for."""
    return {"wait": "applied"} if wait else {}


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: what others stand for is the controller's to choose, or stays as it is."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in options.items() if v not in (None, ())}


def known(
    path: str, key: str, name: str, only: str = ""
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completion by what the controller knows, of those rows that have something under `only`; silent when it does not answer."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from ebbtide.errors import EbbtideError

        try:
            found = ctx.ensure_object(Session).client.get(path, timeout=_COMPLETION_SECONDS)
        except EbbtideError:
            return []
        names = [str(row.get(name, "")) for row in found.get(key, []) if not only or row.get(only)]
        return [CompletionItem(text) for text in names if text.startswith(incomplete)]

    return complete


known_computes = known("/computes", "computes", "name")
known_networks = known("/networks", "networks", "id")
known_ports = known("/ports", "ports", "id")
known_groups = known("/security-groups", "security-groups", "id")
known_externals = known("/externals", "externals", "id")
known_routers = known("/routers", "routers", "id")
known_vpns = known("/vpns", "vpns", "id")
known_moving = known("/routers", "routers", "id", "move")
known_floating_ips = known("/floating-ips", "floating-ips", "address")
known_operations = known("/operations", "operations", "id")
known_drains = known("/drains", "operations", "id")
