"""Where a cloud in a lab keeps its files, and how they are written. All are for their owner alone: they hold passwords."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from ...errors import NotReady
from ..lab import Lab

Settings = Mapping[str, Mapping[str, object]]
#: A file in the lab's directory that names servers, an id a line: their live migrations fail.
FAILING = "failing-migrations"


def environment() -> Path:
    """OpenStack's virtual environment: that of EBBTIDE_OPENSTACK_VENV, else .venv-openstack beside our own.

    Raises:
        NotReady: there is none.
    """
    given = os.environ.get("EBBTIDE_OPENSTACK_VENV", "")
    found = Path(given) if given else Path(sys.prefix).parent / ".venv-openstack"
    if not (found / "bin" / "nova-compute").exists():
        raise NotReady(f"{found} is no environment with OpenStack: `scripts/setup-openstack.sh cloud` makes it")
    return found


class Files:
    """The directory of one cloud."""

    def __init__(self, lab: Lab) -> None:
        self.directory = lab.site.run_directory / "cloud"
        self.etc = self.directory / "etc"

    def make(self) -> None:
        """The directory, for root alone."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self.etc.mkdir(exist_ok=True)

    def folder(self, *names: str) -> Path:
        """A folder, made if it is not there."""
        found = self.directory.joinpath(*names)
        found.mkdir(parents=True, exist_ok=True)
        return found

    @property
    def password(self) -> str:
        """The one password of all accounts of this lab's cloud: drawn when it is asked for first."""
        file = self.directory / "password"
        if not file.exists():
            self.write(file, secrets.token_urlsafe(24))
        return file.read_text()

    def write(self, file: Path, text: str) -> Path:
        """A file, for its owner alone."""
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(text)
        return file

    def settings(self, service: str, name: str, settings: Settings) -> Path:
        """A configuration file of a service, as oslo.config reads it."""
        lines = []
        for section, values in settings.items():
            lines += [f"[{section}]", *(f"{key} = {_text(value)}" for key, value in values.items()), ""]
        return self.write(self.etc / service / name, "\n".join(lines))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
